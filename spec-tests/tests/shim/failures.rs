//! A runtime, a helper, a reader or a disk that fails or takes its time: what
//! is left, and who waits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{
    ConnectRequest, ConnectResponse, CreateTaskResponse, StateRequest, StateResponse, WaitResponse,
};
use containerd_shim_protos::types::mount::Mount;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spec_tests::runtime::wait_until;
use spec_tests::shim::containerd::{is_alive, log_text};
use spec_tests::shim::task::{GONE, Wish, shut_down};
use spec_tests::shim::wire::Client;
use spec_tests::shim::wrapper::{program, real, wish};
use spec_tests::shim::{Containerd, Generation, NAMESPACE, Streams, Task};
use spec_tests::{Bundle, Case, Test};

const GO: &str = "containerd-shim-runc-v2";
const GROUP: &str = "io.containerd.runc.v2.group";

/// The cases.
pub(crate) const CASES: &[Case] = &[
    Case::kernel(
        "a mount that takes its time holds up no other container of the pod",
        slow_mount,
    )
    .except(&[(GO, "the Go shim holds its lock for all of a Create")]),
    Case::go(
        "an unmount that takes its time holds up no other container of the pod",
        slow_unmount,
    ),
    Case::kernel(
        "what a runtime made that then fails is removed",
        failed_after_create,
    )
    .except(&[(GO, "the Go shim leaves it")]),
    Case::go(
        "a create with an id that the runtime knows leaves the other alone",
        known_id,
    ),
    Case::kernel("an exec whose pid is not told is logged", lost_exec)
        .except(&[(GO, "the Go shim's pid file has another name")]),
    Case::go(
        "an exec's process is written for nobody else to read",
        secret_process,
    ),
    Case::go(
        "a created container that dies when it is deleted is deleted",
        dies_when_deleted,
    ),
    Case::kernel(
        "delete is answered before containerd's patience ends, whatever hangs",
        hanging_delete,
    )
    .except(&[(GO, "the Go shim waits for its runtime")]),
    Case::kernel(
        "what outlives the first process is killed again and again",
        killed_again,
    )
    .except(&[(GO, "the Go shim kills once")]),
    Case::go(
        "a shim without a free descriptor waits for one",
        no_descriptor,
    ),
    Case::go(
        "output that nobody reads holds up a delete for some seconds in all",
        unread_output,
    ),
];

fn one(test: &Test) -> Containerd<'_> {
    Containerd::new(test, Generation::V1_6)
}

fn sleeper(test: &Test) -> Bundle {
    Bundle::new(test).args(&["/bin/sleep"])
}

/// Where the runtime has the container.
fn state_of(id: &str) -> PathBuf {
    let root = Path::new("/run/containerd/runc");
    root.join(NAMESPACE).join(id)
}

/// The shim answers for this container at once.
#[track_caller]
fn answers(task: &Task) {
    let request = StateRequest {
        id: task.id.clone(),
        ..StateRequest::default()
    };
    let pending = task.shim.send("State", &request);
    let Ok(answer) = pending.within::<StateResponse>(Duration::from_secs(1)) else {
        panic!("the shim does not answer");
    };
    answer.expect("state");
}

/// The bundle with what was its root in a folder beside it.
fn bound(bundle: &Bundle, kind: &str) -> Wish {
    let source = bundle.path.with_extension("root");
    fs::rename(bundle.rootfs(), &source).expect("rename");
    fs::create_dir(bundle.rootfs()).expect("mkdir");
    let mount = Mount {
        type_: kind.to_owned(),
        source: source.display().to_string(),
        options: vec!["rbind".to_owned(), "ro".to_owned()],
        ..Mount::default()
    };
    Wish {
        rootfs: vec![mount],
        ..Wish::default()
    }
}

