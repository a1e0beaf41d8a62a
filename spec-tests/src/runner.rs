//! The runner: each case in a process of its own, a count at the end.
//!
//! The runner starts itself again with `--case NAME`; that process becomes a
//! subreaper, runs the closure, and looks for what was left behind. A case
//! that hangs, or whose runner ends, gets SIGTERM: it is killed with all its
//! descendants, what it made is removed, and it fails.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::case::{Case, DOES_NOT_APPLY, LACKS, LeftOut, Needs, Oracle, Test, in_vm};
use crate::{fallbacks, leftovers, sys, view};

/// How long a case may take before it counts as hung.
const HANG: Duration = Duration::from_secs(150);

/// How long one that hangs may take to clean up.
const CLEANS_UP: Duration = Duration::from_secs(20);

/// How a case ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// As it says.
    Passed,
    /// Otherwise, with what it wrote last.
    Failed(String),
    /// Otherwise, as is known of this runtime, with the reason.
    Excepted(String),
    /// It did not run here, with the reason.
    LeftOut(String),
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The runtime's name, with its version when it is a peer of another
    /// version than the exceptions are for.
    pub runtime: String,
    /// Its version, as it says.
    pub version: String,
    /// The view of cgroups.
    pub view: String,
    /// Each case by name.
    pub verdicts: Vec<(String, Verdict)>,
}

impl Report {
    /// Did cases pass, and did none fail? Nothing passed is no success: a lane
    /// that did not run has failed.
    pub fn is_good(&self) -> bool {
        let any = |wanted: fn(&Verdict) -> bool| self.verdicts.iter().any(|(_, one)| wanted(one));
        any(|one| *one == Verdict::Passed) && !any(|one| matches!(one, Verdict::Failed(_)))
    }
}

/// What is tested: the variable that names it, and who it is by default.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// The environment variable.
    pub variable: &'static str,
    /// The workspace's own.
    pub own: &'static str,
    /// Directories that each case has to itself, empty at first; what is left
    /// in them fails it.
    pub private: &'static [&'static str],
    /// How long a case may take with `FULL=1`.
    pub full_hang: Duration,
    /// The peers that exceptions name, and the versions of which they are true.
    pub peers: &'static [(&'static str, &'static str)],
}

/// The runtime.
pub const RUNTIME: Subject = Subject {
    variable: "RUNTIME",
    own: "rrun",
    private: &[],
    full_hang: Duration::from_secs(900),
    peers: &[("runc", "1.1."), ("crun", "1.8.")],
};

/// The containerd shim.
pub const SHIM: Subject = Subject {
    variable: "SHIM",
    own: "containerd-shim-rrun-v2",
    private: &["/run/containerd"],
    full_hang: Duration::from_secs(900),
    peers: &[],
};

/// Runs the cases that the command line names (all without one; a word
/// selects the names that contain it) and says how many passed.
///
/// # Panics
/// When the machine does not let it run at all.
pub fn main(subject: Subject, probe: &Path, groups: &[(&str, &[Case])]) -> ExitCode {
    match report(subject, probe, named(groups)) {
        Ok(report) if report.is_good() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(code) => code,
    }
}

/// The cases of these groups, each as `group: name`.
pub fn named(groups: &[(&str, &[Case])]) -> Vec<(String, Case)> {
    groups
        .iter()
        .flat_map(|(group, cases)| {
            cases
                .iter()
                .map(move |case| (format!("{group}: {}", case.name), *case))
        })
        .collect()
}

/// [`main`] for a program that does more with what was found. Err where the
/// command line asked for something else, which is done then.
///
/// # Errors
/// The exit code of what was done instead.
///
/// # Panics
/// When the machine does not let it run at all.
pub fn report(
    subject: Subject,
    probe: &Path,
    cases: Vec<(String, Case)>,
) -> Result<Report, ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let setting = Setting::read(subject, probe);
    if let [flag, name] = &args[..]
        && flag == "--case"
    {
        let case = cases
            .iter()
            .find(|(full, _)| full == name)
            .expect("a case of this name")
            .1;
        return Err(setting.perform(&case));
    }
    if args.iter().any(|arg| arg == "--list") {
        for (name, case) in &cases {
            println!("{name}: test ({:?})", case.oracle);
        }
        return Err(ExitCode::SUCCESS);
    }
    let words: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let mut chosen = cases;
    chosen.retain(|(name, _)| {
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    });
    if let Some(count) = setting.sample {
        chosen = sample(chosen, count, setting.seed, !setting.without.is_empty());
    }
    Ok(setting.run(chosen))
}

