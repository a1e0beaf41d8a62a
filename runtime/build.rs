//! Tells `--version` the commit: from the environment (`RRUN_COMMIT`), else
//! from git where the source is a checkout, else `unknown`.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=RRUN_COMMIT");
    // Each commit moves it. A debug build may name an older commit: it would
    // else be built anew after each.
    let history = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    match history {
        Some(file) if is_release() && Path::new(&file).exists() => {
            println!("cargo::rerun-if-changed={file}");
        }
        _ => println!("cargo::rerun-if-changed=build.rs"),
    }
    let commit = env::var("RRUN_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty())
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=RRUN_COMMIT={commit}");
}

fn is_release() -> bool {
    env::var("PROFILE").is_ok_and(|profile| profile == "release")
}

/// What git answers, if there is git and the source is a checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}
