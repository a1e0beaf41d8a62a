//! `org.systemd.property.NAME` annotations: properties of the container's
//! unit, with a value in the text format of `GVariant`.
//!
//! ```text
//! org.systemd.property.CollectMode:     "'inactive-or-failed'"
//! org.systemd.property.TimeoutStopSec:  "uint64 5"
//! org.systemd.property.Before:          "['a.service', 'b.service']"
//! ```
//!
//! A name that ends in `Sec` counts seconds, as in unit files; over the bus
//! the property is `USec` and counts microseconds.
//! Source: `GLib`, "GVariant Text Format"; systemd.unit(5).

use crate::dbus::wire::Value;
use crate::error::{Error, Result};

/// The name before a property's own.
pub const PREFIX: &str = "org.systemd.property.";

/// How deep arrays and structs may be nested.
const DEEPEST: u32 = 8;

/// The property that the annotation `key` (with its [`PREFIX`]) asks for.
///
/// # Errors
/// A name that is no property's, a value that is no `GVariant`.
pub fn parse(key: &str, text: &str) -> Result<(String, Value)> {
    let refuse = |cause: String| Error::config(format!("annotations[{key:?}]"), cause);
    let name = key.strip_prefix(PREFIX).unwrap_or(key);
    if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(refuse(format!("{name:?} is no name of a property")));
    }
    let mut parser = Parser { rest: text.trim() };
    let value = parser
        .value(0)
        .filter(|_| parser.rest.is_empty())
        .ok_or_else(|| refuse(format!("{text:?} is no value in GVariant's text format")))?;
    match name.strip_suffix("Sec") {
        // Not those that are in microseconds already.
        Some(stem) if stem.ends_with(|last: char| last.is_ascii_lowercase()) => {
            let microseconds = seconds(&value)
                .ok_or_else(|| refuse(format!("{text:?} is no number of seconds")))?;
            Ok((format!("{stem}USec"), Value::Uint64(microseconds)))
        }
        _ => Ok((name.to_owned(), value)),
    }
}

