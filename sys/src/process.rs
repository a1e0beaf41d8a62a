//! Processes: made by clone3, looked at, ended and waited for.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::handle::Handle;
use super::{Error, Result, call};

/// What clone3 is asked for.
#[derive(Debug, Default)]
pub struct Clone<'fd> {
    /// `CLONE_NEW...`. `CLONE_PIDFD` is always added, `CLONE_VM` is refused:
    /// nothing that enters a container may share our memory.
    pub flags: u64,
    /// A cgroup v2 directory to be born in (Linux 5.7).
    pub cgroup: Option<BorrowedFd<'fd>>,
}

/// Which side of the fork this is.
#[derive(Debug)]
pub enum Forked {
    /// In the parent: the child's pid, as the caller's pid namespace sees it,
    /// and the child, held.
    Parent(Pid, Handle),
    /// In the child, which has a copy of everything.
    Child,
}

/// Makes a child: by clone3(2), or by clone(2) where the kernel (until Linux
/// 5.3) or a filter around us has no clone3. Only clone3 can put it into a
/// cgroup; `cgroup` set and refused is an error for the caller to fall back
/// from.
///
/// # Errors
/// Those of clone3 and clone, `EINVAL` for `CLONE_VM`.
pub fn fork(clone: &Clone<'_>) -> Result<Forked> {
    let made = match clone3(clone) {
        Err(error) if clone.cgroup.is_none() && is_refused(&error) => {
            (clone_legacy(clone.flags, None)?, None)
        }
        made => made?,
    };
    let Some(pid) = made.0 else {
        return Ok(Forked::Child);
    };
    let handle = match made.1 {
        Some(pidfd) => Ok(Handle::from_pidfd(pidfd)),
        None => Handle::open_child(pid),
    };
    match handle {
        Ok(handle) => Ok(Forked::Parent(pid, handle)),
        Err(error) => {
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
            let _ = nix::sys::wait::waitpid(pid, None);
            Err(error)
        }
    }
}

/// Makes a child of our parent, a sibling of this process, by [`fork`]'s ways. In
/// the sibling it returns its pid as this process sees it, else `None`: the
/// kernel writes it to `place`, which both share, before the sibling runs. So
/// the sibling can tell who it is, whatever becomes of this process.
///
/// # Errors
/// As for [`fork`].
pub fn fork_sibling(flags: u64, place: &'static AtomicU64) -> Result<Option<Pid>> {
    let flag = |flag: i32| u64::from(flag.cast_unsigned());
    let flags = flags | flag(libc::CLONE_PARENT) | flag(libc::CLONE_PARENT_SETTID);
    let clone = Clone {
        flags,
        cgroup: None,
    };
    let made = match clone3_telling(&clone, Some(place)) {
        Err(error) if is_refused(&error) => clone_legacy(flags, Some(place))?,
        made => made?.0,
    };
    let [a, b, c, d, ..] = place.load(Ordering::Relaxed).to_ne_bytes();
    match made {
        Some(_) => Ok(None),
        None => Ok(Some(Pid::from_raw(i32::from_ne_bytes([a, b, c, d])))),
    }
}

/// Has a command made by fork(3). What the standard library takes otherwise,
/// posix_spawn(3), gives up where a filter answers `EPERM` to clone3.
pub fn by_fork(command: &mut std::process::Command) {
    // SAFETY: between fork and exec it does nothing.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, || Ok(())) };
}

/// Whether there is no clone3, as a kernel or a filter says it.
fn is_refused(error: &Error) -> bool {
    matches!(error.errno(), Errno::ENOSYS | Errno::EPERM)
}

/// Makes a child by clone3(2), straight in its namespaces and cgroup: its pid,
/// or in the child `None`, and its pidfd.
fn clone3(clone: &Clone<'_>) -> Result<(Option<Pid>, Option<OwnedFd>)> {
    clone3_telling(clone, None)
}

