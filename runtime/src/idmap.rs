//! The id maps of a new user namespace, written by the parent.
//!
//! Root, also of a user namespace, writes `/proc/PID/uid_map` itself. Anybody else may map only his own
//! id; for more, newuidmap(1) and newgidmap(1) hold the right, which they take
//! from /etc/subuid and /etc/subgid.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use nix::unistd::Pid;

use crate::error::{Context, Error, Kind, Result};
use crate::plan::namespaces::IdMaps;
use crate::spec::IdMapping;
use crate::sys;
use crate::sys::mutation::Defence;

/// Writes both maps of the process `pid`, which has just been made in its new
/// user namespace.
///
/// `privileged` says that this process may map any id.
///
/// # Errors
/// `EPERM` for ids that are not ours to map; newuidmap's own words.
pub fn write(pid: Pid, maps: &IdMaps, privileged: bool) -> Result<()> {
    if privileged {
        write_map(pid, "uid_map", &maps.uids)?;
        return write_map(pid, "gid_map", &maps.gids);
    }
    if is_own_id_only(&maps.uids, nix::unistd::geteuid().as_raw()) {
        write_map(pid, "uid_map", &maps.uids)?;
    } else {
        run_helper("newuidmap", pid, &maps.uids)?;
    }
    if is_own_id_only(&maps.gids, nix::unistd::getegid().as_raw()) {
        // Without the right to map groups, giving up setgroups is the price
        // (user_namespaces(7)).
        write_file(pid, "setgroups", "deny")?;
        write_map(pid, "gid_map", &maps.gids)
    } else {
        run_helper("newgidmap", pid, &maps.gids)
    }
}

/// Whether the kernel lets an unprivileged process write this map.
fn is_own_id_only(mappings: &[IdMapping], own: u32) -> bool {
    matches!(mappings, [IdMapping { host_id, size: 1, .. }] if *host_id == own)
}

/// A map must be written by one write(2).
fn write_map(pid: Pid, file: &str, mappings: &[IdMapping]) -> Result<()> {
    let mut text = String::new();
    for mapping in mappings {
        let _ = writeln!(
            text,
            "{} {} {}",
            mapping.container_id, mapping.host_id, mapping.size
        );
    }
    write_file(pid, file, &text)
}

fn write_file(pid: Pid, file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    sys::call(std::fs::write(&path, text), || {
        format!("write({path:?}, {text:?})")
    })
    .context(|| "map ids of the user namespace")
}

/// Where distributions have the helpers. PATH is not asked: what maps ids is
/// the system's, not the environment's.
const HELPER_FOLDERS: [&str; 3] = ["/usr/bin", "/bin", "/run/wrappers/bin"];

/// Runs newuidmap or newgidmap.
fn run_helper(program: &str, pid: Pid, mappings: &[IdMapping]) -> Result<()> {
    let mut places = HELPER_FOLDERS
        .map(|folder| Path::new(folder).join(program))
        .into_iter();
    let path = match Defence::FixedHelpers.is_out() {
        true => Some(program.into()),
        false => places.find(|path| path.exists()),
    };
    let mut command = Command::new(path.unwrap_or_else(|| Path::new("/usr/bin").join(program)));
    sys::process::by_fork(&mut command);
    command.arg(pid.to_string());
    for mapping in mappings {
        for number in [mapping.container_id, mapping.host_id, mapping.size] {
            command.arg(number.to_string());
        }
    }
    let failed = |cause: String| {
        Error::new(Kind::System, format!("map ids of the user namespace: {program}: {cause}"))
            .with_hint("a map of more than your own id needs the package uidmap and ranges in /etc/subuid and /etc/subgid")
    };
    let output = command
        .output()
        .map_err(|error| failed(error.to_string().to_lowercase()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(
        String::from_utf8_lossy(&output.stderr)
            .trim()
            .replace('\n', "; "),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ones_own_single_id_is_mapped_without_help() {
        let map = |container_id, host_id, size| IdMapping {
            container_id,
            host_id,
            size,
        };
        for (name, mappings, own) in [
            ("own id as root", vec![map(0, 1000, 1)], true),
            ("another's id", vec![map(0, 1001, 1)], false),
            ("a range", vec![map(0, 1000, 2)], false),
            ("two maps", vec![map(0, 1000, 1), map(1, 100_000, 1)], false),
        ] {
            assert_eq!(is_own_id_only(&mappings, 1000), own, "{name}");
        }
    }
}
