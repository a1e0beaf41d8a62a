//! Limits in the words of cgroup v2, one directory for all controllers
//! (Documentation/admin-guide/cgroup-v2.rst of the kernel).

use super::v1::{cpuset, hugetlb, kernel_memory, pids, rdma};
use super::{Limits, Write, invalid};
use crate::error::Result;
use crate::spec::{BlockIo, Cpu, Memory, Resources, ThrottleDevice};

/// The writes that `resources` asks for, all but the devices.
///
/// # Errors
/// Values that contradict each other, a key of `unified` that is no file name.
pub fn limits(resources: &Resources) -> Result<Limits> {
    let mut limits = Limits::default();
    pids(resources, &mut limits);
    if let Some(value) = &resources.memory {
        memory(value, &mut limits)?;
    }
    if let Some(value) = &resources.block_io {
        block_io(value, &mut limits);
    }
    if let Some(value) = &resources.cpu {
        cpu(value, &mut limits);
        cpuset(value, &mut limits);
    }
    hugetlb(&resources.hugepage_limits, "max", &mut limits)?;
    rdma(resources, &mut limits);
    if let Some(network) = &resources.network
        && (network.class_id.is_some_and(|class| class != 0) || !network.priorities.is_empty())
    {
        limits.ignore("linux.resources.network");
    }
    // Last, so that what is written as it is wins over what was converted.
    unified(resources, &mut limits)?;
    Ok(limits)
}

fn memory(memory: &Memory, limits: &mut Limits) -> Result<()> {
    let check = memory.check_before_update == Some(true);
    let limit = memory.limit.unwrap_or(0);
    if let Some(swap) = swap_max(limit, memory.swap.unwrap_or(0))? {
        let field = "linux.resources.memory.swap";
        let write = Write::new("memory", "memory.swap.max", &swap, field);
        // A kernel that counts no swap has neither to be told that it is
        // unlimited nor that there is none.
        limits.write(match swap.as_str() {
            "max" | "0" => write.or_skip(),
            _ => write,
        });
    }
    if let Some(limit) = amount(limit) {
        let usage = (check && limit != "max").then_some("memory.current");
        let field = "linux.resources.memory.limit";
        limits.write(Write::new("memory", "memory.max", limit, field).not_below(usage));
    }
    if let Some(reservation) = amount(memory.reservation.unwrap_or(0)) {
        let field = "linux.resources.memory.reservation";
        limits.write(Write::new("memory", "memory.low", reservation, field));
    }
    kernel_memory(memory, limits);
    if memory.kernel_tcp.is_some_and(|value| value != 0) {
        limits.ignore("linux.resources.memory.kernelTCP");
    }
    if memory.swappiness.is_some_and(|value| value != u64::MAX) {
        limits.ignore("linux.resources.memory.swappiness");
    }
    if memory.disable_oom_killer == Some(true) {
        limits.ignore("linux.resources.memory.disableOOMKiller");
    }
    Ok(())
}

/// A number of config.json in v2's words: 0 is not given, -1 is unlimited. What is
/// below that the kernel refuses, as on v1.
fn amount(value: i64) -> Option<String> {
    match value {
        0 => None,
        -1 => Some("max".to_owned()),
        value => Some(value.to_string()),
    }
}

/// config.json's `swap` is memory and swap together, v2's is swap alone.
fn swap_max(limit: i64, swap: i64) -> Result<Option<String>> {
    let field = "linux.resources.memory.swap";
    match (limit, swap) {
        // As on v1: unlimited memory means unlimited swap.
        (-1, 0) => Ok(Some("max".to_owned())),
        (_, 0) => Ok(None),
        (_, ..0) => Ok(Some("max".to_owned())),
        (..0, swap) => Ok(Some(swap.to_string())),
        (0, _) => Err(invalid(
            field,
            "unable to set swap limit without memory limit",
        )),
        (limit, swap) if swap < limit => Err(invalid(
            field,
            "memory+swap limit should be >= memory limit",
        )),
        (limit, swap) => Ok(Some((swap - limit).to_string())),
    }
}

fn cpu(cpu: &Cpu, limits: &mut Limits) {
    let field = |name: &str| format!("linux.resources.cpu.{name}");
    if let Some(idle) = cpu.idle {
        limits.write(Write::new("cpu", "cpu.idle", idle, field("idle")));
    }
    if let Some(shares) = cpu.shares.filter(|value| *value != 0) {
        limits.write(Write::new(
            "cpu",
            "cpu.weight",
            weight_of_shares(shares),
            field("shares"),
        ));
    }
    if let Some(burst) = cpu.burst {
        // At most the quota, which is written next.
        limits.write(
            Write::new("cpu", "cpu.max.burst", burst, field("burst"))
                .or_later()
                .or_skip(),
        );
    }
    let quota = cpu.quota.unwrap_or(0);
    let period = cpu.period.unwrap_or(0);
    if quota != 0 || period != 0 {
        let quota = match quota {
            ..=0 => "max".to_owned(),
            quota => quota.to_string(),
        };
        // The kernel's default period.
        let period = if period == 0 { 100_000 } else { period };
        let name = if cpu.quota.is_some_and(|quota| quota != 0) {
            "quota"
        } else {
            "period"
        };
        limits.write(Write::new(
            "cpu",
            "cpu.max",
            format!("{quota} {period}"),
            field(name),
        ));
    }
    if cpu.realtime_runtime.is_some_and(|value| value != 0) {
        limits.ignore("linux.resources.cpu.realtimeRuntime");
    }
    if cpu.realtime_period.is_some_and(|value| value != 0) {
        limits.ignore("linux.resources.cpu.realtimePeriod");
    }
}

