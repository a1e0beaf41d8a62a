//! The gate of a created container: two FIFOs in its state directory.
//!
//! `start.fifo` carries the word to go from `start` to the waiting process,
//! and while it is there the container is `created`. `result.fifo` carries
//! back why the program could not be executed, or ends without a byte when
//! execve closes it. FIFOs, not a socket: behind its seccomp filter the
//! process has read(2) and write(2), and for a socket it would need accept(2).

use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::mkfifoat;

use crate::child::Gate;
use crate::error::Result;
use crate::state::{Container, Locked, START_FIFO};
use crate::sys;

const RESULT_FIFO: &str = "result.fifo";

/// Makes the gate of a container that is being made.
///
/// # Errors
/// Those of mkfifoat(2) and openat(2).
pub fn make(container: &Locked) -> Result<Gate> {
    for name in [START_FIFO, RESULT_FIFO] {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        sys::call(mkfifoat(container.dir(), name, mode), || {
            format!("mkfifoat([{}], {name:?})", container.dir().as_raw_fd())
        })?;
    }
    // For both directions: so neither open waits, nor does a FIFO read as
    // ended while the process has it.
    Ok(Gate::new(
        open(container, START_FIFO, OFlag::O_RDWR)?,
        open(container, RESULT_FIFO, OFlag::O_RDWR)?,
    ))
}

/// The gate from outside: where to write the word, and where the answer comes
/// from, which reads as empty (`EAGAIN`) until there is one.
///
/// # Errors
/// `ENXIO` if nobody waits at the gate.
pub fn approach(container: &Container) -> Result<(OwnedFd, OwnedFd)> {
    let result = open(container, RESULT_FIFO, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
    Ok((
        open(container, START_FIFO, OFlag::O_WRONLY | OFlag::O_NONBLOCK)?,
        result,
    ))
}

/// Removes the gate: the container is no longer `created`.
///
/// # Errors
/// Those of unlinkat(2).
pub fn close(container: &Locked) -> Result<()> {
    container.remove_file(START_FIFO)?;
    container.remove_file(RESULT_FIFO)
}

fn open(container: &Container, name: &str, flags: OFlag) -> Result<OwnedFd> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    Ok(sys::call(
        openat(container.dir(), name, flags, Mode::empty()),
        || format!("openat([{}], {name:?})", container.dir().as_raw_fd()),
    )?)
}
