//! The events service of containerd: what the shim told, in the order in
//! which it came. It can be killed and started again on the same address, and
//! it can hang.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::events::task;
use containerd_shim_protos::protobuf::Message;

use super::wire;
use crate::runtime::HANG;

/// An event that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The topic without `/tasks/`.
    pub topic: String,
    /// The container.
    pub container: String,
    /// The exec; empty for the container's first process.
    pub exec: String,
    /// The process, 0 where the event has none.
    pub pid: u32,
    /// The exit status, 0 where the event has none.
    pub status: u32,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    connections: Vec<UnixStream>,
    /// Counts the lives: a thread of an earlier life records nothing.
    life: u32,
    hangs: bool,
    stopped: bool,
}

/// The service.
pub struct Recorder {
    path: PathBuf,
    listener: Mutex<Option<UnixListener>>,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Recorder {
    /// Serves on this path.
    pub fn new(path: &Path) -> Recorder {
        let recorder = Recorder {
            path: path.to_owned(),
            listener: Mutex::new(None),
            shared: Arc::default(),
        };
        recorder.start();
        recorder
    }

    /// Serves again after [`stop`](Recorder::stop).
    ///
    /// # Panics
    /// When it can't listen.
    pub fn start(&self) {
        let _ = std::fs::remove_file(&self.path);
        let listener = UnixListener::bind(&self.path).expect("bind");
        let life = {
            let mut state = self.shared.0.lock().expect("state");
            state.stopped = false;
            state.life += 1;
            state.life
        };
        let accepting = listener.try_clone().expect("dup");
        *self.listener.lock().expect("listener") = Some(listener);
        let shared = self.shared.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let mut state = shared.0.lock().expect("state");
                if state.life != life || state.stopped {
                    return;
                }
                state.connections.push(stream.try_clone().expect("dup"));
                drop(state);
                let shared = shared.clone();
                std::thread::spawn(move || record(stream, life, &shared));
            }
        });
    }

    /// Ends as by SIGKILL: nothing is answered any more, and the socket's file
    /// stays.
    ///
    /// # Panics
    /// When it is not served.
    pub fn stop(&self) {
        let mut state = self.shared.0.lock().expect("state");
        state.stopped = true;
        for connection in state.connections.drain(..) {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        self.shared.1.notify_all();
        let listener = self.listener.lock().expect("listener").take();
        let listener = listener.expect("it is served");
        let _ = nix::sys::socket::shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }

    /// Accepts and reads, but neither records nor answers (as by SIGSTOP).
    ///
    /// # Panics
    /// Never.
    pub fn hang(&self, hangs: bool) {
        self.shared.0.lock().expect("state").hangs = hangs;
        self.shared.1.notify_all();
    }

    /// What came so far.
    ///
    /// # Panics
    /// Never.
    pub fn events(&self) -> Vec<Event> {
        self.shared.0.lock().expect("state").events.clone()
    }

    /// Waits until the events satisfy `found`.
    ///
    /// # Panics
    /// When they never do.
    #[track_caller]
    pub fn wait(&self, what: &str, found: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        self.wait_within(HANG, what, found)
    }

    /// [`wait`](Recorder::wait) with a time of its own.
    ///
    /// # Panics
    /// When they never do.
    #[track_caller]
    pub fn wait_within(
        &self,
        time: Duration,
        what: &str,
        found: impl Fn(&[Event]) -> bool,
    ) -> Vec<Event> {
        let begin = Instant::now();
        let mut state = self.shared.0.lock().expect("state");
        loop {
            if found(&state.events) {
                return state.events.clone();
            }
            let left = time.saturating_sub(begin.elapsed());
            let tail = state.events.len().saturating_sub(20);
            assert!(
                !left.is_zero(),
                "no {what}; {} events, the last: {:#?}",
                state.events.len(),
                &state.events[tail..]
            );
            state = self.shared.1.wait_timeout(state, left).expect("state").0;
        }
    }

    /// Waits for the exit of a container or of an exec in it; its status.
    ///
    /// # Panics
    /// When it never comes.
    #[track_caller]
    pub fn exit(&self, container: &str, exec: &str) -> u32 {
        let is = |event: &Event| {
            event.topic == "exit" && event.container == container && event.exec == exec
        };
        let what = format!("exit of `{container}` `{exec}`");
        let events = self.wait(&what, |events| events.iter().any(is));
        events.iter().find(|event| is(event)).expect("found").status
    }

    /// The topics of one container, in order, execs as `topic EXEC`.
    pub fn story(&self, container: &str) -> Vec<String> {
        let events = self.events();
        let events = events.iter().filter(|event| event.container == container);
        let word = |event: &Event| format!("{} {}", event.topic, event.exec);
        events.map(|event| word(event).trim().to_owned()).collect()
    }

    /// [`story`](Recorder::story) of a container that was deleted: it is told of
    /// that after the one who deletes it is answered.
    ///
    /// # Panics
    /// When its delete is never told.
    #[track_caller]
    pub fn whole_story(&self, container: &str) -> Vec<String> {
        let is = |event: &Event| event.topic == "delete" && event.container == container;
        self.wait("delete", |events| events.iter().any(is));
        self.story(container)
    }

    /// How often each process was said to have ended: (container, exec).
    pub fn exits(&self) -> BTreeMap<(String, String), u32> {
        let mut exits = BTreeMap::new();
        for event in self.events() {
            if event.topic == "exit" {
                *exits.entry((event.container, event.exec)).or_default() += 1;
            }
        }
        exits
    }
}

