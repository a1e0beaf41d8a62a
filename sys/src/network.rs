//! Network devices, as far as a new namespace needs them.

use std::ffi::CStr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{Result, call};

/// Sets `IFF_UP` on the network device `name` (netdevice(7)).
///
/// # Errors
/// `ENODEV`, `EPERM`.
pub fn bring_up(name: &CStr) -> Result<()> {
    let socket = call(
        socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        ),
        || "socket(AF_INET, SOCK_DGRAM)".to_owned(),
    )?;
    // SAFETY: ifreq is integers and a union of integers; all zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays the nul.
    let room = request.ifr_name.len() - 1;
    for (slot, byte) in request.ifr_name[..room].iter_mut().zip(name.to_bytes()) {
        *slot = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = UP;
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    call(Errno::result(done).map(drop), || {
        format!("ioctl(SIOCSIFFLAGS, {name:?}, IFF_UP)")
    })
}

/// `IFF_UP` and `IFF_RUNNING` fit the field's 16 bits (linux/if.h).
const UP: libc::c_short = 0x1 | 0x40;