/// [`clone3`] with the place for `CLONE_PARENT_SETTID`, if that is in the flags.
fn clone3_telling(
    clone: &Clone<'_>,
    place: Option<&'static AtomicU64>,
) -> Result<(Option<Pid>, Option<OwnedFd>)> {
    let describe = || {
        let cgroup = clone
            .cgroup
            .map_or(String::new(), |fd| format!(", cgroup=[{}]", fd.as_raw_fd()));
        format!("clone3({}{cgroup})", clone_flag_names(clone.flags))
    };
    let flag = |flag: i32| u64::from(flag.cast_unsigned());
    if clone.flags & flag(libc::CLONE_VM) != 0 {
        return Err(Error::new(describe(), Errno::EINVAL));
    }
    let mut pidfd: i32 = -1;
    let mut args = libc::clone_args {
        flags: clone.flags | flag(libc::CLONE_PIDFD),
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        child_tid: 0,
        parent_tid: address(place),
        exit_signal: 0,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // With CLONE_PARENT the exit signal is inherited and must not be given.
    if clone.flags & flag(libc::CLONE_PARENT) == 0 {
        args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    }
    if let Some(cgroup) = clone.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: without CLONE_VM the child runs on a copy of this memory and of
    // this stack, as after fork(2); `args` outlives the call and `pidfd` is
    // written, if at all, before it returns; `place` lives for ever. The process is single-threaded
    // (the callers assert it), so no lock is held by a thread that is gone.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            mem::size_of::<libc::clone_args>(),
        )
    };
    let pid = forked(pid).map_err(|errno| Error::new(describe(), errno))?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else
    // knows its number.
    let pidfd = pid.map(|_| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok((pid, pidfd))
}

/// `CLONE_INTO_CGROUP`, which libc gives as a signed constant too small for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a child by clone(2), without a pidfd: the first ones (Linux 5.2) can't
/// be polled.
fn clone_legacy(flags: u64, place: Option<&'static AtomicU64>) -> Result<Option<Pid>> {
    let exit_signal = if flags & u64::from(libc::CLONE_PARENT.cast_unsigned()) == 0 {
        u64::from(libc::SIGCHLD.cast_unsigned())
    } else {
        0
    };
    // SAFETY: as for clone3: no CLONE_VM (checked by the caller's clone3), and a
    // null stack means a copy of this one. The second address is that of the
    // parent's pid on every architecture.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags | exit_signal,
            0,
            address(place),
            0,
            0,
        )
    };
    forked(pid).map_err(|errno| Error::new(format!("clone({})", clone_flag_names(flags)), errno))
}

fn address(place: Option<&'static AtomicU64>) -> u64 {
    place.map_or(0, |place| place.as_ptr().expose_provenance() as u64)
}

/// Reads what a raw clone returned: the pid, or in the child `None`.
fn forked(pid: libc::c_long) -> std::result::Result<Option<Pid>, Errno> {
    match pid {
        0 => Ok(None),
        // A pid is at most 2^22 (proc(5), pid_max).
        pid if pid > 0 => Ok(Some(Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX)))),
        _ => Err(Errno::last()),
    }
}

/// The names of the namespace flags, for messages.
fn clone_flag_names(flags: u64) -> String {
    let names = [
        (libc::CLONE_NEWUSER, "NEWUSER"),
        (libc::CLONE_NEWNS, "NEWNS"),
        (libc::CLONE_NEWPID, "NEWPID"),
        (libc::CLONE_NEWNET, "NEWNET"),
        (libc::CLONE_NEWIPC, "NEWIPC"),
        (libc::CLONE_NEWUTS, "NEWUTS"),
        (libc::CLONE_NEWCGROUP, "NEWCGROUP"),
        (libc::CLONE_PARENT, "PARENT"),
    ];
    let set: Vec<&str> = names
        .into_iter()
        .filter(|(flag, _)| flags & u64::from(flag.cast_unsigned()) != 0)
        .map(|(_, name)| name)
        .collect();
    if set.is_empty() {
        "0".to_owned()
    } else {
        set.join("|")
    }
}

/// Whether this process has exactly one thread.
///
/// # Errors
/// Those of stat(2) on `/proc/self/task`.
pub fn is_single_threaded() -> Result<bool> {
    // A directory's link count is 2 plus its subdirectories: one a thread.
    let stat = call(nix::sys::stat::stat("/proc/self/task"), || {
        "stat(\"/proc/self/task\")".to_owned()
    })?;
    Ok(stat.st_nlink == 3)
}

