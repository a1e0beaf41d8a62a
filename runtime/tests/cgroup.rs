//! Cgroups on this host's kernel: made, limited, joined, frozen, emptied and
//! removed. Needs root; each test has a cgroup of its own.
//!
//! A hybrid host is also seen as others would be: in a mount namespace where
//! only the v1 hierarchies are mounted, and in one with v2 alone.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use rrun::cgroup::hierarchy::{Hierarchies, Mode};
use rrun::cgroup::{Cgroup, Record, SubCgroups};
use rrun::plan::cgroup::unit::{self, Unit};
use rrun::plan::cgroup::{CgroupPlan, Manager, cgroup};
use rrun::spec::Spec;
use rrun::systemd::Facts;

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
    cgroup(
        &spec,
        "unused",
        &hierarchies,
        false,
        Manager::Cgroupfs,
        &Facts::default(),
    )
    .unwrap()
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

/// A cgroup that a failing test doesn't leave behind.
struct Made(Option<Cgroup>);

fn create(plan: &CgroupPlan) -> Made {
    Made(Some(try_create(plan).unwrap()))
}

/// Makes it in all hierarchies, or none.
fn try_create(plan: &CgroupPlan) -> rrun::error::Result<Cgroup> {
    let mut cgroup = Cgroup::create(plan)?;
    match cgroup.create_v1(plan) {
        Ok(()) => Ok(cgroup),
        Err(error) => {
            cgroup.remove().unwrap();
            Err(error)
        }
    }
}

impl Made {
    fn remove(mut self) -> rrun::error::Result<()> {
        self.0.take().unwrap().remove()
    }
}

impl std::ops::Deref for Made {
    type Target = Cgroup;

    fn deref(&self) -> &Cgroup {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(cgroup) = self.0.take() {
            let _ = cgroup.kill();
            let _ = cgroup.remove();
        }
    }
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

/// What of the host's cgroups is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    /// What the host has.
    Host,
    /// Its v1 hierarchies only.
    V1,
    /// Its v2 hierarchy only.
    V2,
}

/// Runs `test` in each of the views, each in a thread with a mount namespace
/// of its own.
fn in_views(views: &[View], test: fn(View)) {
    let host = Hierarchies::read().unwrap();
    for view in views {
        if *view == View::V1 && host.v1.is_empty() {
            continue;
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                view.enter(&host);
                test(*view);
            });
        });
    }
}

impl View {
    fn enter(self, host: &Hierarchies) {
        const AT: &str = "/sys/fs/cgroup";
        let mount = |from: &str, to: &Path, kind: Option<&str>, flags: MsFlags| {
            nix::mount::mount(Some(from), to, kind, flags, None::<&str>)
                .unwrap_or_else(|error| panic!("mount {from:?} on {to:?}: {error}"));
        };
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).unwrap();
        mount(
            "none",
            Path::new("/"),
            None,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        );
        match self {
            View::Host => {}
            View::V1 => {
                let new = PathBuf::from(format!("/tmp/rrun-test{}", name().replace('/', "-")));
                fs::create_dir(&new).unwrap();
                mount("tmpfs", &new, Some("tmpfs"), MsFlags::empty());
                for hierarchy in &host.v1 {
                    let to = new.join(hierarchy.mount.file_name().unwrap());
                    fs::create_dir(&to).unwrap();
                    mount(
                        hierarchy.mount.to_str().unwrap(),
                        &to,
                        None,
                        MsFlags::MS_BIND,
                    );
                }
                mount(new.to_str().unwrap(), Path::new(AT), None, MsFlags::MS_MOVE);
                fs::remove_dir(&new).unwrap();
                assert_eq!(Hierarchies::read().unwrap().mode(), Mode::V1);
            }
            View::V2 => {
                mount("none", Path::new(AT), Some("cgroup2"), MsFlags::empty());
                assert_eq!(Hierarchies::read().unwrap().mode(), Mode::V2);
            }
        }
    }
}

