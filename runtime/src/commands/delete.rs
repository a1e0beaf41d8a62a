//! `rrun delete`: what a container holds, given back.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::cli::{Delete, Global};
use crate::error::{Error, Kind, Result};
use crate::hooks::{self, Output, Place, State};
use crate::log::Log;
use crate::plan::hooks::Hooks;
use crate::resctrl::Groups;
use crate::spec::Spec;
use crate::state::{ContainerId, Locked, Process, Record, Root, Status};
use crate::timing;

/// How long a killed process may take to be gone, in milliseconds: writing a
/// core, or a device that does not answer, can hold it.
const PATIENCE: u16 = 10_000;

/// Between two looks, in milliseconds.
const LOOK: u16 = 200;

/// Deletes the container.
///
/// # Errors
/// One that still runs, without `--force`; whatever could not be removed,
/// after all else was.
pub fn execute(global: &Global, log: &Log, delete: &Delete) -> Result<()> {
    let root = Root::open(global.root.as_deref())?;
    let locked = match delete.force {
        true => lock_by_force(&root, &delete.id),
        false => root.lock(&delete.id),
    };
    let container = match locked {
        Err(error) if delete.force && error.kind() == Kind::NotFound => return Ok(()),
        locked => locked?,
    };
    let record = match container.record() {
        Ok(record) => record,
        // Killed before its first effect: there is only the directory.
        Err(error) if error.kind() == Kind::NotFound && delete.force => {
            return container.remove();
        }
        Err(error) => return Err(error),
    };
    check(&container, &record, delete)?;
    let hooks = poststop_hooks(log, &container);
    destroy(log, container, &record, &hooks)
}

/// Locks the container. A command that keeps it for longer than a moment waits
/// for a hook, or for the container's process: the one is told that it is in
/// vain, the other is killed.
fn lock_by_force(root: &Root, id: &ContainerId) -> Result<Locked> {
    /// What a command takes that waits for nobody, many times over.
    const MOMENT: Duration = Duration::from_millis(300);
    /// Between two looks.
    const PAUSE: Duration = Duration::from_millis(10);
    let begin = Instant::now();
    loop {
        match root.container(id)?.try_lock()? {
            Ok(locked) => return Ok(locked),
            Err(busy) if begin.elapsed() > MOMENT => {
                // Whatever fails here is no reason to stop waiting.
                let _ = busy.renounce();
                if let Ok(Some(init)) = busy.record().and_then(|record| record.open_init()) {
                    let _ = init.signal(libc::SIGKILL);
                }
            }
            Err(_) => {}
        }
        std::thread::sleep(PAUSE);
    }
}

/// What may be deleted without force: what has stopped, and what has not
/// started (its process has run nothing of its own).
fn check(container: &Locked, record: &Record, delete: &Delete) -> Result<()> {
    if delete.force {
        return Ok(());
    }
    let status = container.status(record, || is_frozen(record))?;
    match status {
        Status::Stopped if record.creating => Err(Error::new(
            Kind::WrongState,
            "container was only half created: delete --force removes what there is of it",
        )),
        Status::Stopped | Status::Created => Ok(()),
        _ => {
            let id = delete.id.as_str();
            let text = format!("cannot delete container {id} that is not stopped: {status}");
            Err(Error::new(Kind::WrongState, text))
        }
    }
}

/// Whether the container's cgroup is frozen; one that is gone is not.
///
/// # Errors
/// Those of reading the cgroup's state.
pub fn is_frozen(record: &Record) -> Result<bool> {
    match open_cgroup(record)? {
        Some(cgroup) => cgroup.is_frozen(),
        None => Ok(false),
    }
}

/// The container's cgroup, if it has got that far.
///
/// # Errors
/// Those of opening it.
pub fn open_cgroup(record: &Record) -> Result<Option<Cgroup>> {
    record.cgroup.as_ref().map(Cgroup::open).transpose()
}

/// The container's cgroup, for a command that is nothing without one.
///
/// # Errors
/// There is none, in runc's words; those of opening it.
pub fn existing_cgroup(record: &Record) -> Result<Cgroup> {
    let cgroup = open_cgroup(record)?.filter(|cgroup| !cgroup.is_nowhere());
    cgroup.ok_or_else(|| Error::new(Kind::Unsupported, "cgroup not exist"))
}

/// The container's groups in resctrl, if it has any.
///
/// # Errors
/// Those of opening them.
pub fn open_groups(record: &Record) -> Result<Option<Groups>> {
    let groups = record.intel_rdt.as_ref().map(Groups::open).transpose()?;
    Ok(groups.flatten())
}

