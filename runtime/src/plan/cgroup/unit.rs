//! The container as a unit of systemd.
//!
//! Where systemd rules over the cgroups, it is asked for a *scope*, a unit for
//! processes that others made, in a *slice*. `linux.cgroupsPath` names both as
//! `slice:prefix:name`: `machine.slice:libpod:ab12` is the scope
//! `libpod-ab12.scope` in `machine.slice`. The limits are told to systemd as
//! properties, so that it doesn't write others over them when it reloads, and
//! written by us as well, since it doesn't know all of them.
//!
//! Source: org.freedesktop.systemd1(5), systemd.resource-control(5),
//! systemd.slice(5); the form of the path is runc's contract (docs/systemd.md
//! there).

use serde::{Deserialize, Serialize};

use super::devices::{self, Device, Policy};
use super::{IfMissing, Write, unit_property};
use crate::cgroup::hierarchy::Mode;
use crate::dbus::wire::Value;
use crate::error::{Error, Result};
use crate::spec::Spec;
use crate::systemd::Facts;
use crate::systemd::Instance;

/// The unit's name, as state.json keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// Such as `libpod-ab12.scope`.
    pub unit: String,
    /// Whose it is.
    pub instance: Instance,
}

/// What systemd is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: Name,
    /// The unit's directory below every hierarchy's mount, without a leading
    /// slash.
    pub path: String,
    /// What it is told about the unit, but for the process.
    pub properties: Vec<(String, Value)>,
}

impl Unit {
    /// Decides about the unit of the container `id`. The limits come later, by
    /// [`limit`](Self::limit).
    ///
    /// # Errors
    /// A cgroupsPath of another form, a slice that can't be one, a broken
    /// annotation.
    pub fn plan(spec: &Spec, id: &str, facts: &Facts) -> Result<Self> {
        let path = spec
            .linux
            .as_ref()
            .and_then(|linux| linux.cgroups_path.as_deref())
            .filter(|path| !path.is_empty());
        let (slice, prefix, name) = parts(path, id)?;
        let slice = match (slice, facts.instance) {
            ("", Instance::System) => "system.slice",
            ("", Instance::User) => "user.slice",
            (slice, _) => slice,
        };
        let unit = unit_name(prefix, name);
        let mut path = facts.control_group.trim_matches('/').to_owned();
        for level in expand_slice(slice)?.iter().chain([&unit]) {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(level);
        }
        let mut planned = Self {
            properties: properties(id, slice, is_slice(&unit)),
            name: Name {
                unit,
                instance: facts.instance,
            },
            path,
        };
        for (key, text) in &spec.annotations {
            if key.starts_with(unit_property::PREFIX) {
                let (name, value) = unit_property::parse(key, text)?;
                planned.set(name, value);
            }
        }
        Ok(planned)
    }

    /// Whether it is a scope, which has processes of its own, and no slice.
    #[must_use]
    pub fn is_scope(&self) -> bool {
        !is_slice(&self.name.unit)
    }

    /// Adds what of `writes` and `rules` systemd has a property for. What an
    /// annotation has said stays.
    pub fn limit(
        &mut self,
        writes: &[Write],
        rules: Option<&[devices::Rule]>,
        mode: Mode,
        facts: &Facts,
    ) {
        let mut limits = limits(writes, mode, facts.version);
        limits.extend(oom_policy(writes, facts.version));
        limits.extend(
            rules
                .and_then(|rules| device_policy(rules, mode, facts))
                .into_iter()
                .flatten(),
        );
        for (name, value) in limits {
            if !self.properties.iter().any(|(known, _)| *known == name) {
                self.properties.push((name, value));
            }
        }
    }

    fn set(&mut self, name: String, value: Value) {
        self.properties.retain(|(known, _)| *known != name);
        self.properties.push((name, value));
    }
}

