//! Containers of a user without rights: a user namespace in which he is
//! root, with his own id alone or with ranges that newuidmap(1) hands him,
//! without cgroups or in one that was delegated to him.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use serde_json::json;
use spec_tests::runtime::text;
use spec_tests::user::{SUBORDINATE, SUBORDINATES, USER, bind};
use spec_tests::{Bundle, Case, Needs, Test};

pub(crate) const CASES: &[Case] = &[
    Case::runc("a user without rights is root of his container", |t| {
        let t = &t.as_user("");
        let report = t.run(&Bundle::new(t).rootless()).answer();
        assert_eq!(report["uids"], json!([0, 0]));
        assert_eq!(report["gids"], json!([0, 0]));
        assert_eq!(map(&report["uid_map"]), [[0, USER, 1]]);
        assert_eq!(map(&report["gid_map"]), [[0, USER, 1]]);
        assert_eq!(report["pid"], 1);
        assert_eq!(report["hostname"], "probe");
        // Its capabilities are those of config.json, in its namespace.
        assert_eq!(report["status"]["CapEff"], "0000000020000420");
    }),
    Case::runc("his own id alone means setgroups is denied", |t| {
        let t = &t.as_user("");
        let bundle = Bundle::new(t)
            .rootless()
            .probe(&["read", "/proc/self/setgroups"]);
        assert_eq!(t.run(&bundle).answer()["text"], "deny\n");
    }),
    Case::runc("his container goes through its whole life", |t| {
        let t = &t.as_user("");
        let bundle = Bundle::new(t).rootless().probe(&["pause"]);
        let container = t.create(&bundle);
        assert_eq!(container.status(), "created");
        container.start().ok();
        assert_eq!(container.status(), "running");
        let report = container.probe(&[], &["report"]).answer();
        assert_eq!(report["uids"], json!([0, 0]));
        assert_eq!(report["hostname"], "probe");
        let listed = t.call(&["list", "-f", "json"]).json();
        assert_eq!(listed[0]["id"], bundle.id.as_str());
        container.kill("KILL").ok();
        container.wait_status("stopped");
        container.delete().ok();
        t.call(&["state", &bundle.id]).fails(1, &["does not exist"]);
    }),
    Case::runc("spec --rootless writes a config that he can run", |t| {
        let t = &t.as_user("");
        let bundle = Bundle::new(t);
        fs::remove_file(bundle.path.join("config.json")).expect("remove");
        let mut spec = t.command(&["spec", "--rootless"]);
        t.spawn(spec.current_dir(&bundle.path)).wait().ok();
        let path = bundle.path.join("config.json");
        let bytes = fs::read(&path).expect("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/probe", "report"]);
        fs::write(&path, config.to_string()).expect("config.json");
        let report = t.run(&bundle).answer();
        assert_eq!(map(&report["uid_map"]), [[0, USER, 1]]);
        // It has no network namespace: the host's network is what he can use.
        let own = fs::read_link("/proc/self/ns/net").expect("readlink");
        assert_eq!(report["namespaces"]["net"], text(&own));
    }),
    Case::runc("without --root his state is in XDG_RUNTIME_DIR", |t| {
        let t = &t.as_user("");
        let home = t.directory.join("xdg");
        fs::create_dir(&home).expect("mkdir");
        let bundle = Bundle::new(t).rootless().probe(&["pause"]);
        let command = |words: &[&str]| {
            let mut command = std::process::Command::new(&t.runtime);
            command.args(words).env("XDG_RUNTIME_DIR", &home);
            t.spawn(command.stdin(std::process::Stdio::null())).wait()
        };
        command(&["run", "-d", "-b", text(&bundle.path), &bundle.id]).ok();
        let root = home.join(&t.runtime_name);
        assert!(root.join(&bundle.id).is_dir());
        // Sticky, so that no cleaner of old files takes it; nobody else's.
        let mode = fs::metadata(&root).expect("stat").mode();
        assert_eq!(mode & 0o7777, 0o1700, "{mode:o}");
        command(&["delete", "--force", &bundle.id]).ok();
        assert!(!root.join(&bundle.id).exists());
    }),
    Case::runc("newuidmap and newgidmap map his subordinate ids", |t| {
        let t = &t.as_user(&range());
        let bundle = Bundle::new(t)
            .rootless_range()
            .probe(&["report", ";", "read", "/proc/self/setgroups"])
            .with(|config| config["process"]["user"] = json!({ "uid": 33, "gid": 34 }));
        let outcome = t.run(&bundle).ok();
        let answers = outcome.answers();
        let report = &answers[0];
        let expected = [[0, USER, 1], [1, SUBORDINATE, SUBORDINATES - 1]];
        assert_eq!(map(&report["uid_map"]), expected);
        assert_eq!(map(&report["gid_map"]), expected);
        assert_eq!(report["uids"], json!([33, 33]));
        assert_eq!(report["gids"], json!([34, 34]));
        assert_eq!(answers[1]["text"], "allow\n");
    }),
    Case::kernel("mapped groups can be supplementary ones", |t| {
        let t = &t.as_user(&range());
        let bundle = Bundle::new(t).rootless_range().with(|config| {
            config["process"]["user"]["additionalGids"] = json!([5, 100]);
        });
        assert_eq!(t.run(&bundle).answer()["groups"], json!([5, 100]));
        let bundle = Bundle::new(t).rootless_range().probe(&["pause"]);
        let container = t.start(&bundle);
        let report = container.probe(&["--additional-gids", "9"], &["report"]);
        assert_eq!(report.answer()["groups"], json!([9]));
    })
    .except(&[("runc", "refuses them to everybody but root")]),
    Case::kernel(
        "run.oci.keep_original_groups leaves a user his groups, and to exec",
        |t| {
            let groups = || {
                nix::unistd::setgroups(&[7, 8].map(nix::unistd::Gid::from_raw)).expect("setgroups");
            };
            let t = &t.as_user_with(&range(), groups);
            for (value, kept) in [("1", json!([65534, 65534])), ("0", json!([]))] {
                let bundle = Bundle::new(t)
                    .rootless_range()
                    .annotation("run.oci.keep_original_groups", value)
                    .probe(&["report", ";", "pause"]);
                let container = t.start(&bundle);
                container.wait_for("groups");
                assert_eq!(container.answers()[0]["groups"], kept, "{value}");
                let report = container.probe(&[], &["report"]).answer();
                assert_eq!(report["groups"], kept, "{value}");
            }
        },
    )
    .except(&[("runc", "an annotation of crun's")]),
    Case::runc("exec takes another of the mapped users", |t| {
        let t = &t.as_user(&range());
        let bundle = Bundle::new(t).rootless_range().probe(&["pause"]);
        let container = t.start(&bundle);
        let report = container.probe(&["--user", "7:8"], &["report"]).answer();
        assert_eq!(report["uids"], json!([7, 7]));
        assert_eq!(report["gids"], json!([8, 8]));
    }),
    Case::kernel("ids that are nobody's gift are refused", |t| {
        // /etc/subuid has no line of his.
        let t = &t.as_user("");
        let bundle = Bundle::new(t).rootless_range();
        t.run(&bundle).fails(1, &["newuidmap", "uid range"]);
        gone(t, &bundle);
    }),
    Case::kernel(
        "a newuidmap that comes first in PATH is not executed",
        |t| {
            let t = &t.as_user(&range());
            let (folder, told) = (t.directory.join("first"), t.directory.join("told"));
            fs::create_dir(&folder).expect("mkdir");
            for name in ["newuidmap", "newgidmap"] {
                let path = folder.join(name);
                let script = format!("#!/bin/sh\necho $0 >>{}\n", text(&told));
                fs::write(&path, script).expect("write");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
            }
            let bundle = Bundle::new(t).rootless_range();
            let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
            command.env("PATH", format!("{}:/usr/bin:/bin", text(&folder)));
            let report = t.spawn(&mut command).wait().answer();
            assert_eq!(map(&report["uid_map"]).len(), 2);
            assert!(!told.exists(), "{:?}", fs::read_to_string(&told));
        },
    )
    .except(&[("runc", "looks for it in PATH")]),
    Case::kernel("without newuidmap ranges are refused", |t| {
        let nothing = t.directory.join("nothing");
        fs::write(&nothing, "").expect("a file");
        let t = &t.as_user_with(&range(), || bind(&nothing, Path::new("/usr/bin/newuidmap")));
        let bundle = Bundle::new(t).rootless_range();
        t.run(&bundle).fails(1, &["newuidmap", "permission denied"]);
        gone(t, &bundle);
        // His own id takes no helper.
        t.run(&Bundle::new(t).rootless()).ok();
    })
    .except(&[("runc", "says that the tool is not present")]),
    Case::kernel("another user's id is refused", |t| {
        let t = &t.as_user("");
        let bundle = Bundle::new(t).rootless().with(|config| {
            config["linux"]["uidMappings"][0]["hostID"] = json!(0);
        });
        t.run(&bundle).fails(1, &["newuidmap"]);
        gone(t, &bundle);
    })
    .except(&[("runc", "fails at the stdio that it gives to that user")]),
    Case::runc("supplementary groups need setgroups", |t| {
        let t = &t.as_user("");
        let bundle = Bundle::new(t).rootless().with(|config| {
            config["process"]["user"]["additionalGids"] = json!([5]);
        });
        t.run(&bundle).fails(
            1,
            &["cannot set any additional groups in a rootless container"],
        );
        gone(t, &bundle);
    }),
    Case::runc("a container without user namespace is refused", |t| {
        let t = &t.as_user("");
        let bundle = Bundle::new(t).with(|config| {
            config["linux"]
                .as_object_mut()
                .expect("linux")
                .remove("resources");
        });
        t.run(&bundle)
            .fails(1, &["rootless container requires user namespaces"]);
        gone(t, &bundle);
    }),
    Case::runc("root of a user namespace needs no other one", |t| {
        // As under rootless Docker: what starts rrun made the namespace.
        let t = &t.as_user("");
        let bundle = Bundle::new(t).rootless().with(|config| {
            let linux = config["linux"].as_object_mut().expect("linux");
            linux.remove("uidMappings");
            linux.remove("gidMappings");
        });
        let bundle = bundle.without_namespace("user");
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user"]).arg(&t.runtime);
        command.arg("--root").arg(&t.root);
        command.args(["run", "--bundle", text(&bundle.path), &bundle.id]);
        let outcome = t.spawn(&mut command).wait().ok();
        let report = &outcome.answers()[0];
        assert_eq!(report["uids"], json!([0, 0]));
        assert_eq!(map(&report["uid_map"]), [[0, USER, 1]]);
        assert_eq!(report["pid"], 1);
    }),
    Case::kernel("root of a user namespace makes one below it", |t| {
        let t = &t.as_user("");
        let bundle = Bundle::new(t).rootless().with(|config| {
            config["linux"]["uidMappings"][0]["hostID"] = json!(0);
            config["linux"]["gidMappings"][0]["hostID"] = json!(0);
        });
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user"]).arg(&t.runtime);
        command.arg("--root").arg(&t.root);
        command.args(["run", "--bundle", text(&bundle.path), &bundle.id]);
        let outcome = t.spawn(&mut command).wait().ok();
        let report = &outcome.answers()[0];
        assert_eq!(map(&report["uid_map"]), [[0, 0, 1]]);
        assert_eq!(report["status"]["CapEff"], "0000000020000420");
    }),
    Case::kernel(
        "without a cgroup its processes are those of its pid namespace",
        |t| {
            let t = &t.as_user(&range());
            let bundle = Bundle::new(t).rootless_range().probe(&["pause"]);
            let container = t.start(&bundle);
            container
                .probe(&["--detach", "--user", "7"], &["pause"])
                .ok();
            let pids = t.call(&["ps", "-f", "json", &container.id]).json();
            let pids = pids.as_array().expect("a list").clone();
            assert_eq!(pids.len(), 2, "{pids:?}");
            assert!(pids.contains(&json!(container.pid())));
            t.call(&["kill", "--all", &container.id, "KILL"]).ok();
            container.wait_status("stopped");
            let pids = t.call(&["ps", "-f", "json", &container.id]).json();
            assert_eq!(pids, json!([]));
            // What takes a cgroup says so.
            let bundle = Bundle::new(t).rootless().probe(&["pause"]);
            let container = t.start(&bundle);
            t.call(&["pause", &container.id])
                .fails(1, &["cgroup not exist"]);
            t.call(&["update", "--pids-limit", "9", &container.id])
                .fails(1, &["cgroup not exist"]);
        },
    )
    .except(&[("runc", "has no list of processes then")]),
    Case::runc("limits without a cgroup are refused", |t| {
        let t = &t.as_user("");
        let bundle = Bundle::new(t).rootless().with(|config| {
            config["linux"]["resources"] = json!({ "pids": { "limit": 20 } });
        });
        let refused = t.run(&bundle).fails(1, &["cgroup"]).stderr;
        // v2 can say why before it comes to the limit.
        let words = [
            "container could not join or create cgroup",
            "rootless needs no limits + no cgrouppath when no permission is granted for cgroups",
        ];
        assert!(
            words.iter().any(|words| refused.contains(words)),
            "{refused}"
        );
        gone(t, &bundle);
    })
    .except(&[(
        "runc@v2",
        "without controllers it meets a missing file, and says so",
    )]),
    Case::kernel("an oom score that he may not have is left alone", |t| {
        let t = &t.as_user("");
        let own = fs::read_to_string("/proc/self/oom_score_adj").expect("own");
        let bundle = Bundle::new(t).rootless().with(|config| {
            config["process"]["oomScoreAdj"] = json!(-999);
        });
        let report = t.run(&bundle).answer();
        assert_eq!(report["oom_score_adj"], own.trim());
    })
    .except(&[("runc", "1.1.5 fails")]),
    Case::runc("what he wrote belongs to him", |t| {
        let t = &t.as_user(&range());
        let bundle = Bundle::new(t)
            .rootless_range()
            .probe(&["create", "/data/file", "text"]);
        t.run(&bundle).ok();
        let file = fs::metadata(bundle.rootfs().join("data/file")).expect("stat");
        assert_eq!((file.uid(), file.gid()), (USER, USER));
    }),
    Case::runc("the host's cgroups can't be written through /sys", |t| {
        // CVE-2023-25809: /sys of the host, and no cgroup namespace.
        let t = &t.as_user("");
        let bundle = Bundle::new(t)
            .rootless()
            .without_namespace("network")
            .with(|config| {
                let mounts = config["mounts"].as_array_mut().expect("mounts");
                mounts.retain(|mount| mount["destination"] != "/sys");
                mounts.push(
                    json!({ "destination": "/sys", "type": "none", "source": "/sys",
                    "options": ["rbind", "nosuid", "noexec", "nodev", "ro"] }),
                );
                mounts.push(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup",
                    "source": "cgroup",
                    "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] }));
            })
            .probe(&["mkdir", "/sys/fs/cgroup/hole"]);
        let answer = t.run(&bundle).answer();
        assert_eq!(answer["errno"], 30, "{answer}");
    })
    .except(&[
        ("runc@hybrid", "its tmpfs above the hierarchies is writable"),
        ("runc@v1", "its tmpfs above the hierarchies is writable"),
    ]),
    Case::runc(
        "limits are set in a cgroup that was delegated to him",
        |t| {
            let id = t.id();
            let delegated = delegate(t, &id);
            t.user_does("", || enter(&delegated), |t| live_in_delegated(t, &id));
            for directory in delegated.iter().rev() {
                fs::remove_dir(directory)
                    .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
            }
        },
    )
    .needs(Needs::Limits),
    Case::runc("devices are the host's, bound", |t| {
        let t = &t.as_user("");
        let bundle =
            Bundle::new(t)
                .rootless()
                .probe(&["stat", "/dev/null", ";", "statfs", "/dev/null"]);
        let outcome = t.run(&bundle).ok();
        let answers = outcome.answers();
        assert_eq!(answers[0]["type"], "char", "{}", answers[0]);
    }),
];

