//! v1: many hierarchies, one message.

use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl,
    MemoryStat, Metrics, PidsStat, RdmaEntry, RdmaStat, Throttle,
};
use containerd_shim_protos::protobuf::MessageField;
use rrun::cgroup::stats::huge_page_sizes;

use super::Cgroups;
use super::files::{self, Files};

/// Reads all controllers. CPU and memory are always there, if only as zeros:
/// clients look into them unasked.
pub(super) fn read(files: &mut Files, cgroups: &Cgroups) -> Metrics {
    let mut metrics = Metrics::new();
    let mut cpu = CPUStat::new();
    files.enter(cgroups.controller("cpuacct"));
    cpu.usage = MessageField::some(cpu_usage(files));
    files.enter(cgroups.controller("cpu"));
    cpu.throttling = MessageField::some(throttling(files));
    metrics.cpu = MessageField::some(cpu);
    files.enter(cgroups.controller("memory"));
    metrics.memory = MessageField::some(memory(files));
    metrics.memory_oom_control = oom_control(files).into();
    files.enter(cgroups.controller("pids"));
    metrics.pids = pids(files).into();
    files.enter(cgroups.controller("blkio"));
    metrics.blkio = MessageField::some(blkio(files));
    files.enter(cgroups.controller("hugetlb"));
    metrics.hugetlb = hugetlb(files);
    files.enter(cgroups.controller("rdma"));
    metrics.rdma = rdma(files).into();
    metrics
}

fn cpu_usage(files: &mut Files) -> CPUUsage {
    /// cpuacct.stat counts in USER_HZ, which is 100 on every architecture that
    /// we run on.
    const TICK: u64 = 1_000_000_000 / 100;
    let mut usage = CPUUsage::new();
    usage.total = files.number("cpuacct.usage").unwrap_or(0);
    files.table("cpuacct.stat", |key, ticks| match key {
        "user" => usage.user = ticks * TICK,
        "system" => usage.kernel = ticks * TICK,
        _ => {}
    });
    let per_cpu = files.text("cpuacct.usage_percpu").unwrap_or_default();
    usage.per_cpu = per_cpu.split_whitespace().map(files::number).collect();
    usage
}

fn throttling(files: &mut Files) -> Throttle {
    let mut throttle = Throttle::new();
    files.table("cpu.stat", |key, value| match key {
        "nr_periods" => throttle.periods = value,
        "nr_throttled" => throttle.throttled_periods = value,
        "throttled_time" => throttle.throttled_time = value,
        _ => {}
    });
    throttle
}

fn memory(files: &mut Files) -> MemoryStat {
    let mut memory = MemoryStat::new();
    files.table("memory.stat", |key, value| {
        if let Some(field) = memory_field(&mut memory, key) {
            *field = value;
        }
    });
    memory.usage = memory_entry(files, "").into();
    memory.swap = memory_entry(files, "memsw.").into();
    memory.kernel = memory_entry(files, "kmem.").into();
    memory.kernel_tcp = memory_entry(files, "kmem.tcp.").into();
    memory
}

/// The field of a key of memory.stat.
fn memory_field<'a>(memory: &'a mut MemoryStat, key: &str) -> Option<&'a mut u64> {
    Some(match key {
        "cache" => &mut memory.cache,
        "rss" => &mut memory.rss,
        "rss_huge" => &mut memory.rss_huge,
        "mapped_file" => &mut memory.mapped_file,
        "dirty" => &mut memory.dirty,
        "writeback" => &mut memory.writeback,
        "pgpgin" => &mut memory.pg_pg_in,
        "pgpgout" => &mut memory.pg_pg_out,
        "pgfault" => &mut memory.pg_fault,
        "pgmajfault" => &mut memory.pg_maj_fault,
        "inactive_anon" => &mut memory.inactive_anon,
        "active_anon" => &mut memory.active_anon,
        "inactive_file" => &mut memory.inactive_file,
        "active_file" => &mut memory.active_file,
        "unevictable" => &mut memory.unevictable,
        "hierarchical_memory_limit" => &mut memory.hierarchical_memory_limit,
        "hierarchical_memsw_limit" => &mut memory.hierarchical_swap_limit,
        "total_cache" => &mut memory.total_cache,
        "total_rss" => &mut memory.total_rss,
        "total_rss_huge" => &mut memory.total_rss_huge,
        "total_mapped_file" => &mut memory.total_mapped_file,
        "total_dirty" => &mut memory.total_dirty,
        "total_writeback" => &mut memory.total_writeback,
        "total_pgpgin" => &mut memory.total_pg_pg_in,
        "total_pgpgout" => &mut memory.total_pg_pg_out,
        "total_pgfault" => &mut memory.total_pg_fault,
        "total_pgmajfault" => &mut memory.total_pg_maj_fault,
        "total_inactive_anon" => &mut memory.total_inactive_anon,
        "total_active_anon" => &mut memory.total_active_anon,
        "total_inactive_file" => &mut memory.total_inactive_file,
        "total_active_file" => &mut memory.total_active_file,
        "total_unevictable" => &mut memory.total_unevictable,
        _ => return None,
    })
}

