//! Moving processes into the cgroup.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::directory::Directory;
use super::{Cgroup, Joined};
use crate::error::{Context, Error, Kind, Result};
use crate::sys;
use crate::systemd::Systemd;

/// Where below the container's cgroup an `exec` goes (`--cgroup`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SubCgroups {
    /// Into the container's own cgroup.
    #[default]
    None,
    /// The same path below each of its directories.
    Everywhere(String),
    /// A path for each v1 controller named; the others stay at the top.
    ByController(BTreeMap<String, String>),
}

impl SubCgroups {
    /// Reads the arguments of `--cgroup`: `PATH` once, or any number of
    /// `CONTROLLER[,CONTROLLER]:PATH`.
    ///
    /// # Errors
    /// A controller that is empty or named twice, a path without one beside
    /// others, a path that leads out of the container's cgroup.
    pub fn parse(arguments: &[String]) -> Result<Self> {
        let refuse = |text: String| Err(Error::new(Kind::Usage, text));
        let mut by_controller = BTreeMap::new();
        for argument in arguments {
            let (controllers, path) = match argument.split_once(':') {
                Some((controllers, path)) => (Some(controllers), path),
                None => (None, argument.as_str()),
            };
            if path.split('/').any(|part| part == "..") {
                return refuse(format!(
                    "invalid --cgroup argument: {argument}: bad sub cgroup path"
                ));
            }
            let path = path.trim_matches('/').to_owned();
            let Some(controllers) = controllers else {
                if arguments.len() > 1 {
                    return refuse(format!(
                        "invalid --cgroup argument: {argument} (missing <controller>: prefix)"
                    ));
                }
                return Ok(SubCgroups::Everywhere(path));
            };
            for controller in controllers.split(',') {
                if controller.is_empty() {
                    return refuse(format!(
                        "invalid --cgroup argument: {argument} (empty <controller> prefix)"
                    ));
                }
                if by_controller
                    .insert(controller.to_owned(), path.clone())
                    .is_some()
                {
                    return refuse(format!(
                        "invalid --cgroup argument(s): controller {controller} specified multiple times"
                    ));
                }
            }
        }
        if by_controller.is_empty() {
            return Ok(SubCgroups::None);
        }
        Ok(SubCgroups::ByController(by_controller))
    }

    /// The path for the directory `at`, empty for the directory itself.
    fn path(&self, at: &Joined) -> &str {
        match self {
            SubCgroups::None => "",
            SubCgroups::Everywhere(path) => path,
            SubCgroups::ByController(paths) => paths
                .iter()
                .find(|(controller, _)| at.member.has(controller))
                .map_or("", |(_, path)| path),
        }
    }
}

impl Cgroup {
    /// The v2 directory, in which a child can be born (`CLONE_INTO_CGROUP`). One
    /// that can't is moved by [`attach`](Self::attach) instead.
    #[must_use]
    pub fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.unified().map(|at| at.place().as_fd())
    }

    /// The `tasks` files of v1, opened with our rights. The child, while it has
    /// one thread, writes `0` to each, before its cgroup namespace is made: a task
    /// that moves only itself is much cheaper (0.3 ms) than one that is moved,
    /// which waits for an RCU grace period (about 9 ms on a hybrid host).
    ///
    /// # Errors
    /// A file can't be opened.
    pub fn doors(&self) -> Result<Vec<OwnedFd>> {
        let v1 = self.joined.iter().filter(|at| !at.member.is_v2());
        v1.map(|at| at.directory.open_for_writing("tasks"))
            .collect::<sys::Result<_>>()
            .context(|| "join the cgroup")
    }

    /// Moves the process `pid` into every directory.
    ///
    /// # Errors
    /// The first directory that refuses it.
    pub fn attach(&self, pid: Pid) -> Result<()> {
        let doing = || "join the cgroup";
        for at in &self.joined {
            let Err(refused) = join(at.place(), pid) else {
                continue;
            };
            let denied = matches!(refused.errno(), Errno::EACCES | Errno::EPERM);
            match (self.init, &self.unit) {
                // From outside of what is delegated to a user, only systemd
                // may move a process.
                (_, Some(unit)) if denied => {
                    let below = below_unit(at, &unit.unit);
                    return Systemd::connect(unit.instance)?.attach(&unit.unit, &below, pid);
                }
                // The container has made child cgroups with controllers, so
                // that v2 takes no processes here any more.
                (Some(init), _) if at.member.is_v2() => {
                    let joined = beside(at, init).and_then(|other| Ok(join(&other, pid)?));
                    if joined.is_err() {
                        return Err(refused).context(doing);
                    }
                }
                _ => return Err(refused).context(doing),
            }
        }
        Ok(())
    }

    /// The cgroup as an `exec` joins it, whose container has the first process
    /// `init`: the directories that `sub` names, below that of the processes.
    ///
    /// A process that v2 refuses because the container has made child cgroups
    /// with controllers, goes where `init` is now, unless a path was given.
    ///
    /// # Errors
    /// An unknown controller, a path that doesn't exist.
    pub fn for_exec(mut self, sub: &SubCgroups, init: Pid) -> Result<Self> {
        if let SubCgroups::ByController(paths) = sub {
            for controller in paths.keys() {
                if !self.joined.iter().any(|at| at.member.has(controller)) {
                    let text = format!("unknown controller {controller} in --cgroup");
                    return Err(Error::new(Kind::Usage, text));
                }
            }
        }
        self.init = (*sub == SubCgroups::None).then_some(init);
        for at in &mut self.joined {
            let path = sub.path(at);
            if path.is_empty() {
                continue;
            }
            let directory = at.place().child(path);
            at.directory = directory.context(|| "open the sub cgroup")?;
            let below = at.member.home.take().into_iter();
            for part in below.chain([path.to_owned()]) {
                at.member.path = format!("{}/{part}", at.member.path);
            }
            at.home = None;
        }
        Ok(self)
    }
}

