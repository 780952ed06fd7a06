//! The fault catalogue in virtual time: each row that concerns the link, one test by the row's name.
//!
//! What must hold in every row is checked by the world itself: the user gets exactly the frames of
//! which the last byte arrived, in order, none twice and no half one; never two connects at once,
//! never two `want_config` within 2 s, never a nonce of 1, no delay but the back-off's. The rows
//! `rate`, `repeat`, `full` and `refuse-n` are about packets that are sent, and `burst` and
//! `unasked` in part: they come with the outbox.

use core::time::Duration;

use meshbeat::sim::{Fault, Record, SimConfig, Why};
use meshbeat_core::backoff::BackoffConfig;
use meshbeat_core::fault::Class;
use meshbeat_core::heartbeat::Answers;
use meshbeat_core::{Event, Instant, LinkConfig, fault};
use meshbeat_proto::from_radio::PayloadVariant as Variant;
use meshbeat_proto::{FromRadio, NodeInfo};
use meshbeat_tests::world::{WireConfig, World, longest_wait, most_attempts};
use prost::Message;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// From a fault of a moment to a link that is up again: at most 1 s of back-off, a connect, a
/// handshake of a hundred nodes.
const QUICK: Duration = Duration::from_secs(3);

/// Rows that wait for the outbox.
const LATER: [&str; 4] = ["rate", "repeat", "full", "refuse-n"];

fn each_seed(test: impl Fn(&mut World)) {
    each_seed_with(&SimConfig::default(), test);
}

/// Eight worlds, up for ten minutes.
fn each_seed_with(node: &SimConfig, test: impl Fn(&mut World)) {
    for seed in 0..8 {
        let mut world = world(seed, node);
        world.settle();
        test(&mut world);
    }
}

fn world(seed: u64, node: &SimConfig) -> World {
    World::with(seed, LinkConfig::default(), node.clone(), WireConfig::default())
}

fn busy(per_minute: u32) -> SimConfig {
    let mut config = SimConfig::default();
    config.traffic.per_minute = per_minute;
    config
}

/// Why the link was lost since a moment, in order.
fn losses(world: &World, since: Instant) -> Vec<fault::Fault> {
    let lost = world.seen_since(since).iter().filter_map(|seen| match seen.event {
        Event::Lost { fault, .. } => Some(fault),
        _ => None,
    });
    lost.collect()
}

/// Lets the link be lost once, for the reason given, and be up again within `limit`.
#[track_caller]
fn lost_and_back(world: &mut World, class: Class, limit: Duration) {
    let start = world.now();
    world.run_until(limit, |world| !losses(world, start).is_empty());
    world.run_until_up(limit);
    let classes: Vec<_> = losses(world, start).iter().map(|fault| fault.class()).collect();
    assert_eq!(classes, [class]);
    assert!(world.now().since(start) <= limit);
}

/// Lets time pass in which the link must not be lost, and nothing may be withheld at the end.
#[track_caller]
fn stays_up(world: &mut World, span: Duration) {
    let start = world.now();
    world.run(span);
    assert_eq!(losses(world, start), []);
    assert!(world.link().state().is_up());
    assert_eq!(world.undelivered(), 0);
}

fn attempts(world: &World, since: Instant) -> u64 {
    let due = |event: &Event| matches!(event, Event::OpenDue);
    world.seen_since(since).iter().filter(|seen| due(&seen.event)).count() as u64
}

fn decode(payload: &[u8]) -> Variant {
    let message = FromRadio::decode(payload).expect("the node's own");
    message.payload_variant.expect("no empty frame")
}

fn closed_for(world: &World, reason: Why) -> usize {
    world.node().log().count(|what| matches!(what, Record::Closed { why, .. } if *why == reason))
}

#[test]
fn every_row_has_its_test() {
    let here = include_str!("faults_virtual.rs");
    for name in Fault::names().iter().filter(|name| !LATER.contains(name)) {
        let test = format!("#[test]\nfn {}() {{", name.replace('-', "_"));
        assert!(here.contains(&test), "no test is called `{name}`");
    }
}

