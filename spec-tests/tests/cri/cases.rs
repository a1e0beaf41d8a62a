//! The cases: what a kubelet and its users do with pods and containers.

use std::fs;

use nix::sys::signal::Signal;
use protobuf::MessageField;

use crate::Case;
use crate::containerd::until;
use crate::grpc::{Code, Status};
use crate::messages::{
    ContainerState, ContainerStatsResponse, Empty, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxSandboxSecurityContext,
    ListContainerStatsRequest, ListContainerStatsResponse, ListContainersRequest,
    ListContainersResponse, ListPodSandboxRequest, ListPodSandboxResponse, Mount, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxRequest, PodSandboxState, PodSandboxStatsResponse,
    UpdateContainerResourcesRequest,
};
use crate::pod::{Container, Session, shims};

pub(crate) const CASES: &[Case] = &[
    (
        "a pod is ready, has an address, and runs under its handler",
        |s| {
            let (handler, shim) = (s.handler, s.shim());
            let pod = s.pod();
            let status = pod.status().status.unwrap_or_default();
            assert_eq!(status.runtime_handler, handler);
            assert_eq!(
                status.state.enum_value(),
                Ok(PodSandboxState::SANDBOX_READY)
            );
            assert!(
                status.network.ip.starts_with("10.88."),
                "{:?}",
                status.network.ip
            );
            let running: Vec<_> = shims().into_iter().map(|(_, path)| path).collect();
            assert_eq!(running, [shim.clone()]);
            let all: ListPodSandboxResponse = pod
                .session
                .ask("ListPodSandbox", &ListPodSandboxRequest::new());
            assert_eq!(all.items.len(), 1);
            assert_eq!(all.items[0].id, pod.id);
        },
    ),
    (
        "the containers of a pod share one shim, network and names",
        |s| {
            let pod = s.pod();
            let all = ["a", "b", "c"].map(|name| pod.sleeper(name));
            assert_eq!(shims().len(), 1);
            let [a, b, c] = &all;
            for kind in ["net", "ipc", "uts"] {
                let link = format!("readlink /proc/self/ns/{kind}");
                assert_eq!(a.exec(&link), b.exec(&link), "{kind}");
            }
            let link = "readlink /proc/self/ns/pid";
            assert_ne!(a.exec(link), b.exec(link));
            assert_eq!(c.exec("hostname"), pod.config.hostname);
            let listed: ListContainersResponse = pod
                .session
                .ask("ListContainers", &ListContainersRequest::new());
            let mut names: Vec<_> = listed
                .containers
                .iter()
                .map(|one| (one.metadata.name.as_str(), one.state.enum_value()))
                .collect();
            names.sort_unstable_by_key(|(name, _)| *name);
            let running = Ok(ContainerState::CONTAINER_RUNNING);
            assert_eq!(names, [("a", running), ("b", running), ("c", running)]);
            b.stop(5);
            b.remove();
            assert_eq!(a.state(), ContainerState::CONTAINER_RUNNING);
            assert_eq!(shims().len(), 1);
        },
    ),
    ("a container is created, runs, ends and is removed", |s| {
        let pod = s.pod();
        let container = pod.create(pod.shell("one", "echo begins; sleep 0.1; exit 7"));
        assert_eq!(container.state(), ContainerState::CONTAINER_CREATED);
        container.start();
        let status = container.ended();
        assert_eq!((status.exit_code, &*status.reason), (7, "Error"));
        assert!(status.created_at <= status.started_at);
        assert!(status.started_at < status.finished_at, "{status:?}");
        container.remove();
        let gone = container.try_exec("true", 5).map(drop).unwrap_err();
        assert_eq!(gone.code, Code::NotFound, "{}", gone.message);
    }),
    ("an end without an error is completed", |s| {
        let pod = s.pod();
        let container = pod.start(pod.shell("one", "true"));
        let status = container.ended();
        assert_eq!((status.exit_code, &*status.reason), (0, "Completed"));
    }),
    (
        "a program that is missing is an error, and nothing runs",
        |s| {
            let pod = s.pod();
            let mut config = pod.shell("one", "");
            config.command = vec!["/no/such/program".to_owned()];
            let container = pod.create(config);
            let started: Result<Empty, Status> = pod
                .session
                .cri()
                .call("StartContainer", &container.request());
            let status = started.unwrap_err();
            assert!(
                status.message.contains("no such file or directory"),
                "{}",
                status.message
            );
            let status = container.status();
            assert_eq!((status.exit_code, &*status.reason), (128, "StartError"));
        },
    ),
    ("stop sends TERM, and KILL to those that don't end", |s| {
        let pod = s.pod();
        let polite = pod.start(pod.shell(
            "polite",
            "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done",
        ));
        polite.wait_for_log("up");
        polite.stop(20);
        assert_eq!(polite.status().exit_code, 5);
        let deaf = pod.start(pod.shell(
            "deaf",
            "trap '' TERM; echo up; while :; do sleep 0.05; done",
        ));
        deaf.wait_for_log("up");
        deaf.stop(1);
        assert_eq!(deaf.status().exit_code, 137);
    }),
    // containerd 1.6 closes a log when its container ends, whatever is still on the
    // way (with the Go shim too): these go on until their log was looked at.
    ("logs are lines with time, stream and tag", |s| {
        let pod = s.pod();
        let container = pod.start(pod.shell("one", "echo out; echo err >&2; sleep 1000"));
        until("two lines", || container.log().len() == 2);
        let mut lines = container.log();
        // The two streams are copied side by side.
        lines.sort();
        let line = |stream: &str, text: &str| (stream.to_owned(), "F".to_owned(), text.to_owned());
        assert_eq!(lines, [line("stderr", "err"), line("stdout", "out")]);
    }),
    ("a long line is cut, and nothing of it is lost", |s| {
        let pod = s.pod();
        let script = "i=0; while [ $i -lt 5000 ]; do printf 0123456789; i=$((i+1)); done; echo; \
                      sleep 1000";
        let container = pod.start(pod.shell("one", script));
        until("the end of the line", || {
            container.log().iter().any(|(_, tag, _)| tag == "F")
        });
        let whole: String = container
            .log()
            .into_iter()
            .map(|(_, _, text)| text)
            .collect();
        assert_eq!(whole, "0123456789".repeat(5000));
        assert!(container.log().len() > 1);
    }),
    ("much output is in the log, line by line", |s| {
        let pod = s.pod();
        let container = pod.start(pod.shell("one", "seq 20000; sleep 1000"));
        until("the last line", || {
            container.log().last().is_some_and(|last| last.2 == "20000")
        });
        let numbers: Vec<String> = container.log().into_iter().map(|line| line.2).collect();
        let expected: Vec<String> = (1..=20000).map(|number: u32| number.to_string()).collect();
        assert!(numbers == expected, "{} lines", numbers.len());
    }),
    ("a log is opened again after it was moved", |s| {
        let pod = s.pod();
        let script = "echo first; while [ ! -e /go ]; do sleep 0.02; done; echo second; sleep 100";
        let container = pod.start(pod.shell("one", script));
        container.wait_for_log("first");
        let log = container.status().log_path;
        fs::rename(&log, format!("{log}.1")).expect("rename");
        let _: Empty = pod.session.ask("ReopenContainerLog", &container.request());
        container.exec("touch /go");
        container.wait_for_log("second");
        let moved = fs::read_to_string(format!("{log}.1")).expect("the moved log");
        assert!(
            moved.contains("first") && !moved.contains("second"),
            "{moved}"
        );
    }),
    ("exec sync answers output, errors and the exit code", |s| {
        let pod = s.pod();
        let container = pod.sleeper("one");
        let answer = container.try_exec("echo out; echo err >&2; exit 3", 10);
        let answer = answer.expect("ExecSync");
        assert_eq!(
            (&*answer.stdout, &*answer.stderr),
            (&b"out\n"[..], &b"err\n"[..])
        );
        assert_eq!(answer.exit_code, 3);
        let killed = container.try_exec("kill -9 $$", 10).expect("ExecSync");
        assert_eq!(killed.exit_code, 137);
    }),
    ("exec sync ends a program that takes too long", |s| {
        let pod = s.pod();
        let container = pod.sleeper("one");
        let status = container.try_exec("exec sleep 1234", 1).unwrap_err();
        assert!(
            [Code::DeadlineExceeded, Code::Unknown].contains(&status.code),
            "{status:?}"
        );
        assert!(
            status.message.contains("timeout 1s exceeded"),
            "{}",
            status.message
        );
        until("its process to be gone", || {
            !container.exec("ps").contains("sleep 1234")
        });
    }),
    ("twenty exec syncs at once", |s| {
        let pod = s.pod();
        let container = pod.sleeper("one");
        std::thread::scope(|scope| {
            let container = &container;
            let all: Vec<_> = (0..20)
                .map(|number| {
                    scope.spawn(move || {
                        container.try_exec(&format!("echo {number}; exit {number}"), 30)
                    })
                })
                .collect();
            for (number, one) in all.into_iter().enumerate() {
                let answer = one.join().expect("a thread").expect("ExecSync");
                assert_eq!(usize::try_from(answer.exit_code), Ok(number));
                assert_eq!(answer.stdout, format!("{number}\n").into_bytes());
            }
        });
    }),
    (
        "exec streams stdin, stdout, stderr and the exit code",
        |s| {
            let pod = s.pod();
            let container = pod.sleeper("one");
            let script = "read line; echo got $line; echo err >&2; exit 4";
            let mut stream = container.exec_stream(script, false);
            stream.send(0, b"words\n");
            stream.to_the_end();
            assert_eq!(
                (stream.text(1), stream.text(2)),
                ("got words\n".to_owned(), "err\n".to_owned())
            );
            assert_eq!(stream.exit_code(), 4);
            let mut stream = container.exec_stream("true", false);
            stream.to_the_end();
            assert_eq!(stream.exit_code(), 0);
        },
    ),
    ("exec with a terminal follows its size", |s| {
        let pod = s.pod();
        let container = pod.sleeper("one");
        let script = "tty; while read l; do stty size; done";
        let mut stream = container.exec_stream(script, true);
        stream.until(1, "/dev/pts/");
        stream.resize(123, 45);
        // Nobody tells when the size has arrived.
        until("the new size", || {
            stream.send(0, b"\n");
            stream.until(1, "\n");
            std::thread::sleep(std::time::Duration::from_millis(50));
            stream.pending();
            stream.text(1).contains("45 123")
        });
        stream.send(0, b"\x04");
        stream.to_the_end();
        assert_eq!(stream.exit_code(), 0);
    }),
    ("a megabyte through exec arrives whole", |s| {
        let pod = s.pod();
        let container = pod.sleeper("one");
        let mut stream =
            container.exec_stream("dd if=/dev/zero bs=65536 count=16 2>/dev/null", false);
        stream.to_the_end();
        assert_eq!((stream.bytes(1), stream.exit_code()), (1 << 20, 0));
    }),
    ("attach reaches the first process's stdin and output", |s| {
        let pod = s.pod();
        let mut config = pod.shell("one", "while read l; do echo got $l; echo err $l >&2; done");
        config.stdin = true;
        let container = pod.start(config);
        let mut stream = container.attach(false);
        stream.send(0, b"one\n");
        stream.until(1, "got one");
        stream.until(2, "err one");
        stream.close();
        let mut again = container.attach(false);
        again.send(0, b"two\n");
        again.until(1, "got two");
        again.close();
        container.wait_for_log("got two");
        assert_eq!(container.state(), ContainerState::CONTAINER_RUNNING);
    }),
    ("attach to a terminal", |s| {
        let pod = s.pod();
        let mut config = pod.shell("one", "tty; while read l; do echo got $l; done");
        (config.stdin, config.tty) = (true, true);
        let container = pod.start(config);
        container.wait_for_log("/dev/pts/");
        let mut stream = container.attach(true);
        stream.send(0, b"words\n");
        stream.until(1, "got words");
        stream.send(0, b"\x04");
        assert_eq!(container.ended().exit_code, 0);
    }),
    ("stdin that is meant for one reader ends with him", |s| {
        let pod = s.pod();
        let mut config = pod.shell("one", "cat; echo ended; sleep 1000");
        (config.stdin, config.stdin_once) = (true, true);
        let container = pod.start(config);
        let mut stream = container.attach(false);
        stream.send(0, b"words\n");
        stream.until(1, "words");
        stream.close();
        container.wait_for_log("ended");
    }),
    ("a port of the pod is forwarded", |s| {
        let pod = s.pod();
        let script = "echo listens; while :; do echo 'hello from the pod' | nc -l -p 8080; done";
        let container = pod.start(pod.shell("one", script));
        container.wait_for_log("listens");
        until("the port to listen", || {
            !container.exec("netstat -ltn | grep :8080; true").is_empty()
        });
        let mut stream = pod.forward(8080);
        stream.send(0, b"words\n");
        stream.until(0, "hello from the pod");
        stream.close();
    }),
    ("stats count what containers and the pod use", |s| {
        let pod = s.pod();
        let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo worked; sleep 1000";
        let container = pod.start(pod.shell("one", script));
        container.wait_for_log("worked");
        let answer: ContainerStatsResponse =
            pod.session.ask("ContainerStats", &container.request());
        let stats = answer.stats.unwrap_or_default();
        assert_eq!(stats.attributes.id, container.id);
        assert!(
            stats.cpu.usage_core_nano_seconds.value > 1_000_000,
            "{stats:?}"
        );
        assert!(stats.memory.working_set_bytes.value > 4096, "{stats:?}");
        let request = ListContainerStatsRequest::new();
        let all: ListContainerStatsResponse = pod.session.ask("ListContainerStats", &request);
        assert_eq!(all.stats.len(), 1);
        let request = PodSandboxRequest {
            pod_sandbox_id: pod.id.clone(),
            ..PodSandboxRequest::new()
        };
        let answer: PodSandboxStatsResponse = pod.session.ask("PodSandboxStats", &request);
        let whole = answer.stats.unwrap_or_default().linux.unwrap_or_default();
        assert!(whole.memory.usage_bytes.value > 4096, "{whole:?}");
        assert_eq!(whole.containers.len(), 1);
    }),
    ("limits are in force and can be changed", |s| {
        let pod = s.pod();
        let mut config = pod.shell("one", "sleep 1000");
        config.linux.mut_or_insert_default().resources = limits(64 << 20, 512);
        let container = pod.start(config);
        let memory = |container: &Container<'_>| {
            container.knob("memory", "memory.limit_in_bytes", "memory.max")
        };
        assert_eq!(memory(&container), (64 << 20).to_string());
        assert_eq!(container.knob("cpu", "cpu.shares", "cpu.weight"), "512");
        let request = UpdateContainerResourcesRequest {
            container_id: container.id.clone(),
            linux: limits(96 << 20, 256),
            ..UpdateContainerResourcesRequest::new()
        };
        let _: Empty = pod.session.ask("UpdateContainerResources", &request);
        assert_eq!(memory(&container), (96 << 20).to_string());
        assert_eq!(container.knob("cpu", "cpu.shares", "cpu.weight"), "256");
    }),
    ("a container that was out of memory says so", |s| {
        let pod = s.pod();
        let mut config = pod.shell(
            "one",
            "head -c 200000000 /dev/zero | tail >/dev/null; exit 137",
        );
        config.linux.mut_or_insert_default().resources = limits(16 << 20, 1024);
        let container = pod.start(config);
        let status = container.ended();
        assert_eq!((status.exit_code, &*status.reason), (137, "OOMKilled"));
    }),
    (
        "containers of a pod with one pid namespace see each other",
        |s| {
            let mut config = s.pod_config();
            namespaces(&mut config, |options| {
                options.pid = NamespaceMode::POD.into()
            });
            let pod = s.run(config);
            let in_pod = |name: &str, script: &str| {
                let mut config = pod.shell(name, script);
                let options = NamespaceOption {
                    pid: NamespaceMode::POD.into(),
                    ..NamespaceOption::new()
                };
                config.linux = MessageField::some(LinuxContainerConfig {
                    security_context: MessageField::some(LinuxContainerSecurityContext {
                        namespace_options: MessageField::some(options),
                        ..LinuxContainerSecurityContext::new()
                    }),
                    ..LinuxContainerConfig::new()
                });
                pod.start(config)
            };
            let first = in_pod("first", "exec sleep 4321");
            let second = in_pod("second", "sleep 5432 & exec sleep 6543");
            assert!(second.exec("ps").contains("sleep 4321"));
            assert_ne!(
                first.exec("readlink /proc/1/exe").as_str(),
                "",
                "the pause is process 1"
            );
            until("the second's own child", || {
                first.exec("ps").contains("sleep 5432")
            });
            // Nothing of a container outlives its first process.
            second.stop(1);
            until("its processes to be gone", || {
                let all = first.exec("ps");
                !all.contains("sleep 5432") && !all.contains("sleep 6543")
            });
            assert_eq!(first.state(), ContainerState::CONTAINER_RUNNING);
        },
    ),
    ("a pod in the host's namespaces", |s| {
        let mut config = s.pod_config();
        config.hostname.clear();
        namespaces(&mut config, |options| {
            options.network = NamespaceMode::NODE.into();
            options.pid = NamespaceMode::NODE.into();
            options.ipc = NamespaceMode::NODE.into();
        });
        let pod = s.run(config);
        let mut config = pod.shell("one", "sleep 1000");
        let options = NamespaceOption {
            network: NamespaceMode::NODE.into(),
            pid: NamespaceMode::NODE.into(),
            ipc: NamespaceMode::NODE.into(),
            ..NamespaceOption::new()
        };
        config.linux = MessageField::some(LinuxContainerConfig {
            security_context: MessageField::some(LinuxContainerSecurityContext {
                namespace_options: MessageField::some(options),
                ..LinuxContainerSecurityContext::new()
            }),
            ..LinuxContainerConfig::new()
        });
        let container = pod.start(config);
        for kind in ["net", "pid", "ipc"] {
            let ours = fs::read_link(format!("/proc/self/ns/{kind}")).expect("a link");
            assert_eq!(
                container.exec(&format!("readlink /proc/self/ns/{kind}")),
                ours.to_string_lossy()
            );
        }
    }),
    (
        "environment, folder, user, mounts and a read-only root",
        |s| {
            let pod = s.pod();
            let given = format!("{}/given", pod.config.log_directory);
            fs::create_dir_all(&given).expect("a folder");
            fs::write(format!("{given}/file"), "from the host").expect("a file");
            let mut config = pod.shell("one", "sleep 1000");
            config.working_dir = "/tmp".to_owned();
            config.envs = vec![KeyValue {
                key: "WORD".to_owned(),
                value: "a b".to_owned(),
                ..KeyValue::new()
            }];
            config.mounts = vec![Mount {
                container_path: "/given".to_owned(),
                host_path: given,
                readonly: true,
                ..Mount::new()
            }];
            let mut user = crate::messages::Int64Value::new();
            user.value = 1234;
            config.linux = MessageField::some(LinuxContainerConfig {
                security_context: MessageField::some(LinuxContainerSecurityContext {
                    run_as_user: MessageField::some(user),
                    readonly_rootfs: true,
                    no_new_privs: true,
                    ..LinuxContainerSecurityContext::new()
                }),
                ..LinuxContainerConfig::new()
            });
            let container = pod.start(config);
            assert_eq!(
                container.exec("pwd; echo $WORD; id -u; cat /given/file"),
                "/tmp\na b\n1234\nfrom the host"
            );
            assert_eq!(
                container.exec("grep NoNewPrivs /proc/self/status"),
                "NoNewPrivs:\t1"
            );
            let mounts = container.exec("cat /proc/self/mountinfo");
            let options = |target: &str| {
                let line = mounts
                    .lines()
                    .find(|line| line.split(' ').nth(4) == Some(target));
                line.and_then(|line| line.split(' ').nth(5))
                    .unwrap_or("")
                    .to_owned()
            };
            assert!(options("/").starts_with("ro"), "{mounts}");
            assert!(options("/given").starts_with("ro"), "{mounts}");
        },
    ),
    ("a sysctl of the pod is set", |s| {
        let mut config = s.pod_config();
        let linux = config.linux.mut_or_insert_default();
        linux.sysctls.insert(
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "123".to_owned(),
        );
        let pod = s.run(config);
        let container = pod.sleeper("one");
        assert_eq!(
            container.exec("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"),
            "123"
        );
    }),
    (
        "a pod that is stopped has no shim, and its containers have ended",
        |s| {
            let pod = s.pod();
            let container = pod.sleeper("one");
            pod.stop();
            assert_eq!(container.state(), ContainerState::CONTAINER_EXITED);
            let status = pod.status().status.unwrap_or_default();
            assert_eq!(
                status.state.enum_value(),
                Ok(PodSandboxState::SANDBOX_NOTREADY)
            );
            until("the shim to end", || shims().is_empty());
        },
    ),
    (
        "pods and containers outlive a containerd that is stopped",
        |s| outlives(s, Signal::SIGTERM),
    ),
    (
        "pods and containers outlive a containerd that is killed",
        |s| outlives(s, Signal::SIGKILL),
    ),
    (
        "a pod whose shim was killed has ended and can be removed",
        |s| {
            let pod = s.pod();
            let container = pod.sleeper("one");
            let pid = container.pid();
            for (shim, _) in shims() {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), Signal::SIGKILL)
                    .expect("kill");
            }
            let status = container.ended();
            // What its shim would have said, containerd does not ask.
            assert_eq!(status.exit_code, 255, "{status:?}");
            until("its process to be gone", || {
                !fs::exists(format!("/proc/{pid}")).expect("stat")
            });
        },
    ),
];

