//! Sessions: opened, configured, questioned, lost, opened again, closed.

use std::string::ToString;
use std::vec;

use super::*;

#[test]
fn a_session_begins_with_heartbeat_and_question() {
    let mut bench = Bench::new(LinkConfig::default());
    bench.at(0, "");
    bench.link.open(bench.now);
    bench.at(0, "open_due");
    assert!(bench.written().is_empty(), "nothing is written before the transport is open");
    bench.link.handle_opened(bench.now);
    bench.at(0, "opened");
    let nonce = bench.asked_nonce();
    let question = want_config(nonce);
    assert_eq!(bench.written(), [heartbeat::PLAIN.to_vec(), question.to_vec()]);
}

#[test]
fn a_dead_link_is_known_within_40_seconds() {
    let mut bench = Bench::up(LinkConfig::default());
    bench.at(2000, "");
    bench.receive(&framed(ANSWER)); // The probe is answered: the node is proven.
    bench.at(28_999, "");
    bench.at(29_000, "suspected");
    bench.at(41_000, "lost: no answer to heartbeats");
    bench.at(42_000, "open_due");
}

#[test]
fn a_byte_clears_the_suspicion() {
    let mut bench = Bench::up(LinkConfig::default());
    bench.at(2000, "");
    bench.receive(&framed(ANSWER));
    bench.at(30_000, "suspected");
    bench.receive(b"\x94");
    bench.at(30_000, "recovered");
    assert!(matches!(bench.link.state(), State::Up { .. }));
}

#[test]
fn a_mute_node_is_kept_for_ever() {
    let mut bench = Bench::new(LinkConfig::default());
    bench.link.open(bench.now);
    bench.link.handle_opened(bench.now);
    bench.shake_hands(7);
    bench.at(60_000, "opened, configured 00000007, suspected, mute");
    bench.at(30 * 86_400_000, "");
}

#[test]
fn a_handshake_that_stands_still_is_given_up() {
    let mut bench = Bench::new(LinkConfig::default());
    bench.link.open(bench.now);
    bench.link.handle_opened(bench.now);
    bench.at(5000, "opened");
    bench.receive(&framed(b"\x1A\x02\x08\x07"));
    bench.at(16_999, "");
    bench.at(17_000, "lost: handshake stalled");
}

#[test]
fn a_handshake_that_never_ends_is_given_up() {
    let mut bench = Bench::new(LinkConfig::default());
    bench.link.open(bench.now);
    bench.link.handle_opened(bench.now);
    bench.at(0, "opened");
    for second in 1..300 {
        bench.at(second * 1000, "");
        bench.receive(&framed(b"\x22\x02\x08\x07")); // A node_info.
    }
    bench.at(300_000, "lost: handshake never completed");
}

/// The question may have been lost on a serial line; the mesh goes on talking.
#[test]
fn a_busy_mesh_is_no_answer_to_the_question() {
    let mut bench = Bench::new(LinkConfig::default());
    bench.link.open(bench.now);
    bench.link.handle_opened(bench.now);
    bench.at(0, "opened");
    for second in 1..12 {
        bench.at(second * 1000, "");
        bench.receive(&framed(TEXT));
        bench.receive(&framed(b"\x32\x04\x0A\x02hi")); // A log record.
    }
    bench.at(12_000, "lost: handshake stalled");
}

#[test]
fn the_end_of_an_older_handshake_is_ignored() {
    let mut bench = Bench::new(LinkConfig::default());
    bench.link.open(bench.now);
    bench.link.handle_opened(bench.now);
    bench.at(0, "opened");
    let nonce = bench.asked_nonce();
    bench.receive(&framed(&complete(nonce ^ 1)));
    bench.at(0, "");
    bench.receive(&framed(&[0x1A, 2, 0x08, 7]));
    bench.receive(&framed(&complete(nonce)));
    bench.at(0, "configured 00000007");
}

/// The frame that tells the node's number was torn.
#[test]
fn a_handshake_without_a_node_number_is_asked_for_again() {
    let mut bench = Bench::new(LinkConfig::default());
    bench.link.open(bench.now);
    bench.link.handle_opened(bench.now);
    bench.at(0, "opened");
    let nonce = bench.asked_nonce();
    bench.receive(&framed(&complete(nonce)));
    bench.at(2000, "");
    bench.shake_hands(7);
    bench.at(2000, "configured 00000007");
}

#[test]
fn retries_are_endless_and_no_denser_than_the_backoff_allows() {
    let mut bench = Bench::new(LinkConfig::default());
    bench.link.open(bench.now);
    let mut attempts = 0;
    let day = Instant::from_millis(86_400_000);
    while bench.now < day {
        for event in bench.events() {
            if event == "open_due" {
                attempts += 1;
                bench.close(Class::ConnectionRefused);
            }
        }
        if let Some(due) = bench.link.poll_timeout() {
            bench.now = due;
            bench.link.handle_timeout(due);
        }
    }
    assert!((1440..1900).contains(&attempts), "{attempts} attempts in a day");
}

