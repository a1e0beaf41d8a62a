//! A container of the pod: its first process, its execs, and what is told of
//! them, in this order always:
//!
//! ```text
//! create < start < oom < exit < delete          of the container
//! exec-added < exec-started < exec's exit       of each exec
//! every exec's exit < the container's exit
//! ```
//!
//! The first process ends last: when the kernel tells of its end, no further
//! exec is begun, what shares its pid namespace is killed, and the exit is held
//! until every exec that runs has been reported. The status is on disk before
//! it is published.

mod create;
mod exec;
mod process;
mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_shim_protos::events::task::{
    TaskCheckpointed, TaskDelete, TaskExit, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim_protos::topics;
use protobuf::well_known_types::any::Any;
use rrun::error::{Error, Kind, Result};
use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) use create::create;
pub(crate) use process::Process;
pub(crate) use state::{State, Step};

use crate::apart::{self, Fate};
use crate::options::ProcessDetails;
use crate::pod::Shared;
use crate::reaper::{Child, Exit};
use crate::runtime::Runtime;
use crate::stats::Cgroups;
use crate::{exit_status, log, rootfs, stdio};

/// How long output that was written is waited for when a process is deleted.
/// CRI gives the whole `Delete` of a container 10 s.
const DRAIN: Duration = Duration::from_secs(4);
/// How long apart those are killed that outlive their container's first process.
const AGAIN: Duration = Duration::from_secs(1);

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    /// Its id.
    pub id: String,
    /// Where its config.json is.
    pub bundle: PathBuf,
    /// Its first process.
    pub init: Arc<Process>,
    shared: Arc<Shared>,
    runtime: Runtime,
    execs: Mutex<BTreeMap<String, Arc<Process>>>,
    /// How many execs run.
    running: watch::Sender<usize>,
    /// The first process has ended: no exec may begin.
    init_ended: AtomicBool,
    cgroups: Mutex<Option<Arc<Cgroups>>>,
    /// Its processes outlive its first one unless they are killed.
    shares_pids: bool,
    /// It is restored from there when it starts.
    checkpoint: Option<PathBuf>,
}

