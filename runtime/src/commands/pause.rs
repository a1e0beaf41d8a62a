//! `rrun pause`: every process of the container stops.

use super::delete::{is_frozen, open_cgroup};
use crate::cli::{Global, Pause};
use crate::error::{Error, Kind, Result};
use crate::state::{Root, Status};

/// Freezes the container's cgroup.
///
/// # Errors
/// The container doesn't run, has no cgroup, or can't be frozen.
pub fn execute(global: &Global, args: &Pause) -> Result<()> {
    let container = Root::open(global.root.as_deref())?.lock(&args.id)?;
    let record = container.record()?;
    if !matches!(
        container.status(&record, || is_frozen(&record))?,
        Status::Created | Status::Running
    ) {
        return Err(Error::new(Kind::NotRunning, "container not running"));
    }
    match open_cgroup(&record)? {
        Some(cgroup) => cgroup.freeze(),
        None => Err(Error::new(Kind::Unsupported, "cgroup not exist")),
    }
}
