//! The container's groups in resctrl: made, joined, written, and removed.
//!
//! What is to be done comes as data, an [`IntelRdt`]; this module does it.
//! The order of events for a new container:
//!
//! 1. [`Groups::look`] finds what is there and refuses what does not fit;
//! 2. the [`Record`] goes into state.json, before anything is made;
//! 3. [`Groups::make`] makes the groups and writes the shares of the class;
//! 4. [`Groups::join`] puts the container's process into them while it waits:
//!    what it makes is born there;
//! 5. [`Groups::settle`] says which of them go with the container.
//!
//! Later commands open the groups by their record. A group that somebody has
//! removed meanwhile is no error there: its tasks are in the one above then.
//! Source: Documentation/filesystems/resctrl.rst.

mod facts;
mod stats;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

pub use facts::{Facts, facts};
pub use stats::{CmtStats, IntelRdt as Stats, L3CacheInfo, MbmStats, MemBwInfo};

use crate::cgroup::directory::{Directory, is_gone};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::intel_rdt::{Group, IfThere, IntelRdt, Origin, Record, Recorded, Removal, Write};
use crate::plan::schemata;
use crate::sys;
use crate::sys::directory::{Lock, Patience};

/// What a process does about a group that somebody has removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfGone {
    /// It was to be in it.
    Fail,
    /// Those that were in it are in the group above now, and so is this one.
    Skip,
}

/// A container's groups.
#[derive(Debug)]
pub struct Groups {
    root: Directory,
    groups: Vec<Recorded>,
}

impl Groups {
    /// Looks for the groups of `plan`; nothing is made.
    ///
    /// # Errors
    /// A class that must be there is not; one that is there has other shares; a
    /// monitoring group that is to be made is there.
    pub fn look(plan: &IntelRdt) -> Result<Self> {
        let root = Directory::open(plan.mount.clone()).context(|| FIELD)?;
        let mut found = Self {
            root,
            groups: Vec::with_capacity(plan.groups.len()),
        };
        let _lock = found.lock();
        for group in &plan.groups {
            let removal = found.look_at(group, plan)?;
            found.groups.push(Recorded {
                path: group.path.clone(),
                removal,
            });
        }
        Ok(found)
    }

    /// What becomes of the group, as far as that is known before it is made.
    fn look_at(&self, group: &Group, plan: &IntelRdt) -> Result<Removal> {
        let there = self.open_group(&group.path).context(|| group.field)?;
        match (group.origin, there) {
            (Origin::Prepared, None) => {
                let root = self.root.path();
                let name = &group.path;
                let cause = format!(
                    "{root:?} has no group {name:?}, and no schema is given to make it with"
                );
                Err(Error::config(group.field, cause).with_kind(Kind::Unsupported))
            }
            (_, None) => Ok(Removal::IfIdle),
            (_, Some(there)) => {
                fits(group, plan, &there)?;
                Ok(Removal::Never)
            }
        }
    }

    /// Makes the groups that are missing and writes the shares of the class.
    ///
    /// # Errors
    /// What the kernel refuses, with its reason. What was made before stays, for
    /// [`remove`](Self::remove).
    pub fn make(&mut self, plan: &IntelRdt) -> Result<()> {
        let _lock = self.lock();
        for (at, group) in plan.groups.iter().enumerate() {
            if self.groups[at].removal == Removal::IfIdle {
                self.make_group(at, group, plan)?;
            }
            // The class comes first; in it the other is made.
            if at == 0 {
                let is_new = self.groups[at].removal == Removal::IfIdle;
                self.write(
                    plan.writes
                        .iter()
                        .filter(|write| is_new || write.if_there == IfThere::Write),
                )?;
            }
        }
        Ok(())
    }

    fn make_group(&mut self, at: usize, group: &Group, plan: &IntelRdt) -> Result<()> {
        match self.root.make_child(&group.path) {
            Err(error) if error.errno() == Errno::EEXIST => {}
            made => {
                let made = made.map_err(|error| self.explained(error));
                return made.context(|| group.field);
            }
        }
        // Another was faster, and it is his.
        self.groups[at].removal = Removal::Never;
        let there = self.root.child(&group.path).context(|| group.field)?;
        fits(group, plan, &there)
    }

