//! The shim as a server: it outlives the `start` that made it, and ends when
//! its last container is gone.
//!
//! One thread does everything. Order of events: become a subreaper, connect to
//! containerd's events, serve calls until the pod is finished or a signal says
//! so, send what is left of the events, remove the socket.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rrun::error::{Error, Kind, Result};
use rrun_sys::descriptors::{self, CloseRange};
use rrun_sys::signal::{self, IgnoredPipe};
use tokio::signal::unix::{Signal, SignalKind, signal as stream};
use ttrpc::asynchronous::Server;

use crate::bootstrap::{LISTENER, socket, working_directory};
use crate::cli::Invocation;
use crate::events::{Publisher, Via};
use crate::log;
use crate::pod::Pod;
use crate::reaper::Reaper;
use crate::service;

/// How long the last events are tried when the shim ends.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Serves the calls that come in on the inherited socket until no container is
/// left.
///
/// # Errors
/// The server can't begin.
pub(crate) fn serve(invocation: &Invocation) -> Result<()> {
    if !descriptors::is_inherited(LISTENER) {
        let text = "descriptor 3 is no listening socket: containerd runs this program by `start`";
        return Err(Error::new(Kind::Usage, text));
    }
    // The kernel's own would be that of /proc/self/exe. People look for this one;
    // it has room for no more.
    let _name = nix::sys::prctl::set_name(c"containerd-shim");
    // Signals that whoever started us ignores would be ignored in containers,
    // too; posix_spawn(3) of glibc leaves one of its own that way.
    signal::reset_all()?;
    let _pipe = IgnoredPipe::new()?;
    // What else containerd left open is nobody's here.
    descriptors::close_range(LISTENER + 1, i32::MAX, CloseRange::Close)?;
    let listener = descriptors::standard(LISTENER).try_clone_to_owned();
    let listener = listener
        .map_err(|error| Error::new(Kind::System, format!("take descriptor 3: {error}")))?;
    // The copy is ours alone: no child inherits it.
    descriptors::close_range(LISTENER, LISTENER, CloseRange::Close)?;
    log::open(&working_directory()?, invocation.debug);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(Kind::System, format!("make an event loop: {error}")))?;
    runtime.block_on(run(invocation, listener))
}

async fn run(invocation: &Invocation, listener: OwnedFd) -> Result<()> {
    let reaper = Reaper::start()?;
    // A pod has several for each process; fewer are better than no shim.
    if let Err(error) = reaper.raise_open_files() {
        log::warn(error);
    }
    let via = Via::choose(invocation, &reaper);
    let events = Publisher::new(via, invocation.namespace.clone());
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
    // Before it stops to answer: a `start` finds it, or makes a new one.
    let removed = socket::remove(&invocation.socket);
    // The answer to `Shutdown` goes out first.
    let _late = tokio::time::timeout(Duration::from_millis(100), server.shutdown()).await;
    if !events.flush(LAST_EVENTS).await {
        log::error(format_args!("{} events are lost", events.waiting()));
    }
    removed
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
    stream(kind).map_err(|error| Error::new(Kind::System, format!("catch a signal: {error}")))
}