fn seconds(value: &Value) -> Option<u64> {
    let seconds = match value {
        Value::Byte(number) => u64::from(*number),
        Value::Uint32(number) => u64::from(*number),
        Value::Uint64(number) => *number,
        Value::Int32(number) => u64::try_from(*number).ok()?,
        Value::Int64(number) => u64::try_from(*number).ok()?,
        _ => return None,
    };
    seconds.checked_mul(1_000_000)
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    /// Takes `token` and the blanks behind it.
    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    /// Takes what consists of such letters, and the blanks behind it.
    fn word(&mut self, belongs: impl Fn(char) -> bool) -> &str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }

    fn value(&mut self, depth: u32) -> Option<Value> {
        if depth > DEEPEST {
            return None;
        }
        match self.rest.chars().next()? {
            '\'' | '"' => self.string().map(Value::String),
            '[' => self.array(depth, None),
            '(' => self.tuple(depth),
            '@' => {
                self.rest = &self.rest[1..];
                let types = self
                    .word(|c| c.is_ascii_lowercase() || c == '(' || c == ')')
                    .to_owned();
                match types.strip_prefix('a') {
                    Some(of) => self.array(depth, Some(of)),
                    None => {
                        let value = self.value(depth + 1)?;
                        (value.signature() == types).then_some(value)
                    }
                }
            }
            '0'..='9' | '-' | '+' => self.number("int32"),
            _ => {
                let word = self
                    .word(|c| c.is_ascii_alphanumeric() || c == '_')
                    .to_owned();
                match word.as_str() {
                    "true" => Some(Value::Bool(true)),
                    "false" => Some(Value::Bool(false)),
                    "boolean" => self
                        .value(depth + 1)
                        .filter(|value| matches!(value, Value::Bool(_))),
                    "string" => self.string().map(Value::String),
                    "objectpath" => self.string().map(Value::ObjectPath),
                    number => self.number(number),
                }
            }
        }
    }

    fn number(&mut self, kind: &str) -> Option<Value> {
        let is_negative = self.eat("-");
        if !is_negative {
            self.eat("+");
        }
        let digits = self.word(|c| c.is_ascii_alphanumeric());
        let size = match digits.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => digits.parse(),
        };
        let number = i128::from(size.ok()?);
        let number = if is_negative { -number } else { number };
        Some(match kind {
            "byte" => Value::Byte(number.try_into().ok()?),
            "int32" | "handle" => Value::Int32(number.try_into().ok()?),
            "uint32" => Value::Uint32(number.try_into().ok()?),
            "int64" => Value::Int64(number.try_into().ok()?),
            "uint64" => Value::Uint64(number.try_into().ok()?),
            _ => return None,
        })
    }

    /// A quoted string.
    fn string(&mut self) -> Option<String> {
        let mut letters = self.rest.chars();
        let quote = letters.next().filter(|c| matches!(c, '\'' | '"'))?;
        let mut text = String::new();
        loop {
            match letters.next()? {
                c if c == quote => break,
                '\\' => text.push(match letters.next()? {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    c @ ('\\' | '\'' | '"') => c,
                    _ => return None,
                }),
                // Not in D-Bus's strings.
                '\0' => return None,
                c => text.push(c),
            }
        }
        self.rest = letters.as_str().trim_start();
        Some(text)
    }

    /// `[a, b]`, whose elements are all of the type `of`, or of the first's.
    fn array(&mut self, depth: u32, of: Option<&str>) -> Option<Value> {
        if !self.eat("[") {
            return None;
        }
        let mut items = Vec::new();
        while !self.eat("]") {
            if !items.is_empty() && !self.eat(",") {
                return None;
            }
            items.push(self.value(depth + 1)?);
        }
        let of = match (of, items.first()) {
            (Some(of), _) => of.to_owned(),
            (None, Some(first)) => first.signature(),
            // Nobody knows of what it is empty.
            (None, None) => return None,
        };
        items
            .iter()
            .all(|item| item.signature() == of)
            .then_some(Value::Array { of, items })
    }

    /// `(a, b)`
    fn tuple(&mut self, depth: u32) -> Option<Value> {
        self.eat("(");
        let mut fields = Vec::new();
        while !self.eat(")") {
            if !fields.is_empty() && !self.eat(",") {
                return None;
            }
            // `(a,)` has one.
            if self.rest.starts_with(')') && !fields.is_empty() {
                continue;
            }
            fields.push(self.value(depth + 1)?);
        }
        (!fields.is_empty()).then_some(Value::Struct(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value as signature and a short text.
    fn show(value: &Value) -> String {
        match value {
            Value::Array { of, items } => {
                let items: Vec<String> = items.iter().map(show).collect();
                format!("a{of}[{}]", items.join(" "))
            }
            Value::Struct(fields) => {
                let fields: Vec<String> = fields.iter().map(show).collect();
                format!("({})", fields.join(" "))
            }
            Value::String(text) => format!("s{text}"),
            Value::ObjectPath(text) => format!("o{text}"),
            Value::Bool(flag) => format!("b{flag}"),
            Value::Byte(number) => format!("y{number}"),
            Value::Int32(number) => format!("i{number}"),
            Value::Uint32(number) => format!("u{number}"),
            Value::Int64(number) => format!("x{number}"),
            Value::Uint64(number) => format!("t{number}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn annotations_become_properties() {
        for (name, text, expected) in [
            (
                "CollectMode",
                "'inactive-or-failed'",
                "CollectMode sinactive-or-failed",
            ),
            (
                "Description",
                r#""it's \"so\"""#,
                "Description sit's \"so\"",
            ),
            ("SendSIGHUP", "true", "SendSIGHUP btrue"),
            ("TasksMax", "uint64 0x10", "TasksMax t16"),
            ("CPUWeight", "500", "CPUWeight i500"),
            ("Nice", "-5", "Nice i-5"),
            ("Big", "int64 -5", "Big x-5"),
            ("Small", "byte 7", "Small y7"),
            (
                "Before",
                "['a.service', 'b.service']",
                "Before as[sa.service sb.service]",
            ),
            ("Before", "@as []", "Before as[]"),
            ("Pair", "('/dev/null', uint32 3)", "Pair (s/dev/null u3)"),
            ("One", "('x',)", "One (sx)"),
            (
                "Many",
                "[('a', 'b'), ('c','d')]",
                "Many a(ss)[(sa sb) (sc sd)]",
            ),
            ("TimeoutStopSec", "5", "TimeoutStopUSec t5000000"),
            ("TimeoutStopSec", "uint64 7", "TimeoutStopUSec t7000000"),
            ("TimeoutStopUSec", "uint64 7", "TimeoutStopUSec t7"),
        ] {
            let (property, value) = parse(&format!("{PREFIX}{name}"), text).unwrap();
            assert_eq!(format!("{property} {}", show(&value)), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_property_is_refused_by_name() {
        let value = |text: &str| format!("{text:?} is no value in GVariant's text format");
        for (name, text, expected) in [
            ("", "1", "\"\" is no name of a property".to_owned()),
            ("A-b", "1", "\"A-b\" is no name of a property".to_owned()),
            ("Name", "", value("")),
            ("Name", "'open", value("'open")),
            ("Name", "[1, 'a']", value("[1, 'a']")),
            ("Name", "[]", value("[]")),
            ("Name", "[1 2]", value("[1 2]")),
            ("Name", "()", value("()")),
            ("Name", "1 2", value("1 2")),
            ("Name", "uint32 -1", value("uint32 -1")),
            ("Name", "int32 2147483648", value("int32 2147483648")),
            ("Name", "word 1", value("word 1")),
            ("Name", "'\0'", value("'\0'")),
            ("Name", &"[".repeat(99), value(&"[".repeat(99))),
            ("Name", "@ 1", value("@ 1")),
            (
                "RuntimeMaxSec",
                "'5'",
                "\"'5'\" is no number of seconds".to_owned(),
            ),
            (
                "RuntimeMaxSec",
                "-5",
                "\"-5\" is no number of seconds".to_owned(),
            ),
        ] {
            let key = format!("{PREFIX}{name}");
            let error = parse(&key, text).unwrap_err().to_string();
            let expected = format!("config.json: annotations[{key:?}]: {expected}");
            assert_eq!(error, expected);
        }
        // Of one so long the error has both ends.
        parse(&format!("{PREFIX}Name"), &"@".repeat(1 << 20)).unwrap_err();
    }
}
