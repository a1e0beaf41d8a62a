//! rrun, an OCI container runtime.
//!
//! ```text
//! argv -> cli -> commands -> Spec + Host -> Plan -> parent --clone3--> child -> execve
//!                            parse          decide  act on the host    act in the container
//! ```
//!
//! [`spec`] is config.json as typed data. `plan` turns it, with the facts
//! that `host` found, into every decision, and does nothing. `parent` acts
//! on the host, `child` in the container, and `channel` is what they say
//! to each other. [`sys`], a crate of its own since the shim stands on it
//! too, is the only one with `unsafe`.

pub mod cgroup;
pub mod channel;
pub mod child;
pub mod cli;
pub mod commands;
pub mod criu;
pub mod dbus;
pub mod error;
pub mod foreground;
pub mod hooks;
pub mod host;
pub mod idmap;
pub mod log;
pub mod mountinfo;
pub mod notify;
pub mod parent;
pub mod plan;
pub mod resctrl;
pub mod seal;
pub mod seccomp;
pub mod spec;
pub mod state;
pub mod systemd;
pub mod timestamp;
pub mod timing;

pub use rrun_sys as sys;
