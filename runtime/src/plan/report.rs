//! A plan as words: what would be done, in order.
//!
//! `rrun plan` prints it as text, or as JSON for programs. Each step is one
//! line of the field's words, made from the same data that parent and child
//! act on, so that the report can't promise what is not done.

use std::fmt::Write as _;

use serde::Serialize;

use super::capabilities::names_of;
use super::hooks::Hook;
use super::intel_rdt::{IfThere, IntelRdt, Origin};
use super::mounts::Entry;
use super::{Plan, cgroup};
use crate::seccomp::Filter;

/// What would be done for a bundle, and what would not.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The bundle, absolute.
    pub bundle: String,
    /// The steps, by the part of the work they belong to, in order.
    pub sections: Vec<Section>,
    /// What was asked for and is left out, with the reason.
    pub ignored: Vec<String>,
    /// What keeps the container from being made, with the field.
    pub refused: Vec<String>,
}

/// Steps that belong together.
#[derive(Debug, Serialize)]
pub struct Section {
    /// What they are about.
    pub name: &'static str,
    /// A line each.
    pub steps: Vec<String>,
}

impl Report {
    /// The report of a plan.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let sections = [
            ("cgroup", cgroup_steps(&plan.cgroup)),
            ("resctrl", plan.intel_rdt.iter().flat_map(groups).collect()),
            ("namespaces", namespaces(plan)),
            ("session", session(plan)),
            ("root filesystem", root(plan)),
            ("hooks before pivot", hooks_before(plan)),
            ("pivot", vec![enter(plan)]),
            ("inside", inside(plan)),
            ("process", process(plan)),
            ("seccomp", plan.filter.iter().flat_map(filter).collect()),
            ("start", start(plan)),
        ];
        let mut ignored = plan.warnings.clone();
        ignored.extend(plan.filter.iter().filter_map(unknown_syscalls));
        Self {
            bundle: plan.bundle.to_string_lossy().into_owned(),
            sections: sections
                .into_iter()
                .filter(|(_, steps)| !steps.is_empty())
                .map(|(name, steps)| Section { name, steps })
                .collect(),
            ignored,
            refused: Vec::new(),
        }
    }

    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("plan for {}\n", self.bundle);
        for section in &self.sections {
            let _ = writeln!(text, "\n{}", section.name);
            for step in &section.steps {
                let _ = writeln!(text, "  {step}");
            }
        }
        for (title, lines) in [("ignored", &self.ignored), ("refused", &self.refused)] {
            if !lines.is_empty() {
                let _ = writeln!(text, "\n{title}");
                for line in lines {
                    let _ = writeln!(text, "  {line}");
                }
            }
        }
        text
    }
}

fn cgroup_steps(plan: &cgroup::CgroupPlan) -> Vec<String> {
    if plan.manager == cgroup::Manager::Disabled {
        return vec!["stay in the caller's cgroup, without limits".to_owned()];
    }
    let unit = plan.unit.as_ref();
    let verb = |member: &cgroup::Member| match unit {
        Some(unit) if member.directory() == member.mount.join(&unit.path) => "join",
        _ => "make",
    };
    let mut steps: Vec<String> = unit
        .map(|unit| format!("ask systemd for the unit {}", unit.name.unit))
        .into_iter()
        .collect();
    steps.extend(plan.members.iter().map(|member| {
        let directory = member.directory();
        format!("{} {}", verb(member), directory.display())
    }));
    let homes = plan.members.iter().filter(|member| member.home.is_some());
    steps.extend(homes.map(|member| {
        let place = member.place();
        format!("make {}, which has the processes", place.display())
    }));
    if let Some(owner) = plan.owner {
        let group = owner
            .gid
            .map_or(String::new(), |gid| format!(", gid {gid}"));
        steps.push(format!("give it to uid {}{group}", owner.uid));
    }
    let controller =
        |write: &cgroup::Write| write.file.split('.').next() == Some(&write.controller);
    steps.extend(plan.writes.iter().map(|write| {
        let of = if controller(write) {
            String::new()
        } else {
            format!(" ({})", write.controller)
        };
        format!("write {} = {}{of}", write.file, write.value.trim_end())
    }));
    for rule in plan.devices.iter().flatten() {
        steps.push(format!("{rule}"));
    }
    steps
}

