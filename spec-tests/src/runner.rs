//! The runner: each case in a process of its own, a count at the end.
//!
//! The runner starts itself again with `--case NAME`; that process becomes a
//! subreaper, runs the closure, and looks for what was left behind. A case
//! that hangs is killed with all its descendants, and fails.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::case::{Case, Needs, Oracle, Test};
use crate::{leftovers, sys, view};

/// How long a case may take before it counts as hung.
const HANG: Duration = Duration::from_secs(150);

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
}

/// The runtime.
pub const RUNTIME: Subject = Subject {
    variable: "RUNTIME",
    own: "rrun",
    private: &[],
    full_hang: HANG,
};

/// The containerd shim.
pub const SHIM: Subject = Subject {
    variable: "SHIM",
    own: "containerd-shim-rrun-v2",
    private: &["/run/containerd"],
    full_hang: Duration::from_secs(900),
};

/// Runs the cases that the command line names (all without one; a word
/// selects the names that contain it) and says how many passed.
///
/// # Panics
/// When the machine does not let it run at all.
pub fn main(subject: Subject, probe: &Path, groups: &[(&str, &[Case])]) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let setting = Setting::read(subject, probe);
    if let [flag, name] = &args[..]
        && flag == "--case"
    {
        let case = all(groups)
            .find(|(full, _)| full == name)
            .expect("a case of this name")
            .1;
        return setting.perform(&case);
    }
    if args.iter().any(|arg| arg == "--list") {
        for (name, case) in all(groups) {
            println!("{name}: test ({:?})", case.oracle);
        }
        return ExitCode::SUCCESS;
    }
    let words: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let chosen = all(groups).filter(|(name, _)| {
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    });
    let mut chosen: Vec<(String, Case)> = chosen.collect();
    if let Some(count) = setting.sample {
        chosen = sample(chosen, count, setting.seed);
    }
    setting.run(chosen)
}

/// All cases that need something of the machine, and `count` of the others, which
/// the seed picks; in their order.
fn sample(cases: Vec<(String, Case)>, count: usize, seed: u64) -> Vec<(String, Case)> {
    let plain = |case: &Case| case.needs == Needs::Nothing;
    let mut order: Vec<(u64, &String)> = cases
        .iter()
        .filter(|(_, case)| plain(case))
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
        .filter(|(name, case)| !plain(case) || picked.contains(name))
        .collect()
}

fn all<'a>(groups: &'a [(&str, &[Case])]) -> impl Iterator<Item = (String, Case)> + 'a {
    groups.iter().flat_map(|(group, cases)| {
        cases
            .iter()
            .map(move |case| (format!("{group}: {}", case.name), *case))
    })
}

