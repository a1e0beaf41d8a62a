//! The cgroup: where it is made, and what is written into its files.
//!
//! A container has one directory in every mounted hierarchy. Where, says
//! `linux.cgroupsPath`; what is written, `linux.resources`, in the words of
//! cgroup v1 ([`v1`]) or v2 ([`v2`]). Both are decided here, as data, and
//! performed in order by [`crate::cgroup`].

mod below;
pub mod device_bpf;
pub mod devices;
pub(super) mod ownership;
pub mod unit;
pub mod unit_property;
pub mod v1;
pub mod v2;

use std::borrow::Cow;
use std::fmt::Display;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::cgroup_mounts::{self, CgroupView};
use crate::cgroup::hierarchy::{Hierarchies, Hierarchy, Mode};
use crate::error::{Error, Kind, Result};
use crate::spec::fields;
use crate::spec::{Linux, Resources, Spec};
use crate::systemd::Facts;
use below::Below;
pub use ownership::Owner;
use unit::Unit;

/// Who makes the cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// We, with mkdir.
    #[default]
    Cgroupfs,
    /// systemd, as a unit.
    Systemd,
    /// Nobody: the container stays in its caller's cgroup, without limits.
    Disabled,
}

/// Every decision about the container's cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupPlan {
    /// Who makes it.
    pub manager: Manager,
    /// The container's directory in each hierarchy.
    pub members: Vec<Member>,
    /// The limits, in order.
    pub writes: Vec<Write>,
    /// What devices may be used: the rules of config.json and the default
    /// ones, in order. None where nobody can set them.
    pub devices: Option<Vec<devices::Rule>>,
    /// What a missing permission means for making the directories.
    pub if_denied: IfDenied,
    /// Whether the caller has no right to set device rules, so that failing to
    /// is expected.
    pub rootless: bool,
    /// The host's user to whom it is given (on v2), if not root: what is
    /// delegated of it, or all.
    pub owner: Option<Owner>,
    /// What was asked for and can't be had on this host.
    pub warnings: Vec<String>,
    /// The unit, where systemd makes the cgroup.
    pub unit: Option<Unit>,
}

/// Where a container's cgroup is: the part of state.json, written before any
/// of it exists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who makes and removes it.
    pub manager: Manager,
    /// The directories, which need not exist.
    pub members: Vec<Member>,
    /// The unit, where systemd makes the cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<unit::Name>,
}

impl CgroupPlan {
    /// What is written down about it.
    #[must_use]
    pub fn record(&self) -> Record {
        Record {
            manager: self.manager,
            members: self.members.clone(),
            unit: self.unit.as_ref().map(|unit| unit.name.clone()),
        }
    }

    /// Whether the processes are below the container's own cgroup, in one that is
    /// delegated to them.
    #[must_use]
    pub fn is_delegated(&self) -> bool {
        self.members.iter().any(|member| member.home.is_some())
    }

    /// The host's hierarchies, each with the container's own cgroup in it: for
    /// `cgroup` mounts. Without a cgroup of its own the container stays in
    /// ours.
    #[must_use]
    pub fn view(&self, hierarchies: &Hierarchies) -> CgroupView {
        let own = |hierarchy: &Hierarchy| {
            let member = self
                .members
                .iter()
                .find(|member| member.controllers == hierarchy.controllers);
            member.map_or_else(|| hierarchy.mount.join(&hierarchy.own), Member::place)
        };
        let v1 = hierarchies
            .v1
            .iter()
            .map(|hierarchy| cgroup_mounts::Hierarchy {
                name: hierarchy
                    .mount
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                data: hierarchy.controllers.join(","),
                own: own(hierarchy),
                callers: hierarchy.mount.join(&hierarchy.own),
            });
        CgroupView {
            v1: v1.collect(),
            unified: hierarchies.v2.as_ref().map(|v2| v2.mount.clone()),
            unified_own: hierarchies.v2.as_ref().map(own),
        }
    }
}

/// The container's directory in one hierarchy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// v1: the hierarchy's controllers. Empty for v2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// The directory, below the mount and without a leading slash.
    pub path: String,
    /// v2: where below it the processes are, if not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
}

