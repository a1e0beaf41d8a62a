//! Removing the directories.

use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

use super::Cgroup;
use super::directory::{Directory, is_gone};
use crate::error::{Error, Result};
use crate::sys;
use crate::systemd::Systemd;

/// Waits between attempts while the kernel still lets go of dead processes:
/// 1, 2, 4 ms and so on, 2 s in all.
const ATTEMPTS: u32 = 11;

impl Cgroup {
    /// Removes the directories and what the container made below them. Goes
    /// on after a failure; what is gone already is no failure.
    ///
    /// # Errors
    /// A unit that can't be stopped, all directories that can't be removed, such as `EBUSY` for one with
    /// processes in it.
    pub fn remove(self) -> Result<()> {
        // systemd removes what it has made, and forgets it.
        let mut failed = match &self.unit {
            Some(unit) => Systemd::connect(unit.instance)
                .and_then(|mut systemd| systemd.stop(&unit.unit))
                .err(),
            None => None,
        };
        let whole = self.joined.iter();
        let whole = whole.map(|at| (at.member.directory(), Some(&at.directory)));
        // What of a unit systemd does not know, in hierarchies of v1.
        let of_unit = self.unit.iter().flat_map(|unit| {
            let members = self.joined.iter().map(|at| &at.member);
            members.filter_map(|member| {
                let path = member.of_unit(&unit.unit);
                (path != member.directory()).then_some((path, None))
            })
        });
        let begun = self.begun.iter().rev().map(|path| (path.clone(), None));
        for (path, directory) in whole.chain(of_unit).chain(begun) {
            if let Err(error) = remove(&path, directory) {
                let error = Error::from(error).within("remove the cgroup");
                failed = Some(match failed {
                    Some(before) => before.and(&error),
                    None => error,
                });
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Removes one directory, children first where it is open.
fn remove(path: &Path, directory: Option<&Directory>) -> sys::Result<()> {
    let mut attempt = 0;
    loop {
        let removed = nix::unistd::unlinkat(
            nix::fcntl::AT_FDCWD,
            path,
            nix::unistd::UnlinkatFlags::RemoveDir,
        );
        match removed {
            Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => return Ok(()),
            Err(Errno::EBUSY | Errno::ENOTEMPTY) if attempt < ATTEMPTS => {
                // With children the kernel answers EBUSY too.
                directory.map_or(Ok(()), remove_children)?;
                if attempt > 0 {
                    std::thread::sleep(Duration::from_millis(1 << (attempt - 1)));
                }
                attempt += 1;
            }
            Err(errno) => return Err(sys::Error::new(format!("rmdir({path:?})"), errno)),
        }
    }
}

/// Removes what is below `directory`; what is busy is left for another
/// attempt.
fn remove_children(directory: &Directory) -> sys::Result<()> {
    directory.each_below(|above, name| match above.remove_child(name) {
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) if matches!(error.errno(), Errno::EBUSY | Errno::ENOTEMPTY) => Ok(()),
        removed => removed,
    })
}
