//! What the flags of `checkpoint` and `restore` are for: connections, sockets with
//! a peer outside, memory that is fetched later, profiles; and containers that are
//! paused, or share namespaces. As in `checkpoint`, most programs count aloud.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use spec_tests::runtime::{HANG, text, wait_until};
use spec_tests::sys::{Before, before};
use spec_tests::{Bundle, Case, Container, Needs, Test};

use crate::apparmor::Profile;
use crate::checkpoint::{
    COUNT, COUNT_TO_STOP, counting, end, hierarchy, images, listen, restore, runc, save, start,
    until_running,
};

pub(crate) const CASES: &[Case] = &[
    Case::kernel("--tcp-established: a connection goes on", |t| {
        let bundle = echoing(t);
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("3");
        assert_ne!(save(t, &container, &[]).code, 0, "with a connection");
        assert_eq!(container.status(), "running");
        save(t, &container, &["--tcp-established"]).ok();
        let again = restore(t, &bundle, &["--tcp-established"]);
        again.wait_for(&(heard.last() + 3).to_string());
        assert_eq!(
            again.first(),
            heard.last() + 1,
            "nothing is lost on the way"
        );
        end(&container);
    })
    .needs(Needs::Criu)
    .except(&[("runc", "its loopback device stays down")]),
    Case::kernel("--tcp-close: a connection is cut", |t| {
        let bundle = echoing(t);
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("3");
        save(t, &container, &["--tcp-established"]).ok();
        let again = restore(t, &bundle, &["--tcp-close"]);
        wait_until("it is told", || again.text().contains("cut"));
        end(&container);
    })
    .needs(Needs::Criu)
    .except(&[("runc", "crun's option")]),
    Case::kernel("--network-lock: by either firewall", |t| {
        for lock in ["iptables", "nftables"] {
            let bundle = echoing(t);
            let heard = start(t, &bundle, &["run", "-d"]);
            let container = t.adopt(&bundle.id);
            heard.wait_for("3");
            let flags = ["--tcp-established", "--network-lock", lock];
            save(t, &container, &flags).ok();
            let again = restore(t, &bundle, &["--tcp-established"]);
            again.wait_for(&(heard.last() + 1).to_string());
            end(&container);
            fs::remove_dir_all(images(t)).expect("rm");
        }
    })
    .needs(Needs::Criu)
    .except(&[("runc", "crun's option")]),
    runc("--ext-unix-sk: a socket with a peer outside", |t| {
        // criu names the peer by its path, which must be the same inside.
        let host = t.directory.join("host");
        fs::create_dir(&host).expect("mkdir");
        let path = host.join("socket");
        let peer = UnixDatagram::bind(&path).expect("bind");
        peer.set_read_timeout(Some(HANG)).expect("a timeout");
        let hear = || {
            let mut buffer = [0; 64];
            let size = peer.recv(&mut buffer).expect("a number");
            let text = String::from_utf8_lossy(&buffer[..size]).into_owned();
            text.parse::<u64>().expect("a number")
        };
        let bundle = Bundle::new(t).probe(&["tell", text(&path)]).mount(
            text(&host),
            "bind",
            text(&host),
            &["bind"],
        );
        // Else criu does not see the peer.
        let bundle = bundle.without_namespace("network");
        start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        assert_eq!((hear(), hear()), (1, 2));
        assert_ne!(save(t, &container, &[]).code, 0, "with a peer outside");
        save(t, &container, &["--ext-unix-sk"]).ok();
        peer.set_nonblocking(true).expect("fcntl");
        let mut last = 2;
        while peer.recv(&mut [0; 64]).is_ok() {
            last += 1;
        }
        peer.set_nonblocking(false).expect("fcntl");
        restore(t, &bundle, &["--ext-unix-sk"]);
        assert_eq!(hear(), last + 1);
        end(&container);
    }),
    runc("--shell-job is taken by both", |t| {
        let flags = ["--shell-job"];
        end(&goes_on(t, &counting(t), &flags, &flags));
    }),
    runc(
        "--manage-cgroups-mode: each goes on in the container's cgroup",
        |t| {
            let modes = ["soft", "full", "ignore"];
            // 1.2 brought the last.
            for mode in &modes[..if t.is("runc") { 2 } else { 3 }] {
                let bundle = counting(t);
                let heard = start(t, &bundle, &["run", "-d"]);
                let container = t.adopt(&bundle.id);
                heard.wait_for("1");
                let flags = ["--manage-cgroups-mode", mode];
                save(t, &container, &flags).ok();
                let again = restore(t, &bundle, &flags);
                again.wait_for(&(heard.last() + 1).to_string());
                let processes = t.knob(hierarchy(t, "pids"), &bundle.id, "cgroup.procs");
                let pid = container.pid().to_string();
                assert!(
                    processes.lines().any(|line| line == pid),
                    "{mode}: {processes}"
                );
                end(&container);
                fs::remove_dir_all(images(t)).expect("rm");
            }
        },
    ),
    Case::kernel(
        "--manage-cgroups-mode strict: a cgroup that is there is refused",
        |t| {
            let bundle = counting(t);
            let heard = start(t, &bundle, &["run", "-d"]);
            let container = t.adopt(&bundle.id);
            heard.wait_for("1");
            let flags = ["--manage-cgroups-mode", "strict"];
            save(t, &container, &flags).ok();
            let images = images(t);
            let mut args = vec!["restore", "-d", "--bundle", text(&bundle.path)];
            args.extend(flags);
            args.extend(["--image-path", text(&images), &bundle.id]);
            t.call(&args).fails(1, &["criu failed"]);
            assert!(!t.call(&["list", "-q"]).ok().stdout.contains(&bundle.id));
            assert!(!t.cgroup(hierarchy(t, "pids"), &bundle.id).exists());
        },
    )
    .needs(Needs::Criu)
    .except(&[("runc", "1.1 restores as if it were soft")]),
    runc("--empty-ns network is what holds anyhow", |t| {
        let flags = ["--empty-ns", "network"];
        end(&goes_on(t, &counting(t), &flags, &flags));
    }),
    Case::kernel("--link-remap: a deleted file that has another name", |t| {
        let script = "/bin/busybox touch /data/a; exec 3<>/data/a; \
                      /bin/busybox ln /data/a /data/b; /bin/busybox rm /data/a; ";
        let bundle = Bundle::new(t).shell(&format!("{script}{COUNT}"));
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("1");
        assert_ne!(save(t, &container, &[]).code, 0, "with such a file");
        save(t, &container, &["--link-remap"]).ok();
        let again = restore(t, &bundle, &[]);
        again.wait_for(&(heard.last() + 1).to_string());
        let same = |path: PathBuf| fs::metadata(&path).expect("stat").ino();
        let open = format!("/proc/{}/fd/3", container.pid());
        assert_eq!(same(open.into()), same(bundle.rootfs().join("data/b")));
        end(&container);
    })
    .needs(Needs::Criu)
    .except(&[("runc", "a later version brought the option")]),
    runc(
        "--auto-dedup: pages leave the images as they are restored",
        |t| {
            let bundle = Bundle::new(t).probe(&["hold-memory", "4"]);
            let heard = start(t, &bundle, &["run", "-d"]);
            let container = t.adopt(&bundle.id);
            wait_until("it has memory", || heard.text().contains("held"));
            save(t, &container, &[]).ok();
            let blocks = || {
                fs::metadata(images(t).join("pages-1.img"))
                    .expect("pages")
                    .blocks()
            };
            let before = blocks();
            restore(t, &bundle, &["--auto-dedup"]);
            assert!(
                before > 8000 && blocks() < before / 2,
                "{before} {}",
                blocks()
            );
            end(&container);
        },
    ),
    runc("--page-server: memory goes to another criu", |t| {
        let bundle = counting(t);
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("1");
        fs::create_dir(images(t)).expect("mkdir");
        let server = Criu::start(t, &["page-server", "--port", "6127"]);
        // 6127, as the kernel writes it.
        wait_until("it listens", || listens("17EF"));
        save(t, &container, &["--page-server", "127.0.0.1:6127"]).ok();
        server.ended();
        restore(t, &bundle, &[]).wait_for(&(heard.last() + 1).to_string());
        end(&container);
    }),
    Case::kernel("--lazy-pages: memory is fetched when it is touched", |t| {
        let bundle = counting(t);
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("1");
        let images = images(t);
        let (mut told, status) = std::io::pipe().expect("a pipe");
        let mut args = vec![
            "checkpoint",
            "--lazy-pages",
            "--page-server",
            "127.0.0.1:6128",
        ];
        args.extend([
            "--status-fd",
            "7",
            "--image-path",
            text(&images),
            &bundle.id,
        ]);
        let mut command = t.command(&args);
        before(&mut command, Before::Descriptor(status.into(), 7));
        let saving = t.spawn(&mut command);
        drop(command);
        let mut nul = [1];
        std::io::Read::read_exact(&mut told, &mut nul).expect("a NUL when criu waits");
        assert_eq!(nul, [0]);
        let last = heard.last();
        let daemon = [
            "lazy-pages",
            "--page-server",
            "--address",
            "127.0.0.1",
            "--port",
            "6128",
        ];
        let daemon = Criu::start(t, &daemon);
        wait_until("it listens", || images.join("lazy-pages.socket").exists());
        // The first is there until its memory is.
        let second = counting(t);
        let mut args = vec![
            "restore",
            "-d",
            "--lazy-pages",
            "--bundle",
            text(&second.path),
        ];
        args.extend(["--image-path", text(&images), &second.id]);
        let again = listen(t.command(&args));
        again.wait_for(&(last + 2).to_string());
        saving.wait().ok();
        daemon.ended();
        end(&t.adopt(&second.id));
        assert!(!t.call(&["list", "-q"]).ok().stdout.contains(&container.id));
    })
    .needs(Needs::Criu)
    .except(&[("runc", "leaves the cgroup")]),
    Case::runc("--lsm-profile: another profile than before", |t| {
        let (first, second) = (Profile::load(t), Profile::load(t));
        let bundle = counting(t).with(|config| {
            config["process"]["apparmorProfile"] = json!(first.name);
        });
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("1");
        save(t, &container, &[]).ok();
        let profile = format!("apparmor:{}", second.name);
        restore(t, &bundle, &["--lsm-profile", &profile]).wait_for(&(heard.last() + 1).to_string());
        let path = format!("/proc/{}/attr/apparmor/current", container.pid());
        let current = fs::read_to_string(path).expect("a profile");
        assert_eq!(current.trim(), format!("{} (enforce)", second.name));
        end(&container);
    })
    .needs(Needs::AppArmor),
    runc("--no-subreaper: in the foreground as well", |t| {
        let bundle = Bundle::new(t).shell(&format!("{COUNT_TO_STOP}; exit 7"));
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("1");
        save(t, &container, &[]).ok();
        let images = images(t);
        let mut args = vec!["restore", "--no-subreaper", "--bundle", text(&bundle.path)];
        args.extend(["--image-path", text(&images), &bundle.id]);
        let running = t.spawn(&mut t.command(&args));
        until_running(t, &bundle);
        fs::write(bundle.rootfs().join("stop"), "").expect("write");
        assert_eq!(running.wait().code, 7);
    }),
    runc("a joined network namespace is joined again", |t| {
        let holder = Holder::of(t, &["--net"]);
        let bundle = joining(counting(t), "network", &holder.namespace("net"));
        let container = goes_on(t, &bundle, &[], &[]);
        let path = format!("/proc/{}/ns/net", container.pid());
        assert_eq!(
            fs::read_link(path).expect("readlink"),
            fs::read_link(holder.namespace("net")).expect("readlink")
        );
    }),
    runc("a joined pid namespace is joined again", |t| {
        let holder = Holder::of(t, &["--pid", "--fork", "--kill-child"]);
        let bundle = joining(counting(t), "pid", &holder.namespace("pid_for_children"));
        let container = goes_on(t, &bundle, &[], &[]);
        let path = format!("/proc/{}/ns/pid", container.pid());
        assert_eq!(
            fs::read_link(path).expect("readlink"),
            fs::read_link(holder.namespace("pid_for_children")).expect("readlink")
        );
    }),
    runc("org.criu.config names a file of criu's options", |t| {
        let path = t.directory.join("criu.conf");
        fs::write(&path, "ghost-limit 4M\n").expect("write");
        let bundle = holding_a_ghost(t).annotation("org.criu.config", text(&path));
        end(&goes_on(t, &bundle, &[], &[]));
    }),
    Case::kernel("/etc/criu/rrun.conf has criu's options", |t| {
        let bundle = holding_a_ghost(t);
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("1");
        save(t, &container, &[]).fails(1, &["ghost file"]);
        fs::create_dir_all("/etc/criu").expect("mkdir");
        let path = Path::new("/etc/criu/rrun.conf");
        fs::write(path, "ghost-limit 4M\n").expect("write");
        let saved = save(t, &container, &[]);
        fs::remove_file(path).expect("rm");
        saved.ok();
        restore(t, &bundle, &[]).wait_for(&(heard.last() + 1).to_string());
        end(&container);
    })
    .needs(Needs::Criu)
    .except(&[("runc", "reads a file of its own")]),
    runc("a paused container is written, and restored running", |t| {
        let bundle = counting(t);
        let heard = start(t, &bundle, &["run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("1");
        t.call(&["pause", &bundle.id]).ok();
        save(t, &container, &[]).ok();
        restore(t, &bundle, &[]).wait_for(&(heard.last() + 1).to_string());
        assert_eq!(container.status(), "running");
        end(&container);
    }),
    Case::kernel("a container in a user namespace", |t| {
        let bundle = counting(t).in_user_namespace(100_000);
        end(&goes_on(t, &bundle, &[], &[]));
    })
    .needs(Needs::Criu)
    .except(&[("runc", "its images are closed to the container's root")]),
];

/// Counts over a connection to itself, aloud; then says that it was cut.
fn echoing(t: &Test) -> Bundle {
    // 5000 is 1388, state 0A listens.
    let script = "/bin/busybox nc -l -p 5000 -e /bin/cat & \
                  until /bin/busybox grep -q ':1388 .* 0A ' /proc/net/tcp /proc/net/tcp6; do /bin/busybox usleep 20000; done; \
                  (COUNT) | /bin/busybox nc 127.0.0.1 5000; echo cut; exec /bin/sleep 1000";
    Bundle::new(t).shell(&script.replace("COUNT", COUNT))
}

/// Has a deleted file, which is written along only if it is small, by default.
fn holding_a_ghost(t: &Test) -> Bundle {
    let script = "/bin/dd if=/dev/zero of=/data/a bs=65536 count=32 2>/dev/null; \
                  exec 3<>/data/a; /bin/busybox rm /data/a; ";
    Bundle::new(t).shell(&format!("{script}{COUNT}"))
}

fn joining(bundle: Bundle, kind: &str, path: &Path) -> Bundle {
    bundle.without_namespace(kind).with(|config| {
        let namespace = json!({ "type": kind, "path": path });
        spec_tests::bundle::push(&mut config["linux"]["namespaces"], namespace);
    })
}

/// Writes the container of the bundle, restores it, and hears that it counts on.
#[track_caller]
fn goes_on<'t>(t: &'t Test, bundle: &Bundle, saving: &[&str], restoring: &[&str]) -> Container<'t> {
    let heard = start(t, bundle, &["run", "-d"]);
    let container = t.adopt(&bundle.id);
    heard.wait_for("2");
    save(t, &container, saving).ok();
    let again = restore(t, bundle, restoring);
    again.wait_for(&(heard.last() + 2).to_string());
    assert_eq!(again.first(), heard.last() + 1, "it counts on");
    container
}

