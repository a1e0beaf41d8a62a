//! The kernel's files, read and put into the document.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::{
    Blkio, BlkioEntry, Cpu, CpuUsage, Cpuset, Hugetlb, Memory, MemoryEntry, Pids, Psi, Stats,
    Throttling,
};
use crate::cgroup::Cgroup;
use crate::error::{Context, Result};

impl Cgroup {
    /// What the container uses now.
    ///
    /// # Errors
    /// A file that exists can't be read.
    pub fn stats(&self) -> Result<Stats> {
        // What a file says is all that counting needs: errors wait aside.
        let failed = std::cell::RefCell::new(None);
        let read = |controller: &str, file: &str| {
            let at = self.controller(controller)?;
            match at.directory.read(file) {
                Ok(text) => Some(text),
                // Not of this kernel (EOPNOTSUPP: pressure that is switched
                // off).
                Err(error)
                    if matches!(
                        error.errno(),
                        Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP
                    ) =>
                {
                    None
                }
                Err(error) => {
                    failed.borrow_mut().get_or_insert(error);
                    None
                }
            }
        };
        let sizes = huge_page_sizes();
        let stats = match self.dirfd() {
            Some(_) => v2(&read, &sizes),
            None => v1(&read, &sizes),
        };
        match failed.into_inner() {
            Some(error) => Err(error).context(|| "read the cgroup's statistics"),
            None => Ok(stats),
        }
    }
}

/// The sizes of huge pages in the words of the hugetlb controller: `2MB`, the
/// smallest first. Source: hugetlbpage.rst, cgroup-v1/hugetlb.rst of the kernel.
#[must_use]
pub fn huge_page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages");
    let mut sizes: Vec<u64> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let kilobytes = name.to_str()?.strip_prefix("hugepages-")?;
            kilobytes.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    sizes.sort_unstable();
    sizes.into_iter().map(huge_page_size).collect()
}

fn huge_page_size(kilobytes: u64) -> String {
    const MEGA: u64 = 1 << 10;
    const GIGA: u64 = 1 << 20;
    match kilobytes {
        GIGA.. => format!("{}GB", kilobytes / GIGA),
        MEGA.. => format!("{}MB", kilobytes / MEGA),
        _ => format!("{kilobytes}KB"),
    }
}

/// The text of a controller's file, nothing if there is none.
type Read<'a> = &'a dyn Fn(&str, &str) -> Option<String>;

/// The number in a file: `max` is the largest.
fn number(read: Read<'_>, controller: &str, file: &str) -> u64 {
    let text = read(controller, file).unwrap_or_default();
    match text.trim() {
        "max" => u64::MAX,
        text => text.parse().unwrap_or(0),
    }
}

