//! Attacks that broke other runtimes, as they were made: what they reach for
//! on the host is looked at before and after. docs/attacks.md has the table.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use spec_tests::bundle::push;
use spec_tests::runtime::text;
use spec_tests::sys::{self, Before, before};
use spec_tests::terminal::{Receiver, Terminal};
use spec_tests::{Bundle, Case, Test};

pub(crate) const CASES: &[Case] = &[
    Case::kernel(
        "a directory and a link that are swapped all the time: nothing is made or mounted outside",
        racing,
    )
    .except(&[("runc", "1.1.5 was not made for a race at this rate")]),
    Case::kernel(
        "a terminal's name and the console are swapped for links all the time: only a terminal is bound",
        racing_console,
    )
    .except(&[("runc", "CVE-2025-52565")]),
    Case::kernel("a /dev that is a link: the host's directory stays as it is", |t| {
        let victim = Victim::new(t);
        let bundle = without_dev(Bundle::new(t).probe(&["true"]));
        fs::remove_dir(bundle.rootfs().join("dev")).expect("rmdir");
        symlink(&victim.path, bundle.rootfs().join("dev")).expect("symlink");
        let _ = t.run(&bundle);
        victim.is_whole();
    })
    .except(&[("runc", "CVE-2026-41579")]),
    Case::kernel("a file of the image's in the place of /dev/null masks nothing", |t| {
        let bundle = own_dev(without_dev(Bundle::new(t).probe(&["read", "/data/secret"])))
            .file("data/secret", "secret")
            .with(|config| config["linux"]["maskedPaths"] = json!(["/data/secret"]));
        let null = bundle.rootfs().join("dev/null");
        fs::write(&null, "of the image").expect("write");
        t.run(&bundle).fails(1, &["/data/secret", "is not the null device"]);
    })
    .except(&[("runc", "CVE-2025-31133")]),
    Case::kernel("a link of the image's in the place of /dev/null masks nothing, and leads to nothing", |t| {
        // CVE-2025-31133: what it leads to would be bound, writable, over what is masked.
        let parameter = "/proc/sys/kernel/domainname";
        for target in [parameter, "/data/other", "/proc/self/exe"] {
            let bundle = own_dev(without_dev(Bundle::new(t).probe(&["report"])))
                .file("data/secret", "secret")
                .file("data/other", "other")
                .with(|config| config["linux"]["maskedPaths"] = json!(["/data/secret"]));
            symlink(target, bundle.rootfs().join("dev/null")).expect("symlink");
            t.run(&bundle).fails(1, &["/data/secret", "/dev/null"]);
        }
    })
    .except(&[("runc", "CVE-2025-31133")]),
    Case::kernel("a file of the image's in a device's place is no device", |t| {
        let bundle = without_dev(Bundle::new(t).probe(&["stat", "/data/zero"]))
            .file("data/zero", "of the image")
            .with(|config| {
                config["linux"]["devices"] = json!([{ "path": "/data/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666 }]);
            });
        t.run(&bundle).fails(1, &["/data/zero"]);
    })
    .except(&[("runc", "takes what is there")]),
    Case::kernel("a bind of anything but a procfs on /proc is refused", |t| {
        let fake = t.directory.join("fake");
        fs::create_dir_all(fake.join("self/attr")).expect("mkdir");
        fs::write(fake.join("self/attr/exec"), "").expect("write");
        let bundle = Bundle::new(t).probe(&["true"]).with(|config| {
            let mounts = config["mounts"].as_array_mut().expect("mounts");
            mounts.retain(|mount| mount["destination"] != "/proc");
            mounts.insert(0, json!({ "destination": "/proc", "type": "bind", "source": text(&fake), "options": ["rbind"] }));
            config["linux"]["maskedPaths"] = json!([]);
            config["linux"]["readonlyPaths"] = json!([]);
        });
        t.run(&bundle).fails(1, &["/proc"]);
        assert_eq!(fs::read_to_string(fake.join("self/attr/exec")).expect("read"), "");
    }),
    Case::kernel("a kernel parameter is not written into what was mounted over it", |t| {
        let proc = t.directory.join("proc");
        let fake = t.directory.join("fake");
        fs::create_dir(&proc).expect("mkdir");
        fs::write(&fake, "0\n").expect("write");
        mount(&["-t", "proc", "proc", text(&proc)]);
        // Not one of ipc or net: those have other directory entries in each namespace,
        // and what is mounted on one covers no other.
        mount(&["--bind", text(&fake), text(&proc.join("sys/kernel/domainname"))]);
        let bundle = Bundle::new(t).probe(&["true"]).with(|config| {
            let mounts = config["mounts"].as_array_mut().expect("mounts");
            mounts.retain(|mount| mount["destination"] != "/proc");
            mounts.insert(0, json!({ "destination": "/proc", "type": "bind", "source": text(&proc), "options": ["rbind"] }));
            config["linux"]["sysctl"] = json!({ "kernel.domainname": "123" });
        });
        let outcome = t.run(&bundle);
        let after = fs::read_to_string(&fake).expect("read");
        let ended = Command::new("umount").args(["-R", text(&proc)]).status();
        assert!(ended.expect("umount").success());
        assert_eq!(after, "0\n", "{outcome:?}");
        // A kernel that gives no procfs of one's own: what is covered is refused.
        assert!(outcome.code == 0 || outcome.stderr.contains("cross-device link"), "{outcome:?}");
    })
    .except(&[("runc", "CVE-2025-52881")]),
    Case::kernel("a preserved descriptor is no way to a working directory on the host", |t| {
        // Nor is one that is missing made there.
        let victim = Victim::new(t);
        for cwd in ["/proc/self/fd/3", "/proc/self/fd/3/new", "/proc/self/fd/3/../new"] {
            let bundle = Bundle::new(t)
                .probe(&["list", "."])
                .with(|config| config["process"]["cwd"] = json!(cwd));
            let host = fs::File::open(&victim.path).expect("open");
            let mut command = t.command(&["run", "--preserve-fds", "1", "-b", text(&bundle.path), &bundle.id]);
            before(&mut command, Before::Descriptor(host.into(), 3));
            let outcome = t.spawn(&mut command).wait().fails(1, &["working directory"]);
            assert_eq!(outcome.stdout, "", "it ran");
            victim.is_whole();
            assert!(!t.directory.join("new").exists());
        }
    })
    .except(&[("runc", "CVE-2024-21626")]),
    Case::kernel("a user id beyond 2^31 is never 0", |t| {
        for id in [2_147_483_648_u32, 4_294_967_294] {
            let bundle = Bundle::new(t).with(|config| {
                config["process"]["user"] = json!({ "uid": id, "gid": id });
            });
            let report = t.run(&bundle).answer();
            assert_eq!(report["uids"], json!([id, id]));
            assert_eq!(report["gids"], json!([id, id]));
        }
        // -1 means no change to setresuid(2), and what is wider is no id.
        for id in [json!(-1), json!(4_294_967_295_u32), json!(4_294_967_296_u64)] {
            for field in ["uid", "gid"] {
                let bundle = Bundle::new(t).with(|config| config["process"]["user"][field] = id.clone());
                let named = format!("process.user.{field}");
                t.run(&bundle).fails(1, &[&named]);
            }
        }
    })
    .except(&[("runc", "knows no limit")]),
    Case::kernel("id mappings of more than 64 KiB are refused, not cut off", |t| {
        let bundle = Bundle::new(t).in_user_namespace(100_000).with(|config| {
            let many: Vec<_> = (0..4000_u32)
                .map(|n| json!({ "containerID": n, "hostID": 100_000 + n, "size": 1 }))
                .collect();
            config["linux"]["uidMappings"] = json!(many);
        });
        assert_ne!(t.run(&bundle).code, 0);
    }),
    Case::kernel("a created process of root is not looked into without CAP_SYS_PTRACE", |t| {
        let container = t.create(&Bundle::new(t).probe(&["pause"]));
        let mut looking = Command::new("setpriv");
        looking.args(["--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace", "readlink"]);
        looking.arg(format!("/proc/{}/root", container.pid()));
        let outcome = t.spawn(&mut looking).wait();
        assert_ne!(outcome.code, 0, "{outcome:?}");
    }),
];

/// CVE-2021-30465, CVE-2024-45310: whoever shares the volume swaps a directory
/// and a link to the host with `RENAME_EXCHANGE` while mounts, mount points and
/// devices are made behind it.
fn racing(t: &Test) {
    let victim = Victim::new(t);
    let bundle = Bundle::new(t).probe(&["report"]).with(|config| {
        for number in 0..4 {
            let place = format!("/data/swap/{number}/deep");
            push(
                &mut config["mounts"],
                json!({ "destination": place, "type": "tmpfs", "source": "swapped", "options": ["size=64k"] }),
            );
        }
        config["linux"]["devices"] =
            json!([{ "path": "/data/swap/node", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 }]);
    });
    let data = bundle.rootfs().join("data");
    fs::create_dir(data.join("swap")).expect("mkdir");
    symlink(&victim.path, data.join("link")).expect("symlink");
    let mut ran = 0;
    let pair = ["swap", "link"].map(|name| data.join(name));
    while_swapped(&[pair], || {
        let rounds = t.rounds(1000, 40);
        let mut round = 0;
        // Until one has run, too: most meet the link, and the more look-ups an
        // older kernel takes, the fewer don't.
        while round < rounds || (ran == 0 && round < 50 * rounds) {
            round += 1;
            let outcome = t.run(&bundle);
            victim.is_whole();
            if outcome.code == 0 {
                ran += 1;
                let mounts = outcome.answer()["mounts"].to_string();
                let inside = mounts.matches("swapped").count();
                assert_eq!(inside, 4, "a mount went elsewhere: {mounts}");
            }
        }
    });
    assert!(ran > 0, "no container ever ran: nothing was attacked");
}

/// CVE-2025-52565: whoever shares the image's /dev swaps the directory of the
/// terminals, and the console itself, with links to a kernel parameter.
fn racing_console(t: &Test) {
    let parameter = "/proc/sys/kernel/domainname";
    let bundle = without_dev(Bundle::new(t).probe(&["report"]))
        .mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["newinstance", "ptmxmode=0666", "gid=5"],
        )
        .with(|config| config["process"]["terminal"] = json!(true));
    let dev = bundle.rootfs().join("dev");
    for name in ["pts", "other"] {
        fs::create_dir(dev.join(name)).expect("mkdir");
    }
    for number in 0..4 {
        symlink(parameter, dev.join("other").join(number.to_string())).expect("symlink");
    }
    fs::write(dev.join("console"), "").expect("write");
    symlink(parameter, dev.join("link")).expect("symlink");
    let mut ran = 0;
    let pairs = [["pts", "other"], ["console", "link"]].map(|pair| pair.map(|name| dev.join(name)));
    while_swapped(&pairs, || {
        for round in 0..t.rounds(1000, 40) {
            let receiver = Receiver::new(&t.directory.join(format!("console-{round}")));
            let flags = ["run", "-d", "--console-socket", text(&receiver.path), "-b"];
            let outcome = t.call(&[&flags[..], &[text(&bundle.path), &bundle.id]].concat());
            if outcome.code != 0 {
                continue;
            }
            let container = t.adopt(&bundle.id);
            let mut terminal = Terminal::of(receiver.receive().1);
            terminal.wait_end();
            drop(container);
            let report: Value = serde_json::from_str(terminal.text().trim()).expect("JSON");
            let mounts = report["mounts"].as_array().expect("mounts");
            // By whichever name it has by now.
            let names = ["/dev/console", "/dev/link"];
            let console = |mount: &&Value| names.iter().any(|name| mount["target"] == **name);
            let console = mounts.iter().find(console).expect("a console");
            assert_eq!(console["type"], "devpts", "{console}");
            // What is mounted of /proc elsewhere is read-only or a mask.
            for mount in mounts.iter().filter(|mount| mount["type"] == "proc") {
                let whole = mount["target"] == "/proc";
                let options = mount["options"].as_array().expect("options");
                assert!(whole || options.contains(&json!("ro")), "{mount}");
            }
            ran += 1;
        }
    });
    assert!(ran > 0, "no container ever ran: nothing was attacked");
}

/// Does `work` while the files of each pair are exchanged all the time.
pub(crate) fn while_swapped(pairs: &[[PathBuf; 2]], work: impl FnOnce()) {
    let name = |path: &PathBuf| std::ffi::CString::new(text(path)).expect("a path has no NUL");
    let pairs: Vec<_> = pairs
        .iter()
        .map(|pair| [name(&pair[0]), name(&pair[1])])
        .collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stopped = OnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for [one, other] in &pairs {
                    let [one, other] = [one, other].map(|name| name.as_ptr() as i64);
                    let at = i64::from(libc::AT_FDCWD);
                    let exchange = i64::from(libc::RENAME_EXCHANGE);
                    sys::raw(libc::SYS_renameat2, [at, one, at, other, exchange, 0])
                        .expect("renameat2");
                }
            }
        });
        work();
    });
}

