//! As much of the FUSE protocol (linux/fuse.h, fuse(4)) as a tree of small files
//! takes. Numbers are in the machine's order; everything is asked for anew each time,
//! and files are read and written past the page cache, so that a write(2) is one
//! request.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use nix::errno::Errno;

use super::groups::{Groups, Kind};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const MKDIR: u32 = 9;
const RMDIR: u32 = 11;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// `FOPEN_DIRECT_IO`.
const PAST_THE_CACHE: u32 = 1;
/// The largest write(2) that stays one request.
const LARGEST: u32 = 1 << 16;

/// A request: its number, the node it is about, and what follows the header.
struct Request<'a> {
    code: u32,
    unique: u64,
    node: u64,
    body: &'a [u8],
}

/// Numbers for paths, which stay for as long as the server lives.
struct Nodes {
    paths: Vec<String>,
    numbers: BTreeMap<String, u64>,
}

/// Answers requests until the filesystem is unmounted.
pub(super) fn serve(mut device: &File, log: &Path) {
    let log = log.to_owned();
    let mut groups = Groups::new(Box::new(move |line| {
        let file = File::options().append(true).open(&log);
        writeln!(file.expect("the log"), "{line}").expect("the log");
    }));
    // The root is number 1.
    let mut nodes = Nodes {
        paths: vec![String::new(), String::new()],
        numbers: BTreeMap::from([(String::new(), 1)]),
    };
    let mut buffer = vec![0; LARGEST as usize + 4096];
    loop {
        let length = match device.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // A request that was taken back.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(_) => return,
        };
        let request = Request::parse(&buffer[..length]);
        let Some(answer) = answer(&request, &mut groups, &mut nodes) else {
            continue;
        };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(errno) => (-(errno as i32), Vec::new()),
        };
        let mut reply = Vec::with_capacity(16 + body.len());
        reply.extend(
            u32::try_from(16 + body.len())
                .expect("a length")
                .to_ne_bytes(),
        );
        reply.extend(error.to_ne_bytes());
        reply.extend(request.unique.to_ne_bytes());
        reply.extend(body);
        // Who asked may be gone.
        let _ = device.write(&reply);
    }
}

impl Request<'_> {
    fn parse(bytes: &[u8]) -> Request<'_> {
        Request {
            code: u32_at(bytes, 4),
            unique: u64_at(bytes, 8),
            node: u64_at(bytes, 16),
            body: &bytes[40..],
        }
    }

    /// The name at `offset` of the body.
    fn name(&self, offset: usize) -> Result<&str, Errno> {
        let rest = &self.body[offset..];
        let end = rest
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(rest.len());
        std::str::from_utf8(&rest[..end]).map_err(|_| Errno::EILSEQ)
    }
}

impl Nodes {
    fn path(&self, node: u64) -> &str {
        &self.paths[usize::try_from(node).expect("a number")]
    }

    fn child(&self, node: u64, name: &str) -> String {
        match self.path(node) {
            "" => name.to_owned(),
            above => format!("{above}/{name}"),
        }
    }

    fn number(&mut self, path: &str) -> u64 {
        if let Some(number) = self.numbers.get(path) {
            return *number;
        }
        let number = self.paths.len() as u64;
        self.paths.push(path.to_owned());
        self.numbers.insert(path.to_owned(), number);
        number
    }
}

/// The answer; none for what wants none.
fn answer(
    request: &Request<'_>,
    groups: &mut Groups,
    nodes: &mut Nodes,
) -> Option<Result<Vec<u8>, Errno>> {
    let path = nodes.path(request.node).to_owned();
    Some(match request.code {
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        INIT => Ok(init(request.body)),
        LOOKUP => request
            .name(0)
            .and_then(|name| entry(nodes.child(request.node, name), groups, nodes)),
        // A file that is opened to be written from its beginning has no length anyway.
        GETATTR | SETATTR => attributes(&path, request.node, groups)
            .map(|attributes| [vec![0; 16], attributes].concat()),
        MKDIR => request.name(8).and_then(|name| {
            let path = nodes.child(request.node, name);
            groups.make(&path)?;
            entry(path, groups, nodes)
        }),
        RMDIR => request.name(0).and_then(|name| {
            groups.remove(&nodes.child(request.node, name))?;
            Ok(Vec::new())
        }),
        OPEN | OPENDIR => attributes(&path, request.node, groups).map(|_| {
            let mut open = vec![0; 16];
            open[8..12].copy_from_slice(&PAST_THE_CACHE.to_ne_bytes());
            open
        }),
        READ => attributes(&path, request.node, groups)
            .map(|_| part(groups.read(&path).as_bytes(), request.body)),
        READDIR => Ok(part(&listing(&path, groups, nodes), request.body)),
        WRITE => write(&path, request, groups),
        STATFS => Ok(vec![0; 80]),
        RELEASE | RELEASEDIR => Ok(Vec::new()),
        _ => Err(Errno::ENOSYS),
    })
}

