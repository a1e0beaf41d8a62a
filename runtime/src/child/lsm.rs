//! The security module's label for the program.

use std::io::Write;

use nix::errno::Errno;

use super::procfs;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::process::Process;

/// Where AppArmor is told, in this thread's own directory of /proc. The module
/// has a folder of its own since Linux 5.1; before, the file is whichever
/// module's came first.
const APPARMOR: [&str; 2] = ["attr/apparmor/exec", "attr/exec"];

/// Asks AppArmor to confine the next execve by the profile of `process`.
///
/// The file is named in backticks: by that Podman knows such an error.
///
/// # Errors
/// A kernel without AppArmor, a profile that is not loaded, a change that the
/// profile in force does not allow.
pub(super) fn set_profile(process: &Process) -> Result<()> {
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
        errno => crate::sys::Error::new("the change", errno).into(),
    }
}

fn no_apparmor() -> Error {
    Error::new(Kind::Unsupported, "the kernel has no AppArmor")
}
