//! Filters on the real kernel: each action, shown by a child process that
//! loads the compiler's program and makes the syscall.
//!
//! The file is its own child (`seccomp_live child CASE PROFILE`), so that the
//! filtered process has one thread and no test harness in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where something is not as expected"
)]
#![allow(
    unsafe_code,
    reason = "signal handlers and the listener's ioctls have no safe wrapper"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a child leaves at once, and one case is about threads"
)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Output};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use rrun::seccomp::{Arch, Filter, Support, compile};

/// A case: its name, the rule for `sethostname` (and what else), and what the
/// child must report: its output, or the signal it dies by.
struct Case {
    name: &'static str,
    rule: &'static str,
    flags: &'static str,
    child: fn(&Filter) -> String,
    expected: Result<&'static str, Signal>,
}

const CASES: [Case; 14] = [
    Case {
        name: "allow",
        rule: r#""action":"SCMP_ACT_ALLOW""#,
        flags: "",
        child: call,
        expected: Ok("EINVAL"),
    },
    Case {
        name: "errno without a value is EPERM",
        rule: r#""action":"SCMP_ACT_ERRNO""#,
        flags: "",
        child: call,
        expected: Ok("EPERM"),
    },
    Case {
        name: "errno with a value",
        rule: r#""action":"SCMP_ACT_ERRNO","errnoRet":42"#,
        flags: "",
        child: call,
        expected: Ok("ENOMSG"),
    },
    Case {
        name: "log lets the call through",
        rule: r#""action":"SCMP_ACT_LOG""#,
        flags: r#","flags":["SECCOMP_FILTER_FLAG_LOG"]"#,
        child: call,
        expected: Ok("EINVAL"),
    },
    Case {
        name: "trace without a tracer is ENOSYS",
        rule: r#""action":"SCMP_ACT_TRACE""#,
        flags: "",
        child: call,
        expected: Ok("ENOSYS"),
    },
    Case {
        name: "trap is a signal that can be caught",
        rule: r#""action":"SCMP_ACT_TRAP""#,
        flags: "",
        child: trapped,
        expected: Ok("SIGSYS caught"),
    },
    Case {
        name: "trap kills where nothing catches it",
        rule: r#""action":"SCMP_ACT_TRAP""#,
        flags: "",
        child: call,
        expected: Err(Signal::SIGSYS),
    },
    Case {
        name: "kill",
        rule: r#""action":"SCMP_ACT_KILL""#,
        flags: "",
        child: trapped,
        expected: Err(Signal::SIGSYS),
    },
    Case {
        name: "kill a thread, and the process lives",
        rule: r#""action":"SCMP_ACT_KILL_THREAD""#,
        flags: "",
        child: beside_a_thread,
        expected: Ok("the process lives"),
    },
    Case {
        name: "kill the process with all threads",
        rule: r#""action":"SCMP_ACT_KILL_PROCESS""#,
        flags: "",
        child: beside_a_thread,
        expected: Err(Signal::SIGSYS),
    },
    Case {
        name: "a condition that holds",
        rule: r#""action":"SCMP_ACT_ERRNO","errnoRet":42,
            "args":[{"index":1,"value":4294967295,"op":"SCMP_CMP_GT"}]"#,
        flags: "",
        child: call,
        expected: Ok("ENOMSG"),
    },
    Case {
        name: "a condition that doesn't hold",
        rule: r#""action":"SCMP_ACT_ERRNO","errnoRet":42,
            "args":[{"index":1,"value":4294967295,"op":"SCMP_CMP_LE"}]"#,
        flags: "",
        child: call,
        expected: Ok("EINVAL"),
    },
    Case {
        name: "notify, answered by the listener",
        rule: r#""action":"SCMP_ACT_NOTIFY""#,
        flags: "",
        child: notified,
        expected: Ok("sethostname answered with EXDEV"),
    },
    Case {
        name: "notify, killable while it waits",
        rule: r#""action":"SCMP_ACT_NOTIFY""#,
        flags: r#","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#,
        child: notified,
        expected: Ok("sethostname answered with EXDEV"),
    },
];

/// Makes the syscall with a length that no kernel takes, so that nothing
/// happens if it gets through.
fn sethostname() -> Errno {
    // SAFETY: the kernel refuses the length before it reads the name.
    let result = unsafe { libc::sethostname(std::ptr::null(), usize::MAX) };
    Errno::result(result).expect_err("no host name has this length")
}

