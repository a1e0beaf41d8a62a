//! v2: one directory.

use std::path::Path;

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats,
    PidsStat, RdmaEntry, RdmaStat,
};
use containerd_shim_protos::protobuf::MessageField;
use rrun::cgroup::stats::huge_page_sizes;

use super::files::{self, Files};

/// Reads all controllers. CPU and memory are always there, if only as zeros:
/// clients look into them unasked.
pub(super) fn read(files: &mut Files, directory: &Path) -> Metrics {
    files.enter(Some(directory));
    let mut metrics = Metrics::new();
    metrics.pids = pids(files).into();
    metrics.cpu = MessageField::some(cpu(files));
    metrics.memory = MessageField::some(memory(files));
    metrics.memory_events = MessageField::some(memory_events(files));
    metrics.io = MessageField::some(io(files));
    metrics.rdma = rdma(files).into();
    metrics.hugetlb = hugetlb(files);
    metrics
}

fn pids(files: &mut Files) -> Option<PidsStat> {
    let mut pids = PidsStat::new();
    pids.current = files.number("pids.current")?;
    pids.limit = files.number("pids.max").unwrap_or(0);
    Some(pids)
}

fn cpu(files: &mut Files) -> CPUStat {
    let mut cpu = CPUStat::new();
    files.table("cpu.stat", |key, value| match key {
        "usage_usec" => cpu.usage_usec = value,
        "user_usec" => cpu.user_usec = value,
        "system_usec" => cpu.system_usec = value,
        "nr_periods" => cpu.nr_periods = value,
        "nr_throttled" => cpu.nr_throttled = value,
        "throttled_usec" => cpu.throttled_usec = value,
        "nr_bursts" => cpu.nr_bursts = value,
        "burst_usec" => cpu.burst_usec = value,
        _ => {}
    });
    cpu.psi = pressure(files, "cpu.pressure").into();
    cpu
}

fn memory(files: &mut Files) -> MemoryStat {
    let mut memory = MemoryStat::new();
    files.table("memory.stat", |key, value| match key {
        // Two counters since Linux 5.9.
        "workingset_refault_anon" | "workingset_refault_file" => {
            memory.workingset_refault += value;
        }
        "workingset_activate_anon" | "workingset_activate_file" => {
            memory.workingset_activate += value;
        }
        _ => {
            if let Some(field) = memory_field(&mut memory, key) {
                *field = value;
            }
        }
    });
    let mut number = |name: &str| files.number(name).unwrap_or(0);
    memory.usage = number("memory.current");
    memory.usage_limit = number("memory.max");
    memory.max_usage = number("memory.peak");
    memory.swap_usage = number("memory.swap.current");
    memory.swap_limit = number("memory.swap.max");
    memory.swap_max_usage = number("memory.swap.peak");
    memory.psi = pressure(files, "memory.pressure").into();
    memory
}

/// The field of a key of memory.stat.
fn memory_field<'a>(memory: &'a mut MemoryStat, key: &str) -> Option<&'a mut u64> {
    Some(match key {
        "anon" => &mut memory.anon,
        "file" => &mut memory.file,
        "kernel_stack" => &mut memory.kernel_stack,
        "slab" => &mut memory.slab,
        "sock" => &mut memory.sock,
        "shmem" => &mut memory.shmem,
        "file_mapped" => &mut memory.file_mapped,
        "file_dirty" => &mut memory.file_dirty,
        "file_writeback" => &mut memory.file_writeback,
        "anon_thp" => &mut memory.anon_thp,
        "inactive_anon" => &mut memory.inactive_anon,
        "active_anon" => &mut memory.active_anon,
        "inactive_file" => &mut memory.inactive_file,
        "active_file" => &mut memory.active_file,
        "unevictable" => &mut memory.unevictable,
        "slab_reclaimable" => &mut memory.slab_reclaimable,
        "slab_unreclaimable" => &mut memory.slab_unreclaimable,
        "pgfault" => &mut memory.pgfault,
        "pgmajfault" => &mut memory.pgmajfault,
        "workingset_refault" => &mut memory.workingset_refault,
        "workingset_activate" => &mut memory.workingset_activate,
        "workingset_nodereclaim" => &mut memory.workingset_nodereclaim,
        "pgrefill" => &mut memory.pgrefill,
        "pgscan" => &mut memory.pgscan,
        "pgsteal" => &mut memory.pgsteal,
        "pgactivate" => &mut memory.pgactivate,
        "pgdeactivate" => &mut memory.pgdeactivate,
        "pglazyfree" => &mut memory.pglazyfree,
        "pglazyfreed" => &mut memory.pglazyfreed,
        "thp_fault_alloc" => &mut memory.thp_fault_alloc,
        "thp_collapse_alloc" => &mut memory.thp_collapse_alloc,
        _ => return None,
    })
}

