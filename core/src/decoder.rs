//! The stream machine: bytes in, frames and noise out, in order, each byte in exactly one of them.
//!
//! A frame that lies whole in the given slice is borrowed from it; only a frame that is cut by the
//! end of a slice is gathered in the decoder's own 516 bytes. A header is believed until its length
//! is met, for the magic may occur inside a payload. A payload that proves bad is given back with
//! [`Decoder::reject`], and every byte of it is looked at again: a header with a plausible length
//! and no body behind it cannot swallow the true frames that follow.

use crate::frame::{FrameLen, HEADER_LEN, MAGIC, MAX_FRAME};

/// What [`Decoder::decode`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// The payload of a frame, 0 to 512 bytes.
    Frame(&'a [u8]),
    /// Bytes that belong to no frame: log text, line noise, the rests of torn frames.
    Noise(&'a [u8]),
}

/// The answer to one [`Decoder::decode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// How many bytes of the slice were taken; offer the rest again.
    pub taken: usize,
    /// What they completed, if anything.
    pub item: Option<Item<'a>>,
}

/// Finds frames in a stream of bytes, in 516 bytes of memory and a few words; no allocation.
///
/// Work is bounded: of a clean stream only the headers are looked at, of noise each byte once.
/// Behind a rejected frame its bytes are looked at again, and a byte lies in at most 172 frames that
/// are rejected one after the other: they begin at least 3 bytes apart and have at most 516.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Bytes of a frame, or of what looks like one, that the end of a slice cut.
    buf: [u8; MAX_FRAME],
    /// `buf[start..end]` is held; `start <= end <= MAX_FRAME`.
    start: usize,
    end: usize,
    /// What is held is the beginning of a frame until so many bytes are held; 0 if it has to be
    /// looked at.
    want: usize,
    /// The next byte, held or to come, is known not to start a frame.
    refuted: bool,
    /// Where the frame handed out last lies, for `reject`.
    last: Last,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    None,
    /// This frame of the caller's slice.
    Given(FrameLen),
    /// This frame before `start`.
    Held(FrameLen),
}

