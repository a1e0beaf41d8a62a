//! What a case works with: a session with a containerd, pods and containers
//! in it, and what must not be left of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use protobuf::{Message, MessageField};
use serde_json::Value;

use crate::containerd::{Containerd, until};
use crate::grpc::{Cri, Status};
use crate::messages::{
    AttachRequest, ContainerConfig, ContainerMetadata, ContainerRequest, ContainerState,
    ContainerStatus, ContainerStatusRequest, ContainerStatusResponse, CreateContainerRequest,
    CreateContainerResponse, Empty, ExecRequest, ExecSyncRequest, ExecSyncResponse, ImageSpec,
    LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, ListPodSandboxRequest, ListPodSandboxResponse, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PodSandboxRequest,
    PodSandboxStatusRequest, PodSandboxStatusResponse, PortForwardRequest, RunPodSandboxRequest,
    RunPodSandboxResponse, StopContainerRequest, UrlResponse,
};
use crate::stream::Stream;

/// The image of containers: busybox.
pub(crate) const IMAGE: &str = "docker.io/library/bb:latest";
/// The image of pods.
pub(crate) const PAUSE: &str = "docker.io/library/pause:latest";

/// A containerd with a handler under test.
pub(crate) struct Session {
    /// The daemon.
    pub(crate) containerd: Containerd,
    /// The handler of this case.
    pub(crate) handler: &'static str,
    work: PathBuf,
    number: u32,
}

impl Session {
    pub(crate) fn new(containerd: Containerd, work: PathBuf) -> Session {
        Session {
            containerd,
            handler: "",
            work,
            number: 0,
        }
    }

    /// A case begins.
    pub(crate) fn begin(&mut self, handler: &'static str) {
        self.handler = handler;
        let shims = (handler == "dropin").then(|| own_shims().join("dropin"));
        self.containerd.find_shims(shims);
    }

    /// A case has ended: removes its pods and tells what is left of them.
    pub(crate) fn end(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        let pods: Result<ListPodSandboxResponse, Status> = self
            .cri()
            .call("ListPodSandbox", &ListPodSandboxRequest::new());
        match pods {
            Ok(pods) => {
                for pod in pods.items {
                    if let Err(status) = self.remove(&pod.id) {
                        problems.push(format!("pod {}: {}", pod.id, status.message));
                    }
                }
            }
            Err(status) => problems.push(format!("no list of pods: {}", status.message)),
        }
        // A shim ends after it has answered.
        let mut left = self.leftovers();
        for _ in 0..200 {
            if left.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
            left = self.leftovers();
        }
        problems.extend(left);
        problems
    }

    /// Ends containerd.
    pub(crate) fn stop(mut self) {
        self.containerd.stop(Signal::SIGTERM);
    }

    pub(crate) fn cri(&self) -> &Cri {
        &self.containerd.cri
    }

    /// Calls a method that must succeed.
    #[track_caller]
    pub(crate) fn ask<R: Message>(&self, method: &str, request: &impl Message) -> R {
        match self.cri().call(method, request) {
            Ok(answer) => answer,
            Err(status) => panic!("{method}: {status:?}"),
        }
    }

