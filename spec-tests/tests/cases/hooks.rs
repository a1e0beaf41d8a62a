//! The six hooks: when, where, with what, and what a failing one undoes.

use std::fs;

use serde_json::{Value, json};
use spec_tests::runtime::{text, wait_until};
use spec_tests::sys::{Before, before};
use spec_tests::{Bundle, Case, Test};

const MOMENTS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

pub(crate) const CASES: &[Case] = &[
    Case::crun("hooks run in their order around the program", |t| {
        let log = t.directory.join("order");
        let mut bundle = Bundle::new(t)
            .mount("/log", "bind", text(&t.directory), &["bind"])
            .probe(&["append", "/log/order", "program", ";", "pause"]);
        for moment in MOMENTS {
            bundle = if moment == "startContainer" {
                let hook = json!({ "path": "/bin/probe", "args": ["probe", "append", "/log/order", moment] });
                bundle.hook(moment, hook)
            } else {
                bundle.shell_hook(moment, &format!("echo {moment} >> {}", text(&log)))
            };
        }
        let container = t.create(&bundle);
        assert_eq!(
            lines(&log),
            ["prestart", "createRuntime", "createContainer"]
        );
        container.start().ok();
        wait_until("the program", || lines(&log).contains(&"program".to_owned()));
        wait_until("poststart", || lines(&log).contains(&"poststart".to_owned()));
        container.kill("KILL").ok();
        container.wait_status("stopped");
        container.delete().ok();
        let all = lines(&log);
        assert_eq!(
            all[..4],
            [
                "prestart",
                "createRuntime",
                "createContainer",
                "startContainer"
            ]
        );
        assert_eq!(all[6..], ["poststop"]);
        assert!(
            all[4..6].contains(&"program".to_owned())
                && all[4..6].contains(&"poststart".to_owned())
        );
    })
    .except(&[("runc", "1.1.5 runs poststart at create")]),
    Case::runc(
        "several hooks of one moment run in the order of the list",
        |t| {
            let log = t.directory.join("order");
            let mut bundle = Bundle::new(t).probe(&["true"]);
            for n in 1..=4 {
                bundle = bundle.shell_hook("createRuntime", &format!("echo {n} >> {}", text(&log)));
            }
            t.run(&bundle).ok();
            assert_eq!(lines(&log), ["1", "2", "3", "4"]);
        },
    ),
    Case::runc("a hook gets the state on stdin, in one line", |t| {
        for (moment, statuses) in [
            ("prestart", &["creating", "created"][..]),
            ("createRuntime", &["creating", "created"]),
            ("createContainer", &["creating", "created"]),
            ("poststop", &["stopped"]),
        ] {
            let file = t.directory.join(format!("state-{moment}"));
            let bundle = Bundle::new(t)
                .probe(&["pause"])
                .with(|config| config["annotations"] = json!({ "k": "v" }))
                .shell_hook(
                    moment,
                    &format!("cat > {0}.tmp; mv {0}.tmp {0}", text(&file)),
                );
            let container = t.start(&bundle);
            if moment == "poststop" {
                t.call(&["delete", "--force", &container.id]).ok();
            }
            wait_until("the hook", || file.exists());
            let text_of = fs::read_to_string(&file).expect("the state");
            assert_eq!(text_of.trim_end().lines().count(), 1, "{text_of}");
            let state: Value = serde_json::from_str(&text_of).expect("JSON");
            assert_eq!(state["id"], bundle.id.as_str(), "{moment}");
            assert_eq!(state["bundle"], text(&bundle.path), "{moment}");
            assert_eq!(state["annotations"], json!({ "k": "v" }), "{moment}");
            assert!(state["ociVersion"].is_string(), "{moment}");
            let status = state["status"].as_str().expect("status");
            assert!(statuses.contains(&status), "{moment}: {status}");
            let pid = state["pid"].as_i64().unwrap_or(0);
            assert_eq!(pid > 0, moment != "poststop", "{moment}: {state}");
        }
    }),
    Case::crun("poststart gets the state of a running container", |t| {
        let file = t.directory.join("state");
        let script = format!("cat > {0}.tmp; mv {0}.tmp {0}", text(&file));
        let bundle = Bundle::new(t).probe(&["pause"]).shell_hook("poststart", &script);
        let container = t.create(&bundle);
        assert!(!file.exists());
        container.start().ok();
        let state = fs::read_to_string(&file).expect("the state");
        let state: Value = serde_json::from_str(&state).expect("JSON");
        assert_eq!(state["status"], "running");
        assert_eq!(state["pid"], container.pid());
    })
    .except(&[("runc", "1.1.5 runs poststart at create")]),
    Case::runc(
        "a hook's environment is what the hook says, nothing else",
        |t| {
            let file = t.directory.join("env");
            let hook = json!({
                "path": "/bin/sh", "args": ["sh", "-c", format!("cat /proc/$$/environ > {}", text(&file))],
                "env": ["ONLY=this"],
            });
            t.run(&Bundle::new(t).probe(&["true"]).hook("createRuntime", hook))
                .ok();
            assert_eq!(fs::read_to_string(&file).expect("read"), "ONLY=this\0");
        },
    ),
    Case::runc("a hook's arguments are handed over as they are", |t| {
        let file = t.directory.join("args");
        let script = format!("echo \"$0|$1|$2\" > {}", text(&file));
        let hook = json!({ "path": "/bin/sh", "args": ["zero", "-c", script, "a b", "", "c"] });
        t.run(&Bundle::new(t).probe(&["true"]).hook("createRuntime", hook))
            .ok();
        assert_eq!(fs::read_to_string(&file).expect("read"), "a b||c\n");
    }),
    Case::runc(
        "a failing hook before start fails create and leaves nothing",
        |t| {
            for moment in ["prestart", "createRuntime", "createContainer"] {
                let bundle = Bundle::new(t)
                    .probe(&["true"])
                    .shell_hook(moment, "echo reason >&2; exit 3");
                let outcome = t.call(&["create", "-b", text(&bundle.path), &bundle.id]);
                let said = outcome.fails(1, &[&first(t, moment), "exit status 3", "reason"]);
                assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
                t.call(&["state", &bundle.id])
                    .fails(1, &["container does not exist"]);
            }
        },
    ),
    Case::kernel(
        "a process killed while a hook runs is told with the step it had come to",
        |t| {
            let kill = r#"kill -9 $(sed 's/.*"pid":\([0-9]*\).*/\1/'); sleep 0.2"#;
            let bundle = Bundle::new(t)
                .probe(&["pause"])
                .shell_hook("createRuntime", kill);
            t.run(&bundle).fails(1, &["died in step", "SIGKILL"]);
        },
    )
    .except(&[("runc", "has no word for its steps")]),
    Case::kernel("a process killed before its program fails start", |t| {
        // Without a pid namespace of its own, a hook can kill who runs it.
        let hook = json!({ "path": "/bin/probe", "args": ["probe", "kill-parent"] });
        let bundle = Bundle::new(t)
            .probe(&["create", "/data/ran", "x"])
            .without_namespace("pid")
            .hook("startContainer", hook);
        let container = t.create(&bundle);
        container
            .start()
            .fails(1, &["died before its program was executed"]);
        assert!(!bundle.rootfs().join("data/ran").exists());
    })
    .except(&[("runc", "1.1.5's start does not wait for the program")]),
    Case::runc("a failing startContainer hook fails start", |t| {
        let hook = json!({ "path": "/bin/probe", "args": ["probe", "exit", "3"] });
        let bundle = Bundle::new(t)
            .probe(&["create", "/data/ran", "x"])
            .hook("startContainer", hook);
        let container = t.create(&bundle);
        let _ = container.start();
        container.wait_status("stopped");
        assert!(!bundle.rootfs().join("data/ran").exists());
        t.run(&Bundle::new(t).probe(&["true"]).hook(
            "startContainer",
            json!({ "path": "/bin/probe", "args": ["probe", "exit", "3"] }),
        ))
        .fails(1, &[&first(t, "startContainer"), "exit status 3"]);
    }),
    Case::runc(
        "a failing poststart hook fails run and leaves nothing",
        |t| {
            let bundle = Bundle::new(t)
                .probe(&["pause"])
                .shell_hook("poststart", "exit 1");
            t.run(&bundle)
                .fails(1, &[&first(t, "poststart"), "exit status 1"]);
            t.call(&["delete", "--force", &bundle.id]).ok();
        },
    ),
    Case::crun(
        "a failing poststop hook is a warning, the others still run",
        |t| {
            let file = t.directory.join("second");
            let bundle = Bundle::new(t)
                .probe(&["true"])
                .shell_hook("poststop", "exit 1")
                .shell_hook("poststop", &format!("echo x > {}", text(&file)));
            let outcome = t.run(&bundle);
            assert_eq!(outcome.code, 0, "{outcome:?}");
            assert!(file.exists());
        },
    )
    .except(&[("runc", "1.1.5 stops at the first failing one")]),
    Case::runc("a hook that takes longer than its timeout fails", |t| {
        let hook = json!({ "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1 });
        let bundle = Bundle::new(t).probe(&["true"]).hook("createRuntime", hook);
        let limit = match t.is("rrun") {
            true => "timed out after 1 s",
            false => "ran past specified timeout of 1.0s",
        };
        t.run(&bundle)
            .fails(1, &[&first(t, "createRuntime"), limit]);
    }),
    Case::kernel("a hook's timeout kills what the hook started, too", |t| {
        let file = t.directory.join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", text(&file));
        // The file is there long before that, also on a machine under load.
        let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 5 });
        t.run(&Bundle::new(t).probe(&["true"]).hook("createRuntime", hook))
            .fails(1, &["createRuntime hook #0", "timed out after 5 s"]);
        let pid = fs::read_to_string(&file).expect("read");
        wait_until("the end", || !std::path::Path::new("/proc").join(pid.trim()).exists());
    })
    .except(&[("runc", "kills the hook alone")]),
    Case::runc(
        "a hook whose program is not there fails create with its path, and leaves nothing",
        |t| {
            for moment in ["prestart", "createRuntime", "createContainer"] {
                let bundle = missing_hook(t, moment);
                t.call(&["create", "-b", text(&bundle.path), &bundle.id])
                    .fails(1, MISSING);
                t.call(&["state", &bundle.id])
                    .fails(1, &["container does not exist"]);
                t.run(&bundle).fails(1, MISSING);
            }
        },
    ),
    Case::kernel(
        "a startContainer hook whose program is not there fails start with its path",
        |t| {
            let bundle = missing_hook(t, "startContainer").probe(&["create", "/data/ran", "x"]);
            let container = t.create(&bundle);
            container.start().fails(1, MISSING);
            container.wait_status("stopped");
            container.delete().ok();
            t.run(&bundle).fails(1, MISSING);
            assert!(!bundle.rootfs().join("data/ran").exists(), "it ran");
        },
    )
    .except(&[("runc", "1.1.5's start does not wait for the hook")]),
    Case::kernel(
        "a poststart hook whose program is not there fails start and run with its path",
        |t| {
            let bundle = missing_hook(t, "poststart");
            let container = t.create(&bundle);
            container.start().fails(1, MISSING);
            t.call(&["delete", "--force", &bundle.id]).ok();
            t.run(&bundle).fails(1, MISSING);
            t.call(&["delete", "--force", &bundle.id]).ok();
        },
    )
    .except(&[("runc", "1.1.5 runs poststart at create")]),
    Case::kernel(
        "a poststop hook whose program is not there is a warning with its path, the others still run",
        |t| {
            let file = t.directory.join("second");
            let bundle = missing_hook(t, "poststop")
                .shell_hook("poststop", &format!("echo x > {}", text(&file)));
            let container = t.start(&bundle);
            container.kill("KILL").ok();
            container.wait_status("stopped");
            let said = container.delete().ok().stderr;
            for word in MISSING {
                assert!(said.contains(word), "no `{word}` in {said}");
            }
            assert!(file.exists(), "the second one did not run");
            t.call(&["state", &bundle.id])
                .fails(1, &["container does not exist"]);
        },
    )
    .except(&[("runc", "1.1.5 stops at the first failing one")]),
    Case::runc("a hook by a relative path is refused", |t| {
        let bundle = Bundle::new(t)
            .probe(&["true"])
            .hook("createRuntime", json!({ "path": "sh" }));
        let outcome = t.run(&bundle).fails(1, &["sh"]);
        if t.is("rrun") {
            outcome.fails(1, &["hooks.createRuntime[0].path: \"sh\" is not absolute"]);
        }
    }),
    Case::runc(
        "createRuntime runs in the host's namespaces, createContainer in the container's",
        |t| {
            let ns = |name: &str| text(&t.directory.join(name)).to_owned();
            let bundle = Bundle::new(t)
                .probe(&["report"])
                .shell_hook(
                    "createRuntime",
                    &format!("readlink /proc/self/ns/mnt > {}", ns("runtime")),
                )
                .shell_hook(
                    "createContainer",
                    &format!("readlink /proc/self/ns/mnt > {}", ns("container")),
                );
            let report = t.run(&bundle).answer();
            let own = fs::read_link("/proc/self/ns/mnt").expect("readlink");
            assert_eq!(
                fs::read_to_string(ns("runtime")).expect("read").trim(),
                text(&own)
            );
            assert_eq!(
                fs::read_to_string(ns("container")).expect("read").trim(),
                report["namespaces"]["mnt"].as_str().expect("mnt")
            );
        },
    ),
    Case::kernel(
        "startContainer runs inside the container with the root and the program's environment",
        |t| {
            let hook = json!({ "path": "/bin/probe", "args": ["probe", "spawn", "/bin/probe", "report", ";", "create", "/data/hook", "x"] });
            let bundle = Bundle::new(t)
                .probe(&["read", "/data/hook"])
                .hook("startContainer", hook);
            let outcome = t.run(&bundle).ok();
            let last = outcome.answers().pop().expect("an answer");
            assert_eq!(last, json!({ "text": "x" }));
        },
    ),
    Case::kernel("a hook may leave its input unread", |t| {
        // More than a pipe holds, so it is the writer who notices. Without a
        // pid namespace nothing guards the container from SIGPIPE.
        for moment in ["prestart", "createContainer", "startContainer"] {
            // 3 is close(2).
            let closes = "probe syscall 3 0 ; sleep 200";
            let hook = match moment {
                "startContainer" => {
                    json!({ "path": "/bin/probe", "args": closes.split(' ').collect::<Vec<_>>() })
                }
                _ => json!({ "path": "/bin/sh", "args": ["sh", "-c", "exec <&-; sleep 0.2"] }),
            };
            let bundle = Bundle::new(t)
                .without_namespace("pid")
                .with(|config| config["annotations"] = json!({ "long": "x".repeat(200_000) }))
                .hook(moment, hook)
                .probe(&["sleep", "100", ";", "exit", "7"]);
            let outcome = t.run(&bundle);
            assert_eq!(outcome.code, 7, "{moment}: {}", outcome.stderr);
        }
    })
    .except(&[("runc", "1.1.5 hands its own SIGPIPE on to the container")]),
    Case::kernel("a hook inherits stdio and no other descriptor", |t| {
        let inside = json!({ "path": "/bin/probe", "args": ["probe", "stdio-only"] });
        // Not what the runtime was given for nothing, nor what the container keeps.
        for (number, preserved) in [(7, "0"), (3, "1")] {
            let file = t.directory.join("fds");
            let list = format!("exec >> {}; ls /proc/$$/fd; echo end", text(&file));
            // Its /proc is not of its pid namespace.
            let probe = format!(
                "exec >> {}; for n in 0 1 2 3 4 5 6 7 8 9; do (: <&$n) 2>/dev/null && echo $n; done; echo end",
                text(&file)
            );
            let bundle = Bundle::new(t)
                .probe(&["true"])
                .shell_hook("prestart", &list)
                .shell_hook("createRuntime", &list)
                .shell_hook("createContainer", &probe)
                .shell_hook("poststart", &list)
                .shell_hook("poststop", &list)
                .hook("startContainer", inside.clone());
            let host = fs::File::open(&t.directory).expect("open");
            let args = ["run", "--preserve-fds", preserved, "-b", text(&bundle.path), &bundle.id];
            let mut command = t.command(&args);
            before(&mut command, Before::Descriptor(host.into(), number));
            t.spawn(&mut command).wait().ok();
            let open = fs::read_to_string(&file).expect("read");
            assert_eq!(open, "0\n1\n2\nend\n".repeat(5), "{number}");
            fs::remove_file(&file).expect("remove");
        }
    }),
    Case::runc("a hook sees the cgroup of the container in place", |t| {
        let file = t.directory.join("cgroup");
        let bundle = Bundle::new(t).probe(&["pause"]);
        let id = bundle.id.clone();
        let path = if t.view == "v2" {
            t.cgroup("", &id)
        } else {
            t.cgroup("pids", &id)
        };
        let script = format!("cat {}/cgroup.procs > {}", text(&path), text(&file));
        let container = t.create(&bundle.shell_hook("createRuntime", &script));
        assert_eq!(
            fs::read_to_string(&file).expect("read").trim(),
            container.pid().to_string()
        );
    }),
];

/// How the first hook of a moment is named; runc leaves out of which.
fn first(t: &Test, moment: &str) -> String {
    match t.is("rrun") {
        true => format!("{moment} hook #0"),
        false => "hook #0".to_owned(),
    }
}

const MISSING: &[&str] = &["/no/such/hook", "no such file or directory"];

/// With a hook of this moment that is nowhere.
fn missing_hook(t: &Test, moment: &str) -> Bundle {
    Bundle::new(t)
        .probe(&["pause"])
        .hook(moment, json!({ "path": "/no/such/hook" }))
}

fn lines(path: &std::path::Path) -> Vec<String> {
    fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}
