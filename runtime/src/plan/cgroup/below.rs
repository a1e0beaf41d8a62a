//! Cgroups below: where in its cgroup a container's processes are.
//!
//! ```text
//!   .../ab12.scope            systemd's, with --systemd-cgroup
//!   .../ab12.scope/SUBGROUP   the container's own: limits, freezer, statistics
//!        .../SUBGROUP/PATH    delegated: its processes, and what they make below
//! ```
//!
//! `run.oci.systemd.subgroup` names the second, without it the scope itself is
//! the container's. `run.oci.delegate-cgroup` names the third, without it the
//! processes are in the container's own. The limits lie above what is delegated,
//! so they hold for all of it and nobody in it can change them.
//!
//! Source: crun(1), "Extensions to OCI". Two things are otherwise there. Where no
//! subgroup was named crun made one, `container`, until it gave that up (crun
//! #1768); here and under runc there is none. And its cgroup namespace begins at
//! the container's own cgroup, so that the container sees the files of its limits
//! (crun #976); here it begins at what is delegated.

use std::collections::BTreeMap;

use super::{CgroupPlan, IfDenied, Manager};
use crate::cgroup::hierarchy::Mode;
use crate::error::{Error, Kind, Result};

const SUBGROUP: &str = "run.oci.systemd.subgroup";
const DELEGATED: &str = "run.oci.delegate-cgroup";

/// What the annotations say, as clean relative paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Below {
    subgroup: Option<String>,
    delegated: Option<String>,
}

impl Below {
    /// Reads them. Nothing is said by an empty one, as CRI-O writes it.
    ///
    /// # Errors
    /// A path that leads elsewhere, or is none.
    pub(super) fn parse(annotations: &BTreeMap<String, String>) -> Result<Self> {
        let read = |key: &str| match annotations.get(key) {
            Some(value) => path(value).map_err(|cause| refused(key, cause)),
            None => Ok(None),
        };
        Ok(Self {
            subgroup: read(SUBGROUP)?,
            delegated: read(DELEGATED)?,
        })
    }

    /// Changes `plan`, which has all but the limits, to what they say.
    ///
    /// # Errors
    /// Delegation where there is no cgroup of v2 to delegate.
    pub(super) fn settle(self, plan: &mut CgroupPlan, mode: Mode) -> Result<()> {
        if let Some(subgroup) = self.subgroup {
            match plan.manager {
                Manager::Systemd => enter(plan, &subgroup),
                _ => plan.warnings.push(format!(
                    "annotation {SUBGROUP} is ignored: the cgroup is not made by systemd"
                )),
            }
        }
        let Some(delegated) = self.delegated else {
            return Ok(());
        };
        let cannot = |cause: &str| Err(refused(DELEGATED, cause).with_kind(Kind::Unsupported));
        match (plan.manager, mode) {
            (Manager::Disabled, _) => cannot("the container has no cgroup of its own"),
            (_, Mode::V2) => {
                for member in &mut plan.members {
                    member.home = Some(delegated.clone());
                }
                // Asked for, so nobody goes without.
                plan.if_denied = IfDenied::Fail;
                Ok(())
            }
            _ => cannot("needs cgroup v2 alone: v1 can't be delegated safely"),
        }
    }
}

/// Makes the subgroup the container's own. In the hierarchy that is systemd's
/// for its bookkeeping there is nothing to limit: as crun, none is made.
fn enter(plan: &mut CgroupPlan, subgroup: &str) {
    let limited = |member: &&mut super::Member| !member.has("name=systemd");
    for member in plan.members.iter_mut().filter(limited) {
        member.path = format!("{}/{subgroup}", member.path);
    }
}

fn refused(key: &str, cause: impl Into<String>) -> Error {
    Error::config(format_args!("annotations[{key:?}]"), cause.into())
}

