//! What a command says beside its output: one error, its warnings, and, for
//! who asks, what it does.
//!
//! | | log file, text | log file, json | stderr |
//! |---|---|---|---|
//! | error | a line | one object, the only one | `rrun: TEXT`, and a hint |
//! | warning | a line | a field of the error's object | without a log file |
//! | debug | a line | - | without a log file |
//!
//! Engines read the json file as a whole and take its last error (containerd)
//! or expect exactly one object (Podman), so nothing else is ever written
//! there. Warnings are kept until the end of the command for that reason.
//! A command that succeeds beside a json log keeps them to itself: the stderr
//! that an engine gives to `create` and `exec` is the container's own.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::PanicHookInfo;
use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;

use crate::error::{Error, Kind, Result, one_line};
use crate::sys::mutation::Defence;
use crate::{sys, timestamp};

/// How the log file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// One object for a command that failed.
    Json,
}

/// What is worth a line in the log; each level holds those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum LogLevel {
    /// What made the command fail.
    Error,
    /// What was left out or may surprise.
    #[value(alias = "warn", alias = "info")]
    Warning,
    /// What was done.
    Debug,
}

/// Where words go.
#[derive(Debug)]
pub struct Log {
    file: Option<File>,
    format: LogFormat,
    level: LogLevel,
    warnings: RefCell<Vec<String>>,
}

/// The object of the json log.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    level: &'a str,
    msg: &'a str,
    time: String,
    code: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

impl Log {
    /// A log with a file, made if need be, or without.
    ///
    /// # Errors
    /// Those of opening the file.
    pub fn open(file: Option<&Path>, format: LogFormat, level: LogLevel) -> Result<Self> {
        let file = match file {
            None => None,
            Some(path) => {
                let opened = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode([0o600, 0o644][usize::from(Defence::PrivateState.is_out())])
                    .open(path);
                Some(sys::call(opened, || {
                    format!("open({path:?}, O_APPEND|O_CREAT)")
                })?)
            }
        };
        Ok(Self {
            file,
            format,
            level,
            warnings: RefCell::default(),
        })
    }

    /// A log without a file.
    #[must_use]
    pub fn stderr() -> Self {
        Self {
            file: None,
            format: LogFormat::Text,
            level: LogLevel::Warning,
            warnings: RefCell::default(),
        }
    }

    /// Notes what was left out or may surprise. It is written by
    /// [`Self::finish`] or [`Self::fail`].
    pub fn warn(&self, text: impl Into<String>) {
        if self.level >= LogLevel::Warning {
            self.warnings.borrow_mut().push(one_line(text.into()));
        }
    }

    /// Says what is being done; `text` is made only if somebody reads it.
    pub fn debug(&self, text: impl FnOnce() -> String) {
        if self.level < LogLevel::Debug {
            return;
        }
        match (&self.file, self.format) {
            (None, _) => to_stderr(&format!("rrun: {}\n", text())),
            (Some(file), LogFormat::Text) => line(file, "debug", &text()),
            (Some(_), LogFormat::Json) => {}
        }
    }

    /// The end of a command that did what it was asked.
    pub fn finish(&self) {
        for warning in self.warnings.take() {
            match (&self.file, self.format) {
                (None, _) => to_stderr(&format!("rrun: warning: {warning}\n")),
                (Some(file), LogFormat::Text) => line(file, "warning", &warning),
                (Some(_), LogFormat::Json) => {}
            }
        }
    }

    /// The end of a command that failed.
    pub fn fail(&self, error: &Error) {
        if let (Some(file), LogFormat::Json) = (&self.file, self.format) {
            let warnings = self.warnings.take();
            object(file, &error.to_string(), error.kind(), &warnings);
        } else {
            self.finish();
            if let Some(file) = &self.file {
                line(file, "error", &error.to_string());
            }
        }
        let mut text = format!("rrun: {error}\n");
        if let Some(hint) = error.hint() {
            text += &format!("hint: {hint}\n");
        }
        to_stderr(&text);
    }

    /// Makes a panic the command's failure: one line, exit code 1. The child
    /// of a clone sets a hook of its own.
    pub fn catch_panics(&self) {
        let file = self.file.as_ref().and_then(|file| file.try_clone().ok());
        let log = Self {
            file,
            format: self.format,
            level: self.level,
            warnings: RefCell::default(),
        };
        // The hook must be Sync, which warnings behind a RefCell are not.
        let log = std::sync::Mutex::new(log);
        std::panic::set_hook(Box::new(move |panic| {
            let error = Error::new(Kind::System, describe(panic))
                .with_hint("this is a defect of rrun: please report it");
            match log.try_lock() {
                Ok(log) => log.fail(&error),
                // A panic while reporting a panic.
                Err(_) => to_stderr(&format!("rrun: {error}\n")),
            }
            sys::process::exit_now(1);
        }));
    }
}

/// A panic in one line.
fn describe(panic: &PanicHookInfo<'_>) -> String {
    let payload = panic.payload();
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic");
    let place = panic
        .location()
        .map_or(String::new(), |at| format!(" at {at}"));
    format!("internal error{place}: {}", text.replace('\n', " "))
}

/// Writes a text line as logrus does, which runc's logs are read as.
fn line(file: &File, level: &str, text: &str) {
    let time = timestamp::now();
    write(
        file,
        &format!("time=\"{time}\" level={level} msg={text:?}\n"),
    );
}

/// Writes the one object of a failed command.
fn object(file: &File, text: &str, kind: Kind, warnings: &[String]) {
    let entry = Entry {
        level: "error",
        msg: text,
        time: timestamp::now(),
        code: kind.name(),
        warnings,
    };
    // Strings alone can't fail to be JSON.
    if let Ok(mut json) = serde_json::to_string(&entry) {
        json.push('\n');
        write(file, &json);
    }
}

/// Writes in one call, so that lines of commands side by side stay whole. A
/// log that can't be written is no reason to fail, or to fail twice.
fn write(mut file: &File, text: &str) {
    let _ = file.write_all(text.as_bytes());
}

/// As [`write`]: whoever closed stderr does not want to know.
fn to_stderr(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
