//! When, on which CPUs and near which memory a process runs: policy and I/O
//! priority, CPU affinity, NUMA memory policy.
//!
//! A process starts with the affinity of the engine that made it, which since
//! Linux 6.2 outlives the move into another cpuset. So it is widened to all CPUs
//! once the cgroup is entered, and the container's cpuset alone decides; only
//! `execCPUAffinity` narrows it again, for processes of `exec`.

use super::process::Document;
use crate::error::{Error, Result};
use crate::spec;

/// The words of the specification and their numbers in linux/sched.h.
pub const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", FIFO),
    ("SCHED_RR", RR),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", DEADLINE),
];

const FIFO: u32 = 1;
const RR: u32 = 2;
const DEADLINE: u32 = 6;

/// The flags of sched_setattr(2).
pub const FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

/// The classes of ioprio_set(2).
pub const IO_CLASSES: [(&str, u16); 3] = [
    ("IOPRIO_CLASS_RT", 1),
    ("IOPRIO_CLASS_BE", 2),
    ("IOPRIO_CLASS_IDLE", 3),
];

/// The modes of set_mempolicy(2).
pub const MEMORY_MODES: [(&str, u32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];

/// The flags that go with a mode.
pub const MEMORY_FLAGS: [(&str, u32); 3] = [
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_STATIC_NODES", 1 << 15),
];

/// As many CPUs as any Linux is built for (`NR_CPUS`).
const CPUS: u32 = 8192;

/// As many memory nodes as any Linux is built for (`MAX_NUMNODES`).
const NODES: u32 = 1024;

/// How a process is scheduled, as far as something was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// The policy.
    pub scheduler: Option<Scheduler>,
    /// The I/O priority as ioprio_set(2) takes it.
    pub io_priority: Option<IoPriority>,
    /// The CPUs of the runtime before it enters the container's cgroup; for
    /// `exec` alone.
    pub initial_cpus: Option<Set>,
    /// The CPUs of the process in its cgroup; for `exec` alone.
    pub final_cpus: Option<Set>,
}

/// The arguments of sched_setattr(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduler {
    /// The policy's name.
    pub name: &'static str,
    /// Its number.
    pub policy: u32,
    /// The flags together.
    pub flags: u64,
    /// -20 to 19.
    pub nice: i32,
    /// The real-time priority.
    pub priority: u32,
    /// Nanoseconds of `SCHED_DEADLINE`.
    pub runtime: u64,
    /// Nanoseconds of `SCHED_DEADLINE`.
    pub deadline: u64,
    /// Nanoseconds of `SCHED_DEADLINE`.
    pub period: u64,
}

/// An I/O priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoPriority {
    /// The class's name.
    pub name: &'static str,
    /// Class and priority as ioprio_set(2) takes them.
    pub value: u16,
}

/// A NUMA memory policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// The mode's name.
    pub name: &'static str,
    /// The mode with its flags.
    pub mode: u32,
    /// The nodes, none for a mode without.
    pub nodes: Option<Set>,
}

/// A set of CPUs or memory nodes: the text, and bit N of the words for N.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// As it was written.
    pub text: String,
    /// The bits.
    pub mask: Vec<u64>,
}

impl Set {
    /// Reads a list such as `0-3,7`; one without numbers is none.
    ///
    /// # Errors
    /// What is no number or range, or not below `limit`.
    fn parse(text: &str, limit: u32) -> Result<Option<Self>, String> {
        let mut mask: Vec<u64> = Vec::new();
        for part in text.split(',').map(str::trim) {
            if part.is_empty() {
                continue;
            }
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                let number: u32 = text
                    .trim()
                    .parse()
                    .map_err(|_| format!("{part:?} is no number and no range"))?;
                if number < limit {
                    Ok(number)
                } else {
                    Err(format!("{number} is not below {limit}"))
                }
            };
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("{part:?} is a range that ends before it begins"));
            }
            let words = last as usize / 64 + 1;
            mask.resize(mask.len().max(words), 0);
            for bit in first..=last {
                mask[bit as usize / 64] |= 1 << (bit % 64);
            }
        }
        Ok((!mask.is_empty()).then(|| Self {
            text: text.to_owned(),
            mask,
        }))
    }
}

