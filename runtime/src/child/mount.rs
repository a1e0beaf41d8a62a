//! One mount: made detached, dressed with its attributes, attached to a target
//! that was opened inside the root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::MsFlags;
use rustix::fs::{CWD, FileType, OFlags, PROC_SUPER_MAGIC};

use super::classic::{self, Before, PROC_ROOT_INODE};
use super::copy_up;
use super::root::{Found, Missing, Root};
use super::rootfs::{by_number, refused};
use crate::error::{Error, Kind, Result};
use crate::plan::mount_options::{Attributes, Options, Superblock};
use crate::plan::mounts::{Mount, What};
use crate::sys::file::{self, Links};
use crate::sys::mount::{Change, FsContext};
use crate::sys::mutation::Defence;
use crate::sys::{self, ToErrno};

/// The attributes that a bind mount takes from its options alone.
const FREE: u64 = Attributes::RDONLY | Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;

/// Does one mount; `source` is what the parent has opened for it: the tree of a
/// bind mount, the user namespace that another one is idmapped by.
///
/// # Errors
/// Of the call that failed; the caller says which mount it was.
pub(super) fn perform(
    root: &Root,
    mount: &Mount,
    source: Option<OwnedFd>,
    user_namespace: bool,
) -> Result<()> {
    match &mount.what {
        What::Filesystem {
            fstype,
            source: name,
            ..
        } => filesystem(root, mount, fstype, name, source.as_ref()),
        What::Bind {
            source: path,
            recursive,
            ..
        } => bind(root, mount, path, *recursive, source, user_namespace),
        What::OwnCgroup { path, fallback } => {
            match bind(root, mount, path, true, None, user_namespace) {
                Err(error) if error.errno() == Some(Errno::ENOENT) => {
                    bind(root, mount, fallback, true, None, user_namespace)
                }
                done => done,
            }
        }
        What::Cgroup2 {
            fallback,
            mask_if_missing,
        } => cgroup2(root, mount, fallback, *mask_if_missing, user_namespace),
    }
}

/// Mounts a filesystem of its own, idmapped by the user namespace `ids`.
fn filesystem(
    root: &Root,
    mount: &Mount,
    fstype: &str,
    source: &str,
    ids: Option<&OwnedFd>,
) -> Result<()> {
    if mount.options.superblock.0 & Superblock::REMOUNT != 0 {
        return remount(root, mount, fstype, source);
    }
    let (target, options) = filesystem_target(root, mount, fstype)?;
    // What only a detached mount can carry.
    let by_mount_call = || match ids {
        Some(_) => Err(refused(format!("mount(2) can't idmap ({options})"))),
        None => by_mount_call(root, mount, &target, fstype, source, &options),
    };
    if needs_mount_call(fstype, source, &options) {
        return by_mount_call();
    }
    let tree = match detached(fstype, source, &options) {
        Ok(tree) => tree,
        // Until Linux 5.2.
        Err(error) if error.errno() == Errno::ENOSYS => return by_mount_call(),
        Err(error) => return Err(error.into()),
    };
    if options.copy_up {
        copy_up::copy(target.fd.as_fd(), tree.as_fd(), Path::new("/proc"))?;
    }
    if let Some(ids) = ids {
        let mapped = Change {
            user_namespace: Some(ids.as_fd()),
            ..Change::default()
        };
        sys::mount::set_attributes(tree.as_fd(), &mapped)?;
    }
    match sys::mount::attach(tree.as_fd(), target.fd.as_fd()) {
        Err(error) if error.errno() == Errno::ENOSYS => return by_mount_call(),
        attached => attached?,
    }
    Ok(dress(tree.as_fd(), &options, Place::Attached)?)
}

/// Gives the filesystem that is mounted at the destination other options. The
/// kernel takes the root of a mount alone, and the descriptor is what it was
/// found by: nothing can come in between.
fn remount(root: &Root, mount: &Mount, fstype: &str, source: &str) -> Result<()> {
    let destination = &mount.destination;
    let target = if matches!(fstype, "proc" | "sysfs") {
        root.find(destination, Links::Refuse)?
    } else {
        outside_procfs(root.find(destination, Links::Follow)?, destination)?
    };
    if root.is(target.as_fd())? {
        return Err(refused("mounting into / is prohibited"));
    }
    call_mount(target.as_fd(), fstype, source, &mount.options)?;
    Ok(dress(target.as_fd(), &mount.options, Place::Attached)?)
}

