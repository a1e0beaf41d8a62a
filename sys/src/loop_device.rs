//! Loop devices: a file as a block device (loop(4)).
//!
//! A device is attached with autoclear: whoever opened it last, which is the
//! mount, takes it along when it goes.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::{Error, Result, call};

/// How a file is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// For reading only.
    pub read_only: bool,
    /// Past the page cache of the file.
    pub direct_io: bool,
}

/// An attached device; it is cleared when this and every mount of it is gone.
#[derive(Debug)]
pub struct LoopDevice {
    /// Its name, such as `/dev/loop3`.
    pub path: PathBuf,
    _open: OwnedFd,
}

/// How often another process may take the free device before we have it.
const ATTEMPTS: u32 = 100;

/// Attaches `file` to a free loop device.
///
/// # Errors
/// `ENOENT` where the file or /dev/loop-control isn't, `EBUSY` if others were
/// always faster.
pub fn attach(file: &Path, wanted: Wanted) -> Result<LoopDevice> {
    let access = if wanted.read_only {
        OFlag::O_RDONLY
    } else {
        OFlag::O_RDWR
    };
    let open = |path: &Path| {
        let flags = access | OFlag::O_CLOEXEC;
        call(open(path, flags, Mode::empty()), || {
            format!("open({path:?})")
        })
    };
    let backing = open(file)?;
    let control_path = "/dev/loop-control";
    let control = call(
        File::options().read(true).write(true).open(control_path),
        || format!("open({control_path:?})"),
    )?;
    for _ in 0..ATTEMPTS {
        let number = free_number(&control)?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path)?;
        match configure(&device, &backing, &path, wanted) {
            Ok(()) => {
                return Ok(LoopDevice {
                    path,
                    _open: device,
                });
            }
            Err(error) if error.errno() == Errno::EBUSY => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(
        format!("attach {file:?} to a loop device"),
        Errno::EBUSY,
    ))
}

/// The number of a device that nobody uses, which is made if need be.
fn free_number(control: &File) -> Result<i32> {
    /// linux/loop.h.
    const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
    // SAFETY: this ioctl takes no argument and returns an integer.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    call(Errno::result(number), || {
        format!("ioctl([{}], LOOP_CTL_GET_FREE)", control.as_raw_fd())
    })
}

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// Gives the device its file, in one step (LOOP_CONFIGURE, Linux 5.8) or in
/// two.
fn configure(device: &OwnedFd, backing: &OwnedFd, path: &Path, wanted: Wanted) -> Result<()> {
    const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
    const READ_ONLY: u32 = 1;
    const AUTOCLEAR: u32 = 4;
    const DIRECT_IO: u32 = 16;
    let mut flags = AUTOCLEAR;
    if wanted.read_only {
        flags |= READ_ONLY;
    }
    if wanted.direct_io {
        flags |= DIRECT_IO;
    }
    let info = Info {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let config = Config {
        fd: backing.as_raw_fd().cast_unsigned(),
        block_size: 0,
        info,
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads a struct loop_config, which `config` is and
    // which outlives the call.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    match Errno::result(done) {
        // Until Linux 5.8: no such ioctl, in the words of block devices.
        Err(Errno::ENOTTY | Errno::EINVAL | Errno::ENOSYS) => {
            configure_in_steps(device, backing, path, &info)
        }
        done => call(done.map(drop), || {
            format!("ioctl({path:?}, LOOP_CONFIGURE)")
        }),
    }
}

fn configure_in_steps(device: &OwnedFd, backing: &OwnedFd, path: &Path, info: &Info) -> Result<()> {
    const LOOP_SET_FD: libc::Ioctl = 0x4c00;
    const LOOP_CLR_FD: libc::Ioctl = 0x4c01;
    const LOOP_SET_STATUS64: libc::Ioctl = 0x4c04;
    // SAFETY: this ioctl takes a descriptor by value.
    let set = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_FD, backing.as_raw_fd()) };
    call(Errno::result(set), || {
        format!("ioctl({path:?}, LOOP_SET_FD)")
    })?;
    let info: *const Info = info;
    // SAFETY: the kernel reads a struct loop_info64, to which `info` points
    // and which outlives the call.
    let set = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_STATUS64, info) };
    let set = call(Errno::result(set).map(drop), || {
        format!("ioctl({path:?}, LOOP_SET_STATUS64)")
    });
    if set.is_err() {
        // SAFETY: this ioctl's argument is ignored.
        unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD, 0) };
    }
    set
}