/// What the environment asks for.
struct Setting {
    subject: Subject,
    runtime: PathBuf,
    runtime_name: String,
    root: Option<PathBuf>,
    probe: PathBuf,
    view: String,
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
            full: variable("FULL").is_some_and(|value| value == "1"),
            seed: seed.unwrap_or_else(|| clock.map_or(1, |time| time.as_secs())),
            sample: variable("SAMPLE").map(|count| count.parse().expect("SAMPLE is a number")),
            jobs: variable("JOBS").map_or(2, |jobs| jobs.parse().expect("JOBS is a number")),
        }
    }

    /// All cases, `jobs` at once, and the counts.
    fn run(&self, cases: Vec<(String, Case)>) -> ExitCode {
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
        println!(
            "spec-tests: program {}, view {}, {} cases, seed {}",
            self.runtime.display(),
            self.view,
            cases.len(),
            self.seed
        );
        let begin = Instant::now();
        view::enter(&self.view);
        nix::sys::prctl::set_child_subreaper(true).expect("subreaper");
        let (mut passed, mut failed, mut left_out) = (Vec::new(), Vec::new(), 0);
        let mut running: Vec<Job> = Vec::new();
        let mut hung = false;
        let mut waiting = cases.into_iter();
        loop {
            while running.len() < self.jobs {
                let Some((name, case)) = waiting.next() else {
                    break;
                };
                match case.left_out(&self.runtime_name, &self.view) {
                    Some(reason) => {
                        left_out += 1;
                        println!("left out {name}: {reason}");
                    }
                    None => running.push(self.begin(name, case)),
                }
            }
            if running.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
            let mut still = Vec::new();
            for mut job in running {
                match job.ended() {
                    None => still.push(job),
                    Some(true) => {
                        println!("ok {} ({:?})", job.name, job.case.oracle);
                        passed.push(job.case);
                    }
                    Some(false) => {
                        let text = fs::read(&job.output).unwrap_or_default();
                        let start = text.len().saturating_sub(4000);
                        let text = String::from_utf8_lossy(&text[start..]).into_owned();
                        println!("FAILED {} ({:?})\n{text}", job.name, job.case.oracle);
                        failed.push(job.name.clone());
                        hung |= job.hangs();
                    }
                }
            }
            running = still;
            // What a killed case started is a child of ours then.
            if std::mem::take(&mut hung) {
                let ours: Vec<i32> = running.iter().map(|job| job.child.id() as i32).collect();
                leftovers::orphans(&ours);
            }
        }
        for name in &failed {
            println!("failed: {name}");
        }
        let count = |oracle| passed.iter().filter(|case| case.oracle == oracle).count();
        println!(
            "spec-tests {} {}: {} passed, {} failed, {left_out} left out; oracles of the passed: runc {}, crun {}, go {}, kernel {}; {} s",
            self.runtime_name,
            self.view,
            passed.len(),
            failed.len(),
            count(Oracle::Runc),
            count(Oracle::Crun),
            count(Oracle::Go),
            count(Oracle::Kernel),
            begin.elapsed().as_secs(),
        );
        // Nothing passed is no success: a lane that did not run has failed.
        if failed.is_empty() && !passed.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn begin(&self, name: String, case: Case) -> Job {
        let directory = std::env::temp_dir();
        let output = directory.join(format!("spec-tests-{}-{}", std::process::id(), sequence()));
        let file = fs::File::create(&output).expect("a file for the case's output");
        let child = Command::new("/proc/self/exe")
            .args(["--case", &name])
            // What the case's own processes inherit shall be the same everywhere.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env(self.subject.variable, &self.runtime)
            .env("RUNTIME_ROOT", self.root.clone().unwrap_or_default())
            .env("VIEW", &self.view)
            .env("FULL", if self.full { "1" } else { "" })
            .env("SEED", self.seed.to_string())
            .env("RUST_BACKTRACE", "0")
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
            full: self.full,
            seed: self.seed,
            prefix: prefix.clone(),
            made: Cell::new(0),
        };
        // The case has a process of its own, so that this one can reap what is
        // orphaned as soon as it dies: a zombie would keep its pid namespace.
        let pid = sys::fork(|| {
            let run = std::panic::AssertUnwindSafe(|| (case.run)(&test));
            i32::from(std::panic::catch_unwind(run).is_err())
        });
        let passed = reap_until(pid);
        let mut left = leftovers::processes(Duration::from_secs(5));
        left.extend(leftovers::state(&test.root, &prefix));
        left.extend(leftovers::cgroups(&prefix));
        left.extend(leftovers::mounts(&directory));
        left.extend(leftovers::files(self.subject.private));
        let _ = fs::remove_dir_all(&directory);
        for thing in &left {
            println!("left behind: {thing}");
        }
        if passed && left.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
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
    fn hangs(&self) -> bool {
        self.begin.elapsed() >= self.hang
    }

    /// None while it runs, else whether it passed.
    fn ended(&mut self) -> Option<bool> {
        if let Some(status) = self.child.try_wait().expect("wait") {
            if status.code().is_none() {
                let _ = fs::write(
                    &self.output,
                    format!("the case's process ended by {status}"),
                );
            }
            return Some(status.success());
        }
        if !self.hangs() {
            return None;
        }
        let prefix = format!("st{}", self.child.id());
        // Its process group: the reaper, the case and the commands.
        let group = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
        leftovers::cgroups(&prefix);
        let _ = fs::write(&self.output, "the case hangs");
        Some(false)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.output);
    }
}

/// Reaps every child until this one ended; whether it ended with 0.
fn reap_until(pid: i32) -> bool {
    use nix::sys::wait::{WaitStatus, wait};
    loop {
        let status = wait().expect("wait");
        if status.pid().is_some_and(|ended| ended.as_raw() == pid) {
            return matches!(status, WaitStatus::Exited(_, 0));
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
