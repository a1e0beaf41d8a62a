//! The order in which events are told, when much ends at once.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{DeleteResponse, WaitResponse};
use serde_json::json;
use spec_tests::shim::containerd::is_alive;
use spec_tests::shim::events::Event;
use spec_tests::shim::{Code, Containerd, Generation, Streams, Task};
use spec_tests::{Bundle, Case, Needs, Test};

const GO: &str = "containerd-shim-runc-v2";

/// The cases.
pub(crate) const CASES: &[Case] = &[
    Case::go(
        "create, start, exit and delete come in this order, each once",
        story,
    ),
    Case::go(
        "an exec is added, started and ends in this order",
        exec_story,
    ),
    Case::go(
        "a process that ends at once has started before",
        ends_at_once,
    ),
    Case::kernel(
        "an exec storm: every exec's exit comes before its init's",
        exec_storm,
    )
    .except(&[(
        GO,
        "the Go shim of 1.6 tells the exits as they come: no promise of an order",
    )]),
    Case::kernel(
        "execs run when init dies: their exits come first",
        execs_die_with_init,
    )
    .except(&[(
        GO,
        "the Go shim of 1.6 tells the exits as they come: no promise of an order",
    )]),
    Case::kernel("no exec begins when init is dead", no_exec_after_init)
        .except(&[(GO, "the Go shim of 1.6 answers with what the runtime says")]),
    Case::go(
        "many inits end at once, none is lost or told twice",
        many_inits,
    ),
    Case::go("an OOM is told", |test| oom(test, oom_told)).needs(Needs::V1),
    Case::kernel("an OOM is told before the exit", |test| {
        oom(test, oom_before_exit);
    })
    .needs(Needs::V1)
    .except(&[(GO, "the Go shim of 1.6 tells them as they come")]),
    Case::kernel(
        "an OOM of an init that starts with it is told",
        oom_at_start,
    )
    .needs(Needs::V1)
    .except(&[(
        GO,
        "the Go shim of 1.6 watches from Start: one that is quick is missed",
    )]),
    Case::go(
        "a shared pid namespace is killed when init ends",
        shared_pids,
    ),
    Case::go("a wait and a delete agree with the event", agree),
];

fn one(test: &Test) -> Containerd<'_> {
    Containerd::new(test, Generation::V1_6)
}

/// Where the first event of this kind is.
#[track_caller]
fn place(events: &[Event], topic: &str, container: &str, exec: &str) -> usize {
    let is =
        |event: &&Event| event.topic == topic && event.container == container && event.exec == exec;
    assert_eq!(
        events.iter().filter(is).count(),
        1,
        "`{topic}` of `{container}` `{exec}`: {events:#?}"
    );
    events.iter().position(|event| is(&event)).expect("found")
}

fn story(test: &Test) {
    let containerd = one(test);
    let task = Task::run(
        &containerd,
        Bundle::new(test).probe(&["exit", "9"]),
        Streams::none(),
    );
    let (id, pid) = (task.id.clone(), task.pid as u32);
    assert_eq!(task.finish(), 9);
    assert_eq!(
        containerd.events.whole_story(&id),
        ["create", "start", "exit", "delete"]
    );
    let events = containerd.events.events();
    assert!(events.iter().all(|event| event.pid == pid), "{events:?}");
    assert_eq!((events[2].status, events[3].status), (9, 9));
}

fn exec_story(test: &Test) {
    let containerd = one(test);
    let task = Task::run(
        &containerd,
        Bundle::new(test).args(&["/bin/sleep"]),
        Streams::none(),
    );
    let pid = task.exec("x", &["/bin/probe", "exit", "5"], Streams::none());
    assert_eq!(task.wait("x"), 5);
    assert_eq!(containerd.events.exit(&task.id, "x"), 5);
    let story = containerd.events.story(&task.id);
    assert_eq!(
        story,
        [
            "create",
            "start",
            "exec-added x",
            "exec-started x",
            "exit x"
        ]
    );
    let exit = containerd.events.events().pop().expect("an event");
    assert_eq!(exit.pid as i32, pid);
    task.end_all();
}

fn ends_at_once(test: &Test) {
    let containerd = one(test);
    for _ in 0..test.rounds(60, 6) {
        let task = Task::create(
            &containerd,
            Bundle::new(test).args(&["/bin/true"]),
            Streams::none(),
        );
        let waiting = task.waiting("");
        task.start("").expect("start");
        let answer: WaitResponse = waiting.wait().expect("wait");
        assert_eq!(answer.exit_status, 0);
        let id = task.id.clone();
        task.finish();
        assert_eq!(
            containerd.events.whole_story(&id),
            ["create", "start", "exit", "delete"]
        );
    }
}

