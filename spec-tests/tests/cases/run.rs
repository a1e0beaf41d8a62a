//! `run` in the foreground and detached: exit codes, signals, files that it
//! writes, descriptors that it hands on, sockets.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;

use serde_json::{Value, json};
use spec_tests::runtime::text;
use spec_tests::sys::{Before, before};
use spec_tests::terminal::Receiver;
use spec_tests::{Bundle, Case, Needs, Test};

pub(crate) const CASES: &[Case] = &[
    Case::runc("run returns the program's exit code", |t| {
        for code in [0, 1, 7, 126, 127, 255] {
            let bundle = Bundle::new(t).probe(&["exit", &code.to_string()]);
            let outcome = t.run(&bundle);
            assert_eq!(outcome.code, code, "{outcome:?}");
            assert_eq!(outcome.stderr, "");
        }
    }),
    Case::runc(
        "run returns 128 + n when signal n killed the program",
        |t| {
            for signal in [9, 15, 6] {
                let bundle = Bundle::new(t)
                    .without_namespace("pid")
                    .probe(&["kill", &signal.to_string()]);
                assert_eq!(t.run(&bundle).code, 128 + signal);
            }
        },
    ),
    Case::runc("run hands stdin, stdout and stderr through", |t| {
        let bundle = Bundle::new(t).probe(&["input", ";", "complain", "a", "word"]);
        let path = t.directory.join("stdin");
        fs::write(&path, "from the host").expect("write");
        let mut command = t.command(&["run", "--bundle", text(&bundle.path), &bundle.id]);
        let outcome = t
            .spawn(command.stdin(File::open(path).expect("open")))
            .wait()
            .ok();
        assert_eq!(outcome.answers(), [json!({ "input": "from the host" })]);
        assert_eq!(outcome.stderr, "a word\n");
    }),
    Case::runc("run deletes the container when it ends", |t| {
        let bundle = Bundle::new(t).probe(&["true"]);
        t.run(&bundle).ok();
        t.call(&["state", &bundle.id])
            .fails(1, &["container does not exist"]);
    }),
    Case::runc("run uses the current directory as the bundle", |t| {
        let bundle = Bundle::new(t).probe(&["say", "hello"]);
        let mut command = t.command(&["run", &bundle.id]);
        let outcome = t.spawn(command.current_dir(&bundle.path)).wait();
        assert_eq!(outcome.answer(), json!({ "said": ["hello"] }));
    }),
    Case::runc("run --keep leaves a stopped container", |t| {
        let bundle = Bundle::new(t).probe(&["exit", "3"]);
        let container = t.adopt(&bundle.id);
        let args = ["run", "--keep", "--bundle", text(&bundle.path), &bundle.id];
        assert_eq!(t.call(&args).code, 3);
        assert_eq!(container.status(), "stopped");
        container.delete().ok();
    }),
    Case::runc("run --detach returns while the program runs", |t| {
        let bundle = Bundle::new(t).probe(&["await", "15"]);
        let pid_file = t.directory.join("pid");
        let container = t.adopt(&bundle.id);
        let args = [
            "run",
            "-d",
            "--pid-file",
            text(&pid_file),
            "-b",
            text(&bundle.path),
            &bundle.id,
        ];
        t.call(&args).ok();
        assert_eq!(container.status(), "running");
        let pid = fs::read_to_string(&pid_file).expect("the pid file");
        assert_eq!(pid, container.pid().to_string());
    }),
    Case::runc(
        "create --pid-file writes the pid alone, whole, and only when it succeeds",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let pid_file = t.directory.join("pid");
            let container = t.create_with(&bundle, &["--pid-file", text(&pid_file)]);
            let pid = fs::read_to_string(&pid_file).expect("the pid file");
            assert_eq!(pid, container.pid().to_string());
            let names: Vec<_> = fs::read_dir(&t.directory)
                .expect("readdir")
                .flatten()
                .collect();
            assert!(
                !names.iter().any(|name| name.file_name() == ".pid"),
                "temporary file is left"
            );
            let broken = Bundle::new(t).args(&["/no/such/program"]);
            let other = t.directory.join("other");
            let args = [
                "create",
                "--pid-file",
                text(&other),
                "-b",
                text(&broken.path),
                &broken.id,
            ];
            assert_ne!(t.call(&args).code, 0);
            assert!(!other.exists());
        },
    ),
    Case::runc("run forwards signals to the program", |t| {
        for signal in [1, 2, 3, 10, 12, 15] {
            let bundle = Bundle::new(t).probe(&["await", "1", "2", "3", "10", "12", "15"]);
            let mut running = t.spawn_run(&bundle);
            running.wait_for("ready");
            let pid = nix::unistd::Pid::from_raw(running.pid());
            let number = nix::sys::signal::Signal::try_from(signal).expect("a signal");
            nix::sys::signal::kill(pid, number).expect("kill");
            let outcome = running.wait().ok();
            assert_eq!(outcome.answers()[1], json!({ "signal": signal }));
        }
    }),
    Case::runc("runs of `true` never hang and never fail", |t| {
        // L3: a SIGCHLD lost before it is blocked leaves a peer waiting for ever.
        for _ in 0..t.rounds(1000, 30) {
            let bundle = Bundle::new(t).args(&["true"]);
            let outcome = t.run(&bundle).ok();
            assert_eq!(
                (outcome.stdout, outcome.stderr),
                (String::new(), String::new())
            );
            fs::remove_dir_all(&bundle.path).expect("rmdir");
        }
    }),
    Case::kernel(
        "parallel runs of different ids do not disturb each other",
        |t| {
            let bundles: Vec<_> = (0..16)
                .map(|n| Bundle::new(t).probe(&["exit", &n.to_string()]))
                .collect();
            let all: Vec<_> = bundles.iter().map(|bundle| t.spawn_run(bundle)).collect();
            for (n, one) in all.into_iter().enumerate() {
                let outcome = one.wait();
                assert_eq!(outcome.code, n as i32, "{outcome:?}");
            }
        },
    ),
    Case::runc(
        "an orphan of the container does not keep run waiting",
        |t| {
            let bundle = Bundle::new(t).probe(&["orphan", ";", "exit", "4"]);
            assert_eq!(t.run(&bundle).code, 4);
        },
    ),
    Case::runc(
        "a program that is not in PATH is named with the text that makes 127",
        |t| {
            let bundle = Bundle::new(t).args(&["nosuchprogram"]);
            t.run(&bundle)
                .fails(1, &["nosuchprogram", "executable file not found in $PATH"]);
        },
    ),
    Case::runc(
        "a program by path that is not there is named with the text that makes 127",
        |t| {
            let bundle = Bundle::new(t).args(&["/no/such/program"]);
            t.run(&bundle)
                .fails(1, &["/no/such/program", "no such file or directory"]);
        },
    ),
    Case::runc(
        "a program that may not be executed is named with the text that makes 126",
        |t| {
            let bundle = Bundle::new(t)
                .file("data/plain", "text")
                .args(&["/data/plain"]);
            t.run(&bundle)
                .fails(1, &["/data/plain", "permission denied"]);
        },
    ),
    Case::runc(
        "a directory as program is refused with the text that makes 126",
        |t| {
            let bundle = Bundle::new(t).args(&["/data"]);
            t.run(&bundle).fails(1, &["/data", "permission denied"]);
        },
    ),
    Case::runc("a missing program fails create, not start", |t| {
        let bundle = Bundle::new(t).args(&["nosuchprogram"]);
        t.call(&["create", "-b", text(&bundle.path), &bundle.id])
            .fails(1, &["executable file not found in $PATH"]);
        t.call(&["state", &bundle.id])
            .fails(1, &["container does not exist"]);
    }),
    Case::runc(
        "a program that the kernel can't execute fails start with its reason",
        |t| {
            use std::os::unix::fs::PermissionsExt;
            let bundle = Bundle::new(t)
                .file("data/odd", "not a program")
                .args(&["/data/odd"]);
            let path = bundle.rootfs().join("data/odd");
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
            t.run(&bundle).fails(1, &["exec format error"]);
        },
    ),
    Case::runc(
        "a config.json that is missing, broken or empty is refused",
        |t| {
            let bundle = Bundle::new(t);
            fs::remove_file(bundle.path.join("config.json")).expect("unlink");
            t.run(&bundle).fails(1, &["config.json"]);
            let bundle = bundle.raw_config("{ broken");
            let said = t.run(&bundle).fails(1, &[]).stderr;
            let place = match t.is("rrun") {
                true => "config.json: key must be a string at line 1 column 3",
                false => "invalid character 'b' looking for beginning of object key string",
            };
            assert!(said.contains(place), "{said}");
            let bundle = bundle.raw_config("");
            let said = t.run(&bundle).fails(1, &[]).stderr;
            let place = match t.is("rrun") {
                true => "config.json: is empty",
                false => "EOF",
            };
            assert!(said.contains(place), "{said}");
        },
    ),
    Case::kernel("an error names the field of config.json", |t| {
        let refused = |pointer: &str, value: Value, text: &str| {
            let bundle = Bundle::new(t)
                .with(|config| *config.pointer_mut(pointer).expect("the field") = value);
            t.run(&bundle).fails(1, &[text]);
        };
        refused("/process/cwd", json!(7), "process.cwd");
        refused("/process/args", json!("text"), "process.args");
        refused("/process/user/uid", json!(-1), "process.user.uid");
        refused(
            "/linux/namespaces/0/type",
            json!("nonsense"),
            "linux.namespaces[0].type",
        );
        refused("/mounts/0/destination", json!([]), "mounts[0].destination");
    })
    .except(&[("runc", "names no field path")]),
    Case::runc("an unknown property of config.json is ignored", |t| {
        let bundle = Bundle::new(t).probe(&["true"]).with(|config| {
            config["x-unknown"] = json!({ "a": 1 });
            config["linux"]["unknown"] = json!(true);
            config["process"]["unknown"] = json!([]);
        });
        t.run(&bundle).ok();
    }),
    Case::runc("a relative cwd and an empty args are refused", |t| {
        let bundle = Bundle::new(t).with(|config| config["process"]["cwd"] = json!("data"));
        t.run(&bundle).fails(1, &["absolute"]);
        t.run(&bundle.with(|config| {
            config["process"]["cwd"] = json!("/");
            config["process"]["args"] = json!([]);
        }))
        .fails(1, &["args"]);
    }),
    Case::runc("--log-format json writes exactly one error object", |t| {
        let bundle = Bundle::new(t).args(&["/no/such/program"]);
        let log = t.directory.join("log.json");
        let args = [
            "--log",
            text(&log),
            "--log-format",
            "json",
            "create",
            "-b",
            text(&bundle.path),
            &bundle.id,
        ];
        let outcome = t.call(&args).fails(1, &["no such file or directory"]);
        assert!(!outcome.stderr.is_empty());
        let text = fs::read_to_string(&log).expect("the log");
        let entry: Value = serde_json::from_str(&text).expect("exactly one JSON object");
        assert_eq!(entry["level"], "error");
        assert!(
            entry["msg"]
                .as_str()
                .expect("msg")
                .contains("no such file or directory")
        );
        let time = entry["time"].as_str().expect("time");
        assert!(time.len() >= 20 && time.as_bytes()[10] == b'T', "{time}");
    })
    .except(&[("runc@v2", "warns that there is no memory.events")]),
    Case::kernel("a warning does not add an object to the JSON log", |t| {
        let bundle = Bundle::new(t).args(&["/no/such/program"]).with(|config| {
            config["process"]["capabilities"]["bounding"] = json!(["CAP_NO_SUCH"]);
        });
        let log = t.directory.join("log.json");
        let args = [
            "--log",
            text(&log),
            "--log-format=json",
            "run",
            "-b",
            text(&bundle.path),
            &bundle.id,
        ];
        t.call(&args)
            .fails(1, &["/no/such/program", "no such file or directory"]);
        let text = fs::read_to_string(&log).expect("the log");
        let entry: Value = serde_json::from_str(&text).expect("exactly one JSON object");
        assert_eq!(entry["level"], "error");
        let said = entry["msg"].as_str().expect("msg");
        assert!(said.contains("/no/such/program"), "{said}");
        assert!(
            entry["warnings"].to_string().contains("CAP_NO_SUCH"),
            "{entry}"
        );
    })
    .except(&[("runc", "warnings are objects of their own")]),
    Case::runc("a successful command writes nothing into the log", |t| {
        let bundle = Bundle::new(t).probe(&["true"]);
        let log = t.directory.join("log.json");
        let args = [
            "--log",
            text(&log),
            "--log-format=json",
            "run",
            "-b",
            text(&bundle.path),
            &bundle.id,
        ];
        t.call(&args).ok();
        assert_eq!(fs::read_to_string(&log).unwrap_or_default(), "");
    }),
    Case::kernel(
        "an error is one line that begins with the runtime's name",
        |t| {
            let outcome = t.call(&["state", "nobody"]).fails(1, &["\"nobody\""]);
            assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
            assert!(outcome.stderr.starts_with("rrun: "), "{}", outcome.stderr);
        },
    )
    .except(&[("runc", "begins with time= or ERRO")]),
    Case::runc("--version names the specification", |t| {
        let outcome = t.call(&["--version"]).ok();
        let first = outcome.stdout.lines().next().expect("a line");
        assert!(
            first.starts_with(&format!("{} version ", t.runtime_name)),
            "{first}"
        );
        assert!(outcome.stdout.contains("\nspec: 1."), "{}", outcome.stdout);
        assert_eq!(t.call(&["-v"]).ok().stdout, outcome.stdout);
    }),
    Case::runc("a command or an option that is none is refused", |t| {
        assert_ne!(t.call(&["nosuchcommand"]).code, 0);
        assert_ne!(t.call(&["state", "--nosuchoption", "x"]).code, 0);
        assert_eq!(t.call(&["state"]).code, 1);
        assert_eq!(t.call(&["state", "a", "b"]).code, 1);
    }),
    Case::runc("single-dash long options are taken", |t| {
        let bundle = Bundle::new(t).probe(&["say", "x"]);
        t.call(&[
            "run",
            "-bundle",
            text(&bundle.path),
            "-no-subreaper",
            &bundle.id,
        ])
        .ok();
    }),
    Case::runc(
        "spec writes a config.json that runs, and never over one",
        |t| {
            let bundle = Bundle::new(t);
            let path = bundle.path.join("config.json");
            fs::remove_file(&path).expect("unlink");
            t.call(&["spec", "--bundle", text(&bundle.path)]).ok();
            let config: Value =
                serde_json::from_str(&fs::read_to_string(&path).expect("config.json"))
                    .expect("JSON");
            assert_eq!(config["process"]["args"], json!(["sh"]));
            assert_eq!(config["process"]["terminal"], true);
            assert_eq!(
                config["root"],
                json!({ "path": "rootfs", "readonly": true })
            );
            t.call(&["spec", "-b", text(&bundle.path)])
                .fails(1, &["config.json", "exists"]);
            let mut config = config;
            config["process"]["terminal"] = json!(false);
            config["process"]["args"] = json!(["/bin/probe", "say", "x"]);
            let bundle = bundle.raw_config(&config.to_string());
            t.run(&bundle).ok();
        },
    ),
    Case::runc("spec --rootless maps the caller's ids", |t| {
        let bundle = Bundle::new(t);
        fs::remove_file(bundle.path.join("config.json")).expect("unlink");
        t.call(&["spec", "--rootless", "--bundle", text(&bundle.path)])
            .ok();
        let text = fs::read_to_string(bundle.path.join("config.json")).expect("config.json");
        let config: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            config["linux"]["uidMappings"],
            json!([{ "containerID": 0, "hostID": 0, "size": 1 }])
        );
        let kinds: Vec<_> = config["linux"]["namespaces"]
            .as_array()
            .expect("namespaces")
            .iter()
            .map(|namespace| namespace["type"].as_str().expect("type").to_owned())
            .collect();
        assert!(kinds.contains(&"user".to_owned()) && !kinds.contains(&"network".to_owned()));
        assert!(config["linux"]["resources"].is_null());
    }),
    Case::runc("features names what the runtime knows", |t| {
        let features = t.call(&["features"]).json();
        for pointer in [
            "/ociVersionMin",
            "/ociVersionMax",
            "/hooks",
            "/mountOptions",
            "/linux/namespaces",
            "/linux/capabilities",
            "/linux/cgroup/v1",
            "/linux/cgroup/v2",
            "/linux/seccomp/enabled",
            "/linux/seccomp/actions",
            "/linux/seccomp/operators",
            "/linux/seccomp/archs",
        ] {
            assert!(features.pointer(pointer).is_some(), "{pointer}: {features}");
        }
        let hooks = features["hooks"].as_array().expect("hooks");
        for name in [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ] {
            assert!(hooks.contains(&json!(name)), "{name}");
        }
        let options = features["mountOptions"].as_array().expect("options");
        for name in [
            "ro",
            "rw",
            "nosuid",
            "rbind",
            "rslave",
            "tmpcopyup",
            "rro",
            "strictatime",
        ] {
            assert!(options.contains(&json!(name)), "{name}");
        }
    }),
    Case::runc("--preserve-fds hands descriptors on, and only those", |t| {
        let bundle = Bundle::new(t).probe(&[
            "keep", "3", ";", "keep", "4", ";", "keep", "5", ";", "report",
        ]);
        let file = |name: &str| {
            let path = t.directory.join(name);
            fs::write(&path, name).expect("write");
            File::open(path).expect("open")
        };
        let mut command = t.command(&[
            "run",
            "--preserve-fds",
            "2",
            "-b",
            text(&bundle.path),
            &bundle.id,
        ]);
        for (name, number) in [("three", 3), ("four", 4), ("five", 5)] {
            before(&mut command, Before::Descriptor(file(name).into(), number));
        }
        let outcome = t.spawn(&mut command).wait().ok();
        let answers = outcome.answers();
        assert_eq!(answers[0], json!({ "text": "three" }));
        assert_eq!(answers[1], json!({ "text": "four" }));
        assert_eq!(answers[2], json!({ "errno": 2 }));
        let open = answers[3]["descriptors"].as_object().expect("descriptors");
        let names: Vec<_> = open.keys().filter(|name| name.as_str() < "5").collect();
        assert_eq!(names, ["0", "1", "2", "3", "4"]);
    }),
    Case::runc(
        "--preserve-fds of a descriptor that is not open is refused",
        |t| {
            let bundle = Bundle::new(t).probe(&["true"]);
            t.call(&[
                "run",
                "--preserve-fds",
                "200",
                "-b",
                text(&bundle.path),
                &bundle.id,
            ])
            .fails(1, &["preserve"]);
        },
    ),
    Case::runc("LISTEN_FDS hands sockets on with LISTEN_PID=1", |t| {
        let bundle = Bundle::new(t).probe(&["keep", "3", ";", "report"]);
        let path = t.directory.join("three");
        fs::write(&path, "three").expect("write");
        // LISTEN_PID must name the runtime itself, which is known after fork.
        let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"";
        let mut command = std::process::Command::new("/bin/sh");
        command
            .args(["-c", script, "sh"])
            .arg(&t.runtime)
            .arg("--root")
            .arg(&t.root);
        command.args(["run", "-b", text(&bundle.path), &bundle.id]);
        before(
            &mut command,
            Before::Descriptor(File::open(path).expect("open").into(), 3),
        );
        let outcome = t.spawn(&mut command).wait().ok();
        let answers = outcome.answers();
        assert_eq!(answers[0], json!({ "text": "three" }));
        let env = answers[1]["env"].as_array().expect("env");
        assert!(env.contains(&json!("LISTEN_FDS=1")), "{env:?}");
        assert!(env.contains(&json!("LISTEN_PID=1")), "{env:?}");
    }),
    Case::runc("LISTEN_FDS without LISTEN_PID is for somebody else", |t| {
        let bundle = Bundle::new(t);
        let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
        let file = File::open("/etc/hostname").expect("open");
        before(&mut command, Before::Descriptor(file.into(), 3));
        command.env("LISTEN_FDS", "1").env_remove("LISTEN_PID");
        let report = t.spawn(&mut command).wait().answer();
        let open = report["descriptors"].as_object().expect("descriptors");
        assert_eq!(open.keys().collect::<Vec<_>>(), ["0", "1", "2"]);
    }),
    Case::runc(
        "without being asked no descriptor of the caller is handed on",
        |t| {
            let bundle = Bundle::new(t);
            let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
            for number in [3, 4, 7, 20] {
                let file = File::open("/etc/hostname").expect("open");
                before(&mut command, Before::Descriptor(file.into(), number));
            }
            let report = t.spawn(&mut command).wait().answer();
            let open = report["descriptors"].as_object().expect("descriptors");
            assert_eq!(open.keys().collect::<Vec<_>>(), ["0", "1", "2"]);
        },
    ),
    Case::runc(
        "NOTIFY_SOCKET: READY=1 of the container reaches the host's socket",
        |t| {
            let bundle = Bundle::new(t)
                .probe(&["notify", "READY=1", ";", "await", "15"])
                .with(|config| config["root"]["readonly"] = json!(false));
            let path = t.directory.join("notify.sock");
            let socket = UnixDatagram::bind(&path).expect("bind");
            socket
                .set_read_timeout(Some(spec_tests::runtime::HANG))
                .expect("a timeout");
            let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
            let mut running = t.spawn(command.env("NOTIFY_SOCKET", &path));
            running.wait_for("ready");
            let mut said = String::new();
            while !said.contains("READY=1") {
                let mut buffer = [0; 512];
                let size = socket.recv(&mut buffer).expect("a notification");
                said.push_str(&String::from_utf8_lossy(&buffer[..size]));
                said.push('\n');
            }
            let container = t.adopt(&bundle.id);
            if t.is("rrun") {
                // Who runs the program in the foreground is the one to watch.
                let mut buffer = [0; 512];
                let size = socket.recv(&mut buffer).expect("a notification");
                let main = format!("MAINPID={}\n", running.pid());
                assert_eq!(String::from_utf8_lossy(&buffer[..size]), main);
            }
            container.kill("TERM").ok();
            assert!(running.wait().stdout.contains("\"ok\":true"));
        },
    ),
    Case::kernel(
        "--pidfd-socket sends a pidfd of the container's init",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let receiver = Receiver::new(&t.directory.join("pidfd.sock"));
            let container = t.create_with(&bundle, &["--pidfd-socket", text(&receiver.path)]);
            let (_, fd) = receiver.receive();
            let number = std::os::fd::AsRawFd::as_raw_fd(&fd);
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).expect("fdinfo");
            let pid = format!("Pid:\t{}\n", container.pid());
            assert!(info.contains(&pid), "{info}");
        },
    )
    .except(&[("runc", "1.2 brought the option")]),
    Case::runc(
        "a new session keyring is joined, and --no-new-keyring joins none",
        |t| {
            let bundle = Bundle::new(t).probe(&["keyring"]);
            let answer = t.run(&bundle).answer();
            let described = answer["description"]
                .as_str()
                .expect("a keyring")
                .to_owned();
            assert!(
                described.ends_with(&format!("_ses.{}", bundle.id)),
                "{described}"
            );
            let plain = Bundle::new(t).probe(&["keyring"]);
            let args = [
                "run",
                "--no-new-keyring",
                "-b",
                text(&plain.path),
                &plain.id,
            ];
            let answer = t.call(&args).answer();
            assert!(!answer.to_string().contains("_ses.st"), "{answer}");
        },
    ),
    Case::runc("--no-pivot runs", |t| {
        let bundle = Bundle::new(t).probe(&["list", "/"]);
        let args = ["run", "--no-pivot", "-b", text(&bundle.path), &bundle.id];
        let answer = t.call(&args).answer();
        assert!(
            answer["names"]
                .as_array()
                .expect("names")
                .contains(&json!("data"))
        );
    }),
    Case::kernel("run BUNDLE/ takes the folder's name as the id", |t| {
        let bundle = Bundle::new(t).probe(&["report"]);
        let mut path = text(&bundle.path).to_owned();
        path.push('/');
        let report = t.call(&["run", &path]).answer();
        assert_eq!(report["pid"], 1);
        let mut command = t.command(&["run", "."]);
        let report = t.spawn(command.current_dir(&bundle.path)).wait().answer();
        assert_eq!(report["pid"], 1);
    })
    .except(&[("runc", "an argument is an id")]),
    Case::kernel(
        "plan says what would be done, changes nothing and needs no root",
        plan,
    )
    .needs(Needs::Limits)
    .except(&[("runc", "has no plan")]),
    Case::kernel("plan as JSON lists the steps", |t| {
        let bundle = Bundle::new(t);
        let plan = t
            .call(&["plan", "--format", "json", text(&bundle.path)])
            .json();
        let text = plan.to_string();
        for word in ["/dev/pts", "proc", "CAP_KILL", "pid"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    })
    .except(&[("runc", "has no plan")]),
];

fn plan(t: &Test) {
    let bundle = Bundle::new(t).with(|config| {
        config["linux"]["resources"]["pids"] = json!({ "limit": 9 });
        config["process"]["capabilities"]["bounding"] = json!(["CAP_KILL", "CAP_NO_SUCH"]);
    });
    let mut command = t.command(&["plan", text(&bundle.path)]);
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    let outcome = t.spawn(&mut command).wait().ok();
    for word in [
        "/dev/mqueue",
        "CAP_KILL",
        "CAP_NO_SUCH",
        "pids.max",
        "/proc/kcore",
    ] {
        assert!(outcome.stdout.contains(word), "{word}: {}", outcome.stdout);
    }
    assert!(!t.root.exists());
}
