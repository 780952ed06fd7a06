//! The four steps, the table of `res`, and what the mesh answers.

use super::super::script::{Bench, packet, plain, text};
use super::super::{Chance, ConnId};
use super::*;

fn statuses(bench: &mut Bench, conn: ConnId) -> Vec<String> {
    bench.words(conn).into_iter().filter(|words| words.starts_with("status")).collect()
}

#[test]
fn each_port_number_has_its_own_limit_and_a_refused_packet_does_not_restart_it() {
    let ports = [
        (PortNum::TextMessageApp, 2),
        (PortNum::PositionApp, 10),
        (PortNum::WaypointApp, 10),
        (PortNum::AlertApp, 10),
        (PortNum::TelemetryApp, 10),
    ];
    for (port, seconds) in ports {
        let mut config = plain();
        config.timing.active_poll = Duration::from_millis(1);
        config.timing.idle_poll = Duration::from_millis(1);
        let (mut bench, conn) = Bench::live_with(config);
        let span = seconds * 1_000;
        for (id, at) in [(1, 0), (2, span / 2), (3, span - 1), (4, span), (5, span + 1)] {
            bench.run_to(at);
            bench.packet(conn, packet(id, BROADCAST, port, vec![1]));
            bench.run(0);
        }
        bench.run(2_000);
        let log = bench.node.log();
        let limited: Vec<_> = [1, 2, 3, 4, 5]
            .map(|id| log.count(|r| *r == Record::RateLimited { id, port: port as i32 }))
            .into();
        assert_eq!(limited, [0, 1, 1, 0, 1], "{port:?}");
        assert_eq!(statuses(&mut bench, conn).len(), 5, "each has a status with res 0");
    }
}

#[test]
fn limits_end_with_the_connection_and_can_be_scaled_or_off() {
    let limited = |change: fn(&mut super::super::SimConfig)| {
        let mut config = plain();
        change(&mut config);
        let (mut bench, conn) = Bench::live_with(config);
        bench.text(conn, 1);
        bench.run_to(600);
        bench.text(conn, 2);
        bench.run_to(1_200);
        bench.node.log().totals().rate_limited
    };
    assert_eq!(limited(|_| {}), 1);
    assert_eq!(limited(|config| config.limits.scale = 0.25), 0);
    assert_eq!(limited(|config| config.limits.enforced = false), 0);

    let (mut bench, conn) = Bench::live();
    bench.text(conn, 1);
    bench.run(300);
    let conn = bench.configured();
    bench.text(conn, 2);
    bench.run(300);
    assert_eq!(bench.node.log().totals().rate_limited, 0);
}

#[test]
fn what_is_kept_as_on_a_serial_line_ends_with_a_reboot() {
    let mut config = plain();
    config.limits.kept = true;
    let (mut bench, conn) = Bench::live_with(config);
    bench.text(conn, 1);
    bench.run(300);
    let conn = bench.configured();
    bench.text(conn, 1);
    bench.text(conn, 2);
    bench.run(300);
    let totals = bench.node.log().totals();
    assert_eq!((totals.repeated, totals.rate_limited), (1, 1));
    let now = bench.now();
    bench.node.reboot(now);
    let conn = bench.configured();
    bench.text(conn, 1);
    bench.run(300);
    let totals = bench.node.log().totals();
    assert_eq!((totals.repeated, totals.rate_limited, totals.taken), (1, 1, 2));
}

#[test]
fn traceroute_is_limited_with_a_notification_and_never_goes_to_all() {
    let (mut bench, conn) = Bench::live();
    let to = bench.node.neighbours().next().expect("a neighbour");
    let mut trace = |id, to| {
        bench.packet(conn, packet(id, to, PortNum::TracerouteApp, vec![]));
        bench.run(10_000);
        bench.words(conn)
    };
    assert_eq!(trace(1, to), ["status 1 res 0 free 15"]);
    assert_eq!(trace(2, to), ["status 2 res 0 free 16", "notification 2"]);
    assert_eq!(trace(3, BROADCAST), ["status 3 res 0 free 16", "notification 3"]);
    assert_eq!(trace(4, to), ["status 4 res 0 free 15"], "30 s after the first");
}