/// One counter with its limit; nothing where the kernel lacks it (swap may be
/// switched off, kernel memory is no more).
fn memory_entry(files: &mut Files, name: &str) -> Option<MemoryEntry> {
    let mut number = |what: &str| files.number(&format!("memory.{name}{what}"));
    let mut entry = MemoryEntry::new();
    entry.usage = number("usage_in_bytes")?;
    entry.limit = number("limit_in_bytes").unwrap_or(0);
    entry.max = number("max_usage_in_bytes").unwrap_or(0);
    entry.failcnt = number("failcnt").unwrap_or(0);
    Some(entry)
}

fn oom_control(files: &mut Files) -> Option<MemoryOomControl> {
    let mut control = MemoryOomControl::new();
    files.text("memory.oom_control")?;
    files.table("memory.oom_control", |key, value| match key {
        "oom_kill_disable" => control.oom_kill_disable = value,
        "under_oom" => control.under_oom = value,
        "oom_kill" => control.oom_kill = value,
        _ => {}
    });
    Some(control)
}

fn pids(files: &mut Files) -> Option<PidsStat> {
    let mut pids = PidsStat::new();
    pids.current = files.number("pids.current")?;
    // Any number is told as zero.
    let limit = files.number("pids.max").unwrap_or(u64::MAX);
    pids.limit = if limit == u64::MAX { 0 } else { limit };
    Some(pids)
}

/// v1 counts at several places, depending on the I/O scheduler: the first that
/// has counted something speaks.
fn blkio(files: &mut Files) -> BlkIOStat {
    const PLACES: [(&str, &str); 4] = [
        ("blkio.bfq.", "_recursive"),
        ("blkio.", "_recursive"),
        ("blkio.throttle.", "_recursive"),
        ("blkio.throttle.", ""),
    ];
    let mut stat = BlkIOStat::new();
    for (prefix, suffix) in PLACES {
        let mut entries = |name: &str| {
            let text = files.text(&format!("{prefix}{name}{suffix}"));
            text.unwrap_or_default()
                .lines()
                .filter_map(blkio_entry)
                .collect::<Vec<_>>()
        };
        stat.io_serviced_recursive = entries("io_serviced");
        if stat.io_serviced_recursive.is_empty() {
            continue;
        }
        stat.io_service_bytes_recursive = entries("io_service_bytes");
        stat.io_queued_recursive = entries("io_queued");
        stat.io_service_time_recursive = entries("io_service_time");
        stat.io_wait_time_recursive = entries("io_wait_time");
        stat.io_merged_recursive = entries("io_merged");
        stat.io_time_recursive = entries("time");
        stat.sectors_recursive = entries("sectors");
        break;
    }
    stat
}

/// A line of `8:0 Read 4096` or, of a time or a number of sectors, `8:0 4096`.
/// The line of a total over all devices is none.
fn blkio_entry(line: &str) -> Option<BlkIOEntry> {
    let (major, minor, rest) = files::device(line)?;
    let (op, value) = rest.split_once(' ').unwrap_or(("", rest));
    let mut entry = BlkIOEntry::new();
    entry.major = major;
    entry.minor = minor;
    entry.device = device_name(major, minor);
    op.clone_into(&mut entry.op);
    entry.value = files::number(value);
    Some(entry)
}

/// The name of a block device: `/dev/sda`; empty if nobody knows.
fn device_name(major: u64, minor: u64) -> String {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    let name = link.ok().and_then(|link| {
        let name = link.file_name()?.to_str()?;
        Some(format!("/dev/{name}"))
    });
    name.unwrap_or_default()
}

fn hugetlb(files: &mut Files) -> Vec<HugetlbStat> {
    let mut of = |size: String| {
        let mut number = |what: &str| files.number(&format!("hugetlb.{size}.{what}"));
        let mut stat = HugetlbStat::new();
        stat.usage = number("usage_in_bytes")?;
        stat.max = number("max_usage_in_bytes").unwrap_or(0);
        stat.failcnt = number("failcnt").unwrap_or(0);
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
