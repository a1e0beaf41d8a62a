//! Commands that are killed, or refused a system call, on their way: what they
//! leave, `delete --force` takes away, the id is free again and nothing is
//! frozen. What is killed is known to have been: `run`, `create` and the others end
//! with 137, and one whose child is killed says so or succeeds.
//!
//! Each case first counts the system calls of its command, of the runtime and of
//! each of its children, and then puts one fault at one of them after the other
//! ([`spec_tests::trace`]): at all of them with FULL, else at a sample that SEED
//! picks, or at one that `FAULT_AT=PROCESS:CALL` names. Who takes a new step has it
//! tried without a word here.

use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use serde_json::json;
use spec_tests::resctrl::Resctrl;
use spec_tests::runtime::{text, wait_until};
use spec_tests::trace::{self, Fault, Point, Traced};
use spec_tests::{Bundle, Case, Needs, Test, leftovers};

const WHY: &[(&str, &str)] = &[(
    "runc",
    "is written in Go: several threads, whose calls come in any order",
)];

pub(crate) const CASES: &[Case] = &[
    Case::kernel("a create that is killed at any call leaves nothing", |t| {
        each(t, &CREATE, 40, |_| Fault::Kill);
    })
    .except(WHY),
    Case::kernel("a run that is killed at any call leaves nothing", |t| {
        each(t, &RUN, 15, |_| Fault::Kill);
    })
    .except(WHY),
    Case::kernel("a start that is killed at any call leaves nothing", |t| {
        each(t, &START, 15, |_| Fault::Kill);
    })
    .except(WHY),
    Case::kernel("an exec that is killed at any call leaves nothing", |t| {
        each(t, &EXEC, 20, |_| Fault::Kill);
    })
    .except(WHY),
    Case::kernel("a delete that is killed at any call can be repeated", |t| {
        each(t, &DELETE, 20, |_| Fault::Kill);
    })
    .except(WHY),
    Case::kernel(
        "a pause that is killed at any call leaves nothing frozen",
        |t| {
            each(t, &PAUSE, 10, |_| Fault::Kill);
        },
    )
    .except(WHY),
    Case::kernel(
        "an update that is killed at any call leaves nothing frozen",
        |t| {
            each(t, &UPDATE, 10, |_| Fault::Kill);
        },
    )
    .needs(Needs::Limits)
    .except(WHY),
    Case::kernel(
        "a delete of a stopped container that is killed at any call can be repeated",
        |t| {
            each(t, &DELETE_STOPPED, 15, |_| Fault::Kill);
        },
    )
    .except(WHY),
    Case::kernel(
        "without a pid namespace: killed at any call nothing is left",
        |t| {
            for command in [&CREATE, &EXEC, &DELETE] {
                each(t, &command.of(Shape::HostPids), 5, |_| Fault::Kill);
            }
        },
    )
    .except(WHY),
    Case::kernel(
        "with a delegated cgroup: killed at any call nothing is left",
        |t| {
            for command in [&CREATE, &EXEC, &DELETE] {
                each(t, &command.of(Shape::Delegated), 4, |_| Fault::Kill);
            }
        },
    )
    .needs(Needs::V2Limits)
    .except(WHY),
    Case::kernel(
        "with hooks, ids mapped and a pid file: killed at any call nothing is left",
        |t| {
            for command in [&CREATE_RICH, &START, &DELETE] {
                each(t, &command.of(Shape::Rich), 5, |_| Fault::Kill);
            }
        },
    )
    .needs(Needs::Limits)
    .except(WHY),
    Case::kernel(
        "a create whose call fails succeeds or leaves nothing",
        |t| {
            each(t, &CREATE, 40, any_error);
        },
    )
    .except(WHY),
    Case::kernel(
        "a create with resctrl groups that is killed at any call leaves none",
        |t| in_groups(t, |_| Fault::Kill),
    )
    .needs(Needs::Fuse)
    .except(WHY),
    Case::kernel(
        "a create with resctrl groups whose call fails succeeds or leaves none",
        |t| in_groups(t, any_error),
    )
    .needs(Needs::Fuse)
    .except(WHY),
    Case::kernel("a run whose call fails succeeds or leaves nothing", |t| {
        each(t, &RUN, 15, any_error);
    })
    .except(WHY),
    Case::kernel(
        "a start whose call fails leaves a container to delete",
        |t| {
            each(t, &START, 15, any_error);
        },
    )
    .except(WHY),
    Case::kernel("an exec whose call fails leaves no process", |t| {
        each(t, &EXEC, 20, any_error);
    })
    .except(WHY),
    Case::kernel("a delete whose call fails can be repeated", |t| {
        each(t, &DELETE, 20, any_error);
    })
    .except(WHY),
    Case::kernel("a pause whose call fails leaves nothing frozen", |t| {
        each(t, &PAUSE, 10, any_error);
    })
    .except(WHY),
    Case::kernel(
        "a delete of a stopped container whose call fails can be repeated",
        |t| {
            each(t, &DELETE_STOPPED, 15, any_error);
        },
    )
    .except(WHY),
    Case::kernel(
        "without a pid namespace: a call that fails leaves nothing",
        |t| {
            for command in [&CREATE, &EXEC, &DELETE] {
                each(t, &command.of(Shape::HostPids), 5, any_error);
            }
        },
    )
    .except(WHY),
    Case::kernel(
        "with a delegated cgroup: a call that fails leaves nothing",
        |t| {
            for command in [&CREATE, &EXEC, &DELETE] {
                each(t, &command.of(Shape::Delegated), 4, any_error);
            }
        },
    )
    .needs(Needs::V2Limits)
    .except(WHY),
    Case::kernel(
        "with hooks, ids mapped and a pid file: a call that fails leaves nothing",
        |t| {
            for command in [&CREATE_RICH, &START, &DELETE] {
                each(t, &command.of(Shape::Rich), 5, any_error);
            }
        },
    )
    .needs(Needs::Limits)
    .except(WHY),
];

