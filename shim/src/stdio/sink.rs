//! Where a stream ends: something that may be full for a while, or a file.

use std::fs::OpenOptions;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::OFlag;
use rrun::error::{Context as _, Error, Kind, Result};
use rrun_sys::pipe;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that tokio watches, shared by those who read and write it.
pub(super) type Stream = Arc<AsyncFd<OwnedFd>>;

/// Where bytes go.
#[derive(Debug)]
pub(super) enum Sink {
    /// A FIFO, a pipe or a terminal, non-blocking.
    Stream(Stream),
    /// A file, appended to.
    File(OwnedFd),
    /// Nowhere: nobody wanted them, or the sink failed for good.
    Nothing,
}

/// Watches `fd` for `interest`. It must be non-blocking.
#[allow(
    deprecated,
    reason = "deprecated for types that may answer with another number; an OwnedFd can't"
)]
pub(super) fn watch(fd: OwnedFd, interest: Interest) -> Result<Stream> {
    match AsyncFd::with_interest(fd, interest) {
        Ok(stream) => Ok(Arc::new(stream)),
        Err(error) => Err(Error::new(Kind::System, format!("watch a stream: {error}"))),
    }
}

/// The sink at a path that is there.
///
/// A FIFO is opened for reading, too. So opening never waits for the reader,
/// writing never fails for want of one, and what is in the FIFO outlives a
/// reader that goes away to be restarted.
pub(super) fn open(path: &Path) -> Result<Sink> {
    let kind = std::fs::metadata(path)
        .map_err(|error| rrun_sys::Error::new(format!("stat({path:?})"), errno(&error)))?
        .file_type();
    if kind.is_fifo() {
        let fifo = pipe::open(path, OFlag::O_RDWR)?;
        return Ok(Sink::Stream(watch(fifo, Interest::WRITABLE)?));
    }
    append(OpenOptions::new().append(true), path)
}

/// The sink of a `file://`: made with its folders if need be.
pub(super) fn create(path: &Path) -> Result<Sink> {
    if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
        return open(path);
    }
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(|error| rrun_sys::Error::new(format!("mkdir({folder:?})"), errno(&error)))?;
    }
    append(
        OpenOptions::new().append(true).create(true).mode(0o644),
        path,
    )
}

fn append(options: &mut OpenOptions, path: &Path) -> Result<Sink> {
    let opened = options
        .open(path)
        .map_err(|error| rrun_sys::Error::new(format!("open({path:?}, O_APPEND)"), errno(&error)));
    Ok(Sink::File(opened.context(|| "log file")?.into()))
}

fn errno(error: &std::io::Error) -> nix::errno::Errno {
    use rrun_sys::ToErrno as _;
    error.errno()
}

/// Waits until `stream` has room, or fails so that a write would tell.
pub(super) async fn room(stream: &Stream) {
    let waited = stream.async_io(Interest::WRITABLE, |fd| match pipe::writable(fd.as_fd()) {
        Ok(false) => Err(std::io::ErrorKind::WouldBlock.into()),
        Ok(true) | Err(_) => Ok(()),
    });
    // An error of the watching itself is found again by the write.
    let _ = waited.await;
}
