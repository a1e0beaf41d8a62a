//! config-linux.md, seccomp: the values that are refused, and what the agent
//! of `SCMP_ACT_NOTIFY` gets over its socket.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};
use spec_tests::runtime::text;
use spec_tests::{Bundle, Case, Container, Test};

use crate::attempt::{never_runs, refused, remove};
use crate::config::{invalid, without};

pub(crate) const CASES: &[Case] = &[
    without!(
        "config-linux/seccomp-default-required",
        "/linux/seccomp/defaultAction",
        rules
    ),
    without!(
        "config-linux/seccomp-names-required",
        "/linux/seccomp/syscalls/0/names",
        rules
    )
    .except(&[("runc", "1.1.5 passes over the rule")]),
    invalid!(
        &["config-linux/seccomp-names-one"],
        "a rule without a name",
        |config| {
            rules(config);
            config["linux"]["seccomp"]["syscalls"][0]["names"] = json!([]);
        }
    )
    .except(&[
        ("crun", "1.8.1 passes over the rule"),
        ("runc", "1.1.5 passes over the rule"),
    ]),
    without!(
        "config-linux/seccomp-action-required",
        "/linux/seccomp/syscalls/0/action",
        rules
    ),
    without!(
        "config-linux/seccomp-arg-op",
        "/linux/seccomp/syscalls/0/args/0/op",
        rules
    ),
    invalid!(
        &["config/invalid-error"],
        "an action of seccomp that is none",
        |config| {
            rules(config);
            config["linux"]["seccomp"]["syscalls"][0]["action"] = json!("SCMP_ACT_NONSENSE");
        }
    ),
    invalid!(
        &["config/invalid-error"],
        "an architecture of seccomp that is none",
        |config| {
            rules(config);
            config["linux"]["seccomp"]["architectures"] = json!(["SCMP_ARCH_NONSENSE"]);
        }
    ),
    invalid!(
        &["config-linux/seccomp-default-errno"],
        "an errno for a default action that has none",
        |config| {
            rules(config);
            config["linux"]["seccomp"]["defaultErrnoRet"] = json!(5);
        }
    )
    .except(&[("runc", "1.1.5 passes over the errno")]),
    invalid!(
        &["config-linux/seccomp-errno"],
        "an errno for an action that has none",
        |config| {
            rules(config);
            config["linux"]["seccomp"]["syscalls"][0]["action"] = json!("SCMP_ACT_KILL");
        }
    )
    .except(&[("runc", "1.1.5 passes over the errno")]),
    invalid!(
        &["config-linux/seccomp-metadata-alone"],
        "metadata for a listener without its path",
        |config| {
            rules(config);
            config["linux"]["seccomp"]["listenerMetadata"] = json!("x");
        }
    )
    .except(&[
        ("runc", "1.1.5 passes over it"),
        ("crun", "1.8.1 passes over it"),
    ]),
    Case::clause(
        &[
            "config-linux/seccomp-one-state",
            "config-linux/seccomp-fd",
            "config-linux/process-state-payload",
            "config-linux/process-state-rights",
            "config-linux/process-state-first",
            "config-linux/process-state-ociVersion",
            "config-linux/process-state-pid",
            "config-linux/process-state-state",
        ],
        "the agent gets one state as JSON, and the descriptor with its first bytes",
        |t| {
            let agent = Agent::new(t);
            let bundle = notifying(t, &agent);
            let container = started(t, &bundle);
            let heard = agent.hear();
            let state: Value = serde_json::from_slice(&heard.bytes).expect("one JSON document");
            assert!(heard.first, "the descriptor came later, or not at all");
            assert_eq!(heard.links, ["anon_inode:seccomp notify"]);
            assert_eq!(state["fds"], json!(["seccompFd"]));
            assert_eq!(state["metadata"], "meta data");
            assert!(state["ociVersion"].is_string());
            assert_eq!(state["pid"], container.pid());
            assert_eq!(state["state"]["id"], bundle.id.as_str());
            assert_eq!(state["state"]["bundle"], text(&bundle.path));
            assert!(state["state"]["status"].is_string());
        },
    ),
    Case::clause(
        &["config-linux/seccomp-closed"],
        "the connection is closed when the program runs",
        |t| {
            let agent = Agent::new(t);
            let _container = started(t, &notifying(t, &agent));
            assert!(agent.hear().closed);
        },
    ),
    Case::clause(
        &["config-linux/seccomp-not-reused"],
        "each container has a connection of its own",
        |t| {
            let agent = Agent::new(t);
            for _ in 0..2 {
                let bundle = notifying(t, &agent);
                let _container = started(t, &bundle);
                let state: Value =
                    serde_json::from_slice(&agent.hear().bytes).expect("one JSON document");
                assert_eq!(state["state"]["id"], bundle.id.as_str());
            }
        },
    ),
    Case::clause(
        &["config-linux/seccomp-send-error"],
        "an agent that is not there is an error",
        |t| {
            let listener = Agent::new(t);
            let bundle = notifying(t, &listener);
            drop(listener);
            never_runs(t, bundle.clone());
            std::fs::remove_file(t.directory.join("agent.sock")).expect("remove");
            never_runs(t, bundle);
        },
    ),
    Case::clause(
        &["config-linux/seccomp-socket"],
        "an agent behind a datagram socket is refused",
        |t| {
            let path = t.directory.join("datagrams.sock");
            let _socket = UnixDatagram::bind(&path).expect("bind");
            let listener = Agent::new(t);
            let bundle = notifying(t, &listener).with(|config| {
                config["linux"]["seccomp"]["listenerPath"] = json!(path);
            });
            never_runs(t, bundle);
        },
    ),
    Case::clause(
        &["config/invalid-error"],
        "NOTIFY without a listener's path is refused",
        |t| {
            let listener = Agent::new(t);
            refused(
                t,
                &notifying(t, &listener)
                    .with(|config| remove(config, "/linux/seccomp/listenerPath")),
            );
        },
    )
    .except(&[("crun", "1.8.1 goes on without an agent")]),
];

