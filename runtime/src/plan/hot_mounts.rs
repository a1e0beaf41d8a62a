//! Mounts that come to a container that runs, or leave it.

use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;

use super::annotations::Annotations;
use super::cgroup_mounts::CgroupView;
use super::mounts::{Mount, MountContext, What};
use super::namespaces::Namespaces;
use super::written_mount::Written;
use crate::error::{Error, Kind, Result};
use crate::spec::{self, Spec};

/// What is mounted or unmounted.
#[derive(Debug)]
pub struct HotMounts {
    /// What to mount, in order.
    pub add: Vec<Mount>,
    /// Where to unmount, in order.
    pub remove: Vec<PathBuf>,
    /// The namespaces to enter for it. The pid namespace is none of them: so
    /// nobody in the container can see who mounts.
    pub namespaces: CloneFlags,
    /// Whether the container is in a user namespace.
    pub user_namespace: bool,
    /// What was accepted but deserves a word.
    pub warnings: Vec<String>,
}

/// The types that belong to namespaces which are entered only at the
/// beginning, or to the container's cgroup.
const AT_CREATE: [&str; 3] = ["proc", "cgroup", "cgroup2"];

/// The types that are made in the container: they belong to its namespaces or to
/// nobody, and nothing is looked up for them. All others have a source, or
/// options that name files, and inside it would be the container that chooses
/// what our rights open.
const MADE_INSIDE: [&str; 5] = ["devpts", "mqueue", "ramfs", "sysfs", "tmpfs"];

/// Whether a filesystem of this type is made on the host.
#[must_use]
pub fn is_made_on_host(fstype: &str) -> bool {
    !MADE_INSIDE.contains(&fstype)
}

impl HotMounts {
    /// Decides about the mounts of the document `file`, for the container of
    /// `spec` that was made from `bundle`.
    ///
    /// # Errors
    /// Invalid values, with file and field; what can be mounted only when a
    /// container is made.
    pub fn add(file: &str, list: &[spec::Mount], spec: &Spec, bundle: &Path) -> Result<Self> {
        Self::plan(file, list, spec, bundle, |planned, written| {
            let mount = written.plan(&mut planned.warnings)?;
            if mount.options.symlinks.copy {
                let text = "copy-symlink is only for mounts of config.json";
                return Err(written.error("options", text));
            }
            if let What::Filesystem { idmap: Some(_), .. } = &mount.what {
                let text = "only bind mounts can be idmapped in a container that runs";
                return Err(written.error("uidMappings", text));
            }
            if let What::Filesystem { fstype, .. } = &mount.what
                && AT_CREATE.contains(&fstype.as_str())
            {
                let text = format!("{fstype:?} can only be mounted when the container is made");
                return Err(written.error("type", text));
            }
            if planned.user_namespace
                && let What::Filesystem { fstype, .. } = &mount.what
                && is_made_on_host(fstype)
            {
                // Its files would belong to the host's ids, its nodes be devices.
                let text = format!("{fstype:?} can't be mounted in a user namespace");
                let error = written.error("type", text).with_kind(Kind::Unsupported);
                return Err(error.with_hint("mount it on the host and bind it"));
            }
            planned.add.push(mount);
            Ok(())
        })
    }

    /// Decides about unmounting the destinations of the document `file`. What
    /// came last leaves first, so that one file serves both ways.
    ///
    /// # Errors
    /// As for [`add`](Self::add).
    pub fn remove(file: &str, list: &[spec::Mount], spec: &Spec, bundle: &Path) -> Result<Self> {
        let mut planned = Self::plan(file, list, spec, bundle, |planned, written| {
            let destination = written.destination(&mut planned.warnings)?;
            planned.remove.push(destination);
            Ok(())
        })?;
        planned.remove.reverse();
        Ok(planned)
    }

