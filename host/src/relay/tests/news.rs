//! From the node to clients: who gets what.

use meshbeat_core::outbox::PacketEvent;

use super::*;

#[test]
fn a_packet_reaches_every_client_once_and_in_order() {
    let mut bench = Bench::up();
    let clients: Vec<_> = (0..5).map(|_| bench.configured()).collect();
    for id in 1..=20 {
        bench.hear(2, id, "hi");
    }
    let expected: Vec<_> = (1..=20).map(|id| format!("text {id} hi")).collect();
    for client in clients {
        assert_eq!(bench.words(client), expected);
    }
}

#[test]
fn what_came_while_nobody_was_there_goes_to_the_first_who_comes() {
    let mut bench = Bench::up();
    let gone = bench.configured();
    bench.relay.handle_closed(bench.now, gone);
    for id in 1..=3 {
        bench.hear(2, id, "kept");
    }
    let watcher = Peer { label: "watch".into(), policy: Policy::Full, observer: true };
    let watcher = bench.relay.handle_connect(bench.now, watcher).unwrap();
    bench.clients.insert(watcher, Client::default());
    bench.want_config(watcher, 1);
    assert_eq!(bench.words(watcher).last().unwrap(), "complete 1", "not for who looks on");
    bench.hear(2, 4, "kept");
    assert_eq!(bench.words(watcher), ["text 4 kept"]);
    let first = bench.connect();
    bench.want_config(first, 2);
    let words = bench.words(first);
    let from = words.iter().position(|word| word == "complete 2").unwrap();
    let kept: Vec<_> = (1..=4).map(|id| format!("text {id} kept")).collect();
    assert_eq!(words[from + 1..], kept);
    let second = bench.connect();
    bench.want_config(second, 3);
    assert_eq!(bench.words(second).last().unwrap(), "complete 3", "given once");
}

#[test]
fn who_leaves_in_mid_handshake_takes_nothing_of_what_is_kept() {
    let mut bench = Bench::up();
    bench.hear(2, 1, "kept");
    let hasty = bench.connect();
    bench.clients.get_mut(&hasty).unwrap().deaf = true;
    bench.want_config(hasty, 1);
    bench.hear(2, 2, "kept too");
    bench.relay.consume(bench.now, hasty, 200);
    bench.relay.handle_closed(bench.now, hasty);
    let next = bench.connect();
    bench.want_config(next, 2);
    let words = bench.words(next);
    assert_eq!(words[words.len() - 3..], ["complete 2", "text 1 kept", "text 2 kept too"]);
}

#[test]
fn replays_are_for_new_clients_and_no_news() {
    let mut config = plain();
    (config.identity.replays, config.identity.nodes) = (true, 20);
    let mut bench = Bench::up_with(config, RelayConfig::default());
    let first = bench.connect();
    bench.want_config(first, 1);
    let told = bench.words(first);
    let complete = told.iter().position(|word| word == "complete 1").unwrap();
    let replays = told[complete + 1..].to_vec();
    assert!(replays.len() >= 10, "{replays:?}");
    // The node repeats them after each handshake: no news.
    bench.break_link(2_000);
    bench.run(30_000);
    assert!(bench.link.state().is_up());
    let news: Vec<_> = bench
        .words(first)
        .into_iter()
        .filter(|w| !w.starts_with("notice") && !w.starts_with("status"))
        .collect();
    assert_eq!(news, [""; 0]);
    let second = bench.connect();
    bench.want_config(second, 2);
    let again = bench.words(second);
    let complete = again.iter().position(|word| word == "complete 2").unwrap();
    assert_eq!(again[complete + 1..].len(), replays.len());
    // Android asks for the configuration alone first.
    bench.want_config(second, 69420);
    bench.run(100);
    assert_eq!(bench.words(second).last().unwrap(), "complete 69420");
}

#[test]
fn the_nodes_own_talk_reaches_nobody() {
    let mut bench = Bench::up();
    let client = bench.configured();
    bench.break_link(2_000);
    bench.run(60_000);
    let words = bench.words(client);
    let notices = words.iter().filter(|word| word.starts_with("notice")).count();
    let alive = words.iter().filter(|word| *word == "status 0 res 0 free 16").count();
    assert_eq!((notices, notices + alive), (2, words.len()), "{words:?}");
}

#[test]
fn a_routing_reply_is_for_who_asked_or_if_nobody_did_for_all() {
    let mut bench = Bench::up();
    let (asker, other) = (bench.configured(), bench.configured());
    let mut packet = text_packet(9, "hi");
    packet.want_ack = true;
    bench.packet(asker, packet);
    bench.run(10_000);
    assert!(bench.words(asker).contains(&"routing 9 NONE".into()));
    assert_eq!(bench.words(other), ["text 9 hi"]);
    let reply = Routing { variant: Some(routing::Variant::ErrorReason(0)) };
    for (id, port, payload) in [
        (1, PortNum::RoutingApp, reply.encode_to_vec()),
        (2, PortNum::AdminApp, AdminMessage::default().encode_to_vec()),
    ] {
        let mut stray = data_packet(bench.node.node_num(), id, port, payload);
        stray.from = 2;
        if let Some(mesh_packet::PayloadVariant::Decoded(data)) = &mut stray.payload_variant {
            data.request_id = 4_321;
        }
        bench.node.hear(bench.now, stray);
        bench.run(500);
    }
    assert_eq!(bench.words(asker), ["routing 4321 NONE"]);
    assert_eq!(bench.words(other), ["routing 4321 NONE"]);
}

