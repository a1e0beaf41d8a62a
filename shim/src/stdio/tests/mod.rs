//! Real pipes, FIFOs, files and terminals on a current-thread runtime. The
//! other side is a process of its own (a shell), or this test with a thread's
//! worth of care: nothing here blocks the runtime.

mod logger;

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio as Std};

use std::time::Instant;

use super::*;

thread_local! {
    /// What the stdio of this test's thread has logged.
    pub(super) static LOGGED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn logged() -> Vec<String> {
    LOGGED.with_borrow(Clone::clone)
}

/// A folder that is gone after the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let template = std::env::temp_dir().join("rrun-stdio-test.XXXXXX");
        Self(nix::unistd::mkdtemp(&template).unwrap())
    }

    fn fifo(&self, name: &str) -> String {
        let path = self.0.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Asks for an output alone.
    fn stdout(&self, stdout: String) -> Request {
        Request {
            stdout,
            ..Request::default()
        }
    }

    fn place<'a>(&'a self, reaper: &'a Reaper) -> Place<'a> {
        Place {
            namespace: "test",
            id: "web",
            exec_id: "",
            uid: 0,
            gid: 0,
            reaper,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// One at a time: what one test starts would hold, until its execve, the ends that
/// another waits for.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn on_runtime<F: Future<Output = ()>>(test: F) {
    let _turn = lock(&ONE_AT_A_TIME);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(300), test)
            .await
            .expect("the test hangs");
    });
}

/// The stdio of a process whose other ends are in `folder`.
async fn open_stdio(request: &Request, folder: &Folder) -> (Ends, super::Stdio) {
    let opened = open(request, &folder.place(&Reaper::default())).await;
    opened.unwrap()
}

/// The stdio of a process with a terminal of so many rows and columns, and the
/// socket that waits for it.
async fn open_terminal(
    request: &Request,
    folder: &Folder,
    (rows, columns): (u16, u16),
) -> (PathBuf, super::Stdio) {
    let (ends, stdio) = open_stdio(request, folder).await;
    let Ends::Console { socket } = ends else {
        panic!("no socket")
    };
    stdio.resize(Size { rows, columns }).unwrap();
    (socket, stdio)
}

/// A shell with these ends, as the runtime would start it.
fn shell(script: &str, ends: Ends) -> std::process::Child {
    let Ends::Pipes {
        stdin,
        stdout,
        stderr,
    } = ends
    else {
        panic!("not pipes")
    };
    Command::new("sh")
        .args(["-c", script])
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .unwrap()
}

