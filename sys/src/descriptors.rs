//! Descriptors: closed in ranges, duplicated, passed over sockets.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    recvmsg, sendmsg,
};

use super::{Error, Result, call};

/// What [`close_range`] does with the descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseRange {
    /// Close them now.
    Close,
    /// Let the next execve close them (Linux 5.11).
    OnExec,
}

/// Closes the descriptors `first..=last`, also those that nobody knows of.
///
/// Only for a process that is about to start another program, or for a child
/// that leaves behind what its parent had open: an [`OwnedFd`] in the range
/// must be forgotten and not dropped afterwards.
///
/// # Errors
/// Those of the fallback's open and readdir on `/proc/self/fd`.
pub fn close_range(first: RawFd, last: RawFd, how: CloseRange) -> Result<()> {
    if first > last {
        return Ok(());
    }
    let flags = match how {
        CloseRange::Close => 0,
        CloseRange::OnExec => libc::CLOSE_RANGE_CLOEXEC,
    };
    // SAFETY: integers only; what the closed descriptors meant to their owners
    // is the caller's promise above.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    match Errno::result(closed) {
        Ok(_) => Ok(()),
        // Until Linux 5.9 (5.11 with CLOEXEC), or behind a filter.
        Err(Errno::ENOSYS | Errno::EINVAL | Errno::EPERM) => close_listed(first, last, how),
        Err(errno) => Err(Error::new(
            format!("close_range({first}, {last}, {flags})"),
            errno,
        )),
    }
}

/// Closes every descriptor from `first` on but those of `keep`, as [`close_range`]
/// does.
///
/// # Errors
/// Those of [`close_range`].
pub fn close_all_but(keep: &[BorrowedFd<'_>], mut first: RawFd) -> Result<()> {
    let mut numbers: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    numbers.sort_unstable();
    for number in numbers {
        if number < first {
            continue;
        }
        close_range(first, number - 1, CloseRange::Close)?;
        first = number + 1;
    }
    close_range(first, i32::MAX, CloseRange::Close)
}

/// [`close_range`] one by one: those in `/proc/self/fd`, or all there can be
/// where no procfs lists them. A container's root may have anything there.
///
/// # Errors
/// Those of [`listed`].
fn close_listed(first: RawFd, last: RawFd, how: CloseRange) -> Result<()> {
    for fd in listed()?.unwrap_or_else(|| (first..=last.min(MOST)).collect()) {
        if !(first..=last).contains(&fd) {
            continue;
        }
        match how {
            CloseRange::Close => {
                // SAFETY: closing by number is this function's purpose; a number
                // that is not open (the list's own) gives EBADF.
                let _ = unsafe { libc::close(fd) };
            }
            CloseRange::OnExec => {
                // SAFETY: sets a flag of a number; EBADF if it is not open.
                let _ = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
            }
        }
    }
    Ok(())
}

/// The highest descriptor that is looked at one by one: what fs.nr_open allows
/// unless somebody has raised it (proc_sys_fs(5)).
const MOST: RawFd = 1 << 20;

/// Our open descriptors, if there is a procfs that tells.
///
/// # Errors
/// A list that is there and can't be read: the other way is a call for each number
/// there can be.
fn listed() -> Result<Option<Vec<RawFd>>> {
    use nix::dir::Dir;
    use nix::fcntl::OFlag;
    let path = "/proc/self/fd";
    let describe = || format!("readdir({path:?})");
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd = match nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty()) {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES) => return Ok(None),
        opened => call(opened, || format!("open({path:?})"))?,
    };
    let found = call(nix::sys::statfs::fstatfs(&fd), || {
        format!("fstatfs({path:?})")
    })?;
    if found.filesystem_type() != nix::sys::statfs::PROC_SUPER_MAGIC {
        return Ok(None);
    }
    let mut listing = call(Dir::from_fd(fd), describe)?;
    let mut open = Vec::new();
    for entry in listing.iter() {
        let entry = call(entry, describe)?;
        open.extend(
            entry
                .file_name()
                .to_str()
                .ok()
                .and_then(|name| name.parse::<RawFd>().ok()),
        );
    }
    Ok(Some(open))
}

