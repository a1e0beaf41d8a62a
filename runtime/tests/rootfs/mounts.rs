//! What config.json asks for is what is there.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::mount::MsFlags;
use rrun::child::device;
use rrun::plan::cgroup_mounts::{CgroupView, Hierarchy};
use rustix::pty::OpenptFlags;
use serde_json::json;

use crate::bundle::{Bundle, mount_at, mountinfo, write};

pub(crate) const CASES: &[crate::Case] = &[
    ("the bundle of runc spec has runc's mounts", default_mounts),
    (
        "the bundle of runc spec has runc's devices and links",
        default_devices,
    ),
    (
        "the bundle of runc spec is closed where it should be",
        default_closed,
    ),
    (
        "a bind mount takes its attributes exactly from its options",
        bind_attributes,
    ),
    (
        "recursive attributes reach the mounts below",
        recursive_attributes,
    ),
    ("a file is bound on a file that is made", file_targets),
    (
        "a dangling link in the image leads to a directory that is made",
        dangling_link,
    ),
    (
        "a tmpfs takes the mode of the directory that it covers",
        tmpfs_mode,
    ),
    (
        "a read-only tmpfs gets its mount points first",
        readonly_tmpfs,
    ),
    ("tmpcopyup brings what the directory held", copy_up),
    ("propagation is as asked", propagation),
    ("rootfsPropagation is that of the root", rootfs_propagation),
    (
        "cgroup v1 without a cgroup namespace shows the own cgroups",
        cgroup_v1,
    ),
    (
        "cgroup v1 with a cgroup namespace is mounted afresh",
        cgroup_v1_namespace,
    ),
    (
        "an option too long for fsconfig goes by mount(2)",
        long_option,
    ),
    ("sysctls are set in the container's namespaces", sysctls),
    (
        "a user namespace gets devices and files by bind mounts",
        user_namespace,
    ),
    (
        "attributes that are locked in a user namespace stay",
        locked_attributes,
    ),
    (
        "the bundle of runc spec --rootless starts without root",
        rootless,
    ),
    ("an idmapped mount shows its own ids", idmap),
    ("no-pivot hides the host's proc and sysfs", no_pivot),
    ("the console is the terminal", console),
];

