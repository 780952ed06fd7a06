//! The transmit buffer: one frame on its way to the transport, however few bytes each write takes.
//!
//! One frame, not a queue: what goes next is decided when the one before is out, so that nothing
//! old stands between a heartbeat and the wire. A frame that is half written when the connection
//! ends is dropped whole; half a frame never opens a new connection.

use crate::frame::{self, MAX_FRAME, MAX_PAYLOAD};

/// Why a frame was not taken. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum PushError {
    /// The frame before is not out yet.
    Busy,
    /// The payload has this many bytes; a frame takes 512.
    TooLong(usize),
}

/// Bytes of one frame that the transport has not taken yet.
#[derive(Debug, Clone)]
pub struct Tx {
    buf: [u8; MAX_FRAME],
    /// `buf[sent..len]` is pending; `sent <= len <= MAX_FRAME`, both 0 when nothing is.
    len: usize,
    sent: usize,
}

impl Default for Tx {
    fn default() -> Self {
        Self::new()
    }
}

impl Tx {
    /// An empty buffer.
    #[inline(always)]
    pub const fn new() -> Self {
        Self { buf: [0; MAX_FRAME], len: 0, sent: 0 }
    }

    /// Takes a payload of at most 512 bytes as the next frame.
    pub fn push_frame(&mut self, payload: &[u8]) -> Result<(), PushError> {
        if !self.is_empty() {
            return Err(PushError::Busy);
        }
        let frame =
            frame::encode(payload, &mut self.buf).map_err(|_| PushError::TooLong(payload.len()))?;
        self.len = frame.len();
        Ok(())
    }

    /// Takes the bytes that wake a node's serial port; they are no frame.
    pub fn push_wake(&mut self) -> Result<(), PushError> {
        if !self.is_empty() {
            return Err(PushError::Busy);
        }
        if let Some(room) = self.buf.first_chunk_mut() {
            *room = frame::WAKE;
            self.len = frame::WAKE.len();
        }
        Ok(())
    }

    /// Says that the transport took the first `n` pending bytes. Returns whether these were the
    /// last: the frame counts as sent now and not before. More than is pending counts as all.
    pub fn consume(&mut self, n: usize) -> bool {
        let had = self.len > 0;
        self.sent = self.sent.saturating_add(n).min(self.len);
        if self.sent == self.len {
            self.clear();
        }
        had && self.is_empty()
    }

    /// Drops what is pending: the connection it was meant for is gone.
    pub fn clear(&mut self) {
        (self.len, self.sent) = (0, 0);
    }

    /// What the transport has to take next.
    pub fn pending(&self) -> &[u8] {
        self.buf.get(self.sent..self.len).unwrap_or(&[])
    }

    /// Whether nothing is pending.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether some bytes of the pending frame are out and some are not.
    pub const fn is_half_sent(&self) -> bool {
        self.sent > 0
    }
}

const _: () = assert!(MAX_PAYLOAD >= frame::WAKE.len());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_counts_as_sent_with_its_last_byte() {
        let mut tx = Tx::new();
        tx.push_frame(b"\x3A\x00").unwrap();
        assert_eq!(tx.pending(), b"\x94\xC3\x00\x02\x3A\x00");
        assert!(!tx.consume(5));
        assert!(tx.is_half_sent());
        assert_eq!(tx.pending(), b"\x00");
        assert_eq!(tx.push_frame(b"x"), Err(PushError::Busy));
        assert!(tx.consume(1));
        assert!(tx.is_empty());
        assert!(!tx.consume(1), "nothing was pending");
    }

    #[test]
    fn a_long_payload_is_refused_whole() {
        let mut tx = Tx::new();
        assert_eq!(tx.push_frame(&[0; 513]), Err(PushError::TooLong(513)));
        assert!(tx.is_empty());
        tx.push_frame(&[7; 512]).unwrap();
        assert_eq!(tx.pending().len(), 516);
    }

    #[test]
    fn clear_drops_half_a_frame() {
        let mut tx = Tx::new();
        tx.push_frame(b"abc").unwrap();
        tx.consume(3);
        tx.clear();
        assert_eq!(tx.pending(), b"");
        tx.push_wake().unwrap();
        assert_eq!(tx.pending(), [0xC3; 32]);
    }
}
