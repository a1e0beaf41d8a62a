//! Seccomp filters (seccomp(2)): loading one, and asking what the kernel
//! knows.

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::{Error, Result, call};

/// linux/seccomp.h, as seccomp(2) takes them.
const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
const FLAG_NEW_LISTENER: u32 = 1 << 3;
const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// Puts this thread, and all that it starts, under a filter. Needs
/// no_new_privs or CAP_SYS_ADMIN. With `SECCOMP_FILTER_FLAG_NEW_LISTENER` in
/// `flags` it returns the notify descriptor, which is close-on-exec.
///
/// Makes no other syscall and, where it succeeds, allocates nothing: the
/// filter may already forbid what an allocation needs.
///
/// # Errors
/// `EACCES` without the privilege, `EINVAL` for a program or flag that the
/// kernel refuses, `EBUSY` for a second listener. A kernel or an outer filter
/// without seccomp(2) takes a filter without flags by prctl(2).
pub fn load(program: &[libc::sock_filter], flags: u32) -> Result<Option<OwnedFd>> {
    let describe = || {
        format!(
            "seccomp(SECCOMP_SET_MODE_FILTER, {flags:#x}, [{} instructions])",
            program.len()
        )
    };
    let Ok(len) = u16::try_from(program.len()) else {
        return Err(Error::new(describe(), Errno::EINVAL));
    };
    let filter = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads `len` instructions behind `filter`, both of
    // which outlive the call, and writes to neither.
    let loaded = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const filter,
        )
    };
    match Errno::result(loaded) {
        Ok(fd) if flags & FLAG_NEW_LISTENER != 0 => {
            let fd = i32::try_from(fd).map_err(|_| Error::new(describe(), Errno::EBADF))?;
            // SAFETY: the kernel made this descriptor for this call, so that
            // nothing else owns it.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
        }
        Ok(_) => Ok(None),
        // SPEC_ALLOW and LOG change what a filter costs and tells, never what
        // it forbids.
        Err(Errno::ENOSYS) if flags & !(FLAG_SPEC_ALLOW | FLAG_LOG) == 0 => load_by_prctl(&filter),
        Err(errno) => Err(Error::new(describe(), errno)),
    }
}

fn load_by_prctl(filter: &libc::sock_fprog) -> Result<Option<OwnedFd>> {
    // SAFETY: as in `load`: the kernel only reads what `filter` points to.
    let loaded = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            std::ptr::from_ref(filter),
            0,
            0,
        )
    };
    call(Errno::result(loaded), || {
        format!(
            "prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, [{} instructions])",
            filter.len
        )
    })?;
    Ok(None)
}

/// Whether the kernel knows an action, given as a `SECCOMP_RET_*` value.
#[must_use]
pub fn has_action(action: u32) -> bool {
    // SAFETY: the kernel reads the integer before the call returns.
    let known = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    known == 0
}

/// Whether the kernel knows the flags, `SECCOMP_FILTER_FLAG_*`.
#[must_use]
pub fn has_flags(flags: u32) -> bool {
    // Without a listener the kernel takes WAIT_KILLABLE_RECV for a mistake.
    let listener = if flags & FLAG_WAIT_KILLABLE_RECV != 0 {
        FLAG_NEW_LISTENER
    } else {
        0
    };
    // SAFETY: the kernel looks at the flags first and then fails to read a
    // program at the null pointer; no filter is loaded.
    let refused = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags | listener,
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    refused == -1 && Errno::last() == Errno::EFAULT
}

/// The actions that the kernel doesn't know, of those in seccomp(2).
#[must_use]
pub fn missing_actions() -> Vec<u32> {
    [
        libc::SECCOMP_RET_KILL_PROCESS,
        libc::SECCOMP_RET_KILL_THREAD,
        libc::SECCOMP_RET_TRAP,
        libc::SECCOMP_RET_ERRNO,
        libc::SECCOMP_RET_USER_NOTIF,
        libc::SECCOMP_RET_TRACE,
        libc::SECCOMP_RET_LOG,
        libc::SECCOMP_RET_ALLOW,
    ]
    .into_iter()
    .filter(|action| !has_action(*action))
    .collect()
}

/// The flags that the kernel doesn't know, of those that a profile can ask
/// for.
#[must_use]
pub fn missing_flags() -> u32 {
    [
        FLAG_LOG,
        FLAG_SPEC_ALLOW,
        FLAG_NEW_LISTENER,
        FLAG_WAIT_KILLABLE_RECV,
    ]
    .into_iter()
    .filter(|flag| !has_flags(*flag))
    .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_the_actions_and_flags_of_its_manual_page() {
        // Linux 5.19 has all of them; that this test runs on a newer one is
        // asserted, too.
        assert!(missing_actions().is_empty());
        assert_eq!(missing_flags(), 0);
        assert!(!has_action(0x1234_0000));
        assert!(!has_flags(1 << 31));
    }

    #[test]
    fn a_program_that_the_kernel_refuses_is_named_with_its_length() {
        let bad = [libc::sock_filter {
            code: 0xffff,
            jt: 0,
            jf: 0,
            k: 0,
        }];
        let error = load(&bad, 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "seccomp(SECCOMP_SET_MODE_FILTER, 0x0, [1 instructions]): invalid argument"
        );
        let long = vec![bad[0]; 70_000];
        let error = load(&long, 4).unwrap_err();
        assert_eq!(
            error.to_string(),
            "seccomp(SECCOMP_SET_MODE_FILTER, 0x4, [70000 instructions]): invalid argument"
        );
    }
}
