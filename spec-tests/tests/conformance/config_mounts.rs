//! config.md, mounts: their order, the option strings that a runtime must
//! know, mappings.

use std::fs;

use nix::mount::{MsFlags, mount as mount_call};
use serde_json::{Value, json};
use spec_tests::bundle::push;
use spec_tests::runtime::text;
use spec_tests::{Bundle, Case, Needs, Test};

use crate::attempt::{has, mount, never_runs, refused, remove};
use crate::config::without;

/// A tmpfs with these options is mounted, and shows them like this.
macro_rules! option {
    ($clause:literal, $options:expr, $holds:expr) => {
        Case::clause(
            &[$clause],
            concat!($clause, ": a tmpfs with it is as asked"),
            |t| {
                let holds: fn(&Value) -> bool = $holds;
                let found = with_options(t, &$options);
                assert!(holds(&found), "{found}");
            },
        )
    };
}

/// A bind mount of a shared mount has the propagation that the option says.
macro_rules! propagation {
    ($clause:literal, $option:literal, $holds:expr) => {
        Case::clause(
            &[$clause],
            concat!($clause, ": a bind with it propagates so"),
            |t| {
                let holds: fn(&str) -> bool = $holds;
                let source = shared_mount(t);
                let bundle = Bundle::new(t).mount("/mnt", "bind", &source, &["rbind", $option]);
                let report = t.run(&bundle).answer();
                for target in ["/mnt", "/mnt/below"] {
                    // The options with r reach the mounts below.
                    if target == "/mnt" || $option.starts_with('r') {
                        let found = mount(&report, target)["propagation"].clone();
                        assert!(holds(found.as_str().expect("text")), "{target}: {found}");
                    }
                }
            },
        )
    };
}

const NO_RIDMAP: &[(&str, &str)] = &[
    ("runc", "1.1.5 does not know ridmap: 1.2 brought it"),
    ("crun", "1.8.1 does not know ridmap"),
];

