//! What is old and what is new, and which packets a client is told again.

use meshbeat_proto::DeviceMetadata;

use super::super::memory::MAX_SEEN;
use super::*;

#[test]
fn the_last_packet_of_each_kind_is_replayed() {
    let mut snapshot = known(true);
    let air = |temperature| {
        let metrics = EnvironmentMetrics { temperature: Some(temperature), ..Default::default() };
        let variant = Some(telemetry::Variant::EnvironmentMetrics(metrics));
        Telemetry { time: 5, variant }.encode_to_vec()
    };
    let mut sent = Vec::new();
    for (port, content) in [
        (PortNum::NodeStatusApp, b"\x0A\x02ok".to_vec()),
        (PortNum::TelemetryApp, air(1.0)),
        (PortNum::TelemetryApp, battery(10)),
        (PortNum::PositionApp, place(1)),
        (PortNum::TelemetryApp, air(2.0)),
        (PortNum::TelemetryApp, battery(20)),
        (PortNum::PositionApp, place(2)),
        (PortNum::PositionApp, Vec::new()),
        (PortNum::PositionApp, [&place(3)[..], &[0x0A, 9]].concat()),
        (PortNum::TextMessageApp, b"hi".to_vec()),
    ] {
        let payload = packet(port, content, |packet| packet.id = 1 + sent.len() as u32);
        assert_eq!(hear(&mut snapshot, &payload), Heard::News);
        sent.push(payload);
    }
    let expected = [6, 5, 4, 0].map(|index: usize| sent[index].clone());
    assert_eq!(replayed(&snapshot), expected);
}

#[test]
fn a_packet_heard_before_is_a_replay() {
    let mut snapshot = known(false);
    let text = |from, id| {
        packet(PortNum::TextMessageApp, b"hi".to_vec(), |packet| {
            (packet.from, packet.id) = (from, id);
        })
    };
    for (from, id, expected) in [
        (OTHER, 1, Heard::News),
        (OTHER, 2, Heard::News),
        (OTHER, 1, Heard::Replay),
        (OWN, 1, Heard::News),
        (OTHER, 0, Heard::News),
        (OTHER, 0, Heard::News),
    ] {
        assert_eq!(hear(&mut snapshot, &text(from, id)), expected, "{from:x} {id}");
    }
    let nameless = packet(PortNum::PositionApp, place(1), |packet| packet.id = 0);
    assert_eq!([0; 2].map(|_| hear(&mut snapshot, &nameless)), [Heard::News; 2]);
    // As many later it is forgotten; what is kept whole is not.
    let position = packet(PortNum::PositionApp, place(1), |packet| packet.id = 9);
    hear(&mut snapshot, &position);
    for id in 0..MAX_SEEN as u32 {
        assert_eq!(hear(&mut snapshot, &text(OTHER, 100 + id)), Heard::News);
    }
    assert_eq!(hear(&mut snapshot, &text(OTHER, 2)), Heard::News);
    assert_eq!(hear(&mut snapshot, &position), Heard::Replay);
}

#[test]
fn what_a_node_makes_up_from_its_database_is_a_replay_under_any_id() {
    // As firmware 2.8 makes them: a fresh id, no signal strength.
    let made_up = |id, port, content: Vec<u8>| {
        packet(port, content, |packet| {
            (packet.id, packet.rx_rssi, packet.priority) = (id, 0, 10);
            (packet.rx_time, packet.transport_mechanism) = (40, 1);
        })
    };
    let position = || made_up(71, PortNum::PositionApp, place(3));
    assert_eq!(hear(&mut known(true), &position()), Heard::Replay);
    assert_eq!(hear(&mut known(false), &position()), Heard::News, "an old node makes up nothing");
    let text = made_up(72, PortNum::TextMessageApp, b"hi".to_vec());
    assert_eq!(hear(&mut known(true), &text), Heard::News, "texts are not made up");
    // One difference each, and it was heard.
    let changes: [fn(&mut MeshPacket); 4] = [
        |packet| packet.rx_rssi = -1,
        |packet| packet.priority = 70,
        |packet| packet.transport_mechanism = 5,
        |packet| packet.via_mqtt = true,
    ];
    for change in changes {
        let live = packet(PortNum::PositionApp, place(3), |packet| {
            (packet.rx_rssi, packet.priority, packet.transport_mechanism) = (0, 10, 1);
            change(packet);
        });
        assert_eq!(hear(&mut known(true), &live), Heard::News);
    }

    // It changes no entry, and takes the place of an older packet only.
    let mut snapshot = known(true);
    let live = packet(PortNum::PositionApp, place(4), |packet| packet.rx_time = 41);
    hear(&mut snapshot, &live);
    hear(&mut snapshot, &position());
    assert_eq!(replayed(&snapshot), [live]);
    assert_eq!(entry(&snapshot).last_heard, 41);
    let live = packet(PortNum::PositionApp, place(5), |p| (p.id, p.rx_time) = (2, 39));
    hear(&mut snapshot, &live);
    hear(&mut snapshot, &made_up(73, PortNum::PositionApp, place(3)));
    assert_eq!(replayed(&snapshot), [made_up(73, PortNum::PositionApp, place(3))]);
}

#[test]
fn a_node_that_repeats_itself_after_a_handshake_is_known_by_it() {
    let metadata = |version: &[u8]| {
        let firmware_version = version.to_vec();
        let metadata = DeviceMetadata { firmware_version, ..DeviceMetadata::default() };
        let script = Script::new().with(Variant::Metadata(metadata));
        script.with(node_info(OTHER, |_| ())).built().unwrap()
    };
    let position = packet(PortNum::PositionApp, place(1), |_| ());
    let mut snapshot = metadata(b"1");
    hear(&mut snapshot, &position);
    let mut snapshot = metadata(b"1").succeeding(snapshot);
    assert_eq!(snapshot.replays().count(), 0);
    assert_eq!(hear(&mut snapshot, &position), Heard::Replay);
    assert_eq!(replayed(&snapshot), core::slice::from_ref(&position));
    let snapshot = metadata(b"1").succeeding(snapshot);
    assert_eq!(snapshot.replays().count(), 1, "as before");
    let snapshot = metadata(b"2").succeeding(snapshot);
    assert_eq!(snapshot.replays().count(), 0, "another firmware");

    // A stray repeat in mid-session shows nothing.
    let mut snapshot = metadata(b"1");
    hear(&mut snapshot, &position);
    for id in 0..REPEAT_WINDOW as u32 {
        let text = packet(PortNum::TextMessageApp, b"hi".to_vec(), |packet| packet.id = 10 + id);
        hear(&mut snapshot, &text);
    }
    assert_eq!(hear(&mut snapshot, &position), Heard::Replay);
    assert_eq!(snapshot.replays().count(), 0);
}
