//! The probe: a static program that runs inside a container and prints what
//! it finds there, one JSON object a line.
//!
//! `probe report` prints the whole of it. Other words are attempts, whose
//! answer is a value or an errno: `probe read PATH`, `probe write PATH TEXT`,
//! `probe syscall NUMBER ARGS`. Several are joined by `;` as an argument of
//! its own; the last `exit N` or `kill N` decides how the probe ends.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};

use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};
use spec_tests::sys;

fn main() {
    let args: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let words = &args[1.min(args.len())..];
    // Linked as `true` or `sleep`, the probe is that program.
    match args.first().and_then(|name| name.rsplit('/').next()) {
        Some("true") => return,
        Some("sleep") => return pause(),
        _ => {}
    }
    if words.is_empty() {
        print(&report());
    }
    for command in words.split(|word| word == ";") {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        if let Some(answer) = run(&words) {
            print(&answer);
        }
    }
}

fn print(answer: &Value) {
    let mut out = std::io::stdout().lock();
    // One write, or a reader finds the first kilobyte of a line. A closed stdout is
    // no reason to die: cases look at the exit code.
    let line = format!("{answer}\n");
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// One command; None when it prints nothing.
fn run(words: &[&str]) -> Option<Value> {
    let answer = match words {
        ["report"] => report(),
        ["true"] => return None,
        ["exit", code] => std::process::exit(code.parse().expect("an exit code")),
        ["kill", signal] => return kill_self(signal.parse().expect("a signal number")),
        ["kill-parent"] => return kill_parent(),
        ["signal", pid, signal] => result(sys::raw(
            libc::SYS_kill,
            [
                pid.parse().expect("a pid"),
                signal.parse().expect("a signal"),
                0,
                0,
                0,
                0,
            ],
        )),
        ["pause"] => {
            pause();
            return None;
        }
        ["sleep", millis] => {
            let millis = millis.parse().expect("milliseconds");
            std::thread::sleep(std::time::Duration::from_millis(millis));
            return None;
        }
        ["say", words @ ..] => json!({ "said": words }),
        ["complain", words @ ..] => {
            eprintln!("{}", words.join(" "));
            return None;
        }
        ["read", path] => match fs::read(path) {
            Ok(bytes) => json!({ "text": String::from_utf8_lossy(&bytes) }),
            Err(error) => failure(&error),
        },
        ["write", path, text] => {
            match fs::OpenOptions::new()
                .write(true)
                .open(path)
                .and_then(|mut file| file.write_all(text.as_bytes()))
            {
                Ok(()) => json!({ "ok": true }),
                Err(error) => failure(&error),
            }
        }
        ["create", path, text] => match fs::write(path, text) {
            Ok(()) => json!({ "ok": true }),
            Err(error) => failure(&error),
        },
        ["append", path, text] => {
            let file = fs::OpenOptions::new().append(true).create(true).open(path);
            match file.and_then(|mut file| writeln!(file, "{text}")) {
                Ok(()) => json!({ "ok": true }),
                Err(error) => failure(&error),
            }
        }
        ["mkdir", path] => io_result(fs::create_dir(path)),
        ["unlink", path] => io_result(fs::remove_file(path)),
        ["chdir", path] => io_result(std::env::set_current_dir(path)),
        ["list", path] => match fs::read_dir(path) {
            Ok(entries) => {
                let mut names: Vec<String> = entries
                    .flatten()
                    .map(|entry| entry.file_name().to_string_lossy().into_owned())
                    .collect();
                names.sort();
                json!({ "names": names })
            }
            Err(error) => failure(&error),
        },
        ["stat", path] => match fs::symlink_metadata(path) {
            Ok(found) => stat(&found),
            Err(error) => failure(&error),
        },
        ["link", path] => match fs::read_link(path) {
            Ok(target) => json!({ "target": target }),
            Err(error) => failure(&error),
        },
        ["statfs", path] => statfs(path),
        ["open", path, flags] => open(path, flags.parse().expect("open flags")),
        ["exec", path, args @ ..] => exec(path, args),
        ["spawn", path, args @ ..] => match std::process::Command::new(path).args(args).output() {
            Ok(output) => json!({
                "code": output.status.code(),
                "stdout": String::from_utf8_lossy(&output.stdout),
            }),
            Err(error) => failure(&error),
        },
        ["mount", source, target, kind, flags] => {
            let [source, target, kind] = [source, target, kind].map(|text| c(text));
            result(sys::raw(
                libc::SYS_mount,
                [
                    address(&source),
                    address(&target),
                    address(&kind),
                    flags.parse().expect("flags"),
                    0,
                    0,
                ],
            ))
        }
        ["mknod", path, mode, major, minor] => {
            let path = c(path);
            let device =
                libc::makedev(major.parse().expect("major"), minor.parse().expect("minor"));
            let mode = i64::from_str_radix(mode, 8).expect("an octal mode");
            result(sys::raw(
                libc::SYS_mknod,
                [address(&path), mode, device as i64, 0, 0, 0],
            ))
        }
        ["syscall", number, args @ ..] => {
            let mut six = [0; 6];
            for (place, arg) in six.iter_mut().zip(args.iter()) {
                *place = arg.parse().expect("an integer argument");
            }
            result(sys::raw(number.parse().expect("a system call number"), six))
        }
        ["call32", number] => match sys::call_32_bit(number.parse().expect("a number")) {
            Some(value) => json!({ "value": value }),
            None => json!({ "errno": libc::ENOSYS }),
        },
        ["fresh-proc"] => fresh_proc(),
        ["runaways", count] => runaways(count.parse().expect("a count")),
        ["forks", count] => forks(count.parse().expect("a count")),
        ["orphan"] => {
            // A second process that outlives nothing: it sleeps until killed.
            json!({ "pid": sys::fork(|| { pause(); 0 }) })
        }
        // Held until the end.
        ["lock", path] => {
            let file = fs::File::create(path).expect("a file");
            file.lock().expect("flock");
            std::mem::forget(file);
            json!({ "locked": path })
        }
        // The process goes on without its main thread.
        ["end-main-thread"] => {
            std::thread::spawn(pause);
            result(sys::raw(libc::SYS_exit, [0; 6]))
        }
        ["touch-memory", mebibytes] => touch(mebibytes.parse().expect("MiB")),
        ["hold-memory", mebibytes] => {
            let kept = fill(mebibytes.parse().expect("MiB"));
            print(&json!({ "held": kept.len() }));
            pause();
            return None;
        }
        ["huge", mebibytes] => huge(mebibytes.parse().expect("MiB")),
        ["affinity"] => affinity(),
        ["window"] => json!({ "window": sys::window(0) }),
        ["await-window", rows, columns] => await_window(rows, columns),
        ["line"] => {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).expect("stdin");
            json!({ "line": line.trim_end() })
        }
        ["input"] => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).expect("stdin");
            json!({ "input": text })
        }
        ["await", signals @ ..] => await_signal(signals),
        ["keep", number] => match fs::read_to_string(format!("/proc/self/fd/{number}")) {
            Ok(text) => json!({ "text": text }),
            Err(error) => failure(&error),
        },
        ["notify", text] => notify(text),
        // Messages that tell nothing, by processes that never end.
        ["flood-notify"] => {
            fn flood() -> i32 {
                loop {
                    notify("STATUS=busy");
                }
            }
            let pids = [0; 8].map(|_| sys::fork(flood));
            json!({ "pids": pids })
        }
        // Text that never ends, by another process; this one ends by the signal.
        ["flood-until", number, code] => {
            let mut set = SigSet::empty();
            let number: i32 = number.parse().expect("a signal number");
            set.add(Signal::try_from(number).expect("a signal"));
            set.thread_block().expect("sigprocmask");
            sys::fork(|| {
                loop {
                    println!("0123456789");
                }
            });
            set.wait().expect("sigwait");
            std::process::exit(code.parse().expect("an exit code"));
        }
        ["tell", path] => tell(path),
        ["clock", name] => clock(name),
        // Fails where more is open.
        ["stdio-only"] => std::process::exit(i32::from(descriptors().len() > 3)),
        ["keyring"] => keyring(),
        ["scheduling"] => scheduling(),
        ["keep-programs"] => spec_tests::watch::keep_programs(print),
        ["watch", mark] => spec_tests::watch::watch(mark, &["probe", "true"], print),
        _ => {
            eprintln!("probe: no such command: {words:?}");
            std::process::exit(99)
        }
    };
    Some(answer)
}

