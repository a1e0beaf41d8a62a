//! A process in the foreground: its signals, its terminal, its end.
//!
//! Every signal is blocked before the process is made and read from a
//! descriptor afterwards, so none can be lost: not the SIGCHLD of a process
//! that ends at once, nor a SIGTERM that comes before there is anybody to
//! forward it to.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::error::{Context, Result};
use crate::notify::Relay;
use crate::sys::handle::Handle;
use crate::sys::process::{self, Interest};
use crate::sys::signal::Blocked;
use crate::sys::{descriptors, terminal};

/// How long the last output may take when something still holds the terminal.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// The supervision of one process.
#[derive(Debug)]
pub struct Foreground {
    signals: Blocked,
}

impl Foreground {
    /// Blocks every signal; to be called before the process is made.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn prepare() -> Result<Self> {
        Ok(Self {
            signals: Blocked::all()?,
        })
    }

    /// Stays with the process `pid`, which is our child, until it ends, and
    /// returns its exit code, or 128 and the number of the signal that killed
    /// it. `master` is the master of its terminal, if it has one, and `relay`
    /// passes on that it is ready.
    ///
    /// # Errors
    /// Those of poll(2) and waitpid(2).
    pub fn supervise(
        &self,
        pid: Pid,
        process: &Handle,
        master: Option<OwnedFd>,
        mut relay: Option<Relay>,
    ) -> Result<u8> {
        let mut terminal = master.map(Terminal::take).transpose()?;
        loop {
            let mut watched = vec![(self.signals.as_fd(), Interest::Read)];
            // Without it SIGCHLD tells.
            watched.extend(process.pollable().map(|end| (end, Interest::Read)));
            watched.extend(relay.iter().map(|relay| (relay.as_fd(), Interest::Read)));
            let first = watched.len();
            if let Some(terminal) = &terminal {
                watched.extend(terminal.interests());
            }
            let ready = process::poll(&watched, None)?;
            if let Some(terminal) = &mut terminal {
                terminal.copy(&ready[first..]);
            }
            // We are the process to watch: we end with the container.
            let ours = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
            if relay.as_ref().map(|relay| relay.pass(ours)).transpose()? == Some(true) {
                relay = None;
            }
            self.forward_signals(process, terminal.as_ref())?;
            if let Some(code) = reap(pid)? {
                if let Some(terminal) = &mut terminal {
                    terminal.drain();
                }
                return Ok(code);
            }
        }
    }

    /// Passes on what was sent to us.
    fn forward_signals(&self, process: &Handle, terminal: Option<&Terminal>) -> Result<()> {
        while let Some(signal) = self.signals.next()? {
            match signal {
                libc::SIGCHLD => {}
                libc::SIGWINCH if terminal.is_some() => {
                    terminal.into_iter().for_each(Terminal::copy_size);
                }
                // A process that has ended takes no signal.
                signal => drop(process.signal(signal)),
            }
        }
        Ok(())
    }
}

/// Reaps every child that has ended (as a subreaper we get the container's
/// orphans too); the exit code if `pid` was among them.
fn reap(pid: Pid) -> Result<Option<u8>> {
    let mut code = None;
    while let Some((ended, how)) = process::reap_any()? {
        if ended == pid {
            code = Some(how.code());
        }
    }
    Ok(code)
}

/// The process's terminal and ours, joined.
#[derive(Debug)]
struct Terminal {
    master: OwnedFd,
    /// The other side, open as long as the process lives: without anybody
    /// there the master would be ready all the time, with nothing to read.
    peer: Option<OwnedFd>,
    /// Typed, and not yet taken by the process.
    typed: Vec<u8>,
    /// Whether our standard input has not ended.
    input: bool,
    /// Ends with the supervision and gives the terminal its mode back.
    _raw: Option<terminal::Raw>,
}

const STDIN: i32 = 0;
const STDOUT: i32 = 1;

impl Terminal {
    /// Takes over the master; our own terminal, if we have one, becomes raw.
    fn take(master: OwnedFd) -> Result<Self> {
        // Never blocked by a process that does not read what was typed.
        descriptors::set_nonblocking(master.as_fd())?;
        let raw = terminal::Raw::new(descriptors::standard(STDIN)).ok();
        let peer = terminal::open_peer(master.as_fd())?;
        let terminal = Self {
            master,
            peer: Some(peer),
            typed: Vec::new(),
            input: true,
            _raw: raw,
        };
        terminal.copy_size();
        Ok(terminal)
    }

    /// Gives the process's terminal the size of ours, if we have one.
    fn copy_size(&self) {
        if let Ok(size) = terminal::size(descriptors::standard(STDIN)) {
            let _ = terminal::set_size(self.master.as_fd(), size);
        }
    }

    /// What to wait for: the master always, our input while there is none
    /// left to hand on.
    fn interests(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        if !self.typed.is_empty() {
            return vec![(self.master.as_fd(), Interest::ReadWrite)];
        }
        let mut interests = vec![(self.master.as_fd(), Interest::Read)];
        if self.input {
            interests.push((descriptors::standard(STDIN), Interest::Read));
        }
        interests
    }

    /// Copies what is there, in both directions.
    fn copy(&mut self, ready: &[(bool, bool)]) {
        if ready.first().is_some_and(|(readable, _)| *readable) {
            self.copy_output();
        }
        if ready.get(1).is_some_and(|(readable, _)| *readable) {
            let mut buffer = [0_u8; 4096];
            match descriptors::read(descriptors::standard(STDIN), &mut buffer) {
                Ok(length) if length > 0 => self.typed.extend_from_slice(&buffer[..length]),
                _ => self.input = false,
            }
        }
        if !self.typed.is_empty() {
            match nix::unistd::write(&self.master, &self.typed) {
                Ok(written) => drop(self.typed.drain(..written)),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => self.typed.clear(),
            }
        }
    }

    /// Copies one buffer from the process to our output; whether there may be
    /// more.
    fn copy_output(&self) -> bool {
        let mut buffer = [0_u8; 4096];
        match descriptors::read(self.master.as_fd(), &mut buffer) {
            Ok(length) if length > 0 => {
                let output = descriptors::standard(STDOUT);
                descriptors::write_all(output, &buffer[..length]).is_ok()
            }
            Err(error) => error.errno() == Errno::EAGAIN,
            Ok(_) => false,
        }
    }

    /// Copies what the process wrote last. The kernel hands it over in the
    /// background, so an empty read is no end; a hang-up is.
    fn drain(&mut self) {
        self.peer = None;
        let deadline = Instant::now() + LAST_OUTPUT;
        while Instant::now() < deadline {
            let ready = process::poll_readable(&[self.master.as_fd()], Some(50));
            if matches!(ready, Ok(ready) if ready == [true]) && !self.copy_output() {
                return;
            }
        }
    }
}

/// Makes this process the one that orphans of the container fall to.
///
/// # Errors
/// Those of prctl(2).
pub fn become_subreaper() -> Result<()> {
    crate::sys::credentials::set_child_subreaper().context(|| "become a subreaper")
}
