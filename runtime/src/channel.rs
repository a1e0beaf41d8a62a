//! What the parent and the child say to each other while a process is made.
//!
//! ```text
//!   parent (host)                                child (container)
//!     | -- clone3 ------------------------------->  |
//!     |  cgroups, their limits, id maps             |  namespaces, session, first
//!     |                                             |   mounts, waits
//!     | -- Go + descriptors --------------------->  |  enters its cgroups by them
//!     |                                             |  (second fork only: a stage
//!     | <- Born(pid) -----------------------------  |   process makes the real child,
//!     | -- Go ----------------------------------->  |   which gets its own Go)
//!     |                                             |  other namespaces and mounts
//!     | <- SourcesWanted -------------------------  |  only for bind mounts that the
//!     | -- Sources + descriptors, Continue ------>  |   parent has to open
//!     | <- HooksWanted ---------------------------  |  only if there are such hooks
//!     |  prestart, createRuntime                    |  waits
//!     | -- Continue ----------------------------->  |  pivot, console, identity
//!     | <- Terminal + descriptor -----------------  |  only a foreground terminal
//!     | <- Listener(number) ----------------------  |  only seccomp notify; by now
//!     | -- Continue ----------------------------->  |  read and write alone are sure
//!     | <- Ready ---------------------------------  |
//!     |  state "created"                            |  waits
//!     | -- Continue ----------------------------->  |  `create`: waits at its gate
//!     |                                             |  `run`, `exec`: execve
//!     | <- end of file ---------------------------  |  the program runs
//! ```
//!
//! At any moment the child may say `Failed` instead, and an end of file before
//! `Ready` is a child that died without a word. An end of file on the child's
//! side is a parent that died: the child leaves.
//!
//! The socket keeps message boundaries (`SOCK_SEQPACKET`), so a message is one
//! write(2), the only call besides read(2) that a child may need behind its
//! seccomp filter. A message is a tag byte and its payload.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::error::{Error, Kind, Result};
use crate::sys::descriptors;

/// The longest message: a tag and an error text, which is cut to fit.
const LONGEST: usize = 16 * 1024;

/// What the child tells the parent.
#[derive(Debug)]
pub enum FromChild {
    /// A stage process has made the container's process, which has this pid in
    /// the parent's pid namespace and says so itself.
    Born(i32),
    /// Time to open the sources of its bind mounts, in its mount namespace.
    SourcesWanted,
    /// Everything is mounted: time for `prestart` and `createRuntime`.
    HooksWanted,
    /// The master of the process's terminal.
    Terminal(OwnedFd),
    /// A seccomp notify descriptor, by its number in the child.
    Listener(RawFd),
    /// Set up; only the program itself is missing.
    Ready,
    /// The set-up failed.
    Failed(Error),
    /// The child's end is closed: it executed its program, or died.
    Closed,
}

/// What the child is told of the sources of its bind mounts.
#[derive(Debug)]
pub enum Source {
    /// One, and the operation of the root that it is for.
    Tree(usize, OwnedFd),
    /// There are no more.
    All,
    /// The parent is gone.
    Gone,
}

/// The parent's end.
#[derive(Debug)]
pub struct ParentEnd(OwnedFd);

/// The child's end.
#[derive(Debug)]
pub struct ChildEnd(OwnedFd);

/// A new channel.
///
/// # Errors
/// Those of socketpair(2).
pub fn pair() -> Result<(ParentEnd, ChildEnd)> {
    let (parent, child) = descriptors::seqpacket_pair()?;
    Ok((ParentEnd(parent), ChildEnd(child)))
}

const BORN: u8 = b'b';
const SOURCES_WANTED: u8 = b'w';
const HOOKS_WANTED: u8 = b'h';
const TERMINAL: u8 = b't';
const LISTENER: u8 = b'l';
const READY: u8 = b'r';
const FAILED: u8 = b'f';
const GO: u8 = b'g';
const SOURCES: u8 = b's';
const CONTINUE: u8 = b'c';

impl ParentEnd {
    /// Waits for the child's next word.
    ///
    /// # Errors
    /// Those of recvmsg(2), and a message that no child of ours sends.
    pub fn receive(&self) -> Result<FromChild> {
        let mut buffer = vec![0_u8; LONGEST];
        let (length, fd) = match descriptors::receive(self.0.as_fd(), &mut buffer) {
            // A child that died before it read our last word. The kernel tells
            // so once, and ahead of what the child had said (unix_release_sock).
            Err(error) if error.errno() == Errno::ECONNRESET => {
                descriptors::receive(self.0.as_fd(), &mut buffer)?
            }
            received => received?,
        };
        let Some((&tag, payload)) = buffer[..length].split_first() else {
            return Ok(FromChild::Closed);
        };
        let message = match (tag, fd) {
            (BORN, _) => read_number(payload).map(FromChild::Born),
            (SOURCES_WANTED, _) => Some(FromChild::SourcesWanted),
            (HOOKS_WANTED, _) => Some(FromChild::HooksWanted),
            (TERMINAL, Some(fd)) => Some(FromChild::Terminal(fd)),
            (LISTENER, _) => read_number(payload).map(FromChild::Listener),
            (READY, _) => Some(FromChild::Ready),
            (FAILED, _) => Some(FromChild::Failed(decode_error(payload))),
            _ => None,
        };
        message.ok_or_else(|| {
            Error::new(
                Kind::System,
                format!("the child sent {length} bytes that mean nothing"),
            )
        })
    }

