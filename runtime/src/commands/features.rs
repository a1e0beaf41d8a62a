//! `rrun features`: what this program can do, whatever the host can, but for the
//! flags of seccomp that this kernel has (runtime-spec, features.md). Engines read it before they write a
//! config.json, so a thing is named here only when it works.

use serde::Serialize;
use serde_json::{Value, json};

use super::print;
use crate::error::{Error, Kind, Result};
use crate::plan::{capabilities, mount_options, scheduling};
use crate::seccomp::Arch;
use crate::spec;
use crate::spec::fields;
use crate::sys;

/// Prints the features.
///
/// # Errors
/// Those of writing to stdout.
pub fn execute() -> Result<()> {
    print(&text(&features())?)
}

/// JSON for people, indented by four as runc's.
fn text(features: &impl Serialize) -> Result<String> {
    let mut bytes = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, indent);
    features
        .serialize(&mut serializer)
        .map_err(|error| Error::new(Kind::System, format!("print as JSON: {error}")))?;
    bytes.push(b'\n');
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The document, with the fields in the specification's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Features {
    oci_version_min: &'static str,
    oci_version_max: &'static str,
    hooks: &'static [&'static str],
    mount_options: Vec<&'static str>,
    linux: Linux,
    annotations: Value,
    potentially_unsafe_config_annotations: Vec<&'static str>,
}

/// The part that only Linux has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    namespaces: [&'static str; 8],
    capabilities: &'static [&'static str],
    cgroup: Value,
    seccomp: Seccomp,
    apparmor: Value,
    selinux: Value,
    intel_rdt: Value,
    mount_extensions: Value,
    memory_policy: Value,
    net_devices: Value,
}

/// `linux.seccomp`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seccomp {
    enabled: bool,
    actions: &'static [&'static str],
    operators: &'static [&'static str],
    /// Those with a table of system calls.
    archs: Vec<&'static str>,
    known_flags: Vec<&'static str>,
    supported_flags: Vec<&'static str>,
}

fn features() -> Features {
    let mut mount_options: Vec<&str> = mount_options::names().collect();
    mount_options.sort_unstable();
    Features {
        oci_version_min: "1.0.0",
        oci_version_max: spec::VERSION,
        hooks: &HOOKS,
        mount_options,
        linux: Linux {
            namespaces: NAMESPACES,
            capabilities: capabilities::names(),
            cgroup: json!({
                "v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": fields::handles("linux.resources.rdma"),
            }),
            seccomp: Seccomp {
                enabled: fields::handles("linux.seccomp"),
                actions: &ACTIONS,
                operators: &OPERATORS,
                archs: Arch::ALL.map(Arch::name).to_vec(),
                known_flags: flags_without(0),
                supported_flags: flags_without(sys::seccomp::missing_flags()),
            },
            apparmor: enabled("process.apparmorProfile"),
            selinux: enabled("process.selinuxLabel"),
            intel_rdt: json!({
                "enabled": fields::handles("linux.intelRdt"),
                "schemata": fields::handles("linux.intelRdt.schemata"),
                "monitoring": fields::handles("linux.intelRdt.enableMonitoring"),
            }),
            mount_extensions: json!({ "idmap": enabled("mounts[].uidMappings") }),
            memory_policy: json!({
                "modes": words(&scheduling::MEMORY_MODES),
                "flags": words(&scheduling::MEMORY_FLAGS),
            }),
            net_devices: enabled("linux.netDevices"),
        },
        annotations: json!({
            "org.rrun.version": env!("CARGO_PKG_VERSION"),
            "org.rrun.commit": env!("RRUN_COMMIT"),
            // runc's word for it, which crun uses too.
            "org.opencontainers.runc.checkpoint.enabled": "true",
        }),
        potentially_unsafe_config_annotations: unsafe_annotations(),
    }
}

/// The annotations that change what is done; of a family the prefix, as
/// features.md wants it.
fn unsafe_annotations() -> Vec<&'static str> {
    let handled = fields::ANNOTATIONS.iter().filter(|row| row.is_handled());
    handled.map(|row| row.path.trim_end_matches('*')).collect()
}

/// Whether the table of fields has this path as handled.
fn enabled(path: &str) -> Value {
    json!({ "enabled": fields::handles(path) })
}

/// The words of a table.
fn words<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
    table.iter().map(|(word, _)| *word).collect()
}

/// The hooks, in the order in which they run.
const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

const NAMESPACES: [&str; 8] = [
    "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
];

const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// The flags of a profile, each with its bit of seccomp(2). Of the first the
/// filter has no need.
const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_LOG", 1 << 1),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", 1 << 2),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", 1 << 5),
];

/// The flags but for those that the kernel does not know.
fn flags_without(missing: u32) -> Vec<&'static str> {
    let known = FLAGS.iter().filter(|(_, bit)| bit & missing == 0);
    known.map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp;

    #[test]
    fn the_document_has_the_shape_of_the_specification() {
        // The specification's types, by a crate of its own.
        let text = text(&features()).unwrap();
        let read: oci_spec::runtime::Features = serde_json::from_str(&text).unwrap();
        assert_eq!(read.oci_version_min(), "1.0.0");
        assert_eq!(read.oci_version_max(), "1.3.0");
        let linux = read.linux().as_ref().unwrap();
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 8);
        assert_eq!(linux.capabilities().as_ref().unwrap().len(), 41);
    }

    #[test]
    fn flags_that_the_kernel_lacks_are_known_and_not_supported() {
        let supported = flags_without(1 << 5 | 1 << 3);
        assert_eq!(supported.len(), 3);
        assert!(!supported.contains(&"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"));
        assert_eq!(flags_without(0).len(), FLAGS.len());
    }

    #[test]
    fn every_namespace_is_one_that_config_json_may_name() {
        for name in NAMESPACES {
            let json = format!(r#"{{"linux":{{"namespaces":[{{"type":"{name}"}}]}}}}"#);
            assert!(spec::Spec::parse(json.as_bytes()).is_ok(), "{name}");
        }
    }

    #[test]
    fn every_word_of_seccomp_is_one_that_the_compiler_takes() {
        let compile = |json: &str| {
            let profile: spec::Seccomp = serde_json::from_str(json).unwrap();
            seccomp::compile(&profile, Arch::X86_64, &seccomp::Support::default())
        };
        let rule = |action: &str, args: &str, flags: &str, arch: &str| {
            format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/l","flags":[{flags}],"architectures":[{arch}],
                "syscalls":[{{"names":["getpid"],"action":"{action}","args":[{args}]}}]}}"#
            )
        };
        for action in ACTIONS {
            assert!(compile(&rule(action, "", "", "")).is_ok(), "{action}");
        }
        for operator in OPERATORS {
            let args = format!(r#"{{"index":0,"value":1,"op":"{operator}"}}"#);
            assert!(
                compile(&rule("SCMP_ACT_ERRNO", &args, "", "")).is_ok(),
                "{operator}"
            );
        }
        for (flag, _) in FLAGS {
            let flag = format!("{flag:?}");
            assert!(
                compile(&rule("SCMP_ACT_NOTIFY", "", &flag, "")).is_ok(),
                "{flag}"
            );
        }
        for arch in Arch::ALL.map(Arch::name) {
            let arch = format!("{arch:?}");
            assert!(
                compile(&rule("SCMP_ACT_ERRNO", "", "", &arch)).is_ok(),
                "{arch}"
            );
        }
        assert!(compile(&rule("SCMP_ACT_NOPE", "", "", "")).is_err());
    }
}