/// Makes `target` a copy of `fd`, without close-on-exec; what `target` was
/// before is closed.
///
/// # Errors
/// Those of dup2.
pub fn duplicate_onto(fd: BorrowedFd<'_>, target: RawFd) -> Result<()> {
    if fd.as_raw_fd() == target {
        return set_close_on_exec(fd, false);
    }
    // SAFETY: dup2 works on numbers; callers replace stdio or numbers that
    // they have set aside.
    let duplicated = unsafe { libc::dup2(fd.as_raw_fd(), target) };
    call(Errno::result(duplicated).map(drop), || {
        format!("dup2([{}], {target})", fd.as_raw_fd())
    })
}

/// Moves `fd` to a free number of at least `lowest`, with close-on-exec.
///
/// # Errors
/// `EMFILE` when none is free.
pub fn move_above(fd: OwnedFd, lowest: RawFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() >= lowest {
        return Ok(fd);
    }
    duplicate_above(fd.as_fd(), lowest)
}

/// A copy of `fd` at a free number of at least `lowest`, with close-on-exec.
fn duplicate_above(fd: BorrowedFd<'_>, lowest: RawFd) -> Result<OwnedFd> {
    let copy = call(fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(lowest)), || {
        format!("fcntl([{}], F_DUPFD_CLOEXEC, {lowest})", fd.as_raw_fd())
    })?;
    // SAFETY: fcntl has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Lets the program of `command` find `fds` at the numbers from `first` on.
///
/// They are closed here when `command` is dropped.
///
/// # Errors
/// `EMFILE`.
pub fn hand_over(command: &mut Command, fds: Vec<OwnedFd>, first: RawFd) -> Result<()> {
    use std::os::unix::process::CommandExt as _;
    // A number fits: nobody has 2^31 descriptors.
    let targets = first..first.saturating_add(i32::try_from(fds.len()).unwrap_or(i32::MAX));
    let mut reserved = Vec::new();
    let mut sources = Vec::new();
    for fd in fds {
        // std tells a failed exec over a pipe of its own, which must not be at
        // one of the targets: those are taken as long as the command lives.
        loop {
            let copy = duplicate_above(fd.as_fd(), first)?;
            if !targets.contains(&copy.as_raw_fd()) {
                sources.push(copy);
                break;
            }
            reserved.push(copy);
        }
    }
    let before_exec = move || {
        let _taken = &reserved;
        for (source, target) in sources.iter().zip(targets.clone()) {
            duplicate_onto(source.as_fd(), target)
                .map_err(|error| std::io::Error::from(error.errno()))?;
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec. On its way it makes dup2
    // calls alone, which are async-signal-safe; it neither allocates nor takes a
    // lock unless a dup2 fails, which of two open numbers it can't.
    unsafe { command.pre_exec(before_exec) };
    Ok(())
}

/// Sets or clears close-on-exec.
///
/// # Errors
/// `EBADF`.
pub fn set_close_on_exec(fd: BorrowedFd<'_>, on: bool) -> Result<()> {
    let flags = if on {
        FdFlag::FD_CLOEXEC
    } else {
        FdFlag::empty()
    };
    call(fcntl(fd, FcntlArg::F_SETFD(flags)).map(drop), || {
        format!("fcntl([{}], F_SETFD, {flags:?})", fd.as_raw_fd())
    })
}

/// Makes reads and writes return at once.
///
/// # Errors
/// `EBADF`.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<()> {
    block(fd, false)
}

/// Makes reading and writing wait, of a file that was opened without.
///
/// # Errors
/// Those of fcntl(2).
pub fn set_blocking(fd: BorrowedFd<'_>) -> Result<()> {
    block(fd, true)
}

fn block(fd: BorrowedFd<'_>, wait: bool) -> Result<()> {
    use nix::fcntl::OFlag;
    let describe = || format!("fcntl([{}], O_NONBLOCK)", fd.as_raw_fd());
    let flags = call(fcntl(fd, FcntlArg::F_GETFL), describe)?;
    let mut flags = OFlag::from_bits_retain(flags);
    flags.set(OFlag::O_NONBLOCK, !wait);
    call(fcntl(fd, FcntlArg::F_SETFL(flags)).map(drop), describe)
}

/// Whether descriptor number `fd` was handed to this process at its start: it
/// is open, and not one of ours, which are all close-on-exec.
#[must_use]
pub fn is_inherited(fd: RawFd) -> bool {
    // SAFETY: asks for a flag of a number; EBADF if it is not open.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Whether `fd` is open for writing.
///
/// # Errors
/// None that a descriptor could bring about.
pub fn is_writable(fd: BorrowedFd<'_>) -> Result<bool> {
    use nix::fcntl::OFlag;
    let flags = call(fcntl(fd, FcntlArg::F_GETFL), || {
        format!("fcntl([{}], F_GETFL)", fd.as_raw_fd())
    })?;
    let mode = OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE;
    Ok(mode != OFlag::O_RDONLY)
}

/// One of the standard descriptors or another that is known to stay open: a
/// borrow for ever.
#[must_use]
pub fn standard(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: callers name 0, 1, 2 (kept open by std for the whole life of
    // the process) or descriptors that they never close.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Gives up ownership without closing, for a descriptor that execve hands on.
pub fn leave_open(fd: OwnedFd) -> RawFd {
    fd.into_raw_fd()
}

/// A connected pair of sockets that keep message boundaries.
///
/// # Errors
/// `EMFILE`.
pub fn seqpacket_pair() -> Result<(OwnedFd, OwnedFd)> {
    call(
        nix::sys::socket::socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        ),
        || "socketpair(AF_UNIX, SOCK_SEQPACKET)".to_owned(),
    )
}

/// A pipe, both ends close-on-exec: (read, write).
///
/// # Errors
/// `EMFILE`.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    call(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC), || {
        "pipe2(O_CLOEXEC)".to_owned()
    })
}

