//! `start`, `delete`, `-info` and `-v` of the real binary, as each containerd
//! calls them. Needs root; sockets are in the test's own folder, and every
//! server that was started is ended.
//!
//! Files, descriptors and answers were compared with those of Debian's
//! containerd-shim-runc-v2 1.6, which answers as to containerd 1.6 always.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-rrun-v2");
const NAMESPACE: &str = "rrun-test";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A bundle with its `log` FIFO. Its servers and sockets go with it.
struct Bundle {
    folder: PathBuf,
    id: String,
}

impl Bundle {
    fn new() -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("boot-{}-{count}", std::process::id());
        Self::named(&id)
    }

    fn named(id: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("rrun-{id}"));
        fs::create_dir_all(folder.join("rootfs")).unwrap();
        let bundle = Self {
            folder,
            id: id.to_owned(),
        };
        bundle.configure("{\"ociVersion\": \"1.0.2\"}");
        nix::unistd::mkfifo(&bundle.folder.join("log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        bundle
    }

    /// Another container with its own bundle, which belongs to `pod`.
    fn of_pod(pod: &str) -> Self {
        let bundle = Self::new();
        bundle.configure(&format!(
            "{{\"annotations\": {{\"io.kubernetes.cri.sandbox-id\": {pod:?}}}}}"
        ));
        bundle
    }

    fn configure(&self, config: &str) {
        fs::write(self.folder.join("config.json"), config).unwrap();
    }

    /// The command line and environment of containerd 1.6.
    fn shim(&self, action: &[&str]) -> Command {
        let mut command = Command::new(SHIM);
        command
            .args(["-namespace", NAMESPACE, "-id", &self.id])
            .args(["-address", "/nowhere/containerd.sock"])
            .args(["-publish-binary", "/bin/false"])
            .args(action)
            .current_dir(&self.folder)
            .env_remove("MAX_SHIM_VERSION")
            .env("TTRPC_ADDRESS", "/nowhere/containerd.sock.ttrpc")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn start(&self) -> Output {
        run(self.shim(&["start"]), &options())
    }

    /// The address that `start` answered to a containerd 1.6.
    fn started(&self) -> String {
        let output = self.start();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        assert_eq!(stderr, "");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The servers that were started for this container.
    fn servers(&self) -> Vec<Pid> {
        let wanted = format!("-id\0{}\0", self.id);
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter(|entry| {
                let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
                command.contains(&wanted) && command.contains("-socket\0")
            })
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .map(Pid::from_raw)
            .collect()
    }

    /// Its command line can be read a moment after `start` has come back: execve
    /// wakes whoever waits for it before it has copied the words.
    fn server(&self) -> Pid {
        let end = Instant::now() + Duration::from_secs(5);
        while self.servers().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let servers = self.servers();
        assert_eq!(servers.len(), 1, "{servers:?}");
        servers[0]
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for server in self.servers() {
            end(server, Signal::SIGKILL);
        }
        if let Ok(address) = fs::read_to_string(self.folder.join("address")) {
            let _gone = fs::remove_file(socket_of(&address));
        }
        let _gone = fs::remove_dir_all(&self.folder);
    }
}

/// Sends a signal and waits until the process is gone.
fn end(pid: Pid, signal: Signal) {
    let _gone = kill(pid, signal);
    wait_until("the server ends", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn run(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.spawn().unwrap();
    let written = child.stdin.take().unwrap().write_all(input);
    // One that fails before it reads may be gone already.
    if let Err(error) = written {
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    }
    child.wait_with_output().unwrap()
}

fn socket_of(address: &str) -> PathBuf {
    PathBuf::from(address.strip_prefix("unix://").unwrap_or(address))
}

/// A protobuf field of bytes or text, shorter than 128.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2, u8::try_from(value.len()).unwrap()];
    field.extend(value);
    field
}

/// `containerd.runc.v1.Options` with a runtime that always succeeds, as Any.
fn options() -> Vec<u8> {
    let mut any = field(1, b"containerd.runc.v1.Options");
    any.extend(field(2, &field(6, b"/bin/true")));
    any
}

/// What containerd 2.3 and newer sends.
fn params(bundle: &Bundle, folder: &Path) -> Vec<u8> {
    let mut params = field(1, bundle.id.as_bytes());
    params.extend(field(2, NAMESPACE.as_bytes()));
    // The log level: -4 as a 64-bit varint.
    params.extend([
        3 << 3,
        0xfc,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        0xff,
        1,
    ]);
    params.extend(field(4, b"v2.3.0"));
    params.extend(field(5, b"/nowhere/bootstrap.ttrpc"));
    params.extend(field(8, &field(1, &options())));
    params.extend(field(9, folder.to_str().unwrap().as_bytes()));
    params
}

#[test]
fn containerd_1_6_reads_the_address_alone() {
    let bundle = Bundle::new();
    let output = bundle.start();
    assert!(output.status.success());
    assert_eq!(output.stderr, b"");
    let address = String::from_utf8(output.stdout).unwrap();
    assert!(
        address.starts_with("unix:///run/containerd/s/"),
        "{address}"
    );
    assert_eq!(bundle.file("address"), address);
    let mut files: Vec<_> = fs::read_dir(&bundle.folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["address", "config.json", "log", "rootfs"]);
}

#[test]
fn containerd_1_7_to_2_2_reads_version_2() {
    let bundle = Bundle::new();
    let mut start = bundle.shim(&["start"]);
    start.env("MAX_SHIM_VERSION", "2");
    let output = run(start, &options());
    assert!(output.status.success());
    assert_eq!(output.stderr, b"");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let address = bundle.file("address");
    let wanted = serde_json::json!({"version": 2, "address": address, "protocol": "ttrpc"});
    assert_eq!(answer, wanted);
}

#[test]
fn containerd_2_3_reads_version_3_and_says_where_the_socket_goes() {
    let bundle = Bundle::new();
    let folder = bundle.folder.join("sockets");
    let mut start = bundle.shim(&["start"]);
    start.env("MAX_SHIM_VERSION", "2");
    let output = run(start, &params(&bundle, &folder));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    let address = bundle.file("address");
    let mut wanted = vec![1 << 3, 3];
    wanted.extend(field(2, address.as_bytes()));
    wanted.extend(field(3, b"ttrpc"));
    assert_eq!(output.stdout, wanted);
    assert_eq!(socket_of(&address).parent(), Some(&*folder));
    let server = bundle.server();
    let environment = fs::read_to_string(format!("/proc/{server}/environ")).unwrap();
    assert!(environment.contains("TTRPC_ADDRESS=/nowhere/bootstrap.ttrpc\0"));
    let command = fs::read_to_string(format!("/proc/{server}/cmdline")).unwrap();
    assert!(command.contains("\0-debug\0"), "{command:?}");
}

#[test]
fn only_root_reaches_the_socket() {
    let bundle = Bundle::new();
    let folder = bundle.folder.join("sockets");
    run(bundle.shim(&["start"]), &params(&bundle, &folder));
    let socket = fs::metadata(socket_of(&bundle.file("address"))).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o7777, 0o600);
    let folder = fs::metadata(&folder).unwrap();
    assert_eq!(folder.permissions().mode() & 0o7777, 0o700);
    assert_eq!((socket.uid(), folder.uid()), (0, 0));
}

#[test]
fn a_folder_in_which_others_write_is_refused() {
    let bundle = Bundle::new();
    let folder = bundle.folder.join("sockets");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let output = run(bundle.shim(&["start"]), &params(&bundle, &folder));
    assert!(!output.status.success());
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        format!(
            "containerd-shim-rrun-v2: socket folder {folder:?}: others can write in it (mode 777)\n"
        )
    );
}

#[test]
fn the_server_holds_nothing_of_containerd() {
    let bundle = Bundle::new();
    bundle.started();
    let server = bundle.server();
    let proc = PathBuf::from(format!("/proc/{server}"));
    // It closes them before it opens the log.
    let log = bundle.folder.join("log");
    wait_until("the log is standard error", || {
        fs::read_link(proc.join("fd/2")).is_ok_and(|target| target == log)
    });
    for (fd, wanted) in [("0", "/dev/null"), ("1", "/dev/null")] {
        let target = fs::read_link(proc.join("fd").join(fd)).unwrap();
        assert_eq!(target.to_str(), Some(wanted), "{fd}");
    }
    for entry in fs::read_dir(proc.join("fd")).unwrap().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        let kind = target.to_str().unwrap();
        let known = ["socket:", "anon_inode:", "/dev/null"];
        assert!(
            target == log || known.iter().any(|known| kind.starts_with(known)),
            "{kind}"
        );
    }
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    // Behind the name: state, parent, group.
    let group = stat.rsplit(") ").next().unwrap().split(' ').nth(2).unwrap();
    assert_eq!(group, server.to_string());
    let status = fs::read_to_string(proc.join("status")).unwrap();
    assert!(status.contains("\nThreads:\t1\n"), "{status}");
    let score = |path: &Path| -> i32 {
        let text = fs::read_to_string(path.join("oom_score_adj")).unwrap();
        text.trim().parse().unwrap()
    };
    // It starts before it is placed, but `start` has returned.
    assert_eq!(score(&proc), score(Path::new("/proc/self")) + 1);
    assert_eq!(fs::read_link(proc.join("exe")).unwrap(), Path::new(SHIM));
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), bundle.folder);
}

