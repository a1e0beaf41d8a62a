//! What the host keeps from a container that has rights of its own: locks of its
//! mounts, other people's cgroups, what is seen of who enters, its kernel parameters.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use spec_tests::runtime::text;
use spec_tests::{Bundle, Case, Test};

pub(crate) const CASES: &[Case] = &[
    Case::runc(
        "a mount that the host has read-only is not made writable from a user namespace",
        |t| {
            let source = tmpfs(t, "source");
            fs::write(source.join("file"), "").expect("write");
            fs::set_permissions(source.join("file"), fs::Permissions::from_mode(0o666))
                .expect("chmod");
            mount(&["-o", "remount,ro,nosuid,nodev,noexec", text(&source)]);
            let script = "busybox mount -o remount,bind,rw /data 2>/dev/null; echo $?; echo x >/data/file; echo $?";
            let bundle =
                administrator(t, script).mount("/data", "bind", text(&source), &["rbind", "ro", "nosuid", "nodev", "noexec"]);
            let outcome = t.run(&bundle);
            unmount(&source);
            assert_eq!(outcome.stdout, "1\n1\n", "{}", outcome.stderr);
        },
    ),
    Case::runc(
        "what a mount of the host covers is not uncovered from a user namespace",
        |t| {
            let source = t.directory.join("source");
            fs::create_dir_all(source.join("covered")).expect("mkdir");
            fs::write(source.join("covered/secret"), "secret").expect("write");
            mount(&["-t", "tmpfs", "tmpfs", text(&source.join("covered"))]);
            let script = "busybox umount /data/covered 2>/dev/null; echo $?; cat /data/covered/secret 2>/dev/null; echo $?";
            let bundle = administrator(t, script).mount("/data", "bind", text(&source), &["rbind"]);
            let outcome = t.run(&bundle);
            unmount(&source.join("covered"));
            assert_eq!(outcome.stdout, "1\n1\n", "{}", outcome.stderr);
        },
    ),
    Case::runc(
        "a mount made in a user namespace never comes to the host, also with rshared",
        |t| {
            let source = tmpfs(t, "source");
            mount(&["--make-shared", text(&source)]);
            fs::create_dir(source.join("inner")).expect("mkdir");
            let script =
                "busybox mount -t tmpfs inner /data/inner && echo mounted; head -n 1 >/dev/null";
            let bundle = administrator(t, script)
                .mount("/data", "bind", text(&source), &["rbind", "rshared"])
                .with(|config| config["linux"]["rootfsPropagation"] = json!("rshared"));
            let outcome = t.run(&bundle);
            let inner = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
            let came = inner.contains(text(&source.join("inner")));
            if came {
                unmount(&source.join("inner"));
            }
            unmount(&source);
            assert_eq!(outcome.stdout, "mounted\n", "{}", outcome.stderr);
            assert!(!came, "the container's mount is on the host");
        },
    ),
    Case::kernel(
        "a mount that comes to a running container of a user namespace stays as read-only as it came",
        |t| {
            let source = tmpfs(t, "source");
            mount(&["-o", "remount,ro,nosuid,nodev,noexec", text(&source)]);
            let list = t.directory.join("mounts.json");
            let options = ["rbind", "ro", "nosuid", "nodev", "noexec"];
            let one = json!([{ "destination": "/data", "source": text(&source), "options": options }]);
            fs::write(&list, one.to_string()).expect("write");
            let script = "read line; busybox mount -o remount,bind,rw /data 2>/dev/null; echo $?; \
                busybox sleep 1000";
            let fifo = t.directory.join("fifo");
            nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
            fs::set_permissions(&fifo, fs::Permissions::from_mode(0o666)).expect("chmod");
            let bundle = administrator(t, &script.replace("read line", "read line </tmp/fifo"))
                .mount("/tmp/fifo", "bind", text(&fifo), &["bind"]);
            let container = t.start(&bundle);
            let outcome = t.call(&["mounts", "add", &container.id, text(&list)]);
            fs::write(&fifo, "go\n").expect("write");
            container.wait_for("\n");
            let said = container.stdout();
            unmount(&source);
            outcome.ok();
            assert_eq!(said, "1\n");
        },
    )
    .except(&[("runc", "has no such command"), ("crun", "1.8.1 has no such command")]),
    Case::kernel(
        "a cgroup with processes below it is somebody else's: refused, and nobody is killed",
        |t| {
            let id = t.id();
            let inner: Vec<_> = ["", "pids", "memory", "devices"]
                .iter()
                .filter_map(|controller| t.hierarchy(controller))
                .map(|top| top.join(&id).join("inner"))
                .collect();
            for directory in &inner {
                fs::create_dir_all(directory).expect("mkdir");
            }
            let mut stranger = Command::new("sleep").arg("1000").spawn().expect("sleep");
            for directory in &inner {
                fs::write(directory.join("cgroup.procs"), stranger.id().to_string()).expect("join");
            }
            let bundle = Bundle::new(t)
                .probe(&["true"])
                .with(|config| config["linux"]["cgroupsPath"] = json!(format!("/{id}")));
            let outcome = t.run(&bundle);
            let alive = stranger.try_wait().expect("wait").is_none();
            let _ = stranger.kill();
            let _ = stranger.wait();
            for directory in &inner {
                fs::remove_dir(directory).expect("rmdir");
                let _ = fs::remove_dir(directory.parent().expect("a parent"));
            }
            assert!(alive, "the stranger was killed");
            outcome.fails(1, &["container's cgroup is not empty: 1 process(es) found"]);
        },
    )
    .except(&[
        ("runc", "1.1.5 looks at the top alone"),
        ("crun", "takes it over"),
    ]),
    Case::kernel(
        "a process that enters shows the container neither the host's mounts nor its command line",
        |t| {
            let script = "echo ready; while :; do for p in /proc/[0-9]*; do \
                cat $p/cmdline $p/mountinfo 2>/dev/null; done; done | busybox grep -a -m 1 -o -e SEC[R]ET -e of-the-h[o]st";
            let marker = tmpfs(t, "of-the-host");
            let bundle = Bundle::new(t).shell(script).in_user_namespace(100_000);
            let container = t.start(&bundle);
            container.wait_for("ready");
            for _ in 0..t.rounds(200, 20) {
                let _ = container.probe(&["-e", "WORD=SECRET"], &["true"]);
            }
            let seen = container.stdout();
            unmount(&marker);
            assert_eq!(seen, "ready\n");
        },
    )
    .except(&[("runc", "1.1.5 shows the host's mounts")]),
    Case::kernel(
        "what a hook leaves running in the cgroup of a container that fails is killed with it",
        |t| {
            let bundle = Bundle::new(t)
                .args(&["/no/such/program"])
                .without_namespace("pid")
                .shell_hook("createContainer", "sleep 1000 >/dev/null 2>&1 </dev/null &");
            // The runner looks for what is left.
            t.run(&bundle).fails(1, &["/no/such/program"]);
        },
    )
    .except(&[("runc", "leaves it"), ("crun", "leaves it")]),
    Case::runc(
        "a kernel parameter of the host's is not set by way of a joined namespace",
        |t| {
            let parameter = "/proc/sys/net/ipv4/ip_forward";
            let before = fs::read_to_string(parameter).expect("read");
            let bundle = Bundle::new(t)
                .probe(&["true"])
                .without_namespace("network")
                .with(|config| {
                    let all = config["linux"]["namespaces"]
                        .as_array_mut()
                        .expect("namespaces");
                    all.push(json!({ "type": "network", "path": "/proc/self/ns/net" }));
                    config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "7" });
                });
            t.run(&bundle)
                .fails(1, &["net", "not allowed in host network namespace"]);
            assert_eq!(fs::read_to_string(parameter).expect("read"), before);
        },
    ),
];

/// A container in a user namespace in which it has every right.
fn administrator(t: &Test, script: &str) -> Bundle {
    Bundle::new(t)
        .shell(script)
        .in_user_namespace(100_000)
        .with(|config| {
            for set in ["bounding", "effective", "permitted"] {
                config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
            }
        })
}

/// A tmpfs of the host.
fn tmpfs(t: &Test, name: &str) -> std::path::PathBuf {
    let path = t.directory.join(name);
    fs::create_dir(&path).expect("mkdir");
    mount(&["-t", "tmpfs", "tmpfs", text(&path)]);
    path
}

fn mount(words: &[&str]) {
    let status = Command::new("mount").args(words).status();
    assert!(status.expect("mount").success(), "mount {words:?}");
}

fn unmount(path: &Path) {
    let status = Command::new("umount").arg(path).status();
    assert!(status.expect("umount").success(), "umount {path:?}");
}
