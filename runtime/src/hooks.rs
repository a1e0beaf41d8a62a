//! Hooks run: a program, the state on its standard input, a time limit.
//!
//! A hook inherits no descriptor but its own three and leads a process group,
//! which is killed as a whole when its time is up; its execve, too, is within
//! that time, since the file may lie where opening it takes for ever. What it prints is read all
//! along, so that it never blocks, and the end of it goes into the error. Where
//! annotations name files, it writes there, and the error has the end of those.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::fs::{FileType, OFlags};

use crate::error::{Context, Error, Kind, Result};
use crate::plan::hooks::{Hook, Hooks};
use crate::sys::descriptors::{self, CloseRange};
use crate::sys::file;
use crate::sys::handle::Handle;
use crate::sys::mutation::Defence;
use crate::sys::process::{self, Clone, Ended, Forked};
use crate::sys::signal;
use crate::{plan, sys};

/// How much of a hook's output an error shows.
const SHOWN: usize = 2048;

/// What a pipe holds (pipe(7)).
const FULL_PIPE: usize = 65536;

/// What the states of one container have in common, whatever the moment
/// (runtime.md, "State").
#[derive(Debug, Clone)]
pub struct State {
    /// The container's id.
    pub id: String,
    /// The bundle, absolute.
    pub bundle: String,
    /// The annotations of config.json.
    pub annotations: BTreeMap<String, String>,
}

impl State {
    /// The state as compact JSON: hooks exist that read it line by line.
    #[must_use]
    pub fn json(&self, status: &str, pid: i32) -> Vec<u8> {
        self.value(status, pid).to_string().into_bytes()
    }

    /// The state as a value, to be put into another document.
    #[must_use]
    pub fn value(&self, status: &str, pid: i32) -> serde_json::Value {
        let mut state = serde_json::json!({
            "ociVersion": crate::spec::VERSION,
            "id": self.id,
            "status": status,
            "pid": pid,
            "bundle": self.bundle,
        });
        if !self.annotations.is_empty() {
            state["annotations"] = serde_json::json!(self.annotations);
        }
        state
    }
}

/// Files that hooks write to, opened.
#[derive(Debug, Default)]
pub struct Output {
    stdout: Option<Log>,
    stderr: Option<Log>,
}

/// One of them.
#[derive(Debug)]
struct Log {
    file: OwnedFd,
    /// The same, where what was written can be read again.
    again: Option<fs::File>,
}

impl Output {
    /// Opens the files, and makes those that are not there. Their names may come
    /// from an image, so what is no regular file is not even opened: a device
    /// may act on that, and a link leads elsewhere.
    ///
    /// # Errors
    /// A file that is not regular, those of open(2), with the annotation.
    pub fn open(planned: &plan::hooks::Output) -> Result<Self> {
        let open = |name: &str, path: &Option<PathBuf>| {
            let opened = path.as_deref().map(Log::open).transpose();
            opened.context(|| format!("annotation run.oci.hooks.{name}"))
        };
        Ok(Self {
            stdout: open("stdout", &planned.stdout)?,
            stderr: open("stderr", &planned.stderr)?,
        })
    }

    /// Every descriptor, for a process that closes all others.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let logs = self.stdout.iter().chain(&self.stderr);
        logs.flat_map(|log| [Some(log.file.as_fd()), log.again.as_ref().map(AsFd::as_fd)])
            .flatten()
    }

    /// Closes every file, in a process that has a copy of this and never drops it.
    ///
    /// # Errors
    /// Those of close_range(2).
    pub(crate) fn close_all(&self) -> Result<()> {
        for file in self.descriptors() {
            let number = file.as_raw_fd();
            descriptors::close_range(number, number, CloseRange::Close)?;
        }
        Ok(())
    }

    /// How long the files are.
    fn lengths(&self) -> [u64; 2] {
        [&self.stdout, &self.stderr].map(|log| log.as_ref().map_or(0, Log::length))
    }

    /// The end of what was added since the files had these lengths.
    fn since(&self, lengths: [u64; 2]) -> Vec<u8> {
        let logs = [&self.stdout, &self.stderr].into_iter().zip(lengths);
        let added = logs.filter_map(|(log, length)| log.as_ref()?.since(length));
        added.flatten().collect()
    }
}

