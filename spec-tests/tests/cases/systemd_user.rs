//! The systemd cgroup driver of a user without rights: his own systemd is asked,
//! over his own bus, and the container's cgroup lies below what was delegated to
//! him. `hack/vm --systemd` has such a user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use spec_tests::runtime::{Container, Outcome, text};
use spec_tests::{Bundle, Case, Needs, Test};

pub(crate) const CASES: &[Case] = &[
    runc("the container is a scope of his systemd", |t| {
        let t = &t.as_user("");
        let bundle = scope(t);
        let container = start(t, &bundle);
        let unit = unit(&bundle);
        assert_eq!(
            own_cgroup(container.pid()),
            format!("{DELEGATED}/user.slice/{unit}")
        );
        assert_eq!(property(&unit, "ActiveState"), "active");
        assert_eq!(property(&unit, "Slice"), "user.slice");
        assert_eq!(property(&unit, "Delegate"), "yes");
        end(t, &container);
        assert_eq!(property(&unit, "LoadState"), "not-found");
        assert!(!directory(&format!("{DELEGATED}/user.slice/{unit}")).exists());
    }),
    Case::kernel("his limits are properties, in force, and updated", |t| {
        let t = &t.as_user("");
        let bundle = limited(
            t,
            json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 17 } }),
        );
        let container = start(t, &bundle);
        let unit = unit(&bundle);
        assert_eq!(property(&unit, "MemoryMax"), "67108864");
        assert_eq!(property(&unit, "TasksMax"), "17");
        assert_eq!(knob(&container, "memory.max"), "67108864");
        assert_eq!(knob(&container, "pids.max"), "17");
        call(t, &["update", "--pids-limit", "8", &container.id]).ok();
        assert_eq!(property(&unit, "TasksMax"), "8");
        assert_eq!(knob(&container, "pids.max"), "8");
        let eat = ["exec", &container.id, "/bin/probe", "touch-memory", "200"];
        assert_eq!(call(t, &eat).code, 137);
        // init, the probe of exec, and six more.
        let forks = ["exec", &container.id, "/bin/probe", "forks", "20"];
        assert_eq!(call(t, &forks).answer(), json!({ "made": 6, "errno": 11 }));
        end(t, &container);
    })
    .needs(Needs::UserSystemd)
    .except(NO_EXEC),
    Case::kernel(
        "his processes are below the scope, and he executes there",
        |t| {
            let t = &t.as_user("");
            let bundle = limited(t, json!({ "pids": { "limit": 17 } }))
                .annotation("run.oci.systemd.subgroup", "sub")
                .annotation("run.oci.delegate-cgroup", "inner");
            let container = start(t, &bundle);
            let unit = unit(&bundle);
            let own = format!("{DELEGATED}/user.slice/{unit}/sub");
            assert_eq!(own_cgroup(container.pid()), format!("{own}/inner"));
            let limit = fs::read_to_string(directory(&own).join("pids.max"));
            assert_eq!(limit.expect("pids.max"), "17\n");
            let report = ["exec", &container.id, "/bin/probe", "report"];
            let report = call(t, &report).answer();
            let cgroup = report["cgroup"].as_str().expect("cgroup");
            assert!(cgroup.contains(&format!("{unit}/sub/inner")), "{cgroup}");
            end(t, &container);
            assert_eq!(property(&unit, "LoadState"), "not-found");
            assert!(!directory(&own).exists());
        },
    )
    .needs(Needs::UserSystemd)
    .except(&[("runc", "annotations of crun's")]),
    runc("he pauses and resumes it", |t| {
        let t = &t.as_user("");
        let container = start(t, &scope(t));
        call(t, &["pause", &container.id]).ok();
        assert_eq!(container.status(), "paused");
        assert_eq!(knob(&container, "cgroup.freeze"), "1");
        call(t, &["resume", &container.id]).ok();
        assert_eq!(container.status(), "running");
        end(t, &container);
    }),
    Case::kernel(
        "an exec is in his scope, and delete --force ends both",
        |t| {
            let t = &t.as_user("");
            let bundle = scope(t);
            let container = start(t, &bundle);
            call(t, &["exec", "-d", &container.id, "/bin/probe", "pause"]).ok();
            let procs = knob(&container, "cgroup.procs");
            assert_eq!(procs.lines().count(), 2, "{procs}");
            call(t, &["delete", "--force", &container.id]).ok();
            assert_eq!(property(&unit(&bundle), "LoadState"), "not-found");
        },
    )
    .needs(Needs::UserSystemd)
    .except(NO_EXEC),
    Case::kernel("his bus is where XDG_RUNTIME_DIR or his id says", |t| {
        let t = &t.as_user("");
        for environment in [vec![("XDG_RUNTIME_DIR", HOME)], Vec::new()] {
            let bundle = scope(t);
            let mut command = t.command(&create_words(&bundle));
            command.env_remove("DBUS_SESSION_BUS_ADDRESS");
            command.env_remove("XDG_RUNTIME_DIR").envs(environment);
            let container = t.adopt(&bundle.id);
            t.spawn(&mut command).wait().ok();
            assert_eq!(property(&unit(&bundle), "ActiveState"), "active");
            call(t, &["delete", "--force", &container.id]).ok();
        }
    })
    .needs(Needs::UserSystemd)
    .except(&[("runc", "wants to be told")]),
    Case::kernel("a bus that is not there is an error that says so", |t| {
        let t = &t.as_user("");
        let bundle = scope(t);
        let nowhere = t.directory.join("nowhere");
        let mut command = t.command(&create_words(&bundle));
        command.env_remove("DBUS_SESSION_BUS_ADDRESS");
        command.env("XDG_RUNTIME_DIR", &nowhere);
        let outcome = t.spawn(&mut command).wait();
        outcome.fails(1, &["the user's systemd", text(&nowhere), "no such file"]);
        call(t, &["state", &bundle.id]).fails(1, &["does not exist"]);
    })
    .needs(Needs::UserSystemd)
    .except(&[("runc", "in other words")]),
];

