//! ttrpc on the wire: frames of ten bytes and a message, written here once
//! more so that a case sees codes and texts as they were sent.
//!
//! ```text
//! length (u32, big endian) | stream (u32) | kind: 1 request, 2 response | flags | message
//! ```

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use containerd_shim_protos::protobuf::{Enum, Message};
use containerd_shim_protos::ttrpc::proto::{Code, KeyValue, Request, Response};

use crate::runtime::HANG;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// An answer that is an error: a code of ttrpc and its text. `None` when the
/// connection ended before the answer came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The status code.
    pub code: Option<Code>,
    /// What it says.
    pub text: String,
}

/// What a call answers.
pub type Answer<T> = Result<T, Failure>;

type Slots = Arc<Mutex<Option<HashMap<u32, Sender<Vec<u8>>>>>>;

/// A connection to a shim; calls may be under way at the same time.
pub struct Client {
    stream: UnixStream,
    writing: Mutex<()>,
    next: AtomicU32,
    slots: Slots,
}

/// A call that was sent.
pub struct Pending {
    answer: Receiver<Vec<u8>>,
    method: String,
}

impl Client {
    /// Connects to the socket at this path.
    ///
    /// # Errors
    /// Nobody listens there, or it may not be reached.
    pub fn connect(path: &str) -> std::io::Result<Client> {
        let stream = UnixStream::connect(path)?;
        let mut reading = stream.try_clone()?;
        let slots: Slots = Arc::new(Mutex::new(Some(HashMap::new())));
        let shared = slots.clone();
        std::thread::spawn(move || {
            while let Ok((stream, kind, message)) = read_frame(&mut reading) {
                assert_eq!(kind, RESPONSE, "the shim sent something else");
                let mut slots = shared.lock().expect("slots");
                let waiting = slots.as_mut().and_then(|slots| slots.remove(&stream));
                // The case may have given up.
                waiting.map(|slot| slot.send(message));
            }
            shared.lock().expect("slots").take();
        });
        Ok(Client {
            stream,
            writing: Mutex::new(()),
            next: AtomicU32::new(0),
            slots,
        })
    }

    /// Sends a call; its answer is taken later.
    pub fn send(&self, service: &str, method: &str, request: &impl Message) -> Pending {
        let (slot, answer) = channel();
        // Numbers go up on the wire too, or the other side takes them for old.
        let _turn = self.writing.lock().expect("writing");
        let stream = self.next.fetch_add(1, Ordering::Relaxed) * 2 + 1;
        if let Some(slots) = self.slots.lock().expect("slots").as_mut() {
            slots.insert(stream, slot);
        }
        let namespace = KeyValue {
            key: "containerd-namespace-ttrpc".to_owned(),
            value: super::NAMESPACE.to_owned(),
            ..KeyValue::default()
        };
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: request.write_to_bytes().expect("a request"),
            metadata: vec![namespace],
            ..Request::default()
        };
        let bytes = request.write_to_bytes().expect("an envelope");
        if write_frame(&mut &self.stream, stream, REQUEST, &bytes).is_err()
            && let Some(slots) = self.slots.lock().expect("slots").as_mut()
        {
            slots.remove(&stream);
        }
        Pending {
            answer,
            method: method.to_owned(),
        }
    }

    /// Ends the connection, as a client that dies.
    pub fn close(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.close();
    }
}

impl Pending {
    /// The answer.
    ///
    /// # Errors
    /// The call failed, or the connection ended.
    ///
    /// # Panics
    /// When no answer comes.
    #[track_caller]
    pub fn wait<T: Message>(self) -> Answer<T> {
        match self.within(HANG) {
            Ok(answer) => answer,
            Err(pending) => panic!("no answer to {}", pending.method),
        }
    }

    /// The answer, or the call again when none came in this time.
    ///
    /// # Errors
    /// No answer yet.
    ///
    /// # Panics
    /// When the answer is no message.
    pub fn within<T: Message>(self, time: Duration) -> Result<Answer<T>, Pending> {
        match self.answer.recv_timeout(time) {
            Ok(bytes) => Ok(parse(&bytes)),
            Err(RecvTimeoutError::Timeout) => Err(self),
            Err(RecvTimeoutError::Disconnected) => Ok(Err(Failure {
                code: None,
                text: format!("{}: the connection ended", self.method),
            })),
        }
    }
}

fn parse<T: Message>(bytes: &[u8]) -> Answer<T> {
    let response = Response::parse_from_bytes(bytes).expect("a response");
    match response.status.into_option() {
        Some(status) if status.code.value() != Code::OK.value() => Err(Failure {
            code: status.code.enum_value().ok(),
            text: status.message,
        }),
        _ => Ok(T::parse_from_bytes(&response.payload).expect("a message")),
    }
}

/// Reads one request: its stream, and what is asked.
///
/// # Errors
/// The connection ended.
///
/// # Panics
/// When it is no request.
pub fn read_request(stream: &mut UnixStream) -> std::io::Result<(u32, Request)> {
    let (number, kind, message) = read_frame(stream)?;
    assert_eq!(kind, REQUEST, "the shim sent something else");
    let request = Request::parse_from_bytes(&message).expect("a request");
    Ok((number, request))
}

/// Answers a request with this payload.
///
/// # Errors
/// The connection ended.
///
/// # Panics
/// Never: a response can be encoded.
pub fn write_response(stream: &mut UnixStream, number: u32, payload: &[u8]) -> std::io::Result<()> {
    let response = Response {
        payload: payload.to_vec(),
        ..Response::default()
    };
    let bytes = response.write_to_bytes().expect("a response");
    write_frame(stream, number, RESPONSE, &bytes)
}

fn read_frame(stream: &mut UnixStream) -> std::io::Result<(u32, u8, Vec<u8>)> {
    let mut header = [0; 10];
    stream.read_exact(&mut header)?;
    let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| header[at + i]));
    let mut message = vec![0; number(0) as usize];
    stream.read_exact(&mut message)?;
    Ok((number(4), header[8], message))
}

fn write_frame(
    stream: &mut impl Write,
    number: u32,
    kind: u8,
    message: &[u8],
) -> std::io::Result<()> {
    let mut frame = Vec::with_capacity(10 + message.len());
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(number.to_be_bytes());
    frame.extend([kind, 0]);
    frame.extend(message);
    stream.write_all(&frame)
}