impl Member {
    /// Whether this is the v2 hierarchy.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Whether `controller` is attached to this v1 hierarchy.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// The directory's full path.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.mount.join(&self.path)
    }

    /// The full path of the directory that has the processes.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        match &self.home {
            Some(home) => self.directory().join(home),
            None => self.directory(),
        }
    }

    /// The directory of the unit `name`, which the container's is or lies below.
    #[must_use]
    pub fn of_unit(&self, name: &str) -> PathBuf {
        let directory = self.directory();
        // The outermost: one below may have the same name.
        let above = directory.ancestors().filter(|path| path.ends_with(name));
        above.last().unwrap_or(&directory).to_owned()
    }
}

/// What it means that a directory may not be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IfDenied {
    /// It is an error.
    #[default]
    Fail,
    /// The container does without, as nothing was asked for that needs it:
    /// rootless, no cgroupsPath. A limit then fails where it is written.
    GoWithout,
}

/// One write(2) to a cgroup file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The controller whose hierarchy has the file; for v2, for messages.
    pub controller: Cow<'static, str>,
    /// The file's name.
    pub file: Cow<'static, str>,
    /// What is written.
    pub value: String,
    /// The field of config.json that asks for it.
    pub field: String,
    /// What it means that the kernel has no such file.
    pub if_missing: IfMissing,
    /// What it means that the kernel answers `EINVAL`.
    pub if_invalid: IfInvalid,
    /// A file whose number the value may not be below (`checkBeforeUpdate`).
    pub not_below: Option<&'static str>,
}

/// What a missing file means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMissing {
    /// It is an error.
    Fail,
    /// The host lacks a feature that can be done without.
    Skip,
    /// The host has the feature under another name, or not at all.
    Else {
        /// The other file.
        file: &'static str,
        /// What is written there.
        value: String,
    },
}

/// What an `EINVAL` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfInvalid {
    /// It is an error.
    Fail,
    /// The value may not fit the old value of a file that is also written:
    /// try again after the controller's other files.
    TryLater,
}

impl Write {
    /// Writes `value` to `file`; whatever goes wrong is an error.
    pub fn new(
        controller: impl Into<Cow<'static, str>>,
        file: impl Into<Cow<'static, str>>,
        value: impl Display,
        field: impl Into<String>,
    ) -> Self {
        Self {
            controller: controller.into(),
            file: file.into(),
            value: value.to_string(),
            field: field.into(),
            if_missing: IfMissing::Fail,
            if_invalid: IfInvalid::Fail,
            not_below: None,
        }
    }

    /// The same, where a missing file is no error.
    #[must_use]
    fn or_skip(self) -> Self {
        Self {
            if_missing: IfMissing::Skip,
            ..self
        }
    }

    /// The same, where a missing file has another name.
    #[must_use]
    fn or_else(self, file: &'static str, value: impl Display) -> Self {
        let value = value.to_string();
        Self {
            if_missing: IfMissing::Else { file, value },
            ..self
        }
    }

    /// The same, tried again after the controller's other files if it is
    /// refused at first.
    #[must_use]
    fn or_later(self) -> Self {
        Self {
            if_invalid: IfInvalid::TryLater,
            ..self
        }
    }

    /// The same, refused when below the number in the file `usage`.
    #[must_use]
    fn not_below(self, usage: Option<&'static str>) -> Self {
        Self {
            not_below: usage,
            ..self
        }
    }
}

/// What a set of limits is in the words of one cgroup version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// The writes, in order.
    pub writes: Vec<Write>,
    /// What this version doesn't have, for a warning.
    pub ignored: Vec<String>,
}

impl Limits {
    fn write(&mut self, write: Write) {
        self.writes.push(write);
    }

    fn ignore(&mut self, field: &str) {
        let why = fields::why(field);
        self.ignored.push(format!("{field} is ignored: {why}"));
    }
}

