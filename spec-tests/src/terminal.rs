//! Pseudoterminals that a case makes, and the receiving ends of
//! `--console-socket` and `--pidfd-socket`.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::runtime::HANG;

/// The master's end of a terminal, with all that was read from it.
pub struct Terminal {
    master: File,
    text: String,
}

impl Terminal {
    /// A new pair: the master, and the slave for a command's stdio.
    ///
    /// # Panics
    /// When there are no pseudoterminals.
    pub fn pair(rows: u16, columns: u16) -> (Terminal, OwnedFd) {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = nix::pty::openpty(Some(&size), None).expect("openpty");
        for fd in [&pair.master, &pair.slave] {
            let flag = nix::fcntl::FdFlag::FD_CLOEXEC;
            nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(flag)).expect("F_SETFD");
        }
        (Terminal::of(pair.master), pair.slave)
    }

    /// A master that came over a socket.
    pub fn of(master: OwnedFd) -> Terminal {
        Terminal {
            master: File::from(master),
            text: String::new(),
        }
    }

    /// All that was read so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Types this.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn write(&mut self, text: &str) {
        self.master
            .write_all(text.as_bytes())
            .expect("write to the terminal");
    }

    /// Reads until the text appears.
    ///
    /// # Panics
    /// When it never does.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        while !self.text.contains(text) {
            assert!(
                self.read_some(),
                "terminal closed before `{text}`: {}",
                self.text
            );
        }
    }

    /// Reads until the other end is closed.
    #[track_caller]
    pub fn wait_end(&mut self) {
        while self.read_some() {}
    }

    /// Sets the size, as a terminal's window does.
    pub fn resize(&self, rows: u16, columns: u16) {
        crate::sys::resize(self.master.as_fd(), rows, columns);
    }

    /// Is the terminal in raw mode (no echo, no line editing)?
    ///
    /// # Panics
    /// When it is no terminal.
    pub fn is_raw(&self) -> bool {
        let modes = nix::sys::termios::tcgetattr(&self.master).expect("tcgetattr");
        let cooked = nix::sys::termios::LocalFlags::ICANON | nix::sys::termios::LocalFlags::ECHO;
        !modes.local_flags.intersects(cooked)
    }

    /// False at the end: EIO when no slave is open any more.
    #[track_caller]
    fn read_some(&mut self) -> bool {
        wait_readable(&self.master, &self.text);
        let mut buffer = [0; 4096];
        match self.master.read(&mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(size) => {
                self.text
                    .push_str(&String::from_utf8_lossy(&buffer[..size]));
                true
            }
        }
    }
}

#[track_caller]
fn wait_readable(fd: &impl AsFd, so_far: &str) {
    let timeout = PollTimeout::try_from(HANG.as_millis() as i32).expect("a timeout");
    let mut wanted = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    assert_ne!(
        poll(&mut wanted, timeout).expect("poll"),
        0,
        "nothing to read after: {so_far}"
    );
}

/// A listening socket that waits for one message with one descriptor.
pub struct Receiver {
    listener: UnixListener,
    /// Where it listens.
    pub path: PathBuf,
}

impl Receiver {
    /// Listens on this path.
    ///
    /// # Panics
    /// When it can't.
    pub fn new(path: &Path) -> Receiver {
        Receiver {
            listener: UnixListener::bind(path).expect("bind"),
            path: path.to_owned(),
        }
    }

    /// Waits for the message: its bytes and its descriptor.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn receive(&self) -> (Vec<u8>, OwnedFd) {
        wait_readable(&self.listener, "");
        let begin = Instant::now();
        let (stream, _) = self.listener.accept().expect("accept");
        loop {
            assert!(begin.elapsed() < HANG, "no descriptor came");
            let (bytes, fd) = message(&stream);
            assert!(
                !bytes.is_empty() || fd.is_some(),
                "closed without a descriptor"
            );
            if let Some(fd) = fd {
                return (bytes, fd);
            }
        }
    }
}

/// The next message on a socket, and the first descriptor that came with it.
///
/// # Panics
/// When none comes.
#[track_caller]
pub fn message(socket: &impl AsFd) -> (Vec<u8>, Option<OwnedFd>) {
    wait_readable(socket, "");
    let mut bytes = [0; 65536];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(
        socket.as_fd().as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .expect("recvmsg");
    let controls = message.cmsgs().expect("control messages");
    let fds = controls.filter_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds: Vec<RawFd> = fds.flatten().collect();
    let size = message.bytes;
    (
        bytes[..size].to_vec(),
        fds.first().map(|fd| crate::sys::own(*fd)),
    )
}