/// Lines of a key and a number.
fn table(read: Read<'_>, controller: &str, file: &str) -> BTreeMap<String, u64> {
    let text = read(controller, file).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

fn v1(read: Read<'_>, sizes: &[String]) -> Stats {
    let memory = |name: &str| {
        let number = |what: &str| number(read, "memory", &format!("memory.{name}{what}"));
        MemoryEntry {
            limit: number("limit_in_bytes"),
            usage: number("usage_in_bytes"),
            max: number("max_usage_in_bytes"),
            failcnt: number("failcnt"),
        }
    };
    let raw = table(read, "memory", "memory.stat");
    Stats {
        cpu: Cpu {
            usage: cpu_usage_v1(read),
            throttling: throttling(&table(read, "cpu", "cpu.stat"), "throttled_time", 1),
            psi: None,
        },
        cpuset: cpuset(read),
        memory: Memory {
            cache: raw.get("cache").copied().unwrap_or(0),
            usage: memory(""),
            swap: memory("memsw."),
            kernel: memory("kmem."),
            kernel_tcp: memory("kmem.tcp."),
            raw,
            ..Memory::default()
        },
        pids: pids(read),
        blkio: blkio(read),
        hugetlb: hugetlb(sizes, |size| {
            let number = |what: &str| number(read, "hugetlb", &format!("hugetlb.{size}.{what}"));
            read("hugetlb", &format!("hugetlb.{size}.usage_in_bytes"))?;
            Some(Hugetlb {
                usage: number("usage_in_bytes"),
                max: number("max_usage_in_bytes"),
                failcnt: number("failcnt"),
            })
        }),
        ..Stats::default()
    }
}

fn cpu_usage_v1(read: Read<'_>) -> CpuUsage {
    /// cpuacct.stat counts in USER_HZ, which is 100 on every architecture that
    /// we run on.
    const TICK: u64 = 1_000_000_000 / 100;
    let ticks = table(read, "cpuacct", "cpuacct.stat");
    let ticks = |key| ticks.get(key).copied().unwrap_or(0) * TICK;
    let percpu = read("cpuacct", "cpuacct.usage_percpu").unwrap_or_default();
    let mut usage = CpuUsage {
        total: number(read, "cpuacct", "cpuacct.usage"),
        percpu: percpu
            .split_whitespace()
            .filter_map(|text| text.parse().ok())
            .collect(),
        kernel: ticks("system"),
        user: ticks("user"),
        ..CpuUsage::default()
    };
    // A header, then a line for each CPU: its number, user, system.
    let all = read("cpuacct", "cpuacct.usage_all").unwrap_or_default();
    for line in all.lines().skip(1) {
        let mut columns = line.split(' ').skip(1).filter_map(|text| text.parse().ok());
        if let (Some(user), Some(kernel)) = (columns.next(), columns.next()) {
            usage.percpu_user.push(user);
            usage.percpu_kernel.push(kernel);
        }
    }
    usage
}

fn throttling(stat: &BTreeMap<String, u64>, time: &str, nanoseconds: u64) -> Throttling {
    let number = |key: &str| stat.get(key).copied().unwrap_or(0);
    Throttling {
        periods: number("nr_periods"),
        throttled_periods: number("nr_throttled"),
        throttled_time: number(time) * nanoseconds,
    }
}

fn cpuset(read: Read<'_>) -> Cpuset {
    let text = |file: &str| read("cpuset", file).unwrap_or_default();
    let number = |file: &str| number(read, "cpuset", file);
    Cpuset {
        cpus: list(text("cpuset.cpus").trim()),
        cpu_exclusive: number("cpuset.cpu_exclusive"),
        mems: list(text("cpuset.mems").trim()),
        mem_hardwall: number("cpuset.mem_hardwall"),
        mem_exclusive: number("cpuset.mem_exclusive"),
        memory_migrate: number("cpuset.memory_migrate"),
        memory_spread_page: number("cpuset.memory_spread_page"),
        memory_spread_slab: number("cpuset.memory_spread_slab"),
        memory_pressure: number("cpuset.memory_pressure"),
        sched_load_balance: number("cpuset.sched_load_balance"),
        sched_relax_domain_level: text("cpuset.sched_relax_domain_level")
            .trim()
            .parse()
            .unwrap_or(0),
    }
}

/// Numbers and ranges: `0-2,7`.
fn list(text: &str) -> Vec<u16> {
    text.split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
        })
        .flatten()
        .collect()
}

/// The same files in both versions.
fn pids(read: Read<'_>) -> Pids {
    let limit = number(read, "pids", "pids.max");
    Pids {
        current: number(read, "pids", "pids.current"),
        limit: if limit == u64::MAX { 0 } else { limit },
    }
}

/// v1 counts at several places, depending on the I/O scheduler: the first that
/// has counted something speaks.
fn blkio(read: Read<'_>) -> Blkio {
    const PLACES: [(&str, &str); 4] = [
        ("blkio.bfq.", "_recursive"),
        ("blkio.", "_recursive"),
        ("blkio.throttle.", "_recursive"),
        ("blkio.throttle.", ""),
    ];
    for (prefix, suffix) in PLACES {
        let entries = |name: &str| {
            let file = format!("{prefix}{name}{suffix}");
            blkio_entries(&read("blkio", &file).unwrap_or_default())
        };
        let serviced = entries("io_serviced");
        if !serviced.is_empty() {
            return Blkio {
                io_service_bytes_recursive: entries("io_service_bytes"),
                io_serviced_recursive: serviced,
                psi: None,
            };
        }
    }
    Blkio::default()
}

