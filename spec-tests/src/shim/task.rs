//! One container through the task service, as containerd's own handle of it.

use std::rc::Rc;
use std::time::Duration;

use containerd_shim_protos::api::{
    CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PidsRequest,
    PidsResponse, ResizePtyRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest,
    StateResponse, WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::types::mount::Mount;
use serde_json::{Value, json};

use super::containerd::{Containerd, Shim, remove_bundle};
use super::streams::Streams;
use super::wire::{Answer, Pending};
use crate::bundle::Bundle;
use crate::case::Test;
use crate::runtime::HANG;

/// A container.
pub struct Task {
    /// The shim that has it.
    pub shim: Rc<Shim>,
    /// Its bundle.
    pub bundle: Bundle,
    /// Its id.
    pub id: String,
    /// The pid of its first process.
    pub pid: i32,
}

/// What `Create` is asked beyond the bundle.
#[derive(Default)]
pub struct Wish {
    /// Where its first process reads and writes.
    pub streams: Streams,
    /// Mounts that make the root.
    pub rootfs: Vec<Mount>,
    /// Options for the shim, also given to `start`.
    pub options: Option<Any>,
}

impl From<Streams> for Wish {
    fn from(streams: Streams) -> Wish {
        Wish {
            streams,
            ..Wish::default()
        }
    }
}

impl Task {
    /// Starts a shim for the bundle (or finds the one of its group) and creates
    /// the container.
    ///
    /// # Errors
    /// What `start` or `Create` answers; the shim is told to leave.
    #[track_caller]
    pub fn try_create(
        containerd: &Containerd<'_>,
        bundle: Bundle,
        wish: Wish,
    ) -> Result<Task, String> {
        let shim = containerd.start(&bundle, wish.options.as_ref())?;
        let id = bundle.id.clone();
        Task::create_in(&shim, bundle, wish).map_err(|failure| {
            let _: Answer<Empty> = shim.call("Shutdown", &shutdown(&id));
            failure.text
        })
    }

    /// [`try_create`](Task::try_create) that has to succeed.
    ///
    /// # Panics
    /// With what was answered.
    #[track_caller]
    pub fn create(containerd: &Containerd<'_>, bundle: Bundle, wish: impl Into<Wish>) -> Task {
        Task::try_create(containerd, bundle, wish.into()).expect("create")
    }

    /// Creates and starts.
    ///
    /// # Panics
    /// With what was answered.
    #[track_caller]
    pub fn run(containerd: &Containerd<'_>, bundle: Bundle, wish: impl Into<Wish>) -> Task {
        let task = Task::create(containerd, bundle, wish);
        task.start("").expect("start");
        task
    }

    /// Creates the container in a shim that runs already.
    ///
    /// # Errors
    /// What `Create` answers.
    #[track_caller]
    pub fn create_in(shim: &Rc<Shim>, bundle: Bundle, wish: Wish) -> Answer<Task> {
        let created: CreateTaskResponse = Task::creating(shim, &bundle, wish).wait()?;
        Ok(Task {
            shim: shim.clone(),
            id: bundle.id.clone(),
            bundle,
            pid: created.pid as i32,
        })
    }

    /// A `Create` that was sent.
    pub fn creating(shim: &Rc<Shim>, bundle: &Bundle, wish: Wish) -> Pending {
        let request = CreateTaskRequest {
            id: bundle.id.clone(),
            bundle: bundle.path.display().to_string(),
            rootfs: wish.rootfs,
            terminal: wish.streams.terminal,
            stdin: wish.streams.stdin,
            stdout: wish.streams.stdout,
            stderr: wish.streams.stderr,
            options: MessageField::from_option(wish.options),
            ..CreateTaskRequest::default()
        };
        shim.send("Create", &request)
    }

    /// Starts the first process, or an exec; its pid.
    ///
    /// # Errors
    /// What the shim answers.
    #[track_caller]
    pub fn start(&self, exec: &str) -> Answer<i32> {
        let request = StartRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            ..StartRequest::default()
        };
        let started: StartResponse = self.shim.call("Start", &request)?;
        Ok(started.pid as i32)
    }

    /// Adds an exec.
    ///
    /// # Errors
    /// What the shim answers.
    #[track_caller]
    pub fn add_exec(&self, exec: &str, args: &[&str], streams: Streams) -> Answer<()> {
        let process = self.process(args, streams.terminal);
        self.add_process(exec, &process, streams)
    }

    /// Adds an exec of this process.
    ///
    /// # Errors
    /// What the shim answers.
    #[track_caller]
    pub fn add_process(&self, exec: &str, process: &Value, streams: Streams) -> Answer<()> {
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
            value: process.to_string().into_bytes(),
            ..Any::default()
        };
        let request = ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            terminal: streams.terminal,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            spec: MessageField::some(spec),
            ..ExecProcessRequest::default()
        };
        self.shim.call("Exec", &request).map(|_: Empty| ())
    }

    /// The process of an exec with these words.
    pub fn process(&self, args: &[&str], terminal: bool) -> Value {
        let mut process = self.bundle.config()["process"].clone();
        process["args"] = json!(args);
        process["terminal"] = json!(terminal);
        process
    }

    /// Adds an exec and starts it; its pid.
    ///
    /// # Panics
    /// With what the shim answers.
    #[track_caller]
    pub fn exec(&self, exec: &str, args: &[&str], streams: Streams) -> i32 {
        self.add_exec(exec, args, streams).expect("exec");
        self.start(exec).expect("start of an exec")
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// What the shim answers.
    #[track_caller]
    pub fn kill(&self, exec: &str, signal: i32) -> Answer<()> {
        let request = KillRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            signal: signal as u32,
            ..KillRequest::default()
        };
        self.shim.call("Kill", &request).map(|_: Empty| ())
    }

    /// A `Wait` that was sent.
    pub fn waiting(&self, exec: &str) -> Pending {
        let request = WaitRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            ..WaitRequest::default()
        };
        self.shim.send("Wait", &request)
    }

    /// Waits for the end; the status.
    ///
    /// # Panics
    /// With what the shim answers.
    #[track_caller]
    pub fn wait(&self, exec: &str) -> u32 {
        let answer: WaitResponse = self.waiting(exec).wait().expect("wait");
        assert!(answer.exited_at.is_some(), "Wait answers no time");
        answer.exit_status
    }

    /// Forgets the first process or an exec.
    ///
    /// # Errors
    /// What the shim answers.
    #[track_caller]
    pub fn delete(&self, exec: &str) -> Answer<DeleteResponse> {
        let request = DeleteRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            ..DeleteRequest::default()
        };
        self.shim.call("Delete", &request)
    }

    /// The state of the first process or an exec.
    ///
    /// # Errors
    /// What the shim answers.
    #[track_caller]
    pub fn state(&self, exec: &str) -> Answer<StateResponse> {
        let request = StateRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            ..StateRequest::default()
        };
        self.shim.call("State", &request)
    }

    /// The processes.
    ///
    /// # Errors
    /// What the shim answers.
    #[track_caller]
    pub fn pids(&self) -> Answer<PidsResponse> {
        let request = PidsRequest {
            id: self.id.clone(),
            ..PidsRequest::default()
        };
        self.shim.call("Pids", &request)
    }

    /// Shim and first process.
    ///
    /// # Errors
    /// What the shim answers.
    #[track_caller]
    pub fn connect(&self) -> Answer<ConnectResponse> {
        let request = ConnectRequest {
            id: self.id.clone(),
            ..ConnectRequest::default()
        };
        self.shim.call("Connect", &request)
    }

    /// Closes the input.
    ///
    /// # Errors
    /// What the shim answers.
    #[track_caller]
    pub fn close_stdin(&self, exec: &str) -> Answer<()> {
        let request = CloseIORequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            stdin: true,
            ..CloseIORequest::default()
        };
        self.shim.call("CloseIO", &request).map(|_: Empty| ())
    }

    /// Gives the terminal this size.
    ///
    /// # Errors
    /// What the shim answers.
    #[track_caller]
    pub fn resize(&self, exec: &str, rows: u32, columns: u32) -> Answer<()> {
        let request = ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            width: columns,
            height: rows,
            ..ResizePtyRequest::default()
        };
        self.shim.call("ResizePty", &request).map(|_: Empty| ())
    }

    /// All that containerd does at the end: kill, wait, delete, shut down; the
    /// status.
    ///
    /// # Panics
    /// With what the shim answers.
    #[track_caller]
    pub fn end(self) -> u32 {
        // Gone already is as good.
        let _ = self.kill("", libc::SIGKILL);
        self.finish()
    }

    /// [`end`](Task::end) of a container that ends by itself; its shim has to
    /// leave when this was its last one.
    ///
    /// # Panics
    /// With what the shim answers.
    #[track_caller]
    pub fn finish(self) -> u32 {
        let status = self.wait("");
        let deleted = self.delete("").expect("delete");
        assert_eq!(deleted.exit_status, status, "Delete and Wait disagree");
        self.leave();
        status
    }

    /// Shuts the shim down and removes the bundle, as containerd does after
    /// `Delete`.
    pub fn leave(self) {
        let _: Answer<Empty> = self.shim.call("Shutdown", &shutdown(&self.id));
        remove_bundle(&self.bundle);
    }

    /// [`end`](Task::end) of the last container: the shim has to be gone.
    ///
    /// # Panics
    /// When it stays.
    #[track_caller]
    pub fn end_all(self) -> u32 {
        let shim = self.shim.clone();
        let status = self.end();
        shim.wait_gone(GONE);
        status
    }
}

/// How long a shim may take to leave.
pub const GONE: Duration = HANG;

/// Has the shim leave that has no container.
///
/// # Panics
/// When it refuses. The Go shim may be gone before its answer is sent, which
/// containerd takes for one.
#[track_caller]
pub fn shut_down(test: &Test, shim: &Shim, id: &str) {
    let answer: Answer<Empty> = shim.call("Shutdown", &shutdown(id));
    if let Err(failure) = answer {
        let ended = failure.code.is_none() && test.is("containerd-shim-runc-v2");
        assert!(ended, "shutdown: {}", failure.text);
    }
}

/// The request to leave.
pub fn shutdown(id: &str) -> ShutdownRequest {
    ShutdownRequest {
        id: id.to_owned(),
        ..ShutdownRequest::default()
    }
}
