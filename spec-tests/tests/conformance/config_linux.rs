//! config-linux.md: namespaces, devices, network devices, cgroups, paths,
//! personality. Seccomp has a file of its own.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use spec_tests::bundle::push;
use spec_tests::runtime::text;
use spec_tests::terminal::{Receiver, Terminal};
use spec_tests::{Bundle, Case, Container, Needs, Test};

use crate::attempt::{mount, never_runs, own_namespace, refused, remove};
use crate::config::{invalid, without};

const KINDS: [(&str, &str); 6] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
];
const NO_NETDEVICES: &[(&str, &str)] = &[
    (
        "runc",
        "1.1.5 does not know netDevices: runtime-spec 1.3 brought them",
    ),
    (
        "crun",
        "1.8.1 does not know netDevices: runtime-spec 1.3 brought them",
    ),
];

const NO_TIME: &[(&str, &str)] = &[
    ("runc", "1.1.5 does not know the time namespace"),
    (
        "crun",
        "1.8.1 fails where there are no offsets: the connection is reset",
    ),
];

/// A device that the container has without being asked.
macro_rules! default_device {
    ($clause:literal, $name:literal, $number:literal) => {
        Case::clause(&[$clause], concat!("/dev/", $name, " is there and works"), |t| {
            let words = ["report", ";", "open", concat!("/dev/", $name), "2"];
            let answers = t.run(&Bundle::new(t).probe(&words)).ok().answers();
            let device = &answers[0]["dev"][$name];
            assert_eq!(device["type"], "char", "{device}");
            assert_eq!(device["device"], $number, "{device}");
            // Without a terminal of its own a process may not open /dev/tty.
            let wanted = if $name == "tty" { json!({ "errno": 6 }) } else { json!({ "ok": true }) };
            assert_eq!(answers[1], wanted);
        })
    };
}

