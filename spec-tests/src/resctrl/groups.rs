//! The groups of the stand-in: what they hold, what is refused and why. The
//! processor is one with two L3 caches, masks of eleven bits, bandwidths in steps of
//! ten percent, and four classes of service.

use std::collections::BTreeMap;
use std::fmt::Write;

use nix::errno::Errno;

/// The bits of a mask.
const MASK: u64 = 0x7ff;
/// Bandwidths in percent.
const BANDWIDTHS: std::ops::RangeInclusive<u64> = 10..=100;
const STEP: u64 = 10;
const CACHES: [u64; 2] = [0, 1];
/// Classes, the default one included.
const CLASSES: usize = 4;

/// Groups that are monitored by themselves.
const MONITORS: usize = 16;

/// What `info` has.
const INFO: [(&str, &str); 12] = [
    ("info/L3/cbm_mask", "7ff\n"),
    ("info/L3/min_cbm_bits", "1\n"),
    ("info/L3/num_closids", "4\n"),
    ("info/L3_MON/max_threshold_occupancy", "65536\n"),
    (
        "info/L3_MON/mon_features",
        "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n",
    ),
    ("info/L3_MON/num_rmids", "16\n"),
    ("info/MB/bandwidth_gran", "10\n"),
    ("info/MB/delay_linear", "1\n"),
    ("info/MB/min_bandwidth", "10\n"),
    ("info/MB/num_closids", "4\n"),
    // Told below.
    ("info/last_cmd_status", ""),
    ("info/mode", "shareable\n"),
];

/// The shares of a class: of each resource, by cache.
type Schemata = BTreeMap<&'static str, BTreeMap<u64, u64>>;

/// All groups, by their path; the default one has none.
pub(super) struct Groups {
    classes: BTreeMap<String, Schemata>,
    monitors: Vec<String>,
    /// The group that each task was moved into.
    tasks: BTreeMap<i32, String>,
    status: String,
    log: Box<dyn FnMut(String)>,
}

/// What a path is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Directory,
    File,
}

impl Groups {
    pub(super) fn new(log: Box<dyn FnMut(String)>) -> Groups {
        Groups {
            classes: BTreeMap::from([(String::new(), all())]),
            monitors: Vec::new(),
            tasks: BTreeMap::new(),
            status: "ok\n".to_owned(),
            log,
        }
    }

    /// Every path that there is, with what it is.
    pub(super) fn paths(&self) -> BTreeMap<String, Kind> {
        let mut paths = BTreeMap::from([(String::new(), Kind::Directory)]);
        let mut directory = |path: String| {
            paths.insert(path, Kind::Directory);
        };
        directory("info".to_owned());
        for name in ["L3", "L3_MON", "MB"] {
            directory(format!("info/{name}"));
        }
        let groups = || self.classes.keys().chain(&self.monitors);
        for group in groups() {
            directory(group.clone());
            directory(below(group, "mon_data"));
            for cache in CACHES {
                directory(below(group, &format!("mon_data/mon_L3_{cache:02}")));
            }
        }
        for class in self.classes.keys() {
            directory(below(class, "mon_groups"));
        }
        let mut file = |path: String| {
            paths.insert(path, Kind::File);
        };
        for (path, _) in INFO {
            file(path.to_owned());
        }
        for group in groups() {
            for name in ["tasks", "cpus"] {
                file(below(group, name));
            }
            for cache in CACHES {
                for name in ["llc_occupancy", "mbm_total_bytes", "mbm_local_bytes"] {
                    file(below(group, &format!("mon_data/mon_L3_{cache:02}/{name}")));
                }
            }
        }
        for class in self.classes.keys() {
            for name in ["schemata", "mode", "size"] {
                file(below(class, name));
            }
        }
        paths
    }

