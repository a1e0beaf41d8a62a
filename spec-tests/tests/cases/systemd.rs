//! The systemd cgroup driver, beside a systemd that runs: `hack/vm --systemd`
//! starts one on cgroup v2, `--systemd-v1` one on v1 (`VIEW=hybrid`). What systemd
//! believes is asked from it by `systemctl`; what is in force is read from the
//! cgroup's files, which are named here as v2 has them.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use spec_tests::runtime::{Container, text};
use spec_tests::{Bundle, Case, Needs, Test};

pub(crate) const CASES: &[Case] = &[
    runc("the container is a scope in its slice", |t| {
        let bundle = scope(t, "system.slice");
        let container = start(t, &bundle);
        let unit = unit(&bundle);
        assert_eq!(
            own_cgroup(container.pid()),
            format!("/system.slice/{unit}"),
            "of the container's process"
        );
        assert_eq!(property(&unit, "ActiveState"), "active");
        assert_eq!(property(&unit, "Slice"), "system.slice");
        assert_eq!(property(&unit, "Delegate"), "yes");
        end(&container);
        assert_eq!(property(&unit, "LoadState"), "not-found");
        assert!(!directory("/system.slice").join(&unit).exists());
    }),
    runc("a slice of several levels lies in those above it", |t| {
        let slice = format!("{}-b-c.slice", t.id().replace('-', "_"));
        let bundle = scope(t, &slice);
        let container = start(t, &bundle);
        let first = slice.split('-').next().expect("a part");
        assert_eq!(
            own_cgroup(container.pid()),
            format!("/{first}.slice/{first}-b.slice/{slice}/{}", unit(&bundle))
        );
        end(&container);
        systemctl(&["stop", &format!("{first}.slice")]);
    }),
    runc("limits are systemd's properties and in force", |t| {
        let bundle = limited(t);
        let container = start(t, &bundle);
        let unit = unit(&bundle);
        let (weight, shares) = match (is_v1(), t.is("runc")) {
            (true, _) => ("CPUShares", "1024"),
            // The weight of 1024 shares was 39 until runc 1.3.
            (false, true) => ("CPUWeight", "39"),
            (false, false) => ("CPUWeight", "100"),
        };
        for (name, expected) in [
            (memory_property(), "67108864"),
            ("TasksMax", "17"),
            (weight, shares),
            ("CPUQuotaPerSecUSec", "400ms"),
            ("CPUQuotaPeriodUSec", "50ms"),
        ] {
            assert_eq!(property(&unit, name), expected, "{name}");
        }
        for (file, expected) in [
            ("memory.max", "67108864"),
            ("pids.max", "17"),
            ("cpu.weight", shares),
            ("cpu.max", "20000 50000"),
        ] {
            assert_eq!(knob(&container, file), expected, "{file}");
        }
        end(&container);
    }),
    runc("limits outlive a reload of systemd", |t| {
        let bundle = limited(t);
        let container = start(t, &bundle);
        systemctl(&["daemon-reload"]);
        assert_eq!(knob(&container, "memory.max"), "67108864");
        assert_eq!(knob(&container, "cpu.max"), "20000 50000");
        assert_eq!(knob(&container, "pids.max"), "17");
        end(&container);
    }),
    runc("update changes the property and the file", |t| {
        let bundle = limited(t);
        let container = start(t, &bundle);
        t.call(&["update", "--pids-limit", "33", &container.id])
            .ok();
        t.call(&["update", "--memory", "33554432", &container.id])
            .ok();
        let unit = unit(&bundle);
        assert_eq!(property(&unit, "TasksMax"), "33");
        assert_eq!(property(&unit, memory_property()), "33554432");
        systemctl(&["daemon-reload"]);
        assert_eq!(knob(&container, "pids.max"), "33");
        assert_eq!(knob(&container, "memory.max"), "33554432");
        end(&container);
    }),
    runc("an exec is in the scope", |t| {
        let bundle = scope(t, "system.slice");
        let container = start(t, &bundle);
        container.probe(&["-d"], &["pause"]).ok();
        let procs = knob(&container, "cgroup.procs");
        assert_eq!(procs.lines().count(), 2, "{procs}");
        end(&container);
    }),
    runc("annotations are properties of the unit", |t| {
        let bundle = scope(t, "system.slice")
            .annotation("org.systemd.property.TimeoutStopSec", "uint64 7")
            .annotation("org.systemd.property.Description", "'what it is'");
        let container = start(t, &bundle);
        let unit = unit(&bundle);
        assert_eq!(property(&unit, "TimeoutStopUSec"), "7s");
        assert_eq!(property(&unit, "Description"), "what it is");
        end(&container);
    }),
    Case::kernel(
        "a property that systemd refuses is named, nothing is left",
        |t| {
            let bundle = scope(t, "system.slice").annotation("org.systemd.property.NoSuch", "true");
            create(t, &bundle).fails(1, &["Cannot set property NoSuch"]);
            nothing_left(t, &bundle);
        },
    )
    .needs(Needs::Systemd),
    runc("a path of another form is refused", |t| {
        let bundle = Bundle::new(t).probe(&["pause"]).with(|config| {
            config["linux"]["cgroupsPath"] = json!("/a/b");
        });
        create(t, &bundle).fails(
            1,
            &[
                "expected cgroupsPath to be of format",
                "for systemd cgroups, got",
            ],
        );
    }),
    Case::kernel("a unit that exists is left alone", |t| {
        let first = scope(t, "system.slice");
        let container = start(t, &first);
        let path = first.config()["linux"]["cgroupsPath"].clone();
        let second = Bundle::new(t).probe(&["pause"]).with(|config| {
            config["linux"]["cgroupsPath"] = path;
        });
        create(t, &second).fails(1, &["start the unit", &unit(&first)]);
        t.call(&["state", &second.id]).fails(1, &["does not exist"]);
        assert_eq!(container.status(), "running");
        assert_eq!(property(&unit(&first), "ActiveState"), "active");
        end(&container);
    })
    .needs(Needs::Systemd)
    .except(&[("runc", "1.1.5 joins the unit that it finds")]),
    runc(
        "a scope whose container was out of memory is forgotten",
        |t| {
            let bundle = limited(t).probe(&["eat", "256"]);
            let container = start(t, &bundle);
            container.wait_status("stopped");
            end(&container);
            assert_eq!(property(&unit(&bundle), "LoadState"), "not-found");
        },
    ),
    Case::kernel(
        "delete --force ends a scope in which processes are left",
        |t| {
            let bundle = scope(t, "system.slice");
            let container = start(t, &bundle);
            container.probe(&["-d"], &["pause"]).ok();
            t.call(&["delete", "--force", &container.id]).ok();
            nothing_left(t, &bundle);
        },
    )
    .needs(Needs::Systemd),
    Case::kernel("a container can be made again under the same unit", |t| {
        let bundle = scope(t, "system.slice");
        for _ in 0..5 {
            let container = start(t, &bundle);
            assert_eq!(container.status(), "running");
            end(&container);
        }
    })
    .needs(Needs::Systemd),
    Case::kernel(
        "a dead bus is an error that says so, nothing is left",
        |t| {
            let bundle = scope(t, "system.slice");
            // Bound and closed: nobody listens there any more.
            let socket = t.directory.join("bus");
            drop(UnixListener::bind(&socket).expect("bind"));
            let args = [
                "--systemd-cgroup",
                "create",
                "--bundle",
                text(&bundle.path),
                &bundle.id,
            ];
            let mut command = t.command(&args);
            // systemd's own socket is out of reach for it, too.
            command.env(
                "DBUS_SYSTEM_BUS_ADDRESS",
                format!("unix:path={}", text(&socket)),
            );
            let hidden = Command::new("unshare")
                .args(["-m", "sh", "-c"])
                .arg("mount --bind /dev/null /run/systemd/private && exec \"$@\"")
                .arg("sh")
                .arg(command.get_program())
                .args(command.get_args())
                .env(
                    "DBUS_SYSTEM_BUS_ADDRESS",
                    format!("unix:path={}", text(&socket)),
                )
                .output()
                .expect("unshare");
            let stderr = String::from_utf8_lossy(&hidden.stderr);
            assert_eq!(hidden.status.code(), Some(1), "{stderr}");
            assert!(stderr.contains("connection refused"), "{stderr}");
            nothing_left(t, &bundle);
        },
    )
    .needs(Needs::Systemd),
];

