//! The name of a container.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};
use crate::sys::mutation::Defence;

/// A checked id: one path component of letters, digits and `_+.-`, neither
/// `.` nor `..`, so it can name a directory and a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// More can't be a directory's name (`NAME_MAX`), and runc takes up to 1024.
const LONGEST: usize = 255;

impl ContainerId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id made from any words, such as a folder's name: what an id can't
    /// hold becomes a dash. `None` if nothing is left.
    #[must_use]
    pub fn from_words(words: &str) -> Option<Self> {
        let text: String = words
            .chars()
            .map(|c| if may_contain(c) { c } else { '-' })
            .take(LONGEST)
            .collect();
        let text = text.trim_matches('-');
        text.parse().ok()
    }
}

/// Whether an id may have this character.
fn may_contain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_+.-".contains(c)
}

impl FromStr for ContainerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = |why: &str| {
            let text = format!("invalid container ID format: {text:?}: {why}");
            Err(Error::new(Kind::Usage, text))
        };
        if Defence::PlainIds.is_out() {
            return Ok(Self(text.to_owned()));
        }
        match text {
            "" => refused("it is empty"),
            "." | ".." => refused("it names a directory"),
            _ if !text.chars().all(may_contain) => {
                refused("only letters, digits and _+.- are allowed")
            }
            _ if text.len() > LONGEST => refused("it is longer than 255 bytes"),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for ContainerId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let long = "a".repeat(256);
        for (text, refusal) in [
            ("web", None),
            ("a+B_0.9-", None),
            (".hidden", None),
            ("...", None),
            ("-f", None),
            ("", Some("\"\": it is empty")),
            (".", Some("\".\": it names a directory")),
            ("..", Some("\"..\": it names a directory")),
            (
                "a/b",
                Some("\"a/b\": only letters, digits and _+.- are allowed"),
            ),
            (
                "a b",
                Some("\"a b\": only letters, digits and _+.- are allowed"),
            ),
            (
                "\u{e4}",
                Some("\"\u{e4}\": only letters, digits and _+.- are allowed"),
            ),
            (
                "a\n",
                Some("\"a\\n\": only letters, digits and _+.- are allowed"),
            ),
        ] {
            let parsed = text.parse::<ContainerId>();
            let expected = refusal.map(|why| format!("invalid container ID format: {why}"));
            assert_eq!(
                parsed.err().map(|error| error.to_string()),
                expected,
                "{text}"
            );
        }
        assert!(long.parse::<ContainerId>().is_err());
        assert!(long[1..].parse::<ContainerId>().is_ok());
    }

    #[test]
    fn a_folder_gives_its_name() {
        for (words, id) in [
            ("web", Some("web")),
            ("my bundle (2)", Some("my-bundle--2")),
            ("a/b", Some("a-b")),
            ("..", None),
            ("  ", None),
            ("", None),
        ] {
            let made = ContainerId::from_words(words);
            assert_eq!(made.as_ref().map(ContainerId::as_str), id, "{words}");
        }
    }
}
