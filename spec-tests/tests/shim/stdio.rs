//! What goes through the shim: input, output, terminals, and readers that do
//! not read.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spec_tests::runtime::{HANG, wait_until};
use spec_tests::shim::streams::{open, read_some, type_in};
use spec_tests::shim::{Containerd, Generation, Streams, Task};
use spec_tests::{Bundle, Case, Test};

const GO: &str = "containerd-shim-runc-v2";

/// The cases.
pub(crate) const CASES: &[Case] = &[
    Case::go(
        "output and errors come through FIFOs of their own",
        two_outputs,
    ),
    Case::go("input goes in, CloseIO ends it", input),
    Case::go("CloseIO of an exec ends its input", exec_input),
    Case::go("a terminal: typed, echoed, resized", terminal),
    Case::go("the terminal of an exec is resized", exec_terminal),
    Case::go("file:// appends", to_file),
    Case::go("binary:// hands the output to a logger", to_binary),
    Case::go("a large log comes byte by byte", large_log),
    Case::go("several writers: each line is whole", large_errors),
    Case::go(
        "a reader that was stopped for a while loses nothing",
        stopped_reader,
    ),
    Case::kernel(
        "a reader that reads no more holds nobody up for ever",
        stalled_reader,
    )
    .except(&[(GO, "the Go shim waits for its reader")]),
    Case::go(
        "a reader that goes is replaced, nothing is lost meanwhile",
        new_reader,
    ),
    Case::kernel(
        "an exec whose child holds the output: exit and delete come within 10 s",
        held_output,
    )
    .except(&[(GO, "CVE-2026-53495")]),
    Case::go("what was written last is there after the exit", last_words),
];

fn one(test: &Test) -> Containerd<'_> {
    Containerd::new(test, Generation::V1_6)
}

fn two_outputs(test: &Test) {
    let containerd = one(test);
    let streams = Streams::fifos(test, false).errors(test);
    let (output, errors) = (streams.read(), streams.read_errors());
    let bundle = Bundle::new(test).shell("echo out; echo err >&2; echo more");
    let task = Task::run(&containerd, bundle, streams);
    assert_eq!(task.finish(), 0);
    assert_eq!(output.end(), "out\nmore\n");
    assert_eq!(errors.end(), "err\n");
}

fn input(test: &Test) {
    let containerd = one(test);
    let streams = Streams::fifos(test, true);
    let reader = streams.read();
    let mut stdin = streams.write();
    let task = Task::run(
        &containerd,
        Bundle::new(test).shell("cat; echo end"),
        streams,
    );
    type_in(&mut stdin, "hello\n");
    reader.wait_for("hello\n");
    type_in(&mut stdin, "again\n");
    reader.wait_for("again\n");
    // As containerd's client: its end first, then the shim's own.
    drop(stdin);
    task.close_stdin("").expect("CloseIO");
    assert_eq!(task.finish(), 0);
    assert_eq!(reader.end(), "hello\nagain\nend\n");
}

fn exec_input(test: &Test) {
    let containerd = one(test);
    let bundle = Bundle::new(test).shell("true").args(&["/bin/sleep"]);
    let task = Task::run(&containerd, bundle, Streams::none());
    let streams = Streams::fifos(test, true);
    let reader = streams.read();
    let mut stdin = streams.write();
    task.exec("x", &["/bin/cat"], streams);
    type_in(&mut stdin, "to the exec\n");
    reader.wait_for("to the exec\n");
    drop(stdin);
    task.close_stdin("x").expect("CloseIO");
    assert_eq!(task.wait("x"), 0);
    task.delete("x").expect("delete");
    assert_eq!(reader.end(), "to the exec\n");
    task.end_all();
}

