//! What engines read of a runtime, and no page of the specification says: the
//! contracts for which the black-box tests of rrun have no case of their own.

use std::fs;

use serde_json::{Value, json};
use spec_tests::runtime::text;
use spec_tests::{Bundle, Case, Test};

/// crun has texts of its own, and Podman alone reads them.
const TEXTS: &[(&str, &str)] = &[(
    "crun",
    "has texts of its own; containerd runs it all the same",
)];

pub(crate) const CASES: &[Case] = &[
    Case::clause(
        &["engines/log-last"],
        "an error in the JSON log has level, msg and time",
        |t| {
            let log = t.directory.join("log.json");
            let outcome = t.call(&[
                "--log",
                text(&log),
                "--log-format",
                "json",
                "start",
                "nobody",
            ]);
            assert_ne!(outcome.code, 0);
            let log = fs::read_to_string(&log).expect("the log");
            let last: Value = log
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .rfind(|object: &Value| object["level"] == "error")
                .expect("an object of level error");
            assert!(!last["msg"].as_str().expect("msg").is_empty());
            let time = last["time"].as_str().expect("time");
            assert!(time.len() >= 20 && time.as_bytes()[10] == b'T', "{time}");
        },
    ),
    Case::clause(
        &["engines/text-exists"],
        "an id in use: container with given ID already exists",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let _container = t.create(&bundle);
            says(
                t,
                &["create", "--bundle", text(&bundle.path), &bundle.id],
                "container with given ID already exists",
            );
        },
    )
    .except(TEXTS),
    Case::clause(
        &["engines/text-invalid-id"],
        "an id that is none: invalid container ID format",
        |t| {
            let bundle = Bundle::new(t);
            says(
                t,
                &["create", "--bundle", text(&bundle.path), "a b"],
                "invalid container ID format",
            );
        },
    )
    .except(TEXTS),
    Case::clause(
        &["engines/text-missing"],
        "an id that is not there: container does not exist",
        |t| {
            let id = t.id();
            for command in [
                &["state", &id][..],
                &["start", &id],
                &["kill", &id, "9"],
                &["delete", &id],
                &["exec", &id, "true"],
            ] {
                says(t, command, "does not exist");
            }
        },
    )
    .except(&[(
        "crun",
        "has texts of its own; containerd runs it all the same",
    )]),
    Case::clause(
        &["engines/text-exec-stopped"],
        "exec into a stopped container",
        |t| {
            let bundle = Bundle::new(t).args(&["true"]);
            let container = t.start(&bundle);
            container.wait_status("stopped");
            says(
                t,
                &["exec", &bundle.id, "true"],
                "cannot exec in a stopped container",
            );
        },
    )
    .except(TEXTS),
    Case::clause(
        &["engines/text-exec-paused"],
        "exec into a paused container",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let _container = t.start(&bundle);
            t.call(&["pause", &bundle.id]).ok();
            let wanted = "cannot exec in a paused container (use --ignore-paused to override)";
            says(t, &["exec", &bundle.id, "true"], wanted);
            t.call(&["resume", &bundle.id]).ok();
        },
    )
    .except(TEXTS),
    Case::clause(
        &["engines/text-delete"],
        "delete of a running container names it and its status",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let _container = t.start(&bundle);
            let wanted = format!(
                "cannot delete container {} that is not stopped: running",
                bundle.id
            );
            says(t, &["delete", &bundle.id], &wanted);
        },
    )
    .except(TEXTS),
    Case::clause(
        &["engines/text-tty"],
        "create with a terminal and without a console socket",
        |t| {
            let bundle = Bundle::new(t).with(|config| config["process"]["terminal"] = json!(true));
            let wanted = "cannot allocate tty if runc will detach without setting console socket";
            says(
                t,
                &["create", "--bundle", text(&bundle.path), &bundle.id],
                wanted,
            );
        },
    )
    .except(TEXTS),
    Case::clause(
        &["engines/go-update"],
        "update --resources=- reads stdin",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let _container = t.start(&bundle);
            let path = t.directory.join("resources");
            fs::write(&path, json!({ "blockIO": {} }).to_string()).expect("write");
            let mut command = t.command(&["update", "--resources=-", &bundle.id]);
            t.spawn(command.stdin(fs::File::open(&path).expect("open")))
                .wait()
                .ok();
            fs::write(&path, "{").expect("write");
            let mut command = t.command(&["update", "--resources=-", &bundle.id]);
            assert_ne!(
                t.spawn(command.stdin(fs::File::open(&path).expect("open")))
                    .wait()
                    .code,
                0
            );
        },
    ),
    Case::clause(
        &["engines/go-create"],
        "create with all flags that go-runc gives",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let pid_file = t.directory.join("init.pid");
            let mut args = vec![
                "create",
                "--bundle",
                text(&bundle.path),
                "--pid-file",
                text(&pid_file),
            ];
            args.extend(["--no-new-keyring", &bundle.id]);
            t.call(&args).ok();
            let container = t.adopt(&bundle.id);
            assert_eq!(
                fs::read_to_string(&pid_file).expect("read"),
                container.pid().to_string()
            );
        },
    ),
    Case::clause(
        &["engines/go-exec"],
        "exec with all flags that go-runc gives",
        |t| {
            let bundle = Bundle::new(t).probe(&["pause"]);
            let _container = t.start(&bundle);
            let process = t.directory.join("process.json");
            let mut spec = bundle.config()["process"].clone();
            spec["args"] = json!(["/bin/probe", "create", "/data/ran", "x"]);
            fs::write(&process, spec.to_string()).expect("write");
            let pid_file = t.directory.join("exec.pid");
            let log = t.directory.join("log.json");
            t.call(&[
                "--log",
                text(&log),
                "--log-format",
                "json",
                "exec",
                "--process",
                text(&process),
                "--detach",
                "--pid-file",
                text(&pid_file),
                &bundle.id,
            ])
            .ok();
            let pid: u32 = fs::read_to_string(&pid_file)
                .expect("read")
                .parse()
                .expect("a pid alone");
            assert!(pid > 1);
            spec_tests::runtime::wait_until("the program", || {
                bundle.rootfs().join("data/ran").exists()
            });
        },
    ),
    Case::clause(
        &["engines/probe-checkpoint"],
        "checkpoint --help ends with 0",
        |t| {
            has_checkpoint(t);
            let outcome = t.call(&["checkpoint", "--help"]).ok();
            assert!(
                outcome.stdout.contains("--image-path"),
                "{}",
                outcome.stdout
            );
        },
    ),
    Case::clause(
        &["engines/probe-restore"],
        "restore --lsm-mount-context says that it needs an argument",
        |t| {
            has_checkpoint(t);
            let outcome = t.call(&["restore", "--lsm-mount-context"]);
            assert_ne!(outcome.code, 0);
            let said = format!("{}{}", outcome.stdout, outcome.stderr);
            assert!(
                said.contains("flag needs an argument") || said.contains("requires an argument"),
                "{said}"
            );
        },
    ),
    Case::clause(
        &["engines/cgroup-frozen"],
        "create in a frozen cgroup is an error",
        |t| {
            if t.is("crun") {
                t.does_not_apply("1.8.1 waits for ever, and so would this case");
            }
            let bundle = Bundle::new(t).probe(&["pause"]);
            let (controller, file, frozen, thawed) = match t.view.as_str() {
                "v2" => ("", "cgroup.freeze", "1", "0"),
                _ => ("freezer", "freezer.state", "FROZEN", "THAWED"),
            };
            let directory = t.cgroup(controller, &bundle.id);
            fs::create_dir(&directory).expect("a cgroup");
            fs::write(directory.join(file), frozen).expect("freeze");
            let outcome = crate::attempt::create(t, &bundle);
            let exists = crate::attempt::exists(t, &bundle.id);
            let _ = fs::write(directory.join(file), thawed);
            drop(t.adopt(&bundle.id));
            let _ = fs::remove_dir(&directory);
            assert_ne!(outcome.code, 0, "it was created");
            assert!(!exists);
        },
    ),
];

/// Fails with this text on stderr.
#[track_caller]
fn says(t: &Test, args: &[&str], wanted: &str) {
    let outcome = t.call(args);
    assert_ne!(outcome.code, 0, "{args:?}");
    assert!(
        outcome.stderr.contains(wanted),
        "{args:?}: no \"{wanted}\" in: {}",
        outcome.stderr
    );
}

fn has_checkpoint(t: &Test) {
    let help = t.call(&["--help"]);
    if !format!("{}{}", help.stdout, help.stderr).contains("checkpoint") {
        t.does_not_apply("the runtime has no checkpoint");
    }
}