    /// The configuration of a new pod.
    pub(crate) fn pod_config(&mut self) -> PodSandboxConfig {
        self.number += 1;
        let name = format!("pod{}", self.number);
        let logs = self.work.join("logs").join(&name);
        fs::create_dir_all(&logs).expect("the folder of its logs");
        let cgroup = std::env::var("CRI_CGROUP").expect("CRI_CGROUP");
        PodSandboxConfig {
            metadata: MessageField::some(PodSandboxMetadata {
                uid: format!("uid-{name}"),
                namespace: "tests".to_owned(),
                name: name.clone(),
                ..PodSandboxMetadata::new()
            }),
            hostname: name.clone(),
            log_directory: logs.to_string_lossy().into_owned(),
            linux: MessageField::some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{cgroup}/{name}"),
                security_context: MessageField::some(LinuxSandboxSecurityContext {
                    namespace_options: MessageField::some(private()),
                    ..LinuxSandboxSecurityContext::new()
                }),
                ..LinuxPodSandboxConfig::new()
            }),
            ..PodSandboxConfig::new()
        }
    }

    /// Runs a pod under the handler.
    #[track_caller]
    pub(crate) fn run(&self, config: PodSandboxConfig) -> Pod<'_> {
        let request = RunPodSandboxRequest {
            config: MessageField::some(config.clone()),
            runtime_handler: self.handler.to_owned(),
            ..RunPodSandboxRequest::new()
        };
        let answer: RunPodSandboxResponse = self.ask("RunPodSandbox", &request);
        Pod {
            session: self,
            id: answer.pod_sandbox_id,
            config,
        }
    }

    /// A handle on a pod that was made before containerd was started again.
    pub(crate) fn adopt(&self, id: String, config: PodSandboxConfig) -> Pod<'_> {
        Pod {
            session: self,
            id,
            config,
        }
    }

    /// A pod with nothing special about it.
    #[track_caller]
    pub(crate) fn pod(&mut self) -> Pod<'_> {
        let config = self.pod_config();
        self.run(config)
    }

    fn remove(&self, pod: &str) -> Result<(), Status> {
        let request = PodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
            ..PodSandboxRequest::new()
        };
        let _: Empty = self.cri().call("StopPodSandbox", &request)?;
        let _: Empty = self.cri().call("RemovePodSandbox", &request)?;
        Ok(())
    }

    /// The shim of this handler, as its processes' executable.
    pub(crate) fn shim(&self) -> PathBuf {
        match self.handler {
            "rrun" => own_shims().join("own/containerd-shim-rrun-v2"),
            "dropin" => own_shims().join("dropin/containerd-shim-runc-v2"),
            _ => fs::canonicalize("/usr/bin/containerd-shim-runc-v2").expect("the Go shim"),
        }
    }

    /// What there must not be without pods.
    fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = shims()
            .into_iter()
            .map(|(pid, path)| format!("left: process {pid} of {}", path.display()))
            .collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let state = self.work.join("state");
        for line in mounts.lines() {
            let target = line.split(' ').nth(4).unwrap_or("");
            if target.starts_with(&*state.to_string_lossy()) || target.starts_with("/run/netns/") {
                left.push(format!("left: mount {target}"));
            }
        }
        let cgroup = std::env::var("CRI_CGROUP").expect("CRI_CGROUP");
        for root in cgroup_roots() {
            for pod in children(&root.join(&cgroup)) {
                for container in children(&pod) {
                    left.push(format!("left: cgroup {}", container.display()));
                }
            }
        }
        for root in ["root-runc", "root-rrun", "root-dropin"] {
            for container in children(&self.work.join(root).join("k8s.io")) {
                left.push(format!("left: state {}", container.display()));
            }
        }
        left
    }
}

/// The folders with copies of our shim.
fn own_shims() -> PathBuf {
    PathBuf::from(std::env::var_os("CRI_SHIMS").expect("CRI_SHIMS"))
}

/// Every hierarchy's mount point.
pub(crate) fn cgroup_roots() -> Vec<PathBuf> {
    let mut roots = children(Path::new("/sys/fs/cgroup"));
    roots.push(PathBuf::from("/sys/fs/cgroup"));
    roots
}

/// The folders in a folder that may be missing.
fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.is_dir() && !path.is_symlink())
        .collect()
}

/// The namespaces that a kubelet asks for: a pid namespace for each container.
fn private() -> NamespaceOption {
    NamespaceOption {
        pid: NamespaceMode::CONTAINER.into(),
        ..NamespaceOption::new()
    }
}

/// Every shim that runs, with its executable.
pub(crate) fn shims() -> Vec<(i32, PathBuf)> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let name = path.file_name()?.to_string_lossy().into_owned();
        name.starts_with("containerd-shim").then_some((pid, path))
    })
    .collect()
}

/// A pod that runs.
pub(crate) struct Pod<'s> {
    /// The session it is in.
    pub(crate) session: &'s Session,
    /// Its id.
    pub(crate) id: String,
    /// What it was made from.
    pub(crate) config: PodSandboxConfig,
}

