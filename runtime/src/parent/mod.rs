//! What rrun does on the host for a container.

pub mod sources;
