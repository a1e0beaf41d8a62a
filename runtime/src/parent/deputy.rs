//! A process of ours that does what may take for ever: a path can lead to a server
//! that does not answer (NFS, FUSE).
//!
//! It has no descriptor but those that it is given, above all not the container's
//! lock, and it ends with us. So it holds up nobody: who waits for it looks now and
//! then whether that is still wanted, and if it is left, it holds nothing.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::unistd::Pid;

use crate::channel;
use crate::error::{Error, Kind, Result};
use crate::sys::handle::Handle;
use crate::sys::process::{self, Ended, Forked};
use crate::sys::{self, descriptors};

/// Between two looks whether it is still wanted, in milliseconds.
const TICK: u16 = 100;

/// How long it may take to be gone after SIGKILL, in milliseconds: a request that a
/// FUSE server has read can't be taken back (fs/fuse/dev.c, `request_wait_answer`).
const PATIENCE: u16 = 1000;

/// A process that works.
#[derive(Debug)]
pub(super) struct Deputy {
    /// Its pid.
    pub(super) pid: Pid,
    process: Handle,
    answer: OwnedFd,
    /// What it does, for messages.
    task: &'static str,
}

impl Deputy {
    /// Has `work` done by a process with our standard streams and the descriptors of
    /// `kept`. All others are closed there: `work` may neither use nor drop one.
    ///
    /// # Errors
    /// Those of clone3.
    pub(super) fn start(
        task: &'static str,
        kept: &[BorrowedFd<'_>],
        work: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let parent = nix::unistd::getpid();
        let (answer, theirs) = descriptors::pipe()?;
        let Forked::Parent(pid, process) = process::fork(&process::Clone::default())? else {
            process::die_with(parent);
            let kept = [kept, &[theirs.as_fd()]].concat();
            let closed = descriptors::close_all_but(&kept, 3).map_err(Error::from);
            if let Err(error) = closed.and_then(|()| work()) {
                let _ = descriptors::write_all(theirs.as_fd(), &channel::encode_error(&error));
            }
            process::exit_now(0);
        };
        Ok(Self {
            pid,
            process,
            answer,
            task,
        })
    }

    /// Waits until `fd` is readable; false if the deputy has ended before. Kills it
    /// once `unwanted` says so.
    ///
    /// # Errors
    /// It is not wanted any more.
    pub(super) fn until_readable(
        &self,
        fd: BorrowedFd<'_>,
        unwanted: &dyn Fn() -> bool,
    ) -> Result<bool> {
        loop {
            let (ended, readable) = self.process.poll_end(&[fd], Some(TICK))?;
            if ended || readable == [true] {
                return Ok(readable == [true]);
            }
            if unwanted() {
                self.kill();
                let how = "was killed, since the container is deleted by force";
                return Err(failed(self.task, how));
            }
        }
    }

    /// Waits until it has ended: its own failure, if it has one.
    ///
    /// # Errors
    /// That; how it died; as for [`until_readable`](Self::until_readable).
    pub(super) fn finish(self, unwanted: &dyn Fn() -> bool) -> Result<()> {
        self.until_readable(self.answer.as_fd(), unwanted)?;
        let mut text = Vec::new();
        let read = File::from(self.answer).read_to_end(&mut text).map(drop);
        let ended = self.process.wait()?;
        sys::call(read, || "read(pipe)".to_owned())?;
        match ended {
            _ if !text.is_empty() => Err(channel::decode_error(&text)),
            Ended::Exited(0) => Ok(()),
            ended => Err(failed(self.task, &format!("ended by {ended}"))),
        }
    }

    /// Kills it, and reaps it if it dies of that.
    pub(super) fn kill(&self) {
        let _ = self.process.signal(libc::SIGKILL);
        if matches!(self.process.poll_end(&[], Some(PATIENCE)), Ok((true, _))) {
            let _ = self.process.wait();
        }
    }
}

fn failed(task: &str, how: &str) -> Error {
    Error::new(Kind::System, format!("the process that {task} {how}"))
}
