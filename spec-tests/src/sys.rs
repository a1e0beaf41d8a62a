//! The few calls that need `unsafe`: raw system calls whose errno is the
//! fact under test, terminal ioctls, and what a spawned process does
//! between fork and exec.
#![allow(
    unsafe_code,
    reason = "the one module of this crate that may; see each SAFETY"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A raw system call: its result, or the errno.
///
/// # Errors
/// The errno as the kernel gave it.
pub fn raw(number: i64, args: [i64; 6]) -> Result<i64, i32> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the callers pass integers, descriptors and addresses of live
    // C strings; a wrong address is answered with EFAULT by the kernel, and
    // the calls used here write no memory of ours except by such addresses.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 {
        Err(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        Ok(result)
    }
}

/// A system call as a 32-bit x86 program makes it, by its number there; None
/// where no such program runs.
pub fn call_32_bit(number: i32) -> Option<i32> {
    #[cfg(target_arch = "x86_64")]
    {
        let mut result = i64::from(number);
        // SAFETY: the numbers used here take no argument. Where the kernel has no
        // such calls this is a fault that kills the process, as the caller knows.
        unsafe {
            std::arch::asm!("int 0x80", inout("rax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        i32::try_from(result).ok()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = number;
        None
    }
}

/// When a call is refused.
#[derive(Clone, Copy, Debug)]
enum When {
    /// Always.
    Always,
    /// If its first argument is this.
    First(u32),
    /// If its second argument has more than one bit.
    SecondHasBits,
}

/// A call that an older kernel does not have, or not in this form.
#[derive(Clone, Copy, Debug)]
struct Young {
    /// What `WITHOUT` calls it.
    name: &'static str,
    number: i64,
    when: When,
    /// As strace names the call, what else stands in its line, and the errno.
    answer: Answer,
}

/// How strace shows a call that is refused.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The call's name.
    pub call: &'static str,
    /// What tells this form of it from others.
    pub with: &'static str,
    /// The errno's name.
    pub errno: &'static str,
}

const fn young(name: &'static str, number: i64) -> Young {
    Young {
        name,
        number,
        when: When::Always,
        answer: Answer {
            call: name,
            with: "(",
            errno: "ENOSYS",
        },
    }
}

/// A form of an older call that is refused as one with a wrong argument.
const fn form(
    name: &'static str,
    number: i64,
    when: When,
    (call, with): (&'static str, &'static str),
) -> Young {
    let errno = "EINVAL";
    Young {
        name,
        number,
        when,
        answer: Answer { call, with, errno },
    }
}

const YOUNG: [Young; 12] = [
    young("openat2", libc::SYS_openat2),
    young("clone3", libc::SYS_clone3),
    young("close_range", libc::SYS_close_range),
    young("mount_setattr", libc::SYS_mount_setattr),
    young("fsopen", libc::SYS_fsopen),
    young("open_tree", libc::SYS_open_tree),
    young("move_mount", libc::SYS_move_mount),
    young("pidfd_open", libc::SYS_pidfd_open),
    young("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    // With a pidfd (Linux 5.4): P_PIDFD is 3.
    form(
        "waitid_pidfd",
        libc::SYS_waitid,
        When::First(3),
        ("waitid", "P_PIDFD"),
    ),
    // With a pidfd (Linux 5.8): only that takes several types at once.
    form(
        "setns_pidfd",
        libc::SYS_setns,
        When::SecondHasBits,
        ("setns", "|"),
    ),
    // With PR_SET_MM, which is 35: a kernel without checkpoint and restore, or
    // rights that don't suffice.
    form(
        "prctl_set_mm",
        libc::SYS_prctl,
        When::First(35),
        ("prctl", "PR_SET_MM"),
    ),
];

/// The errno that a filter around us has for calls that it does not know, where it
/// is not the kernel's: old ones of Docker and libseccomp.
pub const FILTERS: &str = "=EPERM";

/// The call of this name, and whether it is a filter that refuses it.
fn find(name: &str) -> (&'static Young, bool) {
    let filtered = name.strip_suffix(FILTERS);
    let call = filtered.unwrap_or(name);
    let found = YOUNG.iter().find(|young| young.name == call);
    let young =
        found.unwrap_or_else(|| panic!("WITHOUT={name}: none of {:?}", YOUNG.map(|one| one.name)));
    (young, filtered.is_some())
}

/// How strace shows that a call of `WITHOUT` is refused.
///
/// # Panics
/// For a name that is none.
pub fn answer(name: &str) -> Answer {
    match find(name) {
        (young, false) => young.answer,
        (young, true) => Answer {
            errno: "EPERM",
            ..young.answer
        },
    }
}

/// Makes these system calls answer as under a kernel that does not know them, or
/// with `=EPERM` behind a name under such a filter, for this process and all that it starts; and sees that they do.
///
/// # Panics
/// For a name that is none, when the kernel takes no filter, and when a call is
/// answered otherwise.
pub fn refuse(names: &[String]) {
    let code = |code: u32| u16::try_from(code).expect("a class of instructions");
    let load = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
    let equal = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    let answer = code(libc::BPF_RET | libc::BPF_K);
    let copy = code(libc::BPF_MISC | libc::BPF_TAX);
    let subtract = code(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_K);
    let and = code(libc::BPF_ALU | libc::BPF_AND | libc::BPF_X);
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let refusal = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
    // struct seccomp_data: the number, then from 16 on the arguments; their
    // lower halves come first (the supported architectures are little-endian).
    let mut filter = vec![step(load, 0, 0, 0)];
    for (young, filtered) in names.iter().map(|name| find(name)) {
        let number = u32::try_from(young.number).expect("a number of a system call");
        match young.when {
            When::Always => filter.extend([
                step(equal, 0, 1, number),
                step(answer, 0, 0, refusal(missing(filtered))),
            ]),
            When::First(value) => filter.extend([
                step(equal, 0, 4, number),
                step(load, 0, 0, 16),
                step(equal, 0, 1, value),
                step(answer, 0, 0, refusal(libc::EINVAL)),
                step(load, 0, 0, 0),
            ]),
            When::SecondHasBits => filter.extend([
                step(equal, 0, 7, number),
                step(load, 0, 0, 24),
                step(copy, 0, 0, 0),
                step(subtract, 0, 0, 1),
                step(and, 0, 0, 0),
                step(equal, 1, 0, 0),
                step(answer, 0, 0, refusal(libc::EINVAL)),
                step(load, 0, 0, 0),
            ]),
        }
    }
    filter.push(step(answer, 0, 0, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).expect("a short filter"),
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its instructions live across the call, which copies
    // them.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
            0,
            0,
        )
    };
    assert_eq!(set, 0, "seccomp: {}", io::Error::last_os_error());
    for (young, filtered) in names.iter().map(|name| find(name)) {
        // A descriptor that is not open, and two types of namespaces.
        let (args, errno) = match young.when {
            When::Always => ([i64::from(i32::MAX), 0, 0, 0, 0, 0], missing(filtered)),
            When::First(value) => ([value.into(), 1 << 30, 0, 0, 0, 0], libc::EINVAL),
            When::SecondHasBits => ([1 << 30, 0x0c00_0000, 0, 0, 0, 0], libc::EINVAL),
        };
        let answered = raw(young.number, args);
        assert_eq!(answered, Err(errno), "{young:?} is not refused");
    }
}

/// How a call is refused that is not there at all.
fn missing(filtered: bool) -> i32 {
    if filtered { libc::EPERM } else { libc::ENOSYS }
}

/// Rows and columns of a terminal, None when `fd` is none.
pub fn window(fd: i32) -> Option<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one winsize, which `size` is.
    let result = unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0).then_some((size.ws_row, size.ws_col))
}

