//! `start`: brings up a server for a container, or finds the one of its pod,
//! and tells containerd its address.
//!
//! 1. What containerd says comes as flags, environment and standard input, whose
//!    form depends on its version ([`request`]).
//! 2. The pod's name decides the address, so every container of a pod finds the
//!    same one ([`socket`]).
//! 3. The address is written into the bundle, where containerd 1.x looks for it
//!    after a restart: before there is a server, so that none is ever unknown.
//! 4. Whoever binds it first starts the server, which inherits the listening
//!    socket as descriptor 3: a client that connects early waits in its queue.
//! 5. The address is answered in the form that this containerd reads.
//!
//! containerd takes standard output and standard error for one answer: nothing
//! is written on success but that.

mod group;
mod placement;
mod request;
pub(crate) mod socket;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rrun::error::{Context, Error, Kind, Result};
use rrun_sys::descriptors;

use crate::cli::Invocation;
use crate::options::Options;
use request::Request;

pub(crate) use request::read_any;

/// The descriptor on which the server finds its listening socket.
pub(crate) const LISTENER: i32 = 3;

/// Answers `start` on standard output.
///
/// # Errors
/// Bad input, or a server that can't be brought up.
pub(crate) fn start(invocation: &Invocation) -> Result<()> {
    let bundle = working_directory()?;
    let mut input = Vec::new();
    std::io::stdin()
        .read_to_end(&mut input)
        .map_err(|error| Error::new(Kind::System, format!("read standard input: {error}")))?;
    let request = Request::parse(&input, invocation)?;
    let options = Options::parse(request.options(), &invocation.namespace)?;
    let group = group::of(&bundle, &invocation.id)?;
    let address = socket::address(request.socket_dir(), invocation, &group);
    let listener = socket::listen(&address)?;
    let written = write_address(&bundle, &address);
    if let Some(listener) = listener {
        let started =
            written.and_then(|()| spawn(invocation, &request, &address, &listener, &options));
        if let Err(error) = started {
            return Err(match socket::remove(&address) {
                Ok(()) => error,
                Err(left) => error.and(&left),
            });
        }
    } else {
        written?;
    }
    let answer = request.answer(&address, std::env::var_os("MAX_SHIM_VERSION").is_some());
    std::io::stdout()
        .write_all(&answer)
        .map_err(|error| Error::new(Kind::System, format!("write the answer: {error}")))
}

/// Starts the server and places it where it belongs.
fn spawn(
    invocation: &Invocation,
    request: &Request,
    address: &str,
    listener: &OwnedFd,
    options: &Options,
) -> Result<()> {
    placement::new_core_cookie()?;
    // Without close-on-exec: the server inherits it.
    if listener.as_raw_fd() == LISTENER {
        descriptors::set_close_on_exec(listener.as_fd(), false)?;
    } else {
        descriptors::duplicate_onto(listener.as_fd(), LISTENER)?;
    }
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("containerd-shim-rrun-v2")
        .args(["-namespace", &invocation.namespace])
        .args(["-id", &invocation.id])
        .args(["-address", &invocation.address])
        .args(["-publish-binary", &invocation.publish_binary])
        .args(["-socket", address])
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if invocation.debug || request.debug() {
        command.arg("-debug");
    }
    if let Some(ttrpc) = request.ttrpc_address() {
        command.env("TTRPC_ADDRESS", ttrpc);
    }
    let mut server = command
        .spawn()
        .map_err(|error| Error::new(Kind::System, format!("start the server: {error}")))?;
    let pid = server.id().cast_signed();
    let placed = placement::place(pid, &options.shim_cgroup);
    if placed.is_err() {
        // It is ours and has no container yet.
        let _gone = server.kill().and_then(|()| server.wait());
    }
    placed
}

/// Writes the address where containerd 1.x looks for it.
fn write_address(bundle: &Path, address: &str) -> Result<()> {
    let path = bundle.join("address");
    let new = bundle.join(".address");
    let written = fs::write(&new, address).and_then(|()| fs::rename(&new, &path));
    written
        .map_err(|error| Error::new(Kind::System, error.to_string()))
        .context(|| format!("write {path:?}"))
}

/// The bundle is the working directory.
///
/// # Errors
/// It is gone.
pub(crate) fn working_directory() -> Result<std::path::PathBuf> {
    std::env::current_dir()
        .map_err(|error| Error::new(Kind::System, format!("find the working directory: {error}")))
}
