//! Kubernetes' interface: a client of the CRI drives containerd, as a kubelet
//! would, and every case runs under three handlers:
//!
//! | handler | shim | how it is named |
//! |---|---|---|
//! | `runc` | the Go shim with runc: the oracle | `io.containerd.runc.v2` |
//! | `rrun` | ours | `io.containerd.rrun.v2` |
//! | `dropin` | ours | `io.containerd.runc.v2`, found in the place of the Go shim |
//!
//! For the last one containerd is started again with another PATH: it sends its
//! typed options to that name only. (`runtime_path` says the same without PATH,
//! but containerd before 1.6.21 forgets it on the way: containerd #8207.)
//!
//! `hack/engines/run cri` makes the images, the network's configuration and
//! containerd's, and starts this program in namespaces of its own. Without it
//! the program has nothing to talk to. A word on the command line selects the
//! cases whose name contains it.

mod messages {
    #![allow(
        clippy::all,
        clippy::pedantic,
        missing_docs,
        unreachable_pub,
        rust_2018_idioms,
        unused_attributes,
        reason = "generated from proto/cri.proto"
    )]
    include!(concat!(env!("OUT_DIR"), "/cri/mod.rs"));
    pub(crate) use cri::*;
}
#[path = "cri/cases.rs"]
mod cases;
#[path = "cri/containerd.rs"]
mod containerd;
#[path = "cri/grpc.rs"]
mod grpc;
#[path = "cri/pod.rs"]
mod pod;
#[path = "cri/stream.rs"]
mod stream;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use cases::CASES;
use containerd::Containerd;
use pod::Session;

/// A case, by the sentence that it shows.
type Case = (&'static str, fn(&mut Session));

const HANDLERS: [&str; 3] = ["runc", "rrun", "dropin"];

fn main() -> ExitCode {
    let Some(work) = std::env::var_os("CRI_WORK").map(PathBuf::from) else {
        eprintln!("cri: no CRI_WORK: `hack/engines/run cri` starts this program");
        return ExitCode::FAILURE;
    };
    let word = std::env::args().nth(1).unwrap_or_default();
    let containerd = Containerd::start(&work);
    for (archive, image) in [("bb.tar", pod::IMAGE), ("pause.tar", pod::PAUSE)] {
        containerd.import(&work.join(archive), image);
    }
    let mut session = Session::new(containerd, work);
    let (mut passed, mut failed) = (0, Vec::new());
    for handler in HANDLERS {
        for (name, case) in CASES.iter().filter(|(name, _)| name.contains(&word)) {
            session.begin(handler);
            let begin = Instant::now();
            let ran = catch_unwind(AssertUnwindSafe(|| case(&mut session)));
            let mut problems = session.end();
            if ran.is_err() {
                problems.insert(0, "it panicked".to_owned());
            }
            let took = begin.elapsed().as_millis();
            if problems.is_empty() {
                passed += 1;
                println!("ok   {handler}: {name} ({took} ms)");
            } else {
                failed.push(format!("{handler}: {name}"));
                println!("FAIL {handler}: {name}: {}", problems.join("; "));
            }
        }
    }
    for name in &failed {
        println!("failed: {name}");
    }
    session.stop();
    println!("CRI: {passed} passed, {} failed", failed.len());
    if failed.is_empty() && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
