//! What a process of a container can get of another that is just being made in
//! it: `/proc/PID` is asked for everything, again and again.
//!
//! What is reached is told by a path of the host: `..` from a directory of the
//! host's goes up to the host's root, whoever walks it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use serde_json::{Value, json};

/// How far up a directory of the host's may lie below its root.
const UP: &str = "/../../../../../../../../../../../../../../../..";

/// Looks at each process but its own and the first for ever; `tell` gets
/// `{"seen": NAME}` for a process in the making and `{"found": WHAT}` for what
/// must not be, each once. `mark` is a file of the host, by its absolute path,
/// `programs` are the names of processes that are made.
pub fn watch(mark: &str, programs: &[&str], mut tell: impl FnMut(&Value)) -> ! {
    let own = std::process::id();
    let mut told = BTreeSet::new();
    let mut kept = Vec::new();
    let mut say = |line: Value| {
        if told.insert(line.to_string()) {
            tell(&line);
        }
    };
    loop {
        for pid in pids().into_iter().filter(|pid| *pid != own && *pid != 1) {
            let news = look(pid, mark, programs);
            if kept.len() < KEPT && !news.is_empty() {
                kept.extend(keep(pid).filter(is_other));
            }
            news.into_iter().for_each(&mut say);
        }
        // Also when nobody executes it any more.
        if kept.iter().any(writable) {
            say(json!({ "found": "its program for writing" }));
        }
    }
}

/// Keeps the programs of all processes that are none of the container's own, and
/// tries to write them, until that is answered for good: `tell` gets `{"kept": N}`,
/// then `{"written": ERRNO}`, null where it was.
pub fn keep_programs(mut tell: impl FnMut(&Value)) -> ! {
    let own = std::process::id();
    let kept = loop {
        let others = pids().into_iter().filter(|pid| *pid != own);
        let kept: Vec<File> = others.filter_map(keep).filter(is_other).collect();
        if !kept.is_empty() {
            break kept;
        }
    };
    tell(&json!({ "kept": kept.len() }));
    let answer = loop {
        let errors = kept.iter().map(|program| write(program).err());
        let errors: Vec<_> = errors
            .map(|error| error.and_then(|e| e.raw_os_error()))
            .collect();
        if !errors.contains(&Some(libc::ETXTBSY)) {
            break errors[0];
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    tell(&json!({ "written": answer }));
    std::process::exit(0)
}

/// How many programs of processes in the making are kept.
const KEPT: usize = 8;

/// The program of a process, held but not opened.
fn keep(pid: u32) -> Option<File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_PATH);
    options.open(format!("/proc/{pid}/exe")).ok()
}

/// Whether this is none of the container's own programs, which are in /bin and
/// /data.
fn is_other(program: &File) -> bool {
    let path = fs::read_link(format!("/proc/self/fd/{}", program.as_raw_fd()));
    path.is_ok_and(|path| !path.starts_with("/bin") && !path.starts_with("/data"))
}

/// CVE-2019-5736: a program can be written once nobody executes it. A sealed one
/// can be opened, and no more. What is written is what an ELF file begins with.
fn writable(program: &File) -> bool {
    write(program).is_ok()
}

fn write(program: &File) -> std::io::Result<usize> {
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    let opened = fs::OpenOptions::new().write(true).open(path);
    opened.and_then(|file| file.write_at(b"\x7f", 0))
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect()
}

/// One look at all that a process shows.
fn look(pid: u32, mark: &str, programs: &[&str]) -> Vec<Value> {
    let directory = format!("/proc/{pid}");
    let reaches = |path: &str| Path::new(&format!("{directory}/{path}{mark}")).exists();
    let mut news = Vec::new();
    if reaches("root") {
        news.push(json!({ "found": "the host by root" }));
    }
    if reaches(&format!("cwd{UP}")) {
        news.push(json!({ "found": "the host by cwd" }));
    }
    let descriptors = fs::read_dir(format!("{directory}/fd"));
    for entry in descriptors.into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if reaches(&format!("fd/{name}{UP}")) {
            news.push(json!({ "found": "the host by a descriptor" }));
        }
    }
    // What ptrace(2) would be allowed, this is, and does nothing to the process.
    let Some(name) = in_the_making(&directory, programs) else {
        return news;
    };
    let opened = File::open(format!("{directory}/mem")).is_ok();
    news.push(json!({ "seen": name }));
    // Its name changes a moment after it has executed its program.
    if opened && keep(pid).is_some_and(|program| is_other(&program)) {
        news.push(json!({ "traced": true }));
    }
    news
}

/// The name of a process that does not run its program yet.
fn in_the_making(directory: &str, programs: &[&str]) -> Option<String> {
    let name = fs::read_to_string(format!("{directory}/comm")).ok()?;
    let name = name.trim_end();
    (!programs.contains(&name)).then(|| name.to_owned())
}
