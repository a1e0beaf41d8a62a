//! The root filesystem as the program sees it: mounts and their options,
//! propagation, masked and read-only paths, devices.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use spec_tests::bundle::push;
use spec_tests::runtime::text;
use spec_tests::{Bundle, Case, Needs, Test};

const READ_ONLY: i32 = 30;
const NO_ACCESS: i32 = 13;

pub(crate) const CASES: &[Case] = &[
    Case::runc("the root is the bundle's rootfs and nothing of the host is mounted", |t| {
        let bundle = Bundle::new(t).file("data/mark", "here").probe(&["read", "/data/mark", ";", "report"]);
        let answers = t.run(&bundle).ok().answers();
        assert_eq!(answers[0], json!({ "text": "here" }));
        let targets = targets(&answers[1]);
        assert_eq!(targets[0], "/");
        for target in &targets {
            let known = ["/", "/proc", "/dev", "/sys"].iter()
                .any(|top| target == top || target.starts_with(&format!("{}/", top.trim_end_matches('/'))));
            assert!(known && !target.starts_with("/tmp"), "{targets:?}");
        }
    }),
    Case::runc("root.readonly makes the root read-only, its submounts stay as they are", |t| {
        let bundle = Bundle::new(t)
            .probe(&["create", "/data/x", "x", ";", "create", "/dev/shm/x", "x"])
            .with(|config| config["root"]["readonly"] = json!(true));
        let answers = t.run(&bundle).ok().answers();
        assert_eq!(answers, [json!({ "errno": READ_ONLY }), json!({ "ok": true })]);
        assert!(!bundle.rootfs().join("data/x").exists());
    }),
    Case::runc("a writable root is the bundle's", |t| {
        let bundle = Bundle::new(t).probe(&["create", "/data/x", "x"]);
        t.run(&bundle).ok();
        assert_eq!(fs::read_to_string(bundle.rootfs().join("data/x")).expect("read"), "x");
    }),
    Case::runc("root.path may be absolute", |t| {
        let bundle = Bundle::new(t).probe(&["say", "x"]);
        let rootfs = text(&bundle.rootfs()).to_owned();
        t.run(&bundle.with(|config| config["root"]["path"] = json!(rootfs))).ok();
    }),
    Case::runc("a root that is not there is refused", |t| {
        let bundle = Bundle::new(t).with(|config| config["root"]["path"] = json!("nosuch"));
        t.run(&bundle).fails(1, &["nosuch"]);
    }),
    Case::runc("hostname is set in the container only", |t| {
        let own = fs::read_to_string("/proc/sys/kernel/hostname").expect("read");
        let bundle = Bundle::new(t).with(|config| config["hostname"] = json!("a-name"));
        assert_eq!(t.run(&bundle).answer()["hostname"], "a-name");
        assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").expect("read"), own);
    }),
    Case::crun("domainname is set in the container only", |t| {
        let own = fs::read_to_string("/proc/sys/kernel/domainname").expect("read");
        let bundle = Bundle::new(t).with(|config| config["domainname"] = json!("a.domain"));
        assert_eq!(t.run(&bundle).answer()["domainname"], "a.domain");
        assert_eq!(fs::read_to_string("/proc/sys/kernel/domainname").expect("read"), own);
    })
    .except(&[("runc", "1.2 brought it")]),
    Case::runc("hostname without a new uts namespace is refused", |t| {
        let bundle = Bundle::new(t).without_namespace("uts");
        t.run(&bundle).fails(1, &["hostname"]);
    }),
    Case::runc("the default file systems are mounted with their options", |t| {
        let report = t.run(&Bundle::new(t)).answer();
        let check = |target: &str, kind: &str, options: &[&str]| {
            let mount = mount(&report, target);
            assert_eq!(mount["type"], kind, "{target}");
            for option in options {
                let found = mount["options"].as_array().expect("options");
                assert!(found.contains(&json!(option)), "{target}: {option}: {found:?}");
            }
        };
        check("/proc", "proc", &["rw"]);
        check("/dev", "tmpfs", &["nosuid", "rw"]);
        check("/dev/pts", "devpts", &["nosuid", "noexec"]);
        check("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev"]);
        check("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]);
        check("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]);
    }),
    Case::runc("a bind of a directory shows it, and writes reach the host", |t| {
        let bundle = shared(t, "/mnt", &["bind"]).probe(&["read", "/mnt/file", ";", "create", "/mnt/new", "x"]);
        let answers = t.run(&bundle).ok().answers();
        assert_eq!(answers, [json!({ "text": "host" }), json!({ "ok": true })]);
        assert!(t.directory.join("shared/new").exists());
    }),
    Case::runc("a bind of a file makes the file that it is mounted on", |t| {
        let source = t.directory.join("one");
        fs::write(&source, "one file").expect("write");
        let bundle = Bundle::new(t)
            .mount("/made/deep/file", "bind", text(&source), &["bind", "ro"])
            .probe(&["read", "/made/deep/file", ";", "open", "/made/deep/file", "1"]);
        let answers = t.run(&bundle).ok().answers();
        assert_eq!(answers, [json!({ "text": "one file" }), json!({ "errno": READ_ONLY })]);
    }),
    Case::runc("a bind whose source is not there is refused, with the path", |t| {
        let bundle = Bundle::new(t).mount("/mnt", "bind", "/no/such/source", &["bind"]);
        t.run(&bundle).fails(1, &["/no/such/source", "no such file or directory"]);
    }),
    Case::runc("a bind source that is relative is the bundle's", |t| {
        let bundle = Bundle::new(t).mount("/mnt", "bind", "beside", &["bind"]).probe(&["list", "/mnt"]);
        fs::create_dir(bundle.path.join("beside")).expect("mkdir");
        fs::write(bundle.path.join("beside/x"), "").expect("write");
        assert_eq!(t.run(&bundle).answer(), json!({ "names": ["x"] }));
    }),
    Case::runc("bind options: ro, nosuid, nodev, noexec, noatime", |t| {
        let bundle = shared(t, "/mnt", &["bind", "ro", "nosuid", "nodev", "noexec", "noatime"]);
        let mount = mount(&t.run(&bundle).answer(), "/mnt");
        let options = mount["options"].as_array().expect("options");
        for option in ["ro", "nosuid", "nodev", "noexec", "noatime"] {
            assert!(options.contains(&json!(option)), "{option}: {options:?}");
        }
    }),
    Case::runc("rbind takes submounts along, bind does not", |t| {
        for (option, expected) in [("rbind", json!(["below"])), ("bind", json!([]))] {
            let source = t.directory.join(t.id());
            fs::create_dir_all(source.join("sub")).expect("mkdir");
            let sub = source.join("sub");
            let none = None::<&str>;
            let flags = nix::mount::MsFlags::empty();
            nix::mount::mount(Some("tmpfs"), &sub, Some("tmpfs"), flags, none).expect("mount");
            fs::write(sub.join("below"), "").expect("write");
            let bundle = Bundle::new(t)
                .mount("/mnt", "bind", text(&source), &[option])
                .probe(&["list", "/mnt/sub"]);
            let outcome = t.run(&bundle);
            nix::mount::umount2(&sub, nix::mount::MntFlags::MNT_DETACH).expect("umount");
            assert_eq!(outcome.answer(), json!({ "names": expected }));
        }
    }),
    Case::runc("recursive options reach submounts: rro", |t| {
        let source = t.directory.join("tree");
        fs::create_dir_all(source.join("sub")).expect("mkdir");
        let sub = source.join("sub");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &sub, Some("tmpfs"), flags, None::<&str>).expect("mount");
        let bundle = Bundle::new(t)
            .mount("/mnt", "bind", text(&source), &["rbind", "rro"])
            .probe(&["create", "/mnt/x", "x", ";", "create", "/mnt/sub/x", "x"]);
        let outcome = t.run(&bundle);
        nix::mount::umount2(&sub, nix::mount::MntFlags::MNT_DETACH).expect("umount");
        assert_eq!(outcome.ok().answers(), [json!({ "errno": READ_ONLY }), json!({ "errno": READ_ONLY })]);
    }),
    Case::runc("recursive options: rnosuid, rnodev, rnoexec, rnoatime", |t| {
        let bundle = shared(t, "/mnt", &["rbind", "rnosuid", "rnodev", "rnoexec", "rnoatime"]);
        let mount = mount(&t.run(&bundle).answer(), "/mnt");
        let options = mount["options"].as_array().expect("options");
        for option in ["nosuid", "nodev", "noexec", "noatime"] {
            assert!(options.contains(&json!(option)), "{option}: {options:?}");
        }
    }),
    Case::runc("noexec holds", |t| {
        let source = t.directory.join("programs");
        fs::create_dir(&source).expect("mkdir");
        fs::copy(&t.probe, source.join("probe")).expect("copy");
        let bundle = Bundle::new(t)
            .mount("/mnt", "bind", text(&source), &["bind", "noexec"])
            .probe(&["exec", "/mnt/probe", "true"]);
        assert_eq!(t.run(&bundle).answer(), json!({ "errno": NO_ACCESS }));
    }),
    Case::runc("a tmpfs has the size and mode that it is given", |t| {
        let bundle = Bundle::new(t)
            .mount("/mnt", "tmpfs", "tmpfs", &["size=1m", "mode=1770", "nr_inodes=64", "uid=5", "gid=6"])
            .probe(&["statfs", "/mnt", ";", "stat", "/mnt"]);
        let answers = t.run(&bundle).ok().answers();
        assert_eq!(answers[0], json!({ "magic": "1021994", "blocks": 1 << 20, "inodes": 64 }));
        assert_eq!(answers[1]["mode"], "1770");
        assert_eq!(answers[1]["uid"], 5);
        assert_eq!(answers[1]["gid"], 6);
    }),
    Case::runc("a tmpfs without a mode takes that of the directory below", |t| {
        use std::os::unix::fs::PermissionsExt;
        let bundle = Bundle::new(t).mount("/data", "tmpfs", "tmpfs", &[]).probe(&["stat", "/data"]);
        fs::set_permissions(bundle.rootfs().join("data"), fs::Permissions::from_mode(0o751)).expect("chmod");
        assert_eq!(t.run(&bundle).answer()["mode"], "0751");
    }),
    Case::runc("tmpcopyup fills the tmpfs with what was there", |t| {
        let bundle = Bundle::new(t)
            .file("data/sub/file", "kept")
            .mount("/data", "tmpfs", "tmpfs", &["tmpcopyup"])
            .probe(&["read", "/data/sub/file", ";", "create", "/data/new", "x"]);
        let answers = t.run(&bundle).ok().answers();
        assert_eq!(answers, [json!({ "text": "kept" }), json!({ "ok": true })]);
        assert!(!bundle.rootfs().join("data/new").exists());
    }),
    Case::runc("mounts come in the order of the list", |t| {
        let bundle = shared(t, "/mnt", &["bind"])
            .mount("/mnt/inner", "tmpfs", "tmpfs", &["size=64k"])
            .probe(&["report"]);
        let report = t.run(&bundle).answer();
        assert_eq!(mount(&report, "/mnt/inner")["type"], "tmpfs");
    }),
    Case::runc("a mount point that is a symlink stays inside the root", |t| {
        let bundle = Bundle::new(t)
            .mount("/escape", "tmpfs", "tmpfs", &["size=64k"])
            .probe(&["report"]);
        let victim = t.directory.join("victim");
        fs::create_dir(&victim).expect("mkdir");
        std::os::unix::fs::symlink("/../../../../../../../data", bundle.rootfs().join("escape")).expect("symlink");
        let report = t.run(&bundle).answer();
        assert_eq!(mount(&report, "/data")["type"], "tmpfs");
    }),
    Case::kernel("a symlink to the host's path never lets a mount out", |t| {
        let victim = t.directory.join("victim");
        fs::create_dir(&victim).expect("mkdir");
        fs::write(victim.join("mark"), "").expect("write");
        let bundle = Bundle::new(t)
            .mount("/escape", "tmpfs", "tmpfs", &["size=64k"])
            .probe(&["pause"]);
        std::os::unix::fs::symlink(&victim, bundle.rootfs().join("escape")).expect("symlink");
        if t.call(&["run", "-d", "-b", text(&bundle.path), &bundle.id]).code == 0 {
            let container = t.adopt(&bundle.id);
            let report = container.probe(&[], &["report"]).answer();
            assert!(targets(&report).contains(&text(&victim).to_owned()));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
        assert!(!mounts.contains(text(&victim)));
        assert!(victim.join("mark").exists());
    }),
    Case::kernel("/proc or /sys that is a symlink is refused", |t| {
        // CVE-2019-19921, CVE-2023-27561.
        for name in ["proc", "sys"] {
            let bundle = Bundle::new(t).probe(&["true"]);
            fs::remove_dir(bundle.rootfs().join(name)).expect("rmdir");
            std::os::unix::fs::symlink("/data", bundle.rootfs().join(name)).expect("symlink");
            t.run(&bundle).fails(1, &[name, "must be mounted on ordinary directory"]);
        }
    }),
    Case::kernel("a mount over a part of /proc that is not on the list is refused", |t| {
        let file = t.directory.join("file");
        fs::write(&file, "faked").expect("write");
        for target in [
            "/proc/version", "/proc/self/attr", "/proc/sys/kernel", "/proc/1", "/proc/sys", "/proc/net", "/proc/self",
            "/proc/thread-self", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/kcore",
            // One letter, one part or one place away from what may be covered.
            "/proc/cpuinf", "/proc/cpuinfos", "/proc/Cpuinfo", "/proc/meminfo/x", "/proc/stat/..//version",
            "/proc/1/stat", "/proc/self/stat", "/proc/self/meminfo", "/proc/loadavg/../1/stat",
            "/proc/net/dev", "/proc/uptime ", "/proc/swap", "/proc/sys/kernel/ns_last_pi",
            "/proc/sys/kernel", "/proc/sys/crypto", "/proc/kernel/ns_last_pid", "/proc/sys/ns_last_pid",
            // The same place by other words.
            "//proc///version", "/./proc/./version", "/data/../proc/version", "/../proc/version",
        ] {
            let bundle = Bundle::new(t).mount(target, "bind", text(&file), &["bind"]).probe(&["true"]);
            t.run(&bundle).fails(1, &["cannot be mounted because it is inside /proc"]);
        }
    }),
    Case::kernel("a mount over each file of the list is allowed", |t| {
        let file = t.directory.join("file");
        fs::write(&file, "faked").expect("write");
        let mut tried = 0;
        for target in PROC_FILES {
            // Not every kernel has each.
            if !std::path::Path::new(target).exists() {
                continue;
            }
            tried += 1;
            let bundle = Bundle::new(t)
                .mount(target, "bind", text(&file), &["bind"])
                .probe(&["read", target]);
            assert_eq!(t.run(&bundle).answer(), json!({ "text": "faked" }), "{target}");
        }
        assert!(tried > 7, "{tried}");
    }),
    Case::runc("nothing propagates to the host with rprivate and rslave", |t| {
        for propagation in ["rprivate", "private", "rslave", "slave"] {
            let bundle = shared(t, "/mnt", &["rbind"])
                .with(|config| config["linux"]["rootfsPropagation"] = json!(propagation))
                .probe(&["true"]);
            t.run(&bundle).ok();
            let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
            assert!(!mounts.contains(text(&bundle.path)), "{propagation}");
            fs::remove_dir_all(t.directory.join("shared")).expect("rmdir");
        }
    }),
    Case::kernel("rootfsPropagation shared shows in mountinfo", |t| {
        let bundle =
            Bundle::new(t).with(|config| config["linux"]["rootfsPropagation"] = json!("shared"));
        let root = mount(&t.run(&bundle).answer(), "/");
        assert!(root["propagation"].as_str().expect("text").contains("shared:"), "{root}");
    })
    .except(&[("runc", "leaves the root private where the host's root is")]),
    Case::kernel("rootfsPropagation unbindable shows in mountinfo", |t| {
        let bundle =
            Bundle::new(t).with(|config| config["linux"]["rootfsPropagation"] = json!("unbindable"));
        let root = mount(&t.run(&bundle).answer(), "/");
        assert!(root["propagation"].as_str().expect("text").contains("unbindable"), "{root}");
    })
    .except(&[("runc", "binds the rootfs after it made all unbindable, which fails")]),
    Case::runc("a mount's own propagation option is applied", |t| {
        for (option, text) in [("shared", "shared:"), ("unbindable", "unbindable"), ("private", "")] {
            let bundle = shared(t, "/mnt", &["bind", option]);
            let mount = mount(&t.run(&bundle).answer(), "/mnt");
            let propagation = mount["propagation"].as_str().expect("text");
            assert!(if text.is_empty() { propagation.is_empty() } else { propagation.contains(text) }, "{mount}");
            fs::remove_dir_all(t.directory.join("shared")).expect("rmdir");
        }
    }),
    Case::runc("masked paths read as nothing and can't be written", |t| {
        let bundle = Bundle::new(t)
            .file("data/file", "secret")
            .file("data/dir/inner", "secret")
            .with(|config| config["linux"]["maskedPaths"] = json!(["/data/file", "/data/dir", "/no/such"]))
            .probe(&["read", "/data/file", ";", "list", "/data/dir", ";", "create", "/data/dir/x", "x"]);
        let answers = t.run(&bundle).ok().answers();
        assert_eq!(answers, [json!({ "text": "" }), json!({ "names": [] }), json!({ "errno": READ_ONLY })]);
        assert_eq!(fs::read_to_string(bundle.rootfs().join("data/file")).expect("read"), "secret");
    }),
    Case::runc("read-only paths can be read and not written", |t| {
        let bundle = Bundle::new(t)
            .file("data/dir/inner", "text")
            .with(|config| config["linux"]["readonlyPaths"] = json!(["/data/dir", "/no/such"]))
            .probe(&["read", "/data/dir/inner", ";", "create", "/data/dir/x", "x", ";", "create", "/data/y", "y"]);
        let answers = t.run(&bundle).ok().answers();
        assert_eq!(answers, [json!({ "text": "text" }), json!({ "errno": READ_ONLY }), json!({ "ok": true })]);
    }),
    Case::runc("/proc/sys can't be written by default", |t| {
        let bundle = Bundle::new(t).probe(&["write", "/proc/sys/kernel/domainname", "x"]);
        assert_eq!(t.run(&bundle).answer(), json!({ "errno": READ_ONLY }));
    }),
    Case::runc("the default devices and links are there", |t| {
        let dev = t.run(&Bundle::new(t)).answer()["dev"].clone();
        for (name, device) in [("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0")] {
            assert_eq!(dev[name]["type"], "char", "{name}");
            assert_eq!(dev[name]["device"], device, "{name}");
            assert_eq!(dev[name]["mode"], "0666", "{name}");
        }
        for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx")] {
            assert_eq!(dev[name]["target"], target, "{name}");
        }
    }),
    Case::runc("devices of the list are made with type, mode and owner", |t| {
        let bundle = Bundle::new(t).probe(&["report", ";", "stat", "/data/deep/dev"]).with(|config| {
            config["linux"]["devices"] = json!([
                { "path": "/dev/mychar", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 3, "gid": 4 },
                { "path": "/dev/myblock", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600 },
                { "path": "/dev/myfifo", "type": "p", "fileMode": 0o622 },
                { "path": "/data/deep/dev", "type": "u", "major": 1, "minor": 5, "fileMode": 0o666 },
            ]);
        });
        let answers = t.run(&bundle).ok().answers();
        let dev = &answers[0]["dev"];
        assert_eq!(dev["mychar"], json!({ "type": "char", "mode": "0640", "uid": 3, "gid": 4, "size": 0, "device": "1:3" }));
        assert_eq!(dev["myblock"]["type"], "block");
        assert_eq!(dev["myblock"]["device"], "7:0");
        assert_eq!(dev["myfifo"]["type"], "fifo");
        assert_eq!(dev["myfifo"]["mode"], "0622");
        assert_eq!(answers[1]["device"], "1:5");
        assert_eq!(answers[1]["type"], "char");
    }),
    Case::runc("the device cgroup denies what is not allowed", |t| {
        let list = json!([{ "path": "/dev/kmsg2", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666 }]);
        let with = |allow: bool| {
            let bundle = Bundle::new(t).probe(&["open", "/dev/kmsg2", "0", ";", "open", "/dev/null", "2"]);
            let list = list.clone();
            bundle.with(move |config| {
                config["linux"]["devices"] = list;
                config["process"]["capabilities"]["effective"] = json!(["CAP_SYSLOG"]);
                config["process"]["capabilities"]["permitted"] = json!(["CAP_SYSLOG"]);
                config["process"]["capabilities"]["bounding"] = json!(["CAP_SYSLOG"]);
                if allow {
                    let rule = json!({ "allow": true, "type": "c", "major": 1, "minor": 11, "access": "rwm" });
                    push(&mut config["linux"]["resources"]["devices"], rule);
                }
            })
        };
        let answers = t.run(&with(false)).ok().answers();
        assert_eq!(answers, [json!({ "errno": 1 }), json!({ "ok": true })]);
        let answers = t.run(&with(true)).ok().answers();
        assert_eq!(answers, [json!({ "ok": true }), json!({ "ok": true })]);
    }),
    Case::runc("sysctl is set in the container's namespaces only", |t| {
        let bundle = Bundle::new(t)
            .probe(&["read", "/proc/sys/net/ipv4/ip_forward", ";", "read", "/proc/sys/kernel/shmmni", ";", "read", "/proc/sys/fs/mqueue/queues_max"])
            .with(|config| config["linux"]["sysctl"] = json!({
                "net.ipv4.ip_forward": "1", "kernel.shmmni": "123", "fs.mqueue.queues_max": "77",
            }));
        let answers = t.run(&bundle).ok().answers();
        assert_eq!(answers, [json!({ "text": "1\n" }), json!({ "text": "123\n" }), json!({ "text": "77\n" })]);
        assert_ne!(fs::read_to_string("/proc/sys/kernel/shmmni").expect("read"), "123\n");
    }),
    Case::runc("a sysctl of no namespace, or of the host's, is refused", |t| {
        for name in ["kernel.core_pattern", "vm.swappiness", "kernel.core_pattern+x", "fs.file-max"] {
            let bundle = Bundle::new(t).with(|config| config["linux"]["sysctl"] = json!({ name: "1" }));
            t.run(&bundle).fails(1, &[name]);
        }
        let bundle = Bundle::new(t)
            .without_namespace("network")
            .with(|config| config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" }));
        t.run(&bundle).fails(1, &["net.ipv4.ip_forward"]);
    }),
    Case::runc("a mount with an option that the kernel refuses names the mount", |t| {
        let bundle = Bundle::new(t).mount("/mnt", "tmpfs", "tmpfs", &["nonsense=1"]);
        t.run(&bundle).fails(1, &["/mnt", "invalid argument"]);
    }),
    Case::runc("a file system type that is none names the mount", |t| {
        let bundle = Bundle::new(t).mount("/mnt", "nosuchfs", "none", &[]);
        t.run(&bundle).fails(1, &["/mnt", "no such device"]);
    }),
    Case::crun("a mount's mappings translate owners (idmap)", |t| {
        let source = t.directory.join("shared");
        fs::create_dir(&source).expect("mkdir");
        fs::write(source.join("file"), "").expect("write");
        std::os::unix::fs::chown(source.join("file"), Some(1), Some(2)).expect("chown");
        let mapping = json!([{ "containerID": 0, "hostID": 5000, "size": 100 }]);
        let bundle = Bundle::new(t).probe(&["stat", "/mnt/file"]).with(|config| {
            push(&mut config["mounts"], json!({
                "destination": "/mnt", "type": "bind", "source": text(&source), "options": ["bind", "idmap"],
                "uidMappings": mapping, "gidMappings": mapping,
            }));
        });
        let answer = t.run(&bundle).answer();
        assert_eq!(answer["uid"], 5001);
        assert_eq!(answer["gid"], 5002);
    })
    .needs(Needs::TmpfsIdmap)
    .except(&[("runc", "1.2 brought it")]),
    Case::crun("idmap=uids=..;gids=.. maps as it says, and with @ by the container's own mappings", |t| {
        for (option, uid, gid) in [
            ("idmap=uids=0-5000-1#1-7000-10;gids=0-6000-10", 7000, 6002),
            ("idmap=uids=@0-10-10;gids=@0-20-10", 11, 22),
        ] {
            let source = t.directory.join(t.id());
            fs::create_dir(&source).expect("mkdir");
            fs::write(source.join("file"), "").expect("write");
            std::os::unix::fs::chown(source.join("file"), Some(1), Some(2)).expect("chown");
            let bundle = Bundle::new(t)
                .mount("/mnt", "bind", text(&source), &["bind", option])
                .probe(&["stat", "/mnt/file"]);
            let bundle = if option.contains('@') { in_user_namespace(bundle) } else { bundle };
            let answer = t.run(&bundle).answer();
            assert_eq!(answer["uid"], uid, "{option}");
            assert_eq!(answer["gid"], gid, "{option}");
        }
    })
    .needs(Needs::TmpfsIdmap),
    Case::kernel("an idmap option that is no mapping names the mount and the word", |t| {
        let bundle = shared(t, "/mnt", &["bind", "idmap=uids=0-1;gids=0-0-1"]);
        t.run(&bundle).fails(1, &["mounts[", "].options: idmap: \"0-1\" is not FIRST-HOST-SIZE"]);
    }),
    Case::kernel("copy-symlink makes the source's link anew, also where it leads nowhere", |t| {
        let link = t.directory.join("link");
        std::os::unix::fs::symlink("/no/such/place", &link).expect("symlink");
        for target in ["/data/link", "/made/deep/link"] {
            let bundle = Bundle::new(t)
                .mount(target, "bind", text(&link), &["bind", "copy-symlink"])
                .probe(&["stat", target, ";", "report"]);
            let answers = t.run(&bundle).ok().answers();
            assert_eq!(answers[0]["type"], "symlink", "{target}");
            let made = bundle.rootfs().join(target.trim_start_matches('/'));
            assert_eq!(fs::read_link(made).expect("readlink"), Path::new("/no/such/place"));
            assert!(!targets(&answers[1]).contains(&target.to_owned()));
            // The same link may be there already, another file may not.
            t.run(&bundle).ok();
        }
        let bundle = Bundle::new(t)
            .file("data/link", "x")
            .mount("/data/link", "bind", text(&link), &["bind", "copy-symlink"]);
        t.run(&bundle).fails(1, &["/data/link", "file exists"]);
        let bundle = shared(t, "/mnt", &["bind", "copy-symlink"]).probe(&["read", "/mnt/file"]);
        assert_eq!(t.run(&bundle).answer(), json!({ "text": "host" }));
    }),
    Case::kernel("copy-symlink excludes src-nofollow and dest-nofollow", |t| {
        let bundle = shared(t, "/mnt", &["bind", "copy-symlink", "src-nofollow"]);
        t.run(&bundle).fails(1, &["].options: copy-symlink excludes src-nofollow and dest-nofollow"]);
    }),
    Case::kernel("dest-nofollow covers a link at the destination, src-nofollow binds one", |t| {
        let file = t.directory.join("one");
        fs::write(&file, "one file").expect("write");
        let link = t.directory.join("link");
        std::os::unix::fs::symlink(&file, &link).expect("symlink");
        for user_namespace in [false, true] {
            let with = |options: &[&str], probe: &[&str]| {
                let bundle = Bundle::new(t).file("data/real", "untouched")
                    .mount("/data/target", "bind", text(&link), options).probe(probe);
                std::os::unix::fs::symlink("real", bundle.rootfs().join("data/target")).expect("symlink");
                if user_namespace { in_user_namespace(bundle) } else { bundle }
            };
            let words = ["read", "/data/target", ";", "read", "/data/real"];
            let answers = t.run(&with(&["bind", "dest-nofollow"], &words)).ok().answers();
            assert_eq!(answers, [json!({ "text": "one file" }), json!({ "text": "untouched" })]);
            let answers = t.run(&with(&["bind"], &words)).ok().answers();
            assert_eq!(answers, [json!({ "text": "one file" }), json!({ "text": "one file" })]);
            let words = ["stat", "/data/target", ";", "read", "/data/real"];
            let answers = t.run(&with(&["bind", "src-nofollow", "dest-nofollow"], &words)).ok().answers();
            assert_eq!(answers[0]["type"], "symlink");
            assert_eq!(answers[0]["size"], text(&file).len());
            assert_eq!(answers[1], json!({ "text": "untouched" }));
        }
    }),
    Case::runc("the cgroup mount shows the container's cgroup, read-only", |t| {
        let bundle = Bundle::new(t)
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
            .probe(&["report", ";", "read", "/sys/fs/cgroup/pids/cgroup.procs", ";", "mkdir", "/sys/fs/cgroup/pids/x"]);
        let answers = t.run(&bundle).ok().answers();
        assert_eq!(answers[1], json!({ "text": "1\n" }));
        assert_eq!(mount(&answers[0], "/sys/fs/cgroup")["type"], "tmpfs");
        assert_eq!(mount(&answers[0], "/sys/fs/cgroup/memory")["type"], "cgroup");
        assert_eq!(answers[2], json!({ "errno": READ_ONLY }));
    })
    .needs(Needs::V1),
    Case::kernel("a cgroup mount with rro is read-only, with a cgroup namespace and without", |t| {
        let inside = if t.view == "v2" { "/sys/fs/cgroup/x" } else { "/sys/fs/cgroup/pids/x" };
        for namespace in [true, false] {
            let bundle = Bundle::new(t)
                .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "rro"])
                .probe(&["mkdir", inside, ";", "mkdir", "/sys/fs/cgroup/x"])
                .with(|config| {
                    if namespace {
                        push(&mut config["linux"]["namespaces"], json!({ "type": "cgroup" }));
                    }
                });
            let answers = t.run(&bundle).ok().answers();
            assert_eq!(answers, [json!({ "errno": READ_ONLY }), json!({ "errno": READ_ONLY })]);
        }
    })
    .except(&[("runc", "1.1.5 mounts v1 cgroups without it")]),
    Case::runc("the cgroup2 mount is read-only, with a cgroup namespace and without", |t| {
        for namespace in [true, false] {
            let bundle = Bundle::new(t)
                .mount("/sys/fs/cgroup", "cgroup2", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
                .probe(&["report", ";", "mkdir", "/sys/fs/cgroup/hole", ";", "write", "/sys/fs/cgroup/cgroup.procs", "1"])
                .with(|config| {
                    if namespace {
                        push(&mut config["linux"]["namespaces"], json!({ "type": "cgroup" }));
                    }
                });
            let answers = t.run(&bundle).ok().answers();
            let top = mount(&answers[0], "/sys/fs/cgroup");
            assert_eq!(top["type"], "cgroup2");
            assert!(top["options"].as_array().expect("options").contains(&json!("ro")), "{top}");
            for answer in &answers[1..] {
                assert_eq!(answer, &json!({ "errno": READ_ONLY }));
            }
        }
    })
    .needs(Needs::V2),
    Case::runc("the cgroup mount in a cgroup namespace shows its root", |t| {
        let bundle = Bundle::new(t)
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
            .with(|config| push(&mut config["linux"]["namespaces"], json!({ "type": "cgroup" })))
            .probe(&["report"]);
        let report = t.run(&bundle).answer();
        let cgroup = report["cgroup"].as_str().expect("cgroup");
        for line in cgroup.lines() {
            // v1 of the view without cgroup2: the unified line has no member.
            assert!(line.ends_with(":/"), "{line}");
        }
        let target = if t.view == "v2" { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" };
        assert_eq!(mount(&report, target)["root"], "/");
    }),
    Case::runc("no /dev mount: the devices of the rootfs stay as they are", |t| {
        let bundle = Bundle::new(t).probe(&["stat", "/dev/mine"]).file("dev/mine", "x").with(|config| {
            let mounts = config["mounts"].as_array_mut().expect("mounts");
            mounts.retain(|mount| !mount["destination"].as_str().is_some_and(|path| path.starts_with("/dev")));
            push(&mut config["mounts"], json!({ "destination": "/dev", "type": "bind", "source": "rootfs/dev", "options": ["bind"] }));
        });
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        let null = bundle.rootfs().join("dev/null");
        mknod(&null, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).expect("mknod");
        assert_eq!(t.run(&bundle).answer()["type"], "file");
    }),
    Case::kernel("a file where a mounted directory goes is refused, with the path", |t| {
        let bundle = shared(t, "/data/file", &["bind"]).file("data/file", "x");
        t.run(&bundle).fails(1, &["/data/file"]);

    }),
    Case::runc("a remount changes what is mounted there", |t| {
        let bundle = Bundle::new(t)
            .mount("/mnt", "tmpfs", "tmpfs", &["size=64k"])
            .mount("/mnt", "tmpfs", "tmpfs", &["remount", "ro", "size=128k"])
            .probe(&["create", "/mnt/file", "x", ";", "report"]);
        let answers = t.run(&bundle).ok().answers();
        assert_eq!(answers[0], json!({ "errno": 30 }));
        let mounts = targets(&answers[1]);
        assert_eq!(mounts.iter().filter(|target| *target == "/mnt").count(), 1);
    }),
    Case::kernel("a remount of what is no mount is refused, with the path", |t| {
        for target in ["/data", "/no/such", "/link"] {
            let bundle = Bundle::new(t)
                .args(&["true"])
                .mount(target, "tmpfs", "tmpfs", &["remount", "ro"]);
            std::os::unix::fs::symlink("/", bundle.rootfs().join("link")).expect("symlink");
            t.run(&bundle).fails(1, &[target]);
            assert!(!bundle.rootfs().join("no").exists());
        }
    })
    .except(&[("runc", "1.1.5 makes the directory first")]),
    Case::kernel("a file system of its own is idmapped, too", |t| {
        let mapping = json!([{ "containerID": 0, "hostID": 5000, "size": 100 }]);
        let bundle = Bundle::new(t).probe(&["stat", "/mnt"]).with(|config| {
            push(&mut config["mounts"], json!({
                "destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["idmap"],
                "uidMappings": mapping, "gidMappings": mapping,
            }));
        });
        let answer = t.run(&bundle).answer();
        assert_eq!((&answer["uid"], &answer["gid"]), (&json!(5000), &json!(5000)));
    })
    .needs(Needs::TmpfsIdmap)
    .except(&[("runc", "1.1.5 does not know idmap")]),
    Case::kernel("a file system that can't be idmapped is refused, with the path", |t| {
        let mapping = json!([{ "containerID": 0, "hostID": 5000, "size": 100 }]);
        for (kind, cause) in [("proc", "invalid argument"), ("cgroup", "cgroups can't be idmapped")] {
            let target = if kind == "proc" { "/proc" } else { "/mnt" };
            let bundle = Bundle::new(t).args(&["true"]).with(|config| {
                let mounts = config["mounts"].as_array_mut().expect("mounts");
                mounts.retain(|mount| mount["destination"] != target);
                mounts.insert(0, json!({
                    "destination": target, "type": kind, "source": kind,
                    "uidMappings": mapping, "gidMappings": mapping,
                }));
            });
            t.run(&bundle).fails(1, &[cause]);
        }
    })
    .except(&[("runc", "1.1.5 does not know idmap")]),
];

/// The files of /proc that may be covered (runc's checkProcMount).
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// The same with a user namespace that maps every id to itself.
fn in_user_namespace(bundle: Bundle) -> Bundle {
    bundle.with(|config| {
        push(
            &mut config["linux"]["namespaces"],
            json!({ "type": "user" }),
        );
        let all = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
        config["linux"]["uidMappings"] = all.clone();
        config["linux"]["gidMappings"] = all;
    })
}

/// A bundle with a directory of the case, in which `file` says `host`,
/// mounted on `target`.
fn shared(t: &Test, target: &str, options: &[&str]) -> Bundle {
    let source = t.directory.join("shared");
    fs::create_dir_all(&source).expect("mkdir");
    fs::write(source.join("file"), "host").expect("write");
    Bundle::new(t).mount(target, "bind", text(&source), options)
}

fn targets(report: &Value) -> Vec<String> {
    let mounts = report["mounts"].as_array().expect("mounts");
    mounts
        .iter()
        .map(|mount| mount["target"].as_str().expect("target").to_owned())
        .collect()
}

/// The topmost mount on this path.
#[track_caller]
fn mount(report: &Value, target: &str) -> Value {
    let mounts = report["mounts"].as_array().expect("mounts");
    let found = mounts.iter().rfind(|mount| mount["target"] == target);
    found
        .unwrap_or_else(|| panic!("nothing on {target}: {:?}", targets(report)))
        .clone()
}
