//! The methods of the task service: what they answer, and with which codes.

use std::fmt::Debug;
use std::fs;

use containerd_shim_protos::api::{
    CheckpointTaskRequest, Empty, PauseRequest, ResumeRequest, StatsRequest, StatsResponse, Status,
    UpdateTaskRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use serde_json::json;
use spec_tests::runtime::wait_until;
use spec_tests::shim::containerd::is_alive;
use spec_tests::shim::options::{Field, toml, typed};
use spec_tests::shim::task::{Wish, shut_down, shutdown};
use spec_tests::shim::wire::Answer;
use spec_tests::shim::{Code, Containerd, Generation, Streams, Task};
use spec_tests::{Bundle, Case, Test};

const GO: &str = "containerd-shim-runc-v2";

/// The cases.
pub(crate) const CASES: &[Case] = &[
    Case::go(
        "State follows a container from created to stopped",
        state_of_container,
    ),
    Case::kernel("State of an exec has its exec_id", state_of_exec)
        .except(&[(GO, "the Go shim of 1.6 leaves it empty")]),
    Case::go("Wait answers every waiter, also after the end", wait),
    Case::go("Connect tells the pids of shim and container", connect),
    Case::kernel(
        "an exec called init leaves the container's own files alone",
        exec_named_init,
    )
    .except(&[(
        "containerd-shim-runc-v2",
        "writes the exec's pid into the container's file",
    )]),
    Case::go("Pids tells which process is an exec", pids),
    Case::go("every method knows no unknown container", unknown_container),
    Case::go("every method knows no unknown exec", unknown_exec),
    Case::go(
        "a created container refuses what needs a running one",
        in_created,
    ),
    Case::go("a running container refuses start and delete", in_running),
    Case::go("a paused container refuses exec and start", in_paused),
    Case::go(
        "a stopped container refuses everything but delete",
        in_stopped,
    ),
    Case::go(
        "an exec that was added, runs and has ended: what it refuses",
        exec_states,
    ),
    Case::go("an exec id is used once at a time", exec_id_twice),
    Case::go(
        "an exec of a missing program fails at start and can be deleted",
        missing_program,
    ),
    Case::go(
        "an exec's delete answers its status, the container's too",
        delete_status,
    ),
    Case::go("kill sends the signal to init or to the exec", kill),
    Case::go("kill of all reaches every process", kill_all),
    Case::go(
        "a created container is killed before it ever ran",
        kill_created,
    ),
    Case::go("Update changes the limits", update).needs(spec_tests::Needs::V1),
    Case::go("Stats answers the metrics of this machine", stats).needs(spec_tests::Needs::V1),
    Case::go(
        "Shutdown is for a shim without containers",
        shutdown_with_container,
    ),
    Case::go("an unknown method is not implemented", unknown_method),
    Case::go(
        "Checkpoint of a container fails as the runtime does, and it runs on",
        checkpoint,
    ),
    Case::go(
        "options of runc: Root and BinaryName are used, also by delete",
        typed_options,
    ),
    Case::kernel(
        "options as TOML: Root and BinaryName are used",
        toml_options,
    )
    .except(&[(GO, "the Go shim of 1.6 knows its own options only")]),
    Case::go("the pipes belong to IoUid and IoGid", io_owner),
    Case::go(
        "a create that fails names the cause and leaves nothing",
        failing_creates,
    ),
    Case::go("rootfs mounts are made and undone", rootfs_mounts),
];

fn one(test: &Test) -> Containerd<'_> {
    Containerd::new(test, Generation::V1_6)
}

fn sleeper(test: &Test) -> Bundle {
    Bundle::new(test).args(&["/bin/sleep"])
}

/// The answer is this error.
#[track_caller]
fn refused<T: Debug>(what: &str, answer: Answer<T>, code: Code, text: &str) {
    let failure = answer.expect_err(what);
    assert_eq!(failure.code, Some(code), "{what}: {}", failure.text);
    assert!(
        failure.text.contains(text),
        "{what}: no `{text}` in `{}`",
        failure.text
    );
}

fn pause(task: &Task) -> Answer<Empty> {
    let request = PauseRequest {
        id: task.id.clone(),
        ..PauseRequest::default()
    };
    task.shim.call("Pause", &request)
}

