//! One more process in a running container.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sched::CloneFlags;
use nix::unistd::Pid;
use rustix::fs::OFlags;

use super::newborn::{Birth, Newborn, give_birth};
use super::{Options, raise_limits, seccomp_agent, set_oom_score};
use crate::cgroup::Cgroup;
use crate::channel::{self, FromChild};
use crate::child::progress::Progress;
use crate::child::scheduling::{set_priorities, settle_initial_cpus};
use crate::child::{Child, Entry, Joined, Life};
use crate::error::Result;
use crate::hooks::State;
use crate::plan::exec::Exec;
use crate::resctrl::{Groups, IfGone};
use crate::seal;
use crate::sys::file;
use crate::sys::handle::Handle;
use crate::sys::mutation::Defence;
use crate::timing;

/// The container to enter.
#[derive(Debug)]
pub struct Target<'a> {
    /// Its init.
    pub init: Handle,
    /// Its pid.
    pub pid: Pid,
    /// Its cgroup, or the one below it that was asked for.
    pub cgroup: &'a Cgroup,
    /// Its resctrl groups.
    pub groups: Option<&'a Groups>,
    /// Its state, for a seccomp agent.
    pub state: State,
}

/// Makes the process of `plan` in the container of `target`, ready for
/// [`Newborn::go_on`].
///
/// # Errors
/// Everything that can go wrong on the host or in the child, which is killed.
pub fn exec(plan: &Exec, target: Target<'_>, options: Options) -> Result<Newborn> {
    let Target {
        init,
        pid,
        cgroup,
        groups,
        state,
    } = target;
    let (ours, theirs) = channel::pair()?;
    let (second_fork, born_inside) = way_into_pid_namespace(plan.namespaces);
    let namespaces = if born_inside {
        plan.namespaces - CloneFlags::CLONE_NEWPID
    } else {
        plan.namespaces
    };
    let (rootless, announce) = (options.rootless, options.announce);
    let pid_namespace = if born_inside {
        Some(init.try_clone())
    } else {
        None
    };
    let pid_namespace = pid_namespace.transpose()?;
    let scheduled_by_parent = plan.namespaces.contains(CloneFlags::CLONE_NEWUSER) && !rootless;
    settle_initial_cpus(&plan.process.scheduling)?;
    let child = Child {
        life: Life {
            channel: theirs,
            progress: Progress::new()?,
            process: &plan.process,
            filter: plan.filter.as_ref(),
            dumpable_for_listener: false,
            personality: plan.personality,
            memory_policy: plan.memory_policy.as_ref(),
            scheduled_by_parent,
            keyring: plan.keyring.as_ref(),
            console_socket: options.console_socket,
            preserved: options.preserved,
            unprivileged: false,
        },
        entry: Entry::Running(Joined {
            root: own_root(plan.namespaces, pid, &init)?,
            init: Some(init),
            namespaces,
            second_fork,
        }),
    };
    let birth = Birth {
        flags: CloneFlags::empty(),
        cgroup: cgroup.birthplace(),
        pid_namespace: pid_namespace.as_ref(),
    };
    let mut newborn = give_birth(&birth, child, ours)?;
    timing::mark("birth");
    let settled = settle(plan, &mut newborn, (cgroup, groups), &state, rootless)
        .and_then(|()| match scheduled_by_parent {
            true => set_priorities(newborn.pid, &plan.process.scheduling),
            false => Ok(()),
        })
        .and_then(|()| announce.publish(newborn.pid, &newborn.handle));
    match settled {
        Ok(()) => {
            timing::mark("child is set up");
            Ok(newborn)
        }
        Err(error) => {
            newborn.kill();
            Err(cgroup.with_oom_kill_of_exec(error))
        }
    }
}

/// How the pid namespace of the container is entered: by a second fork, or so
/// that the process is born in it.
///
/// In it the container sees the process: its `/proc/PID/mountinfo` and `net`, and
/// with `CAP_SYS_PTRACE` in the same user namespace `/proc/PID/root` and
/// `/proc/PID/fd`, dumpable or not. So all of the host's is left behind first, and
/// who comes in is a fork. Somebody without root's rights has no other way in
/// either.
fn way_into_pid_namespace(namespaces: CloneFlags) -> (bool, bool) {
    let enters = namespaces.contains(CloneFlags::CLONE_NEWPID);
    let born_inside = enters && Defence::EnteredByFork.is_out();
    (enters && !born_inside, born_inside)
}

/// The root directory of the init `pid`, if no mount namespace brings it.
fn own_root(namespaces: CloneFlags, pid: Pid, init: &Handle) -> Result<Option<OwnedFd>> {
    if namespaces.contains(CloneFlags::CLONE_NEWNS) {
        return Ok(None);
    }
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let root = file::open(Path::new(&path), flags)?;
    // Only now: if init still lives, the pid was its all the time.
    init.signal(0)?;
    Ok(Some(root))
}

fn settle(
    plan: &Exec,
    newborn: &mut Newborn,
    (cgroup, groups): (&Cgroup, Option<&Groups>),
    state: &State,
    rootless: bool,
) -> Result<()> {
    newborn
        .ensure_membership(cgroup)
        .and_then(|()| newborn.ensure_groups(groups, IfGone::Skip))
        .and_then(|()| set_oom_score(newborn.pid, &plan.process, rootless))
        .and_then(|()| raise_limits(newborn.pid, &plan.process))
        .map_err(|error| newborn.last_words().unwrap_or(error))?;
    newborn.go(cgroup)?;
    seal::let_go();
    newborn.until_ready(|newborn, message| match message {
        FromChild::Listener(number) => {
            seccomp_agent::hand_over(plan.filter.as_ref(), newborn, number, state, "running")
        }
        _ => Ok(()),
    })
}
