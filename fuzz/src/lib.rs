//! What no input may break. Each module is one target: an ordinary function `run` that takes any
//! bytes and panics where a promise is broken. libFuzzer calls it from `fuzz_targets`, and
//! `tests/stable.rs` with the committed corpus and with seeded random inputs, on any compiler.
//!
//! A new target is a module with `run`, a row in [`TARGETS`], three lines in `fuzz_targets` with
//! their `[[bin]]`, and a folder of named seeds in `corpus`; the tests say which of them is missing.

#![forbid(unsafe_code)]

pub mod address;
pub mod against_prost;
pub mod decoder;
pub mod input;
pub mod link;
pub mod mutate;
pub mod outbox;
pub mod peek;
pub mod proto;
pub mod relay;
pub mod roundtrip;
pub mod simnode;

/// A target: the name it has everywhere, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("address", address::run),
    ("decoder", decoder::run),
    ("link", link::run),
    ("outbox", outbox::run),
    ("peek", peek::run),
    ("proto", proto::run),
    ("relay", relay::run),
    ("roundtrip", roundtrip::run),
    ("simnode", simnode::run),
];
