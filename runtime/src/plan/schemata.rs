//! Lines of a resctrl group's `schemata`, compared by what they mean
//! (Documentation/filesystems/resctrl.rst, "Resource alloc and monitor groups").
//!
//! ```text
//! L3:0=7f0;1=1f        resource : domain = value ; ...
//! MB:0=20;1=70
//! ```
//!
//! The kernel pads names with spaces, writes masks without leading zeros, and
//! rounds bandwidths up.

use super::intel_rdt::{IfThere, Write};

/// One value: of a resource, for one domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Setting<'a> {
    resource: &'a str,
    domain: &'a str,
    value: &'a str,
}

/// Why a group that is there is not the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The JSON path of what was asked for.
    pub field: &'static str,
    /// What differs.
    pub cause: String,
}

/// Looks whether a group whose `schemata` is `text` has what those of `writes`
/// ask that are to be compared. A value that a later one replaces is left out:
/// the group was made from both. `step` is what the kernel rounds bandwidths by.
///
/// # Errors
/// The first value that differs, and what is no such line.
pub fn compare(writes: &[Write], text: &str, step: Option<u64>) -> Result<(), Mismatch> {
    let there: Vec<Setting<'_>> = settings(text).flatten().collect();
    for (at, write) in writes.iter().enumerate() {
        if write.if_there != IfThere::Compare {
            continue;
        }
        let later: Vec<Setting<'_>> = writes[at + 1..]
            .iter()
            .flat_map(|write| settings(&write.lines))
            .flatten()
            .collect();
        let differs = |cause: String| {
            Err(Mismatch {
                field: write.field,
                cause,
            })
        };
        for asked in settings(&write.lines) {
            let asked = match asked {
                Ok(asked) => asked,
                Err(part) => return differs(format!("{part:?} is not like NAME:ID=VALUE")),
            };
            if later.iter().any(|other| asked.is_of_the_same(other)) {
                continue;
            }
            match there.iter().find(|other| asked.is_of_the_same(other)) {
                Some(other) if asked.says_the_same(other, step) => {}
                Some(other) => return differs(format!("it has {other}, not {asked}")),
                None => {
                    let Setting {
                        resource, domain, ..
                    } = asked;
                    return differs(format!("it has no {resource}:{domain}"));
                }
            }
        }
    }
    Ok(())
}

/// The settings of all lines in their order; of what is none, the part.
fn settings(text: &str) -> impl Iterator<Item = Result<Setting<'_>, &str>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.flat_map(|line| {
        let (resource, rest) = line.split_once(':').unwrap_or(("", line));
        let parts = rest.split(';').filter(|part| !part.trim().is_empty());
        parts.map(move |part| {
            let (domain, value) = part.split_once('=').ok_or(line)?;
            let setting = Setting {
                resource: resource.trim(),
                domain: domain.trim(),
                value: value.trim(),
            };
            let Setting {
                resource,
                domain,
                value,
            } = setting;
            let is_whole = [resource, domain, value]
                .iter()
                .all(|word| !word.is_empty());
            if is_whole { Ok(setting) } else { Err(line) }
        })
    })
}

impl Setting<'_> {
    /// Whether both are of one resource and one domain.
    fn is_of_the_same(&self, other: &Setting<'_>) -> bool {
        let number = |text: &str| text.parse::<u64>().ok();
        self.resource == other.resource
            && (self.domain == other.domain
                || number(self.domain).is_some_and(|id| Some(id) == number(other.domain)))
    }

    /// Whether the kernel makes `other` of this value.
    fn says_the_same(&self, other: &Setting<'_>, step: Option<u64>) -> bool {
        // Masks are hexadecimal; decimal numbers are the same number then, too.
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        if self.value == other.value
            || number(self.value).is_some_and(|mask| Some(mask) == number(other.value))
        {
            return true;
        }
        let (Ok(asked), Ok(there)) = (self.value.parse::<u64>(), other.value.parse::<u64>()) else {
            return false;
        };
        let rounded = step.and_then(|step| asked.checked_next_multiple_of(step));
        self.resource == "MB" && rounded == Some(there)
    }
}

