//! `rrun mounts`: mounts for a container that runs.

use nix::unistd::Pid;

use super::delete::{is_frozen, open_cgroup};
use super::update::document;
use crate::cgroup::SubCgroups;
use crate::cli::{Global, Mounts, MountsAction};
use crate::error::{Error, Kind, Result};
use crate::log::Log;
use crate::parent::hot_mounts;
use crate::plan::hot_mounts::HotMounts;
use crate::spec::{Mount, Spec};
use crate::state::{CONFIG, Root, Status};

/// Mounts or unmounts what the file says, all of it or nothing.
///
/// # Errors
/// The container doesn't run, a value is invalid or refused by the kernel.
pub fn execute(global: &Global, log: &Log, args: &Mounts) -> Result<()> {
    // Read before the lock is taken: who writes to our stdin may be slow.
    let json = document(&args.file)?;
    let file = args.file.to_string_lossy();
    let list = Mount::parse_list(&file, &json)?;
    let container = Root::open(global.root.as_deref())?.lock(&args.id)?;
    let record = container.record()?;
    let not_running = || Error::new(Kind::NotRunning, "container not running");
    let status = container.status(&record, || is_frozen(&record))?;
    match status {
        Status::Stopped | Status::Creating => return Err(not_running()),
        // Who mounts is in the container's cgroup, and would hang.
        Status::Paused => {
            let text = "cannot mount in a paused container";
            return Err(Error::new(Kind::WrongState, text));
        }
        Status::Created | Status::Running => {}
    }
    let spec = Spec::parse(&container.read(CONFIG)?)?;
    let planned = match args.action {
        MountsAction::Add => HotMounts::add(&file, &list, &spec, &record.bundle)?,
        MountsAction::Remove => HotMounts::remove(&file, &list, &spec, &record.bundle)?,
    };
    for warning in &planned.warnings {
        log.warn(warning);
    }
    let init = record.open_init()?.ok_or_else(not_running)?;
    let cgroup = open_cgroup(&record)?.ok_or_else(not_running)?;
    let pid = Pid::from_raw(record.init.map_or(0, |init| init.pid));
    let cgroup = cgroup.for_exec(&SubCgroups::None, pid)?;
    hot_mounts::perform(planned, init, &cgroup, &|| container.is_renounced())
}
