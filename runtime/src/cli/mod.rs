//! The command line: argv in, plain structs out, nothing decided.
//!
//! ```text
//! argv -> argv::canonical -> clap -> Invocation { global, command }
//!         Go's spelling      types
//! ```
//!
//! Engines speak to a program written in Go: a long flag has one dash or two
//! (`-no-subreaper`), a value stands behind `=` or in the next word, a switch
//! may be told `=false`, and in most commands flags may follow the id.
//! [`argv`] rewrites that to the one spelling that clap takes and words the
//! errors that engines look for; clap converts the values, prints the help,
//! and is where man pages and completions come from (`hack/docs`).

mod argv;
mod checkpoint;
mod global;
mod lifecycle;
mod observe;
mod values;

use std::ffi::OsString;

use clap::{Args as _, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::error::{Error, Kind, Result};

pub use checkpoint::{Checkpoint, Criu, Lock, Need, Restore};
pub use global::{CgroupManager, Global, Rootless};
pub use lifecycle::{Create, Delete, Exec, Kill, New, Run, RunTarget, Start, Update};
pub use observe::{
    Events, Features, List, ListFormat, Mounts, MountsAction, Pause, Plan, PlanFormat, Ps, Resume,
    Spec, State,
};
pub use values::ExecUser;

/// Runs containers from OCI bundles.
///
/// A bundle is a directory with a config.json and a root filesystem. `rrun
/// run bundle/` runs one. Engines make a container by `create`, begin its
/// program by `start`, end it by `kill` and remove it by `delete`.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "rrun",
    disable_help_subcommand = true,
    args_override_self = true,
    subcommand_required = true,
    verbatim_doc_comment,
    after_help = "`rrun COMMAND --help` has more. A long flag may be written with one dash."
)]
pub struct Invocation {
    /// Options in front of the command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One command with its options.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Make a container: its process waits for start
    ///
    /// Makes the container that the bundle's config.json describes, up to the
    /// point where its program would begin: namespaces, cgroup, mounts and
    /// hooks are there, and the process waits for `rrun start`.
    #[command(verbatim_doc_comment, after_help = CREATE)]
    Create(Create),
    /// Start the program of a created container
    Start(Start),
    /// Print the state of a container as JSON
    State(State),
    /// Send a signal to a container's first process
    #[command(after_help = KILL)]
    Kill(Kill),
    /// Delete a container and what it holds
    ///
    /// Removes the cgroup and the state of a stopped container, and runs its
    /// poststop hooks. What is left of a container whose creation was cut
    /// short is removed with --force.
    #[command(verbatim_doc_comment)]
    Delete(Delete),
    /// Make a container, start it and wait for its end
    ///
    /// In the foreground signals are handed on, the exit code is that of the
    /// program or 128 plus the number of the signal that ended it, and the
    /// container is deleted at its end.
    #[command(verbatim_doc_comment, after_help = RUN)]
    Run(Run),
    /// Run one more process in a container
    ///
    /// What is not given by flags or by --process is as in config.json. The
    /// exit code is that of the process, or 255 if it could not be run.
    #[command(verbatim_doc_comment, after_help = EXEC)]
    Exec(Exec),
    /// List the containers of the state root
    List(List),
    /// List the processes of a container
    #[command(after_help = PS)]
    Ps(Ps),
    /// Freeze all processes of a container
    Pause(Pause),
    /// Thaw a paused container
    Resume(Resume),
    /// Change the resource limits of a container
    #[command(after_help = UPDATE)]
    Update(Update),
    /// Add mounts to a container that runs, or remove them
    ///
    /// FILE has mounts as config.json has them: the list, or an object with
    /// the property mounts; - is standard input. add mounts all of them or
    /// none. remove looks only at their destinations, begins with the last,
    /// and follows no link.
    #[command(verbatim_doc_comment, after_help = MOUNTS)]
    Mounts(Mounts),
    /// Print statistics and out-of-memory events of a container
    Events(Events),
    /// Write the state of a running container to files, by CRIU
    ///
    /// The container ends, unless it is to be left running, and `rrun restore`
    /// makes it again from the files, here or on another host.
    #[command(verbatim_doc_comment, after_help = CHECKPOINT)]
    Checkpoint(Checkpoint),
    /// Make a container again from the files of a checkpoint
    ///
    /// The bundle is the one that it was made from, or a copy. The container's
    /// standard streams, as far as they were pipes, become those of this command.
    #[command(verbatim_doc_comment, after_help = RESTORE)]
    Restore(Restore),
    /// Write a config.json to begin with
    ///
    /// It runs a shell on the root filesystem in the folder rootfs, in
    /// namespaces of its own and with few capabilities.
    #[command(verbatim_doc_comment, after_help = SPEC)]
    Spec(Spec),
    /// Print what this runtime can do as JSON
    Features(Features),
    /// Show what would be done for a bundle, and do nothing
    ///
    /// Prints namespaces, mounts, devices, cgroup writes, capabilities, the
    /// syscall filter and hooks in order, and which fields of config.json are
    /// refused or ignored, and why. Needs no root.
    #[command(verbatim_doc_comment, after_help = PLAN)]
    Plan(Plan),
}

