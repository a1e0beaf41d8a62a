//! Root filesystems on the real kernel: what containerd asks for is mounted,
//! looked at from outside, and unmounted again.
//!
//! The harness of cargo runs threads, and the working directory and the mount
//! namespace are the process's: this main runs the cases one after the other.
//! Run it as root, with a word to run only the cases that contain it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a case fails by a panic"
)]

#[path = "../src/rootfs/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "its tables run with the shim's own unit tests"
)]
mod rootfs;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::Command;

use containerd_shim_protos::types::mount::Mount;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;

/// A case.
type Case = fn(&Place);

/// Each case with its name.
const CASES: &[(&str, Case)] = &[
    ("an overlay is mounted and unmounted", overlay),
    ("an overlay of 200 layers, by parameters", many_layers),
    ("500 layers with names too long for fsconfig", long_names),
    (
        "a failed overlay leaves the working directory",
        failed_fallback,
    ),
    (
        "a bind shows its source, and not what is mounted below",
        bind,
    ),
    ("an rbind shows what is mounted below", rbind),
    ("a read-only bind refuses to be written", read_only_bind),
    (
        "attributes of a bind are set without ro, too",
        bind_attributes,
    ),
    ("propagation is set", propagation),
    ("tmpfs has its data", tmpfs),
    ("mounts are made in order, at paths below", targets),
    ("a target that is a link stays inside", link_target),
    ("what was mounted before a failure is undone", undone),
    ("a failed remount is undone", undone_halfway),
    ("an error names the mount", error_text),
    ("unmount takes all that is stacked", stacked),
    ("unmount of nothing is no error", nothing_mounted),
    ("a bind is idmapped, in two ranges", idmapped_bind),
    ("the layers of an overlay are idmapped", idmapped_overlay),
    ("half a map is no map", half_a_map),
    ("a loop device comes and goes with its mount", loop_device),
    ("erofs layers are mounted from files", erofs),
];

fn main() {
    // What the cases mount goes with this process.
    rrun_sys::namespace::unshare(CloneFlags::CLONE_NEWNS).expect("these tests run as root");
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let (mut passed, mut failed) = (0, 0);
    for (name, case) in CASES.iter().filter(|(name, _)| name.contains(&wanted)) {
        let before = mounts();
        let here = std::env::current_dir().unwrap();
        let run = catch_unwind(|| {
            let place = Place::new();
            case(&place);
            rootfs::unmount(&place.target).unwrap();
            assert_eq!(std::env::current_dir().unwrap(), here, "working directory");
            drop(place);
            assert_eq!(mounts(), before, "something is left");
        });
        match run {
            Ok(()) => passed += 1,
            Err(_) => {
                println!("FAILED: {name}");
                failed += 1;
            }
        }
    }
    println!("rootfs: {passed} passed, {failed} failed");
    assert_eq!(failed, 0);
    assert_ne!(passed, 0, "no case contains {wanted:?}");
}

/// A folder on a tmpfs of its own (an overlay can't stand on every
/// filesystem), with a directory to mount on.
struct Place {
    top: PathBuf,
    target: PathBuf,
}

impl Place {
    fn new() -> Self {
        let top = std::env::temp_dir().join(format!("shim-rootfs-{}", std::process::id()));
        fs::create_dir_all(&top).unwrap();
        let kind = Some("tmpfs");
        nix::mount::mount(kind, &top, kind, MsFlags::empty(), None::<&str>).unwrap();
        let target = top.join("rootfs");
        fs::create_dir(&target).unwrap();
        Self { top, target }
    }

    /// A place whose files can be idmapped: a tmpfs can't before Linux 6.3.
    fn mappable(&self) -> Self {
        let image = self.top.join("disk.image");
        let top = self.top.join("disk");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        fs::create_dir(&top).unwrap();
        run("mkfs.ext4", &["-q", image.to_str().unwrap()]);
        let [image, target] = [&image, &top].map(|path| path.to_str().unwrap());
        run("mount", &["-t", "ext4", "-o", "loop", image, target]);
        let target = top.join("rootfs");
        fs::create_dir(&target).unwrap();
        Self { top, target }
    }