/// The target of a filesystem, and its options with what the target adds.
fn filesystem_target(root: &Root, mount: &Mount, fstype: &str) -> Result<(Found, Options)> {
    let target = if matches!(fstype, "proc" | "sysfs") && !Defence::OrdinaryDirectory.is_out() {
        ordinary_directory(root, &mount.destination, fstype)?
    } else {
        target(root, &mount.destination, Missing::Directory)?
    };
    let mut options = mount.options.clone();
    if fstype == "tmpfs" && !target.made && !options.data.iter().any(|(key, _)| key == "mode") {
        let mode = file::stat(target.fd.as_fd())?.st_mode & 0o7777;
        options
            .data
            .push(("mode".to_owned(), Some(format!("{mode:o}"))));
    }
    Ok((target, options))
}

/// [`filesystem`] by the mount API alone, so that it is there with all its
/// attributes or not at all; its root. `made` is one
/// that was made on the host ([`new_filesystem`]).
///
/// # Errors
/// [`Kind::Unsupported`] for options that only mount(2) can carry.
pub(super) fn detached_only(
    root: &Root,
    mount: &Mount,
    (fstype, source): (&str, &str),
    made: Option<&OwnedFd>,
) -> Result<OwnedFd> {
    let (target, mut options) = filesystem_target(root, mount, fstype)?;
    let read_only = options.attributes.read_only();
    if options.copy_up {
        // Writable until it is full.
        options.attributes.set &= !Attributes::RDONLY;
    }
    let tree = match made {
        Some(made) => {
            let copy = made.try_clone();
            copy.map_err(|error| sys::Error::new("dup(tree)", error.errno()))?
        }
        None => new_filesystem(fstype, source, &options)?,
    };
    if options.copy_up {
        // The working directory, see `hot_mounts`.
        copy_up::copy(target.fd.as_fd(), tree.as_fd(), Path::new("."))?;
        if read_only {
            add_attributes(tree.as_fd(), Attributes::RDONLY)?;
        }
    }
    dress(tree.as_fd(), &options, Place::Detached)?;
    sys::mount::attach(tree.as_fd(), target.fd.as_fd())?;
    Ok(tree)
}

/// A new filesystem that is mounted nowhere yet, for [`detached_only`].
pub(super) fn new_filesystem(fstype: &str, source: &str, options: &Options) -> Result<OwnedFd> {
    if needs_mount_call(fstype, source, options) {
        let text = format!(
            "only mount(2) can carry {options:?}",
            options = options.to_string()
        );
        return Err(Error::new(Kind::Unsupported, text));
    }
    Ok(detached(fstype, source, options)?)
}

/// Whether only mount(2) can express the mount: fsconfig takes no value over
/// 255 bytes and lacks some flags, and fsopen a sub-type (`fuse.sshfs`).
fn needs_mount_call(fstype: &str, source: &str, options: &Options) -> bool {
    if fstype.contains('.') || source.len() > 255 {
        return true;
    }
    let flags = Superblock::WORDS
        .iter()
        .any(|(flag, _, word)| options.superblock.0 & flag != 0 && word.is_none());
    let long = |(_, value): &(String, Option<String>)| {
        value.as_ref().is_some_and(|value| value.len() > 255)
    };
    flags || options.data.iter().any(long)
}

/// A detached mount of a new filesystem.
fn detached(fstype: &str, source: &str, options: &Options) -> sys::Result<OwnedFd> {
    let context = FsContext::open(fstype)?;
    context.set("source", Some(source))?;
    if options.attributes.read_only() {
        context.set("ro", None)?;
    }
    for (flag, _, word) in Superblock::WORDS {
        if let (true, Some(word)) = (options.superblock.0 & flag != 0, word)
            && !word.is_empty()
        {
            context.set(word, None)?;
        }
    }
    for (key, value) in &options.data {
        context.set(key, value.as_deref())?;
    }
    context.create()?;
    context.mount(options.attributes.set)
}

