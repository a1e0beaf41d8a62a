//! `rrun run`: create, start and, in the foreground, everything until the end.

use super::delete::destroy_after;
use super::launch::{Launched, Start, launch};
use crate::cli::{Global, Run};
use crate::error::{Context, Error, Kind, Result};
use crate::foreground::{self, Foreground};
use crate::hooks;
use crate::log::Log;
use crate::plan::hooks::Hooks;
use crate::state::{Container, Record};
use crate::timing;

/// Runs the container and returns the exit code of its program, or 0 if it is
/// left running.
///
/// # Errors
/// Those of [`launch`], and whatever keeps the program from being executed.
pub fn execute(global: &Global, log: &Log, run: &Run) -> Result<u8> {
    let (id, bundle) = run.id_and_bundle()?;
    let start = if run.detach {
        Start::Detached
    } else {
        Start::Foreground
    };
    if !run.detach && !run.no_subreaper {
        foreground::become_subreaper()?;
    }
    // Before there is a child, so that none of its signals is lost.
    let foreground = if run.detach {
        None
    } else {
        Some(Foreground::prepare()?)
    };
    let launched = launch(global, log, &run.new, &id, &bundle, start)?;
    let Launched {
        container,
        record,
        mut created,
        relay,
        plan,
    } = launched;

    let started = created
        .init
        .go_on()
        .and_then(|()| created.init.until_executed())
        .and_then(|()| {
            let state = record
                .hook_state()
                .json("running", created.init.pid.as_raw());
            hooks::run_poststart(&plan.hooks, &state, &record.bundle, &|| {
                container.is_renounced()
            })
        });
    if let Err(error) = started {
        created.init.kill();
        return Err(destroy_after(log, container, &record, error));
    }
    timing::mark("program is executed");
    // Others may now do with the container what they like.
    let container = container.unlock()?;
    let Some(foreground) = foreground else {
        if let Some(mut relay) = relay {
            relay.wait(&created.init.handle, created.init.pid.as_raw())?;
        }
        return Ok(0);
    };
    let terminal = created.init.terminal.take();
    let (pid, handle) = (created.init.pid, &created.init.handle);
    let code = match foreground.supervise(log, pid, handle, terminal, relay) {
        Ok(code) => code,
        Err(error) => return Err(end(log, container, &record, error)),
    };
    timing::mark("program");
    if !run.keep {
        clean_up(log, container, &record, &plan.hooks).context(|| "delete")?;
    }
    Ok(code)
}

/// Ends and deletes a container that nobody looks after any more because of `error`,
/// which is returned with what went wrong on the way.
pub(super) fn end(log: &Log, container: Container, record: &Record, error: Error) -> Error {
    match container.lock() {
        Ok(container) => destroy_after(log, container, record, error),
        Err(gone) if gone.kind() == Kind::NotFound => error,
        Err(failed) => error.and(&failed.within("clean up")),
    }
}

/// Deletes the container, unless somebody else has done so meanwhile.
pub(super) fn clean_up(
    log: &Log,
    container: Container,
    record: &Record,
    hooks: &Hooks,
) -> Result<()> {
    match container.lock() {
        Ok(container) => super::delete::destroy(log, container, record, hooks),
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