#[test]
fn the_containers_of_a_pod_share_a_server() {
    let pod = Bundle::new();
    let address = pod.started();
    let web = Bundle::of_pod(&pod.id);
    let other = Bundle::new();
    assert_eq!(web.started(), address);
    assert_eq!(web.file("address"), address);
    assert_eq!(web.servers(), []);
    // containerd's log level may change while a pod runs.
    let mut debug = web.shim(&["-debug", "start"]);
    debug.env("MAX_SHIM_VERSION", "2");
    let output = run(debug, b"");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["address"], *address);
    assert_ne!(other.started(), address);
    pod.server();
    other.server();
}

#[test]
fn what_a_killed_server_has_left_is_replaced() {
    let bundle = Bundle::new();
    let address = bundle.started();
    let first = bundle.server();
    end(first, Signal::SIGKILL);
    assert!(socket_of(&address).exists());
    assert_eq!(bundle.started(), address);
    assert_ne!(bundle.server(), first);
    UnixStream::connect(socket_of(&address)).unwrap();
}

#[test]
fn of_many_at_once_one_brings_up_the_server() {
    for stale in [false, true] {
        let pod = Bundle::new();
        if stale {
            pod.started();
            end(pod.server(), Signal::SIGKILL);
        }
        let containers: Vec<_> = (0..8).map(|_| Bundle::of_pod(&pod.id)).collect();
        let children: Vec<_> = containers
            .iter()
            .map(|container| {
                let mut child = container.shim(&["start"]).spawn().unwrap();
                child.stdin.take().unwrap().write_all(&options()).unwrap();
                child
            })
            .collect();
        let mut answers: Vec<_> = children
            .into_iter()
            .map(|child| child.wait_with_output().unwrap())
            .map(|output| (output.stdout, output.stderr))
            .collect();
        answers.dedup();
        assert_eq!(answers.len(), 1, "stale: {stale}");
        // Its words can be read a moment later (see `server`), and so can those
        // of a second one, which would stay.
        let servers = || -> Vec<Pid> { containers.iter().flat_map(Bundle::servers).collect() };
        wait_until("the server is there", || !servers().is_empty());
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(servers().len(), 1, "stale: {stale}");
    }
}

