//! The plan of a container: all decisions together.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use super::annotations::Annotations;
use super::cgroup::{CgroupPlan, Manager, Owner, ownership};
use super::hooks::Hooks;
use super::intel_rdt::IntelRdt;
use super::mounts::{MountContext, Rootfs};
use super::namespaces::Namespaces;
use super::network::{NetDevice, net_devices};
use super::process::{Document, NO_SELINUX, Process};
use super::scheduling::{MemoryPolicy, memory_policy};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::seccomp::{self, Arch, Filter};
use crate::spec::fields;
use crate::spec::{self, NamespaceType, Spec};

/// What the command line adds to config.json.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The container's id, checked.
    pub id: &'a str,
    /// The bundle, absolute.
    pub bundle: &'a Path,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// `--cgroup-manager`, `--systemd-cgroup`.
    pub manager: Manager,
    /// How many sockets systemd passed to us for the container (`LISTEN_FDS`).
    pub listen_fds: u32,
    /// The directory with the socket that readiness is told to
    /// (`NOTIFY_SOCKET`), on the host.
    pub notify: Option<&'a Path>,
}

/// Every decision about a container.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The container's id.
    pub id: String,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// Namespaces to make and to join, with their id maps.
    pub namespaces: Namespaces,
    /// The cgroup and its limits.
    pub cgroup: CgroupPlan,
    /// Its share of caches and memory bandwidth.
    pub intel_rdt: Option<IntelRdt>,
    /// The root filesystem and all that is in it.
    pub rootfs: Rootfs,
    /// The host's network devices to move into the container.
    pub net_devices: Vec<NetDevice>,
    /// The hostname to set.
    pub hostname: Option<String>,
    /// The NIS domain name to set.
    pub domainname: Option<String>,
    /// The process.
    pub process: Process,
    /// The execution domain.
    pub personality: Option<u32>,
    /// The NUMA memory policy.
    pub memory_policy: Option<MemoryPolicy>,
    /// The syscall filter.
    pub filter: Option<Filter>,
    /// Whether the process is dumpable from its filter on until its execve.
    pub dumpable_for_listener: bool,
    /// The name of the session keyring.
    pub keyring: Option<CString>,
    /// Programs to run at moments of the container's life.
    pub hooks: Hooks,
    /// Who gets a pidfd of the container's process.
    pub pidfd_receiver: Option<PathBuf>,
    /// What was accepted but deserves a word.
    pub warnings: Vec<String>,
}

/// Where the container finds the socket for its readiness (runc's contract).
const NOTIFY_DIRECTORY: &str = "/run/notify";

impl Plan {
    /// Decides everything about the container that `spec` describes.
    ///
    /// # Errors
    /// A value that is invalid, with its JSON path; something asked for that
    /// this version or this host can't do.
    pub fn new(spec: &Spec, request: &Request<'_>, host: &Host) -> Result<Self> {
        let linux = spec.linux.clone().unwrap_or_default();
        let written = spec
            .process
            .as_ref()
            .ok_or_else(|| Error::config("process", "is missing"))?;
        check_version(&spec.oci_version)?;
        refuse_unsupported(&linux, host)?;
        let mut warnings = Vec::new();
        let annotations = Annotations::plan(&spec.annotations, &mut warnings)?;
        let namespaces = Namespaces::plan(&linux)?;
        let grantable = grantable(&namespaces, host);
        let mut process = Process::plan(written, Document::Config, grantable, &mut warnings)?;
        process.keep_groups = annotations.keeps_groups(host.rootless);
        if annotations.keep_groups && !process.keep_groups {
            let why = "root's groups are given by process.user.additionalGids alone";
            warnings.push(format!(
                "annotation run.oci.keep_original_groups is ignored: {why}"
            ));
        }
        process.check_label(host, Document::Config)?;
        process.add_sockets(request.listen_fds, request.notify.is_some());
        let mut cgroup = super::cgroup::cgroup(
            spec,
            request.id,
            &host.hierarchies,
            host.rootless,
            request.manager,
            &host.systemd,
        )?;
        // Somebody without root's rights has no other users' to give.
        if !host.rootless && cgroup.manager != Manager::Disabled {
            cgroup.owner = match cgroup.is_delegated() {
                false => ownership::owner(spec, &namespaces),
                true => delegated_to(spec, &namespaces, &mut cgroup.warnings),
            };
        }
        let rootfs = rootfs(spec, request, &namespaces, &cgroup, (host, &annotations))?;
        let filter = filter(&linux, &annotations, host, &mut warnings)?;
        warnings.extend(cgroup.warnings.iter().cloned());
        warnings.extend(rootfs.warnings.iter().cloned());
        Ok(Self {
            id: request.id.to_owned(),
            bundle: request.bundle.to_owned(),
            net_devices: net_devices(&linux, &namespaces, host)?,
            intel_rdt: IntelRdt::plan(linux.intel_rdt.as_ref(), request.id, host.resctrl.as_ref())?,
            hostname: uts_name("hostname", spec.hostname.as_deref(), &namespaces)?,
            domainname: uts_name("domainname", spec.domainname.as_deref(), &namespaces)?,
            personality: personality(linux.personality.as_ref())?,
            memory_policy: memory_policy(linux.memory_policy.as_ref())?,
            hooks: Hooks::plan(&spec.hooks, &spec.annotations)?,
            keyring: keyring(request),
            dumpable_for_listener: dumpable_for_listener(
                filter.as_ref(),
                namespaces.creates(NamespaceType::User),
                host,
            )?,
            namespaces,
            cgroup,
            rootfs,
            process,
            filter,
            pidfd_receiver: annotations.pidfd_receiver,
            warnings,
        })
    }
}

