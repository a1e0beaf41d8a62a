//! The FIFOs of a process, and the readers that containerd's clients are.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use crate::case::Test;
use crate::runtime::HANG;

/// Where a process reads and writes; empty words are /dev/null.
#[derive(Clone, Default, Debug)]
pub struct Streams {
    /// Its input.
    pub stdin: String,
    /// Its output.
    pub stdout: String,
    /// Its errors.
    pub stderr: String,
    /// All are a terminal.
    pub terminal: bool,
}

impl Streams {
    /// Nothing at all.
    pub fn none() -> Streams {
        Streams::default()
    }

    /// FIFOs for output and errors, and for input where it is wanted. Each
    /// needs its other end before `Create`; the one for errors has it already.
    ///
    /// # Panics
    /// When they can't be made.
    pub fn fifos(test: &Test, stdin: bool) -> Streams {
        let stderr = fifo(test);
        let opened = OpenOptions::new().read(true).write(true).open(&stderr);
        std::mem::forget(opened.expect("the fifo for stderr"));
        Streams {
            stdin: if stdin { fifo(test) } else { String::new() },
            stdout: fifo(test),
            stderr,
            terminal: false,
        }
    }

    /// A FIFO for errors that waits for its reader.
    #[must_use]
    pub fn errors(self, test: &Test) -> Streams {
        Streams {
            stderr: fifo(test),
            ..self
        }
    }

    /// FIFOs of a terminal, which has no errors of its own.
    pub fn terminal(test: &Test) -> Streams {
        Streams {
            stdin: fifo(test),
            stdout: fifo(test),
            stderr: String::new(),
            terminal: true,
        }
    }

    /// A reader of the output.
    pub fn read(&self) -> Reader {
        Reader::new(Path::new(&self.stdout))
    }

    /// A reader of the errors.
    pub fn read_errors(&self) -> Reader {
        Reader::new(Path::new(&self.stderr))
    }

    /// The input's end to write to. Both ends are held, as by containerd's
    /// client, until the shim has it.
    ///
    /// # Panics
    /// When it can't be opened.
    pub fn write(&self) -> File {
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).open(&self.stdin);
        opened.expect("the fifo for stdin")
    }
}

fn fifo(test: &Test) -> String {
    let path = test.directory.join(test.id());
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("mkfifo");
    path.display().to_string()
}

#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    ended: bool,
    quit: bool,
    stalled: bool,
}

/// Reads a FIFO as it comes, until nobody writes any more.
pub struct Reader {
    shared: Arc<(Mutex<Seen>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// A reader that begins at once.
    ///
    /// # Panics
    /// When the FIFO can't be opened.
    pub fn new(path: &Path) -> Reader {
        let mut file = open(path);
        let shared: Arc<(Mutex<Seen>, Condvar)> = Arc::default();
        let seen = shared.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let mut state = seen.0.lock().expect("seen");
                while state.stalled && !state.quit {
                    state = seen.1.wait(state).expect("seen");
                }
                if state.quit {
                    return;
                }
                drop(state);
                let Some(size) = read_some(&mut file, &mut buffer) else {
                    continue;
                };
                let mut state = seen.0.lock().expect("seen");
                state.bytes.extend(&buffer[..size]);
                state.ended = size == 0;
                seen.1.notify_all();
                if size == 0 {
                    return;
                }
            }
        });
        let thread = Some(thread);
        Reader { shared, thread }
    }

    /// Stops reading, or goes on.
    ///
    /// # Panics
    /// Never.
    pub fn stall(&self, stalled: bool) {
        self.shared.0.lock().expect("seen").stalled = stalled;
        self.shared.1.notify_all();
    }

    /// Closes its end of the FIFO; it is closed afterwards.
    ///
    /// # Panics
    /// When the FIFO could not be read.
    pub fn quit(mut self) {
        self.shared.0.lock().expect("seen").quit = true;
        self.shared.1.notify_all();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the reader");
        }
    }

    /// What came so far.
    ///
    /// # Panics
    /// Never.
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.shared.0.lock().expect("seen").bytes).into_owned()
    }

    /// Waits for this text.
    ///
    /// # Panics
    /// When it never comes.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        self.wait(text, |seen| {
            String::from_utf8_lossy(&seen.bytes).contains(text)
        });
        self.so_far()
    }

    /// Waits for the end; all that came.
    ///
    /// # Panics
    /// When it never comes.
    #[track_caller]
    pub fn end(&self) -> String {
        self.wait("end", |seen| seen.ended);
        self.so_far()
    }

    #[track_caller]
    fn wait(&self, what: &str, found: impl Fn(&Seen) -> bool) {
        let begin = Instant::now();
        let mut state = self.shared.0.lock().expect("seen");
        while !found(&state) {
            let left = HANG.saturating_sub(begin.elapsed());
            let text = String::from_utf8_lossy(&state.bytes);
            assert!(
                !left.is_zero() && !state.ended,
                "no `{what}` in the output: {text}"
            );
            state = self.shared.1.wait_timeout(state, left).expect("seen").0;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Ok(mut state) = self.shared.0.lock() {
            state.quit = true;
        }
        self.shared.1.notify_all();
    }
}

/// Opens a FIFO for reading, whether or not somebody writes.
///
/// # Panics
/// When it can't be opened.
pub fn open(path: &Path) -> File {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
    file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// 0 at the end; None when nothing came for a moment. A FIFO that had no
/// writer yet is not at its end.
pub fn read_some(file: &mut File, buffer: &mut [u8]) -> Option<usize> {
    let mut wanted = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    if poll(&mut wanted, PollTimeout::from(100u16)).ok()? == 0 {
        return None;
    }
    match file.read(buffer) {
        Ok(size) => Some(size),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
        Err(error) => panic!("read: {error}"),
    }
}

/// Types this into a FIFO.
///
/// # Panics
/// When nobody reads.
pub fn type_in(file: &mut File, text: &str) {
    file.write_all(text.as_bytes()).expect("write");
}
