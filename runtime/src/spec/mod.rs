//! config.json as typed data: what was written, nothing decided.
//!
//! The types follow runtime-spec 1.3 field by field. Unknown properties are
//! ignored (config.md, "Extensibility"); a value of the wrong type or outside
//! its enumeration is an error that names the JSON path. What a value means on
//! this host is decided later, by `plan`.
//!
//! Go's encoders write `null` for an empty slice or map, so `null` reads as
//! the default wherever a default exists.
//!
//! These structs are our own because those of `oci-spec` refuse unknown
//! capabilities (the spec asks for a warning) and hide the JSON path of a bad
//! enum value; tests hold both against the same documents.

pub mod fields;
mod hooks;
mod linux;
mod position;
mod process;
mod resources;
mod seccomp;

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub use hooks::{Hook, Hooks};
pub use linux::{
    Device, IdMapping, IntelRdt, Linux, MemoryPolicy, Namespace, NamespaceType, NetDevice,
    Personality, TimeOffset,
};
pub use process::{
    Capabilities, ConsoleSize, ExecCpuAffinity, IoPriority, Process, Rlimit, Scheduler, User,
};
pub use resources::{
    BlockIo, Cpu, DeviceRule, HugepageLimit, InterfacePriority, Memory, Network, Pids, Rdma,
    Resources, ThrottleDevice, WeightDevice,
};
pub use seccomp::{ArgCondition, Seccomp, Syscall};

use crate::error::{Error, Kind, Result};
use fields::Treatment;

/// The version of runtime-spec that rrun implements.
pub const VERSION: &str = "1.3.0";

/// A bundle's config.json (runtime-spec, config.md).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct Spec {
    /// The version of the specification that the document follows.
    pub oci_version: String,
    /// The container's process; without one, `start` is an error.
    pub process: Option<Process>,
    /// The root filesystem.
    pub root: Option<Root>,
    /// The hostname inside the uts namespace.
    pub hostname: Option<String>,
    /// The NIS domain name inside the uts namespace.
    pub domainname: Option<String>,
    /// Mounts beyond the root filesystem, in order.
    #[serde(deserialize_with = "null_is_default")]
    pub mounts: Vec<Mount>,
    /// Programs to run at moments of the container's life.
    #[serde(deserialize_with = "null_is_default")]
    pub hooks: Hooks,
    /// Words for people and engines, passed on in the state.
    #[serde(deserialize_with = "distinct")]
    pub annotations: BTreeMap<String, String>,
    /// What only Linux has.
    pub linux: Option<Linux>,
}

/// The container's root filesystem.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct Root {
    /// Absolute, or relative to the bundle.
    pub path: String,
    /// Whether the container sees it read-only.
    pub readonly: bool,
}

/// One mount of `mounts`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct Mount {
    /// Where, inside the container.
    pub destination: String,
    /// The filesystem type; empty or `none` or `bind` for a bind mount.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// A device name, or the path of a bind mount's source.
    pub source: Option<String>,
    /// Options as in fstab(5); what is no known option is data for the
    /// filesystem.
    #[serde(deserialize_with = "null_is_default")]
    pub options: Vec<String>,
    /// User id mappings of an idmapped mount.
    #[serde(deserialize_with = "null_is_default")]
    pub uid_mappings: Vec<IdMapping>,
    /// Group id mappings of an idmapped mount.
    #[serde(deserialize_with = "null_is_default")]
    pub gid_mappings: Vec<IdMapping>,
}

/// Reads `null` as the default value, as Go's decoder does.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a map whose names are the author's own, and `null` as an empty one. A name
/// that comes twice is an error, as it is of a field (glossary.md, "Configuration").
fn distinct<'de, D, T>(deserializer: D) -> Result<BTreeMap<String, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Distinct<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Distinct<T> {
        type Value = BTreeMap<String, T>;

        fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
            to.write_str("a map")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = BTreeMap::new();
            while let Some(name) = map.next_key::<String>()? {
                if found.contains_key(&name) {
                    return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
                }
                let value = map.next_value()?;
                found.insert(name, value);
            }
            Ok(found)
        }
    }
    deserializer.deserialize_any(Distinct(PhantomData))
}

/// Reads a document of `file` (its name in messages), which is the part of a
/// config.json at the path `part`.
///
/// Only in a document that is refused the path of the place is looked for, so
/// that the message names the field.
fn parse<T: DeserializeOwned>(file: &str, part: &str, json: &[u8]) -> Result<T> {
    // Serde would take its values for the fields, one after the other.
    if json.trim_ascii_start().starts_with(b"[") {
        let text = format!("{file}: is an array, not an object");
        return Err(Error::new(Kind::InvalidConfig, text));
    }
    read(file, part, json)
}