/// All cases that need something of the machine, and `count` of the others, which
/// the seed picks; in their order. Under a kernel that lacks calls (`older`) those
/// that this may concern are what must not be left out.
fn sample(cases: Vec<(String, Case)>, count: usize, seed: u64, older: bool) -> Vec<(String, Case)> {
    let plain = |name: &str, case: &Case| match older {
        true => !fallbacks::is_named(name),
        false => case.needs == Needs::Nothing,
    };
    let mut order: Vec<(u64, &String)> = cases
        .iter()
        .filter(|(name, case)| plain(name, case))
        .map(|(name, _)| {
            let mut hasher = DefaultHasher::new();
            (seed, name).hash(&mut hasher);
            (hasher.finish(), name)
        })
        .collect();
    order.sort_unstable();
    let picked: BTreeSet<String> = order
        .into_iter()
        .take(count)
        .map(|(_, name)| name.clone())
        .collect();
    cases
        .into_iter()
        .filter(|(name, case)| !plain(name, case) || picked.contains(name))
        .collect()
}

/// What the environment asks for.
struct Setting {
    subject: Subject,
    runtime: PathBuf,
    runtime_name: String,
    root: Option<PathBuf>,
    probe: PathBuf,
    view: String,
    /// System calls that are not there.
    without: Vec<String>,
    full: bool,
    seed: u64,
    sample: Option<usize>,
    jobs: usize,
}

impl Setting {
    fn read(subject: Subject, probe: &Path) -> Setting {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let runtime = variable(subject.variable);
        let runtime = runtime.map_or_else(|| own_build(subject.own), |name| find(&name));
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = variable("SEED").map(|seed| seed.parse().expect("SEED is a number"));
        Setting {
            subject,
            runtime_name: runtime
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            runtime,
            root: variable("RUNTIME_ROOT").map(PathBuf::from),
            probe: probe.to_owned(),
            view: variable("VIEW").unwrap_or_else(|| "hybrid".to_owned()),
            without: variable("WITHOUT").map_or_else(Vec::new, |names| {
                names.split(',').map(str::to_owned).collect()
            }),
            full: variable("FULL").is_some_and(|value| value == "1"),
            seed: seed.unwrap_or_else(|| clock.map_or(1, |time| time.as_secs())),
            sample: variable("SAMPLE").map(|count| count.parse().expect("SAMPLE is a number")),
            jobs: variable("JOBS").map_or(2, |jobs| jobs.parse().expect("JOBS is a number")),
        }
    }

