//! `rrun restore`: a container from the files of a checkpoint.

use crate::cli::{self, Global};
use crate::criu;
use crate::error::{Context, Error, Kind, Result};
use crate::foreground::{self, Foreground};
use crate::log::Log;
use crate::parent::restore::{self, Request};
use crate::spec::Spec;
use crate::state::Root;
use crate::sys;
use crate::timing;

use super::checkpoint::{Images, STREAMS, check_version};
use super::launch::{Prepared, Start, abandon, make_notify, prepare};
use super::run::{clean_up, end};

/// Restores the container and returns the exit code of its program, or 0 if it is
/// left running.
///
/// # Errors
/// No images, a config.json that can't be carried out, an id that is taken,
/// whatever criu says. Nothing is left then.
pub fn execute(global: &Global, log: &Log, args: &cli::Restore) -> Result<u8> {
    let program = criu::find(global.criu.as_deref())?;
    let images = Images::open(&args.criu)?;
    let streams = streams(&images)?;
    check_version(criu::version(&program)?, &args.needs())?;
    let start = if args.detach {
        Start::Detached
    } else {
        Start::Foreground
    };
    if !args.detach && !args.no_subreaper {
        foreground::become_subreaper()?;
    }
    // Before there is a child, so that none of its signals is lost.
    let foreground = match args.detach {
        true => None,
        false => Some(Foreground::prepare()?),
    };
    let new = args.new_container();
    let Prepared {
        plan,
        mut record,
        json,
        options: made,
    } = prepare(global, log, &new, &args.id, &new.bundle(), start)?;
    let mut options = images.options(&args.criu, &Spec::parse(&json)?, "restore.log");
    options.lsm_profile.clone_from(&args.lsm_profile);
    options
        .lsm_mount_context
        .clone_from(&args.lsm_mount_context);
    let request = Request {
        program: &program,
        options,
        directories: images.directories(),
        streams,
        log: images.log("restore.log"),
        console_socket: made.console_socket,
        announce: made.announce,
    };
    let container = Root::open(global.root.as_deref())?.create(&args.id)?;
    let claimed = container.claim(&json);
    if let Err(error) = &claimed
        && error.kind() == Kind::AlreadyExists
    {
        return claimed.map(|()| 0);
    }
    // Who leaves at once waits for nobody: a program that was ready before does
    // not say so again.
    let restored = claimed
        .and_then(|()| make_notify(&container, !args.detach))
        .and_then(|relay| {
            let restored = restore::restore(&plan, &container, &mut record, request)?;
            Ok((restored, relay))
        });
    let (restored, relay) = match restored {
        Ok(restored) => restored,
        Err(error) => return Err(abandon(log, container, &plan, &record, error)),
    };
    timing::mark("restored");
    let container = container.unlock()?;
    let Some(foreground) = foreground else {
        return Ok(0);
    };
    let (pid, handle) = (restored.pid, &restored.handle);
    let code = match foreground.supervise(log, pid, handle, restored.terminal, relay) {
        Ok(code) => code,
        Err(error) => return Err(end(log, container, &record, error)),
    };
    clean_up(log, container, &record, &plan.hooks).context(|| "delete")?;
    Ok(code)
}

/// The names that the container's standard streams had.
fn streams(images: &Images) -> Result<Vec<String>> {
    let path = images.path.join(STREAMS);
    let json = sys::call(std::fs::read(&path), || format!("open({path:?})"))?;
    serde_json::from_slice(&json)
        .map_err(|error| Error::new(Kind::System, format!("{path:?}: {error}")))
}
