//! The runtime, called as containerd calls runc: a program with flags, a log
//! in JSON, and an exit code.
//!
//! A call is a child of the shim that dies with it, so that a shim killed in
//! the middle of `create` leaves nothing that goes on making a container. An
//! error is the last one in the log, else what the program wrote on its
//! standard error, else its exit status.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rrun::error::{Context, Error, Kind, Result};
use rrun_sys::file;
use serde::Deserialize;

use crate::log;
use crate::options::Options;
use crate::reaper::{Child, Exit, Reaper};
use crate::stdio::Ends;

/// How long the runtime may take to look or to signal. What it does while it
/// makes a container has no limit here: its hooks may take as long as they like.
const SHORT: Duration = Duration::from_secs(30);
/// How long it may take to remove a container: systemd alone has half of it.
const LONG: Duration = Duration::from_secs(60);

/// Calls the runtime for one container.
#[derive(Debug)]
pub(crate) struct Runtime {
    reaper: Reaper,
    options: Options,
    id: String,
    bundle: PathBuf,
}

impl Runtime {
    /// The runtime that `options` name, for the container `id` in `bundle`.
    #[must_use]
    pub(crate) fn new(reaper: Reaper, options: Options, id: &str, bundle: &Path) -> Self {
        Self {
            reaper,
            options,
            id: id.to_owned(),
            bundle: bundle.to_owned(),
        }
    }

    /// What it was told about itself.
    #[must_use]
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Whether the runtime knows a container of this id.
    #[must_use]
    pub(crate) fn has_state(&self) -> bool {
        self.options.root.join(&self.id).exists()
    }

