//! The options of a mount, as words: the table of runtime-spec's "Linux mount
//! options", and what each means to the kernel.
//!
//! A word that is not in the table is data for the filesystem.

use std::fmt;

use serde::{Serialize, Serializer};

/// Attributes of a single mount, as mount_setattr(2) takes them: the bits of
/// `MOUNT_ATTR_*`.
///
/// Where the configuration names an access time, `clear` has all of
/// [`ATIME`](Self::ATIME): the kernel treats it as one field, and `relatime`
/// is its zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// What was asked to be on.
    pub set: u64,
    /// What was asked to be off.
    pub clear: u64,
}

impl Attributes {
    /// `MOUNT_ATTR_RDONLY`.
    pub const RDONLY: u64 = 0x1;
    /// `MOUNT_ATTR_NOSUID`.
    pub const NOSUID: u64 = 0x2;
    /// `MOUNT_ATTR_NODEV`.
    pub const NODEV: u64 = 0x4;
    /// `MOUNT_ATTR_NOEXEC`.
    pub const NOEXEC: u64 = 0x8;
    /// `MOUNT_ATTR__ATIME`, the field of the next three.
    pub const ATIME: u64 = 0x70;
    /// `MOUNT_ATTR_RELATIME`.
    pub const RELATIME: u64 = 0;
    /// `MOUNT_ATTR_NOATIME`.
    pub const NOATIME: u64 = 0x10;
    /// `MOUNT_ATTR_STRICTATIME`.
    pub const STRICTATIME: u64 = 0x20;
    /// `MOUNT_ATTR_NODIRATIME`.
    pub const NODIRATIME: u64 = 0x80;
    /// `MOUNT_ATTR_NOSYMFOLLOW`.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
    /// What a mount under /dev, /proc or /sys usually has.
    pub const NO_SUID_DEV_EXEC: u64 = Self::NOSUID | Self::NODEV | Self::NOEXEC;

    /// Whether nothing was asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set == 0 && self.clear == 0
    }

    /// Whether the mount is asked to be read-only.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.set & Self::RDONLY != 0
    }

    fn turn_on(&mut self, bits: u64) {
        self.set |= bits;
        self.clear &= !bits;
    }

    fn turn_off(&mut self, bits: u64) {
        self.set &= !bits;
        self.clear |= bits;
    }

    fn access_time(&mut self, value: u64) {
        self.set = self.set & !Self::ATIME | value;
        self.clear |= Self::ATIME;
    }

    /// The words of the attributes, each behind `prefix`.
    fn words(&self, prefix: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (bit, on, off) in [
            (Self::RDONLY, "ro", "rw"),
            (Self::NOSUID, "nosuid", "suid"),
            (Self::NODEV, "nodev", "dev"),
            (Self::NOEXEC, "noexec", "exec"),
            (Self::NODIRATIME, "nodiratime", "diratime"),
            (Self::NOSYMFOLLOW, "nosymfollow", "symfollow"),
        ] {
            if self.set & bit != 0 {
                words.push(format!("{prefix}{on}"));
            } else if self.clear & bit != 0 {
                words.push(format!("{prefix}{off}"));
            }
        }
        if self.clear & Self::ATIME != 0 {
            let word = match self.set & Self::ATIME {
                Self::NOATIME => "noatime",
                Self::STRICTATIME => "strictatime",
                _ => "relatime",
            };
            words.push(format!("{prefix}{word}"));
        }
        words
    }
}

/// Flags of mount(2) for the filesystem itself, which all of its mounts share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Superblock(pub u64);

impl Superblock {
    /// `MS_SYNCHRONOUS`.
    pub const SYNC: u64 = 0x10;
    /// `MS_REMOUNT`: change what is mounted there.
    pub const REMOUNT: u64 = 0x20;
    /// `MS_MANDLOCK`.
    pub const MAND: u64 = 0x40;
    /// `MS_DIRSYNC`.
    pub const DIRSYNC: u64 = 0x80;
    /// `MS_SILENT`.
    pub const SILENT: u64 = 0x8000;
    /// `MS_POSIXACL`.
    pub const ACL: u64 = 0x1_0000;
    /// `MS_I_VERSION`.
    pub const IVERSION: u64 = 0x80_0000;
    /// `MS_LAZYTIME`.
    pub const LAZYTIME: u64 = 0x200_0000;

