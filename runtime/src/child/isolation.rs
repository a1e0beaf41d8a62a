//! The child's first act: to leave behind what it must not keep.

use std::os::fd::BorrowedFd;

use crate::error::Result;
use crate::sys::mutation::Defence;
use crate::sys::{credentials, descriptors, executable, signal};

/// Guards the process against the container it is about to enter, and the
/// host against what the process still holds.
///
/// `keep` and the `preserved` descriptors from 3 on stay open. `dumpable`
/// leaves `/proc/PID` to an unprivileged parent that has id maps to write.
///
/// # Errors
/// Those of close_range(2) and prctl(2).
pub fn isolate(keep: &[BorrowedFd<'_>], preserved: i32, dumpable: bool) -> Result<()> {
    guard(dumpable)?;
    // The parent blocks signals that it reads from a descriptor; the child
    // must die of them. What it does at each is reset before execve.
    signal::unblock_all()?;
    if Defence::ClosedDescriptors.is_out() {
        return Ok(());
    }
    // A child that waits in `created` never executes anything, so close-on-exec
    // alone would let it hold the parent's descriptors for ever.
    Ok(descriptors::close_all_but(keep, 3 + preserved)?)
}

/// What a process must set again after each fork: to die with the parent, and
/// not to be looked into.
///
/// # Errors
/// Those of prctl(2).
pub fn guard(dumpable: bool) -> Result<()> {
    // A parent that died before this line shows as an end of file on the
    // channel, which the child reads next.
    if !Defence::ParentDeath.is_out() {
        credentials::set_parent_death_signal(libc::SIGKILL)?;
    }
    if !dumpable && !Defence::NotDumpable.is_out() {
        credentials::set_dumpable(false)?;
    }
    Ok(credentials::set_name(c"rrun:[init]")?)
}

/// Leaves the command line of the runtime out of `/proc/PID/cmdline`, where a
/// container would read what `exec --env` was given. Where the kernel can't (built
/// without `CONFIG_CHECKPOINT_RESTORE`), it stays.
pub fn hide_arguments() {
    if !Defence::HiddenArguments.is_out() {
        let _ = executable::forget_arguments();
    }
}
