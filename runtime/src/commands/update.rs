//! `rrun update`: other limits for a container that runs.

use std::io::Read;
use std::path::Path;

use super::delete::{existing_cgroup, is_frozen, open_groups};
use crate::cgroup::hierarchy::Hierarchies;
use crate::cgroup::{Cgroup, NewRules};
use crate::cli::{Global, Update};
use crate::error::{Error, Kind, Result};
use crate::log::Log;
use crate::plan::cgroup::{devices, limits, read_zero_pids};
use crate::plan::intel_rdt::{IntelRdt, Schemas};
use crate::resctrl::{self, Groups};
use crate::spec::{BlockIo, Cpu, Linux, Memory, Pids, Resources, Spec};
use crate::state::{CONFIG, Locked, Record, Root, Status, Updated};
use crate::sys;

/// Writes the limits that are given; the others stay as they are.
///
/// # Errors
/// The container doesn't run, a value is invalid or refused by the kernel.
pub fn execute(global: &Global, log: &Log, args: &Update) -> Result<()> {
    let shares = Shares::of(args)?;
    // Read before the lock is taken: who writes to our stdin may be slow.
    let resources = match &args.resources {
        Some(path) => Resources::parse(&document(path)?)?,
        None => from_flags(args),
    };
    let container = Root::open(global.root.as_deref())?.lock(&args.id)?;
    let mut record = container.record()?;
    if container.status(&record, || is_frozen(&record))? == Status::Stopped {
        return Err(Error::new(Kind::NotRunning, "container not running"));
    }
    let cgroup = existing_cgroup(&record)?;
    let given = match shares {
        Some(shares) => Some(shares.give(&container, &mut record, &cgroup)?),
        None => None,
    };
    let updated = update_cgroup(log, &container, &mut record, &cgroup, resources);
    match (updated, given) {
        (Err(error), Some(given)) => Err(given.take_back(&container, &mut record, error)),
        (updated, _) => updated,
    }
}

/// Writes the limits of the cgroup, all or none.
fn update_cgroup(
    log: &Log,
    container: &Locked,
    record: &mut Record,
    cgroup: &Cgroup,
    resources: Resources,
) -> Result<()> {
    let mut resources = cgroup.complete(resources)?;
    let mut before = Before::new(container, &record.updated);
    check_as_before(&mut resources, &mut before)?;
    zero_pids_as_before(&mut resources, &mut before)?;
    let limits = limits(&resources, &Hierarchies::read()?)?;
    for warning in limits.ignored {
        log.warn(warning);
    }
    let rules = new_device_rules(&mut before, &resources)?;
    let rules = rules.as_ref().map(|[old, new]| NewRules { old, new });
    cgroup.update(&limits.writes, rules)?;
    remember(container, record, resources, rules.is_some())
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
fn from_flags(args: &Update) -> Resources {
    Resources {
        memory: Some(Memory {
            limit: args.memory,
            reservation: args.memory_reservation,
            swap: args.memory_swap,
            kernel: args.kernel_memory,
            kernel_tcp: args.kernel_memory_tcp,
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
            // As with runc, whatever the version of config.json.
            limit: args.pids_limit.filter(|limit| *limit != 0),
        }),
        block_io: Some(BlockIo {
            weight: args.blkio_weight,
            ..BlockIo::default()
        }),
        ..Resources::default()
    }
}

/// Shares of caches and memory bandwidth that are given.
#[derive(Debug)]
struct Shares {
    schemas: Schemas,
    facts: resctrl::Facts,
}

/// Shares that were given, until all else is done too.
#[derive(Debug)]
enum Given {
    /// The container's class had these before.
    Changed { groups: Groups, before: String },
    /// The container had no class.
    New(Groups),
}

impl Shares {
    /// Those of the command line, also beside `--resources`, as with runc.
    fn of(args: &Update) -> Result<Option<Self>> {
        let schemas = Schemas {
            l3_cache: args.l3_cache_schema.clone(),
            mem_bw: args.mem_bw_schema.clone(),
        };
        if schemas.is_empty() {
            return Ok(None);
        }
        let facts = resctrl::facts()?.unwrap_or_default();
        schemas.writes(&facts)?;
        Ok(Some(Self { schemas, facts }))
    }

    /// Writes them to the container's class; one that has none gets one, with all
    /// of its processes.
    fn give(self, container: &Locked, record: &mut Record, cgroup: &Cgroup) -> Result<Given> {
        if let Some(groups) = open_groups(record)? {
            let before = groups.update(&self.schemas.writes(&self.facts)?)?;
            return Ok(Given::Changed { groups, before });
        }
        let plan = IntelRdt::later(&self.schemas, record.id.as_str(), &self.facts)?;
        let mut groups = Groups::look(&plan)?;
        record.intel_rdt = Some(groups.record());
        container.save(record)?;
        let made = groups.make(&plan);
        if made.is_ok() {
            // Whoever fails from here on takes it away with tasks in it.
            groups.settle(&plan);
        }
        let joined = made.and_then(|()| {
            record.intel_rdt = Some(groups.record());
            container.save(record)?;
            groups.join_all(|| cgroup.pids())
        });
        let given = Given::New(groups);
        match joined {
            Ok(()) => Ok(given),
            Err(error) => Err(given.take_back(container, record, error)),
        }
    }
}

impl Given {
    /// Makes all as it was because of `error`, and returns it with what went wrong
    /// on the way.
    fn take_back(self, container: &Locked, record: &mut Record, error: Error) -> Error {
        let undone = match self {
            Given::Changed { groups, before } => groups.restore(&before),
            Given::New(groups) => groups.remove().and_then(|()| {
                record.intel_rdt = None;
                container.save(record)
            }),
        };
        match undone {
            Ok(()) => error,
            Err(failed) => error.and(&failed.within("clean up")),
        }
    }
}

/// What is in force and can't be asked from the kernel: what the last update
/// said, and what it didn't, config.json, which is read when it is asked for.
struct Before<'a> {
    container: &'a Locked,
    updated: &'a Updated,
    config: Option<Config>,
}

/// What is needed of config.json, with what the last update changed of it.
#[derive(Default)]
struct Config {
    oci_version: String,
    linux: Linux,
}

impl<'a> Before<'a> {
    fn new(container: &'a Locked, updated: &'a Updated) -> Self {
        Self {
            container,
            updated,
            config: None,
        }
    }

    fn config(&mut self) -> Result<&Config> {
        if self.config.is_none() {
            let spec = Spec::parse(&self.container.read(CONFIG)?)?;
            let mut linux = spec.linux.unwrap_or_default();
            let resources = linux.resources.get_or_insert_default();
            if let Some(devices) = &self.updated.devices {
                resources.devices.clone_from(devices);
            }
            if let Some(check) = self.updated.check_before_update {
                let memory = resources.memory.get_or_insert_default();
                memory.check_before_update = Some(check);
            }
            self.config = Some(Config {
                oci_version: spec.oci_version,
                linux,
            });
        }
        Ok(self.config.get_or_insert_default())
    }

    fn resources(&mut self) -> Result<Resources> {
        let linux = &self.config()?.linux;
        Ok(linux.resources.clone().unwrap_or_default())
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

/// A document has no version: it goes by that of config.json.
fn zero_pids_as_before(resources: &mut Resources, before: &mut Before<'_>) -> Result<()> {
    if resources.pids.as_ref().and_then(|pids| pids.limit) == Some(0) {
        read_zero_pids(resources, &before.config()?.oci_version);
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
    let linux = &before.config()?.linux;
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