/// Decides about the cgroup of the container `id`.
///
/// # Errors
/// An invalid value or a limit whose controller the host lacks, with its JSON
/// path; a host without cgroups.
pub fn cgroup(
    spec: &Spec,
    id: &str,
    hierarchies: &Hierarchies,
    rootless: bool,
    manager: Manager,
    systemd: &Facts,
) -> Result<CgroupPlan> {
    let none = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&none);
    let below = Below::parse(&spec.annotations)?;
    if manager == Manager::Disabled {
        let mut plan = CgroupPlan {
            manager,
            ..CgroupPlan::default()
        };
        below.settle(&mut plan, hierarchies.mode())?;
        return Ok(plan);
    }
    if hierarchies.mode() == Mode::None {
        return Err(
            Error::new(Kind::Unsupported, "no cgroup filesystem is mounted")
                .with_hint("mount one, or run without limits: --cgroup-manager disabled"),
        );
    }
    // Without it nothing would keep the container from the host's disks.
    if hierarchies.mode() != Mode::V2 && !hierarchies.offers("devices") {
        let text = "cgroup: the devices controller is not mounted";
        return Err(Error::new(Kind::Unsupported, text));
    }
    let asked = linux
        .cgroups_path
        .as_deref()
        .filter(|path| !path.is_empty());
    let mut unit = match manager {
        Manager::Systemd => Some(Unit::plan(spec, id, systemd)?),
        _ => None,
    };
    let place = match &unit {
        Some(unit) => Place::Absolute(unit.path.clone()),
        None => Place::parse(asked, id)?,
    };
    let mut plan = CgroupPlan {
        manager,
        members: hierarchies
            .v1
            .iter()
            .chain(&hierarchies.v2)
            .map(|hierarchy| place.in_hierarchy(hierarchy, hierarchies.mode()))
            .collect(),
        devices: Some(devices::rules(linux)?),
        if_denied: match (rootless, asked) {
            (true, None) if unit.is_none() => IfDenied::GoWithout,
            _ => IfDenied::Fail,
        },
        rootless,
        ..CgroupPlan::default()
    };
    below.settle(&mut plan, hierarchies.mode())?;
    if let Some(resources) = &linux.resources {
        let mut resources = resources.clone();
        read_zero_pids(&mut resources, &spec.oci_version);
        let limits =
            limits(&resources, hierarchies).map_err(|error| error.within("config.json"))?;
        plan.writes = limits.writes;
        plan.warnings.extend(limits.ignored);
    }
    if let Some(unit) = &mut unit {
        let rules = plan.devices.as_deref().filter(|_| !rootless);
        unit.limit(&plan.writes, rules, hierarchies.mode(), systemd);
    }
    plan.unit = unit;
    Ok(plan)
}

/// Takes a `pids.limit` of 0 out of the resources of a document of this version
/// where it says that there is none, as runc and engines have it: before 1.3.0,
/// which makes it the number of tasks to begin with (runtime-spec 1279).
pub fn read_zero_pids(resources: &mut Resources, oci_version: &str) {
    let mut numbers = oci_version.split(['.', '-', '+']).map(str::parse::<u64>);
    let counts = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (1, 3),
        _ => false,
    };
    if !counts && let Some(pids) = &mut resources.pids {
        pids.limit = pids.limit.filter(|limit| *limit != 0);
    }
}

/// The limits in the words of this host, all but the devices: for a new
/// container, and for `update`.
///
/// # Errors
/// An invalid value, or a limit whose controller the host lacks.
pub fn limits(resources: &Resources, hierarchies: &Hierarchies) -> Result<Limits> {
    let limits = if hierarchies.mode() == Mode::V2 {
        v2::limits(resources)?
    } else {
        v1::limits(resources)?
    };
    for write in &limits.writes {
        let missing = write.if_missing == IfMissing::Fail
            && write.controller != "cgroup"
            && !hierarchies.offers(&write.controller);
        if missing {
            return Err(
                invalid(&write.field, unavailable(&write.controller)).with_kind(Kind::Unsupported)
            );
        }
    }
    Ok(limits)
}

/// A value that can't be used, by its path in config.json (which `update` has
/// no file of that name for).
fn invalid(field: impl Display, cause: impl Display) -> Error {
    Error::new(Kind::InvalidConfig, format!("{field}: {cause}"))
}

/// Why a limit of `controller` can't be set, with the words that runc's
/// callers look for.
pub(crate) fn unavailable(controller: &str) -> String {
    format!(
        "cannot set {controller} limit: container could not join or create cgroup: \
         the {controller} controller is not available"
    )
}

/// What `linux.cgroupsPath` says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// From the top of each hierarchy.
    Absolute(String),
    /// From our own cgroup.
    Relative(String),
}

