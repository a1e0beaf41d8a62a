//! config-linux.md, control groups: where the container's cgroup is, who owns
//! it, device rules, limits, unified keys.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::mount::{MsFlags, mount};
use serde_json::json;
use spec_tests::bundle::push;
use spec_tests::runtime::text;
use spec_tests::view::NetworkControllers;
use spec_tests::{Bundle, Case, Needs, Test};

use crate::attempt::{create, refused};
use crate::config_hooks::own_cgroup;

pub(crate) const CASES: &[Case] = &[
    Case::clause(
        &["config-linux/cgroup-fit"],
        "a cgroup in use is an error or harmless: the first container goes on",
        |t| {
            let first = Bundle::new(t).probe(&["await", "15"]);
            let container = t.start(&first);
            let path = format!("/{}", first.id);
            let second = Bundle::new(t)
                .probe(&["pause"])
                .with(|config| config["linux"]["cgroupsPath"] = json!(path));
            if create(t, &second).code == 0 {
                t.call(&["delete", "--force", &second.id]).ok();
            }
            assert_eq!(container.status(), "running");
            container.wait_for("ready");
            container.kill("TERM").ok();
            container.wait_for("\"signal\":15");
        },
    )
    .except(&[(
        "crun",
        "delete of the second kills the processes of the first: it kills the cgroup",
    )]),
    Case::clause(
        &["config-linux/cgroupsPath-absolute"],
        "an absolute cgroupsPath is below the mount point of each hierarchy",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]).with(|config| {
                let path = format!(
                    "{}/below",
                    config["linux"]["cgroupsPath"].as_str().expect("path")
                );
                config["linux"]["cgroupsPath"] = json!(path);
            });
            let container = t.start(&bundle);
            let directory = own_cgroup(t, &bundle).join("below");
            let procs = fs::read_to_string(directory.join("cgroup.procs")).expect("its cgroup");
            assert_eq!(procs.trim(), container.pid().to_string());
            t.call(&["delete", "--force", &bundle.id]).ok();
            remove_everywhere(&bundle.id);
        },
    ),
    Case::clause(
        &["config-linux/cgroupsPath-consistent"],
        "the same cgroupsPath is the same place, absolute and relative",
        |t| {
            for form in ["/", ""] {
                let id = t.id();
                let path = format!("{form}{id}");
                let mut places = Vec::new();
                for _ in 0..2 {
                    let bundle = Bundle::new(t).probe(&["pause"]);
                    let bundle = bundle.with(|config| config["linux"]["cgroupsPath"] = json!(path));
                    let container = t.create(&bundle);
                    let place = fs::read_to_string(format!("/proc/{}/cgroup", container.pid()))
                        .expect("cgroup");
                    assert!(place.contains(&id), "{place}");
                    places.push(place);
                    drop(container);
                }
                assert_eq!(places[0], places[1]);
            }
        },
    ),
    Case::clause(
        &["config-linux/cgroupsPath-invalid"],
        "a cgroupsPath with `..` is refused, or stays below the mount point",
        |t| {
            let id = t.id();
            let outside = t.directory.join(&id);
            let path = format!("/../../../..{}", text(&outside));
            let bundle = Bundle::new(t).probe(&["pause"]);
            let bundle = bundle.with(|config| config["linux"]["cgroupsPath"] = json!(path));
            let outcome = create(t, &bundle);
            let container = t.adopt(&bundle.id);
            assert!(!outside.exists(), "it left the hierarchy");
            if outcome.code == 0 {
                let place = fs::read_to_string(format!("/proc/{}/cgroup", container.pid()))
                    .expect("cgroup");
                assert!(place.contains(&id) && !place.contains(".."), "{place}");
                drop(container);
                for above in outside
                    .ancestors()
                    .filter_map(|path| path.strip_prefix("/").ok())
                {
                    remove_everywhere(text(above));
                }
            }
        },
    )
    .except(&[(
        "crun",
        "1.8.1 goes out of the hierarchy, and makes directories and files there",
    )]),
    Case::clause(
        &["config-linux/ownership-missing"],
        "a cgroup that is to be the container's is made, though it lacks files of the list",
        |t| {
            let bundle = owned(t).probe(&["pause"]);
            let container = t.start(&bundle);
            assert_eq!(container.status(), "running");
            check_owners(
                t,
                &bundle,
                &fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_default(),
            );
        },
    )
    .needs(Needs::V2),
    Case::clause(
        &["config-linux/ownership-fallback"],
        "without the kernel's list of files to hand over, three files are handed over",
        |t| {
            const NONE: Option<&str> = None;
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("unshare");
            mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).expect("private");
            let tmpfs = Some("tmpfs");
            mount(tmpfs, "/sys/kernel/cgroup", tmpfs, MsFlags::empty(), NONE).expect("tmpfs");
            // A user namespace mounts no sysfs where a part of the host's is hidden.
            let bundle = owned(t).probe(&["pause"]).with(|config| {
                let mounts = config["mounts"].as_array_mut().expect("mounts");
                mounts.retain(|mount| mount["destination"] != "/sys");
            });
            let _container = t.start(&bundle);
            check_owners(
                t,
                &bundle,
                "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n",
            );
        },
    )
    .needs(Needs::V2),
    Case::clause(
        &["config-linux/device-rules-order"],
        "of two device rules for the same device the later one holds",
        |t| {
            let allow =
                json!({ "allow": true, "type": "c", "major": 10, "minor": 250, "access": "rw" });
            let deny =
                json!({ "allow": false, "type": "c", "major": 10, "minor": 250, "access": "rw" });
            let all = json!({ "allow": false, "access": "rwm" });
            let device = json!([{ "path": "/dev/nobody", "type": "c", "major": 10, "minor": 250, "fileMode": 0o666 }]);
            let open = |rules: serde_json::Value| {
                let bundle = Bundle::new(t)
                    .probe(&["open", "/dev/nobody", "0"])
                    .with(|config| {
                        config["linux"]["devices"] = device.clone();
                        config["linux"]["resources"]["devices"] = rules;
                    });
                t.run(&bundle).answer()["errno"].clone()
            };
            // 1 is EPERM, of the cgroup; that there is no such device comes later.
            assert_eq!(open(json!([all, allow, deny])), 1);
            assert_ne!(open(json!([all, deny, allow])), 1);
            assert_eq!(open(json!([deny, allow, all])), 1);
        },
    ),
    Case::clause(
        &["config-linux/memory-checkBeforeUpdate"],
        "a memory limit below what is in use is refused",
        |t| {
            let bundle = Bundle::new(t).probe(&["hold-memory", "32"]).with(|config| {
                config["linux"]["resources"]["memory"] =
                    json!({ "limit": 64 << 20, "checkBeforeUpdate": true });
            });
            let container = t.start(&bundle);
            container.wait_for("held");
            let path = t.directory.join("resources");
            let wanted = json!({ "memory": { "limit": 8 << 20, "checkBeforeUpdate": true } });
            fs::write(&path, wanted.to_string()).expect("write");
            let outcome = t.call(&["update", "--resources", text(&path), &bundle.id]);
            assert_ne!(outcome.code, 0, "the limit was taken");
            assert_eq!(container.status(), "running");
        },
    )
    .needs(Needs::Limits),
    Case::clause(
        &[
            "config-linux/cpu-quota-burst",
            "config-linux/cpu-burst-quota",
        ],
        "a burst that is larger than the quota is refused, one as large is not",
        |t| {
            let cpu = |burst: u64| {
                let cpu = json!({ "quota": 20_000, "period": 100_000, "burst": burst });
                Bundle::new(t).with(|config| config["linux"]["resources"]["cpu"] = cpu)
            };
            refused(t, &cpu(20_001));
            let container = t.create(&cpu(20_000));
            let (controller, file) = match t.view.as_str() {
                "v2" => ("", "cpu.max.burst"),
                _ => ("cpu", "cpu.cfs_burst_us"),
            };
            assert_eq!(t.knob(controller, &container.id, file), "20000");
        },
    )
    .needs(Needs::Limits)
    .except(&[
        ("runc", "1.1.5 does not know the burst field"),
        ("crun", "1.8.1 passes over the burst"),
    ]),
    Case::clause(
        &[
            "config-linux/blkio-bps-number",
            "config-linux/blkio-iops-number",
        ],
        "a throttle without the number of its disk is refused",
        |t| {
            for field in ["throttleReadBpsDevice", "throttleReadIOPSDevice"] {
                for number in ["major", "minor"] {
                    let mut one = json!({ "major": 250, "minor": 250, "rate": 1000 });
                    one.as_object_mut().expect("an object").remove(number);
                    let io = json!({ field: [one] });
                    let bundle =
                        Bundle::new(t).with(|config| config["linux"]["resources"]["blockIO"] = io);
                    refused(t, &bundle);
                }
            }
        },
    )
    .needs(Needs::Limits)
    .except(&[("crun", "1.8.1 refuses it, and leaves the cgroup behind")]),
    Case::clause(
        &["config-linux/blkio-weight-number"],
        "a weight without the number of its disk is refused",
        |t| {
            for number in ["major", "minor"] {
                let mut one = json!({ "major": 250, "minor": 250, "weight": 100 });
                one.as_object_mut().expect("an object").remove(number);
                let io = json!({ "weightDevice": [one] });
                let bundle =
                    Bundle::new(t).with(|config| config["linux"]["resources"]["blockIO"] = io);
                refused(t, &bundle);
            }
        },
    )
    .needs(Needs::Limits)
    .except(&[("crun", "1.8.1 refuses it, and leaves the cgroup behind")]),
    Case::clause(
        &["config-linux/network-priority-name"],
        "a network priority without the name of its device is refused",
        |t| {
            let _mounted = NetworkControllers::mount(t);
            let network = |name: serde_json::Value| {
                let mut one = json!({ "priority": 5, "name": name });
                if one["name"].is_null() {
                    one.as_object_mut().expect("an object").remove("name");
                }
                let network = json!({ "classID": 1_048_577, "priorities": [one] });
                Bundle::new(t).with(|config| config["linux"]["resources"]["network"] = network)
            };
            refused(t, &network(json!(null)));
            // One that has it is taken.
            drop(t.create(&network(json!("lo"))));
        },
    )
    .needs(Needs::V1)
    .except(&[(
        "crun",
        "1.8.1 looks for each controller in a directory of its name",
    )]),
    Case::clause(
        &["config-linux/unified-unknown"],
        "a unified key that the runtime does not know is written",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]).with(|config| {
                config["linux"]["resources"]["unified"] =
                    json!({ "cgroup.max.descendants": "7", "cgroup.max.depth": "3" });
            });
            let container = t.create(&bundle);
            if t.view == "v2" {
                let knob = |file: &str| {
                    fs::read_to_string(t.cgroup("", &container.id).join(file)).expect("knob")
                };
                assert_eq!(knob("cgroup.max.descendants"), "7\n");
                assert_eq!(knob("cgroup.max.depth"), "3\n");
            }
        },
    )
    .needs(Needs::V2Limits),
    Case::clause(
        &["config-linux/unified-missing"],
        "a unified key of a controller that is not there is refused",
        |t| {
            let keys = json!({ "nonsense.max": "1" });
            let bundle =
                Bundle::new(t).with(|config| config["linux"]["resources"]["unified"] = keys);
            refused(t, &bundle);
            assert!(!own_cgroup(t, &bundle).exists());
        },
    )
    .except(&[("crun", "1.8.1 refuses it, and leaves the cgroup behind")]),
    Case::clause(
        &["config-linux/unified-controllers"],
        "the controllers of unified keys are enabled, on each level",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]).with(|config| {
                let path = format!(
                    "{}/below",
                    config["linux"]["cgroupsPath"].as_str().expect("path")
                );
                config["linux"]["cgroupsPath"] = json!(path);
                config["linux"]["resources"]["unified"] =
                    json!({ "pids.max": "77", "memory.high": "67108864" });
            });
            let _container = t.create(&bundle);
            let directory = t.cgroup("", &bundle.id).join("below");
            let knob = |file: &str| fs::read_to_string(directory.join(file)).expect("knob");
            assert_eq!(knob("pids.max"), "77\n");
            assert_eq!(knob("memory.high"), "67108864\n");
            t.call(&["delete", "--force", &bundle.id]).ok();
            remove_everywhere(&bundle.id);
        },
    )
    .needs(Needs::V2Limits),
    Case::clause(
        &["config-linux/unified-conversion"],
        "a v1 setting that v2 does not have is refused",
        |t| {
            let memory = json!({ "swappiness": 7 });
            let bundle =
                Bundle::new(t).with(|config| config["linux"]["resources"]["memory"] = memory);
            refused(t, &bundle);
        },
    )
    .needs(Needs::V2Limits)
    .except(&[
        (
            "rrun",
            "as runc it goes on, with a warning: engines hand v1 settings to v2 hosts",
        ),
        ("runc", "1.1.5 passes over it"),
    ]),
];