/// The helper of a FUSE file system leaves its server behind, which has its
/// output open.
fn slow_mount(test: &Test) {
    let mut containerd = one(test);
    let folder = test.directory.join("helpers");
    fs::create_dir(&folder).expect("mkdir");
    let path = std::env::var("PATH").expect("PATH");
    let path = format!("{}:{path}", folder.display());
    containerd.environment = vec![("PATH".to_owned(), path)];
    let server = folder.join("server");
    let text = format!(
        "#!/bin/sh\n: >{0}.begun\nsleep 3\nmount --bind \"$1\" \"$2\"\nsleep 100 &\necho $! >{0}\n",
        server.display()
    );
    program(&folder.join("mount.fuse"), &text);
    let other = sleeper(test).annotation(GROUP, &test.prefix);
    let other = Task::run(&containerd, other, Streams::none());
    let bundle = sleeper(test).annotation(GROUP, &test.prefix);
    let wish = bound(&bundle, "fuse.test");
    let (id, shim) = (bundle.id.clone(), containerd.shim(&bundle));
    let creating = Task::creating(&shim, &bundle, wish);
    let begun = server.with_extension("begun");
    wait_until("the helper", || begun.exists());
    answers(&other);
    let Ok(created) = creating.within::<CreateTaskResponse>(Duration::from_secs(20)) else {
        panic!("Create waits for the server");
    };
    let pid = created.expect("create").pid as i32;
    let pid_of_server = fs::read_to_string(&server).expect("the server's pid");
    let pid_of_server: i32 = pid_of_server.trim().parse().expect("a pid");
    kill(Pid::from_raw(pid_of_server), Signal::SIGKILL).expect("kill");
    let task = Task {
        shim,
        bundle,
        id,
        pid,
    };
    task.start("").expect("start");
    task.end();
    other.end_all();
}

fn slow_unmount(test: &Test) {
    let containerd = one(test);
    let other = sleeper(test).annotation(GROUP, &test.prefix);
    let other = Task::run(&containerd, other, Streams::none());
    let bundle = sleeper(test).annotation(GROUP, &test.prefix);
    let wish = bound(&bundle, "bind");
    let task = Task::run(&containerd, bundle, wish);
    task.kill("", libc::SIGKILL).expect("kill");
    task.wait("");
    let log = test.directory.join("strace");
    let mut tracer = Command::new("strace")
        .args(["-f", "-e", "trace=umount2"])
        .args(["-e", "inject=umount2:delay_enter=1500000"])
        .args(["-p", &task.shim.pid.to_string()])
        .stdin(Stdio::null())
        .stderr(fs::File::create(&log).expect("a file"))
        .spawn()
        .expect("strace");
    let said = |word: &str| fs::read_to_string(&log).expect("strace").contains(word);
    wait_until("strace", || said("attached"));
    let request = containerd_shim_protos::api::DeleteRequest {
        id: task.id.clone(),
        ..Default::default()
    };
    let deleting = task.shim.send("Delete", &request);
    wait_until("the unmount", || said("umount2("));
    answers(&other);
    let deleted: containerd_shim_protos::api::DeleteResponse = deleting.wait().expect("delete");
    assert_eq!(deleted.exit_status, 137);
    kill(Pid::from_raw(tracer.id() as i32), Signal::SIGINT).expect("SIGINT");
    tracer.wait().expect("strace");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let rootfs = task.bundle.rootfs().display().to_string();
    assert!(!mounts.contains(&rootfs), "the rootfs is mounted still");
    task.leave();
    other.end_all();
}

fn failed_after_create(test: &Test) {
    let containerd = one(test);
    for (after, text) in [
        ("exit 3", "exit status 3"),
        (
            "echo nothing >init.pid; exit 0",
            "\"nothing\" is no process id",
        ),
        ("rm init.pid; exit 0", "init.pid"),
    ] {
        let bundle = sleeper(test);
        let pid = bundle.path.with_extension("pid");
        let script = format!(
            "[ $verb != create ] || {{ $real \"$@\"; cp init.pid {}; {after}; }}",
            pid.display()
        );
        let (id, path) = (bundle.id.clone(), bundle.path.clone());
        let wish = wish(test, &script);
        let shim = containerd
            .start(&bundle, wish.options.as_ref())
            .expect("start");
        let Err(failure) = Task::create_in(&shim, bundle, wish) else {
            panic!("`{after}` is created");
        };
        assert!(failure.text.contains(text), "{}", failure.text);
        let pid = fs::read_to_string(pid).expect("the pid");
        let pid: i32 = pid.trim().parse().expect("a pid");
        wait_until("the end of the process", || !is_alive(pid));
        assert!(!state_of(&id).exists(), "`{after}`: its state is left");
        shut_down(test, &shim, &id);
        shim.wait_gone(GONE);
        fs::remove_dir_all(path).expect("the bundle");
    }
}

