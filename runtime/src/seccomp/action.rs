//! Actions: what happens to a syscall.

use std::fmt;

use crate::error::{Error, Result};

/// What the kernel does with a syscall (seccomp(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// `SCMP_ACT_KILL_PROCESS`: the process dies of SIGSYS.
    KillProcess,
    /// `SCMP_ACT_KILL` and `SCMP_ACT_KILL_THREAD`: the thread dies.
    KillThread,
    /// `SCMP_ACT_TRAP`: the thread gets SIGSYS.
    Trap,
    /// `SCMP_ACT_ERRNO`: the syscall fails with this errno.
    Errno(u16),
    /// `SCMP_ACT_NOTIFY`: a supervisor decides.
    Notify,
    /// `SCMP_ACT_TRACE`: a tracer decides and is told this number; without a
    /// tracer the syscall fails with ENOSYS.
    Trace(u16),
    /// `SCMP_ACT_LOG`: the syscall is made and logged.
    Log,
    /// `SCMP_ACT_ALLOW`: the syscall is made.
    Allow,
}

/// The largest errno that the kernel returns (linux/err.h, `MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;

/// The errno of `SCMP_ACT_ERRNO` and the number of `SCMP_ACT_TRACE` where the
/// profile gives none.
const EPERM: u16 = 1;

impl Action {
    /// An action as written, with the errno that stands beside it. `path` is
    /// the JSON path of the action, `errno_path` that of the errno.
    pub(super) fn parse(
        name: &str,
        errno: Option<u32>,
        path: impl FnOnce() -> String,
        errno_path: impl FnOnce() -> String,
    ) -> Result<Self> {
        let action = match name {
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
            "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
            "SCMP_ACT_TRAP" => Action::Trap,
            "SCMP_ACT_ERRNO" => Action::Errno(EPERM),
            "SCMP_ACT_TRACE" => Action::Trace(EPERM),
            "SCMP_ACT_LOG" => Action::Log,
            "SCMP_ACT_ALLOW" => Action::Allow,
            "SCMP_ACT_NOTIFY" => Action::Notify,
            "" => return Err(Error::config(path(), "is missing")),
            _ => {
                return Err(Error::config(
                    path(),
                    format_args!("{name:?} is not an action"),
                ));
            }
        };
        let Some(errno) = errno else {
            return Ok(action);
        };
        let within = |max: u32| {
            u16::try_from(errno)
                .ok()
                .filter(|_| errno <= max)
                .ok_or(max)
        };
        let carried = match action {
            Action::Errno(_) => within(MAX_ERRNO).map(Action::Errno),
            Action::Trace(_) => within(u32::from(u16::MAX)).map(Action::Trace),
            _ => {
                let cause = format_args!("{name} carries no errno").to_string();
                return Err(Error::config(errno_path(), cause));
            }
        };
        carried.map_err(|max| {
            Error::config(
                errno_path(),
                format_args!("{errno} is not between 0 and {max}"),
            )
        })
    }

    /// The filter's return value (linux/seccomp.h, `SECCOMP_RET_*`).
    #[must_use]
    pub fn value(self) -> u32 {
        match self {
            Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Action::Trap => libc::SECCOMP_RET_TRAP,
            Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Action::Notify => libc::SECCOMP_RET_USER_NOTIF,
            Action::Trace(number) => libc::SECCOMP_RET_TRACE | u32::from(number),
            Action::Log => libc::SECCOMP_RET_LOG,
            Action::Allow => libc::SECCOMP_RET_ALLOW,
        }
    }

    /// Whether a syscall is made in spite of the action, so that a syscall
    /// newer than the profile needs no answer of ours. A tracer is expected to
    /// know new syscalls.
    pub(super) fn lets_through(self) -> bool {
        matches!(self, Action::Allow | Action::Log | Action::Trace(_))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::KillProcess => f.write_str("SCMP_ACT_KILL_PROCESS"),
            Action::KillThread => f.write_str("SCMP_ACT_KILL_THREAD"),
            Action::Trap => f.write_str("SCMP_ACT_TRAP"),
            Action::Errno(errno) => write!(f, "SCMP_ACT_ERRNO({errno})"),
            Action::Notify => f.write_str("SCMP_ACT_NOTIFY"),
            Action::Trace(number) => write!(f, "SCMP_ACT_TRACE({number})"),
            Action::Log => f.write_str("SCMP_ACT_LOG"),
            Action::Allow => f.write_str("SCMP_ACT_ALLOW"),
        }
    }
}
