//! `linux.intelRdt`: shares of caches and of memory bandwidth, and their counters
//! (config-linux.md, "IntelRdt").
//!
//! The kernel's interface is resctrl, a filesystem of groups of tasks
//! (Documentation/filesystems/resctrl.rst):
//!
//! ```text
//! /sys/fs/resctrl/              the default group, which has every task
//!   info/                       what the processor can do
//!   schemata, tasks             its shares, its tasks
//!   gold/                       a group with shares of its own: a class of service
//!     schemata, tasks
//!     mon_groups/web/tasks      a part of its tasks, with counters of its own
//! ```
//!
//! A container is in one class: the one that `closID` names, else one of its own
//! that has its id. Decided here is in which groups its processes are, which of
//! them are made and removed, and what is written to `schemata`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::resctrl::Facts;
use crate::spec;

/// Everything about the container's groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntelRdt {
    /// Where resctrl is mounted.
    pub mount: PathBuf,
    /// The groups that a process joins, in this order: the class, and the group
    /// with its counters.
    pub groups: Vec<Group>,
    /// What is written to the `schemata` of the class, each by itself: the kernel
    /// takes a domain only once in a write.
    pub writes: Vec<Write>,
    /// To whose multiples the kernel rounds bandwidths up.
    pub bandwidth_step: Option<u64>,
}

/// A group to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its path below the mount; empty for the mount itself.
    pub path: String,
    /// The JSON path by which it is asked for.
    pub field: &'static str,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a group comes from, and with that, whether it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The default class: always there.
    Default,
    /// A class that somebody has prepared: there, or it is an error.
    Prepared,
    /// A class with a name: made if it is not there, and left for others.
    Shared,
    /// A class for this container: made if it is not there, and then removed.
    Own,
    /// A monitoring group, which must be new: made and removed.
    New,
}

/// Lines for `schemata`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The JSON path of where they are asked for.
    pub field: &'static str,
    /// The lines, without the last line end.
    pub lines: String,
    /// What is done if the class is there already.
    pub if_there: IfThere,
}

/// What is done with lines for a class that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfThere {
    /// They are written.
    Write,
    /// It must have them; nothing is written.
    Compare,
}

/// Where a container's groups are, as state.json has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where resctrl is mounted.
    pub mount: PathBuf,
    /// Its groups in the order in which a process joins them.
    pub groups: Vec<Recorded>,
}

/// A group of a [`Record`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Its path below the mount.
    pub path: String,
    /// What becomes of it with the container.
    pub removal: Removal,
}

/// What becomes of a group with its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removal {
    /// It stays.
    Never,
    /// It is removed if no process is in it. So a group is noted just before it is
    /// made: whoever is killed then can't tell whether another has made it.
    IfIdle,
    /// It is removed.
    Always,
}

impl Origin {
    /// What becomes of a group that was made, once the container is there.
    #[must_use]
    pub fn removal(self) -> Removal {
        match self {
            Origin::Default | Origin::Prepared | Origin::Shared => Removal::Never,
            Origin::Own | Origin::New => Removal::Always,
        }
    }
}

const FIELD: &str = "linux.intelRdt";
const CLASS: &str = "linux.intelRdt.closID";
const SCHEMATA: &str = "linux.intelRdt.schemata";
const CACHE: &str = "linux.intelRdt.l3CacheSchema";
const BANDWIDTH: &str = "linux.intelRdt.memBwSchema";
const MONITORING: &str = "linux.intelRdt.enableMonitoring";

/// The `closID` of the default class.
const DEFAULT_CLASS: &str = "/";

/// Directories of resctrl that are no groups.
const RESERVED: [&str; 3] = ["info", "mon_data", "mon_groups"];