/// The same by mount(2), attached.
fn by_mount_call(
    root: &Root,
    mount: &Mount,
    target: &Found,
    fstype: &str,
    source: &str,
    options: &Options,
) -> Result<()> {
    let before = Before::look()?;
    call_mount(target.fd.as_fd(), fstype, source, options)?;
    let tree = root.find(&mount.destination, Links::Follow)?;
    let tree = before.check(tree, target.fd.as_fd())?;
    if options.copy_up {
        // The target's descriptor is still what is below the mount.
        copy_up::copy(target.fd.as_fd(), tree.as_fd(), Path::new("/proc"))?;
    }
    Ok(dress(tree.as_fd(), options, Place::Attached)?)
}

/// mount(2) with all options.
fn call_mount(
    target: BorrowedFd<'_>,
    fstype: &str,
    source: &str,
    options: &Options,
) -> sys::Result<()> {
    let flags = MsFlags::from_bits_retain(options.superblock.0) | mount_flags(options.attributes);
    let data: Vec<String> = options.data.iter().map(data_word).collect();
    let data = data.join(",");
    sys::mount::mount(
        Some(Path::new(source)),
        &by_number(target),
        Some(fstype),
        flags,
        Some(data.as_str()).filter(|data| !data.is_empty()),
    )
}

/// `key=value` as mount(2) wants it: quoted where a comma would end it.
fn data_word((key, value): &(String, Option<String>)) -> String {
    match value {
        Some(value) if value.contains(',') => format!("{key}=\"{value}\""),
        Some(value) => format!("{key}={value}"),
        None => key.clone(),
    }
}

/// Binds a part of the host's tree.
fn bind(
    root: &Root,
    mount: &Mount,
    path: &Path,
    recursive: bool,
    source: Option<OwnedFd>,
    user_namespace: bool,
) -> Result<()> {
    let symlinks = mount.options.symlinks;
    if symlinks.copy
        && source.is_none()
        && let Ok(target) = file::read_link(CWD, path.as_os_str())
    {
        return copy_symlink(root, &mount.destination, &target);
    }
    let clone = match symlinks.source {
        true => sys::mount::clone_tree_or_link,
        false => sys::mount::clone_tree,
    };
    let tree = match source {
        Some(tree) => tree,
        None => match clone(CWD, path, recursive) {
            Ok(tree) => tree,
            // Until Linux 5.2.
            Err(error) if error.errno() == Errno::ENOSYS => {
                return bind_by_mount_call(root, mount, path, recursive, user_namespace);
            }
            Err(error) => return Err(error.into()),
        },
    };
    let Some(missing) = bind_tree(root, mount, &tree, user_namespace)? else {
        return Ok(());
    };
    match mount.what {
        // What only a tree can carry.
        What::Bind { idmap: Some(_), .. } => Err(missing.into()),
        _ => bind_by_mount_call(root, mount, path, recursive, user_namespace),
    }
}

/// Binds `tree`, which is attached nowhere. The error of move_mount(2) comes back
/// where the kernel has none; nothing is mounted then.
///
/// # Errors
/// Of the call that failed.
pub(super) fn bind_tree(
    root: &Root,
    mount: &Mount,
    tree: &OwnedFd,
    user_namespace: bool,
) -> Result<Option<sys::Error>> {
    let target = bind_target(root, mount, tree.as_fd())?;
    let attributes = bind_attributes(tree.as_fd(), mount.options.attributes, user_namespace)?;
    // Before anybody can see it, unless the kernel (until 5.12) can only
    // change what is attached.
    let dressed = change(tree.as_fd(), attributes, &mount.options, Place::Detached);
    let late = matches!(&dressed, Err(error) if error.errno() == Errno::ENOSYS);
    if !late {
        dressed?;
    }
    match sys::mount::attach(tree.as_fd(), target.as_fd()) {
        Err(error) if error.errno() == Errno::ENOSYS => return Ok(Some(error)),
        attached => attached?,
    }
    if late {
        change(tree.as_fd(), attributes, &mount.options, Place::Attached)?;
    }
    Ok(None)
}

