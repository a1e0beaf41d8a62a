//! The container's cgroup: one directory in every mounted hierarchy.
//!
//! What is to be done comes as data, a [`CgroupPlan`]; this module does it.
//! The order of events for a new container:
//!
//! 1. the [`Record`] of the directories goes into state.json, before there is
//!    any, so that a runtime killed at any moment leaves nothing that `delete`
//!    can't find;
//! 2. [`Cgroup::create`] makes the one of v2, in which the child is born, and
//!    [`Cgroup::create_v1`] the others, while it begins;
//! 3. [`Cgroup::apply`] gives it to its user and writes the limits and device
//!    rules, before the child is told to go on;
//!    (where systemd makes them, 2 and 3 come when the child is there and
//!    waits: a scope is made with a process in it, [`Cgroup::start_unit`]);
//! 4. the child enters by itself ([`Cgroup::doors`]) or is moved
//!    ([`Cgroup::attach`]), before its cgroup namespace is made, before
//!    its cgroup mounts and before hooks, which read `/proc/PID/cgroup`.
//!
//! The container's processes are in the cgroup itself, or where part of it is
//! delegated to them, in that part ([`Joined::place`]): there they are born, and
//! that is what they own. All else, limits, freezer, statistics and the list of
//! processes, is the cgroup's as a whole.
//!
//! Later commands open the cgroup by its record. Everything goes through the
//! descriptors of the directories. A cgroup is never left frozen by a failure.

mod apply;
mod create;
pub(crate) mod directory;
pub mod hierarchy;
mod membership;
pub mod oom;
mod ownership;
mod processes;
mod remove;
pub mod stats;
mod update;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use nix::unistd::Pid;

use crate::error::{Context, Kind, Result};
pub use crate::plan::cgroup::Record;
use crate::plan::cgroup::{CgroupPlan, Manager, Member, unit};
use crate::sys;
use crate::systemd::Systemd;
use directory::Directory;
pub use membership::SubCgroups;
pub use update::NewRules;

/// A container's cgroup, opened.
#[derive(Debug)]
pub struct Cgroup {
    manager: Manager,
    joined: Vec<Joined>,
    /// The unit, where systemd made it.
    unit: Option<unit::Name>,
    /// The container's first process, where an exec may join it elsewhere.
    init: Option<Pid>,
    /// What [`create`](Self::create) made, until [`create_v1`](Self::create_v1) has
    /// made the rest; later, what that may have made where it did not end.
    begun: Vec<PathBuf>,
}

/// The directory that was opened, if it exists.
fn existing(opened: sys::Result<Directory>) -> Result<Option<Directory>> {
    match opened {
        Err(error) if directory::is_gone(&error) => Ok(None),
        opened => opened.map(Some).context(|| "open the cgroup"),
    }
}

/// A directory of the cgroup.
#[derive(Debug)]
struct Joined {
    member: Member,
    directory: Directory,
    /// The one below that has the processes, if that is not the same.
    home: Option<Directory>,
}

impl Joined {
    /// The directory that has the processes.
    fn place(&self) -> &Directory {
        self.home.as_ref().unwrap_or(&self.directory)
    }
}

impl Cgroup {
    /// Sees that nobody uses the cgroup of `plan`: before it is written down as the
    /// container's, whose `delete --force` kills all that is in it. systemd refuses
    /// a scope that exists, but only then. A slice is there for others, too.
    ///
    /// # Errors
    /// A directory has processes in it or below, or is frozen.
    pub fn check_unused(plan: &CgroupPlan) -> Result<()> {
        match &plan.unit {
            None => create::check_all_unused(plan),
            Some(unit) if unit.is_scope() => create::check_all_unused(plan)
                .context(|| format!("start the unit {:?}", unit.name.unit)),
            Some(_) => Ok(()),
        }
    }

    /// Makes the v2 directory of `plan`, and with it what is missing on the way
    /// to it; [`create_v1`](Self::create_v1) makes the others. Those of a unit are
    /// made by [`start_unit`](Self::start_unit).
    ///
    /// # Errors
    /// A directory can't be made (what this call made is then removed again),
    /// or exists and has processes in it or is frozen.
    pub fn create(plan: &CgroupPlan) -> Result<Self> {
        let (joined, begun) = match plan.unit {
            Some(_) => Default::default(),
            None => create::directories(plan, Member::is_v2)?,
        };
        Ok(Self {
            manager: plan.manager,
            joined,
            unit: None,
            init: None,
            begun,
        })
    }

