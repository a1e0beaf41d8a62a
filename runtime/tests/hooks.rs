//! Hooks against real programs.
//!
//! One test, so that nothing else runs in this process while it forks: a fork
//! beside another thread could copy a lock that nobody opens again.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rrun::hooks::{Output, Place, always_wanted, run_all};
use rrun::plan::hooks::Hook;

#[test]
fn hooks_run_as_their_contract_says() {
    a_hook_gets_the_state_and_its_failure_says_what_it_printed();
    a_hook_out_of_time_is_killed_with_what_it_started();
    a_timeout_beyond_the_end_of_time_is_none();
    a_missing_hook_is_an_error_that_names_it();
    a_hook_that_nobody_wants_any_more_is_killed();
}

fn shell(script: &str, timeout: Option<u64>) -> Hook {
    let text = |text: &str| CString::new(text).unwrap();
    Hook {
        path: text("/bin/sh"),
        args: vec![text("sh"), text("-c"), text(script)],
        env: None,
        timeout: timeout.map(Duration::from_secs),
    }
}

fn outcome(script: &str, timeout: Option<u64>) -> String {
    let hooks = [shell(script, timeout)];
    let env = [c"FROM=outside".to_owned()];
    match run_all(
        "poststart",
        &hooks,
        br#"{"id":"web"}"#,
        Place {
            directory: None,
            env: &env,
            output: &Output::default(),
        },
        &always_wanted,
    ) {
        Ok(()) => "ok".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn a_hook_gets_the_state_and_its_failure_says_what_it_printed() {
    let prefix = "poststart hook #0 \"/bin/sh\": ";
    for (script, expected) in [
        ("test \"$(cat)\" = '{\"id\":\"web\"}'", "ok".to_owned()),
        ("test \"$FROM\" = outside", "ok".to_owned()),
        ("exec <&-; sleep 0.05", "ok".to_owned()),
        (
            "echo no; echo way >&2; exit 3",
            format!("{prefix}exit status 3, it printed: no; way"),
        ),
        ("kill -9 $$", format!("{prefix}killed by SIGKILL")),
        ("yes | head -c 1000000; exit 0", "ok".to_owned()),
    ] {
        assert_eq!(outcome(script, Some(20)), expected, "{script}");
    }
}

fn a_hook_out_of_time_is_killed_with_what_it_started() {
    let marker = std::env::temp_dir().join(format!("rrun-hook-{}", std::process::id()));
    let script = format!("sleep 1000 & echo $! >{}; sleep 60", marker.display());
    // The file is there long before, also on a machine under load.
    assert_eq!(
        outcome(&script, Some(5)),
        "poststart hook #0 \"/bin/sh\": timed out after 5 s"
    );
    let child = fs::read_to_string(&marker).unwrap();
    fs::remove_file(&marker).unwrap();
    let stat = format!("/proc/{}/stat", child.trim());
    let end = Instant::now() + Duration::from_secs(20);
    // Killed, it may be a zombie until its new parent has reaped it.
    while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < end, "the hook's child outlived it");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn a_timeout_beyond_the_end_of_time_is_none() {
    assert_eq!(outcome("exit 0", Some(u64::MAX)), "ok");
}

fn a_missing_hook_is_an_error_that_names_it() {
    let mut hook = shell("", None);
    hook.path = c"/no/such/hook".to_owned();
    assert_eq!(
        run_all(
            "prestart",
            &[hook],
            b"{}",
            Place::new(Path::new("/"), &Output::default()),
            &always_wanted
        )
        .unwrap_err()
        .to_string(),
        "prestart hook #0 \"/no/such/hook\": execve(\"/no/such/hook\"): no such file or directory"
    );
}

fn a_hook_that_nobody_wants_any_more_is_killed() {
    assert_eq!(
        run_all(
            "prestart",
            &[shell("exec sleep 1000", None)],
            b"{}",
            Place::new(Path::new("/"), &Output::default()),
            &|| true
        )
        .unwrap_err()
        .to_string(),
        "prestart hook #0 \"/bin/sh\": killed, since the container is deleted by force"
    );
}