fn c(text: &str) -> CString {
    CString::new(text).expect("no NUL in arguments")
}

fn address(text: &CString) -> i64 {
    text.as_ptr() as i64
}

fn result(outcome: Result<i64, i32>) -> Value {
    match outcome {
        Ok(value) => json!({ "value": value }),
        Err(errno) => json!({ "errno": errno }),
    }
}

fn io_result(outcome: std::io::Result<()>) -> Value {
    match outcome {
        Ok(()) => json!({ "ok": true }),
        Err(error) => failure(&error),
    }
}

fn failure(error: &std::io::Error) -> Value {
    json!({ "errno": error.raw_os_error() })
}

fn kill_self(signal: i32) -> Option<Value> {
    // A PID 1 can't be killed by a signal from its own namespace whose
    // disposition is the default: the caller runs us in the host's.
    let _ = sys::raw(
        libc::SYS_kill,
        [i64::from(std::process::id()), signal.into(), 0, 0, 0, 0],
    );
    std::thread::sleep(std::time::Duration::from_secs(1));
    Some(json!({ "survived": signal }))
}

fn kill_parent() -> Option<Value> {
    let parent = i64::from(std::os::unix::process::parent_id());
    let killed = sys::raw(libc::SYS_kill, [parent, libc::SIGKILL.into(), 0, 0, 0, 0]);
    Some(json!({ "killed": killed.is_ok() }))
}

