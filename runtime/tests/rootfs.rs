//! The root filesystem on the real kernel: each case plans a config.json, makes
//! and enters the root in new namespaces, and reports what it finds inside.
//!
//! The harness of cargo runs threads, with which a clone can't be followed by
//! anything but execve; this main runs the cases one after the other. Run it
//! as root, with a word to run only the cases that contain it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a case fails by a panic"
)]

#[path = "rootfs/attacks.rs"]
mod attacks;
#[path = "rootfs/bundle.rs"]
mod bundle;
#[path = "rootfs/mounts.rs"]
mod mounts;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A case: its name and what it does.
type Case = (&'static str, fn());

fn main() {
    // What the cases mount on the host goes with this process.
    rrun::sys::namespace::unshare(CloneFlags::CLONE_NEWNS).expect("these tests run as root");
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let cases: Vec<Case> = [mounts::CASES, attacks::CASES].concat();
    let (mut passed, mut failed) = (0, 0);
    for (name, case) in cases {
        if !name.contains(&wanted) {
            continue;
        }
        match catch_unwind(AssertUnwindSafe(case)) {
            Ok(()) => passed += 1,
            Err(_) => {
                println!("FAILED: {name}");
                failed += 1;
            }
        }
    }
    println!("rootfs: {passed} passed, {failed} failed");
    assert_eq!(failed, 0);
    assert_ne!(passed, 0, "no case contains {wanted:?}");
}
