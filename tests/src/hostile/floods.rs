//! The inputs that cost a parser most, each without end.

/// An input that repeats itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// One line of text.
    Line,
    /// Nothing but `94`.
    Magic,
    /// Frames without payload.
    EmptyFrames,
    /// Headers that claim the longest payload, back to back.
    LongestClaims,
    /// Headers as close as they can claim anything that fits: each is the length of the one before.
    DensestClaims,
    /// The longest claims as values of fields, so that the payload of each is valid up to its last
    /// field, which the end cuts.
    FieldsCut,
    /// The same in groups, which only the end finds open.
    GroupsOpen,
}

impl Flood {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::Line,
        Self::Magic,
        Self::EmptyFrames,
        Self::LongestClaims,
        Self::DensestClaims,
        Self::FieldsCut,
        Self::GroupsOpen,
    ];

    /// For tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Line => "one line of text",
            Self::Magic => "94 without end",
            Self::EmptyFrames => "empty frames",
            Self::LongestClaims => "94 C3 02 00 without end",
            Self::DensestClaims => "94 C3 01 without end",
            Self::FieldsCut => "claims in fields",
            Self::GroupsOpen => "claims in groups",
        }
    }

    /// What is repeated.
    const fn pattern(self) -> &'static [u8] {
        match self {
            Self::Line => b"INFO ",
            Self::Magic => b"\x94",
            Self::EmptyFrames => b"\x94\xC3\x00\x00",
            Self::LongestClaims => b"\x94\xC3\x02\x00",
            Self::DensestClaims => b"\x94\xC3\x01",
            // Field 20, four bytes: unknown, and so accepted in any message.
            Self::FieldsCut => b"\xA5\x01\x94\xC3\x02\x00",
            // The start of group 20, and in it field 1, four bytes.
            Self::GroupsOpen => b"\xA3\x01\x0D\x94\xC3\x02\x00",
        }
    }

    /// The first `len` bytes.
    pub fn bytes(self, len: usize) -> Vec<u8> {
        self.pattern().iter().copied().cycle().take(len).collect()
    }
}
