//! The three views of cgroups in which the same cases run: the machine as it
//! is, and private mount namespaces with a pure v1 or a pure v2 layout.
//!
//! Nothing is unmounted on the machine: the namespace is made private first,
//! which is checked, and the mounts go with it.

use std::fs;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

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

/// The v1 hierarchies of the machine: directory name and mount options.
fn hierarchies() -> Vec<(String, String)> {
    let text = fs::read_to_string("/proc/self/cgroup").expect("/proc/self/cgroup");
    let controllers = text.lines().filter_map(|line| line.split(':').nth(1));
    let controllers = controllers.filter(|names| !names.is_empty());
    controllers
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
