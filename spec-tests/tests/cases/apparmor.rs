//! AppArmor: which profile a program runs under, what that forbids it, and that
//! no container can make the runtime believe that it was set.
//!
//! The profiles are loaded into the kernel, so this is for `hack/vm` alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use spec_tests::runtime::text;
use spec_tests::{Bundle, Case, Needs, Test};

pub(crate) const CASES: &[Case] = &[
    runc("the program runs under its profile, which forbids", |t| {
        let profile = Profile::load(t);
        let bundle = confined(t, &profile.name).probe(&LOOK);
        let outcome = t.run(&bundle).ok();
        assert_eq!(outcome.answers(), seen_from(&profile.name));
    }),
    runc("the same without noNewPrivileges", |t| {
        let profile = Profile::load(t);
        let bundle = confined(t, &profile.name)
            .probe(&LOOK)
            .with(|config| config["process"]["noNewPrivileges"] = json!(false));
        let outcome = t.run(&bundle).ok();
        assert_eq!(outcome.answers(), seen_from(&profile.name));
    }),
    runc("the same in a user namespace", |t| {
        let profile = Profile::load(t);
        let bundle = confined(t, &profile.name)
            .probe(&LOOK)
            .in_user_namespace(100_000);
        let outcome = t.run(&bundle).ok();
        assert_eq!(outcome.answers(), seen_from(&profile.name));
    }),
    runc("without a profile nothing is forbidden", |t| {
        for profile in [Value::Null, json!(""), json!("unconfined")] {
            let bundle = Bundle::new(t).file("data/secret", "s").probe(&LOOK);
            let bundle = bundle.with(|config| config["process"]["apparmorProfile"] = profile);
            let outcome = t.run(&bundle).ok();
            assert_eq!(outcome.answers(), unconfined());
        }
    }),
    runc("an exec has the container's profile, or its own", |t| {
        let (first, second) = (Profile::load(t), Profile::load(t));
        let container = t.start(&confined(t, &first.name).probe(&["pause"]));
        let look = |flags: &[&str]| container.probe(flags, &LOOK).ok().answers();
        assert_eq!(look(&[]), seen_from(&first.name));
        assert_eq!(look(&["--apparmor", &second.name]), seen_from(&second.name));
        assert_eq!(look(&["--apparmor", "unconfined"]), unconfined());
    }),
    runc("an exec of a process file has the profile of that", |t| {
        let profile = Profile::load(t);
        let bundle = Bundle::new(t).file("data/secret", "s").probe(&["pause"]);
        let container = t.start(&bundle);
        let mut process = bundle.config()["process"].clone();
        let words = std::iter::once("/bin/probe").chain(LOOK);
        process["args"] = json!(words.collect::<Vec<_>>());
        process["apparmorProfile"] = json!(profile.name);
        let path = t.directory.join("process.json");
        fs::write(&path, process.to_string()).expect("write");
        let outcome = t.call(&["exec", "--process", text(&path), &container.id]);
        assert_eq!(outcome.ok().answers(), seen_from(&profile.name));
    }),
    runc(
        "a profile that is not loaded is refused by name, nothing is left",
        |t| {
            let bundle = confined(t, "no-such-profile");
            t.run(&bundle)
                .fails(1, &["apparmor", "profile", "/attr/apparmor/exec"]);
            t.call(&["state", &bundle.id]).fails(1, &["does not exist"]);
            assert!(!t.cgroup("", &bundle.id).exists());
            let container = t.start(&Bundle::new(t).probe(&["pause"]));
            container
                .probe(&["--apparmor", "no-such-profile"], &["true"])
                .fails(255, &["apparmor", "profile", "/attr/apparmor/exec"]);
            assert_eq!(container.status(), "running");
        },
    ),
    Case::kernel(
        "the error names profile, file and cause as Podman reads it",
        |t| {
            let bundle = confined(t, "no-such-profile");
            // Podman's pattern is `/proc/[a-z0-9-].+/attr.*` with the backticks, at whose
            // end it looks for exec; "no such file" would have meant another error.
            let outcome = t.run(&bundle).fails(
                1,
                &["apply apparmor profile \"no-such-profile\": write \
               `/proc/thread-self/attr/apparmor/exec`: no profile of this name is loaded"],
            );
            assert_eq!(outcome.stderr.matches('`').count(), 2, "{}", outcome.stderr);
        },
    )
    .needs(Needs::AppArmor)
    .except(&[("runc", "has no backticks")]),
    Case::kernel("a profile in force that forbids the change is told", |t| {
        // A process under a profile may not leave it: the runtime is such a one.
        let profile = Profile::load(t);
        let bundle = confined(t, "unconfined");
        let mut command = Command::new("aa-exec");
        command.args(["-p", &profile.name, "--"]).arg(&t.runtime);
        command.arg("--root").arg(&t.root).args(["run", "--bundle"]);
        command.arg(&bundle.path).arg(&bundle.id);
        let outcome = t.spawn(&mut command).wait();
        outcome.fails(1, &["apparmor"]);
    })
    .needs(Needs::AppArmor),
    // CVE-2019-16884 and CVE-2023-28642: an image brings a /proc of its own, in
    // which the write of the profile ends in a file of the image.
    runc("attack: a directory of the image over /proc", |t| {
        let fake = fake_proc(&t.directory.join("fake"));
        let bundle = target(t).mount("/proc", "bind", text(&fake), &["rbind", "rw"]);
        withstood(t, &bundle, &fake);
    }),
    runc(
        "attack: a tmpfs over /proc takes what the image has there",
        |t| {
            let bundle = target(t).mount("/proc", "tmpfs", "tmpfs", &["tmpcopyup"]);
            let fake = fake_proc(&bundle.rootfs().join("proc"));
            withstood(t, &bundle, &fake);
        },
    ),
    runc("attack: no /proc but a directory of the image", |t| {
        let bundle = target(t);
        let fake = fake_proc(&bundle.rootfs().join("proc"));
        withstood(t, &bundle, &fake);
    }),
    runc("attack: /proc is a link of the image", |t| {
        let bundle = target(t);
        let fake = fake_proc(&bundle.rootfs().join("elsewhere"));
        let proc = bundle.rootfs().join("proc");
        fs::remove_dir(&proc).expect("rmdir");
        std::os::unix::fs::symlink("elsewhere", proc).expect("symlink");
        withstood(t, &bundle, &fake);
    }),
    runc(
        "attack: a real procfs, and a link of the image under it",
        |t| {
            let bundle = target(t).mount("/proc", "proc", "proc", &[]);
            let fake = fake_proc(&bundle.rootfs().join("elsewhere"));
            let proc = bundle.rootfs().join("proc");
            fs::remove_dir(&proc).expect("rmdir");
            std::os::unix::fs::symlink("elsewhere", proc).expect("symlink");
            withstood(t, &bundle, &fake);
        },
    ),
    runc("attack: a mount over the attributes alone", |t| {
        let fake = fake_proc(&t.directory.join("fake"));
        let attributes = fake.join("self/attr");
        let bundle = target(t).mount("/proc", "proc", "proc", &[]);
        let bundle = bundle.mount("/proc/self/attr", "bind", text(&attributes), &["rbind"]);
        withstood(t, &bundle, &fake);
    }),
    runc("attack: a mount over the thread's directory", |t| {
        let fake = fake_proc(&t.directory.join("fake"));
        let own = fake.join("thread-self");
        let bundle = target(t).mount("/proc", "proc", "proc", &[]);
        let bundle = bundle.mount("/proc/thread-self", "bind", text(&own), &["rbind"]);
        withstood(t, &bundle, &fake);
    }),
    runc(
        "attack: /proc is covered in the container when an exec comes",
        |t| {
            let profile = Profile::load(t);
            let bundle = Bundle::new(t).file("data/secret", "s").probe(&["pause"]);
            let fake = fake_proc(&bundle.rootfs().join("data/fake"));
            let container = t.start(&bundle);
            let bind = ["/bin/probe", "mount", "/data/fake", "/proc", "none", "4096"];
            let covered = Command::new("nsenter")
                .args(["--mount", "--target", &container.pid().to_string()])
                .args(bind)
                .output()
                .expect("nsenter");
            assert_eq!(String::from_utf8_lossy(&covered.stdout), "{\"value\":0}\n");
            let outcome = container.probe(&["--apparmor", &profile.name], &SECRET);
            assert!(
                outcome.code == 255 || outcome.answers() == [json!({ "errno": 13 })],
                "{outcome:?}"
            );
            untouched(&fake);
        },
    ),
];

