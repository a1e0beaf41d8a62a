//! The stdio of a process: what the runtime is given, and the copiers between
//! that and what containerd named.
//!
//! 1. [`open`] opens what containerd named ([`uri`], [`sink`]), so that a wrong
//!    name fails before there is a process, and makes the [`Ends`]: pipes, or a
//!    socket on which the runtime will send a terminal.
//!    The program of a `binary://` is started here ([`logger`]).
//! 2. The runtime makes the process with the ends.
//! 3. [`Stdio::connect`] takes the terminal ([`console`]) and starts copiers, one
//!    task a stream ([`output`], [`input`]). An idle stream costs its descriptors
//!    and a sleeping task; it owns no buffer.
//! 4. Each copier ends by itself: an output when every process that could write
//!    it is gone and all is written (of a terminal: once
//!    [`Stdio::process_ended`] was called, since systemd and others close their
//!    terminal and open it again), the input when the client has closed it and
//!    [`Stdio::close_stdin`] was called. It then closes its side, so that the
//!    client sees the end.
//! 5. [`Stdio::drain`] waits for the outputs, up to a deadline: a process in the
//!    background may hold them open for ever. [`Stdio::close`] ends what is left
//!    and says what was lost.
//!
//! The container is never blocked by a reader that has stopped; the rules are
//! those of [`output`]. Their patience is 10 seconds, or the seconds in
//! [`PATIENCE`] (0: wait for ever, drop nothing).

mod console;
mod flow;
mod input;
mod logger;
mod output;
mod sink;
#[cfg(test)]
mod tests;
mod uri;

use std::fmt::Display;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid};
use rrun::error::{Context as _, Error, Kind, Result};
use rrun_sys::terminal::{self, Size};
use rrun_sys::{descriptors, pipe};
use tokio::io::Interest;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use console::ConsoleSocket;
use logger::Logger;
use output::{Output, Tally};
use sink::{Sink, Stream, watch};
use uri::{Program, Target};

use crate::reaper::Reaper;

/// The environment variable with the seconds for which nobody may read before
/// output is dropped. containerd passes its environment to its shims.
pub(crate) const PATIENCE: &str = "RRUN_STDIO_PATIENCE";

/// What containerd asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    /// A FIFO, or empty.
    pub(crate) stdin: String,
    /// A FIFO, a `file://`, a `binary://`, or empty.
    pub(crate) stdout: String,
    /// As `stdout`; empty with a terminal.
    pub(crate) stderr: String,
    /// Whether the process has a terminal.
    pub(crate) terminal: bool,
}

/// Whose stdio it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// containerd's namespace.
    pub(crate) namespace: &'a str,
    /// The container.
    pub(crate) id: &'a str,
    /// The exec, or empty for the container's init.
    pub(crate) exec_id: &'a str,
    /// Owner of the pipes.
    pub(crate) uid: u32,
    /// Group of the pipes.
    pub(crate) gid: u32,
    /// Who reaps loggers.
    pub(crate) reaper: &'a Reaper,
}

impl Place<'_> {
    /// The id that containerd gave the process.
    fn process_id(&self) -> &str {
        match self.exec_id {
            "" => self.id,
            exec => exec,
        }
    }

    /// For log lines: `"web"`, `"web" exec "sh"`.
    fn describe(&self) -> String {
        match self.exec_id {
            "" => format!("{:?}", self.id),
            exec => format!("{:?} exec {exec:?}", self.id),
        }
    }
}

/// What the runtime is given. The caller drops it once the runtime has it.
#[derive(Debug)]
pub(crate) enum Ends {
    /// The process's descriptors 0, 1 and 2.
    Pipes {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// For `--console-socket`.
    Console {
        /// The socket.
        socket: PathBuf,
    },
}

/// For how long nobody may read before output is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    For(Duration),
    Endless,
}

impl Patience {
    fn from_environment() -> Self {
        let text = std::env::var(PATIENCE).unwrap_or_default();
        match text.parse() {
            Ok(0) => Patience::Endless,
            Ok(seconds) => Patience::For(Duration::from_secs(seconds)),
            Err(_) => Patience::For(Duration::from_secs(10)),
        }
    }
}