/// What kind of container it is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// That of every case.
    Plain,
    /// In the host's pid namespace, where nothing ends with its init.
    HostPids,
    /// With a hook of each kind, in a user namespace.
    Rich,
    /// With processes below its own cgroup, in a user namespace.
    Delegated,
}

/// A command, and what comes before it.
#[derive(Clone, Copy)]
struct Command {
    before: &'static [&'static [&'static str]],
    words: &'static [&'static str],
    shape: Shape,
    /// How many processes and calls it has at least: fewer, and the tracer has lost
    /// one.
    at_least: (usize, usize),
}

impl Command {
    const fn new(
        before: &'static [&'static [&'static str]],
        words: &'static [&'static str],
        at_least: (usize, usize),
    ) -> Command {
        Command {
            before,
            words,
            shape: Shape::Plain,
            at_least,
        }
    }

    fn of(&self, shape: Shape) -> Command {
        Command { shape, ..*self }
    }
}

const MAKE: &[&str] = &["create", "--bundle", "BUNDLE", "ID"];
const GO: &[&str] = &["start", "ID"];
const CREATE: Command = Command::new(&[], MAKE, (2, 250));
const CREATE_RICH: Command = Command::new(
    &[],
    &[
        "create",
        "--pid-file",
        "PIDFILE",
        "--bundle",
        "BUNDLE",
        "ID",
    ],
    (4, 400),
);
const RUN: Command = Command::new(
    &[],
    &["run", "--detach", "--bundle", "BUNDLE", "ID"],
    (2, 250),
);
const START: Command = Command::new(&[MAKE], GO, (1, 50));
const EXEC: Command = Command::new(
    &[MAKE, GO],
    &["exec", "ID", "/bin/probe", "report"],
    (2, 150),
);
const DELETE: Command = Command::new(&[MAKE, GO], &["delete", "--force", "ID"], (1, 40));
const DELETE_STOPPED: Command = Command::new(
    &[MAKE, GO, &["kill", "ID", "KILL"], &["STOPPED"]],
    &["delete", "ID"],
    (1, 40),
);
const PAUSE: Command = Command::new(&[MAKE, GO], &["pause", "ID"], (1, 20));
const UPDATE: Command = Command::new(
    &[MAKE, GO],
    &["update", "--pids-limit", "50", "ID"],
    (1, 20),
);