    /// Creates the container; its pid.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(crate) async fn create(&self, ends: Ends) -> Result<i32> {
        let pid_file = self.bundle.join("init.pid");
        let mut call = self.call("create");
        call.path("--bundle", &self.bundle)
            .path("--pid-file", &pid_file);
        call.switch("--no-pivot", self.options.no_pivot_root);
        call.switch("--no-new-keyring", self.options.no_new_keyring);
        call.ends(ends);
        call.named().run().await?;
        read_pid(&pid_file)
    }

    /// Restores the container from the checkpoint at `image`; its pid.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(crate) async fn restore(&self, image: &Path, ends: Ends) -> Result<i32> {
        let pid_file = self.bundle.join("init.pid");
        let mut call = self.call("restore");
        call.path("--bundle", &self.bundle)
            .path("--pid-file", &pid_file)
            .path("--image-path", image)
            .path("--work-path", &self.work_path())
            .arg("--detach")
            .arg("-no-subreaper");
        call.switch("--no-pivot", self.options.no_pivot_root);
        call.ends(ends);
        call.named().run().await?;
        read_pid(&pid_file)
    }

    /// Writes the container's state to `image`; `flags` are those of the
    /// runtime's `checkpoint`.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(crate) async fn checkpoint(&self, image: &Path, flags: &[String]) -> Result<()> {
        let mut call = self.call("checkpoint");
        call.path("--image-path", image)
            .path("--work-path", &self.work_path());
        for flag in flags {
            call.arg(flag);
        }
        call.named().run().await.map(drop)
    }

    /// Starts the created container.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(crate) async fn start(&self) -> Result<()> {
        self.call("start").named().run().await.map(drop)
    }

    /// Starts a further process, described by `spec` (JSON), in the container;
    /// its pid.
    ///
    /// # Errors
    /// Those of the runtime; it has told no pid, and so the process runs unknown.
    pub(crate) async fn exec(&self, exec_id: &str, spec: &[u8], ends: Ends) -> Result<i32> {
        // No id may name a file of the container's own, such as init.pid.
        let name = format!("exec-{exec_id}");
        let pid_file = self.bundle.join(format!("{name}.pid"));
        let process = TemporaryFile::write(self.bundle.join(format!("{name}.process")), spec)?;
        let mut call = self.call("exec");
        // Several execs run at once: each has a log of its own.
        call.log = self.bundle.join(format!("{name}.log.json"));
        let _log = TemporaryFile(call.log.clone());
        call.path("--process", &process.0)
            .path("--pid-file", &pid_file)
            .arg("--detach");
        call.ends(ends);
        let _pid_file = TemporaryFile(pid_file.clone());
        call.named().run().await?;
        read_pid(&pid_file).inspect_err(|error| {
            // Its end will be told to nobody.
            log::error(format_args!("exec {exec_id:?} runs unknown: {error}"));
        })
    }

    /// Sends a signal to the container's first process, or to all.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(crate) async fn kill(&self, signal: u32, all: bool) -> Result<()> {
        let mut call = self.call("kill");
        call.limit = Some(SHORT);
        call.switch("--all", all);
        call.named().arg(signal.to_string()).run().await.map(drop)
    }

    /// Freezes every process of the container.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(crate) async fn pause(&self) -> Result<()> {
        self.call("pause").named().run().await.map(drop)
    }

    /// Thaws the container.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(crate) async fn resume(&self) -> Result<()> {
        self.call("resume").named().run().await.map(drop)
    }

    /// Changes limits; `resources` is the spec's `linux.resources` as JSON.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(crate) async fn update(&self, resources: &[u8]) -> Result<()> {
        let mut call = self.call("update");
        call.arg("--resources=-");
        call.stdin(resources)?;
        call.named().run().await.map(drop)
    }

    /// The processes of the container.
    ///
    /// # Errors
    /// Those of the runtime; what it prints is no list of numbers.
    pub(crate) async fn pids(&self) -> Result<Vec<i32>> {
        let mut call = self.call("ps");
        call.limit = Some(SHORT);
        call.arg("--format").arg("json");
        let text = call.named().run().await?;
        // runc prints null where there is nothing.
        let pids: Option<Vec<i32>> = serde_json::from_slice(&text).map_err(|error| {
            let program = self.options.binary.display();
            Error::new(Kind::System, format!("{program} ps: {error}"))
        })?;
        Ok(pids.unwrap_or_default())
    }

    /// Removes the stopped container. One that is gone is no error.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(crate) async fn delete(&self, force: bool) -> Result<()> {
        let mut call = self.call("delete");
        call.limit = Some(LONG);
        call.switch("--force", force);
        match call.named().run().await {
            Err(error) if error.to_string().contains("does not exist") => Ok(()),
            done => done.map(drop),
        }
    }

    fn work_path(&self) -> PathBuf {
        match self.options.criu_work_path.as_str() {
            "" => self.bundle.join("work"),
            path => PathBuf::from(path),
        }
    }

    fn call(&self, verb: &str) -> Call<'_> {
        let mut call = Call {
            runtime: self,
            command: Command::new(&self.options.binary),
            log: self.bundle.join("log.json"),
            arguments: Vec::new(),
            piped: false,
            limit: None,
            verb: verb.to_owned(),
        };
        call.arguments.push(verb.into());
        call
    }
}

/// One call of the runtime while it is put together.
#[derive(Debug)]
struct Call<'a> {
    runtime: &'a Runtime,
    command: Command,
    log: PathBuf,
    /// The verb and what stands behind it.
    arguments: Vec<std::ffi::OsString>,
    /// Its standard streams are the container's.
    piped: bool,
    /// How long it may take.
    limit: Option<Duration>,
    verb: String,
}