/// [`bind`] by mount(2).
fn bind_by_mount_call(
    root: &Root,
    mount: &Mount,
    path: &Path,
    recursive: bool,
    user_namespace: bool,
) -> Result<()> {
    let symlinks = mount.options.symlinks;
    let mut how = OFlags::PATH;
    how.set(OFlags::NOFOLLOW, symlinks.source);
    let source = file::open(path, how)?;
    let target = bind_target(root, mount, source.as_fd())?;
    let mut flags = MsFlags::empty();
    flags.set(MsFlags::MS_REC, recursive);
    let before = Before::look()?;
    classic::bind(source.as_fd(), target.as_fd(), flags)?;
    let links = match symlinks.source || symlinks.destination {
        true => Links::NotLast,
        false => Links::Follow,
    };
    let tree = root.find(&mount.destination, links)?;
    let tree = before.check(tree, target.as_fd())?;
    let attributes = bind_attributes(tree.as_fd(), mount.options.attributes, user_namespace)?;
    Ok(change(
        tree.as_fd(),
        attributes,
        &mount.options,
        Place::Attached,
    )?)
}

/// Makes a link like the source's at the destination, where one that says the
/// same may be already.
fn copy_symlink(root: &Root, destination: &Path, target: &Path) -> Result<()> {
    let (Some(name), Some(parent)) = (destination.file_name(), destination.parent()) else {
        return Err(refused(format!("{destination:?} has no name")));
    };
    let dir = root.find_or_make(parent, Missing::Directory)?.fd;
    let dir = outside_procfs(dir, destination)?;
    match file::make_link(target, dir.as_fd(), name) {
        Err(error) if error.errno() == Errno::EEXIST => match file::read_link(dir.as_fd(), name) {
            Ok(old) if old == target => Ok(()),
            _ => Err(error.into()),
        },
        done => Ok(done?),
    }
}

/// The target of a bind, a file where the source is one.
fn bind_target(root: &Root, mount: &Mount, source: BorrowedFd<'_>) -> Result<OwnedFd> {
    let destination = &mount.destination;
    let stat = file::stat(source)?;
    let missing = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Missing::Directory,
        _ => Missing::File,
    };
    if *destination == Path::new("/proc")
        && !Defence::ProcBind.is_out()
        && !(is_procfs(source)? && stat.st_ino == PROC_ROOT_INODE)
    {
        return Err(refused(
            "\"/proc\" cannot be mounted because it is not of type proc",
        ));
    }
    if mount.options.symlinks.destination {
        let link = root.find(destination, Links::NotLast);
        if let Ok(link) = link
            && FileType::from_raw_mode(file::stat(link.as_fd())?.st_mode) == FileType::Symlink
        {
            return outside_procfs(link, destination);
        }
    }
    Ok(target(root, destination, missing)?.fd)
}

/// What a bind mount's attributes become: exactly the asked ones once any is
/// asked, as under runc. In a user namespace the kernel has locked those that
/// the host gave the source (mount_namespaces(7)): they stay, and to ask them off is
/// an error. The access times stay too, without a word, as under runc.
fn bind_attributes(
    tree: BorrowedFd<'_>,
    asked: Attributes,
    user_namespace: bool,
) -> Result<Attributes> {
    if asked.is_empty() {
        return Ok(asked);
    }
    if !user_namespace {
        return Ok(Attributes {
            set: asked.set,
            clear: asked.clear | FREE & !asked.set,
        });
    }
    let (locked, times) = attributes_of(tree)?;
    if locked & asked.clear != 0 {
        let names = Options {
            attributes: Attributes {
                set: locked & asked.clear,
                clear: 0,
            },
            ..Options::default()
        };
        return Err(refused(format!(
            "the source's {names} is locked in a user namespace"
        )));
    }
    let mut set = asked.set | locked;
    let mut clear = asked.clear;
    for field in [Attributes::ATIME, Attributes::NODIRATIME] {
        if (set | clear) & field != 0 && set & field != times & field {
            set &= !field;
            clear &= !field;
        }
    }
    Ok(Attributes { set, clear })
}

