//! `against_peer PEER DIRECTORY [RUNS]`: our parser beside the official Rust client library, each
//! turning the same streams into messages. `tests/peer/run` builds both and starts this; PEER is
//! the program in `tests/peer`, DIRECTORY takes the streams. One table, no verdict.

use core::error::Error;
use core::hint::black_box;
use core::time::Duration;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant as Clock;

use meshbeat_core::decoder::{Decoder, Item};
use meshbeat_core::peek;
use meshbeat_core::rng::Rng;
use meshbeat_proto::FromRadio;
use meshbeat_tests::hostile::payloads::{made, recording};
use meshbeat_tests::hostile::{Disturbance, Stream, framed};
use prost::Message as _;

/// What the library reads at once, and so do we.
const SLICE: usize = 1024;
const LEN: usize = 4_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: against_peer PEER DIRECTORY [RUNS]";
    let (peer, directory) = (args.next().ok_or(usage)?, args.next().ok_or(usage)?);
    let runs = args.next().map_or(Ok(9), |runs| runs.parse::<usize>())?;
    let heads = ["whole", "ours", "", "", "theirs", "", "", "ratio", ""];
    let units = ["frames", "messages", "MB/s", "peek", "messages", "MB/s", "pipe", "", "no pipe"];
    for (name, words) in [("", heads), ("4 MB of", units)] {
        print!("{name:<22}");
        words.iter().for_each(|word| print!("{word:>9}"));
        println!();
    }
    for (name, frames, stream) in streams() {
        let file = Path::new(&directory).join("stream.bin");
        fs::write(&file, &stream)?;
        let theirs = Theirs::measure(&peer, runs, &file)?;
        let (messages, took) =
            ours(&stream, runs, |payload| black_box(FromRadio::decode(payload)).is_ok());
        let (_, peeked) =
            ours(&stream, runs, |payload| black_box(peek::FromRadio::peek(payload)).is_some());
        let speed = |took: Duration| stream.len() as f64 / took.as_secs_f64() / 1e6;
        let ratio = |of: Duration| of.as_secs_f64() / took.as_secs_f64();
        println!(
            "{name:<22}{frames:>9}{messages:>9}{:>9.0}{:>9.0}{:>9}{:>9.0}{:>9.0}{:>9.1}{:>9.1}",
            speed(took),
            speed(peeked),
            theirs.messages,
            speed(theirs.took),
            speed(theirs.pipe),
            ratio(theirs.took),
            ratio(theirs.took.saturating_sub(theirs.pipe)),
        );
    }
    println!(
        "\nMedians of {runs} runs. Both find frames in slices of 1,024 bytes and decode each payload with\n\
         prost; the library also reads a pipe and hands messages on by a channel. peek: ours, with\n\
         what a link reads of a payload instead of prost. pipe: that pipe, read to no purpose; no\n\
         pipe: the ratio without its time."
    );
    Ok(())
}

/// Name, whole frames, bytes.
fn streams() -> [(&'static str, usize, Vec<u8>); 4] {
    let mut rng = Rng::new(1);
    let mut clean = Vec::new();
    let mut frames = 0;
    while clean.len() < LEN {
        let len = 20 + rng.below(221) as usize;
        clean.extend(framed(&made(&mut rng, len)));
        frames += 1;
    }
    let recording = recording().repeat(LEN / recording().len());
    let recorded = meshbeat_tests::hostile::parsers::plain(&recording).len();
    let disturbed = |disturbance| Stream::new(disturbance, 1, LEN / 180);
    let (text, mixed) = (disturbed(Disturbance::Text), disturbed(Disturbance::Mixed));
    [
        ("recorded", recorded, recording),
        ("frames of 20 to 240", frames, clean),
        ("and log text", text.frames.len(), text.bytes),
        ("and any disturbance", mixed.frames.len(), mixed.bytes),
    ]
}

/// Messages that came out, and the median of what it took.
fn ours(stream: &[u8], runs: usize, accept: impl Fn(&[u8]) -> bool) -> (usize, Duration) {
    let mut messages = 0;
    let mut times: Vec<_> = (0..runs)
        .map(|_| {
            let start = Clock::now();
            messages = parse(black_box(stream), &accept);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    (messages, times.get(runs / 2).copied().unwrap_or_default())
}

fn parse(stream: &[u8], accept: impl Fn(&[u8]) -> bool) -> usize {
    let mut decoder = Decoder::new();
    let mut messages = 0;
    for slice in stream.chunks(SLICE) {
        let mut at = 0;
        loop {
            let decoded = decoder.decode(&slice[at..]);
            at += decoded.taken;
            match decoded.item {
                Some(Item::Frame(payload)) if accept(payload) => messages += 1,
                Some(Item::Frame(_)) => at -= decoder.reject(),
                Some(Item::Noise(_)) => {}
                None if at == slice.len() => break,
                None => {}
            }
        }
    }
    messages
}

struct Theirs {
    messages: usize,
    took: Duration,
    pipe: Duration,
}

impl Theirs {
    fn measure(peer: &str, runs: usize, file: &Path) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(peer);
        let done = command.arg(runs.to_string()).arg(file).stderr(Stdio::inherit()).output()?;
        let line = String::from_utf8(done.stdout)?;
        let mut words = line.split_whitespace();
        let mut next = || words.next().ok_or_else(|| format!("{peer} said {line:?}"));
        Ok(Self {
            messages: next()?.parse()?,
            took: Duration::from_nanos(next()?.parse()?),
            pipe: Duration::from_nanos(next()?.parse()?),
        })
    }
}