    /// Tells the child that its cgroups and id maps are settled; it enters the
    /// cgroups by `tasks`.
    ///
    /// # Errors
    /// `EPIPE` if the child is gone, `ECONNRESET` if it left words unread.
    pub fn go(&self, tasks: &[BorrowedFd<'_>]) -> Result<()> {
        Ok(descriptors::send(self.0.as_fd(), &[GO], tasks)?)
    }

    /// Hands the child the source of a bind mount, the operation `at` of its root.
    ///
    /// # Errors
    /// As for [`go`](Self::go).
    pub fn source(&self, at: usize, tree: BorrowedFd<'_>) -> Result<()> {
        let message = [&[SOURCES][..], &at.to_ne_bytes()].concat();
        Ok(descriptors::send(self.0.as_fd(), &message, &[tree])?)
    }

    /// Tells the child that what it waits for is done.
    ///
    /// # Errors
    /// As for [`go`](Self::go).
    pub fn go_on(&self) -> Result<()> {
        Ok(descriptors::send(self.0.as_fd(), &[CONTINUE], &[])?)
    }
}

impl AsFd for ParentEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ChildEnd {
    /// Waits for `Go`: the descriptors that came with it, or `None` if the
    /// parent is gone.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    pub fn until_go(&self) -> Result<Option<Vec<OwnedFd>>> {
        let (length, tasks) = descriptors::receive_all(self.0.as_fd(), &mut [0_u8; 1])?;
        Ok((length > 0).then_some(tasks))
    }

    /// Waits for all sources of bind mounts: trees, by the operations of the
    /// root that they are for, or `None` if the parent is gone.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    pub fn until_sources(&self) -> Result<Option<BTreeMap<usize, OwnedFd>>> {
        let mut trees = BTreeMap::new();
        loop {
            match self.until_source()? {
                Source::Tree(at, tree) => trees.insert(at, tree),
                Source::All => return Ok(Some(trees)),
                Source::Gone => return Ok(None),
            };
        }
    }

    /// Waits for the next of them.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    pub fn until_source(&self) -> Result<Source> {
        let mut message = [0_u8; 1 + size_of::<usize>()];
        let (length, tree) = descriptors::receive(self.0.as_fd(), &mut message)?;
        let Some((&tag, payload)) = message[..length].split_first() else {
            return Ok(Source::Gone);
        };
        Ok(match (payload.try_into().map(usize::from_ne_bytes), tree) {
            (Ok(at), Some(tree)) if tag == SOURCES => Source::Tree(at, tree),
            _ => Source::All,
        })
    }

    /// Waits for the parent's word; false if the parent is gone.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn until_told(&self) -> Result<bool> {
        Ok(descriptors::read(self.0.as_fd(), &mut [0_u8; 1])? > 0)
    }

    /// Tells the parent that a stage process made this one, which is `pid`.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn born(&self, pid: i32) -> Result<()> {
        self.write(BORN, &pid.to_ne_bytes())
    }

    /// Asks the parent for the sources of bind mounts.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn sources_wanted(&self) -> Result<()> {
        self.write(SOURCES_WANTED, &[])
    }

    /// Asks the parent for the hooks that run in its namespaces.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn hooks_wanted(&self) -> Result<()> {
        self.write(HOOKS_WANTED, &[])
    }

    /// Hands the master of the process's terminal to the parent.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn terminal(&self, master: BorrowedFd<'_>) -> Result<()> {
        Ok(descriptors::send(self.0.as_fd(), &[TERMINAL], &[master])?)
    }

    /// Tells the parent to fetch the seccomp notify descriptor `number`.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn listener(&self, number: RawFd) -> Result<()> {
        self.write(LISTENER, &number.to_ne_bytes())
    }

    /// Tells the parent that only the program itself is missing.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn ready(&self) -> Result<()> {
        self.write(READY, &[])
    }

    /// Tells the parent why the set-up failed.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn failed(&self, error: &Error) -> Result<()> {
        send_failure(self.0.as_fd(), error)
    }

    fn write(&self, tag: u8, payload: &[u8]) -> Result<()> {
        write_message(self.0.as_fd(), tag, payload)
    }
}

impl AsFd for ChildEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// [`ChildEnd::failed`] for a panic hook, which has only the descriptor.
///
/// # Errors
/// Those of write(2).
pub fn send_failure(channel: BorrowedFd<'_>, error: &Error) -> Result<()> {
    write_message(channel, FAILED, &encode_error(error))
}

