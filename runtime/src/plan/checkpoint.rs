//! What of a container is not part of its images: mounts that come from the
//! host, and namespaces that it joined.
//!
//! A dump writes names for them, a restore says what takes the place of a name.
//! The names are runc's (a mount's destination, `/dev/null` for what is masked,
//! `extRootNetNS`), so that images of one runtime are restored by the other.

use std::path::{Path, PathBuf};

use super::mounts::{FinishOp, Rootfs, RootfsOp, What};
use super::namespaces::{Join, Namespaces};
use crate::spec::NamespaceType;

/// A mount that comes from the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalMount {
    /// Its destination as config.json has it, which is its name.
    pub name: PathBuf,
    /// What is mounted there, on the host.
    pub source: PathBuf,
}

/// What masked files are covered with, and their name in images.
pub const MASK: &str = "/dev/null";

/// The mounts from the host, in the order in which they are made. Those below
/// one of another filesystem find their mount point in the images; the others
/// need one in the root filesystem.
#[must_use]
pub fn external_mounts(rootfs: &Rootfs) -> Vec<ExternalMount> {
    let mut mounts = Vec::new();
    let mut add = |name: &Path, source: &Path| {
        mounts.push(ExternalMount {
            name: name.to_owned(),
            source: source.to_owned(),
        });
    };
    for op in &rootfs.ops {
        match op {
            RootfsOp::Mount(mount) => match &mount.what {
                What::Bind { source, .. } => add(&mount.destination, source),
                What::OwnCgroup { path, .. } => add(&mount.destination, path),
                What::Filesystem { .. } | What::Cgroup2 { .. } => {}
            },
            RootfsOp::Device(device) if device.bind => add(&device.path, &device.path),
            _ => {}
        }
    }
    mounts
}

/// The mounts among [`external_mounts`] whose mount point is in the root
/// filesystem itself.
#[must_use]
pub fn on_the_root(rootfs: &Rootfs) -> Vec<ExternalMount> {
    let destinations = rootfs.ops.iter().filter_map(|op| match op {
        RootfsOp::Mount(mount) => Some(mount.destination.as_path()),
        _ => None,
    });
    let destinations: Vec<&Path> = destinations.collect();
    let is_below = |name: &Path, other: &Path| name != other && name.starts_with(other);
    let mut mounts = external_mounts(rootfs);
    mounts.retain(|mount| {
        !destinations
            .iter()
            .any(|other| is_below(&mount.name, other))
    });
    mounts
}

/// The paths that are masked, if they are there.
pub fn masked_paths(rootfs: &Rootfs) -> impl Iterator<Item = &Path> {
    rootfs.finish.iter().filter_map(|op| match op {
        FinishOp::MaskedPath(path) => Some(path.as_path()),
        _ => None,
    })
}

/// The name in images of a joined namespace that is restored by a descriptor;
/// those of other types are joined by their path.
#[must_use]
pub fn inherited_name(kind: NamespaceType) -> Option<&'static str> {
    match kind {
        NamespaceType::Network => Some("extRootNetNS"),
        NamespaceType::Pid => Some("extRootPidNS"),
        _ => None,
    }
}

/// The joined namespaces that are restored by a descriptor, with their names.
pub fn inherited(namespaces: &Namespaces) -> impl Iterator<Item = (&Join, &'static str)> {
    namespaces
        .join
        .iter()
        .filter_map(|join| Some((join, inherited_name(join.kind)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use crate::plan::Plan;
    use crate::plan::cgroup::Manager;
    use crate::plan::container::Request;
    use crate::spec::Spec;
    use serde_json::json;

    fn rootfs(mounts: &serde_json::Value) -> Rootfs {
        let config = json!({
            "ociVersion": "1.0.0",
            "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["true"]},
            "mounts": mounts,
            "linux": {
                "namespaces": [{"type": "mount"}, {"type": "pid"}],
                "maskedPaths": ["/proc/kcore", "/sys/firmware"],
            },
        });
        let spec = Spec::parse(config.to_string().as_bytes()).unwrap();
        let request = Request {
            id: "c",
            bundle: Path::new("/b"),
            no_pivot: false,
            no_new_keyring: false,
            manager: Manager::Disabled,
            listen_fds: 0,
            notify: None,
        };
        Plan::new(&spec, &request, &Host::default()).unwrap().rootfs
    }

    #[test]
    fn what_comes_from_the_host_is_named() {
        let rootfs = rootfs(&json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind"]},
            {"destination": "/data/deep", "source": "deep", "options": ["bind"]},
            {"destination": "/dev/log", "source": "/run/log", "options": ["bind"]},
        ]));
        let names = |mounts: Vec<ExternalMount>| {
            let pairs = mounts
                .into_iter()
                .map(|mount| format!("{} <- {}", mount.name.display(), mount.source.display()));
            pairs.collect::<Vec<_>>()
        };
        assert_eq!(
            names(external_mounts(&rootfs)),
            [
                "/data <- /srv",
                "/data/deep <- /b/deep",
                "/dev/log <- /run/log"
            ]
        );
        assert_eq!(names(on_the_root(&rootfs)), ["/data <- /srv"]);
        assert_eq!(
            masked_paths(&rootfs).collect::<Vec<_>>(),
            [Path::new("/proc/kcore"), Path::new("/sys/firmware")]
        );
    }
}
