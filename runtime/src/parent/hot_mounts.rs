//! Mounts for a container that runs.
//!
//! ```text
//! parent                                   child
//! opens the sources as detached trees,
//! makes filesystems that have one
//! fork ──────────────────────────────────> waits
//! puts it into the container's cgroup ───> enters the container's namespaces
//!                                          attaches, or unmounts
//!      <── the error's text, end of file ── exits
//! ```
//!
//! The child is born in our pid namespace, so nobody in the container can see
//! it unless they share that.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::unistd::Pid;
use rustix::fs::OFlags;

use super::sources;
use crate::cgroup::Cgroup;
use crate::child::hot_mounts::{self, Work};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::hot_mounts::{HotMounts, is_made_on_host};
use crate::plan::mounts::{Mount, What};
use crate::sys::handle::Handle;
use crate::sys::process::{self, Ended, Forked};
use crate::sys::{self, descriptors, file};

/// Does what `planned` says in the container of `init`, which is in `cgroup`.
///
/// # Errors
/// A source that can't be opened, whatever the child met; then nothing is
/// left of what was mounted.
pub fn perform(planned: HotMounts, init: Handle, cgroup: &Cgroup) -> Result<()> {
    let mut locked = match planned.user_namespace {
        true => sources::open_locked(&planned.add, &init)?,
        false => BTreeMap::new(),
    };
    let mut add = Vec::new();
    for (at, mount) in planned.add.into_iter().enumerate() {
        let tree = match locked.remove(&at) {
            Some(tree) => Some(tree),
            None => open_source(&mount).context(|| mount.phrase())?,
        };
        add.push((mount, tree));
    }
    let work = Work {
        add,
        remove: planned.remove,
        namespaces: planned.namespaces,
        user_namespace: planned.user_namespace,
        procfs: file::open(Path::new("/proc"), OFlags::PATH | OFlags::DIRECTORY)?,
        init,
    };
    let (answer, theirs) = descriptors::pipe()?;
    let (wait, go) = descriptors::pipe()?;
    let Forked::Parent(pid, child) = process::fork(&process::Clone::default())? else {
        drop((answer, go));
        let code = match hot_mounts::perform(&work, wait.as_fd()) {
            Ok(()) => 0,
            Err(error) => {
                let _ = descriptors::write_all(theirs.as_fd(), error.to_string().as_bytes());
                1
            }
        };
        process::exit_now(code);
    };
    drop((theirs, wait));
    if let Err(error) = let_go(pid, cgroup, go.as_fd()) {
        let _ = child.signal(libc::SIGKILL);
        let _ = child.wait();
        return Err(error);
    }
    let mut text = String::new();
    let read = File::from(answer).read_to_string(&mut text).map(drop);
    let ended = child.wait()?;
    sys::call(read, || "read(pipe)".to_owned())?;
    match ended {
        Ended::Exited(0) => Ok(()),
        Ended::Exited(_) if !text.is_empty() => Err(Error::new(Kind::System, text)),
        ended => {
            let text = format!("the process that mounts ended by {ended}");
            Err(Error::new(Kind::System, text))
        }
    }
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
fn let_go(pid: Pid, cgroup: &Cgroup, go: BorrowedFd<'_>) -> Result<()> {
    cgroup.attach(pid)?;
    Ok(descriptors::write_all(go, b"g")?)
}