impl Place {
    /// Without a path, the container's id names a cgroup beside or below our
    /// own. `slice:prefix:name` is systemd's, and here a plain name.
    fn parse(path: Option<&str>, id: &str) -> Result<Self> {
        let path = path.unwrap_or(id);
        let clean = clean(path);
        if clean.is_empty() {
            return Err(Error::config(
                "linux.cgroupsPath",
                format!("{path:?} names no cgroup of its own"),
            ));
        }
        if path.starts_with('/') {
            Ok(Place::Absolute(clean))
        } else {
            Ok(Place::Relative(clean))
        }
    }

    fn in_hierarchy(&self, hierarchy: &Hierarchy, mode: Mode) -> Member {
        let path = match self {
            Place::Absolute(path) => path.clone(),
            Place::Relative(path) => {
                let mut from = hierarchy.own.as_str();
                if mode == Mode::V2 {
                    // We are in our own cgroup, so that it can't have children
                    // with controllers; its parent can.
                    from = from.rsplit_once('/').map_or("", |(parent, _)| parent);
                }
                clean(&format!("{from}/{path}"))
            }
        };
        Member {
            controllers: hierarchy.controllers.clone(),
            mount: hierarchy.mount.clone(),
            path,
            home: None,
        }
    }
}

/// The path without empty, `.` and `..` parts; it never climbs above its
/// beginning.
fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// How the tests of both versions write limits down.
#[cfg(test)]
mod notation {
    use super::{IfInvalid, IfMissing, Limits};