/// Another error at each point.
fn any_error(round: usize) -> Fault {
    let errors = [Errno::ENOSPC, Errno::EIO, Errno::ENOMEM, Errno::EPERM];
    Fault::Error(errors[round % errors.len()])
}

/// The container of this shape.
fn bundle(t: &Test, shape: Shape) -> Bundle {
    let bundle = Bundle::new(t).probe(&["pause"]);
    match shape {
        Shape::Plain => bundle,
        Shape::HostPids => bundle.without_namespace("pid"),
        Shape::Rich => {
            let inside = json!({ "path": "/bin/probe", "args": ["probe", "true"] });
            let outside = [
                "prestart",
                "createRuntime",
                "createContainer",
                "poststart",
                "poststop",
            ];
            let bundle = bundle
                .in_user_namespace(200_000)
                .hook("startContainer", inside);
            let bundle = outside
                .iter()
                .fold(bundle, |bundle, moment| bundle.shell_hook(moment, "cat"));
            bundle.with(|config| config["linux"]["resources"] = json!({ "pids": { "limit": 100 } }))
        }
        Shape::Delegated => bundle
            .in_user_namespace(200_000)
            .annotation("run.oci.delegate-cgroup", "a/b"),
    }
}

/// Does `command` with a fault at one call after the other.
fn each(t: &Test, command: &Command, sample: u32, fault: fn(usize) -> Fault) {
    let bundle = bundle(t, command.shape);
    each_of(t, &bundle, command, sample, fault);
}

/// `create` with a class of its own and a monitoring group, on a stand-in for
/// resctrl that must have none of them in the end.
fn in_groups(t: &Test, fault: fn(usize) -> Fault) {
    let resctrl = Resctrl::mount(t);
    let rdt = json!({ "l3CacheSchema": "L3:0=f", "enableMonitoring": true });
    let bundle = Bundle::new(t)
        .probe(&["pause"])
        .with(|config| config["linux"]["intelRdt"] = rdt);
    each_of(t, &bundle, &CREATE, 15, fault);
    let done = resctrl.done();
    let count = |verb: &str| done.iter().filter(|line| line.starts_with(verb)).count();
    assert!(count("mkdir") > 0);
    assert_eq!(count("mkdir"), count("rmdir"), "{done:?}");
    assert!(!resctrl.has(&bundle.id));
}

/// [`each`] for this bundle.
fn each_of(t: &Test, bundle: &Bundle, command: &Command, sample: u32, fault: fn(usize) -> Fault) {
    let calls = attempt(t, bundle, command, None).calls;
    let name = command.words.join(" ");
    let (processes, all) = (calls.len(), calls.iter().map(Vec::len).sum::<usize>());
    println!("{name}: {all} calls of {processes} processes");
    assert!(
        processes >= command.at_least.0 && all >= command.at_least.1,
        "{name}: {all} calls of {processes} processes"
    );
    let mut points: Vec<Point> = Vec::new();
    let kills = fault(0) == Fault::Kill;
    for (process, numbers) in calls.iter().enumerate() {
        let numbers = numbers.iter().enumerate();
        let chosen = numbers.filter(|(_, number)| kills || !trace::never_fails(**number));
        points.extend(chosen.map(|(call, _)| Point { process, call }));
    }
    // One alone, to look at.
    if let Ok(point) = std::env::var("FAULT_AT") {
        points.retain(|at| format!("{}:{}", at.process, at.call) == point);
    }
    let all = u32::try_from(points.len()).expect("few calls");
    shuffle(&mut points, t.seed);
    points.truncate(t.rounds(all, sample.min(all)) as usize);
    let count = points.len();
    let mut missed = 0;
    for (round, point) in points.into_iter().enumerate() {
        let fault = fault(round);
        println!("{name} with {fault:?} at {point:?}");
        let traced = attempt(t, bundle, command, Some((point, fault)));
        // Not every run makes the same calls; those that come to an end before the
        // point are few.
        missed += usize::from(!traced.happened);
    }
    assert!(
        missed <= count / 4 || !kills,
        "{name}: {missed} of {count} never happened"
    );
}

