//! A container from the images of a checkpoint: criu makes its processes.
//!
//! ```text
//! cgroup    made, with its limits; criu is moved into it and what it makes is born there;
//!           the resctrl groups likewise
//! mounts    criu has a mount namespace of its own, in which the root filesystem is a mount
//! criu      makes namespaces and processes from the images
//!           setup-namespaces: loopback, hooks; post-restore: the record has the process;
//!           orphan-pts-master: the terminal
//! ```

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::unistd::Pid;

use super::{Announce, make_groups, network, run_hooks, settle_groups};
use crate::cgroup::{self, Cgroup};
use crate::child::rootfs;
use crate::criu::{
    self, CgroupRoot, External, Inherited, JoinedNamespace, Launch, Notify, Session, Type,
};
use crate::error::{Context, Error, Kind, Result};
use crate::hooks::Output;
use crate::plan::Plan;
use crate::plan::cgroup::Member;
use crate::plan::checkpoint::{self, MASK};
use crate::resctrl::{Groups, IfGone};
use crate::spec::NamespaceType;
use crate::state::{Locked, Process as Init, Record};
use crate::sys::handle::Handle;
use crate::sys::{self, descriptors, directory, terminal};
use crate::timing;

/// What a restore is told besides the plan.
#[derive(Debug)]
pub struct Request<'a> {
    /// The criu program.
    pub program: &'a Path,
    /// Images and options, as far as they don't follow from the plan.
    pub options: criu::Options,
    /// The directories that the options name by number, with their paths.
    pub directories: Vec<(BorrowedFd<'a>, &'a Path)>,
    /// The names that the standard streams had.
    pub streams: Vec<String>,
    /// criu's log.
    pub log: criu::Log,
    /// The connected socket of `--console-socket`.
    pub console_socket: Option<OwnedFd>,
    /// Where to make the process known.
    pub announce: Announce,
}

/// A container that runs again.
#[derive(Debug)]
pub struct Restored {
    /// The pid of its first process.
    pub pid: Pid,
    /// It, held.
    pub handle: Handle,
    /// The master of its terminal, if this process is to hold it.
    pub terminal: Option<OwnedFd>,
}

/// Restores the container of `plan` with the state directory `container`.
///
/// # Errors
/// Everything that can go wrong on the host, or in criu. What was made is undone,
/// but for the state directory, which is the caller's.
pub fn restore(
    plan: &Plan,
    container: &Locked,
    record: &mut Record,
    mut request: Request<'_>,
) -> Result<Restored> {
    request.options.join_ns = joined(plan)?;
    Cgroup::check_unused(&plan.cgroup)?;
    record.cgroup = Some(plan.cgroup.record());
    let mut groups = plan.intel_rdt.as_ref().map(Groups::look).transpose()?;
    record.intel_rdt = groups.as_ref().map(Groups::record);
    container.save(record)?;
    let mut cgroup = Cgroup::create(&plan.cgroup)?;
    let created = cgroup.create_v1(&plan.cgroup);
    let home = (&mut cgroup, groups.as_mut());
    match created.and_then(|()| make(plan, container, record, request, home)) {
        Ok(restored) => Ok(restored),
        Err(error) => Err(undo(cgroup, groups, error)),
    }
}

/// Ends what criu has left and removes the cgroup and the resctrl groups.
fn undo(cgroup: Cgroup, groups: Option<Groups>, error: Error) -> Error {
    let killed = if cgroup.is_nowhere() {
        Ok(())
    } else {
        cgroup.kill()
    };
    let removed = cgroup.remove().and(killed);
    [removed, groups.map_or(Ok(()), Groups::remove)]
        .into_iter()
        .filter_map(Result::err)
        .fold(error, |error, failed| error.and(&failed.within("clean up")))
}

