//! One process of a container: the first one or an exec.
//!
//! Whoever changes its state takes its [`turn`](Process::turn) first and keeps
//! it until the event that tells of the change is in the queue. So the event of
//! an end can't overtake the one of the start, however short the life was.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rrun::error::{Error, Kind, Result};
use rrun_sys::mutation::Defence;
use rrun_sys::terminal::Size;
use tokio::sync::{MutexGuard as Turn, watch};
use tokio::time::Instant;

use super::state::{State, Step};
use crate::log;
use crate::reaper::Exit;
use crate::stdio::{Request, Stdio};

/// A process and its streams.
#[derive(Debug)]
pub(crate) struct Process {
    /// Empty for the first process of a container.
    pub exec_id: String,
    /// What it is connected to.
    pub stdio: Request,
    /// The process of an exec, as the spec's `process` in JSON.
    pub spec: Vec<u8>,
    turn: tokio::sync::Mutex<()>,
    now: Mutex<Now>,
    exit: watch::Sender<Option<Exit>>,
}

/// What changes.
#[derive(Debug)]
struct Now {
    state: State,
    /// 0 before there is one.
    pid: i32,
    io: Option<Stdio>,
    /// What was asked of the streams of an exec before it had any.
    asked: Asked,
}

/// Clients ask as soon as they have added an exec, not when it has started.
#[derive(Debug, Default)]
struct Asked {
    stdin_closed: bool,
    size: Option<Size>,
}

impl Process {
    /// A process that is created and not started.
    #[must_use]
    pub(crate) fn new(exec_id: String, stdio: Request, spec: Vec<u8>) -> Self {
        Self {
            exec_id,
            stdio,
            spec,
            turn: tokio::sync::Mutex::new(()),
            now: Mutex::new(Now {
                state: State::Created,
                pid: 0,
                io: None,
                asked: Asked::default(),
            }),
            exit: watch::Sender::new(None),
        }
    }

    /// Waits until nobody else changes the process.
    pub(crate) async fn turn(&self) -> Turn<'_, ()> {
        self.turn.lock().await
    }

    /// Its state now.
    #[must_use]
    pub(crate) fn state(&self) -> State {
        self.now().state
    }

    /// Its process id; 0 before there is one.
    #[must_use]
    pub(crate) fn pid(&self) -> i32 {
        self.now().pid
    }

    /// Whether it may take a step now.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn may(&self, step: Step) -> Result<()> {
        let state = self.state();
        if self.exec_id.is_empty() {
            state.init_may(step)
        } else {
            state.exec_may(step)
        }
    }

    /// It has a pid and its streams are connected; what was asked of them before
    /// is done now.
    pub(crate) fn connected(&self, pid: i32, io: Stdio) {
        let mut now = self.now();
        let asked = std::mem::take(&mut now.asked);
        if asked.stdin_closed {
            io.close_stdin();
        }
        if let Some(size) = asked.size
            && let Err(error) = io.resize(size)
        {
            log::warn(error);
        }
        now.pid = pid;
        now.io = Some(io);
        // An earlier start may have failed.
        self.exit.send_replace(None);
    }

    /// It is in another state, which is not its end.
    pub(crate) fn becomes(&self, state: State) {
        self.now().state = state;
    }

    /// It has ended; whoever waits is told.
    pub(crate) fn ended(&self, exit: Exit) {
        let mut now = self.now();
        if now.state != State::Deleted {
            now.state = State::Stopped(exit);
        }
        if let Some(io) = &now.io {
            io.process_ended();
        }
        drop(now);
        self.exit.send_replace(Some(exit));
    }

    /// It could not be started: whoever waits for its end is told at once, as by
    /// the Go shim.
    pub(crate) fn failed(&self) {
        self.exit.send_replace(Some(Exit::never()));
    }

    /// It is forgotten; how it ended, or [`Exit::never`] if it never began.
    pub(crate) fn forgotten(&self) -> Exit {
        let mut now = self.now();
        let exit = now.state.exit().unwrap_or_else(Exit::never);
        now.state = State::Deleted;
        drop(now);
        self.exit.send_replace(Some(exit));
        exit
    }

    /// Waits for its end, or until it is forgotten.
    ///
    /// # Errors
    /// None: the sender lives as long as this process.
    pub(crate) async fn wait(&self) -> Result<Exit> {
        let mut exit = self.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await;
        let ended = ended.ok().and_then(|exit| *exit);
        ended.ok_or_else(|| Error::new(Kind::NotFound, "process does not exist: not found"))
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// It has none, or it has ended.
    pub(crate) fn resize(&self, size: Size) -> Result<()> {
        self.may(Step::Resize)?;
        let mut now = self.now();
        if let Some(io) = &now.io {
            return io.resize(size);
        }
        now.asked.size = Some(size);
        Ok(())
    }

    /// Ends its standard input.
    pub(crate) fn close_stdin(&self) {
        let mut now = self.now();
        match &now.io {
            Some(io) => io.close_stdin(),
            None => now.asked.stdin_closed = true,
        }
    }

    /// Waits until `deadline` for output that was written, then closes the
    /// streams.
    pub(crate) async fn finish_io(&self, deadline: Instant) {
        let io = self.now().io.take();
        if let Some(io) = io {
            let within = match Defence::DrainDeadline.is_out() {
                true => Duration::MAX,
                false => deadline.saturating_duration_since(Instant::now()),
            };
            io.drain(within).await;
            io.close().await;
        }
    }

    /// A line for people.
    #[must_use]
    pub(crate) fn describe(&self) -> String {
        let now = self.now();
        let io = now.io.as_ref().map(Stdio::describe).unwrap_or_default();
        format!("{:?} pid {} {io}", now.state, now.pid)
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
