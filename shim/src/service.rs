//! The task service of containerd, as v2 and as v3, which have the same
//! messages: each call is a few lines that end in a container.
//!
//! A call that changes something goes on to its end even if its client has
//! given up, so nothing is left half done.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim_async::{Task, create_task};
use protobuf::MessageField;
use rrun::error::{Error, Kind, Result};
use rrun_sys::terminal::Size;
use ttrpc::r#async::{Service, TtrpcContext};

use crate::container::State;
use crate::options::CheckpointOptions;
use crate::pod::Pod;

/// The service under both of its names, and the one that containerd asks for
/// although no shim of runc's kind has it: a service that is not there at all
/// would be answered with an invalid argument, not with "unimplemented".
#[must_use]
pub(crate) fn services(pod: Arc<Pod>) -> HashMap<String, Service> {
    let task = Arc::new(TaskService { pod });
    let v3 = create_task(task.clone()).into_values();
    let v2 = create_task(task).into_values();
    let names = ["containerd.task.v3.Task", "containerd.task.v2.Task"];
    let sandbox = Service {
        methods: HashMap::new(),
        streams: HashMap::new(),
    };
    let names = names.map(str::to_owned).into_iter();
    names
        .zip(v3.chain(v2))
        .chain([("containerd.runtime.sandbox.v1.Sandbox".to_owned(), sandbox)])
        .collect()
}

struct TaskService {
    pod: Arc<Pod>,
}

/// Runs a call to its end, whether or not anybody waits for the answer.
async fn to_the_end<T: Send + 'static>(
    call: impl Future<Output = Result<T>> + Send + 'static,
) -> ttrpc::Result<T> {
    match tokio::spawn(call).await {
        Ok(answer) => answer.map_err(|error| status(&error)),
        Err(error) => Err(status(&Error::new(Kind::System, error.to_string()))),
    }
}

/// The error as containerd understands it.
fn status(error: &Error) -> ttrpc::Error {
    use ttrpc::Code;

    let code = match error.kind() {
        Kind::Usage | Kind::InvalidConfig => Code::INVALID_ARGUMENT,
        Kind::NotFound | Kind::NotRunning => Code::NOT_FOUND,
        Kind::AlreadyExists => Code::ALREADY_EXISTS,
        Kind::WrongState => Code::FAILED_PRECONDITION,
        Kind::Unsupported => Code::UNIMPLEMENTED,
        Kind::CommandNotFound | Kind::CommandNotExecutable | Kind::Hook | Kind::System => {
            Code::UNKNOWN
        }
    };
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, error))
}

