//! The options of a mount, sorted into what each means to mount(2).
//!
//! They are words as in fstab(5). Flags and propagation types are the kernel's
//! for every filesystem; `loop`, `direct-io`, `uidmap=` and `gidmap=` are
//! containerd's; every other word is the filesystem's own data.

use nix::mount::MsFlags;
use nix::sys::statvfs::FsFlags;
use rrun::error::Result;
use rrun::plan::mount_options::Propagation;
use rrun_sys::loop_device::Wanted;

use super::idmap::IdMap;

/// What the words ask for.
#[derive(Debug)]
pub(super) struct Options {
    /// The flags of mount(2), without propagation.
    pub(super) flags: MsFlags,
    /// The propagation to set, with `MS_REC` if for all below too.
    pub(super) propagation: Option<MsFlags>,
    /// The filesystem's own options.
    pub(super) data: Vec<String>,
    /// That the source is a file, to be attached to a loop device.
    pub(super) loop_device: Option<Wanted>,
    /// How ids are mapped. As in containerd both of the options make a map;
    /// one alone means nothing.
    pub(super) id_map: Option<IdMap>,
}

/// The flags that belong to a mount rather than to its filesystem.
pub(super) const ATTRIBUTES: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NOATIME)
    .union(MsFlags::MS_NODIRATIME)
    .union(MsFlags::MS_RELATIME)
    .union(MsFlags::MS_STRICTATIME);

/// Each word, and the flag that it sets or clears.
const FLAGS: &[(&str, bool, MsFlags)] = &[
    ("async", false, MsFlags::MS_SYNCHRONOUS),
    ("atime", false, MsFlags::MS_NOATIME),
    ("bind", true, MsFlags::MS_BIND),
    ("defaults", true, MsFlags::empty()),
    ("dev", false, MsFlags::MS_NODEV),
    ("diratime", false, MsFlags::MS_NODIRATIME),
    ("dirsync", true, MsFlags::MS_DIRSYNC),
    ("exec", false, MsFlags::MS_NOEXEC),
    ("mand", true, MsFlags::MS_MANDLOCK),
    ("noatime", true, MsFlags::MS_NOATIME),
    ("nodev", true, MsFlags::MS_NODEV),
    ("nodiratime", true, MsFlags::MS_NODIRATIME),
    ("noexec", true, MsFlags::MS_NOEXEC),
    ("nomand", false, MsFlags::MS_MANDLOCK),
    ("norelatime", false, MsFlags::MS_RELATIME),
    ("nostrictatime", false, MsFlags::MS_STRICTATIME),
    ("nosuid", true, MsFlags::MS_NOSUID),
    ("rbind", true, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
    ("relatime", true, MsFlags::MS_RELATIME),
    ("remount", true, MsFlags::MS_REMOUNT),
    ("ro", true, MsFlags::MS_RDONLY),
    ("rw", false, MsFlags::MS_RDONLY),
    ("strictatime", true, MsFlags::MS_STRICTATIME),
    ("suid", false, MsFlags::MS_NOSUID),
    ("sync", true, MsFlags::MS_SYNCHRONOUS),
];

impl Options {
    /// Sorts `words`; of two that contradict each other the later one wins.
    ///
    /// # Errors
    /// `uidmap=` or `gidmap=` that are no maps.
    pub(super) fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self {
            flags: MsFlags::empty(),
            propagation: None,
            data: Vec::new(),
            loop_device: None,
            id_map: None,
        };
        let (mut uids, mut gids) = (None, None);
        let (mut looped, mut direct) = (false, false);
        for word in words {
            if let Some((_, set, flag)) = FLAGS.iter().find(|(name, ..)| name == word) {
                options.flags.set(*flag, *set);
            } else if let Some(propagation) = Propagation::from_name(word) {
                options.propagation = Some(propagation_flags(propagation));
            } else if let Some(map) = word.strip_prefix("uidmap=") {
                uids = Some(map);
            } else if let Some(map) = word.strip_prefix("gidmap=") {
                gids = Some(map);
            } else if word == "loop" {
                looped = true;
            } else if word == "direct-io" {
                direct = true;
            } else {
                options.data.push(word.clone());
            }
        }
        if looped {
            options.loop_device = Some(Wanted {
                read_only: options.flags.contains(MsFlags::MS_RDONLY),
                direct_io: direct,
            });
        } else if direct {
            options.data.push("direct-io".to_owned());
        }
        if let (Some(uids), Some(gids)) = (uids, gids) {
            options.id_map = Some(IdMap::parse(uids, gids)?);
        }
        Ok(options)
    }
}

fn propagation_flags(propagation: Propagation) -> MsFlags {
    let kind = MsFlags::from_bits_truncate(propagation.flag());
    if propagation.recursive {
        kind | MsFlags::MS_REC
    } else {
        kind
    }
}

/// The attributes of a mount as statvfs(3) tells them, which a user namespace
/// locks.
pub(super) fn locked(found: FsFlags) -> MsFlags {
    [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ]
    .into_iter()
    .filter(|(flag, _)| found.contains(*flag))
    .map(|(_, flag)| flag)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted() {
        for (words, expected) in [
            ("", "flags= data="),
            ("ro", "flags=RDONLY data="),
            ("ro,rw", "flags= data="),
            ("rw,ro", "flags=RDONLY data="),
            ("rbind,ro", "flags=BIND|REC|RDONLY data="),
            ("nosuid,nodev,noexec,suid", "flags=NODEV|NOEXEC data="),
            ("defaults,noatime", "flags=NOATIME data="),
            ("bind,rslave", "flags=BIND propagation=REC|SLAVE data="),
            ("shared,private", "flags= propagation=PRIVATE data="),
            (
                "index=off,lowerdir=/a:/b,userxattr",
                "flags= data=index=off lowerdir=/a:/b userxattr",
            ),
            ("loop", "flags= loop data="),
            ("loop,ro,direct-io", "flags=RDONLY loop-ro-direct data="),
            ("direct-io", "flags= data=direct-io"),
            ("uidmap=0:1:2", "flags= data="),
            ("uidmap=0:1:2,gidmap=0:1:2", "flags= idmap data="),
        ] {
            let list: Vec<String> = words
                .split(',')
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect();
            assert_eq!(show(&Options::parse(&list).unwrap()), expected, "{words}");
        }
    }

    fn show(options: &Options) -> String {
        let names = |flags: MsFlags| {
            let names = flags
                .iter_names()
                .map(|(name, _)| name.trim_start_matches("MS_"));
            let mut names: Vec<&str> = names.collect();
            // By name, but what a bind is comes first.
            names.sort_by_key(|name| !matches!(*name, "BIND" | "REC"));
            names.join("|")
        };
        let mut text = format!("flags={}", names(options.flags));
        if let Some(propagation) = options.propagation {
            text += &format!(" propagation={}", names(propagation));
        }
        if let Some(wanted) = options.loop_device {
            text += " loop";
            text += if wanted.read_only { "-ro" } else { "" };
            text += if wanted.direct_io { "-direct" } else { "" };
        }
        if options.id_map.is_some() {
            text += " idmap";
        }
        format!("{text} data={}", options.data.join(" "))
    }
}
