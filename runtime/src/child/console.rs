//! The process's terminal: made in the container, its master handed out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::channel::ChildEnd;
use crate::error::{Context, Result};
use crate::plan::process::Terminal;
use crate::sys::{self, descriptors, terminal};

/// Who gets the master of the terminal.
#[derive(Debug)]
pub enum Receiver<'a> {
    /// The socket of `--console-socket`: one message with the descriptor,
    /// whose bytes are the terminal's name.
    Socket(&'a OwnedFd),
    /// The parent, which runs in the foreground.
    Parent(&'a ChildEnd),
}

/// Makes a terminal from the container's own devpts, sends its master to
/// `receiver` and returns the side for the process.
///
/// # Errors
/// A container without `/dev/pts/ptmx`, a receiver that is gone.
pub fn make(wanted: Terminal, receiver: &Receiver<'_>) -> Result<OwnedFd> {
    let path = "/dev/pts/ptmx";
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let master = sys::call(open(path, flags, Mode::empty()), || {
        format!("open({path:?})")
    })
    .context(|| "make a terminal: the container needs a devpts on /dev/pts")?;
    // A file that only looks like a ptmx must not get our ioctls.
    terminal::check_master(master.as_fd()).context(|| format!("make a terminal: {path:?}"))?;
    let peer = terminal::open_peer(master.as_fd())?;
    if let Some(size) = wanted.size {
        terminal::set_size(master.as_fd(), size)?;
    }
    match receiver {
        Receiver::Socket(socket) => {
            let name = format!("/dev/pts/{}", terminal::number(master.as_fd())?);
            descriptors::send(socket.as_fd(), name.as_bytes(), &[master.as_fd()])
                .context(|| "send the terminal to the console socket")?;
        }
        Receiver::Parent(channel) => channel.terminal(master.as_fd())?,
    }
    Ok(peer)
}

/// Makes `peer` the controlling terminal and the three standard descriptors.
///
/// # Errors
/// `EPERM` if this process leads no session.
pub fn take(peer: BorrowedFd<'_>) -> Result<()> {
    terminal::make_controlling(peer).context(|| "take the controlling terminal")?;
    for number in 0..3 {
        descriptors::duplicate_onto(peer, number)?;
    }
    Ok(())
}