/// A path below a cgroup; one slash before it is no more than habit.
fn path(value: &str) -> std::result::Result<Option<String>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    let path = value.strip_prefix('/').unwrap_or(value);
    for part in path.split('/') {
        match part {
            "" => return Err(format!("{value:?} has an empty part")),
            "." | ".." => return Err(format!("{value:?} has a {part:?}")),
            part if part.contains(['\0', '\n']) => {
                return Err(format!("{value:?} is no name of a cgroup"));
            }
            _ => {}
        }
    }
    Ok(Some(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::{Member, Unit, unit};
    use super::*;

    #[test]
    fn a_path_below_is_clean_and_leads_nowhere_else() {
        for (value, expected) in [
            ("", Ok(None)),
            ("a", Ok(Some("a"))),
            ("/a", Ok(Some("a"))),
            ("a/b.c", Ok(Some("a/b.c"))),
            ("...", Ok(Some("..."))),
            ("/", Err("\"/\" has an empty part")),
            ("a/", Err("\"a/\" has an empty part")),
            ("//a", Err("\"//a\" has an empty part")),
            ("a//b", Err("\"a//b\" has an empty part")),
            ("..", Err("\"..\" has a \"..\"")),
            ("/a/../..", Err("\"/a/../..\" has a \"..\"")),
            ("./a", Err("\"./a\" has a \".\"")),
            ("a\0b", Err("\"a\\0b\" is no name of a cgroup")),
            ("a\nb", Err("\"a\\nb\" is no name of a cgroup")),
        ] {
            let parsed = path(value);
            let parsed = parsed.as_ref().map(Option::as_deref);
            assert_eq!(parsed.map_err(String::as_str), expected, "{value:?}");
        }
    }

    /// Paths and homes of the members once `annotations` are settled, and the
    /// warnings.
    fn settle(
        annotations: &[(&str, &str)],
        manager: Manager,
        mode: Mode,
    ) -> std::result::Result<String, String> {
        let annotations = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let member = |controllers: &[&str]| Member {
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
            mount: "/c".into(),
            path: "s.scope".to_owned(),
            home: None,
        };
        let mut plan = CgroupPlan {
            manager,
            members: match (manager, mode) {
                (Manager::Disabled, _) => vec![],
                (_, Mode::V2) => vec![member(&[])],
                _ => vec![member(&["memory"]), member(&["name=systemd"]), member(&[])],
            },
            if_denied: IfDenied::GoWithout,
            unit: (manager == Manager::Systemd).then(|| Unit {
                name: unit::Name::default(),
                path: "s.scope".to_owned(),
                properties: vec![],
            }),
            ..CgroupPlan::default()
        };
        let below = Below::parse(&annotations.collect()).map_err(|error| error.to_string())?;
        below
            .settle(&mut plan, mode)
            .map_err(|error| error.to_string())?;
        assert_eq!(
            plan.if_denied == IfDenied::Fail,
            plan.is_delegated(),
            "what is asked for is not left out"
        );
        let members = plan.members.iter().map(|member| {
            let home = member.home.as_ref();
            let home = home.map_or(String::new(), |home| format!("+{home}"));
            format!("{}{home}", member.path)
        });
        Ok(members
            .chain(plan.warnings.clone())
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn the_processes_go_below_the_container_and_that_below_the_scope() {
        let (systemd, ours, none) = (Manager::Systemd, Manager::Cgroupfs, Manager::Disabled);
        let sub = (SUBGROUP, "sub");
        let path = (DELEGATED, "/a/b");
        let ignored =
            "annotation run.oci.systemd.subgroup is ignored: the cgroup is not made by systemd";
        let refused = |cause: &str| {
            Err(format!(
                "config.json: annotations[\"run.oci.delegate-cgroup\"]: {cause}"
            ))
        };
        let ok = |text: &str| Ok(text.to_owned());
        for (annotations, manager, mode, expected) in [
            (&[][..], systemd, Mode::V2, ok("s.scope")),
            (&[(SUBGROUP, "")], systemd, Mode::V2, ok("s.scope")),
            (&[sub], systemd, Mode::V2, ok("s.scope/sub")),
            (&[path], systemd, Mode::V2, ok("s.scope+a/b")),
            (&[sub, path], systemd, Mode::V2, ok("s.scope/sub+a/b")),
            (&[path], ours, Mode::V2, ok("s.scope+a/b")),
            (&[(DELEGATED, "")], ours, Mode::V2, ok("s.scope")),
            (&[sub], ours, Mode::V2, ok(&format!("s.scope {ignored}"))),
            (&[sub], none, Mode::V2, ok(ignored)),
            (
                &[sub],
                systemd,
                Mode::Hybrid,
                ok("s.scope/sub s.scope s.scope/sub"),
            ),
            (
                &[path],
                ours,
                Mode::Hybrid,
                refused("needs cgroup v2 alone: v1 can't be delegated safely"),
            ),
            (
                &[path],
                systemd,
                Mode::V1,
                refused("needs cgroup v2 alone: v1 can't be delegated safely"),
            ),
            (
                &[path],
                none,
                Mode::V2,
                refused("the container has no cgroup of its own"),
            ),
        ] {
            let settled = settle(annotations, manager, mode);
            assert_eq!(settled, expected, "{annotations:?} {manager:?} {mode:?}");
        }
    }
}
