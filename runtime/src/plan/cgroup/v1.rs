//! Limits in the words of cgroup v1, one hierarchy a controller
//! (Documentation/admin-guide/cgroup-v1 of the kernel).

use super::{Limits, Write, invalid};
use crate::error::Result;
use crate::spec::{BlockIo, Cpu, HugepageLimit, Memory, Network, Resources, ThrottleDevice};

/// The writes that `resources` asks for, all but the devices.
///
/// Zero is "not given" for everything but `pids.limit`, as Go's encoders leave
/// nothing out: runc reads it the same way. That of an older document, where it
/// is none either, [`super::read_zero_pids`] has taken out.
///
/// # Errors
/// A value that the kernel would cut to size instead of refusing it.
pub fn limits(resources: &Resources) -> Result<Limits> {
    let mut limits = Limits::default();
    if !resources.unified.is_empty() {
        return Err(invalid(
            "linux.resources.unified",
            "invalid configuration: cannot use unified on cgroup v1",
        ));
    }
    if let Some(cpu) = &resources.cpu {
        // Before anybody joins: a cpuset without CPUs takes no tasks.
        cpuset(cpu, &mut limits);
    }
    if let Some(value) = &resources.memory {
        memory(value, &mut limits)?;
    }
    if let Some(value) = &resources.cpu {
        cpu(value, &mut limits)?;
    }
    pids(resources, &mut limits);
    if let Some(value) = &resources.block_io {
        block_io(value, &mut limits);
    }
    hugetlb(&resources.hugepage_limits, "limit_in_bytes", &mut limits)?;
    if let Some(value) = &resources.network {
        network(value, &mut limits);
    }
    rdma(resources, &mut limits);
    Ok(limits)
}

/// CPUs and memory nodes: the same files in both versions.
pub(super) fn cpuset(cpu: &Cpu, limits: &mut Limits) {
    for (file, value, field) in [
        ("cpuset.cpus", &cpu.cpus, "linux.resources.cpu.cpus"),
        ("cpuset.mems", &cpu.mems, "linux.resources.cpu.mems"),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            limits.write(Write::new("cpuset", file, value, field));
        }
    }
}

fn memory(memory: &Memory, limits: &mut Limits) -> Result<()> {
    let check = memory.check_before_update == Some(true);
    let limit = memory.limit.unwrap_or(0);
    let swap = memory.swap.unwrap_or(0);
    // The kernel keeps limit <= swap at every moment, so which of the two can
    // be written first depends on their old values.
    if limit != 0 {
        let usage = (check && limit > 0).then_some("memory.usage_in_bytes");
        limits.write(
            Write::new(
                "memory",
                "memory.limit_in_bytes",
                limit,
                "linux.resources.memory.limit",
            )
            .or_later()
            .not_below(usage),
        );
    }
    let (file, field) = ("memory.memsw.limit_in_bytes", "linux.resources.memory.swap");
    if swap != 0 {
        let usage = (check && swap > 0).then_some("memory.memsw.usage_in_bytes");
        limits.write(
            Write::new("memory", file, swap, field)
                .or_later()
                .not_below(usage),
        );
    } else if limit == -1 {
        // Unlimited memory means unlimited swap, where the kernel counts it.
        limits.write(Write::new("memory", file, -1, field).or_later().or_skip());
    }
    kernel_memory(memory, limits);
    if let Some(kernel_tcp) = memory.kernel_tcp.filter(|value| *value != 0) {
        let field = "linux.resources.memory.kernelTCP";
        let file = "memory.kmem.tcp.limit_in_bytes";
        // Newer kernels are built without.
        limits.write(Write::new("memory", file, kernel_tcp, field).or_skip());
    }
    if let Some(reservation) = memory.reservation.filter(|value| *value != 0) {
        let field = "linux.resources.memory.reservation";
        limits.write(Write::new(
            "memory",
            "memory.soft_limit_in_bytes",
            reservation,
            field,
        ));
    }
    if memory.disable_oom_killer == Some(true) {
        let field = "linux.resources.memory.disableOOMKiller";
        limits.write(Write::new("memory", "memory.oom_control", 1, field));
    }
    let field = "linux.resources.memory.swappiness";
    match memory.swappiness {
        // Some engines write -1 for "not given".
        None | Some(u64::MAX) => {}
        Some(value @ 0..=100) => {
            limits.write(Write::new("memory", "memory.swappiness", value, field));
        }
        Some(value) => {
            let text = format!("invalid memory swappiness value: {value} (valid range is 0-100)");
            return Err(invalid(field, text));
        }
    }
    Ok(())
}

