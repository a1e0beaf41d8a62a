//! Masked and read-only paths, from inside the root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::MsFlags;
use rustix::fs::FileType;

use super::classic::{self, Before};
use super::device;
use super::mount::add_attributes;
use super::root::Root;
use crate::error::Result;
use crate::plan::mount_options::Attributes;
use crate::sys;
use crate::sys::file::{self, Links};
use crate::sys::mount::FsContext;

/// What paths are masked with, opened when the first one needs it.
#[derive(Debug, Default)]
pub(super) struct Masks {
    /// The null device.
    null: Option<OwnedFd>,
    /// An empty read-only directory.
    empty: Option<OwnedFd>,
}

impl Masks {
    /// Makes the content of `path` unreadable; nothing to do where there is
    /// none.
    ///
    /// # Errors
    /// A null device that isn't one; those of mounting.
    pub(super) fn mask(&mut self, root: &Root, path: &Path) -> Result<()> {
        let Some(target) = present(root, path)? else {
            return Ok(());
        };
        if FileType::from_raw_mode(file::stat(target.as_fd())?.st_mode) == FileType::Directory {
            return self.cover(&target);
        }
        let null = match self.null.take() {
            Some(null) => null,
            None => device::null(root)?,
        };
        device::bind_file(null.as_fd(), target.as_fd())?;
        self.null = Some(null);
        Ok(())
    }

    /// Covers a directory with an empty one. The filesystem is made once and
    /// is read-only itself, so the mounts share nothing that could be written.
    fn cover(&mut self, target: &OwnedFd) -> Result<()> {
        let empty = match &self.empty {
            Some(empty) => sys::mount::clone_tree(empty.as_fd(), Path::new(""), false),
            None => empty_directory(),
        };
        let covered = empty.and_then(|empty| {
            sys::mount::attach(empty.as_fd(), target.as_fd())?;
            Ok(empty)
        });
        match covered {
            Ok(empty) => {
                self.empty.get_or_insert(empty);
                Ok(())
            }
            // Until Linux 5.2.
            Err(error) if error.errno() == Errno::ENOSYS => cover_by_mount_call(target),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes `path` read-only; nothing to do where there is none. Mounts below
    /// it stay as they are, as under runc.
    ///
    /// # Errors
    /// Those of mounting.
    pub(super) fn read_only(&mut self, root: &Root, path: &Path) -> Result<()> {
        let Some(target) = present(root, path)? else {
            return Ok(());
        };
        // Attached first: until Linux 5.12 only then can it be changed.
        let bound = sys::mount::clone_tree(target.as_fd(), Path::new(""), true).and_then(|tree| {
            sys::mount::attach(tree.as_fd(), target.as_fd())?;
            Ok(tree)
        });
        let tree = match bound {
            // Until Linux 5.2.
            Err(error) if error.errno() == Errno::ENOSYS => {
                let before = Before::look()?;
                classic::bind_on_itself(target.as_fd())?;
                before.check(root.find(path, Links::Follow)?, target.as_fd())?
            }
            bound => bound?,
        };
        add_attributes(tree.as_fd(), Attributes::RDONLY)
    }
}

/// The path, if there is one.
fn present(root: &Root, path: &Path) -> sys::Result<Option<OwnedFd>> {
    match root.find(path, Links::Follow) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Covers a directory by mount(2).
fn cover_by_mount_call(target: &OwnedFd) -> Result<()> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    classic::named(target.as_fd(), |path| {
        let tmpfs = Path::new("tmpfs");
        sys::mount::mount(Some(tmpfs), path, Some("tmpfs"), flags, None)
    })
}

/// An empty read-only tmpfs.
fn empty_directory() -> sys::Result<OwnedFd> {
    let context = FsContext::open("tmpfs")?;
    context.set("source", Some("tmpfs"))?;
    context.set("ro", None)?;
    context.create()?;
    context.mount(Attributes::RDONLY | Attributes::NO_SUID_DEV_EXEC)
}