#[test]
fn fin() {
    each_seed(|world| {
        world.fault("fin");
        lost_and_back(world, Class::ClosedByPeer, QUICK);
    });
}

#[test]
fn rst() {
    each_seed(|world| {
        world.fault("rst");
        lost_and_back(world, Class::ConnectionReset, QUICK);
    });
}

#[test]
fn refuse() {
    each_seed(|world| {
        let start = world.now();
        world.fault("refuse");
        world.run(MINUTE);
        let classes = losses(world, start);
        let (first, others) = classes.split_first().expect("lost");
        assert_eq!(first.class(), Class::ConnectionReset, "that is how a reboot looks");
        assert!(others.iter().all(|fault| fault.class() == Class::ConnectionRefused));
        let most = most_attempts(&BackoffConfig::default(), MINUTE);
        assert!((5..=most).contains(&attempts(world, start)), "of {most}");
        world.run_until_up(longest_wait(&BackoffConfig::default(), MINUTE) + QUICK);
    });
}

#[test]
fn unreachable() {
    each_seed(|world| {
        let start = world.now();
        world.fault("unreachable=300");
        let known = world.run_until(MINUTE, |world| !losses(world, start).is_empty());
        assert!(known <= 40 * SECOND, "known after {known:?}");
        world.run(300 * SECOND - known);
        let classes = losses(world, start);
        let timed_out = classes.iter().skip(1).filter(|f| f.class() == Class::TimedOut);
        assert_eq!(timed_out.count(), classes.len() - 1, "connects that nobody answers");
        assert!(attempts(world, start) >= 5, "and it goes on");
        world.run_until_up(MINUTE + 2 * QUICK);
    });
}

/// Without a route connects fail at once, and are still no more than the back-off allows.
#[test]
fn no_route() {
    each_seed(|world| {
        let start = world.now();
        world.unroute(HOUR);
        world.run(HOUR);
        let classes = losses(world, start);
        assert!(classes[1..].iter().all(|fault| fault.class() == Class::Unreachable));
        let most = most_attempts(&BackoffConfig::default(), HOUR);
        assert!((50..=most).contains(&attempts(world, start)), "of {most}");
        world.run_until_up(MINUTE + QUICK);
    });
}

#[test]
fn blackhole() {
    for node in [SimConfig::default(), busy(1), busy(20)] {
        each_seed_with(&node, |world| {
            let start = world.now();
            world.fault("blackhole");
            let known = world.run_until(MINUTE, |world| !losses(world, start).is_empty());
            assert!(known <= 40 * SECOND, "known after {known:?}");
            assert_eq!(losses(world, start)[0].class(), Class::Silent);
            world.run_until_up(world.back_within(MINUTE));
            world.run_until_up(MINUTE);
            stays_up(world, HOUR);
        });
    }
}

/// A node that falls silent before it has proved that it answers is no mute one.
#[test]
fn a_node_that_dies_young_is_found_dead() {
    for seed in 0..8 {
        let mut world = world(seed, &SimConfig::default());
        world.run_until_up(MINUTE);
        let start = world.now();
        world.fault("blackhole=3600");
        let known = world.run_until(MINUTE, |world| !losses(world, start).is_empty());
        assert!(known <= 40 * SECOND, "known after {known:?}");
        assert_eq!(losses(&world, start)[0].class(), Class::Silent);
    }
}

/// The end of a node that died without a word while packets kept coming until then.
#[test]
fn unplugged() {
    each_seed_with(&busy(20), |world| {
        let start = world.now();
        world.unplug(10 * MINUTE);
        let known = world.run_until(MINUTE, |world| !losses(world, start).is_empty());
        assert!(known <= 40 * SECOND, "known after {known:?}");
        world.run(10 * MINUTE - known);
        world.run_until_up(MINUTE + 2 * QUICK);
        stays_up(world, HOUR);
    });
}

