//! A bundle on disk: a rootfs with the probe in it, and a config.json that
//! starts from what `runc spec` writes, changed by the case.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::case::Test;

/// A bundle; the directory goes with the case's.
#[derive(Clone)]
pub struct Bundle {
    /// Where config.json is.
    pub path: PathBuf,
    /// The id for its first container, and the name of its cgroup.
    pub id: String,
    config: Value,
}

impl Bundle {
    /// A new bundle whose program is `probe report`.
    pub fn new(test: &Test) -> Bundle {
        let id = test.id();
        let path = test.directory.join(&id);
        let rootfs = path.join("rootfs");
        for name in ["", "bin", "dev", "etc", "proc", "sys", "tmp", "data"] {
            fs::create_dir_all(rootfs.join(name)).expect("a directory of the rootfs");
        }
        fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod");
        for name in ["bin/probe", "bin/true", "bin/sleep"] {
            put_probe(test, &rootfs.join(name)).expect("the probe in the rootfs");
        }
        let config = default_config(&id);
        Bundle { path, id, config }.written()
    }

    /// The program and its arguments.
    #[must_use]
    pub fn args(self, args: &[&str]) -> Bundle {
        self.with(|config| config["process"]["args"] = json!(args))
    }

    /// The probe with these words.
    #[must_use]
    pub fn probe(self, words: &[&str]) -> Bundle {
        let args: Vec<&str> = std::iter::once("/bin/probe")
            .chain(words.iter().copied())
            .collect();
        self.args(&args)
    }

    /// This text for busybox's shell, with the applets that cases use.
    ///
    /// # Panics
    /// When there is no /bin/busybox.
    #[must_use]
    pub fn shell(self, script: &str) -> Bundle {
        let applets = [
            "sh", "cat", "dd", "head", "seq", "stat", "stty", "echo", "kill", "id",
        ];
        // One copy for all bundles of the case.
        let copy = self.path.with_file_name("busybox");
        if !copy.exists() {
            fs::copy("/bin/busybox", &copy).expect("busybox");
        }
        for name in applets.iter().chain(&["busybox"]) {
            let target = self.rootfs().join("bin").join(name);
            let _ = fs::remove_file(&target);
            fs::hard_link(&copy, target).expect("busybox in the rootfs");
        }
        self.args(&["/bin/sh", "-c", script])
    }

    /// An annotation.
    #[must_use]
    pub fn annotation(self, key: &str, value: &str) -> Bundle {
        self.with(|config| config["annotations"][key] = json!(value))
    }

    /// Changes config.json.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Value)) -> Bundle {
        change(&mut self.config);
        self.written()
    }

    /// One more mount, after the default ones.
    #[must_use]
    pub fn mount(self, target: &str, kind: &str, source: &str, options: &[&str]) -> Bundle {
        let mount =
            json!({ "destination": target, "type": kind, "source": source, "options": options });
        self.with(|config| push(&mut config["mounts"], mount))
    }

    /// The namespace list without one kind.
    #[must_use]
    pub fn without_namespace(self, kind: &str) -> Bundle {
        self.with(|config| {
            let all = config["linux"]["namespaces"]
                .as_array_mut()
                .expect("namespaces");
            all.retain(|namespace| namespace["type"] != kind);
        })
    }

    /// A user namespace with ids 0.. mapped to `base`.., in which the rootfs
    /// belongs to its root.
    #[must_use]
    pub fn in_user_namespace(self, base: u32) -> Bundle {
        let mapping = json!([{ "containerID": 0, "hostID": base, "size": 65536 }]);
        let rootfs = self.rootfs();
        own(&rootfs, base);
        self.with(|config| {
            push(
                &mut config["linux"]["namespaces"],
                json!({ "type": "user" }),
            );
            config["linux"]["uidMappings"] = mapping.clone();
            config["linux"]["gidMappings"] = mapping;
        })
    }

    /// A hook at this moment.
    #[must_use]
    pub fn hook(self, moment: &str, hook: Value) -> Bundle {
        self.with(|config| push(&mut config["hooks"][moment], hook))
    }

    /// A hook that runs this shell text on the host.
    #[must_use]
    pub fn shell_hook(self, moment: &str, script: &str) -> Bundle {
        self.hook(
            moment,
            json!({ "path": "/bin/sh", "args": ["sh", "-c", script] }),
        )
    }

    /// The root filesystem on the host.
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// A file inside the rootfs.
    #[must_use]
    pub fn file(self, path: &str, text: &str) -> Bundle {
        let target = self.rootfs().join(path);
        fs::create_dir_all(target.parent().expect("a parent")).expect("mkdir");
        fs::write(target, text).expect("a file in the rootfs");
        self
    }

    /// config.json as it is now.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Replaces config.json by this text.
    #[must_use]
    pub fn raw_config(self, text: &str) -> Bundle {
        fs::write(self.path.join("config.json"), text).expect("config.json");
        self
    }

    fn written(self) -> Bundle {
        let text = serde_json::to_string_pretty(&self.config).expect("JSON");
        fs::write(self.path.join("config.json"), text).expect("config.json");
        self
    }
}

/// A link to the probe, or to the case's one copy of it where that is on another
/// file system: /tmp may be memory, and some cases make many bundles.
fn put_probe(test: &Test, target: &Path) -> std::io::Result<()> {
    fs::hard_link(&test.probe, target).or_else(|_| {
        let copy = test.directory.join(".probe");
        if !copy.exists() {
            fs::copy(&test.probe, &copy)?;
        }
        fs::hard_link(&copy, target)
    })
}

/// Appends to an array that may not exist yet.
pub fn push(array: &mut Value, value: Value) {
    if array.is_null() {
        *array = json!([]);
    }
    array.as_array_mut().expect("an array").push(value);
}

/// Gives a tree's directories to this user; the files are hard links and
/// stay root's.
fn own(path: &Path, uid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid)).expect("chown");
    for entry in fs::read_dir(path).expect("readdir").flatten() {
        if entry.path().is_dir() {
            own(&entry.path(), uid);
        }
    }
}

/// What `runc spec` writes, with a terminal and a read-only root left out.
fn default_config(id: &str) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["/bin/probe", "report"],
            "env": ["PATH=/bin:/usr/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs" },
        "hostname": "probe",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" },
                { "type": "uts" }, { "type": "mount" },
            ],
            "maskedPaths": ["/proc/kcore", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
