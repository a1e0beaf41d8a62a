//! Every decision, and nothing done.
//!
//! A [`Plan`](self) is made from config.json and facts about the host, and
//! holds what parent and child then do in order. Making one changes nothing
//! and calls nothing, so it is tested by tables without root, fuzzed, and
//! printed by `rrun plan`.

pub mod annotations;
pub mod capabilities;
pub mod cgroup;
pub mod cgroup_mounts;
pub mod checkpoint;
pub mod container;
pub mod devices;
pub mod exec;
pub mod hooks;
pub mod hot_mounts;
mod idmap_text;
pub mod intel_rdt;
pub mod mount_options;
pub mod mounts;
pub mod namespaces;
pub mod network;
pub mod process;
pub mod report;
pub mod scheduling;
pub mod schemata;
pub mod sysctl;
mod written_mount;

pub use container::{Plan, Request};

pub use crate::seccomp::Filter;