/// Whether somebody listens on this TCP port, in hexadecimal.
fn listens(port: &str) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
    let mut lines = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.any(|words| words[1].ends_with(&format!(":{port}")) && words[3] == "0A")
}

/// A criu beside the runtime's, in the directory of the images.
struct Criu(Child);

impl Criu {
    fn start(t: &Test, words: &[&str]) -> Criu {
        let log = File::create(t.directory.join(format!("{}.log", words[0]))).expect("a log");
        let mut command = Command::new("criu");
        command
            .args(words)
            .arg("--images-dir")
            .arg(images(t))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("dup"))
            .stderr(log);
        Criu(command.spawn().expect("criu"))
    }

    #[track_caller]
    fn ended(mut self) {
        let mut status = None;
        wait_until("criu ends", || {
            status = self.0.try_wait().expect("wait");
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process whose namespaces are joined; it ends with the case.
struct Holder(Child);

impl Holder {
    fn of(t: &Test, flags: &[&str]) -> Holder {
        let ready = t.directory.join("held");
        // The first of a pid namespace reaps.
        let stay = match flags.contains(&"--pid") {
            true => "sleep 1000 & wait",
            false => "exec sleep 1000",
        };
        let script = format!(": >{}; {stay}", text(&ready));
        let mut command = Command::new("unshare");
        command.args(flags).args(["sh", "-c", &script]);
        let holder = Holder(command.stdin(Stdio::null()).spawn().expect("unshare"));
        wait_until("it holds", || ready.exists());
        holder
    }

    fn namespace(&self, kind: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{kind}", self.0.id()))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
