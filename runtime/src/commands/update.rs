//! `rrun update`: other limits for a container that runs.

use std::io::Read;
use std::path::Path;

use super::delete::{existing_cgroup, is_frozen};
use crate::cgroup::NewRules;
use crate::cgroup::hierarchy::Hierarchies;
use crate::cli::{Global, Update};
use crate::error::{Error, Kind, Result};
use crate::log::Log;
use crate::plan::cgroup::{devices, limits};
use crate::spec::{BlockIo, Cpu, Linux, Memory, Pids, Resources, Spec};
use crate::state::{CONFIG, Locked, Record, Root, Status, Updated};
use crate::sys;

/// Writes the limits that are given; the others stay as they are.
///
/// # Errors
/// The container doesn't run, a value is invalid or refused by the kernel.
pub fn execute(global: &Global, log: &Log, args: &Update) -> Result<()> {
    // Read before the lock is taken: who writes to our stdin may be slow.
    let resources = match &args.resources {
        Some(path) => Resources::parse(&document(path)?)?,
        None => from_flags(args)?,
    };
    let container = Root::open(global.root.as_deref())?.lock(&args.id)?;
    let mut record = container.record()?;
    if container.status(&record, || is_frozen(&record))? == Status::Stopped {
        return Err(Error::new(Kind::NotRunning, "container not running"));
    }
    let cgroup = existing_cgroup(&record)?;
    let mut resources = cgroup.complete(resources);
    let mut before = Before::new(&container, &record.updated);
    check_as_before(&mut resources, &mut before)?;
    let limits = limits(&resources, &Hierarchies::read()?)?;
    for warning in limits.ignored {
        log.warn(warning);
    }
    let rules = new_device_rules(&mut before, &resources)?;
    let rules = rules.as_ref().map(|[old, new]| NewRules { old, new });
    cgroup.update(&limits.writes, rules)?;
    remember(&container, &mut record, resources, rules.is_some())
}

/// The file at `path`, or stdin for `-`.
pub(super) fn document(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(path).map(|content| bytes = content)
    };
    sys::call(read, || format!("read({path:?})"))?;
    Ok(bytes)
}

/// The options that are given, as a document.
fn from_flags(args: &Update) -> Result<Resources> {
    let not_enabled = |what: &str| Err(Error::new(Kind::Unsupported, what));
    if args.l3_cache_schema.is_some() {
        return not_enabled("Intel RDT/CAT: l3 cache schema is not enabled");
    }
    if args.mem_bw_schema.is_some() {
        return not_enabled("Intel RDT/MBA: memory bandwidth schema is not enabled");
    }
    Ok(Resources {
        memory: Some(Memory {
            limit: args.memory,
            reservation: args.memory_reservation,
            swap: args.memory_swap,
            ..Memory::default()
        }),
        cpu: Some(Cpu {
            shares: args.cpu_share,
            quota: args.cpu_quota,
            burst: args.cpu_burst,
            period: args.cpu_period,
            realtime_runtime: args.cpu_rt_runtime,
            realtime_period: args.cpu_rt_period,
            cpus: args.cpuset_cpus.clone(),
            mems: args.cpuset_mems.clone(),
            idle: args.cpu_idle,
        }),
        pids: Some(Pids {
            limit: args.pids_limit,
        }),
        block_io: Some(BlockIo {
            weight: args.blkio_weight,
            ..BlockIo::default()
        }),
        ..Resources::default()
    })
}

/// What is in force and can't be asked from the kernel: what the last update
/// said, and what it didn't, config.json, which is read when it is asked for.
struct Before<'a> {
    container: &'a Locked,
    updated: &'a Updated,
    linux: Option<Linux>,
}

impl<'a> Before<'a> {
    fn new(container: &'a Locked, updated: &'a Updated) -> Self {
        Self {
            container,
            updated,
            linux: None,
        }
    }

    fn linux(&mut self) -> Result<&Linux> {
        if self.linux.is_none() {
            let config = Spec::parse(&self.container.read(CONFIG)?)?;
            let mut linux = config.linux.unwrap_or_default();
            let resources = linux.resources.get_or_insert_default();
            if let Some(devices) = &self.updated.devices {
                resources.devices.clone_from(devices);
            }
            if let Some(check) = self.updated.check_before_update {
                let memory = resources.memory.get_or_insert_default();
                memory.check_before_update = Some(check);
            }
            self.linux = Some(linux);
        }
        Ok(self.linux.get_or_insert_default())
    }

    fn resources(&mut self) -> Result<Resources> {
        Ok(self.linux()?.resources.clone().unwrap_or_default())
    }
}

/// A document that says nothing of `checkBeforeUpdate` leaves it as it is.
fn check_as_before(resources: &mut Resources, before: &mut Before<'_>) -> Result<()> {
    if let Some(memory) = &mut resources.memory
        && memory.check_before_update.is_none()
        && (memory.limit.is_some() || memory.swap.is_some())
    {
        let memory_before = before.resources()?.memory;
        memory.check_before_update = memory_before.and_then(|memory| memory.check_before_update);
    }
    Ok(())
}

/// The device rules that are in force, and others to replace them. The same
/// ones are left alone: engines send them with every update, and others (for
/// GPUs, say) may have added to them since.
fn new_device_rules(
    before: &mut Before<'_>,
    resources: &Resources,
) -> Result<Option<[Vec<devices::Rule>; 2]>> {
    if resources.devices.is_empty() {
        return Ok(None);
    }
    let old = before.resources()?;
    if old.devices == resources.devices {
        return Ok(None);
    }
    let linux = before.linux()?;
    let rules = |resources: Resources| {
        devices::rules(&Linux {
            resources: Some(resources),
            ..linux.clone()
        })
    };
    Ok(Some([rules(old)?, rules(resources.clone())?]))
}

/// Writes down what the next update goes by.
fn remember(
    container: &Locked,
    record: &mut Record,
    resources: Resources,
    new_devices: bool,
) -> Result<()> {
    let check = resources
        .memory
        .and_then(|memory| memory.check_before_update);
    let updated = Updated {
        devices: match new_devices {
            true => Some(resources.devices),
            false => record.updated.devices.clone(),
        },
        check_before_update: check.or(record.updated.check_before_update),
    };
    if record.updated == updated {
        return Ok(());
    }
    record.updated = updated;
    container.save(record)
}