pub(crate) const CASES: &[Case] = &[
    Case::clause(
        &["config/mounts-order"],
        "mounts come in the order of the list",
        |t| {
            let tmpfs = |bundle: Bundle, target: &str| bundle.mount(target, "tmpfs", "tmpfs", &[]);
            let list = ["list", "/data/a"];
            let bundle = tmpfs(tmpfs(Bundle::new(t).probe(&list), "/data/a"), "/data/a/b");
            assert_eq!(t.run(&bundle).answer(), json!({ "names": ["b"] }));
            // The second hides the first.
            let bundle = tmpfs(tmpfs(Bundle::new(t).probe(&list), "/data/a/b"), "/data/a");
            assert_eq!(t.run(&bundle).answer(), json!({ "names": [] }));
        },
    ),
    without!("config/mount-destination-required", "/mounts/0/destination"),
    Case::clause(
        &["config/mount-destination-relative"],
        "a relative destination is below the root, whatever the cwd",
        |t| {
            let bundle = Bundle::new(t)
                .mount("data/relative", "tmpfs", "tmpfs", &[])
                .with(|config| config["process"]["cwd"] = json!("/tmp"));
            mount(&t.run(&bundle).answer(), "/data/relative");
        },
    ),
    option!("config/option-ro", ["ro"], |m| has(&m["options"], "ro")),
    option!("config/option-rw", ["ro", "rw"], |m| has(
        &m["options"],
        "rw"
    ) && has(
        &m["super"],
        "rw"
    ))
    .except(&[("crun", "1.8.1 does not take an earlier option back")]),
    option!("config/option-nosuid", ["nosuid"], |m| has(
        &m["options"],
        "nosuid"
    )),
    option!("config/option-suid", ["nosuid", "suid"], |m| !has(
        &m["options"],
        "nosuid"
    ))
    .except(&[("crun", "1.8.1 does not take an earlier option back")]),
    option!("config/option-nodev", ["nodev"], |m| has(
        &m["options"],
        "nodev"
    )),
    option!("config/option-dev", ["nodev", "dev"], |m| !has(
        &m["options"],
        "nodev"
    ))
    .except(&[("crun", "1.8.1 does not take an earlier option back")]),
    option!("config/option-noexec", ["noexec"], |m| has(
        &m["options"],
        "noexec"
    )),
    option!("config/option-exec", ["noexec", "exec"], |m| !has(
        &m["options"],
        "noexec"
    ))
    .except(&[("crun", "1.8.1 does not take an earlier option back")]),
    option!("config/option-noatime", ["noatime"], |m| has(
        &m["options"],
        "noatime"
    )),
    option!("config/option-atime", ["noatime", "atime"], |m| !has(
        &m["options"],
        "noatime"
    ))
    .except(&[("crun", "1.8.1 does not take an earlier option back")]),
    option!("config/option-nodiratime", ["nodiratime"], |m| has(
        &m["options"],
        "nodiratime"
    )),
    option!("config/option-diratime", ["nodiratime", "diratime"], |m| {
        !has(&m["options"], "nodiratime")
    })
    .except(&[("crun", "1.8.1 does not take an earlier option back")]),
    option!("config/option-relatime", ["relatime"], |m| has(
        &m["options"],
        "relatime"
    )),
    option!("config/option-norelatime", ["norelatime"], |m| m
        .is_object()),
    option!("config/option-strictatime", ["strictatime"], |m| {
        !has(&m["options"], "relatime") && !has(&m["options"], "noatime")
    }),
    option!(
        "config/option-nostrictatime",
        ["strictatime", "nostrictatime"],
        |m| { has(&m["options"], "relatime") }
    )
    .except(&[("crun", "1.8.1 does not take an earlier option back")]),
    option!("config/option-sync", ["sync"], |m| has(&m["super"], "sync")),
    option!("config/option-async", ["sync", "async"], |m| !has(
        &m["super"],
        "sync"
    ))
    .except(&[("crun", "1.8.1 does not take an earlier option back")]),
    option!("config/option-dirsync", ["dirsync"], |m| has(
        &m["super"],
        "dirsync"
    )),
    option!("config/option-lazytime", ["lazytime"], |m| has(
        &m["super"],
        "lazytime"
    )),
    option!(
        "config/option-nolazytime",
        ["lazytime", "nolazytime"],
        |m| !has(&m["super"], "lazytime")
    ),
    option!("config/option-iversion", ["iversion"], |m| m.is_object()).except(&[(
        "crun",
        "1.8.1 does not know it and hands it to the file system",
    )]),
    option!(
        "config/option-noiversion",
        ["iversion", "noiversion"],
        |m| m.is_object()
    )
    .except(&[(
        "crun",
        "1.8.1 does not know it and hands it to the file system",
    )]),
    option!("config/option-silent", ["silent"], |m| m.is_object()).except(&[(
        "crun",
        "1.8.1 does not know it and hands it to the file system",
    )]),
    option!("config/option-loud", ["silent", "loud"], |m| m.is_object()).except(&[(
        "crun",
        "1.8.1 does not know it and hands it to the file system",
    )]),
    option!("config/option-defaults", ["defaults"], |m| {
        has(&m["options"], "rw")
            && !["nosuid", "nodev", "noexec"]
                .iter()
                .any(|word| has(&m["options"], word))
    })
    .except(&[("runc", "1.1.5 hands it to the file system")]),
    Case::clause(
        &["config/option-bind"],
        "config/option-bind: a directory, without what is mounted in it",
        |t| {
            let source = shared_mount(t);
            let bundle = Bundle::new(t).mount("/mnt", "none", &source, &["bind"]);
            let report = t.run(&bundle).answer();
            mount(&report, "/mnt");
            assert!(!targets(&report).contains(&"/mnt/below".to_owned()));
        },
    ),
    Case::clause(
        &["config/option-rbind"],
        "config/option-rbind: a directory with what is mounted in it",
        |t| {
            let source = shared_mount(t);
            let bundle = Bundle::new(t).mount("/mnt", "none", &source, &["rbind"]);
            mount(&t.run(&bundle).answer(), "/mnt/below");
        },
    ),
    Case::clause(
        &["config/option-remount"],
        "config/option-remount: a mount of the list gets other options",
        |t| {
            let bundle = Bundle::new(t)
                .mount("/mnt", "bind", text(&t.directory), &["bind"])
                .mount(
                    "/mnt",
                    "bind",
                    text(&t.directory),
                    &["bind", "remount", "ro", "nosuid"],
                );
            let found = mount(&t.run(&bundle).answer(), "/mnt");
            assert!(
                has(&found["options"], "ro") && has(&found["options"], "nosuid"),
                "{found}"
            );
        },
    ),
    propagation!("config/option-private", "private", str::is_empty),
    propagation!("config/option-rprivate", "rprivate", str::is_empty),
    propagation!("config/option-shared", "shared", |found| found
        .contains("shared:"))
    .except(&[("crun", "1.8.1 makes it private again")]),
    propagation!("config/option-rshared", "rshared", |found| found
        .contains("shared:"))
    .except(&[("crun", "1.8.1 makes it private again")]),
    propagation!("config/option-slave", "slave", |found| found
        .contains("master:")
        && !found.contains("shared:"))
    .except(&[("crun", "1.8.1 makes it private again")]),
    propagation!("config/option-rslave", "rslave", |found| found
        .contains("master:")
        && !found.contains("shared:"))
    .except(&[("crun", "1.8.1 makes it private again")]),
    propagation!("config/option-unbindable", "unbindable", |found| found
        == "unbindable")
    .except(&[("crun", "1.8.1 makes it private again")]),
    propagation!("config/option-runbindable", "runbindable", |found| found
        == "unbindable")
    .except(&[("crun", "1.8.1 makes it private again")]),
    Case::clause(
        &["config/idmap-applied", "config/idmap-values"],
        "idmap: the owners are those that the mount's mappings say",
        |t| {
            let bundle = mapped(t, &["bind", "idmap"]).probe(&["stat", "/mnt/file"]);
            let answer = t.run(&bundle).answer();
            assert_eq!(
                (&answer["uid"], &answer["gid"]),
                (&json!(5001), &json!(5002))
            );
        },
    )
    .needs(Needs::TmpfsIdmap)
    .except(&[("runc", "1.1.5 does not know idmap: 1.2 brought it")]),
    Case::clause(
        &["config/ridmap-applied", "config/ridmap-values"],
        "ridmap: the owners below are those that the mount's mappings say, too",
        |t| {
            let bundle = mapped(t, &["rbind", "ridmap"]).probe(&[
                "stat",
                "/mnt/file",
                ";",
                "stat",
                "/mnt/below/file",
            ]);
            for answer in t.run(&bundle).ok().answers() {
                assert_eq!(
                    (&answer["uid"], &answer["gid"]),
                    (&json!(5001), &json!(5002))
                );
            }
        },
    )
    .needs(Needs::TmpfsIdmap)
    .except(NO_RIDMAP),
    Case::clause(
        &["config/idmap-without-error"],
        "idmap without mappings and without user namespace is refused",
        |t| refused(t, &unmapped(t, &["bind", "idmap"])),
    )
    .except(&[("runc", "1.1.5 does not know idmap: 1.2 brought it")]),
    Case::clause(
        &["config/ridmap-without-error"],
        "ridmap without mappings and without user namespace is refused",
        |t| refused(t, &unmapped(t, &["rbind", "ridmap"])),
    )
    .except(NO_RIDMAP),
    Case::clause(
        &["config/idmap-neither-error"],
        "idmap without mappings takes the container's, or is refused",
        |t| container_mapping(t, &["bind", "idmap"]),
    )
    .needs(Needs::TmpfsIdmap),
    Case::clause(
        &["config/ridmap-neither-error"],
        "ridmap without mappings takes the container's, or is refused",
        |t| container_mapping(t, &["rbind", "ridmap"]),
    )
    .needs(Needs::TmpfsIdmap)
    .except(NO_RIDMAP),
    Case::clause(
        &["config/mount-uidMappings-alone"],
        "a mount with uidMappings alone is refused",
        |t| {
            refused(
                t,
                &mapped(t, &["bind", "idmap"]).with(|config| remove_last(config, "gidMappings")),
            );
        },
    )
    .except(&[("runc", "1.1.5 does not know the field")]),
    Case::clause(
        &["config/mount-gidMappings-alone"],
        "a mount with gidMappings alone is refused",
        |t| {
            refused(
                t,
                &mapped(t, &["bind", "idmap"]).with(|config| remove_last(config, "uidMappings")),
            );
        },
    )
    .except(&[("runc", "1.1.5 does not know the field")]),
    Case::clause(
        &[
            "config/invalid-error",
            "runtime/environment-error",
            "runtime/create-cannot",
        ],
        "a mount that the kernel refuses is an error of create",
        |t| {
            refused(t, &Bundle::new(t).mount("/mnt", "nosuchfs", "none", &[]));
            refused(
                t,
                &Bundle::new(t).mount("/mnt", "tmpfs", "tmpfs", &["nonsense=1"]),
            );
            refused(
                t,
                &Bundle::new(t).mount("/mnt", "bind", "/nowhere", &["bind"]),
            );
            never_runs(
                t,
                Bundle::new(t).mount("/mnt", "tmpfs", "tmpfs", &["size=banana"]),
            );
        },
    ),
];