fn make(
    plan: &Plan,
    container: &Locked,
    record: &mut Record,
    request: Request<'_>,
    (cgroup, mut groups): (&mut Cgroup, Option<&mut Groups>),
) -> Result<Restored> {
    make_groups(plan, groups.as_deref_mut(), record)?;
    cgroup.apply(&plan.cgroup)?;
    let namespaces = open_inherited(plan)?;
    let prepare = || {
        prepare_mounts(plan)?;
        reopen(&request.directories)
    };
    let directories = request.directories.iter().map(|(directory, _)| *directory);
    let namespace_files = namespaces.iter().map(|(_, file)| file.as_fd());
    let launch = Launch {
        inherits: directories.chain(namespace_files).collect(),
        prepare: Some((CloneFlags::CLONE_NEWNS, &prepare)),
    };
    let session = Session::start(request.program, &launch)?;
    cgroup.start_unit(&plan.cgroup, session.pid())?;
    if plan.cgroup.unit.is_none() {
        cgroup.attach(session.pid())?;
    }
    // What criu makes is born in them.
    if let Some(groups) = &groups {
        groups.join(session.pid(), IfGone::Fail)?;
    }
    timing::mark("cgroup");

    let mut options = request.options;
    options.root = Some(plan.rootfs.path.to_string_lossy().into_owned());
    options.rst_sibling = true;
    options.cg_root = cgroup_roots(&plan.cgroup.record());
    options.ext_mnt = sources(plan);
    options.inherit_fd = inherited(&request.streams, &namespaces);

    let state = record.hook_state();
    let mut terminal = None;
    let mut notified = |moment: &Notify, fd: Option<OwnedFd>| {
        let pid = Pid::from_raw(moment.pid.unwrap_or(0));
        match moment.script.as_str() {
            "setup-namespaces" => {
                if plan.namespaces.creates(NamespaceType::Network) {
                    network::bring_up_loopback(pid)?;
                }
                let output = match plan.hooks.before_pivot() {
                    true => Output::open(&plan.hooks.output)?,
                    false => Output::default(),
                };
                run_hooks(plan, (&state, &output), pid, container)
            }
            "post-restore" => {
                record.init = Some(Init::now(pid)?);
                record.restored_time = has_other_time(pid)?;
                container.save(record)
            }
            "orphan-pts-master" => {
                terminal = take_terminal(fd, request.console_socket.as_ref())?;
                Ok(())
            }
            _ => Ok(()),
        }
    };
    let pid = session.work(Type::Restore, options, &request.log, &mut notified)?;
    timing::mark("criu");
    let pid = pid.ok_or_else(|| Error::new(Kind::System, "criu tells no process"))?;
    let pid = Pid::from_raw(pid);
    let handle = Handle::open_child(pid)?;
    record.init = Some(Init::now(pid)?);
    settle_groups(plan, groups, record);
    record.creating = false;
    container.save(record)?;
    request.announce.publish(pid, &handle)?;
    Ok(Restored {
        pid,
        handle,
        terminal,
    })
}

/// Whether the process is in another time namespace than we. A kernel without
/// them (until Linux 5.6) has no such file.
fn has_other_time(pid: Pid) -> Result<bool> {
    let number = |process: &str| {
        let path = format!("/proc/{process}/ns/time");
        match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            found => sys::call(found, || format!("stat({path:?})")).map(|found| Some(found.ino())),
        }
    };
    Ok(number(&pid.to_string())? != number("self")?)
}

/// In criu's own mount namespace: the root filesystem as a mount, as criu wants
/// it, with the mount points that are not in the images (runc #2748).
fn prepare_mounts(plan: &Plan) -> Result<()> {
    let root = rootfs::begin(&plan.rootfs)?;
    root.make_places(&checkpoint::places(&plan.rootfs))
}