/// Kills what is left of the container and removes all that it holds, then
/// runs its poststop `hooks`. Goes on after each failure. What says where a
/// process, a cgroup or a group is, stays for another attempt while that is left.
///
/// # Errors
/// All failures, but for those of the hooks, which are warnings (runtime.md,
/// "Lifecycle", step 13).
pub fn destroy(log: &Log, container: Locked, record: &Record, hooks: &Hooks) -> Result<()> {
    let mut failed: Option<Error> = None;
    let mut note = |result: Result<()>| {
        if let Err(error) = result {
            failed = Some(match failed.take() {
                None => error,
                Some(first) => first.and(&error),
            });
        }
    };
    note(kill_init(record));
    timing::mark("kill");
    let cgroup = open_cgroup(record);
    match cgroup {
        Ok(Some(cgroup)) => note(remove_cgroup(log, record, cgroup)),
        Ok(None) => {}
        Err(error) => note(Err(error)),
    }
    timing::mark("cgroup");
    note(open_groups(record).and_then(|groups| groups.map_or(Ok(()), Groups::remove)));
    if let Some(error) = failed {
        return Err(error);
    }
    let removed = container.remove();
    timing::mark("state directory");
    run_poststop(log, hooks, &record.hook_state());
    removed
}

/// [`destroy`] because of `error`, which is returned with what went wrong on
/// the way.
pub fn destroy_after(log: &Log, container: Locked, record: &Record, error: Error) -> Error {
    let hooks = poststop_hooks(log, &container);
    match destroy(log, container, record, &hooks) {
        Ok(()) => error,
        Err(failed) => error.and(&failed.within("clean up")),
    }
}

/// Kills the container's first process, if it lives, and waits until it is
/// gone: in its own pid namespace all others go with it.
fn kill_init(record: &Record) -> Result<()> {
    let Some(init) = record.open_init()? else {
        return Ok(());
    };
    match init.signal(libc::SIGKILL) {
        Err(error) if error.errno() != Errno::ESRCH => return Err(error.into()),
        _ => {}
    }
    let cgroup = open_cgroup(record)?;
    let mut going = Ok(());
    // Others of the container may freeze it once more before it has died.
    for _ in 0..PATIENCE / LOOK {
        going = cgroup.as_ref().map_or(Ok(()), Cgroup::let_die);
        if init.poll_end(&[], Some(LOOK))?.0 {
            return Ok(());
        }
    }
    going?;
    let pid = record.init.map_or(0, |init| init.pid);
    Err(Error::new(
        Kind::System,
        format!("process {pid} did not end after SIGKILL"),
    ))
}

/// Removes the cgroup, and kills first what the container has left in it.
///
/// A pid namespace of its own has ended with its first process, and with it all who
/// were in it. Who is in the cgroup then is somebody else's, such as a container that
/// was made later with the same `cgroupsPath`: they stay, as under runc.
fn remove_cgroup(log: &Log, record: &Record, cgroup: Cgroup) -> Result<()> {
    let may_leave_some = record.shares_pid_namespace || record.creating;
    if !may_leave_some && cgroup.is_empty()? {
        return cgroup.remove();
    }
    if may_leave_some || holds_init(record, &cgroup)? {
        let killed = cgroup.kill();
        return cgroup.remove().and(killed);
    }
    if cgroup.empties()? {
        return cgroup.remove();
    }
    log.warn("the cgroup stays: processes are in it that are not the container's");
    Ok(())
}

/// Whether the container's first process is in the cgroup, also one that counts as
/// ended since its main thread has.
fn holds_init(record: &Record, cgroup: &Cgroup) -> Result<bool> {
    let Some(init) = record.init else {
        return Ok(false);
    };
    let pid = Pid::from_raw(init.pid);
    Ok(cgroup.pids()?.contains(&pid) && Process::now(pid).is_ok_and(|now| now == init))
}

/// The hooks of the container's config.json; none if that can't be read,
/// since nothing shall keep a container from being deleted.
fn poststop_hooks(log: &Log, container: &Locked) -> Hooks {
    let read = container
        .read(crate::state::CONFIG)
        .and_then(|json| Spec::parse(&json))
        .and_then(|spec| Hooks::plan(&spec.hooks, &spec.annotations));
    match read {
        Ok(hooks) => hooks,
        Err(error) if error.errno() == Some(Errno::ENOENT) => Hooks::default(),
        Err(error) => {
            log.warn(format!("poststop hooks are not run: {error}"));
            Hooks::default()
        }
    }
}

/// Runs the poststop hooks; one that fails is a warning, and the others still
/// run.
pub fn run_poststop(log: &Log, hooks: &Hooks, state: &State) {
    if hooks.poststop.is_empty() {
        return;
    }
    let output = Output::open(&hooks.output).unwrap_or_else(|error| {
        log.warn(error.to_string());
        Output::default()
    });
    let json = state.json("stopped", 0);
    let bundle = Place::new(Path::new(&state.bundle), &output);
    let unwanted = &hooks::always_wanted;
    for hook in &hooks.poststop {
        let hook = std::slice::from_ref(hook);
        if let Err(error) = hooks::run_all("poststop", hook, &json, bundle, unwanted) {
            log.warn(error.to_string());
        }
    }
}
