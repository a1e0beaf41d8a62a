//! What outlives a command: one directory for each container.
//!
//! ```text
//! <root>/            0700
//!   <id>/            0700, 01700 once somebody waits to delete it by force,
//!                    flocked by the command that changes the container
//!     state.json     the Record, replaced by rename
//!     config.json    the bundle's, as it was at create
//!     start.fifo     while the container waits for `start`
//! ```
//!
//! A command opens the directory by [`Root::container`] and reads without a
//! lock, since state.json is always whole. One that changes the container
//! takes the [`Locked`] form first. The lock is an flock of the directory
//! itself, so it is there as soon as the directory is, a killed command gives
//! it back, and nothing needs to be cleaned up. Who waited for a lock checks
//! that the directory still has its name: it may have been deleted, and made
//! anew, in between.
//!
//! A directory without a state.json belongs to a `create` that is at work, or
//! that was killed before its first effect.

mod id;
mod record;

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

pub use id::ContainerId;
pub use record::{Process, Record, Status, Updated};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::directory::{self, Entry, Lock, Patience};
use crate::sys::mutation::Defence;

/// The FIFO at which a created container waits for `start`.
pub const START_FIFO: &str = "start.fifo";
/// The record's file.
const RECORD: &str = "state.json";
/// What becomes the record's file.
const NEW_RECORD: &str = ".state.json.tmp";
/// The copy of the bundle's config.json.
pub const CONFIG: &str = "config.json";

/// The directory of all containers' directories.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    /// Nothing as long as no container was ever made here.
    dir: Option<OwnedFd>,
    /// Whether the path is below `XDG_RUNTIME_DIR`, which is swept of files
    /// that were not used for long unless they are sticky (XDG base directory
    /// specification).
    sticky: bool,
}

impl Root {
    /// Opens the root at `path`, or the default one. It need not exist: then
    /// it has no containers, and the first one makes it.
    ///
    /// # Errors
    /// `/` is refused, and what can't be opened.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let (path, sticky) = match path {
            Some(path) => {
                let absolute = std::path::absolute(path);
                (crate::sys::call(absolute, || "getcwd()".to_owned())?, false)
            }
            None => default_root(),
        };
        if path.parent().is_none() {
            let text = format!("state root {path:?}: the root directory can't hold containers");
            return Err(Error::new(Kind::Usage, text));
        }
        let dir = match directory::open(&path) {
            Ok(dir) => Some(dir),
            Err(error) if error.errno() == Errno::ENOENT => None,
            Err(error) => return Err(unusable(&path, error)),
        };
        Ok(Self { path, dir, sticky })
    }

    /// Makes a container's directory, locked.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`] if the id is taken.
    pub fn create(&mut self, id: &ContainerId) -> Result<Locked> {
        let path = self.path.join(id.as_str());
        let root = self.make()?;
        // Another command may find the new directory first, even before it has its
        // mode: it finds no record and leaves, or it is `delete --force` and removes
        // it.
        let lost = || Error::new(Kind::NotFound, "container was deleted while it was created");
        match directory::make(root, id.as_str(), mode()) {
            Ok(()) => {}
            Err(error) if error.errno() == Errno::EEXIST => return Err(taken()),
            Err(error) if error.errno() == Errno::ENOENT => return Err(lost()),
            Err(error) => return Err(error.into()),
        }
        let dir = directory::open_in(root, id.as_str()).map_err(|error| match error.errno() {
            Errno::ENOENT => lost(),
            _ => error.into(),
        })?;
        let container = Container {
            id: id.clone(),
            path,
            root: clone(root)?,
            dir,
        };
        match container.lock_once(Patience::Wait)? {
            Attempt::Locked(locked) => Ok(locked),
            Attempt::Busy(_) | Attempt::Gone => Err(lost()),
        }
    }

    /// Where a container's directory is, or will be.
    #[must_use]
    pub fn path_of(&self, id: &ContainerId) -> PathBuf {
        self.path.join(id.as_str())
    }

    /// Opens a container's directory, without a lock.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none.
    pub fn container(&self, id: &ContainerId) -> Result<Container> {
        let Some(root) = &self.dir else {
            return Err(not_found());
        };
        let dir =
            directory::open_in(root.as_fd(), id.as_str()).map_err(|error| match error.errno() {
                Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => not_found(),
                _ => error.into(),
            })?;
        Ok(Container {
            id: id.clone(),
            path: self.path.join(id.as_str()),
            root: clone(root.as_fd())?,
            dir,
        })
    }

    /// Opens and locks a container's directory, waiting for a command that
    /// has it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none, also after waiting.
    pub fn lock(&self, id: &ContainerId) -> Result<Locked> {
        loop {
            // Gone: deleted while we waited, and perhaps made anew.
            if let Attempt::Locked(locked) = self.container(id)?.lock_once(Patience::Wait)? {
                return Ok(locked);
            }
        }
    }

    /// The ids of all directories, half-made ones included, in order.
    ///
    /// # Errors
    /// Those of readdir.
    pub fn ids(&self) -> Result<Vec<ContainerId>> {
        let Some(root) = &self.dir else {
            return Ok(Vec::new());
        };
        let mut ids: Vec<ContainerId> = directory::entries(root.as_fd())
            .context(|| format!("state root {:?}", self.path))?
            .into_iter()
            .filter(|(_, is_directory)| *is_directory)
            .filter_map(|(name, _)| name.to_str()?.parse().ok())
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// The root's directory, made if it is not there.
    fn make(&mut self) -> Result<BorrowedFd<'_>> {
        let path = &self.path;
        let dir = match self.dir.take() {
            Some(dir) => dir,
            None => {
                let made = std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(mode())
                    .create(path);
                crate::sys::call(made, || format!("mkdir({path:?}, 0700)"))
                    .map_err(|error| unusable(path, error))?;
                if self.sticky {
                    let mode = std::fs::Permissions::from_mode(0o1700);
                    let set = std::fs::set_permissions(path, mode);
                    crate::sys::call(set, || format!("chmod({path:?}, 01700)"))?;
                }
                directory::open(path)?
            }
        };
        let dir: &OwnedFd = self.dir.insert(dir);
        Ok(dir.as_fd())
    }
}

