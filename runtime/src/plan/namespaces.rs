//! Namespaces: which are made, which are joined, and in how many forks.
//!
//! One clone3 and the child's unshare(2) make everything where they can. A second
//! fork is needed where the kernel leaves no other way:
//!
//! - a new time namespace: only children of the process that made it live in
//!   it, and its offsets are written before the first of them (time_namespaces(7));
//! - a joined user namespace: what is made afterwards must belong to it;
//! - a joined pid namespace: only children are in it, and whoever is there already
//!   shall see none that is still in the host's namespaces;
//! - a new user namespace beside joined ones: these are joined with the
//!   rights of the host, so before it is made.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nix::sched::CloneFlags;

use crate::error::{Error, Result};
pub use crate::spec::NamespaceType;
use crate::spec::{self, IdMapping, TimeOffset};

/// A namespace to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Its type, which is checked against the file.
    pub kind: NamespaceType,
    /// The namespace file, absolute.
    pub path: PathBuf,
}

/// The ids of a new user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// User ids.
    pub uids: Vec<IdMapping>,
    /// Group ids.
    pub gids: Vec<IdMapping>,
}

/// Every decision about namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// The new ones, in the order of [`NamespaceType`].
    pub new: Vec<NamespaceType>,
    /// The joined ones, in the same order.
    pub join: Vec<Join>,
    /// The ids of the new user namespace.
    pub id_maps: Option<IdMaps>,
    /// What is written to `/proc/self/timens_offsets`.
    pub time_offsets: Option<String>,
}

impl Namespaces {
    /// Decides about `linux.namespaces`, the id mappings and the time offsets.
    ///
    /// # Errors
    /// A type that is listed twice, a relative path, mappings that are
    /// missing or have no user namespace, offsets without a new time
    /// namespace.
    pub fn plan(linux: &spec::Linux) -> Result<Self> {
        let mut planned = Self::default();
        for (at, namespace) in linux.namespaces.iter().enumerate() {
            let field = |name: &str| format!("linux.namespaces[{at}].{name}");
            if planned.contains(namespace.kind) {
                let name = namespace.kind.name();
                return Err(Error::config(
                    field("type"),
                    format!("{name} is listed twice"),
                ));
            }
            match namespace.path.as_deref() {
                None | Some("") => planned.new.push(namespace.kind),
                Some(path) if path.starts_with('/') => {
                    planned.join.push(Join {
                        kind: namespace.kind,
                        path: PathBuf::from(path),
                    });
                }
                Some(path) => {
                    return Err(Error::config(
                        field("path"),
                        format!("{path:?} is not absolute"),
                    ));
                }
            }
        }
        planned.new.sort_unstable();
        planned.join.sort_unstable_by_key(|join| join.kind);
        planned.id_maps = id_maps(linux, &planned)?;
        planned.time_offsets = time_offsets(&linux.time_offsets, &planned)?;
        Ok(planned)
    }

    /// Whether the container has a namespace of its own (or a joined one).
    #[must_use]
    pub fn contains(&self, kind: NamespaceType) -> bool {
        self.creates(kind) || self.joins(kind)
    }

    /// Whether a namespace of this type is made.
    #[must_use]
    pub fn creates(&self, kind: NamespaceType) -> bool {
        self.new.contains(&kind)
    }

    /// Whether a namespace of this type is joined.
    #[must_use]
    pub fn joins(&self, kind: NamespaceType) -> bool {
        self.join.iter().any(|join| join.kind == kind)
    }

    /// All namespaces in which the container differs from the host.
    #[must_use]
    pub fn flags(&self) -> CloneFlags {
        let joined = self.join.iter().map(|join| join.kind);
        self.new
            .iter()
            .copied()
            .chain(joined)
            .map(NamespaceType::flag)
            .collect()
    }

    /// Whether the container's process must be a grandchild (see the module).
    #[must_use]
    pub fn second_fork(&self) -> bool {
        self.creates(NamespaceType::Time)
            || self.joins(NamespaceType::User)
            || self.joins(NamespaceType::Pid)
            || (self.creates(NamespaceType::User) && !self.join.is_empty())
    }

    /// The flags for the first clone3: all that the child does not unshare, or
    /// where a second fork follows, at most the user namespace.
    #[must_use]
    pub fn clone_flags(&self) -> CloneFlags {
        let all = self.made_by_clone();
        match (self.second_fork(), self.join.is_empty()) {
            (false, _) => all - self.unshare_flags(),
            // The time namespace shall belong to the user namespace.
            (true, true) => all & CloneFlags::CLONE_NEWUSER,
            (true, false) => CloneFlags::empty(),
        }
    }

