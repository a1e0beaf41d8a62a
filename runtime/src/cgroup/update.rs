//! Limits of a container that runs.
//!
//! Some limits of config.json are one file on v2 (`cpu.max` holds quota and
//! period), or are counted from another (swap from memory). An update that
//! names one of such a pair keeps the other as it is, and as it is only the
//! kernel knows, or systemd where it rules: they are asked, and nothing is
//! remembered from one update to the next.

use super::Cgroup;
use super::hierarchy::Mode;
use crate::error::Result;
use crate::plan::cgroup::devices::Rule;
use crate::plan::cgroup::{Write, unit};
use crate::spec::Resources;
use crate::systemd::{self, Systemd};

/// Device rules instead of others.
#[derive(Debug, Clone, Copy)]
pub struct NewRules<'a> {
    /// Those that are in force.
    pub old: &'a [Rule],
    /// Those that shall be.
    pub new: &'a [Rule],
}

impl Cgroup {
    /// Adds to `resources` what it leaves as it is and still depends on.
    ///
    /// # Errors
    /// systemd is asked and doesn't answer.
    pub fn complete(&self, mut resources: Resources) -> Result<Resources> {
        if let (Some(unit), Some(cpu)) = (&self.unit, &mut resources.cpu)
            && cpu.quota.is_some_and(given)
            && cpu.period.is_none_or(|period| period == 0)
        {
            cpu.period = Systemd::connect(unit.instance)?.cpu_period(&unit.unit)?;
        }
        Ok(match self.unified() {
            Some(v2) if self.dirfd().is_some() => {
                complete(resources, |file| v2.directory.read(file).ok())
            }
            // v1 has a file for each.
            _ => resources,
        })
    }

    /// Makes all of the changes or none: after a failure the old values are
    /// written back, and systemd is told them.
    ///
    /// # Errors
    /// A limit that is checked and below what is in use; as for
    /// [`write`](Self::write), [`Systemd::set`] and
    /// [`apply_devices`](Self::apply_devices).
    pub fn update(&self, writes: &[Write], rules: Option<NewRules<'_>>) -> Result<()> {
        // Before anything is changed: systemd, too, would write the limit.
        self.check(writes)?;
        let before = self.before(writes);
        let new = rules.map(|rules| rules.new);
        let written = self
            .write(writes)
            .and_then(|()| self.tell_unit(writes, new));
        if written.is_err() {
            self.write_back(&before);
            return written;
        }
        let done = self.write_again(writes).and_then(|()| match new {
            Some(rules) => self.apply_devices(rules),
            None => Ok(()),
        });
        if done.is_err() {
            self.write_back(&before);
            // What can't be told now either is the lesser failure.
            let _ = self.tell_unit(&before, rules.map(|rules| rules.old));
        }
        done
    }

    /// Where systemd has been told, it has written the limits too, in its own
    /// units: CPU time in whole percents.
    fn write_again(&self, writes: &[Write]) -> Result<()> {
        match self.unit {
            Some(_) => self.write(writes),
            None => Ok(()),
        }
    }

    /// Tells systemd, if it made the cgroup, what has been written, so that it
    /// doesn't write the old values over it.
    fn tell_unit(&self, writes: &[Write], rules: Option<&[Rule]>) -> Result<()> {
        let Some(unit) = &self.unit else {
            return Ok(());
        };
        let facts = systemd::facts(unit.instance)?;
        let mode = match self.dirfd() {
            Some(_) => Mode::V2,
            None => Mode::V1,
        };
        let mut properties = unit::limits(&self.with_partners(writes), mode, facts.version);
        properties.extend(
            rules
                .into_iter()
                .flat_map(|rules| unit::new_devices(rules, mode, &facts)),
        );
        Systemd::connect(unit.instance)?.set(&unit.unit, &properties)
    }

    /// `writes`, before them what the properties of systemd are counted from
    /// besides, as it is in force.
    fn with_partners(&self, writes: &[Write]) -> Vec<Write> {
        /// One of systemd's properties is two of the kernel's files, or is what
        /// another file says once this one says no.
        const PARTNERS: [(&str, &str); 3] = [
            ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
            ("cpu.cfs_period_us", "cpu.cfs_quota_us"),
            ("cpu.idle", "cpu.weight"),
        ];
        let mut told = Vec::with_capacity(writes.len() + 1);
        for write in writes {
            let partner = PARTNERS.iter().find(|(file, _)| *file == write.file);
            let at = self.controller(&write.controller);
            if let (Some((_, partner)), Some(at)) = (partner, at)
                && let Ok(value) = at.directory.read(partner)
            {
                told.push(Write::new(write.controller.clone(), *partner, value, ""));
            }
        }
        told.extend_from_slice(writes);
        told
    }

