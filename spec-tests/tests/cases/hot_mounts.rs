//! `mounts add` and `mounts remove`: what a container sees that runs already.
//! crun has the command since 1.22, which is newer than our oracle.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::{Value, json};
use spec_tests::bundle::push;
use spec_tests::runtime::text;
use spec_tests::{Bundle, Case, Test};

pub(crate) const CASES: &[Case] = &[
    Case::kernel(
        "mounts add brings binds and file systems, remove takes them away",
        |t| {
            for user_namespace in [false, true] {
                let container = t.start(&bundle(t, user_namespace));
                let (directory, one) = sources(t);
                let list = document(
                    t,
                    &json!([
                        { "destination": "/mnt/dir", "source": text(&directory), "options": ["rbind", "ro", "nosuid"] },
                        { "destination": "/mnt/one", "type": "bind", "source": text(&one), "options": ["bind"] },
                        { "destination": "/mnt/tmp", "type": "tmpfs", "options": ["size=64k", "mode=1770", "noexec"] },
                        { "destination": "/data", "type": "tmpfs", "options": ["tmpcopyup", "ro"] },
                    ]),
                );
                let words = [
                    "read",
                    "/mnt/dir/file",
                    ";",
                    "create",
                    "/mnt/dir/x",
                    "x",
                    ";",
                    "read",
                    "/mnt/one",
                    ";",
                    "stat",
                    "/mnt/tmp",
                    ";",
                    "create",
                    "/mnt/tmp/x",
                    "x",
                    ";",
                    "read",
                    "/data/kept",
                    ";",
                    "create",
                    "/data/x",
                    "x",
                ];
                t.call(&["mounts", "add", &container.id, text(&list)]).ok();
                let answers = container.probe(&[], &words).ok().answers();
                assert_eq!(answers[0], json!({ "text": "host" }));
                assert_eq!(answers[1], json!({ "errno": 30 }));
                assert_eq!(answers[2], json!({ "text": "one file" }));
                assert_eq!(answers[3]["mode"], "1770");
                assert_eq!(answers[3]["uid"], 0);
                assert_eq!(answers[4], json!({ "ok": true }));
                assert_eq!(answers[5], json!({ "text": "kept" }));
                assert_eq!(answers[6], json!({ "errno": 30 }));
                let report = container.probe(&[], &["report"]).answer();
                let options = report["mounts"]
                    .as_array()
                    .expect("mounts")
                    .iter()
                    .find(|mount| mount["target"] == "/mnt/dir")
                    .expect("mount")["options"]
                    .clone();
                for option in ["ro", "nosuid"] {
                    assert!(
                        options
                            .as_array()
                            .expect("options")
                            .contains(&json!(option)),
                        "{options}"
                    );
                }
                t.call(&["mounts", "remove", &container.id, text(&list)])
                    .ok();
                assert_eq!(
                    added(&container.probe(&[], &["report"]).answer()),
                    Vec::<String>::new()
                );
                // Nothing but mounts left, and the host never saw them.
                assert_eq!(
                    fs::read_to_string(directory.join("file")).expect("read"),
                    "host"
                );
                assert!(
                    !fs::read_to_string("/proc/self/mountinfo")
                        .expect("read")
                        .contains(text(&t.directory))
                );
            }
        },
    ),
    Case::kernel(
        "mounts add takes an object with mounts as well, and a created container",
        |t| {
            let container = t.create(&bundle(t, false));
            let list = document(
                t,
                &json!({ "mounts": [{ "destination": "/mnt/tmp", "type": "tmpfs" }] }),
            );
            t.call(&["mounts", "add", &container.id, text(&list)]).ok();
            container.start().ok();
            container.wait_status("running");
            assert_eq!(
                added(&container.probe(&[], &["report"]).answer()),
                ["/mnt/tmp"]
            );
        },
    ),
    Case::kernel(
        "mounts add mounts all of a list or nothing, and names what failed",
        |t| {
            let container = t.start(&bundle(t, false));
            let (directory, one) = sources(t);
            let good = [
                json!({ "destination": "/mnt/dir", "source": text(&directory), "options": ["bind"] }),
                json!({ "destination": "/mnt/one", "source": text(&one), "options": ["bind"] }),
                json!({ "destination": "/mnt/tmp", "type": "tmpfs" }),
            ];
            for (bad, texts) in [
                (
                    json!({ "destination": "/data/kept/x", "type": "tmpfs" }),
                    &["/data/kept/x", "not a directory"][..],
                ),
                (
                    json!({ "destination": "/mnt/x", "type": "tmpfs", "options": ["nonsense"] }),
                    &["/mnt/x", "invalid argument"],
                ),
                (
                    json!({ "destination": "/mnt/x", "source": "/no/such", "options": ["bind"] }),
                    &["/no/such", "no such file or directory"],
                ),
                (
                    json!({ "destination": "/mnt/x", "type": "cgroup" }),
                    &[
                        "list.json: mounts[3].type: \"cgroup\" can only be mounted when the container is made",
                    ],
                ),
                (
                    json!({ "destination": "/", "type": "tmpfs" }),
                    &["list.json: mounts[3].destination: mounting into / is prohibited"],
                ),
                (
                    json!({ "destination": 1 }),
                    &["list.json: [3].destination: invalid type: integer `1`, expected a string"],
                ),
            ] {
                let mut list = good.to_vec();
                list.push(bad);
                let list = document(t, &json!(list));
                t.call(&["mounts", "add", &container.id, text(&list)])
                    .fails(1, texts);
                assert_eq!(
                    added(&container.probe(&[], &["report"]).answer()),
                    Vec::<String>::new(),
                    "{texts:?}"
                );
            }
        },
    ),
    Case::kernel(
        "mounts: a link in the container leads nowhere outside",
        |t| {
            let container_bundle = bundle(t, false);
            let victim = t.directory.join("victim");
            fs::create_dir(&victim).expect("mkdir");
            fs::write(victim.join("mark"), "").expect("write");
            symlink(&victim, container_bundle.rootfs().join("out")).expect("symlink");
            symlink("/proc/1", container_bundle.rootfs().join("fake")).expect("symlink");
            let container = t.start(&container_bundle);
            let list = document(t, &json!([{ "destination": "/out", "type": "tmpfs" }]));
            t.call(&["mounts", "add", &container.id, text(&list)]).ok();
            let report = container.probe(&[], &["report"]).answer();
            let targets: Vec<&Value> = report["mounts"]
                .as_array()
                .expect("mounts")
                .iter()
                .map(|mount| &mount["target"])
                .collect();
            assert!(targets.contains(&&json!(text(&victim))), "{targets:?}");
            assert!(victim.join("mark").exists());
            assert!(
                !fs::read_to_string("/proc/self/mountinfo")
                    .expect("read")
                    .contains(text(&victim))
            );
            // Nor may one lead remove to a mount that masks something.
            t.call(&["mounts", "remove", &container.id, text(&list)])
                .fails(1, &["/out", "too many symbolic links"]);
            let list = document(
                t,
                &json!([{ "destination": "/fake/attr", "type": "tmpfs" }]),
            );
            t.call(&["mounts", "add", &container.id, text(&list)])
                .fails(1, &["/fake/attr", "inside /proc"]);
        },
    ),
    Case::kernel(
        "mounts remove unmounts nothing unless all are mounts",
        |t| {
            let container = t.start(&bundle(t, false));
            let list = json!([{ "destination": "/mnt/tmp", "type": "tmpfs" }, { "destination": "/mnt/tmp/in", "type": "tmpfs" }]);
            t.call(&["mounts", "add", &container.id, text(&document(t, &list))])
                .ok();
            for destination in ["/data", "/nosuch"] {
                let list = document(
                    t,
                    &json!([{ "destination": destination }, { "destination": "/mnt/tmp" }]),
                );
                t.call(&["mounts", "remove", &container.id, text(&list)])
                    .fails(1, &[destination]);
            }
            assert_eq!(
                added(&container.probe(&[], &["report"]).answer()),
                ["/mnt/tmp", "/mnt/tmp/in"]
            );
            t.call(&["mounts", "remove", &container.id, text(&document(t, &list))])
                .ok();
            assert_eq!(
                added(&container.probe(&[], &["report"]).answer()),
                Vec::<String>::new()
            );
        },
    ),
    Case::kernel("mounts needs a container that runs", |t| {
        let container = t.start(&bundle(t, false));
        let list = document(t, &json!([{ "destination": "/mnt/tmp", "type": "tmpfs" }]));
        container.kill("KILL").ok();
        container.wait_status("stopped");
        for action in ["add", "remove"] {
            t.call(&["mounts", action, &container.id, text(&list)])
                .fails(1, &["container not running"]);
        }
        t.call(&["mounts", "add", "nosuch", text(&list)])
            .fails(1, &["does not exist"]);
        t.call(&["mounts", "swap", &container.id, text(&list)])
            .fails(1, &["swap"]);
        t.call(&["mounts", "add", &container.id, "/no/such/list"])
            .fails(1, &["/no/such/list", "no such file or directory"]);
    }),
];

/// A container that waits, with a file in /data.
fn bundle(t: &Test, user_namespace: bool) -> Bundle {
    let bundle = Bundle::new(t).file("data/kept", "kept").probe(&["pause"]);
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

/// A directory with a file, and a file.
fn sources(t: &Test) -> (PathBuf, PathBuf) {
    let directory = t.directory.join("shared");
    fs::create_dir_all(&directory).expect("mkdir");
    fs::write(directory.join("file"), "host").expect("write");
    let one = t.directory.join("one");
    fs::write(&one, "one file").expect("write");
    (directory, one)
}

fn document(t: &Test, list: &Value) -> PathBuf {
    let path = t.directory.join("list.json");
    fs::write(&path, list.to_string()).expect("write");
    path
}

/// What is mounted below /mnt and on /data.
fn added(report: &Value) -> Vec<String> {
    let mounts = report["mounts"].as_array().expect("mounts");
    let targets = mounts
        .iter()
        .map(|mount| mount["target"].as_str().expect("target").to_owned());
    targets
        .filter(|target| target.starts_with("/mnt") || target == "/data")
        .collect()
}
