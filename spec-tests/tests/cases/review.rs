//! What a review found, each case with what went wrong before.

use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;
use serde_json::{Value, json};
use spec_tests::bundle::push;
use spec_tests::runtime::{text, wait_until};
use spec_tests::sys::{Before, before};
use spec_tests::terminal::{Receiver, Terminal};
use spec_tests::view::private;
use spec_tests::{Bundle, Case, Needs, Test};

use crate::attacks::while_swapped;

pub(crate) const CASES: &[Case] = &[
    Case::kernel(
        "mounts add: a device of the container's is no source",
        |t| {
            let Some(disk) = Disk::new(t) else {
                t.does_not_apply("no loop devices here")
            };
            let bundle = Bundle::new(t).probe(&["pause"]).with(|config| {
                for set in ["bounding", "effective", "permitted"] {
                    push(
                        &mut config["process"]["capabilities"][set],
                        json!("CAP_MKNOD"),
                    );
                }
            });
            let container = t.start(&bundle);
            let minor = disk.minor();
            let made = container.probe(&[], &["mknod", "/dev/vol", "60600", "7", &minor]);
            assert_eq!(made.answer(), json!({ "value": 0 }));
            let add = |source: &str| {
                let list = json!([{ "destination": "/mnt", "type": "ext4", "source": source, "options": ["ro"] }]);
                t.call(&["mounts", "add", &container.id, text(&document(t, &list))])
            };
            add("/dev/vol").fails(1, &["/dev/vol", "on \"/mnt\""]);
            let read = || container.probe(&[], &["read", "/mnt/mark"]).answer();
            assert_eq!(read(), json!({ "errno": 2 }));
            // The same, named as the host names it.
            add(&disk.device).ok();
            assert_eq!(read(), json!({ "text": "disk" }));
        },
    ),
    Case::kernel("mounts add: an overlay's layers are the host's", |t| {
        let layers = ["one", "two"].map(|name| t.directory.join(name));
        let mut bundle = Bundle::new(t).probe(&["pause"]);
        for layer in &layers {
            fs::create_dir(layer).expect("mkdir");
            fs::write(layer.join("mark"), "host").expect("write");
            let inside = text(layer).trim_start_matches('/');
            bundle = bundle.file(&format!("{inside}/mark"), "container");
        }
        let container = t.start(&bundle);
        let lower = format!("lowerdir={}:{}", text(&layers[0]), text(&layers[1]));
        let list = json!([{ "destination": "/mnt", "type": "overlay", "source": "overlay", "options": [lower] }]);
        t.call(&["mounts", "add", &container.id, text(&document(t, &list))])
            .ok();
        let answer = container.probe(&[], &["read", "/mnt/mark"]).answer();
        assert_eq!(answer, json!({ "text": "host" }));
    }),
    Case::kernel(
        "mounts add: a tmpfs is charged to the container's memory",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            fs::write(bundle.rootfs().join("data/big"), vec![1; 8 << 20]).expect("write");
            let container = t.start(&bundle);
            let list =
                json!([{ "destination": "/data", "type": "tmpfs", "options": ["tmpcopyup"] }]);
            t.call(&["mounts", "add", &container.id, text(&document(t, &list))])
                .ok();
            let used = t.knob("memory", &bundle.id, "memory.usage_in_bytes");
            assert!(used.parse::<u64>().expect("a number") >= 8 << 20, "{used}");
        },
    )
    .needs(Needs::V1),
    Case::kernel("mounts add: a paused container is refused", |t| {
        let container = t.start(&Bundle::new(t).probe(&["pause"]));
        t.call(&["pause", &container.id]).ok();
        let list = json!([{ "destination": "/mnt", "type": "tmpfs" }]);
        t.call(&["mounts", "add", &container.id, text(&document(t, &list))])
            .fails(1, &["cannot mount in a paused container"]);
        t.call(&["resume", &container.id]).ok();
    }),
    Case::kernel(
        "mounts add: tmpcopyup reads no device that takes a file's place",
        |t| {
            let bundle = Bundle::new(t).file("data/one", "plain").probe(&["pause"]);
            let pair = ["data/one", "node"].map(|name| bundle.rootfs().join(name));
            let zero = makedev(1, 5);
            mknod(&pair[1], SFlag::S_IFCHR, Mode::S_IRUSR, zero).expect("mknod");
            let container = t.start(&bundle);
            let list = json!([{ "destination": "/data", "type": "tmpfs", "options": ["tmpcopyup", "size=64k"] }]);
            let list = document(t, &list);
            while_swapped(&[pair], || {
                for _ in 0..t.rounds(60, 12) {
                    // Each openat comes late, so that what was looked at by name
                    // is something else by then.
                    let mut command = Command::new("strace");
                    command
                        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=openat"])
                        .args(["-e", "inject=openat:delay_enter=2000"])
                        .arg(&t.runtime)
                        .arg("--root")
                        .arg(&t.root)
                        .args(["mounts", "add", &container.id, text(&list)]);
                    let added = t.spawn(&mut command).wait();
                    if added.code != 0 {
                        added.fails(1, &["copy \"one\": is no regular file any more"]);
                        continue;
                    }
                    t.call(&["mounts", "remove", &container.id, text(&list)])
                        .ok();
                }
            });
        },
    ),
    Case::runc(
        "rootless: the agent gets the listener of a user's container",
        |t| {
            let t = &t.as_user("");
            for no_new_privileges in [true, false] {
                let receiver = Receiver::new(&t.directory.join(t.id()));
                let bundle = notifying(Bundle::new(t).rootless(), &receiver).with(|config| {
                    config["process"]["noNewPrivileges"] = json!(no_new_privileges);
                });
                let container = t.create(&bundle);
                let (_, listener) = receiver.receive();
                let number = std::os::fd::AsRawFd::as_raw_fd(&listener);
                let link = fs::read_link(format!("/proc/self/fd/{number}")).expect("readlink");
                assert_eq!(text(&link), "anon_inode:seccomp notify");
                container.start().ok();
                container.wait_status("running");
            }
        },
    ),
    Case::kernel(
        "rootless: exec under a filter that notifies is refused with a hint",
        |t| {
            let t = &t.as_user("");
            let receiver = Receiver::new(&t.directory.join("agent.sock"));
            let container = t.start(&notifying(Bundle::new(t).rootless(), &receiver));
            let outcome = container.probe(&[], &["true"]);
            outcome.fails(
                255,
                &[
                    "linux.seccomp",
                    "needs CAP_SYS_PTRACE",
                    "hint: run rrun with",
                ],
            );
        },
    )
    .except(&[("runc", "it hands the listener over")]),
    Case::runc(
        "a terminal whose output nobody reads keeps rrun from no signal",
        |t| {
            let bundle = terminal(Bundle::new(t)).probe(&["flood-until", "15", "7"]);
            let (mut running, mut reader) = run_into_pipe(t, &bundle, false);
            wait_until_full(&reader);
            let _container = t.adopt(&bundle.id);
            let pid = Pid::from_raw(running.id().cast_signed());
            kill(pid, Signal::SIGTERM).expect("kill");
            wait_until("the end", || {
                let state = t.call(&["state", &bundle.id]);
                !state.stdout.contains("running")
            });
            reader.read_to_end(&mut Vec::new()).expect("read");
            assert_eq!(running.wait().expect("wait").code(), Some(7));
        },
    ),
    Case::kernel(
        "a terminal's output comes whole through a pipe that does not block",
        |t| {
            for nonblocking in [true, false] {
                let bundle = terminal(Bundle::new(t)).shell("seq 1 20000");
                let (mut running, mut reader) = run_into_pipe(t, &bundle, nonblocking);
                wait_until_full(&reader);
                let mut printed = String::new();
                reader.read_to_string(&mut printed).expect("read");
                let expected: String = (1..=20_000).map(|n| format!("{n}\r\n")).collect();
                assert!(printed == expected, "{} bytes", printed.len());
                assert_eq!(running.wait().expect("wait").code(), Some(0));
            }
        },
    )
    .except(&[("runc", "it loses the end")]),
    Case::kernel(
        "a terminal's last output that nobody reads is given up for SIGTERM",
        |t| {
            let bundle = terminal(Bundle::new(t))
                .shell("while [ ! -e /data/go ]; do :; done; echo last; exit 5");
            let (reader, writer) = pipe(true);
            let mut running = run_into(t, &bundle, writer.try_clone().expect("dup"));
            // Full, whoever writes, and who does waits.
            while nix::unistd::write(&writer, &[0; 4096]).is_ok() {}
            fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).expect("F_SETFL");
            fs::write(bundle.rootfs().join("data/go"), "").expect("write");
            let container = t.adopt(&bundle.id);
            wait_until("the end", || {
                let state = t.call(&["state", &bundle.id]);
                state.stdout.contains("stopped")
            });
            let pid = Pid::from_raw(running.id().cast_signed());
            kill(pid, Signal::SIGTERM).expect("kill");
            assert_eq!(running.wait().expect("wait").code(), Some(5));
            drop((container, reader));
        },
    )
    .except(&[("runc", "it loses the end")]),
    Case::runc(
        "a program whose name is cut within a letter is told, entered, stopped and deleted",
        |t| {
            // 15 bytes of it are the process's name (proc_pid_comm(5)).
            const PROGRAM: &str = "bin/жжжжжжжж";
            let bundle = Bundle::new(t).args(&[&format!("/{PROGRAM}"), "pause"]);
            let root = bundle.rootfs();
            fs::hard_link(root.join("bin/probe"), root.join(PROGRAM)).expect("link");
            let container = t.start(&bundle);
            let name = format!("/proc/{}/comm", container.pid());
            wait_until("its execve", || {
                let name = fs::read(&name).expect("comm");
                String::from_utf8(name).is_err()
            });
            assert_eq!(container.status(), "running");
            let listed = t.call(&["list", "-q"]).ok().stdout;
            assert!(listed.contains(&container.id), "{listed}");
            container.probe(&[], &["true"]).ok();
            for change in ["pause", "resume"] {
                t.call(&[change, &container.id]).ok();
            }
            container.kill("KILL").ok();
            container.wait_status("stopped");
            container.delete().ok();
        },
    ),
    Case::runc(
        "a mount of the host's whose name is no text is in the way of no container",
        |t| {
            let place = t.directory.join("mounts");
            private(&[text(&place)]);
            let place = place.join(OsStr::from_bytes(b"\xff"));
            fs::create_dir(&place).expect("mkdir");
            let none = None::<&str>;
            let tmpfs = Some("tmpfs");
            mount(tmpfs, &place, tmpfs, MsFlags::empty(), none).expect("mount");
            t.run(&Bundle::new(t)).ok();
        },
    ),
    Case::runc("a working directory that is made has mode 0755", |t| {
        let masks = match t.is("runc") {
            true => &[0][..],
            false => &[0, 0o077],
        };
        for umask in masks {
            let bundle = Bundle::new(t)
                .probe(&["stat", ".", ";", "stat", ".."])
                .with(|config| {
                    config["process"]["cwd"] = json!("/data/new/deep");
                    config["root"]["readonly"] = json!(false);
                });
            let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
            before(&mut command, Before::Umask(*umask));
            let answers = t.spawn(&mut command).wait().ok().answers();
            for answer in answers {
                assert_eq!(answer["mode"], "0755", "umask {umask:o}: {answer}");
            }
        }
    }),
    Case::kernel(
        "NOTIFY_SOCKET reaches a program of any user, whatever the umask",
        |t| {
            let bundle = Bundle::new(t)
                .probe(&["notify", "READY=1"])
                .with(|config| config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 }));
            let (_manager, path) = manager(t);
            let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
            before(&mut command, Before::Umask(0o077));
            let outcome = t.spawn(command.env("NOTIFY_SOCKET", path)).wait();
            assert_eq!(outcome.answer(), json!({ "ok": true }));
        },
    )
    .except(&[("runc", "its directory obeys the umask")]),
    Case::kernel(
        "NOTIFY_SOCKET: a start that was killed is in the way of no other",
        |t| {
            let bundle = Bundle::new(t).probe(&["notify", "READY=1", ";", "await", "15"]);
            let (manager, path) = manager(t);
            let mut create = t.command(&["create", "-b", text(&bundle.path), &bundle.id]);
            t.spawn(create.env("NOTIFY_SOCKET", &path)).wait().ok();
            let container = t.adopt(&bundle.id);
            // What it had bound.
            let left = t.root.join(&bundle.id).join("notify/notify.sock");
            drop(UnixDatagram::bind(left).expect("bind"));
            let mut start = t.command(&["start", &container.id]);
            let start = t.spawn(start.env("NOTIFY_SOCKET", &path));
            assert_eq!(received(&manager), "READY=1\n");
            container.kill("KILL").ok();
            start.wait().ok();
        },
    )
    .except(&[("runc", "its files are others")]),
    Case::kernel(
        "NOTIFY_SOCKET: a start that comes second takes nothing from the first",
        |t| {
            let bundle = Bundle::new(t).probe(&["await", "15", ";", "notify", "READY=1"]);
            let (manager, path) = manager(t);
            let mut create = t.command(&["create", "-b", text(&bundle.path), &bundle.id]);
            t.spawn(create.env("NOTIFY_SOCKET", &path)).wait().ok();
            let container = t.adopt(&bundle.id);
            let start = || {
                let mut start = t.command(&["start", &container.id]);
                t.spawn(start.env("NOTIFY_SOCKET", &path))
            };
            let first = start();
            container.wait_status("running");
            start()
                .wait()
                .fails(1, &["cannot start an already running container"]);
            container.kill("TERM").ok();
            first.wait().ok();
            assert_eq!(received(&manager), "READY=1\n");
        },
    )
    .except(&[("runc", "its words are others")]),
    Case::kernel(
        "NOTIFY_SOCKET: a flood of messages keeps rrun from no signal",
        |t| {
            let bundle = Bundle::new(t).probe(&["flood-notify", ";", "await", "15"]);
            let (_manager, path) = manager(t);
            let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
            let mut running = t.spawn(command.env("NOTIFY_SOCKET", path));
            running.wait_for("ready");
            kill(Pid::from_raw(running.pid()), Signal::SIGTERM).expect("kill");
            assert!(running.wait().ok().stdout.contains(r#"{"signal":15}"#));
        },
    )
    .except(&[("runc", "it hangs, too")]),
    Case::kernel(
        "a working directory that the kernel can't name counts as outside",
        |t| {
            // Longer than PATH_MAX, by a link to its first half.
            let half = vec!["d".repeat(200); 11].join("/");
            let bundle = Bundle::new(t).with(|config| {
                config["process"]["cwd"] = json!(format!("/link/{half}"));
            });
            symlink(&half, bundle.rootfs().join("link")).expect("symlink");
            std::env::set_current_dir(bundle.rootfs()).expect("chdir");
            for name in half.split('/').chain(half.split('/')) {
                fs::create_dir(name).expect("mkdir");
                std::env::set_current_dir(name).expect("chdir");
            }
            std::env::set_current_dir("/").expect("chdir");
            t.run(&bundle)
                .fails(1, &["working directory \"/link/ddd", "getcwd()"]);
        },
    )
    .except(&[
        ("runc", "1.1.5 asks for the entry alone"),
        ("crun", "no oracle"),
    ]),
    Case::kernel(
        "--no-pivot: links on the way to the root leave its /proc and /sys alone",
        |t| {
            let bundle = Bundle::new(t)
                .probe(&["stat", "/proc/self/status", ";", "stat", "/sys/kernel"])
                .with(|config| config["root"]["path"] = json!("here/rootfs"));
            symlink(".", bundle.path.join("here")).expect("symlink");
            let other = t.directory.join("other");
            symlink(&bundle.path, &other).expect("symlink");
            for path in [&bundle.path, &other] {
                let args = ["run", "--no-pivot", "-b", text(path), &bundle.id];
                let answers = t.call(&args).ok().answers();
                assert_eq!(answers[0]["type"], "file", "{answers:?}");
                assert_eq!(answers[1]["type"], "directory", "{answers:?}");
            }
        },
    )
    .except(&[("runc", "it refuses links"), ("crun", "no oracle")]),
    Case::runc(
        "hooks of run are in the bundle, createContainer's in the root",
        |t| {
            let log = t.directory.join("log");
            let bundle = with_places(Bundle::new(t).args(&["/bin/true"]), &log);
            let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
            t.spawn(command.current_dir("/")).wait().ok();
            assert_eq!(places(&log), expected(&bundle));
        },
    ),
    Case::kernel("hooks of start and delete are in the bundle", |t| {
        let log = t.directory.join("log");
        let bundle = with_places(Bundle::new(t).args(&["/bin/true"]), &log);
        for args in [
            &["create", "-b", text(&bundle.path), &bundle.id][..],
            &["start", &bundle.id],
        ] {
            t.spawn(t.command(args).current_dir("/")).wait().ok();
        }
        let container = t.adopt(&bundle.id);
        container.wait_status("stopped");
        t.spawn(t.command(&["delete", &bundle.id]).current_dir("/"))
            .wait()
            .ok();
        assert_eq!(places(&log), expected(&bundle));
    })
    .except(&[("runc", "the caller's directory"), ("crun", "no oracle")]),
    Case::runc(
        "startContainer hooks run under a filter that refuses pidfd_open",
        |t| {
            let bundle = Bundle::new(t)
                .hook(
                    "startContainer",
                    json!({ "path": "/bin/probe", "args": ["probe", "create", "/data/hook", "ran"] }),
                )
                .probe(&["read", "/data/hook"])
                .with(|config| {
                    config["root"]["readonly"] = json!(false);
                    config["linux"]["seccomp"] = json!({
                        "defaultAction": "SCMP_ACT_ALLOW",
                        "syscalls": [{ "names": ["clone3", "pidfd_open"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }],
                    });
                });
            assert_eq!(t.run(&bundle).answer(), json!({ "text": "ran" }));
        },
    ),
];

/// A list of mounts on disk.
fn document(t: &Test, list: &Value) -> PathBuf {
    let path = t.directory.join("list.json");
    fs::write(&path, list.to_string()).expect("write");
    path
}

/// A loop device with an ext4 that has a file `mark`; it goes with this.
struct Disk {
    device: String,
}

impl Disk {
    fn new(t: &Test) -> Option<Disk> {
        let (files, image) = (t.directory.join("files"), t.directory.join("image"));
        fs::create_dir(&files).expect("mkdir");
        fs::write(files.join("mark"), "disk").expect("write");
        let file = File::create(&image).expect("create");
        file.set_len(4 << 20).expect("a size");
        said(
            "mke2fs",
            &["-q", "-t", "ext4", "-d", text(&files), text(&image)],
        )?;
        let device = said("losetup", &["-f", "--show", text(&image)])?;
        Some(Disk { device })
    }

    fn minor(&self) -> String {
        self.device.trim_start_matches("/dev/loop").to_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = said("losetup", &["-d", &self.device]);
    }
}

/// What a command of the host prints, if it is there and succeeds.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(printed)
}

/// A program that waits, under a filter that notifies this agent.
fn notifying(bundle: Bundle, agent: &Receiver) -> Bundle {
    bundle.probe(&["pause"]).with(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": text(&agent.path),
            "syscalls": [{ "names": ["mkdirat", "mkdir"], "action": "SCMP_ACT_NOTIFY" }],
        });
    })
}

