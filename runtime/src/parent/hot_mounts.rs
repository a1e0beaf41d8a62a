//! Mounts for a container that runs.
//!
//! ```text
//! parent                                   child
//! opens the sources as detached trees
//! fork ──────────────────────────────────> enters the container's namespaces
//!                                          attaches, or unmounts
//!      <── the error's text, end of file ── exits
//! ```
//!
//! The child is born in our pid namespace, so nobody in the container can see
//! it unless they share that.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::OFlags;

use super::sources;
use crate::child::hot_mounts::{self, Work};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::hot_mounts::HotMounts;
use crate::plan::mounts::What;
use crate::sys::handle::Handle;
use crate::sys::process::{self, Ended, Forked};
use crate::sys::{self, descriptors, file};

/// Does what `planned` says in the container of `init`.
///
/// # Errors
/// A source that can't be opened, whatever the child met; then nothing is
/// left of what was mounted.
pub fn perform(planned: HotMounts, init: Handle) -> Result<()> {
    let mut add = Vec::new();
    for mount in planned.add {
        let tree = match mount.what {
            What::Bind { .. } => Some(sources::open_private(&mount).context(|| mount.phrase())?),
            _ => None,
        };
        add.push((mount, tree));
    }
    let work = Work {
        add,
        remove: planned.remove,
        namespaces: planned.namespaces,
        user_namespace: planned.user_namespace,
        procfs: file::open(Path::new("/proc"), OFlags::PATH | OFlags::DIRECTORY)?,
        init,
    };
    let (answer, theirs) = descriptors::pipe()?;
    let Forked::Parent(_, child) = process::fork(&process::Clone::default())? else {
        drop(answer);
        let code = match hot_mounts::perform(&work) {
            Ok(()) => 0,
            Err(error) => {
                let _ = descriptors::write_all(theirs.as_fd(), error.to_string().as_bytes());
                1
            }
        };
        process::exit_now(code);
    };
    drop(theirs);
    let mut text = String::new();
    let read = File::from(answer).read_to_string(&mut text).map(drop);
    let ended = child.wait()?;
    sys::call(read, || "read(pipe)".to_owned())?;
    match ended {
        Ended::Exited(0) => Ok(()),
        Ended::Exited(_) if !text.is_empty() => Err(Error::new(Kind::System, text)),
        ended => {
            let text = format!("the process that mounts ended by {ended}");
            Err(Error::new(Kind::System, text))
        }
    }
}
