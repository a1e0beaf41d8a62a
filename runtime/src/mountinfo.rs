//! The list of mounts, `/proc/PID/mountinfo` (proc(5)), read for what is mounted
//! where on the host.

use std::path::Path;

/// A line of mountinfo.
#[derive(Debug, Clone)]
pub struct Mount {
    id: u32,
    parent: u32,
    /// The directory of the filesystem that is mounted.
    pub root: String,
    /// Where.
    pub point: String,
    /// The filesystem's type.
    pub filesystem: String,
    /// The options of the filesystem itself.
    pub super_options: String,
}

impl Mount {
    /// Reads the text of a mountinfo; what is no line of it is left out. Anybody
    /// who may mount chooses names, which are any bytes: what of them is no text
    /// reads as U+FFFD.
    #[must_use]
    pub fn list(mountinfo: &[u8]) -> Vec<Self> {
        let text = String::from_utf8_lossy(mountinfo);
        text.lines().filter_map(Self::parse).collect()
    }

    fn parse(line: &str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let id = mount.next()?.parse().ok()?;
        let parent = mount.next()?.parse().ok()?;
        let root = unescape(mount.nth(1)?);
        let point = unescape(mount.next()?);
        let mut filesystem = filesystem.split(' ');
        Some(Self {
            id,
            parent,
            root,
            point,
            filesystem: filesystem.next()?.to_owned(),
            super_options: filesystem.nth(1).unwrap_or("").to_owned(),
        })
    }

    /// Whether its mount point leads to it: it is a text, no mount lies on it, and
    /// none lies over a directory on the way to it.
    #[must_use]
    pub fn is_reachable(&self, mounts: &[Mount]) -> bool {
        if self.point.contains(char::REPLACEMENT_CHARACTER) {
            return false;
        }
        let covered = mounts.iter().any(|other| {
            other.parent == self.id && other.id != self.id && other.point == self.point
        });
        if covered {
            return false;
        }
        let mut mount = self;
        // A chain of parents is no longer than the list.
        for _ in 0..mounts.len() {
            let hidden = mounts.iter().any(|other| {
                other.parent == mount.parent
                    && other.id != mount.id
                    && other.point != mount.point
                    && Path::new(&mount.point).starts_with(&other.point)
            });
            if hidden {
                return false;
            }
            match mounts.iter().find(|other| other.id == mount.parent) {
                Some(parent) if parent.id != mount.id => mount = parent,
                _ => return true,
            }
        }
        false
    }
}

/// Reads mountinfo's octal escapes: space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .into_iter()
    .fold(text.to_owned(), |text, (escaped, plain)| {
        text.replace(escaped, plain)
    })
}