/// Writes `pid` into `cgroup.procs`.
fn join(directory: &Directory, pid: Pid) -> sys::Result<()> {
    let pid = pid.to_string();
    let mut attempts = 0;
    loop {
        match directory.write("cgroup.procs", &pid) {
            // A task that is still being made can't be moved yet.
            Err(error) if error.errno() == Errno::EINVAL && attempts < 5 => {
                attempts += 1;
                std::thread::sleep(Duration::from_millis(30));
            }
            joined => return joined,
        }
    }
}

/// The path from the directory of the unit `name` to that of the processes, as
/// systemd wants it: empty, or with a slash before it.
fn below_unit(at: &Joined, name: &str) -> String {
    let place = at.member.place();
    let below = place.strip_prefix(at.member.of_unit(name));
    match below.unwrap_or(Path::new("")) {
        below if below.as_os_str().is_empty() => String::new(),
        below => format!("/{}", below.display()),
    }
}

/// The v2 directory in which `init` is now.
fn beside(at: &Joined, init: Pid) -> Result<Directory> {
    let file = format!("/proc/{init}/cgroup");
    let text = sys::file::read_pseudo_bytes(Path::new(&file))?;
    // Of any bytes: the container may have made it.
    let mut lines = text.split(|byte| *byte == b'\n');
    let path = lines.find_map(|line| line.strip_prefix(b"0::/"));
    let path = OsStr::from_bytes(path.unwrap_or_default());
    Ok(Directory::open(at.member.mount.join(path))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_arguments_name_paths_below() {
        let by = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
            Ok(SubCgroups::ByController(pairs.collect()))
        };
        let refused = |text: &str| Err(text.to_owned());
        for (arguments, expected) in [
            (&[][..], Ok(SubCgroups::None)),
            (&["/sub/"], Ok(SubCgroups::Everywhere("sub".to_owned()))),
            (
                &["cpu,memory:a", "pids:/b"],
                by(&[("cpu", "a"), ("memory", "a"), ("pids", "b")]),
            ),
            (
                &["a", "cpu:b"],
                refused("invalid --cgroup argument: a (missing <controller>: prefix)"),
            ),
            (
                &[":a"],
                refused("invalid --cgroup argument: :a (empty <controller> prefix)"),
            ),
            (
                &["cpu,:a"],
                refused("invalid --cgroup argument: cpu,:a (empty <controller> prefix)"),
            ),
            (
                &["cpu:a", "cpu:b"],
                refused("invalid --cgroup argument(s): controller cpu specified multiple times"),
            ),
            (
                &["../a"],
                refused("invalid --cgroup argument: ../a: bad sub cgroup path"),
            ),
            (
                &["cpu:a/../../b"],
                refused("invalid --cgroup argument: cpu:a/../../b: bad sub cgroup path"),
            ),
        ] {
            let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
            let parsed = SubCgroups::parse(&arguments).map_err(|error| error.to_string());
            assert_eq!(parsed, expected, "{arguments:?}");
        }
    }
}
