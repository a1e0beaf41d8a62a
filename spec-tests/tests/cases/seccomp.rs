//! seccomp in force: each action, argument conditions, and the order with
//! capabilities and no_new_privs.

use serde_json::{Value, json};
use spec_tests::terminal::Receiver;
use spec_tests::{Bundle, Case, Test};

const GETPPID: &str = "110";
const PERSONALITY: &str = "135";

pub(crate) const CASES: &[Case] = &[
    Case::runc(
        "ERRNO answers with its own number, EPERM without one",
        |t| {
            let answers = filtered(
                t,
                json!([
                    { "names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99 },
                    { "names": ["personality"], "action": "SCMP_ACT_ERRNO" },
                ]),
                &["syscall", GETPPID, ";", "syscall", PERSONALITY, "-1"],
            );
            assert_eq!(answers, [json!({ "errno": 99 }), json!({ "errno": 1 })]);
        },
    ),
    Case::runc(
        "two profiles that differ in one number each get their own",
        |t| {
            for number in [50, 51] {
                let rules = json!([{ "names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": number }]);
                assert_eq!(
                    filtered(t, rules, &["syscall", GETPPID]),
                    [json!({ "errno": number })]
                );
            }
        },
    ),
    Case::runc("KILL_PROCESS ends the program with SIGSYS", |t| {
        for action in [
            "SCMP_ACT_KILL_PROCESS",
            "SCMP_ACT_KILL",
            "SCMP_ACT_KILL_THREAD",
            "SCMP_ACT_TRAP",
        ] {
            let rules = json!([{ "names": ["getppid"], "action": action }]);
            let outcome = t.run(&profile(t, rules).probe(&["syscall", GETPPID]));
            assert_eq!(outcome.code, 128 + 31, "{action}: {outcome:?}");
        }
    }),
    Case::runc("LOG and ALLOW let the call through", |t| {
        for action in ["SCMP_ACT_LOG", "SCMP_ACT_ALLOW"] {
            let rules = json!([{ "names": ["getppid"], "action": action }]);
            assert_eq!(
                filtered(t, rules, &["syscall", GETPPID]),
                [json!({ "value": 0 })]
            );
        }
    }),
    Case::runc("TRACE without a tracer answers ENOSYS", |t| {
        let rules = json!([{ "names": ["getppid"], "action": "SCMP_ACT_TRACE" }]);
        assert_eq!(
            filtered(t, rules, &["syscall", GETPPID]),
            [json!({ "errno": 38 })]
        );
    }),
    Case::runc("argument conditions decide", |t| {
        let rule = |op: &str, value: i64, two: i64| {
            json!([{
                "names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 88,
                "args": [{ "index": 0, "value": value, "valueTwo": two, "op": op }],
            }])
        };
        // personality(8) sets LINUX32 and is harmless.
        let answer = |op: &str, value: i64, two: i64| {
            filtered(t, rule(op, value, two), &["syscall", PERSONALITY, "8"]).remove(0)["errno"]
                == 88
        };
        for (op, value, two, hit) in [
            ("SCMP_CMP_EQ", 8, 0, true),
            ("SCMP_CMP_EQ", 9, 0, false),
            ("SCMP_CMP_NE", 9, 0, true),
            ("SCMP_CMP_NE", 8, 0, false),
            ("SCMP_CMP_LT", 9, 0, true),
            ("SCMP_CMP_LT", 8, 0, false),
            ("SCMP_CMP_LE", 8, 0, true),
            ("SCMP_CMP_LE", 7, 0, false),
            ("SCMP_CMP_GT", 7, 0, true),
            ("SCMP_CMP_GT", 8, 0, false),
            ("SCMP_CMP_GE", 8, 0, true),
            ("SCMP_CMP_GE", 9, 0, false),
            ("SCMP_CMP_MASKED_EQ", 0xf, 8, true),
            ("SCMP_CMP_MASKED_EQ", 0xf, 9, false),
        ] {
            assert_eq!(answer(op, value, two), hit, "{op} {value} {two}");
        }
    }),
    Case::runc("a name that is not known is left out", |t| {
        let rules = json!([{ "names": ["no_such_call", "getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5 }]);
        assert_eq!(
            filtered(t, rules, &["syscall", GETPPID]),
            [json!({ "errno": 5 })]
        );
    }),
    Case::runc(
        "a call newer than the profile answers ENOSYS where the default denies",
        |t| {
            let bundle = small(t, true).probe(&["syscall", "9999", ";", "syscall", GETPPID]);
            let answers = t.run(&bundle).ok().answers();
            assert_eq!(answers[0], json!({ "errno": 38 }));
        },
    ),
    Case::runc(
        "the smallest profile that runs a program, with and without noNewPrivileges",
        |t| {
            for nnp in [true, false] {
                let bundle = small(t, nnp).probe(&["say", "x"]);
                assert_eq!(t.run(&bundle).answer(), json!({ "said": ["x"] }));
            }
        },
    ),
    Case::kernel("a profile that leaves the set-up no read says so", |t| {
        let rules = json!([{ "names": ["read"], "action": "SCMP_ACT_ERRNO" }]);
        let bundle =
            profile(t, rules).with(|config| config["process"]["noNewPrivileges"] = json!(true));
        t.run(&bundle).fails(
            1,
            &["wait for the runtime: read(", "operation not permitted"],
        );
    })
    .except(&[("runc", "1.1.5 reads nothing behind its filter")]),
    Case::kernel(
        "a profile that kills the set-up is told with the step",
        |t| {
            let rules = json!([{ "names": ["write"], "action": "SCMP_ACT_KILL_PROCESS" }]);
            let bundle =
                profile(t, rules).with(|config| config["process"]["noNewPrivileges"] = json!(true));
            t.run(&bundle).fails(
                1,
                &["the container's process died in step \"seccomp\": killed by SIGSYS"],
            );
        },
    )
    .except(&[("runc", "1.1.5 writes nothing behind its filter")]),
    Case::runc(
        "with a filter the status says so, and capabilities are as asked",
        |t| {
            for nnp in [true, false] {
                let rules = json!([{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO" }]);
                let bundle = profile(t, rules)
                    .with(|config| config["process"]["noNewPrivileges"] = json!(nnp));
                let status = t.run(&bundle).answer()["status"].clone();
                assert_eq!(status["Seccomp"], "2");
                assert_eq!(status["NoNewPrivs"], if nnp { "1" } else { "0" });
                assert_eq!(status["CapEff"], "0000000020000420");
                assert_eq!(status["CapPrm"], "0000000020000420");
            }
        },
    ),
    Case::kernel(
        "a 32-bit call under a profile of x86_64 alone is killed",
        |t| {
            let rules = json!([{ "names": ["getppid"], "action": "SCMP_ACT_ERRNO" }]);
            let bundle = profile(t, rules)
                .with(|config| {
                    config["linux"]["seccomp"]["architectures"] = json!(["SCMP_ARCH_X86_64"]);
                })
                // x32's getppid: the bit 0x40000000 on the number.
                .probe(&["syscall", "1073741934"]);
            assert_eq!(t.run(&bundle).code, 128 + 31);
            // That of i386, by its own gate.
            let bundle = bundle.probe(&["call32", "64"]);
            assert_eq!(t.run(&bundle).code, 128 + 31);
        },
    ),
    Case::runc(
        "an action, an operator or an architecture that is none is refused",
        |t| {
            let refused = |pointer: &str, value: &str| {
                let rules = json!([{ "names": ["getppid"], "action": "SCMP_ACT_ERRNO",
                "args": [{ "index": 0, "value": 0, "op": "SCMP_CMP_EQ" }] }]);
                let bundle = profile(t, rules).with(|config| {
                    config["linux"]["seccomp"]["architectures"] = json!(["SCMP_ARCH_X86_64"]);
                    *config.pointer_mut(pointer).expect("the field") = json!(value);
                });
                t.run(&bundle).fails(1, &[value]);
            };
            refused("/linux/seccomp/defaultAction", "SCMP_ACT_NONSENSE");
            refused("/linux/seccomp/syscalls/0/action", "SCMP_ACT_NONSENSE");
            refused("/linux/seccomp/syscalls/0/args/0/op", "SCMP_CMP_NONSENSE");
            refused("/linux/seccomp/architectures/0", "SCMP_ARCH_NONSENSE");
        },
    ),
    Case::runc(
        "NOTIFY hands its descriptor to the agent with the container's state",
        |t| {
            let receiver = Receiver::new(&t.directory.join("agent.sock"));
            let path = spec_tests::runtime::text(&receiver.path).to_owned();
            let rules = json!([{ "names": ["mkdirat", "mkdir"], "action": "SCMP_ACT_NOTIFY" }]);
            let bundle = profile(t, rules).probe(&["pause"]).with(|config| {
                config["linux"]["seccomp"]["listenerPath"] = json!(path);
                config["linux"]["seccomp"]["listenerMetadata"] = json!("meta data");
            });
            let mut command = t.command(&[
                "create",
                "-b",
                spec_tests::runtime::text(&bundle.path),
                &bundle.id,
            ]);
            let running = t.spawn(&mut command);
            let container = t.adopt(&bundle.id);
            running.wait().ok();
            let (bytes, fd) = receiver.receive();
            let state: Value = serde_json::from_slice(&bytes).expect("JSON");
            assert_eq!(state["metadata"], "meta data");
            assert_eq!(state["fds"], json!(["seccompFd"]));
            assert_eq!(state["state"]["id"], bundle.id.as_str());
            assert!(state["pid"].as_i64().is_some_and(|pid| pid > 0));
            let number = std::os::fd::AsRawFd::as_raw_fd(&fd);
            let link = std::fs::read_link(format!("/proc/self/fd/{number}")).expect("readlink");
            assert_eq!(
                spec_tests::runtime::text(&link),
                "anon_inode:seccomp notify"
            );
            drop(container);
        },
    ),
    Case::runc("NOTIFY without a listener's path is refused", |t| {
        let rules = json!([{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }]);
        assert_eq!(t.run(&profile(t, rules)).code, 1);
    }),
];

/// A bundle whose profile allows all but these rules.
fn profile(t: &Test, rules: Value) -> Bundle {
    Bundle::new(t).with(|config| {
        config["linux"]["seccomp"] =
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules });
    })
}

/// The probe's answers under [`profile`].
#[track_caller]
fn filtered(t: &Test, rules: Value, words: &[&str]) -> Vec<Value> {
    t.run(&profile(t, rules).probe(words)).ok().answers()
}

/// A profile that denies by default and names what a static program needs.
fn small(t: &Test, no_new_privileges: bool) -> Bundle {
    let names = [
        "arch_prctl",
        "brk",
        "clock_gettime",
        "close",
        "dup",
        "execve",
        "exit",
        "exit_group",
        "fcntl",
        "fstat",
        "futex",
        "getpid",
        "getppid",
        "getrandom",
        "gettid",
        "ioctl",
        "madvise",
        "mmap",
        "mprotect",
        "mremap",
        "munmap",
        "newfstatat",
        "openat",
        "poll",
        "ppoll",
        "prctl",
        "prlimit64",
        "read",
        "readlink",
        "readlinkat",
        "rseq",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "sched_getaffinity",
        "set_robust_list",
        "set_tid_address",
        "sigaltstack",
        "statx",
        "write",
        "writev",
        "capset",
        "capget",
        "setuid",
        "setgid",
        "setgroups",
        "chdir",
        "fchown",
        "getcwd",
        "getdents64",
        "getuid",
        "geteuid",
        "getgid",
        "getegid",
        "epoll_ctl",
        "epoll_pwait",
        "epoll_create1",
        "fchdir",
        "fstatfs",
        "tgkill",
        "nanosleep",
        "clone",
        "rt_sigpending",
        "stat",
        "lstat",
        "faccessat",
        "faccessat2",
        "openat2",
        "eventfd2",
        "sched_yield",
        "pipe2",
        "open",
    ];
    Bundle::new(t).with(|config| {
        config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{ "names": names[..], "action": "SCMP_ACT_ALLOW" }],
        });
    })
}