/// Why the root can't be opened or made, and what to do about it.
fn unusable(path: &Path, error: crate::sys::Error) -> Error {
    let errno = error.errno();
    let error = Error::from(error).within(format_args!("state root {path:?}"));
    if errno == Errno::EACCES {
        error.with_hint("name another by --root, or be root")
    } else {
        error
    }
}

/// Of the directories: the state is nobody's but its owner's (CVE-2024-25621).
fn mode() -> u32 {
    match Defence::PrivateState.is_out() {
        true => 0o755,
        false => 0o700,
    }
}

/// The root when none is named, and whether it needs the sticky bit.
fn default_root() -> (PathBuf, bool) {
    let owns_initial_namespace = || {
        // The initial user namespace maps all ids onto themselves.
        std::fs::read_to_string("/proc/self/uid_map")
            .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
    };
    let is_root = nix::unistd::geteuid().is_root()
        && (std::env::var_os("USER").is_some_and(|user| user == "root")
            || owns_initial_namespace());
    choose_root(
        is_root,
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
    )
}

/// runc's rule: `XDG_RUNTIME_DIR` for who is not root, also inside a user
/// namespace where ids make it look so.
fn choose_root(is_root: bool, runtime_dir: Option<PathBuf>) -> (PathBuf, bool) {
    match runtime_dir {
        Some(dir) if !is_root && dir.is_absolute() => (dir.join("rrun"), true),
        _ => (PathBuf::from("/run/rrun"), false),
    }
}

fn taken() -> Error {
    let text = "container with given ID already exists";
    Error::new(Kind::AlreadyExists, text)
}

fn not_found() -> Error {
    Error::new(Kind::NotFound, "container does not exist")
}

/// Another descriptor of the same.
fn clone(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    Ok(crate::sys::call(fd.try_clone_to_owned(), || {
        "fcntl(F_DUPFD_CLOEXEC)".to_owned()
    })?)
}

/// A container's directory, open. Its files may be read, and the directory
/// may be deleted under us: reading then fails with [`Kind::NotFound`].
#[derive(Debug)]
pub struct Container {
    id: ContainerId,
    path: PathBuf,
    root: OwnedFd,
    dir: OwnedFd,
}

