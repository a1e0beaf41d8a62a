//! What containerd's configuration says about the runtime.
//!
//! It comes in two forms: `containerd.runc.v1.Options`, which CRI sends only to
//! runtimes of the type `io.containerd.runc.v2`, and `runtimeoptions.v1.Options`
//! with the same words as TOML, for all others (containerd 1.7 and newer put the
//! text itself into it, older ones may name a file).
//!
//! The options are kept in the bundle, because the `delete` that cleans up after
//! a killed shim is told nothing.

use std::path::{Path, PathBuf};
use std::{fs, io};

use containerd_shim_protos::shim::oci;
use protobuf::well_known_types::any::Any;
use protobuf::{CodedInputStream, Message, UnknownValueRef};
use rrun::error::{Context, Error, Kind, Result};
use serde::{Deserialize, Serialize};

/// Where runtimes keep their state by default; the namespace is appended.
const ROOT: &str = "/run/containerd/runc";
/// The runtime that is called by default.
const BINARY: &str = "rrun";
/// Where the options are kept in the bundle.
const FILE: &str = "options.json";
/// Where the Go shim keeps the runtime's name, and the one it calls by default.
const GO_RUNTIME: &str = "runtime";
const GO_BINARY: &str = "runc";

/// How the runtime is called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Options {
    /// The runtime.
    pub binary: PathBuf,
    /// Its `--root`, with the namespace.
    pub root: PathBuf,
    /// Cgroups are made by systemd.
    pub systemd_cgroup: bool,
    /// `--no-pivot`.
    pub no_pivot_root: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// Owner of the pipes.
    pub io_uid: u32,
    /// Group of the pipes.
    pub io_gid: u32,
    /// The cgroup of the shim itself; empty for containerd's.
    pub shim_cgroup: String,
    /// The criu program; empty for the runtime's choice.
    pub criu_path: String,
    /// Where criu works.
    pub criu_work_path: String,
}

/// The words of both forms; those of the TOML are Go's field names. There is also
/// a path of checkpoints (`criu_image_path`): containerd itself makes the
/// `checkpoint` of a `Create` of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Words {
    binary_name: String,
    root: String,
    systemd_cgroup: bool,
    no_pivot_root: bool,
    no_new_keyring: bool,
    io_uid: u32,
    io_gid: u32,
    shim_cgroup: String,
    criu_path: String,
    criu_work_path: String,
}

impl Options {
    /// The options in `any`; the defaults where there are none.
    ///
    /// # Errors
    /// They are of another type or can't be read; the runtime is not there.
    pub(crate) fn parse(any: Option<&Any>, namespace: &str) -> Result<Self> {
        let words = match any {
            Some(any) if !any.type_url.is_empty() => words(any)?,
            _ => Words::default(),
        };
        Self::of(words, namespace)
    }

    /// Keeps the options in the bundle.
    ///
    /// # Errors
    /// The file can't be written; the text names it.
    pub(crate) fn save(&self, bundle: &Path) -> Result<()> {
        let path = bundle.join(FILE);
        let new = bundle.join(format!(".{FILE}"));
        let written = serde_json::to_vec(self)
            .map_err(io::Error::from)
            .and_then(|text| fs::write(&new, text))
            .and_then(|()| fs::rename(&new, &path));
        written.map_err(|error| Error::new(Kind::System, format!("write {path:?}: {error}")))
    }

    /// The options that were kept in the bundle, by us or by the Go shim, in
    /// whose place we may have come; the defaults if it was never come to that.
    ///
    /// # Errors
    /// The runtime is not there.
    pub(crate) fn load(bundle: &Path, namespace: &str) -> Result<Self> {
        let kept = fs::read(bundle.join(FILE)).unwrap_or_default();
        if let Ok(options) = serde_json::from_slice(&kept) {
            return Ok(options);
        }
        let runtime = fs::read_to_string(bundle.join(GO_RUNTIME)).ok();
        let go: Option<GoWords> = serde_json::from_slice(&kept).ok();
        match (go, runtime) {
            (None, None) => Self::parse(None, namespace),
            (go, runtime) => go.unwrap_or_default().options(runtime, namespace),
        }
    }

