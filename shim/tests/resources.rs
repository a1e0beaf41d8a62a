//! Metrics and OOM events of real cgroups, on whichever version the host has:
//! a process is put into a cgroup of its own in each hierarchy, as a runtime
//! does, and what the shim says is compared with the kernel's files.
//!
//! The shim has one thread, and so has this: its main runs the cases one after
//! the other. Run it as root, with a word to run only the cases that contain
//! it; `metrics PID` prints what is read for a process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a case fails by a panic"
)]

#[path = "../src/oom.rs"]
mod oom;
#[path = "../src/stats/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "its tables run with the shim's own unit tests"
)]
mod stats;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::{cgroups, cgroups_v2};
use nix::sys::inotify::{InitFlags, Inotify};
use rrun::cgroup::hierarchy::{Hierarchies, Mode};

use oom::OomWatch;
use stats::Cgroups;

/// A case.
type Case = fn(&mut Group);

/// Each case with its name.
const CASES: &[(&str, Case)] = &[
    ("metrics are what the files say", metrics),
    (
        "metrics of a cgroup that is gone are zeros",
        metrics_of_nothing,
    ),
    ("an OOM is told once, by itself", told_by_itself),
    (
        "an OOM that nobody came to is told at the end",
        told_at_the_end,
    ),
    ("a second OOM is told again", told_again),
    ("an OOM is not told before the start", told_after_the_start),
    (
        "an OOM of what never starts is told at the end",
        told_without_a_start,
    ),
    ("the end of a cgroup is no OOM", end_is_no_oom),
    ("two containers are told apart", told_apart),
    ("without an inotify instance the counter is read", polled),
    ("what a runtime has left is removed", left_behind),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [_, pid] = &arguments[..] {
        return print(pid.parse().expect("metrics PID"));
    }
    let wanted = arguments.first().map_or("", String::as_str);
    let (mut passed, mut failed) = (0, 0);
    for (name, case) in CASES.iter().filter(|(name, _)| name.contains(wanted)) {
        let run = catch_unwind(AssertUnwindSafe(|| case(&mut Group::new("a"))));
        match run {
            Ok(()) => passed += 1,
            Err(_) => {
                println!("FAILED: {name}");
                failed += 1;
            }
        }
    }
    println!("resources: {passed} passed, {failed} failed");
    assert_eq!(failed, 0);
    assert_ne!(passed, 0, "no case contains {wanted:?}");
}

/// Prints a process's metrics as text.
fn print(pid: i32) {
    let any = Cgroups::of(pid).unwrap().metrics().unwrap();
    match any.type_url.as_str() {
        V1 => println!("{:#?}", parse_v1(&any.value)),
        _ => println!("{:#?}", parse_v2(&any.value)),
    }
}

const V1: &str = "io.containerd.cgroups.v1.Metrics";
const V2: &str = "io.containerd.cgroups.v2.Metrics";

fn parse_v1(bytes: &[u8]) -> cgroups::metrics::Metrics {
    cgroups::metrics::Metrics::parse_from_bytes(bytes).unwrap()
}

fn parse_v2(bytes: &[u8]) -> cgroups_v2::metrics::Metrics {
    cgroups_v2::metrics::Metrics::parse_from_bytes(bytes).unwrap()
}

/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// The files that metrics are compared with.
const COMPARED: &[&str] = &[
    "cpuacct.usage",
    "cpuacct.stat",
    "cpu.stat",
    "memory.current",
    "memory.events",
    "memory.failcnt",
    "memory.max_usage_in_bytes",
    "memory.stat",
    "memory.usage_in_bytes",
];

/// How much memory a cgroup may use here.
const LIMIT: u64 = 16 << 20;

/// A cgroup in each hierarchy with a shell in it, which waits for a line.
struct Group {
    directories: Vec<PathBuf>,
    shell: Child,
}

