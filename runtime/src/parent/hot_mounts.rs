//! Mounts for a container that runs.
//!
//! ```text
//! parent                                   child
//! opens the sources as detached trees,
//! makes filesystems that have one
//! fork ──────────────────────────────────> closes all else
//!      <── ready ───────────────────────── waits
//! puts it into the container's cgroup ───> enters the container's namespaces
//!                                          attaches, or unmounts
//!      <── its error, end of file ───────── exits
//! ```
//!
//! The child is born in our pid namespace, so nobody in the container can see
//! it unless they share that.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::unistd::Pid;
use rustix::fs::OFlags;

use super::deputy::Deputy;
use super::sources;
use crate::cgroup::Cgroup;
use crate::channel::{self, ParentEnd};
use crate::child::hot_mounts::{self, Work};
use crate::error::Result;
use crate::plan::hot_mounts::{HotMounts, is_made_on_host};
use crate::plan::mounts::{Mount, What};
use crate::sys::file;
use crate::sys::handle::Handle;

/// Does what `planned` says in the container of `init`, which is in `cgroup`.
/// `unwanted` is asked now and then whether to give up: the paths may be of a
/// server that does not answer.
///
/// # Errors
/// A source that can't be opened, whatever the child met; then nothing is
/// left of what was mounted.
pub fn perform(
    planned: HotMounts,
    init: Handle,
    cgroup: &Cgroup,
    unwanted: &dyn Fn() -> bool,
) -> Result<()> {
    let owner = planned.user_namespace.then_some(&init);
    let mut opened = match planned.add.as_slice() {
        [] => BTreeMap::new(),
        add => sources::open_apart(add, owner, open_source, unwanted)?,
    };
    let add = planned.add.into_iter().enumerate();
    let add = add.map(|(at, mount)| (mount, opened.remove(&at))).collect();
    let work = Work {
        add,
        remove: planned.remove,
        namespaces: planned.namespaces,
        user_namespace: planned.user_namespace,
        procfs: file::open(Path::new("/proc"), OFlags::PATH | OFlags::DIRECTORY)?,
        init,
    };
    let (ours, theirs) = channel::pair()?;
    let trees = work.add.iter().filter_map(|(_, tree)| tree.as_ref());
    let mut kept: Vec<_> = trees.map(AsFd::as_fd).collect();
    kept.extend([work.procfs.as_fd(), theirs.as_fd()]);
    kept.extend(work.init.descriptor());
    let deputy = Deputy::start("mounts", &kept, || hot_mounts::perform(&work, &theirs))?;
    drop(theirs);
    if let Err(error) = let_go(deputy.pid, cgroup, &ours) {
        deputy.kill();
        return Err(error);
    }
    deputy.finish(unwanted)
}

/// What of the mount comes from the host: the tree of a bind, a filesystem that
/// has a source.
fn open_source(mount: &Mount) -> Result<Option<OwnedFd>> {
    match &mount.what {
        What::Bind { .. } => sources::open_private(mount).map(Some),
        What::Filesystem { fstype, source, .. } if is_made_on_host(fstype) => {
            hot_mounts::make_on_host(mount, fstype, source).map(Some)
        }
        _ => Ok(None),
    }
}

/// Puts the child into the container's cgroup and lets it begin.
fn let_go(pid: Pid, cgroup: &Cgroup, channel: &ParentEnd) -> Result<()> {
    // A cgroup that the container has frozen must not stop it with our lock open.
    channel.receive()?;
    cgroup.attach(pid)?;
    channel.go_on()
}
