//! Checkpoints, which CRIU makes and restores for us.
//!
//! `criu swrk FD` is spoken to over a sequential-packet socket: one message
//! is one packet. We send a [`Request`]; it answers with [`Response`]s. One of
//! the type [`Type::Notify`] tells of a moment on the way and waits for our
//! word; the last one has the type that was asked for, and the outcome.
//!
//! [`wire`] is protobuf's encoding as far as these messages need it,
//! [`message`] the messages; both are pure. [`session`] is the process that
//! speaks them.
//! Source: criu's `images/rpc.proto` and <https://criu.org/RPC>.

mod message;
mod session;
mod wire;

pub use message::{
    CgroupMode, CgroupRoot, External, Features, Inherited, JoinedNamespace, NetworkLock, Notify,
    Options, PageServer, Request, Response, Type,
};
pub use session::{Launch, Log, Session, features, find, version};
