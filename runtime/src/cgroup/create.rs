//! Making the directories.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::Mode;

use super::Joined;
use super::directory::{Directory, is_gone};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::cgroup::unit::Unit;
use crate::plan::cgroup::{CgroupPlan, IfDenied, Member, Write};
use crate::sys::mutation::Defence;
use crate::sys::{self, call};

/// Makes and opens the directory of every member of that kind, and tells which
/// it had to make; on failure, removes those.
pub(super) fn directories(
    plan: &CgroupPlan,
    which: fn(&Member) -> bool,
) -> Result<(Vec<Joined>, Vec<PathBuf>)> {
    let mut making = Making {
        writes: &plan.writes,
        unit: plan.unit.as_ref().map(|unit| &*unit.path),
        made: Vec::new(),
    };
    let mut joined = Vec::with_capacity(plan.members.len());
    for member in plan.members.iter().filter(|member| which(member)) {
        match making.member(member) {
            Ok((directory, home)) => joined.push(Joined {
                member: member.clone(),
                directory,
                home,
            }),
            Err(error) if plan.if_denied == IfDenied::GoWithout && is_denied(&error) => {
                if member.is_v2() && plan.members.len() == 1 && !plan.writes.is_empty() {
                    return Err(error.within(
                        "rootless needs no limits + no cgrouppath when no permission is granted \
                         for cgroups",
                    ));
                }
            }
            Err(error) => {
                making.undo();
                return Err(error);
            }
        }
    }
    Ok((joined, making.made))
}

/// Whether a failure is for want of permission.
fn is_denied(error: &Error) -> bool {
    matches!(
        error.errno(),
        Some(Errno::EPERM | Errno::EACCES | Errno::EROFS)
    )
}

struct Making<'plan> {
    /// What will be written, for the question which controllers are needed.
    writes: &'plan [Write],
    /// The path of the unit, where systemd has made what it rules over, with a
    /// process in it.
    unit: Option<&'plan str>,
    /// What was made, in order.
    made: Vec<PathBuf>,
}

impl Making<'_> {
    /// The member's directory, and the one below that shall have the processes.
    fn member(&mut self, member: &Member) -> Result<(Directory, Option<Directory>)> {
        let path = member.directory();
        let made = if let Some(unit) = self.unit.filter(|_| member.is_v2()) {
            let below = member.path.strip_prefix(unit).unwrap_or_default();
            self.levels(&member.mount.join(unit), below, |_, _| Ok(()))
        } else if member.is_v2() {
            self.unified(member)
        } else if member.has("cpuset") {
            self.levels(&member.mount, &member.path, fill_cpuset)
        } else {
            self.whole(member)
        };
        let is_new = made.context(|| format!("create cgroup {path:?}"))?;
        let directory =
            Directory::open(path.clone()).context(|| format!("open cgroup {path:?}"))?;
        if !is_new && self.unit.is_none() {
            check_unused(&directory)?;
        }
        if member.is_v2() {
            self.check_type(&directory)?;
        }
        let home = member.home.as_ref();
        let home = home.map(|home| self.home(&directory, home)).transpose()?;
        Ok((directory, home))
    }

    /// Makes what is delegated of `directory`. The controllers of a unit are handed
    /// down to it when nobody is above it any more, by
    /// [`hand_down_from`](super::Cgroup::hand_down_from).
    fn home(&mut self, directory: &Directory, path: &str) -> Result<Directory> {
        let home = directory.path().join(path);
        let doing = || format!("create cgroup {home:?}");
        let is_ours = self.unit.is_none();
        if is_ours {
            hand_down_all(directory);
        }
        let leaf = home.clone();
        self.levels(directory.path(), path, |level, _| {
            if is_ours && level != leaf {
                hand_down_all(&Directory::open(level.to_owned())?);
            }
            Ok(())
        })
        .context(doing)?;
        directory.child(path).context(doing)
    }

    /// Makes the directory at once where its parent exists, else level by
    /// level. Whether it is new.
    fn whole(&mut self, member: &Member) -> sys::Result<bool> {
        match self.mkdir(&member.directory()) {
            Err(error) if error.errno() == Errno::ENOENT => {
                self.levels(&member.mount, &member.path, |_, _| Ok(()))
            }
            made => made,
        }
    }

    /// v2: makes the directory, and hands the controllers down to it.
    fn unified(&mut self, member: &Member) -> sys::Result<bool> {
        let top = Directory::open(member.mount.clone())?;
        let offered = top.read("cgroup.controllers").unwrap_or_default();
        if offered.trim().is_empty() {
            // A hybrid host: nothing to hand down.
            return self.whole(member);
        }
        hand_down(&top, &offered);
        let leaf = member.directory();
        self.levels(&member.mount, &member.path, |level, _| {
            if level != leaf {
                hand_down(&Directory::open(level.to_owned())?, &offered);
            }
            Ok(())
        })
    }

    /// Makes every missing directory of `path` below `top`, and does
    /// `prepare(level, parent)` at each, also at those that exist. Whether the
    /// last is new.
    fn levels(
        &mut self,
        top: &Path,
        path: &str,
        prepare: impl Fn(&Path, &Path) -> sys::Result<()>,
    ) -> sys::Result<bool> {
        let mut parent = top.to_owned();
        let mut is_new = false;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let level = parent.join(name);
            is_new = self.mkdir(&level)?;
            prepare(&level, &parent)?;
            parent = level;
        }
        Ok(is_new)
    }

    /// Makes one directory; whether it is new.
    fn mkdir(&mut self, path: &Path) -> sys::Result<bool> {
        match nix::unistd::mkdir(path, Mode::from_bits_truncate(0o755)) {
            Err(Errno::EEXIST) => Ok(false),
            made => {
                call(made, || format!("mkdir({path:?})"))?;
                self.made.push(path.to_owned());
                Ok(true)
            }
        }
    }

    /// v2: a cgroup below a threaded one takes no domain controllers.
    fn check_type(&self, directory: &Directory) -> Result<()> {
        // No such file before Linux 4.14.
        let kind = directory.read("cgroup.type").unwrap_or_default();
        let needs_domain = self.writes.iter().any(|write| {
            !matches!(
                &*write.controller,
                "cpu" | "cpuset" | "perf_event" | "pids" | "cgroup"
            )
        });
        match kind.trim() {
            "domain invalid" if !needs_domain => {
                // Threads may be limited there, which is all that is asked for.
                directory
                    .write("cgroup.type", "threaded")
                    .context(|| "make the cgroup threaded")
            }
            kind @ ("domain invalid" | "domain threaded" | "threaded") if needs_domain => {
                let text = format!(
                    "cannot enter cgroupv2 {:?} with domain controllers: it is {kind}",
                    directory.path()
                );
                Err(Error::new(Kind::Unsupported, text))
            }
            _ => Ok(()),
        }
    }

    /// Removes what was made. Others may have moved in: best effort.
    fn undo(&self) {
        for path in self.made.iter().rev() {
            let _ = std::fs::remove_dir(path);
        }
    }
}

