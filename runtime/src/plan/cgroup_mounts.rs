//! `cgroup` mounts: what a container sees below /sys/fs/cgroup.
//!
//! The specification knows one mount; what it comes to depends on the host.
//! With the unified hierarchy alone it is cgroup2. With v1 controllers (also
//! beside a unified hierarchy, as in runc) it is a tmpfs with a directory for
//! each: a fresh cgroup mount where the container has a cgroup namespace,
//! else a bind of the container's own cgroup, which looks the same.

use std::path::PathBuf;

use super::mount_options::{Attributes, Options};
use super::mounts::{Mount, MountContext, RootfsOp, Symlink, What};
use crate::spec::NamespaceType;

/// The host's cgroup hierarchies as the container will see them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupView {
    /// The v1 hierarchies; none on a unified host.
    pub v1: Vec<Hierarchy>,
    /// Where the unified hierarchy is mounted on the host.
    pub unified: Option<PathBuf>,
    /// The container's own cgroup in it, as a path on the host.
    pub unified_own: Option<PathBuf>,
}

/// A v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// The last part of its mount point: `memory`, `cpu,cpuacct`, `systemd`.
    pub name: String,
    /// What to mount it by: `memory`, `cpu,cpuacct`, `name=systemd`.
    pub data: String,
    /// The container's own cgroup in it, as a path on the host.
    pub own: PathBuf,
    /// That of whoever runs rrun.
    pub callers: PathBuf,
}

/// The mount of the unified hierarchy.
pub(super) fn unified(mount: Mount, cgroups: &CgroupView, context: &MountContext<'_>) -> RootfsOp {
    let whole = cgroups
        .unified
        .clone()
        .unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup"));
    // A bind of the own cgroup looks as in a cgroup namespace.
    let fallback = if context.namespaces.contains(NamespaceType::Cgroup) {
        cgroups.unified_own.clone().unwrap_or(whole)
    } else {
        whole
    };
    RootfsOp::Mount(Mount {
        what: What::Cgroup2 {
            fallback,
            mask_if_missing: context.rootless,
        },
        ..mount
    })
}

/// The tmpfs with a directory for each v1 hierarchy, and links from the
/// controllers that share one.
pub(super) fn per_controller(
    mount: &Mount,
    cgroups: &CgroupView,
    context: &MountContext<'_>,
) -> Vec<RootfsOp> {
    let read_only = mount.options.attributes.read_only();
    let mut ops = vec![RootfsOp::Mount(Mount {
        what: filesystem("tmpfs", "tmpfs"),
        options: Options {
            attributes: attributes(Attributes::NO_SUID_DEV_EXEC),
            propagation: mount.options.propagation.clone(),
            data: vec![("mode".to_owned(), Some("755".to_owned()))],
            ..Options::default()
        },
        ..mount.clone()
    })];
    let fresh = context.namespaces.contains(NamespaceType::Cgroup);
    for hierarchy in &cgroups.v1 {
        ops.push(RootfsOp::Mount(hierarchy.mount(mount, fresh)));
    }
    for hierarchy in &cgroups.v1 {
        let shared = hierarchy
            .name
            .split(',')
            .filter(|_| hierarchy.name.contains(','));
        for controller in shared {
            ops.push(RootfsOp::Symlink(Symlink {
                path: mount.destination.join(controller),
                target: PathBuf::from(&hierarchy.name),
                replace: false,
                only_if: None,
            }));
        }
    }
    if read_only {
        ops.push(RootfsOp::Remount {
            path: mount.destination.clone(),
            options: Options {
                attributes: attributes(Attributes::RDONLY),
                ..Options::default()
            },
        });
    }
    ops
}

impl Hierarchy {
    fn mount(&self, mount: &Mount, fresh: bool) -> Mount {
        let destination = mount.destination.join(&self.name);
        if !fresh {
            return Mount {
                destination,
                what: What::OwnCgroup {
                    path: self.own.clone(),
                    fallback: self.callers.clone(),
                },
                options: Options {
                    bind: Some(true),
                    ..mount.options.clone()
                },
                index: mount.index,
            };
        }
        let source = self.data.strip_prefix("name=").unwrap_or("cgroup");
        let ro = mount.options.attributes.set & Attributes::RDONLY;
        Mount {
            destination,
            what: filesystem("cgroup", source),
            options: Options {
                attributes: attributes(Attributes::NO_SUID_DEV_EXEC | ro),
                propagation: mount.options.propagation.clone(),
                data: self
                    .data
                    .split(',')
                    .map(|word| match word.split_once('=') {
                        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                        None => (word.to_owned(), None),
                    })
                    .collect(),
                ..Options::default()
            },
            index: mount.index,
        }
    }
}

fn attributes(set: u64) -> Attributes {
    Attributes { set, clear: 0 }
}

fn filesystem(fstype: &str, source: &str) -> What {
    What::Filesystem {
        fstype: fstype.to_owned(),
        source: source.to_owned(),
        idmap: None,
    }
}
