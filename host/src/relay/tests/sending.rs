//! From clients to the node, and what becomes of it.

use super::*;

#[test]
fn a_text_is_answered_at_once_and_sent() {
    let mut bench = Bench::up();
    let client = bench.configured();
    bench.text(client, 700, "hi");
    assert_eq!(bench.words(client), ["status 700 res 0 free 16"]);
    bench.run(2_000);
    assert_eq!(bench.taken(), [700]);
    assert_eq!(bench.words(client), [""; 0], "nothing more without want_ack");
    assert_eq!(bench.relay.fate(700), Some(PacketState::Confirmed));
}

#[test]
fn the_others_see_a_text_once_when_it_is_confirmed() {
    let mut bench = Bench::up();
    let (sender, other) = (bench.configured(), bench.configured());
    let reader = bench.configured_as(Policy::ReadOnly);
    let new = bench.connect();
    bench.text(sender, 701, "hi");
    assert_eq!(bench.words(other), [""; 0]);
    bench.run(2_000);
    let echo = bench.payloads(other);
    assert_eq!(echo.len(), 1);
    let Some(Variant::Packet(packet)) = FromRadio::decode(&echo[0][..]).unwrap().payload_variant
    else {
        panic!("{echo:?}")
    };
    assert_eq!((packet.from, packet.to, packet.id), (bench.node.node_num(), ALL, 701));
    assert!((1_763_000_010..1_763_000_013).contains(&packet.rx_time), "{}", packet.rx_time);
    assert_eq!(bench.words(reader), ["text 701 hi"]);
    assert_eq!(bench.words(new), [""; 0]);
    assert_eq!(bench.words(sender), ["status 701 res 0 free 16"]);
}

#[test]
fn admin_routing_and_encrypted_packets_are_not_shown_to_others() {
    let mut bench = Bench::up();
    let (sender, other) = (bench.configured(), bench.configured());
    bench.admin(sender, 1, Admin::GetOwnerRequest(true));
    let routing = Routing { variant: Some(routing::Variant::ErrorReason(0)) };
    bench.packet(sender, data_packet(ALL, 2, PortNum::RoutingApp, routing.encode_to_vec()));
    let encrypted = mesh_packet::PayloadVariant::Encrypted(vec![7; 20]);
    bench.packet(
        sender,
        MeshPacket { to: ALL, id: 3, payload_variant: Some(encrypted), ..MeshPacket::default() },
    );
    bench.run(5_000);
    assert_eq!(bench.taken(), [1, 2, 3]);
    assert_eq!(bench.words(other), [""; 0]);
}

#[test]
fn a_packet_without_an_id_is_given_one() {
    let mut bench = Bench::up();
    let client = bench.configured();
    bench.text(client, 0, "hi");
    bench.run(2_000);
    let id = bench.taken()[0];
    assert_ne!(id, 0);
    assert_eq!(bench.words(client), [format!("status {id} res 0 free 16")]);
}

#[test]
fn two_clients_may_use_the_same_id() {
    let mut bench = Bench::up();
    let (first, second) = (bench.configured(), bench.configured());
    for client in [first, second] {
        let mut packet = text_packet(9, if client == first { "one" } else { "two" });
        packet.want_ack = true;
        bench.packet(client, packet);
    }
    bench.run(20_000);
    let ids = bench.taken();
    assert_eq!((ids.len(), ids[0]), (2, 9));
    let renamed = ids[1];
    assert_ne!(renamed, 9);
    // Each knows its own packet as 9, and the other's by the id on the mesh.
    let words = bench.words(first);
    assert_eq!(words, ["status 9 res 0 free 16", "routing 9 NONE", &format!("text {renamed} two")]);
    let words = bench.words(second);
    assert_eq!(words, ["status 9 res 0 free 16", "text 9 one", "routing 9 NONE"]);

    // An answer to it names it as each knows it, and the sender's own answer finds it.
    let mut answer = text_packet(50, "re");
    answer.from = 2;
    if let Some(mesh_packet::PayloadVariant::Decoded(data)) = &mut answer.payload_variant {
        data.reply_id = renamed;
    }
    bench.node.hear(bench.now, answer.clone());
    bench.run(500);
    let reply_id =
        |payloads: &[Vec<u8>]| match FromRadio::decode(&payloads[0][..]).unwrap().payload_variant {
            Some(Variant::Packet(MeshPacket {
                payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
                ..
            })) => data.reply_id,
            other => panic!("{other:?}"),
        };
    assert_eq!(reply_id(&bench.payloads(second)), 9);
    assert_eq!(reply_id(&bench.payloads(first)), renamed);
    (answer.from, answer.id) = (0, 51);
    if let Some(mesh_packet::PayloadVariant::Decoded(data)) = &mut answer.payload_variant {
        data.reply_id = 9;
    }
    bench.packet(second, answer);
    bench.run(5_000);
    let echo = bench.payloads(first);
    assert_eq!(reply_id(&echo), renamed);
}

