//! `linux.seccomp`: the syscall filter, as written.

use serde::{Deserialize, Serialize};

use super::null_is_default;

/// A seccomp profile (config-linux.md, "Seccomp"). Actions, architectures,
/// flags and operators stay strings here: which of them this build and kernel
/// know is decided by the compiler in `seccomp`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct Seccomp {
    /// What happens to a syscall that no rule names, `SCMP_ACT_...`.
    pub default_action: String,
    /// The errno of the default action, where it carries one.
    pub default_errno_ret: Option<u32>,
    /// `SCMP_ARCH_...`; the native one if none is given.
    #[serde(deserialize_with = "null_is_default")]
    pub architectures: Vec<String>,
    /// `SECCOMP_FILTER_FLAG_...`; absent and empty differ.
    pub flags: Option<Vec<String>>,
    /// The socket that gets the notify descriptor.
    pub listener_path: Option<String>,
    /// Opaque data for the receiver of the notify descriptor.
    pub listener_metadata: Option<String>,
    /// The rules.
    #[serde(deserialize_with = "null_is_default")]
    pub syscalls: Vec<Syscall>,
}

/// A rule for some syscalls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct Syscall {
    /// Syscall names.
    #[serde(deserialize_with = "null_is_default")]
    pub names: Vec<String>,
    /// What happens, `SCMP_ACT_...`.
    pub action: String,
    /// The errno, where the action carries one.
    pub errno_ret: Option<u32>,
    /// Conditions on the arguments.
    #[serde(deserialize_with = "null_is_default")]
    pub args: Vec<ArgCondition>,
}

/// A condition on one argument.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct ArgCondition {
    /// Which argument, 0 to 5.
    pub index: u32,
    /// What it is compared with; the mask of `SCMP_CMP_MASKED_EQ`.
    pub value: u64,
    /// The masked value of `SCMP_CMP_MASKED_EQ`.
    pub value_two: u64,
    /// `SCMP_CMP_...`.
    pub op: String,
}
