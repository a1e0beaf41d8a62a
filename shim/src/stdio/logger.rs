//! The logger of a `binary://`: a program that reads the outputs.
//!
//! | descriptor of the logger | what it is |
//! |---|---|
//! | 0, 1, 2 | `/dev/null` |
//! | 3 | the container's standard output, to be read |
//! | 4 | its standard error, empty with a terminal |
//! | 5 | closed by the logger when it is ready, or one byte is written to it |
//!
//! Its environment has `CONTAINER_ID` (of an exec: the exec's id) and
//! `CONTAINER_NAMESPACE` and nothing else. The container does not get the
//! logger's pipes but writes to ours, so that a logger that hangs or dies meets
//! the rules of [`super::output`] and leaves the container alone.
//!
//! When the outputs are closed the logger sees their end, and has [`FINISH`] to
//! finish by itself; then it gets SIGTERM, and SIGKILL after [`TERM`].

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Command, Stdio as Std};
use std::time::Duration;

use nix::unistd::Pid;
use rrun::error::{Context as _, Error, Kind, Result};
use rrun_sys::{descriptors, pipe};
use tokio::io::Interest;
use tokio::runtime::Handle;

use super::Place;
use super::sink::{Sink, watch};
use super::uri::Program;
use crate::reaper::Child;

/// How long a logger may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// How long it may take after the end of its input.
const FINISH: Duration = Duration::from_millis(500);
/// How long it may take after SIGTERM, as with the Go shim.
const TERM: Duration = Duration::from_secs(12);

/// A logger that runs.
#[derive(Debug)]
pub(super) struct Logger {
    /// `None` once it is being stopped.
    process: Option<Child>,
}

/// Starts `program` and waits until it is ready: the logger, and its pipes for
/// standard output and error.
pub(super) async fn start(program: &Program, place: &Place<'_>) -> Result<(Logger, (Sink, Sink))> {
    let (out, to_out) = descriptors::pipe()?;
    let (err, to_err) = descriptors::pipe()?;
    let (ready, not_ready) = descriptors::pipe()?;
    let mut command = Command::new(&program.path);
    command
        .args(&program.args)
        .env_clear()
        .env("CONTAINER_ID", place.process_id())
        .env("CONTAINER_NAMESPACE", place.namespace)
        .stdin(Std::null())
        .stdout(Std::null())
        .stderr(Std::null());
    descriptors::hand_over(&mut command, vec![out, err, not_ready], 3)?;
    let process = place.reaper.spawn_apart(&mut command)?;
    // Our copies of the logger's ends are closed here.
    drop(command);
    let logger = Logger {
        process: Some(process),
    };
    let readied = wait_until_ready(ready, program.must_speak).await;
    readied.context(|| format!("logger {:?}", program.path))?;
    let sink = |fd: OwnedFd| {
        descriptors::set_nonblocking(fd.as_fd())?;
        Ok::<_, Error>(Sink::Stream(watch(fd, Interest::WRITABLE)?))
    };
    Ok((logger, (sink(to_out)?, sink(to_err)?)))
}

async fn wait_until_ready(ready: OwnedFd, must_speak: bool) -> Result<()> {
    let failed = |text: &str| Err(Error::new(Kind::System, text));
    descriptors::set_nonblocking(ready.as_fd())?;
    let ready = watch(ready, Interest::READABLE)?;
    let read = ready.async_io(Interest::READABLE, |fd| {
        match pipe::read(fd.as_fd(), &mut [0]) {
            Ok(None) => Err(std::io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    });
    match tokio::time::timeout(READY, read).await {
        Err(_) => failed("it was not ready within 30 s"),
        Ok(Ok(Ok(Some(0)))) if must_speak => failed("it closed descriptor 5 without a word"),
        Ok(Ok(Ok(_))) => Ok(()),
        Ok(Ok(Err(error))) => Err(error.into()),
        Ok(Err(error)) => failed(&error.to_string()),
    }
}

impl Logger {
    /// Waits for the end of the logger, whose pipes have been closed, and
    /// enforces it.
    pub(super) async fn stop(mut self) {
        if let Some(process) = self.process.take() {
            end(process).await;
        }
    }
}

impl Drop for Logger {
    /// For the logger of a process that never came to be.
    fn drop(&mut self) {
        if let Some(process) = self.process.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(end(process));
        }
    }
}

async fn end(process: Child) {
    let pid = Pid::from_raw(process.pid());
    let ended = process.wait();
    tokio::pin!(ended);
    for (signal, patience) in [
        (None, FINISH),
        (Some(libc::SIGTERM), TERM),
        (Some(libc::SIGKILL), FINISH),
    ] {
        // Nobody reaps between the timeout and the signal, so the pid is still
        // the logger's.
        if let Some(signal) = signal {
            // One that has just ended needs none.
            let _ = rrun_sys::signal::send(pid, signal);
        }
        if tokio::time::timeout(patience, &mut ended).await.is_ok() {
            return;
        }
    }
}
