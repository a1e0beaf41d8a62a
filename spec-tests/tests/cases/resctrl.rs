//! `linux.intelRdt`, on a stand-in for resctrl ([`spec_tests::resctrl`]).

use serde_json::{Value, json};
use spec_tests::resctrl::Resctrl;
use spec_tests::runtime::{text, wait_until};
use spec_tests::{Bundle, Case, Needs, Test};

/// runc of Debian 12 is older than half of the fields.
const OLD: &[(&str, &str)] = &[(
    "runc",
    "1.1.5 does not know schemata, enableMonitoring and the default class",
)];

pub(crate) const CASES: &[Case] = &[
    Case::kernel("without resctrl intelRdt is refused by name", |t| {
        refused(
            t,
            &with(t, json!({ "closID": "gold" })),
            &["linux.intelRdt: no resctrl filesystem is mounted"],
        );
    })
    .except(&[("runc", "1.1.5 finds out when the process is there")]),
    Case::runc("what is no name of a class is refused, with its field", |t| {
        for name in [".", "..", "a/b", "/a", "../etc"] {
            let told = format!("linux.intelRdt.closID: {name:?}");
            let told = if t.is("runc") { "invalid intelRdt.ClosID" } else { told.as_str() };
            refused(t, &with(t, json!({ "closID": name })), &[told]);
        }
    }),
    Case::kernel("lines that are none are refused, with their field", |t| {
        for (rdt, told) in [
            (json!({ "closID": "info" }), "linux.intelRdt.closID: \"info\" is a directory of resctrl's own"),
            (json!({ "closID": "a\nb" }), "linux.intelRdt.closID: \"a\\nb\" has a line end"),
            (json!({ "memBwSchema": "L3:0=f" }), "linux.intelRdt.memBwSchema: \"L3:0=f\" does not begin with \"MB:\""),
            (json!({ "memBwSchema": "MB:0=9\n" }), "linux.intelRdt.memBwSchema: \"MB:0=9\\n\" has a line end"),
            (json!({ "schemata": ["L3:0=f", "\n"] }), "linux.intelRdt.schemata[1]: \"\\n\" has a line end"),
        ] {
            refused(t, &with(t, rdt), &[told]);
        }
    })
    .except(&[("runc", "1.1.5 looks at closID alone")]),
    Case::runc("a class with the container's id is made, and goes with it", |t| {
        let resctrl = Resctrl::mount(t);
        let rdt = json!({ "l3CacheSchema": "L3:0=f;1=70", "memBwSchema": "MB:0=20;1=71" });
        let bundle = with(t, rdt);
        let container = t.create(&bundle);
        assert!(resctrl.joined(&bundle.id, container.pid()));
        assert_eq!(resctrl.schema(&bundle.id, "L3"), "L3:0=f;1=70");
        assert_eq!(resctrl.schema(&bundle.id, "MB"), "MB:0=20;1=80");
        assert_eq!(resctrl.schema("", "L3"), "L3:0=7ff;1=7ff");
        container.start().ok();
        container.kill("KILL").ok();
        container.wait_status("stopped");
        assert!(resctrl.has(&bundle.id));
        container.delete().ok();
        assert!(!resctrl.has(&bundle.id));
    })
    .needs(Needs::Fuse),
    Case::runc("an empty object makes a class and writes nothing", |t| {
        let resctrl = Resctrl::mount(t);
        let bundle = with(t, json!({}));
        let container = t.start(&bundle);
        assert!(resctrl.joined(&bundle.id, container.pid()));
        assert!(resctrl.done().iter().all(|line| !line.starts_with("write")));
    })
    .needs(Needs::Fuse),
    Case::runc("a class that is there is joined and stays", |t| {
        let resctrl = Resctrl::mount(t);
        resctrl.make("gold", "L3:0=3");
        let bundle = with(t, json!({ "closID": "gold" }));
        let container = t.start(&bundle);
        assert!(resctrl.joined("gold", container.pid()));
        assert!(!resctrl.has(&bundle.id));
        container.kill("KILL").ok();
        container.wait_status("stopped");
        container.delete().ok();
        assert_eq!(resctrl.schema("gold", "L3"), "L3:0=3;1=7ff");
    })
    .needs(Needs::Fuse),
    Case::runc("a class that nobody has made is refused, without a schema", |t| {
        let resctrl = Resctrl::mount(t);
        let told = "linux.intelRdt.closID: ";
        let why = format!("{:?} has no group \"gold\"", resctrl.path);
        let told: &[&str] = if t.is("runc") { &[] } else { &[told, &why] };
        refused(t, &with(t, json!({ "closID": "gold" })), told);
        assert!(!resctrl.has("gold"));
    })
    .needs(Needs::Fuse),
    Case::kernel("a class that was made by its name is shared, and stays", |t| {
        let resctrl = Resctrl::mount(t);
        let rdt = json!({ "closID": "gold", "l3CacheSchema": "L3:0=0f", "memBwSchema": "MB:1=21" });
        let (first, second) = (with(t, rdt.clone()), with(t, rdt));
        let container = t.start(&first);
        assert_eq!(
            resctrl.done(),
            [
                "mkdir gold".to_owned(),
                "write gold L3:0=0f".to_owned(),
                "write gold MB:1=21".to_owned(),
                format!("move {} gold", container.pid()),
            ]
        );
        let other = t.start(&second);
        assert_eq!(resctrl.done(), [format!("move {} gold", other.pid())]);
        drop(container);
            wait_until("the first one has left", || resctrl.tasks("gold") == [other.pid()]);
        drop(other);
        assert!(resctrl.has("gold"));
        assert_eq!(resctrl.done(), [""; 0]);
    })
    .needs(Needs::Fuse)
    .except(&[("runc", "1.1.5 writes it again")]),
    Case::kernel("containers that make one class at once are all in it", |t| {
        let resctrl = Resctrl::mount(t);
        let rdt = json!({ "closID": "gold", "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:1=20" });
        let bundles: Vec<Bundle> = (0..4).map(|_| with(t, rdt.clone())).collect();
        let started = bundles.iter().map(|bundle| {
            let words = ["create", "--bundle", text(&bundle.path), &bundle.id];
            t.spawn(&mut t.command(&words))
        });
        let started: Vec<_> = started.collect();
        let containers: Vec<_> = bundles.iter().map(|bundle| t.adopt(&bundle.id)).collect();
        for create in started {
            create.wait().ok();
        }
        let done = resctrl.done();
        let count = |verb: &str| done.iter().filter(|line| line.starts_with(verb)).count();
        assert_eq!([count("mkdir"), count("write"), count("move")], [1, 2, 4], "{done:?}");
        drop(containers);
        assert!(resctrl.has("gold"));
    })
    .needs(Needs::Fuse)
    .except(&[("runc", "1.1.5 writes it each time")]),
    Case::kernel("a class that is there and has other shares is refused", |t| {
        let resctrl = Resctrl::mount(t);
        resctrl.make("gold", "L3:0=3\nMB:0=50");
        resctrl.done();
        let place = format!("the group {:?} is there already", resctrl.path.join("gold"));
        for (rdt, field, why) in [
            (json!({ "l3CacheSchema": "L3:0=7" }), "l3CacheSchema", "it has L3:0=3, not L3:0=7"),
            // Which the kernel makes of it.
            (json!({ "memBwSchema": "MB:0=41;1=100" }), "memBwSchema", ""),
            (json!({ "memBwSchema": "MB:0=51" }), "memBwSchema", "it has MB:0=50, not MB:0=51"),
            (json!({ "l3CacheSchema": "L2:0=1" }), "l3CacheSchema", "it has no L2:0"),
            (json!({ "l3CacheSchema": "L3" }), "l3CacheSchema", "\"L3\" is not like NAME:ID=VALUE"),
        ] {
            let mut rdt = rdt;
            rdt["closID"] = json!("gold");
            let bundle = with(t, rdt);
            if why.is_empty() {
                drop(t.create(&bundle));
                continue;
            }
            let field = format!("config.json: linux.intelRdt.{field}: ");
            refused(t, &bundle, &[&field, &place, why]);
        }
        let written = |line: &String| line.starts_with("write");
        assert!(!resctrl.done().iter().any(written));
        assert_eq!(resctrl.schema("gold", "L3"), "L3:0=3;1=7ff");
    })
    .needs(Needs::Fuse)
    .except(&[("runc", "1.1.5 writes it again")]),
    Case::kernel("schemata is written last, and replaces what was said before", |t| {
        let resctrl = Resctrl::mount(t);
        let rdt = json!({
            "schemata": ["MB:0=30", "L3:1=1"],
            "memBwSchema": "MB:0=20",
            "l3CacheSchema": "L3:0=f;1=f",
        });
        let bundle = with(t, rdt.clone());
        let id = bundle.id.clone();
        let container = t.start(&bundle);
        assert_eq!(
            resctrl.done(),
            [
                format!("mkdir {id}"),
                format!("write {id} L3:0=f;1=f"),
                format!("write {id} MB:0=20"),
                format!("write {id} MB:0=30|L3:1=1"),
                format!("move {} {id}", container.pid()),
            ]
        );
        // Another of the same class says the same, which is what it has.
        let mut rdt = rdt;
        rdt["closID"] = json!(id);
        let other = t.start(&with(t, rdt));
        assert_eq!(
            resctrl.done(),
            [format!("write {id} MB:0=30|L3:1=1"), format!("move {} {id}", other.pid())]
        );
    })
    .needs(Needs::Fuse)
    .except(OLD),
    Case::kernel("the default class is joined, neither made nor removed", |t| {
        let resctrl = Resctrl::mount(t);
        let bundle = with(t, json!({ "closID": "/", "enableMonitoring": true }));
        let id = bundle.id.clone();
        let container = t.start(&bundle);
        let pid = container.pid();
        let monitor = format!("mon_groups/{id}");
        assert_eq!(
            resctrl.done(),
            [format!("mkdir {monitor}"), format!("move {pid} /"), format!("move {pid} {monitor}")]
        );
        drop(container);
        assert_eq!(resctrl.done(), [format!("rmdir {monitor}")]);
    })
    .needs(Needs::Fuse)
    .except(OLD),
    Case::kernel("a monitoring group is made in the class, and goes with the container", |t| {
        let resctrl = Resctrl::mount(t);
        resctrl.make("gold", "L3:0=3");
        let bundle = with(t, json!({ "closID": "gold", "enableMonitoring": true }));
        let monitor = format!("gold/mon_groups/{}", bundle.id);
        let container = t.start(&bundle);
        assert_eq!(resctrl.tasks(&monitor), [container.pid()]);
        // What is to be a group of this container alone is not shared.
        let told = format!("the group {:?} is there already", resctrl.path.join(&monitor));
        let root = t.directory.join("other");
        let cgroup = format!("/{}", t.id());
        let bundle = bundle.with(|config| config["linux"]["cgroupsPath"] = json!(cgroup));
        let outcome = t.call(&[
            "--root", text(&root), "create", "--bundle", text(&bundle.path), &bundle.id,
        ]);
        outcome.fails(1, &["linux.intelRdt.enableMonitoring: ", &told]);
        assert_eq!(resctrl.tasks(&monitor), [container.pid()]);
        container.kill("KILL").ok();
        container.wait_status("stopped");
        container.delete().ok();
        assert!(!resctrl.has(&monitor) && resctrl.has("gold"));

        let bundle = with(t, json!({ "enableMonitoring": true }));
        let monitor = format!("{0}/mon_groups/{0}", bundle.id);
        let container = t.start(&bundle);
        assert_eq!(resctrl.tasks(&monitor), [container.pid()]);
        resctrl.done();
        drop(container);
        assert_eq!(resctrl.done(), [format!("rmdir {monitor}"), format!("rmdir {}", bundle.id)]);
    })
    .needs(Needs::Fuse)
    .except(OLD),
    Case::runc("a process of exec joins the class", |t| {
        let resctrl = Resctrl::mount(t);
        let bundle = with(t, json!({ "l3CacheSchema": "L3:0=f" }));
        let container = t.start(&bundle);
        resctrl.done();
        container.probe(&[], &["report"]).ok();
        let moved = resctrl.done();
        let into = format!(" {}", bundle.id);
        assert!(moved.len() == 1 && moved[0].starts_with("move ") && moved[0].ends_with(&into), "{moved:?}");
        assert!(!moved[0].contains(&format!(" {} ", container.pid())));
    })
    .needs(Needs::Fuse),
    Case::kernel("a process of exec joins the monitoring group too, while they are there", |t| {
        let resctrl = Resctrl::mount(t);
        let bundle = with(t, json!({ "enableMonitoring": true }));
        let monitor = format!("{0}/mon_groups/{0}", bundle.id);
        let container = t.start(&bundle);
        let moves = || {
            resctrl.done();
            container.probe(&[], &["report"]).ok();
            let moved = resctrl.done();
            moved.iter().map(|line| line.rsplit(' ').next().expect("a group").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(moves(), [bundle.id.clone(), monitor.clone()]);
        resctrl.remove(&monitor);
        assert_eq!(moves(), [bundle.id.as_str()]);
        resctrl.remove(&bundle.id);
        assert_eq!(moves(), [""; 0]);
        container.kill("KILL").ok();
        container.wait_status("stopped");
        container.delete().ok();
    })
    .needs(Needs::Fuse)
    .except(OLD),
    Case::runc("what the kernel refuses is told in its words, and nothing stays", |t| {
        let resctrl = Resctrl::mount(t);
        let ours = !t.is("runc");
        for (schema, told) in [
            ("L3:0=5", "last_cmd_status: The mask 5 has non-consecutive 1-bits"),
            ("L9:0=1", "last_cmd_status: Unknown or unsupported resource name 'L9'"),
            ("L3:0=f;0=7", "last_cmd_status: Duplicate domain 0"),
        ] {
            let bundle = with(t, json!({ "l3CacheSchema": schema }));
            let field = if ours { "linux.intelRdt.l3CacheSchema: write(" } else { told };
            refused(t, &bundle, &[field, told]);
            assert!(!resctrl.has(&bundle.id), "{schema}");
        }
        // The default class and three more.
        for name in ["a", "b", "c"] {
            resctrl.make(name, "L3:0=1");
        }
        let bundle = with(t, json!({ "l3CacheSchema": "L3:0=1" }));
        let place = format!("linux.intelRdt: mkdir({:?})", resctrl.path.join(&bundle.id));
        let place = if ours { place.as_str() } else { "mkdir" };
        refused(t, &bundle, &[place, "no space left on device", "last_cmd_status: Out of CLOSIDs"]);
    })
    .needs(Needs::Fuse),
    Case::kernel("a class that has failed half-way is removed with its parts", |t| {
        let resctrl = Resctrl::mount(t);
        // The program is not found when all groups are there.
        let rdt = json!({ "closID": "gold", "l3CacheSchema": "L3:0=3", "enableMonitoring": true });
        let bundle = with(t, rdt).args(&["/none"]);
        refused(t, &bundle, &["/none"]);
        let done = resctrl.done();
        let removed = [format!("rmdir gold/mon_groups/{}", bundle.id), "rmdir gold".to_owned()];
        assert!(done.ends_with(&removed), "{done:?}");
    })
    .needs(Needs::Fuse)
    .except(OLD),
    Case::runc("update gives the class other shares", |t| {
        let resctrl = Resctrl::mount(t);
        let bundle = with(t, json!({ "l3CacheSchema": "L3:0=f" }));
        let container = t.start(&bundle);
        let update = |flags: &[&str]| {
            let mut words = vec!["update"];
            words.extend(flags);
            words.push(&bundle.id);
            t.call(&words)
        };
        update(&["--l3-cache-schema", "L3:1=3", "--mem-bw-schema", "MB:0=40"]).ok();
        assert_eq!(resctrl.schema(&bundle.id, "L3"), "L3:0=f;1=3");
        assert_eq!(resctrl.schema(&bundle.id, "MB"), "MB:0=40;1=100");
        let told = "last_cmd_status: MB value 5 out of range [10,100]";
        update(&["--mem-bw-schema", "MB:0=5"]).fails(1, &[told]);
        assert_eq!(resctrl.schema(&bundle.id, "MB"), "MB:0=40;1=100");
        let resources = bundle.path.join("resources.json");
        std::fs::write(&resources, "{}").expect("resources");
        update(&["--resources", text(&resources), "--l3-cache-schema", "L3:0=1"]).ok();
        assert_eq!(resctrl.schema(&bundle.id, "L3"), "L3:0=1;1=3");
        drop(container);
        assert!(!resctrl.has(&bundle.id));
    })
    .needs(Needs::Fuse),
    Case::kernel("an update that fails leaves all as it was", |t| {
        let resctrl = Resctrl::mount(t);
        let bundle = with(t, json!({ "l3CacheSchema": "L3:0=f" }));
        let container = t.start(&bundle);
        let id = container.id.as_str();
        // The second schema is refused, then a limit of the cgroup.
        let both = ["--l3-cache-schema", "L3:0=1", "--mem-bw-schema", "MB:0=5"];
        let limit = ["--l3-cache-schema", "L3:0=1", "--cpuset-cpus", "9999"];
        for (flags, told) in [(both, "--mem-bw-schema: write("), (limit, "linux.resources.cpu.cpus")] {
            let words = [&["update"][..], &flags, &[id]].concat();
            t.call(&words).fails(1, &[told]);
            assert_eq!(resctrl.schema(id, "L3"), "L3:0=f;1=7ff", "{flags:?}");
        }
        resctrl.remove(id);
        t.call(&["update", "--l3-cache-schema", "L3:0=1", id])
            .fails(1, &["has no group", "any more"]);
    })
    .needs(Needs::Fuse)
    .except(&[("runc", "1.1.5 writes cgroups first and schemas afterwards")]),
    Case::kernel("update makes a class for a container that has none, with all its processes", |t| {
        let resctrl = Resctrl::mount(t);
        let bundle = Bundle::new(t).probe(&["pause"]);
        let container = t.start(&bundle);
        let id = container.id.as_str();
        t.call(&["exec", "--detach", id, "/bin/probe", "pause"]).ok();
        assert!(!resctrl.has(id));
        let update = |schema: &str| t.call(&["update", "--mem-bw-schema", schema, id]);
        update("MB:0=5").fails(1, &["--mem-bw-schema: write("]);
        assert!(!resctrl.has(id));
        update("MB:0=50").ok();
        let tasks = resctrl.tasks(id);
        assert!(tasks.len() == 2 && tasks.contains(&container.pid()), "{tasks:?}");
        update("MB:0=60").ok();
        assert_eq!(resctrl.schema(id, "MB"), "MB:0=60;1=100");
        resctrl.done();
        container.probe(&[], &["report"]).ok();
        assert_eq!(resctrl.done().len(), 1);
        container.kill("KILL").ok();
        container.wait_status("stopped");
        container.delete().ok();
        assert!(!resctrl.has(id));
    })
    .needs(Needs::Fuse)
    .except(&[("runc", "1.1.5 moves the first process alone")]),
    Case::runc("update is refused in runc's words where nothing can be shared out", |t| {
        let container = t.start(&Bundle::new(t).probe(&["pause"]));
        let id = container.id.as_str();
        for (flag, told) in [
            ("--l3-cache-schema", "Intel RDT/CAT: l3 cache schema is not enabled"),
            ("--mem-bw-schema", "Intel RDT/MBA: memory bandwidth schema is not enabled"),
        ] {
            t.call(&["update", flag, "MB:0=50", id]).fails(1, &[told]);
        }
    }),
    Case::runc("events tells shares and counters of the class", |t| {
        let resctrl = Resctrl::mount(t);
        let bundle = with(t, json!({ "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:1=20" }));
        let container = t.start(&bundle);
        let told = stats(t, &container.id);
        for (name, expected) in [
            ("l3_cache_info", json!({ "cbm_mask": "7ff", "min_cbm_bits": 1, "num_closids": 4 })),
            ("l3_cache_schema_root", json!("L3:0=7ff;1=7ff")),
            ("l3_cache_schema", json!("L3:0=f;1=7ff")),
            (
                "mem_bw_info",
                json!({ "bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 4 }),
            ),
            ("mem_bw_schema_root", json!("MB:0=100;1=100")),
            ("mem_bw_schema", json!("MB:0=100;1=20")),
            (
                "mbm_stats",
                json!([
                    { "mbm_total_bytes": 2000, "mbm_local_bytes": 1000 },
                    { "mbm_total_bytes": 2001, "mbm_local_bytes": 1001 },
                ]),
            ),
            ("cmt_stats", json!([{ "llc_occupancy": 4096 }, { "llc_occupancy": 4097 }])),
        ] {
            assert_eq!(told[name], expected, "{name}: {told}");
        }
        drop(resctrl);
    })
    .needs(Needs::Fuse),
    Case::kernel("events counts for the monitoring group, if there is one", |t| {
        let resctrl = Resctrl::mount(t);
        let bundle = with(t, json!({ "closID": "/", "enableMonitoring": true }));
        let container = t.start(&bundle);
        let told = stats(t, &container.id);
        assert_eq!(told["schemata"], "MB:0=100;1=100\nL3:0=7ff;1=7ff");
        assert_eq!(told["cmt_stats"], json!([{ "llc_occupancy": 4196 }, { "llc_occupancy": 4197 }]));
        // The second counter can't be told now.
        let mbm = json!([
            { "mbm_total_bytes": 2100, "mbm_local_bytes": 1100 },
            { "mbm_total_bytes": 2101, "mbm_local_bytes": 0 },
        ]);
        assert_eq!(told["mbm_stats"], mbm);
        resctrl.remove(&format!("mon_groups/{}", container.id));
        assert_eq!(stats(t, &container.id)["cmt_stats"][0]["llc_occupancy"], 4096);
        let other = t.start(&Bundle::new(t).probe(&["pause"]));
        assert_eq!(stats(t, &other.id), json!({}));
    })
    .needs(Needs::Fuse)
    .except(OLD),
    Case::runc("a container without intelRdt leaves resctrl alone", |t| {
        let resctrl = Resctrl::mount(t);
        let container = t.start(&Bundle::new(t).probe(&["pause"]));
        container.probe(&[], &["report"]).ok();
        t.call(&["update", "--pids-limit", "50", &container.id]);
        drop(container);
        assert_eq!(resctrl.done(), [""; 0]);
    })
    .needs(Needs::Fuse),
    Case::kernel("features and plan tell of it", |t| {
        let told = t.call(&["features"]).json();
        let all = json!({ "enabled": true, "schemata": true, "monitoring": true });
        assert_eq!(told["linux"]["intelRdt"], all);
        let resctrl = Resctrl::mount(t);
        let rdt = json!({
            "closID": "gold", "l3CacheSchema": "L3:0=f", "schemata": ["MB:0=20"], "enableMonitoring": true,
        });
        let bundle = with(t, rdt);
        let outcome = t.call(&["plan", text(&bundle.path)]).ok();
        let place = resctrl.path.display();
        for line in [
            "\nresctrl\n".to_owned(),
            format!("  make or join {place}/gold, and leave it\n"),
            format!("  make and join {place}/gold/mon_groups/{}, and remove it\n", bundle.id),
            "  write schemata = L3:0=f, or if the group is there it must be so\n".to_owned(),
            "  write schemata = MB:0=20\n".to_owned(),
        ] {
            assert!(outcome.stdout.contains(&line), "no {line:?} in {}", outcome.stdout);
        }
        assert_eq!(resctrl.done(), [""; 0]);
    })
    .needs(Needs::Fuse)
    .except(&[("runc", "has no plan, and 1.1.5 no schemata")]),
];

/// A bundle with this `linux.intelRdt`.
fn with(t: &Test, rdt: Value) -> Bundle {
    Bundle::new(t)
        .probe(&["pause"])
        .with(|config| config["linux"]["intelRdt"] = rdt)
}

/// `create` must fail with these words, and leave nothing.
#[track_caller]
fn refused(t: &Test, bundle: &Bundle, told: &[&str]) {
    t.call(&["create", "--bundle", text(&bundle.path), &bundle.id])
        .fails(1, told);
    t.call(&["state", &bundle.id]).fails(1, &["does not exist"]);
    let left = spec_tests::leftovers::cgroups(&bundle.id);
    assert!(left.is_empty(), "{left:?}");
}

/// What `events --stats` has for resctrl.
#[track_caller]
fn stats(t: &Test, id: &str) -> Value {
    t.call(&["events", "--stats", id]).json()["data"]["intel_rdt"].clone()
}