/// Slice, prefix and name of the path.
fn parts<'a>(path: Option<&'a str>, id: &'a str) -> Result<(&'a str, &'a str, &'a str)> {
    let Some(path) = path else {
        return Ok(("", "rrun", id));
    };
    let refuse = |cause: String| Err(Error::config("linux.cgroupsPath", cause));
    let parts: Vec<&str> = path.split(':').collect();
    let &[slice, prefix, name] = parts.as_slice() else {
        // The words are runc's, which engines know.
        return refuse(format!(
            "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, \
             got {path:?} instead"
        ));
    };
    if name.is_empty() || format!("{prefix}{name}").contains('/') {
        return refuse(format!("{path:?} names no unit"));
    }
    Ok((slice, prefix, name))
}

fn is_slice(unit: &str) -> bool {
    unit.ends_with(".slice")
}

fn unit_name(prefix: &str, name: &str) -> String {
    match prefix {
        _ if is_slice(name) => name.to_owned(),
        "" => format!("{name}.scope"),
        prefix => format!("{prefix}-{name}.scope"),
    }
}

/// The directories of a slice: `a-b.slice` lies in `a.slice`. `-.slice` is the
/// top.
fn expand_slice(slice: &str) -> Result<Vec<String>> {
    let refuse = || {
        let cause = format!("{slice:?} is no name of a slice");
        Err(Error::config("linux.cgroupsPath", cause))
    };
    let Some(stem) = slice.strip_suffix(".slice") else {
        return refuse();
    };
    if stem == "-" {
        return Ok(Vec::new());
    }
    if stem.contains('/') || stem.split('-').any(str::is_empty) {
        return refuse();
    }
    let ends = stem.match_indices('-').map(|(at, _)| at);
    Ok(ends
        .chain([stem.len()])
        .map(|end| format!("{}.slice", &stem[..end]))
        .collect())
}

/// What every container's unit is.
fn properties(id: &str, slice: &str, is_slice: bool) -> Vec<(String, Value)> {
    let yes = || Value::Bool(true);
    let mut properties = vec![(
        "Description".to_owned(),
        Value::text(format!("rrun container {id}")),
    )];
    let mut add = |name: &str, value| properties.push((name.to_owned(), value));
    if is_slice {
        let items = vec![Value::text(slice)];
        let of = "s".to_owned();
        add("Wants", Value::Array { of, items });
    } else {
        add("Slice", Value::text(slice));
        add("Delegate", yes());
        // A scope that failed, by an OOM kill for example, is forgotten too.
        add("CollectMode", Value::text("inactive-or-failed"));
    }
    for accounting in ["CPU", "IO", "Memory", "Tasks"] {
        add(&format!("{accounting}Accounting"), yes());
    }
    // Not stopped first of all when the system goes down.
    add("DefaultDependencies", Value::Bool(false));
    properties
}

/// The properties for what is written to the kernel's files.
#[must_use]
pub fn limits(writes: &[Write], mode: Mode, version: u32) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    let mut add = |name: &str, value: Value| found.push((name.to_owned(), value));
    let written = |file: &str| {
        let write = writes.iter().rev().find(|write| write.file == file);
        write.map(|write| write.value.trim())
    };
    for (file, property) in [
        ("memory.max", "MemoryMax"),
        ("memory.high", "MemoryHigh"),
        ("memory.low", "MemoryLow"),
        ("memory.min", "MemoryMin"),
        ("memory.swap.max", "MemorySwapMax"),
        ("memory.limit_in_bytes", "MemoryLimit"),
        ("pids.max", "TasksMax"),
        ("cpu.shares", "CPUShares"),
    ] {
        if let Some(number) = written(file).and_then(amount) {
            add(property, Value::Uint64(number));
        }
    }
    // Since systemd 252 a weight of 0 is what the kernel calls idle.
    let idle = mode == Mode::V2 && version >= 252 && written("cpu.idle") == Some("1");
    let weight = written("cpu.weight").and_then(amount);
    if let Some(weight) = if idle {
        Some(0)
    } else {
        weight.filter(|weight| *weight > 0)
    } {
        add("CPUWeight", Value::Uint64(weight));
    }
    if let Some((property, weight)) = writes.iter().rev().find_map(io_weight) {
        add(property, Value::Uint64(weight));
    }
    let (quota, period) = match written("cpu.max") {
        Some(both) => both.split_once(' ').unwrap_or((both, "100000")),
        // Of what is not written a new cgroup has the kernel's defaults.
        None => match (written("cpu.cfs_quota_us"), written("cpu.cfs_period_us")) {
            (None, None) => ("", ""),
            (quota, period) => (quota.unwrap_or("-1"), period.unwrap_or("100000")),
        },
    };
    if let (Some(quota), Some(period @ 1..)) = (amount(quota), amount(period)) {
        add(
            "CPUQuotaPerSecUSec",
            Value::Uint64(per_second(quota, period)),
        );
        // Before systemd 242 the period can't be told.
        if version >= 242 {
            add("CPUQuotaPeriodUSec", Value::Uint64(period));
        }
    }
    // Since systemd 244.
    if version >= 244 {
        for (file, property) in [
            ("cpuset.cpus", "AllowedCPUs"),
            ("cpuset.mems", "AllowedMemoryNodes"),
        ] {
            if let Some(mask) = written(file).and_then(mask) {
                add(property, Value::bytes(&mask));
            }
        }
    }
    found
}

