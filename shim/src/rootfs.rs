//! The root filesystem, as containerd wants it mounted.

use std::path::Path;

use containerd_shim_protos::types::mount::Mount;
use nix::mount::{MntFlags, MsFlags, mount as mount2, umount2};
use rrun::error::{Error, Kind, Result};

/// Mounts `mounts` on `target`, one over the other.
///
/// # Errors
/// A mount fails; those before it are undone.
pub(crate) fn mount(mounts: &[Mount], target: &Path) -> Result<()> {
    for mount in mounts {
        if let Err(error) = mount_one(mount, target) {
            return Err(match unmount(target) {
                Ok(()) => error,
                Err(left) => error.and(&left),
            });
        }
    }
    Ok(())
}

fn mount_one(mount: &Mount, target: &Path) -> Result<()> {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in &mount.options {
        match option.as_str() {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "rw" => flags &= !MsFlags::MS_RDONLY,
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            other => data.push(other),
        }
    }
    let data = data.join(",");
    let (source, kind) = (mount.source.as_str(), mount.type_.as_str());
    mount2(Some(source), target, Some(kind), flags, Some(data.as_str())).map_err(|errno| {
        let text = format!("mount {kind:?} on {target:?}: {}", errno.desc());
        Error::new(Kind::System, text)
    })
}

/// Unmounts everything at `target`.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn unmount(target: &Path) -> Result<()> {
    loop {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => return Ok(()),
            Err(errno) => {
                let text = format!("unmount {target:?}: {}", errno.desc());
                return Err(Error::new(Kind::System, text));
            }
        }
    }
}
