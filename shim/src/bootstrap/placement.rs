//! Where the server is placed: its cgroup, its chance to survive when memory is
//! short, and its core scheduling group.

use std::fs;
use std::io;

use nix::unistd::getppid;
use rrun::cgroup::hierarchy::Hierarchies;
use rrun::error::{Error, Kind, Result};

/// The highest `oom_score_adj` (proc(5)).
const HIGHEST: i32 = 1000;

/// Puts the server into `cgroup`, if one is named, and just behind containerd in
/// the order in which the kernel kills.
///
/// # Errors
/// The cgroup is in no hierarchy, or can't be joined.
pub(super) fn place(pid: i32, cgroup: &str) -> Result<()> {
    if !cgroup.is_empty() {
        join(pid, cgroup)?;
    }
    // A privilege may be missing; the server runs as well without.
    let _score = adjust_oom_score(pid);
    Ok(())
}

fn join(pid: i32, cgroup: &str) -> Result<()> {
    let hierarchies = Hierarchies::read()?;
    let mut joined = false;
    for hierarchy in hierarchies.v1.iter().chain(&hierarchies.v2) {
        let folder = hierarchy.mount.join(cgroup.trim_start_matches('/'));
        if !folder.is_dir() {
            continue;
        }
        let file = folder.join("cgroup.procs");
        fs::write(&file, pid.to_string())
            .map_err(|error| Error::new(Kind::System, format!("write {file:?}: {error}")))?;
        joined = true;
    }
    if joined {
        return Ok(());
    }
    let text = format!("ShimCgroup {cgroup:?}: there is no such cgroup");
    Err(Error::new(Kind::InvalidConfig, text))
}

fn adjust_oom_score(pid: i32) -> io::Result<()> {
    let of_engine = fs::read_to_string(format!("/proc/{}/oom_score_adj", getppid()))?;
    let of_engine: i32 = of_engine.trim().parse().map_err(io::Error::other)?;
    let ours = (of_engine + 1).min(HIGHEST);
    fs::write(format!("/proc/{pid}/oom_score_adj"), ours.to_string())
}

/// Makes a new core scheduling group, which the server inherits, where
/// containerd asks for one (`SCHED_CORE`).
///
/// # Errors
/// The kernel has none (Linux 5.14, `CONFIG_SCHED_CORE`).
pub(super) fn new_core_cookie() -> Result<()> {
    match std::env::var_os("SCHED_CORE") {
        Some(value) if !value.is_empty() => Ok(rrun_sys::process::new_core_cookie()?),
        _ => Ok(()),
    }
}