/// One connection: records a request and answers it, both or neither.
fn record(mut stream: UnixStream, life: u32, shared: &(Mutex<State>, Condvar)) {
    while let Ok((number, request)) = wire::read_request(&mut stream) {
        assert_eq!(
            (request.service.as_str(), request.method.as_str()),
            ("containerd.services.events.ttrpc.v1.Events", "Forward")
        );
        let forward = ForwardRequest::parse_from_bytes(&request.payload).expect("Forward");
        let mut state = shared.0.lock().expect("state");
        while state.hangs && !state.stopped {
            state = shared.1.wait(state).expect("state");
        }
        if state.stopped || state.life != life {
            return;
        }
        state.events.push(event(&forward));
        // An error is the shim's own end.
        let _ = wire::write_response(&mut stream, number, &[]);
        shared.1.notify_all();
    }
}

fn event(forward: &ForwardRequest) -> Event {
    let envelope = &forward.envelope;
    assert_eq!(
        envelope.namespace,
        super::NAMESPACE,
        "the event's namespace"
    );
    assert!(envelope.timestamp.is_some(), "the event has no time");
    let topic = envelope.topic.strip_prefix("/tasks/");
    let topic = topic.expect("a topic of tasks");
    let bytes = &envelope.event.value;
    let (kind, container, exec, pid, status) = fields(topic, bytes);
    let url = format!("containerd.events.{kind}");
    assert_eq!(envelope.event.type_url, url, "the type of {topic}");
    let exec = if exec == container {
        String::new()
    } else {
        exec
    };
    Event {
        topic: topic.to_owned(),
        container,
        exec,
        pid,
        status,
    }
}

/// The type, and container, exec, pid and status of an event.
fn fields(topic: &str, bytes: &[u8]) -> (&'static str, String, String, u32, u32) {
    fn of<T: Message>(bytes: &[u8]) -> T {
        T::parse_from_bytes(bytes).expect("an event")
    }
    let none = String::new;
    match topic {
        "create" => {
            let event: task::TaskCreate = of(bytes);
            ("TaskCreate", event.container_id, none(), event.pid, 0)
        }
        "start" => {
            let event: task::TaskStart = of(bytes);
            ("TaskStart", event.container_id, none(), event.pid, 0)
        }
        "exit" => {
            let e: task::TaskExit = of(bytes);
            assert!(e.exited_at.is_some(), "an exit without its time");
            ("TaskExit", e.container_id, e.id, e.pid, e.exit_status)
        }
        "delete" => {
            let e: task::TaskDelete = of(bytes);
            ("TaskDelete", e.container_id, e.id, e.pid, e.exit_status)
        }
        "oom" => {
            let event: task::TaskOOM = of(bytes);
            ("TaskOOM", event.container_id, none(), 0, 0)
        }
        "exec-added" => {
            let e: task::TaskExecAdded = of(bytes);
            ("TaskExecAdded", e.container_id, e.exec_id, 0, 0)
        }
        "exec-started" => {
            let e: task::TaskExecStarted = of(bytes);
            ("TaskExecStarted", e.container_id, e.exec_id, e.pid, 0)
        }
        "paused" => {
            let event: task::TaskPaused = of(bytes);
            ("TaskPaused", event.container_id, none(), 0, 0)
        }
        "resumed" => {
            let event: task::TaskResumed = of(bytes);
            ("TaskResumed", event.container_id, none(), 0, 0)
        }
        "checkpointed" => {
            let event: task::TaskCheckpointed = of(bytes);
            ("TaskCheckpointed", event.container_id, none(), 0, 0)
        }
        other => panic!("topic `{other}`"),
    }
}