/// The tasks (threads) of the process `pid`; none if it is gone.
///
/// # Errors
/// Those of reading `/proc/PID/task`.
pub fn tasks(pid: Pid) -> Result<Vec<Pid>> {
    let path = format!("/proc/{pid}/task");
    let gone = |error: &std::io::Error| {
        let errno = error.raw_os_error();
        errno == Some(libc::ENOENT) || errno == Some(libc::ESRCH)
    };
    let entries = match std::fs::read_dir(&path) {
        Err(error) if gone(&error) => return Ok(Vec::new()),
        entries => call(entries, || format!("opendir({path:?})"))?,
    };
    let mut tasks = Vec::new();
    for entry in entries {
        let entry = match entry {
            Err(error) if gone(&error) => break,
            entry => call(entry, || format!("readdir({path:?})"))?,
        };
        let task = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        tasks.extend(task.map(Pid::from_raw));
    }
    Ok(tasks)
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By exit, with this code.
    Exited(u8),
    /// By the signal of this number, which may be a real-time one.
    Killed(u8),
}

impl Ended {
    /// The code that a shell shows: 128 and the number of a signal.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Ended::Exited(code) => code,
            Ended::Killed(signal) => 128 + signal,
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Exited(code) => write!(f, "exit status {code}"),
            Ended::Killed(signal) => match Signal::try_from(i32::from(*signal)) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {signal}"),
            },
        }
    }
}

/// Reaps one child that has ended, if there is one.
///
/// # Errors
/// Those of waitpid, but for `ECHILD`, which reads as none.
pub fn reap_any() -> Result<Option<(Pid, Ended)>> {
    let mut status = 0;
    // SAFETY: the kernel writes one int.
    let waited = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    let pid = match Errno::result(waited) {
        Ok(0) | Err(Errno::ECHILD) => return Ok(None),
        Ok(pid) => Pid::from_raw(pid),
        Err(errno) => return Err(Error::new("waitpid(-1, WNOHANG)", errno)),
    };
    // Both are at most 8 bits wide (wait(2)).
    let narrow = |value: i32| u8::try_from(value).unwrap_or(u8::MAX);
    let ended = if libc::WIFSIGNALED(status) {
        Ended::Killed(narrow(libc::WTERMSIG(status)))
    } else {
        Ended::Exited(narrow(libc::WEXITSTATUS(status)))
    };
    Ok(Some((pid, ended)))
}

/// Whether `pid` is a child of this process that was not reaped yet.
#[must_use]
pub fn is_child(pid: Pid) -> bool {
    super::handle::look(pid).is_ok()
}

/// Makes the kernel kill the program that `command` will start as soon as the
/// thread that starts it ends (prctl(2), PR_SET_PDEATHSIG; execve keeps it).
pub fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;

    let parent = nix::unistd::getpid();
    let before_exec = move || {
        die_with(parent);
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec. It makes three system
    // calls at most, which are async-signal-safe, and neither allocates nor takes
    // a lock.
    unsafe { command.pre_exec(before_exec) };
}

/// How many files a process may have open: the limit that holds, and how far
/// it may raise that by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    soft: u64,
    hard: u64,
}

impl OpenFiles {
    /// Raises our own limit as far as it goes: what it was before.
    ///
    /// # Errors
    /// Those of getrlimit(2) and setrlimit(2).
    pub fn raise() -> Result<Self> {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};

        let resource = Resource::RLIMIT_NOFILE;
        let (soft, hard) = call(getrlimit(resource), || {
            "getrlimit(RLIMIT_NOFILE)".to_owned()
        })?;
        call(setrlimit(resource, hard, hard), || {
            format!("setrlimit(RLIMIT_NOFILE, {hard}, {hard})")
        })?;
        Ok(Self { soft, hard })
    }

    /// The program that `command` will start has this limit.
    pub fn give(self, command: &mut std::process::Command) {
        use std::os::unix::process::CommandExt as _;

        let limit = libc::rlimit {
            rlim_cur: self.soft,
            rlim_max: self.hard,
        };
        let before_exec = move || {
            // SAFETY: the kernel reads one struct, which the closure owns.
            let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
            Errno::result(set).map(drop).map_err(std::io::Error::from)
        };
        // SAFETY: the closure runs between fork and exec. It makes one system call,
        // which is async-signal-safe, and neither allocates nor takes a lock.
        unsafe { command.pre_exec(before_exec) };
    }
}

