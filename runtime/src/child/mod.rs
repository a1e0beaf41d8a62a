//! What the container's process does between clone and execve: a list of
//! steps, each a file.

mod copy_up;
pub mod device;
mod masks;
mod mount;
pub mod pivot;
mod procfs;
mod root;
pub mod rootfs;