fn known_id(test: &Test) {
    let containerd = one(test);
    let bundle = sleeper(test);
    let root = state_of(&bundle.id).with_file_name("");
    let other = sleeper(test);
    let call = |words: &[&str]| {
        let mut command = Command::new(real(test));
        command.arg("--root").arg(&root).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        assert!(command.status().expect("the runtime").success());
    };
    let path = other.path.to_str().expect("text");
    call(&["create", "--bundle", path, &bundle.id]);
    let shim = containerd.shim(&bundle);
    let (id, path) = (bundle.id.clone(), bundle.path.clone());
    let Err(failure) = Task::create_in(&shim, bundle, Wish::default()) else {
        panic!("an id is used twice");
    };
    assert!(failure.text.contains("exist"), "{}", failure.text);
    // It is there and can be started.
    call(&["start", &id]);
    call(&["delete", "--force", &id]);
    shut_down(test, &shim, &id);
    shim.wait_gone(GONE);
    fs::remove_dir_all(path).expect("the bundle");
}

fn lost_exec(test: &Test) {
    let containerd = one(test);
    let script = "[ $verb != exec ] || { $real \"$@\"; echo nothing >exec-x.pid; exit 0; }";
    let task = Task::run(&containerd, sleeper(test), wish(test, script));
    task.add_exec("x", &["/bin/true"], Streams::none())
        .expect("exec");
    let failure = task.start("x").expect_err("it has no pid");
    assert!(
        failure.text.contains("\"nothing\" is no process id"),
        "{}",
        failure.text
    );
    let log = log_text(&task.bundle);
    assert!(
        log.contains("level=error") && log.contains("runs unknown"),
        "{log}"
    );
    task.end_all();
}

fn secret_process(test: &Test) {
    let containerd = one(test);
    let mode = test.directory.join("mode");
    let script = format!(
        "for word in \"$@\"; do [ \"$before\" != --process ] || stat -c %a \"$word\" >{}; before=$word; done",
        mode.display()
    );
    let task = Task::run(&containerd, sleeper(test), wish(test, &script));
    task.exec("x", &["/bin/true"], Streams::none());
    assert_eq!(fs::read_to_string(&mode).expect("the mode").trim(), "600");
    task.end_all();
}

/// It has died when the signal of `Delete` comes.
fn dies_when_deleted(test: &Test) {
    let containerd = one(test);
    let script = "[ $verb != kill ] || { $real \"$@\"; sleep 0.3; }";
    let task = Task::create(&containerd, sleeper(test), wish(test, script));
    let deleted = task.delete("").expect("delete");
    assert_eq!(deleted.pid as i32, task.pid);
    let shim = task.shim.clone();
    task.leave();
    shim.wait_gone(GONE);
}

fn hanging_delete(test: &Test) {
    let containerd = one(test);
    let hangs = test.directory.join("hangs");
    let script = format!(
        "[ $verb != delete ] || [ ! -e {} ] || exec sleep 30",
        hangs.display()
    );
    let task = Task::run(&containerd, sleeper(test), wish(test, &script));
    task.shim.kill();
    fs::write(&hangs, "").expect("a file");
    let root = state_of(&task.id).with_file_name("");
    let begin = Instant::now();
    let deleted = containerd.delete(&task.bundle).expect("delete");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(deleted.exit_status, 137);
    let errors = fs::read_to_string(containerd.directory.join("delete.stderr")).expect("stderr");
    assert!(errors.contains("not done within 3 s"), "{errors}");
    let removed = Command::new(real(test))
        .arg("--root")
        .arg(root)
        .args(["delete", "--force", &task.id])
        .status();
    assert!(removed.expect("the runtime").success());
}

