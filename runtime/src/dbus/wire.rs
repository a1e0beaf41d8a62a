//! The wire format of D-Bus: values, and the messages that carry them.
//!
//! Written in little-endian, read in both orders. Only what a caller of
//! systemd needs is there: no descriptors, no dictionaries of our own. What
//! comes from the bus is read with bounds, and anything else is `None`.
//! Source: D-Bus Specification, "Type system" and "Message Protocol".

/// A typed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `y`
    Byte(u8),
    /// `b`
    Bool(bool),
    /// `i`
    Int32(i32),
    /// `u`
    Uint32(u32),
    /// `x`
    Int64(i64),
    /// `t`
    Uint64(u64),
    /// `s`
    String(String),
    /// `o`
    ObjectPath(String),
    /// `g`
    Signature(String),
    /// `a`, of elements of one type.
    Array {
        /// The signature of an element.
        of: String,
        /// The elements.
        items: Vec<Value>,
    },
    /// `(...)`
    Struct(Vec<Value>),
    /// `v`
    Variant(Box<Value>),
}

impl Value {
    /// A string.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Value::String(text.into())
    }

    /// An array of bytes.
    #[must_use]
    pub fn bytes(bytes: &[u8]) -> Self {
        Value::Array {
            of: "y".to_owned(),
            items: bytes.iter().map(|byte| Value::Byte(*byte)).collect(),
        }
    }

    /// The type of the value, as signatures spell it.
    #[must_use]
    pub fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".to_owned(),
            Value::Bool(_) => "b".to_owned(),
            Value::Int32(_) => "i".to_owned(),
            Value::Uint32(_) => "u".to_owned(),
            Value::Int64(_) => "x".to_owned(),
            Value::Uint64(_) => "t".to_owned(),
            Value::String(_) => "s".to_owned(),
            Value::ObjectPath(_) => "o".to_owned(),
            Value::Signature(_) => "g".to_owned(),
            Value::Array { of, .. } => format!("a{of}"),
            Value::Struct(fields) => format!("({})", signature(fields)),
            Value::Variant(_) => "v".to_owned(),
        }
    }
}

/// The signature of several values.
#[must_use]
pub fn signature(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

/// A call of a method.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Whom it is for; nobody on a connection without a bus.
    pub destination: Option<&'a str>,
    /// The object.
    pub path: &'a str,
    /// The interface of the method.
    pub interface: &'a str,
    /// The method.
    pub member: &'a str,
    /// Its arguments.
    pub arguments: &'a [Value],
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The answer to a call.
    Return,
    /// The refusal of a call.
    Error,
    /// A signal.
    Signal,
    /// A call, or something newer than we are.
    Other,
}

/// A message that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Who sent it, as the bus says, which lets nobody say it himself; without a
    /// bus whatever the other end says.
    pub sender: Option<String>,
    /// The call that it answers.
    pub reply_to: Option<u32>,
    /// The name of a signal.
    pub member: String,
    /// The name of an error.
    pub error: String,
    /// What it carries.
    pub arguments: Vec<Value>,
}

/// What comes next on a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// The beginning of a message.
    Partial,
    /// A message of somebody who is not believed, and its length in bytes. What is
    /// in it was not looked at, and most of it may still be on its way.
    Foreign(usize),
    /// A message, and its length in bytes.
    Whole(Message, usize),
}

/// The longest message that there may be. Source: D-Bus Specification, "Message
/// Format".
const MAXIMUM: usize = 128 << 20;
/// The longest body that is read; systemd's are a few hundred bytes.
const LONGEST: usize = 1 << 20;
/// The longest header that is read: names have 255 bytes at most, and the path of
/// a unit has three for each of its name's.
const LONGEST_HEADER: usize = 16 << 10;
/// How deep values may be nested (the specification allows 64).
const DEEPEST: u32 = 16;
/// The fixed part of a message.
const FIXED: usize = 16;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SENDER: u8 = 7;
const SIGNATURE: u8 = 8;

impl Call<'_> {
    /// The message of the call with the number `serial`.
    #[must_use]
    pub fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Writer::default();
        for argument in self.arguments {
            body.value(argument);
        }
        let field = |code: u8, value: Value| {
            Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))])
        };
        let mut fields = vec![
            field(PATH, Value::ObjectPath(self.path.to_owned())),
            field(INTERFACE, Value::text(self.interface)),
            field(MEMBER, Value::text(self.member)),
        ];
        if let Some(destination) = self.destination {
            fields.push(field(DESTINATION, Value::text(destination)));
        }
        if !self.arguments.is_empty() {
            let signature = Value::Signature(signature(self.arguments));
            fields.push(field(SIGNATURE, signature));
        }
        let mut message = Writer::default();
        // Little-endian, a call, no flags, version 1.
        message.bytes.extend_from_slice(&[b'l', 1, 0, 1]);
        message.length(body.bytes.len());
        message.value(&Value::Uint32(serial));
        message.value(&Value::Array {
            of: "(yv)".to_owned(),
            items: fields,
        });
        message.align(8);
        message.bytes.extend_from_slice(&body.bytes);
        message.bytes
    }
}

