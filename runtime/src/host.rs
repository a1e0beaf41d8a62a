//! Facts about this host and this process, read once, as plain data.
//!
//! The plan is made from them and from config.json alone, so that a plan for
//! another host can be made in a test, and `rrun plan` needs no root.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::cgroup::hierarchy::Hierarchies;
use crate::error::{Context, Result};
use crate::sys::{self, credentials, file};
use crate::systemd::{self, Facts, Instance};
use crate::{resctrl, seccomp, spec};

/// What the plan needs to know about the host.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// The effective user id.
    pub euid: u32,
    /// The effective group id.
    pub egid: u32,
    /// This process's permitted capabilities.
    pub permitted: u64,
    /// Whether this process may not do what root of the host may: it is somebody
    /// else, or root of a user namespace.
    pub rootless: bool,
    /// The cgroup hierarchies.
    pub hierarchies: Hierarchies,
    /// What the kernel's seccomp can do.
    pub seccomp: seccomp::Support,
    /// Who gets the listener of a profile that names nobody, as the user of crun
    /// says it (`RUN_OCI_SECCOMP_RECEIVER`); known once seccomp was asked about.
    pub seccomp_receiver: Option<PathBuf>,
    /// The systemd that makes cgroups, if it does.
    pub systemd: Facts,
    /// Whether the kernel runs SELinux; known once it was asked for.
    pub selinux: bool,
    /// resctrl, if it is mounted; known once it was asked for.
    pub resctrl: Option<resctrl::Facts>,
}

impl Host {
    /// Reads the facts. `rootless` is the user's word on it, if given.
    ///
    /// # Errors
    /// Those of reading `/proc`.
    pub fn read(rootless: Option<bool>) -> Result<Self> {
        let euid = nix::unistd::geteuid().as_raw();
        Ok(Self {
            euid,
            egid: nix::unistd::getegid().as_raw(),
            permitted: credentials::capabilities()?.permitted,
            rootless: match rootless {
                Some(told) => told,
                None => euid != 0 || is_in_user_namespace()?,
            },
            hierarchies: Hierarchies::read().context(|| "read the cgroup hierarchies")?,
            seccomp: seccomp::Support::default(),
            seccomp_receiver: None,
            systemd: Facts::default(),
            selinux: false,
            resctrl: None,
        })
    }

    /// Asks systemd about itself, if it is to make the cgroup: the system's, or
    /// rootless the user's.
    ///
    /// # Errors
    /// It can't be reached.
    pub fn knowing_systemd(mut self, is_manager: bool) -> Result<Self> {
        if is_manager {
            self.systemd = systemd::facts(if self.rootless {
                Instance::User
            } else {
                Instance::System
            })?;
        }
        Ok(self)
    }

    /// Asks the kernel for SELinux, if one of `labels` needs it.
    #[must_use]
    pub fn knowing_selinux(mut self, labels: [Option<&String>; 2]) -> Self {
        /// Where selinuxfs is mounted since Linux 3.0.
        const DIRECTORY: &str = "/sys/fs/selinux";
        /// `SELINUX_MAGIC` of linux/magic.h.
        const MAGIC: i64 = 0xf97c_ff8c;
        let wanted = labels.into_iter().flatten().any(|label| !label.is_empty());
        self.selinux = wanted
            && file::open(Path::new(DIRECTORY), OFlags::PATH | OFlags::DIRECTORY)
                .and_then(|directory| file::filesystem(directory.as_fd()))
                .is_ok_and(|found| found.magic == MAGIC);
        self
    }

    /// Looks for resctrl, if `spec` needs it.
    ///
    /// # Errors
    /// Those of [`resctrl::facts`].
    pub fn knowing_resctrl(mut self, spec: &spec::Spec) -> Result<Self> {
        let linux = spec.linux.as_ref();
        if linux.is_some_and(|linux| linux.intel_rdt.is_some()) {
            self.resctrl = resctrl::facts()?;
        }
        Ok(self)
    }

    /// Asks the kernel what its seccomp lacks, if `profile` wants something
    /// that came after Linux 4.18: nine calls that most profiles can do without.
    #[must_use]
    pub fn knowing_seccomp(mut self, profile: Option<&spec::Seccomp>) -> Self {
        if profile.is_some_and(wants_new_seccomp) {
            let receiver = std::env::var_os("RUN_OCI_SECCOMP_RECEIVER");
            self.seccomp_receiver = receiver.filter(|path| !path.is_empty()).map(PathBuf::from);
            self.seccomp = seccomp::Support {
                missing_actions: sys::seccomp::missing_actions(),
                missing_flags: sys::seccomp::missing_flags(),
            };
        }
        self
    }
}

/// Whether ids are mapped, as they are in every user namespace but the first
/// (user_namespaces(7)).
fn is_in_user_namespace() -> Result<bool> {
    let text = sys::file::read_pseudo(Path::new("/proc/self/uid_map"))?;
    let fields: Vec<&str> = text.split_whitespace().collect();
    Ok(fields != ["0", "0", "4294967295"])
}

/// Whether a profile notifies (Linux 5.0) or has a flag besides those of 4.18.
fn wants_new_seccomp(profile: &spec::Seccomp) -> bool {
    let mut actions = profile.syscalls.iter().map(|rule| rule.action.as_str());
    let flags = profile.flags.iter().flatten();
    actions.any(|action| action == "SCMP_ACT_NOTIFY")
        || flags
            .into_iter()
            .any(|flag| flag == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")
}
