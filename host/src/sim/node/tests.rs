//! Connections, polling, the handshake in the stream and the queues to the client.

use meshbeat_proto::{ToRadio, mesh_packet, to_radio};
use prost::Message;

use super::super::script::{Bench, packet, plain, text};
use super::super::{Fault, Totals};
use super::*;
use crate::dest::BROADCAST;

const WANT_CONFIG: to_radio::PayloadVariant = to_radio::PayloadVariant::WantConfigId(9);

fn lost(bench: &Bench, how: Loss) -> usize {
    bench.node.log().count(|r| matches!(r, Record::PacketLost { how: h, .. } if *h == how))
}

#[test]
fn the_newest_connection_wins_when_the_node_looks() {
    let (mut bench, first) = Bench::live();
    bench.run(1_000 - bench.now().as_millis() % 100);
    bench.zero();
    bench.run_to(1);
    let second = bench.connect();
    bench.run_to(99);
    assert_eq!(bench.node.client(), Some(first));
    bench.run_to(100);
    assert_eq!((bench.closed(first), bench.closed(second)), (Some((100, How::Fin)), None));
    assert_eq!(bench.node.client(), Some(second));
    bench.run_to(101);
    let third = bench.connect();
    let fourth = bench.connect();
    bench.run_to(200);
    assert_eq!(bench.closed(third), Some((101, How::Fin)), "never looked at");
    assert_eq!(bench.closed(second), Some((200, How::Fin)));
    assert_eq!(bench.node.client(), Some(fourth));
}

#[test]
fn answers_come_with_the_poll_5_ms_while_active_else_250() {
    let (mut bench, conn) = Bench::live();
    bench.beat(conn, 0);
    bench.run_to(5);
    let quick = bench.told(conn);
    assert!(quick.len() == 1 && quick[0].0 <= 5, "{quick:?}");
    let mut latest = 0;
    for n in 1..=20 {
        bench.run_to(n * 10_007);
        bench.beat(conn, 0);
        bench.run(250);
        let told = bench.told(conn);
        assert_eq!(told.len(), 1);
        latest = latest.max(told[0].0 - n * 10_007);
    }
    assert!((100..=250).contains(&latest), "at most {latest} ms");
}

#[test]
fn heartbeats_are_answered_before_any_handshake() {
    let mut bench = Bench::new(plain());
    let conn = bench.connect();
    bench.beat(conn, 0);
    bench.run(500);
    assert_eq!(bench.words(conn), ["status 0 res 0 free 16"]);
}

#[test]
fn an_answer_overtakes_the_statuses_that_wait() {
    let mut bench = Bench::new(plain());
    let conn = bench.connect();
    bench.text(conn, 1);
    bench.run(200);
    assert_eq!(bench.told(conn), [], "statuses wait for the handshake");
    assert_eq!(bench.node.log().totals().taken, 1, "the packet does not");
    bench.beat(conn, 0);
    bench.run(3_000);
    bench.send(conn, WANT_CONFIG);
    bench.run(500);
    let words = bench.words(conn);
    assert_eq!(words.first().map(String::as_str), Some("status 0 res 0 free 15"));
    assert_eq!(words.last().map(String::as_str), Some("status 1 res 0 free 15"));
}

#[test]
fn one_unasked_status_follows_the_first_handshake() {
    let mut bench = Bench::new(plain());
    for expected in [1, 0] {
        let conn = bench.connect();
        bench.send(conn, WANT_CONFIG);
        bench.run(500);
        let words = bench.words(conn);
        let statuses = words.iter().filter(|words| words.starts_with("status 0 ")).count();
        assert_eq!(statuses, expected);
    }
}

#[test]
fn want_config_restarts_the_handshake_and_loses_no_packet() {
    let (mut bench, conn) = Bench::live();
    bench.send(conn, WANT_CONFIG);
    bench.node.hear(bench.now(), text(1));
    bench.run(300);
    bench.node.hear(bench.now(), text(2));
    bench.run(300);
    let words = bench.words(conn);
    let at = words.iter().position(|words| words == "complete 9").expect("completed");
    assert!(words[0].starts_with("text 1"), "before the node read the request");
    assert_eq!(words[at + 1..], ["text 2"]);

    // In mid-handshake, which takes a network that has no room.
    let mut config = plain();
    config.queues.output = 600;
    let mut bench = Bench::new(config);
    let conn = bench.connect();
    bench.deafen(conn);
    bench.send(conn, WANT_CONFIG);
    bench.run(500);
    bench.send(conn, to_radio::PayloadVariant::WantConfigId(10));
    bench.run(500);
    let mut all = Vec::new();
    loop {
        let bytes = bench.node.poll_transmit(bench.now(), conn);
        if bytes.is_empty() {
            break;
        }
        let count = bytes.len();
        all.extend_from_slice(bytes);
        bench.node.consume(bench.now(), conn, count);
    }
    let count =
        |payload: &[u8]| all.windows(payload.len()).filter(|bytes| *bytes == payload).count();
    assert_eq!((count(&[0, 2, 0x38, 9]), count(&[0, 2, 0x38, 10])), (0, 1));
}

