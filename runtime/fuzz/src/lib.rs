//! What must hold for any input. Each function is a fuzz target's body
//! (`fuzz_targets/`), and `cargo test` replays its corpus (`corpus/`).

pub mod mutate;

use std::path::Path;

use rrun::cgroup::hierarchy::Hierarchies;
use rrun::host::Host;
use rrun::plan::cgroup::Manager;
use rrun::plan::report::Report;
use rrun::plan::{Plan, Request};
use rrun::resctrl::Facts;
use rrun::seccomp::interpreter::{Call, answer, verify};
use rrun::seccomp::{Arch, Support, compile, table};
use rrun::spec::{Seccomp, Spec};

/// A profile either is refused with a text that names it, or becomes a
/// program that the kernel takes and that answers every syscall.
///
/// # Panics
/// If it doesn't.
pub fn seccomp(input: &[u8]) {
    let Ok(profile) = serde_json::from_slice::<Seccomp>(input) else {
        return;
    };
    for native in [Arch::X86_64, Arch::Aarch64] {
        let filter = match compile(&profile, native, &Support::default()) {
            Ok(filter) => filter,
            Err(error) => {
                assert!(
                    error.to_string().starts_with("config.json: linux.seccomp"),
                    "{error}"
                );
                continue;
            }
        };
        verify(&filter.program).unwrap_or_else(|refused| panic!("{refused}"));
        assert_eq!(filter.listener.is_some(), filter.notifies);
        let default = filter.summary.default.value();
        for arch in Arch::ALL {
            let call = |number, arg| Call {
                number,
                arch: arch.audit(),
                args: [arg; 6],
            };
            for name in ["read", "clone", "socketcall", "file_setattr"] {
                let Some(number) = table::number(arch, name) else {
                    continue;
                };
                for arg in [0, 1, u64::from(u32::MAX), u64::MAX] {
                    assert!(answer(&filter.program, &call(number, arg)).is_some());
                }
            }
            // No rule speaks of the number -1.
            let answer = answer(&filter.program, &call(u32::MAX, 0)).unwrap();
            assert!(answer == default || answer == 0, "{answer:#x}");
        }
    }
}

/// A config.json either is refused in one line that names it, or becomes a plan
/// that can be printed and whose strings and numbers the kernel can take.
///
/// # Panics
/// If it doesn't.
pub fn plan(input: &[u8]) {
    let refused = |error: &rrun::error::Error| {
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text:?}");
        if error.kind() == rrun::error::Kind::InvalidConfig {
            assert!(text.starts_with("config.json: "), "{text:?}");
        }
    };
    let spec = match Spec::parse(input) {
        Ok(spec) => spec,
        Err(error) => return refused(&error),
    };
    for (number, (mountinfo, manager)) in HOSTS.into_iter().enumerate() {
        let mut hierarchies = Hierarchies::parse(mountinfo, OWN);
        hierarchies.v2_controllers = V2_CONTROLLERS.map(str::to_owned).to_vec();
        let host = Host {
            permitted: 0x1ff_ffff_ffff,
            hierarchies,
            rootless: number % 2 == 1,
            selinux: number % 2 == 0,
            resctrl: (number % 2 == 0).then(|| Facts {
                mount: "/sys/fs/resctrl".into(),
                info: ["L3", "MB", "L3_MON"].map(str::to_owned).to_vec(),
                bandwidth_step: Some(10),
            }),
            ..Host::default()
        };
        let request = Request {
            id: "fuzz",
            bundle: Path::new("/bundle"),
            no_pivot: number % 2 == 1,
            no_new_keyring: false,
            manager,
            listen_fds: 0,
            notify: None,
        };
        match Plan::new(&spec, &request, &host) {
            Ok(plan) => check(&plan),
            Err(error) => refused(&error),
        }
    }
}

/// What every plan promises.
fn check(plan: &Plan) {
    assert!(!plan.process.args.is_empty() && !plan.process.programs.is_empty());
    let sets = &plan.process.capabilities;
    assert_eq!(sets.effective & !sets.permitted, 0);
    assert_eq!(sets.ambient & !(sets.permitted & sets.inheritable), 0);
    for member in &plan.cgroup.members {
        let below = member.directory();
        assert!(below.starts_with("/sys/fs/cgroup"), "{below:?}");
        assert!(
            !below.components().any(|part| part.as_os_str() == ".."),
            "{below:?}"
        );
    }
    for write in &plan.cgroup.writes {
        assert!(
            !write.file.contains('/') && !write.file.is_empty(),
            "{write:?}"
        );
    }
    for group in plan.intel_rdt.iter().flat_map(|rdt| &rdt.groups) {
        let parts: Vec<&str> = group.path.split('/').collect();
        let is_below = parts.len() <= 3 && !parts.contains(&"..") && !parts.contains(&".");
        assert!(is_below, "{group:?}");
    }
    assert!(!Report::of(plan).text().is_empty());
}

/// Where the plan is made for: every kind of hierarchy, and systemd.
const HOSTS: [(&str, Manager); 4] = [
    (UNIFIED, Manager::Cgroupfs),
    (LEGACY, Manager::Cgroupfs),
    (HYBRID, Manager::Cgroupfs),
    (UNIFIED, Manager::Systemd),
];
/// A host with the unified hierarchy alone.
const UNIFIED: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
/// A host with v1 controllers.
const LEGACY: &str = "\
31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
33 30 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
34 30 0:30 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
35 30 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
36 30 0:32 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n";
/// A host with v1 controllers and the unified hierarchy beside them.
const HYBRID: &str = "\
31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
34 30 0:30 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
37 30 0:33 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
38 30 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
/// What the unified hierarchy offers where it is alone.
const V2_CONTROLLERS: [&str; 7] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma"];
/// The caller's own cgroups on all.
const OWN: &str =
    "6:memory:/user\n5:cpu,cpuacct:/\n4:pids:/\n3:devices:/\n2:cpuset:/\n1:blkio:/\n0::/user\n";

#[cfg(test)]
mod corpus {
    /// Every input of the corpus once; there is at least one.
    fn replay(target: &str, check: fn(&[u8])) {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        let mut inputs: Vec<_> = std::fs::read_dir(&corpus)
            .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{} is empty", corpus.display());
        for input in inputs {
            println!("{}", input.display());
            check(&std::fs::read(&input).unwrap());
        }
    }

    #[test]
    fn plan() {
        replay("plan", super::plan);
    }

    #[test]
    fn seccomp() {
        replay("seccomp", super::seccomp);
    }
}
