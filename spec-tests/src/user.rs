//! A case that goes on as an unprivileged user.
//!
//! The case's own process gives up root for good; what it starts from then
//! on is the user's. The user database is one for this process's mount
//! namespace alone, bound over the machine's, so that newuidmap(1) knows the
//! user and nothing on the machine changes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid};

use crate::bundle::{Bundle, push};
use crate::case::Test;
use crate::sys;

/// The user's id, and its group's.
pub const USER: u32 = 7000;
/// The first of the ids that newuidmap and newgidmap hand to the user.
pub const SUBORDINATE: u32 = 300_000;
/// How many they are.
pub const SUBORDINATES: u32 = 65_536;

impl Test {
    /// Goes on as the user [`USER`], who has no capability, no further group
    /// and a home in the case's directory.
    ///
    /// `subordinate` are the lines of /etc/subuid and /etc/subgid.
    ///
    /// # Panics
    /// When the case's process is not root's any more.
    #[must_use]
    pub fn as_user(&self, subordinate: &str) -> Test {
        self.as_user_with(subordinate, || ())
    }

    /// The same; `prepare` is root's last word, in a mount namespace that goes
    /// with the case.
    ///
    /// # Panics
    /// When the case's process is not root's any more.
    #[must_use]
    pub fn as_user_with(&self, subordinate: &str, prepare: impl FnOnce()) -> Test {
        let mut test = self.for_user();
        user_database(&self.directory, subordinate);
        setgroups(&[]).expect("setgroups");
        prepare();
        let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
        setresgid(gid, gid, gid).expect("setresgid");
        setresuid(uid, uid, uid).expect("setresuid");
        test.probe = test.directory.join("probe");
        test
    }

    /// Does this as the user, in a process of his, so that the case stays root's
    /// and can clean up.
    ///
    /// # Panics
    /// When `act` does.
    pub fn user_does(&self, subordinate: &str, prepare: impl FnOnce(), act: impl FnOnce(&Test)) {
        let pid = sys::fork(|| {
            let run =
                std::panic::AssertUnwindSafe(|| act(&self.as_user_with(subordinate, prepare)));
            i32::from(std::panic::catch_unwind(run).is_err())
        });
        let status = waitpid(Pid::from_raw(pid), None).expect("wait");
        assert_eq!(status, WaitStatus::Exited(Pid::from_raw(pid), 0));
    }

    /// The same case with a program and a directory that the user can reach.
    fn for_user(&self) -> Test {
        let runtime = self.directory.join(&self.runtime_name);
        for (from, to) in [
            (&self.runtime, &runtime),
            (&self.probe, &self.directory.join("probe")),
        ] {
            fs::copy(from, to).expect("a copy for the user");
            fs::set_permissions(to, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        lchown(&self.directory, Some(USER), Some(USER)).expect("chown");
        Test {
            runtime,
            runtime_name: self.runtime_name.clone(),
            root: self.directory.join("root"),
            directory: self.directory.clone(),
            probe: self.probe.clone(),
            view: self.view.clone(),
            without: self.without.clone(),
            full: self.full,
            seed: self.seed,
            prefix: self.prefix.clone(),
            made: self.made.clone(),
            instead: self.instead.clone(),
        }
    }
}

impl Bundle {
    /// What `runc spec --rootless` changes: a user namespace in which the user is
    /// root, no limits, no group of the terminals, the host's /sys.
    #[must_use]
    pub fn rootless(self) -> Bundle {
        let own = serde_json::json!([{ "containerID": 0, "hostID": USER, "size": 1 }]);
        self.rootless_with(own)
    }

    /// The same with the user's subordinate ids from 1 on.
    #[must_use]
    pub fn rootless_range(self) -> Bundle {
        self.rootless_with(serde_json::json!([
            { "containerID": 0, "hostID": USER, "size": 1 },
            { "containerID": 1, "hostID": SUBORDINATE, "size": SUBORDINATES - 1 },
        ]))
    }

    fn rootless_with(self, mappings: serde_json::Value) -> Bundle {
        self.with(|config| {
            let linux = &mut config["linux"];
            push(
                &mut linux["namespaces"],
                serde_json::json!({ "type": "user" }),
            );
            linux["uidMappings"] = mappings.clone();
            linux["gidMappings"] = mappings;
            let linux = linux.as_object_mut().expect("linux");
            linux.remove("cgroupsPath");
            linux.remove("resources");
            for mount in config["mounts"].as_array_mut().expect("mounts") {
                if let Some(options) = mount["options"].as_array_mut() {
                    options.retain(|option| option != "gid=5");
                }
            }
        })
    }
}

/// A user database of this process's own.
fn user_database(directory: &Path, subordinate: &str) {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).expect("private");
    let passwd = format!("root:x:0:0::/root:/bin/sh\nuser:x:{USER}:{USER}::/:/bin/sh\n");
    let group = format!("root:x:0:\nuser:x:{USER}:\n");
    for (name, text) in [
        ("passwd", passwd.as_str()),
        ("group", &group),
        ("subuid", subordinate),
        ("subgid", subordinate),
    ] {
        let file = directory.join(name);
        fs::write(&file, text).expect("a file of the user database");
        bind(&file, &PathBuf::from("/etc").join(name));
    }
}

/// Binds a file over another, for this process's mount namespace.
///
/// # Panics
/// When mount(2) refuses.
pub fn bind(from: &Path, to: &Path) {
    let none = None::<&str>;
    mount(Some(from), to, none, MsFlags::MS_BIND, none)
        .unwrap_or_else(|errno| panic!("bind {} on {}: {errno}", from.display(), to.display()));
}
