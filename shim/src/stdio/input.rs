//! The copier of a process's input: from the FIFO of the client to its pipe or
//! terminal.
//!
//! The shim also holds the FIFO for writing. So a client that detaches, or the
//! containerd between them that is restarted, is no end of the input; the end
//! comes when the client has gone and the shim has been told to close the input
//! (the `CloseIO` call). A process that reads nothing makes the client wait,
//! for ever: nothing of an input is ever dropped for lateness.
//!
//! A terminal can't be half closed. When its input ends it is hung up, as when
//! a user's line drops: so a shell of which the client is gone does not stay
//! behind for ever. What it had written by then still reaches the output.

use std::os::fd::AsFd as _;

use rrun_sys::terminal;
use tokio::io::Interest;

use super::Stream;
use super::flow::{Flow, Step};
use super::sink::{Sink, room};

/// Copies to a terminal, which is hung up at the end of the input.
pub(super) async fn copy_to_terminal(source: Stream, master: Stream) {
    copy(source, master.clone()).await;
    // A terminal that has ended by itself needs none.
    let _ = terminal::hang_up(master.get_ref().as_fd());
}

/// Copies until the end of the input or until nobody wants it any more.
pub(super) async fn copy(source: Stream, sink: Stream) {
    let mut flow = Flow::new(true);
    let sink = Sink::Stream(sink);
    loop {
        let step = if flow.pending.is_empty() {
            let stepped = source.async_io(Interest::READABLE, |fd| {
                match flow.step(fd.as_fd(), &sink) {
                    Step::Empty => Err(std::io::ErrorKind::WouldBlock.into()),
                    step => Ok(step),
                }
            });
            stepped.await.unwrap_or(Step::Ended)
        } else {
            flow.flush(&sink)
        };
        match (step, &sink) {
            (Step::Moved | Step::Empty, _) => {}
            (Step::Full, Sink::Stream(sink)) => room(sink).await,
            _ => return,
        }
    }
}
