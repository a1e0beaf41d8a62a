//! The list of mounts, `/proc/PID/mountinfo` (proc(5)), read for what is mounted
//! where on the host.

use std::borrow::Cow;

/// A line of mountinfo.
#[derive(Debug, Clone)]
pub struct Mount<'text> {
    id: u32,
    parent: u32,
    /// The directory of the filesystem that is mounted.
    pub root: Cow<'text, str>,
    /// Where.
    pub point: Cow<'text, str>,
    /// The filesystem's type.
    pub filesystem: &'text str,
    /// The options of the filesystem itself.
    pub super_options: &'text str,
}

/// The bytes of a mountinfo as text. Anybody who may mount chooses names, which are any
/// bytes: what of them is no text reads as U+FFFD.
#[must_use]
pub fn text(mountinfo: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(mountinfo)
}

impl<'text> Mount<'text> {
    /// Reads the [`text`] of a mountinfo; what is no line of it is left out. Nothing of
    /// it is copied: a busy host has thousands.
    #[must_use]
    pub fn list(mountinfo: &'text str) -> Vec<Self> {
        mountinfo.lines().filter_map(Self::parse).collect()
    }

    fn parse(line: &'text str) -> Option<Self> {
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
            filesystem: filesystem.next()?,
            super_options: filesystem.nth(1).unwrap_or(""),
        })
    }

    /// Whether its mount point leads to it: it is a text, no mount lies on it, and
    /// none lies over a directory on the way to it.
    #[must_use]
    pub fn is_reachable(&self, mounts: &[Self]) -> bool {
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
                    && is_below(&mount.point, &other.point)
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

/// Whether a mount point lies below `directory`. The kernel writes both without `//`
/// and without a `/` at the end.
fn is_below(point: &str, directory: &str) -> bool {
    let rest = point.strip_prefix(directory);
    rest.is_some_and(|rest| rest.starts_with('/') || (directory == "/" && !rest.is_empty()))
}

/// Reads mountinfo's octal escapes: space, tab, newline and backslash.
fn unescape(text: &str) -> Cow<'_, str> {
    const ESCAPES: [(&str, char); 4] = [("040", ' '), ("011", '\t'), ("012", '\n'), ("134", '\\')];
    let mut parts = text.split('\\');
    let first = parts.next().unwrap_or_default();
    if first.len() == text.len() {
        return Cow::Borrowed(text);
    }
    let mut plain = first.to_owned();
    for part in parts {
        let escape = ESCAPES.iter().find(|(digits, _)| part.starts_with(digits));
        match escape {
            Some((digits, meant)) => {
                plain.push(*meant);
                plain.push_str(&part[digits.len()..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_once() {
        for (written, meant) in [
            ("/a", "/a"),
            ("/a\\040b\\011c\\012d", "/a b\tc\nd"),
            // A backslash, and digits that are none of its.
            ("/\\134040", "/\\040"),
            ("\\134", "\\"),
            ("/a\\999\\", "/a\\999\\"),
        ] {
            assert_eq!(unescape(written), meant, "{written:?}");
        }
    }

    #[test]
    fn below_is_by_whole_names() {
        for (point, directory, expected) in [
            ("/a/b", "/a", true),
            ("/a/b", "/", true),
            ("/ab", "/a", false),
            ("/a", "/a", false),
            ("/", "/", false),
            ("/a", "/a/b", false),
        ] {
            assert_eq!(is_below(point, directory), expected, "{point} {directory}");
        }
    }
}
