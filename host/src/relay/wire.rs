//! Messages changed on their way without being decoded: fields that are not known here survive,
//! and so do strings that are not UTF-8.

use meshbeat_core::frame::{self, MAX_FRAME};
use meshbeat_core::peek::wire::{Fields, Value};

/// One field of a message: its number, all its bytes, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a> {
    /// Its number.
    pub number: u32,
    /// Its bytes, key and length among them.
    pub bytes: &'a [u8],
    /// What it holds.
    pub value: Value<'a>,
}

impl<'a> Raw<'a> {
    /// The inner message, bytes or text; `None` for a number.
    pub const fn message(&self) -> Option<&'a [u8]> {
        match self.value {
            Value::Bytes(inner) => Some(inner),
            _ => None,
        }
    }
}

/// The fields of a message in order, up to the first that is malformed.
pub fn fields(message: &[u8]) -> impl Iterator<Item = Raw<'_>> {
    let mut fields = Fields::new(message);
    core::iter::from_fn(move || {
        let before = fields.rest();
        let field = fields.next().ok()??;
        let len = before.len() - fields.rest().len();
        Some(Raw { number: field.number, bytes: before.get(..len)?, value: field.value })
    })
}

/// The last inner message, bytes or text with this number.
pub fn message(outer: &[u8], number: u32) -> Option<&[u8]> {
    fields(outer).filter(|field| field.number == number).filter_map(|field| field.message()).last()
}

/// Writes another value into each `fixed32` at the end of `path`, a list of field numbers from the
/// outermost inwards. Returns whether there was one. The length stays.
pub fn set_fixed32(outer: &mut [u8], path: &[u32], value: u32) -> bool {
    let Some((&number, inner_path)) = path.split_first() else { return false };
    let mut found = false;
    let mut at = 0;
    loop {
        let field = fields(outer.get(at..).unwrap_or(&[])).next();
        let Some(Raw { number: next, bytes, value: old }) = field else { return found };
        at += bytes.len();
        let (start, end) = match old {
            Value::Fixed32(_) => (at - 4, at),
            Value::Bytes(inner) => (at - inner.len(), at),
            _ => continue,
        };
        let fixed = matches!(old, Value::Fixed32(_));
        let Some(place) = outer.get_mut(start..end).filter(|_| next == number) else { continue };
        if !inner_path.is_empty() {
            found |= !fixed && set_fixed32(place, inner_path, value);
        } else if let Some(place) = place.first_chunk_mut().filter(|_| fixed) {
            *place = value.to_le_bytes();
            found = true;
        }
    }
}

/// The message with `change` applied to each field: it pushes to the output what shall stand there.
pub fn rewritten(message: &[u8], mut change: impl FnMut(&mut Vec<u8>, Raw<'_>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len());
    for field in fields(message) {
        change(&mut out, field);
    }
    out
}

/// The message without the fields at the end of the paths, however deep; each path is a list of
/// field numbers from the outermost inwards.
pub fn without(message: &[u8], paths: &[&[u32]]) -> Vec<u8> {
    rewritten(message, |out, field| {
        let inner: Vec<&[u32]> = paths
            .iter()
            .filter_map(|path| path.split_first())
            .filter(|(number, _)| **number == field.number)
            .map(|(_, rest)| rest)
            .collect();
        match field.message() {
            _ if inner.iter().any(|rest| rest.is_empty()) => {}
            Some(message) if !inner.is_empty() => {
                put_bytes(out, field.number, &without(message, &inner));
            }
            _ => out.extend_from_slice(field.bytes),
        }
    })
}

/// Appends a varint field.
pub fn put_varint(out: &mut Vec<u8>, number: u32, value: u64) {
    push_varint(out, u64::from(number) << 3);
    push_varint(out, value);
}

/// Appends a `fixed32` or `float` field.
pub fn put_fixed32(out: &mut Vec<u8>, number: u32, value: u32) {
    push_varint(out, u64::from(number) << 3 | 5);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends an inner message, bytes or text.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    push_varint(out, u64::from(number) << 3 | 2);
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The payload as a frame; `None` if it has more than 512 bytes.
pub fn framed(payload: &[u8]) -> Option<Box<[u8]>> {
    let mut out = [0; MAX_FRAME];
    frame::encode(payload, &mut out).ok().map(Into::into)
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `2 { 4 { 6: fixed32 9, 1: varint 300 }, 77: "new" }, 3: varint 1`
    fn sample() -> Vec<u8> {
        let mut innermost = Vec::new();
        put_fixed32(&mut innermost, 6, 9);
        put_varint(&mut innermost, 1, 300);
        let mut inner = Vec::new();
        put_bytes(&mut inner, 4, &innermost);
        put_bytes(&mut inner, 77, b"new");
        let mut outer = Vec::new();
        put_bytes(&mut outer, 2, &inner);
        put_varint(&mut outer, 3, 1);
        outer
    }

    #[test]
    fn a_number_deep_inside_is_replaced_in_place() {
        let mut changed = sample();
        assert!(set_fixed32(&mut changed, &[2, 4, 6], 0x0403_0201));
        assert_eq!(changed.len(), sample().len());
        let inner = message(message(&changed, 2).unwrap(), 4).unwrap();
        assert_eq!(fields(inner).next().unwrap().value, Value::Fixed32(0x0403_0201));
        for path in [&[2, 4, 1][..], &[2, 5, 6], &[3], &[]] {
            assert!(!set_fixed32(&mut changed, path, 1), "{path:?}");
        }
    }

    #[test]
    fn what_is_taken_out_leaves_the_rest_as_it_was() {
        assert_eq!(without(&sample(), &[]), sample());
        assert_eq!(without(&sample(), &[&[9, 1], &[2, 4, 8]]), sample());
        let less = without(&sample(), &[&[2, 4, 6], &[3]]);
        let inner = message(&less, 2).unwrap();
        assert_eq!(message(inner, 77), Some(&b"new"[..]));
        assert_eq!(message(inner, 4).unwrap(), [0x08, 0xAC, 0x02]);
        assert_eq!(fields(&less).count(), 1);
    }

    #[test]
    fn only_what_fits_a_frame_is_framed() {
        assert_eq!(framed(b"x").unwrap()[..], [0x94, 0xC3, 0, 1, b'x']);
        assert!(framed(&[0; 512]).is_some() && framed(&[0; 513]).is_none());
    }
}
