//! The root filesystem that containerd describes in `CreateTaskRequest.rootfs`
//! and the shim mounts, before the runtime is called.
//!
//! The mounts are made in their order: each on the bundle's rootfs, or on a
//! path below it (`target`), which is looked up inside what is mounted so far.
//! If one fails, those before it are undone. What one mount's options ask for
//! is decided in [`options`]; an overlay of many layers, or of idmapped ones,
//! is [`overlay`]'s.

mod idmap;
mod options;
mod overlay;

use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use containerd_shim_protos::types::mount::Mount;
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;
use rrun::error::{Context, Error, Kind, Result};
use rrun_sys as sys;
use rrun_sys::file::{Links, resolve};
use rrun_sys::handle::Handle;
use rrun_sys::loop_device;
use rrun_sys::mount as kernel;

use options::Options;

/// How long a helper program may take.
const HELPER: Duration = Duration::from_secs(30);

/// Mounts the root filesystem on `target`, for as long as a disk, a server or a
/// helper takes.
///
/// # Errors
/// A mount that fails, with all that is written of it; what was mounted before
/// it is unmounted again.
pub(crate) fn mount(mounts: &[Mount], target: &Path) -> Result<()> {
    let mut mounted = Vec::new();
    for mount in mounts {
        let made = place(mount, target).and_then(|place| {
            mount_one(mount, &place)?;
            Ok(place)
        });
        match made.context(|| describe(mount, target)) {
            Ok(place) => mounted.push(place),
            Err(error) => return Err(undo(&mounted, error)),
        }
    }
    Ok(())
}

/// Unmounts all that is mounted on `target`, with what is mounted below, until
/// nothing is. What still uses it keeps it to its own end.
///
/// # Errors
/// Those of umount2(2), but not that nothing is mounted.
pub(crate) fn unmount(target: &Path) -> Result<()> {
    // Each round takes one of the mounts stacked on the directory, whose
    // number nobody bounds: it ends when nothing is mounted there.
    loop {
        match kernel::detach(target) {
            Ok(()) => {}
            Err(error) if matches!(error.errno(), Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error).context(|| format!("unmount {target:?}")),
        }
    }
}

/// Undoes mounts, the last one first, after `error`.
fn undo(mounted: &[PathBuf], mut error: Error) -> Error {
    for place in mounted.iter().rev() {
        if let Err(other) = kernel::detach(place) {
            error = error.and(&other.into());
        }
    }
    error
}

fn describe(mount: &Mount, target: &Path) -> String {
    let Mount { type_, source, .. } = mount;
    match mount.target.as_str() {
        "" => format!("mount {type_} {source:?} on {target:?}"),
        below => format!("mount {type_} {source:?} on {target:?} at {below:?}"),
    }
}

/// Where a mount goes: `target`, or a path inside what is mounted there.
fn place(mount: &Mount, target: &Path) -> Result<PathBuf> {
    if mount.target.is_empty() {
        return Ok(target.to_owned());
    }
    let root = sys::directory::open(target)?;
    let place = resolve(root.as_fd(), Path::new(&mount.target), Links::Follow)?;
    // The name of what was opened: nobody else runs in this root yet.
    let link = format!("/proc/self/fd/{}", place.as_raw_fd());
    Ok(sys::call(std::fs::read_link(&link), || {
        format!("readlink({link:?})")
    })?)
}

fn mount_one(mount: &Mount, target: &Path) -> Result<()> {
    if let Some((helper, kind)) = helper(&mount.type_) {
        return mount_by_helper(helper, kind, mount, target);
    }
    let options = Options::parse(&mount.options)?;
    if mount.type_ == "overlay" {
        overlay::mount(&mount.source, &options, target)?;
    } else {
        mount_source(mount, &options, target)?;
    }
    finish(mount, &options, target).map_err(|error| undo(&[target.to_owned()], error))
}