/// What no kernel we support counts any more, or always does.
pub(super) fn kernel_memory(memory: &Memory, limits: &mut Limits) {
    if memory.kernel.is_some_and(|value| value != 0) {
        limits.ignore("linux.resources.memory.kernel");
    }
    if memory.use_hierarchy == Some(false) {
        limits.ignore("linux.resources.memory.useHierarchy");
    }
}

fn cpu(cpu: &Cpu, limits: &mut Limits) -> Result<()> {
    let field = |name: &str| format!("linux.resources.cpu.{name}");
    match cpu.shares.unwrap_or(0) {
        0 => {}
        // The kernel would quietly take the nearest value it has.
        1 => {
            return Err(invalid(
                field("shares"),
                "the minimum allowed cpu-shares is 2",
            ));
        }
        262_145.. => {
            let text = "the maximum allowed cpu-shares is 262144";
            return Err(invalid(field("shares"), text));
        }
        shares => limits.write(Write::new("cpu", "cpu.shares", shares, field("shares"))),
    }
    // Period, burst and quota bound each other (and the parent's quota), so
    // what is refused at first may fit after the others.
    if let Some(period) = cpu.period.filter(|value| *value != 0) {
        limits.write(Write::new("cpu", "cpu.cfs_period_us", period, field("period")).or_later());
    }
    if let Some(burst) = cpu.burst {
        limits.write(
            Write::new("cpu", "cpu.cfs_burst_us", burst, field("burst"))
                .or_later()
                .or_skip(),
        );
    }
    if let Some(quota) = cpu.quota.filter(|value| *value != 0) {
        limits.write(Write::new("cpu", "cpu.cfs_quota_us", quota, field("quota")).or_later());
    }
    if let Some(idle) = cpu.idle {
        limits.write(Write::new("cpu", "cpu.idle", idle, field("idle")));
    }
    if let Some(period) = cpu.realtime_period.filter(|value| *value != 0) {
        let field = field("realtimePeriod");
        limits.write(Write::new("cpu", "cpu.rt_period_us", period, field).or_later());
    }
    if let Some(runtime) = cpu.realtime_runtime.filter(|value| *value != 0) {
        let field = field("realtimeRuntime");
        limits.write(Write::new("cpu", "cpu.rt_runtime_us", runtime, field).or_later());
    }
    Ok(())
}

/// The number of tasks: the same file in both versions.
pub(super) fn pids(resources: &Resources, limits: &mut Limits) {
    let value = match resources.pids.as_ref().and_then(|pids| pids.limit) {
        None => return,
        Some(..0) => "max".to_owned(),
        // The container's first process must fit; one task can't fork, which
        // is what a limit of 0 asks for.
        Some(0) => "1".to_owned(),
        Some(limit) => limit.to_string(),
    };
    limits.write(Write::new(
        "pids",
        "pids.max",
        value,
        "linux.resources.pids.limit",
    ));
}

fn block_io(io: &BlockIo, limits: &mut Limits) {
    let field = |name: &str| format!("linux.resources.blockIO.{name}");
    if let Some(weight) = io.weight.filter(|value| *value != 0) {
        limits.write(
            Write::new("blkio", "blkio.bfq.weight", weight, field("weight"))
                .or_else("blkio.weight", weight),
        );
    }
    if let Some(weight) = io.leaf_weight.filter(|value| *value != 0) {
        limits.write(Write::new(
            "blkio",
            "blkio.leaf_weight",
            weight,
            field("leafWeight"),
        ));
    }
    for (at, device) in io.weight_device.iter().enumerate() {
        let value = |weight: u16| format!("{}:{} {weight}", device.major, device.minor);
        let field = |name: &str| field(&format!("weightDevice[{at}].{name}"));
        if let Some(weight) = device.weight.filter(|value| *value != 0) {
            let file = "blkio.bfq.weight_device";
            limits.write(
                Write::new("blkio", file, value(weight), field("weight"))
                    .or_else("blkio.weight_device", value(weight)),
            );
        }
        if let Some(weight) = device.leaf_weight.filter(|value| *value != 0) {
            let file = "blkio.leaf_weight_device";
            limits.write(Write::new(
                "blkio",
                file,
                value(weight),
                field("leafWeight"),
            ));
        }
    }
    let throttles: [(&str, &[ThrottleDevice], &str); 4] = [
        (
            "read_bps",
            &io.throttle_read_bps_device,
            "throttleReadBpsDevice",
        ),
        (
            "write_bps",
            &io.throttle_write_bps_device,
            "throttleWriteBpsDevice",
        ),
        (
            "read_iops",
            &io.throttle_read_iops_device,
            "throttleReadIOPSDevice",
        ),
        (
            "write_iops",
            &io.throttle_write_iops_device,
            "throttleWriteIOPSDevice",
        ),
    ];
    for (what, devices, name) in throttles {
        for (at, device) in devices.iter().enumerate() {
            limits.write(Write::new(
                "blkio",
                format!("blkio.throttle.{what}_device"),
                format!("{}:{} {}", device.major, device.minor, device.rate),
                field(&format!("{name}[{at}]")),
            ));
        }
    }
}