    fn of(words: Words, namespace: &str) -> Result<Self> {
        Ok(Self {
            binary: find_binary(&words.binary_name)?,
            root: Path::new(or(&words.root, ROOT)).join(namespace),
            systemd_cgroup: words.systemd_cgroup,
            no_pivot_root: words.no_pivot_root,
            no_new_keyring: words.no_new_keyring,
            io_uid: words.io_uid,
            io_gid: words.io_gid,
            shim_cgroup: words.shim_cgroup,
            criu_path: words.criu_path,
            criu_work_path: words.criu_work_path,
        })
    }
}

/// What the Go shim keeps in its options.json: of `containerd.runc.v1.Options`
/// those fields that are set, with the names of the message.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GoWords {
    binary_name: String,
    root: String,
    systemd_cgroup: bool,
}

impl GoWords {
    /// With what is kept in the file `runtime`; empty for the Go shim's default.
    fn options(self, runtime: Option<String>, namespace: &str) -> Result<Options> {
        let runtime = runtime.unwrap_or(self.binary_name);
        let words = Words {
            binary_name: or(runtime.trim(), GO_BINARY).to_owned(),
            root: self.root,
            systemd_cgroup: self.systemd_cgroup,
            ..Words::default()
        };
        Options::of(words, namespace)
    }
}

/// The options of a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct CheckpointOptions {
    /// Where it is written; empty for the path of the call.
    pub image_path: String,
    given: oci::CheckpointOptions,
}

impl CheckpointOptions {
    /// The options in `any`; the defaults where there are none.
    ///
    /// # Errors
    /// They are of another type or can't be read.
    pub(crate) fn parse(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
            return Ok(Self::default());
        };
        if name_of(any) != "containerd.runc.v1.CheckpointOptions" {
            return Err(unknown(any));
        }
        let given = oci::CheckpointOptions::parse_from_bytes(&any.value);
        let given = given.map_err(|error| unreadable(any, &error))?;
        Ok(Self {
            image_path: given.image_path.clone(),
            given,
        })
    }

    /// The flags of the runtime's `checkpoint`.
    #[must_use]
    pub(crate) fn flags(&self) -> Vec<String> {
        let given = &self.given;
        let mut flags: Vec<String> = [
            ("--leave-running", !given.exit),
            ("--tcp-established", given.open_tcp),
            ("--ext-unix-sk", given.external_unix_sockets),
            ("--shell-job", given.terminal),
            ("--file-locks", given.file_locks),
        ]
        .into_iter()
        .filter(|(_, on)| *on)
        .map(|(flag, _)| flag.to_owned())
        .collect();
        for namespace in &given.empty_namespaces {
            flags.push(format!("--empty-ns={namespace}"));
        }
        if !given.cgroups_mode.is_empty() {
            flags.push(format!("--manage-cgroups-mode={}", given.cgroups_mode));
        }
        flags
    }
}

/// What `Pids` tells of an exec.
#[derive(Debug)]
pub(crate) struct ProcessDetails;

impl ProcessDetails {
    /// The details of the exec with this id.
    #[must_use]
    pub(crate) fn of(exec_id: &str) -> Any {
        let details = oci::ProcessDetails {
            exec_id: exec_id.to_owned(),
            ..oci::ProcessDetails::default()
        };
        Any {
            type_url: "containerd.runc.v1.ProcessDetails".to_owned(),
            // A message of one string always encodes.
            value: details.write_to_bytes().unwrap_or_default(),
            ..Any::default()
        }
    }
}