/// Ends the other thread, also when an assertion fails.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Programs that make the kernel open `/proc/self/exe`.
pub(crate) const WAYS: [&str; 3] = ["/data/itself", "/data/script", "/data/loaded"];

/// The image with [`WAYS`].
pub(crate) fn with_ways(bundle: Bundle) -> Bundle {
    let bundle = bundle.file("data/script", "#!/proc/self/exe\n");
    let data = bundle.rootfs().join("data");
    fs::write(data.join("loaded"), loaded_by("/proc/self/exe")).expect("write");
    for name in ["script", "loaded"] {
        fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    symlink("/proc/self/exe", data.join("itself")).expect("symlink");
    bundle
}

/// An ELF program of nothing but the name of its loader (elf(5)).
fn loaded_by(loader: &str) -> Vec<u8> {
    let name = [loader.as_bytes(), b"\0"].concat();
    let (header, entry) = (64_u64, 56_u64);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let halves = |file: &mut Vec<u8>, numbers: &[u16]| {
        numbers.iter().for_each(|n| file.extend(n.to_le_bytes()));
    };
    halves(&mut file, &[3, 62]);
    file.extend(1_u32.to_le_bytes());
    for word in [0_u64, header, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    halves(&mut file, &[64, 56, 2, 64, 0, 0]);
    let at = header + 2 * entry;
    let length = name.len() as u64;
    for (kind, offset, size) in [(3_u32, at, length), (1, 0, at + length)] {
        file.extend(kind.to_le_bytes());
        file.extend(5_u32.to_le_bytes());
        for word in [offset, offset, offset, size, size, 0x1000] {
            file.extend(word.to_le_bytes());
        }
    }
    file.extend(name);
    file
}

/// A directory of the host that nothing may touch.
struct Victim {
    path: PathBuf,
}

impl Victim {
    fn new(t: &Test) -> Victim {
        let path = t.directory.join("victim");
        fs::create_dir(&path).expect("mkdir");
        fs::write(path.join("mark"), "whole").expect("write");
        Victim { path }
    }

    /// Its listing, its content and the mounts are what they were.
    fn is_whole(&self) {
        let names: Vec<_> = fs::read_dir(&self.path)
            .expect("readdir")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        assert_eq!(names, ["mark"]);
        let mark = fs::read_to_string(self.path.join("mark")).expect("read");
        assert_eq!(mark, "whole");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
        assert!(!mounts.contains(text(&self.path)), "{mounts}");
    }
}

/// The image's own /dev.
fn without_dev(bundle: Bundle) -> Bundle {
    bundle.with(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| {
            !Path::new(mount["destination"].as_str().expect("text")).starts_with("/dev")
        });
    })
}

/// The image's /dev bound on itself: a mount there means that none of the devices
/// are the runtime's to make.
fn own_dev(bundle: Bundle) -> Bundle {
    bundle.with(|config| {
        push(
            &mut config["mounts"],
            json!({ "destination": "/dev", "type": "bind", "source": "rootfs/dev", "options": ["bind"] }),
        );
    })
}

fn mount(args: &[&str]) {
    let done = Command::new("mount").args(args).status();
    assert!(done.expect("mount").success(), "mount {args:?}");
}
