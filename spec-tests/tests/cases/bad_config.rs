//! Bundles that can't be carried out: the text, the exit code and the log, and
//! nothing left behind (which the runner looks for).
//!
//! `runtime/tests/bad_config/` has the whole table; here is what goes through
//! the real program.

use std::ffi::CString;
use std::fs;

use serde_json::{Value, json};
use spec_tests::bundle::Bundle;
use spec_tests::case::{Case, Needs, Test};
use spec_tests::runtime::text;

/// What is changed in a good config.json, and why it is refused.
const CHANGES: &[(&str, &str, &str)] = &[
    (
        "/ociVersion",
        r#""9.0""#,
        r#"ociVersion: "9.0" is not a version like 1.3.0"#,
    ),
    ("/process", "null", "process: is missing"),
    ("/process/args", "[]", "process.args: must not be empty"),
    (
        "/process/args",
        r#"["a\u0000"]"#,
        "process.args[0]: must not have a NUL byte",
    ),
    (
        "/process/env",
        r#"["A"]"#,
        r#"process.env[0]: "A" has no "=""#,
    ),
    (
        "/process/env",
        r#"["A=\u0000"]"#,
        "process.env[0]: must not have a NUL byte",
    ),
    (
        "/process/cwd",
        r#""../tmp""#,
        r#"process.cwd: "../tmp" is not absolute"#,
    ),
    (
        "/process/user",
        r#"{"uid":4294967295}"#,
        "process.user.uid: 4294967295 is no valid id",
    ),
    (
        "/process/user",
        r#"{"umask":512}"#,
        "process.user.umask: 512 is above 511 (0777)",
    ),
    (
        "/process/rlimits",
        r#"[{"type":"RLIMIT_A"}]"#,
        r#"process.rlimits[0].type: "RLIMIT_A" is unknown"#,
    ),
    (
        "/process/scheduler",
        r#"{"policy":"A"}"#,
        r#"process.scheduler.policy: "A" is unknown"#,
    ),
    ("/root", "{}", "root.path: is empty"),
    (
        "/root",
        r#"{"path":"a\u0000"}"#,
        "root.path: must not have a NUL byte",
    ),
    (
        "/hostname",
        r#""a\u0000""#,
        "hostname: must not have a NUL byte",
    ),
    (
        "/hostname",
        r#""MEGABYTE""#,
        "hostname: 1000000 bytes are more than 64",
    ),
    (
        "/mounts",
        r#"[{"destination":"/a/../.."}]"#,
        "mounts[0].destination: mounting into / is prohibited",
    ),
    (
        "/mounts",
        r#"[{"destination":"/proc/self","type":"tmpfs"}]"#,
        r#"mounts[0].destination: "/proc/self" cannot be mounted because it is inside /proc"#,
    ),
    (
        "/hooks",
        r#"{"prestart":[{"path":"a"}]}"#,
        r#"hooks.prestart[0].path: "a" is not absolute"#,
    ),
    (
        "/hooks",
        r#"{"poststop":[{"path":"/a","timeout":0}]}"#,
        "hooks.poststop[0].timeout: 0 is not above 0",
    ),
    (
        "/linux/namespaces",
        r#"[{"type":"pid"},{"type":"pid"}]"#,
        "linux.namespaces[1].type: pid is listed twice",
    ),
    (
        "/linux/namespaces",
        r#"[{"type":"pid","path":"a"}]"#,
        r#"linux.namespaces[0].path: "a" is not absolute"#,
    ),
    (
        "/linux/maskedPaths",
        r#"["../a"]"#,
        r#"linux.maskedPaths[0]: "../a" is not absolute"#,
    ),
    (
        "/linux/sysctl",
        r#"{"kernel.panic":"1"}"#,
        r#"linux.sysctl["kernel.panic"]: belongs to no namespace: it would be the host's"#,
    ),
    (
        "/linux/devices",
        r#"[{"path":"/dev/../..","type":"c"}]"#,
        r#"linux.devices[0].path: "/dev/../.." is the root"#,
    ),
    (
        "/linux/cgroupsPath",
        r#""/..""#,
        r#"linux.cgroupsPath: "/.." names no cgroup of its own"#,
    ),
    (
        "/linux/resources",
        r#"{"devices":[{"access":"x"}]}"#,
        r#"linux.resources.devices[0].access: "x" has letters beside r, w and m"#,
    ),
    (
        "/linux/resources",
        r#"{"hugepageLimits":[{"pageSize":"../a","limit":1}]}"#,
        r#"linux.resources.hugepageLimits[0].pageSize: "../a" is no page size such as 2MB"#,
    ),
    (
        "/linux/seccomp",
        r#"{"defaultAction":"ALLOW"}"#,
        r#"linux.seccomp.defaultAction: "ALLOW" is not an action"#,
    ),
];