#[test]
fn a_connect_that_is_never_answered_is_timed_out() {
    let mut bench = Bench::new(LinkConfig::default());
    bench.link.open(bench.now);
    bench.at(8000, "open_due");
    bench.link.handle_opening(bench.now);
    bench.at(17_999, "");
    bench.at(18_000, "lost: timed out");
}

#[test]
fn two_questions_are_two_seconds_apart() {
    let mut bench = Bench::up(LinkConfig::default());
    bench.written();
    bench.at(100, "");
    bench.close(Class::ConnectionReset);
    bench.at(1200, "lost: connection reset, open_due");
    bench.link.handle_opened(bench.now);
    bench.at(1999, "opened");
    assert!(bench.written().is_empty());
    bench.at(2000, "");
    assert_eq!(bench.written().len(), 2);
}

#[test]
fn young_sessions_in_a_row_tell_of_another_client() {
    let mut bench = Bench::up(LinkConfig::default());
    let mut told = Vec::new();
    for _ in 0..12 {
        bench.close(Class::ClosedByPeer);
        let mut opened = false;
        while !opened {
            for event in bench.events() {
                opened |= event == "open_due";
                told.extend(event.strip_prefix("contended ").map(ToString::to_string));
            }
            if let (false, Some(due)) = (opened, bench.link.poll_timeout()) {
                bench.now = due;
                bench.link.handle_timeout(due);
            }
        }
        bench.link.handle_opened(bench.now);
    }
    assert_eq!(told, ["3", "6", "12"]);
}

#[test]
fn short_writes_give_the_same_bytes() {
    let whole = Bench::up(LinkConfig::default()).wire.written;
    let mut bench = Bench::new(LinkConfig::default());
    bench.wire.takes = Some(1);
    bench.link.open(bench.now);
    bench.link.handle_opened(bench.now);
    bench.drain();
    assert_eq!(bench.wire.written, whole);
}

#[test]
fn half_a_frame_never_opens_a_new_connection() {
    let mut bench = Bench::new(LinkConfig::default());
    bench.wire.takes = Some(4);
    bench.link.open(bench.now);
    bench.link.handle_opened(bench.now);
    let first = bench.link.poll_transmit(bench.now, &mut bench.wire);
    assert_eq!(first, Ok(Transmit::Wrote(4)));
    bench.close(Class::ConnectionReset);
    bench.wire = Wire::default();
    bench.at(2000, "opened, lost: connection reset, open_due");
    bench.link.handle_opened(bench.now);
    bench.drain();
    assert_eq!(bench.written()[0], heartbeat::PLAIN);
}

#[test]
fn closing_finishes_the_half_frame_and_says_goodbye() {
    let mut bench = Bench::up(LinkConfig::default());
    bench.written();
    bench.wire.takes = Some(4);
    bench.now = Instant::from_millis(2000);
    bench.link.handle_timeout(bench.now); // The probe is due.
    assert_eq!(bench.link.poll_transmit(bench.now, &mut bench.wire), Ok(Transmit::Wrote(4)));
    bench.link.close(bench.now);
    bench.at(2000, "goodbye");
    assert_eq!(bench.written(), [heartbeat::PLAIN.to_vec(), DISCONNECT.to_vec()]);
    assert_eq!(bench.receive(&framed(TEXT)), [TEXT], "what still arrives counts");
    bench.close(Class::ClosedByPeer);
    bench.at(2000, "closed");
    bench.link.open(bench.now);
    bench.at(100_000, "");
}

#[test]
fn closing_waits_neither_for_a_deaf_nor_for_a_silent_transport() {
    let mut deaf = Bench::up(LinkConfig::default());
    deaf.wire.takes = Some(0);
    deaf.link.close(deaf.now);
    deaf.at(1999, "");
    deaf.at(2000, "closed");

    let mut silent = Bench::up(LinkConfig::default());
    silent.link.close(silent.now);
    silent.at(1999, "goodbye");
    silent.at(2000, "closed");
}

#[test]
fn bytes_that_came_before_the_end_are_not_lost() {
    let mut bench = Bench::up(LinkConfig::default());
    // A header that lies about its length, and a true frame in its false body.
    let stream = [b"\x94\xC3\x01\x00".to_vec(), framed(TEXT)].concat();
    assert_eq!(bench.receive(&stream), Vec::<Vec<u8>>::new());
    bench.link.handle_end();
    assert_eq!(bench.receive(&[]), [TEXT]);
    bench.close(Class::ClosedByPeer);
    bench.at(0, "lost: closed by peer");
}

