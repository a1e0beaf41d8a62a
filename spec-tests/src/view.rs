//! The three views of cgroups in which the same cases run: the machine as it
//! is, and private mount namespaces with a pure v1 or a pure v2 layout.
//!
//! Nothing is unmounted on the machine: the namespace is made private first,
//! which is checked, and the mounts go with it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::case::Test;
use crate::leftovers;

const TOP: &str = "/sys/fs/cgroup";
const NONE: Option<&str> = None;

/// Enters the view that is named. Called before the first case process.
///
/// # Panics
/// When the view can't be made.
pub fn enter(name: &str) {
    match name {
        "hybrid" => {}
        "v1" => {
            let hierarchies = hierarchies();
            detach();
            mount(
                Some("tmpfs"),
                TOP,
                Some("tmpfs"),
                MsFlags::empty(),
                Some("mode=755"),
            )
            .expect("tmpfs");
            for (directory, options) in hierarchies {
                let target = format!("{TOP}/{directory}");
                fs::create_dir(&target).expect("mkdir");
                mount(
                    Some("cgroup"),
                    target.as_str(),
                    Some("cgroup"),
                    MsFlags::empty(),
                    Some(options.as_str()),
                )
                .unwrap_or_else(|errno| panic!("mount cgroup -o {options}: {errno}"));
            }
        }
        "v2" => {
            detach();
            mount(
                Some("cgroup2"),
                TOP,
                Some("cgroup2"),
                MsFlags::empty(),
                NONE,
            )
            .expect("cgroup2");
        }
        other => panic!("VIEW={other}: hybrid, v1 or v2"),
    }
}

/// Gives this process and what it starts empty directories of their own.
///
/// # Panics
/// When it can't.
pub fn private(directories: &[&str]) {
    if directories.is_empty() {
        return;
    }
    unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).expect("private");
    for directory in directories {
        fs::create_dir_all(directory).expect("mkdir");
        let tmpfs = Some("tmpfs");
        mount(tmpfs, *directory, tmpfs, MsFlags::empty(), Some("mode=711")).expect("tmpfs");
    }
}

/// The controllers net_cls and net_prio, which hardly a machine mounts, in a mount
/// namespace of the case. Dropped, the machine is without them again: their hierarchy
/// would stay for as long as a cgroup is in it.
#[derive(Debug)]
pub struct NetworkControllers {
    prefix: String,
    ours: bool,
}

const NETWORK: &str = "/sys/fs/cgroup/net_cls,net_prio";

impl NetworkControllers {
    /// Mounts them beside the others, where runtimes look.
    ///
    /// # Panics
    /// When the kernel has them and does not let them be mounted.
    pub fn mount(test: &Test) -> NetworkControllers {
        if test.view != "v1" {
            test.does_not_apply("only the directory of the view v1 is the tests' own");
        }
        // Engines beside us would take it for one that they have to join.
        if test.rounds(1, 0) == 0 && test.hierarchy("net_prio").is_none() {
            test.does_not_apply("the machine has them for that time: with --full alone");
        }
        let controllers = fs::read_to_string("/proc/cgroups").expect("/proc/cgroups");
        if !controllers.contains("net_prio") {
            test.does_not_apply("the kernel has no net_prio");
        }
        let prefix = test.prefix.clone();
        // Of a machine that mounts them, the view has them.
        let ours = test.hierarchy("net_prio").is_none();
        if ours {
            unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
            mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).expect("private");
            fs::create_dir_all(NETWORK).expect("mkdir");
            let (cgroup, options) = (Some("cgroup"), Some("net_cls,net_prio"));
            mount(cgroup, NETWORK, cgroup, MsFlags::empty(), options).expect("net_cls,net_prio");
        }
        NetworkControllers { prefix, ours }
    }
}

impl Drop for NetworkControllers {
    fn drop(&mut self) {
        let left = leftovers::cgroups(&self.prefix);
        if self.ours {
            empty(Path::new(NETWORK));
            // The kernel ends a hierarchy with its last mount, if none of its cgroups is
            // still on its way out.
            let begin = Instant::now();
            while cgroups_of("net_prio") > 1 && begin.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = umount2(NETWORK, MntFlags::MNT_DETACH);
            let _ = fs::remove_dir(NETWORK);
        }
        assert!(
            left.is_empty() || std::thread::panicking(),
            "left behind: {left:?}"
        );
    }
}

/// Removes the cgroups below `directory` in which nobody is.
fn empty(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            empty(&entry.path());
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// How many cgroups are in the hierarchy of a controller.
fn cgroups_of(controller: &str) -> u32 {
    let text = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let mut lines = text.lines().map(|line| line.split_whitespace());
    let mut line = lines.find(|line| line.clone().next() == Some(controller));
    let count = line.as_mut().and_then(|line| line.nth(2));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// The v1 hierarchies of the machine: directory name and mount options. Those that are
/// mounted here; another run may have one for a moment ([`NetworkControllers`]), which
/// would stay for as long as this run.
fn hierarchies() -> Vec<(String, String)> {
    let text = fs::read_to_string("/proc/self/cgroup").expect("/proc/self/cgroup");
    let controllers = text.lines().filter_map(|line| line.split(':').nth(1));
    let controllers = controllers.filter(|names| !names.is_empty());
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let is_mounted = |names: &&str| {
        mounts.lines().any(|line| {
            let right = line.split_once(" - cgroup ").map_or("", |(_, right)| right);
            let options: Vec<&str> = right.split([' ', ',']).collect();
            !right.is_empty() && names.split(',').all(|name| options.contains(&name))
        })
    };
    controllers
        .filter(is_mounted)
        .map(|names| match names.strip_prefix("name=") {
            Some(name) => (name.to_owned(), format!("none,{names}")),
            None => (names.to_owned(), names.to_owned()),
        })
        .collect()
}

/// A private mount namespace without the machine's cgroup mounts.
fn detach() {
    unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).expect("private");
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let shared = text.lines().find(|line| line.contains(" shared:"));
    assert_eq!(shared, None, "a mount is still shared");
    umount2(TOP, MntFlags::MNT_DETACH).expect("umount");
}