/// Whole documents.
const DOCUMENTS: &[(&[u8], &str)] = &[
    (b"", "is empty"),
    (
        b"\xef\xbb\xbf{}",
        "begins with a byte order mark, which JSON does not allow",
    ),
    (b"{", "EOF while parsing an object at line 1 column 1"),
    (b"[]", "is an array, not an object"),
    (
        b"{\"hostname\":\"\xff\"}",
        "hostname: invalid unicode code point at line 1 column 14",
    ),
    (
        b"{\"root\":{},\"root\":{}}",
        "root: duplicate field `root` at line 1 column 17",
    ),
    (
        b"{\"process\":{\"oomScoreAdj\":1e400}}",
        "process.oomScoreAdj: number out of range at line 1 column 31",
    ),
];

/// Limits that the kernel refuses: the resources, the field, and the end of what is
/// said of the file on v1 and on v2.
const OUT_OF_RANGE: &[(&str, &str, &str, &str)] = &[
    (
        r#"{"memory":{"limit":-2}}"#,
        "memory.limit",
        r#"/memory.limit_in_bytes", "-2"): invalid argument"#,
        r#"/memory.max", "-2"): invalid argument"#,
    ),
    (
        r#"{"pids":{"limit":4194306}}"#,
        "pids.limit",
        r#"/pids.max", "4194306"): invalid argument"#,
        r#"/pids.max", "4194306"): invalid argument"#,
    ),
    (
        r#"{"cpu":{"period":1}}"#,
        "cpu.period",
        r#"/cpu.cfs_period_us", "1"): invalid argument"#,
        r#"/cpu.max", "max 1"): invalid argument"#,
    ),
    (
        r#"{"cpu":{"period":1000001}}"#,
        "cpu.period",
        r#"/cpu.cfs_period_us", "1000001"): invalid argument"#,
        r#"/cpu.max", "max 1000001"): invalid argument"#,
    ),
    (
        r#"{"cpu":{"burst":18446744073709551615}}"#,
        "cpu.burst",
        r#"/cpu.cfs_burst_us", "18446744073709551615"): invalid argument"#,
        r#"/cpu.max.burst", "18446744073709551615"): invalid argument"#,
    ),
    (
        r#"{"cpu":{"idle":2}}"#,
        "cpu.idle",
        r#"/cpu.idle", "2"): invalid argument"#,
        r#"/cpu.idle", "2"): invalid argument"#,
    ),
    (
        r#"{"cpu":{"idle":-1}}"#,
        "cpu.idle",
        r#"/cpu.idle", "-1"): invalid argument"#,
        r#"/cpu.idle", "-1"): invalid argument"#,
    ),
    (
        r#"{"blockIO":{"weight":1001}}"#,
        "blockIO.weight",
        r#"weight", "1001"): "#,
        r#"weight", ""#,
    ),
];

/// Each of them is refused with its field, and nothing of it stays.
fn out_of_range(t: &Test) {
    for (resources, field, v1, v2) in OUT_OF_RANGE {
        let resources: Value = serde_json::from_str(resources).expect("JSON");
        let bundle = Bundle::new(t);
        let bundle = bundle.with(|config| config["linux"]["resources"] = resources);
        let begins = format!(
            "rrun: create {:?}: linux.resources.{field}: write(\"",
            bundle.id
        );
        let file = if t.view == "v2" { v2 } else { v1 };
        let create = ["create", "-b", text(&bundle.path), &bundle.id];
        let said = t.call(&create).fails(1, &[&begins, file]).stderr;
        assert_eq!(said.lines().count(), 1, "{said}");
        t.call(&["state", &bundle.id]).fails(1, &["does not exist"]);
        let left = spec_tests::leftovers::cgroups(&t.prefix);
        assert!(left.is_empty(), "{left:?} after {said}");
    }
}

