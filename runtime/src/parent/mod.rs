//! The parent: what a container needs on the host, and its undoing.
//!
//! The order is part of the design. The state directory says what will be made
//! before any of it is, so that a runtime that is killed at any step leaves
//! something that `delete --force` can clean. The v2 cgroup is there before the
//! process is, which is born in it; those of v1 and all limits come while the child
//! begins with what needs none of them. It waits until they, its membership and
//! its id maps are settled, and again at each moment that belongs to the parent
//! ([`channel`](crate::channel)).
//!
//! Whatever fails undoes what was made, goes on when that fails too, and
//! reports all of it.

mod announce;
mod deputy;
pub mod exec;
pub mod gate;
pub mod hot_mounts;
mod network;
mod newborn;
pub mod restore;
mod seccomp_agent;
pub mod sources;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::Pid;
use rustix::fs::OFlags;

use crate::cgroup::Cgroup;
use crate::channel::{self, FromChild};
use crate::child::namespaces::{OpenNamespace, open_joined};
use crate::child::progress::Progress;
use crate::child::scheduling::set_priorities;
use crate::child::{Child, Entry, Gate, Life, NewContainer};
use crate::error::{Context, Error, Result};
use crate::hooks::{self, Output, Place, State};
use crate::idmap;
use crate::plan::Plan;
use crate::plan::process::Process;
use crate::plan::sysctl;
use crate::resctrl::{Groups, IfGone};
use crate::seal;
use crate::spec::NamespaceType;
use crate::state::{Locked, Process as Init, Record};
use crate::sys::mutation::Defence;
use crate::sys::{self, credentials, file};
use crate::timing;
pub use announce::Announce;
pub use newborn::Newborn;
use newborn::{Birth, give_birth};

/// What the command line decides about the making of a process.
#[derive(Debug, Default)]
pub struct Options {
    /// The connected socket of `--console-socket`.
    pub console_socket: Option<OwnedFd>,
    /// How many descriptors from 3 on the program inherits.
    pub preserved: i32,
    /// Where to make the process known.
    pub announce: Announce,
    /// Whether this process lacks the host's root rights.
    pub rootless: bool,
}

/// A container that is created: only its program is missing.
#[derive(Debug)]
pub struct Created {
    /// Its process.
    pub init: Newborn,
    /// Its cgroup.
    pub cgroup: Cgroup,
}

/// What was made so far, for the case that the rest fails.
#[derive(Debug, Default)]
struct Made {
    cgroup: Option<Cgroup>,
    groups: Option<Groups>,
    init: Option<Newborn>,
}

/// Makes the container of `plan` in the state directory `container`.
///
/// With a `gate` it will wait there for `start`, else it waits for
/// [`Newborn::go_on`]. `record` is kept up to date on disk at each step.
///
/// # Errors
/// Everything that can go wrong on the host or in the child. What was made is
/// undone, but for the state directory, which is the caller's.
pub fn create(
    plan: &Plan,
    container: &Locked,
    record: &mut Record,
    gate: Option<Gate>,
    options: Options,
) -> Result<Created> {
    let mut made = Made::default();
    match make(plan, container, record, gate, options, &mut made) {
        Ok(()) => {}
        Err(error) => return Err(made.undo(error)),
    }
    match (made.init, made.cgroup) {
        (Some(init), Some(cgroup)) => Ok(Created { init, cgroup }),
        _ => unreachable!("make() succeeds only with both"),
    }
}