    /// The flags with the words by which fsconfig(2) knows them; `None` for
    /// those that only mount(2) can carry.
    pub const WORDS: [(u64, &'static str, Option<&'static str>); 8] = [
        (Self::SYNC, "sync", Some("sync")),
        (Self::REMOUNT, "remount", None),
        (Self::MAND, "mand", Some("mand")),
        (Self::DIRSYNC, "dirsync", Some("dirsync")),
        // It keeps the kernel's log quiet, which fsconfig's errors don't go to.
        (Self::SILENT, "silent", Some("")),
        (Self::ACL, "acl", None),
        (Self::IVERSION, "iversion", None),
        (Self::LAZYTIME, "lazytime", Some("lazytime")),
    ];
}

/// How mounts and unmounts travel between copies of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PropagationType {
    /// Both ways.
    Shared,
    /// Only from the other copies to here.
    Slave,
    /// Not at all.
    Private,
    /// Not at all, and it can't be bind mounted.
    Unbindable,
}

/// A propagation type, for one mount or the whole tree below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// Which.
    pub kind: PropagationType,
    /// Whether for the mounts below too (the `r` in `rslave`).
    pub recursive: bool,
}

impl Propagation {
    /// The type of this name: `private`, `rslave` and so on.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let (recursive, kind) = match name {
            "shared" => (false, PropagationType::Shared),
            "rshared" => (true, PropagationType::Shared),
            "slave" => (false, PropagationType::Slave),
            "rslave" => (true, PropagationType::Slave),
            "private" => (false, PropagationType::Private),
            "rprivate" => (true, PropagationType::Private),
            "unbindable" => (false, PropagationType::Unbindable),
            "runbindable" => (true, PropagationType::Unbindable),
            _ => return None,
        };
        Some(Self { kind, recursive })
    }

    /// The flag of mount(2) and mount_setattr(2), without `MS_REC`.
    #[must_use]
    pub fn flag(self) -> u64 {
        match self.kind {
            PropagationType::Unbindable => 1 << 17,
            PropagationType::Private => 1 << 18,
            PropagationType::Slave => 1 << 19,
            PropagationType::Shared => 1 << 20,
        }
    }
}

impl fmt::Display for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            PropagationType::Shared => "shared",
            PropagationType::Slave => "slave",
            PropagationType::Private => "private",
            PropagationType::Unbindable => "unbindable",
        };
        let recursive = if self.recursive { "r" } else { "" };
        write!(f, "{recursive}{kind}")
    }
}

impl Serialize for Propagation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A mount's options, sorted by what they act on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `bind` (false) or `rbind` (true).
    pub bind: Option<bool>,
    /// Of this mount.
    pub attributes: Attributes,
    /// Of this mount and all below it.
    pub recursive: Attributes,
    /// Of the filesystem.
    pub superblock: Superblock,
    /// Of this mount, in order.
    pub propagation: Vec<Propagation>,
    /// `tmpcopyup`: a tmpfs begins with what the directory holds.
    pub copy_up: bool,
    /// `idmap` (false) or `ridmap` (true).
    pub idmap: Option<bool>,
    /// What stands behind `idmap=`, in crun's words (`uids=0-1-10;gids=0-1-10`).
    pub idmap_text: Option<String>,
    /// What becomes of links at the ends of a bind mount.
    pub symlinks: Symlinks,
    /// What the table doesn't have: `key` or `key=value`.
    pub data: Vec<(String, Option<String>)>,
}

impl Options {
    /// The attributes of the mount itself: the recursive ones are set last.
    #[must_use]
    pub fn of_mount(&self) -> Attributes {
        let (first, last) = (self.attributes, self.recursive);
        Attributes {
            set: first.set & !last.clear | last.set,
            clear: first.clear & !last.set | last.clear,
        }
    }
}

/// What becomes of a symbolic link that is the last part of a bind mount's
/// source or destination; crun's options.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Symlinks {
    /// `copy-symlink`: a source that is a link is made anew in the container.
    pub copy: bool,
    /// `src-nofollow`: a source that is a link is itself mounted.
    pub source: bool,
    /// `dest-nofollow`: a destination that is a link is itself covered.
    pub destination: bool,
}

/// What one word does.
#[derive(Debug, Clone, Copy)]
enum Effect {
    Nothing,
    Bind(bool),
    On(u64),
    Off(u64),
    AccessTime(u64),
    RecursiveOn(u64),
    RecursiveOff(u64),
    RecursiveAccessTime(u64),
    FilesystemOn(u64),
    FilesystemOff(u64),
    CopyUp,
    IdMap(bool),
    CopySymlink,
    SourceNoFollow,
    DestinationNoFollow,
}

