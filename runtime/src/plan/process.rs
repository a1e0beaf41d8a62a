//! The process: what is executed, as whom, and with which limits.
//!
//! The same decisions serve `process` of config.json and the process.json of
//! `exec`; [`Document`] tells them apart in messages.

use std::ffi::CString;
use std::fmt::Display;

use super::capabilities::Capabilities;
use super::scheduling::Scheduling;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::spec;
use crate::sys::terminal::Size;

/// Where a process is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// `process` of config.json.
    Config,
    /// The document of `exec --process`, or exec's flags.
    Exec,
}

impl Document {
    /// An invalid value of `field`.
    pub fn error(self, field: impl Display, cause: impl Display) -> Error {
        match self {
            Document::Config => Error::config(format_args!("process.{field}"), cause),
            Document::Exec => Error::new(
                Kind::InvalidConfig,
                format!("process.json: {field}: {cause}"),
            ),
        }
    }
}

/// Every decision about a process. What only the container can tell is a
/// question here: [`home_from_passwd`](Self::home_from_passwd) and which of
/// [`programs`](Self::programs) exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// A terminal of its own, with its size if one was asked for.
    pub terminal: Option<Terminal>,
    /// User id in the container's user namespace.
    pub uid: u32,
    /// Group id in the container's user namespace.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Whether those of the runtime stay, in the place of `groups`.
    pub keep_groups: bool,
    /// The file mode creation mask.
    pub umask: u32,
    /// argv.
    pub args: Vec<CString>,
    /// Where argv[0] may be: itself if it has a slash, else one path for each
    /// folder of the container's PATH.
    pub programs: Vec<CString>,
    /// The environment, each name once.
    pub env: Vec<CString>,
    /// Whether the child adds HOME from the container's `/etc/passwd`.
    pub home_from_passwd: bool,
    /// The working directory.
    pub cwd: CString,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// Limits that the parent sets from outside.
    pub rlimits: Vec<Rlimit>,
    /// Whether execve may no longer grant privileges.
    pub no_new_privileges: bool,
    /// What is written to `oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// The AppArmor profile to enter at execve.
    pub apparmor_profile: Option<String>,
    /// The SELinux label to enter at execve.
    pub selinux_label: Option<String>,
    /// When and on which CPUs it runs.
    pub scheduling: Scheduling,
}

/// A process's own terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// Its size before the program starts.
    pub size: Option<Size>,
}

/// A resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// Its name, for messages.
    pub name: &'static str,
    /// The resource's number.
    pub resource: u32,
    /// The soft limit.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
}

/// runc's words.
pub(super) const NO_SELINUX: &str =
    "selinux label is specified in config, but selinux is disabled or not supported";

/// The mask that a container gets when config.json names none (config.md).
const DEFAULT_UMASK: u32 = 0o022;

/// The resources that setrlimit(2) knows.
const RLIMITS: [(&str, u32); 16] = [
    ("RLIMIT_CPU", libc::RLIMIT_CPU),
    ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
    ("RLIMIT_DATA", libc::RLIMIT_DATA),
    ("RLIMIT_STACK", libc::RLIMIT_STACK),
    ("RLIMIT_CORE", libc::RLIMIT_CORE),
    ("RLIMIT_RSS", libc::RLIMIT_RSS),
    ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
    ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
    ("RLIMIT_AS", libc::RLIMIT_AS),
    ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
    ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
    ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", libc::RLIMIT_NICE),
    ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
];

impl Process {
    /// Decides about `process` of `document`.
    ///
    /// `grantable` is what [`Capabilities::plan`] may hand out.
    ///
    /// # Errors
    /// Values that are missing, out of range or can't be handed to the
    /// kernel, with their field.
    pub fn plan(
        process: &spec::Process,
        document: Document,
        grantable: u64,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let args = strings(&process.args, "args", document)?;
        let Some(program) = args.first() else {
            return Err(document.error("args", "must not be empty"));
        };
        if !process.cwd.starts_with('/') {
            return Err(document.error("cwd", format!("{:?} is not absolute", process.cwd)));
        }
        let env = environment(&process.env, document)?;
        let programs = programs(program, &env);
        let (terminal, user) = (terminal(process), &process.user);
        let scheduling = Scheduling::plan(process, document)?;
        Ok(Self {
            terminal,
            uid: id(user.uid, "user.uid", document)?,
            gid: id(user.gid, "user.gid", document)?,
            groups: groups(&user.additional_gids, document)?,
            keep_groups: false,
            umask: umask(user.umask, document)?,
            programs,
            home_from_passwd: !env
                .iter()
                .any(|entry| entry.to_bytes().starts_with(b"HOME=")),
            args,
            env,
            cwd: string(&process.cwd, "cwd", document)?,
            capabilities: process
                .capabilities
                .as_ref()
                .map(|written| Capabilities::plan(written, grantable, warnings))
                .unwrap_or_default(),
            rlimits: rlimits(&process.rlimits, document)?,
            no_new_privileges: process.no_new_privileges,
            oom_score_adj: oom_score_adj(process.oom_score_adj, document)?,
            apparmor_profile: label(process.apparmor_profile.as_ref()),
            selinux_label: label(process.selinux_label.as_ref()),
            scheduling: match document {
                Document::Config => scheduling.of_init(),
                Document::Exec => scheduling,
            },
        })
    }
}