const CREATE: &str = "Example:
  rrun create --bundle /bundles/web --pid-file web.pid web
  rrun start web";
const KILL: &str = "Example:
  rrun kill web KILL";
const RUN: &str = "Examples:
  rrun run bundle/                   under the name of the folder
  rrun run --bundle bundle/ web      under another name
  rrun run --detach --bundle bundle/ --pid-file web.pid web";
const EXEC: &str = "Examples:
  rrun exec web ps
  rrun exec --tty --env TERM=xterm --user 1000:1000 web sh
  rrun exec --process process.json --detach --pid-file ps.pid web";
const PS: &str = "Example:
  rrun ps web -o pid,rss,args";
const UPDATE: &str = "Examples:
  rrun update --memory 64m --pids-limit 100 web
  echo '{\"cpu\":{\"shares\":512}}' | rrun update --resources - web";
const MOUNTS: &str = "Examples:
  echo '[{\"destination\":\"/mnt\",\"source\":\"/srv\",\"options\":[\"rbind\",\"ro\"]}]' > srv.json
  rrun mounts add web srv.json
  rrun mounts remove web srv.json";
const CHECKPOINT: &str = "Examples:
  rrun checkpoint --image-path web.images web
  rrun checkpoint --leave-running --tcp-established --image-path web.images web
  rrun checkpoint --pre-dump --image-path first web
  rrun checkpoint --parent-path ../first --image-path last web";
const RESTORE: &str = "Example:
  rrun restore --detach --bundle bundle/ --image-path web.images web";
const SPEC: &str = "Example:
  mkdir -p web/rootfs/bin
  cp /bin/busybox web/rootfs/bin/sh
  rrun spec --bundle web
  rrun run web/";
const PLAN: &str = "Examples:
  rrun plan bundle/
  rrun plan --json bundle/ | jq .mounts";

/// What a command line asks for.
#[derive(Debug, Clone)]
pub enum Parsed {
    /// A command to execute.
    Invocation(Box<Invocation>),
    /// Help or the version: text to print, and success.
    Text(String),
}

/// A command line that can't be read, with what could be read of it.
#[derive(Debug)]
pub struct Misread {
    /// What is wrong.
    pub error: Error,
    /// The options in front of the command, if those are right: they say
    /// where the error goes.
    pub global: Option<Global>,
    /// The exit code: as under runc, a value that `exec` can't use is a failed
    /// exec (255), a flag that is none is not (1).
    pub code: u8,
}

/// Reads a command line, `argv[0]` included.
///
/// # Errors
/// [`Kind::Usage`] with the words of Go's flag package and of runc.
pub fn parse(argv: &[OsString]) -> Result<Parsed, Box<Misread>> {
    let program = program_for(argv);
    let words = match argv::canonical(&program, argv) {
        Ok(argv::Canonical::Words(words)) => words,
        Ok(argv::Canonical::Help(topic)) => return Ok(Parsed::Text(help(definition(), &topic))),
        Ok(argv::Canonical::Version) => return Ok(Parsed::Text(version())),
        Err(error) => {
            let global = global_alone(argv);
            let code = 1;
            return Err(Box::new(Misread {
                error,
                global,
                code,
            }));
        }
    };
    // Behind "--" are the operands.
    let mut command = words.iter().take_while(|word| *word != "--");
    let code = if command.any(|word| word == "exec") {
        255
    } else {
        1
    };
    let parsed = program
        .try_get_matches_from(words)
        .and_then(|mut matches| Invocation::from_arg_matches_mut(&mut matches));
    match parsed {
        Ok(invocation) => Ok(Parsed::Invocation(Box::new(invocation))),
        Err(error) => Err(Box::new(Misread {
            error: reword(&error),
            global: global_alone(argv),
            code,
        })),
    }
}

