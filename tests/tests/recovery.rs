//! Frames out of disturbed streams: which come out, when, and at what cost. The table for eyes is
//! `cargo run --release -p meshbeat-tests --bin recovery`.

use core::mem::size_of;
use core::ops::Range;
use std::collections::HashSet;

use meshbeat_core::decoder::Decoder;
use meshbeat_core::frame::{HEADER_LEN, MAX_FRAME, MAX_PAYLOAD};
use meshbeat_core::link::Item;
use meshbeat_core::peek::FromRadio;
use meshbeat_core::rng::Rng;
use meshbeat_core::{Event, Instant, Link, LinkConfig};
use meshbeat_tests::hostile::floods::Flood;
use meshbeat_tests::hostile::parsers::{Found, Work, ours, plain, search};
use meshbeat_tests::hostile::payloads::{Payloads, made};
use meshbeat_tests::hostile::{Disturbance, Stream, claimed};

const SEEDS: [u64; 4] = [1, 2, 3, 4];
/// Whole frames of each stream.
const FRAMES: usize = 2_000;
/// In which no byte that is of no whole frame can be taken for the beginning of one that is valid.
const UNAMBIGUOUS: [Disturbance; 6] = [
    Disturbance::None,
    Disturbance::Text,
    Disturbance::Noise,
    Disturbance::StrayMagic,
    Disturbance::TooLong,
    Disturbance::Bogus,
];
/// The most rejected frames in which one byte lies, as `Decoder` says.
const REJECTED_WITH_A_BYTE: usize = 172;

#[test]
fn every_whole_frame_comes_out_where_nothing_else_looks_like_one() {
    for disturbance in UNAMBIGUOUS {
        for_each_stream(disturbance, |seed, stream| {
            let looks_like_one = stream.ambiguity().false_frames;
            assert!(looks_like_one.is_empty(), "{disturbance:?}, seed {seed}: {looks_like_one:?}");
            assert_eq!(frames(&stream.bytes, 4096), stream.frames, "{disturbance:?}, seed {seed}");
        });
    }
}

/// Whatever the disturbance: a frame is lost only if bytes reach into it that are no frame and look
/// like one to their end, and nothing comes out but whole frames and such.
#[test]
fn only_what_looks_like_a_frame_to_its_end_costs_one() {
    for disturbance in Disturbance::ALL {
        for_each_stream(disturbance, |seed, stream| {
            let found = frames(&stream.bytes, 4096);
            let ambiguity = stream.ambiguity();
            for (frame, overlapped) in stream.frames.iter().zip(&ambiguity.overlapped) {
                let came_out = found.binary_search_by_key(&frame.start, |found| found.start);
                let is_lost = came_out.is_err();
                assert!(!is_lost || *overlapped, "{disturbance:?}, seed {seed}: {frame:?} lost");
            }
            for frame in &found {
                let is_true = stream.frames.contains(frame);
                let is_explained = ambiguity.false_frames.contains(frame);
                assert!(is_true || is_explained, "{disturbance:?}, seed {seed}: {frame:?} is none");
            }
        });
    }
}

#[test]
fn as_much_comes_out_as_of_a_search_of_the_whole_stream() {
    for disturbance in Disturbance::ALL {
        for_each_stream(disturbance, |seed, stream| {
            let found = frames(&stream.bytes, 4096);
            assert_eq!(found, search(&stream.bytes), "{disturbance:?}, seed {seed}");
        });
    }
}

#[test]
fn torn_frames_cost_few_others() {
    for (disturbance, least) in [
        (Disturbance::CutHeader, 0.999),
        // A frame of four is preceded by a torn one: one torn frame in seventeen costs the next.
        (Disturbance::Torn, 0.975),
        (Disturbance::Mixed, 0.99),
    ] {
        let (mut recovered, mut by_plain, mut present) = (0, 0, 0);
        for_each_stream(disturbance, |_, stream| {
            let truth: HashSet<_> = stream.frames.iter().cloned().collect();
            let count = |found: Vec<_>| found.iter().filter(|frame| truth.contains(frame)).count();
            recovered += count(frames(&stream.bytes, 4096));
            by_plain += count(plain(&stream.bytes));
            present += stream.frames.len();
        });
        let share = recovered as f64 / present as f64;
        assert!(share >= least, "{disturbance:?}: {recovered} of {present}");
        // Else the streams are not hostile.
        assert!(by_plain * 4 < present * 3, "{disturbance:?}: {by_plain} by a plain parser");
    }
}

