//! What a case left behind: processes, cgroups, mounts, state. A case that
//! leaves anything fails, and what it left is removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Looks for processes below this one, which is a subreaper; kills what is
/// still there after a grace and names it.
pub fn processes(grace: Duration) -> Vec<String> {
    let begin = Instant::now();
    loop {
        while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            if status.pid().is_none() {
                break;
            }
        }
        let left = children(std::process::id());
        if left.is_empty() {
            return Vec::new();
        }
        if begin.elapsed() > grace {
            let names = left.iter().map(|pid| {
                let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                format!("process {pid}: {}", line.replace('\0', " "))
            });
            let names = names.collect();
            for pid in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                let _ = waitpid(Pid::from_raw(pid), None);
            }
            return names;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills and reaps the children of this process that are not `ours`, until
/// none is left.
pub fn orphans(ours: &[i32]) {
    loop {
        let mut left = children(std::process::id());
        left.retain(|pid| !ours.contains(pid));
        if left.is_empty() {
            return;
        }
        for pid in left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = waitpid(Pid::from_raw(pid), None);
        }
    }
}

fn children(parent: u32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()
            .and_then(|stat| stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok())
            == Some(parent)
    })
    .collect()
}

/// Cgroups of the case (a name that starts with `prefix`) in every hierarchy
/// that is mounted here; removes them.
pub fn cgroups(prefix: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        if right.starts_with("cgroup ") || right.starts_with("cgroup2 ") {
            let root = PathBuf::from(left.split(' ').nth(4).unwrap_or("/"));
            search(&root, prefix, 0, &mut found);
        }
    }
    found
        .iter()
        .map(|path| {
            remove(path);
            format!("cgroup {}", path.display())
        })
        .collect()
}

fn search(directory: &Path, prefix: &str, depth: u32, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{prefix}-"))
        {
            found.push(entry.path());
        } else if depth < 3 {
            search(&entry.path(), prefix, depth + 1, found);
        }
    }
}

fn remove(cgroup: &Path) {
    let _ = fs::write(cgroup.join("freezer.state"), "THAWED");
    if let Ok(entries) = fs::read_dir(cgroup) {
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            remove(&entry.path());
        }
    }
    let pids = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    // EBUSY until the killed processes are gone.
    for _ in 0..200 {
        if fs::remove_dir(cgroup).is_ok() || !cgroup.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Mounts below the case's directory; unmounts them.
pub fn mounts(directory: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let targets = text.lines().filter_map(|line| line.split(' ').nth(4));
    let mut targets: Vec<&str> = targets
        .filter(|target| Path::new(target).starts_with(directory))
        .collect();
    targets.reverse();
    targets
        .iter()
        .map(|target| {
            let _ = nix::mount::umount2(*target, nix::mount::MntFlags::MNT_DETACH);
            format!("mount {target}")
        })
        .collect()
}

/// Entries of the runtime's `--root` that name containers of the case.
pub fn state(root: &Path, prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains(prefix))
        .map(|entry| format!("state {}", entry.path().display()))
        .collect()
}

/// Files in directories that were empty before the case.
pub fn files(directories: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting: Vec<PathBuf> = directories.iter().map(PathBuf::from).collect();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            } else {
                found.push(format!("file {}", entry.path().display()));
            }
        }
    }
    found
}
