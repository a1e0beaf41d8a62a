//! Mounts: the mount API by descriptor (Linux 5.2, mount_setattr 5.12), and
//! mount(2) and umount2(2) for kernels before it.
//!
//! A mount is made detached, gets its attributes while nobody can see it, and
//! is attached to a directory that was opened before. No path is resolved
//! twice.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::{Error, Result, ToErrno, call};

/// A filesystem that is being configured (fsopen(2)).
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
    kind: String,
}

impl FsContext {
    /// Begins a filesystem of type `kind`. For proc, sysfs, mqueue and cgroup
    /// it belongs to the namespaces of the caller, from now on.
    ///
    /// # Errors
    /// `ENODEV` for an unknown type, `ENOSYS` before Linux 5.2.
    pub fn open(kind: &str) -> Result<Self> {
        let fd = call(
            rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC),
            || format!("fsopen({kind:?})"),
        )?;
        Ok(Self {
            fd,
            kind: kind.to_owned(),
        })
    }

    /// Sets a parameter, with a value or as a flag.
    ///
    /// # Errors
    /// `EINVAL` for what the filesystem doesn't know, or for a value of more
    /// than 255 bytes; the text has the kernel's own explanation.
    pub fn set(&self, key: &str, value: Option<&str>) -> Result<()> {
        match value {
            Some(value) => self.call(
                rustix::mount::fsconfig_set_string(&self.fd, key, value),
                || format!("fsconfig({self}, {key:?}, {value:?})"),
            ),
            None => self.call(rustix::mount::fsconfig_set_flag(&self.fd, key), || {
                format!("fsconfig({self}, {key:?})")
            }),
        }
    }

    /// Makes the filesystem (its superblock).
    ///
    /// # Errors
    /// Those of the filesystem.
    pub fn create(&self) -> Result<()> {
        self.call(rustix::mount::fsconfig_create(&self.fd), || {
            format!("fsconfig({self}, create)")
        })
    }

    /// A detached mount of the filesystem, with `attributes` (`MOUNT_ATTR_*`).
    ///
    /// # Errors
    /// `EPERM` where a user namespace may not see a fresh proc or sysfs.
    pub fn mount(self, attributes: u64) -> Result<OwnedFd> {
        let flags = known(attributes);
        self.call(
            rustix::mount::fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, flags),
            || format!("fsmount({self}, {})", names(attributes)),
        )
    }

    /// Like [`call`], with what the kernel wrote into the context's log.
    fn call<T>(
        &self,
        result: rustix::io::Result<T>,
        describe: impl FnOnce() -> String,
    ) -> Result<T> {
        result.map_err(|errno| {
            let mut text = describe();
            let mut log = [0; 256];
            // One message a read, with its level in front: "e tmpfs: Bad value".
            if let Ok(length) = nix::unistd::read(&self.fd, &mut log) {
                let message = String::from_utf8_lossy(&log[..length]);
                let message = message.trim_end();
                text = format!("{text} ({})", message.get(2..).unwrap_or(message));
            }
            Error::new(text, errno.errno())
        })
    }
}

impl std::fmt::Display for FsContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}]<{:?}>", self.fd.as_raw_fd(), self.kind)
    }
}

/// A detached copy of the mount at `path` (empty: of `dir` itself), with all
/// that is mounted below it if `recursive`.
///
/// # Errors
/// `ENOENT`, `EINVAL` for an unbindable mount, `ENOSYS` before Linux 5.2.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> Result<OwnedFd> {
    open_tree(dir, path, recursive, OpenTreeFlags::empty())
}

/// [`clone_tree`], where a symbolic link at the end of `path` is itself what
/// is copied.
///
/// # Errors
/// As for [`clone_tree`].
pub fn clone_tree_or_link(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> Result<OwnedFd> {
    open_tree(dir, path, recursive, OpenTreeFlags::AT_SYMLINK_NOFOLLOW)
}

fn open_tree(
    dir: BorrowedFd<'_>,
    path: &Path,
    recursive: bool,
    links: OpenTreeFlags,
) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | links;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.as_os_str().is_empty());
    call(rustix::mount::open_tree(dir, path, flags), || {
        let recursive = if recursive { "|AT_RECURSIVE" } else { "" };
        let links = if links.is_empty() {
            ""
        } else {
            "|AT_SYMLINK_NOFOLLOW"
        };
        format!(
            "open_tree({}, {path:?}, OPEN_TREE_CLONE{recursive}{links})",
            at(dir)
        )
    })
}

/// Attaches the detached mount `tree` (or moves an attached one) on `target`.
///
/// # Errors
/// `ENOTDIR` if one is a directory and the other isn't.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    call(
        rustix::mount::move_mount(tree, c"", target, c"", flags),
        || {
            format!(
                "move_mount([{}], [{}])",
                tree.as_raw_fd(),
                target.as_raw_fd()
            )
        },
    )
}

