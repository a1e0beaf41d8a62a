//! What becomes of each field of config.json.
//!
//! The one table of it: the plan takes its reasons from here, `rrun features` its
//! answers, `rrun plan` its report, and `docs/fields.md` is written from it.
//! A path has `[]` for any item of an array and `*` for any key of a map.

use std::fmt::Write as _;

use serde_json::Value;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// It is carried out, or is an error if that can't be done.
    Handled,
    /// Carried out with cgroup v1; with cgroup v2 ignored, with a warning.
    OnV1,
    /// Carried out with cgroup v2; with cgroup v1 an error.
    OnV2,
    /// An error, because of this.
    Refused(&'static str),
    /// Ignored, because of this. `create` warns where somebody could miss it.
    Ignored(&'static str),
}

/// A field, or an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its path in config.json, or its name.
    pub path: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
}

/// Why cgroup v2 leaves a field out.
const NOT_IN_V2: &str = "cgroup v2 has nothing like it";

impl Field {
    /// Whether `create` does, somewhere, what the field says.
    #[must_use]
    pub fn is_handled(&self) -> bool {
        use Treatment::{Handled, OnV1, OnV2};
        matches!(self.treatment, Handled | OnV1 | OnV2)
    }

    /// Why the field is not carried out, at least not always.
    #[must_use]
    pub fn why(&self) -> &'static str {
        match self.treatment {
            Treatment::Handled => "",
            Treatment::OnV1 => NOT_IN_V2,
            Treatment::OnV2 => "cgroup v1 has nothing like it",
            Treatment::Refused(why) | Treatment::Ignored(why) => why,
        }
    }
}

const fn row(path: &'static str, treatment: Treatment) -> Field {
    Field { path, treatment }
}

const fn handled(path: &'static str) -> Field {
    row(path, Treatment::Handled)
}

const fn on_v1(path: &'static str) -> Field {
    row(path, Treatment::OnV1)
}

const fn on_v2(path: &'static str) -> Field {
    row(path, Treatment::OnV2)
}

const fn refused(path: &'static str, why: &'static str) -> Field {
    row(path, Treatment::Refused(why))
}

const fn ignored(path: &'static str, why: &'static str) -> Field {
    row(path, Treatment::Ignored(why))
}

/// The field of this path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.path == path)
}

/// The row of this annotation.
#[must_use]
pub fn annotation(key: &str) -> Option<&'static Field> {
    ANNOTATIONS
        .iter()
        .find(|row| match row.path.strip_suffix('*') {
            Some(prefix) => key.starts_with(prefix),
            None => row.path == key,
        })
}

/// Whether `create` does what every field at or below this path says.
#[must_use]
pub fn handles(path: &str) -> bool {
    let mut below = FIELDS.iter().filter(|field| is_below(field.path, path));
    let known = below.clone().next().is_some();
    known && below.all(Field::is_handled)
}

/// Why the field at this path, or those below it, are not carried out.
#[must_use]
pub fn why(path: &str) -> &'static str {
    let mut below = FIELDS.iter().filter(|field| is_below(field.path, path));
    below.next().map_or("", Field::why)
}

/// Whether `path` is `top` or a part of it.
fn is_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// A field that a document has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<'document> {
    /// Its path, with the numbers and keys of this document.
    pub path: String,
    /// Its row.
    pub field: &'static Field,
    /// What it says.
    pub value: &'document Value,
}

/// What a document has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found<'document> {
    /// The fields of the table.
    pub asked: Vec<Asked<'document>>,
    /// The paths of what the specification does not know.
    pub unknown: Vec<String>,
}

/// What `document` has, which is the part of a config.json at the path `top`
/// (empty for all of it), in its order.
#[must_use]
pub fn of<'document>(document: &'document Value, top: &str) -> Found<'document> {
    let mut found = Found::default();
    walk(document, top, "", &mut found);
    found
}

/// `row` is the path in the table's words, `path` in the document's.
fn walk<'document>(value: &'document Value, row: &str, path: &str, found: &mut Found<'document>) {
    if value.is_null() {
        return;
    }
    if let Some(field) = find(row) {
        let path = path.to_owned();
        found.asked.push(Asked { path, field, value });
        return;
    }
    match value {
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                walk(item, &format!("{row}[]"), &format!("{path}[{at}]"), found);
            }
        }
        Value::Object(members) => {
            for (key, value) in members {
                let dot = if row.is_empty() { "" } else { "." };
                let named = format!("{row}{dot}{key}");
                let any = format!("{row}{dot}*");
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                let knows = |row: &str| FIELDS.iter().any(|field| is_below(field.path, row));
                match [named, any].into_iter().find(|row| knows(row)) {
                    Some(row) => walk(value, &row, &path, found),
                    None => found.unknown.push(path),
                }
            }
        }
        _ => {}
    }
}

