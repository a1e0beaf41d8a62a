//! Where the child is: a shared page that outlives it.
//!
//! A child that is killed (by a memory limit, say) can't tell what it was
//! doing. It stores each step before taking it on a page that it shares with
//! the parent, which so can say: died by SIGKILL in step "mounts". The moment
//! goes with it, for `--timing`.

use std::sync::atomic::AtomicU64;

use crate::error::Result;
use crate::sys::memory::SharedWords;
use crate::sys::process::monotonic;

/// The steps of a child, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Cloned; nothing done.
    Born,
    /// Closing descriptors, guarding itself.
    Isolation,
    /// Entering the cgroup.
    Membership,
    /// Entering namespaces.
    Namespaces,
    /// The namespaces that it unshares.
    NewNamespaces,
    /// Session, keyring, hostname, loopback device.
    Session,
    /// What of the next step can be done before the cgroup is entered.
    FirstMounts,
    /// Mounts, devices, everything in the root filesystem.
    Mounts,
    /// `prestart` and `createRuntime` run in the parent.
    RuntimeHooks,
    /// `createContainer` hooks.
    ContainerHooks,
    /// Changing the root.
    Pivot,
    /// The terminal.
    Console,
    /// Kernel parameters, masked and read-only paths.
    Finish,
    /// Ids, groups, capabilities.
    Identity,
    /// Looking up the program.
    Program,
    /// Loading the syscall filter.
    Seccomp,
    /// Waiting for `start`.
    Waiting,
    /// `startContainer` hooks.
    StartHooks,
    /// execve.
    Execution,
}

/// Every step, in the order of their numbers.
const STEPS: [(Step, &str); 19] = [
    (Step::Born, "birth"),
    (Step::Isolation, "isolation"),
    (Step::Membership, "cgroup"),
    (Step::Namespaces, "namespaces"),
    (Step::NewNamespaces, "new namespaces"),
    (Step::Session, "session"),
    (Step::FirstMounts, "first mounts"),
    (Step::Mounts, "mounts"),
    (Step::RuntimeHooks, "runtime hooks"),
    (Step::ContainerHooks, "createContainer hooks"),
    (Step::Pivot, "pivot"),
    (Step::Console, "console"),
    (Step::Finish, "masks and kernel parameters"),
    (Step::Identity, "identity"),
    (Step::Program, "program look-up"),
    (Step::Seccomp, "seccomp"),
    (Step::Waiting, "waiting for start"),
    (Step::StartHooks, "startContainer hooks"),
    (Step::Execution, "execution"),
];

/// The shared page: the step in its first word, then the moment at which each
/// was reached.
#[derive(Debug, Clone, Copy)]
pub struct Progress(SharedWords);

impl Progress {
    /// A progress at [`Step::Born`], to be made before the child is.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        let progress = Self(SharedWords::new()?);
        progress.reach(Step::Born);
        Ok(progress)
    }

    /// The child is about to take `step`.
    pub fn reach(self, step: Step) {
        self.0.store(0, step as u64);
        self.0.store(1 + step as usize, monotonic());
    }

    /// Where the kernel writes the pid of a process made by a second fork.
    #[must_use]
    pub fn place_of_pid(self) -> &'static AtomicU64 {
        self.0.place(1 + STEPS.len())
    }

    /// Whether the child reached `step` last.
    #[must_use]
    pub fn is_at(self, step: Step) -> bool {
        self.0.load(0) == step as u64
    }

    /// The name of the step that the child reached last.
    #[must_use]
    pub fn name(self) -> &'static str {
        usize::try_from(self.0.load(0))
            .ok()
            .and_then(|at| STEPS.get(at))
            .map_or("an unknown step", |(_, name)| name)
    }

    /// The steps that the child reached, in order, each with the moment, in
    /// nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn reached(self) -> Vec<(&'static str, u64)> {
        let times = STEPS
            .iter()
            .enumerate()
            .map(|(at, (_, name))| (*name, self.0.load(1 + at)));
        let mut reached: Vec<_> = times.filter(|(_, moment)| *moment != 0).collect();
        // Some may come before others or behind them.
        reached.sort_by_key(|(_, moment)| *moment);
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_names_agree() {
        let progress = Progress::new().unwrap();
        assert_eq!(progress.name(), "birth");
        for (at, (step, name)) in STEPS.into_iter().enumerate() {
            assert_eq!(usize::from(step as u8), at, "{name}");
            progress.reach(step);
            assert_eq!(progress.name(), name);
            assert_eq!(progress.reached().len(), at + 1);
        }
        assert!(progress.reached().is_sorted_by_key(|(_, moment)| *moment));
    }
}
