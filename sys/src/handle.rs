//! A process by descriptor: held, so that its number can't become another's.
//!
//! That is a pidfd (clone3 and pidfd_open, Linux 5.3). Before it, a child is held
//! by its number, which nobody else gets until we reap it: in whatever pid
//! namespace we are and whether there is a procfs or not. Of another process its
//! directory in procfs is held: the kernel binds that to the process and not to
//! the number, so what is read there is its own or nothing at all. What a pidfd
//! does in one call is done by parts then:
//!
//! ```text
//!                 child                       directory
//! a signal        kill(2), unless reaped      pidfd_send_signal takes it (Linux
//!                                             5.1); before, kill(2), unless reaped
//! its end         looked for, every few milliseconds
//! its exit        waitid(2) by number         -
//! its namespaces  -                           setns(2) for each file in ns/
//! ```

use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use super::process::{Ended, poll_readable};
use super::{Error, Result, call, file, namespace, process};

/// How often the end of a process is looked for that can't be polled.
const TICK_MS: u16 = 5;

/// What names each type of namespace in /proc/PID/ns, the user namespace first:
/// it brings the rights for the others.
const NAMESPACES: [(CloneFlags, &str); 8] = [
    (CloneFlags::CLONE_NEWUSER, "ns/user"),
    (CloneFlags::CLONE_NEWCGROUP, "ns/cgroup"),
    (CloneFlags::CLONE_NEWIPC, "ns/ipc"),
    (CloneFlags::CLONE_NEWUTS, "ns/uts"),
    (CloneFlags::CLONE_NEWNET, "ns/net"),
    (CloneFlags::CLONE_NEWPID, "ns/pid"),
    (CloneFlags::from_bits_retain(libc::CLONE_NEWTIME), "ns/time"),
    (CloneFlags::CLONE_NEWNS, "ns/mnt"),
];

/// A process that is held.
#[derive(Debug)]
pub struct Handle {
    held: Held,
}

#[derive(Debug)]
enum Held {
    Pidfd(OwnedFd),
    /// A child of ours, by its number in our pid namespace.
    Child(Pid),
    /// Its directory in procfs, readable.
    Directory(OwnedFd),
}

impl Handle {
    /// Holds the process that has the number `pid` now.
    ///
    /// # Errors
    /// `ESRCH` if there is none.
    pub fn open(pid: Pid) -> Result<Self> {
        match pidfd_open(pid) {
            // Until Linux 5.3.
            Err(error) if error.errno() == Errno::ENOSYS => Ok(Self {
                held: Held::Directory(open_directory(pid)?),
            }),
            opened => Ok(Self::from_pidfd(opened?)),
        }
    }

