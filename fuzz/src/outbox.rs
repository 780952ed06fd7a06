//! The outbox under any sequence of calls that a link may make: every packet that was taken ends
//! once, one is in flight at a time, those of one sender and port number go in order, nothing is
//! told twice, and it never wakes its caller for nothing.

use meshbeat::relay::wire::{put_bytes, put_fixed32, put_varint};
use meshbeat_core::mutant::Mutation;
use meshbeat_core::outbox::{Outbox, OutboxConfig, PacketEvent, PacketState, SendError};
use meshbeat_core::peek::{self, QueueStatus};
use meshbeat_core::rng::Rng;
use meshbeat_core::{Instant, Span};

use crate::input::Input;

/// The first byte chooses the settings; then come operations, a byte each with its arguments
/// behind it.
///
/// # Panics
/// If the outbox breaks a promise.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut bench = Bench::new(input.byte());
    while !input.is_empty() {
        bench.operate(&mut input);
        bench.check();
    }
    bench.finish();
}

/// Places in the outbox.
const PLACES: usize = 5;
/// Packets of one sender.
const QUOTA: u16 = 3;
const PORTS: [u64; 4] = [1, 3, 70, 257];
const RESULTS: [i32; 12] = [0, 0, 0, 32, 33, 9, 6, 7, 34, 35, 36, -1];

/// An outbox with its link: what was taken, what is being written.
struct Bench {
    outbox: Outbox<PLACES>,
    rng: Rng,
    now: Instant,
    /// The node that is connected and configured.
    up: Option<u32>,
    writing: Option<Writing>,
    /// What was taken and has not ended, oldest first.
    kept: Vec<Kept>,
    /// Packets taken so far.
    taken: u32,
}

/// The packet in the link's buffer.
#[derive(Debug, Clone, Copy)]
struct Writing {
    order: u32,
    begun: bool,
}

#[derive(Debug)]
struct Kept {
    order: u32,
    id: u32,
    wire_id: u32,
    sender: u16,
    port: u64,
    /// A byte of it was written, under whichever id.
    begun: bool,
    /// The node to which it was written under this id.
    written_to: Option<u32>,
    told: Option<PacketState>,
}

impl Bench {
    fn new(bits: u8) -> Self {
        let mut config = OutboxConfig { quota: QUOTA, ..OutboxConfig::default() };
        if bits & 1 != 0 {
            let least = Span::from_millis(100);
            (config.ttl, config.resend_within) = (Span::from_secs(1), Span::ZERO);
            (config.patience, config.retry, config.retry_duty_cycle) = (least, least, least);
            (config.barriers, config.grace) = (1, Span::ZERO);
            (config.pacing.text, config.pacing.report) = (Span::ZERO, Span::ZERO);
            (config.pacing.traceroute, config.pacing.margin) = (Span::ZERO, Span::ZERO);
        }
        Self {
            outbox: Outbox::new(config, bits & 2 != 0, Mutation::NONE),
            rng: Rng::new(u64::from(bits)),
            now: Instant::ORIGIN,
            up: None,
            writing: None,
            kept: Vec::new(),
            taken: 0,
        }
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        match input.byte() & 15 {
            0 | 1 => self.accept(input),
            2 if self.up.is_none() => self.connect(u32::from(input.byte() & 3) + 1),
            3 if self.up.is_some() => {
                (self.up, self.writing) = (None, None);
                self.outbox.handle_lost();
            }
            4 => self.take(),
            5 => self.write(),
            // All of it at once.
            6 => {
                self.take();
                self.write();
                self.write();
            }
            7 | 8 => {
                let (res, free, about) = (input.byte(), input.byte() & 3, input.byte());
                let status = QueueStatus {
                    res: RESULTS[usize::from(res) % RESULTS.len()],
                    free: u32::from(free),
                    maxlen: 16,
                    id: self.wire_id(about),
                };
                self.outbox.handle_status(self.now, status, &mut self.rng);
            }
            9 => {
                let (from, about, error) = (input.byte() & 3, input.byte(), input.byte());
                let (request_id, error) = (self.wire_id(about), i32::from(error % 40));
                self.outbox.handle_reply(self.now, u32::from(from) + 1, request_id, error);
            }
            // A heartbeat: the link writes one frame at a time.
            10 if self.writing.is_none() => self.outbox.handle_asked(self.now),
            11 => self.outbox.handle_heard(),
            12 => self.pass(input.number::<2>(), false),
            13 => {
                let mute = input.byte() & 3 == 3;
                let deadline = match self.outbox.poll_timeout(self.can_send()) {
                    Instant::NEVER => self.now,
                    deadline => deadline,
                };
                self.pass(deadline.since(self.now).as_millis() as u64, mute);
            }
            14 => self.pass(input.number::<5>(), false),
            // The link closes; nothing is sent after it.
            15 if input.byte() & 15 == 0 => {
                (self.up, self.writing) = (None, None);
                self.outbox.handle_closing();
            }
            _ => {}
        }
    }

