//! bpf(2), as far as the device control of cgroup v2 needs it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{Error, Result};

/// Commands, types and flags of linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// The part of `union bpf_attr` for `BPF_PROG_LOAD` that every kernel with
/// cgroup v2 device control knows (Linux 4.15).
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// For `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// For `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

/// For `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct IdAttr {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Attaches a program of type `BPF_PROG_TYPE_CGROUP_DEVICE` to the cgroup v2
/// directory `cgroup`, in place of those that were attached to it. At no
/// moment is none attached.
///
/// # Errors
/// `EPERM` without the right to, `EINVAL` for a program that the kernel's
/// verifier refuses or a kernel without `CONFIG_CGROUP_BPF`.
pub fn replace_device_program(cgroup: impl AsFd, program: &[[u8; 8]]) -> Result<()> {
    let cgroup = cgroup.as_fd();
    let new = load(program)?;
    let old = attached(cgroup)?;
    if let [only] = old.as_slice() {
        match attach(cgroup, new.as_fd(), BPF_F_REPLACE, Some(only.as_fd())) {
            // Until Linux 5.6.
            Err(error) if error.errno() == Errno::EINVAL => {}
            attached => return attached,
        }
    }
    attach(cgroup, new.as_fd(), 0, None)?;
    old.iter()
        .try_for_each(|program| detach(cgroup, program.as_fd()))
}

/// Loads a program.
///
/// Until Linux 5.11 its memory counts against RLIMIT_MEMLOCK, which is then
/// raised if we may; a kernel that counts otherwise never asks.
fn load(program: &[[u8; 8]]) -> Result<OwnedFd> {
    let load = || {
        let mut attr = LoadAttr {
            prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
            insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
            insns: address(program.as_ptr()),
            license: address(c"Apache".as_ptr()),
            ..LoadAttr::default()
        };
        // SAFETY: the addresses in `attr` are those of `program` and of a
        // static string, alive during the call, and the kernel copies both.
        unsafe { bpf(BPF_PROG_LOAD, &mut attr) }
    };
    let loaded = match load() {
        Err(Errno::EPERM) if raise_memlock() => load(),
        loaded => loaded,
    };
    match loaded {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(errno) => {
            let call = format!(
                "bpf(BPF_PROG_LOAD, CGROUP_DEVICE, {} instructions)",
                program.len()
            );
            Err(Error::new(call, errno))
        }
    }
}

/// Raises RLIMIT_MEMLOCK as far as possible; whether it was raised.
fn raise_memlock() -> bool {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK) else {
        return false;
    };
    let unlimited = libc::RLIM_INFINITY;
    setrlimit(Resource::RLIMIT_MEMLOCK, unlimited, unlimited).is_ok()
        || (soft < hard && setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard).is_ok())
}

/// The device programs attached to `cgroup` itself.
fn attached(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    let mut ids = vec![0u32; 64];
    let count = loop {
        let mut attr = QueryAttr {
            target_fd: number(cgroup),
            attach_type: BPF_CGROUP_DEVICE,
            prog_ids: address(ids.as_mut_ptr()),
            prog_cnt: u32::try_from(ids.len()).unwrap_or(u32::MAX),
            ..QueryAttr::default()
        };
        // SAFETY: the kernel writes at most `prog_cnt` numbers to `ids`, which
        // has that many and outlives the call, and the count to `attr`.
        match unsafe { bpf(BPF_PROG_QUERY, &mut attr) } {
            Ok(_) => break usize::try_from(attr.prog_cnt).unwrap_or(0),
            Err(Errno::ENOSPC) => ids.resize(ids.len() * 2, 0),
            // Before Linux 4.15 nothing can be attached.
            Err(errno) => {
                let call = format!("bpf(BPF_PROG_QUERY, [{}])", cgroup.as_raw_fd());
                return Err(Error::new(call, errno));
            }
        }
    };
    ids.truncate(count);
    ids.into_iter().map(by_id).collect()
}

fn by_id(id: u32) -> Result<OwnedFd> {
    let mut attr = IdAttr {
        prog_id: id,
        ..IdAttr::default()
    };
    // SAFETY: `attr` holds integers only.
    match unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) } {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(errno) => Err(Error::new(
            format!("bpf(BPF_PROG_GET_FD_BY_ID, {id})"),
            errno,
        )),
    }
}

fn attach(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    flags: u32,
    replace: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI | flags,
        replace_bpf_fd: replace.map_or(0, number),
    };
    // SAFETY: `attr` holds integers only.
    let attached = unsafe { bpf(BPF_PROG_ATTACH, &mut attr) };
    super::call(attached.map(drop), || {
        format!(
            "bpf(BPF_PROG_ATTACH, [{}], CGROUP_DEVICE)",
            cgroup.as_raw_fd()
        )
    })
}

fn detach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        ..AttachAttr::default()
    };
    // SAFETY: `attr` holds integers only.
    let detached = unsafe { bpf(BPF_PROG_DETACH, &mut attr) };
    super::call(detached.map(drop), || {
        format!(
            "bpf(BPF_PROG_DETACH, [{}], CGROUP_DEVICE)",
            cgroup.as_raw_fd()
        )
    })
}

/// bpf(2).
///
/// # Safety
/// `attr` has the layout that the kernel reads for `command`, and the
/// addresses in it are good for what the kernel reads and writes there.
unsafe fn bpf<Attr>(command: libc::c_int, attr: &mut Attr) -> std::result::Result<i32, Errno> {
    // SAFETY: the kernel reads and writes at most the size given of `attr`,
    // and follows addresses in it, which are the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<Attr>(),
        )
    };
    // A descriptor or 0 fits; an error is -1.
    Errno::result(result).map(|value| i32::try_from(value).unwrap_or(0))
}

/// A pointer as the kernel's structures hold it.
fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}
