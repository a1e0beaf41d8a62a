//! Tells when a container runs out of memory: it is watched from its creation on,
//! told of once its start has been, and never later than its exit.
//!
//! v1 counts into an eventfd for each container (cgroup.event_control); the
//! kernel signals it before it kills. On v2 the counter `oom_kill` of
//! `memory.events` rises before the signal is sent, and one inotify instance
//! watches these files for all containers of the shim: an instance for each
//! would use up the 128 that a user has. Where the kernel gives neither, the
//! counters are looked at every second.
//!
//! However many processes are killed between two looks, it is one event. When
//! a container has exited, [`OomWatch::finish`] looks once more, so that what
//! the event loop has not come to yet is told before the exit.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use rrun::error::Result;
use rrun_sys::call;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use crate::stats::{Cgroups, Memory};

/// How often the counters are looked at where the kernel doesn't tell.
const POLL: Duration = Duration::from_secs(1);

/// The watch over all containers of the shim. Must be used inside the runtime
/// of tokio.
pub(crate) struct OomWatch {
    shared: Arc<Shared>,
}

struct Shared {
    on_oom: Box<dyn Fn(&str) + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    watches: HashMap<String, Watched>,
    /// The instance for all of v2, once there is one, and the task that reads
    /// it, which lives as long as the watch over all.
    changes: Option<Arc<AsyncFd<Changes>>>,
    reader: Option<JoinHandle<()>>,
    /// Looks at the counters of [`Watch::Polled`] while there are any.
    poller: Option<JoinHandle<()>>,
}

/// A container that is watched.
struct Watched {
    watch: Watch,
    /// Its start was told.
    started: bool,
    /// It ran out of memory before that.
    seen: bool,
}

/// How one container is watched.
enum Watch {
    /// v1: the kernel counts into it, and a task waits for that.
    Event {
        event: Arc<AsyncFd<EventFd>>,
        file: PathBuf,
        waiter: JoinHandle<()>,
    },
    /// v2: its file is one of those that the inotify instance watches.
    Changes {
        watch: WatchDescriptor,
        counter: Counter,
    },
    /// Nobody tells.
    Polled(Counter),
}

/// The inotify instance, for tokio to poll.
struct Changes(Inotify);

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A file with a line `oom_kill N`: `memory.events`, or since Linux 4.13 v1's
/// `memory.oom_control`.
struct Counter {
    file: PathBuf,
    /// What was told already.
    killed: u64,
}

impl std::fmt::Debug for OomWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OomWatch").finish_non_exhaustive()
    }
}

impl OomWatch {
    /// A watch that tells of a container's id by calling `on_oom`.
    pub(crate) fn new(on_oom: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            shared: Arc::new(Shared {
                on_oom: Box::new(on_oom),
                state: Mutex::default(),
            }),
        }
    }

    /// Begins to watch the container `id`. Without a memory controller there
    /// is nothing to watch.
    pub(crate) fn watch(&self, id: &str, cgroups: &Cgroups) {
        let watch = match cgroups.memory() {
            Some(Memory::V1(directory)) => self.watch_v1(id, directory),
            Some(Memory::V2(directory)) => self.watch_v2(directory),
            None => return,
        };
        let Some(watch) = watch else { return };
        let mut state = self.shared.state();
        if matches!(watch, Watch::Polled(_)) && state.poller.is_none() {
            let poller = poll(Arc::downgrade(&self.shared));
            state.poller = Some(tokio::spawn(poller));
        }
        let watched = Watched {
            watch,
            started: false,
            seen: false,
        };
        state.watches.insert(id.to_owned(), watched);
    }

    /// The start of `id` was told: what was seen is told from now on.
    pub(crate) fn started(&self, id: &str) {
        let mut state = self.shared.state();
        let Some(watched) = state.watches.get_mut(id) else {
            return;
        };
        watched.started = true;
        let seen = std::mem::take(&mut watched.seen);
        drop(state);
        if seen {
            (self.shared.on_oom)(id);
        }
    }

    /// Tells of an OOM that was not told yet, and watches `id` no more. Before
    /// the exit is told, and before the cgroup is removed.
    pub(crate) fn finish(&self, id: &str) {
        let mut state = self.shared.state();
        let Some(mut watched) = state.watches.remove(id) else {
            return;
        };
        let seen = watched.watch.look() || watched.seen;
        match watched.watch {
            Watch::Event { waiter, .. } => waiter.abort(),
            Watch::Changes { watch, .. } => {
                if let Some(changes) = &state.changes {
                    // The kernel may have taken it away with the cgroup.
                    let _ = changes.get_ref().0.rm_watch(watch);
                }
            }
            Watch::Polled(_) => {}
        }
        drop(state);
        if seen {
            (self.shared.on_oom)(id);
        }
    }

    fn watch_v1(&self, id: &str, directory: &Path) -> Option<Watch> {
        let file = directory.join("memory.oom_control");
        let Ok(event) = register(directory, &file) else {
            return Counter::new(file).map(Watch::Polled);
        };
        let event = Arc::new(event);
        let waiter = wait(
            Arc::downgrade(&self.shared),
            id.to_owned(),
            Arc::clone(&event),
            file.clone(),
        );
        Some(Watch::Event {
            event,
            file,
            waiter: tokio::spawn(waiter),
        })
    }

    fn watch_v2(&self, directory: &Path) -> Option<Watch> {
        let file = directory.join("memory.events");
        // The counter first: what comes after it is news.
        let counter = Counter::new(file)?;
        Some(match self.add_to_changes(&counter.file) {
            Ok(watch) => Watch::Changes { watch, counter },
            Err(_) => Watch::Polled(counter),
        })
    }

    /// Watches `file` by the one instance, which is made when it is needed.
    fn add_to_changes(&self, file: &Path) -> Result<WatchDescriptor> {
        let mut state = self.shared.state();
        let changes = if let Some(changes) = &state.changes {
            Arc::clone(changes)
        } else {
            let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
            let changes = call(Inotify::init(flags), || "inotify_init1()".to_owned())?;
            let changes = readable(Changes(changes))?;
            let changes = Arc::new(changes);
            let reader = read_changes(Arc::downgrade(&self.shared), Arc::clone(&changes));
            state.reader = Some(tokio::spawn(reader));
            state.changes = Some(Arc::clone(&changes));
            changes
        };
        let watch = changes
            .get_ref()
            .0
            .add_watch(file, AddWatchFlags::IN_MODIFY);
        Ok(call(watch, || format!("inotify_add_watch({file:?})"))?)
    }
}

