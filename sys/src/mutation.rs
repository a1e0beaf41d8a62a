//! Defences that a test takes out, one at a time or those that stand behind each
//! other together, to see that the attack on them is noticed (`hack/mutations`).
//!
//! Without the feature `mutations` every answer is a constant `false` and
//! nothing of this is in the program. With it, it takes effect only in the
//! machine of `hack/vm`, which has [`MACHINE`]: the names in [`CHOICE`] are the
//! defences that are out. It is read once, before a container is entered.

/// What the throw-away machine of the tests has.
#[cfg(feature = "mutations")]
const MACHINE: &str = "/.vm-init";

/// The file that names the defences to leave out.
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
    /// The state is its owner's alone.
    PrivateState,
    /// A cgroup mount is as read-only as it was asked to be.
    ReadonlyCgroups,
    /// Names of cgroups and of processes are bytes, not text.
    NamesAsBytes,
    /// What a pid file is written to first is made anew.
    NewDraft,
    /// A hook may leave its input unread.
    UnreadInput,
    /// An id is as wide as the kernel's.
    WholeIds,
    /// The helpers that map ids are found by fixed paths.
    FixedHelpers,
    /// Hooks write to regular files, which no link leads to.
    RegularHookFile,
    /// Groups of the host's root stay out of a container, whatever it says.
    RootsGroups,
    /// Sources of bind mounts are opened where the kernel has locked them.
    LockedSources,
    /// A cgroup with somebody in it is not taken over.
    UnusedCgroup,
    /// The command line of who enters is not shown.
    HiddenArguments,
    /// The shim's socket is its user's alone, by its mode.
    PrivateSocket,
    /// The shim serves its own user alone, by the peer's id.
    OwnPeer,
    /// The shim waits for output no longer than a while.
    DrainDeadline,
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
        let name = format!("{self:?}");
        out.split_whitespace().any(|one| one == name)
    }
}