    /// A directory with a file of the same name in it.
    fn layer(&self, name: &str) -> String {
        let path = self.top.join(name);
        fs::create_dir_all(&path).unwrap();
        let file = path.file_name().unwrap().to_str().unwrap();
        fs::write(path.join(file), name).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// An overlay of these lower directories, with an upper one.
    fn overlay(&self, lower: &[String]) -> Mount {
        let upper = self.layer("upper");
        let work = self.top.join("work");
        fs::create_dir_all(&work).unwrap();
        mount(
            "overlay",
            "overlay",
            &[
                "index=off",
                &format!("workdir={}", work.display()),
                &format!("upperdir={upper}"),
                &format!("lowerdir={}", lower.join(":")),
            ],
        )
    }

    fn mount(&self, mounts: &[Mount]) {
        rootfs::mount(mounts, &self.target).unwrap();
    }

    fn has(&self, path: &str) -> bool {
        self.target.join(path).exists()
    }

    /// The line of mountinfo for what is on top at the target.
    fn line(&self) -> String {
        let all = mounts();
        let target = format!(" {} ", self.target.display());
        let line = all.lines().rfind(|line| line.contains(&target));
        line.expect("something is mounted").to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let detach = nix::mount::MntFlags::MNT_DETACH;
        nix::mount::umount2(&self.top, detach).unwrap();
        fs::remove_dir(&self.top).unwrap();
    }
}

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::new();
    kind.clone_into(&mut mount.type_);
    source.clone_into(&mut mount.source);
    mount.options = options.iter().map(|&option| option.to_owned()).collect();
    mount
}

