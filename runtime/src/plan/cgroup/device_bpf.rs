//! The program that decides about devices on cgroup v2: for the kernel's BPF
//! machine, made from the rules.

use super::devices::{Access, Device, Devices, Kind, Rule};

/// One instruction of a BPF program (struct bpf_insn).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Class, operation and source.
    pub code: u8,
    /// Destination register (low half) and source register (high half).
    pub registers: u8,
    /// Jump distance or memory offset.
    pub offset: i16,
    /// The constant.
    pub immediate: i32,
}

impl Instruction {
    /// As the kernel reads it.
    #[must_use]
    pub fn bytes(self) -> [u8; 8] {
        let offset = self.offset.to_ne_bytes();
        let immediate = self.immediate.to_ne_bytes();
        [
            self.code,
            self.registers,
            offset[0],
            offset[1],
            immediate[0],
            immediate[1],
            immediate[2],
            immediate[3],
        ]
    }
}

/// The registers of [`program`].
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The operations of [`program`] (linux/bpf.h, linux/bpf_common.h).
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// The program that decides as `rules` do (`BPF_PROG_TYPE_CGROUP_DEVICE`).
///
/// It goes through the rules from the last to the first with the accesses that
/// are still to be granted. A rule that grants some of them takes them from
/// the set, and the answer is yes when it is empty; a rule that takes one of
/// them makes the answer no.
#[must_use]
pub fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut code = vec![
        // struct bpf_cgroup_dev_ctx: type and access in one word, major, minor.
        load(KIND, 0),
        Instruction {
            code: MOVE_REGISTER,
            registers: WANTED | KIND << 4,
            offset: 0,
            immediate: 0,
        },
        operation(AND, KIND, 0xffff),
        operation(SHIFT_RIGHT, WANTED, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        match rule.devices {
            Devices::All => {
                // No earlier rule can say anything any more.
                code.extend(answer(rule.allow));
                return code;
            }
            Devices::Some(device, access) => {
                code.extend(block(device, access, rule.allow).unwrap_or_default());
            }
        }
    }
    code.extend(answer(false));
    code
}

/// The instructions of one rule; none for a device that can't exist.
fn block(device: Device, access: Access, allow: bool) -> Option<Vec<Instruction>> {
    let kind = match device.kind {
        Kind::Block => 1,
        Kind::Char => 2,
    };
    let mut conditions = vec![(KIND, kind)];
    for (register, number) in [(MAJOR, device.major), (MINOR, device.minor)] {
        if let Some(number) = number {
            conditions.push((register, i32::try_from(number).ok()?));
        }
    }
    let bits = i32::from(access.bits());
    let all = i32::from(Access::ALL.bits());
    let mut body = if allow {
        vec![
            operation(AND, WANTED, all & !bits),
            jump(JUMP_IF_NOT_EQUAL, WANTED, 0, 2),
        ]
    } else {
        vec![
            Instruction {
                code: MOVE_REGISTER,
                registers: ANSWER | WANTED << 4,
                offset: 0,
                immediate: 0,
            },
            operation(AND, ANSWER, bits),
            jump(JUMP_IF_EQUAL, ANSWER, 0, 2),
        ]
    };
    body.extend(answer(allow));
    // Each condition jumps over those after it and the body.
    let mut distance = i16::try_from(conditions.len() + body.len()).ok()?;
    let mut code = Vec::with_capacity(conditions.len() + body.len());
    for (register, value) in conditions {
        distance -= 1;
        code.push(jump(JUMP_IF_NOT_EQUAL, register, value, distance));
    }
    code.extend(body);
    Some(code)
}

fn load(register: u8, offset: i16) -> Instruction {
    Instruction {
        code: LOAD_WORD,
        registers: register | CONTEXT << 4,
        offset,
        immediate: 0,
    }
}

fn operation(code: u8, register: u8, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: register,
        offset: 0,
        immediate,
    }
}

fn jump(code: u8, register: u8, immediate: i32, offset: i16) -> Instruction {
    Instruction {
        offset,
        ..operation(code, register, immediate)
    }
}