    fn accept(&mut self, input: &mut Input<'_>) {
        let (bits, id) = (input.byte(), u32::from(input.byte() & 7));
        let (sender, port) = (u16::from(bits & 3), PORTS[usize::from(bits >> 2 & 3)]);
        let ttl = [None, Some(Span::ZERO), Some(Span::from_secs(5)), None];
        let payload = payload(port, self.taken, id, bits & 16 != 0);
        let own = self.kept.iter().filter(|kept| kept.sender == sender).count();
        let room = self.outbox.room(sender);
        let taken = self.outbox.accept(
            self.now,
            sender,
            &payload,
            ttl[usize::from(bits >> 6)],
            &mut self.rng,
        );
        match taken {
            Ok(given) => {
                assert!(room > 0 && given != 0 && (id == 0 || given == id));
                self.kept.push(Kept {
                    order: self.taken,
                    id: given,
                    wire_id: given,
                    sender,
                    port,
                    begun: false,
                    written_to: None,
                    told: None,
                });
                self.taken += 1;
            }
            Err(SendError::Full) => assert_eq!(self.kept.len(), PLACES),
            Err(SendError::Quota) => assert_eq!((room, own), (0, usize::from(QUOTA))),
            Err(SendError::Duplicate) => assert_ne!(id, 0),
            Err(error) => panic!("{error}: {payload:02x?}"),
        }
    }

    fn connect(&mut self, node: u32) {
        self.outbox.handle_opened();
        self.outbox.handle_configured(self.now, node);
        self.up = Some(node);
    }

    fn can_send(&self) -> bool {
        self.up.is_some() && self.writing.is_none()
    }

    /// The next packet goes into the link's buffer.
    fn take(&mut self) {
        if !self.can_send() {
            return;
        }
        let in_flight = self.outbox.is_in_flight();
        let Some(payload) = self.outbox.poll_packet(self.now) else { return };
        assert!(!in_flight, "two in flight");
        assert!(peek::is_to_radio(payload), "{payload:02x?}");
        let id = payload.last_chunk().map_or(0, |id| u32::from_le_bytes(*id));
        let order = order_of(payload);
        let place = self.kept.iter().position(|kept| kept.order == order);
        let Some(place) = place else { panic!("packet {order} has ended or was never taken") };
        let (older, rest) = self.kept.split_at_mut(place);
        let kept = &mut rest[0];
        for other in older {
            let same = (other.sender, other.port) == (kept.sender, kept.port);
            assert!(!same, "{order} goes before {}", other.order);
        }
        if id != kept.wire_id {
            (kept.wire_id, kept.written_to) = (id, None);
        }
        let elsewhere = kept.written_to.is_some_and(|node| Some(node) != self.up);
        assert!(!elsewhere, "written to two nodes: {kept:?}");
        self.writing = Some(Writing { order, begun: false });
    }

