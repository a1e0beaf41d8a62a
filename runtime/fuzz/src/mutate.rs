//! New inputs out of old ones, as JSON: bytes alone rarely stay a document.
//!
//! A value of the document becomes another: one that has surprised programs
//! before, a copy of another value of it, or nothing. Every second time the
//! bytes are left to libFuzzer, which breaks the syntax as well.

use serde_json::{Map, Value};

/// Values that programs trip over.
const STRANGE: [&str; 32] = [
    "null",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "2",
    "1.5",
    "0.1e9",
    "4095",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "\"\"",
    "\"/\"",
    "\"..\"",
    "\"/../..\"",
    "\"a\"",
    "\"a.b\"",
    "\"/proc\"",
    "\"/dev\"",
    "\"\\u0000\"",
    "\"\\n\"",
    "\"a=b\"",
    "\"a:b:c\"",
    "\"é\"",
    "[]",
    "{}",
];

/// A stream of numbers (xorshift; never 0).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit.max(1)).unwrap_or(1)).unwrap_or(0)
    }
}

/// The document `json` with a few values changed, as `seed` says; none where
/// it is no JSON.
#[must_use]
pub fn document(json: &[u8], seed: u32) -> Option<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(json).ok()?;
    let mut dice = Dice(u64::from(seed) << 1 | 1);
    for _ in 0..=dice.below(3) {
        let count = size(&document);
        let donor = at(&mut document, dice.below(count)).map(|value| value.clone());
        let place = dice.below(count);
        if let Some(value) = at(&mut document, place) {
            change(value, donor.unwrap_or_default(), &mut dice);
        }
    }
    serde_json::to_vec(&document).ok()
}

fn change(value: &mut Value, donor: Value, dice: &mut Dice) {
    match (dice.below(4), value) {
        (0, value) => *value = donor,
        (1, Value::Array(list)) if !list.is_empty() => {
            let from = dice.below(list.len());
            if dice.below(2) == 0 {
                list.remove(from);
            } else {
                list.push(list[from].clone());
            }
        }
        (1, Value::Object(map)) if !map.is_empty() => {
            let key = map.keys().nth(dice.below(map.len())).cloned();
            map.remove(&key.unwrap_or_default());
        }
        (2, Value::Object(map)) => rename(map, donor, dice),
        (2, Value::Array(list)) => list.push(donor),
        (2, Value::String(text)) => {
            let at = dice.below(text.chars().count() + 1);
            let letter = *b"/.\0:,=-0aA \n".get(dice.below(12)).unwrap_or(&b'a');
            let byte = text
                .char_indices()
                .nth(at)
                .map_or(text.len(), |(byte, _)| byte);
            text.insert(byte, char::from(letter));
        }
        (_, value) => {
            let strange = STRANGE[dice.below(STRANGE.len())];
            *value = serde_json::from_str(strange).unwrap_or(Value::Null);
        }
    }
}

/// A key's value under another key.
fn rename(map: &mut Map<String, Value>, donor: Value, dice: &mut Dice) {
    let key = map.keys().nth(dice.below(map.len())).cloned();
    let value = map
        .remove(&key.unwrap_or_default())
        .unwrap_or(donor.clone());
    let name = donor.as_str().map_or("a", |name| name).to_owned();
    map.insert(name, value);
}

/// How many values the document has, itself included.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.values().map(size).sum(),
        _ => 0,
    }
}

/// Value number `place`, counted from the top down.
fn at(value: &mut Value, place: usize) -> Option<&mut Value> {
    if place == 0 {
        return Some(value);
    }
    let mut left = place - 1;
    let children: Box<dyn Iterator<Item = &mut Value>> = match value {
        Value::Array(list) => Box::new(list.iter_mut()),
        Value::Object(map) => Box::new(map.values_mut()),
        _ => return None,
    };
    for child in children {
        let count = size(child);
        if left < count {
            return at(child, left);
        }
        left -= count;
    }
    None
}
