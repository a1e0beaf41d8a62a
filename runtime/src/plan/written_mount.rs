//! One of `mounts` as it is written, and what it asks for.
//!
//! Engines write bind mounts in three ways (`type` bind, `none` or nothing,
//! with `bind` or `rbind` among the options); here they become one.

use std::path::{Component, Path, PathBuf};

use super::idmap_text;
use super::mount_options::{Options, Symlinks};
use super::mounts::{IdMap, IdSource, Mount, MountContext, What};
use crate::error::{Error, Kind, Result};
use crate::spec::{self, NamespaceType};
use crate::sys::mutation::Defence;

/// Files below /proc that lxcfs and its like may cover (D.2.1).
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// One of `mounts`, with all that its meaning depends on.
pub(super) struct Written<'a> {
    /// The document that it is in, for messages.
    pub(super) document: &'a str,
    /// Its place in `mounts`.
    pub(super) index: usize,
    /// It.
    pub(super) mount: &'a spec::Mount,
    /// The bundle, where relative sources begin.
    pub(super) bundle: &'a Path,
    /// For the label and the container's id mappings.
    pub(super) linux: &'a spec::Linux,
    /// For the container's user namespace.
    pub(super) context: &'a MountContext<'a>,
}

impl Written<'_> {
    /// What is to be mounted; what deserves a word goes to `warnings`.
    ///
    /// # Errors
    /// Invalid values, with their JSON path.
    pub(super) fn plan(&self, warnings: &mut Vec<String>) -> Result<Mount> {
        let destination = self.destination(warnings)?;
        let mut options = Options::parse(&self.mount.options);
        let what = self.what(&options)?;
        check_procfs(&destination, &what).map_err(|cause| self.error("destination", cause))?;
        let tmpfs = matches!(&what, What::Filesystem { fstype, .. } if fstype == "tmpfs");
        if options.copy_up && !tmpfs {
            return Err(self.error("options", "tmpcopyup is only for tmpfs"));
        }
        if let Some(label) = &self.linux.mount_label {
            set_label(&mut options, &what, (self.context.label_option, label));
        }
        Ok(Mount {
            destination,
            what,
            options,
            index: self.index,
        })
    }

    /// Where, in words.
    pub(super) fn destination(&self, warnings: &mut Vec<String>) -> Result<PathBuf> {
        let written = Path::new(&self.mount.destination);
        if written.as_os_str().is_empty() {
            return Err(self.error("destination", "is empty"));
        }
        if !written.is_absolute() {
            warnings.push(format!(
                "{}: mounts[{}].destination: {written:?} is not absolute, \
                 taken from the root",
                self.document, self.index
            ));
        }
        let destination = clean(&Path::new("/").join(written));
        if destination == Path::new("/") {
            return Err(self.error("destination", "mounting into / is prohibited"));
        }
        Ok(destination)
    }

    fn what(&self, options: &Options) -> Result<What> {
        let fstype = self.mount.kind.as_deref().unwrap_or_default();
        if options.bind.is_some() || fstype == "bind" {
            return self.bind(options);
        }
        if options.symlinks != Symlinks::default() {
            return Err(self.error("options", "only bind mounts have a word for links"));
        }
        if fstype.is_empty() || fstype == "none" {
            return Err(self.error("type", "is missing"));
        }
        let idmap = self.idmap(options)?;
        // It is several mounts, or another than is written.
        if idmap.is_some() && matches!(fstype, "cgroup" | "cgroup2") {
            return Err(self.error("uidMappings", "cgroups can't be idmapped"));
        }
        let source = self.mount.source.as_deref().unwrap_or_default();
        Ok(What::Filesystem {
            fstype: fstype.to_owned(),
            source: if source.is_empty() { fstype } else { source }.to_owned(),
            idmap,
        })
    }

    fn bind(&self, options: &Options) -> Result<What> {
        let source = self.mount.source.as_deref().unwrap_or_default();
        if source.is_empty() {
            return Err(self.error("source", "is empty"));
        }
        if let Some((key, _)) = options.data.first() {
            return Err(self.error(
                "options",
                format!("bind mounts cannot have any filesystem-specific options: {key:?}"),
            ));
        }
        if options.symlinks.copy && (options.symlinks.source || options.symlinks.destination) {
            let text = "copy-symlink excludes src-nofollow and dest-nofollow";
            return Err(self.error("options", text));
        }
        let source = Path::new(source);
        Ok(What::Bind {
            // An absolute one is the kernel's to read, links before `..`.
            source: if source.is_absolute() {
                source.to_owned()
            } else {
                clean(&self.bundle.join(source))
            },
            recursive: options.bind.unwrap_or(false),
            idmap: self.idmap(options)?,
        })
    }

    /// The ids of a mount: its own mappings, or with `idmap` alone those
    /// of the container's user namespace.
    fn idmap(&self, options: &Options) -> Result<Option<IdMap>> {
        let (uids, gids) = (&self.mount.uid_mappings, &self.mount.gid_mappings);
        if uids.is_empty() != gids.is_empty() {
            return Err(self.error("uidMappings", "uidMappings and gidMappings come together"));
        }
        for (field, mappings) in [("uidMappings", uids), ("gidMappings", gids)] {
            if let Some(at) = mappings.iter().position(|mapping| mapping.size == 0) {
                return Err(self.error(&format!("{field}[{at}].size"), "must not be 0"));
            }
        }
        if uids.is_empty() && options.idmap.is_none() {
            return Ok(None);
        }
        if let Some(text) = options.idmap_text.as_deref().filter(|_| uids.is_empty()) {
            let own = (&self.linux.uid_mappings[..], &self.linux.gid_mappings[..]);
            let ids = idmap_text::parse(text, own).map_err(|cause| self.error("options", cause))?;
            return Ok(Some(IdMap {
                ids,
                recursive: options.idmap.unwrap_or(false),
            }));
        }
        let joins = &self.context.namespaces.join;
        let joined = joins.iter().find(|join| join.kind == NamespaceType::User);
        let ids = if !uids.is_empty() {
            IdSource::Mappings {
                uids: uids.clone(),
                gids: gids.clone(),
            }
        } else if let Some(joined) = joined {
            IdSource::Namespace(joined.path.clone())
        } else if self.context.user_namespace() {
            IdSource::Mappings {
                uids: self.linux.uid_mappings.clone(),
                gids: self.linux.gid_mappings.clone(),
            }
        } else {
            return Err(self.error(
                "options",
                "idmap without uidMappings needs a user namespace in linux.namespaces",
            ));
        };
        Ok(Some(IdMap {
            ids,
            recursive: options.idmap.unwrap_or(false),
        }))
    }

    pub(super) fn error(&self, field: &str, cause: impl std::fmt::Display) -> Error {
        let text = format!("{}: mounts[{}].{field}: {cause}", self.document, self.index);
        Error::new(Kind::InvalidConfig, text)
    }
}

