//! Network devices of the host that move into the container, by `ip` inside and
//! outside. Each case has a network namespace of its own in the place of the
//! host's.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use spec_tests::{Bundle, Case, Needs, Test};

pub(crate) const CASES: &[Case] = &[
    Case::kernel(
        "a device moves with its permanent addresses, and is up",
        |t| {
            host();
            ip("link add v0 type veth peer name v1");
            ip("link set v0 mtu 1400 up");
            ip("addr add 192.0.2.7/24 dev v0");
            ip("addr add 198.51.100.1/32 dev v0");
            ip("addr add 2001:db8::7/64 dev v0 nodad");
            // Not valid everywhere, and not for good.
            ip("addr add 203.0.113.1/24 dev v0 scope link");
            ip("addr add 10.9.8.7/24 dev v0 valid_lft 900 preferred_lft 900");
            let container = t.start(&moving(t, json!({ "v0": {} })));
            assert_eq!(names(None), ["lo", "v1"]);
            let inside = devices(Some(container.pid()));
            let device = inside.iter().find(|device| device["ifname"] == "v0");
            let device = device.expect("v0");
            assert_eq!(device["mtu"], 1400);
            assert!(device["flags"].to_string().contains("\"UP\""), "{device}");
            let addresses = device["addr_info"].as_array().expect("addr_info");
            let mut global: Vec<String> = addresses
                .iter()
                .filter(|address| address["scope"] == "global")
                .map(|address| {
                    format!(
                        "{}/{}",
                        address["local"].as_str().unwrap_or(""),
                        address["prefixlen"]
                    )
                })
                .collect();
            global.sort();
            assert_eq!(
                global,
                ["192.0.2.7/24", "198.51.100.1/32", "2001:db8::7/64"]
            );
            for gone in ["203.0.113", "10.9.8"] {
                assert!(!device.to_string().contains(gone), "{device}");
            }
        },
    )
    .needs(Needs::Veth)
    .except(&[("runc", "since 1.4"), ("crun", "since 1.25")]),
    Case::kernel(
        "a device is renamed, and numbered by the kernel for %d",
        |t| {
            host();
            ip("link add v0 type veth peer name v1");
            ip("link add v2 type veth peer name v3");
            let moved = json!({
                "v0": { "name": "eth9" }, "v1": { "name": "n%d" }, "v2": { "name": "n%d" },
            });
            let container = t.start(&moving(t, moved));
            assert_eq!(names(None), ["lo", "v3"]);
            assert_eq!(names(Some(container.pid())), ["eth9", "lo", "n0", "n1"]);
        },
    )
    .needs(Needs::Veth)
    .except(&[("runc", "since 1.4"), ("crun", "since 1.25")]),
    Case::kernel("hooks and kernel parameters find the moved device", |t| {
        host();
        ip("link add v0 type veth peer name v1");
        let bundle = moving(t, json!({ "v0": { "name": "eth0" } }));
        let seen = bundle.path.join("seen");
        let script = format!(
            "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); nsenter -t $pid -n ip -o link > {}",
            seen.display()
        );
        let bundle = bundle.shell_hook("createRuntime", &script).with(|config| {
            config["linux"]["sysctl"] = json!({ "net.ipv4.conf.eth0.arp_ignore": "1" });
        });
        let container = t.start(&bundle);
        let text = std::fs::read_to_string(&seen).expect("the hook's output");
        assert!(text.contains("eth0"), "{text}");
        let path = "/proc/sys/net/ipv4/conf/eth0/arp_ignore";
        let read = container.probe(&[], &["read", path]).answer();
        assert_eq!(read["text"], "1\n");
    })
    .needs(Needs::Veth)
    .except(&[("runc", "since 1.4"), ("crun", "since 1.25")]),
    Case::kernel(
        "a device that can't be moved is refused by name, and stays",
        |t| {
            host();
            ip("link add v0 type veth peer name v1");
            let refused = |devices: Value, told: &str| {
                let bundle = moving(t, devices).args(&["true"]);
                t.run(&bundle).fails(1, &[told]);
            };
            refused(
                json!({ "v0": {}, "none": {} }),
                "move network device \"none\"",
            );
            refused(
                json!({ "v0": { "name": "lo" } }),
                "the container has a device \"lo\" already",
            );
            refused(
                json!({ "lo": { "name": "l" } }),
                "move network device \"lo\"",
            );
            refused(
                json!({ "v0": { "name": "a/b" } }),
                "linux.netDevices[\"v0\"].name",
            );
            let bundle = moving(t, json!({ "v0": {} })).without_namespace("network");
            t.run(&bundle).fails(
                1,
                &["unable to move network devices without a NET namespace"],
            );
            assert_eq!(names(None), ["lo", "v0", "v1"]);
        },
    )
    .needs(Needs::Veth)
    .except(&[("runc", "since 1.4"), ("crun", "since 1.25")]),
];

fn moving(t: &Test, devices: Value) -> Bundle {
    Bundle::new(t)
        .probe(&["pause"])
        .with(|config| config["linux"]["netDevices"] = devices)
}

/// A namespace for this case that stands for the host's.
fn host() {
    unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
}

fn ip(words: &str) {
    let outcome = Command::new("ip")
        .args(words.split(' '))
        .output()
        .expect("ip");
    assert!(outcome.status.success(), "ip {words}: {outcome:?}");
}

/// What `ip` tells of all devices here, or where the process `pid` is.
fn devices(pid: Option<i32>) -> Vec<Value> {
    let mut command = match pid {
        None => Command::new("ip"),
        Some(pid) => {
            let mut command = Command::new("nsenter");
            command.args(["-t", &pid.to_string(), "-n", "ip"]);
            command
        }
    };
    let outcome = command.args(["-json", "addr"]).output().expect("ip");
    assert!(outcome.status.success(), "{outcome:?}");
    serde_json::from_slice(&outcome.stdout).expect("JSON")
}

/// The names, but for those devices that the kernel makes in each namespace.
fn names(pid: Option<i32>) -> Vec<String> {
    let mut names: Vec<String> = devices(pid)
        .iter()
        .filter_map(|device| Some(device["ifname"].as_str()?.to_owned()))
        .filter(|name| !made_by_kernel(name))
        .collect();
    names.sort();
    names
}

fn made_by_kernel(name: &str) -> bool {
    ["tunl", "gre", "erspan", "ip_vti", "ip6", "sit", "ifb"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}
