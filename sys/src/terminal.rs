//! Pseudo-terminals: made, sized, made raw, made controlling.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::{Error, Result, call};

/// Rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Rows, in characters.
    pub rows: u16,
    /// Columns, in characters.
    pub columns: u16,
}

/// Opens the other side of the pseudo-terminal `master` by ioctl, never by a
/// path that the container could have replaced (`TIOCGPTPEER`, Linux 4.13;
/// CVE-2025-52565).
///
/// # Errors
/// Those of the two ioctls.
pub fn open_peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    call(Errno::result(done), || {
        format!("ioctl([{}], TIOCSPTLCK)", master.as_raw_fd())
    })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and returns a descriptor.
    let peer = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    let peer = call(Errno::result(peer), || {
        format!("ioctl([{}], TIOCGPTPEER)", master.as_raw_fd())
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(peer) })
}

/// The number N of `/dev/pts/N`.
///
/// # Errors
/// `ENOTTY` if `master` is no pseudo-terminal.
pub fn number(master: BorrowedFd<'_>) -> Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) };
    call(Errno::result(done), || {
        format!("ioctl([{}], TIOCGPTN)", master.as_raw_fd())
    })?;
    Ok(number)
}

/// The size of a terminal.
///
/// # Errors
/// `ENOTTY` if it is none.
pub fn size(terminal: BorrowedFd<'_>) -> Result<Size> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one winsize.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    call(Errno::result(done), || {
        format!("ioctl([{}], TIOCGWINSZ)", terminal.as_raw_fd())
    })?;
    Ok(Size {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// Sets the size of a terminal; its foreground group gets SIGWINCH.
///
/// # Errors
/// `ENOTTY` if it is none.
pub fn set_size(terminal: BorrowedFd<'_>, size: Size) -> Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    call(Errno::result(done).map(drop), || {
        format!("ioctl([{}], TIOCSWINSZ)", terminal.as_raw_fd())
    })
}

/// Hangs up the pseudo-terminal `master`: its session gets SIGHUP, its other
/// side ends. What was written to it before can still be read from the master.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn hang_up(master: BorrowedFd<'_>) -> Result<()> {
    /// From asm-generic/ioctls.h; libc lacks it.
    const TIOCVHANGUP: libc::Ioctl = 0x5437;
    let peer = open_peer(master)?;
    // SAFETY: TIOCVHANGUP takes no argument.
    let done = unsafe { libc::ioctl(peer.as_raw_fd(), TIOCVHANGUP, 0) };
    call(Errno::result(done).map(drop), || {
        format!("ioctl([{}], TIOCVHANGUP)", peer.as_raw_fd())
    })
}

/// Makes `terminal` the controlling terminal of this session, which must have
/// none.
///
/// # Errors
/// `EPERM` if this process leads no session or has one already.
pub fn make_controlling(terminal: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) };
    call(Errno::result(done).map(drop), || {
        format!("ioctl([{}], TIOCSCTTY)", terminal.as_raw_fd())
    })
}

/// A terminal in raw mode; its former mode comes back on drop.
#[derive(Debug)]
pub struct Raw {
    terminal: BorrowedFd<'static>,
    before: Termios,
}

impl Raw {
    /// Makes `terminal` raw: bytes pass as they are, keys raise no signals.
    ///
    /// # Errors
    /// `ENOTTY` if it is none.
    pub fn new(terminal: BorrowedFd<'static>) -> Result<Self> {
        let describe = || format!("tcgetattr([{}])", terminal.as_raw_fd());
        let before = call(tcgetattr(terminal), describe)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        call(tcsetattr(terminal, SetArg::TCSANOW, &raw), || {
            format!("tcsetattr([{}], raw)", terminal.as_raw_fd())
        })?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _ = tcsetattr(self.terminal, SetArg::TCSANOW, &self.before);
    }
}

/// A new pseudo-terminal from the `ptmx` opened at `master`, which must be the
/// container's own.
///
/// # Errors
/// `EINVAL` if it is no ptmx of a devpts.
pub fn check_master(master: BorrowedFd<'_>) -> Result<()> {
    let filesystem = call(nix::sys::statfs::fstatfs(master), || {
        format!("fstatfs([{}])", master.as_raw_fd())
    })?;
    if filesystem.filesystem_type() == nix::sys::statfs::FsType(0x1cd1) {
        return Ok(());
    }
    Err(Error::new(
        format!("fstatfs([{}]): no devpts", master.as_raw_fd()),
        Errno::EINVAL,
    ))
}
