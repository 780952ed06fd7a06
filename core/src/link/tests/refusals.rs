//! What proves that the node took a packet, what proves that it did not, and what proves nothing:
//! each test is named after what went wrong without its rule.

use super::packets::{ADMIN, ALL, TEXT_PORT, packet, reply, status};
use super::*;
use crate::outbox::PacketState;

impl Bench {
    /// A packet that another node is told of, so that it may be answered.
    #[track_caller]
    fn direct(&mut self) -> u32 {
        self.send(0, &packet(TEXT_PORT, 9, true, 0))
    }

    /// Lets the outbox ask whether the packet in flight was read, and answers each time; at most
    /// five times.
    fn answer_barriers(&mut self) {
        for _ in 0..5 {
            self.wait(3000);
            self.receive(&framed(ANSWER));
            self.wait(0);
        }
    }

    #[track_caller]
    fn ended(&mut self, id: u32, state: PacketState) {
        assert_eq!(self.fates().last(), Some(&(id, state)));
    }

    /// Opens the serial line again after a loss, and configures the link with node 7.
    fn reconnect_serial(&mut self) {
        self.close(Class::ConnectionReset);
        self.wait(3000);
        self.wire.written.clear();
        self.link.handle_opened(self.now);
        self.wait(2000);
        self.receive(&framed(ANSWER));
        self.shake_hands(7);
        self.wire.written.clear();
        self.drain();
    }
}

/// A serial line that is up at node 7, in quiet.
fn serial() -> Bench {
    let mut bench = Bench::new(LinkConfig::SERIAL);
    bench.link.open(bench.now);
    bench.link.handle_opened(bench.now);
    bench.wait(2000);
    bench.receive(&framed(ANSWER));
    bench.shake_hands(7);
    bench.wait(2000);
    bench.receive(&framed(ANSWER));
    bench.wait(8000);
    bench.wire.written.clear();
    bench.fates();
    bench
}

/// The destination says that it has no such channel, or no key: so the packet has reached it.
#[test]
fn an_error_of_the_destination_is_no_refusal() {
    for error in [6, 7, 8, 33, 36] {
        let mut bench = Bench::settled();
        let id = bench.direct();
        bench.receive(&reply(9, id, error));
        bench.ended(id, PacketState::Confirmed);
        let mut bench = Bench::settled();
        let id = bench.direct();
        bench.receive(&reply(7, id, error));
        bench.ended(id, PacketState::Refused(error.into()));
    }
}

/// The node has sent the first write and says of the second that it would not.
#[test]
fn an_error_reply_to_what_was_written_before_is_unknown() {
    let mut bench = Bench::settled();
    let id = bench.direct();
    bench.reconnect(7);
    bench.wait(1000);
    assert_eq!(bench.ids(), [id]);
    bench.receive(&reply(7, id, 6));
    bench.ended(id, PacketState::Unknown);
}

/// The reply to the first write comes when the packet waits for the second: nothing says that it
/// is about a packet of this connection.
#[test]
fn a_reply_decides_on_what_is_in_flight_alone() {
    let mut bench = Bench::settled();
    let (first, second) = (bench.direct(), bench.direct());
    bench.receive(&reply(7, second, 6));
    bench.receive(&status(0, 15, first));
    assert!(bench.fates().contains(&(first, PacketState::Confirmed)));
    bench.wait(2050);
    assert_eq!(bench.ids(), [first, second], "it was not written when its reply came");
}

/// `my_info` was torn: packets would go to a node that nobody knows.
#[test]
fn a_handshake_that_does_not_name_the_node_is_asked_for_once_more() {
    let mut bench = Bench::new(LinkConfig::default());
    let id = bench.text(0);
    bench.link.open(bench.now);
    bench.link.handle_opened(bench.now);
    bench.drain();
    let first = bench.asked_nonce();
    bench.receive(&framed(&complete(first)));
    assert!(matches!(bench.link.state(), State::Configuring { .. }), "{:?}", bench.link.state());
    bench.written();
    bench.wait(1999);
    assert_eq!(bench.written(), [[]; 0], "the gap between two handshakes holds");
    bench.wait(1);
    let second = bench.asked_nonce();
    assert_ne!(second, first);
    bench.receive(&framed(&complete(first)));
    assert!(!bench.link.state().is_up(), "the old handshake's end came twice");
    bench.receive(&framed(&[0x1A, 2, 0x08, 7]));
    bench.written();
    bench.receive(&framed(&complete(second)));
    assert_eq!(bench.link.node(), Some(7));
    assert_eq!(bench.ids(), [id]);
}