fn resume(task: &Task) -> Answer<Empty> {
    let request = ResumeRequest {
        id: task.id.clone(),
        ..ResumeRequest::default()
    };
    task.shim.call("Resume", &request)
}

fn metrics(task: &Task) -> Answer<StatsResponse> {
    let request = StatsRequest {
        id: task.id.clone(),
        ..StatsRequest::default()
    };
    task.shim.call("Stats", &request)
}

fn limit(task: &Task, pids: i64) -> Answer<Empty> {
    let resources = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".to_owned(),
        value: json!({ "pids": { "limit": pids } })
            .to_string()
            .into_bytes(),
        ..Any::default()
    };
    let request = UpdateTaskRequest {
        id: task.id.clone(),
        resources: MessageField::some(resources),
        ..UpdateTaskRequest::default()
    };
    task.shim.call("Update", &request)
}

fn save(task: &Task, path: &str) -> Answer<Empty> {
    let request = CheckpointTaskRequest {
        id: task.id.clone(),
        path: path.to_owned(),
        ..CheckpointTaskRequest::default()
    };
    task.shim.call("Checkpoint", &request)
}

fn state_of_container(test: &Test) {
    let containerd = one(test);
    let streams = Streams::fifos(test, false);
    let reader = streams.read();
    let stdout = streams.stdout.clone();
    let task = Task::create(&containerd, sleeper(test), streams);
    let state = task.state("").expect("state");
    assert_eq!(state.id, task.id);
    assert_eq!(state.bundle, task.bundle.path.display().to_string());
    assert_eq!(state.pid as i32, task.pid);
    assert_eq!(state.status.enum_value(), Ok(Status::CREATED));
    assert_eq!((state.stdin.as_str(), state.stdout), ("", stdout));
    assert!(!state.terminal);
    assert_eq!(task.start("").expect("start"), task.pid);
    let status = |task: &Task| task.state("").expect("state").status.enum_value();
    assert_eq!(status(&task), Ok(Status::RUNNING));
    pause(&task).expect("pause");
    assert_eq!(status(&task), Ok(Status::PAUSED));
    resume(&task).expect("resume");
    assert_eq!(status(&task), Ok(Status::RUNNING));
    task.kill("", libc::SIGKILL).expect("kill");
    assert_eq!(task.wait(""), 137);
    let state = task.state("").expect("state");
    assert_eq!(state.status.enum_value(), Ok(Status::STOPPED));
    assert_eq!((state.exit_status, state.pid as i32), (137, task.pid));
    assert!(state.exited_at.is_some());
    task.delete("").expect("delete");
    refused("state", task.state(""), Code::NOT_FOUND, "not found");
    let id = task.id.clone();
    task.leave();
    reader.end();
    let story = containerd.events.whole_story(&id);
    assert_eq!(
        story,
        ["create", "start", "paused", "resumed", "exit", "delete"]
    );
}

fn state_of_exec(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    task.add_exec("one", &["/bin/sleep"], Streams::none())
        .expect("exec");
    let state = task.state("one").expect("state");
    assert_eq!((state.id.as_str(), state.exec_id.as_str()), ("one", "one"));
    assert_eq!(
        (state.pid, state.status.enum_value()),
        (0, Ok(Status::CREATED))
    );
    let pid = task.start("one").expect("start");
    let state = task.state("one").expect("state");
    assert_eq!((state.pid as i32, state.exec_id.as_str()), (pid, "one"));
    assert_eq!(state.status.enum_value(), Ok(Status::RUNNING));
    task.kill("one", libc::SIGKILL).expect("kill");
    assert_eq!(task.wait("one"), 137);
    let state = task.state("one").expect("state");
    assert_eq!(state.status.enum_value(), Ok(Status::STOPPED));
    assert_eq!(state.exit_status, 137);
    assert_eq!(task.state("").expect("state").exec_id, "");
    task.end_all();
}

/// The pid file is what `delete` reads once the shim is dead.
fn exec_named_init(test: &Test) {
    let containerd = one(test);
    let bundle = sleeper(test);
    let file = bundle.path.join("init.pid");
    let task = Task::run(&containerd, bundle, Streams::none());
    task.exec("init", &["/bin/sleep"], Streams::none());
    let text = std::fs::read_to_string(file).expect("init.pid");
    assert_eq!(text.trim(), task.pid.to_string());
    task.kill("init", libc::SIGKILL).expect("kill");
    assert_eq!(task.wait("init"), 137);
    task.end_all();
}

