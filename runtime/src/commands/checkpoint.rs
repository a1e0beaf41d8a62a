//! `rrun checkpoint`: the state of a running container, written by CRIU.
//!
//! ```text
//! lock      the container runs, or is paused
//! names     mounts from the host, joined namespaces, standard streams
//! criu      freezes the cgroup, writes the images, ends the processes or lets them go
//! delete    unless the container is left running
//! ```

use std::fs::{self, DirBuilder};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use rustix::fs::OFlags;

use super::delete::{is_frozen, open_cgroup};
use super::launch::{NOTIFY, cgroup_manager, labels, profile, rootless};
use crate::cli::{self, Criu, Global, Lock, Need};
use crate::criu::{self, External, Launch, Options, Session, Type};
use crate::error::{Context, Error, Kind, Result};
use crate::host::Host;
use crate::log::Log;
use crate::plan::cgroup::Manager;
use crate::plan::checkpoint::{self, MASK};
use crate::plan::hooks::Hooks;
use crate::plan::{Plan, Request};
use crate::spec::{NamespaceType, Spec};
use crate::state::{CONFIG, Locked, Record, Root, Status};
use crate::sys::file::{self, Links};
use crate::sys::{self, descriptors, directory};
use crate::timing;

/// The file beside the images that names the standard streams; runc's name.
pub(super) const STREAMS: &str = "descriptors.json";

/// How much criu logs: everything.
const LOG_LEVEL: i32 = 4;

/// Options for users' own files of options; the second is runc's.
const CONFIG_FILES: [&str; 2] = ["/etc/criu/rrun.conf", "/etc/criu/runc.conf"];

/// Writes the container's state.
///
/// # Errors
/// A container that does not run; no criu; whatever criu says. The container
/// then runs on.
pub fn execute(global: &Global, log: &Log, args: &cli::Checkpoint) -> Result<()> {
    let container = Root::open(global.root.as_deref())?.lock(&args.id)?;
    let record = container.record()?;
    check(&container, &record)?;
    let program = criu::find(global.criu.as_deref())?;
    check_version(criu::version(&program)?, &args.criu.needs())?;
    check_features(&program, args)?;
    let status = status_fd(args)?;
    let spec = Spec::parse(&container.read(CONFIG)?)?;
    let plan = plan(global, &container, &record, &spec)?;
    let images = Images::make(&args.criu, plan.namespaces.contains(NamespaceType::User))?;
    check_parent(&images, args)?;
    let pid = record.init.map_or(0, |init| init.pid);
    images.write_streams(pid)?;

    let mut options = images.options(&args.criu, &spec, "dump.log");
    options.pid = Some(pid);
    options.root = Some(plan.rootfs.path.to_string_lossy().into_owned());
    options.leave_running = args.leave_running;
    options.tcp_skip_in_flight = args.tcp_skip_in_flight;
    options.link_remap = args.link_remap;
    options.track_mem = args.pre_dump || args.parent_path.is_some();
    options.parent_img = args.parent_path.as_deref().map(text);
    options.page_server.clone_from(&args.page_server);
    options.status_fd = status.map(|fd| fd.as_raw_fd());
    options.freeze_cgroup = freezer(&record);
    options.ext_mnt = external_mounts(&plan, pid)?;
    options.external = joined_namespaces(&plan)?;
    timing::mark("plan");

    let kind = if args.pre_dump {
        Type::PreDump
    } else {
        Type::Dump
    };
    let directories = images.directories();
    let directories = directories.iter().map(|(directory, _)| *directory);
    let launch = Launch {
        inherits: directories.chain(status).collect(),
        ..Launch::default()
    };
    let was_frozen = is_frozen(&record)?;
    let done = Session::start(&program, &launch).and_then(|session| {
        session.work(kind, options, &images.log("dump.log"), &mut |_, _| Ok(()))
    });
    timing::mark("criu");
    if let Err(error) = done {
        return Err(match thaw(&record, was_frozen) {
            Ok(()) => error,
            Err(left) => error.and(&left),
        });
    }
    if args.leave_running || args.pre_dump {
        return Ok(());
    }
    let hooks = Hooks::plan(&spec.hooks, &spec.annotations)?;
    super::delete::destroy(log, container, &record, &hooks)
}

