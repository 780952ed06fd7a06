//! The link under any sequence of calls that a caller may make: no panic, no spin, nothing written
//! but whole frames from the start of each connection on, events and retries within their bounds,
//! and what it hands out is what the slow decoder finds.

use embedded_io::{ErrorKind, ErrorType, Write};
use meshbeat_core::config::LinkConfig;
use meshbeat_core::fault::{Class, Fault};
use meshbeat_core::frame::{HEADER_LEN, MAGIC, WAKE};
use meshbeat_core::link::{Asked, Event, Item, Link, State, Transmit};
use meshbeat_core::{Instant, Span, peek};

use crate::decoder::{Found, Rule, Slow, note};
use crate::input::Input;

/// The first byte chooses the settings, the second the seed; then come operations, a byte each
/// with its arguments behind it.
///
/// # Panics
/// If the link breaks a promise.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let config = config(input.byte());
    let mut bench = Bench::new(config, input.byte().into());
    // Time may begin anywhere; its second half is left for deadlines.
    bench.now = Instant::from_millis(input.number::<8>() >> input.byte().min(63) >> 1);
    bench.play(input.rest());
}

/// TCP, serial, or the least spans that are allowed.
fn config(choice: u8) -> LinkConfig {
    let mut config = match choice & 1 {
        0 => LinkConfig::default(),
        _ => LinkConfig::SERIAL,
    };
    if choice & 2 != 0 {
        let least = Span::from_millis(100);
        (config.heartbeat.quiet, config.heartbeat.answer) = (least, least);
        (config.heartbeat.mute, config.heartbeat.keepalive) = (least, least);
        (config.heartbeat.again, config.heartbeat.strikes) = (least, 1);
        (config.backoff.first, config.backoff.cap) = (Span::from_millis(1), least);
        (config.handshake.silence, config.handshake.limit) = (least, least);
        config.handshake.gap = Span::ZERO;
        config.connect_limit = least;
        config.close_limit = Span::from_millis(1);
        config.young = Span::ZERO;
    }
    config
}

/// A link with its caller: whether a transport is there, what was written to it, what came in.
struct Bench {
    link: Link,
    config: LinkConfig,
    now: Instant,
    wire: Wire,
    /// The link has asked for a transport and heard nothing of it yet.
    wanted: bool,
    open: bool,
    closed: bool,
    slow: Slow,
    /// When the last whole `want_config_id` was written.
    asked: Option<Instant>,
}

impl Bench {
    fn new(config: LinkConfig, seed: u64) -> Self {
        let link = Link::new(config.check().expect("settings within their bounds"), seed);
        Self {
            link,
            config,
            now: Instant::ORIGIN,
            wire: Wire::default(),
            wanted: false,
            open: false,
            closed: false,
            slow: Slow::default(),
            asked: None,
        }
    }

    fn play(&mut self, operations: &[u8]) {
        let mut input = Input::new(operations);
        while !input.is_empty() {
            self.operate(&mut input);
            self.check();
        }
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        match input.byte() & 0x0F {
            0 => self.link.open(self.now),
            1 if self.wanted => {
                (self.wanted, self.open) = (false, true);
                self.link.handle_opened(self.now);
            }
            // Out of turn: the late word of a transport that is gone.
            1 if !self.open => self.link.handle_opened(self.now),
            2 => {
                let len = usize::from(input.number::<2>() as u16 & 0x3FF);
                self.receive(input.bytes(len));
            }
            3 => self.receive(&frame(&my_info(input.byte() & 3))),
            4 => self.receive(&frame(&config_complete(self.nonce()))),
            // A queue status with id 0: the answer to a heartbeat.
            5 => self.receive(&frame(b"\x5A\x04\x10\x10\x18\x10")),
            6 => self.receive(&frame(b"\x40\x01")),
            7 => self.closed_by(Fault::from_errno(i32::from(input.byte()))),
            8 => {
                let class = Class::ALL[usize::from(input.byte()) % Class::ALL.len()];
                self.closed_by(Fault::new(class));
            }
            9 => self.pass(input.number::<2>()),
            10 => {
                let shift = input.byte().min(63);
                self.pass(input.number::<8>() >> shift);
            }
            11 => self.pass_to_deadline(),
            12 => self.transmit(1 + usize::from(input.byte()), 100),
            // The transport takes a few bytes and no more.
            13 => self.transmit(1 + usize::from(input.byte() & 7), usize::from(input.byte() & 7)),
            14 => {
                // `close` is final, so it is rarer than the rest.
                if input.byte() & 7 == 0 {
                    self.link.close(self.now);
                } else {
                    self.link.handle_opening(self.now);
                }
            }
            _ if self.open => {
                self.link.handle_end();
                self.flush();
            }
            _ => {}
        }
    }