impl super::Cgroup {
    /// Hands the controllers down from the directory of `unit` to the one that has
    /// the processes, now that nobody is in those between. What can't be had
    /// fails where it is limited.
    pub(super) fn hand_down_from(&self, unit: &Unit) {
        let Some(at) = self.unified() else { return };
        let (top, place) = (at.member.mount.join(&unit.path), at.member.place());
        let above = place.ancestors().skip(1);
        let above: Vec<&Path> = above.take_while(|path| path.starts_with(&top)).collect();
        for level in above.into_iter().rev() {
            if let Ok(level) = Directory::open(level.to_owned()) {
                hand_down_all(&level);
            }
        }
    }
}

/// Lets the children of `directory` have what controllers it has.
fn hand_down_all(directory: &Directory) {
    let offered = directory.read("cgroup.controllers").unwrap_or_default();
    hand_down(directory, &offered);
}

/// Lets the children of `directory` have the controllers, all at once, or if
/// one of them is refused, each that can be had: a limit of one that can't
/// fails where it is written.
fn hand_down(directory: &Directory, controllers: &str) {
    let enabled = directory.read("cgroup.subtree_control").unwrap_or_default();
    let missing: Vec<String> = controllers
        .split_whitespace()
        .filter(|name| !enabled.split_whitespace().any(|known| known == *name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return;
    }
    if directory
        .write("cgroup.subtree_control", &missing.join(" "))
        .is_err()
    {
        for one in &missing {
            let _ = directory.write("cgroup.subtree_control", one);
        }
    }
}

/// v1: a cpuset begins empty and takes no tasks before it has CPUs and memory
/// nodes (cpuset(7)): those of its parent.
fn fill_cpuset(level: &Path, parent: &Path) -> sys::Result<()> {
    let level = Directory::open(level.to_owned())?;
    let mut above = None;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !level.read(file)?.trim().is_empty() {
            continue;
        }
        if above.is_none() {
            above = Some(Directory::open(parent.to_owned())?);
        }
        if let Some(above) = &above {
            level.write(file, above.read(file)?.trim())?;
        }
    }
    Ok(())
}

/// A directory that was there before must not be somebody else's: nobody is in it
/// or below, where limits would hold and `delete` would kill.
fn check_unused(directory: &Directory) -> Result<()> {
    if Defence::UnusedCgroup.is_out() {
        return Ok(());
    }
    let refuse = |text: String| {
        let text = format!("cgroup {:?}: {text}", directory.path());
        Err(Error::new(Kind::WrongState, text))
    };
    let inside = count_processes(directory).context(|| "look for its processes")?;
    if inside > 0 {
        return refuse(format!(
            "container's cgroup is not empty: {inside} process(es) found"
        ));
    }
    for (file, frozen) in [("freezer.state", "FROZEN"), ("cgroup.freeze", "1")] {
        if directory
            .read(file)
            .is_ok_and(|state| state.trim() == frozen)
        {
            return refuse("container's cgroup unexpectedly frozen".to_owned());
        }
    }
    Ok(())
}

/// The processes of a cgroup and of those below, also such as we have no number
/// for.
fn count_processes(directory: &Directory) -> sys::Result<usize> {
    let mut count = 0;
    let mut add = |above: &Directory, file: &Path| match above.read(file) {
        Ok(text) => {
            count += text.lines().count();
            Ok(())
        }
        // Gone meanwhile, or threaded: its domain above lists them.
        Err(error) if is_gone(&error) || error.errno() == Errno::EOPNOTSUPP => Ok(()),
        Err(error) => Err(error),
    };
    add(directory, Path::new("cgroup.procs"))?;
    directory.each_below(|above, name| add(above, &Path::new(name).join("cgroup.procs")))?;
    Ok(count)
}

/// Looks at what is there already of the directories of `plan`.
///
/// # Errors
/// One is in use or frozen: it is somebody else's.
pub(super) fn check_all_unused(plan: &CgroupPlan) -> Result<()> {
    for member in &plan.members {
        // Of a unit the whole: what lies below it ends with it.
        let path = match &plan.unit {
            Some(unit) => member.mount.join(&unit.path),
            None => member.directory(),
        };
        // One that is not ours to open: making it says what is wrong.
        if let Ok(directory) = Directory::open(path) {
            check_unused(&directory)?;
        }
    }
    Ok(())
}
