//! Which containers share a server: those of a pod.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rrun::error::{Error, Kind, Result};
use serde::Deserialize;

/// The annotations that name the group, the first one first.
const ANNOTATIONS: [&str; 2] = [
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
];

/// The little that is wanted of config.json.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// The group of the container in `bundle`: `id`, if it is alone.
///
/// # Errors
/// config.json can't be read.
pub(super) fn of(bundle: &Path, id: &str) -> Result<String> {
    let path = bundle.join("config.json");
    let failed = |error: &dyn std::fmt::Display| {
        Error::new(Kind::InvalidConfig, format!("read {path:?}: {error}"))
    };
    let text = fs::read(&path).map_err(|error| failed(&error))?;
    let config: Config = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    let annotations = config.annotations.unwrap_or_default();
    Ok(named(&annotations).unwrap_or(id).to_owned())
}

fn named(annotations: &BTreeMap<String, String>) -> Option<&str> {
    ANNOTATIONS
        .iter()
        .find_map(|name| annotations.get(*name))
        .map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_comes_before_the_sandbox() {
        for (given, group) in [
            (&[][..], None),
            (&[("other", "x")], None),
            (&[("io.kubernetes.cri.sandbox-id", "pod")], Some("pod")),
            (
                &[
                    ("io.kubernetes.cri.sandbox-id", "pod"),
                    ("io.containerd.runc.v2.group", "label"),
                ],
                Some("label"),
            ),
        ] {
            let annotations = given
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(named(&annotations), group, "{given:?}");
        }
    }
}
