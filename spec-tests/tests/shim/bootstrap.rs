//! `start`, `delete`, `-info` and `-v` as each containerd asks them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use spec_tests::shim::containerd::{GENERATIONS, is_alive, log_text, output, prepare};
use spec_tests::shim::options::{Field, typed};
use spec_tests::shim::task::{GONE, Wish};
use spec_tests::shim::{Containerd, Generation, SOCKETS, Streams, Task};
use spec_tests::{Bundle, Case, Test, sys};

const GO_SHIM: &str = "containerd-shim-runc-v2";
const OLD_SHIM: &str = "the Go shim of 1.6 knows no bootstrap parameters";

/// The cases.
pub(crate) const CASES: &[Case] = &[
    Case::go("1.6 is answered with the plain address", answer_1_6),
    Case::go("1.7 and 2.0 understand the answer", answer_1_7_and_2_0),
    Case::kernel(
        "1.7 and 2.0 are answered with JSON of version 2",
        answer_json,
    )
    .except(&[(
        "containerd-shim-runc-v2",
        "the Go shim of 1.6 answers everybody with the plain address",
    )]),
    Case::kernel(
        "2.3 is answered with a bootstrap result of version 3",
        answer_2_3,
    )
    .except(&[("containerd-shim-runc-v2", OLD_SHIM)]),
    Case::go(
        "a container runs and ends under 1.6, 1.7 and 2.0",
        runs_everywhere,
    ),
    Case::kernel("a container runs and ends under 2.3", runs_under_2_3)
        .except(&[("containerd-shim-runc-v2", OLD_SHIM)]),
    Case::kernel(
        "both versions of the service are on one socket",
        both_services,
    )
    .except(&[(
        "containerd-shim-runc-v2",
        "the Go shim of 1.6 serves version 2",
    )]),
    Case::go(
        "start writes the address, not one byte to stderr, also with -debug",
        start_is_silent,
    ),
    Case::go("a byte on stderr would spoil the answer", a_byte_spoils),
    Case::go(
        "the socket is 0600 and its directory closed to others",
        modes,
    ),
    Case::kernel("what is logged is for its owner alone", log_modes)
        .except(&[(GO_SHIM, "its runtime's log is 0644 by the umask")]),
    Case::go("another user is refused", other_user),
    Case::go(
        "the shim is a daemon of its own group, a bit more killable",
        daemon,
    ),
    Case::go("containers of a group share a shim", group),
    Case::go("containers of a sandbox share a shim", sandbox),
    Case::go("a dead shim of a group is replaced", dead_shim_is_replaced),
    Case::kernel(
        "a second container of a sandbox comes without a start call",
        version_3_rule,
    )
    .except(&[("containerd-shim-runc-v2", OLD_SHIM)]),
    Case::go(
        "start twice for one id finds the shim that runs",
        start_twice,
    ),
    Case::go(
        "a containerd started anew finds the shim by its file",
        reconnect,
    ),
    Case::kernel("delete of what never was answers 137", delete_of_nothing).except(&[(
        "containerd-shim-runc-v2",
        "the Go shim fails where Create did not come as far as its file `runtime`",
    )]),
    Case::go("an empty namespace is refused", no_namespace),
    Case::go("-v tells the version", version),
    Case::kernel("-info tells name, version, options and features", info)
        .except(&[("containerd-shim-runc-v2", "the Go shim of 1.6 has no -info")]),
    Case::go(
        "start without a bundle's config.json fails with its name",
        no_config,
    ),
    Case::go("ShimCgroup is joined", shim_cgroup),
    Case::kernel(
        "the shim may open all files that it may; containers have the limit that it had",
        open_files,
    )
    .except(&[(
        "containerd-shim-runc-v2",
        "the Go shim of 1.6 hands its raised limit on",
    )]),
    Case::kernel(
        "without a ttrpc address events go by containerd's binary",
        events_by_binary,
    )
    .except(&[(
        "containerd-shim-runc-v2",
        "the Go shim has no other way than ttrpc",
    )]),
];