    /// [`open`](Self::open) for a child of ours.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_child(pid: Pid) -> Result<Self> {
        match pidfd_open(pid) {
            // Until Linux 5.3; or a filter around us, the container's own where
            // its hooks are run.
            Err(error) if matches!(error.errno(), Errno::ENOSYS | Errno::EPERM) => Ok(Self {
                held: Held::Child(pid),
            }),
            opened => Ok(Self::from_pidfd(opened?)),
        }
    }

    /// The process of a pidfd.
    pub(super) fn from_pidfd(fd: OwnedFd) -> Self {
        Self {
            held: Held::Pidfd(fd),
        }
    }

    /// One more of it.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> Result<Self> {
        let copy = |fd: &OwnedFd| call(fd.try_clone(), || format!("dup([{}])", fd.as_raw_fd()));
        let held = match &self.held {
            Held::Pidfd(fd) => Held::Pidfd(copy(fd)?),
            Held::Child(pid) => Held::Child(*pid),
            Held::Directory(fd) => Held::Directory(copy(fd)?),
        };
        Ok(Self { held })
    }

    /// The descriptor that holds it, if one does: for who closes all others.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.held {
            Held::Pidfd(fd) | Held::Directory(fd) => Some(fd.as_fd()),
            Held::Child(_) => None,
        }
    }

    /// A pidfd, for others.
    ///
    /// # Errors
    /// `ENOSYS` for a process of which there is none.
    pub fn pidfd(&self) -> Result<BorrowedFd<'_>> {
        match &self.held {
            Held::Pidfd(fd) => Ok(fd.as_fd()),
            _ => Err(Error::new("pidfd_open()", Errno::ENOSYS)),
        }
    }

    /// What poll(2) tells the end of the process by, where there is such a thing.
    #[must_use]
    pub fn pollable(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd().ok()
    }

    /// Sends `signal`, a number so that real-time signals can be named; 0 only
    /// checks.
    ///
    /// # Errors
    /// `ESRCH` if the process is gone, `EINVAL` for a number that is no signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let sent = self.descriptor().map(|fd| pidfd_send_signal(fd, signal));
        match sent {
            // Until Linux 5.1. Between the look and the signal the process would
            // have to be reaped and its number be given away.
            None => super::signal::send(self.number()?, signal),
            Some(Err(error)) if error.errno() == Errno::ENOSYS => {
                super::signal::send(self.number()?, signal)
            }
            Some(sent) => sent,
        }
    }

    /// A copy of descriptor `number` of the process (Linux 5.6).
    ///
    /// # Errors
    /// `EPERM` without ptrace access, `EBADF` if it has no such descriptor.
    pub fn copy_descriptor(&self, number: i32) -> Result<OwnedFd> {
        let pidfd = self.pidfd()?.as_raw_fd();
        // SAFETY: three integers in, a new descriptor or -1 out.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, number, 0) };
        taken(fd).map_err(|errno| Error::new(format!("pidfd_getfd([{pidfd}], {number})"), errno))
    }

    /// Waits for the process, a child of ours, to end, and reaps it.
    ///
    /// # Errors
    /// `ECHILD` if it is no child of ours or was reaped before.
    pub fn wait(&self) -> Result<Ended> {
        if let Held::Pidfd(fd) = &self.held {
            match waitid(libc::P_PIDFD, fd.as_raw_fd(), libc::WEXITED) {
                // Until Linux 5.4.
                Err(error) if error.errno() == Errno::EINVAL => {}
                ended => return ended?.ok_or_else(|| Error::new("waitid()", Errno::ECHILD)),
            }
        }
        let number = match self.number() {
            Err(error) if error.errno() == Errno::ESRCH => {
                return Err(Error::new("waitid(P_PID)", Errno::ECHILD));
            }
            number => number?,
        };
        let ended = waitid(libc::P_PID, number.as_raw(), libc::WEXITED)?;
        ended.ok_or_else(|| Error::new("waitid()", Errno::ECHILD))
    }

    /// Waits until the process has ended, one of `others` is readable, or
    /// `timeout_ms` is over (`None` waits for ever): whether it has, and which are.
    ///
    /// # Errors
    /// Those of poll(2), but for `EINTR`, which reads as nothing ready.
    pub fn poll_end(
        &self,
        others: &[BorrowedFd<'_>],
        timeout_ms: Option<u16>,
    ) -> Result<(bool, Vec<bool>)> {
        if let Some(pidfd) = self.pollable() {
            let mut watched = vec![pidfd];
            watched.extend(others);
            let mut ready = poll_readable(&watched, timeout_ms)?;
            return Ok((ready.remove(0), ready));
        }
        let begin = Instant::now();
        let limit = timeout_ms.map(|limit| Duration::from_millis(limit.into()));
        loop {
            let left = limit.map(|limit| limit.saturating_sub(begin.elapsed()));
            let left = left.map(|left| u16::try_from(left.as_millis()).unwrap_or(u16::MAX));
            let ended = self.has_ended()?;
            let wait = match ended {
                true => 0,
                false => left.unwrap_or(TICK_MS).min(TICK_MS),
            };
            let ready = poll_readable(others, Some(wait))?;
            if ended || left == Some(0) || ready.contains(&true) {
                return Ok((ended, ready));
            }
        }
    }

    /// Whether it runs no more.
    fn has_ended(&self) -> Result<bool> {
        let directory = match &self.held {
            Held::Directory(directory) => directory,
            Held::Child(pid) => {
                return match look(*pid) {
                    Err(error) if error.errno() == Errno::ECHILD => Ok(true),
                    ended => Ok(ended?.is_some()),
                };
            }
            Held::Pidfd(_) => return Ok(self.poll_end(&[], Some(0))?.0),
        };
        match stat(directory) {
            Ok((_, stat)) => Ok(matches!(stat.state, 'Z' | 'X' | 'x')),
            Err(error) if error.errno() == Errno::ESRCH => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Moves this process into those namespaces of the process that `flags` says:
    /// for `CLONE_NEWPID` its children.
    ///
    /// # Errors
    /// `EINVAL` for a namespace that it is in already, `EPERM` without the right.
    pub fn enter(&self, flags: CloneFlags) -> Result<()> {
        if let Held::Pidfd(fd) = &self.held {
            match namespace::setns(fd.as_fd(), flags) {
                // Until Linux 5.8.
                Err(error) if error.errno() == Errno::EINVAL => {}
                entered => return entered,
            }
        }
        // All of them first: behind the first there may be no procfs.
        for (file, flag) in self.open_namespaces(flags)? {
            namespace::setns(file.as_fd(), flag)?;
        }
        Ok(())
    }

    /// Opens its namespaces that `flags` says, for another process to enter them.
    ///
    /// # Errors
    /// `ESRCH` if it has ended, `EACCES` without the right to look into it.
    pub fn open_namespaces(&self, flags: CloneFlags) -> Result<Vec<(OwnedFd, CloneFlags)>> {
        let opened;
        let directory = match &self.held {
            Held::Directory(directory) => directory,
            _ => {
                opened = open_directory(self.number()?)?;
                // Only now: if it still lives, the number was its all the time.
                self.signal(0)?;
                &opened
            }
        };
        let wanted = NAMESPACES.iter().filter(|(flag, _)| flags.contains(*flag));
        let open = |(flag, name): &(CloneFlags, &str)| {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            let file = nix::fcntl::openat(directory, *name, flags, Mode::empty());
            let number = directory.as_raw_fd();
            let file = call(file, || format!("openat([{number}]</proc/PID>, {name:?})"))?;
            Ok((file, *flag))
        };
        wanted.map(open).collect()
    }

    /// Its number, while it is not reaped.
    fn number(&self) -> Result<Pid> {
        let fd = match &self.held {
            Held::Directory(directory) => return Ok(stat(directory)?.0),
            Held::Child(pid) => match look(*pid) {
                Err(error) if error.errno() == Errno::ECHILD => {
                    return Err(Error::new(format!("kill({pid})"), Errno::ESRCH));
                }
                looked => return looked.map(|_| *pid),
            },
            Held::Pidfd(fd) => fd,
        };
        let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
        let text = file::read_pseudo(Path::new(&path))?;
        let number = text.lines().find_map(|line| line.strip_prefix("Pid:"));
        // -1 once it is reaped, 0 outside of our pid namespace.
        match number.and_then(|number| number.trim().parse().ok()) {
            Some(number) if number > 0 => Ok(Pid::from_raw(number)),
            _ => Err(Error::new(format!("read({path:?})"), Errno::ESRCH)),
        }
    }
}

/// The directory of the process `pid` in procfs.
fn open_directory(pid: Pid) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}");
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match nix::fcntl::open(Path::new(&path), flags, Mode::empty()) {
        Err(Errno::ENOENT) => Err(Error::new(format!("open({path:?})"), Errno::ESRCH)),
        opened => call(opened, || format!("open({path:?})")),
    }
}

