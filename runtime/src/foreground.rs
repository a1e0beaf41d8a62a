//! A process in the foreground: its signals, its terminal, its end.
//!
//! Every signal is blocked before the process is made and read from a
//! descriptor afterwards, so none can be lost: not the SIGCHLD of a process
//! that ends at once, nor a SIGTERM that comes before there is anybody to
//! forward it to.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;
use rustix::fs::{FileType, OFlags};

use crate::error::{Context, Result};
use crate::log::Log;
use crate::notify::Relay;
use crate::sys::handle::Handle;
use crate::sys::process::{self, Interest};
use crate::sys::signal::Blocked;
use crate::sys::{descriptors, file, terminal};

/// How long the last output may take when something still holds the terminal,
/// not counting how long its reader takes.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// How much of it there is at most when a process ends: more than a terminal
/// holds (drivers/tty/pty.c).
const LAST_BYTES: usize = 64 * 1024;

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
    /// passes on that it is ready; a manager that can't be told is a warning.
    ///
    /// # Errors
    /// Those of poll(2) and waitpid(2).
    pub fn supervise(
        &self,
        log: &Log,
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
            watched.extend(relay.iter().map(Relay::awaited));
            let first = watched.len();
            let ends = terminal.as_ref().map(Terminal::ends).unwrap_or_default();
            if let Some(terminal) = &terminal {
                watched.extend(ends.iter().map(|(end, how)| (terminal.fd(*end), *how)));
            }
            let ready = process::poll(&watched, None)?;
            if let Some(terminal) = &mut terminal {
                let ready = ready[first..].iter().map(|(input, room)| input | room);
                for ((end, _), _) in ends.iter().zip(ready).filter(|(_, ready)| *ready) {
                    terminal.copy(*end);
                }
                terminal.type_in();
            }
            // We are the process to watch: we end with the container.
            let ours = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
            match relay.as_mut().map(|relay| relay.pass(ours)) {
                None | Some(Ok(false)) => {}
                Some(Ok(true)) => relay = None,
                Some(Err(error)) => {
                    log.warn(error.to_string());
                    relay = None;
                }
            }
            self.forward_signals(process, terminal.as_ref())?;
            if let Some(code) = reap(pid)? {
                if let Some(terminal) = &mut terminal {
                    terminal.drain(&self.signals);
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

/// The process's terminal and ours, joined. Neither side ever waits in a write:
/// what the other does not take is kept, and no more is read meanwhile.
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
    /// Printed, and not yet taken by who reads our output.
    printed: Vec<u8>,
    /// Our standard output, where it could be opened again to never block.
    output: Option<OwnedFd>,
    /// Ends with the supervision and gives the terminal its mode back.
    _raw: Option<terminal::Raw>,
}

/// Whom a [`Terminal`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Master,
    Input,
    Output,
}

const STDIN: i32 = 0;
const STDOUT: i32 = 1;

/// What is read at once: as much as a pipe takes at least that poll(2) says has
/// room (`PIPE_BUF`).
const BUFFER: usize = 4096;

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
            printed: Vec::new(),
            output: reopen_output(),
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

    /// What to wait for: input of either side while there is none left to hand
    /// on, else room for that.
    fn ends(&self) -> Vec<(End, Interest)> {
        let (printed, typed) = (!self.printed.is_empty(), !self.typed.is_empty());
        let master = match (printed, typed) {
            (false, false) => Some(Interest::Read),
            (false, true) => Some(Interest::ReadWrite),
            (true, true) => Some(Interest::Write),
            (true, false) => None,
        };
        let input = (self.input && !typed).then_some(Interest::Read);
        let output = printed.then_some(Interest::Write);
        [
            (End::Master, master),
            (End::Input, input),
            (End::Output, output),
        ]
        .into_iter()
        .filter_map(|(end, interest)| Some((end, interest?)))
        .collect()
    }

    fn fd(&self, end: End) -> BorrowedFd<'_> {
        match (end, &self.output) {
            (End::Master, _) => self.master.as_fd(),
            (End::Input, _) => descriptors::standard(STDIN),
            (End::Output, Some(output)) => output.as_fd(),
            (End::Output, None) => descriptors::standard(STDOUT),
        }
    }

    /// Does what `end` is ready for, but for [`type_in`](Self::type_in).
    fn copy(&mut self, end: End) {
        match end {
            End::Master if self.printed.is_empty() => drop(self.read_printed()),
            End::Master => {}
            End::Input => {
                let mut buffer = [0_u8; BUFFER];
                match descriptors::read(self.fd(End::Input), &mut buffer) {
                    Ok(length) if length > 0 => self.typed.extend_from_slice(&buffer[..length]),
                    _ => self.input = false,
                }
            }
            End::Output => self.print(),
        }
    }

    /// Hands on what was typed.
    fn type_in(&mut self) {
        if !self.typed.is_empty() {
            self.typed = left_of(&self.typed, self.fd(End::Master));
        }
    }

    /// Hands on what was printed.
    fn print(&mut self) {
        self.printed = left_of(&self.printed, self.fd(End::Output));
    }

    /// Reads what the process has printed; whether there may be more.
    fn read_printed(&mut self) -> bool {
        let mut buffer = [0_u8; BUFFER];
        match descriptors::read(self.master.as_fd(), &mut buffer) {
            Ok(length) => {
                self.printed.extend_from_slice(&buffer[..length]);
                length > 0
            }
            Err(error) => error.errno() == Errno::EAGAIN,
        }
    }

    /// Copies what the process wrote last. The kernel hands it over in the
    /// background, so an empty read is no end; a hang-up is. All of it is
    /// printed, however long that takes, unless we are told to end.
    fn drain(&mut self, signals: &Blocked) {
        self.peer = None;
        let mut deadline = Instant::now() + LAST_OUTPUT;
        let mut read = 0;
        loop {
            if self.printed.is_empty() {
                if read >= LAST_BYTES || Instant::now() >= deadline {
                    return;
                }
                let ready = process::poll_readable(&[self.master.as_fd()], Some(50));
                if matches!(ready, Ok(ready) if ready == [true]) && !self.read_printed() {
                    return;
                }
                read += self.printed.len();
                continue;
            }
            let begin = Instant::now();
            let watched = [
                (signals.as_fd(), Interest::Read),
                (self.fd(End::Output), Interest::Write),
            ];
            match process::poll(&watched, None).as_deref() {
                Ok([(true, _), _]) if asks_to_end(signals) => return,
                Ok([_, (false, false)]) => {}
                Ok(_) => self.print(),
                Err(_) => return,
            }
            deadline += begin.elapsed();
        }
    }
}