    /// `file=value`, with `~` if tried again later, `?` if it may be missing,
    /// `|` before another name, `>=` before what it may not be below, and `!`
    /// before an ignored field.
    pub(super) fn show(limits: &Limits) -> String {
        let writes = limits.writes.iter().map(|write| {
            let later = match write.if_invalid {
                IfInvalid::Fail => "",
                IfInvalid::TryLater => "~",
            };
            let missing = match &write.if_missing {
                IfMissing::Fail => String::new(),
                IfMissing::Skip => "?".to_owned(),
                IfMissing::Else { file, value } => format!("|{file}={value}"),
            };
            let below = write
                .not_below
                .map_or(String::new(), |file| format!(">={file}"));
            format!("{}={}{later}{missing}{below}", write.file, write.value)
        });
        let ignored = limits
            .ignored
            .iter()
            .map(|text| format!("!{}", text.split(' ').next().unwrap()));
        writes.chain(ignored).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchies(own: &str) -> Hierarchies {
        Hierarchies::parse(
            "2 1 0:2 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
             3 1 0:3 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            &format!("2:devices:{own}\n1:memory:/other\n"),
        )
    }

    fn pure_v2(own: &str) -> Hierarchies {
        let mut found = Hierarchies::parse(
            "3 1 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            &format!("0::{own}\n"),
        );
        found.v2_controllers = vec!["memory".to_owned(), "pids".to_owned()];
        found
    }

    fn spec(json: &str) -> Spec {
        Spec::parse(format!(r#"{{"linux":{json}}}"#).as_bytes()).unwrap()
    }

    #[test]
    fn cgroups_path_names_a_directory_in_each_hierarchy() {
        for (name, path, host, expected) in [
            (
                "v1 default",
                "",
                hierarchies("/own"),
                "devices/own/web memory/other/web",
            ),
            (
                "v1 default at the top",
                "",
                hierarchies("/"),
                "devices/web memory/other/web",
            ),
            (
                "v1 absolute",
                "/a/b",
                hierarchies("/own"),
                "devices/a/b memory/a/b",
            ),
            (
                "v1 relative",
                "a/b",
                hierarchies("/own"),
                "devices/own/a/b memory/other/a/b",
            ),
            (
                "v1 up",
                "/../../etc",
                hierarchies("/own"),
                "devices/etc memory/etc",
            ),
            (
                "v1 relative up",
                "../../etc",
                hierarchies("/own"),
                "devices/own/etc memory/other/etc",
            ),
            (
                "v1 up within",
                "/a/../b/./c//",
                hierarchies("/own"),
                "devices/b/c memory/b/c",
            ),
            (
                "v1 systemd's form",
                "s.slice:p:n",
                hierarchies("/"),
                "devices/s.slice:p:n memory/other/s.slice:p:n",
            ),
            ("v2 default", "", pure_v2("/u/own"), "/u/web"),
            ("v2 default at the top", "", pure_v2("/"), "/web"),
            ("v2 absolute", "/a", pure_v2("/u/own"), "/a"),
            ("v2 relative", "a/b", pure_v2("/own"), "/a/b"),
        ] {
            let spec = spec(&format!(r#"{{"cgroupsPath":{path:?}}}"#));
            let plan = cgroup(
                &spec,
                "web",
                &host,
                false,
                Manager::Cgroupfs,
                &Facts::default(),
            )
            .unwrap();
            let shown: Vec<String> = plan
                .members
                .iter()
                .map(|member| {
                    member.directory().to_str().unwrap()["/sys/fs/cgroup".len()..].to_owned()
                })
                .collect();
            let expected: Vec<String> = expected
                .split(' ')
                .map(|path| format!("/{}", path.trim_start_matches('/')))
                .collect();
            assert_eq!(shown, expected, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_name() {
        let no_devices = Hierarchies::parse(
            "3 1 0:3 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            "1:memory:/\n",
        );
        for (json, host, expected) in [
            (
                "{}",
                Hierarchies::default(),
                "no cgroup filesystem is mounted",
            ),
            (
                "{}",
                no_devices,
                "cgroup: the devices controller is not mounted",
            ),
            (
                r#"{"cgroupsPath":"/"}"#,
                hierarchies("/"),
                "config.json: linux.cgroupsPath: \"/\" names no cgroup of its own",
            ),
            (
                r#"{"cgroupsPath":"a/.."}"#,
                hierarchies("/"),
                "config.json: linux.cgroupsPath: \"a/..\" names no cgroup of its own",
            ),
            (
                r#"{"resources":{"pids":{"limit":5}}}"#,
                hierarchies("/"),
                "config.json: linux.resources.pids.limit: cannot set pids limit: container could \
                 not join or create cgroup: the pids controller is not available",
            ),
            (
                r#"{"resources":{"cpu":{"quota":5000}}}"#,
                pure_v2("/"),
                "config.json: linux.resources.cpu.quota: cannot set cpu limit: container could \
                 not join or create cgroup: the cpu controller is not available",
            ),
        ] {
            let error = cgroup(
                &spec(json),
                "web",
                &host,
                false,
                Manager::Cgroupfs,
                &Facts::default(),
            )
            .unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn no_tasks_is_a_limit_from_version_1_3_on() {
        for (version, limit, expected) in [
            ("", 0, None),
            ("1.0.2-dev", 0, None),
            ("1.2.1", 0, None),
            ("1.2.1", -1, Some(-1)),
            ("1.0.2-dev", 7, Some(7)),
            ("1.3.0-rc.1", 0, Some(0)),
            ("1.3.0", 0, Some(0)),
            ("1.10.0", 0, Some(0)),
            ("2.0.0+x", 0, Some(0)),
        ] {
            let json = format!(r#"{{"pids":{{"limit":{limit}}}}}"#);
            let mut resources = Resources::parse(json.as_bytes()).unwrap();
            read_zero_pids(&mut resources, version);
            assert_eq!(resources.pids.unwrap().limit, expected, "{version} {limit}");
        }
    }

    #[test]
    fn a_disabled_manager_plans_nothing() {
        let spec = spec(r#"{"resources":{"pids":{"limit":5}}}"#);
        let plan = cgroup(
            &spec,
            "web",
            &Hierarchies::default(),
            false,
            Manager::Disabled,
            &Facts::default(),
        )
        .unwrap();
        assert_eq!((plan.members.len(), plan.writes.len()), (0, 0));
        assert_eq!(plan.devices, None);
    }

    #[test]
    fn only_a_rootless_container_without_a_path_goes_without_a_cgroup() {
        for (path, rootless, expected) in [
            ("", true, IfDenied::GoWithout),
            ("", false, IfDenied::Fail),
            ("/a", true, IfDenied::Fail),
        ] {
            let spec = spec(&format!(r#"{{"cgroupsPath":{path:?}}}"#));
            let plan = cgroup(
                &spec,
                "web",
                &hierarchies("/"),
                rootless,
                Manager::Cgroupfs,
                &Facts::default(),
            )
            .unwrap();
            assert_eq!(plan.if_denied, expected, "{path:?} {rootless}");
        }
    }
}
