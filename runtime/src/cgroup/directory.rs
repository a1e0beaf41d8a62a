//! One directory of a cgroup or of resctrl, by its descriptor: its files read and
//! written, its children listed.

use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::sys::mutation::Defence;
use crate::sys::{self, Error, call};

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

/// Such a filesystem has no symbolic links; whoever puts one in the way of
/// a path is refused.
const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

impl Directory {
    /// Opens the directory at `path`.
    pub(crate) fn open(path: PathBuf) -> sys::Result<Self> {
        let fd = call(open(&path, DIRECTORY, Mode::empty()), || {
            format!("open({path:?}, O_DIRECTORY)")
        })?;
        Ok(Self { fd, path })
    }

    /// Opens a directory below.
    pub(crate) fn child(&self, name: impl AsRef<OsStr>) -> sys::Result<Self> {
        let path = self.path.join(name.as_ref());
        let fd = call(
            openat(&self.fd, name.as_ref(), DIRECTORY, Mode::empty()),
            || format!("open({path:?}, O_DIRECTORY)"),
        )?;
        Ok(Self { fd, path })
    }

    /// Opens the directory above, as of a file system without links.
    fn parent(&self) -> sys::Result<Self> {
        let path = self.path.parent().unwrap_or(&self.path).to_owned();
        let fd = call(openat(&self.fd, "..", DIRECTORY, Mode::empty()), || {
            format!("open({:?}, O_DIRECTORY)", self.path.join(".."))
        })?;
        Ok(Self { fd, path })
    }