impl Process {
    /// Refuses a label that `host` has no SELinux for: the program would run
    /// without the guard that was asked for.
    ///
    /// # Errors
    /// In runc's words.
    pub fn check_label(&self, host: &Host, document: Document) -> Result<()> {
        if self.selinux_label.is_none() || host.selinux {
            return Ok(());
        }
        Err(document
            .error("selinuxLabel", NO_SELINUX)
            .with_kind(Kind::Unsupported))
    }

    /// Adds what tells the program of the sockets that it was given: the
    /// protocols of sd_listen_fds(3) and sd_notify(3), with the container's
    /// view of both. Its pid is 1 in a pid namespace of its own, as runc
    /// assumes.
    pub fn add_sockets(&mut self, listen_fds: u32, notify: bool) {
        if listen_fds > 0 {
            self.env.push(c"LISTEN_PID=1".to_owned());
            // A number has no NUL.
            self.env
                .extend(CString::new(format!("LISTEN_FDS={listen_fds}")));
        }
        if notify {
            self.env
                .push(c"NOTIFY_SOCKET=/run/notify/notify.sock".to_owned());
        }
    }
}

/// A label of a security module; engines write an empty one for none.
fn label(written: Option<&String>) -> Option<String> {
    written.filter(|label| !label.is_empty()).cloned()
}

fn terminal(process: &spec::Process) -> Option<Terminal> {
    // Sizes beyond a u16 mean nothing to the kernel.
    let clamp = |length: u32| u16::try_from(length).unwrap_or(u16::MAX);
    process.terminal.then(|| Terminal {
        size: process.console_size.map(|size| Size {
            rows: clamp(size.height),
            columns: clamp(size.width),
        }),
    })
}

/// The id -1 means "leave it" to setresuid, never a user.
fn id(id: u32, field: &str, document: Document) -> Result<u32> {
    if id == u32::MAX {
        return Err(document.error(field, format!("{id} is no valid id")));
    }
    Ok(id)
}

fn groups(written: &[u32], document: Document) -> Result<Vec<u32>> {
    let groups = written.iter().enumerate();
    let groups = groups.map(|(at, gid)| id(*gid, &format!("user.additionalGids[{at}]"), document));
    groups.collect()
}

fn umask(umask: Option<u32>, document: Document) -> Result<u32> {
    match umask {
        None => Ok(DEFAULT_UMASK),
        Some(mask) if mask <= 0o777 => Ok(mask),
        Some(mask) => Err(document.error("user.umask", format!("{mask} is above 511 (0777)"))),
    }
}

fn oom_score_adj(score: Option<i32>, document: Document) -> Result<Option<i32>> {
    match score {
        Some(score) if !(-1000..=1000).contains(&score) => Err(document.error(
            "oomScoreAdj",
            format!("{score} is not between -1000 and 1000"),
        )),
        score => Ok(score),
    }
}

fn string(text: &str, field: impl Display, document: Document) -> Result<CString> {
    CString::new(text).map_err(|_| document.error(field, "must not have a NUL byte"))
}

fn strings(texts: &[String], field: &str, document: Document) -> Result<Vec<CString>> {
    texts
        .iter()
        .enumerate()
        .map(|(at, text)| string(text, format_args!("{field}[{at}]"), document))
        .collect()
}

/// The environment with each name once, the last value winning in the place
/// of the first. An empty HOME counts as none (the child fills it in).
fn environment(env: &[String], document: Document) -> Result<Vec<CString>> {
    let mut entries: Vec<(&str, CString)> = Vec::with_capacity(env.len());
    for (at, entry) in env.iter().enumerate() {
        let field = format_args!("env[{at}]");
        let name = match entry.split_once('=') {
            Some(("", _)) => return Err(document.error(field, format!("{entry:?} has no name"))),
            Some((name, _)) => name,
            None => return Err(document.error(field, format!("{entry:?} has no \"=\""))),
        };
        let text = string(entry, field, document)?;
        match entries.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = text,
            None => entries.push((name, text)),
        }
    }
    entries.retain(|(_, entry)| entry.to_bytes() != b"HOME=");
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

/// Where to look for `program`: execvp(3)'s rules, with the container's PATH.
fn programs(program: &CString, env: &[CString]) -> Vec<CString> {
    if program.to_bytes().contains(&b'/') {
        return vec![program.clone()];
    }
    let path = env
        .iter()
        .find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="));
    path.unwrap_or_default()
        .split(|byte| *byte == b':')
        .filter_map(|folder| {
            let folder = if folder.is_empty() { b"." } else { folder };
            // Neither half has a NUL: both come from C strings.
            CString::new([folder, b"/", program.to_bytes()].concat()).ok()
        })
        .collect()
}

