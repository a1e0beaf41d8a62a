//! The JSON path of a place in a document, for messages.
//!
//! serde_json says at which line and column a value did not fit. The document is
//! read up to there once more, and what is open then is the path. This is only
//! done for a document that is refused.

/// One level of the way to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    /// In an object, behind this key; none before the first.
    Object(Option<String>),
    /// In an array, at this index.
    Array(usize),
}

/// The path of the value that ends at `line` and `column` (both from 1, the
/// column in bytes), or is open there: `linux.namespaces[1].type`. Empty at the
/// top of the document.
#[must_use]
pub(super) fn path_at(json: &[u8], line: usize, column: usize) -> String {
    let before = line.saturating_sub(1);
    let lines = json.split_inclusive(|byte| *byte == b'\n');
    let start: usize = lines.take(before).map(<[u8]>::len).sum();
    let end = (start + column).min(json.len());
    render(&levels(&json[..end]))
}

/// What is open at the end of `json`. What the last byte closes counts as open:
/// it is the value that did not fit.
fn levels(json: &[u8]) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::new();
    let mut at = 0;
    while at < json.len() {
        let byte = json[at];
        let mut next = at + 1;
        match byte {
            b'{' => levels.push(Level::Object(None)),
            b'[' => levels.push(Level::Array(0)),
            b'}' | b']' if next < json.len() => {
                levels.pop();
            }
            b'}' | b']' => {
                // The whole of it did not fit.
                levels.pop();
                return levels;
            }
            b',' => {
                if let Some(Level::Array(index)) = levels.last_mut() {
                    *index += 1;
                }
            }
            b'"' => {
                next = end_of_string(json, next);
                if is_key(json, next)
                    && let Some(Level::Object(key)) = levels.last_mut()
                {
                    *key = Some(unquoted(&json[at..next]));
                }
            }
            _ => {}
        }
        at = next;
    }
    // The bracket that was read last is where the type was seen to be wrong.
    if matches!(json.last(), Some(b'{' | b'[')) {
        levels.pop();
    }
    levels
}

/// The index behind the closing quote of the string whose text begins at `at`.
fn end_of_string(json: &[u8], mut at: usize) -> usize {
    while at < json.len() {
        match json[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

/// Whether a colon follows.
fn is_key(json: &[u8], at: usize) -> bool {
    let mut rest = json[at..].iter();
    rest.find(|byte| !byte.is_ascii_whitespace()) == Some(&b':')
}

/// The text of a quoted string, as it was written where its escapes are wrong.
fn unquoted(quoted: &[u8]) -> String {
    serde_json::from_slice(quoted).unwrap_or_else(|_| String::from_utf8_lossy(quoted).into_owned())
}

fn render(levels: &[Level]) -> String {
    let mut path = String::new();
    for level in levels {
        match level {
            Level::Object(Some(key)) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            }
            Level::Object(None) => {}
            Level::Array(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_that_of_the_value_before_the_column() {
        for (name, json, column, path) in [
            ("top", "7", 1, ""),
            ("a string", r#"{"a":{"b":"x"}}"#, 13, "a.b"),
            ("a number", r#"{"a":[1,22]}"#, 10, "a[1]"),
            ("inside of a number", r#"{"a":[1,22]}"#, 9, "a[1]"),
            ("an object that opens", r#"{"a":[{"b":1}]}"#, 7, "a[0]"),
            ("an array that opens", r#"{"a":[{"b":1}]}"#, 6, "a"),
            ("an object that ends", r#"{"a":[{"b":1}]}"#, 13, "a[0]"),
            ("an array that ends", r#"{"a":[{"b":1}]}"#, 14, "a"),
            ("behind an ended object", r#"{"a":{"b":1},"c":2}"#, 18, "c"),
            ("an escaped key", r#"{"a\"}{":1}"#, 10, "a\"}{"),
            ("a string with brackets", r#"{"a":"}]","b":1}"#, 15, "b"),
            ("an end in a string", r#"{"a":"x"#, 7, "a"),
            ("an end behind a key", r#"{"root":"#, 8, "root"),
            ("an end in a key", r#"{"ro"#, 4, ""),
            ("beyond the end", r#"{"a":1"#, 99, "a"),
        ] {
            assert_eq!(path_at(json.as_bytes(), 1, column), path, "{name}");
        }
        assert_eq!(path_at(b"{\n  \"a\": {\n    \"b\": 7\n", 3, 10), "a.b");
    }
}
