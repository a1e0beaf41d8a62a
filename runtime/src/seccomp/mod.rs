//! The seccomp compiler: a profile to the BPF program that the kernel runs
//! before each syscall. Pure: no syscall is made here.
//!
//! ```text
//! spec::Seccomp ─ profile ─> rules ─ decide ─> number: outcome ─ ranges ─> assemble ─> program
//!                 read the words   one per architecture          merged    binary search
//! ```
//!
//! [`profile`] reads every word of the profile. [`decide`] resolves the rules
//! of each syscall of each architecture, with libseccomp's meaning. Here the
//! outcomes become ranges of numbers, together with what a profile doesn't
//! say: syscalls that are newer than the profile answer `ENOSYS` where it
//! denies by default, so that programs fall back to older ones, as with runc;
//! foreign architectures and an x32 that the profile doesn't name are killed.
//! [`assemble`] writes the program.
//!
//! The `seccompiler` crate can't express a profile: it knows one action and
//! one architecture in a filter, no notification, and few flags.

mod action;
mod arch;
mod assemble;
mod decide;
pub mod interpreter;
mod profile;
pub mod table;

use std::path::PathBuf;

pub use action::Action;
pub use arch::Arch;

use crate::error::{Error, Result};
use crate::spec;
use crate::sys::mutation::Defence;
use arch::X32_BIT;
use assemble::{Range, Section};
use decide::Outcome;
use profile::Profile;

/// An instruction, laid out as the kernel takes it.
pub type Instruction = libc::sock_filter;

/// The longest program that the kernel takes (linux/bpf_common.h,
/// `BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// What happens to a syscall of an architecture that the profile doesn't name
/// (libseccomp's default for `SCMP_FLTATR_ACT_BADARCH`).
const FOREIGN: Action = Action::KillThread;

/// The answer to a syscall that is newer than the profile.
const TOO_NEW: Action = Action::Errno(38);

/// A filter, ready to be loaded.
#[derive(Debug, Clone)]
pub struct Filter {
    /// The program for seccomp(2).
    pub program: Vec<Instruction>,
    /// The flags for seccomp(2), `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// Who gets the notify descriptor; only if the filter notifies.
    pub listener: Option<Listener>,
    /// Whether loading the filter returns a notify descriptor.
    pub notifies: bool,
    /// What `rrun plan` prints.
    pub summary: Summary,
    /// What is odd in the profile, a line each, with JSON path.
    pub warnings: Vec<String>,
    /// Names that no table knows. The engines' profiles name syscalls of many
    /// kernels and architectures, so this is no reason to warn.
    pub unknown: Vec<String>,
}

/// The receiver of the notify descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// A Unix stream socket.
    pub path: PathBuf,
    /// Opaque data for it.
    pub metadata: String,
}

/// A filter in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// What happens to a syscall without a rule.
    pub default: Action,
    /// How many syscalls (of all architectures together) each action has
    /// whatever their arguments, in order of the action.
    pub unconditional: Vec<(Action, usize)>,
    /// How many syscalls are decided by their arguments.
    pub conditional: usize,
    /// The architectures that are not killed.
    pub architectures: Vec<Arch>,
    /// How many instructions the program has.
    pub instructions: usize,
}

/// What the kernel doesn't know of seccomp; the default is nothing.
///
/// Linux 4.18 knows everything but `SCMP_ACT_NOTIFY` (5.0) and
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (5.19), so there is no need to ask
/// the kernel ([`crate::sys::seccomp`]) for a profile without them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Support {
    /// Actions, as `SECCOMP_RET_*` values.
    pub missing_actions: Vec<u32>,
    /// Flags, as `SECCOMP_FILTER_FLAG_*` bits.
    pub missing_flags: u32,
}

impl Support {
    fn check(&self, action: Action, path: impl FnOnce() -> String) -> Result<()> {
        let value = action.value() & libc::SECCOMP_RET_ACTION_FULL;
        if self.missing_actions.contains(&value) {
            let cause = format_args!("{action} is unknown to this kernel").to_string();
            return Err(Error::config(path(), cause));
        }
        Ok(())
    }
}

