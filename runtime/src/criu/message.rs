//! The messages that criu and its caller send, by rpc.proto's field numbers.

use std::os::fd::RawFd;

use super::wire::{self, Writer};

/// What is asked for, or answered (`criu_req_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Write a process tree to images.
    Dump,
    /// Make one from images.
    Restore,
    /// Write memory only, and let the processes go on.
    PreDump,
    /// A moment on the way to one of these.
    Notify,
    /// Say what the kernel and criu can do.
    FeatureCheck,
    /// Say which criu it is.
    Version,
}

impl Type {
    fn number(self) -> i32 {
        match self {
            Type::Dump => 1,
            Type::Restore => 2,
            Type::PreDump => 4,
            Type::Notify => 6,
            Type::FeatureCheck => 9,
            Type::Version => 10,
        }
    }

    fn from_number(number: i32) -> Option<Self> {
        let all = [
            Type::Dump,
            Type::Restore,
            Type::PreDump,
            Type::Notify,
            Type::FeatureCheck,
            Type::Version,
        ];
        all.into_iter().find(|one| one.number() == number)
    }
}

/// How criu treats cgroups (`criu_cg_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    /// Not at all.
    Ignore,
    /// Their properties only if criu made them.
    Soft,
    /// Directories and properties, always.
    Full,
    /// Directories and properties, which must not be there yet.
    Strict,
}

impl CgroupMode {
    fn number(self) -> i32 {
        match self {
            CgroupMode::Ignore => 0,
            CgroupMode::Soft => 3,
            CgroupMode::Full => 4,
            CgroupMode::Strict => 5,
        }
    }
}

/// Where memory goes instead of into the images (`criu_page_server_info`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageServer {
    /// An address of the host.
    pub address: String,
    /// A TCP port.
    pub port: u16,
}

/// A mount that is not part of the images (`ext_mount_map`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// Its name in the images: for a container, where it is mounted.
    pub key: String,
    /// Where it comes from at restore; at a dump again the name.
    pub value: String,
}

/// A descriptor that takes the place of one in the images (`inherit_fd`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inherited {
    /// The name in the images, such as `pipe:[4711]`.
    pub key: String,
    /// The descriptor in criu.
    pub fd: RawFd,
}

/// A cgroup that takes the place of the one in the images (`cgroup_root`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupRoot {
    /// The v1 controllers of its hierarchy; `None` for all hierarchies.
    pub controllers: Option<String>,
    /// Its path in the hierarchy.
    pub path: String,
}

/// A namespace to join at restore (`join_namespace`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedNamespace {
    /// Its type as below `/proc/PID/ns`.
    pub kind: String,
    /// Its file.
    pub path: String,
}

/// How connections are kept from changing meanwhile
/// (`criu_network_lock_method`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkLock {
    /// By rules of iptables.
    Iptables,
    /// By rules of nftables.
    Nftables,
    /// Not at all.
    Skip,
}

impl NetworkLock {
    fn number(self) -> i32 {
        match self {
            NetworkLock::Iptables => 1,
            NetworkLock::Nftables => 2,
            NetworkLock::Skip => 3,
        }
    }
}

/// What criu and the kernel can do together (`criu_features`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// Pages that changed are told, as a pre-dump needs it.
    pub mem_track: bool,
    /// Pages can be fetched when they are touched.
    pub lazy_pages: bool,
}

