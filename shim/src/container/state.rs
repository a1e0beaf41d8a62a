//! What a process may be asked in which state, with the words of the Go shim,
//! which clients search for.

use rrun::error::{Error, Kind, Result};

use crate::reaper::Exit;

/// The life of a process.
///
/// ```text
/// Created --start--> Running --end--> Stopped --delete--> Deleted
///    |                | pause  ^ resume                      ^
///    |                v        |                             |
///    |               Paused ---+                             |
///    +----------------------- delete ------------------------+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It waits for `Start`; an exec has no process yet.
    Created,
    /// It runs.
    Running,
    /// It is frozen with its container.
    Paused,
    /// It has ended.
    Stopped(Exit),
    /// It is forgotten.
    Deleted,
}

/// What a process is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Run.
    Start,
    /// Be forgotten.
    Delete,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Take new limits.
    Update,
    /// Be written to disk.
    Checkpoint,
    /// Take a further process.
    Exec,
    /// Take a signal.
    Kill,
    /// Change the size of its terminal.
    Resize,
}

impl State {
    /// Whether the first process of a container may take a step now.
    ///
    /// # Errors
    /// It may not; one that is deleted is not found.
    pub(crate) fn init_may(self, step: Step) -> Result<()> {
        use Step::{Checkpoint, Delete, Exec, Kill, Pause, Resize, Resume, Start, Update};
        let thing = match (self, step) {
            (Self::Created, Pause | Resume) => "task in created state",
            (Self::Created, Checkpoint) => "a task in created state",
            (Self::Running, Start | Delete) => "a running process",
            (Self::Running, Resume) => "a running process",
            (Self::Paused, Start | Delete) => "a paused process",
            (Self::Paused, Pause) => "a paused container",
            (Self::Paused, Exec) => "in a paused state",
            (Self::Stopped(_), Start) => "a stopped process",
            (Self::Stopped(_), Exec) => "in a stopped state",
            (Self::Stopped(_), Pause | Resume | Update | Checkpoint | Resize) => {
                "a stopped container"
            }
            (Self::Deleted, Exec) => "in a deleted state",
            (Self::Deleted, Kill | Delete) => return Err(deleted(step)),
            (Self::Deleted, _) => "a deleted process",
            _ => return Ok(()),
        };
        Err(refused(step, thing))
    }

    /// Whether a further process may take a step now.
    ///
    /// # Errors
    /// It may not; one that is deleted is not found.
    pub(crate) fn exec_may(self, step: Step) -> Result<()> {
        use Step::{Delete, Kill, Resize, Start};
        let thing = match (self, step) {
            (Self::Running, Start | Delete) => "a running process",
            (Self::Stopped(_), Start) => "a stopped process",
            (Self::Stopped(_), Resize) => "a stopped container",
            (Self::Deleted, Kill | Delete) => return Err(deleted(step)),
            (Self::Deleted, _) => "a deleted process",
            _ => return Ok(()),
        };
        Err(refused(step, thing))
    }

    /// How it ended, if it has.
    #[must_use]
    pub(crate) fn exit(self) -> Option<Exit> {
        match self {
            Self::Stopped(exit) => Some(exit),
            _ => None,
        }
    }
}

impl Step {
    fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Delete => "delete",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Update => "update",
            Self::Checkpoint => "checkpoint",
            Self::Exec => "exec",
            Self::Kill => "kill",
            Self::Resize => "resize",
        }
    }
}

/// The Go shim answers these without a code of its own.
fn refused(step: Step, thing: &str) -> Error {
    Error::new(Kind::System, format!("cannot {} {thing}", step.verb()))
}

fn deleted(step: Step) -> Error {
    let text = format!("cannot {} a deleted process: not found", step.verb());
    Error::new(Kind::NotFound, text)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const STOPPED: State = State::Stopped(Exit {
        status: 0,
        at: SystemTime::UNIX_EPOCH,
    });

    #[test]
    fn the_first_process_refuses_in_the_words_of_the_go_shim() {
        use State::{Created, Deleted, Paused, Running};
        for (state, step, text) in [
            (Created, Step::Start, ""),
            (Created, Step::Delete, ""),
            (Created, Step::Kill, ""),
            (Created, Step::Exec, ""),
            (Created, Step::Update, ""),
            (Created, Step::Pause, "cannot pause task in created state"),
            (Created, Step::Resume, "cannot resume task in created state"),
            (
                Created,
                Step::Checkpoint,
                "cannot checkpoint a task in created state",
            ),
            (Running, Step::Pause, ""),
            (Running, Step::Checkpoint, ""),
            (Running, Step::Start, "cannot start a running process"),
            (Running, Step::Delete, "cannot delete a running process"),
            (Running, Step::Resume, "cannot resume a running process"),
            (Paused, Step::Resume, ""),
            (Paused, Step::Kill, ""),
            (Paused, Step::Pause, "cannot pause a paused container"),
            (Paused, Step::Start, "cannot start a paused process"),
            (Paused, Step::Delete, "cannot delete a paused process"),
            (Paused, Step::Exec, "cannot exec in a paused state"),
            (STOPPED, Step::Delete, ""),
            (STOPPED, Step::Kill, ""),
            (STOPPED, Step::Start, "cannot start a stopped process"),
            (STOPPED, Step::Pause, "cannot pause a stopped container"),
            (STOPPED, Step::Resume, "cannot resume a stopped container"),
            (STOPPED, Step::Update, "cannot update a stopped container"),
            (STOPPED, Step::Exec, "cannot exec in a stopped state"),
            (Deleted, Step::Start, "cannot start a deleted process"),
            (Deleted, Step::Exec, "cannot exec in a deleted state"),
            (
                Deleted,
                Step::Kill,
                "cannot kill a deleted process: not found",
            ),
            (
                Deleted,
                Step::Delete,
                "cannot delete a deleted process: not found",
            ),
        ] {
            let said = state.init_may(step).err().map(|error| error.to_string());
            assert_eq!(said.unwrap_or_default(), text, "{state:?} {step:?}");
        }
    }

    #[test]
    fn a_further_process_refuses_in_the_words_of_the_go_shim() {
        use State::{Created, Deleted, Running};
        for (state, step, text) in [
            (Created, Step::Start, ""),
            (Created, Step::Delete, ""),
            (Running, Step::Resize, ""),
            (Running, Step::Kill, ""),
            (Running, Step::Start, "cannot start a running process"),
            (Running, Step::Delete, "cannot delete a running process"),
            (STOPPED, Step::Delete, ""),
            (STOPPED, Step::Start, "cannot start a stopped process"),
            (STOPPED, Step::Resize, "cannot resize a stopped container"),
            (Deleted, Step::Start, "cannot start a deleted process"),
            (
                Deleted,
                Step::Kill,
                "cannot kill a deleted process: not found",
            ),
        ] {
            let said = state.exec_may(step).err().map(|error| error.to_string());
            assert_eq!(said.unwrap_or_default(), text, "{state:?} {step:?}");
        }
        let gone = Deleted.exec_may(Step::Delete).unwrap_err();
        assert_eq!(gone.kind(), Kind::NotFound);
    }
}
