//! One pass over a payload, as deep as the known fields go: is it a message of the schema, and
//! where do its fields lie.
//!
//! A loop with a small stack, not recursion, and each byte is looked at once. Nearly all fields can
//! be told from the eight bytes at their start ([`short`]); the others, and most that is malformed,
//! go through [`Fields`].

use super::schema::{DEPTH, MESSAGES, kind};
use super::wire::{Fields, Malformed, Value, wire_type};

/// A field that is known or not, and where its value lies in the payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The schema's row of the message that holds it.
    pub(super) row: u8,
    /// From 1.
    pub(super) number: u32,
    wire: u8,
    /// The value, behind its length if it has one.
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Whether `payload` is a message of the schema's row `root`, and so are all known messages in it.
/// Hands each field of it to `on`, outer before inner, until something malformed is met.
#[inline]
pub(super) fn is_message(root: u8, payload: &[u8], mut on: impl FnMut(Place)) -> bool {
    walk(root, payload, &mut on).is_ok()
}

#[inline]
fn walk(root: u8, payload: &[u8], on: &mut impl FnMut(Place)) -> Result<(), Malformed> {
    // The messages around the present one: row and end.
    let mut outer = [(0_u8, 0); DEPTH];
    let mut depth: usize = 0;
    let (mut row, mut end) = (root, payload.len());
    let mut known = kinds(row);
    let mut at = 0;
    loop {
        while at == end {
            let Some(up) = depth.checked_sub(1) else { return Ok(()) };
            depth = up;
            (row, end) = outer.get(depth).copied().unwrap_or((root, end));
            known = kinds(row);
        }
        let place = match short(payload, at, row) {
            Some(place) => place,
            None => any(payload, at, end, row)?,
        };
        let index = (place.number as usize).wrapping_sub(1);
        let kind = known.get(index).copied().unwrap_or(kind::UNKNOWN);
        if place.end > end {
            return Err(Malformed);
        }
        on(place);
        if kind >= kind::MESSAGE && place.wire == wire_type::BYTES {
            *outer.get_mut(depth).ok_or(Malformed)? = (row, end);
            depth += 1;
            row = kind - kind::MESSAGE;
            known = kinds(row);
            (at, end) = (place.start, place.end);
            continue;
        }
        if kind & 7 != place.wire || kind >= kind::MESSAGE {
            unusual(kind, place, payload)?;
        }
        at = place.end;
    }
}

fn kinds(row: u8) -> &'static [u8] {
    MESSAGES.get(usize::from(row)).copied().unwrap_or(&[])
}

/// The field at `at` if its key has at most two bytes and its length one. Behind the end of the
/// payload stand zeros, so a field that is cut, like one that claims too much, ends past it.
#[inline(always)]
fn short(payload: &[u8], at: usize, row: u8) -> Option<Place> {
    const CONTINUED: u64 = 0x0000_8080_8080_8080;
    let rest = payload.get(at..)?;
    let word = match rest.first_chunk() {
        Some(eight) => u64::from_le_bytes(*eight),
        None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    };
    let (key, rest, start) = if word & 0x80 == 0 {
        (word as u32 & 0x7F, word >> 8, at + 1)
    } else if word & 0x8000 == 0 {
        ((word & 0x7F | (word >> 1) & 0x3F80) as u32, word >> 16, at + 2)
    } else {
        return None;
    };
    let (number, wire) = (key >> 3, (key & 7) as u8);
    // 0, 1, 2 and 5; the others, and number 0, are rare or wrong.
    if number == 0 || 0b10_0111 >> wire & 1 == 0 {
        return None;
    }
    let ends = !rest & CONTINUED;
    let varint = ends.trailing_zeros() as usize / 8 + 1;
    let (start, end) = if wire == wire_type::BYTES {
        if rest & 0x80 != 0 {
            return None;
        }
        (start + 1, start + 1 + (rest & 0x7F) as usize)
    } else if wire == wire_type::VARINT && ends == 0 {
        (start, start + long_varint(payload, start)?)
    } else {
        let len = if wire == wire_type::VARINT {
            varint
        } else {
            4 + 4 * usize::from(wire == wire_type::FIXED64)
        };
        (start, start + len)
    };
    Some(Place { row, number, wire, start, end })
}

/// Length of a varint of more than six bytes, which a negative number has.
fn long_varint(payload: &[u8], start: usize) -> Option<usize> {
    let bytes: &[u8; 10] = payload.get(start..)?.first_chunk()?;
    let len = bytes.iter().position(|byte| *byte < 0x80)? + 1;
    (len < 10 || bytes[9] < 2).then_some(len)
}

/// The field at `at` of a message that ends at `end`, whatever it is.
#[inline(never)]
fn any(payload: &[u8], at: usize, end: usize, row: u8) -> Result<Place, Malformed> {
    let mut fields = Fields::new(payload.get(at..end).unwrap_or(&[]));
    let (number, wire) = fields.key()?;
    let behind_key = end - fields.rest().len();
    let value = fields.value(wire)?;
    let end = end - fields.rest().len();
    let start = if let Value::Bytes(bytes) = value { end - bytes.len() } else { behind_key };
    Ok(Place { row, number, wire, start, end })
}

/// A field whose wire type is not the one of its kind: unknown, packed, or wrong.
#[inline(never)]
fn unusual(kind: u8, place: Place, payload: &[u8]) -> Result<(), Malformed> {
    let bytes = payload.get(place.start..place.end).unwrap_or(&[]);
    match (kind, place.wire) {
        (kind::UNKNOWN, _) => Ok(()),
        (kind::VARINTS, wire_type::VARINT) | (kind::FIXED32S, wire_type::FIXED32) => Ok(()),
        (kind::FIXED32S, wire_type::BYTES) if bytes.len() % 4 == 0 => Ok(()),
        (kind::VARINTS, wire_type::BYTES) => {
            let mut varints = Fields::new(bytes);
            while !varints.is_empty() {
                varints.varint()?;
            }
            Ok(())
        }
        _ => Err(Malformed),
    }
}
