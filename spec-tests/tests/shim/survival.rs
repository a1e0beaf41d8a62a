//! containerd dies, the shim dies, and creates that fail: what is left, and
//! what is told.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use containerd_shim_protos::api::CreateTaskResponse;
use serde_json::json;
use spec_tests::runtime::wait_until;
use spec_tests::shim::containerd::{is_alive, remove_bundle};
use spec_tests::shim::task::{GONE, Wish, shut_down};
use spec_tests::shim::{Containerd, Generation, Streams, Task};
use spec_tests::{Bundle, Case, Test};

const GO: &str = "containerd-shim-runc-v2";

/// The cases.
pub(crate) const CASES: &[Case] = &[
    Case::go(
        "containerd is killed and comes back: the exit is kept",
        exit_while_down,
    ),
    Case::kernel(
        "containerd is down for long: every exit comes, once, in order",
        down_for_long,
    )
    .except(&[(GO, "the Go shim gives up an event after five attempts")]),
    Case::kernel(
        "containerd dies at random moments: no exit is lost or doubled",
        dies_at_random,
    )
    .except(&[(GO, "the Go shim gives up an event after five attempts")]),
    Case::kernel("a containerd that hangs holds up no call", hanging)
        .except(&[(GO, "the Go shim gives an event 5 s and may tell it twice")]),
    Case::go(
        "the shim is killed: delete leaves nothing and answers 137",
        shim_killed,
    ),
    Case::kernel(
        "the shim is killed after an exit that it recorded: delete answers it",
        recorded,
    )
    .except(&[(GO, "the Go shim of 1.6 records nothing")]),
    Case::kernel(
        "the shim is killed at random moments under load",
        killed_at_random,
    )
    .except(&[(GO, "the Go shim of 1.6 sometimes leaves a cgroup")]),
    Case::go(
        "a create that was given up is deleted once it is made",
        given_up_create,
    ),
    Case::go("creates and deletes with failures leave no shim", failures),
    Case::go("a shim told to end by SIGTERM leaves, or goes on", sigterm),
];

fn one(test: &Test) -> Containerd<'_> {
    Containerd::new(test, Generation::V1_6)
}

fn sleeper(test: &Test) -> Bundle {
    Bundle::new(test).args(&["/bin/sleep"])
}

/// Numbers that the seed decides.
struct Random(u64);