fn wait(test: &Test) {
    use containerd_shim_protos::api::WaitResponse;
    let containerd = one(test);
    let task = Task::create(&containerd, sleeper(test), Streams::none());
    let waiting: Vec<_> = (0..20).map(|_| task.waiting("")).collect();
    task.start("").expect("start");
    task.kill("", libc::SIGKILL).expect("kill");
    for pending in waiting {
        let answer: WaitResponse = pending.wait().expect("wait");
        assert_eq!(answer.exit_status, 137);
    }
    assert_eq!(task.wait(""), 137);
    task.end_all();
}

fn connect(test: &Test) {
    let containerd = one(test);
    let task = Task::create(&containerd, sleeper(test), Streams::none());
    let answer = task.connect().expect("connect");
    assert_eq!(answer.task_pid as i32, task.pid);
    let own = test.runtime.canonicalize().expect("the shim");
    let exe = fs::read_link(format!("/proc/{}/exe", answer.shim_pid)).expect("exe");
    assert_eq!(exe, own);
    task.end_all();
}

fn pids(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    let exec = task.exec("the-exec", &["/bin/sleep"], Streams::none());
    let processes = task.pids().expect("pids").processes;
    let mut found: Vec<i32> = processes.iter().map(|process| process.pid as i32).collect();
    found.sort_unstable();
    let mut expected = vec![task.pid, exec];
    expected.sort_unstable();
    assert_eq!(found, expected);
    for process in processes {
        if process.pid as i32 == task.pid {
            assert!(process.info.is_none(), "init has details");
            continue;
        }
        let info = process.info.into_option().expect("details of the exec");
        assert_eq!(info.type_url, "containerd.runc.v1.ProcessDetails");
        // Field 1, a string of 8 bytes.
        assert_eq!(info.value, b"\x0a\x08the-exec");
    }
    task.end_all();
}

fn unknown_container(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    let ghost = Task {
        shim: task.shim.clone(),
        bundle: Bundle::new(test),
        id: "ghost".to_owned(),
        pid: 0,
    };
    let code = Code::NOT_FOUND;
    refused("State", ghost.state(""), code, "not found");
    refused("Start", ghost.start(""), code, "not found");
    refused("Delete", ghost.delete(""), code, "not found");
    refused("Pids", ghost.pids(), code, "not found");
    refused("Pause", pause(&ghost), code, "not found");
    refused("Resume", resume(&ghost), code, "not found");
    refused("Kill", ghost.kill("", 9), code, "not found");
    let exec = ghost.add_exec("x", &["/bin/true"], Streams::none());
    refused("Exec", exec, code, "not found");
    refused("ResizePty", ghost.resize("", 1, 1), code, "not found");
    refused("CloseIO", ghost.close_stdin(""), code, "not found");
    refused("Update", limit(&ghost, 5), code, "not found");
    let waited: Answer<containerd_shim_protos::api::WaitResponse> = ghost.waiting("").wait();
    refused("Wait", waited, code, "not found");
    refused("Stats", metrics(&ghost), code, "not found");
    refused("Checkpoint", save(&ghost, "/nowhere"), code, "not found");
    // These two are about the shim, too.
    assert_eq!(ghost.connect().expect("connect").task_pid, 0);
    let answer: Answer<Empty> = ghost.shim.call("Shutdown", &shutdown("ghost"));
    answer.expect("shutdown");
    assert!(is_alive(task.shim.pid));
    task.end_all();
}

fn unknown_exec(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    let code = Code::NOT_FOUND;
    refused("State", task.state("x"), code, "not found");
    refused("Start", task.start("x"), code, "not found");
    refused("Delete", task.delete("x"), code, "not found");
    refused("Kill", task.kill("x", 9), code, "not found");
    refused("ResizePty", task.resize("x", 1, 1), code, "not found");
    // The Go shim forgets to translate this one.
    let closed = if test.is(GO) { Code::UNKNOWN } else { code };
    refused("CloseIO", task.close_stdin("x"), closed, "not found");
    let waited: Answer<containerd_shim_protos::api::WaitResponse> = task.waiting("x").wait();
    refused("Wait", waited, code, "not found");
    task.end_all();
}

