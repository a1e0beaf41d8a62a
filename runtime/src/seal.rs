//! Our own binary, sealed against the container (CVE-2019-5736).
//!
//! A process that enters a container is still this program until its execve,
//! and even then the container decides what `/proc/self/exe` is executed as:
//! an entrypoint or `#!` line that names it runs this binary inside, where
//! `/proc/PID/exe` is a way to the host's file. So whatever enters a container
//! must not have been started from the file on the host.
//!
//! `rrun` therefore first becomes a process of a file in a place that nobody can
//! write to: a read-only clone of its file's mount that is attached nowhere.
//! When the descriptor closes, the clone leaves its namespace, and from then on
//! no mount call accepts it. The kernel can be told so while the process runs
//! ([`sys::executable`]); where it can't (Linux before 5.9, too few rights), rrun
//! executes itself once more from the clone. Where that can't be made (an
//! unprivileged user, Linux before 5.12) a memfd with all seals serves: a copy
//! that costs half a millisecond more.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, fstatvfs};

use crate::error::{Context, Result};
use crate::sys::mount::{self, Change};
use crate::sys::mutation::Defence;
use crate::sys::{self, descriptors, process};

/// The commands whose processes enter a container.
const ENTERING: [&str; 4] = ["create", "run", "exec", "mounts"];

/// The clone's descriptor, until [`let_go`].
static HELD: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Lets the clone leave its namespace, which waits for a grace period of all
/// CPUs: for a moment at which the child has work to do, and has closed its own
/// descriptor of it.
pub fn let_go() {
    if let Ok(mut held) = HELD.lock() {
        drop(held.take());
    }
}

/// All that can be sealed of a memfd.
fn all_seals() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

/// Returns if this process may enter a container, or will not; else executes
/// this program again from a sealed place.
///
/// It looks at the raw arguments, before anything has parsed them: a word too
/// many that reads like a command costs one execve and nothing else.
///
/// # Errors
/// No way to seal worked.
pub fn ensure() -> Result<()> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let enters = args
        .iter()
        .skip(1)
        .any(|arg| ENTERING.iter().any(|command| arg == command));
    if !enters || Defence::SealedBinary.is_out() {
        return Ok(());
    }
    let path = "/proc/self/exe";
    let binary = sys::call(
        open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()),
        || format!("open({path:?})"),
    )
    .context(|| "protect the runtime's binary")?;
    if is_sealed(binary.as_fd()) {
        return Ok(());
    }
    let clone = detached_clone(binary.as_fd());
    let clone = match clone {
        Ok(clone) if run_from(clone.as_fd()).is_ok_and(|sealed| sealed) => {
            if let Ok(mut held) = HELD.lock() {
                *held = Some(clone);
            }
            return Ok(());
        }
        clone => clone,
    };
    let sealed = clone
        .or_else(|_| sealed_copy(binary.as_fd()))
        .context(|| "protect the runtime's binary")?;
    let strings = |strings: Vec<OsString>| -> Vec<CString> {
        // What came through execve has no NUL.
        strings
            .into_iter()
            .filter_map(|text| CString::new(text.into_vec()).ok())
            .collect()
    };
    let env = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let env = strings(env.collect());
    match process::fexecve(sealed.as_fd(), &strings(args), &env) {
        Err(error) => Err(error).context(|| "protect the runtime's binary"),
        Ok(never) => match never {},
    }
}

/// Changes what this process runs to the file on a mount of its own, without
/// an execve, which would cost twice as much. Whether it is sealed then.
///
/// # Errors
/// The kernel or our rights don't allow it.
fn run_from(clone: BorrowedFd<'_>) -> Result<bool> {
    let path = format!("/proc/self/fd/{}", clone.as_raw_fd());
    let reopen = |path: &str| {
        let file = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        sys::call(file, || format!("open({path:?})"))
    };
    sys::executable::replace(reopen(&path)?.as_fd())?;
    Ok(is_sealed(reopen("/proc/self/exe")?.as_fd()))
}

/// Whether `binary`, which this process runs, can be written by nobody: a
/// memfd with all seals, or a file on a read-only mount that is attached
/// nowhere.
///
/// A read-only mount alone proves nothing, it may be writable elsewhere or
/// made so. A file that is the root of a mount without a mount point has the
/// path "/", which no file in a mount namespace can have.
fn is_sealed(binary: BorrowedFd<'_>) -> bool {
    // An ordinary file on a tmpfs has an answer too, and may be mounted as below.
    if let Ok(seals) = fcntl(binary, FcntlArg::F_GET_SEALS)
        && SealFlag::from_bits_truncate(seals).contains(all_seals())
    {
        return true;
    }
    let read_only =
        fstatvfs(binary).is_ok_and(|filesystem| filesystem.flags().contains(FsFlags::ST_RDONLY));
    let detached = std::fs::read_link("/proc/self/exe").is_ok_and(|path| path.as_os_str() == "/");
    read_only && detached
}

/// The binary on a read-only mount of its own, attached nowhere.
fn detached_clone(binary: BorrowedFd<'_>) -> Result<OwnedFd> {
    let clone = mount::clone_tree(binary, Path::new(""), false)?;
    let read_only = Change {
        set: libc::MOUNT_ATTR_RDONLY,
        ..Change::default()
    };
    mount::set_attributes(clone.as_fd(), &read_only)?;
    Ok(clone)
}

/// How often sealing is tried again.
const SEALING_ATTEMPTS: u32 = 20;

/// The binary as a sealed memfd.
fn sealed_copy(binary: BorrowedFd<'_>) -> Result<OwnedFd> {
    // MFD_EXEC (Linux 6.3) asks for what older kernels do anyway.
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let executable = flags | MFdFlags::from_bits_retain(libc::MFD_EXEC);
    let copy = sys::call(
        memfd_create(c"rrun", executable).or_else(|_| memfd_create(c"rrun", flags)),
        || "memfd_create(\"rrun\", MFD_ALLOW_SEALING)".to_owned(),
    )?;
    let mut bytes = vec![0; 1 << 18];
    loop {
        match descriptors::read(binary, &mut bytes)? {
            0 => break,
            length => descriptors::write_all(copy.as_fd(), &bytes[..length])?,
        }
    }
    for attempt in 0.. {
        match fcntl(&copy, FcntlArg::F_ADD_SEALS(all_seals())) {
            // The kernel still holds a page of it for a moment (memfd_wait_for_pins):
            // it has waited for 150 ms by then.
            Err(Errno::EBUSY) if attempt < SEALING_ATTEMPTS => {}
            sealed => {
                sys::call(sealed, || "fcntl(F_ADD_SEALS)".to_owned())?;
                break;
            }
        }
    }
    Ok(copy)
}
