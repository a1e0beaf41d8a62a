//! The program: decisions to BPF instructions.
//!
//! ```text
//! load arch ─ jump by architecture ─┬─ load number ─ binary search ─┬─ return
//!                                   │   over ranges of numbers      └─ tests of arguments ─ return
//!                                   └─ return KILL (a foreign architecture)
//! ```
//!
//! BPF jumps only forward, and a conditional jump at most 255 instructions
//! far. The program is therefore written from its end to its start: the
//! target of every jump exists when the jump is written, its distance is
//! known, and where that is too far, a jump without condition (or a copy of
//! the return) is put in between.

use super::Instruction;
use super::action::Action;
use super::decide::{Outcome, Rule, Test};
use super::profile::Op;

/// A stretch of syscall numbers with one outcome, up to the next stretch.
pub(super) struct Range {
    pub(super) start: u32,
    /// An index into the outcomes.
    pub(super) outcome: usize,
}

/// The numbers of an audit architecture, from zero on.
pub(super) struct Section {
    pub(super) audit: u32,
    pub(super) ranges: Vec<Range>,
}

/// linux/bpf_common.h, the few that a filter needs.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// A return that is further away than this is written again: that costs one
/// instruction, as a jump to it would.
const NEAR: usize = 200;

/// An instruction that was written: its index, counted from the end.
type Label = usize;

/// Writes the program of all sections.
pub(super) fn assemble(
    sections: &[Section],
    outcomes: &[Outcome],
    default: Action,
    foreign: Action,
) -> Vec<Instruction> {
    let mut program = Assembler {
        reversed: Vec::with_capacity(1024),
        outcomes,
        written: vec![None; outcomes.len()],
        default,
    };
    let foreign = program.returns(foreign, None);
    let entries: Vec<Label> = sections
        .iter()
        .rev()
        .map(|section| program.section(&section.ranges))
        .collect();
    let mut other = foreign;
    for (section, entry) in sections.iter().rev().zip(entries) {
        other = program.branch(JEQ, section.audit, entry, other);
    }
    program.load(ARCH);
    program.reversed.reverse();
    program.reversed
}

struct Assembler<'a> {
    /// The program from its last instruction on.
    reversed: Vec<Instruction>,
    outcomes: &'a [Outcome],
    /// Where each outcome was written last.
    written: Vec<Option<Label>>,
    default: Action,
}