/// A command's options, added to what clap knows of it.
type Definition = fn(clap::Command) -> clap::Command;

/// The commands and where each is defined.
const DEFINITIONS: [(&str, Definition); 19] = [
    ("create", Create::augment_args),
    ("start", Start::augment_args),
    ("state", State::augment_args),
    ("kill", Kill::augment_args),
    ("delete", Delete::augment_args),
    ("run", Run::augment_args),
    ("exec", Exec::augment_args),
    ("list", List::augment_args),
    ("ps", Ps::augment_args),
    ("pause", Pause::augment_args),
    ("resume", Resume::augment_args),
    ("update", Update::augment_args),
    ("mounts", Mounts::augment_args),
    ("events", Events::augment_args),
    ("checkpoint", Checkpoint::augment_args),
    ("restore", Restore::augment_args),
    ("spec", Spec::augment_args),
    ("features", Features::augment_args),
    ("plan", Plan::augment_args),
];

/// The program with the commands that `argv` may mean: those whose name is a
/// word of it. To define all of them takes longer than the rest of the reading.
/// Without such a word all are defined, so that messages and help know them.
fn program_for(argv: &[OsString]) -> clap::Command {
    let named = |name: &str| argv.iter().skip(1).any(|word| word == name);
    let mut meant = DEFINITIONS
        .iter()
        .filter(|(name, _)| named(name))
        .peekable();
    if meant.peek().is_none() {
        return definition();
    }
    let program = clap::Command::new("rrun")
        .disable_help_subcommand(true)
        .args_override_self(true)
        .subcommand_required(true);
    Global::augment_args(program)
        .subcommands(meant.map(|(name, define)| define(clap::Command::new(*name))))
}

/// The global options of a command line that is wrong further on.
fn global_alone(argv: &[OsString]) -> Option<Global> {
    /// The global options without a command.
    #[derive(Debug, Parser)]
    #[command(args_override_self = true)]
    struct Alone {
        #[command(flatten)]
        global: Global,
    }
    let words = argv::global_part(&Alone::command(), argv).ok()?;
    Some(Alone::try_parse_from(words).ok()?.global)
}

/// clap's error as one line in our manner.
fn reword(error: &clap::Error) -> Error {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    // A flag is named as `--cpu-share <VALUE>`: its own name is the operand.
    let flag = text(ContextKind::InvalidArg)
        .map(|arg| arg.split(' ').next().unwrap_or_default().to_owned())
        .unwrap_or_default();
    let operand = if flag.starts_with('-') {
        format!(" for flag {flag}")
    } else {
        String::new()
    };
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let line = match error.kind() {
        ErrorKind::ValueValidation => {
            let cause = std::error::Error::source(error).map_or(String::new(), ToString::to_string);
            if operand.is_empty() {
                cause
            } else {
                format!("invalid value {value:?}{operand}: {cause}")
            }
        }
        ErrorKind::InvalidValue => {
            let valid = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(values)) => values.join(", "),
                _ => String::new(),
            };
            format!("invalid value {value:?}{operand}: not one of {valid}")
        }
        // The layer before clap leaves nothing else to find; should it, the
        // first line of clap's text says it best.
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.strip_prefix("error: ").unwrap_or(line).to_owned()
        }
    };
    Error::new(Kind::Usage, line)
}

/// The help of a command, or of the program.
fn help(mut program: clap::Command, topic: &argv::Topic) -> String {
    program.build();
    let command = topic.command.as_deref();
    let command = command.and_then(|name| program.find_subcommand_mut(name).cloned());
    let mut command = command.unwrap_or(program);
    let text = match topic.depth {
        argv::Depth::Summary => command.render_help(),
        argv::Depth::Whole => command.render_long_help(),
    };
    text.to_string()
}

/// The text of `--version`, in runc's form, which Docker reads.
fn version() -> String {
    format!(
        "rrun version {}\ncommit: {}\nspec: {}\n",
        env!("CARGO_PKG_VERSION"),
        env!("RRUN_COMMIT"),
        crate::spec::VERSION
    )
}

/// The command definitions, for man pages and completions.
#[must_use]
pub fn definition() -> clap::Command {
    Invocation::command()
}

#[cfg(test)]
mod tests;
