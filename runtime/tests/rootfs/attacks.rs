//! What an image or a config.json must not achieve. Each case names the CVE,
//! or the rule of the specification, that taught it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use rrun::sys::process::{self, Clone, Forked};
use rustix::fs::{CWD, RenameFlags};
use serde_json::json;

use crate::bundle::{Bundle, mount_at, mountinfo, write};

pub(crate) const CASES: &[crate::Case] = &[
    (
        "CVE-2019-18837: a link in a destination stays inside",
        destination_link,
    ),
    (
        "CVE-2019-19921: /proc or /sys that is no directory is refused",
        proc_link,
    ),
    ("CVE-2019-16884: nothing but a procfs on /proc", over_proc),
    (
        "CVE-2026-41579: /dev that is a link to the host stays inside",
        dev_link,
    ),
    (
        "CVE-2025-31133: a /dev/null that isn't one masks nothing",
        false_null,
    ),
    (
        "CVE-2021-30465, CVE-2024-45310: a directory swapped for a link",
        swapped_directory,
    ),
    (
        "a link to the root or into procfs is no destination",
        link_to_root,
    ),
    ("a device whose place is taken is an error", taken_device),
    ("a root that is a link is refused", root_link),
    (
        "an error names the mount, the call and the kernel's reason",
        error_text,
    ),
];

/// The names in a directory.
fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn destination_link() {
    let bundle = Bundle::bare();
    let host = bundle.beside("host");
    write(&host.join("passwd"), "host");
    symlink(&host, bundle.root("a")).unwrap();
    symlink("../../../../../../..", bundle.root("up")).unwrap();
    let up = format!("/up{}/b", host.display());
    let bundle = bundle
        .mount("/proc", "proc", "proc", "")
        .mount("/a/x", "tmpfs", "tmpfs", "")
        .mount("/a", "tmpfs", "tmpfs", "")
        .mount(&up, "tmpfs", "tmpfs", "");
    let info = bundle.run(mountinfo).unwrap();
    // The same path, but of the container.
    assert_eq!(mount_at(&info, host.to_str().unwrap())[2], "tmpfs");
    assert_eq!(names(&host), ["passwd"]);
}

fn proc_link() {
    for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        for file in [false, true] {
            let bundle = Bundle::bare();
            fs::create_dir(bundle.root("other")).unwrap();
            if file {
                write(&bundle.root(name), "");
            } else {
                symlink("/other", bundle.root(name)).unwrap();
            }
            let to = format!("/{name}");
            assert_eq!(
                bundle.mount(&to, kind, kind, "").refused(),
                format!(
                    "mount {kind:?} on {to:?}: \
                     filesystem {kind:?} must be mounted on ordinary directory"
                )
            );
        }
    }
    // Also on the way, and where the link dangles.
    let bundle = Bundle::bare();
    symlink("/gone", bundle.root("a")).unwrap();
    assert_eq!(
        bundle.mount("/a/proc", "proc", "proc", "").refused(),
        "mount \"proc\" on \"/a/proc\": \
         filesystem \"proc\" must be mounted on ordinary directory"
    );
}

