//! Black-box tests of an OCI runtime, by its command line and by what a
//! container sees. No other crate of the workspace is imported, so the same
//! cases run on any runtime: `RUNTIME=runc cargo test -p spec-tests`.
//!
//! A [`case`] is a name (what it shows), an oracle (who says that it is so)
//! and a closure. The [`runner`] starts each in a process of its own, in the
//! [`view`] of cgroups that `VIEW=hybrid|v1|v2` names, kills it when it
//! hangs, and fails it when it leaves something behind ([`leftovers`]).
//! A case makes a [`bundle`], drives the [`runtime`] on it and reads what the
//! probe, a static program of ours inside the container, prints as JSON.
//!
//! Environment:
//!
//! | name | meaning |
//! |---|---|
//! | `RUNTIME` | the program under test; default the workspace's own build |
//! | `RUNTIME_ROOT` | the directory for its `--root`; default one for each case |
//! | `VIEW` | `hybrid` (the machine as it is, the default), `v1` or `v2` |
//! | `FULL=1` | all rounds of the long loops |
//! | `SAMPLE=N` | of the cases that need nothing of the machine only N, picked by `SEED` |
//! | `SEED` | of the random orders; printed, so that a run can be repeated |
//! | `EXCEPTIONS=1` | runs the exceptions of this runtime too |
//! | `WITHOUT=CALL,...` | these system calls answer `ENOSYS` ([`fallbacks`]) |
//! | `JOBS` | cases at once, default 2 |
//!
//! A second target, `--test conformance`, has the clauses of runtime-spec as a
//! list ([`clause`]) and runs on any runtime: docs/conformance.md.
//!
//! A third one, `cargo test -p spec-tests --test shim`, does the same with
//! a containerd shim: [`shim`] is a containerd that is made for it. `SHIM`
//! names the program under test (`SHIM=containerd-shim-runc-v2` for the Go
//! shim, the oracle), `RUNTIME` means nothing there.

pub mod bundle;
pub mod case;
pub mod clause;
pub mod fallbacks;
pub mod hung;
pub mod leftovers;
pub mod resctrl;
pub mod runner;
pub mod runtime;
pub mod shim;
pub mod sys;
pub mod terminal;
pub mod trace;
pub mod user;
pub mod view;
pub mod watch;

pub use bundle::Bundle;
pub use case::{Case, Needs, Oracle, Test};
pub use runtime::{Container, Outcome};
