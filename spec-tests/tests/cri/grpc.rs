//! gRPC over containerd's socket, as much as unary calls need: HTTP/2 is h2's,
//! a message is five bytes (not compressed, its length) and its encoding, the
//! answer's status is in the trailers.
//!
//! Every call has a connection of its own, so a containerd that was restarted
//! in between is no special case.

use std::path::PathBuf;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use protobuf::Message;
use tokio::net::UnixStream;

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(45);

/// A status other than OK.
#[derive(Debug)]
pub(crate) struct Status {
    /// The code, a name of gRPC's list.
    pub(crate) code: Code,
    /// What the server says.
    pub(crate) message: String,
}

/// The codes that cases ask for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Unknown,
    DeadlineExceeded,
    NotFound,
    /// Another one, or no connection (-1).
    Other(i32),
}

impl From<i32> for Code {
    fn from(code: i32) -> Code {
        match code {
            2 => Code::Unknown,
            4 => Code::DeadlineExceeded,
            5 => Code::NotFound,
            other => Code::Other(other),
        }
    }
}

/// A containerd.
pub(crate) struct Cri {
    /// Its socket.
    pub(crate) socket: PathBuf,
}

impl Cri {
    /// Calls `METHOD` of the runtime service, or `SERVICE/METHOD`.
    pub(crate) fn call<R: Message>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<R, Status> {
        let method = match method.split_once('/') {
            Some(_) => method.to_owned(),
            None => format!("RuntimeService/{method}"),
        };
        let encoded = request.write_to_bytes().expect("the request's encoding");
        let mut frame = BytesMut::with_capacity(encoded.len() + 5);
        frame.put_u8(0);
        frame.put_u32(u32::try_from(encoded.len()).expect("a small request"));
        frame.put_slice(&encoded);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("tokio");
        let exchange = async {
            match tokio::time::timeout(LIMIT, self.exchange(&method, frame.freeze())).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => Err(lost(format!("{method}: {error}"))),
                Err(_) => Err(lost(format!("{method}: no answer within {LIMIT:?}"))),
            }
        };
        let body = runtime.block_on(exchange)?;
        let message = body.get(5..).expect("a frame of an answer");
        Ok(R::parse_from_bytes(message).expect("the answer's encoding"))
    }

    async fn exchange(
        &self,
        method: &str,
        frame: Bytes,
    ) -> Result<Result<Vec<u8>, Status>, Box<dyn std::error::Error>> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        let request = http::Request::post(format!("http://localhost/runtime.v1.{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut sender = sender.ready().await?;
        let (response, mut body) = sender.send_request(request, false)?;
        body.send_data(frame, true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut received = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            received.extend_from_slice(&chunk);
        }
        // An answer that is only a status has it in its head.
        let trailers = body.trailers().await?.unwrap_or(head.headers);
        Ok(status(&trailers).map_or(Ok(received), Err))
    }
}

fn status(trailers: &HeaderMap) -> Option<Status> {
    let text = |name| trailers.get(name).and_then(|value| value.to_str().ok());
    let code: i32 = text("grpc-status").and_then(|code| code.parse().ok())?;
    (code != 0).then(|| Status {
        code: Code::from(code),
        message: decoded(text("grpc-message").unwrap_or("")),
    })
}

fn lost(message: String) -> Status {
    Status {
        code: Code::Other(-1),
        message,
    }
}

/// Without the percent encoding.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