    /// All cases, `jobs` at once, and the counts.
    fn run(&self, cases: Vec<(String, Case)>) -> Report {
        assert!(
            self.runtime.is_file(),
            "{}: not there; build it first: cargo build --bin {}",
            self.runtime.display(),
            self.subject.own
        );
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        for (name, case) in &cases {
            // An oracle that is excepted from its own case is none.
            let own = case.exceptions.iter().any(|(runtime, _)| {
                (case.oracle == Oracle::Runc && *runtime == "runc")
                    || (case.oracle == Oracle::Crun && *runtime == "crun")
                    || (case.oracle == Oracle::Go && *runtime == "containerd-shim-runc-v2")
            });
            assert!(!own, "{name}: its oracle is an exception");
        }
        let version = self.version();
        let known_as = self.known_as(&version);
        println!(
            "spec-tests: program {}, view {}{}{}, {} cases, seed {}",
            self.runtime.display(),
            self.view,
            [" without ", ""][usize::from(self.without.is_empty())],
            self.without.join(","),
            cases.len(),
            self.seed
        );
        let begin = Instant::now();
        view::enter(&self.view);
        nix::sys::prctl::set_child_subreaper(true).expect("subreaper");
        let mut passed: Vec<Oracle> = Vec::new();
        let mut verdicts: Vec<(String, Verdict)> = Vec::new();
        let mut running: Vec<Job> = Vec::new();
        let mut hung = false;
        let mut waiting = cases.into_iter();
        loop {
            while running.len() < self.jobs {
                let Some((name, case)) = waiting.next() else {
                    break;
                };
                let verdict = match case.left_out(&known_as, &self.view) {
                    Some(LeftOut::Meant(reason)) => Verdict::LeftOut(reason),
                    Some(LeftOut::Lacking(reason)) => lacking(reason),
                    None => {
                        running.push(self.begin(name, case));
                        continue;
                    }
                };
                tell(&name, case.oracle, &verdict);
                verdicts.push((name, verdict));
            }
            if running.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
            let mut still = Vec::new();
            for mut job in running {
                let Some(code) = job.ended() else {
                    still.push(job);
                    continue;
                };
                hung |= code != 0 && job.hangs();
                let verdict = job.verdict(code, &known_as, self);
                let (name, oracle) = (&job.name, job.case.oracle);
                tell(name, oracle, &verdict);
                if verdict == Verdict::Passed {
                    passed.push(oracle);
                }
                verdicts.push((name.clone(), verdict));
            }
            running = still;
            // What a killed case started is a child of ours then.
            if std::mem::take(&mut hung) {
                let ours: Vec<i32> = running.iter().map(|job| job.child.id() as i32).collect();
                leftovers::orphans(&ours);
            }
        }
        let names = |wanted: fn(&Verdict) -> bool| -> Vec<&String> {
            let found = verdicts.iter().filter(|(_, verdict)| wanted(verdict));
            found.map(|(name, _)| name).collect()
        };
        let failed = names(|verdict| matches!(verdict, Verdict::Failed(_)));
        for name in &failed {
            println!("failed: {name}");
        }
        let count = |oracle| passed.iter().filter(|one| **one == oracle).count();
        println!(
            "spec-tests {} {}: {} passed, {} failed, {} left out; oracles of the passed: runc {}, crun {}, go {}, kernel {}, clauses {}; {} s",
            self.runtime_name,
            self.view,
            passed.len(),
            failed.len(),
            verdicts.len() - passed.len() - failed.len(),
            count(Oracle::Runc),
            count(Oracle::Crun),
            count(Oracle::Go),
            count(Oracle::Kernel),
            count(Oracle::Clause),
            begin.elapsed().as_secs(),
        );
        Report {
            runtime: self.runtime_name.clone(),
            version,
            view: self.view.clone(),
            verdicts,
        }
    }

    /// What the program says of its version: the last word of its first line.
    fn version(&self) -> String {
        let said = Command::new(&self.runtime).arg("--version").output();
        let text = said.map_or_else(
            |_| Vec::new(),
            |output| [output.stdout, output.stderr].concat(),
        );
        let text = String::from_utf8_lossy(&text);
        let first = text.lines().next().unwrap_or_default();
        first.split(' ').next_back().unwrap_or_default().to_owned()
    }

    /// The name by which exceptions know it: none when it is a peer of another
    /// version than theirs.
    fn known_as(&self, version: &str) -> String {
        let peer = self.subject.peers.iter();
        let mut peer = peer.filter(|(name, _)| *name == self.runtime_name);
        match peer.next() {
            Some((name, of)) if !version.starts_with(of) => format!("{name} {version}"),
            _ => self.runtime_name.clone(),
        }
    }

