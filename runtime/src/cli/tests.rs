//! Command lines as engines and people write them, and what is read in them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::log::{LogFormat, LogLevel};

/// Parses the words of `line` behind `rrun`.
fn parsed(line: &str) -> Invocation {
    let words = line.split_ascii_whitespace();
    let argv: Vec<OsString> = ["rrun"].into_iter().chain(words).map(Into::into).collect();
    match parse(&argv) {
        Ok(Parsed::Invocation(invocation)) => *invocation,
        other => panic!("{line}: {other:?}"),
    }
}

/// The error of `line`, with its hint on a second line.
fn refused(line: &str) -> String {
    let words = line.split_ascii_whitespace();
    let argv: Vec<OsString> = ["rrun"].into_iter().chain(words).map(Into::into).collect();
    let misread = parse(&argv).expect_err(line);
    assert_eq!(misread.error.kind(), Kind::Usage, "{line}");
    misread.error.to_string()
}

fn path(text: &str) -> Option<PathBuf> {
    Some(PathBuf::from(text))
}

/// containerd's go-runc and the shims around it (go-runc, runc.go).
#[test]
fn go_runc() {
    let line = "--root /run/containerd/runc/k8s.io --log /b/log.json --log-format json \
                --systemd-cgroup create --bundle /b --pid-file /b/init.pid \
                --console-socket /tmp/pty.sock --pidfd-socket /tmp/pidfd.sock \
                --no-pivot --no-new-keyring --preserve-fds 2 web";
    let Invocation { global, command } = parsed(line);
    assert_eq!(global.root, path("/run/containerd/runc/k8s.io"));
    assert_eq!(global.log, path("/b/log.json"));
    assert_eq!(global.log_format, LogFormat::Json);
    assert_eq!(global.cgroup_manager(), CgroupManager::Systemd);
    let Command::Create(create) = command else {
        panic!("{command:?}")
    };
    assert_eq!(create.id.as_str(), "web");
    assert_eq!(create.new.bundle(), Path::new("/b"));
    assert_eq!(create.new.pid_file, path("/b/init.pid"));
    assert_eq!(create.new.console_socket, path("/tmp/pty.sock"));
    assert_eq!(create.new.pidfd_socket, path("/tmp/pidfd.sock"));
    assert!(create.new.no_pivot && create.new.no_new_keyring);
    assert_eq!(create.new.preserve_fds, 2);

    let rootless = |line| parsed(line).global.rootless;
    assert_eq!(rootless("--rootless=true state web"), Rootless::Yes);
    assert_eq!(rootless("--rootless=false state web"), Rootless::No);
    assert_eq!(rootless("state web"), Rootless::Auto);
    assert_eq!(
        parsed("--criu /usr/sbin/criu --debug start web")
            .global
            .log_level(),
        LogLevel::Debug
    );

    let kill = |line| match parsed(line).command {
        Command::Kill(kill) => (kill.all, kill.id.to_string(), kill.signal),
        other => panic!("{other:?}"),
    };
    assert_eq!(kill("kill --all web 9"), (true, "web".into(), 9));
    assert_eq!(kill("kill web 15"), (false, "web".into(), 15));
    assert_eq!(kill("kill web"), (false, "web".into(), 15));
    assert_eq!(kill("kill web SIGUSR1"), (false, "web".into(), 10));

    let force = |line| match parsed(line).command {
        Command::Delete(delete) => delete.force,
        other => panic!("{other:?}"),
    };
    assert!(force("delete --force web"));
    assert!(force("delete -f web"));
    assert!(!force("delete web"));

    let Command::Update(update) = parsed("update --resources=- web").command else {
        panic!()
    };
    assert_eq!(update.resources, path("-"));
    let Command::Ps(ps) = parsed("ps --format json web").command else {
        panic!()
    };
    assert_eq!((ps.format, ps.id.as_str()), (ListFormat::Json, "web"));
    assert!(ps.options.is_empty());
    let Command::Events(events) = parsed("events --interval=5s web").command else {
        panic!()
    };
    assert_eq!(
        (events.interval, events.stats),
        (Duration::from_secs(5), false)
    );
    let Command::Events(events) = parsed("events --stats web").command else {
        panic!()
    };
    assert!(events.stats);

    let line =
        "exec --process /tmp/p.json --console-socket /tmp/s --detach --pid-file /b/e.pid web";
    let Command::Exec(exec) = parsed(line).command else {
        panic!()
    };
    assert_eq!(exec.process, path("/tmp/p.json"));
    assert_eq!(exec.console_socket, path("/tmp/s"));
    assert_eq!(exec.pid_file, path("/b/e.pid"));
    assert!(exec.detach && exec.command.is_empty());

    let line = "run -no-subreaper --bundle /b --detach --pid-file /p web";
    let Command::Run(run) = parsed(line).command else {
        panic!()
    };
    assert!(run.no_subreaper && run.detach && !run.keep);
    assert!(
        matches!(parsed("list --format=json").command, Command::List(list)
        if list.format == ListFormat::Json)
    );
    for (line, phrase) in [
        ("state web", "State"),
        ("start web", "Start"),
        ("pause web", "Pause"),
        ("resume web", "Resume"),
        ("features", "Features"),
    ] {
        assert!(format!("{:?}", parsed(line).command).starts_with(phrase));
    }
}

