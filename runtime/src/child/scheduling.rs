//! When and where the process runs: CPUs, policy, I/O priority, memory nodes.
//!
//! The affinity is widened right behind the cgroup, so that nothing of the
//! engine's is left; the rest comes before identity, while the rights are there.
//! In a user namespace there are none (`CAP_SYS_NICE` counts on the host only):
//! there the parent sets policy and I/O priority, once the child is ready.

use nix::unistd::Pid;

use crate::error::{Context, Result};
use crate::plan::scheduling::{MemoryPolicy, Scheduling};
use crate::sys::scheduling::{self, Attributes};

/// This process.
pub(super) const SELF: Pid = Pid::from_raw(0);

/// Lets this process run on every CPU that its cgroup allows, or on those that
/// the plan names.
///
/// # Errors
/// `EINVAL` if the cpuset has none of the CPUs that are named.
pub(super) fn settle_cpus(planned: &Scheduling) -> Result<()> {
    if let Some(cpus) = &planned.final_cpus {
        return scheduling::set_cpus(&cpus.mask)
            .context(|| format!("set final CPU affinity {:?}", cpus.text));
    }
    // As many CPUs as Linux can have. Where a filter around us forbids it, the
    // process keeps what the engine had.
    let _ = scheduling::set_cpus(&[u64::MAX; 128]);
    Ok(())
}

/// Lets this process, the runtime itself, run on the CPUs that it is to have
/// before its child enters the container's cgroup.
///
/// # Errors
/// `EINVAL` if the runtime may run on none of them.
pub fn settle_initial_cpus(planned: &Scheduling) -> Result<()> {
    let Some(cpus) = &planned.initial_cpus else {
        return Ok(());
    };
    scheduling::set_cpus(&cpus.mask).context(|| format!("set initial CPU affinity {:?}", cpus.text))
}

/// Sets policy and I/O priority of the process `pid`.
///
/// # Errors
/// Those of [`scheduling::set_attributes`] and [`scheduling::set_io_priority`].
pub fn set_priorities(pid: Pid, planned: &Scheduling) -> Result<()> {
    if let Some(scheduler) = &planned.scheduler {
        let attributes = Attributes {
            policy: scheduler.policy,
            flags: scheduler.flags,
            nice: scheduler.nice,
            priority: scheduler.priority,
            runtime: scheduler.runtime,
            deadline: scheduler.deadline,
            period: scheduler.period,
        };
        scheduling::set_attributes(pid, &attributes)
            .context(|| format!("set scheduler {}", scheduler.name))?;
    }
    if let Some(priority) = &planned.io_priority {
        scheduling::set_io_priority(pid, priority.value)
            .context(|| format!("set I/O priority {}", priority.name))?;
    }
    Ok(())
}

/// Sets the memory policy of this process.
///
/// # Errors
/// Those of [`scheduling::set_memory_policy`].
pub(super) fn set_memory_policy(planned: &MemoryPolicy) -> Result<()> {
    let nodes = planned.nodes.as_ref().map_or(&[][..], |nodes| &nodes.mask);
    scheduling::set_memory_policy(planned.mode, nodes)
        .context(|| format!("set memory policy {}", planned.name))
}