#[test]
fn a_bad_payload_gives_back_the_frames_it_swallowed() {
    let mut bench = Bench::up(LinkConfig::default());
    let stream = [b"\x94\xC3\x00\x20".to_vec(), framed(TEXT), framed(TEXT)].concat();
    for size in 1..=stream.len() {
        let mut frames = Vec::new();
        for slice in stream.chunks(size) {
            frames.extend(bench.receive(slice));
        }
        assert_eq!(frames, [TEXT, TEXT], "in slices of {size}");
    }
    assert_eq!(bench.link.stats().rejected as usize, stream.len());
}

#[test]
fn tcp_may_pause_in_mid_frame_and_serial_may_not() {
    let torn = [b"\x94\xC3\x01\x00".to_vec(), framed(TEXT)].concat();
    let mut tcp = Bench::up(LinkConfig::default());
    tcp.receive(&torn);
    tcp.at(1900, "");
    assert_eq!(tcp.receive(&[]), Vec::<Vec<u8>>::new());

    let mut serial = Bench::new(LinkConfig::SERIAL);
    serial.link.open(serial.now);
    serial.link.handle_opened(serial.now);
    serial.at(0, "opened");
    serial.receive(&torn);
    assert_eq!(serial.link.poll_timeout(), Some(Instant::from_millis(100)), "the pause to wake");
    serial.at(499, "");
    assert_eq!(serial.receive(&[]), Vec::<Vec<u8>>::new());
    serial.at(500, "");
    assert_eq!(serial.receive(&[]), [TEXT]);
}

#[test]
fn a_serial_node_is_woken_first() {
    let mut bench = Bench::new(LinkConfig::SERIAL);
    bench.link.open(bench.now);
    bench.link.handle_opened(bench.now);
    bench.at(99, "opened");
    assert_eq!(bench.wire.written, frame::WAKE);
    bench.wire.written.clear();
    bench.at(100, "");
    assert_eq!(bench.written().len(), 2);
}

#[test]
fn a_serial_node_that_restarts_is_asked_again() {
    let mut bench = Bench::up(LinkConfig::default());
    bench.receive(&framed(b"\x40\x01"));
    bench.at(10, "");
    assert!(bench.link.state().is_up(), "TCP never sends it");

    let mut serial = Bench::new(LinkConfig::SERIAL);
    serial.link.open(serial.now);
    serial.link.handle_opened(serial.now);
    serial.at(100, "opened");
    serial.shake_hands(7);
    serial.at(1000, "configured 00000007");
    serial.wire.written.clear();
    serial.receive(&framed(b"\x40\x01"));
    serial.at(2099, "rebooted");
    assert!(serial.written().is_empty(), "2 s after the question before");
    serial.at(2100, "");
    assert_eq!(serial.written().len(), 1, "want_config_id alone");
    serial.shake_hands(7);
    let seen = core::iter::from_fn(|| serial.link.poll_event()).last();
    let last_heard = Some(Instant::from_millis(1000));
    assert!(
        matches!(seen, Some(Event::Configured { last_heard: at, .. }) if at == last_heard),
        "the gap begins with the restart, not with a loss of long ago: {seen:?}"
    );
}

#[test]
fn another_node_at_the_same_address_is_told() {
    let mut bench = Bench::up(LinkConfig::default());
    bench.at(2000, "");
    bench.close(Class::ConnectionReset);
    bench.at(5000, "lost: connection reset, open_due");
    bench.link.handle_opened(bench.now);
    bench.shake_hands(8);
    bench.at(5000, "opened, node 00000007 -> 00000008, configured 00000008");
}

#[test]
fn undrained_events_are_bounded_and_duties_survive() {
    let mut bench = Bench::new(LinkConfig::default());
    bench.link.open(bench.now);
    for _ in 0..50 {
        bench.close(Class::ConnectionRefused);
        bench.now = bench.link.poll_timeout().unwrap();
        bench.link.handle_timeout(bench.now);
    }
    let mut expected = vec!["lost: connection refused"; 3];
    expected.push("open_due");
    assert_eq!(bench.events(), expected);
}

#[test]
fn a_config_only_handshake_asks_with_its_own_nonce() {
    let mut config = LinkConfig::default();
    config.handshake.ask = crate::config::Ask::ConfigOnly;
    let mut bench = Bench::new(config);
    bench.link.open(bench.now);
    bench.link.handle_opened(bench.now);
    assert_eq!(bench.asked_nonce(), 69420);
}

/// `Link` without outbox is to stay within 2 KB.
#[test]
fn the_link_is_small() {
    let bytes = size_of::<Link>() - size_of::<Outbox<0>>();
    assert!(bytes <= 2048, "{bytes} bytes");
}