/// What a container can be granted: everything in a user namespace of its
/// own, else what we have.
#[must_use]
pub fn grantable(namespaces: &Namespaces, host: &Host) -> u64 {
    if namespaces.contains(NamespaceType::User) {
        u64::MAX
    } else {
        host.permitted
    }
}

/// Who is to own what is delegated of the cgroup; root where nobody knows.
fn delegated_to(spec: &Spec, namespaces: &Namespaces, warnings: &mut Vec<String>) -> Option<Owner> {
    ownership::of_delegated(spec, namespaces).unwrap_or_else(|why| {
        warnings.push(format!("the delegated cgroup stays root's: {why}"));
        None
    })
}

/// The version of the specification is in the form of SemVer 2.0.0: three
/// numbers, and words behind `-` and `+`. Documents without one are taken, as
/// every runtime does.
fn check_version(version: &str) -> Result<()> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if version.is_empty() || (core.split('.').count() == 3 && core.split('.').all(is_number)) {
        return Ok(());
    }
    let cause = format_args!("{version:?} is not a version like 1.3.0").to_string();
    Err(Error::config("ociVersion", cause))
}

/// What this host does not do is refused, so that nobody runs
/// without a limit or a guard that he asked for.
fn refuse_unsupported(linux: &spec::Linux, host: &Host) -> Result<()> {
    if !host.selinux
        && let Some(label) = &linux.mount_label
        && !label.is_empty()
    {
        return Err(Error::config("linux.mountLabel", NO_SELINUX).with_kind(Kind::Unsupported));
    }
    Ok(())
}

fn rootfs(
    spec: &Spec,
    request: &Request<'_>,
    namespaces: &Namespaces,
    cgroup: &CgroupPlan,
    (host, annotations): (&Host, &Annotations),
) -> Result<Rootfs> {
    let context = MountContext {
        namespaces,
        no_pivot: request.no_pivot,
        rootless: host.rootless,
        cgroups: &cgroup.view(&host.hierarchies),
        label_option: annotations.label_option.unwrap_or("context"),
    };
    let Some(notify) = request.notify else {
        return super::mounts::rootfs(spec, request.bundle, &context);
    };
    let mut spec = spec.clone();
    spec.mounts.push(spec::Mount {
        destination: NOTIFY_DIRECTORY.to_owned(),
        kind: Some("bind".to_owned()),
        source: Some(notify.to_string_lossy().into_owned()),
        options: ["bind", "nosuid", "noexec", "nodev", "ro"]
            .map(str::to_owned)
            .to_vec(),
        ..spec::Mount::default()
    });
    super::mounts::rootfs(&spec, request.bundle, &context)
}