impl Call<'_> {
    fn arg(&mut self, word: impl AsRef<OsStr>) -> &mut Self {
        self.arguments.push(word.as_ref().to_owned());
        self
    }

    fn path(&mut self, flag: &str, path: &Path) -> &mut Self {
        self.arg(flag).arg(path)
    }

    fn switch(&mut self, flag: &str, on: bool) {
        if on {
            self.arg(flag);
        }
    }

    /// The container's id; flags stand before it.
    fn named(&mut self) -> &mut Self {
        let id = self.runtime.id.clone();
        self.arg(id)
    }

    /// The container's ends of its streams become the runtime's.
    fn ends(&mut self, ends: Ends) {
        match ends {
            Ends::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                self.command
                    .stdin(Stdio::from(stdin))
                    .stdout(Stdio::from(stdout))
                    .stderr(Stdio::from(stderr));
                self.piped = true;
            }
            Ends::Console { socket } => {
                self.path("--console-socket", &socket);
            }
        }
    }

    fn stdin(&mut self, text: &[u8]) -> Result<()> {
        self.command.stdin(file_with(text)?);
        Ok(())
    }

    /// Runs it; what it printed, if its streams are not the container's.
    async fn run(&mut self) -> Result<Vec<u8>> {
        let options = &self.runtime.options;
        let mut output = file::in_memory("output")?;
        if !self.piped {
            let [out, err] = [copy(&output)?, copy(&output)?];
            self.command.stdout(out).stderr(err);
            if !self.arguments.iter().any(|word| word == "--resources=-") {
                self.command.stdin(Stdio::null());
            }
        }
        self.command
            .arg("--root")
            .arg(&options.root)
            .arg("--log")
            .arg(&self.log);
        self.command.args(["--log-format", "json"]);
        if options.systemd_cgroup {
            self.command.arg("--systemd-cgroup");
        }
        if !options.criu_path.is_empty() {
            self.command.args(["--criu", &options.criu_path]);
        }
        self.command
            .args(&self.arguments)
            .current_dir(&self.runtime.bundle)
            .env_remove("NOTIFY_SOCKET");
        let logged = fs::metadata(&self.log).map_or(0, |log| log.len());
        let child = self.runtime.reaper.spawn(&mut self.command)?;
        // The command holds our copies of the container's streams.
        self.command = Command::new(&options.binary);
        let exit = self.end(child).await?;
        let mut printed = Vec::new();
        // What can't be read was not printed.
        let _length = output
            .seek(SeekFrom::Start(0))
            .and_then(|_| output.read_to_end(&mut printed));
        if exit.status == 0 {
            return Ok(printed);
        }
        Err(self.failure(exit.status, logged, &printed))
    }

    /// Waits for the runtime, which is killed if it takes too long.
    async fn end(&self, child: Child) -> Result<Exit> {
        let Some(limit) = self.limit else {
            return child.wait().await;
        };
        let pid = child.pid();
        match tokio::time::timeout(limit, child.wait()).await {
            Ok(exit) => exit,
            Err(_) => {
                // It may have ended just now.
                let _killed = self.runtime.reaper.signal(pid, libc::SIGKILL);
                let verb = &self.verb;
                let text = format!("OCI runtime {verb} failed: it has not ended within {limit:?}");
                Err(Error::new(Kind::System, text))
            }
        }
    }

    fn failure(&self, status: u32, logged: u64, printed: &[u8]) -> Error {
        let log = read_from(&self.log, logged);
        let text = last_error(&log)
            .or_else(|| {
                let text = String::from_utf8_lossy(printed);
                let line = text.trim().lines().last()?.to_owned();
                Some(line)
            })
            .unwrap_or_else(|| format!("exit status {status}"));
        Error::new(
            Kind::System,
            format!("OCI runtime {} failed: {text}", self.verb),
        )
    }
}

/// A line of the runtime's log; logrus has the same fields.
#[derive(Deserialize)]
struct Logged {
    level: String,
    msg: String,
}

/// The last error in a stream of JSON objects.
fn last_error(log: &[u8]) -> Option<String> {
    serde_json::Deserializer::from_slice(log)
        .into_iter::<Logged>()
        .map_while(std::result::Result::ok)
        .filter(|line| line.level == "error" || line.level == "fatal")
        .last()
        .map(|line| line.msg)
}