/// A profile of which single fields are taken away or replaced.
fn rules(config: &mut Value) {
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{
            "names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5,
            "args": [{ "index": 0, "value": 1, "op": "SCMP_CMP_EQ" }],
        }],
    });
}

/// The agent's listening socket.
struct Agent(UnixListener);

impl Agent {
    fn new(t: &Test) -> Agent {
        let path = t.directory.join("agent.sock");
        let _ = std::fs::remove_file(&path);
        Agent(UnixListener::bind(path).expect("bind"))
    }
}

fn notifying(t: &Test, agent: &Agent) -> Bundle {
    let address = agent.0.local_addr().expect("an address");
    let path = address.as_pathname().expect("a path").to_owned();
    Bundle::new(t).with(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "meta data",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
        });
    })
}

/// The container of this bundle, whose program runs: a filter is loaded, and its
/// descriptor sent, before that, by create or by start.
#[track_caller]
fn started<'a>(t: &'a Test, bundle: &Bundle) -> Container<'a> {
    let container = t.start(&bundle.clone().probe(&["say", "runs", ";", "pause"]));
    container.wait_for("runs");
    container
}

/// What came over a connection.
struct Heard {
    bytes: Vec<u8>,
    /// What the descriptors are.
    links: Vec<String>,
    /// Did all descriptors come with the first message?
    first: bool,
    /// Has everybody closed the other end?
    closed: bool,
}

impl Agent {
    /// Takes the next connection and all that is there: the program runs, so
    /// there is nobody left who would send more. Two messages of which one has
    /// descriptors are never read as one.
    #[track_caller]
    fn hear(&self) -> Heard {
        self.0.set_nonblocking(true).expect("O_NONBLOCK");
        let (stream, _) = self.0.accept().expect("a connection of its own");
        let mut heard = Heard {
            bytes: Vec::new(),
            links: Vec::new(),
            first: false,
            closed: false,
        };
        for call in 0.. {
            let mut buffer = [0; 16384];
            let mut space = nix::cmsg_space!([RawFd; 8]);
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
            let message =
                match recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags) {
                    Err(nix::errno::Errno::EAGAIN) => break,
                    message => message.expect("recvmsg"),
                };
            let size = message.bytes;
            for control in message.cmsgs().expect("control messages") {
                let ControlMessageOwned::ScmRights(fds) = control else {
                    continue;
                };
                heard.first = call == 0;
                for fd in fds {
                    let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).expect("readlink");
                    heard.links.push(text(&link).to_owned());
                    drop(spec_tests::sys::own(fd));
                }
            }
            if size == 0 {
                heard.closed = true;
                break;
            }
            heard.bytes.extend(&buffer[..size]);
        }
        heard
    }
}
