//! `rrun events`: what the container uses, again and again, and when it runs
//! out of memory; a line of JSON each.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::delete::{existing_cgroup, is_frozen, open_groups};
use super::print;
use crate::cgroup::Cgroup;
use crate::cgroup::stats::Stats;
use crate::cli::{Events, Global};
use crate::error::{Error, Kind, Result};
use crate::log::Log;
use crate::resctrl::Groups;
use crate::state::{Root, Status};
use crate::sys;
use crate::sys::handle::Handle;

/// One line (runc's types/events.go).
#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

/// Prints the statistics once (`--stats`), or in intervals until the container
/// has ended.
///
/// # Errors
/// The container doesn't run, or has no cgroup.
pub fn execute(global: &Global, log: &Log, args: &Events) -> Result<()> {
    if args.interval.is_zero() {
        let text = "duration interval must be greater than 0";
        return Err(Error::new(Kind::Usage, text));
    }
    let container = Root::open(global.root.as_deref())?.container(&args.id)?;
    let record = container.record()?;
    let id = args.id.as_str();
    if container.status(&record, || is_frozen(&record))? == Status::Stopped {
        let text = format!("container with id {id} is not running");
        return Err(Error::new(Kind::NotRunning, text));
    }
    let cgroup = existing_cgroup(&record)?;
    let groups = open_groups(&record)?;
    if args.stats {
        return line("stats", id, Some(stats(&cgroup, groups.as_ref())?));
    }
    let init = match &record.init {
        Some(init) => init.open()?,
        None => None,
    };
    stream((&cgroup, groups.as_ref()), init, log, args.interval, id)
}

/// What the container uses now.
fn stats(cgroup: &Cgroup, groups: Option<&Groups>) -> Result<Stats> {
    let mut stats = cgroup.stats()?;
    if let Some(groups) = groups {
        stats.intel_rdt = groups.stats()?;
    }
    Ok(stats)
}

/// Until the cgroup is empty, which is asked after each interval, each event
/// and the end of `init`.
fn stream(
    (cgroup, groups): (&Cgroup, Option<&Groups>),
    mut init: Option<Handle>,
    log: &Log,
    interval: Duration,
    id: &str,
) -> Result<()> {
    // Without the memory controller there is nothing to watch; statistics
    // there are nevertheless.
    let mut oom = match cgroup.watch_oom() {
        Err(error) if error.kind() == Kind::Unsupported => {
            log.warn(format!("no oom events: {error}"));
            None
        }
        watch => Some(watch?),
    };
    // One beyond the end of time never comes.
    let after = |interval| Instant::now().checked_add(interval);
    let mut next = after(interval);
    loop {
        let watched = oom.as_ref().map(|watch| watch.fd());
        if wait(init.as_ref(), watched.as_slice(), next)? {
            // Others may live on, in a shared pid namespace.
            init = None;
        }
        if let Some(watch) = &mut oom {
            for _ in 0..watch.seen()? {
                line("oom", id, None)?;
            }
        }
        if cgroup.is_empty()? {
            return Ok(());
        }
        if next.is_some_and(|next| Instant::now() >= next) {
            line("stats", id, Some(stats(cgroup, groups)?))?;
            next = after(interval);
        }
    }
}

/// Waits for one of `fds` or the end of `process`, at most until `deadline`:
/// whether it ended.
fn wait(
    process: Option<&Handle>,
    fds: &[BorrowedFd<'_>],
    deadline: Option<Instant>,
) -> Result<bool> {
    // Rounded up, so that a wait is never over before its time; a longer one
    // than poll takes is waited for in parts.
    let left = deadline
        .map(|deadline| deadline.saturating_duration_since(Instant::now()))
        .and_then(|left| u16::try_from(left.as_millis() + 1).ok())
        .unwrap_or(u16::MAX);
    match process {
        Some(process) => Ok(process.poll_end(fds, Some(left))?.0),
        None => {
            sys::process::poll_readable(fds, Some(left))?;
            Ok(false)
        }
    }
}

fn line(kind: &str, id: &str, data: Option<Stats>) -> Result<()> {
    let text = serde_json::to_string(&Event { kind, id, data })
        .map_err(|error| Error::new(Kind::System, format!("print as JSON: {error}")))?;
    print(&format!("{text}\n"))
}
