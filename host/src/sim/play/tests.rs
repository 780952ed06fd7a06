//! Each fault of the catalogue, seen from a client, in virtual time.

use meshbeat_core::rng::Rng;
use meshbeat_proto::to_radio;

use super::super::script::{Bench, packet, plain, text};
use super::super::{ConnId, Loss, Record, Why};
use super::*;

const WANT_CONFIG: to_radio::PayloadVariant = to_radio::PayloadVariant::WantConfigId(9);

fn lost(bench: &Bench, how: Loss) -> usize {
    bench.node.log().count(|r| matches!(r, Record::PacketLost { how: h, .. } if *h == how))
}

fn torn(bench: &Bench) -> usize {
    bench.node.log().count(|record| matches!(record, Record::Torn(_)))
}

#[test]
fn fin_and_rst_close() {
    for (name, how) in [("fin", How::Fin), ("rst", How::Rst)] {
        let (mut bench, conn) = Bench::live();
        bench.run_to(1_000);
        bench.inject(name);
        assert_eq!(bench.closed(conn), Some((1_000, how)));
        bench.configured();
    }
}

#[test]
fn refuse_is_a_reboot_of_60_s() {
    let (mut bench, conn) = Bench::live();
    bench.run_to(1_000);
    bench.inject("refuse");
    assert_eq!(bench.closed(conn), Some((1_000, How::Rst)));
    bench.run_to(60_999);
    let early = bench.connect();
    assert_eq!(bench.closed(early), Some((60_999, How::Rst)), "a race with the closing port");
    bench.run_to(61_000);
    assert_eq!(bench.doors, [(1_000, Listening::Refusing), (61_000, Listening::Open)]);
    let conn = bench.connect();
    bench.send(conn, WANT_CONFIG);
    bench.run(400);
    assert!(bench.node.is_configured());
    assert_eq!(bench.node.log().count(|r| *r == Record::Rebooted(2)), 1);
    assert_eq!(bench.node.log().count(|r| *r == Record::Over("refuse")), 1);
}

#[test]
fn unreachable_answers_nothing_for_60_s() {
    let (mut bench, conn) = Bench::live();
    bench.inject("unreachable");
    bench.beat(conn, 0);
    bench.run_to(59_999);
    assert_eq!(bench.told(conn), []);
    assert_eq!(bench.node.listening(), Listening::Unanswered);
    assert_eq!(bench.node.log().totals().heartbeats, 0);
    bench.run_to(60_000);
    assert_eq!(bench.doors, [(0, Listening::Unanswered), (60_000, Listening::Open)]);
    bench.run_to(61_000);
    assert_eq!(bench.words(conn), ["status 0 res 0 free 16"]);
}

#[test]
fn blackhole_neither_reads_nor_writes() {
    let (mut bench, conn) = Bench::live();
    bench.inject("blackhole=10");
    bench.node.hear(bench.now(), text(5));
    bench.beat(conn, 0);
    let newer = bench.connect();
    bench.run_to(9_999);
    assert_eq!((bench.told(conn), bench.closed(conn)), (vec![], None));
    bench.run_to(11_000);
    assert_eq!(bench.closed(conn), Some((10_000, How::Fin)), "the newer one is seen at last");
    assert_eq!(bench.node.client(), Some(newer));
}

#[test]
fn stolen_ends_each_session_after_a_time_in_its_range() {
    let second = Duration::from_secs(1);
    let (mut bench, first) = Bench::live();
    let fault = Fault::Stolen { life: second..=3 * second, span: 60 * second };
    bench.node.inject(bench.now(), fault);
    bench.run_to(3_000);
    let (at, how) = bench.closed(first).expect("stolen");
    assert!((1_000..=3_000).contains(&at) && how == How::Fin, "at {at}");
    for _ in 0..10 {
        bench.zero();
        let conn = bench.connect();
        bench.run_to(3_100);
        let (at, _) = bench.closed(conn).expect("stolen");
        assert!((1_000..=3_100).contains(&at), "at {at}");
    }
    bench.run(60_000);
    let conn = bench.configured();
    bench.run(600_000);
    assert_eq!(bench.closed(conn), None, "over");
}