/// [`parse`] for a document that may be an array.
fn read<T: DeserializeOwned>(file: &str, part: &str, json: &[u8]) -> Result<T> {
    let refused = |cause: &str| Err(Error::new(Kind::InvalidConfig, format!("{file}: {cause}")));
    let error = match serde_json::from_slice(json) {
        Ok(document) => return refuse_nul(file, part, json).map(|()| document),
        Err(error) => error,
    };
    if json.is_empty() {
        return refused("is empty");
    }
    if json.starts_with(b"\xef\xbb\xbf") {
        return refused("begins with a byte order mark, which JSON does not allow");
    }
    let text = match position::path_at(json, error.line(), error.column()) {
        path if path.is_empty() => format!("{file}: {error}"),
        path => format!("{file}: {path}: {error}"),
    };
    Err(Error::new(Kind::InvalidConfig, text))
}

/// Refuses a string with a NUL byte: what is handed to the kernel would end
/// there. In JSON text such a byte has one form only, which almost no document
/// has, so that looking for it costs next to nothing. What is ignored may have
/// any bytes.
fn refuse_nul(file: &str, part: &str, json: &[u8]) -> Result<()> {
    let mut escapes = json.split(|byte| *byte == b'\\').skip(1);
    if !escapes.any(|escape| escape.starts_with(b"u0000")) {
        return Ok(());
    }
    let document = serde_json::from_slice(json).unwrap_or_default();
    let has_nul = |value: &Value| value.as_str().is_some_and(|text| text.contains('\0'));
    for asked in fields::of(&document, part).asked {
        let ignored = matches!(asked.field.treatment, Treatment::Ignored(_));
        if !ignored && (asked.path.contains('\0') || has_nul(asked.value)) {
            let text = format!("{file}: {}: must not have a NUL byte", asked.path);
            return Err(Error::new(Kind::InvalidConfig, text));
        }
    }
    Ok(())
}

impl Spec {
    /// Reads a config.json.
    ///
    /// # Errors
    /// A syntax error with its line, or an invalid value with its JSON path.
    pub fn parse(json: &[u8]) -> Result<Self> {
        parse("config.json", "", json)
    }
}

impl Process {
    /// Reads the process.json of `rrun exec --process`.
    ///
    /// # Errors
    /// As for [`Spec::parse`].
    pub fn parse(json: &[u8]) -> Result<Self> {
        parse("process.json", "process", json)
    }
}

/// The document of `rrun mounts`: a list, or an object with one.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MountList {
    mounts: Vec<Mount>,
}

impl Mount {
    /// Reads the document of `rrun mounts`; `file` is its name in messages.
    ///
    /// # Errors
    /// As for [`Spec::parse`].
    pub fn parse_list(file: &str, json: &[u8]) -> Result<Vec<Self>> {
        let begin = json.iter().find(|byte| !byte.is_ascii_whitespace());
        if begin == Some(&b'[') {
            return read(file, "mounts", json);
        }
        parse(file, "", json).map(|list: MountList| list.mounts)
    }
}

impl Resources {
    /// Reads the document of `rrun update --resources`.
    ///
    /// # Errors
    /// As for [`Spec::parse`].
    pub fn parse(json: &[u8]) -> Result<Self> {
        parse("resources", "linux.resources", json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_value_is_refused_with_its_json_path() {
        for (json, text) in [
            (
                r#"{"linux":{"resources":{"memory":{"limit":"1G"}}}}"#,
                "config.json: linux.resources.memory.limit: invalid type: string \"1G\", expected i64 at line 1 column 45",
            ),
            (
                r#"{"linux":{"namespaces":[{"type":"pid"},{"type":"pod"}]}}"#,
                "config.json: linux.namespaces[1].type: unknown variant `pod`, expected one of \
                 `pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup`, `time` at line 1 column 52",
            ),
            (
                r#"{"root":"#,
                "config.json: root: EOF while parsing a value at line 1 column 8",
            ),
        ] {
            let error = Spec::parse(json.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidConfig);
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn unknown_properties_and_nulls_are_read_over() {
        let spec = Spec::parse(
            br#"{"ociVersion":"1.3.0","vm":{},"mounts":null,"hooks":null,"annotations":null,
                "process":{"args":null,"cwd":"/","new":1},"linux":{"namespaces":null}}"#,
        )
        .unwrap();
        assert_eq!(spec.oci_version, "1.3.0");
        assert!(spec.mounts.is_empty());
        assert_eq!(spec.process.unwrap().cwd, "/");
    }
}
