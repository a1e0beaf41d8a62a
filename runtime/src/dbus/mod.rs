//! A caller's end of D-Bus, as much as the systemd driver needs.
//!
//! One thread, no callbacks: calls are sent, several at once where none depends
//! on another's answer, and then the answers are waited for. Every wait has a
//! deadline, since a bus that is busy or dead must not hang a container
//! (runc #3904, #1780). The order of events on a connection:
//!
//! 1. connect, without waiting for a listener whose queue is full;
//! 2. `AUTH EXTERNAL` without a name: the bus takes our uid from the socket,
//!    which is right in a user namespace too;
//! 3. on a bus, `Hello`, and who owns the name of the one whom we want to talk to; a
//!    socket of systemd's own has no bus behind it;
//! 4. calls, answers, signals.
//!
//! On a bus any user may send us signals, of whatever name and length: a match
//! rule asks for broadcasts, it keeps nothing away. What tells them apart is the
//! sender, which the bus writes itself (D-Bus Specification, "Header Fields"). Only
//! the bus and the owner of the name are listened to; the rest is dropped by its
//! length as it comes, unread.
//!
//! A library for this (zbus) would bring an async stack into a runtime that
//! must stay single-threaded and small.

pub mod wire;

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket,
};

use crate::error::{Context, Error, Kind as Cause, Result};
use crate::sys;
use wire::{Call, Kind, Message, Next, Value};

/// The bus itself, as a name, as the sender of what it says, and as an interface.
const BUS: &str = "org.freedesktop.DBus";

/// How many signals are kept that came before they were waited for. The one for
/// which we wait is among the last.
const SIGNALS: usize = 64;

/// Where somebody listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `unix:path=` or, with a leading NUL, `unix:abstract=`.
    path: Vec<u8>,
    /// Whether a bus is there, and not the one whom we want to talk to.
    pub is_bus: bool,
}

impl Address {
    /// The sockets in a list like `unix:path=/run/bus,guid=1;unix:abstract=x`.
    /// Other transports are left out.
    #[must_use]
    pub fn list(text: &str) -> Vec<Self> {
        text.split(';')
            .filter_map(|one| one.strip_prefix("unix:"))
            .flat_map(|keys| keys.split(','))
            .filter_map(|key| key.split_once('='))
            .filter_map(|(key, value)| {
                let value = unescape(value)?;
                match key {
                    "path" => Some(value),
                    "abstract" => Some([b"\0", value.as_slice()].concat()),
                    _ => None,
                }
            })
            .map(|path| Self { path, is_bus: true })
            .collect()
    }

    /// The socket at `path`, behind which a bus is or not.
    #[must_use]
    pub fn at(path: &str, is_bus: bool) -> Self {
        Self {
            path: path.as_bytes().to_vec(),
            is_bus,
        }
    }

    fn show(&self) -> String {
        String::from_utf8_lossy(&self.path).replace('\0', "@")
    }
}

/// The value behind `%xx` for bytes that an address can't hold.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        plain.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(plain)
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    /// Where it leads, for messages.
    address: Address,
    serial: u32,
    /// The name of the one whom we want to talk to, on a bus.
    peer: &'static str,
    /// The unique name of who owns it now.
    owner: Option<String>,
    received: Vec<u8>,
    /// How much of what comes is still to be dropped: a message that was read, or
    /// one of somebody who is not listened to.
    dropping: usize,
    /// Answers that nobody has asked for yet, at most one for each call.
    answers: Vec<Message>,
    /// The last signals that nobody has asked for yet.
    signals: VecDeque<Message>,
    deadline: Instant,
    patience: Duration,
}