/// Podman and its conmon (libpod/oci_conmon_common.go, conmon's cmd args).
#[test]
fn podman_and_conmon() {
    let line = "--cgroup-manager disabled --log-format=json --log /o create --bundle /b \
                --pid-file /p --preserve-fds 1 web";
    let Invocation { global, command } = parsed(line);
    assert_eq!(global.cgroup_manager(), CgroupManager::Disabled);
    assert!(matches!(command, Command::Create(create) if create.new.preserve_fds == 1));
    let line =
        "--root /run/x --log-format=json --log=/o exec --pid-file /p --process /j --detach web";
    assert!(matches!(parsed(line).command, Command::Exec(exec) if exec.detach));
    for line in [
        "kill --all web 9",
        "kill web 9",
        "delete --force web",
        "start web",
        "state web",
    ] {
        parsed(line);
    }
    parsed("--systemd-cgroup=false --cgroup-manager=systemd list -q");
}

/// By hand.
#[test]
fn people() {
    let run = |line| match parsed(line).command {
        Command::Run(run) => run,
        other => panic!("{other:?}"),
    };
    assert_eq!(run("run .").target, RunTarget::Bundle(".".into()));
    assert_eq!(run("run ./b").target, RunTarget::Bundle("./b".into()));
    assert_eq!(run("run b/").target, RunTarget::Bundle("b/".into()));
    let (id, bundle) = run("run -b /b hello --keep").id_and_bundle().unwrap();
    assert_eq!((id.as_str(), bundle.as_path()), ("hello", Path::new("/b")));
    let (id, bundle) = run("run hello").id_and_bundle().unwrap();
    assert_eq!((id.as_str(), bundle.as_path()), ("hello", Path::new(".")));
    let (id, bundle) = run("run /usr/bin/../lib/").id_and_bundle().unwrap();
    assert_eq!(
        (id.as_str(), bundle.as_path()),
        ("lib", Path::new("/usr/bin/../lib/"))
    );
    for (line, text) in [
        ("run -b /b c/", "two bundles: \"/b\" by --bundle and \"c/\""),
        ("run /", "no id can be made from bundle \"/\""),
        (
            "run /nope/x",
            "realpath(\"/nope/x\"): no such file or directory",
        ),
    ] {
        assert_eq!(run(line).id_and_bundle().unwrap_err().to_string(), text);
    }

    let line = "exec -t -e A=1 --env B=2 -u 1000:5 -g 6 -g 7 -c CAP_KILL --cwd /tmp \
                --no-new-privs --apparmor a --process-label l --cgroup cpu:x --cgroup y \
                --ignore-paused web ls -l --all";
    let Command::Exec(exec) = parsed(line).command else {
        panic!()
    };
    assert_eq!(exec.env, ["A=1", "B=2"]);
    assert_eq!(
        exec.user,
        Some(ExecUser {
            uid: 1000,
            gid: Some(5)
        })
    );
    assert_eq!(exec.additional_gids, [6, 7]);
    assert_eq!(exec.cap, ["CAP_KILL"]);
    assert_eq!(exec.cwd.as_deref(), Some("/tmp"));
    assert_eq!(exec.apparmor.as_deref(), Some("a"));
    assert_eq!(exec.process_label.as_deref(), Some("l"));
    assert!(exec.tty && exec.no_new_privs && exec.ignore_paused);
    assert_eq!(exec.cgroup, ["cpu:x", "y"]);
    assert_eq!(exec.command, ["ls", "-l", "--all"]);

    let line = "update --memory 64M --memory-swap -1 --memory-reservation 32m --pids-limit -1 \
                --cpu-quota -1 --cpu-period 100000 --cpu-share 512 --cpu-burst 5 --cpu-idle 1 \
                --cpu-rt-period 7 --cpu-rt-runtime 8 --cpuset-cpus 0-1 --cpuset-mems 0 \
                --blkio-weight 10 --l3-cache-schema L3 --mem-bw-schema MB web";
    let Command::Update(update) = parsed(line).command else {
        panic!()
    };
    assert_eq!(update.memory, Some(64 << 20));
    assert_eq!(update.memory_swap, Some(-1));
    assert_eq!(update.memory_reservation, Some(32 << 20));
    assert_eq!((update.pids_limit, update.cpu_quota), (Some(-1), Some(-1)));
    assert_eq!((update.cpu_share, update.cpu_idle), (Some(512), Some(1)));
    assert_eq!(update.cpuset_cpus.as_deref(), Some("0-1"));

    let Command::Ps(ps) = parsed("ps web -o pid,args").command else {
        panic!()
    };
    assert_eq!(ps.options, ["-o", "pid,args"]);
    let plan = |line| match parsed(line).command {
        Command::Plan(plan) => (plan.bundle(), plan.format()),
        other => panic!("{other:?}"),
    };
    assert_eq!(plan("plan"), (".".into(), PlanFormat::Text));
    assert_eq!(plan("plan b/ --json"), ("b/".into(), PlanFormat::Json));
    assert_eq!(plan("plan -b b -f json"), ("b".into(), PlanFormat::Json));
    assert!(
        matches!(parsed("spec -b /b --rootless").command, Command::Spec(spec)
        if spec.rootless && spec.bundle == path("/b"))
    );
}