impl<'s> Pod<'s> {
    /// The answer to PodSandboxStatus, verbose.
    #[track_caller]
    pub(crate) fn status(&self) -> PodSandboxStatusResponse {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            verbose: true,
            ..PodSandboxStatusRequest::new()
        };
        self.session.ask("PodSandboxStatus", &request)
    }

    /// The configuration of a container that runs `script` in a shell.
    pub(crate) fn shell(&self, name: &str, script: &str) -> ContainerConfig {
        ContainerConfig {
            metadata: MessageField::some(ContainerMetadata {
                name: name.to_owned(),
                ..ContainerMetadata::new()
            }),
            image: MessageField::some(ImageSpec {
                image: IMAGE.to_owned(),
                ..ImageSpec::new()
            }),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: format!("{name}.log"),
            linux: MessageField::some(LinuxContainerConfig {
                security_context: MessageField::some(LinuxContainerSecurityContext {
                    namespace_options: MessageField::some(private()),
                    ..LinuxContainerSecurityContext::new()
                }),
                ..LinuxContainerConfig::new()
            }),
            ..ContainerConfig::new()
        }
    }

    /// Makes a container.
    #[track_caller]
    pub(crate) fn create(&self, config: ContainerConfig) -> Container<'s> {
        let log = Path::new(&self.config.log_directory).join(&config.log_path);
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: MessageField::some(config),
            sandbox_config: MessageField::some(self.config.clone()),
            ..CreateContainerRequest::new()
        };
        let answer: CreateContainerResponse = self.session.ask("CreateContainer", &request);
        Container {
            session: self.session,
            id: answer.container_id,
            log,
        }
    }

    /// Makes and starts a container.
    #[track_caller]
    pub(crate) fn start(&self, config: ContainerConfig) -> Container<'s> {
        let container = self.create(config);
        container.start();
        container
    }

    /// A container that sleeps until it is told to end.
    #[track_caller]
    pub(crate) fn sleeper(&self, name: &str) -> Container<'s> {
        let script = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";
        self.start(self.shell(name, script))
    }

    /// A handle on a container that was made before containerd was started
    /// again; where its log is, is forgotten.
    pub(crate) fn adopt(&self, id: String) -> Container<'s> {
        Container {
            session: self.session,
            id,
            log: PathBuf::new(),
        }
    }

    /// Stops the pod and its containers.
    #[track_caller]
    pub(crate) fn stop(&self) {
        let request = PodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
            ..PodSandboxRequest::new()
        };
        let _: Empty = self.session.ask("StopPodSandbox", &request);
    }

    /// A stream to a port in the pod.
    #[track_caller]
    pub(crate) fn forward(&self, port: i32) -> Stream {
        let request = PortForwardRequest {
            pod_sandbox_id: self.id.clone(),
            port: vec![port],
            ..PortForwardRequest::new()
        };
        let answer: UrlResponse = self.session.ask("PortForward", &request);
        Stream::open(&format!("{}?port={port}", answer.url))
    }
}

/// A container of a pod.
pub(crate) struct Container<'s> {
    session: &'s Session,
    /// Its id.
    pub(crate) id: String,
    log: PathBuf,
}

