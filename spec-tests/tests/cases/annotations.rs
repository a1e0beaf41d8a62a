//! Annotations that change what is done.

use serde_json::json;
use spec_tests::runtime::text;
use spec_tests::terminal::Receiver;
use spec_tests::{Bundle, Case};

pub(crate) const CASES: &[Case] = &[
    Case::kernel(
        "an annotation leaves a container none of the groups of the host's root",
        |t| {
            let groups = [7, 8].map(nix::unistd::Gid::from_raw);
            nix::unistd::setgroups(&groups).expect("setgroups");
            for in_user_namespace in [false, true] {
                let mut bundle = Bundle::new(t)
                    .annotation("run.oci.keep_original_groups", "1")
                    .probe(&["report", ";", "pause"])
                    .with(|config| {
                        config["process"]["user"]["additionalGids"] = json!([9]);
                    });
                if in_user_namespace {
                    bundle = bundle.in_user_namespace(0);
                }
                let container = t.start(&bundle);
                container.wait_for("groups");
                assert_eq!(container.answers()[0]["groups"], json!([9]));
                let report = container.probe(&[], &["report"]).answer();
                assert_eq!(report["groups"], json!([9]));
            }
            let bundle = Bundle::new(t)
                .args(&["true"])
                .annotation("run.oci.keep_original_groups", "1");
            let told = t.run(&bundle).ok().stderr;
            assert!(
                told.contains("run.oci.keep_original_groups is ignored"),
                "{told}"
            );
        },
    )
    .except(&[("runc", "an annotation of crun's")]),
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
            t.run(&bundle().annotation("run.oci.seccomp_fail_unknown_syscall", "0"))
                .ok();
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
            ] {
                let bundle = Bundle::new(t).args(&["true"]).annotation(key, value);
                t.run(&bundle).fails(1, &[told]);
            }
            let bundle = Bundle::new(t)
                .args(&["true"])
                .annotation("run.oci.timens_offset", "1");
            let outcome = t.run(&bundle).ok();
            assert!(
                outcome.stderr.contains("run.oci.timens_offset is ignored"),
                "{}",
                outcome.stderr
            );
        },
    )
    .except(&[("runc", "annotations of crun's"), ("crun", "no oracle")]),
    Case::crun(
        "run.oci.hooks.stdout and stderr are files that all hooks add to",
        |t| {
            let [out, err] = ["out", "err"].map(|name| t.directory.join(name));
            std::fs::write(&out, "before\n").expect("write");
            let mut bundle = Bundle::new(t)
                .args(&["true"])
                .annotation("run.oci.hooks.stdout", text(&out))
                .annotation("run.oci.hooks.stderr", text(&err));
            let moments = [
                "prestart",
                "createRuntime",
                "createContainer",
                "poststart",
                "poststop",
            ];
            for moment in moments {
                bundle =
                    bundle.shell_hook(moment, &format!("echo {moment}; echo not {moment} >&2"));
            }
            t.run(&bundle).ok();
            let read = |path| std::fs::read_to_string(path).expect("what hooks wrote");
            assert_eq!(read(&out), format!("before\n{}\n", moments.join("\n")));
            assert_eq!(read(&err), format!("not {}\n", moments.join("\nnot ")));
        },
    ),
    Case::crun(
        "run.oci.hooks.stdout is there for startContainer, too",
        |t| {
            let out = t.directory.join("out");
            let hook = json!({ "path": "/bin/probe", "args": ["probe", "say", "hello"] });
            let bundle = Bundle::new(t)
                .args(&["true"])
                .annotation("run.oci.hooks.stdout", text(&out))
                .hook("startContainer", hook);
            t.run(&bundle).ok();
            let written = std::fs::read_to_string(&out).expect("what the hook wrote");
            assert!(written.contains("hello"), "{written}");
        },
    ),
    Case::kernel(
        "an annotation makes no file on the host where there is no hook",
        |t| {
            let out = t.directory.join("out");
            let bundle = Bundle::new(t)
                .probe(&["pause"])
                .annotation("run.oci.hooks.stdout", text(&out))
                .annotation("run.oci.hooks.stderr", text(&out));
            let container = t.start(&bundle);
            container.kill("KILL").ok();
            container.wait_status("stopped");
            container.delete().ok();
            assert!(!out.exists());
        },
    ),
    Case::kernel(
        "an annotation has hooks write to regular files alone",
        |t| {
            let [file, link, fifo] = ["file", "link", "fifo"].map(|name| t.directory.join(name));
            std::fs::write(&file, "").expect("write");
            std::os::unix::fs::symlink(&file, &link).expect("symlink");
            nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
            // Who reads it would see that it was opened.
            let reader = std::fs::File::options().read(true).write(true).open(&fifo);
            let devices = ["/dev/full", "/dev/stderr", "/dev"].map(std::path::Path::new);
            for path in [link.as_path(), &fifo].into_iter().chain(devices) {
                let bundle = Bundle::new(t)
                    .args(&["true"])
                    .annotation("run.oci.hooks.stdout", text(path))
                    .shell_hook("createRuntime", "echo seen");
                t.run(&bundle).fails(
                    1,
                    &["annotation run.oci.hooks.stdout", "is not a regular file"],
                );
            }
            drop(reader.expect("open"));
            assert_eq!(std::fs::read(&file).expect("read"), b"");
        },
    )
    .except(&[("runc", "an annotation of crun's")]),
    Case::kernel(
        "the error of a hook has the end of what it wrote there",
        |t| {
            let out = t.directory.join("out");
            std::fs::write(&out, "of another\n").expect("write");
            let bundle = Bundle::new(t)
                .args(&["true"])
                .annotation("run.oci.hooks.stdout", text(&out))
                .shell_hook("createRuntime", "echo no; echo way >&2; exit 3");
            t.run(&bundle)
                .fails(1, &["exit status 3, it printed: way; no"]);
            let bundle =
                bundle.annotation("run.oci.hooks.stderr", text(&t.directory.join("no/such")));
            t.run(&bundle).fails(
                1,
                &[
                    "annotation run.oci.hooks.stderr: open(",
                    "no such file or directory",
                ],
            );
            let bundle = bundle.annotation("run.oci.hooks.stderr", "relative");
            t.run(&bundle).fails(1, &["\"relative\" is not absolute"]);
        },
    )
    .except(&[("runc", "an annotation of crun's"), ("crun", "no oracle")]),
    Case::kernel(
        "RUN_OCI_SECCOMP_RECEIVER gets a listener that nobody else gets",
        |t| {
            let receiver = Receiver::new(&t.directory.join("agent.sock"));
            let bundle = Bundle::new(t).probe(&["pause"]).with(|config| {
                config["linux"]["seccomp"] = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{ "names": ["mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
                });
            });
            let mut command = t.command(&["create", "-b", text(&bundle.path), &bundle.id]);
            command.env("RUN_OCI_SECCOMP_RECEIVER", &receiver.path);
            let running = t.spawn(&mut command);
            let container = t.adopt(&bundle.id);
            running.wait().ok();
            let (_, listener) = receiver.receive();
            let number = std::os::fd::AsRawFd::as_raw_fd(&listener);
            let link = std::fs::read_link(format!("/proc/self/fd/{number}")).expect("readlink");
            assert_eq!(text(&link), "anon_inode:seccomp notify");
            drop(container);
        },
    )
    .except(&[("runc", "a variable of crun's"), ("crun", "no oracle")]),
];
