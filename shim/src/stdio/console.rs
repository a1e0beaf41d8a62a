//! The master of a container's terminal, taken from the runtime.
//!
//! The runtime makes the terminal inside the container and sends its master
//! over a socket, which waits in a folder that only we can enter.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rrun::error::{Context as _, Error, Kind, Result};
use rrun_sys::{descriptors, terminal};
use tokio::io::Interest;
use tokio::net::UnixListener;

/// How long the runtime may take.
const WAIT: Duration = Duration::from_secs(30);

/// A socket that waits for a master; gone with its folder when dropped.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    folder: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// A socket in a new folder, with a path that is short enough.
    pub(super) fn new() -> Result<Self> {
        let parent = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_else(|| "/tmp".into());
        let template = Path::new(&parent).join("rrun-console.XXXXXX");
        let folder = rrun_sys::call(nix::unistd::mkdtemp(&template), || {
            format!("mkdtemp({template:?})")
        })?;
        let path = folder.join("socket");
        match UnixListener::bind(&path) {
            Ok(listener) => Ok(Self { folder, listener }),
            Err(error) => {
                let _ = std::fs::remove_dir(&folder);
                let text = format!("bind {path:?}: {error}");
                Err(Error::new(Kind::System, text))
            }
        }
    }

    /// What the runtime is told.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// The master, non-blocking; the socket is gone afterwards.
    pub(super) async fn receive(self) -> Result<OwnedFd> {
        let received = tokio::time::timeout(WAIT, self.receive_late()).await;
        let late = || {
            let text = format!("the runtime sent none within {} s", WAIT.as_secs());
            Error::new(Kind::System, text)
        };
        received
            .unwrap_or_else(|_| Err(late()))
            .context(|| "receive the terminal")
    }

    async fn receive_late(&self) -> Result<OwnedFd> {
        let system = |error: std::io::Error| Error::new(Kind::System, error.to_string());
        let (stream, _) = self.listener.accept().await.map_err(system)?;
        // runc sends the terminal's name along with it.
        let mut name = [0; 4096];
        let message = stream
            .async_io(Interest::READABLE, || {
                match descriptors::receive(stream.as_fd(), &mut name) {
                    Err(error) if error.errno() == nix::errno::Errno::EAGAIN => {
                        Err(std::io::ErrorKind::WouldBlock.into())
                    }
                    received => Ok(received),
                }
            })
            .await
            .map_err(system)?;
        let (_, Some(master)) = message? else {
            return Err(Error::new(Kind::System, "the runtime sent no descriptor"));
        };
        terminal::number(master.as_fd())?;
        descriptors::set_nonblocking(master.as_fd())?;
        Ok(master)
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // What can't be removed is an empty folder of ours.
        let _ = std::fs::remove_file(self.path());
        let _ = std::fs::remove_dir(&self.folder);
    }
}