impl Drop for OomWatch {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let all = state.watches.drain();
        let waiters = all.filter_map(|(_, watched)| match watched.watch {
            Watch::Event { waiter, .. } => Some(waiter),
            _ => None,
        });
        let mut tasks: Vec<_> = waiters.collect();
        tasks.extend(state.reader.take());
        tasks.extend(state.poller.take());
        for task in tasks {
            task.abort();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at those that `wanted` picks, and tells what is new.
    fn look(&self, wanted: impl Fn(&Watch) -> bool) {
        let mut state = self.state();
        let all = state.watches.iter_mut();
        let seen: Vec<String> = all
            .filter(|(_, watched)| wanted(&watched.watch))
            .filter_map(|(id, watched)| watched.watch.look().then(|| id.clone()))
            .collect();
        drop(state);
        for id in seen {
            self.saw(&id);
        }
    }

    /// Tells it, or keeps it until the start of the container was told.
    fn saw(&self, id: &str) {
        let mut state = self.state();
        let Some(watched) = state.watches.get_mut(id) else {
            return;
        };
        let told = watched.started;
        watched.seen = !told;
        drop(state);
        if told {
            (self.on_oom)(id);
        }
    }
}

impl Watch {
    /// Whether memory ran out since the last look.
    fn look(&mut self) -> bool {
        match self {
            Self::Event { event, file, .. } => is_signalled(event.get_ref(), file),
            Self::Changes { counter, .. } | Self::Polled(counter) => counter.has_risen(),
        }
    }
}

impl Counter {
    /// Nothing without such a file. One that can't be read now (for want of
    /// descriptors) may be later, and a new cgroup has had no OOM.
    fn new(file: PathBuf) -> Option<Self> {
        let killed = match oom_kills(&file) {
            Some(killed) => killed,
            None if file.exists() => 0,
            None => return None,
        };
        Some(Self { file, killed })
    }

    /// Whether it rose since the last time.
    fn has_risen(&mut self) -> bool {
        let before = self.killed;
        // Gone with the cgroup: nothing more will happen.
        self.killed = oom_kills(&self.file).unwrap_or(before);
        self.killed > before
    }
}

fn oom_kills(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line?.trim().parse().ok()
}

/// Has the kernel count into a new eventfd
/// (Documentation/admin-guide/cgroup-v1/memory.rst, 10).
fn register(directory: &Path, file: &Path) -> Result<AsyncFd<EventFd>> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let event = call(EventFd::from_flags(flags), || "eventfd2()".to_owned())?;
    let control = call(std::fs::File::open(file), || format!("open({file:?})"))?;
    let request = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
    let path = directory.join("cgroup.event_control");
    call(std::fs::write(&path, &request), || {
        format!("write({path:?}, {request:?})")
    })?;
    readable(event)
}

/// What tokio waits for until it can be read.
#[allow(
    deprecated,
    reason = "deprecated for types that may answer with another number; these own theirs"
)]
fn readable<T: AsRawFd>(source: T) -> Result<AsyncFd<T>> {
    let registered = AsyncFd::with_interest(source, Interest::READABLE);
    Ok(call(registered, || "epoll_ctl(EPOLL_CTL_ADD)".to_owned())?)
}

/// Whether the kernel has counted. It also does when the cgroup is removed,
/// which is no OOM.
fn is_signalled(event: &EventFd, file: &Path) -> bool {
    event.read().is_ok_and(|count| count > 0) && file.exists()
}

/// Waits for the eventfd of a container on v1.
async fn wait(shared: Weak<Shared>, id: String, event: Arc<AsyncFd<EventFd>>, file: PathBuf) {
    while let Ok(mut ready) = event.readable().await {
        ready.clear_ready();
        let seen = is_signalled(event.get_ref(), &file);
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if seen {
            shared.saw(&id);
        }
        if !file.exists() {
            return;
        }
    }
}

/// Reads which files have changed on v2.
async fn read_changes(shared: Weak<Shared>, changes: Arc<AsyncFd<Changes>>) {
    while let Ok(mut ready) = changes.readable().await {
        let events = match changes.get_ref().0.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN) => {
                ready.clear_ready();
                continue;
            }
            Err(_) => return,
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        // When the queue has overflowed, any of them may have changed.
        let any = events
            .iter()
            .any(|event| event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW));
        shared.look(|watch| match watch {
            Watch::Changes { watch, .. } => any || events.iter().any(|event| event.wd == *watch),
            _ => false,
        });
    }
}

/// Looks every second, until there is nothing to look at.
async fn poll(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(POLL).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.look(|watch| matches!(watch, Watch::Polled(_)));
        let mut state = shared.state();
        let all = state.watches.values();
        if !all
            .into_iter()
            .any(|watched| matches!(watched.watch, Watch::Polled(_)))
        {
            state.poller = None;
            return;
        }
    }
}
