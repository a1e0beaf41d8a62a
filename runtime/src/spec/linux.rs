//! `linux`: namespaces, devices, resources and what else only Linux has.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, IntoDeserializer, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Resources, Seccomp, distinct, null_is_default};

/// The `linux` object (config-linux.md).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct Linux {
    /// User ids inside and outside a new user namespace.
    #[serde(deserialize_with = "null_is_default")]
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids inside and outside a new user namespace.
    #[serde(deserialize_with = "null_is_default")]
    pub gid_mappings: Vec<IdMapping>,
    /// Kernel parameters to set, by their dotted (or slashed) names.
    #[serde(deserialize_with = "distinct")]
    pub sysctl: BTreeMap<String, String>,
    /// Limits of the cgroup.
    pub resources: Option<Resources>,
    /// The cgroup's path.
    pub cgroups_path: Option<String>,
    /// Namespaces to make or to join; those not listed are shared.
    #[serde(deserialize_with = "null_is_default")]
    pub namespaces: Vec<Namespace>,
    /// Device nodes to make, beside the default ones.
    #[serde(deserialize_with = "null_is_default")]
    pub devices: Vec<Device>,
    /// Host network devices to move into the container, by their host names.
    #[serde(deserialize_with = "distinct")]
    pub net_devices: BTreeMap<String, NetDevice>,
    /// The syscall filter.
    pub seccomp: Option<Seccomp>,
    /// Propagation of the root mount: `private`, `slave`, `shared`,
    /// `unbindable`, or one of them with an `r` in front.
    pub rootfs_propagation: Option<String>,
    /// Paths that the container can't read.
    #[serde(deserialize_with = "null_is_default")]
    pub masked_paths: Vec<String>,
    /// Paths that the container can't write.
    #[serde(deserialize_with = "null_is_default")]
    pub readonly_paths: Vec<String>,
    /// The SELinux label of the mounts.
    pub mount_label: Option<String>,
    /// Intel resource director technology.
    pub intel_rdt: Option<IntelRdt>,
    /// NUMA memory policy.
    pub memory_policy: Option<MemoryPolicy>,
    /// The execution domain.
    pub personality: Option<Personality>,
    /// Clock offsets of a new time namespace, by clock name.
    #[serde(deserialize_with = "distinct")]
    pub time_offsets: BTreeMap<String, TimeOffset>,
}

/// A range of ids in a user namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct IdMapping {
    /// First id inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// First id outside.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many ids.
    pub size: u32,
}

/// A namespace to make, or with a path, to join.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(expecting = "an object")]
pub struct Namespace {
    /// Which one.
    #[serde(rename = "type", deserialize_with = "by_name")]
    pub kind: NamespaceType,
    /// The namespace file to join; none makes a new namespace. Go's encoders
    /// write an empty string for none.
    #[serde(default)]
    pub path: Option<String>,
}

/// Reads a type as a string, so that what is none is told as such.
fn by_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NamespaceType, D::Error> {
    struct ByName;
    impl Visitor<'_> for ByName {
        type Value = NamespaceType;

        fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
            to.write_str("a string")
        }

        fn visit_str<E: de::Error>(self, name: &str) -> Result<NamespaceType, E> {
            NamespaceType::deserialize(name.into_deserializer())
        }
    }
    deserializer.deserialize_str(ByName)
}

/// The eight types of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceType {
    /// Process ids.
    Pid,
    /// Network stack.
    Network,
    /// Mounts.
    Mount,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Hostname and domain name.
    Uts,
    /// User and group ids, capabilities.
    User,
    /// The view of the cgroup tree.
    Cgroup,
    /// Boot-time and monotonic clocks.
    Time,
}

/// A device node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct Device {
    /// Full path inside the container.
    pub path: String,
    /// `c`, `u`, `b` or `p`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permission bits.
    pub file_mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// A network device to move.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct NetDevice {
    /// Its name inside the container; the host's if not given.
    pub name: Option<String>,
}

/// Intel RDT.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct IntelRdt {
    /// The class of service, a directory of resctrl.
    #[serde(rename = "closID")]
    pub clos_id: Option<String>,
    /// Lines of `schemata`.
    #[serde(deserialize_with = "null_is_default")]
    pub schemata: Vec<String>,
    /// L3 cache schema.
    pub l3_cache_schema: Option<String>,
    /// Memory bandwidth schema.
    pub mem_bw_schema: Option<String>,
    /// Whether to make a monitoring group.
    pub enable_monitoring: bool,
}

/// NUMA memory policy, by set_mempolicy(2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct MemoryPolicy {
    /// `MPOL_DEFAULT` and so on.
    pub mode: String,
    /// Nodes as a list such as `0-3,7`.
    pub nodes: String,
    /// `MPOL_F_STATIC_NODES` and so on.
    #[serde(deserialize_with = "null_is_default")]
    pub flags: Vec<String>,
}

/// The execution domain, by personality(2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct Personality {
    /// `LINUX` or `LINUX32`.
    pub domain: String,
    /// Flags; the spec defines none.
    #[serde(deserialize_with = "null_is_default")]
    pub flags: Vec<String>,
}

/// A clock offset of a time namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct TimeOffset {
    /// Seconds.
    pub secs: i64,
    /// Nanoseconds.
    pub nanosecs: u32,
}