/// Huge pages: two files for each page size, the second (for reservations)
/// only since Linux 5.7.
///
/// # Errors
/// A page size that is none: it would name another file.
pub(super) fn hugetlb(pages: &[HugepageLimit], file: &str, limits: &mut Limits) -> Result<()> {
    for (at, HugepageLimit { page_size, limit }) in pages.iter().enumerate() {
        let field = format!("linux.resources.hugepageLimits[{at}]");
        let number = page_size.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = &page_size[number.len()..];
        let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
        if !is_number || !matches!(unit, "KB" | "MB" | "GB") {
            let text = format!("{page_size:?} is no page size such as 2MB");
            return Err(invalid(format!("{field}.pageSize"), text));
        }
        let used = format!("hugetlb.{page_size}.{file}");
        limits.write(Write::new("hugetlb", used, limit, field.as_str()));
        let reserved = format!("hugetlb.{page_size}.rsvd.{file}");
        limits.write(Write::new("hugetlb", reserved, limit, field).or_skip());
    }
    Ok(())
}

fn network(network: &Network, limits: &mut Limits) {
    if let Some(class) = network.class_id.filter(|value| *value != 0) {
        let field = "linux.resources.network.classID";
        limits.write(Write::new("net_cls", "net_cls.classid", class, field));
    }
    for (at, interface) in network.priorities.iter().enumerate() {
        let value = format!("{} {}", interface.name, interface.priority);
        let field = format!("linux.resources.network.priorities[{at}]");
        limits.write(Write::new("net_prio", "net_prio.ifpriomap", value, field));
    }
}

