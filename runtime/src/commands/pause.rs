//! `rrun pause`: every process of the container stops.

use super::delete::{existing_cgroup, is_frozen};
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
    existing_cgroup(&record)?.freeze()
}
