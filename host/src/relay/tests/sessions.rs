//! Handshakes from memory, queues, the faults of clients.

use super::*;

/// A relay whose node was never reached.
fn waiting() -> Bench {
    Bench::new(plain(), RelayConfig::default())
}

#[test]
fn a_handshake_is_the_nodes_own_with_the_clients_nonce() {
    let mut bench = Bench::up();
    let client = bench.connect();
    bench.want_config(client, 1234);
    let told = bench.payloads(client);
    let expected: Vec<_> = bench.relay.snapshot().unwrap().handshake(Ask::Full).collect();
    assert!(expected.len() > 20, "{} frames", expected.len());
    assert_eq!(told.len(), expected.len() + 1);
    for (told, expected) in told.iter().zip(expected) {
        assert_eq!(told[..], expected[4..]);
    }
    assert_eq!(words(told.last().unwrap()), "complete 1234");
}

#[test]
fn who_asks_before_the_node_was_reached_waits_and_is_answered_then() {
    let mut bench = waiting();
    let client = bench.connect();
    bench.want_config(client, 1);
    bench.beat(client);
    assert_eq!(bench.words(client), ["status 0 res 0 free 16"]);
    bench.run(60_000);
    assert_eq!(bench.words(client), [""; 0]);
    bench.link.open(bench.now);
    bench.run(3_000);
    let words = bench.words(client);
    assert_eq!((words[0].as_str(), words.last().unwrap().as_str()), ("my_info", "complete 1"));
}

#[test]
fn the_configuration_is_there_while_the_node_is_not() {
    let mut bench = Bench::up();
    bench.break_link(3_600_000);
    bench.run(5_000);
    assert!(!bench.link.state().is_up());
    let client = bench.connect();
    bench.want_config(client, 3);
    assert_eq!(bench.words(client).last().unwrap(), "complete 3");
}

#[test]
fn android_asks_for_the_configuration_first_and_the_nodes_then() {
    let mut bench = Bench::up();
    let client = bench.connect();
    bench.beat(client);
    bench.want_config(client, 69420);
    bench.run(100);
    let words = bench.words(client);
    assert_eq!(words[0], "status 0 res 0 free 16");
    assert_eq!(words[1], "my_info");
    assert_eq!(words.iter().filter(|word| *word == "node_info").count(), 1);
    assert_eq!(words.last().unwrap(), "complete 69420");
    bench.want_config(client, 69421);
    let words = bench.words(client);
    assert_eq!(words.iter().filter(|word| *word == "node_info").count(), 4);
    assert!(!words.contains(&"channel".into()), "{words:?}");
    assert_eq!(words.last().unwrap(), "complete 69421");
}

#[test]
fn ios_is_given_time_behind_its_own_node_info() {
    let mut bench = Bench::up();
    let client = bench.connect();
    bench.want_config(client, 69420);
    assert_eq!(bench.words(client).last().unwrap(), "node_info");
    bench.hear(2, 9, "hi");
    let words = bench.words(client);
    assert_eq!(words[words.len() - 2..], ["complete 69420", "text 9 hi"]);
}

#[test]
fn what_a_pause_kept_back_is_not_forgotten_when_the_next_answer_has_to_wait() {
    let mut bench = Bench::up();
    let client = bench.connect();
    for nonce in 1..=29 {
        bench.want_config(client, nonce);
    }
    bench.want_config(client, 69420);
    bench.beat(client);
    assert_eq!(bench.words(client).last().unwrap(), "node_info");
    // One too many in this minute: its answer has to wait, the heartbeat's has not.
    bench.want_config(client, 31);
    assert_eq!(bench.words(client), ["status 0 res 0 free 16"]);
}

#[test]
fn a_second_question_drops_the_rest_of_the_first_answer() {
    let mut bench = Bench::up();
    let client = bench.connect();
    bench.clients.get_mut(&client).unwrap().deaf = true;
    bench.want_config(client, 1);
    let first: usize = bench.relay.pending(client).map(<[u8]>::len).sum();
    // Half of the second frame is written.
    let half = bench.relay.pending(client).next().unwrap().len() + 3;
    let begun: Vec<u8> = bench.relay.pending(client).flatten().copied().take(half).collect();
    bench.clients.get_mut(&client).unwrap().read(&begun);
    bench.relay.consume(bench.now, client, half);
    for nonce in 2..=20 {
        bench.want_config(client, nonce);
    }
    assert!(bench.relay.pending(client).map(<[u8]>::len).sum::<usize>() < first + 512);
    bench.clients.get_mut(&client).unwrap().deaf = false;
    bench.read_client(client);
    let words = bench.words(client);
    assert_eq!(words[0], "my_info");
    assert_eq!(words[2], "my_info", "{words:?}");
    assert_eq!(words.iter().filter(|word| word.starts_with("complete")).count(), 1);
    assert_eq!(words.last().unwrap(), "complete 20");
}

