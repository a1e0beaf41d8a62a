//! The last steps: from root of the container to the program itself.

use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::container::NewContainer;
use super::progress::Step;
use super::{Life, identity, program, scheduling};
use crate::channel;
use crate::error::{Context, Error, Kind, Result};
use crate::hooks::{self, Place};
use crate::sys::descriptors::{self, CloseRange};
use crate::sys::{credentials, process, seccomp, signal};

/// The first byte of the answer to `start`, before execve.
pub const EXECUTING: &[u8] = b"x";

/// The two FIFOs of the state directory at which a created container waits.
///
/// Both are open for reading and writing, so that neither ever reads as ended
/// while the container lives. read(2) and write(2) are all they need: the
/// filter is loaded by then.
#[derive(Debug)]
pub struct Gate {
    start: OwnedFd,
    result: OwnedFd,
    passed: Cell<bool>,
}

impl Gate {
    /// A gate whose `start` FIFO gets one byte when the container may start,
    /// and whose `result` FIFO tells why it did not. execve closes both.
    #[must_use]
    pub fn new(start: OwnedFd, result: OwnedFd) -> Self {
        Self {
            start,
            result,
            passed: Cell::new(false),
        }
    }

    /// Both descriptors.
    pub(super) fn descriptors(&self) -> [std::os::fd::BorrowedFd<'_>; 2] {
        [self.start.as_fd(), self.result.as_fd()]
    }

    /// Whether `start` has come.
    pub(super) fn passed(&self) -> bool {
        self.passed.get()
    }

    /// Waits for `start`.
    pub(super) fn wait(&self) -> Result<()> {
        descriptors::read(self.start.as_fd(), &mut [0_u8; 1]).context(|| "wait for start")?;
        self.passed.set(true);
        Ok(())
    }

    /// Tells `start` that only execve is left: an end without this word is a
    /// death.
    pub(super) fn executing(&self) -> Result<()> {
        Ok(descriptors::write_all(self.result.as_fd(), EXECUTING)?)
    }

    /// Answers `start` with a failure.
    pub(super) fn answer(&self, error: &Error) -> Result<()> {
        Ok(descriptors::write_all(
            self.result.as_fd(),
            &channel::encode_error(error),
        )?)
    }
}

/// What is executed in the end.
pub(super) struct Program {
    path: CString,
    env: Vec<CString>,
}

/// Becomes the process in all but its program, tells the parent, and waits for
/// its word.
pub(super) fn become_process(life: &Life<'_>) -> Result<Program> {
    let process = life.process;
    life.progress.reach(Step::Identity);
    // Before any filter: profiles deny personality(2).
    if let Some(domain) = life.personality {
        credentials::set_personality(domain).context(|| "set execution domain")?;
    }
    if !life.scheduled_by_parent {
        scheduling::set_priorities(scheduling::SELF, &process.scheduling)?;
    }
    if let Some(policy) = life.memory_policy {
        scheduling::set_memory_policy(policy)?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(process.umask));
    // Without no_new_privs only CAP_SYS_ADMIN may load a filter, so it goes last.
    let keep_admin = life.filter.is_some() && !process.no_new_privileges;
    let home = process.home_from_passwd.then(|| program::home(process.uid));
    identity::assume(process)?;
    identity::drop_to(&process.capabilities, keep_admin)?;
    if process.no_new_privileges {
        credentials::set_no_new_privileges().context(|| "set no_new_privs")?;
    }

    life.progress.reach(Step::Program);
    let path = program::find(process)?;
    let mut env = process.env.clone();
    env.extend(home);

    // From here on an end of file on the channel tells of the parent's death.
    credentials::set_parent_death_signal(0)?;
    // What execve would hand on beyond the preserved descriptors.
    descriptors::close_range(3 + life.preserved, i32::MAX, CloseRange::OnExec)?;
    signal::reset_all()?;

    // Last, so that no limit hits our own work; the parent has raised the hard
    // ones, so this only lowers.
    for limit in &process.rlimits {
        credentials::set_rlimit(
            nix::unistd::Pid::from_raw(0),
            limit.resource,
            limit.soft,
            limit.hard,
        )
        .context(|| format!("set {}", limit.name))?;
    }

    life.progress.reach(Step::Seccomp);
    load_filter(life, keep_admin)?;
    life.channel.ready()?;
    life.wait()?;
    Ok(Program { path, env })
}

/// Loads the filter, behind which only read and write are sure to work, and
/// lets the parent fetch the notify descriptor.
fn load_filter(life: &Life<'_>, keep_admin: bool) -> Result<()> {
    let Some(filter) = life.filter else {
        return Ok(());
    };
    if life.dumpable_for_listener {
        // Not taken back: behind the filter that is one more call to allow.
        credentials::set_dumpable(true)?;
    }
    let listener =
        seccomp::load(&filter.program, filter.flags).context(|| "load seccomp filter")?;
    if let Some(listener) = listener {
        life.channel.listener(listener.as_raw_fd())?;
        life.wait()?;
        // Closing it would be one more call to allow; execve does.
        descriptors::leave_open(listener);
    }
    if keep_admin {
        identity::settle(&life.process.capabilities)?;
    }
    Ok(())
}

/// Runs the hooks that see the container as its program will.
pub(super) fn run_hooks(
    life: &Life<'_>,
    container: &NewContainer<'_>,
    program: &Program,
) -> Result<()> {
    let hooks = &container.plan.hooks.start_container;
    if hooks.is_empty() {
        return Ok(());
    }
    life.progress.reach(Step::StartHooks);
    let pid = nix::unistd::getpid().as_raw();
    let state = container.state.json("created", pid);
    hooks::run_all(
        "startContainer",
        hooks,
        &state,
        Place {
            directory: None,
            env: &program.env,
            output: container.hook_output,
        },
        &hooks::always_wanted,
    )
}

/// Replaces this process by its program.
pub(super) fn execute(life: &Life<'_>, program: &Program) -> Result<Infallible> {
    life.progress.reach(Step::Execution);
    process::execve(&program.path, &life.process.args, &program.env)
        .map_err(|error| {
            let kind = match error.errno() {
                nix::errno::Errno::ENOENT => Kind::CommandNotFound,
                _ => Kind::CommandNotExecutable,
            };
            Error::from(error).with_kind(kind)
        })
        .context(|| format!("exec {:?}", program.path))
}