/// `struct fuse_init_out`.
fn init(body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 64];
    // The version of Linux 5.4, which has all of this.
    out[0..4].copy_from_slice(&7_u32.to_ne_bytes());
    out[4..8].copy_from_slice(&31_u32.to_ne_bytes());
    out[8..12].copy_from_slice(&body[8..12]);
    out[20..24].copy_from_slice(&LARGEST.to_ne_bytes());
    out[24..28].copy_from_slice(&1_u32.to_ne_bytes());
    out
}

/// `struct fuse_attr`.
fn attributes(path: &str, node: u64, groups: &Groups) -> Result<Vec<u8>, Errno> {
    let paths = groups.paths();
    let kind = paths.get(path).ok_or(Errno::ENOENT)?;
    let (mode, links) = match kind {
        Kind::Directory => (libc::S_IFDIR | 0o755, 2_u32),
        Kind::File => (libc::S_IFREG | 0o644, 1),
    };
    let mut out = vec![0; 88];
    out[0..8].copy_from_slice(&node.to_ne_bytes());
    out[60..64].copy_from_slice(&mode.to_ne_bytes());
    out[64..68].copy_from_slice(&links.to_ne_bytes());
    out[80..84].copy_from_slice(&4096_u32.to_ne_bytes());
    Ok(out)
}

/// `struct fuse_entry_out`, which nobody keeps.
fn entry(path: String, groups: &Groups, nodes: &mut Nodes) -> Result<Vec<u8>, Errno> {
    if !groups.paths().contains_key(&path) {
        return Err(Errno::ENOENT);
    }
    let node = nodes.number(&path);
    let mut out = vec![0; 40];
    out[0..8].copy_from_slice(&node.to_ne_bytes());
    out.extend(attributes(&path, node, groups)?);
    Ok(out)
}

/// Directory entries, each `struct fuse_dirent`.
fn listing(path: &str, groups: &Groups, nodes: &mut Nodes) -> Vec<u8> {
    let mut out = Vec::new();
    for (child, kind) in groups.paths() {
        let (above, name) = child.rsplit_once('/').unwrap_or(("", &child));
        if above != path || child.is_empty() {
            continue;
        }
        let kind = match kind {
            Kind::Directory => u32::from(libc::DT_DIR),
            Kind::File => u32::from(libc::DT_REG),
        };
        let length = (24 + name.len()).next_multiple_of(8);
        let next = out.len() + length;
        out.extend(nodes.number(&child).to_ne_bytes());
        out.extend((next as u64).to_ne_bytes());
        out.extend(u32::try_from(name.len()).expect("a length").to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(name.as_bytes());
        out.resize(next, 0);
    }
    out
}

/// What a `struct fuse_read_in` asks for.
fn part(all: &[u8], body: &[u8]) -> Vec<u8> {
    let offset = usize::try_from(u64_at(body, 8)).expect("an offset");
    let size = u32_at(body, 16) as usize;
    let rest = all.get(offset..).unwrap_or_default();
    rest[..rest.len().min(size)].to_vec()
}

/// What follows a `struct fuse_write_in`.
fn write(path: &str, request: &Request<'_>, groups: &mut Groups) -> Result<Vec<u8>, Errno> {
    let size = u32_at(request.body, 16);
    let data = &request.body[40..][..size as usize];
    let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    groups.write(path, text)?;
    Ok([size.to_ne_bytes(), [0; 4]].concat())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
