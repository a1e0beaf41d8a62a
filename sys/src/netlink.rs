//! Network devices by rtnetlink(7): found, moved into another namespace,
//! renamed, given addresses, switched on and off.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use super::{Error, Result, call};

/// A conversation with the kernel about the network namespace in which it was
/// begun; it stays with that, wherever the process goes.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in the namespace.
    pub index: i32,
    /// Its name.
    pub name: String,
}

/// An address of a device, ready to be given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Whether it was set by somebody, not learnt for a time.
    pub permanent: bool,
    /// Whether it is valid everywhere (`RT_SCOPE_UNIVERSE`).
    pub global: bool,
    family: u8,
    prefix: u8,
    flags: u32,
    attributes: Vec<(u16, Vec<u8>)>,
}

// linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_RT_PRIORITY: u16 = 9;
const IFA_F_PERMANENT: u32 = 0x80;
/// Those flags that somebody sets: `NODAD`, `HOMEADDRESS`, `MANAGETEMPADDR`,
/// `NOPREFIXROUTE`, `MCAUTOJOIN`. The others are the kernel's.
const IFA_F_ASKED: u32 = 0x02 | 0x10 | 0x100 | 0x200 | 0x400;
const RT_SCOPE_UNIVERSE: u8 = 0;
/// `IFF_UP`.
const UP: u32 = 1;

// linux/netlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE_EXCLUSIVELY: u16 = 0x400 | 0x200;
/// `sizeof(struct nlmsghdr)`.
const HEADER: usize = 16;
/// Of a message (`nlmsghdr`), and of the attributes in it.
const ALIGN: usize = 4;

impl Netlink {
    /// Begins a conversation about the network namespace that this process is in.
    ///
    /// # Errors
    /// Those of socket(2).
    pub fn open() -> Result<Self> {
        let opened = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        );
        call(opened, || "socket(AF_NETLINK, NETLINK_ROUTE)".to_owned()).map(Self)
    }

    /// The device of this name.
    ///
    /// # Errors
    /// `ENODEV`.
    pub fn link_by_name(&self, name: &CStr) -> Result<Link> {
        let mut message = Message::link(RTM_GETLINK, 0, 0, 0);
        message.attribute(IFLA_IFNAME, name.to_bytes_with_nul());
        self.link(message, || format!("RTM_GETLINK({name:?})"))
    }

    /// The device of this number.
    ///
    /// # Errors
    /// `ENODEV`.
    pub fn link_by_index(&self, index: i32) -> Result<Link> {
        let message = Message::link(RTM_GETLINK, index, 0, 0);
        self.link(message, || format!("RTM_GETLINK({index})"))
    }

    fn link(&self, message: Message, describe: impl Fn() -> String) -> Result<Link> {
        let answers = self.talk(message, 0, &describe)?;
        let found = answers.iter().find_map(|answer| {
            // ifinfomsg: family, padding, type, index, flags, change.
            let index = i32::from_ne_bytes(answer.get(4..8)?.try_into().ok()?);
            let name = attributes(answer.get(16..)?)
                .into_iter()
                .find(|(kind, _)| *kind == IFLA_IFNAME)?
                .1;
            let name = String::from_utf8_lossy(&name);
            Some(Link {
                index,
                name: name.trim_end_matches('\0').to_owned(),
            })
        });
        found.ok_or_else(|| Error::new(describe(), Errno::EBADMSG))
    }

    /// All addresses of the device.
    ///
    /// # Errors
    /// Those of the kernel's answer.
    pub fn addresses(&self, index: i32) -> Result<Vec<Address>> {
        let describe = || format!("RTM_GETADDR({index})");
        let message = Message::new(RTM_GETADDR, &[0; 8]);
        let answers = self.talk(message, NLM_F_DUMP, &describe)?;
        Ok(answers
            .iter()
            .filter_map(|answer| Address::parse(answer, index))
            .collect())
    }

    /// Switches the device on or off.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn set_up(&self, index: i32, up: bool) -> Result<()> {
        let flags = if up { UP } else { 0 };
        let message = Message::link(RTM_NEWLINK, index, flags, UP);
        let describe = || format!("RTM_NEWLINK({index}, IFF_UP={up})");
        self.talk(message, NLM_F_ACK, &describe).map(drop)
    }

    /// Moves the device into `namespace`, under this name.
    ///
    /// # Errors
    /// `EINVAL` for a device that can't be moved, `EEXIST` for a name that is
    /// taken there.
    pub fn move_to(&self, index: i32, namespace: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let mut message = Message::link(RTM_NEWLINK, index, 0, 0);
        message.attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        message.attribute(IFLA_IFNAME, name.to_bytes_with_nul());
        let describe = || {
            let fd = namespace.as_raw_fd();
            format!("RTM_NEWLINK({index}, IFLA_NET_NS_FD=[{fd}], IFLA_IFNAME={name:?})")
        };
        self.talk(message, NLM_F_ACK, &describe).map(drop)
    }

    /// Renames the device; a `%d` in the name becomes the first number that
    /// makes it unique.
    ///
    /// # Errors
    /// `EEXIST`, `EBUSY` for a device that is on.
    pub fn rename(&self, index: i32, name: &CStr) -> Result<()> {
        let mut message = Message::link(RTM_NEWLINK, index, 0, 0);
        message.attribute(IFLA_IFNAME, name.to_bytes_with_nul());
        let describe = || format!("RTM_NEWLINK({index}, IFLA_IFNAME={name:?})");
        self.talk(message, NLM_F_ACK, &describe).map(drop)
    }

    /// Gives the device an address.
    ///
    /// # Errors
    /// `EEXIST`.
    pub fn add_address(&self, index: i32, address: &Address) -> Result<()> {
        let [a, b, c, d] = index.to_ne_bytes();
        // ifaddrmsg: family, prefix length, flags, scope, index.
        let body = [
            address.family,
            address.prefix,
            0,
            RT_SCOPE_UNIVERSE,
            a,
            b,
            c,
            d,
        ];
        let mut message = Message::new(RTM_NEWADDR, &body);
        for (kind, value) in &address.attributes {
            message.attribute(*kind, value);
        }
        message.attribute(IFA_FLAGS, &(address.flags & IFA_F_ASKED).to_ne_bytes());
        let describe = || format!("RTM_NEWADDR({index}, {address:?})");
        self.talk(message, NLM_F_ACK | NLM_F_CREATE_EXCLUSIVELY, &describe)
            .map(drop)
    }

    /// Sends a request and collects the messages of the answer, without their
    /// headers, up to its end.
    fn talk(
        &self,
        message: Message,
        flags: u16,
        describe: &impl Fn() -> String,
    ) -> Result<Vec<Vec<u8>>> {
        let bytes = message.finish(NLM_F_REQUEST | flags);
        let sent = send(self.0.as_raw_fd(), &bytes, MsgFlags::empty());
        call(sent, describe)?;
        let mut answers = Vec::new();
        // The kernel's messages are at most this long (NLMSG_GOODSIZE and more).
        let mut buffer = vec![0_u8; 64 << 10];
        loop {
            let length = call(
                recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()),
                describe,
            )?;
            let mut rest = &buffer[..length];
            while let Some((kind, body, next)) = split(rest) {
                match kind {
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => {
                        let word = body.get(..4).and_then(|word| word.try_into().ok());
                        let errno = word.map_or(libc::EBADMSG, |word| -i32::from_ne_bytes(word));
                        return match errno {
                            0 => Ok(answers),
                            errno => Err(Error::new(describe(), Errno::from_raw(errno))),
                        };
                    }
                    _ => answers.push(body.to_vec()),
                }
                rest = next;
            }
            // One answer that is no dump's has no end of its own.
            if flags == 0 {
                return Ok(answers);
            }
        }
    }
}

