//! config.md, hooks, and what runtime.md's lifecycle says of them: when, where,
//! with what, and what a failing one undoes.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use spec_tests::runtime::{text, wait_until};
use spec_tests::{Bundle, Case, Test};

use crate::attempt::{create, exists, own_namespace, refused, remove};

const POSTSTART: &str = "1.1.5 runs poststart at create";

/// A hook without a path, with a relative one, with a timeout of 0.
macro_rules! refused_hook {
    ($clause:literal, $moment:literal, $what:literal, $change:expr) => {
        Case::clause(
            &[$clause],
            concat!("a ", $moment, " hook ", $what, " is refused"),
            |t| {
                let change: fn(&mut Value) = $change;
                let bundle = Bundle::new(t)
                    .shell_hook($moment, "cat > /dev/null; exit 0")
                    .with(|config| {
                        change(&mut config["hooks"][$moment][0]);
                    });
                refused(t, &bundle);
            },
        )
    };
}

/// A hook whose path is of the host, and which runs in the host's namespaces.
macro_rules! in_runtime {
    ($path:literal, $runs:literal, $moment:literal) => {
        Case::clause(
            &[$path, $runs],
            concat!(
                $moment,
                " hooks are found and run in the runtime's namespaces"
            ),
            |t| {
                let seen = namespaces_of(t, $moment);
                for kind in ["mnt", "net", "pid", "uts", "ipc"] {
                    assert!(seen.contains(&own_namespace(kind)), "{kind}: {seen}");
                }
            },
        )
    };
}

/// A failing hook: create fails, nothing is left, poststop hooks have run.
macro_rules! fails_create {
    ($clause:literal, $moment:literal) => {
        Case::clause(
            &[$clause],
            concat!(
                "a failing ",
                $moment,
                " hook fails create, and the container is destroyed"
            ),
            |t| {
                let poststop = t.directory.join("poststop");
                let bundle = Bundle::new(t)
                    .probe(&["pause"])
                    .shell_hook($moment, "cat > /dev/null; exit 3")
                    .shell_hook(
                        "poststop",
                        &format!("cat > /dev/null; echo ran > {}", text(&poststop)),
                    );
                refused(t, &bundle);
                assert_no_cgroup(t, &bundle);
                assert!(poststop.exists(), "step 13: the poststop hooks did not run");
            },
        )
    };
}