fn make(
    plan: &Plan,
    container: &Locked,
    record: &mut Record,
    gate: Option<Gate>,
    options: Options,
    made: &mut Made,
) -> Result<()> {
    Cgroup::check_unused(&plan.cgroup)?;
    record.cgroup = Some(plan.cgroup.record());
    // What does not fit what is there is refused before anything is made.
    let groups = plan.intel_rdt.as_ref().map(Groups::look).transpose()?;
    record.intel_rdt = groups.as_ref().map(Groups::record);
    container.save(record)?;

    let cgroup = made.cgroup.insert(Cgroup::create(&plan.cgroup)?);
    timing::mark("cgroup of v2");
    made.groups = groups;
    make_groups(plan, made.groups.as_mut(), record)?;
    let (rootless, announce) = (options.rootless, options.announce.clone());
    let output = match plan.hooks.before_pivot() || plan.hooks.in_child() {
        true => Output::open(&plan.hooks.output)?,
        false => Output::default(),
    };
    let state = record.hook_state();
    let newborn = birth(plan, (state.clone(), &output), gate, options, cgroup)?;
    let newborn = made.init.insert(newborn);
    timing::mark("birth");
    record.init = Some(Init::now(newborn.pid)?);
    container.save(record)?;
    timing::mark("record");

    // While the child begins its namespaces, its session and its mounts.
    settle(plan, newborn, (cgroup, made.groups.as_ref()), rootless)
        .map_err(|error| newborn.last_words().unwrap_or(error))?;
    newborn.go(cgroup)?;
    seal::let_go();
    timing::mark("unit, limits and ids of the process");
    newborn.until_ready(|newborn, message| match message {
        FromChild::Born(_) => {
            record.init = Some(Init::now(newborn.pid)?);
            container.save(record)?;
            settle_ids(
                newborn.pid,
                plan,
                rootless,
                plan.namespaces.second_clone_flags(),
            )
        }
        FromChild::SourcesWanted => {
            sources::hand_over(&plan.rootfs, newborn, &|| container.is_renounced())
        }
        FromChild::HooksWanted => {
            network::move_devices(&plan.net_devices, newborn.pid)?;
            run_hooks(plan, (&state, &output), newborn.pid, container)
        }
        FromChild::Listener(number) => {
            seccomp_agent::hand_over(plan.filter.as_ref(), newborn, number, &state, "creating")
        }
        _ => Ok(()),
    })?;

    timing::mark("child is set up");
    if scheduled_by_parent(plan, rootless) {
        set_priorities(newborn.pid, &plan.process.scheduling)?;
    }

    settle_groups(plan, made.groups.as_mut(), record);
    record.creating = false;
    container.save(record)?;
    announce.publish(newborn.pid, &newborn.handle)
}

/// Settles what the child waits for before it enters its cgroups.
fn settle(
    plan: &Plan,
    newborn: &Newborn,
    (cgroup, groups): (&mut Cgroup, Option<&Groups>),
    rootless: bool,
) -> Result<()> {
    cgroup.create_v1(&plan.cgroup)?;
    timing::mark("cgroups of v1");
    cgroup.apply(&plan.cgroup)?;
    timing::mark("limits");
    cgroup.start_unit(&plan.cgroup, newborn.pid)?;
    newborn.ensure_membership(cgroup)?;
    // Before a second fork: who is born later is where this one is.
    newborn.ensure_groups(groups, IfGone::Fail)?;
    raise_limits(newborn.pid, &plan.process)?;
    let flags = plan.namespaces.clone_flags();
    settle_ids(newborn.pid, plan, rootless, flags)
}

/// Makes the resctrl groups, if the container is to have some.
fn make_groups(plan: &Plan, groups: Option<&mut Groups>, record: &mut Record) -> Result<()> {
    if let (Some(rdt), Some(groups)) = (&plan.intel_rdt, groups) {
        groups.make(rdt)?;
        record.intel_rdt = Some(groups.record());
        timing::mark("resctrl");
    }
    Ok(())
}

/// Says which of the resctrl groups go with the container.
fn settle_groups(plan: &Plan, groups: Option<&mut Groups>, record: &mut Record) {
    if let (Some(rdt), Some(groups)) = (&plan.intel_rdt, groups) {
        groups.settle(rdt);
        record.intel_rdt = Some(groups.record());
    }
}

/// Whether policy and I/O priority are ours to set: root of a user namespace has
/// no right to the real-time ones, which we have as root of the host.
fn scheduled_by_parent(plan: &Plan, rootless: bool) -> bool {
    plan.namespaces.contains(NamespaceType::User) && !rootless
}

/// Prepares everything for the child, and makes it.
fn birth(
    plan: &Plan,
    (state, hook_output): (State, &Output),
    gate: Option<Gate>,
    options: Options,
    cgroup: &Cgroup,
) -> Result<Newborn> {
    let namespaces = &plan.namespaces;
    let joined = open_joined(namespaces)?;
    check_kernel_parameters(&plan.rootfs.sysctls, &joined)?;
    let (ours, theirs) = channel::pair()?;
    let child = Child {
        life: Life {
            channel: theirs,
            progress: Progress::new()?,
            process: &plan.process,
            filter: plan.filter.as_ref(),
            dumpable_for_listener: plan.dumpable_for_listener,
            personality: plan.personality,
            memory_policy: plan.memory_policy.as_ref(),
            scheduled_by_parent: scheduled_by_parent(plan, options.rootless),
            keyring: plan.keyring.as_ref(),
            console_socket: options.console_socket,
            preserved: options.preserved,
            unprivileged: options.rootless && namespaces.creates(NamespaceType::User),
        },
        entry: Entry::Container(Box::new(NewContainer {
            plan,
            joined,
            gate,
            state,
            hook_output,
            root: None,
        })),
    };
    let birth = Birth {
        flags: namespaces.clone_flags(),
        cgroup: cgroup.birthplace(),
        pid_namespace: None,
    };
    give_birth(&birth, child, ours)
}

