//! `update`: what has a flag or a place in the document of its own, what it goes
//! by besides, and what it is without a cgroup. `cgroups.rs` and `cgroup_v2.rs`
//! have the limits that everybody sets.

use std::fs;

use serde_json::{Value, json};
use spec_tests::runtime::{Container, Outcome, text};
use spec_tests::{Bundle, Case, Needs, Test};

pub(crate) const CASES: &[Case] = &[
    Case::kernel("update changes burst and idle by flags", |t| {
        let container = paused(t, json!({}));
        for (flags, burst, idle) in [
            ("--cpu-quota 50000 --cpu-burst 20000", 20000, 0),
            ("--cpu-burst 1000", 1000, 0),
            ("--cpu-idle 1", 1000, 1),
            ("--cpu-idle 0 --cpu-burst 0", 0, 0),
        ] {
            by_flags(t, &container, flags).ok();
            let file = match t.hierarchy("cpu") {
                Some(_) => "cpu.cfs_burst_us",
                None => "cpu.max.burst",
            };
            let found = [file, "cpu.idle"].map(|file| number(t, &container, "cpu", file));
            assert_eq!(found, [burst, idle], "{flags}");
        }
    })
    .needs(Needs::Limits)
    .except(&[("runc", "1.1.5 has neither flag")]),
    Case::kernel("update changes burst and idle by a document", |t| {
        let container = paused(t, json!({}));
        for (cpu, burst, idle) in [
            (json!({ "quota": 50000, "burst": 20000 }), 20000, 0),
            (json!({ "burst": 0 }), 0, 0),
            (json!({ "idle": 1 }), 0, 1),
            (json!({ "idle": 0, "burst": 1000 }), 1000, 0),
        ] {
            by_document(t, &container, &json!({ "cpu": cpu })).ok();
            let found = ["cpu.max.burst", "cpu.idle"].map(|file| number(t, &container, "", file));
            assert_eq!(found, [burst, idle], "{cpu}");
        }
    })
    .needs(Needs::V2Limits)
    .except(&[("runc", "1.1.5 has neither field")]),
    Case::runc(
        "update takes the flags for kernel memory that runc has",
        |t| {
            let container = paused(t, json!({}));
            let flags = "--kernel-memory 16777216 --kernel-memory-tcp 0 --pids-limit 19";
            by_flags(t, &container, flags).ok();
            assert_eq!(number(t, &container, "pids", "pids.max"), 19);
        },
    )
    .needs(Needs::Limits),
    Case::runc("update changes the real-time limits by flags", |t| {
        let container = paused(t, json!({}));
        if !t
            .cgroup("cpu", &container.id)
            .join("cpu.rt_runtime_us")
            .exists()
        {
            drop(container);
            t.does_not_apply("the kernel has no groups of real-time processes");
        }
        for (flags, runtime, period) in [
            ("--cpu-rt-runtime 5000", 5000, 1_000_000),
            ("--cpu-rt-period 500000", 5000, 500_000),
            (
                "--cpu-rt-runtime 2000 --cpu-rt-period 400000",
                2000,
                400_000,
            ),
        ] {
            by_flags(t, &container, flags).ok();
            let files = ["cpu.rt_runtime_us", "cpu.rt_period_us"];
            let found = files.map(|file| number(t, &container, "cpu", file));
            assert_eq!(found, [runtime, period], "{flags}");
        }
    })
    .needs(Needs::V1),
    Case::runc("update changes the memory nodes by a flag", |t| {
        let container = paused(t, json!({}));
        by_flags(t, &container, "--cpuset-mems 0").ok();
        let controller = in_view(t, "cpuset");
        assert_eq!(t.knob(controller, &container.id, "cpuset.mems"), "0");
        let refused = by_flags(t, &container, "--cpuset-mems 77");
        refused.fails(1, &["cpuset.mems"]);
        assert_eq!(t.knob(controller, &container.id, "cpuset.mems"), "0");
    })
    .needs(Needs::Limits),
    Case::runc("update changes the weight of block I/O", |t| {
        let container = paused(t, json!({}));
        let directory = t.cgroup(in_view(t, "blkio"), &container.id);
        let mut names = [
            "blkio.bfq.weight",
            "io.bfq.weight",
            "blkio.weight",
            "io.weight",
        ]
        .iter();
        let Some(file) = names.find(|file| directory.join(file).exists()) else {
            by_flags(t, &container, "--blkio-weight 300").fails(1, &["weight"]);
            drop(container);
            t.does_not_apply("the kernel weighs no block I/O");
        };
        by_flags(t, &container, "--blkio-weight 300").ok();
        let weight = fs::read_to_string(directory.join(file)).expect("the weight");
        let expected = match *file {
            "io.weight" => "default 2930",
            "io.bfq.weight" => "default 300",
            _ => "300",
        };
        assert_eq!(weight.lines().next(), Some(expected), "{file}");
    })
    .needs(Needs::Limits),
    Case::kernel("update changes throttles of a disk by a document", |t| {
        let (major, minor) = disk();
        let rate = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate }]);
        let container = paused(
            t,
            json!({ "blockIO": { "throttleReadBpsDevice": rate(1 << 20) } }),
        );
        let io =
            json!({ "throttleReadBpsDevice": rate(2 << 20), "throttleWriteIOPSDevice": rate(70) });
        by_document(t, &container, &json!({ "blockIO": io })).ok();
        match t.hierarchy("blkio") {
            Some(_) => {
                let knob = |file: &str| t.knob("blkio", &container.id, file);
                let line = |value: u64| format!("{major}:{minor} {value}");
                assert_eq!(knob("blkio.throttle.read_bps_device"), line(2 << 20));
                assert_eq!(knob("blkio.throttle.write_iops_device"), line(70));
            }
            None => assert_eq!(
                t.knob("", &container.id, "io.max"),
                format!("{major}:{minor} rbps=2097152 wbps=max riops=max wiops=70")
            ),
        }
    })
    .needs(Needs::Limits)
    .except(&[("runc", "1.1.5 reads only the weight of it")]),
    Case::kernel("update changes the huge pages by a document", |t| {
        let (controller, file) = match (t.hierarchy("hugetlb"), t.view.as_str()) {
            (Some(_), _) => ("hugetlb", "hugetlb.2MB.limit_in_bytes"),
            (None, "v2") => ("", "hugetlb.2MB.max"),
            _ => t.does_not_apply("the hugetlb controller is mounted nowhere"),
        };
        let container = paused(t, json!({}));
        let limits = json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 << 20 }] });
        by_document(t, &container, &limits).ok();
        assert_eq!(number(t, &container, controller, file), 4 << 20);
    })
    .needs(Needs::Limits)
    .except(&[("runc", "1.1.5 does not read it in an update")]),
    Case::kernel(
        "update changes network class and priorities by a document",
        |t| {
            if t.hierarchy("net_cls").is_none() || t.hierarchy("net_prio").is_none() {
                t.does_not_apply("net_cls and net_prio are mounted nowhere");
            }
            let container = paused(t, json!({}));
            let network =
                json!({ "classID": 1_048_577, "priorities": [{ "name": "lo", "priority": 3 }] });
            by_document(t, &container, &json!({ "network": network })).ok();
            assert_eq!(
                number(t, &container, "net_cls", "net_cls.classid"),
                1_048_577
            );
            let map = t.knob("net_prio", &container.id, "net_prio.ifpriomap");
            assert!(map.lines().any(|line| line == "lo 3"), "{map}");
        },
    )
    .needs(Needs::V1)
    .except(&[("runc", "1.1.5 does not read it in an update")]),
    Case::kernel("update of an RDMA device that is none names it", |t| {
        let container = paused(t, json!({}));
        let rdma = json!({ "rdma": { "none0": { "hcaHandles": 3 } } });
        by_document(t, &container, &rdma).fails(1, &["linux.resources.rdma"]);
    })
    .needs(Needs::Limits)
    .except(&[("runc", "1.1.5 does not read it in an update")]),
    Case::kernel(
        "update changes device rules, and back to config.json's",
        |t| {
            let container = t.start(&denying(t));
            let opened = || container.probe(&[], &["open", "/dev/denied", "0"]).answer();
            let denied = json!({ "errno": 1 });
            assert_eq!(opened(), denied);
            let first = json!({ "allow": false, "access": "rwm" });
            let allow =
                json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm" });
            by_document(t, &container, &json!({ "devices": [first, allow] })).ok();
            assert_ne!(opened(), denied);
            by_document(t, &container, &json!({ "devices": [first] })).ok();
            assert_eq!(opened(), denied);
            // An update that says nothing of them leaves them.
            by_document(t, &container, &json!({ "devices": [first, allow] })).ok();
            by_document(t, &container, &json!({ "cpu": { "shares": 512 } })).ok();
            assert_ne!(opened(), denied);
        },
    )
    .needs(Needs::Limits)
    .except(&[("runc", "1.1.5 leaves devices alone in an update")]),
    Case::kernel("checkBeforeUpdate of config.json counts for updates", |t| {
        let memory = json!({ "limit": 64 << 20, "checkBeforeUpdate": true });
        let container = paused(t, json!({ "memory": memory }));
        let limit = || match t.hierarchy("memory") {
            Some(_) => number(t, &container, "memory", "memory.limit_in_bytes"),
            None => number(t, &container, "", "memory.max"),
        };
        let rejected = "rejecting memory limit 4096";
        by_flags(t, &container, "--memory 4096").fails(1, &[rejected]);
        let silent = json!({ "memory": { "limit": 4096 } });
        by_document(t, &container, &silent).fails(1, &[rejected]);
        assert_eq!(limit(), 64 << 20);
        // What an update says about it counts from then on.
        let memory = json!({ "limit": 48 << 20, "checkBeforeUpdate": false });
        by_document(t, &container, &json!({ "memory": memory })).ok();
        assert_eq!(limit(), 48 << 20);
        let refused = by_flags(t, &container, "--memory 4096");
        assert!(!refused.stderr.contains("rejecting"), "{}", refused.stderr);
    })
    .needs(Needs::Limits)
    .except(&[(
        "runc",
        "1.1.5 does not know the field on v2, and on v1 says it otherwise",
    )]),
    Case::kernel(
        "memory.kernelTCP is in the v1 file, and update changes it",
        |t| {
            let file = "memory.kmem.tcp.limit_in_bytes";
            let memory = t.hierarchy("memory").expect("a v1 hierarchy");
            if !memory.join(file).exists() {
                t.does_not_apply("the kernel has no limit for it");
            }
            let container = paused(t, json!({ "memory": { "kernelTCP": 8 << 20 } }));
            assert_eq!(number(t, &container, "memory", file), 8 << 20);
            let memory = json!({ "kernelTCP": 4 << 20 });
            by_document(t, &container, &json!({ "memory": memory })).ok();
            assert_eq!(number(t, &container, "memory", file), 4 << 20);
        },
    )
    .needs(Needs::V1)
    .except(&[("runc", "1.1 passes over the field")]),
    Case::kernel(
        "without a cgroup there is nothing to pause, to update or to count",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let container = t.adopt(&bundle.id);
            t.call(&[
                "--cgroup-manager",
                "disabled",
                "create",
                "-b",
                text(&bundle.path),
                &bundle.id,
            ])
            .ok();
            container.start().ok();
            for command in [
                &["pause"][..],
                &["update", "--pids-limit", "9"],
                &["events", "--stats"],
                &["events", "--interval", "50ms"],
            ] {
                let words: Vec<&str> = command.iter().copied().chain([&*bundle.id]).collect();
                t.call(&words).fails(1, &["cgroup not exist"]);
            }
            t.call(&["resume", &bundle.id])
                .fails(1, &["container not paused"]);
            assert_eq!(container.status(), "running");
        },
    )
    .except(&[
        ("runc", "it has no way to do without one as root"),
        ("crun", "no oracle"),
    ]),
];

