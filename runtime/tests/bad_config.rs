//! Broken config.json documents and the exact text that refuses each: three
//! tables in `bad_config/`, written by hand from the specification.
//!
//! `fields.txt` has every field with its type, which is tried with every value
//! of another one; `values.txt` has values that are of the right type and
//! wrong; `documents.txt` has what is no JSON, or no such JSON.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::path::Path;

use rrun::cgroup::hierarchy::Hierarchies;
use rrun::host::Host;
use rrun::plan::cgroup::Manager;
use rrun::plan::{Plan, Request};
use rrun::spec::Spec;
use rrun::spec::fields::FIELDS;
use serde_json::{Value, json};

/// What refuses a document on a host with one kind of cgroups.
fn refused(document: &[u8], v2: bool) -> Result<(), String> {
    const V1: &str = "\
        31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
        33 30 0:29 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n";
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    let mut hierarchies = Hierarchies::parse(if v2 { V2 } else { V1 }, "0::/\n");
    let offered = ["cpu", "memory", "hugetlb"].map(str::to_owned);
    hierarchies.v2_controllers = offered.to_vec();
    let host = Host {
        permitted: u64::MAX,
        hierarchies,
        ..Host::default()
    };
    let request = Request {
        id: "bad",
        bundle: Path::new("/bundle"),
        no_pivot: false,
        no_new_keyring: false,
        manager: Manager::Cgroupfs,
        listen_fds: 0,
        notify: None,
    };
    let spec = Spec::parse(document).map_err(|error| error.to_string())?;
    Plan::new(&spec, &request, &host)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// A document that is carried out, for the changes.
fn valid() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "process": { "args": ["sh"], "cwd": "/", "user": { "uid": 0, "gid": 0 } },
        "root": { "path": "rootfs" },
        "hostname": "h",
        "linux": { "namespaces": [{ "type": "mount" }, { "type": "uts" }] }
    })
}

/// The place of `field`, such as `linux.devices[0].path`, made where it is
/// not there.
fn place<'a>(document: &'a mut Value, field: &str) -> &'a mut Value {
    let mut at = document;
    for part in field.split(['.', '[']) {
        at = match part.strip_suffix(']') {
            None => &mut at[part],
            Some(index) => {
                let index: usize = index.parse().unwrap();
                if at.is_null() {
                    *at = json!([]);
                }
                let list = at.as_array_mut().unwrap();
                list.resize(list.len().max(index + 1), json!({}));
                &mut list[index]
            }
        };
        if at.is_string() {
            *at = Value::Null;
        }
    }
    at
}

