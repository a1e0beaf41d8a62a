//! What of a container is not part of its images: mounts that come from the
//! host, and namespaces that it joined.
//!
//! A dump writes names for them, a restore says what takes the place of a name.
//! The names are runc's (a mount's destination, `/dev/null` for what is masked,
//! `extRootNetNS`), so that images of one runtime are restored by the other.

use std::path::{Path, PathBuf};

use super::mount_options::{Options, Symlinks};
use super::mounts::{FinishOp, Mount, Rootfs, RootfsOp, What};
use super::namespaces::{Join, Namespaces};
use crate::error::{Error, Kind, Result};
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

/// The mounts from the host, in the order in which they are made.
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

/// What a mount needs in the root filesystem before criu mounts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A directory, for a filesystem of its own.
    Directory(PathBuf),
    /// A mount point like its source, with the source bound on it while the
    /// places below are made: they are then made in the source.
    Bound(Box<Mount>),
}

/// The places that are not in the images, in the order of the mounts: those
/// below a filesystem that criu fills come with its content.
#[must_use]
pub fn places(rootfs: &Rootfs) -> Vec<Place> {
    let mut places = Vec::new();
    // Where mounts are so far, and whether places are made in them.
    let mut seen: Vec<(&Path, bool)> = Vec::new();
    for op in &rootfs.ops {
        let (path, bound) = match op {
            RootfsOp::Mount(mount) => (&mount.destination, bound(mount)),
            RootfsOp::Device(device) if device.bind => {
                let symlinks = Symlinks::default();
                (
                    &device.path,
                    Some(bind(&device.path, &device.path, symlinks)),
                )
            }
            _ => continue,
        };
        let is_below = |(other, _): &&(&Path, bool)| path != other && path.starts_with(other);
        // The deepest one, and of several in one place the last.
        let on = seen.iter().filter(is_below);
        let on = on.max_by_key(|(other, _)| other.components().count());
        let made = on.is_none_or(|(_, made)| *made);
        seen.push((path, made && bound.is_some()));
        if made && path.parent().is_some() {
            places.push(match bound {
                Some(mount) => Place::Bound(Box::new(mount)),
                None => Place::Directory(path.clone()),
            });
        }
    }
    places
}

/// The bind by which places in the source of `mount` are made.
fn bound(mount: &Mount) -> Option<Mount> {
    match &mount.what {
        What::Bind { source, .. } => Some(bind(&mount.destination, source, mount.options.symlinks)),
        _ => None,
    }
}

fn bind(destination: &Path, source: &Path, symlinks: Symlinks) -> Mount {
    Mount {
        destination: destination.to_owned(),
        what: What::Bind {
            source: source.to_owned(),
            recursive: true,
            idmap: None,
        },
        options: Options {
            symlinks,
            ..Options::default()
        },
        index: 0,
    }
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

/// The other joined namespaces, each with its name below `/proc/PID/ns`.
///
/// # Errors
/// A cgroup namespace, which criu can't join.
pub fn joined(namespaces: &Namespaces) -> Result<Vec<(&'static str, &Path)>> {
    let others = namespaces
        .join
        .iter()
        .filter(|join| inherited_name(join.kind).is_none());
    others
        .map(|join| match join.kind {
            NamespaceType::Cgroup => {
                let text = "criu can't restore into a joined cgroup namespace";
                Err(Error::new(
                    Kind::Unsupported,
                    format!("join {:?}: {text}", join.path),
                ))
            }
            kind => Ok((kind.file(), join.path.as_path())),
        })
        .collect()
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
        assert_eq!(
            masked_paths(&rootfs).collect::<Vec<_>>(),
            [Path::new("/proc/kcore"), Path::new("/sys/firmware")]
        );
    }

    #[test]
    fn a_place_is_made_unless_criu_restores_what_it_is_in() {
        let rootfs = rootfs(&json!([
            {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
            {"destination": "/sys/deep", "source": "/srv", "options": ["bind"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"},
            {"destination": "/dev/log", "source": "/run/log", "options": ["bind"]},
            {"destination": "/data", "source": "/srv", "options": ["bind", "ro"]},
            {"destination": "/data/bound", "source": "/run", "options": ["bind"]},
            {"destination": "/data/memory", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/data/memory/deep", "source": "/run", "options": ["bind"]},
            {"destination": "/database", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/data", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/data/hidden", "source": "/run", "options": ["bind"]},
        ]));
        let places: Vec<String> = places(&rootfs)
            .iter()
            .map(|place| match place {
                Place::Directory(path) => path.display().to_string(),
                Place::Bound(mount) => mount.phrase(),
            })
            .collect();
        assert_eq!(
            places,
            [
                "/sys",
                "/dev",
                "mount \"/srv\" on \"/data\"",
                "mount \"/run\" on \"/data/bound\"",
                "/data/memory",
                "/database",
                "/data",
            ]
        );
    }

    #[test]
    fn joined_namespaces_have_the_names_of_their_files() {
        let join = |kind| Join {
            kind,
            path: PathBuf::from("/ns"),
        };
        let joining = |kinds: &[NamespaceType]| Namespaces {
            join: kinds.iter().copied().map(join).collect(),
            ..Namespaces::default()
        };
        let kinds = [
            NamespaceType::Pid,
            NamespaceType::Network,
            NamespaceType::Mount,
            NamespaceType::Ipc,
            NamespaceType::Time,
        ];
        let namespaces = joining(&kinds);
        let names: Vec<&str> = joined(&namespaces)
            .unwrap()
            .iter()
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(names, ["mnt", "ipc", "time"]);
        let error = joined(&joining(&[NamespaceType::Cgroup])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "join \"/ns\": criu can't restore into a joined cgroup namespace"
        );
    }
}