fn terminal(bundle: Bundle) -> Bundle {
    bundle.with(|config| config["process"]["terminal"] = json!(true))
}

/// `run` in the foreground, with a pipe for stdout, of which the reading end
/// comes back.
fn run_into_pipe(t: &Test, bundle: &Bundle, nonblocking: bool) -> (Child, File) {
    let (reader, writer) = pipe(nonblocking);
    (run_into(t, bundle, writer), reader)
}

fn pipe(nonblocking: bool) -> (File, OwnedFd) {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("pipe");
    if nonblocking {
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("F_SETFL");
    }
    (File::from(reader), writer)
}

/// `run` in the foreground, with a terminal for stdin and stderr.
fn run_into(t: &Test, bundle: &Bundle, stdout: OwnedFd) -> Child {
    let (terminal, slave) = Terminal::pair(24, 80);
    // Open for as long as the case lives.
    std::mem::forget(terminal);
    let slave = || Stdio::from(slave.as_fd().try_clone_to_owned().expect("dup"));
    let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
    command.stdin(slave()).stderr(slave()).stdout(stdout);
    command.spawn().expect("spawn")
}

/// Waits until a pipe takes no more. Its pages are not full where writes are
/// small, so that is seen by nothing more coming.
fn wait_until_full(reader: &File) {
    let unread = || spec_tests::sys::unread(reader.as_fd());
    let mut last = 0;
    wait_until("a full pipe", || {
        let before = std::mem::replace(&mut last, unread());
        std::thread::sleep(std::time::Duration::from_millis(200));
        last > 32_768 && before == last
    });
}

