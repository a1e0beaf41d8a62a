//! `checkpoint` and `restore`, by the criu of `hack/vm`'s machine (the kernel of
//! another may be too new for it). The program of most cases counts aloud: what
//! it says after the restore follows what it said before.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::json;
use spec_tests::bundle::push;
use spec_tests::runtime::{Container, Outcome, text, wait_until};
use spec_tests::terminal::{Receiver, Terminal};
use spec_tests::{Bundle, Case, Needs, Test};

use crate::notify::Manager;

pub(crate) const CASES: &[Case] = &[
    runc(
        "a checkpoint ends the container, restore goes on where it was",
        |t| {
            let bundle = counting(t);
            let heard = start(t, &bundle, &["run", "-d"]);
            let container = t.adopt(&bundle.id);
            heard.wait_for("3");
            save(t, &container, &[]).ok();
            let last = heard.last();
            assert!(!t.call(&["list", "-q"]).ok().stdout.contains(&bundle.id));
            assert!(
                !t.cgroup(hierarchy(t, "pids"), &bundle.id).exists(),
                "the cgroup is left"
            );

            let file = t.directory.join("pid");
            let heard = restore(t, &bundle, &["--pid-file", text(&file)]);
            heard.wait_for(&(last + 3).to_string());
            assert_eq!(heard.first(), last + 1, "it counts on");
            assert_eq!(container.status(), "running");
            let pid = fs::read_to_string(&file).expect("a pid file");
            assert_eq!(pid.trim(), container.pid().to_string());
            assert_eq!(
                container.probe(&[], &["say", "here"]).answer(),
                json!({ "said": ["here"] })
            );
            end(&container);
        },
    ),
    runc("restore with all flags that go-runc gives", |t| {
        let bundle = counting(t);
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("2");
        let work = t.directory.join("work");
        fs::create_dir(&work).expect("mkdir");
        let work = ["--work-path", text(&work)];
        let criu = ["--tcp-established", "--ext-unix-sk", "--file-locks"];
        let groups = ["--manage-cgroups-mode", "soft"];
        save(t, &container, &[&work[..], &criu, &groups].concat()).ok();
        let last = heard.last();
        let file = t.directory.join("pid");
        let own = ["--detach", "--pid-file", text(&file), "-no-subreaper"];
        let heard = restore(t, &bundle, &[&work[..], &criu, &groups, &own].concat());
        heard.wait_for(&(last + 2).to_string());
        let pid = fs::read_to_string(&file).expect("a pid file");
        assert_eq!(pid, container.pid().to_string());
        end(&container);
    }),
    runc("--leave-running leaves it running", |t| {
        let bundle = counting(t);
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("2");
        save(t, &container, &["--leave-running"]).ok();
        let last = heard.last();
        assert!(images(t).join("inventory.img").exists());
        assert_eq!(container.status(), "running");
        heard.wait_for(&(last + 2).to_string());
        end(&container);
        // The images are as good as others.
        let heard = restore(t, &bundle, &[]);
        heard.wait_for(&(last + 2).to_string());
        end(&container);
    }),
    runc("it is restored into its cgroup, with its limits", |t| {
        let bundle = counting(t).with(|config| {
            config["linux"]["resources"]["pids"] = json!({ "limit": 77 });
        });
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("1");
        save(t, &container, &[]).ok();
        restore(t, &bundle, &[]).wait_for(&(heard.last() + 1).to_string());
        assert_eq!(t.knob(hierarchy(t, "pids"), &bundle.id, "pids.max"), "77");
        let processes = t.knob(hierarchy(t, "pids"), &bundle.id, "cgroup.procs");
        let pid = container.pid().to_string();
        assert!(
            processes.lines().any(|line| line == pid),
            "{pid} in {processes}"
        );
        container.kill("KILL").ok();
        container.wait_status("stopped");
        container.delete().ok();
        assert!(!t.cgroup(hierarchy(t, "pids"), &bundle.id).exists());
    }),
    runc(
        "binds come from the host again, a tmpfs from the images, masks stay",
        |t| {
            let host = t.directory.join("host");
            fs::create_dir(&host).expect("mkdir");
            let bundle = counting(t)
                .mount("/memory", "tmpfs", "tmpfs", &["nosuid"])
                .mount("/host", "bind", text(&host), &["bind"])
                .with(|config| {
                    config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/acpi"]);
                    config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
                });
            let heard = start(t, &bundle, &["run", "-d"]);
            let container = t.adopt(&bundle.id);
            container
                .probe(&[], &["create", "/memory/kept", "kept"])
                .ok();
            heard.wait_for("1");
            save(t, &container, &[]).ok();
            fs::write(host.join("new"), "new").expect("write");
            restore(t, &bundle, &[]).wait_for(&(heard.last() + 1).to_string());
            let read = |path: &str| container.probe(&[], &["read", path]).answer();
            assert_eq!(read("/memory/kept"), json!({ "text": "kept" }));
            assert_eq!(read("/host/new"), json!({ "text": "new" }));
            assert_eq!(read("/proc/kcore"), json!({ "text": "" }));
            let written = container.probe(&[], &["write", "/proc/sys/kernel/domainname", "x"]);
            assert_eq!(written.answer()["errno"], 30);
            end(&container);
        },
    ),
    runc(
        "a terminal is restored, its master goes to the console socket",
        |t| {
            let bundle = Bundle::new(t)
                .shell("n=0; while read word; do n=$((n+1)); echo $n:$word; done")
                .with(|config| config["process"]["terminal"] = json!(true));
            let receiver = Receiver::new(&t.directory.join("console.sock"));
            let container = t.create_with(&bundle, &["--console-socket", text(&receiver.path)]);
            let mut terminal = Terminal::of(receiver.receive().1);
            container.start().ok();
            terminal.write("one\n");
            terminal.wait_for("1:one");
            save(t, &container, &[]).ok();
            drop(terminal);
            let again = Receiver::new(&t.directory.join("again.sock"));
            restore(t, &bundle, &["--console-socket", text(&again.path)]);
            let mut terminal = Terminal::of(again.receive().1);
            terminal.write("two\n");
            terminal.wait_for("2:two");
            end(&container);
        },
    ),
    runc(
        "file locks are kept if that is asked for, else refused",
        |t| {
            let bundle = Bundle::new(t).probe(&["lock", "/lock", ";", "pause"]);
            let locked = || {
                let said = start(t, &bundle, &["run", "-d"]);
                wait_until("it has the lock", || said.text().contains("locked"));
                t.adopt(&bundle.id)
            };
            let container = locked();
            assert_ne!(save(t, &container, &[]).code, 0, "with a lock");
            // What becomes of it then is criu's matter.
            end(&container);
            let container = locked();
            save(t, &container, &["--file-locks"]).ok();
            restore(t, &bundle, &["--file-locks"]);
            let locks = fs::read_to_string("/proc/locks").expect("/proc/locks");
            let pid = container.pid().to_string();
            assert!(
                locks.split_whitespace().any(|word| word == pid),
                "{pid} in {locks}"
            );
            end(&container);
        },
    ),
    runc(
        "a pre-dump leaves it running, and a dump builds on it",
        |t| {
            let bundle = counting(t);
            let heard = start(t, &bundle, &["run", "-d"]);
            let container = t.adopt(&bundle.id);
            heard.wait_for("1");
            let first = t.directory.join("first");
            t.call(&[
                "checkpoint",
                "--pre-dump",
                "--image-path",
                text(&first),
                &bundle.id,
            ])
            .ok();
            assert_eq!(container.status(), "running");
            let last = heard.last();
            heard.wait_for(&(last + 1).to_string());
            save(t, &container, &["--parent-path", "../first"]).ok();
            let parent = fs::read_link(images(t).join("parent")).expect("a link to the parent");
            assert_eq!(parent, Path::new("../first"));
            restore(t, &bundle, &[]).wait_for(&(heard.last() + 1).to_string());
            end(&container);
        },
    ),
    runc(
        "hooks of the runtime are run at a restore, poststop at a checkpoint",
        |t| {
            let notes = t.directory.join("notes");
            let note = |word: &str| format!("echo {word} >>{}", text(&notes));
            let bundle = counting(t)
                .shell_hook("createRuntime", &note("createRuntime"))
                .shell_hook("poststop", &note("poststop"));
            let heard = start(t, &bundle, &["run", "-d"]);
            let container = t.adopt(&bundle.id);
            heard.wait_for("1");
            save(t, &container, &[]).ok();
            restore(t, &bundle, &[]).wait_for(&(heard.last() + 1).to_string());
            let noted = fs::read_to_string(&notes).expect("notes");
            assert_eq!(noted, "createRuntime\npoststop\ncreateRuntime\n");
            end(&container);
        },
    ),
    Case::kernel(
        "an exec is in the time namespace that criu has made for it",
        |t| {
            let bundle = counting(t);
            let heard = start(t, &bundle, &["run", "-d"]);
            let container = t.adopt(&bundle.id);
            heard.wait_for("1");
            let ours = fs::read_link("/proc/self/ns/time").expect("readlink");
            assert_eq!(time_of_exec(&container), ours);
            save(t, &container, &[]).ok();
            restore(t, &bundle, &[]).wait_for(&(heard.last() + 1).to_string());
            let path = format!("/proc/{}/ns/time", container.pid());
            let theirs = fs::read_link(path).expect("readlink");
            assert_ne!(theirs, ours, "criu makes none any more");
            assert_eq!(time_of_exec(&container), theirs);
            end(&container);
        },
    )
    .needs(Needs::Criu)
    .except(&[("runc", "1.2 brought it")]),
    runc(
        "mount points that are missing are made, nested ones too",
        |t| {
            let host = t.directory.join("host");
            let bundle = counting(t)
                .mount("/memory", "tmpfs", "tmpfs", &["nosuid"])
                .mount("/host", "bind", text(&host), &["bind"])
                .mount("/host/below/deep", "tmpfs", "tmpfs", &[])
                .mount("/host/bound", "bind", text(&host), &["bind"])
                .mount("/memory/host", "bind", text(&host), &["bind"]);
            fs::create_dir(&host).expect("mkdir");
            let heard = start(t, &bundle, &["run", "-d"]);
            let container = t.adopt(&bundle.id);
            heard.wait_for("1");
            save(t, &container, &[]).ok();
            // As in a fresh copy of the image, on a fresh host.
            for path in ["memory", "host", "proc", "sys", "dev"] {
                let path = bundle.rootfs().join(path);
                fs::remove_dir_all(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            }
            fs::remove_dir_all(&host).expect("rm");
            fs::create_dir(&host).expect("mkdir");
            restore(t, &bundle, &[]).wait_for(&(heard.last() + 1).to_string());
            fs::write(host.join("new"), "new").expect("write");
            for path in ["/host/new", "/host/bound/new", "/memory/host/new"] {
                let read = container.probe(&[], &["read", path]).answer();
                assert_eq!(read, json!({ "text": "new" }), "{path}");
            }
            let deep = container.probe(&[], &["create", "/host/below/deep/it", "is"]);
            assert_eq!(deep.answer(), json!({ "ok": true }));
            assert!(
                !host.join("below/deep/it").exists(),
                "a filesystem of its own"
            );
            end(&container);
        },
    ),
    Case::kernel(
        "readiness is told by a container that is restored in the foreground",
        |t| {
            let manager = Manager::new(t);
            let bundle = Bundle::new(t).probe(&[
                "notify", "READY=1", ";", "await", "15", ";", "notify", "READY=1", ";", "pause",
            ]);
            let container = t.adopt(&bundle.id);
            let mut command = t.command(&["run", "-d", "-b", text(&bundle.path), &bundle.id]);
            manager.starts(&mut command);
            std::thread::scope(|scope| {
                let running = scope.spawn(|| listen(command));
                for word in ["READY", "MAINPID", "BARRIER"] {
                    let (said, _) = manager.hears();
                    assert!(said.starts_with(word), "{said}");
                }
                let heard = running.join().expect("run");
                wait_until("it waits", || heard.text().contains("ready"));
            });
            save(t, &container, &[]).ok();
            let images = images(t);
            let mut args = vec!["restore", "--bundle", text(&bundle.path)];
            args.extend(["--image-path", text(&images), &bundle.id]);
            let running = t.spawn(manager.starts(&mut t.command(&args)));
            until_running(t, &bundle);
            container.kill("TERM").ok();
            assert_eq!(manager.hears().0, "READY=1\n");
            assert_eq!(manager.hears().0, format!("MAINPID={}\n", running.pid()));
            container.kill("KILL").ok();
            assert_eq!(running.wait().code, 137);
            // Who leaves at once waits for nobody.
            let mut args = vec!["restore", "-d", "--bundle", text(&bundle.path)];
            args.extend(["--image-path", text(&images), &bundle.id]);
            listen({
                let mut command = t.command(&args);
                manager.starts(&mut command);
                command
            });
            end(&container);
        },
    )
    .needs(Needs::Criu)
    .except(&[("runc", "passes nothing on")]),
    runc("in the foreground restore ends with the program", |t| {
        let bundle = Bundle::new(t).shell(&format!("{COUNT_TO_STOP}; exit 7"));
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("1");
        save(t, &container, &[]).ok();
        let mut args = vec!["restore", "--bundle", text(&bundle.path), "--image-path"];
        let images = images(t);
        args.extend([text(&images), &bundle.id]);
        let running = t.spawn(&mut t.command(&args));
        until_running(t, &bundle);
        fs::write(bundle.rootfs().join("stop"), "").expect("write");
        assert_eq!(running.wait().code, 7);
        assert!(!t.call(&["list", "-q"]).ok().stdout.contains(&bundle.id));
    }),
    runc("what is no running container is refused", |t| {
        t.call(&["checkpoint", "none"])
            .fails(1, &["container does not exist"]);
        let container = t.create(&counting(t));
        save(t, &container, &[]).fails(1, &["created"]);
        assert_eq!(container.status(), "created");
    }),
    runc(
        "restore refuses what it can't do, and leaves nothing",
        |t| {
            let bundle = counting(t);
            let none = t.directory.join("none");
            let call = |path: &Path| {
                let mut args = vec!["restore", "-d", "--bundle", text(&bundle.path)];
                args.extend(["--image-path", text(path), &bundle.id]);
                t.call(&args)
            };
            call(&none).fails(1, &["no such file or directory"]);
            fs::create_dir_all(&none).expect("mkdir");
            fs::write(
                none.join("descriptors.json"),
                "[\"/dev/null\",\"/dev/null\",\"/dev/null\"]",
            )
            .expect("write");
            call(&none).fails(1, &["criu failed"]);
            assert!(!t.call(&["list", "-q"]).ok().stdout.contains(&bundle.id));
            assert!(
                !t.cgroup(hierarchy(t, "pids"), &bundle.id).exists(),
                "the cgroup is left"
            );
            let container = t.start(&bundle);
            call(&none).fails(1, &["exists"]);
            assert_eq!(container.status(), "running");
        },
    ),
    Case::kernel(
        "an error is criu's, with its log, and the container runs on",
        |t| {
            // Its output is a file of the host's, which is nowhere in the container.
            let bundle = counting(t);
            let container = t.start(&bundle);
            container.wait_for("1");
            save(t, &container, &[]).fails(
                1,
                &["criu failed: type DUMP", "Can't lookup mount", "log file: "],
            );
            assert_eq!(container.status(), "running");
            let count = container.stdout().lines().count();
            wait_until("it counts on", || {
                container.stdout().lines().count() > count + 1
            });
        },
    )
    .needs(Needs::Criu)
    .except(&[("runc", "names no cause")]),
    Case::kernel(
        "processes in a delegated cgroup are restored into it",
        |t| {
            for namespaced in [false, true] {
                let bundle = counting(t).annotation("run.oci.delegate-cgroup", "a/b");
                let bundle = match namespaced {
                    true => bundle.with(|config| {
                        let namespaces = config["linux"]["namespaces"].as_array_mut();
                        namespaces
                            .expect("namespaces")
                            .push(json!({ "type": "cgroup" }));
                    }),
                    false => bundle,
                };
                let heard = start(t, &bundle, &["run", "-d"]);
                let container = t.adopt(&bundle.id);
                heard.wait_for("1");
                save(t, &container, &[]).ok();
                assert!(!t.cgroup("", &bundle.id).exists());
                let again = restore(t, &bundle, &[]);
                again.wait_for(&(heard.last() + 1).to_string());
                let listed = t.knob("", &format!("{}/a/b", bundle.id), "cgroup.procs");
                let pid = container.pid().to_string();
                assert!(listed.lines().any(|line| line == pid), "{listed}");
                end(&container);
                assert!(!t.cgroup("", &bundle.id).exists());
            }
        },
    )
    .needs(Needs::Criu)
    .except(&[("runc", "an annotation of crun's")]),
    Case::kernel("a criu that dies leaves nothing frozen", |t| {
        let bundle = counting(t);
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("1");
        // The first is asked for its version.
        let wrapper = t.directory.join("criu");
        let frozen = t.cgroup(hierarchy(t, "freezer"), &bundle.id);
        let freeze = match frozen.join("cgroup.freeze").exists() {
            true => format!("echo 1 >{}/cgroup.freeze", text(&frozen)),
            false => format!("echo FROZEN >{}/freezer.state", text(&frozen)),
        };
        let script = format!(
            "#!/bin/sh\n[ -e {0} ] || {{ : >{0}; exec criu \"$@\"; }}\n{freeze}\nkill -9 $$\n",
            text(&t.directory.join("asked"))
        );
        fs::write(&wrapper, script).expect("write");
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("chmod");
        let outcome = t.call(&[
            "--criu",
            text(&wrapper),
            "checkpoint",
            "--image-path",
            text(&images(t)),
            &bundle.id,
        ]);
        outcome.fails(1, &["criu said nothing before its end"]);
        assert_eq!(container.status(), "running");
        heard.wait_for(&(heard.last() + 2).to_string());
        end(&container);
    })
    .needs(Needs::Criu)
    .except(&[("runc", "ignores --criu")]),
    Case::kernel("images of runc are restored, and runc restores ours", |t| {
        let other = |verb: &[&str]| {
            let root = t.directory.join("runc-root");
            let mut command = Command::new("runc");
            command
                .args(["--root", text(&root)])
                .args(verb)
                .stdin(Stdio::null());
            command
        };
        let bundle = counting(t).with(|config| {
            config["linux"]["maskedPaths"] = json!(["/proc/kcore"]);
        });
        // Ours there.
        let heard = start(t, &bundle, &["run", "-d"]);
        heard.wait_for("1");
        save(t, &t.adopt(&bundle.id), &[]).ok();
        let images = images(t);
        let work = ["--image-path", text(&images), &bundle.id];
        let mut verb = vec!["restore", "-d", "--bundle", text(&bundle.path)];
        verb.extend(work);
        let there = listen(other(&verb));
        there.wait_for(&(heard.last() + 1).to_string());
        // Theirs here.
        fs::remove_dir_all(&images).expect("rm");
        let mut verb = vec!["checkpoint"];
        verb.extend(work);
        let saved = other(&verb).output().expect("runc");
        assert!(
            saved.status.success(),
            "{}",
            String::from_utf8_lossy(&saved.stderr)
        );
        restore(t, &bundle, &[]).wait_for(&(there.last() + 1).to_string());
        end(&t.adopt(&bundle.id));
    })
    .needs(Needs::Criu)
    .except(&[("runc", "the case is about two runtimes")]),
    Case::kernel(
        "words that mean nothing are refused before anything is done",
        |t| {
            let bundle = counting(t);
            let container = t.start(&bundle);
            for (flags, words) in [
                (
                    &["--manage-cgroups-mode", "hard"][..],
                    "invalid value \"hard\"",
                ),
                (&["--empty-ns", "net"], "namespace \"net\" is not supported"),
                (&["--empty-ns", "pid"], "namespace \"pid\" is not supported"),
                (&["--page-server", "here"], "ADDRESS:PORT"),
                (&["--page-server", "::1:27"], "ADDRESS:PORT"),
                (&["--page-server", "here:0"], "invalid port number"),
                (&["--parent-path", "/abs"], "--parent-path must be relative"),
                (&["--parent-path", "../none"], "is no directory"),
                (
                    &["--lazy-pages", "--status-fd", "99"],
                    "descriptor 99 is not open",
                ),
                (
                    &["--lazy-pages", "--status-fd", "0"],
                    "descriptor 0 is not open for writing",
                ),
                (
                    &["--network-lock", "skip"],
                    "--network-lock skip requires at least criu 3.19, this is 3.17",
                ),
            ] {
                save(t, &container, flags).fails(1, &[words]);
            }
            assert_eq!(container.status(), "running");
        },
    )
    .needs(Needs::Criu)
    .except(&[("runc", "other words")]),
    runc("without --lazy-pages --status-fd means nothing", |t| {
        let bundle = counting(t);
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("1");
        for fd in ["-1", "99"] {
            save(t, &container, &["--leave-running", "--status-fd", fd]).ok();
        }
        end(&container);
    }),
    Case::kernel("a joined cgroup namespace can't be restored", |t| {
        let bundle = counting(t);
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("1");
        save(t, &container, &[]).ok();
        let bundle = bundle.with(|config| {
            let cgroup = json!({ "type": "cgroup", "path": "/proc/1/ns/cgroup" });
            push(&mut config["linux"]["namespaces"], cgroup);
        });
        let images = images(t);
        let mut args = vec!["restore", "-d", "--bundle", text(&bundle.path)];
        args.extend(["--image-path", text(&images), &bundle.id]);
        t.call(&args)
            .fails(1, &["criu can't restore into a joined cgroup namespace"]);
        assert!(!t.call(&["list", "-q"]).ok().stdout.contains(&bundle.id));
    })
    .needs(Needs::Criu)
    .except(&[("runc", "in other words")]),
];

/// A case for criu that runc answers, too.
pub(crate) const fn runc(name: &'static str, run: fn(&Test)) -> Case {
    Case::runc(name, run).needs(Needs::Criu)
}

/// Counts aloud until it is killed.
pub(crate) const COUNT: &str =
    "i=0; while :; do i=$((i+1)); echo $i; /bin/busybox usleep 50000; done";
/// Counts aloud until there is a file `/stop`.
pub(crate) const COUNT_TO_STOP: &str =
    "i=0; while [ ! -e /stop ]; do i=$((i+1)); echo $i; /bin/busybox usleep 50000; done";

/// What `Test::cgroup` calls the hierarchy of this controller.
pub(crate) fn hierarchy(t: &Test, controller: &'static str) -> &'static str {
    if t.view == "v2" { "" } else { controller }
}

pub(crate) fn counting(t: &Test) -> Bundle {
    Bundle::new(t).shell(COUNT)
}

pub(crate) fn images(t: &Test) -> PathBuf {
    t.directory.join("images")
}

/// Writes the container to the case's images.
#[track_caller]
pub(crate) fn save(t: &Test, container: &Container<'_>, flags: &[&str]) -> Outcome {
    let images = images(t);
    let mut args = vec!["checkpoint", "--image-path", text(&images)];
    args.extend(flags);
    args.push(&container.id);
    t.call(&args)
}

/// Restores the bundle's container from the case's images.
#[track_caller]
pub(crate) fn restore(t: &Test, bundle: &Bundle, flags: &[&str]) -> Heard {
    let images = images(t);
    let mut verb = vec!["restore", "-d", "--image-path", text(&images)];
    verb.extend(flags);
    start(t, bundle, &verb)
}

/// Calls the runtime for this bundle with a pipe for output, which must succeed.
#[track_caller]
pub(crate) fn start(t: &Test, bundle: &Bundle, verb: &[&str]) -> Heard {
    let mut args = verb.to_vec();
    args.extend(["--bundle", text(&bundle.path), &bundle.id]);
    listen(t.command(&args))
}

/// Runs the command with one pipe for both outputs, which must succeed.
#[track_caller]
pub(crate) fn listen(mut command: Command) -> Heard {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let heard = Heard::default();
    let said = heard.0.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            said.lock().expect("a lock").push_str(&text);
        }
    });
    command
        .stdout(writer.try_clone().expect("dup"))
        .stderr(writer);
    let mut child = command.spawn().expect("spawn");
    drop(command);
    let status = child.wait().expect("wait");
    assert!(status.success(), "{status}: {}", heard.text());
    heard
}