/// A container runs on, another one ends while containerd is away.
fn outlives(s: &mut Session, signal: Signal) {
    let config = s.pod_config();
    let (pod_id, stays, ends, log) = {
        let pod = s.run(config.clone());
        let stays = pod.sleeper("stays");
        let script = "echo up; while [ ! -e /go ]; do sleep 0.02; done; exit 9";
        let ends = pod.start(pod.shell("ends", script));
        ends.wait_for_log("up");
        (
            pod.id.clone(),
            stays.id.clone(),
            ends.id.clone(),
            ends.pid(),
        )
    };
    s.containerd.stop(signal);
    fs::write(format!("/proc/{log}/root/go"), "").expect("the way into its root");
    until("its process to be gone", || {
        !fs::exists(format!("/proc/{log}")).expect("stat")
    });
    s.containerd.again();
    let pod = s.adopt(pod_id, config);
    let (stays, ends) = (pod.adopt(stays), pod.adopt(ends));
    let status = pod.status().status.unwrap_or_default();
    assert_eq!(
        status.state.enum_value(),
        Ok(PodSandboxState::SANDBOX_READY)
    );
    assert_eq!(ends.ended().exit_code, 9);
    assert_eq!(stays.state(), ContainerState::CONTAINER_RUNNING);
    assert_eq!(stays.exec("echo still here"), "still here");
    stays.stop(5);
    assert_eq!(stays.status().exit_code, 0);
    // And the pod takes new ones.
    let new = pod.start(pod.shell("new", "exit 2"));
    assert_eq!(new.ended().exit_code, 2);
}

fn namespaces(config: &mut PodSandboxConfig, choose: impl FnOnce(&mut NamespaceOption)) {
    let mut options = NamespaceOption {
        pid: NamespaceMode::CONTAINER.into(),
        ..NamespaceOption::new()
    };
    choose(&mut options);
    let linux = config.linux.mut_or_insert_default();
    linux.security_context = MessageField::some(LinuxSandboxSecurityContext {
        namespace_options: MessageField::some(options),
        ..LinuxSandboxSecurityContext::new()
    });
}

fn limits(memory: i64, shares: i64) -> MessageField<LinuxContainerResources> {
    MessageField::some(LinuxContainerResources {
        memory_limit_in_bytes: memory,
        cpu_shares: shares,
        ..LinuxContainerResources::new()
    })
}
