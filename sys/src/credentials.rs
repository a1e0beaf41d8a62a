//! What a process may do: ids, groups, capabilities, limits, and the prctl
//! switches that guard them.

use nix::errno::Errno;
use nix::unistd::{Gid, Pid, Uid};

use super::{Result, call};

/// Sets the real, effective and saved user id.
///
/// # Errors
/// `EINVAL` if the user namespace does not map `uid`.
pub fn set_uid(uid: u32) -> Result<()> {
    let id = Uid::from_raw(uid);
    // The raw call and nix's agree in a single-threaded process.
    call(nix::unistd::setresuid(id, id, id), || {
        format!("setresuid({uid})")
    })
}

/// Sets the real, effective and saved group id.
///
/// # Errors
/// `EINVAL` if the user namespace does not map `gid`.
pub fn set_gid(gid: u32) -> Result<()> {
    let id = Gid::from_raw(gid);
    call(nix::unistd::setresgid(id, id, id), || {
        format!("setresgid({gid})")
    })
}

/// Sets the supplementary groups.
///
/// # Errors
/// `EPERM` where the user namespace denies setgroups.
pub fn set_groups(groups: &[u32]) -> Result<()> {
    let gids: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    call(nix::unistd::setgroups(&gids), || {
        format!("setgroups({groups:?})")
    })
}

/// A process's capabilities as bit sets: bit N is capability N.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// What execve and checks use.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What a program file may pick up.
    pub inheritable: u64,
}