impl Address {
    /// An address of the device `index` from the body of an `RTM_NEWADDR`.
    fn parse(body: &[u8], index: i32) -> Option<Self> {
        let [family, prefix, flags, scope] = *body.first_chunk::<4>()?;
        if i32::from_ne_bytes(body.get(4..8)?.try_into().ok()?) != index {
            return None;
        }
        let all = attributes(body.get(8..)?);
        let wide = all.iter().find(|(kind, _)| *kind == IFA_FLAGS);
        let flags = wide
            .and_then(|(_, value)| Some(u32::from_ne_bytes(value.as_slice().try_into().ok()?)))
            .unwrap_or(u32::from(flags));
        // Not the label, which is of the old name.
        let kept = [IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_RT_PRIORITY];
        Some(Self {
            permanent: flags & IFA_F_PERMANENT != 0,
            global: scope == RT_SCOPE_UNIVERSE,
            family,
            prefix,
            flags,
            attributes: all
                .into_iter()
                .filter(|(kind, _)| kept.contains(kind))
                .collect(),
        })
    }
}

/// A request in the making: `nlmsghdr`, a fixed body, attributes.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend(body);
        Self(bytes)
    }

    /// A request about a device: `ifinfomsg`.
    fn link(kind: u16, index: i32, flags: u32, change: u32) -> Self {
        let mut body = [0; 16];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        body[8..12].copy_from_slice(&flags.to_ne_bytes());
        body[12..16].copy_from_slice(&change.to_ne_bytes());
        Self::new(kind, &body)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        // Ours are names, addresses and numbers: tens of bytes.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGN), 0);
    }

    fn finish(mut self, flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0
    }
}

/// The first message of `bytes`: its type, its body, and what follows.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    let next = length.next_multiple_of(ALIGN).min(bytes.len());
    Some((kind, body, &bytes[next..]))
}

/// The attributes of a message: their types without the two flags, and values.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some(&[a, b, c, d]) = bytes.first_chunk::<4>() {
        let (length, kind) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
        let Some(value) = bytes.get(4..usize::from(length)) else {
            break;
        };
        found.push((kind & 0x3fff, value.to_vec()));
        let next = usize::from(length).next_multiple_of(ALIGN);
        bytes = bytes.get(next..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_found_with_its_address() {
        let netlink = Netlink::open().unwrap();
        let link = netlink.link_by_name(c"lo").unwrap();
        assert_eq!((link.index, link.name.as_str()), (1, "lo"));
        assert_eq!(netlink.link_by_index(1).unwrap(), link);
        let error = netlink.link_by_name(c"rrun-none").unwrap_err();
        let text = "RTM_GETLINK(\"rrun-none\"): no such device";
        assert_eq!(error.to_string(), text);
        // Whether it has any depends on its being up.
        for address in netlink.addresses(1).unwrap() {
            assert!(address.permanent && !address.global, "{address:?}");
        }
    }

    #[test]
    fn a_broken_answer_is_read_over() {
        let (family, scope) = (2, 0);
        let mut body = vec![family, 24, 0x80, scope, 7, 0, 0, 0];
        body.extend([8, 0, 2, 0, 10, 0, 0, 1]);
        // An attribute that ends behind the message.
        body.extend([9, 0, 4, 0, 10]);
        let address = Address::parse(&body, 7).unwrap();
        assert!(address.permanent && address.global);
        assert_eq!(address.attributes, [(IFA_LOCAL, vec![10, 0, 0, 1])]);
        assert_eq!(Address::parse(&body, 8), None);
        for length in 0..body.len() {
            let _ = Address::parse(&body[..length], 7);
            let _ = split(&body[..length]);
        }
    }
}