/// One message by one write.
fn write_message(channel: BorrowedFd<'_>, tag: u8, payload: &[u8]) -> Result<()> {
    let mut message = Vec::with_capacity(payload.len() + 1);
    message.push(tag);
    message.extend_from_slice(payload);
    Ok(descriptors::write_all(channel, &message)?)
}

fn read_number(payload: &[u8]) -> Option<i32> {
    payload.try_into().ok().map(i32::from_ne_bytes)
}

/// An error as bytes: kind, errno, hint-free text, with line feeds between.
/// Also what a waiting container answers to `start`.
#[must_use]
pub fn encode_error(error: &Error) -> Vec<u8> {
    let errno = error.errno().map_or(0, |errno| errno as i32);
    let mut text = format!("{}\n{errno}\n{error}", error.kind().name()).into_bytes();
    text.truncate(LONGEST - 1);
    text
}

/// The error behind [`encode_error`]'s bytes.
#[must_use]
pub fn decode_error(bytes: &[u8]) -> Error {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.splitn(3, '\n');
    let kind = lines.next().and_then(Kind::from_name);
    let errno = lines.next().and_then(|errno| errno.parse().ok());
    match (kind, errno, lines.next()) {
        (Some(kind), Some(errno), Some(words)) => {
            let error = Error::new(kind, words);
            if errno == 0 {
                error
            } else {
                error.with_errno(Errno::from_raw(errno))
            }
        }
        _ => Error::new(Kind::System, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;

    #[test]
    fn an_error_crosses_with_kind_errno_and_text() {
        let sent = Error::from(sys::Error::new("mount(\"a\\nb\")", Errno::EPERM))
            .with_kind(Kind::CommandNotFound);
        let received = decode_error(&encode_error(&sent));
        assert_eq!(received, sent);
        assert_eq!(decode_error(b"half").to_string(), "half");
    }

    #[test]
    fn messages_cross_with_their_boundaries_and_the_end_is_seen() {
        let (parent, child) = pair().unwrap();
        child.born(4711).unwrap();
        child.listener(9).unwrap();
        child.ready().unwrap();
        assert!(matches!(parent.receive().unwrap(), FromChild::Born(4711)));
        assert!(matches!(parent.receive().unwrap(), FromChild::Listener(9)));
        assert!(matches!(parent.receive().unwrap(), FromChild::Ready));
        parent.go_on().unwrap();
        assert!(child.until_told().unwrap());
        child
            .failed(&Error::new(Kind::Hook, "x".repeat(2 * LONGEST)))
            .unwrap();
        let FromChild::Failed(error) = parent.receive().unwrap() else {
            panic!()
        };
        assert_eq!(error.kind(), Kind::Hook);
        drop(child);
        assert!(matches!(parent.receive().unwrap(), FromChild::Closed));
    }

    #[test]
    fn go_brings_as_many_descriptors_as_there_are() {
        for count in [0, 1, 9, 200] {
            let (parent, child) = pair().unwrap();
            let (end, kept) = descriptors::pipe().unwrap();
            parent.go(&vec![kept.as_fd(); count]).unwrap();
            drop(kept);
            let brought = child.until_go().unwrap().unwrap();
            assert_eq!(brought.len(), count);
            for fd in brought {
                descriptors::write_all(fd.as_fd(), b"x").unwrap();
            }
            assert_eq!(
                descriptors::read(end.as_fd(), &mut [0; 256]).unwrap(),
                count
            );
            drop(parent);
            assert!(child.until_go().unwrap().is_none());
        }
    }

    #[test]
    fn sources_come_by_their_operations() {
        let (parent, child) = pair().unwrap();
        let (end, kept) = descriptors::pipe().unwrap();
        parent.source(3, kept.as_fd()).unwrap();
        parent.source(300, end.as_fd()).unwrap();
        parent.go_on().unwrap();
        let trees = child.until_sources().unwrap().unwrap();
        assert_eq!(trees.keys().copied().collect::<Vec<_>>(), [3, 300]);
        descriptors::write_all(trees[&3].as_fd(), b"x").unwrap();
        assert_eq!(
            descriptors::read(trees[&300].as_fd(), &mut [0; 8]).unwrap(),
            1
        );
        drop(parent);
        assert!(child.until_sources().unwrap().is_none());
    }

    #[test]
    fn a_child_that_leaves_words_unread_is_gone_like_any_other() {
        let (parent, child) = pair().unwrap();
        parent.go(&[]).unwrap();
        drop(child);
        assert!(matches!(parent.receive().unwrap(), FromChild::Closed));
    }

    #[test]
    fn the_last_words_of_a_child_that_left_words_unread_are_heard() {
        let (parent, child) = pair().unwrap();
        parent.go_on().unwrap();
        child.failed(&Error::new(Kind::System, "why")).unwrap();
        drop(child);
        let FromChild::Failed(error) = parent.receive().unwrap() else {
            panic!()
        };
        assert_eq!(error.to_string(), "why");
        assert!(matches!(parent.receive().unwrap(), FromChild::Closed));
    }
}
