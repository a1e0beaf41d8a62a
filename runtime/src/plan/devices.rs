//! Device nodes: those every container has, those that config.json adds, and
//! the links below /dev (runtime-spec, config-linux.md "Default Devices").

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::mounts::{RootfsOp, Symlink};
use super::written_mount::clean;
use crate::error::{Error, Result};
use crate::spec;

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Where, absolute inside the root and without `..`.
    pub path: PathBuf,
    /// Its type.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner, inside the container.
    pub uid: u32,
    /// Group, inside the container.
    pub gid: u32,
    /// The host's node is bound on the path: mknod is not for user namespaces.
    pub bind: bool,
}

/// The types of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// `c` or `u`.
    Character,
    /// `b`.
    Block,
    /// `p`.
    Fifo,
}

/// The devices of every container, all 0666 and root's.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The links of every container.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// All nodes and links, in the order in which they are made.
///
/// # Errors
/// A relative path, an unknown type, numbers out of range.
pub(super) fn plan(written: &[spec::Device], bind: bool) -> Result<Vec<RootfsOp>> {
    let mut ops = Vec::new();
    let mut asked = Vec::new();
    for (index, device) in written.iter().enumerate() {
        asked.push(Device::read(index, device, bind)?);
    }
    for (path, major, minor) in DEFAULT {
        if asked.iter().any(|device| device.path == Path::new(path)) {
            continue;
        }
        ops.push(RootfsOp::Device(Device {
            path: path.into(),
            kind: DeviceKind::Character,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
            bind,
        }));
    }
    ops.extend(asked.into_iter().map(RootfsOp::Device));
    ops.push(link("/dev/ptmx", "pts/ptmx", true, None));
    for (path, target) in LINKS {
        ops.push(link(path, target, false, None));
    }
    ops.push(link("/dev/core", "/proc/kcore", false, Some("/proc/kcore")));
    Ok(ops)
}

impl Device {
    fn read(index: usize, device: &spec::Device, bind: bool) -> Result<Self> {
        let field = |name: &str| format!("linux.devices[{index}].{name}");
        let path = Path::new(&device.path);
        if !path.is_absolute() {
            let cause = format!("{path:?} is not absolute");
            return Err(Error::config(field("path"), cause));
        }
        if clean(path) == Path::new("/") {
            return Err(Error::config(
                field("path"),
                format!("{path:?} is the root"),
            ));
        }
        let kind = match device.kind.as_str() {
            "c" | "u" => DeviceKind::Character,
            "b" => DeviceKind::Block,
            "p" => DeviceKind::Fifo,
            other => {
                let cause = format!("{other:?} is none of c, u, b and p");
                return Err(Error::config(field("type"), cause));
            }
        };
        let number = |name, value: i64| {
            if kind == DeviceKind::Fifo {
                return Ok(0);
            }
            u32::try_from(value)
                .map_err(|_| Error::config(field(name), format!("{value} is out of range")))
        };
        // chown(2) takes -1 for "as it is".
        let owner = |name, id: Option<u32>| match id {
            Some(u32::MAX) => {
                let cause = format!("{} is no valid id", u32::MAX);
                Err(Error::config(field(name), cause))
            }
            id => Ok(id.unwrap_or(0)),
        };
        Ok(Self {
            path: clean(path),
            kind,
            major: number("major", device.major)?,
            minor: number("minor", device.minor)?,
            // Engines may send a whole st_mode; its type is `kind`'s matter.
            mode: device.file_mode.unwrap_or(0o666) & 0o7777,
            uid: owner("uid", device.uid)?,
            gid: owner("gid", device.gid)?,
            bind,
        })
    }
}

fn link(path: &str, target: &str, replace: bool, only_if: Option<&str>) -> RootfsOp {
    RootfsOp::Symlink(Symlink {
        path: path.into(),
        target: target.into(),
        replace,
        only_if: only_if.map(PathBuf::from),
    })
}

/// One line of `rrun plan`.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceKind::Character => "c",
            DeviceKind::Block => "b",
            DeviceKind::Fifo => "p",
        };
        let how = if self.bind { "bind device" } else { "device" };
        write!(f, "{how} {} {kind} ", self.path.display())?;
        if self.kind != DeviceKind::Fifo {
            write!(f, "{}:{} ", self.major, self.minor)?;
        }
        write!(f, "({:04o}, {}:{})", self.mode, self.uid, self.gid)
    }
}
