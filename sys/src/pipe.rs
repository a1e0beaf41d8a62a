//! Pipes and FIFOs: moved along without a copy, and asked what is in them.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::stat::Mode;

use super::{Result, call};

/// Moves up to `length` bytes from `source` to `sink`, of which one is a pipe,
/// without waiting for either; `Some(0)` at the end of `source`, `None` if
/// `source` is empty or `sink` is full.
///
/// # Errors
/// `EINVAL` where the kernel
/// can't splice (a file with `O_APPEND`; terminals until Linux 5.11), `EPIPE`
/// and those of write(2) for `sink`.
pub fn splice(
    source: BorrowedFd<'_>,
    sink: BorrowedFd<'_>,
    length: usize,
) -> Result<Option<usize>> {
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    loop {
        match nix::fcntl::splice(source, None, sink, None, length, flags) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            moved => {
                return call(moved.map(Some), || {
                    let (source, sink) = (source.as_raw_fd(), sink.as_raw_fd());
                    format!("splice([{source}], [{sink}], {length})")
                });
            }
        }
    }
}

/// How many bytes wait in `pipe` to be read (`FIONREAD`); either end will do.
///
/// # Errors
/// `ENOTTY` for what can't be asked.
pub fn unread(pipe: BorrowedFd<'_>) -> Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    let done = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    call(Errno::result(done), || {
        format!("ioctl([{}], FIONREAD)", pipe.as_raw_fd())
    })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// What a read and a write would meet now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// A read from the source returns at once: bytes, the end, or an error.
    pub source: bool,
    /// A write to the sink returns at once, be it with an error.
    pub sink: bool,
}

/// Whether `source` can be read and `sink` written, by poll(2) without waiting.
///
/// # Errors
/// Those of poll.
pub fn ready(source: BorrowedFd<'_>, sink: BorrowedFd<'_>) -> Result<Ready> {
    let mut polled = [
        PollFd::new(source, PollFlags::POLLIN),
        PollFd::new(sink, PollFlags::POLLOUT),
    ];
    loop {
        match nix::poll::poll(&mut polled, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            done => {
                call(done, || {
                    let (source, sink) = (source.as_raw_fd(), sink.as_raw_fd());
                    format!("poll([{source}, {sink}], 0)")
                })?;
                let any = |at: &PollFd<'_>| at.revents().is_some_and(|events| !events.is_empty());
                return Ok(Ready {
                    source: any(&polled[0]),
                    sink: any(&polled[1]),
                });
            }
        }
    }
}

/// Whether a write to `sink` returns at once.
///
/// # Errors
/// Those of poll.
pub fn writable(sink: BorrowedFd<'_>) -> Result<bool> {
    Ok(ready(sink, sink)?.sink)
}

/// Opens a FIFO (or what else has a path) without waiting for the other side.
///
/// # Errors
/// Those of open(2); `ENXIO` for writing to a FIFO that nobody reads.
pub fn open(path: &Path, flags: OFlag) -> Result<OwnedFd> {
    let flags = flags | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    call(nix::fcntl::open(path, flags, Mode::empty()), || {
        format!("open({path:?})")
    })
}

/// Reads what is there into `buffer`; `Some(0)` at the end, `None` if there is
/// nothing yet and `source` is non-blocking.
///
/// # Errors
/// Those of read(2).
pub fn read(source: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Option<usize>> {
    loop {
        match nix::unistd::read(source, buffer) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            read => return call(read.map(Some), || format!("read([{}])", source.as_raw_fd())),
        }
    }
}

/// Writes what there is room for; `None` if there is none and `sink` is
/// non-blocking.
///
/// # Errors
/// Those of write(2).
pub fn write(sink: BorrowedFd<'_>, bytes: &[u8]) -> Result<Option<usize>> {
    loop {
        match nix::unistd::write(sink, bytes) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            written => {
                return call(written.map(Some), || {
                    format!("write([{}], {} bytes)", sink.as_raw_fd(), bytes.len())
                });
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by a panic")]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::descriptors;

    #[test]
    fn bytes_go_from_pipe_to_pipe_and_are_counted_on_the_way() {
        let (source, to_source) = descriptors::pipe().unwrap();
        let (from_sink, sink) = descriptors::pipe().unwrap();
        for end in [source.as_fd(), from_sink.as_fd()] {
            descriptors::set_nonblocking(end).unwrap();
        }
        let step = || splice(source.as_fd(), sink.as_fd(), 64).unwrap();
        assert_eq!(step(), None, "an empty source");
        assert_eq!(write(to_source.as_fd(), b"twelve bytes").unwrap(), Some(12));
        assert_eq!(unread(source.as_fd()).unwrap(), 12);
        assert_eq!(step(), Some(12));
        assert_eq!(unread(from_sink.as_fd()).unwrap(), 12);
        // More is there than there is room for.
        let mut buffer = vec![0; 7];
        assert_eq!(read(from_sink.as_fd(), &mut buffer).unwrap(), Some(7));
        assert_eq!(buffer, b"twelve ");
        assert_eq!(read(from_sink.as_fd(), &mut buffer).unwrap(), Some(5));
        assert_eq!(&buffer[..5], b"bytes");
        assert_eq!(read(from_sink.as_fd(), &mut buffer).unwrap(), None);
        drop(to_source);
        assert_eq!(step(), Some(0), "the end of the source");
    }
}
