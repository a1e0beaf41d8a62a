//! The copier of one output of a process: from its pipe or terminal to a sink.
//!
//! ```text
//!            sink full           nobody read for `patience`
//!   flowing ----------> waiting ----------------------------> overflowing
//!      ^   <------------   ^                                       |
//!      |     room          |______________________________________|
//!      |                        room, or the reader reads again
//!      |  sink fails: what it did not take is dropped, the next bytes are tried
//!      |  (a pipe whose reader is gone for good: all further bytes are dropped)
//!      v
//!    ended: the source is at its end and everything is written
//! ```
//!
//! * **flowing**: bytes go from pipe to pipe in the kernel ([`super::flow`]).
//! * **waiting**: nothing is taken, so the container meets the same
//!   back-pressure as with a pipe to its reader.
//! * **overflowing**: the container must not hang for a reader that may never
//!   come. What it writes is taken, the last [`RING`] bytes are kept, older ones
//!   are dropped. With what the FIFO and the container's pipe hold the reader
//!   finds the beginning of the stall and its end, with one gap in between.
//!
//! # How a reader's progress is seen
//!
//! The shim holds a FIFO for reading and writing, so the kernel never says that
//! its reader is gone; but only a reader takes bytes out. A reader that takes a
//! whole buffer of the FIFO makes room, which poll(2) tells. One that takes less
//! makes the number of unread bytes smaller (`FIONREAD`), and nothing else can:
//! while the FIFO is full nobody adds to it, us included. So the number is
//! compared four times within `patience`; only if room never came and the number
//! stayed the same all the time, nobody has read. No timer runs unless a sink is
//! full.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rrun_sys::pipe;
use tokio::io::Interest;

use super::Patience;
use super::flow::{Flow, STEP, Step, Taken};
use super::sink::{Sink, Stream, room};

/// How many bytes are kept while nobody reads: as many as a pipe holds.
const RING: usize = STEP;

/// What became of the bytes of one output.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Bytes that the sink took.
    pub(super) passed: AtomicU64,
    /// Bytes that nobody will see.
    pub(super) dropped: AtomicU64,
}

/// An output on its way.
#[derive(Debug)]
pub(super) struct Output {
    /// For log lines: `stdout of "web"`.
    name: String,
    source: Stream,
    sink: Sink,
    /// Whether bytes that go nowhere count as dropped.
    wanted: bool,
    flow: Flow,
    patience: Patience,
    ended: bool,
    tally: Arc<Tally>,
    /// The gap that is being made.
    gap: Option<Gap>,
}

/// Bytes that are dropped one after another.
#[derive(Debug)]
struct Gap {
    /// How many bytes of the output are before it.
    after: u64,
    bytes: u64,
}

impl Output {
    /// The copier of `source`; it can be spliced if it is a pipe.
    pub(super) fn new(
        name: String,
        source: Stream,
        is_pipe: bool,
        sink: Sink,
        patience: Patience,
    ) -> Self {
        Self {
            name,
            source,
            wanted: !matches!(sink, Sink::Nothing),
            sink,
            flow: Flow::new(is_pipe),
            patience,
            ended: false,
            tally: Arc::default(),
            gap: None,
        }
    }

    /// The counters, which outlive the copier.
    pub(super) fn tally(&self) -> Arc<Tally> {
        self.tally.clone()
    }

    /// Copies until the source has ended and all is written. Dropped earlier,
    /// it tells what it left.
    pub(super) async fn run(mut self) {
        loop {
            match self.step().await {
                Step::Moved | Step::Empty => self.moved(),
                Step::Full => self.wait().await,
                Step::Ended => self.ended = true,
                Step::Failed(error) => self.sink_failed(&error),
                Step::Broken(error) => {
                    super::warn(format_args!("{}: {error}", self.name));
                    self.ended = true;
                }
            }
            if self.ended && self.flow.pending.is_empty() {
                return;
            }
        }
    }

    async fn step(&mut self) -> Step {
        let Self {
            source, sink, flow, ..
        } = self;
        if !flow.pending.is_empty() {
            // A long queue must not keep other streams waiting.
            tokio::task::coop::consume_budget().await;
            return flow.flush(sink);
        }
        let stepped = source.async_io(Interest::READABLE, |fd| match flow.step(fd.as_fd(), sink) {
            Step::Empty => Err(std::io::ErrorKind::WouldBlock.into()),
            step => Ok(step),
        });
        stepped.await.unwrap_or(Step::Ended)
    }

