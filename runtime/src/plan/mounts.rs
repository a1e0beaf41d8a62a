//! The root filesystem as a list of operations, made before any of them is
//! done.
//!
//! ```text
//! mounts, in the order of config.json      ops, before the root is entered
//! devices, symbolic links below /dev
//! -- pivot_root --
//! sysctls
//! read-only root and mounts, paths         finish, as seen from inside
//! ```
//!
//! What is checked here is the text: where a destination lies in words. Where
//! it lies in truth is checked by the child on the descriptor that it opened,
//! because the image decides about links.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::cgroup_mounts::{self, CgroupView};
use super::devices::{self, Device};
use super::mount_options::{Attributes, Options, Propagation, PropagationType};
use super::namespaces::Namespaces;
use super::sysctl;
use super::written_mount::{Written, clean};
use crate::error::{Error, Result};
use crate::spec::{self, IdMapping, NamespaceType, Spec};
use crate::sys::mutation::Defence;

/// Everything about the root filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rootfs {
    /// The root on the host, absolute.
    pub path: PathBuf,
    /// How the root becomes the root.
    pub entry: Entry,
    /// Propagation of all mounts of the new namespace, before anything is
    /// mounted.
    pub propagation: Propagation,
    /// What to make in the root, in order.
    pub ops: Vec<RootfsOp>,
    /// Kernel parameters: paths below /proc/sys and values.
    pub sysctls: Vec<(PathBuf, String)>,
    /// What to close, once the root is entered and the parameters are set.
    pub finish: Vec<FinishOp>,
    /// What was accepted but deserves a word.
    pub warnings: Vec<String>,
    /// Whether the container is in a user namespace, where the kernel locks
    /// attributes of mounts that the host made.
    pub user_namespace: bool,
}

impl Rootfs {
    /// The mounts for which the parent opens something, with their places in
    /// [`ops`](Self::ops): in a user namespace the container may have no access to
    /// the source of a bind, and to idmap takes the host's rights.
    pub fn sources(&self) -> impl Iterator<Item = (usize, &Mount)> {
        let mounts = self.ops.iter().enumerate().filter_map(|(at, op)| match op {
            RootfsOp::Mount(one) => Some((at, one)),
            _ => None,
        });
        mounts.filter(|(_, one)| match &one.what {
            What::Bind { idmap, .. } => self.user_namespace || idmap.is_some(),
            What::Filesystem { idmap, .. } => idmap.is_some(),
            _ => false,
        })
    }

    /// Whether a mount is idmapped.
    #[must_use]
    pub fn has_idmaps(&self) -> bool {
        let mut sources = self.sources();
        sources.any(|(_, one)| {
            let (What::Bind { idmap, .. } | What::Filesystem { idmap, .. }) = &one.what else {
                return false;
            };
            idmap.is_some()
        })
    }
}

/// How the container's root becomes its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// pivot_root(2).
    Pivot,
    /// The root is moved on top of the host's and entered (`--no-pivot`, for
    /// hosts that run from an initial ramdisk).
    Move,
    /// chroot(2), where the container has no mount namespace.
    Chroot,
}