pub(crate) const CASES: &[Case] = &[
    refused_hook!(
        "config/prestart-path-required",
        "prestart",
        "without a path",
        |hook| remove_field(hook, "path")
    ),
    refused_hook!(
        "config/createRuntime-path-required",
        "createRuntime",
        "without a path",
        |hook| remove_field(hook, "path")
    ),
    refused_hook!(
        "config/prestart-path-absolute",
        "prestart",
        "with a relative path",
        |hook| hook["path"] = json!("sh")
    )
    .except(&[("crun", "1.8.1 takes it from its working directory")]),
    refused_hook!(
        "config/createRuntime-path-absolute",
        "createRuntime",
        "with a relative path",
        |hook| hook["path"] = json!("sh")
    )
    .except(&[("crun", "1.8.1 takes it from its working directory")]),
    refused_hook!(
        "config/prestart-timeout",
        "prestart",
        "with a timeout of 0",
        |hook| hook["timeout"] = json!(0)
    )
    .except(&[("crun", "1.8.1 takes it for no timeout")]),
    refused_hook!(
        "config/createRuntime-timeout",
        "createRuntime",
        "with a timeout of 0",
        |hook| hook["timeout"] = json!(0)
    )
    .except(&[("crun", "1.8.1 takes it for no timeout")]),
    in_runtime!(
        "config/prestart-path-runtime",
        "config/prestart-in-runtime",
        "prestart"
    ),
    in_runtime!(
        "config/createRuntime-path-runtime",
        "config/createRuntime-in-runtime",
        "createRuntime"
    ),
    in_runtime!(
        "config/poststart-path-runtime",
        "config/poststart-in-runtime",
        "poststart"
    ),
    in_runtime!(
        "config/poststop-path-runtime",
        "config/poststop-in-runtime",
        "poststop"
    ),
    Case::clause(
        &[
            "config/createContainer-path-runtime",
            "config/createContainer-in-container",
        ],
        "createContainer hooks are found on the host and run in the container's namespaces",
        |t| {
            let seen = namespaces_of(t, "createContainer");
            let theirs =
                fs::read_to_string(t.directory.join("theirs")).expect("the program's report");
            for kind in ["mnt", "net", "uts", "ipc"] {
                assert!(!seen.contains(&own_namespace(kind)), "{kind}: {seen}");
                let link = seen
                    .lines()
                    .find(|line| line.starts_with(kind))
                    .expect("a link");
                assert!(
                    theirs.contains(link),
                    "{link} is not the container's: {theirs}"
                );
            }
        },
    ),
    Case::clause(
        &[
            "config/startContainer-path-container",
            "config/startContainer-in-container",
        ],
        "startContainer hooks are found in the container and run there",
        |t| {
            // /bin/probe is no file of the host, and /data/report lands in the rootfs.
            assert!(!Path::new("/bin/probe").exists());
            let script = "readlink /proc/self/ns/mnt > /data/hook";
            let bundle = with_shell(t)
                .hook(
                    "startContainer",
                    json!({ "path": "/bin/sh", "args": ["sh", "-c", script] }),
                )
                .probe(&["link", "/proc/self/ns/mnt"]);
            let own = t.run(&bundle).answer()["target"].clone();
            let hook = fs::read_to_string(bundle.rootfs().join("data/hook")).expect("the hook ran");
            assert_eq!(own, hook.trim());
            // What is on the host only is not there.
            let lonely = t.directory.join("lonely");
            fs::copy("/bin/busybox", &lonely).expect("copy");
            let bundle = Bundle::new(t).probe(&["create", "/data/ran", "x"]).hook(
                "startContainer",
                json!({ "path": text(&lonely), "args": ["true"] }),
            );
            assert_ne!(t.run(&bundle).code, 0);
            assert!(!bundle.rootfs().join("data/ran").exists());
        },
    ),
    Case::clause(
        &["config/hooks-order"],
        "hooks of one moment run in the order of the list",
        |t| {
            // Each reads its input: who does not may break the pipe of a runtime that
            // does not ignore SIGPIPE, which is another matter.
            for moment in ["prestart", "createRuntime", "createContainer", "poststop"] {
                let log = t.directory.join(format!("order-{moment}"));
                let mut bundle = Bundle::new(t).args(&["true"]);
                for n in 1..=4 {
                    bundle = bundle.shell_hook(
                        moment,
                        &format!("cat > /dev/null; echo {n} >> {}", text(&log)),
                    );
                }
                life(t, &bundle);
                assert_eq!(lines(&log), ["1", "2", "3", "4"], "{moment}");
            }
        },
    ),
    Case::clause(
        &["config/hooks-state"],
        "each hook gets the state of the container on stdin",
        |t| {
            for (moment, statuses) in [
                ("prestart", &["creating", "created"][..]),
                ("createRuntime", &["creating", "created"]),
                ("createContainer", &["creating", "created"]),
                ("startContainer", &["creating", "created"]),
                ("poststop", &["stopped"]),
            ] {
                let inside = moment == "startContainer";
                let bundle = if inside {
                    with_shell(t)
                } else {
                    Bundle::new(t)
                };
                let file = bundle.rootfs().join("data/state");
                let path = if inside { "/data/state" } else { text(&file) };
                let bundle = bundle
                    .args(&["true"])
                    .annotation("k", "v")
                    .shell_hook(moment, &format!("cat > {path}"));
                life(t, &bundle);
                let state = fs::read_to_string(&file).expect("the state");
                let state: Value = serde_json::from_str(&state).expect("JSON");
                assert_eq!(state["id"], bundle.id.as_str(), "{moment}");
                assert_eq!(state["bundle"], text(&bundle.path), "{moment}");
                assert_eq!(state["annotations"]["k"], "v", "{moment}");
                assert!(state["ociVersion"].is_string(), "{moment}");
                let status = state["status"].as_str().expect("status");
                assert!(statuses.contains(&status), "{moment}: {status}");
                match moment {
                    "createContainer" | "startContainer" => {
                        assert_eq!(state["pid"], 1, "as the container sees it");
                    }
                    "poststop" => {}
                    _ => assert!(
                        state["pid"].as_i64().is_some_and(|pid| pid > 1),
                        "{moment}: {state}"
                    ),
                }
            }
        },
    )
    .except(&[("crun", "1.8.1 says pid 0 in the container")]),
    Case::clause(
        &["config/prestart-when", "runtime/prestart-invoked"],
        "prestart hooks run in create, with the namespaces made and the root not changed yet",
        |t| before_pivot(t, "prestart"),
    ),
    Case::clause(
        &["config/createRuntime-when", "runtime/createRuntime-invoked"],
        "createRuntime hooks run in create, with the namespaces made and the root not changed yet",
        |t| before_pivot(t, "createRuntime"),
    ),
    Case::clause(
        &[
            "config/createContainer-when",
            "runtime/createContainer-invoked",
        ],
        "createContainer hooks run in create, with the mounts made and the root not changed yet",
        |t| {
            let file = t.directory.join("seen");
            let marker = t.directory.join("marker");
            fs::write(&marker, "").expect("write");
            let bundle = Bundle::new(t).probe(&["pause"]);
            let proc = bundle.rootfs().join("proc/self/status");
            let script = format!(
                "[ -e {} ] && [ -e {} ] && echo both > {}",
                text(&marker),
                text(&proc),
                text(&file)
            );
            let _container = t.create(&bundle.shell_hook("createContainer", &script));
            assert_eq!(lines(&file), ["both"]);
        },
    ),
    Case::clause(
        &["config/prestart-first", "config/createContainer-after"],
        "prestart hooks come before createRuntime hooks, these before createContainer hooks",
        |t| {
            let log = t.directory.join("order");
            let mut bundle = Bundle::new(t).probe(&["pause"]);
            for moment in ["createContainer", "createRuntime", "prestart"] {
                bundle = bundle.shell_hook(
                    moment,
                    &format!("cat > /dev/null; echo {moment} >> {}", text(&log)),
                );
            }
            let _container = t.create(&bundle);
            assert_eq!(
                lines(&log),
                ["prestart", "createRuntime", "createContainer"]
            );
        },
    ),
    Case::clause(
        &[
            "config/startContainer-when",
            "runtime/startContainer-invoked",
        ],
        "startContainer hooks run in start, before the program",
        |t| {
            let hook =
                json!({ "path": "/bin/probe", "args": ["probe", "create", "/data/hook", "x"] });
            let bundle = Bundle::new(t)
                .hook("startContainer", hook)
                .probe(&["read", "/data/hook"]);
            let container = t.create(&bundle);
            let file = bundle.rootfs().join("data/hook");
            assert!(!file.exists(), "it ran at create");
            container.start().ok();
            container.wait_status("stopped");
            let outcome = container.answers();
            assert_eq!(outcome.last(), Some(&json!({ "text": "x" })), "{outcome:?}");
        },
    ),
    Case::clause(
        &["config/poststart-when", "runtime/poststart-invoked"],
        "poststart hooks run in start, after the program was executed",
        |t| {
            if t.is("crun") {
                t.does_not_apply("1.8.1 does not wait for the program: what the hook sees is luck");
            }
            let file = t.directory.join("seen");
            let bundle = Bundle::new(t).probe(&["pause"]);
            let pid = "pid=$(tr -d '\\n' | sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/')";
            let script = format!("{pid}; tr '\\0' ' ' < /proc/$pid/cmdline > {}", text(&file));
            let container = t.create(&bundle.shell_hook("poststart", &script));
            assert!(!file.exists(), "it ran at create");
            container.start().ok();
            assert_eq!(
                fs::read_to_string(&file).expect("it ran in start"),
                "/bin/probe pause "
            );
        },
    )
    .except(&[("runc", POSTSTART)]),
    Case::clause(
        &["config/poststop-when", "runtime/poststop-invoked"],
        "poststop hooks run in delete, after the container is deleted",
        |t| {
            let file = t.directory.join("seen");
            let bundle = Bundle::new(t).args(&["true"]);
            let cgroup = own_cgroup(t, &bundle);
            let script = format!(
                "[ -e {} ] && echo there > {1} || echo gone > {1}",
                text(&cgroup),
                text(&file)
            );
            let bundle = bundle.shell_hook("poststop", &script);
            let container = t.start(&bundle);
            container.wait_status("stopped");
            assert!(!file.exists(), "it ran before delete");
            container.delete().ok();
            assert_eq!(lines(&file), ["gone"]);
        },
    ),
    fails_create!("runtime/prestart-fails", "prestart")
        .except(&[("crun", "1.8.1 does not run the poststop hooks then")]),
    fails_create!("runtime/createRuntime-fails", "createRuntime")
        .except(&[("crun", "1.8.1 does not run the poststop hooks then")]),
    fails_create!("runtime/createContainer-fails", "createContainer")
        .except(&[("crun", "1.8.1 does not run the poststop hooks then")]),
    Case::clause(
        &["runtime/startContainer-fails"],
        "a failing startContainer hook fails start, and the program does not run",
        |t| {
            let hook = json!({ "path": "/bin/probe", "args": ["probe", "exit", "3"] });
            let bundle = Bundle::new(t)
                .probe(&["create", "/data/ran", "x"])
                .hook("startContainer", hook);
            let container = t.create(&bundle);
            assert_ne!(container.start().code, 0, "start says that all is well");
            assert_stopped(t, &bundle);
            assert!(!bundle.rootfs().join("data/ran").exists());
        },
    )
    .except(&[
        ("runc", "1.1.5's start does not wait for the program"),
        ("crun", "1.8.1's start does not wait for the program"),
    ]),
    Case::clause(
        &["runtime/poststart-fails"],
        "a failing poststart hook fails start, and the container is stopped",
        |t| {
            let bundle = Bundle::new(t)
                .probe(&["pause"])
                .shell_hook("poststart", "cat > /dev/null; exit 3");
            let container = t.create(&bundle);
            assert_ne!(container.start().code, 0, "start says that all is well");
            assert_stopped(t, &bundle);
        },
    )
    .except(&[
        ("runc", POSTSTART),
        ("crun", "1.8.1 keeps to runtime-spec before 1.3: a warning"),
    ]),
    Case::clause(
        &["runtime/poststop-fails"],
        "a failing poststop hook is a warning, and the others run",
        |t| {
            let second = t.directory.join("second");
            let bundle = Bundle::new(t)
                .args(&["true"])
                .shell_hook("poststop", "cat > /dev/null; exit 3")
                .shell_hook(
                    "poststop",
                    &format!("cat > /dev/null; echo x > {}", text(&second)),
                );
            let container = t.start(&bundle);
            container.wait_status("stopped");
            let outcome = container.delete().ok();
            assert!(second.exists(), "the second hook did not run");
            assert!(!outcome.stderr.is_empty(), "no warning");
            assert!(!exists(t, &bundle.id));
        },
    )
    .except(&[
        ("runc", "1.1.5 stops at the first failing one"),
        ("crun", "1.8.1 says nothing"),
    ]),
];

