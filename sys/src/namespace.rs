//! Namespaces: joined, made, and told apart.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;

use super::{Result, call};

/// Moves this process into namespaces: those of the type `flags` that `fd`, a
/// namespace file or (Linux 5.8) a pidfd, stands for.
///
/// # Errors
/// `EINVAL` if `fd` is of another type, `EPERM` without the right.
pub fn setns(fd: BorrowedFd<'_>, flags: CloneFlags) -> Result<()> {
    call(nix::sched::setns(fd, flags), || {
        format!("setns([{}], {flags:?})", fd.as_raw_fd())
    })
}

/// Moves this process into new namespaces.
///
/// # Errors
/// `EPERM` without the right, `EINVAL` where the kernel lacks the type.
pub fn unshare(flags: CloneFlags) -> Result<()> {
    call(nix::sched::unshare(flags), || format!("unshare({flags:?})"))
}

/// The type of the namespace that `fd` stands for, a `CLONE_NEW...` flag
/// (ioctl_ns(2), Linux 4.11).
///
/// # Errors
/// `ENOTTY` if it is no namespace.
pub fn namespace_type(fd: BorrowedFd<'_>) -> Result<i32> {
    /// `_IO(0xb7, 0x3)`, linux/nsfs.h.
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: this ioctl takes no argument and returns an integer.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
    call(Errno::result(kind), || {
        format!("ioctl([{}], NS_GET_NSTYPE)", fd.as_raw_fd())
    })
}

/// Sets the NIS domain name of the uts namespace.
///
/// # Errors
/// `EINVAL` if it is longer than 64 bytes.
pub fn set_domain_name(name: &str) -> Result<()> {
    // SAFETY: the kernel copies `len` bytes from the pointer, which are
    // name's, before the call returns.
    let set = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    call(Errno::result(set).map(drop), || {
        format!("setdomainname({name:?})")
    })
}
