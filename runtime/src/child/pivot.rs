//! The container's root becomes `/`, and the host's goes out of reach.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::MsFlags;
use rustix::fs::{CWD, OFlags};

use super::classic;
use super::root::Root;
use super::rootfs::{PreparedRoot, by_number, keeps_shared};
use crate::error::{Context, Result};
use crate::plan::mounts::{Entry, Rootfs};
use crate::sys;
use crate::sys::mutation::Defence;
use crate::sys::{file, mount};

/// Enters the root; the working directory is then `/`.
///
/// # Errors
/// Of the call that failed.
pub fn enter(prepared: PreparedRoot, rootfs: &Rootfs) -> Result<()> {
    let PreparedRoot { root } = prepared;
    match rootfs.entry {
        Entry::Pivot => pivot(&root, rootfs),
        Entry::Move => move_to_top(&root),
        Entry::Chroot => change_root(&root),
    }
    .context(|| format!("enter rootfs {:?}", rootfs.path))
}

/// pivot_root(".", "."): the old root ends up stacked on the new one, and is
/// detached there without a directory to put it.
fn pivot(root: &Root, rootfs: &Rootfs) -> Result<()> {
    let old = if keeps_shared(rootfs.propagation) {
        Some(file::open(
            Path::new("/"),
            OFlags::PATH | OFlags::DIRECTORY,
        )?)
    } else {
        None
    };
    file::change_directory(root.as_fd())?;
    mount::pivot_here()?;
    if let Some(old) = old {
        // Else the detachment below would travel to the host.
        file::change_directory(old.as_fd())?;
        let slave = MsFlags::MS_SLAVE | MsFlags::MS_REC;
        mount::mount(None, Path::new("."), None, slave, None)?;
    }
    mount::detach_here()?;
    Ok(sys::call(nix::unistd::chdir("/"), || {
        "chdir(\"/\")".to_owned()
    })?)
}

/// For hosts whose root is the initial ramdisk, which can't be pivoted: the
/// root is moved over the host's. That stays mounted below, so first every
/// procfs and sysfs goes that is not the container's: the kernel takes an
/// unmasked one as the permission to mount a fresh one (runtime.md D.2.3).
fn move_to_top(root: &Root) -> Result<()> {
    // As the kernel names it, in mountinfo too: config.json may have links in it.
    let ours = file::read_link(CWD, by_number(root.as_fd()).as_os_str())?;
    let mountinfo = sys::call(std::fs::read("/proc/self/mountinfo"), || {
        "read(\"/proc/self/mountinfo\")".to_owned()
    })?;
    for path in kernel_filesystems(&mountinfo) {
        if !path.starts_with(&ours) && !Defence::HiddenProcfs.is_out() {
            hide(&path)?;
        }
    }
    file::change_directory(root.as_fd())?;
    let here = Path::new(".");
    mount::mount(Some(here), Path::new("/"), None, MsFlags::MS_MOVE, None)?;
    Ok(file::change_root_here()?)
}

/// Detaches the mount at `path`, or covers it where that is forbidden.
fn hide(path: &Path) -> Result<()> {
    match mount::mount(None, path, None, MsFlags::MS_SLAVE | MsFlags::MS_REC, None) {
        // It went with the one it was mounted on.
        Err(error) if matches!(error.errno(), Errno::EINVAL | Errno::ENOENT) => return Ok(()),
        done => done?,
    }
    match mount::detach(path) {
        Err(error) if matches!(error.errno(), Errno::EINVAL | Errno::EPERM) => {}
        done => return Ok(done?),
    }
    // Not by a number in /proc, which may be what was covered before.
    let dir = file::open(path, OFlags::PATH)?;
    classic::named(dir.as_fd(), |path| {
        let tmpfs = Path::new("tmpfs");
        mount::mount(
            Some(tmpfs),
            path,
            Some("tmpfs"),
            MsFlags::MS_RDONLY,
            Some("size=0"),
        )
    })
}

/// chroot(2), without a mount namespace.
fn change_root(root: &Root) -> Result<()> {
    file::change_directory(root.as_fd())?;
    Ok(file::change_root_here()?)
}

/// The mount points of procfs and sysfs in a mountinfo (proc_pid_mountinfo(5)).
fn kernel_filesystems(mountinfo: &[u8]) -> Vec<PathBuf> {
    mountinfo
        .split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|&byte| byte == b' ');
            let path = fields.nth(4)?;
            let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
            matches!(kind, b"proc" | b"sysfs").then(|| unescape(path))
        })
        .collect()
}

/// Undoes `\040` and its like.
fn unescape(path: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match (first, octal) {
            (b'\\', Some(byte)) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_and_sysfs_are_found_in_mountinfo() {
        let mountinfo = b"22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw\n\
            23 27 0:22 / /sys rw - sysfs sysfs rw\n\
            27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            40 27 0:21 / /a\\040b/proc rw - proc proc rw\n";
        let expected = ["/proc", "/sys", "/a b/proc"].map(PathBuf::from);
        assert_eq!(kernel_filesystems(mountinfo), expected);
    }
}