#[test]
fn a_container_joins_every_hierarchy_and_leaves_none_behind() {
    in_views(&[View::Host, View::V1, View::V2], |_| {
        let path = name();
        let plan = plan(&format!("{path}/web"), "{}");
        let record = plan.record();
        let made = create(&plan);
        assert_eq!(made.record(), record);
        let sleeper = Sleeper::start();
        made.attach(sleeper.pid()).unwrap();
        let joined = fs::read_to_string(format!("/proc/{}/cgroup", sleeper.pid())).unwrap();
        for member in &record.members {
            let line = format!(":{}:{path}/web", member.controllers.join(","));
            assert!(
                joined.lines().any(|joined| joined.ends_with(&line)),
                "{line}: {joined}"
            );
        }
        assert_eq!(made.pids().unwrap(), [sleeper.pid()]);
        drop(sleeper);
        made.remove().unwrap();
        for member in &record.members {
            assert!(!member.directory().exists(), "{:?}", member.directory());
            // What was made on the way stays, as with runc: it may be shared.
            fs::remove_dir(member.directory().parent().unwrap()).unwrap();
        }
    });
}

#[test]
fn limits_are_in_the_files() {
    in_views(&[View::Host, View::V1], |_| {
        let plan = plan(
            &name(),
            r#"{"memory":{"limit":33554432,"swap":67108864,"reservation":16777216,"swappiness":7},
            "cpu":{"shares":512,"quota":20000,"period":50000,"burst":10000,"cpus":"0","mems":"0"},
            "pids":{"limit":12},
            "devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]}"#,
        );
        let made = create(&plan);
        made.apply(&plan).unwrap();
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
                "c 5:2 rwm",
            ]
        );
        made.remove().unwrap();
    });
}

