//! The program from outside: exit codes, where errors go, and the output of
//! the commands that need no container. No case needs root.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rrun-cli-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Runs rrun here with `root` as its state root.
    fn rrun(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rrun"));
        command.current_dir(&self.0).stdin(Stdio::null());
        command
            .args(["--root", "root"])
            .args(line.split_ascii_whitespace());
        command
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }

    /// A stopped container, as a `create` long ago would have left it.
    fn stopped(&self, id: &str) {
        let directory = self.0.join("root").join(id);
        fs::create_dir_all(&directory).unwrap();
        let record = json!({
            "version": 1, "id": id, "bundle": "/b", "rootfs": "/b/rootfs", "owner": 0,
            "created": "2026-01-02T03:04:05.6Z", "annotations": {"a": "b"},
            // Started before the kernel had started: no process is it.
            "init": {"pid": 1, "startTime": 18_446_744_073_709_551_615_u64},
        });
        fs::write(directory.join("state.json"), record.to_string()).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn a_failure_is_one_line_and_its_exit_code() {
    let scratch = Scratch::new();
    let missing = "container does not exist";
    for (line, code, text) in [
        ("state nope", 1, format!("rrun: state \"nope\": {missing}\n")),
        ("ps nope", 1, format!("rrun: ps \"nope\": {missing}\n")),
        (
            "state a/b",
            1,
            "rrun: invalid container ID format: \"a/b\": only letters, digits and _+.- are allowed\n".into(),
        ),
        (
            "create",
            1,
            "rrun: \"create\" requires exactly 1 argument(s)\nhint: see rrun create --help\n".into(),
        ),
        (
            "--nope list",
            1,
            "rrun: flag provided but not defined: -nope\nhint: see rrun --help\n".into(),
        ),
        (
            "frob",
            1,
            "rrun: no such command: No help topic for 'frob'\nhint: rrun --help lists the commands\n".into(),
        ),
        (
            "--root / list",
            1,
            "rrun: list: state root \"/\": the root directory can't hold containers\n".into(),
        ),
        (
            "--log /nope/log list",
            1,
            "rrun: open(\"/nope/log\", O_APPEND|O_CREAT): no such file or directory\n".into(),
        ),
    ] {
        let output = scratch.rrun(line);
        assert_eq!(output.status.code(), Some(code), "{line}");
        assert_eq!(stderr(&output), text, "{line}");
        assert_eq!(stdout(&output), "", "{line}");
    }
}

#[test]
fn a_json_log_is_exactly_one_object() {
    for (line, msg, code) in [
        (
            "state nope",
            "state \"nope\": container does not exist",
            "not-found",
        ),
        (
            "kill",
            "\"kill\" requires a minimum of 1 argument(s)",
            "usage",
        ),
        (
            "state ..",
            "invalid container ID format: \"..\": it names a directory",
            "usage",
        ),
    ] {
        let scratch = Scratch::new();
        let output = scratch.rrun(&format!("--log log.json --log-format json --debug {line}"));
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            stderr(&output).lines().next(),
            Some(format!("rrun: {msg}").as_str())
        );
        let mut object: Value = serde_json::from_str(&scratch.read("log.json")).unwrap();
        let time = object["time"].take();
        let time = time.as_str().unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
        let expected = json!({"level": "error", "msg": msg, "code": code, "time": null});
        assert_eq!(object, expected, "{line}");
        let mode = fs::metadata(scratch.0.join("log.json"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn warnings_are_lines_of_a_text_log_but_no_lines_of_a_json_log() {
    let scratch = Scratch::new();
    scratch.stopped("whole");
    fs::create_dir(scratch.0.join("root/broken")).unwrap();
    fs::write(scratch.0.join("root/broken/state.json"), "{").unwrap();
    let cause = "list \"broken\": ";
    // The list goes on behind a broken container.
    let output = scratch.rrun("list");
    assert!(output.status.success());
    assert!(stderr(&output).starts_with(&format!("rrun: warning: {cause}")));
    assert!(stdout(&output).contains("whole"));

    let output = scratch.rrun("--log text --log-format text list");
    assert_eq!(stderr(&output), "");
    let line = scratch.read("text");
    assert!(
        line.contains("level=warning msg=\"list \\\"broken\\\": "),
        "{line}"
    );

    // The stderr that an engine gives to `create` is the container's.
    let output = scratch.rrun("--log json --log-format json list");
    assert_eq!(stderr(&output), "");
    assert_eq!(scratch.read("json"), "");

    let output = scratch.rrun("--log-level error list");
    assert_eq!(stderr(&output), "");
}

#[test]
fn state_and_list_have_runcs_shape() {
    let scratch = Scratch::new();
    let table_head = "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n";
    assert_eq!(stdout(&scratch.rrun("list")), table_head);
    assert_eq!(stdout(&scratch.rrun("list -f json")), "null");
    assert_eq!(stdout(&scratch.rrun("list -q")), "");
    assert!(!scratch.0.join("root").exists(), "looking makes nothing");

    scratch.stopped("web");
    // A directory that a killed `create` left.
    fs::create_dir(scratch.0.join("root/half")).unwrap();
    let state = "{
  \"ociVersion\": \"1.3.0\",
  \"id\": \"web\",
  \"pid\": 0,
  \"status\": \"stopped\",
  \"bundle\": \"/b\",
  \"rootfs\": \"/b/rootfs\",
  \"created\": \"2026-01-02T03:04:05.6Z\",
  \"annotations\": {
    \"a\": \"b\"
  },
  \"owner\": \"root\"
}";
    assert_eq!(stdout(&scratch.rrun("state web")), state);
    assert_eq!(
        stdout(&scratch.rrun("list")),
        "ID          PID         STATUS      BUNDLE      CREATED                  OWNER\n\
         web         0           stopped     /b          2026-01-02T03:04:05.6Z   root\n"
    );
    let list: Value = serde_json::from_str(stdout(&scratch.rrun("list --format=json"))).unwrap();
    assert_eq!(list, json!([serde_json::from_str::<Value>(state).unwrap()]));
    assert_eq!(stdout(&scratch.rrun("list -q")), "web\n");
    let output = scratch.rrun("state half");
    assert_eq!(
        stderr(&output),
        "rrun: state \"half\": container does not exist\n"
    );
}

#[test]
fn spec_writes_a_config_once() {
    let scratch = Scratch::new();
    assert!(scratch.rrun("spec").status.success());
    let config: Value = serde_json::from_str(&scratch.read("config.json")).unwrap();
    assert_eq!(config["ociVersion"], "1.3.0");
    assert_eq!(config["process"]["args"], json!(["sh"]));
    assert_eq!(config["root"], json!({"path": "rootfs", "readonly": true}));
    assert_eq!(config["process"]["noNewPrivileges"], true);
    let output = scratch.rrun("spec");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "rrun: spec: \"./config.json\": file exists\nhint: remove it first\n"
    );
    fs::create_dir(scratch.0.join("b")).unwrap();
    assert!(scratch.rrun("spec --bundle b --rootless").status.success());
    let config: Value = serde_json::from_str(&scratch.read("b/config.json")).unwrap();
    let mapping = &config["linux"]["uidMappings"][0];
    assert_eq!(mapping["hostID"], nix::unistd::geteuid().as_raw());
}

/// What `runc spec` writes, but for version and hostname. Oracle: Debian's runc.
#[test]
fn spec_writes_what_runc_writes() {
    for flags in ["", " --rootless"] {
        let scratch = Scratch::new();
        fs::create_dir(scratch.0.join("theirs")).unwrap();
        let words = format!("spec{flags} -b theirs");
        let theirs = Command::new("runc")
            .current_dir(&scratch.0)
            .args(words.split(' '))
            .status();
        assert!(theirs.unwrap().success());
        assert!(scratch.rrun(&format!("spec{flags}")).status.success());
        let read = |name: &str| -> Value {
            let mut config: Value = serde_json::from_str(&scratch.read(name)).unwrap();
            config["ociVersion"].take();
            config["hostname"].take();
            // A set, in whatever order.
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.sort_by_key(ToString::to_string);
            config
        };
        assert_eq!(
            read("config.json"),
            read("theirs/config.json"),
            "spec{flags}"
        );
    }
}

#[test]
fn help_and_version_go_to_stdout_and_succeed() {
    let scratch = Scratch::new();
    for (line, first) in [
        (
            "--version",
            format!("rrun version {}", env!("CARGO_PKG_VERSION")),
        ),
        ("-v", format!("rrun version {}", env!("CARGO_PKG_VERSION"))),
        ("", "Runs containers from OCI bundles".to_owned()),
        ("--help", "Runs containers from OCI bundles".to_owned()),
        (
            "help kill",
            "Send a signal to a container's first process".to_owned(),
        ),
        (
            "kill -h",
            "Send a signal to a container's first process".to_owned(),
        ),
    ] {
        let output = scratch.rrun(line);
        assert!(output.status.success(), "{line}");
        assert_eq!(stderr(&output), "", "{line}");
        assert!(
            stdout(&output).starts_with(&first),
            "{line}: {}",
            stdout(&output)
        );
    }
}

#[test]
fn features_are_json_that_names_the_specification() {
    let scratch = Scratch::new();
    let features: Value = serde_json::from_str(stdout(&scratch.rrun("features"))).unwrap();
    assert_eq!(features["ociVersionMin"], "1.0.0");
    assert_eq!(features["ociVersionMax"], "1.3.0");
    for (pointer, member) in [
        ("/hooks", "createContainer"),
        ("/mountOptions", "rro"),
        ("/linux/namespaces", "time"),
        ("/linux/capabilities", "CAP_CHECKPOINT_RESTORE"),
        ("/linux/seccomp/archs", "SCMP_ARCH_X86_64"),
        ("/linux/seccomp/actions", "SCMP_ACT_NOTIFY"),
    ] {
        let array = features.pointer(pointer).and_then(Value::as_array).unwrap();
        assert!(array.contains(&json!(member)), "{pointer}");
    }
}

#[test]
fn a_reader_that_has_gone_is_a_failure_and_no_panic() {
    let scratch = Scratch::new();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    let child = scratch
        .command("features")
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn();
    let output = child.unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.signal(), None);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "rrun: features: write(stdout): broken pipe\n"
    );
}