/// A stream socket connected to the unix socket at `path`.
///
/// # Errors
/// `ENOENT`, `ECONNREFUSED`, `ENAMETOOLONG` over 107 bytes.
pub fn connect_stream(path: &Path) -> Result<OwnedFd> {
    connect_unix(path, SockType::Stream)
}

/// A datagram socket connected to the unix socket at `path`, or to the
/// abstract one if it begins with `@` (as in `NOTIFY_SOCKET`).
///
/// # Errors
/// As for [`connect_stream`].
pub fn connect_datagram(path: &Path) -> Result<OwnedFd> {
    connect_unix(path, SockType::Datagram)
}

fn connect_unix(path: &Path, kind: SockType) -> Result<OwnedFd> {
    use nix::sys::socket::{connect, socket};
    use std::os::unix::ffi::OsStrExt;
    let describe = || format!("connect({path:?})");
    let address = match (kind, path.as_os_str().as_bytes().split_first()) {
        (SockType::Datagram, Some((b'@', name))) => UnixAddr::new_abstract(name),
        _ => UnixAddr::new(path),
    };
    let address = call(address, describe)?;
    let socket = call(
        socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None),
        || format!("socket(AF_UNIX, {kind:?})"),
    )?;
    call(connect(socket.as_raw_fd(), &address), describe)?;
    Ok(socket)
}

/// Sends `bytes` in one message, with copies of `fds`.
///
/// # Errors
/// `EPIPE` if the other end is closed; no signal is raised. `EINVAL` for more than
/// [`MOST_SENT`] descriptors.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[] } else { &rights[..] };
    let sent = loop {
        let sent = sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        if sent != Err(Errno::EINTR) {
            break sent;
        }
    };
    call(sent.map(drop), || {
        format!("sendmsg([{}], {} bytes)", socket.as_raw_fd(), bytes.len())
    })
}

/// How many descriptors one message carries at most (`SCM_MAX_FD`, net/scm.h).
const MOST_SENT: usize = 253;

/// Receives one message into `buffer`: its length (0 at the end) and the
/// descriptor that came with it, close-on-exec. A surplus one is closed.
///
/// # Errors
/// Those of recvmsg.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let (length, fds) = receive_with(socket, buffer, &mut space)?;
    Ok((length, fds.into_iter().next()))
}

/// [`receive`] with all descriptors that came with the message, in their order.
///
/// # Errors
/// Those of recvmsg.
pub fn receive_all(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; MOST_SENT]);
    receive_with(socket, buffer, &mut space)
}