#[test]
fn the_same_packet_again_is_answered_and_not_sent() {
    let mut bench = Bench::up();
    let client = bench.configured();
    for _ in 0..3 {
        bench.text(client, 5, "hi");
    }
    bench.run(10_000);
    bench.text(client, 5, "hi");
    bench.run(10_000);
    assert_eq!(bench.taken(), [5]);
    assert_eq!(bench.words(client).len(), 4);
    // The same id on other words is another packet.
    bench.text(client, 5, "ho");
    bench.run(10_000);
    assert_eq!(bench.taken().len(), 2);
    assert_eq!(bench.words(client), ["status 5 res 0 free 16"]);
}

#[test]
fn what_was_sent_while_the_node_is_away_waits_and_the_sender_is_told_once() {
    let mut bench = Bench::up();
    let client = bench.configured();
    bench.break_link(120_000);
    bench.run(1_000);
    for id in 1..=5 {
        bench.text(client, id, "hi");
    }
    let words = bench.words(client);
    assert!(words[0].starts_with("notice: The node is away (connection reset)"), "{}", words[0]);
    assert_eq!(words[1..].len(), 5);
    bench.run(240_000);
    assert_eq!(bench.taken(), [1, 2, 3, 4, 5]);
    let notices: Vec<_> =
        bench.words(client).into_iter().filter(|word| word.starts_with("notice")).collect();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].starts_with("notice: The node is back after 2 min"), "{notices:?}");
}

#[test]
fn notices_can_be_switched_off() {
    let config = RelayConfig { notify: false, ..RelayConfig::default() };
    let mut bench = Bench::up_with(plain(), config);
    let client = bench.configured();
    bench.break_link(5_000);
    bench.run(20_000);
    assert_eq!(bench.words(client), [""; 0]);
}

#[test]
fn a_hundred_texts_of_one_do_not_delay_anothers() {
    let mut bench = Bench::up();
    let (bot, person) = (bench.configured(), bench.configured());
    for id in 1..=100 {
        bench.text(bot, id, "spam");
    }
    bench.text(person, 1_000, "help");
    assert_eq!(bench.words(person).last().unwrap(), "status 1000 res 0 free 16");
    bench.run(10_000);
    let place = bench.taken().iter().position(|id| *id == 1_000);
    assert!(place.is_some_and(|place| place <= 2), "{:?}", bench.taken());
    bench.run(300_000);
    assert_eq!(bench.taken().len(), 101);
}

#[test]
fn a_client_that_sends_too_much_is_told_so_and_told_when_there_is_room() {
    let mut bench = Bench::up();
    let client = bench.configured();
    for id in 1..=101 {
        bench.text(client, id, "hi");
    }
    let words = bench.words(client);
    assert_eq!(
        words[98..],
        [
            "status 99 res 0 free 1",
            "status 100 res 0 free 0",
            "status 101 res 32 free 0",
            "routing 101 RATE_LIMIT_EXCEEDED",
        ]
    );
    // A heartbeat is answered with room at any time, for Python stops for ever without.
    bench.beat(client);
    assert_eq!(bench.words(client), ["status 0 res 0 free 1"]);
    bench.run(3_000);
    assert!(bench.words(client).contains(&"status 0 res 0 free 1".into()));
    bench.run(400_000);
    assert_eq!(bench.taken().len(), 100);
}