#[test]
fn slices_of_any_size_give_the_same_frames() {
    for disturbance in Disturbance::ALL {
        for_each_stream(disturbance, |seed, stream| {
            let whole = frames(&stream.bytes, usize::MAX);
            for size in [1, 7, 64, 4096] {
                let found = frames(&stream.bytes, size);
                assert_eq!(found, whole, "{disturbance:?}, seed {seed}, slices of {size}");
            }
        });
    }
}

/// A frame comes out with its last byte, or when what a header before it claims is there: as that
/// is at most 516 bytes long, at most 511 bytes later.
#[test]
fn a_frame_comes_out_with_its_last_byte_or_with_the_last_that_a_lie_claims() {
    for disturbance in Disturbance::ALL {
        let (mut at_once, mut late) = (0, 0);
        for_each_stream(disturbance, |seed, stream| {
            for Found { frame, offered } in ours(&stream.bytes, 1).0 {
                let name = || format!("{disturbance:?}, seed {seed}: {frame:?} at {offered}");
                let latest = frame.end.max(frame.start + MAX_FRAME - 1);
                assert!((frame.end..=latest).contains(&offered), "{}", name());
                let before = frame.start.saturating_sub(MAX_FRAME)..frame.start;
                let claims = before.filter_map(|at| claimed(&stream.bytes, at));
                let last = claims.map(|claim| claim.end).fold(frame.end, usize::max);
                assert!(offered <= last.min(stream.bytes.len()), "{}", name());
                if offered == frame.end {
                    at_once += 1;
                } else {
                    late += 1;
                }
            }
        });
        // Both happen, and on a good line only one of them.
        assert!(at_once > 0, "{disturbance:?}");
        match disturbance {
            Disturbance::None | Disturbance::StrayMagic | Disturbance::TooLong => {
                assert_eq!(late, 0);
            }
            Disturbance::Bogus | Disturbance::Torn | Disturbance::Mixed => assert!(late > 100),
            _ => {}
        }
    }
}

#[test]
fn a_link_finds_the_same_frames() {
    for disturbance in Disturbance::ALL {
        for_each_stream(disturbance, |seed, stream| {
            let found = frames(&stream.bytes, 64);
            let payloads: Vec<_> =
                found.into_iter().map(|frame| &stream.bytes[frame][HEADER_LEN..]).collect();
            assert!(by_link(&stream.bytes, 64) == payloads, "{disturbance:?}, seed {seed}");
        });
    }
}

#[test]
fn a_decoder_takes_516_bytes_and_a_few_words() {
    assert!(size_of::<Decoder>() <= MAX_FRAME + 10 * size_of::<usize>());
}

/// Work is counted, not timed: calls, and bytes that are looked into in vain.
#[test]
fn the_worst_input_costs_no_more_than_promised() {
    for flood in Flood::ALL {
        let streams = [16, 64].map(|kib| flood.bytes(kib * 1024));
        for slice in [1, 7, 4096, usize::MAX] {
            let works = [0, 1].map(|at| within_bounds(&streams[at], slice, flood.name()));
            // Four times the bytes, four times the work, but for what the ends cost.
            let [short, long] = works.map(|work| work.rejected_bytes + work.decoded);
            let end = 3 * REJECTED_WITH_A_BYTE * MAX_FRAME;
            assert!(long <= 4 * short + end, "{}: {short} and {long}", flood.name());
        }
    }
    for disturbance in Disturbance::ALL {
        for_each_stream(disturbance, |_, stream| {
            for slice in [1, 4096] {
                within_bounds(&stream.bytes, slice, disturbance.name());
            }
        });
    }
}

