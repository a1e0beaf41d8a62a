//! A command with one fault in it, by ptrace(2): killed as it enters the Nth
//! system call of one of its processes, or that call fails. The program is the one
//! that users get; nothing in it knows of the test.
//!
//! ```text
//!   case -- fork --> tracer -- spawn --> the command       process 0
//!                      |                   its children    1, 2, ... as they are born
//!                      |  counts the calls of each, acts at the point
//!                      |  ends with process 0: who lives on is traced no more
//! ```
//!
//! A process that executes another program (the container's, a hook) is let go
//! there; the command itself is followed when it executes its own program once more,
//! or a copy of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sys;

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; the call is not made.
    Kill,
    /// The call is not made and gives this error.
    Error(Errno),
}

/// A system call of a command: which process makes it, and its number there, both
/// from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// 0 is the command, 1 its first child.
    pub process: usize,
    /// The how-manieth call.
    pub call: usize,
}

/// How a command went.
#[derive(Debug)]
pub struct Traced {
    /// Its exit code, 128 and the signal for one that was killed.
    pub code: i32,
    /// Whether it came to the point, and the fault happened.
    pub happened: bool,
    /// The numbers of the calls that each process made.
    pub calls: Vec<Vec<i64>>,
}

/// Runs `command` to its end with `fault` at `point`, or with none; `notes` is a
/// file for the tracer's report.
///
/// # Panics
/// When tracing is not possible.
pub fn run(mut command: Command, fault: Option<(Point, Fault)>, notes: &Path) -> Traced {
    let _ = fs::remove_file(notes);
    sys::before(&mut command, sys::Before::Traced);
    let tracer = sys::fork(|| {
        let mut tracer = Tracer::new(fault);
        let code = tracer.trace(&mut command);
        let calls = tracer.calls.iter().map(|calls| {
            let words: Vec<String> = calls.iter().map(ToString::to_string).collect();
            words.join(" ") + "\n"
        });
        let report: String = calls.collect();
        let head = format!("{code} {}", tracer.happened);
        i32::from(fs::write(notes, format!("{head}\n{report}")).is_err())
    });
    let ended = waitpid(Pid::from_raw(tracer), None).expect("wait for the tracer");
    assert_eq!(ended, WaitStatus::Exited(Pid::from_raw(tracer), 0));
    let report = fs::read_to_string(notes).expect("the tracer's report");
    let mut lines = report.lines();
    let head = lines.next().and_then(|line| line.split_once(' '));
    let (code, happened) = head.expect("the tracer's first line");
    Traced {
        code: code.parse().expect("a code"),
        happened: happened == "true",
        calls: lines
            .map(|line| {
                line.split(' ')
                    .filter_map(|word| word.parse().ok())
                    .collect()
            })
            .collect(),
    }
}

/// Calls that the C library and Rust's make for themselves, which don't go on
/// without them, and those that can't fail.
pub fn never_fails(number: i64) -> bool {
    [
        libc::SYS_arch_prctl,
        libc::SYS_brk,
        libc::SYS_close,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_futex,
        libc::SYS_getrandom,
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_poll,
        libc::SYS_prlimit64,
        libc::SYS_rseq,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sched_getaffinity,
        libc::SYS_set_robust_list,
        libc::SYS_set_tid_address,
        libc::SYS_sigaltstack,
        libc::SYS_umask,
    ]
    .contains(&number)
}

struct Tracer {
    fault: Option<(Point, Fault)>,
    happened: bool,
    /// The command, and whether it has executed itself once more.
    main: Pid,
    program: PathBuf,
    again: bool,
    /// The place of each process in `calls`.
    order: BTreeMap<i32, usize>,
    calls: Vec<Vec<i64>>,
    /// Who has not come to its first stop yet.
    unborn: BTreeSet<i32>,
    /// Who is inside a call, and with what error to leave it.
    inside: BTreeMap<i32, Option<Errno>>,
}

impl Tracer {
    fn new(fault: Option<(Point, Fault)>) -> Tracer {
        Tracer {
            fault,
            happened: false,
            main: Pid::from_raw(0),
            program: PathBuf::new(),
            again: false,
            order: BTreeMap::new(),
            calls: Vec::new(),
            unborn: BTreeSet::new(),
            inside: BTreeMap::new(),
        }
    }

