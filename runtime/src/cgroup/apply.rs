//! Writing the limits and the device rules.

use nix::errno::Errno;

use super::Cgroup;
use super::directory::Directory;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::cgroup::device_bpf::{self, Instruction};
use crate::plan::cgroup::devices::{Policy, Rule};
use crate::plan::cgroup::{CgroupPlan, IfInvalid, IfMissing, Write, unavailable};
use crate::sys;

impl Cgroup {
    /// Gives the cgroup to its user and writes everything the plan limits, while the child waits at the latest for
    /// its membership: nothing of the container ever runs without its limits.
    /// Those of a unit are written by [`start_unit`](Self::start_unit).
    ///
    /// # Errors
    /// As for [`write`](Self::write) and
    /// [`apply_devices`](Self::apply_devices); rootless, where nobody can set
    /// device rules, those are left out.
    pub fn apply(&self, plan: &CgroupPlan) -> Result<()> {
        match plan.unit {
            Some(_) => Ok(()),
            None => self.limit(plan),
        }
    }

    pub(super) fn limit(&self, plan: &CgroupPlan) -> Result<()> {
        if let Some(owner) = plan.owner {
            self.hand_over(owner)?;
        }
        self.write(&plan.writes)?;
        let Some(rules) = &plan.devices else {
            return Ok(());
        };
        match self.apply_devices(rules) {
            Err(_) if plan.rootless => Ok(()),
            applied => applied,
        }
    }

    /// Performs `writes` in order. One that may not fit the old value of
    /// another file of its controller and is refused, is tried again after the
    /// others.
    ///
    /// # Errors
    /// The first that fails, with its JSON path; the others are not tried.
    pub fn write(&self, writes: &[Write]) -> Result<()> {
        let mut at = 0;
        while let Some(first) = writes.get(at) {
            let same = writes[at..]
                .iter()
                .take_while(|write| write.controller == first.controller)
                .count();
            self.apply_controller(&writes[at..at + same])?;
            at += same;
        }
        Ok(())
    }

    /// Performs the writes of one controller.
    fn apply_controller(&self, writes: &[Write]) -> Result<()> {
        let mut later = Vec::new();
        for write in writes {
            match self.perform(write) {
                Err(error)
                    if write.if_invalid == IfInvalid::TryLater
                        && error.errno() == Some(Errno::EINVAL) =>
                {
                    later.push(write);
                }
                performed => performed?,
            }
        }
        // From the last to the first: what was refused first waits for most.
        later
            .into_iter()
            .rev()
            .try_for_each(|write| self.perform(write))
    }

    /// Refuses limits that are checked and below what is in use.
    ///
    /// # Errors
    /// The first of them.
    pub(super) fn check(&self, writes: &[Write]) -> Result<()> {
        for write in writes {
            if let (Some(usage), Some(at)) = (write.not_below, self.controller(&write.controller)) {
                check_usage(&at.directory, write, usage)?;
            }
        }
        Ok(())
    }

    fn perform(&self, write: &Write) -> Result<()> {
        let Some(at) = self.controller(&write.controller) else {
            if write.if_missing == IfMissing::Skip {
                return Ok(());
            }
            let error = Error::new(Kind::Unsupported, unavailable(&write.controller));
            return Err(error.within(&write.field));
        };
        let directory = &at.directory;
        if let Some(usage) = write.not_below {
            check_usage(directory, write, usage)?;
        }
        let written = directory.write(&*write.file, &write.value);
        match written {
            Err(error) if error.errno() == Errno::ENOENT => {
                self.without_file(directory, write, error)
            }
            Err(error)
                if error.errno() == Errno::EBUSY && write.file == "memory.limit_in_bytes" =>
            {
                Err(below_usage(directory, write))
            }
            written => written.context(|| &write.field),
        }
    }

    /// The file is missing: of a feature that the kernel lacks, or of a
    /// controller that this directory doesn't have.
    fn without_file(&self, directory: &Directory, write: &Write, error: sys::Error) -> Result<()> {
        match &write.if_missing {
            IfMissing::Skip => Ok(()),
            IfMissing::Else { file, value } => {
                directory.write(file, value).context(|| &write.field)
            }
            IfMissing::Fail if self.dirfd().is_some() && !has_controller(directory, write) => {
                let error = Error::new(Kind::Unsupported, unavailable(&write.controller));
                Err(error.within(&write.field))
            }
            IfMissing::Fail => Err(error).context(|| &write.field),
        }
    }

    /// Makes `rules` the device rules. What both the old and the new ones
    /// allow stays allowed throughout.
    ///
    /// # Errors
    /// Rules that v1 can't express; the kernel has no device control; a
    /// parent denies what is to be allowed.
    pub fn apply_devices(&self, rules: &[Rule]) -> Result<()> {
        if let Some(v1) = self.joined.iter().find(|at| at.member.has("devices")) {
            return apply_policy(&v1.directory, &Policy::of(rules)?);
        }
        match self.unified() {
            Some(v2) => attach_program(&v2.directory, &device_bpf::program(rules)),
            None => Ok(()),
        }
    }
}

/// v2: whether the directory has the controller of `write`.
fn has_controller(directory: &Directory, write: &Write) -> bool {
    write.controller == "cgroup"
        || directory
            .read("cgroup.controllers")
            .is_ok_and(|list| list.split_whitespace().any(|name| name == write.controller))
}

/// `checkBeforeUpdate`: a limit below what is in use would kill.
fn check_usage(directory: &Directory, write: &Write, file: &str) -> Result<()> {
    let (Some(usage), Ok(limit)) = (number(directory, file), write.value.parse::<u64>()) else {
        return Ok(());
    };
    if limit >= usage {
        return Ok(());
    }
    let text = format!("rejecting memory limit {limit}, which is below the usage {usage}");
    Err(Error::new(Kind::InvalidConfig, text).within(&write.field))
}

/// v1: the kernel can't get the usage under the new limit.
fn below_usage(directory: &Directory, write: &Write) -> Error {
    let number = |file| number(directory, file).unwrap_or(0);
    let text = format!(
        "unable to set memory limit to {} (current usage: {}, peak usage: {})",
        write.value,
        number("memory.usage_in_bytes"),
        number("memory.max_usage_in_bytes"),
    );
    Error::new(Kind::System, text)
        .with_errno(Errno::EBUSY)
        .within(&write.field)
}

fn number(directory: &Directory, file: &str) -> Option<u64> {
    directory.read(file).ok()?.trim().parse().ok()
}

/// v1: from the policy of now to `target`.
fn apply_policy(directory: &Directory, target: &Policy) -> Result<()> {
    let doing = || "linux.resources.devices";
    let current = Policy::parse(&directory.read("devices.list").context(doing)?);
    let steps = current.steps_to(target);
    for steps in steps.chunk_by(|a, b| a.0 == b.0) {
        let values = steps.iter().map(|(_, value)| value.as_str());
        directory.write_each(steps[0].0, values).context(doing)?;
    }
    Ok(())
}

/// v2: the program of `rules` instead of those attached before.
fn attach_program(directory: &Directory, program: &[Instruction]) -> Result<()> {
    let code: Vec<[u8; 8]> = program
        .iter()
        .map(|instruction| instruction.bytes())
        .collect();
    sys::bpf::replace_device_program(directory, &code).context(|| "linux.resources.devices")
}
