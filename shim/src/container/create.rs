//! How a container begins: rootfs, streams, runtime, cgroups, event.
//!
//! What was done is undone when a later step fails.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use containerd_shim_protos::topics;
use protobuf::MessageField;
use rrun::error::{Error, Kind, Result};
use tokio::sync::watch;

use super::Container;
use super::process::Process;
use crate::apart::{self, Fate};
use crate::options::Options;
use crate::pod::Shared;
use crate::runtime::Runtime;
use crate::stats::Cgroups;
use crate::{log, rootfs, stdio};

/// Creates the container that `request` describes.
///
/// # Errors
/// A mount, a stream or the runtime fails; nothing is left.
pub(crate) async fn create(
    shared: &Arc<Shared>,
    request: &CreateTaskRequest,
) -> Result<Arc<Container>> {
    let bundle = PathBuf::from(&request.bundle);
    let options = Options::parse(request.options.as_ref(), &shared.namespace)?;
    options.save(&bundle)?;
    let container = Arc::new(Container {
        id: request.id.clone(),
        init: Arc::new(Process::new(String::new(), streams(request), Vec::new())),
        shared: shared.clone(),
        runtime: Runtime::new(shared.reaper.clone(), options, &request.id, &bundle),
        execs: Mutex::new(BTreeMap::new()),
        running: watch::Sender::new(0),
        init_ended: AtomicBool::new(false),
        cgroups: Mutex::new(None),
        shares_pids: shares_pids(&bundle)?,
        checkpoint: match request.checkpoint.as_str() {
            "" => None,
            path => Some(PathBuf::from(path)),
        },
        bundle,
    });
    let target = container.bundle.join("rootfs");
    if !request.rootfs.is_empty() {
        let mounted = || rootfs::mount(&request.rootfs, &target);
        apart::run(&shared.reaper, Fate::Shared, "mount the rootfs", mounted).await?;
    }
    // Its end is held back until it was told that it was created.
    let turn = container.init.turn().await;
    if container.checkpoint.is_none()
        && let Err(error) = begin(&container, None).await
    {
        return Err(match container.unmount().await {
            Ok(()) => error,
            Err(left) => error.and(&left),
        });
    }
    shared.publish(
        topics::TASK_CREATE_EVENT_TOPIC,
        &created(request, container.init.pid()),
    );
    drop(turn);
    Ok(container)
}

/// Restores the first process from the checkpoint at `image`.
///
/// # Errors
/// Those of the runtime.
pub(super) async fn restore(container: &Arc<Container>, image: &Path) -> Result<()> {
    begin(container, Some(image)).await
}

/// Opens the streams and has the runtime make the first process.
async fn begin(container: &Arc<Container>, image: Option<&Path>) -> Result<()> {
    let (ends, mut io) = stdio::open(&container.init.stdio, &container.place("")).await?;
    let expecting = container.shared.reaper.await_pid();
    // A container that was there before is another's.
    let known = container.runtime.has_state();
    let made = match image {
        None => container.runtime.create(ends).await,
        Some(image) => container.runtime.restore(image, ends).await,
    };
    let pid = match made {
        Ok(pid) => pid,
        Err(error) if known => return Err(error),
        Err(error) => return Err(undone(container, error).await),
    };
    let child = container.shared.reaper.adopt(pid, &expecting);
    if let Err(error) = io.connect().await {
        return Err(undone(container, error).await);
    }
    container.init.connected(pid, io);
    match Cgroups::of(pid) {
        Ok(cgroups) => {
            // From now on: memory may run out before `Start` is answered.
            container.shared.oom.watch(&container.id, &cgroups);
            *container.cgroups() = Some(Arc::new(cgroups));
        }
        Err(error) => log::warn(error.within(format!("container {:?}", container.id))),
    }
    tokio::spawn(container.clone().watch(child));
    Ok(())
}

/// Removes what the runtime may have made, after `error`.
async fn undone(container: &Container, error: Error) -> Error {
    match container.runtime.delete(true).await {
        Ok(()) => error,
        Err(left) => error.and(&left),
    }
}

fn streams(request: &CreateTaskRequest) -> stdio::Request {
    stdio::Request {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    }
}

fn created(request: &CreateTaskRequest, pid: i32) -> TaskCreate {
    TaskCreate {
        container_id: request.id.clone(),
        bundle: request.bundle.clone(),
        rootfs: request.rootfs.clone(),
        io: MessageField::some(TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..TaskIO::default()
        }),
        checkpoint: request.checkpoint.clone(),
        pid: pid.cast_unsigned(),
        ..TaskCreate::default()
    }
}

/// Whether the container has no pid namespace of its own, so that the kernel
/// does not end it with its first process.
fn shares_pids(bundle: &Path) -> Result<bool> {
    let path = bundle.join("config.json");
    let failed = |error: &dyn std::fmt::Display| {
        Error::new(Kind::InvalidConfig, format!("read {path:?}: {error}"))
    };
    let text = fs::read(&path).map_err(|error| failed(&error))?;
    let config: Config = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    let own = |namespace: &Namespace| {
        namespace.kind == "pid" && namespace.path.as_deref().unwrap_or_default().is_empty()
    };
    let linux = config.linux.unwrap_or_default();
    Ok(!linux.namespaces.unwrap_or_default().iter().any(own))
}

/// The little that the shim wants to know of config.json.
#[derive(serde::Deserialize)]
struct Config {
    linux: Option<Linux>,
}

#[derive(Default, serde::Deserialize)]
struct Linux {
    namespaces: Option<Vec<Namespace>>,
}

#[derive(serde::Deserialize)]
struct Namespace {
    #[serde(rename = "type", default)]
    kind: String,
    path: Option<String>,
}
