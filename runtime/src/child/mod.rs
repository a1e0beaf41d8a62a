//! The child: from clone3 to execve.
//!
//! It is a copy of the parent, so it has the plan without being told, and it
//! is alone in its process: a list of steps, taken in the one order that the
//! kernel allows.
//!
//! ```text
//!   isolation       descriptors, parent death signal, not dumpable
//!   new namespaces  those that clone3 left, but for the cgroup's
//!   session         setsid, keyring, loopback, hostname
//!   first mounts    those that don't show the cgroup
//!   (wait: Go)      the cgroups are there, and the id maps
//!   membership      in the cgroups of v1
//!   namespaces      second fork where needed, join, become root
//!   (session)       only now in a user namespace and after a second fork, the
//!                   mounts also beside namespaces that are joined
//!   mounts          the root filesystem, all by descriptor
//!   (wait: hooks)   prestart and createRuntime, in the parent
//!   container hooks createContainer, still with the host's root
//!   pivot           the host is gone
//!   console         /dev/console, standard descriptors
//!   finish          kernel parameters, read-only and masked paths
//!   identity        ids, groups, working directory, capabilities
//!   program         looked up as the user it will run as
//!   seccomp         from here on read and write only
//!   (wait: start)
//!   start hooks     under the filter, as the program
//!   execve
//! ```
//!
//! An `exec` takes the same list without those steps that make a container.
//! Whatever fails is told to the parent, with the step; a panic too.

mod classic;
pub mod console;
mod container;
mod copy_up;
pub mod device;
mod enter;
pub mod hot_mounts;
pub mod identity;
pub mod isolation;
mod lsm;
mod masks;
mod mount;
pub mod namespaces;
pub mod pivot;
mod procfs;
pub mod program;
pub mod progress;
mod root;
pub mod rootfs;
pub mod scheduling;
mod start;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::channel::{self, ChildEnd};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::Filter;
use crate::plan::namespaces::NamespaceType;
use crate::plan::process::Process;
use crate::plan::scheduling::MemoryPolicy;
use crate::sys::handle::Handle;
use crate::sys::{credentials, descriptors, process};
pub use container::NewContainer;
pub use enter::Joined;
use progress::{Progress, Step};
pub use start::{EXECUTING, Gate};

/// Everything that the parent prepared for a child, which owns its copy.
#[derive(Debug)]
pub struct Child<'a> {
    /// What every child has.
    pub life: Life<'a>,
    /// Into what it goes.
    pub entry: Entry<'a>,
}

/// What a child has whatever it enters.
#[derive(Debug)]
pub struct Life<'a> {
    /// The way to the parent.
    pub channel: ChildEnd,
    /// Where it is, for a parent that finds it dead.
    pub progress: Progress,
    /// What it becomes.
    pub process: &'a Process,
    /// The filter it loads.
    pub filter: Option<&'a Filter>,
    /// Whether it lets the parent look into it from there on.
    pub dumpable_for_listener: bool,
    /// The execution domain.
    pub personality: Option<u32>,
    /// The NUMA memory policy.
    pub memory_policy: Option<&'a MemoryPolicy>,
    /// Whether the parent sets policy and I/O priority.
    pub scheduled_by_parent: bool,
    /// The name of the session keyring to join.
    pub keyring: Option<&'a CString>,
    /// The socket of `--console-socket`.
    pub console_socket: Option<OwnedFd>,
    /// How many descriptors from 3 on the program inherits.
    pub preserved: i32,
    /// Whether an unprivileged parent has to write id maps.
    pub unprivileged: bool,
}

/// Into what a child goes.
#[derive(Debug)]
pub enum Entry<'a> {
    /// A new container.
    Container(Box<NewContainer<'a>>),
    /// A running one.
    Running(Joined),
}

/// Lives the child's life. The caller is in a fresh clone and single-threaded.
pub fn main(mut child: Child<'_>) -> ! {
    report_panics(&child.life);
    let Err(error) = run(&mut child);
    child.tell(&error);
    process::exit_now(1)
}

/// Sends the text of a panic over the channel and leaves at once: abort is
/// ignored for a PID 1, and unwinding would run the parent's destructors.
fn report_panics(life: &Life<'_>) {
    let (number, progress) = (life.channel.as_fd().as_raw_fd(), life.progress);
    std::panic::set_hook(Box::new(move |info| {
        let text = format!("panic in step {:?}: {info}", progress.name()).replace('\n', " ");
        // The number stays the channel's: only execve closes it.
        let channel = descriptors::standard(number);
        let _ = channel::send_failure(channel, &Error::new(Kind::System, text));
        process::exit_now(1);
    }));
}