/// The lines that an answer is made of.
fn text(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

fn default_mounts() {
    let info = Bundle::new().run(mountinfo).unwrap();
    for (path, options, fstype, source) in [
        ("/proc", "rw,relatime", "proc", "proc"),
        ("/dev", "rw,nosuid", "tmpfs", "tmpfs"),
        ("/dev/pts", "rw,nosuid,noexec,relatime", "devpts", "devpts"),
        (
            "/dev/shm",
            "rw,nosuid,nodev,noexec,relatime",
            "tmpfs",
            "shm",
        ),
        (
            "/dev/mqueue",
            "rw,nosuid,nodev,noexec,relatime",
            "mqueue",
            "mqueue",
        ),
        ("/sys", "ro,nosuid,nodev,noexec,relatime", "sysfs", "sysfs"),
        (
            "/sys/fs/cgroup",
            "ro,nosuid,nodev,noexec,relatime",
            "cgroup2",
            "cgroup",
        ),
    ] {
        let [got_options, _, got_type, got_source, _] = mount_at(&info, path);
        assert_eq!(
            (got_options, got_type, got_source),
            (options, fstype, source),
            "{path}"
        );
    }
    assert_eq!(mount_at(&info, "/dev")[4], "rw,size=65536k,mode=755");
    assert_eq!(
        mount_at(&info, "/dev/pts")[4],
        "rw,gid=5,mode=620,ptmxmode=666"
    );
    assert_eq!(mount_at(&info, "/")[0], "ro,relatime");
    // Nothing of the host's is left in the namespace.
    assert_eq!(
        info.lines().filter(|line| line.contains(" / / ")).count(),
        0
    );
    let roots = info
        .lines()
        .filter(|line| line.split(' ').nth(4) == Some("/"))
        .count();
    assert_eq!(roots, 1, "{info}");
}

fn default_devices() {
    let answer = Bundle::new().run(|| {
        let nodes = ["null", "zero", "full", "random", "urandom", "tty"].map(|name| {
            let stat = fs::symlink_metadata(format!("/dev/{name}")).unwrap();
            let (major, minor) = (libc::major(stat.rdev()), libc::minor(stat.rdev()));
            assert!(stat.file_type().is_char_device());
            format!(
                "{name} {major}:{minor} {:o} {}:{}",
                stat.mode() & 0o7777,
                stat.uid(),
                stat.gid()
            )
        });
        let links = ["fd", "stdin", "stdout", "stderr", "ptmx"].map(|name| {
            let target = fs::read_link(format!("/dev/{name}")).unwrap();
            format!("{name} -> {}", target.display())
        });
        text(nodes.into_iter().chain(links))
    });
    assert_eq!(
        answer.unwrap(),
        "null 1:3 666 0:0\nzero 1:5 666 0:0\nfull 1:7 666 0:0\nrandom 1:8 666 0:0\n\
         urandom 1:9 666 0:0\ntty 5:0 666 0:0\nfd -> /proc/self/fd\nstdin -> /proc/self/fd/0\n\
         stdout -> /proc/self/fd/1\nstderr -> /proc/self/fd/2\nptmx -> pts/ptmx"
    );
}

fn default_closed() {
    let answer = Bundle::new().run(|| {
        let masked = fs::read_to_string("/proc/keys").unwrap();
        let empty = fs::read_dir("/sys/firmware").unwrap().count();
        text([
            format!("root {:?}", File::create("/x").unwrap_err().kind()),
            format!(
                "sysctl {:?}",
                fs::write("/proc/sys/kernel/domainname", "x")
                    .unwrap_err()
                    .kind()
            ),
            format!("masked {masked:?} {empty}"),
            format!(
                "mask {:?}",
                File::create("/sys/firmware/x").unwrap_err().kind()
            ),
            format!("umask {:o}", rrun::sys::file::set_umask(0)),
            format!("cwd {}", std::env::current_dir().unwrap().display()),
        ])
    });
    assert_eq!(
        answer.unwrap(),
        "root ReadOnlyFilesystem\nsysctl ReadOnlyFilesystem\nmasked \"\" 0\n\
         mask ReadOnlyFilesystem\numask 22\ncwd /"
    );
}

fn bind_attributes() {
    let mut bundle = Bundle::bare();
    let source = bundle.beside("source");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    bundle.host_mount(source.clone(), flags);
    let cases = [
        ("bind", "rw,nosuid,nodev,noatime"),
        ("bind,rprivate", "rw,nosuid,nodev,noatime"),
        ("bind,ro", "ro,noatime"),
        ("bind,ro,nosuid", "ro,nosuid,noatime"),
        ("bind,rw", "rw,noatime"),
        ("bind,suid", "rw,noatime"),
        ("rbind,noexec,relatime", "rw,noexec,relatime"),
        ("bind,nodev,strictatime", "rw,nodev"),
        ("bind,nosymfollow", "rw,noatime,nosymfollow"),
    ];
    for (at, (options, _)) in cases.iter().enumerate() {
        let source = source.to_str().unwrap().to_owned();
        bundle = bundle.mount(&format!("/m{at}"), "bind", &source, options);
    }
    let bundle = bundle.mount("/proc", "proc", "proc", "");
    let info = bundle.run(mountinfo).unwrap();
    for (at, (options, expected)) in cases.iter().enumerate() {
        assert_eq!(
            mount_at(&info, &format!("/m{at}"))[0],
            *expected,
            "{options}"
        );
    }
}

fn recursive_attributes() {
    let mut bundle = Bundle::bare();
    bundle.host_mount(bundle.beside("source"), MsFlags::empty());
    bundle.host_mount(bundle.beside("source/inner"), MsFlags::MS_NOATIME);
    let source = bundle.beside("source");
    let source = source.to_str().unwrap();
    let info = bundle
        .mount("/proc", "proc", "proc", "")
        .mount("/a", "bind", source, "rbind,ro")
        .mount("/b", "bind", source, "rbind,rro,rnosuid")
        .mount("/c", "bind", source, "rbind,rrelatime")
        .mount("/d", "bind", source, "rbind,rro,rnoatime,rw")
        .mount("/e", "bind", source, "bind,rro")
        .run(mountinfo)
        .unwrap();
    for (path, expected) in [
        ("/a", "ro,relatime"),
        ("/a/inner", "rw,noatime"),
        ("/b", "ro,nosuid,relatime"),
        ("/b/inner", "ro,nosuid,noatime"),
        ("/c/inner", "rw,relatime"),
        ("/d", "ro,noatime"),
        ("/d/inner", "ro,noatime"),
        ("/e", "ro,relatime"),
    ] {
        assert_eq!(mount_at(&info, path)[0], expected, "{path}");
    }
    assert!(!info.contains("/e/inner"));
}

fn file_targets() {
    let bundle = Bundle::bare();
    write(&bundle.beside("hosts"), "127.0.0.1");
    let source = bundle.beside("hosts").to_str().unwrap().to_owned();
    let bundle = bundle
        .mount("/etc/deep/hosts", "bind", &source, "bind,ro")
        .mount("relative/hosts", "", "hosts", "rbind");
    let answer = bundle.run(|| {
        let read = |path: &str| fs::read_to_string(path).unwrap();
        text([
            read("/etc/deep/hosts"),
            read("/relative/hosts"),
            format!("{:o}", fs::metadata("/etc/deep").unwrap().mode()),
        ])
    });
    assert_eq!(answer.unwrap(), "127.0.0.1\n127.0.0.1\n40755");
    assert_eq!(
        bundle.plan().unwrap().0.warnings,
        [
            "config.json: mounts[1].destination: \"relative/hosts\" is not absolute, taken from the root"
        ]
    );
}

fn dangling_link() {
    let bundle = Bundle::bare();
    fs::create_dir(bundle.root("var")).unwrap();
    std::os::unix::fs::symlink("/run", bundle.root("var/run")).unwrap();
    std::os::unix::fs::symlink("loop", bundle.root("loop")).unwrap();
    let answer = bundle
        .mount("/var/run/secrets", "tmpfs", "tmpfs", "mode=700")
        .mount("/proc", "proc", "proc", "")
        .run(mountinfo)
        .unwrap();
    assert_eq!(mount_at(&answer, "/run/secrets")[2], "tmpfs");
    let bundle = Bundle::bare();
    std::os::unix::fs::symlink("loop", bundle.root("loop")).unwrap();
    let error = bundle.mount("/loop/x", "tmpfs", "tmpfs", "").refused();
    assert!(
        error.starts_with("mount \"tmpfs\" on \"/loop/x\": openat2("),
        "{error}"
    );
    assert!(
        error.ends_with("too many symbolic links encountered"),
        "{error}"
    );
}

fn tmpfs_mode() {
    let bundle = Bundle::bare();
    fs::create_dir(bundle.root("kept")).unwrap();
    fs::set_permissions(bundle.root("kept"), fs::Permissions::from_mode(0o1750)).unwrap();
    let answer = bundle
        .mount("/kept", "tmpfs", "tmpfs", "")
        .mount("/kept/made", "tmpfs", "tmpfs", "")
        .mount("/kept/told", "tmpfs", "tmpfs", "mode=0700")
        .run(|| {
            let mode = |path: &str| fs::metadata(path).unwrap().mode() & 0o7777;
            text(["/kept", "/kept/made", "/kept/told"].map(|path| format!("{:o}", mode(path))))
        });
    assert_eq!(answer.unwrap(), "1750\n1777\n700");
}

fn readonly_tmpfs() {
    let answer = Bundle::bare()
        .mount("/t", "tmpfs", "tmpfs", "ro")
        .mount("/t/below", "tmpfs", "tmpfs", "")
        .mount("/dev", "tmpfs", "tmpfs", "ro,mode=755")
        .run(|| {
            text(["/t/x", "/dev/x", "/t/below/x"].map(|path| {
                File::create(path)
                    .map_or_else(|error| format!("{:?}", error.kind()), |_| "made".to_owned())
            }))
        });
    assert_eq!(
        answer.unwrap(),
        "ReadOnlyFilesystem\nReadOnlyFilesystem\nmade"
    );
}

fn copy_up() {
    let bundle = Bundle::bare();
    write(&bundle.root("data/dir/file"), "content");
    fs::set_permissions(
        bundle.root("data/dir/file"),
        fs::Permissions::from_mode(0o640),
    )
    .unwrap();
    std::os::unix::fs::chown(bundle.root("data/dir"), Some(7), Some(8)).unwrap();
    std::os::unix::fs::chown(bundle.root("data"), Some(9), Some(10)).unwrap();
    std::os::unix::fs::symlink("dir/file", bundle.root("data/link")).unwrap();
    let host = bundle.root("data/dir/file");
    let bundle = bundle.mount("/data", "tmpfs", "tmpfs", "tmpcopyup");
    let answer = bundle.run(|| {
        let stat = fs::metadata("/data/dir/file").unwrap();
        let owner = |path: &str| {
            let stat = fs::metadata(path).unwrap();
            format!("{}:{}", stat.uid(), stat.gid())
        };
        let owners = [owner("/data"), owner("/data/dir")].join(" ");
        let content = fs::read_to_string("/data/link").unwrap();
        fs::write("/data/dir/file", "changed").unwrap();
        format!("{content} {:o} {owners}", stat.mode() & 0o7777)
    });
    assert_eq!(answer.unwrap(), "content 640 9:10 7:8");
    assert_eq!(fs::read_to_string(host).unwrap(), "content");
}

fn propagation() {
    let info = Bundle::bare()
        .mount("/proc", "proc", "proc", "")
        .mount("/a", "tmpfs", "tmpfs", "shared")
        .mount("/b", "tmpfs", "tmpfs", "")
        .mount("/c", "tmpfs", "tmpfs", "unbindable")
        .run(mountinfo)
        .unwrap();
    assert!(mount_at(&info, "/a")[1].starts_with("shared:"), "{info}");
    assert_eq!(mount_at(&info, "/b")[1], "");
    assert_eq!(mount_at(&info, "/c")[1], "unbindable");
}

fn rootfs_propagation() {
    // The bundle on a shared mount, as under systemd.
    for (asked, optional) in [
        ("rshared", "shared:"),
        ("shared", "shared:"),
        ("rslave", "master:"),
        ("rprivate", ""),
        ("", "master:"),
    ] {
        let mut bundle = Bundle::bare();
        let path = bundle.path.clone();
        bundle.host_mount(path.clone(), MsFlags::empty());
        let shared = MsFlags::MS_SHARED;
        nix::mount::mount(None::<&str>, &path, None::<&str>, shared, None::<&str>).unwrap();
        fs::create_dir_all(bundle.root("bin")).unwrap();
        let before = mountinfo();
        let bundle = bundle
            .mount("/proc", "proc", "proc", "")
            .with("/linux/rootfsPropagation", json!(asked));
        let info = bundle.run(mountinfo).unwrap();
        let got = mount_at(&info, "/")[1];
        assert!(
            got.starts_with(optional) && got.is_empty() == optional.is_empty(),
            "{asked}: {got}"
        );
        assert_eq!(before, mountinfo(), "{asked}: a mount came to the host");
    }
    let error = Bundle::bare()
        .with("/linux/rootfsPropagation", json!("open"))
        .refused();
    assert_eq!(
        error,
        "config.json: linux.rootfsPropagation: \"open\" is no propagation type"
    );
}

fn cgroup_v1() {
    let bundle = Bundle::bare();
    let hierarchy = |name: &str, data: &str| {
        let callers = bundle.beside(name);
        write(&callers.join("tasks"), name);
        // One of them has no cgroup of its own, as without root.
        let own = if name == "systemd" {
            callers.join("gone")
        } else {
            callers.clone()
        };
        Hierarchy {
            name: name.to_owned(),
            data: data.to_owned(),
            callers,
            own,
        }
    };
    let v1 = vec![
        hierarchy("cpu,cpuacct", "cpu,cpuacct"),
        hierarchy("systemd", "name=systemd"),
    ];
    let mut bundle = bundle;
    bundle.cgroups = CgroupView {
        v1,
        ..CgroupView::default()
    };
    // No cgroup namespace.
    let namespaces = json!([{"type": "mount"}, {"type": "pid"}]);
    let answer = bundle
        .with("/linux/namespaces", namespaces)
        .mount("/proc", "proc", "proc", "")
        .mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            "nosuid,noexec,nodev,relatime,ro",
        )
        .run(|| {
            let read = |path: &str| fs::read_to_string(path).unwrap();
            assert!(File::create("/sys/fs/cgroup/x").is_err());
            let cpu = mount_at(&mountinfo(), "/sys/fs/cgroup/cpu,cpuacct")[0].to_owned();
            text([
                read("/sys/fs/cgroup/cpu/tasks"),
                read("/sys/fs/cgroup/cpuacct/tasks"),
                read("/sys/fs/cgroup/systemd/tasks"),
                fs::read_link("/sys/fs/cgroup/cpu")
                    .unwrap()
                    .display()
                    .to_string(),
                cpu,
            ])
        });
    assert_eq!(
        answer.unwrap(),
        "cpu,cpuacct\ncpu,cpuacct\nsystemd\ncpu,cpuacct\nro,nosuid,nodev,noexec,relatime"
    );
}