    /// What holds after every call.
    fn check(&mut self) {
        self.drain_events();
        if !self.open {
            let before = self.wire.written.len();
            assert_eq!(self.link.poll_transmit(self.now, &mut self.wire), Ok(Transmit::Empty));
            assert_eq!(self.wire.written.len(), before, "written without a transport");
        }
        if self.closed {
            assert_eq!(self.link.state(), State::Closed);
            assert_eq!(self.link.poll_timeout(), None);
        }
        self.drain_events();
    }

    /// Events of one call, and what a caller does about them.
    fn drain_events(&mut self) {
        for _ in 0..6 {
            match self.link.poll_event() {
                None => return,
                Some(Event::OpenDue) => {
                    assert!(!self.open, "a second transport");
                    self.wanted = true;
                }
                Some(Event::Lost { retry_at, .. }) => {
                    let latest = self.now + self.config.backoff.crowded_cap;
                    assert!(retry_at <= latest, "{retry_at:?}");
                    self.drop_transport();
                }
                Some(Event::Closed) => {
                    assert!(!self.closed, "closed twice");
                    self.closed = true;
                    self.drop_transport();
                }
                Some(_) => assert!(!self.closed, "an event after the last"),
            }
        }
        panic!("events without end");
    }

    fn drop_transport(&mut self) {
        (self.open, self.wanted) = (false, false);
        self.wire.check_frames(self.config.serial.is_some());
        self.wire = Wire::default();
        self.slow = Slow::default();
    }

    fn receive(&mut self, bytes: &[u8]) {
        let found = self.offer(bytes);
        if !self.open {
            assert_eq!(found, []);
            return;
        }
        let expected = self.slow.decode(Rule::PEEK, bytes);
        // A serial line gives a torn frame up by the clock, which the slow decoder has not.
        if self.config.serial.is_none() {
            assert_eq!(found, expected, "of {bytes:02x?}");
        }
    }

    /// The stream has ended: everything held comes out.
    fn flush(&mut self) {
        let found = self.offer(&[]);
        let mut expected = Vec::new();
        while self.slow.held() > 0 {
            self.slow.give_up();
            for item in self.slow.decode(Rule::PEEK, &[]) {
                note(&mut expected, item);
            }
        }
        if self.config.serial.is_none() {
            assert_eq!(found, expected);
        }
    }

    fn offer(&mut self, bytes: &[u8]) -> Vec<Found> {
        let mut found = Vec::new();
        let mut at = 0;
        // Each item has a byte of its own; up to a frame was held before.
        for _ in 0..bytes.len() + 600 {
            let received = self.link.handle_bytes(self.now, &bytes[at..]);
            at += received.taken;
            match received.item {
                Some(Item::Frame { payload, message, .. }) => {
                    assert_eq!(peek::FromRadio::peek(payload), Some(message));
                    note(&mut found, Found::Frame(payload.to_vec()));
                }
                Some(Item::Noise(noise)) => note(&mut found, Found::Noise(noise.to_vec())),
                None => {
                    assert_eq!(at, bytes.len(), "stopped before the end");
                    return found;
                }
            }
            self.drain_events();
        }
        panic!("no end to {bytes:02x?}");
    }

    /// Reports a fault where a caller would: of a transport it has or was asked for, or late.
    fn closed_by(&mut self, fault: Fault) {
        self.link.handle_closed(self.now, fault);
        self.drain_events();
        assert!(!self.open, "open after {fault:?}");
    }

    fn pass(&mut self, millis: u64) {
        let then = Instant::from_millis(self.now.as_millis().saturating_add(millis));
        self.now = self.now.max(then.min(Instant::from_millis(u64::MAX >> 1)));
        self.time_out();
    }

    fn pass_to_deadline(&mut self) {
        if let Some(deadline) = self.link.poll_timeout() {
            self.now = self.now.max(deadline);
            self.time_out();
        }
    }

    /// The loop sleeps until the deadline, so after two calls it has to lie ahead.
    fn time_out(&mut self) {
        for _ in 0..2 {
            self.link.handle_timeout(self.now);
            self.drain_events();
            if self.config.serial.is_some() {
                self.offer(&[]);
            }
        }
        if let Some(deadline) = self.link.poll_timeout() {
            assert!(deadline > self.now, "{:?} spins at {:?}", self.link.state(), self.now);
        }
    }

    /// Drains with writes that take at most `most` bytes; after `writes` of them it takes
    /// none.
    fn transmit(&mut self, most: usize, writes: usize) {
        if !self.open {
            return;
        }
        (self.wire.takes, self.wire.writes) = (most, writes);
        loop {
            match self.link.poll_transmit(self.now, &mut self.wire) {
                Ok(Transmit::Wrote(_)) => self.note_question(),
                Ok(Transmit::Empty) => {
                    let half = self.wire.check_frames(self.config.serial.is_some());
                    assert_eq!(half, 0, "half a frame and nothing to write");
                    return;
                }
                Ok(Transmit::Blocked) | Err(Refused) => {
                    // The longest are wake-up, heartbeat, `want_config_id` and `disconnect`.
                    assert!(writes < 100, "writes without end");
                    return;
                }
            }
            self.drain_events();
            if !self.open {
                return;
            }
        }
    }