/// Lines of `8:0 Read 4096`, and of a total over all devices.
fn blkio_entries(text: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (major, minor) = fields.next()?.split_once(':')?;
            Some(BlkioEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                op: fields.next()?.to_owned(),
                value: fields.next()?.parse().ok()?,
            })
        })
        .collect()
}

/// The sizes that the controller knows.
fn hugetlb(sizes: &[String], of: impl Fn(&str) -> Option<Hugetlb>) -> BTreeMap<String, Hugetlb> {
    sizes
        .iter()
        .filter_map(|size| Some((size.clone(), of(size)?)))
        .collect()
}

fn v2(read: Read<'_>, sizes: &[String]) -> Stats {
    /// v2 counts microseconds.
    const MICROSECOND: u64 = 1000;
    let cpu = table(read, "cpu", "cpu.stat");
    let time = |key: &str| cpu.get(key).copied().unwrap_or(0) * MICROSECOND;
    Stats {
        cpu: Cpu {
            usage: CpuUsage {
                total: time("usage_usec"),
                kernel: time("system_usec"),
                user: time("user_usec"),
                ..CpuUsage::default()
            },
            throttling: throttling(&cpu, "throttled_usec", MICROSECOND),
            psi: psi(read, "cpu"),
        },
        memory: memory_v2(read),
        pids: pids(read),
        blkio: Blkio {
            psi: psi(read, "io"),
            ..io_stat(&read("io", "io.stat").unwrap_or_default())
        },
        hugetlb: hugetlb(sizes, |size| {
            let events = table(read, "hugetlb", &format!("hugetlb.{size}.events"));
            let file = format!("hugetlb.{size}.current");
            read("hugetlb", &file)?;
            Some(Hugetlb {
                usage: number(read, "hugetlb", &file),
                max: 0,
                failcnt: events.get("max").copied().unwrap_or(0),
            })
        }),
        ..Stats::default()
    }
}

fn memory_v2(read: Read<'_>) -> Memory {
    let entry = |name: &str| {
        let number = |what: &str| number(read, "memory", &format!("memory.{name}{what}"));
        MemoryEntry {
            limit: number("max"),
            usage: number("current"),
            max: number("peak"),
            failcnt: 0,
        }
    };
    let raw = table(read, "memory", "memory.stat");
    let (usage, swap) = (entry(""), entry("swap."));
    Memory {
        cache: raw.get("file").copied().unwrap_or(0),
        usage,
        // v1's is memory and swap together; the two peaks have no sum.
        swap: MemoryEntry {
            limit: swap.limit.saturating_add(match swap.limit {
                u64::MAX => 0,
                _ => usage.limit,
            }),
            usage: swap.usage + usage.usage,
            ..MemoryEntry::default()
        },
        raw,
        psi: psi(read, "memory"),
        event_count: table(read, "memory", "memory.events"),
        ..Memory::default()
    }
}

/// Lines of `8:0 rbytes=4096 wbytes=0 rios=1 wios=0`.
fn io_stat(text: &str) -> Blkio {
    let mut io = Blkio::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let device = fields.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(a, b)| (a.parse(), b.parse())) else {
            continue;
        };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let (entries, op) = match key {
                "rbytes" => (&mut io.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut io.io_service_bytes_recursive, "Write"),
                "rios" => (&mut io.io_serviced_recursive, "Read"),
                "wios" => (&mut io.io_serviced_recursive, "Write"),
                // v1 has nothing like the others.
                _ => continue,
            };
            entries.push(BlkioEntry {
                major,
                minor,
                op: op.to_owned(),
                value: value.parse().unwrap_or(0),
            });
        }
    }
    io
}

