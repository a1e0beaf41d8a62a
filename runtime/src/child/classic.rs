//! mount(2), for a kernel without the mount API (Linux before 5.2).
//!
//! It takes names where the mount API takes descriptors, so descriptors are
//! given names: `self/fd/N` below a procfs that was looked at. What was mounted
//! is found again by its path, which somebody may have changed meanwhile; so it
//! must be a mount that was not there before, and lie where it was put.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use rustix::fs::{OFlags, PROC_SUPER_MAGIC};

use super::rootfs::refused;
use crate::error::Result;
use crate::sys::{self, file};

/// The inode of a procfs' root directory.
pub(super) const PROC_ROOT_INODE: u64 = 1;

/// Binds `source`, with the mounts below it if `flags` has `MS_REC`, on
/// `target`. The working directory is `/` afterwards.
///
/// # Errors
/// No procfs; those of mount(2).
pub(super) fn bind(source: BorrowedFd<'_>, target: BorrowedFd<'_>, flags: MsFlags) -> Result<()> {
    let name = |fd: BorrowedFd<'_>| PathBuf::from(format!("self/fd/{}", fd.as_raw_fd()));
    let (from, to) = (name(source), name(target));
    at(procfs()?.as_fd(), || {
        sys::mount::mount(Some(&from), &to, None, MsFlags::MS_BIND | flags, None)
    })
}

/// Calls `act` with a path that names `fd`. A directory is named without
/// procfs, which a container need not have. The working directory is `/`
/// afterwards.
///
/// # Errors
/// No procfs; those of `act`.
pub(super) fn named(fd: BorrowedFd<'_>, act: impl FnOnce(&Path) -> sys::Result<()>) -> Result<()> {
    if is_directory(fd)? {
        return at(fd, || act(Path::new(".")));
    }
    let name = format!("self/fd/{}", fd.as_raw_fd());
    at(procfs()?.as_fd(), || act(Path::new(&name)))
}

/// [`bind`] of a file or directory on itself.
///
/// # Errors
/// As for [`bind`].
pub(super) fn bind_on_itself(fd: BorrowedFd<'_>) -> Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    named(fd, |path| {
        sys::mount::mount(Some(path), path, None, flags, None)
    })
}

fn is_directory(fd: BorrowedFd<'_>) -> sys::Result<bool> {
    use rustix::fs::FileType;
    Ok(FileType::from_raw_mode(file::stat(fd)?.st_mode) == FileType::Directory)
}

/// Calls `act` with `dir` as the working directory, then goes to `/`.
fn at(dir: BorrowedFd<'_>, act: impl FnOnce() -> sys::Result<()>) -> Result<()> {
    file::change_directory(dir)?;
    let done = act();
    sys::call(nix::unistd::chdir("/"), || "chdir(\"/\")".to_owned())?;
    Ok(done?)
}

/// The root of the procfs on /proc, which may be the container's by now.
fn procfs() -> Result<OwnedFd> {
    let path = Path::new("/proc");
    let dir = file::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
    let genuine = file::filesystem(dir.as_fd())?.magic == PROC_SUPER_MAGIC
        && file::stat(dir.as_fd())?.st_ino == PROC_ROOT_INODE;
    if !genuine {
        let text = "without move_mount (before Linux 5.2) this takes a procfs on \"/proc\"";
        return Err(refused(text));
    }
    Ok(dir)
}

/// The mounts of this namespace, before one more is made.
#[derive(Debug)]
pub(super) struct Before {
    /// None where no procfs tells.
    ids: Option<BTreeSet<u64>>,
}

impl Before {
    /// Looks at them.
    ///
    /// # Errors
    /// Those of reading /proc/self/mountinfo.
    pub(super) fn look() -> Result<Self> {
        if procfs().is_err() {
            return Ok(Self { ids: None });
        }
        let ids = mounts()?.into_iter().map(|(id, _)| id).collect();
        Ok(Self { ids: Some(ids) })
    }

    /// `found`, which is where something has been mounted on `target` since,
    /// after making sure that it is that mount. Without procfs it must be
    /// `target` once more, bound on itself.
    ///
    /// # Errors
    /// It is another.
    pub(super) fn check(&self, found: OwnedFd, target: BorrowedFd<'_>) -> Result<OwnedFd> {
        let same = match &self.ids {
            Some(before) => {
                let (id, parent) = (mount_of(found.as_fd())?, mount_of(target)?);
                !before.contains(&id) && mounts()?.contains(&(id, parent))
            }
            None => {
                let (one, other) = (file::stat(found.as_fd())?, file::stat(target)?);
                (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
            }
        };
        match same {
            true => Ok(found),
            false => Err(refused("its path leads somewhere else since it is mounted")),
        }
    }
}

/// Each mount with the one that it is mounted on, both by id
/// (proc_pid_mountinfo(5)).
fn mounts() -> Result<Vec<(u64, u64)>> {
    let path = "/proc/self/mountinfo";
    let text = sys::call(std::fs::read(path), || format!("read({path:?})"))?;
    Ok(ids(&text))
}

fn ids(mountinfo: &[u8]) -> Vec<(u64, u64)> {
    let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse().ok();
    mountinfo
        .split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|&byte| byte == b' ');
            Some((number(fields.next()?)?, number(fields.next()?)?))
        })
        .collect()
}

/// The id of the mount that `fd` is on (proc_pid_fdinfo(5)).
fn mount_of(fd: BorrowedFd<'_>) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = file::read_pseudo(Path::new(&path))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok())
        .ok_or_else(|| refused(format!("{path:?} has no mnt_id")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_parents() {
        let text = b"22 27 0:21 / /proc rw - proc proc rw\n\
            27 1 254:0 / /\xff rw,relatime - ext4 /dev/vda rw\n\nx y z\n";
        assert_eq!(ids(text), [(22, 27), (27, 1)]);
    }
}