/// Refuses what would hide the container's procfs behind another's files:
/// security labels are written there (CVE-2019-16884, CVE-2019-19921).
fn check_procfs(destination: &Path, what: &What) -> Result<(), String> {
    if destination == Path::new("/proc") {
        return match what {
            // Whether a bind's source is a procfs root, the child sees.
            What::Bind { .. } => Ok(()),
            What::Filesystem { fstype, .. } if fstype == "proc" => Ok(()),
            _ if Defence::ProcBind.is_out() => Ok(()),
            _ => Err("\"/proc\" cannot be mounted because it is not of type proc".to_owned()),
        };
    }
    let allowed = PROC_FILES.iter().any(|file| destination == Path::new(file));
    if destination.starts_with("/proc") && !allowed && !Defence::ProcAllowList.is_out() {
        return Err(format!(
            "{destination:?} cannot be mounted because it is inside /proc"
        ));
    }
    Ok(())
}

/// Adds the SELinux label to a filesystem that can carry one.
fn set_label(options: &mut Options, what: &What, (option, label): (&str, &str)) {
    let labelled = match what {
        What::Filesystem { fstype, .. } => !matches!(
            fstype.as_str(),
            "proc" | "sysfs" | "mqueue" | "cgroup" | "cgroup2"
        ),
        _ => false,
    };
    if labelled && !label.is_empty() {
        options
            .data
            .push((option.to_owned(), Some(label.to_owned())));
    }
}

/// The path without `.`, `..` and doubled slashes, in words only.
#[must_use]
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::CurDir => {}
            other => cleaned.push(other),
        }
    }
    cleaned
}