const fn runc(name: &'static str, run: fn(&Test)) -> Case {
    Case::runc(name, run).needs(Needs::Systemd)
}

/// A bundle whose container is a scope in `slice`.
fn scope(t: &Test, slice: &str) -> Bundle {
    let bundle = Bundle::new(t).probe(&["pause"]);
    let path = format!("{slice}:spec:{}", bundle.id);
    bundle.with(|config| config["linux"]["cgroupsPath"] = json!(path))
}

fn limited(t: &Test) -> Bundle {
    let resources = json!({
        "memory": { "limit": 64 << 20 }, "pids": { "limit": 17 },
        "cpu": { "shares": 1024, "quota": 20000, "period": 50000 },
    });
    scope(t, "system.slice").with(|config| {
        for (name, value) in resources.as_object().expect("an object") {
            config["linux"]["resources"][name] = value.clone();
        }
    })
}

/// The unit of [`scope`]'s container.
fn unit(bundle: &Bundle) -> String {
    format!("spec-{}.scope", bundle.id)
}

#[track_caller]
fn create(t: &Test, bundle: &Bundle) -> spec_tests::runtime::Outcome {
    t.call(&[
        "--systemd-cgroup",
        "create",
        "--bundle",
        text(&bundle.path),
        &bundle.id,
    ])
}