impl Connection {
    /// Connects to the first of `addresses` where somebody listens, and waits
    /// at most `patience`, now and for all that follows until
    /// [`begin`](Self::begin) is called. On a bus only it and the owner of the name
    /// `peer` are listened to.
    ///
    /// # Errors
    /// Why the first of them can't be reached, or the refusal of the first that
    /// can.
    pub fn open(addresses: &[Address], peer: &'static str, patience: Duration) -> Result<Self> {
        let deadline = Instant::now() + patience;
        let mut failed: Option<Error> = None;
        for address in addresses {
            match reach(address, deadline) {
                Ok(socket) => {
                    let mut connection = Self {
                        socket,
                        address: address.clone(),
                        serial: 0,
                        peer,
                        owner: None,
                        received: Vec::new(),
                        dropping: 0,
                        answers: Vec::new(),
                        signals: VecDeque::new(),
                        deadline,
                        patience,
                    };
                    connection.greet().context(|| address.show())?;
                    return Ok(connection);
                }
                // The first is the one that people know.
                Err(error) => failed = Some(failed.unwrap_or(error)),
            }
        }
        let unknown = || Error::new(Cause::System, "no address of a bus is known");
        Err(failed.unwrap_or_else(unknown))
    }

    /// Begins something new, which may take as long as the patience is.
    pub fn begin(&mut self) {
        self.deadline = Instant::now() + self.patience;
    }

    /// Whether a bus is between us and those we call.
    #[must_use]
    pub fn is_bus(&self) -> bool {
        self.address.is_bus
    }

    fn greet(&mut self) -> Result<()> {
        self.write(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        let sent = match self.address.is_bus {
            true => Some(self.introduce()?),
            false => None,
        };
        // An empty challenge, and what comes of it.
        for _ in 0..2 {
            let line = self.line()?;
            match line.split(' ').next() {
                Some("DATA") => {}
                Some("OK") => return sent.map_or(Ok(()), |sent| self.introduced(sent)),
                _ => break,
            }
        }
        Err(Error::new(Cause::System, "it refuses who we are"))
    }

    /// Tells the bus that we are there, and asks who our peer is. Asked for first,
    /// changes are told from there on: systemd loses its name for a moment when it
    /// executes itself once more, and has none yet when it has just started the bus.
    fn introduce(&mut self) -> Result<[u32; 3]> {
        let changes = format!(
            "type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{}'",
            self.peer
        );
        let hello = self.ask_bus("Hello", &[])?;
        let added = self.ask_bus("AddMatch", &[Value::text(changes)])?;
        let owner = self.ask_bus("GetNameOwner", &[Value::text(self.peer)])?;
        Ok([hello, added, owner])
    }

    /// Hears what came of [`introduce`](Self::introduce).
    fn introduced(&mut self, [hello, added, owner]: [u32; 3]) -> Result<()> {
        // The name that the bus gives us is of no use here.
        self.reply(hello)?;
        self.reply(added)?;
        match self.reply(owner) {
            Ok(answer) => {
                if let Some(Value::String(name)) = answer.arguments.into_iter().next() {
                    self.owner = Some(name);
                }
                Ok(())
            }
            // Nobody has it, until the bus tells of somebody.
            Err(Failure::Refused(_)) => Ok(()),
            Err(Failure::Broken(error)) => Err(error),
        }
    }

    /// Sends a call of a method of the bus itself.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn ask_bus(&mut self, member: &str, arguments: &[Value]) -> Result<u32> {
        self.send(&Call {
            destination: Some(BUS),
            path: "/org/freedesktop/DBus",
            interface: BUS,
            member,
            arguments,
        })
    }

    /// Sends a call and returns its number, by which
    /// [`reply`](Self::reply) knows the answer.
    ///
    /// # Errors
    /// The other end is gone or takes nothing within the deadline.
    pub fn send(&mut self, call: &Call<'_>) -> Result<u32> {
        self.serial += 1;
        let message = call.encode(self.serial);
        self.write(&message)?;
        Ok(self.serial)
    }

