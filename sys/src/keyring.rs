//! Session keyrings (keyrings(7)).

use nix::errno::Errno;

use super::{Error, Result, call};

/// Joins a new session keyring of the name `name` and returns its serial
/// number (keyctl(2)).
///
/// # Errors
/// `ENOSYS` without keyrings in the kernel, `EDQUOT` when the user has too
/// many.
pub fn join_session_keyring(name: &std::ffi::CStr) -> Result<i32> {
    /// keyctl.h.
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the kernel copies the nul-terminated name before the call
    // returns.
    let serial = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            name.as_ptr(),
            0,
            0,
            0,
        )
    };
    let serial = call(Errno::result(serial), || {
        format!("keyctl(KEYCTL_JOIN_SESSION_KEYRING, {name:?})")
    })?;
    i32::try_from(serial).map_err(|_| Error::new("keyctl: serial number", Errno::EOVERFLOW))
}

/// The permission mask of a key, as `KEYCTL_DESCRIBE` gives it.
///
/// # Errors
/// Those of keyctl.
pub fn key_permissions(serial: i32) -> Result<u32> {
    /// keyctl.h.
    const KEYCTL_DESCRIBE: libc::c_int = 6;
    let mut text = [0_u8; 256];
    // SAFETY: the kernel writes at most `len` bytes to the buffer.
    let length = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_DESCRIBE,
            serial,
            text.as_mut_ptr(),
            text.len(),
            0,
        )
    };
    let describe = || format!("keyctl(KEYCTL_DESCRIBE, {serial})");
    call(Errno::result(length), describe)?;
    // "type;uid;gid;permissions in hex;description"
    let text = String::from_utf8_lossy(&text);
    text.split(';')
        .nth(3)
        .and_then(|mask| u32::from_str_radix(mask, 16).ok())
        .ok_or_else(|| Error::new(describe(), Errno::EINVAL))
}

/// Sets the permission mask of a key.
///
/// # Errors
/// Those of keyctl.
pub fn set_key_permissions(serial: i32, mask: u32) -> Result<()> {
    /// keyctl.h.
    const KEYCTL_SETPERM: libc::c_int = 5;
    // SAFETY: integers only.
    let set = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, serial, mask, 0, 0) };
    call(Errno::result(set).map(drop), || {
        format!("keyctl(KEYCTL_SETPERM, {serial}, {mask:#x})")
    })
}
