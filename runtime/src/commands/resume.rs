//! `rrun resume`: the processes of a paused container go on.

use super::delete::{is_frozen, open_cgroup};
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
    let status = container.status(&record, || is_frozen(&record))?;
    match open_cgroup(&record)? {
        Some(cgroup) if status == Status::Paused => cgroup.thaw(),
        _ => Err(Error::new(Kind::WrongState, "container not paused")),
    }
}
