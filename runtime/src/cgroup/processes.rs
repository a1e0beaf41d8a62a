//! The processes in the cgroup: listed, frozen, thawed, signalled.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::Cgroup;
use super::directory::{Directory, is_gone};
use crate::error::{Context, Error, Kind, Result};
use crate::sys;
use crate::sys::mutation::Defence;

/// How long the kernel may take to stop every task.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);

/// The two freezers.
enum Freezer<'cgroup> {
    /// `freezer.state`.
    V1(&'cgroup Directory),
    /// `cgroup.freeze` and the answer in `cgroup.events`.
    V2(&'cgroup Directory),
}

impl Cgroup {
    /// The processes in it and in the cgroups below, in our pid namespace.
    ///
    /// # Errors
    /// A directory can't be read; one that vanishes meanwhile is no error.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        let mut found = BTreeSet::new();
        if let Some(at) = self.primary() {
            collect(&at.directory, &mut found).context(|| "list the cgroup's processes")?;
        }
        Ok(found.into_iter().map(Pid::from_raw).collect())
    }

    /// Whether no process is left in it.
    ///
    /// # Errors
    /// As for [`pids`](Self::pids).
    pub fn is_empty(&self) -> Result<bool> {
        if let Some(v2) = self.unified()
            && let Ok(events) = v2.directory.read("cgroup.events")
        {
            return Ok(events.lines().any(|line| line == "populated 0"));
        }
        Ok(self.pids()?.is_empty())
    }

    /// Waits until no process is left in it: the kernel lets go of dead ones a
    /// moment after their end. Whether it came to that.
    ///
    /// # Errors
    /// As for [`pids`](Self::pids).
    pub fn empties(&self) -> Result<bool> {
        /// 1, 2, 4 ms and so on, a second in all.
        const LOOKS: u32 = 10;
        for look in 0..LOOKS {
            if self.is_empty()? {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(1 << look));
        }
        self.is_empty()
    }

    /// Stops every process, and returns when all have stopped.
    ///
    /// # Errors
    /// They don't stop in time (they are then set going again), or the kernel
    /// has no freezer.
    pub fn freeze(&self) -> Result<()> {
        let frozen = match self.freezer()? {
            Freezer::V1(directory) => freeze_v1(directory),
            Freezer::V2(directory) => freeze_v2(directory),
        };
        if frozen.is_err() {
            let _ = self.thaw();
        }
        frozen.context(|| "freeze the cgroup")
    }

    /// Sets every process going again.
    ///
    /// # Errors
    /// The kernel has no freezer.
    pub fn thaw(&self) -> Result<()> {
        let thawed = match self.freezer()? {
            Freezer::V1(directory) => directory.write("freezer.state", "THAWED"),
            Freezer::V2(directory) => directory.write("cgroup.freeze", "0"),
        };
        thawed.context(|| "thaw the cgroup")
    }

    /// Sets every process going that a freezer holds. On v1, where it does not even die
    /// before, also those that the container has frozen itself, in cgroups below.
    ///
    /// # Errors
    /// A directory can't be read or written; one that vanishes meanwhile is no error.
    pub fn let_die(&self) -> Result<()> {
        let Some(v1) = self.freezer_directory() else {
            return match self.is_frozen()? {
                true => self.thaw(),
                false => Ok(()),
            };
        };
        let file = Path::new("freezer.state");
        thaw_v1(&v1.directory, file)
            .and_then(|()| {
                v1.directory
                    .each_below(|above, name| thaw_v1(above, &Path::new(name).join(file)))
            })
            .context(|| "thaw the cgroup")
    }

    /// Whether it is frozen, or on its way there.
    ///
    /// # Errors
    /// Its state can't be read. Without a freezer it is not frozen.
    pub fn is_frozen(&self) -> Result<bool> {
        let (directory, file, thawed) = match self.freezer() {
            Ok(Freezer::V1(directory)) => (directory, "freezer.state", "THAWED"),
            Ok(Freezer::V2(directory)) => (directory, "cgroup.freeze", "0"),
            Err(_) => return Ok(false),
        };
        match directory.read(file) {
            Ok(state) => Ok(state.trim() != thawed),
            // Removed meanwhile, or before Linux 5.2.
            Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENODEV) => Ok(false),
            Err(error) => Err(error).context(|| "read the cgroup's freezer"),
        }
    }

    /// Kills every process, also those that fork meanwhile and those that are
    /// frozen.
    ///
    /// # Errors
    /// As for [`signal_all`](Self::signal_all).
    pub fn kill(&self) -> Result<()> {
        if let Some(v2) = self.unified()
            && !Defence::WholeCgroup.is_out()
        {
            // Since Linux 5.14; frozen ones die too.
            match v2.directory.write("cgroup.kill", "1") {
                Ok(()) if self.dirfd().is_some() => {
                    self.let_die()?;
                    // It signals main threads alone: the others of a process
                    // whose main thread has ended go on.
                    if self.empties()? {
                        return Ok(());
                    }
                }
                // In a hybrid tree somebody may have left this hierarchy
                // alone, and the v1 freezer must let the dying go.
                Ok(()) | Err(_) => {}
            }
        }
        self.signal_all(libc::SIGKILL)
    }

    /// Sends `signal` to every process, which is frozen meanwhile, so that
    /// none escapes by forking. A cgroup that was frozen before stays so,
    /// unless the signal is SIGKILL.
    ///
    /// # Errors
    /// The processes can't be listed, signalled or thawed.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        let paused = self.is_frozen().unwrap_or(false);
        // Who is not there can't fork; and to freeze and thaw costs a tenth of a
        // millisecond each on v1, where it patches the scheduler's code.
        if !paused && self.listed()?.is_empty() {
            return Ok(());
        }
        // Where nobody can freeze (rootless), the list is repeated instead.
        let apart = Defence::WholeCgroup.is_out();
        let frozen = paused || (!apart && self.freeze().is_ok());
        let rounds = if frozen || apart || signal != libc::SIGKILL {
            1
        } else {
            10
        };
        let mut signalled = Ok(());
        for _ in 0..rounds {
            let sent = self.signal_listed(signal);
            let done = matches!(sent, Ok(0));
            signalled = sent.map(drop);
            if done {
                break;
            }
        }
        let thawed = match signal {
            libc::SIGKILL => self.let_die(),
            _ if frozen && !paused => self.thaw(),
            _ => Ok(()),
        };
        signalled.and(thawed)
    }

    /// The processes of the directories that are signalled and frozen.
    fn listed(&self) -> Result<BTreeSet<i32>> {
        let mut found = BTreeSet::new();
        for at in self.primary().into_iter().chain(self.freezer_directory()) {
            collect(&at.directory, &mut found).context(|| "list the cgroup's processes")?;
        }
        Ok(found)
    }

    /// Sends `signal` to the processes of every directory: how many.
    fn signal_listed(&self, signal: i32) -> Result<usize> {
        let found = self.listed()?;
        if Defence::WholeCgroup.is_out() {
            std::thread::sleep(Duration::from_millis(2));
        }
        for pid in &found {
            match sys::signal::send(Pid::from_raw(*pid), signal) {
                Err(error) if error.errno() == Errno::ESRCH => {}
                sent => sent?,
            }
        }
        Ok(found.len())
    }

    fn freezer_directory(&self) -> Option<&super::Joined> {
        self.joined.iter().find(|at| at.member.has("freezer"))
    }

    fn freezer(&self) -> Result<Freezer<'_>> {
        if let Some(v1) = self.freezer_directory() {
            return Ok(Freezer::V1(&v1.directory));
        }
        match self.unified() {
            Some(v2) => Ok(Freezer::V2(&v2.directory)),
            None => Err(Error::new(
                Kind::Unsupported,
                "the freezer controller is not available",
            )),
        }
    }
}

