//! System calls: the only crate with `unsafe`, and the one surface through
//! which the runtime and its shim reach the kernel.
//!
//! Each wrapper takes and returns [`BorrowedFd`](std::os::fd::BorrowedFd) and
//! [`OwnedFd`](std::os::fd::OwnedFd), fits a screen, and fails with an
//! [`Error`] that prints the call with its arguments. Nothing here knows a
//! container, a configuration or a plan.
#![allow(
    unsafe_code,
    reason = "this is the floor on which the system calls are made"
)]

pub mod bpf;
pub mod credentials;
pub mod descriptors;
pub mod directory;
mod error;
pub mod executable;
pub mod file;
pub mod handle;
pub mod keyring;
pub mod loop_device;
pub mod memory;
pub mod mount;
pub mod mutation;
pub mod namespace;
pub mod netlink;
pub mod network;
pub mod pipe;
pub mod process;
pub mod scheduling;
pub mod seccomp;
pub mod signal;
pub mod terminal;

pub use error::{Error, Result, ToErrno, call};