/// Where an item lies: in the caller's slice, or held in `buf`. Not a slice, so that a caller may
/// reject it and go on within one borrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    held: bool,
    start: usize,
    end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) taken: usize,
    pub(crate) found: Option<(Kind, Place)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Frame,
    Noise,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder that waits for the first byte.
    #[inline(always)]
    pub const fn new() -> Self {
        Self { buf: [0; MAX_FRAME], start: 0, end: 0, want: 0, refuted: false, last: Last::None }
    }

    /// Takes bytes until an item is complete or the slice is used up. Call it again with the rest
    /// until `taken` is all and there is no item; an empty slice asks for what is already held.
    #[inline]
    pub fn decode<'a>(&'a mut self, input: &'a [u8]) -> Decoded<'a> {
        if let Some(len) = self.whole_given(input) {
            let payload = input.get(HEADER_LEN..len.frame()).unwrap_or(&[]);
            return Decoded { taken: len.frame(), item: Some(Item::Frame(payload)) };
        }
        let Step { taken, found } = self.search(input);
        let item = found.map(|(kind, place)| match kind {
            Kind::Frame => Item::Frame(self.slice(input, place)),
            Kind::Noise => Item::Noise(self.slice(input, place)),
        });
        Decoded { taken, item }
    }

    /// Says that the payload of the frame handed out last is none: it comes out again as noise and
    /// whatever frames lie in it. Returns how many bytes of the caller's slice, counted back from
    /// what was taken, are to be offered again. Bytes of earlier slices are held here.
    ///
    /// Without a frame since the last call this does nothing and returns 0.
    pub fn reject(&mut self) -> usize {
        match core::mem::replace(&mut self.last, Last::None) {
            Last::None => 0,
            Last::Given(len) => {
                self.refuted = true;
                len.frame()
            }
            Last::Held(len) => {
                self.start = self.start.saturating_sub(len.frame());
                (self.want, self.refuted) = (0, true);
                0
            }
        }
    }

    /// Stops waiting for the rest of a frame that the end of the stream, or a silence on a serial
    /// line, has cut: what is held is looked at again. Call [`Decoder::decode`] afterwards, an
    /// empty slice will do. Never for TCP while it is open: a retransmission may pause in
    /// mid-frame.
    pub fn give_up(&mut self) {
        self.last = Last::None;
        self.want = 0;
        self.refuted |= self.start < self.end;
    }

    /// Forgets everything: the next byte is the first of a new stream.
    pub fn clear(&mut self) {
        (self.start, self.end, self.want) = (0, 0, 0);
        (self.refuted, self.last) = (false, Last::None);
    }

    /// How many bytes of an unfinished frame are held.
    pub fn held(&self) -> usize {
        self.end - self.start
    }

    /// The bytes of an item that the last step found in `input`.
    pub(crate) fn slice<'a>(&'a self, input: &'a [u8], place: Place) -> &'a [u8] {
        let bytes = if place.held { &self.buf } else { input };
        bytes.get(place.start..place.end).unwrap_or(&[])
    }

    /// [`Decoder::decode`] without its borrow.
    pub(crate) fn step(&mut self, input: &[u8]) -> Step {
        match self.whole_given(input) {
            Some(len) => {
                let place = Place { held: false, start: HEADER_LEN, end: len.frame() };
                Step { taken: len.frame(), found: Some((Kind::Frame, place)) }
            }
            None => self.search(input),
        }
    }

    /// The whole frame at the start of `input`, if nothing stands before it: the way of nearly all
    /// frames.
    #[inline]
    fn whole_given(&mut self, input: &[u8]) -> Option<FrameLen> {
        self.last = Last::None;
        if self.start < self.end || self.refuted {
            return None;
        }
        let len = whole_frame(input)?;
        touch_ahead(input);
        self.last = Last::Given(len);
        Some(len)
    }

    /// A step that does not begin with a whole frame in the caller's slice.
    #[inline(never)]
    fn search(&mut self, input: &[u8]) -> Step {
        if input.is_empty() && self.start == self.end {
            return Step { taken: 0, found: None };
        }
        let mut taken = 0;
        while self.start < self.end {
            let rest = input.get(taken..).unwrap_or(&[]);
            let more = rest.get(..rest.len().min(self.want.saturating_sub(self.held())));
            let more = more.unwrap_or(&[]);
            self.hold(more);
            taken += more.len();
            if self.held() < self.want {
                return Step { taken, found: None };
            }
            let held = self.buf.get(self.start..self.end).unwrap_or(&[]);
            let noise = self.noise_before_frame(held);
            if noise > 0 {
                (self.want, self.refuted) = (0, false);
                let place = self.release(noise, 0);
                // If all that is left lies in this slice it is looked at there.
                if self.held() <= taken {
                    taken -= self.held();
                    self.end = self.start;
                }
                return Step { taken, found: Some((Kind::Noise, place)) };
            }
            let len = frame_len(held);
            if let Some(len) = len
                && held.len() >= len.frame()
            {
                self.want = 0;
                self.last = Last::Held(len);
                let place = self.release(len.frame(), HEADER_LEN);
                return Step { taken, found: Some((Kind::Frame, place)) };
            }
            self.want = len.map_or(held.len() + 1, FrameLen::frame);
        }
        self.search_given(input, taken)
    }

    /// Nothing is held: look at the caller's own bytes from `at` on.
    fn search_given(&mut self, input: &[u8], at: usize) -> Step {
        let rest = input.get(at..).unwrap_or(&[]);
        let noise = self.noise_before_frame(rest);
        if noise > 0 {
            self.refuted = false;
            let place = Place { held: false, start: at, end: at + noise };
            return Step { taken: place.end, found: Some((Kind::Noise, place)) };
        }
        if let Some(len) = whole_frame(rest) {
            self.last = Last::Given(len);
            let place = Place { held: false, start: at + HEADER_LEN, end: at + len.frame() };
            return Step { taken: place.end, found: Some((Kind::Frame, place)) };
        }
        // Cut by the end of the slice, so shorter than a frame.
        self.want = 0;
        self.hold(rest);
        Step { taken: input.len(), found: None }
    }

    /// Lets go of the first `len` bytes held. They stay where they are until the next step, and
    /// what follows `skip` bytes of them is the item.
    fn release(&mut self, len: usize, skip: usize) -> Place {
        let start = self.start + skip;
        self.start += len;
        Place { held: true, start, end: self.start }
    }

    /// Appends to what is held; the caller has checked that held and `bytes` fit together.
    fn hold(&mut self, bytes: &[u8]) {
        if self.end + bytes.len() > MAX_FRAME || self.start == self.end {
            self.move_to_front();
        }
        if let Some(room) = self.buf.get_mut(self.end..self.end + bytes.len()) {
            room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            self.end += bytes.len();
        }
    }

    /// On small machines byte by byte: nothing else needs `memmove`, which takes 1.3 KB there.
    fn move_to_front(&mut self) {
        let (start, end) = (self.start, self.end.min(MAX_FRAME));
        if cfg!(target_pointer_width = "64") {
            self.buf.copy_within(start..end, 0);
        } else {
            for (to, from) in (start..end).enumerate() {
                let byte = self.buf.get(from).copied().unwrap_or_default();
                if let Some(to) = self.buf.get_mut(to) {
                    *to = byte;
                }
            }
        }
        (self.start, self.end) = (0, end - start);
    }

    /// How many of `bytes` come before the first that may start a frame.
    fn noise_before_frame(&self, bytes: &[u8]) -> usize {
        let mut at = usize::from(self.refuted && !bytes.is_empty());
        loop {
            at += find_magic(bytes.get(at..).unwrap_or(&[]));
            let rest = bytes.get(at..).unwrap_or(&[]);
            if rest.is_empty() || may_start_frame(rest) {
                return at;
            }
            at += 1;
        }
    }
}

