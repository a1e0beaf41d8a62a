//! Real pipes, FIFOs, files and terminals on a current-thread runtime. The
//! other side is a process of its own (a shell), or this test with a thread's
//! worth of care: nothing here blocks the runtime.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Stdio as Std};

use super::*;

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

    fn place(&self) -> Place<'_> {
        Place {
            namespace: "test",
            id: "web",
            exec_id: "",
            bundle: &self.0,
            uid: 0,
            gid: 0,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn on_runtime<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(120), test)
            .await
            .expect("the test hangs");
    });
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
        let (ends, mut stdio) = open(&Request::default(), &folder.place()).await.unwrap();
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
        let (ends, mut stdio) = open(&request, &folder.place()).await.unwrap();
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
        let (ends, mut stdio) = open(&request, &folder.place()).await.unwrap();
        let Ends::Console { socket } = ends else {
            panic!("no socket")
        };
        stdio
            .resize(Size {
                rows: 7,
                columns: 77,
            })
            .unwrap();
        let mut child = send_terminal(&socket, "stty size; read word; echo got $word");
        stdio.connect().await.unwrap();
        assert!(!socket.parent().unwrap().exists());
        std::fs::write(&request.stdin, "hello\n").unwrap();
        let text = String::from_utf8(read_to_end(&out).await).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(
            text.starts_with("7 77\r\n") || text.contains("\r\n7 77\r\n"),
            "{text:?}"
        );
        assert!(text.ends_with("got hello\r\n"), "{text:?}");
        stdio.close().await;
    });
}

/// Does the runtime's part: makes a terminal, sends its master, runs a shell.
fn send_terminal(socket: &Path, script: &str) -> std::process::Child {
    let pty = nix::pty::openpty(None, None).unwrap();
    let stream = descriptors::connect_stream(socket).unwrap();
    descriptors::send(stream.as_fd(), b"/dev/ptmx", Some(pty.master.as_fd())).unwrap();
    let other = || Std::from(pty.slave.try_clone().unwrap());
    let wait_for_size = format!("while [ \"$(stty size)\" = '0 0' ]; do :; done; {script}");
    Command::new("setsid")
        .args(["-c", "sh", "-c", &wait_for_size])
        .stdin(other())
        .stdout(other())
        .stderr(other())
        .spawn()
        .unwrap()
}