#[async_trait]
impl Task for TaskService {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        state(&self.pod, &request).map_err(|error| status(&error))
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let pod = self.pod.clone();
        let pid = to_the_end(async move { pod.create(&request).await }).await?;
        Ok(CreateTaskResponse {
            pid: pid.cast_unsigned(),
            ..CreateTaskResponse::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let pod = self.pod.clone();
        let pid = to_the_end(async move {
            let container = pod.container(&request.id)?;
            if request.exec_id.is_empty() {
                container.start().await
            } else {
                container.start_exec(&request.exec_id).await
            }
        });
        Ok(StartResponse {
            pid: pid.await?.cast_unsigned(),
            ..StartResponse::default()
        })
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: DeleteRequest,
    ) -> ttrpc::Result<DeleteResponse> {
        let pod = self.pod.clone();
        let (pid, exit) = to_the_end(async move {
            let container = pod.made(&request.id).await?;
            let deleted = container.delete(&request.exec_id).await?;
            if request.exec_id.is_empty() {
                pod.remove(&request.id);
            }
            Ok(deleted)
        })
        .await?;
        Ok(DeleteResponse {
            pid: pid.cast_unsigned(),
            exit_status: exit.status,
            exited_at: exit.timestamp(),
            ..DeleteResponse::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let pod = self.pod.clone();
        let pids = to_the_end(async move { pod.container(&request.id)?.pids().await }).await?;
        let process = |(pid, info): (i32, _)| ProcessInfo {
            pid: pid.cast_unsigned(),
            info: MessageField::from_option(info),
            ..ProcessInfo::default()
        };
        Ok(PidsResponse {
            processes: pids.into_iter().map(process).collect(),
            ..PidsResponse::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        to_the_end(async move { pod.container(&request.id)?.pause().await }).await?;
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        to_the_end(async move { pod.container(&request.id)?.resume().await }).await?;
        Ok(Empty::default())
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        request: CheckpointTaskRequest,
    ) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        to_the_end(async move {
            let container = pod.container(&request.id)?;
            let options = CheckpointOptions::parse(request.options.as_ref())?;
            let path = match options.image_path.as_str() {
                "" => PathBuf::from(&request.path),
                path => PathBuf::from(path),
            };
            container.checkpoint(&path, &options.flags()).await
        })
        .await?;
        Ok(Empty::default())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        to_the_end(async move {
            let container = pod.container(&request.id)?;
            container
                .kill(&request.exec_id, request.signal, request.all)
                .await
        })
        .await?;
        Ok(Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let container = self.pod.container(&request.id);
        let added = container.and_then(|container| container.add_exec(request));
        added.map_err(|error| status(&error))?;
        Ok(Empty::default())
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        let size = Size {
            rows: u16::try_from(request.height).unwrap_or(u16::MAX),
            columns: u16::try_from(request.width).unwrap_or(u16::MAX),
        };
        let process = self.pod.container(&request.id);
        let process = process.and_then(|container| container.process(&request.exec_id));
        let resized = process.and_then(|process| process.resize(size));
        resized.map_err(|error| status(&error))?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let process = self.pod.container(&request.id);
        let process = process.and_then(|container| container.process(&request.exec_id));
        let process = process.map_err(|error| status(&error))?;
        if request.stdin {
            process.close_stdin();
        }
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        to_the_end(async move {
            let container = pod.container(&request.id)?;
            let resources = request.resources.into_option().unwrap_or_default();
            container.update(&resources.value).await
        })
        .await?;
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let process = self.pod.container(&request.id);
        let process = process.and_then(|container| container.process(&request.exec_id));
        let process = process.map_err(|error| status(&error))?;
        let exit = process.wait().await.map_err(|error| status(&error))?;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: exit.timestamp(),
            ..WaitResponse::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let container = self.pod.container(&request.id);
        let metrics = container.and_then(|container| container.metrics());
        Ok(StatsResponse {
            stats: MessageField::some(metrics.map_err(|error| status(&error))?),
            ..StatsResponse::default()
        })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: ConnectRequest,
    ) -> ttrpc::Result<ConnectResponse> {
        let container = self.pod.container(&request.id);
        let pid = container.map_or(0, |container| container.init.pid());
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: pid.cast_unsigned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.pod.shutdown();
        Ok(Empty::default())
    }
}

fn state(pod: &Pod, request: &StateRequest) -> Result<StateResponse> {
    let container = pod.container(&request.id)?;
    let process = container.process(&request.exec_id)?;
    let state = match container.init.state() {
        // Every exec is frozen with it.
        State::Paused => State::Paused,
        _ => process.state(),
    };
    let exit = process.state().exit();
    Ok(StateResponse {
        // As the Go shim: an exec goes by its own id.
        id: match request.exec_id.as_str() {
            "" => container.id.clone(),
            exec_id => exec_id.to_owned(),
        },
        bundle: container.bundle.to_string_lossy().into_owned(),
        pid: process.pid().cast_unsigned(),
        status: status_of(state).into(),
        stdin: process.stdio.stdin.clone(),
        stdout: process.stdio.stdout.clone(),
        stderr: process.stdio.stderr.clone(),
        terminal: process.stdio.terminal,
        exit_status: exit.map_or(0, |exit| exit.status),
        exited_at: exit.map_or_else(MessageField::none, |exit| exit.timestamp()),
        exec_id: request.exec_id.clone(),
        ..StateResponse::default()
    })
}

fn status_of(state: State) -> Status {
    match state {
        State::Created => Status::CREATED,
        State::Running => Status::RUNNING,
        State::Paused => Status::PAUSED,
        State::Stopped(_) | State::Deleted => Status::STOPPED,
    }
}