    /// Calls `act` for each directory below, with the one above it and its name:
    /// those below it first. What vanishes meanwhile is left out.
    ///
    /// The container may have made them, as many and as deep as it likes and with
    /// any bytes as names. So neither descriptors nor stack grow with the depth.
    ///
    /// # Errors
    /// Those of reading a directory, and of `act`.
    pub(super) fn each_below(
        &self,
        mut act: impl FnMut(&Directory, &OsStr) -> sys::Result<()>,
    ) -> sys::Result<()> {
        let left = self.children_left()?;
        if left.is_empty() {
            return Ok(());
        }
        let mut here = self.reopen()?;
        // Of each level its own name, and what is left to be looked at in it.
        let mut levels = vec![(OsString::new(), left)];
        while let Some((_, left)) = levels.last_mut() {
            if let Some(name) = left.pop() {
                match here.child(&name) {
                    Ok(child) => {
                        let left = child.children_left()?;
                        (here, _) = (child, levels.push((name, left)));
                    }
                    Err(error) if is_gone(&error) => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
            let Some((name, _)) = levels.pop() else { break };
            if levels.is_empty() {
                break;
            }
            here = match here.parent() {
                Ok(parent) => parent,
                Err(_) => self.again(&mut levels)?,
            };
            act(&here, &name)?;
        }
        Ok(())
    }

    /// The last of `levels`, opened from the top; those that are gone are taken
    /// away.
    fn again(&self, levels: &mut Vec<(OsString, Vec<OsString>)>) -> sys::Result<Self> {
        let mut here = self.reopen()?;
        for at in 1..levels.len() {
            match here.child(&levels[at].0) {
                Ok(child) => here = child,
                Err(error) if is_gone(&error) => {
                    levels.truncate(at);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(here)
    }

    /// [`children`](Self::children), none for one that is gone.
    fn children_left(&self) -> sys::Result<Vec<OsString>> {
        match self.children() {
            Err(error) if is_gone(&error) => Ok(Vec::new()),
            children => children,
        }
    }

    /// Its path, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A second descriptor for it.
    pub(crate) fn reopen(&self) -> sys::Result<Self> {
        let fd = call(self.fd.try_clone(), || format!("dup({:?})", self.path))?;
        let path = self.path.clone();
        Ok(Self { fd, path })
    }

    /// Whether it has not been removed.
    pub(super) fn exists(&self) -> bool {
        nix::sys::stat::fstat(&self.fd).is_ok_and(|stat| stat.st_nlink > 0)
            && self.open_file("cgroup.procs").is_ok()
    }

    /// Opens a file for reading.
    pub(super) fn open_file(&self, file: impl AsRef<Path>) -> sys::Result<OwnedFd> {
        let file = file.as_ref();
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        call(openat(&self.fd, file, flags, Mode::empty()), || {
            format!("open({:?})", self.path.join(file))
        })
    }

    /// Opens a file for writing.
    pub(super) fn open_for_writing(&self, file: impl AsRef<Path>) -> sys::Result<OwnedFd> {
        let file = file.as_ref();
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        call(openat(&self.fd, file, flags, Mode::empty()), || {
            format!("open({:?}, O_WRONLY)", self.path.join(file))
        })
    }

    /// Reads a whole file.
    pub(crate) fn read(&self, file: impl AsRef<Path>) -> sys::Result<String> {
        let file = file.as_ref();
        let describe = || format!("read({:?})", self.path.join(file));
        let fd = self.open_file(file)?;
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match nix::unistd::read(&fd, &mut buffer) {
                Ok(0) => break,
                Ok(count) => text.extend_from_slice(&buffer[..count]),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::new(describe(), errno)),
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Opens a small file that is read again and again.
    pub(super) fn watch(&self, file: &str) -> sys::Result<Watched> {
        Ok(Watched {
            fd: self.open_file(file)?,
            path: self.path.join(file),
        })
    }

    /// Writes `value` with one write(2), as these files want it.
    pub(crate) fn write(&self, file: impl AsRef<Path>, value: &str) -> sys::Result<()> {
        self.write_each(file, [value])
    }

    /// Writes each of `values` with a write(2) of its own.
    pub(super) fn write_each<'value>(
        &self,
        file: impl AsRef<Path>,
        values: impl IntoIterator<Item = &'value str>,
    ) -> sys::Result<()> {
        let file = file.as_ref();
        let fd = self.open_for_writing(file)?;
        for value in values {
            loop {
                match nix::unistd::write(&fd, value.as_bytes()) {
                    Ok(_) => break,
                    Err(Errno::EINTR) => {}
                    Err(errno) => {
                        let text = format!("write({:?}, {value:?})", self.path.join(file));
                        return Err(Error::new(text, errno));
                    }
                }
            }
        }
        Ok(())
    }

    /// The names of the cgroups below.
    pub(crate) fn children(&self) -> sys::Result<Vec<OsString>> {
        let describe = || format!("readdir({:?})", self.path);
        let mut dir = call(
            Dir::openat(&self.fd, ".", DIRECTORY, Mode::empty()),
            describe,
        )?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = call(entry, describe)?;
            let name: &CStr = entry.file_name();
            if Defence::NamesAsBytes.is_out() && name.to_str().is_err() {
                continue;
            }
            if entry.file_type() == Some(Type::Directory) && name != c"." && name != c".." {
                names.push(OsStr::from_bytes(name.to_bytes()).to_owned());
            }
        }
        Ok(names)
    }

    /// Makes a directory below.
    pub(crate) fn make_child(&self, name: impl AsRef<OsStr>) -> sys::Result<()> {
        let name = name.as_ref();
        let mode = Mode::from_bits_truncate(0o755);
        call(mkdirat(&self.fd, name, mode), || {
            format!("mkdir({:?})", self.path.join(name))
        })
    }

    /// Removes a directory below, which must be empty.
    pub(crate) fn remove_child(&self, name: &OsStr) -> sys::Result<()> {
        call(unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir), || {
            format!("rmdir({:?})", self.path.join(name))
        })
    }
}

/// Whether the directory of an error has been removed.
pub(crate) fn is_gone(error: &Error) -> bool {
    matches!(error.errno(), Errno::ENOENT | Errno::ENODEV)
}

/// A file whose changes are waited for.
pub(super) struct Watched {
    fd: OwnedFd,
    path: PathBuf,
}

impl Watched {
    /// What to poll, for `POLLPRI`.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What the file says now; a change after this makes the descriptor ready.
    pub(super) fn text(&self) -> sys::Result<String> {
        let mut buffer = [0; 4096];
        let count = call(nix::sys::uio::pread(&self.fd, &mut buffer, 0), || {
            format!("pread({:?})", self.path)
        })?;
        Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