#[test]
fn packets_come_behind_the_handshake_and_only_to_who_has_asked() {
    let mut bench = Bench::up();
    let (asked, new) = (bench.connect(), bench.connect());
    let other = bench.configured();
    bench.clients.get_mut(&asked).unwrap().deaf = true;
    bench.want_config(asked, 1);
    bench.hear(2, 77, "hi");
    bench.clients.get_mut(&asked).unwrap().deaf = false;
    bench.read_client(asked);
    let words = bench.words(asked);
    assert_eq!(words[words.len() - 2..], ["complete 1", "text 77 hi"]);
    assert_eq!(bench.words(other), ["text 77 hi"]);
    assert_eq!(bench.words(new), [""; 0]);
}

#[test]
fn who_asks_in_a_loop_has_to_wait_for_the_next_minute() {
    let mut bench = Bench::up();
    let client = bench.connect();
    for nonce in 1..=100 {
        bench.want_config(client, nonce);
    }
    let completed =
        |words: Vec<String>| words.iter().filter(|word| word.starts_with("complete")).count();
    assert_eq!(completed(bench.words(client)), 30);
    bench.run(30_000);
    assert_eq!(completed(bench.words(client)), 0);
    bench.run(31_000);
    assert_eq!(
        bench.words(client).iter().find(|w| w.starts_with("complete")).unwrap(),
        "complete 100"
    );
}

#[test]
fn who_does_not_read_is_cut_off_and_nobody_else_notices() {
    let config = RelayConfig { max_queued: 2_000, ..RelayConfig::default() };
    let mut bench = Bench::up_with(plain(), config);
    let (deaf, other) = (bench.configured(), bench.configured());
    bench.clients.get_mut(&deaf).unwrap().deaf = true;
    for id in 1..=100 {
        bench.hear(2, id, "a line of forty bytes, more or less so..");
        if bench.is_closed(deaf) {
            break;
        }
    }
    assert!(bench.is_closed(deaf));
    assert_eq!(bench.relay.counters().cut_off, 1);
    bench.hear(2, 5_000, "after");
    assert!(!bench.is_closed(other));
    assert_eq!(bench.words(other).last().unwrap(), "text 5000 after");
}

#[test]
fn a_client_that_is_too_many_is_turned_away() {
    let config = RelayConfig { max_clients: 2, ..RelayConfig::default() };
    let mut bench = Bench::new(plain(), config);
    let first = bench.connect();
    bench.connect();
    let peer = Peer { label: "third".into(), policy: Policy::Full, observer: false };
    assert_eq!(bench.relay.handle_connect(bench.now, peer.clone()), None);
    bench.relay.handle_closed(bench.now, first);
    assert!(bench.relay.handle_connect(bench.now, peer).is_some());
}

#[test]
fn goodbye_ends_that_client_only() {
    let mut bench = Bench::up();
    let (leaving, other) = (bench.configured(), bench.configured());
    bench.say(leaving, PayloadVariant::Disconnect(true));
    assert!(bench.is_closed(leaving) && !bench.is_closed(other));
    bench.run(60_000);
    assert!(bench.link.state().is_up());
    assert_eq!(bench.node.log().totals().connects, 1);
}

#[test]
fn garbage_wake_bytes_and_empty_frames_harm_nobody() {
    let mut bench = Bench::up();
    let client = bench.connect();
    bench.write(client, &[0xC3; 32]);
    bench.write(client, b"GET / HTTP/1.1\r\n\r\n\x94\xC3\x02\x01\x94\xC3\x00\x00");
    bench.write(client, &[0x94, 0xC3, 0, 2, 0xFF, 0xFF]);
    for byte in [0x94, 0xC3, 0, 2, 0x3A, 0] {
        bench.write(client, &[byte]);
    }
    assert_eq!(bench.words(client), ["status 0 res 0 free 16"]);
    let status = bench.relay.clients().next().unwrap();
    assert_eq!((status.frames_received, status.noise > 40), (2, true));
}

#[test]
fn a_quiet_client_hears_something_every_45_seconds() {
    let mut bench = Bench::up();
    let client = bench.configured();
    bench.break_link(3_600_000);
    bench.run(5_000);
    bench.words(client);
    for _ in 0..20 {
        bench.run(45_000);
        let words = bench.words(client);
        assert!(!words.is_empty());
        assert!(words.iter().all(|word| word == "status 0 res 0 free 16"), "{words:?}");
    }
}

#[test]
fn a_write_of_one_byte_at_a_time_is_the_same_stream() {
    let mut bench = Bench::up();
    let slow = bench.connect();
    bench.clients.get_mut(&slow).unwrap().takes = Some(1);
    bench.want_config(slow, 8);
    let quick = bench.connect();
    bench.want_config(quick, 8);
    assert_eq!(bench.payloads(slow), bench.payloads(quick));
}

#[test]
fn another_node_in_its_place_is_served_as_what_it_is() {
    let mut bench = Bench::up();
    let old = bench.node.node_num();
    bench.node.inject(bench.now, sim::Fault::Renumber);
    bench.run(60_000);
    assert_ne!(bench.node.node_num(), old);
    assert_eq!(bench.relay.snapshot().unwrap().node(), bench.node.node_num());
    let client = bench.connect();
    bench.want_config(client, 1);
    let my_info = &bench.payloads(client)[0];
    let Some(peek::FromRadio::MyInfo(info)) = peek::FromRadio::peek(my_info) else { panic!() };
    assert_eq!(info.node, bench.node.node_num());
}