#[test]
fn a_start_waits_for_another_one_that_binds() {
    let bundle = Bundle::new();
    let folder = bundle.folder.join("sockets");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    let opened = fs::File::open(&folder).unwrap();
    let lock = Flock::lock(opened, FlockArg::LockExclusive).unwrap();
    let mut start = bundle.shim(&["start"]).spawn().unwrap();
    let mut input = start.stdin.take().unwrap();
    input.write_all(&params(&bundle, &folder)).unwrap();
    drop(input);
    std::thread::sleep(Duration::from_millis(200));
    assert!(start.try_wait().unwrap().is_none());
    assert_eq!(bundle.servers(), []);
    drop(lock);
    assert!(start.wait().unwrap().success());
    bundle.server();
}

#[test]
fn a_server_that_is_told_to_end_takes_its_socket_along() {
    let bundle = Bundle::new();
    let address = bundle.started();
    // It answers, so it catches signals by now.
    let log = bundle.folder.join("log");
    let server = bundle.server();
    wait_until("the server is up", || {
        let status = fs::read_to_string(format!("/proc/{server}/status")).unwrap_or_default();
        let caught = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:\t"));
        let caught = u64::from_str_radix(caught.unwrap_or("0"), 16).unwrap();
        caught & 1 << (Signal::SIGTERM as u32 - 1) != 0
    });
    end(server, Signal::SIGTERM);
    assert!(!socket_of(&address).exists());
    assert!(log.exists());
}

