//! Commands that are killed, or refused a system call, on their way: what they
//! leave, `delete --force` takes away, the id is free again and nothing is
//! frozen.
//!
//! Each case first counts the system calls of its command, of the runtime and of
//! each of its children, and then puts one fault at one of them after the other
//! ([`spec_tests::trace`]): at all of them with FULL, else at a sample that SEED
//! picks, or at one that `FAULT_AT=PROCESS:CALL` names. Who takes a new step has it
//! tried without a word here.

use std::path::Path;

use nix::errno::Errno;
use serde_json::json;
use spec_tests::resctrl::Resctrl;
use spec_tests::runtime::text;
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
];

/// A command, and what comes before it.
struct Command {
    before: &'static [&'static [&'static str]],
    words: &'static [&'static str],
}

const MAKE: &[&str] = &["create", "--bundle", "BUNDLE", "ID"];
const CREATE: Command = Command {
    before: &[],
    words: MAKE,
};
const RUN: Command = Command {
    before: &[],
    words: &["run", "--detach", "--bundle", "BUNDLE", "ID"],
};
const START: Command = Command {
    before: &[MAKE],
    words: &["start", "ID"],
};
const EXEC: Command = Command {
    before: &[MAKE, &["start", "ID"]],
    words: &["exec", "ID", "/bin/probe", "report"],
};
const DELETE: Command = Command {
    before: &[MAKE, &["start", "ID"]],
    words: &["delete", "--force", "ID"],
};
const PAUSE: Command = Command {
    before: &[MAKE, &["start", "ID"]],
    words: &["pause", "ID"],
};
const UPDATE: Command = Command {
    before: &[MAKE, &["start", "ID"]],
    words: &["update", "--pids-limit", "50", "ID"],
};

/// Another error at each point.
fn any_error(round: usize) -> Fault {
    let errors = [Errno::ENOSPC, Errno::EIO, Errno::ENOMEM, Errno::EPERM];
    Fault::Error(errors[round % errors.len()])
}

/// Does `command` with a fault at one call after the other.
fn each(t: &Test, command: &Command, sample: u32, fault: fn(usize) -> Fault) {
    let bundle = Bundle::new(t).probe(&["pause"]);
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
    for (round, point) in points.into_iter().enumerate() {
        let fault = fault(round);
        println!("{} with {fault:?} at {point:?}", command.words.join(" "));
        attempt(t, bundle, command, Some((point, fault)));
    }
}

/// Does `command` with this fault, cleans up, and looks whether all is as before.
fn attempt(t: &Test, bundle: &Bundle, command: &Command, fault: Option<(Point, Fault)>) -> Traced {
    let id = bundle.id.as_str();
    let call = |words: &[&'static str]| t.call(&filled(words, bundle));
    for words in command.before {
        call(words).ok();
    }
    let mut traced = t.command(&filled(command.words, bundle));
    let said = t.directory.join("said");
    let file = std::fs::File::create(&said).expect("a file for stderr");
    traced.stdout(std::process::Stdio::null()).stderr(file);
    let traced = trace::run(traced, fault, &t.directory.join("notes"));
    let text = std::fs::read_to_string(&said).expect("stderr");
    match fault {
        None => assert_eq!(traced.code, 0, "{text}"),
        Some((_, Fault::Error(_))) if traced.code != 0 => {
            assert!(!text.is_empty(), "code {} without a word", traced.code);
            assert!(!text.contains("panic"), "{text}");
        }
        Some(_) => {}
    }

    t.call(&["delete", "--force", id]).ok();
    t.call(&["state", id])
        .fails(1, &["container does not exist"]);
    let left = leftovers::cgroups(&t.prefix);
    assert!(left.is_empty(), "{left:?} after {text}");
    let left = leftovers::mounts(&bundle.path);
    assert!(left.is_empty(), "{left:?} after {text}");
    assert_is_empty(&t.root);

    // The id is free, and what is made now runs.
    if fault.is_some() {
        call(MAKE).ok();
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

fn filled<'a>(words: &[&'static str], bundle: &'a Bundle) -> Vec<&'a str> {
    let fill = |word: &&'static str| match *word {
        "BUNDLE" => text(&bundle.path),
        "ID" => bundle.id.as_str(),
        word => word,
    };
    words.iter().map(fill).collect()
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
