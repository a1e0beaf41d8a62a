//! The security module's label for the program.

use super::procfs;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::process::Process;

/// Asks AppArmor to confine the next execve by the profile of `process`.
///
/// # Errors
/// A kernel without AppArmor, a profile that is not loaded.
pub(super) fn set_profile(process: &Process) -> Result<()> {
    let Some(profile) = &process.apparmor_profile else {
        return Ok(());
    };
    let text = format!("exec {profile}");
    // The module's own folder is there since Linux 5.1; without it the file is
    // whichever module came first.
    procfs::write_own("attr/apparmor/exec", text.as_bytes())
        .or_else(|_| procfs::write_own("attr/exec", text.as_bytes()))
        .map_err(|error| match error.errno() {
            Some(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Error::new(
                Kind::Unsupported,
                "the kernel has no AppArmor, or not this profile",
            ),
            _ => error,
        })
        .context(|| format!("set apparmor profile {profile:?}"))
}
