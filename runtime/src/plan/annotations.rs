//! Annotations that change what is done: those of crun that its users rely on.
//!
//! Others of crun's are refused where a container would lack a guard that they
//! ask for, and ignored with a warning where not; [`fields`] says which and why.
//! `org.systemd.property.*` is the business of the container's unit; the cgroups
//! below it are that of [`cgroup`](super::cgroup).

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Kind, Result};
use crate::spec::fields::{self, Treatment};
use crate::sys::mutation::Defence;

/// What the annotations ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// Whether the supplementary groups of the runtime are asked for, which
    /// [`keeps_groups`](Self::keeps_groups) decides about.
    pub keep_groups: bool,
    /// The mount option that carries `linux.mountLabel`, if not `context`.
    pub label_option: Option<&'static str>,
    /// A seccomp rule for a system call that is unknown here is an error.
    pub refuse_unknown_syscalls: bool,
    /// Who gets the listener of a profile that names no `listenerPath`.
    pub seccomp_receiver: Option<PathBuf>,
    /// Who gets a pidfd of the container's process.
    pub pidfd_receiver: Option<PathBuf>,
}

/// Options of mount(8) by which SELinux labels a filesystem.
const LABEL_OPTIONS: [&str; 4] = ["context", "fscontext", "defcontext", "rootcontext"];

impl Annotations {
    /// Decides about `annotations`; those that are ignored get a word in
    /// `warnings`.
    ///
    /// # Errors
    /// One that is refused, and values that are no path or no option.
    pub fn plan(
        annotations: &BTreeMap<String, String>,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let mut planned = Self::default();
        for (key, value) in annotations {
            let error = |cause: &str| Error::config(format_args!("annotations[{key:?}]"), cause);
            let path = || match value.strip_prefix('/') {
                Some(_) => Ok(Some(PathBuf::from(value))),
                None => Err(error(&format!("{value:?} is not absolute"))),
            };
            match key.as_str() {
                "run.oci.keep_original_groups" => planned.keep_groups = value != "0",
                "run.oci.seccomp_fail_unknown_syscall" => {
                    planned.refuse_unknown_syscalls = value != "0";
                }
                "run.oci.seccomp.receiver" => planned.seccomp_receiver = path()?,
                "run.oci.pidfd_receiver" => planned.pidfd_receiver = path()?,
                "run.oci.mount_context_type" => {
                    let known = LABEL_OPTIONS.iter().find(|option| *option == value);
                    let Some(option) = known else {
                        return Err(error(&format!("{value:?} is unknown")));
                    };
                    planned.label_option = Some(option);
                }
                _ => {}
            }
            match fields::annotation(key).map(|row| row.treatment) {
                Some(Treatment::Refused(why)) => {
                    return Err(error(why).with_kind(Kind::Unsupported));
                }
                Some(Treatment::Ignored(why)) => {
                    warnings.push(format!("annotation {key} is ignored: {why}"));
                }
                _ => {}
            }
        }
        Ok(planned)
    }

    /// Whether the process keeps the supplementary groups of the runtime: those
    /// of who is not root of the host, which it has to lose or to keep. Root can
    /// say in config.json which groups it is to have; the annotation may
    /// come from an image, and gives away nothing of root's.
    #[must_use]
    pub fn keeps_groups(&self, rootless: bool) -> bool {
        self.keep_groups && (rootless || Defence::RootsGroups.is_out())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(key: &str, value: &str) -> Result<(Annotations, Vec<String>), String> {
        let annotations = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let mut warnings = Vec::new();
        Annotations::plan(&annotations, &mut warnings)
            .map(|planned| (planned, warnings))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn annotations_are_read() {
        let none = Annotations::default;
        for (key, value, expected) in [
            ("my.own", "x", none()),
            (
                "run.oci.keep_original_groups",
                "1",
                Annotations {
                    keep_groups: true,
                    ..none()
                },
            ),
            ("run.oci.keep_original_groups", "0", none()),
            ("run.oci.seccomp_fail_unknown_syscall", "0", none()),
            (
                "run.oci.seccomp_fail_unknown_syscall",
                "1",
                Annotations {
                    refuse_unknown_syscalls: true,
                    ..none()
                },
            ),
            (
                "run.oci.seccomp.receiver",
                "/s",
                Annotations {
                    seccomp_receiver: Some("/s".into()),
                    ..none()
                },
            ),
            (
                "run.oci.pidfd_receiver",
                "/p",
                Annotations {
                    pidfd_receiver: Some("/p".into()),
                    ..none()
                },
            ),
            (
                "run.oci.mount_context_type",
                "fscontext",
                Annotations {
                    label_option: Some("fscontext"),
                    ..none()
                },
            ),
        ] {
            assert_eq!(plan(key, value), Ok((expected, vec![])), "{key}={value}");
        }
    }

    #[test]
    fn groups_of_the_hosts_root_are_not_kept() {
        for (keep_groups, rootless, expected) in [
            (true, true, true),
            (true, false, false),
            (false, true, false),
        ] {
            let planned = Annotations {
                keep_groups,
                ..Annotations::default()
            };
            assert_eq!(planned.keeps_groups(rootless), expected);
        }
    }

    #[test]
    fn others_are_ignored_with_a_word_or_refused() {
        let (planned, warnings) = plan("run.oci.timens_offset", "1").unwrap();
        assert_eq!(planned, Annotations::default());
        let text = "annotation run.oci.timens_offset is ignored: \
                    linux.timeOffsets is the field for it";
        assert_eq!(warnings, [text]);
        for (key, value, text) in [
            ("run.oci.seccomp.receiver", "s", "\"s\" is not absolute"),
            ("run.oci.mount_context_type", "x", "\"x\" is unknown"),
            (
                "run.oci.handler",
                "krun",
                "rrun runs programs of the host's kernel alone",
            ),
            (
                "run.oci.seccomp_bpf_data",
                "AAAA",
                "a filter is made from linux.seccomp alone",
            ),
        ] {
            let text = format!("config.json: annotations[{key:?}]: {text}");
            assert_eq!(plan(key, value), Err(text));
        }
    }
}