    /// The old values of what `writes` will change.
    fn before(&self, writes: &[Write]) -> Vec<Write> {
        let mut before = Vec::new();
        for write in writes {
            let at = self.controller(&write.controller);
            let Some(old) = at.and_then(|at| at.directory.read(&*write.file).ok()) else {
                continue;
            };
            // A file of many lines takes one at a time and tells the others.
            if old.lines().count() == 1 {
                let (controller, file) = (write.controller.clone(), write.file.clone());
                before.push(Write::new(controller, file, old.trim_end(), ""));
            }
        }
        before
    }

    fn write_back(&self, before: &[Write]) {
        // Twice, as one file's old value may not fit another's new one.
        for write in before.iter().rev().chain(before) {
            if let Some(at) = self.controller(&write.controller) {
                let _ = at.directory.write(&*write.file, &write.value);
            }
        }
    }
}

/// [`Cgroup::complete`] with the text of v2's files.
fn complete(mut resources: Resources, read: impl Fn(&str) -> Option<String>) -> Resources {
    if let Some(cpu) = &mut resources.cpu {
        let (quota, period) = (
            cpu.quota.filter(|v| given(*v)),
            cpu.period.filter(|v| *v != 0),
        );
        if quota.is_some() != period.is_some()
            && let Some((old_quota, old_period)) = read("cpu.max")
                .as_deref()
                .and_then(|text| text.trim().split_once(' '))
        {
            cpu.quota = quota.or_else(|| Some(amount(old_quota)));
            cpu.period = period.or_else(|| old_period.parse().ok());
        }
    }
    if let Some(memory) = &mut resources.memory {
        let (limit, swap) = (
            memory.limit.filter(|v| given(*v)),
            memory.swap.filter(|v| given(*v)),
        );
        let old = |file: &str| read(file).map(|text| amount(text.trim()));
        let (old_limit, old_swap) = (old("memory.max"), old("memory.swap.max"));
        match (limit, swap) {
            // The swap that config.json counts is memory and swap together.
            (None, Some(1..)) => memory.limit = old_limit,
            (Some(1..), None) => {
                if let (Some(limit @ 1..), Some(swap @ 0..)) = (old_limit, old_swap) {
                    memory.swap = Some(limit.saturating_add(swap));
                }
            }
            _ => {}
        }
    }
    resources
}

/// In config.json 0 leaves a limit as it is.
fn given(value: i64) -> bool {
    value != 0
}

/// A number of v2's in config.json's words.
fn amount(text: &str) -> i64 {
    match text {
        "max" => -1,
        text => text.parse().unwrap_or(-1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_update_leaves_out_is_asked_from_the_kernel() {
        for (name, files, update, expected) in [
            (
                "quota alone",
                "cpu.max=max 50000",
                r#"{"cpu":{"quota":20000}}"#,
                r#"{"cpu":{"quota":20000,"period":50000}}"#,
            ),
            (
                "period alone",
                "cpu.max=20000 100000",
                r#"{"cpu":{"period":50000}}"#,
                r#"{"cpu":{"quota":20000,"period":50000}}"#,
            ),
            (
                "period without a quota",
                "cpu.max=max 100000",
                r#"{"cpu":{"period":50000}}"#,
                r#"{"cpu":{"quota":-1,"period":50000}}"#,
            ),
            (
                "both",
                "cpu.max=1 2",
                r#"{"cpu":{"quota":3,"period":4}}"#,
                r#"{"cpu":{"quota":3,"period":4}}"#,
            ),
            (
                "neither",
                "cpu.max=1 2",
                r#"{"cpu":{"shares":3}}"#,
                r#"{"cpu":{"shares":3}}"#,
            ),
            (
                "swap alone",
                "memory.max=100",
                r#"{"memory":{"swap":150}}"#,
                r#"{"memory":{"swap":150,"limit":100}}"#,
            ),
            (
                "any swap alone",
                "memory.max=100",
                r#"{"memory":{"swap":-1}}"#,
                r#"{"memory":{"swap":-1}}"#,
            ),
            (
                "memory alone",
                "memory.max=100;memory.swap.max=50",
                r#"{"memory":{"limit":120}}"#,
                r#"{"memory":{"limit":120,"swap":150}}"#,
            ),
            (
                "memory alone without a limit on swap",
                "memory.max=100;memory.swap.max=max",
                r#"{"memory":{"limit":120}}"#,
                r#"{"memory":{"limit":120}}"#,
            ),
            (
                "any memory",
                "memory.max=100;memory.swap.max=50",
                r#"{"memory":{"limit":-1}}"#,
                r#"{"memory":{"limit":-1}}"#,
            ),
        ] {
            let parse = |json: &str| Resources::parse(json.as_bytes()).unwrap();
            let read = |file: &str| {
                let mut files = files.split(';').filter_map(|file| file.split_once('='));
                files
                    .find(|(name, _)| *name == file)
                    .map(|(_, text)| format!("{text}\n"))
            };
            assert_eq!(complete(parse(update), read), parse(expected), "{name}");
        }
    }
}
