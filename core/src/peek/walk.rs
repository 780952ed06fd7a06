//! One pass over a payload, as deep as the known fields go: is it a message of the schema, and
//! where do its fields lie.
//!
//! A loop with a small stack, not recursion, and each byte is looked at once. On 64-bit machines
//! nearly all fields are told from the eight bytes at their start ([`short`]); the others, most that
//! is malformed, and all on smaller machines, where that is slower and longer, go through
//! [`Fields`].

use super::schema::{DEPTH, KINDS, ROWS, kind};
use super::wire::{Fields, Malformed, Raw, wire_type};

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
    const BY_WORDS: bool = cfg!(target_pointer_width = "64");
    walk::<BY_WORDS>(root, payload, &mut on).is_ok()
}

#[inline]
fn walk<const BY_WORDS: bool>(
    root: u8,
    payload: &[u8],
    on: &mut impl FnMut(Place),
) -> Result<(), Malformed> {
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
        let short = if BY_WORDS { short(payload, at, row) } else { None };
        let place = match short {
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
    let Some([start, end, ..]) = ROWS.get(usize::from(row)..) else { return &[] };
    KINDS.get(usize::from(*start)..usize::from(*end)).unwrap_or(&[])
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
    let Raw { number, wire, bytes } = fields.raw()?;
    let end = end - fields.rest().len();
    Ok(Place { row, number, wire, start: end - bytes.len(), end })
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

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::super::schema::{FROM_RADIO, TO_RADIO};
    use super::*;
    use crate::rng::Rng;

    type Seen = Vec<(u8, u32, usize, usize)>;

    fn walked<const BY_WORDS: bool>(root: u8, payload: &[u8]) -> (bool, Seen) {
        let mut seen = Vec::new();
        let mut on = |at: Place| seen.push((at.row, at.number, at.start, at.end));
        let valid = walk::<BY_WORDS>(root, payload, &mut on).is_ok();
        (valid, seen)
    }

    /// The two ways agree on fields, valid or not; where a payload is none, they may have handed out
    /// different ones before they found out.
    #[test]
    fn by_words_or_byte_by_byte_is_the_same() {
        let mut valid = 0;
        for seed in 0..20_000 {
            let mut rng = Rng::new(seed);
            let mut payload = Vec::new();
            for _ in 0..rng.below(6) {
                message(&mut rng, &mut payload, 0);
            }
            for _ in 0..rng.below(3) {
                let at = rng.below(payload.len() as u32) as usize;
                if let Some(byte) = payload.get_mut(at) {
                    *byte = rng.next_u32() as u8;
                }
            }
            for root in [FROM_RADIO, TO_RADIO] {
                let (by_words, byte_by_byte) =
                    (walked::<true>(root, &payload), walked::<false>(root, &payload));
                assert_eq!(by_words.0, byte_by_byte.0, "seed {seed}: {payload:02x?}");
                if by_words.0 {
                    assert_eq!(by_words.1, byte_by_byte.1, "seed {seed}: {payload:02x?}");
                    valid += 1;
                }
            }
        }
        assert!(valid > 4000, "only {valid} of the payloads were messages");
    }

    /// A field of any number and wire type.
    fn message(rng: &mut Rng, out: &mut Vec<u8>, depth: u32) {
        let most = [20, 20, 300][rng.below(3) as usize];
        let number = 1 + rng.below(most);
        let wire = [0, 0, 1, 2, 2, 2, 5, 3][rng.below(8) as usize];
        varint(out, u64::from(number << 3 | wire));
        match wire {
            0 => varint(out, u64::MAX >> rng.below(64)),
            1 => out.extend([7; 8]),
            5 => out.extend([7; 4]),
            3 => varint(out, u64::from(number << 3 | 4)),
            _ => {
                let mut inner = Vec::new();
                for _ in 0..rng.below(3) {
                    match depth {
                        0..3 => message(rng, &mut inner, depth + 1),
                        _ => inner.push(rng.next_u32() as u8 & 0x7F),
                    }
                }
                varint(out, inner.len() as u64);
                out.extend(inner);
            }
        }
    }

    fn varint(out: &mut Vec<u8>, mut value: u64) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
}