/// `docs/fields.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = format!(
        "<!-- Written from runtime/src/spec/fields.rs by: UPDATE=1 cargo test -p rrun --test fields -->\n\
         # Fields of config.json\n\n\
         What rrun does with each field of runtime-spec {} and with annotations.\n\n\
         * **handled**: carried out; what can't be carried out on a host is an error that names the\n  \
           field.\n\
         * **cgroup v1**: carried out with cgroup v1; with cgroup v2, which has nothing like it, ignored\n  \
           with a warning.\n\
         * **cgroup v2**: carried out with cgroup v2; an error with cgroup v1.\n\
         * **refused**: an error, because the container would run without what was asked for.\n\
         * **ignored**: left out.\n\n\
         `[]` stands for any item, `*` for any key. What the specification does not know is ignored and\n\
         shown by `rrun plan`, which also tells which fields of a bundle are ignored or refused.\n\n",
        crate::spec::VERSION
    );
    table(&mut text, "Field", FIELDS);
    text.push_str(
        "\n## Annotations\n\nThose of runc and of crun; all others are passed on in the state.\n\n",
    );
    table(&mut text, "Annotation", ANNOTATIONS);
    text.push_str(NOTES);
    text
}

fn table(text: &mut String, title: &str, fields: &[Field]) {
    let _ = writeln!(text, "| {title} | | |\n|---|---|---|");
    for field in fields {
        let (word, why) = match field.treatment {
            Treatment::Handled => ("handled", ""),
            Treatment::OnV1 => ("cgroup v1", ""),
            Treatment::OnV2 => ("cgroup v2", ""),
            Treatment::Refused(why) => ("refused", why),
            Treatment::Ignored(why) => ("ignored", why),
        };
        let _ = writeln!(text, "| `{}` | {word} | {why} |", field.path);
    }
}

/// What the tables can't say.
const NOTES: &str = "
## Notes

* `process.selinuxLabel`, `linux.mountLabel`: refused on a host without SELinux, as by runc. With it
  the label goes to `attr/exec` and `attr/keycreate`, and as `context=` to every filesystem but
  proc, sysfs, mqueue and cgroups. No kernel with SELinux was at hand: what is written is tested,
  what SELinux then does is not.
* `process.scheduler`, `process.ioPriority`: by the process itself while it has its rights; by the
  runtime, with the host's rights, in a container with a user namespace.
* `process.execCPUAffinity`: for `exec` alone. Without it a process may run on all CPUs of the
  container's cpuset, whatever the engine was bound to.
* `linux.netDevices`: permanent addresses that are valid everywhere are kept, routes are not.
* `linux.intelRdt`: a class without `closID` has the container's id; it is removed with the
  container if it was made for it. One that `closID` names is never removed; if it is there,
  `l3CacheSchema` and `memBwSchema` must be what it has (only the domains that they name, a
  bandwidth rounded up as the kernel does), and `schemata` is written. Each of the three is a write
  of its own, so a later one may replace what an earlier one says. A monitoring group must be new.
  No processor with RDT was at hand: all of it was tried on a stand-in for resctrl, in FUSE, that
  behaves as the kernel's documentation says.
* `linux.seccomp.architectures[]`: there are tables for x86_64, x86, x32, aarch64 and arm. Programs of
  any other are killed, with a warning. arm's own calls (`set_tls` and others, from 0xf0000 on) are
  never newer than a profile: those that it doesn't name get its default action.
* `linux.resources.pids.limit`: 0 is a limit where `ociVersion` is 1.3.0 or newer, and there written as
  1, since the container's process is to fit. Before that it says nothing, as under runc.
* `run.oci.keep_original_groups`: only where rrun has not the rights of root of the host.
* `run.oci.hooks.stdout`, `run.oci.hooks.stderr`: regular files, or none yet.
* `run.oci.systemd.subgroup`: with `--systemd-cgroup` the container's own cgroup, with its limits, is
  this path below its scope, also with cgroup v1; otherwise ignored with a warning. Without it the
  scope itself is the container's, as under runc (and under crun since it gave up `container`).
