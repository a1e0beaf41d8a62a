//! The one error type: a chain of words for people, a [`Kind`] for programs.
//!
//! A message is one line, lower case, without a full stop, and always names
//! its operand: `create "web": mount "proc" on "/proc": fsmount([9]): operation
//! not permitted`. The lowest layer prints the call, each layer above adds one
//! phrase or nothing, and `main` reports it once.

use std::fmt::{self, Display};

use nix::errno::Errno;

use crate::sys;

/// The result of everything above `sys`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, for programs: it decides the exit code and the `code`
/// field of the JSON log. `docs/errors.md` has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// config.json, process.json or resources have an invalid value.
    InvalidConfig,
    /// The host or this build can't do what is asked for.
    Unsupported,
    /// No container has this id.
    NotFound,
    /// A container with this id exists.
    AlreadyExists,
    /// The container is in a state that the command can't work with.
    WrongState,
    /// The container's process is gone.
    NotRunning,
    /// The program to run can't be found (engines make exit code 127 of it).
    CommandNotFound,
    /// The program to run can't be executed (engines make 126 of it).
    CommandNotExecutable,
    /// A hook failed or ran out of time.
    Hook,
    /// A system call failed.
    System,
}

impl Kind {
    /// The word that stands for the kind in the JSON log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Usage => "usage",
            Kind::InvalidConfig => "invalid-config",
            Kind::Unsupported => "unsupported",
            Kind::NotFound => "not-found",
            Kind::AlreadyExists => "already-exists",
            Kind::WrongState => "wrong-state",
            Kind::NotRunning => "not-running",
            Kind::CommandNotFound => "command-not-found",
            Kind::CommandNotExecutable => "command-not-executable",
            Kind::Hook => "hook",
            Kind::System => "system",
        }
    }

    /// The kind whose [`name`](Self::name) this is, as read from a channel.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Kind::Usage,
            Kind::InvalidConfig,
            Kind::Unsupported,
            Kind::NotFound,
            Kind::AlreadyExists,
            Kind::WrongState,
            Kind::NotRunning,
            Kind::CommandNotFound,
            Kind::CommandNotExecutable,
            Kind::Hook,
            Kind::System,
        ]
        .into_iter()
        .find(|kind| kind.name() == name)
    }
}

/// A failure: its kind, its whole chain as one line, and where it came from a
/// system call, the errno.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    text: String,
    errno: Option<Errno>,
    hint: Option<String>,
}

impl Error {
    /// An error with the words `text`.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: one_line(text.into()),
            errno: None,
            hint: None,
        }
    }

    /// An invalid value in config.json: `path` is its JSON path, for example
    /// `linux.resources.memory.limit`.
    pub fn config(path: impl Display, cause: impl Display) -> Self {
        Self::new(Kind::InvalidConfig, format!("config.json: {path}: {cause}"))
    }

    /// What went wrong, for programs.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The errno of the system call at the root of the failure.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        self.errno
    }

    /// Something the user can do, printed on a line of its own.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The same failure with another kind.
    #[must_use]
    pub fn with_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// The same failure with the errno at its root, as read from a channel.
    #[must_use]
    pub fn with_errno(self, errno: Errno) -> Self {
        Self {
            errno: Some(errno),
            ..self
        }
    }

    /// The same failure with something that the user can do about it.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// The same failure behind one more phrase: `phrase: text`.
    #[must_use]
    pub fn within(mut self, phrase: impl Display) -> Self {
        self.text = one_line(format!("{phrase}: {}", self.text));
        self
    }

    /// The same failure with what another has to say about it: `text (note)`.
    #[must_use]
    pub fn with_note(mut self, note: impl Display) -> Self {
        self.text = one_line(format!("{} ({note})", self.text));
        self
    }

    /// This failure and one that happened while cleaning up after it.
    #[must_use]
    pub fn and(mut self, other: &Error) -> Self {
        self.text = format!("{}; {}", self.text, other.text);
        self
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

impl From<sys::Error> for Error {
    fn from(error: sys::Error) -> Self {
        Self {
            kind: Kind::System,
            text: one_line(error.to_string()),
            errno: Some(error.errno()),
            hint: None,
        }
    }
}

/// A message is one line that can be read, whatever a path or a key in it
/// holds.
pub(crate) fn one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return shorten(text);
    }
    let escaped = text.chars().map(|c| match c {
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    });
    shorten(escaped.collect())
}

/// Where a message is too long to be read, its beginning and its end: the field
/// and the cause.
fn shorten(text: String) -> String {
    const LONGEST: usize = 6144;
    const BEGINNING: usize = 256;
    const END: usize = 256;
    if text.len() <= LONGEST {
        return text;
    }
    let boundary = |at: &usize| text.is_char_boundary(*at);
    let from = (0..=BEGINNING).rfind(boundary).unwrap_or(0);
    let to = (text.len() - END..text.len())
        .find(boundary)
        .unwrap_or(text.len());
    let (beginning, end) = (&text[..from], &text[to..]);
    format!("{beginning}[... {} bytes ...]{end}", to - from)
}

/// Adds a phrase in front of an error on its way up.
pub trait Context<T> {
    /// `phrase` says what was being done, with its operand; it is only made on
    /// failure.
    ///
    /// # Errors
    /// The error of `self`, behind the phrase.
    fn context<P: Display>(self, phrase: impl FnOnce() -> P) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context<P: Display>(self, phrase: impl FnOnce() -> P) -> Result<T> {
        self.map_err(|error| error.into().within(phrase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_is_in_it() {
        let error = Error::config("mounts.a\nb", "no\tgood").within("create \u{7}");
        assert_eq!(
            error.to_string(),
            "create \\u{7}: config.json: mounts.a\\nb: no\\tgood"
        );
    }

    #[test]
    fn of_a_long_message_the_beginning_and_the_end_are_kept() {
        let long = "é".repeat(500_000);
        let error = Error::config("hostname", format!("{long:?} is too long"));
        let text = error.to_string();
        // Of 1,000,037 bytes; the 256th from the end is in the middle of an é.
        assert_eq!(
            text,
            format!(
                "config.json: hostname: \"{}[... 999526 bytes ...]{}\" is too long",
                "é".repeat(116),
                "é".repeat(121)
            )
        );
    }

    #[test]
    fn context_builds_the_chain_from_the_inside_out() {
        let failed: sys::Result<()> = Err(sys::Error::new(
            "fsmount([9], nosuid|noexec|nodev)",
            Errno::EPERM,
        ));
        let error = failed
            .context(|| "mount \"proc\" on \"/proc\"")
            .context(|| format!("create {:?}", "web"))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "create \"web\": mount \"proc\" on \"/proc\": \
             fsmount([9], nosuid|noexec|nodev): operation not permitted"
        );
        assert_eq!(error.errno(), Some(Errno::EPERM));
        assert_eq!(error.kind(), Kind::System);
    }
}
