//! Files by descriptor: looked up inside a root, made relative to a directory.
//!
//! A path in a container's root is an allegation: whoever wrote the image, or
//! runs in a container that shares a volume, may have put a symbolic link
//! anywhere. [`resolve`] keeps the look-up inside the root in the kernel
//! (openat2, Linux 5.6); what it opened is then used by descriptor.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use pathrs::flags::ResolverFlags;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};

use super::{Error, Result, call};

/// What a look-up does with symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Follow all of them, inside the root.
    Follow,
    /// Follow all but one at the end, which is itself opened.
    NotLast,
    /// A link anywhere is `ELOOP`.
    Refuse,
}

/// Opens `path` inside `root` (`O_PATH`): `..`, absolute names and links
/// don't lead out of it.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `ELOOP` also for a magic link of procfs.
pub fn resolve(root: BorrowedFd<'_>, path: &Path, links: Links) -> Result<OwnedFd> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match links {
        Links::Follow => {}
        Links::NotLast => flags |= OFlags::NOFOLLOW,
        Links::Refuse => how |= ResolveFlags::NO_SYMLINKS,
    }
    let describe = || format!("openat2([{}], {path:?}, O_PATH)", root.as_raw_fd());
    // A rename or mount elsewhere during a look-up of ".." is EAGAIN.
    for _ in 0..128 {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), how) {
            Err(rustix::io::Errno::AGAIN) => {}
            // Until Linux 5.6.
            Err(rustix::io::Errno::NOSYS) => return walk(root, path, links, describe),
            opened => return call(opened, describe),
        }
    }
    Err(Error::new(describe(), Errno::EAGAIN))
}

/// [`resolve`] one component at a time, as pathrs does it without openat2.
fn walk(
    root: BorrowedFd<'_>,
    path: &Path,
    links: Links,
    describe: impl FnOnce() -> String,
) -> Result<OwnedFd> {
    let mut root = pathrs::RootRef::from_fd(root);
    let resolved = match links {
        Links::Follow => root.resolve(path),
        Links::NotLast => root.resolve_nofollow(path),
        Links::Refuse => {
            root.set_resolver_flags(ResolverFlags::NO_SYMLINKS);
            root.resolve(path)
        }
    };
    resolved.map(OwnedFd::from).map_err(|error| {
        let errno = match error.kind() {
            pathrs::error::ErrorKind::OsError(Some(errno)) => Errno::from_raw(errno),
            _ => Errno::EXDEV,
        };
        Error::new(describe(), errno)
    })
}

/// Opens a path of the host, following links; `O_CLOEXEC` is added.
///
/// # Errors
/// Those of open(2).
pub fn open(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    call(
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()),
        || format!("open({path:?}, {})", words(flags)),
    )
}

/// Opens `name` in `dir`, not following a link at its end.
///
/// # Errors
/// `ELOOP` for a link (`O_PATH` opens the link itself).
pub fn open_at(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd> {
    call(
        rustix::fs::openat(
            dir,
            name,
            flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        ),
        || format!("openat([{}], {name:?}, {})", dir.as_raw_fd(), words(flags)),
    )
}

/// Makes an empty file, which must not exist yet, and opens it for writing.
///
/// # Errors
/// `EEXIST`, also for a dangling link.
pub fn create_file(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    call(
        rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode)),
        || format!("openat([{}], {name:?}, O_CREAT|O_EXCL)", dir.as_raw_fd()),
    )
}

/// Makes a directory.
///
/// # Errors
/// `EEXIST`, `EROFS`.
pub fn make_directory(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> Result<()> {
    call(
        rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode)),
        || format!("mkdirat([{}], {name:?}, {mode:#o})", dir.as_raw_fd()),
    )
}

/// Makes a device node or fifo, with exactly `mode` if the umask is 0.
///
/// # Errors
/// `EPERM` in a user namespace, `EEXIST`.
pub fn make_node(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    kind: FileType,
    mode: u32,
    device: u64,
) -> Result<()> {
    call(
        rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(mode), device),
        || {
            let (major, minor) = (libc::major(device), libc::minor(device));
            let dir = dir.as_raw_fd();
            format!("mknodat([{dir}], {name:?}, {kind:?}, {mode:#o}, {major}:{minor})")
        },
    )
}

