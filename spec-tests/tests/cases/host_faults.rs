//! A host that fails: disks that are full or read-only, hooks that hang or
//! print without end, cgroups and processes that somebody else took away. Each
//! command ends with success or with a clear error, and nothing is left.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use spec_tests::runtime::{Outcome, Running, text, wait_until};
use spec_tests::{Bundle, Case, Test, leftovers, sys};

pub(crate) const CASES: &[Case] = &[
    Case::kernel("a hook whose file can't be opened in time fails", |t| {
        let bundle = Bundle::new(t).probe(&["true"]);
        let file = bundle.path.join("hook");
        fs::copy("/bin/true", &file).expect("copy");
        // The kernel lets nobody open it as long as we have the lease.
        let _lease = lease(&file);
        let hook = json!({ "path": text(&file), "timeout": 1 });
        t.run(&bundle.hook("createRuntime", hook))
            .fails(1, &["createRuntime hook #0", "timed out after 1 s"]);
    }),
    Case::kernel("delete --force waits for no hook", |t| {
        for moment in [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
        ] {
            hang_and_delete(t, moment);
        }
    }),
    Case::kernel("a hook may print more than anybody reads", |t| {
        let print = "dd if=/dev/zero bs=65536 count=160 2>/dev/null | tr '\\000' x; echo reason";
        let bundle = Bundle::new(t).probe(&["true"]);
        let good = bundle.clone().shell_hook("createRuntime", print);
        t.run(&good).ok();
        let bad = bundle.shell_hook("createRuntime", &format!("{{ {print}; }} >&2; exit 3"));
        let outcome = t.run(&bad).fails(1, &["exit status 3", "reason"]);
        assert!(outcome.stderr.len() < 8192, "{}", outcome.stderr.len());
    }),
    Case::kernel("what a hook leaves running may print for ever", |t| {
        // It ends by SIGPIPE, once the hook is done.
        let bundle = Bundle::new(t).probe(&["true"]);
        t.run(&bundle.shell_hook("createRuntime", "yes & exit 0"))
            .ok();
    }),
    Case::kernel("a state directory without room fails clearly", |t| {
        let mut made = 0;
        for pages in 1..=6 {
            made += u32::from(create_in_pages(t, pages));
        }
        assert!((1..6).contains(&made), "{made} of 6");
    }),
    Case::kernel("a disk that is full after create keeps nobody off", |t| {
        let disk = Disk::new(t, 64);
        let bundle = Bundle::new(t).probe(&["pause"]);
        disk.call(t, &["create", "-b", text(&bundle.path), &bundle.id])
            .ok();
        disk.fill();
        let pid_file = disk.path.join("pid");
        let exec = ["exec", "--pid-file", text(&pid_file), &bundle.id];
        disk.call(t, &["start", &bundle.id]).ok();
        disk.call(t, &["state", &bundle.id]).ok();
        disk.call(t, &[&exec[..], &["/bin/probe", "true"]].concat())
            .fails(255, &["no space left on device"]);
        let half = |name: &str| disk.path.join(name).exists();
        assert!(!half("pid") && !half(".pid"), "half a pid file");
        disk.call(t, &["exec", &bundle.id, "/bin/probe", "true"])
            .ok();
        disk.call(t, &["kill", &bundle.id, "KILL"]).ok();
        disk.wait_stopped(t, &bundle.id);
        disk.call(t, &["delete", &bundle.id]).ok();
    }),
    Case::kernel("a read-only state directory can be read", |t| {
        let disk = Disk::new(t, 64);
        let bundle = Bundle::new(t).probe(&["pause"]);
        let other = Bundle::new(t).probe(&["pause"]);
        disk.call(t, &["create", "-b", text(&bundle.path), &bundle.id])
            .ok();
        disk.call(t, &["start", &bundle.id]).ok();
        disk.remount(MsFlags::MS_RDONLY);
        disk.call(t, &["state", &bundle.id]).ok();
        let listed = disk.call(t, &["list", "-q"]).ok().stdout;
        assert_eq!(listed.trim(), bundle.id);
        disk.call(t, &["ps", "-f", "json", &bundle.id]).ok();
        disk.call(t, &["create", "-b", text(&other.path), &other.id])
            .fails(1, &["read-only file system"]);
        disk.call(t, &["kill", &bundle.id, "KILL"]).ok();
        disk.wait_stopped(t, &bundle.id);
        disk.call(t, &["delete", &bundle.id])
            .fails(1, &["read-only file system"]);
        disk.remount(MsFlags::empty());
        disk.call(t, &["delete", "--force", &bundle.id]).ok();
    }),
    Case::kernel("a cgroup that somebody removed keeps nobody off", |t| {
        let bundle = Bundle::new(t).probe(&["pause"]);
        let container = t.start(&bundle);
        assert!(remove_cgroups(&bundle.id, container.pid()) > 0);
        assert_eq!(container.status(), "running");
        for args in [
            &["pause", &bundle.id][..],
            &["update", "--pids-limit", "20", &bundle.id],
            &["exec", &bundle.id, "/bin/probe", "true"],
            &["ps", "-f", "json", &bundle.id],
        ] {
            clear(args, &t.call(args));
        }
        container.kill("KILL").ok();
        container.wait_status("stopped");
        container.delete().ok();
    }),
    Case::kernel("without a cgroup: cgroup not exist", |t| {
        let bundle = Bundle::new(t).probe(&["pause"]);
        let container = t.start(&bundle);
        assert!(remove_cgroups(&bundle.id, container.pid()) > 0);
        for args in [
            &["pause", &bundle.id][..],
            &["update", "--pids-limit", "20", &bundle.id],
            &["events", "--stats", &bundle.id],
        ] {
            t.call(args).fails(1, &["cgroup not exist"]);
        }
        assert_eq!(container.status(), "running");
    })
    .except(&[("runc", "names the file that is missing")]),
    Case::kernel(
        "a process that somebody killed is a stopped container",
        |t| {
            for begun in [false, true] {
                let bundle = Bundle::new(t).probe(&["pause"]);
                let container = match begun {
                    true => t.start(&bundle),
                    false => t.create(&bundle),
                };
                kill(Pid::from_raw(container.pid()), Signal::SIGKILL).expect("kill");
                container.wait_status("stopped");
                container.start().fails(1, &["cannot start"]);
                container.kill("TERM").fails(1, &["container not running"]);
                container
                    .probe(&[], &["true"])
                    .fails(255, &["cannot exec in a stopped container"]);
                t.call(&["pause", &bundle.id])
                    .fails(1, &["pause", "container not running"]);
                container.delete().ok();
            }
        },
    ),
    Case::kernel("a bus that is dead or hangs up is an error", |t| {
        if Path::new("/run/systemd/private").exists() {
            t.does_not_apply("systemd answers at its own socket instead");
        }
        let dead = t.directory.join("dead");
        let closing = t.directory.join("closing");
        let listener = UnixListener::bind(&closing).expect("bind");
        std::thread::spawn(move || listener.incoming().for_each(drop));
        for path in [&dead, &closing] {
            let bundle = Bundle::new(t).probe(&["true"]);
            let scope = format!("system.slice:st:{}", bundle.id);
            let bundle = bundle.with(|config| config["linux"]["cgroupsPath"] = json!(scope));
            let mut run = t.command(&["--systemd-cgroup", "run"]);
            run.args(["-b", text(&bundle.path), &bundle.id]);
            run.env(
                "DBUS_SYSTEM_BUS_ADDRESS",
                format!("unix:path={}", text(path)),
            );
            let said = t.spawn(&mut run).wait().fails(1, &["systemd"]).stderr;
            assert!(said.contains(text(path)), "{said}");
            t.call(&["state", &bundle.id])
                .fails(1, &["container does not exist"]);
        }
    }),
    Case::kernel("many containers side by side", |t| {
        // All of one root filesystem; each step of all of them at once.
        let bundle = Bundle::new(t).probe(&["pause"]);
        let ids: Vec<String> = (0..t.rounds(200, 32)).map(|_| t.id()).collect();
        let all = |command: &dyn Fn(&str) -> Running| {
            let running: Vec<Running> = ids.iter().map(|id| command(id)).collect();
            for one in running {
                one.wait().ok();
            }
        };
        let count = || t.call(&["list", "-q"]).ok().stdout.lines().count();
        all(&|id| create_beside(t, &bundle, id));
        assert_eq!(count(), ids.len());
        all(&|id| t.spawn(&mut t.command(&["start", id])));
        let list = t.call(&["list", "-f", "json"]).json();
        let list = list.as_array().expect("an array");
        assert_eq!(list.len(), ids.len());
        for one in list {
            assert_eq!(one["status"], "running", "{one}");
        }
        all(&|id| t.spawn(&mut t.command(&["delete", "--force", id])));
        assert_eq!(count(), 0);
        let mut left = leftovers::beside(Duration::from_secs(10));
        left.extend(leftovers::cgroups(&t.prefix));
        left.extend(leftovers::mounts(&t.directory));
        assert!(left.is_empty(), "{left:?}");
    }),
];

