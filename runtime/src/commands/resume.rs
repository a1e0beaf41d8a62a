//! `rrun resume`: the processes of a paused container go on.

use super::status;
use crate::cgroup::Cgroup;
use crate::cli::{Global, Resume};
use crate::error::{Error, Kind, Result};
use crate::state::{Root, Status};

/// Thaws the container's cgroup.
///
/// # Errors
/// The container is not paused.
pub fn execute(global: &Global, args: &Resume) -> Result<()> {
    let container = Root::open(global.root.as_deref())?.lock(&args.id)?;
    let record = container.record()?;
    match (status(&container, &record)?, &record.cgroup) {
        (Status::Paused, Some(cgroup)) => Cgroup::open(cgroup)?.thaw(),
        _ => Err(Error::new(Kind::WrongState, "container not paused")),
    }
}
