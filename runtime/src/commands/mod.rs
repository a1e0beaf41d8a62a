//! The commands, a file for each: options in, effects and output out.

pub mod checkpoint;
pub mod create;
pub mod delete;
pub mod events;
pub mod exec;
pub mod features;
pub mod kill;
mod launch;
pub mod list;
pub mod mounts;
pub mod pause;
pub mod plan;
mod processes;
pub mod ps;
pub mod restore;
pub mod resume;
pub mod run;
pub mod spec;
pub mod start;
pub mod state;
pub mod update;

use std::io::Write;

use crate::cli::{Command, Invocation};
use crate::error::{Context, Result};
use crate::log::Log;
use crate::sys;

/// Executes a command. The answer is the exit code: 0, or that of the
/// container's program.
///
/// # Errors
/// What made it fail, behind the command's name and its operand.
pub fn execute(invocation: &Invocation, log: &Log) -> Result<u8> {
    let global = &invocation.global;
    let command = &invocation.command;
    log.debug(|| format!("rrun {}: {invocation:?}", env!("CARGO_PKG_VERSION")));
    match command {
        Command::Create(args) => create::execute(global, log, args).map(|()| 0),
        Command::Start(args) => start::execute(global, log, args).map(|()| 0),
        Command::Run(args) => run::execute(global, log, args),
        Command::Exec(args) => exec::execute(global, log, args),
        Command::Kill(args) => kill::execute(global, args).map(|()| 0),
        Command::Delete(args) => delete::execute(global, log, args).map(|()| 0),
        Command::State(args) => state::execute(global, args).map(|()| 0),
        Command::List(args) => list::execute(global, log, args).map(|()| 0),
        Command::Ps(args) => ps::execute(global, args).map(|()| 0),
        Command::Plan(args) => plan::execute(global, args),
        Command::Pause(args) => pause::execute(global, args).map(|()| 0),
        Command::Resume(args) => resume::execute(global, args).map(|()| 0),
        Command::Update(args) => update::execute(global, log, args).map(|()| 0),
        Command::Mounts(args) => mounts::execute(global, log, args).map(|()| 0),
        Command::Events(args) => events::execute(global, log, args).map(|()| 0),
        Command::Checkpoint(args) => checkpoint::execute(global, log, args).map(|()| 0),
        Command::Restore(args) => restore::execute(global, log, args),
        Command::Spec(args) => spec::execute(args).map(|()| 0),
        Command::Features(_) => features::execute().map(|()| 0),
    }
    .context(|| command.phrase())
}

impl Command {
    /// What is being done, for messages: `create "web"`.
    fn phrase(&self) -> String {
        let of = |verb: &str, id: &crate::state::ContainerId| format!("{verb} {:?}", id.as_str());
        match self {
            Command::Create(args) => of("create", &args.id),
            Command::Start(args) => of("start", &args.id),
            Command::State(args) => of("state", &args.id),
            Command::Kill(args) => of("kill", &args.id),
            Command::Delete(args) => of("delete", &args.id),
            Command::Run(args) => match &args.target {
                crate::cli::RunTarget::Id(id) => of("run", id),
                crate::cli::RunTarget::Bundle(path) => format!("run {path:?}"),
            },
            Command::Exec(args) => of("exec", &args.id),
            Command::List(_) => "list".to_owned(),
            Command::Ps(args) => of("ps", &args.id),
            Command::Pause(args) => of("pause", &args.id),
            Command::Resume(args) => of("resume", &args.id),
            Command::Update(args) => of("update", &args.id),
            Command::Mounts(args) => of("mounts", &args.id),
            Command::Events(args) => of("events", &args.id),
            Command::Checkpoint(args) => of("checkpoint", &args.id),
            Command::Restore(args) => of("restore", &args.id),
            Command::Spec(_) => "spec".to_owned(),
            Command::Features(_) => "features".to_owned(),
            Command::Plan(args) => format!("plan {:?}", args.bundle()),
        }
    }

    /// The exit code of a failure: engines tell a failed `exec` from a
    /// program that returned 1 by 255.
    #[must_use]
    pub fn failure_code(&self) -> u8 {
        match self {
            Command::Exec(_) => 255,
            _ => 1,
        }
    }
}

/// Writes a command's output.
fn print(text: &str) -> Result<()> {
    let written = std::io::stdout().write_all(text.as_bytes());
    Ok(sys::call(written, || "write(stdout)".to_owned())?)
}
