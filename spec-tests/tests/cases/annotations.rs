//! Annotations that change what is done.

use serde_json::json;
use spec_tests::runtime::text;
use spec_tests::terminal::Receiver;
use spec_tests::{Bundle, Case};

pub(crate) const CASES: &[Case] = &[
    Case::crun(
        "run.oci.keep_original_groups leaves the runtime's groups",
        |t| {
            let groups: Vec<nix::unistd::Gid> = [7, 8].map(nix::unistd::Gid::from_raw).to_vec();
            nix::unistd::setgroups(&groups).expect("setgroups");
            let bundle = || {
                Bundle::new(t).with(|config| {
                    config["process"]["user"]["additionalGids"] = json!([9]);
                })
            };
            assert_eq!(t.run(&bundle()).answer()["groups"], json!([9]));
            let keeping = bundle().annotation("run.oci.keep_original_groups", "1");
            assert_eq!(t.run(&keeping).answer()["groups"], json!([7, 8]));
        },
    ),
    Case::crun(
        "run.oci.seccomp_fail_unknown_syscall refuses an unknown name",
        |t| {
            let bundle = || {
                Bundle::new(t).args(&["true"]).with(|config| {
                    config["linux"]["seccomp"] = json!({
                        "defaultAction": "SCMP_ACT_ALLOW",
                        "syscalls": [{ "names": ["no_such_call"], "action": "SCMP_ACT_ERRNO" }],
                    });
                })
            };
            t.run(&bundle()).ok();
            let outcome = t.run(&bundle().annotation("run.oci.seccomp_fail_unknown_syscall", "1"));
            assert_eq!(outcome.code, 1, "{outcome:?}");
            assert!(
                outcome.stderr.contains("no_such_call"),
                "{}",
                outcome.stderr
            );
        },
    ),
    Case::kernel("run.oci.seccomp.receiver gets the listener", |t| {
        let receiver = Receiver::new(&t.directory.join("agent.sock"));
        let bundle = Bundle::new(t)
            .probe(&["pause"])
            .annotation("run.oci.seccomp.receiver", text(&receiver.path))
            .with(|config| {
                config["linux"]["seccomp"] = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{ "names": ["mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
                });
            });
        let mut command = t.command(&["create", "-b", text(&bundle.path), &bundle.id]);
        let running = t.spawn(&mut command);
        let container = t.adopt(&bundle.id);
        running.wait().ok();
        let (_, listener) = receiver.receive();
        let number = std::os::fd::AsRawFd::as_raw_fd(&listener);
        let link = std::fs::read_link(format!("/proc/self/fd/{number}")).expect("readlink");
        assert_eq!(text(&link), "anon_inode:seccomp notify");
        drop(container);
    })
    .except(&[("runc", "an annotation of crun's"), ("crun", "no oracle")]),
    Case::kernel("run.oci.pidfd_receiver gets a pidfd", |t| {
        let receiver = Receiver::new(&t.directory.join("pidfd.sock"));
        let bundle = Bundle::new(t)
            .probe(&["pause"])
            .annotation("run.oci.pidfd_receiver", text(&receiver.path));
        let container = t.create(&bundle);
        let (_, pidfd) = receiver.receive();
        let number = std::os::fd::AsRawFd::as_raw_fd(&pidfd);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).expect("fdinfo");
        assert!(
            info.contains(&format!("Pid:\t{}\n", container.pid())),
            "{info}"
        );
    })
    .except(&[("runc", "an annotation of crun's"), ("crun", "no oracle")]),
    Case::kernel(
        "an annotation that asks for a guard is refused, others are told",
        |t| {
            for (key, value, told) in [
                (
                    "run.oci.handler",
                    "krun",
                    "annotations[\"run.oci.handler\"]",
                ),
                (
                    "run.oci.seccomp_bpf_data",
                    "AAAA",
                    "run.oci.seccomp_bpf_data",
                ),
                (
                    "run.oci.seccomp.plugins",
                    "/x.so",
                    "run.oci.seccomp.plugins",
                ),
                ("run.oci.systemd.subgroup", "../x", "has a \"..\""),
                ("run.oci.delegate-cgroup", "a/../../x", "has a \"..\""),
            ] {
                let bundle = Bundle::new(t).args(&["true"]).annotation(key, value);
                t.run(&bundle).fails(1, &[told]);
            }
            let bundle = Bundle::new(t)
                .args(&["true"])
                .annotation("run.oci.hooks.stdout", "/nowhere");
            let outcome = t.run(&bundle).ok();
            assert!(
                outcome.stderr.contains("run.oci.hooks.stdout is ignored"),
                "{}",
                outcome.stderr
            );
        },
    )
    .except(&[("runc", "annotations of crun's"), ("crun", "no oracle")]),
];