/// Without rejections nothing is looked at twice, and of what is no beginning of a frame nothing is
/// kept, so a line of text without end and a flood of empty frames take no memory.
#[test]
fn what_is_no_beginning_of_a_frame_is_not_kept() {
    for flood in [Flood::Line, Flood::Magic, Flood::EmptyFrames] {
        for slice in [1, 7, 4096] {
            let (_, work) = ours(&flood.bytes(64 * 1024), slice);
            assert_eq!(work.rejected, 0, "{}", flood.name());
            assert!(work.held < HEADER_LEN, "{}: {} held", flood.name(), work.held);
        }
    }
}

/// The worst inputs are as bad as they claim to be.
#[test]
fn floods_reject_what_they_are_made_to() {
    for (flood, per_byte) in [
        (Flood::LongestClaims, MAX_FRAME / 4),
        (Flood::DensestClaims, (0x194 + HEADER_LEN) / 3),
        (Flood::FieldsCut, MAX_FRAME / 6),
        (Flood::GroupsOpen, MAX_FRAME / 7),
    ] {
        let stream = flood.bytes(64 * 1024);
        let (found, work) = ours(&stream, 4096);
        assert_eq!(found, [], "{}", flood.name());
        assert!(work.rejected_bytes / stream.len() >= per_byte - 2, "{}: {work:?}", flood.name());
    }
}

#[test]
fn payloads_are_valid_and_made_ones_as_long_as_wanted() {
    let recorded = Payloads::recorded();
    assert!(recorded.all().len() > 1800, "{}", recorded.all().len());
    assert!(recorded.all().iter().all(|payload| FromRadio::peek(payload).is_some()));
    let mut rng = Rng::new(1);
    for len in (0..=MAX_PAYLOAD).filter(|len| *len != 1) {
        let payload = made(&mut rng, len);
        assert_eq!(payload.len(), len);
        assert!(FromRadio::peek(&payload).is_some(), "{payload:02x?}");
    }
}

fn for_each_stream(disturbance: Disturbance, mut check: impl FnMut(u64, &Stream)) {
    for seed in SEEDS {
        check(seed, &Stream::new(disturbance, seed, FRAMES));
    }
}

fn frames(stream: &[u8], slice: usize) -> Vec<Range<usize>> {
    ours(stream, slice).0.into_iter().map(|found| found.frame).collect()
}

fn within_bounds(stream: &[u8], slice: usize, name: &str) -> Work {
    let (_, work) = ours(stream, slice);
    let what = || format!("{name} in slices of {slice}: {work:?}");
    assert!(work.held <= MAX_FRAME, "{}", what());
    assert!(work.rejected <= stream.len() / 3, "{}", what());
    assert!(work.rejected_bytes <= REJECTED_WITH_A_BYTE * stream.len(), "{}", what());
    // A call hands out at least a byte, is followed by a rejection, or ends a slice; the noise in
    // front of a frame that is rejected may come in two pieces.
    let slices = stream.len().div_ceil(slice);
    let calls = stream.len() + slices + 2 * work.rejected + MAX_FRAME;
    assert!(work.decoded <= calls, "{}, {calls} calls allowed", what());
    work
}

/// The payloads that a link delivers.
fn by_link(stream: &[u8], slice: usize) -> Vec<Vec<u8>> {
    let now = Instant::ORIGIN;
    let mut link = Link::<0>::new(LinkConfig::default(), 1).expect("the defaults");
    link.open(now);
    assert_eq!(link.poll_event(), Some(Event::OpenDue));
    link.handle_opened(now);
    let mut payloads = Vec::new();
    for slice in stream.chunks(slice) {
        receive(&mut link, slice, &mut payloads);
    }
    link.handle_end();
    receive(&mut link, &[], &mut payloads);
    payloads
}

fn receive(link: &mut Link<0>, slice: &[u8], payloads: &mut Vec<Vec<u8>>) {
    let mut rest = slice;
    loop {
        let received = link.handle_bytes(Instant::ORIGIN, rest);
        rest = &rest[received.taken..];
        match received.item {
            Some(Item::Frame { payload, .. }) => payloads.push(payload.to_vec()),
            Some(Item::Noise(_)) => {}
            None if rest.is_empty() => return,
            None => {}
        }
    }
}
