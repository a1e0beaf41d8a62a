//! Defences that a test takes out, one at a time, to see that the attack on it
//! is noticed (`hack/mutations`).
//!
//! Without the feature `mutations` every answer is a constant `false` and
//! nothing of this is in the program. With it, it takes effect only in the
//! machine of `hack/vm`, which has [`MACHINE`]: the name in [`CHOICE`] is the
//! one defence that is out. It is read once, before a container is entered.

/// What the throw-away machine of the tests has.
#[cfg(feature = "mutations")]
const MACHINE: &str = "/.vm-init";

/// The file that names the defence to leave out.
#[cfg(feature = "mutations")]
const CHOICE: &str = "/run/rrun-mutation";

/// A defence that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defence {
    /// The runtime's binary is sealed before anything else.
    SealedBinary,
    /// Paths are resolved inside the root.
    ResolveInRoot,
    /// What was resolved is used by descriptor, not by its name again.
    KeptDescriptor,
    /// procfs and sysfs go on ordinary directories only.
    OrdinaryDirectory,
    /// Only the listed files of /proc are mounted over.
    ProcAllowList,
    /// Only a procfs is bound on /proc.
    ProcBind,
    /// A file in a device's place is looked at.
    DeviceInPlace,
    /// Only parameters of the container's namespaces are set.
    SysctlNamespaces,
    /// A working directory outside the root is refused.
    WorkingDirectory,
    /// Who enters is seen in the container once the host is behind him.
    EnteredByFork,
    /// The child closes what it was not told to keep.
    ClosedDescriptors,
    /// `exec --cap` leaves the inheritable set alone.
    EmptyInheritable,
    /// `exec --user` is a number and nothing else.
    StrictUser,
    /// The start time tells a process from a later one of its number.
    StartTime,
    /// The supplementary groups are set.
    SetGroups,
    /// What a hook started dies with it.
    HookGroup,
    /// The child is not dumpable until it executes its program.
    NotDumpable,
    /// Only the null device masks a path.
    NullDevice,
    /// Kernel parameters and labels are written through a procfs of our own.
    PrivateProcfs,
    /// An id is a single plain name.
    PlainIds,
    /// Calls of an architecture that the profile does not name are killed.
    ForeignArchitecture,
    /// What is bound on /dev/console came from its master, not from a name.
    OwnTerminal,
    /// Without pivot_root, no procfs and sysfs of the host stays mounted.
    HiddenProcfs,
    /// The child is killed when its parent dies.
    ParentDeath,
    /// All processes of a cgroup are killed at once.
    WholeCgroup,
    /// The root is used by the descriptor that was looked at.
    RootByDescriptor,
}

impl Defence {
    /// Whether it is left out: never, without the feature.
    #[cfg(not(feature = "mutations"))]
    #[inline]
    #[must_use]
    pub const fn is_out(self) -> bool {
        false
    }

    /// Whether it is left out.
    #[cfg(feature = "mutations")]
    #[must_use]
    pub fn is_out(self) -> bool {
        static OUT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let out = OUT.get_or_init(|| {
            let chosen = std::fs::read_to_string(CHOICE).unwrap_or_default();
            let harmless = std::path::Path::new(MACHINE).exists();
            if harmless { chosen } else { String::new() }
        });
        out.trim() == format!("{self:?}")
    }
}