/// The user's runtime directory.
const HOME: &str = "/run/user/7000";
/// The cgroup of his systemd.
const DELEGATED: &str = "/user.slice/user-7000.slice/vm-user.service";

/// The kernel lets him move no process from where he is into his scope: only his
/// systemd can.
const NO_EXEC: &[(&str, &str)] = &[("runc", "1.1.5 leaves an exec out of the scope")];

const fn runc(name: &'static str, run: fn(&Test)) -> Case {
    Case::runc(name, run).needs(Needs::UserSystemd)
}

fn scope(t: &Test) -> Bundle {
    let bundle = Bundle::new(t).rootless().probe(&["pause"]);
    let path = format!("user.slice:spec:{}", bundle.id);
    bundle.with(|config| config["linux"]["cgroupsPath"] = json!(path))
}

fn limited(t: &Test, resources: Value) -> Bundle {
    scope(t).with(|config| config["linux"]["resources"] = resources)
}

/// The unit of [`scope`]'s container.
fn unit(bundle: &Bundle) -> String {
    format!("spec-{}.scope", bundle.id)
}

fn create_words(bundle: &Bundle) -> [&str; 5] {
    let path = text(&bundle.path);
    ["--systemd-cgroup", "create", "--bundle", path, &bundle.id]
}

/// A command as the user gives it who is logged in.
#[track_caller]
fn call(t: &Test, args: &[&str]) -> Outcome {
    t.spawn(as_logged_in(&mut t.command(args))).wait()
}

fn as_logged_in(command: &mut Command) -> &mut Command {
    command
        .env("XDG_RUNTIME_DIR", HOME)
        .env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={HOME}/bus"))
}

#[track_caller]
fn start<'t>(t: &'t Test, bundle: &Bundle) -> Container<'t> {
    // The handle comes first: what a failed create left is deleted too.
    let container = t.adopt(&bundle.id);
    call(t, &create_words(bundle)).ok();
    call(t, &["start", &bundle.id]).ok();
    container
}

#[track_caller]
fn end(t: &Test, container: &Container<'_>) {
    call(t, &["kill", &container.id, "KILL"]).ok();
    container.wait_status("stopped");
    call(t, &["delete", &container.id]).ok();
}

#[track_caller]
fn property(unit: &str, name: &str) -> String {
    let mut command = Command::new("systemctl");
    command.args(["--user", "show", "--value", "--property", name, unit]);
    let ran = as_logged_in(&mut command).output().expect("systemctl");
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{stderr}");
    String::from_utf8_lossy(&ran.stdout).trim().to_owned()
}

/// The v2 path of a process.
#[track_caller]
fn own_cgroup(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroup");
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.expect("a v2 path").to_owned()
}

fn directory(path: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'))
}

#[track_caller]
fn knob(container: &Container<'_>, file: &str) -> String {
    let path = directory(&own_cgroup(container.pid())).join(file);
    let text = fs::read_to_string(&path);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim_end().to_owned()
}
