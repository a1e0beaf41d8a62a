//! A criu that works for us: started, asked, listened to, ended.
//!
//! One process answers one request. It is a child of ours with our standard
//! streams; of all other descriptors it has its socket and those that are named.
//! Before its execve it may prepare itself, as a restore does by a mount
//! namespace of its own. An end of file on the socket makes criu give up and set
//! what it had stopped going again, so it is killed only when that takes long.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::{AccessFlags, Pid, access};

use super::message::{Features, Notify, Options, Request, Response, Type};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::descriptors::{self, CloseRange};
use crate::sys::handle::Handle;
use crate::sys::process::{self, Clone, Ended, Forked};
use crate::sys::signal;

/// The oldest version that does what we ask for: pid namespaces from outside.
const OLDEST: i32 = 31_500;

/// How long criu may take to give up, in milliseconds.
const PATIENCE: u16 = 10_000;

/// The longest packet that criu sends: a message with a path or two.
const LONGEST: usize = 64 * 1024;

/// Where programs are, if nobody says.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where criu writes what it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The directory.
    pub directory: PathBuf,
    /// The name in it.
    pub name: &'static str,
}

/// How criu is started.
#[derive(Default)]
pub struct Launch<'a> {
    /// Descriptors that it inherits, under the numbers that they have.
    pub inherits: Vec<BorrowedFd<'a>>,
    /// Namespaces of its own, and what is done in them before it begins.
    pub prepare: Option<(CloneFlags, &'a dyn Fn() -> Result<()>)>,
}

/// A criu that waits for a request.
#[derive(Debug)]
pub struct Session {
    socket: Option<OwnedFd>,
    pid: Pid,
    handle: Handle,
}

/// The criu at `path`, or the first in `PATH`.
///
/// # Errors
/// [`Kind::Unsupported`] if there is none.
pub fn find(path: Option<&Path>) -> Result<PathBuf> {
    let is_program = |path: &Path| access(path, AccessFlags::X_OK).is_ok() && path.is_file();
    if let Some(path) = path.filter(|path| path.components().count() > 1) {
        if is_program(path) {
            return Ok(path.to_owned());
        }
        let text = format!("criu {path:?} is no executable file");
        return Err(Error::new(Kind::Unsupported, text));
    }
    let name = path.unwrap_or(Path::new("criu"));
    let directories = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut programs = std::env::split_paths(&directories).map(|directory| directory.join(name));
    programs.find(|path| is_program(path)).ok_or_else(|| {
        let text = format!("{name:?}: executable file not found in $PATH");
        Error::new(Kind::Unsupported, text).with_hint("checkpoints are made by CRIU (criu.org)")
    })
}

/// The version of the criu at `path`, as major * 10000 + minor * 100 + sublevel.
///
/// # Errors
/// One that doesn't answer, or is older than 3.15.
pub fn version(path: &Path) -> Result<i32> {
    let mut session = Session::start(path, &Launch::default())?;
    session.send(&Request::Version)?;
    let (answer, _) = session.receive()?;
    session.end()?;
    match answer.version {
        Some(version) if version >= OLDEST => Ok(version),
        Some(version) => {
            let text = format!("criu {path:?} has version {version}, {OLDEST} is needed");
            Err(Error::new(Kind::Unsupported, text))
        }
        None => Err(Error::new(
            Kind::Unsupported,
            format!("criu {path:?} does not tell its version"),
        )),
    }
}

/// What the criu at `path` can do with this kernel.
///
/// # Errors
/// One that doesn't answer.
pub fn features(path: &Path) -> Result<Features> {
    let mut session = Session::start(path, &Launch::default())?;
    session.send(&Request::Features)?;
    let (answer, _) = session.receive()?;
    session.end()?;
    Ok(answer.features)
}

impl Session {
    /// Starts the criu at `path`.
    ///
    /// # Errors
    /// What its preparation or its execve failed with.
    pub fn start(path: &Path, launch: &Launch<'_>) -> Result<Self> {
        let (birth, told) = descriptors::seqpacket_pair()?;
        let flags = launch
            .prepare
            .map_or(CloneFlags::empty(), |(flags, _)| flags);
        let clone = Clone {
            flags: u64::from(flags.bits().cast_unsigned()),
            cgroup: None,
        };
        let (pid, handle) = match process::fork(&clone).context(|| "start criu")? {
            Forked::Parent(pid, handle) => (pid, handle),
            Forked::Child => {
                let Err(error) = become_criu(path, told.as_fd(), launch);
                let text = error.to_string();
                let _ = descriptors::send(told.as_fd(), text.as_bytes(), &[]);
                process::exit_now(127);
            }
        };
        drop(told);
        let mut session = Self {
            socket: None,
            pid,
            handle,
        };
        match session.hear_of_birth(birth.as_fd()) {
            Ok(()) => Ok(session),
            Err(error) => {
                session.end().ok();
                Err(error.within("start criu"))
            }
        }
    }