#[test]
fn stolen() {
    for (shortest, longest) in [(1, 1), (31, 90)] {
        each_seed(|world| {
            let start = world.now();
            let life = shortest * SECOND..=longest * SECOND;
            world.inject(Fault::Stolen { life, span: 12 * HOUR });
            let told = |world: &World| {
                let mut seen = world.seen_since(start).iter();
                seen.any(|seen| matches!(seen.event, Event::Contended { .. }))
            };
            world.run_until(20 * MINUTE, told);
            // Twenty bring the cap of 5 min about, and then there are at least 4 min between two.
            let before = world.totals().want_configs;
            let handshakes = |world: &World| world.totals().want_configs - before;
            world.run(HOUR);
            assert!(handshakes(world) <= 21 + 15, "{} in an hour", handshakes(world));
            world.run(9 * HOUR);
            assert!(handshakes(world) <= 250, "{} in ten hours", handshakes(world));
            let raised = world.seen_since(start).iter().any(|seen| match seen.event {
                Event::Lost { retry_at, .. } => retry_at.since(seen.at) > MINUTE,
                _ => false,
            });
            assert!(raised, "the cap was never raised");
            world.run(2 * HOUR);
            world.run_until_up(BackoffConfig::DEFAULT.crowded_cap.as_duration() + QUICK);
            stays_up(world, HOUR);
        });
    }
}

#[test]
fn storm() {
    each_seed(|world| {
        let start = world.now();
        world.fault("storm");
        world.run(HOUR);
        let most = most_attempts(&BackoffConfig::default(), HOUR);
        let attempts = attempts(world, start);
        assert!((20..=most).contains(&attempts), "{attempts} of {most}");
        let connects = world.node().log().count(|what| matches!(what, Record::Connected(_))) as u64;
        assert!(connects - 1 <= attempts && attempts <= connects, "the node saw them all");
        world.run_until_up(BackoffConfig::DEFAULT.crowded_cap.as_duration() + QUICK);
        stays_up(world, HOUR);
    });
}

#[test]
fn stall() {
    each_seed(|world| {
        let start = world.now();
        world.fault("stall");
        let stalled = |world: &World| losses(world, start).len() == 2;
        world.run_until(MINUTE, stalled);
        let seen = world.seen_since(start).last().expect("lost");
        let Event::Lost { fault, opened: Some(opened), was_up: false, .. } = seen.event else {
            panic!("{:?}", seen.event);
        };
        assert_eq!(fault.class(), Class::HandshakeStalled);
        let session = seen.at.since(opened);
        assert!((12 * SECOND..13 * SECOND).contains(&session), "watchdog after {session:?}");
        world.run_until_up(2 * QUICK);
        stays_up(world, HOUR);
    });
}

#[test]
fn cut() {
    for handshake in [false, true] {
        for frames in [0, 1, 2, 30] {
            each_seed(|world| {
                let start = world.now();
                world.inject(Fault::Cut { handshake, frames });
                world.run(2 * MINUTE);
                let losses = losses(world, start);
                assert!((1..=2).contains(&losses.len()), "{losses:?}");
                assert!(losses.iter().all(|fault| fault.class() == Class::ConnectionReset));
                assert_eq!(world.node().log().count(|what| matches!(what, Record::Torn(_))), 1);
                stays_up(world, HOUR);
            });
        }
    }
}

/// The node has 250 nodes and writes all it has in one go; what the network does not take ends the
/// connection.
#[test]
fn slow_drain() {
    let mut node = busy(20);
    node.identity.nodes = 250;
    each_seed_with(&node, |world| {
        world.fault("slow-drain");
        world.fault("fin");
        lost_and_back(world, Class::ClosedByPeer, QUICK);
        stays_up(world, DAY);
        assert_eq!(closed_for(world, Why::ShortWrite), 0);
    });
    // With a buffer of 2 KiB between them it happens, so the node is able to.
    let wire = WireConfig { down: 2048, ..WireConfig::default() };
    let mut world = World::with(1, LinkConfig::default(), node, wire);
    world.fault("slow-drain");
    world.run(MINUTE);
    assert!(closed_for(&world, Why::ShortWrite) > 0);
}

