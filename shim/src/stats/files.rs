//! The files of a cgroup directory and their formats: a number, keys with
//! numbers, lines of a device, pressure.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rrun_sys::directory;

/// Reads files of one directory after the other into one buffer. What is not
/// there is told from what is empty, but is no failure: which files there are
/// depends on the kernel, and the cgroup may go at any time.
#[derive(Debug, Default)]
pub(super) struct Files {
    directory: Option<OwnedFd>,
    text: String,
}

impl Files {
    /// Goes to a directory. Without one nothing is there.
    pub(super) fn enter(&mut self, path: Option<&Path>) {
        self.directory = path.and_then(|path| directory::open(path).ok());
    }

    /// The text of a file.
    pub(super) fn text(&mut self, name: &str) -> Option<&str> {
        let mut file: File = directory::read_file(self.directory.as_ref()?.as_fd(), name).ok()?;
        self.text.clear();
        file.read_to_string(&mut self.text).ok()?;
        Some(self.text.trim_end())
    }

    /// The number in a file, where `max` is the largest there is.
    pub(super) fn number(&mut self, name: &str) -> Option<u64> {
        self.text(name).map(number)
    }

    /// Calls `each` with every key and number.
    pub(super) fn table(&mut self, name: &str, mut each: impl FnMut(&str, u64)) {
        for line in self.text(name).unwrap_or_default().lines() {
            if let Some((key, value)) = line.split_once(' ') {
                each(key, number(value));
            }
        }
    }
}

/// A number as the kernel prints it; `max` is the largest, and what is none is
/// zero.
pub(super) fn number(text: &str) -> u64 {
    match text.trim() {
        "max" => u64::MAX,
        text => text.parse().unwrap_or(0),
    }
}

/// The major and minor number at the beginning of a line: `8:0 `.
pub(super) fn device(line: &str) -> Option<(u64, u64, &str)> {
    let (device, rest) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?, rest))
}

/// A line of rdma.current or rdma.max: `mlx4_0 hca_handle=2 hca_object=max`.
pub(super) fn rdma(line: &str) -> Option<(&str, u32, u32)> {
    let (device, limits) = line.split_once(' ')?;
    let of = |name: &str| {
        let all = limits.split(' ').filter_map(|limit| limit.split_once('='));
        let value = all.into_iter().find(|(key, _)| *key == name);
        // A limit that is none: the largest number of the field.
        value.map_or(0, |(_, value)| {
            u32::try_from(number(value)).unwrap_or(u32::MAX)
        })
    };
    Some((device, of("hca_handle"), of("hca_object")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read() {
        for (text, expected) in [
            ("0\n", 0),
            (" 42", 42),
            ("max\n", u64::MAX),
            ("18446744073709551615", u64::MAX),
            ("-1", 0),
            ("", 0),
        ] {
            assert_eq!(number(text), expected, "{text:?}");
        }
    }

    #[test]
    fn lines_of_devices_are_read() {
        for (line, expected) in [
            ("8:0 Read 4096", Some((8, 0, "Read 4096"))),
            ("253:17 rbytes=1", Some((253, 17, "rbytes=1"))),
            // io.stat of a device without counters.
            ("8:0 ", Some((8, 0, ""))),
            ("8:0", None),
            ("Total 4096", None),
            ("", None),
        ] {
            assert_eq!(device(line), expected, "{line:?}");
        }
    }

    #[test]
    fn lines_of_rdma_are_read() {
        for (line, expected) in [
            (
                "mlx4_0 hca_handle=2 hca_object=2000",
                Some(("mlx4_0", 2, 2000)),
            ),
            (
                "ocrdma1 hca_handle=3 hca_object=max",
                Some(("ocrdma1", 3, u32::MAX)),
            ),
            ("mlx4_0 hca_object=1", Some(("mlx4_0", 0, 1))),
            ("mlx4_0", None),
        ] {
            assert_eq!(rdma(line), expected, "{line:?}");
        }
    }
}
