//! Directories by descriptor: opened, listed, locked, and their entries made,
//! replaced and removed. Names are single components under our own control;
//! paths inside a root filesystem go through `pathrs` instead.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{Result, call};

/// Opens the directory at `path`.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `EACCES`.
pub fn open(path: &Path) -> Result<OwnedFd> {
    call(nix::fcntl::open(path, DIRECTORY, Mode::empty()), || {
        format!("open({path:?}, O_DIRECTORY)")
    })
}

/// Opens the directory `name` in `dir`; a symlink is refused.
///
/// # Errors
/// As for [`open`]; `ELOOP` or `ENOTDIR` for a symlink.
pub fn open_in(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let flags = DIRECTORY | OFlag::O_NOFOLLOW;
    call(openat(dir, name, flags, Mode::empty()), || {
        format!("openat([{}], {name:?}, O_DIRECTORY)", dir.as_raw_fd())
    })
}

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// Makes the directory `name` in `dir`, with `mode` whatever the umask.
///
/// # Errors
/// `EEXIST`.
pub fn make(dir: BorrowedFd<'_>, name: &str, mode: u32) -> Result<()> {
    let mode = Mode::from_bits_truncate(mode);
    call(mkdirat(dir, name, mode), || {
        format!("mkdirat([{}], {name:?}, {mode:?})", dir.as_raw_fd())
    })?;
    // By name, since the umask may have taken our own right to open it.
    call(
        fchmodat(dir, name, mode, FchmodatFlags::FollowSymlink),
        || format!("fchmodat([{}], {name:?}, {mode:?})", dir.as_raw_fd()),
    )
}

/// Opens the file `name` in `dir` for reading.
///
/// # Errors
/// `ENOENT`; `ELOOP` for a symlink.
pub fn read_file(dir: BorrowedFd<'_>, name: &str) -> Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let fd = call(openat(dir, name, flags, Mode::empty()), || {
        format!("openat([{}], {name:?})", dir.as_raw_fd())
    })?;
    Ok(File::from(fd))
}

/// Makes the file `name` in `dir`, empty and for writing.
///
/// # Errors
/// `EEXIST` if it is there, also as a symlink.
pub fn new_file(dir: BorrowedFd<'_>, name: &str, mode: u32) -> Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(mode);
    let fd = call(openat(dir, name, flags, mode), || {
        format!("openat([{}], {name:?}, O_CREAT|O_EXCL)", dir.as_raw_fd())
    })?;
    Ok(File::from(fd))
}

/// Renames `from` to `to` in `dir`; what `to` was before is gone.
///
/// # Errors
/// Those of renameat(2).
pub fn rename(dir: BorrowedFd<'_>, from: &str, to: &str) -> Result<()> {
    call(renameat(dir, from, dir, to), || {
        let dir = dir.as_raw_fd();
        format!("renameat([{dir}], {from:?}, [{dir}], {to:?})")
    })
}

/// What to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Anything but a directory.
    File,
    /// An empty directory.
    Directory,
}

/// Removes the entry `name` of `dir`.
///
/// # Errors
/// `ENOENT`, `ENOTEMPTY`.
pub fn remove(dir: BorrowedFd<'_>, name: &std::ffi::OsStr, what: Entry) -> Result<()> {
    let (flags, flag) = match what {
        Entry::File => (UnlinkatFlags::NoRemoveDir, "0"),
        Entry::Directory => (UnlinkatFlags::RemoveDir, "AT_REMOVEDIR"),
    };
    call(unlinkat(dir, name, flags), || {
        format!("unlinkat([{}], {name:?}, {flag})", dir.as_raw_fd())
    })
}