/// The end of a file from a position; empty if it can't be read.
fn read_from(path: &Path, position: u64) -> Vec<u8> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(position))?;
        file.read_to_end(&mut text)
    });
    match read {
        Ok(_) => text,
        Err(_) => Vec::new(),
    }
}

/// A text as the standard input of a program.
///
/// # Errors
/// There is no room for it.
pub(crate) fn file_with(text: &[u8]) -> Result<Stdio> {
    let mut file = file::in_memory("stdin")?;
    file.write_all(text)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .map_err(|error| Error::new(Kind::System, format!("write a memory file: {error}")))?;
    Ok(Stdio::from(file))
}

/// The same open file, so that both writers append behind one another.
fn copy(file: &File) -> Result<Stdio> {
    let copy = file.try_clone();
    copy.map(Stdio::from)
        .map_err(|error| Error::new(Kind::System, format!("dup a memory file: {error}")))
}

/// A file that is removed when it is of no more use.
#[derive(Debug)]
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    /// Writes it, for nobody else to read: an environment holds secrets.
    fn write(path: PathBuf, text: &[u8]) -> Result<Self> {
        let file = Self(path);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options
            .open(&file.0)
            .and_then(|mut file| file.write_all(text));
        let failed = |error| Error::new(Kind::System, format!("write {:?}: {error}", file.0));
        written.map_err(failed)?;
        Ok(file)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // It may never have been written, and the bundle goes in the end.
        let _removed = fs::remove_file(&self.0);
    }
}

fn read_pid(path: &Path) -> Result<i32> {
    let text = fs::read_to_string(path)
        .map_err(|error| Error::new(Kind::System, error.to_string()))
        .context(|| format!("read {path:?}"))?;
    text.trim().parse().map_err(|_| {
        let text = format!("read {path:?}: {:?} is no process id", text.trim());
        Error::new(Kind::System, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_takes_too_long_is_killed() {
        use std::os::unix::fs::PermissionsExt as _;

        let bundle = std::env::temp_dir().join(format!("rrun-slow-{}", std::process::id()));
        fs::create_dir(&bundle).unwrap();
        let binary = bundle.join("slow");
        fs::write(&binary, "#!/bin/sh\necho $$ >pid\nexec sleep 100\n").unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        let options = Options {
            binary,
            ..Options::default()
        };
        let event_loop = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        event_loop.unwrap().block_on(async {
            let runtime = Runtime::new(Reaper::default(), options, "web", &bundle);
            let mut call = runtime.call("ps");
            call.limit = Some(Duration::from_millis(500));
            let error = call.named().run().await.unwrap_err();
            assert_eq!(
                error.to_string(),
                "OCI runtime ps failed: it has not ended within 500ms"
            );
        });
        let pid = read_pid(&bundle.join("pid")).unwrap();
        let pid = nix::unistd::Pid::from_raw(pid);
        let ended = nix::sys::wait::waitpid(pid, None).unwrap();
        let killed = nix::sys::wait::WaitStatus::Signaled(pid, nix::sys::signal::SIGKILL, false);
        assert_eq!(ended, killed);
        fs::remove_dir_all(&bundle).unwrap();
    }

    #[test]
    fn the_last_error_of_a_log_is_the_one() {
        for (log, error) in [
            ("", None),
            ("no json", None),
            (r#"{"level":"warning","msg":"w","time":""}"#, None),
            (r#"{"level":"error","msg":"e"}"#, Some("e")),
            (
                "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"second\"}\n{\"level\":\"info\",\"msg\":\"i\"}\n",
                Some("second"),
            ),
            (
                "{\"level\":\"error\",\"msg\":\"whole\"}{\"level\":\"er",
                Some("whole"),
            ),
        ] {
            assert_eq!(last_error(log.as_bytes()).as_deref(), error, "{log}");
        }
    }
}
