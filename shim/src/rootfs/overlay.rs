//! Overlays: mount(2) as long as the options fit its page, and what is left
//! when they don't or when the layers have to be idmapped first.
//!
//! An image of 100 layers has a `lowerdir=` of more than a page. Since Linux
//! 6.7 each layer is a parameter of its own (`lowerdir+`). Before, they are
//! named relative to the folder that they have in common, as the working
//! directory; and if that is too long still, the layers are opened and named
//! by their descriptors, relative to /proc/self/fd: at most 4 bytes for each,
//! which fits the 500 layers that the kernel allows.
//!
//! Idmapped layers are copies of mounts, and overlayfs takes a layer only from
//! a mount that is attached somewhere (until Linux 6.15). They are stacked on
//! the target for as long as it takes, and the overlay, which keeps them, is
//! then put in their place.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::unistd::fchdir;
use rrun::error::{Context, Result};
use rrun_sys as sys;
use rrun_sys::mount::{self as kernel, FsContext};

use super::idmap::IdMap;
use super::options::{ATTRIBUTES, Options};
use super::undo;

/// How long the data of mount(2) may be: a page with its last byte zero, on
/// the smallest page there is.
const MOST: usize = 4095;

/// The option that names the layers.
const LOWER: &str = "lowerdir=";

/// Mounts an overlay on `target`.
pub(super) fn mount(source: &str, options: &Options, target: &Path) -> Result<()> {
    let overlay = Overlay {
        source,
        options,
        target,
    };
    if let Some(map) = &options.id_map {
        return overlay.of_idmapped_layers(map);
    }
    let data = options.data.join(",");
    // A list with escaped colons or with data-only layers (`::`) can't be taken
    // apart.
    let plain = |layer: &str| !layer.is_empty() && !layer.contains('\\');
    if data.len() <= MOST || !overlay.layers().all(plain) {
        return overlay.by_options(&data);
    }
    match overlay.by_parameters() {
        // Until Linux 6.7, or 5.2, or with an option of more than 255 bytes.
        Err(error) if matches!(error.errno(), Some(Errno::EINVAL | Errno::ENOSYS)) => {
            overlay.by_short_names()
        }
        mounted => mounted,
    }
}

struct Overlay<'a> {
    source: &'a str,
    options: &'a Options,
    target: &'a Path,
}

impl Overlay<'_> {
    fn by_options(&self, data: &str) -> Result<()> {
        let flags = self.options.flags;
        let source = Some(Path::new(self.source));
        let data = (!data.is_empty()).then_some(data);
        Ok(kernel::mount(
            source,
            self.target,
            Some("overlay"),
            flags,
            data,
        )?)
    }

    /// Each layer and option by fsconfig(2).
    fn by_parameters(&self) -> Result<()> {
        let filesystem = FsContext::open("overlay")?;
        filesystem.set("source", Some(self.source))?;
        for (flag, name) in SUPERBLOCK {
            if self.options.flags.contains(*flag) {
                filesystem.set(name, None)?;
            }
        }
        for word in self.options.data.iter().filter(|word| !is_lower(word)) {
            match word.split_once('=') {
                Some((key, value)) => filesystem.set(key, Some(value))?,
                None => filesystem.set(word, None)?,
            }
        }
        for layer in self.layers() {
            filesystem.set("lowerdir+", Some(layer))?;
        }
        filesystem.create()?;
        let overlay = filesystem.mount(attributes(self.options.flags))?;
        let target = sys::directory::open(self.target)?;
        Ok(kernel::attach(overlay.as_fd(), target.as_fd())?)
    }

    /// Names that are relative to a folder.
    fn by_short_names(&self) -> Result<()> {
        let layers: Vec<&str> = self.layers().collect();
        let (folder, names) = below_common_folder(&layers);
        let data = self.data(names);
        if data.len() <= MOST {
            return self.inside(Path::new(folder), &data);
        }
        let opened = layers.iter().map(|layer| {
            sys::directory::open(Path::new(layer)).context(|| "open a layer of the overlay")
        });
        self.of(&opened.collect::<Result<Vec<_>>>()?)
    }

    fn of_idmapped_layers(&self, map: &IdMap) -> Result<()> {
        let users = map.user_namespace()?;
        let mut layers = Vec::new();
        let stacked = self.layers().try_for_each(|layer| {
            let tree = map.apply(Path::new(layer), users.as_fd(), false)?;
            let target = sys::directory::open(self.target)?;
            kernel::attach(tree.as_fd(), target.as_fd())?;
            layers.push(tree);
            Ok(())
        });
        let mut stack = vec![self.target.to_owned(); layers.len()];
        if let Err(error) = stacked.and_then(|()| self.of(&layers)) {
            return Err(undo(&stack, error));
        }
        stack.push(self.target.to_owned());
        let overlay = sys::directory::open(self.target)
            .and_then(|top| kernel::clone_tree(top.as_fd(), Path::new(""), false));
        let overlay = match overlay {
            Ok(overlay) => overlay,
            Err(error) => return Err(undo(&stack, error.into())),
        };
        while let Some(place) = stack.pop() {
            if let Err(error) = kernel::detach(&place) {
                stack.push(place);
                return Err(undo(&stack, error.into()));
            }
        }
        let target = sys::directory::open(self.target)?;
        Ok(kernel::attach(overlay.as_fd(), target.as_fd())?)
    }

    /// Mounts with the opened `layers` as lower directories.
    fn of(&self, layers: &[OwnedFd]) -> Result<()> {
        let names = layers.iter().map(|layer| layer.as_raw_fd().to_string());
        self.inside(Path::new("/proc/self/fd"), &self.data(names))
    }

    /// Mounts with `folder` as the working directory, which the shim has no
    /// other use for.
    fn inside(&self, folder: &Path, data: &str) -> Result<()> {
        let here = sys::directory::open(Path::new("."))?;
        let folder = sys::directory::open(folder)?;
        change_directory(folder.as_fd())?;
        let mounted = self.by_options(data);
        change_directory(here.as_fd())?;
        mounted
    }

    /// The options, with these lower directories.
    fn data(&self, lower: impl IntoIterator<Item = impl AsRef<str>>) -> String {
        let mut data = LOWER.to_owned();
        for (index, name) in lower.into_iter().enumerate() {
            if index > 0 {
                data.push(':');
            }
            data.push_str(name.as_ref());
        }
        let others = self.options.data.iter().filter(|word| !is_lower(word));
        others.fold(data, |data, word| data + "," + word)
    }

    /// The lower directories, the topmost first.
    fn layers(&self) -> impl Iterator<Item = &str> {
        let all = self.options.data.iter();
        all.filter_map(|word| word.strip_prefix(LOWER))
            .flat_map(|list| list.split(':'))
    }
}

