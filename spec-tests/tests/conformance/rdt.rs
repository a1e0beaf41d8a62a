//! config-linux.md, "IntelRdt", on a stand-in for resctrl
//! ([`spec_tests::resctrl`]): no machine of ours has a processor with RDT.

use std::fs;

use serde_json::{Value, json};
use spec_tests::resctrl::Resctrl;
use spec_tests::{Bundle, Case, Needs, Test};

use crate::attempt::refused;

const CRUN: (&str, &str) = ("crun", "1.8.1 passes over intelRdt");
const NO_CRUN: &[(&str, &str)] = &[CRUN];
const NEW: &[(&str, &str)] = &[("runc", "1.1.5 is older than the field"), CRUN];
const COMPARED: &[(&str, &str)] = &[("runc", "1.1.5 writes it instead"), CRUN];
const TAKEN: &[(&str, &str)] = &[("runc", "1.1.5 hands it to the kernel"), CRUN];

pub(crate) const CASES: &[Case] = &[
    Case::clause(
        &["config-linux/rdt-not-mounted"],
        "intelRdt without a mounted resctrl is refused",
        |t| {
            if fs::read_to_string("/proc/mounts")
                .expect("mounts")
                .contains(" resctrl ")
            {
                t.does_not_apply("resctrl is mounted here");
            }
            let rdt = json!({ "closID": "conformance", "l3CacheSchema": "L3:0=f" });
            refused(t, &with(t, rdt));
        },
    )
    .except(NO_CRUN),
    Case::clause(
        &["config-linux/rdt-unset"],
        "a container without intelRdt leaves resctrl alone",
        |t| {
            let resctrl = Resctrl::mount(t);
            let container = t.start(&Bundle::new(t).probe(&["pause"]));
            container.probe(&[], &["report"]).ok();
            drop(container);
            assert_eq!(resctrl.done(), [""; 0]);
        },
    )
    .needs(Needs::Fuse),
    Case::clause(
        &[
            "config-linux/rdt-tasks",
            "config-linux/rdt-closID-unset",
            "config-linux/rdt-none",
            "config-linux/rdt-remove",
            "config-linux/rdt-rules",
        ],
        "without anything the class has the container's id and process, is not written, and goes",
        |t| {
            let resctrl = Resctrl::mount(t);
            let bundle = with(t, json!({}));
            let container = t.create(&bundle);
            assert!(resctrl.joined(&bundle.id, container.pid()));
            end(&container);
            assert!(!resctrl.has(&bundle.id));
            assert_eq!(written(&resctrl), "");
        },
    )
    .needs(Needs::Fuse)
    .except(NO_CRUN),
    Case::clause(
        &[
            "config-linux/rdt-closID-check",
            "config-linux/rdt-closID-assign",
            "config-linux/rdt-none",
            "config-linux/rdt-not-remove",
        ],
        "closID alone is a class that must be there, is joined, and stays",
        |t| {
            let resctrl = Resctrl::mount(t);
            let bundle = with(t, json!({ "closID": "gold" }));
            refused(t, &bundle);
            assert!(!resctrl.has("gold"));
            resctrl.make("gold", "L3:0=3");
            resctrl.done();
            let container = t.create(&bundle);
            assert!(resctrl.joined("gold", container.pid()));
            assert!(!resctrl.has(&bundle.id));
            end(&container);
            assert!(resctrl.has("gold"));
            assert_eq!(written(&resctrl), "");
        },
    )
    .needs(Needs::Fuse)
    .except(NO_CRUN),
    Case::clause(
        &[
            "config-linux/rdt-closID-create",
            "config-linux/rdt-either",
            "config-linux/rdt-not-remove",
        ],
        "closID with a schema is a class that is made, and stays",
        |t| {
            let resctrl = Resctrl::mount(t);
            for (name, rdt, resource, schema) in [
                ("cache", json!({ "l3CacheSchema": "L3:0=f" }), "L3", "L3:0=f;1=7ff"),
                ("bandwidth", json!({ "memBwSchema": "MB:0=20" }), "MB", "MB:0=20;1=100"),
            ] {
                let mut rdt = rdt;
                rdt["closID"] = json!(name);
                let container = t.create(&with(t, rdt));
                assert!(resctrl.joined(name, container.pid()));
                end(&container);
                assert_eq!(resctrl.schema(name, resource), schema);
            }
        },
    )
    .needs(Needs::Fuse)
    .except(NO_CRUN),
    Case::clause(
        &["config-linux/rdt-both", "config-linux/rdt-both-order"],
        "of both schemas that of the cache is written first",
        |t| {
            let resctrl = Resctrl::mount(t);
            let rdt = json!({ "memBwSchema": "MB:1=30", "l3CacheSchema": "L3:1=f" });
            let bundle = with(t, rdt);
            let _container = t.create(&bundle);
            assert_eq!(resctrl.schema(&bundle.id, "L3"), "L3:0=7ff;1=f");
            assert_eq!(resctrl.schema(&bundle.id, "MB"), "MB:0=100;1=30");
            let written = written(&resctrl);
            let (cache, bandwidth) = (written.find("L3:"), written.find("MB:"));
            assert!(cache.is_some() && cache < bandwidth, "{written}");
        },
    )
    .needs(Needs::Fuse)
    .except(NO_CRUN),
    Case::clause(
        &["config-linux/rdt-schemata"],
        "schemata is written, and after the other two",
        |t| {
            let resctrl = Resctrl::mount(t);
            let rdt = json!({
                "schemata": ["MB:0=20", "L3:0=1"], "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:1=30",
            });
            let bundle = with(t, rdt);
            let _container = t.create(&bundle);
            assert_eq!(resctrl.schema(&bundle.id, "L3"), "L3:0=1;1=7ff");
            assert_eq!(resctrl.schema(&bundle.id, "MB"), "MB:0=20;1=30");
        },
    )
    .needs(Needs::Fuse)
    .except(NEW),
    Case::clause(
        &["config-linux/rdt-closID-compare"],
        "a class that is there must have the schemas",
        |t| {
            let resctrl = Resctrl::mount(t);
            resctrl.make("gold", "L3:0=3\nMB:0=50");
            resctrl.done();
            for (name, other, same) in [
                ("l3CacheSchema", "L3:0=7;1=7ff", "L3:0=3;1=7ff"),
                ("memBwSchema", "MB:0=60;1=100", "MB:0=50;1=100"),
            ] {
                let mut rdt = json!({ "closID": "gold" });
                rdt[name] = json!(other);
                refused(t, &with(t, rdt.clone()));
                rdt[name] = json!(same);
                let container = t.create(&with(t, rdt));
                assert!(resctrl.joined("gold", container.pid()));
            }
            assert_eq!(resctrl.schema("gold", "L3"), "L3:0=3;1=7ff");
            assert_eq!(resctrl.schema("gold", "MB"), "MB:0=50;1=100");
        },
    )
    .needs(Needs::Fuse)
    .except(COMPARED),
    Case::clause(
        &["config-linux/rdt-root"],
        "the class / is the default one",
        |t| {
            let resctrl = Resctrl::mount(t);
            let bundle = with(t, json!({ "closID": "/" }));
            let container = t.create(&bundle);
            assert!(resctrl.joined("/", container.pid()));
            end(&container);
            let made = |line: &String| line.starts_with("mkdir") || line.starts_with("rmdir");
            assert!(!resctrl.done().iter().any(made));
        },
    )
    .needs(Needs::Fuse)
    .except(NEW),
    // Each with a value that the stand-in would take.
    Case::clause(
        &[
            "config-linux/rdt-memBw-prefix",
            "config-linux/rdt-memBw-newline",
        ],
        "memBwSchema is one line, of memory bandwidth",
        |t| {
            let resctrl = Resctrl::mount(t);
            for line in ["L3:0=f", " MB:0=20", "MB:0=20\nMB:1=20", "MB:0=20\nL3:0=f"] {
                let bundle = with(t, json!({ "memBwSchema": line }));
                refused(t, &bundle);
                assert!(!resctrl.has(&bundle.id), "{line:?}");
            }
        },
    )
    .needs(Needs::Fuse)
    .except(TAKEN),
    Case::clause(
        &["config-linux/rdt-schemata-newline"],
        "an item of schemata is one line",
        |t| {
            let resctrl = Resctrl::mount(t);
            for line in ["L3:0=f\nMB:0=20", "L3:0=f\n"] {
                let bundle = with(t, json!({ "schemata": [line] }));
                refused(t, &bundle);
                assert!(!resctrl.has(&bundle.id), "{line:?}");
            }
        },
    )
    .needs(Needs::Fuse)
    .except(NEW),
    Case::clause(
        &[
            "config-linux/rdt-monitoring",
            "config-linux/rdt-monitoring-name",
            "config-linux/rdt-monitoring-delete",
        ],
        "a monitoring group has the container's id, and goes with it",
        |t| {
            let resctrl = Resctrl::mount(t);
            resctrl.make("gold", "L3:0=3");
            let bundle = with(t, json!({ "closID": "gold", "enableMonitoring": true }));
            let group = format!("gold/mon_groups/{}", bundle.id);
            let container = t.create(&bundle);
            assert!(resctrl.joined(&group, container.pid()));
            end(&container);
            assert!(!resctrl.has(&group) && resctrl.has("gold"));
        },
    )
    .needs(Needs::Fuse)
    .except(NEW),
    Case::clause(
        &["config-linux/rdt-monitoring-error"],
        "a monitoring group that can't be made is an error",
        |t| {
            let resctrl = Resctrl::mount(t);
            resctrl.make("gold", "L3:0=3");
            // All that there are numbers for.
            let groups = resctrl.path.join("gold/mon_groups");
            for number in 0..16 {
                fs::create_dir(groups.join(number.to_string())).expect("mkdir");
            }
            let bundle = with(t, json!({ "closID": "gold", "enableMonitoring": true }));
            refused(t, &bundle);
            assert!(!groups.join(&bundle.id).exists());
        },
    )
    .needs(Needs::Fuse)
    .except(NEW),
];

/// A bundle with this `linux.intelRdt`.
fn with(t: &Test, rdt: Value) -> Bundle {
    Bundle::new(t)
        .probe(&["pause"])
        .with(|config| config["linux"]["intelRdt"] = rdt)
}

/// Ends and deletes the container.
#[track_caller]
fn end(container: &spec_tests::Container<'_>) {
    container.start().ok();
    container.kill("KILL").ok();
    container.wait_status("stopped");
    container.delete().ok();
}

/// All that was written to `schemata`, in order.
fn written(resctrl: &Resctrl<'_>) -> String {
    let done = resctrl.done();
    let written = done.iter().filter(|line| line.starts_with("write "));
    written.map(|line| line.clone() + "\n").collect()
}