impl Message {
    /// What `bytes` begin with. Only what comes from a sender that is `believed` is
    /// read; it is asked about `None` where a header names no sender, or can't be
    /// read to tell.
    ///
    /// # Errors
    /// Why the bytes are no message, or what somebody who is believed says is none
    /// that we can read.
    pub fn next(
        bytes: &[u8],
        believed: impl Fn(Option<&str>) -> bool,
    ) -> Result<Next, &'static str> {
        let Some(fixed) = bytes.first_chunk::<FIXED>() else {
            return Ok(Next::Partial);
        };
        let is_big = match fixed[0] {
            b'l' => false,
            b'B' => true,
            _ => return Err("a message in no known byte order"),
        };
        let mut reader = Reader {
            bytes: fixed,
            at: 4,
            is_big,
        };
        let mut number = || reader.word().map_or(MAXIMUM, |number| number as usize);
        let (body, _serial, fields) = (number(), number(), number());
        let begin = FIXED + fields.min(MAXIMUM).next_multiple_of(8);
        let end = begin + body.min(MAXIMUM);
        if end > MAXIMUM {
            return Err("a message that is too long");
        }
        let is_read = fields <= LONGEST_HEADER;
        if is_read && bytes.len() < begin {
            return Ok(Next::Partial);
        }
        let header = bytes.get(..begin).filter(|_| is_read);
        let header = header.and_then(|header| Self::header(header, is_big));
        let sender = header.as_ref().and_then(|(it, _)| it.sender.as_deref());
        if !believed(sender) {
            return Ok(Next::Foreign(end));
        }
        if !is_read || body > LONGEST {
            return Err("a message that is too long");
        }
        let (mut message, types) = header.ok_or("a message that can't be read")?;
        let Some(body) = bytes.get(begin..end) else {
            return Ok(Next::Partial);
        };
        let read = Self::arguments(body, &types, is_big);
        message.arguments = read.ok_or("a message that can't be read")?;
        Ok(Next::Whole(message, end))
    }

    /// The message of a header, without what it carries, and the types of that.
    fn header(bytes: &[u8], is_big: bool) -> Option<(Self, String)> {
        let mut header = Reader {
            bytes,
            at: FIXED - 4,
            is_big,
        };
        let mut message = Self {
            kind: match bytes[1] {
                2 => Kind::Return,
                3 => Kind::Error,
                4 => Kind::Signal,
                _ => Kind::Other,
            },
            sender: None,
            reply_to: None,
            member: String::new(),
            error: String::new(),
            arguments: Vec::new(),
        };
        let mut types = String::new();
        let Value::Array { items, .. } = header.value(&mut "a(yv)", 0)? else {
            return None;
        };
        for item in items {
            let Value::Struct(field) = item else {
                return None;
            };
            let [Value::Byte(code), Value::Variant(value)] = field.as_slice() else {
                return None;
            };
            match (*code, &**value) {
                (MEMBER, Value::String(name)) => message.member.clone_from(name),
                (ERROR_NAME, Value::String(name)) => message.error.clone_from(name),
                (REPLY_SERIAL, Value::Uint32(serial)) => message.reply_to = Some(*serial),
                (SENDER, Value::String(name)) => message.sender = Some(name.clone()),
                (SIGNATURE, Value::Signature(signature)) => types.clone_from(signature),
                _ => {}
            }
        }
        Some((message, types))
    }

    fn arguments(body: &[u8], mut types: &str, is_big: bool) -> Option<Vec<Value>> {
        let mut reader = Reader {
            bytes: body,
            at: 0,
            is_big,
        };
        let mut arguments = Vec::new();
        while !types.is_empty() {
            arguments.push(reader.value(&mut types, 0)?);
        }
        Some(arguments)
    }
}

/// The alignment of a type, by the first letter of its signature.
fn alignment(letter: u8) -> usize {
    match letter {
        b'y' | b'g' | b'v' => 1,
        b'n' | b'q' => 2,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 4,
    }
}