/// criu that died has left the cgroup as it was at that moment.
fn thaw(record: &Record, was_frozen: bool) -> Result<()> {
    match open_cgroup(record)? {
        Some(cgroup) if !was_frozen && cgroup.is_frozen()? => cgroup.thaw(),
        _ => Ok(()),
    }
}

fn check(container: &Locked, record: &Record) -> Result<()> {
    match container.status(record, || is_frozen(record))? {
        Status::Running | Status::Paused => Ok(()),
        status => {
            let text = format!("Container cannot be checkpointed in {status} state");
            Err(Error::new(Kind::WrongState, text))
        }
    }
}

/// What only later versions of criu can do.
pub(super) fn check_version(version: i32, needs: &[Need]) -> Result<()> {
    let Some(need) = needs.iter().find(|need| version < need.version) else {
        return Ok(());
    };
    let spelled = |version: i32| format!("{}.{}", version / 10_000, version / 100 % 100);
    let text = format!(
        "{} requires at least criu {}, this is {}",
        need.option,
        spelled(need.version),
        spelled(version)
    );
    Err(Error::new(Kind::Unsupported, text))
}

/// What only some kernels can do.
fn check_features(program: &Path, args: &cli::Checkpoint) -> Result<()> {
    if !args.pre_dump && !args.criu.lazy_pages {
        return Ok(());
    }
    let features = criu::features(program)?;
    let unable = |what: &str| Err(Error::new(Kind::Unsupported, what));
    if args.pre_dump && !features.mem_track {
        return unable("--pre-dump: criu can't tell here which pages have changed");
    }
    if args.criu.lazy_pages && !features.lazy_pages {
        return unable("--lazy-pages: criu can't fetch pages here when they are touched");
    }
    Ok(())
}

/// The descriptor of `--status-fd`, which means something only with
/// `--lazy-pages`, and nothing where it is runc's default.
fn status_fd(args: &cli::Checkpoint) -> Result<Option<BorrowedFd<'static>>> {
    let fd = args.status_fd.filter(|fd| *fd != -1);
    let Some(fd) = fd.filter(|_| args.criu.lazy_pages) else {
        return Ok(None);
    };
    let refused = |what: &str| {
        let text = format!("--status-fd: descriptor {fd} is not open{what}");
        Err(Error::new(Kind::Usage, text))
    };
    if !descriptors::is_inherited(fd) {
        return refused("");
    }
    let fd = descriptors::standard(fd);
    match descriptors::is_writable(fd)? {
        true => Ok(Some(fd)),
        false => refused(" for writing"),
    }
}

/// Earlier images are found by a relative path, wherever all of them are moved.
fn check_parent(images: &Images, args: &cli::Checkpoint) -> Result<()> {
    let Some(parent) = &args.parent_path else {
        return Ok(());
    };
    if parent.is_absolute() {
        return Err(Error::new(Kind::Usage, "--parent-path must be relative"));
    }
    let path = images.path.join(parent);
    if path.is_dir() {
        return Ok(());
    }
    let text = format!("--parent-path: {path:?} is no directory");
    Err(Error::new(Kind::Usage, text))
}

/// The plan that the container was made by: it names the mounts.
fn plan(global: &Global, container: &Locked, record: &Record, spec: &Spec) -> Result<Plan> {
    let manager = cgroup_manager(global);
    let host = Host::read(rootless(global))?
        .knowing_seccomp(profile(spec))
        .knowing_selinux(labels(spec))
        .knowing_resctrl(spec)?
        .knowing_systemd(manager == Manager::Systemd)?;
    let notify = container.path().join(NOTIFY);
    let request = Request {
        id: record.id.as_str(),
        bundle: &record.bundle,
        no_pivot: false,
        no_new_keyring: false,
        manager,
        listen_fds: 0,
        notify: directory::has(container.dir(), NOTIFY)?.then_some(notify.as_path()),
    };
    Plan::new(spec, &request, &host)
}

/// The cgroup by which criu stops the processes: in its own way it would miss
/// those that are made meanwhile.
fn freezer(record: &Record) -> Option<String> {
    let members = &record.cgroup.as_ref()?.members;
    let by_controller = members.iter().find(|member| member.has("freezer"));
    let member = by_controller.or(members.iter().find(|member| member.is_v2()))?;
    let directory = member.directory();
    let file = if member.is_v2() {
        "cgroup.freeze"
    } else {
        "freezer.state"
    };
    directory.join(file).exists().then(|| text(&directory))
}