#[test]
fn an_id_of_0_is_made_up_and_never_repeated() {
    let (mut bench, conn) = Bench::live();
    for _ in 0..2 {
        bench.packet(conn, packet(0, BROADCAST, PortNum::PrivateApp, vec![1]));
        bench.run(1_000);
    }
    assert_eq!(bench.node.log().totals().taken, 2);
    let words = statuses(&mut bench, conn);
    assert!(words.iter().all(|words| !words.starts_with("status 0 ")), "{words:?}");
}

#[test]
fn a_refused_packet_is_remembered_and_sets_its_timer() {
    let (mut bench, conn) = Bench::live();
    bench.node.inject(bench.now(), super::super::Fault::RefuseN(vec![NO_RADIO]));
    bench.text(conn, 1);
    bench.run_to(1_000);
    bench.text(conn, 2);
    bench.run_to(5_000);
    bench.text(conn, 1);
    bench.run_to(10_000);
    assert_eq!(bench.words(conn), ["status 1 res 33 free 16", "status 2 res 0 free 16"]);
    let totals = bench.node.log().totals();
    assert_eq!((totals.refused, totals.rate_limited, totals.repeated), (1, 1, 1));
}

#[test]
fn what_cannot_be_sent_is_refused_with_a_nak() {
    let (mut bench, conn) = Bench::live();
    let known = bench.node.neighbours().next().expect("a neighbour");
    let long = |id, to, len| packet(id, to, PortNum::TextMessageApp, vec![b'x'; len]);
    let sent = [
        (long(1, BROADCAST, 232), 0),
        (long(2, BROADCAST, 233), 7),
        (long(3, known, 220), 0),
        (long(4, known, 221), 7),
        (MeshPacket { channel: 1, ..text(5) }, 0),
        (MeshPacket { channel: 2, ..text(6) }, 6),
        (MeshPacket { channel: 9, ..text(7) }, 6),
    ];
    for (packet, res) in sent {
        let id = packet.id;
        bench.packet(conn, packet);
        bench.run(3_000);
        let words = bench.words(conn);
        let status = format!("status {id} res {res} ");
        assert!(words[0].starts_with(&status), "{words:?}, not {status}");
        let nak = format!("routing {id} error {res} from own");
        assert_eq!(words.contains(&nak), res != 0, "{words:?}");
    }
}

#[test]
fn a_packet_to_the_node_itself_has_35_and_is_fine() {
    let (mut bench, conn) = Bench::live();
    let own = bench.node.node_num();
    let packet = MeshPacket { to: own, want_ack: true, ..text(1) };
    bench.packet(conn, packet);
    bench.run(1_000);
    assert_eq!(bench.words(conn), ["status 1 res 35 free 16", "routing 1 error 0 from own"]);
    assert_eq!(bench.node.log().totals().transmitted, 0);
}

#[test]
fn a_broadcast_is_relayed_and_a_direct_message_delivered() {
    let (mut bench, conn) = Bench::live();
    bench.packet(conn, MeshPacket { want_ack: true, ..text(1) });
    bench.run_to(5_000);
    assert_eq!(bench.words(conn), ["status 1 res 0 free 15", "routing 1 error 0 from own"]);
    let to = bench.node.neighbours().next().expect("a neighbour");
    bench.packet(conn, MeshPacket { to, want_ack: true, ..text(2) });
    bench.run_to(10_000);
    let words = bench.words(conn);
    assert_eq!(words.last().map(String::as_str), Some("routing 2 error 0 from other"));
    assert_eq!(words.len(), 2);
    bench.text(conn, 3);
    bench.run_to(50_000);
    assert_eq!(bench.words(conn), ["status 3 res 0 free 15"], "nobody asked for an answer");
}

#[test]
fn a_direct_message_may_be_heard_relayed_first() {
    let mut config = plain();
    config.radio.relayed = Chance::ALWAYS;
    let (mut bench, conn) = Bench::live_with(config);
    let to = bench.node.neighbours().next().expect("a neighbour");
    bench.packet(conn, MeshPacket { to, want_ack: true, ..text(1) });
    bench.run_to(10_000);
    let words = bench.words(conn);
    assert_eq!(words[1..], ["routing 1 error 0 from own", "routing 1 error 0 from other"]);
}