/// Does `command` with this fault, cleans up, and looks whether all is as before.
fn attempt(t: &Test, bundle: &Bundle, command: &Command, fault: Option<(Point, Fault)>) -> Traced {
    let id = bundle.id.as_str();
    let pid_file = t.directory.join("pid");
    let words = |words: &[&'static str]| -> Vec<String> {
        let fill = |word: &&'static str| match *word {
            "BUNDLE" => text(&bundle.path).to_owned(),
            "PIDFILE" => text(&pid_file).to_owned(),
            "ID" => id.to_owned(),
            word => word.to_owned(),
        };
        words.iter().map(fill).collect()
    };
    let given = |all: &[&'static str]| {
        let filled = words(all);
        t.command(&filled.iter().map(String::as_str).collect::<Vec<_>>())
    };
    for words in command.before {
        match *words {
            ["STOPPED"] => {
                let status = || t.call(&["state", id]).json()["status"].clone();
                wait_until("its end", || status() == "stopped");
            }
            words => drop(t.spawn(&mut given(words)).wait().ok()),
        }
    }
    let mut traced = given(command.words);
    let said = t.directory.join("said");
    let file = std::fs::File::create(&said).expect("a file for stderr");
    traced.stdout(std::process::Stdio::null()).stderr(file);
    let traced = trace::run(traced, fault, &t.directory.join("notes"));
    let text = std::fs::read_to_string(&said).expect("stderr");
    match fault {
        None => assert_eq!(traced.code, 0, "{text}"),
        Some((point, Fault::Kill)) if traced.happened && point.process == 0 => {
            assert_eq!(traced.code, 137, "{text}");
        }
        // Who is killed as it executes the program looks like the program, killed.
        Some((point, Fault::Kill))
            if traced.code == 137
                && traced.calls[point.process].get(point.call) == Some(&libc::SYS_execve) => {}
        // A child that was killed, or a call that failed, is told or does no harm.
        Some(_) if traced.code != 0 => {
            assert!(!text.is_empty(), "code {} without a word", traced.code);
            assert!(!text.contains("panic"), "{text}");
        }
        Some(_) => {}
    }
    // Half a pid file is none.
    if let Ok(pid) = std::fs::read_to_string(&pid_file) {
        assert!(
            pid.parse::<u32>().is_ok(),
            "{pid:?} in the pid file after {text}"
        );
        std::fs::remove_file(&pid_file).expect("the pid file");
    }

    t.call(&["delete", "--force", id]).ok();
    t.call(&["state", id])
        .fails(1, &["container does not exist"]);
    let mut left = leftovers::beside(Duration::from_secs(10));
    left.extend(leftovers::cgroups(&t.prefix));
    left.extend(leftovers::mounts(&bundle.path));
    assert!(left.is_empty(), "{left:?} after {text}");
    assert_is_empty(&t.root);

    // The id is free, and what is made now runs.
    if fault.is_some() {
        t.spawn(&mut given(MAKE)).wait().ok();
        t.call(&["start", id]).ok();
        assert_eq!(t.call(&["state", id]).json()["status"], "running");
        t.call(&["delete", "--force", id]).ok();
    }
    traced
}

/// No state directory, whole or half.
#[track_caller]
fn assert_is_empty(root: &Path) {
    let names: Vec<_> = std::fs::read_dir(root)
        .expect("the root of states")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert!(names.is_empty(), "{names:?}");
}

/// Puts `points` in an order that `seed` picks.
fn shuffle(points: &mut [Point], seed: u64) {
    let mut state = seed | 1;
    for at in (1..points.len()).rev() {
        // Knuth's linear congruential generator.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let other = usize::try_from(state >> 33).unwrap_or(0) % (at + 1);
        points.swap(at, other);
    }
}
