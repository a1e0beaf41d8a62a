//! Namespaces: new ones of each kind, joined ones by path, user namespaces
//! with their maps, time offsets.

use std::fs;

use serde_json::{Value, json};
use spec_tests::bundle::push;
use spec_tests::runtime::text;
use spec_tests::{Bundle, Case, Container, Test};

const KINDS: [(&str, &str); 6] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
];

pub(crate) const CASES: &[Case] = &[
    Case::runc(
        "each kind of the list is new, each other is the host's",
        |t| {
            for (kind, link) in KINDS {
                let bundle = Bundle::new(t).with(|config| {
                    push(
                        &mut config["linux"]["namespaces"],
                        json!({ "type": "cgroup" }),
                    );
                });
                let all = t.run(&bundle).answer()["namespaces"].clone();
                assert_ne!(all[link], own(link), "{kind}");
                assert_eq!(all["user"], own("user"));
                if kind == "mount" {
                    continue;
                }
                let bundle = bundle.without_namespace(kind).with(|config| {
                    if kind == "uts" {
                        config
                            .as_object_mut()
                            .expect("an object")
                            .remove("hostname");
                    }
                    if kind == "ipc" {
                        let mounts = config["mounts"].as_array_mut().expect("mounts");
                        mounts.retain(|mount| mount["type"] != "mqueue");
                    }
                });
                let all = t.run(&bundle).answer()["namespaces"].clone();
                assert_eq!(all[link], own(link), "{kind}");
            }
        },
    ),
    Case::runc(
        "a namespace of another container is joined by path, each kind",
        |t| {
            let first = Bundle::new(t)
                .probe(&["report", ";", "pause"])
                .with(|config| {
                    push(
                        &mut config["linux"]["namespaces"],
                        json!({ "type": "cgroup" }),
                    );
                });
            let container = t.start(&first);
            container.wait_for("namespaces");
            let theirs = container.answers()[0]["namespaces"].clone();
            for (kind, link) in KINDS {
                if kind == "mount" {
                    continue;
                }
                let bundle = joined(t, &container, &[(kind, link)]).with(|config| {
                    if kind == "uts" {
                        config
                            .as_object_mut()
                            .expect("an object")
                            .remove("hostname");
                    }
                });
                let ours = t.run(&bundle).answer()["namespaces"].clone();
                assert_eq!(ours[link], theirs[link], "{kind}");
                let other = if link == "net" { "pid" } else { "net" };
                assert_ne!(ours[other], theirs[other], "{kind}");
            }
        },
    ),
    Case::runc("a pod: network, ipc and uts joined together", |t| {
        let first = Bundle::new(t).probe(&["report", ";", "pause"]);
        let container = t.start(&first);
        container.wait_for("namespaces");
        let theirs = container.answers()[0]["namespaces"].clone();
        let bundle = joined(
            t,
            &container,
            &[("network", "net"), ("ipc", "ipc"), ("uts", "uts")],
        )
        .with(|config| {
            config
                .as_object_mut()
                .expect("an object")
                .remove("hostname");
        });
        let report = t.run(&bundle).answer();
        for link in ["net", "ipc", "uts"] {
            assert_eq!(report["namespaces"][link], theirs[link], "{link}");
        }
        assert_eq!(report["hostname"], "probe");
        assert_eq!(report["pid"], 1);
    }),
    Case::runc(
        "a program that joined a pid namespace is not its first",
        |t| {
            let first = Bundle::new(t).probe(&["pause"]);
            let container = t.start(&first);
            let report = t.run(&joined(t, &container, &[("pid", "pid")])).answer();
            assert_ne!(report["pid"], 1);
        },
    ),
    Case::runc(
        "a namespace path that is missing is refused, with the path",
        |t| {
            let bundle = Bundle::new(t).without_namespace("network").with(|config| {
                push(
                    &mut config["linux"]["namespaces"],
                    json!({ "type": "network", "path": "/no/such/ns" }),
                );
            });
            t.run(&bundle).fails(1, &["/no/such/ns"]);
        },
    ),
    Case::kernel(
        "a namespace path of another kind is refused, with the path",
        |t| {
            let bundle = Bundle::new(t).without_namespace("network").with(|config| {
                push(
                    &mut config["linux"]["namespaces"],
                    json!({ "type": "network", "path": "/proc/self/ns/uts" }),
                );
            });
            t.run(&bundle).fails(1, &["/proc/self/ns/uts"]);
        },
    )
    .except(&[("runc", "names no path")]),
    Case::runc("a kind that is listed twice is refused", |t| {
        let bundle = Bundle::new(t)
            .with(|config| push(&mut config["linux"]["namespaces"], json!({ "type": "pid" })));
        let text = match t.is("rrun") {
            true => "config.json: linux.namespaces[5].type: pid is listed twice",
            false => "malformed spec file: duplicated ns",
        };
        t.run(&bundle).fails(1, &[text, "pid"]);
    }),
    Case::runc("a user namespace maps the ids", |t| {
        let bundle = Bundle::new(t).in_user_namespace(200_000).probe(&[
            "report",
            ";",
            "create",
            "/data/mine",
            "x",
        ]);
        let answers = t.run(&bundle).ok().answers();
        let map: Vec<_> = answers[0]["uid_map"]
            .as_str()
            .expect("map")
            .split_whitespace()
            .collect();
        assert_eq!(map, ["0", "200000", "65536"]);
        assert_ne!(answers[0]["namespaces"]["user"], own("user"));
        assert_eq!(answers[0]["uids"], json!([0, 0]));
        use std::os::unix::fs::MetadataExt;
        let made = fs::metadata(bundle.rootfs().join("data/mine")).expect("stat");
        assert_eq!((made.uid(), made.gid()), (200_000, 200_000));
    }),
    Case::runc("a user namespace has the default devices", |t| {
        let bundle = Bundle::new(t).in_user_namespace(200_000).probe(&[
            "report",
            ";",
            "open",
            "/dev/null",
            "2",
            ";",
            "open",
            "/dev/zero",
            "0",
        ]);
        let answers = t.run(&bundle).ok().answers();
        assert_eq!(answers[0]["dev"]["null"]["device"], "1:3");
        assert_eq!(answers[1..], [json!({ "ok": true }), json!({ "ok": true })]);
    }),
    Case::runc("another user in a user namespace", |t| {
        let bundle = Bundle::new(t).in_user_namespace(200_000).with(|config| {
            config["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [7] });
        });
        let report = t.run(&bundle).answer();
        assert_eq!(report["uids"], json!([1000, 1000]));
        assert_eq!(report["gids"], json!([1001, 1001]));
        assert_eq!(report["groups"], json!([7]));
    }),
    Case::runc("an id that is not mapped is refused", |t| {
        let bundle = Bundle::new(t)
            .in_user_namespace(200_000)
            .with(|config| config["process"]["user"] = json!({ "uid": 70000, "gid": 0 }));
        assert_eq!(t.run(&bundle).code, 1);
    }),
    Case::kernel("a user namespace without mappings is refused", |t| {
        let bundle = Bundle::new(t).with(|config| {
            push(
                &mut config["linux"]["namespaces"],
                json!({ "type": "user" }),
            );
        });
        t.run(&bundle).fails(1, &["appings"]);
    }),
    Case::runc(
        "create, start, exec, kill and delete with a user namespace",
        |t| {
            let bundle = Bundle::new(t)
                .in_user_namespace(200_000)
                .probe(&["await", "15"]);
            let container = t.start(&bundle);
            container.wait_for("ready");
            container.probe(&[], &["say", "x"]).ok();
            container.kill("TERM").ok();
            container.wait_status("stopped");
            container.delete().ok();
        },
    ),
    Case::kernel("a user namespace and its network are joined by path", |t| {
        let first = Bundle::new(t)
            .in_user_namespace(200_000)
            .probe(&["report", ";", "pause"]);
        let container = t.start(&first);
        container.wait_for("namespaces");
        let theirs = container.answers()[0]["namespaces"].clone();
        let pid = container.pid();
        let bundle = joined(t, &container, &[("network", "net")])
            .in_user_namespace(200_000)
            .with(|config| {
                let all = config["linux"]["namespaces"]
                    .as_array_mut()
                    .expect("namespaces");
                all.retain(|namespace| namespace["type"] != "user");
                all.push(json!({ "type": "user", "path": format!("/proc/{pid}/ns/user") }));
                let linux = config["linux"].as_object_mut().expect("linux");
                linux.remove("uidMappings");
                linux.remove("gidMappings");
            });
        let report = t.run(&bundle).answer();
        assert_eq!(report["namespaces"]["user"], theirs["user"]);
        assert_eq!(report["namespaces"]["net"], theirs["net"]);
    })
    .except(&[("runc", "1.1.5 wants the mappings in the config as well")]),
    Case::kernel("a time namespace shifts the clocks", |t| {
        let boot = || {
            nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
                .expect("clock")
                .tv_sec()
        };
        let bundle = Bundle::new(t)
            .probe(&[
                "clock",
                "boottime",
                ";",
                "clock",
                "monotonic",
                ";",
                "report",
            ])
            .with(|config| {
                push(
                    &mut config["linux"]["namespaces"],
                    json!({ "type": "time" }),
                );
                config["linux"]["timeOffsets"] = json!({
                    "boottime": { "secs": 1_000_000, "nanosecs": 0 },
                    "monotonic": { "secs": 2_000_000, "nanosecs": 0 },
                });
            });
        let answers = t.run(&bundle).ok().answers();
        assert!(answers[0]["seconds"].as_i64().expect("seconds") >= 1_000_000);
        assert!(answers[1]["seconds"].as_i64().expect("seconds") >= 2_000_000);
        assert_ne!(answers[2]["namespaces"]["time"], own("time"));
        assert_eq!(answers[2]["pid"], 1);
        assert!(boot() < 1_000_000, "the host's clock stays");
    })
    .except(&[("runc", "1.2 brought it")]),
    Case::kernel(
        "a time namespace beside a user namespace has its offsets",
        |t| {
            let bundle = Bundle::new(t)
                .probe(&["read", "/proc/self/timens_offsets"])
                .in_user_namespace(100_000)
                .with(|config| {
                    push(
                        &mut config["linux"]["namespaces"],
                        json!({ "type": "time" }),
                    );
                    config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000 } });
                });
            let answer = t.run(&bundle).answer();
            let text = answer["text"].as_str().expect("text");
            assert!(text.contains("1000000"), "{text}");
        },
    )
    .except(&[("runc", "1.1.5 has no time namespaces")]),
    Case::kernel("exec enters the time namespace", |t| {
        let bundle = Bundle::new(t)
            .probe(&["report", ";", "pause"])
            .with(|config| {
                push(
                    &mut config["linux"]["namespaces"],
                    json!({ "type": "time" }),
                );
                config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000 } });
            });
        let container = t.start(&bundle);
        container.wait_for("namespaces");
        let init = container.answers().remove(0);
        let exec = container.probe(&[], &["report"]).answer();
        assert_eq!(exec["namespaces"], init["namespaces"]);
    })
    .except(&[("runc", "1.2 brought it")]),
    Case::runc("the network namespace has its loopback", |t| {
        let bundle = Bundle::new(t).probe(&["list", "/sys/class/net"]);
        assert_eq!(t.run(&bundle).answer(), json!({ "names": ["lo"] }));
    }),
    Case::runc(
        "without a network namespace the host's interfaces are seen",
        |t| {
            let bundle = Bundle::new(t)
                .without_namespace("network")
                .probe(&["report"]);
            assert_eq!(t.run(&bundle).answer()["namespaces"]["net"], own("net"));
        },
    ),
];

fn own(link: &str) -> Value {
    let target = fs::read_link(format!("/proc/self/ns/{link}")).expect("readlink");
    Value::from(text(&target))
}

/// A bundle that joins these namespaces of a running container.
fn joined(t: &Test, container: &Container<'_>, kinds: &[(&str, &str)]) -> Bundle {
    let pid = container.pid();
    let mut bundle = Bundle::new(t);
    for (kind, link) in kinds {
        bundle = bundle.without_namespace(kind).with(|config| {
            let path = format!("/proc/{pid}/ns/{link}");
            push(
                &mut config["linux"]["namespaces"],
                json!({ "type": kind, "path": path }),
            );
        });
    }
    bundle
}
