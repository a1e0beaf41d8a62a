//! Files by descriptor: looked up inside a root, made relative to a directory.
//!
//! A path in a container's root is an allegation: whoever wrote the image, or
//! runs in a container that shares a volume, may have put a symbolic link
//! anywhere. [`resolve`] keeps the look-up inside the root in the kernel
//! (openat2, Linux 5.6); what it opened is then used by descriptor.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};

use super::mutation::Defence;
use super::{Error, Result, ToErrno, call};

/// A file without a place in any tree, for what is too short to be worth a
/// pipe; `name` is for people who look.
///
/// # Errors
/// Those of memfd_create(2).
pub fn in_memory(name: &str) -> Result<std::fs::File> {
    let fd = call(
        rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC),
        || format!("memfd_create({name:?})"),
    )?;
    Ok(fd.into())
}

/// [`read_pseudo_bytes`] of a file in which all is the kernel's own text: no name
/// of a process, of a cgroup or of a mount point, which are any bytes.
///
/// # Errors
/// Those of open and read; `EILSEQ` for what is not UTF-8.
pub fn read_pseudo(path: &Path) -> Result<String> {
    String::from_utf8(read_pseudo_bytes(path)?)
        .map_err(|_| Error::new(format!("read({path:?})"), Errno::EILSEQ))
}

/// Reads a file of procfs, sysfs or a cgroup: its size is not known before, and
/// most fit the buffer, so there is no question for the size and no growing.
///
/// # Errors
/// Those of open and read.
pub fn read_pseudo_bytes(path: &Path) -> Result<Vec<u8>> {
    let describe = || format!("read({path:?})");
    let file = call(
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()),
        describe,
    )?;
    let mut text = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        match call(rustix::io::read(&file, &mut buffer), describe)? {
            0 if Defence::NamesAsBytes.is_out() && std::str::from_utf8(&text).is_err() => {
                return Err(Error::new(describe(), Errno::EILSEQ));
            }
            0 => return Ok(text),
            length => text.extend_from_slice(&buffer[..length]),
        }
    }
}

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
    let mut path = path;
    if Defence::ResolveInRoot.is_out() {
        how &= ResolveFlags::NO_SYMLINKS;
        path = path.strip_prefix("/").unwrap_or(path);
        path = [path, Path::new(".")][usize::from(path == Path::new(""))];
    }
    // A rename or mount elsewhere during a look-up of ".." is EAGAIN.
    for _ in 0..128 {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), how) {
            Err(rustix::io::Errno::AGAIN) => {}
            // Until Linux 5.6.
            Err(rustix::io::Errno::NOSYS) => return call(walk(root, path, links), describe),
            opened if Defence::KeptDescriptor.is_out() => {
                return by_name(&call(opened, describe)?, flags);
            }
            opened => return call(opened, describe),
        }
    }
    Err(Error::new(describe(), Errno::EAGAIN))
}

/// The mistake of those that resolve a path to a name and use the name: what is
/// there a moment later.
fn by_name(found: &OwnedFd, flags: OFlags) -> Result<OwnedFd> {
    let name = format!("/proc/self/fd/{}", found.as_raw_fd());
    let name = read_link(rustix::fs::CWD, OsStr::new(&name))?;
    std::thread::sleep(std::time::Duration::from_micros(200));
    call(rustix::fs::open(&name, flags, Mode::empty()), || {
        format!("open({name:?})")
    })
}