fn in_created(test: &Test) {
    let containerd = one(test);
    let task = Task::create(&containerd, sleeper(test), Streams::none());
    let code = Code::UNKNOWN;
    refused(
        "Pause",
        pause(&task),
        code,
        "cannot pause task in created state",
    );
    refused(
        "Resume",
        resume(&task),
        code,
        "cannot resume task in created state",
    );
    let saved = save(&task, "/nowhere");
    refused(
        "Checkpoint",
        saved,
        code,
        "cannot checkpoint a task in created state",
    );
    let resized = task.resize("", 1, 1);
    resized.expect("ResizePty without a terminal is nothing");
    // An exec may be added to a created container, and even run.
    task.exec("early", &["/bin/true"], Streams::none());
    assert_eq!(task.wait("early"), 0);
    task.end_all();
}

fn in_running(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    let code = Code::UNKNOWN;
    refused(
        "Start",
        task.start(""),
        code,
        "cannot start a running process",
    );
    refused(
        "Delete",
        task.delete(""),
        code,
        "cannot delete a running process",
    );
    refused(
        "Resume",
        resume(&task),
        code,
        "cannot resume a running process",
    );
    let again = Bundle::new(test);
    let request = containerd_shim_protos::api::CreateTaskRequest {
        id: task.id.clone(),
        bundle: again.path.display().to_string(),
        ..Default::default()
    };
    let answer: Answer<containerd_shim_protos::api::CreateTaskResponse> =
        task.shim.call("Create", &request);
    assert!(answer.is_err(), "a second container of one id");
    assert_eq!(task.state("").expect("state").pid as i32, task.pid);
    task.end_all();
}

fn in_paused(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    task.exec("frozen", &["/bin/sleep"], Streams::none());
    pause(&task).expect("pause");
    let status = task.state("frozen").expect("state").status.enum_value();
    assert_eq!(status, Ok(Status::PAUSED));
    let code = Code::UNKNOWN;
    refused(
        "Start",
        task.start(""),
        code,
        "cannot start a paused process",
    );
    refused(
        "Pause",
        pause(&task),
        code,
        "cannot pause a paused container",
    );
    refused(
        "Delete",
        task.delete(""),
        code,
        "cannot delete a paused process",
    );
    let exec = task.add_exec("x", &["/bin/true"], Streams::none());
    refused("Exec", exec, code, "cannot exec in a paused state");
    resume(&task).expect("resume");
    task.end_all();
}

fn in_stopped(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    task.kill("", libc::SIGKILL).expect("kill");
    task.wait("");
    let code = Code::UNKNOWN;
    refused(
        "Start",
        task.start(""),
        code,
        "cannot start a stopped process",
    );
    refused(
        "Pause",
        pause(&task),
        code,
        "cannot pause a stopped container",
    );
    refused(
        "Resume",
        resume(&task),
        code,
        "cannot resume a stopped container",
    );
    let saved = save(&task, "/nowhere");
    refused(
        "Checkpoint",
        saved,
        code,
        "cannot checkpoint a stopped container",
    );
    refused(
        "Update",
        limit(&task, 5),
        code,
        "cannot update a stopped container",
    );
    refused(
        "Kill",
        task.kill("", 9),
        Code::NOT_FOUND,
        "process already finished",
    );
    let exec = task.add_exec("x", &["/bin/true"], Streams::none());
    refused("Exec", exec, code, "cannot exec in a stopped state");
    task.end_all();
}

fn exec_states(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    task.add_exec("x", &["/bin/sleep"], Streams::none())
        .expect("exec");
    refused(
        "Kill",
        task.kill("x", 9),
        Code::FAILED_PRECONDITION,
        "process not created",
    );
    task.start("x").expect("start");
    let code = Code::UNKNOWN;
    refused(
        "Start",
        task.start("x"),
        code,
        "cannot start a running process",
    );
    refused(
        "Delete",
        task.delete("x"),
        code,
        "cannot delete a running process",
    );
    task.kill("x", libc::SIGKILL).expect("kill");
    task.wait("x");
    refused(
        "Start",
        task.start("x"),
        code,
        "cannot start a stopped process",
    );
    refused(
        "Kill",
        task.kill("x", 9),
        Code::NOT_FOUND,
        "process already finished",
    );
    task.delete("x").expect("delete");
    refused("State", task.state("x"), Code::NOT_FOUND, "not found");
    // One that never ran.
    task.add_exec("y", &["/bin/sleep"], Streams::none())
        .expect("exec");
    assert_eq!(task.delete("y").expect("delete").pid, 0);
    task.end_all();
}

