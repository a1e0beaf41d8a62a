//! Go's spelling of a command line, rewritten to the one that clap takes:
//! `rrun --global=v command --flag=v --switch -- positionals`.
//!
//! The rules are those of Go's flag package and of the library that runc
//! uses on top of it (urfave/cli v1):
//!
//! * one dash or two, long name or short: `-bundle x`, `--b=x`;
//! * a flag with a value takes the next word, whatever it looks like;
//! * a switch takes a value only behind `=`;
//! * the last one wins;
//! * flags may follow the positionals, but not in `exec` and `ps`, where what
//!   follows the id belongs to another program.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::{Arg, ArgAction, Command};

use super::values::go_bool;
use crate::error::{Error, Kind, Result};

/// A command line in one spelling, or what it asks to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Canonical {
    /// Words for clap.
    Words(Vec<OsString>),
    /// Help.
    Help(Topic),
    /// The version.
    Version,
}

/// What help is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Topic {
    /// The command, or none for the program.
    pub(super) command: Option<String>,
    /// How much of it.
    pub(super) depth: Depth,
}

/// How much help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// A line for each flag: `-h`.
    Summary,
    /// All there is: `--help`, `rrun help`.
    Whole,
}

impl Canonical {
    fn help(command: Option<&Command>, depth: Depth) -> Self {
        let command = command.map(|command| command.get_name().to_owned());
        Canonical::Help(Topic { command, depth })
    }
}

/// Rewrites a whole command line.
pub(super) fn canonical(program: &Command, argv: &[OsString]) -> Result<Canonical> {
    let (name, rest) = argv
        .split_first()
        .map_or((OsStr::new("rrun"), &[][..]), |(name, rest)| {
            (name.as_os_str(), rest)
        });
    let mut global = Flags::default();
    let end = match global.read(program, rest, Order::FlagsFirst)? {
        Read::Words(end) => end,
        Read::Help(depth) => return Ok(Canonical::help(None, depth)),
        Read::Version => return Ok(Canonical::Version),
    };
    let mut words = vec![name.to_owned()];
    words.extend(global.words());
    let Some((verb, arguments)) = rest[end..].split_first() else {
        return Ok(Canonical::help(None, Depth::Summary));
    };
    let verb = verb.to_string_lossy();
    if verb == "help" || verb == "h" {
        let topic = match arguments.first() {
            None => None,
            Some(topic) => Some(command(program, &topic.to_string_lossy())?),
        };
        return Ok(Canonical::help(topic, Depth::Whole));
    }
    let command = command(program, &verb)?;
    let mut flags = Flags::default();
    match flags.read(command, arguments, Order::of(command))? {
        Read::Words(_) => {}
        Read::Help(depth) => return Ok(Canonical::help(Some(command), depth)),
        Read::Version => return Ok(Canonical::Version),
    }
    check_arity(command, flags.positionals.len())?;
    words.push(command.get_name().into());
    words.extend(flags.words());
    words.push("--".into());
    words.append(&mut flags.positionals);
    Ok(Canonical::Words(words))
}

/// The words of the global options alone, for a command line that is wrong
/// further on.
pub(super) fn global_part(program: &Command, argv: &[OsString]) -> Result<Vec<OsString>> {
    let mut global = Flags::default();
    global.read(
        program,
        argv.get(1..).unwrap_or_default(),
        Order::FlagsFirst,
    )?;
    let mut words = vec![OsString::from("rrun")];
    words.extend(global.words());
    Ok(words)
}

/// The command `name`.
fn command<'c>(program: &'c Command, name: &str) -> Result<&'c Command> {
    program.find_subcommand(name).ok_or_else(|| {
        Error::new(
            Kind::Usage,
            format!("no such command: No help topic for '{name}'"),
        )
        .with_hint("rrun --help lists the commands")
    })
}

/// An error of the command line, with where to read more.
fn usage(command: &Command, text: String) -> Error {
    let hint = match command.get_name() {
        "rrun" => "see rrun --help".to_owned(),
        name => format!("see rrun {name} --help"),
    };
    Error::new(Kind::Usage, text).with_hint(hint)
}

/// Holds the number of positionals against the definition, in runc's words.
fn check_arity(command: &Command, given: usize) -> Result<()> {
    let name = command.get_name();
    let all = || command.get_positionals();
    let least = all().filter(|arg| arg.is_required_set()).count();
    let most = all()
        .all(|arg| !matches!(arg.get_action(), ArgAction::Append))
        .then(|| all().count());
    let text = match most {
        Some(most) if least == most && given != most => {
            format!("{name:?} requires exactly {most} argument(s)")
        }
        _ if given < least => format!("{name:?} requires a minimum of {least} argument(s)"),
        Some(most) if given > most => {
            format!("{name:?} requires a maximum of {most} argument(s)")
        }
        _ => return Ok(()),
    };
    Err(usage(command, text))
}

