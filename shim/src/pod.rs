//! The containers of one shim, and what they share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task::TaskOOM;
use containerd_shim_protos::topics;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use rrun::error::{Error, Kind, Result};
use tokio::sync::watch;

use crate::container::{self, Container};
use crate::events::Publisher;
use crate::log;
use crate::oom::OomWatch;
use crate::reaper::Reaper;

/// A shim that never had a container, or whose last one is gone without a
/// `Shutdown`, is of no use to anybody after this time.
const IDLE: Duration = Duration::from_secs(30);

/// What every container of the pod uses.
#[derive(Debug)]
pub(crate) struct Shared {
    /// containerd's namespace.
    pub namespace: String,
    /// Who waits for children.
    pub reaper: Reaper,
    /// Who tells of containers that run out of memory.
    pub oom: OomWatch,
    events: Publisher,
}

impl Shared {
    /// Queues an event.
    pub(crate) fn publish(&self, topic: &'static str, event: &impl Message) {
        publish(&self.events, topic, event);
    }
}

fn publish<Event: Message>(events: &Publisher, topic: &'static str, event: &Event) {
    match event.write_to_bytes() {
        Ok(value) => events.publish(
            topic,
            Any {
                // Not by the descriptor: that takes half a megabyte to build.
                type_url: format!("containerd.events.{}", Event::NAME),
                value,
                ..Any::default()
            },
        ),
        Err(error) => log::error(format_args!("encode the event {topic}: {error}")),
    }
}

/// The containers of one shim.
#[derive(Debug)]
pub(crate) struct Pod {
    shared: Arc<Shared>,
    containers: Mutex<HashMap<String, Slot>>,
    /// How many there are, and whether the end was asked for.
    standing: watch::Sender<Standing>,
}

/// An id that is taken.
#[derive(Debug)]
enum Slot {
    /// Its container is being made.
    Reserved,
    /// Its container.
    Taken(Arc<Container>),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Standing {
    containers: usize,
    shutdown: bool,
}

impl Pod {
    /// A pod without containers.
    #[must_use]
    pub(crate) fn new(namespace: String, reaper: Reaper, events: Publisher) -> Self {
        let of_oom = events.clone();
        let oom = OomWatch::new(move |id| {
            let event = TaskOOM {
                container_id: id.to_owned(),
                ..TaskOOM::default()
            };
            publish(&of_oom, topics::TASK_OOM_EVENT_TOPIC, &event);
        });
        let shared = Arc::new(Shared {
            namespace,
            reaper,
            oom,
            events,
        });
        Self {
            shared,
            containers: Mutex::default(),
            standing: watch::Sender::new(Standing::default()),
        }
    }

    /// Creates a container; its pid.
    ///
    /// # Errors
    /// The id is taken, or a step fails; then nothing is left.
    pub(crate) async fn create(&self, request: &CreateTaskRequest) -> Result<i32> {
        let id = &request.id;
        let _checked: rrun::state::ContainerId = id.parse()?;
        if self.containers().contains_key(id) {
            let text = format!("container {id}: already exists");
            return Err(Error::new(Kind::AlreadyExists, text));
        }
        self.containers().insert(id.clone(), Slot::Reserved);
        self.count();
        let created = container::create(&self.shared, request).await;
        let pid = match created {
            Ok(container) => {
                let pid = container.init.pid();
                self.containers().insert(id.clone(), Slot::Taken(container));
                Ok(pid)
            }
            Err(error) => {
                self.containers().remove(id);
                Err(error)
            }
        };
        self.count();
        pid
    }

    /// The container with this id.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>> {
        match self.containers().get(id) {
            Some(Slot::Taken(container)) => Ok(container.clone()),
            _ => Err(Error::new(
                Kind::NotFound,
                "container not created: not found",
            )),
        }
    }

    /// The container with this id; one that is being made is waited for. Whoever
    /// has given up a `Create` deletes it, and what comes of it must go.
    ///
    /// # Errors
    /// There is none, or it could not be made.
    pub(crate) async fn made(&self, id: &str) -> Result<Arc<Container>> {
        let mut standing = self.standing.subscribe();
        while matches!(self.containers().get(id), Some(Slot::Reserved)) {
            // The sender lives in self: there is always a next change.
            let _changed = standing.changed().await;
        }
        self.container(id)
    }

    /// Forgets a container that was deleted.
    pub(crate) fn remove(&self, id: &str) {
        self.containers().remove(id);
        self.count();
    }

    /// Asks for the end of the shim, which comes if no container is left.
    pub(crate) fn shutdown(&self) {
        self.standing
            .send_modify(|standing| standing.shutdown = true);
    }

    /// Waits until the shim is of no more use.
    pub(crate) async fn finished(&self) {
        let mut standing = self.standing.subscribe();
        loop {
            let now = *standing.borrow_and_update();
            if now.containers == 0 && now.shutdown {
                return;
            }
            // The sender lives in self: there is always a next change.
            if now.containers > 0 {
                let _changed = standing.changed().await;
            } else if tokio::time::timeout(IDLE, standing.changed())
                .await
                .is_err()
            {
                return log::info("no container is left and nobody asked for the end");
            }
        }
    }

    /// Lines for people.
    #[must_use]
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("events waiting: {}", self.shared.events.waiting());
        for (id, slot) in &*self.containers() {
            text += "\n";
            match slot {
                Slot::Reserved => text += &format!("container {id:?}: being created"),
                Slot::Taken(container) => text += &container.describe(),
            }
        }
        text
    }

    fn count(&self) {
        let containers = self.containers().len();
        self.standing.send_modify(|standing| {
            // Whoever asked for the end did not know of what came after.
            standing.shutdown &= containers <= standing.containers;
            standing.containers = containers;
        });
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
