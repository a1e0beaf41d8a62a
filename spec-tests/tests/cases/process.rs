//! `process` of config.json: how the program finds itself started.

use serde_json::{Value, json};
use spec_tests::runtime::text;
use spec_tests::sys::{Before, before};
use spec_tests::{Bundle, Case};

pub(crate) const CASES: &[Case] = &[
    Case::kernel(
        "signals are default and unblocked, whatever the runtime inherited",
        |t| {
            // SIGHUP 1, SIGPIPE 13, SIGCHLD 17: Rust ignores SIGPIPE, shells SIGHUP.
            let alone = Bundle::new(t);
            assert_default_signals(&t.run(&alone).answer());
            for signal in [1, 13, 17, 15, 10] {
                for block in [false, true] {
                    let bundle = Bundle::new(t);
                    let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
                    let step = if block {
                        Before::Block(signal)
                    } else {
                        Before::Ignore(signal)
                    };
                    before(&mut command, step);
                    let report = t.spawn(&mut command).wait().answer();
                    assert_default_signals(&report);
                }
            }
        },
    )
    .except(&[("runc", "hands ignored and blocked signals on")]),
    Case::runc("the same facts of the process as under the oracle", |t| {
        let report = t.run(&Bundle::new(t)).answer();
        assert_eq!(report["pid"], 1);
        assert_eq!(report["ppid"], 0);
        assert_eq!(report["sid"], 1);
        assert_eq!(report["pgid"], 1);
        assert_eq!(report["umask"], "0022");
        assert_eq!(report["uids"], json!([0, 0]));
        assert_eq!(report["gids"], json!([0, 0]));
        assert_eq!(report["groups"], json!([]));
        assert_eq!(report["cwd"], "/");
        assert_eq!(report["keepcaps"], 0);
        assert_eq!(report["securebits"], 0);
        assert_eq!(report["no_new_privs"], 1);
        assert_eq!(report["personality"], 0);
        // The older kernel of the tests is a filter.
        let filtered = ["2", "0"][usize::from(t.without.is_empty())];
        assert_eq!(report["status"]["Seccomp"], filtered);
        assert_eq!(report["tty"]["controlling"], Value::Null);
        let open = report["descriptors"].as_object().expect("descriptors");
        assert_eq!(open.keys().collect::<Vec<_>>(), ["0", "1", "2"]);
    }),
    Case::runc("the caller's umask is not handed on", |t| {
        let bundle = Bundle::new(t);
        let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
        before(&mut command, Before::Umask(0o077));
        assert_eq!(t.spawn(&mut command).wait().answer()["umask"], "0022");
    }),
    Case::runc("user.umask is set", |t| {
        let bundle =
            Bundle::new(t).with(|config| config["process"]["user"]["umask"] = json!(0o027));
        assert_eq!(t.run(&bundle).answer()["umask"], "0027");
    }),
    Case::runc("args arrive as they are, with empty and odd ones", |t| {
        let words = ["/bin/probe", "report"];
        let report = t.run(&Bundle::new(t).args(&words)).answer();
        assert_eq!(report["args"], json!(words));
        let said = ["", " ", "ä\u{1F980}", "a\nb", "$HOME", "'\""];
        let mut words = vec!["say"];
        words.extend(said);
        assert_eq!(
            t.run(&Bundle::new(t).probe(&words)).answer(),
            json!({ "said": said })
        );
    }),
    Case::runc(
        "a program without a slash is looked up in the container's PATH",
        |t| {
            let bundle = Bundle::new(t).args(&["probe", "say", "x"]).with(|config| {
                config["process"]["env"] = json!(["PATH=/nosuch:/bin"]);
            });
            assert_eq!(t.run(&bundle).answer(), json!({ "said": ["x"] }));
        },
    ),
    Case::kernel(
        "a program with a relative path is found from the working directory",
        |t| {
            let bundle = Bundle::new(t)
                .args(&["./probe", "say", "x"])
                .with(|config| config["process"]["cwd"] = json!("/bin"));
            assert_eq!(t.run(&bundle).answer(), json!({ "said": ["x"] }));
        },
    ),
    Case::runc(
        "env arrives, the last of a name wins, HOME comes from the container's passwd",
        |t| {
            let bundle = Bundle::new(t)
                .file(
                    "etc/passwd",
                    "root:x:0:0::/root/home:/bin/sh\nweb:x:1000:1000::/srv/web:/bin/sh\n",
                )
                .with(|config| {
                    config["process"]["env"] = json!(["PATH=/bin", "A=1", "A=2", "EMPTY="]);
                });
            let report = t.run(&bundle).answer();
            let env = report["env"].as_array().expect("env").clone();
            assert!(
                env.contains(&json!("A=2")) && !env.contains(&json!("A=1")),
                "{env:?}"
            );
            assert!(env.contains(&json!("EMPTY=")), "{env:?}");
            assert!(env.contains(&json!("HOME=/root/home")), "{env:?}");
            let bundle = Bundle::new(t)
                .file(
                    "etc/passwd",
                    "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/srv/web:/bin/sh\n",
                )
                .with(|config| config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 }));
            let env = t.run(&bundle).answer()["env"].clone();
            assert!(
                env.as_array()
                    .expect("env")
                    .contains(&json!("HOME=/srv/web")),
                "{env}"
            );
        },
    ),
    Case::runc("a HOME that is given stays", |t| {
        let bundle = Bundle::new(t)
            .with(|config| config["process"]["env"] = json!(["PATH=/bin", "HOME=/mine"]));
        let env = t.run(&bundle).answer()["env"].clone();
        assert!(
            env.as_array().expect("env").contains(&json!("HOME=/mine")),
            "{env}"
        );
    }),
    Case::runc(
        "nothing of the runtime's own environment is handed on",
        |t| {
            let bundle = Bundle::new(t);
            let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
            command
                .env("SECRET_OF_THE_HOST", "x")
                .env("_LIBCONTAINER_TEST", "x");
            let report = t.spawn(&mut command).wait().answer();
            let mut env: Vec<&str> = report["env"]
                .as_array()
                .expect("env")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            env.sort_unstable();
            assert_eq!(env, ["HOME=/", "PATH=/bin:/usr/bin", "TERM=xterm"]);
        },
    ),
    Case::runc(
        "the working directory is entered, and made when it is missing",
        |t| {
            for cwd in ["/data", "/made/deep/here"] {
                let bundle = Bundle::new(t).with(|config| config["process"]["cwd"] = json!(cwd));
                assert_eq!(t.run(&bundle).answer()["cwd"], cwd);
            }
        },
    ),
    Case::kernel(
        "a working directory that only the user may enter is entered",
        |t| {
            use std::os::unix::fs::PermissionsExt;
            let bundle = Bundle::new(t).with(|config| {
                config["process"]["cwd"] = json!("/data");
                config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
            });
            let data = bundle.rootfs().join("data");
            std::os::unix::fs::chown(&data, Some(1000), Some(1000)).expect("chown");
            std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).expect("chmod");
            assert_eq!(t.run(&bundle).answer()["cwd"], "/data");
        },
    ),
    Case::kernel(
        "a working directory by /proc/self/fd/N never reaches the host",
        |t| {
            // CVE-2024-21626.
            let bundle = Bundle::new(t);
            for number in 3..64 {
                let cwd = format!("/proc/self/fd/{number}");
                let bundle = bundle
                    .clone()
                    .with(|config| config["process"]["cwd"] = json!(cwd));
                let outcome = t.run(&bundle).fails(1, &[&cwd]);
                assert_eq!(outcome.stdout, "", "it ran");
            }
        },
    ),
    Case::runc("user, group and additional groups are set", |t| {
        let bundle = Bundle::new(t).with(|config| {
            config["process"]["user"] =
                json!({ "uid": 1000, "gid": 1001, "additionalGids": [5, 20000] });
        });
        let report = t.run(&bundle).answer();
        assert_eq!(report["uids"], json!([1000, 1000]));
        assert_eq!(report["gids"], json!([1001, 1001]));
        assert_eq!(report["groups"], json!([5, 20000]));
    }),
    Case::kernel("the groups of the runtime are not handed on", |t| {
        let bundle = Bundle::new(t);
        let mut command = std::process::Command::new("setpriv");
        command
            .args(["--groups", "4,24"])
            .arg(&t.runtime)
            .arg("--root")
            .arg(&t.root);
        command.args(["run", "-b", text(&bundle.path), &bundle.id]);
        assert_eq!(t.spawn(&mut command).wait().answer()["groups"], json!([]));
    }),
    Case::runc("the five capability sets are as asked", |t| {
        let bundle = Bundle::new(t).with(|config| {
            config["process"]["capabilities"] = json!({
                "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"],
                "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
                "effective": ["CAP_CHOWN", "CAP_KILL"],
                "inheritable": ["CAP_KILL", "CAP_CHOWN"],
                "ambient": ["CAP_KILL"],
            });
            config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        });
        // For a user other than root execve makes permitted and effective from
        // ambient. CHOWN 0, KILL 5, SETUID 7, NET_RAW 13.
        let status = t.run(&bundle).answer()["status"].clone();
        assert_eq!(status["CapBnd"], "00000000000020a1");
        assert_eq!(status["CapInh"], "0000000000000021");
        assert_eq!(status["CapAmb"], "0000000000000020");
        assert_eq!(status["CapPrm"], "0000000000000020");
        assert_eq!(status["CapEff"], "0000000000000020");
    }),
    Case::runc("root without capabilities has none", |t| {
        let bundle = Bundle::new(t).with(|config| {
            config["process"]["capabilities"] = json!({
                "bounding": [], "permitted": [], "effective": [], "inheritable": [], "ambient": [],
            });
        });
        let status = t.run(&bundle).answer()["status"].clone();
        for name in ["CapBnd", "CapInh", "CapAmb", "CapPrm", "CapEff"] {
            assert_eq!(status[name], "0000000000000000", "{name}");
        }
    }),
    Case::kernel(
        "a capability that is unknown or can't be granted is a warning, the program runs",
        |t| {
            // CAP_SYS_RESOURCE 24 is what root lacks on some machines; where it
            // has it, it is granted.
            let bundle = Bundle::new(t).with(|config| {
                let names = json!(["CAP_KILL", "CAP_NO_SUCH_THING", "CAP_SYS_RESOURCE"]);
                for set in ["bounding", "permitted", "effective"] {
                    config["process"]["capabilities"][set] = names.clone();
                }
            });
            let outcome = t.run(&bundle);
            assert_eq!(outcome.code, 0, "{outcome:?}");
            let report = outcome.answers().remove(0);
            let own = spec_tests::sys::capabilities();
            let wanted = (1 << 5) | (own & (1 << 24));
            assert_eq!(report["status"]["CapEff"], format!("{wanted:016x}"));
        },
    )
    .except(&[("runc", "dies of a capability that can't be granted")]),
    Case::runc("rlimits are set for the program", |t| {
        let bundle = Bundle::new(t).with(|config| {
            config["process"]["rlimits"] = json!([
                { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
                { "type": "RLIMIT_CORE", "soft": 0, "hard": 4096 },
                { "type": "RLIMIT_NPROC", "soft": 50, "hard": 60 },
            ]);
        });
        let limits = t.run(&bundle).answer()["limits"].clone();
        assert_eq!(limits["Max open files"], json!(["100", "200"]));
        assert_eq!(limits["Max core file size"], json!(["0", "4096"]));
        assert_eq!(limits["Max processes"], json!(["50", "60"]));
    }),
    Case::kernel("a low RLIMIT_NOFILE does not break the set-up", |t| {
        let bundle = Bundle::new(t).probe(&["say", "x"]).with(|config| {
            config["process"]["rlimits"] =
                json!([{ "type": "RLIMIT_NOFILE", "soft": 4, "hard": 4 }]);
        });
        t.run(&bundle).ok();
    })
    .except(&[("runc", "needs about ten descriptors after it set the limit")]),
    Case::runc("an unknown or a doubled rlimit is refused", |t| {
        let bundle = Bundle::new(t).with(|config| {
            config["process"]["rlimits"] =
                json!([{ "type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1 }]);
        });
        t.run(&bundle).fails(1, &["RLIMIT_NONSENSE"]);
    }),
    Case::kernel("a doubled rlimit is refused", |t| {
        let limit = json!({ "type": "RLIMIT_CORE", "soft": 1, "hard": 1 });
        let bundle =
            Bundle::new(t).with(|config| config["process"]["rlimits"] = json!([limit, limit]));
        t.run(&bundle).fails(1, &["RLIMIT_CORE"]);
    })
    .except(&[("runc", "1.1.5 takes the last")]),
    Case::runc("oomScoreAdj is set when given, else untouched", |t| {
        let bundle = Bundle::new(t).with(|config| config["process"]["oomScoreAdj"] = json!(500));
        assert_eq!(t.run(&bundle).answer()["oom_score_adj"], "500");
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").expect("read");
        assert_eq!(t.run(&Bundle::new(t)).answer()["oom_score_adj"], own.trim());
    }),
    Case::runc("noNewPrivileges false leaves the bit off", |t| {
        let bundle =
            Bundle::new(t).with(|config| config["process"]["noNewPrivileges"] = json!(false));
        assert_eq!(t.run(&bundle).answer()["no_new_privs"], 0);
    }),
    Case::crun("personality LINUX32 changes what uname says", |t| {
        let bundle = Bundle::new(t)
            .with(|config| config["linux"]["personality"] = json!({ "domain": "LINUX32" }));
        let report = t.run(&bundle).answer();
        assert_eq!(report["personality"], 8);
        assert_eq!(report["machine"], "i686");
    })
    .except(&[("runc", "1.2 brought it")]),
    Case::kernel("scheduler and ioPriority are set", |t| {
        let bundle = Bundle::new(t)
            .probe(&["syscall", "145", "0", ";", "syscall", "252", "1", "0"])
            .with(|config| {
                config["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
                config["process"]["ioPriority"] =
                    json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 });
            });
        let answers = t.run(&bundle).ok().answers();
        // SCHED_BATCH is 3; class 2 << 13 | 6.
        assert_eq!(answers[0], json!({ "value": 3 }));
        assert_eq!(answers[1], json!({ "value": (2 << 13) | 6 }));
    })
    .except(&[("runc", "1.2 brought them")]),
    Case::runc(
        "stdio belongs to the program's user, except /dev/null",
        |t| {
            let bundle = Bundle::new(t)
                .probe(&["open", "/proc/self/fd/1", "1"])
                .with(|config| config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 }));
            // Stdout is a file of ours, mode 0644: opening it again for writing
            // needs the ownership.
            assert_eq!(t.run(&bundle).answer(), json!({ "ok": true }));
            use std::os::unix::fs::MetadataExt;
            assert_eq!(std::fs::metadata("/dev/null").expect("stat").uid(), 0);
        },
    ),
    Case::kernel("set-up leaves the program dumpable as exec makes it", |t| {
        assert_eq!(t.run(&Bundle::new(t)).answer()["dumpable"], 1);
    }),
];

fn assert_default_signals(report: &Value) {
    let status = &report["status"];
    assert_eq!(status["SigBlk"], "0000000000000000");
    // The probe is a Rust program, whose own start ignores SIGPIPE (bit 12).
    assert_eq!(status["SigIgn"], "0000000000001000");
}
