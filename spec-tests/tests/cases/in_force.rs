//! Limits of cgroup v2 in force: what the kernel does to a program that goes
//! beyond one, read from the kernel's own counters. `hack/vm` has every
//! controller, huge pages, a disk to throttle and a device to swap to.
//!
//! No case measures how fast something is; that a throttled disk took at least
//! so long holds on any machine.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spec_tests::runtime::{Container, text, wait_until};
use spec_tests::{Bundle, Case, Needs, Test};

pub(crate) const CASES: &[Case] = &[
    runc("beyond memory.max a process is killed, and counted", |t| {
        let container = t.start(&paused(t, json!({ "memory": { "limit": 40 << 20 } })));
        assert_eq!(memory_event(t, &container, "oom_kill"), 0);
        assert_eq!(container.probe(&[], &["touch-memory", "200"]).code, 137);
        assert_eq!(memory_event(t, &container, "oom_kill"), 1);
        // The container's own program was the smaller one.
        assert_eq!(container.status(), "running");
        assert!(number(t, &container, "memory.peak") <= 40 << 20);
    }),
    runc("memory.oom.group kills all of a container", |t| {
        let resources = json!({
            "memory": { "limit": 40 << 20 }, "unified": { "memory.oom.group": "1" },
        });
        let container = t.start(&paused(t, resources));
        assert_eq!(container.probe(&[], &["touch-memory", "200"]).code, 137);
        container.wait_status("stopped");
        assert_eq!(memory_event(t, &container, "oom_group_kill"), 1);
    }),
    runc(
        "memory.high is gone beyond, counted, and kills nobody",
        |t| {
            let resources = json!({ "unified": { "memory.high": (24 << 20).to_string() } });
            let container = t.start(&paused(t, resources));
            assert_eq!(memory_event(t, &container, "high"), 0);
            let answer = container.probe(&[], &["touch-memory", "24"]).answer();
            assert_eq!(answer, json!({ "touched": 24 }));
            assert!(memory_event(t, &container, "high") > 0);
            assert_eq!(memory_event(t, &container, "oom_kill"), 0);
        },
    ),
    runc(
        "what memory.max has no room for is swapped, as far as swap.max goes",
        |t| {
            let _swap = Swap::on("128M");
            let memory = json!({ "limit": 32 << 20, "swap": 64 << 20 });
            let container = t.start(&paused(t, json!({ "memory": memory })));
            container.probe(&["-d"], &["hold-memory", "48"]).ok();
            wait_until("48 MiB are in use", || {
                let swapped = number(t, &container, "memory.swap.current");
                number(t, &container, "memory.current") + swapped >= 48 << 20
            });
            assert!(number(t, &container, "memory.current") <= 32 << 20);
            assert!(number(t, &container, "memory.swap.current") <= 32 << 20);
            assert_eq!(memory_event(t, &container, "oom_kill"), 0);
            // Both together are 64 MiB.
            assert_eq!(container.probe(&[], &["touch-memory", "90"]).code, 137);
            assert!(memory_event(t, &container, "oom_kill") > 0);
        },
    ),
    Case::kernel("no swap at all when both limits are the same", |t| {
        let _swap = Swap::on("128M");
        let memory = json!({ "limit": 32 << 20, "swap": 32 << 20 });
        let container = t.start(&paused(t, json!({ "memory": memory })));
        assert_eq!(container.probe(&[], &["touch-memory", "90"]).code, 137);
        assert_eq!(t.knob("", &container.id, "memory.swap.max"), "0");
        assert_eq!(number(t, &container, "memory.swap.current"), 0);
    })
    .needs(Needs::Vm),
    Case::kernel(
        "with checkBeforeUpdate a limit below what is in use is refused",
        |t| {
            let container = t.start(&paused(t, json!({ "memory": { "limit": 64 << 20 } })));
            container.probe(&["-d"], &["hold-memory", "32"]).ok();
            wait_until("32 MiB are in use", || {
                number(t, &container, "memory.current") >= 32 << 20
            });
            let path = t.directory.join("resources.json");
            let memory = json!({ "limit": 16 << 20, "checkBeforeUpdate": true });
            fs::write(&path, json!({ "memory": memory }).to_string()).expect("write");
            t.call(&["update", "-r", text(&path), &container.id])
                .fails(1, &["rejecting memory limit 16777216"]);
            assert_eq!(memory_event(t, &container, "oom_kill"), 0);
            assert_eq!(number(t, &container, "memory.max"), 64 << 20);
        },
    )
    .needs(Needs::Vm)
    .except(&[("runc", "1.1.5 does not know the field")]),
    runc("cpu.max throttles, until it is lifted", |t| {
        let cpu = json!({ "quota": 5000, "period": 50000 });
        let container = t.start(&with_resources(spinning(t), json!({ "cpu": cpu })));
        let stat = |name: &str| counter(t, &container, "cpu.stat", name);
        wait_until("it is throttled", || stat("nr_throttled") >= 5);
        assert!(stat("throttled_usec") > 0);
        t.call(&["update", "--cpu-quota", "-1", &container.id]).ok();
        assert_eq!(t.knob("", &container.id, "cpu.max"), "max 50000");
        let (throttled, used) = (stat("nr_throttled"), stat("usage_usec"));
        // Several periods' worth of time, of which it would have had a tenth.
        wait_until("it runs on", || stat("usage_usec") >= used + 300_000);
        assert_eq!(stat("nr_throttled"), throttled);
    }),
    runc("without a limit nothing is throttled", |t| {
        let container = t.start(&spinning(t));
        let stat = |name: &str| counter(t, &container, "cpu.stat", name);
        wait_until("it runs", || stat("usage_usec") >= 200_000);
        assert_eq!(stat("nr_throttled"), 0);
    }),
    runc(
        "cpuset is where the program runs, and update moves it",
        |t| {
            let cpu = json!({ "cpus": "1", "mems": "0" });
            let container = t.start(&paused(t, json!({ "cpu": cpu })));
            assert_eq!(t.knob("", &container.id, "cpuset.cpus.effective"), "1");
            assert_eq!(affinity(&container), "1");
            let asked = container.probe(&[], &["affinity"]).answer();
            assert_eq!(asked, json!({ "cpus": [1] }));
            t.call(&["update", "--cpuset-cpus", "0", &container.id])
                .ok();
            assert_eq!(affinity(&container), "0");
            let asked = container.probe(&[], &["affinity"]).answer();
            assert_eq!(asked, json!({ "cpus": [0] }));
        },
    ),
    runc("a fork beyond pids.max is refused, and counted", |t| {
        let container = t.start(&paused(t, json!({ "pids": { "limit": 8 } })));
        // init, the probe of exec, and six more.
        let answer = container.probe(&[], &["forks", "20"]).answer();
        assert_eq!(answer, json!({ "made": 6, "errno": 11 }));
        assert!(counter(t, &container, "pids.events", "max") >= 14);
        assert_eq!(number(t, &container, "pids.max"), 8);
    }),
    runc(
        "reads of a throttled disk take their time, and are counted",
        |t| {
            let (bundle, disk) = with_disk(t, "throttleReadIOPSDevice", 20);
            let script = "dd if=/dev/disk of=/dev/null bs=4096 count=40 iflag=direct";
            let container = t.start(&bundle);
            let begin = Instant::now();
            t.call(&["exec", &container.id, "/bin/sh", "-c", script])
                .ok();
            // 40 reads at 20 a second, of which the first come at once.
            assert!(
                begin.elapsed() >= Duration::from_secs(1),
                "{:?}",
                begin.elapsed()
            );
            assert_eq!(io_stat(t, &container, &disk, "rios"), 40);
            assert_eq!(io_stat(t, &container, &disk, "rbytes"), 40 * 4096);
        },
    ),
    runc(
        "writes to a throttled disk take their time, and are counted",
        |t| {
            let (bundle, disk) = with_disk(t, "throttleWriteBpsDevice", 1 << 20);
            let script = "dd if=/dev/zero of=/dev/disk bs=65536 count=32 oflag=direct";
            let container = t.start(&bundle);
            let begin = Instant::now();
            t.call(&["exec", &container.id, "/bin/sh", "-c", script])
                .ok();
            // 2 MiB at 1 MiB a second.
            assert!(
                begin.elapsed() >= Duration::from_secs(1),
                "{:?}",
                begin.elapsed()
            );
            assert_eq!(io_stat(t, &container, &disk, "wbytes"), 32 * 65536);
        },
    ),
    Case::kernel("huge pages beyond the limit can't be reserved", |t| {
        let limits = json!([{ "pageSize": "2MB", "limit": 4 << 20 }]);
        let container = t.start(&paused(t, json!({ "hugepageLimits": limits })));
        for file in ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"] {
            assert_eq!(number(t, &container, file), 4 << 20, "{file}");
        }
        let reserve = |mebibytes: i64| {
            container
                .probe(&[], &["huge", &mebibytes.to_string()])
                .answer()
        };
        assert_eq!(reserve(4), json!({ "mapped": 4 }));
        // By the reservation: without it the program would die of SIGBUS.
        assert_eq!(reserve(6), json!({ "errno": 12 }));
    })
    .needs(Needs::Vm)
    .except(&[("runc", "1.1.5 leaves the reservation alone")]),
    runc("what is paused does not run, and resumed it does", |t| {
        let container = t.start(&spinning(t));
        let id = container.id.as_str();
        let used = || counter(t, &container, "cpu.stat", "usage_usec");
        t.call(&["pause", id]).ok();
        assert_eq!(counter(t, &container, "cgroup.events", "frozen"), 1);
        let frozen = used();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(used(), frozen);
        t.call(&["resume", id]).ok();
        assert_eq!(counter(t, &container, "cgroup.events", "frozen"), 0);
        wait_until("it runs again", || used() > frozen + 10_000);
    }),
    runc("limits hold for what is started in a cgroup below", |t| {
        let container = t.start(&paused(t, json!({ "memory": { "limit": 40 << 20 } })));
        fs::create_dir(t.cgroup("", &container.id).join("below")).expect("mkdir");
        let eaten = container.probe(&["--cgroup", "below"], &["touch-memory", "200"]);
        assert_eq!(eaten.code, 137);
        assert_eq!(memory_event(t, &container, "oom_kill"), 1);
    }),
];

