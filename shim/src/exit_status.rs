//! The exit status that outlives the shim: `exitstatus.json` in the bundle.
//!
//! It is written, by rename, before the exit is published. When the shim is
//! killed, containerd runs our `delete` in its place, which answers what stands
//! here, or 137 where nothing does.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rrun::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use crate::reaper::Exit;

const FILE: &str = "exitstatus.json";

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    /// The container's first process.
    pid: i32,
    /// The exit code, or 128 and the number of the signal.
    exit_status: u32,
    /// When it ended, in nanoseconds since 1970.
    exited_at: u64,
}

/// Writes how the first process of a container ended.
///
/// # Errors
/// The file can't be written; the text names it.
pub(crate) fn record(bundle: &Path, pid: i32, exit: Exit) -> Result<()> {
    let since = exit.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let recorded = Recorded {
        pid,
        exit_status: exit.status,
        exited_at: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
    };
    let path = bundle.join(FILE);
    let new = bundle.join(format!(".{FILE}"));
    let written = serde_json::to_vec(&recorded)
        .map_err(io::Error::from)
        .and_then(|text| fs::File::create(&new)?.write_all(&text))
        .and_then(|()| fs::rename(&new, &path));
    written.map_err(|error| Error::new(Kind::System, format!("write {path:?}: {error}")))
}

/// The pid and the exit that were recorded; nothing if none was, or if what
/// stands there can't be read.
#[must_use]
pub(crate) fn recorded(bundle: &Path) -> Option<(i32, Exit)> {
    let text = fs::read(bundle.join(FILE)).ok()?;
    let recorded: Recorded = serde_json::from_slice(&text).ok()?;
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(recorded.exited_at))?;
    let status = recorded.exit_status;
    Some((recorded.pid, Exit { status, at }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_again_and_nonsense_is_not() {
        let bundle = std::env::temp_dir().join(format!("rrun-exit-{}", std::process::id()));
        fs::create_dir(&bundle).unwrap();
        assert_eq!(recorded(&bundle), None);
        let at = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        record(&bundle, 12, Exit { status: 137, at }).unwrap();
        assert_eq!(recorded(&bundle), Some((12, Exit { status: 137, at })));
        fs::write(bundle.join(FILE), "{\"pid\": 1").unwrap();
        assert_eq!(recorded(&bundle), None);
        fs::remove_dir_all(&bundle).unwrap();
    }
}