#[test]
fn an_unknown_or_silent_destination_gives_max_retransmit_after_20_to_30_s() {
    let (mut bench, conn) = Bench::live();
    bench.packet(conn, MeshPacket { to: 77, want_ack: true, ..text(1) });
    bench.run_to(60_000);
    let told = bench.told(conn);
    assert_eq!(told[1].1, "routing 1 error 5 from own");
    assert!((20_000..31_000).contains(&told[1].0), "at {}", told[1].0);
    let on_air = |r: &Record| matches!(r, Record::Transmitted { id: 1, .. });
    assert_eq!(bench.node.log().count(on_air), 3);

    let mut config = plain();
    config.radio.answered = Chance::NEVER;
    let (mut bench, conn) = Bench::live_with(config);
    let to = bench.node.neighbours().next().expect("a neighbour");
    bench.packet(conn, MeshPacket { to, want_ack: true, ..text(1) });
    bench.run_to(60_000);
    assert_eq!(bench.words(conn)[1], "routing 1 error 5 from own");
}

#[test]
fn a_simulated_radio_adds_a_status_and_a_copy_and_allows_repeats() {
    let mut config = plain();
    config.radio.simulated = true;
    let (mut bench, conn) = Bench::live_with(config);
    bench.text(conn, 1);
    bench.run_to(2_500);
    let expected = ["status 1 res 0 free 15", "status 1 res 0 free 16", "port 69 from own"];
    assert_eq!(bench.words(conn), expected);
    bench.text(conn, 1);
    bench.run_to(5_000);
    assert_eq!(bench.words(conn), expected);
    // What it hears it passes on.
    let node = bench.node.mesh.nodes[0].clone();
    let now = bench.now();
    let heard = bench.node.air.heard(&node, BROADCAST, PortNum::TextMessageApp, vec![b'x'], 1);
    let id = heard.id;
    bench.node.hear(now, heard);
    bench.run_to(7_500);
    let status = format!("status {id} res 0 free 16");
    assert_eq!(bench.words(conn), [format!("text {id}"), status, "port 69 from other".into()]);
}

#[test]
fn the_queue_to_the_radio_fills_and_empties() {
    let (mut bench, conn) = Bench::live();
    for id in 1..=18 {
        bench.packet(conn, packet(id, BROADCAST, PortNum::PrivateApp, vec![1]));
        bench.run(5);
    }
    let words = statuses(&mut bench, conn);
    assert_eq!(words[0], "status 1 res 0 free 15");
    assert_eq!(words[15], "status 16 res 0 free 0");
    assert_eq!(words[16], "status 17 res 32 free 0");
    bench.run(10_000);
    assert_eq!(bench.words(conn), ["status 0 res 0 free 1"], "room again, unasked");
    assert_eq!(bench.node.free(), 16);
    let on_air = bench.node.log().totals().transmitted;
    assert_eq!(on_air, 16);
}

#[test]
fn a_flood_that_wants_answers_is_bounded() {
    let (mut bench, conn) = Bench::live();
    bench.inject("full");
    for id in 1..=500 {
        let packet = packet(id, BROADCAST, PortNum::PrivateApp, vec![1]);
        bench.packet(conn, MeshPacket { want_ack: true, ..packet });
        bench.run(5);
    }
    assert!(bench.node.agenda.len() <= 64);
}

#[test]
fn requests_to_a_known_node_are_answered() {
    let (mut bench, conn) = Bench::live();
    let to = bench.node.neighbours().next().expect("a neighbour");
    let ports =
        [PortNum::PositionApp, PortNum::NodeinfoApp, PortNum::TelemetryApp, PortNum::TracerouteApp];
    for (id, port) in (1..).zip(ports) {
        let mut request = packet(id, to, port, vec![]);
        if let Some(mesh_packet::PayloadVariant::Decoded(data)) = &mut request.payload_variant {
            data.want_response = true;
        }
        bench.packet(conn, request);
        bench.run(10_000);
        let answer = format!("port {} from other", port as i32);
        assert_eq!(bench.words(conn).last(), Some(&answer));
    }
}