const fn runc(name: &'static str, run: fn(&Test)) -> Case {
    Case::runc(name, run).needs(Needs::Vm)
}

fn paused(t: &Test, resources: Value) -> Bundle {
    with_resources(Bundle::new(t).probe(&["pause"]), resources)
}

/// A program that wants all of a processor.
fn spinning(t: &Test) -> Bundle {
    Bundle::new(t).shell("while :; do :; done")
}

fn with_resources(bundle: Bundle, resources: Value) -> Bundle {
    bundle.with(|config| {
        for (name, value) in resources.as_object().expect("an object") {
            config["linux"]["resources"][name] = value.clone();
        }
    })
}

/// A container with the machine's disk as /dev/disk, which is throttled, and the
/// disk's numbers.
fn with_disk(t: &Test, throttle: &str, rate: u64) -> (Bundle, String) {
    let disk = fs::read_to_string("/sys/block/vda/dev").expect("the VM's disk");
    let disk = disk.trim().to_owned();
    let (major, minor) = disk.split_once(':').expect("MAJOR:MINOR");
    let [major, minor]: [u64; 2] = [major, minor].map(|part| part.parse().expect("a number"));
    let bundle = Bundle::new(t).shell("sleep 1000").with(|config| {
        config["linux"]["devices"] = json!([
            { "path": "/dev/disk", "type": "b", "major": major, "minor": minor, "fileMode": 0o600 },
        ]);
        let resources = &mut config["linux"]["resources"];
        resources["devices"] = json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "b", "major": major, "minor": minor, "access": "rw" },
        ]);
        resources["blockIO"] =
            json!({ throttle: [{ "major": major, "minor": minor, "rate": rate }] });
    });
    (bundle, disk)
}