/// What is left of `bytes` when `fd` has taken what it takes now; nothing once
/// nobody reads there any more.
fn left_of(bytes: &[u8], fd: BorrowedFd<'_>) -> Vec<u8> {
    match nix::unistd::write(fd, bytes) {
        Ok(written) => bytes[written..].to_vec(),
        Err(Errno::EAGAIN | Errno::EINTR) => bytes.to_vec(),
        Err(_) => Vec::new(),
    }
}

/// Our standard output once more, if it is a pipe or a terminal, such that no
/// write to it waits. The flag for that belongs to what was opened, which others
/// have too. What can't be opened again is written to when it has room.
fn reopen_output() -> Option<OwnedFd> {
    let output = descriptors::standard(STDOUT);
    let stat = file::stat(output).ok()?;
    let is_pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
    if !is_pipe && !nix::unistd::isatty(output).unwrap_or(false) {
        return None;
    }
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    file::open(Path::new("/proc/self/fd/1"), flags).ok()
}

/// Whether one of the signals that have come is a request to end.
fn asks_to_end(signals: &Blocked) -> bool {
    let mut asked = false;
    while let Ok(Some(signal)) = signals.next() {
        asked |= matches!(
            signal,
            libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM
        );
    }
    asked
}

/// Makes this process the one that orphans of the container fall to.
///
/// # Errors
/// Those of prctl(2).
pub fn become_subreaper() -> Result<()> {
    crate::sys::credentials::set_child_subreaper().context(|| "become a subreaper")
}