#[test]
fn memory_and_swap_move_both_ways() {
    in_views(&[View::Host, View::V1], |_| {
        let path = name();
        let at = |limit: u64, swap: i64| {
            plan(
                &path,
                &format!(r#"{{"memory":{{"limit":{limit},"swap":{swap}}}}}"#),
            )
            .writes
        };
        let made = create(&plan(&path, "{}"));
        let record = made.record();
        for (limit, swap) in [
            (8 << 20, 16 << 20),
            (64 << 20, 128 << 20),
            (4 << 20, 4 << 20),
        ] {
            made.write(&at(limit, swap)).unwrap();
            assert_eq!(
                read(&record, "memory", "memory.limit_in_bytes"),
                limit.to_string()
            );
            assert_eq!(
                read(&record, "memory", "memory.memsw.limit_in_bytes"),
                swap.to_string()
            );
        }
        let error = made.write(&at(8 << 20, 4 << 20)).unwrap_err();
        assert!(
            error.to_string().starts_with("linux.resources.memory."),
            "{error}"
        );
        made.remove().unwrap();
    });
}

#[test]
fn cpu_quota_and_period_move_both_ways() {
    in_views(&[View::Host, View::V1], |_| {
        let parent = name();
        let path = format!("{parent}/child");
        let at = |quota: i64, period: u64| {
            plan(
                &path,
                &format!(r#"{{"cpu":{{"quota":{quota},"period":{period}}}}}"#),
            )
            .writes
        };
        let above = create(&plan(&parent, "{}"));
        above
            .write(&plan(&parent, r#"{"cpu":{"quota":50000,"period":100000}}"#).writes)
            .unwrap();
        let made = create(&plan(&path, "{}"));
        // Each step fits the parent's half CPU, but not with the old quota and the
        // new period at once.
        for (quota, period) in [(40_000, 100_000), (4_000, 10_000), (40_000, 100_000)] {
            made.write(&at(quota, period)).unwrap();
            let record = made.record();
            assert_eq!(read(&record, "cpu", "cpu.cfs_quota_us"), quota.to_string());
            assert_eq!(
                read(&record, "cpu", "cpu.cfs_period_us"),
                period.to_string()
            );
        }
        made.remove().unwrap();
        above.remove().unwrap();
    });
}

#[test]
fn a_cgroup_in_use_is_refused_and_untouched() {
    in_views(&[View::Host, View::V1, View::V2], |_| {
        let plan = plan(&name(), "{}");
        let first = create(&plan);
        let sleeper = Sleeper::start();
        first.attach(sleeper.pid()).unwrap();
        let error = try_create(&plan).unwrap_err().to_string();
        assert!(
            error.ends_with("container's cgroup is not empty: 1 process(es) found"),
            "{error}"
        );
        assert_eq!(first.pids().unwrap(), [sleeper.pid()]);
        drop(sleeper);
        first.freeze().unwrap();
        let error = try_create(&plan).unwrap_err().to_string();
        assert!(
            error.ends_with("container's cgroup unexpectedly frozen"),
            "{error}"
        );
        first.thaw().unwrap();
        // Empty and thawed it may be used again.
        create(&plan).remove().unwrap();
        assert!(!first.record().members[0].directory().exists());
    });
}

#[test]
fn a_scope_in_use_is_refused_before_it_is_written_down() {
    in_views(&[View::Host, View::V1, View::V2], |_| {
        let mut plan = plan(&name(), "{}");
        let theirs = create(&plan);
        let sleeper = Sleeper::start();
        theirs.attach(sleeper.pid()).unwrap();
        let mut refusal = |unit: &str| {
            let name = unit::Name {
                unit: unit.to_owned(),
                ..unit::Name::default()
            };
            plan.unit = Some(Unit {
                name,
                path: plan.members[0].path.clone(),
                properties: Vec::new(),
            });
            let checked = Cgroup::check_unused(&plan);
            checked.map_err(|error| error.to_string())
        };
        let error = refusal("web.scope").unwrap_err();
        assert!(
            error.starts_with("start the unit \"web.scope\": "),
            "{error}"
        );
        // A slice is there for others, too.
        refusal("web.slice").unwrap();
    });
}

#[test]
fn what_create_made_is_removed_when_it_fails() {
    in_views(&[View::Host, View::V1, View::V2], |_| {
        let path = name();
        let blocked = plan(&format!("{path}/a"), "{}");
        let last = blocked.members.last().unwrap().clone();
        // In use in the last hierarchy, so that the others are made first.
        let mut one = blocked.clone();
        one.members = vec![last.clone()];
        let other = create(&one);
        let sleeper = Sleeper::start();
        other.attach(sleeper.pid()).unwrap();
        try_create(&blocked).unwrap_err();
        for member in &blocked.members[..blocked.members.len() - 1] {
            let parent = member.directory().parent().unwrap().to_owned();
            assert!(!parent.exists(), "{parent:?}");
        }
        drop(sleeper);
        other.remove().unwrap();
        fs::remove_dir(last.directory().parent().unwrap()).unwrap();
    });
}

#[test]
fn frozen_processes_stop_and_go_on() {
    in_views(&[View::Host, View::V1, View::V2], |_| {
        let plan = plan(&name(), "{}");
        let made = create(&plan);
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
    });
}

#[test]
fn a_fork_bomb_is_killed_and_its_cgroups_removed() {
    in_views(&[View::Host, View::V1], |_| {
        let plan = plan(&name(), r#"{"pids":{"limit":50}}"#);
        let made = create(&plan);
        made.apply(&plan).unwrap();
        let record = made.record();
        for member in &record.members {
            let below = member.directory().join("a");
            fs::create_dir(&below).unwrap();
            fs::create_dir(below.join("b")).unwrap();
        }
        let pids = directory(&record, "pids").join("cgroup.procs");
        let script =
            "f() { f | f & }; echo go; read _; while :; do f; sleep 0.01; done 2>/dev/null";
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
        while fs::read_to_string(&pids).unwrap().lines().count() < 5 && many.elapsed().as_secs() < 5
        {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        made.kill().unwrap();
        child.wait().unwrap();
        made.remove().unwrap();
        for member in &record.members {
            assert!(!member.directory().exists(), "{:?}", member.directory());
        }
    });
}

#[test]
fn exec_goes_below_the_cgroup_when_told_to() {
    in_views(&[View::Host, View::V1], |_| {
        let plan = plan(&name(), "{}");
        let made = create(&plan);
        let record = made.record();
        fs::create_dir(directory(&record, "pids").join("sub")).unwrap();
        let (init, other) = (Sleeper::start(), Sleeper::start());
        made.attach(init.pid()).unwrap();
        let at = |argument: &str| {
            let sub = SubCgroups::parse(&[argument.to_owned()]).unwrap();
            Cgroup::open(&record).unwrap().for_exec(&sub, init.pid())
        };
        at("pids:/sub/").unwrap().attach(other.pid()).unwrap();
        let joined = fs::read_to_string(format!("/proc/{}/cgroup", other.pid())).unwrap();
        for line in joined.lines() {
            assert_eq!(line.ends_with("/sub"), line.contains(":pids:"), "{line}");
        }
        for (argument, expected) in [
            ("tea:sub", "unknown controller tea in --cgroup"),
            (
                "no/such",
                "/no/such\", O_DIRECTORY): no such file or directory",
            ),
        ] {
            let error = at(argument).unwrap_err().to_string();
            assert!(error.ends_with(expected), "{error}");
        }
        drop((init, other));
        made.remove().unwrap();
    });
}

#[test]
fn a_record_of_what_was_never_made_opens_as_nothing() {
    in_views(&[View::Host, View::V1, View::V2], |_| {
        let record = plan(&name(), "{}").record();
        let text = serde_json::to_string(&record).unwrap();
        let record: Record = serde_json::from_str(&text).unwrap();
        let opened = Cgroup::open(&record).unwrap();
        assert!(!opened.exists());
        assert_eq!(opened.pids().unwrap(), []);
        opened.kill().unwrap();
        opened.remove().unwrap();
    });
}

/// Runs a shell command in the cgroup; whether it succeeded.
fn succeeds(cgroup: &Cgroup, command: &str) -> bool {
    let mut child = Command::new("sh")
        .args(["-c", &format!("read _; {command}")])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    cgroup
        .attach(Pid::from_raw(i32::try_from(child.id()).unwrap()))
        .unwrap();
    drop(child.stdin.take());
    child.wait().unwrap().success()
}

#[test]
fn device_rules_hold_and_can_be_replaced() {
    in_views(&[View::Host, View::V1, View::V2], |_| {
        let path = name();
        let rules = |json: &str| plan(&path, &format!(r#"{{"devices":[{json}]}}"#));
        let kmsg = r#"{"allow":true,"type":"c","major":1,"minor":11,"access":"r"}"#;
        let none = rules("");
        let made = create(&none);
        made.apply(&none).unwrap();
        assert!(succeeds(&made, "true < /dev/null > /dev/zero"));
        assert!(!succeeds(&made, "true < /dev/kmsg"));
        let node = format!("/tmp/rrun-test-node-{}", path.replace('/', ""));
        assert!(succeeds(
            &made,
            &format!("mknod {node} c 1 11 && ! true < {node}; rc=$?; rm {node}; exit $rc")
        ));
        made.apply(&rules(kmsg)).unwrap();
        assert!(succeeds(&made, "true < /dev/kmsg"));
        assert!(!succeeds(&made, "true >> /dev/kmsg"));
        made.apply(&rules(r#"{"allow":true,"access":"rwm"}"#))
            .unwrap();
        assert!(succeeds(&made, "true < /dev/kmsg >> /dev/kmsg"));
        made.apply(&rules(r#"{"allow":false,"access":"rwm"}"#))
            .unwrap();
        assert!(!succeeds(&made, "true < /dev/kmsg"));
        assert!(succeeds(&made, "true < /dev/null"));
        made.remove().unwrap();
    });
}

#[test]
fn a_limit_without_its_controller_names_the_field() {
    in_views(&[View::V2], |_| {
        let json = r#"{"linux":{"resources":{"memory":{"limit":4096000}}}}"#;
        let spec = Spec::parse(json.as_bytes()).unwrap();
        let hierarchies = Hierarchies::read().unwrap();
        if hierarchies.offers("memory") {
            return;
        }
        let error = cgroup(
            &spec,
            "x",
            &hierarchies,
            false,
            Manager::Cgroupfs,
            &Facts::default(),
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "config.json: linux.resources.memory.limit: cannot set memory limit: container could \
             not join or create cgroup: the memory controller is not available"
        );
    });
}

#[test]
fn v2_needs_no_memlock() {
    in_views(&[View::V2], |_| {
        // As in a service without the right to raise it: everything locked
        // counts, and nothing may be.
        let plan = plan(&name(), "{}");
        let made = create(&plan);
        let limit = nix::sys::resource::Resource::RLIMIT_MEMLOCK;
        let (_, hard) = nix::sys::resource::getrlimit(limit).unwrap();
        nix::sys::resource::setrlimit(limit, 0, hard).unwrap();
        made.apply(&plan).unwrap();
        assert!(!succeeds(&made, "true < /dev/kmsg"));
        made.remove().unwrap();
    });
}

#[test]
fn an_update_that_fails_leaves_everything_as_it_was() {
    in_views(&[View::Host, View::V1], |_| {
        let path = name();
        let before = plan(
            &path,
            r#"{"memory":{"limit":33554432,"swap":33554432},"pids":{"limit":9}}"#,
        );
        let made = create(&before);
        made.apply(&before).unwrap();
        let record = made.record();
        // The kernel takes no quota below a millisecond.
        let refused = plan(
            &path,
            r#"{"memory":{"limit":67108864,"swap":67108864},"cpu":{"quota":5}}"#,
        );
        let error = made.update(&refused.writes, None).unwrap_err().to_string();
        assert!(
            error.starts_with("linux.resources.cpu.quota: write("),
            "{error}"
        );
        assert!(error.ends_with("invalid argument"), "{error}");
        for (controller, file, expected) in [
            ("memory", "memory.limit_in_bytes", "33554432"),
            ("memory", "memory.memsw.limit_in_bytes", "33554432"),
            ("pids", "pids.max", "9"),
        ] {
            assert_eq!(read(&record, controller, file), expected, "{file}");
        }
        made.remove().unwrap();
    });
}

#[test]
fn a_limit_below_the_usage_is_refused_when_asked_to() {
    in_views(&[View::Host, View::V1], |_| {
        let path = name();
        let made = create(&plan(&path, "{}"));
        let keeps = "v=$(head -c 4000000 /dev/zero | tr '\\0' x); echo > /dev/null; read _";
        let mut child = Command::new("sh")
            .args(["-c", &format!("read _; {keeps}")])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        made.attach(Pid::from_raw(i32::try_from(child.id()).unwrap()))
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, b"\n").unwrap();
        let record = made.record();
        let usage = || {
            read(&record, "memory", "memory.usage_in_bytes")
                .parse::<u64>()
                .unwrap()
        };
        let began = std::time::Instant::now();
        while usage() < 4_000_000 {
            assert!(began.elapsed().as_secs() < 10, "{}", usage());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let checked = r#"{"memory":{"limit":1000000,"checkBeforeUpdate":true}}"#;
        let error = made
            .update(&plan(&path, checked).writes, None)
            .unwrap_err()
            .to_string();
        let expected = "linux.resources.memory.limit: rejecting memory limit 1000000, which is below the usage ";
        assert!(error.starts_with(expected), "{error}");
        drop(stdin);
        child.wait().unwrap();
        made.remove().unwrap();
    });
}

#[test]
fn running_out_of_memory_is_told_once_and_removal_is_not() {
    in_views(&[View::Host, View::V1], |_| {
        let plan = plan(&name(), r#"{"memory":{"limit":8388608,"swap":8388608}}"#);
        let made = create(&plan);
        made.apply(&plan).unwrap();
        let mut watch = made.watch_oom().unwrap();
        assert_eq!(watch.seen().unwrap(), 0);
        assert!(!succeeds(&made, "exec tail /dev/zero"));
        assert_eq!(watch.seen().unwrap(), 1);
        assert!(made.is_empty().unwrap());
        made.remove().unwrap();
        assert_eq!(watch.seen().unwrap(), 0);
    });
}

#[test]
fn statistics_count_what_runs() {
    in_views(&[View::Host, View::V1, View::V2], |view| {
        let made = create(&plan(&name(), "{}"));
        assert!(succeeds(
            &made,
            "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"
        ));
        let stats = made.stats().unwrap();
        assert!(stats.cpu.usage.total > 1_000_000, "{stats:?}");
        if view != View::V2 {
            let sleeper = Sleeper::start();
            made.attach(sleeper.pid()).unwrap();
            // Memory is charged to a CPU's stock first, and is counted when that
            // is spent: the peak may stand at nothing for a moment.
            let peak = || made.stats().unwrap().memory.usage.max;
            let end = Instant::now() + Duration::from_secs(5);
            while peak() == 0 && Instant::now() < end {
                assert!(succeeds(
                    &made,
                    "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"
                ));
            }
            let stats = made.stats().unwrap();
            assert_eq!(stats.pids.current, 1);
            assert!(stats.memory.usage.max > 0);
            assert!(!stats.cpuset.cpus.is_empty());
        }
        made.remove().unwrap();
    });
}

#[test]
fn a_child_enters_v1_by_itself() {
    in_views(&[View::Host, View::V1], |_| {
        let path = name();
        let made = create(&plan(&path, "{}"));
        let doors = made.doors().unwrap();
        let v1 = made
            .record()
            .members
            .into_iter()
            .filter(|member| !member.is_v2());
        let v1: Vec<_> = v1.collect();
        assert_eq!(doors.len(), v1.len());
        for (tasks, member) in doors.into_iter().zip(v1) {
            let output = Command::new("sh")
                .args(["-c", "echo 0 >&0; cat /proc/self/cgroup"])
                .stdin(tasks)
                .output()
                .unwrap();
            let joined = String::from_utf8(output.stdout).unwrap();
            let line = format!(":{}:{path}", member.controllers.join(","));
            assert!(
                joined.lines().any(|joined| joined.ends_with(&line)),
                "{line}: {joined}"
            );
        }
        made.remove().unwrap();
    });
}