/// The options of a request (`criu_opts`). Those that are off or `None` are
/// not sent, so criu's defaults hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the protocol's options are switches"
)]
pub struct Options {
    /// The images' directory, in criu.
    pub images_dir_fd: RawFd,
    /// The directory of logs and statistics, in criu.
    pub work_dir_fd: Option<RawFd>,
    /// The first process to dump.
    pub pid: Option<i32>,
    /// The processes go on after a dump.
    pub leave_running: bool,
    /// Unix sockets may have a peer outside.
    pub ext_unix_sk: bool,
    /// TCP connections are kept.
    pub tcp_established: bool,
    /// TCP connections that are not established yet are left out.
    pub tcp_skip_in_flight: bool,
    /// The session may be led by somebody outside.
    pub shell_job: bool,
    /// File locks are kept.
    pub file_locks: bool,
    /// How much is logged, 0 to 4.
    pub log_level: Option<i32>,
    /// The log's name in the work directory.
    pub log_file: Option<String>,
    /// Where memory goes instead of into the images.
    pub page_server: Option<PageServer>,
    /// Moments are told as [`Type::Notify`].
    pub notify_scripts: bool,
    /// The root filesystem's path.
    pub root: Option<String>,
    /// The images of an earlier pre-dump, relative to these.
    pub parent_img: Option<String>,
    /// Later dumps may build on this one.
    pub track_mem: bool,
    /// Pages that are in a later image are dropped from the earlier.
    pub auto_dedup: bool,
    /// Files without a name are linked to one.
    pub link_remap: bool,
    /// Mounts that are not part of the images.
    pub ext_mnt: Vec<External>,
    /// How criu treats cgroups.
    pub manage_cgroups: Option<CgroupMode>,
    /// The cgroups of a restored container.
    pub cg_root: Vec<CgroupRoot>,
    /// Restored processes are our children, not criu's.
    pub rst_sibling: bool,
    /// Descriptors that take the place of ones in the images.
    pub inherit_fd: Vec<Inherited>,
    /// External resources, such as `net[4026531992]:extRootNetNS`.
    pub external: Vec<String>,
    /// Namespaces that are restored without content, as `CLONE_NEW*` bits.
    pub empty_ns: u32,
    /// Namespaces to join.
    pub join_ns: Vec<JoinedNamespace>,
    /// The cgroup by which processes are frozen.
    pub freeze_cgroup: Option<String>,
    /// Memory is fetched when it is touched.
    pub lazy_pages: bool,
    /// Where criu says that it waits for a client, in criu.
    pub status_fd: Option<RawFd>,
    /// The terminal's master comes with the notification of that name.
    pub orphan_pts_master: bool,
    /// A file of options that win over these.
    pub config_file: Option<String>,
    /// TCP connections are restored closed.
    pub tcp_close: bool,
    /// `TYPE:NAME` of the security profile to be restored with.
    pub lsm_profile: Option<String>,
    /// The SELinux context of mounts to be restored with.
    pub lsm_mount_context: Option<String>,
    /// How connections are kept from changing.
    pub network_lock: Option<NetworkLock>,
}

impl Options {
    fn write(&self, w: &mut Writer) {
        w.int(1, self.images_dir_fd);
        self.pid.inspect(|pid| w.int(2, *pid));
        w.switch(3, self.leave_running);
        w.switch(4, self.ext_unix_sk);
        w.switch(5, self.tcp_established);
        w.switch(7, self.shell_job);
        w.switch(8, self.file_locks);
        self.log_level.inspect(|level| w.int(9, *level));
        text(w, 10, self.log_file.as_ref());
        if let Some(server) = &self.page_server {
            w.message(11, |w| {
                w.bytes(1, server.address.as_bytes());
                w.int(2, i32::from(server.port));
            });
        }
        w.switch(12, self.notify_scripts);
        text(w, 13, self.root.as_ref());
        text(w, 14, self.parent_img.as_ref());
        w.switch(15, self.track_mem);
        w.switch(16, self.auto_dedup);
        self.work_dir_fd.inspect(|fd| w.int(17, *fd));
        w.switch(18, self.link_remap);
        for mount in &self.ext_mnt {
            w.message(23, |w| {
                w.bytes(1, mount.key.as_bytes());
                w.bytes(2, mount.value.as_bytes());
            });
        }
        // For versions that don't know the mode yet.
        w.switch(24, self.manage_cgroups.is_some());
        for root in &self.cg_root {
            w.message(25, |w| {
                text(w, 1, root.controllers.as_ref());
                w.bytes(2, root.path.as_bytes());
            });
        }
        w.switch(26, self.rst_sibling);
        for inherited in &self.inherit_fd {
            w.message(27, |w| {
                w.bytes(1, inherited.key.as_bytes());
                w.int(2, inherited.fd);
            });
        }
        self.manage_cgroups.inspect(|mode| w.int(34, mode.number()));
        for external in &self.external {
            w.bytes(37, external.as_bytes());
        }
        if self.empty_ns != 0 {
            w.uint(38, self.empty_ns);
        }
        for joined in &self.join_ns {
            w.message(39, |w| {
                w.bytes(1, joined.kind.as_bytes());
                w.bytes(2, joined.path.as_bytes());
            });
        }
        text(w, 44, self.freeze_cgroup.as_ref());
        w.switch(46, self.tcp_skip_in_flight);
        w.switch(48, self.lazy_pages);
        self.status_fd.inspect(|fd| w.int(49, *fd));
        w.switch(50, self.orphan_pts_master);
        text(w, 51, self.config_file.as_ref());
        w.switch(52, self.tcp_close);
        text(w, 53, self.lsm_profile.as_ref());
        text(w, 63, self.lsm_mount_context.as_ref());
        self.network_lock.inspect(|how| w.int(64, how.number()));
    }
}