/// How one attempt for the lock ended.
enum Attempt {
    /// We have it.
    Locked(Locked),
    /// Another has it.
    Busy(Container),
    /// The directory was deleted.
    Gone,
}

impl Container {
    /// The container's name.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// The directory's path, for what takes no descriptor.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// What is written down about the container.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the container was deleted, or is half made and
    /// without a record.
    pub fn record(&self) -> Result<Record> {
        let bytes = match self.read(RECORD) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => return Err(not_found()),
            bytes => bytes?,
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(
                Kind::System,
                format!("{:?}: {error}", self.path.join(RECORD)),
            )
        })
    }

    /// The content of the file `name` of the directory.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let mut file = directory::read_file(self.dir(), name)?;
        let mut bytes = Vec::new();
        crate::sys::call(file.read_to_end(&mut bytes), || format!("read({name:?})"))?;
        Ok(bytes)
    }

    /// Where the container stands. `frozen` is asked only for a live one, and
    /// says whether its cgroup is frozen.
    ///
    /// # Errors
    /// Those of looking at the process and of `frozen`.
    pub fn status(&self, record: &Record, frozen: impl FnOnce() -> Result<bool>) -> Result<Status> {
        self.status_beside(record, frozen, || self.is_locked())
    }

    /// [`Self::status`], where `maker` says whether a `create` is at work.
    fn status_beside(
        &self,
        record: &Record,
        frozen: impl FnOnce() -> Result<bool>,
        maker: impl FnOnce() -> Result<bool>,
    ) -> Result<Status> {
        let alive = match &record.init {
            Some(init) => init.is_alive()?,
            None => false,
        };
        Ok(match (record.creating, alive) {
            (true, true) => Status::Creating,
            (true, false) if maker()? => Status::Creating,
            (_, false) => Status::Stopped,
            (false, true) if frozen()? => Status::Paused,
            (false, true) if directory::has(self.dir(), START_FIFO)? => Status::Created,
            (false, true) => Status::Running,
        })
    }

    /// Tells the command that holds the lock that the container is wanted no
    /// more: a bit of the directory's mode, which takes no room on a full
    /// disk and can't be in the way of its removal.
    ///
    /// # Errors
    /// Those of fchmod(2).
    pub fn renounce(&self) -> Result<()> {
        Ok(directory::set_mode(self.dir(), 0o1700)?)
    }

    /// Whether somebody waits to delete the container by force.
    #[must_use]
    pub fn is_renounced(&self) -> bool {
        directory::mode(self.dir()).is_ok_and(|mode| mode & 0o1000 != 0)
    }

    /// Whether a command holds the lock.
    fn is_locked(&self) -> Result<bool> {
        // A descriptor of its own, since the lock is one of descriptions.
        let own = directory::open_in(self.dir(), ".")?;
        match Lock::take(own, Patience::Try) {
            Ok(_) => Ok(false),
            Err((_, error)) if error.errno() == Errno::EWOULDBLOCK => Ok(true),
            Err((_, error)) => Err(error.into()),
        }
    }

    /// Takes the lock, waiting for a command that has it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the container was deleted meanwhile.
    pub fn lock(self) -> Result<Locked> {
        match self.lock_once(Patience::Wait)? {
            Attempt::Locked(locked) => Ok(locked),
            Attempt::Busy(_) | Attempt::Gone => Err(not_found()),
        }
    }

    /// Takes the lock if it is free; else the container comes back.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the container was deleted.
    pub fn try_lock(self) -> Result<Result<Locked, Container>> {
        match self.lock_once(Patience::Try)? {
            Attempt::Locked(locked) => Ok(Ok(locked)),
            Attempt::Busy(container) => Ok(Err(container)),
            Attempt::Gone => Err(not_found()),
        }
    }

    /// One attempt for the lock, and the check that it was worth it.
    fn lock_once(self, patience: Patience) -> Result<Attempt> {
        let lock = match Lock::take(clone(self.dir())?, patience) {
            Ok(lock) => lock,
            Err((_, error)) if error.errno() == Errno::EWOULDBLOCK => {
                return Ok(Attempt::Busy(self));
            }
            Err((_, error)) => return Err(error.into()),
        };
        if directory::is_entry(self.root.as_fd(), self.id.as_str(), self.dir())? {
            let container = self;
            Ok(Attempt::Locked(Locked { container, lock }))
        } else {
            Ok(Attempt::Gone)
        }
    }
}

