//! `rrun start`: opens the gate of a created container.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::delete::destroy_after;
use super::launch::NOTIFY;
use crate::channel;
use crate::child::EXECUTING;
use crate::cli::{self, Global};
use crate::error::{Context, Error, Kind, Result};
use crate::hooks;
use crate::log::Log;
use crate::notify::{self, Relay};
use crate::parent::gate;
use crate::plan::hooks::Hooks;
use crate::spec::Spec;
use crate::state::{CONFIG, Locked, Record, Root, Status};
use crate::sys::handle::Handle;
use crate::sys::{descriptors, directory};
use crate::timing;

/// Starts the program of the container.
///
/// # Errors
/// A container that is not `created`, and whatever keeps its program from
/// being executed, which ends the container.
pub fn execute(global: &Global, log: &Log, start: &cli::Start) -> Result<()> {
    let container = Root::open(global.root.as_deref())?.lock(&start.id)?;
    let record = container.record()?;
    check_created(&container, &record)?;
    // Not earlier: the one that has started it may still listen.
    let relay = relay(&container)?;
    open_gate(&container, &record)?;
    let spec = Spec::parse(&container.read(CONFIG)?)?;
    let hooks = Hooks::plan(&spec.hooks, &spec.annotations)?;
    if !hooks.poststart.is_empty() {
        let pid = record.init.map_or(0, |init| init.pid);
        let state = record.hook_state().json("running", pid);
        let unwanted = || container.is_renounced();
        if let Err(error) = hooks::run_poststart(&hooks, &state, &record.bundle, &unwanted) {
            // The container is stopped and deleted (runtime.md, "Lifecycle",
            // step 9).
            return Err(destroy_after(log, container, &record, error));
        }
    }
    match relay {
        Some(relay) => wait_until_ready(relay, container, &record),
        None => Ok(()),
    }
}

/// The way of the container's readiness to our service manager, if there is
/// one and the container was made for it.
fn relay(container: &Locked) -> Result<Option<Relay>> {
    let Some(manager) = notify::manager() else {
        return Ok(None);
    };
    match directory::open_in(container.dir(), NOTIFY) {
        Ok(directory) => Relay::bind(directory.as_fd(), manager).map(Some),
        Err(error) if error.errno() == Errno::ENOENT => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Stays until the container is ready, without keeping others from it.
fn wait_until_ready(mut relay: Relay, container: Locked, record: &Record) -> Result<()> {
    container.unlock()?;
    let Some(init) = record.init.as_ref() else {
        return Ok(());
    };
    match init.open()? {
        Some(process) => relay.wait(&process, init.pid),
        // It has ended, but may have said so before.
        None => relay.pass_all(init.pid).map(drop),
    }
}

/// Only a container that waits at its gate can be started.
fn check_created(container: &Locked, record: &Record) -> Result<()> {
    match container.status(record, || super::delete::is_frozen(record))? {
        Status::Created => Ok(()),
        Status::Stopped => {
            let text = "cannot start a container that has stopped";
            Err(Error::new(Kind::WrongState, text))
        }
        Status::Running => {
            let text = "cannot start an already running container";
            Err(Error::new(Kind::WrongState, text))
        }
        status => {
            let text = format!("cannot start a container in the {status} state");
            Err(Error::new(Kind::WrongState, text))
        }
    }
}

/// Lets the waiting process go and hears what became of it.
fn open_gate(container: &Locked, record: &Record) -> Result<()> {
    let gone = || {
        Error::new(
            Kind::NotRunning,
            "container not running: its process is gone",
        )
    };
    let init = record.open_init()?.ok_or_else(gone)?;
    let (word, result) = match gate::approach(container) {
        Err(error) if error.errno() == Some(Errno::ENXIO) => return Err(gone()),
        opened => opened?,
    };
    descriptors::write_all(word.as_fd(), b"s").context(|| "open the gate")?;
    timing::mark("gate");
    gate::close(container)?;
    judge(&answer(result.as_fd(), &init)?)
}

/// All that the process says before its execve, or its death, closes the pipe.
fn answer(result: BorrowedFd<'_>, init: &Handle) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    loop {
        let mut buffer = [0_u8; 4096];
        match descriptors::read(result, &mut buffer) {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(&buffer[..length]),
            // Nothing yet: until the pipe or the process ends.
            Err(error) if error.errno() == Errno::EAGAIN => {
                init.poll_end(&[result], None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(text)
}

/// The word that execve is next, alone, is success; a failure may stand behind
/// it or in its place; and silence is a death on the way.
fn judge(answer: &[u8]) -> Result<()> {
    let (announced, failure) = match answer.strip_prefix(EXECUTING) {
        Some(failure) => (true, failure),
        None => (false, answer),
    };
    match (announced, failure) {
        (true, []) => Ok(()),
        (false, []) => Err(Error::new(
            Kind::NotRunning,
            "container not running: its process died before its program was executed",
        )),
        (_, failure) => Err(channel::decode_error(failure)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_before_execve_is_a_death() {
        let failure = channel::encode_error(&Error::new(Kind::Hook, "no"));
        let announced = [EXECUTING, &failure].concat();
        for (name, answer, text) in [
            ("executed", EXECUTING, None),
            ("a hook failed", failure.as_slice(), Some("no")),
            ("execve failed", announced.as_slice(), Some("no")),
            (
                "killed",
                &[],
                Some("container not running: its process died before its program was executed"),
            ),
        ] {
            let judged = judge(answer).err().map(|error| error.to_string());
            assert_eq!(judged.as_deref(), text, "{name}");
        }
    }
}
