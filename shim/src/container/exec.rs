//! Further processes of a container.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use containerd_shim_protos::api::ExecProcessRequest;
use containerd_shim_protos::events::task::{TaskExecAdded, TaskExecStarted};
use containerd_shim_protos::topics;
use rrun::error::{Error, Kind, Result};

use super::{Container, Process, State, Step};
use crate::reaper::Child;
use crate::stdio::Stdio;
use crate::{log, stdio};

impl Container {
    /// Takes note of a process that `Start` will begin.
    ///
    /// # Errors
    /// The id is taken or no id; the container has ended.
    pub(crate) fn add_exec(&self, request: ExecProcessRequest) -> Result<()> {
        let id = request.exec_id;
        check_exec_id(&id)?;
        self.init.may(Step::Exec)?;
        if self.execs().contains_key(&id) {
            let text = format!("id {id}: already exists");
            return Err(Error::new(Kind::AlreadyExists, text));
        }
        let streams = stdio::Request {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let spec = request.spec.into_option().unwrap_or_default().value;
        let exec = Arc::new(Process::new(id.clone(), streams, spec));
        self.execs().insert(id.clone(), exec);
        let event = TaskExecAdded {
            container_id: self.id.clone(),
            exec_id: id,
            ..TaskExecAdded::default()
        };
        self.shared
            .publish(topics::TASK_EXEC_ADDED_EVENT_TOPIC, &event);
        Ok(())
    }

    /// Begins an exec; its pid.
    ///
    /// # Errors
    /// The container's first process has ended, or the runtime can't.
    pub(crate) async fn start_exec(self: &Arc<Self>, exec_id: &str) -> Result<i32> {
        let exec = self.process(exec_id)?;
        let _turn = exec.turn().await;
        exec.may(Step::Start)?;
        let running = Running::new(self.clone());
        let made = self.begin(&exec).await;
        let (child, io) = made.inspect_err(|_| exec.failed())?;
        let pid = child.pid();
        exec.connected(pid, io);
        exec.becomes(State::Running);
        let event = TaskExecStarted {
            container_id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            pid: pid.cast_unsigned(),
            ..TaskExecStarted::default()
        };
        self.shared
            .publish(topics::TASK_EXEC_STARTED_EVENT_TOPIC, &event);
        tokio::spawn(watch(running, exec.clone(), child));
        Ok(pid)
    }

    /// Opens the streams of an exec and has the runtime make its process.
    async fn begin(&self, exec: &Process) -> Result<(Child, Stdio)> {
        let exec_id = &exec.exec_id;
        if self.init_ended.load(Ordering::Relaxed) {
            let text = format!(
                "container {} init process is not running: failed precondition",
                self.id
            );
            return Err(Error::new(Kind::WrongState, text));
        }
        let (ends, mut io) = stdio::open(&exec.stdio, &self.place(exec_id)).await?;
        let expecting = self.shared.reaper.await_pid();
        let pid = self.runtime.exec(exec_id, &exec.spec, ends).await?;
        let child = self.shared.reaper.adopt(pid, &expecting);
        if let Err(error) = io.connect().await {
            // Nobody will ever read what it says.
            let _gone = self.shared.reaper.signal(pid, libc::SIGKILL);
            return Err(error);
        }
        Ok((child, io))
    }
}

/// Waits for the end of an exec and tells of it; only then is `running` over.
async fn watch(running: Running, exec: Arc<Process>, child: Child) {
    let pid = child.pid();
    let exit = match child.wait().await {
        Ok(exit) => exit,
        Err(error) => return log::error(error.within(format!("exec {:?}", exec.exec_id))),
    };
    // Its start has been told when its turn is ours.
    let _turn = exec.turn().await;
    running.0.publish_exit(&exec.exec_id, pid, exit);
    exec.ended(exit);
}

/// An exec that runs or is being started: the container's exit waits for it.
struct Running(Arc<Container>);

impl Running {
    fn new(container: Arc<Container>) -> Self {
        container.running.send_modify(|running| *running += 1);
        Self(container)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}

/// The id names files in the bundle.
fn check_exec_id(id: &str) -> Result<()> {
    let id: Result<rrun::state::ContainerId> = id.parse();
    id.map(drop).map_err(|error| error.within("exec"))
}