    /// The flags of the unshare(2) with which the child begins, while the parent
    /// makes its cgroups: making a network namespace alone takes as long as
    /// these. A pid namespace holds only children, and what is made beside a user
    /// namespace must belong to it.
    #[must_use]
    pub fn unshare_flags(&self) -> CloneFlags {
        if self.second_fork() || self.creates(NamespaceType::User) {
            return CloneFlags::empty();
        }
        self.made_by_clone() - CloneFlags::CLONE_NEWPID
    }

    /// The flags for the second clone3: what the first left over.
    #[must_use]
    pub fn second_clone_flags(&self) -> CloneFlags {
        self.made_by_clone() - self.clone_flags() - self.unshare_flags()
    }

    /// What clone3 makes: not the time namespace, which is unshared before,
    /// nor the cgroup namespace, which the child unshares once its membership
    /// in the cgroup is certain.
    fn made_by_clone(&self) -> CloneFlags {
        self.new
            .iter()
            .filter(|kind| !matches!(kind, NamespaceType::Time | NamespaceType::Cgroup))
            .map(|kind| kind.flag())
            .collect()
    }
}

impl NamespaceType {
    /// Its name in config.json.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            NamespaceType::Pid => "pid",
            NamespaceType::Network => "network",
            NamespaceType::Mount => "mount",
            NamespaceType::Ipc => "ipc",
            NamespaceType::Uts => "uts",
            NamespaceType::User => "user",
            NamespaceType::Cgroup => "cgroup",
            NamespaceType::Time => "time",
        }
    }

    /// Its file in `/proc/PID/ns`.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            NamespaceType::Network => "net",
            NamespaceType::Mount => "mnt",
            other => other.name(),
        }
    }

    /// Its flag for clone, unshare and setns.
    #[must_use]
    pub fn flag(self) -> CloneFlags {
        match self {
            NamespaceType::Pid => CloneFlags::CLONE_NEWPID,
            NamespaceType::Network => CloneFlags::CLONE_NEWNET,
            NamespaceType::Mount => CloneFlags::CLONE_NEWNS,
            NamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
            NamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
            NamespaceType::User => CloneFlags::CLONE_NEWUSER,
            NamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
            // nix has no name for it.
            NamespaceType::Time => CloneFlags::from_bits_retain(libc::CLONE_NEWTIME),
        }
    }
}

/// The mappings of a new user namespace, which both must be there.
fn id_maps(linux: &spec::Linux, planned: &Namespaces) -> Result<Option<IdMaps>> {
    let (uids, gids) = (&linux.uid_mappings, &linux.gid_mappings);
    if !planned.creates(NamespaceType::User) {
        // A joined user namespace has its mappings; engines list them again.
        let mapped = match (uids.is_empty(), gids.is_empty()) {
            (false, _) => Some("linux.uidMappings"),
            (true, false) => Some("linux.gidMappings"),
            (true, true) => None,
        };
        if let Some(field) = mapped
            && !planned.joins(NamespaceType::User)
        {
            return Err(Error::config(
                field,
                "id mappings need a user namespace in linux.namespaces",
            ));
        }
        return Ok(None);
    }
    for (field, mappings) in [("linux.uidMappings", uids), ("linux.gidMappings", gids)] {
        if mappings.is_empty() {
            return Err(Error::config(
                field,
                "a new user namespace needs at least one mapping",
            ));
        }
        if let Some(at) = mappings.iter().position(|mapping| mapping.size == 0) {
            return Err(Error::config(
                format!("{field}[{at}].size"),
                "must not be 0",
            ));
        }
    }
    Ok(Some(IdMaps {
        uids: uids.clone(),
        gids: gids.clone(),
    }))
}

