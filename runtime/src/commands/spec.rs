//! `rrun spec`: a config.json to begin with.
//!
//! It runs a shell with few capabilities in namespaces of its own: what
//! `runc spec` writes, so that a tutorial for one serves for the other.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{getegid, geteuid};

use crate::cli::Spec;
use crate::error::{Error, Kind, Result};
use crate::{spec, sys};

/// Writes config.json.
///
/// # Errors
/// One is there already; the directory can't be written.
pub fn execute(args: &Spec) -> Result<()> {
    let directory = args.bundle.clone().unwrap_or_else(|| PathBuf::from("."));
    let path = directory.join("config.json");
    let created = OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = match created {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Error::new(Kind::System, format!("{path:?}: file exists"))
                .with_hint("remove it first"));
        }
        created => sys::call(created, || format!("open({path:?}, O_CREAT|O_EXCL)"))?,
    };
    let text = text(&Variant {
        rootless: args
            .rootless
            .then(|| (geteuid().as_raw(), getegid().as_raw())),
        cgroup_namespace: unified(Path::new("/sys/fs/cgroup")),
    });
    sys::call(file.write_all(text.as_bytes()), || {
        format!("write({path:?})")
    })?;
    Ok(())
}

/// Whether the host has cgroup v2 alone: a container then gets a cgroup
/// namespace, as its view of the tree can't be bind-mounted piece by piece.
fn unified(mount: &Path) -> bool {
    statfs(mount).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// What the text depends on.
struct Variant {
    /// User and group id of a user who is not root and is root inside.
    rootless: Option<(u32, u32)>,
    /// Whether the container gets a cgroup namespace.
    cgroup_namespace: bool,
}

/// The text with all its variants. The first character of a line says whose
/// it is: `P` of a privileged container's, `U` of one in a user namespace, `V` of
/// one with a cgroup namespace, and a space of all.
const TEMPLATE: &str = include_str!("spec_template.txt");

/// The text of one variant.
fn text(variant: &Variant) -> String {
    let (uid, gid) = variant.rootless.unwrap_or_default();
    TEMPLATE
        .split_inclusive('\n')
        .filter_map(|line| {
            let (mark, line) = line.split_at_checked(1)?;
            let kept = match mark {
                "P" => variant.rootless.is_none(),
                "U" => variant.rootless.is_some(),
                "V" => variant.cgroup_namespace,
                _ => true,
            };
            kept.then_some(line)
        })
        .collect::<String>()
        .replace("VERSION", spec::VERSION)
        .replace(": UID", &format!(": {uid}"))
        .replace(": GID", &format!(": {gid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_variant_is_a_config_that_the_parser_takes() {
        for (rootless, cgroup_namespace, namespaces) in [
            (None, false, "pid network ipc uts mount"),
            (None, true, "pid network cgroup ipc uts mount"),
            (Some((1000, 100)), false, "pid user ipc uts mount"),
            (Some((1000, 100)), true, "pid user cgroup ipc uts mount"),
        ] {
            let text = text(&Variant {
                rootless,
                cgroup_namespace,
            });
            let config = spec::Spec::parse(text.as_bytes()).unwrap();
            assert_eq!(config.oci_version, "1.3.0");
            assert_eq!(config.mounts.len(), 7);
            let linux = config.linux.unwrap();
            let made: Vec<&str> = linux.namespaces.iter().map(|one| one.kind.name()).collect();
            assert_eq!(made.join(" "), namespaces);
            assert_eq!(linux.resources.is_some(), rootless.is_none());
            let hosts = |maps: &[spec::IdMapping]| maps.iter().map(|map| map.host_id).next();
            assert_eq!(hosts(&linux.uid_mappings), rootless.map(|(uid, _)| uid));
            assert_eq!(hosts(&linux.gid_mappings), rootless.map(|(_, gid)| gid));
        }
    }
}