/// Marshals values, aligned from the beginning of its bytes.
#[derive(Debug, Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, bytes: &[u8]) {
        self.align(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    fn length(&mut self, length: usize) {
        // Nothing that we send comes near 4 GiB.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.number(&length.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    fn short(&mut self, signature: &str) {
        self.bytes
            .push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.bytes.extend_from_slice(signature.as_bytes());
        self.bytes.push(0);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(byte) => self.bytes.push(*byte),
            Value::Bool(flag) => self.number(&u32::from(*flag).to_le_bytes()),
            Value::Int32(number) => self.number(&number.to_le_bytes()),
            Value::Uint32(number) => self.number(&number.to_le_bytes()),
            Value::Int64(number) => self.number(&number.to_le_bytes()),
            Value::Uint64(number) => self.number(&number.to_le_bytes()),
            Value::String(text) | Value::ObjectPath(text) => self.text(text),
            Value::Signature(text) => self.short(text),
            Value::Variant(value) => {
                self.short(&value.signature());
                self.value(value);
            }
            Value::Struct(fields) => {
                self.align(8);
                for field in fields {
                    self.value(field);
                }
            }
            Value::Array { of, items } => {
                self.length(0);
                let length_at = self.bytes.len() - 4;
                // The padding before the first element is not counted.
                self.align(alignment(of.bytes().next().unwrap_or(b'y')));
                let begin = self.bytes.len();
                for item in items {
                    self.value(item);
                }
                let length = u32::try_from(self.bytes.len() - begin).unwrap_or(u32::MAX);
                self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
            }
        }
    }
}

/// Unmarshals values, aligned from the beginning of its bytes.
#[derive(Debug)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    is_big: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    /// An aligned number of `N` bytes.
    fn number<const N: usize>(&mut self) -> Option<u64> {
        self.at = self.at.next_multiple_of(N);
        let bytes = self.take(N)?.iter();
        let join = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.is_big {
            bytes.fold(0, join)
        } else {
            bytes.rev().fold(0, join)
        })
    }

    fn word(&mut self) -> Option<u32> {
        u32::try_from(self.number::<4>()?).ok()
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = self.take(length)?.to_vec();
        self.take(1)?;
        String::from_utf8(text).ok()
    }

    /// The value whose type begins `types`, which is taken off them.
    fn value(&mut self, types: &mut &str, depth: u32) -> Option<Value> {
        if depth > DEEPEST {
            return None;
        }
        let letter = *types.as_bytes().first()?;
        *types = types.get(1..)?;
        Some(match letter {
            b'y' => Value::Byte(self.take(1)?[0]),
            b'b' => Value::Bool(self.word()? != 0),
            b'u' | b'h' => Value::Uint32(self.word()?),
            b'i' => Value::Int32(self.word()?.cast_signed()),
            b'x' => Value::Int64(self.number::<8>()?.cast_signed()),
            // A double as its bits: nothing here asks for one.
            b't' | b'd' => Value::Uint64(self.number::<8>()?),
            b'n' | b'q' => Value::Uint32(u32::try_from(self.number::<2>()?).ok()?),
            b's' | b'o' => {
                let length = self.word()? as usize;
                let text = self.text(length)?;
                match letter {
                    b's' => Value::String(text),
                    _ => Value::ObjectPath(text),
                }
            }
            b'g' => {
                let length = usize::from(self.take(1)?[0]);
                Value::Signature(self.text(length)?)
            }
            b'v' => {
                let length = usize::from(self.take(1)?[0]);
                let of = self.text(length)?;
                Value::Variant(Box::new(self.value(&mut of.as_str(), depth + 1)?))
            }
            b'a' => self.array(types, depth)?,
            b'(' | b'{' => {
                self.at = self.at.next_multiple_of(8);
                let mut fields = Vec::new();
                while !types.starts_with([')', '}']) {
                    fields.push(self.value(types, depth + 1)?);
                }
                *types = types.get(1..)?;
                Value::Struct(fields)
            }
            _ => return None,
        })
    }

    fn array(&mut self, types: &mut &str, depth: u32) -> Option<Value> {
        let of = first_type(types)?;
        *types = types.get(of.len()..)?;
        let length = self.word()? as usize;
        self.at = self.at.next_multiple_of(alignment(*of.as_bytes().first()?));
        let end = self.at.checked_add(length)?;
        let mut items = Vec::new();
        while self.at < end {
            let before = self.at;
            items.push(self.value(&mut &*of, depth + 1)?);
            // An element of no size would never come to the end.
            if self.at == before {
                return None;
            }
        }
        (self.at == end).then(|| Value::Array {
            of: of.to_owned(),
            items,
        })
    }
}

