//! The profile as typed data: every word read, every number in range.

use super::Support;
use super::action::Action;
use super::arch::{Arch, Named};
use super::table::Syscall;
use crate::error::{Error, Result};
use crate::spec;

/// A profile without a string left in it.
pub(super) struct Profile {
    /// What happens to a syscall without a rule.
    pub(super) default: Action,
    /// The native architecture and those that are named, each once.
    pub(super) architectures: Vec<Arch>,
    /// The entries of `syscalls`, in order.
    pub(super) entries: Vec<Entry>,
    /// Names that no architecture here has, as often as they occur.
    pub(super) unknown: Vec<String>,
}

/// An entry of `syscalls`: rules that share an action.
pub(super) struct Entry {
    /// Its index in `syscalls`.
    pub(super) index: usize,
    pub(super) action: Action,
    pub(super) syscalls: Vec<Syscall>,
    /// Each alternative is a rule of its own. The conditions in one are ANDed
    /// and sorted by argument; without conditions it always matches.
    pub(super) alternatives: Vec<Vec<Condition>>,
}

/// A condition on an argument.
#[derive(Clone, Copy)]
pub(super) struct Condition {
    pub(super) arg: u8,
    pub(super) op: Op,
    /// What the argument is compared with.
    pub(super) value: u64,
    /// Which bits of the argument count.
    pub(super) mask: u64,
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Op {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    MaskedEqual,
}

/// The number of syscall arguments.
const ARGS: u32 = 6;

impl Profile {
    /// Reads a profile; what is odd but harmless goes to `warnings`.
    pub(super) fn parse(
        profile: &spec::Seccomp,
        native: Arch,
        kernel: &Support,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let path = || "linux.seccomp.defaultAction".to_owned();
        let default = Action::parse(
            &profile.default_action,
            profile.default_errno_ret,
            path,
            || "linux.seccomp.defaultErrnoRet".to_owned(),
        )?;
        kernel.check(default, path)?;
        if default == Action::Notify {
            return Err(Error::config(
                path(),
                "SCMP_ACT_NOTIFY can't be the default action: nobody could hand out the listener",
            ));
        }
        let mut parsed = Self {
            default,
            architectures: architectures(profile, native, warnings)?,
            entries: Vec::with_capacity(profile.syscalls.len()),
            unknown: Vec::new(),
        };
        for (index, written) in profile.syscalls.iter().enumerate() {
            let entry = entry(index, written, kernel, &mut parsed.unknown, warnings)?;
            parsed.entries.push(entry);
        }
        Ok(parsed)
    }

    /// Whether a rule asks a supervisor.
    pub(super) fn notifies(&self) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.action == Action::Notify)
    }
}

/// The native architecture first: most syscalls are of it.
fn architectures(
    profile: &spec::Seccomp,
    native: Arch,
    warnings: &mut Vec<String>,
) -> Result<Vec<Arch>> {
    let mut architectures = vec![native];
    for (index, name) in profile.architectures.iter().enumerate() {
        let path = format_args!("linux.seccomp.architectures[{index}]").to_string();
        match Arch::named(name) {
            Named::Known(arch) if architectures.contains(&arch) => {}
            Named::Known(arch) => architectures.push(arch),
            Named::WithoutTable => warnings.push(format!(
                "{path}: no syscall table for {name}: its programs are killed"
            )),
            Named::Unknown => {
                let cause = format_args!("{name:?} is not an architecture").to_string();
                return Err(Error::config(path, cause));
            }
        }
    }
    Ok(architectures)
}

fn entry(
    index: usize,
    written: &spec::Syscall,
    kernel: &Support,
    unknown: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<Entry> {
    let path = |field: &str| format!("linux.seccomp.syscalls[{index}].{field}");
    let action = Action::parse(
        &written.action,
        written.errno_ret,
        || path("action"),
        || path("errnoRet"),
    )?;
    kernel.check(action, || path("action"))?;
    if written.names.is_empty() {
        return Err(Error::config(path("names"), "is empty"));
    }
    let mut syscalls = Vec::with_capacity(written.names.len());
    let mut at = 0;
    for (name_index, name) in written.names.iter().enumerate() {
        let name_path = || path(&format!("names[{name_index}]"));
        match name.as_str() {
            "" => return Err(Error::config(name_path(), "is empty")),
            // The listener leaves the container's first process by a write.
            "write" if action == Action::Notify => {
                return Err(Error::config(
                    name_path(),
                    "SCMP_ACT_NOTIFY can't be used for write: the listener is handed out by it",
                ));
            }
            _ => {}
        }
        match Syscall::find_behind(name, &mut at) {
            Some(syscall) => syscalls.push(syscall),
            None => unknown.push(name.clone()),
        }
    }
    let conditions = written
        .args
        .iter()
        .enumerate()
        .map(|(arg, condition)| {
            Condition::parse(condition, |field| path(&format!("args[{arg}].{field}")))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Entry {
        index,
        action,
        syscalls,
        alternatives: alternatives(conditions, || path("args"), warnings),
    })
}

/// Conditions on different arguments are ANDed. If an argument repeats, each
/// condition is a rule of its own, as runc and crun have it
/// (opencontainers/runc#2735).
fn alternatives(
    mut conditions: Vec<Condition>,
    path: impl FnOnce() -> String,
    warnings: &mut Vec<String>,
) -> Vec<Vec<Condition>> {
    let in_profile_order = conditions.clone();
    conditions.sort_by_key(|condition| condition.arg);
    let repeated = conditions
        .windows(2)
        .find(|pair| pair[0].arg == pair[1].arg)
        .map(|pair| pair[0].arg);
    match repeated {
        None => vec![conditions],
        Some(arg) => {
            warnings.push(format!(
                "{}: index {arg} repeats, so each condition is a rule of its own",
                path()
            ));
            in_profile_order.into_iter().map(|one| vec![one]).collect()
        }
    }
}

impl Condition {
    fn parse(written: &spec::ArgCondition, path: impl Fn(&str) -> String) -> Result<Self> {
        let arg = match u8::try_from(written.index) {
            Ok(arg) if written.index < ARGS => arg,
            _ => {
                return Err(Error::config(
                    path("index"),
                    format_args!("{} is not between 0 and 5", written.index),
                ));
            }
        };
        let op = match written.op.as_str() {
            "SCMP_CMP_NE" => Op::NotEqual,
            "SCMP_CMP_LT" => Op::Less,
            "SCMP_CMP_LE" => Op::LessOrEqual,
            "SCMP_CMP_EQ" => Op::Equal,
            "SCMP_CMP_GE" => Op::GreaterOrEqual,
            "SCMP_CMP_GT" => Op::Greater,
            "SCMP_CMP_MASKED_EQ" => Op::MaskedEqual,
            "" => return Err(Error::config(path("op"), "is missing")),
            other => {
                return Err(Error::config(
                    path("op"),
                    format_args!("{other:?} is not an operator"),
                ));
            }
        };
        let (mask, value) = match op {
            Op::MaskedEqual => (written.value, written.value_two & written.value),
            _ => (u64::MAX, written.value),
        };
        Ok(Self {
            arg,
            op,
            value,
            mask,
        })
    }
}
