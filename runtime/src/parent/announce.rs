//! Making a new process known: its pid in a file, its pidfd over a socket.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use crate::error::{Context, Result};
use crate::sys::handle::Handle;
use crate::sys::mutation::Defence;
use crate::sys::{self, descriptors};

/// Where a new process is made known.
#[derive(Debug, Clone, Default)]
pub struct Announce {
    /// `--pid-file`: gets the pid in decimal.
    pub pid_file: Option<PathBuf>,
    /// `--pidfd-socket`: gets a pidfd.
    pub pidfd_socket: Option<PathBuf>,
}

impl Announce {
    /// Makes the process known.
    ///
    /// # Errors
    /// A file that can't be written, a socket that nobody listens on.
    pub fn publish(&self, pid: Pid, handle: &Handle) -> Result<()> {
        if let Some(path) = &self.pid_file {
            write_pid(path, pid).context(|| format!("write pid file {path:?}"))?;
        }
        if let Some(path) = &self.pidfd_socket {
            let socket = descriptors::connect_stream(path)?;
            handle
                .pidfd()
                .and_then(|pidfd| descriptors::send(socket.as_fd(), b"pidfd", &[pidfd]))
                .context(|| format!("send pidfd to {path:?}"))?;
        }
        Ok(())
    }
}

/// Never written through what somebody put there: who else may write to that
/// directory could have linked it to any file.
fn write_new(path: &Path, text: &str) -> sys::Result<()> {
    use std::io::{ErrorKind, Write as _};
    let make = || match Defence::NewDraft.is_out() {
        true => std::fs::File::create(path),
        false => std::fs::File::create_new(path),
    };
    let made = make().or_else(|error| match error.kind() {
        // Of a command that was killed, or a link.
        ErrorKind::AlreadyExists => std::fs::remove_file(path).and_then(|()| make()),
        _ => Err(error),
    });
    let written = made.and_then(|mut file| file.write_all(text.as_bytes()));
    sys::call(written, || format!("write({path:?})"))
}

/// Written beside its place and renamed, so that a reader sees all or nothing.
fn write_pid(path: &Path, pid: Pid) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}"));
    let written = write_new(&draft, &pid.to_string()).and_then(|()| {
        sys::call(std::fs::rename(&draft, path), || {
            format!("rename({draft:?}, {path:?})")
        })
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    Ok(written?)
}
