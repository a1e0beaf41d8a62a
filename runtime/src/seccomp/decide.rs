//! What happens to each syscall number of an architecture.
//!
//! Several rules for one syscall are resolved as libseccomp does it, since
//! profiles are written against it:
//!
//! 1. A rule with the default action does nothing.
//! 2. A rule without conditions beats all with conditions; of several, the
//!    first in the profile.
//! 3. Of the rules with conditions the first that matches decides, in this
//!    order: by the lowest argument that they test, the higher one first;
//!    then equality, then less, then greater; then the larger value first
//!    (for less the smaller one), so that the narrower rule comes first; then
//!    the next argument. A rule that only adds conditions to another comes
//!    after it.
//! 4. The same conditions with another action are an error.
//!
//! On x86 the socket and System V IPC calls go through `socketcall` and
//! `ipc`, too: a rule for one of them is also a rule for the multiplexer with
//! the call's number as first argument, which takes the place of a condition
//! on that argument. The others lie behind a pointer there and can't be seen;
//! libseccomp keeps them nevertheless, and so do we.

use std::cmp::{Ordering, Reverse};

use super::action::Action;
use super::arch::Arch;
use super::profile::{Condition, Entry, Op, Profile};
use super::table::{self, Syscall};
use crate::error::{Error, Result};

/// What happens to a syscall.
#[derive(PartialEq, Eq)]
pub(super) enum Outcome {
    /// The same whatever the arguments.
    Action(Action),
    /// The first rule that matches, else the default action.
    Rules(Vec<Rule>),
}

/// Tests that must all hold, and what happens then.
#[derive(PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) tests: Vec<Test>,
    pub(super) action: Action,
}

/// A test of an argument, as wide as the architecture's arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Test {
    pub(super) arg: u8,
    pub(super) op: Op,
    pub(super) value: u64,
    pub(super) mask: u64,
    /// Whether the argument's upper half counts.
    pub(super) is_64_bit: bool,
}

/// An entry of the profile that speaks of a syscall number.
struct Mention<'a> {
    number: u32,
    entry: &'a Entry,
    syscall: Syscall,
    /// The first argument that the multiplexer must have.
    multiplexed: Option<u32>,
}

/// What a profile says of an architecture.
pub(super) struct Decided {
    /// The numbers that have an outcome of their own, ascending.
    pub(super) outcomes: Vec<(u32, Outcome)>,
    /// The highest number that the profile names, whatever it says about it: its
    /// author knew the syscalls up to there. An architecture's own grow with no
    /// kernel.
    pub(super) newest: Option<u32>,
}

/// Resolves the rules of each syscall of an architecture.
///
/// # Errors
/// Rules that contradict each other.
pub(super) fn decide(profile: &Profile, arch: Arch) -> Result<Decided> {
    let mut mentions = Vec::with_capacity(512);
    let mut newest = None;
    let own = arch.own_numbers().unwrap_or(u32::MAX);
    for entry in &profile.entries {
        for syscall in &entry.syscalls {
            let direct = syscall.number(arch).map(|number| (number, None));
            for (number, multiplexed) in multiplexer(*syscall, arch).into_iter().chain(direct) {
                if number < own {
                    newest = newest.max(Some(number));
                }
                if entry.action != profile.default {
                    mentions.push(Mention {
                        number,
                        entry,
                        syscall: *syscall,
                        multiplexed,
                    });
                }
            }
        }
    }
    // Stable: what has the same number stays in the profile's order.
    mentions.sort_by_key(|mention| mention.number);
    let mut outcomes = Vec::with_capacity(mentions.len());
    for of_one in mentions.chunk_by(|a, b| a.number == b.number) {
        outcomes.push((of_one[0].number, outcome(of_one, arch)?));
    }
    Ok(Decided { outcomes, newest })
}

/// On x86, the number of the syscall that carries another, and the number of that in
/// it.
fn multiplexer(syscall: Syscall, arch: Arch) -> Option<(u32, Option<u32>)> {
    if arch != Arch::X86 {
        return None;
    }
    let name = syscall.name();
    let at = MULTIPLEXED.binary_search_by(|(carried, ..)| (*carried).cmp(name));
    let (_, multiplexer, call) = MULTIPLEXED[at.ok()?];
    Some((table::number(arch, multiplexer)?, Some(call)))
}

