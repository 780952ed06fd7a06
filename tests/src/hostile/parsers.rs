//! Ways to find the frames of a stream: ours, the firmware's, and two that see all of it at once.

use core::ops::Range;

use meshbeat_core::decoder::{Decoder, Item};
use meshbeat_core::frame::{FrameLen, HEADER_LEN, MAGIC, MAX_FRAME};
use meshbeat_core::peek::FromRadio;

use super::valid_frame;

/// A frame that came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it lies in the stream, header included.
    pub frame: Range<usize>,
    /// How many bytes had been offered when it came out.
    pub offered: usize,
}

/// What a decoder was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Calls of [`Decoder::decode`].
    pub decoded: usize,
    /// Payloads that were looked into and rejected.
    pub rejected: usize,
    /// Bytes of all frames that were rejected.
    pub rejected_bytes: usize,
    /// Most bytes held at a time.
    pub held: usize,
}

/// Our decoder, with every payload validated, on slices of this size.
pub fn ours(stream: &[u8], slice: usize) -> (Vec<Found>, Work) {
    let mut parser = Ours { decoder: Decoder::new(), found: Vec::new(), work: Work::default() };
    let (mut at, mut offered) = (0, 0);
    for slice in stream.chunks(slice) {
        offered += slice.len();
        parser.offer(slice, &mut at, offered);
    }
    // Nothing will complete what is held.
    while parser.decoder.held() > 0 {
        parser.decoder.give_up();
        parser.offer(&[], &mut at, offered);
    }
    (parser.found, parser.work)
}

struct Ours {
    decoder: Decoder,
    found: Vec<Found>,
    work: Work,
}

impl Ours {
    /// `at` is where the next item begins in the stream.
    fn offer(&mut self, slice: &[u8], at: &mut usize, offered: usize) {
        let mut taken = 0;
        loop {
            self.work.decoded += 1;
            let decoded = self.decoder.decode(&slice[taken..]);
            taken += decoded.taken;
            match decoded.item {
                Some(Item::Frame(payload)) => {
                    let len = HEADER_LEN + payload.len();
                    if FromRadio::peek(payload).is_some() {
                        self.found.push(Found { frame: *at..*at + len, offered });
                        *at += len;
                    } else {
                        self.work.rejected += 1;
                        self.work.rejected_bytes += len;
                        taken -= self.decoder.reject();
                    }
                }
                Some(Item::Noise(noise)) => *at += noise.len(),
                None if taken == slice.len() => break,
                None => {}
            }
        }
        self.work.held = self.work.held.max(self.decoder.held());
    }
}

/// The frames that a parser like the firmware's finds.
pub fn plain(stream: &[u8]) -> Vec<Range<usize>> {
    let mut machine = Plain::new();
    let frame = |(at, byte): (usize, &u8)| {
        let len = HEADER_LEN + machine.take(*byte)?.len();
        Some(at + 1 - len..at + 1)
    };
    stream.iter().enumerate().filter_map(frame).collect()
}

/// A parser that works as the firmware's does: byte for byte; it trusts any length that fits, looks
/// into no payload, and after a byte that breaks the match starts anew without looking at that byte
/// again.
#[derive(Debug, Clone)]
pub struct Plain {
    buf: [u8; MAX_FRAME],
    len: usize,
}

impl Default for Plain {
    fn default() -> Self {
        Self::new()
    }
}

impl Plain {
    /// At the first byte.
    pub const fn new() -> Self {
        Self { buf: [0; MAX_FRAME], len: 0 }
    }

    /// Takes a byte; returns the payload that it completes.
    #[inline]
    pub fn take(&mut self, byte: u8) -> Option<&[u8]> {
        let at = self.len;
        self.buf[at] = byte;
        self.len += 1;
        if at < MAGIC.len() {
            if byte != MAGIC[at] {
                self.len = 0;
            }
            return None;
        }
        if at < HEADER_LEN - 1 {
            return None;
        }
        let Some(len) = FrameLen::from_header([self.buf[2], self.buf[3]]) else {
            self.len = 0;
            return None;
        };
        if self.len < len.frame() {
            return None;
        }
        self.len = 0;
        Some(&self.buf[HEADER_LEN..len.frame()])
    }
}

/// Looks for a valid frame at each place from the left, and goes on behind it.
pub fn search(stream: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < stream.len() {
        match valid_frame(stream, at) {
            Some(frame) => {
                at = frame.end;
                found.push(frame);
            }
            None => at += 1,
        }
    }
    found
}

/// Everything in the stream that is a valid frame by itself, whatever else it overlaps: nobody
/// finds more, and who takes all of them takes false ones too.
pub fn everything(stream: &[u8]) -> Vec<Range<usize>> {
    (0..stream.len()).filter_map(|at| valid_frame(stream, at)).collect()
}
