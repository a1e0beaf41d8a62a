//! Paths that nobody ever opens, since their server does not answer: a container
//! that waits for one is deleted all the same.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use spec_tests::bundle::push;
use spec_tests::case::Needs;
use spec_tests::hung::Hung;
use spec_tests::runtime::{Running, text, wait_until};
use spec_tests::{Bundle, Case, Test};

pub(crate) const CASES: &[Case] = &[
    Case::kernel(
        "delete --force ends a create whose mount source is never opened",
        |t| {
            for user_namespace in [false, true] {
                let hung = Hung::mount(t);
                let bundle = bundle(t, user_namespace, &hung.path.join("x"));
                let creating = create(t, &bundle);
                hung.is_asked();
                t.call(&["delete", "--force", &bundle.id]).ok();
                assert_ne!(creating.wait().code, 0);
                is_gone(t, &bundle);
            }
        },
    )
    .needs(Needs::Fuse)
    .except(&[("runc", "1.1.5 has no state before it is created")]),
    Case::kernel(
        "delete --force cleans after a create that was killed while a mount source is opened",
        |t| {
            for user_namespace in [false, true] {
                let hung = Hung::mount(t);
                let bundle = bundle(t, user_namespace, &hung.path.join("x"));
                let creating = create(t, &bundle);
                hung.is_asked();
                killed(creating);
                t.call(&["delete", "--force", &bundle.id]).ok();
                is_gone(t, &bundle);
            }
        },
    )
    .needs(Needs::Fuse)
    .except(&[("runc", "1.1.5 has no state before it is created")]),
    Case::kernel(
        "delete --force cleans after a create that was killed while a hook is opened",
        |t| {
            let hung = Hung::mount(t);
            let hook = json!({ "path": hung.path.join("hook") });
            let bundle = Bundle::new(t).probe(&["pause"]).hook("createRuntime", hook);
            let creating = create(t, &bundle);
            hung.is_asked();
            killed(creating);
            t.call(&["delete", "--force", &bundle.id]).ok();
            is_gone(t, &bundle);
        },
    )
    .needs(Needs::Fuse)
    .except(&[("runc", "1.1.5 has no state before it is created")]),
    Case::kernel(
        "delete --force ends mounts whose source is never opened",
        |t| {
            for (user_namespace, end) in ALL {
                let hung = Hung::mount(t);
                let bundle = bundle(t, user_namespace, Path::new("/etc"));
                let _container = t.start(&bundle);
                let adding = add(t, &bundle, "/data", &hung.path.join("x"));
                hung.is_asked();
                ends(t, &bundle, adding, end);
            }
        },
    )
    .needs(Needs::Fuse)
    .except(&[("runc", "has no such command")]),
    Case::kernel(
        "delete --force ends mounts whose destination is never found",
        |t| {
            for (user_namespace, end) in ALL {
                let hung = Hung::mount(t);
                let around = hung.path.parent().expect("a directory");
                let bundle = bundle(t, user_namespace, around);
                let _container = t.start(&bundle);
                let adding = add(t, &bundle, "/mnt/hung/x", Path::new("/etc"));
                hung.is_asked();
                ends(t, &bundle, adding, end);
            }
        },
    )
    .needs(Needs::Fuse)
    .except(&[("runc", "has no such command")]),
    Case::kernel(
        "delete --force ends mounts that the container freezes",
        |t| {
            if t.view != "v2" {
                t.does_not_apply("only a cgroup of v2 takes no process at its top");
            }
            for (user_namespace, end) in ALL {
                let bundle = bundle(t, user_namespace, Path::new("/etc"));
                let container = t.start(&bundle);
                let pid = container.pid().to_string();
                let all = t.knob("", &bundle.id, "cgroup.controllers");
                let Some(controller) = all.split(' ').find(|name| !name.is_empty()) else {
                    t.lacks("cgroup2 has no controller here");
                };
                // As a container does that owns its cgroup.
                let cgroup = t.cgroup("", &bundle.id);
                fs::create_dir(cgroup.join("init")).expect("mkdir");
                for (file, word) in [
                    ("init/cgroup.procs", pid.as_str()),
                    ("cgroup.subtree_control", &format!("+{controller}")),
                    ("init/cgroup.freeze", "1"),
                ] {
                    fs::write(cgroup.join(file), word).expect(file);
                }
                let adding = add(t, &bundle, "/data", Path::new("/etc"));
                wait_until("who mounts is frozen", || {
                    let frozen = t.knob("", &bundle.id, "init/cgroup.procs");
                    frozen.lines().count() > 1
                });
                ends(t, &bundle, adding, end);
            }
        },
    )
    .needs(Needs::V2)
    .except(&[("runc", "has no such command")]),
];

/// A container that pauses, with `source` bound on /mnt.
fn bundle(t: &Test, user_namespace: bool, source: &Path) -> Bundle {
    let bundle = Bundle::new(t)
        .probe(&["pause"])
        .mount("/mnt", "bind", text(source), &["rbind"]);
    if !user_namespace {
        return bundle;
    }
    bundle.with(|config| {
        push(
            &mut config["linux"]["namespaces"],
            json!({ "type": "user" }),
        );
        let all = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
        config["linux"]["uidMappings"] = all.clone();
        config["linux"]["gidMappings"] = all;
    })
}

fn create(t: &Test, bundle: &Bundle) -> Running {
    t.spawn(&mut t.command(&["create", "-b", text(&bundle.path), &bundle.id]))
}

fn killed(running: Running) {
    kill(Pid::from_raw(running.pid()), Signal::SIGKILL).expect("kill");
    assert_eq!(running.wait().code, 128 + 9);
}

#[track_caller]
fn is_gone(t: &Test, bundle: &Bundle) {
    t.call(&["state", &bundle.id])
        .fails(1, &["container does not exist"]);
}

/// Starts `mounts add`, which waits for ever.
fn add(t: &Test, bundle: &Bundle, destination: &str, source: &Path) -> Running {
    let list = t.directory.join("list.json");
    let mount: Value =
        json!([{ "destination": destination, "source": source, "options": ["rbind"] }]);
    fs::write(&list, mount.to_string()).expect("write");
    t.spawn(&mut t.command(&["mounts", "add", &bundle.id, text(&list)]))
}

/// How a command ends that waits.
#[derive(Clone, Copy)]
enum End {
    /// Told by `delete --force`.
    Told,
    /// By SIGKILL, before that.
    Killed,
}

/// With a user namespace and without, and each end.
const ALL: [(bool, End); 4] = [
    (false, End::Told),
    (true, End::Told),
    (false, End::Killed),
    (true, End::Killed),
];

/// Deletes the container by force.
#[track_caller]
fn ends(t: &Test, bundle: &Bundle, waiting: Running, end: End) {
    match end {
        End::Told => {
            t.call(&["delete", "--force", &bundle.id]).ok();
            waiting
                .wait()
                .fails(1, &["the container is deleted by force"]);
        }
        End::Killed => {
            killed(waiting);
            t.call(&["delete", "--force", &bundle.id]).ok();
        }
    }
    is_gone(t, bundle);
}