/// capabilities(7): the 64-bit version of the interface.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// This process's capabilities.
///
/// # Errors
/// None that a Linux since 2.6.26 gives.
pub fn capabilities() -> Result<CapabilitySets> {
    let mut header = CapHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 makes the kernel write two CapData, which `data` is.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    call(Errno::result(got), || "capget()".to_owned())?;
    let join = |low: u32, high: u32| u64::from(low) | (u64::from(high) << 32);
    Ok(CapabilitySets {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// Sets this process's capabilities.
///
/// # Errors
/// `EPERM` for what is not permitted now.
pub fn set_capabilities(sets: CapabilitySets) -> Result<()> {
    let low = |set: u64| u32::try_from(set & 0xffff_ffff).unwrap_or(0);
    let high = |set: u64| u32::try_from(set >> 32).unwrap_or(0);
    let half = |part: fn(u64) -> u32| CapData {
        effective: part(sets.effective),
        permitted: part(sets.permitted),
        inheritable: part(sets.inheritable),
    };
    let mut header = CapHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let data = [half(low), half(high)];
    // SAFETY: version 3 makes the kernel read two CapData, which `data` is.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    call(Errno::result(set).map(drop), || {
        format!(
            "capset(effective={:#x}, permitted={:#x}, inheritable={:#x})",
            sets.effective, sets.permitted, sets.inheritable
        )
    })
}

/// Calls prctl(2) with integers only.
fn prctl(option: i32, name: &str, args: [u64; 4]) -> Result<i32> {
    // SAFETY: the options used in this file take integers, no pointers.
    let result = unsafe { libc::prctl(option, args[0], args[1], args[2], args[3]) };
    call(Errno::result(result), || {
        format!("prctl({name}, {}, {})", args[0], args[1])
    })
}

/// Drops `capability` from the bounding set; `false` if the kernel knows no
/// capability of this number.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn drop_bounding(capability: u32) -> Result<bool> {
    match prctl(
        libc::PR_CAPBSET_DROP,
        "PR_CAPBSET_DROP",
        [u64::from(capability), 0, 0, 0],
    ) {
        Ok(_) => Ok(true),
        Err(error) if error.errno() == Errno::EINVAL => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether `capability` is in the bounding set; `None` if the kernel knows no
/// capability of this number.
#[must_use]
pub fn in_bounding(capability: u32) -> Option<bool> {
    prctl(
        libc::PR_CAPBSET_READ,
        "PR_CAPBSET_READ",
        [u64::from(capability), 0, 0, 0],
    )
    .ok()
    .map(|set| set == 1)
}

/// Empties the ambient set.
///
/// # Errors
/// `EINVAL` before Linux 4.3.
pub fn clear_ambient() -> Result<()> {
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL.cast_unsigned();
    prctl(
        libc::PR_CAP_AMBIENT,
        "PR_CAP_AMBIENT_CLEAR_ALL",
        [u64::from(clear), 0, 0, 0],
    )
    .map(drop)
}

/// Adds `capability` to the ambient set.
///
/// # Errors
/// `EPERM` if it is not both permitted and inheritable.
pub fn raise_ambient(capability: u32) -> Result<()> {
    let raise = libc::PR_CAP_AMBIENT_RAISE.cast_unsigned();
    let args = [u64::from(raise), u64::from(capability), 0, 0];
    prctl(libc::PR_CAP_AMBIENT, "PR_CAP_AMBIENT_RAISE", args).map(drop)
}

/// Whether permitted capabilities survive the change to another user id.
///
/// # Errors
/// `EPERM` if securebits lock it.
pub fn set_keep_capabilities(keep: bool) -> Result<()> {
    prctl(
        libc::PR_SET_KEEPCAPS,
        "PR_SET_KEEPCAPS",
        [u64::from(keep), 0, 0, 0],
    )
    .map(drop)
}

/// Gives up for good what execve(2) could grant.
///
/// # Errors
/// None since Linux 3.5.
pub fn set_no_new_privileges() -> Result<()> {
    prctl(
        libc::PR_SET_NO_NEW_PRIVS,
        "PR_SET_NO_NEW_PRIVS",
        [1, 0, 0, 0],
    )
    .map(drop)
}

/// Whether others of the same user may look into this process (proc(5),
/// `/proc/PID/` ownership; ptrace(2)).
///
/// # Errors
/// None.
pub fn set_dumpable(dumpable: bool) -> Result<()> {
    prctl(
        libc::PR_SET_DUMPABLE,
        "PR_SET_DUMPABLE",
        [u64::from(dumpable), 0, 0, 0],
    )
    .map(drop)
}

/// The signal that the kernel sends when the parent dies; 0 for none. Cleared
/// by the kernel at each change of ids.
///
/// # Errors
/// `EINVAL` for a number that is no signal.
pub fn set_parent_death_signal(signal: i32) -> Result<()> {
    let number = u64::from(signal.cast_unsigned());
    prctl(
        libc::PR_SET_PDEATHSIG,
        "PR_SET_PDEATHSIG",
        [number, 0, 0, 0],
    )
    .map(drop)
}

/// Makes orphans among our descendants our children.
///
/// # Errors
/// None since Linux 3.4.
pub fn set_child_subreaper() -> Result<()> {
    prctl(
        libc::PR_SET_CHILD_SUBREAPER,
        "PR_SET_CHILD_SUBREAPER",
        [1, 0, 0, 0],
    )
    .map(drop)
}

/// The name that ps shows for this process; cut after 15 bytes.
///
/// # Errors
/// None.
pub fn set_name(name: &std::ffi::CStr) -> Result<()> {
    // SAFETY: the kernel copies up to 16 bytes, stopping at the nul, before
    // the call returns.
    let set = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
    call(Errno::result(set).map(drop), || {
        format!("prctl(PR_SET_NAME, {name:?})")
    })
}

/// Sets a limit of another process (or of this one, pid 0).
///
/// # Errors
/// `EPERM` for a hard limit above the present one without
/// `CAP_SYS_RESOURCE`.
pub fn set_rlimit(pid: Pid, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the kernel reads one rlimit64 and, with a null pointer for the
    // old limit, writes nothing.
    let set = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid.as_raw(),
            resource,
            &raw const limit,
            std::ptr::null::<libc::rlimit64>(),
        )
    };
    call(Errno::result(set).map(drop), || {
        format!("prlimit({pid}, {resource}, soft={soft}, hard={hard})")
    })
}

/// Raises the hard limit of the process `pid`, a child that still has this
/// process's limits and ids, to `hard` if it is below.
///
/// # Errors
/// `EPERM` without `CAP_SYS_RESOURCE`.
pub fn raise_hard_limit(pid: Pid, resource: u32, hard: u64) -> Result<()> {
    let mut own = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel reads nothing by the null pointer and writes one
    // rlimit64, which `own` is.
    let read = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::null::<libc::rlimit64>(),
            &raw mut own,
        )
    };
    call(Errno::result(read).map(drop), || {
        format!("prlimit(0, {resource})")
    })?;
    if hard <= own.rlim_max {
        return Ok(());
    }
    set_rlimit(pid, resource, own.rlim_cur, hard)
}

/// Sets the execution domain.
///
/// # Errors
/// `EINVAL` if the kernel can't.
pub fn set_personality(domain: u32) -> Result<()> {
    // SAFETY: an integer in, an integer out.
    let set = unsafe { libc::personality(libc::c_ulong::from(domain)) };
    call(Errno::result(set).map(drop), || {
        format!("personality({domain:#x})")
    })
}
