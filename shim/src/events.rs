//! Events for containerd, one after the other in the order in which they were
//! published, over ttrpc.
//!
//! Whoever publishes never waits. One task sends: it connects, sends the first
//! event of the queue, and takes it out when containerd has answered. While
//! containerd is away it goes on trying; what is published meanwhile waits, so an
//! exit is told however long that takes. An event may be sent twice if containerd
//! dies between taking and answering it, never not at all.

use std::collections::VecDeque;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::topics;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message as _, MessageField};
use rrun::error::{Error, Kind, Result};
use tokio::sync::Notify;

use crate::cli::Invocation;
use crate::log;
use crate::reaper::Reaper;

/// How many events wait at most; then those that are no exit go first.
const LONGEST: usize = 2048;
/// How long containerd may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause after a failure: it doubles up to the second one.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(2)];
/// How often an event that containerd answers with an error is tried.
const TRIES: u32 = 5;
/// How often an exit is, for which somebody waits: about two minutes long. For
/// ever it can't be, since those behind it wait too.
const TRIES_OF_AN_EXIT: u32 = 64;

/// Where events go.
#[derive(Debug, Clone)]
pub(crate) enum Via {
    /// The address of containerd's ttrpc server.
    Ttrpc(String),
    /// `BINARY --address ADDRESS publish`, for a containerd without one.
    Binary {
        /// containerd.
        binary: String,
        /// Its gRPC address.
        address: String,
        /// Who waits for it.
        reaper: Reaper,
    },
}

impl Via {
    /// By ttrpc, if the environment has its address.
    #[must_use]
    pub(crate) fn choose(invocation: &Invocation, reaper: &Reaper) -> Self {
        match std::env::var("TTRPC_ADDRESS") {
            Ok(address) if !address.is_empty() => Self::Ttrpc(address),
            _ => Self::Binary {
                binary: invocation.publish_binary.clone(),
                address: invocation.address.clone(),
                reaper: reaper.clone(),
            },
        }
    }
}

/// Publishes events.
#[derive(Debug, Clone)]
pub(crate) struct Publisher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    namespace: String,
    waiting: Mutex<VecDeque<Waiting>>,
    /// An event was put in.
    more: Notify,
    /// The last event was taken out.
    empty: Notify,
}

#[derive(Debug)]
struct Waiting {
    topic: &'static str,
    event: Any,
    at: SystemTime,
}

impl Publisher {
    /// Publishes in `namespace` from now on; the task ends with the runtime it is
    /// spawned on.
    #[must_use]
    pub(crate) fn new(via: Via, namespace: String) -> Self {
        let shared = Arc::new(Shared {
            namespace,
            waiting: Mutex::default(),
            more: Notify::new(),
            empty: Notify::new(),
        });
        tokio::spawn(send_all(shared.clone(), via));
        Self(shared)
    }

    /// Puts an event at the end of the queue.
    pub(crate) fn publish(&self, topic: &'static str, event: Any) {
        let mut waiting = self.0.waiting();
        if waiting.len() >= LONGEST {
            let lost = waiting
                .iter()
                .position(|event| event.topic != topics::TASK_EXIT_EVENT_TOPIC)
                .and_then(|lost| waiting.remove(lost));
            if let Some(lost) = lost {
                log::error(format_args!(
                    "event {} is dropped: too many wait",
                    lost.topic
                ));
            }
        }
        waiting.push_back(Waiting {
            topic,
            event,
            at: SystemTime::now(),
        });
        self.0.more.notify_one();
    }

    /// Waits until every event is sent; whether that came to pass in time.
    pub(crate) async fn flush(&self, within: Duration) -> bool {
        let sent = async {
            while self.waiting() > 0 {
                self.0.empty.notified().await;
            }
        };
        tokio::time::timeout(within, sent).await.is_ok()
    }

    /// How many events wait.
    #[must_use]
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting().len()
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first event in the queue, which stays there.
    fn first(&self) -> Option<Envelope> {
        let waiting = self.waiting();
        let first = waiting.front()?;
        Some(Envelope {
            timestamp: MessageField::some(Timestamp::from(first.at)),
            namespace: self.namespace.clone(),
            topic: first.topic.to_owned(),
            event: MessageField::some(first.event.clone()),
            ..Envelope::default()
        })
    }

