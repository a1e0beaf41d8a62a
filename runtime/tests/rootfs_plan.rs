//! The plan of the root filesystem for the config.json that engines write,
//! line by line as `rrun plan` prints it; no root needed.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::path::{Path, PathBuf};

use rrun::plan::cgroup_mounts::{CgroupView, Hierarchy};
use rrun::plan::mounts::{self, MountContext, Rootfs};
use rrun::plan::namespaces::Namespaces;
use rrun::spec::Spec;
use serde_json::{Value, json};

/// Plans a document on a host with these cgroups.
fn plan(config: &Value, cgroups: &CgroupView) -> Result<Rootfs, String> {
    let spec = Spec::parse(config.to_string().as_bytes()).map_err(|e| e.to_string())?;
    let linux = spec.linux.clone().unwrap_or_default();
    let namespaces = Namespaces::plan(&linux).map_err(|e| e.to_string())?;
    let context = MountContext {
        namespaces: &namespaces,
        no_pivot: false,
        rootless: false,
        cgroups,
        label_option: "context",
    };
    mounts::rootfs(&spec, Path::new("/bundle"), &context).map_err(|e| e.to_string())
}

fn unified() -> CgroupView {
    CgroupView {
        v1: Vec::new(),
        unified: Some("/sys/fs/cgroup".into()),
        unified_own: Some("/sys/fs/cgroup/abc".into()),
    }
}

fn v1() -> CgroupView {
    let hierarchy = |name: &str, data: &str| Hierarchy {
        name: name.to_owned(),
        data: data.to_owned(),
        own: PathBuf::from(format!("/sys/fs/cgroup/{name}/docker/abc")),
        callers: PathBuf::from(format!("/sys/fs/cgroup/{name}")),
    };
    CgroupView {
        v1: vec![
            hierarchy("cpu,cpuacct", "cpu,cpuacct"),
            hierarchy("memory", "memory"),
            hierarchy("systemd", "name=systemd"),
        ],
        ..CgroupView::default()
    }
}

fn ops(planned: &Rootfs) -> Vec<String> {
    planned.ops.iter().map(ToString::to_string).collect()
}

fn finish(planned: &Rootfs) -> Vec<String> {
    planned.finish.iter().map(ToString::to_string).collect()
}

