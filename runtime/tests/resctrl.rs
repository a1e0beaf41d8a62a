//! The acting side of `linux.intelRdt` on a tree of plain files that stands for
//! resctrl. No root and no processor with RDT needed.
//!
//! Plain files take everything, and a new directory stays empty: so what must be
//! refused is refused by rrun, and what is made fails where the kernel would have
//! put files. The behaviour of the kernel itself is that of the black-box tests'
//! stand-in.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;
use rrun::plan::intel_rdt::{IntelRdt, Record, Recorded, Removal};
use rrun::resctrl::{Facts, Groups, IfGone};
use rrun::spec;

/// A tree; removed at the end of the test.
struct Tree(PathBuf);

impl Tree {
    /// With these files, and the directories on the way to them.
    fn new(files: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rrun-resctrl.{}.{count}", std::process::id());
        let tree = Self(std::env::temp_dir().join(name));
        fs::create_dir(&tree.0).unwrap();
        for (file, text) in files {
            let path = tree.0.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        tree
    }

    fn plan(&self, json: &str) -> IntelRdt {
        let written: spec::IntelRdt = serde_json::from_str(json).unwrap();
        let facts = Facts {
            mount: self.0.clone(),
            info: ["L3", "MB", "L3_MON"].map(str::to_owned).to_vec(),
            bandwidth_step: Some(10),
        };
        IntelRdt::plan(Some(&written), "web", Some(&facts))
            .unwrap()
            .unwrap()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap()
    }

    fn has(&self, path: &str) -> bool {
        self.0.join(path).exists()
    }

    /// An error's text, with `R` for the tree.
    fn text(&self, error: &rrun::error::Error) -> String {
        error.to_string().replace(self.0.to_str().unwrap(), "R")
    }

    fn groups(&self, groups: &[(&str, Removal)]) -> Groups {
        let groups = groups.iter().map(|(path, removal)| Recorded {
            path: (*path).to_owned(),
            removal: *removal,
        });
        let record = Record {
            mount: self.0.clone(),
            groups: groups.collect(),
        };
        Groups::open(&record).unwrap().unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn removals(groups: &Groups) -> Vec<Removal> {
    let record = groups.record();
    record.groups.iter().map(|group| group.removal).collect()
}

#[test]
fn groups_that_are_there_are_written_joined_and_left() {
    let tree = Tree::new(&[
        ("gold/schemata", "L3:0=f;1=f"),
        ("gold/tasks", ""),
        ("gold/mon_groups/other/tasks", ""),
    ]);
    let plan = tree.plan(
        r#"{"closID":"gold","l3CacheSchema":"L3:1=f","schemata":["MB:0=20","L2:0=1"],"enableMonitoring":true}"#,
    );
    let mut groups = Groups::look(&plan).unwrap();
    assert_eq!(removals(&groups), [Removal::Never, Removal::IfIdle]);
    groups.make(&plan).unwrap();
    assert!(tree.has("gold/mon_groups/web"));
    // What was compared is not written.
    assert_eq!(tree.read("gold/schemata"), "MB:0=20\nL2:0=1\n");
    // As the kernel does.
    fs::write(tree.0.join("gold/mon_groups/web/tasks"), "").unwrap();
    groups.join(Pid::from_raw(4321), IfGone::Fail).unwrap();
    for group in ["gold", "gold/mon_groups/web"] {
        assert_eq!(tree.read(&format!("{group}/tasks")), "4321");
    }
    assert_eq!(tree.read("gold/mon_groups/other/tasks"), "");
    groups.settle(&plan);
    assert_eq!(removals(&groups), [Removal::Never, Removal::Always]);
    fs::remove_file(tree.0.join("gold/mon_groups/web/tasks")).unwrap();
    groups.remove().unwrap();
    assert!(!tree.has("gold/mon_groups/web") && tree.has("gold/tasks"));
}

#[test]
fn what_becomes_of_a_group_follows_from_its_name_and_from_who_made_it() {
    use Removal::{Always, IfIdle, Never};
    for (json, there, before, after) in [
        (r"{}", false, vec![IfIdle], vec![Always]),
        (r"{}", true, vec![Never], vec![Never]),
        (
            r#"{"enableMonitoring":true}"#,
            true,
            vec![Never, IfIdle],
            vec![Never, Always],
        ),
        (r#"{"closID":"web"}"#, true, vec![Never], vec![Never]),
        (
            r#"{"closID":"web","schemata":["L3:0=1"]}"#,
            false,
            vec![IfIdle],
            vec![Never],
        ),
        (
            r#"{"closID":"/","enableMonitoring":true}"#,
            false,
            vec![Never, IfIdle],
            vec![Never, Always],
        ),
    ] {
        let tree = Tree::new(&[]);
        if there {
            fs::create_dir(tree.0.join("web")).unwrap();
        }
        let plan = tree.plan(json);
        let mut groups = Groups::look(&plan).unwrap();
        assert_eq!(removals(&groups), before, "{json} {there}");
        groups.settle(&plan);
        assert_eq!(removals(&groups), after, "{json} {there}");
        assert_eq!(tree.has("web"), there, "looking makes nothing");
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_made() {
    for (json, files, expected) in [
        (
            r#"{"closID":"gold"}"#,
            &[][..],
            "config.json: linux.intelRdt.closID: \"R\" has no group \"gold\", and no schema is given to make it with",
        ),
        (
            r#"{"closID":"gold","l3CacheSchema":"L3:0=f"}"#,
            &[("gold/schemata", " L3:0=7")],
            "config.json: linux.intelRdt.l3CacheSchema: the group \"R/gold\" is there already: it has L3:0=7, not L3:0=f",
        ),
        (
            r#"{"closID":"/","memBwSchema":"MB:0=21"}"#,
            &[("schemata", "MB:0=40")],
            "config.json: linux.intelRdt.memBwSchema: the group \"R\" is there already: it has MB:0=40, not MB:0=21",
        ),
        (
            r#"{"closID":"gold","l3CacheSchema":"L3:0=f"}"#,
            &[("gold/tasks", "")],
            "linux.intelRdt.closID: open(\"R/gold/schemata\"): no such file or directory",
        ),
        (
            r#"{"enableMonitoring":true}"#,
            &[("web/mon_groups/web/tasks", "")],
            "linux.intelRdt.enableMonitoring: the group \"R/web/mon_groups/web\" is there already",
        ),
    ] {
        let tree = Tree::new(files);
        let before = listing(&tree.0);
        let error = Groups::look(&tree.plan(json)).unwrap_err();
        assert_eq!(tree.text(&error), expected);
        assert_eq!(listing(&tree.0), before);
    }
    let gone = Tree::new(&[]);
    fs::remove_dir(&gone.0).unwrap();
    let error = Groups::look(&gone.plan("{}")).unwrap_err();
    assert_eq!(
        gone.text(&error),
        "linux.intelRdt: open(\"R\", O_DIRECTORY): no such file or directory"
    );
}

#[test]
fn what_fails_half_way_is_told_with_the_reason_of_resctrl_and_removed() {
    let tree = Tree::new(&[("info/last_cmd_status", "mask is too wide\n")]);
    let plan = tree.plan(r#"{"l3CacheSchema":"L3:0=f","enableMonitoring":true}"#);
    let mut groups = Groups::look(&plan).unwrap();
    let error = groups.make(&plan).unwrap_err();
    assert_eq!(
        tree.text(&error),
        "linux.intelRdt.l3CacheSchema: open(\"R/web/schemata\", O_WRONLY): no such file or directory \
         (last_cmd_status: mask is too wide)"
    );
    assert!(tree.has("web"));
    groups.remove().unwrap();
    assert!(!tree.has("web"));

    // Nothing that can be counted.
    let tree = Tree::new(&[("info/last_cmd_status", "ok\n")]);
    let plan = tree.plan(r#"{"closID":"/","enableMonitoring":true}"#);
    let mut groups = Groups::look(&plan).unwrap();
    let error = groups.make(&plan).unwrap_err();
    assert_eq!(
        tree.text(&error),
        "linux.intelRdt.enableMonitoring: mkdir(\"R/mon_groups/web\"): no such file or directory"
    );
}

#[test]
fn who_was_faster_keeps_his_group() {
    let tree = Tree::new(&[]);
    let plan = tree.plan(r#"{"closID":"gold","l3CacheSchema":"L3:0=f"}"#);
    let (mut same, mut other) = (Groups::look(&plan).unwrap(), Groups::look(&plan).unwrap());
    fs::create_dir(tree.0.join("gold")).unwrap();
    fs::write(tree.0.join("gold/schemata"), "L3:0=f\n").unwrap();
    same.make(&plan).unwrap();
    assert_eq!(removals(&same), [Removal::Never]);
    fs::write(tree.0.join("gold/schemata"), "L3:0=1\n").unwrap();
    let error = other.make(&plan).unwrap_err();
    assert_eq!(
        tree.text(&error),
        "config.json: linux.intelRdt.l3CacheSchema: the group \"R/gold\" is there already: it has L3:0=1, not L3:0=f"
    );
    other.remove().unwrap();
    assert_eq!(tree.read("gold/schemata"), "L3:0=1\n");
}

#[test]
fn only_groups_that_go_with_the_container_are_removed_and_all_failures_told() {
    use Removal::{Always, IfIdle, Never};
    let ended = {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id().to_string()
    };
    let living = std::process::id().to_string();
    // Of this thread, whose name is any bytes.
    fs::write("/proc/thread-self/comm", b"\xff").unwrap();
    let named = nix::unistd::gettid().to_string();
    for (removal, tasks, stays) in [
        (Never, None, true),
        (Always, None, false),
        (IfIdle, None, false),
        (IfIdle, Some(living.as_str()), true),
        (IfIdle, Some(named.as_str()), true),
    ] {
        let tree = Tree::new(&[]);
        fs::create_dir(tree.0.join("web")).unwrap();
        if let Some(tasks) = tasks {
            fs::write(tree.0.join("web/tasks"), format!("{tasks}\n")).unwrap();
        }
        tree.groups(&[("web", removal)]).remove().unwrap();
        assert_eq!(tree.has("web"), stays, "{removal:?} {tasks:?}");
    }
    // A directory with files in it stands for what the kernel refuses.
    let tree = Tree::new(&[
        ("web/tasks", &format!("{ended}\n")),
        ("web/mon_groups/web/tasks", ""),
        ("info/last_cmd_status", "it is locked\n"),
    ]);
    let groups = tree.groups(&[("web", IfIdle), ("web/mon_groups/web", Always)]);
    let error = groups.remove().unwrap_err();
    assert_eq!(
        tree.text(&error),
        "remove the resctrl group: rmdir(\"R/web/mon_groups/web\"): directory not empty (last_cmd_status: it is locked); \
         remove the resctrl group: rmdir(\"R/web\"): directory not empty (last_cmd_status: it is locked)"
    );
    // What is gone is no failure, nor is a mount that is gone.
    tree.groups(&[("a", Always), ("a/mon_groups/web", IfIdle)])
        .remove()
        .unwrap();
    let record = tree.groups(&[("web", Always)]).record();
    drop(tree);
    assert!(Groups::open(&record).unwrap().is_none());
}

#[test]
fn all_tasks_of_running_processes_are_moved() {
    let tree = Tree::new(&[("web/tasks", "")]);
    let groups = tree.groups(&[("web", Removal::Never)]);
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let moved = groups.join_all(|| Ok(vec![pid]));
    child.kill().unwrap();
    child.wait().unwrap();
    moved.unwrap();
    assert_eq!(tree.read("web/tasks"), pid.to_string());
    // Nobody is there any more.
    fs::write(tree.0.join("web/tasks"), "").unwrap();
    groups.join_all(|| Ok(vec![pid])).unwrap();
    assert_eq!(tree.read("web/tasks"), "");
}

#[test]
fn a_group_that_is_gone_is_joined_by_nobody() {
    let tree = Tree::new(&[("web/tasks", "")]);
    let groups = tree.groups(&[("gone", Removal::Never), ("web", Removal::Never)]);
    let pid = Pid::from_raw(4321);
    let error = groups.join(pid, IfGone::Fail).unwrap_err();
    assert_eq!(tree.text(&error), "\"R\" has no group \"gone\" any more");
    assert_eq!(tree.read("web/tasks"), "");
    groups.join(pid, IfGone::Skip).unwrap();
    assert_eq!(tree.read("web/tasks"), "4321");
}

#[test]
fn who_makes_a_group_is_waited_for_and_not_for_ever() {
    let tree = Tree::new(&[]);
    let plan = tree.plan(r#"{"closID":"gold","l3CacheSchema":"L3:0=f"}"#);
    let lock = || {
        let root = fs::File::open(&tree.0).unwrap();
        Flock::lock(root, FlockArg::LockExclusive).unwrap()
    };
    let held = lock();
    let found = std::thread::scope(|scope| {
        let looking = scope.spawn(|| Groups::look(&plan).map(|groups| removals(&groups)));
        let pause = || std::thread::sleep(Duration::from_millis(50));
        pause();
        fs::create_dir(tree.0.join("gold")).unwrap();
        pause();
        fs::write(tree.0.join("gold/schemata"), "L3:0=f\n").unwrap();
        drop(held);
        looking.join().unwrap()
    });
    assert_eq!(found.unwrap(), [Removal::Never]);
    let _held = lock();
    assert_eq!(removals(&Groups::look(&plan).unwrap()), [Removal::Never]);
}

#[test]
fn an_update_returns_the_shares_of_before() {
    let tree = Tree::new(&[("web/schemata", "L3:0=f\n")]);
    let groups = tree.groups(&[("web", Removal::Always)]);
    let plan = tree.plan(r#"{"l3CacheSchema":"L3:0=1"}"#);
    let before = groups.update(&plan.writes).unwrap();
    assert_eq!(before, "L3:0=f\n");
    assert_eq!(tree.read("web/schemata"), "L3:0=1\n");
    groups.restore(&before).unwrap();
    assert_eq!(tree.read("web/schemata"), "L3:0=f\n");
    fs::remove_dir_all(tree.0.join("web")).unwrap();
    let error = groups.update(&plan.writes).unwrap_err();
    assert_eq!(tree.text(&error), "\"R\" has no group \"web\" any more");
}

#[test]
fn statistics_have_what_is_there() {
    let tree = Tree::new(&[
        ("schemata", "    MB:0=100\nL3DATA:0=ff\nL3CODE:0=ff\n"),
        ("info/L3CODE/cbm_mask", "ff\n"),
        ("info/L3CODE/min_cbm_bits", "2\n"),
        ("info/L3CODE/num_closids", "8\n"),
        (
            "info/L3_MON/mon_features",
            "llc_occupancy\nmbm_local_bytes_config\n",
        ),
        ("web/schemata", "    MB:0=20\nL3DATA:0=f\nL3CODE:0=3\n"),
        ("web/mon_data/mon_L3_01/llc_occupancy", "2\n"),
        ("web/mon_data/mon_L3_00/llc_occupancy", "1\n"),
        ("web/mon_data/mon_PERF_PKG_00/activity", "9\n"),
    ]);
    let groups = tree.groups(&[("web", Removal::Never)]);
    let told = serde_json::to_value(groups.stats().unwrap()).unwrap();
    let expected = serde_json::json!({
        "l3_cache_info": { "cbm_mask": "ff", "min_cbm_bits": 2, "num_closids": 8 },
        "l3_cache_schema_root": "L3DATA:0=ff\nL3CODE:0=ff",
        "l3_cache_schema": "L3DATA:0=f\nL3CODE:0=3",
        "schemata": "MB:0=20\nL3DATA:0=f\nL3CODE:0=3",
        "cmt_stats": [{ "llc_occupancy": 1 }, { "llc_occupancy": 2 }],
    });
    assert_eq!(told, expected);
    // A class that somebody has removed.
    let gone = tree.groups(&[("gone", Removal::Never)]).stats().unwrap();
    assert_eq!(serde_json::to_value(gone).unwrap(), serde_json::json!({}));
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let tree = Tree::new(&[]);
    let groups = tree.groups(&[
        ("gold", Removal::Never),
        ("gold/mon_groups/web", Removal::IfIdle),
    ]);
    let json = serde_json::to_string(&groups.record()).unwrap();
    assert_eq!(
        json.replace(tree.0.to_str().unwrap(), "R"),
        r#"{"mount":"R","groups":[{"path":"gold","removal":"never"},{"path":"gold/mon_groups/web","removal":"if-idle"}]}"#
    );
    assert_eq!(
        serde_json::from_str::<Record>(&json).unwrap(),
        groups.record()
    );
}

/// All paths below `directory`.
fn listing(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(listing(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}