    /// Waits for the answer to the call `serial`.
    ///
    /// # Errors
    /// [`Failure::Refused`] if the call is refused; a broken or late answer.
    pub fn reply(&mut self, serial: u32) -> Result<Message, Failure> {
        let is_mine = |message: &Message| message.reply_to == Some(serial);
        let message = loop {
            match self.answers.iter().position(is_mine) {
                Some(at) => break self.answers.swap_remove(at),
                None => self.receive()?,
            }
        };
        if message.kind == Kind::Return {
            return Ok(message);
        }
        Err(Failure::Refused(Refusal {
            text: match message.arguments.first() {
                Some(Value::String(text)) => text.replace('\n', " "),
                _ => String::new(),
            },
            name: message.error,
        }))
    }

    /// Waits for a signal that `wanted` knows. Those before it are forgotten.
    ///
    /// # Errors
    /// The other end is gone, or the deadline passed.
    pub fn signal(&mut self, wanted: impl Fn(&Message) -> bool) -> Result<Message> {
        loop {
            match self.signals.pop_front() {
                Some(signal) if wanted(&signal) => return Ok(signal),
                Some(_) => {}
                None => self.receive()?,
            }
        }
    }

    /// Waits for a message of somebody who is listened to, and puts it where it is
    /// looked for.
    fn receive(&mut self) -> Result<()> {
        loop {
            let dropped = self.dropping.min(self.received.len());
            self.received.drain(..dropped);
            self.dropping -= dropped;
            let next = Message::next(&self.received, |sender| self.listens_to(sender));
            match next {
                Ok(Next::Partial) => self.read()?,
                Ok(Next::Foreign(length)) => self.dropping = length,
                Ok(Next::Whole(message, length)) => {
                    self.dropping = length;
                    self.keep(message);
                    return Ok(());
                }
                Err(why) => return Err(Error::new(Cause::System, format!("it sent {why}"))),
            }
        }
    }

    /// Whether what `sender` says counts. Without a bus there is one who can say
    /// anything.
    fn listens_to(&self, sender: Option<&str>) -> bool {
        let is_owner = sender.is_some() && sender == self.owner.as_deref();
        !self.address.is_bus || is_owner || sender == Some(BUS)
    }

    fn keep(&mut self, message: Message) {
        let is_of_bus = self.address.is_bus && message.sender.as_deref() == Some(BUS);
        match message.kind {
            Kind::Return | Kind::Error => {
                let is_sent = |serial| (1..=self.serial).contains(&serial);
                if message.reply_to.is_some_and(is_sent) {
                    self.answers.push(message);
                }
            }
            Kind::Signal if is_of_bus => self.follow(&message),
            Kind::Signal => {
                if self.signals.len() == SIGNALS {
                    self.signals.pop_front();
                }
                self.signals.push_back(message);
            }
            Kind::Other => {}
        }
    }

    /// Takes note of who owns the name from now on: `NameOwnerChanged` says the name,
    /// the owner until now and the new one, which is empty for nobody.
    fn follow(&mut self, signal: &Message) {
        if signal.member == "NameOwnerChanged"
            && let [Value::String(name), _, Value::String(owner)] = signal.arguments.as_slice()
            && name == self.peer
        {
            self.owner = Some(owner.clone()).filter(|owner| !owner.is_empty());
        }
    }