fn rlimits(written: &[spec::Rlimit], document: Document) -> Result<Vec<Rlimit>> {
    let mut limits: Vec<Rlimit> = Vec::with_capacity(written.len());
    for (at, limit) in written.iter().enumerate() {
        let field = |name: &str| format!("rlimits[{at}].{name}");
        let Some(&(name, resource)) = RLIMITS.iter().find(|(name, _)| *name == limit.kind) else {
            return Err(document.error(field("type"), format!("{:?} is unknown", limit.kind)));
        };
        if limits.iter().any(|known| known.resource == resource) {
            return Err(document.error(field("type"), format!("{name} is listed twice")));
        }
        let given = |value: Option<u64>, name: &str| {
            value.ok_or_else(|| document.error(field(name), "is missing"))
        };
        let soft = given(limit.soft, "soft")?;
        let hard = given(limit.hard, "hard")?;
        if soft > hard {
            let cause = format!("{soft} is above the hard limit {hard}");
            return Err(document.error(field("soft"), cause));
        }
        limits.push(Rlimit {
            name,
            resource,
            soft,
            hard,
        });
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Process> {
        let process = serde_json::from_str(json).unwrap();
        Process::plan(&process, Document::Config, u64::MAX, &mut Vec::new())
    }

    fn texts(strings: &[CString]) -> Vec<&str> {
        strings
            .iter()
            .map(|string| string.to_str().unwrap())
            .collect()
    }

    #[test]
    fn the_last_value_of_a_variable_wins_and_an_empty_home_is_none() {
        let process =
            plan(r#"{"args":["a"],"cwd":"/","env":["A=1","B=2","A=3","HOME="]}"#).unwrap();
        assert_eq!(texts(&process.env), ["A=3", "B=2"]);
        assert!(process.home_from_passwd);
        let process = plan(r#"{"args":["a"],"cwd":"/","env":["HOME=/h"]}"#).unwrap();
        assert!(!process.home_from_passwd);
    }

    #[test]
    fn a_program_is_sought_in_path_unless_it_has_a_slash() {
        for (program, path, sought) in [
            ("sh", "PATH=/bin:/usr/bin", vec!["/bin/sh", "/usr/bin/sh"]),
            ("sh", "PATH=:/b", vec!["./sh", "/b/sh"]),
            ("./sh", "PATH=/bin", vec!["./sh"]),
            ("/bin/sh", "PATH=/x", vec!["/bin/sh"]),
        ] {
            let json = format!(r#"{{"args":["{program}"],"cwd":"/","env":["{path}"]}}"#);
            assert_eq!(
                texts(&plan(&json).unwrap().programs),
                sought,
                "{program} {path}"
            );
        }
    }

    #[test]
    fn wrong_values_are_refused_with_their_field() {
        for (fields, text) in [
            (r#""args":[]"#, "args: must not be empty"),
            (r#""cwd":"tmp""#, "cwd: \"tmp\" is not absolute"),
            (r#""cwd":"""#, "cwd: \"\" is not absolute"),
            (r#""env":["A"]"#, "env[0]: \"A\" has no \"=\""),
            (r#""env":["A=1","=1"]"#, "env[1]: \"=1\" has no name"),
            (
                r#""args":["a\u0000b"]"#,
                "args[0]: must not have a NUL byte",
            ),
            (
                r#""user":{"uid":4294967295}"#,
                "user.uid: 4294967295 is no valid id",
            ),
            (
                r#""user":{"umask":512}"#,
                "user.umask: 512 is above 511 (0777)",
            ),
            (
                r#""oomScoreAdj":1001"#,
                "oomScoreAdj: 1001 is not between -1000 and 1000",
            ),
            (
                r#""rlimits":[{"type":"RLIMIT_FUN"}]"#,
                "rlimits[0].type: \"RLIMIT_FUN\" is unknown",
            ),
            (
                r#""rlimits":[{"type":"RLIMIT_CPU","soft":1,"hard":1},{"type":"RLIMIT_CPU","soft":1,"hard":1}]"#,
                "rlimits[1].type: RLIMIT_CPU is listed twice",
            ),
            (
                r#""rlimits":[{"type":"RLIMIT_CPU","hard":1}]"#,
                "rlimits[0].soft: is missing",
            ),
            (
                r#""rlimits":[{"type":"RLIMIT_CPU","soft":1}]"#,
                "rlimits[0].hard: is missing",
            ),
            (
                r#""rlimits":[{"type":"RLIMIT_CPU","soft":2,"hard":1}]"#,
                "rlimits[0].soft: 2 is above the hard limit 1",
            ),
        ] {
            let mut json: serde_json::Value =
                serde_json::from_str(r#"{"args":["a"],"cwd":"/"}"#).unwrap();
            let change: serde_json::Value = serde_json::from_str(&format!("{{{fields}}}")).unwrap();
            for (key, value) in change.as_object().unwrap() {
                json[key] = value.clone();
            }
            let error = plan(&json.to_string()).unwrap_err();
            assert_eq!(error.to_string(), format!("config.json: process.{text}"));
        }
    }
}