/// RDMA: the same file in both versions.
pub(super) fn rdma(resources: &Resources, limits: &mut Limits) {
    for (device, limit) in &resources.rdma {
        let mut value = device.clone();
        if let Some(handles) = limit.hca_handles {
            value.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limit.hca_objects {
            value.push_str(&format!(" hca_object={objects}"));
        }
        let field = format!("linux.resources.rdma.{device}");
        limits.write(Write::new("rdma", "rdma.max", value, field));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cgroup::notation::show;

    #[test]
    fn resources_become_writes() {
        for (name, json, expected) in [
            ("nothing", r#"{}"#, ""),
            (
                "zeroes",
                r#"{"memory":{"limit":0,"swap":0},"cpu":{"shares":0,"quota":0,"cpus":""},"blockIO":{"weight":0}}"#,
                "",
            ),
            (
                "memory",
                r#"{"memory":{"limit":4096}}"#,
                "memory.limit_in_bytes=4096~",
            ),
            (
                "memory and swap, in an order the kernel may turn round",
                r#"{"memory":{"limit":4096,"swap":8192}}"#,
                "memory.limit_in_bytes=4096~ memory.memsw.limit_in_bytes=8192~",
            ),
            (
                "unlimited memory frees swap where there is any",
                r#"{"memory":{"limit":-1}}"#,
                "memory.limit_in_bytes=-1~ memory.memsw.limit_in_bytes=-1~?",
            ),
            (
                "unlimited memory with a limit on swap",
                r#"{"memory":{"limit":-1,"swap":8192}}"#,
                "memory.limit_in_bytes=-1~ memory.memsw.limit_in_bytes=8192~",
            ),
            (
                "checked before an update",
                r#"{"memory":{"limit":4096,"checkBeforeUpdate":true}}"#,
                "memory.limit_in_bytes=4096~>=memory.usage_in_bytes",
            ),
            (
                "the rest of memory",
                r#"{"memory":{"reservation":4096,"swappiness":0,"disableOOMKiller":true,"kernel":1,"kernelTCP":1,"useHierarchy":false}}"#,
                "memory.kmem.tcp.limit_in_bytes=1? memory.soft_limit_in_bytes=4096 \
                 memory.oom_control=1 memory.swappiness=0 \
                 !linux.resources.memory.kernel !linux.resources.memory.useHierarchy",
            ),
            (
                "swappiness not given",
                r#"{"memory":{"swappiness":18446744073709551615}}"#,
                "",
            ),
            (
                "cpu",
                r#"{"cpu":{"shares":2,"quota":-1,"period":10000,"burst":0,"idle":1,"realtimeRuntime":5,"realtimePeriod":6}}"#,
                "cpu.shares=2 cpu.cfs_period_us=10000~ cpu.cfs_burst_us=0~? cpu.cfs_quota_us=-1~ cpu.idle=1 \
                 cpu.rt_period_us=6~ cpu.rt_runtime_us=5~",
            ),
            (
                "cpuset comes first",
                r#"{"pids":{"limit":1},"memory":{"limit":1},"cpu":{"cpus":"0-1","mems":"0"}}"#,
                "cpuset.cpus=0-1 cpuset.mems=0 memory.limit_in_bytes=1~ pids.max=1",
            ),
            ("pids", r#"{"pids":{"limit":7}}"#, "pids.max=7"),
            ("no pids", r#"{"pids":{"limit":0}}"#, "pids.max=1"),
            ("any pids", r#"{"pids":{"limit":-1}}"#, "pids.max=max"),
            (
                "block I/O",
                r#"{"blockIO":{"weight":10,"leafWeight":20,"weightDevice":[{"major":8,"minor":0,"weight":30,"leafWeight":40}],
                   "throttleReadBpsDevice":[{"major":8,"minor":1,"rate":50}],"throttleWriteBpsDevice":[{"major":8,"minor":2,"rate":60}],
                   "throttleReadIOPSDevice":[{"major":8,"minor":3,"rate":70}],"throttleWriteIOPSDevice":[{"major":8,"minor":4,"rate":80}]}}"#,
                "blkio.bfq.weight=10|blkio.weight=10 blkio.leaf_weight=20 \
                 blkio.bfq.weight_device=8:0 30|blkio.weight_device=8:0 30 blkio.leaf_weight_device=8:0 40 \
                 blkio.throttle.read_bps_device=8:1 50 blkio.throttle.write_bps_device=8:2 60 \
                 blkio.throttle.read_iops_device=8:3 70 blkio.throttle.write_iops_device=8:4 80",
            ),
            (
                "huge pages",
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#,
                "hugetlb.2MB.limit_in_bytes=0 hugetlb.2MB.rsvd.limit_in_bytes=0?",
            ),
            (
                "network",
                r#"{"network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]}}"#,
                "net_cls.classid=1048577 net_prio.ifpriomap=eth0 5",
            ),
            (
                "rdma",
                r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":100},"rxe3":{"hcaObjects":9}}}"#,
                "rdma.max=mlx5_1 hca_handle=3 hca_object=100 rdma.max=rxe3 hca_object=9",
            ),
        ] {
            let resources = Resources::parse(json.as_bytes()).unwrap();
            assert_eq!(show(&limits(&resources).unwrap()), expected, "{name}");
        }
    }

    #[test]
    fn values_that_the_kernel_would_bend_are_refused() {
        for (json, expected) in [
            (
                r#"{"cpu":{"shares":1}}"#,
                "linux.resources.cpu.shares: the minimum allowed cpu-shares is 2",
            ),
            (
                r#"{"cpu":{"shares":262145}}"#,
                "linux.resources.cpu.shares: the maximum allowed cpu-shares is 262144",
            ),
            (
                r#"{"memory":{"swappiness":101}}"#,
                "linux.resources.memory.swappiness: invalid memory swappiness value: \
                 101 (valid range is 0-100)",
            ),
            (
                r#"{"unified":{"memory.high":"1"}}"#,
                "linux.resources.unified: invalid configuration: cannot use unified \
                 on cgroup v1",
            ),
        ] {
            let resources = Resources::parse(json.as_bytes()).unwrap();
            assert_eq!(limits(&resources).unwrap_err().to_string(), expected);
        }
    }
}
