//! Cgroups on this host's kernel: made, limited, joined, frozen, emptied and
//! removed. Needs root; each test has a cgroup of its own.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::Pid;
use rrun::cgroup::hierarchy::{Hierarchies, Mode};
use rrun::cgroup::{Cgroup, Record, SubCgroups};
use rrun::plan::cgroup::{CgroupPlan, Manager, cgroup};
use rrun::spec::Spec;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A cgroup path of this test process and no other.
fn name() -> String {
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("/rrun-test-{}-{count}", std::process::id())
}

fn plan(path: &str, resources: &str) -> CgroupPlan {
    let json = format!(r#"{{"linux":{{"cgroupsPath":{path:?},"resources":{resources}}}}}"#);
    let spec = Spec::parse(json.as_bytes()).unwrap();
    let hierarchies = Hierarchies::read().unwrap();
    cgroup(&spec, "unused", &hierarchies, false, Manager::Cgroupfs).unwrap()
}

fn directory(record: &Record, controller: &str) -> PathBuf {
    let member = record
        .members
        .iter()
        .find(|member| member.has(controller) || (controller.is_empty() && member.is_v2()))
        .unwrap_or_else(|| panic!("no hierarchy has {controller:?}"));
    member.directory()
}

fn read(record: &Record, controller: &str, file: &str) -> String {
    let path = directory(record, controller).join(file);
    let text = fs::read_to_string(&path);
    text.unwrap_or_else(|error| panic!("{path:?}: {error}"))
        .trim()
        .to_owned()
}

/// Something to put into a cgroup; killed at the end whatever happens.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }

    fn state(&self) -> String {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        stat.rsplit_once(") ").unwrap().1[..1].to_owned()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether this host mounts v1 controllers, which these tests are about; the
/// pure v2 ones are in a VM of their own.
fn has_v1() -> bool {
    matches!(Hierarchies::read().unwrap().mode(), Mode::V1 | Mode::Hybrid)
}

#[test]
fn a_container_joins_every_hierarchy_and_leaves_none_behind() {
    let path = name();
    let plan = plan(&format!("{path}/web"), "{}");
    let record = Record::from(&plan);
    let made = Cgroup::create(&plan).unwrap();
    assert_eq!(made.record(), record);
    let sleeper = Sleeper::start();
    made.attach(sleeper.pid()).unwrap();
    let joined = fs::read_to_string(format!("/proc/{}/cgroup", sleeper.pid())).unwrap();
    for line in joined.lines() {
        assert!(line.ends_with(&format!(":{path}/web")), "{line}");
    }
    assert_eq!(joined.lines().count(), record.members.len());
    assert_eq!(made.pids().unwrap(), [sleeper.pid()]);
    drop(sleeper);
    made.remove().unwrap();
    for member in &record.members {
        assert!(!member.directory().exists(), "{:?}", member.directory());
        // What was made on the way stays, as with runc: it may be shared.
        fs::remove_dir(member.directory().parent().unwrap()).unwrap();
    }
}

#[test]
fn limits_are_in_the_files() {
    if !has_v1() {
        return;
    }
    let plan = plan(
        &name(),
        r#"{"memory":{"limit":33554432,"swap":67108864,"reservation":16777216,"swappiness":7},
            "cpu":{"shares":512,"quota":20000,"period":50000,"burst":10000,"cpus":"0","mems":"0"},
            "pids":{"limit":12},
            "devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]}"#,
    );
    let made = Cgroup::create(&plan).unwrap();
    made.limit(&plan).unwrap();
    let record = made.record();
    for (controller, file, expected) in [
        ("memory", "memory.limit_in_bytes", "33554432"),
        ("memory", "memory.memsw.limit_in_bytes", "67108864"),
        ("memory", "memory.soft_limit_in_bytes", "16777216"),
        ("memory", "memory.swappiness", "7"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "20000"),
        ("cpu", "cpu.cfs_period_us", "50000"),
        ("cpu", "cpu.cfs_burst_us", "10000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("cpuset", "cpuset.mems", "0"),
        ("pids", "pids.max", "12"),
    ] {
        assert_eq!(read(&record, controller, file), expected, "{file}");
    }
    let mut devices: Vec<String> = read(&record, "devices", "devices.list")
        .lines()
        .map(str::to_owned)
        .collect();
    devices.sort();
    assert_eq!(
        devices,
        [
            "b *:* m",
            "c *:* m",
            "c 10:200 rwm",
            "c 10:229 rw",
            "c 136:* rwm",
            "c 1:3 rwm",
            "c 1:5 rwm",
            "c 1:7 rwm",
            "c 1:8 rwm",
            "c 1:9 rwm",
            "c 5:0 rwm",
            "c 5:1 rwm",
            "c 5:2 rwm",
        ]
    );
    made.remove().unwrap();
}

#[test]
fn memory_and_swap_move_both_ways() {
    if !has_v1() {
        return;
    }
    let path = name();
    let at = |limit: u64, swap: i64| {
        plan(
            &path,
            &format!(r#"{{"memory":{{"limit":{limit},"swap":{swap}}}}}"#),
        )
        .writes
    };
    let made = Cgroup::create(&plan(&path, "{}")).unwrap();
    let record = made.record();
    for (limit, swap) in [
        (8 << 20, 16 << 20),
        (64 << 20, 128 << 20),
        (4 << 20, 4 << 20),
    ] {
        made.apply(&at(limit, swap)).unwrap();
        assert_eq!(
            read(&record, "memory", "memory.limit_in_bytes"),
            limit.to_string()
        );
        assert_eq!(
            read(&record, "memory", "memory.memsw.limit_in_bytes"),
            swap.to_string()
        );
    }
    let error = made.apply(&at(8 << 20, 4 << 20)).unwrap_err();
    assert!(
        error.to_string().starts_with("linux.resources.memory."),
        "{error}"
    );
    made.remove().unwrap();
}

#[test]
fn cpu_quota_and_period_move_both_ways() {
    if !has_v1() {
        return;
    }
    let parent = name();
    let path = format!("{parent}/child");
    let at = |quota: i64, period: u64| {
        plan(
            &path,
            &format!(r#"{{"cpu":{{"quota":{quota},"period":{period}}}}}"#),
        )
        .writes
    };
    let above = Cgroup::create(&plan(&parent, "{}")).unwrap();
    above
        .apply(&plan(&parent, r#"{"cpu":{"quota":50000,"period":100000}}"#).writes)
        .unwrap();
    let made = Cgroup::create(&plan(&path, "{}")).unwrap();
    // Each step fits the parent's half CPU, but not with the old quota and the
    // new period at once.
    for (quota, period) in [(40_000, 100_000), (4_000, 10_000), (40_000, 100_000)] {
        made.apply(&at(quota, period)).unwrap();
        let record = made.record();
        assert_eq!(read(&record, "cpu", "cpu.cfs_quota_us"), quota.to_string());
        assert_eq!(
            read(&record, "cpu", "cpu.cfs_period_us"),
            period.to_string()
        );
    }
    made.remove().unwrap();
    above.remove().unwrap();
}

#[test]
fn a_cgroup_in_use_is_refused_and_untouched() {
    let plan = plan(&name(), "{}");
    let first = Cgroup::create(&plan).unwrap();
    let sleeper = Sleeper::start();
    first.attach(sleeper.pid()).unwrap();
    let error = Cgroup::create(&plan).unwrap_err().to_string();
    assert!(
        error.ends_with("container's cgroup is not empty: 1 process(es) found"),
        "{error}"
    );
    assert_eq!(first.pids().unwrap(), [sleeper.pid()]);
    drop(sleeper);
    first.freeze().unwrap();
    let error = Cgroup::create(&plan).unwrap_err().to_string();
    assert!(
        error.ends_with("container's cgroup unexpectedly frozen"),
        "{error}"
    );
    first.thaw().unwrap();
    // Empty and thawed it may be used again.
    Cgroup::create(&plan).unwrap().remove().unwrap();
    assert!(!first.record().members[0].directory().exists());
}

#[test]
fn what_create_made_is_removed_when_it_fails() {
    let path = name();
    let blocked = plan(&format!("{path}/a"), "{}");
    let last = blocked.members.last().unwrap().clone();
    // In use in the last hierarchy, so that the others are made first.
    let mut one = blocked.clone();
    one.members = vec![last.clone()];
    let other = Cgroup::create(&one).unwrap();
    let sleeper = Sleeper::start();
    other.attach(sleeper.pid()).unwrap();
    Cgroup::create(&blocked).unwrap_err();
    for member in &blocked.members[..blocked.members.len() - 1] {
        let parent = member.directory().parent().unwrap().to_owned();
        assert!(!parent.exists(), "{parent:?}");
    }
    drop(sleeper);
    other.remove().unwrap();
    fs::remove_dir(last.directory().parent().unwrap()).unwrap();
}

#[test]
fn frozen_processes_stop_and_go_on() {
    let plan = plan(&name(), "{}");
    let made = Cgroup::create(&plan).unwrap();
    let mut busy = Sleeper(
        Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap(),
    );
    made.attach(busy.pid()).unwrap();
    assert_eq!(busy.state(), "R");
    made.freeze().unwrap();
    assert!(made.is_frozen().unwrap());
    assert_ne!(busy.state(), "R");
    made.thaw().unwrap();
    assert!(!made.is_frozen().unwrap());
    assert_eq!(busy.state(), "R");
    // Killed although frozen, and not left frozen.
    made.freeze().unwrap();
    made.kill().unwrap();
    assert_eq!(busy.0.wait().unwrap().signal(), Some(9));
    assert!(!made.is_frozen().unwrap());
    made.remove().unwrap();
}

#[test]
fn a_fork_bomb_is_killed_and_its_cgroups_removed() {
    let plan = plan(&name(), r#"{"pids":{"limit":50}}"#);
    let made = Cgroup::create(&plan).unwrap();
    made.limit(&plan).unwrap();
    let record = made.record();
    for member in &record.members {
        let below = member.directory().join("a");
        fs::create_dir(&below).unwrap();
        fs::create_dir(below.join("b")).unwrap();
    }
    let pids = directory(&record, "pids").join("cgroup.procs");
    let script = "f() { f | f & }; echo go; read _; while :; do f; sleep 0.01; done 2>/dev/null";
    let mut child = Command::new("sh")
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    made.attach(pid).unwrap();
    drop(child.stdin.take());
    let many = std::time::Instant::now();
    while fs::read_to_string(&pids).unwrap().lines().count() < 5 && many.elapsed().as_secs() < 5 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    made.kill().unwrap();
    child.wait().unwrap();
    made.remove().unwrap();
    for member in &record.members {
        assert!(!member.directory().exists(), "{:?}", member.directory());
    }
}

#[test]
fn exec_goes_below_the_cgroup_when_told_to() {
    let plan = plan(&name(), "{}");
    let made = Cgroup::create(&plan).unwrap();
    let record = made.record();
    fs::create_dir(directory(&record, "pids").join("sub")).unwrap();
    let (init, other) = (Sleeper::start(), Sleeper::start());
    made.attach(init.pid()).unwrap();
    let sub = SubCgroups::parse(&["pids:sub".to_owned()]).unwrap();
    made.attach_exec(other.pid(), &sub, init.pid()).unwrap();
    let joined = fs::read_to_string(format!("/proc/{}/cgroup", other.pid())).unwrap();
    for line in joined.lines() {
        assert_eq!(line.ends_with("/sub"), line.contains(":pids:"), "{line}");
    }
    let unknown = SubCgroups::parse(&["tea:sub".to_owned()]).unwrap();
    let error = made
        .attach_exec(other.pid(), &unknown, init.pid())
        .unwrap_err();
    assert_eq!(error.to_string(), "unknown controller tea in --cgroup");
    let missing = SubCgroups::parse(&["no/such".to_owned()]).unwrap();
    let error = made
        .attach_exec(other.pid(), &missing, init.pid())
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("join the cgroup: open("), "{error}");
    assert!(error.ends_with("no such file or directory"), "{error}");
    drop((init, other));
    made.remove().unwrap();
}

#[test]
fn a_record_of_what_was_never_made_opens_as_nothing() {
    let record = Record::from(&plan(&name(), "{}"));
    let text = serde_json::to_string(&record).unwrap();
    let record: Record = serde_json::from_str(&text).unwrap();
    let opened = Cgroup::open(&record).unwrap();
    assert!(!opened.exists());
    assert_eq!(opened.pids().unwrap(), []);
    opened.kill().unwrap();
    opened.remove().unwrap();
}
