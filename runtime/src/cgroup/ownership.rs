//! The cgroup given to the user who runs in it.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{Uid, fchown, fchownat};

use super::Cgroup;
use crate::error::{Context, Result};
use crate::sys::call;

/// The files of a cgroup that make it a user's (cgroups(7), "Cgroup
/// delegation"), of which not each has all.
const LIST: &str = "/sys/kernel/cgroup/delegate";

/// Those of a kernel without the list (before Linux 4.15).
const KNOWN: &str = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n";

impl Cgroup {
    /// Makes `owner` the owner of the directory and of the files on the
    /// kernel's list, on a host with v2 alone: v1 can't be delegated safely.
    ///
    /// # Errors
    /// Those of fchown(2), but for a file that is not there.
    pub(super) fn hand_over(&self, owner: u32) -> Result<()> {
        let (Some(_), Some(at)) = (self.dirfd(), self.unified()) else {
            return Ok(());
        };
        let doing = || format!("give the cgroup {:?} to its user", at.directory.path());
        let owner = Some(Uid::from_raw(owner));
        let text = |file: &str| format!("fchown({:?}, {owner:?})", at.directory.path().join(file));
        call(fchown(&at.directory, owner, None), || text("")).context(doing)?;
        let list = std::fs::read_to_string(LIST).unwrap_or_else(|_| KNOWN.to_owned());
        for file in list.lines().filter(|file| !file.contains('/')) {
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            match fchownat(at.directory.as_fd(), file, owner, None, flags) {
                Err(Errno::ENOENT) => {}
                done => call(done, || text(file)).context(doing)?,
            }
        }
        Ok(())
    }
}