    /// Runs the command; its exit code.
    fn trace(&mut self, command: &mut Command) -> i32 {
        #[allow(clippy::zombie_processes, reason = "waitpid below reaps it")]
        let main = command.spawn().expect("the command");
        let main = Pid::from_raw(main.id().cast_signed());
        self.main = main;
        self.program = command.get_program().into();
        self.number(main);
        waitpid(main, None).expect("the stop behind execve");
        self.unborn.clear();
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC;
        ptrace::setoptions(main, options).expect("PTRACE_SETOPTIONS");
        go_on(main, None);
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Err(Errno::EINTR) => continue,
                status => status.expect("wait for the traced"),
            };
            match status {
                WaitStatus::Exited(pid, code) if pid == main => {
                    self.release_the_unborn();
                    return code;
                }
                WaitStatus::Signaled(pid, signal, _) if pid == main => {
                    self.release_the_unborn();
                    return 128 + signal as i32;
                }
                WaitStatus::PtraceSyscall(pid) => self.call(pid),
                WaitStatus::PtraceEvent(pid, _, event) => self.event(pid, event),
                // A new process begins with a stop.
                WaitStatus::Stopped(pid, Signal::SIGSTOP) => {
                    self.number(pid);
                    self.unborn.remove(&pid.as_raw());
                    go_on(pid, None);
                }
                WaitStatus::Stopped(pid, signal) => go_on(pid, Some(signal)),
                _ => {}
            }
        }
    }

    fn event(&mut self, pid: Pid, event: i32) {
        if event == libc::PTRACE_EVENT_EXEC {
            let first = pid == self.main && !std::mem::replace(&mut self.again, true);
            if first && is_itself(pid, &self.program) {
                return go_on(pid, None);
            }
            let _ = ptrace::detach(pid, None);
            return;
        }
        if let Ok(child) = ptrace::getevent(pid) {
            self.number(Pid::from_raw(i32::try_from(child).unwrap_or(0)));
        }
        go_on(pid, None);
    }

    fn number(&mut self, pid: Pid) -> usize {
        let next = self.calls.len();
        let at = *self.order.entry(pid.as_raw()).or_insert(next);
        if at == next {
            self.calls.push(Vec::new());
            self.unborn.insert(pid.as_raw());
        }
        at
    }

    /// A process that ptrace begins with a stop would stop for good without its
    /// tracer.
    fn release_the_unborn(&self) {
        for pid in self.unborn.iter().copied().map(Pid::from_raw) {
            if let Ok(WaitStatus::Stopped(..)) = waitpid(pid, Some(WaitPidFlag::__WALL)) {
                let _ = ptrace::detach(pid, None);
            }
        }
    }

    /// At the entry of a call, or at its end.
    fn call(&mut self, pid: Pid) {
        let Ok(mut registers) = ptrace::getregs(pid) else {
            return;
        };
        if let Some(error) = self.inside.remove(&pid.as_raw()) {
            if let Some(error) = error {
                registers.rax = i64::from(-(error as i32)).cast_unsigned();
                let _ = ptrace::setregs(pid, registers);
            }
            return go_on(pid, None);
        }
        let process = self.number(pid);
        let call = self.calls[process].len();
        self.calls[process].push(registers.orig_rax.cast_signed());
        let fault = self
            .fault
            .filter(|(point, _)| *point == Point { process, call });
        let error = match fault {
            Some((_, Fault::Kill)) => {
                self.happened = true;
                let _ = kill(pid, Signal::SIGKILL);
                return;
            }
            // Not every run makes the same calls: a close that fails and leaves the
            // descriptor open is a fault that no kernel has.
            Some((_, Fault::Error(error))) if !never_fails(registers.orig_rax.cast_signed()) => {
                self.happened = true;
                registers.orig_rax = u64::MAX;
                let _ = ptrace::setregs(pid, registers);
                Some(error)
            }
            Some(_) | None => None,
        };
        self.inside.insert(pid.as_raw(), error);
        go_on(pid, None);
    }
}

/// Whether a process executes what it was before: the runtime's file, by whatever
/// mount, or a sealed copy of it in memory.
fn is_itself(pid: Pid, program: &Path) -> bool {
    let exe = format!("/proc/{pid}/exe");
    let in_memory = Path::new("/memfd:rrun (deleted)");
    if fs::read_link(&exe).is_ok_and(|link| link == in_memory) {
        return true;
    }
    let file = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    file(Path::new(&exe)).is_ok_and(|exe| file(program).is_ok_and(|program| exe == program))
}

/// To its next call. Who was killed meanwhile needs no word.
fn go_on(pid: Pid, signal: Option<Signal>) {
    let _ = ptrace::syscall(pid, signal);
}