fn is_address(text: &str) -> bool {
    let hash = text.strip_prefix("unix:///run/containerd/s/");
    hash.is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn answer_1_6(test: &Test) {
    let containerd = Containerd::new(test, Generation::V1_6);
    let bundle = Bundle::new(test).args(&["/bin/sleep"]);
    let task = Task::create(&containerd, bundle, Streams::none());
    let text = String::from_utf8(task.shim.answer.clone()).expect("text");
    assert!(is_address(&text), "{text:?}");
    assert_eq!(
        fs::read_to_string(task.bundle.path.join("address")).expect("address"),
        text
    );
    task.end_all();
}

fn answer_1_7_and_2_0(test: &Test) {
    for generation in [Generation::V1_7, Generation::V2_0] {
        let containerd = Containerd::new(test, generation);
        let bundle = Bundle::new(test).args(&["/bin/sleep"]);
        let task = Task::create(&containerd, bundle, Streams::none());
        assert_eq!(task.shim.version, 2, "{generation:?}");
        // Also for a containerd that was set back to 1.6.
        let text = fs::read_to_string(task.bundle.path.join("address")).expect("address");
        assert!(is_address(&text), "{text:?}");
        task.end_all();
    }
}

fn answer_json(test: &Test) {
    for generation in [Generation::V1_7, Generation::V2_0] {
        let containerd = Containerd::new(test, generation);
        let bundle = Bundle::new(test).args(&["/bin/sleep"]);
        let task = Task::create(&containerd, bundle, Streams::none());
        let json: serde_json::Value = serde_json::from_slice(&task.shim.answer).expect("JSON");
        assert_eq!(json["version"], 2);
        assert_eq!(json["protocol"], "ttrpc");
        assert!(is_address(json["address"].as_str().expect("address")));
        task.end_all();
    }
}

fn answer_2_3(test: &Test) {
    let containerd = Containerd::new(test, Generation::V2_3);
    let bundle = Bundle::new(test).args(&["/bin/sleep"]);
    let task = Task::create(&containerd, bundle, Streams::none());
    assert_eq!(task.shim.version, 3);
    assert!(serde_json::from_slice::<serde_json::Value>(&task.shim.answer).is_err());
    let text = fs::read_to_string(task.bundle.path.join("address")).expect("address");
    assert!(is_address(&text), "{text:?}");
    task.end_all();
}

fn runs(test: &Test, generation: Generation) {
    let containerd = Containerd::new(test, generation);
    let bundle = Bundle::new(test).probe(&["say", "hello", ";", "exit", "7"]);
    let id = bundle.id.clone();
    let streams = Streams::fifos(test, false);
    let reader = streams.read();
    let task = Task::run(&containerd, bundle, streams);
    let shim = task.shim.clone();
    assert_eq!(task.finish(), 7);
    assert_eq!(reader.end(), "{\"said\":[\"hello\"]}\n");
    shim.wait_gone(GONE);
    let story = containerd.events.whole_story(&id);
    assert_eq!(
        story,
        ["create", "start", "exit", "delete"],
        "{generation:?}"
    );
}

fn runs_everywhere(test: &Test) {
    for generation in [Generation::V1_6, Generation::V1_7, Generation::V2_0] {
        runs(test, generation);
    }
}

fn runs_under_2_3(test: &Test) {
    runs(test, Generation::V2_3);
}

fn both_services(test: &Test) {
    use containerd_shim_protos::api::{StateRequest, StateResponse};
    let containerd = Containerd::new(test, Generation::V2_0);
    let bundle = Bundle::new(test).args(&["/bin/sleep"]);
    let task = Task::create(&containerd, bundle, Streams::none());
    for version in [2, 3] {
        let request = StateRequest {
            id: task.id.clone(),
            ..StateRequest::default()
        };
        let service = format!("containerd.task.v{version}.Task");
        let sent = task.shim.client.borrow().send(&service, "State", &request);
        let state: StateResponse = sent.wait().expect("State");
        assert_eq!(state.pid as i32, task.pid, "version {version}");
    }
    task.end_all();
}

fn start_is_silent(test: &Test) {
    for debug in [false, true] {
        let mut containerd = Containerd::new(test, Generation::V1_6);
        containerd.debug = debug;
        let bundle = Bundle::new(test).args(&["/bin/sleep"]);
        prepare(&bundle);
        let mut command = containerd.command(&bundle, &bundle.id);
        if debug {
            command.arg("-debug");
        }
        let errors = test.directory.join("errors");
        command
            .arg("start")
            .stderr(fs::File::create(&errors).expect("a file"));
        let (code, stdout) = output(command, &[]);
        assert_eq!(fs::read_to_string(&errors).expect("stderr"), "");
        assert_eq!(code, 0);
        let stdout = String::from_utf8(stdout).expect("text");
        assert!(is_address(&stdout), "{stdout:?}");
        let task = Task::run(&containerd, bundle, Streams::none());
        let bundle = task.bundle.path.clone();
        let told = log_text(&task.bundle);
        // Logrus' text form, with levels that containerd reads.
        assert!(
            told.lines()
                .all(|line| line.contains("level=") && line.contains("msg=")),
            "{told}"
        );
        task.end_all();
        assert!(!bundle.exists());
    }
}

fn a_byte_spoils(test: &Test) {
    let mut containerd = Containerd::new(test, Generation::V1_6);
    let bundle = Bundle::new(test).args(&["/bin/sleep"]);
    let wrapper = test.directory.join("containerd-shim-loud-v2");
    let script = format!(
        "#!/bin/sh\nprintf x >&2\nexec {} \"$@\"\n",
        test.runtime.display()
    );
    fs::write(&wrapper, script).expect("a wrapper");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("chmod");
    containerd.program = wrapper;
    let Err(error) = containerd.start(&bundle, None) else {
        panic!("a spoilt answer is understood");
    };
    assert!(error.contains("unsupported address \"x"), "{error}");
    // The shim runs, nobody knows; a second start finds it.
    containerd.program.clone_from(&test.runtime);
    Task::create(&containerd, bundle, Streams::none()).end_all();
}

fn modes(test: &Test) {
    let containerd = Containerd::new(test, Generation::V1_6);
    let bundle = Bundle::new(test).args(&["/bin/sleep"]);
    let task = Task::create(&containerd, bundle, Streams::none());
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o7777;
    assert_eq!(mode(&task.shim.socket), 0o600);
    let directory = mode(Path::new(SOCKETS));
    // The Go shim of 1.6 forgets the owner's right to pass, which root does not need.
    let expected = if test.is("containerd-shim-runc-v2") {
        0o600
    } else {
        0o700
    };
    assert_eq!(directory, expected, "{directory:o}");
    assert!(task.shim.socket.to_str().expect("text").len() <= 106);
    task.end_all();
}

/// Also where the umask hides nothing.
fn log_modes(test: &Test) {
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let containerd = Containerd::new(test, Generation::V1_6);
    let bundle = Bundle::new(test).args(&["/bin/sleep"]);
    let task = Task::run(&containerd, bundle, Streams::none());
    let _ours = nix::sys::stat::umask(before);
    let log = fs::metadata(task.bundle.path.join("log.json")).expect("log.json");
    assert_eq!(log.permissions().mode() & 0o7777, 0o600);
    task.end_all();
}

/// Connects with another effective uid: the kernel lets it pass by a
/// capability, so that only the shim's own check is left.
fn other_user(test: &Test) {
    use containerd_shim_protos::api::{ConnectRequest, ConnectResponse};
    let containerd = Containerd::new(test, Generation::V1_6);
    let bundle = Bundle::new(test).args(&["/bin/sleep"]);
    let task = Task::create(&containerd, bundle, Streams::none());
    let socket = task.shim.socket.display().to_string();
    let thread = std::thread::spawn(move || {
        // The raw calls act on this thread alone.
        sys::raw(libc::SYS_setresuid, [-1, 1234, -1, 0, 0, 0]).expect("setresuid");
        sys::raise_capabilities();
        spec_tests::shim::wire::Client::connect(&socket)
    });
    if let Ok(client) = thread.join().expect("the thread") {
        let service = "containerd.task.v2.Task";
        let sent = client.send(service, "Connect", &ConnectRequest::default());
        let answer = sent.wait::<ConnectResponse>();
        let failure = answer.expect_err("another user is served");
        assert_eq!(failure.code, None, "{}", failure.text);
    }
    task.connect().expect("its own user is served still");
    task.end_all();
}

fn daemon(test: &Test) {
    let containerd = Containerd::new(test, Generation::V1_6);
    let bundle = Bundle::new(test).args(&["/bin/sleep"]);
    let task = Task::create(&containerd, bundle, Streams::none());
    let proc = format!("/proc/{}", task.shim.pid);
    let read = |name: &str| fs::read_to_string(format!("{proc}/{name}")).expect("proc");
    assert_eq!(read("comm").trim(), "containerd-shim");
    let stat = read("stat");
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .expect("fields")
        .split(' ')
        .collect();
    assert_eq!(fields[2], task.shim.pid.to_string(), "the process group");
    let own: i32 = fs::read_to_string("/proc/self/oom_score_adj")
        .expect("proc")
        .trim()
        .parse()
        .expect("a number");
    assert_eq!(read("oom_score_adj").trim(), (own + 1).to_string());
    let cwd = fs::read_link(format!("{proc}/cwd")).expect("cwd");
    assert_eq!(cwd, fs::canonicalize(&task.bundle.path).expect("bundle"));
    for fd in 0..3 {
        let target = fs::read_link(format!("{proc}/fd/{fd}")).expect("a descriptor");
        let log = task.bundle.path.join("log");
        assert!(
            target == Path::new("/dev/null") || target == log,
            "{fd}: {}",
            target.display()
        );
    }
    task.end_all();
}

fn shared(test: &Test, key: &str) {
    let containerd = Containerd::new(test, Generation::V1_6);
    let first = Bundle::new(test)
        .args(&["/bin/sleep"])
        .annotation(key, &test.prefix);
    let second = Bundle::new(test)
        .args(&["/bin/sleep"])
        .annotation(key, &test.prefix);
    let alone = Bundle::new(test).args(&["/bin/sleep"]);
    let first = Task::run(&containerd, first, Streams::none());
    let second = Task::run(&containerd, second, Streams::none());
    let alone = Task::run(&containerd, alone, Streams::none());
    assert_eq!(first.shim.pid, second.shim.pid);
    assert_eq!(first.shim.socket, second.shim.socket);
    assert_ne!(first.shim.pid, alone.shim.pid);
    // The first one goes; the second one stays.
    let shim = first.shim.clone();
    assert_eq!(first.end(), 137);
    assert!(is_alive(shim.pid));
    assert_eq!(second.state("").expect("state").pid as i32, second.pid);
    assert_eq!(second.end_all(), 137);
    alone.end_all();
}

fn group(test: &Test) {
    shared(test, "io.containerd.runc.v2.group");
}

fn sandbox(test: &Test) {
    shared(test, "io.kubernetes.cri.sandbox-id");
}

fn dead_shim_is_replaced(test: &Test) {
    let containerd = Containerd::new(test, Generation::V1_6);
    let key = "io.containerd.runc.v2.group";
    let bundle = || {
        Bundle::new(test)
            .args(&["/bin/sleep"])
            .annotation(key, &test.prefix)
    };
    let first = Task::run(&containerd, bundle(), Streams::none());
    first.shim.kill();
    assert_eq!(
        containerd
            .delete(&first.bundle)
            .expect("delete")
            .exit_status,
        137
    );
    let second = Task::run(&containerd, bundle(), Streams::none());
    assert_ne!(first.shim.pid, second.shim.pid);
    assert_eq!(first.shim.socket, second.shim.socket);
    second.end_all();
}

fn version_3_rule(test: &Test) {
    let containerd = Containerd::new(test, Generation::V2_3);
    let sandbox = Bundle::new(test).args(&["/bin/sleep"]);
    let id = sandbox.id.clone();
    let sandbox = Task::run(&containerd, sandbox, Streams::none());
    assert_eq!(sandbox.shim.version, 3);
    // No `start`: containerd writes these two and calls Create.
    let bundle = Bundle::new(test)
        .probe(&["exit", "3"])
        .annotation("io.kubernetes.cri.sandbox-id", &id);
    prepare(&bundle);
    fs::write(bundle.path.join("sandbox"), &id).expect("sandbox");
    let file = sandbox.bundle.path.join("bootstrap.json");
    fs::copy(file, bundle.path.join("bootstrap.json")).expect("bootstrap.json");
    let second = Task::create_in(&sandbox.shim, bundle, Wish::default()).expect("create");
    second.start("").expect("start");
    let name = second.id.clone();
    assert_eq!(second.finish(), 3);
    assert_eq!(containerd.events.exit(&name, ""), 3);
    assert!(is_alive(sandbox.shim.pid));
    sandbox.end_all();
}

fn start_twice(test: &Test) {
    let containerd = Containerd::new(test, Generation::V1_6);
    let bundle = Bundle::new(test).args(&["/bin/sleep"]);
    let task = Task::create(&containerd, bundle, Streams::none());
    let again = containerd.shim(&task.bundle);
    assert_eq!(again.pid, task.shim.pid);
    task.end_all();
}

fn reconnect(test: &Test) {
    for generation in GENERATIONS {
        if generation == Generation::V2_3 && test.is("containerd-shim-runc-v2") {
            continue;
        }
        let containerd = Containerd::new(test, generation);
        let bundle = Bundle::new(test).args(&["/bin/sleep"]);
        let task = Task::run(&containerd, bundle, Streams::none());
        containerd.die();
        containerd.events.start();
        let shim = containerd.reconnect(&task.bundle).expect("reconnect");
        assert_eq!((shim.pid, shim.version), (task.shim.pid, task.shim.version));
        let task = Task { shim, ..task };
        assert_eq!(task.connect().expect("connect").task_pid as i32, task.pid);
        assert_eq!(task.pids().expect("pids").processes[0].pid as i32, task.pid);
        task.end_all();
    }
}

fn delete_of_nothing(test: &Test) {
    let containerd = Containerd::new(test, Generation::V1_6);
    let bundle = Bundle::new(test);
    prepare(&bundle);
    let deleted = containerd.delete(&bundle).expect("delete");
    assert_eq!((deleted.exit_status, deleted.pid), (137, 0));
    assert!(deleted.exited_at.is_some());
}

fn no_namespace(test: &Test) {
    let mut command = Command::new(&test.runtime);
    command
        .args(["-id", "x", "-address", "/nowhere", "start"])
        .current_dir(&test.directory);
    let errors = test.directory.join("errors");
    command.stderr(fs::File::create(&errors).expect("a file"));
    let (code, stdout) = output(command, &[]);
    let text = fs::read_to_string(errors).expect("stderr");
    assert_eq!((code, stdout.len()), (1, 0), "{text}");
    assert!(text.contains("namespace cannot be empty"), "{text}");
}

fn version(test: &Test) {
    let mut command = Command::new(&test.runtime);
    command.arg("-v");
    let (code, stdout) = output(command, &[]);
    let text = String::from_utf8(stdout).expect("text");
    assert_eq!(code, 0);
    assert!(text.contains(&test.runtime_name), "{text}");
    assert!(text.contains("Version:"), "{text}");
}

fn info(test: &Test) {
    use containerd_shim_protos::protobuf::Message;
    use containerd_shim_protos::types::introspection::RuntimeInfo;
    let options = typed(&[Field::Number(9, 0)])
        .write_to_bytes()
        .expect("options");
    for stdin in [Vec::new(), options] {
        let mut command = Command::new(&test.runtime);
        command.arg("-info").current_dir(&test.directory);
        let (code, stdout) = output(command, &stdin);
        assert_eq!(code, 0);
        let info = RuntimeInfo::parse_from_bytes(&stdout).expect("RuntimeInfo");
        assert!(info.name.starts_with("io.containerd.rrun"), "{}", info.name);
        assert!(!info.version.version.is_empty());
        let url = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
        assert_eq!(info.features.type_url, url);
        let features: serde_json::Value =
            serde_json::from_slice(&info.features.value).expect("JSON");
        assert!(features["ociVersionMin"].is_string(), "{features}");
    }
}

fn no_config(test: &Test) {
    let containerd = Containerd::new(test, Generation::V1_6);
    let bundle = Bundle::new(test);
    fs::remove_file(bundle.path.join("config.json")).expect("unlink");
    let Err(error) = containerd.start(&bundle, None) else {
        panic!("start without a config.json");
    };
    assert!(error.contains("config.json"), "{error}");
    assert!(
        error.to_lowercase().contains("no such file or directory"),
        "{error}"
    );
}

fn shim_cgroup(test: &Test) {
    let containerd = Containerd::new(test, Generation::V1_6);
    let bundle = Bundle::new(test).args(&["/bin/sleep"]);
    let name = test.id();
    let hierarchies = hierarchies();
    for hierarchy in &hierarchies {
        fs::create_dir_all(Path::new(hierarchy).join(&name)).expect("a cgroup");
        sys_cpuset(hierarchy, &name);
    }
    let wish = Wish {
        options: Some(typed(&[Field::Text(3, &format!("/{name}"))])),
        ..Wish::default()
    };
    let task = Task::create(&containerd, bundle, wish);
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", task.shim.pid)).expect("cgroup");
    let pids = cgroups
        .lines()
        .find(|line| line.contains(":pids:") || line.starts_with("0::"));
    let joined = cgroups
        .lines()
        .any(|line| line.ends_with(&format!("/{name}")));
    task.end_all();
    for hierarchy in &hierarchies {
        let path = Path::new(hierarchy).join(&name);
        // EBUSY until the shim's end is through.
        while fs::remove_dir(&path).is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    assert!(joined, "{pids:?}");
}

fn hierarchies() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let lines = mounts
        .lines()
        .filter(|line| line.contains(" - cgroup ") || line.contains(" - cgroup2 "));
    lines
        .filter_map(|line| line.split(' ').nth(4))
        .map(str::to_owned)
        .collect()
}

/// A new cpuset takes nobody before it has processors and memory.
fn sys_cpuset(hierarchy: &str, name: &str) {
    for knob in ["cpuset.cpus", "cpuset.mems"] {
        let parent = Path::new(hierarchy).join(knob);
        if let Ok(value) = fs::read_to_string(parent) {
            let _ = fs::write(Path::new(hierarchy).join(name).join(knob), value);
        }
    }
}

fn open_files(test: &Test) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let resource = Resource::RLIMIT_NOFILE;
    let (_, hard) = getrlimit(resource).expect("getrlimit");
    setrlimit(resource, 500, hard).expect("setrlimit");
    let containerd = Containerd::new(test, Generation::V1_6);
    let bundle = Bundle::new(test).args(&["/bin/sleep"]).with(|config| {
        let process = config["process"].as_object_mut();
        process.expect("a process").remove("rlimits");
    });
    let task = Task::run(&containerd, bundle, Streams::none());
    let exec = task.exec("x", &["/bin/sleep"], Streams::none());
    for (pid, soft) in [(task.shim.pid, hard), (task.pid, 500), (exec, 500)] {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let words: Vec<&str> = line.expect("a line").split_whitespace().collect();
        assert_eq!(words[3..5], [soft.to_string(), hard.to_string()], "{pid}");
    }
    task.end_all();
}