fn exec_id_twice(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    task.exec("x", &["/bin/sleep"], Streams::none());
    let again = task.add_exec("x", &["/bin/true"], Streams::none());
    refused("Exec", again, Code::ALREADY_EXISTS, "already exists");
    task.kill("x", libc::SIGKILL).expect("kill");
    task.wait("x");
    task.delete("x").expect("delete");
    task.exec("x", &["/bin/true"], Streams::none());
    assert_eq!(task.wait("x"), 0);
    task.end_all();
}

fn missing_program(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    task.add_exec("x", &["/bin/nothing"], Streams::none())
        .expect("exec");
    let failure = task.start("x").expect_err("a missing program runs");
    assert!(
        failure.text.contains("OCI runtime exec failed"),
        "{}",
        failure.text
    );
    assert!(failure.text.contains("/bin/nothing"), "{}", failure.text);
    assert!(
        failure.text.contains("no such file or directory"),
        "{}",
        failure.text
    );
    // Whoever waits for its end need not wait.
    let waited: WaitResponse = task.waiting("x").wait().expect("wait");
    assert_eq!(waited.exit_status, 0);
    task.delete("x").expect("delete");
    task.exec("x", &["/bin/true"], Streams::none());
    assert_eq!(task.wait("x"), 0);
    task.end_all();
}

fn delete_status(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    let pid = task.exec("x", &["/bin/probe", "exit", "42"], Streams::none());
    assert_eq!(task.wait("x"), 42);
    let deleted = task.delete("x").expect("delete");
    assert_eq!((deleted.pid as i32, deleted.exit_status), (pid, 42));
    assert!(deleted.exited_at.is_some());
    task.kill("", libc::SIGKILL).expect("kill");
    task.wait("");
    let deleted = task.delete("").expect("delete");
    assert_eq!((deleted.pid as i32, deleted.exit_status), (task.pid, 137));
    assert!(deleted.exited_at.is_some());
    task.leave();
}

fn kill(test: &Test) {
    let containerd = one(test);
    let script = "trap 'exit 21' USR1; : >/data/trapped; while :; do busybox sleep 0.02; done";
    let bundle = Bundle::new(test).shell(script);
    let trapped = bundle.rootfs().join("data/trapped");
    let task = Task::run(&containerd, bundle, Streams::none());
    task.exec(
        "x",
        &["/bin/sh", "-c", "exec busybox sleep 1000"],
        Streams::none(),
    );
    task.kill("x", libc::SIGTERM).expect("kill");
    assert_eq!(task.wait("x"), 143);
    assert!(is_alive(task.pid));
    task.kill("", 0).expect("signal 0");
    wait_until("the shell's trap", || trapped.exists());
    task.kill("", libc::SIGUSR1).expect("kill");
    assert_eq!(task.finish(), 21);
}

fn kill_all(test: &Test) {
    use containerd_shim_protos::api::KillRequest;
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    task.exec("x", &["/bin/sleep"], Streams::none());
    let request = KillRequest {
        id: task.id.clone(),
        signal: 9,
        all: true,
        ..KillRequest::default()
    };
    let answer: Answer<Empty> = task.shim.call("Kill", &request);
    answer.expect("kill");
    assert_eq!(task.wait("x"), 137);
    assert_eq!(task.wait(""), 137);
    task.end_all();
}

fn kill_created(test: &Test) {
    let containerd = one(test);
    let task = Task::create(&containerd, sleeper(test), Streams::none());
    task.kill("", libc::SIGKILL).expect("kill");
    let id = task.id.clone();
    assert_eq!(containerd.events.exit(&id, ""), 137);
    assert_eq!(task.finish(), 137);
}

