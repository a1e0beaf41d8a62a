//! CPUs, scheduling policy, I/O priority and memory policy of a process, as the
//! kernel tells it from inside.

use serde_json::{Value, json};
use spec_tests::runtime::text;
use spec_tests::sys::{Before, before, raw};
use spec_tests::{Bundle, Case, Container, Needs, Outcome, Test};

pub(crate) const CASES: &[Case] = &[
    Case::kernel(
        "the engine's CPU affinity ends with the engine: create and exec",
        |t| {
            let all = own_cpus();
            let bundle = Bundle::new(t).probe(&["pause"]);
            let mut command = t.command(&["create", "-b", text(&bundle.path), &bundle.id]);
            before(&mut command, Before::Cpu(first_cpu()));
            let container = t.adopt(&bundle.id);
            t.spawn(&mut command).wait().ok();
            assert_eq!(cpus_of(container.pid()), all);
            container.start().ok();
            let mut command = t.command(&["exec", &bundle.id, "/bin/probe", "scheduling"]);
            before(&mut command, Before::Cpu(first_cpu()));
            let exec = t.spawn(&mut command).wait().answer();
            assert_eq!(exec["cpus"], all);
        },
    )
    .except(&[("runc", "since 1.4"), ("crun", "since 1.9")]),
    Case::kernel("the container's cpuset decides about its CPUs", |t| {
        let bundle = Bundle::new(t)
            .probe(&["scheduling", ";", "pause"])
            .with(|config| config["linux"]["resources"]["cpu"] = json!({ "cpus": "0" }));
        let container = t.start(&bundle);
        container.wait_for("cpus");
        assert_eq!(container.answers()[0]["cpus"], "0");
        let exec = container.probe(&[], &["scheduling"]).answer();
        assert_eq!(exec["cpus"], "0");
    })
    .needs(Needs::Limits),
    Case::kernel("exec runs on the final CPUs of its process", |t| {
        let bundle = Bundle::new(t).probe(&["scheduling", ";", "pause"]);
        let bundle = bundle.with(|config| {
            config["process"]["execCPUAffinity"] = json!({ "initial": "0", "final": "0" });
        });
        let container = t.start(&bundle);
        container.wait_for("cpus");
        // config.md: not for the container's init process.
        assert_eq!(container.answers()[0]["cpus"], own_cpus());
        let exec = container.probe(&[], &["scheduling"]).answer();
        assert_eq!(exec["cpus"], "0");
        // "If omitted or empty, the container's default CPU affinity".
        for affinity in [
            json!({ "initial": "0" }),
            json!({ "initial": "0", "final": "" }),
        ] {
            let exec = exec_with(t, &container, &json!({ "execCPUAffinity": affinity })).answer();
            assert_eq!(exec["cpus"], own_cpus(), "{affinity}");
        }
        let affinity = json!({ "final": "0, 1-8191" });
        let exec = exec_with(t, &container, &json!({ "execCPUAffinity": affinity })).answer();
        assert_eq!(exec["cpus"], own_cpus());
    })
    .except(&[("runc", "since 1.3"), ("crun", "since 1.20")]),
    Case::kernel("CPUs that are not there are refused by name", |t| {
        let container = t.start(&Bundle::new(t).probe(&["pause"]));
        for (affinity, told) in [
            (
                json!({ "final": "8191" }),
                "set final CPU affinity \"8191\"",
            ),
            (
                json!({ "initial": "8191" }),
                "set initial CPU affinity \"8191\"",
            ),
            (json!({ "final": "8192" }), "8192 is not below 8192"),
            (json!({ "initial": "1-0" }), "ends before it begins"),
        ] {
            let outcome = exec_with(t, &container, &json!({ "execCPUAffinity": affinity }));
            outcome.fails(255, &[told]);
        }
    })
    .except(&[("runc", "since 1.3"), ("crun", "since 1.20")]),
    Case::kernel("a scheduling policy is set for init and exec", |t| {
        let scheduler = json!({ "policy": "SCHED_BATCH", "nice": 19 });
        let bundle = Bundle::new(t)
            .probe(&["scheduling", ";", "pause"])
            .with(|config| config["process"]["scheduler"] = scheduler);
        let container = t.start(&bundle);
        container.wait_for("cpus");
        for report in [
            container.answers().remove(0),
            container.probe(&[], &["scheduling"]).answer(),
        ] {
            assert_eq!(report["policy"]["value"], 3);
            assert_eq!(report["nice"], 19);
        }
        let idle = json!({ "scheduler": { "policy": "SCHED_IDLE" } });
        let exec = exec_with(t, &container, &idle).answer();
        assert_eq!(exec["policy"]["value"], 5);
        let reset =
            json!({ "policy": "SCHED_OTHER", "nice": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK"] });
        let exec = exec_with(t, &container, &json!({ "scheduler": reset })).answer();
        assert_eq!(
            (&exec["policy"]["value"], &exec["flags"]),
            (&json!(0), &json!(1))
        );
        assert_eq!(exec["nice"], 7);
    })
    .except(&[("runc", "since 1.2"), ("crun", "since 1.9")]),
    Case::kernel(
        "a policy that needs root's rights is set without capabilities",
        |t| {
            // With a user namespace too, whose root has none of these rights.
            for user_namespace in [false, true] {
                let mut bundle = Bundle::new(t).probe(&["scheduling"]);
                if user_namespace {
                    bundle = bundle.in_user_namespace(100_000);
                }
                let bundle = bundle.with(|config| {
                    config["process"]["scheduler"] = json!({ "policy": "SCHED_OTHER", "nice": -5 });
                    config["process"]["ioPriority"] =
                        json!({ "class": "IOPRIO_CLASS_RT", "priority": 3 });
                    config["process"]["capabilities"] = json!({});
                    config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
                });
                let report = t.run(&bundle).answer();
                assert_eq!(report["nice"], -5);
                assert_eq!(report["io_priority"], (1 << 13) | 3);
            }
        },
    )
    .except(&[("runc", "since 1.2"), ("crun", "since 1.9")]),
    Case::kernel("the real-time policies", |t| {
        let set = |scheduler: Value| {
            let bundle = Bundle::new(t)
                .probe(&["scheduling"])
                .with(|config| config["process"]["scheduler"] = scheduler);
            t.run(&bundle)
        };
        // Where cgroups have a share of real time each, this one has none: then the
        // kernel refuses, and says so by name.
        for (name, number) in [("SCHED_FIFO", 1), ("SCHED_RR", 2)] {
            let outcome = set(json!({ "policy": name, "priority": 9 }));
            if outcome.code == 0 {
                let report = outcome.answer();
                assert_eq!(report["policy"]["value"], number);
                assert_eq!(report["priority"], 9);
            } else {
                outcome.fails(1, &[&format!("set scheduler {name}: sched_setattr")]);
            }
        }
        let outcome = set(json!({
            "policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"],
            "runtime": 42_000, "deadline": 1_000_000, "period": 1_000_000,
        }));
        if outcome.code == 0 {
            let report = outcome.answer();
            assert_eq!(report["policy"]["value"], 6);
            assert_eq!(report["times"], json!([42_000, 1_000_000, 1_000_000]));
        } else {
            outcome.fails(1, &["set scheduler SCHED_DEADLINE: sched_setattr"]);
        }
        // No kernel has it.
        set(json!({ "policy": "SCHED_ISO" }))
            .fails(1, &["set scheduler SCHED_ISO", "invalid argument"]);
    })
    .except(&[("runc", "since 1.2"), ("crun", "since 1.9")]),
    Case::kernel("a wrong scheduler is refused with its field", |t| {
        for (scheduler, told) in [
            (
                json!({ "policy": "SCHED_FUN" }),
                "process.scheduler.policy: \"SCHED_FUN\" is unknown",
            ),
            (
                json!({ "policy": "SCHED_BATCH", "nice": 20 }),
                "process.scheduler.nice: 20",
            ),
            (
                json!({ "policy": "SCHED_BATCH", "priority": 1 }),
                "process.scheduler.priority",
            ),
            (
                json!({ "policy": "SCHED_RR", "flags": ["FUN"] }),
                "process.scheduler.flags[0]: \"FUN\"",
            ),
        ] {
            let bundle = Bundle::new(t)
                .args(&["true"])
                .with(|config| config["process"]["scheduler"] = scheduler);
            t.run(&bundle).fails(1, &[told]);
        }
    })
    .except(&[("runc", "words of its own"), ("crun", "words of its own")]),
    Case::kernel("an I/O priority is set for init and exec", |t| {
        let bundle = Bundle::new(t)
            .probe(&["scheduling", ";", "pause"])
            .with(|config| {
                config["process"]["ioPriority"] =
                    json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 });
            });
        let container = t.start(&bundle);
        container.wait_for("cpus");
        assert_eq!(container.answers()[0]["io_priority"], (2 << 13) | 6);
        let exec = container.probe(&[], &["scheduling"]).answer();
        assert_eq!(exec["io_priority"], (2 << 13) | 6);
        let idle = json!({ "ioPriority": { "class": "IOPRIO_CLASS_IDLE" } });
        let exec = exec_with(t, &container, &idle).answer();
        assert_eq!(exec["io_priority"], 3 << 13);
        let wrong = json!({ "ioPriority": { "class": "IOPRIO_CLASS_BE", "priority": 8 } });
        exec_with(t, &container, &wrong).fails(255, &["ioPriority.priority"]);
    })
    .except(&[("runc", "since 1.2"), ("crun", "since 1.9")]),
    Case::kernel("a memory policy is set for init and exec", |t| {
        for (policy, mode, words) in [
            (json!({}), 0, "default"),
            (json!({ "mode": "MPOL_DEFAULT" }), 0, "default"),
            (
                json!({ "mode": "MPOL_INTERLEAVE", "nodes": "0" }),
                3,
                "interleave:0",
            ),
            (json!({ "mode": "MPOL_LOCAL", "nodes": "" }), 4, "local"),
            (
                json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] }),
                0x8002,
                "bind=static:0",
            ),
        ] {
            let bundle = Bundle::new(t)
                .probe(&["scheduling", ";", "pause"])
                .with(|config| config["linux"]["memoryPolicy"] = policy.clone());
            let container = t.start(&bundle);
            container.wait_for("cpus");
            for report in [
                container.answers().remove(0),
                container.probe(&[], &["scheduling"]).answer(),
            ] {
                assert_eq!(report["memory"]["value"], mode, "{policy}: {report}");
                assert_eq!(report["memory_text"], words, "{policy}");
            }
        }
    })
    .except(&[("runc", "since 1.4"), ("crun", "since 1.25")]),
    Case::kernel("a wrong memory policy is refused with its field", |t| {
        for (policy, told) in [
            (
                json!({ "nodes": "0-7" }),
                "linux.memoryPolicy.mode: \"\" is unknown",
            ),
            (
                json!({ "mode": "INTERLEAVE", "nodes": "0" }),
                "linux.memoryPolicy.mode",
            ),
            (
                json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["x"] }),
                "linux.memoryPolicy.flags[0]",
            ),
            (
                json!({ "mode": "MPOL_BIND", "nodes": "0-9876543210" }),
                "linux.memoryPolicy.nodes",
            ),
            // Refused by the kernel: no nodes to bind to.
            (
                json!({ "mode": "MPOL_BIND" }),
                "set memory policy MPOL_BIND: set_mempolicy",
            ),
        ] {
            let bundle = Bundle::new(t)
                .args(&["true"])
                .with(|config| config["linux"]["memoryPolicy"] = policy);
            t.run(&bundle).fails(1, &[told]);
        }
    })
    .except(&[("runc", "since 1.4"), ("crun", "since 1.25")]),
    Case::runc(
        "a label that the kernel has no SELinux for is refused",
        |t| {
            let labelled = |field: &'static str| {
                let bundle = Bundle::new(t).args(&["true"]);
                bundle.with(|config| {
                    let place = if field == "selinuxLabel" {
                        "process"
                    } else {
                        "linux"
                    };
                    config[place][field] = json!("system_u:object_r:container_t:s0:c1,c2");
                })
            };
            let words =
                "selinux label is specified in config, but selinux is disabled or not supported";
            t.run(&labelled("selinuxLabel")).fails(1, &[words]);
            // runc mounts, and the kernel says EINVAL.
            assert_eq!(t.run(&labelled("mountLabel")).code, 1);
            let container = t.start(&Bundle::new(t).probe(&["pause"]));
            let flags = ["--process-label", "system_u:system_r:container_t:s0"];
            let outcome = container.probe(&flags, &["true"]);
            assert_eq!(outcome.code, 255, "{outcome:?}");
        },
    ),
];