/// One step of making the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootfsOp {
    /// Mount something.
    Mount(Mount),
    /// Make a device node, or check that it is there.
    Device(Device),
    /// Make a symbolic link.
    Symlink(Symlink),
    /// Add attributes to what is mounted at the path.
    Remount {
        /// A mount's root.
        path: PathBuf,
        /// What to add.
        options: Options,
    },
}

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Symlink {
    /// Where.
    pub path: PathBuf,
    /// What it says.
    pub target: PathBuf,
    /// Whether a file that is in the way gives way; otherwise it stays.
    pub replace: bool,
    /// Made only where the host has this file.
    pub only_if: Option<PathBuf>,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Where, absolute inside the root and without `..`.
    pub destination: PathBuf,
    /// What.
    pub what: What,
    /// How.
    pub options: Options,
    /// Which of `mounts` in config.json it comes from.
    pub index: usize,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum What {
    /// A filesystem of its own.
    Filesystem {
        /// Its type.
        fstype: String,
        /// Its device, or a name for /proc/mounts.
        source: String,
        /// Ids as the container sees them.
        #[serde(skip_serializing_if = "Option::is_none")]
        idmap: Option<IdMap>,
    },
    /// A part of the host's tree.
    Bind {
        /// Absolute path on the host.
        source: PathBuf,
        /// With what is mounted below.
        recursive: bool,
        /// Ids as the container sees them.
        idmap: Option<IdMap>,
    },
    /// The container's own cgroup in a v1 hierarchy, bound from the host.
    OwnCgroup {
        /// Its path on the host.
        path: PathBuf,
        /// The caller's, where the container does without one of its own
        /// (rootless).
        fallback: PathBuf,
    },
    /// The unified cgroup hierarchy.
    Cgroup2 {
        /// What to bind where the kernel refuses a fresh mount (in a user
        /// namespace without a cgroup namespace).
        fallback: PathBuf,
        /// Whether a missing `fallback` means an empty read-only directory:
        /// else a writable host hierarchy could shine through a bind of /sys
        /// (CVE-2023-25809).
        mask_if_missing: bool,
    },
}

/// The ids of an idmapped mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IdMap {
    /// Where the mappings come from.
    pub ids: IdSource,
    /// Whether mounts below are mapped too.
    pub recursive: bool,
}

/// Where the mappings of an idmapped mount come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum IdSource {
    /// These mappings.
    Mappings {
        /// User ids.
        uids: Vec<IdMapping>,
        /// Group ids.
        gids: Vec<IdMapping>,
    },
    /// Those of this user namespace.
    Namespace(PathBuf),
}

/// One step after the root was entered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinishOp {
    /// Propagation of the container's root.
    Propagation(Propagation),
    /// Make what is mounted here read-only.
    ReadonlyMount(PathBuf),
    /// Make the path read-only, if it is there.
    ReadonlyPath(PathBuf),
    /// Make the path's content unreadable, if it is there.
    MaskedPath(PathBuf),
}

impl Rootfs {
    /// How many of the operations, from the first on, don't show or use the
    /// container's cgroup: these can be done before the process is in it. A
    /// copied directory is memory that belongs to the cgroup.
    #[must_use]
    pub fn before_cgroup(&self) -> usize {
        let needs_cgroup = |op: &RootfsOp| match op {
            RootfsOp::Mount(mount) => match &mount.what {
                What::Filesystem { fstype, .. } => {
                    mount.options.copy_up || fstype.starts_with("cgroup")
                }
                What::Bind { .. } => false,
                What::OwnCgroup { .. } | What::Cgroup2 { .. } => true,
            },
            RootfsOp::Device(_) | RootfsOp::Symlink(_) | RootfsOp::Remount { .. } => false,
        };
        let first = self.ops.iter().position(needs_cgroup);
        first.unwrap_or(self.ops.len())
    }
}

/// The facts and decisions that the mounts depend on.
#[derive(Debug, Clone, Copy)]
pub struct MountContext<'a> {
    /// The container's namespaces.
    pub namespaces: &'a Namespaces,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// Whether rrun may not manage cgroups (rootless).
    pub rootless: bool,
    /// The host's cgroup hierarchies, and where the container is in them.
    pub cgroups: &'a CgroupView,
    /// The mount option that carries `linux.mountLabel`.
    pub label_option: &'static str,
}

impl MountContext<'_> {
    pub(super) fn user_namespace(&self) -> bool {
        self.namespaces.contains(NamespaceType::User)
    }
}