/// Where flags may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The first word that is no flag ends them.
    FlagsFirst,
    /// Anywhere before `--`.
    Anywhere,
}

impl Order {
    /// A command that hands its arguments on takes flags only first.
    fn of(command: &Command) -> Self {
        if command.get_positionals().any(Arg::is_trailing_var_arg_set) {
            Order::FlagsFirst
        } else {
            Order::Anywhere
        }
    }
}

/// How reading ended.
enum Read {
    /// At this index: the end, or the first positional of [`Order::FlagsFirst`].
    Words(usize),
    /// At a request for help.
    Help(Depth),
    /// At a request for the version.
    Version,
}

/// The flags and positionals of one command.
#[derive(Default)]
struct Flags {
    /// Flags with values, in order, by their long names.
    values: Vec<(String, OsString)>,
    /// Switches, the last word on each.
    switches: BTreeMap<String, bool>,
    positionals: Vec<OsString>,
}

impl Flags {
    fn read(&mut self, command: &Command, words: &[OsString], order: Order) -> Result<Read> {
        let mut at = 0;
        while let Some(word) = words.get(at) {
            if word == "--" {
                self.positionals.extend_from_slice(&words[at + 1..]);
                return Ok(Read::Words(at + 1));
            }
            let Some((name, value)) = split_flag(word) else {
                if order == Order::FlagsFirst {
                    self.positionals.extend_from_slice(&words[at..]);
                    return Ok(Read::Words(at));
                }
                self.positionals.push(word.clone());
                at += 1;
                continue;
            };
            at += 1;
            match named(command, name) {
                Some(Named::Help(depth)) => return Ok(Read::Help(depth)),
                Some(Named::Version) => return Ok(Read::Version),
                Some(Named::Switch(long)) => self.switch(command, long, name, value)?,
                Some(Named::Value(long)) => {
                    let value = match value {
                        Some(value) => value.to_owned(),
                        None => {
                            let value = words.get(at).cloned().ok_or_else(|| {
                                usage(command, format!("flag needs an argument: -{name}"))
                            })?;
                            at += 1;
                            value
                        }
                    };
                    self.values.push((long.to_owned(), value));
                }
                // What follows the id and is no flag is an argument: `kill web -9`.
                None if !self.positionals.is_empty() => self.positionals.push(word.clone()),
                None => {
                    let text = format!("flag provided but not defined: -{name}");
                    return Err(usage(command, text));
                }
            }
        }
        Ok(Read::Words(at))
    }

    /// Notes a switch, with what stands behind its `=`.
    fn switch(
        &mut self,
        command: &Command,
        long: &str,
        name: &str,
        value: Option<&OsStr>,
    ) -> Result<()> {
        let on = match value {
            None => true,
            Some(value) => value.to_str().and_then(go_bool).ok_or_else(|| {
                usage(
                    command,
                    format!("invalid boolean value {value:?} for -{name}: parse error"),
                )
            })?,
        };
        self.switches.insert(long.to_owned(), on);
        Ok(())
    }

    /// The flags in clap's spelling.
    fn words(&self) -> impl Iterator<Item = OsString> {
        let values = self.values.iter().map(|(name, value)| {
            let mut word = OsString::from(format!("--{name}="));
            word.push(value);
            word
        });
        let switches = self
            .switches
            .iter()
            .filter(|(_, on)| **on)
            .map(|(name, _)| OsString::from(format!("--{name}")));
        values.chain(switches)
    }
}

/// Splits `-name`, `--name` and `--name=value`; `None` for what is no flag,
/// a lone dash included.
fn split_flag(word: &OsStr) -> Option<(&str, Option<&OsStr>)> {
    let bytes = word.as_bytes().strip_prefix(b"-")?;
    let bytes = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
        None => (bytes, None),
        Some(at) => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]))),
    };
    let name = std::str::from_utf8(name).ok()?;
    (!name.is_empty()).then_some((name, value))
}