/// The CPUs that this machine lets us run on, by the case's own process.
fn own_cpus() -> Value {
    // Whoever started this may have been bound to some of them.
    let full = [u64::MAX; 128];
    let place = full.as_ptr() as i64;
    raw(libc::SYS_sched_setaffinity, [0, 1024, place, 0, 0, 0]).expect("sched_setaffinity");
    cpus_of(std::process::id().cast_signed())
}

fn cpus_of(pid: i32) -> Value {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    json!(line.expect("Cpus_allowed_list").trim())
}

/// A CPU that this machine has.
fn first_cpu() -> u32 {
    let cpus = own_cpus();
    let first = cpus.as_str().expect("a list").split([',', '-']).next();
    first.and_then(|number| number.parse().ok()).expect("a CPU")
}

/// exec of the probe by a process.json with these fields.
fn exec_with(t: &Test, container: &Container<'_>, fields: &Value) -> Outcome {
    let mut process = json!({
        "args": ["/bin/probe", "scheduling"], "cwd": "/", "env": ["PATH=/bin"],
    });
    for (name, value) in fields.as_object().expect("fields") {
        process[name] = value.clone();
    }
    let path = t.directory.join("process.json");
    std::fs::write(&path, process.to_string()).expect("process.json");
    t.call(&["exec", "--process", text(&path), &container.id])
}