fn cgroup_v1_namespace() {
    let mut bundle = Bundle::new();
    for line in mountinfo().lines() {
        let Some((mount, filesystem)) = line.split_once(" - cgroup ") else {
            continue;
        };
        let own = Path::new(mount.split(' ').nth(4).unwrap()).to_owned();
        let name = own.file_name().unwrap().to_str().unwrap().to_owned();
        let options = filesystem.split(' ').next_back().unwrap();
        let data = options.trim_start_matches("rw,").to_owned();
        bundle.cgroups.v1.push(Hierarchy {
            name,
            data,
            callers: own.clone(),
            own,
        });
    }
    let names: Vec<String> = bundle
        .cgroups
        .v1
        .iter()
        .map(|one| one.name.clone())
        .collect();
    // On a host without v1 this says the same of cgroup2.
    let info = bundle.run(mountinfo).unwrap();
    let kind = if names.is_empty() { "cgroup2" } else { "tmpfs" };
    assert_eq!(mount_at(&info, "/sys/fs/cgroup")[2], kind);
    for name in names {
        let [options, _, kind, ..] = mount_at(&info, &format!("/sys/fs/cgroup/{name}"));
        let expected = ("ro,nosuid,nodev,noexec,relatime", "cgroup");
        assert_eq!((options, kind), expected, "{name}");
        // Not a bind of the host's: the namespace's root is the own cgroup.
        let on = format!(" / /sys/fs/cgroup/{name} ");
        assert!(info.contains(&on), "{info}");
    }
}

