//! The publisher before a containerd that comes, goes, refuses and hangs.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use containerd_shim_protos::api::Empty;
use containerd_shim_protos::shim_async::{Events, create_events};
use ttrpc::asynchronous::{Server, TtrpcContext};

use super::*;

const CREATE: &str = topics::TASK_CREATE_EVENT_TOPIC;
const EXIT: &str = topics::TASK_EXIT_EVENT_TOPIC;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A containerd that remembers what it was told.
#[derive(Default)]
struct Containerd {
    told: Mutex<Vec<(String, String, u8)>>,
    /// How many calls are answered with an error first.
    refusals: AtomicU32,
    /// How many calls are never answered first.
    hangs: AtomicU32,
}

impl Containerd {
    /// The number that each event that arrived carries.
    fn numbers(&self) -> Vec<u8> {
        let told = self.told.lock().unwrap();
        told.iter().map(|(_, _, number)| *number).collect()
    }
}

fn take_one(count: &AtomicU32) -> bool {
    let less = |left: u32| left.checked_sub(1);
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
        .is_ok()
}

#[async_trait]
impl Events for Containerd {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        if take_one(&self.hangs) {
            std::future::pending::<()>().await;
        }
        let envelope = request.envelope.unwrap();
        let number = envelope.event.value.first().copied().unwrap_or_default();
        let told = (envelope.topic, envelope.namespace, number);
        self.told.lock().unwrap().push(told);
        if take_one(&self.refusals) {
            let status = ttrpc::get_status(ttrpc::Code::INVALID_ARGUMENT, "no".to_owned());
            return Err(ttrpc::Error::RpcStatus(status));
        }
        Ok(Empty::default())
    }
}

/// A socket's path, and the folder that goes with it.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rrun-events-{}-{count}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn address(&self) -> String {
        self.0.to_str().unwrap().to_owned()
    }

    fn publisher(&self) -> Publisher {
        Publisher::new(Via::Ttrpc(self.address()), "ns".to_owned())
    }

    async fn serve(&self, containerd: &Arc<Containerd>) -> Server {
        let _old = std::fs::remove_file(&self.0);
        let mut server = Server::new()
            .bind(&format!("unix://{}", self.address()))
            .unwrap()
            .register_service(create_events(containerd.clone()));
        server.start().await.unwrap();
        server
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.0);
    }
}

fn event(number: u8) -> Any {
    Any {
        value: vec![number],
        ..Any::default()
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn events_arrive_in_their_order() {
    run(async {
        let place = Place::new();
        let containerd = Arc::new(Containerd::default());
        let _server = place.serve(&containerd).await;
        let publisher = place.publisher();
        for number in 0..200 {
            publisher.publish(if number == 7 { EXIT } else { CREATE }, event(number));
        }
        assert!(publisher.flush(LONG).await);
        assert_eq!(containerd.numbers(), (0..200).collect::<Vec<_>>());
        let told = containerd.told.lock().unwrap();
        assert_eq!(told[6], ("/tasks/create".to_owned(), "ns".to_owned(), 6));
        assert_eq!(told[7], ("/tasks/exit".to_owned(), "ns".to_owned(), 7));
    });
}

#[test]
fn what_happens_while_containerd_is_away_is_told_when_it_is_back() {
    run(async {
        let place = Place::new();
        let publisher = place.publisher();
        publisher.publish(CREATE, event(1));
        publisher.publish(EXIT, event(2));
        assert!(!publisher.flush(Duration::from_millis(200)).await);
        assert_eq!(publisher.waiting(), 2);
        let containerd = Arc::new(Containerd::default());
        for round in 0..3 {
            let mut server = place.serve(&containerd).await;
            publisher.publish(CREATE, event(round * 10 + 3));
            assert!(publisher.flush(LONG).await, "{round}");
            server.shutdown().await.unwrap();
            drop(server);
            publisher.publish(EXIT, event(round * 10 + 4));
            publisher.publish(CREATE, event(round * 10 + 5));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let _server = place.serve(&containerd).await;
        assert!(publisher.flush(LONG).await);
        assert_eq!(
            containerd.numbers(),
            [1, 2, 3, 4, 5, 13, 14, 15, 23, 24, 25]
        );
    });
}

#[test]
fn an_event_that_is_refused_is_tried_five_times_and_keeps_no_other() {
    run(async {
        let place = Place::new();
        let containerd = Arc::new(Containerd::default());
        containerd.refusals.store(5 + 2, Ordering::Relaxed);
        let _server = place.serve(&containerd).await;
        let publisher = place.publisher();
        for number in 1..4 {
            publisher.publish(CREATE, event(number));
        }
        assert!(publisher.flush(LONG).await);
        assert_eq!(containerd.numbers(), [1, 1, 1, 1, 1, 2, 2, 2, 3]);
    });
}

#[test]
fn an_exit_that_is_refused_is_tried_on() {
    run(async {
        let place = Place::new();
        let containerd = Arc::new(Containerd::default());
        containerd.refusals.store(6, Ordering::Relaxed);
        let _server = place.serve(&containerd).await;
        let publisher = place.publisher();
        publisher.publish(EXIT, event(1));
        publisher.publish(CREATE, event(2));
        assert!(publisher.flush(LONG).await);
        assert_eq!(containerd.numbers(), [1, 1, 1, 1, 1, 1, 1, 2]);
    });
}

#[test]
fn a_containerd_that_does_not_answer_is_asked_again() {
    run(async {
        let place = Place::new();
        let containerd = Arc::new(Containerd::default());
        containerd.hangs.store(1, Ordering::Relaxed);
        let _server = place.serve(&containerd).await;
        let publisher = place.publisher();
        publisher.publish(EXIT, event(1));
        publisher.publish(EXIT, event(2));
        assert!(publisher.flush(LONG).await);
        assert_eq!(containerd.numbers(), [1, 2]);
    });
}

#[test]
fn when_too_many_wait_no_exit_is_dropped() {
    run(async {
        let place = Place::new();
        let publisher = place.publisher();
        publisher.publish(CREATE, event(1));
        publisher.publish(EXIT, event(2));
        publisher.publish(CREATE, event(3));
        for _ in 3..LONGEST {
            publisher.publish(EXIT, event(9));
        }
        assert_eq!(publisher.waiting(), 2048);
        publisher.publish(EXIT, event(4));
        publisher.publish(EXIT, event(5));
        assert_eq!(publisher.waiting(), 2048);
        publisher.publish(EXIT, event(6));
        assert_eq!(publisher.waiting(), 2049);
        let containerd = Arc::new(Containerd::default());
        let _server = place.serve(&containerd).await;
        assert!(publisher.flush(LONG).await);
        let mut others = containerd.numbers();
        others.retain(|number| *number != 9);
        assert_eq!(others, [2, 4, 5, 6]);
    });
}
