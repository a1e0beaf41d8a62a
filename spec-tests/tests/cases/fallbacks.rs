//! An older kernel: that its missing calls are asked for, and the way without.

use std::path::Path;

use nix::mount::{MsFlags, mount, umount};
use spec_tests::runtime::{text, wait_until};
use spec_tests::{Bundle, Case, Needs, Test, sys};

pub(crate) const CASES: &[Case] = &[
    Case::kernel(
        "what the kernel lacks is asked for, and done without",
        |t| {
            if t.without.is_empty() {
                t.does_not_apply("only with WITHOUT=CALL,...");
            }
            let log = t.directory.join("calls");
            let answers: Vec<sys::Answer> =
                t.without.iter().map(|call| sys::answer(call)).collect();
            let calls: Vec<&str> = answers.iter().map(|answer| answer.call).collect();
            let traced = |args: &[&str]| {
                let command = t.command(args);
                let mut traced = std::process::Command::new("strace");
                // It stays as long as anything that it traces.
                traced.args(["-f", "-A", "-o", text(&log), "-e"]);
                traced.arg(format!("trace={}", calls.join(",")));
                traced.arg(command.get_program()).args(command.get_args());
                t.filter(&mut traced);
                t.spawn(&mut traced).wait().ok();
            };
            let bundle = Bundle::new(t)
                .probe(&["true"])
                .shell_hook("createRuntime", "true");
            traced(&["run", "-b", text(&bundle.path), &bundle.id]);
            let container = t.start(&Bundle::new(t).probe(&["pause"]));
            traced(&["exec", &container.id, "/bin/probe", "true"]);
            traced(&["kill", &container.id, "KILL"]);
            traced(&["delete", "--force", &container.id]);
            let calls = std::fs::read_to_string(&log).expect("calls");
            let missing = |call: &str| t.without.iter().any(|one| one == call);
            for call in &t.without {
                // Nobody makes a mount that could be attached.
                if call == "move_mount" && missing("open_tree") && missing("fsopen") {
                    continue;
                }
                // Nor is there a pidfd to be used.
                let by_pidfd = ["waitid_pidfd", "setns_pidfd"].contains(&call.as_str());
                if by_pidfd && missing("clone3") && missing("pidfd_open") {
                    continue;
                }
                // It is told of a detached clone of the binary.
                if call == "prctl_set_mm" && (missing("open_tree") || missing("mount_setattr")) {
                    continue;
                }
                let sys::Answer {
                    call: name,
                    with,
                    errno,
                } = sys::answer(call);
                let refused = |line: &&str| {
                    line.contains(name) && line.contains(with) && line.contains(errno)
                };
                assert!(
                    calls.lines().any(|line| refused(&line)),
                    "{call} was never refused:\n{calls}"
                );
            }
        },
    ),
    Case::kernel(
        "a cgroup without cgroup.kill is frozen, killed and thawed",
        |t| {
            if t.view != "v2" {
                t.does_not_apply("elsewhere the v1 freezer serves");
            }
            for by in ["kill --all", "delete --force"] {
                for pause in [false, true] {
                    end_without_cgroup_kill(t, by, pause);
                }
            }
        },
    )
    .needs(Needs::V2)
    .except(&[("runc", "1.1 knows no cgroup.kill"), ("crun", "no oracle")]),
];

/// Ends a container of several processes whose cgroup has no cgroup.kill, paused
/// before or not.
fn end_without_cgroup_kill(t: &Test, by: &str, pause: bool) {
    let bundle = Bundle::new(t).probe(&["pause"]).without_namespace("pid");
    let container = t.start(&bundle);
    for _ in 0..3 {
        container.probe(&["--detach"], &["pause"]).ok();
    }
    let cgroup = t.cgroup("", &container.id);
    let procs = cgroup.join("cgroup.procs");
    let pids = || -> Vec<i32> {
        let text = std::fs::read_to_string(&procs).unwrap_or_default();
        text.lines()
            .map(|line| line.parse().expect("a pid"))
            .collect()
    };
    let before = pids();
    assert_eq!(before.len(), 4);
    if pause {
        t.call(&["pause", &container.id]).ok();
    }
    // The file is there on any kernel that runs this: in its place comes one that
    // nobody can open for writing.
    let kill = cgroup.join("cgroup.kill");
    let none: Option<&str> = None;
    let version = Some("/proc/version");
    mount(version, &kill, none, MsFlags::MS_BIND, none).expect("bind");
    assert!(std::fs::write(&kill, "1").is_err());
    match by {
        "kill --all" => {
            t.call(&["kill", "--all", &container.id, "KILL"]).ok();
            wait_until("all are dead", || pids().is_empty());
            umount(&kill).expect("umount");
        }
        // The cgroup goes with the mount on its file.
        _ => {
            t.call(&["delete", "--force", &container.id]).ok();
            assert!(
                !cgroup.exists(),
                "{by}, paused: {pause}: the cgroup is left"
            );
            // Who is reaped a moment later was dead, or the cgroup would be there.
            wait_until("the end of all", || {
                let mut all = before.iter();
                !all.any(|pid| Path::new(&format!("/proc/{pid}")).exists())
            });
            t.call(&["state", &container.id])
                .fails(1, &["container does not exist"]);
        }
    }
}
