//! All cases of the runtime, run by [`spec_tests::runner`].

#[path = "cases/annotations.rs"]
mod annotations;
#[path = "cases/apparmor.rs"]
mod apparmor;
#[path = "cases/attacks.rs"]
mod attacks;
#[path = "cases/attacks_inside.rs"]
mod attacks_inside;
#[path = "cases/bad_config.rs"]
mod bad_config;
#[path = "cases/cgroup_v2.rs"]
mod cgroup_v2;
#[path = "cases/cgroups.rs"]
mod cgroups;
#[path = "cases/checkpoint.rs"]
mod checkpoint;
#[path = "cases/checkpoint_flags.rs"]
mod checkpoint_flags;
#[path = "cases/console.rs"]
mod console;
#[path = "cases/delegation.rs"]
mod delegation;
#[path = "cases/exec.rs"]
mod exec;
#[path = "cases/fallbacks.rs"]
mod fallbacks;
#[path = "cases/faults.rs"]
mod faults;
#[path = "cases/forged_bus.rs"]
mod forged_bus;
#[path = "cases/guarded_host.rs"]
mod guarded_host;
#[path = "cases/hooks.rs"]
mod hooks;
#[path = "cases/host_faults.rs"]
mod host_faults;
#[path = "cases/hot_mounts.rs"]
mod hot_mounts;
#[path = "cases/hung.rs"]
mod hung;
#[path = "cases/in_force.rs"]
mod in_force;
#[path = "cases/lifecycle.rs"]
mod lifecycle;
#[path = "cases/namespaces.rs"]
mod namespaces;
#[path = "cases/network.rs"]
mod network;
#[path = "cases/notify.rs"]
mod notify;
#[path = "cases/process.rs"]
mod process;
#[path = "cases/resctrl.rs"]
mod resctrl;
#[path = "cases/review.rs"]
mod review;
#[path = "cases/rootfs.rs"]
mod rootfs;
#[path = "cases/rootless.rs"]
mod rootless;
#[path = "cases/run.rs"]
mod run;
#[path = "cases/safety.rs"]
mod safety;
#[path = "cases/scheduling.rs"]
mod scheduling;
#[path = "cases/seccomp.rs"]
mod seccomp;
#[path = "cases/systemd.rs"]
mod systemd;
#[path = "cases/systemd_user.rs"]
mod systemd_user;
#[path = "cases/update.rs"]
mod update;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    spec_tests::runner::main(
        spec_tests::runner::RUNTIME,
        Path::new(env!("CARGO_BIN_EXE_probe")),
        &[
            ("lifecycle", lifecycle::CASES),
            ("run", run::CASES),
            ("notify", notify::CASES),
            ("console", console::CASES),
            ("exec", exec::CASES),
            ("process", process::CASES),
            ("scheduling", scheduling::CASES),
            ("network", network::CASES),
            ("resctrl", resctrl::CASES),
            ("annotations", annotations::CASES),
            ("rootfs", rootfs::CASES),
            ("hot_mounts", hot_mounts::CASES),
            ("hung", hung::CASES),
            ("review", review::CASES),
            ("fallbacks", fallbacks::CASES),
            ("hooks", hooks::CASES),
            ("host faults", host_faults::CASES),
            ("cgroups", cgroups::CASES),
            ("cgroup_v2", cgroup_v2::CASES),
            ("delegation", delegation::CASES),
            ("in_force", in_force::CASES),
            ("namespaces", namespaces::CASES),
            ("rootless", rootless::CASES),
            ("seccomp", seccomp::CASES),
            ("faults", faults::CASES),
            ("checkpoint", checkpoint::CASES),
            ("checkpoint flags", checkpoint_flags::CASES),
            ("bad_config", bad_config::CASES),
            ("safety", safety::CASES),
            ("attacks", attacks::CASES),
            ("attacks_inside", attacks_inside::CASES),
            ("guarded_host", guarded_host::CASES),
            ("apparmor", apparmor::CASES),
            ("systemd", systemd::CASES),
            ("systemd user", systemd_user::CASES),
            ("update", update::CASES),
        ],
    )
}
