//! The containerd under test, started by us, so that cases may stop and kill
//! it: its configuration is written by hack/engines/cri.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::grpc::Cri;
use crate::messages::{Empty, ImageStatusRequest, ImageStatusResponse, StatusResponse};

/// A containerd that runs.
pub(crate) struct Containerd {
    work: PathBuf,
    /// A folder of shims that it finds before those of the PATH.
    shims: Option<PathBuf>,
    child: Child,
    /// Its CRI.
    pub(crate) cri: Cri,
}

impl Containerd {
    /// Starts it on the folder `work` and waits until runtime and network are
    /// ready.
    pub(crate) fn start(work: &Path) -> Containerd {
        let containerd = Containerd {
            child: spawn(work, None),
            shims: None,
            work: work.to_owned(),
            cri: Cri {
                socket: work.join("sock"),
            },
        };
        containerd.wait_until_ready();
        containerd
    }

    /// Imports an archive and waits until the CRI knows the image of that name.
    pub(crate) fn import(&self, archive: &Path, image: &str) {
        let output = Command::new("ctr")
            .arg("-a")
            .arg(&self.cri.socket)
            .args(["-n", "k8s.io", "images", "import"])
            .arg(archive)
            .output()
            .expect("ctr");
        assert!(output.status.success(), "ctr images import: {output:?}");
        let mut request = ImageStatusRequest::new();
        request.image.mut_or_insert_default().image = image.to_owned();
        until(&format!("image {image}"), || {
            let answer = self.cri.call("ImageService/ImageStatus", &request);
            answer.is_ok_and(|answer: ImageStatusResponse| answer.image.is_some())
        });
    }

    /// Ends it by a signal.
    pub(crate) fn stop(&mut self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("kill containerd");
        self.child.wait().expect("wait for containerd");
    }

    /// Starts it again.
    pub(crate) fn again(&mut self) {
        self.child = spawn(&self.work, self.shims.as_deref());
        self.wait_until_ready();
    }

    /// From now on it finds the shims in this folder first.
    pub(crate) fn find_shims(&mut self, shims: Option<PathBuf>) {
        if self.shims != shims {
            self.shims = shims;
            self.stop(Signal::SIGTERM);
            self.again();
        }
    }

    fn wait_until_ready(&self) {
        until("containerd to be ready", || {
            let answer: Result<StatusResponse, _> = self.cri.call("Status", &Empty::new());
            answer.is_ok_and(|answer| answer.status.conditions.iter().all(|one| one.status))
        });
    }
}

fn spawn(work: &Path, shims: Option<&Path>) -> Child {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(work.join("log"))
        .expect("containerd's log");
    let errors: File = log.try_clone().expect("dup");
    let path = std::env::var("PATH").expect("PATH");
    let path = match shims {
        Some(shims) => format!("{}:{path}", shims.display()),
        None => path,
    };
    Command::new("containerd")
        .env("PATH", path)
        .arg("--config")
        .arg(work.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .expect("containerd")
}

/// Polls for 20 s.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < limit, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
