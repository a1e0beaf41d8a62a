//! What a container uses, in the words of containerd's metrics.
//!
//! Which cgroups are the container's is asked of the kernel when it is made
//! (`/proc/PID/cgroup`): that holds for every runtime, and later its processes
//! may be elsewhere. Where the hierarchies are mounted is read once for all
//! containers of the shim. The rest is files: each hierarchy's directory is
//! opened once for a reading and its files by that descriptor, into one
//! buffer.

mod files;
mod v1;
mod v2;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use nix::errno::Errno;
use rrun::cgroup::hierarchy::{Hierarchies, Hierarchy};
use rrun::error::{Context, Error, Kind, Result};
use rrun_sys as sys;

use files::Files;

/// The type of the metrics of v1, as containerd knows it.
const V1: &str = "io.containerd.cgroups.v1.Metrics";
/// The type of the metrics of v2.
const V2: &str = "io.containerd.cgroups.v2.Metrics";

/// The cgroups of a container: one on a host with v2, one in each hierarchy on
/// a host with v1.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cgroups {
    /// Each directory with the controllers that count in it.
    v1: Vec<(Vec<String>, PathBuf)>,
    v2: Option<PathBuf>,
}

/// Where a cgroup's memory is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory<'a> {
    /// In a directory of the v1 hierarchy.
    V1(&'a Path),
    /// In a directory of v2.
    V2(&'a Path),
}

impl Cgroups {
    /// The cgroups in which the process `pid` is now. One in which the shim is,
    /// too, is not the container's: its runtime has made none in that
    /// hierarchy.
    ///
    /// # Errors
    /// There is no such process, or `/proc` can't be read.
    pub(crate) fn of(pid: i32) -> Result<Self> {
        let read = |process: &str| {
            let path = format!("/proc/{process}/cgroup");
            sys::call(std::fs::read_to_string(&path), || format!("read({path:?})"))
                .context(|| format!("find the cgroups of process {pid}"))
        };
        let (its, ours) = (read(&pid.to_string())?, read("self")?);
        Ok(Self::in_hierarchies(hierarchies()?, &its, &ours))
    }

    /// The cgroups of a process by the texts of /proc/PID/cgroup, its and ours.
    fn in_hierarchies(hierarchies: &Hierarchies, its: &str, ours: &str) -> Self {
        let own = |hierarchy: &Hierarchy| {
            let directory = hierarchy.directory(its)?;
            (Some(&directory) != hierarchy.directory(ours).as_ref()).then_some(directory)
        };
        let v1 = hierarchies.v1.iter();
        Self {
            v1: v1
                .filter_map(|hierarchy| Some((hierarchy.controllers.clone(), own(hierarchy)?)))
                .collect(),
            v2: hierarchies.v2.as_ref().and_then(own),
        }
    }

    /// What is used now: `io.containerd.cgroups.v1.Metrics`, or `v2.Metrics`
    /// where no controller is v1's. What the kernel doesn't count, or counts
    /// no more since the cgroup is gone, is zero.
    ///
    /// # Errors
    /// No hierarchy has a cgroup of the container's own.
    pub(crate) fn metrics(&self) -> Result<Any> {
        let mut any = Any::new();
        if self.has_v1_controllers() {
            any.type_url = V1.to_owned();
            any.value = encode(&v1::read(&mut Files::default(), self))?;
        } else if let Some(directory) = &self.v2 {
            any.type_url = V2.to_owned();
            any.value = encode(&v2::read(&mut Files::default(), directory))?;
        } else {
            let text = "the container has no cgroup of its own";
            return Err(Error::new(Kind::NotFound, text));
        }
        Ok(any)
    }

    /// Where its memory is counted; nothing if it isn't.
    #[must_use]
    pub(crate) fn memory(&self) -> Option<Memory<'_>> {
        let v1 = self.controller("memory").map(Memory::V1);
        v1.or_else(|| self.v2.as_deref().map(Memory::V2))
    }

    /// Removes what a runtime has left of them: directories without processes,
    /// once the runtime has deleted the container. A process that is dead
    /// keeps its cgroup busy for a moment, so there are several attempts.
    ///
    /// Only those that are named after the container `id` are its own: a
    /// container may also have been put into the cgroup of its pod.
    ///
    /// # Errors
    /// One of them is still busy after a second.
    pub(crate) async fn remove(&self, id: &str) -> Result<()> {
        let own = |directory: &&PathBuf| {
            let name = directory.file_name().unwrap_or_default();
            is_named_after(&name.to_string_lossy(), id)
        };
        let v1 = self.v1.iter().map(|(_, directory)| directory);
        let mut left: Vec<&PathBuf> = v1.chain(&self.v2).filter(own).collect();
        for _ in 0..ATTEMPTS {
            left.retain(|directory| remove_tree(directory).is_err());
            if left.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        // The first says what the matter is.
        left.first()
            .map_or(Ok(()), |directory| remove_tree(directory))
            .context(|| "remove the cgroups that the runtime has left")
    }

    /// The directory of a v1 controller.
    fn controller(&self, name: &str) -> Option<&Path> {
        let found = self
            .v1
            .iter()
            .find(|(names, _)| names.iter().any(|other| other == name));
        found.map(|(_, directory)| directory.as_path())
    }

    /// A hierarchy with only a name (`name=systemd`) counts nothing.
    fn has_v1_controllers(&self) -> bool {
        self.v1
            .iter()
            .any(|(names, _)| names.iter().any(|name| !name.contains('=')))
    }
}

/// Whether a cgroup has the name that a runtime gives to that of the container
/// `id`: the id, systemd's `PREFIX-ID.scope`, or CRI's `SLICE:PREFIX:ID` where it
/// was taken as a name.
fn is_named_after(name: &str, id: &str) -> bool {
    if name == id {
        return true;
    }
    let Some(before) = name.strip_suffix(".scope").unwrap_or(name).strip_suffix(id) else {
        return false;
    };
    match before.chars().last() {
        None => true,
        Some('-') => name.ends_with(".scope"),
        Some(last) => last == ':',
    }
}

/// How often, and how long apart, a cgroup is tried to be removed.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Removes a cgroup, those below it first.
fn remove_tree(directory: &Path) -> sys::Result<()> {
    let gone = |error: &sys::Error| matches!(error.errno(), Errno::ENOENT | Errno::ENODEV);
    let entries = match directory_entries(directory) {
        Err(error) if gone(&error) => return Ok(()),
        entries => entries?,
    };
    for below in entries {
        remove_tree(&below)?;
    }
    let removed = sys::call(std::fs::remove_dir(directory), || {
        format!("rmdir({directory:?})")
    });
    match removed {
        Err(error) if gone(&error) => Ok(()),
        removed => removed,
    }
}

/// The cgroups in a cgroup.
fn directory_entries(directory: &Path) -> sys::Result<Vec<PathBuf>> {
    let open = sys::directory::open(directory)?;
    let entries = sys::directory::entries(open.as_fd())?;
    let cgroups = entries
        .into_iter()
        .filter(|(_, is_directory)| *is_directory);
    Ok(cgroups.map(|(name, _)| directory.join(name)).collect())
}

/// The hierarchies of this host, which stay what they are while the shim runs.
fn hierarchies() -> Result<&'static Hierarchies> {
    static READ: OnceLock<Hierarchies> = OnceLock::new();
    if let Some(hierarchies) = READ.get() {
        return Ok(hierarchies);
    }
    let hierarchies = Hierarchies::read()?;
    Ok(READ.get_or_init(|| hierarchies))
}

