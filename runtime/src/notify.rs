//! Readiness, passed on from the container to systemd (sd_notify(3)).
//!
//! A service manager that started us with `NOTIFY_SOCKET` waits for a
//! `READY=1` of its service, which is the program in the container. That gets
//! a socket of its own, in a directory of the state that is mounted at
//! `/run/notify`; what it says there is told to the manager, with the pid to
//! watch, by whoever runs the program: `run`, or `start`.
//!
//! Only readiness passes. A container is a stranger to the host's manager, to
//! which other messages could name processes or hand descriptors.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::error::{Context, Result};
use crate::sys::handle::Handle;
use crate::sys::process::{self, Interest};
use crate::sys::{self, descriptors};

/// The socket's file in its directory; the container sees it as
/// `/run/notify/notify.sock`.
const SOCKET: &str = "notify.sock";

/// How long the manager may take to read what it was told, in milliseconds:
/// what sd_notify_barrier's callers commonly give it, and runc.
const BARRIER_MS: u16 = 30_000;

/// The longest message of sd_notify(3) that is read.
const LONGEST: usize = 4096;

/// How many messages are read before it is looked for something else to do: a
/// container may send them faster than they are read.
const AT_ONCE: usize = 64;

/// The manager's socket, if we were started with one.
#[must_use]
pub fn manager() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())
}

/// Passes readiness on.
#[derive(Debug)]
pub struct Relay {
    socket: UnixDatagram,
    manager: OsString,
    untold: Option<Untold>,
}

/// What the manager is yet to be told.
#[derive(Debug)]
struct Untold {
    /// A socket to it that never waits.
    manager: OwnedFd,
    /// The last one first.
    messages: Vec<Vec<u8>>,
}

impl Relay {
    /// Listens in `directory`, for a container that may run as any user. The
    /// caller sees to it that nobody else does.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn bind(directory: BorrowedFd<'_>, manager: OsString) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        // By descriptor: a socket's path is at most 107 bytes long.
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()));
        let make = || -> io::Result<UnixDatagram> {
            // Left by a `start` that was killed; nobody listens any more.
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let socket = UnixDatagram::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = sys::call(make(), || format!("bind({path:?})"))
            .context(|| "listen for the container's readiness")?;
        Ok(Self {
            socket,
            manager,
            untold: None,
        })
    }

    /// Waits until the container is ready, or its process ends, and tells the
    /// manager that `pid` is the one to watch.
    ///
    /// # Errors
    /// A manager that can't be reached.
    pub fn wait(&mut self, init: &Handle, pid: i32) -> Result<()> {
        loop {
            let (ended, _) = init.poll_end(&[self.socket.as_fd()], None)?;
            if self.pass_all(pid)? {
                return self.barrier(init);
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// Passes on what has come, as far as the manager takes it now; whether it was
    /// readiness, and all of it is told. For who stays: one that leaves afterwards is
    /// in a hurry to be believed, and uses [`wait`](Self::wait).
    ///
    /// # Errors
    /// A manager that can't be reached.
    pub fn pass(&mut self, pid: i32) -> Result<bool> {
        self.try_pass(pid)
            .context(|| format!("tell {:?} that the container is ready", self.manager))
    }

    /// What [`pass`](Self::pass) waits for: a message, or room for one.
    #[must_use]
    pub fn awaited(&self) -> (BorrowedFd<'_>, Interest) {
        match &self.untold {
            Some(untold) => (untold.manager.as_fd(), Interest::Write),
            None => (self.socket.as_fd(), Interest::Read),
        }
    }

    /// [`pass`](Self::pass), however long the manager takes.
    ///
    /// # Errors
    /// A manager that can't be reached.
    pub fn pass_all(&mut self, pid: i32) -> Result<bool> {
        while !self.pass(pid)? {
            match self.untold {
                Some(_) => process::poll(&[self.awaited()], None)?,
                None => return Ok(false),
            };
        }
        Ok(true)
    }

    fn try_pass(&mut self, pid: i32) -> Result<bool> {
        if self.untold.is_none()
            && let Some(line) = self.hear()
        {
            let manager = descriptors::connect_datagram(Path::new(&self.manager))?;
            descriptors::set_nonblocking(manager.as_fd())?;
            let messages = vec![format!("MAINPID={pid}\n").into_bytes(), line];
            self.untold = Some(Untold { manager, messages });
        }
        let Some(untold) = &mut self.untold else {
            return Ok(false);
        };
        while let Some(message) = untold.messages.last() {
            match descriptors::send(untold.manager.as_fd(), message, &[]) {
                Err(error) if error.errno() == Errno::EAGAIN => return Ok(false),
                sent => sent?,
            }
            untold.messages.pop();
        }
        self.untold = None;
        Ok(true)
    }

    /// The line that tells of readiness, if it has come.
    fn hear(&self) -> Option<Vec<u8>> {
        let mut buffer = [0_u8; LONGEST];
        for _ in 0..AT_ONCE {
            let length = self.socket.recv(&mut buffer).ok()?;
            if let Some(line) = readiness(&buffer[..length]) {
                return Some([line, b"\n"].concat());
            }
        }
        None
    }

    /// Waits until the manager has read all that was sent, which it checks
    /// against the sender while that lives: it then closes the descriptor that
    /// comes with `BARRIER=1` (sd_notify_barrier(3)).
    fn barrier(&self, init: &Handle) -> Result<()> {
        let manager = descriptors::connect_datagram(Path::new(&self.manager))?;
        let (ours, theirs) = descriptors::pipe()?;
        descriptors::send(manager.as_fd(), b"BARRIER=1", &[theirs.as_fd()])?;
        drop::<OwnedFd>(theirs);
        // A manager that knows no barriers closes it just the same, or never.
        init.poll_end(&[ours.as_fd()], Some(BARRIER_MS))?;
        Ok(())
    }
}

/// The line of a message that tells of readiness.
fn readiness(message: &[u8]) -> Option<&[u8]> {
    message
        .split(|byte| *byte == b'\n')
        .find(|line| line.starts_with(b"READY="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readiness_passes() {
        for (message, line) in [
            ("READY=1", Some("READY=1")),
            ("STATUS=half\nREADY=1\nMAINPID=1", Some("READY=1")),
            ("MAINPID=1", None),
            ("NOTREADY=1", None),
            ("", None),
        ] {
            assert_eq!(
                readiness(message.as_bytes()),
                line.map(str::as_bytes),
                "{message:?}"
            );
        }
    }
}