/// Execs come from several callers, init is killed among them.
fn exec_storm(test: &Test) {
    for round in 0..test.rounds(20, 2) {
        let containerd = one(test);
        let task = Task::run(
            &containerd,
            Bundle::new(test).args(&["/bin/sleep"]),
            Streams::none(),
        );
        let lengths = ["0", "5", "1000000"];
        let mut added = Vec::new();
        for number in 0..24 {
            let id = format!("e{number}");
            let args = ["/bin/probe", "sleep", lengths[number % 3]];
            task.add_exec(&id, &args, Streams::none()).expect("exec");
            added.push(id);
        }
        let start = |id: &String| {
            let request = containerd_shim_protos::api::StartRequest {
                id: task.id.clone(),
                exec_id: id.clone(),
                ..Default::default()
            };
            task.shim.send("Start", &request)
        };
        let pending: Vec<_> = added.iter().map(start).collect();
        std::thread::sleep(Duration::from_millis(u64::from(round) * 37 % 400 + 20));
        task.kill("", libc::SIGKILL).expect("kill");
        let mut started = BTreeSet::new();
        for (id, pending) in added.iter().zip(pending) {
            if pending
                .wait::<containerd_shim_protos::api::StartResponse>()
                .is_ok()
            {
                started.insert(id.clone());
            }
        }
        containerd.events.exit(&task.id, "");
        let events = containerd.events.events();
        let init = place(&events, "exit", &task.id, "");
        for id in &started {
            let begin = place(&events, "exec-started", &task.id, id);
            let end = place(&events, "exit", &task.id, id);
            assert!(begin < end && end < init, "{id}: {events:#?}");
        }
        // An exec that never started has no exit.
        let told = events.iter().filter(|event| event.topic == "exit").count();
        assert_eq!(told, started.len() + 1, "{events:#?}");
        task.end_all();
    }
}

fn execs_die_with_init(test: &Test) {
    let containerd = one(test);
    let task = Task::run(
        &containerd,
        Bundle::new(test).args(&["/bin/sleep"]),
        Streams::none(),
    );
    let names: Vec<String> = (0..10).map(|number| format!("e{number}")).collect();
    for name in &names {
        task.exec(name, &["/bin/sleep"], Streams::none());
    }
    task.kill("", libc::SIGKILL).expect("kill");
    containerd.events.exit(&task.id, "");
    let events = containerd.events.events();
    let init = place(&events, "exit", &task.id, "");
    for name in &names {
        let end = place(&events, "exit", &task.id, name);
        assert!(end < init);
        assert_eq!(events[end].status, 137);
    }
    task.end_all();
}

fn no_exec_after_init(test: &Test) {
    let containerd = one(test);
    let task = Task::run(
        &containerd,
        Bundle::new(test).args(&["/bin/sleep"]),
        Streams::none(),
    );
    task.add_exec("x", &["/bin/true"], Streams::none())
        .expect("exec");
    task.kill("", libc::SIGKILL).expect("kill");
    task.wait("");
    let failure = task.start("x").expect_err("an exec in a dead container");
    assert_eq!(
        failure.code,
        Some(Code::FAILED_PRECONDITION),
        "{}",
        failure.text
    );
    task.end_all();
}

