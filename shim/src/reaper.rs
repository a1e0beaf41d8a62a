//! Waiting for children: the only caller of waitpid(2) in the shim.
//!
//! The shim is a subreaper, so the processes of containers, whose parent (the
//! runtime) ends before they do, become its children. The kernel tells of an
//! ended child once, and a container may end before anybody knows its pid.
//! Everything here runs on one thread, therefore:
//!
//! 1. a child that is spawned is registered before it can be reaped;
//! 2. while the runtime is making a process, an [`Expecting`] is alive, and the
//!    ends of strangers are kept;
//! 3. when the runtime has told the pid, [`Reaper::adopt`] finds the end that
//!    came before, or waits for the one that will come.

use std::collections::HashMap;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::unistd::Pid;
use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;
use rrun::error::{Context, Error, Kind, Result};
use rrun_sys::process::{Ended, OpenFiles, is_child, reap_any};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The exit code, or 128 and the number of the signal.
    pub status: u32,
    /// When the shim was told.
    pub at: SystemTime,
}

impl Exit {
    /// The end of what never began: status 0 at no time, as the Go shim says.
    #[must_use]
    pub(crate) fn never() -> Self {
        Self {
            status: 0,
            at: SystemTime::UNIX_EPOCH,
        }
    }

    /// The time for a message; none for what never began.
    #[must_use]
    pub(crate) fn timestamp(&self) -> MessageField<Timestamp> {
        if *self == Self::never() {
            return MessageField::none();
        }
        MessageField::some(Timestamp::from(self.at))
    }
}

impl From<Ended> for Exit {
    fn from(ended: Ended) -> Self {
        Self {
            status: u32::from(ended.code()),
            at: SystemTime::now(),
        }
    }
}

/// Children of the shim and how they ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reaper(Arc<Mutex<Children>>);

#[derive(Debug, Default)]
struct Children {
    /// Who is told of the end of a child.
    waited: HashMap<i32, oneshot::Sender<Exit>>,
    /// Ends of children that nobody waits for, while a pid is expected.
    strangers: HashMap<i32, Exit>,
    /// How many [`Expecting`] are alive.
    expecting: usize,
    /// The limit of open files that programs get, where ours was raised.
    open_files: Option<OpenFiles>,
}

impl Reaper {
    /// Becomes a subreaper and reaps from now on; the task ends with the
    /// runtime it is spawned on.
    ///
    /// # Errors
    /// SIGCHLD can't be caught.
    pub(crate) fn start() -> Result<Self> {
        rrun_sys::credentials::set_child_subreaper()?;
        let mut ended = signal(SignalKind::child())
            .map_err(|error| Error::new(Kind::System, format!("catch SIGCHLD: {error}")))?;
        let reaper = Self::default();
        let of_task = reaper.clone();
        tokio::spawn(async move {
            while ended.recv().await.is_some() {
                of_task.reap();
            }
        });
        Ok(reaper)
    }

    /// Lets the shim open as many files as it may; the programs that it starts
    /// have the limit that it had.
    ///
    /// # Errors
    /// Those of setrlimit(2).
    pub(crate) fn raise_open_files(&self) -> Result<()> {
        let before = OpenFiles::raise()?;
        self.children().open_files = Some(before);
        Ok(())
    }

    /// Starts a program that dies with the shim.
    ///
    /// # Errors
    /// It can't be started; the text names it.
    pub(crate) fn spawn(&self, command: &mut Command) -> Result<Child> {
        rrun_sys::process::die_with_parent(command);
        self.launch(command)
    }

    /// Starts a program in a process group of its own, which outlives the shim.
    ///
    /// # Errors
    /// It can't be started; the text names it.
    pub(crate) fn spawn_apart(&self, command: &mut Command) -> Result<Child> {
        self.launch(command.process_group(0))
    }

    fn launch(&self, command: &mut Command) -> Result<Child> {
        if let Some(limit) = self.children().open_files {
            limit.give(command);
        }
        let child = command.spawn().map_err(|error| {
            let text = format!("start {:?}: {error}", command.get_program());
            Error::new(Kind::System, text)
        })?;
        // A pid fits into its own type: the kernel's limit is 2^22.
        Ok(self.own(Pid::from_raw(child.id().cast_signed())))
    }

    /// The child with this pid, which was made just now.
    #[must_use]
    pub(crate) fn own(&self, pid: Pid) -> Child {
        let pid = pid.as_raw();
        // Who had the number before is long gone.
        self.children().strangers.remove(&pid);
        self.wait_for(pid)
    }

    /// Says that the pid of a new child will become known.
    #[must_use]
    pub(crate) fn await_pid(&self) -> Expecting {
        self.children().expecting += 1;
        Expecting(self.clone())
    }

    /// The child with this pid, which another program made and which may have
    /// ended already.
    #[must_use]
    pub(crate) fn adopt(&self, pid: i32, _expecting: &Expecting) -> Child {
        let mut children = self.children();
        let stranger = children.strangers.remove(&pid);
        // A stranger is one that was reaped: a child that has the number now got
        // it afterwards, and is the one that is meant, unless it is known
        // already.
        let known = children.waited.contains_key(&pid);
        let exit = stranger.filter(|_| known || !is_child(Pid::from_raw(pid)));
        drop(children);
        let Some(exit) = exit else {
            return self.wait_for(pid);
        };
        let (tell, told) = oneshot::channel();
        // The receiver is in our hands.
        let _received = tell.send(exit);
        Child { pid, told }
    }

