//! Which cgroup hierarchies are mounted where, and where in them we are.
//!
//! The kernel's word on both is text: `/proc/self/mountinfo` and
//! `/proc/self/cgroup`. A folder that happens to exist under `/sys/fs/cgroup`
//! says nothing: only mounts count, of them only those that can be reached
//! (another mount may lie on top), and controllers may share one
//! (`cpu,cpuacct`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::error::{Context, Result};
use crate::mountinfo::{self, Mount};
use crate::sys;

/// Where the cgroup filesystems are by convention (cgroups(7)).
const CONVENTION: &str = "/sys/fs/cgroup";

/// The host's cgroup hierarchies, as plain data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// The mounted v1 hierarchies, in the order of their mounts.
    pub v1: Vec<Hierarchy>,
    /// The mounted v2 hierarchy.
    pub v2: Option<Hierarchy>,
    /// The controllers that the top of the v2 mount offers
    /// (`cgroup.controllers`); not read where v1 has the controllers.
    pub v2_controllers: Vec<String>,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchy {
    /// v1: what is attached to it, such as `cpu`, `cpuacct` or `name=systemd`.
    /// Empty for v2.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The cgroup that the mount has on top, as a path in the hierarchy; `/`
    /// unless only a part of it is mounted.
    pub root: String,
    /// Our own cgroup, as a path below the mount without a leading slash;
    /// empty for the mount itself.
    pub own: String,
}

/// Which versions a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only v1.
    V1,
    /// Only v2.
    V2,
    /// v1 for the controllers, and a v2 mount beside them.
    Hybrid,
    /// Neither is mounted.
    None,
}

impl Hierarchies {
    /// Reads this host's.
    ///
    /// Where `/sys/fs/cgroup` is itself the v2 mount, the list of mounts (long
    /// on a busy host) is not read. The files are the calling thread's: it may
    /// be the only one in its mount namespace (a test's).
    ///
    /// # Errors
    /// `/proc` can't be read.
    pub fn read() -> Result<Self> {
        let doing = || "find the cgroup hierarchies";
        let own = Path::new("/proc/thread-self/cgroup");
        let own = sys::file::read_pseudo(own).context(doing)?;
        let pure_v2 =
            statfs(CONVENTION).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
        let mut found = if pure_v2 {
            let own = OwnPaths::parse(&own);
            Self {
                v2: Some(own.hierarchy(Vec::new(), "/", PathBuf::from(CONVENTION))),
                ..Self::default()
            }
        } else {
            let mountinfo = Path::new("/proc/thread-self/mountinfo");
            let mountinfo = sys::file::read_pseudo_bytes(mountinfo).context(doing)?;
            Self::parse(&mountinfo, &own)
        };
        if found.mode() == Mode::V2
            && let Some(v2) = &found.v2
        {
            // A mount of a sub-tree that we may not read offers nothing.
            let offered = std::fs::read_to_string(v2.mount.join("cgroup.controllers"));
            found.v2_controllers = offered
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect();
        }
        Ok(found)
    }

    /// Reads the text of `/proc/self/mountinfo` and `/proc/self/cgroup`.
    #[must_use]
    pub fn parse(mountinfo: impl AsRef<[u8]>, own: &str) -> Self {
        let own = OwnPaths::parse(own);
        let mountinfo = mountinfo::text(mountinfo.as_ref());
        let mounts = Mount::list(&mountinfo);
        let mut found = Self::default();
        for mount in mounts.iter().filter(|mount| is_cgroup(mount)) {
            if !mount.is_reachable(&mounts) {
                continue;
            }
            let hierarchy = own.hierarchy(
                controllers(mount),
                &mount.root,
                PathBuf::from(&*mount.point),
            );
            if mount.filesystem == "cgroup2" {
                prefer(&mut found.v2, hierarchy);
                continue;
            }
            let same = found
                .v1
                .iter_mut()
                .find(|other| other.controllers == hierarchy.controllers);
            match same {
                Some(other) if !other.is_conventional() => *other = hierarchy,
                Some(_) => {}
                None => found.v1.push(hierarchy),
            }
        }
        found
    }

    /// Which versions are mounted.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match (self.v1.is_empty(), self.v2.is_some()) {
            (false, false) => Mode::V1,
            (true, true) => Mode::V2,
            (false, true) => Mode::Hybrid,
            (true, false) => Mode::None,
        }
    }

    /// Whether a cgroup can get limits of `controller`.
    #[must_use]
    pub fn offers(&self, controller: &str) -> bool {
        if self.mode() == Mode::V2 {
            return self.v2_controllers.iter().any(|name| name == controller);
        }
        self.v1
            .iter()
            .any(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
    }
}