#[test]
fn every_refusal_by_number_is_told_exactly_once() {
    for res in [6, 7, 34, 36] {
        let mut bench = Bench::up();
        let client = bench.configured();
        bench.node.inject(bench.now, sim::Fault::RefuseN(vec![res]));
        bench.text(client, 60, "hi");
        bench.run(10_000);
        let words = bench.words(client);
        assert_eq!(
            words.iter().filter(|w| w.starts_with("routing 60")).count(),
            1,
            "{res}: {words:?}"
        );
        assert_eq!(bench.relay.fate(60), Some(PacketState::Refused(res)));
        bench.node.recover(bench.now);
        bench.text(client, 60, "hi");
        bench.run(10_000);
        assert_eq!(bench.relay.fate(60), Some(PacketState::Confirmed), "a new attempt");
    }
}

#[test]
fn an_error_about_a_packet_that_is_tried_again_is_not_told() {
    let mut bench = Bench::up();
    let client = bench.configured();
    let duty_cycle = routing::Error::DutyCycleLimit as i32;
    bench.node.inject(bench.now, sim::Fault::RefuseN(vec![duty_cycle]));
    bench.text(client, 60, "hi");
    bench.run(10_000);
    assert_eq!(bench.relay.fate(60), Some(PacketState::Queued));
    bench.run(600_000);
    assert_eq!(bench.relay.fate(60), Some(PacketState::Confirmed));
    assert!(!bench.words(client).iter().any(|word| word.starts_with("routing")));
}

#[test]
fn an_error_read_after_the_status_by_which_a_packet_is_tried_again_is_not_told() {
    let mut bench = Bench::up();
    let (client, other) = (bench.configured(), bench.configured());
    let duty_cycle = routing::Error::DutyCycleLimit as i32;
    bench.node.inject(bench.now, sim::Fault::RefuseN(vec![duty_cycle]));
    // The status and the error behind it come in reads of their own.
    bench.reads = 1;
    bench.text(client, 60, "hi");
    bench.run(600_000);
    assert_eq!(bench.relay.fate(60), Some(PacketState::Confirmed));
    for client in [client, other] {
        let words = bench.words(client);
        assert!(!words.iter().any(|word| word.starts_with("routing")), "{words:?}");
    }
}

#[test]
fn a_file_transfer_is_cancelled_while_the_node_is_away_and_nothing_else_is() {
    let mut bench = Bench::up_with(plain(), RelayConfig { notify: false, ..Default::default() });
    let client = bench.configured();
    bench.break_link(600_000);
    bench.run(1_000);
    bench.say(client, PayloadVariant::XmodemPacket(Default::default()));
    assert_eq!(bench.words(client), ["xmodemPacket"]);
    bench.say(client, PayloadVariant::MqttClientProxyMessage(Default::default()));
    assert_eq!(bench.words(client), [""; 0]);
}

#[test]
fn what_became_too_old_is_told() {
    let config =
        RelayConfig { ttl: Some(Duration::from_secs(60)), notify: false, ..RelayConfig::default() };
    let mut bench = Bench::up_with(plain(), config);
    let client = bench.configured();
    bench.break_link(600_000);
    bench.run(1_000);
    bench.text(client, 8, "hi");
    bench.run(70_000);
    let words = bench.words(client);
    assert!(words.contains(&"routing 8 NO_INTERFACE".into()), "{words:?}");
    assert_eq!(bench.relay.fate(8), Some(PacketState::Expired));
}

#[test]
fn what_a_client_had_sent_is_sent_although_it_left() {
    let mut bench = Bench::up();
    let client = bench.configured();
    bench.text(client, 1, "a");
    bench.text(client, 2, "b");
    bench.relay.handle_closed(bench.now, client);
    bench.run(10_000);
    assert_eq!(bench.taken(), [1, 2]);
}

#[test]
fn a_client_that_comes_back_and_repeats_itself_is_told_what_became_of_it() {
    let mut bench = Bench::up();
    let client = bench.configured();
    let mut packet = text_packet(33, "hi");
    packet.want_ack = true;
    bench.packet(client, packet.clone());
    bench.relay.handle_closed(bench.now, client);
    let again = bench.configured();
    bench.packet(again, packet);
    bench.run(20_000);
    assert_eq!(bench.taken(), [33]);
    assert_eq!(bench.words(again), ["status 33 res 0 free 16", "routing 33 NONE"]);
}

