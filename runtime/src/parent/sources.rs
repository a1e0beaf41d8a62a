//! The sources of bind mounts, opened for the child.
//!
//! A container in a user namespace may have no access to the path of what it
//! is given, and an idmapped mount needs the host's rights over the
//! filesystem. So both are opened with these rights as detached trees, which the
//! child only attaches; all others the child opens itself. Another mount that it
//! shall idmap gets the user namespace for that.
//!
//! They are opened in the child's mount namespace, not in the host's. There
//! the kernel has locked what the host wants: a mount of a user namespace can't be
//! made writable, nor can what it covers be uncovered, and it is at most a slave of
//! the host's (mount_namespaces(7)). A tree from the host's namespace has no locks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use rustix::fs::{CWD, OFlags};

use super::deputy::Deputy;
use super::newborn::Newborn;
use crate::channel::{self, ParentEnd, Source};
use crate::error::{Context, Error, Kind, Result};
use crate::idmap;
use crate::plan::mount_options::{Propagation, PropagationType};
use crate::plan::mounts::{IdMap, IdSource, Mount, Rootfs, What};
use crate::plan::namespaces::IdMaps;
use crate::sys::handle::Handle;
use crate::sys::mount::{self, Change};
use crate::sys::mutation::Defence;
use crate::sys::process::{self, Forked};
use crate::sys::{self, credentials, descriptors, file, namespace};

/// What a deputy does here, for messages.
const TASK: &str = "opens mount sources";

/// Opens the sources that `child` can't open, in its mount namespace, and hands
/// them to it: by a process that goes there and ends. `unwanted` is asked now and
/// then whether to give up.
///
/// # Errors
/// A missing source, a filesystem that can't be idmapped.
pub(super) fn hand_over(
    rootfs: &Rootfs,
    child: &Newborn,
    unwanted: &dyn Fn() -> bool,
) -> Result<()> {
    hand_over_to(rootfs, &child.handle, &child.channel, unwanted)
}

/// [`hand_over`] for any process at the other end of a channel.
///
/// # Errors
/// As for [`hand_over`].
pub fn hand_over_to(
    rootfs: &Rootfs,
    child: &Handle,
    channel: &ParentEnd,
    unwanted: &dyn Fn() -> bool,
) -> Result<()> {
    let flag = CloneFlags::CLONE_NEWNS;
    let namespace = match child.open_namespaces(flag) {
        // Without root's rights nothing is open to us that is not to the child.
        Err(error) if is_denied(&error) && !rootfs.has_idmaps() => return Ok(()),
        opened => opened.context(|| "open the container's mount namespace")?,
    };
    let kept = kept(&namespace, channel);
    Deputy::start(TASK, &kept, || open_all(rootfs, &namespace, channel))?.finish(unwanted)
}

/// What the deputy goes on using.
fn kept<'a>(namespace: &'a [(OwnedFd, CloneFlags)], channel: &'a ParentEnd) -> Vec<BorrowedFd<'a>> {
    let files = namespace.iter().map(|(file, _)| file.as_fd());
    files.chain([channel.as_fd()]).collect()
}

/// Has `open` called for each of `mounts` by a process, for a container that runs:
/// trees in nobody's peer group, by their places in `mounts`. For one in a user
/// namespace, that of `init`, it works in a copy of our mount namespace that belongs
/// to that.
///
/// # Errors
/// Those of `open`; without the rights over the user namespace `EPERM`; not wanted
/// any more.
pub(super) fn open_apart(
    mounts: &[Mount],
    init: Option<&Handle>,
    open: impl Fn(&Mount) -> Result<Option<OwnedFd>>,
    unwanted: &dyn Fn() -> bool,
) -> Result<BTreeMap<usize, OwnedFd>> {
    let keeper = init.map(Keeper::start).transpose()?;
    let namespace = match &keeper {
        Some(keeper) => keeper.process.open_namespaces(CloneFlags::CLONE_NEWNS)?,
        None => Vec::new(),
    };
    let (ours, theirs) = channel::pair()?;
    let deputy = Deputy::start(TASK, &kept(&namespace, &ours), || {
        enter(&namespace)?;
        for (at, one) in mounts.iter().enumerate() {
            if let Some(tree) = open(one).context(|| one.phrase())? {
                ours.source(at, tree.as_fd())?;
            }
        }
        ours.go_on()
    })?;
    // The deputy's alone, so that its end is seen.
    drop(ours);
    let mut opened = BTreeMap::new();
    while deputy.until_readable(theirs.as_fd(), unwanted)?
        && let Source::Tree(at, tree) = theirs.until_source()?
    {
        opened.insert(at, tree);
    }
    deputy.finish(unwanted)?;
    keeper.map_or(Ok(()), Keeper::end)?;
    Ok(opened)
}

/// Enters the namespace that the parent has opened: a handle may be good in the
/// process alone that has it.
fn enter(namespace: &[(OwnedFd, CloneFlags)]) -> sys::Result<()> {
    if Defence::LockedSources.is_out() {
        return Ok(());
    }
    let mut files = namespace.iter();
    files.try_for_each(|(file, flag)| namespace::setns(file.as_fd(), *flag))
}

/// Whether a failure is for want of rights.
fn is_denied(error: &sys::Error) -> bool {
    matches!(error.errno(), Errno::EPERM | Errno::EACCES)
}

/// Somebody in a user namespace with a copy of our mount namespace.
struct Keeper {
    process: Handle,
    /// Open as long as it shall live.
    life: OwnedFd,
}