const OWN_WORDS: &[(&str, &str)] = &[("runc", "words of its own"), ("crun", "words of its own")];

/// `create` fails with 1 and says exactly this, on stderr and in the log.
fn refused(t: &Test, bundle: &Bundle, cause: &str) {
    let log = t.directory.join("log.json");
    let flags = ["--log-format=json", "--log", text(&log)];
    let create = ["create", "-b", text(&bundle.path), &bundle.id];
    let outcome = t.call(&[&flags[..], &create[..]].concat());
    let message = format!("create {:?}: {cause}", bundle.id);
    assert_eq!(outcome.code, 1, "{cause}");
    assert_eq!(outcome.stderr, format!("rrun: {message}\n"));
    let logged = fs::read_to_string(&log).expect("the log");
    let entry: Value = serde_json::from_str(&logged).expect("exactly one JSON object");
    assert_eq!(entry["msg"], message);
    assert_eq!(entry["level"], "error");
    fs::remove_file(&log).expect("the log");
    t.call(&["state", &bundle.id]).fails(1, &["does not exist"]);
}

pub(crate) const CASES: &[Case] = &[
    Case::kernel("values that are wrong are refused with their field", |t| {
        let good = Bundle::new(t);
        for (field, json, cause) in CHANGES {
            let json = json.replace("MEGABYTE", &"a".repeat(1_000_000));
            let value: Value = serde_json::from_str(&json).expect("JSON");
            let bundle = good.clone().with(|config| {
                let (above, name) = field.rsplit_once('/').expect("a pointer");
                config.pointer_mut(above).expect("a field")[name] = value;
            });
            refused(t, &bundle, &format!("config.json: {cause}"));
        }
    })
    .except(OWN_WORDS),
    Case::kernel(
        "limits out of the kernel's range are refused with their field",
        out_of_range,
    )
    .needs(Needs::V1)
    .except(OWN_WORDS),
    Case::kernel(
        "limits out of the kernel's range are refused with their field, on v2",
        out_of_range,
    )
    .needs(Needs::V2Limits)
    .except(OWN_WORDS),
    Case::kernel("what is no JSON document is refused with its place", |t| {
        let bundle = Bundle::new(t);
        for (document, cause) in DOCUMENTS {
            fs::write(bundle.path.join("config.json"), document).expect("config.json");
            refused(t, &bundle, &format!("config.json: {cause}"));
        }
    })
    .except(OWN_WORDS),
    Case::kernel("a megabyte of a wrong type is not repeated", |t| {
        let bundle = Bundle::new(t);
        let bundle =
            bundle.with(|config| config["process"]["terminal"] = json!("a".repeat(1_000_000)));
        let create = ["create", "-b", text(&bundle.path), &bundle.id];
        let outcome = t.call(&create).fails(
            1,
            &[
                "config.json: process.terminal: invalid type: string \"aaa",
                " bytes ...]",
                "expected a boolean",
            ],
        );
        assert!(outcome.stderr.len() < 1000, "{}", outcome.stderr.len());
    })
    .except(OWN_WORDS),
    Case::kernel(
        "a config.json that is no file is refused and not waited for",
        |t| {
            let bundle = Bundle::new(t);
            let config = bundle.path.join("config.json");
            let cause = format!("{config:?} is not a regular file");
            fs::remove_file(&config).expect("config.json");
            fs::create_dir(&config).expect("a directory");
            refused(t, &bundle, &cause);
            fs::remove_dir(&config).expect("the directory");
            let path = CString::new(text(&config)).expect("no NUL");
            nix::unistd::mkfifo(path.as_c_str(), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
            refused(t, &bundle, &cause);
        },
    )
    .except(OWN_WORDS),
];
