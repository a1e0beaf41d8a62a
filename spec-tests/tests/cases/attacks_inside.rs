//! Attacks by a process of a container on those that come in from outside:
//! what it reaches through /proc/PID while they are on their way.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use spec_tests::runtime::{HANG, text, wait_until};
use spec_tests::{Bundle, Case, Container, Needs, Test};

use crate::attacks::{WAYS, while_swapped, with_ways};

pub(crate) const CASES: &[Case] = &[
    Case::runc(
        "a container with CAP_SYS_PTRACE never reaches the host by a process that enters it",
        |t| {
            let bundle = Bundle::new(t).with(|config| {
                for set in ["bounding", "effective", "permitted"] {
                    config["process"]["capabilities"][set] = json!(["CAP_SYS_PTRACE"]);
                }
            });
            // It may trace, but there is nothing of the host to be had.
            watched(t, bundle, &["/bin/true"], &[]);
        },
    ),
    Case::runc(
        "the runtime as program, interpreter and loader by exec: who watches inside never writes it",
        |t| {
            let bundle = with_ways(Bundle::new(t)).with(|config| {
                for set in ["bounding", "effective", "permitted"] {
                    config["process"]["capabilities"][set] = json!(["CAP_SYS_PTRACE"]);
                }
            });
            watched(t, bundle, &WAYS, &[]);
        },
    ),
    Case::runc(
        "the program of a container's first process, kept before its start: it is never written",
        first_process,
    ),
    Case::runc(
        "a container without CAP_SYS_PTRACE looks into no process that enters it",
        |t| watched(t, Bundle::new(t), &["/bin/true"], &["traced"]),
    ),
    Case::runc(
        "a container of a user namespace looks into no process that enters it",
        |t| {
            let bundle = Bundle::new(t).in_user_namespace(100_000).with(|config| {
                for set in ["bounding", "effective", "permitted"] {
                    config["process"]["capabilities"][set] = json!(["CAP_SYS_PTRACE"]);
                }
            });
            watched(t, bundle, &["/bin/true"], &["traced"]);
        },
    ),
    Case::kernel(
        "a created process of another user is not dumpable where fs.suid_dumpable says it is",
        |t| {
            let _set = Parameter::set("/proc/sys/fs/suid_dumpable", "1");
            let bundle = Bundle::new(t)
                .probe(&["pause"])
                .with(|config| config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 }));
            let container = t.create(&bundle);
            let environ = format!("/proc/{}/environ", container.pid());
            let owner = fs::metadata(environ).expect("stat").uid();
            assert_eq!(owner, 0);
        },
    )
    .needs(Needs::Vm),
    Case::runc(
        "without pivot_root no procfs stays behind that shows everything",
        |t| {
            let bundle = Bundle::new(t).probe(&["fresh-proc"]);
            let answer = t.run(&bundle).answer();
            assert_eq!(answer, json!({ "mount": EPERM }), "with pivot_root");
            let args = ["run", "--no-pivot", "-b", text(&bundle.path), &bundle.id];
            let answer = t.call(&args).answer();
            assert_eq!(answer, json!({ "mount": EPERM }), "without");
        },
    ),
    Case::runc(
        "without pivot_root a user namespace finds every procfs of the host covered",
        |t| {
            // What the host mounted is locked here: it can't be unmounted.
            let bundle = Bundle::new(t)
                .in_user_namespace(100_000)
                .probe(&["fresh-proc"]);
            let args = ["run", "--no-pivot", "-b", text(&bundle.path), &bundle.id];
            let answer = t.call(&args).answer();
            assert_eq!(answer, json!({ "mount": EPERM }));
        },
    ),
    Case::kernel(
        "a process in the making dies with the runtime, whatever it waits for",
        |t| {
            let (reached, left) = (t.directory.join("reached"), t.directory.join("left"));
            let script = format!(
                "touch {}; until test -e {}; do sleep 0.05; done",
                text(&reached),
                text(&left)
            );
            let bundle = Bundle::new(t)
                .probe(&["pause"])
                .shell_hook("createContainer", &script);
            let mut command = t.command(&["create", "-b", text(&bundle.path), &bundle.id]);
            let creating = t.spawn(&mut command);
            wait_until("the hook", || reached.exists());
            let container = t.adopt(&bundle.id);
            let process = format!("/proc/{}/status", container.pid());
            let state = || {
                let text = fs::read_to_string(&process).unwrap_or_default();
                let line = text.lines().find(|line| line.starts_with("State:"));
                line.unwrap_or("gone").to_owned()
            };
            assert_ne!(state(), "gone");
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(creating.pid()),
                nix::sys::signal::Signal::SIGKILL,
            )
            .expect("kill");
            assert_eq!(creating.wait().code, 128 + 9);
            // Its pid namespace ends, the hook with it, which is a process there.
            wait_until("its end", || {
                let state = state();
                state == "gone" || state.contains('Z')
            });
            fs::write(&left, "").expect("the sign");
        },
    )
    .except(&[("runc", "1.1.5 has no state before it is created")]),
    Case::kernel(
        "a link in the place of a pid file's draft is not written through",
        pid_file,
    )
    .except(&[("runc", "refuses what is there")]),
    Case::kernel(
        "cgroups nested deep, and of a name that is no text, hide nothing and are removed",
        nested_cgroups,
    )
    .except(&[("runc", "holds a descriptor for each, and leaves them")]),
    Case::kernel(
        "kill --all ends processes that fork and end all the time",
        |t| {
            let bundle = Bundle::new(t)
                .without_namespace("pid")
                .probe(&["runaways", "3", ";", "pause"]);
            let go = bundle.rootfs().join("data/go");
            for round in 0..t.rounds(1000, 3) {
                fs::write(&go, "").expect("write");
                let _ended = Ending(&go);
                let container = t.start(&bundle);
                container.wait_for("running");
                if round % 3 == 2 {
                    t.call(&["pause", &bundle.id]).ok();
                }
                t.call(&["kill", "--all", &bundle.id, "KILL"]).ok();
                container.wait_status("stopped");
                wait_until("an end of all", || {
                    t.call(&["ps", "-f", "json", &bundle.id]).json() == json!([])
                });
                container.delete().ok();
            }
        },
    )
    .except(&[("runc", "a frozen container is not thawed for --all")]),
    Case::kernel(
        "a rootfs that is swapped for a link all the time: no other root is entered",
        |t| {
            let victim = t.directory.join("victim");
            fs::create_dir_all(victim.join("bin")).expect("mkdir");
            for name in ["proc", "sys", "dev", "data"] {
                fs::create_dir(victim.join(name)).expect("mkdir");
            }
            fs::copy(&t.probe, victim.join("bin/probe")).expect("copy");
            fs::write(victim.join("data/whose"), "the victim's").expect("write");
            let bundle = Bundle::new(t)
                .file("data/whose", "its own")
                .probe(&["read", "/data/whose"]);
            let link = bundle.path.join("link");
            symlink(&victim, &link).expect("symlink");
            let mut ran = 0;
            while_swapped(&[[bundle.rootfs(), link]], || {
                for _ in 0..t.rounds(1000, 40) {
                    let outcome = t.run(&bundle);
                    assert!(!outcome.stdout.contains("the victim's"), "{outcome:?}");
                    ran += u32::from(outcome.code == 0);
                }
            });
            assert!(ran > 0, "no container ever ran: nothing was attacked");
        },
    )
    .except(&[("runc", "takes the rootfs by its name")]),
];