impl std::fmt::Display for Setting<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            resource,
            domain,
            value,
        } = self;
        write!(f, "{resource}:{domain}={value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_compared_with_what_is_there() {
        const THERE: &str = "    MB:0=100;1=30\n    L3:0=7f0;1=1f\n    L2:0=0\n";
        for (name, asked, step, expected) in [
            ("the same", "L3:0=7f0;1=1f", None, ""),
            ("in another order", "L3:1=1f;0=7f0", None, ""),
            ("one of two domains", "L3:1=1f", None, ""),
            ("leading zeros and capitals", "L3:00=007F0", None, ""),
            ("spaces and empty parts", " L3 : 0 = 7f0 ;; 1=1f;", None, ""),
            ("two lines", "L3:0=7f0\nMB:0=100", None, ""),
            ("nothing", "", None, ""),
            ("an empty line", "\nL2:0=0\n", None, ""),
            (
                "another mask",
                "L3:0=7f0;1=ff",
                None,
                "it has L3:1=1f, not L3:1=ff",
            ),
            (
                "a mask as a bandwidth",
                "L3:1=20",
                Some(10),
                "it has L3:1=1f, not L3:1=20",
            ),
            ("another domain", "L3:2=f", None, "it has no L3:2"),
            (
                "another resource",
                "L3CODE:0=7f0",
                None,
                "it has no L3CODE:0",
            ),
            ("a bandwidth", "MB:0=100", Some(10), ""),
            ("a bandwidth that was rounded up", "MB:1=21", Some(10), ""),
            (
                "one that was not",
                "MB:1=21",
                None,
                "it has MB:1=30, not MB:1=21",
            ),
            (
                "one rounded to another",
                "MB:1=31",
                Some(10),
                "it has MB:1=30, not MB:1=31",
            ),
            (
                "a step of nothing",
                "MB:1=21",
                Some(0),
                "it has MB:1=30, not MB:1=21",
            ),
            ("a word", "L3:0=all", None, "it has L3:0=7f0, not L3:0=all"),
            (
                "no value",
                "L3:0",
                None,
                "\"L3:0\" is not like NAME:ID=VALUE",
            ),
            (
                "an empty value",
                "L3:0=",
                None,
                "\"L3:0=\" is not like NAME:ID=VALUE",
            ),
            (
                "no domain",
                "L3:=f",
                None,
                "\"L3:=f\" is not like NAME:ID=VALUE",
            ),
            (
                "no resource",
                "0=f",
                None,
                "\"0=f\" is not like NAME:ID=VALUE",
            ),
        ] {
            let writes = [write("a", asked, IfThere::Compare)];
            let found = compare(&writes, THERE, step).err();
            let found = found.map(|mismatch| mismatch.cause).unwrap_or_default();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn only_what_is_compared_counts_and_the_last_word_on_a_domain() {
        let there = "L3:0=ff;1=f\nMB:0=50";
        let compared = |field, lines| write(field, lines, IfThere::Compare);
        let written = |field, lines| write(field, lines, IfThere::Write);
        for (name, writes, expected) in [
            ("all is written", vec![written("s", "L3:0=1")], None),
            (
                "a later line replaces one domain",
                vec![compared("l", "L3:0=1;1=f"), written("s", "L3:0=ff")],
                None,
            ),
            (
                "and not the other",
                vec![compared("l", "L3:0=1;1=7"), written("s", "L3:0=ff")],
                Some(("l", "it has L3:1=f, not L3:1=7")),
            ),
            (
                "an earlier one does not",
                vec![written("s", "L3:0=ff"), compared("l", "L3:0=1")],
                Some(("l", "it has L3:0=ff, not L3:0=1")),
            ),
            (
                "the second field differs",
                vec![compared("l", "L3:0=ff"), compared("m", "MB:0=70")],
                Some(("m", "it has MB:0=50, not MB:0=70")),
            ),
        ] {
            let found = compare(&writes, there, None).err();
            let found = found.as_ref().map(|one| (one.field, one.cause.as_str()));
            assert_eq!(found, expected, "{name}");
        }
    }

    fn write(field: &'static str, lines: &str, if_there: IfThere) -> Write {
        Write {
            field,
            lines: lines.to_owned(),
            if_there,
        }
    }
}
