//! What it costs to find frames: `cargo bench -p meshbeat-core -- --sort location`, or with the name
//! of a stream.
//!
//! Each stream has a group, with a row for each way through it. `memcpy` copies the same bytes, and
//! `machine` is a parser that works as the firmware's does, byte for byte and without a look into
//! payloads. `framing` only finds frames, `valid` also looks into each payload as a link does, both
//! in slices of 64 KiB; behind them the same byte for byte. Beside the time stand bytes and frames
//! per second. On a machine that does other work too compare the fastest samples: a median of a few
//! milliseconds has that work in it.

use core::fmt;
use std::sync::LazyLock;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use meshbeat_core::decoder::{Decoder, Item};
use meshbeat_core::frame::{self, MAX_FRAME};
use meshbeat_core::peek::FromRadio;
use meshbeat_core::rng::Rng;

use hostile::floods::Flood;
use hostile::parsers::{Plain, ours};
use hostile::payloads::{Payloads, made, recording};
use hostile::{Disturbance, Stream, framed, text};

// The streams of the recovery test, whose package is built on this one.
#[path = "../../tests/src/hostile/mod.rs"]
#[expect(dead_code, unreachable_pub, reason = "used and public there")]
mod hostile;

/// As much as a socket gives at once.
const SLICE: usize = 64 * 1024;
/// A long stream, which no cache of one core holds, and one that the first holds.
const LONG: usize = 4_000_000;
const SHORT: usize = 24_000;

fn main() {
    divan::main();
}

/// What a real node wrote, again and again.
#[divan::bench(args = Way::ALL, max_time = 1)]
fn recorded(bencher: Bencher<'_, '_>, way: Way) {
    static STREAM: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let recording = recording();
        recording.iter().copied().cycle().take(LONG / recording.len() * recording.len()).collect()
    });
    measure(bencher, way, &STREAM);
}

/// Nothing but frames of 20 to 240 bytes.
#[divan::bench(args = Way::ALL, max_time = 1)]
fn clean(bencher: Bencher<'_, '_>, way: Way) {
    static STREAM: LazyLock<Vec<u8>> = LazyLock::new(|| frames(LONG));
    measure(bencher, way, &STREAM);
}

#[divan::bench(args = Way::ALL, max_time = 1)]
fn clean_in_cache(bencher: Bencher<'_, '_>, way: Way) {
    static STREAM: LazyLock<Vec<u8>> = LazyLock::new(|| frames(SHORT));
    measure(bencher, way, &STREAM);
}

/// Log text without frames, in which every fourth word has a `94`.
#[divan::bench(args = Way::ALL, max_time = 1)]
fn log_text(bencher: Bencher<'_, '_>, way: Way) {
    static STREAM: LazyLock<Vec<u8>> = LazyLock::new(|| gather(LONG, text));
    measure(bencher, way, &STREAM);
}

/// Random bytes without frames.
#[divan::bench(args = Way::ALL, max_time = 1)]
fn noise(bencher: Bencher<'_, '_>, way: Way) {
    static STREAM: LazyLock<Vec<u8>> =
        LazyLock::new(|| gather(LONG, |rng| rng.next_u64().to_le_bytes().to_vec()));
    measure(bencher, way, &STREAM);
}

/// Frames and, in every third gap between two, anything that disturbs.
#[divan::bench(args = Way::ALL, max_time = 1)]
fn disturbed(bencher: Bencher<'_, '_>, way: Way) {
    static STREAM: LazyLock<Vec<u8>> =
        LazyLock::new(|| Stream::new(Disturbance::Mixed, 1, LONG / 180).bytes);
    measure(bencher, way, &STREAM);
}

/// The worst inputs, each in two lengths: a byte costs the same in both.
#[divan::bench(args = floods(), max_time = 1)]
fn flood(bencher: Bencher<'_, '_>, FloodRow(flood, len, way): FloodRow) {
    measure(bencher, way, &flood.bytes(len));
}

/// Looking into recorded payloads, one after the other.
#[divan::bench(args = [Way::Memcpy, Way::Valid], max_time = 1)]
fn peek(bencher: Bencher<'_, '_>, way: Way) {
    let payloads = Payloads::recorded();
    let payloads = payloads.all();
    let mut out = [0; MAX_FRAME];
    count(bencher, payloads.iter().map(Vec::len).sum(), payloads.len()).bench_local(|| {
        for payload in payloads {
            match way {
                Way::Memcpy => copy(payload, &mut out),
                _ => _ = black_box(FromRadio::peek(black_box(payload))),
            }
        }
    });
}

