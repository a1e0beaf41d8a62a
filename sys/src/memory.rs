//! Memory that survives a fork on both sides.

use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;

use super::{Error, Result};

/// One byte that a process shares with the children it makes afterwards.
///
/// It stays mapped for the life of the process.
#[derive(Debug, Clone, Copy)]
pub struct SharedByte(&'static AtomicU8);

impl SharedByte {
    /// A new shared byte of value 0, on a page of its own.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice
        // touches no memory of ours.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<AtomicU8>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(Error::new(
                "mmap(1, MAP_SHARED|MAP_ANONYMOUS)",
                Errno::last(),
            ));
        }
        // SAFETY: the mapping is readable, writable, zeroed, aligned to a page
        // and never unmapped, and every access goes through the atomic.
        Ok(Self(unsafe { &*page.cast::<AtomicU8>() }))
    }

    /// Stores `value` for the other side to see.
    pub fn store(self, value: u8) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What either side stored last.
    #[must_use]
    pub fn load(self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}