    /// Two `want_config_id` are never closer than the gap.
    fn note_question(&mut self) {
        if let State::Configuring { asked: Asked::With { since, .. }, .. } = self.link.state()
            && self.asked != Some(since)
            && let Some(before) = self.asked.replace(since)
        {
            assert!(since >= before + self.config.handshake.gap, "asked too soon");
        }
    }

    fn nonce(&self) -> u32 {
        match self.link.state() {
            State::Configuring { asked: Asked::With { nonce, .. }, .. } => nonce,
            _ => 1,
        }
    }
}

/// What was written since the transport was opened.
#[derive(Default)]
struct Wire {
    written: Vec<u8>,
    /// Bytes that one write takes.
    takes: usize,
    /// Writes until none are taken.
    writes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refused;

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("refused")
    }
}

impl core::error::Error for Refused {}

impl embedded_io::Error for Refused {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

impl ErrorType for Wire {
    type Error = Refused;
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> Result<usize, Refused> {
        assert!(!buf.is_empty(), "a write of nothing looks like a closed transport");
        // Not ready comes as an error from some transports and as nothing taken from others.
        let Some(left) = self.writes.checked_sub(1) else {
            return if self.takes.is_multiple_of(2) { Err(Refused) } else { Ok(0) };
        };
        self.writes = left;
        let n = self.takes.min(buf.len());
        self.written.extend_from_slice(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> Result<(), Refused> {
        Ok(())
    }
}

impl Wire {
    /// All that was written is wake-up bytes on serial and whole frames with a `ToRadio` each, but
    /// for the frame at the end, of which it returns how many bytes are there.
    fn check_frames(&self, serial: bool) -> usize {
        let mut rest = &self.written[..];
        if serial {
            let wake = rest.iter().take_while(|byte| **byte == WAKE[0]).count();
            // None, if the link is closed before it has said anything.
            let whole = [0, WAKE.len(), rest.len()].contains(&wake);
            assert!(whole, "{wake} wake-up bytes");
            rest = &rest[wake..];
        }
        while let [first, second, high, low, tail @ ..] = rest {
            assert_eq!([*first, *second], MAGIC, "no frame in {:02x?}", self.written);
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            let Some((payload, next)) = tail.split_at_checked(len) else { break };
            assert!(peek::is_to_radio(payload), "{payload:02x?}");
            assert_ne!(payload, [0x3A, 2, 8, 1], "nonce 1");
            rest = next;
        }
        assert!(rest.len() >= HEADER_LEN || MAGIC.starts_with(&rest[..rest.len().min(2)]));
        rest.len()
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 64];
    meshbeat_core::frame::encode(payload, &mut buffer).expect("a short payload").to_vec()
}

fn my_info(node: u8) -> [u8; 4] {
    [0x1A, 2, 0x08, node]
}

fn config_complete(nonce: u32) -> Vec<u8> {
    use prost::Message;
    let variant = meshbeat_proto::from_radio::PayloadVariant::ConfigCompleteId(nonce);
    meshbeat_proto::FromRadio { id: 0, payload_variant: Some(variant) }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use meshbeat_core::heartbeat::Answers;

    use super::*;

    /// The harness reaches where the invariants matter, else its silence would mean nothing.
    #[test]
    fn a_session_comes_up_beats_and_is_lost() {
        let mut bench = Bench::new(LinkConfig::default(), 1);
        // Open, opened, heartbeat and question written, answer, node number, end of handshake.
        bench.play(&[0, 1, 12, 255, 5, 3, 7, 4]);
        assert!(bench.link.state().is_up(), "{:?}", bench.link.state());
        // A second answer is the proof that this node gives them.
        bench.play(&[11, 12, 255, 5]);
        assert_eq!(bench.link.answers(), Answers::Proven);
        // It is asked a few times more, in vain.
        for _ in 0..20 {
            if bench.open {
                bench.play(&[11, 12, 255]);
            }
        }
        assert!(!bench.open && !bench.link.state().is_open(), "{:?}", bench.link.state());
        assert!(bench.link.stats().heartbeats >= 4 && bench.link.stats().answered == 2);
        // And again.
        while !bench.wanted {
            bench.play(&[11]);
        }
        bench.play(&[1, 12, 255, 3, 7, 4]);
        assert_eq!((bench.link.stats().sessions, bench.link.stats().attempts), (2, 2));
    }
}
