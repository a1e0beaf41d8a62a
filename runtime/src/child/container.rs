//! The steps that make a container out of a process in new namespaces.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use rustix::fs::OFlags;

use super::namespaces::{self, OpenNamespace};
use super::progress::Step;
use super::rootfs::{BegunRoot, PreparedRoot};
use super::start::Gate;
use super::{Life, console, device, identity, isolation, lsm, pivot, rootfs};
use crate::error::{Context, Result};
use crate::hooks::{self, Output, Place, State};
use crate::plan::Plan;
use crate::plan::namespaces::NamespaceType;
use crate::sys::{self, credentials, file, namespace, process};

/// A container in the making.
#[derive(Debug)]
pub struct NewContainer<'a> {
    /// Every decision.
    pub plan: &'a Plan,
    /// The namespaces to join by path.
    pub joined: Vec<OpenNamespace>,
    /// Where to wait for `start`; without it the program runs at once.
    pub gate: Option<Gate>,
    /// The state for the hooks that run in the container.
    pub state: State,
    /// The files that they write to.
    pub hook_output: &'a Output,
    /// The root, once its making has begun.
    pub root: Option<BegunRoot>,
}

impl NewContainer<'_> {
    /// Whether the session may begin before the parent has settled the
    /// cgroups and the ids, while it writes down the process: when
    /// this process is already the last one and its ids are the host's.
    fn begins_session_early(&self) -> bool {
        let namespaces = &self.plan.namespaces;
        !namespaces.second_fork() && !namespaces.contains(NamespaceType::User)
    }

    /// Whether mounts may begin as early: when each namespace that they show is
    /// there already, and the parent has nothing to open for them.
    fn mounts_early(&self) -> bool {
        let namespaces = &self.plan.namespaces;
        self.begins_session_early()
            && namespaces.join.is_empty()
            && namespaces.creates(NamespaceType::Mount)
            && self.plan.rootfs.sources().next().is_none()
    }

    /// Every descriptor that the child goes on using.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut kept: Vec<_> = self.joined.iter().map(|joined| joined.fd.as_fd()).collect();
        kept.extend(self.gate.iter().flat_map(Gate::descriptors));
        if self.plan.hooks.in_child() {
            kept.extend(self.hook_output.descriptors());
        }
        kept
    }
}

/// Does what can be done while the parent still writes down the process and makes
/// its cgroups.
pub(super) fn begin(life: &Life<'_>, container: &mut NewContainer<'_>) -> Result<()> {
    let plan = container.plan;
    let flags = plan.namespaces.unshare_flags();
    if !flags.is_empty() {
        life.progress.reach(Step::NewNamespaces);
        namespace::unshare(flags).context(|| "make the container's namespaces")?;
    }
    if container.begins_session_early() {
        begin_session(life, plan)?;
    }
    if container.mounts_early() {
        life.progress.reach(Step::FirstMounts);
        let begun = container.root.insert(rootfs::begin(&plan.rootfs)?);
        begun.perform(&plan.rootfs, plan.rootfs.before_cgroup())?;
    }
    Ok(())
}

/// Makes the container around this process.
pub(super) fn make(life: &Life<'_>, container: &mut NewContainer<'_>) -> Result<()> {
    let plan = container.plan;
    life.progress.reach(Step::Namespaces);
    enter_namespaces(life, container)?;
    if !container.begins_session_early() {
        begin_session(life, plan)?;
    }

    life.progress.reach(Step::Mounts);
    let mut root = match container.root.take() {
        Some(begun) => begun,
        None => rootfs::begin(&plan.rootfs)?,
    };
    if plan.rootfs.sources().next().is_some() {
        root.take_sources(life.sources()?);
    }
    let root = root.complete(&plan.rootfs)?;
    run_hooks_before_pivot(life, container, &root)?;
    life.progress.reach(Step::Pivot);
    pivot::enter(root, &plan.rootfs)?;

    life.progress.reach(Step::Console);
    identity::reopen_null()?;
    if let Some(terminal) = life.process.terminal {
        let peer = console::make(terminal, &life.terminal_receiver())?;
        device::console(
            file::open(Path::new("/"), OFlags::PATH | OFlags::DIRECTORY)?.as_fd(),
            peer.as_fd(),
        )?;
        console::take(peer.as_fd())?;
    }
    identity::make_directory(life.process);

    life.progress.reach(Step::Finish);
    lsm::set_labels(life.process)?;
    rootfs::finish(&plan.rootfs)
}