/// The mounts of the process `pid` that are not part of the images: where each
/// is mounted in truth, with its name.
fn external_mounts(plan: &Plan, pid: i32) -> Result<Vec<External>> {
    let path = format!("/proc/{pid}/mountinfo");
    let table = file::read_pseudo_bytes(Path::new(&path))?;
    // What of the container's own mounts is no text is none that criu is told of.
    let table = String::from_utf8_lossy(&table);
    let root = file::open(
        Path::new(&format!("/proc/{pid}/root")),
        OFlags::PATH | OFlags::DIRECTORY,
    )?;
    let mut external = Vec::new();
    for mount in checkpoint::external_mounts(&plan.rootfs) {
        if let Some((key, _)) = mount_point(root.as_fd(), &mount.name, &table)? {
            let value = text(&mount.name);
            external.push(External { key, value });
        }
    }
    for path in checkpoint::masked_paths(&plan.rootfs) {
        // A masked directory is an empty filesystem, which criu makes again.
        if let Some((key, false)) = mount_point(root.as_fd(), path, &table)? {
            let value = MASK.to_owned();
            external.push(External { key, value });
        }
    }
    Ok(external)
}

/// Where the mount at `path` in the container is by the kernel's word, and
/// whether it is a directory; `None` if nothing is mounted there.
fn mount_point(root: BorrowedFd<'_>, path: &Path, table: &str) -> Result<Option<(String, bool)>> {
    let found = match file::resolve(root, path, Links::Follow) {
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        found => found?,
    };
    if !file::is_mount_root(found.as_fd())? {
        return Ok(None);
    }
    let info = file::read_pseudo(Path::new(&format!(
        "/proc/self/fdinfo/{}",
        found.as_raw_fd()
    )))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let point = id.and_then(|id| point_of(table, id.trim()));
    let mode = file::stat(found.as_fd())?.st_mode;
    Ok(point.map(|point| (point, mode & libc::S_IFMT == libc::S_IFDIR)))
}

/// The mount point of the mount `id` in the text of a mountinfo (proc(5)).
fn point_of(table: &str, id: &str) -> Option<String> {
    let mut lines = table.lines().map(|line| line.split(' '));
    let point = lines.find_map(|mut words| (words.next() == Some(id)).then(|| words.nth(3)))??;
    let plain = |text: String, (escaped, plain): (&str, &str)| text.replace(escaped, plain);
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    Some(escapes.into_iter().fold(point.to_owned(), plain))
}