fn document(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// What every container has below /dev.
const DEVICES: [&str; 12] = [
    "device /dev/null c 1:3 (0666, 0:0)",
    "device /dev/zero c 1:5 (0666, 0:0)",
    "device /dev/full c 1:7 (0666, 0:0)",
    "device /dev/random c 1:8 (0666, 0:0)",
    "device /dev/urandom c 1:9 (0666, 0:0)",
    "device /dev/tty c 5:0 (0666, 0:0)",
    "link /dev/ptmx -> pts/ptmx",
    "link /dev/fd -> /proc/self/fd",
    "link /dev/stdin -> /proc/self/fd/0",
    "link /dev/stdout -> /proc/self/fd/1",
    "link /dev/stderr -> /proc/self/fd/2",
    "link /dev/core -> /proc/kcore (if /proc/kcore exists)",
];

#[test]
fn the_document_of_runc_spec() {
    let planned = plan(&document(include_str!("data/runc-spec.json")), &unified()).unwrap();
    assert_eq!(planned.path, Path::new("/bundle/rootfs"));
    let mounts = [
        "mount proc on /proc",
        "mount tmpfs on /dev (nosuid,strictatime,mode=755,size=65536k)",
        "mount devpts on /dev/pts (nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5)",
        "mount tmpfs shm on /dev/shm (nosuid,nodev,noexec,mode=1777,size=65536k)",
        "mount mqueue on /dev/mqueue (nosuid,nodev,noexec)",
        "mount sysfs on /sys (ro,nosuid,nodev,noexec)",
        "mount cgroup2 on /sys/fs/cgroup (ro,nosuid,nodev,noexec,relatime)",
    ];
    assert_eq!(ops(&planned), [mounts.as_slice(), &DEVICES].concat());
    assert_eq!(
        finish(&planned),
        [
            "remount / (ro)",
            "read-only /proc/bus",
            "read-only /proc/fs",
            "read-only /proc/irq",
            "read-only /proc/sys",
            "read-only /proc/sysrq-trigger",
            "mask /proc/acpi",
            "mask /proc/asound",
            "mask /proc/kcore",
            "mask /proc/keys",
            "mask /proc/latency_stats",
            "mask /proc/timer_list",
            "mask /proc/timer_stats",
            "mask /proc/sched_debug",
            "mask /sys/firmware",
            "mask /proc/scsi",
        ]
    );
    assert!(planned.warnings.is_empty());
}

#[test]
fn the_document_of_docker_on_cgroup_v1() {
    let planned = plan(&document(include_str!("data/docker.json")), &v1()).unwrap();
    let mounts = [
        "mount proc on /proc (nosuid,nodev,noexec)",
        "mount tmpfs on /dev (nosuid,strictatime,mode=755,size=65536k)",
        "mount devpts on /dev/pts (nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5)",
        "mount sysfs on /sys (ro,nosuid,nodev,noexec)",
        "mount tmpfs on /sys/fs/cgroup (nosuid,nodev,noexec,mode=755)",
        "bind /sys/fs/cgroup/cpu,cpuacct/docker/abc on /sys/fs/cgroup/cpu,cpuacct \
         (rbind,ro,nosuid,nodev,noexec)",
        "bind /sys/fs/cgroup/memory/docker/abc on /sys/fs/cgroup/memory \
         (rbind,ro,nosuid,nodev,noexec)",
        "bind /sys/fs/cgroup/systemd/docker/abc on /sys/fs/cgroup/systemd \
         (rbind,ro,nosuid,nodev,noexec)",
        "link /sys/fs/cgroup/cpu -> cpu,cpuacct",
        "link /sys/fs/cgroup/cpuacct -> cpu,cpuacct",
        "remount /sys/fs/cgroup (ro)",
        "mount mqueue on /dev/mqueue (nosuid,nodev,noexec)",
        "mount tmpfs shm on /dev/shm (nosuid,nodev,noexec,mode=1777,size=67108864)",
        "bind /srv/data on /data (rbind,ro,rprivate)",
        "bind /var/lib/docker/containers/abc/resolv.conf on /etc/resolv.conf (rbind,rprivate)",
        "bind /var/lib/docker/containers/abc/hostname on /etc/hostname (rbind,rprivate)",
        "bind /var/lib/docker/containers/abc/hosts on /etc/hosts (rbind,rprivate)",
        "mount tmpfs on /run/x (nosuid,nodev,noexec,rprivate)",
    ];
    assert_eq!(ops(&planned), [mounts.as_slice(), &DEVICES].concat());
    assert_eq!(
        planned.path,
        Path::new("/var/lib/docker/overlay2/abc/merged")
    );
    assert_eq!(
        planned.sysctls,
        [
            (
                PathBuf::from("net/ipv4/ip_unprivileged_port_start"),
                "0".to_owned()
            ),
            (
                PathBuf::from("net/ipv4/ping_group_range"),
                "0 2147483647".to_owned()
            ),
        ]
    );
}

#[test]
fn the_document_of_podman() {
    let planned = plan(&document(include_str!("data/podman.json")), &unified()).unwrap();
    let run = "/run/containers/storage/overlay-containers/abc/userdata";
    let mounts = [
        "bind /srv/data on /data (rbind,ro,rprivate)".to_owned(),
        "mount proc on /proc (nosuid,nodev,noexec)".to_owned(),
        "mount tmpfs on /dev (nosuid,noexec,strictatime,mode=755,size=65536k)".to_owned(),
        "mount sysfs on /sys (ro,nosuid,nodev,noexec)".to_owned(),
        "mount tmpfs on /run/x (rw,nosuid,nodev,rprivate,tmpcopyup)".to_owned(),
        "mount devpts on /dev/pts (nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5)"
            .to_owned(),
        "mount mqueue on /dev/mqueue (nosuid,nodev,noexec)".to_owned(),
        format!("bind {run}/hosts on /etc/hosts (bind,rprivate)"),
        "bind /var/lib/containers/storage/overlay-containers/abc/userdata/shm on /dev/shm \
         (bind,nosuid,nodev,noexec,rprivate)"
            .to_owned(),
        format!("bind {run}/.containerenv on /run/.containerenv (bind,rprivate)"),
        format!("bind {run}/hostname on /etc/hostname (bind,rprivate)"),
        "mount cgroup2 on /sys/fs/cgroup (ro,nosuid,nodev,noexec,relatime,rprivate)".to_owned(),
    ];
    let devices = DEVICES.map(str::to_owned);
    assert_eq!(ops(&planned), [mounts.as_slice(), &devices].concat());
}

#[test]
fn a_cgroup_namespace_mounts_v1_afresh() {
    let mut config = document(include_str!("data/docker.json"));
    config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "cgroup"}]);
    config["linux"]["sysctl"] = Value::Null;
    let planned = plan(&config, &v1()).unwrap();
    assert_eq!(
        ops(&planned)[4..9],
        [
            "mount tmpfs on /sys/fs/cgroup (nosuid,nodev,noexec,mode=755)",
            "mount cgroup on /sys/fs/cgroup/cpu,cpuacct (ro,nosuid,nodev,noexec,cpu,cpuacct)",
            "mount cgroup on /sys/fs/cgroup/memory (ro,nosuid,nodev,noexec,memory)",
            "mount cgroup systemd on /sys/fs/cgroup/systemd (ro,nosuid,nodev,noexec,name=systemd)",
            "link /sys/fs/cgroup/cpu -> cpu,cpuacct",
        ]
    );
}