/// Reads `count` bytes.
async fn read_some(fifo: &File, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let mut done = 0;
    while done < count {
        let mut fifo = fifo;
        match fifo.read(&mut bytes[done..]) {
            Ok(length) => done += length,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    bytes
}

/// Reads a FIFO to its end, as `cat` would, without blocking.
async fn read_to_end(fifo: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let mut fifo = fifo;
        match fifo.read(&mut buffer) {
            Ok(0) => return bytes,
            Ok(length) => bytes.extend(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn open_reader(path: &str) -> File {
    File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .unwrap()
}

#[test]
fn without_names_everything_is_dev_null() {
    on_runtime(async {
        let folder = Folder::new();
        let (ends, mut stdio) = open(&Request::default(), &folder.place(&Reaper::default()))
            .await
            .unwrap();
        let links = "readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2";
        let script = format!(
            "links=$({links}); echo $links >{}/links",
            folder.0.display()
        );
        shell(&script, ends).wait().unwrap();
        stdio.connect().await.unwrap();
        stdio.drain(Duration::from_secs(1)).await;
        stdio.close().await;
        let links = std::fs::read_to_string(folder.0.join("links")).unwrap();
        assert_eq!(links, "/dev/null /dev/null /dev/null\n");
    });
}

#[test]
fn fifos_carry_input_and_outputs_and_their_ends() {
    on_runtime(async {
        let folder = Folder::new();
        let request = Request {
            stdin: folder.fifo("in"),
            stdout: folder.fifo("out"),
            stderr: folder.fifo("err"),
            terminal: false,
        };
        let (out, err) = (open_reader(&request.stdout), open_reader(&request.stderr));
        let (ends, mut stdio) = open_stdio(&request, &folder).await;
        let mut child = shell("cat; echo end >&2", ends);
        stdio.connect().await.unwrap();
        for word in ["one ", "two"] {
            // A client that goes away and comes back.
            let mut client = File::options().write(true).open(&request.stdin).unwrap();
            client.write_all(word.as_bytes()).unwrap();
            drop(client);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(child.try_wait().unwrap(), None);
        stdio.close_stdin();
        assert_eq!(read_to_end(&out).await, b"one two");
        assert_eq!(read_to_end(&err).await, b"end\n");
        assert!(child.wait().unwrap().success());
        stdio.drain(Duration::from_secs(1)).await;
        assert_eq!(
            stdio.describe(),
            "stdout 7 bytes, 0 dropped; stderr 4 bytes, 0 dropped"
        );
        stdio.close().await;
    });
}

#[test]
fn a_terminal_is_taken_sized_and_copied_both_ways() {
    on_runtime(async {
        let folder = Folder::new();
        let request = Request {
            stdin: folder.fifo("in"),
            stdout: folder.fifo("out"),
            stderr: String::new(),
            terminal: true,
        };
        let out = open_reader(&request.stdout);
        let (socket, mut stdio) = open_terminal(&request, &folder, (7, 77)).await;
        let mut child = send_terminal(&socket, "stty size; read word; echo got $word");
        stdio.connect().await.unwrap();
        assert!(!socket.parent().unwrap().exists());
        std::fs::write(&request.stdin, "hello\n").unwrap();
        let ended = ends_with(&mut child, &stdio);
        let (bytes, ()) = tokio::join!(read_to_end(&out), ended);
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            text.starts_with("7 77\r\n") || text.contains("\r\n7 77\r\n"),
            "{text:?}"
        );
        assert!(text.ends_with("got hello\r\n"), "{text:?}");
        stdio.close().await;
    });
}

#[test]
fn a_terminal_whose_input_ends_is_hung_up_and_loses_nothing() {
    on_runtime(async {
        let folder = Folder::new();
        let request = Request {
            stdin: folder.fifo("in"),
            terminal: true,
            ..folder.stdout(folder.fifo("out"))
        };
        let out = open_reader(&request.stdout);
        let (socket, mut stdio) = open_terminal(&request, &folder, (1, 1)).await;
        let mut child = send_terminal(&socket, "echo before; while :; do sleep 0.1; done");
        stdio.connect().await.unwrap();
        assert_eq!(read_some(&out, 8).await, b"before\r\n");
        stdio.close_stdin();
        assert_eq!(read_to_end(&out).await, b"");
        stdio.drain(Duration::from_secs(5)).await;
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGHUP));
        stdio.close().await;
    });
}

#[test]
fn a_raw_terminal_is_carried_byte_by_byte() {
    on_runtime(async {
        let folder = Folder::new();
        let request = Request {
            terminal: true,
            ..folder.stdout(folder.fifo("out"))
        };
        let reader = compare_with_seq(&request.stdout, 1_000_000);
        let (socket, mut stdio) = open_terminal(&request, &folder, (1, 1)).await;
        let mut child = send_terminal(&socket, "stty raw; seq 1000000");
        stdio.connect().await.unwrap();
        tokio::join!(stop_and_go(reader), ends_with(&mut child, &stdio));
        stdio.close().await;
        assert_eq!(logged(), [""; 0]);
    });
}

#[test]
fn a_terminal_that_is_closed_and_opened_again_goes_on() {
    on_runtime(async {
        let folder = Folder::new();
        let request = Request {
            terminal: true,
            ..folder.stdout(folder.fifo("out"))
        };
        let out = open_reader(&request.stdout);
        let (socket, mut stdio) = open_terminal(&request, &folder, (1, 1)).await;
        let script = "t=$(tty); echo one; exec <&- >&- 2>&-; sleep 0.4; echo two >$t";
        let mut child = send_terminal(&socket, script);
        stdio.connect().await.unwrap();
        let ended = ends_with(&mut child, &stdio);
        let (bytes, ()) = tokio::join!(read_to_end(&out), ended);
        assert_eq!(bytes, b"one\r\ntwo\r\n");
        stdio.close().await;
    });
}

#[test]
fn a_reader_that_stops_and_goes_gets_every_byte() {
    on_runtime(async {
        let folder = Folder::new();
        let request = folder.stdout(folder.fifo("out"));
        // 30,000,000 lines are 259 MB.
        let reader = compare_with_seq(&request.stdout, 30_000_000);
        let (ends, mut stdio) = open_stdio(&request, &folder).await;
        let mut child = shell("seq 30000000", ends);
        stdio.connect().await.unwrap();
        stop_and_go(reader).await;
        assert!(child.wait().unwrap().success());
        stdio.drain(Duration::from_secs(5)).await;
        assert_eq!(stdio.describe(), "stdout 258888897 bytes, 0 dropped");
        stdio.close().await;
        assert_eq!(logged(), [""; 0]);
    });
}

#[test]
fn a_large_input_arrives_whole() {
    on_runtime(async {
        let folder = Folder::new();
        let request = Request {
            stdin: folder.fifo("in"),
            ..folder.stdout(folder.fifo("out"))
        };
        let reader = compare_with_seq(&request.stdout, 5_000_000);
        let (ends, mut stdio) = open_stdio(&request, &folder).await;
        let mut child = shell("cat", ends);
        stdio.connect().await.unwrap();
        let script = format!("seq 5000000 >{}", request.stdin);
        let mut client = Command::new("sh").args(["-c", &script]).spawn().unwrap();
        while client.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stdio.close_stdin();
        stop_and_go(reader).await;
        assert!(child.wait().unwrap().success());
        stdio.close().await;
    });
}

#[test]
fn a_reader_that_is_replaced_in_time_misses_nothing() {
    on_runtime(async {
        let folder = Folder::new();
        let request = folder.stdout(folder.fifo("out"));
        let first = open_reader(&request.stdout);
        let (ends, mut stdio) = open_stdio(&request, &folder).await;
        let mut child = shell("seq 200000", ends);
        stdio.connect().await.unwrap();
        let mut bytes = read_some(&first, 300_000).await;
        drop(first);
        tokio::time::sleep(Duration::from_millis(700)).await;
        bytes.extend(read_to_end(&open_reader(&request.stdout)).await);
        assert!(child.wait().unwrap().success());
        stdio.close().await;
        assert_eq!(bytes, seq(200_000));
        assert_eq!(logged(), [""; 0]);
    });
}

#[test]
fn a_reader_slower_than_a_page_is_progress() {
    on_runtime(async {
        let folder = Folder::new();
        let request = folder.stdout(folder.fifo("out"));
        let out = open_reader(&request.stdout);
        let (ends, mut stdio) = open_stdio(&request, &folder).await;
        stdio.patience = Patience::For(Duration::from_millis(800));
        let mut child = shell("seq 200000", ends);
        stdio.connect().await.unwrap();
        let mut bytes = Vec::new();
        for _ in 0..25 {
            bytes.extend(read_some(&out, 7).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bytes.extend(read_to_end(&out).await);
        assert!(child.wait().unwrap().success());
        stdio.close().await;
        assert!(bytes == seq(200_000));
        assert_eq!(logged(), [""; 0]);
    });
}

#[test]
fn without_a_reader_the_container_goes_on_and_the_gap_is_told() {
    on_runtime(async {
        let folder = Folder::new();
        let request = folder.stdout(folder.fifo("out"));
        let (ends, mut stdio) = open_stdio(&request, &folder).await;
        stdio.patience = Patience::For(Duration::from_millis(400));
        let mut child = shell("seq 1000000", ends);
        stdio.connect().await.unwrap();
        let began = Instant::now();
        let status = loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
        };
        assert!(status.success());
        assert!(
            began.elapsed() >= Duration::from_millis(400),
            "dropped too early"
        );
        // The reader comes after all: the beginning and the end are there.
        let out = open_reader(&request.stdout);
        let bytes = read_to_end(&out).await;
        stdio.drain(Duration::from_secs(5)).await;
        let all = seq(1_000_000);
        let (before, after) = (bytes.len() - 65536, bytes.len());
        assert!((65536..=131_072).contains(&before), "{before}");
        assert!(bytes[..before] == all[..before]);
        assert!(bytes[before..] == all[all.len() - 65536..]);
        let lost = all.len() - after;
        assert_eq!(
            stdio.describe(),
            format!("stdout {after} bytes, {lost} dropped")
        );
        assert_eq!(
            logged(),
            [
                format!("stdout of \"web\": bytes are dropped after byte {before}"),
                format!(
                    "stdout of \"web\": {lost} bytes after byte {before} were dropped; \
                     the output goes on"
                ),
            ]
        );
        stdio.close().await;
    });
}

#[test]
fn what_nobody_read_before_the_close_is_counted() {
    on_runtime(async {
        let folder = Folder::new();
        let request = folder.stdout(folder.fifo("out"));
        let (ends, mut stdio) = open_stdio(&request, &folder).await;
        let mut child = shell("head -c 100000 /dev/zero", ends);
        stdio.connect().await.unwrap();
        while child.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stdio.drain(Duration::from_millis(50)).await;
        stdio.close().await;
        assert_eq!(
            logged(),
            [
                "stdout of \"web\": bytes are dropped after byte 65536",
                "stdout of \"web\": 34464 bytes after byte 65536 were dropped; \
                 the output is closed",
            ]
        );
    });
}

#[test]
fn a_process_in_the_background_delays_no_longer_than_the_deadline() {
    on_runtime(async {
        let folder = Folder::new();
        let request = folder.stdout(folder.fifo("out"));
        let out = open_reader(&request.stdout);
        let (ends, mut stdio) = open_stdio(&request, &folder).await;
        let mut child = shell("sleep 1000 & echo $!", ends);
        stdio.connect().await.unwrap();
        assert!(child.wait().unwrap().success());
        let began = Instant::now();
        stdio.drain(Duration::from_millis(300)).await;
        let took = began.elapsed();
        assert!(
            took >= Duration::from_millis(300) && took < Duration::from_secs(60),
            "{took:?}"
        );
        stdio.close().await;
        let said = String::from_utf8(read_to_end(&out).await).unwrap();
        let sleeper = nix::unistd::Pid::from_raw(said.trim().parse().unwrap());
        nix::sys::signal::kill(sleeper, nix::sys::signal::SIGKILL).unwrap();
        assert_eq!(logged(), [""; 0]);
    });
}

#[test]
fn files_are_made_with_their_folders_and_appended_to() {
    on_runtime(async {
        let folder = Folder::new();
        let log = folder.path("new/folder/a log");
        let url = format!("file://{}", log.replace(' ', "%20"));
        for _ in 0..2 {
            let request = Request {
                stderr: url.clone(),
                ..folder.stdout(url.clone())
            };
            let (ends, mut stdio) = open(&request, &folder.place(&Reaper::default()))
                .await
                .unwrap();
            let mut child = shell("seq 100000; sleep 0.2; echo err >&2", ends);
            stdio.connect().await.unwrap();
            stdio.drain(Duration::from_secs(5)).await;
            assert!(child.wait().unwrap().success());
            stdio.close().await;
        }
        let once = [seq(100_000), b"err\n".to_vec()].concat();
        assert!(std::fs::read(&log).unwrap() == [once.clone(), once].concat());
        let mode = std::fs::metadata(&log).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(logged(), [""; 0]);
    });
}

#[test]
fn a_full_disk_loses_bytes_and_holds_nobody_up() {
    on_runtime(async {
        let folder = Folder::new();
        let request = folder.stdout("/dev/full".to_owned());
        let (ends, mut stdio) = open_stdio(&request, &folder).await;
        let mut child = shell("head -c 1000000 /dev/zero", ends);
        stdio.connect().await.unwrap();
        stdio.drain(Duration::from_secs(5)).await;
        assert!(child.wait().unwrap().success());
        assert_eq!(stdio.describe(), "stdout 0 bytes, 1000000 dropped");
        stdio.close().await;
        let lines = logged();
        assert!(
            lines[0].starts_with("stdout of \"web\": write(["),
            "{lines:?}"
        );
        assert!(
            lines[0].ends_with("bytes): no space left on device"),
            "{lines:?}"
        );
        assert_eq!(
            lines[1..],
            [
                "stdout of \"web\": bytes are dropped after byte 0",
                "stdout of \"web\": 1000000 bytes after byte 0 were dropped; \
                 the output is closed",
            ]
        );
    });
}

#[test]
fn a_disk_with_room_again_is_written_again() {
    on_runtime(async {
        let folder = Folder::new();
        small_disk(&folder.0);
        let log = folder.path("log");
        let request = folder.stdout(format!("file://{log}"));
        let (ends, mut stdio) = open_stdio(&request, &folder).await;
        let script = format!(
            "head -c 200000 /dev/zero; until [ -e {0} ]; do sleep 0.05; done; echo end",
            folder.path("go")
        );
        let mut child = shell(&script, ends);
        stdio.connect().await.unwrap();
        while stdio.describe() != "stdout 131072 bytes, 68928 dropped" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // As logrotate does.
        File::options()
            .write(true)
            .open(&log)
            .unwrap()
            .set_len(0)
            .unwrap();
        File::create(folder.path("go")).unwrap();
        stdio.drain(Duration::from_secs(5)).await;
        assert!(child.wait().unwrap().success());
        stdio.close().await;
        assert_eq!(std::fs::read(&log).unwrap(), b"end\n");
        assert_eq!(
            logged().last().unwrap(),
            "stdout of \"web\": 68928 bytes after byte 131072 were dropped; the output goes on"
        );
        // Not busy: a process that another test is about to execute has our files.
        nix::mount::umount2(&folder.0, nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}

/// Mounts 128 KiB on `folder`, for this thread alone.
fn small_disk(folder: &Path) {
    use nix::mount::{MsFlags, mount};
    let none = None::<&str>;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let options = Some("size=128k");
    mount(
        Some("tmpfs"),
        folder,
        Some("tmpfs"),
        MsFlags::empty(),
        options,
    )
    .unwrap();
}

#[test]
fn a_name_that_is_wrong_fails_before_there_is_a_process() {
    on_runtime(async {
        let folder = Folder::new();
        let missing = folder.path("missing");
        for (request, text) in [
            (
                folder.stdout(missing.clone()),
                format!("stdout: stat({missing:?}): no such file or directory"),
            ),
            (
                folder.stdout("npipe:///x".to_owned()),
                "stdout \"npipe:///x\": unknown STDIO scheme".to_owned(),
            ),
            (
                Request {
                    stdin: missing.clone(),
                    ..Request::default()
                },
                format!("stdin: open({missing:?}): no such file or directory"),
            ),
        ] {
            let error = open(&request, &folder.place(&Reaper::default()))
                .await
                .unwrap_err();
            assert_eq!(error.to_string(), text);
        }
    });
}

/// The output of `seq LAST`.
fn seq(last: u32) -> Vec<u8> {
    (1..=last)
        .map(|n| format!("{n}\n"))
        .collect::<String>()
        .into()
}

/// A process that compares what comes out of `fifo` with `seq LAST`.
fn compare_with_seq(fifo: &str, last: u32) -> std::process::Child {
    let script = format!("exec cmp <(seq {last}) {fifo}");
    Command::new("bash").args(["-c", &script]).spawn().unwrap()
}

/// Stops the reader and lets it go on, again and again, until it has ended.
async fn stop_and_go(mut reader: std::process::Child) {
    let pid = nix::unistd::Pid::from_raw(reader.id().cast_signed());
    for round in 0.. {
        for (signal, pause) in [
            (nix::sys::signal::SIGSTOP, [3, 150, 40][round % 3]),
            (nix::sys::signal::SIGCONT, [50, 7, 120, 1][round % 4]),
        ] {
            if let Some(status) = reader.try_wait().unwrap() {
                assert!(status.success());
                return;
            }
            nix::sys::signal::kill(pid, signal).unwrap();
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
}

/// Waits for the end of `child` and tells of it, as the service does.
async fn ends_with(child: &mut std::process::Child, stdio: &super::Stdio) {
    while child.try_wait().unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(child.wait().unwrap().success());
    stdio.process_ended();
}

/// Does the runtime's part: makes a terminal, sends its master, runs a shell.
fn send_terminal(socket: &Path, script: &str) -> std::process::Child {
    // Close-on-exec from the first: a process of another test would keep it open.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = nix::pty::posix_openpt(flags).unwrap();
    nix::pty::unlockpt(&master).unwrap();
    let peer = terminal::open_peer(master.as_fd()).unwrap();
    let stream = descriptors::connect_stream(socket).unwrap();
    descriptors::send(stream.as_fd(), b"/dev/ptmx", &[master.as_fd()]).unwrap();
    let other = || Std::from(peer.try_clone().unwrap());
    let wait_for_size = format!("while [ \"$(stty size)\" = '0 0' ]; do :; done; {script}");
    // Whoever runs the tests by nohup ignores the signal of a hang-up.
    Command::new("env")
        .args(["--default-signal=HUP", "setsid", "-c", "sh", "-c"])
        .arg(&wait_for_size)
        .stdin(other())
        .stdout(other())
        .stderr(other())
        .spawn()
        .unwrap()
}