fn groups(plan: &IntelRdt) -> Vec<String> {
    let mount = plan.mount.display();
    let mut steps: Vec<String> = plan
        .groups
        .iter()
        .map(|group| {
            let path = &group.path;
            match group.origin {
                Origin::Default => format!("join {mount}"),
                Origin::Prepared => format!("join {mount}/{path}, which must be there"),
                Origin::Shared => format!("make or join {mount}/{path}, and leave it"),
                Origin::Own => format!("make or join {mount}/{path}, and remove it if it was made"),
                Origin::New => format!("make and join {mount}/{path}, and remove it"),
            }
        })
        .collect();
    for write in &plan.writes {
        for line in write.lines.lines() {
            let step = format!("write schemata = {line}");
            steps.push(match write.if_there {
                IfThere::Write => step,
                IfThere::Compare => format!("{step}, or if the group is there it must be so"),
            });
        }
    }
    steps
}

fn namespaces(plan: &Plan) -> Vec<String> {
    let namespaces = &plan.namespaces;
    let mut steps: Vec<String> = namespaces
        .join
        .iter()
        .map(|join| format!("join {} of {}", join.kind.name(), join.path.display()))
        .collect();
    steps.extend(
        namespaces
            .new
            .iter()
            .map(|kind| format!("new {}", kind.name())),
    );
    if let Some(maps) = &namespaces.id_maps {
        for (kind, mappings) in [("uid", &maps.uids), ("gid", &maps.gids)] {
            steps.extend(mappings.iter().map(|mapping| {
                let (inside, outside) = (mapping.container_id, mapping.host_id);
                format!(
                    "map {kind} {inside} to {outside} on the host, {} ids",
                    mapping.size
                )
            }));
        }
    }
    steps.extend(namespaces.time_offsets.iter().flat_map(|offsets| {
        offsets
            .lines()
            .map(|line| format!("set clock offset {line}"))
    }));
    steps
}

fn session(plan: &Plan) -> Vec<String> {
    let mut steps = Vec::new();
    steps.extend(
        plan.keyring
            .iter()
            .map(|name| format!("join session keyring {name:?}")),
    );
    if plan.namespaces.creates(crate::spec::NamespaceType::Network) {
        steps.push("bring up the loopback device".to_owned());
    }
    steps.extend(plan.net_devices.iter().map(|device| {
        format!(
            "move network device {:?}, as {:?}",
            device.host, device.name
        )
    }));
    steps.extend(
        plan.hostname
            .iter()
            .map(|name| format!("set hostname {name:?}")),
    );
    steps.extend(
        plan.domainname
            .iter()
            .map(|name| format!("set domainname {name:?}")),
    );
    steps
}

fn root(plan: &Plan) -> Vec<String> {
    let propagation = format!("make all mounts {}", plan.rootfs.propagation);
    std::iter::once(propagation)
        .chain(plan.rootfs.ops.iter().map(ToString::to_string))
        .collect()
}

fn enter(plan: &Plan) -> String {
    let how = match plan.rootfs.entry {
        Entry::Pivot => "pivot_root",
        Entry::Move => "moving it to the top",
        Entry::Chroot => "chroot, without a mount namespace",
    };
    format!("enter {} by {how}", plan.rootfs.path.display())
}

fn hook_lines(moment: &str, hooks: &[Hook]) -> Vec<String> {
    let line = |hook: &Hook| {
        let args: Vec<_> = hook.args.iter().map(|arg| arg.to_string_lossy()).collect();
        let limit = hook
            .timeout
            .map_or(String::new(), |limit| format!(", {} s", limit.as_secs()));
        format!(
            "{moment}: {} [{}]{limit}",
            hook.path.to_string_lossy(),
            args.join(" ")
        )
    };
    hooks.iter().map(line).collect()
}

fn hooks_before(plan: &Plan) -> Vec<String> {
    let hooks = &plan.hooks;
    [
        hook_lines("prestart", &hooks.prestart),
        hook_lines("createRuntime", &hooks.create_runtime),
        hook_lines("createContainer", &hooks.create_container),
    ]
    .concat()
}

fn inside(plan: &Plan) -> Vec<String> {
    let sysctls = plan.rootfs.sysctls.iter();
    let mut steps: Vec<String> = sysctls
        .map(|(path, value)| format!("write /proc/sys/{} = {value}", path.display()))
        .collect();
    steps.extend(plan.rootfs.finish.iter().map(ToString::to_string));
    steps
}

