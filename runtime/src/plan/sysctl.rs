//! `linux.sysctl`: which kernel parameters are the container's own.
//!
//! Only parameters of a namespace that the container doesn't share with the
//! host may be set; every other would be the host's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::namespaces::Namespaces;
use crate::error::{Error, Result};
use crate::spec::NamespaceType;
use crate::sys::mutation::Defence;

/// Parameters of an ipc namespace, beside `fs.mqueue.*`.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The paths below /proc/sys, and the values.
///
/// # Errors
/// A parameter that belongs to no namespace, or to one that the container
/// shares with the host, or that has another field of config.json.
pub(super) fn plan(
    sysctl: &BTreeMap<String, String>,
    namespaces: &Namespaces,
) -> Result<Vec<(PathBuf, String)>> {
    sysctl
        .iter()
        .map(|(key, value)| {
            let path = path(key);
            check(&path, namespaces)
                .map_err(|cause| Error::config(format!("linux.sysctl[{key:?}]"), cause))?;
            Ok((PathBuf::from(path), value.clone()))
        })
        .collect()
}

/// The path below /proc/sys. As in sysctl.d(5) the first separator decides: in
/// a dotted name a slash stands for a dot (`net.ipv4.conf.eth0/1.arp`), in a
/// slashed one a dot is a dot.
fn path(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'.' => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

/// The namespace that a parameter, named by its path below /proc/sys, belongs to.
#[must_use]
pub fn owner(path: &Path) -> Option<NamespaceType> {
    let ipc = |name: &&str| Path::new(&name.replace('.', "/")) == path;
    if path == Path::new("kernel/domainname") {
        Some(NamespaceType::Uts)
    } else if path.starts_with("net") {
        Some(NamespaceType::Network)
    } else if path.starts_with("fs/mqueue") || IPC.iter().any(ipc) {
        Some(NamespaceType::Ipc)
    } else if path.starts_with("user") {
        Some(NamespaceType::User)
    } else {
        None
    }
}

fn check(path: &str, namespaces: &Namespaces) -> Result<(), String> {
    if Defence::SysctlNamespaces.is_out() {
        return Ok(());
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("is not the name of a parameter".to_owned());
    }
    if path == "kernel/hostname" {
        return Err("is set by the field hostname".to_owned());
    }
    let Some(owner) = owner(Path::new(path)) else {
        return Err("belongs to no namespace: it would be the host's".to_owned());
    };
    if namespaces.contains(owner) {
        Ok(())
    } else {
        let article = if owner == NamespaceType::Ipc {
            "an"
        } else {
            "a"
        };
        Err(format!(
            "needs {article} {} namespace in linux.namespaces",
            owner.name()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(key: &str, kinds: &[NamespaceType]) -> String {
        let namespaces = Namespaces {
            new: kinds.to_vec(),
            ..Namespaces::default()
        };
        let sysctl = BTreeMap::from([(key.to_owned(), "1".to_owned())]);
        match plan(&sysctl, &namespaces) {
            Ok(writes) => writes[0].0.display().to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn only_parameters_of_own_namespaces_are_set() {
        use NamespaceType::{Ipc, Network, User, Uts};
        for (key, namespaces, result) in [
            ("net.ipv4.ip_forward", &[Network][..], "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", &[Network], "net/ipv4/ip_forward"),
            (
                "net.ipv4.conf.eth0/1.arp_accept",
                &[Network],
                "net/ipv4/conf/eth0.1/arp_accept",
            ),
            (
                "net/ipv4/conf/eth0.1/arp_accept",
                &[Network],
                "net/ipv4/conf/eth0.1/arp_accept",
            ),
            (
                "net.ipv4.ip_forward",
                &[],
                "config.json: linux.sysctl[\"net.ipv4.ip_forward\"]: \
                 needs a network namespace in linux.namespaces",
            ),
            ("kernel.shmmax", &[Ipc], "kernel/shmmax"),
            ("kernel.shm_rmid_forced", &[Ipc], "kernel/shm_rmid_forced"),
            ("fs.mqueue.msg_max", &[Ipc], "fs/mqueue/msg_max"),
            (
                "kernel.sem",
                &[Network],
                "config.json: linux.sysctl[\"kernel.sem\"]: needs an ipc namespace in linux.namespaces",
            ),
            ("kernel.domainname", &[Uts], "kernel/domainname"),
            (
                "kernel.hostname",
                &[Uts],
                "config.json: linux.sysctl[\"kernel.hostname\"]: is set by the field hostname",
            ),
            (
                "user.max_net_namespaces",
                &[User],
                "user/max_net_namespaces",
            ),
            (
                "kernel.core_pattern",
                &[Network, Ipc, Uts, User],
                "config.json: linux.sysctl[\"kernel.core_pattern\"]: \
                 belongs to no namespace: it would be the host's",
            ),
            (
                "net/../kernel/core_pattern",
                &[Network],
                "config.json: linux.sysctl[\"net/../kernel/core_pattern\"]: \
                 is not the name of a parameter",
            ),
            (
                "net.//.kernel",
                &[Network],
                "config.json: linux.sysctl[\"net.//.kernel\"]: is not the name of a parameter",
            ),
            (
                "kernel.shmmax+x",
                &[Ipc],
                "config.json: linux.sysctl[\"kernel.shmmax+x\"]: \
                 belongs to no namespace: it would be the host's",
            ),
        ] {
            assert_eq!(planned(key, namespaces), result, "{key}");
        }
    }
}