fn long_option() {
    let bundle = Bundle::bare();
    let mut lower = Vec::new();
    for name in ["one", "two", "three", "four"] {
        let name = format!("{name}-{}", "x".repeat(80));
        write(&bundle.beside(&name).join(&name[..3]), "here");
        lower.push(bundle.beside(&name).to_str().unwrap().to_owned());
    }
    let option = format!("lowerdir={}", lower.join(":"));
    let answer = bundle
        .mount("/o", "overlay", "overlay", &format!("ro,{option}"))
        .run(|| fs::read_to_string("/o/one").unwrap());
    assert_eq!(answer.unwrap(), "here");
}

fn sysctls() {
    let answer = Bundle::new()
        .with(
            "/linux/sysctl",
            json!({"net.ipv4.ip_forward": "1", "kernel/domainname": "inside", "kernel.msgmax": "4096"}),
        )
        .run(|| {
            text(["net/ipv4/ip_forward", "kernel/domainname", "kernel/msgmax"].map(|path| {
                let value = fs::read_to_string(Path::new("/proc/sys").join(path)).unwrap();
                value.trim_end().to_owned()
            }))
        });
    assert_eq!(answer.unwrap(), "1\ninside\n4096");
    let error = Bundle::new()
        .with("/linux/sysctl", json!({"net.nothing": "1"}))
        .refused();
    assert_eq!(
        error,
        "sysctl \"net/nothing\": open: no such file or directory"
    );
}

