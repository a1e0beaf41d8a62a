//! A process between its clone3 and its execve, as the parent sees it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::channel::{FromChild, ParentEnd};
use crate::child::progress::{Progress, Step};
use crate::child::{self, Child};
use crate::error::{Context, Error, Kind, Result};
use crate::resctrl::{Groups, IfGone};
use crate::sys::handle::Handle;
use crate::sys::process::{self, Clone, Forked};
use crate::sys::{self, namespace};
use crate::timing;

/// What a birth needs besides the child's own things.
#[derive(Debug)]
pub(super) struct Birth<'fd> {
    /// The namespaces that clone3 makes.
    pub flags: CloneFlags,
    /// A cgroup v2 directory to be born in.
    pub cgroup: Option<BorrowedFd<'fd>>,
    /// A process in whose pid namespace it is born: only where the defence against
    /// just that is left out.
    pub pid_namespace: Option<&'fd Handle>,
}

/// A process that is being set up.
#[derive(Debug)]
pub struct Newborn {
    /// Its pid, as we see it.
    pub pid: Pid,
    /// It, held.
    pub handle: Handle,
    /// Whether it still has to be moved into its v2 cgroup.
    outside: bool,
    /// The master of its terminal, once it was sent.
    pub terminal: Option<OwnedFd>,
    /// The way to it.
    pub(super) channel: ParentEnd,
    progress: Progress,
}

/// Clones this process; the clone lives the life of `child` and never returns.
///
/// # Errors
/// Those of clone3, and a process that has more than one thread.
pub(super) fn give_birth(
    birth: &Birth<'_>,
    child: Child<'_>,
    channel: ParentEnd,
) -> Result<Newborn> {
    if !process::is_single_threaded()? {
        let text = "the runtime has more than one thread, so it can't make a container";
        return Err(Error::new(Kind::System, text));
    }
    let progress = child.life.progress;
    let flags = u64::from(birth.flags.bits().cast_unsigned());
    let home = birth.pid_namespace.map(enter_pid_namespace).transpose()?;
    let forked = clone(flags, birth.cgroup);
    if let (Ok((Forked::Child, _)), _) = (&forked, &home) {
        child::main(child);
    }
    // Before any hook: what this process makes next belongs to the host.
    home.map(|home| namespace::setns(home.as_fd(), CloneFlags::CLONE_NEWPID))
        .transpose()?;
    let (forked, in_cgroup) = forked.context(|| "make the container's process")?;
    match forked {
        Forked::Parent(pid, handle) => Ok(Newborn {
            pid,
            handle,
            outside: birth.cgroup.is_some() && !in_cgroup,
            terminal: None,
            channel,
            progress,
        }),
        Forked::Child => child::main(child),
    }
}

