//! Every stream of `tests/captures`, as a real node and a real client wrote it, through the
//! decoder: in slices of every size, at random splits, and cut at every byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use meshbeat_core::decoder::{Decoder, Item};
use meshbeat_core::peek::{self, FromRadio};
use meshbeat_core::rng::Rng;
use meshbeat_proto::ToRadio;
use prost::Message;
use serde_json::Value;

/// Random splits of each stream.
const SPLITS: u64 = 200;

#[test]
fn frames_and_variants_count_as_the_index_says() {
    let captures = captures();
    assert_eq!(captures.len(), 11);
    for capture in captures {
        let found = capture.decode(&[usize::MAX]);
        assert_eq!(capture.expected["bytes"], capture.stream.len(), "{}", capture.name);
        assert_eq!(capture.expected["frames"], found.payloads.len(), "{}", capture.name);
        let mut variants = BTreeMap::new();
        for payload in &found.payloads {
            *variants.entry(capture.variant(payload)).or_insert(0_u64) += 1;
        }
        let variants = serde_json::to_value(variants).unwrap();
        assert_eq!(capture.expected["variants"], variants, "{}", capture.name);
        assert!(found.noise.iter().all(|byte| *byte == 0xC3), "{}: only wake-up", capture.name);
        let total = found.payloads.iter().map(|p| p.len() + 4).sum::<usize>() + found.noise.len();
        assert_eq!(total, capture.stream.len(), "{}", capture.name);
    }
}

#[test]
fn slices_of_every_size_give_the_same_bytes() {
    for capture in captures() {
        let whole = capture.decode(&[usize::MAX]);
        for size in 1..=64 {
            assert!(capture.decode(&[size]) == whole, "{} in slices of {size}", capture.name);
        }
    }
}

#[test]
fn random_splits_give_the_same_bytes() {
    for capture in captures() {
        let whole = capture.decode(&[usize::MAX]);
        for seed in 0..SPLITS {
            let mut rng = Rng::new(seed);
            let sizes: Vec<usize> = (0..97)
                .map(|_| match rng.below(3) {
                    0 => 1 + rng.below(4),
                    1 => 1 + rng.below(100),
                    _ => 1 + rng.below(2000),
                } as usize)
                .collect();
            assert!(capture.decode(&sizes) == whole, "{}, seed {seed}", capture.name);
        }
    }
}

/// The connection breaks after every byte in turn. What was whole came out, the half frame is
/// forgotten, and the next session is read from its first byte.
#[test]
fn a_session_cut_at_every_byte_leaves_nothing_behind() {
    for capture in captures() {
        let whole = capture.decode(&[usize::MAX]);
        let next = &whole.payloads[..whole.payloads.len().min(4)];
        let next_session: Vec<u8> = next.iter().flat_map(|payload| framed(payload)).collect();
        let mut decoder = Decoder::new();
        let mut before = Found::default();
        for cut in 1..=capture.stream.len() {
            capture.feed(&mut decoder, &capture.stream[cut - 1..cut], &mut before);
            let out = before.bytes();
            assert_eq!(decoder.held(), cut - out, "{} cut at {cut}", capture.name);
            assert!(whole.payloads.starts_with(&before.payloads), "{}: cut {cut}", capture.name);

            let mut reconnected = decoder.clone();
            reconnected.clear();
            let mut after = Found::default();
            capture.feed(&mut reconnected, &next_session, &mut after);
            assert!(after.payloads == next, "{} cut at {cut}: next session", capture.name);
            assert!(after.noise.is_empty(), "{} cut at {cut}: old bytes", capture.name);
        }
        assert!(before == whole, "{}", capture.name);
    }
}

/// A stream as it was recorded, and what its index says of it.
struct Capture {
    name: String,
    stream: Vec<u8>,
    expected: Value,
}

/// What a decoder made of a stream.
#[derive(Default, PartialEq, Eq)]
struct Found {
    payloads: Vec<Vec<u8>>,
    noise: Vec<u8>,
    /// Bytes of all frames, headers included.
    framed: usize,
}

impl Found {
    fn bytes(&self) -> usize {
        self.framed + self.noise.len()
    }
}

impl Capture {
    fn is_to_radio(&self) -> bool {
        self.name.contains("toradio")
    }

    /// Decodes the whole stream in slices of these sizes, cycled.
    fn decode(&self, sizes: &[usize]) -> Found {
        let mut decoder = Decoder::new();
        let mut found = Found::default();
        let mut rest = &self.stream[..];
        for size in sizes.iter().cycle() {
            let (slice, next) = rest.split_at(rest.len().min(*size));
            self.feed(&mut decoder, slice, &mut found);
            rest = next;
            if rest.is_empty() {
                break;
            }
        }
        assert_eq!(decoder.held(), 0, "{}: recordings are whole", self.name);
        found
    }

    /// Offers a slice as a link does: a payload that is none is rejected.
    fn feed(&self, decoder: &mut Decoder, slice: &[u8], found: &mut Found) {
        let mut at = 0;
        loop {
            let decoded = decoder.decode(&slice[at..]);
            at += decoded.taken;
            match decoded.item {
                Some(Item::Frame(payload)) if self.is_valid(payload) => {
                    found.framed += payload.len() + 4;
                    found.payloads.push(payload.to_vec());
                }
                Some(Item::Frame(_)) => at -= decoder.reject(),
                Some(Item::Noise(noise)) => found.noise.extend_from_slice(noise),
                None => break,
            }
        }
        assert_eq!(at, slice.len(), "{}: stopped before the end", self.name);
    }

    fn is_valid(&self, payload: &[u8]) -> bool {
        if self.is_to_radio() {
            peek::is_to_radio(payload)
        } else {
            FromRadio::peek(payload).is_some()
        }
    }

    /// The variant's name in the index.
    fn variant(&self, payload: &[u8]) -> &'static str {
        use meshbeat_proto::to_radio::PayloadVariant;
        if !self.is_to_radio() {
            return match FromRadio::peek(payload).expect("decoded").name() {
                // The descriptors that made the index do not have it.
                "region_presets" => "unknown_to_reference",
                name => name,
            };
        }
        match ToRadio::decode(payload).expect("decoded").payload_variant.expect("a variant") {
            PayloadVariant::Packet(_) => "packet",
            PayloadVariant::WantConfigId(_) => "want_config_id",
            PayloadVariant::Heartbeat(_) => "heartbeat",
            other => panic!("the client never wrote {other:?}"),
        }
    }
}

fn captures() -> Vec<Capture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let index = fs::read_to_string(folder.join("index.json")).expect("index.json");
    let index: BTreeMap<String, Value> = serde_json::from_str(&index).expect("an object");
    index
        .into_iter()
        .map(|(name, expected)| {
            let stream = fs::read(folder.join(&name)).expect("as listed in the index");
            Capture { name, stream, expected }
        })
        .collect()
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut buffer = [0; meshbeat_core::frame::MAX_FRAME];
    meshbeat_core::frame::encode(payload, &mut buffer).expect("recorded").to_vec()
}