fn update(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    limit(&task, 17).expect("update");
    assert_eq!(test.knob("pids", &task.id, "pids.max"), "17");
    let bad = UpdateTaskRequest {
        id: task.id.clone(),
        resources: MessageField::some(Any {
            value: b"{".to_vec(),
            ..Any::default()
        }),
        ..UpdateTaskRequest::default()
    };
    let answer: Answer<Empty> = task.shim.call("Update", &bad);
    assert!(answer.is_err());
    assert_eq!(test.knob("pids", &task.id, "pids.max"), "17");
    task.end_all();
}

fn stats(test: &Test) {
    use containerd_shim_protos::cgroups::metrics::Metrics;
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    let ask = || {
        let any = metrics(&task).expect("stats").stats;
        let any = any.into_option().expect("metrics");
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        Metrics::parse_from_bytes(&any.value).expect("metrics")
    };
    // runc's own threads count until it has become the program.
    wait_until("the one process", || ask().pids.current == 1);
    let found = ask();
    // What is charged in batches may be nothing yet; the limit is a number always.
    assert!(found.memory.usage.limit > 0);
    assert!(found.cpu.usage.is_some() && found.memory_oom_control.is_some());
    task.kill("", libc::SIGKILL).expect("kill");
    task.wait("");
    // It is deleted later.
    assert_eq!(ask().pids.current, 0);
    task.end_all();
}

fn shutdown_with_container(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    let answer: Answer<Empty> = task.shim.call("Shutdown", &shutdown(&task.id));
    answer.expect("shutdown");
    task.connect().expect("the shim stays");
    task.end_all();
}

fn unknown_method(test: &Test) {
    let containerd = one(test);
    let task = Task::create(&containerd, sleeper(test), Streams::none());
    let code = Code::UNIMPLEMENTED;
    let answer: Answer<Empty> = task.shim.call("Dance", &Empty::default());
    refused("Dance", answer, code, "Dance");
    let client = task.shim.client.borrow();
    let sent = client.send(
        "containerd.runtime.sandbox.v1.Sandbox",
        "CreateSandbox",
        &Empty::default(),
    );
    refused("CreateSandbox", sent.wait::<Empty>(), code, "");
    drop(client);
    task.end_all();
}

/// With a criu that knows the kernel the container is saved, else that is told; it
/// runs on in any case.
fn checkpoint(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    let image = test.directory.join("image");
    match save(&task, image.to_str().expect("text")) {
        Ok(_) => assert!(image.join("inventory.img").exists()),
        Err(failure) => {
            let codes = [Some(Code::UNKNOWN), Some(Code::UNIMPLEMENTED)];
            assert!(codes.contains(&failure.code), "{}", failure.text);
            assert!(failure.text.contains("criu"), "{}", failure.text);
        }
    }
    let status = task.state("").expect("state").status.enum_value();
    assert_eq!(status, Ok(Status::RUNNING));
    task.end_all();
}

/// A program that notes its calls and runs the default runtime.
fn noting(test: &Test) -> (String, std::path::PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let wrapper = test.directory.join("noting");
    let calls = test.directory.join("calls");
    let real = match test.runtime_name.as_str() {
        GO => "runc".to_owned(),
        _ => test.runtime.with_file_name("rrun").display().to_string(),
    };
    let text = format!(
        "#!/bin/sh\necho \"$@\" >>{}\nexec {real} \"$@\"\n",
        calls.display()
    );
    fs::write(&wrapper, text).expect("a wrapper");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("chmod");
    (wrapper.display().to_string(), calls)
}

fn with_options(test: &Test, options: impl Fn(&str, &str) -> Any) {
    let containerd = one(test);
    let (program, calls) = noting(test);
    let root = test.directory.join("elsewhere");
    let wish = || Wish {
        options: Some(options(&program, root.to_str().expect("text"))),
        ..Wish::default()
    };
    let task = Task::run(&containerd, sleeper(test), wish());
    let state = root.join("spec").join(&task.id);
    assert!(state.is_dir(), "no state in the Root of the options");
    task.end_all();
    assert!(!state.exists());
    let log = fs::read_to_string(&calls).expect("calls");
    assert!(log.contains("create") && log.contains("delete"), "{log}");
    // The options are there again when the shim is not.
    let task = Task::run(&containerd, sleeper(test), wish());
    let state = root.join("spec").join(&task.id);
    task.shim.kill();
    fs::write(&calls, "").expect("calls");
    assert_eq!(
        containerd.delete(&task.bundle).expect("delete").exit_status,
        137
    );
    let log = fs::read_to_string(&calls).expect("calls");
    assert!(log.contains("delete"), "{log}");
    assert!(!state.exists(), "delete used another Root");
    task.shim.forget_socket(test);
}