impl Group {
    fn new(name: &str) -> Self {
        let found = Hierarchies::read().unwrap();
        if found.mode() == Mode::V2 {
            let top = found
                .v2
                .as_ref()
                .unwrap()
                .mount
                .join("cgroup.subtree_control");
            for controller in &found.v2_controllers {
                fs::write(&top, format!("+{controller}")).unwrap();
            }
        }
        let name = format!("shim-resources-{}-{name}", std::process::id());
        let all = found.v1.iter().chain(&found.v2);
        let directories: Vec<PathBuf> = all.map(|h| h.mount.join(&name)).collect();
        let mut script = String::new();
        for directory in &directories {
            fs::create_dir(directory).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let above = fs::read_to_string(directory.join("..").join(file));
                if let Ok(above) = above
                    && directory.join("cpuset.cpu_exclusive").exists()
                {
                    fs::write(directory.join(file), above).unwrap();
                }
            }
            script += &format!("echo $$ > {}/cgroup.procs\n", directory.display());
        }
        script += "echo ready\nwhile read line; do eval \"$line\"; echo done; done";
        let mut shell = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        answer(&mut shell);
        let group = Self { directories, shell };
        for (file, limit) in [
            ("memory.limit_in_bytes", LIMIT.to_string()),
            ("memory.max", LIMIT.to_string()),
            ("memory.swap.max", "0".to_owned()),
            ("pids.max", "50".to_owned()),
            ("cpu.cfs_quota_us", "50000".to_owned()),
            ("cpu.max", "50000 100000".to_owned()),
        ] {
            if let Some(file) = group.file(file) {
                fs::write(file, limit).unwrap();
            }
        }
        group
    }

    /// The container's id: the cgroups' name.
    fn id(&self) -> String {
        let name = self.directories[0].file_name().unwrap();
        name.to_str().unwrap().to_owned()
    }

    fn cgroups(&self) -> Cgroups {
        Cgroups::of(self.shell.id().cast_signed()).unwrap()
    }

    /// The path of a file, in the hierarchy that has it.
    fn file(&self, name: &str) -> Option<PathBuf> {
        let all = self
            .directories
            .iter()
            .map(|directory| directory.join(name));
        all.into_iter().find(|path| path.exists())
    }

    /// The metrics, and the files as they stood all the while: the shell runs on
    /// for a moment after its answer, and the kernel adds up some counters late.
    fn metrics(&self) -> (Any, Files) {
        let end = Instant::now() + PATIENCE;
        loop {
            let before = Files::read(&self.directories);
            let any = self.cgroups().metrics().unwrap();
            if Files::read(&self.directories) == before {
                return (any, before);
            }
            assert!(Instant::now() < end, "its counters never stand still");
        }
    }

    /// Has the shell run a command, and waits for its end.
    fn run(&mut self, command: &str) {
        writeln!(self.shell.stdin.as_mut().unwrap(), "{command}").unwrap();
        answer(&mut self.shell);
    }

    /// Has a process of it killed for want of memory: tail keeps the whole of
    /// a file without lines.
    fn run_out_of_memory(&mut self) {
        self.run("tail /dev/zero");
    }

    /// Ends all that is in it.
    fn end(&mut self) {
        drop(self.shell.stdin.take());
        self.shell.kill().unwrap();
        self.shell.wait().unwrap();
    }
}

/// What the files of a cgroup say, by name.
#[derive(PartialEq)]
struct Files(BTreeMap<String, String>);

impl Files {
    fn read(directories: &[PathBuf]) -> Self {
        let mut all = BTreeMap::new();
        for directory in directories {
            for name in COMPARED {
                if let Ok(text) = fs::read_to_string(directory.join(name)) {
                    all.entry((*name).to_owned()).or_insert(text);
                }
            }
        }
        Self(all)
    }

    fn text(&self, name: &str) -> String {
        let text = self.0.get(name);
        text.unwrap_or_else(|| panic!("no {name}")).clone()
    }

    /// The number of a key in a file.
    fn key(&self, file: &str, key: &str) -> u64 {
        let text = self.text(file);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {key} in {file}"))
            .parse()
            .unwrap()
    }

