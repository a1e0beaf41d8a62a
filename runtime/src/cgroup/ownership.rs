//! The cgroup given to the user who runs in it.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{Gid, Uid, fchown, fchownat};

use super::Cgroup;
use crate::error::{Context, Result};
use crate::plan::cgroup::Owner;
use crate::sys::call;

/// The files of a cgroup that make it a user's (cgroups(7), "Cgroup
/// delegation"), of which not each has all.
const LIST: &str = "/sys/kernel/cgroup/delegate";

/// Those of a kernel without the list (before Linux 4.15).
const KNOWN: &str = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n";

impl Cgroup {
    /// Makes `owner` the owner of the directory with the processes and of the
    /// files on the kernel's list, on a host with v2 alone: v1 can't be delegated
    /// safely.
    ///
    /// # Errors
    /// Those of fchown(2), but for a file that is not there.
    pub(super) fn hand_over(&self, owner: Owner) -> Result<()> {
        let (Some(_), Some(at)) = (self.dirfd(), self.unified()) else {
            return Ok(());
        };
        let directory = at.place();
        let doing = || format!("give the cgroup {:?} to its user", directory.path());
        let (uid, gid) = (Some(Uid::from_raw(owner.uid)), owner.gid.map(Gid::from_raw));
        let text = |file: &str| {
            let path = directory.path().join(file);
            format!("fchown({path:?}, {uid:?}, {gid:?})")
        };
        call(fchown(directory, uid, gid), || text("")).context(doing)?;
        let list = std::fs::read_to_string(LIST).unwrap_or_else(|_| KNOWN.to_owned());
        for file in list.lines().filter(|file| !file.contains('/')) {
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            match fchownat(directory.as_fd(), file, uid, gid, flags) {
                Err(Errno::ENOENT) => {}
                done => call(done, || text(file)).context(doing)?,
            }
        }
        Ok(())
    }
}
