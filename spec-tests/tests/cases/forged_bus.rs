//! A bus between the runtime and the system's own, on which an unprivileged user is
//! always quick enough.
//!
//! What is said is passed on, in both directions. When systemd answers with a job
//! the user sends signals about it to the caller over the system's bus, with what
//! its policy allows to anybody; they are passed on before anything that systemd
//! says after its answer.

use std::io::{Read, Result, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const BUS: &str = "/run/dbus/system_bus_socket";
/// Who has no rights.
const NOBODY: u32 = 65534;
/// What the forged signals have in them, and nothing else.
const MARK: &[u8] = b"nobody-says";
/// The longest argument of a program is 128 KiB.
const LONG: usize = 120 << 10;

/// Listens at `path` until the case ends. The number is that of the forged signals
/// that the bus has delivered.
///
/// # Panics
/// If it can't listen.
#[track_caller]
pub(crate) fn listen(path: &Path) -> Arc<AtomicUsize> {
    let listener = UnixListener::bind(path).expect("bind");
    let delivered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&delivered);
    std::thread::spawn(move || {
        for caller in listener.incoming() {
            let caller = caller.expect("a caller");
            let bus = UnixStream::connect(BUS).expect("the system's bus");
            let (mut from, mut to) = (clone(&caller), clone(&bus));
            // Either end may go whenever it wants.
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
            let count = Arc::clone(&count);
            std::thread::spawn(move || drop(answer(bus, caller, &count)));
        }
    });
    delivered
}

fn clone(stream: &UnixStream) -> UnixStream {
    stream.try_clone().expect("a descriptor")
}

/// Passes on what the bus says.
fn answer(bus: UnixStream, mut caller: UnixStream, delivered: &AtomicUsize) -> Result<()> {
    let mut bus = Bus {
        stream: bus,
        received: Vec::new(),
    };
    caller.write_all(&bus.greeting()?)?;
    // The first message answers Hello, and has the caller's name in it.
    let hello = bus.message()?;
    let name = word(&hello, b":1.").expect("a name");
    caller.write_all(&hello)?;
    loop {
        let message = bus.message()?;
        caller.write_all(&message)?;
        // A return, and of what it is.
        let Some(job) = word(&message, b"/org/freedesktop/systemd1/job/") else {
            continue;
        };
        if message[1] != 2 {
            continue;
        }
        let mut held = Vec::new();
        let mut missing = forge(&name, &job);
        while missing > 0 {
            let message = bus.message()?;
            if find(&message, MARK).is_some() {
                missing -= 1;
                delivered.fetch_add(1, Ordering::SeqCst);
                caller.write_all(&message)?;
            } else {
                held.push(message);
            }
        }
        caller.write_all(&held.concat())?;
    }
}

/// Says as an unprivileged user that the job has failed, then the same at a length
/// of more than a mebibyte. Returns how many signals that are.
fn forge(to: &str, job: &str) -> usize {
    let long = format!("string:{}", "x".repeat(LONG));
    let lengths = [0, 10];
    for arguments in lengths {
        let ran = Command::new("dbus-send")
            .args(["--system", "--type=signal", &format!("--dest={to}")])
            .args([
                "/org/freedesktop/systemd1",
                "org.freedesktop.systemd1.Manager.JobRemoved",
                "uint32:1",
                &format!("objpath:{job}"),
                &format!("string:{}", String::from_utf8_lossy(MARK)),
                "string:failed",
            ])
            .args(vec![&long; arguments])
            .uid(NOBODY)
            .gid(NOBODY)
            .status()
            .expect("dbus-send");
        assert!(ran.success(), "dbus-send: {ran}");
    }
    lengths.len()
}

/// What a bus says.
struct Bus {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Bus {
    /// What comes before the messages, up to the line with OK.
    fn greeting(&mut self) -> Result<Vec<u8>> {
        loop {
            let end = find(&self.received, b"OK ")
                .and_then(|at| Some(at + find(&self.received[at..], b"\r\n")? + 2));
            match end {
                Some(end) => return Ok(self.received.drain(..end).collect()),
                None => self.read()?,
            }
        }
    }

    /// A message: 16 bytes with the lengths of the body and of the header's fields,
    /// the fields, padded to 8 bytes, and the body.
    fn message(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(fixed) = self.received.first_chunk::<16>() {
                let number = |at: usize| {
                    let bytes = [0, 1, 2, 3].map(|next| fixed[at + next]);
                    usize::try_from(u32::from_le_bytes(bytes)).expect("a length")
                };
                let end = 16 + number(12).next_multiple_of(8) + number(4);
                if self.received.len() >= end {
                    return Ok(self.received.drain(..end).collect());
                }
            }
            self.read()?;
        }
    }

    fn read(&mut self) -> Result<()> {
        let mut buffer = [0; 1 << 16];
        match self.stream.read(&mut buffer)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            length => {
                self.received.extend_from_slice(&buffer[..length]);
                Ok(())
            }
        }
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// The text that begins with `part` and goes on with digits.
fn word(bytes: &[u8], part: &[u8]) -> Option<String> {
    let begin = find(bytes, part)?;
    let digits = bytes[begin + part.len()..].iter();
    let digits = digits.take_while(|byte| byte.is_ascii_digit()).count();
    let word = &bytes[begin..begin + part.len() + digits];
    Some(String::from_utf8_lossy(word).into_owned())
}