/// The text for `/proc/self/timens_offsets`, a line a clock.
fn time_offsets(
    offsets: &BTreeMap<String, TimeOffset>,
    planned: &Namespaces,
) -> Result<Option<String>> {
    if offsets.is_empty() {
        return Ok(None);
    }
    if planned.joins(NamespaceType::Time) {
        return Err(Error::config(
            "linux.timeOffsets",
            "the offsets of a joined time namespace can't be set",
        ));
    }
    if !planned.creates(NamespaceType::Time) {
        return Err(Error::config(
            "linux.timeOffsets",
            "offsets need a time namespace in linux.namespaces",
        ));
    }
    let mut text = String::new();
    for (clock, offset) in offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(Error::config(
                format!("linux.timeOffsets.{clock}"),
                "the clocks are monotonic and boottime",
            ));
        }
        if offset.nanosecs >= 1_000_000_000 {
            return Err(Error::config(
                format!("linux.timeOffsets.{clock}.nanosecs"),
                format!("{} is not below 1000000000", offset.nanosecs),
            ));
        }
        text.push_str(&format!("{clock} {} {}\n", offset.secs, offset.nanosecs));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Namespaces> {
        Namespaces::plan(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn namespaces_are_made_or_joined() {
        let planned = plan(
            r#"{"namespaces":[{"type":"uts","path":""},{"type":"mount"},{"type":"pid"},
                {"type":"network","path":"/run/netns/x"},{"type":"cgroup"}]}"#,
        )
        .unwrap();
        assert_eq!(
            planned.new,
            [
                NamespaceType::Pid,
                NamespaceType::Mount,
                NamespaceType::Uts,
                NamespaceType::Cgroup
            ]
        );
        assert_eq!(
            planned.join,
            [Join {
                kind: NamespaceType::Network,
                path: "/run/netns/x".into()
            }]
        );
        assert_eq!(planned.clone_flags(), CloneFlags::CLONE_NEWPID);
        assert_eq!(
            planned.unshare_flags(),
            CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS
        );
        assert!(!planned.second_fork());
    }

    #[test]
    fn each_new_namespace_is_made_once_and_in_the_user_namespace_if_there_is_one() {
        let maps = r#""uidMappings":[{"containerID":0,"hostID":1000,"size":1}],
                      "gidMappings":[{"containerID":0,"hostID":1000,"size":1}]"#;
        let (pid, net) = (CloneFlags::CLONE_NEWPID, CloneFlags::CLONE_NEWNET);
        let (user, none) = (CloneFlags::CLONE_NEWUSER, CloneFlags::empty());
        for (types, [first, unshared, second]) in [
            ("pid network cgroup", [pid, net, none]),
            ("network", [none, net, none]),
            ("/ipc network", [none, net, none]),
            ("/pid network", [none, none, net]),
            ("user pid network", [user | pid | net, none, none]),
            ("time pid network", [none, none, pid | net]),
            ("user time network", [user, none, net]),
        ] {
            let list: Vec<_> = types
                .split(' ')
                .map(|kind| match kind.strip_prefix('/') {
                    Some(joined) => format!(r#"{{"type":"{joined}","path":"/x"}}"#),
                    None => format!(r#"{{"type":"{kind}"}}"#),
                })
                .collect();
            let maps = if types.contains("user") {
                maps
            } else {
                r#""uidMappings":[]"#
            };
            let planned =
                plan(&format!(r#"{{"namespaces":[{}],{maps}}}"#, list.join(","))).unwrap();
            let flags = [
                planned.clone_flags(),
                planned.unshare_flags(),
                planned.second_clone_flags(),
            ];
            assert_eq!(flags, [first, unshared, second], "{types}");
        }
    }

    #[test]
    fn a_second_fork_is_made_only_where_the_kernel_needs_it() {
        let maps = r#""uidMappings":[{"containerID":0,"hostID":1000,"size":1}],
                      "gidMappings":[{"containerID":0,"hostID":1000,"size":1}]"#;
        for (name, json, second) in [
            (
                "new user",
                format!(r#"{{"namespaces":[{{"type":"user"}}],{maps}}}"#),
                false,
            ),
            (
                "new time",
                r#"{"namespaces":[{"type":"time"}]}"#.into(),
                true,
            ),
            (
                "joined user",
                r#"{"namespaces":[{"type":"user","path":"/u"}]}"#.into(),
                true,
            ),
            (
                "joined pid",
                r#"{"namespaces":[{"type":"pid","path":"/p"}]}"#.into(),
                true,
            ),
            (
                "new user, joined net",
                format!(
                    r#"{{"namespaces":[{{"type":"user"}},{{"type":"network","path":"/n"}}],{maps}}}"#
                ),
                true,
            ),
        ] {
            assert_eq!(plan(&json).unwrap().second_fork(), second, "{name}");
        }
    }

    #[test]
    fn wrong_namespaces_are_refused_with_their_field() {
        for (json, text) in [
            (
                r#"{"namespaces":[{"type":"pid"},{"type":"pid","path":"/x"}]}"#,
                "config.json: linux.namespaces[1].type: pid is listed twice",
            ),
            (
                r#"{"namespaces":[{"type":"ipc","path":"ns/ipc"}]}"#,
                "config.json: linux.namespaces[0].path: \"ns/ipc\" is not absolute",
            ),
            (
                r#"{"namespaces":[{"type":"user"}]}"#,
                "config.json: linux.uidMappings: a new user namespace needs at least one mapping",
            ),
            (
                r#"{"uidMappings":[{"containerID":0,"hostID":0,"size":1}]}"#,
                "config.json: linux.uidMappings: id mappings need a user namespace in linux.namespaces",
            ),
            (
                r#"{"namespaces":[{"type":"time","path":"/t"}],"timeOffsets":{"monotonic":{"secs":1}}}"#,
                "config.json: linux.timeOffsets: the offsets of a joined time namespace can't be set",
            ),
            (
                r#"{"namespaces":[{"type":"time"}],"timeOffsets":{"tai":{"secs":1}}}"#,
                "config.json: linux.timeOffsets.tai: the clocks are monotonic and boottime",
            ),
        ] {
            assert_eq!(plan(json).unwrap_err().to_string(), text);
        }
    }
}