/// Whether a profile asks for nothing: without default action and rules there
/// is no filter, as with runc.
#[must_use]
pub fn is_disabled(profile: &spec::Seccomp) -> bool {
    profile.default_action.is_empty() && profile.syscalls.is_empty()
}

/// Compiles a profile for a machine of the architecture `native`.
///
/// # Errors
/// A word that isn't in the specification, a number out of range, rules that
/// contradict each other, a program that is too long; with JSON path.
pub fn compile(profile: &spec::Seccomp, native: Arch, kernel: &Support) -> Result<Filter> {
    let mut warnings = Vec::new();
    let parsed = Profile::parse(profile, native, kernel, &mut warnings)?;
    let notifies = parsed.notifies();
    let listener = listener(profile, notifies)?;
    let flags = flags(profile, notifies, kernel, &mut warnings)?;
    let (program, summary) = program(&parsed)?;
    Ok(Filter {
        program,
        flags,
        listener,
        notifies,
        summary,
        warnings,
        unknown: parsed.unknown,
    })
}

fn listener(profile: &spec::Seccomp, notifies: bool) -> Result<Option<Listener>> {
    let path = profile
        .listener_path
        .as_deref()
        .filter(|path| !path.is_empty());
    let metadata = profile.listener_metadata.as_deref().unwrap_or_default();
    match path {
        None if notifies => Err(Error::config(
            "linux.seccomp.listenerPath",
            "is missing, and SCMP_ACT_NOTIFY needs it",
        )),
        None if !metadata.is_empty() => Err(Error::config(
            "linux.seccomp.listenerMetadata",
            "is set without listenerPath",
        )),
        Some(path) if notifies => Ok(Some(Listener {
            path: PathBuf::from(path),
            metadata: metadata.to_owned(),
        })),
        _ => Ok(None),
    }
}

/// The flags for seccomp(2). `flags` that is absent means SPEC_ALLOW, an empty
/// one nothing.
fn flags(
    profile: &spec::Seccomp,
    notifies: bool,
    kernel: &Support,
    warnings: &mut Vec<String>,
) -> Result<u32> {
    const LOG: u32 = 1 << 1;
    const SPEC_ALLOW: u32 = 1 << 2;
    const NEW_LISTENER: u32 = 1 << 3;
    const WAIT_KILLABLE_RECV: u32 = 1 << 5;
    let mut flags = if notifies { NEW_LISTENER } else { 0 };
    let Some(names) = &profile.flags else {
        return Ok(flags | (SPEC_ALLOW & !kernel.missing_flags));
    };
    for (index, name) in names.iter().enumerate() {
        let path = format_args!("linux.seccomp.flags[{index}]").to_string();
        let flag = match name.as_str() {
            // The filter is loaded by a process with one thread: there is
            // nothing to synchronise, and the kernel refuses TSYNC beside
            // NEW_LISTENER.
            "SECCOMP_FILTER_FLAG_TSYNC" => 0,
            "SECCOMP_FILTER_FLAG_LOG" => LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => SPEC_ALLOW,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => WAIT_KILLABLE_RECV,
            _ => {
                let cause = format_args!("{name:?} is not a flag").to_string();
                return Err(Error::config(path, cause));
            }
        };
        if flag & kernel.missing_flags != 0 {
            warnings.push(format!(
                "{path}: {name} is unknown to this kernel, and ignored"
            ));
        } else if flag == WAIT_KILLABLE_RECV && !notifies {
            warnings.push(format!(
                "{path}: {name} does nothing without SCMP_ACT_NOTIFY"
            ));
        } else {
            flags |= flag;
        }
    }
    Ok(flags)
}