    /// The text of a file.
    pub(super) fn read(&self, path: &str) -> String {
        let (group, name) = split(path);
        if path == "info/last_cmd_status" {
            return self.status.clone();
        }
        if let Some((_, text)) = INFO.iter().find(|(known, _)| *known == path) {
            return (*text).to_owned();
        }
        match name {
            "tasks" => self
                .tasks
                .iter()
                .filter(|(task, of)| {
                    let is_part = self.monitors.contains(of) && class_of(of) == group;
                    (*of == group || is_part) && lives(**task)
                })
                .map(|(task, _)| format!("{task}\n"))
                .collect(),
            "schemata" => written(&self.classes[group]),
            "mode" => "shareable\n".to_owned(),
            // Numbers that tell group and cache.
            "llc_occupancy" => format!("{}\n", 4096 + counted(path)),
            "mbm_total_bytes" => format!("{}\n", 2000 + counted(path)),
            // A counter that the kernel can't tell at the moment.
            "mbm_local_bytes" if counted(path) == 101 => "Unavailable\n".to_owned(),
            "mbm_local_bytes" => format!("{}\n", 1000 + counted(path)),
            _ => String::new(),
        }
    }

    /// Writes to a file.
    pub(super) fn write(&mut self, path: &str, data: &str) -> Result<(), Errno> {
        let (group, name) = split(path);
        let group = group.to_owned();
        match name {
            "tasks" => self.move_task(&group, data),
            "schemata" => self.share(&group, data),
            _ => Err(Errno::EPERM),
        }
    }

    fn move_task(&mut self, group: &str, data: &str) -> Result<(), Errno> {
        let task: i32 = data.trim().parse().map_err(|_| Errno::EINVAL)?;
        if !lives(task) {
            return self.refuse(Errno::ESRCH, "No task".to_owned());
        }
        let now = self.tasks.get(&task).map_or("", |now| class_of(now));
        if self.monitors.iter().any(|known| known == group) && class_of(group) != now {
            let text = "Can't move task to different control group".to_owned();
            return self.refuse(Errno::EINVAL, text);
        }
        self.tasks.insert(task, group.to_owned());
        self.did(format!("move {task} {}", shown(group)))
    }

    fn share(&mut self, class: &str, data: &str) -> Result<(), Errno> {
        let Some(lines) = data.strip_suffix('\n') else {
            return Err(Errno::EINVAL);
        };
        // All of it, or nothing.
        let mut new = Schemata::new();
        for line in lines.split('\n') {
            let Some((name, values)) = line.split_once(':') else {
                return self.refuse(Errno::EINVAL, "Missing ':'".to_owned());
            };
            let Some(resource) = all().into_keys().find(|known| *known == name.trim()) else {
                let text = format!("Unknown or unsupported resource name '{}'", name.trim());
                return self.refuse(Errno::EINVAL, text);
            };
            for value in values.split(';') {
                let parsed = value.split_once('=').and_then(|(id, value)| {
                    let id: u64 = id.trim().parse().ok()?;
                    CACHES.contains(&id).then_some((id, value.trim()))
                });
                let Some((id, value)) = parsed else {
                    let text = "Missing '=' or non-numeric domain".to_owned();
                    return self.refuse(Errno::EINVAL, text);
                };
                let value = match checked(resource, value) {
                    Ok(value) => value,
                    Err(text) => return self.refuse(Errno::EINVAL, text),
                };
                if new.entry(resource).or_default().insert(id, value).is_some() {
                    return self.refuse(Errno::EINVAL, format!("Duplicate domain {id}"));
                }
            }
        }
        let known = self.classes.get_mut(class).expect("a class");
        for (resource, values) in new {
            known.get_mut(resource).expect("a resource").extend(values);
        }
        self.did(format!(
            "write {} {}",
            shown(class),
            lines.replace('\n', "|")
        ))
    }

