//! The life of a container: create, start, state, kill, delete, list, ps,
//! pause, and the refusals in between.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spec_tests::runtime::{text, wait_until};
use spec_tests::{Bundle, Case, Container, Needs, Test, leftovers};

pub(crate) const CASES: &[Case] = &[
    Case::runc(
        "created, running after start, stopped after kill, gone after delete",
        |t| {
            let bundle = Bundle::new(t).probe(&["await", "15"]);
            let container = t.create(&bundle);
            assert_eq!(container.status(), "created");
            container.start().ok();
            assert_eq!(container.status(), "running");
            container.wait_for("ready");
            container.kill("TERM").ok();
            container.wait_status("stopped");
            assert_eq!(container.state()["pid"], 0);
            container.delete().ok();
            t.call(&["state", &bundle.id])
                .fails(1, &["container does not exist"]);
        },
    ),
    Case::runc("state has the fields that engines read", |t| {
        let bundle = Bundle::new(t)
            .probe(&["pause"])
            .with(|config| config["annotations"] = json!({ "a.b": "c" }));
        let container = t.create(&bundle);
        let state = container.state();
        assert_eq!(state["id"], Value::from(bundle.id.clone()));
        assert_eq!(state["bundle"], text(&bundle.path));
        assert_eq!(state["rootfs"], text(&bundle.rootfs()));
        assert_eq!(state["annotations"]["a.b"], "c");
        assert!(
            state["ociVersion"]
                .as_str()
                .expect("ociVersion")
                .starts_with("1.")
        );
        let created = state["created"].as_str().expect("created");
        assert!(
            created.starts_with("20") && created.ends_with('Z'),
            "{created}"
        );
        assert!(state["owner"].is_string());
        let pid = state["pid"].as_i64().expect("a pid");
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    }),
    Case::runc("the program does not run before start", |t| {
        let bundle = Bundle::new(t).probe(&["create", "/data/ran", "x", ";", "pause"]);
        let container = t.create(&bundle);
        assert!(!bundle.rootfs().join("data/ran").exists());
        assert_eq!(container.stdout(), "");
        container.start().ok();
    }),
    Case::runc("start twice is refused and the container goes on", |t| {
        let bundle = Bundle::new(t).probe(&["pause"]);
        let container = t.start(&bundle);
        container
            .start()
            .fails(1, &["cannot start an already running container"]);
        assert_eq!(container.status(), "running");
    }),
    Case::runc("start of a paused container is refused as such", |t| {
        let container = t.create(&Bundle::new(t).probe(&["pause"]));
        t.call(&["pause", &container.id]).ok();
        container
            .start()
            .fails(1, &["cannot start a container in the paused state"]);
        t.call(&["resume", &container.id]).ok();
        container.start().ok();
    }),
    Case::runc("start of a stopped container is refused", |t| {
        let bundle = Bundle::new(t).probe(&["exit", "0"]);
        let container = t.start(&bundle);
        container.wait_status("stopped");
        container
            .start()
            .fails(1, &["cannot start a container that has stopped"]);
    }),
    Case::runc(
        "create of an id in use is refused and leaves the first alone",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let container = t.start(&bundle);
            t.call(&["create", "--bundle", text(&bundle.path), &bundle.id])
                .fails(1, &["container with given ID already exists"]);
            assert_eq!(container.status(), "running");
        },
    ),
    Case::runc("an id with other characters is refused", |t| {
        let bundle = Bundle::new(t);
        for id in ["a b", "a:b", "ä", "..", "a@b", "%"] {
            t.call(&["create", "--bundle", text(&bundle.path), id])
                .fails(1, &["invalid container ID format"]);
        }
    }),
    Case::kernel(
        "an id of a path never reaches outside the state directory",
        |t| {
            fs::create_dir_all(t.directory.join("victim")).expect("mkdir");
            fs::write(t.directory.join("victim/state.json"), "{}").expect("write");
            // Of a container that is only a directory, force removes that.
            fs::create_dir_all(t.directory.join("bare/below")).expect("mkdir");
            fs::create_dir_all(&t.root).expect("mkdir");
            for id in ["../victim", "../bare", "..", "."] {
                for command in ["state", "start", "delete"] {
                    let outcome = t.call(&[command, id]);
                    assert_eq!(outcome.code, 1, "{command} {id}");
                }
                t.call(&["delete", "--force", id]);
            }
            assert!(t.directory.join("victim/state.json").exists());
            assert!(t.directory.join("bare/below").exists());
        },
    ),
    Case::runc("commands on an id that is not there say so", |t| {
        for args in [
            &["state", "nobody"][..],
            &["start", "nobody"],
            &["kill", "nobody"],
            &["kill", "nobody", "KILL"],
            &["delete", "nobody"],
            &["exec", "nobody", "/bin/true"],
            &["ps", "nobody"],
            &["pause", "nobody"],
            &["resume", "nobody"],
            &["update", "--pids-limit", "5", "nobody"],
            &["events", "--stats", "nobody"],
        ] {
            let code = if args[0] == "exec" { 255 } else { 1 };
            t.call(args).fails(code, &["container does not exist"]);
        }
    }),
    Case::runc("delete --force of an id that is not there succeeds", |t| {
        t.call(&["delete", "--force", "nobody"]).ok();
    }),
    Case::runc(
        "delete of a running container is refused, by force it is killed",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let container = t.start(&bundle);
            let text = format!(
                "cannot delete container {} that is not stopped: running",
                bundle.id
            );
            container.delete().fails(1, &[&text]);
            assert_eq!(container.status(), "running");
            t.call(&["delete", "-f", &bundle.id]).ok();
            t.call(&["state", &bundle.id])
                .fails(1, &["container does not exist"]);
        },
    ),
    Case::runc("delete of a created container kills it", |t| {
        let bundle = Bundle::new(t).probe(&["pause"]);
        let container = t.create(&bundle);
        let pid = container.pid();
        container.delete().ok();
        assert!(is_gone(pid));
    }),
    Case::runc("kill by every spelling of a signal", |t| {
        for spelling in ["USR1", "SIGUSR1", "usr1", "10"] {
            let bundle = Bundle::new(t).probe(&["await", "10", "15"]);
            let container = t.start(&bundle);
            container.wait_for("ready");
            container.kill(spelling).ok();
            container.wait_for("\"signal\":10");
            container.wait_status("stopped");
        }
    }),
    Case::runc("kill without a signal sends SIGTERM", |t| {
        let bundle = Bundle::new(t).probe(&["await", "15"]);
        let container = t.start(&bundle);
        container.wait_for("ready");
        t.call(&["kill", &bundle.id]).ok();
        container.wait_for("\"signal\":15");
    }),
    Case::runc("kill with a signal that is none is refused", |t| {
        let bundle = Bundle::new(t).probe(&["pause"]);
        let container = t.start(&bundle);
        for signal in ["NOSUCH", "SIGNOSUCH"] {
            container.kill(signal).fails(1, &["unknown signal", signal]);
        }
        assert_eq!(container.status(), "running");
    }),
    Case::runc(
        "kill of a stopped container contains `container not running`",
        |t| {
            let bundle = Bundle::new(t).probe(&["exit", "0"]);
            let container = t.start(&bundle);
            container.wait_status("stopped");
            container.kill("TERM").fails(1, &["container not running"]);
            container.kill("KILL").fails(1, &["container not running"]);
        },
    ),
    Case::runc("kill of a created container ends it", |t| {
        let bundle = Bundle::new(t).probe(&["pause"]);
        let container = t.create(&bundle);
        container.kill("KILL").ok();
        container.wait_status("stopped");
        container.delete().ok();
    }),
    Case::runc("kill --all reaches every process of the container", |t| {
        let bundle = Bundle::new(t)
            .without_namespace("pid")
            .probe(&["orphan", ";", "pause"]);
        let container = t.start(&bundle);
        container.wait_for("pid");
        let child = container.answers()[0]["pid"].as_i64().expect("a pid") as i32;
        assert!(!is_gone(child));
        t.call(&["kill", "--all", &bundle.id, "KILL"]).ok();
        container.wait_status("stopped");
        wait_gone(child);
    }),
    Case::runc(
        "delete --force without a pid namespace leaves no process",
        |t| {
            let bundle = Bundle::new(t)
                .without_namespace("pid")
                .probe(&["orphan", ";", "pause"]);
            let container = t.start(&bundle);
            container.wait_for("pid");
            let child = container.answers()[0]["pid"].as_i64().expect("a pid") as i32;
            t.call(&["delete", "--force", &bundle.id]).ok();
            wait_gone(child);
        },
    )
    .except(&[(
        "runc@v2",
        "gives up on a cgroup whose killed process is not reaped yet",
    )]),
    Case::runc("list as table, as JSON and as ids", |t| {
        assert_eq!(t.call(&["list", "-f", "json"]).ok().stdout.trim(), "null");
        assert_eq!(t.call(&["list", "-q"]).ok().stdout, "");
        let bundle = Bundle::new(t).probe(&["pause"]);
        let container = t.start(&bundle);
        let table = t.call(&["list"]).ok().stdout;
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[0],
            ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
        );
        assert_eq!(lines[1][0], bundle.id);
        assert_eq!(lines[1][1], container.pid().to_string());
        assert_eq!(lines[1][2..4], ["running", text(&bundle.path)]);
        assert_eq!(lines[1][5], "root");
        assert_eq!(t.call(&["list", "-q"]).ok().stdout.trim(), bundle.id);
        let all = t.call(&["list", "--format", "json"]).json();
        assert_eq!(all[0]["id"], Value::from(bundle.id.clone()));
        assert_eq!(all[0]["status"], "running");
        assert_eq!(all[0]["owner"], "root");
        t.call(&["list", "--format", "yaml"]).fails(1, &["format"]);
    }),
    Case::runc("ps as table and as JSON, with arguments for ps", |t| {
        let bundle = Bundle::new(t).probe(&["pause"]);
        let container = t.start(&bundle);
        let pid = container.pid();
        assert_eq!(
            t.call(&["ps", "--format", "json", &bundle.id]).json(),
            json!([pid])
        );
        let table = t.call(&["ps", &bundle.id]).ok().stdout;
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 2, "{table}");
        assert!(
            lines[0].contains("PID") && lines[0].contains("CMD"),
            "{table}"
        );
        assert!(
            lines[1].contains(&pid.to_string()) && lines[1].contains("/bin/probe"),
            "{table}"
        );
        let table = t.call(&["ps", &bundle.id, "-o", "pid,comm"]).ok().stdout;
        assert!(
            table.lines().nth(1).expect("a line").contains("probe"),
            "{table}"
        );
    }),
    Case::runc(
        "pause stops every process and resume lets them go on",
        |t| {
            let bundle = Bundle::new(t).probe(&["await", "15"]);
            let container = t.start(&bundle);
            container.wait_for("ready");
            t.call(&["pause", &bundle.id]).ok();
            assert_eq!(container.status(), "paused");
            t.call(&["resume", &bundle.id]).ok();
            assert_eq!(container.status(), "running");
            container.kill("TERM").ok();
            container.wait_for("\"signal\":15");
            container.wait_status("stopped");
        },
    ),
    Case::runc("resume of a container that is not paused is refused", |t| {
        let bundle = Bundle::new(t).probe(&["pause"]);
        let _container = t.start(&bundle);
        t.call(&["resume", &bundle.id])
            .fails(1, &["container not paused"]);
    }),
    Case::runc("pause of a stopped container is refused", |t| {
        let bundle = Bundle::new(t).probe(&["exit", "0"]);
        let container = t.start(&bundle);
        container.wait_status("stopped");
        t.call(&["pause", &bundle.id])
            .fails(1, &["container not running"]);
    }),
    Case::runc("a paused container is deleted by force", |t| {
        let bundle = Bundle::new(t).probe(&["pause"]);
        let _container = t.start(&bundle);
        t.call(&["pause", &bundle.id]).ok();
        t.call(&["delete", "--force", &bundle.id]).ok();
        t.call(&["state", &bundle.id])
            .fails(1, &["container does not exist"]);
    }),
    Case::runc("a paused container is killed by SIGKILL", |t| {
        let bundle = Bundle::new(t).probe(&["pause"]);
        let container = t.start(&bundle);
        t.call(&["pause", &bundle.id]).ok();
        container.kill("KILL").ok();
        container.wait_status("stopped");
    }),
    Case::runc("the state directory is not readable by others", |t| {
        use std::os::unix::fs::PermissionsExt;
        let bundle = Bundle::new(t).probe(&["pause"]);
        let _container = t.create(&bundle);
        let mode =
            |path: &std::path::Path| fs::metadata(path).expect("stat").permissions().mode() & 0o777;
        assert_eq!(mode(&t.root), 0o700);
        let own = mode(&t.root.join(&bundle.id));
        assert!(own == 0o700 || own == 0o711, "{own:o}");
    }),
    Case::kernel(
        "a created container holds its stdio and few descriptors more",
        |t| {
            // Trap 1: a child that waits never execs, so CLOEXEC closes nothing.
            let bundle = Bundle::new(t).probe(&["pause"]);
            let container = t.create(&bundle);
            let found = open_descriptors(container.pid());
            assert!(found.len() <= 6, "{found:?}");
            let host: Vec<&String> = found
                .iter()
                .filter(|target| {
                    target.starts_with('/')
                        && !target.starts_with(text(&t.root))
                        && !target.starts_with("/dev/null")
                        && !target.contains(".stdout")
                        && !target.contains(".stderr")
                })
                .collect();
            assert!(host.is_empty(), "descriptors of the host: {host:?}");
        },
    )
    .except(&[("runc", "holds its log, its exec fifo and Go's epoll")]),
    Case::kernel(
        "a created container holds no file of the hooks, once none of its own is left",
        |t| {
            let [out, err] = ["out", "err"].map(|name| t.directory.join(name));
            for hooks in [None, Some("createContainer")] {
                let bundle = Bundle::new(t)
                    .probe(&["pause"])
                    .annotation("run.oci.hooks.stdout", text(&out))
                    .annotation("run.oci.hooks.stderr", text(&err));
                let bundle = match hooks {
                    Some(moment) => bundle.shell_hook(moment, "echo made"),
                    None => bundle,
                };
                let container = t.create(&bundle);
                let found = open_descriptors(container.pid());
                let logs = [text(&out), text(&err)];
                assert!(
                    !found.iter().any(|target| logs.contains(&target.as_str())),
                    "{hooks:?}: {found:?}"
                );
            }
            if !t.is("runc") {
                assert_eq!(fs::read_to_string(&out).expect("the log"), "made\n");
            }
        },
    ),
    Case::kernel(
        "a start of the same pid number later is not taken for the container",
        |t| {
            // The process is known by pid and start time: a state file that
            // names a process of another start time is a stopped container.
            let bundle = Bundle::new(t).probe(&["exit", "0"]);
            let container = t.start(&bundle);
            container.wait_status("stopped");
            let path = t.root.join(&bundle.id).join("state.json");
            let state = fs::read_to_string(&path).expect("state.json");
            let mut state: Value = serde_json::from_str(&state).expect("JSON");
            let before = state.clone();
            // A start time has the grain of a tick: another process until it differs.
            let began = recorded_start(&state);
            let mut other = sleeper();
            while start_time(other.id()) == began {
                end(&mut other);
                other = sleeper();
            }
            replace_pid(&mut state, other.id());
            assert_ne!(state, before, "no pid in state.json");
            fs::write(&path, state.to_string()).expect("write");
            is_left_alone(t, &container, &mut other);
        },
    ),
    Case::kernel(
        "a pid that the kernel gives again is not taken for the container",
        |t| {
            let bundle = Bundle::new(t).probe(&["exit", "0"]);
            let container = t.create(&bundle);
            let pid = container.pid();
            container.start().ok();
            container.wait_status("stopped");
            wait_until("it is reaped", || {
                !std::path::Path::new(&format!("/proc/{pid}")).exists()
            });
            let mut other = sleeper();
            while other.id().cast_signed() != pid {
                end(&mut other);
                let last = (pid - 1).to_string();
                fs::write("/proc/sys/kernel/ns_last_pid", last).expect("ns_last_pid");
                other = sleeper();
            }
            is_left_alone(t, &container, &mut other);
        },
    )
    .needs(Needs::Vm),
    Case::kernel("parallel creates of one id: exactly one wins", |t| {
        let bundle = Bundle::new(t).probe(&["pause"]);
        let args = ["create", "--bundle", text(&bundle.path), &bundle.id];
        let all: Vec<_> = (0..6).map(|_| t.spawn(&mut t.command(&args))).collect();
        let container = t.adopt(&bundle.id);
        let outcomes: Vec<_> = all
            .into_iter()
            .map(spec_tests::runtime::Running::wait)
            .collect();
        let won = outcomes.iter().filter(|outcome| outcome.code == 0).count();
        assert_eq!(won, 1, "{outcomes:?}");
        for lost in outcomes.iter().filter(|outcome| outcome.code != 0) {
            assert_eq!(lost.code, 1);
            assert!(
                lost.stderr
                    .contains("container with given ID already exists"),
                "{lost:?}"
            );
        }
        assert_eq!(container.status(), "created");
    })
    .except(&[("runc", "1.1.5 has no lock: two creates may both go on")]),
    Case::kernel("parallel starts of one container: exactly one wins", |t| {
        let bundle = Bundle::new(t).probe(&["pause"]);
        let container = t.create(&bundle);
        let all: Vec<_> = (0..6)
            .map(|_| t.spawn(&mut t.command(&["start", &bundle.id])))
            .collect();
        let won = all
            .into_iter()
            .map(|one| one.wait().code)
            .filter(|code| *code == 0)
            .count();
        assert_eq!(won, 1);
        assert_eq!(container.status(), "running");
    })
    .except(&[(
        "runc",
        "1.1.5 has no lock: two starts may both report success",
    )]),
    Case::kernel(
        "64 commands of all kinds at once on one id never corrupt it",
        parallel,
    )
    .except(&[("runc", "1.1.5 has no lock")]),
    Case::kernel(
        "the runtime's cgroup is gone after delete in every hierarchy",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let container = t.start(&bundle);
            for controller in ["", "memory", "pids", "devices", "freezer", "cpu", "cpuset"] {
                if t.hierarchy(controller).is_some() {
                    assert!(t.cgroup(controller, &bundle.id).exists(), "{controller}");
                }
            }
            t.call(&["delete", "--force", &bundle.id]).ok();
            for controller in ["", "memory", "pids", "devices", "freezer", "cpu", "cpuset"] {
                if t.hierarchy(controller).is_some() {
                    assert!(!t.cgroup(controller, &bundle.id).exists(), "{controller}");
                }
            }
            drop(container);
        },
    ),
    Case::runc(
        "the container's processes are in its cgroup in every v1 hierarchy",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let container = t.start(&bundle);
            let pid = container.pid().to_string();
            for controller in [
                "memory", "pids", "devices", "freezer", "cpu", "cpuacct", "blkio",
            ] {
                assert_eq!(
                    t.knob(controller, &bundle.id, "cgroup.procs"),
                    pid,
                    "{controller}"
                );
            }
        },
    )
    .needs(Needs::V1),
];