/// The number and the `stat` of the process of which `directory` is.
fn stat(directory: &OwnedFd) -> Result<(Pid, process::Stat)> {
    let describe = || format!("read([{}]</proc/PID>, \"stat\")", directory.as_raw_fd());
    let gone = |errno| match errno {
        Errno::ENOENT => Errno::ESRCH,
        errno => errno,
    };
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::openat(directory, "stat", flags, Mode::empty());
    let fd = call(fd.map_err(gone), describe)?;
    // Less than a page, and read at once.
    let mut text = [0_u8; 4096];
    let length = call(nix::unistd::read(&fd, &mut text).map_err(gone), describe)?;
    let text = &text[..length];
    let number = text.split(|byte| *byte == b' ').next();
    let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
    match (number, process::parse_stat(text)) {
        (Some(number), Some(stat)) => Ok((Pid::from_raw(number), stat)),
        _ => Err(Error::new(describe(), Errno::EINVAL)),
    }
}

/// A pidfd of the process `pid` (Linux 5.3); `ESRCH` if there is none.
fn pidfd_open(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: two integers in, a new descriptor or -1 out.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    taken(fd).map_err(|errno| {
        // Of a leader that is gone and whose number lives on, as that of a session
        // or of a thread: until Linux 6.14 it is the one, since then the other.
        let gone = matches!(errno, Errno::EINVAL | Errno::ENOENT);
        let errno = if gone { Errno::ESRCH } else { errno };
        Error::new(format!("pidfd_open({pid})"), errno)
    })
}

/// What a call returned that makes a descriptor.
fn taken(fd: libc::c_long) -> std::result::Result<OwnedFd, Errno> {
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Errno::last()),
    }
}

/// pidfd_send_signal(2), which takes a directory of procfs as well.
fn pidfd_send_signal(fd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: integers and a null siginfo, which the kernel fills in itself.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    call(Errno::result(sent).map(drop), || {
        format!("pidfd_send_signal([{}], {signal})", fd.as_raw_fd())
    })
}

