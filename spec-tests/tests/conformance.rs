//! The clauses of runtime-spec, and the cases that prove them on any runtime:
//! `RUNTIME=runc cargo test -p spec-tests --test conformance`. The clauses are
//! in `conformance/pages`; [`spec_tests::clause`] tells how they are written.
//!
//! Beside what every target of [`spec_tests::runner`] does:
//!
//! | argument | what it does |
//! |---|---|
//! | `--check` | only the list is checked: each clause has a case or a reason |
//! | `--clauses` | prints each clause with its cases |
//! | `--table FILE...` | prints the table of the results that `RESULTS=FILE` wrote |

#[path = "conformance/attempt.rs"]
mod attempt;
#[path = "conformance/cgroups.rs"]
mod cgroups;
#[path = "conformance/config.rs"]
mod config;
#[path = "conformance/config_hooks.rs"]
mod config_hooks;
#[path = "conformance/config_linux.rs"]
mod config_linux;
#[path = "conformance/config_mounts.rs"]
mod config_mounts;
#[path = "conformance/engines.rs"]
mod engines;
#[path = "conformance/features.rs"]
mod features;
#[path = "conformance/rdt.rs"]
mod rdt;
#[path = "conformance/runtime.rs"]
mod runtime;
#[path = "conformance/seccomp.rs"]
mod seccomp;
#[path = "conformance/table.rs"]
mod table;

// By its name in the target `spec`, where a case of checkpoints stands on it.
#[path = "cases/notify.rs"]
mod notify;
// The target `spec` has cases of the engines' contracts already.
#[path = "cases/cgroups.rs"]
mod spec_cgroups;
#[path = "cases/checkpoint.rs"]
mod spec_checkpoint;
#[path = "cases/console.rs"]
mod spec_console;
#[path = "cases/exec.rs"]
mod spec_exec;
#[path = "cases/faults.rs"]
mod spec_faults;
#[path = "cases/host_faults.rs"]
mod spec_host_faults;
#[path = "cases/lifecycle.rs"]
mod spec_lifecycle;
#[path = "cases/run.rs"]
mod spec_run;

use std::path::Path;
use std::process::ExitCode;

use spec_tests::Case;
use spec_tests::clause::{self, Page};
use spec_tests::runner::{self, RUNTIME};

const GROUPS: &[(&str, &[Case])] = &[
    ("config", config::CASES),
    ("mounts", config_mounts::CASES),
    ("hooks", config_hooks::CASES),
    ("linux", config_linux::CASES),
    ("rdt", rdt::CASES),
    ("cgroup", cgroups::CASES),
    ("seccomp", seccomp::CASES),
    ("runtime", runtime::CASES),
    ("features", features::CASES),
    ("engines", engines::CASES),
];

/// Groups of the target `spec`; only the cases that a clause names are run.
const OTHERS: &[(&str, &[Case])] = &[
    ("lifecycle", spec_lifecycle::CASES),
    ("run", spec_run::CASES),
    ("exec", spec_exec::CASES),
    ("console", spec_console::CASES),
    ("cgroups", spec_cgroups::CASES),
    ("host faults", spec_host_faults::CASES),
    ("faults", spec_faults::CASES),
    ("checkpoint", spec_checkpoint::CASES),
    ("notify", notify::CASES),
];

fn main() -> ExitCode {
    let pages = pages();
    let mut cases = runner::named(GROUPS);
    let named = |name: &String| {
        pages
            .iter()
            .flat_map(|page| &page.clauses)
            .any(|clause| clause.by.contains(name))
    };
    cases.extend(
        runner::named(OTHERS)
            .into_iter()
            .filter(|(name, _)| named(name)),
    );
    let wrong = clause::check(&pages, &cases);
    for fault in &wrong {
        eprintln!("the list of clauses: {fault}");
    }
    if !wrong.is_empty() {
        return ExitCode::FAILURE;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let count = cases.len();
    if is_peer() {
        cases.retain(|(_, case)| !case.clauses.is_empty());
    }
    match args.first().map(String::as_str) {
        Some("--check") => {
            let clauses: usize = pages.iter().map(|page| page.clauses.len()).sum();
            println!("{clauses} clauses, each with a case or a reason; {count} cases",);
            return ExitCode::SUCCESS;
        }
        Some("--clauses") => {
            print!("{}", table::clauses(&pages, &cases));
            return ExitCode::SUCCESS;
        }
        Some("--table") => {
            print!("{}", table::of_files(&pages, &cases, &args[1..]));
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let whole = args.iter().all(|arg| arg.starts_with('-'));
    match runner::report(
        RUNTIME,
        Path::new(env!("CARGO_BIN_EXE_probe")),
        cases.clone(),
    ) {
        Err(code) => code,
        Ok(report) => {
            if let Some(path) = std::env::var_os("RESULTS").filter(|path| !path.is_empty()) {
                std::fs::write(path, table::written(&report).to_string()).expect("RESULTS");
            } else if whole {
                print!(
                    "\n{}",
                    table::of(&pages, &cases, &[table::written(&report)])
                );
            }
            if report.is_good() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Is the runtime a peer with exceptions of its own? The cases of the target
/// `spec` look closer than a clause says, and were made for our own runtime:
/// on a peer they are run with `FULL=1`.
fn is_peer() -> bool {
    let runtime = std::env::var("RUNTIME").unwrap_or_default();
    let name = runtime.rsplit('/').next().unwrap_or_default();
    let full = std::env::var("FULL").is_ok_and(|value| value == "1");
    !full && RUNTIME.peers.iter().any(|(peer, _)| *peer == name)
}

fn pages() -> Vec<Page> {
    [
        ("config", include_str!("conformance/pages/config.txt")),
        (
            "config-linux",
            include_str!("conformance/pages/config-linux.txt"),
        ),
        ("runtime", include_str!("conformance/pages/runtime.txt")),
        (
            "runtime-linux",
            include_str!("conformance/pages/runtime-linux.txt"),
        ),
        ("features", include_str!("conformance/pages/features.txt")),
        ("engines", include_str!("conformance/pages/engines.txt")),
    ]
    .into_iter()
    .map(|(name, text)| Page::parse(name, text))
    .collect()
}
