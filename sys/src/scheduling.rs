//! On which CPUs, when, and near which memory a process runs.

use std::mem;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::{Result, call};

/// The arguments of sched_setattr(2), with its last fields (`util_min` and
/// `util_max`, Linux 5.3) left at 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `SCHED_OTHER` and so on.
    pub policy: u32,
    /// `SCHED_FLAG_RESET_ON_FORK` and so on.
    pub flags: u64,
    /// -20 to 19.
    pub nice: i32,
    /// 1 to 99 for the real-time policies, else 0.
    pub priority: u32,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub runtime: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub deadline: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub period: u64,
}

/// `struct sched_attr` of linux/sched/types.h, version 1.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    util_min: u32,
    util_max: u32,
}

/// `SCHED_ATTR_SIZE_VER1`.
const SIZE: u32 = 56;
const _: () = assert!(mem::size_of::<SchedAttr>() == SIZE as usize);

/// Sets the scheduling of the process `pid` (0: this one).
///
/// # Errors
/// `EPERM` without `CAP_SYS_NICE`, and for a deadline on fewer than all CPUs;
/// `EINVAL` for what the policy does not take; `EBUSY` for a deadline that can't
/// be kept; `EOPNOTSUPP` for clamps in a kernel without them.
pub fn set_attributes(pid: Pid, attributes: &Attributes) -> Result<()> {
    let attr = SchedAttr {
        size: SIZE,
        policy: attributes.policy,
        flags: attributes.flags,
        nice: attributes.nice,
        priority: attributes.priority,
        runtime: attributes.runtime,
        deadline: attributes.deadline,
        period: attributes.period,
        util_min: 0,
        util_max: 0,
    };
    // SAFETY: the kernel reads `size` bytes from `attr`, which is as long, and
    // may write its own size there.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, pid.as_raw(), &raw const attr, 0) };
    call(Errno::result(set).map(drop), || {
        format!("sched_setattr({pid}, {attributes:?})")
    })
}

/// Sets the I/O priority of the process `pid` (0: this one): the class in the
/// upper three of 16 bits.
///
/// # Errors
/// `EPERM` for the real-time class without `CAP_SYS_NICE`.
pub fn set_io_priority(pid: Pid, priority: u16) -> Result<()> {
    /// `IOPRIO_WHO_PROCESS` of linux/ioprio.h.
    const PROCESS: libc::c_int = 1;
    // SAFETY: three integers.
    let set = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            PROCESS,
            pid.as_raw(),
            libc::c_int::from(priority),
        )
    };
    call(Errno::result(set).map(drop), || {
        format!("ioprio_set(IOPRIO_WHO_PROCESS, {pid}, {priority:#06x})")
    })
}

/// Sets the CPUs that this process may run on: bit N of the words is CPU N.
/// CPUs that the machine or the cgroup's cpuset lacks are left out by the kernel.
///
/// # Errors
/// `EINVAL` if none is left.
pub fn set_cpus(mask: &[u64]) -> Result<()> {
    // SAFETY: the kernel reads at most the length that is given, which is the
    // mask's.
    let set = unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            mem::size_of_val(mask),
            mask.as_ptr(),
        )
    };
    call(Errno::result(set).map(drop), || {
        format!("sched_setaffinity(0, {:#x?})", trimmed(mask))
    })
}

/// Sets the memory policy of this thread: the mode with its flags, and the
/// nodes, bit N of the words for node N.
///
/// # Errors
/// `EINVAL` for a combination or a node that the kernel doesn't take, `ENOSYS`
/// in a kernel without NUMA.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> Result<()> {
    let (mask, bits) = match nodes {
        [] => (std::ptr::null(), 0),
        // The kernel counts one bit less than it is told.
        nodes => (nodes.as_ptr(), nodes.len() * 64 + 1),
    };
    // SAFETY: the kernel reads `bits - 1` bits from the mask, which has them.
    let set = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) };
    call(Errno::result(set).map(drop), || {
        format!("set_mempolicy({mode:#x}, {:#x?})", trimmed(nodes))
    })
}

/// A mask without the empty words at its end, for messages.
fn trimmed(mask: &[u64]) -> &[u64] {
    let end = mask.iter().rposition(|word| *word != 0);
    &mask[..end.map_or(0, |at| at + 1)]
}