impl IntelRdt {
    /// Decides about `written`, for the container `id`. `facts` is what is known
    /// of resctrl, if it is mounted.
    ///
    /// # Errors
    /// A name that is none of a group, lines that are none, no resctrl, something
    /// that it can't share out or count.
    pub fn plan(
        written: Option<&spec::IntelRdt>,
        id: &str,
        facts: Option<&Facts>,
    ) -> Result<Option<Self>> {
        let Some(written) = written else {
            return Ok(None);
        };
        let class = class(given(written.clos_id.as_ref()), id)?;
        let writes = writes(written, class.origin)?;
        let class = match class.origin {
            Origin::Shared if writes.is_empty() => Group {
                origin: Origin::Prepared,
                ..class
            },
            _ => class,
        };
        // What is wrong on every host comes first.
        let Some(facts) = facts else {
            let cause = "no resctrl filesystem is mounted";
            return Err(Error::config(FIELD, cause)
                .with_kind(Kind::Unsupported)
                .with_hint("mount -t resctrl resctrl /sys/fs/resctrl, if the processor has Intel RDT or its like"));
        };
        check(&writes, written.enable_monitoring, facts)?;
        let mut groups = vec![class];
        if written.enable_monitoring {
            groups.push(monitoring(&groups[0].path, id));
        }
        Ok(Some(Self {
            mount: facts.mount.clone(),
            groups,
            writes,
            bandwidth_step: facts.bandwidth_step,
        }))
    }

    /// Decides for a container `id` that runs in no group, and is to have these
    /// schemas.
    ///
    /// # Errors
    /// As for [`plan`](Self::plan).
    pub fn later(schemas: &Schemas, id: &str, facts: &Facts) -> Result<Self> {
        Ok(Self {
            mount: facts.mount.clone(),
            groups: vec![class(None, id)?],
            writes: schemas.writes(facts)?,
            bandwidth_step: facts.bandwidth_step,
        })
    }
}

/// The schemas that `update` is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schemas {
    /// `--l3-cache-schema`.
    pub l3_cache: Option<String>,
    /// `--mem-bw-schema`.
    pub mem_bw: Option<String>,
}

impl Schemas {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        given(self.l3_cache.as_ref()).is_none() && given(self.mem_bw.as_ref()).is_none()
    }

    /// What is to be written.
    ///
    /// # Errors
    /// runc's words for what this host can't share out; lines that are none.
    pub fn writes(&self, facts: &Facts) -> Result<Vec<Write>> {
        let refuse = |text: &str| Err(Error::new(Kind::Unsupported, text));
        let l3_cache = given(self.l3_cache.as_ref());
        let mem_bw = given(self.mem_bw.as_ref());
        if l3_cache.is_some() && !facts.shares_cache() {
            return refuse("Intel RDT/CAT: l3 cache schema is not enabled");
        }
        if mem_bw.is_some() && !facts.shares_bandwidth() {
            return refuse("Intel RDT/MBA: memory bandwidth schema is not enabled");
        }
        let flag = |flag: &'static str, schema: Option<&str>| {
            schema.map(|lines| write(flag, lines, IfThere::Write))
        };
        let writes = [
            flag("--l3-cache-schema", l3_cache),
            flag("--mem-bw-schema", mem_bw),
        ];
        if let Some(bandwidth) = &writes[1]
            && let Err(cause) = check_bandwidth(&bandwidth.lines)
        {
            return Err(Error::new(Kind::Usage, format!("--mem-bw-schema: {cause}")));
        }
        Ok(writes.into_iter().flatten().collect())
    }
}

/// Go's encoders write an empty string for none.
fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

fn write(field: &'static str, lines: &str, if_there: IfThere) -> Write {
    Write {
        field,
        lines: lines.trim_end_matches('\n').to_owned(),
        if_there,
    }
}

/// The class of service.
fn class(named: Option<&str>, id: &str) -> Result<Group> {
    let group = |path: &str, field, origin| Group {
        path: path.to_owned(),
        field,
        origin,
    };
    let Some(name) = named else {
        check_name(id).map_err(|cause| {
            Error::config(
                FIELD,
                format!("the container's id {cause}, so a closID is needed"),
            )
        })?;
        return Ok(group(id, FIELD, Origin::Own));
    };
    if name == DEFAULT_CLASS {
        return Ok(group("", CLASS, Origin::Default));
    }
    check_name(name).map_err(|cause| Error::config(CLASS, cause))?;
    Ok(group(name, CLASS, Origin::Shared))
}