#[test]
fn storm_closes_at_once_for_an_hour() {
    let (mut bench, first) = Bench::live();
    bench.inject("storm");
    assert_eq!(bench.closed(first), Some((0, How::Fin)));
    bench.run_to(3_599_999);
    let conn = bench.connect();
    assert_eq!(bench.closed(conn), Some((3_599_999, How::Fin)));
    bench.run_to(3_600_000);
    bench.configured();
}

#[test]
fn stall_goes_silent_in_the_next_handshake() {
    let (mut bench, first) = Bench::live();
    bench.inject("stall");
    assert_eq!(bench.closed(first), Some((0, How::Rst)), "so that a handshake follows");
    let conn = bench.connect();
    bench.send(conn, WANT_CONFIG);
    bench.run(5_000);
    bench.beat(conn, 0);
    bench.run(60_000);
    assert_eq!(bench.told(conn).len(), 20);
    assert_eq!(bench.closed(conn), None);
    bench.configured();
}

#[test]
fn stall_of_a_handshake_under_way_needs_no_reset() {
    let mut bench = Bench::new(plain());
    let conn = bench.connect();
    bench.inject("stall");
    bench.send(conn, WANT_CONFIG);
    bench.run(60_000);
    assert_eq!((bench.told(conn).len(), bench.closed(conn)), (20, None));
}

#[test]
fn cut_resets_in_mid_frame() {
    let (mut bench, conn) = Bench::live();
    let before = bench.bytes(conn).len();
    bench.run_to(1_000);
    bench.inject("cut");
    assert_eq!(bench.closed(conn), Some((1_000, How::Rst)));
    assert_eq!(bench.told(conn), [], "no whole frame");
    assert!(bench.bytes(conn).len() > before, "but a part of one");
    assert_eq!(torn(&bench), 1);
}

#[test]
fn cut_in_mid_handshake() {
    let (mut bench, _) = Bench::live();
    let fault = Fault::Cut { handshake: true, frames: 10 };
    bench.node.inject(bench.now(), fault);
    let conn = bench.connect();
    bench.send(conn, WANT_CONFIG);
    bench.run(1_000);
    assert_eq!(bench.told(conn).len(), 10);
    assert_eq!(bench.closed(conn).map(|(_, how)| how), Some(How::Rst));
    bench.configured();
}

#[test]
fn slow_drain_closes_on_a_short_write() {
    let (mut bench, conn) = Bench::live();
    bench.inject("slow-drain");
    bench.deafen(conn);
    bench.node.hear(bench.now(), text(5));
    let offered = bench.node.poll_transmit(bench.now(), conn).len();
    assert!(offered > 1);
    bench.node.consume(bench.now(), conn, offered - 1);
    bench.run(1);
    assert_eq!(bench.closed(conn), Some((0, How::Fin)));
    let closed = |r: &Record| matches!(r, Record::Closed { why: Why::ShortWrite, .. });
    assert_eq!(bench.node.log().count(closed), 1);
}

#[test]
fn torn_loses_the_end_of_one_frame() {
    for seed in 0..50 {
        let (mut bench, conn) = Bench::live();
        bench.node.rng = Rng::new(seed);
        bench.inject("torn");
        bench.run_to(1_000);
        assert_eq!(bench.words(conn), ["port 67 from own"], "the second one came whole");
        assert_eq!((torn(&bench), bench.closed(conn)), (1, None));
    }
}

#[test]
fn text_stands_between_frames_and_is_not_always_utf8() {
    let (mut bench, conn) = Bench::live();
    let before = bench.bytes(conn).len();
    bench.inject("text");
    let at_once = bench.bytes(conn)[before..].iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(at_once, 3);
    for id in 1..=40 {
        bench.node.hear(bench.now(), text(id));
        bench.run(10);
    }
    assert_eq!(bench.told(conn).len(), 40, "every frame is whole");
    let lines: Vec<_> = bench.bytes(conn)[before..].split(|byte| *byte == b'\n').collect();
    assert!(lines.len() > 15);
    assert!(lines.iter().any(|line| line.windows(2).any(|pair| pair == [0xFF, 0xFE])));
}