    /// The first bytes are written, or else the last.
    fn write(&mut self) {
        let Some(writing) = &mut self.writing else { return };
        if writing.begun {
            self.outbox.handle_sent(self.now);
            self.writing = None;
            return;
        }
        writing.begun = true;
        self.outbox.handle_begun(self.now);
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.order == writing.order) {
            (kept.begun, kept.written_to) = (true, self.up);
        }
    }

    /// The id of one of the packets, of none, or one that nobody here has given.
    fn wire_id(&self, choice: u8) -> u32 {
        match usize::from(choice & 7) {
            7 => 0,
            6 => 0xBAD,
            at => self.kept.get(at).map_or(0, |kept| kept.wire_id),
        }
    }

    fn pass(&mut self, millis: u64, mute: bool) {
        self.now = Instant::from_millis(self.now.as_millis().saturating_add(millis));
        // As the link does: what the transport has not begun to take may have become too old.
        let unbegun = self.writing.as_ref().is_some_and(|writing| !writing.begun);
        if unbegun && self.outbox.withdraw(self.now) {
            self.writing = None;
        }
        self.outbox.handle_timeout(self.now, mute);
        let at = self.outbox.poll_timeout(false);
        assert!(at > self.now || at == Instant::NEVER, "it spins at {:?}", self.now);
        self.check();
    }

    /// What holds after every call.
    fn check(&mut self) {
        while let Some(event) = self.outbox.poll_event() {
            self.note(event);
        }
        assert_eq!(self.outbox.len(), self.kept.len());
        let sent = self.kept.iter().filter(|kept| kept.told == Some(PacketState::Sent)).count();
        assert!(sent <= 1, "{sent} in flight: {:?}", self.kept);
        for kept in &self.kept {
            let same = self.kept.iter().filter(|other| other.id == kept.id).count();
            assert_eq!(same, 1, "the same id twice: {:?}", self.kept);
        }
        // What is due now can be done now.
        if self.can_send() && self.outbox.poll_timeout(true) <= self.now {
            self.outbox.handle_timeout(self.now, false);
            while let Some(event) = self.outbox.poll_event() {
                self.note(event);
            }
            if self.outbox.poll_timeout(true) <= self.now {
                self.take();
                assert!(self.writing.is_some(), "woken for nothing at {:?}", self.now);
            }
        }
    }

    fn note(&mut self, event: PacketEvent) {
        let Some(place) = self.kept.iter().position(|kept| kept.id == event.id) else {
            panic!("of a packet that has ended or was never taken: {event:?}");
        };
        let kept = &mut self.kept[place];
        assert_ne!(kept.told, Some(event.state), "told twice: {event:?}");
        assert_eq!(kept.sender, event.sender);
        kept.told = Some(event.state);
        if kept.wire_id != event.wire_id {
            (kept.wire_id, kept.written_to) = (event.wire_id, None);
        }
        match event.state {
            PacketState::Queued => return,
            PacketState::Expired => assert!(!kept.begun, "written and expired: {kept:?}"),
            _ => assert!(kept.begun, "never written: {kept:?}"),
        }
        if event.state.is_final() {
            let order = kept.order;
            self.kept.remove(place);
            // Nothing follows that would be written of it.
            assert!(self.writing.is_none_or(|writing| writing.order != order || writing.begun));
        }
    }

    fn finish(&mut self) {
        (self.up, self.writing) = (None, None);
        self.outbox.handle_closing();
        self.check();
        assert!(self.kept.is_empty() && self.outbox.is_empty(), "{:?}", self.kept);
    }
}

/// A packet whose content is its place in the order.
fn payload(port: u64, order: u32, id: u32, want_ack: bool) -> Vec<u8> {
    let mut data = Vec::new();
    put_varint(&mut data, 1, port);
    put_bytes(&mut data, 2, &order.to_le_bytes());
    let mut packet = Vec::new();
    put_bytes(&mut packet, 4, &data);
    put_fixed32(&mut packet, 6, id);
    put_varint(&mut packet, 10, want_ack.into());
    let mut payload = Vec::new();
    put_bytes(&mut payload, 1, &packet);
    payload
}

fn order_of(to_radio: &[u8]) -> u32 {
    use meshbeat::relay::wire::message;
    let data = message(to_radio, 1).and_then(|packet| message(packet, 4));
    let order = data.and_then(|data| message(data, 2)).and_then(<[u8]>::first_chunk);
    u32::from_le_bytes(*order.expect("what was taken is written"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(bits: u8, operations: &[u8]) -> Bench {
        let mut bench = Bench::new(bits);
        let mut input = Input::new(operations);
        while !input.is_empty() {
            bench.operate(&mut input);
            bench.check();
        }
        bench
    }

    /// The harness reaches where the promises matter, else its silence would mean nothing.
    #[test]
    fn packets_are_written_confirmed_and_refused() {
        // Two packets, connected, written; confirmed; the other written and refused with 6.
        let bench = played(1, &[0, 0, 5, 0, 1, 6, 2, 0, 6, 7, 0, 1, 0]);
        assert_eq!((bench.taken, bench.kept.len()), (2, 1));
        let mut bench = played(1, &[0, 0, 5, 2, 0, 6, 7, 6, 1, 0]);
        assert_eq!((bench.taken, bench.kept.len()), (1, 0));
        bench.finish();
    }

    #[test]
    fn a_packet_waits_for_the_next_connection() {
        let mut bench = played(0, &[0, 0, 5, 2, 0, 6, 3]);
        assert_eq!(bench.kept[0].told, Some(PacketState::Queued));
        assert_eq!(bench.kept[0].written_to, Some(1));
        // Another node answers.
        bench.operate(&mut Input::new(&[2, 1]));
        bench.check();
        assert_eq!(bench.kept.len(), 0);
    }

    #[test]
    fn barriers_are_asked() {
        // Room is told; written, no status; a heartbeat, its answer, both once more; confirmed.
        let operations = [
            &[0, 0, 5, 2, 0, 7, 0, 3, 7, 6, 12, 16, 0][..],
            &[10, 7, 0, 3, 7, 10, 7, 0, 3, 7, 13, 0],
        ];
        let bench = played(0, &operations.concat());
        assert_eq!(bench.kept.len(), 0, "{:?}", bench.kept);
    }
}