    fn begin(&self, name: String, case: Case) -> Job {
        let directory = std::env::temp_dir();
        let output = directory.join(format!("spec-tests-{}-{}", std::process::id(), sequence()));
        let file = fs::File::create(&output).expect("a file for the case's output");
        let mut command = Command::new("/proc/self/exe");
        sys::before(&mut command, sys::Before::EndWithParent);
        let child = command
            .args(["--case", &name])
            // What the case's own processes inherit shall be the same everywhere.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env(self.subject.variable, &self.runtime)
            .env("RUNTIME_ROOT", self.root.clone().unwrap_or_default())
            .env("VIEW", &self.view)
            .env("WITHOUT", self.without.join(","))
            .env("FULL", if self.full { "1" } else { "" })
            .env("SEED", self.seed.to_string())
            .env("RUST_BACKTRACE", "0")
            // One point of the faults.
            .envs(std::env::var_os("FAULT_AT").map(|point| ("FAULT_AT", point)))
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("dup"))
            .stderr(file)
            .process_group(0)
            .spawn()
            .expect("the case's process");
        Job {
            name,
            case,
            child,
            output,
            begin: Instant::now(),
            hang: if self.full {
                self.subject.full_hang
            } else {
                HANG
            },
        }
    }

    /// In the case's own process: the closure, then the search for leftovers.
    fn perform(&self, case: &Case) -> ExitCode {
        nix::sys::prctl::set_child_subreaper(true).expect("subreaper");
        // What a filter refuses, it refuses to the runtime alone: under it the C
        // library starts no program for us, either.
        let mut missing = self.without.clone();
        missing.retain(|call| !call.ends_with(sys::FILTERS));
        if !missing.is_empty() {
            sys::refuse(&missing);
        }
        // A umask of the developer's shell is no input.
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        view::private(self.subject.private);
        let prefix = format!("st{}", std::process::id());
        let directory = std::env::temp_dir().join(&prefix);
        fs::create_dir_all(&directory).expect("the case's directory");
        let test = Test {
            runtime: self.runtime.clone(),
            runtime_name: self.runtime_name.clone(),
            root: self.root.clone().unwrap_or_else(|| directory.join("root")),
            directory: directory.clone(),
            probe: self.probe.clone(),
            view: self.view.clone(),
            without: self.without.clone(),
            full: self.full,
            seed: self.seed,
            prefix: prefix.clone(),
            made: Cell::new(0),
            instead: RefCell::default(),
        };
        // The case has a process of its own, so that this one can reap what is
        // orphaned as soon as it dies: a zombie would keep its pid namespace.
        let signals = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM]);
        signals.thread_block().expect("sigprocmask");
        let pid = sys::fork(|| {
            signals.thread_unblock().expect("sigprocmask");
            let run = std::panic::AssertUnwindSafe(|| (case.run)(&test));
            i32::from(std::panic::catch_unwind(run).is_err())
        });
        let code = reap_until(pid, &signals);
        let grace = match code {
            End::Told => Duration::ZERO,
            End::Ended(_) => Duration::from_secs(5),
        };
        let mut left = leftovers::processes(grace);
        left.extend(leftovers::state(&test.root, &prefix));
        left.extend(leftovers::cgroups(&prefix));
        // Who was frozen ends now.
        leftovers::orphans(&[]);
        left.extend(leftovers::mounts(&directory));
        left.extend(leftovers::files(self.subject.private));
        let _ = fs::remove_dir_all(&directory);
        for thing in &left {
            println!("left behind: {thing}");
        }
        match code {
            _ if !left.is_empty() => ExitCode::FAILURE,
            End::Ended(Some(0)) => ExitCode::SUCCESS,
            End::Ended(Some(code @ (DOES_NOT_APPLY | LACKS))) => ExitCode::from(code as u8),
            _ => ExitCode::FAILURE,
        }
    }
}

/// What it means that the machine lacks what a case needs: `hack/vm` lacks nothing.
fn lacking(reason: String) -> Verdict {
    match in_vm() {
        true => Verdict::Failed(format!("left out, where nothing may be: {reason}")),
        false => Verdict::LeftOut(reason),
    }
}

fn tell(name: &str, oracle: Oracle, verdict: &Verdict) {
    match verdict {
        Verdict::Passed => println!("ok {name} ({oracle:?})"),
        Verdict::Failed(text) => println!("FAILED {name} ({oracle:?})\n{text}"),
        Verdict::Excepted(reason) => println!("excepted {name}: {reason}"),
        Verdict::LeftOut(reason) => println!("left out {name}: {reason}"),
    }
}

/// A case that runs.
struct Job {
    name: String,
    case: Case,
    child: Child,
    output: PathBuf,
    begin: Instant,
    hang: Duration,
}