fn pause() {
    loop {
        std::thread::park();
    }
}

fn await_signal(signals: &[&str]) -> Value {
    let mut set = SigSet::empty();
    for signal in signals {
        let number: i32 = signal.parse().expect("a signal number");
        set.add(Signal::try_from(number).expect("a signal"));
    }
    set.thread_block().expect("sigprocmask");
    print(&json!({ "ready": true }));
    json!({ "signal": set.wait().expect("sigwait") as i32 })
}

fn await_window(rows: &str, columns: &str) -> Value {
    let wanted = (
        rows.parse().expect("rows"),
        columns.parse().expect("columns"),
    );
    let mut last = None;
    // Ends by the case's hang guard when the size never comes.
    while last != Some(wanted) {
        let now = sys::window(0);
        if now != last {
            print(&json!({ "window": now }));
            last = now;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    json!({ "window": last })
}

fn forks(count: usize) -> Value {
    let mut pids = Vec::new();
    let mut errno = None;
    for _ in 0..count {
        match sys::raw(libc::SYS_fork, [0; 6]) {
            Ok(0) => {
                pause();
            }
            Ok(pid) => pids.push(pid),
            Err(error) => errno = Some(error),
        }
    }
    for pid in &pids {
        let _ = sys::raw(libc::SYS_kill, [*pid, 9, 0, 0, 0, 0]);
    }
    json!({ "made": pids.len(), "errno": errno })
}

/// Processes that fork and end, one after the other, each a moment old, for as
/// long as /data/go is there.
fn runaways(count: usize) -> Value {
    for _ in 0..count {
        sys::fork(|| {
            while fs::exists("/data/go").unwrap_or(false) {
                match sys::raw(libc::SYS_fork, [0; 6]) {
                    Ok(0) | Err(_) => {}
                    Ok(_) => break,
                }
            }
            0
        });
    }
    json!({ "running": count })
}

fn touch(mebibytes: usize) -> Value {
    json!({ "touched": fill(mebibytes).len() })
}

/// That many blocks of 1 MiB, each page of them written.
fn fill(mebibytes: usize) -> Vec<Vec<u8>> {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for number in 0..mebibytes {
        let mut block = vec![0u8; 1 << 20];
        for page in block.chunks_mut(4096) {
            page[0] = 1;
            page[1] = number as u8;
        }
        kept.push(std::hint::black_box(block));
    }
    kept
}

/// Maps that many MiB of huge pages and lets go of them.
fn huge(mebibytes: i64) -> Value {
    let size = mebibytes << 20;
    let access = i64::from(libc::PROT_READ | libc::PROT_WRITE);
    let kind = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB);
    match sys::raw(libc::SYS_mmap, [0, size, access, kind, -1, 0]) {
        Ok(_) => json!({ "mapped": mebibytes }),
        Err(errno) => json!({ "errno": errno }),
    }
}

/// The processors that this process may run on.
fn affinity() -> Value {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).expect("affinity");
    let cpus = (0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false));
    json!({ "cpus": cpus.collect::<Vec<_>>() })
}