/// What a flag's name stands for.
enum Named<'c> {
    Help(Depth),
    Version,
    /// A switch, by its long name.
    Switch(&'c str),
    /// A flag with a value, by its long name.
    Value(&'c str),
}

/// Looks `name` up among the command's long and short flags.
fn named<'c>(command: &'c Command, name: &str) -> Option<Named<'c>> {
    match name {
        "help" => return Some(Named::Help(Depth::Whole)),
        "h" => return Some(Named::Help(Depth::Summary)),
        _ => {}
    }
    let mut letters = name.chars();
    let letter = letters.next().filter(|_| letters.next().is_none());
    let arg = command.get_arguments().find(|arg| {
        arg.get_long() == Some(name) || (letter.is_some() && arg.get_short() == letter)
    })?;
    let long = arg.get_long()?;
    Some(match arg.get_action() {
        _ if long == "version" => Named::Version,
        ArgAction::SetTrue => Named::Switch(long),
        _ => Named::Value(long),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    /// Rewrites a line of words to a line of words.
    fn rewritten(line: &str) -> Result<String> {
        let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let program = super::super::definition();
        Ok(match canonical(&program, &argv)? {
            Canonical::Words(words) => words
                .into_iter()
                .map(|word| String::from_utf8(word.into_vec()).unwrap())
                .collect::<Vec<_>>()
                .join(" "),
            Canonical::Help(topic) => {
                let command = topic.command.unwrap_or_default();
                format!("{:?} help of {command}", topic.depth)
            }
            Canonical::Version => "version".to_owned(),
        })
    }

    #[test]
    fn go_spelling_becomes_one_spelling() {
        for (line, expected) in [
            // Dashes and values.
            ("rrun create -bundle b c", "rrun create --bundle=b -- c"),
            ("rrun create --b=b c", "rrun create --bundle=b -- c"),
            ("rrun create -b b c", "rrun create --bundle=b -- c"),
            ("rrun create -b= c", "rrun create --bundle= -- c"),
            (
                "rrun -root /r -debug state c",
                "rrun --root=/r --debug state -- c",
            ),
            (
                "rrun run -no-subreaper -d c",
                "rrun run --detach --no-subreaper -- c",
            ),
            // A value may look like a flag.
            (
                "rrun update --memory-swap -1 c",
                "rrun update --memory-swap=-1 -- c",
            ),
            ("rrun update -r - c", "rrun update --resources=- -- c"),
            // Switches with a value; the last word wins.
            ("rrun run --detach=true c", "rrun run --detach -- c"),
            ("rrun run --detach=false c", "rrun run -- c"),
            ("rrun run -d --detach=0 c", "rrun run -- c"),
            ("rrun run -d=F -d c", "rrun run --detach -- c"),
            // Flags behind the id, and where they are not ours.
            ("rrun delete c --force", "rrun delete --force -- c"),
            ("rrun kill c KILL -a", "rrun kill --all -- c KILL"),
            ("rrun kill c -9", "rrun kill -- c -9"),
            ("rrun exec -t c ls -l -t", "rrun exec --tty -- c ls -l -t"),
            ("rrun exec c --env x", "rrun exec -- c --env x"),
            ("rrun ps c -ef", "rrun ps -- c -ef"),
            ("rrun delete -- c", "rrun delete -- c"),
            ("rrun exec -- c ls", "rrun exec -- c ls"),
            ("rrun exec c -- ls", "rrun exec -- c -- ls"),
            // Help and version, wherever they stand.
            ("rrun", "Summary help of "),
            ("rrun --help", "Whole help of "),
            ("rrun help", "Whole help of "),
            ("rrun h run", "Whole help of run"),
            ("rrun run x -h", "Summary help of run"),
            ("rrun exec c ls -h", "rrun exec -- c ls -h"),
            ("rrun -v", "version"),
            ("rrun --debug --version", "version"),
        ] {
            assert_eq!(rewritten(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn refusals_have_the_words_of_runc() {
        for (line, text) in [
            ("rrun --nope list", "flag provided but not defined: -nope"),
            (
                "rrun create --nope c",
                "flag provided but not defined: -nope",
            ),
            ("rrun create -b", "flag needs an argument: -b"),
            ("rrun --root", "flag needs an argument: -root"),
            ("rrun frob", "no such command: No help topic for 'frob'"),
            (
                "rrun help frob",
                "no such command: No help topic for 'frob'",
            ),
            ("rrun create", "\"create\" requires exactly 1 argument(s)"),
            (
                "rrun create a b",
                "\"create\" requires exactly 1 argument(s)",
            ),
            (
                "rrun delete a --nope",
                "\"delete\" requires exactly 1 argument(s)",
            ),
            ("rrun list x", "\"list\" requires exactly 0 argument(s)"),
            ("rrun kill", "\"kill\" requires a minimum of 1 argument(s)"),
            (
                "rrun kill a b c",
                "\"kill\" requires a maximum of 2 argument(s)",
            ),
            ("rrun exec", "\"exec\" requires a minimum of 1 argument(s)"),
            ("rrun ps", "\"ps\" requires a minimum of 1 argument(s)"),
            (
                "rrun plan a b",
                "\"plan\" requires a maximum of 1 argument(s)",
            ),
            (
                "rrun run --keep=maybe c",
                "invalid boolean value \"maybe\" for -keep: parse error",
            ),
        ] {
            let error = rewritten(line).unwrap_err();
            assert_eq!(error.to_string(), text, "{line}");
            assert_eq!(error.kind(), Kind::Usage, "{line}");
        }
    }
}