/// Decides about the root and all that is mounted, made and masked in it.
///
/// # Errors
/// Invalid values, with their JSON path.
pub fn rootfs(spec: &Spec, bundle: &Path, context: &MountContext<'_>) -> Result<Rootfs> {
    let none = spec::Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&none);
    let root = spec
        .root
        .as_ref()
        .ok_or_else(|| Error::config("root", "is missing"))?;
    if root.path.is_empty() {
        return Err(Error::config("root.path", "is empty"));
    }
    let asked = propagation(linux)?;
    let entry = entry(context, asked)?;
    let mut planned = Rootfs {
        path: clean(&bundle.join(&root.path)),
        entry,
        propagation: asked.unwrap_or(Propagation {
            kind: PropagationType::Slave,
            recursive: true,
        }),
        ops: Vec::new(),
        sysctls: sysctl::plan(&linux.sysctl, context.namespaces)?,
        finish: Vec::new(),
        warnings: Vec::new(),
        user_namespace: context.user_namespace(),
    };
    if entry == Entry::Chroot {
        planned.refuse_mounts(spec, linux)?;
        return Ok(planned);
    }
    // A private root came to be before anything was mounted.
    if let Some(asked) = asked.filter(|asked| asked.kind != PropagationType::Private) {
        planned.finish.push(FinishOp::Propagation(asked));
    }
    let mut own_dev = true;
    for (index, written) in spec.mounts.iter().enumerate() {
        let written = Written {
            document: "config.json",
            index,
            mount: written,
            bundle,
            linux,
            context,
        };
        let mount = written.plan(&mut planned.warnings)?;
        if mount.destination == Path::new("/dev") && matches!(mount.what, What::Bind { .. }) {
            own_dev = false;
        }
        planned.add(mount, context);
    }
    // A /dev that is the host's is the host's business.
    if own_dev {
        planned
            .ops
            .extend(devices::plan(&linux.devices, context.user_namespace())?);
    }
    planned.close(root.readonly, linux)?;
    Ok(planned)
}

impl Rootfs {
    /// Adds the operations that a mount comes to.
    fn add(&mut self, mut mount: Mount, context: &MountContext<'_>) {
        match &mount.what {
            What::Filesystem { fstype, .. } if fstype == "cgroup" || fstype == "cgroup2" => {
                // What is mounted for it has nothing below, and is dressed by these.
                mount.options.attributes = mount.options.of_mount();
                mount.options.recursive = Attributes::default();
                if Defence::ReadonlyCgroups.is_out() {
                    mount.options.attributes.set &= !Attributes::RDONLY;
                }
                let unified_only = context.cgroups.v1.is_empty();
                if fstype == "cgroup2" || unified_only {
                    self.ops
                        .push(cgroup_mounts::unified(mount, context.cgroups, context));
                } else {
                    self.ops.extend(cgroup_mounts::per_controller(
                        &mount,
                        context.cgroups,
                        context,
                    ));
                }
            }
            What::Filesystem { fstype, .. }
                if mount.options.attributes.read_only()
                    && (fstype == "tmpfs" || mount.destination == Path::new("/dev")) =>
            {
                // Writable until mount points, devices and links are made in it.
                mount.options.attributes.set &= !Attributes::RDONLY;
                self.finish
                    .push(FinishOp::ReadonlyMount(mount.destination.clone()));
                self.ops.push(RootfsOp::Mount(mount));
            }
            _ => self.ops.push(RootfsOp::Mount(mount)),
        }
    }

    /// What is closed at the end.
    fn close(&mut self, readonly: bool, linux: &spec::Linux) -> Result<()> {
        if readonly {
            self.finish.push(FinishOp::ReadonlyMount("/".into()));
        }
        for (name, paths) in [
            ("readonlyPaths", &linux.readonly_paths),
            ("maskedPaths", &linux.masked_paths),
        ] {
            for (index, path) in paths.iter().enumerate() {
                let path = Path::new(path);
                if !path.is_absolute() {
                    return Err(Error::config(
                        format!("linux.{name}[{index}]"),
                        format!("{path:?} is not absolute"),
                    ));
                }
                let path = clean(path);
                self.finish.push(if name == "maskedPaths" {
                    FinishOp::MaskedPath(path)
                } else {
                    FinishOp::ReadonlyPath(path)
                });
            }
        }
        Ok(())
    }

