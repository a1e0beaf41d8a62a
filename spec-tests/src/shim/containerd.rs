//! How containerd starts a shim, by generation, and how it cleans up after
//! one that died.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{ConnectRequest, ConnectResponse, DeleteResponse};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, Extension};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::NAMESPACE;
use super::events::Recorder;
use super::wire::{Answer, Client, Pending};
use crate::bundle::Bundle;
use crate::case::Test;
use crate::runtime::HANG;

/// A generation of containerd: what `start` is given and what it may answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Generation {
    /// 1.6: options on stdin, an address is the answer.
    V1_6,
    /// 1.7: an address or JSON of version 2.
    V1_7,
    /// 2.0 to 2.2: an address, or JSON of version 2 or 3.
    V2_0,
    /// 2.3 and later: bootstrap messages both ways.
    V2_3,
}

/// Every generation.
pub const GENERATIONS: [Generation; 4] = [
    Generation::V1_6,
    Generation::V1_7,
    Generation::V2_0,
    Generation::V2_3,
];

/// A containerd with its own directory, address and events.
pub struct Containerd<'t> {
    /// The case it is for.
    pub test: &'t Test,
    /// What it is like.
    pub generation: Generation,
    /// The shim that it starts.
    pub program: PathBuf,
    /// Where its sockets are.
    pub directory: PathBuf,
    /// What shims told.
    pub events: Recorder,
    /// `-debug` is given.
    pub debug: bool,
    /// What `-publish-binary` names.
    pub publisher: PathBuf,
    /// What else is in its environment, which its shims inherit.
    pub environment: Vec<(String, String)>,
    shims: RefCell<Vec<Rc<Shim>>>,
}

/// A shim that answered.
pub struct Shim {
    /// The path of its socket.
    pub socket: PathBuf,
    /// The version of the task service it is called by.
    pub version: i32,
    /// Its process.
    pub pid: i32,
    /// What `start` said, as it came.
    pub answer: Vec<u8>,
    /// The connection.
    pub client: RefCell<Client>,
}

impl<'t> Containerd<'t> {
    /// A containerd that runs.
    ///
    /// # Panics
    /// When it can't.
    pub fn new(test: &'t Test, generation: Generation) -> Containerd<'t> {
        let directory = test.directory.join(test.id());
        fs::create_dir_all(&directory).expect("containerd's directory");
        Containerd {
            test,
            generation,
            program: test.runtime.clone(),
            events: Recorder::new(&directory.join("c.ttrpc")),
            directory,
            debug: false,
            publisher: PathBuf::from("/usr/bin/containerd"),
            environment: Vec::new(),
            shims: RefCell::default(),
        }
    }

    /// The address that shims are told.
    pub fn address(&self) -> PathBuf {
        self.directory.join("c")
    }

    /// The command as containerd builds it, without the words at its end.
    pub fn command(&self, bundle: &Bundle, id: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["-namespace", NAMESPACE, "-address"])
            .arg(self.address())
            .arg("-publish-binary")
            .arg(&self.publisher)
            .args(["-id", id])
            .current_dir(&bundle.path)
            .env("TTRPC_ADDRESS", self.directory.join("c.ttrpc"))
            .env("GOMAXPROCS", "2")
            .stdin(Stdio::null());
        if self.generation != Generation::V1_6 {
            command
                .env("MAX_SHIM_VERSION", "2")
                .env("GRPC_ADDRESS", self.address())
                .env("NAMESPACE", NAMESPACE);
        }
        command.envs(self.environment.iter().cloned());
        command
    }

    /// What `start` gets on stdin.
    ///
    /// # Panics
    /// Never: messages can be encoded.
    pub fn stdin(&self, id: &str, options: Option<&Any>) -> Vec<u8> {
        if self.generation != Generation::V2_3 {
            let any = options.map(|any| any.write_to_bytes().expect("options"));
            return any.unwrap_or_default();
        }
        let extension = |any: &Any| Extension {
            value: MessageField::some(any.clone()),
            ..Extension::default()
        };
        let params = BootstrapParams {
            instance_id: id.to_owned(),
            namespace: NAMESPACE.to_owned(),
            containerd_version: "2.3.0".to_owned(),
            containerd_ttrpc_address: self.directory.join("c.ttrpc").display().to_string(),
            containerd_grpc_address: self.address().display().to_string(),
            containerd_binary: "/usr/bin/containerd".to_owned(),
            extensions: options.map(extension).into_iter().collect(),
            ..BootstrapParams::default()
        };
        params.write_to_bytes().expect("parameters")
    }

