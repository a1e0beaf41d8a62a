//! The command line, in the manner of Go's flag package: one dash or two, a
//! value behind `=` or in the next word, the action last.
//!
//! ```text
//! containerd-shim-rrun-v2 -namespace N -address A -publish-binary B -id ID [-debug] start
//! containerd-shim-rrun-v2 -namespace N -address A -publish-binary B -id ID -bundle D delete
//! containerd-shim-rrun-v2 -info | -v
//! ```

use std::path::PathBuf;

use rrun::error::{Error, Kind, Result};

/// What the shim was called for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Invocation {
    /// containerd's namespace.
    pub namespace: String,
    /// The container, or the first one of a pod.
    pub id: String,
    /// The address of containerd's gRPC API.
    pub address: String,
    /// The program that publishes events where there is no ttrpc address.
    pub publish_binary: String,
    /// The bundle; the working directory where it is not given.
    pub bundle: Option<PathBuf>,
    /// Whether debug lines are logged.
    pub debug: bool,
    /// The shim's own address, for the server.
    pub socket: String,
    /// What to do.
    pub action: Action,
}

/// What to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Action {
    /// Bring up a server, or find the one of the pod, and tell its address.
    Start,
    /// Remove what a container has left behind.
    Delete,
    /// Tell about the shim and its runtime.
    Info,
    /// Tell the version.
    Version,
    /// Serve, on descriptor 3.
    #[default]
    Serve,
}

impl Invocation {
    /// Parses the words behind the program's name.
    ///
    /// # Errors
    /// A flag or an action that is not known, or a value that is missing.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut words = words.into_iter();
        let mut invocation = Self::default();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-').filter(|flag| !flag.is_empty()) else {
                invocation.take_action(&word)?;
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            if invocation.take_switch(name, value.as_deref())? {
                continue;
            }
            let value = value.or_else(|| words.next());
            let value = value.ok_or_else(|| usage(format!("flag needs an argument: -{name}")))?;
            invocation.take_value(name, value)?;
        }
        Ok(invocation)
    }

    /// Whether it says for whom it is, where that matters.
    ///
    /// # Errors
    /// There is no namespace.
    pub(crate) fn check(&self) -> Result<()> {
        match self.action {
            Action::Info | Action::Version => Ok(()),
            _ if self.namespace.is_empty() => {
                Err(usage("shim namespace cannot be empty".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn take_action(&mut self, word: &str) -> Result<()> {
        self.action = match word {
            "start" => Action::Start,
            "delete" => Action::Delete,
            _ => return Err(usage(format!("{word:?}: no such action"))),
        };
        Ok(())
    }

    /// Whether `name` is a flag without a value.
    fn take_switch(&mut self, name: &str, value: Option<&str>) -> Result<bool> {
        let on = match value {
            None | Some("true" | "1") => true,
            Some("false" | "0") => false,
            Some(value) => {
                let switch = ["debug", "v", "version", "info", "h", "help"].contains(&name);
                if switch {
                    return Err(usage(format!(
                        "invalid boolean value {value:?} for -{name}"
                    )));
                }
                false
            }
        };
        let action = match name {
            "debug" => {
                self.debug = on;
                return Ok(true);
            }
            "v" | "version" => Action::Version,
            "info" => Action::Info,
            _ => return Ok(false),
        };
        if on {
            self.action = action;
        }
        Ok(true)
    }

    fn take_value(&mut self, name: &str, value: String) -> Result<()> {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "publish-binary" => self.publish_binary = value,
            "bundle" => self.bundle = Some(PathBuf::from(value)).filter(|path| *path != *""),
            "socket" => self.socket = value,
            _ => {
                return Err(usage(format!("flag provided but not defined: -{name}")));
            }
        }
        Ok(())
    }
}

fn usage(text: String) -> Error {
    Error::new(Kind::Usage, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Invocation> {
        Invocation::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_words_of_containerd_are_understood() {
        let start = Invocation {
            namespace: "k8s.io".to_owned(),
            id: "web".to_owned(),
            address: "/run/c.sock".to_owned(),
            publish_binary: "/usr/bin/containerd".to_owned(),
            action: Action::Start,
            ..Invocation::default()
        };
        let debug = Invocation {
            debug: true,
            ..start.clone()
        };
        let delete = Invocation {
            bundle: Some(PathBuf::from("/b")),
            action: Action::Delete,
            ..start.clone()
        };
        let flags =
            "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id web";
        for (line, wanted) in [
            (format!("{flags} start"), &start),
            (format!("{flags} -debug start"), &debug),
            (format!("{flags} -debug=true start"), &debug),
            (format!("{flags} -debug=false start"), &start),
            (format!("-{} start", flags.replace(" -", " --")), &start),
            (format!("{flags} -bundle /b delete"), &delete),
            (format!("{flags} -bundle=/b delete"), &delete),
        ] {
            assert_eq!(parse(&line).as_ref(), Ok(wanted), "{line}");
        }
        for (line, action) in [
            ("", Action::Serve),
            ("-v", Action::Version),
            ("--version", Action::Version),
            ("-info", Action::Info),
        ] {
            assert_eq!(parse(line).map(|it| it.action), Ok(action), "{line}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, text) in [
            ("-nonsense x", "flag provided but not defined: -nonsense"),
            ("-id", "flag needs an argument: -id"),
            ("stop", "\"stop\": no such action"),
            ("-debug=maybe", "invalid boolean value \"maybe\" for -debug"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.to_string(), text, "{line}");
        }
    }
}