/// The filter, or none where no profile was written.
///
/// # Errors
/// Those of [`seccomp::compile`].
pub fn filter(
    linux: &spec::Linux,
    annotations: &Annotations,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Option<Filter>> {
    let Some(profile) = &linux.seccomp else {
        return Ok(None);
    };
    let receiver = annotations.seccomp_receiver.as_ref();
    let filter = match receiver.or(host.seccomp_receiver.as_ref()) {
        Some(receiver) if profile.listener_path.is_none() => {
            let listener_path = Some(receiver.to_string_lossy().into_owned());
            let profile = spec::Seccomp {
                listener_path,
                ..profile.clone()
            };
            seccomp::compile(&profile, Arch::native(), &host.seccomp)?
        }
        _ => seccomp::compile(profile, Arch::native(), &host.seccomp)?,
    };
    if let Some(name) = filter.unknown.first()
        && annotations.refuse_unknown_syscalls
    {
        let cause = format!("{name:?} is an unknown system call");
        return Err(Error::config("linux.seccomp.syscalls", cause));
    }
    warnings.extend(filter.warnings.iter().cloned());
    Ok(Some(filter))
}

/// Whether the process must be dumpable for us to fetch the notify descriptor of
/// `filter` (pidfd_getfd(2)). Otherwise that takes `CAP_SYS_PTRACE` in the user
/// namespace that its memory belongs to, which is ours, not the container's. In
/// a user namespace that was made for it, nobody can make use of that before its
/// program runs.
///
/// # Errors
/// A listener that we can't fetch.
pub fn dumpable_for_listener(
    filter: Option<&Filter>,
    in_new_user_namespace: bool,
    host: &Host,
) -> Result<bool> {
    const SYS_PTRACE: u64 = 1 << 19;
    if !filter.is_some_and(|filter| filter.notifies) || host.permitted & SYS_PTRACE != 0 {
        return Ok(false);
    }
    if in_new_user_namespace {
        return Ok(true);
    }
    let cause = "SCMP_ACT_NOTIFY needs CAP_SYS_PTRACE, but for the first process in a user \
        namespace of its own";
    Err(Error::config("linux.seccomp", cause)
        .with_kind(Kind::Unsupported)
        .with_hint("run rrun with CAP_SYS_PTRACE, or without a rule that notifies"))
}

/// A name of the uts namespace, which must be the container's own, or it
/// would rename the host.
fn uts_name(field: &str, name: Option<&str>, namespaces: &Namespaces) -> Result<Option<String>> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if !namespaces.contains(NamespaceType::Uts) {
        return Err(Error::config(
            field,
            "needs a uts namespace in linux.namespaces",
        ));
    }
    // __NEW_UTS_LEN of linux/utsname.h.
    if name.len() > 64 {
        return Err(Error::config(
            field,
            format!("{} bytes are more than 64", name.len()),
        ));
    }
    Ok(Some(name.to_owned()))
}

/// The number of the execution domain.
///
/// # Errors
/// A domain or a flag that is unknown.
pub fn personality(written: Option<&spec::Personality>) -> Result<Option<u32>> {
    /// `PER_LINUX` and `PER_LINUX32` of personality(2).
    const DOMAINS: [(&str, u32); 2] = [("LINUX", 0), ("LINUX32", 8)];
    let Some(written) = written else {
        return Ok(None);
    };
    if let Some(flag) = written.flags.first() {
        let why = fields::why("linux.personality.flags");
        let cause = format!("{flag:?} is unknown: {why}");
        return Err(Error::config("linux.personality.flags[0]", cause));
    }
    match DOMAINS.iter().find(|(name, _)| *name == written.domain) {
        Some((_, domain)) => Ok(Some(*domain)),
        None => Err(Error::config(
            "linux.personality.domain",
            format!("{:?} is neither LINUX nor LINUX32", written.domain),
        )),
    }
}

/// The keyring's name, which `exec` uses again.
fn keyring(request: &Request<'_>) -> Option<CString> {
    if request.no_new_keyring {
        return None;
    }
    // An id has no NUL: its characters are checked.
    CString::new(format!("_ses.{}", request.id)).ok()
}
