//! Random profiles and syscalls, from a seed.

use super::{Arch, ArgCondition, Call, Seccomp, Syscall, table};

/// SplitMix64.
pub(crate) struct Random(u64);

const ACTIONS: [(&str, Option<u32>); 10] = [
    ("SCMP_ACT_ALLOW", None),
    ("SCMP_ACT_ERRNO", None),
    ("SCMP_ACT_ERRNO", Some(13)),
    ("SCMP_ACT_ERRNO", Some(38)),
    ("SCMP_ACT_KILL", None),
    ("SCMP_ACT_KILL_PROCESS", None),
    ("SCMP_ACT_TRAP", None),
    ("SCMP_ACT_TRACE", Some(7)),
    ("SCMP_ACT_LOG", None),
    ("SCMP_ACT_TRACE", None),
];

const OPS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];

const VALUES: [u64; 14] = [
    0,
    1,
    2,
    3,
    0x28,
    0x7e02_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x5_0000_0005,
    0xffff_ffff_0000_0000,
    u64::MAX,
];

/// Syscalls with a history: multiplexed on x86, or with other numbers on x32.
const SPECIAL: [&str; 12] = [
    "socket",
    "connect",
    "accept",
    "accept4",
    "recv",
    "socketcall",
    "ipc",
    "shmat",
    "semop",
    "msgctl",
    "execve",
    "ioctl",
];

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A profile of some rules over few syscalls, so that they meet.
    pub(crate) fn profile(&mut self, names: &[&str]) -> Seccomp {
        let few: Vec<&str> = (0..=self.below(6))
            .map(|_| {
                if self.below(3) == 0 {
                    self.pick(&SPECIAL)
                } else {
                    self.pick(names)
                }
            })
            .collect();
        // Now and then all rules have one action, and nothing is contested.
        let actions: Vec<_> = (0..=self.below(3)).map(|_| self.pick(&ACTIONS)).collect();
        let (default, errno) = self.pick(&ACTIONS);
        let architectures = [
            "SCMP_ARCH_X86",
            "SCMP_ARCH_X32",
            "SCMP_ARCH_X86_64",
            "SCMP_ARCH_AARCH64",
        ]
        .into_iter()
        .filter(|_| self.below(2) == 0)
        .map(str::to_owned)
        .collect();
        let most = if self.below(10) == 0 { 60 } else { 8 };
        let mut profile = Seccomp {
            default_action: default.to_owned(),
            default_errno_ret: errno,
            architectures,
            ..Seccomp::default()
        };
        for _ in 0..self.below(most) {
            let (action, errno_ret) = self.pick(&actions);
            profile.syscalls.push(Syscall {
                names: (0..=self.below(2))
                    .map(|_| self.pick(&few).to_owned())
                    .collect(),
                action: action.to_owned(),
                errno_ret,
                args: self.args(),
            });
        }
        // Last, so that the rules of a seed stay what they were: of some that come
        // otherwise libseccomp makes a program for hours.
        if self.below(2) == 0 {
            profile.architectures.push("SCMP_ARCH_ARM".to_owned());
        }
        profile
    }

    fn args(&mut self) -> Vec<ArgCondition> {
        let count = self.pick(&[0, 0, 1, 1, 1, 2, 2, 3]);
        (0..count)
            .map(|_| ArgCondition {
                index: self.pick(&[0, 0, 1, 1, 2, 5]),
                value: self.value(),
                value_two: self.value(),
                op: format!("SCMP_CMP_{}", self.pick(&OPS)),
            })
            .collect()
    }

    fn value(&mut self) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => self.next() & 0xffff_ffff,
            _ => self.pick(&VALUES),
        }
    }

    /// Calls that come close to the profile's conditions.
    pub(crate) fn calls(&mut self, profile: &Seccomp) -> Vec<Call> {
        let names: Vec<&str> = profile
            .syscalls
            .iter()
            .flat_map(|rule| &rule.names)
            .map(String::as_str)
            .collect();
        let values = values(profile);
        (0..60)
            .map(|_| {
                let arch = self.pick(&[
                    Arch::X86_64,
                    Arch::X86_64,
                    Arch::X86,
                    Arch::X32,
                    Arch::Aarch64,
                    Arch::Arm,
                ]);
                Call {
                    number: self.number(arch, &names),
                    arch: arch.audit(),
                    args: std::array::from_fn(|_| self.near(&values)),
                }
            })
            .collect()
    }

    /// Arguments that come close to the profile's conditions.
    pub(crate) fn args_near(&mut self, profile: &Seccomp) -> [u64; 6] {
        let values = values(profile);
        std::array::from_fn(|_| self.near(&values))
    }

    fn number(&mut self, arch: Arch, names: &[&str]) -> u32 {
        let named = (!names.is_empty())
            .then(|| self.pick(names))
            .and_then(|name| table::number(arch, name));
        let bits = if arch == Arch::X32 { 0x4000_0000 } else { 0 };
        match (self.below(12), named) {
            (0, Some(number)) => number + 1,
            (1, Some(number)) => number.wrapping_sub(1),
            (2, _) => u32::MAX,
            (3, _) => bits | self.pick(&[102, 117]),
            (4, _) | (_, None) => bits | u32::try_from(self.below(600)).unwrap(),
            (_, Some(number)) => number,
        }
    }

    fn near(&mut self, values: &[u64]) -> u64 {
        let value = self.pick(values);
        match self.below(8) {
            0 => value.wrapping_add(1),
            1 => value.wrapping_sub(1),
            2 => value ^ 0x1_0000_0000,
            3 => value & 0xffff_ffff,
            4 => value | 0xffff_ffff,
            _ => value,
        }
    }
}

/// The values that the profile compares with.
fn values(profile: &Seccomp) -> Vec<u64> {
    profile
        .syscalls
        .iter()
        .flat_map(|rule| &rule.args)
        .flat_map(|arg| [arg.value, arg.value_two, arg.value & arg.value_two])
        .chain([1, 0])
        .collect()
}
