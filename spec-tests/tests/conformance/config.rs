//! config.md: version, root, process, annotations, extensibility. Mounts and
//! hooks have files of their own.

use serde_json::{Value, json};
use spec_tests::runtime::text;
use spec_tests::{Bundle, Case};

use crate::attempt::{broken_process, has, mount, never_runs, refused, remove};

/// A config.json in which a REQUIRED field is missing is refused.
macro_rules! without {
    ($clause:literal, $pointer:literal, $setup:expr) => {
        Case::clause(
            &[$clause],
            concat!("a config without ", $pointer, " is refused"),
            |t| {
                let setup: fn(&mut Value) = $setup;
                let bundle = Bundle::new(t).with(|config| {
                    setup(config);
                    remove(config, $pointer);
                });
                never_runs(t, bundle);
            },
        )
    };
    ($clause:literal, $pointer:literal) => {
        without!($clause, $pointer, |_| ())
    };
}
pub(crate) use without;

/// A value that is none is refused, at create or at start.
macro_rules! invalid {
    ($clauses:expr, $what:literal, $setup:expr) => {
        Case::clause($clauses, concat!($what, " is refused"), |t| {
            let setup: fn(&mut Value) = $setup;
            never_runs(t, Bundle::new(t).with(setup));
        })
    };
}
pub(crate) use invalid;

/// Of who leaves out an id. Engines don't: specs-go writes 0, too.
const USER: &[(&str, &str)] = &[
    (
        "rrun",
        "as runc, what is missing is 0: hand-made bundles are like that",
    ),
    ("runc", "1.1.5 takes what is missing for 0"),
    ("crun", "takes what is missing for 0"),
];

