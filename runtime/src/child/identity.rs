//! Who the process is: its standard descriptors, groups, ids, working
//! directory and capabilities, in the one order that works.
//!
//! ```text
//!   stdio to its user      while we may chown
//!   bounding set           while CAP_SETPCAP is effective
//!   keep capabilities on
//!   groups, gid, uid       the kernel clears effective capabilities here
//!   chdir                  again, as the user that will be there
//!   keep capabilities off
//!   capset, ambient
//! ```

use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use rustix::fs::OFlags;

use super::root::{Missing, Root};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::capabilities::Capabilities;
use crate::plan::process::Process;
use crate::sys::credentials::{self, CapabilitySets};
use crate::sys::file::Links;
use crate::sys::mutation::Defence;
use crate::sys::{self, descriptors, file, process};

/// `CAP_SYS_ADMIN`, which loading a filter without no_new_privs takes.
const SYS_ADMIN: u64 = 1 << 21;

/// Becomes the user of `process`, up to the capabilities, which [`drop_to`]
/// takes.
///
/// # Errors
/// `EINVAL` for ids that the user namespace does not map, `EPERM` for groups
/// where it denies them, what chdir(2) says of the working directory.
pub fn assume(process: &Process) -> Result<()> {
    give_stdio(process.uid);
    drop_bounding(process.capabilities.bounding)?;
    credentials::set_keep_capabilities(true)?;
    // Tried as root first: its user may not be able to reach it, and may be
    // the only one who can (a home on a network filesystem).
    let reached = change_directory(process);
    if !process.keep_groups {
        set_groups(&process.groups)?;
    }
    credentials::set_gid(process.gid).context(|| "set group id")?;
    let uid = match Defence::WholeIds.is_out() {
        // What a signed number of 32 bits can say.
        true => process.uid & 0x7fff_ffff,
        false => process.uid,
    };
    credentials::set_uid(uid).context(|| "set user id")?;
    if (process.uid, process.gid) != (0, 0) && !Defence::NotDumpable.is_out() {
        // The change has put it to what fs.suid_dumpable says, which may be 1.
        credentials::set_dumpable(false)?;
    }
    if reached.is_err() {
        change_directory(process)?;
    }
    check_directory(process)?;
    Ok(credentials::set_keep_capabilities(false)?)
}

/// Takes the capabilities of `process`, all but one: with `keep_admin`,
/// `CAP_SYS_ADMIN` stays for the loading of a filter, and [`settle`] ends it.
///
/// # Errors
/// `EPERM` for what this process itself is not permitted.
pub fn drop_to(capabilities: &Capabilities, keep_admin: bool) -> Result<()> {
    credentials::clear_ambient().context(|| "clear ambient capabilities")?;
    let extra = if keep_admin { SYS_ADMIN } else { 0 };
    credentials::set_capabilities(CapabilitySets {
        effective: capabilities.effective | extra,
        permitted: capabilities.permitted | extra,
        inheritable: capabilities.inheritable,
    })
    .context(|| "set capabilities")?;
    for number in (0..u64::BITS).filter(|bit| capabilities.ambient & (1 << bit) != 0) {
        credentials::raise_ambient(number).context(|| "set ambient capabilities")?;
    }
    Ok(())
}

/// Gives up the capability that [`drop_to`] kept, if the process is not to
/// have it. The one call behind a loaded filter; lowering the permitted set
/// leaves ambient capabilities alone that stay in it.
///
/// # Errors
/// None that capset gives for less.
pub fn settle(capabilities: &Capabilities) -> Result<()> {
    if capabilities.effective & capabilities.permitted & SYS_ADMIN != 0 {
        return Ok(());
    }
    credentials::set_capabilities(CapabilitySets {
        effective: capabilities.effective,
        permitted: capabilities.permitted,
        inheritable: capabilities.inheritable,
    })
    .context(|| "set capabilities")
}

/// Drops from the bounding set what is not in `bounding`.
fn drop_bounding(bounding: u64) -> Result<()> {
    for number in (0..u64::BITS).filter(|bit| bounding & (1 << bit) == 0) {
        // The first number that the kernel does not know ends the list.
        if !credentials::drop_bounding(number).context(|| "drop bounding capability")? {
            break;
        }
    }
    Ok(())
}