impl Log {
    fn open(path: &Path) -> Result<Self> {
        let append = |path: &Path, is_new: bool| {
            let mut options = fs::File::options();
            let opened = options.append(true).create_new(is_new).mode(0o600);
            sys::call(opened.open(path), || format!("open({path:?}, O_APPEND)"))
        };
        let trusting = Defence::RegularHookFile.is_out();
        let links = match trusting {
            true => OFlags::empty(),
            false => OFlags::NOFOLLOW,
        };
        let file = match file::open(path, OFlags::PATH | links) {
            Ok(found) => {
                let kind = FileType::from_raw_mode(file::stat(found.as_fd())?.st_mode);
                if kind != FileType::RegularFile && !trusting {
                    let text = format!("{path:?} is not a regular file");
                    return Err(Error::new(Kind::Unsupported, text));
                }
                append(&by_number(found.as_fd()), false)?
            }
            Err(error) if error.errno() == Errno::ENOENT => append(path, true)?,
            Err(error) => return Err(error.into()),
        };
        let file = descriptors::move_above(file.into(), 3)?;
        let again = fs::File::open(by_number(file.as_fd())).ok();
        Ok(Self { file, again })
    }

    fn length(&self) -> u64 {
        let found = self.again.as_ref().map(fs::File::metadata);
        found.map_or(0, |found| found.map_or(0, |found| found.len()))
    }

    fn since(&self, length: u64) -> Option<Vec<u8>> {
        let now = self.length();
        let from = length.max(now.saturating_sub(SHOWN as u64));
        let mut text = vec![0; usize::try_from(now.checked_sub(from)?).ok()?];
        self.again.as_ref()?.read_exact_at(&mut text, from).ok()?;
        Some(text)
    }
}

/// The file that is open, by a name.
fn by_number(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Where hooks run, and with what.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The working directory, as under runc the bundle for those on the host;
    /// `None` leaves ours. One that is not there any more does, too: it is no
    /// reason not to run a hook that cleans up.
    pub directory: Option<&'a Path>,
    /// What a hook without an environment of its own gets.
    pub env: &'a [CString],
    /// Where a hook writes to; elsewhere to us.
    pub output: &'a Output,
}

impl<'a> Place<'a> {
    /// In `directory`, with an empty environment.
    #[must_use]
    pub fn new(directory: &'a Path, output: &'a Output) -> Self {
        Self {
            directory: Some(directory),
            env: &[],
            output,
        }
    }
}

/// Runs the hooks of the moment after the container's program was executed.
///
/// # Errors
/// As for [`run_all`].
pub fn run_poststart(
    hooks: &Hooks,
    state: &[u8],
    bundle: &Path,
    unwanted: &dyn Fn() -> bool,
) -> Result<()> {
    if hooks.poststart.is_empty() {
        return Ok(());
    }
    let output = Output::open(&hooks.output)?;
    let place = Place::new(bundle, &output);
    run_all("poststart", &hooks.poststart, state, place, unwanted)
}

/// Runs the hooks of `moment` in order; the first that fails ends it.
///
/// `state` is the container's state as compact JSON. A hook that runs is killed
/// once `unwanted` says so, which is asked now and then.
///
/// # Errors
/// The hook, and its exit status with what it printed, or its timeout.
pub fn run_all(
    moment: &str,
    hooks: &[Hook],
    state: &[u8],
    place: Place<'_>,
    unwanted: &dyn Fn() -> bool,
) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    // A hook need not read its input.
    let _ignored = signal::IgnoredPipe::new()?;
    for (at, hook) in hooks.iter().enumerate() {
        run(hook, state, place, unwanted)
            .map_err(|error| error.with_kind(Kind::Hook))
            .context(|| format!("{moment} hook #{at} {:?}", hook.path))?;
    }
    Ok(())
}

