//! Streams of frames that a bad line, a dying writer or an ill-willed peer has disturbed, and the
//! truth about them: which frames are whole, and what else can be taken for one.
//!
//! Knows no crate but the core, so that the core's own benches can use it.

pub mod floods;
pub mod parsers;
pub mod payloads;

use core::ops::Range;

use meshbeat_core::frame::{self, FrameLen, HEADER_LEN, MAGIC, MAX_FRAME, MAX_PAYLOAD};
use meshbeat_core::peek::FromRadio;
use meshbeat_core::rng::Rng;

use payloads::Payloads;

/// What stands between the frames of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// Nothing.
    None,
    /// Log text, of which not all is UTF-8; it may end in the middle of a character.
    Text,
    /// Random bytes.
    Noise,
    /// `94`, once or more often.
    StrayMagic,
    /// Headers with a length over 512.
    TooLong,
    /// The first one to three bytes of a header.
    CutHeader,
    /// Frames of which the end is missing, or comes behind the next frame.
    Torn,
    /// Headers with a plausible length and no body.
    Bogus,
    /// All of these, up to three in a row.
    Mixed,
}

impl Disturbance {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::None,
        Self::Text,
        Self::Noise,
        Self::StrayMagic,
        Self::TooLong,
        Self::CutHeader,
        Self::Torn,
        Self::Bogus,
        Self::Mixed,
    ];

    /// For tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Text => "log text",
            Self::Noise => "random bytes",
            Self::StrayMagic => "stray 94",
            Self::TooLong => "length over 512",
            Self::CutHeader => "header cut short",
            Self::Torn => "frame cut short",
            Self::Bogus => "header without body",
            Self::Mixed => "all mixed",
        }
    }
}

/// Of so many gaps between frames one is disturbed.
const ONE_IN: u32 = 3;

/// A disturbed stream and the truth about it.
#[derive(Debug, Clone)]
pub struct Stream {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Where the whole frames lie, headers included, in order. Each holds a valid `FromRadio`.
    pub frames: Vec<Range<usize>>,
}

/// What of a stream no parser can decide by the bytes up to there.
#[derive(Debug, Clone)]
pub struct Ambiguity {
    /// Where bytes lie that are no frame, and yet look like one to their end.
    pub false_frames: Vec<Range<usize>>,
    /// For each whole frame, whether a false one overlaps it.
    pub overlapped: Vec<bool>,
}

impl Stream {
    /// A stream with so many whole frames. Equal seeds give equal streams.
    pub fn new(disturbance: Disturbance, seed: u64, frames: usize) -> Self {
        let mut writer = Writer {
            stream: Self { bytes: Vec::new(), frames: Vec::new() },
            payloads: Payloads::recorded(),
            rng: Rng::new(seed),
        };
        while writer.stream.frames.len() < frames {
            if writer.rng.below(ONE_IN) == 0 {
                writer.disturb(disturbance);
            }
            // A disturbance may have a whole frame in it.
            if writer.stream.frames.len() < frames {
                writer.frame();
            }
        }
        writer.stream
    }

    /// Looks at every place where a header stands that is none.
    pub fn ambiguity(&self) -> Ambiguity {
        let mut overlapped = vec![false; self.frames.len()];
        let mut false_frames = Vec::new();
        // The first frame that does not end before `at`.
        let mut next = 0;
        for at in 0..self.bytes.len() {
            while self.frames.get(next).is_some_and(|frame| frame.end <= at) {
                next += 1;
            }
            // A parser looks inside a whole frame only if it has lost its beginning.
            let believed = match self.frames.get(next) {
                Some(frame) if frame.contains(&at) => frame.start != at && overlapped[next],
                _ => true,
            };
            if let Some(lie) = valid_frame(&self.bytes, at).filter(|_| believed) {
                let hit = self.frames.iter().skip(next).take_while(|frame| frame.start < lie.end);
                overlapped[next..next + hit.count()].fill(true);
                false_frames.push(lie);
            }
        }
        Ambiguity { false_frames, overlapped }
    }
}

/// Where the frame lies that the header at `at` claims, if it is a header; it may end behind the
/// stream.
pub fn claimed(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    match bytes.get(at..)? {
        [first, second, high, low, ..] if [*first, *second] == MAGIC => {
            FrameLen::from_header([*high, *low]).map(|len| at..at + len.frame())
        }
        _ => None,
    }
}