/// A bundle in a user namespace that mounts its own cgroup to write in it.
fn owned(t: &Test) -> Bundle {
    Bundle::new(t)
        .in_user_namespace(100_000)
        .mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "rw"],
        )
        .with(|config| {
            push(
                &mut config["linux"]["namespaces"],
                json!({ "type": "cgroup" }),
            );
        })
}

/// The owner of the cgroup of [`owned`] is the container's root, as is that of
/// the files on the list and of no other. A runtime may leave it all to root;
/// rrun does not.
#[track_caller]
fn check_owners(t: &Test, bundle: &Bundle, list: &str) {
    let directory = t.cgroup("", &bundle.id);
    let owner = match t.view.as_str() {
        "v2" => fs::metadata(&directory).expect("stat").uid(),
        _ => return,
    };
    if owner == 0 && !t.is("rrun") {
        return;
    }
    assert_eq!(owner, 100_000, "the directory");
    for entry in fs::read_dir(&directory).expect("readdir").flatten() {
        let name = entry.file_name().into_string().expect("UTF-8");
        if entry.path().is_file() {
            let wanted = if list.lines().any(|line| line == name) {
                100_000
            } else {
                0
            };
            assert_eq!(entry.metadata().expect("stat").uid(), wanted, "{name}");
        }
    }
}

/// Removes the upper levels of a path: delete takes its last one only.
fn remove_everywhere(name: &str) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        let point = line.split(' ').nth(4).expect("a mount point");
        let _ = fs::remove_dir(std::path::Path::new(point).join(name));
    }
}
