//! Options of `checkpoint` and `restore`.

use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nix::sched::CloneFlags;

use super::lifecycle::New;
use crate::criu::{CgroupMode, NetworkLock, PageServer};
use crate::state::ContainerId;

/// What both have in common: where images are, and what criu may do.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub struct Criu {
    /// The directory of the images [default: ./checkpoint]
    #[arg(long, value_name = "DIR")]
    pub image_path: Option<PathBuf>,
    /// The directory of criu's logs and statistics [default: that of the images]
    #[arg(long, value_name = "DIR")]
    pub work_path: Option<PathBuf>,
    /// Allow open TCP connections
    #[arg(long)]
    pub tcp_established: bool,
    /// Close TCP connections
    #[arg(long)]
    pub tcp_close: bool,
    /// Allow unix sockets with a peer outside
    #[arg(long)]
    pub ext_unix_sk: bool,
    /// Allow a session or a terminal from outside
    #[arg(long)]
    pub shell_job: bool,
    /// Keep file locks
    #[arg(long)]
    pub file_locks: bool,
    /// What criu does with cgroups
    #[arg(long, value_name = "MODE", value_enum, default_value_t = ManageCgroups::Soft)]
    pub manage_cgroups_mode: ManageCgroups,
    /// A type of namespace that is made, but whose content is not kept, may be repeated
    #[arg(long, value_name = "TYPE", value_parser = namespace)]
    pub empty_ns: Vec<CloneFlags>,
    /// Drop pages from earlier images that later ones have
    #[arg(long)]
    pub auto_dedup: bool,
    /// Fetch memory only when it is touched
    #[arg(long)]
    pub lazy_pages: bool,
    /// How connections are kept from changing meanwhile
    #[arg(long, value_name = "METHOD", value_enum)]
    pub network_lock: Option<Lock>,
}

/// The values of `--manage-cgroups-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ManageCgroups {
    /// Properties only of cgroups that criu makes.
    Soft,
    /// Always.
    Full,
    /// Always, and nothing may be there before.
    Strict,
    /// Nothing: all processes are restored into the container's own cgroup.
    Ignore,
}

impl ManageCgroups {
    /// The mode for criu.
    #[must_use]
    pub fn mode(self) -> CgroupMode {
        match self {
            ManageCgroups::Soft => CgroupMode::Soft,
            ManageCgroups::Full => CgroupMode::Full,
            ManageCgroups::Strict => CgroupMode::Strict,
            ManageCgroups::Ignore => CgroupMode::Ignore,
        }
    }
}

/// The values of `--network-lock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lock {
    /// By rules of iptables.
    Iptables,
    /// By rules of nftables.
    Nftables,
    /// Not at all.
    Skip,
}

impl Lock {
    /// The method for criu.
    #[must_use]
    pub fn method(self) -> NetworkLock {
        match self {
            Lock::Iptables => NetworkLock::Iptables,
            Lock::Nftables => NetworkLock::Nftables,
            Lock::Skip => NetworkLock::Skip,
        }
    }
}

/// `rrun checkpoint`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Checkpoint {
    /// What restore has, too.
    #[command(flatten)]
    pub criu: Criu,
    /// Leave the container running
    #[arg(long)]
    pub leave_running: bool,
    /// Write memory only, and leave the container running: later images are smaller
    #[arg(long)]
    pub pre_dump: bool,
    /// Images of an earlier pre-dump, relative to the images
    #[arg(long, value_name = "DIR")]
    pub parent_path: Option<PathBuf>,
    /// Send memory to a page server instead of the images
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = page_server)]
    pub page_server: Option<PageServer>,
    /// With --lazy-pages: an open descriptor that gets a NUL when criu waits for a client
    #[arg(long, value_name = "FD")]
    pub status_fd: Option<RawFd>,
    /// Leave out TCP connections that are not established yet
    #[arg(long)]
    pub tcp_skip_in_flight: bool,
    /// The container
    #[arg(value_name = "ID")]
    pub id: ContainerId,
}

/// `rrun restore`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Restore {
    /// What checkpoint has, too.
    #[command(flatten)]
    pub criu: Criu,
    /// The bundle's directory [default: the current one]
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// A unix socket that gets the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Write the pid of the container's first process to FILE
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Leave the container running and return
    #[arg(long, short)]
    pub detach: bool,
    /// Don't adopt the orphans of the container
    #[arg(long)]
    pub no_subreaper: bool,
    /// Taken for runc's sake: criu changes the root in its own way
    #[arg(long)]
    pub no_pivot: bool,
    /// Another security profile than the one in the images
    #[arg(long, value_name = "TYPE:NAME")]
    pub lsm_profile: Option<String>,
    /// Another SELinux context of mounts than the one in the images
    #[arg(long, value_name = "CONTEXT")]
    pub lsm_mount_context: Option<String>,
    /// The name of the restored container
    #[arg(value_name = "ID")]
    pub id: ContainerId,
}

impl Restore {
    /// How `run` would be told to make the container.
    #[must_use]
    pub fn new_container(&self) -> New {
        New {
            bundle: self.bundle.clone(),
            console_socket: self.console_socket.clone(),
            pidfd_socket: None,
            pid_file: self.pid_file.clone(),
            no_pivot: self.no_pivot,
            // criu restores a process with the keyrings of whoever asks.
            no_new_keyring: true,
            preserve_fds: 0,
        }
    }
}

/// A type of namespace, in the words of config.json.
fn namespace(text: &str) -> Result<CloneFlags, String> {
    Ok(match text {
        "network" => CloneFlags::CLONE_NEWNET,
        "pid" => CloneFlags::CLONE_NEWPID,
        "mount" => CloneFlags::CLONE_NEWNS,
        "ipc" => CloneFlags::CLONE_NEWIPC,
        "uts" => CloneFlags::CLONE_NEWUTS,
        "user" => CloneFlags::CLONE_NEWUSER,
        "cgroup" => CloneFlags::CLONE_NEWCGROUP,
        _ => return Err(format!("namespace {text:?} is not supported")),
    })
}

/// `ADDRESS:PORT`.
fn page_server(text: &str) -> Result<PageServer, String> {
    let (address, port) = text
        .rsplit_once(':')
        .filter(|(address, _)| !address.is_empty())
        .ok_or("use ADDRESS:PORT to specify the page server")?;
    let port = port.parse().ok().filter(|port| *port > 0);
    Ok(PageServer {
        address: address.to_owned(),
        port: port.ok_or("invalid port number")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read() {
        assert_eq!(namespace("network"), Ok(CloneFlags::CLONE_NEWNET));
        assert_eq!(
            namespace("net"),
            Err("namespace \"net\" is not supported".to_owned())
        );
        let server = |address: &str, port| {
            Ok(PageServer {
                address: address.to_owned(),
                port,
            })
        };
        for (text, expected) in [
            ("10.0.0.1:27", server("10.0.0.1", 27)),
            ("::1:27", server("::1", 27)),
            (
                "10.0.0.1",
                Err("use ADDRESS:PORT to specify the page server"),
            ),
            (":27", Err("use ADDRESS:PORT to specify the page server")),
            ("h:0", Err("invalid port number")),
            ("h:70000", Err("invalid port number")),
        ] {
            assert_eq!(page_server(text), expected.map_err(str::to_owned), "{text}");
        }
    }
}