fn remove_field(hook: &mut Value, field: &str) {
    remove(hook, &format!("/{field}"));
}

/// create, start, the end of the program, delete.
#[track_caller]
fn life(t: &Test, bundle: &Bundle) {
    let container = t.start(bundle);
    container.wait_status("stopped");
    container.delete().ok();
}

/// The namespaces in which a hook of this moment ran, one line each; those of
/// the program go into the file `theirs`.
#[track_caller]
fn namespaces_of(t: &Test, moment: &str) -> String {
    let file = t.directory.join("namespaces");
    // The hook itself is a file that the container does not have.
    let hook = t.directory.join("hook");
    let script = format!(
        "#!/bin/sh\nfor n in mnt net pid uts ipc; do readlink /proc/self/ns/$n; done > {}\n",
        text(&file)
    );
    fs::write(&hook, script).expect("write");
    fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let bundle = Bundle::new(t)
        .probe(&["report"])
        .hook(moment, json!({ "path": text(&hook), "args": ["hook"] }));
    let container = t.start(&bundle);
    container.wait_status("stopped");
    let report = container.answers().pop().expect("the report");
    fs::write(t.directory.join("theirs"), report["namespaces"].to_string()).expect("write");
    container.delete().ok();
    wait_until("the hook", || file.exists());
    fs::read_to_string(&file).expect("the namespaces")
}

