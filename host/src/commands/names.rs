//! How nodes, channels and values are called, and how a person writes a destination.

use core::fmt;
use core::str::FromStr;

use meshbeat_proto::{Channel, text};

/// The node number that means everybody.
pub(super) const BROADCAST: u32 = u32::MAX;

/// Where a packet goes: `!89abcdef`, a decimal node number, or `^all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dest(pub(super) u32);

impl FromStr for Dest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RIGHT: &str = "write !89abcdef (8 hexadecimal digits), a node number, or ^all";
        let number = match text.strip_prefix('!') {
            _ if text == "^all" => BROADCAST,
            Some(hex) if hex.len() == 8 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
                u32::from_str_radix(hex, 16).map_err(|_| RIGHT)?
            }
            None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().map_err(|_| RIGHT)?,
            _ => return Err(RIGHT),
        };
        if number == 0 { Err(RIGHT) } else { Ok(Self(number)) }
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
pub(super) fn node_id(number: u32) -> String {
    format!("!{number:08x}")
}

/// The channel's name; the primary one may go by the preset's.
pub(super) fn channel_name(channel: &Channel) -> String {
    let name = channel.settings.as_ref().map(|settings| text(&settings.name).into_owned());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into())
}

/// The official name of an enum value, or its number when it is newer than we are.
pub(super) fn enum_name<E: TryFrom<i32>>(value: i32, name: impl Fn(&E) -> &'static str) -> String {
    E::try_from(value).map_or_else(|_| value.to_string(), |known| name(&known).into())
}

/// What a stranger on the mesh wrote cannot steer a terminal or turn the line around.
pub(super) fn printable(text: &str) -> String {
    let steers =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if steers(c) { '\u{FFFD}' } else { c }).collect()
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

    #[test]
    fn strangers_cannot_steer_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\nc\u{202E}d"), "a\u{FFFD}[2Jb\u{FFFD}\u{FFFD}c\u{FFFD}d");
        assert_eq!(printable("Café 👩‍🚒 ☀"), "Café 👩‍🚒 ☀");
    }
}
