//! The seccomp agent: who decides about syscalls that a profile notifies.

use std::os::fd::{AsFd, RawFd};

use super::Newborn;
use crate::error::{Context, Error, Kind, Result};
use crate::hooks::State;
use crate::seccomp::Filter;
use crate::sys::descriptors;

/// Hands the notify descriptor `number` of the child to the agent that listens
/// on the profile's `listenerPath`: one message with the container process
/// state (runtime.md, "Container Process State") and the descriptor.
///
/// The child can't send it: its filter may notify sendmsg, and nobody would
/// answer.
///
/// # Errors
/// No agent, or no right to fetch the descriptor.
pub(super) fn hand_over(
    filter: Option<&Filter>,
    child: &Newborn,
    number: RawFd,
    state: &State,
    status: &str,
) -> Result<()> {
    let Some(listener) = filter.and_then(|filter| filter.listener.as_ref()) else {
        return Err(Error::new(
            Kind::System,
            "a seccomp listener that nobody asked for",
        ));
    };
    let pid = child.pid.as_raw();
    let message = serde_json::json!({
        "ociVersion": crate::spec::VERSION,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": listener.metadata,
        "state": state.value(status, pid),
    });
    let notify = child.handle.copy_descriptor(number)?;
    let socket = descriptors::connect_stream(&listener.path)
        .context(|| "reach the seccomp agent of linux.seccomp.listenerPath")?;
    descriptors::send(
        socket.as_fd(),
        message.to_string().as_bytes(),
        &[notify.as_fd()],
    )
    .context(|| "hand the seccomp listener to its agent")
}