/// The lines of /etc/subuid.
fn range() -> String {
    format!("user:{SUBORDINATE}:{SUBORDINATES}\n")
}

/// An id map as numbers.
fn map(text: &serde_json::Value) -> Vec<Vec<u32>> {
    let lines = text.as_str().expect("a map").lines();
    lines
        .map(|line| {
            let numbers = line.split_whitespace();
            numbers
                .map(|number| number.parse().expect("a number"))
                .collect()
        })
        .collect()
}

/// Nothing is left of a container that could not be made.
#[track_caller]
fn gone(t: &Test, bundle: &Bundle) {
    t.call(&["state", &bundle.id]).fails(1, &["does not exist"]);
}

/// A container's life with limits, below the cgroup `id` of the user.
fn live_in_delegated(t: &Test, id: &str) {
    let bundle = Bundle::new(t).rootless().probe(&["pause"]).with(|config| {
        config["linux"]["cgroupsPath"] = json!(format!("/{id}/inner"));
        config["linux"]["resources"] = json!({ "pids": { "limit": 17 } });
    });
    let container = t.start(&bundle);
    let hierarchy = if t.view == "v2" { "" } else { "pids" };
    let inner = format!("{id}/inner");
    assert_eq!(t.knob(hierarchy, &inner, "pids.max"), "17");
    let processes = t.knob(hierarchy, &inner, "cgroup.procs");
    let pid = container.pid().to_string();
    assert!(processes.lines().any(|line| line == pid), "{processes}");
    t.call(&["update", "--pids-limit", "18", &container.id])
        .ok();
    assert_eq!(t.knob(hierarchy, &inner, "pids.max"), "18");
    t.call(&["pause", &container.id]).ok();
    assert_eq!(container.status(), "paused");
    t.call(&["resume", &container.id]).ok();
    container.probe(&[], &["true"]).ok();
    t.call(&["delete", "--force", &container.id]).ok();
    assert!(!t.cgroup(hierarchy, &inner).exists());
}