#[test]
fn replays_follow_all_but_the_config_only_handshake() {
    let mut config = plain();
    config.identity.nodes = 60;
    config.identity.replays = true;
    let mut bench = Bench::new(config);
    let mut replayed = Vec::new();
    for nonce in [1, 69_420, 69_421] {
        let conn = bench.connect();
        bench.send(conn, to_radio::PayloadVariant::WantConfigId(nonce));
        bench.run(1_000);
        let words = bench.words(conn);
        let complete = words.iter().position(|words| *words == format!("complete {nonce}"));
        let after = &words[complete.expect("completed") + 1..];
        replayed.push(after.iter().filter(|words| words.ends_with("from other")).count());
    }
    assert!(replayed[0] > 20);
    assert_eq!(replayed[1..], [0, replayed[0]]);
}

#[test]
fn disconnect_closes_and_what_came_before_counts() {
    let (mut bench, conn) = Bench::live();
    bench.text(conn, 1);
    bench.send(conn, to_radio::PayloadVariant::Disconnect(true));
    bench.text(conn, 2);
    bench.run(1_000);
    assert_eq!(bench.closed(conn).map(|(_, how)| how), Some(How::Fin));
    assert_eq!(bench.node.log().totals().taken, 1);
}

#[test]
fn what_a_client_sent_before_its_end_is_read() {
    for gone in [false, true] {
        let (mut bench, conn) = Bench::live();
        bench.text(conn, 1);
        if gone {
            bench.node.handle_gone(bench.now(), conn);
        } else {
            bench.fin(conn);
        }
        bench.run(1_000);
        assert_eq!(bench.node.log().totals().taken, 1);
        assert_eq!(bench.node.client(), None);
    }
}

#[test]
fn a_client_that_does_not_read_costs_bounded_memory() {
    let mut config = plain();
    config.traffic.per_minute = 6_000;
    let (mut bench, conn) = Bench::live_with(config);
    bench.deafen(conn);
    bench.run(120_000);
    let waiting = bench.node.poll_transmit(bench.now(), conn).len();
    assert!((65_536..67_000).contains(&waiting), "{waiting} bytes");
    assert_eq!(bench.node.phone.packets(), 32);
    assert!(lost(&bench, Loss::Overflow) > 8_000);
    assert!(bench.node.log().entries().count() <= 100_000);
}

#[test]
fn a_client_that_writes_more_than_the_node_reads_has_to_wait() {
    let (mut bench, conn) = Bench::live();
    let garbage = vec![0x94; 20_000];
    assert_eq!(bench.node.handle_bytes(bench.now(), conn, &garbage), 16_384);
    assert_eq!(bench.node.handle_bytes(bench.now(), conn, &garbage), 0);
    bench.run(300);
    assert_eq!(bench.node.handle_bytes(bench.now(), conn, &garbage), 16_384);
}

#[test]
fn garbage_and_frames_that_are_no_messages_are_ignored() {
    let (mut bench, conn) = Bench::live();
    let mut rng = Rng::new(5);
    for _ in 0..2_000 {
        let mut bytes: Vec<u8> = (0..rng.below(600)).map(|_| rng.next_u32() as u8).collect();
        if rng.below(2) == 0 {
            let len = FrameLen::new(bytes.len().min(512)).expect("at most 512");
            bytes.truncate(512);
            bytes.splice(0..0, len.header());
        }
        bench.write(conn, &bytes);
        bench.run(u64::from(rng.below(40)));
    }
    bench.write(conn, &[0; 600]);
    bench.run(1_000);
    bench.told(conn);
    bench.write(conn, &[0x94, 0xC3, 0, 0]);
    bench.run(1_000);
    assert_eq!((bench.told(conn), bench.closed(conn)), (vec![], None), "length 0 has no answer");
    bench.beat(conn, 0);
    bench.run(1_000);
    assert!(!bench.told(conn).is_empty());
}