impl Container {
    /// The first process, or the exec with this id.
    ///
    /// # Errors
    /// There is no such exec.
    pub(crate) fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(self.init.clone());
        }
        let exec = self.execs().get(exec_id).cloned();
        exec.ok_or_else(|| {
            let text = format!("process does not exist {exec_id}: not found");
            Error::new(Kind::NotFound, text)
        })
    }

    /// Starts the first process; its pid.
    ///
    /// # Errors
    /// It is not created, or the runtime can't.
    pub(crate) async fn start(self: &Arc<Self>) -> Result<i32> {
        let _turn = self.init.turn().await;
        self.init.may(Step::Start)?;
        match &self.checkpoint {
            Some(image) => create::restore(self, image).await?,
            None => self.runtime.start().await?,
        }
        // It may be over already; its end waits for our turn.
        self.init.becomes(State::Running);
        let event = TaskStart {
            container_id: self.id.clone(),
            pid: self.init.pid().cast_unsigned(),
            ..TaskStart::default()
        };
        self.shared.publish(topics::TASK_START_EVENT_TOPIC, &event);
        self.shared.oom.started(&self.id);
        Ok(self.init.pid())
    }

    /// Sends a signal to a process of the container, or to all.
    ///
    /// # Errors
    /// It is gone (not found), or has not begun.
    pub(crate) async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let process = self.process(exec_id)?;
        process.may(Step::Kill)?;
        let finished = || Error::new(Kind::NotFound, "process already finished: not found");
        if process.state().exit().is_some() && !all {
            return Err(finished());
        }
        if exec_id.is_empty() {
            let sent = self.runtime.kill(signal, all).await;
            return sent.map_err(|error| kill_error(&error));
        }
        match process.pid() {
            0 => Err(Error::new(
                Kind::WrongState,
                "process not created: failed precondition",
            )),
            pid => {
                let signal = i32::try_from(signal).unwrap_or(i32::MAX);
                match self.shared.reaper.signal(pid, signal)? {
                    true => Ok(()),
                    false => Err(finished()),
                }
            }
        }
    }

    /// Freezes every process.
    ///
    /// # Errors
    /// It does not run, or the runtime can't.
    pub(crate) async fn pause(&self) -> Result<()> {
        let _turn = self.init.turn().await;
        self.init.may(Step::Pause)?;
        self.runtime.pause().await?;
        self.init.becomes(State::Paused);
        let event = TaskPaused {
            container_id: self.id.clone(),
            ..TaskPaused::default()
        };
        self.shared.publish(topics::TASK_PAUSED_EVENT_TOPIC, &event);
        Ok(())
    }

    /// Thaws the container.
    ///
    /// # Errors
    /// It is not paused, or the runtime can't.
    pub(crate) async fn resume(&self) -> Result<()> {
        let _turn = self.init.turn().await;
        self.init.may(Step::Resume)?;
        self.runtime.resume().await?;
        self.init.becomes(State::Running);
        let event = TaskResumed {
            container_id: self.id.clone(),
            ..TaskResumed::default()
        };
        self.shared
            .publish(topics::TASK_RESUMED_EVENT_TOPIC, &event);
        Ok(())
    }

    /// Writes the container to `path`; `flags` are those of the runtime.
    ///
    /// # Errors
    /// It does not run, or the runtime can't.
    pub(crate) async fn checkpoint(&self, path: &Path, flags: &[String]) -> Result<()> {
        let _turn = self.init.turn().await;
        self.init.may(Step::Checkpoint)?;
        self.runtime.checkpoint(path, flags).await?;
        let event = TaskCheckpointed {
            container_id: self.id.clone(),
            checkpoint: path.to_string_lossy().into_owned(),
            ..TaskCheckpointed::default()
        };
        self.shared
            .publish(topics::TASK_CHECKPOINTED_EVENT_TOPIC, &event);
        Ok(())
    }

    /// Changes limits.
    ///
    /// # Errors
    /// It has ended, or the runtime can't.
    pub(crate) async fn update(&self, resources: &[u8]) -> Result<()> {
        self.init.may(Step::Update)?;
        self.runtime.update(resources).await
    }

    /// Every process of the container; an exec is told by its id.
    ///
    /// # Errors
    /// The runtime can't.
    pub(crate) async fn pids(&self) -> Result<Vec<(i32, Option<Any>)>> {
        let pids = self.runtime.pids().await?;
        let execs: BTreeMap<i32, String> = self
            .execs()
            .values()
            .map(|exec| (exec.pid(), exec.exec_id.clone()))
            .collect();
        let details = |pid: &i32| execs.get(pid).map(|id| ProcessDetails::of(id));
        Ok(pids.into_iter().map(|pid| (pid, details(&pid))).collect())
    }

    /// What the container uses.
    ///
    /// # Errors
    /// It has no cgroup any more.
    pub(crate) fn metrics(&self) -> Result<Any> {
        let cgroups = self.cgroups().clone();
        let cgroups = cgroups
            .ok_or_else(|| Error::new(Kind::NotFound, "cgroup does not exist: not found"))?;
        cgroups.metrics()
    }

    /// Forgets a process that has ended or never begun; its pid and exit. With
    /// the first process goes everything the container has.
    ///
    /// # Errors
    /// It runs, or the runtime can't remove it; then it stays.
    pub(crate) async fn delete(&self, exec_id: &str) -> Result<(i32, Exit)> {
        let process = self.process(exec_id)?;
        let first = exec_id.is_empty();
        if first && process.state() == State::Created && process.pid() != 0 {
            let killed = self.runtime.kill(libc::SIGKILL.cast_unsigned(), false);
            match killed.await.map_err(|error| kill_error(&error)) {
                // It has died by itself just now.
                Err(error) if error.kind() != Kind::NotFound => return Err(error),
                _ => {}
            }
            // Its exit is published before it is deleted.
            process.wait().await?;
        }
        let _turn = process.turn().await;
        process.may(Step::Delete)?;
        let deadline = Instant::now() + DRAIN;
        if first {
            self.finish_io(deadline).await;
            self.remove().await?;
        } else {
            process.finish_io(deadline).await;
            self.execs().remove(exec_id);
        }
        let exit = process.forgotten();
        // As with the Go shim, of a deleted exec nobody is told.
        if first {
            let event = TaskDelete {
                container_id: self.id.clone(),
                pid: process.pid().cast_unsigned(),
                exit_status: exit.status,
                exited_at: exit.timestamp(),
                ..TaskDelete::default()
            };
            self.shared.publish(topics::TASK_DELETE_EVENT_TOPIC, &event);
        }
        Ok((process.pid(), exit))
    }

    /// Ends the streams of every process, all at the same time.
    async fn finish_io(&self, deadline: Instant) {
        let execs: Vec<_> = self.execs().values().cloned().collect();
        let finish =
            |process: Arc<Process>| tokio::spawn(async move { process.finish_io(deadline).await });
        let ends: Vec<_> = execs.into_iter().map(finish).collect();
        self.init.finish_io(deadline).await;
        for end in ends {
            // It is neither cancelled nor does it panic.
            let _finished = end.await;
        }
    }

    /// Removes what the runtime and we have made.
    async fn remove(&self) -> Result<()> {
        if self.init.pid() != 0 {
            self.runtime.delete(false).await?;
            self.remove_cgroups().await;
        }
        let execs = std::mem::take(&mut *self.execs());
        for exec in execs.into_values() {
            exec.forgotten();
        }
        self.unmount().await
    }

    /// Unmounts the root filesystem, which may first have to be written to its
    /// disk.
    async fn unmount(&self) -> Result<()> {
        let target = self.bundle.join("rootfs");
        let unmounted = || rootfs::unmount(&target);
        apart::run(
            &self.shared.reaper,
            Fate::Own,
            "unmount the rootfs",
            unmounted,
        )
        .await
    }

    /// Removes what a runtime may have left of the cgroups. What can't be
    /// removed is no reason to keep the container.
    async fn remove_cgroups(&self) {
        let cgroups = self.cgroups().clone();
        if let Some(cgroups) = cgroups
            && let Err(error) = cgroups.remove(&self.id).await
        {
            log::warn(error.within(format!("container {:?}", self.id)));
        }
    }

    /// Waits for the end of the first process and tells of it.
    async fn watch(self: Arc<Self>, child: Child) {
        let pid = child.pid();
        let exit = match child.wait().await {
            Ok(exit) => exit,
            Err(error) => return log::error(error.within(format!("container {:?}", self.id))),
        };
        self.init_ended.store(true, Ordering::Relaxed);
        if let Err(error) = exit_status::record(&self.bundle, pid, exit) {
            log::error(error);
        }
        if self.shares_pids {
            self.kill_the_rest().await;
        }
        self.no_exec_runs().await;
        let _turn = self.init.turn().await;
        self.shared.oom.finish(&self.id);
        self.publish_exit(&self.id, pid, exit);
        self.init.ended(exit);
    }

    /// Waits until no exec runs, the first process having ended. One that was on
    /// its way when the rest was killed is killed later.
    async fn no_exec_runs(&self) {
        let mut running = self.running.subscribe();
        loop {
            // The sender lives in self.
            let none = running.wait_for(|running| *running == 0);
            if tokio::time::timeout(AGAIN, none).await.is_ok() {
                return;
            }
            if self.shares_pids {
                self.kill_the_rest().await;
            }
        }
    }

    /// Kills what the kernel does not kill with the first process.
    async fn kill_the_rest(&self) {
        let killed = self.runtime.kill(libc::SIGKILL.cast_unsigned(), true).await;
        if let Err(error) = killed
            && kill_error(&error).kind() != Kind::NotFound
        {
            log::warn(error.within(format!("kill the processes of container {:?}", self.id)));
        }
    }

    fn publish_exit(&self, id: &str, pid: i32, exit: Exit) {
        let event = TaskExit {
            container_id: self.id.clone(),
            id: id.to_owned(),
            pid: pid.cast_unsigned(),
            exit_status: exit.status,
            exited_at: exit.timestamp(),
            ..TaskExit::default()
        };
        self.shared.publish(topics::TASK_EXIT_EVENT_TOPIC, &event);
    }

    /// Lines for people, one for each process.
    #[must_use]
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("container {:?}: {}", self.id, self.init.describe());
        for (id, exec) in &*self.execs() {
            text += &format!("\n  exec {id:?}: {}", exec.describe());
        }
        text
    }

    fn execs(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cgroups(&self) -> MutexGuard<'_, Option<Arc<Cgroups>>> {
        self.cgroups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where and for whom streams are opened.
    fn place<'a>(&'a self, exec_id: &'a str) -> stdio::Place<'a> {
        let options = self.runtime.options();
        stdio::Place {
            namespace: &self.shared.namespace,
            id: &self.id,
            exec_id,
            uid: options.io_uid,
            gid: options.io_gid,
            reaper: &self.shared.reaper,
        }
    }
}

/// What a failed kill means to containerd: a process that is gone is not found.
fn kill_error(error: &Error) -> Error {
    let text = error.to_string().to_lowercase();
    let gone = [
        "os: process already finished",
        "container not running",
        "no such process",
    ];
    if gone.iter().any(|words| text.contains(words)) {
        return Error::new(Kind::NotFound, "process already finished: not found");
    }
    if text.contains("does not exist") {
        return Error::new(Kind::NotFound, "no such container: not found");
    }
    error.clone().within("unknown error after kill")
}
