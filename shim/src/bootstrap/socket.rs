//! The shim's socket: one for each pod, which only root reaches.
//!
//! Abstract sockets have no permissions (CVE-2020-15257), so it is a file of
//! mode 0600 in a folder of mode 0700, and who connects is asked for the uid
//! besides.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use nix::fcntl::{Flock, FlockArg};
use rrun::error::{Error, Kind, Result};
use rrun_sys::mutation::Defence;
use sha2::{Digest as _, Sha256};
use tokio::time::Sleep;
use ttrpc::asynchronous::transport::Listener;

use crate::cli::Invocation;
use crate::log;

/// Where sockets are, unless containerd says otherwise. A socket's path has at
/// most 107 bytes, so it is short.
const FOLDER: &str = "/run/containerd/s";

/// The address of a group's server: the same for every container of it, also
/// when containerd's log level has changed in between.
pub(super) fn address(folder: &str, invocation: &Invocation, group: &str) -> String {
    let folder = if folder.is_empty() { FOLDER } else { folder };
    let mut hash = Sha256::new();
    for part in [&invocation.address, "/", &invocation.namespace, "/", group] {
        hash.update(part);
    }
    let name: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("unix://{folder}/{name}")
}

/// Binds the address; nothing if a server answers there already. What a killed
/// server has left is replaced.
///
/// # Errors
/// The folder is not safe, or binding fails.
pub(super) fn listen(address: &str) -> Result<Option<OwnedFd>> {
    let path = path(address);
    let failed =
        |error: io::Error| Error::new(Kind::System, format!("listen on {path:?}: {error}"));
    let folder = path.parent().unwrap_or(Path::new("/"));
    check_folder(folder)?;
    // Held until the socket listens: else another `start` would take it for what
    // a killed server has left.
    let _lock = lock(folder).map_err(failed)?;
    let mask = [0o177, 0][usize::from(Defence::PrivateSocket.is_out())];
    let before = rrun_sys::file::set_umask(mask);
    let bound = bind(path);
    let _ours = rrun_sys::file::set_umask(before);
    let bound = bound.map_err(failed)?;
    Ok(bound.map(OwnedFd::from))
}

fn bind(path: &Path) -> io::Result<Option<UnixListener>> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
        bound => return bound.map(Some),
    }
    if answers(path)? {
        return Ok(None);
    }
    match fs::remove_file(path) {
        // A server that ends removes its socket.
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path).map(Some),
    }
}

/// Whether a server listens. One that can't be asked, for want of descriptors
/// or rights, is not taken for dead.
fn answers(path: &Path) -> io::Result<bool> {
    match UnixStream::connect(path) {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => Ok(false),
            _ => Err(error),
        },
    }
}

/// Keeps every other `start` and `delete` away from the sockets in `folder`.
fn lock(folder: &Path) -> io::Result<Flock<File>> {
    let folder = File::open(folder)?;
    Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

/// Makes the folder, or sees that nobody else can write in it.
fn check_folder(folder: &Path) -> Result<()> {
    let failed = |why: &dyn std::fmt::Display| {
        Error::new(Kind::System, format!("socket folder {folder:?}: {why}"))
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| failed(&error))?;
    let found = fs::metadata(folder).map_err(|error| failed(&error))?;
    if found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(failed(&format!("it belongs to user {}", found.uid())));
    }
    if found.mode() & 0o022 != 0 {
        let mode = found.mode() & 0o7777;
        return Err(failed(&format!("others can write in it (mode {mode:o})")));
    }
    Ok(())
}

/// Removes the socket; one that is gone is no error.
///
/// # Errors
/// It can't be removed.
pub(crate) fn remove(address: &str) -> Result<()> {
    let path = path(address);
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            let text = format!("remove {path:?}: {error}");
            Err(Error::new(Kind::System, text))
        }
        _ => Ok(()),
    }
}

/// Removes the socket if no server answers there.
///
/// # Errors
/// It can't be asked or removed.
pub(crate) fn remove_if_dead(address: &str) -> Result<()> {
    let path = path(address);
    let folder = path.parent().unwrap_or(Path::new("/"));
    let asked = lock(folder).and_then(|lock| Ok((answers(path)?, lock)));
    match &asked {
        Ok((true, _)) => Ok(()),
        // Under the lock: nobody binds it meanwhile.
        Ok((false, _lock)) => remove(address),
        // There is no folder.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => {
            let text = format!("connect to {path:?}: {error}");
            Err(Error::new(Kind::System, text))
        }
    }
}

