//! Moving processes into the cgroup.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::directory::Directory;
use super::{Cgroup, Joined};
use crate::error::{Context, Error, Kind, Result};
use crate::sys;

/// A path below the container's cgroup, for an `exec` (`--cgroup`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Below<'a> {
    /// The v1 controllers whose hierarchies are meant; none means all.
    pub controllers: &'a [String],
    /// The path.
    pub path: &'a str,
}

impl Cgroup {
    /// Moves the process `pid` into every directory.
    ///
    /// # Errors
    /// The first directory that refuses it.
    pub fn attach(&self, pid: Pid) -> Result<()> {
        let doing = || "join the cgroup";
        for at in &self.joined {
            let Err(refused) = join(&at.directory, pid) else {
                continue;
            };
            match self.init {
                // The container has made child cgroups with controllers, so
                // that v2 takes no processes here any more.
                Some(init) if at.member.is_v2() => {
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
    /// `init`: the directories of `below`, where there is one.
    ///
    /// A process that v2 refuses because the container has made child cgroups
    /// with controllers, goes where `init` is now, unless a path was given.
    ///
    /// # Errors
    /// An unknown controller or one that is named twice, a path that doesn't
    /// exist or leads out of the container's cgroup.
    pub fn for_exec(mut self, below: &[Below<'_>], init: Pid) -> Result<Self> {
        self.init = below.is_empty().then_some(init);
        check(below, &self.joined)?;
        for Below { controllers, path } in below {
            for at in &mut self.joined {
                let meant =
                    controllers.is_empty() || controllers.iter().any(|one| at.member.has(one));
                let path = path.trim_matches('/');
                if !meant || path.is_empty() {
                    continue;
                }
                let directory = at.directory.child(path);
                at.directory = directory.context(|| "open the sub cgroup")?;
                at.member.path = format!("{}/{path}", at.member.path);
            }
        }
        Ok(self)
    }
}

/// Refuses what `--cgroup` can't mean.
fn check(below: &[Below<'_>], joined: &[Joined]) -> Result<()> {
    let refuse = |text: String| Err(Error::new(Kind::Usage, text));
    let mut named = BTreeSet::new();
    for Below { controllers, path } in below {
        if path.split('/').any(|part| part == "..") {
            return refuse(format!("bad sub cgroup path: {path}"));
        }
        if controllers.is_empty() && below.len() > 1 {
            return refuse(format!(
                "invalid --cgroup argument: {path} (missing <controller>: prefix)"
            ));
        }
        for controller in *controllers {
            if !joined.iter().any(|at| at.member.has(controller)) {
                return refuse(format!("unknown controller {controller} in --cgroup"));
            }
            if !named.insert(controller) {
                return refuse(format!(
                    "invalid --cgroup argument(s): controller {controller} specified multiple times"
                ));
            }
        }
    }
    Ok(())
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

/// The v2 directory in which `init` is now.
fn beside(at: &Joined, init: Pid) -> Result<Directory> {
    let file = format!("/proc/{init}/cgroup");
    let text = sys::call(std::fs::read_to_string(&file), || format!("read({file:?})"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    let path = path.unwrap_or("").trim_start_matches('/');
    Ok(Directory::open(at.member.mount.join(path))?)
}
