//! Device nodes, and the console.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::MsFlags;
use rustix::fs::{FileType, OFlags, Stat, makedev};

use super::classic;
use super::root::{Missing, Root};
use super::rootfs::{by_number, refused};
use crate::error::Result;
use crate::plan::devices::{Device, DeviceKind};
use crate::sys;
use crate::sys::file::{self, Links};
use crate::sys::mutation::Defence;

/// `DEVPTS_SUPER_MAGIC`, linux/magic.h.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// The major numbers of `UNIX98_PTY_SLAVE`.
const PTY_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// Makes a node, or sees that the one that is there is the same. The umask is
/// 0.
///
/// # Errors
/// Another file in its place (runtime-spec: "the runtime MUST generate an
/// error"); those of mknod and, in a user namespace, of the bind mount.
pub(super) fn make(root: &mut Root, device: &Device) -> Result<()> {
    if device.bind {
        return bind(root, device);
    }
    let (dir, name) = root.parent_of(&device.path)?;
    let made = file::make_node(
        dir,
        name,
        device.kind.file_type(),
        device.mode,
        device.number(),
    );
    match made {
        Ok(()) if (device.uid, device.gid) == (0, 0) => Ok(()),
        Ok(()) => Ok(file::set_owner(dir, name, device.uid, device.gid)?),
        Err(error) if error.errno() == Errno::EEXIST => existing(dir, name, device),
        // In a container of somebody else's user namespace.
        Err(error) if error.errno() == Errno::EPERM => bind(root, device),
        Err(error) => Err(error.into()),
    }
}

/// Looks at what is in a node's place.
fn existing(dir: BorrowedFd<'_>, name: &OsStr, device: &Device) -> Result<()> {
    if device.is(&file::stat_at(dir, name)?) || Defence::DeviceInPlace.is_out() {
        return Ok(());
    }
    Err(refused("another file is in its place"))
}

/// Binds the host's node of the same path, after seeing that it is the one.
fn bind(root: &Root, device: &Device) -> Result<()> {
    let source = file::open(&device.path, OFlags::PATH | OFlags::NOFOLLOW)?;
    if !device.is(&file::stat(source.as_fd())?) {
        return Err(refused("the host's file of this name is another device"));
    }
    let target = root.find_or_make(&device.path, Missing::File)?.fd;
    bind_file(source.as_fd(), target.as_fd())
}

/// Binds one file on another, both by descriptor.
pub(super) fn bind_file(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let bound = sys::mount::clone_tree(source, Path::new(""), false)
        .and_then(|tree| sys::mount::attach(tree.as_fd(), target));
    match bound {
        // Until Linux 5.2.
        Err(error) if error.errno() == Errno::ENOSYS => {
            classic::bind(source, target, MsFlags::empty())
        }
        bound => Ok(bound?),
    }
}

/// Binds the container's end of its terminal on /dev/console. `terminal` came
/// from TIOCGPTPEER; it is looked at again, for it is what a racing container
/// would swap (CVE-2025-52565).
///
/// # Errors
/// A descriptor that is no terminal of a devpts.
pub fn console(root: BorrowedFd<'_>, terminal: BorrowedFd<'_>) -> Result<()> {
    let swapped;
    let terminal = if Defence::OwnTerminal.is_out() {
        swapped = by_name(terminal)?;
        swapped.as_fd()
    } else {
        terminal
    };
    let stat = file::stat(terminal)?;
    let character = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    let other = !character
        || !PTY_MAJORS.contains(&rustix::fs::major(stat.st_rdev))
        || file::filesystem(terminal)?.magic != DEVPTS_MAGIC;
    if other && !Defence::OwnTerminal.is_out() {
        return Err(refused("mount on \"/dev/console\": no pseudo-terminal"));
    }
    let root = Root::new(sys::call(root.try_clone_to_owned(), || "dup".to_owned())?);
    let path = Path::new("/dev/console");
    let target = match root.find(path, Links::Refuse) {
        Ok(target) => target,
        Err(error) if error.errno() == Errno::ENOENT => root.find_or_make(path, Missing::File)?.fd,
        Err(error) => return Err(error.into()),
    };
    bind_file(terminal, target.as_fd())
}

/// The mistake of those that bind a terminal by its name: what is there by now.
fn by_name(terminal: BorrowedFd<'_>) -> Result<OwnedFd> {
    let number = by_number(terminal);
    let name = file::read_link(rustix::fs::CWD, number.as_os_str())?;
    std::thread::sleep(std::time::Duration::from_millis(1));
    Ok(file::open(&name, OFlags::PATH)?)
}

/// Opens the null device, and makes sure that it is it (CVE-2025-31133).
pub(super) fn null(root: &Root) -> Result<OwnedFd> {
    let path = Path::new("/dev/null");
    let links = match Defence::NullDevice.is_out() {
        true => Links::Follow,
        false => Links::Refuse,
    };
    let fd = root.find(path, links)?;
    let stat = file::stat(fd.as_fd())?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == makedev(1, 3);
    if is_null || Defence::NullDevice.is_out() {
        return Ok(fd);
    }
    Err(refused("\"/dev/null\" is not the null device"))
}

impl Device {
    fn number(&self) -> u64 {
        makedev(self.major, self.minor)
    }

    /// Whether a file is this device.
    fn is(&self, stat: &Stat) -> bool {
        FileType::from_raw_mode(stat.st_mode) == self.kind.file_type()
            && (self.kind == DeviceKind::Fifo || stat.st_rdev == self.number())
    }
}

impl DeviceKind {
    fn file_type(self) -> FileType {
        match self {
            DeviceKind::Character => FileType::CharacterDevice,
            DeviceKind::Block => FileType::BlockDevice,
            DeviceKind::Fifo => FileType::Fifo,
        }
    }
}