/// A stopped container whose pid is now somebody else's: each command says that it
/// has stopped, and nobody touches the other.
#[track_caller]
fn is_left_alone(t: &Test, container: &Container<'_>, other: &mut Child) {
    let id = container.id.as_str();
    assert_eq!(container.status(), "stopped");
    container.kill("KILL").fails(1, &["container not running"]);
    t.call(&["kill", "--all", id, "KILL"]).ok();
    t.call(&["pause", id]).fails(1, &["container not running"]);
    container
        .probe(&[], &["true"])
        .fails(255, &["cannot exec in a stopped container"]);
    container
        .start()
        .fails(1, &["cannot start a container that has stopped"]);
    t.call(&["delete", "--force", id]).ok();
    t.call(&["state", id])
        .fails(1, &["container does not exist"]);
    assert!(other.try_wait().expect("wait").is_none(), "it was killed");
    let stat = fs::read_to_string(format!("/proc/{}/stat", other.id())).expect("stat");
    assert!(stat.contains(") S "), "it does not sleep any more: {stat}");
    end(other);
}

fn sleeper() -> Child {
    let sleep = Command::new("sleep").arg("600").spawn();
    sleep.expect("sleep")
}

fn end(child: &mut Child) {
    child.kill().expect("kill");
    child.wait().expect("wait");
}

