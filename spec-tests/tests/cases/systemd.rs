//! The systemd cgroup driver, beside a systemd that runs: `hack/vm --systemd`
//! starts one on cgroup v2, `--systemd-v1` one on v1 (`VIEW=hybrid`). What systemd
//! believes is asked from it by `systemctl`; what is in force is read from the
//! cgroup's files, which are named here as v2 has them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use spec_tests::runtime::{Container, Outcome, text, wait_until};
use spec_tests::{Bundle, Case, Needs, Test};

use crate::checkpoint::{self, counting};
use crate::forged_bus;

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
    Case::kernel(
        "a mount source that is not there is told, not what systemd says of a process that is gone",
        |t| {
            for _ in 0..4 {
                let missing = text(&t.directory.join("missing")).to_owned();
                let bundle = scope(t, "system.slice").mount("/data", "bind", &missing, &["bind"]);
                let _container = t.adopt(&bundle.id);
                create(t, &bundle).fails(1, &[&missing, "no such file or directory"]);
            }
        },
    )
    .needs(Needs::Systemd),
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
    Case::kernel(
        "a scope that is another container's by then is not ended by delete",
        |t| {
            let first = scope(t, "system.slice").probe(&["exit", "0"]);
            let stopped = start(t, &first);
            stopped.wait_status("stopped");
            wait_until("systemd lets go of it", || {
                property(&unit(&first), "LoadState") == "not-found"
            });
            let path = first.config()["linux"]["cgroupsPath"].clone();
            let second = Bundle::new(t).probe(&["pause"]).with(|config| {
                config["linux"]["cgroupsPath"] = path;
            });
            let container = start(t, &second);
            stopped.delete().ok();
            assert_eq!(container.status(), "running");
            assert_eq!(property(&unit(&first), "ActiveState"), "active");
            end(&container);
        },
    )
    .needs(Needs::Systemd)
    .except(&[("runc", "1.1.5 stops it")]),
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
    Case::kernel(
        "what another user sends over the bus in systemd's name is not believed",
        |t| {
            let bundle = scope(t, "system.slice");
            let container = t.adopt(&bundle.id);
            let socket = t.directory.join("bus");
            let delivered = forged_bus::listen(&socket);
            let call = |args: &[&str]| {
                let mut command = t.command(args);
                let address = format!("unix:path={}", text(&socket));
                command.env("DBUS_SYSTEM_BUS_ADDRESS", address);
                t.spawn(&mut command).wait()
            };
            let create = ["--systemd-cgroup", "create", "--bundle"];
            call(&[&create[..], &[text(&bundle.path), &bundle.id]].concat()).ok();
            // Two about each job: that of the scope's start, and that of its end.
            assert_eq!(delivered.load(Ordering::SeqCst), 2);
            let path = own_cgroup(container.pid());
            assert_eq!(path, format!("/system.slice/{}", unit(&bundle)));
            container.start().ok();
            container.kill("KILL").ok();
            container.wait_status("stopped");
            call(&["delete", &bundle.id]).ok();
            nothing_left(t, &bundle);
        },
    )
    .needs(Needs::Systemd)
    .except(&[("runc", "1.1.5 hangs on the bus of this case")]),
    ours(
        "an update below what is in use is refused before systemd hears of it",
        |t| {
            let bundle = limited(t);
            let container = start(t, &bundle);
            container.probe(&["-d"], &["hold-memory", "32"]).ok();
            let used = || match is_v1() {
                true => number(&container, "memory.usage"),
                false => number(&container, "memory.current"),
            };
            wait_until("32 MiB are in use", || used() >= 32 << 20);
            let memory = json!({ "limit": 16 << 20, "checkBeforeUpdate": true });
            let outcome = update(t, &container, &json!({ "memory": memory }));
            outcome.fails(1, &["rejecting memory limit 16777216"]);
            assert_eq!(property(&unit(&bundle), memory_property()), "67108864");
            assert_eq!(knob(&container, "memory.max"), "67108864");
            assert!(used() >= 32 << 20, "nobody was killed");
            end(&container);
        },
    ),
    ours("an update that the kernel refuses changes neither", |t| {
        let bundle = limited(t);
        let container = start(t, &bundle);
        let unit = unit(&bundle);
        // The kernel takes no quota below a millisecond.
        let words = ["update", "--pids-limit", "33", "--cpu-quota", "5"];
        let words: Vec<&str> = words.into_iter().chain([&*container.id]).collect();
        t.call(&words).fails(1, &["linux.resources.cpu.quota"]);
        for reload in [false, true] {
            if reload {
                systemctl(&["daemon-reload"]);
            }
            assert_eq!(property(&unit, "TasksMax"), "17");
            assert_eq!(property(&unit, "CPUQuotaPerSecUSec"), "400ms");
            assert_eq!(knob(&container, "pids.max"), "17");
            assert_eq!(knob(&container, "cpu.max"), "20000 50000");
        }
        end(&container);
    }),
    ours("an update that systemd refuses changes neither", |t| {
        let bundle = limited(t);
        let container = start(t, &bundle);
        let socket = t.directory.join("bus");
        drop(UnixListener::bind(&socket).expect("bind"));
        let hidden = Command::new("unshare")
            .args(["-m", "sh", "-c"])
            .arg("mount --bind /dev/null /run/systemd/private && exec \"$@\"")
            .arg("sh")
            .arg(t.command(&[]).get_program())
            .args(
                t.command(&["update", "--pids-limit", "33", &container.id])
                    .get_args(),
            )
            .env(
                "DBUS_SYSTEM_BUS_ADDRESS",
                format!("unix:path={}", text(&socket)),
            )
            .output()
            .expect("unshare");
        let stderr = String::from_utf8_lossy(&hidden.stderr);
        assert_eq!(hidden.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("connection refused"), "{stderr}");
        assert_eq!(knob(&container, "pids.max"), "17");
        end(&container);
    }),
    ours(
        "a period alone is told, and outlives a reload of systemd",
        |t| {
            let bundle = scope(t, "system.slice").with(|config| {
                config["linux"]["resources"]["cpu"] = json!({ "period": 50000 });
            });
            let container = start(t, &bundle);
            let unit = unit(&bundle);
            assert_eq!(property(&unit, "CPUQuotaPeriodUSec"), "50ms");
            assert_eq!(property(&unit, "CPUQuotaPerSecUSec"), "infinity");
            let flag = |flag: &str, value: &str| {
                t.call(&["update", flag, value, &container.id]).ok();
            };
            // Without a quota there is nothing that it is the period of: systemd writes
            // the default one into the kernel's file when it gets to it, at the latest
            // when it reloads, and remembers the one it was told.
            systemctl(&["daemon-reload"]);
            flag("--cpu-quota", "30000");
            assert_eq!(knob(&container, "cpu.max"), "30000 50000");
            assert_eq!(property(&unit, "CPUQuotaPerSecUSec"), "600ms");
            flag("--cpu-period", "60000");
            assert_eq!(property(&unit, "CPUQuotaPerSecUSec"), "500ms");
            systemctl(&["daemon-reload"]);
            assert_eq!(knob(&container, "cpu.max"), "30000 60000");
            // A percent is the least that systemd counts in; the file has it as it was asked.
            flag("--cpu-quota", "12345");
            assert_eq!(knob(&container, "cpu.max"), "12345 60000");
            end(&container);
        },
    ),
    ours(
        "idle and the weight of block I/O outlive a reload of systemd",
        |t| {
            if is_v1() {
                t.does_not_apply("on v1 systemd knows neither");
            }
            let bundle = scope(t, "system.slice");
            let container = start(t, &bundle);
            let unit = unit(&bundle);
            let flag = |flag: &str, value: &str| {
                t.call(&["update", flag, value, &container.id]).ok();
                systemctl(&["daemon-reload"]);
            };
            flag("--cpu-share", "2048");
            let weight = knob(&container, "cpu.weight");
            assert_eq!(property(&unit, "CPUWeight"), weight);
            flag("--cpu-idle", "1");
            assert_eq!(property(&unit, "CPUWeight"), "idle");
            assert_eq!(knob(&container, "cpu.idle"), "1");
            flag("--cpu-idle", "0");
            assert_eq!(knob(&container, "cpu.idle"), "0");
            assert_eq!(knob(&container, "cpu.weight"), property(&unit, "CPUWeight"));
            let path = own_cgroup(container.pid());
            let weighs = |file: &&str| hierarchy("", &path).join(file).exists();
            if ["io.weight", "io.bfq.weight"].iter().any(weighs) {
                flag("--blkio-weight", "300");
                assert_eq!(property(&unit, "IOWeight"), "2930");
            }
            end(&container);
        },
    ),
    ours(
        "cpuset, devices and unified keys are systemd's properties",
        |t| {
            let bundle = scope(t, "system.slice").with(|config| {
                config["linux"]["resources"]["cpu"] = json!({ "cpus": "0", "mems": "0" });
                let node = json!({ "path": "/dev/denied", "type": "c", "major": 10, "minor": 229 });
                config["linux"]["devices"] = json!([node]);
                config["linux"]["resources"]["devices"] =
                    json!([{ "allow": false, "access": "rwm" }]);
                if !is_v1() {
                    config["linux"]["resources"]["unified"] = json!({ "memory.high": "50331648" });
                }
            });
            let container = start(t, &bundle);
            let unit = unit(&bundle);
            let opened = || container.probe(&[], &["open", "/dev/denied", "0"]).answer();
            assert_eq!(property(&unit, "AllowedCPUs"), "0");
            assert_eq!(property(&unit, "AllowedMemoryNodes"), "0");
            assert_eq!(property(&unit, "DevicePolicy"), "strict");
            assert!(!property(&unit, "DeviceAllow").contains("/dev/char/10:229"));
            assert_eq!(opened(), json!({ "errno": 1 }));
            let mut resources = json!({
                "cpu": { "cpus": "0-1" },
                "devices": [
                    { "allow": false, "access": "rwm" },
                    { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm" },
                ],
            });
            if !is_v1() {
                assert_eq!(property(&unit, "MemoryHigh"), "50331648");
                resources["unified"] = json!({ "memory.high": "33554432" });
            }
            update(t, &container, &resources).ok();
            systemctl(&["daemon-reload"]);
            assert_eq!(property(&unit, "AllowedCPUs"), "0-1");
            assert!(property(&unit, "DeviceAllow").contains("/dev/char/10:229 rwm"));
            assert_ne!(opened(), json!({ "errno": 1 }));
            if !is_v1() {
                assert_eq!(property(&unit, "MemoryHigh"), "33554432");
                assert_eq!(knob(&container, "memory.high"), "33554432");
            }
            let first = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
            update(t, &container, &first).ok();
            assert!(!property(&unit, "DeviceAllow").contains("/dev/char/10:229"));
            assert_eq!(opened(), json!({ "errno": 1 }));
            end(&container);
        },
    ),
    ours("a container in a user namespace owns its scope", |t| {
        if is_v1() {
            t.does_not_apply("v1 can't be delegated safely");
        }
        let bundle = scope(t, "system.slice")
            .in_user_namespace(100_000)
            .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"])
            .with(|config| {
                let namespaces = config["linux"]["namespaces"].as_array_mut();
                namespaces
                    .expect("namespaces")
                    .push(json!({ "type": "cgroup" }));
            });
        let container = start(t, &bundle);
        let directory = hierarchy("", &own_cgroup(container.pid()));
        let owner = |path: &Path| fs::metadata(path).expect("stat").uid();
        assert_eq!(owner(&directory), 100_000);
        assert_eq!(owner(&directory.join("cgroup.procs")), 100_000);
        assert_eq!(owner(&directory.join("memory.max")), 0);
        end(&container);
    }),
    below("a subgroup is the container's own, with its limits", |t| {
        let bundle = limited(t).annotation(SUBGROUP, "sub");
        let container = start(t, &bundle);
        let unit = unit(&bundle);
        let place = format!("/system.slice/{unit}/sub");
        assert_eq!(place_of(container.pid()), place);
        assert_eq!(knob_at(&place, "memory.max"), (64 << 20).to_string());
        assert_eq!(knob_at(&place, "pids.max"), "17");
        assert_eq!(property(&unit, "ActiveState"), "active");
        end(&container);
        no_unit(&bundle);
        assert!(!hierarchy(memory_top(), &place).exists());
        assert!(!hierarchy(memory_top(), &format!("/system.slice/{unit}")).exists());
    }),
    below("an empty subgroup is the scope itself", |t| {
        let bundle = limited(t).annotation(SUBGROUP, "");
        let container = start(t, &bundle);
        let place = format!("/system.slice/{}", unit(&bundle));
        assert_eq!(place_of(container.pid()), place);
        assert_eq!(knob_at(&place, "pids.max"), "17");
        end(&container);
    }),
    below("exec, pause and update are of the subgroup", |t| {
        let bundle = limited(t).annotation(SUBGROUP, "/s/t");
        let container = start(t, &bundle);
        let place = format!("/system.slice/{}/s/t", unit(&bundle));
        let report = container.probe(&[], &["report"]).answer();
        let cgroup = report["cgroup"].as_str().expect("cgroup");
        assert!(cgroup.contains(&format!(":{place}")), "{cgroup}");
        t.call(&["pause", &container.id]).ok();
        assert_eq!(container.status(), "paused");
        t.call(&["resume", &container.id]).ok();
        assert_eq!(container.status(), "running");
        let limits = json!({ "memory": { "limit": 32 << 20 }, "pids": { "limit": 9 } });
        update(t, &container, &limits).ok();
        assert_eq!(knob_at(&place, "memory.max"), (32 << 20).to_string());
        assert_eq!(knob_at(&place, "pids.max"), "9");
        end(&container);
        no_unit(&bundle);
    }),
    below("what is delegated lies below the subgroup", |t| {
        if is_v1() {
            t.does_not_apply("v1 can't be delegated safely");
        }
        let bundle = limited(t)
            .annotation(SUBGROUP, "sub")
            .annotation(DELEGATED, "inner")
            .in_user_namespace(100_000);
        let container = start(t, &bundle);
        let own = format!("/system.slice/{}/sub", unit(&bundle));
        let inner = format!("{own}/inner");
        assert_eq!(place_of(container.pid()), inner);
        assert_eq!(knob_at(&own, "memory.max"), (64 << 20).to_string());
        assert_eq!(knob_at(&own, "cgroup.procs"), "");
        assert_eq!(knob_at(&inner, "memory.max"), "max");
        let owner = |path: &str| fs::metadata(hierarchy("", path)).expect("stat").uid();
        assert_eq!(owner(&inner), 100_000);
        assert_eq!(owner(&format!("{inner}/cgroup.procs")), 100_000);
        assert_eq!(owner(&format!("{inner}/memory.max")), 0);
        let report = container.probe(&[], &["report"]).answer();
        let cgroup = report["cgroup"].as_str().expect("cgroup");
        assert!(cgroup.contains(&format!("0::{inner}")), "{cgroup}");
        update(t, &container, &json!({ "pids": { "limit": 9 } })).ok();
        assert_eq!(knob_at(&own, "pids.max"), "9");
        assert_eq!(knob_at(&inner, "pids.max"), "max");
        end(&container);
        no_unit(&bundle);
    }),
    ours(
        "what is delegated may lie in the scope itself, and nothing is left of it",
        |t| {
            if is_v1() {
                t.does_not_apply("v1 can't be delegated safely");
            }
            for (how, subgroup) in [("delete", None), ("delete", Some("sub")), ("force", None)] {
                let bundle = limited(t).annotation(DELEGATED, "a/b");
                let bundle = match subgroup {
                    Some(subgroup) => bundle.annotation(SUBGROUP, subgroup),
                    None => bundle,
                };
                let container = start(t, &bundle);
                let scope = format!("/system.slice/{}", unit(&bundle));
                let own = subgroup.map_or(scope.clone(), |subgroup| format!("{scope}/{subgroup}"));
                assert_eq!(place_of(container.pid()), format!("{own}/a/b"));
                assert_eq!(knob_at(&own, "pids.max"), "17");
                systemctl(&["daemon-reload"]);
                let report = container.probe(&[], &["report"]).answer();
                let cgroup = report["cgroup"].as_str().expect("cgroup");
                assert!(cgroup.contains(&format!("0::{own}/a/b")), "{cgroup}");
                assert_eq!(knob_at(&own, "pids.max"), "17");
                match how {
                    "force" => drop(t.call(&["delete", "--force", &container.id]).ok()),
                    _ => end(&container),
                }
                nothing_left(t, &bundle);
            }
        },
    ),
    ours("what can't be limited below a scope leaves no unit", |t| {
        let bundle = scope(t, "system.slice")
            .annotation(SUBGROUP, "sub")
            .with(|config| {
                let cpu = json!({ "cpus": "4000" });
                config["linux"]["resources"]["cpu"] = cpu;
            });
        let _container = t.adopt(&bundle.id);
        assert_ne!(create(t, &bundle).code, 0);
        nothing_left(t, &bundle);
    }),
    Case::runc("a checkpoint is restored into a scope of its own", |t| {
        let path = |bundle: &Bundle| format!("system.slice:spec:{}", bundle.id);
        let bundle = counting(t);
        let path = path(&bundle);
        let bundle = bundle.with(|config| {
            config["linux"]["cgroupsPath"] = json!(path);
            config["linux"]["resources"]["pids"] = json!({ "limit": 17 });
        });
        let heard = checkpoint::start(t, &bundle, &["--systemd-cgroup", "run", "-d"]);
        let container = t.adopt(&bundle.id);
        heard.wait_for("1");
        let images = checkpoint::images(t);
        let image_path = ["--image-path", text(&images)];
        let saved = [
            &["--systemd-cgroup", "checkpoint"],
            &image_path[..],
            &[&bundle.id],
        ];
        t.call(&saved.concat()).ok();
        nothing_left(t, &bundle);
        let restored = [&["--systemd-cgroup", "restore", "-d"], &image_path[..]];
        let again = checkpoint::start(t, &bundle, &restored.concat());
        again.wait_for(&(heard.last() + 1).to_string());
        let unit = unit(&bundle);
        assert_eq!(own_cgroup(container.pid()), format!("/system.slice/{unit}"));
        assert_eq!(property(&unit, "ActiveState"), "active");
        assert_eq!(knob(&container, "pids.max"), "17");
        end(&container);
        nothing_left(t, &bundle);
    })
    .needs(Needs::SystemdCriu),
];