fn at(target: &str, mut mount: Mount) -> Mount {
    target.clone_into(&mut mount.target);
    mount
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

fn overlay(place: &Place) {
    let lower = [place.layer("a"), place.layer("b")];
    place.mount(&[place.overlay(&lower)]);
    assert!(place.has("a") && place.has("b") && place.has("upper"));
    fs::write(place.target.join("new"), "").unwrap();
    assert!(place.top.join("upper/new").exists());
    rootfs::unmount(&place.target).unwrap();
    assert_eq!(fs::read_dir(&place.target).unwrap().count(), 0);
}

fn many_layers(place: &Place) {
    let layers: Vec<String> = (0..200)
        .map(|n| place.layer(&format!("io.containerd.snapshotter.v1/snapshots/{n}")))
        .collect();
    place.mount(&[place.overlay(&layers)]);
    assert!((0..200).all(|n| place.has(&n.to_string())));
    // Whoever looks at the mount sees the layers by their names, whole or
    // (until Linux 6.7) relative.
    let line = place.line();
    assert!(
        line.contains(&layers[199]) || line.contains(":198:199,"),
        "{line}"
    );
}

fn long_names(place: &Place) {
    let folder = "n".repeat(200);
    let layers: Vec<String> = (0..500)
        .map(|n| place.layer(&format!("{folder}/{folder}/{n}")))
        .collect();
    let mut mount = place.overlay(&layers);
    mount.options.push("ro".to_owned());
    place.mount(&[mount]);
    assert!((0..500).all(|n| place.has(&n.to_string())));
    let error = fs::write(place.target.join("new"), "").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
}

fn failed_fallback(place: &Place) {
    // Too long even relative to the folder in common.
    let folder = "n".repeat(250);
    let mut layers: Vec<String> = (0..40)
        .map(|n| place.layer(&format!("{n}/{folder}/x")))
        .collect();
    // Fails after the directory was changed: an option of no kernel.
    let mut mount = place.overlay(&layers);
    mount.options.push("nonsense".to_owned());
    let error = rootfs::mount(&[mount], &place.target).unwrap_err();
    assert!(error.to_string().ends_with(": invalid argument"), "{error}");
    layers.push("/nowhere".to_owned());
    let error = rootfs::mount(&[place.overlay(&layers)], &place.target).unwrap_err();
    let target = place.target.display();
    assert_eq!(
        error.to_string(),
        format!(
            "mount overlay \"overlay\" on \"{target}\": open a layer of the overlay: \
             open(\"/nowhere\", O_DIRECTORY): no such file or directory"
        )
    );
}

/// A source with a mount below it.
fn nested(place: &Place) -> String {
    let source = place.layer("source");
    let below = place.top.join("source/below");
    fs::create_dir(&below).unwrap();
    let kind = Some("tmpfs");
    nix::mount::mount(kind, &below, kind, MsFlags::empty(), None::<&str>).unwrap();
    fs::write(below.join("deep"), "").unwrap();
    source
}

fn bind(place: &Place) {
    let source = nested(place);
    place.mount(&[mount("bind", &source, &["bind"])]);
    assert!(place.has("source") && !place.has("below/deep"));
}

fn rbind(place: &Place) {
    let source = nested(place);
    place.mount(&[mount("bind", &source, &["rbind", "rw"])]);
    assert!(place.has("source") && place.has("below/deep"));
    rootfs::unmount(&place.target).unwrap();
    assert!(place.top.join("source/below/deep").exists());
}

fn read_only_bind(place: &Place) {
    let source = place.layer("source");
    place.mount(&[mount("bind", &source, &["rbind", "ro"])]);
    let error = fs::write(place.target.join("new"), "").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    fs::write(format!("{source}/new"), "").unwrap();
}

fn bind_attributes(place: &Place) {
    let source = place.layer("source");
    place.mount(&[mount(
        "bind",
        &source,
        &["bind", "nosuid", "nodev", "noexec"],
    )]);
    let line = place.line();
    assert!(line.contains(" rw,nosuid,nodev,noexec,"), "{line}");
}

fn propagation(place: &Place) {
    let source = place.layer("source");
    place.mount(&[mount("bind", &source, &["rbind", "rshared"])]);
    assert!(place.line().contains(" shared:"), "{}", place.line());
    rootfs::unmount(&place.target).unwrap();
    place.mount(&[mount("bind", &source, &["bind", "unbindable"])]);
    assert!(place.line().contains(" unbindable "), "{}", place.line());
}

fn tmpfs(place: &Place) {
    place.mount(&[mount(
        "tmpfs",
        "tmpfs",
        &["nosuid", "size=64k", "mode=0711"],
    )]);
    let line = place.line();
    assert!(line.contains(" rw,nosuid,"), "{line}");
    assert!(
        line.contains(" - tmpfs tmpfs rw,size=64k,mode=711"),
        "{line}"
    );
}

fn targets(place: &Place) {
    let data = place.layer("data");
    fs::create_dir(format!("{data}/sub")).unwrap();
    place.mount(&[
        mount("bind", &data, &["bind"]),
        at("sub", mount("tmpfs", "first", &[])),
        at("/sub", mount("tmpfs", "second", &["mode=0700"])),
    ]);
    let sub = fs::metadata(place.target.join("sub")).unwrap();
    assert_eq!(sub.mode() & 0o777, 0o700);
    let below = format!("{}/sub ", place.target.display());
    assert_eq!(mounts().matches(&below).count(), 2);
}

fn link_target(place: &Place) {
    let data = place.layer("data");
    let outside = place.layer("outside");
    fs::create_dir_all(format!("{data}{outside}")).unwrap();
    symlink(&outside, format!("{data}/link")).unwrap();
    place.mount(&[
        mount("bind", &data, &["bind"]),
        at("link", mount("tmpfs", "inside", &[])),
    ]);
    let inside = format!(" {}{outside} ", place.target.display());
    assert!(mounts().contains(&inside));
    assert!(!mounts().contains(&format!(" {outside} ")));
}

fn undone(place: &Place) {
    let data = place.layer("data");
    place.mount(&[mount("tmpfs", "before", &[])]);
    let wanted = [
        mount("bind", &data, &["bind"]),
        mount("tmpfs", "tmpfs", &[]),
        mount("nofs", "nofs", &[]),
    ];
    rootfs::mount(&wanted, &place.target).unwrap_err();
    // What others had mounted there stays.
    assert!(
        place.line().contains(" - tmpfs before rw"),
        "{}",
        place.line()
    );
}

fn undone_halfway(place: &Place) {
    // The bind succeeds; it can't be idmapped by an id that there isn't.
    let data = place.layer("data");
    let options = ["bind", "uidmap=0:0:1,0:5:1", "gidmap=0:0:1"];
    let error = rootfs::mount(&[mount("bind", &data, &options)], &place.target).unwrap_err();
    assert!(error.to_string().contains("uid_map"), "{error}");
    assert!(!mounts().contains(&format!(" {} ", place.target.display())));
}

fn error_text(place: &Place) {
    let target = place.target.display();
    for (wanted, text) in [
        (
            mount("nofs", "a source", &[]),
            format!(
                "mount nofs \"a source\" on \"{target}\": \
                 mount(\"a source\", \"{target}\", \"nofs\", MsFlags(0x0), \"\"): no such device"
            ),
        ),
        (
            at("x/y", mount("tmpfs", "t", &[])),
            format!("mount tmpfs \"t\" on \"{target}\" at \"x/y\": openat2("),
        ),
        (
            mount("bind", "/", &["bind", "uidmap=0:0", "gidmap=0:0:1"]),
            format!(
                "mount bind \"/\" on \"{target}\": uidmap=0:0: \
                 \"0:0\" is not CONTAINER:HOST:SIZE"
            ),
        ),
        (
            mount("erofs", "/nowhere", &["loop", "ro"]),
            format!(
                "mount erofs \"/nowhere\" on \"{target}\": \
                 open(\"/nowhere\"): no such file or directory"
            ),
        ),
    ] {
        let error = rootfs::mount(&[wanted], &place.target).unwrap_err();
        assert!(error.to_string().starts_with(&text), "{error}");
    }
}

fn stacked(place: &Place) {
    let source = nested(place);
    place.mount(&[
        mount("tmpfs", "one", &[]),
        mount("bind", &source, &["rbind"]),
        mount("tmpfs", "three", &[]),
    ]);
    let busy = fs::File::create(place.target.join("busy")).unwrap();
    rootfs::unmount(&place.target).unwrap();
    assert!(!mounts().contains(&format!(" {}", place.target.display())));
    drop(busy);
}

fn nothing_mounted(place: &Place) {
    rootfs::unmount(&place.target).unwrap();
    rootfs::unmount(&place.top.join("not there")).unwrap();
}

fn idmapped_bind(place: &Place) {
    let place = &place.mappable();
    let source = place.layer("source");
    for (name, uid, gid) in [("first", 3, 4), ("second", 20, 30), ("neither", 70, 70)] {
        let file = format!("{source}/{name}");
        fs::write(&file, "").unwrap();
        chown(&file, Some(uid), Some(gid)).unwrap();
    }
    let uids = "uidmap=0:1000:10,20:5000:1";
    let gids = "gidmap=0:2000:10,30:6000:1";
    place.mount(&[mount("bind", &source, &["rbind", "ro", uids, gids])]);
    for (name, uid, gid) in [
        ("first", 1003, 2004),
        ("second", 5000, 6000),
        ("neither", 65534, 65534),
    ] {
        let file = fs::metadata(place.target.join(name)).unwrap();
        assert_eq!((file.uid(), file.gid()), (uid, gid), "{name}");
    }
    let error = fs::write(place.target.join("new"), "").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
}

fn idmapped_overlay(place: &Place) {
    let place = &place.mappable();
    let layers = [place.layer("a"), place.layer("b"), place.layer("c")];
    chown(format!("{}/c", layers[2]), Some(5), Some(6)).unwrap();
    let mut wanted = place.overlay(&layers);
    let map = ["uidmap=0:100000:65536", "gidmap=0:100000:65536"];
    wanted.options.extend(map.map(str::to_owned));
    place.mount(&[wanted]);
    for (name, uid, gid) in [("a", 100_000, 100_000), ("c", 100_005, 100_006)] {
        let file = fs::metadata(place.target.join(name)).unwrap();
        assert_eq!((file.uid(), file.gid()), (uid, gid), "{name}");
    }
    // The upper directory is the snapshotter's to chown.
    assert_eq!(fs::metadata(place.target.join("upper")).unwrap().uid(), 0);
    let on_target = format!(" {} ", place.target.display());
    assert_eq!(mounts().matches(&on_target).count(), 1, "{}", mounts());
}

fn half_a_map(place: &Place) {
    let source = place.layer("source");
    place.mount(&[mount("bind", &source, &["bind", "uidmap=0:1000:10"])]);
    assert_eq!(fs::metadata(place.target.join("source")).unwrap().uid(), 0);
}

/// The loop devices that stand for files of the case.
fn attached(place: &Place) -> Vec<String> {
    let top = place.top.to_str().unwrap();
    let devices = fs::read_dir("/sys/block").unwrap();
    devices
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let file = fs::read_to_string(path.join("loop/backing_file")).ok()?;
            // On a tmpfs that only we see it is a path from its own root.
            (file.starts_with(top) || file.starts_with("/image")).then_some(file)
        })
        .collect()
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
}

