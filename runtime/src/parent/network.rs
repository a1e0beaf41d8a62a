//! What the host does for the container's network: its devices are moved into the
//! container, and a restored one gets its loopback device up.
//!
//! Devices are moved while the child waits in its namespaces and before any hook, so that
//! hooks and kernel parameters find the devices there. A device loses its
//! addresses on the way; those that somebody set for good are given again.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use rustix::fs::OFlags;

use crate::error::{Context, Error, Kind, Result};
use crate::plan::network::NetDevice;
use crate::sys::netlink::{Address, Netlink};
use crate::sys::{file, namespace};

/// Moves `devices` into the network namespace of the process `pid`.
///
/// # Errors
/// A device that the host lacks or that can't be moved, a name that is taken.
pub(super) fn move_devices(devices: &[NetDevice], pid: Pid) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let host = Netlink::open()?;
    let theirs = open_namespace(&pid.to_string())?;
    let container = netlink_of(&theirs)?;
    let at = |device: &NetDevice| format!("move network device {:?}", device.host);
    // All are looked at before the first is moved: there is no way back.
    for device in devices {
        check(device, &host, &container).context(|| at(device))?;
    }
    for device in devices {
        move_device(device, &host, &container, &theirs).context(|| at(device))?;
    }
    Ok(())
}

/// Brings up the loopback device in the network namespace of the process `pid`,
/// which criu has made empty.
///
/// # Errors
/// Those of entering it.
pub(super) fn bring_up_loopback(pid: Pid) -> Result<()> {
    let container = netlink_of(&open_namespace(&pid.to_string())?)?;
    let up = |index| container.set_up(index, true);
    let device = container.link_by_name(c"lo");
    device
        .and_then(|device| up(device.index))
        .context(|| "bring up the loopback device")
}

/// The way to the devices of another namespace. We are there for a moment.
fn netlink_of(theirs: &OwnedFd) -> Result<Netlink> {
    let home = open_namespace("self")?;
    namespace::setns(theirs.as_fd(), CloneFlags::CLONE_NEWNET)?;
    let container = Netlink::open();
    // Before anything else that is the host's.
    namespace::setns(home.as_fd(), CloneFlags::CLONE_NEWNET)?;
    Ok(container?)
}

fn open_namespace(process: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{process}/ns/net");
    Ok(file::open(Path::new(&path), OFlags::RDONLY)?)
}

/// The kernel would find a taken name only once the device has been moved.
fn check(device: &NetDevice, host: &Netlink, container: &Netlink) -> Result<()> {
    host.link_by_name(&device.host)?;
    if device.template {
        return Ok(());
    }
    match container.link_by_name(&device.name) {
        Err(error) if error.errno() == Errno::ENODEV => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => {
            let text = format!("the container has a device {:?} already", device.name);
            Err(Error::new(Kind::InvalidConfig, text))
        }
    }
}

fn move_device(
    device: &NetDevice,
    host: &Netlink,
    container: &Netlink,
    namespace: &OwnedFd,
) -> Result<()> {
    let link = host.link_by_name(&device.host)?;
    // Before it is off: that ends IPv6 addresses.
    let mut addresses = host.addresses(link.index)?;
    addresses.retain(|address: &Address| address.permanent && address.global);
    // One that is on can't be renamed.
    host.set_up(link.index, false)?;
    // Under a template nobody knows the name, and the number may be another there.
    let name = if device.template {
        passing_name()?
    } else {
        device.name.clone()
    };
    host.move_to(link.index, namespace.as_fd(), &name)?;
    let index = container.link_by_name(&name)?.index;
    if device.template {
        container.rename(index, &device.name)?;
    }
    for address in &addresses {
        container.add_address(index, address)?;
    }
    Ok(container.set_up(index, true)?)
}

/// A name that no other rrun uses at this moment.
fn passing_name() -> Result<CString> {
    CString::new(format!("rrun{}", std::process::id()))
        .map_err(|_| Error::new(Kind::System, "a number has a NUL"))
}