/// The group that counts for the container `id`, in the class at `class`.
fn monitoring(class: &str, id: &str) -> Group {
    let above = if class.is_empty() {
        String::new()
    } else {
        format!("{class}/")
    };
    Group {
        path: format!("{above}mon_groups/{id}"),
        field: MONITORING,
        origin: Origin::New,
    }
}

/// Whether the kernel makes a class of this name.
fn check_name(name: &str) -> Result<(), String> {
    let cause = match name {
        "." | ".." => "is not the name of a group",
        name if name.contains('/') => "has a slash, and only \"/\" alone may have one",
        // rdtgroup_mkdir refuses it.
        name if name.contains('\n') => "has a line end",
        // NAME_MAX.
        name if name.len() > 255 => "is longer than 255 bytes",
        name if RESERVED.contains(&name) => "is a directory of resctrl's own",
        _ => return Ok(()),
    };
    Err(format!("{name:?} {cause}"))
}

/// What is written to `schemata`: `schemata` last, so that it replaces what the
/// other two say of the same domain.
fn writes(written: &spec::IntelRdt, class: Origin) -> Result<Vec<Write>> {
    // Of a class that has a name and is there, these two must be what it has.
    let if_there = match class {
        Origin::Own => IfThere::Write,
        _ => IfThere::Compare,
    };
    let mut writes = Vec::new();
    if let Some(lines) = given(written.l3_cache_schema.as_ref()) {
        writes.push(write(CACHE, lines, if_there));
    }
    if let Some(line) = given(written.mem_bw_schema.as_ref()) {
        check_bandwidth(line).map_err(|cause| Error::config(BANDWIDTH, cause))?;
        writes.push(write(BANDWIDTH, line, if_there));
    }
    for (number, line) in written.schemata.iter().enumerate() {
        if line.contains('\n') {
            let field = format!("{SCHEMATA}[{number}]");
            return Err(Error::config(field, format!("{line:?} has a line end")));
        }
    }
    if !written.schemata.is_empty() {
        writes.push(write(
            SCHEMATA,
            &written.schemata.join("\n"),
            IfThere::Write,
        ));
    }
    Ok(writes)
}

fn check_bandwidth(line: &str) -> Result<(), String> {
    if !line.starts_with("MB:") {
        return Err(format!("{line:?} does not begin with \"MB:\""));
    }
    if line.contains('\n') {
        return Err(format!("{line:?} has a line end"));
    }
    Ok(())
}