/// A running container with these limits.
fn paused<'t>(t: &'t Test, resources: Value) -> Container<'t> {
    let bundle = Bundle::new(t).probe(&["pause"]).with(|config| {
        for (name, value) in resources.as_object().expect("an object") {
            config["linux"]["resources"][name] = value.clone();
        }
    });
    t.start(&bundle)
}

/// A bundle with a node that its device rules deny.
fn denying(t: &Test) -> Bundle {
    Bundle::new(t).probe(&["pause"]).with(|config| {
        let node = json!({ "path": "/dev/denied", "type": "c", "major": 10, "minor": 229 });
        config["linux"]["devices"] = json!([node]);
        config["linux"]["resources"]["devices"] = json!([{ "allow": false, "access": "rwm" }]);
    })
}

/// `update FLAGS ID`.
fn by_flags(t: &Test, container: &Container<'_>, flags: &str) -> Outcome {
    let words: Vec<&str> = std::iter::once("update")
        .chain(flags.split(' '))
        .chain([container.id.as_str()])
        .collect();
    t.call(&words)
}

/// `update -r FILE ID`.
fn by_document(t: &Test, container: &Container<'_>, resources: &Value) -> Outcome {
    let path = t.directory.join("resources.json");
    fs::write(&path, resources.to_string()).expect("write");
    t.call(&["update", "-r", text(&path), &container.id])
}

/// The controller's name where it has a hierarchy of its own, else v2's.
fn in_view(t: &Test, controller: &'static str) -> &'static str {
    match t.hierarchy(controller) {
        Some(_) => controller,
        None => "",
    }
}

/// A number in a file of the container's cgroup.
#[track_caller]
fn number(t: &Test, container: &Container<'_>, controller: &'static str, file: &str) -> u64 {
    let text = t.knob(in_view(t, controller), &container.id, file);
    text.parse().unwrap_or_else(|_| panic!("{file}: {text}"))
}

/// A disk of the machine: its major and minor number.
fn disk() -> (u32, u32) {
    let disks = fs::read_dir("/sys/block").expect("/sys/block").flatten();
    let mut numbers = disks.filter_map(|disk| fs::read_to_string(disk.path().join("dev")).ok());
    let number = numbers.next().expect("a disk");
    let (major, minor) = number.trim().split_once(':').expect("MAJOR:MINOR");
    (major.parse().expect("major"), minor.parse().expect("minor"))
}
