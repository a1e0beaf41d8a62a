//! What a case is: a name that says what it shows, an oracle that says it is
//! so, what it needs from the machine, and the exceptions by runtime.

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// Who says that the expected answer is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Oracle {
    /// runc 1.1.5 answers so: the case passes with `RUNTIME=runc`.
    Runc,
    /// crun 1.8.1 answers so, in the pure v1 view.
    Crun,
    /// The Go shim of containerd 1.6.20 answers so: the case passes with
    /// `SHIM=containerd-shim-runc-v2`.
    Go,
    /// The kernel or the specification says so.
    Kernel,
    /// A clause of the specification says so: the case runs on every runtime,
    /// and those that it excepts are shown to fail it.
    Clause,
}

/// What a case needs beyond root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// Cgroup controllers: the v2 view has none on a machine whose v1
    /// hierarchies hold them (`hack/vm` starts one that has).
    Limits,
    /// The v1 files of controllers.
    V1,
    /// A mounted cgroup2.
    V2,
    /// A cgroup2 that holds the controllers, and no v1.
    V2Limits,
    /// systemd as the machine's first process, and the v2 view (`hack/vm
    /// --systemd` starts one); in `hack/vm --systemd-v1` the hybrid one.
    Systemd,
    /// The same with the criu of `hack/vm`.
    SystemdCriu,
    /// The same with a user 7000 who has a systemd and a bus of his own.
    UserSystemd,
    /// A machine that the case may change, with a cgroup2 that holds the
    /// controllers: `hack/vm`.
    Vm,
    /// The same, with AppArmor on.
    AppArmor,
    /// A criu that can read this kernel's vDSO: that of `hack/vm`.
    Criu,
    /// Pairs of virtual network devices, and `ip`.
    Veth,
    /// A tmpfs that can be idmapped (Linux 6.3).
    TmpfsIdmap,
    /// FUSE, for [`resctrl`](crate::resctrl).
    Fuse,
}

/// One case.
#[derive(Clone, Copy)]
pub struct Case {
    /// What it shows, as a sentence.
    pub name: &'static str,
    /// Who says so.
    pub oracle: Oracle,
    /// What it needs.
    pub needs: Needs,
    /// Runtimes that answer otherwise, each with the reason: `runc`, or
    /// `runc@v2` for one view.
    pub exceptions: &'static [(&'static str, &'static str)],
    /// The clauses that it proves, as `page/name` (tests/conformance).
    pub clauses: &'static [&'static str],
    /// The case.
    pub run: fn(&Test),
}

impl Case {
    /// A case that runc answers the same way.
    pub const fn runc(name: &'static str, run: fn(&Test)) -> Case {
        Case {
            name,
            oracle: Oracle::Runc,
            needs: Needs::Nothing,
            exceptions: &[],
            clauses: &[],
            run,
        }
    }

    /// A case that crun answers the same way and runc 1.1.5 can't.
    pub const fn crun(name: &'static str, run: fn(&Test)) -> Case {
        Case {
            name,
            oracle: Oracle::Crun,
            needs: Needs::Nothing,
            exceptions: &[],
            clauses: &[],
            run,
        }
    }

    /// A case that the Go shim answers the same way.
    pub const fn go(name: &'static str, run: fn(&Test)) -> Case {
        Case {
            name,
            oracle: Oracle::Go,
            needs: Needs::Nothing,
            exceptions: &[],
            clauses: &[],
            run,
        }
    }

    /// A case that the kernel or the specification answers.
    pub const fn kernel(name: &'static str, run: fn(&Test)) -> Case {
        Case {
            name,
            oracle: Oracle::Kernel,
            needs: Needs::Nothing,
            exceptions: &[],
            clauses: &[],
            run,
        }
    }

