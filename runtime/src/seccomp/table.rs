//! Syscall names and numbers.
//!
//! `tables/*.txt` are made from the kernel's own tables by
//! `hack/syscall-tables`, one file an architecture, sorted by name. The
//! compiler reads them while it builds the crate, and merges them to one
//! sorted array, so that nothing is left to do when the program starts.

use super::arch::{ARM_BASE, Arch};

/// The number that stands for "this architecture has no such syscall".
const NONE: u16 = u16::MAX;

/// The bit by which a number of [`ARM_BASE`] and on is kept in 16.
const OWN: u16 = 0x8000;

/// A syscall's name and its numbers, one an architecture.
struct Entry {
    name: &'static str,
    numbers: [u16; TABLES.len()],
}

/// Names without a number of their own: x86 has them inside of `socketcall`.
const MULTIPLEXED: [(&str, u16); 2] = [("recv", NONE), ("send", NONE)];

const X86_64: [(&str, u16); count(X86_64_TEXT)] = parse(X86_64_TEXT);
const X86: [(&str, u16); count(X86_TEXT)] = parse(X86_TEXT);
const X32: [(&str, u16); count(X32_TEXT)] = parse(X32_TEXT);
const AARCH64: [(&str, u16); count(AARCH64_TEXT)] = parse(AARCH64_TEXT);
const ARM: [(&str, u16); count(ARM_TEXT)] = parse(ARM_TEXT);

const X86_64_TEXT: &str = include_str!("tables/x86_64.txt");
const X86_TEXT: &str = include_str!("tables/x86.txt");
const X32_TEXT: &str = include_str!("tables/x32.txt");
const AARCH64_TEXT: &str = include_str!("tables/aarch64.txt");
const ARM_TEXT: &str = include_str!("tables/arm.txt");

/// In the order of [`Arch::ALL`].
const TABLES: [&[(&str, u16)]; Arch::ALL.len() + 1] =
    [&X86_64, &X86, &X32, &AARCH64, &ARM, &MULTIPLEXED];

static SYSCALLS: [Entry; merged_len()] = merge();

/// A syscall that at least one of our architectures has.
#[derive(Clone, Copy)]
pub(super) struct Syscall(&'static Entry);

impl Syscall {
    /// Finds a syscall by its name.
    pub(super) fn find(name: &str) -> Option<Self> {
        let found = SYSCALLS.binary_search_by(|entry| entry.name.cmp(name));
        found.ok().map(|at| Self(&SYSCALLS[at]))
    }

    /// [`find`](Self::find), first among those that follow `at`, where the last one was
    /// found: the names of most profiles are sorted.
    pub(super) fn find_behind(name: &str, at: &mut usize) -> Option<Self> {
        /// What a profile leaves out at once, mostly.
        const NEAR: usize = 4;
        let near = SYSCALLS.iter().skip(*at).take(NEAR);
        let near = near.enumerate().find(|(_, entry)| entry.name == name);
        let found = match near {
            Some((steps, _)) => *at + steps,
            None => SYSCALLS
                .binary_search_by(|entry| entry.name.cmp(name))
                .ok()?,
        };
        *at = found + 1;
        Some(Self(&SYSCALLS[found]))
    }

    /// Its number as seccomp_data shows it, x32's bit included.
    pub(super) fn number(self, arch: Arch) -> Option<u32> {
        match self.0.numbers[arch as usize] {
            NONE => None,
            number => Some(unpack(number) | arch.number_bits()),
        }
    }

    /// The name.
    pub(super) fn name(self) -> &'static str {
        self.0.name
    }
}

/// All syscalls, sorted by name: for tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    SYSCALLS.iter().map(|entry| entry.name)
}

/// The number of the syscall `name` as seccomp_data shows it.
#[must_use]
pub fn number(arch: Arch, name: &str) -> Option<u32> {
    Syscall::find(name).and_then(|syscall| syscall.number(arch))
}

/// How many entries a table has; the first line is a comment.
const fn count(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut lines, mut at) = (0, 0);
    while at < bytes.len() {
        if bytes[at] == b'\n' {
            lines += 1;
        }
        at += 1;
    }
    lines - 1
}

/// `name number` lines to pairs. A malformed table stops the build.
const fn parse<const N: usize>(text: &'static str) -> [(&'static str, u16); N] {
    let mut entries = [("", NONE); N];
    let bytes = text.as_bytes();
    let mut at = after(bytes, 0, b'\n');
    let mut entry = 0;
    while entry < N {
        let number = after(bytes, at, b' ');
        let end = after(bytes, number, b'\n');
        let (head, _) = text.split_at(number - 1);
        let (_, name) = head.split_at(at);
        entries[entry] = (name, pack(decimal(bytes, number, end - 1)));
        assert!(
            entry == 0 || less(entries[entry - 1].0, name),
            "a syscall table is not sorted"
        );
        at = end;
        entry += 1;
    }
    entries
}