#[test]
fn a_start_that_fails_says_why_and_leaves_no_server() {
    let cgroup = field(3, b"/rrun-test-no-such-cgroup");
    let any = |value: &[u8]| {
        let mut any = field(1, b"containerd.runc.v1.Options");
        any.extend(field(2, value));
        any
    };
    let mut no_cgroup = field(6, b"/bin/true");
    no_cgroup.extend(cgroup);
    let unknown = field(1, b"runhcs.v1.Options");
    let nowhere = any(&field(6, b"no-such-runtime"));
    for (name, config, input, text) in [
        (
            "config",
            "{",
            options(),
            "config.json\": EOF while parsing an object at line 1 column 1",
        ),
        (
            "options",
            "{}",
            unknown,
            "runtime options: \"runhcs.v1.Options\" is not supported",
        ),
        (
            "runtime",
            "{}",
            nowhere,
            "runtime \"no-such-runtime\": executable file not found in $PATH",
        ),
        (
            "cgroup",
            "{}",
            any(&no_cgroup),
            "ShimCgroup \"/rrun-test-no-such-cgroup\": there is no such cgroup",
        ),
        (
            "input",
            "{}",
            vec![0x0a, 0xff],
            "standard input: neither options nor bootstrap parameters: ",
        ),
    ] {
        let bundle = Bundle::new();
        bundle.configure(config);
        let output = run(bundle.shim(&["start"]), &input);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{name}");
        assert_eq!(output.stdout, b"", "{name}");
        assert!(stderr.contains(text), "{name}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{name}: {stderr}");
        assert_eq!(bundle.servers(), [], "{name}");
        if let Ok(address) = fs::read_to_string(bundle.folder.join("address")) {
            assert!(!socket_of(&address).exists(), "{name}");
        }
    }
}

/// The options that a shim keeps in its bundle.
fn keep_options(bundle: &Bundle, binary: &str) {
    let kept = serde_json::json!({
        "binary": binary, "root": "/nowhere", "systemd_cgroup": false,
        "no_pivot_root": false, "no_new_keyring": false, "io_uid": 0, "io_gid": 0,
        "shim_cgroup": "", "criu_path": "", "criu_image_path": "", "criu_work_path": "",
    });
    fs::write(bundle.folder.join("options.json"), kept.to_string()).unwrap();
}