/// The start time of a process, in ticks since boot (proc(5), field 22).
fn start_time(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let field = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.split(' ').nth(19));
    field.and_then(|text| text.parse().ok()).expect("field 22")
}

/// The start time that a state file holds.
fn recorded_start(state: &Value) -> u64 {
    match state {
        Value::Object(fields) => fields
            .iter()
            .find_map(|(name, value)| match name.contains("start") {
                true => value.as_u64().or_else(|| value.as_str()?.parse().ok()),
                false => Some(recorded_start(value)).filter(|found| *found > 0),
            })
            .unwrap_or(0),
        _ => 0,
    }
}

/// Random commands at once on one id; whatever wins, every answer is an exit
/// code with a text, and `delete --force` ends it all.
fn parallel(t: &Test) {
    let mut random = t.seed | 1;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).expect("small")
    };
    let bundle = Bundle::new(t).probe(&["pause"]);
    let id = bundle.id.as_str();
    let create = ["create", "--bundle", text(&bundle.path), id];
    let commands: [&[&str]; 12] = [
        &create,
        &["start", id],
        &["state", id],
        &["kill", id, "KILL"],
        &["delete", id],
        &["list", "-q"],
        &["exec", id, "/bin/true"],
        &["pause", id],
        &["resume", id],
        &["update", "--pids-limit", "50", id],
        &["ps", "-f", "json", id],
        &["delete", "--force", id],
    ];
    for _ in 0..t.rounds(40, 4) {
        // Most come while there is a container.
        let order = (0..64).map(|n| if n % 8 == 0 { 0 } else { next(commands.len()) });
        let mut all: Vec<_> = order
            .map(|index| (index, t.spawn(&mut t.command(commands[index]))))
            .collect();
        // What is in a frozen cgroup waits for who thaws it.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(3)
            && all.iter_mut().any(|(_, one)| one.is_running())
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        t.call(&["delete", "--force", id]).ok();
        let mut told = String::new();
        for (index, one) in all {
            let (words, outcome) = (commands[index], one.wait());
            let ends: &[i32] = match words[0] {
                // One whose container was killed meanwhile.
                "exec" => &[0, 137, 255],
                _ => &[0, 1],
            };
            assert!(ends.contains(&outcome.code), "{words:?}: {outcome:?}");
            assert_eq!(
                [0, 137].contains(&outcome.code),
                outcome.stderr.is_empty(),
                "{words:?}: {outcome:?}"
            );
            told += &format!(
                "{} {} {}\n",
                words[0],
                outcome.code,
                outcome.stderr.trim_end()
            );
        }
        t.call(&["delete", "--force", id]).ok();
        t.call(&["state", id])
            .fails(1, &["container does not exist"]);
        let mut left = leftovers::beside(Duration::from_secs(10));
        left.extend(leftovers::cgroups(&t.prefix));
        assert!(left.is_empty(), "{left:?} after\n{told}");
        // Nothing that is made of this id now is frozen.
        let container = t.start(&bundle);
        assert_eq!(container.status(), "running");
        container.probe(&[], &["true"]).ok();
        t.call(&["delete", "--force", id]).ok();
    }
}

/// Every pid of a state file becomes our own, whose start time is another.
fn replace_pid(state: &mut Value, pid: u32) {
    match state {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "pid" || name == "init_process_pid" {
                    *value = json!(pid);
                } else {
                    replace_pid(value, pid);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| replace_pid(value, pid)),
        _ => {}
    }
}

fn open_descriptors(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect()
}

/// A zombie counts as gone.
fn is_gone(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| rest.starts_with('Z') || rest.starts_with('X'))
}

#[track_caller]
fn wait_gone(pid: i32) {
    let begin = std::time::Instant::now();
    while !is_gone(pid) {
        assert!(
            begin.elapsed() < spec_tests::runtime::HANG,
            "process {pid} is still there"
        );
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