pub(crate) const CASES: &[Case] = &[
    without!(
        "config-linux/namespace-type-required",
        "/linux/namespaces/0/type"
    ),
    invalid!(
        &["config/invalid-error"],
        "a namespace of a kind that is none",
        |config| push(
            &mut config["linux"]["namespaces"],
            json!({ "type": "nonsense" })
        )
    ),
    Case::clause(
        &["config-linux/namespace-path-absolute"],
        "a namespace by a relative path is refused",
        |t| {
            let bundle = Bundle::new(t).without_namespace("network").with(|config| {
                let relative = json!({ "type": "network", "path": "proc/self/ns/net" });
                push(&mut config["linux"]["namespaces"], relative);
            });
            let mut command = t.command(&["create", "--bundle", text(&bundle.path), &bundle.id]);
            let outcome = t.spawn(command.current_dir("/")).wait();
            let _delete = t.adopt(&bundle.id);
            assert_ne!(outcome.code, 0, "it was taken");
        },
    ),
    Case::clause(
        &["config-linux/namespace-path-join"],
        "a namespace by path is joined, each kind",
        |t| {
            let first = with_cgroup_namespace(Bundle::new(t)).probe(&["report", ";", "pause"]);
            let container = t.start(&first);
            container.wait_for("namespaces");
            let theirs = container.answers()[0]["namespaces"].clone();
            for (kind, link) in KINDS {
                if kind == "mount" {
                    continue; // The root of a joined mount namespace is another matter.
                }
                let bundle = joined(t, &container, kind, link);
                let ours = t.run(&bundle).answer()["namespaces"].clone();
                assert_eq!(ours[link], theirs[link], "{kind}");
            }
        },
    ),
    Case::clause(
        &["config-linux/namespace-path-join"],
        "a time namespace by path is joined",
        |t| {
            let container = t.start(&with_namespace(Bundle::new(t), "time").probe(&["pause"]));
            let path = format!("/proc/{}/ns/time", container.pid());
            let theirs = fs::read_link(&path).expect("readlink");
            let ours = t.run(&joined(t, &container, "time", "time")).answer();
            assert_eq!(ours["namespaces"]["time"], text(&theirs));
        },
    )
    .except(NO_TIME),
    Case::clause(
        &["config-linux/namespace-path-join"],
        "a user namespace by path is joined",
        |t| {
            let container = t.start(&Bundle::new(t).in_user_namespace(100_000).probe(&["pause"]));
            let path = format!("/proc/{}/ns/user", container.pid());
            let theirs = fs::read_link(&path).expect("readlink");
            // The same mappings beside the path: runc 1.1.5 can't do without.
            let bundle = Bundle::new(t).in_user_namespace(100_000).with(|config| {
                let all = config["linux"]["namespaces"]
                    .as_array_mut()
                    .expect("namespaces");
                all.iter_mut()
                    .find(|one| one["type"] == "user")
                    .expect("user")["path"] = json!(path);
            });
            let ours = t.run(&bundle).answer();
            assert_eq!(ours["namespaces"]["user"], text(&theirs));
        },
    ),
    Case::clause(
        &["config-linux/namespace-new"],
        "a time namespace of the list is a new one",
        |t| {
            let all = t.run(&with_namespace(Bundle::new(t), "time")).answer();
            assert_ne!(all["namespaces"]["time"], own_namespace("time"));
        },
    )
    .except(NO_TIME),
    Case::clause(
        &["config-linux/namespace-duplicate"],
        "a time or user namespace that is listed twice is refused",
        |t| {
            for kind in ["time", "user"] {
                let bundle = match kind {
                    "user" => Bundle::new(t).in_user_namespace(100_000),
                    _ => with_namespace(Bundle::new(t), kind),
                };
                refused(t, &with_namespace(bundle, kind));
            }
        },
    )
    .except(&[("crun", "makes it once")]),
    Case::clause(
        &["config-linux/namespace-path-kind"],
        "a path of a namespace of another kind, or of none, is refused",
        |t| {
            let holder = t.start(&Bundle::new(t).probe(&["pause"]));
            for path in [
                format!("/proc/{}/ns/ipc", holder.pid()),
                "/etc/passwd".to_owned(),
                "/nowhere".to_owned(),
            ] {
                let bundle = Bundle::new(t).without_namespace("network").with(|config| {
                    push(
                        &mut config["linux"]["namespaces"],
                        json!({ "type": "network", "path": path }),
                    );
                });
                refused(t, &bundle);
            }
        },
    ),
    Case::clause(
        &["config-linux/namespace-new"],
        "each kind of the list is a new namespace",
        |t| {
            let all = t.run(&with_cgroup_namespace(Bundle::new(t))).answer()["namespaces"].clone();
            for (kind, link) in KINDS {
                assert_ne!(all[link], own_namespace(link), "{kind}");
            }
            let all =
                t.run(&Bundle::new(t).in_user_namespace(100_000)).answer()["namespaces"].clone();
            assert_ne!(all["user"], own_namespace("user"));
        },
    ),
    Case::clause(
        &["config-linux/namespace-inherit"],
        "each kind that is not on the list is the runtime's",
        |t| {
            for (kind, link) in KINDS {
                if kind == "mount" {
                    continue; // A root without a mount namespace is refused or chrooted to.
                }
                let bundle = without_kind(with_cgroup_namespace(Bundle::new(t)), kind);
                let all = t.run(&bundle).answer()["namespaces"].clone();
                assert_eq!(all[link], own_namespace(link), "{kind}");
                assert_eq!(all["user"], own_namespace("user"));
                assert_eq!(all["time"], own_namespace("time"));
            }
        },
    ),
    Case::clause(
        &["config-linux/namespace-duplicate"],
        "a kind that is listed twice is refused",
        |t| {
            for (kind, _) in KINDS {
                let bundle = with_cgroup_namespace(Bundle::new(t));
                refused(
                    t,
                    &bundle.with(|config| {
                        push(&mut config["linux"]["namespaces"], json!({ "type": kind }));
                    }),
                );
            }
        },
    )
    .except(&[("crun", "makes it once")]),
    Case::clause(
        &["config-linux/mapping-size"],
        "a mapping without size is refused",
        |t| {
            let bundle = Bundle::new(t).in_user_namespace(100_000);
            refused(
                t,
                &bundle.with(|config| remove(config, "/linux/uidMappings/0/size")),
            );
        },
    ),
    Case::clause(
        &["config-linux/devices-available"],
        "devices of the list are there, each type",
        |t| {
            let bundle = Bundle::new(t).probe(&["report", ";", "stat", "/data/deep/device"]).with(|config| {
            config["linux"]["devices"] = json!([
                { "path": "/dev/one", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 3, "gid": 4 },
                { "path": "/dev/two", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600 },
                { "path": "/dev/three", "type": "p", "fileMode": 0o622 },
                { "path": "/data/deep/device", "type": "u", "major": 1, "minor": 5, "fileMode": 0o666 },
            ]);
        });
            let answers = t.run(&bundle).ok().answers();
            let dev = &answers[0]["dev"];
            let one = json!({ "type": "char", "mode": "0640", "uid": 3, "gid": 4, "size": 0, "device": "1:3" });
            assert_eq!(dev["one"], one);
            assert_eq!(
                (&dev["two"]["type"], &dev["two"]["device"]),
                (&json!("block"), &json!("7:0"))
            );
            assert_eq!(
                (&dev["three"]["type"], &dev["three"]["mode"]),
                (&json!("fifo"), &json!("0622"))
            );
            assert_eq!(
                (&answers[1]["type"], &answers[1]["device"]),
                (&json!("char"), &json!("1:5"))
            );
        },
    ),
    Case::clause(
        &["config-linux/device-mismatch"],
        "a file in the place of a device is an error",
        |t| {
            let device = json!([{ "path": "/data/device", "type": "c", "major": 1, "minor": 3 }]);
            let bundle = Bundle::new(t)
                .file("data/device", "a file")
                .with(|config| config["linux"]["devices"] = device);
            refused(t, &bundle);
            assert_eq!(
                fs::read_to_string(bundle.rootfs().join("data/device")).expect("read"),
                "a file"
            );
        },
    )
    .except(&[
        ("runc", "1.1.5 leaves what is there"),
        ("crun", "leaves what is there"),
    ]),
    without!(
        "config-linux/device-type-required",
        "/linux/devices/0/type",
        |config| {
            config["linux"]["devices"] =
                json!([{ "path": "/dev/x", "type": "c", "major": 1, "minor": 3 }]);
        }
    ),
    without!(
        "config-linux/device-path-required",
        "/linux/devices/0/path",
        |config| {
            config["linux"]["devices"] =
                json!([{ "path": "/dev/x", "type": "c", "major": 1, "minor": 3 }]);
        }
    )
    .except(&[("runc", "1.1.5 takes what is missing for an empty path")]),
    default_device!("config-linux/default-null", "null", "1:3"),
    default_device!("config-linux/default-zero", "zero", "1:5"),
    default_device!("config-linux/default-full", "full", "1:7"),
    default_device!("config-linux/default-random", "random", "1:8"),
    default_device!("config-linux/default-urandom", "urandom", "1:9"),
    default_device!("config-linux/default-tty", "tty", "5:0"),
    Case::clause(
        &["config-linux/default-console"],
        "with a terminal /dev/console is the pty, bound; without one it is not there",
        |t| {
            let bundle = Bundle::new(t).with(|config| config["process"]["terminal"] = json!(true));
            let receiver = Receiver::new(&t.directory.join("console.sock"));
            let container = t.create_with(&bundle, &["--console-socket", text(&receiver.path)]);
            let mut terminal = Terminal::of(receiver.receive().1);
            container.start().ok();
            terminal.wait_end();
            let report: Value = serde_json::from_str(terminal.text().trim()).expect("the report");
            let console = &report["dev"]["console"];
            assert!(
                console["device"]
                    .as_str()
                    .is_some_and(|device| device.starts_with("136:")),
                "{console}"
            );
            assert_eq!(mount(&report, "/dev/console")["type"], "devpts");
            let report = t.run(&Bundle::new(t)).answer();
            assert!(
                report["mounts"]
                    .as_array()
                    .expect("mounts")
                    .iter()
                    .all(|one| one["target"] != "/dev/console")
            );
        },
    ),
    Case::clause(
        &["config-linux/default-ptmx"],
        "/dev/ptmx is that of the container's /dev/pts",
        |t| {
            let bundle = Bundle::new(t).probe(&[
                "report",
                ";",
                "open",
                "/dev/ptmx",
                "2",
                ";",
                "stat",
                "/dev/ptmx",
            ]);
            let answers = t.run(&bundle).ok().answers();
            let found = &answers[0]["dev"]["ptmx"];
            let bound = answers[0]["mounts"]
                .as_array()
                .expect("mounts")
                .iter()
                .any(|one| one["target"] == "/dev/ptmx");
            let link = found["target"].as_str().unwrap_or_default();
            assert!(
                bound || link.trim_start_matches("/dev/") == "pts/ptmx",
                "{found}"
            );
            assert_eq!(answers[1], json!({ "ok": true }));
        },
    ),
    Case::clause(
        &[
            "config-linux/netDevices-available",
            "config-linux/netDevices-up",
            "config-linux/netDevices-addresses",
        ],
        "a network device is moved with its addresses, renamed and up",
        |t| {
            let name = veth(t);
            ip(&["address", "add", "198.51.100.7/24", "dev", &name]);
            ip(&["address", "add", "2001:db8::7/64", "dev", &name, "nodad"]);
            ip(&["link", "set", "dev", &name, "mtu", "1300"]);
            let container = t.start(&with_device(t, &name, json!({ "name": "inside0" })));
            let inside = ip_of(&container, &["-o", "address", "show", "dev", "inside0"]);
            assert!(
                inside.contains("198.51.100.7/24") && inside.contains("2001:db8::7/64"),
                "{inside}"
            );
            let link = ip_of(&container, &["-o", "link", "show", "dev", "inside0"]);
            let flags = link.split(['<', '>']).nth(1).expect("flags");
            assert!(flags.split(',').any(|flag| flag == "UP"), "{link}");
            assert!(link.contains("mtu 1300"), "{link}");
            assert!(!ip(&["-o", "link"]).contains(&name), "it is still outside");
            // Without a name the host's stays.
            let name = veth(t);
            let container = t.start(&with_device(t, &name, json!({})));
            ip_of(&container, &["-o", "link", "show", "dev", &name]);
        },
    )
    .except(NO_NETDEVICES),
    Case::clause(
        &["config-linux/netDevices-check"],
        "a network device that is not there, or can't be moved, is an error",
        |t| {
            veth(t);
            refused(t, &with_device(t, "nodevice0", json!({})));
            refused(t, &with_device(t, "lo", json!({ "name": "lo1" })));
        },
    )
    .except(NO_NETDEVICES),
    Case::clause(
        &["config-linux/netDevices-conflict"],
        "a name that the namespace has already is an error, and the device stays outside",
        |t| {
            let name = veth(t);
            refused(t, &with_device(t, &name, json!({ "name": "lo" })));
            assert!(
                ip(&["-o", "link"]).contains(&format!("{name}@")),
                "it is gone"
            );
        },
    )
    .except(NO_NETDEVICES),
    Case::clause(
        &["config-linux/netDevices-template"],
        "a name with %d gets a number",
        |t| {
            let name = veth(t);
            let container = t.start(&with_device(t, &name, json!({ "name": "eth%d" })));
            ip_of(&container, &["-o", "link", "show", "dev", "eth0"]);
        },
    )
    .except(NO_NETDEVICES),
    Case::clause(
        &[
            "config-linux/netDevices-hands-off",
            "config-linux/netDevices-not-back",
        ],
        "delete leaves the device in a namespace that lives on, with what was changed there",
        |t| {
            let name = veth(t);
            let holder = t.start(&Bundle::new(t).probe(&["pause"]));
            let path = format!("/proc/{}/ns/net", holder.pid());
            let bundle = with_device(t, &name, json!({ "name": "inside0" }))
                .without_namespace("network")
                .with(|config| {
                    push(
                        &mut config["linux"]["namespaces"],
                        json!({ "type": "network", "path": path }),
                    );
                });
            let container = t.start(&bundle);
            ip_of(
                &container,
                &["link", "set", "dev", "inside0", "mtu", "1400"],
            );
            container.kill("KILL").ok();
            container.wait_status("stopped");
            container.delete().ok();
            let link = ip_of(&holder, &["-o", "link", "show", "dev", "inside0"]);
            assert!(link.contains("mtu 1400") && link.contains(",UP"), "{link}");
        },
    )
    .except(NO_NETDEVICES),
    without!(
        "config-linux/personality-domain",
        "/linux/personality/domain",
        |config| {
            config["linux"]["personality"] = json!({ "domain": "LINUX32" });
        }
    )
    .except(&[("runc", "1.1.5 does not know personality")]),
    without!(
        "config-linux/memoryPolicy-mode",
        "/linux/memoryPolicy/mode",
        |config| {
            config["linux"]["memoryPolicy"] = json!({ "mode": "MPOL_BIND", "nodes": "0" });
        }
    )
    .except(&[
        (
            "runc",
            "1.1.5 does not know memoryPolicy: runtime-spec 1.3 brought it",
        ),
        (
            "crun",
            "1.8.1 does not know memoryPolicy: runtime-spec 1.3 brought it",
        ),
    ]),
    Case::clause(
        &["config-linux/maskedPaths-absolute"],
        "a masked path that is relative is refused",
        |t| {
            let masked = json!(["proc/kcore"]);
            never_runs(
                t,
                Bundle::new(t).with(|config| config["linux"]["maskedPaths"] = masked),
            );
        },
    )
    .except(&[
        ("runc", "1.1.5 takes it from the root"),
        ("crun", "takes it from the root"),
    ]),
    Case::clause(
        &["config-linux/readonlyPaths-absolute"],
        "a read-only path that is relative is refused",
        |t| {
            let paths = json!(["proc/sys"]);
            never_runs(
                t,
                Bundle::new(t).with(|config| config["linux"]["readonlyPaths"] = paths),
            );
        },
    )
    .except(&[
        ("runc", "1.1.5 takes it from the root"),
        ("crun", "takes it from the root"),
    ]),
    Case::clause(
        &["config/invalid-error"],
        "a propagation of the root that is none is refused",
        |t| {
            refused(
                t,
                &Bundle::new(t)
                    .with(|config| config["linux"]["rootfsPropagation"] = json!("nonsense")),
            );
        },
    )
    .except(&[("crun", "1.8.1 passes over it")]),
    Case::clause(
        &["config/invalid-error"],
        "a sysctl of no namespace is refused",
        |t| {
            refused(
                t,
                &Bundle::new(t)
                    .with(|config| config["linux"]["sysctl"] = json!({ "vm.nonsense": "1" })),
            );
        },
    ),
    without!(
        "config-linux/hugepage-size",
        "/linux/resources/hugepageLimits/0/pageSize",
        |config| {
            config["linux"]["resources"]["hugepageLimits"] =
                json!([{ "pageSize": "2MB", "limit": 0 }]);
        }
    )
    .needs(Needs::V1),
];