/// A configuration with a user namespace, 0 being 100000 outside.
fn with_user_namespace(bundle: Bundle) -> Bundle {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let namespaces =
        ["mount", "pid", "user", "network", "ipc", "uts"].map(|kind| json!({"type": kind}));
    for path in [&bundle.path, &bundle.root(""), &bundle.root("bin")] {
        std::os::unix::fs::chown(path, Some(100_000), Some(100_000)).unwrap();
    }
    bundle
        .with("/linux/namespaces", json!(namespaces))
        .with("/linux/uidMappings", map.clone())
        .with("/linux/gidMappings", map)
}

fn user_namespace() {
    let bundle = Bundle::new();
    // A source that the container's root may not reach by its path.
    write(&bundle.beside("private/file"), "secret");
    let closed = fs::Permissions::from_mode(0o700);
    fs::set_permissions(bundle.beside("private"), closed).unwrap();
    let source = bundle.beside("private/file").to_str().unwrap().to_owned();
    let mut bundle = with_user_namespace(bundle).mount("/etc/file", "bind", &source, "bind,ro");
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    // A cgroup namespace of the host's user namespace can't be mounted.
    mounts.retain(|mount| mount["type"] != "cgroup");
    let answer = bundle.run(|| {
        let info = mountinfo();
        let null = fs::metadata("/dev/null").unwrap();
        fs::write("/dev/null", "x").unwrap();
        let shared: Vec<&str> = info
            .lines()
            .filter(|line| line.contains("shared:"))
            .collect();
        assert!(shared.is_empty(), "{shared:?}");
        text([
            fs::read_to_string("/etc/file").unwrap(),
            mount_at(&info, "/dev/null")[2].to_owned(),
            format!("{}:{}", libc::major(null.rdev()), libc::minor(null.rdev())),
            format!("{}", fs::metadata("/dev/shm").unwrap().uid()),
        ])
    });
    assert_eq!(answer.unwrap(), "secret\ndevtmpfs\n1:3\n0");
}