#[test]
fn delete_answers_what_was_recorded_else_137() {
    for (name, recorded, wanted) in [
        ("nothing", None, &[0x08, 77, 0x10, 0x89, 1][..]),
        (
            "an exit",
            Some("{\"pid\": 78, \"exit_status\": 5, \"exited_at\": 3000000007}"),
            &[0x08, 78, 0x10, 5, 0x1a, 4, 0x08, 3, 0x10, 7][..],
        ),
        (
            "half an exit",
            Some("{\"pid\": 7"),
            &[0x08, 77, 0x10, 0x89, 1][..],
        ),
    ] {
        let bundle = Bundle::new();
        keep_options(&bundle, "/bin/true");
        fs::write(bundle.folder.join("init.pid"), "77").unwrap();
        if let Some(recorded) = recorded {
            fs::write(bundle.folder.join("exitstatus.json"), recorded).unwrap();
        }
        let output = run(bundle.shim(&["delete"]), b"");
        assert!(output.status.success(), "{name}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{name}");
        assert!(
            output.stdout.starts_with(wanted),
            "{name}: {:?}",
            output.stdout
        );
    }
}

#[test]
fn delete_unmounts_all_and_takes_the_socket_of_a_dead_server() {
    let bundle = Bundle::new();
    let address = bundle.started();
    end(bundle.server(), Signal::SIGKILL);
    keep_options(&bundle, "/bin/true");
    let rootfs = bundle.folder.join("rootfs");
    let none = None::<&str>;
    for _ in 0..2 {
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("none"), &rootfs, Some("tmpfs"), flags, none).unwrap();
        fs::create_dir(rootfs.join("below")).unwrap();
        let below = rootfs.join("below");
        nix::mount::mount(Some("none"), &below, Some("tmpfs"), flags, none).unwrap();
    }
    // containerd runs it in another folder, too.
    let mut delete = bundle.shim(&["-bundle", bundle.folder.to_str().unwrap(), "delete"]);
    delete.current_dir("/");
    let output = run(delete, b"");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(rootfs.to_str().unwrap()), "{mounts}");
    assert!(!socket_of(&address).exists());
}

#[test]
fn delete_leaves_the_server_of_a_pod_alone() {
    let pod = Bundle::new();
    let address = pod.started();
    let web = Bundle::of_pod(&pod.id);
    web.started();
    keep_options(&web, "/bin/true");
    assert!(run(web.shim(&["delete"]), b"").status.success());
    assert!(socket_of(&address).exists());
    pod.server();
}

#[test]
fn a_runtime_that_fails_is_a_warning_and_the_status_is_answered() {
    let bundle = Bundle::new();
    keep_options(&bundle, "/bin/false");
    let recorded = "{\"pid\": 78, \"exit_status\": 5, \"exited_at\": 3000000007}";
    fs::write(bundle.folder.join("exitstatus.json"), recorded).unwrap();
    let output = run(bundle.shim(&["delete"]), b"");
    assert!(output.status.success());
    assert_eq!(
        output.stdout,
        [0x08, 78, 0x10, 5, 0x1a, 4, 0x08, 3, 0x10, 7]
    );
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("containerd-shim-rrun-v2: "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn the_version_and_what_the_runtime_can_do_are_told() {
    let mut version = Command::new(SHIM);
    let output = version.arg("-v").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("containerd-shim-rrun-v2:\n  Version:  "),
        "{text}"
    );
    let bundle = Bundle::new();
    let runtime = bundle.folder.join("runtime.sh");
    // Not written by us: a child that another test makes just then would hold it
    // open for writing, and so nobody could execute it.
    let script = "#!/bin/sh\n[ \"$1\" = features ] && echo '{\"a\": 1}'\n";
    let mut writer = Command::new("sh");
    writer
        .args(["-c", "cat >runtime.sh"])
        .current_dir(&bundle.folder)
        .stdin(Stdio::piped());
    assert!(run(writer, script.as_bytes()).status.success());
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
    let mut any = field(1, b"containerd.runc.v1.Options");
    any.extend(field(2, &field(6, runtime.to_str().unwrap().as_bytes())));
    let mut info = Command::new(SHIM);
    info.arg("-info")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let output = run(info, &any);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for wanted in [
        "io.containerd.rrun.v2",
        "types.containerd.io/opencontainers/runtime-spec/1/features/Features",
        "{\"a\": 1}",
        "containerd.io/runtime-allow-mounts",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}