impl Hierarchy {
    /// The directory of a process's cgroup, of which `membership` is the text
    /// of `/proc/PID/cgroup`. Nothing if that is the top of the mount, which no
    /// container is given, or lies outside of it.
    #[must_use]
    pub fn directory(&self, membership: &str) -> Option<PathBuf> {
        OwnPaths::parse(membership)
            .below(&self.controllers, &self.root)
            .filter(|below| !below.is_empty())
            .map(|below| self.mount.join(below))
    }

    /// Whether it is mounted where people and engines look for it.
    fn is_conventional(&self) -> bool {
        self.mount.starts_with(CONVENTION)
    }
}

/// Of two mounts of one hierarchy the first at the usual place is taken.
fn prefer(chosen: &mut Option<Hierarchy>, candidate: Hierarchy) {
    if !chosen.as_ref().is_some_and(Hierarchy::is_conventional) {
        *chosen = Some(candidate);
    }
}

/// Our cgroup in each hierarchy, by the hierarchy's first controller.
struct OwnPaths<'text> {
    /// The key of v2 is empty.
    paths: BTreeMap<&'text str, &'text str>,
}

impl<'text> OwnPaths<'text> {
    /// Reads lines of `ID:CONTROLLER,CONTROLLER:PATH`; the path may contain
    /// colons.
    fn parse(text: &'text str) -> Self {
        let mut paths = BTreeMap::new();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            for controller in controllers.split(',') {
                paths.insert(controller, path);
            }
        }
        Self { paths }
    }

    /// The cgroup in the hierarchy of `controllers` as a path below `root`;
    /// nothing if it lies elsewhere.
    fn below(&self, controllers: &[String], root: &str) -> Option<&'text str> {
        let key = controllers.first().map_or("", String::as_str);
        Path::new(self.paths.get(key).copied().unwrap_or("/"))
            .strip_prefix(root)
            .ok()
            .and_then(Path::to_str)
            .filter(|below| !below.split('/').any(|part| part == ".."))
    }

    /// The hierarchy mounted at `mount` with `root` of it on top, and where we
    /// are below that.
    fn hierarchy(&self, controllers: Vec<String>, root: &str, mount: PathBuf) -> Hierarchy {
        // A path outside of what is mounted can't be reached through it: the
        // mount itself is then the nearest we get.
        let own = self.below(&controllers, root).unwrap_or("").to_owned();
        Hierarchy {
            controllers,
            mount,
            root: root.to_owned(),
            own,
        }
    }
}

/// Whether it is a mount of a hierarchy.
fn is_cgroup(mount: &Mount<'_>) -> bool {
    matches!(mount.filesystem, "cgroup" | "cgroup2")
}

