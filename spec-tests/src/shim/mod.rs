//! A fake containerd for tests of a shim: it starts and calls the shim exactly
//! as each generation of containerd does, serves the events, and asks the
//! shim's `delete` when it died.
//!
//! ```text
//! containerd.rs  argv, environment, stdin and answer of `start`, `delete`
//! task.rs        one container by the task service: v2 or v3, as answered
//! streams.rs     the FIFOs of a process and who reads them
//! events.rs      the events service, which can die and hang
//! options.rs     the messages of options
//! wire.rs        ttrpc
//! wrapper.rs     runtimes that fail
//! ```

pub mod containerd;
pub mod events;
pub mod options;
pub mod streams;
pub mod task;
pub mod wire;
pub mod wrapper;

pub use containerd::{Containerd, Generation, Shim};
pub use containerd_shim_protos::ttrpc::proto::Code;
pub use streams::Streams;
pub use task::Task;

/// The namespace of every container here.
pub const NAMESPACE: &str = "spec";

/// Where shims put their sockets; a file system of the case's own.
pub const SOCKETS: &str = "/run/containerd/s";
