//! `tmpcopyup`: a tmpfs begins with what the directory below it holds.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::copy as copy_bytes;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, OFlags, Stat};

use super::rootfs::refused;
use crate::error::{Context, Result};
use crate::sys::file;

/// Copies the tree below `from` into the directory `to`: files, directories,
/// links and nodes, with owner and mode; `to` gets the owner of `from`. `procfs`
/// is where descriptors have names.
///
/// # Errors
/// Of the file that failed.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, procfs: &Path) -> Result<()> {
    for name in names(from)? {
        let stat = file::stat_at(from, &name)?;
        entry(from, to, &name, &stat, procfs).context(|| format!("copy {name:?}"))?;
    }
    let stat = file::stat(from)?;
    Ok(file::set_owner(
        to,
        OsStr::new("."),
        stat.st_uid,
        stat.st_gid,
    )?)
}

fn entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &OsStr,
    stat: &Stat,
    procfs: &Path,
) -> Result<()> {
    let mode = stat.st_mode & 0o7777;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            file::make_directory(to, name, 0o700)?;
            let (source, made) = (
                file::open_at(from, name, OFlags::PATH | OFlags::DIRECTORY)?,
                file::open_at(to, name, OFlags::PATH | OFlags::DIRECTORY)?,
            );
            copy(source.as_fd(), made.as_fd(), procfs)?;
        }
        FileType::RegularFile => {
            let mut source = File::from(open_file(from, name, procfs)?);
            let mut made = File::from(file::create_file(to, name, 0o600)?);
            crate::sys::call(copy_bytes(&mut source, &mut made), || "copy".to_owned())?;
        }
        FileType::Symlink => {
            file::make_link(&file::read_link(from, name)?, to, name)?;
            return Ok(file::set_owner(to, name, stat.st_uid, stat.st_gid)?);
        }
        kind => file::make_node(to, name, kind, mode, stat.st_rdev)?,
    }
    file::set_owner(to, name, stat.st_uid, stat.st_gid)?;
    Ok(file::set_mode(to, name, mode)?)
}

/// Opens a regular file for reading. The container's program may put a device
/// in its place at any moment, which we would be allowed to read; so what is
/// there is held and looked at, and only then opened.
fn open_file(dir: BorrowedFd<'_>, name: &OsStr, procfs: &Path) -> Result<OwnedFd> {
    let held = file::open_at(dir, name, OFlags::PATH)?;
    match FileType::from_raw_mode(file::stat(held.as_fd())?.st_mode) {
        FileType::RegularFile => {
            let by_number = procfs.join(format!("self/fd/{}", held.as_raw_fd()));
            Ok(file::open(&by_number, OFlags::RDONLY)?)
        }
        _ => Err(refused("is no regular file any more")),
    }
}

/// The names in a directory.
fn names(dir: BorrowedFd<'_>) -> Result<Vec<OsString>> {
    let readable: OwnedFd = file::open_at(dir, OsStr::new("."), OFlags::DIRECTORY)?;
    let describe = || "getdents".to_owned();
    let entries = crate::sys::call(rustix::fs::Dir::new(readable), describe)?;
    let mut names = Vec::new();
    for one in entries {
        let one = crate::sys::call(one, describe)?;
        let name = OsStr::from_bytes(one.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
