//! One step of bytes from a source to a sink.
//!
//! From pipe to pipe the kernel moves pages (splice(2)) and no byte comes here.
//! Everything else is read into a scratch buffer, which all streams of the shim
//! share, and written at once: a file with `O_APPEND` refuses splice, and
//! writing at an offset of our own instead would overwrite what others append
//! and undo a truncation by logrotate; a terminal can be spliced since Linux
//! 5.11, but gives at most 4 KiB a time and a whole page of the FIFO for each
//! line, so that a FIFO would hold 16 lines. What a full sink did not take stays
//! in `pending`, the only bytes that a stream owns.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::errno::Errno;
use rrun_sys::pipe;

use super::sink::Sink;

/// The most that is taken in one step.
pub(super) const STEP: usize = 64 * 1024;

thread_local! {
    /// Made by the first step that needs it.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a step found.
#[derive(Debug)]
pub(super) enum Step {
    /// It was worth it: try again.
    Moved,
    /// The source has nothing now.
    Empty,
    /// The sink has no room now.
    Full,
    /// The source has come to its end.
    Ended,
    /// The source can't be read.
    Broken(rrun_sys::Error),
    /// The sink failed; what it did not take is in `pending`.
    Failed(rrun_sys::Error),
}

/// The bytes under way between a source and its sink.
#[derive(Debug)]
pub(super) struct Flow {
    /// Taken from the source and not yet written.
    pub(super) pending: VecDeque<u8>,
    /// How many bytes the sink has taken.
    pub(super) passed: u64,
    /// How many bytes went nowhere since that was last asked.
    pub(super) discarded: u64,
    /// Whether splice(2) is worth trying.
    splices: bool,
    /// How often in a row splice(2) and poll(2) contradicted each other.
    contradictions: u8,
}

impl Flow {
    /// Nothing under way; `splices` if the source is a pipe.
    pub(super) fn new(splices: bool) -> Self {
        Self {
            pending: VecDeque::new(),
            passed: 0,
            discarded: 0,
            splices,
            contradictions: 0,
        }
    }

    /// Moves what can be moved now, pending bytes first.
    pub(super) fn step(&mut self, source: BorrowedFd<'_>, sink: &Sink) -> Step {
        if !self.pending.is_empty() {
            return self.flush(sink);
        }
        match sink {
            Sink::Stream(to) if self.splices => self.splice(source, to.get_ref().as_fd(), sink),
            _ => self.copy(source, sink),
        }
    }

    fn splice(&mut self, source: BorrowedFd<'_>, to: BorrowedFd<'_>, sink: &Sink) -> Step {
        match pipe::splice(source, to, STEP) {
            Ok(Some(0)) => Step::Ended,
            Ok(Some(moved)) => {
                self.contradictions = 0;
                self.passed += moved as u64;
                Step::Moved
            }
            Ok(None) => self.who_waits(source, to, sink),
            Err(error) if error.errno() == Errno::EPIPE => Step::Failed(error),
            Err(_) => {
                // read(2) and write(2) will tell what is the matter.
                self.splices = false;
                Step::Moved
            }
        }
    }

    /// splice(2) does not say which side it would wait for; poll(2) does, and
    /// speaks of now, so nothing that happened in between is missed.
    fn who_waits(&mut self, source: BorrowedFd<'_>, to: BorrowedFd<'_>, sink: &Sink) -> Step {
        match pipe::ready(source, to) {
            Ok(pipe::Ready { source: false, .. }) => Step::Empty,
            Ok(pipe::Ready { sink: false, .. }) => Step::Full,
            Ok(_) if self.contradictions < 3 => {
                self.contradictions += 1;
                Step::Moved
            }
            // Never seen; without this it would be an endless loop.
            _ => self.copy(source, sink),
        }
    }

    fn copy(&mut self, source: BorrowedFd<'_>, sink: &Sink) -> Step {
        with_scratch(|scratch| match pipe::read(source, scratch) {
            Ok(None) => Step::Empty,
            Ok(Some(0)) => Step::Ended,
            Ok(Some(length)) => self.write(&scratch[..length], sink),
            // The master of a terminal whose other side nobody has open.
            Err(error) if error.errno() == Errno::EIO => Step::Ended,
            Err(error) => Step::Broken(error),
        })
    }

    /// Writes `bytes`; what is not taken becomes pending.
    fn write(&mut self, bytes: &[u8], sink: &Sink) -> Step {
        let (written, step) = put(bytes, sink);
        self.count(written, sink);
        self.pending.extend(&bytes[written..]);
        step
    }

    /// Writes pending bytes.
    pub(super) fn flush(&mut self, sink: &Sink) -> Step {
        let (written, step) = put(self.pending.as_slices().0, sink);
        self.count(written, sink);
        self.pending.drain(..written);
        if self.pending.is_empty() {
            // Back to what an idle stream costs.
            self.pending = VecDeque::new();
        }
        step
    }

    fn count(&mut self, bytes: usize, sink: &Sink) {
        match sink {
            Sink::Nothing => self.discarded += bytes as u64,
            Sink::Stream(_) | Sink::File(_) => self.passed += bytes as u64,
        }
    }

    /// Takes what the source has into `pending`, and of that keeps the last
    /// `most` bytes: how many were given up, or `None` at the end.
    pub(super) fn take(&mut self, source: BorrowedFd<'_>, most: usize) -> Taken {
        let step = with_scratch(|scratch| match pipe::read(source, scratch) {
            Ok(None) => Taken::Nothing,
            Ok(Some(0)) | Err(_) => Taken::End,
            Ok(Some(length)) => {
                self.pending.extend(&scratch[..length]);
                Taken::Bytes { lost: 0 }
            }
        });
        let surplus = self.pending.len().saturating_sub(most);
        self.pending.drain(..surplus);
        match step {
            Taken::Bytes { .. } => Taken::Bytes { lost: surplus },
            step => step,
        }
    }
}

/// What [`Flow::take`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// Bytes; for their sake so many older ones were given up.
    Bytes {
        /// How many bytes are lost.
        lost: usize,
    },
    /// Nothing there now.
    Nothing,
    /// The end of the source.
    End,
}

/// Writes as much of `bytes` as the sink takes: how much, and what stopped it.
fn put(bytes: &[u8], sink: &Sink) -> (usize, Step) {
    let fd = match sink {
        Sink::Stream(stream) => stream.get_ref().as_fd(),
        Sink::File(file) => file.as_fd(),
        Sink::Nothing => return (bytes.len(), Step::Moved),
    };
    let mut written = 0;
    while written < bytes.len() {
        match pipe::write(fd, &bytes[written..]) {
            Ok(Some(count)) => written += count,
            Ok(None) => return (written, Step::Full),
            Err(error) => return (written, Step::Failed(error)),
        }
    }
    (written, Step::Moved)
}

fn with_scratch<T>(action: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(STEP, 0);
        action(scratch)
    })
}