/// `BINARY --address ADDRESS publish --topic TOPIC --namespace NAMESPACE`, the
/// event on standard input.
fn events_by_binary(test: &Test) {
    use containerd_shim_protos::events::task::TaskExit;
    use containerd_shim_protos::protobuf::Message;
    use containerd_shim_protos::protobuf::well_known_types::any::Any;
    use spec_tests::runtime::wait_until;
    use spec_tests::shim::NAMESPACE;
    use spec_tests::shim::wrapper::program;

    let mut containerd = Containerd::new(test, Generation::V1_6);
    containerd.environment = vec![("TTRPC_ADDRESS".to_owned(), String::new())];
    containerd.publisher = test.directory.join("publisher");
    let calls = test.directory.join("published");
    let event = test.directory.join("event");
    let text = format!(
        "#!/bin/sh\ncat >{}.${{5##*/}}\necho \"$@\" >>{}\n",
        event.display(),
        calls.display()
    );
    program(&containerd.publisher, &text);
    let bundle = Bundle::new(test).probe(&["exit", "23"]);
    let task = Task::run(&containerd, bundle, Streams::none());
    let id = task.id.clone();
    assert_eq!(task.finish(), 23);
    let lines = || fs::read_to_string(&calls).unwrap_or_default();
    wait_until("the last event", || lines().contains("/tasks/delete"));
    let address = containerd.address();
    let expected: String = ["create", "start", "exit", "delete"]
        .iter()
        .map(|topic| {
            format!(
                "--address {} publish --topic /tasks/{topic} --namespace {NAMESPACE}\n",
                address.display()
            )
        })
        .collect();
    assert_eq!(lines(), expected);
    let told = fs::read(event.with_extension("exit")).expect("the event");
    let told = Any::parse_from_bytes(&told).expect("an Any");
    assert_eq!(told.type_url, "containerd.events.TaskExit");
    let told = TaskExit::parse_from_bytes(&told.value).expect("an exit");
    assert_eq!((told.container_id, told.exit_status), (id, 23));
}
