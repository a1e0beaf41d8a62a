//! Entering namespaces, by one fork or two.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;

use crate::error::{Context, Error, Kind, Result};
use crate::plan::namespaces::{NamespaceType, Namespaces};
use crate::sys::{self, credentials, namespace};

/// A namespace to join, opened and checked on the host.
#[derive(Debug)]
pub struct OpenNamespace {
    /// Its type.
    pub kind: NamespaceType,
    /// The namespace file.
    pub fd: OwnedFd,
}

/// Opens the namespaces to join, where their paths mean what they say.
///
/// # Errors
/// A path that is not there, or is no namespace of its type.
pub fn open_joined(namespaces: &Namespaces) -> Result<Vec<OpenNamespace>> {
    use nix::fcntl::{OFlag, open};
    let mut opened = Vec::with_capacity(namespaces.join.len());
    for join in &namespaces.join {
        let field = || format!("join {} namespace {:?}", join.kind.name(), join.path);
        let fd = sys::call(
            open(
                &join.path,
                OFlag::O_RDONLY | OFlag::O_CLOEXEC,
                nix::sys::stat::Mode::empty(),
            ),
            || format!("open({:?})", join.path),
        )
        .context(field)?;
        if namespace::namespace_type(fd.as_fd()).ok() != Some(join.kind.flag().bits()) {
            let text = format!("is not a {} namespace", join.kind.name());
            return Err(Error::new(Kind::InvalidConfig, text)).context(field);
        }
        opened.push(OpenNamespace {
            kind: join.kind,
            fd,
        });
    }
    Ok(opened)
}

/// Joins all of `namespaces`, the user namespace in the middle: what belongs
/// to the host is entered with the host's rights before it, what belongs to
/// it with the rights that it gives.
///
/// # Errors
/// `EPERM` for a namespace that neither side may enter.
pub fn join(namespaces: &[OpenNamespace]) -> Result<()> {
    let mut refused = Vec::new();
    let (user, others): (Vec<_>, Vec<_>) = namespaces
        .iter()
        .partition(|namespace| namespace.kind == NamespaceType::User);
    for other in others {
        match enter(other) {
            Err(error) if error.errno() == Some(Errno::EPERM) && !user.is_empty() => {
                refused.push(other);
            }
            entered => entered?,
        }
    }
    user.into_iter().chain(refused).try_for_each(enter)
}

fn enter(namespace: &OpenNamespace) -> Result<()> {
    namespace::setns(namespace.fd.as_fd(), namespace.kind.flag())
        .context(|| format!("join {} namespace", namespace.kind.name()))
}

/// Moves this process's future children into a new time namespace and sets
/// its clocks, which must happen before the first of them (time_namespaces(7)).
///
/// Who is `unprivileged` owns its files in /proc only while it is dumpable;
/// nobody is in its user namespace yet who could make use of that.
///
/// # Errors
/// `EINVAL` where the kernel has none (until Linux 5.6), `EPERM`.
pub fn unshare_time(offsets: Option<&str>, unprivileged: bool) -> Result<()> {
    namespace::unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME))?;
    let Some(offsets) = offsets else {
        return Ok(());
    };
    // The host's /proc: this runs before any mount is changed.
    let path = "/proc/self/timens_offsets";
    credentials::set_dumpable(unprivileged)?;
    let written = sys::call(std::fs::write(path, offsets), || {
        format!("write({path:?}, {offsets:?})")
    });
    credentials::set_dumpable(false)?;
    written.context(|| "set clock offsets")
}

/// Becomes root of the user namespace that this process has just entered, so
/// that what it makes belongs to somebody there. The change of ids undoes the
/// process's guard (prctl(2), PR_SET_PDEATHSIG), which is set again. The
/// supplementary groups go, unless they are to be kept.
///
/// # Errors
/// `EINVAL` if the namespace maps no id 0.
pub fn become_root(keep_groups: bool) -> Result<()> {
    if !keep_groups {
        match credentials::set_groups(&[]) {
            // Groups can't be changed where gids were mapped without privilege.
            Err(error) if error.errno() != Errno::EPERM => return Err(error.into()),
            _ => {}
        }
    }
    credentials::set_gid(0)
        .and_then(|()| credentials::set_uid(0))
        .context(|| "become root of the user namespace")?;
    super::isolation::guard(false)
}

/// Brings up the loopback device of a new network namespace.
///
/// # Errors
/// Those of the two ioctls.
pub fn bring_up_loopback() -> Result<()> {
    sys::network::bring_up(c"lo").context(|| "bring up the loopback device")
}

/// Joins a new session keyring, or the container's own when one of this name
/// is there, and lets the container's processes search it.
///
/// A kernel without keyrings, or a full quota, is no reason not to run.
///
/// # Errors
/// Those of keyctl(2) otherwise.
pub fn join_keyring(name: &std::ffi::CStr, user_namespace: bool) -> Result<()> {
    let serial = match sys::keyring::join_session_keyring(name) {
        Err(error) if matches!(error.errno(), Errno::ENOSYS | Errno::EDQUOT | Errno::EPERM) => {
            return Ok(());
        }
        serial => serial.context(|| "join session keyring")?,
    };
    // Search, for the user; within a user namespace the owner is somebody
    // else to the kernel, so for all.
    let search: u32 = if user_namespace { 0x8 } else { 0x8_0000 };
    let mask = sys::keyring::key_permissions(serial).context(|| "read keyring permissions")?;
    sys::keyring::set_key_permissions(serial, mask | search).context(|| "set keyring permissions")
}