/// What a program does to see how it is confined.
const LOOK: [&str; 7] = [
    "read",
    "/proc/self/attr/apparmor/current",
    ";",
    "read",
    "/data/secret",
    ";",
    "true",
];

/// What [`LOOK`] finds under a profile of [`Profile::load`].
fn seen_from(profile: &str) -> [Value; 2] {
    [
        json!({ "text": format!("{profile} (enforce)\n") }),
        json!({ "errno": 13 }),
    ]
}

/// What [`LOOK`] finds without one.
fn unconfined() -> [Value; 2] {
    [json!({ "text": "unconfined\n" }), json!({ "text": "s" })]
}

const fn runc(name: &'static str, run: fn(&Test)) -> Case {
    Case::runc(name, run).needs(Needs::AppArmor)
}

/// A bundle with a secret, under a profile.
fn confined(t: &Test, profile: &str) -> Bundle {
    let bundle = Bundle::new(t).file("data/secret", "s");
    bundle.with(|config| config["process"]["apparmorProfile"] = json!(profile))
}

/// A bundle without a mount of /proc.
fn target(t: &Test) -> Bundle {
    Bundle::new(t).file("data/secret", "s").with(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| mount["destination"] != "/proc");
        let linux = config["linux"].as_object_mut().expect("linux");
        linux.remove("maskedPaths");
        linux.remove("readonlyPaths");
    })
}