    /// Makes the directories of v1.
    ///
    /// # Errors
    /// As for [`create`](Self::create). Then [`remove`](Self::remove) removes what
    /// that made.
    pub fn create_v1(&mut self, plan: &CgroupPlan) -> Result<()> {
        if plan.unit.is_some() {
            return Ok(());
        }
        match create::directories(plan, |member| !member.is_v2()) {
            Ok((joined, _)) => {
                // In the plan's order, which has v2 last.
                self.joined.splice(0..0, joined);
                self.begun.clear();
                Ok(())
            }
            Err(error) => {
                // What was there before stays.
                self.joined.clear();
                Err(error)
            }
        }
    }

    /// Lets systemd make the unit of `plan` with the process `pid` in it, opens
    /// its directories, and writes the limits; without a unit there is nothing
    /// left to do. The process still waits, so nothing of the container runs
    /// without its limits.
    ///
    /// # Errors
    /// Those of [`Systemd::start`], of making the directories of hierarchies
    /// that are not systemd's, and of [`write`](Self::write).
    pub fn start_unit(&mut self, plan: &CgroupPlan, pid: Pid) -> Result<()> {
        let Some(unit) = &plan.unit else {
            return Ok(());
        };
        let mut systemd = Systemd::connect(unit.name.instance)?;
        let started = systemd.start(&unit.name.unit, &unit.properties, pid);
        // One of this name that was there before is somebody else's: it must
        // not be stopped when this create is undone.
        let is_ours = !matches!(&started, Err(error) if error.kind() == Kind::AlreadyExists);
        self.unit = is_ours.then(|| unit.name.clone());
        started?;
        (self.joined, _) = create::directories(plan, |_| true)?;
        let goes_below = self.goes_below(unit);
        if goes_below {
            // While somebody is in the unit's own it hands nothing down.
            self.attach(pid)?;
            self.hand_down_from(unit);
        }
        self.limit(plan)?;
        // systemd moves it in its own hierarchies only.
        if !goes_below && (self.dirfd().is_none() || !unit.is_scope()) {
            self.attach(pid)?;
        }
        Ok(())
    }

    /// Whether the processes are to be below the directory of `unit`.
    fn goes_below(&self, unit: &unit::Unit) -> bool {
        let of_unit = |at: &Joined| at.member.mount.join(&unit.path);
        self.unified()
            .is_some_and(|at| at.member.place() != of_unit(at))
    }

    /// Opens the directories of a record that exist.
    ///
    /// # Errors
    /// One exists but can't be opened.
    pub fn open(record: &Record) -> Result<Self> {
        let mut joined = Vec::with_capacity(record.members.len());
        let mut begun = Vec::new();
        for member in &record.members {
            // Made by nobody yet, or removed with its parent.
            let Some(directory) = existing(Directory::open(member.directory()))? else {
                let unit = record.unit.iter();
                begun.extend(unit.map(|unit| member.of_unit(&unit.unit)));
                continue;
            };
            let home = member.home.as_ref();
            let home = home.map(|home| existing(directory.child(home)));
            joined.push(Joined {
                member: member.clone(),
                home: home.transpose()?.flatten(),
                directory,
            });
        }
        Ok(Self {
            manager: record.manager,
            joined,
            unit: record.unit.clone(),
            init: None,
            begun,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn record(&self) -> Record {
        Record {
            manager: self.manager,
            members: self.joined.iter().map(|at| at.member.clone()).collect(),
            unit: self.unit.clone(),
        }
    }

    /// Whether any of its directories exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        !self.joined.is_empty()
    }

    /// The directory to be born in, by `CLONE_INTO_CGROUP`. With v1
    /// hierarchies there is none: [`attach`](Self::attach) moves the child
    /// into all of them.
    #[must_use]
    pub fn dirfd(&self) -> Option<BorrowedFd<'_>> {
        match self.joined.as_slice() {
            [only] if only.member.is_v2() => Some(only.directory.as_fd()),
            _ => None,
        }
    }

    /// The directory of a v1 controller, or on a host with v2 alone, the
    /// directory.
    fn controller(&self, name: &str) -> Option<&Joined> {
        match self.joined.as_slice() {
            [only] if only.member.is_v2() => Some(only),
            all => all.iter().find(|at| at.member.has(name)),
        }
    }

    /// The v2 directory, on a hybrid host the one without controllers.
    fn unified(&self) -> Option<&Joined> {
        self.joined.iter().find(|at| at.member.is_v2())
    }

    /// Whether it has no directory in any hierarchy: nobody could make one.
    #[must_use]
    pub fn is_nowhere(&self) -> bool {
        self.joined.is_empty()
    }

    /// The directory whose list of processes speaks for all.
    fn primary(&self) -> Option<&Joined> {
        self.unified()
            .or_else(|| self.controller("freezer"))
            .or_else(|| self.controller("devices"))
            .or(self.joined.first())
    }
}
