//! The making of a container, as `create` and `run` share it.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::cli::{CgroupManager, Global, New, Rootless};
use crate::error::{Context, Error, Kind, Result};
use crate::host::Host;
use crate::log::Log;
use crate::notify::{self, Relay};
use crate::parent::{self, Announce, Created, Options, gate};
use crate::plan::cgroup::Manager;
use crate::plan::{Plan, Request};
use crate::spec::{NamespaceType, Spec};
use crate::state::{ContainerId, Locked, Record, Root};
use crate::sys::{self, descriptors, directory};
use crate::timing;

/// The directory of a container's readiness socket, in its state directory.
pub(super) const NOTIFY: &str = "notify";

/// How much of a config.json is made room for before it is read.
const LARGEST_AT_ONCE: usize = 1 << 20;

/// How the container's program is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// By `rrun start`.
    Later,
    /// By this process, which then leaves.
    Detached,
    /// By this process, which stays.
    Foreground,
}

/// A container that is made, with its state directory locked.
#[derive(Debug)]
pub(super) struct Launched {
    /// Its state directory.
    pub(super) container: Locked,
    /// What that says.
    pub(super) record: Record,
    /// Its process and its cgroup.
    pub(super) created: Created,
    /// Where its readiness is told, if this process is to pass it on.
    pub(super) relay: Option<Relay>,
    /// Every decision about it.
    pub(super) plan: Plan,
}

/// A container about which everything is decided and nothing done.
#[derive(Debug)]
pub(super) struct Prepared {
    /// Every decision about it.
    pub(super) plan: Plan,
    /// What is written down about it.
    pub(super) record: Record,
    /// Its config.json.
    pub(super) json: Vec<u8>,
    /// What the command line decides.
    pub(super) options: Options,
}

/// Makes the container `id` from the bundle that `new` names. What a failure
/// leaves is removed, the state directory too.
///
/// # Errors
/// A config.json that can't be carried out, an id that is taken, and
/// everything that can go wrong in the making.
pub(super) fn launch(
    global: &Global,
    log: &Log,
    new: &New,
    id: &ContainerId,
    bundle: &Path,
    start: Start,
) -> Result<Launched> {
    let Prepared {
        plan,
        mut record,
        json,
        options,
    } = prepare(global, log, new, id, bundle, start)?;
    let container = Root::open(global.root.as_deref())?.create(id)?;
    // The bundle is the user's, who may change it: what the container was made
    // from stays with its state (runtime.md, "create").
    match container.claim(&json) {
        Ok(()) => {}
        Err(error) if error.kind() == Kind::AlreadyExists => return Err(error),
        Err(error) => return Err(abandon(log, container, &plan, &record, error)),
    }
    match make(&plan, &container, &mut record, start, options) {
        Ok((created, relay)) => Ok(Launched {
            container,
            record,
            created,
            relay,
            plan,
        }),
        Err(error) => Err(abandon(log, container, &plan, &record, error)),
    }
}

/// Decides about the container `id` from the bundle that `new` names.
///
/// # Errors
/// A config.json that can't be carried out, options that don't fit it.
pub(super) fn prepare(
    global: &Global,
    log: &Log,
    new: &New,
    id: &ContainerId,
    bundle: &Path,
    start: Start,
) -> Result<Prepared> {
    let preserved = preserved_descriptors(new.preserve_fds)?;
    let bundle = sys::call(bundle.canonicalize(), || format!("realpath({bundle:?})"))
        .context(|| "find the bundle")?;
    let json = read_config(&bundle)?;
    let spec = Spec::parse(&json)?;
    timing::mark("config.json");
    check_terminal(&spec, new, start)?;
    let manager = cgroup_manager(global);
    let host = Host::read(rootless(global))?
        .knowing_seccomp(profile(&spec))
        .knowing_selinux(labels(&spec))
        .knowing_resctrl(&spec)?
        .knowing_systemd(manager == Manager::Systemd)?;
    timing::mark("host");
    let notify = match notify::manager() {
        Some(_) => Some(Root::open(global.root.as_deref())?.path_of(id).join(NOTIFY)),
        None => None,
    };
    let plan = Plan::new(
        &spec,
        &Request {
            id: id.as_str(),
            bundle: &bundle,
            no_pivot: new.no_pivot,
            no_new_keyring: new.no_new_keyring,
            manager,
            listen_fds: preserved.listen,
            notify: notify.as_deref(),
        },
        &host,
    )?;
    for warning in &plan.warnings {
        log.warn(warning);
    }
    check_rights(&plan, &host)?;
    timing::mark("plan");
    let options = Options {
        console_socket: console_socket(new.console_socket.as_deref())?,
        preserved: preserved.total(),
        announce: Announce {
            pid_file: new.pid_file.clone(),
            pidfd_socket: new
                .pidfd_socket
                .clone()
                .or_else(|| plan.pidfd_receiver.clone()),
        },
        rootless: host.rootless,
    };
    Ok(Prepared {
        record: record(id, &plan, &spec),
        plan,
        json,
        options,
    })
}