fn receive_with(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    space: &mut [u8],
) -> Result<(usize, Vec<OwnedFd>)> {
    let describe = || format!("recvmsg([{}])", socket.as_raw_fd());
    loop {
        let mut slices = [IoSliceMut::new(buffer)];
        let received = recvmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &mut slices,
            Some(space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let message = match received {
            Err(Errno::EINTR) => continue,
            received => call(received, describe)?,
        };
        let mut fds = Vec::new();
        for control in call(message.cmsgs(), describe)? {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                // SAFETY: the kernel has just made these descriptors for us.
                fds.extend(
                    numbers
                        .into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
        }
        return Ok((message.bytes, fds));
    }
}

/// Reads into `buffer`, again after an interruption. 0 at the end.
///
/// # Errors
/// Those of read(2).
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match nix::unistd::read(fd, buffer) {
            Err(Errno::EINTR) => {}
            read => return call(read, || format!("read([{}])", fd.as_raw_fd())),
        }
    }
}

/// Writes all of `bytes`.
///
/// # Errors
/// Those of write(2); `EPIPE` comes with SIGPIPE unless that is ignored.
pub fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Err(Errno::EINTR) => {}
            written => {
                let written = call(written, || format!("write([{}])", fd.as_raw_fd()))?;
                bytes = &bytes[written..];
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by a panic")]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    #[test]
    fn a_list_that_cannot_be_read_is_an_error() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        // Alone in its process, from which it takes all descriptors.
        const ALONE: &str = "WITHOUT_DESCRIPTORS";
        if std::env::var_os(ALONE).is_none() {
            let name = "descriptors::tests::a_list_that_cannot_be_read_is_an_error";
            let mut again = Command::new(std::env::current_exe().unwrap());
            let said = again.args(["--exact", name]).env(ALONE, "1").output();
            let said = String::from_utf8_lossy(&said.unwrap().stdout).into_owned();
            assert!(said.contains("1 passed"), "{said}");
            return;
        }
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
        let found = listed().map_err(|error| error.errno());
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        assert_eq!(found, Err(Errno::EMFILE));
    }

    #[test]
    fn a_message_brings_its_bytes_and_its_descriptor() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (end, kept) = pipe().unwrap();
        send(theirs.as_fd(), b"name", &[kept.as_fd()]).unwrap();
        send(theirs.as_fd(), b"alone", &[]).unwrap();
        drop((kept, theirs));
        let mut buffer = [0; 64];
        let (length, brought) = receive(ours.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"name");
        write_all(brought.unwrap().as_fd(), b"x").unwrap();
        assert_eq!(read(end.as_fd(), &mut buffer).unwrap(), 1);
        let (length, brought) = receive(ours.as_fd(), &mut buffer).unwrap();
        assert_eq!(
            (&buffer[..length], brought.is_none()),
            (&b"alone"[..], true)
        );
        assert_eq!(receive(ours.as_fd(), &mut buffer).unwrap().0, 0);
    }

    /// The room for one descriptor is aligned, which makes it room for two.
    #[test]
    fn a_descriptor_too_many_is_closed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (first, kept) = pipe().unwrap();
        let (second, surplus) = pipe().unwrap();
        let raw = [kept.as_raw_fd(), surplus.as_raw_fd()];
        sendmsg::<UnixAddr>(
            theirs.as_raw_fd(),
            &[IoSlice::new(b"two")],
            &[ControlMessage::ScmRights(&raw)],
            MsgFlags::empty(),
            None,
        )
        .unwrap();
        drop((kept, surplus));
        let (_, brought) = receive(ours.as_fd(), &mut [0; 8]).unwrap();
        write_all(brought.as_ref().unwrap().as_fd(), b"x").unwrap();
        assert_eq!(read(first.as_fd(), &mut [0; 8]).unwrap(), 1);
        // Nobody has the other pipe open for writing any more: its end is here,
        // or soon, if a fork of another test had it.
        let mut ends = [PollFd::new(second.as_fd(), PollFlags::empty())];
        poll(&mut ends, PollTimeout::from(10_000u16)).unwrap();
        assert_eq!(ends[0].revents(), Some(PollFlags::POLLHUP));
    }
}