#[test]
fn stale_nonce_completes_an_older_handshake_first() {
    let mut bench = Bench::new(plain());
    bench.inject("stale-nonce");
    let conn = bench.connect();
    bench.send(conn, WANT_CONFIG);
    bench.run(1_000);
    let words = bench.words(conn);
    let completes: Vec<_> = words.iter().filter(|words| words.starts_with("complete")).collect();
    assert_eq!(completes, [&format!("complete {}", 9 ^ 0x5A5A), "complete 9"]);
    assert!(words[0].starts_with("complete"));
}

#[test]
fn rate_limits_look_like_acceptance_and_input_is_late() {
    let (mut bench, conn) = Bench::live();
    bench.inject("rate");
    bench.text(conn, 1);
    bench.run_to(1_000);
    bench.text(conn, 2);
    bench.run_to(2_000);
    assert_eq!(bench.words(conn), ["status 1 res 0 free 15", "status 2 res 0 free 16"]);
    let limited = Record::RateLimited { id: 2, port: 1 };
    assert_eq!(bench.node.log().count(|record| *record == limited), 1);
    // Texts 2.1 s apart on the client's clock are limited now and then, because of the delay.
    for id in 3..103 {
        bench.text(conn, id);
        bench.run(2_100);
    }
    let limited = bench.node.log().count(|r| matches!(r, Record::RateLimited { .. })) - 1;
    assert!((5..60).contains(&limited), "{limited} of 100");
}

#[test]
fn texts_paced_by_the_status_are_never_limited() {
    let (mut bench, conn) = Bench::live();
    bench.inject("rate");
    for id in 1..=100 {
        bench.text(conn, id);
        let status = format!("status {id} res 0");
        while !bench.words(conn).iter().any(|words| words.starts_with(&status)) {
            bench.run(1);
        }
        bench.run(2_005);
    }
    assert_eq!(bench.node.log().totals().rate_limited, 0);
    assert_eq!(bench.node.log().totals().taken, 100);
}

#[test]
fn repeat_swallows_an_id_without_an_answer() {
    let (mut bench, conn) = Bench::live();
    bench.inject("repeat");
    bench.text(conn, 1);
    bench.run_to(5_000);
    bench.text(conn, 1);
    bench.run_to(60_000);
    assert_eq!(bench.words(conn), ["status 1 res 0 free 15"]);
    assert_eq!(bench.node.log().count(|record| *record == Record::Repeated(1)), 1);
    // A new connection starts with an empty list.
    let conn = bench.configured();
    bench.text(conn, 1);
    bench.run(1_000);
    assert_eq!(bench.words(conn), ["status 1 res 0 free 15"]);
}

#[test]
fn full_refuses_with_32_and_takes_what_wants_an_answer() {
    let (mut bench, conn) = Bench::live();
    let fault = Fault::Full { span: Duration::from_secs(20), lost: Chance::NEVER };
    bench.node.inject(bench.now(), fault);
    bench.text(conn, 1);
    bench.run_to(3_000);
    bench.packet(conn, MeshPacket { want_ack: true, ..text(2) });
    bench.run_to(60_000);
    let told = bench.told(conn);
    let words: Vec<_> = told.iter().map(|(_, words)| &words[..]).collect();
    assert_eq!(
        words,
        [
            "status 1 res 32 free 0",
            "status 2 res 32 free 0",
            "status 0 res 0 free 16", // room again, unasked
            "routing 2 error 0 from own",
        ]
    );
    assert_eq!(told[2].0, 20_000);
    let log = bench.node.log();
    assert_eq!(log.count(|r| *r == Record::Refused { id: 1, res: 32 }), 1);
    assert_eq!(log.count(|r| matches!(r, Record::Transmitted { id: 1, .. })), 0);
    assert_eq!(log.count(|r| matches!(r, Record::Transmitted { id: 2, .. })), 1);
}

