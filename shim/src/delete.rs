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
use std::time::SystemTime;

use containerd_shim_protos::api::DeleteResponse;
use protobuf::Message as _;
use rrun::error::{Context, Error, Kind, Result};

use crate::bootstrap::{socket, working_directory};
use crate::cli::Invocation;
use crate::options::Options;
use crate::reaper::{Exit, Reaper};
use crate::runtime::Runtime;
use crate::{exit_status, rootfs};

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
    for step in [
        remove_container(invocation, &bundle),
        rootfs::unmount(&bundle.join("rootfs")),
        remove_socket(&bundle),
    ] {
        if let Err(error) = step {
            eprintln!("containerd-shim-rrun-v2: {error}");
        }
    }
    answer(&bundle)
}

fn remove_container(invocation: &Invocation, bundle: &Path) -> Result<()> {
    let options = Options::load(bundle, &invocation.namespace)?;
    let event_loop = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(Kind::System, format!("make an event loop: {error}")))?;
    event_loop.block_on(async {
        let runtime = Runtime::new(Reaper::start()?, options, &invocation.id, bundle);
        runtime.delete(true).await
    })
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