/// A node that never says who it is does not keep the link down for ever.
#[test]
fn a_node_without_a_name_is_up_after_its_second_handshake() {
    let mut bench = Bench::new(LinkConfig::default());
    bench.link.open(bench.now);
    for _ in 0..2 {
        bench.link.handle_opened(bench.now);
        for up in [false, true] {
            let nonce = bench.asked_nonce();
            bench.receive(&framed(&complete(nonce)));
            assert_eq!(bench.link.state().is_up(), up);
            bench.wait(2000);
        }
        bench.close(Class::ConnectionReset);
        bench.wait(3000);
    }
}

/// A status without an id that nobody asked for looks like an answer; the next one may be another.
#[test]
fn a_barrier_proves_nothing_where_statuses_come_unasked() {
    let mut bench = Bench::settled();
    bench.receive(&framed(ANSWER));
    let id = bench.text(0);
    bench.answer_barriers();
    bench.ended(id, PacketState::Unknown);
    // Its own status still decides.
    bench.wait(3000);
    let id = bench.text(0);
    bench.receive(&status(0, 15, id));
    bench.ended(id, PacketState::Confirmed);
    // Another connection, another node perhaps.
    bench.reconnect(7);
    bench.wait(5000);
    let id = bench.text(0);
    bench.answer_barriers();
    bench.ended(id, PacketState::Confirmed);
}

/// One unasked status follows the first handshake, and one a full queue: they accuse nobody.
#[test]
fn the_unasked_statuses_that_every_node_sends_spoil_no_barrier() {
    let mut bench = Bench::up(LinkConfig::default());
    bench.wait(999);
    bench.receive(&framed(ANSWER));
    bench.wait(1001);
    bench.receive(&framed(ANSWER));
    bench.wait(8000);
    bench.receive(&status(0, 0, 99));
    bench.receive(&framed(ANSWER));
    let id = bench.text(0);
    bench.answer_barriers();
    bench.ended(id, PacketState::Confirmed);
}

/// The queue was told to be full while the packet was on its way: its refusal may be what was lost.
#[test]
fn a_full_queue_told_in_flight_makes_the_barrier_worthless() {
    let mut bench = Bench::settled();
    let id = bench.text(0);
    bench.receive(&status(0, 0, 99));
    bench.answer_barriers();
    bench.ended(id, PacketState::Unknown);
}

/// The unasked status that follows a handshake is no answer to a barrier.
#[test]
fn no_barrier_within_a_second_of_the_handshake() {
    let mut config = LinkConfig::default();
    config.outbox.patience = Span::from_millis(100);
    let mut bench = Bench::up(config);
    bench.written();
    let id = bench.text(0);
    bench.wait(999);
    assert_eq!(bench.ids(), [id]);
    bench.wait(1);
    assert_eq!(bench.ids(), [0]);
}

/// An answer that did not come for half a minute was taken by a phone; the next one is the
/// barrier's.
#[test]
fn an_answer_that_is_long_overdue_is_no_longer_awaited() {
    let mut bench = Bench::settled();
    let first = bench.text(0);
    bench.wait(3000);
    assert_eq!(bench.ids(), [first, 0]);
    bench.receive(&status(0, 15, first));
    // The link lives by other traffic.
    for _ in 0..31 {
        bench.wait(1000);
        bench.receive(&framed(TEXT));
    }
    bench.written();
    let second = bench.text(0);
    bench.wait(3000);
    for _ in 0..2 {
        assert_eq!(bench.ids().last(), Some(&0));
        bench.receive(&framed(ANSWER));
        bench.wait(0);
    }
    bench.ended(second, PacketState::Confirmed);
}

