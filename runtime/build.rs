//! Tells `--version` the commit: from the environment (`RRUN_COMMIT`), else
//! from git where the source is a checkout, else `unknown`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=RRUN_COMMIT");
    println!("cargo::rerun-if-changed=../.git/HEAD");
    let commit = std::env::var("RRUN_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty())
        .or_else(from_git)
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=RRUN_COMMIT={commit}");
}

/// What git calls the checked-out commit, if there is git and a checkout.
fn from_git() -> Option<String> {
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let commit = text.trim();
    (output.status.success() && !commit.is_empty()).then(|| commit.to_owned())
}