    /// Gets the socket, and then the end of file that execve makes, or the reason
    /// why there was none.
    fn hear_of_birth(&mut self, birth: BorrowedFd<'_>) -> Result<()> {
        let mut text = [0; 4096];
        loop {
            match descriptors::receive(birth, &mut text)? {
                (0, _) => return self.socket.is_some().then_some(()).ok_or_else(silent),
                (_, Some(socket)) => self.socket = Some(socket),
                (length, None) => {
                    let text = String::from_utf8_lossy(&text[..length]);
                    return Err(Error::new(Kind::System, text));
                }
            }
        }
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Has `kind` done with `options`; `notified` hears of each moment, with the
    /// descriptor that came with it, and a failure of its own ends the work. The
    /// answer is the pid of the process that was restored.
    ///
    /// # Errors
    /// That of `notified`; what criu says, with the first error in `log`.
    pub fn work(
        mut self,
        kind: Type,
        options: Options,
        log: &Log,
        notified: &mut dyn FnMut(&Notify, Option<OwnedFd>) -> Result<()>,
    ) -> Result<Option<i32>> {
        self.send(&Request::Work(kind, Box::new(options)))?;
        let mut failed = None;
        let answer = loop {
            let (answer, fd) = match self.receive() {
                Err(error) => return Err(log.explain(failed.unwrap_or(error))),
                received => received?,
            };
            match answer.notify.as_ref().filter(|_| answer.success) {
                Some(moment) if answer.kind == Some(Type::Notify) => {
                    let done = notified(moment, fd);
                    self.send(&Request::Notified(done.is_ok()))?;
                    failed = failed.or(done.err());
                }
                _ => break answer,
            }
        };
        let ended = self.end();
        if let Some(error) = failed {
            return Err(error);
        }
        if !answer.success {
            return Err(log.explain(refusal(kind, &answer)));
        }
        match ended? {
            // After a pre-dump criu waits for the dump.
            Ended::Exited(0) => Ok(answer.restored),
            _ if kind == Type::PreDump => Ok(None),
            ended => Err(log.explain(Error::new(Kind::System, format!("criu failed: {ended}")))),
        }
    }

    fn send(&self, request: &Request) -> Result<()> {
        let socket = self.socket.as_ref().ok_or_else(silent)?;
        match descriptors::send(socket.as_fd(), &request.encode(), &[]) {
            // It has ended: what it said last is still to be heard.
            Err(error) if matches!(error.errno(), Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            sent => sent.context(|| "speak to criu"),
        }
    }

    fn receive(&mut self) -> Result<(Response, Option<OwnedFd>)> {
        let socket = self.socket.as_ref().ok_or_else(silent)?;
        let mut packet = vec![0; LONGEST];
        let (length, fd) = match descriptors::receive(socket.as_fd(), &mut packet) {
            // It ended before it had read our request.
            Err(error) if error.errno() == Errno::ECONNRESET => (0, None),
            received => received.context(|| "hear from criu")?,
        };
        if length == 0 {
            let ended = self.end()?;
            let text = format!("criu said nothing before its end: {ended}");
            return Err(Error::new(Kind::System, text));
        }
        let answer = Response::decode(&packet[..length]);
        let strange = || Error::new(Kind::System, "criu's answer is none that we know");
        Ok((answer.ok_or_else(strange)?, fd))
    }

    /// Hangs up, and waits until criu has ended.
    fn end(&mut self) -> Result<Ended> {
        self.socket = None;
        if !self.handle.poll_end(&[], Some(PATIENCE))?.0 {
            let _ = self.handle.signal(libc::SIGKILL);
        }
        Ok(self.handle.wait()?)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // One that has ended already was reaped.
        if self.socket.is_some() {
            let _ = self.end();
        }
    }
}

fn silent() -> Error {
    Error::new(Kind::System, "criu has ended")
}

fn refusal(kind: Type, answer: &Response) -> Error {
    let name = match kind {
        Type::Dump => "DUMP",
        Type::PreDump => "PRE_DUMP",
        _ => "RESTORE",
    };
    let errno = answer.errno.unwrap_or(0);
    let text = format!("criu failed: type {name} errno {errno}");
    let error = Error::new(Kind::System, text);
    match &answer.message {
        Some(message) => {
            let text = first_error(message).unwrap_or(message.trim());
            error.and(&Error::new(Kind::System, text))
        }
        None => error,
    }
}

impl Log {
    /// `error` with the first error in the log, and where the log is.
    fn explain(&self, error: Error) -> Error {
        let path = self.directory.join(self.name);
        let Ok(text) = std::fs::read(&path) else {
            return error;
        };
        let text = String::from_utf8_lossy(&text);
        let hint = format!("log file: {}", path.display());
        let told = error.to_string();
        let Some(first) = first_error(&text).filter(|first| !told.contains(first)) else {
            return error.with_hint(hint);
        };
        error.and(&Error::new(Kind::System, first)).with_hint(hint)
    }
}

/// The first line that is an error, without its time. What criu finds missing
/// when it looks at the kernel is told as an error, too, and does not matter.
fn first_error(log: &str) -> Option<&str> {
    let errors = log.lines().filter_map(|line| {
        let (_, error) = line.split_once("Error (")?;
        let (_, text) = error.split_once("): ")?;
        Some((error, text))
    });
    let harmless = ["criu/tun.c", "criu/kerndat.c"];
    errors
        .filter(|(place, _)| !harmless.iter().any(|file| place.starts_with(file)))
        .map(|(_, text)| text.trim())
        .next()
}

/// The child's side, up to criu. The socket is made here: criu looks for the
/// descriptors that a request names in the process that has made its socket, and
/// in another mount namespace only its own are of use.
fn become_criu(path: &Path, birth: BorrowedFd<'_>, launch: &Launch<'_>) -> Result<Infallible> {
    signal::reset_all()?;
    if let Some((_, prepare)) = launch.prepare {
        prepare()?;
    }
    let (socket, parents) = descriptors::seqpacket_pair()?;
    descriptors::send(birth, b"socket", &[parents.as_fd()])?;
    descriptors::close_range(3, i32::MAX, CloseRange::OnExec)?;
    for fd in launch.inherits.iter().chain([&socket.as_fd()]) {
        descriptors::set_close_on_exec(*fd, false)?;
    }
    let number = socket.as_raw_fd().to_string();
    let arguments = ["criu", "swrk", number.as_str()].map(|word| c_string(OsStr::new(word)));
    let arguments = arguments.into_iter().collect::<Result<Vec<_>>>()?;
    let environment = std::env::vars_os()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            c_string(&name)
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(process::execve(
        &c_string(path.as_os_str())?,
        &arguments,
        &environment,
    )?)
}

fn c_string(text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| Error::new(Kind::System, format!("{text:?} has a NUL")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_of_a_log_is_found() {
        for (name, log, expected) in [
            ("empty", "", None),
            ("none", "(00.001) Dumping path for 0 fd\n", None),
            (
                "the first",
                "(00.3) Error (criu/files-reg.c:1710): Can't lookup mount=34 for fd=1\n\
                 (00.4) Error (criu/cr-dump.c:1635): Dump files failed with -1\n",
                Some("Can't lookup mount=34 for fd=1"),
            ),
            (
                "behind a look at the kernel",
                "(00.0) Error (criu/tun.c:85): tun: Unable to create tun\n\
                 (00.4) Error (criu/cr-dump.c:1): no\n",
                Some("no"),
            ),
        ] {
            assert_eq!(first_error(log), expected, "{name}");
        }
    }

    #[test]
    fn a_criu_that_is_not_there_is_told() {
        for (path, text) in [
            (
                "/nowhere/criu",
                "criu \"/nowhere/criu\" is no executable file",
            ),
            (
                "no-criu-of-this-name",
                "\"no-criu-of-this-name\": executable file not found in $PATH",
            ),
        ] {
            let error = find(Some(Path::new(path))).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn a_program_that_is_no_criu_is_told() {
        let error = version(Path::new("/bin/true")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("criu said nothing before its end"),
            "{error}"
        );
    }
}