impl Keeper {
    /// # Errors
    /// `EPERM` without the rights over the user namespace of `init`.
    fn start(init: &Handle) -> Result<Self> {
        let user = init.open_namespaces(CloneFlags::CLONE_NEWUSER)?;
        let (ready, told) = descriptors::pipe()?;
        let (wait, life) = descriptors::pipe()?;
        let Forked::Parent(_, process) = process::fork(&process::Clone::default())? else {
            drop((ready, life));
            let entered = (user.iter())
                .try_for_each(|(file, flag)| namespace::setns(file.as_fd(), *flag))
                .and_then(|()| credentials::set_dumpable(false))
                .and_then(|()| namespace::unshare(CloneFlags::CLONE_NEWNS));
            let text =
                entered.map_or_else(|error| channel::encode_error(&error.into()), |()| vec![]);
            let _ = descriptors::write_all(told.as_fd(), &text);
            drop(told);
            // The end of the pipe comes when the parent is done, or dead.
            let _ = descriptors::read(wait.as_fd(), &mut [0]);
            process::exit_now(0);
        };
        drop((told, wait));
        let keeper = Self { process, life };
        let mut text = Vec::new();
        let read = File::from(ready).read_to_end(&mut text).map(drop);
        sys::call(read, || "read(pipe)".to_owned())?;
        if text.is_empty() {
            return Ok(keeper);
        }
        keeper.end()?;
        Err(channel::decode_error(&text)).context(|| "enter the container's user namespace")
    }

    fn end(self) -> Result<()> {
        drop(self.life);
        self.process.wait()?;
        Ok(())
    }
}

/// The deputy's part.
fn open_all(
    rootfs: &Rootfs,
    namespace: &[(OwnedFd, CloneFlags)],
    channel: &ParentEnd,
) -> Result<()> {
    match enter(namespace) {
        Err(error) if is_denied(&error) && !rootfs.has_idmaps() => return Ok(()),
        entered => entered.context(|| "enter the container's mount namespace")?,
    }
    for (at, one) in rootfs.sources() {
        // The child makes a link like it.
        if let What::Bind { source, .. } = &one.what
            && one.options.symlinks.copy
            && file::read_link(CWD, source.as_os_str()).is_ok()
        {
            continue;
        }
        if let Some(tree) = open(one).context(|| one.phrase())? {
            channel.source(at, tree.as_fd())?;
        }
    }
    Ok(())
}

/// The source of one bind mount as a tree in nobody's peer group.
///
/// # Errors
/// A missing source, a filesystem that can't be idmapped; `ENOSYS` without the
/// mount API of Linux 5.12, `EPERM` without root's rights.
pub(super) fn open_private(one: &Mount) -> Result<OwnedFd> {
    let tree = tree(one)?;
    let private = Propagation {
        kind: PropagationType::Private,
        recursive: true,
    };
    let private = Change {
        propagation: private.flag(),
        recursive: private.recursive,
        ..Change::default()
    };
    mount::set_attributes(tree.as_fd(), &private)?;
    Ok(tree)
}

/// One tree, or user namespace; none where it is left to the child: the kernel lacks a call of
/// the mount API, or rrun (rootless) the right to it.
fn open(one: &Mount) -> Result<Option<OwnedFd>> {
    if let What::Filesystem {
        idmap: Some(idmap), ..
    } = &one.what
    {
        return user_namespace(&idmap.ids).map(Some);
    }
    let idmapped = matches!(&one.what, What::Bind { idmap: Some(_), .. });
    match tree(one) {
        Err(error) if !idmapped && matches!(error.errno(), Some(Errno::ENOSYS | Errno::EPERM)) => {
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

fn tree(one: &Mount) -> Result<OwnedFd> {
    let What::Bind {
        source,
        recursive,
        idmap,
    } = &one.what
    else {
        return Err(Error::new(Kind::Unsupported, "no bind mount"));
    };
    let clone = match one.options.symlinks.source {
        true => mount::clone_tree_or_link,
        false => mount::clone_tree,
    };
    let tree = clone(CWD, source, *recursive)?;
    if let Some(IdMap { ids, recursive }) = idmap {
        let user_namespace = user_namespace(ids)?;
        let mapped = Change {
            user_namespace: Some(user_namespace.as_fd()),
            recursive: *recursive,
            ..Change::default()
        };
        mount::set_attributes(tree.as_fd(), &mapped)?;
    }
    Ok(tree)
}

/// A user namespace with the ids of an idmapped mount. Nobody lives in it: the
/// process that it is made with ends at once, the descriptor keeps it.
fn user_namespace(ids: &IdSource) -> Result<OwnedFd> {
    let (uids, gids) = match ids {
        IdSource::Namespace(path) => return Ok(file::open(path, OFlags::RDONLY)?),
        IdSource::Mappings { uids, gids } => (uids.clone(), gids.clone()),
    };
    let (wait, go) = descriptors::pipe()?;
    let flags = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
    let made = process::fork(&process::Clone {
        flags,
        cgroup: None,
    })?;
    let Forked::Parent(pid, handle) = made else {
        // The end of the pipe comes when the parent is done, or dead.
        drop(go);
        let _ = descriptors::read(wait.as_fd(), &mut [0]);
        process::exit_now(0);
    };
    let mapped = idmap::write(pid, &IdMaps { uids, gids }, true);
    let path = format!("/proc/{pid}/ns/user");
    let opened = mapped.and_then(|()| Ok(file::open(Path::new(&path), OFlags::RDONLY)?));
    drop(go);
    handle.wait()?;
    opened.context(|| "user namespace of an idmapped mount")
}