    /// A line of the greeting.
    fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.received.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.received.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if self.received.len() > 4096 {
                return Err(Error::new(Cause::System, "it is no bus"));
            }
            self.read()?;
        }
    }

    /// Reads what is there, after waiting for it. Who comes here has found nothing
    /// that he wants: the time may be up, however much there is to be read.
    fn read(&mut self) -> Result<()> {
        self.left()?;
        let mut buffer = [0; 4096];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) => {
                    return Err(Error::new(Cause::System, "it closed the connection"));
                }
                Ok(length) => {
                    self.received.extend_from_slice(&buffer[..length]);
                    return Ok(());
                }
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLIN)?,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(sys::Error::new("recv()", errno).into()),
            }
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(length) => bytes = &bytes[length..],
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT)?,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(sys::Error::new("send()", errno).into()),
            }
        }
        Ok(())
    }

    /// Waits until the socket is ready or the deadline passed.
    fn wait(&self, events: PollFlags) -> Result<()> {
        let left = self.left()?;
        let mut polled = [PollFd::new(self.socket.as_fd(), events)];
        // Rounded up, so that it never spins.
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            // The next look says that it is late.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(sys::Error::new("poll()", errno).into()),
        }
    }

    /// What is left until the deadline.
    ///
    /// # Errors
    /// Nothing is.
    fn left(&self) -> Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(late(self.patience)),
            false => Ok(left),
        }
    }
}

/// A call that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error's name, such as `org.freedesktop.systemd1.NoSuchUnit`.
    pub name: String,
    /// Words for people.
    pub text: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// There is one: no.
    Refused(Refusal),
    /// The way to the answer is broken.
    Broken(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Broken(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Broken(error) => error,
            Failure::Refused(Refusal { name, text }) if text.is_empty() => {
                Error::new(Cause::System, name)
            }
            Failure::Refused(Refusal { text, .. }) => Error::new(Cause::System, text),
        }
    }
}

fn late(patience: Duration) -> Error {
    let text = format!("no answer within {} s", patience.as_secs());
    Error::new(Cause::System, text).with_errno(Errno::ETIMEDOUT)
}

