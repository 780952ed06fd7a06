//! `core::peek` and the frames that a link writes by itself, against prost and the schema: on
//! every recorded payload, on a million changed ones and random bytes.

use core::convert::Infallible;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{catch_unwind, resume_unwind};
use std::path::Path;

use embedded_io::{ErrorType, Write};
use meshbeat_core::decoder::{Decoder, Item};
use meshbeat_core::heartbeat::{Nonce, PLAIN};
use meshbeat_core::link::{Asked, State, Transmit};
use meshbeat_core::peek::{self, FromRadio};
use meshbeat_core::rng::Rng;
use meshbeat_core::{Checked, Instant, Link};
use meshbeat_proto::{Heartbeat, ToRadio, to_radio};
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};

// The fuzz target `peek`, whose package is no part of this workspace.
#[path = "../../fuzz/src/against_prost.rs"]
#[expect(unreachable_pub, reason = "public there")]
mod against_prost;
#[path = "../../fuzz/src/mutate.rs"]
#[expect(unreachable_pub, reason = "public there")]
mod mutate;

/// Changed and random payloads; a tenth are random.
const INPUTS: u64 = 1_000_000;

#[test]
fn every_recorded_payload_is_read_as_prost_reads_it() {
    let (node, client) = recorded();
    assert!(node.len() > 1800 && client.len() == 7, "{} and {}", node.len(), client.len());
    for payload in &node {
        assert!(against_prost::from_radio(payload), "{payload:02x?}");
    }
    for payload in &client {
        assert!(against_prost::to_radio(payload), "{payload:02x?}");
    }
}

#[test]
fn changed_and_random_payloads_are_read_as_prost_reads_them() {
    let (node, client) = recorded();
    let mut accepted = [0; 2];
    for seed in 0..INPUTS {
        let mut rng = Rng::new(seed);
        let from = if seed % 4 == 0 { &client } else { &node };
        let mut pick = || &from[rng.below(from.len() as u32) as usize];
        let (first, second) = (pick(), pick());
        let payload = match seed % 10 {
            9 => mutate::random(&mut rng, 64),
            _ => mutate::mutate(&mut rng, first, second),
        };
        let check = || [against_prost::from_radio(&payload), against_prost::to_radio(&payload)];
        let taken = catch_unwind(check).unwrap_or_else(|panic| {
            eprintln!("seed {seed}");
            resume_unwind(panic)
        });
        (0..2).for_each(|at| accepted[at] += u64::from(taken[at]));
    }
    // Neither side of the comparison is empty.
    for count in accepted {
        assert!((INPUTS / 50..INPUTS / 2).contains(&count), "{accepted:?} of {INPUTS} accepted");
    }
}

#[test]
fn heartbeats_are_what_prost_encodes() {
    let encoded = |nonce| to_radio(to_radio::PayloadVariant::Heartbeat(Heartbeat { nonce }));
    assert_eq!(encoded(0), PLAIN);
    assert_eq!(Nonce::new(1), None);
    let edges = (0..32).flat_map(|bit| [(1_u32 << bit) - 1, 1 << bit, (1 << bit) + 1]);
    for value in edges.chain([u32::MAX]).filter(|value| *value != 1) {
        let payload = Nonce::new(value).expect("not 1").payload();
        assert_eq!(payload[..], encoded(value), "{value}");
    }
}

/// All that a link writes in a session, from the greeting to `disconnect`.
#[test]
fn a_link_writes_what_prost_encodes() {
    let mut wanted = BTreeSet::new();
    for seed in 0..100 {
        let now = Instant::ORIGIN;
        let mut link = Link::<0>::new(Checked::TCP, seed);
        let mut wire = Wire(Vec::new());
        link.open(now);
        link.handle_opened(now);
        drain(&mut link, now, &mut wire);
        let State::Configuring { asked: Asked::With { nonce, .. }, .. } = link.state() else {
            panic!("not asked: {:?}", link.state());
        };
        link.close(now);
        drain(&mut link, now, &mut wire);

        let heartbeat = to_radio(to_radio::PayloadVariant::Heartbeat(Heartbeat { nonce: 0 }));
        let want_config = to_radio(to_radio::PayloadVariant::WantConfigId(nonce));
        let disconnect = to_radio(to_radio::PayloadVariant::Disconnect(true));
        assert_eq!(payloads(&wire.0, peek::is_to_radio), [heartbeat, want_config, disconnect]);
        wanted.insert(nonce);
    }
    assert!(wanted.len() > 95, "nonces differ: {wanted:?}");
}

#[test]
fn names_of_variants_are_those_of_the_schema() {
    let set = FileDescriptorSet::decode(meshbeat_proto::DESCRIPTORS).expect("our own descriptors");
    let messages: BTreeMap<&str, &DescriptorProto> =
        set.file.iter().flat_map(|file| &file.message_type).map(|m| (m.name(), m)).collect();
    let mut variants = 0;
    for field in messages["FromRadio"].field.iter().filter(|field| field.oneof_index.is_some()) {
        let number = field.number() as u8;
        // An empty message, or the number 1.
        let is_message = !field.type_name().is_empty();
        let payload = key_and_value(number, is_message);
        let peeked = FromRadio::peek(&payload).expect("a valid payload");
        assert_eq!(peeked.name(), field.name(), "field {number}");
        variants += 1;
    }
    assert_eq!(variants, 18);
    assert_eq!(FromRadio::peek(&key_and_value(20, true)).map(|m| m.name()), Some("unknown"));
}

fn key_and_value(number: u8, is_message: bool) -> Vec<u8> {
    let key = u32::from(number) << 3 | if is_message { 2 } else { 0 };
    let mut payload = Vec::new();
    prost::encoding::encode_varint(key.into(), &mut payload);
    payload.push(if is_message { 0 } else { 1 });
    payload
}

fn to_radio(variant: to_radio::PayloadVariant) -> Vec<u8> {
    ToRadio { payload_variant: Some(variant) }.encode_to_vec()
}

struct Wire(Vec<u8>);

impl ErrorType for Wire {
    type Error = Infallible;
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> Result<usize, Infallible> {
        self.0.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

fn drain(link: &mut Link, now: Instant, wire: &mut Wire) {
    while let Ok(Transmit::Wrote(_)) = link.poll_transmit(now, wire) {}
}

/// The payloads of the recorded streams: what a node wrote, and what a client wrote.
fn recorded() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let (mut node, mut client) = (Vec::new(), Vec::new());
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("tests/captures")
        .map(|e| e.expect("readable").path())
        .collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|ext| ext == "bin")) {
        let stream = fs::read(path).expect("readable");
        if path.to_string_lossy().ends_with("toradio.bin") {
            client.extend(payloads(&stream, peek::is_to_radio));
        } else {
            node.extend(payloads(&stream, |payload| FromRadio::peek(payload).is_some()));
        }
    }
    (node, client)
}

fn payloads(mut stream: &[u8], is_good: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
    let mut decoder = Decoder::new();
    let mut found = Vec::new();
    while !stream.is_empty() {
        let decoded = decoder.decode(stream);
        stream = &stream[decoded.taken..];
        if let Some(Item::Frame(payload)) = decoded.item {
            assert!(is_good(payload), "{payload:02x?}");
            found.push(payload.to_vec());
        }
    }
    found
}