/// Converts v1's cpu.shares (2 to 262144, 1024 by default) to cpu.weight (1 to
/// 10000, 100 by default): a quadratic curve over the logarithm of the shares
/// through all three pairs, which crun 1.23 and runc 1.4 use too.
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            #[expect(
                clippy::cast_precision_loss,
                reason = "at most 262143, which f64 holds"
            )]
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            // What is whole but for a rounding error stays whole.
            let weight = (10f64.powf(exponent) - 1e-9).ceil();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1 and 10000 for these shares"
            )]
            let weight = weight as u64;
            weight
        }
    }
}

fn block_io(io: &BlockIo, limits: &mut Limits) {
    let field = |name: &str| format!("linux.resources.blockIO.{name}");
    if let Some(weight) = io.weight.filter(|value| *value != 0) {
        limits.write(
            Write::new("io", "io.bfq.weight", weight, field("weight"))
                .or_else("io.weight", io_weight(weight)),
        );
    }
    if io.leaf_weight.is_some_and(|value| value != 0) {
        limits.ignore("linux.resources.blockIO.leafWeight");
    }
    for (at, device) in io.weight_device.iter().enumerate() {
        if let Some(weight) = device.weight.filter(|value| *value != 0) {
            let value = |weight: u64| format!("{}:{} {weight}", device.major, device.minor);
            let field = field(&format!("weightDevice[{at}].weight"));
            limits.write(
                Write::new("io", "io.bfq.weight", value(weight.into()), field)
                    .or_else("io.weight", value(io_weight(weight))),
            );
        }
    }
    let throttles: [(&str, &[ThrottleDevice], &str); 4] = [
        (
            "rbps",
            &io.throttle_read_bps_device,
            "throttleReadBpsDevice",
        ),
        (
            "wbps",
            &io.throttle_write_bps_device,
            "throttleWriteBpsDevice",
        ),
        (
            "riops",
            &io.throttle_read_iops_device,
            "throttleReadIOPSDevice",
        ),
        (
            "wiops",
            &io.throttle_write_iops_device,
            "throttleWriteIOPSDevice",
        ),
    ];
    for (key, devices, name) in throttles {
        for (at, device) in devices.iter().enumerate() {
            let value = format!("{}:{} {key}={}", device.major, device.minor, device.rate);
            limits.write(Write::new(
                "io",
                "io.max",
                value,
                field(&format!("{name}[{at}]")),
            ));
        }
    }
}

/// Converts v1's blkio.weight (10 to 1000) to io.weight (1 to 10000), linearly.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990
}

