//! Makes the container's root, in the container's namespaces, by the plan's
//! list.
//!
//! ```text
//! begin     propagation; the root bound on itself; then what doesn't need the cgroup
//! complete  the other mounts, devices, links
//!           -- createContainer hooks --
//! enter     (pivot.rs) the root becomes /
//! finish    sysctls; what is read-only; what is masked
//! ```

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::MsFlags;
use rustix::fs::{CWD, OFlags};

use super::classic::{self, Before};
use super::device;
use super::masks::Masks;
use super::mount;
use super::procfs;
use super::root::{Missing, Root};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::checkpoint::Place;
use crate::plan::mount_options::{Attributes, Propagation, PropagationType};
use crate::plan::mounts::{Entry, FinishOp, Rootfs, RootfsOp, Symlink};
use crate::sys;
use crate::sys::file::{self, Links};
use crate::sys::mutation::Defence;

/// A root that is being filled.
#[derive(Debug)]
pub struct BegunRoot {
    root: Root,
    /// How many of the plan's operations are done.
    done: usize,
    /// The trees that the parent has opened, by the index of their operation.
    sources: BTreeMap<usize, OwnedFd>,
}

/// A root with everything in it, which [`enter`](super::pivot::enter) enters.
#[derive(Debug)]
pub struct PreparedRoot {
    pub(super) root: Root,
}

impl PreparedRoot {
    /// The root directory, before it is entered.
    #[must_use]
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Makes the root a mount of its own. Call it in the container's namespaces.
///
/// # Errors
/// Those of the bind mount, and a root that is no directory.
pub fn begin(rootfs: &Rootfs) -> Result<BegunRoot> {
    let root = own_root(rootfs)
        .context(|| format!("prepare rootfs {:?}", rootfs.path))
        .map(Root::new)?;
    Ok(BegunRoot {
        root,
        done: 0,
        sources: BTreeMap::new(),
    })
}

impl BegunRoot {
    /// Takes the trees that the parent has opened in this mount namespace, by the
    /// index of their operation.
    pub fn take_sources(&mut self, trees: BTreeMap<usize, OwnedFd>) {
        self.sources = trees;
    }

    /// Performs the first `count` of the plan's operations, as far as they are
    /// not done yet.
    ///
    /// # Errors
    /// Of the operation that failed, with its operands.
    pub fn perform(&mut self, rootfs: &Rootfs, count: usize) -> Result<()> {
        // Modes are meant as they are written.
        let umask = file::set_umask(0);
        let left = rootfs.ops.iter().enumerate().take(count).skip(self.done);
        let done = perform(left, rootfs, &mut self.root, &mut self.sources);
        let _ = file::set_umask(umask);
        self.done = count;
        done
    }

    /// Makes the places for mounts that are made later, by somebody else, where
    /// they are missing; nothing stays mounted.
    ///
    /// # Errors
    /// Of the place that failed. Mounts may then be left.
    pub fn make_places(&self, places: &[Place]) -> Result<()> {
        // Modes are meant as they are written.
        let umask = file::set_umask(0);
        let made = places.iter().try_for_each(|place| match place {
            Place::Directory(path) => {
                let made = self.root.find_or_make(path, Missing::Directory);
                made.map(drop)
                    .context(|| format!("make mount point {path:?}"))
            }
            Place::Bound(mount) => {
                let bound = mount::perform(&self.root, mount, None, false);
                bound.context(|| mount.phrase())
            }
        });
        let _ = file::set_umask(umask);
        made?;
        places
            .iter()
            .rev()
            .try_for_each(|place| self.uncover(place))
    }

    fn uncover(&self, place: &Place) -> Result<()> {
        let Place::Bound(mount) = place else {
            return Ok(());
        };
        let links = match mount.options.symlinks.destination {
            true => Links::NotLast,
            false => Links::Follow,
        };
        let bound = self.root.find(&mount.destination, links)?;
        if self.root.is(bound.as_fd())? {
            return Ok(());
        }
        match sys::mount::detach(&by_number(bound.as_fd())) {
            // A link that was copied: there is no mount.
            Err(error) if error.errno() == Errno::EINVAL => Ok(()),
            detached => Ok(detached?),
        }
    }

