//! The processes of a container: those of its cgroup. Where nobody could make
//! one (rootless), those of its pid namespace; without that either, its first
//! process alone.

use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::delete::open_cgroup;
use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::state::Record;
use crate::sys;
use crate::sys::handle::Handle;

/// Lists them, as this process's pid namespace numbers them.
///
/// # Errors
/// Those of opening and reading the cgroup.
pub(super) fn list(record: &Record) -> Result<Vec<Pid>> {
    match cgroup(record)? {
        Some(cgroup) => cgroup.pids(),
        None => match alive(record)? {
            Some(init) => Home::of(record, init)?.pids(),
            None => Ok(Vec::new()),
        },
    }
}

/// Sends all of them a signal. A container that has ended has none.
///
/// # Errors
/// Those of the cgroup's files; `EPERM`.
pub(super) fn signal(record: &Record, signal: i32) -> Result<()> {
    match cgroup(record)? {
        Some(cgroup) if signal == libc::SIGKILL => return cgroup.kill(),
        Some(cgroup) => return cgroup.signal_all(signal),
        None => {}
    }
    let Some(init) = alive(record)? else {
        return Ok(());
    };
    let home = Home::of(record, init)?;
    for pid in home.pids()? {
        let sent = Handle::open(pid).and_then(|process| match home.holds(pid) {
            true => process.signal(signal),
            // The number has become another's before it was opened.
            false => Ok(()),
        });
        match sent {
            Err(error) if error.errno() == Errno::ESRCH => {}
            sent => sent?,
        }
    }
    Ok(())
}

/// The cgroup, if there is one in any hierarchy.
fn cgroup(record: &Record) -> Result<Option<Cgroup>> {
    Ok(open_cgroup(record)?.filter(|cgroup| !cgroup.is_nowhere()))
}

/// The first process, if it runs.
fn alive(record: &Record) -> Result<Option<Pid>> {
    match &record.init {
        Some(init) if init.is_alive()? => Ok(Some(Pid::from_raw(init.pid))),
        _ => Ok(None),
    }
}

/// Where the processes of a container without cgroup are.
enum Home {
    /// The first process, which shares its pid namespace with others.
    Alone(Pid),
    /// A pid namespace, by the device and inode of its file.
    Namespace(u64, u64),
}

impl Home {
    /// That of the container's first process `init`, which runs.
    fn of(record: &Record, init: Pid) -> Result<Self> {
        if record.shares_pid_namespace {
            return Ok(Home::Alone(init));
        }
        let path = format!("/proc/{init}/ns/pid");
        let file = sys::call(std::fs::metadata(&path), || format!("stat({path:?})"))?;
        Ok(Home::Namespace(file.dev(), file.ino()))
    }

    fn pids(&self) -> Result<Vec<Pid>> {
        let entries = sys::call(std::fs::read_dir("/proc"), || {
            "readdir(\"/proc\")".to_owned()
        })?;
        let numbers = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut pids: Vec<Pid> = numbers
            .map(Pid::from_raw)
            .filter(|pid| self.holds(*pid))
            .collect();
        pids.sort();
        Ok(pids)
    }

    fn holds(&self, pid: Pid) -> bool {
        match self {
            Home::Alone(init) => *init == pid,
            Home::Namespace(device, inode) => std::fs::metadata(format!("/proc/{pid}/ns/pid"))
                .is_ok_and(|file| (file.dev(), file.ino()) == (*device, *inode)),
        }
    }
}