fn path(address: &str) -> &Path {
    Path::new(address.strip_prefix("unix://").unwrap_or(address))
}

/// The inherited socket as a source of connections from our own user.
///
/// # Errors
/// It is no listening socket.
pub(crate) fn listener(fd: OwnedFd) -> Result<Listener> {
    let listener = UnixListener::from(fd);
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| tokio::net::UnixListener::from_std(listener));
    let listener = listener
        .map_err(|error| Error::new(Kind::System, format!("take the listening socket: {error}")))?;
    Ok(Listener::new(OwnUser {
        listener,
        pause: None,
    }))
}

/// Connections of our own user; others are closed at once.
struct OwnUser {
    listener: tokio::net::UnixListener,
    /// A pause, in which descriptors may become free.
    pause: Option<Pin<Box<Sleep>>>,
}

/// How long it takes no connection when there is no descriptor for one: what
/// waits stays there, so without a pause it would ask for ever.
const PAUSE: Duration = Duration::from_millis(100);

impl Stream for OwnUser {
    type Item = io::Result<tokio::net::UnixStream>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            let (stream, _) = match ready!(self.listener.poll_accept(context)) {
                Ok(accepted) => accepted,
                Err(error) if is_short(&error) => {
                    log::warn(format_args!("accept a connection: {error}"));
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                    continue;
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            };
            let own = nix::unistd::geteuid().as_raw();
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == own || Defence::OwnPeer.is_out() => {
                    return Poll::Ready(Some(Ok(stream)));
                }
                Ok(peer) => log::warn(format_args!("user {} may not connect", peer.uid())),
                Err(error) => log::warn(format_args!("who connects? {error}")),
            }
        }
    }
}

/// Whether descriptors are all taken, ours or the whole system's.
fn is_short(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_where_nobody_listens_is_dead() {
        use std::os::unix::net::UnixDatagram;

        let folder = std::env::temp_dir().join(format!("rrun-sockets-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = |name: &str| folder.join(name);
        let _alive = UnixListener::bind(path("alive")).unwrap();
        drop(UnixListener::bind(path("dead")).unwrap());
        let _other = UnixDatagram::bind(path("other")).unwrap();
        for (name, removed) in [
            ("alive", Ok(false)),
            ("dead", Ok(true)),
            ("none", Ok(true)),
            ("other", Err("Protocol wrong type for socket (os error 91)")),
        ] {
            let done = remove_if_dead(&format!("unix://{}", path(name).display()));
            let done = done.map(|()| !path(name).exists());
            let wanted = removed.map_err(|cause| format!("connect to {:?}: {cause}", path(name)));
            assert_eq!(done.map_err(|error| error.to_string()), wanted, "{name}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_address_depends_on_engine_namespace_and_group() {
        let invocation = |address: &str, namespace: &str| Invocation {
            address: address.to_owned(),
            namespace: namespace.to_owned(),
            ..Invocation::default()
        };
        let one = address("", &invocation("/run/c.sock", "k8s.io"), "pod");
        // printf %s /run/c.sock/k8s.io/pod | sha256sum
        assert_eq!(
            one,
            "unix:///run/containerd/s/38138e4874f26e8ce76444b36581ce66ea8351d93519073ce147ed85aaa71da7"
        );
        assert!(one.len() - "unix://".len() <= 106);
        let debug = Invocation {
            debug: true,
            ..invocation("/run/c.sock", "k8s.io")
        };
        assert_eq!(address("", &debug, "pod"), one);
        for other in [
            address("", &invocation("/run/d.sock", "k8s.io"), "pod"),
            address("", &invocation("/run/c.sock", "moby"), "pod"),
            address("", &invocation("/run/c.sock", "k8s.io"), "pod2"),
            address("/s", &invocation("/run/c.sock", "k8s.io"), "pod"),
        ] {
            assert_ne!(one, other);
        }
    }
}
