//! runtime.md and runtime-linux.md: state, life cycle, operations, links in
//! /dev. The hooks of the life cycle are in config_hooks.rs.

use std::fs;

use serde_json::{Value, json};
use spec_tests::runtime::text;
use spec_tests::{Bundle, Case};

use crate::attempt::{create, exists, refused};
use crate::config_hooks::own_cgroup;

pub(crate) const CASES: &[Case] = &[
    Case::clause(
        &[
            "runtime/scope",
            "runtime/operations",
            "runtime/create-creates",
            "runtime/start-runs",
        ],
        "create, state, start, kill and delete do their work one after the other",
        |t| {
            let bundle = Bundle::new(t).probe(&["await", "15"]);
            let container = t.create(&bundle);
            assert_eq!(container.status(), "created");
            container.start().ok();
            assert_eq!(container.status(), "running");
            container.wait_for("ready");
            container.kill("TERM").ok();
            container.wait_for("\"signal\":15");
            container.wait_status("stopped");
            container.delete().ok();
            assert!(!exists(t, &bundle.id));
        },
    ),
    Case::clause(
        &[
            "runtime/state-returns",
            "runtime/state-ociVersion",
            "runtime/state-id",
            "runtime/state-status",
            "runtime/state-bundle",
            "runtime/state-json",
        ],
        "state has the fields of the schema, in each status",
        |t| {
            let bundle = Bundle::new(t).probe(&["await", "15"]).annotation("k", "v");
            let container = t.create(&bundle);
            check_state(&bundle, &container.state(), "created");
            container.start().ok();
            check_state(&bundle, &container.state(), "running");
            container.kill("KILL").ok();
            container.wait_status("stopped");
            check_state(&bundle, &container.state(), "stopped");
        },
    ),
    Case::clause(
        &["runtime/state-pid"],
        "the pid is that of the container's process while there is one",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let container = t.create(&bundle);
            let created = container.state()["pid"].as_i64().expect("pid");
            let link = fs::read_link(format!("/proc/{created}/ns/pid")).expect("a process");
            assert_ne!(text(&link), crate::attempt::own_namespace("pid"));
            container.start().ok();
            let running = container.state()["pid"].as_i64().expect("pid");
            assert_eq!(running, created);
            // runc's start does not wait until the program is executed.
            spec_tests::runtime::wait_until("the program", || {
                let line = fs::read_to_string(format!("/proc/{running}/cmdline"));
                line.is_ok_and(|line| line == "/bin/probe\0pause\0")
            });
        },
    ),
    Case::clause(
        &["runtime/state-id-unique", "runtime/create-not-unique"],
        "an id in use is refused, the first container goes on",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let container = t.start(&bundle);
            let before = container.state();
            let mut second = Bundle::new(t).probe(&["create", "/data/ran", "x"]);
            second.id.clone_from(&bundle.id);
            assert_ne!(create(t, &second).code, 0);
            assert_eq!(container.state(), before);
            assert!(fs::read_dir(format!("/proc/{}", before["pid"])).is_ok());
        },
    ),
    Case::clause(
        &["runtime/state-status-more"],
        "a paused container has a status of its own, and none of the four after resume but running",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let container = t.start(&bundle);
            if t.call(&["pause", &bundle.id]).code != 0 {
                t.does_not_apply("the runtime has no pause");
            }
            let paused = container.status();
            assert!(
                !["creating", "created", "running", "stopped"].contains(&paused.as_str()),
                "{paused}"
            );
            t.call(&["resume", &bundle.id]).ok();
            assert_eq!(container.status(), "running");
        },
    ),
    Case::clause(
        &[
            "runtime/environment-created",
            "runtime/program-waits",
            "runtime/create-not-args",
        ],
        "create makes namespaces, root and cgroup, and does not run the program",
        |t| {
            let bundle = Bundle::new(t).probe(&["create", "/data/ran", "x", ";", "pause"]);
            let container = t.create(&bundle);
            let pid = container.pid();
            for kind in ["mnt", "net", "pid", "uts", "ipc"] {
                let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
                assert_ne!(text(&link), crate::attempt::own_namespace(kind));
            }
            let procs =
                fs::read_to_string(own_cgroup(t, &bundle).join("cgroup.procs")).expect("a cgroup");
            assert!(procs.lines().any(|line| line == pid.to_string()), "{procs}");
            let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mountinfo");
            assert!(mounts.contains(" /dev/shm "), "{mounts}");
            assert!(
                !bundle.rootfs().join("data/ran").exists(),
                "the program ran"
            );
            container.start().ok();
            spec_tests::runtime::wait_until("the program", || {
                bundle.rootfs().join("data/ran").exists()
            });
        },
    ),
    Case::clause(
        &["runtime/config-updates"],
        "a change of config.json after create changes nothing",
        |t| {
            let bundle = Bundle::new(t).probe(&["say", "first"]);
            let container = t.create(&bundle);
            let _changed = bundle.clone().probe(&["say", "second"]);
            container.start().ok();
            container.wait_status("stopped");
            assert_eq!(container.answers(), [json!({ "said": ["first"] })]);
            let bundle = Bundle::new(t).probe(&["say", "first"]);
            let container = t.create(&bundle);
            fs::remove_file(bundle.path.join("config.json")).expect("remove");
            container.start().ok();
            container.wait_status("stopped");
            assert_eq!(container.answers(), [json!({ "said": ["first"] })]);
            container.delete().ok();
        },
    ),
    Case::clause(
        &["runtime/program-runs"],
        "the program gets its arguments, environment and exit code",
        |t| {
            let bundle = Bundle::new(t)
                .probe(&["say", "a b", "", "*", ";", "exit", "43"])
                .with(|config| config["process"]["env"] = json!(["PATH=/bin", "X=1"]));
            let outcome = t.run(&bundle);
            assert_eq!(outcome.answers(), [json!({ "said": ["a b", "", "*"] })]);
            assert_eq!(outcome.code, 43);
        },
    ),
    Case::clause(
        &["runtime/destroyed", "runtime/delete-resources"],
        "delete takes cgroups, processes and state away",
        |t| {
            let bundle = Bundle::new(t).args(&["true"]);
            let container = t.start(&bundle);
            container.wait_status("stopped");
            container.delete().ok();
            assert!(!own_cgroup(t, &bundle).exists());
            assert!(!exists(t, &bundle.id));
            // Its id may be used again.
            let again = t.create(&bundle);
            assert_eq!(again.status(), "created");
        },
    ),
    Case::clause(
        &["runtime/delete-not-others"],
        "delete leaves alone what the container only used",
        |t| {
            let first = Bundle::new(t).probe(&["pause"]);
            let holder = t.start(&first);
            let path = format!("/proc/{}/ns/net", holder.pid());
            let source = t.directory.join("shared");
            fs::create_dir(&source).expect("mkdir");
            fs::write(source.join("file"), "stays").expect("write");
            let bundle = Bundle::new(t)
                .args(&["true"])
                .mount("/mnt", "bind", text(&source), &["bind"])
                .without_namespace("network")
                .with(|config| {
                    let joined = json!({ "type": "network", "path": path });
                    spec_tests::bundle::push(&mut config["linux"]["namespaces"], joined);
                });
            let container = t.start(&bundle);
            container.wait_status("stopped");
            container.delete().ok();
            assert_eq!(
                fs::read_to_string(source.join("file")).expect("read"),
                "stays"
            );
            assert!(
                bundle.rootfs().join("bin/probe").exists()
                    && bundle.path.join("config.json").exists()
            );
            assert_eq!(holder.status(), "running");
        },
    ),
    Case::clause(
        &["runtime/error-undone"],
        "a create that fails late leaves neither cgroup nor process, and the id is free",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let broken = bundle
                .clone()
                .mount("/mnt", "tmpfs", "tmpfs", &["nonsense=1"]);
            refused(t, &broken);
            assert!(!own_cgroup(t, &broken).exists(), "the cgroup is left");
            let container = t.create(&bundle.with(|config| {
                config["mounts"].as_array_mut().expect("mounts").pop();
            }));
            assert_eq!(container.status(), "created");
        },
    ),
    Case::clause(
        &[
            "runtime/state-no-id",
            "runtime/start-no-id",
            "runtime/kill-no-id",
            "runtime/delete-no-id",
        ],
        "state, start, kill and delete without an id are errors",
        |t| {
            for command in ["state", "start", "kill", "delete"] {
                assert_ne!(t.call(&[command]).code, 0, "{command}");
            }
        },
    ),
    Case::clause(
        &["runtime/state-missing"],
        "state, start, kill and delete of an id that is not there are errors",
        |t| {
            let id = t.id();
            for command in [
                &["state", &id][..],
                &["start", &id],
                &["kill", &id, "KILL"],
                &["delete", &id],
            ] {
                assert_ne!(t.call(command).code, 0, "{command:?}");
            }
        },
    ),
    Case::clause(
        &["runtime/create-arguments"],
        "create without id, or without a bundle, is an error",
        |t| {
            let bundle = Bundle::new(t);
            assert_ne!(t.call(&["create", "--bundle", text(&bundle.path)]).code, 0);
            let id = t.id();
            // The current directory, which is what the command takes otherwise, is none.
            assert_ne!(
                t.spawn(t.command(&["create", &id]).current_dir("/"))
                    .wait()
                    .code,
                0
            );
            let nowhere = t.directory.join("nowhere");
            assert_ne!(t.call(&["create", "--bundle", text(&nowhere), &id]).code, 0);
            assert!(!exists(t, &id));
        },
    ),
    Case::clause(
        &["runtime/create-invalid-id"],
        "an id that is no name is refused",
        |t| {
            let bundle = Bundle::new(t);
            for id in ["", ".", "..", "a/b", "../x", "/abs"] {
                let outcome = t.call(&["create", "--bundle", text(&bundle.path), id]);
                let _delete = (outcome.code == 0).then(|| t.adopt(id));
                assert_ne!(outcome.code, 0, "{id:?}");
            }
        },
    )
    .except(&[("crun", "1.8.1 takes a path for a name")]),
    Case::clause(
        &["runtime/start-not-created"],
        "start of a running or a stopped container is an error without effect",
        |t| {
            let bundle =
                Bundle::new(t).probe(&["append", "/data/runs", "once", ";", "await", "15"]);
            let container = t.start(&bundle);
            container.wait_for("ready");
            let pid = container.pid();
            assert_ne!(container.start().code, 0);
            assert_eq!(
                (container.status(), container.pid()),
                ("running".to_owned(), pid)
            );
            container.kill("TERM").ok();
            container.wait_status("stopped");
            assert_ne!(container.start().code, 0);
            assert_eq!(container.status(), "stopped");
            let runs = fs::read_to_string(bundle.rootfs().join("data/runs")).expect("read");
            assert_eq!(runs, "once\n");
        },
    ),
    Case::clause(
        &["runtime/kill-stopped"],
        "kill of a stopped container is an error without effect",
        |t| {
            let bundle = Bundle::new(t).args(&["true"]);
            let container = t.start(&bundle);
            container.wait_status("stopped");
            assert_ne!(container.kill("KILL").code, 0);
            assert_eq!(container.status(), "stopped");
        },
    ),
    Case::clause(
        &["runtime/kill-sends"],
        "kill sends the signal that is named, to a created container too",
        |t| {
            for (name, number) in [("TERM", 15), ("SIGUSR1", 10), ("12", 12)] {
                let bundle = Bundle::new(t).probe(&["await", &number.to_string()]);
                let container = t.start(&bundle);
                container.wait_for("ready");
                container.kill(name).ok();
                container.wait_for(&format!("\"signal\":{number}"));
                container.wait_status("stopped");
            }
            let container = t.create(&Bundle::new(t).probe(&["pause"]));
            container.kill("KILL").ok();
            container.wait_status("stopped");
        },
    ),
    Case::clause(
        &["runtime/delete-running"],
        "delete of a running container is an error without effect",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let container = t.start(&bundle);
            let pid = container.pid();
            assert_ne!(container.delete().code, 0);
            assert_eq!(
                (container.status(), container.pid()),
                ("running".to_owned(), pid)
            );
        },
    ),
    Case::clause(
        &["runtime/delete-created"],
        "delete of a created container is an error without effect",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let container = t.create(&bundle);
            assert_ne!(container.delete().code, 0);
            assert_eq!(container.status(), "created");
        },
    )
    .except(&[
        (
            "rrun",
            "as runc: engines delete what they created and never started, without --force",
        ),
        (
            "runc",
            "kills and deletes it: containerd and others count on that",
        ),
        ("crun", "kills and deletes it, as runc does"),
    ]),
    Case::clause(
        &[
            "runtime-linux/link-fd",
            "runtime-linux/link-stdin",
            "runtime-linux/link-stdout",
            "runtime-linux/link-stderr",
        ],
        "the four links of /dev point into /proc/self/fd",
        |t| {
            let dev = t.run(&Bundle::new(t)).answer()["dev"].clone();
            for (name, target) in [
                ("fd", "/proc/self/fd"),
                ("stdin", "/proc/self/fd/0"),
                ("stdout", "/proc/self/fd/1"),
                ("stderr", "/proc/self/fd/2"),
            ] {
                assert_eq!(dev[name]["target"], target, "{name}");
            }
        },
    ),
    Case::clause(
        &["runtime-linux/link-source"],
        "without /proc a container starts all the same",
        |t| {
            let bundle = Bundle::new(t).probe(&["say", "runs"]).with(|config| {
                let mounts = config["mounts"].as_array_mut().expect("mounts");
                mounts.retain(|mount| mount["destination"] != "/proc");
                let linux = config["linux"].as_object_mut().expect("linux");
                linux.remove("maskedPaths");
                linux.remove("readonlyPaths");
            });
            assert_eq!(t.run(&bundle).answer(), json!({ "said": ["runs"] }));
        },
    )
    .except(&[("runc", "1.1.5 needs /proc to close descriptors")]),
];

/// The fields of state-schema.json.
#[track_caller]
fn check_state(bundle: &Bundle, state: &Value, status: &str) {
    let version = state["ociVersion"].as_str().expect("ociVersion");
    let numbers: Vec<&str> = version.split(['.', '-', '+']).collect();
    assert!(
        numbers.len() >= 3 && numbers[..3].iter().all(|n| n.parse::<u32>().is_ok()),
        "{version}"
    );
    assert_eq!(state["id"], bundle.id.as_str());
    assert_eq!(state["status"], status);
    assert_eq!(state["bundle"], text(&bundle.path));
    assert_eq!(state["annotations"], json!({ "k": "v" }));
    match status {
        "stopped" => {
            assert!(state["pid"].is_null() || state["pid"].as_i64().is_some_and(|pid| pid >= 0));
        }
        _ => assert!(state["pid"].as_i64().is_some_and(|pid| pid > 0), "{state}"),
    }
}