/// All containers of one shim wait at a gate, which opens once.
fn many_inits(test: &Test) {
    let containerd = one(test);
    let gate = test.directory.join("gate");
    fs::create_dir(&gate).expect("mkdir");
    let fifo = gate.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let key = "io.containerd.runc.v2.group";
    let mut held = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&fifo)
        .expect("the gate");
    let source = gate.display().to_string();
    let tasks: Vec<Task> = (0..test.rounds(1000, 40))
        .map(|number| {
            let script = format!("read line </data/fifo; exit {}", number % 200);
            let bundle = Bundle::new(test)
                .shell(&script)
                .annotation(key, &test.prefix);
            let bundle = bundle.mount("/data", "bind", &source, &["rbind"]);
            Task::run(&containerd, bundle, Streams::none())
        })
        .collect();
    assert!(tasks.iter().all(|task| task.shim.pid == tasks[0].shim.pid));
    print_memory(tasks[0].shim.pid, tasks.len());
    let waiting: Vec<_> = tasks.iter().map(|task| task.waiting("")).collect();
    // A line for each: every `read` takes one byte and ends, all at once. The
    // gate stays held, it would be too early for who has not opened it yet.
    held.write_all(&vec![b'\n'; tasks.len()])
        .expect("open the gate");
    for (number, pending) in waiting.into_iter().enumerate() {
        let answer: WaitResponse = pending.wait().expect("wait");
        assert_eq!(answer.exit_status as usize, number % 200);
    }
    for (number, task) in tasks.iter().enumerate() {
        assert_eq!(containerd.events.exit(&task.id, "") as usize, number % 200);
    }
    let shim = tasks[0].shim.clone();
    let ids: Vec<String> = tasks.iter().map(|task| task.id.clone()).collect();
    for (number, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.finish() as usize, number % 200);
    }
    shim.wait_gone(spec_tests::shim::task::GONE);
    for id in ids {
        assert_eq!(
            containerd.events.whole_story(&id),
            ["create", "start", "exit", "delete"]
        );
    }
}

/// For people; who wants a limit asserts it elsewhere.
fn print_memory(pid: i32, containers: usize) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    println!("{containers} containers: {}", line.unwrap_or_default());
}

fn limited(test: &Test, script: &str) -> Bundle {
    Bundle::new(test).shell(script).with(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 16 << 20 });
    })
}

/// A container that runs out of memory while the shim watches.
fn oom(test: &Test, check: fn(&Containerd<'_>, &str)) {
    for _ in 0..test.rounds(20, 3) {
        let containerd = one(test);
        // Not before the shim watches, which is so once it answered the start.
        let script = "until [ -e /data/go ]; do busybox sleep 0.02; done; \
            exec busybox tail /dev/zero";
        let bundle = limited(test, script).mount("/dev/zero", "bind", "/dev/zero", &["bind"]);
        let go = bundle.rootfs().join("data/go");
        let task = Task::run(&containerd, bundle, Streams::none());
        fs::write(&go, "").expect("the sign");
        assert_eq!(containerd.events.exit(&task.id, ""), 137);
        check(&containerd, &task.id);
        task.end_all();
    }
}

fn oom_told(containerd: &Containerd<'_>, id: &str) {
    let is = |event: &Event| event.topic == "oom" && event.container == id;
    let events = containerd
        .events
        .wait("oom", |events| events.iter().any(is));
    place(&events, "exit", id, "");
}

fn oom_before_exit(containerd: &Containerd<'_>, id: &str) {
    let story = containerd.events.story(id);
    assert_eq!(story, ["create", "start", "oom", "exit"]);
}

fn oom_at_start(test: &Test) {
    for _ in 0..test.rounds(20, 3) {
        let containerd = one(test);
        let bundle = limited(test, "exec busybox tail /dev/zero").mount(
            "/dev/zero",
            "bind",
            "/dev/zero",
            &["bind"],
        );
        let task = Task::run(&containerd, bundle, Streams::none());
        let id = task.id.clone();
        assert_eq!(containerd.events.exit(&id, ""), 137);
        let story = containerd.events.story(&id);
        task.end_all();
        assert_eq!(story, ["create", "start", "oom", "exit"]);
    }
}

fn shared_pids(test: &Test) {
    let containerd = one(test);
    let bundle = Bundle::new(test)
        .args(&["/bin/sleep"])
        .without_namespace("pid");
    let task = Task::run(&containerd, bundle, Streams::none());
    let exec = task.exec("x", &["/bin/sleep"], Streams::none());
    task.kill("", libc::SIGKILL).expect("kill");
    assert_eq!(task.wait(""), 137);
    let begin = Instant::now();
    while is_alive(exec) {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "the exec outlives its init"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(task.wait("x"), 137);
    task.end_all();
}

fn agree(test: &Test) {
    let containerd = one(test);
    let task = Task::run(
        &containerd,
        Bundle::new(test).args(&["/bin/sleep"]),
        Streams::none(),
    );
    task.kill("", libc::SIGKILL).expect("kill");
    let waited: WaitResponse = task.waiting("").wait().expect("wait");
    let state = task.state("").expect("state");
    let deleted: DeleteResponse = task.delete("").expect("delete");
    assert_eq!(waited.exited_at, state.exited_at);
    assert_eq!(waited.exited_at, deleted.exited_at);
    assert_eq!(containerd.events.exit(&task.id, ""), deleted.exit_status);
    task.leave();
}
