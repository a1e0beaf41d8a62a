//! Filters run without a kernel: what a program answers to a syscall, and
//! whether the kernel would take it.
//!
//! The tests of the compiler, the comparison with libseccomp and the fuzz
//! target stand on this; nothing that runs a container uses it.

use std::fmt;

use super::Instruction;

/// A syscall as a filter sees it (`struct seccomp_data`, without the
/// instruction pointer, which reads as zero).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The syscall number.
    pub number: u32,
    /// The audit architecture.
    pub arch: u32,
    /// The arguments.
    pub args: [u64; 6],
}

/// Why the kernel would refuse a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    at: usize,
    why: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instruction {}: {}", self.at, self.why)
    }
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const JSET: u16 = 0x45;
const RETURN: u16 = 0x06;

impl Call {
    fn word(&self, offset: u32) -> Option<u32> {
        let half = |value: u64, high: bool| {
            let shifted = if high { value >> 32 } else { value };
            u32::try_from(shifted & 0xffff_ffff).ok()
        };
        match offset {
            0 => Some(self.number),
            4 => Some(self.arch),
            8 | 12 => Some(0),
            16..64 if offset.is_multiple_of(4) => {
                let arg = self.args[usize::try_from((offset - 16) / 8).ok()?];
                half(arg, offset % 8 == 4)
            }
            _ => None,
        }
    }
}

/// Checks what the kernel checks when a filter is loaded (net/core/filter.c,
/// kernel/seccomp.c): length, known instructions, jumps within the program,
/// loads within `seccomp_data`, and a return at the end.
///
/// # Errors
/// The first instruction that is wrong.
pub fn verify(program: &[Instruction]) -> Result<(), Refused> {
    let refused = |at, why| Err(Refused { at, why });
    if program.is_empty() || program.len() > super::MAX_INSTRUCTIONS {
        return refused(program.len(), "a program has 1 to 4096 instructions");
    }
    for (at, instruction) in program.iter().enumerate() {
        let left = program.len() - at - 1;
        match instruction.code {
            LOAD if instruction.k >= 64 || instruction.k % 4 != 0 => {
                return refused(at, "load outside of seccomp_data");
            }
            JUMP if u64::from(instruction.k) >= left as u64 => {
                return refused(at, "jump out of the program");
            }
            JEQ | JGT | JGE | JSET if usize::from(instruction.jt.max(instruction.jf)) >= left => {
                return refused(at, "jump out of the program");
            }
            LOAD | AND | JUMP | JEQ | JGT | JGE | JSET | RETURN => {}
            _ => return refused(at, "unknown instruction"),
        }
    }
    match program.last() {
        Some(last) if last.code == RETURN => Ok(()),
        _ => refused(program.len() - 1, "the last instruction is no return"),
    }
}

/// What the program answers to a syscall: a `SECCOMP_RET_*` value. None if it
/// runs off its end, which [`verify`] rules out.
#[must_use]
pub fn answer(program: &[Instruction], call: &Call) -> Option<u32> {
    let (mut at, mut accumulator) = (0_usize, 0_u32);
    loop {
        let instruction = program.get(at)?;
        at += 1;
        let holds = match instruction.code {
            LOAD => {
                accumulator = call.word(instruction.k)?;
                continue;
            }
            AND => {
                accumulator &= instruction.k;
                continue;
            }
            JUMP => {
                at += usize::try_from(instruction.k).ok()?;
                continue;
            }
            RETURN => return Some(instruction.k),
            JEQ => accumulator == instruction.k,
            JGT => accumulator > instruction.k,
            JGE => accumulator >= instruction.k,
            JSET => accumulator & instruction.k != 0,
            _ => return None,
        };
        at += usize::from(if holds {
            instruction.jt
        } else {
            instruction.jf
        });
    }
}