#[test]
fn devices_of_a_user_namespace_are_bound_and_asked_ones_replace_defaults() {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let planned = plan(
        &json!({
            "root": {"path": "rootfs"},
            "linux": {
                "namespaces": [{"type": "mount"}, {"type": "user"}],
                "uidMappings": map, "gidMappings": map,
                "devices": [
                    {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 8630},
                    {"path": "/dev/fuse", "type": "u", "major": 10, "minor": 229, "uid": 1, "gid": 2},
                    {"path": "/srv//pipe", "type": "p"},
                ],
            },
        }),
        &unified(),
    )
    .unwrap();
    assert_eq!(
        ops(&planned)[..8],
        [
            "bind device /dev/zero c 1:5 (0666, 0:0)",
            "bind device /dev/full c 1:7 (0666, 0:0)",
            "bind device /dev/random c 1:8 (0666, 0:0)",
            "bind device /dev/urandom c 1:9 (0666, 0:0)",
            "bind device /dev/tty c 5:0 (0666, 0:0)",
            "bind device /dev/null c 1:3 (0666, 0:0)",
            "bind device /dev/fuse c 10:229 (0666, 1:2)",
            "bind device /srv/pipe p (0666, 0:0)",
        ]
    );
    assert!(planned.user_namespace);
}

#[test]
fn a_bound_dev_gets_no_devices() {
    let planned = plan(
        &json!({
            "root": {"path": "/r"},
            "mounts": [{"destination": "/dev/", "type": "none", "source": "/dev", "options": ["rbind"]}],
            "linux": {"namespaces": [{"type": "mount"}]},
        }),
        &unified(),
    )
    .unwrap();
    assert_eq!(ops(&planned), ["bind /dev on /dev (rbind)"]);
}

