//! The number of a node as a person writes it, and where a packet goes.

use core::fmt;
use core::str::FromStr;

/// The node number that means everybody.
pub const BROADCAST: u32 = u32::MAX;

/// Where a packet goes: `!89abcdef`, a decimal node number, or `^all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dest(
    /// The node's number, [`BROADCAST`] for all; what was parsed is never 0.
    pub u32,
);

/// Why a text is no destination: one line that says what would be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DestError;

impl fmt::Display for DestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write !89abcdef (8 hexadecimal digits), a node number, or ^all")
    }
}

impl core::error::Error for DestError {}

impl FromStr for Dest {
    type Err = DestError;

    fn from_str(text: &str) -> Result<Self, DestError> {
        let number = match text.strip_prefix('!') {
            _ if text == "^all" => BROADCAST,
            Some(hex) if hex.len() == 8 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
                u32::from_str_radix(hex, 16).map_err(|_| DestError)?
            }
            None if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().map_err(|_| DestError)?
            }
            _ => return Err(DestError),
        };
        if number == 0 { Err(DestError) } else { Ok(Self(number)) }
    }
}

impl fmt::Display for Dest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            BROADCAST => f.write_str("^all"),
            number => f.write_str(&node_id(number)),
        }
    }
}

/// The id of a node: `!89abcdef`.
pub fn node_id(number: u32) -> String {
    format!("!{number:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_destination() {
        for (text, number, shown) in [
            ("!89abcdef", 0x89ab_cdef, "!89abcdef"),
            ("!89ABCDEF", 0x89ab_cdef, "!89abcdef"),
            ("!0000002a", 42, "!0000002a"),
            ("42", 42, "!0000002a"),
            ("2309737967", 0x89ab_cdef, "!89abcdef"),
            ("^all", BROADCAST, "^all"),
            ("!ffffffff", BROADCAST, "^all"),
        ] {
            let dest: Dest = text.parse().expect(text);
            assert_eq!((dest.0, dest.to_string().as_str()), (number, shown));
        }
    }

    #[test]
    fn a_wrong_destination_is_refused() {
        for text in [
            "",
            "!",
            "!89abcde",
            "!89abcdef0",
            "!89abcdeg",
            "!+9abcdef",
            "89abcdef",
            "0x2a",
            "-1",
            "+1",
            "0",
            "!00000000",
            "4294967296",
            "^local",
            "all",
            "!89ab cdef",
        ] {
            assert!(text.parse::<Dest>().is_err(), "{text:?}");
        }
    }
}