/// How many of `bytes` come before the first `94`. In blocks, which compilers make vectors of.
fn find_magic(bytes: &[u8]) -> usize {
    const BLOCK: usize = 32;
    let is_magic = |byte: &u8| *byte == MAGIC[0];
    let without = |block: &&[u8]| !block.iter().fold(false, |found, byte| found | is_magic(byte));
    let skip = BLOCK * bytes.chunks_exact(BLOCK).take_while(without).count();
    let rest = bytes.get(skip..).unwrap_or(&[]);
    skip + rest.iter().position(is_magic).unwrap_or(rest.len())
}

/// The frame at the start of `bytes` if there is one and it is whole.
#[inline]
fn whole_frame(bytes: &[u8]) -> Option<FrameLen> {
    let header = u32::from_be_bytes(*bytes.first_chunk()?);
    let len = FrameLen::new(header.wrapping_sub(EMPTY_FRAME) as usize)?;
    (bytes.len() >= len.frame()).then_some(len)
}

/// Has the processor fetch what lies a few frames on. It cannot guess where the next header is, so
/// out of a stream that its nearest cache does not hold it would wait for each.
#[inline]
fn touch_ahead(bytes: &[u8]) {
    const AHEAD: usize = 768;
    if cfg!(target_pointer_width = "64") {
        core::hint::black_box(bytes.get(AHEAD).copied());
    }
}

/// The header of a frame without payload.
const EMPTY_FRAME: u32 = u32::from_be_bytes([MAGIC[0], MAGIC[1], 0, 0]);

