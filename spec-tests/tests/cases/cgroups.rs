//! Resource limits: written where the kernel reads them, in force, changed by
//! `update`, told by `events`.

use serde_json::{Value, json};
use spec_tests::runtime::{text, wait_until};
use spec_tests::view::NetworkControllers;
use spec_tests::{Bundle, Case, Container, Needs, Outcome, Test};

/// What a v1 file of bytes holds for "no limit": the last whole page.
const NONE: &str = "9223372036854771712";

pub(crate) const CASES: &[Case] = &[
    Case::runc("memory limits are in the v1 files", |t| {
        let bundle = limited(
            t,
            json!({ "memory": {
            "limit": 64 << 20, "reservation": 32 << 20, "swap": 96 << 20, "swappiness": 7,
        } }),
        );
        let container = t.create(&bundle);
        let knob = |file: &str| t.knob("memory", &container.id, file);
        assert_eq!(knob("memory.limit_in_bytes"), (64 << 20).to_string());
        assert_eq!(knob("memory.soft_limit_in_bytes"), (32 << 20).to_string());
        assert_eq!(knob("memory.swappiness"), "7");
    })
    .needs(Needs::V1),
    Case::runc("the memory limit alone is in the v1 file", |t| {
        let bundle = limited(
            t,
            json!({ "memory": { "limit": 64 << 20, "reservation": 32 << 20 } }),
        );
        let container = t.create(&bundle);
        let knob = |file: &str| t.knob("memory", &container.id, file);
        assert_eq!(knob("memory.limit_in_bytes"), (64 << 20).to_string());
        assert_eq!(knob("memory.soft_limit_in_bytes"), (32 << 20).to_string());
    })
    .needs(Needs::V1),
    Case::runc("cpu limits are in the v1 files", |t| {
        let bundle = limited(
            t,
            json!({ "cpu": { "shares": 512, "quota": 20000, "period": 50000 } }),
        );
        let container = t.create(&bundle);
        let knob = |file: &str| t.knob("cpu", &container.id, file);
        assert_eq!(knob("cpu.shares"), "512");
        assert_eq!(knob("cpu.cfs_quota_us"), "20000");
        assert_eq!(knob("cpu.cfs_period_us"), "50000");
    })
    .needs(Needs::V1),
    Case::runc(
        "cpuset is in the v1 files, and copied down when not given",
        |t| {
            let bundle = limited(t, json!({ "cpu": { "cpus": "0", "mems": "0" } }));
            let container = t.create(&bundle);
            assert_eq!(t.knob("cpuset", &container.id, "cpuset.cpus"), "0");
            assert_eq!(t.knob("cpuset", &container.id, "cpuset.mems"), "0");
            let plain = Bundle::new(t).probe(&["pause"]);
            let container = t.create(&plain);
            assert_ne!(t.knob("cpuset", &container.id, "cpuset.cpus"), "");
            assert_ne!(t.knob("cpuset", &container.id, "cpuset.mems"), "");
        },
    )
    .needs(Needs::V1),
    Case::runc(
        "the class and the priorities of the network are those of the container's cgroup",
        |t| {
            let _mounted = NetworkControllers::mount(t);
            let network =
                json!({ "classID": 0x10_0001, "priorities": [{ "name": "lo", "priority": 5 }] });
            let bundle = limited(t, json!({ "network": network }));
            let container = t.start(&bundle);
            let priorities = t.knob("net_prio", &container.id, "net_prio.ifpriomap");
            assert!(
                priorities.lines().any(|line| line == "lo 5"),
                "{priorities}"
            );
            let class = t.knob("net_cls", &container.id, "net_cls.classid");
            assert_eq!(class, 0x10_0001.to_string());
            let pid = container.pid().to_string();
            assert_eq!(t.knob("net_cls", &container.id, "cgroup.procs"), pid);
            let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup");
            let own = format!(":net_cls,net_prio:/{}", container.id);
            assert!(
                cgroups.lines().any(|line| line.ends_with(&own)),
                "{cgroups}"
            );
            t.call(&["delete", "--force", &container.id]).ok();
            assert!(!t.cgroup("net_cls", &container.id).exists());
        },
    )
    .needs(Needs::V1),
    Case::runc(
        "the cgroup of a container that has stopped is another's by then: delete leaves that alone",
        |t| {
            let shared = t.id();
            let in_shared = |bundle: Bundle| {
                bundle.with(|config| config["linux"]["cgroupsPath"] = json!(format!("/{shared}")))
            };
            let first = t.start(&in_shared(Bundle::new(t)).probe(&["exit", "0"]));
            first.wait_status("stopped");
            let second = t.start(&in_shared(Bundle::new(t)).probe(&["pause"]));
            let hierarchy = if t.view == "v1" { "freezer" } else { "" };
            let below = t.cgroup(hierarchy, &shared).join("below");
            std::fs::create_dir(&below).expect("mkdir");
            first.delete().ok();
            assert_eq!(second.status(), "running");
            // runc removes what is empty in it.
            assert!(below.exists() || t.is("runc"));
            t.call(&["state", &first.id]).fails(1, &["does not exist"]);
            t.call(&["delete", "--force", &second.id]).ok();
            assert!(!below.exists());
        },
    ),
    Case::kernel(
        "a container whose main thread has ended counts as stopped, and delete ends the others",
        |t| {
            let bundle = || Bundle::new(t).probe(&["end-main-thread"]);
            for bundle in [bundle(), bundle().without_namespace("pid")] {
                let container = t.create(&bundle);
                let pid = container.pid();
                container.start().ok();
                container.wait_status("stopped");
                let threads = || std::fs::read_dir(format!("/proc/{pid}/task"));
                assert_eq!(threads().map(Iterator::count).ok(), Some(2));
                container.delete().ok();
                wait_until("their end", || threads().is_err());
            }
        },
    )
    .except(&[("runc", "leaves them")]),
    Case::kernel(
        "a container that has frozen itself in a cgroup below dies of kill and of delete --force",
        |t| {
            let script = "cd /sys/fs/cgroup/freezer; busybox mkdir x; echo 1 >x/cgroup.procs; \
                          echo FROZEN >x/freezer.state; sleep 1000";
            for command in ["kill ID KILL", "kill --all ID KILL", "delete --force ID"] {
                let bundle = Bundle::new(t)
                    .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"])
                    .shell(script);
                let container = t.start(&bundle);
                let id = container.id.as_str();
                let state = t.cgroup("freezer", id).join("x/freezer.state");
                let is_frozen =
                    || std::fs::read_to_string(&state).is_ok_and(|state| state == "FROZEN\n");
                wait_until("it freezes", is_frozen);
                // What it has paused itself is not for us to resume.
                for change in ["pause", "resume"] {
                    t.call(&[change, id]).ok();
                }
                assert!(is_frozen());
                let words: Vec<&str> = command
                    .split(' ')
                    .map(|word| if word == "ID" { id } else { word })
                    .collect();
                t.call(&words).ok();
                if !command.starts_with("delete") {
                    container.wait_status("stopped");
                    container.delete().ok();
                }
                assert!(!t.cgroup("freezer", id).exists(), "{command}");
            }
        },
    )
    .needs(Needs::V1)
    .except(&[(
        "runc",
        "it thaws the container's own cgroup alone, and fails",
    )]),
    Case::runc("the pids limit is in the file and holds", |t| {
        let bundle = Bundle::new(t)
            .probe(&["forks", "20"])
            .with(|config| config["linux"]["resources"]["pids"] = json!({ "limit": 6 }));
        let answer = t.run(&bundle).answer();
        assert_eq!(answer, json!({ "made": 5, "errno": 11 }));
    })
    .needs(Needs::Limits),
    Case::runc("a pids limit of -1 is none", |t| {
        let bundle = limited(t, json!({ "pids": { "limit": -1 } }));
        let container = t.create(&bundle);
        assert_eq!(t.knob("pids", &container.id, "pids.max"), "max");
    })
    .needs(Needs::V1),
    Case::runc(
        "a pids limit of 0 is none in a document before 1.3.0",
        |t| {
            for version in ["1.0.2-dev", "1.2.1"] {
                let bundle = limited(t, json!({ "pids": { "limit": 0 } }))
                    .with(|config| config["ociVersion"] = json!(version));
                let container = t.create(&bundle);
                assert_eq!(t.knob("pids", &container.id, "pids.max"), "max");
            }
        },
    )
    .needs(Needs::V1),
    Case::kernel("a pids limit of 0 is one from 1.3.0 on", |t| {
        let bundle = limited(t, json!({ "pids": { "limit": 0 } }))
            .with(|config| config["ociVersion"] = json!("1.3.0"));
        let container = t.create(&bundle);
        assert_eq!(t.knob("pids", &container.id, "pids.max"), "1");
    })
    .needs(Needs::V1)
    .except(&[("runc", "1.1.5 knows no such version")]),
    Case::runc("a program over its memory limit is killed with 137", |t| {
        let bundle = Bundle::new(t)
            .probe(&["touch-memory", "200"])
            .with(|config| config["linux"]["resources"]["memory"] = json!({ "limit": 20 << 20 }));
        let outcome = t.run(&bundle);
        assert_eq!(outcome.code, 137, "{outcome:?}");
    })
    .needs(Needs::Limits),
    Case::runc(
        "an exec over the memory limit is killed with 137, the container goes on",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]).with(|config| {
                config["linux"]["resources"]["memory"] = json!({ "limit": 40 << 20 });
            });
            let container = t.start(&bundle);
            let outcome = container.probe(&[], &["touch-memory", "200"]);
            assert_eq!(outcome.code, 137, "{outcome:?}");
            assert_eq!(container.status(), "running");
            container.probe(&[], &["true"]).ok();
        },
    )
    .needs(Needs::Limits),
    Case::kernel(
        "a limit that kills the set-up of an exec is told as such",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]).with(|config| {
                config["linux"]["resources"]["memory"] = json!({ "limit": 40 << 20 });
            });
            let container = t.start(&bundle);
            // Memory that is in use, in parts that are no larger than what the kernel
            // counts for a score of 1000.
            for _ in 0..2 {
                container.probe(&["--detach"], &["hold-memory", "15"]).ok();
            }
            wait_until("the memory is held", || used(t, &container) > 30 << 20);
            // Whom it takes first, from its birth, and with no room left.
            let exec = t.command(&["exec", &container.id, "/bin/probe", "true"]);
            let script = "echo 1000 >/proc/self/oom_score_adj; exec \"$@\"";
            let mut first = std::process::Command::new("/bin/sh");
            first.args(["-c", script, "sh"]);
            first.arg(exec.get_program()).args(exec.get_args());
            // How far it comes depends on what the kernel has charged in advance.
            let mut squeezed = |round: u64| {
                // A limit below what is used v1 refuses; on v2 it kills.
                let less = if t.view == "v2" {
                    0
                } else {
                    round % 10 * 16384
                };
                let limit = (used(t, &container) - less).to_string();
                t.call(&["update", "--memory", &limit, &container.id]);
                let outcome = t.spawn(&mut first).wait();
                Some(outcome).filter(|outcome| ![0, 137].contains(&outcome.code))
            };
            let outcome = (0..40).find_map(&mut squeezed).expect("one that fails");
            assert_eq!(outcome.code, 255, "{outcome:?}");
            let said = outcome.stderr;
            assert!(
                said.contains("died in step") && said.contains("out of memory"),
                "{said}"
            );
            assert_eq!(container.status(), "running");
        },
    )
    .needs(Needs::Limits)
    .except(&[("runc", "says that the process ended")]),
    Case::kernel("a container with a 4 MiB limit starts", |t| {
        let bundle = Bundle::new(t)
            .args(&["true"])
            .with(|config| config["linux"]["resources"]["memory"] = json!({ "limit": 4 << 20 }));
        t.run(&bundle).ok();
    })
    .needs(Needs::Limits),
    Case::kernel(
        "a limit that kills the set-up itself is told as such",
        |t| {
            let bundle = Bundle::new(t)
                .args(&["true"])
                .with(|config| config["linux"]["resources"]["memory"] = json!({ "limit": 4096 }));
            let outcome = t.run(&bundle);
            assert_ne!(outcome.code, 0);
            assert!(!outcome.stderr.is_empty());
            assert!(!outcome.stderr.contains("EOF"), "{}", outcome.stderr);
            if t.is("rrun") {
                let text = &outcome.stderr;
                assert!(
                    text.contains("the container's process died in step"),
                    "{text}"
                );
                assert!(text.contains("out of memory (oom_kill=1)"), "{text}");
            }
        },
    )
    .needs(Needs::Limits),
    Case::runc("a blkio throttle is in the v1 file", |t| {
        let bundle = limited(
            t,
            json!({ "blockIO": { "throttleReadBpsDevice": [
            { "major": 7, "minor": 0, "rate": 1_048_576 },
        ] } }),
        );
        let container = t.create(&bundle);
        let text = t.knob("blkio", &container.id, "blkio.throttle.read_bps_device");
        assert_eq!(text, "7:0 1048576");
    })
    .needs(Needs::V1),
    Case::runc(
        "a device rule is in the v1 list, with the default ones",
        |t| {
            let bundle = limited(
                t,
                json!({ "devices": [
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" },
        ] }),
            );
            let container = t.create(&bundle);
            let list = t.knob("devices", &container.id, "devices.list");
            for rule in [
                "c 10:229 rw",
                "c 1:3 rwm",
                "c 1:5 rwm",
                "c 1:7 rwm",
                "c 1:8 rwm",
                "c 1:9 rwm",
                "c 5:0 rwm",
                "c 5:2 rwm",
                "c 136:* rwm",
                "c *:* m",
                "b *:* m",
            ] {
                assert!(list.lines().any(|line| line == rule), "{rule}: {list}");
            }
            assert!(!list.contains("a *:* rwm"), "{list}");
        },
    )
    .needs(Needs::V1),
    // One command a row, on the container as the row before left it.
    Case::runc("update changes memory and swap in either order", |t| {
        let container = paused(t);
        for (flags, limit, swap) in [
            (
                "--memory 134217728 --memory-swap 268435456",
                "134217728",
                "268435456",
            ),
            (
                "--memory 33554432 --memory-swap 50331648",
                "33554432",
                "50331648",
            ),
            ("--memory 41943040", "41943040", "50331648"),
            ("--memory-swap 83886080", "41943040", "83886080"),
            (
                "--memory 83886080 --memory-swap 83886080",
                "83886080",
                "83886080",
            ),
            ("--memory 83886080 --memory-swap -1", "83886080", NONE),
            ("--memory -1", NONE, NONE),
        ] {
            by_flags(t, &container, flags);
            let files = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"];
            holds(t, &container, flags, "memory", &files, &[limit, swap]);
        }
    })
    .needs(Needs::V1),
    Case::runc(
        "update changes cpu quota, period and shares one by one",
        |t| {
            let container = paused(t);
            for (flags, quota, period, shares) in [
                ("--cpu-quota 20000", "20000", "100000", "1024"),
                ("--cpu-period 50000", "20000", "50000", "1024"),
                (
                    "--cpu-quota 100000 --cpu-period 100000",
                    "100000",
                    "100000",
                    "1024",
                ),
                ("--cpu-share 2", "100000", "100000", "2"),
                ("--cpu-quota -1", "-1", "100000", "2"),
                (
                    "--cpu-share 2048 --cpu-quota 5000",
                    "5000",
                    "100000",
                    "2048",
                ),
            ] {
                by_flags(t, &container, flags);
                let files = ["cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares"];
                holds(
                    t,
                    &container,
                    flags,
                    "cpu",
                    &files,
                    &[quota, period, shares],
                );
            }
        },
    )
    .needs(Needs::V1),
    Case::kernel("update changes cpu burst and idle", |t| {
        let container = paused(t);
        for (document, burst, idle) in [
            (
                json!({ "cpu": { "quota": 50000, "burst": 20000 } }),
                "20000",
                "0",
            ),
            (json!({ "cpu": { "burst": 0 } }), "0", "0"),
            (json!({ "cpu": { "idle": 1 } }), "0", "1"),
            (json!({ "cpu": { "idle": 0, "burst": 1000 } }), "1000", "0"),
        ] {
            by_document(t, &container, &document).ok();
            let files = ["cpu.cfs_burst_us", "cpu.idle"];
            holds(
                t,
                &container,
                &document.to_string(),
                "cpu",
                &files,
                &[burst, idle],
            );
        }
    })
    .needs(Needs::V1),
    Case::runc("update changes the pids limit, and takes it away", |t| {
        let container = paused(t);
        for (flags, max) in [
            ("--pids-limit 40", "40"),
            ("--memory 67108864", "40"),
            ("--pids-limit 0", "40"),
            ("--pids-limit -1", "max"),
            ("--pids-limit 7", "7"),
        ] {
            by_flags(t, &container, flags);
            holds(t, &container, flags, "pids", &["pids.max"], &[max]);
        }
        by_document(t, &container, &json!({ "pids": { "limit": 0 } }));
        holds(t, &container, "a document", "pids", &["pids.max"], &["7"]);
    })
    .needs(Needs::V1),
    Case::runc("update changes the memory reservation alone", |t| {
        let container = paused(t);
        by_flags(
            t,
            &container,
            "--memory 67108864 --memory-reservation 33554432",
        );
        by_flags(t, &container, "--memory-reservation 16777216");
        let files = ["memory.soft_limit_in_bytes", "memory.limit_in_bytes"];
        let after = ["16777216", "67108864"];
        holds(t, &container, "reservation", "memory", &files, &after);
    })
    .needs(Needs::V1),
    Case::runc(
        "update of a pair that the kernel refuses changes neither",
        |t| {
            let container = paused(t);
            by_flags(t, &container, "--memory 67108864 --memory-swap 67108864");
            for flags in [
                "--memory 134217728",
                "--memory 67108864 --memory-swap 33554432",
                "--pids-limit 9 --memory-swap 33554432",
            ] {
                let outcome = call(t, &container, flags);
                assert_ne!(outcome.code, 0, "{flags}");
                let files = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"];
                holds(t, &container, flags, "memory", &files, &["67108864"; 2]);
                holds(t, &container, flags, "pids", &["pids.max"], &["max"]);
            }
        },
    )
    .needs(Needs::V1),
    Case::runc(
        "update with checkBeforeUpdate leaves a limit that is below what is used",
        |t| {
            let container = paused(t);
            by_flags(t, &container, "--memory 67108864");
            let memory = json!({ "memory": { "limit": 4096, "checkBeforeUpdate": true } });
            let outcome = by_document(t, &container, &memory);
            assert_ne!(outcome.code, 0, "{outcome:?}");
            let files = ["memory.limit_in_bytes"];
            holds(
                t,
                &container,
                "below usage",
                "memory",
                &files,
                &["67108864"],
            );
            let memory = json!({ "memory": { "limit": 50331648, "checkBeforeUpdate": true } });
            by_document(t, &container, &memory).ok();
            holds(
                t,
                &container,
                "above usage",
                "memory",
                &files,
                &["50331648"],
            );
        },
    )
    .needs(Needs::V1),
    Case::runc("update changes memory, cpu and pids by flags", |t| {
        let bundle = limited(
            t,
            json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 50 } }),
        );
        let container = t.start(&bundle);
        let id = container.id.as_str();
        t.call(&[
            "update",
            "--memory",
            "33554432",
            "--cpu-share",
            "300",
            "--cpu-quota",
            "30000",
            "--cpu-period",
            "60000",
            "--pids-limit",
            "20",
            "--cpuset-cpus",
            "0",
            id,
        ])
        .ok();
        assert_eq!(t.knob("memory", id, "memory.limit_in_bytes"), "33554432");
        assert_eq!(t.knob("cpu", id, "cpu.shares"), "300");
        assert_eq!(t.knob("cpu", id, "cpu.cfs_quota_us"), "30000");
        assert_eq!(t.knob("cpu", id, "cpu.cfs_period_us"), "60000");
        assert_eq!(t.knob("pids", id, "pids.max"), "20");
        assert_eq!(t.knob("cpuset", id, "cpuset.cpus"), "0");
    })
    .needs(Needs::V1),
    Case::runc("update --resources from stdin and from a file", |t| {
        let bundle = limited(t, json!({ "memory": { "limit": 64 << 20 } }));
        let container = t.start(&bundle);
        let id = container.id.as_str();
        let path = t.directory.join("resources.json");
        std::fs::write(
            &path,
            json!({ "memory": { "limit": 48 << 20 }, "pids": { "limit": 11 } }).to_string(),
        )
        .expect("write");
        let mut command = t.command(&["update", "--resources=-", id]);
        t.spawn(command.stdin(std::fs::File::open(&path).expect("open")))
            .wait()
            .ok();
        assert_eq!(
            t.knob("memory", id, "memory.limit_in_bytes"),
            (48 << 20).to_string()
        );
        assert_eq!(t.knob("pids", id, "pids.max"), "11");
        std::fs::write(&path, json!({ "pids": { "limit": 12 } }).to_string()).expect("write");
        t.call(&["update", "-r", text(&path), id]).ok();
        assert_eq!(t.knob("pids", id, "pids.max"), "12");
        assert_eq!(
            t.knob("memory", id, "memory.limit_in_bytes"),
            (48 << 20).to_string()
        );
    })
    .needs(Needs::V1),
    Case::runc(
        "update of the pids limit holds for the running program",
        |t| {
            let bundle = limited(t, json!({ "pids": { "limit": 50 } }));
            let container = t.start(&bundle);
            t.call(&["update", "--pids-limit", "8", &container.id]).ok();
            // init, the probe of exec, and six more.
            let answer = container.probe(&[], &["forks", "20"]).answer();
            assert_eq!(answer["errno"], 11);
            assert_eq!(answer["made"], 6);
        },
    )
    .needs(Needs::Limits),
    Case::runc("update with a value that is none is refused", |t| {
        let bundle = limited(t, json!({}));
        let container = t.start(&bundle);
        t.call(&["update", "--memory", "much", &container.id])
            .fails(1, &["memory", "much"]);
        let outcome = t.call(&["update", "--pids-limit", "x", &container.id]);
        assert_ne!(outcome.code, 0);
        assert!(outcome.stderr.contains("pids-limit"), "{}", outcome.stderr);
    }),
    Case::runc(
        "events --stats is one JSON object with the parts that engines read",
        |t| {
            let bundle = limited(
                t,
                json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 50 } }),
            );
            let container = t.start(&bundle);
            let stats = t.call(&["events", "--stats", &container.id]).json();
            assert_eq!(stats["type"], "stats");
            assert_eq!(stats["id"], Value::from(container.id.clone()));
            let data = &stats["data"];
            assert_eq!(data["pids"]["current"], 1);
            assert_eq!(data["pids"]["limit"], 50);
            assert_eq!(data["memory"]["usage"]["limit"], 64 << 20);
            assert!(data["memory"]["usage"]["usage"].as_u64().expect("usage") > 0);
            assert!(data["memory"]["usage"]["max"].as_u64().expect("max") > 0);
            assert!(data["memory"]["raw"].is_object());
            assert!(data["cpu"]["usage"]["total"].as_u64().expect("total") > 0);
            assert!(data["cpu"]["usage"]["percpu"].is_array());
            assert!(data["blkio"].is_object());
        },
    )
    .needs(Needs::V1),
    Case::runc("events streams statistics until the container ends", |t| {
        let bundle = limited(t, json!({}));
        let container = t.start(&bundle);
        let args = ["events", "--interval", "50ms", &container.id];
        let mut running = t.spawn(&mut t.command(&args));
        running.wait_for("\"type\":\"stats\"");
        container.kill("KILL").ok();
        container.wait_status("stopped");
        container.delete().ok();
        let outcome = running.wait().ok();
        assert!(
            outcome
                .answers()
                .iter()
                .all(|event| event["id"] == container.id.as_str())
        );
    })
    .needs(Needs::V1),
    Case::kernel(
        "events with an interval beyond the end of time wait for the container",
        |t| {
            let container = t.start(&Bundle::new(t).probe(&["pause"]));
            let args = [
                "events",
                "--interval",
                "18000000000000000000s",
                &container.id,
            ];
            let running = t.spawn(&mut t.command(&args));
            wait_until("its sleep", || {
                let pid = running.pid();
                let call = std::fs::read_to_string(format!("/proc/{pid}/syscall"));
                // poll(2) and ppoll(2) of x86_64 and aarch64.
                call.is_ok_and(|call| ["7 ", "271 ", "73 "].iter().any(|n| call.starts_with(n)))
            });
            container.kill("KILL").ok();
            container.wait_status("stopped");
            container.delete().ok();
            assert_eq!(running.wait().ok().stdout, "");
        },
    )
    .except(&[("runc", "Go's durations end at 290 years")]),
    Case::runc("events tells an out-of-memory kill", |t| {
        let bundle = Bundle::new(t)
            .probe(&["pause"])
            .with(|config| config["linux"]["resources"]["memory"] = json!({ "limit": 40 << 20 }));
        let container = t.start(&bundle);
        let args = ["events", "--interval", "1s", &container.id];
        let mut running = t.spawn(&mut t.command(&args));
        running.wait_for("\"type\":\"stats\"");
        assert_eq!(container.probe(&[], &["touch-memory", "200"]).code, 137);
        running.wait_for("\"type\":\"oom\"");
        container.kill("KILL").ok();
        container.wait_status("stopped");
        container.delete().ok();
        running.wait().ok();
    })
    .needs(Needs::Limits),
    Case::kernel("events --stats in the v2 view names the processes", |t| {
        let bundle = limited(t, json!({}));
        let container = t.start(&bundle);
        let stats = t.call(&["events", "--stats", &container.id]).json();
        assert_eq!(stats["type"], "stats");
        assert!(stats["data"].is_object());
    })
    .needs(Needs::V2),
    Case::runc(
        "a cgroup of several levels is made, and its last level removed",
        |t| {
            let bundle = Bundle::new(t).probe(&["report"]);
            let path = format!("/{}/a/b", bundle.id);
            let bundle = bundle.with(|config| config["linux"]["cgroupsPath"] = json!(path));
            let report = t.run(&bundle).answer();
            assert!(report["cgroup"].as_str().expect("cgroup").contains(&path));
            // In every hierarchy that the machine has, whoever brought it.
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
            let mut seen = 0;
            for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
                let root = std::path::Path::new(line.split(' ').nth(4).expect("a mount point"));
                let top = root.join(&bundle.id);
                assert!(!top.join("a/b").exists(), "{}", top.display());
                seen += u32::from(top.join("a").exists());
                let _ = std::fs::remove_dir(top.join("a"));
                let _ = std::fs::remove_dir(top);
            }
            assert!(seen > 0, "the levels above were nowhere");
        },
    ),
    Case::runc("unified keys on v1 are refused", |t| {
        let bundle = limited(t, json!({ "unified": { "memory.max": "1000000" } }));
        t.run(&bundle).fails(1, &["unified"]);
    })
    .needs(Needs::V1),
    Case::kernel(
        "on a pure v2 view device rules are eBPF and hold for exec too",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]).with(|config| {
            config["linux"]["devices"] = json!([
                { "path": "/dev/denied", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 },
            ]);
        });
            let container = t.start(&bundle);
            let answer = container.probe(&[], &["open", "/dev/denied", "0"]).answer();
            assert_eq!(answer, json!({ "errno": 1 }));
            let answer = container.probe(&[], &["open", "/dev/zero", "0"]).answer();
            assert_eq!(answer, json!({ "ok": true }));
        },
    ),
    Case::runc(
        "two containers in one cgroup: the second is refused or warned, the first goes on",
        |t| {
            let first = Bundle::new(t).probe(&["pause"]);
            let container = t.start(&first);
            let path = format!("/{}", first.id);
            let second = Bundle::new(t)
                .probe(&["true"])
                .with(|config| config["linux"]["cgroupsPath"] = json!(path));
            let outcome = t.run(&second);
            assert!(
                outcome.code != 0 || outcome.stderr.contains("cgroup"),
                "neither refused nor warned: {outcome:?}"
            );
            assert_eq!(container.status(), "running");
        },
    ),
];