#[test]
fn messages_with_wrong_bytes_in_them_do_no_harm() {
    let mut rng = Rng::new(6);
    let (mut bench, mut conn) = Bench::live();
    let to = [bench.node.node_num(), BROADCAST, bench.node.mesh.nodes[0].num];
    for id in 1..=20_000 {
        let mut packet = text(id);
        packet.to = to[rng.below(3) as usize];
        packet.want_ack = rng.below(2) == 0;
        if let Some(mesh_packet::PayloadVariant::Decoded(data)) = &mut packet.payload_variant {
            data.portnum = [1, 3, 6, 67, 70, 256][rng.below(6) as usize];
            data.want_response = rng.below(2) == 0;
            data.payload = (0..rng.below(300)).map(|_| rng.next_u32() as u8).collect();
        }
        let variant = Some(to_radio::PayloadVariant::Packet(packet));
        let mut message = ToRadio { payload_variant: variant }.encode_to_vec();
        for _ in 0..rng.below(4) {
            let at = rng.below(message.len() as u32) as usize;
            message[at] = rng.next_u32() as u8;
        }
        bench.node.handle_to_radio(bench.now(), &message);
        if id % 50 == 0 {
            bench.run(u64::from(rng.below(1_000)));
        }
        if bench.node.client() != Some(conn) {
            conn = bench.connect();
            bench.run(100);
        }
    }
    bench.run(60_000);
    bench.configured();
    assert!(bench.node.agenda.len() < 1_000);
}

#[test]
fn packets_wait_for_a_client_that_is_away_text_longest() {
    let mut config = plain();
    config.queues.packets = 8;
    let (mut bench, conn) = Bench::live_with(config);
    bench.fin(conn);
    bench.run(500);
    for id in 1..=10 {
        let port = meshbeat_proto::PortNum::PositionApp;
        bench.node.hear(bench.now(), packet(100 + id, BROADCAST, port, vec![]));
        bench.node.hear(bench.now(), text(id));
    }
    let conn = bench.connect();
    bench.send(conn, WANT_CONFIG);
    bench.run(1_000);
    let words = bench.words(conn);
    let texts = words.iter().filter(|words| words.starts_with("text")).count();
    assert_eq!(texts, 8);
    assert_eq!(lost(&bench, Loss::Overflow), 12);
}

#[test]
fn a_quiet_node_wakes_nobody() {
    let mut config = plain();
    config.timing.idle_limit = None;
    let (mut bench, _) = Bench::live_with(config);
    bench.run(1_000);
    assert_eq!(bench.node.poll_timeout(), None);
}

#[test]
fn the_log_tells_which_frames_left() {
    let (mut bench, conn) = Bench::live();
    bench.deafen(conn);
    bench.node.hear(bench.now(), text(1));
    bench.node.hear(bench.now(), text(2));
    let pending = bench.node.poll_transmit(bench.now(), conn).len();
    bench.node.consume(bench.now(), conn, pending - 1);
    bench.node.inject(bench.now(), Fault::Rst);
    let sent = bench.node.log().entries().rev().find_map(|entry| match entry.what {
        Record::Closed { sent, .. } => Some(sent),
        _ => None,
    });
    let sent = sent.expect("closed");
    let left = |r: &Record| matches!(r, Record::Frame { end, .. } if *end <= sent);
    let frames = |r: &Record| matches!(r, Record::Frame { .. });
    let log = bench.node.log();
    assert_eq!(log.count(frames) - log.count(left), 1, "the last byte of the last one stayed");
    assert_eq!(log.totals().frames as usize, log.count(frames));
}

#[test]
fn equal_seeds_and_calls_give_equal_bytes() {
    let play = |seed: u64| -> (Vec<u8>, Totals) {
        let mut config = SimConfig::default();
        config.traffic.per_minute = 30;
        let mut bench = Bench::new(config);
        bench.node = SimNode::new(bench.node.config().clone(), seed);
        let conn = bench.connect();
        bench.send(conn, WANT_CONFIG);
        for id in 1..=20 {
            bench.run(3_000);
            bench.text(conn, id);
            bench.beat(conn, 0);
        }
        (bench.bytes(conn).to_vec(), bench.node.log().totals())
    };
    assert_eq!(play(1), play(1));
    assert_ne!(play(1).0, play(2).0);
}

#[test]
fn unknown_connections_are_ignored() {
    let (mut bench, _) = Bench::live();
    let nobody = ConnId(99);
    let now = bench.now();
    assert_eq!(bench.node.handle_bytes(now, nobody, b"abc"), 3);
    bench.node.handle_fin(now, nobody);
    bench.node.handle_gone(now, nobody);
    bench.node.consume(now, nobody, 5);
    assert!(bench.node.poll_transmit(now, nobody).is_empty());
    assert!(bench.node.client().is_some());
}
