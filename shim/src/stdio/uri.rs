//! Where containerd wants a stream to go: parsed once, from its text.
//!
//! | text | meaning |
//! |---|---|
//! | (empty) | `/dev/null` |
//! | `/path` | a FIFO that the client made, or another file that is there |
//! | `file:///path` | a file, made with its folders, appended to |
//! | `binary:///path?k=v` | a logger, started with the arguments `k v` |
//! | `binary-v2:///path?k=v` | a logger that must write a byte when it is ready |

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use rrun::error::{Error, Kind, Result};

/// Where a stream goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Nowhere.
    Null,
    /// Something that is there: a FIFO as a rule.
    Path(PathBuf),
    /// A file that is appended to and made if need be.
    File(PathBuf),
    /// A program that reads the streams.
    Logger(Program),
}

/// The program of a `binary://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    /// Its absolute path.
    pub(super) path: PathBuf,
    /// Keys and values of the query, in their order.
    pub(super) args: Vec<OsString>,
    /// Whether closing its ready descriptor without a byte is a failure.
    pub(super) must_speak: bool,
}

/// Parses the target of the stream called `stream`.
pub(super) fn parse(stream: &str, text: &str) -> Result<Target> {
    let invalid =
        |cause: &str| Error::new(Kind::InvalidConfig, format!("{stream} {text:?}: {cause}"));
    if text.is_empty() {
        return Ok(Target::Null);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok(Target::Path(text.into()));
    };
    if scheme.contains('/') {
        return Ok(Target::Path(text.into()));
    }
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = PathBuf::from(unescape(path, false).ok_or_else(|| invalid("not a URL"))?);
    if !path.is_absolute() {
        return Err(invalid("the path is not absolute"));
    }
    match scheme {
        "fifo" => Ok(Target::Path(path)),
        "file" => Ok(Target::File(path)),
        "binary" | "binary-v2" => Ok(Target::Logger(Program {
            path,
            args: arguments(query).ok_or_else(|| invalid("not a URL"))?,
            must_speak: scheme == "binary-v2",
        })),
        _ => Err(invalid("unknown STDIO scheme")),
    }
}

/// The arguments that a query stands for: each key, then its first value.
fn arguments(query: &str) -> Option<Vec<OsString>> {
    let mut keys: Vec<OsString> = Vec::new();
    let mut args = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = unescape(key, true)?;
        if keys.contains(&key) {
            continue;
        }
        args.extend([key.clone(), unescape(value, true)?]);
        keys.push(key);
    }
    Some(args)
}

/// Percent escapes undone; in a query a `+` is a space.
fn unescape(text: &str, query: bool) -> Option<OsString> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [*rest.next()?, *rest.next()?];
                u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b'+' if query => b' ',
            byte => byte,
        });
    }
    (!bytes.contains(&0)).then(|| OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        match parse("stdout", text) {
            Ok(Target::Null) => "null".to_owned(),
            Ok(Target::Path(path)) => format!("path {}", path.display()),
            Ok(Target::File(path)) => format!("file {}", path.display()),
            Ok(Target::Logger(program)) => format!(
                "logger {} {:?} {}",
                program.path.display(),
                program.args,
                program.must_speak
            ),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_stream_goes_where_its_text_says() {
        for (text, expected) in [
            ("", "null"),
            ("/run/f/1-stdout", "path /run/f/1-stdout"),
            ("relative", "path relative"),
            ("/odd://name", "path /odd://name"),
            ("fifo:///run/f", "path /run/f"),
            ("file:///var/log/a%20b.log", "file /var/log/a b.log"),
            ("file:///a#b", "file /a"),
            ("binary:///bin/l", "logger /bin/l [] false"),
            (
                "binary:///bin/l?id=a&x",
                r#"logger /bin/l ["id", "a", "x", ""] false"#,
            ),
            ("binary:///l?k=1&k=2", r#"logger /l ["k", "1"] false"#),
            ("binary:///l?a+b=%2Fc", r#"logger /l ["a b", "/c"] false"#),
            ("binary-v2:///l?k=v", r#"logger /l ["k", "v"] true"#),
            (
                "file://name",
                r#"stdout "file://name": the path is not absolute"#,
            ),
            ("npipe:///x", r#"stdout "npipe:///x": unknown STDIO scheme"#),
            ("file:///a%2", r#"stdout "file:///a%2": not a URL"#),
            ("file:///a%00", r#"stdout "file:///a%00": not a URL"#),
            ("binary:///l?%zz", r#"stdout "binary:///l?%zz": not a URL"#),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }
}