fn over_proc() {
    let not_proc = "\"/proc\" cannot be mounted because it is not of type proc";
    let inside = |path: &str| format!("{path:?} cannot be mounted because it is inside /proc");
    for (to, kind, source, options, error) in [
        (
            "/proc",
            "tmpfs",
            "tmpfs",
            "",
            format!("config.json: mounts[0].destination: {not_proc}"),
        ),
        (
            "/proc",
            "bind",
            "/etc",
            "bind",
            format!("mount \"/etc\" on \"/proc\": {not_proc}"),
        ),
        (
            "/proc",
            "bind",
            "/proc/sys",
            "bind",
            format!("mount \"/proc/sys\" on \"/proc\": {not_proc}"),
        ),
        (
            "/proc/self/attr",
            "tmpfs",
            "tmpfs",
            "",
            format!(
                "config.json: mounts[0].destination: {}",
                inside("/proc/self/attr")
            ),
        ),
        (
            "/x/../proc//./sys",
            "bind",
            "/etc",
            "bind",
            format!(
                "config.json: mounts[0].destination: {}",
                inside("/proc/sys")
            ),
        ),
        (
            "/proc/x/..",
            "tmpfs",
            "tmpfs",
            "",
            format!("config.json: mounts[0].destination: {not_proc}"),
        ),
        (
            "/",
            "tmpfs",
            "tmpfs",
            "",
            "config.json: mounts[0].destination: mounting into / is prohibited".to_owned(),
        ),
    ] {
        assert_eq!(
            Bundle::bare().mount(to, kind, source, options).refused(),
            error,
            "{to}"
        );
    }
    // What lxcfs does, and a host's procfs, are fine.
    let bundle = Bundle::bare();
    write(&bundle.beside("uptime"), "1 1\n");
    let source = bundle.beside("uptime").to_str().unwrap().to_owned();
    let answer = bundle
        .mount("/proc", "bind", "/proc", "rbind")
        .mount("/proc/uptime", "bind", &source, "bind,ro")
        .run(|| fs::read_to_string("/proc/uptime").unwrap());
    assert_eq!(answer.unwrap(), "1 1\n");
}

fn dev_link() {
    let bundle = Bundle::bare();
    let host = bundle.beside("host");
    fs::create_dir(&host).unwrap();
    symlink(&host, bundle.root("dev")).unwrap();
    bundle.run(String::new).unwrap();
    assert_eq!(names(&host), [""; 0]);
    // Where it leads to, inside the root, the devices are made.
    let inside = bundle.root(host.strip_prefix("/").unwrap().to_str().unwrap());
    assert!(names(&inside).contains(&"null".to_owned()));
}

fn false_null() {
    // /dev is not ours to fill when it is bound, and the image's null a link.
    let bundle = Bundle::bare();
    let dev = bundle.beside("dev");
    fs::create_dir(&dev).unwrap();
    write(&bundle.root("secret"), "secret");
    write(&bundle.root("other"), "");
    let source = dev.to_str().unwrap().to_owned();
    let bundle = bundle
        .mount("/dev", "bind", &source, "bind")
        .with("/linux/maskedPaths", json!(["/nothing", "/secret"]));
    let error = bundle.refused();
    assert!(error.starts_with("mask /secret: openat2("), "{error}");
    assert!(
        error.ends_with("\"/dev/null\", O_PATH): no such file or directory"),
        "{error}"
    );
    symlink("/other", dev.join("null")).unwrap();
    let error = bundle.refused();
    assert!(
        error.ends_with("too many symbolic links encountered"),
        "{error}"
    );
    fs::remove_file(dev.join("null")).unwrap();
    write(&dev.join("null"), "");
    assert_eq!(
        bundle.refused(),
        "mask /secret: \"/dev/null\" is not the null device"
    );
}

/// A process that swaps two names for each other until it is dropped.
struct Swapper(rrun::sys::handle::Handle);

impl Swapper {
    fn new(one: &Path, other: &Path) -> Self {
        let (one, other) = (one.to_owned(), other.to_owned());
        let Forked::Parent(_, pidfd) = process::fork(&Clone::default()).unwrap() else {
            // Not longer than the tests, whatever becomes of them.
            let until = Instant::now() + Duration::from_secs(60);
            while Instant::now() < until {
                let swap = RenameFlags::EXCHANGE;
                let _ = rustix::fs::renameat_with(CWD, &one, CWD, &other, swap);
            }
            process::exit_now(0);
        };
        Self(pidfd)
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        let _ = self.0.signal(libc::SIGKILL);
        let _ = self.0.wait();
    }
}

