//! A bundle in a temporary directory, and a container's root made from it.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, MsFlags};
use rrun::channel::{self, ChildEnd, FromChild};
use rrun::child::{pivot, rootfs};
use rrun::parent::sources;
use rrun::plan::cgroup_mounts::CgroupView;
use rrun::plan::mounts::{self, MountContext, Rootfs};
use rrun::plan::namespaces::Namespaces;
use rrun::spec::{NamespaceType, Spec};
use rrun::sys::process::{self, Clone, Forked};
use serde_json::{Value, json};

/// A bundle, removed with the value.
pub(crate) struct Bundle {
    pub(crate) path: PathBuf,
    pub(crate) config: Value,
    pub(crate) cgroups: CgroupView,
    pub(crate) no_pivot: bool,
    host_mounts: Vec<PathBuf>,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Bundle {
    /// With the configuration of `runc spec`, and busybox in the root.
    pub(crate) fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("rrun-rootfs.{}.{number}", std::process::id()));
        std::fs::create_dir_all(path.join("rootfs/bin")).unwrap();
        std::fs::copy("/bin/busybox", path.join("rootfs/bin/busybox")).unwrap();
        let config = serde_json::from_str(include_str!("../data/runc-spec.json")).unwrap();
        Self {
            path,
            config,
            cgroups: CgroupView::default(),
            no_pivot: false,
            host_mounts: Vec::new(),
        }
    }

    /// Without any mount, mask or read-only path.
    pub(crate) fn bare() -> Self {
        let mut bundle = Self::new();
        bundle.config["mounts"] = json!([]);
        bundle.config["linux"]["maskedPaths"] = json!([]);
        bundle.config["linux"]["readonlyPaths"] = json!([]);
        bundle.config["root"]["readonly"] = json!(false);
        bundle
    }

    /// Mounts a tmpfs at `path` on the host, until the bundle goes.
    pub(crate) fn host_mount(&mut self, path: PathBuf, flags: MsFlags) {
        std::fs::create_dir_all(&path).unwrap();
        let kind = Some("tmpfs");
        nix::mount::mount(kind, &path, kind, flags, None::<&str>).unwrap();
        self.host_mounts.push(path);
    }

    /// Adds a mount: destination, type, source, options by commas.
    pub(crate) fn mount(mut self, to: &str, kind: &str, source: &str, options: &str) -> Self {
        let options: Vec<&str> = options.split(',').filter(|one| !one.is_empty()).collect();
        let mount = json!({"destination": to, "type": kind, "source": source, "options": options});
        self.config["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    /// Changes the configuration.
    pub(crate) fn with(mut self, pointer: &str, value: Value) -> Self {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        self.config.pointer_mut(parent).unwrap()[name] = value;
        self
    }

    /// A path in the root, as the host sees it.
    pub(crate) fn root(&self, path: &str) -> PathBuf {
        self.path.join("rootfs").join(path)
    }

    /// A file or directory beside the root.
    pub(crate) fn beside(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    pub(crate) fn plan(&self) -> Result<(Rootfs, Namespaces), String> {
        let spec = Spec::parse(self.config.to_string().as_bytes()).map_err(|e| e.to_string())?;
        let linux = spec.linux.clone().unwrap_or_default();
        let namespaces = Namespaces::plan(&linux).map_err(|e| e.to_string())?;
        let context = MountContext {
            namespaces: &namespaces,
            no_pivot: self.no_pivot,
            rootless: !nix::unistd::geteuid().is_root(),
            cgroups: &self.cgroups,
            label_option: "context",
        };
        let rootfs = mounts::rootfs(&spec, &self.path, &context).map_err(|e| e.to_string())?;
        Ok((rootfs, namespaces))
    }

    /// Makes the root, enters it, and there runs `inside`; its answer, or the
    /// error of the runtime.
    pub(crate) fn run(&self, inside: impl FnOnce() -> String) -> Result<String, String> {
        let (rootfs, namespaces) = self.plan()?;
        let (ours, theirs) = channel::pair().map_err(|e| e.to_string())?;
        let (read, write) = rrun::sys::descriptors::pipe().map_err(|e| e.to_string())?;
        let (go_read, go_write) = rrun::sys::descriptors::pipe().map_err(|e| e.to_string())?;
        let flags = u64::try_from((namespaces.clone_flags() | namespaces.unshare_flags()).bits())
            .unwrap_or_default();
        let clone = Clone {
            flags,
            cgroup: None,
        };
        let Forked::Parent(pid, pidfd) = process::fork(&clone).map_err(|e| e.to_string())? else {
            drop((read, go_write, ours));
            let _ = rrun::sys::descriptors::read(go_read.as_fd(), &mut [0]);
            let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                container(&rootfs, &namespaces, &theirs).map(|()| inside())
            }));
            let text = match answer {
                Ok(Ok(text)) => format!("+{text}"),
                Ok(Err(text)) => format!("-{text}"),
                Err(_) => "-panicked".to_owned(),
            };
            let _ = std::fs::File::from(write).write_all(text.as_bytes());
            process::exit_now(0);
        };
        drop((write, theirs));
        if let Some(maps) = &namespaces.id_maps {
            rrun::idmap::write(pid, maps, nix::unistd::geteuid().is_root())
                .map_err(|e| e.to_string())?;
        }
        drop(go_write);
        let handed = match ours.receive().map_err(|e| e.to_string())? {
            FromChild::SourcesWanted => sources::hand_over_to(&rootfs, &pidfd, &ours, &|| false),
            _ => Ok(()),
        };
        // A child that is gone has said why.
        let _ = ours.go_on();
        drop(ours);
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        pidfd.wait().unwrap();
        match (text.split_at_checked(1), handed) {
            (Some(("+", answer)), _) => Ok(answer.to_owned()),
            (Some((_, error)), _) => Err(error.to_owned()),
            (None, Err(error)) => Err(error.to_string()),
            (None, Ok(())) => Err("died".to_owned()),
        }
    }

    /// The same, started by the user 65534 and not by root.
    pub(crate) fn run_as_nobody(&self, inside: impl FnOnce() -> String) -> Result<String, String> {
        let (read, write) = rrun::sys::descriptors::pipe().unwrap();
        let clone = Clone::default();
        let Forked::Parent(_, pidfd) = process::fork(&clone).unwrap() else {
            rrun::sys::credentials::set_groups(&[]).unwrap();
            rrun::sys::credentials::set_gid(65534).unwrap();
            rrun::sys::credentials::set_uid(65534).unwrap();
            // Else /proc/PID/uid_map would be root's.
            rrun::sys::credentials::set_dumpable(true).unwrap();
            let text = match self.run(inside) {
                Ok(text) => format!("+{text}"),
                Err(text) => format!("-{text}"),
            };
            let _ = std::fs::File::from(write).write_all(text.as_bytes());
            process::exit_now(0);
        };
        drop(write);
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        pidfd.wait().unwrap();
        match text.split_at_checked(1) {
            Some(("+", answer)) => Ok(answer.to_owned()),
            _ => Err(text),
        }
    }

    /// The error of a root that must not come to be.
    pub(crate) fn refused(&self) -> String {
        self.run(String::new).expect_err("the root was made")
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for path in self.host_mounts.iter().rev() {
            let _ = nix::mount::umount2(path, MntFlags::MNT_DETACH);
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// The child's part.
fn container(planned: &Rootfs, namespaces: &Namespaces, channel: &ChildEnd) -> Result<(), String> {
    if planned.user_namespace {
        rrun::sys::credentials::set_gid(0).map_err(|e| e.to_string())?;
        rrun::sys::credentials::set_uid(0).map_err(|e| e.to_string())?;
    }
    if namespaces.creates(NamespaceType::Cgroup) {
        let flag = NamespaceType::Cgroup.flag();
        rrun::sys::namespace::unshare(flag).map_err(|e| e.to_string())?;
    }
    let prepared = rootfs::begin(planned).and_then(|mut begun| {
        channel.sources_wanted()?;
        match channel.until_sources()? {
            Some(trees) => begun.take_sources(trees),
            None => process::exit_now(1),
        }
        begun.complete(planned)
    });
    let prepared = prepared.map_err(|error| error.to_string())?;
    pivot::enter(prepared, planned).map_err(|error| error.to_string())?;
    rootfs::finish(planned).map_err(|error| error.to_string())
}

/// `/proc/self/mountinfo`.
pub(crate) fn mountinfo() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap()
}

/// The fields of the mount at `path` in a mountinfo, the last one if several
/// are stacked: options, optional fields, type, source, filesystem options.
pub(crate) fn mount_at<'a>(mountinfo: &'a str, path: &str) -> [&'a str; 5] {
    let line = mountinfo
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some(path))
        .unwrap_or_else(|| panic!("no mount at {path} in\n{mountinfo}"));
    let (mount, filesystem) = line.split_once(" - ").unwrap();
    let mut mount = mount.splitn(7, ' ');
    let options = mount.nth(5).unwrap();
    let optional = mount.next().unwrap_or_default();
    let mut filesystem = filesystem.splitn(3, ' ');
    [
        options,
        optional,
        filesystem.next().unwrap(),
        filesystem.next().unwrap(),
        filesystem.next().unwrap(),
    ]
}

/// Writes a file with the directories that lead to it.
pub(crate) fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