fn text(w: &mut Writer, field: u32, value: Option<&String>) {
    value.inspect(|value| w.bytes(field, value.as_bytes()));
}

/// What we send (`criu_req`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A dump, a pre-dump or a restore.
    Work(Type, Box<Options>),
    /// Our word on a notification: go on, or give up.
    Notified(bool),
    /// The question which criu it is.
    Version,
    /// The question what criu and the kernel can do.
    Features,
}

impl Request {
    /// The packet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Request::Work(kind, options) => {
                w.int(1, kind.number());
                w.message(2, |w| options.write(w));
            }
            Request::Notified(success) => {
                w.int(1, Type::Notify.number());
                w.uint(3, u32::from(*success));
            }
            Request::Version => w.int(1, Type::Version.number()),
            Request::Features => {
                w.int(1, Type::FeatureCheck.number());
                w.message(5, |w| {
                    w.switch(1, true);
                    w.switch(2, true);
                });
            }
        }
        w.finish()
    }
}

/// A moment on the way (`criu_notify`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notify {
    /// Its name, such as `post-restore`.
    pub script: String,
    /// The first process, once there is one.
    pub pid: Option<i32>,
}

/// What criu answers (`criu_resp`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// What it answers; `None` for a type that we never ask for.
    pub kind: Option<Type>,
    /// Whether it was done.
    pub success: bool,
    /// The pid of the first restored process.
    pub restored: Option<i32>,
    /// The moment that it tells of.
    pub notify: Option<Notify>,
    /// The errno at the root of a failure.
    pub errno: Option<i32>,
    /// The words for a failure.
    pub message: Option<String>,
    /// Of criu, as major * 10000 + minor * 100 + sublevel.
    pub version: Option<i32>,
    /// What it can do.
    pub features: Features,
}

impl Response {
    /// Reads a packet; `None` for one that is no message.
    #[must_use]
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let fields = wire::fields(packet)?;
        let of = |number| field(&fields, number);
        let embedded = |number| match of(number) {
            Some(wire::Value::Bytes(bytes)) => wire::fields(bytes),
            _ => None,
        };
        let int = |fields: &[(u64, wire::Value<'_>)], number| field(fields, number)?.int();
        Some(Self {
            kind: Type::from_number(of(1)?.int()?),
            success: of(2)?.int()? != 0,
            restored: embedded(4).and_then(|restore| int(&restore, 1)),
            notify: embedded(5).map(|notify| Notify {
                script: field(&notify, 1)
                    .and_then(|script| script.text())
                    .unwrap_or_default(),
                pid: int(&notify, 2),
            }),
            errno: of(7).and_then(|errno| errno.int()),
            message: of(9).and_then(|message| message.text()),
            version: embedded(10).and_then(|version| {
                let part = |number| int(&version, number).unwrap_or(0);
                let minor = part(2).checked_mul(100)?;
                let major = int(&version, 1)?.checked_mul(10_000)?;
                major.checked_add(minor)?.checked_add(part(4))
            }),
            features: embedded(8)
                .map(|features| Features {
                    mem_track: int(&features, 1) == Some(1),
                    lazy_pages: int(&features, 2) == Some(1),
                })
                .unwrap_or_default(),
        })
    }
}

/// The last value of a field, as the format wants it of repeated ones.
fn field<'a>(fields: &[(u64, wire::Value<'a>)], number: u64) -> Option<wire::Value<'a>> {
    let mut of_number = fields.iter().rev().filter(|(found, _)| *found == number);
    of_number.next().map(|(_, value)| *value)
}

#[cfg(test)]
mod tests;
