//! Capability sets: names become bits, names that mean nothing become
//! warnings.

use std::collections::BTreeSet;

use crate::spec;

/// The capabilities of Linux by number (capabilities(7); linux/capability.h).
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The five sets of a process; bit N is capability N.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What execve can still give.
    pub bounding: u64,
    /// What checks use.
    pub effective: u64,
    /// What a program file may pick up.
    pub inheritable: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What an ordinary program keeps across execve.
    pub ambient: u64,
}

/// Every capability's name in the order of their numbers, for `features`.
#[must_use]
pub fn names() -> &'static [&'static str] {
    &NAMES
}

/// The name of capability `number`.
#[must_use]
pub fn name(number: u32) -> Option<&'static str> {
    NAMES.get(usize::try_from(number).ok()?).copied()
}

/// The names of a set, for people.
#[must_use]
pub fn names_of(set: u64) -> Vec<&'static str> {
    (0..u64::BITS)
        .filter(|bit| set & (1 << bit) != 0)
        .filter_map(name)
        .collect()
}

/// The number of the capability called `name`, with or without `CAP_`, in any
/// case.
#[must_use]
pub fn number(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES
        .iter()
        .position(|known| &known["CAP_".len()..] == bare)
        .and_then(|number| u32::try_from(number).ok())
}

impl Capabilities {
    /// The sets as written, without what this kernel does not know or this
    /// process can't grant, for which a warning is added (config.md: a
    /// runtime SHOULD warn and MUST NOT fail).
    ///
    /// `grantable` is what the container can have at all: every bit in a new
    /// user namespace, else what the runtime itself is permitted.
    #[must_use]
    pub fn plan(written: &spec::Capabilities, grantable: u64, warnings: &mut Vec<String>) -> Self {
        let mut unknown = BTreeSet::new();
        let mut refused = 0_u64;
        let mut set = |names: &[String]| {
            let mut bits = 0_u64;
            for name in names {
                match number(name) {
                    Some(bit) => bits |= 1 << bit,
                    None => drop(unknown.insert(name.clone())),
                }
            }
            refused |= bits & !grantable;
            bits & grantable
        };
        let mut planned = Self {
            bounding: set(&written.bounding),
            effective: set(&written.effective),
            inheritable: set(&written.inheritable),
            permitted: set(&written.permitted),
            ambient: set(&written.ambient),
        };
        // A bit can't be effective without being permitted, nor ambient
        // without being permitted and inheritable (capabilities(7)).
        planned.effective &= planned.permitted;
        // Engines write such sets by default, so this is worth no warning.
        planned.ambient &= planned.permitted & planned.inheritable;
        for name in unknown {
            warnings.push(format!(
                "process.capabilities: {name:?} is unknown and ignored"
            ));
        }
        if refused != 0 {
            warnings.push(format!(
                "process.capabilities: {} left out: can't be granted here",
                names_of(refused).join(", ")
            ));
        }
        planned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_with_and_without_prefix_in_any_case() {
        for (name, bit) in [
            ("CAP_CHOWN", Some(0)),
            ("cap_kill", Some(5)),
            ("NET_ADMIN", Some(12)),
            ("CAP_CHECKPOINT_RESTORE", Some(40)),
            ("CAP_NOPE", None),
            ("", None),
        ] {
            assert_eq!(number(name), bit, "{name}");
        }
    }

    #[test]
    fn unknown_and_ungrantable_capabilities_are_warnings() {
        let written = spec::Capabilities {
            bounding: vec![
                "CAP_KILL".into(),
                "CAP_WARP".into(),
                "CAP_SYS_RESOURCE".into(),
            ],
            permitted: vec!["CAP_KILL".into(), "CAP_WARP".into()],
            effective: vec!["CAP_KILL".into(), "CAP_CHOWN".into()],
            ambient: vec!["CAP_KILL".into()],
            ..Default::default()
        };
        let mut warnings = Vec::new();
        let planned = Capabilities::plan(&written, !(1 << 24), &mut warnings);
        let kill = 1 << 5;
        assert_eq!(
            planned,
            Capabilities {
                bounding: kill,
                permitted: kill,
                effective: kill,
                ..Default::default()
            }
        );
        assert_eq!(
            warnings,
            [
                "process.capabilities: \"CAP_WARP\" is unknown and ignored",
                "process.capabilities: CAP_SYS_RESOURCE left out: can't be granted here",
            ]
        );
    }
}