/// Connects. A listener whose queue is full answers `EAGAIN` and is tried
/// until the deadline.
fn reach(address: &Address, deadline: Instant) -> Result<OwnedFd> {
    let at = match address.path.split_first() {
        Some((0, name)) => UnixAddr::new_abstract(name),
        _ => UnixAddr::new(address.path.as_slice()),
    };
    let doing = || format!("connect({:?})", address.show());
    let at = sys::call(at, doing)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Unix, SockType::Stream, flags, None);
    let made = sys::call(made, || "socket()".to_owned())?;
    loop {
        match connect(made.as_raw_fd(), &at) {
            Ok(()) => return Ok(made),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(errno) => return Err(sys::Error::new(doing(), errno).into()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the bus is a thread of the test")]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread::JoinHandle;

    use super::wire::tests::{returned, signal};
    use super::*;

    /// Somebody without a bus who says `answers` once he is greeted, and reads until
    /// we go.
    fn bus(answers: Vec<u8>) -> (tempdir::Directory, Address, JoinHandle<Vec<u8>>) {
        serve(false, move |stream| stream.write_all(&answers).unwrap())
    }

    /// A bus on which systemd is [`OWNER`], and which says `answers` after that.
    fn true_bus(
        say: impl FnOnce(&mut UnixStream) + Send + 'static,
    ) -> (tempdir::Directory, Address, JoinHandle<Vec<u8>>) {
        serve(true, move |stream| {
            stream.write_all(&introduction()).unwrap();
            say(stream);
        })
    }

    /// One who listens, says something to the first who comes, and reads until he
    /// goes.
    fn serve(
        is_bus: bool,
        say: impl FnOnce(&mut UnixStream) + Send + 'static,
    ) -> (tempdir::Directory, Address, JoinHandle<Vec<u8>>) {
        let directory = tempdir::Directory::new();
        let path = directory.path.join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            say(&mut stream);
            // A caller that goes early resets the connection.
            let _ = stream.read_to_end(&mut heard);
            heard
        });
        let address = Address::at(path.to_str().unwrap(), is_bus);
        (directory, address, served)
    }

    mod tempdir {
        use std::path::PathBuf;
        use std::sync::atomic::{AtomicU32, Ordering};

        pub(super) struct Directory {
            pub(super) path: PathBuf,
        }

        impl Directory {
            pub(super) fn new() -> Self {
                static NEXT: AtomicU32 = AtomicU32::new(0);
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let name = format!("rrun-dbus-{}-{number}", std::process::id());
                let path = std::env::temp_dir().join(name);
                std::fs::create_dir(&path).unwrap();
                Self { path }
            }
        }

        impl Drop for Directory {
            fn drop(&mut self) {
                std::fs::remove_dir_all(&self.path).unwrap();
            }
        }
    }

    const GREETING: &[u8] = b"DATA\r\nOK 0123\r\n";
    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    const PEER: &str = "org.freedesktop.systemd1";
    /// The peer's unique name, a stranger's, and the peer's after a change.
    const OWNER: &str = ":1.2";
    const STRANGER: &str = ":1.66";
    const SUCCESSOR: &str = ":1.70";
    /// The calls of the introduction; ours begin behind it.
    const INTRODUCTION: u32 = 3;

    /// What a bus says to who comes.
    fn introduction() -> Vec<u8> {
        answers(&[
            GREETING,
            &returned(BUS, 1, &[Value::text(":1.65")]),
            &signal(BUS, "NameAcquired", &[Value::text(":1.65")]),
            &returned(BUS, 2, &[]),
            &returned(BUS, 3, &[Value::text(OWNER)]),
        ])
    }

    /// The end of the job that is waited for.
    fn job_removed(sender: &str, result: &str) -> Vec<u8> {
        signal(sender, "JobRemoved", &[Value::text(result)])
    }

    /// How it ended, after the first call of ours was answered.
    fn job_result(connection: &mut Connection) -> String {
        let sent = call(connection);
        let answer = connection.reply(sent).unwrap().arguments;
        assert_eq!(answer, [Value::text("true")]);
        let signal = connection.signal(|signal| signal.member == "JobRemoved");
        match signal.unwrap().arguments.as_slice() {
            [Value::String(result)] => result.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn answers(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    /// A signal `Done`, then the return of call 1 with nothing in it, then an
    /// error for call 2: `no.way` with the text `x`.
    const SIGNAL: &[u8] = b"l\x04\x00\x01\x00\x00\x00\x00\x07\x00\x00\x00\x0d\x00\x00\x00\
        \x03\x01s\x00\x04\x00\x00\x00Done\x00\x00\x00\x00";
    const RETURN: &[u8] = b"l\x02\x00\x01\x00\x00\x00\x00\x08\x00\x00\x00\x08\x00\x00\x00\
        \x05\x01u\x00\x01\x00\x00\x00";
    const REFUSAL: &[u8] = b"l\x03\x00\x01\x06\x00\x00\x00\x09\x00\x00\x00\x1f\x00\x00\x00\
        \x05\x01u\x00\x02\x00\x00\x00\
        \x04\x01s\x00\x06\x00\x00\x00no.way\x00\x00\
        \x08\x01g\x00\x01s\x00\x00\
        \x01\x00\x00\x00x\x00";

    fn call(connection: &mut Connection) -> u32 {
        let call = Call {
            destination: None,
            path: "/",
            interface: "i",
            member: "m",
            arguments: &[],
        };
        connection.send(&call).unwrap()
    }

    #[test]
    fn answers_and_signals_are_found_in_any_order() {
        let (_directory, address, served) = bus(answers(&[GREETING, SIGNAL, RETURN, REFUSAL]));
        let mut connection = Connection::open(&[address], PEER, LONG).unwrap();
        let (first, second) = (call(&mut connection), call(&mut connection));
        let Err(Failure::Refused(refusal)) = connection.reply(second) else {
            panic!("it was refused")
        };
        assert_eq!((&*refusal.name, &*refusal.text), ("no.way", "x"));
        assert_eq!(connection.reply(first).unwrap().arguments, []);
        let signal = connection.signal(|signal| signal.member == "Done");
        assert_eq!(signal.unwrap().member, "Done");
        drop(connection);
        let heard = served.join().unwrap();
        assert!(heard.starts_with(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\nl\x01"));
    }

    #[test]
    fn a_bus_that_does_not_answer_is_left_in_time() {
        for (name, said, patience, expected) in [
            ("nothing", &b""[..], SHORT, "no answer within 0 s"),
            (
                "half a greeting",
                b"DATA\r\nOK",
                SHORT,
                "no answer within 0 s",
            ),
            (
                "a refusal",
                b"REJECTED EXTERNAL\r\n",
                LONG,
                "it refuses who we are",
            ),
            ("no bus", &[b'x'; 8192], LONG, "it is no bus"),
        ] {
            let (_directory, address, served) = bus(said.to_vec());
            let path = address.show();
            let error = Connection::open(&[address], PEER, patience).unwrap_err();
            assert_eq!(error.to_string(), format!("{path}: {expected}"), "{name}");
            served.join().unwrap();
        }
    }

    #[test]
    fn an_answer_that_is_broken_or_missing_is_an_error() {
        for (name, said, patience, expected) in [
            ("none", &b""[..], SHORT, "no answer within 0 s"),
            (
                "no message",
                &[b'x'; 16],
                LONG,
                "it sent a message in no known byte order",
            ),
        ] {
            let (_directory, address, served) = bus(answers(&[GREETING, said]));
            let mut connection = Connection::open(&[address], PEER, LONG).unwrap();
            connection.patience = patience;
            connection.begin();
            let sent = call(&mut connection);
            let error = Error::from(connection.reply(sent).unwrap_err());
            assert_eq!(error.to_string(), expected, "{name}");
            drop(connection);
            served.join().unwrap();
        }
    }

    #[test]
    fn where_nobody_listens_the_next_address_is_tried() {
        let (directory, address, served) = bus(GREETING.to_vec());
        let nobody = directory.path.join("nobody");
        let missing = Address::at(nobody.to_str().unwrap(), true);
        let connection = Connection::open(&[missing.clone(), address], PEER, LONG).unwrap();
        assert!(!connection.is_bus());
        drop(connection);
        served.join().unwrap();
        let error = Connection::open(&[missing], PEER, LONG).unwrap_err();
        let expected = format!("connect({nobody:?}): no such file or directory");
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn on_a_bus_strangers_are_neither_believed_nor_read() {
        let first = INTRODUCTION + 1;
        let forged = job_removed(STRANGER, "failed");
        let renamed = |sender| {
            let words = [PEER, OWNER, STRANGER].map(Value::text);
            signal(sender, "NameOwnerChanged", &words)
        };
        let unreadable = {
            let mut message = signal(STRANGER, "x", &[Value::text("x")]);
            let length = message.len();
            message[length - 6] = 9;
            message
        };
        for (name, before) in [
            ("a signal", forged.clone()),
            (
                "an answer",
                returned(STRANGER, first, &[Value::text("forged")]),
            ),
            ("a new owner", answers(&[&renamed(STRANGER), &forged])),
            ("what can't be read", unreadable),
            (
                "a message of 2 MiB",
                job_removed(STRANGER, &"x".repeat(2 << 20)),
            ),
            ("more than is kept", forged.repeat(2 * SIGNALS)),
        ] {
            let said = answers(&[
                &before,
                &returned(OWNER, first, &[Value::text("true")]),
                &before,
                &job_removed(OWNER, "done"),
            ]);
            let (_directory, address, served) =
                true_bus(move |stream| stream.write_all(&said).unwrap());
            let mut connection = Connection::open(&[address], PEER, LONG).unwrap();
            assert_eq!(job_result(&mut connection), "done", "{name}");
            assert!(connection.received.capacity() < 1 << 16, "{name}");
            assert!(connection.answers.is_empty(), "{name}");
            drop(connection);
            served.join().unwrap();
        }
    }

    #[test]
    fn the_longest_message_of_a_stranger_is_dropped_as_it_comes() {
        let (_directory, address, served) = true_bus(|stream| {
            let mut message = job_removed(STRANGER, "x");
            // Its body fills what a message may have, 128 MiB.
            let body = (128 << 20) - (message.len() - 6);
            message.truncate(message.len() - 6);
            let length = u32::try_from(body).unwrap();
            message[4..8].copy_from_slice(&length.to_le_bytes());
            stream.write_all(&message).unwrap();
            for _ in 0..body / 4096 {
                stream.write_all(&[b'l'; 4096]).unwrap();
            }
            stream.write_all(&vec![b'l'; body % 4096]).unwrap();
            let first = returned(OWNER, INTRODUCTION + 1, &[Value::text("true")]);
            stream.write_all(&first).unwrap();
            stream.write_all(&job_removed(OWNER, "done")).unwrap();
        });
        let mut connection = Connection::open(&[address], PEER, LONG).unwrap();
        assert_eq!(job_result(&mut connection), "done");
        assert!(connection.received.capacity() < 1 << 16);
        drop(connection);
        served.join().unwrap();
    }

    #[test]
    fn a_flood_holds_no_deadline_off() {
        // A stranger's, and one of who is listened to.
        for sender in [STRANGER, OWNER] {
            let (_directory, address, served) = true_bus(move |stream| {
                let flood = job_removed(sender, "failed").repeat(100);
                while stream.write_all(&flood).is_ok() {}
            });
            let mut connection = Connection::open(&[address], PEER, LONG).unwrap();
            connection.patience = SHORT;
            for wait in ["an answer", "a signal"] {
                connection.begin();
                let sent = call(&mut connection);
                let error = match wait {
                    "an answer" => Error::from(connection.reply(sent).unwrap_err()),
                    _ => connection.signal(|_| false).unwrap_err(),
                };
                assert_eq!(error.to_string(), "no answer within 0 s", "{wait}");
                assert!(connection.signals.len() <= SIGNALS, "{wait}");
            }
            // There is something to be read when the time is up.
            let mut flooded = [PollFd::new(connection.socket.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut flooded, PollTimeout::NONE), Ok(1));
            connection.deadline = Instant::now();
            let error = connection.read().unwrap_err();
            assert_eq!(error.to_string(), "no answer within 0 s");
            drop(connection);
            served.join().unwrap();
        }
    }

    #[test]
    fn who_owns_the_name_by_now_is_listened_to() {
        let changed = |from: &str, to: &str| {
            let words = [PEER, from, to].map(Value::text);
            signal(BUS, "NameOwnerChanged", &words)
        };
        let other = [Value::text("x"), Value::text(""), Value::text(STRANGER)];
        let said = answers(&[
            &returned(OWNER, INTRODUCTION + 1, &[Value::text("true")]),
            &changed(OWNER, ""),
            &job_removed(OWNER, "from one who has it no more"),
            &signal(BUS, "NameOwnerChanged", &other),
            &job_removed(STRANGER, "from one who has another"),
            &changed("", SUCCESSOR),
            &job_removed(SUCCESSOR, "done"),
        ]);
        let (_directory, address, served) =
            true_bus(move |stream| stream.write_all(&said).unwrap());
        let mut connection = Connection::open(&[address], PEER, LONG).unwrap();
        assert_eq!(job_result(&mut connection), "done");
        drop(connection);
        served.join().unwrap();
    }

    #[test]
    fn what_systemd_says_too_long_is_an_error() {
        let (_directory, address, served) = true_bus(|stream| {
            // We may be gone before it is written.
            let _ = stream.write_all(&job_removed(OWNER, &"x".repeat(2 << 20)));
        });
        let mut connection = Connection::open(&[address], PEER, LONG).unwrap();
        let error = connection.signal(|_| true).unwrap_err();
        assert_eq!(error.to_string(), "it sent a message that is too long");
        drop(connection);
        served.join().unwrap();
    }
}
