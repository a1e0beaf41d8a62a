//! Cgroups below the container's own: `run.oci.delegate-cgroup` without systemd.
//! (With it, and `run.oci.systemd.subgroup`, among the cases of systemd.) crun is
//! the oracle of all that it does the same way; where the cgroup namespace begins
//! it does not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use spec_tests::runtime::text;
use spec_tests::{Bundle, Case, Needs, Test, bundle};

const KEY: &str = "run.oci.delegate-cgroup";
const OURS: &[(&str, &str)] = &[
    ("runc", "an annotation of crun's"),
    ("crun", "its cgroup namespace begins at the container's own"),
];

pub(crate) const CASES: &[Case] = &[
    crun(
        "the limits are above what is delegated, the process is in it",
        |t| {
            let bundle = limited(t).annotation(KEY, "inner");
            let container = t.start(&bundle);
            let path = format!("/{}/inner", bundle.id);
            assert_eq!(own_cgroup(container.pid()), path);
            assert_eq!(t.knob("", &bundle.id, "memory.max"), (64 << 20).to_string());
            assert_eq!(t.knob("", &bundle.id, "pids.max"), "17");
            assert_eq!(t.knob("", &bundle.id, "cgroup.procs"), "");
            let inner = format!("{}/inner", bundle.id);
            assert_eq!(t.knob("", &inner, "memory.max"), "max");
            let controllers = t.knob("", &inner, "cgroup.controllers");
            let has = |name| controllers.split(' ').any(|one| one == name);
            assert!(has("memory") && has("pids"), "{controllers}");
        },
    ),
    crun(
        "what is delegated may be of several levels, with a slash before it",
        |t| {
            let bundle = limited(t).annotation(KEY, "/a/b");
            let container = t.start(&bundle);
            assert_eq!(own_cgroup(container.pid()), format!("/{}/a/b", bundle.id));
            let controllers = t.knob("", &format!("{}/a/b", bundle.id), "cgroup.controllers");
            let has = |name| controllers.split(' ').any(|one| one == name);
            assert!(has("memory") && has("pids"), "{controllers}");
            container.kill("KILL").ok();
            container.wait_status("stopped");
            container.delete().ok();
            assert!(!t.cgroup("", &bundle.id).exists());
        },
    ),
    crun("an empty path delegates nothing", |t| {
        let bundle = limited(t).annotation(KEY, "");
        let container = t.start(&bundle);
        assert_eq!(own_cgroup(container.pid()), format!("/{}", bundle.id));
    }),
    crun(
        "what is delegated belongs to the container's root, its limits do not",
        |t| {
            let bundle = limited(t).annotation(KEY, "a/b").in_user_namespace(100_000);
            let bundle = bundle.with(|config| {
                config["linux"]["gidMappings"][0]["hostID"] = json!(200_000);
            });
            let container = t.start(&bundle);
            let top = t.cgroup("", &bundle.id);
            let owner = |path: &Path| {
                let found = fs::metadata(path).expect("stat");
                (found.uid(), found.gid())
            };
            let list =
                fs::read_to_string("/sys/kernel/cgroup/delegate").expect("the kernel's list");
            let delegated = top.join("a/b");
            assert_eq!(owner(&delegated), (100_000, 200_000));
            for entry in fs::read_dir(&delegated).expect("readdir").flatten() {
                let name = entry.file_name().into_string().expect("UTF-8");
                let wanted = match list.lines().any(|line| line == name) {
                    true => (100_000, 200_000),
                    false => (0, 0),
                };
                assert_eq!(owner(&entry.path()), wanted, "{name}");
            }
            for limit in [
                top.join("memory.max"),
                top.join("a"),
                top.join("a/cgroup.procs"),
            ] {
                assert_eq!(owner(&limit), (0, 0), "{limit:?}");
            }
            drop(container);
        },
    ),
    crun("exec goes where the processes are", |t| {
        let bundle = limited(t).annotation(KEY, "inner");
        let container = t.start(&bundle);
        // Both have no cgroup namespace.
        let report = container.probe(&[], &["report"]).answer();
        let cgroup = report["cgroup"].as_str().expect("cgroup");
        assert!(
            cgroup.contains(&format!("0::/{}/inner", bundle.id)),
            "{cgroup}"
        );
    }),
    crun(
        "pause, resume and update are of the container's own cgroup",
        |t| {
            let bundle = limited(t).annotation(KEY, "inner");
            let container = t.start(&bundle);
            let id = container.id.as_str();
            t.call(&["pause", id]).ok();
            assert_eq!(container.status(), "paused");
            assert_eq!(t.knob("", id, "cgroup.freeze"), "1");
            let inner = format!("{id}/inner");
            assert!(t.knob("", &inner, "cgroup.events").contains("frozen 1"));
            assert_eq!(t.knob("", &inner, "cgroup.freeze"), "0");
            t.call(&["resume", id]).ok();
            assert_eq!(container.status(), "running");
            let resources = t.directory.join("resources.json");
            let written = json!({ "memory": { "limit": 32 << 20 }, "pids": { "limit": 9 } });
            fs::write(&resources, written.to_string()).expect("write");
            t.call(&["update", "-r", text(&resources), id]).ok();
            assert_eq!(t.knob("", id, "memory.max"), (32 << 20).to_string());
            assert_eq!(t.knob("", id, "pids.max"), "9");
            assert_eq!(t.knob("", &inner, "memory.max"), "max");
            assert_eq!(t.knob("", &inner, "pids.max"), "max");
        },
    ),
    crun(
        "a paused container and all that it made below dies of delete --force",
        |t| {
            let bundle = limited(t).annotation(KEY, "a/b");
            let container = t.start(&bundle);
            let below = t.cgroup("", &bundle.id).join("a/b/one/two");
            fs::create_dir_all(&below).expect("mkdir");
            t.call(&["pause", &container.id]).ok();
            t.call(&["delete", "--force", &container.id]).ok();
            assert!(!t.cgroup("", &bundle.id).exists());
        },
    ),
    ours("processes below are listed, counted and killed", |t| {
        let bundle = limited(t).annotation(KEY, "inner").without_namespace("pid");
        let container = t.start(&bundle);
        let id = container.id.as_str();
        container.probe(&[], &["orphan"]).ok();
        let below = t.cgroup("", id).join("inner/below");
        fs::create_dir(&below).expect("mkdir");
        fs::write(below.join("cgroup.procs"), container.pid().to_string()).expect("move");
        let listed = t.call(&["ps", "-f", "json", id]).json();
        let listed = listed.as_array().expect("pids").clone();
        assert_eq!(listed.len(), 2, "{listed:?}");
        assert!(listed.contains(&json!(container.pid())), "{listed:?}");
        let stats = t.call(&["events", "--stats", id]).json();
        assert_eq!(stats["data"]["pids"]["current"], 2, "{stats}");
        assert_eq!(stats["data"]["pids"]["limit"], 17, "{stats}");
        assert_eq!(
            stats["data"]["memory"]["usage"]["limit"],
            64 << 20,
            "{stats}"
        );
        t.call(&["kill", "--all", id, "KILL"]).ok();
        container.wait_status("stopped");
        container.delete().ok();
        assert!(!t.cgroup("", &bundle.id).exists());
    }),
    ours("the cgroup namespace begins at what is delegated", |t| {
        let bundle = owned(t).annotation(KEY, "inner");
        let container = t.start(&bundle);
        assert_eq!(own_cgroup(container.pid()), format!("/{}/inner", bundle.id));
        let seen = |words: &[&str]| container.probe(&[], words).answer();
        let cgroup = seen(&["read", "/proc/self/cgroup"]);
        assert_eq!(cgroup["text"], "0::/\n");
        // The limits above are nowhere in it.
        let limit = seen(&["read", "/sys/fs/cgroup/memory.max"]);
        assert_eq!(limit["text"], "max\n");
        let refused = seen(&["write", "/sys/fs/cgroup/memory.max", "max"]);
        assert!(refused["errno"].is_number(), "{refused}");
    }),
    ours("its processes make cgroups with limits of their own", |t| {
        let bundle = owned(t).annotation(KEY, "inner");
        let container = t.start(&bundle);
        let top = "/sys/fs/cgroup";
        let [jobs, rest] = ["jobs", "rest"].map(|name| format!("{top}/{name}"));
        let procs = format!("{rest}/cgroup.procs");
        // It hands controllers down once nobody is in it: neither the first process
        // nor who writes.
        let handed_down = format!("{top}/cgroup.subtree_control");
        let limit = format!("{jobs}/pids.max");
        let steps: [&[&str]; 6] = [
            &["mkdir", &jobs],
            &["mkdir", &rest],
            &["write", &procs, "1"],
            &["write", &procs, "0"],
            &["write", &handed_down, "+memory +pids"],
            &["write", &limit, "3"],
        ];
        let answers = container.probe(&[], &steps.join(&";")).answers();
        assert!(
            answers.iter().all(|answer| answer["errno"].is_null()),
            "{answers:?}"
        );
        let inner = format!("{}/inner", bundle.id);
        assert_eq!(t.knob("", &format!("{inner}/jobs"), "pids.max"), "3");
        // Now it takes no processes itself: exec goes beside the first one.
        let cgroup = container
            .probe(&[], &["read", "/proc/self/cgroup"])
            .answer();
        assert_eq!(cgroup["text"], "0::/rest\n");
        // What lies above still holds.
        assert_eq!(t.knob("", &bundle.id, "pids.max"), "17");
        let named = container.probe(&["--cgroup", "jobs"], &["read", "/proc/self/cgroup"]);
        assert_eq!(named.answer()["text"], "0::/jobs\n");
        container.kill("KILL").ok();
        container.wait_status("stopped");
        container.delete().ok();
        assert!(!t.cgroup("", &bundle.id).exists());
    }),
    ours("a limit above ends what is delegated, and says so", |t| {
        let bundle = limited(t).annotation(KEY, "inner").with(|config| {
            config["linux"]["resources"]["memory"] = json!({ "limit": 16 << 20, "swap": 16 << 20 });
        });
        let container = t.start(&bundle);
        let killed = container.probe(&[], &["touch-memory", "64"]);
        assert_ne!(killed.code, 0, "{killed:?}");
        assert!(
            t.knob("", &bundle.id, "memory.events")
                .contains("oom_kill 1")
        );
    }),
    Case::kernel("a path that leads elsewhere is refused", |t| {
        for (key, value, cause) in [
            (KEY, "../x", "\"../x\" has a \"..\""),
            (KEY, "/a/../../x", "\"/a/../../x\" has a \"..\""),
            (KEY, "a//b", "\"a//b\" has an empty part"),
            (KEY, "/", "\"/\" has an empty part"),
            (KEY, "a\nb", "\"a\\nb\" is no name of a cgroup"),
            ("run.oci.systemd.subgroup", "../x", "\"../x\" has a \"..\""),
            ("run.oci.systemd.subgroup", "a/", "\"a/\" has an empty part"),
        ] {
            let bundle = Bundle::new(t).args(&["true"]).annotation(key, value);
            let text = format!("config.json: annotations[{key:?}]: {cause}");
            t.run(&bundle).fails(1, &[&text]);
            t.call(&["state", &bundle.id]).fails(1, &["does not exist"]);
        }
    })
    .except(&[
        ("runc", "annotations of crun's"),
        ("crun", "1.8.1 goes there"),
    ]),
    Case::kernel("a subgroup needs a cgroup that systemd makes", |t| {
        let bundle = Bundle::new(t)
            .args(&["true"])
            .annotation("run.oci.systemd.subgroup", "sub");
        let outcome = t.run(&bundle).ok();
        let text = "run.oci.systemd.subgroup is ignored: the cgroup is not made by systemd";
        assert!(outcome.stderr.contains(text), "{}", outcome.stderr);
        // CRI-O sets it for every container.
        let bundle = bundle.annotation("run.oci.systemd.subgroup", "");
        assert_eq!(t.run(&bundle).ok().stderr, "");
    })
    .except(&[
        ("runc", "an annotation of crun's"),
        ("crun", "says nothing"),
    ]),
    Case::kernel("neither a cgroup of v1 nor none is delegated", |t| {
        let bundle = Bundle::new(t).args(&["true"]).annotation(KEY, "inner");
        if t.view != "v2" {
            let cause = "annotations[\"run.oci.delegate-cgroup\"]: needs cgroup v2 alone";
            t.run(&bundle).fails(1, &[cause]);
        }
        let outcome = t.call(&[
            "--cgroup-manager",
            "disabled",
            "run",
            "--bundle",
            text(&bundle.path),
            &bundle.id,
        ]);
        outcome.fails(1, &["the container has no cgroup of its own"]);
    })
    .except(&[("runc", "an annotation of crun's"), ("crun", "no oracle")]),
    Case::kernel(
        "a joined user namespace whose root is not told leaves it to root",
        |t| {
            let first = t.start(&owned(t));
            let namespace = format!("/proc/{}/ns/user", first.pid());
            let bundle = Bundle::new(t)
                .probe(&["pause"])
                .annotation(KEY, "inner")
                .with(|config| {
                    bundle::push(
                        &mut config["linux"]["namespaces"],
                        json!({ "type": "user", "path": namespace }),
                    );
                });
            let container = t.adopt(&bundle.id);
            let made = t
                .call(&["create", "--bundle", text(&bundle.path), &bundle.id])
                .ok();
            let text = "the delegated cgroup stays root's: config.json maps no root";
            assert!(made.stderr.contains(text), "{}", made.stderr);
            let owner = fs::metadata(t.cgroup("", &bundle.id).join("inner"));
            assert_eq!(owner.expect("stat").uid(), 0);
            drop(container);
        },
    )
    .needs(Needs::V2Limits)
    .except(OURS),
    Case::kernel("plan tells where the processes go, and whose it is", |t| {
        let bundle = owned(t).annotation(KEY, "inner");
        let planned = t.call(&["plan", text(&bundle.path)]).ok().stdout;
        let place: PathBuf = t.cgroup("", &bundle.id).join("inner");
        for line in [
            format!("  make {}, which has the processes\n", place.display()),
            "  give it to uid 100000, gid 100000\n".to_owned(),
        ] {
            assert!(planned.contains(&line), "{planned}");
        }
    })
    .needs(Needs::V2Limits)
    .except(OURS),
];

/// A case that crun 1.8.1 answers the same way, on v2.
const fn crun(name: &'static str, run: fn(&Test)) -> Case {
    Case::crun(name, run).needs(Needs::V2Limits)
}

const fn ours(name: &'static str, run: fn(&Test)) -> Case {
    Case::kernel(name, run).needs(Needs::V2Limits).except(OURS)
}

/// A container that waits, with limits, in the host's cgroup namespace.
fn limited(t: &Test) -> Bundle {
    Bundle::new(t).probe(&["pause"]).with(|config| {
        let limits = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 17 } });
        for (name, value) in limits.as_object().expect("an object") {
            config["linux"]["resources"][name] = value.clone();
        }
    })
}

/// The same in a user namespace and a cgroup namespace, in which it may write to
/// its cgroup.
fn owned(t: &Test) -> Bundle {
    limited(t)
        .in_user_namespace(100_000)
        .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"])
        .with(|config| {
            bundle::push(
                &mut config["linux"]["namespaces"],
                json!({ "type": "cgroup" }),
            );
        })
}

/// The v2 path of a process.
#[track_caller]
fn own_cgroup(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroup");
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.expect("a v2 path").to_owned()
}