/// The names of joined namespaces, each with its number.
fn joined_namespaces(plan: &Plan) -> Result<Vec<String>> {
    checkpoint::inherited(&plan.namespaces)
        .map(|(join, name)| {
            let found = sys::call(fs::metadata(&join.path), || {
                format!("stat({:?})", join.path)
            })?;
            let kind = match name {
                "extRootPidNS" => "pid",
                _ => "net",
            };
            Ok(format!("{kind}[{}]:{name}", found.ino()))
        })
        .collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The directories of a checkpoint.
#[derive(Debug)]
pub(super) struct Images {
    /// Of the images.
    pub(super) path: PathBuf,
    directory: OwnedFd,
    /// Of the logs.
    work_path: PathBuf,
    work: OwnedFd,
}

impl Images {
    /// Makes the directories that the options name, as far as they are missing.
    fn make(args: &Criu, user_namespace: bool) -> Result<Self> {
        // Images have all that the processes had in memory. At a restore a root
        // that is none on the host looks for some that may not be there.
        let mode = if user_namespace { 0o711 } else { 0o700 };
        make_directory(&images_path(args)?, mode)?;
        Self::open(args)
    }

    /// Opens the directories that the options name. That of the logs is made.
    ///
    /// # Errors
    /// There are no images.
    pub(super) fn open(args: &Criu) -> Result<Self> {
        let path = images_path(args)?;
        let directory = directory::open(&path).context(|| format!("open images {path:?}"))?;
        let work_path = match &args.work_path {
            None => path.clone(),
            Some(work) => {
                make_directory(work, 0o700)?;
                work.clone()
            }
        };
        let work = directory::open(&work_path).context(|| format!("open {work_path:?}"))?;
        Ok(Self {
            path,
            directory,
            work_path,
            work,
        })
    }

    /// The directories that the options name by number, with their paths.
    pub(super) fn directories(&self) -> Vec<(BorrowedFd<'_>, &Path)> {
        vec![
            (self.directory.as_fd(), &self.path),
            (self.work.as_fd(), &self.work_path),
        ]
    }

    /// Where criu's log is.
    pub(super) fn log(&self, name: &'static str) -> criu::Log {
        criu::Log {
            directory: self.work_path.clone(),
            name,
        }
    }

    /// The options that a dump and a restore have in common.
    pub(super) fn options(&self, args: &Criu, spec: &Spec, log: &str) -> Options {
        // Devices of a network namespace are somebody else's.
        let empty = args.empty_ns.iter().copied();
        let empty = empty.fold(CloneFlags::CLONE_NEWNET, CloneFlags::union);
        Options {
            images_dir_fd: self.directory.as_raw_fd(),
            work_dir_fd: Some(self.work.as_raw_fd()),
            log_level: Some(LOG_LEVEL),
            log_file: Some(log.to_owned()),
            notify_scripts: true,
            ext_unix_sk: args.ext_unix_sk,
            tcp_established: args.tcp_established,
            tcp_close: args.tcp_close,
            shell_job: args.shell_job,
            file_locks: args.file_locks,
            manage_cgroups: Some(args.manage_cgroups_mode.mode()),
            empty_ns: empty.bits().cast_unsigned(),
            auto_dedup: args.auto_dedup,
            lazy_pages: args.lazy_pages,
            orphan_pts_master: true,
            network_lock: args.network_lock.map(Lock::method),
            config_file: config_file(spec),
            ..Options::default()
        }
    }

    /// Names the standard streams of the process `pid` beside the images.
    fn write_streams(&self, pid: i32) -> Result<()> {
        let names: Vec<String> = (0..3)
            .map(|number| fs::read_link(format!("/proc/{pid}/fd/{number}")))
            .map(|link| link.map_or_else(|_| String::new(), |link| text(&link)))
            .collect();
        let json = serde_json::json!(names).to_string();
        let path = self.path.join(STREAMS);
        Ok(sys::call(fs::write(&path, json), || {
            format!("write({path:?})")
        })?)
    }
}

/// The directory of the images.
fn images_path(args: &Criu) -> Result<PathBuf> {
    let path = args.image_path.clone();
    let path = path.unwrap_or_else(|| PathBuf::from("checkpoint"));
    let absolute = std::path::absolute(&path);
    Ok(sys::call(absolute, || "getcwd()".to_owned())?)
}

fn make_directory(path: &Path, mode: u32) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    Ok(sys::call(made, || format!("mkdir({path:?}, {mode:#o})"))?)
}

/// The file of options: the annotation's, or the first that there is.
fn config_file(spec: &Spec) -> Option<String> {
    match spec.annotations.get("org.criu.config") {
        Some(path) => Some(path.clone()).filter(|path| !path.is_empty()),
        None => CONFIG_FILES
            .into_iter()
            .find(|path| Path::new(path).exists())
            .map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_criu_is_refused_by_the_option() {
        let lock = Need {
            option: "--network-lock skip",
            version: 31_900,
        };
        assert!(check_version(31_500, &[]).is_ok());
        assert!(check_version(31_900, &[lock]).is_ok());
        assert!(check_version(40_100, &[lock]).is_ok());
        assert_eq!(
            check_version(31_701, &[lock]).unwrap_err().to_string(),
            "--network-lock skip requires at least criu 3.19, this is 3.17"
        );
    }

    #[test]
    fn a_mount_is_found_by_its_number() {
        let table = "\
            34 30 0:31 / / rw,relatime - overlay overlay rw\n\
            35 34 0:32 / /proc rw - proc proc rw\n\
            36 34 0:5 /null /with\\040space rw shared:2 - devtmpfs dev rw\n";
        for (id, point) in [("34", Some("/")), ("36", Some("/with space")), ("3", None)] {
            assert_eq!(point_of(table, id).as_deref(), point, "{id}");
        }
    }
}