pub(crate) const CASES: &[Case] = &[
    invalid!(
        &["config/ociVersion-semver", "config/invalid-error"],
        "an ociVersion that is no SemVer",
        |config| config["ociVersion"] = json!("banana")
    )
    .except(&[("runc", "1.1.5 does not look at the version")]),
    without!("config/ociVersion-required", "/ociVersion").except(&[
        (
            "rrun",
            "as runc: hand-made bundles without one are started everywhere",
        ),
        ("runc", "1.1.5 does not look at the version"),
    ]),
    Case::clause(
        &["config/root-required"],
        "a config without root is refused",
        |t| {
            let bundle = Bundle::new(t).with(|config| remove(config, "/root"));
            refused(t, &bundle);
        },
    ),
    Case::clause(
        &["config/root-path-required"],
        "a config without /root/path is refused",
        |t| {
            refused(
                t,
                &Bundle::new(t).with(|config| remove(config, "/root/path")),
            );
        },
    ),
    Case::clause(
        &["config/root-path-directory"],
        "a root that is not there, and one that is a file, is refused",
        |t| {
            let bundle = Bundle::new(t).with(|config| config["root"]["path"] = json!("nowhere"));
            refused(t, &bundle);
            let bundle =
                Bundle::new(t).with(|config| config["root"]["path"] = json!("config.json"));
            refused(t, &bundle);
        },
    ),
    Case::clause(
        &["config/root-readonly"],
        "a read-only root can't be written, a writable one can",
        |t| {
            let write = ["create", "/data/file", "x"];
            let bundle = Bundle::new(t).probe(&write);
            assert_eq!(t.run(&bundle).answer(), json!({ "ok": true }));
            let bundle = Bundle::new(t)
                .probe(&write)
                .with(|config| config["root"]["readonly"] = json!(true));
            assert_eq!(t.run(&bundle).answer(), json!({ "errno": 30 }));
        },
    ),
    Case::clause(
        &["config/process-required", "runtime/start-no-process"],
        "start without a process is an error",
        |t| broken_process(t, &Bundle::new(t).with(|config| remove(config, "/process"))),
    ),
    Case::clause(
        &["config/consoleSize-ignored"],
        "a console size without a terminal changes nothing",
        |t| {
            let bundle = Bundle::new(t).with(|config| {
                config["process"]["consoleSize"] = json!({ "height": 3, "width": 4 });
            });
            let report = t.run(&bundle).answer();
            assert_eq!(report["tty"]["window"], Value::Null);
        },
    ),
    without!("config/user-uid-required", "/process/user/uid").except(USER),
    without!("config/user-gid-required", "/process/user/gid").except(USER),
    without!("config/cwd-required", "/process/cwd"),
    invalid!(
        &["config/cwd-absolute", "config/invalid-error"],
        "a relative cwd",
        |config| config["process"]["cwd"] = json!("data")
    )
    .except(&[("crun", "1.8.1 takes it from the root")]),
    Case::clause(&["config/args-one"], "empty args are refused", |t| {
        for args in [json!([]), json!(null)] {
            broken_process(
                t,
                &Bundle::new(t).with(|config| config["process"]["args"] = args),
            );
        }
    })
    .except(&[("crun", "1.8.1 reports success and runs nothing")]),
    Case::clause(
        &["config/args-execvp"],
        "the program is looked up in the PATH of the container, by a slash it is not",
        |t| {
            let bundle = Bundle::new(t).args(&["probe", "say", "found"]);
            assert_eq!(t.run(&bundle).answer(), json!({ "said": ["found"] }));
            // In the working directory only by a path.
            let bundle = Bundle::new(t)
                .args(&["bin/probe", "say", "by a path"])
                .with(|config| config["process"]["env"] = json!(["PATH=/nowhere"]));
            assert_eq!(t.run(&bundle).answer(), json!({ "said": ["by a path"] }));
            let bundle = Bundle::new(t)
                .with(|config| config["process"]["env"] = json!(["PATH=/nowhere"]))
                .args(&["probe", "create", "/data/ran", "x"]);
            broken_process(t, &bundle);
        },
    ),
    Case::clause(
        &["config/rlimit-soft", "config/rlimit-hard"],
        "soft and hard limits are the configured ones",
        |t| {
            let bundle = Bundle::new(t).with(|config| {
                config["process"]["rlimits"] = json!([
                    { "type": "RLIMIT_NOFILE", "soft": 64, "hard": 128 },
                    { "type": "RLIMIT_CORE", "soft": 0, "hard": 4096 },
                ]);
            });
            let limits = t.run(&bundle).answer()["limits"].clone();
            assert_eq!(limits["Max open files"], json!(["64", "128"]));
            assert_eq!(limits["Max core file size"], json!(["0", "4096"]));
        },
    ),
    Case::clause(
        &["config/rlimit-getrlimit"],
        "each of the kernel's sixteen limits can be given",
        |t| {
            let own = own_limits();
            let all: Vec<Value> = own
                .iter()
                .map(|(kind, _, soft, hard)| json!({ "type": kind, "soft": soft, "hard": hard }))
                .collect();
            let bundle = Bundle::new(t).with(|config| config["process"]["rlimits"] = json!(all));
            let limits = t.run(&bundle).answer()["limits"].clone();
            let word = |value: u64| match value {
                u64::MAX => "unlimited".to_owned(),
                value => value.to_string(),
            };
            for (kind, title, soft, hard) in own {
                assert_eq!(limits[title], json!([word(soft), word(hard)]), "{kind}");
            }
        },
    ),
    invalid!(
        &["config/rlimit-unmapped", "config/invalid-error"],
        "an rlimit that is none",
        |config| config["process"]["rlimits"] =
            json!([{ "type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1 }])
    ),
    Case::clause(
        &["config/rlimit-duplicate"],
        "a doubled rlimit is refused",
        |t| {
            let limit = json!({ "type": "RLIMIT_NOFILE", "soft": 64, "hard": 64 });
            never_runs(
                t,
                Bundle::new(t).with(|config| config["process"]["rlimits"] = json!([limit, limit])),
            );
        },
    )
    .except(&[
        ("runc", "1.1.5 takes the last one"),
        ("crun", "takes the last one"),
    ]),
    without!("config/rlimit-type-required", "/process/rlimits/0/type"),
    without!("config/rlimit-soft-required", "/process/rlimits/0/soft"),
    without!("config/rlimit-hard-required", "/process/rlimits/0/hard"),
    Case::clause(
        &["config/capability-warning", "runtime/warning-continues"],
        "a capability that is none is a warning that names it, and the program runs",
        |t| {
            let bundle = Bundle::new(t).probe(&["say", "runs"]).with(|config| {
                for set in ["bounding", "effective", "permitted"] {
                    config["process"]["capabilities"][set] = json!(["CAP_KILL", "CAP_NONSENSE"]);
                }
            });
            let outcome = t.run(&bundle);
            assert!(outcome.stderr.contains("CAP_NONSENSE"), "{outcome:?}");
            assert_eq!(outcome.answer(), json!({ "said": ["runs"] }));
        },
    )
    .except(&[("crun", "fails: it knows no such capability")]),
    Case::clause(&["config/oomScoreAdj-set"], "oomScoreAdj is set", |t| {
        let bundle = Bundle::new(t).with(|config| config["process"]["oomScoreAdj"] = json!(321));
        assert_eq!(t.run(&bundle).answer()["oom_score_adj"], "321");
    }),
    Case::clause(
        &["config/oomScoreAdj-unset"],
        "without oomScoreAdj the caller's score stays",
        |t| {
            std::fs::write("/proc/self/oom_score_adj", "123").expect("our own score");
            assert_eq!(t.run(&Bundle::new(t)).answer()["oom_score_adj"], "123");
        },
    ),
    without!(
        "config/scheduler-policy-required",
        "/process/scheduler/policy",
        |config| {
            config["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 1 });
        }
    )
    .except(&[
        ("runc", "1.1.5 does not know the scheduler field"),
        ("crun", "1.8.1 does not know the scheduler field"),
    ]),
    without!(
        "config/ioPriority-class-required",
        "/process/ioPriority/class",
        |config| {
            config["process"]["ioPriority"] =
                json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 1 });
        }
    )
    .except(&[
        ("runc", "1.1.5 does not know the ioPriority field"),
        ("crun", "1.8.1 does not know the ioPriority field"),
    ]),
    invalid!(
        &["config/annotations-map", "config/invalid-error"],
        "a list of annotations",
        |config| {
            config["annotations"] = json!(["a", "b"]);
        }
    )
    .except(&[("crun", "its parser passes over a list")]),
    invalid!(
        &["config/annotations-values-string", "config/invalid-error"],
        "an annotation whose value is a number",
        |config| config["annotations"] = json!({ "key": 1 })
    ),
    invalid!(
        &["config/annotations-keys-empty"],
        "an annotation without a name",
        |config| config["annotations"] = json!({ "": "x" })
    )
    .except(&[
        (
            "rrun",
            "as its peers: it means nothing, and bundles with one exist",
        ),
        ("runc", "1.1.5 does not look at the names"),
        ("crun", "does not look at the names"),
    ]),
    Case::clause(
        &["config/annotations-unknown"],
        "annotations that nobody knows are no error",
        |t| {
            let bundle = Bundle::new(t)
                .probe(&["say", "runs"])
                .annotation("com.example.key", "")
                .annotation("org.opencontainers.image.nonsense", "x");
            assert_eq!(t.run(&bundle).answer(), json!({ "said": ["runs"] }));
        },
    ),
    Case::clause(
        &["config/unknown-ignored"],
        "properties that nobody knows are no error, at every level",
        |t| {
            let bundle = Bundle::new(t).probe(&["say", "runs"]).with(|config| {
                for pointer in [
                    "",
                    "/process",
                    "/root",
                    "/mounts/0",
                    "/linux",
                    "/linux/resources",
                    "/process/user",
                ] {
                    config.pointer_mut(pointer).expect("an object")["nonsense"] =
                        json!({ "deep": [1, "x"] });
                }
            });
            assert_eq!(t.run(&bundle).answer(), json!({ "said": ["runs"] }));
        },
    ),
    Case::clause(
        &["config/invalid-error"],
        "args that are a text are refused",
        |t| {
            let bundle = Bundle::new(t);
            broken_process(
                t,
                &bundle.with(|config| config["process"]["args"] = json!("/bin/true")),
            );
        },
    )
    .except(&[("crun", "1.8.1 reports success and runs nothing")]),
    invalid!(&["config/invalid-error"], "a uid below 0", |config| {
        config["process"]["user"]["uid"] = json!(-1);
    }),
    invalid!(
        &["config/invalid-error"],
        "a number of 33 bits as uid",
        |config| {
            config["process"]["user"]["uid"] = json!(4_294_967_296_u64);
        }
    ),
    Case::clause(
        &["config/invalid-error"],
        "a config.json that is no JSON is refused",
        |t| {
            for broken in ["", "{", "[]", "nonsense"] {
                let bundle = Bundle::new(t).raw_config(broken);
                assert_ne!(crate::attempt::create(t, &bundle).code, 0, "{broken}");
                let _delete = t.adopt(&bundle.id);
            }
        },
    ),
    Case::clause(
        &["runtime/environment", "runtime/create-applies"],
        "what config.json says is what the program finds",
        |t| {
            let source = t.directory.join("shared");
            std::fs::create_dir(&source).expect("mkdir");
            let bundle = Bundle::new(t)
                .mount("/mnt", "bind", text(&source), &["bind", "ro", "nosuid"])
                .with(|config| {
                    config["hostname"] = json!("conformance");
                    config["process"]["user"] =
                        json!({ "uid": 7, "gid": 8, "additionalGids": [9] });
                    config["process"]["env"] = json!(["PATH=/bin", "A=b"]);
                    config["process"]["cwd"] = json!("/data");
                    config["process"]["noNewPrivileges"] = json!(true);
                });
            let report = t.run(&bundle).answer();
            assert_eq!(report["hostname"], "conformance");
            assert_eq!(report["uids"], json!([7, 7]));
            assert_eq!(report["gids"], json!([8, 8]));
            assert_eq!(report["groups"], json!([9]));
            assert_eq!(report["cwd"], "/data");
            assert!(has(&report["env"], "A=b"));
            assert_eq!(report["no_new_privs"], 1);
            let mount = mount(&report, "/mnt");
            assert!(
                has(&mount["options"], "ro") && has(&mount["options"], "nosuid"),
                "{mount}"
            );
        },
    ),
];

/// The name of each limit, its title in /proc/PID/limits, and our own values.
fn own_limits() -> Vec<(&'static str, &'static str, u64, u64)> {
    use nix::sys::resource::{Resource, getrlimit};
    [
        ("RLIMIT_AS", "Max address space", Resource::RLIMIT_AS),
        ("RLIMIT_CORE", "Max core file size", Resource::RLIMIT_CORE),
        ("RLIMIT_CPU", "Max cpu time", Resource::RLIMIT_CPU),
        ("RLIMIT_DATA", "Max data size", Resource::RLIMIT_DATA),
        ("RLIMIT_FSIZE", "Max file size", Resource::RLIMIT_FSIZE),
        ("RLIMIT_LOCKS", "Max file locks", Resource::RLIMIT_LOCKS),
        (
            "RLIMIT_MEMLOCK",
            "Max locked memory",
            Resource::RLIMIT_MEMLOCK,
        ),
        (
            "RLIMIT_MSGQUEUE",
            "Max msgqueue size",
            Resource::RLIMIT_MSGQUEUE,
        ),
        ("RLIMIT_NICE", "Max nice priority", Resource::RLIMIT_NICE),
        ("RLIMIT_NOFILE", "Max open files", Resource::RLIMIT_NOFILE),
        ("RLIMIT_NPROC", "Max processes", Resource::RLIMIT_NPROC),
        ("RLIMIT_RSS", "Max resident set", Resource::RLIMIT_RSS),
        (
            "RLIMIT_RTPRIO",
            "Max realtime priority",
            Resource::RLIMIT_RTPRIO,
        ),
        (
            "RLIMIT_RTTIME",
            "Max realtime timeout",
            Resource::RLIMIT_RTTIME,
        ),
        (
            "RLIMIT_SIGPENDING",
            "Max pending signals",
            Resource::RLIMIT_SIGPENDING,
        ),
        ("RLIMIT_STACK", "Max stack size", Resource::RLIMIT_STACK),
    ]
    .into_iter()
    .map(|(kind, title, resource)| {
        let (soft, hard) = getrlimit(resource).expect("getrlimit");
        (kind, title, soft, hard)
    })
    .collect()
}