/// An empty list is no request, so it may fail where groups can't be set: a
/// user namespace that maps its maker's own group alone denies it
/// (user_namespaces(7)).
fn set_groups(groups: &[u32]) -> Result<()> {
    if Defence::SetGroups.is_out() {
        return Ok(());
    }
    match credentials::set_groups(groups) {
        Err(error) if error.errno() == Errno::EPERM && groups.is_empty() => Ok(()),
        Err(error) if error.errno() == Errno::EPERM => Err(Error::from(error)
            .within("cannot set any additional groups in a rootless container")
            .with_hint("groups must be mapped by newgidmap, from ranges in /etc/subgid")),
        set => set.context(|| "set supplementary groups"),
    }
}

/// Hands the standard descriptors to the user, so that `/dev/stdout` can be
/// opened again by an unprivileged program. `/dev/null` stays as it is: it
/// belongs to everybody. What can't be changed (a pipe of another user
/// namespace, a read-only filesystem) is left alone, as runc does.
fn give_stdio(uid: u32) {
    for number in 0..3 {
        let fd = descriptors::standard(number);
        let Ok(stat) = fstat(fd) else { continue };
        if stat.st_uid == uid || is_null_device(&stat) {
            continue;
        }
        let _ = nix::unistd::fchown(fd, Some(nix::unistd::Uid::from_raw(uid)), None);
    }
}

/// Whether this is `/dev/null`, which is character device 1:3 everywhere.
pub(super) fn is_null_device(stat: &nix::sys::stat::FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFCHR
        && stat.st_rdev == nix::sys::stat::makedev(1, 3)
}

/// Opens the container's `/dev/null` in the place of the host's wherever a
/// standard descriptor is one, so that no descriptor leads outside.
///
/// # Errors
/// Those of open(2) on the container's `/dev/null`.
pub fn reopen_null() -> Result<()> {
    use nix::fcntl::{OFlag, open};
    for number in 0..3 {
        let Ok(stat) = fstat(descriptors::standard(number)) else {
            continue;
        };
        if !is_null_device(&stat) {
            continue;
        }
        let null = sys::call(
            open(
                "/dev/null",
                OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOCTTY,
                nix::sys::stat::Mode::empty(),
            ),
            || "open(\"/dev/null\")".to_owned(),
        );
        // A container without /dev/null, or with something else in its place,
        // keeps the descriptor that it was given.
        if let Ok(null) = null
            && fstat(&null).is_ok_and(|stat| is_null_device(&stat))
        {
            descriptors::duplicate_onto(null.as_fd(), number)?;
        }
    }
    Ok(())
}

/// Makes the working directory where the image has none, while still root: 0755,
/// whatever umask we were started with. What can't be made shows when it is
/// entered.
pub fn make_directory(process: &Process) {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(std::ffi::OsStr::from_bytes(process.cwd.to_bytes()));
    if path.parent().is_none() {
        return;
    }
    // Behind pivot_root no name leads out, but a preserved descriptor may, by its
    // number in /proc: a magic link, which this look-up refuses.
    let root = file::open(Path::new("/"), OFlags::PATH | OFlags::DIRECTORY).map(Root::new);
    let Ok(root) = root else { return };
    if root.find(path, Links::Follow).is_ok() {
        return;
    }
    let umask = file::set_umask(0o022);
    let _ = root.find_or_make(path, Missing::Directory);
    let _ = file::set_umask(umask);
}

fn change_directory(process: &Process) -> Result<()> {
    sys::call(nix::unistd::chdir(process.cwd.as_c_str()), || {
        format!("chdir({:?})", process.cwd)
    })
    .context(|| "enter working directory")
}

/// A working directory outside the root, reached by a descriptor of the host,
/// has no absolute path here (CVE-2024-21626); one that the kernel doesn't tell
/// the path of may be such a one.
fn check_directory(planned: &Process) -> Result<()> {
    let outside = format!(
        "working directory {:?} is outside of the container's root filesystem",
        planned.cwd
    );
    match process::working_directory() {
        _ if Defence::WorkingDirectory.is_out() => Ok(()),
        Ok(path) if path.starts_with(b"/") => Ok(()),
        Ok(_) => Err(Error::new(Kind::InvalidConfig, outside)),
        Err(error) if error.errno() == Errno::ENOENT => {
            Err(Error::new(Kind::InvalidConfig, outside))
        }
        Err(error) => {
            Err(error).context(|| format!("find out where working directory {:?} is", planned.cwd))
        }
    }
}