#[test]
fn what_may_not_be_sent_is_answered_and_never_reaches_the_node() {
    for policy in [Policy::NoAdmin, Policy::ReadOnly] {
        let mut bench = Bench::up();
        let client = bench.configured_as(policy);
        bench.admin(client, 5, Admin::RebootSeconds(1));
        assert_eq!(bench.words(client), ["routing 5 NOT_AUTHORIZED"]);
        bench.admin(client, 6, Admin::SetTimeOnly(1_763_000_000));
        assert_eq!(bench.words(client), ["status 6 res 0 free 16"]);
        bench.run(5_000);
        assert_eq!(bench.taken(), [6]);
        assert_eq!(bench.relay.counters().refused, 1);
    }
}

#[test]
fn an_answer_to_an_admin_packet_is_for_who_sent_it_only() {
    let mut bench = Bench::up();
    let (asker, other) = (bench.configured(), bench.configured());
    bench.admin(asker, 5, Admin::GetOwnerRequest(true));
    bench.run(3_000);
    assert_eq!(bench.words(asker), ["status 5 res 0 free 16", "ADMIN_APP 5"]);
    assert_eq!(bench.words(other), [""; 0]);
}

#[test]
fn who_asks_after_a_change_is_told_the_change() {
    let mut bench = Bench::up();
    let client = bench.configured();
    let owner = meshbeat_proto::User {
        long_name: b"Renamed".to_vec(),
        short_name: b"RN".to_vec(),
        ..Default::default()
    };
    bench.admin(client, 5, Admin::SetOwner(owner));
    // The one that wrote leaves at once; another asks.
    bench.relay.handle_closed(bench.now, client);
    let asker = bench.connect();
    bench.want_config(asker, 2);
    assert_eq!(bench.words(asker), [""; 0], "it waits for the change");
    bench.run(5_000);
    let payloads = bench.payloads(asker);
    assert_eq!(words(payloads.last().unwrap()), "complete 2");
    assert!(payloads.iter().any(|p| p.windows(7).any(|w| w == b"Renamed")));
    assert_eq!(bench.relay.counters().handshakes, 2);
}

#[test]
fn a_transaction_is_asked_for_once_at_its_end() {
    let mut config = plain();
    config.timing.admin_reboot = None;
    let mut bench = Bench::up_with(config, RelayConfig::default());
    let client = bench.configured();
    let asked = |bench: &Bench| bench.node.log().totals().want_configs;
    let before = asked(&bench);
    bench.admin(client, 1, Admin::BeginEditSettings(true));
    for id in 2..=4 {
        bench.run(1_500);
        bench.admin(client, id, Admin::SetFavoriteNode(id));
    }
    assert_eq!(asked(&bench), before);
    bench.admin(client, 5, Admin::CommitEditSettings(true));
    bench.run(4_000);
    assert_eq!(asked(&bench), before + 1);
    bench.run(60_000);
    assert_eq!(asked(&bench), before + 1);
    assert!(bench.words(client).iter().all(|word| word.starts_with("status")));
}

#[test]
fn a_transaction_that_does_not_end_is_asked_for_after_5_seconds() {
    let mut bench = Bench::up();
    let client = bench.configured();
    let before = bench.node.log().totals().want_configs;
    bench.admin(client, 1, Admin::BeginEditSettings(true));
    bench.run(4_000);
    assert_eq!(bench.node.log().totals().want_configs, before);
    bench.run(3_000);
    assert_eq!(bench.node.log().totals().want_configs, before + 1);
}

#[test]
fn nobody_waits_for_a_change_while_the_node_is_away() {
    let mut bench = Bench::up();
    let client = bench.configured();
    bench.break_link(600_000);
    bench.run(1_000);
    bench.admin(client, 5, Admin::SetFavoriteNode(3));
    bench.want_config(client, 2);
    assert_eq!(bench.words(client).last().unwrap(), "complete 2");
}