    /// Where the groups are.
    #[must_use]
    pub fn record(&self) -> Record {
        Record {
            mount: self.root.path().to_owned(),
            groups: self.groups.clone(),
        }
    }

    /// The container is there: of what was made, that which has a name for others
    /// stays when it goes.
    pub fn settle(&mut self, plan: &IntelRdt) {
        for (group, planned) in self.groups.iter_mut().zip(&plan.groups) {
            if group.removal == Removal::IfIdle {
                group.removal = planned.origin.removal();
            }
        }
    }

    /// Opens the groups of a record.
    ///
    /// # Errors
    /// The mount can't be opened; one that is gone is nothing.
    pub fn open(record: &Record) -> Result<Option<Self>> {
        match Directory::open(record.mount.clone()) {
            Ok(root) => Ok(Some(Self {
                root,
                groups: record.groups.clone(),
            })),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error).context(|| "open the resctrl groups"),
        }
    }

    /// Puts the task `pid`, and with it what it makes from now on, into each group.
    ///
    /// # Errors
    /// What the kernel says, such as `ESRCH` for a task that is gone; a group that is
    /// gone, unless `if_gone` has another answer.
    pub fn join(&self, pid: Pid, if_gone: IfGone) -> Result<()> {
        let pid = pid.to_string();
        for group in &self.groups {
            let directory = match self.open_group(&group.path)? {
                Some(directory) => directory,
                None if if_gone == IfGone::Skip => continue,
                None => return Err(self.gone(&group.path)),
            };
            directory
                .write("tasks", &pid)
                .map_err(|error| self.explained(error))
                .context(|| "join the resctrl group")?;
        }
        Ok(())
    }

    /// Puts every task of the processes that `pids` lists into each group, also
    /// those that are made meanwhile.
    ///
    /// # Errors
    /// Those of `pids` and of [`join`](Self::join); tasks that are made faster than
    /// they can be moved.
    pub fn join_all(&self, pids: impl Fn() -> Result<Vec<Pid>>) -> Result<()> {
        /// What was moved makes only what is moved already: each round there are fewer.
        const ROUNDS: u32 = 100;
        let mut moved = BTreeSet::new();
        for _ in 0..ROUNDS {
            let before = moved.len();
            for pid in pids()? {
                for task in sys::process::tasks(pid)? {
                    if !moved.insert(task) {
                        continue;
                    }
                    match self.join(task, IfGone::Fail) {
                        Err(error) if error.errno() == Some(Errno::ESRCH) => {}
                        joined => joined?,
                    }
                }
            }
            if moved.len() == before {
                return Ok(());
            }
        }
        let text = "join the resctrl group: tasks are made faster than they can be moved";
        Err(Error::new(Kind::System, text))
    }

    /// Gives the class other shares, all of `writes` or none; returns the ones that
    /// it had, for [`restore`](Self::restore).
    ///
    /// # Errors
    /// The class is gone; what the kernel refuses, with its reason.
    pub fn update(&self, writes: &[Write]) -> Result<String> {
        let _lock = self.lock();
        let before = self.class()?.read("schemata").context(|| FIELD)?;
        match self.write(writes) {
            Ok(()) => Ok(before),
            Err(error) => Err(match self.restore(&before) {
                Ok(()) => error,
                Err(failed) => error.and(&failed.within("restore the shares")),
            }),
        }
    }

    /// Writes back what [`update`](Self::update) has returned.
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    pub fn restore(&self, before: &str) -> Result<()> {
        self.class()?
            .write("schemata", before)
            .map_err(|error| self.explained(error))
    }

    /// Performs `writes` in order, each with a write(2) of its own.
    fn write<'write>(&self, writes: impl IntoIterator<Item = &'write Write>) -> Result<()> {
        for write in writes {
            // The kernel takes whole lines only.
            let lines = format!("{}\n", write.lines);
            self.class()?
                .write("schemata", &lines)
                .map_err(|error| self.explained(error))
                .context(|| write.field)?;
        }
        Ok(())
    }

    /// Removes the groups that go with the container, the last one first. Their
    /// tasks, if there are any, are then in the group above. Goes on after a
    /// failure; what is gone already is no failure.
    ///
    /// # Errors
    /// All groups that can't be removed.
    pub fn remove(self) -> Result<()> {
        let mut failed: Option<Error> = None;
        for group in self.groups.iter().rev() {
            if let Err(error) = self.remove_group(group) {
                failed = Some(match failed.take() {
                    Some(before) => before.and(&error),
                    None => error,
                });
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn remove_group(&self, group: &Recorded) -> Result<()> {
        let stays = match group.removal {
            Removal::Never => true,
            Removal::IfIdle => !self.is_idle(&group.path)?,
            Removal::Always => false,
        };
        if stays {
            return Ok(());
        }
        match self.root.remove_child(OsStr::new(&group.path)) {
            Err(error) if is_gone(&error) => Ok(()),
            removed => removed
                .map_err(|error| self.explained(error))
                .context(|| "remove the resctrl group"),
        }
    }

    /// Whether the group has no task that lives. One that is not yet as the kernel
    /// makes it has none either.
    fn is_idle(&self, path: &str) -> Result<bool> {
        let doing = || "remove the resctrl group";
        let Some(directory) = self.open_group(path).context(doing)? else {
            return Ok(true);
        };
        let tasks = match directory.read("tasks") {
            Err(error) if is_gone(&error) => return Ok(true),
            tasks => tasks.context(doing)?,
        };
        for pid in tasks.lines().filter_map(|line| line.trim().parse().ok()) {
            match sys::process::stat(Pid::from_raw(pid)) {
                // Who has ended is listed until somebody waits for him.
                Ok(stat) if matches!(stat.state, 'Z' | 'X' | 'x') => {}
                Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ESRCH) => {}
                Ok(_) => return Ok(false),
                Err(error) => return Err(error).context(doing),
            }
        }
        Ok(true)
    }

    /// The class of service.
    fn class(&self) -> Result<Directory> {
        let path = self.groups.first().map_or("", |group| group.path.as_str());
        match self.open_group(path).context(|| FIELD)? {
            Some(class) => Ok(class),
            None => Err(self.gone(path)),
        }
    }

    fn gone(&self, path: &str) -> Error {
        let text = format!("{:?} has no group {path:?} any more", self.root.path());
        Error::new(Kind::Unsupported, text)
    }

    /// Holds off others that make and change groups, as the kernel's documentation
    /// asks everybody to ("resctrl locking"). Who never lets go is not waited for.
    fn lock(&self) -> Option<Lock> {
        const PATIENCE: Duration = Duration::from_secs(2);
        const PAUSE: Duration = Duration::from_millis(5);
        let begin = Instant::now();
        let mut root = self.root.as_fd().try_clone_to_owned().ok()?;
        loop {
            root = match Lock::take(root, Patience::Try) {
                Ok(lock) => return Some(lock),
                Err((root, _)) if begin.elapsed() < PATIENCE => root,
                Err(_) => return None,
            };
            std::thread::sleep(PAUSE);
        }
    }

    /// The group at `path`, if it is there.
    fn open_group(&self, path: &str) -> sys::Result<Option<Directory>> {
        if path.is_empty() {
            return self.root.reopen().map(Some);
        }
        match self.root.child(path) {
            Err(error) if is_gone(&error) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// The error, with what resctrl says of the command that failed last.
    fn explained(&self, error: sys::Error) -> Error {
        let status = self.root.read("info/last_cmd_status").unwrap_or_default();
        let error = Error::from(error);
        match status.trim() {
            "" | "ok" => error,
            status => error.with_note(format_args!("last_cmd_status: {status}")),
        }
    }
}

const FIELD: &str = "linux.intelRdt";

/// Whether a group that is there is one that may be joined: none that was to be
/// new, and a class with a name has the shares that it must have.
fn fits(group: &Group, plan: &IntelRdt, there: &Directory) -> Result<()> {
    let place = format!("the group {:?} is there already", there.path());
    if group.origin == Origin::New {
        return Err(Error::new(Kind::AlreadyExists, place).within(group.field));
    }
    let compared = |write: &Write| write.if_there == IfThere::Compare;
    if !plan.writes.iter().any(compared) {
        return Ok(());
    }
    let text = there.read("schemata").context(|| group.field)?;
    schemata::compare(&plan.writes, &text, plan.bandwidth_step).map_err(|mismatch| {
        Error::config(mismatch.field, format_args!("{place}: {}", mismatch.cause))
    })
}