#[track_caller]
fn start<'t>(t: &'t Test, bundle: &Bundle) -> Container<'t> {
    // The handle comes first: what a failed create left is deleted too.
    let container = t.adopt(&bundle.id);
    create(t, bundle).ok();
    container.start().ok();
    container
}

#[track_caller]
fn end(container: &Container<'_>) {
    if container.status() != "stopped" {
        container.kill("KILL").ok();
        container.wait_status("stopped");
    }
    container.delete().ok();
}

#[track_caller]
fn nothing_left(t: &Test, bundle: &Bundle) {
    t.call(&["state", &bundle.id]).fails(1, &["does not exist"]);
    assert_eq!(property(&unit(bundle), "LoadState"), "not-found");
    assert!(!directory("/system.slice").join(unit(bundle)).exists());
}

#[track_caller]
fn systemctl(args: &[&str]) -> String {
    let ran = Command::new("systemctl").args(args).output();
    let ran = ran.expect("systemctl");
    assert!(
        ran.status.success(),
        "systemctl {args:?}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
    String::from_utf8_lossy(&ran.stdout).trim().to_owned()
}

#[track_caller]
fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, unit])
}

/// The v2 path of a process.
#[track_caller]
fn own_cgroup(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroup");
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.expect("a v2 path").to_owned()
}

/// Whether the controllers are on v1 hierarchies.
fn is_v1() -> bool {
    Path::new("/sys/fs/cgroup/memory").exists()
}

/// What systemd calls the limit of memory.
fn memory_property() -> &'static str {
    if is_v1() { "MemoryLimit" } else { "MemoryMax" }
}

/// The cgroup of a unit, where systemd itself keeps it.
fn directory(path: &str) -> PathBuf {
    let top = if is_v1() { "systemd" } else { "" };
    hierarchy(top, path)
}

fn hierarchy(name: &str, path: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup")
        .join(name)
        .join(path.trim_start_matches('/'))
}

/// A file of the container's cgroup by its name on v2, with what v1 has in its
/// place.
#[track_caller]
fn knob(container: &Container<'_>, file: &str) -> String {
    let path = own_cgroup(container.pid());
    let read = |controller: &str, file: &str| {
        let path = hierarchy(controller, &path).join(file);
        let text = fs::read_to_string(&path);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.trim_end().to_owned()
    };
    match file {
        _ if !is_v1() => read("", file),
        "memory.max" => read("memory", "memory.limit_in_bytes"),
        "cpu.weight" => read("cpu", "cpu.shares"),
        "cpu.max" => format!(
            "{} {}",
            read("cpu", "cpu.cfs_quota_us"),
            read("cpu", "cpu.cfs_period_us")
        ),
        "pids.max" => read("pids", file),
        _ => read("systemd", file),
    }
}