/// Enters every namespace that clone3 did not make, by a second fork where
/// the plan says so; then only the last process returns.
fn enter_namespaces(life: &Life<'_>, container: &NewContainer<'_>) -> Result<()> {
    let namespaces = &container.plan.namespaces;
    namespaces::join(&container.joined)?;
    if namespaces.second_fork() {
        if namespaces.creates(NamespaceType::Time) {
            // Before this process becomes root of a user namespace: its files
            // in /proc belong to the host's root, which it still is.
            namespaces::unshare_time(namespaces.time_offsets.as_deref(), life.unprivileged)?;
        }
        fork_again(life, namespaces.second_clone_flags())?;
    }
    if namespaces.contains(NamespaceType::User) {
        namespaces::become_root(life.process.keep_groups)?;
    }
    // Not earlier: the root of the new view is the cgroup that the process is
    // in, and only now the parent has settled that.
    if namespaces.creates(NamespaceType::Cgroup) {
        namespace::unshare(CloneFlags::CLONE_NEWCGROUP)?;
    }
    Ok(())
}

/// Makes the container's process as a sibling of this one, which ends.
///
/// # Errors
/// Those of clone3.
pub(super) fn fork_again(life: &Life<'_>, flags: CloneFlags) -> Result<()> {
    let flags = u64::from(flags.bits().cast_unsigned());
    match process::fork_sibling(flags, life.progress.place_of_pid())? {
        None => process::exit_now(0),
        Some(pid) => {
            isolation::guard(life.unprivileged)?;
            // Not told by the other, which may die before it could: this one and the
            // parent would wait for each other.
            life.channel.born(pid.as_raw())?;
            life.until_go()?;
            if life.unprivileged {
                credentials::set_dumpable(false)?;
            }
            Ok(())
        }
    }
}

/// What belongs to the session and the namespaces, not to the filesystem.
pub(super) fn begin_session(life: &Life<'_>, plan: &Plan) -> Result<()> {
    life.progress.reach(Step::Session);
    sys::call(nix::unistd::setsid().map(drop), || "setsid()".to_owned())?;
    join_keyring(life, plan.namespaces.contains(NamespaceType::User))?;
    if plan.namespaces.creates(NamespaceType::Network) {
        namespaces::bring_up_loopback()?;
    }
    if let Some(hostname) = &plan.hostname {
        sys::call(nix::unistd::sethostname(hostname), || {
            format!("sethostname({hostname:?})")
        })?;
    }
    if let Some(domainname) = &plan.domainname {
        namespace::set_domain_name(domainname)?;
    }
    Ok(())
}

/// Joins the session keyring, which carries the program's SELinux label.
pub(super) fn join_keyring(life: &Life<'_>, user_namespace: bool) -> Result<()> {
    let Some(name) = life.keyring else {
        return Ok(());
    };
    let Some(label) = &life.process.selinux_label else {
        return namespaces::join_keyring(name, user_namespace);
    };
    lsm::label_keys(label)?;
    namespaces::join_keyring(name, user_namespace)?;
    lsm::label_keys("")
}

/// The hooks that see the mounts done and the host's root still there: first
/// those of the runtime's namespaces, then those of the container's, which as
/// under runc have the root for their working directory.
fn run_hooks_before_pivot(
    life: &Life<'_>,
    container: &NewContainer<'_>,
    root: &PreparedRoot,
) -> Result<()> {
    let hooks = &container.plan.hooks;
    // Devices are moved by the parent, too.
    if hooks.before_pivot() || !container.plan.net_devices.is_empty() {
        life.progress.reach(Step::RuntimeHooks);
        life.channel.hooks_wanted()?;
        life.wait()?;
    }
    if hooks.create_container.is_empty() {
        return Ok(());
    }
    life.progress.reach(Step::ContainerHooks);
    let pid = nix::unistd::getpid().as_raw();
    let state = container.state.json("creating", pid);
    hooks::run_all(
        "createContainer",
        &hooks.create_container,
        &state,
        Place::new(&rootfs::by_number(root.dir()), container.hook_output),
        &hooks::always_wanted,
    )
    .context(|| "before pivot")?;
    match container.plan.hooks.start_container.is_empty() {
        // Who is in the container could open them by /proc/PID/fd.
        true => container.hook_output.close_all(),
        false => Ok(()),
    }
}