/// The frame at `at` if it is whole and holds a valid `FromRadio`.
pub fn valid_frame(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let frame = claimed(bytes, at)?;
    let payload = bytes.get(frame.start + HEADER_LEN..frame.end)?;
    FromRadio::peek(payload).map(|_| frame)
}

/// A payload as a frame.
pub fn framed(payload: &[u8]) -> Vec<u8> {
    let mut out = [0; MAX_FRAME];
    frame::encode(payload, &mut out).expect("payloads have at most 512 bytes").to_vec()
}

struct Writer {
    stream: Stream,
    payloads: Payloads,
    rng: Rng,
}

impl Writer {
    fn frame(&mut self) {
        let frame = framed(&self.payloads.any(&mut self.rng));
        let start = self.stream.bytes.len();
        self.push(&frame);
        self.stream.frames.push(start..start + frame.len());
    }

    fn disturb(&mut self, disturbance: Disturbance) {
        match disturbance {
            Disturbance::None => {}
            Disturbance::Text => {
                let text = text(&mut self.rng);
                self.push(&text);
            }
            Disturbance::Noise => {
                let len = 1 + self.rng.below(100);
                let noise: Vec<u8> = (0..len).map(|_| self.rng.next_u32() as u8).collect();
                self.push(&noise);
            }
            Disturbance::StrayMagic => {
                let count = 1 + self.rng.below(3) as usize;
                self.push(&[MAGIC[0]; 3][..count]);
            }
            Disturbance::TooLong => {
                let over = MAX_PAYLOAD as u32 + 1;
                let len = (over + self.rng.below(0x1_0000 - over)) as u16;
                self.header(len);
            }
            Disturbance::CutHeader => {
                let header = framed(&self.payloads.any(&mut self.rng));
                let len = 1 + self.rng.below(3) as usize;
                self.push(&header[..len]);
            }
            Disturbance::Torn => self.torn(),
            Disturbance::Bogus => {
                let len = 1 + self.rng.below(MAX_PAYLOAD as u32) as u16;
                self.header(len);
            }
            Disturbance::Mixed => {
                for _ in 0..=self.rng.below(3) {
                    let at = 1 + self.rng.below(Disturbance::ALL.len() as u32 - 2) as usize;
                    self.disturb(Disturbance::ALL[at]);
                }
            }
        }
    }

    /// A header and the beginning of its payload, as a writer leaves it that starts anew. One in
    /// four was only interrupted by a frame, and goes on behind it.
    fn torn(&mut self) {
        let frame = framed(&self.payloads.any(&mut self.rng));
        let missing = 1 + self.rng.below((frame.len() - HEADER_LEN) as u32) as usize;
        let Some((head, tail)) = frame.split_at_checked(frame.len() - missing) else { return };
        if head.len() < HEADER_LEN {
            return;
        }
        self.push(head);
        if self.rng.below(4) == 0 {
            self.frame();
            self.push(tail);
        }
    }

    fn header(&mut self, len: u16) {
        let [high, low] = len.to_be_bytes();
        self.push(&[MAGIC[0], MAGIC[1], high, low]);
    }

    fn push(&mut self, bytes: &[u8]) {
        self.stream.bytes.extend_from_slice(bytes);
    }
}

/// A line of a log, or the beginning of one. Some of its characters have the byte `94`.
pub fn text(rng: &mut Rng) -> Vec<u8> {
    const WORDS: [&str; 12] = [
        "DEBUG",
        "[Router]",
        "channel",
        "air time",
        "heard",
        "—",
        "”",
        "🔔",
        "Ô",
        "snr=6.25",
        "µs",
        "\u{1b}[0m",
    ];
    let mut line = format!("{:>8} | ", rng.below(1_000_000));
    for _ in 0..1 + rng.below(10) {
        line.push_str(WORDS[rng.below(WORDS.len() as u32) as usize]);
        line.push(' ');
    }
    let mut line = line.into_bytes();
    match rng.below(4) {
        // Cut anywhere, also in a character.
        0 => line.truncate(1 + rng.below(line.len() as u32) as usize),
        // Names may be cut at a byte.
        1 => line.extend_from_slice(b"\xF0\x9F\x94\r\n"),
        _ => line.extend_from_slice(b"\r\n"),
    }
    line
}