/// Waits until a restore in the foreground is through.
pub(crate) fn until_running(t: &Test, bundle: &Bundle) {
    wait_until("it runs", || {
        t.call(&["state", &bundle.id])
            .stdout
            .contains("\"running\"")
    });
}

/// The time namespace of a process that is executed in the container.
fn time_of_exec(container: &Container<'_>) -> PathBuf {
    let answer = container
        .probe(&[], &["link", "/proc/self/ns/time"])
        .answer();
    PathBuf::from(answer["target"].as_str().expect("a link"))
}

pub(crate) fn end(container: &Container<'_>) {
    container.kill("KILL").ok();
    container.wait_status("stopped");
    container.delete().ok();
}

/// What came through a pipe.
#[derive(Default)]
pub(crate) struct Heard(Arc<Mutex<String>>);

impl Heard {
    pub(crate) fn text(&self) -> String {
        self.0.lock().expect("a lock").clone()
    }

    /// The numbers of whole lines.
    fn numbers(&self) -> Vec<u64> {
        let text = self.text();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().filter_map(|line| line.parse().ok()).collect()
    }

    pub(crate) fn first(&self) -> u64 {
        *self.numbers().first().expect("a number")
    }

    pub(crate) fn last(&self) -> u64 {
        *self.numbers().last().expect("a number")
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, number: &str) {
        let number: u64 = number.parse().expect("a number");
        wait_until("it counts", || self.numbers().contains(&number));
    }
}
