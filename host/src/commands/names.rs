//! How channels and values are called.

use meshbeat_proto::{Channel, text};

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
    fn strangers_cannot_steer_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\nc\u{202E}d"), "a\u{FFFD}[2Jb\u{FFFD}\u{FFFD}c\u{FFFD}d");
        assert_eq!(printable("Café 👩‍🚒 ☀"), "Café 👩‍🚒 ☀");
    }
}
