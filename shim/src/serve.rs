//! The shim as a server: it outlives the `start` that made it, and ends when
//! its last container is gone.
//!
//! One thread does everything. Order of events: become a subreaper, connect to
//! containerd's events, serve calls until the pod is finished or a signal says
//! so, send what is left of the events, remove the socket.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rrun::error::{Error, Kind, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use ttrpc::asynchronous::Server;

use crate::bootstrap::socket;
use crate::cli::Invocation;
use crate::events::Publisher;
use crate::log;
use crate::pod::Pod;
use crate::reaper::Reaper;
use crate::service;

/// How long the last events are tried when the shim ends.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Serves the calls that come in on `listener` until no container is left.
///
/// # Errors
/// The server can't begin.
pub fn serve(invocation: &Invocation, listener: OwnedFd) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(Kind::System, format!("make an event loop: {error}")))?;
    runtime.block_on(run(invocation, listener))
}

async fn run(invocation: &Invocation, listener: OwnedFd) -> Result<()> {
    let reaper = Reaper::start()?;
    let events = Publisher::new(
        std::env::var("TTRPC_ADDRESS").unwrap_or_default(),
        invocation.namespace.clone(),
    );
    let pod = Arc::new(Pod::new(
        invocation.namespace.clone(),
        reaper,
        events.clone(),
    ));
    let mut server = Server::new()
        .add_listener(socket::listener(listener)?)
        .register_service(service::services(pod.clone()));
    server
        .start()
        .await
        .map_err(|error| Error::new(Kind::System, format!("serve: {error}")))?;
    tokio::select! {
        () = pod.finished() => {}
        stopped = until_stopped(&pod) => stopped?,
    }
    // The answer to `Shutdown` goes out first.
    let _late = tokio::time::timeout(Duration::from_millis(100), server.shutdown()).await;
    if !events.flush(LAST_EVENTS).await {
        log::error(format_args!("{} events are lost", events.waiting()));
    }
    remove_socket(&invocation.socket);
    Ok(())
}

/// Waits for a signal that ends the shim; SIGUSR1 has it print its state.
async fn until_stopped(pod: &Pod) -> Result<()> {
    let mut terminate = catch(SignalKind::terminate())?;
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut explain = catch(SignalKind::user_defined1())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = explain.recv() => log::info(pod.describe()),
        }
    }
    log::info("ended by a signal");
    Ok(())
}

fn catch(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| Error::new(Kind::System, format!("catch a signal: {error}")))
}

fn remove_socket(address: &str) {
    let path = Path::new(address.trim_start_matches("unix://"));
    if let Err(error) = fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        log::error(format_args!("remove {path:?}: {error}"));
    }
}
