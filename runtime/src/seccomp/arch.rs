//! Architectures: those that a profile can name, and those we have tables of.

/// An architecture with a syscall table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    X86,
    /// 64-bit x86 with 32-bit pointers: the audit architecture of x86_64, with
    /// bit 30 set in the syscall number.
    X32,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM with the EABI, whose programs run on 64-bit ARM, too.
    Arm,
}

/// The bit of an x32 syscall number (asm/unistd.h, `__X32_SYSCALL_BIT`).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// Where ARM's own syscalls begin: `set_tls` and a few others
/// (arch/arm/include/uapi/asm/unistd.h, `__ARM_NR_BASE`).
pub(super) const ARM_BASE: u32 = 0x000f_0000;

/// The other architectures of runtime-spec and libseccomp, for which we have
/// no table.
const WITHOUT_TABLE: [&str; 18] = [
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
];

/// What a name in `architectures` stands for.
pub(super) enum Named {
    /// An architecture we have a table of.
    Known(Arch),
    /// A valid name without a table here.
    WithoutTable,
    /// No architecture at all.
    Unknown,
}

impl Arch {
    /// All of them, in the order of the numbers in a table entry.
    pub const ALL: [Arch; 5] = [Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64, Arch::Arm];

    /// The architecture of this program.
    #[must_use]
    pub const fn native() -> Self {
        if cfg!(target_arch = "aarch64") {
            Arch::Aarch64
        } else {
            Arch::X86_64
        }
    }

    /// Its name in a profile.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "SCMP_ARCH_X86_64",
            Arch::X86 => "SCMP_ARCH_X86",
            Arch::X32 => "SCMP_ARCH_X32",
            Arch::Aarch64 => "SCMP_ARCH_AARCH64",
            Arch::Arm => "SCMP_ARCH_ARM",
        }
    }

    /// What the kernel puts in `seccomp_data.arch` (linux/audit.h).
    #[must_use]
    pub const fn audit(self) -> u32 {
        match self {
            Arch::X86_64 | Arch::X32 => 0xc000_003e,
            Arch::X86 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
            Arch::Arm => 0x4000_0028,
        }
    }

    /// The bits that every syscall number of the architecture has.
    pub(super) const fn number_bits(self) -> u32 {
        match self {
            Arch::X32 => X32_BIT,
            _ => 0,
        }
    }

    /// Where numbers begin that are the architecture's own, apart from those that
    /// grow with each kernel.
    pub(super) const fn own_numbers(self) -> Option<u32> {
        match self {
            Arch::Arm => Some(ARM_BASE),
            _ => None,
        }
    }

    /// Whether arguments have 64 bits. Of a 32-bit architecture only the lower
    /// half of an argument and of a profile's value is compared, as libseccomp
    /// does, for x32, too.
    pub(super) const fn is_64_bit(self) -> bool {
        matches!(self, Arch::X86_64 | Arch::Aarch64)
    }

    /// Reads a name of `architectures`.
    pub(super) fn named(name: &str) -> Named {
        match Arch::ALL.into_iter().find(|arch| arch.name() == name) {
            Some(arch) => Named::Known(arch),
            None if WITHOUT_TABLE.contains(&name) => Named::WithoutTable,
            None => Named::Unknown,
        }
    }
}