/// Makes the kernel kill this process as soon as the thread of `parent` that
/// made it ends; if it has ended already, so does this one, now.
pub fn die_with(parent: Pid) {
    // It takes every signal that there is.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    // One that ended before the kernel knew of it is told of no more.
    if nix::unistd::getppid() != parent {
        exit_now(1);
    }
}

/// Gives this process a core scheduling cookie of its own, which its children
/// inherit (Documentation/admin-guide/hw-vuln/core-scheduling.rst).
///
/// # Errors
/// `EINVAL` before Linux 5.14 or without `CONFIG_SCHED_CORE`, `ENODEV` without
/// hardware threads.
pub fn new_core_cookie() -> Result<()> {
    let this_process: libc::c_ulong = 0;
    let nowhere: libc::c_ulong = 0;
    // SAFETY: numbers only; the command CREATE writes to no address.
    let made = unsafe {
        libc::prctl(
            libc::PR_SCHED_CORE,
            libc::PR_SCHED_CORE_CREATE,
            this_process,
            libc::PR_SCHED_CORE_SCOPE_PROCESS_GROUP as libc::c_ulong,
            nowhere,
        )
    };
    call(Errno::result(made).map(drop), || {
        "prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE)".to_owned()
    })
}

/// Sends `signal` to every process of the group `group`.
///
/// # Errors
/// `ESRCH` if it is empty.
pub fn kill_group(group: Pid, signal: Signal) -> Result<()> {
    call(nix::sys::signal::killpg(group, signal), || {
        format!("killpg({group}, {signal})")
    })
}

/// Replaces this process by the program at `path`.
///
/// # Errors
/// Those of execve; on success it does not return.
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> Result<Infallible> {
    call(nix::unistd::execve(path, args, env), || {
        format!("execve({path:?})")
    })
}

/// Replaces this process by the program behind `fd`.
///
/// # Errors
/// Those of execveat; on success it does not return.
pub fn fexecve(fd: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> Result<Infallible> {
    let pointers = |strings: &[CString]| {
        strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([std::ptr::null()])
            .collect::<Vec<_>>()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in a null pointer and they, like the strings
    // that they point to, live across the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    Err(Error::new(
        format!("execveat([{}], \"\")", fd.as_raw_fd()),
        Errno::last(),
    ))
}

/// Nanoseconds of `CLOCK_MONOTONIC` (clock_gettime(2)), the same for every
/// process that is not in a time namespace with an offset; 0 where there is no
/// such clock.
#[must_use]
pub fn monotonic() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| {
        let part = |number: i64| u64::try_from(number).unwrap_or_default();
        part(now.tv_sec()) * 1_000_000_000 + part(now.tv_nsec())
    })
}

/// Ends this process at once: no destructor, no handler, no flush. The one
/// way out of a child.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// When the process started: field 22 of its `/proc/PID/stat`, in clock ticks
/// since boot, which together with the pid identifies it (proc(5)); and its
/// state letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `Z` and so on.
    pub state: char,
    /// Clock ticks since boot.
    pub start_time: u64,
}

/// Reads `/proc/PID/stat`.
///
/// # Errors
/// `ENOENT` or `ESRCH` if the process is gone.
pub fn stat(pid: Pid) -> Result<Stat> {
    let path = format!("/proc/{pid}/stat");
    let text = super::file::read_pseudo_bytes(std::path::Path::new(&path))?;
    parse_stat(&text).ok_or_else(|| Error::new(format!("read({path:?})"), Errno::EINVAL))
}

/// The command's name, in brackets, may hold anything, so fields are counted
/// from the last bracket.
pub(super) fn parse_stat(text: &[u8]) -> Option<Stat> {
    let after = text.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&text[after..])
        .ok()?
        .split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // The state is field 3, the start time field 22.
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_time })
}