    /// Without a mount namespace every mount would be the host's.
    fn refuse_mounts(&self, spec: &Spec, linux: &spec::Linux) -> Result<()> {
        for (path, used) in [
            ("mounts", !spec.mounts.is_empty()),
            ("linux.maskedPaths", !linux.masked_paths.is_empty()),
            ("linux.readonlyPaths", !linux.readonly_paths.is_empty()),
            (
                "root.readonly",
                spec.root.as_ref().is_some_and(|root| root.readonly),
            ),
        ] {
            if used {
                return Err(Error::config(
                    path,
                    "needs a mount namespace in linux.namespaces",
                ));
            }
        }
        Ok(())
    }
}

/// `linux.rootfsPropagation`.
fn propagation(linux: &spec::Linux) -> Result<Option<Propagation>> {
    match linux.rootfs_propagation.as_deref() {
        None | Some("") => Ok(None),
        Some(name) => Propagation::from_name(name).map(Some).ok_or_else(|| {
            Error::config(
                "linux.rootfsPropagation",
                format!("{name:?} is no propagation type"),
            )
        }),
    }
}

fn entry(context: &MountContext<'_>, propagation: Option<Propagation>) -> Result<Entry> {
    if !context.namespaces.contains(NamespaceType::Mount) {
        return Ok(Entry::Chroot);
    }
    if !context.no_pivot {
        return Ok(Entry::Pivot);
    }
    if propagation.is_some_and(|asked| asked.kind == PropagationType::Private) {
        return Err(Error::config(
            "linux.rootfsPropagation",
            "private is not safe without pivot_root",
        ));
    }
    Ok(Entry::Move)
}

impl Mount {
    /// The phrase in front of an error of this mount.
    #[must_use]
    pub fn phrase(&self) -> String {
        let source = match &self.what {
            What::Filesystem { source, .. } => Path::new(source),
            What::Bind { source, .. } | What::OwnCgroup { path: source, .. } => source,
            What::Cgroup2 { .. } => Path::new("cgroup2"),
        };
        format!("mount {source:?} on {:?}", self.destination)
    }
}

/// One line of `rrun plan`.
impl fmt::Display for RootfsOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RootfsOp::Mount(mount) => mount.fmt(f),
            RootfsOp::Device(device) => device.fmt(f),
            RootfsOp::Symlink(link) => {
                write!(
                    f,
                    "link {} -> {}",
                    link.path.display(),
                    link.target.display()
                )?;
                match &link.only_if {
                    Some(file) => write!(f, " (if {} exists)", file.display()),
                    None => Ok(()),
                }
            }
            RootfsOp::Remount { path, options } => {
                write!(f, "remount {} ({options})", path.display())
            }
        }
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.destination.display();
        match &self.what {
            What::Filesystem { fstype, source, .. } if fstype == source => {
                write!(f, "mount {fstype} on {to}")?;
            }
            What::Filesystem { fstype, source, .. } => {
                write!(f, "mount {fstype} {source} on {to}")?;
            }
            What::Bind { source, .. } | What::OwnCgroup { path: source, .. } => {
                write!(f, "bind {} on {to}", source.display())?;
            }
            What::Cgroup2 { .. } => write!(f, "mount cgroup2 on {to}")?,
        }
        let options = self.options.to_string();
        if options.is_empty() {
            Ok(())
        } else {
            write!(f, " ({options})")
        }
    }
}

/// One line of `rrun plan`.
impl fmt::Display for FinishOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FinishOp::Propagation(propagation) => write!(f, "propagation of / {propagation}"),
            FinishOp::ReadonlyMount(path) => write!(f, "remount {} (ro)", path.display()),
            FinishOp::ReadonlyPath(path) => write!(f, "read-only {}", path.display()),
            FinishOp::MaskedPath(path) => write!(f, "mask {}", path.display()),
        }
    }
}