/// A service manager's socket, bound.
fn manager(t: &Test) -> (UnixDatagram, PathBuf) {
    let path = t.directory.join("manager.sock");
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket
        .set_read_timeout(Some(spec_tests::runtime::HANG))
        .expect("a timeout");
    (socket, path)
}

/// The next message.
fn received(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 512];
    let size = manager.recv(&mut buffer).expect("a message");
    String::from_utf8_lossy(&buffer[..size]).into_owned()
}

const HOST_MOMENTS: [&str; 5] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "poststart",
    "poststop",
];

/// Hooks that note where they are.
fn with_places(bundle: Bundle, log: &Path) -> Bundle {
    HOST_MOMENTS.iter().fold(bundle, |bundle, moment| {
        let script = format!("echo {moment} $(pwd -P) >>{}", text(log));
        bundle.shell_hook(moment, &script)
    })
}

fn places(log: &Path) -> Vec<String> {
    let log = fs::read_to_string(log).expect("the log");
    log.lines().map(str::to_owned).collect()
}

fn expected(bundle: &Bundle) -> Vec<String> {
    let path = fs::canonicalize(&bundle.path).expect("canonicalize");
    let place = |moment: &&str| match *moment {
        "createContainer" => format!("{moment} {}/rootfs", text(&path)),
        _ => format!("{moment} {}", text(&path)),
    };
    HOST_MOMENTS.iter().map(place).collect()
}