/// The working directory as the kernel tells it: without glibc's search for a
/// name where there is none, so that a directory outside of the root shows as
/// `(unreachable)/...` (getcwd(2)).
///
/// # Errors
/// `ENOENT` if it was removed.
pub fn working_directory() -> Result<Vec<u8>> {
    let mut path = vec![0_u8; 4096];
    // SAFETY: the kernel writes at most `len` bytes to the buffer.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) };
    let length = call(Errno::result(length), || "getcwd()".to_owned())?;
    // The length counts the nul.
    path.truncate(usize::try_from(length).unwrap_or(0).saturating_sub(1));
    Ok(path)
}

/// What to wait for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Input, or its end.
    Read,
    /// Room for output.
    Write,
    /// Input, and room for output.
    ReadWrite,
}

/// Waits until one of the descriptors is ready or `timeout_ms` is over (`None`
/// waits for ever). The answer has one pair a descriptor: whether there is
/// input (or an end, or an error), and whether there is room for output.
///
/// # Errors
/// Those of poll(2), but for `EINTR`, which reads as nothing ready.
pub fn poll(
    fds: &[(BorrowedFd<'_>, Interest)],
    timeout_ms: Option<u16>,
) -> Result<Vec<(bool, bool)>> {
    use nix::poll::{PollFd, PollFlags, PollTimeout};
    let mut polled: Vec<PollFd<'_>> = fds
        .iter()
        .map(|(fd, interest)| match interest {
            Interest::Read => PollFd::new(fd.as_fd(), PollFlags::POLLIN),
            Interest::Write => PollFd::new(fd.as_fd(), PollFlags::POLLOUT),
            Interest::ReadWrite => PollFd::new(fd.as_fd(), PollFlags::POLLIN | PollFlags::POLLOUT),
        })
        .collect();
    match nix::poll::poll(
        &mut polled,
        timeout_ms.map_or(PollTimeout::NONE, PollTimeout::from),
    ) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(vec![(false, false); fds.len()]),
        Err(errno) => {
            return Err(Error::new(
                format!("poll({} descriptors)", fds.len()),
                errno,
            ));
        }
    }
    let events = polled
        .iter()
        .map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
    Ok(events
        .map(|events| {
            let input = events - PollFlags::POLLOUT;
            (!input.is_empty(), events.contains(PollFlags::POLLOUT))
        })
        .collect())
}

/// [`poll`] for input alone.
///
/// # Errors
/// Those of [`poll`].
pub fn poll_readable(fds: &[BorrowedFd<'_>], timeout_ms: Option<u16>) -> Result<Vec<bool>> {
    let interests: Vec<_> = fds.iter().map(|fd| (*fd, Interest::Read)).collect();
    Ok(poll(&interests, timeout_ms)?
        .into_iter()
        .map(|(readable, _)| readable)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_reads_as_in_a_shell() {
        for (ended, code, text) in [
            (Ended::Exited(0), 0, "exit status 0"),
            (Ended::Exited(255), 255, "exit status 255"),
            (Ended::Killed(9), 137, "killed by SIGKILL"),
            (Ended::Killed(34), 162, "killed by signal 34"),
        ] {
            assert_eq!((ended.code(), ended.to_string().as_str()), (code, text));
        }
    }

    #[test]
    fn stat_is_read_from_the_last_bracket() {
        let after = b") S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        for name in [&b"sh"[..], b"a b", b"x) R 9 (", b")", b"\xd0\xb6\xd0"] {
            assert_eq!(
                parse_stat(&[b"42 (", name, after].concat()),
                Some(Stat {
                    state: 'S',
                    start_time: 987_654
                }),
                "{name:?}"
            );
        }
        assert_eq!(parse_stat(b"42 (sh) S 1 2"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn a_process_whose_name_is_no_text_has_a_stat() {
        // A thread has a name of its own.
        std::fs::write("/proc/thread-self/comm", b"\xff) S 0").unwrap();
        assert_eq!(stat(nix::unistd::gettid()).unwrap().state, 'R');
    }
}
