//! `rrun kill`: a signal for the container's first process, or for all.

use nix::errno::Errno;

use super::delete::open_cgroup;
use super::processes;
use crate::cli::{Global, Kill};
use crate::error::{Error, Kind, Result};
use crate::state::{Record, Root};

/// Sends the signal.
///
/// # Errors
/// `container not running`, in these words, which containerd looks for.
pub fn execute(global: &Global, kill: &Kill) -> Result<()> {
    // Without the lock: a start that hangs in a hook must not keep a signal
    // from what it waits for.
    let record = Root::open(global.root.as_deref())?
        .container(&kill.id)?
        .record()?;
    if kill.all {
        processes::signal(&record, kill.signal)
    } else {
        signal_init(&record, kill.signal)
    }
}

fn not_running() -> Error {
    Error::new(Kind::NotRunning, "container not running")
}

fn signal_init(record: &Record, signal: i32) -> Result<()> {
    let init = record.open_init()?.ok_or_else(not_running)?;
    match init.signal(signal) {
        Err(error) if error.errno() == Errno::ESRCH => return Err(not_running()),
        sent => sent?,
    }
    if signal != libc::SIGKILL {
        return Ok(());
    }
    let Some(cgroup) = open_cgroup(record)? else {
        return Ok(());
    };
    // Without a pid namespace of its own, what it started would live on.
    if record.shares_pid_namespace {
        return cgroup.kill();
    }
    cgroup.let_die()
}