fn locked_attributes() {
    let mut bundle = with_user_namespace(Bundle::bare());
    let source = bundle.beside("source");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    bundle.host_mount(source.clone(), flags);
    let path = source.to_str().unwrap();
    let bundle = bundle
        .mount("/proc", "proc", "proc", "")
        .mount("/m", "bind", path, "bind,ro");
    let info = bundle.run(mountinfo).unwrap();
    assert_eq!(mount_at(&info, "/m")[0], "ro,nosuid,nodev,relatime");
    let error = bundle.mount("/n", "bind", path, "bind,dev").refused();
    let expected =
        format!("mount {path:?} on \"/n\": the source's nodev is locked in a user namespace");
    assert_eq!(error, expected);
}

fn rootless() {
    let mut bundle = Bundle::new();
    for path in [&bundle.path, &bundle.root(""), &bundle.root("bin")] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let map = json!([{"containerID": 0, "hostID": 65534, "size": 1}]);
    let namespaces = ["pid", "ipc", "uts", "mount", "user"].map(|kind| json!({"type": kind}));
    for mount in bundle.config["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "sysfs" {
            mount["type"] = json!("none");
            mount["source"] = json!("/sys");
            let options = mount["options"].as_array_mut().unwrap();
            options.push(json!("rbind"));
        }
        // No group tty in a map of one id.
        let options = mount["options"].as_array_mut();
        options
            .into_iter()
            .for_each(|options| options.retain(|option| option != "gid=5"));
    }
    let mut bundle = bundle
        .with("/linux/namespaces", json!(namespaces))
        .with("/linux/uidMappings", map.clone())
        .with("/linux/gidMappings", map);
    // Without a cgroup namespace a user namespace may not mount cgroup2: it is
    // bound, or (CVE-2023-25809) covered where it isn't found.
    let unified = mountinfo()
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .and_then(|line| line.split(' ').nth(4).map(str::to_owned))
        .expect("the host has cgroup2");
    for (unified, kind) in [(unified.as_str(), "cgroup2"), ("/no/such", "tmpfs")] {
        bundle.cgroups.unified = Some(unified.into());
        let answer = bundle.run_as_nobody(|| {
            let info = mountinfo();
            let cgroup = File::create("/sys/fs/cgroup/x").unwrap_err();
            let [options, _, kind, ..] = mount_at(&info, "/sys/fs/cgroup");
            text([
                mount_at(&info, "/sys")[0].to_owned(),
                format!("{kind} {options}"),
                mount_at(&info, "/proc")[2].to_owned(),
                format!("{}", fs::metadata("/dev/shm").unwrap().uid()),
                format!("{:?}", cgroup.kind()),
            ])
        });
        let closed = "ro,nosuid,nodev,noexec,relatime";
        let expected = format!("{closed}\n{kind} {closed}\nproc\n0\nReadOnlyFilesystem");
        assert_eq!(answer.unwrap(), expected);
    }
}