/// The first whole type of a signature.
fn first_type(types: &str) -> Option<&str> {
    let mut open = 0_u32;
    for (at, letter) in types.bytes().enumerate() {
        match letter {
            b'a' => continue,
            b'(' | b'{' => open += 1,
            b')' | b'}' => open = open.checked_sub(1)?,
            _ => {}
        }
        if open == 0 {
            return types.get(..=at);
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A message as a bus sends it, with the arguments that follow.
    fn sent(kind: u8, fields: Vec<Value>, arguments: &[Value]) -> Vec<u8> {
        let call = Call {
            destination: None,
            path: "/",
            interface: "i",
            member: "m",
            arguments,
        };
        let mut body = Writer::default();
        for argument in call.arguments {
            body.value(argument);
        }
        let mut message = Writer::default();
        message.bytes.extend_from_slice(&[b'l', kind, 0, 1]);
        message.length(body.bytes.len());
        message.value(&Value::Uint32(1));
        message.value(&Value::Array {
            of: "(yv)".to_owned(),
            items: fields,
        });
        message.align(8);
        message.bytes.extend_from_slice(&body.bytes);
        message.bytes
    }

    fn field(code: u8, value: Value) -> Value {
        Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))])
    }

    /// A signal that `sender` sent.
    pub(in super::super) fn signal(sender: &str, member: &str, arguments: &[Value]) -> Vec<u8> {
        let fields = vec![
            field(SIGNATURE, Value::Signature(signature(arguments))),
            field(MEMBER, Value::text(member)),
            field(SENDER, Value::text(sender)),
        ];
        sent(4, fields, arguments)
    }

    /// The return of the call `serial`, as `sender` sent it.
    pub(in super::super) fn returned(sender: &str, serial: u32, arguments: &[Value]) -> Vec<u8> {
        let fields = vec![
            field(SIGNATURE, Value::Signature(signature(arguments))),
            field(REPLY_SERIAL, Value::Uint32(serial)),
            field(SENDER, Value::text(sender)),
        ];
        sent(2, fields, arguments)
    }

    fn anybody(_: Option<&str>) -> bool {
        true
    }

    fn whole(bytes: &[u8]) -> (Message, usize) {
        match Message::next(bytes, anybody) {
            Ok(Next::Whole(message, length)) => (message, length),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_call_is_the_bytes_of_the_specification() {
        let hello = Call {
            destination: Some("org.freedesktop.DBus"),
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            arguments: &[],
        };
        // Written by hand after the specification, "Message Format".
        let expected: &[u8] = b"l\x01\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\x6d\x00\x00\x00\
            \x01\x01o\x00\x15\x00\x00\x00/org/freedesktop/DBus\x00\x00\x00\
            \x02\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00\
            \x03\x01s\x00\x05\x00\x00\x00Hello\x00\x00\x00\
            \x06\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00";
        let encoded = hello.encode(1);
        assert_eq!(
            String::from_utf8_lossy(&encoded),
            String::from_utf8_lossy(expected)
        );
    }

    #[test]
    fn values_cross_in_every_type() {
        let values = vec![
            Value::Byte(7),
            Value::Uint64(u64::MAX),
            Value::Bool(true),
            Value::Int32(-5),
            Value::Int64(-6),
            Value::text("täxt"),
            Value::ObjectPath("/a".to_owned()),
            Value::Signature("a(sv)".to_owned()),
            Value::bytes(b"ab"),
            Value::Array {
                of: "t".to_owned(),
                items: Vec::new(),
            },
            Value::Array {
                of: "(sv)".to_owned(),
                items: vec![Value::Struct(vec![
                    Value::text("k"),
                    Value::Variant(Box::new(Value::Uint32(9))),
                ])],
            },
        ];
        let signature = signature(&values);
        assert_eq!(signature, "ytbixsogayata(sv)");
        let fields = vec![
            field(SIGNATURE, Value::Signature(signature)),
            field(REPLY_SERIAL, Value::Uint32(3)),
        ];
        let mut bytes = sent(2, fields, &values);
        bytes.extend_from_slice(b"l\x04");
        let (message, length) = whole(&bytes);
        assert_eq!(message.arguments, values);
        assert_eq!((message.kind, message.reply_to), (Kind::Return, Some(3)));
        // What follows stays, for it is not whole.
        assert_eq!(&bytes[length..], b"l\x04");
        assert_eq!(Message::next(&bytes[length..], anybody), Ok(Next::Partial));
    }

    #[test]
    fn a_message_of_the_other_byte_order_is_read() {
        let bytes = b"B\x04\x00\x01\x00\x00\x00\x04\x00\x00\x00\x01\x00\x00\x00\x12\
            \x08\x01g\x00\x01u\x00\x00\
            \x03\x01s\x00\x00\x00\x00\x01x\x00\x00\x00\x00\x00\x00\x00\
            \x00\x00\x01\x02";
        let (message, _) = whole(bytes);
        assert_eq!(message.arguments, [Value::Uint32(258)]);
        assert_eq!((message.kind, &*message.member), (Kind::Signal, "x"));
    }

    #[test]
    fn broken_messages_are_refused_or_wait() {
        let good = sent(
            4,
            vec![
                field(SIGNATURE, Value::Signature("s".to_owned())),
                field(MEMBER, Value::text("JobRemoved")),
            ],
            &[Value::text("x")],
        );
        for cut in 0..good.len() {
            let next = Message::next(&good[..cut], anybody);
            assert_eq!(next, Ok(Next::Partial), "{cut}");
        }
        for (name, at, byte, expected) in [
            ("byte order", 0, b'x', "a message in no known byte order"),
            ("long body", 7, 0x7f, "a message that is too long"),
            ("long fields", 15, 0x7f, "a message that is too long"),
            ("unknown type", 18, b'?', "a message that can't be read"),
            (
                "text over the end",
                good.len() - 6,
                9,
                "a message that can't be read",
            ),
        ] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            assert_eq!(Message::next(&bytes, anybody), Err(expected), "{name}");
        }
        let deep = "a".repeat(40) + "y";
        let nested = sent(4, vec![field(SIGNATURE, Value::Signature(deep))], &[]);
        assert!(Message::next(&nested, anybody).is_err());
    }

    #[test]
    fn of_who_is_not_believed_the_length_is_read_and_no_more() {
        let from = |name: &str| field(SENDER, Value::text(name));
        let path = |length| field(PATH, Value::ObjectPath("/".repeat(length)));
        let unreadable = || field(SIGNATURE, Value::Signature("?".to_owned()));
        let text = |length| [Value::text("x".repeat(length))];
        for (name, message) in [
            ("a stranger", sent(4, vec![from(":1.66")], &[])),
            (
                "a name that begins alike",
                sent(4, vec![from(":1.11")], &[]),
            ),
            ("nobody", sent(4, vec![], &[])),
            ("a long body", sent(4, vec![from(":1.66")], &text(2 << 20))),
            (
                "a long header",
                sent(4, vec![path(1 << 20), from(":1.1")], &[]),
            ),
            (
                "what can't be read",
                sent(4, vec![unreadable(), from(":1.66")], &text(1)),
            ),
            (
                "a header that can't be read",
                sent(4, vec![Value::Struct(vec![Value::Byte(9)])], &[]),
            ),
        ] {
            let known = |sender: Option<&str>| sender == Some(":1.1");
            // Nothing of the body is needed to know.
            let most = FIXED + LONGEST_HEADER.min(message.len() - FIXED);
            let next = Message::next(&message[..most], known);
            assert_eq!(next, Ok(Next::Foreign(message.len())), "{name}");
        }
        // The longest that there may be, by its fixed part and its header alone.
        let mut longest = sent(4, vec![from(":1.66")], &[]);
        let body = u32::try_from(MAXIMUM - longest.len()).unwrap();
        longest[4..8].copy_from_slice(&body.to_le_bytes());
        let nobody = |_: Option<&str>| false;
        let next = Message::next(&longest, nobody);
        assert_eq!(next, Ok(Next::Foreign(MAXIMUM)));
        longest[4..8].copy_from_slice(&(body + 1).to_le_bytes());
        let next = Message::next(&longest, nobody);
        assert_eq!(next, Err("a message that is too long"));
    }

    #[test]
    fn no_byte_of_a_strangers_header_ends_the_conversation() {
        let fields = vec![
            field(SIGNATURE, Value::Signature("a(sv)".to_owned())),
            field(REPLY_SERIAL, Value::Uint32(1)),
            field(SENDER, Value::text(":1.66")),
        ];
        let message = sent(4, fields, &[]);
        for at in FIXED..message.len() {
            for byte in 0..=u8::MAX {
                let mut message = message.clone();
                message[at] = byte;
                let next = Message::next(&message, |sender| sender == Some(":1.1"));
                let whole = message.len();
                assert_eq!(next, Ok(Next::Foreign(whole)), "{byte:#x} at {at}");
            }
        }
    }
}