/// The stdio of one process, from the shim's side.
#[derive(Debug)]
pub(crate) struct Stdio {
    /// Whose it is, for log lines.
    whose: String,
    /// What [`connect`](Stdio::connect) will start.
    prepared: Prepared,
    /// The writing end of the stdin FIFO: while it is open, a client that goes
    /// away is not the end.
    stdin: Shared<OwnedFd>,
    master: Option<Stream>,
    /// The other side of the terminal: while it is open, a process that closes
    /// the terminal is not the end. Let go by [`process_ended`](Stdio::process_ended).
    other_side: Shared<OwnedFd>,
    /// A size that was asked for before there was a terminal.
    size: Mutex<Option<Size>>,
    running: Arc<Running>,
    copiers: Vec<JoinHandle<()>>,
    patience: Patience,
    logger: Option<Logger>,
    tallies: Vec<(&'static str, Arc<Tally>)>,
}

/// Copiers that are not yet started.
#[derive(Debug, Default)]
struct Prepared {
    console: Option<ConsoleSocket>,
    /// The FIFO of the client, and the pipe unless there is a terminal.
    input: Option<(OwnedFd, Option<OwnedFd>)>,
    /// Name, the pipe unless there is a terminal, and where it goes.
    outputs: Vec<(&'static str, Option<OwnedFd>, Sink)>,
}

/// Something that is there until somebody takes it away.
type Shared<T> = Arc<Mutex<Option<T>>>;

/// How many outputs are being copied.
#[derive(Debug, Default)]
struct Running {
    outputs: AtomicUsize,
    ended: Notify,
}

/// Opens what `request` names, and makes what the runtime is given.
///
/// # Errors
/// A name that is wrong or can't be opened; the text names the stream.
pub(crate) async fn open(request: &Request, place: &Place<'_>) -> Result<(Ends, Stdio)> {
    let mut stdio = Stdio::new(place.describe());
    let ends = if request.terminal {
        stdio.prepare_terminal(request, place).await?
    } else {
        stdio.prepare_pipes(request, place).await?
    };
    Ok((ends, stdio))
}

impl Stdio {
    fn new(whose: String) -> Self {
        Self {
            whose,
            prepared: Prepared::default(),
            stdin: Shared::default(),
            master: None,
            other_side: Shared::default(),
            size: Mutex::default(),
            running: Arc::default(),
            copiers: Vec::new(),
            patience: Patience::from_environment(),
            logger: None,
            tallies: Vec::new(),
        }
    }

    async fn prepare_terminal(&mut self, request: &Request, place: &Place<'_>) -> Result<Ends> {
        if !request.stdin.is_empty() {
            let fifo = self.open_stdin(Path::new(&request.stdin))?;
            self.prepared.input = Some((fifo, None));
        }
        let sink = match uri::parse("stdout", &request.stdout)? {
            // The other pipe is closed here, so the logger sees its end.
            Target::Logger(program) => self.start_logger(&program, place).await?.0,
            target => open_sink("stdout", &target)?,
        };
        self.prepared.outputs.push(("terminal", None, sink));
        let console = ConsoleSocket::new()?;
        let socket = console.path();
        self.prepared.console = Some(console);
        Ok(Ends::Console { socket })
    }

    async fn prepare_pipes(&mut self, request: &Request, place: &Place<'_>) -> Result<Ends> {
        let stdin = self.prepare_stdin(&request.stdin, place)?;
        let target = uri::parse("stdout", &request.stdout)?;
        let (stdout, stderr) = if let Target::Logger(program) = target {
            // One logger for both, whatever is asked for standard error.
            self.start_logger(&program, place).await?
        } else {
            let stdout = open_sink("stdout", &target)?;
            let target = uri::parse("stderr", &request.stderr)?;
            (stdout, open_sink("stderr", &target)?)
        };
        Ok(Ends::Pipes {
            stdin,
            stdout: self.prepare_output("stdout", stdout, place)?,
            stderr: self.prepare_output("stderr", stderr, place)?,
        })
    }