    /// Runs `start` and takes its answer apart as this generation does.
    ///
    /// # Errors
    /// What containerd would say.
    ///
    /// # Panics
    /// When the command hangs, or holds its output open.
    pub fn start(&self, bundle: &Bundle, options: Option<&Any>) -> Result<Rc<Shim>, String> {
        prepare(bundle);
        let mut command = self.command(bundle, &bundle.id);
        if self.debug {
            command.arg("-debug");
        }
        command.arg("start");
        let (code, output) = combined(command, &self.stdin(&bundle.id, options));
        if code != 0 {
            let output = String::from_utf8_lossy(&output);
            return Err(format!("{}: exit status {code}", output.trim_end()));
        }
        let (version, address) = self.parse(&output)?;
        let socket = address
            .strip_prefix("unix://")
            .ok_or_else(|| format!("unsupported address {address:?}"))?;
        let client = Client::connect(socket).map_err(|error| format!("{address}: {error}"))?;
        if matches!(self.generation, Generation::V2_0 | Generation::V2_3) {
            let file = serde_json::json!({
                "version": version, "address": address, "protocol": "ttrpc",
            });
            fs::write(bundle.path.join("bootstrap.json"), file.to_string()).expect("bootstrap");
        }
        Ok(self.keep(Shim {
            socket: PathBuf::from(socket),
            version,
            pid: 0,
            answer: output,
            client: RefCell::new(client),
        }))
    }

    /// [`start`](Containerd::start) that has to succeed.
    ///
    /// # Panics
    /// With what containerd would say.
    #[track_caller]
    pub fn shim(&self, bundle: &Bundle) -> Rc<Shim> {
        self.start(bundle, None).expect("start")
    }

    /// The answer of `start`: version and address.
    fn parse(&self, output: &[u8]) -> Result<(i32, String), String> {
        let text = String::from_utf8_lossy(output).trim().to_owned();
        let newest = match self.generation {
            Generation::V1_6 => return Ok((2, text)),
            Generation::V1_7 => 2,
            Generation::V2_0 | Generation::V2_3 => 3,
        };
        let binary = (self.generation == Generation::V2_3)
            .then(|| BootstrapResult::parse_from_bytes(output).ok())
            .flatten()
            .filter(|result| result.version >= 2);
        let (version, address, protocol) = if let Some(result) = binary {
            (result.version, result.address, result.protocol)
        } else if let Ok(json) = serde_json::from_str::<Value>(&text)
            && json["version"].as_i64() >= Some(2)
        {
            let word = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
            let version = json["version"].as_i64().unwrap_or_default() as i32;
            (version, word("address"), word("protocol"))
        } else {
            (2, text, "ttrpc".to_owned())
        };
        if version > newest {
            return Err(format!(
                "unsupported shim version ({version}): not implemented"
            ));
        }
        if protocol != "ttrpc" {
            return Err(format!("unsupported protocol {protocol:?}"));
        }
        Ok((version, address))
    }

    /// Finds the shim again, as a containerd that was started anew.
    ///
    /// # Errors
    /// The file names none, or it can't be reached.
    pub fn reconnect(&self, bundle: &Bundle) -> Result<Rc<Shim>, String> {
        let json = fs::read_to_string(bundle.path.join("bootstrap.json")).ok();
        let newer = matches!(self.generation, Generation::V2_0 | Generation::V2_3);
        let (version, address) = match json.filter(|_| newer) {
            Some(json) => self.parse(json.as_bytes())?,
            None => {
                let address = fs::read_to_string(bundle.path.join("address"));
                (2, address.map_err(|error| format!("address: {error}"))?)
            }
        };
        let socket = address.trim_start_matches("unix://").to_owned();
        let client = Client::connect(&socket).map_err(|error| format!("{address}: {error}"))?;
        Ok(self.keep(Shim {
            socket: PathBuf::from(socket),
            version,
            pid: 0,
            answer: Vec::new(),
            client: RefCell::new(client),
        }))
    }

    fn keep(&self, mut shim: Shim) -> Rc<Shim> {
        shim.pid = shim.process();
        let shim = Rc::new(shim);
        self.shims.borrow_mut().push(shim.clone());
        shim
    }

    /// Dies, as by SIGKILL: every connection ends.
    pub fn die(&self) {
        self.events.stop();
        for shim in &*self.shims.borrow() {
            shim.client.borrow().close();
        }
    }

    /// Runs the shim's `delete`, as after a shim died.
    ///
    /// # Errors
    /// What containerd would say.
    ///
    /// # Panics
    /// When it hangs or answers what can't be parsed.
    pub fn delete(&self, bundle: &Bundle) -> Result<DeleteResponse, String> {
        let mut command = self.command(bundle, &bundle.id);
        command.arg("-bundle").arg(&bundle.path).arg("delete");
        let errors = self.directory.join("delete.stderr");
        command.stderr(File::create(&errors).expect("a file"));
        let (code, stdout) = output(command, &[]);
        let text = fs::read_to_string(&errors).expect("stderr");
        if code != 0 {
            return Err(format!("{}: exit status {code}", text.trim_end()));
        }
        let response = DeleteResponse::parse_from_bytes(&stdout).expect("a delete response");
        remove_bundle(bundle);
        Ok(response)
    }
}