/// Who may write to its cgroup nests it deeper than a process has descriptors,
/// and hides in one whose name is no text.
fn nested_cgroups(t: &Test) {
    let bundle = Bundle::new(t)
        .without_namespace("pid")
        .probe(&["orphan", ";", "pause"]);
    let container = t.start(&bundle);
    container.wait_for("pid");
    let hidden = container.answers()[0]["pid"].to_string();
    let status = format!("/proc/{hidden}/status");
    let cgroups: Vec<_> = ["", "pids", "memory", "freezer", "devices"]
        .iter()
        .filter(|controller| t.hierarchy(controller).is_some())
        .map(|controller| t.cgroup(controller, &bundle.id))
        .filter(|cgroup| cgroup.is_dir())
        .collect();
    assert!(!cgroups.is_empty());
    for cgroup in &cgroups {
        let place = cgroup.join(std::ffi::OsStr::from_bytes(b"not \xff text"));
        fs::create_dir(&place).expect("mkdir");
        fs::write(place.join("cgroup.procs"), &hidden).expect("move");
        // 300 of them have a path that is short enough.
        fs::create_dir_all(cgroup.join("d/".repeat(300))).expect("mkdir");
    }
    let rrun = |words: &[&str]| {
        let mut command = Command::new("prlimit");
        command.arg("--nofile=256").arg(&t.runtime).arg("--root");
        t.spawn(command.arg(&t.root).args(words)).wait()
    };
    let listed = rrun(&["ps", "-f", "json", &bundle.id]).json();
    assert!(listed.to_string().contains(&hidden), "{listed}");
    rrun(&["kill", "--all", &bundle.id, "KILL"]).ok();
    wait_until("its end", || {
        let text = fs::read_to_string(&status).unwrap_or_default();
        text.is_empty() || text.contains("State:\tZ")
    });
    container.wait_status("stopped");
    rrun(&["delete", &bundle.id]).ok();
    assert!(cgroups.iter().all(|cgroup| !cgroup.exists()));
}

/// A pid file, of which others may write the directory.
fn pid_file(t: &Test) {
    let (victim, file) = (t.directory.join("victim"), t.directory.join("pid"));
    fs::write(&victim, "whole").expect("write");
    symlink(&victim, t.directory.join(".pid")).expect("symlink");
    let bundle = Bundle::new(t).probe(&["pause"]);
    let container = t.create_with(&bundle, &["--pid-file", text(&file)]);
    assert_eq!(fs::read_to_string(&victim).expect("read"), "whole");
    let pid = fs::read_to_string(&file).expect("the pid file");
    assert_eq!(pid, container.pid().to_string());
}