#[test]
fn refusals_name_flag_and_value() {
    for (line, text) in [
        (
            "create a/b",
            "invalid container ID format: \"a/b\": only letters, digits and _+.- are allowed",
        ),
        (
            "state ..",
            "invalid container ID format: \"..\": it names a directory",
        ),
        (
            "run a:b",
            "invalid container ID format: \"a:b\": only letters, digits and _+.- are allowed",
        ),
        ("kill web ZZ", "unknown signal \"ZZ\""),
        (
            "update --memory 1x web",
            "invalid value \"1x\" for flag --memory: not a number of bytes",
        ),
        (
            "update --cpu-share x web",
            "invalid value \"x\" for flag --cpu-share: invalid digit found in string",
        ),
        (
            "events --interval 5 web",
            "invalid value \"5\" for flag --interval: not a duration such as 5s or 500ms",
        ),
        (
            "exec -u www web ls",
            "invalid value \"www\" for flag --user: \"www\" is no user id",
        ),
        (
            "exec -g x web ls",
            "invalid value \"x\" for flag --additional-gids: invalid digit found in string",
        ),
        (
            "list -f xml",
            "invalid value \"xml\" for flag --format: not one of table, json",
        ),
        (
            "--log-format xml list",
            "invalid value \"xml\" for flag --log-format: not one of text, json",
        ),
        (
            "--cgroup-manager x list",
            "invalid value \"x\" for flag --cgroup-manager: not one of cgroupfs, systemd, disabled",
        ),
        (
            "--rootless maybe list",
            "invalid value \"maybe\" for flag --rootless: not one of true, false, auto",
        ),
        (
            "create --preserve-fds -1 web",
            "invalid value \"-1\" for flag --preserve-fds: -1 is not in 0..=65535",
        ),
    ] {
        assert_eq!(refused(line), text, "{line}");
    }
}

#[test]
fn a_wrong_command_still_says_where_its_log_is() {
    for (line, log) in [
        ("--log /l --log-format json create --nope", path("/l")),
        ("--log /l create a/b", path("/l")),
        ("--log /l frob", path("/l")),
        ("--log /l --nope create", None),
    ] {
        let argv: Vec<OsString> = format!("rrun {line}").split(' ').map(Into::into).collect();
        let global = parse(&argv).unwrap_err().global;
        assert_eq!(global.and_then(|global| global.log), log, "{line}");
    }
}

#[test]
fn the_definitions_are_sound_and_every_flag_has_a_long_name() {
    let mut program = definition();
    program.build();
    program.clone().debug_assert();
    for command in program.get_subcommands() {
        for arg in command.get_arguments().filter(|arg| !arg.is_positional()) {
            assert!(arg.get_long().is_some(), "{} {arg}", command.get_name());
        }
    }
}

#[test]
fn docker_reads_the_version() {
    let argv = ["rrun", "--version"].map(OsString::from);
    let Ok(Parsed::Text(text)) = parse(&argv) else {
        panic!()
    };
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        format!("rrun version {}", env!("CARGO_PKG_VERSION"))
    );
    assert!(
        lines[1]
            .strip_prefix("commit: ")
            .is_some_and(|commit| !commit.is_empty())
    );
    assert_eq!(lines[2..], ["spec: 1.3.0"]);
}

#[test]
fn each_command_has_its_definition() {
    let whole = definition();
    let names: Vec<&str> = whole
        .get_subcommands()
        .map(clap::Command::get_name)
        .collect();
    let defined: Vec<&str> = DEFINITIONS.iter().map(|(name, _)| *name).collect();
    assert_eq!(defined, names);
    let flags = |command: &clap::Command| -> Vec<String> {
        let arguments = command.get_arguments();
        arguments
            .map(|argument| argument.get_id().to_string())
            .collect()
    };
    for (name, define) in DEFINITIONS {
        let alone = define(clap::Command::new(name));
        let all = whole.find_subcommand(name).unwrap();
        assert_eq!(flags(&alone), flags(all), "{name}");
    }
    let some = program_for(&["rrun".into(), "--root".into(), "run".into(), "state".into()]);
    let names: Vec<&str> = some
        .get_subcommands()
        .map(clap::Command::get_name)
        .collect();
    assert_eq!(names, ["state", "run"]);
    assert_eq!(flags(&some), flags(&whole));
}
