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

/// What an option takes of criu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The option as it is written.
    pub option: &'static str,
    /// The first version that has it, as major * 10000 + minor * 100 + sublevel.
    pub version: i32,
}

impl Criu {
    /// What options of this command line need more than the oldest criu.
    #[must_use]
    pub fn needs(&self) -> Vec<Need> {
        let lock = self.network_lock.map(|lock| match lock {
            Lock::Iptables | Lock::Nftables => Need {
                option: "--network-lock",
                version: 31_600,
            },
            Lock::Skip => Need {
                option: "--network-lock skip",
                version: 31_900,
            },
        });
        lock.into_iter().collect()
    }
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
    /// Give open files that were deleted a name again, beside the one they had
    #[arg(long)]
    pub link_remap: bool,
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
    /// What options of this command line need more than the oldest criu.
    #[must_use]
    pub fn needs(&self) -> Vec<Need> {
        let profile = self.lsm_profile.as_ref().map(|_| "--lsm-profile");
        let context = self.lsm_mount_context.as_ref();
        let context = context.map(|_| "--lsm-mount-context");
        let mut needs = self.criu.needs();
        needs.extend([profile, context].into_iter().flatten().map(|option| Need {
            option,
            version: 31_600,
        }));
        needs
    }

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

/// A type of namespace, in the words of config.json. criu knows no other.
fn namespace(text: &str) -> Result<CloneFlags, String> {
    match text {
        "network" => Ok(CloneFlags::CLONE_NEWNET),
        _ => Err(format!("namespace {text:?} is not supported")),
    }
}

/// `ADDRESS:PORT`, an address with colons in brackets.
fn page_server(text: &str) -> Result<PageServer, String> {
    let (address, port) =
        host_and_port(text).ok_or("use ADDRESS:PORT to specify the page server")?;
    let port = port.parse().ok().filter(|port| *port > 0);
    Ok(PageServer {
        address: address.to_owned(),
        port: port.ok_or("invalid port number")?,
    })
}

/// The two parts, both of which are there, as Go's `net.SplitHostPort` finds
/// them.
fn host_and_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once("]:")?,
        None => text.split_once(':')?,
    };
    let is_plain = |part: &str| !part.is_empty() && !part.contains(['[', ']']);
    let whole = is_plain(host) && is_plain(port) && !port.contains(':');
    whole.then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read() {
        assert_eq!(namespace("network"), Ok(CloneFlags::CLONE_NEWNET));
        for text in ["net", "pid", "user", ""] {
            let refusal = format!("namespace {text:?} is not supported");
            assert_eq!(namespace(text), Err(refusal));
        }
        let server = |address: &str, port| {
            Ok(PageServer {
                address: address.to_owned(),
                port,
            })
        };
        let neither = || Err("use ADDRESS:PORT to specify the page server");
        for (text, expected) in [
            ("10.0.0.1:27", server("10.0.0.1", 27)),
            ("[::1]:27", server("::1", 27)),
            ("[fe80::1%lo]:27", server("fe80::1%lo", 27)),
            ("[host]:27", server("host", 27)),
            ("10.0.0.1", neither()),
            (":27", neither()),
            ("h:", neither()),
            ("::1:27", neither()),
            ("[::1]", neither()),
            ("[::1]27", neither()),
            ("[::1:27", neither()),
            ("[::1]:27:28", neither()),
            ("[]:27", neither()),
            ("h]:27", neither()),
            ("h:[27", neither()),
            ("h:0", Err("invalid port number")),
            ("h:70000", Err("invalid port number")),
        ] {
            assert_eq!(page_server(text), expected.map_err(str::to_owned), "{text}");
        }
    }
}