fn program(profile: &Profile) -> Result<(Vec<Instruction>, Summary)> {
    let mut outcomes = Outcomes::new(profile.default);
    let mut sections: Vec<Section> = Vec::new();
    let mut summary = Summary {
        default: profile.default,
        unconditional: Vec::new(),
        conditional: 0,
        architectures: profile.architectures.clone(),
        instructions: 0,
    };
    for arch in &profile.architectures {
        // x32 is a part of x86_64's section.
        if !sections.iter().any(|section| section.audit == arch.audit()) {
            sections.push(section(profile, *arch, &mut outcomes, &mut summary)?);
        }
    }
    summary.unconditional.sort_unstable();
    let program = assemble::assemble(&sections, &outcomes.all, profile.default, foreign());
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::config(
            "linux.seccomp",
            format_args!(
                "the filter has {} instructions, and the kernel takes {MAX_INSTRUCTIONS}",
                program.len()
            ),
        ));
    }
    summary.instructions = program.len();
    Ok((program, summary))
}

/// What becomes of a call of an architecture that the profile does not name.
fn foreign() -> Action {
    if Defence::ForeignArchitecture.is_out() {
        return Action::Allow;
    }
    FOREIGN
}

/// The ranges of the audit architecture of `arch`.
fn section(
    profile: &Profile,
    arch: Arch,
    outcomes: &mut Outcomes,
    summary: &mut Summary,
) -> Result<Section> {
    let mut ranges = Ranges(Vec::with_capacity(512));
    let foreign = outcomes.action(foreign());
    let default = outcomes.action(profile.default);
    ranges.start(0, foreign);
    for part in Arch::ALL {
        if part.audit() != arch.audit() || !profile.architectures.contains(&part) {
            continue;
        }
        let base = part.number_bits();
        ranges.start(base, default);
        let decided = decide::decide(profile, part)?;
        let own = part.own_numbers();
        let is_common = |(number, _): &(u32, _)| own.is_none_or(|own| *number < own);
        let common = decided.outcomes.partition_point(is_common);
        let mut numbers = decided.outcomes.into_iter();
        for (number, outcome) in numbers.by_ref().take(common) {
            summary.count(&outcome);
            ranges.one(number, outcomes.index(outcome), default);
        }
        if let Some(last) = decided.newest
            && !profile.default.lets_through()
        {
            ranges.start(last + 1, outcomes.action(TOO_NEW));
        }
        if let Some(own) = own {
            ranges.start(own, default);
        }
        for (number, outcome) in numbers {
            summary.count(&outcome);
            ranges.one(number, outcomes.index(outcome), default);
        }
        if part == Arch::X86_64 {
            ranges.start(X32_BIT, foreign);
        }
    }
    // A tracer skips a syscall by making its number -1; the filter runs again
    // then, and libseccomp gives it the default action.
    ranges.start(u32::MAX, default);
    Ok(Section {
        audit: arch.audit(),
        ranges: ranges.0,
    })
}

impl Summary {
    fn count(&mut self, outcome: &Outcome) {
        let Outcome::Action(action) = outcome else {
            self.conditional += 1;
            return;
        };
        match self.unconditional.iter_mut().find(|(of, _)| of == action) {
            Some((_, count)) => *count += 1,
            None => self.unconditional.push((*action, 1)),
        }
    }
}

/// All different outcomes; a range names one by its index.
struct Outcomes {
    all: Vec<Outcome>,
}

impl Outcomes {
    fn new(default: Action) -> Self {
        Self {
            all: vec![Outcome::Action(default)],
        }
    }

    fn action(&mut self, action: Action) -> usize {
        self.index(Outcome::Action(action))
    }

    fn index(&mut self, outcome: Outcome) -> usize {
        let found = self.all.iter().position(|other| *other == outcome);
        found.unwrap_or_else(|| {
            self.all.push(outcome);
            self.all.len() - 1
        })
    }
}

/// Ranges in ascending order, neighbours with one outcome merged.
struct Ranges(Vec<Range>);

impl Ranges {
    /// This number has this outcome, what follows the default one.
    fn one(&mut self, number: u32, outcome: usize, default: usize) {
        self.start(number, outcome);
        self.start(number + 1, default);
    }

    /// From `start` on the outcome is this.
    fn start(&mut self, start: u32, outcome: usize) {
        if self.0.last().is_some_and(|last| last.start == start) {
            self.0.pop();
        }
        if self.0.last().is_none_or(|last| last.outcome != outcome) {
            self.0.push(Range { start, outcome });
        }
    }
}

#[cfg(test)]
mod tests;
