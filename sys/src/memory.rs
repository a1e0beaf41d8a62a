//! Memory that survives a fork on both sides.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use super::{Error, Result};

/// How many words fit the smallest page.
pub const WORDS: usize = 4096 / size_of::<AtomicU64>();

/// A page of words that a process shares with the children it makes
/// afterwards.
///
/// It stays mapped for the life of the process.
#[derive(Debug, Clone, Copy)]
pub struct SharedWords(&'static [AtomicU64; WORDS]);

impl SharedWords {
    /// New shared words, all 0.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice
        // touches no memory of ours.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<[AtomicU64; WORDS]>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(Error::new(
                "mmap(4096, MAP_SHARED|MAP_ANONYMOUS)",
                Errno::last(),
            ));
        }
        // SAFETY: the mapping is readable, writable, zeroed, aligned to a page
        // and never unmapped, and every access goes through the atomics.
        Ok(Self(unsafe { &*page.cast::<[AtomicU64; WORDS]>() }))
    }

    /// Stores `value` in word `at` for the other side to see. Words beyond the
    /// page are nowhere.
    pub fn store(self, at: usize, value: u64) {
        if let Some(word) = self.0.get(at) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Word `at` itself, for a call that writes there; the last one for a number
    /// beyond the page.
    #[must_use]
    pub fn place(self, at: usize) -> &'static AtomicU64 {
        &self.0[at.min(WORDS - 1)]
    }

    /// What either side stored last in word `at`, 0 beyond the page.
    #[must_use]
    pub fn load(self, at: usize) -> u64 {
        self.0
            .get(at)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }
}