/// Reads the secret.
const SECRET: [&str; 2] = ["read", "/data/secret"];

/// A directory that looks like a procfs to who writes to it.
fn fake_proc(top: &Path) -> PathBuf {
    for own in ["self", "thread-self", "1"] {
        fs::create_dir_all(top.join(own).join("attr/apparmor")).expect("mkdir");
        for file in FILES {
            fs::write(top.join(own).join(file), "").expect("a file");
        }
    }
    top.to_owned()
}

const FILES: [&str; 2] = ["attr/exec", "attr/apparmor/exec"];

/// Runs the bundle under a profile: it is refused, or the profile is in force.
#[track_caller]
fn withstood(t: &Test, bundle: &Bundle, fake: &Path) {
    let profile = Profile::load(t);
    let bundle = bundle.clone().probe(&SECRET).with(|config| {
        config["process"]["apparmorProfile"] = json!(profile.name);
    });
    let outcome = t.run(&bundle);
    let refused = outcome.code == 1 && outcome.stdout.is_empty() && !outcome.stderr.is_empty();
    assert!(
        refused || outcome.answers() == [json!({ "errno": 13 })],
        "{outcome:?}"
    );
    untouched(fake);
}

/// Nobody wrote into the files of the image.
#[track_caller]
fn untouched(fake: &Path) {
    for own in ["self", "thread-self", "1"] {
        for file in FILES {
            let path = fake.join(own).join(file);
            assert_eq!(
                fs::read_to_string(&path).expect("read"),
                "",
                "{}",
                path.display()
            );
        }
    }
}

/// A profile in the kernel, for as long as the case runs.
pub(crate) struct Profile {
    pub(crate) name: String,
    path: PathBuf,
}

impl Profile {
    /// One that forbids to read /data/secret, and nothing else.
    pub(crate) fn load(t: &Test) -> Profile {
        let name = t.id();
        let path = t.directory.join(format!("{name}.apparmor"));
        let rules = "file, capability, network, mount, umount, pivot_root, signal, ptrace, unix,";
        let text = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n\
             {rules}\n\
             deny /data/secret r,\n}}\n"
        );
        fs::write(&path, text).expect("the profile");
        let profile = Profile { name, path };
        profile.parser("--add");
        profile
    }

    fn parser(&self, command: &str) {
        let ran = Command::new("apparmor_parser")
            .args(["--skip-cache", command])
            .arg(&self.path)
            .output();
        let ran = ran.expect("apparmor_parser");
        let stderr = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{stderr}");
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parser("--remove");
    }
}
