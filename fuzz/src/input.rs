//! Choices read from a fuzzer's bytes. An input that has ended goes on as zeros, so that every
//! input means something and a shorter one means less.

/// The bytes that are left.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// All of `data` is left.
    pub const fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.number::<1>() as u8
    }

    /// The next `N` bytes, at most 8, as a number, the highest first.
    pub fn number<const N: usize>(&mut self) -> u64 {
        let bytes = self.bytes(N);
        (0..N).fold(0, |value, at| value << 8 | u64::from(*bytes.get(at).unwrap_or(&0)))
    }

    /// The next `len` bytes, fewer at the end.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}
