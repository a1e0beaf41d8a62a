//! Cgroup v2 with its controllers: the files that config.json asks for, and
//! what the kernel does with them. Needs a machine whose controllers are on
//! cgroup2; `hack/vm` starts one.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use spec_tests::{Bundle, Case, Needs, Test};

pub(crate) const CASES: &[Case] = &[
    v2(
        "memory limits are in the v2 files, swap without memory",
        |t| {
            let memory = json!({ "limit": 64 << 20, "reservation": 32 << 20, "swap": 96 << 20 });
            let bundle = paused_with(t, json!({ "memory": memory }));
            let container = t.create(&bundle);
            let knob = |file: &str| t.knob("", &container.id, file);
            assert_eq!(knob("memory.max"), (64 << 20).to_string());
            assert_eq!(knob("memory.low"), (32 << 20).to_string());
            assert_eq!(knob("memory.swap.max"), (32 << 20).to_string());
        },
    ),
    v2("unlimited memory and swap are max", |t| {
        let bundle = paused_with(t, json!({ "memory": { "limit": -1, "swap": -1 } }));
        let container = t.create(&bundle);
        assert_eq!(t.knob("", &container.id, "memory.max"), "max");
        assert_eq!(t.knob("", &container.id, "memory.swap.max"), "max");
    }),
    v2("cpu limits are in the v2 files, shares as weight", |t| {
        let cpu = json!({ "shares": 1024, "quota": 20000, "period": 50000 });
        let bundle = paused_with(t, json!({ "cpu": cpu }));
        let container = t.create(&bundle);
        assert_eq!(t.knob("", &container.id, "cpu.max"), "20000 50000");
        assert_eq!(t.knob("", &container.id, "cpu.weight"), "100");
    }),
    v2("a burst that only the new quota allows is set", |t| {
        let cpu = json!({ "quota": 20000, "period": 50000, "burst": 10000 });
        let bundle = paused_with(t, json!({ "cpu": cpu }));
        let container = t.create(&bundle);
        assert_eq!(t.knob("", &container.id, "cpu.max.burst"), "10000");
    }),
    v2("cpuset is in the v2 files and holds", |t| {
        let bundle = Bundle::new(t).probe(&["pause"]);
        let bundle = with_resources(bundle, json!({ "cpu": { "cpus": "0", "mems": "0" } }));
        let container = t.start(&bundle);
        assert_eq!(t.knob("", &container.id, "cpuset.cpus"), "0");
        assert_eq!(t.knob("", &container.id, "cpuset.mems"), "0");
        let status = fs::read_to_string(format!("/proc/{}/status", container.pid()));
        let status = status.expect("status");
        assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    }),
    v2("the pids limit is in the v2 file, -1 is max", |t| {
        let container = t.create(&paused_with(t, json!({ "pids": { "limit": 17 } })));
        assert_eq!(t.knob("", &container.id, "pids.max"), "17");
        let container = t.create(&paused_with(t, json!({ "pids": { "limit": -1 } })));
        assert_eq!(t.knob("", &container.id, "pids.max"), "max");
    }),
    v2("throttles of a disk are one line of io.max", |t| {
        let (major, minor) = disk();
        let rate = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate }]);
        let io = json!({
            "throttleReadBpsDevice": rate(1_048_576), "throttleWriteBpsDevice": rate(2_097_152),
            "throttleReadIOPSDevice": rate(100), "throttleWriteIOPSDevice": rate(200),
        });
        let container = t.create(&paused_with(t, json!({ "blockIO": io })));
        assert_eq!(
            t.knob("", &container.id, "io.max"),
            format!("{major}:{minor} rbps=1048576 wbps=2097152 riops=100 wiops=200")
        );
    }),
    v2(
        "unified keys are written as they are, after the others",
        |t| {
            let bundle = paused_with(
                t,
                json!({
                    "memory": { "limit": 64 << 20 },
                    "unified": {
                        "memory.high": "33554432", "memory.max": "50331648", "pids.max": "9",
                        "cgroup.max.descendants": "3",
                    },
                }),
            );
            let container = t.create(&bundle);
            let knob = |file: &str| t.knob("", &container.id, file);
            assert_eq!(knob("memory.high"), "33554432");
            assert_eq!(knob("memory.max"), "50331648");
            assert_eq!(knob("pids.max"), "9");
            assert_eq!(knob("cgroup.max.descendants"), "3");
        },
    ),
    v2(
        "a unified key that is no file is refused, and nothing stays",
        |t| {
            let bundle = paused_with(t, json!({ "unified": { "memory.nothing": "1" } }));
            t.run(&bundle).fails(1, &["memory.nothing"]);
            assert!(!t.cgroup("", &bundle.id).exists());
            let bundle = paused_with(t, json!({ "unified": { "nothing.max": "1" } }));
            t.run(&bundle).fails(1, &["nothing"]);
            assert!(!t.cgroup("", &bundle.id).exists());
        },
    ),
    v2("limits reach a cgroup of several levels", |t| {
        let bundle = paused_with(t, json!({ "memory": { "limit": 64 << 20 } }));
        let path = format!("/{}/a/b", bundle.id);
        let bundle = bundle.with(|config| config["linux"]["cgroupsPath"] = json!(path));
        let container = t.start(&bundle);
        let leaf = t.cgroup("", &bundle.id).join("a/b");
        let limit = fs::read_to_string(leaf.join("memory.max")).expect("memory.max");
        assert_eq!(limit.trim(), (64 << 20).to_string());
        container.kill("KILL").ok();
        container.wait_status("stopped");
        container.delete().ok();
        assert!(!leaf.exists());
        let top = t.cgroup("", &bundle.id);
        let _ = fs::remove_dir(top.join("a"));
        fs::remove_dir(top).expect("rmdir");
    }),
    v2("the process is born in its cgroup", |t| {
        let bundle = Bundle::new(t).args(&["true"]);
        let log = t.directory.join("calls");
        let command = t.command(&["run", "--bundle", path(&bundle.path), &bundle.id]);
        let mut traced = Command::new("strace");
        traced.args([
            "-f",
            "-e",
            "trace=clone3,openat,openat2",
            "-s",
            "200",
            "-o",
            path(&log),
        ]);
        traced.arg(command.get_program()).args(command.get_args());
        t.spawn(&mut traced).wait().ok();
        let calls = fs::read_to_string(&log).expect("calls");
        assert!(calls.contains("CLONE_INTO_CGROUP"), "{calls}");
        let moved = calls.lines().find(|line| {
            line.contains("\"cgroup.procs\", O_WRONLY")
                || line.contains("/cgroup.procs\", O_WRONLY")
        });
        assert_eq!(moved, None);
    }),
    v2(
        "exec lands in the container's cgroup, or in one below it",
        |t| {
            let container = t.start(&Bundle::new(t).probe(&["pause"]));
            let cgroup = format!("/{}", container.id);
            let report = container.probe(&[], &["report"]).answer();
            let text = report["cgroup"].as_str().expect("cgroup");
            assert!(text.contains(&format!("0::{cgroup}")), "{text}");
            fs::create_dir(t.cgroup("", &container.id).join("below")).expect("mkdir");
            let report = container
                .probe(&["--cgroup", "below"], &["report"])
                .answer();
            let text = report["cgroup"].as_str().expect("cgroup");
            assert!(text.contains(&format!("0::{cgroup}/below")), "{text}");
        },
    ),
    v2(
        "exec finds its way when the container's own cgroup took inner ones",
        |t| {
            let container = t.start(&Bundle::new(t).probe(&["pause"]));
            let top = t.cgroup("", &container.id);
            fs::create_dir(top.join("init")).expect("mkdir");
            fs::write(top.join("init/cgroup.procs"), container.pid().to_string()).expect("move");
            fs::write(top.join("cgroup.subtree_control"), "+memory").expect("hand down");
            // The container's cgroup takes no processes now (EBUSY): beside its init.
            let report = container.probe(&[], &["report"]).answer();
            let text = report["cgroup"].as_str().expect("cgroup");
            assert!(text.contains("/init"), "{text}");
            // A name of any bytes, which the container gave it.
            let other = top.join(OsStr::from_bytes(b"\xff"));
            fs::create_dir(&other).expect("mkdir");
            fs::write(other.join("cgroup.procs"), container.pid().to_string()).expect("move");
            container.probe(&["--detach"], &["pause"]).ok();
            let inside = fs::read_to_string(other.join("cgroup.procs")).expect("processes");
            assert_eq!(inside.lines().count(), 2, "{inside}");
        },
    ),
    v2(
        "pause and resume are cgroup.freeze, and a paused container dies of delete --force",
        |t| {
            let container = t.start(&Bundle::new(t).probe(&["pause"]));
            let id = container.id.as_str();
            t.call(&["pause", id]).ok();
            assert_eq!(container.status(), "paused");
            assert_eq!(t.knob("", id, "cgroup.freeze"), "1");
            assert!(t.knob("", id, "cgroup.events").contains("frozen 1"));
            t.call(&["resume", id]).ok();
            assert_eq!(container.status(), "running");
            assert_eq!(t.knob("", id, "cgroup.freeze"), "0");
            t.call(&["pause", id]).ok();
            t.call(&["delete", "--force", id]).ok();
            assert!(!t.cgroup("", id).exists());
        },
    ),
    v2(
        "kill --all reaches processes of a shared pid namespace, by cgroup.kill",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]).without_namespace("pid");
            let container = t.start(&bundle);
            container.probe(&[], &["orphan"]).ok();
            assert_eq!(t.knob("", &container.id, "cgroup.procs").lines().count(), 2);
            t.call(&["kill", "--all", &container.id, "KILL"]).ok();
            container.wait_status("stopped");
            container.delete().ok();
            assert!(!t.cgroup("", &container.id).exists());
        },
    ),
    v2(
        "delete removes the cgroup with those that were made in it",
        |t| {
            let container = t.start(&Bundle::new(t).probe(&["pause"]));
            let top = t.cgroup("", &container.id);
            fs::create_dir_all(top.join("one/two")).expect("mkdir");
            container.kill("KILL").ok();
            container.wait_status("stopped");
            container.delete().ok();
            assert!(!top.exists());
        },
    ),
    v2("update changes the v2 files and leaves the others", |t| {
        let resources = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 50 } });
        let container = t.start(&paused_with(t, resources));
        let id = container.id.as_str();
        let knob = |file: &str| t.knob("", id, file);
        let flags = [
            ("--memory", "33554432"),
            ("--memory-swap", "50331648"),
            ("--cpu-share", "2"),
            ("--cpu-quota", "30000"),
            ("--cpu-period", "60000"),
            ("--cpuset-cpus", "0"),
        ];
        let words = flags.iter().flat_map(|(flag, value)| [*flag, *value]);
        let command: Vec<&str> = std::iter::once("update").chain(words).chain([id]).collect();
        t.call(&command).ok();
        assert_eq!(knob("memory.max"), "33554432");
        assert_eq!(knob("memory.swap.max"), "16777216");
        assert_eq!(knob("cpu.weight"), "1");
        assert_eq!(knob("cpu.max"), "30000 60000");
        assert_eq!(knob("cpuset.cpus"), "0");
        assert_eq!(knob("pids.max"), "50");
        t.call(&["update", "--pids-limit", "20", id]).ok();
        assert_eq!(knob("pids.max"), "20");
        assert_eq!(knob("memory.max"), "33554432");
    }),
    v2("update --resources takes unified keys", |t| {
        let container = t.start(&paused_with(t, json!({})));
        let path = t.directory.join("resources.json");
        let resources = json!({ "unified": { "memory.high": "33554432" } });
        fs::write(&path, resources.to_string()).expect("write");
        t.call(&[
            "update",
            "-r",
            spec_tests::runtime::text(&path),
            &container.id,
        ])
        .ok();
        assert_eq!(t.knob("", &container.id, "memory.high"), "33554432");
    }),
    v2(
        "events --stats has the v2 numbers under the names that engines read",
        |t| {
            let resources = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 50 } });
            let container = t.start(&paused_with(t, resources));
            let stats = t.call(&["events", "--stats", &container.id]).json();
            assert_eq!(stats["type"], "stats");
            assert_eq!(stats["id"], Value::from(container.id.clone()));
            let data = &stats["data"];
            assert_eq!(data["pids"], json!({ "current": 1, "limit": 50 }));
            assert_eq!(data["memory"]["usage"]["limit"], 64 << 20);
            assert!(data["memory"]["usage"]["usage"].as_u64().expect("usage") > 0);
            assert!(data["memory"]["raw"]["anon"].as_u64().expect("anon") > 0);
            assert!(data["cpu"]["usage"]["total"].as_u64().expect("total") > 0);
            // What waits for what, where the kernel counts it.
            if t.cgroup("", &container.id).join("cpu.pressure").exists() {
                for resource in ["cpu", "memory", "blkio"] {
                    let some = &data[resource]["psi"]["some"];
                    for average in ["avg10", "avg60", "avg300"] {
                        assert!(some[average].is_f64(), "{resource}: {some}");
                    }
                    assert!(some["total"].is_u64(), "{resource}: {some}");
                }
            }
        },
    ),
    v2(
        "device rules deny mknod and open, and update keeps them",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]).with(|config| {
                let node = json!({ "path": "/dev/denied", "type": "c", "major": 1, "minor": 11 });
                config["linux"]["devices"] = json!([node]);
            });
            let container = t.start(&bundle);
            let denied = |flags: &[&str]| {
                container
                    .probe(flags, &["open", "/dev/denied", "0"])
                    .answer()
            };
            assert_eq!(denied(&[]), json!({ "errno": 1 }));
            t.call(&["update", "--pids-limit", "20", &container.id])
                .ok();
            assert_eq!(denied(&[]), json!({ "errno": 1 }));
            let zero = container.probe(&[], &["open", "/dev/zero", "0"]).answer();
            assert_eq!(zero, json!({ "ok": true }));
        },
    ),
];

/// A case that only a cgroup2 with controllers can run.
const fn v2(name: &'static str, run: fn(&Test)) -> Case {
    Case::kernel(name, run).needs(Needs::V2Limits)
}

fn paused_with(t: &Test, resources: Value) -> Bundle {
    with_resources(Bundle::new(t).probe(&["pause"]), resources)
}

fn with_resources(bundle: Bundle, resources: Value) -> Bundle {
    bundle.with(|config| {
        for (name, value) in resources.as_object().expect("an object") {
            config["linux"]["resources"][name] = value.clone();
        }
    })
}

fn path(path: &Path) -> &str {
    spec_tests::runtime::text(path)
}

/// A disk of the machine: its major and minor number.
fn disk() -> (u32, u32) {
    let disks = fs::read_dir("/sys/block").expect("/sys/block").flatten();
    let mut numbers = disks.filter_map(|disk| fs::read_to_string(disk.path().join("dev")).ok());
    let number = numbers.next().expect("a disk");
    let (major, minor) = number.trim().split_once(':').expect("MAJOR:MINOR");
    (major.parse().expect("major"), minor.parse().expect("minor"))
}
