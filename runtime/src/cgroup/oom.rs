//! Out of memory: told by the kernel, by an eventfd on v1 and by a change of
//! `memory.events` on v2.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::Cgroup;
use super::directory::Directory;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::{self, call};

/// A watch for the moments in which the container runs out of memory.
#[derive(Debug)]
pub struct OomWatch {
    how: How,
    /// Where the files are.
    directory: Directory,
}

#[derive(Debug)]
enum How {
    /// The kernel counts events into `event`; `control` must stay open.
    V1 { event: EventFd, _control: OwnedFd },
    /// A change of either file makes the descriptor readable.
    V2 { changes: Inotify, killed: u64 },
}

impl Cgroup {
    /// Begins to watch.
    ///
    /// # Errors
    /// v1 without the memory controller; no inotify instance is left.
    pub fn watch_oom(&self) -> Result<OomWatch> {
        let doing = || "watch for OOM events";
        let missing = || Error::new(Kind::Unsupported, "the memory controller is not available");
        if self.dirfd().is_some() {
            let at = self.unified().ok_or_else(missing)?;
            let directory = at.directory.reopen().context(doing)?;
            let how = watch_v2(&directory).context(doing)?;
            return Ok(OomWatch { how, directory });
        }
        let memory = self.controller("memory").ok_or_else(missing)?;
        let directory = memory.directory.reopen().context(doing)?;
        let how = watch_v1(&directory).context(doing)?;
        Ok(OomWatch { how, directory })
    }

    /// How many of its processes were killed for want of memory; nothing where
    /// nobody counts (v1 before Linux 4.13).
    #[must_use]
    pub fn oom_kills(&self) -> Option<u64> {
        let at = self.controller("memory")?;
        let file = if at.member.is_v2() {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        oom_kills(&at.directory, file)
    }

    /// `error`, and the kills for want of memory if there were any: a process that
    /// died of its limit does not say so itself.
    #[must_use]
    pub fn with_oom_kills(&self, error: Error) -> Error {
        match self.oom_kills() {
            None | Some(0) => error,
            Some(kills) => {
                let text = format!("out of memory (oom_kill={kills})");
                error.and(&Error::new(Kind::System, text))
            }
        }
    }

    /// The same of a process that came later: of those that were killed before it
    /// nothing is said, unless it died, too.
    #[must_use]
    pub fn with_oom_kill_of_exec(&self, error: Error) -> Error {
        match error.to_string().contains("process died in step") {
            true => self.with_oom_kills(error),
            false => error,
        }
    }
}

/// v1 (Documentation/admin-guide/cgroup-v1/memory.rst, 10).
fn watch_v1(directory: &Directory) -> sys::Result<How> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let event = call(EventFd::from_flags(flags), || "eventfd()".to_owned())?;
    let control = directory.open_file("memory.oom_control")?;
    let request = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
    directory.write("cgroup.event_control", &request)?;
    let _control = control;
    Ok(How::V1 { event, _control })
}

/// v2: the kernel reports changes of these files as modifications.
fn watch_v2(directory: &Directory) -> sys::Result<How> {
    let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
    let changes = call(Inotify::init(flags), || "inotify_init()".to_owned())?;
    for file in ["cgroup.events", "memory.events"] {
        let path = directory.path().join(file);
        match changes.add_watch(&path, AddWatchFlags::IN_MODIFY) {
            // Without the memory controller only the end is told.
            Err(Errno::ENOENT) if file == "memory.events" => {}
            watch => call(watch.map(drop), || format!("inotify_add_watch({path:?})"))?,
        }
    }
    // Only what happens from now on is news.
    let killed = oom_kills(directory, "memory.events").unwrap_or(0);
    Ok(How::V2 { changes, killed })
}

/// `oom_kill` of memory.events, or of v1's memory.oom_control; nothing when
/// the cgroup is gone.
fn oom_kills(directory: &Directory, file: &str) -> Option<u64> {
    let events = directory.read(file).ok()?;
    let killed = events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    killed.trim().parse().ok()
}

impl OomWatch {
    /// What to poll, for reading, before [`seen`](Self::seen). On v2 also the
    /// cgroup's end makes it ready.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.how {
            How::V1 { event, .. } => event.as_fd(),
            How::V2 { changes, .. } => changes.as_fd(),
        }
    }

    /// How many times memory ran out since the last time; returns at once.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn seen(&mut self) -> Result<u64> {
        match &mut self.how {
            How::V1 { event, .. } => match event.read() {
                // The kernel reports the cgroup's removal as an event, too.
                Ok(count) if !self.directory.exists() => Ok(count - 1),
                Ok(count) => Ok(count),
                Err(Errno::EAGAIN) => Ok(0),
                Err(errno) => Err(sys::Error::new("read(eventfd)", errno).into()),
            },
            How::V2 { changes, killed } => {
                // Which file changed does not matter: both are read.
                let _ = changes.read_events();
                let before = *killed;
                *killed = oom_kills(&self.directory, "memory.events").unwrap_or(before);
                Ok(killed.saturating_sub(before))
            }
        }
    }
}
