//! The program under test: its commands with a bounded wait, and a handle on
//! a container that deletes it when the case is done.
//!
//! Output goes to files, never pipes: a detached container keeps the
//! descriptors it inherited, and a reader would wait for it.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bundle::Bundle;
use crate::case::Test;
use crate::sys::{self, Before};

/// How long a command may take before it counts as hung. No case measures
/// time by it.
pub const HANG: Duration = Duration::from_secs(40);

/// Waits until `done`, looking every few milliseconds.
///
/// # Panics
/// When it does not come to that within [`HANG`].
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < HANG, "it never comes: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code, or 128 + the signal that killed it.
    pub code: i32,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Outcome {
    /// Fails the case unless the command ended with 0.
    ///
    /// # Panics
    /// With what the command wrote.
    #[track_caller]
    pub fn ok(self) -> Outcome {
        assert_eq!(
            self.code, 0,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self
    }

    /// Fails the case unless the command ended with this code and said each
    /// of these on stderr.
    ///
    /// # Panics
    /// With what the command wrote.
    #[track_caller]
    pub fn fails(self, code: i32, texts: &[&str]) -> Outcome {
        assert_eq!(
            self.code, code,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        for text in texts {
            assert!(
                self.stderr.contains(text),
                "no `{text}` in stderr: {}",
                self.stderr
            );
        }
        self
    }

    /// The answers of the probe, in order.
    pub fn answers(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The one answer of the probe.
    ///
    /// # Panics
    /// When the command failed or there is not exactly one answer.
    #[track_caller]
    pub fn answer(self) -> Value {
        let outcome = self.ok();
        let mut answers = outcome.answers();
        assert_eq!(
            answers.len(),
            1,
            "stdout: {}\nstderr: {}",
            outcome.stdout,
            outcome.stderr
        );
        answers.remove(0)
    }

    /// Stdout as one JSON document.
    ///
    /// # Panics
    /// When the command failed or it is none.
    #[track_caller]
    pub fn json(self) -> Value {
        let outcome = self.ok();
        serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", outcome.stdout))
    }
}

/// A command that runs, with its output files.
pub struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// Waits until stdout contains `text`.
    ///
    /// # Panics
    /// When the command ends or hangs before it does.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let begin = Instant::now();
        while !self.stdout().contains(text) {
            let ended = self.child.try_wait().expect("wait");
            let stderr = fs::read_to_string(&self.stderr).unwrap_or_default();
            assert!(
                ended.is_none() || self.stdout().contains(text),
                "ended before `{text}`: {ended:?}: {} {stderr}",
                self.stdout()
            );
            assert!(
                begin.elapsed() < HANG,
                "hangs before `{text}`: {} {stderr}",
                self.stdout()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// When it hangs.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            if begin.elapsed() > HANG {
                let _ = self.child.kill();
                let _ = self.child.wait();
                let stderr = fs::read_to_string(&self.stderr).unwrap_or_default();
                panic!("hangs: stdout: {}\nstderr: {stderr}", self.stdout());
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        Outcome {
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: self.stdout(),
            stderr: fs::read_to_string(&self.stderr).unwrap_or_default(),
        }
    }
}

impl Test {
    /// A command line of the runtime, not started. Its `--root` is the
    /// case's.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.runtime);
        command
            .arg("--root")
            .arg(&self.root)
            .args(args)
            .stdin(Stdio::null());
        let instead = self.instead.borrow();
        if !instead.is_empty() {
            sys::before(&mut command, Before::Instead(instead.clone()));
        }
        self.filter(&mut command);
        command
    }

    /// Has what `WITHOUT` says of filters refused to a command.
    pub fn filter(&self, command: &mut Command) {
        let mut filtered = self.without.clone();
        filtered.retain(|call| call.ends_with(sys::FILTERS));
        if !filtered.is_empty() {
            sys::before(command, sys::Before::Refuse(filtered));
        }
    }

    /// Starts a command whose output goes to files.
    ///
    /// # Panics
    /// When it can't be executed.
    pub fn spawn(&self, command: &mut Command) -> Running {
        let name = self.id();
        let stdout = self.directory.join(format!("{name}.stdout"));
        let stderr = self.directory.join(format!("{name}.stderr"));
        command.stdout(File::create(&stdout).expect("a file for stdout"));
        command.stderr(File::create(&stderr).expect("a file for stderr"));
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Running {
            child,
            stdout,
            stderr,
        }
    }

    /// Runs a command of the runtime to its end.
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Outcome {
        self.spawn(&mut self.command(args)).wait()
    }

    /// `run --bundle B ID` to its end.
    #[track_caller]
    pub fn run(&self, bundle: &Bundle) -> Outcome {
        self.call(&["run", "--bundle", text(&bundle.path), &bundle.id])
    }

    /// `run` of the bundle, left running.
    pub fn spawn_run(&self, bundle: &Bundle) -> Running {
        self.spawn(&mut self.command(&["run", "--bundle", text(&bundle.path), &bundle.id]))
    }

    /// `create` of the bundle, which must succeed.
    #[track_caller]
    pub fn create(&self, bundle: &Bundle) -> Container<'_> {
        self.create_with(bundle, &[])
    }

    /// `create` with more flags.
    #[track_caller]
    pub fn create_with(&self, bundle: &Bundle, flags: &[&str]) -> Container<'_> {
        let mut args = vec!["create", "--bundle", text(&bundle.path)];
        args.extend(flags);
        args.push(&bundle.id);
        let running = self.spawn(&mut self.command(&args));
        let stdout = running.stdout.clone();
        // The handle comes first: what a failed create left is deleted too.
        let container = Container {
            test: self,
            id: bundle.id.clone(),
            stdout,
        };
        running.wait().ok();
        container
    }

    /// `create` and `start`.
    #[track_caller]
    pub fn start(&self, bundle: &Bundle) -> Container<'_> {
        let container = self.create(bundle);
        container.start().ok();
        container
    }

    /// A handle on a container that the case made by other means.
    pub fn adopt(&self, id: &str) -> Container<'_> {
        Container {
            test: self,
            id: id.to_owned(),
            stdout: PathBuf::new(),
        }
    }
}

