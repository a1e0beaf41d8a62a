//! `exec`: with flags, with a process.json, its exit codes and refusals.

use std::fs;

use serde_json::{Value, json};
use spec_tests::runtime::{text, wait_until};
use spec_tests::sys::{Before, before};
use spec_tests::terminal::{Receiver, Terminal};
use spec_tests::{Bundle, Case, Container, Needs, Test};

pub(crate) const CASES: &[Case] = &[
    Case::runc("exec returns the program's exit code and its output", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        for code in [0, 1, 9, 126, 127] {
            let outcome = container.probe(&[], &["say", "x", ";", "exit", &code.to_string()]);
            assert_eq!(outcome.code, code);
            assert_eq!(outcome.answers(), [json!({ "said": ["x"] })]);
        }
    }),
    Case::runc(
        "exec returns 128 + n when signal n killed the program",
        |t| {
            let bundle = paused(t);
            let container = t.start(&bundle);
            for signal in [9, 15, 6] {
                assert_eq!(
                    container.probe(&[], &["kill", &signal.to_string()]).code,
                    128 + signal
                );
            }
        },
    ),
    Case::runc(
        "exec is in every namespace and every cgroup of the container",
        |t| {
            let bundle = Bundle::new(t).probe(&["report", ";", "pause"]);
            let container = t.start(&bundle);
            container.wait_for("namespaces");
            let init = container.answers().remove(0);
            let exec = container.probe(&[], &["report"]).answer();
            assert_eq!(exec["namespaces"], init["namespaces"]);
            assert_eq!(exec["cgroup"], init["cgroup"]);
            assert_eq!(exec["mounts"], init["mounts"]);
            assert_eq!(exec["hostname"], "probe");
        },
    ),
    Case::runc(
        "exec starts like init: signals, umask, session, capabilities, limits",
        |t| {
            let bundle = Bundle::new(t).probe(&["report", ";", "pause"]);
            let container = t.start(&bundle);
            container.wait_for("namespaces");
            let init = container.answers().remove(0);
            let exec = container.probe(&[], &["report"]).answer();
            for name in [
                "umask",
                "env",
                "cwd",
                "uids",
                "gids",
                "groups",
                "limits",
                "personality",
                "no_new_privs",
                "keepcaps",
                "securebits",
                "oom_score_adj",
            ] {
                assert_eq!(exec[name], init[name], "{name}");
            }
            for name in [
                "SigIgn", "SigBlk", "SigCgt", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp",
            ] {
                assert_eq!(exec["status"][name], init["status"][name], "{name}");
            }
            assert_eq!(exec["pid"], exec["sid"]);
            assert_eq!(exec["pid"], exec["pgid"]);
            let open = exec["descriptors"].as_object().expect("descriptors");
            assert_eq!(open.keys().collect::<Vec<_>>(), ["0", "1", "2"]);
        },
    ),
    Case::kernel("inheritable capabilities of exec stay empty", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let exec = container
            .probe(&["--cap", "CAP_KILL"], &["report"])
            .answer();
        assert_eq!(exec["status"]["CapInh"], "0000000000000000");
    }),
    Case::runc("exec --cwd and --env", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let flags = ["--cwd", "/data", "--env", "A=1", "--env", "B=two words"];
        let report = container.probe(&flags, &["report"]).answer();
        assert_eq!(report["cwd"], "/data");
        let env = report["env"].as_array().expect("env");
        for pair in [
            "A=1",
            "B=two words",
            "TERM=xterm",
            "PATH=/bin:/usr/bin",
            "HOME=/",
        ] {
            assert!(env.contains(&json!(pair)), "{pair}: {env:?}");
        }
    }),
    Case::runc("exec --user by number, with and without group", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let report = container
            .probe(&["--user", "1000:2000"], &["report"])
            .answer();
        assert_eq!(report["uids"], json!([1000, 1000]));
        assert_eq!(report["gids"], json!([2000, 2000]));
        let report = container.probe(&["-u", "1000"], &["report"]).answer();
        assert_eq!(report["uids"], json!([1000, 1000]));
        assert_eq!(report["gids"], json!([0, 0]));
        assert_eq!(report["status"]["CapEff"], "0000000000000000");
    }),
    Case::runc("exec --additional-gids", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let flags = ["--user", "1000:1000", "-g", "100", "-g", "65000"];
        let report = container.probe(&flags, &["report"]).answer();
        assert_eq!(report["groups"], json!([100, 65000]));
    }),
    Case::runc("exec --cap adds to what the process has", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let report = container
            .probe(&["--cap", "CAP_SYS_CHROOT"], &["report"])
            .answer();
        // KILL 5, NET_BIND_SERVICE 10, SYS_CHROOT 18, AUDIT_WRITE 29.
        assert_eq!(report["status"]["CapEff"], "0000000020040420");
        assert_eq!(report["status"]["CapBnd"], "0000000020040420");
    }),
    Case::runc("exec --no-new-privs", |t| {
        let bundle = paused(t).with(|config| config["process"]["noNewPrivileges"] = json!(false));
        let container = t.start(&bundle);
        assert_eq!(
            container.probe(&[], &["report"]).answer()["no_new_privs"],
            0
        );
        assert_eq!(
            container.probe(&["--no-new-privs"], &["report"]).answer()["no_new_privs"],
            1
        );
    }),
    Case::runc("exec with a process.json", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let path = process(
            t,
            &json!({
                "args": ["/bin/probe", "report"], "cwd": "/tmp", "env": ["PATH=/bin", "X=y"],
                "user": { "uid": 7, "gid": 8, "additionalGids": [9, 10] },
                "noNewPrivileges": true, "oomScoreAdj": 300,
                "rlimits": [{ "type": "RLIMIT_CORE", "soft": 1, "hard": 2 }],
                "capabilities": { "bounding": ["CAP_CHOWN"] },
            }),
        );
        let report = t
            .call(&["exec", "--process", &path, &container.id])
            .answer();
        assert_eq!(report["cwd"], "/tmp");
        assert_eq!(report["uids"], json!([7, 7]));
        assert_eq!(report["gids"], json!([8, 8]));
        assert_eq!(report["groups"], json!([9, 10]));
        assert_eq!(report["no_new_privs"], 1);
        assert_eq!(report["limits"]["Max core file size"], json!(["1", "2"]));
        assert_eq!(report["status"]["CapBnd"], "0000000000000001");
        assert_eq!(report["status"]["CapEff"], "0000000000000000");
        let env = report["env"].as_array().expect("env");
        assert!(
            env.contains(&json!("X=y")) && !env.contains(&json!("TERM=xterm")),
            "{env:?}"
        );
    }),
    Case::kernel("exec sets the oomScoreAdj of its process.json", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let path = process(
            t,
            &json!({
                "args": ["/bin/probe", "report"], "cwd": "/", "env": ["PATH=/bin"],
                "user": { "uid": 0, "gid": 0 }, "oomScoreAdj": 300,
            }),
        );
        let report = t.call(&["exec", "-p", &path, &container.id]).answer();
        assert_eq!(report["oom_score_adj"], "300");
    })
    .except(&[("runc", "1.1.5 sets it for init only")]),
    Case::runc(
        "exec with a process.json that is missing or broken is refused",
        |t| {
            let bundle = paused(t);
            let container = t.start(&bundle);
            t.call(&["exec", "-p", "/no/such/process.json", &container.id])
                .fails(255, &["/no/such/process.json", "no such file or directory"]);
            let path = t.directory.join("broken.json");
            fs::write(&path, "{").expect("write");
            let said = t
                .call(&["exec", "-p", text(&path), &container.id])
                .fails(255, &[])
                .stderr;
            let words = match t.is("rrun") {
                true => "EOF while parsing an object at line 1 column 1",
                false => "unexpected EOF",
            };
            assert!(said.contains(words), "{said}");
        },
    ),
    Case::runc(
        "exec that fails returns 255 with the text that makes 127 or 126",
        |t| {
            let bundle = paused(t).file("data/plain", "text");
            let container = t.start(&bundle);
            let exec = |program: &str| t.call(&["exec", &container.id, program]);
            exec("nosuchprogram").fails(
                255,
                &["nosuchprogram", "executable file not found in $PATH"],
            );
            exec("/no/such").fails(255, &["/no/such", "no such file or directory"]);
            exec("/data/plain").fails(255, &["/data/plain", "permission denied"]);
        },
    ),
    Case::runc("exec without a program is refused", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let outcome = t.call(&["exec", &container.id]);
        assert_ne!(outcome.code, 0);
        assert!(
            outcome.stderr.contains("process args cannot be empty"),
            "{outcome:?}"
        );
    }),
    Case::kernel("exec as a user that is no number is refused", |t| {
        let container = t.start(&paused(t));
        for user in ["1x", "+1", "4294967296", "-1", "root"] {
            container
                .probe(&["--user", user], &["true"])
                .fails(255, &["--user", user]);
        }
    })
    .except(&[("runc", "1.1.5 takes what Go's Atoi takes")]),
    Case::runc("exec into a stopped container is refused", |t| {
        let bundle = Bundle::new(t).probe(&["exit", "0"]);
        let container = t.start(&bundle);
        container.wait_status("stopped");
        container
            .probe(&[], &["true"])
            .fails(255, &["cannot exec in a stopped container"]);
    }),
    Case::runc("exec into a paused container is refused", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        t.call(&["pause", &container.id]).ok();
        container.probe(&[], &["true"]).fails(
            255,
            &["cannot exec in a paused container (use --ignore-paused to override)"],
        );
    }),
    Case::kernel(
        "exec --ignore-paused waits in the frozen cgroup until resume",
        |t| {
            let bundle = paused(t);
            let container = t.start(&bundle);
            t.call(&["pause", &container.id]).ok();
            let args = [
                "exec",
                "--ignore-paused",
                &container.id,
                "/bin/probe",
                "say",
                "late",
            ];
            let mut running = t.spawn(&mut t.command(&args));
            let controller = if t.view == "v2" { "" } else { "freezer" };
            wait_until("it is in the frozen cgroup", || {
                t.knob(controller, &container.id, "cgroup.procs")
                    .lines()
                    .count()
                    == 2
            });
            assert!(running.is_running());
            assert_eq!(running.stdout(), "");
            t.call(&["resume", &container.id]).ok();
            assert_eq!(running.wait().answer(), json!({ "said": ["late"] }));
        },
    ),
    Case::runc("exec into a created container works", |t| {
        let bundle = paused(t);
        let container = t.create(&bundle);
        container.probe(&[], &["say", "x"]).ok();
        assert_eq!(container.status(), "created");
    }),
    Case::runc("exec --detach with --pid-file", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let pid_file = t.directory.join("pid");
        container
            .probe(&["--detach", "--pid-file", text(&pid_file)], &["pause"])
            .ok();
        let pid = fs::read_to_string(&pid_file).expect("the pid file");
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("cmdline");
        assert_eq!(line, "/bin/probe\0pause\0");
        let all = t.call(&["ps", "-f", "json", &container.id]).json();
        assert!(
            all.as_array()
                .expect("pids")
                .contains(&json!(pid.parse::<i32>().expect("pid")))
        );
    }),
    Case::runc("exec forwards signals to the program", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let args = ["exec", &container.id, "/bin/probe", "await", "15", "10"];
        let mut running = t.spawn(&mut t.command(&args));
        running.wait_for("ready");
        let pid = nix::unistd::Pid::from_raw(running.pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).expect("kill");
        assert_eq!(running.wait().ok().answers()[1], json!({ "signal": 10 }));
    }),
    Case::runc("exec --tty over a console socket", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let receiver = Receiver::new(&t.directory.join("console.sock"));
        let flags = [
            "--tty",
            "--console-socket",
            text(&receiver.path),
            "--detach",
        ];
        container.probe(&flags, &["report"]).ok();
        let mut terminal = Terminal::of(receiver.receive().1);
        terminal.wait_end();
        let report: Value = serde_json::from_str(terminal.text().trim()).expect("JSON");
        assert_eq!(report["tty"]["stdin"], true);
        assert_eq!(report["tty"]["stdout"], true);
        assert!(
            report["tty"]["controlling"]
                .as_str()
                .expect("tty")
                .starts_with("136:")
        );
        assert_eq!(report["sid"], report["pid"]);
    }),
    Case::runc("exec --tty on a terminal in the foreground", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let (mut terminal, slave) = Terminal::pair(30, 90);
        let args = [
            "exec",
            "-t",
            &container.id,
            "/bin/probe",
            "await-window",
            "30",
            "90",
            ";",
            "line",
            ";",
            "exit",
            "5",
        ];
        let mut command = t.command(&args);
        let stdio = || std::process::Stdio::from(slave.try_clone().expect("dup"));
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        before(&mut command, Before::Terminal);
        let mut child = command.spawn().expect("spawn");
        terminal.wait_for("[30,90]");
        terminal.write("typed\n");
        terminal.wait_for("\"line\":\"typed\"");
        assert_eq!(child.wait().expect("wait").code(), Some(5));
        assert!(!terminal.is_raw());
    }),
    Case::runc("exec --preserve-fds", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let path = t.directory.join("three");
        fs::write(&path, "three").expect("write");
        let args = [
            "exec",
            "--preserve-fds",
            "1",
            &container.id,
            "/bin/probe",
            "keep",
            "3",
        ];
        let mut command = t.command(&args);
        let file = fs::File::open(path).expect("open");
        before(&mut command, Before::Descriptor(file.into(), 3));
        assert_eq!(
            t.spawn(&mut command).wait().answer(),
            json!({ "text": "three" })
        );
    }),
    Case::runc("exec --cgroup goes below the container's cgroup", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let sub = t.cgroup("pids", &container.id).join("sub");
        fs::create_dir(&sub).expect("mkdir");
        let report = container
            .probe(&["--cgroup", "pids:sub"], &["report"])
            .answer();
        let cgroup = report["cgroup"].as_str().expect("cgroup");
        assert!(
            cgroup.contains(&format!("pids:/{}/sub", container.id)),
            "{cgroup}"
        );
        assert!(
            !cgroup.contains(&format!("memory:/{}/sub", container.id)),
            "{cgroup}"
        );
        let outcome = container.probe(&["--cgroup", "pids:nosuch"], &["true"]);
        assert_eq!(outcome.code, 255, "{outcome:?}");
        let outcome = container.probe(&["--cgroup", "pids:../.."], &["true"]);
        assert_eq!(outcome.code, 255, "{outcome:?}");
    })
    .needs(Needs::V1),
    Case::kernel(
        "exec --cgroup on v2 goes below the container's cgroup, never above",
        |t| {
            let bundle = paused(t);
            let container = t.start(&bundle);
            fs::create_dir(t.cgroup("", &container.id).join("sub")).expect("mkdir");
            let report = container.probe(&["--cgroup", "sub"], &["report"]).answer();
            let cgroup = report["cgroup"].as_str().expect("cgroup");
            assert!(
                cgroup.contains(&format!("0::/{}/sub", container.id)),
                "{cgroup}"
            );
            let outcome = container.probe(&["--cgroup", "../.."], &["true"]);
            assert_eq!(outcome.code, 255, "{outcome:?}");
        },
    )
    .needs(Needs::V2)
    .except(&[
        (
            "runc@hybrid",
            "there the path belongs to every v1 controller",
        ),
        (
            "rrun@hybrid",
            "there the path belongs to every v1 controller",
        ),
    ]),
    Case::runc(
        "exec into a working directory that is missing is refused",
        |t| {
            let bundle = paused(t);
            let container = t.start(&bundle);
            container
                .probe(&["--cwd", "/data/made/here"], &["true"])
                .fails(255, &["/data/made/here", "no such file or directory"]);
        },
    ),
    Case::crun("exec sets the umask of its process.json", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let process_json = json!({
            "args": ["/bin/probe", "report"], "cwd": "/", "env": ["PATH=/bin"],
            "user": { "uid": 0, "gid": 0, "umask": 0o077 },
        });
        let path = process(t, &process_json);
        assert_eq!(
            t.call(&["exec", "-p", &path, &container.id]).answer()["umask"],
            "0077"
        );
    })
    .except(&[("runc", "1.1.5 sets it for init only")]),
    Case::runc("exec with a relative working directory is refused", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        container
            .probe(&["--cwd", "data"], &["true"])
            .fails(255, &["absolute"]);
    }),
    Case::runc(
        "exec with a working directory in /proc/self/fd never sees the host",
        |t| {
            let bundle = paused(t);
            let container = t.start(&bundle);
            for number in 3..64 {
                let cwd = format!("/proc/self/fd/{number}");
                let outcome = container.probe(&["--cwd", &cwd], &["report"]);
                let outcome = outcome.fails(255, &[&cwd]);
                assert_eq!(outcome.stdout, "", "it ran");
            }
        },
    ),
    Case::kernel("exec joins the user namespace with its ids", |t| {
        let bundle = paused(t).in_user_namespace(100_000);
        let container = t.start(&bundle);
        let report = container.probe(&["--user", "5:6"], &["report"]).answer();
        assert_eq!(report["uids"], json!([5, 5]));
        assert_eq!(report["gids"], json!([6, 6]));
        let map = report["uid_map"].as_str().expect("uid_map");
        assert_eq!(
            map.split_whitespace().collect::<Vec<_>>(),
            ["0", "100000", "65536"]
        );
    }),
    Case::runc("exec under seccomp: the container's profile holds", |t| {
        let bundle = paused(t).with(|config| {
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77 }],
            });
        });
        let container = t.start(&bundle);
        let outcome = container.probe(&[], &["mkdir", "/data/new"]);
        assert_eq!(outcome.answer(), json!({ "errno": 77 }));
    }),
    Case::kernel("parallel execs each get their own exit code", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        let all: Vec<_> = (0..16)
            .map(|n| {
                let args = ["exec", &container.id, "/bin/probe", "exit", &n.to_string()];
                t.spawn(&mut t.command(&args))
            })
            .collect();
        for (n, one) in all.into_iter().enumerate() {
            assert_eq!(one.wait().code, n as i32);
        }
    }),
    Case::runc("execs of `true` never hang and never fail", |t| {
        let bundle = paused(t);
        let container = t.start(&bundle);
        for _ in 0..t.rounds(1000, 30) {
            let outcome = t.call(&["exec", &container.id, "true"]).ok();
            assert_eq!(
                (outcome.stdout, outcome.stderr),
                (String::new(), String::new())
            );
        }
    }),
    Case::kernel(
        "an exec's process that outlives it is the container's",
        |t| {
            let bundle = paused(t);
            let container: Container<'_> = t.start(&bundle);
            let outcome = container.probe(&[], &["orphan", ";", "exit", "2"]);
            assert_eq!(outcome.code, 2);
            let all = t.call(&["ps", "-f", "json", &container.id]).json();
            assert_eq!(all.as_array().expect("pids").len(), 2, "{all}");
        },
    )
    .except(&[(
        "runc",
        "copies stdio by pipes and waits until the orphan closes them",
    )]),
    Case::kernel("--pidfd-socket sends a pidfd of the process", |t| {
        let container = t.start(&paused(t));
        let receiver = Receiver::new(&t.directory.join("pidfd.sock"));
        let file = t.directory.join("pid");
        let flags = ["-d", "--pidfd-socket", text(&receiver.path)];
        let flags = [&flags[..], &["--pid-file", text(&file)]].concat();
        container.probe(&flags, &["pause"]).ok();
        let (_, fd) = receiver.receive();
        let number = std::os::fd::AsRawFd::as_raw_fd(&fd);
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).expect("fdinfo");
        let pid = fs::read_to_string(file).expect("a pid file");
        assert!(info.contains(&format!("Pid:\t{pid}\n")), "{info}");
    })
    .except(&[("runc", "1.2 brought the option")]),
];

fn paused(t: &Test) -> Bundle {
    Bundle::new(t).probe(&["pause"])
}

fn process(t: &Test, process: &Value) -> String {
    let path = t.directory.join("process.json");
    fs::write(&path, process.to_string()).expect("write");
    text(&path).to_owned()
}
