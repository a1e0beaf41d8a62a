//! The shim's own lines, to the `log` FIFO of the bundle, which containerd
//! copies into its log.
//!
//! The FIFO is opened once and never blocks: for reading, too, so that a
//! containerd that is stopped ends nothing, and what finds no room is dropped.
//! The form is logrus's text, as of the Go shim.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::OnceLock;

use rrun::timestamp;

/// Where lines go; they are dropped before it is opened.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    file: File,
    debug: bool,
}

/// Opens the FIFO in `bundle`. It also becomes standard error, so that the last
/// words of a panic arrive. Without one, lines are dropped.
pub(crate) fn open(bundle: &Path, debug: bool) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(bundle.join("log"));
    if let Ok(file) = file {
        // Without it the last words are lost, no more.
        let _panics = rrun_sys::descriptors::duplicate_onto(file.as_fd(), 2);
        // It is opened once.
        let _again = LOG.set(Log { file, debug });
    }
}

/// Whether lines, and standard error, go to the FIFO.
pub(crate) fn is_open() -> bool {
    LOG.get().is_some()
}

/// Something failed.
pub(crate) fn error(text: impl Display) {
    write("error", text);
}

/// Something is not as it should be.
pub(crate) fn warn(text: impl Display) {
    write("warning", text);
}

/// Something of interest happened.
pub(crate) fn info(text: impl Display) {
    write("info", text);
}

/// Something happened; only with `-debug`.
pub(crate) fn debug(text: impl Display) {
    if LOG.get().is_some_and(|log| log.debug) {
        write("debug", text);
    }
}

fn write(level: &str, text: impl Display) {
    let Some(log) = LOG.get() else { return };
    for text in text.to_string().lines() {
        // No room, no line: the containers matter more.
        let _written = (&log.file).write_all(line(&timestamp::now(), level, text).as_bytes());
    }
}

fn line(time: &str, level: &str, text: &str) -> String {
    format!("time=\"{time}\" level={level} msg={text:?} runtime=io.containerd.rrun.v2\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_as_logrus_writes_it() {
        assert_eq!(
            line("2026-01-02T03:04:05Z", "warning", "a \"b\""),
            "time=\"2026-01-02T03:04:05Z\" level=warning msg=\"a \\\"b\\\"\" runtime=io.containerd.rrun.v2\n"
        );
    }
}