/// A container; dropped, it is deleted by force.
pub struct Container<'a> {
    test: &'a Test,
    /// Its id.
    pub id: String,
    stdout: PathBuf,
}

impl Container<'_> {
    /// `start`.
    #[track_caller]
    pub fn start(&self) -> Outcome {
        self.test.call(&["start", &self.id])
    }

    /// `state` as JSON.
    #[track_caller]
    pub fn state(&self) -> Value {
        self.test.call(&["state", &self.id]).json()
    }

    /// The status that `state` names.
    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"]
            .as_str()
            .expect("a status")
            .to_owned()
    }

    /// The pid that `state` names.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.state()["pid"].as_i64().expect("a pid") as i32
    }

    /// Waits until `state` says so.
    ///
    /// # Panics
    /// When it never does.
    #[track_caller]
    pub fn wait_status(&self, status: &str) {
        let begin = Instant::now();
        loop {
            let now = self.status();
            if now == status {
                return;
            }
            assert!(begin.elapsed() < HANG, "status stays {now}, not {status}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// `kill`.
    #[track_caller]
    pub fn kill(&self, signal: &str) -> Outcome {
        self.test.call(&["kill", &self.id, signal])
    }

    /// `delete`.
    #[track_caller]
    pub fn delete(&self) -> Outcome {
        self.test.call(&["delete", &self.id])
    }

    /// `exec [FLAGS] ID WORDS` with the probe.
    #[track_caller]
    pub fn probe(&self, flags: &[&str], words: &[&str]) -> Outcome {
        let mut args = vec!["exec"];
        args.extend(flags);
        args.extend([self.id.as_str(), "/bin/probe"]);
        args.extend(words);
        self.test.call(&args)
    }

    /// What the program has written to stdout so far.
    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// Waits until the program wrote `text` in a line that is whole: a long one may
    /// be seen before its end.
    ///
    /// # Panics
    /// When it never does.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let begin = Instant::now();
        while !whole_lines(&self.stdout()).contains(text) {
            assert!(begin.elapsed() < HANG, "no `{text}`: {}", self.stdout());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The probe's answers so far.
    pub fn answers(&self) -> Vec<Value> {
        self.stdout()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self
            .test
            .command(&["delete", "--force", &self.id])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// A path as text; all of ours are ASCII.
///
/// # Panics
/// When it isn't UTF-8.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours is UTF-8")
}

/// What of `text` ends in a newline.
fn whole_lines(text: &str) -> &str {
    text.rfind('\n').map_or("", |end| &text[..=end])
}
