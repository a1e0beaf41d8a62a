//! `delete`: removes what a container has left, in place of a shim that is gone.
//!
//! containerd runs it when a shim was killed. The shim's children have been
//! given to somebody else, so nobody here can wait for them: what still runs is
//! killed, what is mounted is unmounted, and the answer is the exit status that
//! the shim has recorded, else 137.
//!
//! A failure does not stop the rest, and is no failure of the whole: containerd
//! would ignore the answer, and tell of an exit status 255. It logs what it finds
//! on standard error as warnings, and then tries to unmount and remove, too.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::DeleteResponse;
use protobuf::Message as _;
use rrun::error::{Context, Error, Kind, Result};

use crate::apart::{self, Fate};
use crate::bootstrap::{socket, working_directory};
use crate::cli::Invocation;
use crate::options::Options;
use crate::reaper::{Exit, Reaper};
use crate::runtime::Runtime;
use crate::{exit_status, rootfs};

/// containerd kills a `delete` after 5 s and takes the exit for lost: what hangs
/// is given up before.
const RUNTIME: Duration = Duration::from_secs(3);
const UNMOUNT: Duration = Duration::from_secs(1);

/// 128 and SIGKILL: what is said of a container whose end nobody saw.
const KILLED: u32 = 137;

/// Answers `delete` on standard output.
///
/// # Errors
/// The answer can't be given.
pub(crate) fn delete(invocation: &Invocation) -> Result<()> {
    let bundle = match &invocation.bundle {
        Some(bundle) => bundle.clone(),
        None => working_directory()?,
    };
    let removed = event_loop()
        .and_then(|event_loop| event_loop.block_on(remove_container(invocation, &bundle)));
    for step in [removed, remove_socket(&bundle)] {
        if let Err(error) = step {
            eprintln!("containerd-shim-rrun-v2: {error}");
        }
    }
    answer(&bundle)
}

fn event_loop() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(Kind::System, format!("make an event loop: {error}")))
}

/// Has the runtime remove the container, then unmounts its root filesystem.
async fn remove_container(invocation: &Invocation, bundle: &Path) -> Result<()> {
    let reaper = Reaper::start()?;
    let options = Options::load(bundle, &invocation.namespace);
    let deleted = async {
        let runtime = Runtime::new(reaper.clone(), options?, &invocation.id, bundle);
        runtime.delete(true).await
    };
    let deleted = within(RUNTIME, "delete the container", deleted).await;
    let target = bundle.join("rootfs");
    let what = "unmount the rootfs";
    // It goes on when we have given it up.
    let unmounted = apart::run(&reaper, Fate::Own, what, || rootfs::unmount(&target));
    match (deleted, within(UNMOUNT, what, unmounted).await) {
        (Err(error), Err(other)) => Err(error.and(&other)),
        (deleted, unmounted) => deleted.and(unmounted),
    }
}

async fn within(limit: Duration, what: &str, step: impl Future<Output = Result<()>>) -> Result<()> {
    match tokio::time::timeout(limit, step).await {
        Ok(done) => done,
        Err(_) => {
            let text = format!("{what}: not done within {} s", limit.as_secs());
            Err(Error::new(Kind::System, text))
        }
    }
}

/// The socket of a shim that was killed; one that answers serves others.
fn remove_socket(bundle: &Path) -> Result<()> {
    match fs::read_to_string(bundle.join("address")) {
        Ok(address) => socket::remove_if_dead(address.trim()),
        Err(_) => Ok(()),
    }
}

fn answer(bundle: &Path) -> Result<()> {
    let (pid, exit) = exit_status::recorded(bundle).unwrap_or_else(|| {
        let exit = Exit {
            status: KILLED,
            at: SystemTime::now(),
        };
        (pid_of(bundle.join("init.pid")), exit)
    });
    let response = DeleteResponse {
        pid: pid.cast_unsigned(),
        exit_status: exit.status,
        exited_at: exit.timestamp(),
        ..DeleteResponse::default()
    };
    let failed = |error: &dyn std::fmt::Display| Error::new(Kind::System, error.to_string());
    let bytes = response.write_to_bytes().map_err(|error| failed(&error));
    let written = bytes.and_then(|bytes| {
        let mut output = std::io::stdout();
        output.write_all(&bytes).map_err(|error| failed(&error))
    });
    written.context(|| "write the answer")
}

fn pid_of(file: PathBuf) -> i32 {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}
