//! An older kernel: system calls that are not there, and what is expected then.
//!
//! `WITHOUT=CALL,...` lets each case run under a filter that answers as a kernel
//! does that does not know these calls; `CALL=EPERM` answers to the runtime as an old
//! filter around it does. Every case must pass as ever, but for
//! those in [`LOST`]: what they ask for can't be had without the call, and they
//! must fail with the words that are said here.

use crate::runner::Verdict;

/// A case that can't pass without some call.
pub struct Lost {
    /// Its name, with its group.
    pub case: &'static str,
    /// It is lost when one of these is missing; with [`together`](Self::together)
    /// when all are.
    pub calls: &'static [&'static str],
    /// Whether one of the calls is enough for it.
    pub together: bool,
    /// What it must say.
    pub says: &'static str,
    /// Why there is no other way.
    pub reason: &'static str,
}

impl Lost {
    /// What the case's end means: it must fail, with these words, and leave
    /// nothing behind.
    pub(crate) fn verdict(&self, code: i32, output: String) -> Verdict {
        let reason = self.reason;
        if code == 0 {
            return Verdict::Failed(format!("it passes, so it is not lost (any more): {reason}"));
        }
        match output.contains(self.says) && !output.contains("left behind: ") {
            true => Verdict::Passed,
            false => Verdict::Failed(format!(
                "it should say {:?} ({reason}) and leave nothing:\n{output}",
                self.says
            )),
        }
    }
}

const fn lost(
    case: &'static str,
    calls: &'static [&'static str],
    says: &'static str,
    reason: &'static str,
) -> Lost {
    Lost {
        case,
        calls,
        together: false,
        says,
        reason,
    }
}

const fn without_a_pidfd(case: &'static str) -> Lost {
    Lost {
        case,
        calls: &["clone3", "pidfd_open"],
        together: true,
        says: "pidfd_open(): function not implemented before Linux 5.3",
        reason: "a pidfd is asked for, or needed to fetch the descriptor",
    }
}

const fn idmapped(case: &'static str) -> Lost {
    lost(
        case,
        &["open_tree", "move_mount", "mount_setattr"],
        "function not implemented before Linux 5.",
        "mount(2) can't map ids",
    )
}

const fn recursive(case: &'static str) -> Lost {
    lost(
        case,
        &["mount_setattr"],
        "AT_RECURSIVE): function not implemented before Linux 5.12",
        "mount(2) changes one mount, and what is mounted meanwhile would be missed",
    )
}

const fn hot(case: &'static str, calls: &'static [&'static str]) -> Lost {
    lost(
        case,
        calls,
        "function not implemented before Linux 5.",
        "a mount for a container that runs must be whole before it is seen, and its \
         source is in another mount namespace",
    )
}

/// Every case that is lost with a call.
pub const LOST: &[Lost] = &[
    without_a_pidfd("run: --pidfd-socket sends a pidfd of the container's init"),
    without_a_pidfd("annotations: run.oci.pidfd_receiver gets a pidfd"),
    without_a_pidfd("annotations: run.oci.seccomp.receiver gets the listener"),
    without_a_pidfd("seccomp: NOTIFY hands its descriptor to the agent with the container's state"),
    lost(
        "exec: --pidfd-socket sends a pidfd of the process",
        &["pidfd_open"],
        "pidfd_open(): function not implemented before Linux 5.3",
        "the process is the child of another, and clone3 gave that one the pidfd",
    ),
    without_a_pidfd("annotations: RUN_OCI_SECCOMP_RECEIVER gets a listener that nobody else gets"),
    without_a_pidfd("review: rootless: the agent gets the listener of a user's container"),
    without_a_pidfd("review: rootless: exec under a filter that notifies is refused with a hint"),
    idmapped("rootfs: a mount's mappings translate owners (idmap)"),
    idmapped(
        "rootfs: idmap=uids=..;gids=.. maps as it says, and with @ by the container's own mappings",
    ),
    lost(
        "rootfs: a file system of its own is idmapped, too",
        &["fsopen", "move_mount", "mount_setattr"],
        ": mount",
        "mount(2) can't map ids",
    ),
    lost(
        "rootfs: a file system that can't be idmapped is refused, with the path",
        &["fsopen", "mount_setattr"],
        "no `invalid argument` in stderr",
        "mount(2) can't map ids: that is said of each",
    ),
    recursive("rootfs: recursive options reach submounts: rro"),
    recursive("rootfs: recursive options: rnosuid, rnodev, rnoexec, rnoatime"),
    hot(
        "hot_mounts: mounts add brings binds and file systems, remove takes them away",
        &["fsopen", "open_tree", "move_mount", "mount_setattr"],
    ),
    hot(
        "hot_mounts: mounts add mounts all of a list or nothing, and names what failed",
        &["fsopen", "open_tree", "move_mount", "mount_setattr"],
    ),
    hot(
        "hot_mounts: mounts add takes an object with mounts as well, and a created container",
        &["fsopen", "move_mount"],
    ),
    hot(
        "hot_mounts: mounts: a link in the container leads nowhere outside",
        &["fsopen", "move_mount"],
    ),
    hot(
        "hot_mounts: mounts remove unmounts nothing unless all are mounts",
        &["fsopen", "move_mount"],
    ),
    hot(
        "guarded_host: a mount that comes to a running container of a user namespace stays as read-only as it came",
        &["open_tree", "move_mount", "mount_setattr"],
    ),
    hot(
        "review: mounts add: a device of the container's is no source",
        &["fsopen", "move_mount"],
    ),
    hot(
        "review: mounts add: an overlay's layers are the host's",
        &["fsopen", "move_mount"],
    ),
    hot(
        "review: mounts add: a tmpfs is charged to the container's memory",
        &["fsopen", "move_mount"],
    ),
    hot(
        "review: mounts add: tmpcopyup reads no device that takes a file's place",
        &["fsopen", "move_mount"],
    ),
    lost(
        "safety: a runtime on a tmpfs is sealed without a copy",
        &["open_tree", "mount_setattr"],
        "/memfd:rrun (deleted)",
        "a copy in memory with seals is the other way to protect the binary",
    ),
];

/// Whether the case of this name may be expected to fail somewhere: then it is
/// in every sample.
pub fn is_named(name: &str) -> bool {
    LOST.iter().any(|lost| lost.case == name) || name.starts_with("fallbacks: ")
}

/// What is expected of the case without these calls, if not what it says.
pub fn lost_without(name: &str, missing: &[String]) -> Option<&'static Lost> {
    let named = |one: &str| one.split('=').next().unwrap_or_default().to_owned();
    let is_missing = |call: &&str| missing.iter().any(|one| named(one) == *call);
    let mut lost = LOST.iter().filter(|lost| lost.case == name);
    lost.find(|lost| match lost.together {
        true => lost.calls.iter().all(is_missing),
        false => lost.calls.iter().any(is_missing),
    })
}