/// The index behind the next `byte`.
const fn after(bytes: &[u8], mut at: usize, byte: u8) -> usize {
    while bytes[at] != byte {
        at += 1;
    }
    at + 1
}

/// A number in 16 bits; one that doesn't fit stops the build.
const fn pack(number: u32) -> u16 {
    let own = number >= ARM_BASE;
    let within = if own { number - ARM_BASE } else { number };
    assert!(within < 0x7fff, "a syscall number is out of range");
    let [low, high, ..] = within.to_le_bytes();
    u16::from_le_bytes([low, high]) | if own { OWN } else { 0 }
}

/// What [`pack`] made 16 bits of.
fn unpack(packed: u16) -> u32 {
    match packed & OWN {
        0 => u32::from(packed),
        _ => ARM_BASE + u32::from(packed & !OWN),
    }
}

const fn decimal(bytes: &[u8], mut at: usize, end: usize) -> u32 {
    let mut value = 0;
    while at < end {
        assert!(bytes[at].is_ascii_digit(), "a syscall number is no number");
        value = value * 10 + (bytes[at] - b'0') as u32;
        at += 1;
    }
    value
}

/// The byte order of two names, as `str` has it, which const code can't ask.
const fn less(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut at = 0;
    while at < a.len() && at < b.len() {
        if a[at] != b[at] {
            return a[at] < b[at];
        }
        at += 1;
    }
    a.len() < b.len()
}

/// The smallest name that is still ahead in any table.
const fn next(heads: [usize; TABLES.len()]) -> Option<&'static str> {
    let mut smallest: Option<&'static str> = None;
    let mut table = 0;
    while table < TABLES.len() {
        if heads[table] < TABLES[table].len() {
            let name = TABLES[table][heads[table]].0;
            smallest = match smallest {
                Some(other) if !less(name, other) => Some(other),
                _ => Some(name),
            };
        }
        table += 1;
    }
    smallest
}

/// Steps over `name` in each table that has it, and gives its numbers.
const fn take(
    heads: [usize; TABLES.len()],
    name: &str,
) -> ([usize; TABLES.len()], [u16; TABLES.len()]) {
    let mut heads = heads;
    let mut numbers = [NONE; TABLES.len()];
    let mut table = 0;
    while table < TABLES.len() {
        let head = heads[table];
        if head < TABLES[table].len() && !less(name, TABLES[table][head].0) {
            numbers[table] = TABLES[table][head].1;
            heads[table] += 1;
        }
        table += 1;
    }
    (heads, numbers)
}

const fn merged_len() -> usize {
    let mut heads = [0; TABLES.len()];
    let mut len = 0;
    while let Some(name) = next(heads) {
        (heads, _) = take(heads, name);
        len += 1;
    }
    len
}

const fn merge<const N: usize>() -> [Entry; N] {
    let mut entries = [const {
        Entry {
            name: "",
            numbers: [NONE; TABLES.len()],
        }
    }; N];
    let mut heads = [0; TABLES.len()];
    let mut entry = 0;
    while let Some(name) = next(heads) {
        let numbers;
        (heads, numbers) = take(heads, name);
        entries[entry] = Entry { name, numbers };
        entry += 1;
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_numbers_of_each_architecture() {
        use Arch::{Aarch64, Arm, X32, X86, X86_64};
        for (arch, name, expected) in [
            (X86_64, "read", Some(0)),
            (X86_64, "openat2", Some(437)),
            (X86_64, "socketcall", None),
            (X86_64, "file_setattr", Some(469)),
            (X86, "read", Some(3)),
            (X86, "socketcall", Some(102)),
            (X86, "clock_gettime64", Some(403)),
            (X86, "accept", None),
            (X32, "read", Some(0x4000_0000)),
            (X32, "execve", Some(0x4000_0000 + 520)),
            (X32, "mseal", Some(0x4000_0000 + 462)),
            (Aarch64, "read", Some(63)),
            (Aarch64, "renameat", Some(38)),
            (Aarch64, "newfstatat", Some(79)),
            (Aarch64, "open", None),
            (Arm, "read", Some(3)),
            (Arm, "clock_gettime64", Some(403)),
            (Arm, "arm_fadvise64_64", Some(270)),
            (Arm, "mmap", None),
            (Arm, "cacheflush", Some(0xf0002)),
            (Arm, "set_tls", Some(0xf0005)),
            (Aarch64, "set_tls", None),
            (X86_64, "", None),
            (X86_64, "zzz", None),
        ] {
            assert_eq!(number(arch, name), expected, "{name} on {arch:?}");
        }
    }

    #[test]
    fn the_merged_table_is_sorted_and_keeps_every_name() {
        assert!(SYSCALLS.is_sorted_by(|a, b| a.name < b.name));
        for (arch, table) in Arch::ALL.into_iter().zip(TABLES) {
            for (name, expected) in table {
                let expected = unpack(*expected) | arch.number_bits();
                assert_eq!(number(arch, name), Some(expected), "{name} on {arch:?}");
            }
        }
    }
}
