//! The streams behind the URLs that Exec, Attach and PortForward answer: a
//! WebSocket of the protocol v4.channel.k8s.io, in which the first byte of
//! every message is its channel.
//!
//! | channel | exec and attach | forwarded port N |
//! |---|---|---|
//! | 0 | stdin | 2N: data, after two bytes with the port |
//! | 1 | stdout | 2N+1: errors, the same |
//! | 2 | stderr | |
//! | 3 | the end's status, JSON | |
//! | 4 | sizes of the terminal, JSON | |

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

/// How long a stream may be silent.
const LIMIT: Duration = Duration::from_secs(20);

/// A stream.
pub(crate) struct Stream {
    socket: WebSocket<TcpStream>,
    received: BTreeMap<u8, Vec<u8>>,
}

impl Stream {
    /// Connects to `http://HOST:PORT/PATH`.
    pub(crate) fn open(url: &str) -> Stream {
        let rest = url.strip_prefix("http://").expect("an http URL");
        let (host, path) = rest.split_once('/').expect("a URL with a path");
        let mut socket = TcpStream::connect(host).expect("the streaming server");
        socket.set_read_timeout(Some(LIMIT)).expect("a time limit");
        write!(
            socket,
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
        )
        .expect("the request of a WebSocket");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            socket.read_exact(&mut byte).expect("the server's answer");
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head);
        assert!(head.starts_with("HTTP/1.1 101 "), "no WebSocket: {head}");
        Stream {
            socket: WebSocket::from_raw_socket(socket, Role::Client, None),
            received: BTreeMap::new(),
        }
    }

    /// Sends a message on a channel.
    pub(crate) fn send(&mut self, channel: u8, bytes: &[u8]) {
        let message = [&[channel], bytes].concat();
        self.socket
            .send(Message::binary(message))
            .expect("the stream takes a message");
    }

    /// Sets the size of the terminal.
    pub(crate) fn resize(&mut self, width: u16, height: u16) {
        self.send(
            4,
            format!("{{\"Width\":{width},\"Height\":{height}}}").as_bytes(),
        );
    }

    /// Reads until the channel has the text.
    #[track_caller]
    pub(crate) fn until(&mut self, channel: u8, text: &str) {
        let limit = Instant::now() + LIMIT;
        while !self.text(channel).contains(text) {
            let more = Instant::now() < limit && self.read();
            assert!(more, "{text:?} never came, but {:?}", self.text(channel));
        }
    }

    /// Reads what is there already.
    pub(crate) fn pending(&mut self) {
        let tcp = self.socket.get_ref();
        tcp.set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a time limit");
        while self.read() {}
        let tcp = self.socket.get_ref();
        tcp.set_read_timeout(Some(LIMIT)).expect("a time limit");
    }

    /// Reads until the server closes it.
    pub(crate) fn to_the_end(&mut self) {
        while self.read() {}
    }

    /// Closes it and forgets the rest.
    pub(crate) fn close(mut self) {
        let _ = self.socket.close(None);
        let _ = self.socket.flush();
    }

    /// What came on a channel.
    pub(crate) fn text(&self, channel: u8) -> String {
        let bytes = self.received.get(&channel).map_or(&[][..], Vec::as_slice);
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// How many bytes came on a channel.
    pub(crate) fn bytes(&self, channel: u8) -> usize {
        self.received.get(&channel).map_or(0, Vec::len)
    }

    /// The exit code that the status tells: 0 for success.
    pub(crate) fn exit_code(&self) -> i64 {
        let text = self.text(3);
        let status: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text:?}"));
        if status["status"] == "Success" {
            return 0;
        }
        assert_eq!(status["reason"], "NonZeroExitCode", "{text}");
        let code = status["details"]["causes"][0]["message"].as_str();
        code.and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("{text}"))
    }

    /// One message; false at the end.
    fn read(&mut self) -> bool {
        use tungstenite::Error;
        match self.socket.read() {
            Ok(Message::Binary(bytes)) => {
                if let Some((channel, rest)) = bytes.split_first() {
                    self.received.entry(*channel).or_default().extend(rest);
                }
                true
            }
            Ok(Message::Close(_)) => false,
            Ok(_) => true,
            Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(_)) => false,
            Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            // Nothing within the time limit.
            Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            Err(error) => panic!("the stream: {error}; so far {:?}", self.received),
        }
    }
}