/// The syscalls that another carries on x86, by name, and their numbers in it
/// (linux/net.h, `SYS_SOCKET`...; linux/ipc.h, `SEMOP`...).
const MULTIPLEXED: [(&str, &str, u32); 32] = [
    ("accept", "socketcall", 5),
    ("accept4", "socketcall", 18),
    ("bind", "socketcall", 2),
    ("connect", "socketcall", 3),
    ("getpeername", "socketcall", 7),
    ("getsockname", "socketcall", 6),
    ("getsockopt", "socketcall", 15),
    ("listen", "socketcall", 4),
    ("msgctl", "ipc", 14),
    ("msgget", "ipc", 13),
    ("msgrcv", "ipc", 12),
    ("msgsnd", "ipc", 11),
    ("recv", "socketcall", 10),
    ("recvfrom", "socketcall", 12),
    ("recvmmsg", "socketcall", 19),
    ("recvmsg", "socketcall", 17),
    ("semctl", "ipc", 3),
    ("semget", "ipc", 2),
    ("semop", "ipc", 1),
    ("semtimedop", "ipc", 4),
    ("send", "socketcall", 9),
    ("sendmmsg", "socketcall", 20),
    ("sendmsg", "socketcall", 16),
    ("sendto", "socketcall", 11),
    ("setsockopt", "socketcall", 14),
    ("shmat", "ipc", 21),
    ("shmctl", "ipc", 24),
    ("shmdt", "ipc", 22),
    ("shmget", "ipc", 23),
    ("shutdown", "socketcall", 13),
    ("socket", "socketcall", 1),
    ("socketpair", "socketcall", 8),
];

/// The outcome of one number, of which all `mentions` speak.
fn outcome(mentions: &[Mention<'_>], arch: Arch) -> Result<Outcome> {
    // Nearly all: the first rule has no conditions, and beats the others.
    let Mention {
        entry, multiplexed, ..
    } = &mentions[0];
    if multiplexed.is_none() && entry.alternatives.iter().any(Vec::is_empty) {
        return Ok(Outcome::Action(entry.action));
    }
    let mut rules = Vec::new();
    for mention in mentions {
        for conditions in &mention.entry.alternatives {
            let tests = tests(conditions, mention.multiplexed, arch);
            if tests.is_empty() {
                return Ok(Outcome::Action(mention.entry.action));
            }
            rules.push((tests, mention));
        }
    }
    refuse_contradictions(&rules, arch)?;
    let mut rules: Vec<Rule> = rules
        .into_iter()
        .map(|(tests, mention)| Rule {
            tests,
            action: mention.entry.action,
        })
        .collect();
    rules.sort_by(|a, b| in_order(&a.tests, &b.tests));
    rules.dedup();
    Ok(Outcome::Rules(rules))
}

/// The tests of a rule. A mask without a bit tests nothing and goes.
fn tests(conditions: &[Condition], multiplexed: Option<u32>, arch: Arch) -> Vec<Test> {
    let is_64_bit = arch.is_64_bit();
    let width = if is_64_bit {
        u64::MAX
    } else {
        u64::from(u32::MAX)
    };
    let test = |condition: &Condition| Test {
        arg: condition.arg,
        op: condition.op,
        value: condition.value & width,
        mask: condition.mask & width,
        is_64_bit,
    };
    let call = multiplexed.map(|call| Test {
        arg: 0,
        op: Op::Equal,
        value: u64::from(call),
        mask: width,
        is_64_bit,
    });
    let own = conditions
        .iter()
        .filter(|condition| call.is_none() || condition.arg != 0)
        .map(test)
        .filter(|test| test.mask != 0);
    call.into_iter().chain(own).collect()
}

/// Two rules with the same tests and different actions: whichever were taken,
/// the profile's author meant the other one somewhere.
fn refuse_contradictions(rules: &[(Vec<Test>, &Mention<'_>)], arch: Arch) -> Result<()> {
    let mut sorted: Vec<_> = rules.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    for pair in sorted.windows(2) {
        let ((one, first), (other, second)) = (pair[0], pair[1]);
        if one == other && first.entry.action != second.entry.action {
            return Err(Error::config(
                format_args!("linux.seccomp.syscalls[{}]", second.entry.index),
                format_args!(
                    "the rule for {:?} on {} contradicts syscalls[{}]: \
                     the same conditions, another action",
                    second.syscall.name(),
                    arch.name(),
                    first.entry.index
                ),
            ));
        }
    }
    Ok(())
}

/// Which of two rules is asked first; see the head of this file.
fn in_order(a: &[Test], b: &[Test]) -> Ordering {
    let key = |test: &Test| {
        let (class, value) = match test.op {
            Op::Equal | Op::NotEqual | Op::MaskedEqual => (0, !test.value),
            Op::Less | Op::LessOrEqual => (1, test.value),
            Op::Greater | Op::GreaterOrEqual => (2, !test.value),
        };
        (Reverse(test.arg), class, value)
    };
    a.iter().map(key).cmp(b.iter().map(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_multiplexed_are_sorted_by_name() {
        assert!(MULTIPLEXED.is_sorted_by(|a, b| a.0 < b.0));
    }
}