/// Clones into the cgroup where the kernel can (Linux 5.7, cgroup v2), else
/// without; the answer says which.
fn clone(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> sys::Result<(Forked, bool)> {
    if cgroup.is_some() {
        match process::fork(&Clone { flags, cgroup }) {
            // Unknown to the kernel, refused by a filter around us, or a
            // cgroup that takes no processes at this moment: the write to
            // cgroup.procs that follows tells more.
            Err(error)
                if matches!(
                    error.errno(),
                    Errno::ENOSYS
                        | Errno::EINVAL
                        | Errno::E2BIG
                        | Errno::EPERM
                        | Errno::EBUSY
                        | Errno::EOPNOTSUPP
                        | Errno::EACCES
                ) => {}
            forked => return Ok((forked?, true)),
        }
    }
    Ok((
        process::fork(&Clone {
            flags,
            cgroup: None,
        })?,
        false,
    ))
}

/// Lets our next children be born in the pid namespace of `process`; returns the way
/// back.
fn enter_pid_namespace(process: &Handle) -> Result<OwnedFd> {
    use nix::fcntl::{OFlag, open};
    let path = "/proc/self/ns/pid";
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let home = sys::call(open(path, flags, nix::sys::stat::Mode::empty()), || {
        format!("open({path:?})")
    })?;
    let entered = process.enter(CloneFlags::CLONE_NEWPID);
    entered.context(|| "join pid namespace")?;
    Ok(home)
}

impl Newborn {
    /// Talks with the child until it is ready. `answer` does what is asked for
    /// besides the terminal; the child waits for the `Continue` that follows.
    ///
    /// # Errors
    /// The child's own failure, or how it died.
    pub fn until_ready(
        &mut self,
        mut answer: impl FnMut(&mut Self, FromChild) -> Result<()>,
    ) -> Result<()> {
        loop {
            match self.channel.receive()? {
                FromChild::Ready => return Ok(()),
                FromChild::Failed(error) => return Err(error),
                FromChild::Closed => return Err(self.died()),
                FromChild::Terminal(master) => self.terminal = Some(master),
                FromChild::Born(pid) => {
                    let stage = self.become_grandparent(Pid::from_raw(pid))?;
                    answer(self, FromChild::Born(pid))?;
                    // The stage has entered the cgroups of v1, and so has its child.
                    self.heard(self.channel.go(&[]))?;
                    // It has ended, or nearly; the real one works meanwhile.
                    stage.wait()?;
                }
                message @ (FromChild::SourcesWanted
                | FromChild::HooksWanted
                | FromChild::Listener(_)) => {
                    answer(self, message)?;
                    self.heard(self.channel.go_on())?;
                }
            }
        }
    }

    /// The stage process has made the real one, which is our child too, and
    /// ends: it, to be reaped.
    fn become_grandparent(&mut self, pid: Pid) -> Result<Handle> {
        let stage = std::mem::replace(&mut self.handle, Handle::open_child(pid)?);
        self.pid = pid;
        Ok(stage)
    }

    /// Moves the child into the cgroup from outside, where it could not be born
    /// in it. The v1 hierarchies it enters by itself.
    ///
    /// # Errors
    /// Those of [`Cgroup::attach`].
    pub fn ensure_membership(&self, cgroup: &Cgroup) -> Result<()> {
        if !self.outside {
            return Ok(());
        }
        match cgroup.attach(self.pid) {
            // It failed and left already; its words are read when it is told to go.
            Err(error) if error.errno() == Some(Errno::ESRCH) => Ok(()),
            attached => attached,
        }
    }

    /// Puts the child into its resctrl groups, if there are any.
    ///
    /// # Errors
    /// Those of [`Groups::join`].
    pub fn ensure_groups(&self, groups: Option<&Groups>, if_gone: IfGone) -> Result<()> {
        match groups.map(|groups| groups.join(self.pid, if_gone)) {
            // As above.
            Some(Err(error)) if error.errno() == Some(Errno::ESRCH) => Ok(()),
            joined => joined.unwrap_or(Ok(())),
        }
    }

    /// Tells the child that its cgroups are there, `cgroup` in each hierarchy, and
    /// its id maps.
    ///
    /// # Errors
    /// Those of [`Cgroup::doors`]; `EPIPE` if the child is gone: what it last said
    /// tells why.
    pub fn go(&mut self, cgroup: &Cgroup) -> Result<()> {
        let tasks = cgroup.doors()?;
        let tasks: Vec<_> = tasks.iter().map(AsFd::as_fd).collect();
        self.heard(self.channel.go(&tasks))
    }

    /// Lets a child that is ready go on: to its gate, or to its program.
    ///
    /// # Errors
    /// As for [`go`](Self::go).
    pub fn go_on(&mut self) -> Result<()> {
        self.heard(self.channel.go_on())
    }

    /// What was `told`, or why nobody hears it.
    fn heard(&self, told: Result<()>) -> Result<()> {
        match told {
            Err(error) if matches!(error.errno(), Some(Errno::EPIPE | Errno::ECONNRESET)) => {
                match self.channel.receive() {
                    Ok(FromChild::Failed(error)) => Err(error),
                    _ => Err(self.died()),
                }
            }
            sent => sent,
        }
    }

    /// Waits until the child executes its program, which closes the channel.
    ///
    /// # Errors
    /// The child's failure to do so, or how it died before.
    pub fn until_executed(&self) -> Result<()> {
        match self.channel.receive()? {
            FromChild::Failed(error) => Err(error),
            FromChild::Closed if !self.progress.is_at(Step::Execution) => Err(self.died()),
            _ => {
                self.note_steps();
                Ok(())
            }
        }
    }

    /// Why the child has failed or died before it was told to go, if it has: then
    /// what is done to it meanwhile fails too, and less tellingly.
    #[must_use]
    pub fn last_words(&self) -> Option<Error> {
        match process::poll_readable(&[self.channel.as_fd()], Some(0)) {
            Ok(ready) if ready == [true] => match self.channel.receive() {
                Ok(FromChild::Failed(error)) => Some(error),
                Ok(FromChild::Closed) => Some(self.died()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Notes the steps that the child has taken so far.
    pub fn note_steps(&self) {
        timing::child(&self.progress.reached());
    }

    /// What became of a child that says nothing any more.
    fn died(&self) -> Error {
        let how = match self.handle.wait() {
            Ok(ended) => ended.to_string(),
            Err(error) => error.to_string(),
        };
        let step = self.progress.name();
        Error::new(
            Kind::System,
            format!("the container's process died in step {step:?}: {how}"),
        )
    }

    /// Kills the child and reaps it.
    pub fn kill(self) {
        // One that has ended already is what is wanted.
        let _ = self.handle.signal(libc::SIGKILL);
        let _ = self.handle.wait();
    }
}
