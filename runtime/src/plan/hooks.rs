//! Hooks: paths and times checked, strings ready for execve.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::spec;

/// A hook that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The program, absolute.
    pub path: CString,
    /// argv, never empty.
    pub args: Vec<CString>,
    /// The environment; `None` leaves it to the moment: empty in the
    /// runtime's namespaces, the process's own for `startContainer`.
    pub env: Option<Vec<CString>>,
    /// Until it is killed.
    pub timeout: Option<Duration>,
}

/// The hooks of a container, by moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// In the runtime's namespaces, before pivot_root.
    pub prestart: Vec<Hook>,
    /// In the runtime's namespaces, after `prestart`.
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before pivot_root.
    pub create_container: Vec<Hook>,
    /// In the container, before its program is executed.
    pub start_container: Vec<Hook>,
    /// In the runtime's namespaces, after the program was executed.
    pub poststart: Vec<Hook>,
    /// In the runtime's namespaces, after the container was deleted.
    pub poststop: Vec<Hook>,
    /// Where all of them write to.
    pub output: Output,
}

/// Files on the host that hooks write to (crun's annotations
/// `run.oci.hooks.stdout` and `.stderr`); without one it is the runtime that
/// reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// For descriptor 1.
    pub stdout: Option<PathBuf>,
    /// For descriptor 2.
    pub stderr: Option<PathBuf>,
}

impl Hooks {
    /// Checks the hooks of config.json.
    ///
    /// # Errors
    /// A path that is not absolute, a timeout below 1, a NUL byte.
    pub fn plan(written: &spec::Hooks, annotations: &BTreeMap<String, String>) -> Result<Self> {
        Ok(Self {
            output: Output::plan(annotations)?,
            prestart: plan_all("prestart", &written.prestart)?,
            create_runtime: plan_all("createRuntime", &written.create_runtime)?,
            create_container: plan_all("createContainer", &written.create_container)?,
            start_container: plan_all("startContainer", &written.start_container)?,
            poststart: plan_all("poststart", &written.poststart)?,
            poststop: plan_all("poststop", &written.poststop)?,
        })
    }

    /// Whether the parent has hooks to run while the child waits.
    #[must_use]
    pub fn before_pivot(&self) -> bool {
        !self.prestart.is_empty() || !self.create_runtime.is_empty()
    }

    /// Whether the child has hooks to run.
    #[must_use]
    pub fn in_child(&self) -> bool {
        !self.create_container.is_empty() || !self.start_container.is_empty()
    }
}

impl Output {
    fn plan(annotations: &BTreeMap<String, String>) -> Result<Self> {
        let path = |key: &str| match annotations.get(key).map(PathBuf::from) {
            Some(path) if !path.is_absolute() => {
                let cause = format!("{path:?} is not absolute");
                Err(Error::config(format_args!("annotations[{key:?}]"), cause))
            }
            path => Ok(path),
        };
        Ok(Self {
            stdout: path("run.oci.hooks.stdout")?,
            stderr: path("run.oci.hooks.stderr")?,
        })
    }
}

fn plan_all(moment: &str, hooks: &[spec::Hook]) -> Result<Vec<Hook>> {
    hooks
        .iter()
        .enumerate()
        .map(|(at, hook)| plan(&format!("hooks.{moment}[{at}]"), hook))
        .collect()
}

fn plan(field: &str, hook: &spec::Hook) -> Result<Hook> {
    if !hook.path.starts_with('/') {
        let cause = format!("{:?} is not absolute", hook.path);
        return Err(Error::config(format_args!("{field}.path"), cause));
    }
    let timeout = match hook.timeout {
        None => None,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Some(Duration::from_secs(seconds)),
            _ => {
                let cause = format!("{seconds} is not above 0");
                return Err(Error::config(format_args!("{field}.timeout"), cause));
            }
        },
    };
    let strings = |texts: &[String], name: &str| -> Result<Vec<CString>> {
        let strings = texts.iter().enumerate().map(|(at, text)| {
            CString::new(text.as_str()).map_err(|_| {
                Error::config(
                    format_args!("{field}.{name}[{at}]"),
                    "must not have a NUL byte",
                )
            })
        });
        strings.collect()
    };
    let path = CString::new(hook.path.as_str())
        .map_err(|_| Error::config(format_args!("{field}.path"), "must not have a NUL byte"))?;
    let mut args = strings(&hook.args, "args")?;
    if args.is_empty() {
        args.push(path.clone());
    }
    let env = hook
        .env
        .as_deref()
        .map(|env| strings(env, "env"))
        .transpose()?;
    Ok(Hook {
        path,
        args,
        env,
        timeout,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        Hooks::plan(&serde_json::from_str(json).unwrap(), &BTreeMap::new())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn wrong_hooks_are_refused_with_their_field() {
        for (json, text) in [
            (
                r#"{"poststop":[{"path":"/a"},{"path":"b"}]}"#,
                "config.json: hooks.poststop[1].path: \"b\" is not absolute",
            ),
            (
                r#"{"createRuntime":[{"path":"/a","timeout":0}]}"#,
                "config.json: hooks.createRuntime[0].timeout: 0 is not above 0",
            ),
            (
                r#"{"prestart":[{"path":"/a","env":["A=\u0000"]}]}"#,
                "config.json: hooks.prestart[0].env[0]: must not have a NUL byte",
            ),
        ] {
            assert_eq!(error(json), text);
        }
    }

    #[test]
    fn annotations_name_files_to_write_to() {
        let plan = |path: &str| {
            let key = "run.oci.hooks.stderr".to_owned();
            let annotations = BTreeMap::from([(key, path.to_owned())]);
            Hooks::plan(&spec::Hooks::default(), &annotations)
        };
        let output = plan("/dev/stderr").unwrap().output;
        assert_eq!(output.stderr, Some("/dev/stderr".into()));
        assert_eq!(output.stdout, None);
        assert_eq!(
            plan("log").unwrap_err().to_string(),
            "config.json: annotations[\"run.oci.hooks.stderr\"]: \"log\" is not absolute"
        );
    }

    #[test]
    fn a_hook_without_arguments_gets_its_path_as_the_first() {
        let written = serde_json::from_str(r#"{"poststart":[{"path":"/bin/x","timeout":5}]}"#);
        let hooks = Hooks::plan(&written.unwrap(), &BTreeMap::new()).unwrap();
        assert_eq!(hooks.poststart[0].args, [c"/bin/x".to_owned()]);
        assert_eq!(hooks.poststart[0].timeout, Some(Duration::from_secs(5)));
    }
}
