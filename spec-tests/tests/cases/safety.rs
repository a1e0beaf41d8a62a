//! What a hostile container or a broken state finds: nothing to hold on to.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use spec_tests::bundle::push;
use spec_tests::runtime::{text, wait_until};
use spec_tests::{Bundle, Case, Test};

const READ_ONLY_FILE_SYSTEM: i32 = 30;
const TEXT_BUSY: i32 = 26;
const PERMISSION: i32 = 1;

pub(crate) const CASES: &[Case] = &[
    Case::kernel(
        "the runtime's binary that a container could keep is sealed",
        sealed,
    )
    .except(&[(
        "runc",
        "seals a copy in memory: opened it is, written to it is not",
    )]),
    Case::kernel("a runtime on a tmpfs is sealed without a copy", |t| {
        let copy = Path::new("/dev/shm").join(format!("rrun-{}", t.id()));
        fs::copy(&t.runtime, &copy).expect("copy");
        let bundle = Bundle::new(t).probe(&["pause"]);
        let made = Command::new(&copy)
            .arg("--root")
            .arg(&t.root)
            .args(["create", "-b", text(&bundle.path), &bundle.id])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        fs::remove_file(&copy).expect("remove");
        assert!(made.expect("the runtime").success());
        let container = t.adopt(&bundle.id);
        let exe = fs::read_link(format!("/proc/{}/exe", container.pid())).expect("readlink");
        assert!(!text(&exe).contains("memfd"), "{exe:?}");
    })
    .except(&[("runc", "seals a copy in memory")]),
    Case::runc(
        "a container opens the host's console only where config.json allows it",
        |t| {
            let bundle = |rules: &[Value]| {
                let bundle = Bundle::new(t)
                    .probe(&["mknod", "/con", "20600", "5", "1", ";", "open", "/con", "0"]);
                bundle.with(|config| {
                    for set in ["bounding", "effective", "permitted"] {
                        push(
                            &mut config["process"]["capabilities"][set],
                            json!("CAP_MKNOD"),
                        );
                    }
                    config["linux"]["resources"]["devices"] = json!(rules);
                })
            };
            let rule = |allow: bool, minor: i64| json!({ "allow": allow, "type": "c", "major": 5, "minor": minor, "access": "rwm" });
            let none = json!({ "allow": false, "access": "rwm" });
            for rules in [&[none.clone()][..], &[none.clone(), rule(false, 1)]] {
                let answers = t.run(&bundle(rules)).ok().answers();
                assert_eq!(
                    answers,
                    [json!({ "value": 0 }), json!({ "errno": PERMISSION })]
                );
            }
            // The kernel answers in its own way where it has none.
            let answers = t.run(&bundle(&[none, rule(true, 1)])).ok().answers();
            assert_ne!(answers[1], json!({ "errno": PERMISSION }));
        },
    ),
    Case::kernel("no process enters a container in the making", |t| {
        // Its mount namespace still shows the root of the host.
        let reached = t.directory.join("reached");
        let left = t.directory.join("left");
        let script = format!(
            "touch {}; until test -e {}; do sleep 0.05; done",
            text(&reached),
            text(&left)
        );
        let bundle = Bundle::new(t)
            .probe(&["pause"])
            .shell_hook("prestart", &script);
        let mut command = t.command(&["create", "-b", text(&bundle.path), &bundle.id]);
        let creating = t.spawn(&mut command);
        wait_until("the hook", || reached.exists());
        let refused = t.call(&["exec", &bundle.id, "/bin/probe", "true"]);
        fs::write(&left, "").expect("the sign");
        creating.wait().ok();
        refused.fails(255, &["cannot exec in a container that is being created"]);
        t.adopt(&bundle.id).probe(&[], &["report"]).ok();
    })
    .except(&[("runc", "1.1.5 has no state before it is created")]),
    Case::kernel(
        "a process enters the root of a container without mount namespace",
        |t| {
            let bundle = Bundle::new(t)
                .without_namespace("mount")
                .with(|config| {
                    config["mounts"] = json!([]);
                    for paths in ["maskedPaths", "readonlyPaths"] {
                        config["linux"]
                            .as_object_mut()
                            .expect("linux")
                            .remove(paths);
                    }
                })
                .file("mark", "here")
                .probe(&["pause"]);
            let container = t.start(&bundle);
            let answer = container.probe(&[], &["read", "/mark"]).answer();
            assert_eq!(answer, json!({ "text": "here" }));
        },
    )
    .except(&[("runc", "1.1.5 needs a /proc in the root")]),
    Case::kernel("a created process of another user is not dumpable", |t| {
        // Else that user could trace it and use what it holds of the host.
        let bundle = Bundle::new(t)
            .probe(&["pause"])
            .with(|config| config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 }));
        let container = t.create(&bundle);
        let owner = fs::metadata(format!("/proc/{}/environ", container.pid()))
            .expect("stat")
            .uid();
        assert_eq!(owner, 0);
    }),
    Case::kernel("a created process sees the container's root only", |t| {
        let bundle = Bundle::new(t).file("mark", "").probe(&["pause"]);
        let container = t.create(&bundle);
        let root = format!("/proc/{}/root", container.pid());
        assert!(fs::metadata(format!("{root}/mark")).is_ok());
        let of_host = t.directory.strip_prefix("/").expect("absolute");
        assert!(fs::metadata(format!("{root}/{}", text(of_host))).is_err());
        let cwd = fs::read_link(format!("/proc/{}/cwd", container.pid())).expect("readlink");
        assert_eq!(text(&cwd), "/");
    }),
    Case::kernel(
        "a state file that is broken is an error, and delete --force cleans it",
        |t| {
            let bundle = Bundle::new(t).probe(&["exit", "0"]);
            let container = t.start(&bundle);
            container.wait_status("stopped");
            let path = t.root.join(&bundle.id).join("state.json");
            let whole = fs::read(&path).expect("state.json");
            for broken in [&b""[..], b"{", b"[]", b"\xff\xfe"] {
                fs::write(&path, broken).expect("write");
                let outcome = t.call(&["state", &bundle.id]);
                assert_eq!(outcome.code, 1, "{outcome:?}");
                assert!(
                    !outcome.stderr.is_empty() && !outcome.stderr.contains("panic"),
                    "{outcome:?}"
                );
                let others = t.call(&["list", "-q"]);
                assert_ne!(others.code, 101, "{others:?}");
            }
            fs::write(&path, whole).expect("write");
            container.delete().ok();
        },
    ),
    Case::kernel(
        "a device of the list never follows a link out of the root",
        |t| {
            let victim = t.directory.join("victim");
            fs::create_dir(&victim).expect("mkdir");
            let behind = format!("{}/dev", text(&victim));
            let bundle = Bundle::new(t).probe(&["stat", &behind]).with(|config| {
            config["linux"]["devices"] =
                json!([{ "path": "/data/out/dev", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 }]);
        });
            std::os::unix::fs::symlink(&victim, bundle.rootfs().join("data/out")).expect("symlink");
            let answer = t.run(&bundle).answer();
            assert_eq!(
                (&answer["type"], &answer["device"]),
                (&json!("char"), &json!("1:3"))
            );
            assert_eq!(fs::read_dir(&victim).expect("readdir").count(), 0);
        },
    ),
    Case::runc("a masked path never follows a link out of the root", |t| {
        // The link says where the host's file is, and where one of the image's is.
        let victim = t.directory.join("victim");
        fs::write(&victim, "the host's").expect("write");
        let inside = text(&victim).trim_start_matches('/').to_owned();
        let words = ["read", text(&victim), ";", "read", "/data/out"];
        let bundle = Bundle::new(t)
            .file(&inside, "the image's")
            .probe(&["pause"])
            .with(|config| config["linux"]["maskedPaths"] = json!(["/data/out"]));
        std::os::unix::fs::symlink(&victim, bundle.rootfs().join("data/out")).expect("symlink");
        let container = t.start(&bundle);
        let answers = container.probe(&[], &words).ok().answers();
        assert_eq!(answers, [json!({ "text": "" }), json!({ "text": "" })]);
        assert_eq!(fs::read_to_string(&victim).expect("read"), "the host's");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
        assert!(!mounts.contains(text(&victim)), "{mounts}");
    }),
    Case::kernel(
        "a masked path never follows a magic link of a procfs",
        |t| {
            let bundle = Bundle::new(t)
                .file("data/secret", "secret")
                .probe(&["read", "/data/secret"])
                .with(|config| config["linux"]["maskedPaths"] = json!(["/data/out"]));
            let out = bundle.rootfs().join("data/out");
            std::os::unix::fs::symlink("/proc/self/root/data/secret", out).expect("symlink");
            let outcome = t.run(&bundle);
            if t.without.iter().any(|call| call == "openat2") {
                // A walk by hand takes the link's text, which stays in the root.
                assert_eq!(outcome.answer(), json!({ "text": "" }));
            } else {
                outcome.fails(1, &["/data/out"]);
            }
        },
    )
    .except(&[("runc", "follows any link, having entered the root")]),
    Case::kernel(
        "a working directory by a link is made inside the root",
        |t| {
            let victim = t.directory.join("victim");
            fs::create_dir(&victim).expect("mkdir");
            let bundle =
                Bundle::new(t).with(|config| config["process"]["cwd"] = json!("/data/out/new"));
            fs::create_dir_all(bundle.rootfs().join(text(&victim).trim_start_matches('/')))
                .expect("mkdir");
            std::os::unix::fs::symlink(&victim, bundle.rootfs().join("data/out")).expect("symlink");
            let report = t.run(&bundle).answer();
            assert_eq!(report["cwd"], json!(format!("{}/new", text(&victim))));
            assert_eq!(fs::read_dir(&victim).expect("readdir").count(), 0);
        },
    ),
    Case::kernel(
        "a tmpcopyup never copies what a link of the root points at",
        |t| {
            let secret = t.directory.join("secret");
            fs::create_dir(&secret).expect("mkdir");
            fs::write(secret.join("key"), "of the host").expect("write");
            let inside = text(&secret).trim_start_matches('/').to_owned();
            let bundle = Bundle::new(t)
                .file(&format!("{inside}/own"), "of the image")
                .mount("/data/out", "tmpfs", "tmpfs", &["tmpcopyup"])
                .probe(&[
                    "list",
                    "/data/out",
                    ";",
                    "read",
                    "/data/out/own",
                    ";",
                    "report",
                ]);
            std::os::unix::fs::symlink(&secret, bundle.rootfs().join("data/out")).expect("symlink");
            let answers = t.run(&bundle).ok().answers();
            assert_eq!(answers[0], json!({ "names": ["own"] }));
            assert_eq!(answers[1], json!({ "text": "of the image" }));
            let mounts = answers[2]["mounts"].as_array().expect("mounts");
            assert!(mounts.iter().any(|mount| mount["target"] == text(&secret)));
        },
    ),
    Case::kernel("state files are not readable by others", |t| {
        let bundle = Bundle::new(t).probe(&["pause"]);
        let _container = t.create(&bundle);
        // An unprivileged reader sees nothing of the state.
        let path = t.root.join(&bundle.id).join("state.json");
        let mut command = std::process::Command::new("cat");
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
        std::os::unix::process::CommandExt::gid(&mut command, 65534);
        assert_ne!(t.spawn(command.arg(&path)).wait().code, 0);
        assert!(fs::read(&path).is_ok(), "root reads it");
    }),
];