    /// Performs what is left. Call it once the container is in its cgroup.
    ///
    /// # Errors
    /// As for [`perform`](Self::perform).
    pub fn complete(mut self, rootfs: &Rootfs) -> Result<PreparedRoot> {
        self.perform(rootfs, rootfs.ops.len())?;
        Ok(PreparedRoot { root: self.root })
    }
}

/// The loop over operations of the plan, each with its index there.
fn perform<'plan>(
    ops: impl Iterator<Item = (usize, &'plan RootfsOp)>,
    rootfs: &Rootfs,
    root: &mut Root,
    sources: &mut BTreeMap<usize, OwnedFd>,
) -> Result<()> {
    for (at, op) in ops {
        match op {
            RootfsOp::Mount(one) => {
                root.mounted();
                mount::perform(root, one, sources.remove(&at), rootfs.user_namespace)
                    .context(|| one.phrase())?;
            }
            RootfsOp::Device(one) => {
                device::make(root, one).context(|| format!("create device {:?}", one.path))?;
            }
            RootfsOp::Symlink(link) => {
                symlink(root, link).context(|| format!("create symlink {:?}", link.path))?;
            }
            RootfsOp::Remount { path, options } => {
                remount(root, path, options.attributes).context(|| format!("remount {path:?}"))?;
            }
        }
    }
    Ok(())
}

/// Applies what holds from inside. Call it after
/// [`enter`](super::pivot::enter), before anything of the container runs.
///
/// # Errors
/// Of the operation that failed, with its operands.
pub fn finish(rootfs: &Rootfs) -> Result<()> {
    // Before /proc/sys becomes read-only.
    procfs::write_sysctls(&rootfs.sysctls)?;
    if rootfs.finish.is_empty() {
        return Ok(());
    }
    let root = Root::new(file::open(
        Path::new("/"),
        OFlags::PATH | OFlags::DIRECTORY,
    )?);
    let mut masks = Masks::default();
    for op in &rootfs.finish {
        match op {
            FinishOp::Propagation(propagation) => {
                set_propagation(Path::new("/"), *propagation).context(|| op)?;
            }
            FinishOp::ReadonlyMount(path) => {
                let attributes = Attributes {
                    set: Attributes::RDONLY,
                    clear: 0,
                };
                remount(&root, path, attributes).context(|| op)?;
            }
            FinishOp::ReadonlyPath(path) => masks.read_only(&root, path).context(|| op)?,
            FinishOp::MaskedPath(path) => masks.mask(&root, path).context(|| op)?,
        }
    }
    Ok(())
}

/// A mount of the root that is ours, as pivot_root needs it. Unless the
/// configuration wants mounts shared, it is at most a slave of the host's.
fn own_root(rootfs: &Rootfs) -> Result<OwnedFd> {
    // A link in its place would let the bundle's owner choose another root
    // after it was looked at.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let dir = file::open(&rootfs.path, flags)?;
    if rootfs.entry == Entry::Chroot {
        return Ok(dir);
    }
    set_propagation(Path::new("/"), rootfs.propagation)?;
    if keeps_shared(rootfs.propagation) {
        make_parent_private(&rootfs.path)?;
    }
    let (from, path) = if Defence::RootByDescriptor.is_out() {
        (CWD, rootfs.path.as_path())
    } else {
        (dir.as_fd(), Path::new(""))
    };
    let bound = sys::mount::clone_tree(from, path, true).and_then(|tree| {
        sys::mount::attach(tree.as_fd(), dir.as_fd())?;
        Ok(tree)
    });
    match bound {
        // Until Linux 5.2.
        Err(error) if error.errno() == Errno::ENOSYS => {
            let before = Before::look()?;
            classic::bind_on_itself(dir.as_fd())?;
            before.check(file::open(&rootfs.path, flags)?, dir.as_fd())
        }
        bound => Ok(bound?),
    }
}

/// Whether mounts of the namespace may stay shared with the host under this
/// propagation.
pub(super) fn keeps_shared(propagation: Propagation) -> bool {
    !propagation.recursive || propagation.kind == PropagationType::Shared
}

/// Makes the mount that `path` lies on private, so that what is mounted on
/// `path` doesn't reach the host.
fn make_parent_private(path: &Path) -> Result<()> {
    let mut failed = None;
    for ancestor in path.ancestors() {
        match sys::mount::mount(None, ancestor, None, MsFlags::MS_PRIVATE, None) {
            Ok(()) => return Ok(()),
            // Not the root of a mount: further up.
            Err(error) if error.errno() == Errno::EINVAL => failed = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Sets the propagation of the mount at a trusted path.
fn set_propagation(path: &Path, propagation: Propagation) -> sys::Result<()> {
    let mut flags = MsFlags::from_bits_retain(propagation.flag());
    flags.set(MsFlags::MS_REC, propagation.recursive);
    sys::mount::mount(None, path, None, flags, None)
}

/// Adds attributes to what is mounted at `path`.
fn remount(root: &Root, path: &Path, attributes: Attributes) -> Result<()> {
    let fd = root.find(path, Links::Follow)?;
    mount::add_attributes(fd.as_fd(), attributes.set)?;
    Ok(())
}

/// Makes a link below a directory of the root.
fn symlink(root: &mut Root, link: &Symlink) -> Result<()> {
    let missing = |file: &PathBuf| file::open(file, OFlags::PATH).is_err();
    if link.only_if.as_ref().is_some_and(missing) {
        return Ok(());
    }
    let (dir, name) = root.parent_of(&link.path)?;
    match file::make_link(&link.target, dir, name) {
        Err(error) if error.errno() == Errno::EEXIST => {}
        done => return Ok(done?),
    }
    if !link.replace || file::read_link(dir, name).is_ok_and(|old| old == link.target) {
        return Ok(());
    }
    file::remove(dir, name)?;
    Ok(file::make_link(&link.target, dir, name)?)
}

/// An operand that turned out to be something else than it was said to be.
pub(super) fn refused(text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidConfig, text)
}

/// `/proc/self/fd/N`, for calls that take only a path.
pub(super) fn by_number(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}