/// How many links a look-up follows, as in the kernel (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// [`resolve`] one component at a time. Nothing is followed that was not
/// looked at by descriptor, `..` goes back to the directory that was come from
/// (never up by the kernel's leave), and an absolute link begins again at the
/// root; so no answer of procfs is needed, which the container may not have.
fn walk(root: BorrowedFd<'_>, path: &Path, links: Links) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut below: Vec<OwnedFd> = Vec::new();
    let mut rest = reversed(path);
    let mut followed = 0;
    while let Some(name) = rest.pop() {
        let here = below.last().map_or(root, AsFd::as_fd);
        if name == ".." {
            let _ = below.pop();
            continue;
        }
        let fd = rustix::fs::openat(here, &name, flags, Mode::empty()).map_err(|e| e.errno())?;
        let mode = rustix::fs::fstat(&fd).map_err(|e| e.errno())?.st_mode;
        if FileType::from_raw_mode(mode) != FileType::Symlink {
            below.push(fd);
            continue;
        }
        followed += 1;
        if links == Links::Refuse || followed > MAX_LINKS {
            return Err(Errno::ELOOP);
        }
        if links == Links::NotLast && rest.is_empty() {
            return Ok(fd);
        }
        let target = read_link(fd.as_fd(), OsStr::new("")).map_err(|e| e.errno())?;
        if target.is_absolute() {
            below.clear();
        }
        rest.extend(reversed(&target));
    }
    match below.pop() {
        Some(found) => Ok(found),
        None => root.try_clone_to_owned().map_err(|e| e.errno()),
    }
}

/// The names of a path, the first one last; without the root's slash.
fn reversed(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
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
    Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
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

/// Whether `fd` is the root of a mount (Linux 5.8).
///
/// # Errors
/// Those of statx(2); `EOPNOTSUPP` where the kernel doesn't tell.
pub fn is_mount_root(fd: BorrowedFd<'_>) -> Result<bool> {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
    let describe = || format!("statx([{}])", fd.as_raw_fd());
    let found = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::empty());
    let found = call(found, describe)?;
    if !found
        .stx_attributes_mask
        .contains(StatxAttributes::MOUNT_ROOT)
    {
        return Err(Error::new(describe(), Errno::EOPNOTSUPP));
    }
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_stays_inside_its_root_with_and_without_openat2() {
        let top = std::env::temp_dir().join(format!("rrun-file.{}", std::process::id()));
        let inside = top.join("root");
        std::fs::create_dir_all(inside.join("etc/deep")).unwrap();
        std::fs::write(inside.join("etc/file"), "").unwrap();
        std::fs::write(top.join("outside"), "").unwrap();
        for (link, target) in [
            ("absolute", "/etc"),
            ("relative", "etc/deep"),
            ("up", "../../../../../../../outside"),
            ("dangling", "gone"),
            ("loop", "loop"),
            ("chain", "absolute/../relative/.."),
        ] {
            std::os::unix::fs::symlink(target, inside.join(link)).unwrap();
        }
        let root = open(&inside, OFlags::PATH).unwrap();
        let found = |path: &str| Ok(inside.join(path));
        for (path, links, expected) in [
            ("/", Links::Follow, found("")),
            ("..", Links::Follow, found("")),
            ("etc/file", Links::Refuse, found("etc/file")),
            ("/etc/./deep/../file", Links::Refuse, found("etc/file")),
            ("../../etc", Links::Follow, found("etc")),
            ("absolute", Links::Follow, found("etc")),
            ("absolute/file", Links::NotLast, found("etc/file")),
            ("relative", Links::Follow, found("etc/deep")),
            ("chain", Links::Follow, found("etc")),
            ("chain", Links::NotLast, found("chain")),
            ("absolute", Links::Refuse, Err(Errno::ELOOP)),
            ("absolute/file", Links::Refuse, Err(Errno::ELOOP)),
            ("up", Links::Follow, Err(Errno::ENOENT)),
            ("dangling", Links::Follow, Err(Errno::ENOENT)),
            ("loop", Links::Follow, Err(Errno::ELOOP)),
            ("etc/file/x", Links::Follow, Err(Errno::ENOTDIR)),
            ("etc/nothing", Links::Refuse, Err(Errno::ENOENT)),
        ] {
            let inode = |fd: OwnedFd| stat(fd.as_fd()).unwrap().st_ino;
            let expected = expected
                .map(|path| rustix::fs::lstat(&path).unwrap().st_ino)
                .map_err(|errno: Errno| errno);
            let path = Path::new(path);
            let by_kernel = resolve(root.as_fd(), path, links).map(inode);
            assert_eq!(
                by_kernel.map_err(|e| e.errno()),
                expected,
                "{path:?} {links:?}"
            );
            let by_hand = walk(root.as_fd(), path, links).map(inode);
            assert_eq!(by_hand, expected, "{path:?} {links:?}, by hand");
        }
        std::fs::remove_dir_all(&top).unwrap();
    }
}