#[test]
fn full_loses_some_of_its_statuses() {
    let (mut bench, conn) = Bench::live();
    let fault = Fault::Full { span: Duration::from_secs(500), lost: Chance::percent(50) };
    bench.node.inject(bench.now(), fault);
    for id in 1..=100 {
        bench.text(conn, id);
        bench.run(3_000);
    }
    let told = bench.told(conn).len();
    assert!((30..70).contains(&told), "{told} of 100 statuses");
    assert_eq!(bench.node.log().totals().refused, 100);
}

#[test]
fn refuse_n_refuses_with_each_res_once_and_naks_some() {
    let (mut bench, conn) = Bench::live();
    bench.inject("refuse-n");
    for id in 1..=7 {
        bench.text(conn, id);
        bench.run(3_000);
    }
    let words = bench.words(conn);
    let words: Vec<_> = words.iter().map(|words| &words[..]).collect();
    assert_eq!(
        words,
        [
            "status 1 res 6 free 16",
            "routing 1 error 6 from own",
            "status 2 res 7 free 16",
            "routing 2 error 7 from own",
            "status 3 res 9 free 16",
            "notification 3",
            "routing 3 error 9 from own",
            "status 4 res 33 free 16",
            "status 5 res 34 free 16",
            "status 6 res 35 free 16",
            "routing 6 error 35 from own",
            "status 7 res 0 free 15",
        ]
    );
}

#[test]
fn burst_drops_all_but_two_statuses() {
    let mut config = plain();
    config.radio.airtime = Duration::from_secs(1)..=Duration::from_secs(1);
    let (mut bench, conn) = Bench::live_with(config);
    bench.inject("burst");
    for id in 1..=20 {
        bench.packet(conn, packet(id, BROADCAST, PortNum::PrivateApp, vec![1]));
    }
    bench.run_to(510);
    assert_eq!(bench.words(conn), ["status 19 res 32 free 0", "status 20 res 32 free 0"]);
    let log = bench.node.log();
    assert_eq!((log.totals().taken, log.totals().refused), (16, 4));
    assert_eq!(log.count(|r| matches!(r, Record::StatusLost(_))), 18);
}

#[test]
fn unasked_statuses_come_with_id_0_and_foreign_ids() {
    let (mut bench, conn) = Bench::live();
    bench.inject("unasked");
    bench.run_to(60_000);
    let told = bench.told(conn);
    assert_eq!(told.len(), 31);
    assert_eq!((told[0].0, told[1].0, told[30].0), (0, 2_000, 60_000));
    let zeros = told.iter().filter(|(_, words)| words.starts_with("status 0 ")).count();
    assert!((5..26).contains(&zeros), "{zeros} of 31 with id 0");
}

#[test]
fn coalesce_answers_two_heartbeats_read_together_once() {
    let (mut bench, conn) = Bench::live();
    bench.inject("coalesce");
    bench.beat(conn, 0);
    bench.beat(conn, 0);
    bench.run_to(10_000);
    assert_eq!(bench.words(conn), ["status 0 res 0 free 16"]);
    assert_eq!(bench.node.log().totals().heartbeats, 2);
    bench.beat(conn, 0);
    bench.run_to(20_000);
    assert_eq!(bench.told(conn).len(), 1);
}

#[test]
fn shared_takes_answers_statuses_and_packets() {
    let (mut bench, conn) = Bench::live();
    bench.inject("shared");
    for id in 1..=100 {
        bench.beat(conn, 0);
        bench.run(1_000);
        bench.packet(conn, packet(id, BROADCAST, PortNum::PrivateApp, vec![1]));
        bench.run(1_000);
        bench.node.hear(bench.now(), text(1_000 + id));
    }
    bench.run(1_000);
    let words = bench.words(conn);
    let count = |start| words.iter().filter(|words| words.starts_with(start)).count();
    for (what, start) in [("answers", "status 0 "), ("all statuses", "status"), ("texts", "text")] {
        let sent = if what == "all statuses" { 200 } else { 100 };
        let part = count(start) * 100 / sent;
        assert!((50..82).contains(&part), "{part} % of {what}");
    }
    assert_eq!(lost(&bench, Loss::Shared) + count("text"), 100);
}

