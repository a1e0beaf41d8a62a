//! Mounts for a container that runs, made by a process that enters it.
//!
//! The container's program is awake and may change any path meanwhile. So
//! each destination is opened inside the root once, and what was opened is
//! mounted on or unmounted; nothing is asked of the container's own /proc.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use rustix::fs::OFlags;

use super::root::Root;
use super::rootfs::refused;
use super::{mount, namespaces};
use crate::channel::ChildEnd;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::mounts::{Mount, What};
use crate::sys::file::{self, Links};
use crate::sys::handle::Handle;
use crate::sys::{self, ToErrno, credentials};

/// What to do, and where.
#[derive(Debug)]
pub struct Work {
    /// What to mount, with the trees that come from the host.
    pub add: Vec<(Mount, Option<OwnedFd>)>,
    /// Where to unmount.
    pub remove: Vec<PathBuf>,
    /// The namespaces to enter.
    pub namespaces: CloneFlags,
    /// Whether one of them is a user namespace.
    pub user_namespace: bool,
    /// The host's /proc.
    pub procfs: OwnedFd,
    /// The container's init.
    pub init: Handle,
}

/// Makes the filesystem of `one` on the host, as the host's paths say; it is
/// mounted nowhere yet.
///
/// # Errors
/// A source that is not there; [`Kind::Unsupported`] for what only mount(2) can
/// do.
pub fn make_on_host(one: &Mount, fstype: &str, source: &str) -> Result<OwnedFd> {
    mount::new_filesystem(fstype, source, &one.options)
}

/// Enters the container and does the work, once it is told by `channel` that this
/// process is in the container's cgroup: what it makes is charged there.
///
/// # Errors
/// Of the first mount that failed; those before it are unmounted again.
pub fn perform(work: &Work, channel: &ChildEnd) -> Result<()> {
    credentials::set_dumpable(false)?;
    channel.ready()?;
    if !channel.until_told()? {
        return Err(Error::new(Kind::System, "the runtime is gone"));
    }
    let entered = work.init.enter(work.namespaces);
    entered.context(|| "enter the container's namespaces")?;
    if work.user_namespace {
        namespaces::become_root(false)?;
    }
    // Both are undone by new credentials.
    credentials::set_parent_death_signal(libc::SIGKILL)?;
    credentials::set_dumpable(false)?;
    let _ = file::set_umask(0);
    let root = file::open(Path::new("/"), OFlags::PATH | OFlags::DIRECTORY)?;
    let root = Root::new(root);
    // Descriptors are named by the host's procfs, in which we have a number.
    file::change_directory(work.procfs.as_fd())?;
    remove(&root, &work.remove)?;
    let mut added: Vec<OwnedFd> = Vec::new();
    for (mount, source) in &work.add {
        let done = add(&root, mount, source.as_ref(), work.user_namespace);
        match done.context(|| mount.phrase()) {
            Ok(tree) => added.push(tree),
            Err(error) => return Err(undo(error, &added)),
        }
    }
    Ok(())
}

/// Mounts one; its root.
fn add(
    root: &Root,
    one: &Mount,
    source: Option<&OwnedFd>,
    user_namespace: bool,
) -> Result<OwnedFd> {
    match (&one.what, source) {
        (What::Filesystem { fstype, source, .. }, made) => {
            mount::detached_only(root, one, (fstype, source), made)
        }
        (What::Bind { .. }, Some(tree)) => {
            if let Some(missing) = mount::bind_tree(root, one, tree, user_namespace)? {
                // No path in the container leads to the source.
                return Err(missing.into());
            }
            let copy = tree.try_clone();
            Ok(copy.map_err(|error| sys::Error::new("dup(tree)", error.errno()))?)
        }
        _ => Err(Error::new(Kind::Unsupported, "can't be mounted by now")),
    }
}

/// Unmounts what was mounted before `error`, the last first.
fn undo(error: Error, added: &[OwnedFd]) -> Error {
    let left = added
        .iter()
        .rev()
        .filter_map(|tree| detach(tree.as_fd()).err());
    left.fold(error, |error, left| error.and(&left.into()))
}

/// Unmounts what is at these paths, once all of them are known to be mounts.
fn remove(root: &Root, paths: &[PathBuf]) -> Result<()> {
    let mut mounts = Vec::new();
    for path in paths {
        let phrase = || format!("unmount {path:?}");
        // A link could lead to a mount that masks something.
        let found = root.find(path, Links::Refuse).context(phrase)?;
        if root.is(found.as_fd())? || !file::is_mount_root(found.as_fd()).context(phrase)? {
            return Err(refused("nothing is mounted there")).context(phrase);
        }
        mounts.push((path, found));
    }
    for (path, found) in &mounts {
        detach(found.as_fd()).context(|| format!("unmount {path:?}"))?;
    }
    Ok(())
}

/// Unmounts the mount that `fd` is the root of; the working directory is the
/// host's /proc.
fn detach(fd: BorrowedFd<'_>) -> sys::Result<()> {
    let by_number = super::rootfs::by_number(fd);
    sys::mount::detach(by_number.strip_prefix("/proc").unwrap_or(&by_number))
}