/// Whether `bytes`, whose first is `94`, can be the beginning of a frame.
fn may_start_frame(bytes: &[u8]) -> bool {
    match bytes {
        [_] => true,
        [_, second] | [_, second, _] if *second != MAGIC[1] => false,
        // 02 xx may still be 512; more is over it.
        [_, _] => true,
        [_, _, high] => *high <= 0x02,
        [_, second, high, low, ..] => {
            *second == MAGIC[1] && FrameLen::from_header([*high, *low]).is_some()
        }
        [] => false,
    }
}

/// The length in the header at the start of `bytes`, or `None` if it is not whole yet.
fn frame_len(bytes: &[u8]) -> Option<FrameLen> {
    match bytes {
        [_, _, high, low, ..] => FrameLen::from_header([*high, *low]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;
    use crate::rng::Rng;

    /// Everything a decoder makes of `stream` in slices of the given sizes (cycled), rejecting the
    /// payloads that `bad` names.
    fn run(stream: &[u8], sizes: &[usize], bad: impl Fn(&[u8]) -> bool) -> (Vec<Vec<u8>>, Vec<u8>) {
        let mut decoder = Decoder::new();
        let (mut frames, mut noise) = (Vec::new(), Vec::new());
        let mut size = sizes.iter().cycle();
        let mut rest = stream;
        while !rest.is_empty() {
            let (slice, next) = rest.split_at(rest.len().min(*size.next().unwrap()));
            rest = next;
            drain(&mut decoder, slice, &bad, &mut frames, &mut noise);
        }
        while decoder.held() > 0 {
            decoder.give_up();
            drain(&mut decoder, &[], &bad, &mut frames, &mut noise);
        }
        (frames, noise)
    }

    fn drain(
        decoder: &mut Decoder,
        slice: &[u8],
        bad: &impl Fn(&[u8]) -> bool,
        frames: &mut Vec<Vec<u8>>,
        noise: &mut Vec<u8>,
    ) {
        let mut at = 0;
        loop {
            let decoded = decoder.decode(&slice[at..]);
            at += decoded.taken;
            match decoded.item {
                Some(Item::Frame(payload)) if bad(payload) => at -= decoder.reject(),
                Some(Item::Frame(payload)) => frames.push(payload.to_vec()),
                Some(Item::Noise(bytes)) => noise.extend_from_slice(bytes),
                None if at == slice.len() => return,
                None => {}
            }
        }
    }

    fn all_good(_: &[u8]) -> bool {
        false
    }

    fn framed(payload: &[u8]) -> Vec<u8> {
        let mut out = [0; MAX_FRAME];
        crate::frame::encode(payload, &mut out).unwrap().to_vec()
    }

    /// All ways to cut a short stream in two and in three.
    fn every_split(stream: &[u8], check: impl Fn(&[usize])) {
        for a in 1..=stream.len() {
            for b in 1..=stream.len() - a + 1 {
                check(&[a, b, stream.len()]);
            }
        }
    }

    #[test]
    fn the_byte_that_broke_the_match_is_looked_at_again() {
        for stream in [
            &b"\x94\x94\xC3\x00\x00"[..],
            b"\x94\xC3\x94\xC3\x00\x00",
            b"\x94\xC3\xFF\x94\xC3\x00\x00",
            b"\x94\xC3\x02\x01\x94\xC3\x00\x00",
            b"\x94\xC3\x02\x94\xC3\x00\x00",
        ] {
            every_split(stream, |sizes| {
                let (frames, noise) = run(stream, sizes, all_good);
                assert_eq!(frames, [b""], "{stream:02x?} in {sizes:?}");
                assert_eq!(noise, &stream[..stream.len() - 4], "{stream:02x?} in {sizes:?}");
            });
        }
    }

    #[test]
    fn the_magic_inside_a_payload_is_payload() {
        let stream = framed(b"\x94\xC3\x00\x01\x94");
        every_split(&stream, |sizes| {
            assert_eq!(
                run(&stream, sizes, all_good),
                (std::vec![stream[4..].to_vec()], Vec::new())
            );
        });
    }

    #[test]
    fn the_longest_frame_comes_out_of_any_split() {
        let stream: Vec<u8> = [framed(&[0x94; 512]), framed(&[7; 512])].concat();
        for size in 1..=600 {
            let (frames, noise) = run(&stream, &[size], all_good);
            assert_eq!((frames.len(), noise.len()), (2, 0), "size {size}");
        }
    }

    #[test]
    fn text_between_frames_is_noise_in_order() {
        let stream =
            [b"boot\r\n".to_vec(), framed(b"a"), b"INFO\n".to_vec(), framed(b"b")].concat();
        every_split(&stream, |sizes| {
            let (frames, noise) = run(&stream, sizes, all_good);
            assert_eq!((frames.concat(), noise), (b"ab".to_vec(), b"boot\r\nINFO\n".to_vec()));
        });
    }

    #[test]
    fn a_lie_about_the_length_gives_back_the_frames_it_swallowed() {
        // A header that claims 20 bytes, then two true frames that lie in its false body.
        let stream =
            [b"\x94\xC3\x00\x14".to_vec(), framed(b"good"), framed(b"fine"), b"tailtail".to_vec()]
                .concat();
        let bad = |payload: &[u8]| payload != b"good" && payload != b"fine";
        every_split(&stream, |sizes| {
            let (frames, noise) = run(&stream, sizes, bad);
            assert_eq!(frames, [b"good", b"fine"], "{sizes:?}");
            assert_eq!(noise, b"\x94\xC3\x00\x14tailtail", "{sizes:?}");
        });
    }

    #[test]
    fn a_torn_end_is_given_up_and_searched() {
        let stream = [b"\x94\xC3\x01\x00".to_vec(), framed(b"inside")].concat();
        let (frames, noise) = run(&stream, &[3], all_good);
        assert_eq!(frames, [b"inside"]);
        assert_eq!(noise, b"\x94\xC3\x01\x00");
    }

    #[test]
    fn clear_forgets_half_a_frame() {
        let mut decoder = Decoder::new();
        decoder.decode(b"\x94\xC3\x00\x05ab");
        assert_eq!(decoder.held(), 6);
        decoder.clear();
        let frame = framed(b"x");
        assert_eq!(decoder.decode(&frame).item, Some(Item::Frame(b"x")));
    }

    #[test]
    fn reject_without_a_frame_does_nothing() {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.reject(), 0);
        decoder.decode(b"text");
        assert_eq!(decoder.reject(), 0);
    }

    /// On any bytes, in any slices, with any rejections: frames and noise together are the stream.
    #[test]
    fn no_byte_is_lost_or_made_up() {
        for seed in 0..3000 {
            let mut rng = Rng::new(seed);
            let mut stream = Vec::new();
            while stream.len() < 1500 {
                match rng.below(6) {
                    0 => stream.push(0x94),
                    1 => stream.extend([0x94, 0xC3, rng.below(4) as u8, rng.next_u32() as u8]),
                    2 => stream.extend((0..rng.below(20)).map(|_| rng.next_u32() as u8)),
                    _ => {
                        let len = rng.below(40) as usize;
                        stream.extend(framed(&std::vec![seed as u8; len]));
                    }
                }
            }
            let sizes: Vec<usize> = (0..7).map(|_| 1 + rng.below(700) as usize).collect();
            let salt = rng.next_u32() as u8;
            let bad = |p: &[u8]| p.iter().fold(salt, |a, b| a.wrapping_mul(31) ^ b) & 3 == 0;
            let (frames, noise) = run(&stream, &sizes, bad);
            let (frames_1, noise_1) = run(&stream, &[1], bad);
            assert_eq!((&frames, &noise), (&frames_1, &noise_1), "seed {seed}: split matters");
            let total: usize = frames.iter().map(|f| f.len() + 4).sum::<usize>() + noise.len();
            assert_eq!(total, stream.len(), "seed {seed}");
        }
    }
}