/// A node that answers no heartbeat answers no barrier either.
#[test]
fn a_mute_node_is_asked_twice_and_no_more() {
    let mut bench = Bench::new(LinkConfig::default());
    bench.link.open(bench.now);
    bench.link.handle_opened(bench.now);
    bench.shake_hands(7);
    bench.wait(60_000);
    assert_eq!(bench.link.answers(), Answers::Mute);
    bench.written();
    bench.fates();
    let id = bench.text(0);
    let mut ids = bench.ids();
    for _ in 0..12 {
        bench.wait(1000);
        bench.receive(&framed(TEXT));
        ids.extend(bench.ids());
    }
    assert_eq!(ids, [id, 0, 0]);
    bench.ended(id, PacketState::Unknown);
}

/// The refusal of the only write comes on the next connection, before the packet is written again.
#[test]
fn a_refusal_that_outlives_the_connection_decides() {
    let mut bench = Bench::settled();
    let id = bench.text(0);
    bench.reconnect(7);
    bench.receive(&status(7, 15, id));
    bench.ended(id, PacketState::Refused(7));
    bench.wait(5000);
    assert!(!bench.ids().contains(&id), "it is not written again");
}

/// The same with a refusal that is to be tried again: under a fresh id, and not at once.
#[test]
fn a_full_queue_told_after_the_connection_is_tried_again() {
    let mut bench = Bench::settled();
    let id = bench.text(0);
    bench.ids();
    bench.reconnect(7);
    bench.receive(&status(32, 15, id));
    let written =
        |bench: &mut Bench| -> Vec<u32> { bench.ids().into_iter().filter(|id| *id != 0).collect() };
    bench.wait(9_999);
    assert_eq!(written(&mut bench), []);
    bench.wait(1);
    let [again] = written(&mut bench)[..] else { panic!("written once") };
    assert_ne!(again, id);
    bench.receive(&status(0, 15, again));
    bench.ended(id, PacketState::Confirmed);
}

/// The status of the connection before comes within a second, and is to decide first.
#[test]
fn what_was_written_before_waits_a_second_for_its_status() {
    let mut bench = Bench::settled();
    let id = bench.text(0);
    bench.ids();
    bench.reconnect(7);
    bench.wait(999);
    assert_eq!(bench.ids(), []);
    bench.wait(1);
    assert_eq!(bench.ids(), [id]);
}

/// Another sender's packet may go while it waits for its status, but then it is its turn.
#[test]
fn what_was_written_before_goes_before_all_that_was_not() {
    let mut bench = Bench::settled();
    let first = bench.send(1, &packet(ADMIN, 7, false, 0));
    let own = bench.send(1, &packet(ADMIN, 7, false, 0));
    let others = [2, 2, 3, 3].map(|sender| bench.send(sender, &packet(ADMIN, 7, false, 0)));
    assert_eq!(bench.ids(), [first]);
    bench.fates();
    bench.reconnect(7);
    let mut fates = bench.fates();
    fates.retain(|(_, state)| *state == PacketState::Sent);
    assert_eq!(fates, [(others[0], PacketState::Sent)]);
    bench.wait(1000);
    let mut written = Vec::new();
    let mut last = others[0];
    while bench.link.queued() > 1 {
        bench.receive(&status(0, 15, last));
        let ids = bench.ids();
        last = ids[0];
        written.extend(ids);
    }
    assert_eq!(written[0], first);
    assert!(written.contains(&own), "{written:x?}");
}

/// The status may be the first write's, and the node reads the second one later: a span that
/// started at the status was too short, and the next text was limited.
#[test]
fn the_span_after_a_second_write_starts_a_second_after_its_status() {
    let mut bench = Bench::settled();
    let (first, second) = (bench.text(0), bench.text(0));
    assert_eq!(bench.ids(), [first]);
    bench.reconnect(7);
    bench.wait(1000);
    assert_eq!(bench.ids(), [first]);
    bench.receive(&status(0, 15, first));
    let texts =
        |bench: &mut Bench| -> Vec<u32> { bench.ids().into_iter().filter(|id| *id != 0).collect() };
    bench.wait(3049);
    assert_eq!(texts(&mut bench), []);
    bench.wait(1);
    assert_eq!(texts(&mut bench), [second]);
}