* `run.oci.delegate-cgroup`: the container's processes are in this path below its own cgroup, which
  belongs to the container's root (in a container that mounts its cgroup to write in it, to the
  process's user), and which a new cgroup namespace begins at: the limits lie above, out of reach.
  `exec` joins it, and `exec --cgroup` goes below it; `update`, `pause`, `ps`, `events` and `delete`
  go on looking at the container's own. Under crun the namespace begins one step above, at the
  container's own cgroup. Refused with cgroup v1, as by crun, and without a cgroup. The shim counts
  where the processes are: its metrics have all that is used, and not the limits.
* `linux.resources.memory.kernelTCP`: where the kernel still has `memory.kmem.tcp.limit_in_bytes`.
* `linux.resources.hugepageLimits`: the reservation (`rsvd`) is limited too, where the kernel can.
";

/// The annotations that runc and crun look at; one that ends with `*` is a prefix.
pub const ANNOTATIONS: &[Field] = &[
    handled("org.systemd.property.*"),
    handled("org.criu.config"),
    handled("run.oci.hooks.stdout"),
    handled("run.oci.hooks.stderr"),
    handled("run.oci.keep_original_groups"),
    handled("run.oci.mount_context_type"),
    handled("run.oci.pidfd_receiver"),
    handled("run.oci.seccomp.receiver"),
    handled("run.oci.seccomp_fail_unknown_syscall"),
    handled("run.oci.systemd.subgroup"),
    on_v2("run.oci.delegate-cgroup"),
    refused(
        "run.oci.handler",
        "rrun runs programs of the host's kernel alone",
    ),
    refused(
        "run.oci.seccomp_bpf_data",
        "a filter is made from linux.seccomp alone",
    ),
    refused(
        "run.oci.seccomp.plugins",
        "rrun loads no shared objects; run.oci.seccomp.receiver names an agent",
    ),
    ignored(
        "run.oci.systemd.force_cgroup_v1",
        "a container gets the host's cgroup hierarchies",
    ),
    ignored(
        "run.oci.timens_offset",
        "linux.timeOffsets is the field for it",
    ),
];

