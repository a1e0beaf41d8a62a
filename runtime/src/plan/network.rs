//! Network devices that move from the host into the container
//! (config-linux.md, "Network devices").

use std::ffi::CString;

use super::namespaces::Namespaces;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::spec::{self, NamespaceType};

/// A device to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevice {
    /// Its name on the host.
    pub host: CString,
    /// Its name in the container.
    pub name: CString,
    /// Whether the kernel makes a number of the name's `%d`.
    pub template: bool,
}

/// Decides about `linux.netDevices`.
///
/// # Errors
/// A network namespace that is the host's, names that the kernel does not take or
/// that would be given twice, and a runtime without root's rights.
pub fn net_devices(
    linux: &spec::Linux,
    namespaces: &Namespaces,
    host: &Host,
) -> Result<Vec<NetDevice>> {
    let mut devices: Vec<NetDevice> = Vec::with_capacity(linux.net_devices.len());
    if linux.net_devices.is_empty() {
        return Ok(devices);
    }
    let error = |cause: &str| Error::config("linux.netDevices", cause);
    if !namespaces.contains(NamespaceType::Network) {
        return Err(error(
            "unable to move network devices without a NET namespace",
        ));
    }
    if host.rootless {
        return Err(
            error("network devices can't be moved without root's rights")
                .with_kind(Kind::Unsupported),
        );
    }
    for (host, device) in &linux.net_devices {
        let field = format!("linux.netDevices[{host:?}]");
        let asked = device.name.as_ref().filter(|name| !name.is_empty());
        let name = asked.unwrap_or(host);
        let template = asked.is_some() && name.contains("%d");
        let device = NetDevice {
            host: checked(host, false).map_err(|cause| Error::config(&field, cause))?,
            name: checked(name, template)
                .map_err(|cause| Error::config(format_args!("{field}.name"), cause))?,
            template,
        };
        let twice = |known: &NetDevice| known.name == device.name && !template;
        if devices.iter().any(twice) {
            let cause = format!("{name:?} is the name of another device, too");
            return Err(Error::config(format_args!("{field}.name"), cause));
        }
        devices.push(device);
    }
    Ok(devices)
}

/// A name as the kernel takes it (`dev_valid_name`), with one `%d` in a template.
fn checked(name: &str, template: bool) -> Result<CString, String> {
    let fixed = if template {
        name.replacen("%d", "0", 1)
    } else {
        name.to_owned()
    };
    // IFNAMSIZ with its NUL.
    let valid = (1..16).contains(&name.len())
        && !matches!(name, "." | "..")
        && !fixed.contains(['/', ':', '%', '\0'])
        && !fixed.contains(char::is_whitespace);
    match CString::new(name) {
        Ok(checked) if valid => Ok(checked),
        _ => Err(format!("{name:?} is no name of a network device")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_their_names() {
        for (devices, expected) in [
            ("{}", Ok("")),
            (r#"{"eth0":{}}"#, Ok("eth0>eth0")),
            (r#"{"eth0":{"name":""}}"#, Ok("eth0>eth0")),
            (
                r#"{"eth0":{"name":"ctr"},"eth1":{}}"#,
                Ok("eth0>ctr eth1>eth1"),
            ),
            (
                r#"{"a":{"name":"e%d"},"b":{"name":"e%d"}}"#,
                Ok("a>e%d* b>e%d*"),
            ),
            (
                r#"{"a":{"name":"x"},"b":{"name":"x"}}"#,
                Err("[\"b\"].name: \"x\" is the name of another device, too"),
            ),
            (
                r#"{"eth%d":{}}"#,
                Err("[\"eth%d\"]: \"eth%d\" is no name of a network device"),
            ),
            (
                r#"{"a":{"name":"e%d%d"}}"#,
                Err("[\"a\"].name: \"e%d%d\" is no name of a network device"),
            ),
            (
                r#"{"a":{"name":"0123456789abcdef"}}"#,
                Err("[\"a\"].name: \"0123456789abcdef\" is no name of a network device"),
            ),
            (
                r#"{"a":{"name":"a/b"}}"#,
                Err("[\"a\"].name: \"a/b\" is no name of a network device"),
            ),
            (
                r#"{"":{}}"#,
                Err("[\"\"]: \"\" is no name of a network device"),
            ),
            (
                r#"{"..":{}}"#,
                Err("[\"..\"]: \"..\" is no name of a network device"),
            ),
        ] {
            let json = format!(r#"{{"netDevices":{devices},"namespaces":[{{"type":"network"}}]}}"#);
            let planned = plan(&json, &Host::default());
            let planned = planned.map(|devices| {
                let words = devices.iter().map(|device| {
                    let (host, name) = (device.host.to_str(), device.name.to_str());
                    let mark = if device.template { "*" } else { "" };
                    format!("{}>{}{mark}", host.unwrap(), name.unwrap())
                });
                words.collect::<Vec<_>>().join(" ")
            });
            let expected = expected
                .map(str::to_owned)
                .map_err(|text| format!("config.json: linux.netDevices{text}"));
            assert_eq!(planned, expected, "{devices}");
        }
    }

    #[test]
    fn only_root_moves_devices_and_only_into_a_namespace() {
        let error = plan(r#"{"netDevices":{"a":{}}}"#, &Host::default()).unwrap_err();
        assert_eq!(
            error,
            "config.json: linux.netDevices: unable to move network devices without a NET namespace"
        );
        let rootless = Host {
            rootless: true,
            ..Host::default()
        };
        let json = r#"{"netDevices":{"a":{}},"namespaces":[{"type":"network"}]}"#;
        assert_eq!(
            plan(json, &rootless).unwrap_err(),
            "config.json: linux.netDevices: network devices can't be moved without root's rights"
        );
    }

    fn plan(json: &str, host: &Host) -> Result<Vec<NetDevice>, String> {
        let linux: spec::Linux = serde_json::from_str(json).unwrap();
        let namespaces = Namespaces::plan(&linux).map_err(|error| error.to_string())?;
        net_devices(&linux, &namespaces, host).map_err(|error| error.to_string())
    }
}
