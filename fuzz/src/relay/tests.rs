use super::*;

fn bench(settings: u8) -> Bench {
    Bench::new(Settings::new(settings))
}

/// The harness reaches where the promises matter, else its silence would mean nothing.
#[test]
fn clients_are_told_the_configuration_and_what_others_send() {
    let mut bench = bench(0);
    // Two clients come, ask, and read; the first sends a text; time passes; both read.
    bench.play(&[0, 0, 0, 0, 2, 0, 0x1E, 2, 1, 0x1E, 28, 8, 9, 0, 9, 1, 28, 8, 9, 0, 9, 1]);
    assert_eq!(bench.relay.clients().filter(|client| client.configured).count(), 2);
    assert_eq!(bench.relay.counters().handshakes, 2);
    let before = bench.clients[1].frames;
    bench.play(&[4, 0, 5, 0, 28, 8, 9, 0, 9, 1]);
    assert_eq!(bench.relay.counters().accepted, 1);
    assert_eq!(bench.relay.fate(5), Some(PacketState::Confirmed));
    assert_eq!(bench.clients[1].frames, before + 1, "the echo");
    bench.finish();
}

#[test]
fn a_refusal_is_counted() {
    // The node does not answer by itself.
    let mut bench = bench(0);
    bench.play(&[0, 0, 2, 0, 0x1E, 9, 0, 31, 1, 4, 0, 5, 0]);
    // res 6 about the newest packet.
    bench.play(&[17, 6, 3, 0]);
    assert_eq!(bench.relay.fate(5), Some(PacketState::Refused(6)));
    assert_eq!(bench.clients[0].accounts[&5].ended, 1);
    bench.finish();
    assert_eq!(bench.clients[0].accounts[&5].told(), (1, 0));
}

#[test]
fn what_a_restricted_client_may_not_send_is_refused() {
    for (operation, refused) in [(5, 1), (4, 1), (12, 1), (7, 1), (3, 0), (2, 0)] {
        // One that may only read.
        let mut bench = bench(0);
        bench.play(&[0, 3, operation, 0, 0, 0]);
        assert_eq!(bench.relay.counters().refused, refused, "{operation}");
        bench.finish();
    }
}

#[test]
fn the_least_bounds_are_met() {
    let mut bench = bench(1);
    bench.play(&[0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bench.relay.counters().turned_away, 1);
    // One that does not read is cut off.
    bench.play(&[2, 0, 0x1E]);
    for id in 0..60 {
        bench.play(&[19, 1, id, 0, 0, 32]);
    }
    bench.play(&[11, 0, 63, 11, 0, 63]);
    assert_eq!(bench.relay.counters().cut_off, 1);
    bench.finish();
}

#[test]
fn a_snapshot_of_a_handshake_is_served() {
    let mut bench = bench(2);
    let mut body = vec![0, 0, 0];
    for payload in words::configuration(0x70) {
        body.extend(framed(&payload));
    }
    bench.play_snapshot(&body);
    assert_eq!(bench.relay.counters().handshakes, 3);
    bench.finish();
    assert!(bench.clients.iter().all(|client| client.frames > 3));
}

#[test]
#[should_panic(expected = "is told a secret")]
fn a_leak_would_be_found() {
    let mut bench = bench(0);
    bench.play(&[0, 0, 2, 0, 0x1E]);
    bench.clients[0].policy = Policy::NoAdmin;
    bench.play(&[9, 0]);
}

#[test]
#[should_panic(expected = "did not ask")]
fn an_unasked_handshake_would_be_found() {
    let mut bench = bench(0);
    bench.play(&[0, 0]);
    let id = bench.clients[0].id;
    bench.relay.handle_bytes(bench.now, id, &framed(&varint(3, 1)));
    bench.settle();
    bench.play(&[9, 0]);
}

#[test]
fn an_error_is_for_one_client_and_none_if_the_packet_is_tried_again() {
    for (res, told) in [(6, 1), (4, 0)] {
        let mut bench = bench(0);
        // Two clients have the configuration; the node no longer answers; the first sends a text.
        bench.play(&[0, 0, 0, 0, 2, 0, 0x1E, 2, 1, 0x1E, 9, 0, 9, 1, 31, 1, 4, 0, 5, 0]);
        bench.play(&[17, res, 3, 0]);
        let before = bench.queued();
        bench.play(&[18, 0, 9, 0]);
        let after = bench.queued();
        let count = before.iter().filter(|(id, bytes)| after[id] > **bytes).count();
        assert_eq!((count, bench.refused_ids.len()), (told, 1 - told), "res {res}");
        bench.finish();
    }
}
