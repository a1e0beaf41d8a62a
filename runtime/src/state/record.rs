//! What is written down about a container, and what is derived from it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::ContainerId;
use crate::error::Result;
use crate::plan::intel_rdt;
use crate::spec::DeviceRule;
use crate::sys::handle::Handle;
use crate::sys::mutation::Defence;
use crate::{cgroup, hooks, sys};

/// The content of state.json. Nothing in it can be asked from the kernel: a
/// status would be out of date the moment it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The format of this file, [`Record::VERSION`].
    pub version: u32,
    /// The container's name.
    pub id: ContainerId,
    /// The absolute path of the bundle.
    pub bundle: PathBuf,
    /// The absolute path of the root filesystem.
    pub rootfs: PathBuf,
    /// The annotations of config.json.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// When the container was made, RFC 3339 with nanoseconds, UTC.
    pub created: String,
    /// The user id of who made it.
    pub owner: u32,
    /// Set until `create` is through: what is listed here may exist in part.
    #[serde(default)]
    pub creating: bool,
    /// The container's first process, once there is one.
    #[serde(default)]
    pub init: Option<Process>,
    /// The container's cgroup, as the module `cgroup` wrote it down.
    #[serde(default)]
    pub cgroup: Option<cgroup::Record>,
    /// The container's groups in resctrl, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<intel_rdt::Record>,
    /// Whether the pid namespace is not the container's own: its processes
    /// then outlive the first one, and delete must kill them by the cgroup.
    #[serde(default)]
    pub shares_pid_namespace: bool,
    /// Whether the container has a session keyring of its own, for exec.
    #[serde(default)]
    pub keyring: bool,
    /// Whether its processes are in a time namespace that config.json does not
    /// name: criu puts all that it restores into a new one.
    #[serde(default)]
    pub restored_time: bool,
    /// What updates have said.
    #[serde(default, skip_serializing_if = "Updated::is_empty")]
    pub updated: Updated,
}

/// What `update` has changed of config.json, as far as the kernel can't be asked
/// for it and a later update goes by it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Updated {
    /// `linux.resources.devices`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<DeviceRule>>,
    /// `linux.resources.memory.checkBeforeUpdate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_before_update: Option<bool>,
}

impl Updated {
    /// Whether config.json still says it all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Record {
    /// The format that this program writes.
    pub const VERSION: u32 = 1;

    /// The record of a container that is about to be made, by us and now.
    #[must_use]
    pub fn new(id: ContainerId, bundle: PathBuf, rootfs: PathBuf) -> Self {
        Self {
            version: Self::VERSION,
            id,
            bundle,
            rootfs,
            annotations: BTreeMap::new(),
            created: crate::timestamp::now(),
            owner: nix::unistd::geteuid().as_raw(),
            creating: true,
            init: None,
            cgroup: None,
            intel_rdt: None,
            shares_pid_namespace: false,
            keyring: false,
            restored_time: false,
            updated: Updated::default(),
        }
    }

    /// A descriptor of the container's first process; `None` if it does not
    /// run, or never did.
    ///
    /// # Errors
    /// Those of [`Process::open`].
    pub fn open_init(&self) -> Result<Option<Handle>> {
        match &self.init {
            Some(init) => init.open(),
            None => Ok(None),
        }
    }

    /// What hooks are told, whatever the moment.
    #[must_use]
    pub fn hook_state(&self) -> hooks::State {
        hooks::State {
            id: self.id.as_str().to_owned(),
            bundle: self.bundle.to_string_lossy().into_owned(),
            annotations: self.annotations.clone(),
        }
    }
}

/// A process by pid and start time: a pid alone may be given to another
/// process later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// The pid in our pid namespace.
    pub pid: i32,
    /// Clock ticks from boot to its start (proc(5), field 22 of stat).
    pub start_time: u64,
}

impl Process {
    /// The process that has the pid `pid` now.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` if there is none.
    pub fn now(pid: Pid) -> Result<Self> {
        Ok(Self {
            pid: pid.as_raw(),
            start_time: sys::process::stat(pid)?.start_time,
        })
    }

    /// Whether it runs; a zombie does not.
    ///
    /// # Errors
    /// Those of reading `/proc/PID/stat`, but not that the process is gone.
    pub fn is_alive(&self) -> Result<bool> {
        match sys::process::stat(Pid::from_raw(self.pid)) {
            Ok(stat) => {
                let same = stat.start_time == self.start_time || Defence::StartTime.is_out();
                Ok(same && !matches!(stat.state, 'Z' | 'X' | 'x'))
            }
            Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ESRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A descriptor of the process, to signal it and wait for it; `None` if
    /// it does not run.
    ///
    /// # Errors
    /// Those of [`Handle::open`] and of reading `/proc/PID/stat`.
    pub fn open(&self) -> Result<Option<Handle>> {
        let handle = match Handle::open(Pid::from_raw(self.pid)) {
            Ok(handle) => handle,
            Err(error) if error.errno() == Errno::ESRCH => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Only now: the descriptor holds whatever process had the pid, and
        // its start time says whether that is ours.
        Ok(self.is_alive()?.then_some(handle))
    }
}

/// Where a container stands in its life (runtime-spec, runtime.md), and
/// runc's `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` is at work on it.
    Creating,
    /// Its process waits for `start`.
    Created,
    /// Its program runs.
    Running,
    /// Its cgroup is frozen.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}