    /// Makes a group.
    pub(super) fn make(&mut self, path: &str) -> Result<(), Errno> {
        if path.contains('\n') {
            return Err(Errno::EINVAL);
        }
        match path.rsplit_once('/') {
            None if self.classes.len() >= CLASSES => {
                return self.refuse(Errno::ENOSPC, "Out of CLOSIDs".to_owned());
            }
            None => drop(self.classes.insert(path.to_owned(), all())),
            Some((above, _)) if above == "mon_groups" || above.ends_with("/mon_groups") => {
                if self.monitors.len() >= MONITORS {
                    return self.refuse(Errno::ENOSPC, "Out of RMIDs".to_owned());
                }
                self.monitors.push(path.to_owned());
            }
            Some(_) => return Err(Errno::EPERM),
        }
        self.did(format!("mkdir {}", shown(path)))
    }

    /// Removes a group; its tasks are in the one above then.
    pub(super) fn remove(&mut self, path: &str) -> Result<(), Errno> {
        if self.monitors.iter().any(|known| known == path) {
            self.monitors.retain(|known| known != path);
        } else if !path.is_empty() && self.classes.remove(path).is_some() {
            let inside = format!("{path}/");
            self.monitors.retain(|known| !known.starts_with(&inside));
            self.tasks
                .retain(|_, of| of != path && !of.starts_with(&inside));
        } else {
            return Err(Errno::EPERM);
        }
        let above = class_of(path).to_owned();
        for of in self.tasks.values_mut().filter(|of| *of == path) {
            of.clone_from(&above);
        }
        self.did(format!("rmdir {}", shown(path)))
    }

    fn refuse(&mut self, errno: Errno, why: String) -> Result<(), Errno> {
        self.status = why + "\n";
        Err(errno)
    }

    fn did(&mut self, what: String) -> Result<(), Errno> {
        self.status = "ok\n".to_owned();
        (self.log)(what);
        Ok(())
    }
}

/// A class that shares everything with all.
fn all() -> Schemata {
    let each = |value| CACHES.map(|id| (id, value)).into_iter().collect();
    BTreeMap::from([("L3", each(MASK)), ("MB", each(*BANDWIDTHS.end()))])
}

/// A value as the kernel takes it, or its words.
fn checked(resource: &str, text: &str) -> Result<u64, String> {
    if resource == "MB" {
        let value = text
            .parse::<u64>()
            .map_err(|_| format!("Invalid MB value {text}"))?;
        if !BANDWIDTHS.contains(&value) {
            return Err(format!("MB value {value} out of range [10,100]"));
        }
        return Ok(value.next_multiple_of(STEP));
    }
    let mask = u64::from_str_radix(text, 16)
        .map_err(|_| format!("Non-hex character in the mask {text}"))?;
    if mask == 0 || mask > MASK {
        return Err("Mask out of range".to_owned());
    }
    let bits = mask >> mask.trailing_zeros();
    if bits & (bits + 1) != 0 {
        return Err(format!("The mask {mask:x} has non-consecutive 1-bits"));
    }
    Ok(mask)
}

/// Lines as the kernel writes them.
fn written(schemata: &Schemata) -> String {
    let mut text = String::new();
    for (resource, values) in schemata.iter().rev() {
        let values = values.iter().map(|(id, value)| match *resource {
            "MB" => format!("{id}={value}"),
            _ => format!("{id}={value:x}"),
        });
        let values: Vec<String> = values.collect();
        let _ = writeln!(text, "{resource:>6}:{}", values.join(";"));
    }
    text
}

fn below(group: &str, name: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{group}/{name}")
    }
}

/// The class that a group is or belongs to.
fn class_of(group: &str) -> &str {
    if let Some((class, _)) = group.split_once("/mon_groups/") {
        return class;
    }
    match group.starts_with("mon_groups/") {
        true => "",
        false => group,
    }
}

/// The group of a file, and its name.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn shown(group: &str) -> &str {
    if group.is_empty() { "/" } else { group }
}

/// One for the second cache, and a hundred in a monitoring group.
fn counted(path: &str) -> u64 {
    let cache = u64::from(path.contains("mon_L3_01"));
    cache + if path.contains("mon_groups/") { 100 } else { 0 }
}

fn lives(task: i32) -> bool {
    std::path::Path::new(&format!("/proc/{task}")).exists()
}