/// What [`set_attributes`] changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'a> {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear; the whole of `MOUNT_ATTR__ATIME` where `set`
    /// has an access time.
    pub clear: u64,
    /// One of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0.
    pub propagation: u64,
    /// The user namespace of an idmapped mount.
    pub user_namespace: Option<BorrowedFd<'a>>,
    /// Whether mounts below change too.
    pub recursive: bool,
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes the attributes of a mount, of which `mount` is the root
/// (mount_setattr(2)).
///
/// # Errors
/// `EPERM` for a locked attribute, `EINVAL` if `mount` is no mount's root or
/// the filesystem can't be idmapped, `ENOSYS` before Linux 5.12.
pub fn set_attributes(mount: BorrowedFd<'_>, change: &Change<'_>) -> Result<()> {
    let idmap = MountAttrFlags::MOUNT_ATTR_IDMAP.bits();
    let attr = MountAttr {
        attr_set: change.set | change.user_namespace.map_or(0, |_| u64::from(idmap)),
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: change
            .user_namespace
            .map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
    };
    let recursive = if change.recursive {
        libc::AT_RECURSIVE
    } else {
        0
    };
    // SAFETY: the path is a static empty string and the kernel copies
    // size_of::<MountAttr>() bytes of attr, which outlives the call.
    let changed = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    call(Errno::result(changed).map(drop), || {
        let MountAttr {
            attr_set, attr_clr, ..
        } = attr;
        let mut text = format!("mount_setattr([{}]", mount.as_raw_fd());
        for (word, bits) in [("set ", attr_set), ("clear ", attr_clr)] {
            if bits != 0 {
                text = format!("{text}, {word}{}", names(bits));
            }
        }
        if let Some(name) = propagation_name(attr.propagation) {
            text = format!("{text}, {name}");
        }
        if change.recursive {
            text.push_str(", AT_RECURSIVE");
        }
        text + ")"
    })
}

/// mount(2), with paths that the caller vouches for (such as
/// `/proc/self/fd/N`).
///
/// # Errors
/// Those of mount(2).
pub fn mount(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<()> {
    call(nix::mount::mount(source, target, kind, flags, data), || {
        let source = source.unwrap_or(Path::new(""));
        let (kind, data) = (kind.unwrap_or_default(), data.unwrap_or_default());
        format!("mount({source:?}, {target:?}, {kind:?}, {flags:?}, {data:?})")
    })
}

/// Detaches what is mounted at `path` from the tree, now or when its last
/// user is gone.
///
/// # Errors
/// `EINVAL` if nothing is mounted there, `EPERM` if it is locked.
pub fn detach(path: &Path) -> Result<()> {
    call(nix::mount::umount2(path, MntFlags::MNT_DETACH), || {
        format!("umount2({path:?}, MNT_DETACH)")
    })
}

/// Detaches the mount on which the working directory is.
///
/// # Errors
/// As for [`detach`].
pub fn detach_here() -> Result<()> {
    call(rustix::mount::unmount(c".", UnmountFlags::DETACH), || {
        "umount2(\".\", MNT_DETACH)".to_owned()
    })
}

/// Makes the working directory the root of the mount namespace, with the old
/// root stacked on it: pivot_root(".", "."), as in its manual page.
///
/// # Errors
/// `EINVAL` if the working directory is no mount's root, or its parent mount
/// is shared.
pub fn pivot_here() -> Result<()> {
    call(nix::unistd::pivot_root(".", "."), || {
        "pivot_root(\".\", \".\")".to_owned()
    })
}

/// The attributes that rustix has a type for; others are kept as they are.
fn known(attributes: u64) -> MountAttrFlags {
    MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or(u32::MAX))
}

/// `nosuid|nodev`, in the kernel's words.
fn names(attributes: u64) -> String {
    if attributes == 0 {
        return "0".to_owned();
    }
    let atime = u64::from(MountAttrFlags::MOUNT_ATTR__ATIME.bits());
    if attributes & atime == atime {
        let others = attributes & !atime;
        return if others == 0 {
            "atime".to_owned()
        } else {
            format!("{}|atime", names(others))
        };
    }
    known(attributes)
        .iter_names()
        .filter(|(_, flag)| !flag.is_empty())
        .map(|(name, _)| name.trim_start_matches("MOUNT_ATTR_").to_lowercase())
        .collect::<Vec<_>>()
        .join("|")
}

/// The name of a propagation type.
fn propagation_name(propagation: u64) -> Option<&'static str> {
    [
        (MsFlags::MS_SHARED, "MS_SHARED"),
        (MsFlags::MS_SLAVE, "MS_SLAVE"),
        (MsFlags::MS_PRIVATE, "MS_PRIVATE"),
        (MsFlags::MS_UNBINDABLE, "MS_UNBINDABLE"),
    ]
    .into_iter()
    .find(|(flag, _)| flag.bits() == propagation)
    .map(|(_, name)| name)
}

/// A directory descriptor as strace prints it.
fn at(dir: BorrowedFd<'_>) -> String {
    if dir.as_raw_fd() == libc::AT_FDCWD {
        "AT_FDCWD".to_owned()
    } else {
        format!("[{}]", dir.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_print_in_the_kernels_words() {
        for (attributes, text) in [
            (0, "0"),
            (0x2 | 0x4 | 0x8, "nosuid|nodev|noexec"),
            (0x1 | 0x10, "rdonly|noatime"),
            (0x70, "atime"),
            (0x2 | 0x70, "nosuid|atime"),
            (0x20_0000, "nosymfollow"),
        ] {
            assert_eq!(names(attributes), text, "{attributes:#x}");
        }
    }

    #[test]
    fn a_failed_call_names_its_filesystem() {
        let error = FsContext::open("nofs").unwrap_err();
        assert_eq!(error.errno(), Errno::ENODEV);
        assert_eq!(error.to_string(), "fsopen(\"nofs\"): no such device");
    }
}