/// Creates a container of its own name on the root filesystem of `bundle`.
fn create_beside(t: &Test, bundle: &Bundle, id: &str) -> Running {
    let mut config = bundle.config().clone();
    config["root"]["path"] = json!(bundle.rootfs());
    config["linux"]["cgroupsPath"] = json!(format!("/{id}"));
    let directory = t.directory.join(id);
    fs::create_dir(&directory).expect("mkdir");
    fs::write(directory.join("config.json"), config.to_string()).expect("config.json");
    t.spawn(&mut t.command(&["create", "-b", text(&directory), id]))
}

/// Lets a hook of this moment hang without a timeout, and deletes the
/// container meanwhile.
fn hang_and_delete(t: &Test, moment: &str) {
    // The hook tells that it is there by taking this file away, from wherever
    // it stands.
    let bundle = Bundle::new(t).probe(&["pause"]).file("data/mark", "");
    let mark = bundle.rootfs().join("data/mark");
    let bundle = match moment {
        "startContainer" => bundle.hook(
            moment,
            json!({ "path": "/bin/probe",
                    "args": ["probe", "create", "/data/came", "x", ";", "pause"] }),
        ),
        _ => {
            let came = bundle.rootfs().join("data/came");
            let script = format!("echo x > {}; exec sleep 1000", text(&came));
            bundle.shell_hook(moment, &script)
        }
    };
    let came = mark.with_file_name("came");
    let create = ["create", "-b", text(&bundle.path), &bundle.id];
    let hanging = match moment {
        "startContainer" | "poststart" => {
            t.call(&create).ok();
            t.spawn(&mut t.command(&["start", &bundle.id]))
        }
        _ => t.spawn(&mut t.command(&create)),
    };
    wait_until("the hook", || came.exists());
    t.call(&["delete", "--force", &bundle.id]).ok();
    hanging.wait().fails(1, &["rrun: "]);
    t.call(&["state", &bundle.id])
        .fails(1, &["container does not exist"]);
}