    fn plan(
        file: &str,
        list: &[spec::Mount],
        spec: &Spec,
        bundle: &Path,
        mut each: impl FnMut(&mut Self, &Written<'_>) -> Result<()>,
    ) -> Result<Self> {
        let linux = spec.linux.clone().unwrap_or_default();
        let namespaces = Namespaces::plan(&linux)?;
        // What is ignored of them `create` has told.
        let annotations = Annotations::plan(&spec.annotations, &mut Vec::new())?;
        let flags = namespaces.flags();
        if !flags.contains(CloneFlags::CLONE_NEWNS) {
            let text = "the container has no mount namespace of its own";
            return Err(Error::new(Kind::Unsupported, text));
        }
        let entered = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUSER
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC;
        let mut planned = Self {
            add: Vec::new(),
            remove: Vec::new(),
            namespaces: flags & entered,
            user_namespace: flags.contains(CloneFlags::CLONE_NEWUSER),
            warnings: Vec::new(),
        };
        let context = MountContext {
            namespaces: &namespaces,
            no_pivot: false,
            rootless: false,
            cgroups: &CgroupView::default(),
            label_option: annotations.label_option.unwrap_or("context"),
        };
        for (index, mount) in list.iter().enumerate() {
            let written = Written {
                document: file,
                index,
                mount,
                bundle,
                linux: &linux,
                context: &context,
            };
            each(&mut planned, &written)?;
        }
        Ok(planned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(spec: &str, list: &str, add: bool) -> Result<HotMounts> {
        let spec = Spec::parse(spec.as_bytes()).unwrap();
        let list = spec::Mount::parse_list("m.json", list.as_bytes())?;
        let plan = if add {
            HotMounts::add
        } else {
            HotMounts::remove
        };
        plan("m.json", &list, &spec, Path::new("/bundle"))
    }

    const OWN: &str =
        r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"ipc"}]}}"#;

    #[test]
    fn a_refusal_names_file_and_field() {
        for (list, error) in [
            (
                r#"[{"destination":""}]"#,
                "m.json: mounts[0].destination: is empty",
            ),
            (
                r#"[{"destination":"/a/.."}]"#,
                "m.json: mounts[0].destination: mounting into / is prohibited",
            ),
            (
                r#"{"mounts":[{"destination":"/a"}]}"#,
                "m.json: mounts[0].type: is missing",
            ),
            (
                r#"[{"destination":"/a","type":"bind"}]"#,
                "m.json: mounts[0].source: is empty",
            ),
            (
                r#"[{"destination":"/a","type":"cgroup"}]"#,
                "m.json: mounts[0].type: \"cgroup\" can only be mounted when the container is made",
            ),
            (
                r#"[{"destination":"/a","type":"ext4","source":"/dev/b","options":["tmpcopyup"]}]"#,
                "m.json: mounts[0].options: tmpcopyup is only for tmpfs",
            ),
            (
                r#"[{"destination":"/a","source":"b","options":["bind","copy-symlink"]}]"#,
                "m.json: mounts[0].options: copy-symlink is only for mounts of config.json",
            ),
            (
                r#"{"mount":[]}"#,
                "m.json: unknown field `mount`, expected `mounts` at line 1 column 8",
            ),
            ("", "m.json: is empty"),
        ] {
            assert_eq!(
                planned(OWN, list, true).unwrap_err().to_string(),
                error,
                "{list}"
            );
        }
        let error = planned(r#"{"linux":{}}"#, "[]", true).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the container has no mount namespace of its own"
        );
    }

    #[test]
    fn the_label_is_carried_by_the_option_that_an_annotation_names() {
        let spec = OWN.replace(
            r#"{"linux":{"#,
            r#"{"annotations":{"run.oci.mount_context_type":"fscontext"},"linux":{"mountLabel":"l","#,
        );
        let list = r#"[{"destination":"/a","type":"tmpfs"}]"#;
        let planned = planned(&spec, list, true).unwrap();
        let label = ("fscontext".to_owned(), Some("l".to_owned()));
        assert_eq!(planned.add[0].options.data, [label]);
    }

    #[test]
    fn what_opens_a_source_is_made_on_the_host_and_not_for_a_user_namespace() {
        let user = r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"user"}],
            "uidMappings":[{"containerID":0,"hostID":1,"size":1}],
            "gidMappings":[{"containerID":0,"hostID":1,"size":1}]}}"#;
        for (fstype, on_host) in [
            ("tmpfs", false),
            ("mqueue", false),
            ("sysfs", false),
            ("ext4", true),
            ("overlay", true),
            ("fuse.sshfs", true),
        ] {
            assert_eq!(is_made_on_host(fstype), on_host, "{fstype}");
            let list = format!(r#"[{{"destination":"/a","type":"{fstype}","source":"b"}}]"#);
            planned(OWN, &list, true).unwrap();
            let refused = planned(user, &list, true).map(drop);
            let refused = refused.map_err(|error| error.to_string());
            let text =
                format!("m.json: mounts[0].type: {fstype:?} can't be mounted in a user namespace");
            assert_eq!(refused, if on_host { Err(text) } else { Ok(()) });
        }
    }

    #[test]
    fn what_came_last_leaves_first_and_the_pid_namespace_is_not_entered() {
        let list = r#" [{"destination":"/a"},{"destination":"/a/../b/./c"}]"#;
        let planned = planned(OWN, list, false).unwrap();
        assert_eq!(planned.remove, [Path::new("/b/c"), Path::new("/a")]);
        let entered = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
        assert_eq!(planned.namespaces, entered);
    }
}
