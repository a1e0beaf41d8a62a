//! `process`: the program and what it runs as.

use serde::{Deserialize, Serialize};

use super::null_is_default;

/// The container's process, and the document of `exec --process`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct Process {
    /// Whether the process gets a pseudo-terminal.
    pub terminal: bool,
    /// The terminal's size at the start; ignored without `terminal`.
    pub console_size: Option<ConsoleSize>,
    /// Ids and umask.
    #[serde(deserialize_with = "null_is_default")]
    pub user: User,
    /// argv; the first is looked up in the container's `PATH`.
    #[serde(deserialize_with = "null_is_default")]
    pub args: Vec<String>,
    /// `NAME=value` strings.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// The working directory, absolute.
    pub cwd: String,
    /// The five capability sets.
    pub capabilities: Option<Capabilities>,
    /// Resource limits, by setrlimit(2).
    #[serde(deserialize_with = "null_is_default")]
    pub rlimits: Vec<Rlimit>,
    /// Whether execve(2) may no longer grant privileges.
    pub no_new_privileges: bool,
    /// The AppArmor profile of the process.
    pub apparmor_profile: Option<String>,
    /// -1000 to 1000; `None` leaves the inherited value.
    pub oom_score_adj: Option<i32>,
    /// CPU scheduling policy.
    pub scheduler: Option<Scheduler>,
    /// The SELinux label of the process.
    pub selinux_label: Option<String>,
    /// I/O priority.
    pub io_priority: Option<IoPriority>,
    /// CPUs of an exec'ed process.
    #[serde(rename = "execCPUAffinity")]
    pub exec_cpu_affinity: Option<ExecCpuAffinity>,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct ConsoleSize {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

/// Who the process runs as, in the container's user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The file mode creation mask; 0022 if not given.
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(deserialize_with = "null_is_default")]
    pub additional_gids: Vec<u32>,
}

/// The five capability sets, by name. Strings, since a name that this kernel
/// does not know is a warning and no error (config.md).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct Capabilities {
    /// The bounding set.
    #[serde(deserialize_with = "null_is_default")]
    pub bounding: Vec<String>,
    /// The effective set.
    #[serde(deserialize_with = "null_is_default")]
    pub effective: Vec<String>,
    /// The inheritable set.
    #[serde(deserialize_with = "null_is_default")]
    pub inheritable: Vec<String>,
    /// The permitted set.
    #[serde(deserialize_with = "null_is_default")]
    pub permitted: Vec<String>,
    /// The ambient set.
    #[serde(deserialize_with = "null_is_default")]
    pub ambient: Vec<String>,
}

/// One resource limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// The hard limit; without one the limit is refused.
    pub hard: Option<u64>,
    /// The soft limit; without one the limit is refused.
    pub soft: Option<u64>,
}

/// CPU scheduling, by sched_setattr(2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct Scheduler {
    /// `SCHED_OTHER` and so on.
    pub policy: String,
    /// -20 to 19, for the fair policies.
    pub nice: i32,
    /// 1 to 99, for the real-time policies.
    pub priority: i32,
    /// `SCHED_FLAG_RESET_ON_FORK` and so on.
    #[serde(deserialize_with = "null_is_default")]
    pub flags: Vec<String>,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub runtime: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub deadline: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub period: u64,
}

/// I/O priority, by ioprio_set(2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, expecting = "an object")]
pub struct IoPriority {
    /// `IOPRIO_CLASS_RT`, `IOPRIO_CLASS_BE` or `IOPRIO_CLASS_IDLE`.
    pub class: String,
    /// 0 to 7.
    pub priority: i32,
}

/// CPUs of an exec'ed process, as lists such as `0-3,7`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct ExecCpuAffinity {
    /// Before the process enters the container's cgroup.
    pub initial: Option<String>,
    /// After it.
    #[serde(rename = "final")]
    pub last: Option<String>,
}