fn open(path: &str, flags: i32) -> Value {
    let access = flags & libc::O_ACCMODE;
    let file = fs::OpenOptions::new()
        .read(access != libc::O_WRONLY)
        .write(access != libc::O_RDONLY)
        .custom_flags(flags & !libc::O_ACCMODE)
        .open(path);
    match file {
        Ok(_) => json!({ "ok": true }),
        Err(error) => failure(&error),
    }
}

fn exec(path: &str, args: &[&str]) -> Value {
    use std::os::unix::process::CommandExt;
    failure(&std::process::Command::new(path).args(args).exec())
}

fn stat(found: &fs::Metadata) -> Value {
    let kind = found.file_type();
    let kind = match () {
        () if kind.is_dir() => "directory",
        () if kind.is_symlink() => "symlink",
        () if kind.is_char_device() => "char",
        () if kind.is_block_device() => "block",
        () if kind.is_fifo() => "fifo",
        () if kind.is_socket() => "socket",
        () => "file",
    };
    json!({
        "type": kind,
        "mode": format!("{:04o}", found.permissions().mode() & 0o7777),
        "uid": found.uid(),
        "gid": found.gid(),
        "size": found.size(),
        "device": format!("{}:{}", libc::major(found.rdev()), libc::minor(found.rdev())),
    })
}

fn statfs(path: &str) -> Value {
    match nix::sys::statfs::statfs(path) {
        Ok(found) => json!({
            "magic": format!("{:x}", found.filesystem_type().0),
            "blocks": found.blocks() * (found.block_size() as u64),
            "inodes": found.files(),
        }),
        Err(errno) => json!({ "errno": errno as i32 }),
    }
}

fn notify(text: &str) -> Value {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else {
        return json!({ "errno": null });
    };
    let sent = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(text.as_bytes(), path));
    io_result(sent.map(|_| ()))
}