const SUBGROUP: &str = "run.oci.systemd.subgroup";
const DELEGATED: &str = "run.oci.delegate-cgroup";

/// A case of cgroups below the scope, which crun 1.8.1 answers the same way.
const fn below(name: &'static str, run: fn(&Test)) -> Case {
    Case::crun(name, run).needs(Needs::Systemd)
}

/// The path of a process where its memory is limited.
#[track_caller]
fn place_of(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroup");
    let of = if is_v1() { ":memory:" } else { "0::" };
    let path = text.lines().find_map(|line| line.split_once(of));
    path.expect("a path").1.to_owned()
}

/// Where its hierarchy is mounted.
fn memory_top() -> &'static str {
    if is_v1() { "memory" } else { "" }
}

/// A file of this cgroup by its name on v2, as [`knob`].
#[track_caller]
fn knob_at(path: &str, file: &str) -> String {
    let (top, file) = match (is_v1(), file) {
        (true, "memory.max") => ("memory", "memory.limit_in_bytes"),
        (true, "pids.max") => ("pids", "pids.max"),
        (_, file) => ("", file),
    };
    let path = hierarchy(top, path).join(file);
    let text = fs::read_to_string(&path);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim_end().to_owned()
}

/// A case about what systemd is told, which runc 1.1.5 does otherwise or not.
const fn ours(name: &'static str, run: fn(&Test)) -> Case {
    Case::kernel(name, run)
        .needs(Needs::Systemd)
        .except(&[("runc", "1.1.5 tells systemd less, and first")])
}

/// `update -r FILE ID`.
#[track_caller]
fn update(t: &Test, container: &Container<'_>, resources: &Value) -> Outcome {
    let path = t.directory.join("resources.json");
    fs::write(&path, resources.to_string()).expect("write");
    t.call(&["update", "-r", text(&path), &container.id])
}

/// A number in a file of the container's cgroup.
#[track_caller]
fn number(container: &Container<'_>, file: &str) -> u64 {
    let text = knob(container, file);
    text.parse().unwrap_or_else(|_| panic!("{file}: {text}"))
}

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
    no_unit(bundle);
}

#[track_caller]
fn no_unit(bundle: &Bundle) {
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
        "memory.usage" => read("memory", "memory.usage_in_bytes"),
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