/// What is attached to a v1 hierarchy: options that are neither mount
/// flags nor flags of the hierarchy (cgroup1_show_options in the kernel).
fn controllers(mount: &Mount<'_>) -> Vec<String> {
    const FLAGS: [&str; 8] = [
        "rw",
        "ro",
        "noprefix",
        "clone_children",
        "xattr",
        "cpuset_v2_mode",
        "favordynmods",
        "none",
    ];
    if mount.filesystem == "cgroup2" {
        return Vec::new();
    }
    mount
        .super_options
        .split(',')
        .filter(|option| {
            option.starts_with("name=") || !(FLAGS.contains(option) || option.contains('='))
        })
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(found: &Hierarchies) -> String {
        found
            .v1
            .iter()
            .map(|h| {
                format!(
                    "{}@{}+{}",
                    h.controllers.join(","),
                    h.mount.display(),
                    h.own
                )
            })
            .chain(
                found
                    .v2
                    .iter()
                    .map(|h| format!("v2@{}+{}", h.mount.display(), h.own)),
            )
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn mounts_become_hierarchies() {
        const ROOT: &str =
            "1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / /sys rw - sysfs sysfs rw\n";
        const TMPFS: &str = "3 2 0:6 / /sys/fs/cgroup ro shared:4 - tmpfs tmpfs rw,mode=755\n";
        for (name, mounts, own, mode, expected) in [
            (
                "nothing mounted",
                "3 2 0:6 / /sys/fs/cgroup ro - tmpfs tmpfs rw",
                "0::/\n",
                Mode::None,
                "",
            ),
            (
                "v1 with controllers that share a mount",
                &*format!(
                    "{TMPFS}4 3 0:7 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct\n\
                 5 3 0:8 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd"
                ),
                "2:cpu,cpuacct:/a\n1:name=systemd:/user.slice/a:b\n",
                Mode::V1,
                "cpu,cpuacct@/sys/fs/cgroup/cpu,cpuacct+a name=systemd@/sys/fs/cgroup/systemd+user.slice/a:b",
            ),
            (
                "hybrid",
                &*format!(
                    "{TMPFS}4 3 0:7 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                 5 3 0:8 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate"
                ),
                "4:memory:/\n0::/x\n",
                Mode::Hybrid,
                "memory@/sys/fs/cgroup/memory+ v2@/sys/fs/cgroup/unified+x",
            ),
            (
                "v2",
                "3 2 0:6 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate",
                "0::/user.slice/s.scope\n",
                Mode::V2,
                "v2@/sys/fs/cgroup+user.slice/s.scope",
            ),
            (
                "a part of the hierarchy is mounted, and we are in it",
                "3 2 0:6 /docker/c /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
                "0::/docker/c/sub\n",
                Mode::V2,
                "v2@/sys/fs/cgroup+sub",
            ),
            (
                "a part of the hierarchy is mounted, and we are not in it",
                "3 2 0:6 /docker/c /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
                "0::/\n",
                Mode::V2,
                "v2@/sys/fs/cgroup+",
            ),
            (
                "outside of the cgroup namespace",
                "3 2 0:6 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
                "0::/../other\n",
                Mode::V2,
                "v2@/sys/fs/cgroup+",
            ),
            (
                "v2 mounted over the v1 tree",
                &*format!(
                    "{TMPFS}4 3 0:7 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                 9 3 0:9 / /sys/fs/cgroup rw - cgroup2 none rw"
                ),
                "4:memory:/\n0::/\n",
                Mode::V2,
                "v2@/sys/fs/cgroup+",
            ),
            (
                "v1 bound into a tmpfs over the hybrid tree",
                &*format!(
                    "{TMPFS}4 3 0:7 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                 5 3 0:8 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                 6 3 0:9 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                 7 6 0:7 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
                ),
                "4:memory:/\n0::/\n",
                Mode::V1,
                "memory@/sys/fs/cgroup/memory+",
            ),
            (
                "a second mount elsewhere, the usual place wins",
                "3 1 0:6 / /mnt/a\\040b rw - cgroup2 cgroup2 rw\n4 2 0:6 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
                "0::/\n",
                Mode::V2,
                "v2@/sys/fs/cgroup+",
            ),
            (
                "mounted with a space in its path",
                "3 1 0:6 / /mnt/a\\040b rw - cgroup2 cgroup2 rw",
                "0::/\n",
                Mode::V2,
                "v2@/mnt/a b+",
            ),
        ] {
            let found = Hierarchies::parse(format!("{ROOT}{mounts}\n"), own);
            assert_eq!(show(&found), expected, "{name}");
            assert_eq!(found.mode(), mode, "{name}");
        }
    }

    #[test]
    fn a_mount_whose_name_is_no_text_hides_and_replaces_nothing() {
        const V2: &[u8] = b"3 1 0:6 / /c rw - cgroup2 cgroup2 rw\n";
        for (name, line, expected) in [
            (
                "another filesystem",
                &b"4 1 0:7 / /m\xff rw - tmpfs x\xff rw\n"[..],
                "v2@/c+",
            ),
            (
                "the same one",
                b"4 1 0:6 / /sys/fs/cgroup/\xff rw - cgroup2 cgroup2 rw\n",
                "v2@/c+",
            ),
            ("over it", b"4 3 0:7 / /c rw - tmpfs \xff rw\n", ""),
        ] {
            let found = Hierarchies::parse([V2, line].concat(), "0::/\n");
            assert_eq!(show(&found), expected, "{name}");
        }
    }

    #[test]
    fn this_host_has_the_hierarchies_that_it_reports() {
        let found = Hierarchies::read().unwrap();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        for hierarchy in found.v1.iter().chain(&found.v2) {
            let procs = hierarchy.mount.join(&hierarchy.own).join("cgroup.procs");
            assert!(procs.exists(), "{procs:?} of {own}");
        }
    }
}