impl Scheduling {
    /// Decides about the scheduling of `process`.
    ///
    /// # Errors
    /// Unknown words and values out of range, with their field.
    pub fn plan(process: &spec::Process, document: Document) -> Result<Self> {
        let cpus = process.exec_cpu_affinity.as_ref();
        let set = |field: &str, text: Option<&String>| match text {
            None => Ok(None),
            Some(text) => Set::parse(text, CPUS)
                .map_err(|cause| document.error(format_args!("execCPUAffinity.{field}"), cause)),
        };
        Ok(Self {
            scheduler: process
                .scheduler
                .as_ref()
                .map(|written| scheduler(written, document))
                .transpose()?,
            io_priority: process
                .io_priority
                .as_ref()
                .map(|written| io_priority(written, document))
                .transpose()?,
            initial_cpus: set("initial", cpus.and_then(|cpus| cpus.initial.as_ref()))?,
            final_cpus: set("final", cpus.and_then(|cpus| cpus.last.as_ref()))?,
        })
    }

    /// The same for a container's first process, of which `execCPUAffinity` does
    /// not speak (config.md, "POSIX process").
    #[must_use]
    pub fn of_init(self) -> Self {
        Self {
            initial_cpus: None,
            final_cpus: None,
            ..self
        }
    }
}