/// How many bytes of a pipe wait to be read.
///
/// # Panics
/// When `fd` is no pipe.
pub fn unread(fd: BorrowedFd<'_>) -> i32 {
    let mut count = 0;
    // SAFETY: FIONREAD writes one int, which `count` is.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    assert_eq!(result, 0, "FIONREAD: {}", io::Error::last_os_error());
    count
}

/// Sets rows and columns of a terminal.
///
/// # Panics
/// When `fd` is not a terminal.
pub fn resize(fd: BorrowedFd<'_>, rows: u16, columns: u16) {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize, which `size` is.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    assert_eq!(result, 0, "TIOCSWINSZ: {}", io::Error::last_os_error());
}

/// What a spawned process does before exec.
pub enum Before {
    /// Becomes the leader of a session whose controlling terminal is stdin.
    Terminal,
    /// Ignores this signal (exec keeps that).
    Ignore(i32),
    /// Blocks this signal (exec keeps that).
    Block(i32),
    /// Holds this descriptor as this number, open over exec.
    Descriptor(OwnedFd, i32),
    /// Sets this umask.
    Umask(u32),
    /// May run on this CPU alone (fork and exec keep that).
    Cpu(u32),
    /// Has these system calls refused, if it may ask for that.
    Refuse(Vec<String>),
    /// Gets SIGTERM when the process that made it ends.
    EndWithParent,
    /// Is traced by the process that made it.
    Traced,
    /// Sees these files in the place of others, in a mount namespace of its own:
    /// pairs of what is seen and where, which may lead over `/proc/self`.
    Instead(Vec<(CString, CString)>),
}

