//! `rrun update`: other limits for a container that runs.

use std::io::Read;
use std::path::Path;

use super::delete::{is_frozen, open_cgroup};
use crate::cgroup::hierarchy::Hierarchies;
use crate::cli::{Global, Update};
use crate::error::{Error, Kind, Result};
use crate::log::Log;
use crate::plan::cgroup::{devices, limits};
use crate::spec::{BlockIo, Cpu, Linux, Memory, Pids, Resources, Spec};
use crate::state::{CONFIG, Container, Root, Status};
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
    let record = container.record()?;
    if container.status(&record, || is_frozen(&record))? == Status::Stopped {
        return Err(Error::new(Kind::NotRunning, "container not running"));
    }
    let Some(cgroup) = open_cgroup(&record)? else {
        return Err(Error::new(Kind::Unsupported, "cgroup not exist"));
    };
    let resources = cgroup.complete(resources);
    let limits = limits(&resources, &Hierarchies::read()?)?;
    for warning in limits.ignored {
        log.warn(warning);
    }
    let rules = new_device_rules(&container, &resources)?;
    cgroup.update_unit(&limits.writes, rules.as_deref())?;
    cgroup.update(&limits.writes)?;
    match rules {
        Some(rules) => cgroup.apply_devices(&rules),
        None => Ok(()),
    }
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

/// Device rules that are not those of config.json. The same ones are left
/// alone: engines send them with every update, and others (for GPUs, say) may
/// have added to them since.
fn new_device_rules(
    container: &Container,
    resources: &Resources,
) -> Result<Option<Vec<devices::Rule>>> {
    if resources.devices.is_empty() {
        return Ok(None);
    }
    let config = Spec::parse(&container.read(CONFIG)?)?;
    let linux = config.linux.unwrap_or_default();
    let before = linux.resources.as_ref().map(|resources| &resources.devices);
    if before == Some(&resources.devices) {
        return Ok(None);
    }
    devices::rules(&Linux {
        resources: Some(resources.clone()),
        ..linux
    })
    .map(Some)
}