fn load(filter: &Filter) -> Option<OwnedFd> {
    rrun::sys::seccomp::load(&filter.program, filter.flags).unwrap()
}

fn call(filter: &Filter) -> String {
    assert!(load(filter).is_none());
    format!("{:?}", sethostname())
}

extern "C" fn caught(_: libc::c_int) {
    println!("SIGSYS caught");
    std::process::exit(0);
}

fn trapped(filter: &Filter) -> String {
    let action = SigAction::new(
        SigHandler::Handler(caught),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the signal comes of a syscall of this thread, not while it
    // holds a lock, so that the handler may print and exit.
    unsafe { sigaction(Signal::SIGSYS, &action) }.unwrap();
    assert!(load(filter).is_none());
    format!("{:?}", sethostname())
}

/// The filter is loaded and met in a second thread.
fn beside_a_thread(filter: &Filter) -> String {
    let filter = filter.clone();
    let (begins, began) = mpsc::channel();
    let (alive, died) = mpsc::channel::<Errno>();
    thread::spawn(move || {
        begins.send(nix::unistd::gettid()).unwrap();
        load(&filter);
        alive.send(sethostname()).unwrap();
    });
    let thread = Path::new("/proc/self/task").join(began.recv().unwrap().to_string());
    while thread.exists() {
        thread::sleep(Duration::from_millis(1));
    }
    // A process that is killed as a whole does not come here.
    match died.try_recv() {
        Ok(errno) => format!("{errno:?}"),
        Err(_) => "the process lives".to_owned(),
    }
}

/// A second thread is filtered; this one has the listener.
fn notified(filter: &Filter) -> String {
    let filter = filter.clone();
    let (listener, received) = mpsc::channel::<OwnedFd>();
    let thread = thread::spawn(move || {
        listener.send(load(&filter).expect("a listener")).unwrap();
        sethostname()
    });
    let listener = received.recv().unwrap();
    // SAFETY: all zero is a valid value, and the one that the kernel asks for.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a seccomp_notif to where the pointer points.
    let result = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut asked,
        )
    };
    Errno::result(result).unwrap();
    let answer = libc::seccomp_notif_resp {
        id: asked.id,
        val: 0,
        error: -libc::EXDEV,
        flags: 0,
    };
    // SAFETY: the kernel reads a seccomp_notif_resp.
    let result = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw const answer,
        )
    };
    Errno::result(result).unwrap();
    assert_eq!(i64::from(asked.data.nr), libc::SYS_sethostname);
    format!("sethostname answered with {:?}", thread.join().unwrap())
}

fn child(case: &Case) -> ExitCode {
    let profile = format!(
        r#"{{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/unused"{},
            "syscalls":[{{"names":["sethostname"],{}}}]}}"#,
        case.flags, case.rule
    );
    let profile = serde_json::from_str(&profile).unwrap();
    let filter = compile(&profile, Arch::native(), &Support::default()).unwrap();
    println!("{}", (case.child)(&filter));
    ExitCode::SUCCESS
}

/// What the child reported, or what is wrong with it.
fn check(case: &Case) -> Result<(), String> {
    let this = std::env::current_exe().unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(this)
        .args(["child", case.name])
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&stdout);
    let right = match case.expected {
        Ok(expected) => status.success() && output.trim() == expected,
        Err(signal) => status.signal() == Some(signal as i32),
    };
    if right {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&stderr);
    Err(format!(
        "{:?} expected, {status}: {output}{stderr}",
        case.expected
    ))
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, word, name] = &args[..]
        && word == "child"
    {
        let case = CASES.iter().find(|case| case.name == name);
        return child(case.expect("a case"));
    }
    println!("\nrunning {} tests", CASES.len());
    let mut failed = 0;
    for case in &CASES {
        match check(case) {
            Ok(()) => println!("test {} ... ok", case.name),
            Err(why) => {
                failed += 1;
                println!("test {} ... FAILED: {why}", case.name);
            }
        }
    }
    println!(
        "\ntest result: {}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out",
        if failed == 0 { "ok" } else { "FAILED" },
        CASES.len() - failed
    );
    ExitCode::from(u8::from(failed != 0))
}
