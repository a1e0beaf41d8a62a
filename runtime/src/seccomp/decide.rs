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

/// The numbers that have an outcome of their own, ascending.
pub(super) fn decide(profile: &Profile, arch: Arch) -> Result<Vec<(u32, Outcome)>> {
    let mut mentions = Vec::with_capacity(512);
    for entry in &profile.entries {
        if entry.action == profile.default {
            continue;
        }
        for syscall in &entry.syscalls {
            mentions.extend(
                numbers(*syscall, arch).map(|(number, multiplexed)| Mention {
                    number,
                    entry,
                    syscall: *syscall,
                    multiplexed,
                }),
            );
        }
    }
    // Stable: what has the same number stays in the profile's order.
    mentions.sort_by_key(|mention| mention.number);
    mentions
        .chunk_by(|a, b| a.number == b.number)
        .map(|of_one| Ok((of_one[0].number, outcome(of_one, arch)?)))
        .collect()
}

/// The numbers by which an architecture makes a syscall, the multiplexer's
/// first, with the number of the call in it.
pub(super) fn numbers(syscall: Syscall, arch: Arch) -> impl Iterator<Item = (u32, Option<u32>)> {
    let multiplexed = (arch == Arch::X86)
        .then(|| multiplexer(syscall.name()))
        .flatten()
        .and_then(|(multiplexer, call)| Some((table::number(arch, multiplexer)?, Some(call))));
    let direct = syscall.number(arch).map(|number| (number, None));
    multiplexed.into_iter().chain(direct)
}

/// The syscall that carries `name` on x86, and the number in it
/// (linux/net.h, `SYS_SOCKET`...; linux/ipc.h, `SEMOP`...).
fn multiplexer(name: &str) -> Option<(&'static str, u32)> {
    let socket = |call| Some(("socketcall", call));
    let ipc = |call| Some(("ipc", call));
    match name {
        "socket" => socket(1),
        "bind" => socket(2),
        "connect" => socket(3),
        "listen" => socket(4),
        "accept" => socket(5),
        "getsockname" => socket(6),
        "getpeername" => socket(7),
        "socketpair" => socket(8),
        "send" => socket(9),
        "recv" => socket(10),
        "sendto" => socket(11),
        "recvfrom" => socket(12),
        "shutdown" => socket(13),
        "setsockopt" => socket(14),
        "getsockopt" => socket(15),
        "sendmsg" => socket(16),
        "recvmsg" => socket(17),
        "accept4" => socket(18),
        "recvmmsg" => socket(19),
        "sendmmsg" => socket(20),
        "semop" => ipc(1),
        "semget" => ipc(2),
        "semctl" => ipc(3),
        "semtimedop" => ipc(4),
        "msgsnd" => ipc(11),
        "msgrcv" => ipc(12),
        "msgget" => ipc(13),
        "msgctl" => ipc(14),
        "shmat" => ipc(21),
        "shmdt" => ipc(22),
        "shmget" => ipc(23),
        "shmctl" => ipc(24),
        _ => None,
    }
}

/// The outcome of one number, of which all `mentions` speak.
fn outcome(mentions: &[Mention<'_>], arch: Arch) -> Result<Outcome> {
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
