//! A stand-in for resctrl, for machines whose processor has no RDT: a filesystem
//! in FUSE that behaves as the kernel's documentation says
//! (Documentation/filesystems/resctrl.rst), and runtimes that take it for the real
//! one.
//!
//! ```text
//!   case -- fork --> server   answers the kernel's FUSE requests: groups appear with
//!     |                       their files, values are checked, mkdir and rmdir, moves
//!     |                       of tasks and each write to schemata go into a log
//!     | -- spawn --> runtime  in a mount namespace of its own, where its mountinfo says
//!                             `resctrl` for that mount, and cpuinfo has the flags
//! ```
//!
//! What it does not do: it sees no forks, so a task that was born in a group is not
//! among its tasks ([`Resctrl::joined`]).

mod fuse;
mod groups;

use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::case::Test;
use crate::sys;

/// The stand-in, mounted; gone when dropped.
pub struct Resctrl<'a> {
    /// Where it is mounted.
    pub path: PathBuf,
    log: PathBuf,
    server: i32,
    test: &'a Test,
}

impl<'a> Resctrl<'a> {
    /// Mounts it for the case, whose runtime finds it from now on.
    ///
    /// # Panics
    /// When that is not possible.
    pub fn mount(test: &'a Test) -> Resctrl<'a> {
        let path = test.directory.join("resctrl");
        let log = test.directory.join("resctrl.log");
        fs::create_dir(&path).expect("mkdir");
        File::create(&log).expect("a log");
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .expect("/dev/fuse");
        let number = std::os::fd::AsRawFd::as_raw_fd(&device);
        let options = format!("fd={number},rootmode=40000,user_id=0,group_id=0,allow_other");
        let (source, kind) = (Some("resctrl"), Some("fuse"));
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(source, &path, kind, flags, Some(options.as_str())).expect("mount");
        let server = sys::fork(|| {
            // The runner looks for what lives on, and kills it.
            let asked = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            asked.expect("PR_SET_PDEATHSIG");
            fuse::serve(&device, &log);
            0
        });
        let stand_in = Resctrl {
            path,
            log,
            server,
            test,
        };
        stand_in.show();
        stand_in
    }

    /// Lets the runtime see it as resctrl.
    fn show(&self) {
        let write = |name: &str, text: String| {
            let path = self.test.directory.join(name);
            fs::write(&path, text).expect(name);
            CString::new(path.into_os_string().into_encoded_bytes()).expect("a path")
        };
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let ours = format!(" {} ", self.path.display());
        let mounts = mounts.lines().map(|line| match line.split_once(" - ") {
            Some((left, _)) if left.contains(&ours) => format!("{left} - resctrl resctrl rw\n"),
            _ => format!("{line}\n"),
        });
        let mounts = write("mountinfo", mounts.collect());
        let processors = fs::read_to_string("/proc/cpuinfo").expect("cpuinfo");
        let flags = "cat_l3 mba cqm_llc cqm_occup_llc cqm_mbm_total cqm_mbm_local";
        let processors = processors.replace("flags\t\t: ", &format!("flags\t\t: {flags} "));
        let processors = write("cpuinfo", processors);
        *self.test.instead.borrow_mut() = vec![
            (mounts.clone(), c"/proc/thread-self/mountinfo".to_owned()),
            (mounts, c"/proc/self/mountinfo".to_owned()),
            (processors, c"/proc/cpuinfo".to_owned()),
        ];
    }

    /// Makes a group, as an administrator does.
    ///
    /// # Panics
    /// When the stand-in refuses it.
    pub fn make(&self, group: &str, schemata: &str) {
        fs::create_dir(self.path.join(group)).expect("mkdir");
        self.write(group, schemata);
    }

    /// Writes a line to a group's schemata.
    ///
    /// # Panics
    /// When the stand-in refuses it.
    pub fn write(&self, group: &str, schemata: &str) {
        let path = self.path.join(group).join("schemata");
        let mut file = File::options().write(true).open(path).expect("schemata");
        let line = format!("{schemata}\n");
        std::io::Write::write_all(&mut file, line.as_bytes()).expect("write");
    }

    /// Whether it has this group.
    pub fn has(&self, group: &str) -> bool {
        self.path.join(group).is_dir()
    }

    /// Removes a group.
    ///
    /// # Panics
    /// When the stand-in refuses it.
    pub fn remove(&self, group: &str) {
        fs::remove_dir(self.path.join(group)).expect("rmdir");
    }

    /// A line of a group's schemata, without padding.
    ///
    /// # Panics
    /// When there is none.
    pub fn schema(&self, group: &str, resource: &str) -> String {
        let text = self.read(&Path::new(group).join("schemata"));
        let line = text
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with(&format!("{resource}:")));
        line.unwrap_or_else(|| panic!("no {resource} in {text}"))
            .to_owned()
    }

    /// The tasks that were moved into a group and live.
    ///
    /// # Panics
    /// When there is no such group.
    pub fn tasks(&self, group: &str) -> Vec<i32> {
        let text = self.read(&Path::new(group).join("tasks"));
        text.lines()
            .map(|line| line.parse().expect("a pid"))
            .collect()
    }

    /// Whether the process `pid` is in a group: it was moved there since the last
    /// [`done`](Self::done), or one was that has ended and may have been its parent,
    /// as with runc.
    ///
    /// # Panics
    /// When the log can't be read.
    pub fn joined(&self, group: &str, pid: i32) -> bool {
        let text = fs::read_to_string(&self.log).expect("the log");
        let moved = text.lines().filter_map(|line| {
            let (task, to) = line.strip_prefix("move ")?.split_once(' ')?;
            (to == group).then(|| task.parse::<i32>().expect("a pid"))
        });
        let lives = |task: i32| Path::new(&format!("/proc/{task}")).exists();
        moved.into_iter().any(|task| task == pid || !lives(task))
    }

    /// The text of a file.
    ///
    /// # Panics
    /// When there is none.
    pub fn read(&self, file: &Path) -> String {
        let path = self.path.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
    }

    /// What was done since the last time, a line each: `mkdir GROUP`, `rmdir GROUP`,
    /// `move PID GROUP`, `write GROUP LINES` with `|` between lines.
    ///
    /// # Panics
    /// When the log can't be read.
    pub fn done(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).expect("the log");
        fs::write(&self.log, "").expect("the log");
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Resctrl<'_> {
    fn drop(&mut self) {
        self.test.instead.borrow_mut().clear();
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = kill(Pid::from_raw(self.server), Signal::SIGKILL);
        let _ = waitpid(Pid::from_raw(self.server), None);
    }
}