/// Type URLs may have a host in front of the name.
fn name_of(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

fn words(any: &Any) -> Result<Words> {
    match name_of(any) {
        "containerd.runc.v1.Options" => from_runc(any),
        "runtimeoptions.v1.Options" => from_toml(any),
        _ => Err(unknown(any)),
    }
}

fn from_runc(any: &Any) -> Result<Words> {
    let given = oci::Options::parse_from_bytes(&any.value);
    let given = given.map_err(|error| unreadable(any, &error))?;
    Ok(Words {
        // First: what follows takes the fields out.
        criu_path: criu_path(&given)?,
        binary_name: given.binary_name,
        root: given.root,
        systemd_cgroup: given.systemd_cgroup,
        no_pivot_root: given.no_pivot_root,
        no_new_keyring: given.no_new_keyring,
        io_uid: given.io_uid,
        io_gid: given.io_gid,
        shim_cgroup: given.shim_cgroup,
        criu_work_path: given.criu_work_path,
    })
}

/// Field 8, which containerd 1.x has and the newer definitions lack.
fn criu_path(given: &oci::Options) -> Result<String> {
    let Some(UnknownValueRef::LengthDelimited(path)) = given.special_fields.unknown_fields().get(8)
    else {
        return Ok(String::new());
    };
    String::from_utf8(path.to_vec()).map_err(|_| {
        let text = "runtime options: criu_path is not UTF-8";
        Error::new(Kind::InvalidConfig, text)
    })
}

/// `runtimeoptions.v1.Options`: type_url 1, config_path 2, config_body 3.
fn from_toml(any: &Any) -> Result<Words> {
    let (path, body) = toml_parts(&any.value).map_err(|error| unreadable(any, &error))?;
    let (from, text) = match (body.is_empty(), path.is_empty()) {
        (false, _) => ("config_body".to_owned(), body),
        (true, false) => {
            let text = fs::read(&path)
                .map_err(|error| Error::new(Kind::System, error.to_string()))
                .context(|| format!("runtime options: read {path:?}"))?;
            (path, text)
        }
        (true, true) => return Ok(Words::default()),
    };
    let invalid = |error: &dyn std::fmt::Display| {
        let text = format!("runtime options: {from}: {error}");
        Error::new(Kind::InvalidConfig, text.trim_end().replace('\n', "; "))
    };
    let text = String::from_utf8(text).map_err(|error| invalid(&error))?;
    toml::from_str(&text).map_err(|error| invalid(&error))
}

fn toml_parts(value: &[u8]) -> protobuf::Result<(String, Vec<u8>)> {
    let mut input = CodedInputStream::from_bytes(value);
    let (mut path, mut body) = (String::new(), Vec::new());
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        match tag {
            // Field number and wire type 2 (bytes).
            0x12 => path = input.read_string()?,
            0x1a => body = input.read_bytes()?,
            _ => protobuf::rt::skip_field_for_tag(tag, &mut input)?,
        }
    }
    Ok((path, body))
}

fn unknown(any: &Any) -> Error {
    let text = format!("runtime options: {:?} is not supported", any.type_url);
    Error::new(Kind::InvalidConfig, text)
}

fn unreadable(any: &Any, error: &protobuf::Error) -> Error {
    let text = format!("runtime options: {:?}: {error}", any.type_url);
    Error::new(Kind::InvalidConfig, text)
}

fn or<'a>(given: &'a str, default: &'a str) -> &'a str {
    if given.is_empty() { default } else { given }
}