/// config.md, "Linux mount options", in its order; `norelatime` and its like
/// ask for nothing, as in the kernel, where relatime is what is left.
const TABLE: &[(&str, Effect)] = &[
    ("async", Effect::FilesystemOff(Superblock::SYNC)),
    ("atime", Effect::AccessTime(Attributes::RELATIME)),
    ("bind", Effect::Bind(false)),
    ("defaults", Effect::Nothing),
    ("dev", Effect::Off(Attributes::NODEV)),
    ("diratime", Effect::Off(Attributes::NODIRATIME)),
    ("dirsync", Effect::FilesystemOn(Superblock::DIRSYNC)),
    ("exec", Effect::Off(Attributes::NOEXEC)),
    ("iversion", Effect::FilesystemOn(Superblock::IVERSION)),
    ("lazytime", Effect::FilesystemOn(Superblock::LAZYTIME)),
    ("loud", Effect::FilesystemOff(Superblock::SILENT)),
    ("mand", Effect::FilesystemOn(Superblock::MAND)),
    ("noatime", Effect::AccessTime(Attributes::NOATIME)),
    ("nodev", Effect::On(Attributes::NODEV)),
    ("nodiratime", Effect::On(Attributes::NODIRATIME)),
    ("noexec", Effect::On(Attributes::NOEXEC)),
    ("noiversion", Effect::FilesystemOff(Superblock::IVERSION)),
    ("nolazytime", Effect::FilesystemOff(Superblock::LAZYTIME)),
    ("nomand", Effect::FilesystemOff(Superblock::MAND)),
    ("norelatime", Effect::Nothing),
    ("nostrictatime", Effect::AccessTime(Attributes::RELATIME)),
    ("nosuid", Effect::On(Attributes::NOSUID)),
    ("nosymfollow", Effect::On(Attributes::NOSYMFOLLOW)),
    ("rbind", Effect::Bind(true)),
    ("relatime", Effect::AccessTime(Attributes::RELATIME)),
    ("remount", Effect::FilesystemOn(Superblock::REMOUNT)),
    ("ro", Effect::On(Attributes::RDONLY)),
    ("rw", Effect::Off(Attributes::RDONLY)),
    ("silent", Effect::FilesystemOn(Superblock::SILENT)),
    ("strictatime", Effect::AccessTime(Attributes::STRICTATIME)),
    ("suid", Effect::Off(Attributes::NOSUID)),
    ("symfollow", Effect::Off(Attributes::NOSYMFOLLOW)),
    ("sync", Effect::FilesystemOn(Superblock::SYNC)),
    // Not in the specification, but in fstab(5) and in runc.
    ("acl", Effect::FilesystemOn(Superblock::ACL)),
    ("noacl", Effect::FilesystemOff(Superblock::ACL)),
    // Linux 5.12.
    ("ratime", Effect::RecursiveAccessTime(Attributes::RELATIME)),
    ("rdev", Effect::RecursiveOff(Attributes::NODEV)),
    ("rdiratime", Effect::RecursiveOff(Attributes::NODIRATIME)),
    ("rexec", Effect::RecursiveOff(Attributes::NOEXEC)),
    ("rnoatime", Effect::RecursiveAccessTime(Attributes::NOATIME)),
    ("rnodev", Effect::RecursiveOn(Attributes::NODEV)),
    ("rnodiratime", Effect::RecursiveOn(Attributes::NODIRATIME)),
    ("rnoexec", Effect::RecursiveOn(Attributes::NOEXEC)),
    ("rnorelatime", Effect::Nothing),
    (
        "rnostrictatime",
        Effect::RecursiveAccessTime(Attributes::RELATIME),
    ),
    ("rnosuid", Effect::RecursiveOn(Attributes::NOSUID)),
    ("rnosymfollow", Effect::RecursiveOn(Attributes::NOSYMFOLLOW)),
    (
        "rrelatime",
        Effect::RecursiveAccessTime(Attributes::RELATIME),
    ),
    ("rro", Effect::RecursiveOn(Attributes::RDONLY)),
    ("rrw", Effect::RecursiveOff(Attributes::RDONLY)),
    (
        "rstrictatime",
        Effect::RecursiveAccessTime(Attributes::STRICTATIME),
    ),
    ("rsuid", Effect::RecursiveOff(Attributes::NOSUID)),
    ("rsymfollow", Effect::RecursiveOff(Attributes::NOSYMFOLLOW)),
    ("tmpcopyup", Effect::CopyUp),
    ("idmap", Effect::IdMap(false)),
    ("ridmap", Effect::IdMap(true)),
    // crun's.
    ("copy-symlink", Effect::CopySymlink),
    ("src-nofollow", Effect::SourceNoFollow),
    ("dest-nofollow", Effect::DestinationNoFollow),
];