fn idmap() {
    let bundle = Bundle::bare();
    write(&bundle.beside("data/file"), "");
    std::os::unix::fs::chown(bundle.beside("data/file"), Some(1000), Some(1001)).unwrap();
    let source = bundle.beside("data").to_str().unwrap().to_owned();
    let mut bundle = bundle.mount("/data", "bind", &source, "bind");
    let map = |to: u32| json!([{"containerID": 1000, "hostID": to, "size": 10}]);
    bundle.config["mounts"][0]["uidMappings"] = map(5000);
    bundle.config["mounts"][0]["gidMappings"] = map(6000);
    let answer = bundle.run(|| {
        let stat = fs::metadata("/data/file").unwrap();
        format!("{}:{}", stat.uid(), stat.gid())
    });
    assert_eq!(answer.unwrap(), "5000:6001");
    // With idmap alone, the ids of the container's user namespace: inside, the
    // owner is who he is outside.
    let bundle = with_user_namespace(Bundle::bare());
    write(&bundle.beside("data/file"), "");
    std::os::unix::fs::chown(bundle.beside("data/file"), Some(1000), Some(1001)).unwrap();
    let source = bundle.beside("data").to_str().unwrap().to_owned();
    let answer = bundle
        .mount("/data", "bind", &source, "rbind,ridmap")
        .run(|| {
            let stat = fs::metadata("/data/file").unwrap();
            format!("{}:{}", stat.uid(), stat.gid())
        });
    assert_eq!(answer.unwrap(), "1000:1001");
    let error = Bundle::bare()
        .mount("/data", "bind", &source, "bind,idmap")
        .refused();
    assert_eq!(
        error,
        "config.json: mounts[0].options: \
         idmap without uidMappings needs a user namespace in linux.namespaces"
    );
}

fn no_pivot() {
    let mut bundle = Bundle::new();
    bundle.no_pivot = true;
    let answer = bundle.run(|| {
        let names: Vec<String> = fs::read_dir("/")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(
            names.iter().any(|name| name == "proc") && !names.iter().any(|name| name == "boot")
        );
        let kernel = mountinfo()
            .lines()
            .filter(|line| line.contains(" - proc ") || line.contains(" - sysfs "))
            .filter_map(|line| line.split(' ').nth(4).map(str::to_owned))
            .collect::<Vec<_>>();
        kernel.join(" ")
    });
    let answer = answer.unwrap();
    assert!(answer.starts_with("/proc /sys "), "{answer}");
    assert_eq!(answer.split(' ').filter(|path| *path == "/proc").count(), 1);
    let mut bundle = Bundle::bare();
    bundle.no_pivot = true;
    let error = bundle
        .with("/linux/rootfsPropagation", json!("rprivate"))
        .refused();
    assert_eq!(
        error,
        "config.json: linux.rootfsPropagation: private is not safe without pivot_root"
    );
}

fn console() {
    let answer = Bundle::new().with("/root/readonly", json!(false)).run(|| {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rrun::sys::terminal::open_peer(master.as_fd()).unwrap();
        let root = File::open("/").unwrap();
        device::console(root.as_fd(), slave.as_fd()).unwrap();
        let (console, peer) = (
            fs::metadata("/dev/console").unwrap(),
            fs::metadata("/dev/pts/0").unwrap(),
        );
        let null = File::open("/dev/null").unwrap();
        let refused = device::console(root.as_fd(), null.as_fd()).unwrap_err();
        format!("{} {refused}", console.rdev() == peer.rdev())
    });
    assert_eq!(
        answer.unwrap(),
        "true mount on \"/dev/console\": no pseudo-terminal"
    );
}