fn encode(metrics: &impl Message) -> Result<Vec<u8>> {
    metrics
        .write_to_bytes()
        .map_err(|error| Error::new(Kind::System, format!("encode metrics: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_cgroup_is_named_after_it() {
        for (name, own) in [
            ("web", true),
            ("cri-containerd-web.scope", true),
            ("system.slice:cri-containerd:web", true),
            ("web.scope", true),
            ("my-web", false),
            ("web-2", false),
            ("webweb", false),
            ("cri-containerd-web2.scope", false),
            ("kubepods-podweb.slice", false),
            ("", false),
        ] {
            assert_eq!(is_named_after(name, "web"), own, "{name}");
        }
        assert!(is_named_after("a.scope", "a.scope"));
    }

    #[test]
    fn a_containers_cgroups_are_found_by_its_process() {
        const MOUNTS: &str = "1 0 8:1 / / rw - ext4 /dev/sda rw\n\
            2 1 0:5 / /c/memory rw - cgroup cgroup rw,memory\n\
            3 1 0:6 / /c/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
            4 1 0:7 /part /c/unified rw - cgroup2 cgroup2 rw\n";
        for (name, its, ours, expected) in [
            (
                "its own in each hierarchy",
                "3:memory:/k/a\n2:cpu,cpuacct:/k/a\n0::/part/k/a\n",
                "3:memory:/\n2:cpu,cpuacct:/\n0::/\n",
                "memory@/c/memory/k/a cpu,cpuacct@/c/cpu/k/a v2@/c/unified/k/a",
            ),
            (
                "one that is the shim's too",
                "3:memory:/k/a\n2:cpu,cpuacct:/shim\n0::/part/shim\n",
                "3:memory:/shim\n2:cpu,cpuacct:/shim\n0::/part/shim\n",
                "memory@/c/memory/k/a",
            ),
            (
                "the top of a hierarchy, and one outside of what is mounted",
                "3:memory:/k/a\n2:cpu,cpuacct:/\n0::/elsewhere/a\n",
                "3:memory:/shim\n2:cpu,cpuacct:/shim\n0::/part/shim\n",
                "memory@/c/memory/k/a",
            ),
            ("nowhere", "0::/\n", "0::/\n", ""),
        ] {
            let found = Cgroups::in_hierarchies(&Hierarchies::parse(MOUNTS, ""), its, ours);
            let v1 = found.v1.iter();
            let mut text: Vec<String> = v1
                .map(|(names, path)| format!("{}@{}", names.join(","), path.display()))
                .collect();
            text.extend(found.v2.iter().map(|path| format!("v2@{}", path.display())));
            assert_eq!(text.join(" "), expected, "{name}");
        }
    }
}