/// Somebody without root's rights has them in a user namespace only.
fn check_rights(plan: &Plan, host: &Host) -> Result<()> {
    if host.euid == 0 || plan.namespaces.contains(NamespaceType::User) {
        return Ok(());
    }
    let text = "rootless container requires user namespaces";
    Err(Error::config("linux.namespaces", text)
        .with_hint("\"rrun spec --rootless\" writes a config that has one"))
}

/// The seccomp profile of a container.
pub(super) fn profile(spec: &Spec) -> Option<&crate::spec::Seccomp> {
    spec.linux.as_ref()?.seccomp.as_ref()
}

/// The SELinux labels of a container.
pub(super) fn labels(spec: &Spec) -> [Option<&String>; 2] {
    let process = spec.process.as_ref();
    let linux = spec.linux.as_ref();
    [
        process.and_then(|process| process.selinux_label.as_ref()),
        linux.and_then(|linux| linux.mount_label.as_ref()),
    ]
}

/// Who makes the cgroup.
pub(super) fn cgroup_manager(global: &Global) -> Manager {
    match global.cgroup_manager() {
        CgroupManager::Cgroupfs => Manager::Cgroupfs,
        CgroupManager::Disabled => Manager::Disabled,
        CgroupManager::Systemd => Manager::Systemd,
    }
}

/// The user's word on whether rrun lacks the rights of the host's root.
#[must_use]
pub(super) fn rootless(global: &Global) -> Option<bool> {
    match global.rootless {
        Rootless::Yes => Some(true),
        Rootless::No => Some(false),
        Rootless::Auto => None,
    }
}

/// What is written down about the container before any of it is made.
fn record(id: &ContainerId, plan: &Plan, spec: &Spec) -> Record {
    let mut record = Record::new(id.clone(), plan.bundle.clone(), plan.rootfs.path.clone());
    record.annotations.clone_from(&spec.annotations);
    record.shares_pid_namespace = !plan.namespaces.creates(NamespaceType::Pid);
    record.keyring = plan.keyring.is_some();
    record
}

/// Fills the state directory and makes the container.
fn make(
    plan: &Plan,
    container: &Locked,
    record: &mut Record,
    start: Start,
    options: Options,
) -> Result<(Created, Option<Relay>)> {
    // `start` will listen itself.
    let relay = make_notify(container, start != Start::Later)?;
    let gate = match start {
        Start::Later => Some(gate::make(container)?),
        Start::Detached | Start::Foreground => None,
    };
    timing::mark("state directory");
    Ok((
        parent::create(plan, container, record, gate, options)?,
        relay,
    ))
}

/// Makes the directory of the container's readiness socket, if there is a
/// manager to be told, and the socket if this process `listens`.
///
/// # Errors
/// Those of mkdir(2) and bind(2).
pub(super) fn make_notify(container: &Locked, listens: bool) -> Result<Option<Relay>> {
    let Some(manager) = notify::manager() else {
        return Ok(None);
    };
    // Any user of the container must reach the socket in it.
    directory::make(container.dir(), NOTIFY, 0o755)?;
    if !listens {
        return Ok(None);
    }
    let directory = directory::open_in(container.dir(), NOTIFY)?;
    Relay::bind(directory.as_fd(), manager).map(Some)
}

