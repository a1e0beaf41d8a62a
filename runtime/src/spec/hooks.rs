//! `hooks`: programs to run at moments of the container's life.

use serde::Deserialize;

use super::null_is_default;

/// The six kinds of hooks, in the order of their moments (config.md,
/// "POSIX-platform Hooks").
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct Hooks {
    /// In the runtime's namespaces, before pivot_root. Deprecated by the spec,
    /// still used by Docker for the network.
    #[serde(deserialize_with = "null_is_default")]
    pub prestart: Vec<Hook>,
    /// In the runtime's namespaces, after `prestart`.
    #[serde(deserialize_with = "null_is_default")]
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before pivot_root.
    #[serde(deserialize_with = "null_is_default")]
    pub create_container: Vec<Hook>,
    /// In the container, right before its program is executed.
    #[serde(deserialize_with = "null_is_default")]
    pub start_container: Vec<Hook>,
    /// In the runtime's namespaces, after the program was executed.
    #[serde(deserialize_with = "null_is_default")]
    pub poststart: Vec<Hook>,
    /// In the runtime's namespaces, after the container was deleted.
    #[serde(deserialize_with = "null_is_default")]
    pub poststop: Vec<Hook>,
}

/// One hook.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct Hook {
    /// Absolute path of the program.
    pub path: String,
    /// argv, with argv[0].
    #[serde(deserialize_with = "null_is_default")]
    pub args: Vec<String>,
    /// The environment; `None` if the hook has none of its own.
    pub env: Option<Vec<String>>,
    /// Seconds until the hook is killed; at least 1.
    pub timeout: Option<i64>,
}