/// How our child `pid` ended, if it has; it is not reaped.
pub(super) fn look(pid: Pid) -> Result<Option<Ended>> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    waitid(libc::P_PID, pid.as_raw(), options)
}

/// Waits for a child to end, or with `WNOHANG` looks whether it has.
fn waitid(by: libc::idtype_t, id: i32, options: i32) -> Result<Option<Ended>> {
    // SAFETY: siginfo_t is integers and pointers that are never followed; all
    // zero is a value.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    let number = libc::id_t::from(id.cast_unsigned());
    loop {
        // SAFETY: the kernel writes one siginfo_t.
        let waited = unsafe { libc::waitid(by, number, &raw mut info, options) };
        match Errno::result(waited) {
            Err(Errno::EINTR) => {}
            Err(errno) => {
                let text = match by {
                    libc::P_PIDFD => format!("waitid(P_PIDFD, [{id}])"),
                    _ => format!("waitid(P_PID, {id})"),
                };
                return Err(Error::new(text, errno));
            }
            Ok(_) => break,
        }
    }
    // SAFETY: after a successful waitid these are the fields of a SIGCHLD, or all
    // zero where nobody has ended.
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    if pid == 0 {
        return Ok(None);
    }
    let status = u8::try_from(status & 0xff).unwrap_or(u8::MAX);
    Ok(Some(if info.si_code == libc::CLD_EXITED {
        Ended::Exited(status)
    } else {
        Ended::Killed(status)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Clone, Forked, exit_now, fork};

    fn child() -> (Pid, Handle) {
        match fork(&Clone::default()).unwrap() {
            Forked::Parent(pid, handle) => (pid, handle),
            Forked::Child => loop {
                if nix::unistd::getppid().as_raw() == 1 {
                    exit_now(0);
                }
                std::thread::sleep(Duration::from_millis(20));
            },
        }
    }

    #[test]
    fn a_child_is_held_by_a_pidfd_its_number_or_its_directory() {
        for kind in ["pidfd", "number", "directory"] {
            let (pid, _born) = child();
            let held = match kind {
                "pidfd" => Handle::open(pid).unwrap(),
                "number" => by_number(pid),
                _ => by_directory(pid),
            };
            assert_eq!(held.number().unwrap(), pid, "{kind}");
            assert_eq!(held.pidfd().is_ok(), kind == "pidfd");
            assert_eq!(held.descriptor().is_some(), kind != "number");
            held.signal(0).unwrap();
            assert_eq!(held.poll_end(&[], Some(0)).unwrap(), (false, vec![]));
            held.signal(libc::SIGKILL).unwrap();
            assert_eq!(held.poll_end(&[], None).unwrap(), (true, vec![]));
            assert_eq!(held.wait().unwrap(), Ended::Killed(9), "{kind}");
            // Reaped: its number may be anybody's by now.
            let errno = |error: Error| error.errno();
            assert_eq!(held.signal(0).map_err(errno), Err(Errno::ESRCH), "{kind}");
            assert_eq!(held.number().map_err(errno), Err(Errno::ESRCH), "{kind}");
            assert_eq!(held.wait().map_err(errno), Err(Errno::ECHILD), "{kind}");
            assert_eq!(held.poll_end(&[], None).unwrap(), (true, vec![]));
        }
    }

    fn by_number(pid: Pid) -> Handle {
        Handle {
            held: Held::Child(pid),
        }
    }

    fn by_directory(pid: Pid) -> Handle {
        Handle {
            held: Held::Directory(open_directory(pid).unwrap()),
        }
    }

    #[test]
    fn who_waits_for_an_end_sees_other_input() {
        let (pid, born) = child();
        for held in [&born, &by_number(pid), &by_directory(pid)] {
            let (read, write) = crate::descriptors::pipe().unwrap();
            let silent = held.poll_end(&[read.as_fd()], Some(12)).unwrap();
            assert_eq!(silent, (false, vec![false]));
            drop(write);
            let ended = held.poll_end(&[read.as_fd()], None).unwrap();
            assert_eq!(ended, (false, vec![true]));
        }
        born.signal(libc::SIGKILL).unwrap();
        born.wait().unwrap();
    }

    #[test]
    fn who_is_gone_is_not_held() {
        let (pid, born) = child();
        born.signal(libc::SIGKILL).unwrap();
        born.wait().unwrap();
        let errno = |error: Error| error.errno();
        assert_eq!(
            Handle::open(pid).map(drop).map_err(errno),
            Err(Errno::ESRCH)
        );
        let gone = open_directory(pid).map(drop).map_err(errno);
        assert_eq!(gone, Err(Errno::ESRCH));
    }
}