/// crun's mappings in the option itself, and whether for mounts below too.
const IDMAP_TEXT: [(&str, bool); 2] = [("idmap=", false), ("ridmap=", true)];

/// The names of all options that are understood, for `rrun features`.
pub fn names() -> impl Iterator<Item = &'static str> {
    const PROPAGATION: [&str; 8] = [
        "private",
        "rprivate",
        "shared",
        "rshared",
        "slave",
        "rslave",
        "unbindable",
        "runbindable",
    ];
    TABLE.iter().map(|(name, _)| *name).chain(PROPAGATION)
}

impl Options {
    /// Sorts the words of `mounts[n].options`; of two that contradict each
    /// other the last one counts.
    #[must_use]
    pub fn parse(words: &[String]) -> Self {
        let mut options = Self::default();
        for word in words {
            if let Some(propagation) = Propagation::from_name(word) {
                options.propagation.push(propagation);
                continue;
            }
            if let Some(idmap) = IDMAP_TEXT
                .iter()
                .find_map(|(key, recursive)| Some((word.strip_prefix(key)?, *recursive)))
            {
                options.idmap = Some(idmap.1);
                options.idmap_text = Some(idmap.0.to_owned());
                continue;
            }
            match TABLE.iter().find(|(name, _)| name == word) {
                Some((_, effect)) => options.apply(*effect),
                // An fstab line may come as one word, "size=1m,mode=755".
                None => options.data.extend(split(word).map(data)),
            }
        }
        options
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Nothing => {}
            Effect::Bind(recursive) => self.bind = Some(recursive),
            Effect::On(bits) => self.attributes.turn_on(bits),
            Effect::Off(bits) => self.attributes.turn_off(bits),
            Effect::AccessTime(value) => self.attributes.access_time(value),
            Effect::RecursiveOn(bits) => self.recursive.turn_on(bits),
            Effect::RecursiveOff(bits) => self.recursive.turn_off(bits),
            Effect::RecursiveAccessTime(value) => self.recursive.access_time(value),
            Effect::FilesystemOn(flag) => self.superblock.0 |= flag,
            Effect::FilesystemOff(flag) => self.superblock.0 &= !flag,
            Effect::CopyUp => self.copy_up = true,
            Effect::IdMap(recursive) => self.idmap = Some(recursive),
            Effect::CopySymlink => self.symlinks.copy = true,
            Effect::SourceNoFollow => self.symlinks.source = true,
            Effect::DestinationNoFollow => self.symlinks.destination = true,
        }
    }
}

/// Splits at commas, except for those between quotes: SELinux contexts come
/// as `context="...:c1,c2"`.
fn split(word: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    word.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
    .filter(|one| !one.is_empty())
}

/// One word of data as key and value, the value without its quotes.
fn data(word: &str) -> (String, Option<String>) {
    match word.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.trim_matches('"').to_owned())),
        None => (word.to_owned(), None),
    }
}

/// The options as the words of config.json.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = Vec::new();
        match self.bind {
            Some(true) => words.push("rbind".to_owned()),
            Some(false) => words.push("bind".to_owned()),
            None => {}
        }
        words.extend(self.attributes.words(""));
        words.extend(self.recursive.words("r"));
        for (flag, word, _) in Superblock::WORDS {
            if self.superblock.0 & flag != 0 {
                words.push(word.to_owned());
            }
        }
        words.extend(self.propagation.iter().map(ToString::to_string));
        if self.copy_up {
            words.push("tmpcopyup".to_owned());
        }
        if let Some(recursive) = self.idmap {
            let word = if recursive { "ridmap" } else { "idmap" };
            words.push(match &self.idmap_text {
                Some(text) => format!("{word}={text}"),
                None => word.to_owned(),
            });
        }
        for (on, word) in [
            (self.symlinks.copy, "copy-symlink"),
            (self.symlinks.source, "src-nofollow"),
            (self.symlinks.destination, "dest-nofollow"),
        ] {
            if on {
                words.push(word.to_owned());
            }
        }
        words.extend(self.data.iter().map(|(key, value)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        }));
        f.write_str(&words.join(","))
    }
}