/// The attributes of the mount that `fd` is on: those that are on or off, and
/// those of access times. `ST_*` has the values of the first (statvfs(3)).
fn attributes_of(fd: BorrowedFd<'_>) -> sys::Result<(u64, u64)> {
    let flags = file::filesystem(fd)?.flags;
    let mut times = match flags {
        flags if flags & libc::ST_NOATIME != 0 => Attributes::NOATIME,
        flags if flags & libc::ST_RELATIME != 0 => Attributes::RELATIME,
        _ => Attributes::STRICTATIME,
    };
    if flags & libc::ST_NODIRATIME != 0 {
        times |= Attributes::NODIRATIME;
    }
    Ok((flags & FREE, times))
}

/// Where a mount is: until Linux 5.12 only an attached one can be changed, by
/// mount(2); a detached one answers `ENOSYS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Detached,
    Attached,
}

/// Sets the attributes of one mount, then what [`dress`] sets.
fn change(
    tree: BorrowedFd<'_>,
    attributes: Attributes,
    options: &Options,
    place: Place,
) -> sys::Result<()> {
    if !attributes.is_empty() {
        let change = Change {
            set: attributes.set,
            clear: attributes.clear,
            ..Change::default()
        };
        match sys::mount::set_attributes(tree, &change) {
            Err(error) if error.errno() == Errno::ENOSYS && place == Place::Attached => {
                set_by_remount(&by_number(tree), attributes)?;
            }
            done => done?,
        }
    }
    dress(tree, options, place)
}

/// Recursive attributes and propagation.
fn dress(tree: BorrowedFd<'_>, options: &Options, place: Place) -> sys::Result<()> {
    if !options.recursive.is_empty() {
        let change = Change {
            set: options.recursive.set,
            clear: options.recursive.clear,
            recursive: true,
            ..Change::default()
        };
        sys::mount::set_attributes(tree, &change)?;
    }
    for propagation in &options.propagation {
        let change = Change {
            propagation: propagation.flag(),
            recursive: propagation.recursive,
            ..Change::default()
        };
        match sys::mount::set_attributes(tree, &change) {
            Err(error) if error.errno() == Errno::ENOSYS && place == Place::Attached => {
                let mut flags = MsFlags::from_bits_retain(propagation.flag());
                flags.set(MsFlags::MS_REC, propagation.recursive);
                sys::mount::mount(None, &by_number(tree), None, flags, None)?;
            }
            done => done?,
        }
    }
    Ok(())
}

/// Adds attributes to the mount of which `fd` is the root.
pub(super) fn add_attributes(fd: BorrowedFd<'_>, set: u64) -> Result<()> {
    let change = Change {
        set,
        ..Change::default()
    };
    match sys::mount::set_attributes(fd, &change) {
        Err(error) if error.errno() == Errno::ENOSYS => {}
        done => return Ok(done?),
    }
    // Until Linux 5.12.
    let attributes = Attributes {
        set: attributes_of(fd)?.0 | set,
        clear: 0,
    };
    classic::named(fd, |path| set_by_remount(path, attributes))
}

/// Sets the attributes of an attached mount by mount(2).
fn set_by_remount(path: &Path, attributes: Attributes) -> sys::Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | mount_flags(attributes);
    sys::mount::mount(None, path, None, flags, None)
}

/// `MOUNT_ATTR_*` as `MS_*`.
fn mount_flags(attributes: Attributes) -> MsFlags {
    // The first four have the same values.
    let mut flags = MsFlags::from_bits_retain(attributes.set & FREE);
    let nodiratime = attributes.set & Attributes::NODIRATIME != 0;
    flags.set(MsFlags::MS_NODIRATIME, nodiratime);
    if attributes.set & Attributes::NOSYMFOLLOW != 0 {
        flags |= MsFlags::from_bits_retain(libc::MS_NOSYMFOLLOW);
    }
    match attributes.set & Attributes::ATIME {
        Attributes::NOATIME => flags | MsFlags::MS_NOATIME,
        Attributes::STRICTATIME => flags | MsFlags::MS_STRICTATIME,
        _ if attributes.clear & Attributes::ATIME != 0 => flags | MsFlags::MS_RELATIME,
        _ => flags,
    }
}