impl Random {
    fn new(test: &Test) -> Random {
        Random(test.seed.wrapping_mul(2) + 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn exit_while_down(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    containerd.die();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(task.pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("kill");
    // The shim has reaped it, with nobody to tell.
    let process = format!("/proc/{}", task.pid);
    wait_until("it is reaped", || !Path::new(&process).exists());
    containerd.events.start();
    let shim = containerd.reconnect(&task.bundle).expect("reconnect");
    let task = Task { shim, ..task };
    assert_eq!(task.wait(""), 137);
    assert_eq!(containerd.events.exit(&task.id, ""), 137);
    task.end_all();
    assert!(containerd.events.exits().values().all(|times| *times == 1));
}

fn down_for_long(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    for number in 0..20 {
        task.add_exec(
            &format!("e{number}"),
            &["/bin/probe", "exit", "3"],
            Streams::none(),
        )
        .expect("exec");
    }
    containerd.events.stop();
    for number in 0..20 {
        task.start(&format!("e{number}")).expect("start");
        assert_eq!(task.wait(&format!("e{number}")), 3);
    }
    let seconds = if test.full { 90 } else { 12 };
    std::thread::sleep(Duration::from_secs(seconds));
    containerd.events.start();
    for number in 0..20 {
        assert_eq!(containerd.events.exit(&task.id, &format!("e{number}")), 3);
    }
    let story = containerd.events.story(&task.id);
    for number in 0..20 {
        let at = |topic: &str| {
            let word = format!("{topic} e{number}");
            story.iter().position(|found| *found == word)
        };
        assert!(
            at("exec-added") < at("exec-started") && at("exec-started") < at("exit"),
            "{story:?}"
        );
    }
    task.end_all();
    assert!(containerd.events.exits().values().all(|times| *times == 1));
}

fn dies_at_random(test: &Test) {
    let mut random = Random::new(test);
    let containerd = one(test);
    let key = "io.containerd.runc.v2.group";
    let mut running: Vec<Task> = Vec::new();
    let mut all: Vec<String> = Vec::new();
    for _ in 0..test.rounds(60, 6) {
        for _ in 0..3 {
            let millis = random.below(400).to_string();
            let bundle = Bundle::new(test)
                .probe(&["sleep", &millis, ";", "exit", "5"])
                .annotation(key, &test.prefix);
            let task = Task::run(&containerd, bundle, Streams::none());
            all.push(task.id.clone());
            running.push(task);
        }
        std::thread::sleep(Duration::from_millis(random.below(300)));
        containerd.die();
        std::thread::sleep(Duration::from_millis(random.below(500)));
        containerd.events.start();
        // What is found again answers the status of those that ended meanwhile.
        for task in std::mem::take(&mut running) {
            let shim = containerd.reconnect(&task.bundle).expect("reconnect");
            let task = Task { shim, ..task };
            if random.below(2) == 0 {
                assert_eq!(task.wait(""), 5);
                assert_eq!(task.finish(), 5);
            } else {
                running.push(task);
            }
        }
    }
    let shim = running.last().map(|task| task.shim.clone());
    for task in running {
        assert_eq!(task.finish(), 5);
    }
    for id in &all {
        assert_eq!(containerd.events.exit(id, ""), 5);
    }
    if let Some(shim) = shim {
        shim.wait_gone(GONE);
    }
    let exits = containerd.events.exits();
    assert_eq!(exits.len(), all.len());
    assert!(exits.values().all(|times| *times == 1), "{exits:?}");
}

fn hanging(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    containerd.events.hang(true);
    for number in 0..5 {
        let name = format!("e{number}");
        task.exec(&name, &["/bin/true"], Streams::none());
        assert_eq!(task.wait(&name), 0);
        task.delete(&name).expect("delete");
    }
    containerd.events.hang(false);
    for number in 0..5 {
        assert_eq!(containerd.events.exit(&task.id, &format!("e{number}")), 0);
    }
    task.end_all();
}

/// Nothing of a container is left, whoever looks.
#[track_caller]
fn nothing_left(test: &Test, id: &str, bundle: &Path, pids: &[i32]) {
    for pid in pids {
        // The kernel may need a moment to take a killed one apart.
        wait_until(&format!("the end of process {pid}"), || !is_alive(*pid));
    }
    assert!(!bundle.exists(), "{} is left", bundle.display());
    for root in ["runc", "rrun"] {
        let state = Path::new("/run/containerd")
            .join(root)
            .join("spec")
            .join(id);
        assert!(!state.exists(), "{} is left", state.display());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(
        !mounts.contains(&format!("/{id}/")),
        "a mount is left: {mounts}"
    );
    for controller in ["pids", "memory"] {
        if test.hierarchy(controller).is_some() {
            let cgroup = test.cgroup(controller, id);
            assert!(!cgroup.exists(), "{} is left", cgroup.display());
        }
    }
}

fn overlay(bundle: &Bundle) -> Wish {
    use containerd_shim_protos::types::mount::Mount;
    let source = bundle.path.with_extension("root");
    fs::rename(bundle.rootfs(), &source).expect("rename");
    fs::create_dir(bundle.rootfs()).expect("mkdir");
    let mount = Mount {
        type_: "bind".to_owned(),
        source: source.display().to_string(),
        options: vec!["rbind".to_owned(), "ro".to_owned()],
        ..Mount::default()
    };
    Wish {
        rootfs: vec![mount],
        ..Wish::default()
    }
}

fn shim_killed(test: &Test) {
    let containerd = one(test);
    for started in [false, true] {
        let bundle = sleeper(test);
        let wish = overlay(&bundle);
        let task = Task::create(&containerd, bundle, wish);
        let mut pids = vec![task.pid];
        if started {
            task.start("").expect("start");
            pids.push(task.exec("x", &["/bin/sleep"], Streams::none()));
        }
        let path = task.bundle.path.clone();
        task.shim.kill();
        let deleted = containerd.delete(&task.bundle).expect("delete");
        assert_eq!(deleted.exit_status, 137);
        assert!(deleted.exited_at.is_some());
        task.shim.forget_socket(test);
        nothing_left(test, &task.id, &path, &pids);
    }
}

fn recorded(test: &Test) {
    let containerd = one(test);
    let task = Task::run(
        &containerd,
        Bundle::new(test).probe(&["exit", "23"]),
        Streams::none(),
    );
    assert_eq!(task.wait(""), 23);
    let path = task.bundle.path.clone();
    task.shim.kill();
    let deleted = containerd.delete(&task.bundle).expect("delete");
    assert_eq!((deleted.exit_status, deleted.pid as i32), (23, task.pid));
    nothing_left(test, &task.id, &path, &[task.pid]);
}

/// Containers come, exec and go while their shim is killed.
fn killed_at_random(test: &Test) {
    let mut random = Random::new(test);
    for _ in 0..test.rounds(60, 6) {
        let containerd = one(test);
        let bundle = sleeper(test);
        let wish = overlay(&bundle);
        let path = bundle.path.clone();
        let shim = containerd.shim(&bundle);
        let pid = nix::unistd::Pid::from_raw(shim.pid);
        let delay = Duration::from_millis(random.below(700));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(delay);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
        });
        let mut pids = Vec::new();
        let dead = bundle.clone();
        match Task::create_in(&shim, bundle, wish) {
            Err(failure) => assert_eq!(failure.code, None, "{}", failure.text),
            Ok(task) => {
                pids.push(task.pid);
                load(&task, &mut pids);
            }
        }
        killer.join().expect("the killer");
        shim.wait_gone(GONE);
        let id = dead.id.clone();
        // The Go shim's delete fails where Create did not come far.
        let ran = path.join("runtime").exists() || !test.is(GO);
        if ran {
            let deleted = containerd.delete(&dead).expect("delete");
            assert_eq!(deleted.exit_status, 137);
        } else {
            remove_bundle(&dead);
        }
        shim.forget_socket(test);
        nothing_left(test, &id, &path, &pids);
    }
}

/// Starts execs until the shim is gone.
fn load(task: &Task, pids: &mut Vec<i32>) {
    if task.start("").is_err() {
        return;
    }
    for number in 0..1000 {
        let name = format!("e{number}");
        if task
            .add_exec(&name, &["/bin/sleep"], Streams::none())
            .is_err()
        {
            return;
        }
        match task.start(&name) {
            Ok(pid) => pids.push(pid),
            Err(_) => return,
        }
    }
}

fn failures(test: &Test) {
    let containerd = one(test);
    let mut random = Random::new(test);
    for _ in 0..test.rounds(500, 16) {
        let bundle = Bundle::new(test).args(&["/bin/true"]);
        let (bundle, works) = match random.below(5) {
            0 => (
                bundle.with(|config| config["process"]["args"] = json!([])),
                false,
            ),
            1 => (bundle.args(&["/bin/nothing"]), false),
            2 => (
                bundle.with(|config| config["root"]["path"] = json!("nowhere")),
                false,
            ),
            _ => (bundle, true),
        };
        let id = bundle.id.clone();
        let path = bundle.path.clone();
        let shim = containerd.shim(&bundle);
        match Task::create_in(&shim, bundle, Wish::default()) {
            Ok(task) => {
                assert!(works, "a bundle that can't run was created");
                task.start("").expect("start");
                assert_eq!(task.finish(), 0);
            }
            Err(failure) => {
                assert!(!works, "{}", failure.text);
                shut_down(test, &shim, &id);
                fs::remove_dir_all(&path).expect("the bundle");
            }
        }
        shim.wait_gone(GONE);
        nothing_left(test, &id, &path, &[]);
    }
}

/// containerd gives up a `Create` whose client has gone, deletes what may have
/// come of it, and has the shim leave.
fn given_up_create(test: &Test) {
    let containerd = one(test);
    let began = test.directory.join("began");
    let hook = format!(": >{}; sleep 1", began.display());
    let bundle = sleeper(test).shell_hook("prestart", &hook);
    let (id, path) = (bundle.id.clone(), bundle.path.clone());
    let shim = containerd.shim(&bundle);
    let creating = Task::creating(&shim, &bundle, Wish::default());
    wait_until("the hook", || began.exists());
    let given_up = Task {
        shim: shim.clone(),
        bundle,
        id: id.clone(),
        pid: 0,
    };
    let deleted = given_up.delete("").expect("delete");
    let created: CreateTaskResponse = creating.wait().expect("create");
    assert_eq!(deleted.pid, created.pid);
    given_up.leave();
    shim.wait_gone(GONE);
    nothing_left(test, &id, &path, &[created.pid as i32]);
}

/// A stopped service must not take the containers along.
fn sigterm(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    task.shim.signal(nix::sys::signal::Signal::SIGTERM);
    // One that means to go on gives no sign.
    let begin = Instant::now();
    while is_alive(task.shim.pid) && begin.elapsed() < Duration::from_secs(3) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        is_alive(task.pid),
        "the container died with a signal to its shim"
    );
    if is_alive(task.shim.pid) {
        task.end_all();
    } else {
        let deleted = containerd.delete(&task.bundle).expect("delete");
        assert_eq!(deleted.exit_status, 137);
        task.shim.forget_socket(test);
    }
}