/// A parameter of the machine's, set for as long as the case runs.
struct Parameter {
    path: &'static str,
    before: String,
}

impl Parameter {
    fn set(path: &'static str, value: &str) -> Parameter {
        let before = fs::read_to_string(path).expect("read");
        fs::write(path, value).expect("write");
        Parameter { path, before }
    }
}

impl Drop for Parameter {
    fn drop(&mut self) {
        let _ = fs::write(self.path, &self.before);
    }
}

/// Processes that look for this file end.
struct Ending<'a>(&'a Path);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

const EPERM: i32 = 1;

/// CVE-2016-9962: while one process after the other enters the container, its
/// first one asks /proc for all of each.
fn watched(t: &Test, bundle: Bundle, programs: &[&str], forbidden: &[&str]) {
    // Executed by this case alone, so that it could be written in between.
    let copy = t.directory.join("runtime");
    fs::copy(&t.runtime, &copy).expect("copy");
    let mark = t.directory.join("mark");
    fs::write(&mark, "").expect("write");
    let container = t.start(&bundle.probe(&["watch", text(&mark)]));
    let told = |what: &str| told(&container, what);
    let begin = Instant::now();
    let mut round = 0;
    while round < t.rounds(1000, 40) || !told("seen") {
        assert!(
            t.full || begin.elapsed() < 3 * HANG,
            "none was seen in the making"
        );
        round += 1;
        let mut command = Command::new(&copy);
        command.arg("--root").arg(&t.root);
        let program = programs[round as usize % programs.len()];
        command.args(["exec", &container.id, program]);
        let code = ended(&mut command);
        assert!(code == Some(0) || WAYS.contains(&program), "{code:?}");
        for what in forbidden.iter().chain(&["found"]) {
            assert!(!told(what), "{:?}", container.answers());
        }
    }
}

/// CVE-2019-5736: a process of the container keeps the program of the one that
/// waits for its start, lets it go on, and opens what it kept for writing. Once as
/// PID 1, with an end of its own; and by each way that makes the kernel execute
/// `/proc/self/exe`, in the pid namespace of a pod, since nobody outlives PID 1.
fn first_process(t: &Test) {
    let traces = |bundle: Bundle| {
        bundle.with(|config| {
            for set in ["bounding", "effective", "permitted"] {
                config["process"]["capabilities"][set] = json!(["CAP_SYS_PTRACE"]);
            }
        })
    };
    // Executed by `create` alone, so that nobody does once that has ended.
    let copy = t.directory.join("runtime");
    fs::copy(&t.runtime, &copy).expect("copy");
    let whole = fs::read(&copy).expect("read");
    let pod = t.start(&Bundle::new(t).probe(&["pause"]));
    let namespace = format!("/proc/{}/ns/pid", pod.pid());
    let ways = WAYS.iter().map(|way| Some(*way));
    for way in std::iter::once(None).chain(ways) {
        let bundle = traces(with_ways(Bundle::new(t)));
        let bundle = match way {
            None => bundle.probe(&["pause"]),
            Some(way) => bundle.args(&[way]).with(|config| {
                let all = config["linux"]["namespaces"].as_array_mut();
                for one in all.expect("namespaces") {
                    if one["type"] == "pid" {
                        one["path"] = json!(namespace);
                    }
                }
            }),
        };
        let mut command = Command::new(&copy);
        command.arg("--root").arg(&t.root);
        command.args(["create", "-b", text(&bundle.path), &bundle.id]);
        t.spawn(&mut command).wait().ok();
        let container = t.adopt(&bundle.id);
        let mut keeper =
            t.spawn(&mut t.command(&["exec", &bundle.id, "/bin/probe", "keep-programs"]));
        keeper.wait_for("kept");
        // It may fail: not every way is one to execute our program.
        let _ = container.start();
        // ETXTBSY for as long as it is executed: what comes then is the answer.
        keeper.wait_for("\"written\"");
        let answer = keeper.stdout();
        let refused = REFUSALS.map(|errno| json!({ "written": errno }).to_string());
        assert!(
            refused.iter().any(|line| answer.contains(line)),
            "{way:?}: {answer}"
        );
        t.call(&["delete", "--force", &bundle.id]).ok();
        keeper.wait();
    }
    assert!(fs::read(&copy).expect("read") == whole, "it changed");
}

/// A sealed program is on a mount that is read-only, or a memfd (EPERM).
const REFUSALS: [i32; 2] = [30, 1];

/// How a command ended. Who tries to write a file keeps others from executing it
/// for a moment, also where he is refused (docs/attacks.md, "What is not shut").
fn ended(command: &mut Command) -> Option<i32> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    loop {
        match command.status() {
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => {}
            status => return status.expect("the runtime").code(),
        }
    }
}

/// Whether the container's program has told something of this kind.
fn told(container: &Container<'_>, what: &str) -> bool {
    let has = |answer: &Value| answer.get(what).is_some();
    container.answers().iter().any(has)
}