#[test]
fn the_table_of_error_codes_is_the_one_in_the_code() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, table) = page.split_once("| code | what happened |").unwrap();
    let codes: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(code, _)| code)
        .collect();
    assert_eq!(codes.len(), 11, "{codes:?}");
    for code in codes {
        let kind = rrun::error::Kind::from_name(code);
        assert_eq!(kind.map(rrun::error::Kind::name), Some(code));
    }
}

#[test]
fn a_panic_is_one_line_and_a_failure() {
    use rrun::log::{Log, LogFormat, LogLevel};
    const ROLE: &str = "RRUN_TEST_PANICS_INTO";
    // This test runs itself again: as the process that panics.
    if let Some(file) = std::env::var_os(ROLE) {
        let log = Log::open(Some(file.as_ref()), LogFormat::Json, LogLevel::Warning).unwrap();
        log.catch_panics();
        panic!("two\nlines");
    }
    let scratch = Scratch::new();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_panic_is_one_line_and_a_failure",
            "--nocapture",
        ])
        .env(ROLE, scratch.0.join("log"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<&str> = stderr(&output).lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("rrun: internal error at runtime/tests/cli.rs:"),
        "{lines:?}"
    );
    assert!(lines[0].ends_with(": two lines"), "{lines:?}");
    assert_eq!(lines[1], "hint: this is a defect of rrun: please report it");
    let object: Value = serde_json::from_str(&scratch.read("log")).unwrap();
    assert_eq!(object["code"], "system");
}