    /// Takes out the first event if it still is this one: when too many waited
    /// it may have been dropped meanwhile.
    fn sent(&self, envelope: &Envelope) {
        let mut waiting = self.waiting();
        let same =
            |first: &Waiting| MessageField::some(Timestamp::from(first.at)) == envelope.timestamp;
        if waiting.front().is_some_and(same) {
            waiting.pop_front();
        }
        if waiting.is_empty() {
            *waiting = VecDeque::new();
            self.empty.notify_waiters();
            self.empty.notify_one();
        }
    }
}

/// Why an event was not sent.
enum Failure {
    /// containerd is away.
    Away(String),
    /// containerd does not want it.
    Refused(String),
}

async fn send_all(shared: Arc<Shared>, via: Via) {
    let mut client = None;
    let [mut pause, _] = PAUSES;
    let mut tries = 0;
    loop {
        let Some(envelope) = shared.first() else {
            shared.more.notified().await;
            continue;
        };
        let sent = match &via {
            Via::Ttrpc(address) => forward(&mut client, address, &envelope).await,
            Via::Binary {
                binary,
                address,
                reaper,
            } => run(binary, address, reaper, &envelope).await,
        };
        match sent {
            Ok(()) => {
                shared.sent(&envelope);
                [pause, _] = PAUSES;
                tries = 0;
                continue;
            }
            Err(Failure::Refused(why)) if tries + 1 >= tries_of(&envelope.topic) => {
                log::error(format_args!("event {} is refused: {why}", envelope.topic));
                shared.sent(&envelope);
                tries = 0;
                continue;
            }
            Err(Failure::Refused(why)) => {
                tries += 1;
                log::debug(format_args!("event {}: {why}", envelope.topic));
            }
            Err(Failure::Away(why)) => log::debug(format_args!("events: {why}")),
        }
        tokio::time::sleep(pause).await;
        pause = PAUSES[1].min(pause * 2);
    }
}

fn tries_of(topic: &str) -> u32 {
    if topic == topics::TASK_EXIT_EVENT_TOPIC {
        TRIES_OF_AN_EXIT
    } else {
        TRIES
    }
}

async fn forward(
    client: &mut Option<EventsClient>,
    address: &str,
    envelope: &Envelope,
) -> Result<(), Failure> {
    let connected = match client.take() {
        Some(connected) => connected,
        None => connect(address).await.map_err(Failure::Away)?,
    };
    let request = ForwardRequest {
        envelope: MessageField::some(envelope.clone()),
        ..ForwardRequest::default()
    };
    let context = ttrpc::context::with_duration(PATIENCE);
    let answer = connected.forward(context, &request).await;
    match answer {
        Ok(_) => {
            *client = Some(connected);
            Ok(())
        }
        Err(ttrpc::Error::RpcStatus(status)) if !is_away(&status) => {
            *client = Some(connected);
            Err(Failure::Refused(status.message().to_owned()))
        }
        Err(error) => Err(Failure::Away(error.to_string())),
    }
}

/// Whether an answer says that nobody could answer.
fn is_away(status: &ttrpc::Status) -> bool {
    let code = status.code();
    code == ttrpc::Code::DEADLINE_EXCEEDED || code == ttrpc::Code::UNAVAILABLE
}

async fn connect(address: &str) -> Result<EventsClient, String> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    let client = Client::connect(&format!("unix://{path}")).await;
    client
        .map(EventsClient::new)
        .map_err(|error| error.to_string())
}

async fn run(
    binary: &str,
    address: &str,
    reaper: &Reaper,
    envelope: &Envelope,
) -> Result<(), Failure> {
    let published = publish_by(binary, address, reaper, envelope).await;
    published.map_err(|error| Failure::Refused(error.to_string()))
}

async fn publish_by(
    binary: &str,
    address: &str,
    reaper: &Reaper,
    envelope: &Envelope,
) -> Result<()> {
    let event = envelope.event.clone().unwrap_or_default();
    let event = event
        .write_to_bytes()
        .map_err(|error| Error::new(Kind::System, error.to_string()))?;
    let mut command = Command::new(binary);
    command
        .args(["--address", address, "publish"])
        .args(["--topic", &envelope.topic])
        .args(["--namespace", &envelope.namespace])
        .stdin(crate::runtime::file_with(&event)?)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let exit = reaper.spawn(&mut command)?.wait().await?;
    match exit.status {
        0 => Ok(()),
        status => {
            let text = format!("{binary} publish: exit status {status}");
            Err(Error::new(Kind::System, text))
        }
    }
}

#[cfg(test)]
mod tests;
