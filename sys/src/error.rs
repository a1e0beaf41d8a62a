//! A failed system call, printed with its arguments.

use std::fmt;

use nix::errno::Errno;

/// The result of a system call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A system call that failed: the call with its arguments, and the errno.
///
/// Prints as `openat2([7], "etc/passwd", O_PATH): no such file or directory`,
/// with the errno's words in lower case, as engines grep for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    call: String,
    errno: Errno,
}

impl Error {
    /// An error of `call`, which is the text of the call with its arguments.
    pub fn new(call: impl Into<String>, errno: Errno) -> Self {
        Self {
            call: call.into(),
            errno,
        }
    }

    /// The errno, for decisions such as a fallback on `ENOSYS`.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, words(self.errno))?;
        match (self.errno, since(&self.call)) {
            (Errno::ENOSYS, Some(version)) => write!(f, " before Linux {version}"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Since when the kernel has `call`, for calls that may be missing.
fn since(call: &str) -> Option<&'static str> {
    let name = call.split('(').next()?;
    let young = [
        ("pidfd_send_signal", "5.1"),
        ("fsopen", "5.2"),
        ("fsconfig", "5.2"),
        ("fsmount", "5.2"),
        ("open_tree", "5.2"),
        ("move_mount", "5.2"),
        ("clone3", "5.3"),
        ("pidfd_open", "5.3"),
        ("openat2", "5.6"),
        ("pidfd_getfd", "5.6"),
        ("close_range", "5.9"),
        ("mount_setattr", "5.12"),
    ];
    let found = young.iter().find(|(young, _)| *young == name);
    found.map(|(_, version)| *version)
}

/// The errno's description with a lower-case first letter, as Go prints it:
/// Podman and containerd search the text for `permission denied`,
/// `no such file or directory` and the like.
fn words(errno: Errno) -> String {
    let text = errno.desc();
    let mut chars = text.chars();
    // "RFS specific error" and the like keep their capitals.
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if !second.is_uppercase() => {
            let mut words = first.to_lowercase().to_string();
            words.push_str(&text[first.len_utf8()..]);
            words
        }
        _ => text.to_owned(),
    }
}

/// Gives a nix or rustix result the text of its call, which is made only on
/// failure: `call(unlinkat(..), || format!("unlinkat([{fd}], {name:?})"))`.
///
/// # Errors
/// The error of `result`, with the text of `describe`.
pub fn call<T, E: ToErrno>(
    result: std::result::Result<T, E>,
    describe: impl FnOnce() -> String,
) -> Result<T> {
    result.map_err(|error| Error::new(describe(), error.errno()))
}

/// The error types of the two system call libraries and of std.
pub trait ToErrno {
    /// The errno behind the error.
    fn errno(&self) -> Errno;
}

impl ToErrno for Errno {
    fn errno(&self) -> Errno {
        *self
    }
}

impl ToErrno for rustix::io::Errno {
    fn errno(&self) -> Errno {
        Errno::from_raw(self.raw_os_error())
    }
}

impl ToErrno for std::io::Error {
    /// Errors that std makes itself, without an errno, read as `EIO`.
    fn errno(&self) -> Errno {
        Errno::from_raw(self.raw_os_error().unwrap_or(libc::EIO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_the_call_and_the_words_engines_grep() {
        for (errno, text) in [
            (Errno::EPERM, "operation not permitted"),
            (Errno::EACCES, "permission denied"),
            (Errno::ENOENT, "no such file or directory"),
            (Errno::ENOEXEC, "exec format error"),
            (Errno::ESRCH, "no such process"),
            (Errno::EBUSY, "device or resource busy"),
        ] {
            let error = Error::new("mkdirat([5], \"a\")", errno);
            assert_eq!(error.to_string(), format!("mkdirat([5], \"a\"): {text}"));
        }
    }

    #[test]
    fn a_missing_call_says_which_kernel_has_it() {
        for (call, errno, text) in [
            (
                "pidfd_open()",
                Errno::ENOSYS,
                "function not implemented before Linux 5.3",
            ),
            (
                "mount_setattr([3])",
                Errno::ENOSYS,
                "function not implemented before Linux 5.12",
            ),
            (
                "mount_setattr([3])",
                Errno::EPERM,
                "operation not permitted",
            ),
            ("keyctl(1)", Errno::ENOSYS, "function not implemented"),
        ] {
            let error = Error::new(call, errno);
            assert_eq!(error.to_string(), format!("{call}: {text}"));
        }
    }
}