fn terminal(test: &Test) {
    let containerd = one(test);
    let streams = Streams::terminal(test);
    let reader = streams.read();
    let mut stdin = streams.write();
    let script = "read a; busybox stty size; read b; busybox stty size; exit 4";
    let bundle = Bundle::new(test).shell(script).with(|config| {
        config["process"]["terminal"] = true.into();
    });
    let task = Task::run(&containerd, bundle, streams);
    assert!(task.state("").expect("state").terminal);
    task.resize("", 33, 99).expect("ResizePty");
    type_in(&mut stdin, "first\n");
    reader.wait_for("first\r\n");
    reader.wait_for("33 99\r\n");
    task.resize("", 7, 77).expect("ResizePty");
    type_in(&mut stdin, "second\n");
    reader.wait_for("7 77\r\n");
    assert_eq!(task.finish(), 4);
}

fn exec_terminal(test: &Test) {
    let containerd = one(test);
    let bundle = Bundle::new(test).shell("true").args(&["/bin/sleep"]);
    let task = Task::run(&containerd, bundle, Streams::none());
    let streams = Streams::terminal(test);
    let reader = streams.read();
    let mut stdin = streams.write();
    task.exec(
        "x",
        &["/bin/sh", "-c", "read a; busybox stty size"],
        streams,
    );
    task.resize("x", 12, 34).expect("ResizePty");
    type_in(&mut stdin, "go\n");
    reader.wait_for("12 34\r\n");
    assert_eq!(task.wait("x"), 0);
    task.delete("x").expect("delete");
    task.end_all();
}

fn to_file(test: &Test) {
    let containerd = one(test);
    let path = test.directory.join("deep/er/log");
    let streams = || Streams {
        stdout: format!("file://{}", path.display()),
        stderr: format!("file://{}", path.display()),
        ..Streams::default()
    };
    for _ in 0..2 {
        let bundle = Bundle::new(test).shell("echo line");
        assert_eq!(Task::run(&containerd, bundle, streams()).finish(), 0);
    }
    assert_eq!(fs::read_to_string(&path).expect("the file"), "line\nline\n");
}

fn to_binary(test: &Test) {
    use std::os::unix::fs::PermissionsExt;
    let containerd = one(test);
    let log = test.directory.join("logged");
    let logger = test.directory.join("logger");
    let script = "#!/bin/sh\n\
        { echo \"$CONTAINER_ID $CONTAINER_NAMESPACE $1 $2\"; } >$2\n\
        exec 5>&-\n\
        cat <&3 >>$2\n";
    fs::write(&logger, script).expect("a logger");
    fs::set_permissions(&logger, fs::Permissions::from_mode(0o755)).expect("chmod");
    let uri = format!("binary://{}?to={}", logger.display(), log.display());
    let streams = Streams {
        stdout: uri.clone(),
        stderr: uri,
        ..Streams::default()
    };
    let task = Task::run(&containerd, Bundle::new(test).shell("echo logged"), streams);
    let first = format!("{} spec to {}\n", task.id, log.display());
    assert_eq!(task.finish(), 0);
    let text = fs::read_to_string(&log).expect("the log");
    assert_eq!(text, format!("{first}logged\n"));
}

/// The numbers from 1, a line each: every byte is known.
struct Numbers {
    next: u64,
    line: Vec<u8>,
}

impl Numbers {
    fn new() -> Numbers {
        Numbers {
            next: 1,
            line: Vec::new(),
        }
    }

    /// Fails the case unless these bytes come next.
    #[track_caller]
    fn expect(&mut self, mut bytes: &[u8]) {
        use std::io::Write;
        while !bytes.is_empty() {
            if self.line.is_empty() {
                // Many numbers at a time: this is compared a thousand million times.
                for _ in 0..4096 {
                    writeln!(self.line, "{}", self.next).expect("memory");
                    self.next += 1;
                }
            }
            let size = bytes.len().min(self.line.len());
            assert!(
                bytes[..size] == self.line[..size],
                "wrong bytes near {}: {:?}",
                self.next,
                String::from_utf8_lossy(&bytes[..size.min(80)])
            );
            self.line.drain(..size);
            bytes = &bytes[size..];
        }
    }
}