    /// The sink takes bytes: a gap, if there was one, is over.
    fn moved(&mut self) {
        let discarded = std::mem::take(&mut self.flow.discarded);
        match self.sink {
            Sink::Nothing if self.wanted => self.lose(discarded),
            Sink::Nothing => {}
            Sink::Stream(_) | Sink::File(_) => {
                self.tally.passed.store(self.flow.passed, Relaxed);
                self.close_gap("goes on");
            }
        }
    }

    /// The sink is full: waits for room, or until nobody has read for too long.
    async fn wait(&mut self) {
        let Sink::Stream(sink) = &self.sink else {
            return;
        };
        let Patience::For(patience) = self.patience else {
            return room(sink).await;
        };
        if self.ended {
            // There is no container left that could hang.
            return room(sink).await;
        }
        let mut unread = pipe::unread(sink.get_ref().as_fd()).unwrap_or(0);
        let mut quiet = 0;
        while quiet < 4 {
            if tokio::time::timeout(patience / 4, room(sink)).await.is_ok() {
                return;
            }
            let now = pipe::unread(sink.get_ref().as_fd()).unwrap_or(0);
            quiet = if now == unread { quiet + 1 } else { 0 };
            unread = now;
        }
        self.overflow(patience, unread).await;
    }

    /// Takes what comes and keeps the end of it, until somebody reads again.
    async fn overflow(&mut self, patience: Duration, unread: usize) {
        let Sink::Stream(sink) = &self.sink else {
            return;
        };
        let sink = sink.clone();
        let mut tick = tokio::time::interval(patience / 4);
        while !self.ended {
            let (source, flow) = (&self.source, &mut self.flow);
            let taken =
                source.async_io(Interest::READABLE, |fd| match flow.take(fd.as_fd(), RING) {
                    Taken::Nothing => Err(std::io::ErrorKind::WouldBlock.into()),
                    taken => Ok(taken),
                });
            tokio::select! {
                biased;
                () = room(&sink) => return,
                taken = taken => match taken {
                    Ok(Taken::Bytes { lost }) => self.lose(lost as u64),
                    _ => self.ended = true,
                },
                _ = tick.tick() => {
                    if pipe::unread(sink.get_ref().as_fd()).unwrap_or(0) != unread {
                        return;
                    }
                }
            }
        }
    }

    /// Drops what the sink did not take. A file may have room again later; a
    /// pipe without reader has none for ever.
    fn sink_failed(&mut self, error: &rrun_sys::Error) {
        self.tally.passed.store(self.flow.passed, Relaxed);
        if self.gap.is_none() {
            super::warn(format_args!("{}: {error}", self.name));
        }
        if matches!(self.sink, Sink::Stream(_)) {
            self.sink = Sink::Nothing;
        }
        let lost = std::mem::take(&mut self.flow.pending).len();
        self.lose(lost as u64);
    }

    /// Counts `bytes` that are dropped behind what the sink has taken.
    fn lose(&mut self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let after = self.tally.passed.load(Relaxed) + self.tally.dropped.load(Relaxed);
        self.tally.dropped.fetch_add(bytes, Relaxed);
        let name = &self.name;
        let gap = self.gap.get_or_insert_with(|| {
            super::warn(format_args!("{name}: bytes are dropped after byte {after}"));
            Gap { after, bytes: 0 }
        });
        gap.bytes += bytes;
    }

    /// Tells of the gap, if there is one.
    fn close_gap(&mut self, and_now: &str) {
        if let Some(Gap { after, bytes }) = self.gap.take() {
            super::warn(format_args!(
                "{}: {bytes} bytes after byte {after} were dropped; the output {and_now}",
                self.name
            ));
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.wanted {
            let unread = match self.ended {
                true => 0,
                false => pipe::unread(self.source.get_ref().as_fd()).unwrap_or(0),
            };
            self.lose((self.flow.pending.len() + unread) as u64);
        }
        self.close_gap("is closed");
    }
}