/// Gives the user a cgroup in every hierarchy, as systemd does (the files that
/// it gives are those of /sys/kernel/cgroup/delegate), with one below it for
/// himself: to move a process takes a right on the cgroup above both places.
/// What was made, in order.
fn delegate(t: &Test, id: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let mut made = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        if !right.starts_with("cgroup ") && !right.starts_with("cgroup2 ") {
            continue;
        }
        let top = Path::new(left.split(' ').nth(4).expect("a mount point"));
        if t.view == "v2" {
            fs::write(top.join("cgroup.subtree_control"), "+cpu +memory +pids").expect("hand down");
        }
        for directory in [top.join(id), top.join(id).join("own")] {
            fs::create_dir(&directory).expect("mkdir");
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let above = directory.parent().expect("a parent").join(file);
                let above = fs::read(above).unwrap_or_default();
                let _ = fs::write(directory.join(file), above);
            }
            let files = [
                "",
                "cgroup.procs",
                "tasks",
                "cgroup.subtree_control",
                "cgroup.threads",
            ];
            for file in files.map(|name| directory.join(name)) {
                if file.exists() {
                    lchown(&file, Some(USER), Some(USER)).expect("chown");
                }
            }
            made.push(directory);
        }
    }
    made
}

/// Moves this process to the user's own place.
fn enter(delegated: &[PathBuf]) {
    for own in delegated.iter().filter(|path| path.ends_with("own")) {
        fs::write(own.join("cgroup.procs"), "0").expect("cgroup.procs");
    }
}