    /// A case that proves clauses of the specification.
    pub const fn clause(
        clauses: &'static [&'static str],
        name: &'static str,
        run: fn(&Test),
    ) -> Case {
        Case {
            name,
            oracle: Oracle::Clause,
            needs: Needs::Nothing,
            exceptions: &[],
            clauses,
            run,
        }
    }

    /// What it needs from the machine.
    #[must_use]
    pub const fn needs(self, needs: Needs) -> Case {
        Case { needs, ..self }
    }

    /// Runtimes that are known to answer otherwise, each with the reason.
    #[must_use]
    pub const fn except(self, exceptions: &'static [(&'static str, &'static str)]) -> Case {
        Case { exceptions, ..self }
    }

    /// Why this runtime is known to answer otherwise, if so.
    pub fn exception(&self, runtime: &str, view: &str) -> Option<&'static str> {
        self.exceptions
            .iter()
            .find(|(name, _)| *name == runtime || *name == format!("{runtime}@{view}"))
            .map(|(_, reason)| *reason)
    }

    /// Why this case does not run here, if so. With `EXCEPTIONS=1` the
    /// exceptions are run too, to see whether they are still true; those of a
    /// clause always are.
    pub fn left_out(&self, runtime: &str, view: &str) -> Option<LeftOut> {
        use LeftOut::{Lacking, Meant};
        let meant = |reason: &str| Some(Meant(reason.to_owned()));
        let lacking = |reason: &str| Some(Lacking(reason.to_owned()));
        if self.oracle != Oracle::Clause {
            let tried = std::env::var("EXCEPTIONS").is_ok_and(|value| value == "1");
            if let Some(reason) = self.exception(runtime, view)
                && !tried
            {
                return Some(Meant(format!("{runtime}: {reason}")));
            }
            if runtime == "crun" && self.oracle != Oracle::Crun {
                return meant("crun is no oracle of this case");
            }
            if runtime == "runc" && self.oracle == Oracle::Crun {
                return meant("runc 1.1.5 can't; crun is its oracle");
            }
        }
        match (self.needs, view) {
            (Needs::V1, "v2") => meant("view v2: no v1 hierarchy is mounted"),
            (Needs::V2Limits, "v1" | "hybrid") => meant("only the v2 view reads v2 files"),
            (Needs::Systemd | Needs::SystemdCriu, "v1") => {
                meant("only where systemd put the cgroups")
            }
            (Needs::V2, "v1") => meant("view v1: no cgroup2 is mounted"),
            (Needs::Vm | Needs::AppArmor | Needs::UserSystemd, "v1" | "hybrid") => {
                meant("only in the v2 view")
            }
            (Needs::Systemd, "hybrid") if !in_vm() => meant("only in the v2 view, or in hack/vm"),
            (Needs::Systemd | Needs::SystemdCriu | Needs::UserSystemd, _)
                if in_vm() && !has_systemd() =>
            {
                meant("only in a machine that booted systemd: hack/vm --systemd")
            }
            (Needs::TmpfsIdmap, _) if kernel() < (6, 3) => {
                meant("tmpfs can't be idmapped before Linux 6.3")
            }
            (Needs::Limits | Needs::V2Limits, "v2") if !v2_controllers() => {
                lacking("view v2: cgroup2 has no controllers here")
            }
            (Needs::Criu | Needs::SystemdCriu, _) if !in_vm() => {
                lacking("Debian's criu is too old for this kernel: only in hack/vm")
            }
            (Needs::Systemd | Needs::SystemdCriu, _) if !has_systemd() => {
                lacking("systemd does not run here")
            }
            (Needs::Vm | Needs::AppArmor | Needs::UserSystemd, _) if !in_vm() => {
                lacking("only in hack/vm")
            }
            (Needs::UserSystemd, _) if !Path::new("/run/user/7000/bus").exists() => {
                lacking("no user has a systemd here")
            }
            (Needs::AppArmor, _) if !has_apparmor() => lacking("the kernel has no AppArmor"),
            (Needs::Veth, _) if !has_veth() => lacking("no ip, or a kernel without veth"),
            (Needs::Fuse, _) if std::fs::File::open("/dev/fuse").is_err() => {
                lacking("the kernel has no FUSE")
            }
            _ => None,
        }
    }
}

/// Why a case does not run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeftOut {
    /// It is not for this program, view or kernel.
    Meant(String),
    /// It is, and the machine lacks something that others have: in `hack/vm`, which
    /// is made to have it, that is a failure.
    Lacking(String),
}

