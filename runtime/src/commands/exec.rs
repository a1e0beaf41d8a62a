//! `rrun exec`: one more process in a running container.

use std::ffi::CString;
use std::fs;

use nix::unistd::Pid;

use super::delete::{is_frozen, open_cgroup, open_groups};
use super::launch::{check_console, console_socket, preserved_descriptors, profile, rootless};
use crate::cgroup::SubCgroups;
use crate::cli::{Exec, Global};
use crate::error::{Error, Kind, Result};
use crate::foreground::Foreground;
use crate::host::Host;
use crate::log::Log;
use crate::parent::exec::{Target, exec};
use crate::parent::{Announce, Options};
use crate::plan;
use crate::spec::{self, NamespaceType, Spec};
use crate::state::{CONFIG, Container, Record, Root, Status};
use crate::sys;
use crate::sys::mutation::Defence;
use crate::timing;

/// Runs the process and returns its exit code, or 0 if it is left running.
///
/// # Errors
/// Whatever keeps it from being executed; `main` makes exit code 255 of it.
pub fn execute(global: &Global, log: &Log, args: &Exec) -> Result<u8> {
    let container = Root::open(global.root.as_deref())?.container(&args.id)?;
    let foreground = if args.detach {
        None
    } else {
        Some(Foreground::prepare()?)
    };
    let mut newborn = start(global, log, args, &container)?;
    let Some(foreground) = foreground else {
        return Ok(0);
    };
    let terminal = newborn.terminal.take();
    let code = foreground.supervise(log, newborn.pid, &newborn.handle, terminal, None);
    timing::mark("program");
    code
}

/// Makes the process and lets it run.
fn start(
    global: &Global,
    log: &Log,
    args: &Exec,
    container: &Container,
) -> Result<crate::parent::Newborn> {
    let preserved = preserved_descriptors(args.preserve_fds)?;
    let record = container.record()?;
    check_status(container, &record, args)?;
    let spec = Spec::parse(&container.read(CONFIG)?)?;
    let mut process = process(&spec, args)?;
    // Who holds the terminal decides whether there can be one.
    process.terminal = process.terminal || args.tty;
    check_console(
        process.terminal,
        args.console_socket.is_some(),
        !args.detach,
    )?;
    let host = Host::read(rootless(global))?
        .knowing_seccomp(profile(&spec))
        .knowing_selinux([process.selinux_label.as_ref(), None]);
    let keyring = record
        .keyring
        .then(|| CString::new(format!("_ses.{}", record.id.as_str())));
    let mut planned = plan::exec::Exec::new(&spec, &process, keyring.and_then(Result::ok), &host)?;
    planned.process.add_sockets(preserved.listen, false);
    if record.restored_time {
        planned.namespaces |= NamespaceType::Time.flag();
    }
    timing::mark("config.json, host and plan");
    for warning in &planned.warnings {
        log.warn(warning);
    }
    let gone = || Error::new(Kind::NotRunning, "cannot exec in a stopped container");
    let init = record.open_init()?.ok_or_else(gone)?;
    let cgroup = open_cgroup(&record)?.ok_or_else(gone)?;
    let pid = Pid::from_raw(record.init.map_or(0, |init| init.pid));
    let cgroup = cgroup.for_exec(&SubCgroups::parse(&args.cgroup)?, pid)?;
    let groups = open_groups(&record)?;
    let options = Options {
        console_socket: console_socket(args.console_socket.as_deref())?,
        preserved: preserved.total(),
        announce: Announce {
            pid_file: args.pid_file.clone(),
            pidfd_socket: args.pidfd_socket.clone(),
        },
        rootless: host.rootless,
    };
    timing::mark("container");
    let target = Target {
        init,
        pid,
        cgroup: &cgroup,
        groups: groups.as_ref(),
        state: record.hook_state(),
    };
    let mut newborn = exec(&planned, target, options)?;
    match newborn.go_on().and_then(|()| newborn.until_executed()) {
        Ok(()) => {
            timing::mark("program is executed");
            Ok(newborn)
        }
        Err(error) => {
            newborn.kill();
            Err(cgroup.with_oom_kill_of_exec(error))
        }
    }
}

/// A container that has stopped has no namespaces left, in a paused one the
/// process would hang, and one in the making has the host's root until its own
/// is entered.
fn check_status(container: &Container, record: &Record, args: &Exec) -> Result<()> {
    match container.status(record, || is_frozen(record))? {
        Status::Stopped => Err(Error::new(
            Kind::NotRunning,
            "cannot exec in a stopped container",
        )),
        Status::Creating => Err(Error::new(
            Kind::WrongState,
            "cannot exec in a container that is being created",
        )),
        Status::Paused if !args.ignore_paused => Err(Error::new(
            Kind::WrongState,
            "cannot exec in a paused container (use --ignore-paused to override)",
        )),
        _ => Ok(()),
    }
}

/// The process: a process.json, or the container's own with what the flags
/// change.
fn process(spec: &Spec, args: &Exec) -> Result<spec::Process> {
    if let Some(path) = &args.process {
        let json = sys::call(fs::read(path), || format!("read({path:?})"))?;
        return spec::Process::parse(&json);
    }
    let usage = |text: &str| Error::new(Kind::Usage, text);
    if args.command.is_empty() {
        return Err(usage("process args cannot be empty"));
    }
    let mut process = spec
        .process
        .clone()
        .ok_or_else(|| Error::config("process", "is missing"))?;
    process.args.clone_from(&args.command);
    // These were the container's; another terminal has a size of its own.
    process.terminal = args.tty;
    process.console_size = None;
    process.env.extend(args.env.iter().cloned());
    if let Some(cwd) = &args.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some(user) = args.user {
        process.user.uid = user.uid;
        // Without a group, runc keeps the container's; so do we.
        process.user.gid = user.gid.unwrap_or(process.user.gid);
    }
    process.user.additional_gids.extend(&args.additional_gids);
    if args.no_new_privs {
        process.no_new_privileges = true;
    }
    if args.apparmor.is_some() {
        process.apparmor_profile.clone_from(&args.apparmor);
    }
    if args.process_label.is_some() {
        process.selinux_label.clone_from(&args.process_label);
    }
    add_capabilities(&mut process, &args.cap);
    Ok(process)
}

/// `--cap` adds to every set but the inheritable one, which stays empty, or a
/// program file could hand its capabilities on (CVE-2022-29162). Nor does the
/// ambient set grow, which holds nothing that is not inheritable.
fn add_capabilities(process: &mut spec::Process, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let sets = process.capabilities.get_or_insert_default();
    for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
        set.extend(names.iter().cloned());
    }
    if Defence::EmptyInheritable.is_out() {
        sets.inheritable.extend(names.iter().cloned());
    }
}