impl Job {
    /// What its end means for this runtime. The exception of a clause is
    /// shown to be true by a case that fails.
    fn verdict(&self, code: i32, runtime: &str, setting: &Setting) -> Verdict {
        let text = fs::read(&self.output).unwrap_or_default();
        let text = shortened(&text);
        let exception = match self.case.oracle {
            Oracle::Clause => self.case.exception(runtime, &setting.view),
            _ => None,
        };
        if let Some(lost) = fallbacks::lost_without(&self.name, &setting.without)
            && ![DOES_NOT_APPLY, LACKS].contains(&code)
        {
            return lost.verdict(code, text);
        }
        match (code, exception) {
            (DOES_NOT_APPLY, _) => Verdict::LeftOut(text.trim().to_owned()),
            (LACKS, _) => lacking(text.trim().to_owned()),
            (0, None) => Verdict::Passed,
            (_, None) => Verdict::Failed(text),
            (1.., Some(reason)) => Verdict::Excepted(reason.to_owned()),
            (_, Some(reason)) => Verdict::Failed(format!(
                "it passes, so the exception is not true (any more): {reason}"
            )),
        }
    }

    fn hangs(&self) -> bool {
        self.begin.elapsed() >= self.hang
    }

    /// None while it runs, else its exit code (1 when it was killed).
    fn ended(&mut self) -> Option<i32> {
        if let Some(status) = self.child.try_wait().expect("wait") {
            if status.code().is_none() {
                let _ = fs::write(
                    &self.output,
                    format!("the case's process ended by {status}"),
                );
            }
            return Some(status.code().unwrap_or(1));
        }
        if !self.hangs() {
            return None;
        }
        let reaper = Pid::from_raw(self.child.id().cast_signed());
        let _ = kill(reaper, Signal::SIGTERM);
        let begin = Instant::now();
        while self.child.try_wait().expect("wait").is_none() {
            if begin.elapsed() > CLEANS_UP {
                self.abandon(reaper);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut text = fs::read(&self.output).unwrap_or_default();
        text.extend(b"the case hangs");
        let _ = fs::write(&self.output, text);
        Some(1)
    }

    /// Ends a case that can't even clean up, and does it for it.
    fn abandon(&self, reaper: Pid) {
        // Its process group: the reaper, the case and the commands.
        let _ = killpg(reaper, Signal::SIGKILL);
        let prefix = format!("st{reaper}");
        let directory = std::env::temp_dir().join(&prefix);
        leftovers::cgroups(&prefix);
        leftovers::mounts(&directory);
        let _ = fs::remove_dir_all(&directory);
    }
}

/// The beginning of what a case wrote, which names the assertion, and its end.
fn shortened(text: &[u8]) -> String {
    const HALF: usize = 2000;
    if text.len() <= 2 * HALF {
        return String::from_utf8_lossy(text).into_owned();
    }
    let (head, tail) = (&text[..HALF], &text[text.len() - HALF..]);
    let [head, tail] = [head, tail].map(String::from_utf8_lossy);
    format!("{head}\n[...]\n{tail}")
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.output);
    }
}

/// How a case's process came to its end.
enum End {
    /// By itself, with this exit code, or by a signal.
    Ended(Option<i32>),
    /// It did not: it takes too long, or nobody waits for it any more.
    Told,
}

/// Reaps every child until this one ended, or SIGTERM comes.
fn reap_until(pid: i32, signals: &SigSet) -> End {
    loop {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            match status {
                WaitStatus::StillAlive => break,
                status if status.pid() != Some(Pid::from_raw(pid)) => {}
                WaitStatus::Exited(_, code) => return End::Ended(Some(code)),
                _ => return End::Ended(None),
            }
        }
        if signals.wait().expect("sigwait") == Signal::SIGTERM {
            return End::Told;
        }
    }
}

fn sequence() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The workspace's program of the same profile: beside the test's own folder.
fn own_build(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("our own path");
    own.parent()
        .and_then(Path::parent)
        .expect("target/PROFILE/deps")
        .join(name)
}

/// A name without a slash is looked up in PATH.
fn find(name: &str) -> PathBuf {
    if name.contains('/') {
        return fs::canonicalize(name).unwrap_or_else(|_| PathBuf::from(name));
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path
        .split(':')
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| PathBuf::from(name))
}