impl Drop for Containerd<'_> {
    /// It outlives its shims: one that leaves tells its last events first, and
    /// without a containerd it tries that for some seconds.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            for shim in &*self.shims.borrow() {
                shim.wait_gone(HANG);
            }
        }
    }
}

impl Shim {
    /// A call of the task service.
    ///
    /// # Errors
    /// What the shim answers.
    #[track_caller]
    pub fn call<T: Message>(&self, method: &str, request: &impl Message) -> Answer<T> {
        self.send(method, request).wait()
    }

    /// A call whose answer is taken later.
    pub fn send(&self, method: &str, request: &impl Message) -> Pending {
        let service = format!("containerd.task.v{}.Task", self.version);
        self.client.borrow().send(&service, method, request)
    }

    /// The shim's process, as it says itself.
    #[track_caller]
    fn process(&self) -> i32 {
        let connected: Answer<ConnectResponse> = self.call("Connect", &ConnectRequest::default());
        connected.map_or(0, |answer| answer.shim_pid as i32)
    }

    /// Sends its process a signal.
    ///
    /// # Panics
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).expect("a signal to the shim");
    }

    /// Kills it and waits until the kernel took it apart.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.wait_gone(HANG);
    }

    /// The Go shim's `delete` leaves the socket of the one that died; for any
    /// other it is left behind.
    pub fn forget_socket(&self, test: &Test) {
        if test.is("containerd-shim-runc-v2") {
            let _ = fs::remove_file(&self.socket);
        }
    }

    /// Waits until the process is gone.
    ///
    /// # Panics
    /// When it stays.
    #[track_caller]
    pub fn wait_gone(&self, time: Duration) {
        let begin = Instant::now();
        while is_alive(self.pid) {
            assert!(begin.elapsed() < time, "the shim {} stays", self.pid);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Does the process exist, and is it no zombie?
pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|text| text.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// What containerd makes in a bundle before `start`.
pub fn prepare(bundle: &Bundle) {
    let log = bundle.path.join("log");
    if !log.exists() {
        nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        // Held open by containerd as long as it lives; here by the case.
        let held = open_log(&log);
        let _ = nix::fcntl::fcntl(&held, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 20));
        std::mem::forget(held);
    }
}

/// What the shim logged and nobody has read yet.
///
/// # Panics
/// When there is no log.
pub fn log_text(bundle: &Bundle) -> String {
    let mut text = Vec::new();
    // It ends with WouldBlock.
    let _ = open_log(&bundle.path.join("log")).read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn open_log(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let opened = options.custom_flags(libc::O_NONBLOCK).open(path);
    opened.expect("the log fifo")
}

/// What containerd does with a bundle at last.
pub fn remove_bundle(bundle: &Bundle) {
    let rootfs = bundle.path.join("rootfs");
    let _ = nix::mount::umount2(&rootfs, nix::mount::MntFlags::MNT_DETACH);
    fs::remove_dir_all(&bundle.path).expect("remove the bundle");
}

/// Exit code and stdout.
///
/// # Panics
/// When it hangs.
#[track_caller]
pub fn output(mut command: Command, stdin: &[u8]) -> (i32, Vec<u8>) {
    let (reader, writer) = std::io::pipe().expect("pipe");
    command.stdout(writer);
    run(command, reader, stdin)
}

/// Exit code, and stdout and stderr as one, as `CombinedOutput` of Go.
#[track_caller]
fn combined(mut command: Command, stdin: &[u8]) -> (i32, Vec<u8>) {
    let (reader, writer) = std::io::pipe().expect("pipe");
    command.stdout(writer.try_clone().expect("dup"));
    command.stderr(writer);
    run(command, reader, stdin)
}

/// Waits for the program and for the end of its output, whoever holds it.
#[track_caller]
fn run(mut command: Command, mut reader: std::io::PipeReader, stdin: &[u8]) -> (i32, Vec<u8>) {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("the shim");
    drop(command);
    // A program that reads nothing breaks the pipe.
    let _ = child.stdin.take().expect("piped").write_all(stdin);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = reader.read_to_end(&mut bytes);
        let _ = sender.send(read.map(|_| bytes));
    });
    let code = wait(&mut child);
    let bytes = receiver.recv_timeout(Duration::from_secs(5));
    let bytes = bytes.expect("the shim that stays holds its output open");
    (code, bytes.expect("read"))
}

#[track_caller]
fn wait(child: &mut Child) -> i32 {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status.code().unwrap_or(-1);
        }
        if begin.elapsed() > HANG {
            let _ = child.kill();
            panic!("the command hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
