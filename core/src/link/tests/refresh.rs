//! What a relay needs beside packets: the configuration once more, and messages handed on whole.

use super::*;

/// `ToRadio { packet { to: all, decoded { port 1, "x" }, id } }`
fn text(id: u8) -> Vec<u8> {
    let mut payload = b"\x0A\x11\x15\xFF\xFF\xFF\xFF\x22\x05\x08\x01\x12\x01x\x35".to_vec();
    payload.extend([id, 0, 0, 0]);
    payload
}

/// The queue status of a packet, with room for 16 more.
fn status(id: u8) -> Vec<u8> {
    framed(&[0x5A, 6, 0x10, 16, 0x18, 16, 0x20, id])
}

#[test]
fn a_refresh_asks_once_and_is_told_when_it_is_done() {
    let mut bench = Bench::up(LinkConfig::default());
    bench.at(3000, "");
    bench.written();
    bench.link.refresh();
    bench.link.refresh();
    bench.drain();
    let nonce = bench.asked_nonce();
    assert_eq!(bench.written().len(), 1);
    bench.receive(&framed(&[0x1A, 2, 0x08, 7]));
    bench.receive(&framed(&complete(nonce)));
    assert_eq!(bench.events(), ["refreshed"]);
    assert_eq!(bench.link.stats().sessions, 1);
    bench.at(3500, "");
    assert_eq!(bench.written(), Vec::<Vec<u8>>::new());
}

#[test]
fn a_refresh_keeps_the_distance_to_the_handshake_before() {
    let mut bench = Bench::up(LinkConfig::default());
    bench.at(500, "");
    bench.written();
    bench.link.refresh();
    bench.drain();
    assert_eq!(bench.written(), Vec::<Vec<u8>>::new());
    assert!(bench.link.poll_timeout().is_some_and(|at| at > bench.now));
    // The probe of the node's answers comes first: two seconds after the handshake.
    bench.at(2100, "");
    assert_eq!(bench.link.state().name(), "configuring");
}

#[test]
fn a_refresh_waits_for_the_packet_in_flight_and_packets_wait_for_the_refresh() {
    let mut bench = Bench::up(LinkConfig::default());
    bench.at(3000, "");
    for id in [1, 2] {
        bench.link.send(bench.now, 0, &text(id), None).unwrap();
    }
    bench.drain();
    bench.events();
    bench.written();
    bench.link.refresh();
    bench.drain();
    assert_eq!(bench.written(), Vec::<Vec<u8>>::new());
    bench.receive(&status(1));
    let nonce = bench.asked_nonce();
    assert_eq!(bench.written().len(), 1);
    bench.at(6000, "packet Confirmed");
    assert_eq!(bench.written(), Vec::<Vec<u8>>::new());
    bench.receive(&framed(&[0x1A, 2, 0x08, 7]));
    bench.receive(&framed(&complete(nonce)));
    assert_eq!(bench.written(), [text(2)]);
    assert_eq!(bench.events(), ["refreshed", "packet Sent"]);
}

#[test]
fn a_refresh_that_stalls_is_a_loss_of_a_link_that_was_up() {
    let mut bench = Bench::up(LinkConfig::default());
    bench.at(3000, "");
    bench.link.refresh();
    bench.drain();
    bench.now = Instant::from_millis(15_100);
    bench.link.handle_timeout(bench.now);
    let lost = core::iter::from_fn(|| bench.link.poll_event())
        .find(|event| matches!(event, Event::Lost { .. }));
    assert!(matches!(lost, Some(Event::Lost { was_up: true, .. })), "{lost:?}");
}

#[test]
fn only_the_frame_that_ends_the_links_own_handshake_says_so() {
    let mut bench = Bench::new(LinkConfig::default());
    bench.link.open(bench.now);
    bench.events();
    bench.link.handle_opened(bench.now);
    bench.drain();
    let nonce = bench.asked_nonce();
    let mut ends = Vec::new();
    let stream = [
        framed(&[0x1A, 2, 0x08, 7]),
        framed(&complete(nonce ^ 1)),
        framed(&complete(nonce)),
        framed(&complete(nonce)),
    ];
    for frame in stream {
        let item = bench.link.handle_bytes(bench.now, &frame).item;
        let Some(Item::Frame { configured, .. }) = item else { panic!("{item:?}") };
        ends.push(configured);
    }
    assert_eq!(ends, [false, false, true, false]);
}

#[test]
fn what_is_forwarded_goes_out_whole_and_nothing_else_is_taken() {
    let xmodem = [0x2A, 2, 0x08, 1];
    let mut bench = Bench::new(LinkConfig::default());
    assert_eq!(bench.link.forward(&xmodem), Err(ForwardError::NotUp));
    let mut bench = Bench::up(LinkConfig::default());
    bench.at(100, "");
    bench.written();
    for other in
        [&[0x18, 5][..], &[0x3A, 0], &[0x20, 1], &text(1), &[], &[0x2A, 2, 0x08, 1, 0x18, 5]]
    {
        assert_eq!(bench.link.forward(other), Err(ForwardError::NotForwardable), "{other:02x?}");
    }
    bench.link.forward(&xmodem).unwrap();
    assert_eq!(bench.link.forward(&xmodem), Err(ForwardError::Busy));
    bench.drain();
    assert_eq!(bench.written(), [xmodem.to_vec()]);
    bench.link.forward(&xmodem).unwrap();
}