/// Whether this host can do it at all; what values it takes it says itself.
fn check(writes: &[Write], monitored: bool, facts: &Facts) -> Result<()> {
    let refuse = |field: &str, cause: &str| {
        let cause = format!("{cause}: {:?} has nothing for it", facts.mount.join("info"));
        Err(Error::config(field, cause).with_kind(Kind::Unsupported))
    };
    let asks = |field| writes.iter().any(|write| write.field == field);
    if asks(CACHE) && !facts.shares_cache() {
        return refuse(CACHE, "Intel RDT/CAT is not enabled");
    }
    if asks(BANDWIDTH) && !facts.shares_bandwidth() {
        return refuse(BANDWIDTH, "Intel RDT/MBA is not enabled");
    }
    if monitored && !facts.counts() {
        return refuse(MONITORING, "monitoring is not enabled");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `path origin` of each group, then `field=lines` with `?` for what is compared.
    fn show(plan: &IntelRdt) -> String {
        let groups = plan.groups.iter().map(|group| {
            let path = if group.path.is_empty() {
                "."
            } else {
                &group.path
            };
            format!("{path} {:?}", group.origin)
        });
        let writes = plan.writes.iter().map(|write| {
            let name = write.field.rsplit('.').next().unwrap();
            let mark = if write.if_there == IfThere::Compare {
                "?"
            } else {
                ""
            };
            format!("{name}{mark}={}", write.lines)
        });
        groups.chain(writes).collect::<Vec<_>>().join(", ")
    }

    fn facts(info: &[&str]) -> Facts {
        Facts {
            mount: PathBuf::from("/r"),
            info: info.iter().map(|name| (*name).to_owned()).collect(),
            bandwidth_step: Some(10),
        }
    }

    fn plan(json: &str, id: &str, facts: Option<&Facts>) -> Result<Option<String>, String> {
        let written: spec::IntelRdt = serde_json::from_str(json).unwrap();
        let plan = IntelRdt::plan(Some(&written), id, facts);
        plan.map(|plan| plan.as_ref().map(show))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn groups_and_what_is_written() {
        let all = facts(&["L3", "MB", "L3_MON"]);
        for (json, expected) in [
            ("{}", "web Own"),
            (r#"{"closID":""}"#, "web Own"),
            (r#"{"closID":"gold"}"#, "gold Prepared"),
            (r#"{"closID":"gold","schemata":[]}"#, "gold Prepared"),
            (r#"{"closID":"/"}"#, ". Default"),
            (
                r#"{"l3CacheSchema":"L3:0=f"}"#,
                "web Own, l3CacheSchema=L3:0=f",
            ),
            (
                r#"{"closID":"gold","l3CacheSchema":"L3:0=f\n"}"#,
                "gold Shared, l3CacheSchema?=L3:0=f",
            ),
            (
                r#"{"closID":"gold","memBwSchema":"MB:0=9","schemata":["L2:0=1","L3:0=3"]}"#,
                "gold Shared, memBwSchema?=MB:0=9, schemata=L2:0=1\nL3:0=3",
            ),
            (
                r#"{"schemata":["L3:0=1"],"memBwSchema":"MB:0=9","l3CacheSchema":"L3:0=f\nMB:0=8"}"#,
                "web Own, l3CacheSchema=L3:0=f\nMB:0=8, memBwSchema=MB:0=9, schemata=L3:0=1",
            ),
            (
                r#"{"enableMonitoring":true}"#,
                "web Own, web/mon_groups/web New",
            ),
            (
                r#"{"closID":"/","enableMonitoring":true}"#,
                ". Default, mon_groups/web New",
            ),
            (
                r#"{"closID":"gold","enableMonitoring":true}"#,
                "gold Prepared, gold/mon_groups/web New",
            ),
            (
                r#"{"closID":"/","l3CacheSchema":"L3:0=f","schemata":["L3:0=f"]}"#,
                ". Default, l3CacheSchema?=L3:0=f, schemata=L3:0=f",
            ),
        ] {
            assert_eq!(
                plan(json, "web", Some(&all)),
                Ok(Some(expected.to_owned())),
                "{json}"
            );
        }
        assert_eq!(IntelRdt::plan(None, "web", None), Ok(None));
    }

    #[test]
    fn what_can_not_be_is_refused_with_its_field() {
        let all = facts(&["L3", "MB", "L3_MON"]);
        let long = format!(r#"{{"closID":"{}"}}"#, "x".repeat(256));
        let too_long = format!(".closID: \"{}\" is longer than 255 bytes", "x".repeat(256));
        let slash = "has a slash, and only \"/\" alone may have one";
        for (json, id, facts, expected) in [
            ("{}", "web", None, ": no resctrl filesystem is mounted".to_owned()),
            (r#"{"closID":"."}"#, "web", None, ".closID: \".\" is not the name of a group".to_owned()),
            (r#"{"closID":".."}"#, "web", Some(&all), ".closID: \"..\" is not the name of a group".to_owned()),
            (r#"{"closID":"a/b"}"#, "web", None, format!(".closID: \"a/b\" {slash}")),
            (r#"{"closID":"/a"}"#, "web", None, format!(".closID: \"/a\" {slash}")),
            (r#"{"closID":"//"}"#, "web", None, format!(".closID: \"//\" {slash}")),
            (r#"{"closID":"a\nb"}"#, "web", None, ".closID: \"a\\nb\" has a line end".to_owned()),
            (&long, "web", None, too_long),
            (r#"{"closID":"info"}"#, "web", None, ".closID: \"info\" is a directory of resctrl's own".to_owned()),
            (r#"{"closID":"mon_data"}"#, "web", None, ".closID: \"mon_data\" is a directory of resctrl's own".to_owned()),
            (
                "{}",
                "mon_groups",
                Some(&all),
                ": the container's id \"mon_groups\" is a directory of resctrl's own, so a closID is needed".to_owned(),
            ),
            (r#"{"memBwSchema":"L3:0=f"}"#, "web", None, ".memBwSchema: \"L3:0=f\" does not begin with \"MB:\"".to_owned()),
            (r#"{"memBwSchema":"MB:0=9\nL3:0=f"}"#, "web", None, ".memBwSchema: \"MB:0=9\\nL3:0=f\" has a line end".to_owned()),
            (r#"{"schemata":["a","b\n"]}"#, "web", None, ".schemata[1]: \"b\\n\" has a line end".to_owned()),
        ] {
            let expected = Err(format!("config.json: linux.intelRdt{expected}"));
            assert_eq!(plan(json, id, facts), expected, "{json}");
        }
    }

    #[test]
    fn what_the_processor_lacks_is_refused_with_its_field() {
        let cache = r#"{"l3CacheSchema":"L3:0=f"}"#;
        let bandwidth = r#"{"memBwSchema":"MB:0=9"}"#;
        let monitoring = r#"{"enableMonitoring":true}"#;
        let nothing = ": \"/r/info\" has nothing for it";
        for (json, info, expected) in [
            (cache, &["L3"][..], None),
            (cache, &["L3CODE", "L3DATA"], None),
            (
                cache,
                &["L2", "MB", "L3_MON"],
                Some(".l3CacheSchema: Intel RDT/CAT is not enabled"),
            ),
            (bandwidth, &["MB"], None),
            (
                bandwidth,
                &["L3", "SMBA"],
                Some(".memBwSchema: Intel RDT/MBA is not enabled"),
            ),
            (monitoring, &["L3_MON"], None),
            (monitoring, &["PERF_PKG_MON"], None),
            (
                monitoring,
                &["L3", "MB"],
                Some(".enableMonitoring: monitoring is not enabled"),
            ),
            // Whatever it is, the kernel knows.
            (r#"{"schemata":["L9:0=1"]}"#, &[], None),
        ] {
            let found = plan(json, "web", Some(&facts(info))).err();
            let expected =
                expected.map(|text| format!("config.json: linux.intelRdt{text}{nothing}"));
            assert_eq!(found, expected, "{json} {info:?}");
        }
    }

    #[test]
    fn an_update_writes_or_is_refused_in_the_words_of_runc() {
        let no_cache = "Intel RDT/CAT: l3 cache schema is not enabled";
        let no_bandwidth = "Intel RDT/MBA: memory bandwidth schema is not enabled";
        for (l3_cache, mem_bw, info, expected) in [
            (
                Some("L3:0=f"),
                None,
                &["L3"][..],
                Ok("web Own, --l3-cache-schema=L3:0=f"),
            ),
            (
                None,
                Some("MB:0=9"),
                &["MB"],
                Ok("web Own, --mem-bw-schema=MB:0=9"),
            ),
            (
                Some("L3:0=f"),
                Some("MB:0=9"),
                &["L3", "MB"],
                Ok("web Own, --l3-cache-schema=L3:0=f, --mem-bw-schema=MB:0=9"),
            ),
            (
                Some("L3:0=f"),
                Some(""),
                &["L3"],
                Ok("web Own, --l3-cache-schema=L3:0=f"),
            ),
            (Some("L3:0=f"), None, &["MB"], Err(no_cache)),
            (None, Some("MB:0=9"), &["L3"], Err(no_bandwidth)),
            (
                None,
                Some("L3:0=f"),
                &["MB"],
                Err("--mem-bw-schema: \"L3:0=f\" does not begin with \"MB:\""),
            ),
        ] {
            let schemas = Schemas {
                l3_cache: l3_cache.map(str::to_owned),
                mem_bw: mem_bw.map(str::to_owned),
            };
            let found = IntelRdt::later(&schemas, "web", &facts(info));
            let found = found.as_ref().map(show).map_err(ToString::to_string);
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(found, expected, "{schemas:?}");
            assert!(!schemas.is_empty());
        }
        let empty = Schemas {
            l3_cache: Some(String::new()),
            mem_bw: None,
        };
        assert!(empty.is_empty());
    }
}