    /// Sends a signal to a child that was told of; whether it is there still.
    /// It is not reaped in between, so its pid is nobody else's.
    ///
    /// # Errors
    /// `EINVAL` for a number that is no signal, `EPERM`.
    pub(crate) fn signal(&self, pid: i32, signal: i32) -> rrun_sys::Result<bool> {
        if !self.children().waited.contains_key(&pid) {
            return Ok(false);
        }
        match rrun_sys::signal::send(Pid::from_raw(pid), signal) {
            Err(error) if error.errno() == Errno::ESRCH => Ok(false),
            sent => sent.map(|()| true),
        }
    }

    fn wait_for(&self, pid: i32) -> Child {
        let (tell, told) = oneshot::channel();
        self.children().waited.insert(pid, tell);
        Child { pid, told }
    }

    /// Takes every child that has ended.
    fn reap(&self) {
        loop {
            match reap_any() {
                Ok(Some((pid, ended))) => self.children().ended(pid, ended.into()),
                Ok(None) => return,
                Err(error) => {
                    crate::log::error(&error);
                    return;
                }
            }
        }
    }

    fn children(&self) -> MutexGuard<'_, Children> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Children {
    fn ended(&mut self, pid: Pid, exit: Exit) {
        match self.waited.remove(&pid.as_raw()) {
            // Whoever waited may have given up.
            Some(waiting) => drop(waiting.send(exit)),
            None if self.expecting > 0 => drop(self.strangers.insert(pid.as_raw(), exit)),
            None => {}
        }
    }
}

/// While it is alive, ends of unknown children are kept.
#[derive(Debug)]
pub(crate) struct Expecting(Reaper);

impl Drop for Expecting {
    fn drop(&mut self) {
        let mut children = self.0.children();
        children.expecting -= 1;
        if children.expecting == 0 {
            children.strangers = HashMap::new();
        }
    }
}

/// A child of the shim.
#[derive(Debug)]
pub(crate) struct Child {
    pid: i32,
    told: oneshot::Receiver<Exit>,
}

impl Child {
    /// Its process id.
    #[must_use]
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The reaper is gone.
    pub(crate) async fn wait(self) -> Result<Exit> {
        let gone = |_| Error::new(Kind::System, "nobody reaps any more");
        self.told
            .await
            .map_err(gone)
            .context(|| format!("wait for process {}", self.pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_one_thread(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test);
    }

    fn ended(pid: i32, status: u32) -> (Pid, Exit) {
        let at = SystemTime::UNIX_EPOCH;
        (Pid::from_raw(pid), Exit { status, at })
    }

    #[test]
    fn an_end_before_the_pid_is_known_is_kept_while_one_is_expected() {
        on_one_thread(async {
            let reaper = Reaper::default();
            let expecting = reaper.await_pid();
            let (pid, exit) = ended(7, 3);
            reaper.children().ended(pid, exit);
            assert_eq!(reaper.adopt(7, &expecting).wait().await, Ok(exit));
            let (pid, exit) = ended(8, 4);
            reaper.children().ended(pid, exit);
            drop(expecting);
            assert!(reaper.children().strangers.is_empty());
            let (pid, exit) = ended(9, 5);
            reaper.children().ended(pid, exit);
            assert!(reaper.children().strangers.is_empty());
        });
    }

    #[test]
    fn the_end_of_another_that_had_the_pid_before_is_not_taken() {
        on_one_thread(async {
            let reaper = Reaper::default();
            let mut child = Command::new("sleep").arg("100").spawn().unwrap();
            let number = child.id().cast_signed();
            let (pid, old) = ended(number, 3);
            let expecting = reaper.await_pid();
            for adopted in [true, false] {
                reaper.children().ended(pid, old);
                let waiting = match adopted {
                    true => reaper.adopt(number, &expecting),
                    false => reaper.own(pid),
                };
                let (_, exit) = ended(number, 4);
                reaper.children().ended(pid, exit);
                assert_eq!(waiting.wait().await, Ok(exit), "adopted: {adopted}");
            }
            child.kill().and_then(|()| child.wait()).unwrap();
        });
    }

    #[test]
    fn only_a_child_that_was_not_reaped_is_sent_a_signal() {
        on_one_thread(async {
            let reaper = Reaper::default();
            let mut child = Command::new("sleep").arg("100").spawn().unwrap();
            let number = child.id().cast_signed();
            assert_eq!(reaper.signal(number, 0), Ok(false), "a stranger");
            let _waiting = reaper.own(Pid::from_raw(number));
            assert_eq!(reaper.signal(number, libc::SIGKILL), Ok(true));
            child.wait().unwrap();
            let (pid, exit) = ended(number, 137);
            reaper.children().ended(pid, exit);
            assert_eq!(reaper.signal(number, libc::SIGKILL), Ok(false), "reaped");
        });
    }

    #[test]
    fn an_end_after_the_pid_is_known_is_told_once() {
        on_one_thread(async {
            let reaper = Reaper::default();
            let expecting = reaper.await_pid();
            let child = reaper.adopt(7, &expecting);
            let (pid, exit) = ended(7, 137);
            reaper.children().ended(pid, exit);
            assert_eq!(child.wait().await, Ok(exit));
            assert!(reaper.children().waited.is_empty());
        });
    }
}