/// The entries of `dir` but `.` and `..`, with whether each is a directory
/// where the filesystem says so.
///
/// # Errors
/// Those of getdents(2).
pub fn entries(dir: BorrowedFd<'_>) -> Result<Vec<(OsString, bool)>> {
    use nix::dir::{Dir, Type};
    let describe = || format!("readdir([{}])", dir.as_raw_fd());
    let mut listing = call(Dir::openat(dir, ".", DIRECTORY, Mode::empty()), describe)?;
    let mut entries = Vec::new();
    for entry in listing.iter() {
        let entry = call(entry, describe)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let is_directory = entry.file_type() == Some(Type::Directory);
            entries.push((OsString::from_vec(name.to_vec()), is_directory));
        }
    }
    Ok(entries)
}

/// Whether `dir` has an entry `name`.
///
/// # Errors
/// Those of fstatat(2) but `ENOENT`.
pub fn has(dir: BorrowedFd<'_>, name: &str) -> Result<bool> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => call(Err(errno), || {
            format!("fstatat([{}], {name:?})", dir.as_raw_fd())
        }),
    }
}

/// Whether the entry `name` of `dir` is still what `opened` is open on.
///
/// # Errors
/// Those of fstat(2) and fstatat(2) but `ENOENT`.
pub fn is_entry(dir: BorrowedFd<'_>, name: &str, opened: BorrowedFd<'_>) -> Result<bool> {
    let stat = call(fstat(opened), || format!("fstat([{}])", opened.as_raw_fd()))?;
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(entry) => Ok((entry.st_dev, entry.st_ino) == (stat.st_dev, stat.st_ino)),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => call(Err(errno), || {
            format!("fstatat([{}], {name:?})", dir.as_raw_fd())
        }),
    }
}

/// Sets the mode of `dir`.
///
/// # Errors
/// `EROFS`, `EPERM`.
pub fn set_mode(dir: BorrowedFd<'_>, mode: u32) -> Result<()> {
    let mode = Mode::from_bits_truncate(mode);
    call(fchmod(dir, mode), || {
        format!("fchmod([{}], {mode:?})", dir.as_raw_fd())
    })
}

/// The permission bits of `dir`, the sticky one included.
///
/// # Errors
/// None that fstat(2) gives for an open descriptor.
pub fn mode(dir: BorrowedFd<'_>) -> Result<u32> {
    let stat = call(fstat(dir), || format!("fstat([{}])", dir.as_raw_fd()))?;
    Ok(stat.st_mode & 0o7777)
}

/// The exclusive lock of an open file or directory (flock(2)). It belongs to
/// the open file description: it ends with the last copy of the descriptor,
/// so a child that lives on must close its copy.
#[derive(Debug)]
pub struct Lock {
    flock: nix::fcntl::Flock<OwnedFd>,
}

/// How a lock is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Wait for as long as it takes.
    Wait,
    /// `EWOULDBLOCK` if another holds it.
    Try,
}

impl Lock {
    /// Locks what `fd` is open on; on failure `fd` comes back.
    ///
    /// # Errors
    /// `EWOULDBLOCK` where asked for.
    pub fn take(mut fd: OwnedFd, patience: Patience) -> Result<Self, (OwnedFd, super::Error)> {
        use nix::fcntl::{Flock, FlockArg};
        let (arg, name) = match patience {
            Patience::Wait => (FlockArg::LockExclusive, "LOCK_EX"),
            Patience::Try => (FlockArg::LockExclusiveNonblock, "LOCK_EX|LOCK_NB"),
        };
        loop {
            match Flock::lock(fd, arg) {
                Ok(flock) => return Ok(Self { flock }),
                Err((back, Errno::EINTR)) => fd = back,
                Err((back, errno)) => {
                    let text = format!("flock([{}], {name})", back.as_raw_fd());
                    return Err((back, super::Error::new(text, errno)));
                }
            }
        }
    }

    /// Gives the lock back and keeps the descriptor.
    ///
    /// # Errors
    /// None that flock(2) gives for an open descriptor.
    pub fn release(self) -> Result<OwnedFd> {
        self.flock.unlock().map_err(|(flock, errno)| {
            super::Error::new(format!("flock([{}], LOCK_UN)", flock.as_raw_fd()), errno)
        })
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.flock.as_fd()
    }
}
