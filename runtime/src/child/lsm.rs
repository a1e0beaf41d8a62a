//! The security modules' labels for the program: written to `attr/exec`, they
//! count from the next execve on.

use std::io::Write;

use nix::errno::Errno;

use super::procfs;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::process::Process;
use crate::sys;

/// Where AppArmor is told, in this thread's own directory of /proc. The module
/// has a folder of its own since Linux 5.1; before, the file is whichever
/// module's came first.
const APPARMOR: [&str; 2] = ["attr/apparmor/exec", "attr/exec"];

/// Asks for the labels of `process` at the next execve.
///
/// # Errors
/// A kernel that has no such module or label.
pub(super) fn set_labels(process: &Process) -> Result<()> {
    set_profile(process)?;
    match &process.selinux_label {
        Some(label) => write_label("attr/exec", label),
        None => Ok(()),
    }
}

/// Lets the keys that this process makes carry its SELinux label, so that its
/// program may read them; an empty one ends that.
///
/// # Errors
/// A label that the kernel does not take.
pub(super) fn label_keys(label: &str) -> Result<()> {
    write_label("attr/keycreate", label)
}

fn write_label(file: &str, label: &str) -> Result<()> {
    let mut opened = procfs::open_own(file)?;
    sys::call(opened.write_all(label.as_bytes()), || {
        format!("write({file:?})")
    })
    .context(|| format!("set selinux label {label:?}"))
}

/// Asks AppArmor to confine the next execve by the profile of `process`.
///
/// The file is named in backticks: by that Podman knows such an error.
///
/// # Errors
/// A kernel without AppArmor, a profile that is not loaded, a change that the
/// profile in force does not allow.
fn set_profile(process: &Process) -> Result<()> {
    let Some(profile) = &process.apparmor_profile else {
        return Ok(());
    };
    change_on_exec(profile).context(|| format!("apply apparmor profile {profile:?}"))
}

fn change_on_exec(profile: &str) -> Result<()> {
    for file in APPARMOR {
        let mut opened = match procfs::open_own(file) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => continue,
            opened => opened.context(|| format!("open `/proc/thread-self/{file}`"))?,
        };
        return opened
            .write_all(format!("exec {profile}").as_bytes())
            .map_err(|error| refusal(&error))
            .context(|| format!("write `/proc/thread-self/{file}`"));
    }
    Err(no_apparmor())
}

/// What the kernel's errno means here.
fn refusal(error: &std::io::Error) -> Error {
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::ENOENT => Error::new(Kind::Unsupported, "no profile of this name is loaded"),
        // Of a kernel in which no module has the file.
        Errno::EINVAL => no_apparmor(),
        errno => sys::Error::new("the change", errno).into(),
    }
}

fn no_apparmor() -> Error {
    Error::new(Kind::Unsupported, "the kernel has no AppArmor")
}