/// The mount of a tmpfs with these options, as the container sees it.
#[track_caller]
fn with_options(t: &Test, options: &[&str]) -> Value {
    let bundle = Bundle::new(t).mount("/mnt", "tmpfs", "tmpfs", options);
    mount(&t.run(&bundle).answer(), "/mnt")
}

fn targets(report: &Value) -> Vec<String> {
    let mounts = report["mounts"].as_array().expect("mounts");
    let targets = mounts
        .iter()
        .map(|mount| mount["target"].as_str().expect("text").to_owned());
    targets.collect()
}

/// A shared tmpfs of the case with another one below it, in a mount namespace
/// of the case. In each there is a file that belongs to user 1 and group 2.
fn shared_mount(t: &Test) -> String {
    const NONE: Option<&str> = None;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("unshare");
    let all = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount_call(NONE, "/", NONE, all, NONE).expect("private");
    let source = t.directory.join("shared");
    let tmpfs = Some("tmpfs");
    for directory in [source.clone(), source.join("below")] {
        fs::create_dir(&directory).expect("mkdir");
        mount_call(tmpfs, &directory, tmpfs, MsFlags::empty(), NONE).expect("tmpfs");
        mount_call(NONE, &directory, NONE, MsFlags::MS_SHARED, NONE).expect("shared");
        fs::write(directory.join("file"), "").expect("write");
        std::os::unix::fs::chown(directory.join("file"), Some(1), Some(2)).expect("chown");
    }
    text(&source).to_owned()
}