/// Counts into a datagram socket, until that is gone.
fn tell(path: &str) -> Value {
    let socket = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
    socket.connect(path).expect("a peer");
    for number in 1_u64.. {
        if let Err(error) = socket.send(number.to_string().as_bytes()) {
            return failure(&error);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Value::Null
}

fn clock(name: &str) -> Value {
    let id = match name {
        "boottime" => nix::time::ClockId::CLOCK_BOOTTIME,
        _ => nix::time::ClockId::CLOCK_MONOTONIC,
    };
    let now = nix::time::clock_gettime(id).expect("clock_gettime");
    json!({ "seconds": now.tv_sec() })
}

/// The session keyring's id and description, by keyctl(2).
fn keyring() -> Value {
    const KEYCTL_GET_KEYRING_ID: i64 = 0;
    const KEYCTL_DESCRIBE: i64 = 6;
    const KEY_SPEC_SESSION_KEYRING: i64 = -3;
    let id = sys::raw(
        libc::SYS_keyctl,
        [KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0, 0, 0, 0],
    );
    let mut buffer = [0u8; 256];
    let place = buffer.as_mut_ptr() as i64;
    let size = sys::raw(
        libc::SYS_keyctl,
        [KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, place, 256, 0, 0],
    );
    let buffer = std::hint::black_box(buffer);
    let text = size.ok().map(|size| {
        String::from_utf8_lossy(&buffer[..(size as usize).clamp(1, 256) - 1]).into_owned()
    });
    json!({ "id": result(id), "description": text })
}

/// Mounts a procfs in a user, mount and pid namespace of one's own: the kernel
/// lets whoever sees one already that nothing is hidden of.
fn fresh_proc() -> Value {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    if let Err(errno) = sys::raw(libc::SYS_unshare, [flags.into(), 0, 0, 0, 0, 0]) {
        return json!({ "unshare": errno });
    }
    let child = sys::fork(|| {
        let (name, place) = (c"proc".as_ptr() as i64, c"/data".as_ptr() as i64);
        let mounted = sys::raw(libc::SYS_mount, [name, place, name, 0, 0, 0]);
        mounted.map_or_else(|errno| errno, |_| 0)
    });
    match nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None) {
        Ok(nix::sys::wait::WaitStatus::Exited(_, errno)) => json!({ "mount": errno }),
        other => json!({ "ended": format!("{other:?}") }),
    }
}

/// How this process is scheduled: by sched_getattr(2), ioprio_get(2),
/// get_mempolicy(2) and /proc.
fn scheduling() -> Value {
    // size, policy, flags, nice, priority, runtime, deadline, period.
    let mut attr = [0_u32; 14];
    let place = attr.as_mut_ptr() as i64;
    let read = sys::raw(libc::SYS_sched_getattr, [0, place, 56, 0, 0, 0]);
    let attr = std::hint::black_box(attr);
    let wide = |at: usize| u64::from(attr[at]) | u64::from(attr[at + 1]) << 32;
    let mut mode = -1_i32;
    let place = (&raw mut mode) as i64;
    let policy = sys::raw(libc::SYS_get_mempolicy, [place, 0, 0, 0, 0, 0]);
    let mode = std::hint::black_box(mode);
    let status = text("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().to_owned())
    };
    let maps = text("/proc/self/numa_maps").unwrap_or_default();
    json!({
        "policy": result(read.map(|_| attr[1].into())),
        "flags": wide(2),
        "nice": attr[4].cast_signed(),
        "priority": attr[5],
        "times": [wide(6), wide(8), wide(10)],
        "io_priority": sys::raw(libc::SYS_ioprio_get, [1, 0, 0, 0, 0, 0]).unwrap_or(-1),
        "memory": result(policy.map(|_| mode.into())),
        "memory_text": maps.lines().next().and_then(|line| line.split(' ').nth(1)),
        "cpus": field("Cpus_allowed_list:"),
    })
}

/// Everything there is to say about this process and its surroundings.
fn report() -> Value {
    json!({
        "args": std::env::args().collect::<Vec<_>>(),
        "env": env(),
        "cwd": cwd(),
        "status": status(),
        "pid": std::process::id(),
        "ppid": nix::unistd::getppid().as_raw(),
        "pgid": nix::unistd::getpgrp().as_raw(),
        "sid": nix::unistd::getsid(None).map(nix::unistd::Pid::as_raw).unwrap_or(-1),
        "uids": ids(libc::SYS_getuid, libc::SYS_geteuid),
        "gids": ids(libc::SYS_getgid, libc::SYS_getegid),
        "groups": nix::unistd::getgroups().map(|all| all.iter().map(|gid| gid.as_raw()).collect::<Vec<_>>()).unwrap_or_default(),
        "umask": umask(),
        "hostname": text("/proc/sys/kernel/hostname"),
        "domainname": text("/proc/sys/kernel/domainname"),
        "descriptors": descriptors(),
        "limits": limits(),
        "oom_score_adj": text("/proc/self/oom_score_adj"),
        "personality": sys::raw(libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0, 0]).unwrap_or(-1),
        "machine": nix::sys::utsname::uname().map(|name| name.machine().to_string_lossy().into_owned()).unwrap_or_default(),
        "no_new_privs": sys::raw(libc::SYS_prctl, [libc::PR_GET_NO_NEW_PRIVS.into(), 0, 0, 0, 0, 0]).unwrap_or(-1),
        "keepcaps": sys::raw(libc::SYS_prctl, [libc::PR_GET_KEEPCAPS.into(), 0, 0, 0, 0, 0]).unwrap_or(-1),
        "securebits": sys::raw(libc::SYS_prctl, [libc::PR_GET_SECUREBITS.into(), 0, 0, 0, 0, 0]).unwrap_or(-1),
        "dumpable": sys::raw(libc::SYS_prctl, [libc::PR_GET_DUMPABLE.into(), 0, 0, 0, 0, 0]).unwrap_or(-1),
        "mounts": mounts(),
        "dev": dev(),
        "namespaces": namespaces(),
        "cgroup": text("/proc/self/cgroup"),
        "uid_map": text("/proc/self/uid_map"),
        "gid_map": text("/proc/self/gid_map"),
        "tty": {
            "stdin": sys::window(0).is_some(),
            "stdout": sys::window(1).is_some(),
            "window": sys::window(0),
            "controlling": sys::controlling_terminal(),
        },
    })
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim_end().to_owned())
}

