//! The link as scripts: the first column is the time in milliseconds.

mod packets;
mod refresh;
mod refusals;
mod sessions;

extern crate std;

use core::convert::Infallible;
use std::string::String;
use std::vec::Vec;
use std::{format, vec};

use embedded_io::ErrorType;

use super::outgoing::{DISCONNECT, want_config};
use super::*;
use crate::{LinkConfig, frame, heartbeat};

/// A link with its transport: bytes it wrote, and how many it takes.
struct Bench {
    link: Link<8>,
    wire: Wire,
    now: Instant,
}

#[derive(Default)]
struct Wire {
    written: Vec<u8>,
    /// How many bytes a write takes; `None` is any.
    takes: Option<usize>,
}

impl ErrorType for Wire {
    type Error = Infallible;
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> Result<usize, Infallible> {
        let n = self.takes.unwrap_or(usize::MAX).min(buf.len());
        self.written.extend_from_slice(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl Bench {
    fn new(config: LinkConfig) -> Self {
        let link = Link::new(config.check().unwrap(), 1);
        Self { link, wire: Wire::default(), now: Instant::ORIGIN }
    }

    /// One with its session up since 0 ms, at a node that answers heartbeats.
    fn up(config: LinkConfig) -> Self {
        let mut bench = Self::new(config);
        bench.link.open(bench.now);
        bench.at(0, "open_due");
        bench.link.handle_opened(bench.now);
        bench.at(0, "opened");
        bench.receive(&framed(ANSWER));
        bench.shake_hands(7);
        bench.at(0, "configured 00000007");
        bench.drain();
        bench
    }

    fn shake_hands(&mut self, node: u8) {
        let nonce = self.asked_nonce();
        self.receive(&framed(&[0x1A, 2, 0x08, node]));
        self.receive(&framed(&complete(nonce)));
    }

    fn asked_nonce(&mut self) -> u32 {
        self.drain();
        match self.link.state() {
            State::Configuring { asked: Asked::With { nonce, .. }, .. } => nonce,
            state => panic!("not asked in {state:?}"),
        }
    }

    /// Lets time pass to `ms`, deadline by deadline, answering no heartbeat, and compares all that
    /// happened on the way.
    #[track_caller]
    fn at(&mut self, ms: u64, expected: &str) {
        let mut seen = self.events();
        let end = Instant::from_millis(ms);
        for _ in 0..1000 {
            self.drain();
            match self.link.poll_timeout() {
                Some(due) if due <= end => {
                    assert!(due >= self.now, "a deadline in the past spins");
                    self.now = due;
                }
                _ => break,
            }
            self.link.handle_timeout(self.now);
            seen.extend(self.events());
        }
        self.now = end;
        self.drain();
        seen.extend(self.events());
        assert_eq!(seen.join(", "), expected, "at {ms} ms");
    }

    fn events(&mut self) -> Vec<String> {
        core::iter::from_fn(|| self.link.poll_event()).map(describe).collect()
    }

    fn drain(&mut self) {
        while let Ok(Transmit::Wrote(_)) = self.link.poll_transmit(self.now, &mut self.wire) {}
    }

    /// Offers bytes until all are taken; returns the payloads.
    fn receive(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut rest = bytes;
        loop {
            let received = self.link.handle_bytes(self.now, rest);
            rest = &rest[received.taken..];
            match received.item {
                Some(Item::Frame { payload, .. }) => frames.push(payload.to_vec()),
                Some(Item::Noise(_)) => {}
                None if rest.is_empty() => break,
                None => {}
            }
        }
        self.drain();
        frames
    }

    fn close(&mut self, class: Class) {
        self.link.handle_closed(self.now, class.into());
    }

    /// The payloads written since the last call.
    fn written(&mut self) -> Vec<Vec<u8>> {
        let written = core::mem::take(&mut self.wire.written);
        let mut frames = Vec::new();
        let mut rest = &written[..];
        while let [0x94, 0xC3, 0, len, tail @ ..] = rest {
            let (payload, after) = tail.split_at((*len).into());
            frames.push(payload.to_vec());
            rest = after;
        }
        assert!(rest.is_empty(), "half a frame or noise: {rest:02x?}");
        frames
    }
}

fn describe(event: Event) -> String {
    match event {
        Event::OpenDue => "open_due".into(),
        Event::Opened => "opened".into(),
        Event::Configured { node, .. } => format!("configured {node:08x}"),
        Event::Refreshed { .. } => "refreshed".into(),
        Event::NodeChanged { from, to } => format!("node {from:08x} -> {to:08x}"),
        Event::Suspected => "suspected".into(),
        Event::Recovered => "recovered".into(),
        Event::FoundMute => "mute".into(),
        Event::Rebooted => "rebooted".into(),
        Event::Lost { fault, .. } => format!("lost: {fault}"),
        Event::Contended { sessions } => format!("contended {sessions}"),
        Event::Packet(packet) => format!("packet {:?}", packet.state),
        Event::SaidGoodbye => "goodbye".into(),
        Event::Closed => "closed".into(),
    }
}

/// A queue status without an id: what a node answers to a heartbeat.
const ANSWER: &[u8] = b"\x5A\x04\x10\x10\x18\x10";
const TEXT: &[u8] = b"\x12\x0A\x22\x06\x08\x01\x12\x02hi\x50\x01";

fn framed(payload: &[u8]) -> Vec<u8> {
    frame::encode(payload, &mut [0; frame::MAX_FRAME]).unwrap().to_vec()
}

fn complete(nonce: u32) -> Vec<u8> {
    let mut payload = want_config(nonce);
    payload[0] = 0x38;
    payload.to_vec()
}