impl Serialize for Options {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Options {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[test]
    fn attributes_are_set_and_cleared_by_the_last_word() {
        for (words, set, clear) in [
            ("", 0x0, 0x0),
            ("defaults", 0x0, 0x0),
            ("ro", 0x1, 0x0),
            ("ro rw", 0x0, 0x1),
            ("rw ro", 0x1, 0x0),
            ("nosuid nodev noexec", 0xe, 0x0),
            ("nosuid suid", 0x0, 0x2),
            ("dev", 0x0, 0x4),
            ("exec", 0x0, 0x8),
            ("noatime", 0x10, 0x70),
            ("strictatime", 0x20, 0x70),
            ("relatime", 0x0, 0x70),
            ("noatime atime", 0x0, 0x70),
            ("noatime strictatime", 0x20, 0x70),
            ("norelatime", 0x0, 0x0),
            ("nodiratime", 0x80, 0x0),
            ("diratime", 0x0, 0x80),
            ("nosymfollow", 0x20_0000, 0x0),
            ("symfollow", 0x0, 0x20_0000),
        ] {
            let got = parse(words);
            assert_eq!(got.attributes, Attributes { set, clear }, "{words}");
            assert_eq!(got.recursive, Attributes::default(), "{words}");
            assert!(got.data.is_empty(), "{words}");
        }
    }

    #[test]
    fn recursive_attributes_win_at_the_mount_itself() {
        for (words, set, clear) in [
            ("ro", 0x1, 0x0),
            ("rro", 0x1, 0x0),
            ("ro rrw nosuid", 0x2, 0x1),
            ("rw rro", 0x1, 0x0),
            ("noatime rstrictatime", 0x20, 0x70),
        ] {
            assert_eq!(
                parse(words).of_mount(),
                Attributes { set, clear },
                "{words}"
            );
        }
    }

    #[test]
    fn recursive_attributes_are_kept_apart() {
        for (words, set, clear) in [
            ("rro", 0x1, 0x0),
            ("rrw", 0x0, 0x1),
            ("rnosuid rnodev rnoexec", 0xe, 0x0),
            ("rsuid rdev rexec", 0x0, 0xe),
            ("rrelatime", 0x0, 0x70),
            ("rnoatime", 0x10, 0x70),
            ("rstrictatime", 0x20, 0x70),
            ("rnostrictatime", 0x0, 0x70),
            ("ratime", 0x0, 0x70),
            ("rnodiratime", 0x80, 0x0),
            ("rdiratime", 0x0, 0x80),
            ("rnosymfollow", 0x20_0000, 0x0),
            ("rsymfollow", 0x0, 0x20_0000),
            ("rnorelatime", 0x0, 0x0),
        ] {
            let got = parse(words);
            assert_eq!(got.recursive, Attributes { set, clear }, "{words}");
            assert_eq!(got.attributes, Attributes::default(), "{words}");
        }
    }

    #[test]
    fn flags_of_the_filesystem() {
        for (words, flags) in [
            ("sync", 0x10),
            ("sync async", 0x0),
            ("dirsync", 0x80),
            ("mand", 0x40),
            ("mand nomand", 0x0),
            ("lazytime", 0x200_0000),
            ("lazytime nolazytime", 0x0),
            ("iversion", 0x80_0000),
            ("silent", 0x8000),
            ("silent loud", 0x0),
            ("remount", 0x20),
        ] {
            assert_eq!(parse(words).superblock.0, flags, "{words}");
        }
    }

    #[test]
    fn every_option_prints_as_it_was_written() {
        for words in [
            "",
            "ro,nosuid,nodev,noexec",
            "rbind,ro,rprivate",
            "bind,rro,rnosuid,shared,rslave",
            "nosuid,strictatime,mode=755,size=65536k",
            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
            "bind,rw,suid,dev,exec",
            "nosuid,tmpcopyup,mode=700",
            "rbind,ridmap",
            "bind,idmap",
            "rbind,ridmap=uids=0-1-10#10-11-10;gids=0-100-10",
            "bind,copy-symlink",
            "bind,src-nofollow,dest-nofollow",
        ] {
            let options = parse(&words.replace(',', " "));
            assert_eq!(options.to_string(), words);
        }
    }

    #[test]
    fn unknown_words_are_data_for_the_filesystem() {
        let options = parse("size=1m,mode=755 lowerdir=/a:/b=c userxattr context=\"s0:c1,c2\",a");
        let data: Vec<_> = options
            .data
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_deref()))
            .collect();
        assert_eq!(
            data,
            [
                ("size", Some("1m")),
                ("mode", Some("755")),
                ("lowerdir", Some("/a:/b=c")),
                ("userxattr", None),
                ("context", Some("s0:c1,c2")),
                ("a", None),
            ]
        );
    }
}