/// Frames that the simulated node does not send are given to the relay as they are.
fn tell(bench: &mut Bench, variant: Variant) {
    let payload =
        FromRadio { payload_variant: Some(variant), ..FromRadio::default() }.encode_to_vec();
    let message = peek::FromRadio::peek(&payload).unwrap();
    bench.relay.handle_frame(bench.now, &payload, message, false);
    bench.settle();
}

#[test]
fn another_nodes_error_does_not_stand_in_for_the_word_about_a_packets_end() {
    // One that is refused by number alone, and one that becomes too old before it is written.
    for (refused, end) in [(true, "routing 8 NO_CHANNEL"), (false, "routing 8 NO_INTERFACE")] {
        let ttl = Some(Duration::from_secs(60));
        let config = RelayConfig { ttl, notify: false, ..RelayConfig::default() };
        let mut bench = Bench::up_with(plain(), config);
        let client = bench.configured();
        bench.break_link(600_000);
        bench.run(1_000);
        bench.text(client, 8, "hi");
        if refused {
            let state = PacketState::Refused(routing::Error::NoChannel as i32);
            let event = PacketEvent { id: 8, wire_id: 8, sender: 0, state };
            bench.relay.handle_event(bench.now, Event::Packet(event));
        }
        let error = routing::Variant::ErrorReason(routing::Error::NoResponse as i32);
        let error = Routing { variant: Some(error) }.encode_to_vec();
        let mut error = data_packet(bench.node.node_num(), 1, PortNum::RoutingApp, error);
        error.from = 2;
        if let Some(mesh_packet::PayloadVariant::Decoded(data)) = &mut error.payload_variant {
            data.request_id = 8;
        }
        tell(&mut bench, Variant::Packet(error));
        assert_eq!(bench.words(client), ["status 8 res 0 free 16", "routing 8 NO_RESPONSE"]);
        bench.run(70_000);
        let words = bench.words(client);
        assert_eq!(words.iter().filter(|word| word.starts_with("routing")).count(), 1, "{words:?}");
        assert!(words.contains(&end.to_owned()), "{words:?}");
    }
}

#[test]
fn a_notification_about_a_packet_is_for_its_sender_and_others_for_all() {
    let mut bench = Bench::up();
    let (first, second) = (bench.configured(), bench.configured());
    bench.text(first, 9, "one");
    bench.text(second, 9, "two");
    bench.run(10_000);
    let renamed = bench.taken()[1];
    bench.words(first);
    bench.words(second);
    let notice = |reply_id| {
        let message = b"limited".to_vec();
        Variant::ClientNotification(meshbeat_proto::ClientNotification {
            reply_id,
            message,
            ..Default::default()
        })
    };
    tell(&mut bench, notice(Some(renamed)));
    assert_eq!((bench.words(first), bench.words(second)), (vec![], vec!["notice about 9".into()]));
    tell(&mut bench, notice(Some(12345)));
    assert_eq!((bench.words(first), bench.words(second)), (vec![], vec![]));
    tell(&mut bench, notice(None));
    assert_eq!(bench.words(first), ["notice: limited"]);
    assert_eq!(bench.words(second), ["notice: limited"]);
}

#[test]
fn configuration_and_rebooted_never_go_to_who_did_not_ask() {
    let mut bench = Bench::up();
    let client = bench.configured();
    tell(&mut bench, Variant::Rebooted(true));
    tell(&mut bench, Variant::ConfigCompleteId(5));
    tell(&mut bench, Variant::Channel(Default::default()));
    tell(&mut bench, Variant::Config(Default::default()));
    tell(&mut bench, Variant::NodeInfo(Default::default()));
    tell(&mut bench, Variant::QueueStatus(Default::default()));
    assert_eq!(bench.words(client), [""; 0]);
    tell(&mut bench, Variant::LogRecord(Default::default()));
    assert_eq!(bench.words(client), ["log_record"]);
}

#[test]
fn a_file_transfer_and_the_mqtt_proxy_are_one_clients_affair() {
    let mut bench = Bench::up();
    let (first, second) = (bench.configured(), bench.configured());
    let reader = bench.configured_as(Policy::NoAdmin);
    tell(&mut bench, Variant::XmodemPacket(Default::default()));
    assert_eq!((bench.words(first), bench.words(second)), (vec![], vec![]));
    tell(&mut bench, Variant::MqttClientProxyMessage(Default::default()));
    assert_eq!((bench.words(first).len(), bench.words(second).len()), (1, 0));
    bench.say(second, PayloadVariant::XmodemPacket(Default::default()));
    bench.say(second, PayloadVariant::MqttClientProxyMessage(Default::default()));
    tell(&mut bench, Variant::XmodemPacket(Default::default()));
    tell(&mut bench, Variant::MqttClientProxyMessage(Default::default()));
    assert_eq!((bench.words(first).len(), bench.words(second).len()), (0, 2));
    bench.say(reader, PayloadVariant::XmodemPacket(Default::default()));
    tell(&mut bench, Variant::XmodemPacket(Default::default()));
    assert_eq!((bench.words(reader), bench.words(second).len()), (vec!["xmodemPacket".into()], 1));
    bench.relay.handle_closed(bench.now, second);
    tell(&mut bench, Variant::MqttClientProxyMessage(Default::default()));
    assert_eq!(bench.words(first).len(), 1);
}
