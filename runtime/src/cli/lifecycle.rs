//! Options of the commands that make, change and end containers.

use std::path::PathBuf;

use clap::Args;

use super::values::{self, ExecUser};
use crate::error::{Error, Kind, Result};
use crate::state::ContainerId;

/// What `create` and `run` have in common: how a container is made.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct New {
    /// The bundle's directory [default: the current one]
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// A unix socket that gets the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// A unix socket that gets a pidfd of the container's first process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Write the pid of the container's first process to FILE
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Change the root by a move and chroot, for a rootfs on a ramdisk
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Hand on N more descriptors, behind stdio and $LISTEN_FDS
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u16,
}

impl New {
    /// The bundle's directory as it was given, or `.`.
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.bundle.clone().unwrap_or_else(|| PathBuf::from("."))
    }
}

/// `rrun create`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Create {
    /// How the container is made.
    #[command(flatten)]
    pub new: New,
    /// The name of the new container
    #[arg(value_name = "ID")]
    pub id: ContainerId,
}

/// `rrun run`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Run {
    /// How the container is made.
    #[command(flatten)]
    pub new: New,
    /// Leave the container running and return
    #[arg(long, short)]
    pub detach: bool,
    /// Keep the container's state when it has ended
    #[arg(long)]
    pub keep: bool,
    /// Don't adopt the orphans of the container
    #[arg(long)]
    pub no_subreaper: bool,
    /// The name of the new container, or with a slash, a bundle's path
    #[arg(value_name = "ID|BUNDLE/", value_parser = values::run_target)]
    pub target: RunTarget,
}

/// What `run` is told to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunTarget {
    /// The bundle of `--bundle` or of the current directory, under this id.
    Id(ContainerId),
    /// This bundle, under an id made from its folder's name.
    Bundle(PathBuf),
}

impl Run {
    /// The id and the bundle's directory that the arguments mean.
    ///
    /// # Errors
    /// [`Kind::Usage`] for two bundles, or a folder without a name; a path
    /// that can't be resolved.
    pub fn id_and_bundle(&self) -> Result<(ContainerId, PathBuf)> {
        let path = match &self.target {
            RunTarget::Id(id) => return Ok((id.clone(), self.new.bundle())),
            RunTarget::Bundle(path) => path,
        };
        if let Some(bundle) = &self.new.bundle {
            let text = format!("two bundles: {:?} by --bundle and {path:?}", bundle);
            return Err(Error::new(Kind::Usage, text));
        }
        let absolute = crate::sys::call(path.canonicalize(), || format!("realpath({path:?})"))?;
        let name = absolute.file_name().unwrap_or_default().to_string_lossy();
        let id = ContainerId::from_words(&name).ok_or_else(|| {
            Error::new(
                Kind::Usage,
                format!("no id can be made from bundle {path:?}"),
            )
            .with_hint(format!("name one: rrun run -b {} ID", path.display()))
        })?;
        Ok((id, path.clone()))
    }
}

/// `rrun start`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Start {
    /// The container
    #[arg(value_name = "ID")]
    pub id: ContainerId,
}

/// `rrun kill`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Kill {
    /// Send it to every process of the container
    #[arg(long, short, hide = true)]
    pub all: bool,
    /// The container
    #[arg(value_name = "ID")]
    pub id: ContainerId,
    /// A name with or without SIG, or a number
    #[arg(value_name = "SIGNAL", default_value = "TERM", value_parser = values::signal)]
    pub signal: i32,
}

/// `rrun delete`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Delete {
    /// Kill what still runs; no error if there is no such container
    #[arg(long, short)]
    pub force: bool,
    /// The container
    #[arg(value_name = "ID")]
    pub id: ContainerId,
}

/// `rrun exec`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Exec {
    /// A unix socket that gets the master of the process's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// A unix socket that gets a pidfd of the process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// The working directory in the container
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// An environment variable, may be repeated
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Allocate a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// User and group ids
    #[arg(long, short, value_name = "UID[:GID]", value_parser = values::exec_user)]
    pub user: Option<ExecUser>,
    /// A supplementary group id, may be repeated
    #[arg(long, short = 'g', value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// Read the process from a process.json
    #[arg(long, short, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Leave the process running and return
    #[arg(long, short)]
    pub detach: bool,
    /// Write the pid of the process to FILE
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// The SELinux label of the process
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// The AppArmor profile of the process
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// Set no_new_privs for the process
    #[arg(long)]
    pub no_new_privs: bool,
    /// A capability to add, may be repeated
    #[arg(long, short, value_name = "CAP")]
    pub cap: Vec<String>,
    /// Hand on N more descriptors, behind stdio and $LISTEN_FDS
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u16,
    /// Run in an existing sub-cgroup, may be repeated
    #[arg(long, value_name = "[CONTROLLERS:]PATH")]
    pub cgroup: Vec<String>,
    /// Allow a paused container: the process waits until it is resumed
    #[arg(long)]
    pub ignore_paused: bool,
    /// The container
    #[arg(value_name = "ID")]
    pub id: ContainerId,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    pub command: Vec<String>,
}

/// `rrun update`. A value that is not given stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Update {
    /// Read linux.resources as JSON from FILE, or from stdin with -; the other options are then ignored
    #[arg(long, short, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Weight for block I/O, 10 to 1000
    #[arg(long, value_name = "N")]
    pub blkio_weight: Option<u16>,
    /// CFS period in microseconds
    #[arg(long, value_name = "USEC")]
    pub cpu_period: Option<u64>,
    /// CFS quota in microseconds a period, -1 for none
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// CFS burst in microseconds
    #[arg(long, value_name = "USEC")]
    pub cpu_burst: Option<u64>,
    /// CPU shares, relative to other containers
    #[arg(long, value_name = "N")]
    pub cpu_share: Option<u64>,
    /// Realtime period in microseconds
    #[arg(long, value_name = "USEC")]
    pub cpu_rt_period: Option<u64>,
    /// Realtime runtime in microseconds a period
    #[arg(long, value_name = "USEC", allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<i64>,
    /// 1 gives the container only idle CPU time, 0 ends that
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    pub cpu_idle: Option<i64>,
    /// CPUs to use, such as 0-3,7
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Memory limit in bytes or with k, m, g; -1 for none
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = values::bytes)]
    pub memory: Option<i64>,
    /// Memory reservation (soft limit)
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = values::bytes)]
    pub memory_reservation: Option<i64>,
    /// Memory and swap together, -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = values::bytes)]
    pub memory_swap: Option<i64>,
    /// Kernel memory, which no kernel limits any more
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true, value_parser = values::bytes)]
    pub kernel_memory: Option<i64>,
    /// Buffers of TCP, on cgroup v1 where the kernel still limits them
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true, value_parser = values::bytes)]
    pub kernel_memory_tcp: Option<i64>,
    /// Number of processes, -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Schema of the Intel RDT L3 cache
    #[arg(long, value_name = "SCHEMA")]
    pub l3_cache_schema: Option<String>,
    /// Schema of the Intel RDT memory bandwidth
    #[arg(long, value_name = "SCHEMA")]
    pub mem_bw_schema: Option<String>,
    /// The container
    #[arg(value_name = "ID")]
    pub id: ContainerId,
}