/// The hook finds the container's process in namespaces of its own, whose root
/// is still the host's.
#[track_caller]
fn before_pivot(t: &Test, moment: &str) {
    let file = t.directory.join("seen");
    let marker = t.directory.join("marker");
    fs::write(&marker, "").expect("write");
    let pid = "pid=$(tr -d '\\n' | sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/')";
    let script = format!(
        "{pid}; for n in mnt net uts ipc pid; do readlink /proc/$pid/ns/$n; done > {0}; [ -e /proc/$pid/root{1} ] && echo old root >> {0}",
        text(&file),
        text(&marker)
    );
    let _container = t.create(&Bundle::new(t).probe(&["pause"]).shell_hook(moment, &script));
    let seen = fs::read_to_string(&file).expect("it ran in create");
    for kind in ["mnt", "net", "uts", "ipc", "pid"] {
        assert!(
            seen.contains(kind) && !seen.contains(&own_namespace(kind)),
            "{kind}: {seen}"
        );
    }
    assert!(seen.contains("old root"), "{seen}");
}

/// A bundle with a shell in it; its program is replaced later.
fn with_shell(t: &Test) -> Bundle {
    Bundle::new(t).shell("cat > /dev/null; exit 0")
}

/// Stopped, or deleted already.
#[track_caller]
fn assert_stopped(t: &Test, bundle: &Bundle) {
    if create(t, &bundle.clone()).code == 0 {
        return; // The id is free again: it was destroyed.
    }
    assert_eq!(t.adopt(&bundle.id).status(), "stopped");
}

/// The directory of the bundle's cgroup in one hierarchy of this view.
pub(crate) fn own_cgroup(t: &Test, bundle: &Bundle) -> std::path::PathBuf {
    let controller = if t.view == "v2" { "" } else { "pids" };
    t.cgroup(controller, &bundle.id)
}

#[track_caller]
fn assert_no_cgroup(t: &Test, bundle: &Bundle) {
    let cgroup = own_cgroup(t, bundle);
    assert!(!cgroup.exists(), "{} is left", cgroup.display());
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