/// The folder that all of `layers` are in, with a slash at its end, and their
/// names below it.
fn below_common_folder<'a>(layers: &[&'a str]) -> (&'a str, Vec<&'a str>) {
    let first = layers.first().copied().unwrap_or_default();
    let mut end = layers.iter().fold(first.len(), |end, layer| {
        let pairs = first.bytes().zip(layer.bytes());
        end.min(pairs.take_while(|(a, b)| a == b).count())
    });
    // Back to a slash, which is no part of a character; of the name of a
    // layer something must be left.
    let folder = &first.as_bytes()[..end.min(first.len().saturating_sub(1))];
    end = folder
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |slash| slash + 1);
    let names = layers.iter().map(|layer| &layer[end..]).collect();
    (&first[..end], names)
}

fn is_lower(word: &str) -> bool {
    word.starts_with(LOWER)
}

fn change_directory(to: BorrowedFd<'_>) -> Result<()> {
    Ok(sys::call(fchdir(to), || {
        format!("fchdir([{}])", to.as_raw_fd())
    })?)
}

/// The flags that are the filesystem's, and their names for fsconfig(2).
const SUPERBLOCK: &[(MsFlags, &str)] = &[
    (MsFlags::MS_RDONLY, "ro"),
    (MsFlags::MS_SYNCHRONOUS, "sync"),
    (MsFlags::MS_DIRSYNC, "dirsync"),
    (MsFlags::MS_MANDLOCK, "mand"),
];

/// The flags of mount(2) as attributes of fsmount(2). The four bits from
/// `ro` to `noexec` are the same; the access time is a number of its own.
fn attributes(flags: MsFlags) -> u64 {
    const NOATIME: u64 = 0x10;
    const STRICTATIME: u64 = 0x20;
    const NODIRATIME: u64 = 0x80;
    let times = MsFlags::MS_NOATIME
        | MsFlags::MS_NODIRATIME
        | MsFlags::MS_RELATIME
        | MsFlags::MS_STRICTATIME;
    let mut attributes = (flags & ATTRIBUTES & !times).bits();
    if flags.contains(MsFlags::MS_STRICTATIME) {
        attributes |= STRICTATIME;
    } else if flags.contains(MsFlags::MS_NOATIME) {
        attributes |= NOATIME;
    }
    if flags.contains(MsFlags::MS_NODIRATIME) {
        attributes |= NODIRATIME;
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_a_folder_in_common() {
        for (layers, expected) in [
            (&["/s/12/fs", "/s/13/fs"][..], "/s/ 12/fs 13/fs"),
            (&["/s/1/fs", "/s/12/fs"], "/s/ 1/fs 12/fs"),
            (&["/s/a", "/t/b"], "/ s/a t/b"),
            (&["/s/a"], "/s/ a"),
            (&["/s/a", "/s/a"], "/s/ a a"),
            (&["/s/é", "/s/è"], "/s/ é è"),
            (&["/s/a", "/s/a/b"], "/s/ a a/b"),
        ] {
            let (folder, names) = below_common_folder(layers);
            assert_eq!(format!("{folder} {}", names.join(" ")), expected);
        }
    }
}
