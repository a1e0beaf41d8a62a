//! Idmapped mounts (Linux 5.12; layers of an overlay 5.19): `uidmap=` and
//! `gidmap=` as containerd writes them, and the user namespace that stands for
//! them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rrun::error::{Context, Error, Kind, Result};
use rrun::plan::namespaces::IdMaps;
use rrun::spec::IdMapping;
use rrun_sys as sys;
use rrun_sys::mount::{Change, clone_tree, set_attributes};
use rrun_sys::process::{Clone, Forked};

/// Which ids of the filesystem appear as which in the mount.
#[derive(Debug, Default)]
pub(super) struct IdMap(IdMaps);

impl IdMap {
    /// Reads `CONTAINER:HOST:SIZE`, several with commas between.
    pub(super) fn parse(uids: &str, gids: &str) -> Result<Self> {
        Ok(Self(IdMaps {
            uids: ranges(uids).context(|| format!("uidmap={uids}"))?,
            gids: ranges(gids).context(|| format!("gidmap={gids}"))?,
        }))
    }

    /// A user namespace with these maps, and nobody in it.
    pub(super) fn user_namespace(&self) -> Result<OwnedFd> {
        let clone = Clone {
            flags: u64::from(libc::CLONE_NEWUSER.cast_unsigned()),
            ..Clone::default()
        };
        let parent = nix::unistd::getpid();
        let (pid, process) = match sys::process::fork(&clone)? {
            Forked::Parent(pid, process) => (pid, process),
            Forked::Child => wait_to_be_killed(parent),
        };
        let opened = rrun::idmap::write(pid, &self.0, true).and_then(|()| {
            let path = format!("/proc/{pid}/ns/user");
            let file = sys::call(std::fs::File::open(&path), || format!("open({path:?})"))?;
            Ok(OwnedFd::from(file))
        });
        let killed = process.signal(Signal::SIGKILL as i32);
        let ended = killed.and_then(|()| process.wait());
        let opened = opened.context(|| "make a user namespace")?;
        ended?;
        Ok(opened)
    }

    /// A detached copy of the mount at `path` with the ids mapped by `users`.
    pub(super) fn apply(
        &self,
        path: &Path,
        users: BorrowedFd<'_>,
        recursive: bool,
    ) -> Result<OwnedFd> {
        let directory = sys::directory::open(path)?;
        let tree = clone_tree(directory.as_fd(), Path::new(""), recursive)?;
        let change = Change {
            user_namespace: Some(users),
            recursive,
            ..Change::default()
        };
        set_attributes(tree.as_fd(), &change).context(|| format!("map the ids of {path:?}"))?;
        Ok(tree)
    }
}

/// What the process does whose user namespace is wanted; it holds nothing
/// that outlives its parent.
fn wait_to_be_killed(parent: Pid) -> ! {
    sys::process::die_with(parent);
    loop {
        nix::unistd::pause();
    }
}

fn ranges(text: &str) -> Result<Vec<IdMapping>> {
    text.split(',').map(range).collect()
}

fn range(text: &str) -> Result<IdMapping> {
    let numbers: Vec<u32> = text
        .split(':')
        .map_while(|number| number.parse().ok())
        .collect();
    match (numbers[..].as_ref(), text.split(':').count()) {
        (&[container_id, host_id, size], 3) if size > 0 => Ok(IdMapping {
            container_id,
            host_id,
            size,
        }),
        _ => Err(Error::new(
            Kind::InvalidConfig,
            format!("{text:?} is not CONTAINER:HOST:SIZE"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_as_containerd_writes_them() {
        for (text, expected) in [
            ("0:1000:65536", "0 1000 65536"),
            ("0:1000:10,10:5000:1", "0 1000 10 10 5000 1"),
            ("", "\"\" is not CONTAINER:HOST:SIZE"),
            ("0:1000", "\"0:1000\" is not CONTAINER:HOST:SIZE"),
            ("0:1000:0", "\"0:1000:0\" is not CONTAINER:HOST:SIZE"),
            ("0:1:2:x", "\"0:1:2:x\" is not CONTAINER:HOST:SIZE"),
            ("0:-1:2", "\"0:-1:2\" is not CONTAINER:HOST:SIZE"),
            (
                "0:1:5000000000",
                "\"0:1:5000000000\" is not CONTAINER:HOST:SIZE",
            ),
            ("0:1:2,", "\"\" is not CONTAINER:HOST:SIZE"),
        ] {
            let read = match ranges(text) {
                Ok(ranges) => ranges
                    .iter()
                    .map(|r| format!("{} {} {}", r.container_id, r.host_id, r.size))
                    .collect::<Vec<_>>()
                    .join(" "),
                Err(error) => error.to_string(),
            };
            assert_eq!(read, expected, "{text}");
        }
    }
}