/// In criu's own mount namespace: the same directories there, under the same
/// numbers. criu mounts below one of them, which can't be another namespace's.
fn reopen(directories: &[(BorrowedFd<'_>, &Path)]) -> Result<()> {
    for (number, path) in directories {
        let ours = directory::open(path)?;
        descriptors::duplicate_onto(ours.as_fd(), number.as_raw_fd())?;
    }
    Ok(())
}

/// What takes the place of names in the images.
fn sources(plan: &Plan) -> Vec<External> {
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let mut sources: Vec<External> = checkpoint::external_mounts(&plan.rootfs)
        .iter()
        .map(|mount| External {
            key: text(&mount.name),
            value: text(&mount.source),
        })
        .collect();
    if checkpoint::masked_paths(&plan.rootfs).next().is_some() {
        sources.push(External {
            key: MASK.to_owned(),
            value: MASK.to_owned(),
        });
    }
    sources
}

/// The namespaces that criu takes by descriptor, with their names in images.
fn open_inherited(plan: &Plan) -> Result<Vec<(&'static str, File)>> {
    checkpoint::inherited(&plan.namespaces)
        .map(|(join, name)| {
            let opened = File::open(&join.path);
            let file = sys::call(opened, || format!("open({:?})", join.path))?;
            Ok((name, file))
        })
        .collect()
}

/// Descriptors for what criu finds in the images: standard streams that were
/// pipes become ours, namespaces those that are joined.
fn inherited(streams: &[String], namespaces: &[(&'static str, File)]) -> Vec<Inherited> {
    let pipes = (0..3)
        .zip(streams)
        .filter(|(_, name)| name.starts_with("pipe:"));
    let streams = pipes.map(|(fd, name)| Inherited {
        key: name.clone(),
        fd,
    });
    let namespaces = namespaces.iter().map(|(name, file)| Inherited {
        key: (*name).to_owned(),
        fd: file.as_raw_fd(),
    });
    streams.chain(namespaces).collect()
}

/// The other joined namespaces.
fn joined(plan: &Plan) -> Result<Vec<JoinedNamespace>> {
    let joined = checkpoint::joined(&plan.namespaces)?;
    let names = joined.into_iter().map(|(kind, path)| JoinedNamespace {
        kind: kind.to_owned(),
        path: path.to_string_lossy().into_owned(),
    });
    Ok(names.collect())
}

/// The container's cgroup in each hierarchy.
fn cgroup_roots(record: &cgroup::Record) -> Vec<CgroupRoot> {
    // As the processes see it, where they have a cgroup namespace.
    let path = |member: &Member| match &member.home {
        Some(home) => format!("/{}/{home}", member.path),
        None => format!("/{}", member.path),
    };
    match record.members.as_slice() {
        [only] if only.is_v2() => vec![CgroupRoot {
            controllers: None,
            path: path(only),
        }],
        members => members
            .iter()
            .filter(|member| !member.is_v2())
            .map(|member| CgroupRoot {
                controllers: Some(member.controllers.join(",")),
                path: path(member),
            })
            .collect(),
    }
}

/// Hands the terminal's master to who is to hold it.
fn take_terminal(master: Option<OwnedFd>, socket: Option<&OwnedFd>) -> Result<Option<OwnedFd>> {
    let missing = || Error::new(Kind::System, "criu sent no terminal");
    let master = master.ok_or_else(missing)?;
    terminal::check_master(master.as_fd()).context(|| "terminal from criu")?;
    let Some(socket) = socket else {
        return Ok(Some(master));
    };
    let name = format!("/dev/pts/{}", terminal::number(master.as_fd())?);
    descriptors::send(socket.as_fd(), name.as_bytes(), &[master.as_fd()])
        .context(|| "send the terminal to the console socket")?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pipes_are_taken_over() {
        let streams = ["/dev/null", "pipe:[17]", "socket:[4]"].map(str::to_owned);
        assert_eq!(
            inherited(&streams, &[]),
            [Inherited {
                key: "pipe:[17]".to_owned(),
                fd: 1
            }]
        );
    }
}