fn read_numbers(mut file: File) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut numbers = Numbers::new();
        let mut buffer = vec![0; 1 << 16];
        let mut total = 0;
        loop {
            match read_some(&mut file, &mut buffer) {
                None => {}
                Some(0) => return total,
                Some(size) => {
                    numbers.expect(&buffer[..size]);
                    total += size as u64;
                }
            }
        }
    })
}

fn large_log(test: &Test) {
    let containerd = one(test);
    let streams = Streams::fifos(test, false);
    let reading = read_numbers(open(Path::new(&streams.stdout)));
    let bytes: u64 = if test.full { 1 << 30 } else { 64 << 20 };
    let script = format!("busybox seq 1 1000000000 | busybox head -c {bytes}");
    let begin = Instant::now();
    let task = Task::run(&containerd, Bundle::new(test).shell(&script), streams);
    let waiting = task.waiting("");
    let mut pending = waiting;
    let answer: containerd_shim_protos::api::WaitResponse = loop {
        match pending.within(HANG) {
            Ok(answer) => break answer.expect("wait"),
            Err(again) => pending = again,
        }
    };
    assert_eq!(answer.exit_status, 0);
    assert_eq!(task.finish(), 0);
    assert_eq!(reading.join().expect("the bytes"), bytes);
    println!("{bytes} bytes in {:?}", begin.elapsed());
}

/// Lines shorter than PIPE_BUF are never mixed.
fn large_errors(test: &Test) {
    let containerd = one(test);
    let streams = Streams::fifos(test, false).errors(test);
    let (output, errors) = (streams.read(), streams.read_errors());
    let script = "for who in a b c d; do \
        (for i in $(busybox seq 1 300); do echo $who-$i; echo $who-$i >&2; done) & \
        done; wait";
    let task = Task::run(&containerd, Bundle::new(test).shell(script), streams);
    assert_eq!(task.finish(), 0);
    for text in [output.end(), errors.end()] {
        for who in ["a", "b", "c", "d"] {
            let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(who)).collect();
            let expected: Vec<String> = (1..=300).map(|i| format!("{who}-{i}")).collect();
            assert_eq!(lines, expected);
        }
    }
}

/// `cat` from a FIFO into a file: a process of its own can be stopped.
fn cat(fifo: &str, file: &Path) -> Child {
    let child = Command::new("cat")
        .arg(fifo)
        .stdin(Stdio::null())
        .stdout(File::create(file).expect("a file"))
        .spawn();
    child.expect("cat")
}

/// Whether a process, or a child of it, stays inside write(2) for half a second.
fn waits_in_write(pid: i32) -> bool {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let own = pid.to_string();
    let mut all = children.split_whitespace().chain([own.as_str()]);
    // The number of the call and its arguments; "running" for who is in none.
    let inside = |pid: &str| {
        let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        call.starts_with(&format!("{} ", libc::SYS_write))
            .then_some(call)
    };
    all.any(|pid| {
        let first = inside(pid);
        first.is_some()
            && (0..10).all(|_| {
                std::thread::sleep(Duration::from_millis(50));
                inside(pid) == first
            })
    })
}

fn stopped_reader(test: &Test) {
    let containerd = one(test);
    let streams = Streams::fifos(test, false);
    let file = test.directory.join("read");
    let mut reader = cat(&streams.stdout, &file);
    let pid = Pid::from_raw(reader.id() as i32);
    let script = "busybox seq 1 200000";
    let bundle = Bundle::new(test).shell(script);
    let task = Task::create(&containerd, bundle, streams);
    kill(pid, Signal::SIGSTOP).expect("SIGSTOP");
    task.start("").expect("start");
    // More than the pipes take: the container waits, and the shim with it.
    wait_until("the container waits for its reader", || {
        waits_in_write(task.pid)
    });
    assert!(
        task.shim
            .send("State", &state_of(&task))
            .within::<containerd_shim_protos::api::StateResponse>(HANG)
            .is_ok(),
        "the shim hangs"
    );
    kill(pid, Signal::SIGCONT).expect("SIGCONT");
    assert_eq!(task.finish(), 0);
    assert!(reader.wait().expect("wait").success());
    let mut numbers = Numbers::new();
    let bytes = fs::read(&file).expect("what was read");
    numbers.expect(&bytes);
    let expected: usize = (1..=200_000u32)
        .map(|number| number.to_string().len() + 1)
        .sum();
    assert_eq!(bytes.len(), expected);
}