    /// The sinks of a new logger, for standard output and error.
    async fn start_logger(&mut self, program: &Program, place: &Place<'_>) -> Result<(Sink, Sink)> {
        let (logger, sinks) = logger::start(program, place).await.context(|| "stdout")?;
        self.logger = Some(logger);
        Ok(sinks)
    }

    fn prepare_stdin(&mut self, text: &str, place: &Place<'_>) -> Result<OwnedFd> {
        if text.is_empty() {
            return null();
        }
        if !std::fs::metadata(text).is_ok_and(|found| found.file_type().is_fifo()) {
            // A file needs no copier, and can't be watched.
            let file = rrun_sys::call(std::fs::File::open(text), || format!("open({text:?})"));
            return Ok(file.context(|| "stdin")?.into());
        }
        let fifo = self.open_stdin(Path::new(text))?;
        let (theirs, ours) = owned_pipe(place)?;
        descriptors::set_nonblocking(ours.as_fd())?;
        self.prepared.input = Some((fifo, Some(ours)));
        Ok(theirs)
    }

    /// Opens the client's FIFO: to be read here, and kept from ending.
    fn open_stdin(&mut self, path: &Path) -> Result<OwnedFd> {
        let opened = pipe::open(path, OFlag::O_RDONLY)
            .and_then(|fifo| Ok((fifo, pipe::open(path, OFlag::O_WRONLY)?)));
        let (fifo, keeper) = opened.context(|| "stdin")?;
        *lock(&self.stdin) = Some(keeper);
        Ok(fifo)
    }

    fn prepare_output(
        &mut self,
        name: &'static str,
        sink: Sink,
        place: &Place<'_>,
    ) -> Result<OwnedFd> {
        if matches!(sink, Sink::Nothing) {
            return null();
        }
        let (ours, theirs) = owned_pipe(place)?;
        descriptors::set_nonblocking(ours.as_fd())?;
        self.prepared.outputs.push((name, Some(ours), sink));
        Ok(theirs)
    }

    /// Takes the terminal, if there is to be one, and starts the copiers. To be
    /// called when the runtime has made the process, once.
    ///
    /// # Errors
    /// No terminal came within 30 s.
    pub(crate) async fn connect(&mut self) -> Result<()> {
        let prepared = std::mem::take(&mut self.prepared);
        if let Some(console) = prepared.console {
            let master = console.receive().await?;
            if let Some(size) = lock(&self.size).take() {
                terminal::set_size(master.as_fd(), size)?;
            }
            // Until Linux 4.13 it can't be had; then a terminal that is closed has
            // ended.
            *lock(&self.other_side) = terminal::open_peer(master.as_fd()).ok();
            self.master = Some(watch(master, Interest::READABLE | Interest::WRITABLE)?);
        }
        for (name, source, sink) in prepared.outputs {
            self.start_output(name, source, sink)?;
        }
        if let Some((fifo, pipe)) = prepared.input {
            self.start_input(fifo, pipe)?;
        }
        Ok(())
    }

    fn start_output(
        &mut self,
        name: &'static str,
        pipe: Option<OwnedFd>,
        sink: Sink,
    ) -> Result<()> {
        let is_pipe = pipe.is_some();
        let source = match (pipe, &self.master) {
            (Some(pipe), _) => watch(pipe, Interest::READABLE)?,
            (None, Some(master)) => master.clone(),
            (None, None) => return Ok(()),
        };
        let name_of = format!("{name} of {}", self.whose);
        let output = Output::new(name_of, source, is_pipe, sink, self.patience);
        self.tallies.push((name, output.tally()));
        let running = CountedIn::new(self.running.clone());
        self.copiers.push(tokio::spawn(async move {
            output.run().await;
            drop(running);
        }));
        Ok(())
    }

    fn start_input(&mut self, fifo: OwnedFd, pipe: Option<OwnedFd>) -> Result<()> {
        let source = watch(fifo, Interest::READABLE)?;
        let copier = match (pipe, &self.master) {
            (Some(pipe), _) => tokio::spawn(input::copy(source, watch(pipe, Interest::WRITABLE)?)),
            (None, Some(master)) => {
                let copied = input::copy_to_terminal(source, master.clone());
                let other_side = self.other_side.clone();
                tokio::spawn(async move {
                    copied.await;
                    drop(lock(&other_side).take());
                })
            }
            (None, None) => return Ok(()),
        };
        self.copiers.push(copier);
        Ok(())
    }

