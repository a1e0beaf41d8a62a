//! The sources of bind mounts, opened on the host before the child exists.
//!
//! A container in a user namespace may have no access to the path of what it
//! is given, and an idmapped mount needs the host's rights over the
//! filesystem. Both are opened here as detached trees, which the child only
//! attaches. All others the child opens itself.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{CWD, OFlags};

use crate::error::{Context, Error, Kind, Result};
use crate::idmap;
use crate::plan::mount_options::{Propagation, PropagationType};
use crate::plan::mounts::{IdMap, IdSource, Mount, Rootfs, RootfsOp, What};
use crate::plan::namespaces::IdMaps;
use crate::sys::mount::{self, Change};
use crate::sys::process::{self, Forked};
use crate::sys::{descriptors, file};

/// Opens the sources that the child can't open: detached trees, by the index
/// of their operation in [`Rootfs::ops`].
///
/// # Errors
/// A missing source, a filesystem that can't be idmapped.
pub fn open_sources(rootfs: &Rootfs) -> Result<BTreeMap<usize, OwnedFd>> {
    let mut trees = BTreeMap::new();
    for (at, op) in rootfs.ops.iter().enumerate() {
        let RootfsOp::Mount(one) = op else { continue };
        let What::Bind {
            source,
            recursive,
            idmap,
        } = &one.what
        else {
            continue;
        };
        if !rootfs.user_namespace && idmap.is_none() {
            continue;
        }
        // The child makes a link like it.
        if one.options.symlinks.copy && file::read_link(CWD, source.as_os_str()).is_ok() {
            continue;
        }
        let tree = open(one, source, *recursive, idmap.as_ref(), rootfs.propagation)
            .context(|| one.phrase())?;
        trees.extend(tree.map(|tree| (at, tree)));
    }
    Ok(trees)
}

/// The source of one bind mount as a tree in nobody's peer group.
///
/// # Errors
/// As for [`open_sources`]; `ENOSYS` without the mount API of Linux 5.12,
/// `EPERM` without root's rights.
pub(super) fn open_private(one: &Mount) -> Result<OwnedFd> {
    let What::Bind {
        source,
        recursive,
        idmap,
    } = &one.what
    else {
        return Err(Error::new(Kind::Unsupported, "no bind mount"));
    };
    let private = Propagation {
        kind: PropagationType::Private,
        recursive: true,
    };
    tree(one, source, *recursive, idmap.as_ref(), private)
}

/// One tree; none where it is left to the child: the kernel lacks a call of
/// the mount API, or rrun (rootless) the right to it.
fn open(
    one: &Mount,
    source: &Path,
    recursive: bool,
    idmap: Option<&IdMap>,
    propagation: Propagation,
) -> Result<Option<OwnedFd>> {
    match tree(one, source, recursive, idmap, propagation) {
        Err(error)
            if idmap.is_none() && matches!(error.errno(), Some(Errno::ENOSYS | Errno::EPERM)) =>
        {
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

fn tree(
    one: &Mount,
    source: &Path,
    recursive: bool,
    idmap: Option<&IdMap>,
    propagation: Propagation,
) -> Result<OwnedFd> {
    let clone = match one.options.symlinks.source {
        true => mount::clone_tree_or_link,
        false => mount::clone_tree,
    };
    let tree = clone(CWD, source, recursive)?;
    // The copy is in the host's peer groups; in the child it would not be.
    let propagation = Change {
        propagation: propagation.flag(),
        recursive: propagation.recursive,
        ..Change::default()
    };
    mount::set_attributes(tree.as_fd(), &propagation)?;
    if let Some(idmap) = idmap {
        let user_namespace = user_namespace(&idmap.ids)?;
        let mapped = Change {
            user_namespace: Some(user_namespace.as_fd()),
            recursive: idmap.recursive,
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
