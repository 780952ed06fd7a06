//! Packets: accepted, written, confirmed or not, paced, written again.

use super::*;
use crate::outbox::PacketState;

/// A queue status as the node sends it.
pub(super) fn status(res: u8, free: u8, id: u32) -> Vec<u8> {
    let mut inner = vec![0x08, res, 0x10, free, 0x18, 16, 0x20];
    let mut rest = id;
    while rest >= 0x80 {
        inner.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    inner.push(rest as u8);
    framed(&[vec![0x5A, inner.len() as u8], inner].concat())
}

/// A Routing reply of this node with this error.
pub(super) fn reply(from: u8, id: u32, error: u8) -> Vec<u8> {
    let mut packet = b"\x12\x12\x0D\x07\x00\x00\x00\x22\x0B\x08\x05\x12\x02\x18\x00\x35".to_vec();
    (packet[3], packet[14]) = (from, error);
    packet.extend(id.to_le_bytes());
    framed(&packet)
}

pub(super) const ALL: u32 = u32::MAX;
pub(super) const TEXT_PORT: u8 = 1;
const POSITION: u8 = 3;
pub(super) const ADMIN: u8 = 6;

/// `ToRadio { packet { to, decoded { port, "x" }, want_ack, id } }`
pub(super) fn packet(port: u8, to: u32, want_ack: bool, id: u32) -> Vec<u8> {
    let mut inner = vec![0x15];
    inner.extend(to.to_le_bytes());
    inner.extend([0x22, 5, 0x08, port, 0x12, 1, b'x', 0x50, want_ack.into(), 0x35]);
    inner.extend(id.to_le_bytes());
    [vec![0x0A, inner.len() as u8], inner].concat()
}

impl Bench {
    /// Up at a node that answers heartbeats, in quiet, at 10 s.
    pub(super) fn settled() -> Self {
        let mut bench = Self::up(LinkConfig::default());
        bench.at(2000, "");
        bench.receive(&framed(ANSWER));
        bench.at(10_000, "");
        bench.written();
        bench
    }

    #[track_caller]
    pub(super) fn text(&mut self, sender: u16) -> u32 {
        self.send(sender, &packet(TEXT_PORT, ALL, false, 0))
    }

    #[track_caller]
    pub(super) fn send(&mut self, sender: u16, payload: &[u8]) -> u32 {
        let id = self.link.send(self.now, sender, payload, None).unwrap();
        self.drain();
        id
    }

    /// The ids of the packets written since the last call; heartbeats are 0.
    pub(super) fn ids(&mut self) -> Vec<u32> {
        let id = |payload: Vec<u8>| match payload.last_chunk() {
            _ if payload == heartbeat::PLAIN => 0,
            Some(id) => u32::from_le_bytes(*id),
            None => panic!("{payload:02x?}"),
        };
        self.written().into_iter().map(id).collect()
    }

    /// All that became of packets since the last call.
    pub(super) fn fates(&mut self) -> Vec<(u32, PacketState)> {
        let mut fates = Vec::new();
        while let Some(event) = self.link.poll_event() {
            if let Event::Packet(packet) = event {
                fates.push((packet.id, packet.state));
            }
        }
        fates
    }

    /// Lets time pass without looking at events.
    pub(super) fn wait(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        self.drain();
        while let Some(due) = self.link.poll_timeout().filter(|due| *due <= end) {
            assert!(due >= self.now, "a deadline in the past spins");
            self.now = due;
            self.link.handle_timeout(due);
            self.drain();
        }
        self.now = end;
    }

    /// Loses the connection and comes up again at `node`.
    pub(super) fn reconnect(&mut self, node: u8) {
        self.close(Class::ConnectionReset);
        self.wait(3000);
        self.written();
        self.link.handle_opened(self.now);
        self.drain();
        self.receive(&framed(ANSWER));
        self.shake_hands(node);
        self.wire.written.clear();
        self.drain();
    }
}

#[test]
fn its_own_status_confirms() {
    let mut bench = Bench::settled();
    let id = bench.text(0);
    assert_eq!(bench.ids(), [id]);
    assert_eq!(bench.fates(), [(id, PacketState::Sent)]);
    bench.receive(&status(0, 15, id ^ 1));
    assert_eq!(bench.fates(), [], "a foreign id says nothing");
    bench.receive(&status(0, 15, id));
    assert_eq!(bench.fates(), [(id, PacketState::Confirmed)]);
    assert_eq!(bench.link.queued(), 0);
}

#[test]
fn nothing_is_written_before_the_handshake_is_done() {
    let mut bench = Bench::new(LinkConfig::default());
    let id = bench.text(0);
    bench.link.open(bench.now);
    bench.link.handle_opened(bench.now);
    bench.drain();
    assert_eq!(bench.written().len(), 2, "heartbeat and want_config_id");
    bench.shake_hands(7);
    assert_eq!(bench.ids(), [id]);
}

#[test]
fn one_packet_is_in_flight() {
    let mut bench = Bench::settled();
    let first = bench.send(0, &packet(ADMIN, 7, false, 0));
    let second = bench.send(0, &packet(ADMIN, 7, false, 0));
    assert_eq!(bench.ids(), [first]);
    bench.receive(&status(0, 15, first));
    assert_eq!(bench.ids(), [second]);
}

/// The table of `res` in `WIRE.md`.
#[test]
fn refusals_as_the_table_says() {
    use PacketState::{Confirmed, Queued, Refused};
    for (res, to, want_ack, fate) in [
        (0, ALL, false, Confirmed),
        (32, ALL, false, Queued),
        (32, ALL, true, Confirmed),
        (35, 7, false, Confirmed),
        (35, 8, false, Refused(35)),
        (33, ALL, false, Queued),
        (9, ALL, false, Queued),
        (6, ALL, false, Refused(6)),
        (7, ALL, false, Refused(7)),
        (34, ALL, false, Refused(34)),
        (36, ALL, false, Refused(36)),
        (39, ALL, false, Refused(39)),
        (99, ALL, false, Refused(99)),
    ] {
        let mut bench = Bench::settled();
        let id = bench.send(0, &packet(TEXT_PORT, to, want_ack, 0));
        bench.fates();
        bench.receive(&status(res, 15, id));
        assert_eq!(bench.fates(), [(id, fate)], "res {res} to {to:x}, want_ack {want_ack}");
    }
}

#[test]
fn a_full_queue_is_tried_again_under_a_fresh_id() {
    let mut bench = Bench::settled();
    let id = bench.text(0);
    assert_eq!(bench.ids(), [id]);
    bench.receive(&status(32, 15, id));
    bench.wait(9_999);
    assert_eq!(bench.ids(), []);
    bench.wait(1);
    let [again] = bench.ids()[..] else { panic!("written once") };
    assert_ne!(again, id, "the node would swallow an id that it knows");
    bench.receive(&status(0, 15, again));
    assert_eq!(bench.fates().last(), Some(&(id, PacketState::Confirmed)));
}

#[test]
fn what_is_refused_to_its_end_is_refused_and_not_expired() {
    let mut bench = Bench::settled();
    let payload = packet(TEXT_PORT, ALL, false, 5);
    let ttl = Some(Span::from_secs(60));
    let id = bench.link.send(bench.now, 0, &payload, ttl).unwrap();
    bench.drain();
    bench.receive(&status(9, 15, id));
    bench.wait(60_000);
    assert_eq!(bench.fates().last(), Some(&(5, PacketState::Refused(9))));
}

#[test]
fn a_lost_status_is_replaced_by_a_barrier() {
    let mut bench = Bench::settled();
    let id = bench.text(0);
    bench.wait(2999);
    assert_eq!(bench.ids(), [id]);
    bench.wait(1);
    assert_eq!(bench.ids(), [0], "a heartbeat after 3 s");
    bench.receive(&framed(ANSWER));
    bench.wait(0);
    assert_eq!(bench.fates(), [(id, PacketState::Sent)], "a status may have been overtaken");
    assert_eq!(bench.ids(), [0], "the second answer cannot overtake it");
    bench.receive(&framed(ANSWER));
    bench.wait(0);
    assert_eq!(bench.fates(), [(id, PacketState::Confirmed)]);
}

#[test]
fn a_status_that_the_barrier_overtook_still_decides() {
    let mut bench = Bench::settled();
    let id = bench.text(0);
    bench.wait(3000);
    bench.receive(&framed(ANSWER));
    bench.wait(500);
    bench.receive(&status(6, 15, id));
    assert_eq!(bench.fates().last(), Some(&(id, PacketState::Refused(6))));
}

#[test]
fn a_barrier_proves_nothing_without_room_told_before() {
    let mut fresh = Bench::new(LinkConfig::default());
    fresh.link.open(fresh.now);
    fresh.link.handle_opened(fresh.now);
    fresh.shake_hands(7);
    fresh.wait(1);
    fresh.wire.written.clear();
    let id = fresh.text(0);
    assert_eq!(fresh.ids(), [id], "no `free` was told yet: it may be tried");
    fresh.wait(3000);
    for _ in 0..3 {
        fresh.receive(&framed(ANSWER)); // To the probe, which may stand for the first barrier.
        fresh.wait(0);
    }
    assert_eq!(fresh.fates().last(), Some(&(id, PacketState::Unknown)));
}

#[test]
fn after_a_full_queue_three_answers_are_needed() {
    let mut bench = Bench::settled();
    bench.receive(&status(0, 0, 99));
    bench.receive(&status(0, 4, 0)); // The unasked one.
    let id = bench.text(0);
    assert_eq!(bench.ids(), [id]);
    bench.wait(3000);
    assert_eq!(bench.ids(), [0]);
    for _ in 0..2 {
        bench.receive(&framed(ANSWER));
        assert_eq!(bench.ids(), [0], "asked again");
    }
    bench.wait(2000);
    assert_eq!(bench.fates(), [(id, PacketState::Sent)]);
    bench.receive(&framed(ANSWER));
    bench.wait(0);
    assert_eq!(bench.fates(), [(id, PacketState::Confirmed)]);
}

#[test]
fn nothing_is_sent_to_a_full_queue_and_the_room_is_asked_for() {
    let mut bench = Bench::settled();
    bench.receive(&status(0, 0, 99));
    let id = bench.text(0);
    bench.wait(2999);
    assert_eq!(bench.ids(), []);
    bench.wait(1);
    assert_eq!(bench.ids(), [0]);
    bench.wait(3000);
    assert_eq!(bench.ids(), [0], "a missing answer is asked for again");
    bench.receive(&framed(ANSWER));
    assert_eq!(bench.ids(), [id]);
}

#[test]
fn a_node_whose_answers_are_taken_makes_it_unknown() {
    let mut bench = Bench::settled();
    let id = bench.text(0);
    assert_eq!(bench.fates(), [(id, PacketState::Sent)]);
    for _ in 0..40 {
        bench.wait(1000);
        bench.receive(&framed(TEXT)); // The node lives.
    }
    assert_eq!(bench.fates(), [(id, PacketState::Unknown)]);
    assert_eq!(bench.ids(), [id, 0, 0, 0, 0], "four barriers");
}

#[test]
fn a_dead_node_does_not_make_it_unknown() {
    let mut bench = Bench::settled();
    let id = bench.text(0);
    bench.at(
        38_500,
        "packet Sent, suspected, lost: no answer to heartbeats, packet Queued, open_due",
    );
    bench.link.handle_opened(bench.now);
    bench.drain();
    bench.receive(&framed(ANSWER));
    bench.wire.written.clear();
    bench.shake_hands(7);
    bench.wire.written.clear();
    bench.drain();
    bench.receive(&status(0, 15, id));
    assert_eq!(bench.fates().last(), Some(&(id, PacketState::Confirmed)));
}

#[test]
fn what_was_not_confirmed_goes_again_under_the_same_id() {
    let mut bench = Bench::settled();
    let first = bench.text(0);
    let second = bench.text(0);
    assert_eq!(bench.ids(), [first]);
    bench.reconnect(7);
    assert_eq!(bench.ids(), []);
    assert!(matches!(bench.link.state(), State::Up { .. }));
    bench.receive(&status(0, 15, first));
    bench.wait(2050);
    assert_eq!(bench.ids(), [second], "in order, paced from the confirmation");
}

#[test]
fn another_node_gets_nothing_that_was_meant_for_the_first() {
    let mut bench = Bench::settled();
    let (written, waiting) = (bench.text(0), bench.text(0));
    bench.fates();
    bench.reconnect(8);
    let fates = bench.fates();
    assert!(fates.contains(&(written, PacketState::Unknown)), "{fates:?}");
    assert!(!fates.contains(&(waiting, PacketState::Unknown)), "no byte of it was written");
}

#[test]
fn five_minutes_after_its_first_write_it_is_unknown() {
    let mut bench = Bench::settled();
    let id = bench.text(0);
    bench.close(Class::ConnectionReset);
    for _ in 0..20 {
        bench.wait(15_000);
        bench.fates_until_open();
    }
    assert_eq!(bench.link.queued(), 0, "{id}");
}

impl Bench {
    fn fates_until_open(&mut self) {
        while let Some(event) = self.link.poll_event() {
            if event == Event::OpenDue {
                self.close(Class::ConnectionRefused);
            }
        }
    }
}

#[test]
fn what_was_never_written_expires() {
    let mut bench = Bench::new(LinkConfig::default());
    let id = bench.text(0);
    bench.wait(3_599_999);
    assert_eq!(bench.fates(), [(id, PacketState::Queued)]);
    bench.wait(1);
    assert_eq!(bench.fates(), [(id, PacketState::Expired)]);
}

#[test]
fn texts_are_two_seconds_apart_and_other_ports_are_not_held_up() {
    let mut bench = Bench::settled();
    let (a, b) = (bench.text(0), bench.text(0));
    let position = bench.send(0, &packet(POSITION, ALL, false, 0));
    bench.wait(300);
    bench.receive(&status(0, 15, a));
    assert_eq!(bench.ids(), [a, position]);
    bench.receive(&status(0, 15, position));
    bench.wait(2049);
    assert_eq!(bench.ids(), [], "2 s and 50 ms after the status, not after the write");
    bench.wait(1);
    assert_eq!(bench.ids(), [b]);
}

#[test]
fn a_new_connection_is_not_paced_by_the_old() {
    let mut bench = Bench::settled();
    let a = bench.send(0, &packet(POSITION, ALL, false, 0));
    bench.receive(&status(0, 15, a));
    bench.reconnect(7);
    let b = bench.send(0, &packet(POSITION, ALL, false, 0));
    assert_eq!(bench.ids(), [b]);
}

#[test]
fn senders_are_served_in_turn() {
    let mut bench = Bench::settled();
    let first: Vec<u32> = (0..3).map(|_| bench.text(1)).collect();
    let second: Vec<u32> = (0..2).map(|_| bench.text(2)).collect();
    let mut written = Vec::new();
    for _ in 0..5 {
        let ids = bench.ids();
        bench.receive(&status(0, 15, ids[0]));
        written.extend(ids);
        bench.wait(2050);
    }
    assert_eq!(written, [first[0], second[0], first[1], second[1], first[2]]);
}

/// A turn that went round by sender numbers passed over whoever was held up by the rate limit just
/// then, again and again.
#[test]
fn a_sender_of_another_port_number_costs_nobody_a_turn() {
    let mut bench = Bench::settled();
    let chatty: Vec<u32> = (0..3).map(|_| bench.text(1)).collect();
    let patient = bench.text(2);
    let mut texts = Vec::new();
    for _ in 0..4 {
        let [text] = bench.ids()[..] else { panic!("one text in its time") };
        bench.receive(&status(0, 15, text));
        texts.push(text);
        let admin = bench.send(3, &packet(ADMIN, 7, false, 0));
        assert_eq!(bench.ids(), [admin]);
        bench.receive(&status(0, 15, admin));
        bench.wait(2050);
    }
    assert_eq!(texts, [chatty[0], patient, chatty[1], chatty[2]]);
}

/// The connection was lost before a byte of it was written.
#[test]
fn a_turn_that_came_to_nothing_is_not_counted() {
    let mut bench = Bench::settled();
    let own: Vec<u32> = (0..3).map(|_| bench.text(1)).collect();
    let other = bench.text(2);
    bench.receive(&status(0, 15, own[0]));
    assert_eq!(bench.ids(), [own[0]]);
    bench.wire.takes = Some(0);
    bench.wait(2050);
    assert_eq!(bench.ids(), []);
    bench.close(Class::ConnectionReset);
    bench.wire.takes = None;
    bench.fates();
    bench.reconnect(7);
    assert!(bench.fates().contains(&(other, PacketState::Sent)));
}

#[test]
fn a_sender_has_its_quota_and_the_outbox_its_end() {
    let mut config = LinkConfig::default();
    config.outbox.quota = 5;
    let mut bench = Bench::new(config);
    for _ in 0..5 {
        bench.text(1);
    }
    let text = packet(TEXT_PORT, ALL, false, 0);
    assert_eq!(bench.link.send(bench.now, 1, &text, None), Err(SendError::Quota));
    for _ in 0..3 {
        bench.text(2);
    }
    assert_eq!(bench.link.send(bench.now, 2, &text, None), Err(SendError::Full));
}

#[test]
fn wrong_packets_are_refused_at_once() {
    let mut bench = Bench::settled();
    bench.send(0, &packet(TEXT_PORT, ALL, false, 77));
    let again = packet(TEXT_PORT, ALL, false, 77);
    assert_eq!(bench.link.send(bench.now, 0, &again, None), Err(SendError::Duplicate));
    assert_eq!(bench.link.send(bench.now, 0, b"\x3A\x00", None), Err(SendError::NotAPacket));
}

#[test]
fn a_routing_reply_decides_when_the_status_was_lost() {
    for (error, fate) in [
        (0, PacketState::Confirmed),
        (5, PacketState::Confirmed),
        (6, PacketState::Refused(6)),
        (7, PacketState::Refused(7)),
    ] {
        let mut bench = Bench::settled();
        let id = bench.send(0, &packet(TEXT_PORT, ALL, true, 0));
        bench.receive(&reply(7, id ^ 1, error));
        bench.receive(&reply(7, id, error));
        assert_eq!(bench.fates(), [(id, fate)], "error {error}");
    }
}

#[test]
fn closing_drains_what_waits_and_answers_the_rest() {
    let mut bench = Bench::settled();
    let ids: Vec<u32> = (0..8).map(|_| bench.text(0)).collect();
    bench.link.close(bench.now);
    let text = packet(TEXT_PORT, ALL, false, 0);
    assert_eq!(bench.link.send(bench.now, 0, &text, None), Err(SendError::Closing));
    for id in &ids[..4] {
        bench.receive(&status(0, 15, *id));
        bench.wait(2050);
    }
    bench.wait(10_000);
    let mut ends: Vec<_> = bench.fates().into_iter().filter(|(_, s)| s.is_final()).collect();
    ends.sort_by_key(|(id, _)| ids.iter().position(|own| own == id));
    let states: Vec<_> = ends.iter().map(|(_, state)| *state).collect();
    assert_eq!(states[..4], [PacketState::Confirmed; 4]);
    assert_eq!(states[4], PacketState::Unknown, "it was written");
    assert_eq!(states[5..], [PacketState::Expired; 3]);
    assert_eq!(bench.link.state(), State::Closed);
}

#[test]
fn closing_an_empty_outbox_does_not_wait() {
    let mut bench = Bench::settled();
    bench.link.close(bench.now);
    bench.at(10_000, "goodbye");
}

/// The first write may have been taken: a refusal of the second says nothing of the packet, and a
/// fresh id would make two of it.
#[test]
fn a_refusal_of_what_was_written_before_is_unknown() {
    for res in [7, 9, 32, 33] {
        let mut bench = Bench::settled();
        let id = bench.text(0);
        assert_eq!(bench.ids(), [id]);
        bench.reconnect(7);
        bench.wait(1000);
        assert_eq!(bench.ids(), [id]);
        bench.receive(&status(res, 15, id));
        assert_eq!(bench.fates().last(), Some(&(id, PacketState::Unknown)), "res {res}");
    }
}

/// Statuses outlive the connection in the node.
#[test]
fn the_status_of_the_connection_before_decides() {
    let mut bench = Bench::settled();
    let id = bench.text(0);
    assert_eq!(bench.ids(), [id]);
    bench.reconnect(7);
    bench.wait(999);
    bench.receive(&status(0, 15, id));
    assert_eq!(bench.fates().last(), Some(&(id, PacketState::Confirmed)));
    bench.wait(5000);
    assert!(!bench.ids().contains(&id), "it is not written again");
}

/// A late answer to a heartbeat that was written before the packet proves nothing of it.
#[test]
fn an_answer_to_an_earlier_heartbeat_is_no_barrier() {
    let mut bench = Bench::settled();
    let first = bench.text(0);
    bench.wait(3000);
    assert_eq!(bench.ids(), [first, 0]);
    bench.receive(&status(0, 15, first));
    let second = bench.text(0);
    bench.wait(2050);
    assert_eq!(bench.ids(), [second]);
    bench.wait(3000);
    assert_eq!(bench.ids(), [0]);
    bench.receive(&framed(ANSWER)); // To the first heartbeat.
    bench.receive(&framed(ANSWER)); // To the second.
    bench.wait(0);
    assert_eq!(bench.fates().last(), Some(&(second, PacketState::Sent)));
    bench.receive(&framed(ANSWER));
    bench.wait(0);
    assert_eq!(bench.fates().last(), Some(&(second, PacketState::Confirmed)));
}