/// Writing frames around payloads of 20 to 240 bytes.
#[divan::bench(args = [Way::Memcpy, Way::Framing], max_time = 1)]
fn encode(bencher: Bencher<'_, '_>, way: Way) {
    let mut rng = Rng::new(1);
    let payloads: Vec<_> = (0..1000).map(|_| payload(&mut rng)).collect();
    let mut out = [0; MAX_FRAME];
    count(bencher, payloads.iter().map(Vec::len).sum(), payloads.len()).bench_local(|| {
        for payload in &payloads {
            match way {
                Way::Memcpy => copy(payload, &mut out),
                _ => _ = black_box(frame::encode(black_box(payload), &mut out)),
            }
        }
    });
}

/// A way through a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Memcpy,
    Machine,
    Framing,
    Valid,
    FramingByBytes,
    ValidByBytes,
}

impl Way {
    const ALL: [Self; 6] = [
        Self::Memcpy,
        Self::Machine,
        Self::Framing,
        Self::Valid,
        Self::FramingByBytes,
        Self::ValidByBytes,
    ];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Memcpy => "memcpy",
            Self::Machine => "machine",
            Self::Framing => "framing",
            Self::Valid => "valid",
            Self::FramingByBytes => "framing, byte for byte",
            Self::ValidByBytes => "valid, byte for byte",
        })
    }
}

fn measure(bencher: Bencher<'_, '_>, way: Way, stream: &[u8]) {
    let bencher = count(bencher, stream.len(), ours(stream, SLICE).0.len());
    match way {
        Way::Memcpy => {
            let mut out = vec![0; stream.len()];
            bencher.bench_local(|| copy(stream, &mut out));
        }
        Way::Machine => {
            let mut machine = Plain::new();
            bencher.bench_local(|| {
                for byte in black_box(stream) {
                    if let Some(payload) = machine.take(*byte) {
                        black_box(payload);
                    }
                }
            });
        }
        Way::Framing => bencher.bench_local(|| parse(stream, SLICE, |_| true)),
        Way::Valid => bencher.bench_local(|| parse(stream, SLICE, is_valid)),
        Way::FramingByBytes => bencher.bench_local(|| parse(stream, 1, |_| true)),
        Way::ValidByBytes => bencher.bench_local(|| parse(stream, 1, is_valid)),
    }
}

fn count<'a, 'b>(bencher: Bencher<'a, 'b>, bytes: usize, frames: usize) -> Bencher<'a, 'b> {
    let bencher = bencher.counter(BytesCount::new(bytes));
    if frames == 0 { bencher } else { bencher.counter(ItemsCount::new(frames)) }
}

fn copy(bytes: &[u8], out: &mut [u8]) {
    if let Some(out) = black_box(&mut *out).get_mut(..bytes.len()) {
        out.copy_from_slice(black_box(bytes));
    }
    black_box(out);
}

/// The loop of every caller.
#[inline]
fn parse(stream: &[u8], slice: usize, accept: impl Fn(&[u8]) -> bool) {
    let mut decoder = Decoder::new();
    for slice in black_box(stream).chunks(slice) {
        let mut at = 0;
        loop {
            let decoded = decoder.decode(&slice[at..]);
            at += decoded.taken;
            match decoded.item {
                Some(Item::Frame(payload)) if accept(payload) => _ = black_box(payload),
                Some(Item::Frame(_)) => at -= decoder.reject(),
                Some(Item::Noise(noise)) => _ = black_box(noise),
                None if at == slice.len() => break,
                None => {}
            }
        }
    }
}

fn is_valid(payload: &[u8]) -> bool {
    black_box(FromRadio::peek(payload)).is_some()
}

fn frames(len: usize) -> Vec<u8> {
    gather(len, |rng| framed(&payload(rng)))
}

/// One of 20 to 240 bytes.
fn payload(rng: &mut Rng) -> Vec<u8> {
    let len = 20 + rng.below(221) as usize;
    made(rng, len)
}

/// Pieces until there are so many bytes.
fn gather(len: usize, mut piece: impl FnMut(&mut Rng) -> Vec<u8>) -> Vec<u8> {
    let mut rng = Rng::new(1);
    let mut bytes = Vec::new();
    while bytes.len() < len {
        bytes.extend(piece(&mut rng));
    }
    bytes
}

#[derive(Debug, Clone, Copy)]
struct FloodRow(Flood, usize, Way);

impl fmt::Display for FloodRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(flood, len, way) = self;
        write!(f, "{}, {} MB, {way}", flood.name(), len / 1_000_000)
    }
}

fn floods() -> impl Iterator<Item = FloodRow> {
    Flood::ALL.into_iter().flat_map(|flood| {
        let way = move |way| [LONG / 4, LONG].map(|len| FloodRow(flood, len, way));
        [Way::Memcpy, Way::Machine, Way::Valid].into_iter().flat_map(way)
    })
}