/// The number of a word.
fn number<T: Copy>(table: &[(&'static str, T)], word: &str) -> Option<(&'static str, T)> {
    table.iter().copied().find(|(name, _)| *name == word)
}

fn scheduler(written: &spec::Scheduler, document: Document) -> Result<Scheduler> {
    let error =
        |field: &str, cause: String| Err(document.error(format_args!("scheduler.{field}"), cause));
    let Some((name, policy)) = number(&POLICIES, &written.policy) else {
        return error("policy", format!("{:?} is unknown", written.policy));
    };
    let mut flags = 0;
    for (at, word) in written.flags.iter().enumerate() {
        let Some((_, flag)) = number(&FLAGS, word) else {
            return error(&format!("flags[{at}]"), format!("{word:?} is unknown"));
        };
        flags |= flag;
    }
    let nice = written.nice;
    if !(-20..=19).contains(&nice) {
        return error("nice", format!("{nice} is not between -20 and 19"));
    }
    if written.priority != 0 && !matches!(policy, FIFO | RR) {
        let cause = format!("{name} takes none, only SCHED_FIFO and SCHED_RR do");
        return error("priority", cause);
    }
    let Ok(priority @ 0..=99) = u32::try_from(written.priority) else {
        let cause = format!("{} is not between 0 and 99", written.priority);
        return error("priority", cause);
    };
    let times = [
        ("runtime", written.runtime),
        ("deadline", written.deadline),
        ("period", written.period),
    ];
    if policy != DEADLINE
        && let Some((field, _)) = times.iter().find(|(_, time)| *time != 0)
    {
        return error(
            field,
            format!("{name} takes none, only SCHED_DEADLINE does"),
        );
    }
    Ok(Scheduler {
        name,
        policy,
        flags,
        nice,
        priority,
        runtime: written.runtime,
        deadline: written.deadline,
        period: written.period,
    })
}

fn io_priority(written: &spec::IoPriority, document: Document) -> Result<IoPriority> {
    let Some((name, class)) = number(&IO_CLASSES, &written.class) else {
        let cause = format!("{:?} is unknown", written.class);
        return Err(document.error("ioPriority.class", cause));
    };
    match u16::try_from(written.priority) {
        Ok(priority @ 0..=7) => Ok(IoPriority {
            name,
            // IOPRIO_CLASS_SHIFT of linux/ioprio.h.
            value: class << 13 | priority,
        }),
        _ => {
            let cause = format!("{} is not between 0 and 7", written.priority);
            Err(document.error("ioPriority.priority", cause))
        }
    }
}

/// Decides about `linux.memoryPolicy`. An empty object is none, as under runc.
///
/// # Errors
/// Unknown words, and nodes that are no list.
pub fn memory_policy(written: Option<&spec::MemoryPolicy>) -> Result<Option<MemoryPolicy>> {
    let field = |field: &str| format!("linux.memoryPolicy.{field}");
    let Some(written) = written.filter(|written| **written != spec::MemoryPolicy::default()) else {
        return Ok(None);
    };
    let Some((name, mode)) = number(&MEMORY_MODES, &written.mode) else {
        let cause = format!("{:?} is unknown", written.mode);
        return Err(Error::config(field("mode"), cause));
    };
    let mut flags = 0;
    for (at, word) in written.flags.iter().enumerate() {
        let Some((_, flag)) = number(&MEMORY_FLAGS, word) else {
            let cause = format!("{word:?} is unknown");
            return Err(Error::config(field(&format!("flags[{at}]")), cause));
        };
        flags |= flag;
    }
    let nodes = Set::parse(&written.nodes, NODES);
    Ok(Some(MemoryPolicy {
        name,
        mode: mode | flags,
        nodes: nodes.map_err(|cause| Error::config(field("nodes"), cause))?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_masks() {
        for (text, expected) in [
            ("", Ok(None)),
            (" , ", Ok(None)),
            ("0", Ok(Some(vec![1]))),
            ("0-3,7", Ok(Some(vec![0x8f]))),
            (" 1 - 2 , 5", Ok(Some(vec![0x26]))),
            ("63,64", Ok(Some(vec![1 << 63, 1]))),
            ("130", Ok(Some(vec![0, 0, 4]))),
            ("8191", Ok(Some([vec![0; 127], vec![1 << 63]].concat()))),
            ("8192", Err("8192 is not below 8192")),
            (
                "0-9876543210",
                Err("\"0-9876543210\" is no number and no range"),
            ),
            ("3-1", Err("\"3-1\" is a range that ends before it begins")),
            ("a", Err("\"a\" is no number and no range")),
            ("-1", Err("\"-1\" is no number and no range")),
            ("1-", Err("\"1-\" is no number and no range")),
        ] {
            let parsed = Set::parse(text, CPUS).map(|set| set.map(|set| set.mask));
            assert_eq!(parsed, expected.map_err(str::to_owned), "{text:?}");
        }
    }

    fn plan(json: &str) -> Result<Scheduling, String> {
        let process: spec::Process = serde_json::from_str(json).unwrap();
        Scheduling::plan(&process, Document::Config).map_err(|error| error.to_string())
    }

    #[test]
    fn policies_and_flags_become_numbers() {
        let policies = ["OTHER", "FIFO", "RR", "BATCH", "ISO", "IDLE", "DEADLINE"];
        for (policy, name) in policies.into_iter().enumerate() {
            let json = format!(r#"{{"scheduler":{{"policy":"SCHED_{name}"}}}}"#);
            let scheduler = plan(&json).unwrap().scheduler.unwrap();
            assert_eq!(scheduler.policy as usize, policy, "{name}");
        }
        let json = r#"{"scheduler":{"policy":"SCHED_DEADLINE","nice":19,"runtime":1,"deadline":2,"period":3,
            "flags":["SCHED_FLAG_RESET_ON_FORK","SCHED_FLAG_UTIL_CLAMP_MIN","SCHED_FLAG_UTIL_CLAMP_MAX"]}}"#;
        let expected = Scheduler {
            name: "SCHED_DEADLINE",
            policy: 6,
            flags: 0x61,
            nice: 19,
            priority: 0,
            runtime: 1,
            deadline: 2,
            period: 3,
        };
        assert_eq!(plan(json).unwrap().scheduler, Some(expected));
        let json = r#"{"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":5}}"#;
        assert_eq!(plan(json).unwrap().io_priority.unwrap().value, 0x4005);
    }

    #[test]
    fn wrong_values_are_refused_with_their_field() {
        for (json, text) in [
            (r#"{"scheduler":{}}"#, "scheduler.policy: \"\" is unknown"),
            (
                r#"{"scheduler":{"policy":"SCHED_FUN"}}"#,
                "scheduler.policy: \"SCHED_FUN\" is unknown",
            ),
            (
                r#"{"scheduler":{"policy":"SCHED_RR","flags":["SCHED_FLAG_FUN"]}}"#,
                "scheduler.flags[0]: \"SCHED_FLAG_FUN\" is unknown",
            ),
            (
                r#"{"scheduler":{"policy":"SCHED_BATCH","nice":20}}"#,
                "scheduler.nice: 20 is not between -20 and 19",
            ),
            (
                r#"{"scheduler":{"policy":"SCHED_BATCH","priority":1}}"#,
                "scheduler.priority: SCHED_BATCH takes none, only SCHED_FIFO and SCHED_RR do",
            ),
            (
                r#"{"scheduler":{"policy":"SCHED_FIFO","priority":-1}}"#,
                "scheduler.priority: -1 is not between 0 and 99",
            ),
            (
                r#"{"scheduler":{"policy":"SCHED_FIFO","deadline":1}}"#,
                "scheduler.deadline: SCHED_FIFO takes none, only SCHED_DEADLINE does",
            ),
            (
                r#"{"ioPriority":{"class":"IOPRIO_CLASS_NONE"}}"#,
                "ioPriority.class: \"IOPRIO_CLASS_NONE\" is unknown",
            ),
            (
                r#"{"ioPriority":{"class":"IOPRIO_CLASS_RT","priority":8}}"#,
                "ioPriority.priority: 8 is not between 0 and 7",
            ),
            (
                r#"{"execCPUAffinity":{"initial":"x"}}"#,
                "execCPUAffinity.initial: \"x\" is no number and no range",
            ),
            (
                r#"{"execCPUAffinity":{"final":"9000"}}"#,
                "execCPUAffinity.final: 9000 is not below 8192",
            ),
        ] {
            let error = plan(json).unwrap_err();
            assert_eq!(error, format!("config.json: process.{text}"));
        }
    }

    #[test]
    fn memory_policies() {
        let plan = |json: &str| {
            let written: spec::MemoryPolicy = serde_json::from_str(json).unwrap();
            memory_policy(Some(&written)).map_err(|error| error.to_string())
        };
        assert_eq!(plan("{}"), Ok(None));
        let policy = plan(r#"{"mode":"MPOL_BIND","nodes":"0-1","flags":["MPOL_F_STATIC_NODES"]}"#);
        let policy = policy.unwrap().unwrap();
        assert_eq!((policy.mode, policy.nodes.unwrap().mask), (0x8002, vec![3]));
        let policy = plan(r#"{"mode":"MPOL_LOCAL","nodes":""}"#)
            .unwrap()
            .unwrap();
        assert_eq!((policy.mode, policy.nodes), (4, None));
        for (json, text) in [
            (r#"{"nodes":"0"}"#, "mode: \"\" is unknown"),
            (
                r#"{"mode":"INTERLEAVE"}"#,
                "mode: \"INTERLEAVE\" is unknown",
            ),
            (
                r#"{"mode":"MPOL_BIND","flags":["x"]}"#,
                "flags[0]: \"x\" is unknown",
            ),
            (
                r#"{"mode":"MPOL_BIND","nodes":"1024"}"#,
                "nodes: 1024 is not below 1024",
            ),
        ] {
            let text = format!("config.json: linux.memoryPolicy.{text}");
            assert_eq!(plan(json), Err(text));
        }
    }
}
