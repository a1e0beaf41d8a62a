//! The steps that enter a running container.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;

use super::progress::Step;
use super::{Life, console, container, identity, lsm, namespaces};
use crate::error::{Context, Result};
use crate::sys::handle::Handle;
use crate::sys::{self, file};

/// A running container to enter.
#[derive(Debug)]
pub struct Joined {
    /// Its init, until its namespaces are entered.
    pub init: Option<Handle>,
    /// The namespaces in which it differs from the runtime.
    pub namespaces: CloneFlags,
    /// The root to enter by chroot(2), where the container has no mount
    /// namespace that brings its own.
    pub root: Option<OwnedFd>,
    /// Whether the pid namespace is entered by a second fork: nobody may be seen in
    /// it who is still in the host's namespaces and has its root (CVE-2016-9962),
    /// and an unprivileged runtime has no right in it before it is in the user
    /// namespace. Else the parent's children are born in it.
    pub second_fork: bool,
}

/// Enters the container of `joined`.
pub(super) fn enter(life: &Life<'_>, joined: &mut Joined) -> Result<()> {
    life.progress.reach(Step::Namespaces);
    // Both are closed here: on an old kernel the first is a directory of the
    // host's procfs, and from the fork on the container sees what we hold.
    let (init, root) = (joined.init.take(), joined.root.take());
    // One call for all, the user namespace first (Linux 5.8).
    if let Some(init) = &init
        && !joined.namespaces.is_empty()
    {
        let entered = init.enter(joined.namespaces);
        entered.context(|| "enter the container's namespaces")?;
    }
    if let Some(root) = &root {
        file::change_directory(root.as_fd())?;
        file::change_root_here().context(|| "enter the container's root")?;
    }
    drop((init, root));
    if joined.second_fork {
        container::fork_again(life, CloneFlags::empty())?;
    }
    if joined.namespaces.contains(CloneFlags::CLONE_NEWUSER) {
        namespaces::become_root(life.process.keep_groups)?;
    }
    life.progress.reach(Step::Session);
    sys::call(nix::unistd::setsid().map(drop), || "setsid()".to_owned())?;
    container::join_keyring(life, joined.namespaces.contains(CloneFlags::CLONE_NEWUSER))?;
    life.progress.reach(Step::Console);
    identity::reopen_null()?;
    if let Some(terminal) = life.process.terminal {
        let peer = console::make(terminal, &life.terminal_receiver())?;
        console::take(peer.as_fd())?;
    }
    lsm::set_labels(life.process)
}