fn run(child: &mut Child<'_>) -> Result<Infallible> {
    child.life.progress.reach(Step::Isolation);
    let (kept, preserved) = (child.kept(), child.life.preserved);
    isolation::isolate(&kept, preserved, child.life.unprivileged)?;
    if child.comes_to_others() {
        isolation::hide_arguments();
    }
    if let Entry::Container(container) = &mut child.entry {
        container::begin(&child.life, container)?;
    }
    let tasks = child.life.until_go()?;
    if child.life.unprivileged {
        // The id maps are written.
        credentials::set_dumpable(false)?;
    }
    child.life.progress.reach(Step::Membership);
    enter_cgroup(tasks)?;
    scheduling::settle_cpus(&child.life.process.scheduling)?;
    let life = &child.life;
    match &mut child.entry {
        Entry::Container(container) => container::make(life, container)?,
        Entry::Running(joined) => enter::enter(life, joined)?,
    }
    let program = start::become_process(life)?;
    if let Entry::Container(container) = &child.entry {
        if let Some(gate) = &container.gate {
            life.progress.reach(Step::Waiting);
            gate.wait()?;
        }
        start::run_hooks(life, container, &program)?;
        if let Some(gate) = &container.gate {
            gate.executing()?;
        }
    }
    start::execute(life, &program)
}

/// Enters the cgroup in each v1 hierarchy. Done from inside, one thread at a
/// time, this is cheap; moving a process from outside waits for a grace period
/// of all CPUs (about 10 ms).
fn enter_cgroup(tasks: Vec<OwnedFd>) -> Result<()> {
    for file in tasks {
        // 0 is the thread that writes.
        descriptors::write_all(file.as_fd(), b"0").context(|| "join the cgroup")?;
    }
    Ok(())
}

impl Child<'_> {
    /// Whether it enters a pid namespace in which somebody may be already.
    fn comes_to_others(&self) -> bool {
        match &self.entry {
            Entry::Container(container) => container.plan.namespaces.joins(NamespaceType::Pid),
            Entry::Running(_) => true,
        }
    }

    /// Every descriptor that the child goes on using.
    fn kept(&self) -> Vec<BorrowedFd<'_>> {
        let mut kept = vec![self.life.channel.as_fd()];
        kept.extend(self.life.console_socket.as_ref().map(AsFd::as_fd));
        match &self.entry {
            Entry::Container(container) => kept.extend(container.descriptors()),
            Entry::Running(joined) => {
                kept.extend(joined.init.as_ref().and_then(Handle::descriptor));
                kept.extend(joined.root.as_ref().map(AsFd::as_fd));
            }
        }
        kept
    }

    /// Tells of a failure: behind its gate, a container answers `start`.
    fn tell(&self, error: &Error) {
        let gate = match &self.entry {
            Entry::Container(container) => container.gate.as_ref().filter(|gate| gate.passed()),
            Entry::Running(_) => None,
        };
        // Nobody may be listening any more, and there is nobody else to tell.
        let _ = match gate {
            Some(gate) => gate.answer(error),
            None => self.life.channel.failed(error),
        };
    }
}

impl Life<'_> {
    /// Who gets the master of the process's terminal.
    fn terminal_receiver(&self) -> console::Receiver<'_> {
        match &self.console_socket {
            Some(socket) => console::Receiver::Socket(socket),
            None => console::Receiver::Parent(&self.channel),
        }
    }

    /// Waits for the parent to make the cgroups and write the id maps: the files
    /// by which v1's are entered. Without a parent there is nothing left to do.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    fn until_go(&self) -> Result<Vec<OwnedFd>> {
        match self.channel.until_go().context(|| "wait for the runtime")? {
            Some(tasks) => Ok(tasks),
            None => process::exit_now(1),
        }
    }

    /// Has the parent open the sources of bind mounts.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    fn sources(&self) -> Result<BTreeMap<usize, OwnedFd>> {
        self.channel.sources_wanted()?;
        match self
            .channel
            .until_sources()
            .context(|| "wait for the runtime")?
        {
            Some(trees) => Ok(trees),
            None => process::exit_now(1),
        }
    }

    /// Waits for the parent's word, as [`until_go`](Self::until_go).
    ///
    /// # Errors
    /// What a filter that refuses read(2) says.
    fn wait(&self) -> Result<()> {
        match self
            .channel
            .until_told()
            .context(|| "wait for the runtime")?
        {
            true => Ok(()),
            false => process::exit_now(1),
        }
    }
}