/// The runtime as a path: as given, from PATH, or by default the one beside the
/// shim.
fn find_binary(name: &str) -> Result<PathBuf> {
    if name.is_empty()
        && let Ok(own) = std::env::current_exe()
    {
        let beside = own.with_file_name(BINARY);
        if beside.exists() {
            return Ok(beside);
        }
    }
    let name = or(name, BINARY);
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let text = format!("runtime {name:?}: executable file not found in $PATH");
            Error::new(Kind::CommandNotFound, text)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any {
            type_url: type_url.to_owned(),
            value,
            ..Any::default()
        }
    }

    /// As containerd 1.7 encodes them.
    fn toml(body: &str) -> Any {
        let mut value = vec![0x0a, 1, b't', 0x1a];
        // The length as a varint of two bytes.
        let (high, low) = (body.len() >> 7, body.len() & 0x7f | 0x80);
        value.extend([low, high].map(|byte| u8::try_from(byte).unwrap()));
        value.extend(body.as_bytes());
        any("runtimeoptions.v1.Options", value)
    }

    #[test]
    fn both_forms_say_the_same() {
        let runc = oci::Options {
            binary_name: "/opt/r".to_owned(),
            root: "/run/x".to_owned(),
            systemd_cgroup: true,
            no_pivot_root: true,
            io_uid: 7,
            shim_cgroup: "/s".to_owned(),
            ..oci::Options::default()
        };
        let mut runc = runc.write_to_bytes().unwrap();
        runc.extend([0x42, 5]);
        runc.extend(b"/criu");
        let runc = any("containerd.runc.v1.Options", runc);
        let toml = toml(
            "BinaryName = \"/opt/r\"\nRoot = \"/run/x\"\nSystemdCgroup = true\nNoPivotRoot = true\nIoUid = 7\nShimCgroup = \"/s\"\nCriuPath = \"/criu\"\nNew = 1\n",
        );
        let wanted = Options {
            binary: PathBuf::from("/opt/r"),
            root: PathBuf::from("/run/x/ns"),
            systemd_cgroup: true,
            no_pivot_root: true,
            io_uid: 7,
            shim_cgroup: "/s".to_owned(),
            criu_path: "/criu".to_owned(),
            ..Options::default()
        };
        assert_eq!(Options::parse(Some(&runc), "ns").as_ref(), Ok(&wanted));
        assert_eq!(Options::parse(Some(&toml), "ns").as_ref(), Ok(&wanted));
    }

    #[test]
    fn what_was_kept_is_read_again_also_the_go_shims() {
        let bundle = std::env::temp_dir().join(format!("rrun-options-{}", std::process::id()));
        fs::create_dir(&bundle).unwrap();
        let ours = Options {
            binary: PathBuf::from("/opt/r"),
            root: PathBuf::from("/run/x/ns"),
            ..Options::default()
        };
        ours.save(&bundle).unwrap();
        assert_eq!(Options::load(&bundle, "ns").as_ref(), Ok(&ours));
        assert!(!bundle.join(".options.json").exists());
        for (json, runtime, binary, root, systemd) in [
            (
                r#"{"binary_name":"/opt/r","root":"/run/x","systemd_cgroup":true}"#,
                "/opt/r",
                "/opt/r",
                "/run/x/ns",
                true,
            ),
            (
                r#"{"root":"/run/x"}"#,
                "/opt/r\n",
                "/opt/r",
                "/run/x/ns",
                false,
            ),
            ("{}", "/opt/r", "/opt/r", "/run/containerd/runc/ns", false),
            ("", "/opt/r", "/opt/r", "/run/containerd/runc/ns", false),
        ] {
            fs::write(bundle.join(FILE), json).unwrap();
            fs::write(bundle.join(GO_RUNTIME), runtime).unwrap();
            let go = Options::load(&bundle, "ns").unwrap();
            let read = (go.binary.to_str(), go.root.to_str(), go.systemd_cgroup);
            assert_eq!(read, (Some(binary), Some(root), systemd), "{json}");
        }
        fs::remove_dir_all(&bundle).unwrap();
    }

    #[test]
    fn what_can_t_be_read_is_named() {
        for (given, text) in [
            (
                any("x.y/Z", Vec::new()),
                "runtime options: \"x.y/Z\" is not supported",
            ),
            (
                toml("SystemdCgroup = 1"),
                "runtime options: config_body: TOML parse error at line 1, column 17;   |; 1 | SystemdCgroup = 1;   |                 ^; invalid type: integer `1`, expected a boolean",
            ),
            (
                any("runtimeoptions.v1.Options", vec![0x12, 2, b'/', b'x']),
                "runtime options: read \"/x\": No such file or directory (os error 2)",
            ),
        ] {
            let error = Options::parse(Some(&given), "ns").unwrap_err();
            assert_eq!(error.to_string(), text);
        }
        let cut = any("containerd.runc.v1.Options", vec![0x32, 9, b'x']);
        let error = Options::parse(Some(&cut), "ns").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("runtime options: \"containerd.runc.v1.Options\": "),
            "{error}"
        );
    }

    #[test]
    fn the_flags_of_a_checkpoint_are_the_runtime_s() {
        let given = |options: oci::CheckpointOptions| {
            let value = options.write_to_bytes().unwrap();
            let any = any("containerd.runc.v1.CheckpointOptions", value);
            CheckpointOptions::parse(Some(&any)).unwrap().flags()
        };
        for (options, flags) in [
            (oci::CheckpointOptions::default(), "--leave-running"),
            (
                oci::CheckpointOptions {
                    exit: true,
                    open_tcp: true,
                    external_unix_sockets: true,
                    terminal: true,
                    file_locks: true,
                    empty_namespaces: vec!["network".to_owned()],
                    cgroups_mode: "soft".to_owned(),
                    ..oci::CheckpointOptions::default()
                },
                "--tcp-established --ext-unix-sk --shell-job --file-locks --empty-ns=network --manage-cgroups-mode=soft",
            ),
        ] {
            assert_eq!(given(options).join(" "), flags);
        }
    }
}
