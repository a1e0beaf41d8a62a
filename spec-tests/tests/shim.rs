//! All cases of the containerd shim, run by [`spec_tests::runner`].

#[path = "shim/bootstrap.rs"]
mod bootstrap;
#[path = "shim/calls.rs"]
mod calls;
#[path = "shim/failures.rs"]
mod failures;
#[path = "shim/ordering.rs"]
mod ordering;
#[path = "shim/stdio.rs"]
mod stdio;
#[path = "shim/survival.rs"]
mod survival;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    spec_tests::runner::main(
        spec_tests::runner::SHIM,
        Path::new(env!("CARGO_BIN_EXE_probe")),
        &[
            ("bootstrap", bootstrap::CASES),
            ("calls", calls::CASES),
            ("failures", failures::CASES),
            ("ordering", ordering::CASES),
            ("stdio", stdio::CASES),
            ("survival", survival::CASES),
        ],
    )
}