#[test]
fn invalid_values_are_refused_with_their_json_path() {
    let mount = |mount: Value| json!({"mounts": [mount]});
    let linux = |linux: Value| json!({"linux": linux});
    for (name, change, error) in [
        ("no root", json!({"root": null}), "root: is missing"),
        (
            "empty root",
            json!({"root": {"path": ""}}),
            "root.path: is empty",
        ),
        (
            "no destination",
            mount(json!({"type": "tmpfs"})),
            "mounts[0].destination: is empty",
        ),
        (
            "no type",
            mount(json!({"destination": "/a"})),
            "mounts[0].type: is missing",
        ),
        (
            "no source",
            mount(json!({"destination": "/a", "type": "bind"})),
            "mounts[0].source: is empty",
        ),
        (
            "idmapped by no user namespace",
            mount(json!({"destination": "/a", "type": "tmpfs", "options": ["idmap"]})),
            "mounts[0].options: idmap without uidMappings needs a user namespace in linux.namespaces",
        ),
        (
            "half a mapping",
            mount(json!({"destination": "/a", "type": "bind", "source": "/b",
                "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]})),
            "mounts[0].uidMappings: uidMappings and gidMappings come together",
        ),
        (
            "tmpcopyup of a bind",
            mount(json!({"destination": "/a", "type": "bind", "source": "/b",
                "options": ["tmpcopyup"]})),
            "mounts[0].options: tmpcopyup is only for tmpfs",
        ),
        (
            "device type",
            linux(json!({"namespaces": [{"type": "mount"}],
                "devices": [{"path": "/dev/x", "type": "x"}]})),
            "linux.devices[0].type: \"x\" is none of c, u, b and p",
        ),
        (
            "device number",
            linux(json!({"namespaces": [{"type": "mount"}],
                "devices": [{"path": "/dev/x", "type": "c", "major": -1}]})),
            "linux.devices[0].major: -1 is out of range",
        ),
        (
            "device path",
            linux(json!({"namespaces": [{"type": "mount"}],
                "devices": [{"path": "dev/x", "type": "c"}]})),
            "linux.devices[0].path: \"dev/x\" is not absolute",
        ),
        (
            "masked path",
            linux(json!({"namespaces": [{"type": "mount"}], "maskedPaths": ["proc"]})),
            "linux.maskedPaths[0]: \"proc\" is not absolute",
        ),
        (
            "no mount namespace",
            json!({"linux": {}, "mounts": [{"destination": "/a", "type": "tmpfs"}]}),
            "mounts: needs a mount namespace in linux.namespaces",
        ),
    ] {
        let mut config = json!({
            "root": {"path": "rootfs"},
            "linux": {"namespaces": [{"type": "mount"}]},
        });
        for (field, value) in change.as_object().unwrap() {
            config[field] = value.clone();
        }
        let refused = plan(&config, &unified()).unwrap_err();
        assert_eq!(refused, format!("config.json: {error}"), "{name}");
    }
}

#[test]
fn the_plan_is_written_as_json() {
    let planned = plan(&document(include_str!("data/runc-spec.json")), &unified()).unwrap();
    let json = serde_json::to_value(&planned).unwrap();
    assert_eq!(json["entry"], "pivot");
    assert_eq!(json["propagation"], "rslave");
    assert_eq!(
        json["ops"][1],
        json!({"mount": {
            "destination": "/dev",
            "what": {"kind": "filesystem", "fstype": "tmpfs", "source": "tmpfs"},
            "options": "nosuid,strictatime,mode=755,size=65536k",
            "index": 1,
        }})
    );
    assert_eq!(json["finish"][0], json!({"readonly-mount": "/"}));
}

#[test]
fn the_selinux_label_goes_to_the_filesystems_that_can_carry_it() {
    let label = "system_u:object_r:container_file_t:s0:c1,c2";
    let mount =
        |destination: &str, fstype: &str| json!({"destination": destination, "type": fstype});
    let config = json!({
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "mount"}], "mountLabel": label},
        "mounts": [
            mount("/t", "tmpfs"), mount("/p", "devpts"), mount("/proc", "proc"),
            mount("/s", "sysfs"), mount("/q", "mqueue"),
            {"destination": "/b", "type": "bind", "source": "/x", "options": ["bind"]},
        ],
    });
    let labelled: Vec<String> = plan(&config, &unified())
        .unwrap()
        .ops
        .into_iter()
        .filter_map(|op| match op {
            mounts::RootfsOp::Mount(mount) => Some(mount),
            _ => None,
        })
        .filter(|mount| {
            let context = ("context".to_owned(), Some(label.to_owned()));
            mount.options.data.contains(&context)
        })
        .map(|mount| mount.destination.display().to_string())
        .collect();
    assert_eq!(labelled, ["/t", "/p"]);
}