fn answer(allow: bool) -> [Instruction; 2] {
    [operation(MOVE, ANSWER, allow.into()), operation(EXIT, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::super::devices::notation::parse;
    use super::*;

    /// What the kernel's interpreter would answer.
    fn run(program: &[Instruction], kind: Kind, major: u32, minor: u32, access: &str) -> bool {
        let access = u64::from(Access::parse(access).unwrap().bits());
        let kind = match kind {
            Kind::Block => 1,
            Kind::Char => 2,
        };
        let context = [access << 16 | kind, major.into(), minor.into()];
        let mut registers = [0u64; 11];
        let mut at = 0;
        for _ in 0..program.len() {
            let Instruction {
                code,
                registers: both,
                offset,
                immediate,
            } = program[at];
            let (to, from) = (usize::from(both & 15), usize::from(both >> 4));
            let value = i64::from(immediate).cast_unsigned();
            let mut skip = 0;
            match code {
                LOAD_WORD => registers[to] = context[usize::try_from(offset).unwrap() / 4],
                MOVE => registers[to] = value,
                MOVE_REGISTER => registers[to] = registers[from],
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                JUMP_IF_EQUAL if registers[to] == value => skip = offset,
                JUMP_IF_NOT_EQUAL if registers[to] != value => skip = offset,
                JUMP_IF_EQUAL | JUMP_IF_NOT_EQUAL => {}
                EXIT => return registers[0] == 1,
                other => panic!("unknown operation {other:#x}"),
            }
            at += 1 + usize::try_from(skip).unwrap();
        }
        panic!("ran past the end");
    }

    #[test]
    fn the_program_answers_as_the_last_rule_that_matches() {
        use Kind::{Block, Char};
        for (name, rules, kind, major, minor, access, expected) in [
            ("nothing is denied", "", Char, 1, 3, "r", false),
            ("all", "+a", Block, 8, 0, "rwm", true),
            ("nothing after all", "+a, -a", Block, 8, 0, "r", false),
            ("exact", "-a, +c 1:3 rwm", Char, 1, 3, "rw", true),
            ("another minor", "-a, +c 1:3 rwm", Char, 1, 5, "r", false),
            ("another major", "-a, +c 1:3 rwm", Char, 2, 3, "r", false),
            ("another type", "-a, +c 1:3 rwm", Block, 1, 3, "r", false),
            ("too much access", "-a, +c 1:3 r", Char, 1, 3, "rw", false),
            (
                "access by two rules",
                "-a, +c 1:3 r, +c 1:3 w",
                Char,
                1,
                3,
                "rw",
                true,
            ),
            (
                "access by a wildcard too",
                "-a, +c *:* m, +c 1:3 rw",
                Char,
                1,
                3,
                "rwm",
                true,
            ),
            ("every minor", "-a, +c 136:* rw", Char, 136, 77, "rw", true),
            ("every major", "-a, +b *:7 r", Block, 9, 7, "r", true),
            (
                "taken back",
                "+c 1:3 rwm, -c 1:3 w",
                Char,
                1,
                3,
                "rw",
                false,
            ),
            (
                "the rest stays",
                "+c 1:3 rwm, -c 1:3 w",
                Char,
                1,
                3,
                "r",
                true,
            ),
            (
                "given again",
                "+a, -c 1:3 rwm, +c 1:3 r",
                Char,
                1,
                3,
                "r",
                true,
            ),
            ("all but one", "+a, -c 1:3 rwm", Char, 1, 3, "m", false),
            (
                "all but one, another",
                "+a, -c 1:3 rwm",
                Char,
                1,
                4,
                "m",
                true,
            ),
            (
                "a hole in a wildcard",
                "+c *:* rwm, -c 1:3 w",
                Char,
                1,
                3,
                "w",
                false,
            ),
            (
                "beside the hole",
                "+c *:* rwm, -c 1:3 w",
                Char,
                1,
                5,
                "w",
                true,
            ),
            (
                "a number no device has",
                "+c 4294967295:1 rwm",
                Char,
                1,
                1,
                "r",
                false,
            ),
        ] {
            let program = program(&parse(rules));
            assert_eq!(
                run(&program, kind, major, minor, access),
                expected,
                "{name}"
            );
        }
    }
}
