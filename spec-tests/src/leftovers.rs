//! What a case left behind: processes, cgroups, mounts, state. A case that
//! leaves anything fails, and what it left is removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// How long what was killed may take to end.
const KILLED: Duration = Duration::from_secs(5);

/// Looks for processes below this one, which is a subreaper; kills what is
/// still there after a grace and names it.
pub fn processes(grace: Duration) -> Vec<String> {
    let left = wait_for_none(std::process::id(), grace, reap);
    let names = left.iter().map(name).collect();
    orphans(&[]);
    names
}

/// Names the processes that a case, which is this process, has orphaned: they are
/// its own parent's, which reaps those that end. A grace for who just dies.
pub fn beside(grace: Duration) -> Vec<String> {
    let left = wait_for_none(std::os::unix::process::parent_id(), grace, || {});
    left.iter().map(name).collect()
}

/// The children of `parent` but us that are still there after a grace.
fn wait_for_none(parent: u32, grace: Duration, reap: impl Fn()) -> Vec<i32> {
    let begin = Instant::now();
    loop {
        reap();
        let mut left = children(parent);
        left.retain(|pid| *pid != std::process::id().cast_signed());
        if left.is_empty() || begin.elapsed() > grace {
            return left;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn name(pid: &i32) -> String {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("process {pid}: {}", line.replace('\0', " "))
}

/// Reaps whoever has ended.
fn reap() {
    while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        if status.pid().is_none() {
            break;
        }
    }
}

/// Kills and reaps the children of this process that are not `ours`, until
/// none is left: what a killed one had made is a child of ours then. Who does not
/// end (it may be frozen) is given up after a while.
pub fn orphans(ours: &[i32]) {
    let begin = Instant::now();
    loop {
        let mut left = children(std::process::id());
        left.retain(|pid| !ours.contains(pid));
        if left.is_empty() || begin.elapsed() > KILLED {
            return;
        }
        for pid in left {
            let pid = Pid::from_raw(pid);
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
        std::thread::sleep(Duration::from_millis(2));
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

/// Cgroups of the case (a name that starts with `prefix`, also behind the first
/// part of a unit's) in every hierarchy that is mounted here; removes them.
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
    // systemd takes a unit's away by itself, once it is empty.
    let begin = Instant::now();
    while found.iter().any(|path| is_unit(path)) && begin.elapsed() < KILLED {
        std::thread::sleep(Duration::from_millis(10));
        found.retain(|path| path.exists());
    }
    found
        .iter()
        .map(|path| {
            remove(path);
            format!("cgroup {}", path.display())
        })
        .collect()
}

/// Whether systemd made this cgroup.
fn is_unit(cgroup: &Path) -> bool {
    let end = cgroup.extension();
    end.is_some_and(|end| end == "scope" || end == "slice")
}

fn search(directory: &Path, prefix: &str, depth: u32, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = format!("{prefix}-");
        if name.starts_with(&ours) || name.contains(&format!("-{ours}")) {
            found.push(entry.path());
        } else if depth < 5 {
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