/// Adds a step between fork and exec.
///
/// # Panics
/// When there are no descriptors left.
pub fn before(command: &mut Command, step: Before) {
    // Far from the numbers that are wanted, so that no dup2 hits a source.
    let step = match step {
        Before::Descriptor(fd, number) => {
            let far = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(200));
            Before::Descriptor(own(far.expect("F_DUPFD_CLOEXEC")), number)
        }
        other => other,
    };
    let step = move || match &step {
        Before::Terminal => {
            // SAFETY: setsid takes nothing and is async-signal-safe.
            unsafe { libc::setsid() };
            // SAFETY: TIOCSCTTY takes an integer.
            check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })
        }
        Before::Ignore(signal) => {
            // SAFETY: SIG_IGN is no function of ours; async-signal-safe.
            unsafe { libc::signal(*signal, libc::SIG_IGN) };
            Ok(())
        }
        Before::Block(signal) => {
            // SAFETY: an all-zero sigset_t is a valid value.
            let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
            // SAFETY: `set` is a valid sigset_t.
            unsafe { libc::sigaddset(&raw mut set, *signal) };
            // SAFETY: the kernel copies `set` before it returns.
            check(unsafe {
                libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
            })
        }
        Before::Descriptor(fd, number) => {
            // SAFETY: dup2 of a descriptor that the closure owns.
            check(unsafe { libc::dup2(fd.as_raw_fd(), *number) })
        }
        Before::Umask(mask) => {
            // SAFETY: umask takes an integer and can't fail.
            unsafe { libc::umask(*mask) };
            Ok(())
        }
        Before::Cpu(number) => {
            let mut mask = [0_u64; 128];
            mask[*number as usize / 64] = 1 << (number % 64);
            let place = mask.as_ptr() as i64;
            let set = raw(libc::SYS_sched_setaffinity, [0, 1024, place, 0, 0, 0]);
            set.map(drop).map_err(io::Error::from_raw_os_error)
        }
        Before::Traced => {
            let traced = raw(
                libc::SYS_ptrace,
                [i64::from(libc::PTRACE_TRACEME), 0, 0, 0, 0, 0],
            );
            traced.map(drop).map_err(io::Error::from_raw_os_error)
        }
        Before::Instead(files) => {
            // SAFETY: unshare takes an integer.
            check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
            bind(None, c"/", libc::MS_REC | libc::MS_PRIVATE)?;
            files
                .iter()
                .try_for_each(|(file, place)| bind(Some(file), place, libc::MS_BIND))
        }
        Before::Refuse(names) => {
            if nix::unistd::geteuid().is_root() {
                refuse(names);
            }
            Ok(())
        }
        Before::EndWithParent => {
            // SAFETY: prctl with integers.
            check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) })
        }
    };
    // SAFETY: every step above is async-signal-safe: plain system calls; but for
    // `Refuse`, which allocates, and glibc lets a fork do that.
    unsafe { command.pre_exec(step) };
}

/// mount(2) without a type and data.
fn bind(source: Option<&CStr>, target: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let null = std::ptr::null();
    let source = source.map_or(null, CStr::as_ptr);
    // SAFETY: the kernel copies the strings, which live until it has returned.
    check(unsafe { libc::mount(source, target.as_ptr(), null, flags, null.cast()) })
}

fn check(result: i32) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Forks a process that runs `child` and leaves with its answer as status.
/// The caller must be single-threaded.
///
/// # Panics
/// When fork fails.
pub fn fork(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the callers (the probe and a case process) are single-threaded.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
    if pid == 0 {
        let status = child();
        // SAFETY: leaves at once, no destructors wanted.
        unsafe { libc::_exit(status) };
    }
    pid
}

/// The session's terminal as (st_rdev major, minor), None without one.
pub fn controlling_terminal() -> Option<String> {
    std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| {
            let number: u64 = stat.rsplit(") ").next()?.split(' ').nth(4)?.parse().ok()?;
            (number != 0).then(|| format!("{}:{}", libc::major(number), libc::minor(number)))
        })
}

/// Takes over a descriptor that the kernel just made for us.
pub fn own(fd: i32) -> OwnedFd {
    // SAFETY: it came with SCM_RIGHTS and nobody else owns it.
    unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) }
}

/// The effective capabilities of this process, as the kernel's bits.
pub fn capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0)
}

/// Makes every permitted capability of this thread effective again, as after
/// its effective uid was given away.
///
/// # Panics
/// When the kernel refuses.
pub fn raise_capabilities() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Default, Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let mut header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    let arguments = [&raw mut header as i64, data.as_mut_ptr() as i64, 0, 0, 0, 0];
    raw(libc::SYS_capget, arguments).expect("capget");
    for part in &mut data {
        part.effective = part.permitted;
    }
    raw(libc::SYS_capset, arguments).expect("capset");
}