/// A tear in the last field of a packet leaves a valid packet that begins the next frame, which
/// nothing in the stream betrays; every other tear costs the torn frame alone.
#[test]
fn torn() {
    let mut tears = 0;
    let mut taken_along = 0;
    each_seed_with(&busy(10), |world| {
        let start = world.now();
        for _ in 0..50 {
            world.fault("torn");
            world.run(MINUTE);
        }
        assert_eq!(losses(world, start), []);
        assert_eq!(world.undelivered(), 0);
        assert_eq!(world.totals().tears, 50);
    });
    for seed in 0..200 {
        let mut world = world(seed, &busy(10));
        world.run_until_up(MINUTE);
        world.fault("torn");
        world.run(MINUTE);
        tears += world.totals().tears;
        taken_along += world.totals().taken_along;
    }
    assert_eq!(tears, 200);
    assert!(taken_along * 5 < tears, "{tears} tears took {taken_along} whole frames along");
}

#[test]
fn text() {
    each_seed_with(&busy(20), |world| {
        world.fault("text");
        stays_up(world, HOUR);
        let lines = world.noise().split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let (mut count, mut foreign) = (0, 0);
        for line in lines {
            assert!(line.starts_with(b"INFO  | ") && line.ends_with(b"\r"), "{line:?}");
            count += 1;
            foreign += usize::from(core::str::from_utf8(line).is_err());
        }
        assert!(count > 300 && foreign > 50, "{count} lines, {foreign} not UTF-8");
    });
}

#[test]
fn stale_nonce() {
    each_seed(|world| {
        world.fault("stale-nonce");
        world.keep_payloads();
        world.fault("rst");
        lost_and_back(world, Class::ConnectionReset, QUICK);
        let is_complete = |payload: &&Vec<u8>| payload.first() == Some(&0x38);
        let completed = world.payloads().iter().filter(is_complete).count();
        assert_eq!(completed, 2, "the old one came, and was not believed");
        stays_up(world, HOUR);
    });
}

/// Input is read so late that it is read together; heartbeats are answered all the same.
#[test]
fn burst() {
    each_seed(|world| {
        world.fault("burst");
        stays_up(world, DAY);
    });
}

#[test]
fn coalesce() {
    each_seed_with(&busy(2), |world| {
        world.fault("coalesce");
        let before = world.node().log().totals();
        stays_up(world, DAY);
        let after = world.node().log().totals();
        let heartbeats = after.heartbeats - before.heartbeats;
        assert!(heartbeats > 300, "{heartbeats}");
        // The last one may be on its way.
        let answers = after.answers - before.answers;
        assert!(heartbeats - answers <= 1, "{answers} answers to {heartbeats}: two at once");
    });
}

/// Statuses that nobody asked for neither break an answering node nor hide its death.
#[test]
fn unasked() {
    each_seed(|world| {
        world.fault("unasked");
        stays_up(world, DAY);
        let start = world.now();
        world.fault("blackhole");
        let known = world.run_until(MINUTE, |world| !losses(world, start).is_empty());
        assert!(known <= 40 * SECOND, "known after {known:?}");
        world.run_until_up(world.back_within(MINUTE));
    });
}

/// A third of the answers goes to a phone: of six in a row all, a few times a day. The link may be
/// lost for that, and is never stuck.
#[test]
fn shared() {
    each_seed(|world| {
        let start = world.now();
        world.fault("shared");
        world.run(DAY);
        assert!(losses(world, start).iter().all(|fault| fault.class() == Class::Silent));
        assert!(losses(world, start).len() < 50, "a question is repeated before it is a strike");
        world.recover();
        world.run_until_up(BackoffConfig::DEFAULT.crowded_cap.as_duration() + QUICK);
        stays_up(world, HOUR);
    });
}

#[test]
fn mute() {
    let mut node = SimConfig::default();
    node.heartbeat.answered = false;
    for seed in 0..4 {
        let mut world = world(seed, &node);
        world.run(30 * DAY);
        assert_eq!((world.totals().sessions, world.totals().connects), (1, 1));
        assert_eq!(world.link().answers(), Answers::Mute);
        assert_eq!(closed_for(&world, Why::Idle), 0);
    }
}