impl Assembler<'_> {
    fn section(&mut self, ranges: &[Range]) -> Label {
        let search = self.search(ranges);
        // A load goes on with the instruction behind it.
        if search + 1 != self.reversed.len() {
            self.jump(search);
        }
        self.load(NUMBER)
    }

    /// A binary search: numbers from the middle on lie to the right.
    fn search(&mut self, ranges: &[Range]) -> Label {
        if let [range] = ranges {
            return self.outcome(range.outcome);
        }
        let (left, right) = ranges.split_at(ranges.len() / 2);
        let start = right[0].start;
        let right = self.search(right);
        let left = self.search(left);
        self.branch(JGE, start, right, left)
    }

    fn outcome(&mut self, index: usize) -> Label {
        let label = match (&self.outcomes[index], self.written[index]) {
            (Outcome::Action(action), last) => self.returns(*action, last),
            (Outcome::Rules(_), Some(label)) => label,
            (Outcome::Rules(rules), None) => self.rules(rules),
        };
        self.written[index] = Some(label);
        label
    }

    /// The rules from first to last, then the default action.
    fn rules(&mut self, rules: &[Rule]) -> Label {
        let mut miss = self.returns(self.default, None);
        let mut last: Option<(Action, Label)> = None;
        for rule in rules.iter().rev() {
            let same = last.filter(|(action, _)| *action == rule.action);
            let mut then = self.returns(rule.action, same.map(|(_, label)| label));
            last = Some((rule.action, then));
            for test in rule.tests.iter().rev() {
                then = self.test(test, then, miss);
            }
            miss = then;
        }
        miss
    }

    fn test(&mut self, test: &Test, yes: Label, no: Label) -> Label {
        match test.op {
            Op::Equal | Op::MaskedEqual => self.equal(test, yes, no),
            Op::NotEqual => self.equal(test, no, yes),
            Op::Greater => self.greater(test, JGT, yes, no),
            Op::LessOrEqual => self.greater(test, JGT, no, yes),
            Op::GreaterOrEqual => self.greater(test, JGE, yes, no),
            Op::Less => self.greater(test, JGE, no, yes),
        }
    }

    fn equal(&mut self, test: &Test, yes: Label, no: Label) -> Label {
        let mut then = yes;
        for (half, value, mask) in [
            (lower(test.arg), low(test.value), low(test.mask)),
            (upper(test.arg), high(test.value), high(test.mask)),
        ] {
            if mask == 0 {
                continue;
            }
            self.branch(JEQ, value, then, no);
            if mask != u32::MAX {
                self.push(AND, mask);
            }
            then = self.load(half);
        }
        then
    }

    /// Greater in the upper half decides; if it is equal, the lower half does.
    fn greater(&mut self, test: &Test, compare: u16, yes: Label, no: Label) -> Label {
        self.branch(compare, low(test.value), yes, no);
        let lower = self.load(lower(test.arg));
        if !test.is_64_bit {
            return lower;
        }
        let equal = self.branch(JEQ, high(test.value), lower, no);
        self.branch(JGT, high(test.value), yes, equal);
        self.load(upper(test.arg))
    }

    /// A return, if `last` is too far away.
    fn returns(&mut self, action: Action, last: Option<Label>) -> Label {
        match last {
            Some(label) if self.reversed.len() - label < NEAR => label,
            _ => self.push(RETURN, action.value()),
        }
    }

    fn load(&mut self, offset: u32) -> Label {
        self.push(LOAD, offset)
    }

    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        // Bringing `no` near may push one instruction, and `yes` must still
        // be near then.
        let yes = self.near(yes, 1);
        let no = self.near(no, 0);
        let (jt, jf) = (self.distance(yes), self.distance(no));
        let jump = Instruction { code, jt, jf, k };
        self.reversed.push(jump);
        self.reversed.len() - 1
    }

    /// A label that a conditional jump reaches from here, after `more`
    /// instructions.
    fn near(&mut self, label: Label, more: usize) -> Label {
        let distance = self.reversed.len() - label - 1;
        if distance + more <= usize::from(u8::MAX) {
            return label;
        }
        self.jump(label)
    }

    /// Goes to a label from anywhere.
    fn jump(&mut self, label: Label) -> Label {
        match self.reversed[label] {
            Instruction {
                code: RETURN, k, ..
            } => self.push(RETURN, k),
            _ => {
                let distance = self.reversed.len() - label - 1;
                // Long before 2^32 instructions the memory is used up.
                #[expect(clippy::expect_used, reason = "the line above")]
                let distance = u32::try_from(distance).expect("a program that fits in memory");
                self.push(JUMP, distance)
            }
        }
    }

    fn distance(&self, label: Label) -> u8 {
        let distance = self.reversed.len() - label - 1;
        // `near` brought the label within 255 instructions.
        #[expect(clippy::expect_used, reason = "proven by near()")]
        u8::try_from(distance).expect("a label within reach")
    }

    fn push(&mut self, code: u16, k: u32) -> Label {
        let (jt, jf) = (0, 0);
        self.reversed.push(Instruction { code, jt, jf, k });
        self.reversed.len() - 1
    }
}

/// The lower half of an argument; all architectures here are little-endian.
fn lower(arg: u8) -> u32 {
    ARGS + 8 * u32::from(arg)
}

fn upper(arg: u8) -> u32 {
    lower(arg) + 4
}

fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn high(value: u64) -> u32 {
    low(value >> 32)
}
