//! Signals: blocked and read by the runtime, reset for the container.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::{Error, Result, call};

/// Gives every signal its default disposition and empties the mask: what
/// execve would otherwise hand on to the container's program (signal(7);
/// Rust's start-up ignores SIGPIPE).
///
/// # Errors
/// None that sigprocmask gives for these arguments.
pub fn reset_all() -> Result<()> {
    // SIGKILL and SIGSTOP can't be changed, and glibc keeps 32 and 33 for
    // itself: the raw call reaches those too.
    for signal in 1..=64 {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            set_default(signal);
        }
    }
    unblock_all()
}

/// Empties the mask.
///
/// # Errors
/// None that sigprocmask gives for these arguments.
pub fn unblock_all() -> Result<()> {
    call(
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None),
        || "sigprocmask(SIG_SETMASK, {})".to_owned(),
    )
}

/// Gives one signal its default disposition.
pub fn set_default(signal: i32) {
    /// The kernel's struct sigaction of x86_64 and aarch64, all zero:
    /// `SIG_DFL`, no flags, an empty mask (rt_sigaction(2)).
    const DEFAULT: [u64; 4] = [0; 4];
    // SAFETY: the kernel reads 8 bytes of mask and the three words before it
    // from DEFAULT and, with a null pointer, writes nothing.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            DEFAULT.as_ptr(),
            std::ptr::null::<u64>(),
            size_of::<u64>(),
        );
    }
}

/// SIGPIPE ignored, as long as this lives: a write to a pipe that nobody reads
/// is then an error like any other.
#[derive(Debug)]
pub struct IgnoredPipe {
    before: [u64; 4],
}

impl IgnoredPipe {
    /// Ignores it.
    ///
    /// # Errors
    /// `EPERM` behind a filter that refuses rt_sigaction(2).
    pub fn new() -> Result<Self> {
        // The handler is the first word.
        let ignore = [libc::SIG_IGN as u64, 0, 0, 0];
        let before = exchange_action(libc::SIGPIPE, ignore)?;
        Ok(Self { before })
    }
}

impl Drop for IgnoredPipe {
    fn drop(&mut self) {
        // What was allowed before is allowed again.
        let _ = exchange_action(libc::SIGPIPE, self.before);
    }
}

/// Sets what a signal does and returns what it did: a struct sigaction of the
/// kernel, as in [`set_default`].
fn exchange_action(signal: i32, action: [u64; 4]) -> Result<[u64; 4]> {
    let mut before = [0; 4];
    // SAFETY: the kernel reads 8 bytes of mask and the three words before it
    // from `action`, and writes as much to `before`; both outlive the call.
    let set = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            action.as_ptr(),
            before.as_mut_ptr(),
            size_of::<u64>(),
        )
    };
    call(Errno::result(set).map(|_| before), || {
        format!("rt_sigaction({signal})")
    })
}

/// Sends a signal to one process, by its number; real-time ones too, for which
/// nix has no names.
///
/// # Errors
/// `ESRCH` if it has ended, `EPERM`; `EINVAL` for what is no single process.
pub fn send(pid: Pid, signal: i32) -> Result<()> {
    if pid.as_raw() <= 0 {
        return Err(Error::new(format!("kill({pid}, {signal})"), Errno::EINVAL));
    }
    // SAFETY: integers only.
    let sent = unsafe { libc::kill(pid.as_raw(), signal) };
    call(Errno::result(sent).map(drop), || {
        format!("kill({pid}, {signal})")
    })
}

/// All signals that can be blocked, blocked, and read from a descriptor
/// instead.
#[derive(Debug)]
pub struct Blocked {
    fd: SignalFd,
}

impl Blocked {
    /// Blocks every signal for this process.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn all() -> Result<Self> {
        // Faults stay unblocked, or the kernel kills us without a word.
        let mut set = SigSet::all();
        for fault in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGTRAP,
            Signal::SIGSYS,
        ] {
            set.remove(fault);
        }
        call(
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None),
            || "sigprocmask(SIG_SETMASK, all)".to_owned(),
        )?;
        let fd = call(
            SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK),
            || "signalfd(all)".to_owned(),
        )?;
        Ok(Self { fd })
    }

    /// The next signal's number, if one is there. The SIGPIPE of a write of
    /// our own is left out: blocked signals are kept even where they are
    /// ignored (signal(7)).
    ///
    /// # Errors
    /// Those of read(2).
    pub fn next(&self) -> Result<Option<i32>> {
        loop {
            match self.fd.read_signal() {
                Ok(Some(info)) if is_own_pipe(info.ssi_signo, info.ssi_pid) => {}
                Ok(info) => return Ok(info.and_then(|info| i32::try_from(info.ssi_signo).ok())),
                Err(Errno::EINTR) => return Ok(None),
                Err(errno) => return call(Err(errno), || "read(signalfd)".to_owned()),
            }
        }
    }
}

/// Whether the kernel raised SIGPIPE for this process's own write: it names the
/// process itself as the sender.
fn is_own_pipe(signal: u32, sender: u32) -> bool {
    signal == libc::SIGPIPE.cast_unsigned() && sender == std::process::id()
}

impl AsFd for Blocked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