fn swapped_directory() {
    let bundle = Bundle::bare();
    let host = bundle.beside("host");
    write(&host.join("deep/passwd"), "host");
    fs::create_dir_all(bundle.root("x/deep")).unwrap();
    symlink(&host, bundle.root("link")).unwrap();
    write(&bundle.beside("file"), "");
    let file = bundle.beside("file").to_str().unwrap().to_owned();
    let bundle = bundle
        .mount("/x/deep", "tmpfs", "tmpfs", "")
        .mount("/x/deep/../made/dir", "tmpfs", "tmpfs", "")
        .mount("/x/made/file", "bind", &file, "bind");
    let swapper = Swapper::new(&bundle.root("x"), &bundle.root("link"));
    let rounds = 200;
    let mut made = 0;
    for _ in 0..rounds {
        // Whether it comes to be or not, the host's directory stays as it was.
        made += u32::from(bundle.run(String::new).is_ok());
        assert_eq!(names(&host), ["deep"]);
        assert_eq!(names(&host.join("deep")), ["passwd"]);
    }
    drop(swapper);
    assert!(made > 0, "no round of {rounds} succeeded");
}

fn link_to_root() {
    let bundle = Bundle::bare();
    symlink("/", bundle.root("a")).unwrap();
    assert_eq!(
        bundle.mount("/a", "tmpfs", "tmpfs", "").refused(),
        "mount \"tmpfs\" on \"/a\": mounting into / is prohibited"
    );
    let bundle = Bundle::bare();
    symlink("/proc/sys", bundle.root("a")).unwrap();
    assert_eq!(
        bundle
            .mount("/proc", "proc", "proc", "")
            .mount("/a", "tmpfs", "tmpfs", "")
            .refused(),
        "mount \"tmpfs\" on \"/a\": \"/a\" cannot be mounted because it is inside /proc"
    );
}

fn taken_device() {
    let bundle = Bundle::bare();
    write(&bundle.root("dev/null"), "");
    assert_eq!(
        bundle.refused(),
        "create device \"/dev/null\": another file is in its place"
    );
    let device =
        |path: &str, kind: &str| json!({"path": path, "type": kind, "major": 1, "minor": 3});
    let bundle = Bundle::bare().with(
        "/linux/devices",
        json!([
            device("/dev/null", "c"),
            device("/deep/fifo", "p"),
            device("/deep/null", "c")
        ]),
    );
    bundle.run(String::new).unwrap();
    // The same again finds them in place.
    bundle.run(String::new).unwrap();
    assert_eq!(names(&bundle.root("deep")), ["fifo", "null"]);
}

fn root_link() {
    let bundle = Bundle::bare();
    fs::rename(bundle.beside("rootfs"), bundle.beside("real")).unwrap();
    symlink("real", bundle.beside("rootfs")).unwrap();
    let path = bundle.beside("rootfs");
    let error = bundle.refused();
    let expected = format!("prepare rootfs {path:?}: open({path:?}, ");
    assert!(error.starts_with(&expected), "{error}");
    assert!(error.ends_with("not a directory"), "{error}");
}

fn error_text() {
    let bundle = Bundle::bare().mount("/t", "tmpfs", "tmpfs", "size=abc");
    let error = bundle.refused();
    assert!(
        error.starts_with("mount \"tmpfs\" on \"/t\": fsconfig(["),
        "{error}"
    );
    assert!(
        error.ends_with(
            "]<\"tmpfs\">, \"size\", \"abc\") (tmpfs: Bad value for 'size'): invalid argument"
        ),
        "{error}"
    );
    let error = Bundle::bare().mount("/t", "nofs", "nofs", "").refused();
    assert_eq!(
        error,
        "mount \"nofs\" on \"/t\": fsopen(\"nofs\"): no such device"
    );
    let error = Bundle::bare()
        .mount("/t", "bind", "/no/such", "bind")
        .refused();
    assert_eq!(
        error,
        "mount \"/no/such\" on \"/t\": \
         open_tree(AT_FDCWD, \"/no/such\", OPEN_TREE_CLONE): no such file or directory"
    );
    let error = Bundle::bare()
        .mount("/t", "bind", "/etc", "bind,size=1")
        .refused();
    assert_eq!(
        error,
        "config.json: mounts[0].options: \
         bind mounts cannot have any filesystem-specific options: \"size\""
    );
}