/// CVE-2019-5736: who keeps a descriptor of a process of ours can open its
/// program for writing once it no longer runs. The file must be read-only by
/// its mount. A copy is used, which no other case executes.
fn sealed(t: &Test) {
    let copy = t.directory.join("runtime");
    fs::copy(&t.runtime, &copy).expect("copy");
    let bundle = Bundle::new(t).probe(&["pause"]);
    let mut command = std::process::Command::new(&copy);
    command.arg("--root").arg(&t.root);
    command.args(["create", "-b", text(&bundle.path), &bundle.id]);
    t.spawn(&mut command).wait().ok();
    let container = t.adopt(&bundle.id);
    let exe = format!("/proc/{}/exe", container.pid());
    let kept = fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_PATH.bits())
        .open(exe)
        .expect("O_PATH");
    t.call(&["delete", "--force", &bundle.id]).ok();
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&kept));
    let begin = std::time::Instant::now();
    loop {
        let opened = fs::OpenOptions::new().write(true).open(&again);
        let error = match opened {
            // Without the mount API a copy is sealed, which can be opened.
            Ok(mut file) if !t.without.is_empty() => {
                let written = std::io::Write::write(&mut file, b"x");
                assert_eq!(
                    written.expect_err("it is written").raw_os_error(),
                    Some(PERMISSION)
                );
                return;
            }
            opened => opened.expect_err("it is writable"),
        };
        let errno = error.raw_os_error();
        // ETXTBSY as long as the dying process still has it.
        if errno != Some(TEXT_BUSY) || begin.elapsed() > spec_tests::runtime::HANG {
            assert_eq!(errno, Some(READ_ONLY_FILE_SYSTEM));
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