fn process(plan: &Plan) -> Vec<String> {
    let process = &plan.process;
    let mut steps = Vec::new();
    if process.terminal.is_some() {
        steps.push("make a terminal".to_owned());
    }
    steps.extend(
        process
            .apparmor_profile
            .iter()
            .map(|name| format!("AppArmor profile {name:?}")),
    );
    steps.extend(
        process
            .selinux_label
            .iter()
            .map(|label| format!("SELinux label {label:?}")),
    );
    steps.extend(scheduling(plan));
    let sets = &process.capabilities;
    for (name, set) in [
        ("bounding", sets.bounding),
        ("permitted", sets.permitted),
        ("effective", sets.effective),
        ("inheritable", sets.inheritable),
        ("ambient", sets.ambient),
    ] {
        let names = names_of(set);
        let names = if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(" ")
        };
        steps.push(format!("{name} capabilities: {names}"));
    }
    steps.push(format!(
        "uid {}, gid {}, groups {:?}",
        process.uid, process.gid, process.groups
    ));
    steps.push(format!(
        "umask {:04o}, working directory {:?}",
        process.umask, process.cwd
    ));
    steps.extend(
        process
            .oom_score_adj
            .iter()
            .map(|score| format!("oom_score_adj {score}")),
    );
    steps.extend(
        process
            .rlimits
            .iter()
            .map(|limit| format!("{} soft {} hard {}", limit.name, limit.soft, limit.hard)),
    );
    if process.no_new_privileges {
        steps.push("no_new_privs".to_owned());
    }
    steps.extend(
        plan.personality
            .iter()
            .map(|domain| format!("personality {domain:#x}")),
    );
    steps
}

fn scheduling(plan: &Plan) -> Vec<String> {
    let planned = &plan.process.scheduling;
    let scheduler = planned.scheduler.iter().map(|scheduler| {
        let mut text = format!("scheduler {}, nice {}", scheduler.name, scheduler.nice);
        for (name, value) in [
            ("priority", u64::from(scheduler.priority)),
            ("flags", scheduler.flags),
            ("runtime", scheduler.runtime),
            ("deadline", scheduler.deadline),
            ("period", scheduler.period),
        ] {
            if value != 0 {
                let _ = write!(text, ", {name} {value}");
            }
        }
        text
    });
    let io_priority = planned.io_priority.iter().map(|priority| {
        let within = priority.value & 0x1fff;
        format!("I/O priority {} {within}", priority.name)
    });
    let policy = plan.memory_policy.iter().map(|policy| {
        let nodes = policy.nodes.as_ref().map_or("none", |nodes| &nodes.text);
        format!(
            "memory policy {} ({:#x}), nodes {nodes}",
            policy.name, policy.mode
        )
    });
    scheduler.chain(io_priority).chain(policy).collect()
}

fn unknown_syscalls(filter: &Filter) -> Option<String> {
    let first = filter.unknown.first()?;
    Some(format!(
        "linux.seccomp.syscalls: {} unknown syscall names are ignored, {first:?} is the first",
        filter.unknown.len()
    ))
}

fn filter(filter: &Filter) -> Vec<String> {
    let summary = &filter.summary;
    let names: Vec<_> = summary
        .architectures
        .iter()
        .map(|arch| arch.name())
        .collect();
    let mut steps = vec![
        format!("architectures: {}", names.join(" ")),
        format!("{} by default", summary.default),
    ];
    steps.extend(
        summary
            .unconditional
            .iter()
            .map(|(action, count)| format!("{action}: {count} syscalls")),
    );
    steps.push(format!(
        "by their arguments: {} syscalls",
        summary.conditional
    ));
    steps.push(format!(
        "{} instructions, flags {:#x}",
        summary.instructions, filter.flags
    ));
    if let Some(listener) = &filter.listener {
        steps.push(format!("hand the listener to {}", listener.path.display()));
    }
    steps
}

fn start(plan: &Plan) -> Vec<String> {
    let args: Vec<_> = plan
        .process
        .args
        .iter()
        .map(|arg| format!("{arg:?}"))
        .collect();
    let mut steps = hook_lines("startContainer", &plan.hooks.start_container);
    steps.push(format!("execute {}", args.join(" ")));
    steps.extend(hook_lines("poststart", &plan.hooks.poststart));
    steps.extend(hook_lines("poststop, after delete", &plan.hooks.poststop));
    steps
}
