//! The protobuf wire format, as much of it as a link needs: fields in order, groups skipped. For
//! programs that pass messages on byte for byte, and change a field or two on the way.
//!
//! What is malformed here is malformed for prost too (`prost::encoding`): a varint over 10 bytes or
//! over 64 bits, field number 0, wire types 6 and 7, a length past the end, an open or lone group.

use heapless::Vec;

/// The bytes are not a protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its number, from 1.
    pub number: u32,
    /// What it holds.
    pub value: Value<'a>,
}

/// A field's value by wire type. 64-bit fixed values and groups are skipped, not kept: no field
/// that a link reads has that type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// An integer, a boolean or an enumeration.
    Varint(u64),
    /// Eight bytes, skipped.
    Fixed64,
    /// A message, bytes, text, or packed numbers.
    Bytes(&'a [u8]),
    /// A group, skipped.
    Group,
    /// Four bytes, little endian.
    Fixed32(u32),
}

/// The deepest nesting of groups that is skipped; prost's own limit.
const GROUP_DEPTH: u8 = 100;

/// Reads the fields of a message one after the other.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// At the first field of a message.
    pub const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field; `None` at the end. After an error the rest means nothing.
    #[expect(
        clippy::should_implement_trait,
        reason = "a field may be malformed, and then no other follows"
    )]
    pub fn next(&mut self) -> Result<Option<Field<'a>>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let Raw { number, wire, bytes } = self.raw()?;
        let value = match wire {
            wire_type::VARINT => Value::Varint(number_of(bytes)),
            wire_type::FIXED64 => Value::Fixed64,
            wire_type::BYTES => Value::Bytes(bytes),
            wire_type::FIXED32 => Value::Fixed32(fixed32(bytes)),
            _ => Value::Group,
        };
        Ok(Some(Field { number, value }))
    }

    /// The next field as it is written; there has to be one.
    pub(super) fn raw(&mut self) -> Result<Raw<'a>, Malformed> {
        let (number, wire) = self.key()?;
        let bytes = match wire {
            wire_type::START_GROUP => self.skip_group().map(|()| &[][..])?,
            _ => self.scalar(wire)?,
        };
        Ok(Raw { number, wire, bytes })
    }

    /// The bytes of a value that is no group.
    fn scalar(&mut self, wire: u8) -> Result<&'a [u8], Malformed> {
        let len = match wire {
            wire_type::VARINT => return self.varint_bytes(),
            wire_type::FIXED64 => 8,
            wire_type::FIXED32 => 4,
            wire_type::BYTES => usize::try_from(self.varint()?).map_err(|_| Malformed)?,
            _ => return Err(Malformed),
        };
        self.take(len)
    }

    fn key(&mut self) -> Result<(u32, u8), Malformed> {
        let key = u32::try_from(self.varint()?).map_err(|_| Malformed)?;
        match key >> 3 {
            0 => Err(Malformed),
            number => Ok((number, (key & 7) as u8)),
        }
    }

    /// Skips to the end of a group whose start was read. A loop with a counter, not recursion: the
    /// peer chooses the depth. That the numbers of start and end agree is not checked.
    fn skip_group(&mut self) -> Result<(), Malformed> {
        let mut depth = 1;
        while depth > 0 {
            match self.key()?.1 {
                wire_type::START_GROUP if depth < GROUP_DEPTH => depth += 1,
                wire_type::END_GROUP => depth -= 1,
                wire => {
                    self.scalar(wire)?;
                }
            }
        }
        Ok(())
    }

    /// At most 10 bytes, of which the last may only hold the 64th bit.
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        self.varint_bytes().map(number_of)
    }

    fn varint_bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let last = self.rest.iter().take(10).position(|byte| *byte < 0x80).ok_or(Malformed)?;
        match self.rest.get(last) {
            Some(2..) if last == 9 => Err(Malformed),
            _ => self.take(last + 1),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// What was not read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether all was read.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// A field as it is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'a> {
    /// From 1.
    pub(super) number: u32,
    pub(super) wire: u8,
    /// Its value, behind its length if it has one; nothing of a group.
    pub(super) bytes: &'a [u8],
}

/// Appends `value`; `None` if there is no room for it.
pub(crate) fn push_varint<const N: usize>(out: &mut Vec<u8, N>, mut value: u32) -> Option<()> {
    while value >= 0x80 {
        out.push(value as u8 | 0x80).ok()?;
        value >>= 7;
    }
    out.push(value as u8).ok()
}

/// The number that a whole varint is.
fn number_of(varint: &[u8]) -> u64 {
    varint.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7F))
}

/// The low half of it, as protobuf cuts longer ones.
pub(super) fn low32(varint: &[u8]) -> u32 {
    varint.iter().rev().fold(0, |value, byte| value << 7 | u32::from(byte & 0x7F))
}

/// A fixed32 value; 0 if there are not four bytes.
pub(super) fn fixed32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |four| u32::from_le_bytes(*four))
}

/// How a field's value is written.
pub(super) mod wire_type {
    pub(in crate::peek) const VARINT: u8 = 0;
    pub(in crate::peek) const FIXED64: u8 = 1;
    pub(in crate::peek) const BYTES: u8 = 2;
    pub(in crate::peek) const START_GROUP: u8 = 3;
    pub(in crate::peek) const END_GROUP: u8 = 4;
    pub(in crate::peek) const FIXED32: u8 = 5;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(message: &[u8]) -> Result<Value<'_>, Malformed> {
        Fields::new(message).next().map(|field| field.expect("one field").value)
    }

    #[test]
    fn values_by_wire_type() {
        assert_eq!(only(b"\x08\x96\x01"), Ok(Value::Varint(150)));
        assert_eq!(only(b"\x0A\x02hi"), Ok(Value::Bytes(b"hi")));
        assert_eq!(only(b"\x0D\x01\x02\x03\x04"), Ok(Value::Fixed32(0x0403_0201)));
        assert_eq!(only(b"\x09\x01\x02\x03\x04\x05\x06\x07\x08"), Ok(Value::Fixed64));
        assert_eq!(only(b"\x0B\x08\x01\x13\x14\x0C"), Ok(Value::Group));
    }

    #[test]
    fn malformed() {
        for message in [
            &b"\x00\x00"[..],                                // field number 0
            b"\x0E",                                         // wire type 6
            b"\x08",                                         // value missing
            b"\x0A\x03hi",                                   // length past the end
            b"\x0D\x01\x02\x03",                             // fixed32 cut
            b"\x0B\x08\x01",                                 // open group
            b"\x0C",                                         // lone end of group
            b"\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x02", // over 64 bits
            b"\x88\x80\x80\x80\x80\x01\x00",                 // key over 32 bits
        ] {
            assert_eq!(only(message), Err(Malformed), "{message:02x?}");
        }
        assert_eq!(only(&[0x0B; 300]), Err(Malformed), "groups without end");
    }

    #[test]
    fn the_largest_varint() {
        let all = b"\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01";
        assert_eq!(only(all), Ok(Value::Varint(u64::MAX)));
    }
}