fn loop_device(place: &Place) {
    let image = place.top.join("image");
    fs::File::create(&image).unwrap().set_len(4 << 20).unwrap();
    let image = image.to_str().unwrap();
    run("mkfs.ext4", &["-q", image]);
    place.mount(&[mount("ext4", image, &["loop"])]);
    assert!(place.has("lost+found"));
    fs::write(place.target.join("new"), "").unwrap();
    assert_eq!(attached(place).len(), 1);
    rootfs::unmount(&place.target).unwrap();
    assert_eq!(attached(place).len(), 0);
    place.mount(&[mount("ext4", image, &["loop", "ro"])]);
    assert!(place.has("new"));
    let error = fs::write(place.target.join("other"), "").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    // A filesystem that isn't there leaves no device behind.
    rootfs::unmount(&place.target).unwrap();
    let other = mount("xfs", image, &["loop"]);
    rootfs::mount(&[other], &place.target).unwrap_err();
    assert_eq!(attached(place).len(), 0);
}

fn erofs(place: &Place) {
    let image = place.top.join("image.erofs");
    let image = image.to_str().unwrap();
    run("mkfs.erofs", &["--quiet", image, &place.layer("layer")]);
    place.mount(&[mount("erofs", image, &["ro", "loop"])]);
    assert_eq!(
        fs::read_to_string(place.target.join("layer")).unwrap(),
        "layer"
    );
}
