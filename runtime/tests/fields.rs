//! The table of fields: complete, true of the types, and the source of
//! docs/fields.md. No root needed.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::path::Path;

use rrun::spec::Spec;
use rrun::spec::fields::{self, FIELDS};
use serde_json::{Value, json};

/// Every field of runtime-spec 1.3's schema (schema/config-schema.json, config-linux.json
/// and defs-linux.json); of other platforms only their object.
const SPECIFIED: &str = include_str!("data/spec-fields.txt");

#[test]
fn no_field_of_the_specification_is_missing_and_none_is_invented() {
    let mut specified: Vec<&str> = SPECIFIED.lines().collect();
    let mut listed: Vec<&str> = FIELDS.iter().map(|field| field.path).collect();
    specified.sort_unstable();
    listed.sort_unstable();
    let missing: Vec<_> = specified
        .iter()
        .filter(|path| !listed.contains(path))
        .collect();
    let invented: Vec<_> = listed
        .iter()
        .filter(|path| !specified.contains(path))
        .collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
    assert!(invented.is_empty(), "invented: {invented:?}");
}

#[test]
fn what_is_handled_is_read() {
    for field in FIELDS.iter().filter(|field| field.is_handled()) {
        let document = document(field.path);
        let read = Spec::parse(document.to_string().as_bytes());
        assert!(read.is_err(), "{} is not read", field.path);
        let found = fields::of(&document, "");
        assert!(found.unknown.is_empty(), "{}", field.path);
        assert!(
            found.asked.iter().any(|asked| asked.field == field),
            "{}",
            field.path
        );
    }
}

/// A document with this field alone; its value is of no valid type, so that it is
/// refused by whoever reads the field.
fn document(path: &str) -> Value {
    path.rsplit('.').fold(json!({}), |value, part| {
        let name = part.trim_end_matches("[]");
        let value = if part.ends_with("[]") {
            json!([value])
        } else {
            value
        };
        let mut object = json!({});
        object[if name == "*" { "any" } else { name }] = value;
        object
    })
}

#[test]
fn the_page_is_written_from_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/fields.md");
    let page = fields::markdown();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let first = page
        .lines()
        .zip(written.lines())
        .find(|(ours, its)| ours != its);
    assert!(
        page == written,
        "docs/fields.md differs, first {first:?}; UPDATE=1 cargo test -p rrun --test fields writes it"
    );
}