/// Every field of config.json.
pub const FIELDS: &[Field] = &[
    handled("ociVersion"),
    handled("process.terminal"),
    handled("process.consoleSize.height"),
    handled("process.consoleSize.width"),
    handled("process.user.uid"),
    handled("process.user.gid"),
    handled("process.user.umask"),
    handled("process.user.additionalGids[]"),
    ignored("process.user.username", "of Windows"),
    handled("process.args[]"),
    ignored("process.commandLine", "of Windows"),
    handled("process.env[]"),
    handled("process.cwd"),
    handled("process.capabilities.bounding[]"),
    handled("process.capabilities.effective[]"),
    handled("process.capabilities.inheritable[]"),
    handled("process.capabilities.permitted[]"),
    handled("process.capabilities.ambient[]"),
    handled("process.rlimits[].type"),
    handled("process.rlimits[].soft"),
    handled("process.rlimits[].hard"),
    handled("process.noNewPrivileges"),
    handled("process.apparmorProfile"),
    handled("process.oomScoreAdj"),
    handled("process.selinuxLabel"),
    handled("process.scheduler.policy"),
    handled("process.scheduler.nice"),
    handled("process.scheduler.priority"),
    handled("process.scheduler.flags[]"),
    handled("process.scheduler.runtime"),
    handled("process.scheduler.deadline"),
    handled("process.scheduler.period"),
    handled("process.ioPriority.class"),
    handled("process.ioPriority.priority"),
    handled("process.execCPUAffinity.initial"),
    handled("process.execCPUAffinity.final"),
    handled("root.path"),
    handled("root.readonly"),
    handled("hostname"),
    handled("domainname"),
    handled("mounts[].destination"),
    handled("mounts[].type"),
    handled("mounts[].source"),
    handled("mounts[].options[]"),
    handled("mounts[].uidMappings[].containerID"),
    handled("mounts[].uidMappings[].hostID"),
    handled("mounts[].uidMappings[].size"),
    handled("mounts[].gidMappings[].containerID"),
    handled("mounts[].gidMappings[].hostID"),
    handled("mounts[].gidMappings[].size"),
    handled("hooks.prestart[].path"),
    handled("hooks.prestart[].args[]"),
    handled("hooks.prestart[].env[]"),
    handled("hooks.prestart[].timeout"),
    handled("hooks.createRuntime[].path"),
    handled("hooks.createRuntime[].args[]"),
    handled("hooks.createRuntime[].env[]"),
    handled("hooks.createRuntime[].timeout"),
    handled("hooks.createContainer[].path"),
    handled("hooks.createContainer[].args[]"),
    handled("hooks.createContainer[].env[]"),
    handled("hooks.createContainer[].timeout"),
    handled("hooks.startContainer[].path"),
    handled("hooks.startContainer[].args[]"),
    handled("hooks.startContainer[].env[]"),
    handled("hooks.startContainer[].timeout"),
    handled("hooks.poststart[].path"),
    handled("hooks.poststart[].args[]"),
    handled("hooks.poststart[].env[]"),
    handled("hooks.poststart[].timeout"),
    handled("hooks.poststop[].path"),
    handled("hooks.poststop[].args[]"),
    handled("hooks.poststop[].env[]"),
    handled("hooks.poststop[].timeout"),
    handled("annotations.*"),
    handled("linux.uidMappings[].containerID"),
    handled("linux.uidMappings[].hostID"),
    handled("linux.uidMappings[].size"),
    handled("linux.gidMappings[].containerID"),
    handled("linux.gidMappings[].hostID"),
    handled("linux.gidMappings[].size"),
    handled("linux.sysctl.*"),
    handled("linux.resources.devices[].allow"),
    handled("linux.resources.devices[].type"),
    handled("linux.resources.devices[].major"),
    handled("linux.resources.devices[].minor"),
    handled("linux.resources.devices[].access"),
    handled("linux.resources.memory.limit"),
    handled("linux.resources.memory.reservation"),
    handled("linux.resources.memory.swap"),
    ignored(
        "linux.resources.memory.kernel",
        "the kernel has no limit for it any more",
    ),
    on_v1("linux.resources.memory.kernelTCP"),
    on_v1("linux.resources.memory.swappiness"),
    on_v1("linux.resources.memory.disableOOMKiller"),
    ignored(
        "linux.resources.memory.useHierarchy",
        "memory is always counted hierarchically",
    ),
    handled("linux.resources.memory.checkBeforeUpdate"),
    handled("linux.resources.cpu.shares"),
    handled("linux.resources.cpu.quota"),
    handled("linux.resources.cpu.burst"),
    handled("linux.resources.cpu.period"),
    on_v1("linux.resources.cpu.realtimeRuntime"),
    on_v1("linux.resources.cpu.realtimePeriod"),
    handled("linux.resources.cpu.cpus"),
    handled("linux.resources.cpu.mems"),
    handled("linux.resources.cpu.idle"),
    handled("linux.resources.pids.limit"),
    handled("linux.resources.blockIO.weight"),
    on_v1("linux.resources.blockIO.leafWeight"),
    handled("linux.resources.blockIO.weightDevice[].major"),
    handled("linux.resources.blockIO.weightDevice[].minor"),
    handled("linux.resources.blockIO.weightDevice[].weight"),
    on_v1("linux.resources.blockIO.weightDevice[].leafWeight"),
    handled("linux.resources.blockIO.throttleReadBpsDevice[].major"),
    handled("linux.resources.blockIO.throttleReadBpsDevice[].minor"),
    handled("linux.resources.blockIO.throttleReadBpsDevice[].rate"),
    handled("linux.resources.blockIO.throttleWriteBpsDevice[].major"),
    handled("linux.resources.blockIO.throttleWriteBpsDevice[].minor"),
    handled("linux.resources.blockIO.throttleWriteBpsDevice[].rate"),
    handled("linux.resources.blockIO.throttleReadIOPSDevice[].major"),
    handled("linux.resources.blockIO.throttleReadIOPSDevice[].minor"),
    handled("linux.resources.blockIO.throttleReadIOPSDevice[].rate"),
    handled("linux.resources.blockIO.throttleWriteIOPSDevice[].major"),
    handled("linux.resources.blockIO.throttleWriteIOPSDevice[].minor"),
    handled("linux.resources.blockIO.throttleWriteIOPSDevice[].rate"),
    handled("linux.resources.hugepageLimits[].pageSize"),
    handled("linux.resources.hugepageLimits[].limit"),
    on_v1("linux.resources.network.classID"),
    on_v1("linux.resources.network.priorities[].name"),
    on_v1("linux.resources.network.priorities[].priority"),
    handled("linux.resources.rdma.*.hcaHandles"),
    handled("linux.resources.rdma.*.hcaObjects"),
    on_v2("linux.resources.unified.*"),
    handled("linux.cgroupsPath"),
    handled("linux.namespaces[].type"),
    handled("linux.namespaces[].path"),
    handled("linux.devices[].type"),
    handled("linux.devices[].path"),
    handled("linux.devices[].major"),
    handled("linux.devices[].minor"),
    handled("linux.devices[].fileMode"),
    handled("linux.devices[].uid"),
    handled("linux.devices[].gid"),
    handled("linux.netDevices.*.name"),
    handled("linux.seccomp.defaultAction"),
    handled("linux.seccomp.defaultErrnoRet"),
    handled("linux.seccomp.architectures[]"),
    handled("linux.seccomp.flags[]"),
    handled("linux.seccomp.listenerPath"),
    handled("linux.seccomp.listenerMetadata"),
    handled("linux.seccomp.syscalls[].names[]"),
    handled("linux.seccomp.syscalls[].action"),
    handled("linux.seccomp.syscalls[].errnoRet"),
    handled("linux.seccomp.syscalls[].args[].index"),
    handled("linux.seccomp.syscalls[].args[].value"),
    handled("linux.seccomp.syscalls[].args[].valueTwo"),
    handled("linux.seccomp.syscalls[].args[].op"),
    handled("linux.rootfsPropagation"),
    handled("linux.maskedPaths[]"),
    handled("linux.readonlyPaths[]"),
    handled("linux.mountLabel"),
    handled("linux.intelRdt.closID"),
    handled("linux.intelRdt.schemata[]"),
    handled("linux.intelRdt.l3CacheSchema"),
    handled("linux.intelRdt.memBwSchema"),
    handled("linux.intelRdt.enableMonitoring"),
    handled("linux.memoryPolicy.mode"),
    handled("linux.memoryPolicy.nodes"),
    handled("linux.memoryPolicy.flags[]"),
    handled("linux.personality.domain"),
    refused("linux.personality.flags[]", "no flags are defined"),
    handled("linux.timeOffsets.*.secs"),
    handled("linux.timeOffsets.*.nanosecs"),
    ignored("freebsd", "of another platform"),
    ignored("solaris", "of another platform"),
    ignored("vm", "of another platform"),
    ignored("windows", "of another platform"),
    ignored("zos", "of another platform"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_document_are_found() {
        let document = serde_json::json!({
            "ociVersion": "1.3.0",
            "windows": { "anything": [1] },
            "process": { "args": ["a"], "rlimits": null, "commandLine": "x", "strange": 1 },
            "linux": {
                "sysctl": { "a.b": "1" },
                "timeOffsets": { "boottime": { "secs": 1 } },
                "resources": { "memory": { "kernel": 1 } },
                "personality": { "domain": "LINUX", "flags": ["x"] },
            },
        });
        let found = of(&document, "");
        assert_eq!(found.unknown, ["process.strange"]);
        let mut found: Vec<(String, &str)> = found
            .asked
            .into_iter()
            .map(|asked| (asked.path, asked.field.path))
            .collect();
        found.sort();
        let expected = [
            ("linux.personality.domain", "linux.personality.domain"),
            ("linux.personality.flags[0]", "linux.personality.flags[]"),
            (
                "linux.resources.memory.kernel",
                "linux.resources.memory.kernel",
            ),
            ("linux.sysctl.a.b", "linux.sysctl.*"),
            (
                "linux.timeOffsets.boottime.secs",
                "linux.timeOffsets.*.secs",
            ),
            ("ociVersion", "ociVersion"),
            ("process.args[0]", "process.args[]"),
            ("process.commandLine", "process.commandLine"),
            ("windows", "windows"),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(path, row)| (path.to_owned(), row))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn whole_objects_are_handled_if_all_of_them_is() {
        for (path, expected) in [
            ("linux.netDevices", true),
            ("linux.seccomp", true),
            ("linux.personality", false),
            ("linux.nothing", false),
            ("linux.resources.network", true),
            ("windows", false),
        ] {
            assert_eq!(handles(path), expected, "{path}");
        }
        assert_eq!(
            why("linux.resources.network"),
            "cgroup v2 has nothing like it"
        );
    }

    #[test]
    fn every_reason_says_something_and_every_path_stands_once() {
        let all = || FIELDS.iter().chain(ANNOTATIONS);
        for field in all() {
            let same = all().filter(|other| other.path == field.path).count();
            assert_eq!(same, 1, "{}", field.path);
            assert_eq!(
                field.why().is_empty(),
                field.treatment == Treatment::Handled
            );
        }
    }
}