/// Adds the processes in `directory` and below.
fn collect(directory: &Directory, found: &mut BTreeSet<i32>) -> sys::Result<()> {
    add_listed(directory, Path::new("cgroup.procs"), found)?;
    directory
        .each_below(|above, name| add_listed(above, &Path::new(name).join("cgroup.procs"), found))
}

/// Adds the processes that one `cgroup.procs` lists.
fn add_listed(above: &Directory, file: &Path, found: &mut BTreeSet<i32>) -> sys::Result<()> {
    match above.read(file) {
        // 0 stands for a process outside of our pid namespace.
        Ok(text) => {
            let listed = text.lines().filter_map(|line| line.parse::<i32>().ok());
            found.extend(listed.filter(|pid| *pid != 0));
        }
        Err(error) if is_gone(&error) => {}
        // A threaded cgroup's processes are listed by its domain above.
        Err(error) if error.errno() == Errno::EOPNOTSUPP => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Writes to a `freezer.state`, unless that says `THAWED`.
fn thaw_v1(above: &Directory, file: &Path) -> sys::Result<()> {
    let thawed = match above.read(file) {
        Ok(state) if state.trim() == "THAWED" => Ok(()),
        Ok(_) => above.write(file, "THAWED"),
        Err(error) => Err(error),
    };
    match thawed {
        Err(error) if is_gone(&error) => Ok(()),
        thawed => thawed,
    }
}

/// v1 freezes while tasks are being made, and may miss one: the state stays
/// `FREEZING` until it is written again, at times only after a thaw
/// (freezer-subsystem.txt of the kernel).
fn freeze_v1(directory: &Directory) -> sys::Result<()> {
    let deadline = Instant::now() + FREEZE_TIMEOUT;
    let mut attempt: u32 = 0;
    loop {
        attempt += 1;
        if attempt % 50 == 49 {
            let _ = directory.write("freezer.state", "THAWED");
            std::thread::sleep(Duration::from_millis(10));
        }
        directory.write("freezer.state", "FROZEN")?;
        if attempt % 25 == 24 {
            std::thread::sleep(Duration::from_micros(10));
        }
        if directory.read("freezer.state")?.trim() == "FROZEN" {
            return Ok(());
        }
        if Instant::now() > deadline {
            let text = format!(
                "write({:?}, \"FROZEN\")",
                directory.path().join("freezer.state")
            );
            return Err(sys::Error::new(text, Errno::ETIMEDOUT));
        }
        std::thread::sleep(Duration::from_micros(u64::from(attempt.min(100)) * 20));
    }
}

/// v2 tells when all have stopped by a change of `cgroup.events`. A `kill` of
/// the container thaws it without a lock, so that is looked for now and then.
fn freeze_v2(directory: &Directory) -> sys::Result<()> {
    const TICK: Duration = Duration::from_millis(100);
    directory.write("cgroup.freeze", "1")?;
    let deadline = Instant::now() + FREEZE_TIMEOUT;
    let events = directory.watch("cgroup.events")?;
    loop {
        let text = events.text()?;
        if text.lines().any(|line| line == "frozen 1") {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let tick = PollTimeout::try_from(left.min(TICK)).unwrap_or(PollTimeout::MAX);
        let ready = poll(&mut [PollFd::new(events.fd(), PollFlags::POLLPRI)], tick);
        if directory.read("cgroup.freeze")?.trim() == "0" {
            directory.write("cgroup.freeze", "1")?;
        }
        if ready == Ok(0) && left.is_zero() {
            let text = format!("poll({:?})", directory.path().join("cgroup.events"));
            return Err(sys::Error::new(text, Errno::ETIMEDOUT));
        }
    }
}