fn memory_events(files: &mut Files) -> MemoryEvents {
    let mut events = MemoryEvents::new();
    files.table("memory.events", |key, value| match key {
        "low" => events.low = value,
        "high" => events.high = value,
        "max" => events.max = value,
        "oom" => events.oom = value,
        "oom_kill" => events.oom_kill = value,
        "oom_group_kill" => events.oom_group_kill = value,
        _ => {}
    });
    events
}

fn io(files: &mut Files) -> IOStat {
    let mut io = IOStat::new();
    let lines = files.text("io.stat").unwrap_or_default().lines();
    io.usage = lines.filter_map(io_entry).collect();
    io.psi = pressure(files, "io.pressure").into();
    io
}

/// A line of `8:0 rbytes=4096 wbytes=0 rios=1 wios=0`. A device that has
/// counted nothing yet may be a line without numbers.
fn io_entry(line: &str) -> Option<IOEntry> {
    let (major, minor, counters) = files::device(line)?;
    let mut entry = IOEntry::new();
    entry.major = major;
    entry.minor = minor;
    for (key, value) in counters.split(' ').filter_map(|pair| pair.split_once('=')) {
        match key {
            "rbytes" => entry.rbytes = files::number(value),
            "wbytes" => entry.wbytes = files::number(value),
            "rios" => entry.rios = files::number(value),
            "wios" => entry.wios = files::number(value),
            _ => {}
        }
    }
    Some(entry)
}

/// Lines of `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`. Nothing where
/// pressure is switched off.
fn pressure(files: &mut Files, name: &str) -> Option<PSIStats> {
    let mut stats = PSIStats::new();
    for line in files.text(name)?.lines() {
        let Some((kind, values)) = line.split_once(' ') else {
            continue;
        };
        let mut data = PSIData::new();
        for (key, value) in values.split(' ').filter_map(|pair| pair.split_once('=')) {
            match key {
                "avg10" => data.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => data.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => data.avg300 = value.parse().unwrap_or(0.0),
                "total" => data.total = files::number(value),
                _ => {}
            }
        }
        match kind {
            "some" => stats.some = MessageField::some(data),
            "full" => stats.full = MessageField::some(data),
            _ => {}
        }
    }
    Some(stats)
}

fn hugetlb(files: &mut Files) -> Vec<HugeTlbStat> {
    let mut of = |size: String| {
        let mut stat = HugeTlbStat::new();
        stat.current = files.number(&format!("hugetlb.{size}.current"))?;
        stat.max = files.number(&format!("hugetlb.{size}.max")).unwrap_or(0);
        files.table(&format!("hugetlb.{size}.events"), |key, value| {
            if key == "max" {
                stat.failcnt = value;
            }
        });
        stat.pagesize = size;
        Some(stat)
    };
    huge_page_sizes().into_iter().filter_map(&mut of).collect()
}

fn rdma(files: &mut Files) -> Option<RdmaStat> {
    let mut entries = |name: &str| {
        let lines = files.text(name)?.lines().filter_map(files::rdma);
        let entries = lines.map(|(device, handles, objects)| {
            let mut entry = RdmaEntry::new();
            device.clone_into(&mut entry.device);
            entry.hca_handles = handles;
            entry.hca_objects = objects;
            entry
        });
        Some(entries.collect())
    };
    let mut stat = RdmaStat::new();
    stat.current = entries("rdma.current")?;
    stat.limit = entries("rdma.max").unwrap_or_default();
    Some(stat)
}
