//! Options of the commands that look at containers and bundles.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values;
use crate::state::ContainerId;

/// `rrun state`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct State {
    /// The container
    #[arg(value_name = "ID")]
    pub id: ContainerId,
}

/// `rrun list`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct List {
    /// How to print
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub format: ListFormat,
    /// Print only ids
    #[arg(long, short)]
    pub quiet: bool,
}

/// How `list` and `ps` print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// Columns for people.
    Table,
    /// A JSON array.
    Json,
}

/// `rrun ps`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Ps {
    /// How to print
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub format: ListFormat,
    /// The container
    #[arg(value_name = "ID")]
    pub id: ContainerId,
    /// Options of ps(1) [default: -ef]
    #[arg(value_name = "PS-OPTION", trailing_var_arg = true)]
    pub options: Vec<String>,
}

/// `rrun pause`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Pause {
    /// The container
    #[arg(value_name = "ID")]
    pub id: ContainerId,
}

/// `rrun resume`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Resume {
    /// The container
    #[arg(value_name = "ID")]
    pub id: ContainerId,
}

/// `rrun mounts`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Mounts {
    /// What to do with them
    #[arg(value_name = "ACTION")]
    pub action: MountsAction,
    /// The container
    #[arg(value_name = "ID")]
    pub id: ContainerId,
    /// The mounts, as JSON
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// What `mounts` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MountsAction {
    /// Mount them.
    Add,
    /// Unmount what is at their destinations.
    Remove,
}

/// `rrun events`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Events {
    /// Time between statistics, such as 5s or 500ms
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = values::duration)]
    pub interval: Duration,
    /// Print the statistics once and return
    #[arg(long)]
    pub stats: bool,
    /// The container
    #[arg(value_name = "ID")]
    pub id: ContainerId,
}

/// `rrun spec`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Spec {
    /// The directory to write to [default: the current one]
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// For a user who is not root
    #[arg(long)]
    pub rootless: bool,
}

/// `rrun features`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Features {}

/// `rrun plan`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Plan {
    /// How to print
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    format: PlanFormat,
    /// The same as --format json
    #[arg(long)]
    json: bool,
    /// The bundle's directory
    #[arg(long = "bundle", short = 'b', value_name = "DIR")]
    named: Option<PathBuf>,
    /// The bundle's directory [default: the current one]
    #[arg(value_name = "BUNDLE")]
    bundle: Option<PathBuf>,
}

impl Plan {
    /// How to print, by whichever flag it was said.
    #[must_use]
    pub fn format(&self) -> PlanFormat {
        if self.json {
            PlanFormat::Json
        } else {
            self.format
        }
    }

    /// The bundle's directory as it was given, or `.`.
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        let given = self.bundle.as_ref().or(self.named.as_ref());
        given.cloned().unwrap_or_else(|| PathBuf::from("."))
    }
}

/// How `plan` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}