/// The first call to kill all is lost: an exec that was on its way is there when
/// it is over.
fn killed_again(test: &Test) {
    let containerd = one(test);
    let lost = test.directory.join("lost");
    let script = format!(
        "case \" $* \" in *' --all '*) [ -e {0} ] || {{ : >{0}; exit 0; }};; esac",
        lost.display()
    );
    let bundle = sleeper(test).without_namespace("pid");
    let task = Task::run(&containerd, bundle, wish(test, &script));
    task.exec("x", &["/bin/sleep"], Streams::none());
    // Not by the runtime, which would kill all.
    kill(Pid::from_raw(task.pid), Signal::SIGKILL).expect("kill");
    let waiting = task.waiting("");
    let Ok(ended) = waiting.within::<WaitResponse>(Duration::from_secs(15)) else {
        panic!("the exit is held for ever");
    };
    assert_eq!(ended.expect("wait").exit_status, 137);
    assert!(lost.exists());
    assert_eq!(task.wait("x"), 137);
    task.end_all();
}

/// Each writes more than its FIFO takes, and ends.
fn unread_output(test: &Test) {
    let containerd = one(test);
    let script =
        "busybox head -c 100000 /dev/zero; while [ ! -e /data/end ]; do busybox sleep 0.05; done";
    let bundle = Bundle::new(test).shell(script);
    let end = bundle.rootfs().join("data/end");
    let fifos = || {
        let streams = Streams::fifos(test, false);
        std::mem::forget(spec_tests::shim::streams::open(Path::new(&streams.stdout)));
        streams
    };
    let task = Task::run(&containerd, bundle, fifos());
    for name in ["a", "b"] {
        let words = ["/bin/busybox", "head", "-c", "100000", "/dev/zero"];
        task.exec(name, &words, fifos());
        assert_eq!(task.wait(name), 0);
    }
    fs::write(end, "").expect("a file");
    assert_eq!(task.wait(""), 0);
    let begin = Instant::now();
    task.delete("").expect("delete");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(7), "{took:?}");
    task.leave();
}

/// A connection that can't be accepted stays in the queue.
fn no_descriptor(test: &Test) {
    let containerd = one(test);
    let task = Task::run(&containerd, sleeper(test), Streams::none());
    let pid = task.shim.pid;
    let limit = |files: &str| {
        let mut command = Command::new("prlimit");
        command.args(["--pid", &pid.to_string(), &format!("--nofile={files}:")]);
        assert!(command.status().expect("prlimit").success());
    };
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let number = |name: std::ffi::OsString| name.to_str().and_then(|name| name.parse().ok());
    let last: Option<u32> = open
        .filter_map(|entry| number(entry.expect("an entry").file_name()))
        .max();
    // Those that are free below the limit, too.
    let fill = last.expect("a descriptor") + 1;
    limit(&fill.to_string());
    let socket = task.shim.socket.to_str().expect("text");
    let clients: Vec<Client> = (0..fill)
        .map(|_| Client::connect(socket).expect("connect"))
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
        let fields = stat.rsplit(") ").next().expect("fields");
        let times = fields.split(' ').skip(11).take(2);
        let ticks = times.map(|time| time.parse::<u64>().expect("a number"));
        ticks.sum::<u64>()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(1));
    let used = ticks() - before;
    assert!(used < 10, "{used} ticks of CPU time in a second");
    limit("1000");
    let last = clients.last().expect("a client");
    let pending = last.send(
        "containerd.task.v2.Task",
        "Connect",
        &ConnectRequest::default(),
    );
    let answer: ConnectResponse = pending.wait().expect("connect");
    assert_eq!(answer.shim_pid as i32, pid);
    drop(clients);
    task.end_all();
}