/// Does the v2 view hold the controllers that limits need? Asked once the view
/// is entered.
fn v2_controllers() -> bool {
    let names = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    ["cpu", "memory", "pids"]
        .iter()
        .all(|needed| names.split_whitespace().any(|name| name == *needed))
}

/// Whether this machine is that of `hack/vm`, which a case may change.
pub fn in_vm() -> bool {
    Path::new("/.vm-init").exists()
}

fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn has_apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.trim() == "Y")
}

/// Whether `ip` can make a pair of devices; tried in a namespace that ends with it.
fn has_veth() -> bool {
    let mut command = std::process::Command::new("unshare");
    command.args(["-n", "ip", "link", "add", "v0", "type", "veth"]);
    command
        .output()
        .is_ok_and(|outcome| outcome.status.success())
}

/// The kernel's major and minor number.
fn kernel() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("osrelease");
    let mut numbers = text.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// How a case ends that does not apply, as test programs have it.
pub const DOES_NOT_APPLY: i32 = 77;

/// How a case ends whose machine lacks something.
pub const LACKS: i32 = 78;

/// What a case works with.
pub struct Test {
    /// The program under test.
    pub runtime: PathBuf,
    /// Its file name: `rrun`, `runc`, `crun`.
    pub runtime_name: String,
    /// Its `--root`.
    pub root: PathBuf,
    /// The case's own directory, removed afterwards.
    pub directory: PathBuf,
    /// The probe on the host.
    pub probe: PathBuf,
    /// `hybrid`, `v1` or `v2`.
    pub view: String,
    /// The system calls that are not there.
    pub without: Vec<String>,
    /// All rounds of long loops?
    pub full: bool,
    /// Of random orders.
    pub seed: u64,
    /// The first part of every name that the case makes.
    pub prefix: String,
    /// How many names were made.
    pub made: Cell<u32>,
    /// What the runtime sees in the place of other files, as in
    /// [`Before::Instead`](crate::sys::Before::Instead).
    pub instead: RefCell<Vec<(CString, CString)>>,
}

impl Test {
    /// A name that no other case uses: container id and cgroup.
    pub fn id(&self) -> String {
        self.made.set(self.made.get() + 1);
        format!("{}-{}", self.prefix, self.made.get())
    }

    /// Ends the case as one that does not apply here: an optional part that
    /// the runtime or the kernel does not have.
    pub fn does_not_apply(&self, reason: &str) -> ! {
        println!("{reason}");
        std::process::exit(DOES_NOT_APPLY)
    }

    /// Ends the case as one that can't be tried here, for want of something that
    /// `hack/vm` has: there it fails.
    pub fn lacks(&self, reason: &str) -> ! {
        println!("{reason}");
        std::process::exit(LACKS)
    }

    /// Is this runc? For expectations that hold elsewhere.
    pub fn is(&self, runtime: &str) -> bool {
        self.runtime_name == runtime
    }

    /// Rounds of a loop: all of them, or those of an ordinary run.
    pub fn rounds(&self, full: u32, ordinary: u32) -> u32 {
        if self.full { full } else { ordinary }
    }

    /// The mount points of a v1 controller, or of cgroup2 for `""`, as this
    /// view has them.
    pub fn hierarchy(&self, controller: &str) -> Option<PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let right: Vec<&str> = right.split(' ').collect();
            let found = match right[0] {
                "cgroup" => {
                    !controller.is_empty() && right[2].split(',').any(|name| name == controller)
                }
                "cgroup2" => controller.is_empty(),
                _ => false,
            };
            found.then(|| PathBuf::from(left.split(' ').nth(4).unwrap_or("/")))
        })
    }

    /// A cgroup of the case in a v1 hierarchy (`""`: cgroup2).
    ///
    /// # Panics
    /// When this view has no such hierarchy.
    pub fn cgroup(&self, controller: &str, id: &str) -> PathBuf {
        self.hierarchy(controller)
            .unwrap_or_else(|| panic!("no hierarchy `{controller}`"))
            .join(id)
    }

    /// A knob of a cgroup, without its last line end.
    #[track_caller]
    pub fn knob(&self, controller: &str, id: &str, file: &str) -> String {
        let path = self.cgroup(controller, id).join(file);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.trim_end().to_owned()
    }
}