/// Creates a container in a state directory of so many pages. Whether that
/// succeeded; if not, the reason was the room and nothing is left.
fn create_in_pages(t: &Test, pages: u32) -> bool {
    let disk = Disk::new(t, pages);
    let bundle = Bundle::new(t).probe(&["pause"]);
    let outcome = disk.call(t, &["create", "-b", text(&bundle.path), &bundle.id]);
    let succeeded = outcome.code == 0;
    if !succeeded {
        outcome.fails(1, &["no space left on device"]);
        let left = fs::read_dir(&disk.path).expect("readdir").count();
        assert_eq!(left, 0, "{pages} pages");
    }
    disk.call(t, &["delete", "--force", &bundle.id]).ok();
    succeeded
}

/// A success, or an error in one line that says what it is about.
#[track_caller]
fn clear(args: &[&str], outcome: &Outcome) {
    let said = outcome.stderr.trim_end();
    assert!(
        outcome.code == 0
            || (said.starts_with("rrun: ")
                && (said.contains("cgroup") || said.contains("controller"))),
        "{args:?}: {outcome:?}"
    );
}

/// The right to be asked before somebody opens the file (fcntl(2), "Leases").
fn lease(path: &Path) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("open");
    let fd = i64::from(file.as_raw_fd());
    // Asked by a signal that is ignored unless somebody wants it.
    for (command, argument) in [(10, i64::from(libc::SIGURG)), (1024, 1)] {
        sys::raw(libc::SYS_fcntl, [fd, command, argument, 0, 0, 0]).expect("F_SETLEASE");
    }
    file
}

/// Moves the process to the root of each hierarchy and removes the cgroups
/// that the container had there; how many those were.
fn remove_cgroups(id: &str, pid: i32) -> u32 {
    let mut removed = 0;
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        let root = Path::new(line.split(' ').nth(4).expect("a mount point"));
        let cgroup = root.join(id);
        if cgroup.is_dir() {
            fs::write(root.join("cgroup.procs"), pid.to_string()).expect("move");
            fs::remove_dir(&cgroup).expect("rmdir");
            removed += 1;
        }
    }
    removed
}

/// A tmpfs for a state directory; dropped, it is unmounted, once what is in it
/// is deleted.
struct Disk {
    runtime: PathBuf,
    path: PathBuf,
}

impl Disk {
    /// One of so many pages.
    fn new(t: &Test, pages: u32) -> Disk {
        let path = t.directory.join(t.id());
        fs::create_dir(&path).expect("mkdir");
        let options = format!("size={},mode=700", pages * 4096);
        let none = MsFlags::empty();
        mount(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            none,
            Some(options.as_str()),
        )
        .expect("mount");
        let runtime = t.runtime.clone();
        Disk { runtime, path }
    }

    /// A command of the runtime with its state here.
    #[track_caller]
    fn call(&self, t: &Test, args: &[&str]) -> Outcome {
        let mut command = t.command(&[]);
        command.arg("--root").arg(&self.path).args(args);
        t.spawn(&mut command).wait()
    }

    /// Leaves no room.
    fn fill(&self) {
        let full = fs::write(self.path.join("filler"), vec![0; 1 << 20]);
        full.expect_err("a full disk");
    }

    fn remount(&self, flags: MsFlags) {
        let none: Option<&str> = None;
        let flags = flags | MsFlags::MS_REMOUNT;
        // Busy until the last who writes there has closed his file.
        wait_until("the remount", || {
            match mount(none, &self.path, none, flags, none) {
                Err(nix::errno::Errno::EBUSY) => false,
                done => done.map(|()| true).expect("remount"),
            }
        });
    }

    fn wait_stopped(&self, t: &Test, id: &str) {
        wait_until("stopped", || {
            self.call(t, &["state", id]).json()["status"] == "stopped"
        });
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let mut delete = Command::new(&self.runtime);
            delete.arg("--root").arg(&self.path);
            let _ = delete
                .args(["delete", "--force"])
                .arg(entry.file_name())
                .output();
        }
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}