/// Mounts the unified cgroup hierarchy, or what comes nearest to it.
fn cgroup2(
    root: &Root,
    mount: &Mount,
    fallback: &Path,
    mask_if_missing: bool,
    user_namespace: bool,
) -> Result<()> {
    let error = match filesystem(root, mount, "cgroup2", "cgroup", None) {
        Err(error) if matches!(error.errno(), Some(Errno::EPERM | Errno::EBUSY)) => error,
        done => return done,
    };
    let plain = Mount {
        options: Options {
            data: Vec::new(),
            ..mount.options.clone()
        },
        ..mount.clone()
    };
    // In a user namespace the host's tree comes as a whole or not at all.
    match bind(root, &plain, fallback, true, None, user_namespace) {
        Err(missing) if mask_if_missing && missing.errno() == Some(Errno::ENOENT) => {
            let options = Options {
                attributes: Attributes {
                    set: Attributes::RDONLY | Attributes::NO_SUID_DEV_EXEC,
                    clear: 0,
                },
                data: vec![("size".to_owned(), Some("0".to_owned()))],
                ..Options::default()
            };
            let empty = Mount {
                options,
                ..mount.clone()
            };
            filesystem(root, &empty, "tmpfs", "tmpfs", None)
        }
        Err(other) => Err(error.and(&other)),
        Ok(()) => Ok(()),
    }
}

/// The target of a procfs or sysfs: a directory that no link leads to
/// (CVE-2019-19921, CVE-2023-27561).
fn ordinary_directory(root: &Root, path: &Path, fstype: &str) -> Result<Found> {
    let ordinary = || {
        refused(format!(
            "filesystem {fstype:?} must be mounted on ordinary directory"
        ))
    };
    let mut made = false;
    let mut found = root.find(path, Links::Refuse);
    if matches!(&found, Err(error) if error.errno() == Errno::ENOENT) {
        if let Some(found) = root.make_last(path, Missing::Directory)? {
            return Ok(found);
        }
        made = root.find_or_make(path, Missing::Directory)?.made;
        found = root.find(path, Links::Refuse);
    }
    let fd = match found {
        Ok(fd) => fd,
        Err(error) if matches!(error.errno(), Errno::ELOOP | Errno::ENOTDIR) => {
            return Err(ordinary());
        }
        Err(error) => return Err(error.into()),
    };
    match FileType::from_raw_mode(file::stat(fd.as_fd())?.st_mode) {
        FileType::Directory => Ok(Found { fd, made }),
        _ => Err(ordinary()),
    }
}

/// The target of any other mount. Where links led to it, it may be neither
/// the root nor in a procfs, which the plan could only check in words.
fn target(root: &Root, path: &Path, missing: Missing) -> Result<Found> {
    match root.find(path, Links::Refuse) {
        Ok(fd) => return Ok(Found { fd, made: false }),
        Err(error) if error.errno() == Errno::ENOENT => {
            if let Some(found) = root.make_last(path, missing)? {
                return Ok(found);
            }
        }
        Err(error) if error.errno() == Errno::ELOOP => {}
        Err(error) => return Err(error.into()),
    }
    let Found { fd, made } = root.find_or_make(path, missing)?;
    let fd = outside_procfs(fd, path)?;
    if root.is(fd.as_fd())? {
        return Err(refused("mounting into / is prohibited"));
    }
    Ok(Found { fd, made })
}

/// What was found at `path`, unless it is in a procfs.
fn outside_procfs(found: OwnedFd, path: &Path) -> Result<OwnedFd> {
    if is_procfs(found.as_fd())? && !Defence::ProcAllowList.is_out() {
        return Err(refused(format!(
            "{path:?} cannot be mounted because it is inside /proc"
        )));
    }
    Ok(found)
}

fn is_procfs(fd: BorrowedFd<'_>) -> sys::Result<bool> {
    Ok(file::filesystem(fd)?.magic == PROC_SUPER_MAGIC)
}
