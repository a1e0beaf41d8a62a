//! `rrun state`: what is known of a container, as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::delete::is_frozen;
use super::print;
use crate::cli::{Global, State};
use crate::error::{Error, Kind, Result};
use crate::spec;
use crate::state::{Container, ContainerId, Record, Root, Status};

/// Prints the state of the container.
///
/// # Errors
/// No such container.
pub fn execute(global: &Global, args: &State) -> Result<()> {
    let root = Root::open(global.root.as_deref())?;
    let container = root.container(&args.id)?;
    let record = container.record()?;
    print(&json(&Description::of(&container, &record)?)?)
}

/// The state of runtime-spec (runtime.md) with what runc adds. Field names
/// and order are what engines have read for years.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Description<'r> {
    oci_version: &'static str,
    pub(super) id: &'r ContainerId,
    /// 0 once the process has ended.
    pub(super) pid: i32,
    pub(super) status: Status,
    pub(super) bundle: &'r Path,
    rootfs: &'r Path,
    pub(super) created: &'r str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'r BTreeMap<String, String>,
    /// A name where the host's passwd has one.
    pub(super) owner: String,
}

impl<'r> Description<'r> {
    /// Asks the kernel where the container stands.
    pub(super) fn of(container: &Container, record: &'r Record) -> Result<Self> {
        let status = container.status(record, || is_frozen(record))?;
        let pid = match (&record.init, status) {
            (None, _) | (_, Status::Stopped) => 0,
            (Some(init), _) => init.pid,
        };
        Ok(Self {
            oci_version: spec::VERSION,
            id: &record.id,
            pid,
            status,
            bundle: &record.bundle,
            rootfs: &record.rootfs,
            created: &record.created,
            annotations: &record.annotations,
            owner: user_name(record.owner),
        })
    }
}

/// JSON for people, indented by two as runc's.
pub(super) fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map_err(|error| Error::new(Kind::System, format!("print as JSON: {error}")))
}

/// The name of a user in the host's passwd(5), else the number. Read by hand:
/// the C library's look-up would load plugins into a static program.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    name_in(&passwd, uid).unwrap_or_else(|| format!("#{uid}"))
}

/// The name with this uid in the text of a passwd(5).
fn name_in(passwd: &[u8], uid: u32) -> Option<String> {
    let uid = uid.to_string();
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.as_bytes()).then(|| String::from_utf8_lossy(name).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_passwd() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\n\nbad\nme:x:1000:100::/home:/bin/sh";
        for (uid, name) in [(0, Some("root")), (1000, Some("me")), (100, None)] {
            assert_eq!(name_in(passwd, uid).as_deref(), name, "{uid}");
        }
    }
}