/// A swap device that goes with the case.
struct Swap {
    device: PathBuf,
}

impl Swap {
    fn on(size: &str) -> Swap {
        // Another case may swap at the same time: each has a device of its own.
        let number = fs::read_to_string("/sys/class/zram-control/hot_add").expect("zram");
        let device = PathBuf::from(format!("/dev/zram{}", number.trim()));
        let swap = Swap { device };
        fs::write(swap.control("disksize"), size).expect("disksize");
        run("mkswap", text(&swap.device));
        run("swapon", text(&swap.device));
        swap
    }

    fn control(&self, file: &str) -> PathBuf {
        let name = self.device.file_name().expect("zramN");
        PathBuf::from("/sys/block").join(name).join(file)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        run("swapoff", text(&self.device));
        let number = text(&self.device).trim_start_matches("/dev/zram");
        fs::write("/sys/class/zram-control/hot_remove", number).expect("hot_remove");
    }
}

fn run(program: &str, argument: &str) {
    let ran = Command::new(program).arg(argument).output();
    let ran = ran.expect("the program");
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{program} {argument}: {stderr}");
}

/// A file that is one number.
#[track_caller]
fn number(t: &Test, container: &Container<'_>, file: &str) -> u64 {
    let text = t.knob("", &container.id, file);
    text.parse().unwrap_or_else(|_| panic!("{file}: {text}"))
}

/// A line `NAME NUMBER` of a file.
#[track_caller]
fn counter(t: &Test, container: &Container<'_>, file: &str, name: &str) -> u64 {
    let text = t.knob("", &container.id, file);
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    found.unwrap_or_else(|| panic!("no {name} in {file}: {text}"))
}

#[track_caller]
fn memory_event(t: &Test, container: &Container<'_>, name: &str) -> u64 {
    counter(t, container, "memory.events", name)
}

/// A number of the line of a disk in io.stat.
#[track_caller]
fn io_stat(t: &Test, container: &Container<'_>, disk: &str, name: &str) -> u64 {
    let text = t.knob("", &container.id, "io.stat");
    let line = text.lines().find_map(|line| line.strip_prefix(disk));
    let line = line.unwrap_or_else(|| panic!("no {disk}: {text}"));
    let found = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
    found.unwrap_or_else(|| panic!("no {name}: {line}"))
}

/// Where the container's program may run, as the kernel tells it.
#[track_caller]
fn affinity(container: &Container<'_>) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", container.pid())).expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
    line.expect("a line Cpus_allowed_list").to_owned()
}