fn unified(resources: &Resources, limits: &mut Limits) -> Result<()> {
    for (file, text) in &resources.unified {
        let field = format!("linux.resources.unified.{file}");
        if file.contains('/') {
            let text = format!("unified resource {file:?} must be a file name (no slashes)");
            return Err(invalid(field, text));
        }
        let parts = file.split_once('.');
        let Some((controller, _)) = parts.filter(|(of, name)| !of.is_empty() && !name.is_empty())
        else {
            let text =
                format!("unified resource {file:?} must be in the form CONTROLLER.PARAMETER");
            return Err(invalid(field, text));
        };
        // Files such as io.max take one line a write.
        for line in text.lines().filter(|line| !line.is_empty()) {
            limits.write(Write::new(
                controller.to_owned(),
                file.clone(),
                line,
                field.as_str(),
            ));
        }
    }
    Ok(())
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
                r#"{"memory":{"limit":0,"swap":0},"cpu":{"shares":0,"quota":0},"blockIO":{"weight":0},"network":{"classID":0}}"#,
                "",
            ),
            (
                "memory",
                r#"{"memory":{"limit":4096,"reservation":1024}}"#,
                "memory.max=4096 memory.low=1024",
            ),
            (
                "memory and swap",
                r#"{"memory":{"limit":4096,"swap":5120}}"#,
                "memory.swap.max=1024 memory.max=4096",
            ),
            (
                "no swap",
                r#"{"memory":{"limit":4096,"swap":4096}}"#,
                "memory.swap.max=0? memory.max=4096",
            ),
            (
                "any swap",
                r#"{"memory":{"limit":4096,"swap":-1}}"#,
                "memory.swap.max=max? memory.max=4096",
            ),
            (
                "any swap alone",
                r#"{"memory":{"swap":-1}}"#,
                "memory.swap.max=max?",
            ),
            (
                "any memory frees swap",
                r#"{"memory":{"limit":-1}}"#,
                "memory.swap.max=max? memory.max=max",
            ),
            (
                "any memory, some swap",
                r#"{"memory":{"limit":-1,"swap":5120}}"#,
                "memory.swap.max=5120 memory.max=max",
            ),
            (
                "checked",
                r#"{"memory":{"limit":4096,"checkBeforeUpdate":true}}"#,
                "memory.max=4096>=memory.current",
            ),
            (
                "what v2 lacks",
                r#"{"memory":{"swappiness":1,"disableOOMKiller":true},"cpu":{"realtimeRuntime":1,"realtimePeriod":1},
                   "network":{"classID":1},"blockIO":{"leafWeight":10}}"#,
                "!linux.resources.memory.swappiness !linux.resources.memory.disableOOMKiller \
                 !linux.resources.blockIO.leafWeight !linux.resources.cpu.realtimeRuntime \
                 !linux.resources.cpu.realtimePeriod !linux.resources.network",
            ),
            ("shares", r#"{"cpu":{"shares":1024}}"#, "cpu.weight=100"),
            ("quota", r#"{"cpu":{"quota":5000}}"#, "cpu.max=5000 100000"),
            (
                "quota and period",
                r#"{"cpu":{"quota":5000,"period":10000}}"#,
                "cpu.max=5000 10000",
            ),
            ("period", r#"{"cpu":{"period":10000}}"#, "cpu.max=max 10000"),
            ("any quota", r#"{"cpu":{"quota":-1}}"#, "cpu.max=max 100000"),
            (
                "burst, idle and cpuset",
                r#"{"cpu":{"quota":5000,"burst":1000,"idle":1,"cpus":"0","mems":"0"}}"#,
                "cpu.idle=1 cpu.max.burst=1000~? cpu.max=5000 100000 cpuset.cpus=0 cpuset.mems=0",
            ),
            ("pids", r#"{"pids":{"limit":-1}}"#, "pids.max=max"),
            (
                "block I/O",
                r#"{"blockIO":{"weight":1000,"weightDevice":[{"major":8,"minor":0,"weight":10}],
                   "throttleReadBpsDevice":[{"major":8,"minor":1,"rate":50}],"throttleWriteBpsDevice":[{"major":8,"minor":2,"rate":60}],
                   "throttleReadIOPSDevice":[{"major":8,"minor":3,"rate":70}],"throttleWriteIOPSDevice":[{"major":8,"minor":4,"rate":80}]}}"#,
                "io.bfq.weight=1000|io.weight=10000 io.bfq.weight=8:0 10|io.weight=8:0 1 io.max=8:1 rbps=50 io.max=8:2 wbps=60 \
                 io.max=8:3 riops=70 io.max=8:4 wiops=80",
            ),
            (
                "huge pages",
                r#"{"hugepageLimits":[{"pageSize":"1GB","limit":9}]}"#,
                "hugetlb.1GB.max=9 hugetlb.1GB.rsvd.max=9?",
            ),
            (
                "rdma",
                r#"{"rdma":{"mlx5_1":{"hcaHandles":3}}}"#,
                "rdma.max=mlx5_1 hca_handle=3",
            ),
            (
                "unified comes last, a line a write",
                r#"{"unified":{"io.max":"8:0 rbps=1\n8:1 rbps=2\n","memory.high":"5"},"memory":{"limit":6}}"#,
                "memory.max=6 io.max=8:0 rbps=1 io.max=8:1 rbps=2 memory.high=5",
            ),
        ] {
            let resources = Resources::parse(json.as_bytes()).unwrap();
            assert_eq!(show(&limits(&resources).unwrap()), expected, "{name}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for (json, expected) in [
            (
                r#"{"memory":{"swap":4096}}"#,
                "linux.resources.memory.swap: unable to set swap limit without memory limit",
            ),
            (
                r#"{"memory":{"limit":8192,"swap":4096}}"#,
                "linux.resources.memory.swap: memory+swap limit should be >= memory limit",
            ),
            (
                r#"{"unified":{"../memory.max":"1"}}"#,
                "linux.resources.unified.../memory.max: unified resource \"../memory.max\" \
                 must be a file name (no slashes)",
            ),
            (
                r#"{"unified":{"memory":"1"}}"#,
                "linux.resources.unified.memory: unified resource \"memory\" must be in \
                 the form CONTROLLER.PARAMETER",
            ),
        ] {
            let resources = Resources::parse(json.as_bytes()).unwrap();
            assert_eq!(limits(&resources).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn shares_become_weights_on_the_curve_that_keeps_the_default() {
        for (shares, weight) in [
            (1, 1),
            (2, 1),
            (3, 2),
            (102, 17),
            (1024, 100),
            (262_143, 10_000),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }
}