/// In order and with duplicates, as the kernel hands it over.
fn env() -> Vec<String> {
    std::env::vars_os()
        .map(|(name, value)| {
            let mut pair = name;
            pair.push("=");
            pair.push(value);
            String::from_utf8_lossy(pair.as_bytes()).into_owned()
        })
        .collect()
}

/// Raw getcwd, which says `(unreachable)` where the libc's would fail.
fn cwd() -> Value {
    let mut buffer = [0u8; 4096];
    let size = sys::raw(
        libc::SYS_getcwd,
        [buffer.as_mut_ptr() as i64, 4096, 0, 0, 0, 0],
    );
    let buffer = std::hint::black_box(buffer);
    match size {
        Ok(size) => json!(String::from_utf8_lossy(
            &buffer[..(size as usize).clamp(1, 4096) - 1]
        )),
        Err(errno) => json!({ "errno": errno }),
    }
}

fn status() -> BTreeMap<String, String> {
    const WANTED: [&str; 13] = [
        "SigIgn",
        "SigBlk",
        "SigCgt",
        "SigPnd",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "Groups",
    ];
    let text = text("/proc/self/status").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| WANTED.contains(name))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn ids(real: i64, effective: i64) -> [i64; 2] {
    [
        sys::raw(real, [0; 6]).unwrap_or(-1),
        sys::raw(effective, [0; 6]).unwrap_or(-1),
    ]
}

fn umask() -> String {
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    nix::sys::stat::umask(mask);
    format!("{:04o}", mask.bits())
}

fn descriptors() -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return BTreeMap::new();
    };
    // The directory's own descriptor is gone once all names are read.
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names
        .iter()
        .filter_map(|name| {
            let name = name.to_string_lossy().into_owned();
            let target = fs::read_link(format!("/proc/self/fd/{name}")).ok()?;
            Some((name, target.to_string_lossy().into_owned()))
        })
        .collect()
}

fn limits() -> BTreeMap<String, [String; 2]> {
    text("/proc/self/limits")
        .unwrap_or_default()
        .lines()
        .skip(1)
        .map(|line| {
            let (name, rest) = line.split_at(26);
            let mut values = rest.split_whitespace().map(str::to_owned);
            let soft = values.next().unwrap_or_default();
            (
                name.trim().to_owned(),
                [soft, values.next().unwrap_or_default()],
            )
        })
        .collect()
}

fn mounts() -> Vec<Value> {
    let unescape = |text: &str| text.replace("\\040", " ");
    text("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .map(|line| {
            let (left, right) = line.split_once(" - ").unwrap_or((line, ""));
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            json!({
                "root": unescape(left[3]),
                "target": unescape(left[4]),
                "options": left[5].split(',').collect::<Vec<_>>(),
                "propagation": left[6..].join(" "),
                "type": right[0],
                "source": right.get(1),
                "super": right.get(2).map(|text| text.split(',').collect::<Vec<_>>()),
            })
        })
        .collect()
}

fn dev() -> BTreeMap<String, Value> {
    let Ok(entries) = fs::read_dir("/dev") else {
        return BTreeMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let mut facts = stat(&fs::symlink_metadata(entry.path()).ok()?);
            if let Ok(target) = fs::read_link(entry.path()) {
                facts["target"] = json!(target);
            }
            Some((name, facts))
        })
        .collect()
}

fn namespaces() -> BTreeMap<String, String> {
    ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]
        .iter()
        .filter_map(|name| {
            let link = fs::read_link(format!("/proc/self/ns/{name}")).ok()?;
            Some(((*name).to_owned(), link.to_string_lossy().into_owned()))
        })
        .collect()
}
