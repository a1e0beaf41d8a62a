//! Readiness that a container tells by `NOTIFY_SOCKET` (sd_notify(3)): what of it
//! a service manager hears from a runtime that leaves, and when that leaves.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;
use spec_tests::runtime::{HANG, text, wait_until};
use spec_tests::{Bundle, Case, Test};

pub(crate) const CASES: &[Case] = &[
    Case::runc(
        "run -d tells who is ready, and leaves when the manager has read it",
        |t| {
            let manager = Manager::new(t);
            let bundle = Bundle::new(t).probe(&["notify", "READY=1", ";", "pause"]);
            let mut command = t.command(&["run", "-d", "-b", text(&bundle.path), &bundle.id]);
            let running = t.spawn(manager.starts(&mut command));
            manager.hears_of(t, &bundle, running);
        },
    ),
    Case::runc("start tells who is ready, create waits for nobody", |t| {
        let manager = Manager::new(t);
        let bundle = Bundle::new(t).probe(&["notify", "READY=1", ";", "pause"]);
        let mut create = t.command(&["create", "-b", text(&bundle.path), &bundle.id]);
        t.spawn(manager.starts(&mut create)).wait().ok();
        let mut start = t.command(&["start", &bundle.id]);
        let running = t.spawn(manager.starts(&mut start));
        manager.hears_of(t, &bundle, running);
    }),
    Case::runc("only readiness is passed on", |t| {
        let manager = Manager::new(t);
        let words = ["MAINPID=1", "STATUS=half", "READY=1\nMAINPID=1"];
        let words: Vec<&str> = words
            .iter()
            .flat_map(|word| ["notify", word, ";"])
            .collect();
        let bundle = Bundle::new(t).probe(&[&words[..], &["pause"]].concat());
        let mut command = t.command(&["run", "-d", "-b", text(&bundle.path), &bundle.id]);
        let running = t.spawn(manager.starts(&mut command));
        manager.hears_of(t, &bundle, running);
    }),
    Case::kernel("a program that ends unready is not waited for", |t| {
        let manager = Manager::new(t);
        let bundle = Bundle::new(t).probe(&["notify", "STATUS=half"]);
        let mut command = t.command(&["run", "-d", "-b", text(&bundle.path), &bundle.id]);
        let container = t.adopt(&bundle.id);
        t.spawn(manager.starts(&mut command)).wait().ok();
        container.wait_status("stopped");
        manager.hears_nothing();
    })
    .except(&[("runc", "waits until somebody has reaped it")]),
    Case::kernel("a manager that is gone is told, the container stays", |t| {
        let manager = Manager::new(t);
        let bundle =
            Bundle::new(t).probe(&["sleep", "200", ";", "notify", "READY=1", ";", "pause"]);
        let mut command = t.command(&["run", "-d", "-b", text(&bundle.path), &bundle.id]);
        let container = t.adopt(&bundle.id);
        manager.starts(&mut command);
        drop(manager);
        let outcome = t.spawn(&mut command).wait();
        outcome.fails(1, &["that the container is ready", "connection refused"]);
        assert_eq!(container.status(), "running");
    })
    .except(&[("runc", "looks before there is a container")]),
    Case::runc(
        "run stays with its container when the manager is gone",
        |t| {
            let manager = Manager::new(t);
            let bundle =
                Bundle::new(t).probe(&["notify", "READY=1", ";", "sleep", "300", ";", "exit", "7"]);
            let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
            let _container = t.adopt(&bundle.id);
            manager.starts(&mut command);
            drop(manager);
            assert_eq!(t.spawn(&mut command).wait().code, 7);
            t.call(&["state", &bundle.id])
                .fails(1, &["container does not exist"]);
        },
    ),
    Case::kernel(
        "run passes signals on while the manager reads nothing, and readiness later",
        |t| {
            for reads in [false, true] {
                let manager = Manager::new(t);
                manager.is_full();
                let bundle = Bundle::new(t).probe(&["notify", "READY=1", ";", "await", "15"]);
                let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
                let _container = t.adopt(&bundle.id);
                let mut running = t.spawn(manager.starts(&mut command));
                running.wait_for("ready");
                if reads {
                    while manager.hears().0 != "READY=1\n" {}
                }
                kill(Pid::from_raw(running.pid()), Signal::SIGTERM).expect("kill");
                running.wait().ok();
                std::fs::remove_file(&manager.path).expect("unlink");
            }
        },
    )
    .except(&[("runc", "waits for it before it ends")]),
];

/// A service manager's end of `NOTIFY_SOCKET`.
pub(crate) struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    pub(crate) fn new(t: &Test) -> Manager {
        let path = t.directory.join("manager.sock");
        let socket = UnixDatagram::bind(&path).expect("bind");
        socket.set_read_timeout(Some(HANG)).expect("a timeout");
        Manager { socket, path }
    }

    /// The command, as the manager starts it.
    pub(crate) fn starts<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("NOTIFY_SOCKET", &self.path)
    }

    /// The next message, with the descriptor that came with it.
    pub(crate) fn hears(&self) -> (String, Option<OwnedFd>) {
        let mut buffer = [0; 512];
        let mut space = nix::cmsg_space!([i32; 1]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<()>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .expect("a notification");
        let fd = message.cmsgs().expect("control").find_map(|one| match one {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        let length = message.bytes;
        let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
        (said, fd.map(spec_tests::sys::own))
    }

    /// Hears that the bundle's container is ready from `running`, which leaves when
    /// the barrier's descriptor is closed.
    #[track_caller]
    fn hears_of(&self, t: &Test, bundle: &Bundle, mut running: spec_tests::runtime::Running) {
        let container = t.adopt(&bundle.id);
        assert_eq!(self.hears().0, "READY=1\n");
        assert_eq!(self.hears().0, format!("MAINPID={}\n", container.pid()));
        if t.is("runc") {
            // A later version brought the barrier.
            running.wait().ok();
            return;
        }
        let (said, barrier) = self.hears();
        assert_eq!(said, "BARRIER=1");
        let barrier = barrier.expect("a descriptor");
        assert!(running.is_running(), "it waits for the barrier");
        drop(barrier);
        wait_until("it leaves", || !running.is_running());
        running.wait().ok();
        assert_eq!(container.status(), "running");
        self.hears_nothing();
    }

    /// Fills its queue, as if it did not read.
    fn is_full(&self) {
        let sender = UnixDatagram::unbound().expect("socket");
        sender.set_nonblocking(true).expect("fcntl");
        while sender.send_to(b"STATUS=", &self.path).is_ok() {}
    }

    #[track_caller]
    fn hears_nothing(&self) {
        self.socket.set_nonblocking(true).expect("fcntl");
        let mut buffer = [0; 512];
        let said = self.socket.recv(&mut buffer);
        assert!(said.is_err(), "{:?}", String::from_utf8_lossy(&buffer));
    }
}
