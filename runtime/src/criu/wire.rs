//! Protobuf's encoding: numbered fields that are varints or bytes.
//!
//! What comes from criu is read with bounds; a field of a kind that we never
//! ask for is stepped over, and what is cut short is `None`.
//! Source: the protobuf documentation, "Encoding".

/// A message that is being written.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

/// Kinds of values, the low three bits of a field's key.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

impl Writer {
    /// Writes an integer. A negative one is written with 64 bits, as the
    /// format wants it of an `int32` too.
    pub(super) fn int(&mut self, field: u32, value: i32) {
        self.varint_field(field, i64::from(value).cast_unsigned());
    }

    /// Writes an unsigned integer.
    pub(super) fn uint(&mut self, field: u32, value: u32) {
        self.varint_field(field, u64::from(value));
    }

    /// Writes a switch that is on. One that is off is left out.
    pub(super) fn switch(&mut self, field: u32, on: bool) {
        if on {
            self.varint_field(field, 1);
        }
    }

    /// Writes a string or an embedded message.
    pub(super) fn bytes(&mut self, field: u32, value: &[u8]) {
        self.varint(u64::from(field) << 3 | BYTES);
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    /// Writes an embedded message, which `fill` writes.
    pub(super) fn message(&mut self, field: u32, fill: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::default();
        fill(&mut inner);
        self.bytes(field, &inner.bytes);
    }

    /// What was written.
    #[must_use]
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn varint_field(&mut self, field: u32, value: u64) {
        self.varint(u64::from(field) << 3 | VARINT);
        self.varint(value);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            // The low seven bits, and the sign that more follow.
            self.bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.bytes.push(value.to_le_bytes()[0]);
    }
}

/// A field that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// An integer or a switch.
    Varint(u64),
    /// A string or an embedded message.
    Bytes(&'a [u8]),
}

impl Value<'_> {
    /// The value as the `int32` that it was written from.
    #[must_use]
    pub(super) fn int(&self) -> Option<i32> {
        match self {
            Value::Varint(value) => i32::try_from(value.cast_signed()).ok(),
            Value::Bytes(_) => None,
        }
    }

    /// The value as a string.
    #[must_use]
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Value::Bytes(bytes) => String::from_utf8(bytes.to_vec()).ok(),
            Value::Varint(_) => None,
        }
    }
}

/// The fields of a message in their order, by number; `None` if it is cut
/// short or not a message. Fixed-size fields are stepped over.
#[must_use]
pub(super) fn fields(mut rest: &[u8]) -> Option<Vec<(u64, Value<'_>)>> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match key & 7 {
            VARINT => fields.push((key >> 3, Value::Varint(varint(&mut rest)?))),
            BYTES => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                fields.push((key >> 3, Value::Bytes(take(&mut rest, length)?)));
            }
            FIXED64 => drop(take(&mut rest, 8)?),
            FIXED32 => drop(take(&mut rest, 4)?),
            _ => return None,
        }
    }
    Some(fields)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_the_format_says() {
        type Fill = fn(&mut Writer);
        let cases: [(&str, Fill, &[u8]); 8] = [
            ("one byte", |w| w.uint(1, 1), &[0x08, 0x01]),
            ("two bytes", |w| w.uint(1, 150), &[0x08, 0x96, 0x01]),
            ("two bytes of key", |w| w.uint(16, 2), &[0x80, 0x01, 0x02]),
            (
                "negative",
                |w| w.int(2, -1),
                &[0x10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
            ),
            ("on", |w| w.switch(3, true), &[0x18, 0x01]),
            ("off", |w| w.switch(3, false), &[]),
            ("text", |w| w.bytes(2, b"ab"), &[0x12, 2, b'a', b'b']),
            (
                "embedded",
                |w| w.message(2, |inner| inner.uint(1, 7)),
                &[0x12, 2, 0x08, 0x07],
            ),
        ];
        for (name, fill, expected) in cases {
            let mut writer = Writer::default();
            fill(&mut writer);
            assert_eq!(writer.finish(), expected, "{name}");
        }
    }

    #[test]
    fn what_is_read_has_bounds() {
        let one = |value| Some(vec![(1, value)]);
        type Read<'a> = Option<Vec<(u64, Value<'a>)>>;
        let cases: [(&str, &[u8], Read<'_>); 10] = [
            ("empty", &[], Some(Vec::new())),
            ("varint", &[0x08, 0x96, 0x01], one(Value::Varint(150))),
            ("text", &[0x0a, 1, b'x'], one(Value::Bytes(b"x"))),
            (
                "a fixed field before",
                &[0x15, 0, 0, 0, 0, 0x08, 1],
                one(Value::Varint(1)),
            ),
            ("a key without a value", &[0x08], None),
            ("an endless varint", &[0x08, 255, 255], None),
            (
                "a varint of more than 64 bits",
                &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
                None,
            ),
            ("text cut short", &[0x0a, 2, b'x'], None),
            (
                "a length that is absurd",
                &[0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
                None,
            ),
            ("a group, which is no kind of ours", &[0x0b], None),
        ];
        for (name, bytes, expected) in cases {
            assert_eq!(fields(bytes), expected, "{name}");
        }
    }
}