/// Anything but an overlay.
fn mount_source(mount: &Mount, options: &Options, target: &Path) -> Result<()> {
    let kind = (!options.flags.contains(MsFlags::MS_BIND)).then_some(mount.type_.as_str());
    let mount_from = |source: &Path| {
        let data = options.data.join(",");
        let data = (!data.is_empty()).then_some(data.as_str());
        kernel::mount(Some(source), target, kind, options.flags, data)
    };
    let source = Path::new(&mount.source);
    match &options.loop_device {
        None => mount_from(source)?,
        Some(wanted) => {
            // It is the mount's from then on, and goes with it (autoclear).
            let device = loop_device::attach(source, *wanted)?;
            mount_from(&device.path)?;
        }
    }
    Ok(())
}

/// What takes a call of its own once the mount is there.
fn finish(mount: &Mount, options: &Options, target: &Path) -> Result<()> {
    if let Some(propagation) = options.propagation {
        kernel::mount(None, target, None, propagation, None)?;
    }
    let attributes = options.flags & options::ATTRIBUTES;
    if options.flags.contains(MsFlags::MS_BIND) && !attributes.is_empty() {
        remount_bind(attributes, target)?;
    }
    match &options.id_map {
        // An overlay's layers are idmapped, not the overlay.
        Some(map) if mount.type_ != "overlay" => {
            let recursive = options.flags.contains(MsFlags::MS_REC);
            let tree = map.apply(target, map.user_namespace()?.as_fd(), recursive)?;
            kernel::detach(target)?;
            kernel::attach(tree.as_fd(), sys::directory::open(target)?.as_fd())?;
        }
        _ => {}
    }
    Ok(())
}

/// A bind takes its attributes by a remount only (mount(2)).
fn remount_bind(attributes: MsFlags, target: &Path) -> Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | attributes;
    match kernel::mount(None, target, None, flags, None) {
        // In a user namespace the source's attributes are locked: they must
        // be asked for again.
        Err(error) if error.errno() == Errno::EPERM => {
            let locked = sys::call(statvfs(target), || format!("statvfs({target:?})"))?;
            let flags = flags | options::locked(locked.flags());
            Ok(kernel::mount(None, target, None, flags, None)?)
        }
        done => Ok(done?),
    }
}

/// The helper programs that containerd allows, and the type they are given.
fn helper(kind: &str) -> Option<(&'static str, &str)> {
    [("fuse.", "mount.fuse"), ("fuse3.", "mount.fuse3")]
        .into_iter()
        .find_map(|(prefix, helper)| Some((helper, kind.strip_prefix(prefix)?)))
}

/// mount.fuse SOURCE TARGET -o OPTION... -t TYPE
///
/// It may leave a server behind, which may keep its output open: that is a file,
/// and only its own end is waited for.
fn mount_by_helper(helper: &str, kind: &str, mount: &Mount, target: &Path) -> Result<()> {
    let mut output = sys::file::in_memory("output")?;
    let copy = || sys::call(output.try_clone(), || "dup(output)".to_owned());
    let mut command = Command::new(helper);
    command.arg(&mount.source).arg(target);
    for option in &mount.options {
        command.args(["-o", option]);
    }
    command.args(["-t", kind]);
    command.stdin(Stdio::null()).stdout(copy()?).stderr(copy()?);
    let child = sys::call(command.spawn(), || format!("execve({helper:?})"))?;
    let Some(status) = ended_within(child, HELPER)? else {
        let text = format!("{helper}: it has not ended within {} s", HELPER.as_secs());
        return Err(Error::new(Kind::System, text));
    };
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    // What can't be read was not said.
    let _read = output
        .seek(SeekFrom::Start(0))
        .and_then(|_| output.read_to_end(&mut said));
    let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
    Err(Error::new(
        Kind::System,
        format!("{helper}: {status}: {said}"),
    ))
}

/// How a child ended; nothing if it took too long and was killed.
fn ended_within(mut child: Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let pid = Pid::from_raw(child.id().cast_signed());
    let limit = u16::try_from(limit.as_millis()).unwrap_or(u16::MAX);
    let (ended, _) = Handle::open_child(pid)?.poll_end(&[], Some(limit))?;
    if !ended {
        // It is there until it is waited for.
        let _killed = child.kill();
    }
    let status = sys::call(child.wait(), || format!("wait4({pid})"))?;
    Ok(ended.then_some(status))
}