impl Container<'_> {
    /// A request that names only the container.
    pub(crate) fn request(&self) -> ContainerRequest {
        ContainerRequest {
            container_id: self.id.clone(),
            ..ContainerRequest::new()
        }
    }

    #[track_caller]
    pub(crate) fn start(&self) {
        let _: Empty = self.session.ask("StartContainer", &self.request());
    }

    /// Stops it: SIGTERM, and SIGKILL after so many seconds.
    #[track_caller]
    pub(crate) fn stop(&self, timeout: i64) {
        let request = StopContainerRequest {
            container_id: self.id.clone(),
            timeout,
            ..StopContainerRequest::new()
        };
        let _: Empty = self.session.ask("StopContainer", &request);
    }

    #[track_caller]
    pub(crate) fn remove(&self) {
        let _: Empty = self.session.ask("RemoveContainer", &self.request());
    }

    #[track_caller]
    fn full_status(&self) -> ContainerStatusResponse {
        let request = ContainerStatusRequest {
            container_id: self.id.clone(),
            verbose: true,
            ..ContainerStatusRequest::new()
        };
        self.session.ask("ContainerStatus", &request)
    }

    /// Its status.
    #[track_caller]
    pub(crate) fn status(&self) -> ContainerStatus {
        self.full_status().status.unwrap_or_default()
    }

    /// Its state.
    #[track_caller]
    pub(crate) fn state(&self) -> ContainerState {
        self.status().state.enum_value().expect("a state")
    }

    /// Its status once it has ended.
    #[track_caller]
    pub(crate) fn ended(&self) -> ContainerStatus {
        until("the container to end", || {
            self.state() == ContainerState::CONTAINER_EXITED
        });
        self.status()
    }

    /// The pid of its first process.
    #[track_caller]
    pub(crate) fn pid(&self) -> i64 {
        let info = self.full_status().info;
        let info: Value = serde_json::from_str(&info["info"]).expect("JSON");
        info["pid"].as_i64().expect("a pid")
    }

    /// Runs a script to its end.
    pub(crate) fn try_exec(&self, script: &str, timeout: i64) -> Result<ExecSyncResponse, Status> {
        let request = ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            timeout,
            ..ExecSyncRequest::new()
        };
        self.session.cri().call("ExecSync", &request)
    }

    /// The output of a script that succeeds, without the last line feed.
    #[track_caller]
    pub(crate) fn exec(&self, script: &str) -> String {
        let answer = match self.try_exec(script, 20) {
            Ok(answer) => answer,
            Err(status) => panic!("{script}: {status:?}"),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        assert_eq!(answer.exit_code, 0, "{script}: {}", text(&answer.stderr));
        text(&answer.stdout)
    }

    /// A stream to a new process.
    #[track_caller]
    pub(crate) fn exec_stream(&self, script: &str, tty: bool) -> Stream {
        let request = ExecRequest {
            container_id: self.id.clone(),
            cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            tty,
            stdin: true,
            stdout: true,
            // A terminal has one output.
            stderr: !tty,
            ..ExecRequest::new()
        };
        let answer: UrlResponse = self.session.ask("Exec", &request);
        Stream::open(&answer.url)
    }

    /// A stream to its first process.
    #[track_caller]
    pub(crate) fn attach(&self, tty: bool) -> Stream {
        let request = AttachRequest {
            container_id: self.id.clone(),
            tty,
            stdin: true,
            stdout: true,
            stderr: !tty,
            ..AttachRequest::new()
        };
        let answer: UrlResponse = self.session.ask("Attach", &request);
        Stream::open(&answer.url)
    }

    /// The lines of its log: stream, `F` for a whole line or `P` for a part of
    /// one, text. The time in front is checked for its form.
    #[track_caller]
    pub(crate) fn log(&self) -> Vec<(String, String, String)> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines = text.lines().map(|line| {
            let mut fields = line.splitn(4, ' ').map(str::to_owned);
            let mut field = || fields.next().unwrap_or_default();
            let (time, stream, tag, text) = (field(), field(), field(), field());
            assert!(
                time.len() >= 20 && time.as_bytes()[10] == b'T',
                "no time in {line:?}"
            );
            (stream, tag, text)
        });
        lines.collect()
    }

    /// Waits until its log has a line with the text.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) {
        until(&format!("{text:?} in the log"), || {
            self.log().iter().any(|(_, _, line)| line.contains(text))
        });
    }

    /// A file of the cgroup of its first process: of the v1 controller, or on a
    /// host with v2 alone the other name.
    #[track_caller]
    pub(crate) fn knob(&self, controller: &str, v1: &str, v2: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", self.pid())).expect("cgroup");
        let own = |wanted: &str| {
            text.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (names, path) = (fields.next()?, fields.next()?);
                let found = names.split(',').any(|name| name == wanted);
                found.then(|| (names.to_owned(), path.trim_start_matches('/').to_owned()))
            })
        };
        let (folder, file) = match own(controller) {
            Some((names, path)) => {
                let root = Path::new("/sys/fs/cgroup");
                let together = root.join(&names);
                let root = if together.is_dir() {
                    together
                } else {
                    root.join(controller)
                };
                (root.join(path), v1)
            }
            None => {
                let (_, path) = own("").expect("a v2 path");
                (Path::new("/sys/fs/cgroup").join(path), v2)
            }
        };
        let path = folder.join(file);
        let text = fs::read_to_string(&path);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.trim_end().to_owned()
    }
}