/// The node's timer is set also by what it refuses later.
#[test]
fn a_refusal_starts_the_span_as_well() {
    for res in [6, 7, 32, 33, 34] {
        let mut bench = Bench::settled();
        let (first, second) = (bench.text(0), bench.text(1));
        bench.wait(100);
        bench.receive(&status(res, 15, first));
        bench.wait(2049);
        assert_eq!(bench.ids(), [first]);
        bench.wait(1);
        assert_eq!(bench.ids(), [second], "res {res}");
    }
}

/// A packet that is tried again later is still the first of its sender and port number.
#[test]
fn nothing_overtakes_a_packet_that_waits_after_a_refusal() {
    let mut bench = Bench::settled();
    let (first, second) = (bench.text(0), bench.text(0));
    let admin = bench.send(0, &packet(ADMIN, 7, false, 0));
    bench.receive(&status(33, 15, first));
    assert_eq!(bench.ids(), [first, admin], "another port number goes on");
    bench.receive(&status(0, 15, admin));
    bench.wait(10_000);
    let [again] = bench.ids()[..] else { panic!("one packet in 10 s") };
    assert!(![first, second].contains(&again));
    bench.receive(&status(0, 15, again));
    bench.wait(2050);
    assert_eq!(bench.ids(), [second]);
}

/// The node on a serial line does not notice that the line was opened again: its timers run on.
#[test]
fn a_serial_line_opened_again_is_paced_by_the_old_session() {
    let mut bench = serial();
    let first = bench.send(0, &packet(3, ALL, false, 0));
    bench.receive(&status(0, 15, first));
    bench.written();
    bench.reconnect_serial();
    let second = bench.send(0, &packet(3, ALL, false, 0));
    bench.wait(5049);
    assert!(!bench.ids().contains(&second));
    bench.wait(1);
    assert_eq!(bench.ids(), [second], "10 s and 50 ms after the status");
}

/// On a serial line the node swallows an id that it knows: that it has read the second write says
/// nothing.
#[test]
fn a_barrier_behind_a_repeat_on_a_serial_line_proves_nothing() {
    let mut bench = serial();
    let id = bench.text(0);
    bench.reconnect_serial();
    bench.wait(2050);
    bench.answer_barriers();
    bench.ended(id, PacketState::Unknown);
    // The first write is proof enough.
    let mut bench = serial();
    let id = bench.text(0);
    bench.answer_barriers();
    bench.ended(id, PacketState::Confirmed);
}

#[test]
fn a_packet_that_the_transport_does_not_take_becomes_too_old_like_any_other() {
    let mut bench = Bench::settled();
    bench.wire.takes = Some(0);
    let ttl = Some(Span::from_secs(5));
    let id = bench.link.send(bench.now, 0, &packet(TEXT_PORT, ALL, false, 0), ttl).unwrap();
    bench.drain();
    bench.wait(4900);
    assert_eq!(bench.fates(), [(id, PacketState::Queued)]);
    bench.wait(200);
    bench.ended(id, PacketState::Expired);
    bench.wire.takes = None;
    bench.wait(100);
    assert_eq!(bench.written(), Vec::<Vec<u8>>::new());
}

#[test]
fn on_a_serial_line_the_span_starts_when_the_node_is_back() {
    let mut bench = serial();
    let first = bench.text(0);
    bench.written();
    bench.reconnect_serial();
    bench.receive(&status(0, 16, first));
    bench.ended(first, PacketState::Confirmed);
    bench.text(0);
    bench.wait(1900);
    assert_eq!(bench.written(), Vec::<Vec<u8>>::new());
    bench.wait(200);
    assert_eq!(bench.written().len(), 1);
}