/// What the heartbeat cannot find out at a mute node the kernel does: the next heartbeat stays
/// unacknowledged.
#[test]
fn a_dead_mute_node_is_found_by_the_kernel() {
    let mut node = SimConfig::default();
    node.heartbeat.answered = false;
    each_seed_with(&node, |world| {
        assert_eq!(world.link().answers(), Answers::Mute);
        let start = world.now();
        world.unplug(10 * MINUTE);
        let known = world.run_until(2 * MINUTE, |world| !losses(world, start).is_empty());
        assert_eq!(losses(world, start)[0], fault::Fault::from_errno(110), "after {known:?}");
        world.run(10 * MINUTE - known);
        world.run_until_up(MINUTE + 2 * QUICK);
    });
}

#[test]
fn idle_kick() {
    for per_minute in [0, 6] {
        let mut world = world(1, &busy(per_minute));
        world.fault("idle-kick");
        world.run(30 * DAY);
        assert_eq!(closed_for(&world, Why::Idle), 0);
        assert_eq!(world.totals().sessions, 1);
        assert_eq!(losses(&world, Instant::ORIGIN), []);
    }
}

#[test]
fn bad_utf8() {
    let mut node = SimConfig::default();
    node.identity.bad_utf8 = true;
    each_seed_with(&node, |world| {
        world.keep_payloads();
        world.fault("fin");
        lost_and_back(world, Class::ClosedByPeer, QUICK);
        let is_cut = |payload: &&Vec<u8>| match decode(payload) {
            Variant::NodeInfo(NodeInfo { user: Some(user), .. }) => {
                core::str::from_utf8(&user.long_name).is_err()
            }
            _ => false,
        };
        assert!(world.payloads().iter().filter(is_cut).count() > 10, "no name was cut");
        stays_up(world, HOUR);
    });
}

#[test]
fn pause() {
    each_seed(|world| {
        for seconds in [1, 5, 11] {
            world.fault(&format!("pause={seconds}"));
            stays_up(world, MINUTE);
        }
    });
}

#[test]
fn no_fin() {
    each_seed(|world| {
        world.fault("no-fin");
        world.close();
        world.run(10 * SECOND);
        assert_eq!(world.seen().last().map(|seen| seen.event), Some(Event::Closed));
        assert_eq!(closed_for(world, Why::Disconnect), 1);
        assert_eq!(world.node().client(), None, "nothing is fed to the dead");
    });
}

#[test]
fn renumber() {
    each_seed(|world| {
        let (start, old) = (world.now(), world.node().node_num());
        world.fault("renumber");
        world.run(10 * SECOND);
        world.run_until_up(MINUTE);
        let new = world.node().node_num();
        let changed = Event::NodeChanged { from: old, to: new };
        assert!(old != new && world.seen_since(start).iter().any(|seen| seen.event == changed));
        stays_up(world, HOUR);
    });
}

#[test]
fn big() {
    each_seed(|world| {
        world.fault("big");
        world.keep_payloads();
        world.fault("fin");
        lost_and_back(world, Class::ClosedByPeer, QUICK);
        let (mut told, mut came) = (0, 0);
        for payload in world.payloads() {
            match decode(payload) {
                Variant::MyInfo(info) => told = info.nodedb_count,
                Variant::NodeInfo(_) => came += 1,
                _ => {}
            }
        }
        assert_eq!((told, came), (251, 251));
        stays_up(world, HOUR);
    });
}

/// One byte at a time, at the node's side and at the link's.
#[test]
fn short_write() {
    for seed in 0..8 {
        let wire = WireConfig { up: 1, splits: 100, ..WireConfig::default() };
        let mut node = busy(10);
        node.stream.write_limit = Some(1);
        let mut world = World::with(seed, LinkConfig::default(), node, wire);
        world.run_until_up(MINUTE);
        stays_up(&mut world, HOUR);
    }
}

/// A heartbeat with nonce 1 would make the node broadcast its information.
#[test]
fn nonce_1() {
    each_seed(|world| {
        world.fault("nonce-1");
        stays_up(world, DAY);
        let log = world.node().log();
        assert!(log.totals().heartbeats > 5_000);
        assert_eq!(log.count(|what| matches!(what, Record::Heartbeat { nonce: 1, .. })), 0);
        assert_eq!(log.totals().transmitted, 0, "nothing goes on the air for a link that listens");
    });
}