/// A joined namespace may be the one that this process is in: then its kernel
/// parameters are the host's.
fn check_kernel_parameters(sysctls: &[(PathBuf, String)], joined: &[OpenNamespace]) -> Result<()> {
    if sysctls.is_empty() || Defence::SysctlNamespaces.is_out() {
        return Ok(());
    }
    for namespace in joined {
        let path = format!("/proc/self/ns/{}", namespace.kind.file());
        let ours = file::stat(file::open(Path::new(&path), OFlags::PATH)?.as_fd())?;
        let theirs = file::stat(namespace.fd.as_fd())?;
        if (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino) {
            continue;
        }
        let of_it = |(path, _): &&(PathBuf, String)| sysctl::owner(path) == Some(namespace.kind);
        if let Some((path, _)) = sysctls.iter().find(of_it) {
            let name = namespace.kind.name();
            let text = format!("{path:?} is not allowed in host {name} namespace");
            return Err(Error::config("linux.sysctl", text));
        }
    }
    Ok(())
}

/// Writes the id maps, if the process `pid` was cloned into a new user
/// namespace, and its badness for the OOM killer.
fn settle_ids(pid: Pid, plan: &Plan, rootless: bool, flags: nix::sched::CloneFlags) -> Result<()> {
    if let Some(maps) = &plan.namespaces.id_maps
        && flags.contains(nix::sched::CloneFlags::CLONE_NEWUSER)
    {
        idmap::write(pid, maps, nix::unistd::geteuid().is_root())?;
    }
    set_oom_score(pid, &plan.process, rootless)
}

/// Writes `oom_score_adj` from outside: in its user namespace the process
/// would lack the right.
fn set_oom_score(pid: Pid, process: &Process, rootless: bool) -> Result<()> {
    let Some(score) = process.oom_score_adj else {
        return Ok(());
    };
    let path = format!("/proc/{pid}/oom_score_adj");
    match std::fs::write(&path, score.to_string()) {
        // As runc: somebody without root's rights can't lower it.
        Err(error) if rootless && sys::ToErrno::errno(&error) == Errno::EACCES => Ok(()),
        written => Ok(sys::call(written, || format!("write({path:?}, {score})"))?),
    }
}

/// Raises the hard limits of the process `pid` as far as its plan goes, while
/// it has our ids: without `CAP_SYS_RESOURCE` nobody may touch the limits of
/// another user's process. The process itself lowers them, last of all.
fn raise_limits(pid: Pid, process: &Process) -> Result<()> {
    for limit in &process.rlimits {
        credentials::raise_hard_limit(pid, limit.resource, limit.hard)
            .context(|| format!("set {}", limit.name))?;
    }
    Ok(())
}

/// The hooks of the runtime's namespaces, while the child waits with its
/// mounts done and its root not yet changed.
fn run_hooks(
    plan: &Plan,
    (state, output): (&State, &Output),
    pid: Pid,
    container: &Locked,
) -> Result<()> {
    let state = state.json("creating", pid.as_raw());
    let unwanted = || container.is_renounced();
    let bundle = Place::new(&plan.bundle, output);
    let hooks = &plan.hooks.prestart;
    hooks::run_all("prestart", hooks, &state, bundle, &unwanted)?;
    let hooks = &plan.hooks.create_runtime;
    hooks::run_all("createRuntime", hooks, &state, bundle, &unwanted)
}

impl Made {
    /// Undoes what was made because of `error`, and returns it with what went
    /// wrong on the way.
    fn undo(self, error: Error) -> Error {
        let error = match &self.cgroup {
            Some(cgroup) => cgroup.with_oom_kills(error),
            None => error,
        };
        if let Some(init) = self.init {
            init.kill();
        }
        // What a hook has left in it, too.
        let killed = match &self.cgroup {
            Some(cgroup) if !cgroup.is_nowhere() => cgroup.kill(),
            _ => Ok(()),
        };
        let cgroup = self.cgroup.map_or(Ok(()), Cgroup::remove).and(killed);
        // Which nobody is in any more.
        let groups = self.groups.map_or(Ok(()), Groups::remove);
        [cgroup, groups]
            .into_iter()
            .filter_map(Result::err)
            .fold(error, |error, failed| error.and(&failed.within("clean up")))
    }
}