/// The cases of a table: the lines that are no comments.
fn lines(table: &str) -> impl Iterator<Item = &str> {
    table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The message without the place in the text, which `documents.txt` asserts.
fn without_place(message: &str) -> &str {
    message
        .rsplit_once(" at line ")
        .filter(|(_, place)| place.contains(" column "))
        .map_or(message, |(text, _)| text)
}

/// Prints what differs and fails once, with the number of cases.
fn report(table: &str, count: usize, at_least: usize, wrong: &[String]) {
    println!("{table}: {count} cases");
    assert!(wrong.is_empty(), "{table}:\n{}", wrong.join("\n"));
    assert!(count >= at_least, "{table}: only {count} cases");
}

#[test]
fn the_document_that_is_changed_is_carried_out() {
    let text = valid().to_string();
    for v2 in [false, true] {
        assert_eq!(refused(text.as_bytes(), v2), Ok(()), "v2: {v2}");
    }
}

const NO_NAMESPACE: &str = "unknown variant `net`, expected one of `pid`, `network`, \
    `mount`, `ipc`, `uts`, `user`, `cgroup`, `time`";

/// The values that are none of a type, and why: JSON and cause.
fn strangers(kind: &str) -> Vec<(&'static str, &'static str)> {
    match kind {
        "string" => vec![
            ("1", "invalid type: integer `1`, expected a string"),
            ("true", "invalid type: boolean `true`, expected a string"),
            ("[]", "invalid type: sequence, expected a string"),
            ("{}", "invalid type: map, expected a string"),
            (r#""\u0000""#, "must not have a NUL byte"),
        ],
        "namespace" => vec![
            ("1", "invalid type: integer `1`, expected a string"),
            ("[]", "invalid type: sequence, expected a string"),
            (r#""net""#, NO_NAMESPACE),
        ],
        "bool" => vec![
            ("1", "invalid type: integer `1`, expected a boolean"),
            (
                r#""true""#,
                r#"invalid type: string "true", expected a boolean"#,
            ),
            ("[]", "invalid type: sequence, expected a boolean"),
        ],
        "u16" => vec![
            ("-1", "invalid value: integer `-1`, expected u16"),
            ("65536", "invalid value: integer `65536`, expected u16"),
            (r#""1""#, r#"invalid type: string "1", expected u16"#),
        ],
        "u32" => vec![
            ("-1", "invalid value: integer `-1`, expected u32"),
            (
                "4294967296",
                "invalid value: integer `4294967296`, expected u32",
            ),
            ("1.5", "invalid type: floating point `1.5`, expected u32"),
            (r#""1""#, r#"invalid type: string "1", expected u32"#),
            ("1e400", "number out of range"),
        ],
        "u64" => vec![
            ("-1", "invalid value: integer `-1`, expected u64"),
            (
                "18446744073709551616",
                "invalid type: floating point `1.8446744073709552e+19`, expected u64",
            ),
            ("0.5", "invalid type: floating point `0.5`, expected u64"),
            (r#""1""#, r#"invalid type: string "1", expected u64"#),
        ],
        "i32" => vec![
            (
                "2147483648",
                "invalid value: integer `2147483648`, expected i32",
            ),
            (
                "-2147483649",
                "invalid value: integer `-2147483649`, expected i32",
            ),
            ("1.5", "invalid type: floating point `1.5`, expected i32"),
            ("[1]", "invalid type: sequence, expected i32"),
        ],
        "i64" => vec![
            (
                "9223372036854775808",
                "invalid value: integer `9223372036854775808`, expected i64",
            ),
            ("1e3", "invalid type: floating point `1000.0`, expected i64"),
            ("true", "invalid type: boolean `true`, expected i64"),
            (r#""1G""#, r#"invalid type: string "1G", expected i64"#),
        ],
        "array" => vec![
            ("{}", "invalid type: map, expected a sequence"),
            (r#""a""#, r#"invalid type: string "a", expected a sequence"#),
        ],
        "object" => vec![
            ("1", "invalid type: integer `1`, expected an object"),
            ("true", "invalid type: boolean `true`, expected an object"),
            (r#""a""#, r#"invalid type: string "a", expected an object"#),
        ],
        "map" => vec![
            ("[]", "invalid type: sequence, expected a map"),
            ("1", "invalid type: integer `1`, expected a map"),
        ],
        other => panic!("{other:?} is no type"),
    }
}

/// Whether `field`, such as `linux.netDevices.eth0.name`, is one of the fields that
/// `path` means, such as `linux.netDevices.*.name`.
fn is_meant(field: &str, path: &str) -> bool {
    let (mut field, mut path) = (field.split('.'), path.split('.'));
    loop {
        match (field.next(), path.next()) {
            (None, None) => return true,
            (Some(_), Some("*")) => {}
            (Some(field), Some(path)) if field == path.replace("[]", "[0]") => {}
            _ => return false,
        }
    }
}

#[test]
fn every_field_that_is_handled_has_a_line() {
    let listed: Vec<&str> = lines(include_str!("bad_config/fields.txt"))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let has_line = |path: &str| listed.iter().any(|field| is_meant(field, path));
    let handled = FIELDS.iter().filter(|field| field.is_handled());
    let missing: Vec<&str> = handled
        .map(|field| field.path)
        .filter(|path| !has_line(path) && !path.starts_with("linux.intelRdt."))
        .collect();
    assert!(missing.is_empty(), "no line in fields.txt: {missing:?}");
    // What holds them is there, too: lists, their items, and objects.
    for field in &listed {
        for (at, _) in field.match_indices(['.', '[']) {
            let above = &field[..at];
            assert!(listed.contains(&above), "{above} of {field} has no line");
        }
    }
}

/// A value of a type, as JSON.
fn native(kind: &str) -> &'static str {
    match kind {
        "string" => "\"a\"",
        "namespace" => "\"pid\"",
        "bool" => "true",
        "array" => "[]",
        "object" | "map" => "{}",
        _ => "1",
    }
}

#[test]
fn every_field_that_is_given_twice_is_refused() {
    let (mut count, mut wrong) = (0, Vec::new());
    for line in lines(include_str!("bad_config/fields.txt")) {
        let (field, kind) = line.split_once(' ').unwrap();
        let name = field.rsplit('.').next().unwrap();
        // An item of a list has no name.
        if name.ends_with(']') {
            continue;
        }
        const MARK: &str = "the twin";
        let mut document = valid();
        *place(&mut document, field) = MARK.into();
        if field == "linux.namespaces[0].path" {
            document["linux"]["namespaces"][0]["type"] = "pid".into();
        }
        let value = native(kind.trim_end_matches('?'));
        let once = format!("{name:?}:{MARK:?}");
        let text = document.to_string();
        assert!(text.contains(&once), "{text}");
        let text = text.replace(&once, &format!("{name:?}:{value},{name:?}:{value}"));
        let message = refused(text.as_bytes(), false).err().unwrap_or_default();
        let expected = format!("config.json: {field}: duplicate field `{name}`");
        if without_place(&message) != expected {
            wrong.push(format!("{field} twice => {message}, not {expected}"));
        }
        count += 1;
    }
    report("fields.txt, twice", count, 150, &wrong);
}

#[test]
fn every_field_refuses_what_is_not_of_its_type() {
    const MARK: &str = "the stranger";
    let (mut count, mut wrong) = (0, Vec::new());
    for line in lines(include_str!("bad_config/fields.txt")) {
        let (field, kind) = line.split_once(' ').unwrap();
        let mut values = strangers(kind.trim_end_matches('?'));
        let null = match kind {
            "string" => Some("invalid type: null, expected a string"),
            "bool" => Some("invalid type: null, expected a boolean"),
            "u32" => Some("invalid type: null, expected u32"),
            "u64" => Some("invalid type: null, expected u64"),
            "i32" => Some("invalid type: null, expected i32"),
            "i64" => Some("invalid type: null, expected i64"),
            "object" => Some("invalid type: null, expected an object"),
            _ => None,
        };
        values.extend(null.map(|cause| ("null", cause)));
        for (json, cause) in values {
            let mut document = valid();
            // As text, since some of the numbers are none for serde_json.
            *place(&mut document, field) = MARK.into();
            // What is read after the field must not be what fails first.
            if field == "linux.namespaces[0].path" {
                document["linux"]["namespaces"][0]["type"] = "pid".into();
            }
            let text = document.to_string();
            let text = text.replace(&format!("{MARK:?}"), json);
            // Of a list in a list, serde names the outer one alone.
            let nested = matches!(json, "[]" | "{}") && kind == "string";
            let named = field.strip_suffix("[0]").filter(|_| nested);
            let expected = format!("config.json: {}: {cause}", named.unwrap_or(field));
            let message = refused(text.as_bytes(), false).err().unwrap_or_default();
            if without_place(&message) != expected {
                wrong.push(format!("{field} = {json} => {message}, not {expected}"));
            }
            count += 1;
        }
    }
    report("fields.txt", count, 600, &wrong);
}

#[test]
fn every_wrong_value_is_refused_with_its_field() {
    let (mut count, mut wrong) = (0, Vec::new());
    for line in lines(include_str!("bad_config/values.txt")) {
        let (case, expected) = line.rsplit_once(" => ").unwrap();
        let v2 = case.strip_prefix("v2: ");
        let mut document = valid();
        for change in v2.unwrap_or(case).split(" & ") {
            match change.split_once(" = ") {
                Some((field, json)) => {
                    let json = json.replace("MEGABYTE", &"a".repeat(1_000_000));
                    *place(&mut document, field) = serde_json::from_str(&json).unwrap();
                }
                None => {
                    let field = change.strip_suffix(" -").unwrap();
                    let (above, name) = field.rsplit_once('.').unwrap_or(("", field));
                    let above = match above {
                        "" => &mut document,
                        above => place(&mut document, above),
                    };
                    above.as_object_mut().unwrap().remove(name).unwrap();
                }
            }
        }
        let message = refused(document.to_string().as_bytes(), v2.is_some());
        let message = message.err().unwrap_or_default();
        if without_place(&message) != format!("config.json: {expected}") {
            wrong.push(format!("{case} => {message}\n    not {expected}"));
        }
        count += 1;
    }
    report("values.txt", count, 200, &wrong);
}

/// The bytes that a line of `documents.txt` stands for.
fn bytes(written: &str) -> Vec<u8> {
    let many = written
        .replace("MANY[", &"[".repeat(100_000))
        .replace("MANY{\"a\":", &"{\"a\":".repeat(100_000));
    let mut bytes = Vec::new();
    let mut rest = many.as_str();
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend(before.as_bytes());
        rest = match after.strip_prefix('x') {
            Some(hex) => {
                bytes.push(u8::from_str_radix(&hex[..2], 16).unwrap());
                &hex[2..]
            }
            None => {
                bytes.push(b'\\');
                after.strip_prefix('\\').unwrap()
            }
        };
    }
    bytes.extend(rest.as_bytes());
    bytes
}

#[test]
fn what_is_no_such_document_is_refused_with_its_place() {
    let (mut count, mut wrong) = (0, Vec::new());
    for line in lines(include_str!("bad_config/documents.txt")) {
        let (document, expected) = line.rsplit_once("=> ").unwrap();
        let document = document.strip_suffix(' ').unwrap_or(document);
        let message = refused(&bytes(document), false).err().unwrap_or_default();
        let expected = String::from_utf8(bytes(expected)).unwrap();
        if message != format!("config.json: {expected}") {
            wrong.push(format!("{document} => {message}\n    not {expected}"));
        }
        count += 1;
    }
    report("documents.txt", count, 35, &wrong);
}

#[test]
fn a_megabyte_in_any_string_never_comes_back_in_a_message() {
    let (mut count, mut refusals) = (0, 0);
    for line in lines(include_str!("bad_config/fields.txt")) {
        let (field, kind) = line.split_once(' ').unwrap();
        let mut document = valid();
        *place(&mut document, field) = "MEGABYTE".into();
        if field == "linux.namespaces[0].path" {
            document["linux"]["namespaces"][0]["type"] = "pid".into();
        }
        // All of a megabyte now and then: a debug build is slow in reading it.
        let length = if count % 8 == 0 { 1_000_000 } else { 100_000 };
        let text = document.to_string();
        let text = text.replace("MEGABYTE", &"a".repeat(length));
        let wanted = match kind.trim_end_matches('?') {
            "string" | "namespace" => None,
            "bool" => Some("a boolean"),
            "array" => Some("a sequence"),
            "object" => Some("an object"),
            "map" => Some("a map"),
            number => Some(number),
        };
        match refused(text.as_bytes(), false) {
            Ok(()) => assert_eq!(wanted, None, "{field}"),
            Err(message) => {
                refusals += 1;
                assert!(message.len() <= 6144, "{field}: {} bytes", message.len());
                assert!(!message.contains('\n'), "{message}");
                let top = field.split(['.', '[']).next().unwrap();
                let (begins, ends) = match wanted {
                    Some(wanted) => (
                        format!("{field}: invalid type: string \"aaa"),
                        format!("aaa\", expected {wanted}"),
                    ),
                    // Of the right type, and wrong for some other reason.
                    None => (top.to_owned(), String::new()),
                };
                let message = without_place(&message);
                let begins = format!("config.json: {begins}");
                assert!(message.starts_with(&begins), "{message}");
                assert!(message.ends_with(&ends), "{message}");
                assert!(
                    wanted.is_none() || message.contains(" bytes ...]"),
                    "{message}"
                );
            }
        }
        count += 1;
    }
    println!("{count} fields, {refusals} refused");
    assert!(count >= 180 && refusals >= 100, "{count}, {refusals}");
}