/// What of a write is the weight of all block I/O.
fn io_weight(write: &Write) -> Option<(&'static str, u64)> {
    let (property, value) = match (&*write.file, &write.if_missing) {
        ("io.weight", _) => ("IOWeight", write.value.trim()),
        ("io.bfq.weight", IfMissing::Else { value, .. }) => ("IOWeight", value.as_str()),
        ("blkio.bfq.weight", _) => ("BlockIOWeight", write.value.as_str()),
        _ => return None,
    };
    // A line of one device begins with its number.
    let weight = value.strip_prefix("default ").unwrap_or(value).parse();
    Some((property, weight.ok()?))
}

/// What systemd shall do when a process of the scope is killed for want of
/// memory: kill the others, as `memory.oom.group` has it. A scope has the
/// property since systemd 253, and only at its start.
fn oom_policy(writes: &[Write], version: u32) -> Option<(String, Value)> {
    let mut groups = writes
        .iter()
        .filter(|write| write.file == "memory.oom.group");
    let asked = groups
        .next_back()
        .is_some_and(|write| write.value.trim() == "1");
    (asked && version >= 253).then(|| ("OOMPolicy".to_owned(), Value::text("kill")))
}

/// A number as the kernel takes it; unlimited is the largest.
fn amount(text: &str) -> Option<u64> {
    match text {
        "max" | "-1" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// Microseconds of CPU for a second, rounded up to whole percents, in which
/// systemd counts: it would round down, below what was asked for.
fn per_second(quota: u64, period: u64) -> u64 {
    const PERCENT: u128 = 10_000;
    if quota == u64::MAX {
        return quota;
    }
    let exact = u128::from(quota) * 1_000_000 / u128::from(period);
    u64::try_from(exact.next_multiple_of(PERCENT)).unwrap_or(u64::MAX)
}

/// A list like `0-2,8` as a mask, the lowest bits first.
fn mask(list: &str) -> Option<Vec<u8>> {
    /// More than any kernel is built for.
    const MOST: usize = 1 << 16;
    let mut bytes = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        bytes.resize(bytes.len().max(last / 8 + 1), 0_u8);
        for bit in first..=last {
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    Some(bytes)
}

/// The device rules as systemd's. It has no words for a rule about a minor
/// number of every major, nor for what is taken from a wildcard: on v2 nothing
/// is said then, as our program does it alone; v1 has systemd's list or none.
fn device_policy(
    rules: &[devices::Rule],
    mode: Mode,
    facts: &Facts,
) -> Option<Vec<(String, Value)>> {
    let policy = Policy::of(rules).ok()?;
    let mut items = Vec::new();
    // What an allowing policy denies can't be told either.
    let strict = !policy.allow;
    if strict {
        for (device, access) in &policy.exceptions {
            match device_name(device, facts) {
                Some(name) => items.push(Value::Struct(vec![
                    Value::text(name),
                    Value::text(access.to_string()),
                ])),
                None if mode == Mode::V2 => return None,
                None => {}
            }
        }
    }
    let word = if strict { "strict" } else { "auto" };
    let of = "(ss)".to_owned();
    Some(vec![
        ("DevicePolicy".to_owned(), Value::text(word)),
        ("DeviceAllow".to_owned(), Value::Array { of, items }),
    ])
}

/// The device rules for a unit that has others.
#[must_use]
pub fn new_devices(rules: &[devices::Rule], mode: Mode, facts: &Facts) -> Vec<(String, Value)> {
    let mut properties = device_policy(rules, mode, facts).unwrap_or_default();
    if let Some(list) = properties.pop() {
        // The list grows by what is set; an empty one empties it.
        let (of, items) = ("(ss)".to_owned(), Vec::new());
        properties.push((list.0.clone(), Value::Array { of, items }));
        properties.push(list);
    }
    properties
}

/// A device, or a group of them, as `DeviceAllow=` names it.
fn device_name(device: &Device, facts: &Facts) -> Option<String> {
    let kind = match device.kind {
        devices::Kind::Block => "block",
        devices::Kind::Char => "char",
    };
    match (device.major, device.minor) {
        (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
        (Some(major), None) => {
            let is_block = device.kind == devices::Kind::Block;
            let mut groups = facts.device_groups.iter();
            let group = groups.find(|group| group.is_block == is_block && group.major == major)?;
            Some(format!("{kind}-{}", group.name))
        }
        (None, None) => Some(format!("{kind}-*")),
        (None, Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cgroup::{v1, v2};
    use crate::spec::{Linux, Resources};
    use crate::systemd::DeviceGroup;

    fn facts(control_group: &str) -> Facts {
        Facts {
            version: 252,
            control_group: control_group.to_owned(),
            device_groups: vec![DeviceGroup {
                is_block: false,
                major: 136,
                name: "pts".to_owned(),
            }],
            ..Facts::default()
        }
    }

    fn plan(path: &str, instance: Instance, control_group: &str) -> Result<Unit> {
        let json = format!(r#"{{"linux":{{"cgroupsPath":{path:?}}}}}"#);
        let facts = Facts {
            instance,
            ..facts(control_group)
        };
        Unit::plan(&Spec::parse(json.as_bytes())?, "web", &facts)
    }

    #[test]
    fn cgroups_path_names_a_unit_in_a_slice() {
        for (path, instance, top, expected) in [
            (
                "",
                Instance::System,
                "/",
                "rrun-web.scope system.slice/rrun-web.scope",
            ),
            (
                "machine.slice:libpod:ab",
                Instance::System,
                "/",
                "libpod-ab.scope machine.slice/libpod-ab.scope",
            ),
            (
                "a.slice::n",
                Instance::System,
                "/",
                "n.scope a.slice/n.scope",
            ),
            (
                ":p:n",
                Instance::System,
                "/",
                "p-n.scope system.slice/p-n.scope",
            ),
            ("-.slice:p:n", Instance::System, "/", "p-n.scope p-n.scope"),
            (
                "kubepods-besteffort-pod1_2.slice:cri-containerd:c",
                Instance::System,
                "/",
                "cri-containerd-c.scope kubepods.slice/kubepods-besteffort.slice/\
                 kubepods-besteffort-pod1_2.slice/cri-containerd-c.scope",
            ),
            (
                "a.slice:p:b.slice",
                Instance::System,
                "/",
                "b.slice a.slice/b.slice",
            ),
            (
                ":p:n",
                Instance::User,
                "/user.slice/user-5.slice/user@5.service",
                "p-n.scope user.slice/user-5.slice/user@5.service/user.slice/p-n.scope",
            ),
        ] {
            let unit = plan(path, instance, top).unwrap();
            assert_eq!(
                format!("{} {}", unit.name.unit, unit.path),
                expected,
                "{path}"
            );
        }
    }

    #[test]
    fn a_path_that_names_no_unit_is_refused() {
        let form = |path: &str| {
            format!(
                "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, \
                 got {path:?} instead"
            )
        };
        let slice = |slice: &str| format!("{slice:?} is no name of a slice");
        for (path, expected) in [
            ("/a/b", form("/a/b")),
            ("a:b", form("a:b")),
            ("a.slice:b:c:d", form("a.slice:b:c:d")),
            ("a.slice:b:", "\"a.slice:b:\" names no unit".to_owned()),
            (
                "a.slice:b:../c",
                "\"a.slice:b:../c\" names no unit".to_owned(),
            ),
            ("a:b:c", slice("a")),
            ("a/b.slice:b:c", slice("a/b.slice")),
            ("a--b.slice:b:c", slice("a--b.slice")),
            ("-a.slice:b:c", slice("-a.slice")),
            (".slice:b:c", slice(".slice")),
        ] {
            let error = plan(path, Instance::System, "/").unwrap_err().to_string();
            assert_eq!(error, format!("config.json: linux.cgroupsPath: {expected}"));
        }
    }

    /// Properties as `Name=value`, lists in brackets, pairs in parentheses.
    fn show(properties: &[(String, Value)]) -> String {
        let pairs = properties.iter();
        let pairs = pairs.map(|(name, value)| format!("{name}={}", text(value)));
        pairs.collect::<Vec<_>>().join(" ")
    }

    fn text(value: &Value) -> String {
        let all = |values: &[Value]| values.iter().map(text).collect::<Vec<_>>().join(" ");
        match value {
            Value::Uint64(u64::MAX) => "max".to_owned(),
            Value::Uint64(number) => number.to_string(),
            Value::Byte(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::String(text) => text.clone(),
            Value::Array { items, .. } => format!("[{}]", all(items)),
            Value::Struct(fields) => format!("({})", all(fields)),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn limits_are_told_in_systemds_words() {
        for (name, version, json, on_v1, on_v2) in [
            ("nothing", 252, "{}", "", ""),
            (
                "memory",
                252,
                r#"{"memory":{"limit":1000,"swap":3000,"reservation":5}}"#,
                "MemoryLimit=1000",
                "MemoryMax=1000 MemoryLow=5 MemorySwapMax=2000",
            ),
            (
                "unlimited",
                252,
                r#"{"memory":{"limit":-1}}"#,
                "MemoryLimit=max",
                "MemoryMax=max MemorySwapMax=max",
            ),
            (
                "pids",
                252,
                r#"{"pids":{"limit":7}}"#,
                "TasksMax=7",
                "TasksMax=7",
            ),
            (
                "weight",
                252,
                r#"{"cpu":{"shares":1024}}"#,
                "CPUShares=1024",
                "CPUWeight=100",
            ),
            (
                "quota",
                252,
                r#"{"cpu":{"quota":25000,"period":50000}}"#,
                "CPUQuotaPerSecUSec=500000 CPUQuotaPeriodUSec=50000",
                "CPUQuotaPerSecUSec=500000 CPUQuotaPeriodUSec=50000",
            ),
            (
                "a part of a percent",
                252,
                r#"{"cpu":{"quota":12345}}"#,
                "CPUQuotaPerSecUSec=130000 CPUQuotaPeriodUSec=100000",
                "CPUQuotaPerSecUSec=130000 CPUQuotaPeriodUSec=100000",
            ),
            (
                "a period alone",
                252,
                r#"{"cpu":{"period":50000}}"#,
                "CPUQuotaPerSecUSec=max CPUQuotaPeriodUSec=50000",
                "CPUQuotaPerSecUSec=max CPUQuotaPeriodUSec=50000",
            ),
            (
                "idle",
                252,
                r#"{"cpu":{"shares":1024,"idle":1}}"#,
                "CPUShares=1024",
                "CPUWeight=0",
            ),
            (
                "not idle",
                252,
                r#"{"cpu":{"shares":1024,"idle":0}}"#,
                "CPUShares=1024",
                "CPUWeight=100",
            ),
            (
                "idle before systemd 252",
                251,
                r#"{"cpu":{"shares":1024,"idle":1}}"#,
                "CPUShares=1024",
                "CPUWeight=100",
            ),
            (
                "block I/O, but for single devices",
                252,
                r#"{"blockIO":{"weight":1000,"weightDevice":[{"major":8,"minor":0,"weight":10}]}}"#,
                "BlockIOWeight=1000",
                "IOWeight=10000",
            ),
            (
                "an older systemd",
                241,
                r#"{"cpu":{"quota":50000,"cpus":"0"}}"#,
                "CPUQuotaPerSecUSec=500000",
                "CPUQuotaPerSecUSec=500000",
            ),
            (
                "cpuset",
                252,
                r#"{"cpu":{"cpus":"0-2,9","mems":"0"}}"#,
                "AllowedCPUs=[7 2] AllowedMemoryNodes=[1]",
                "AllowedCPUs=[7 2] AllowedMemoryNodes=[1]",
            ),
            (
                "unified",
                252,
                r#"{"unified":{"memory.high":"9","io.weight":"default 50"}}"#,
                "",
                "MemoryHigh=9 IOWeight=50",
            ),
        ] {
            let resources = Resources::parse(json.as_bytes()).unwrap();
            if !on_v1.is_empty() {
                let v1 = v1::limits(&resources).unwrap();
                assert_eq!(
                    show(&limits(&v1.writes, Mode::V1, version)),
                    on_v1,
                    "v1 {name}"
                );
            }
            let v2 = v2::limits(&resources).unwrap();
            assert_eq!(
                show(&limits(&v2.writes, Mode::V2, version)),
                on_v2,
                "v2 {name}"
            );
        }
    }

    #[test]
    fn a_group_that_dies_together_is_told_once_systemd_has_a_word_for_it() {
        let policy = |value: &str, version| {
            let json = format!(r#"{{"unified":{{"memory.oom.group":"{value}"}}}}"#);
            let resources = Resources::parse(json.as_bytes()).unwrap();
            let writes = v2::limits(&resources).unwrap().writes;
            oom_policy(&writes, version).map(|found| show(&[found]))
        };
        assert_eq!(policy("1", 253).as_deref(), Some("OOMPolicy=kill"));
        assert_eq!(policy("1", 252), None);
        assert_eq!(policy("0", 253), None);
    }

    #[test]
    fn device_rules_are_told_where_systemd_has_words_for_them() {
        let policy = |devices: &str, mode| {
            let json = format!(r#"{{"resources":{{"devices":[{devices}]}}}}"#);
            let linux: Linux = serde_json::from_str(&json).unwrap();
            let rules = devices::rules(&linux).unwrap();
            device_policy(&rules, mode, &facts("/")).map(|found| show(&found))
        };
        assert_eq!(
            policy("", Mode::V2).as_deref(),
            Some(
                "DevicePolicy=strict DeviceAllow=[(block-* m) (char-* m) (/dev/char/1:3 rwm) \
                 (/dev/char/1:5 rwm) (/dev/char/1:7 rwm) (/dev/char/1:8 rwm) (/dev/char/1:9 rwm) \
                 (/dev/char/5:0 rwm) (/dev/char/5:2 rwm) \
                 (/dev/char/10:200 rwm) (char-pts rwm)]"
            )
        );
        let all = policy(r#"{"allow":true,"access":"rwm"}"#, Mode::V2);
        assert_eq!(all.as_deref(), Some("DevicePolicy=auto DeviceAllow=[]"));
        let minor = r#"{"allow":true,"type":"c","minor":9,"access":"r"}"#;
        assert_eq!(policy(minor, Mode::V2), None);
        assert!(policy(minor, Mode::V1).is_some());
    }

    #[test]
    fn an_annotation_wins_over_what_we_would_say() {
        let json = r#"{"annotations":{"org.systemd.property.TasksMax":"uint64 9",
            "org.systemd.property.Description":"'mine'","other":"x"}}"#;
        let facts = facts("/");
        let mut unit = Unit::plan(&Spec::parse(json.as_bytes()).unwrap(), "web", &facts).unwrap();
        let resources = Resources::parse(br#"{"pids":{"limit":7}}"#).unwrap();
        unit.limit(
            &v2::limits(&resources).unwrap().writes,
            None,
            Mode::V2,
            &facts,
        );
        assert_eq!(
            show(&unit.properties),
            "Slice=system.slice Delegate=true CollectMode=inactive-or-failed CPUAccounting=true \
             IOAccounting=true MemoryAccounting=true TasksAccounting=true \
             DefaultDependencies=false Description=mine TasksMax=9"
        );
    }
}