/// The bytes that the container uses.
fn used(t: &Test, container: &Container<'_>) -> u64 {
    let (controller, file) = match t.view.as_str() {
        "v2" => ("", "memory.current"),
        _ => ("memory", "memory.usage_in_bytes"),
    };
    let used = t.knob(controller, &container.id, file);
    used.parse().expect("bytes")
}

fn limited(t: &Test, resources: Value) -> Bundle {
    Bundle::new(t).probe(&["pause"]).with(|config| {
        for (name, value) in resources.as_object().expect("an object") {
            config["linux"]["resources"][name] = value.clone();
        }
    })
}

/// A running container without limits of its own.
fn paused<'t>(t: &'t Test) -> Container<'t> {
    t.start(&Bundle::new(t).probe(&["pause"]))
}

/// `update FLAGS ID`, which must succeed.
#[track_caller]
fn by_flags(t: &Test, container: &Container<'_>, flags: &str) {
    call(t, container, flags).ok();
}

/// `update FLAGS ID`.
fn call(t: &Test, container: &Container<'_>, flags: &str) -> Outcome {
    let words: Vec<&str> = std::iter::once("update")
        .chain(flags.split(' '))
        .chain([container.id.as_str()])
        .collect();
    t.call(&words)
}

/// `update -r FILE ID`.
fn by_document(t: &Test, container: &Container<'_>, resources: &Value) -> Outcome {
    let path = t.directory.join("resources.json");
    std::fs::write(&path, resources.to_string()).expect("write");
    t.call(&["update", "-r", text(&path), &container.id])
}

/// Fails the case, naming the `row`, unless `files` hold `values`.
#[track_caller]
fn holds(
    t: &Test,
    container: &Container<'_>,
    row: &str,
    controller: &str,
    files: &[&str],
    values: &[&str],
) {
    let found: Vec<String> = files
        .iter()
        .map(|file| t.knob(controller, &container.id, file))
        .collect();
    assert_eq!(found, values, "{row}: {files:?}");
}
