//! The container's root directory, held by descriptor, and what is looked up
//! and made in it.
//!
//! Every path here comes from config.json and is resolved in an image that may
//! hold any link; [`Root`] keeps each look-up inside (see [`sys::file`]) and
//! hands out descriptors.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{FileType, OFlags};

use crate::sys::file::{self, Links};
use crate::sys::{Error, Result};

/// How many dangling links are followed while directories are made.
const MAX_LINKS: u32 = 40;

/// The root directory of the container.
#[derive(Debug)]
pub(super) struct Root {
    dir: OwnedFd,
    /// The directory of the last device or link: most are in /dev.
    last: Option<(PathBuf, OwnedFd)>,
}

/// What is made where a path leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// A directory, 0755.
    Directory,
    /// An empty file, 0755 as under runc.
    File,
}

/// A file that was looked up, or made.
#[derive(Debug)]
pub(super) struct Found {
    /// It, opened with `O_PATH`.
    pub fd: OwnedFd,
    /// Whether it had to be made.
    pub made: bool,
}

impl Root {
    /// The root is `dir`.
    #[must_use]
    pub(super) fn new(dir: OwnedFd) -> Self {
        Self { dir, last: None }
    }

    /// Opens what `path` is, links followed inside the root as `links` says.
    ///
    /// # Errors
    /// Those of [`file::resolve`].
    pub(super) fn find(&self, path: &Path, links: Links) -> Result<OwnedFd> {
        file::resolve(self.dir.as_fd(), path, links)
    }

    /// Opens `path`, and makes it and the directories that lead to it where
    /// they are missing.
    ///
    /// # Errors
    /// `EROFS`, `EACCES`, `ELOOP` for links that point at each other.
    pub(super) fn find_or_make(&self, path: &Path, missing: Missing) -> Result<Found> {
        self.make(path, missing, MAX_LINKS)
    }

    /// Makes `path` where nothing but its last part is missing and no link is
    /// on the way, as is usual; `None` where it takes more.
    ///
    /// # Errors
    /// `EROFS`, `EACCES`.
    pub(super) fn make_last(&self, path: &Path, missing: Missing) -> Result<Option<Found>> {
        let name = path.file_name().ok_or_else(|| missing_name(path))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let dir = match self.find(parent, Links::Refuse) {
            Ok(dir) => dir,
            Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ELOOP) => return Ok(None),
            Err(error) => return Err(error),
        };
        if !create(dir.as_fd(), name, missing)? {
            return Ok(None);
        }
        let fd = open_made(dir.as_fd(), name, missing)?;
        Ok(Some(Found { fd, made: true }))
    }

    /// The directory that holds `path`, made if it is missing, and the name
    /// in it. It is kept for the next path, until something is mounted.
    ///
    /// # Errors
    /// `ENOENT` for a path that ends in `..`; else as for
    /// [`find_or_make`](Self::find_or_make).
    pub(super) fn parent_of<'a>(
        &'a mut self,
        path: &'a Path,
    ) -> Result<(BorrowedFd<'a>, &'a OsStr)> {
        let name = path.file_name().ok_or_else(|| missing_name(path))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let kept = self.last.take().filter(|(kept, _)| kept == parent);
        let kept = match kept {
            Some(kept) => kept,
            None => {
                let dir = self.make(parent, Missing::Directory, MAX_LINKS)?.fd;
                (parent.to_owned(), dir)
            }
        };
        let kept = self.last.insert(kept);
        Ok((kept.1.as_fd(), name))
    }

    /// Forgets the directory that [`parent_of`](Self::parent_of) keeps: a
    /// mount may have covered it.
    pub(super) fn mounted(&mut self) {
        self.last = None;
    }

    fn parent(&self, path: &Path, links: u32) -> Result<(OwnedFd, OsString)> {
        let name = path.file_name().ok_or_else(|| missing_name(path))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let parent = self.make(parent, Missing::Directory, links)?.fd;
        Ok((parent, name.to_owned()))
    }

    fn make(&self, path: &Path, missing: Missing, links: u32) -> Result<Found> {
        match self.find(path, Links::Follow) {
            Ok(fd) => return Ok(Found { fd, made: false }),
            Err(error) if error.errno() == Errno::ENOENT => {}
            Err(error) => return Err(error),
        }
        let (parent, name) = self.parent(path, links)?;
        if !create(parent.as_fd(), &name, missing)?
            && let Ok(target) = file::read_link(parent.as_fd(), &name)
        {
            return self.make_behind(path, &target, missing, links);
        }
        let fd = open_made(parent.as_fd(), &name, missing)?;
        Ok(Found { fd, made: true })
    }

    /// Makes what the dangling link `path` points at, as securejoin does:
    /// images have `/var/run -> /run` without `/run`.
    fn make_behind(
        &self,
        path: &Path,
        target: &Path,
        missing: Missing,
        links: u32,
    ) -> Result<Found> {
        if links == 0 {
            return Err(Error::new(format!("openat2({path:?})"), Errno::ELOOP));
        }
        let behind: PathBuf = path.parent().unwrap_or(Path::new("/")).join(target);
        self.make(&behind, missing, links - 1)
    }

    /// Whether `fd` is the root directory itself.
    ///
    /// # Errors
    /// Those of fstat.
    pub(super) fn is(&self, fd: BorrowedFd<'_>) -> Result<bool> {
        let (one, other) = (file::stat(self.dir.as_fd())?, file::stat(fd)?);
        Ok(one.st_ino == other.st_ino && one.st_dev == other.st_dev)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Makes a file or directory; false if something of the name is there.
fn create(dir: BorrowedFd<'_>, name: &OsStr, missing: Missing) -> Result<bool> {
    let made = match missing {
        Missing::Directory => file::make_directory(dir, name, 0o755),
        Missing::File => file::create_file(dir, name, 0o755).map(drop),
    };
    match made {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Errno::EEXIST => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens what was made, by its single name; a link, should it be one by now,
/// is not followed.
fn open_made(dir: BorrowedFd<'_>, name: &OsStr, missing: Missing) -> Result<OwnedFd> {
    if missing == Missing::Directory {
        return file::open_at(dir, name, OFlags::PATH | OFlags::DIRECTORY);
    }
    let fd = file::open_at(dir, name, OFlags::PATH)?;
    if FileType::from_raw_mode(file::stat(fd.as_fd())?.st_mode) == FileType::Symlink {
        return Err(Error::new(format!("openat({name:?})"), Errno::ELOOP));
    }
    Ok(fd)
}

fn missing_name(path: &Path) -> Error {
    Error::new(
        format!("openat2({:?})", path.as_os_str() as &OsStr),
        Errno::ENOENT,
    )
}