/// Removes the state of a container that could not be made, and runs its
/// poststop hooks (runtime.md, "Lifecycle").
pub(super) fn abandon(
    log: &Log,
    container: Locked,
    plan: &Plan,
    record: &Record,
    error: Error,
) -> Error {
    let removed = container.remove();
    super::delete::run_poststop(log, &plan.hooks, &record.hook_state());
    match removed {
        Ok(()) => error,
        Err(failed) => error.and(&failed),
    }
}

/// Reads the bundle's config.json, which must be a file: nobody waits for the
/// writer of a pipe.
///
/// # Errors
/// It is not there or no file, or can't be read.
pub(super) fn read_config(bundle: &Path) -> Result<Vec<u8>> {
    let path = bundle.join("config.json");
    let opened = fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path);
    if matches!(&opened, Err(error) if error.kind() == ErrorKind::NotFound) {
        let text = format!("bundle {bundle:?} has no config.json: no such file or directory");
        return Err(Error::new(Kind::InvalidConfig, text).with_hint("rrun spec writes one"));
    }
    let file = sys::call(opened, || format!("open({path:?})"))?;
    let found = sys::call(file.metadata(), || format!("fstat({path:?})"))?;
    if !found.is_file() {
        let text = format!("{path:?} is not a regular file");
        return Err(Error::new(Kind::InvalidConfig, text));
    }
    // One byte more, so that the end is seen without growing.
    let expected = usize::try_from(found.len()).unwrap_or(0) + 1;
    let mut json = Vec::with_capacity(expected.min(LARGEST_AT_ONCE));
    let read = file.take(u64::MAX).read_to_end(&mut json);
    sys::call(read, || format!("read({path:?})"))?;
    Ok(json)
}

/// The socket of `--console-socket`, connected.
pub(super) fn console_socket(path: Option<&Path>) -> Result<Option<OwnedFd>> {
    path.map(descriptors::connect_stream)
        .transpose()
        .context(|| "reach the console socket")
}

/// A terminal needs somebody who holds its master: the console socket, or this
/// process if it stays.
///
/// # Errors
/// runc's words, which engines know.
pub(super) fn check_console(terminal: bool, socket: bool, stays: bool) -> Result<()> {
    if terminal && !socket && !stays {
        let text = "cannot allocate tty if runc will detach without setting console socket";
        return Err(Error::new(Kind::Usage, text));
    }
    if socket && (stays || !terminal) {
        let text = "cannot use console socket if runc will not detach or allocate tty";
        return Err(Error::new(Kind::Usage, text));
    }
    Ok(())
}

fn check_terminal(spec: &Spec, new: &New, start: Start) -> Result<()> {
    let terminal = spec
        .process
        .as_ref()
        .is_some_and(|process| process.terminal);
    check_console(
        terminal,
        new.console_socket.is_some(),
        start == Start::Foreground,
    )
}

/// The descriptors from 3 on that a program inherits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preserved {
    /// Sockets of systemd's, which come first (sd_listen_fds(3)).
    pub(super) listen: u32,
    /// Those of `--preserve-fds`.
    pub(super) asked: u16,
}

impl Preserved {
    /// All of them.
    #[must_use]
    pub(super) fn total(self) -> i32 {
        i32::try_from(self.listen)
            .unwrap_or(i32::MAX)
            .saturating_add(i32::from(self.asked))
    }
}

/// Checks that each descriptor to be preserved was handed to us. Our own are
/// close-on-exec, so one of them is not mistaken for it.
///
/// # Errors
/// The first that is not there.
pub(super) fn preserved_descriptors(asked: u16) -> Result<Preserved> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    // Sockets without a pid are not for us (sd_listen_fds(3)): whoever has that
    // from its own start left the variable in our environment.
    let ours = number("LISTEN_PID") == Some(std::process::id());
    let listen = number("LISTEN_FDS").filter(|_| ours).unwrap_or(0);
    let preserved = Preserved { listen, asked };
    for fd in 3..3_i32.saturating_add(preserved.total()) {
        if !descriptors::is_inherited(fd) {
            let text = format!("preserve descriptor {fd}: it is not open");
            return Err(Error::new(Kind::Usage, text));
        }
    }
    Ok(preserved)
}