/// Lines of `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn psi(read: Read<'_>, controller: &str) -> Option<Psi> {
    let text = read(controller, &format!("{controller}.pressure"))?;
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let data = match fields.next() {
            Some("some") => &mut psi.some,
            Some("full") => &mut psi.full,
            _ => continue,
        };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            match key {
                "avg10" => data.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => data.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => data.avg300 = value.parse().unwrap_or(0.0),
                "total" => data.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    Some(psi)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document made of some files.
    fn json(of: fn(Read<'_>, &[String]) -> Stats, files: &[(&str, &str)]) -> serde_json::Value {
        let read = |_: &str, file: &str| {
            let found = files.iter().find(|(name, _)| *name == file);
            found.map(|(_, text)| (*text).to_owned())
        };
        serde_json::to_value(of(&read, &["2MB".to_owned()])).unwrap()
    }

    #[test]
    fn v1_files_become_the_document() {
        for (name, files, pointer, expected) in [
            ("nothing", &[][..], "/pids", "{}"),
            (
                "nothing of a usage",
                &[],
                "/cpu/usage",
                r#"{"kernel":0,"user":0}"#,
            ),
            ("nothing of huge pages", &[], "/hugetlb", "{}"),
            ("nothing of interfaces", &[], "/network_interfaces", "null"),
            (
                "cpu",
                &[
                    ("cpuacct.usage", "13300862\n"),
                    ("cpuacct.usage_percpu", "679563 12621299 \n"),
                    ("cpuacct.usage_all", "cpu user system\n0 1 2\n1 3 4\n"),
                    ("cpuacct.stat", "user 3\nsystem 5\n"),
                ],
                "/cpu/usage",
                r#"{"total":13300862,"percpu":[679563,12621299],"percpu_kernel":[2,4],"percpu_user":[1,3],
                    "kernel":50000000,"user":30000000}"#,
            ),
            (
                "throttling",
                &[(
                    "cpu.stat",
                    "nr_periods 3\nnr_throttled 2\nthrottled_time 900\nwait_sum 1\n",
                )],
                "/cpu/throttling",
                r#"{"periods":3,"throttledPeriods":2,"throttledTime":900}"#,
            ),
            (
                "cpuset",
                &[
                    ("cpuset.cpus", "0-2,7\n"),
                    ("cpuset.mems", "0\n"),
                    ("cpuset.sched_relax_domain_level", "-1\n"),
                    ("cpuset.sched_load_balance", "1\n"),
                ],
                "/cpuset",
                r#"{"cpus":[0,1,2,7],"cpu_exclusive":0,"mems":[0],"mem_hardwall":0,"mem_exclusive":0,
                    "memory_migrate":0,"memory_spread_page":0,"memory_spread_slab":0,"memory_pressure":0,
                    "sched_load_balance":1,"sched_relax_domain_level":-1}"#,
            ),
            (
                "memory",
                &[
                    (
                        "memory.stat",
                        "cache 12288\nrss 53248\nhierarchical_memsw_limit 9223372036854771712\n",
                    ),
                    ("memory.limit_in_bytes", "33554432\n"),
                    ("memory.usage_in_bytes", "704512\n"),
                    ("memory.max_usage_in_bytes", "2498560\n"),
                    ("memory.failcnt", "1\n"),
                    ("memory.memsw.limit_in_bytes", "9223372036854771712\n"),
                    ("memory.kmem.usage_in_bytes", "487424\n"),
                    ("memory.kmem.tcp.failcnt", "2\n"),
                ],
                "/memory",
                r#"{"cache":12288,"usage":{"limit":33554432,"usage":704512,"max":2498560,"failcnt":1},
                    "swap":{"limit":9223372036854771712,"failcnt":0},"kernel":{"limit":0,"usage":487424,"failcnt":0},
                    "kernelTCP":{"limit":0,"failcnt":2},
                    "raw":{"cache":12288,"rss":53248,"hierarchical_memsw_limit":9223372036854771712}}"#,
            ),
            (
                "any pids",
                &[("pids.current", "1\n"), ("pids.max", "max\n")],
                "/pids",
                r#"{"current":1}"#,
            ),
            (
                "pids",
                &[("pids.current", "1\n"), ("pids.max", "7\n")],
                "/pids",
                r#"{"current":1,"limit":7}"#,
            ),
            (
                "block I/O where the scheduler counts",
                &[
                    (
                        "blkio.bfq.io_serviced_recursive",
                        "8:0 Read 1\n8:0 Total 1\nTotal 1\n",
                    ),
                    ("blkio.bfq.io_service_bytes_recursive", "8:0 Read 4096\n"),
                    ("blkio.throttle.io_serviced_recursive", "8:0 Read 9\n"),
                ],
                "/blkio",
                r#"{"ioServiceBytesRecursive":[{"major":8,"op":"Read","value":4096}],
                    "ioServicedRecursive":[{"major":8,"op":"Read","value":1},{"major":8,"op":"Total","value":1}]}"#,
            ),
            (
                "block I/O where only the throttle counts",
                &[
                    ("blkio.bfq.io_serviced_recursive", "Total 0\n"),
                    (
                        "blkio.throttle.io_serviced_recursive",
                        "254:1 Write 9\nTotal 9\n",
                    ),
                ],
                "/blkio",
                r#"{"ioServicedRecursive":[{"major":254,"minor":1,"op":"Write","value":9}]}"#,
            ),
            (
                "huge pages",
                &[
                    ("hugetlb.2MB.usage_in_bytes", "2097152"),
                    ("hugetlb.2MB.failcnt", "3"),
                ],
                "/hugetlb",
                r#"{"2MB":{"usage":2097152,"failcnt":3}}"#,
            ),
        ] {
            let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
            assert_eq!(json(v1, files).pointer(pointer), Some(&expected), "{name}");
        }
    }

    #[test]
    fn v2_files_become_the_same_document() {
        for (name, files, pointer, expected) in [
            (
                "cpu",
                &[
                    (
                        "cpu.stat",
                        "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 1\nnr_throttled 1\nthrottled_usec 5\n",
                    ),
                    (
                        "cpu.pressure",
                        "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
                    ),
                ][..],
                "/cpu",
                r#"{"usage":{"total":30000,"kernel":20000,"user":10000},
                    "throttling":{"periods":1,"throttledPeriods":1,"throttledTime":5000},
                    "psi":{"some":{"avg10":1.5,"avg60":0.25,"avg300":0.0,"total":77},
                           "full":{"avg10":0.0,"avg60":0.0,"avg300":0.0,"total":0}}}"#,
            ),
            (
                "memory",
                &[
                    ("memory.stat", "anon 5\nfile 7\n"),
                    ("memory.current", "100\n"),
                    ("memory.max", "200\n"),
                    ("memory.peak", "150\n"),
                    ("memory.swap.current", "10\n"),
                    ("memory.swap.max", "20\n"),
                    ("memory.swap.peak", "15\n"),
                    ("memory.events", "low 0\noom 2\noom_kill 1\n"),
                ],
                "/memory",
                r#"{"cache":7,"usage":{"limit":200,"usage":100,"max":150,"failcnt":0},
                    "swap":{"limit":220,"usage":110,"failcnt":0},"kernel":{"limit":0,"failcnt":0},
                    "kernelTCP":{"limit":0,"failcnt":0},"raw":{"anon":5,"file":7},
                    "event_count":{"low":0,"oom":2,"oom_kill":1}}"#,
            ),
            (
                "any memory",
                &[("memory.max", "max\n"), ("memory.swap.max", "max\n")],
                "/memory/swap",
                r#"{"limit":18446744073709551615,"failcnt":0}"#,
            ),
            (
                "block I/O",
                &[(
                    "io.stat",
                    "254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=9 dios=9\nbad\n",
                )],
                "/blkio",
                r#"{"ioServiceBytesRecursive":[{"major":254,"op":"Read","value":4096},{"major":254,"op":"Write"}],
                    "ioServicedRecursive":[{"major":254,"op":"Read","value":1},{"major":254,"op":"Write"}]}"#,
            ),
            (
                "huge pages",
                &[
                    ("hugetlb.2MB.current", "2097152"),
                    ("hugetlb.2MB.events", "max 4\n"),
                ],
                "/hugetlb",
                r#"{"2MB":{"usage":2097152,"failcnt":4}}"#,
            ),
        ] {
            let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
            assert_eq!(json(v2, files).pointer(pointer), Some(&expected), "{name}");
        }
    }

    #[test]
    fn page_sizes_are_in_the_controllers_words() {
        for (kilobytes, name) in [
            (64, "64KB"),
            (2048, "2MB"),
            (32768, "32MB"),
            (1 << 20, "1GB"),
        ] {
            assert_eq!(huge_page_size(kilobytes), name);
        }
    }
}