/// A container that no other command changes.
///
/// The lock lives as long as a copy of its descriptors: a child that goes on
/// to be the container must close them.
#[derive(Debug)]
pub struct Locked {
    container: Container,
    lock: Lock,
}

impl Deref for Locked {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.container
    }
}

impl Locked {
    /// Writes down what the container is made from, first of all.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`] if the directory is another command's: it was deleted
    /// and made anew between our mkdir(2) and our open(2). Nothing of it is ours.
    pub fn claim(&self, config: &[u8]) -> Result<()> {
        let written = self.write(CONFIG, config);
        written.map_err(|error| match error.errno() {
            Some(Errno::EEXIST) => taken(),
            _ => error,
        })
    }

    /// Writes the record, in one step for all who read it.
    ///
    /// # Errors
    /// `ENOSPC` and the like; the old record is then still there.
    pub fn save(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_vec(record)
            .map_err(|error| Error::new(Kind::System, format!("{RECORD:?}: {error}")))?;
        // What a killed command left there.
        self.remove_file(NEW_RECORD)?;
        let saved = self.write(NEW_RECORD, &text).and_then(|()| {
            directory::rename(self.dir(), NEW_RECORD, RECORD)?;
            Ok(())
        });
        if saved.is_err() {
            // Half a file, on a disk that has no room to spare.
            let _ = self.remove_file(NEW_RECORD);
        }
        saved
    }

    /// Makes the file `name`, 0600, with this content.
    ///
    /// # Errors
    /// `EEXIST` if it is there.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let mut file = directory::new_file(self.dir(), name, 0o600)?;
        crate::sys::call(file.write_all(content), || format!("write({name:?})"))?;
        Ok(())
    }

    /// Removes the file `name`; none is no error.
    ///
    /// # Errors
    /// Those of unlinkat(2) but `ENOENT`.
    pub fn remove_file(&self, name: &str) -> Result<()> {
        match directory::remove(self.dir(), OsStr::new(name), Entry::File) {
            Err(error) if error.errno() != Errno::ENOENT => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// [`Container::status`] for who holds the lock: no `create` is at work
    /// then but the caller's own.
    ///
    /// # Errors
    /// Those of looking at the process and of `frozen`.
    pub fn status(&self, record: &Record, frozen: impl FnOnce() -> Result<bool>) -> Result<Status> {
        self.status_beside(record, frozen, || Ok(false))
    }

    /// Lets other commands change the container.
    ///
    /// # Errors
    /// None that flock(2) gives here.
    pub fn unlock(self) -> Result<Container> {
        self.lock.release()?;
        Ok(self.container)
    }

    /// Removes the directory with all that is in it. Goes on after a failure.
    ///
    /// # Errors
    /// All failures, in one line.
    pub fn remove(self) -> Result<()> {
        let mut failures: Vec<Error> = Vec::new();
        empty(self.dir(), &mut failures);
        let name = OsStr::new(self.id.as_str());
        if let Err(error) = directory::remove(self.root.as_fd(), name, Entry::Directory) {
            failures.push(error.into());
        }
        match failures.into_iter().reduce(|all, one| all.and(&one)) {
            None => Ok(()),
            Some(error) => Err(error).context(|| format!("remove {:?}", self.path)),
        }
    }
}

/// Removes all that is in `dir`, noting what fails.
fn empty(dir: BorrowedFd<'_>, failures: &mut Vec<Error>) {
    let entries = match directory::entries(dir) {
        Ok(entries) => entries,
        Err(error) => return failures.push(error.into()),
    };
    for (name, is_directory) in entries {
        let what = if is_directory {
            match name.to_str().map(|name| directory::open_in(dir, name)) {
                Some(Ok(inner)) => empty(inner.as_fd(), failures),
                Some(Err(error)) => failures.push(error.into()),
                None => {}
            }
            Entry::Directory
        } else {
            Entry::File
        };
        if let Err(error) = directory::remove(dir, &name, what) {
            failures.push(error.into());
        }
    }
}

#[cfg(test)]
mod tests;
