//! The plan of one more process in a running container.

use std::ffi::CString;

use nix::sched::CloneFlags;

use super::annotations::Annotations;
use super::container::{dumpable_for_listener, filter, grantable, personality};
use super::namespaces::Namespaces;
use super::process::{Document, Process};
use super::scheduling::{MemoryPolicy, memory_policy};
use crate::error::Result;
use crate::host::Host;
use crate::seccomp::Filter;
use crate::spec::{self, Spec};

/// Every decision about a process to be made in a running container.
#[derive(Debug, Clone)]
pub struct Exec {
    /// The process.
    pub process: Process,
    /// The filter, which is the container's.
    pub filter: Option<Filter>,
    /// The execution domain, which is the container's.
    pub personality: Option<u32>,
    /// The NUMA memory policy, which is the container's.
    pub memory_policy: Option<MemoryPolicy>,
    /// The namespaces in which the container differs from the host.
    pub namespaces: CloneFlags,
    /// The name of the container's session keyring.
    pub keyring: Option<CString>,
    /// What was accepted but deserves a word.
    pub warnings: Vec<String>,
}

impl Exec {
    /// Decides about `process`, in the container that was made from `spec`.
    ///
    /// # Errors
    /// A value that is invalid, with its field.
    pub fn new(
        spec: &Spec,
        process: &spec::Process,
        keyring: Option<CString>,
        host: &Host,
    ) -> Result<Self> {
        let linux = spec.linux.clone().unwrap_or_default();
        let mut warnings = Vec::new();
        let namespaces = Namespaces::plan(&linux)?;
        let grantable = grantable(&namespaces, host);
        // Of these `create` has told.
        let annotations = Annotations::plan(&spec.annotations, &mut Vec::new())?;
        let mut planned = Process::plan(process, Document::Exec, grantable, &mut warnings)?;
        planned.keep_groups = annotations.keeps_groups(host.rootless);
        planned.check_label(host, Document::Exec)?;
        let filter = filter(&linux, &annotations, host, &mut warnings)?;
        // Others are in the container already.
        dumpable_for_listener(filter.as_ref(), false, host)?;
        Ok(Self {
            process: planned,
            filter,
            personality: personality(linux.personality.as_ref())?,
            memory_policy: memory_policy(linux.memory_policy.as_ref())?,
            namespaces: namespaces.flags(),
            keyring,
            warnings,
        })
    }
}