/// A hook that is running, with our ends of its pipes.
struct Running {
    pid: Pid,
    handle: Handle,
    stdin: Option<OwnedFd>,
    output: Option<OwnedFd>,
    /// Closed by execve, or filled with the reason why there was none.
    status: Option<OwnedFd>,
    printed: Vec<u8>,
}

/// Nobody ever asks for the end of these hooks but by their timeout.
#[must_use]
pub fn always_wanted() -> bool {
    false
}

fn run(hook: &Hook, state: &[u8], place: Place<'_>, unwanted: &dyn Fn() -> bool) -> Result<()> {
    let before = place.output.lengths();
    let mut running = spawn(hook, place)?;
    // One beyond the end of time is none.
    let deadline = hook
        .timeout
        .and_then(|timeout| Instant::now().checked_add(timeout));
    let mut unread = state;
    loop {
        running.feed(&mut unread);
        let Some(wait) = time_left(deadline) else {
            running.kill();
            let limit = hook.timeout.unwrap_or_default().as_secs();
            return Err(Error::new(Kind::Hook, format!("timed out after {limit} s")));
        };
        match running.wait(wait) {
            Ok(true) => return running.finish(|| place.output.since(before)),
            Ok(false) => {}
            Err(error) => {
                running.kill();
                return Err(error);
            }
        }
        if unwanted() {
            running.kill();
            let text = "killed, since the container is deleted by force";
            return Err(Error::new(Kind::Hook, text));
        }
    }
}

/// Milliseconds until the deadline, at most the poll's tick; `None` when it is
/// over.
fn time_left(deadline: Option<Instant>) -> Option<u16> {
    /// Long enough to cost nothing, short enough for who deletes by force.
    const TICK: Duration = Duration::from_millis(100);
    let left = match deadline {
        None => TICK,
        Some(deadline) => deadline.checked_duration_since(Instant::now())?.min(TICK),
    };
    // Rounded up, so that the last wait does not spin.
    u16::try_from(left.as_millis() + 1).ok()
}

/// Starts the hook.
fn spawn(hook: &Hook, place: Place<'_>) -> Result<Running> {
    let (stdin_read, stdin_write) = descriptors::pipe()?;
    let (output_read, output_write) = descriptors::pipe()?;
    let (status_read, status_write) = descriptors::pipe()?;
    // Our copies stay clear of the child's 0, 1 and 2.
    let [stdin_read, output_write, status_write] =
        [stdin_read, output_write, status_write].map(|fd| descriptors::move_above(fd, 3));
    let (stdin_read, output_write, status_write) = (stdin_read?, output_write?, status_write?);
    let (pid, handle) = match process::fork(&Clone::default())? {
        Forked::Parent(pid, handle) => (pid, handle),
        Forked::Child => {
            let us = output_write.as_fd();
            let [stdout, stderr] = [&place.output.stdout, &place.output.stderr]
                .map(|log| log.as_ref().map_or(us, |log| log.file.as_fd()));
            let stdio = [stdin_read.as_fd(), stdout, stderr];
            let Err(error) = execute(hook, place, stdio, status_write.as_fd());
            let _ = descriptors::write_all(status_write.as_fd(), error.to_string().as_bytes());
            process::exit_now(127);
        }
    };
    drop((stdin_read, output_write, status_write));
    descriptors::set_nonblocking(stdin_write.as_fd())?;
    Ok(Running {
        pid,
        handle,
        stdin: Some(stdin_write),
        output: Some(output_read),
        status: Some(status_read),
        printed: vec![],
    })
}