fn with_cgroup_namespace(bundle: Bundle) -> Bundle {
    with_namespace(bundle, "cgroup")
}

fn with_namespace(bundle: Bundle, kind: &str) -> Bundle {
    bundle.with(|config| {
        push(&mut config["linux"]["namespaces"], json!({ "type": kind }));
    })
}

/// Without this kind, and without what needs it.
fn without_kind(bundle: Bundle, kind: &str) -> Bundle {
    bundle.without_namespace(kind).with(|config| {
        if kind == "uts" {
            remove(config, "/hostname");
        }
        if kind == "ipc" {
            let mounts = config["mounts"].as_array_mut().expect("mounts");
            mounts.retain(|mount| mount["type"] != "mqueue");
        }
    })
}

/// A bundle that joins this namespace of the container.
fn joined(t: &Test, container: &Container<'_>, kind: &str, link: &str) -> Bundle {
    let path = format!("/proc/{}/ns/{link}", container.pid());
    without_kind(with_cgroup_namespace(Bundle::new(t)), kind).with(|config| {
        push(
            &mut config["linux"]["namespaces"],
            json!({ "type": kind, "path": path }),
        );
    })
}

/// A veth pair in a network namespace of the case, its first end's name. The
/// runtime is started from there, too.
fn veth(t: &Test) -> String {
    if t.made.get() == 0 {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("unshare");
    }
    let id = t.id();
    let number = id.rsplit('-').next().expect("a number");
    let name = format!("cf{number}a");
    let made = Command::new("ip")
        .args([
            "link",
            "add",
            &name,
            "type",
            "veth",
            "peer",
            "name",
            &format!("cf{number}b"),
        ])
        .output()
        .expect("ip");
    if !made.status.success() {
        t.lacks("the kernel has no veth");
    }
    name
}

fn with_device(t: &Test, name: &str, device: Value) -> Bundle {
    Bundle::new(t).probe(&["pause"]).with(|config| {
        config["linux"]["netDevices"] = json!({});
        config["linux"]["netDevices"][name] = device;
    })
}

#[track_caller]
fn ip(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output().expect("ip");
    assert!(
        output.status.success(),
        "ip {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `ip` in the container's network namespace.
#[track_caller]
fn ip_of(container: &Container<'_>, args: &[&str]) -> String {
    let net = format!("--net=/proc/{}/ns/net", container.pid());
    let output = Command::new("nsenter")
        .arg(net)
        .arg("ip")
        .args(args)
        .output()
        .expect("nsenter");
    assert!(
        output.status.success(),
        "ip {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