fn typed_options(test: &Test) {
    with_options(test, |program, root| {
        typed(&[Field::Text(6, program), Field::Text(7, root)])
    });
}

fn toml_options(test: &Test) {
    with_options(test, |program, root| {
        toml(&format!(
            "BinaryName = \"{program}\"\nRoot = \"{root}\"\nSystemdCgroup = false\n"
        ))
    });
}

fn io_owner(test: &Test) {
    let containerd = one(test);
    let streams = Streams::fifos(test, false);
    let reader = streams.read();
    let wish = Wish {
        streams,
        options: Some(typed(&[Field::Number(4, 1234), Field::Number(5, 4321)])),
        ..Wish::default()
    };
    let script = "busybox stat -L -c %u:%g /proc/self/fd/1";
    let bundle = Bundle::new(test).shell(script).with(|config| {
        config["process"]["user"] = json!({ "uid": 1234, "gid": 4321 });
    });
    let task = Task::run(&containerd, bundle, wish);
    assert_eq!(task.finish(), 0);
    assert_eq!(reader.end(), "1234:4321\n");
}

fn failing_creates(test: &Test) {
    let containerd = one(test);
    let config = Bundle::new(test).with(|config| config["process"]["args"] = json!([]));
    let missing = Bundle::new(test).args(&["/bin/nothing"]);
    let rootfs = Bundle::new(test).with(|config| config["root"]["path"] = json!("nowhere"));
    for (bundle, text) in [
        (config, "args"),
        (missing, "/bin/nothing"),
        (rootfs, "nowhere"),
    ] {
        let copy = bundle.path.clone();
        let shim = containerd.shim(&bundle);
        let id = bundle.id.clone();
        let Err(failure) = Task::create_in(&shim, bundle, Wish::default()) else {
            panic!("`{text}` is created");
        };
        assert_eq!(failure.code, Some(Code::UNKNOWN), "{}", failure.text);
        assert!(
            failure.text.contains("OCI runtime create failed"),
            "{}",
            failure.text
        );
        assert!(failure.text.contains(text), "{}", failure.text);
        shut_down(test, &shim, &id);
        shim.wait_gone(spec_tests::shim::task::GONE);
        fs::remove_dir_all(copy).expect("the bundle");
    }
}

fn rootfs_mounts(test: &Test) {
    use containerd_shim_protos::types::mount::Mount;
    let containerd = one(test);
    let bundle = Bundle::new(test).probe(&["read", "/lower", ";", "read", "/upper"]);
    // The rootfs that was made becomes the lower layer.
    let layers = test.directory.join("layers");
    fs::create_dir_all(&layers).expect("mkdir");
    let (lower, upper, work) = (
        layers.join("lower"),
        layers.join("upper"),
        layers.join("work"),
    );
    fs::rename(bundle.rootfs(), &lower).expect("rename");
    for path in [&upper, &work, &bundle.rootfs()] {
        fs::create_dir(path).expect("mkdir");
    }
    fs::write(lower.join("lower"), "below").expect("a file");
    fs::write(upper.join("upper"), "above").expect("a file");
    let mount = Mount {
        type_: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options: vec![
            format!("lowerdir={}", lower.display()),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
        ],
        ..Mount::default()
    };
    let streams = Streams::fifos(test, false);
    let reader = streams.read();
    let wish = Wish {
        streams,
        rootfs: vec![mount],
        ..Wish::default()
    };
    let task = Task::run(&containerd, bundle, wish);
    assert_eq!(task.wait(""), 0);
    assert_eq!(reader.end(), "{\"text\":\"below\"}\n{\"text\":\"above\"}\n");
    task.delete("").expect("delete");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let rootfs = task.bundle.rootfs().display().to_string();
    assert!(!mounts.contains(&rootfs), "the rootfs is mounted still");
    task.leave();
}