    fn number(&self, file: &str) -> u64 {
        self.text(file).trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
        for directory in &self.directories {
            // A case may have removed it.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Waits for a line of the shell.
fn answer(shell: &mut Child) {
    use std::io::Read;
    let stdout = shell.stdout.as_mut().unwrap();
    let mut byte = [0];
    while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {}
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

fn metrics(group: &mut Group) {
    group.run("head -c 3000000 /dev/zero | tail -c 3000000 >/dev/null");
    group.run("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done");
    let (any, files) = group.metrics();
    match any.type_url.as_str() {
        V1 => metrics_v1(&files, &parse_v1(&any.value)),
        V2 => metrics_v2(group, &files, &parse_v2(&any.value)),
        other => panic!("{other}"),
    }
}

fn metrics_v1(files: &Files, metrics: &cgroups::metrics::Metrics) {
    let memory = &metrics.memory;
    let stat = |key: &str| files.key("memory.stat", key);
    for (name, value, expected) in [
        (
            "cpu",
            metrics.cpu.usage.total,
            files.number("cpuacct.usage"),
        ),
        (
            "user",
            metrics.cpu.usage.user,
            files.key("cpuacct.stat", "user") * 10_000_000,
        ),
        (
            "kernel",
            metrics.cpu.usage.kernel,
            files.key("cpuacct.stat", "system") * 10_000_000,
        ),
        (
            "per cpu",
            metrics.cpu.usage.per_cpu.iter().sum(),
            files.number("cpuacct.usage"),
        ),
        (
            "periods",
            metrics.cpu.throttling.periods,
            files.key("cpu.stat", "nr_periods"),
        ),
        (
            "throttled",
            metrics.cpu.throttling.throttled_periods,
            files.key("cpu.stat", "nr_throttled"),
        ),
        (
            "throttled time",
            metrics.cpu.throttling.throttled_time,
            files.key("cpu.stat", "throttled_time"),
        ),
        ("pids", metrics.pids.current, 1),
        ("pids limit", metrics.pids.limit, 50),
        (
            "memory",
            memory.usage.usage,
            files.number("memory.usage_in_bytes"),
        ),
        ("memory limit", memory.usage.limit, LIMIT),
        (
            "memory max",
            memory.usage.max,
            files.number("memory.max_usage_in_bytes"),
        ),
        (
            "failcnt",
            memory.usage.failcnt,
            files.number("memory.failcnt"),
        ),
        ("rss", memory.rss, stat("rss")),
        ("cache", memory.cache, stat("cache")),
        ("mapped file", memory.mapped_file, stat("mapped_file")),
        ("page-ins", memory.pg_pg_in, stat("pgpgin")),
        ("page-outs", memory.pg_pg_out, stat("pgpgout")),
        ("faults", memory.pg_fault, stat("pgfault")),
        ("active anon", memory.active_anon, stat("active_anon")),
        ("inactive anon", memory.inactive_anon, stat("inactive_anon")),
        ("limit of all", memory.hierarchical_memory_limit, LIMIT),
        ("total rss", memory.total_rss, stat("total_rss")),
        ("total faults", memory.total_pg_fault, stat("total_pgfault")),
        (
            "total page-ins",
            memory.total_pg_pg_in,
            stat("total_pgpgin"),
        ),
        (
            "total inactive anon",
            memory.total_inactive_anon,
            stat("total_inactive_anon"),
        ),
        ("oom kills", metrics.memory_oom_control.oom_kill, 0),
    ] {
        assert_eq!(value, expected, "{name}");
    }
    assert!(metrics.cpu.usage.total > 0 && memory.pg_fault > 0);
    // The shell's own memory.
    assert!(memory.rss + memory.cache > 0);
}

fn metrics_v2(group: &Group, files: &Files, metrics: &cgroups_v2::metrics::Metrics) {
    let (memory, cpu) = (&metrics.memory, &metrics.cpu);
    let stat = |key: &str| files.key("memory.stat", key);
    let time = |key: &str| files.key("cpu.stat", key);
    for (name, value, expected) in [
        ("cpu", cpu.usage_usec, time("usage_usec")),
        ("user", cpu.user_usec, time("user_usec")),
        ("system", cpu.system_usec, time("system_usec")),
        ("periods", cpu.nr_periods, time("nr_periods")),
        ("throttled", cpu.nr_throttled, time("nr_throttled")),
        ("throttled time", cpu.throttled_usec, time("throttled_usec")),
        ("pids", metrics.pids.current, 1),
        ("pids limit", metrics.pids.limit, 50),
        ("memory", memory.usage, files.number("memory.current")),
        ("memory limit", memory.usage_limit, LIMIT),
        ("swap", memory.swap_usage, 0),
        ("anon", memory.anon, stat("anon")),
        ("file", memory.file, stat("file")),
        ("kernel stack", memory.kernel_stack, stat("kernel_stack")),
        ("slab", memory.slab, stat("slab")),
        ("faults", memory.pgfault, stat("pgfault")),
        ("active anon", memory.active_anon, stat("active_anon")),
        ("inactive anon", memory.inactive_anon, stat("inactive_anon")),
        ("ooms", metrics.memory_events.oom, 0),
        ("oom kills", metrics.memory_events.oom_kill, 0),
        (
            "max events",
            metrics.memory_events.max,
            files.key("memory.events", "max"),
        ),
    ] {
        assert_eq!(value, expected, "{name}");
    }
    assert!(cpu.usage_usec > 0 && memory.anon > 0);
    for (file, psi) in [
        ("cpu.pressure", &cpu.psi),
        ("memory.pressure", &memory.psi),
        ("io.pressure", &metrics.io.psi),
    ] {
        let readable = group.file(file).is_some_and(|file| fs::read(file).is_ok());
        assert_eq!(psi.is_some(), readable, "{file}");
    }
}

fn metrics_of_nothing(group: &mut Group) {
    let cgroups = group.cgroups();
    group.end();
    runtime().block_on(cgroups.remove(&group.id())).unwrap();
    let any = cgroups.metrics().unwrap();
    let total = match any.type_url.as_str() {
        V1 => parse_v1(&any.value).cpu.usage.total,
        _ => parse_v2(&any.value).cpu.usage_usec,
    };
    assert_eq!(total, 0);
}

/// The ids that were told, in their order.
type Told = Arc<Mutex<Vec<String>>>;

/// A watch that remembers what it tells.
fn watch() -> (OomWatch, Told) {
    let told = Told::default();
    let here = Arc::clone(&told);
    let watch = OomWatch::new(move |id| here.lock().unwrap().push(id.to_owned()));
    (watch, told)
}

/// Lets the event loop run until it told just these.
async fn until_told(told: &Told, expected: &[&str]) {
    let end = Instant::now() + PATIENCE;
    while *told.lock().unwrap() != expected && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(*told.lock().unwrap(), expected);
}

/// Lets the event loop run for a while, in which nothing is to happen.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn told_by_itself(group: &mut Group) {
    runtime().block_on(async {
        let (watch, told) = watch();
        watch.watch("a", &group.cgroups());
        watch.started("a");
        group.run_out_of_memory();
        until_told(&told, &["a"]).await;
        watch.finish("a");
        a_while().await;
        assert_eq!(*told.lock().unwrap(), ["a"]);
    });
}

fn told_at_the_end(group: &mut Group) {
    runtime().block_on(async {
        let (watch, told) = watch();
        watch.watch("a", &group.cgroups());
        watch.started("a");
        a_while().await;
        // No await from here on: the loop doesn't see it.
        group.run_out_of_memory();
        assert!(told.lock().unwrap().is_empty());
        watch.finish("a");
        assert_eq!(*told.lock().unwrap(), ["a"]);
        group.run_out_of_memory();
        watch.finish("a");
        a_while().await;
        assert_eq!(*told.lock().unwrap(), ["a"], "after the end");
    });
}

fn told_again(group: &mut Group) {
    runtime().block_on(async {
        let (watch, told) = watch();
        watch.watch("a", &group.cgroups());
        watch.started("a");
        group.run_out_of_memory();
        until_told(&told, &["a"]).await;
        group.run_out_of_memory();
        until_told(&told, &["a", "a"]).await;
        watch.finish("a");
        assert_eq!(*told.lock().unwrap(), ["a", "a"]);
    });
}

fn told_after_the_start(group: &mut Group) {
    runtime().block_on(async {
        let (watch, told) = watch();
        watch.watch("a", &group.cgroups());
        group.run_out_of_memory();
        a_while().await;
        assert!(told.lock().unwrap().is_empty());
        watch.started("a");
        assert_eq!(*told.lock().unwrap(), ["a"]);
        watch.finish("a");
        assert_eq!(*told.lock().unwrap(), ["a"]);
    });
}

fn told_without_a_start(group: &mut Group) {
    runtime().block_on(async {
        let (watch, told) = watch();
        watch.watch("a", &group.cgroups());
        group.run_out_of_memory();
        a_while().await;
        watch.finish("a");
        watch.started("a");
        assert_eq!(*told.lock().unwrap(), ["a"]);
    });
}

fn end_is_no_oom(group: &mut Group) {
    runtime().block_on(async {
        let (watch, told) = watch();
        let cgroups = group.cgroups();
        watch.watch("a", &cgroups);
        watch.started("a");
        group.end();
        cgroups.remove(&group.id()).await.unwrap();
        a_while().await;
        watch.finish("a");
        assert!(told.lock().unwrap().is_empty());
    });
}

fn told_apart(group: &mut Group) {
    runtime().block_on(async {
        let mut other = Group::new("b");
        let (watch, told) = watch();
        watch.watch("a", &group.cgroups());
        watch.started("a");
        watch.watch("b", &other.cgroups());
        watch.started("b");
        other.run_out_of_memory();
        until_told(&told, &["b"]).await;
        group.run_out_of_memory();
        watch.finish("b");
        watch.finish("a");
        assert_eq!(*told.lock().unwrap(), ["b", "a"]);
    });
}

fn polled(group: &mut Group) {
    runtime().block_on(async {
        // v1 needs no instance, and tells all the same.
        let mut taken = Vec::new();
        while let Ok(instance) = Inotify::init(InitFlags::IN_CLOEXEC) {
            taken.push(instance);
        }
        assert!(!taken.is_empty());
        let (watch, told) = watch();
        watch.watch("a", &group.cgroups());
        watch.started("a");
        group.run_out_of_memory();
        until_told(&told, &["a"]).await;
        drop(taken);
        watch.finish("a");
        assert_eq!(*told.lock().unwrap(), ["a"]);
    });
}

fn left_behind(group: &mut Group) {
    runtime().block_on(async {
        let cgroups = group.cgroups();
        for directory in &group.directories {
            fs::create_dir_all(directory.join("below/deep")).unwrap();
        }
        // A cgroup of another name is not the container's own.
        cgroups.remove("other").await.unwrap();
        let started = Instant::now();
        let error = cgroups.remove(&group.id()).await.unwrap_err().to_string();
        assert!(
            error.starts_with("remove the cgroups that the runtime has left: rmdir(\"")
                && error.ends_with("\"): device or resource busy"),
            "{error}"
        );
        assert!(started.elapsed() < PATIENCE);
        group.end();
        cgroups.remove("other").await.unwrap();
        assert!(group.directories.iter().all(|directory| directory.exists()));
        cgroups.remove(&group.id()).await.unwrap();
        assert!(
            group
                .directories
                .iter()
                .all(|directory| !directory.exists())
        );
        cgroups.remove(&group.id()).await.unwrap();
    });
}