/// A mount of [`shared_mount`] whose ids are shifted by 5000.
fn mapped(t: &Test, options: &[&str]) -> Bundle {
    let mapping = json!([{ "containerID": 0, "hostID": 5000, "size": 100 }]);
    unmapped(t, options).with(|config| {
        let last = config["mounts"]
            .as_array_mut()
            .expect("mounts")
            .last_mut()
            .expect("a mount");
        last["uidMappings"] = mapping.clone();
        last["gidMappings"] = mapping;
    })
}

fn unmapped(t: &Test, options: &[&str]) -> Bundle {
    let source = shared_mount(t);
    let mount =
        json!({ "destination": "/mnt", "type": "bind", "source": source, "options": options });
    Bundle::new(t).with(|config| push(&mut config["mounts"], mount))
}

fn remove_last(config: &mut Value, field: &str) {
    let last = config["mounts"].as_array().expect("mounts").len() - 1;
    remove(config, &format!("/mounts/{last}/{field}"));
}

/// The file belongs to user 1 inside too, which is 5001 of the host there, or
/// it is refused.
fn container_mapping(t: &Test, options: &[&str]) {
    let bundle = unmapped(t, options)
        .in_user_namespace(5000)
        .probe(&["stat", "/mnt/file"]);
    let outcome = t.run(&bundle);
    if outcome.code == 0 {
        let answer = outcome.answer();
        assert_eq!((&answer["uid"], &answer["gid"]), (&json!(1), &json!(2)));
    } else {
        assert!(!crate::attempt::exists(t, &bundle.id));
    }
}
