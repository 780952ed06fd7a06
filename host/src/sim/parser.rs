//! The firmware's own input parser, with its flaw.
//!
//! After a wrong second byte it starts over without looking at that byte again, so it loses the
//! frame in `94 94 C3 …` (`StreamAPI::readStream`). Whoever sends to a real node must never let a
//! lone `94` stand before a frame, and this parser shows when it does. It holds one payload of at
//! most 512 bytes, whatever comes in.

use meshbeat_core::frame::{FrameLen, HEADER_LEN, MAGIC};

/// Bytes from a client in, payloads of frames out.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// The frame so far: its header and what has come of its payload; never over 516 bytes.
    frame: Vec<u8>,
}

impl Parser {
    /// Takes one byte; returns the payload if it was the last byte of a frame.
    pub(super) fn push(&mut self, byte: u8) -> Option<Vec<u8>> {
        let at = self.frame.len();
        if at < MAGIC.len() && byte != MAGIC[at] {
            self.frame.clear();
            return None;
        }
        self.frame.push(byte);
        let header = self.frame.get(..HEADER_LEN)?;
        let Some(len) = FrameLen::from_header([header[2], header[3]]) else {
            self.frame.clear();
            return None;
        };
        if self.frame.len() < len.frame() {
            return None;
        }
        let payload = self.frame.split_off(HEADER_LEN);
        self.frame.clear();
        Some(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payloads(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut parser = Parser::default();
        bytes.iter().filter_map(|&byte| parser.push(byte)).collect()
    }

    #[test]
    fn finds_frames_behind_wake_bytes() {
        let mut bytes = vec![0xC3; 32];
        bytes.extend([0x94, 0xC3, 0, 2, 0x3A, 0, 0x94, 0xC3, 0, 0, 0x94, 0xC3, 0, 1, 7]);
        assert_eq!(payloads(&bytes), [vec![0x3A, 0], vec![], vec![7]]);
    }

    #[test]
    fn loses_the_frame_after_a_lone_first_byte() {
        let bytes = [0x94, 0x94, 0xC3, 0, 1, 7, 0x94, 0xC3, 0, 1, 8];
        assert_eq!(payloads(&bytes), [vec![8]]);
    }

    #[test]
    fn a_length_over_512_is_no_frame() {
        let bytes = [0x94, 0xC3, 2, 1, 7, 0x94, 0xC3, 0, 1, 8];
        assert_eq!(payloads(&bytes), [vec![8]]);
    }

    #[test]
    fn takes_512_bytes() {
        let mut bytes = vec![0x94, 0xC3, 2, 0];
        bytes.extend([0x94; 512]);
        assert_eq!(payloads(&bytes), [vec![0x94; 512]]);
    }
}
