//! The options in front of the command.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::values;
use crate::log::{LogFormat, LogLevel};

/// Options of every command.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Global {
    /// The directory of the containers' states, best in a tmpfs [default: /run/rrun, rootless: $XDG_RUNTIME_DIR/rrun]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Write the log to FILE, errors also to stderr
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// How the log file is written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// What is worth a line in the log
    #[arg(long, value_name = "LEVEL", default_value = "warning")]
    pub log_level: LogLevel,
    /// At the end, print to stderr where the time went, step by step
    #[arg(long)]
    pub timing: bool,
    /// The same as --log-level debug
    #[arg(long)]
    pub debug: bool,
    /// The same as --cgroup-manager systemd
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// Who makes the containers' cgroups
    #[arg(long, value_name = "MANAGER", default_value = "cgroupfs")]
    pub cgroup_manager: CgroupManager,
    /// Whether to go on where cgroups can't be written: true, false or auto
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = values::rootless)]
    pub rootless: Rootless,
    /// The path of the criu binary [default: criu in $PATH]
    #[arg(long, value_name = "PATH")]
    pub criu: Option<PathBuf>,
    /// Print the version
    #[arg(long, short = 'v', exclusive = true)]
    version: bool,
}

impl Global {
    /// Who makes cgroups, by whichever flag it was said.
    #[must_use]
    pub fn cgroup_manager(&self) -> CgroupManager {
        if self.systemd_cgroup {
            CgroupManager::Systemd
        } else {
            self.cgroup_manager
        }
    }

    /// What is worth a line, by whichever flag it was said.
    #[must_use]
    pub fn log_level(&self) -> LogLevel {
        if self.debug {
            LogLevel::Debug
        } else {
            self.log_level
        }
    }
}

/// Who makes the containers' cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CgroupManager {
    /// We, by mkdir.
    Cgroupfs,
    /// systemd, asked over D-Bus.
    Systemd,
    /// Nobody: containers stay in our own cgroup.
    Disabled,
}

/// Whether a cgroup that can't be written is no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rootless {
    /// It is no error.
    Yes,
    /// It is an error.
    No,
    /// It is no error for a user who is not root.
    Auto,
}
