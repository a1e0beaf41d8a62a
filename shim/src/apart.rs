//! Work that takes as long as a disk, a server or a helper likes, done apart: in
//! a child, which is awaited, so that the rest of the pod goes on meanwhile.
//!
//! The child is a fork with one thing to do, not a program that would have to
//! be told what: the server has one thread, so its copy may do anything. It keeps
//! none of our descriptors, since an output whose last writer is the child would
//! not end before it. An error comes back as its kind and its text, in a file
//! without a name.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;

use rrun::error::{Error, Kind, Result};
use rrun_sys::descriptors::{self, CloseRange, close_range, duplicate_onto};
use rrun_sys::process::{self, Clone, Forked, exit_now};
use rrun_sys::{call, file, signal};

use crate::reaper::{Child, Reaper};

/// What becomes of the work when this process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It ends: nothing may be made that nobody knows of.
    Shared,
    /// It goes on to its end.
    Own,
}

/// Does `work` in a child, which is called `what` if it dies.
///
/// # Errors
/// That of the work; no child can be made, or it was killed.
pub(crate) async fn run(
    reaper: &Reaper,
    fate: Fate,
    what: &str,
    work: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    let (child, mut said) = begin(reaper, fate, work)?;
    let exit = child.wait().await?;
    if exit.status == 0 {
        return Ok(());
    }
    let mut text = String::new();
    // What can't be read was not said.
    let _read = said
        .seek(SeekFrom::Start(0))
        .and_then(|_| said.read_to_string(&mut text));
    let told = text.split_once('\n');
    Err(
        match told.and_then(|(kind, text)| Some((Kind::from_name(kind)?, text))) {
            Some((kind, text)) => Error::new(kind, text),
            None => {
                let text = format!("{what}: exit status {}: {}", exit.status, text.trim());
                Error::new(Kind::System, text.trim_end_matches([':', ' ']))
            }
        },
    )
}

/// Starts the child: it, and the file with its error.
fn begin(reaper: &Reaper, fate: Fate, work: impl FnOnce() -> Result<()>) -> Result<(Child, File)> {
    let said = file::in_memory("said")?;
    let parent = nix::unistd::getpid();
    match process::fork(&Clone::default())? {
        Forked::Parent(pid, _held) => Ok((reaper.own(pid), said)),
        Forked::Child => {
            // A panic must not go on in the copy of the server.
            let _last = Last;
            if fate == Fate::Shared {
                process::die_with(parent);
            }
            let done = alone(&said).and_then(|()| work());
            if let Err(error) = &done {
                let text = format!("{}\n{error}", error.kind().name());
                // Without a text the parent has the status.
                let _said = descriptors::write_all(descriptors::standard(1), text.as_bytes());
            }
            exit_now(i32::from(done.is_err()))
        }
    }
}

/// The child's last step, whatever happens.
struct Last;

impl Drop for Last {
    fn drop(&mut self) {
        exit_now(101);
    }
}

/// Lets go of all that is the server's: handlers of signals, which write to
/// it, and descriptors. What is printed goes to `said`.
fn alone(said: &File) -> Result<()> {
    signal::reset_all()?;
    let null = call(File::open("/dev/null"), || "open(\"/dev/null\")".to_owned())?;
    duplicate_onto(null.as_fd(), 0)?;
    duplicate_onto(said.as_fd(), 1)?;
    duplicate_onto(said.as_fd(), 2)?;
    // What is closed by its number may be dropped by nobody.
    drop(null);
    Ok(close_range(3, i32::MAX, CloseRange::Close)?)
}