    /// Gives the terminal a size, now or as soon as it is there. Without a
    /// terminal nothing happens.
    ///
    /// # Errors
    /// Those of the ioctl.
    pub(crate) fn resize(&self, size: Size) -> Result<()> {
        match &self.master {
            Some(master) => Ok(terminal::set_size(master.get_ref().as_fd(), size)?),
            None => {
                *lock(&self.size) = Some(size);
                Ok(())
            }
        }
    }

    /// Lets the input end as soon as the client has closed it.
    pub(crate) fn close_stdin(&self) {
        drop(lock(&self.stdin).take());
    }

    /// Says that the process has ended, for which the terminal was made: it ends
    /// as soon as no other process has it open.
    pub(crate) fn process_ended(&self) {
        drop(lock(&self.other_side).take());
    }

    /// Waits until every output has come to its end and is written, for `within`
    /// at most. The process has ended.
    pub(crate) async fn drain(&self, within: Duration) {
        self.process_ended();
        let all_ended = async {
            loop {
                let ended = self.running.ended.notified();
                tokio::pin!(ended);
                // From here on no end is missed.
                ended.as_mut().enable();
                if self.running.outputs.load(Relaxed) == 0 {
                    return;
                }
                ended.await;
            }
        };
        // What is late is told of when it is closed.
        let _ = tokio::time::timeout(within, all_ended).await;
    }

    /// Ends the copiers; what they had not written is lost, and counted. Then
    /// ends the logger, which may take as long as it says in [`logger`].
    pub(crate) async fn close(mut self) {
        for copier in std::mem::take(&mut self.copiers) {
            copier.abort();
            let _ = copier.await;
        }
        if let Some(logger) = self.logger.take() {
            logger.stop().await;
        }
    }

    /// The state, for people.
    #[must_use]
    pub(crate) fn describe(&self) -> String {
        let outputs = self.tallies.iter().map(|(name, tally)| {
            let (passed, dropped) = (tally.passed.load(Relaxed), tally.dropped.load(Relaxed));
            format!("{name} {passed} bytes, {dropped} dropped")
        });
        outputs.collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        for copier in &self.copiers {
            copier.abort();
        }
    }
}

/// Counts an output in as long as it lives, however its copier ends.
struct CountedIn(Arc<Running>);

impl CountedIn {
    fn new(running: Arc<Running>) -> Self {
        running.outputs.fetch_add(1, Relaxed);
        Self(running)
    }
}

impl Drop for CountedIn {
    fn drop(&mut self) {
        self.0.outputs.fetch_sub(1, Relaxed);
        self.0.ended.notify_waiters();
    }
}

fn open_sink(stream: &str, target: &Target) -> Result<Sink> {
    let opened = match target {
        Target::Null => return Ok(Sink::Nothing),
        Target::Path(path) => sink::open(path),
        Target::File(path) => sink::create(path),
        Target::Logger(program) => Err(Error::new(
            Kind::InvalidConfig,
            format!("logger {:?} must be the one of stdout", program.path),
        )),
    };
    opened.context(|| stream)
}

/// A pipe that belongs to the owner of the container's stdio: (read, write).
fn owned_pipe(place: &Place<'_>) -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = descriptors::pipe()?;
    if (place.uid, place.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(place.uid), Gid::from_raw(place.gid));
        // One inode for both ends.
        rrun_sys::call(nix::unistd::fchown(&read, Some(uid), Some(gid)), || {
            format!("fchown(pipe, {uid}, {gid})")
        })?;
    }
    Ok((read, write))
}

fn null() -> Result<OwnedFd> {
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null");
    Ok(rrun_sys::call(null, || "open(\"/dev/null\")".to_owned())?.into())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line in the shim's log.
fn warn(text: impl Display) {
    #[cfg(test)]
    tests::LOGGED.with_borrow_mut(|lines| lines.push(text.to_string()));
    crate::log::warn(text);
}