/// The hook's own side, up to its program.
fn execute(
    hook: &Hook,
    place: Place<'_>,
    stdio: [BorrowedFd<'_>; 3],
    status: BorrowedFd<'_>,
) -> Result<Infallible> {
    if let Some(directory) = place.directory {
        let _ = nix::unistd::chdir(directory);
    }
    let _ = nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0));
    for (number, fd) in (0..).zip(stdio) {
        descriptors::duplicate_onto(fd, number)?;
    }
    if !Defence::ClosedDescriptors.is_out() {
        // Not by the execve, which may take for ever: one of them is the container's lock.
        descriptors::close_all_but(&[status], 3)?;
    }
    signal::reset_all()?;
    let env = hook.env.as_deref().unwrap_or(place.env);
    Ok(process::execve(&hook.path, &hook.args, env)?)
}

impl Running {
    /// Writes as much of the state as the hook takes now. A hook that does not
    /// read its input is as good as any.
    fn feed(&mut self, unread: &mut &[u8]) {
        let Some(stdin) = &self.stdin else { return };
        match nix::unistd::write(stdin, unread) {
            Ok(written) if written < unread.len() => *unread = &unread[written..],
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) if Defence::UnreadInput.is_out() => {
                let _ = self.handle.signal(libc::SIGKILL);
            }
            _ => self.stdin = None,
        }
    }

    /// Waits up to `milliseconds` for output or the end; whether it ended.
    fn wait(&mut self, milliseconds: u16) -> Result<bool> {
        // While input is left to write, look again soon.
        let wait = if self.stdin.is_some() {
            milliseconds.min(10)
        } else {
            milliseconds
        };
        let watched: Vec<_> = [&self.status, &self.output]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
            .collect();
        let (ended, readable) = self.handle.poll_end(&watched, Some(wait))?;
        let mut readable = readable.into_iter();
        if self.status.is_some() {
            let told = readable.next() == Some(true);
            if told || ended {
                self.read_status()?;
            }
        }
        if readable.next() == Some(true) && !ended {
            self.read_output();
        }
        Ok(ended)
    }

    /// Reads why there was no execve; nothing is one that succeeded, and
    /// closed the pipe.
    fn read_status(&mut self) -> Result<()> {
        let Some(status) = self.status.take() else {
            return Ok(());
        };
        let mut text = [0_u8; 512];
        match descriptors::read(status.as_fd(), &mut text)? {
            0 => Ok(()),
            length => {
                let text = String::from_utf8_lossy(&text[..length]);
                Err(Error::new(Kind::Hook, text))
            }
        }
    }

    /// Reads once, keeping only the end of all that was printed.
    fn read_output(&mut self) {
        let Some(output) = &self.output else { return };
        let mut buffer = [0_u8; SHOWN];
        match descriptors::read(output.as_fd(), &mut buffer) {
            Ok(length) if length > 0 => {
                self.printed.extend_from_slice(&buffer[..length]);
                let surplus = self.printed.len().saturating_sub(SHOWN);
                self.printed.drain(..surplus);
            }
            _ => self.output = None,
        }
    }

    /// Reaps the hook, which has ended, and judges its status. What it did not
    /// print to us is `elsewhere`.
    fn finish(mut self, elsewhere: impl FnOnce() -> Vec<u8>) -> Result<()> {
        // What it printed last, which is a full pipe at most: a grandchild may
        // hold the pipe for ever, and print all along.
        for _ in 0..FULL_PIPE / SHOWN {
            let Some(output) = &self.output else { break };
            if process::poll_readable(&[output.as_fd()], Some(0))? != [true] {
                break;
            }
            self.read_output();
        }
        let ended = self.handle.wait()?;
        if ended == Ended::Exited(0) {
            return Ok(());
        }
        self.printed.extend(elsewhere());
        let printed = String::from_utf8_lossy(&self.printed);
        let printed = printed.trim().replace('\n', "; ");
        let text = match printed.is_empty() {
            true => ended.to_string(),
            false => format!("{ended}, it printed: {printed}"),
        };
        Err(Error::new(Kind::Hook, text))
    }

    /// Kills the hook and what it started, and reaps it.
    fn kill(&mut self) {
        if !Defence::HookGroup.is_out() {
            let _ = process::kill_group(self.pid, Signal::SIGKILL);
        }
        let _ = self.handle.signal(libc::SIGKILL);
        let _ = self.handle.wait();
    }
}