#[test]
fn mute_never_answers_heartbeats() {
    let (mut bench, conn) = Bench::live();
    bench.inject("mute");
    for _ in 0..10 {
        bench.beat(conn, 0);
        bench.run(1_000);
    }
    assert_eq!(bench.told(conn), []);
    assert_eq!(bench.node.log().totals().heartbeats, 10);
    bench.node.recover(bench.now());
    bench.beat(conn, 0);
    bench.run(1_000);
    assert_eq!(bench.told(conn).len(), 1);
}

#[test]
fn idle_kick_drops_after_15_minutes_whatever_is_received() {
    let mut config = plain();
    config.timing.idle_limit = None;
    config.traffic.per_minute = 10;
    let (mut bench, conn) = Bench::live_with(config);
    bench.run_to(2_000_000);
    assert_eq!(bench.closed(conn), None, "off");
    bench.beat(conn, 0);
    bench.run(1_000);
    bench.inject("idle-kick");
    bench.zero();
    bench.run_to(898_000);
    assert_eq!(bench.closed(conn), None);
    bench.run_to(900_000);
    assert_eq!(bench.closed(conn).map(|(_, how)| how), Some(How::Fin));
    let idle = |r: &Record| matches!(r, Record::Closed { why: Why::Idle, .. });
    assert_eq!(bench.node.log().count(idle), 1);
}

#[test]
fn bad_utf8_names_are_cut_in_mid_character() {
    let mut bench = Bench::new(plain());
    bench.inject("bad-utf8");
    let conn = bench.connect();
    bench.send(conn, WANT_CONFIG);
    bench.run(1_000);
    let cut = bench.bytes(conn).windows(5).filter(|bytes| bytes == b"Caf\xC3\x1A").count();
    assert_eq!(cut, 3, "in each of the three other nodes");
    let told = bench.words(conn);
    assert_eq!(told.iter().filter(|words| words.starts_with("node_info")).count(), 4);
}

#[test]
fn pause_holds_the_rest_of_one_frame_for_5_s() {
    let (mut bench, conn) = Bench::live();
    let before = bench.bytes(conn).len();
    bench.inject("pause");
    bench.node.hear(bench.now(), text(5));
    bench.run_to(4_999);
    assert!(bench.bytes(conn).len() > before);
    assert_eq!(bench.told(conn), []);
    bench.run_to(5_000);
    let told = bench.told(conn);
    assert_eq!(told, [(5_000, "port 67 from own".into()), (5_000, "text 5".into())]);
}

#[test]
fn no_fin_feeds_the_dead_client() {
    let (mut bench, conn) = Bench::live();
    bench.inject("no-fin");
    bench.fin(conn);
    bench.run_to(1_000);
    assert_eq!((bench.closed(conn), bench.node.client()), (None, Some(conn)));
    bench.node.handle_gone(bench.now(), conn);
    for id in 1..=5 {
        bench.node.hear(bench.now(), text(id));
    }
    bench.run_to(2_000);
    assert_eq!(lost(&bench, Loss::Void), 5);
    // A new client gets what comes after it.
    let conn = bench.configured();
    bench.node.hear(bench.now(), text(6));
    bench.run(1_000);
    assert_eq!(bench.words(conn), ["text 6"]);
}

