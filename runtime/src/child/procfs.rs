//! Kernel parameters and the process's own attributes, written through a procfs
//! that nobody else can have put anything over (CVE-2019-16884,
//! CVE-2025-52881): a private instance where the kernel gives one, else a
//! verified /proc, as pathrs does it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use pathrs::flags::OpenFlags;
use pathrs::procfs::{ProcfsBase, ProcfsHandleBuilder};
use rustix::fs::OFlags;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::file;
use crate::sys::mutation::Defence;
use crate::sys::{self};

/// Writes each parameter, by its path below /proc/sys.
///
/// # Errors
/// A parameter that the kernel doesn't have or a value that it doesn't take.
pub(super) fn write_sysctls(sysctls: &[(PathBuf, String)]) -> Result<()> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let procfs = ProcfsHandleBuilder::new()
        .unmasked()
        .build()
        .map_err(|error| failed(&error))
        .context(|| "open procfs for sysctl")?;
    for (path, value) in sysctls {
        let below = Path::new("sys").join(path);
        let mut file = if Defence::PrivateProcfs.is_out() {
            whoever(&Path::new("/proc").join(below))?
        } else {
            procfs
                .open(ProcfsBase::ProcRoot, below, OpenFlags::O_WRONLY)
                .map_err(|error| failed(&error))
                .context(|| format!("sysctl {path:?}"))?
        };
        sys::call(file.write_all(value.as_bytes()), || {
            format!("write({value:?})")
        })
        .context(|| format!("sysctl {path:?}"))?;
    }
    Ok(())
}

/// Opens `file` of this thread's own directory in /proc, to write it.
///
/// # Errors
/// `ENOENT` for a file that the kernel doesn't have.
pub(super) fn open_own(file: &str) -> Result<File> {
    if Defence::PrivateProcfs.is_out() {
        return whoever(&Path::new("/proc/thread-self").join(file));
    }
    let procfs = ProcfsHandleBuilder::new()
        .build()
        .map_err(|error| failed(&error))?;
    procfs
        .open(ProcfsBase::ProcThreadSelf, file, OpenFlags::O_WRONLY)
        .map_err(|error| failed(&error))
}

/// The mistake of those that write to whatever is at that path.
fn whoever(path: &Path) -> Result<File> {
    Ok(file::open(path, OFlags::WRONLY)?.into())
}

/// An error of pathrs, which has several lines of its own.
fn failed(error: &pathrs::error::Error) -> Error {
    match error.kind() {
        pathrs::error::ErrorKind::OsError(Some(errno)) => {
            sys::Error::new("open", nix::errno::Errno::from_raw(errno)).into()
        }
        _ => Error::new(Kind::System, error.to_string().replace('\n', " ")),
    }
}