/// Makes the symbolic link `name`, which says `target`.
///
/// # Errors
/// `EEXIST`, `EROFS`.
pub fn make_link(target: &Path, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    call(rustix::fs::symlinkat(target, dir, name), || {
        format!("symlinkat({target:?}, [{}], {name:?})", dir.as_raw_fd())
    })
}

/// Removes a file or link, not a directory.
///
/// # Errors
/// `ENOENT`, `EISDIR`.
pub fn remove(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    call(rustix::fs::unlinkat(dir, name, AtFlags::empty()), || {
        format!("unlinkat([{}], {name:?})", dir.as_raw_fd())
    })
}

/// What the symbolic link `name` says; an empty name is `dir` itself.
///
/// # Errors
/// `EINVAL` if it is no link.
pub fn read_link(dir: BorrowedFd<'_>, name: &OsStr) -> Result<PathBuf> {
    let target: CString = call(rustix::fs::readlinkat(dir, name, Vec::new()), || {
        format!("readlinkat([{}], {name:?})", dir.as_raw_fd())
    })?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(
        target.into_bytes(),
    )))
}

/// Sets the owner of `name`, not following a link.
///
/// # Errors
/// `EPERM`, `EINVAL` for an id that the user namespace doesn't map.
pub fn set_owner(dir: BorrowedFd<'_>, name: &OsStr, uid: u32, gid: u32) -> Result<()> {
    call(
        rustix::fs::chownat(
            dir,
            name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        ),
        || format!("fchownat([{}], {name:?}, {uid}, {gid})", dir.as_raw_fd()),
    )
}

/// Sets the permission bits of `name`, which is no link.
///
/// # Errors
/// `EPERM`.
pub fn set_mode(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> Result<()> {
    call(
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty()),
        || format!("fchmodat([{}], {name:?}, {mode:#o})", dir.as_raw_fd()),
    )
}

/// What kind of file `fd` is, its owner, device and inode.
///
/// # Errors
/// `EBADF`.
pub fn stat(fd: BorrowedFd<'_>) -> Result<Stat> {
    call(rustix::fs::fstat(fd), || {
        format!("fstat([{}])", fd.as_raw_fd())
    })
}

/// The same for `name` in `dir`, not following a link.
///
/// # Errors
/// `ENOENT`.
pub fn stat_at(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Stat> {
    call(
        rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW),
        || format!("fstatat([{}], {name:?})", dir.as_raw_fd()),
    )
}

/// A filesystem's type and the flags of the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filesystem {
    /// The magic number, such as `PROC_SUPER_MAGIC`.
    pub magic: i64,
    /// `ST_*` flags, which have the values of `MS_*` for what can be locked.
    pub flags: u64,
}

/// The filesystem that `fd` is on.
///
/// # Errors
/// `EBADF`.
pub fn filesystem(fd: BorrowedFd<'_>) -> Result<Filesystem> {
    let found = call(rustix::fs::fstatfs(fd), || {
        format!("fstatfs([{}])", fd.as_raw_fd())
    })?;
    Ok(Filesystem {
        magic: found.f_type,
        flags: found.f_flags.unsigned_abs(),
    })
}

/// The file mode creation mask: sets `mask`, returns the one before.
#[must_use]
pub fn set_umask(mask: u32) -> u32 {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask)).bits()
}

/// Makes `dir` the working directory.
///
/// # Errors
/// `EACCES`, `ENOTDIR`.
pub fn change_directory(dir: BorrowedFd<'_>) -> Result<()> {
    call(nix::unistd::fchdir(dir), || {
        format!("fchdir([{}])", dir.as_raw_fd())
    })
}

/// Makes the working directory the root directory, and `/` the working
/// directory.
///
/// # Errors
/// `EPERM`.
pub fn change_root_here() -> Result<()> {
    call(nix::unistd::chroot("."), || "chroot(\".\")".to_owned())?;
    call(nix::unistd::chdir("/"), || "chdir(\"/\")".to_owned())
}

/// `O_PATH|O_DIRECTORY`.
fn words(flags: OFlags) -> String {
    let names: Vec<String> = flags
        .iter_names()
        .map(|(name, _)| format!("O_{name}"))
        .collect();
    if names.is_empty() {
        "O_RDONLY".to_owned()
    } else {
        names.join("|")
    }
}