#[test]
fn without_no_fin_the_queue_waits_for_the_next_client() {
    let (mut bench, conn) = Bench::live();
    bench.fin(conn);
    bench.run_to(500);
    assert_eq!(bench.closed(conn).map(|(_, how)| how), Some(How::Fin));
    bench.node.hear(bench.now(), text(1));
    let conn = bench.connect();
    bench.send(conn, WANT_CONFIG);
    bench.run(1_000);
    assert_eq!(bench.words(conn).last().map(String::as_str), Some("text 1"));
}

#[test]
fn renumber_comes_back_as_another() {
    let (mut bench, conn) = Bench::live();
    let before = bench.node.node_num();
    bench.inject("renumber");
    assert_eq!(bench.closed(conn), Some((0, How::Rst)));
    let conn = bench.connect();
    bench.send(conn, WANT_CONFIG);
    bench.run(1_000);
    let after = bench.node.node_num();
    assert_ne!(before, after);
    let words = bench.words(conn);
    assert!(words.contains(&format!("my_info {after}")));
    assert!(words.contains(&format!("node_info {after}")));
}

#[test]
fn big_has_250_nodes_and_a_full_queue() {
    let mut bench = Bench::new(plain());
    bench.inject("big");
    let conn = bench.connect();
    bench.send(conn, WANT_CONFIG);
    bench.run(1_000);
    let words = bench.words(conn);
    let count = |start| words.iter().filter(|words| words.starts_with(start)).count();
    assert_eq!((count("node_info"), count("text")), (251, 32));
}

#[test]
fn short_write_offers_one_byte_at_a_time() {
    let (mut bench, conn) = Bench::live();
    bench.inject("short-write");
    bench.node.hear(bench.now(), text(5));
    assert_eq!(bench.node.poll_transmit(bench.now(), conn).len(), 1);
    bench.run(1);
    assert_eq!(bench.words(conn), ["text 5"], "the same bytes in the end");
}

#[test]
fn nonce_1_broadcasts_and_is_not_answered() {
    let (mut bench, conn) = Bench::live();
    bench.inject("nonce-1");
    bench.beat(conn, 1);
    bench.run_to(5_000);
    assert_eq!(bench.told(conn), []);
    let own = bench.node.node_num();
    let on_air = |r: &Record| matches!(r, Record::Transmitted { from, .. } if *from == own);
    assert_eq!(bench.node.log().count(on_air), 1);
    bench.beat(conn, 2);
    bench.run_to(10_000);
    assert_eq!(bench.told(conn).len(), 1);
}

#[test]
fn recover_ends_them_all() {
    let (mut bench, _) = Bench::live();
    for fault in Fault::catalogue() {
        bench.node.inject(bench.now(), fault);
    }
    bench.run(10);
    bench.node.recover(bench.now());
    bench.run(1_000);
    assert_eq!(bench.node.listening(), Listening::Open);
    assert_eq!(bench.node.config(), &plain());
    let conn = bench.configured();
    bench.beat(conn, 0);
    bench.run(1_000);
    assert!(!bench.told(conn).is_empty());
    bench.run(3_600_000);
}

#[test]
fn faults_at_random_never_spin_and_repeat_with_the_seed() {
    let play = |seed| {
        let mut config = plain();
        config.traffic.per_minute = 20;
        let mut bench = Bench::new(config);
        let every = Duration::from_secs(20);
        bench.node.play(super::super::Schedule::new(bench.now(), Fault::catalogue(), every, seed));
        let mut conn: Option<ConnId> = None;
        for minute in 0..600_u32 {
            let alive = conn.filter(|conn| bench.closed(*conn).is_none());
            let client = alive.unwrap_or_else(|| bench.connect());
            conn = Some(client);
            if bench.node.input_room(client) > 1_000 && bench.closed(client).is_none() {
                bench.send(client, WANT_CONFIG);
                bench.beat(client, minute % 3);
                bench.text(client, minute);
            }
            bench.run(6_000);
        }
        let frames = bench.node.log().totals().frames;
        assert!(frames > 1_000, "{frames} frames");
        format!("{:?}", bench.node.log().totals())
    };
    assert_eq!(play(1), play(1));
    assert_ne!(play(1), play(2));
}
