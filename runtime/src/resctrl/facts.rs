//! Where resctrl is mounted and what it can do.

use std::path::{Path, PathBuf};

use crate::cgroup::directory::Directory;
use crate::error::{Context, Result};
use crate::mountinfo::{self, Mount};
use crate::sys;

/// What the plan needs to know about resctrl.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// What `info` has directories for: `L3`, `MB`, `L3_MON` and so on.
    pub info: Vec<String>,
    /// To whose multiples the kernel rounds bandwidths up. None with the software
    /// controller, which takes any number of megabytes.
    pub bandwidth_step: Option<u64>,
}

impl Facts {
    /// Whether the L3 cache can be shared out, also as one for code and one for
    /// data.
    #[must_use]
    pub fn shares_cache(&self) -> bool {
        ["L3", "L3CODE", "L3DATA"].iter().any(|name| self.has(name))
    }

    /// Whether memory bandwidth can be shared out.
    #[must_use]
    pub fn shares_bandwidth(&self) -> bool {
        self.has("MB")
    }

    /// Whether anything is counted.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.info.iter().any(|name| name.ends_with("_MON"))
    }

    fn has(&self, name: &str) -> bool {
        self.info.iter().any(|known| known == name)
    }
}

/// Looks for resctrl; nothing if it is mounted nowhere.
///
/// # Errors
/// Those of reading `/proc` and `info`.
pub fn facts() -> Result<Option<Facts>> {
    let path = Path::new("/proc/thread-self/mountinfo");
    let mountinfo = sys::file::read_pseudo_bytes(path).context(|| "find resctrl")?;
    let mountinfo = mountinfo::text(&mountinfo);
    let Some(mount) = mounted(&mountinfo) else {
        return Ok(None);
    };
    let root = Directory::open(PathBuf::from(&*mount.point)).context(|| "find resctrl")?;
    let info = root.child("info").and_then(|info| info.children());
    let info = info.context(|| "find resctrl")?;
    let in_megabytes = mount
        .super_options
        .split(',')
        .any(|option| option == "mba_MBps");
    // Without the file there is nothing to round.
    let step = root.read("info/MB/bandwidth_gran").ok();
    let step = step.and_then(|text| text.trim().parse().ok());
    Ok(Some(Facts {
        mount: PathBuf::from(&*mount.point),
        info: info
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .collect(),
        bandwidth_step: step.filter(|_| !in_megabytes),
    }))
}

/// The first mount of the whole of resctrl that can be reached.
fn mounted(mountinfo: &str) -> Option<Mount<'_>> {
    let mounts = Mount::list(mountinfo);
    let mut found = mounts.iter().filter(|mount| mount.filesystem == "resctrl");
    found
        .find(|mount| mount.root == "/" && mount.is_reachable(&mounts))
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resctrl_is_found_by_its_type_where_it_can_be_reached() {
        const ROOT: &str = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /sys rw - sysfs sysfs rw\n";
        for (name, lines, expected) in [
            ("none", "", None),
            (
                "the usual place",
                "3 2 0:9 / /sys/fs/resctrl rw - resctrl resctrl rw",
                Some("/sys/fs/resctrl"),
            ),
            (
                "another place",
                "3 1 0:9 / /mnt/a\\040b rw - resctrl none rw",
                Some("/mnt/a b"),
            ),
            (
                "only its name",
                "3 1 0:9 / /sys/fs/resctrl rw - tmpfs resctrl rw",
                None,
            ),
            (
                "a part of it",
                "3 1 0:9 /gold /mnt rw - resctrl resctrl rw",
                None,
            ),
            (
                "covered",
                "3 2 0:9 / /sys/fs/resctrl rw - resctrl resctrl rw\n4 3 0:8 / /sys/fs/resctrl rw - tmpfs t rw",
                None,
            ),
            (
                "covered, and once more",
                "3 2 0:9 / /r rw - resctrl r rw\n4 3 0:8 / /r rw - tmpfs t rw\n5 1 0:9 / /s rw - resctrl r rw",
                Some("/s"),
            ),
        ] {
            let lines = format!("{ROOT}{lines}\n");
            let found = mounted(&lines).map(|mount| mount.point);
            assert_eq!(found.as_deref(), expected, "{name}");
        }
    }
}
