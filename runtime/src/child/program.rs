//! What only the container can tell about its program: where it is, and where
//! its user is at home.

use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{AccessFlags, faccessat};

use crate::error::{Error, Kind, Result};
use crate::plan::process::Process;

/// The program that `process` names, found as its user with the container's
/// PATH.
///
/// # Errors
/// `executable file not found in $PATH`, `no such file or directory` or
/// `permission denied`, of which engines make exit codes 127 and 126.
pub fn find(process: &Process) -> Result<CString> {
    let name = process
        .args
        .first()
        .map(CString::as_c_str)
        .unwrap_or_default();
    let mut denied = false;
    for candidate in &process.programs {
        match executable(candidate) {
            Ok(()) => return Ok(candidate.clone()),
            Err(Errno::EACCES | Errno::EISDIR) => denied = true,
            Err(_) => {}
        }
    }
    let sought_in_path = !name.to_bytes().contains(&b'/');
    let (kind, cause) = match (denied, sought_in_path) {
        (true, _) => (Kind::CommandNotExecutable, "permission denied".to_owned()),
        (false, true) => (
            Kind::CommandNotFound,
            "executable file not found in $PATH".to_owned(),
        ),
        (false, false) => (
            Kind::CommandNotFound,
            format!("stat {}: no such file or directory", name.to_string_lossy()),
        ),
    };
    Err(Error::new(kind, format!("exec: {name:?}: {cause}")))
}

/// Whether the file at `path` can be executed by this process as it is now.
fn executable(path: &CStr) -> Result<(), Errno> {
    let stat = nix::sys::stat::stat(path)?;
    if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    match faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS) {
        // A filter of an outer container may not know faccessat2; execve has
        // the last word.
        Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
        access => access,
    }
}

/// The largest passwd file that is read: it is the container's, so foreign.
const PASSWD_LIMIT: u64 = 16 << 20;

/// `HOME=...` of the user `uid` by the container's `/etc/passwd`; `/` where
/// that does not name him.
#[must_use]
pub fn home(uid: u32) -> CString {
    let text = read_passwd().unwrap_or_default();
    let home = home_in(&text, uid).unwrap_or(b"/");
    // A passwd line can't hold a NUL that ends the value early and be honest.
    CString::new([b"HOME=", home].concat()).unwrap_or_else(|_| c"HOME=/".to_owned())
}

/// Only a regular file is read: a FIFO in its place would block for ever.
fn read_passwd() -> Option<Vec<u8>> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
        .open("/etc/passwd")
        .ok()?;
    let stat = fstat(file.as_fd()).ok()?;
    if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFREG {
        return None;
    }
    let mut text = Vec::new();
    file.take(PASSWD_LIMIT).read_to_end(&mut text).ok()?;
    Some(text)
}

/// The sixth field of the first line whose third is `uid` (passwd(5)).
fn home_in(passwd: &[u8], uid: u32) -> Option<&[u8]> {
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let number = std::str::from_utf8(fields.nth(2)?).ok()?;
        let home = fields.nth(2)?;
        (number.parse() == Ok(uid) && !home.is_empty()).then_some(home)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_the_sixth_field_of_the_users_line() {
        let passwd =
            b"root:x:0:0:root:/root:/bin/sh\n\nhalf:x:7\nnobody:x:7:7::/nowhere:/x\nu:x:8:8:::";
        for (uid, home) in [
            (0, Some("/root")),
            (7, Some("/nowhere")),
            (8, None),
            (9, None),
        ] {
            assert_eq!(home_in(passwd, uid), home.map(str::as_bytes), "{uid}");
        }
    }
}