fn state_of(task: &Task) -> containerd_shim_protos::api::StateRequest {
    containerd_shim_protos::api::StateRequest {
        id: task.id.clone(),
        ..Default::default()
    }
}

fn stalled_reader(test: &Test) {
    let containerd = one(test);
    let streams = Streams::fifos(test, false);
    let reader = streams.read();
    reader.stall(true);
    let begin = Instant::now();
    let bundle = Bundle::new(test).shell("busybox seq 1 1000000; exit 6");
    let task = Task::run(&containerd, bundle, streams);
    assert_eq!(task.wait(""), 6);
    let took = begin.elapsed();
    assert!(
        took > Duration::from_secs(9),
        "nothing may be lost in the first 10 s: {took:?}"
    );
    reader.quit();
    assert_eq!(task.finish(), 6);
}

fn new_reader(test: &Test) {
    let containerd = one(test);
    let streams = Streams::fifos(test, false);
    let first = streams.read();
    let script = "echo one; read x; echo two; read x; echo three";
    let input = Streams::fifos(test, true);
    let mut stdin = input.write();
    let streams = Streams {
        stdin: input.stdin,
        ..streams
    };
    let output = streams.stdout.clone();
    let task = Task::run(&containerd, Bundle::new(test).shell(script), streams);
    first.wait_for("one\n");
    first.quit();
    // Nobody reads now; as when containerd is down.
    type_in(&mut stdin, "\n");
    std::thread::sleep(Duration::from_millis(300));
    let second = spec_tests::shim::streams::Reader::new(Path::new(&output));
    second.wait_for("two\n");
    type_in(&mut stdin, "\n");
    assert_eq!(task.finish(), 0);
    assert_eq!(second.end(), "two\nthree\n");
}

/// CVE-2026-53495: a process in the background inherits the output of an exec.
fn held_output(test: &Test) {
    let containerd = one(test);
    let bundle = Bundle::new(test).shell("true").args(&["/bin/sleep"]);
    let task = Task::run(&containerd, bundle, Streams::none());
    let streams = Streams::fifos(test, false);
    let reader = streams.read();
    task.exec(
        "x",
        &["/bin/sh", "-c", "busybox sleep 1000 & echo out; exit 3"],
        streams,
    );
    assert_eq!(containerd.events.exit(&task.id, "x"), 3);
    let deleting: containerd_shim_protos::api::DeleteResponse = task
        .shim
        .send(
            "Delete",
            &containerd_shim_protos::api::DeleteRequest {
                id: task.id.clone(),
                exec_id: "x".to_owned(),
                ..Default::default()
            },
        )
        .within(Duration::from_secs(10))
        .unwrap_or_else(|_| panic!("Delete takes longer than 10 s"))
        .expect("delete");
    assert_eq!(deleting.exit_status, 3);
    reader.wait_for("out\n");
    reader.quit();
    task.end_all();
}

fn last_words(test: &Test) {
    let containerd = one(test);
    for _ in 0..test.rounds(50, 4) {
        let streams = Streams::fifos(test, false);
        let reader = streams.read();
        reader.stall(true);
        // Less than a pipe takes: the container ends before anybody reads.
        let bundle = Bundle::new(test).shell("busybox seq 1 3000");
        let task = Task::run(&containerd, bundle, streams);
        assert_eq!(task.wait(""), 0);
        reader.stall(false);
        assert_eq!(task.finish(), 0);
        assert!(reader.end().ends_with("2999\n3000\n"));
    }
}
