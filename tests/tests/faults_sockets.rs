//! The fault catalogue over real loopback sockets: the simulated node on its port, the link on its
//! event loop, each in a thread, with shortened times.
//!
//! `faults_virtual` holds the numbers; here order, counts and classes are compared, because the
//! machine may be busy. At the end of each test the frames that the user got are compared with the
//! node's record. The rows `rate`, `repeat`, `full` and `refuse-n` come with the outbox.

use core::time::Duration;
use std::collections::BTreeSet;
use std::time::Instant as Clock;

use meshbeat::sim::{Chance, ConnId, Fault, Log, Record, SimConfig, Why};
use meshbeat::socket::TcpOptions;
use meshbeat_core::fault::{self, Class};
use meshbeat_core::{Event, LinkConfig, Span};
use meshbeat_tests::recorder::{Node, Recorder, Told};
use meshbeat_tests::world::most_attempts;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Rows that wait for the outbox.
const LATER: [&str; 4] = ["rate", "repeat", "full", "refuse-n"];

/// A link whose times are a tenth or less of the real ones, with room for a busy machine.
fn link() -> LinkConfig {
    let mut config = LinkConfig::default();
    config.heartbeat.quiet = Span::from_millis(200);
    config.heartbeat.answer = Span::from_millis(1_200);
    config.heartbeat.keepalive = Span::from_millis(600);
    config.heartbeat.probe = Span::from_millis(1_000);
    config.heartbeat.mute = Span::from_millis(400);
    config.handshake.silence = Span::from_millis(2_500);
    config.handshake.gap = Span::from_millis(50);
    config.connect_limit = Span::from_millis(800);
    config.backoff.first = Span::from_millis(20);
    config.backoff.cap = Span::from_millis(200);
    config.backoff.crowded_cap = Span::from_millis(400);
    config.backoff.steady = Span::from_millis(1_000);
    config.backoff.settled = Span::from_millis(3_000);
    config
}

/// A node that is quick, and hears much.
fn node() -> SimConfig {
    let mut config = SimConfig::default();
    config.timing.accept_poll = MS(5);
    config.timing.idle_poll = MS(20);
    config.timing.input_delay = MS(20);
    config.timing.boot = MS(200);
    config.traffic.per_minute = 240;
    config
}

/// A link and its node.
struct Pair {
    link: Recorder,
    node: Node,
}

impl Pair {
    /// A pair that is up.
    fn up(node: SimConfig) -> (Self, usize) {
        Self::up_with(link(), node)
    }

    fn up_with(link: LinkConfig, node: SimConfig) -> (Self, usize) {
        let node = Node::start(node, 1);
        let link = Recorder::start(node.address(), link, TcpOptions::default());
        let mut pair = Self { link, node };
        let mark = pair.link.wait_until_up(0);
        (pair, mark)
    }

    fn inject(&self, fault: Fault) {
        self.node.handle().inject(fault).expect("the node runs");
    }

    fn fault(&self, name: &str) {
        self.inject(name.parse().expect("a fault of the catalogue"));
    }

    /// Waits until the link was lost for this reason, then until it is up again.
    #[track_caller]
    fn lost_and_back(&mut self, mark: usize, class: Class) -> usize {
        let mark = self.lost(mark, class);
        self.link.wait_until_up(mark)
    }

    #[track_caller]
    fn lost(&mut self, mark: usize, class: Class) -> usize {
        self.link.wait_for_event(
            mark,
            class.text(),
            |event| matches!(event, Event::Lost { fault, .. } if fault.class() == class),
        )
    }

    /// Waits for so many more answered heartbeats and ten more packets; in that time the link must
    /// not be lost.
    #[track_caller]
    fn stays_up(&mut self, heartbeats: u64) {
        let mark = self.link.mark();
        let start = self.node.log().totals();
        let Self { link, node } = self;
        link.wait_until("alive", |_| {
            let now = node.log().totals();
            now.heartbeats >= start.heartbeats + heartbeats && now.delivered >= start.delivered + 10
        });
        let lost = self.link.events(mark);
        let lost = lost.iter().find(|event| matches!(event, Event::Lost { .. }));
        assert_eq!(lost, None);
    }

    fn closed_for(&self, reason: Why) -> usize {
        let log = self.node.log();
        log.count(|what| matches!(what, Record::Closed { why, .. } if *why == reason))
    }

    /// Says goodbye, and compares what was told with what the node had written.
    #[track_caller]
    fn end(self) -> (Vec<Told>, Log) {
        let Self { link, node } = self;
        let told = link.stop();
        let log = node.log();
        compare(&told, &log);
        (told, log)
    }
}

/// Each session that was configured got exactly the first frames of its connection; all of them if
/// the node closed it politely. No session got a frame that the node had not written.
#[track_caller]
fn compare(told: &[Told], log: &Log) {
    let frames = |conn: ConnId| -> Vec<(u64, u64)> {
        let frames = log.entries().filter_map(move |entry| match entry.what {
            Record::Frame { conn: of, hash, end, .. } if of == conn => Some((hash, end)),
            _ => None,
        });
        frames.collect()
    };
    let torn = log.count(|what| matches!(what, Record::Torn(_))) > 0;
    let all: BTreeSet<u64> = log
        .entries()
        .filter_map(|entry| match entry.what {
            Record::Frame { hash, .. } => Some(hash),
            _ => None,
        })
        .collect();
    let opened = |told: &Told| matches!(told, Told::Event(Event::Opened));
    for session in told.split(opened).skip(1) {
        let mut got = Vec::new();
        let mut nonces = Vec::new();
        for told in session {
            if let Told::Frame { hash, completes } = told {
                assert!(torn || all.contains(hash), "a frame that the node never wrote");
                got.push(*hash);
                nonces.extend(*completes);
            }
        }
        let conn = log.entries().find_map(|entry| match entry.what {
            Record::Configured { conn, nonce } if nonces.contains(&nonce) => Some(conn),
            _ => None,
        });
        let Some(conn) = conn.filter(|_| !torn) else { continue };
        let written = frames(conn);
        let same = written.iter().zip(&got).take_while(|(written, got)| written.0 == **got).count();
        assert_eq!(same, got.len(), "{conn}: something else than what was written, or twice");
        let sent = log.entries().find_map(|entry| match entry.what {
            Record::Closed { conn: of, why: Why::Newer | Why::Idle | Why::Disconnect, sent }
                if of == conn =>
            {
                Some(sent)
            }
            _ => None,
        });
        if let Some(sent) = sent {
            let left = written.iter().filter(|(_, end)| *end <= sent).count();
            assert_eq!(got.len(), left, "{conn}: frames that left the node and did not arrive");
        }
    }
}

#[test]
fn every_row_has_its_test() {
    let here = include_str!("faults_sockets.rs");
    for name in Fault::names().iter().filter(|name| !LATER.contains(name)) {
        let test = format!("#[test]\nfn {}() {{", name.replace('-', "_"));
        assert!(here.contains(&test), "no test is called `{name}`");
    }
}

#[test]
fn fin() {
    let (mut pair, mark) = Pair::up(node());
    pair.fault("fin");
    pair.lost_and_back(mark, Class::ClosedByPeer);
    pair.end();
}

#[test]
fn rst() {
    let (mut pair, mark) = Pair::up(node());
    pair.fault("rst");
    pair.lost_and_back(mark, Class::ConnectionReset);
    pair.end();
}

#[test]
fn refuse() {
    let (mut pair, mark) = Pair::up(node());
    pair.fault("refuse=0.7");
    let mark = pair.lost(mark, Class::ConnectionReset);
    let mark = pair.lost(mark, Class::ConnectionRefused);
    pair.link.wait_until_up(mark);
    pair.end();
}

#[test]
fn unreachable() {
    let (mut pair, mark) = Pair::up(node());
    pair.stays_up(2);
    pair.fault("unreachable=3600");
    let mark = pair.lost(mark, Class::Silent);
    let mark = pair.lost(mark, Class::TimedOut);
    let mark = pair.lost(mark, Class::TimedOut);
    pair.node.handle().recover().expect("the node runs");
    pair.link.wait_until_up(mark);
    pair.stays_up(2);
    pair.end();
}

#[test]
fn blackhole() {
    let (mut pair, mark) = Pair::up(node());
    pair.stays_up(2);
    pair.fault("blackhole=3600");
    let mark = pair.link.wait_for_event(mark, "suspicion", |e| *e == Event::Suspected);
    let mark = pair.lost(mark, Class::Silent);
    pair.node.handle().recover().expect("the node runs");
    pair.link.wait_until_up(mark);
    pair.end();
}

#[test]
fn stolen() {
    let (mut pair, mark) = Pair::up(node());
    pair.inject(Fault::Stolen { life: MS(20)..=MS(150), span: Duration::from_secs(3600) });
    let contended = |event: &Event| matches!(event, Event::Contended { .. });
    let mark = pair.link.wait_for_event(mark, "contention", contended);
    pair.node.handle().recover().expect("the node runs");
    pair.link.wait_until_up(mark);
    pair.stays_up(1);
    pair.end();
}

#[test]
fn storm() {
    let (mut pair, mark) = Pair::up(node());
    let start = Clock::now();
    pair.fault("storm=3600");
    let node = &pair.node;
    pair.link.wait_until("stormy", |_| node.log().totals().connects >= 15);
    let due = pair.link.events(mark).iter().filter(|e| matches!(e, Event::OpenDue)).count() as u64;
    let most = most_attempts(&link().backoff, start.elapsed());
    assert!(due <= most, "{due} attempts, the back-off allows {most}");
    pair.node.handle().recover().expect("the node runs");
    let mark = pair.link.mark();
    pair.link.wait_until_up(mark);
    pair.stays_up(1);
    pair.end();
}

#[test]
fn stall() {
    let (mut pair, mark) = Pair::up(node());
    pair.fault("stall");
    let mark = pair.lost(mark, Class::ConnectionReset);
    pair.lost_and_back(mark, Class::HandshakeStalled);
    pair.end();
}

#[test]
fn cut() {
    for handshake in [false, true] {
        let (mut pair, mark) = Pair::up(node());
        pair.inject(Fault::Cut { handshake, frames: 3 });
        pair.lost(mark, Class::ConnectionReset);
        let node = &pair.node;
        let torn = |what: &Record| matches!(what, Record::Torn(_));
        pair.link.wait_until("cut", |_| node.log().count(torn) == 1);
        pair.stays_up_again();
        let (told, log) = pair.end();
        // One frame was cut, and no session got it: compare every frame, as if none were torn.
        let written: BTreeSet<u64> = log
            .entries()
            .filter_map(|entry| match entry.what {
                Record::Frame { hash, .. } => Some(hash),
                _ => None,
            })
            .collect();
        let frames = told.iter().filter_map(|told| match told {
            Told::Frame { hash, .. } => Some(hash),
            _ => None,
        });
        assert!(frames.clone().count() > 300 && frames.clone().all(|f| written.contains(f)));
    }
}

impl Pair {
    /// Waits until the link is up and stays so, whatever was before.
    #[track_caller]
    fn stays_up_again(&mut self) {
        let node = &self.node;
        let configured =
            |node: &Node| node.handle().call(|node, _| node.is_configured()).expect("it runs");
        self.link.wait_until("up again", |_| configured(node));
        let mark = self
            .link
            .told()
            .iter()
            .rposition(|told| matches!(told, Told::Event(Event::Lost { .. })));
        self.link.wait_until_up(mark.unwrap_or(0));
        self.stays_up(1);
    }
}

#[test]
fn slow_drain() {
    let mut config = node();
    config.identity.nodes = 250;
    let (mut pair, mark) = Pair::up(config);
    pair.fault("slow-drain");
    pair.fault("fin");
    pair.lost_and_back(mark, Class::ClosedByPeer);
    pair.stays_up(2);
    assert_eq!(pair.closed_for(Why::ShortWrite), 0);
    pair.end();
}

#[test]
fn torn() {
    let (mut pair, mark) = Pair::up(node());
    for _ in 0..5 {
        pair.fault("torn");
    }
    pair.link.wait_for(mark, "noise", |told| matches!(told, Told::Noise(_)));
    pair.stays_up(3);
    let (told, log) = pair.end();
    let got = told.iter().filter(|told| matches!(told, Told::Frame { .. })).count();
    let written = log.totals().frames as usize;
    assert!(got + 5 >= written && got <= written + 5, "{got} of {written} frames");
}

#[test]
fn text() {
    let (mut pair, mark) = Pair::up(node());
    pair.fault("text");
    let line = |told: &Told| match told {
        Told::Noise(bytes) => bytes.windows(8).any(|part| part == b"[Router]"),
        _ => false,
    };
    let mark = pair.link.wait_for(mark, "a line of text", line);
    pair.stays_up(2);
    pair.link.wait_for(mark, "more text", line);
    pair.end();
}

#[test]
fn stale_nonce() {
    let (mut pair, mark) = Pair::up(node());
    pair.fault("stale-nonce");
    pair.fault("rst");
    let from = pair.lost(mark, Class::ConnectionReset);
    let to = pair.link.wait_until_up(from);
    let completed = pair.link.told()[from..to]
        .iter()
        .filter(|told| matches!(told, Told::Frame { completes: Some(_), .. }));
    assert_eq!(completed.count(), 2, "the old one came, and was not believed");
    pair.end();
}

#[test]
fn burst() {
    let (mut pair, _) = Pair::up(node());
    pair.fault("burst");
    pair.stays_up(3);
    pair.end();
}

#[test]
fn unasked() {
    let (mut pair, mark) = Pair::up(node());
    pair.inject(Fault::Unasked { every: MS(50) });
    pair.stays_up(2);
    pair.fault("blackhole=3600");
    pair.lost(mark, Class::Silent);
    pair.end();
}

#[test]
fn coalesce() {
    let (mut pair, _) = Pair::up(node());
    pair.fault("coalesce");
    pair.stays_up(4);
    let totals = pair.node.log().totals();
    let missing = totals.heartbeats - totals.answers;
    assert!(missing <= 1, "two heartbeats were read together: {totals:?}");
    pair.end();
}

#[test]
fn shared() {
    let (mut pair, _) = Pair::up(node());
    pair.inject(Fault::Shared { chance: Chance::percent(33) });
    let start = pair.node.log().totals().heartbeats;
    let node = &pair.node;
    pair.link.wait_until("alive", |_| node.log().totals().heartbeats >= start + 8);
    pair.node.handle().recover().expect("the node runs");
    pair.stays_up_again();
    let events = pair.link.events(0);
    let losses = events.iter().filter_map(|event| match event {
        Event::Lost { fault, .. } => Some(fault.class()),
        _ => None,
    });
    assert!(losses.clone().all(|class| class == Class::Silent), "{events:?}");
    pair.end();
}

#[test]
fn mute() {
    let mut config = node();
    config.heartbeat.answered = false;
    config.traffic.per_minute = 0;
    let (mut pair, mark) = Pair::up(config);
    pair.link.wait_for_event(mark, "finding", |event| *event == Event::FoundMute);
    let mark = pair.link.mark();
    let start = pair.node.log().totals().heartbeats;
    let node = &pair.node;
    pair.link.wait_until("asked on", |_| node.log().totals().heartbeats >= start + 6);
    assert_eq!(pair.link.events(mark), []);
    pair.end();
}

#[test]
fn idle_kick() {
    let mut config = node();
    config.timing.idle_limit = Some(MS(3_000));
    config.traffic.per_minute = 600;
    let start = Clock::now();
    let (mut pair, _) = Pair::up(config);
    while start.elapsed() < MS(5_000) {
        pair.stays_up(1);
    }
    assert_eq!(pair.closed_for(Why::Idle), 0);
    pair.end();
}

#[test]
fn bad_utf8() {
    let mut config = node();
    config.identity.bad_utf8 = true;
    let (mut pair, mark) = Pair::up(config);
    pair.fault("fin");
    pair.lost_and_back(mark, Class::ClosedByPeer);
    pair.stays_up(1);
    let (told, _) = pair.end();
    let frames = told.iter().filter(|told| matches!(told, Told::Frame { .. })).count();
    assert!(frames > 2 * 146, "{frames} frames of two handshakes with 100 nodes");
}

#[test]
fn pause() {
    let (mut pair, _) = Pair::up(node());
    pair.fault("pause=1");
    pair.stays_up(2);
    let (told, _) = pair.end();
    assert!(!told.iter().any(|told| matches!(told, Told::Noise(_))));
}

#[test]
fn no_fin() {
    let (pair, _) = Pair::up(node());
    pair.fault("no-fin");
    let (told, log) = pair.end();
    assert_eq!(told.last(), Some(&Told::Event(Event::Closed)));
    let said = |what: &Record| matches!(what, Record::Closed { why: Why::Disconnect, .. });
    assert_eq!(log.count(said), 1, "without it the node would feed the dead");
}

#[test]
fn renumber() {
    let (mut pair, mark) = Pair::up(node());
    pair.fault("renumber");
    let mark = pair
        .link
        .wait_for_event(mark, "another node", |event| matches!(event, Event::NodeChanged { .. }));
    pair.link.wait_until_up(mark);
    pair.stays_up(1);
    pair.end();
}

#[test]
fn big() {
    let (mut pair, mark) = Pair::up(node());
    pair.fault("big");
    pair.fault("fin");
    let from = pair.lost(mark, Class::ClosedByPeer);
    let to = pair.link.wait_until_up(from);
    let frames = pair.link.told()[from..to].iter();
    let frames = frames.filter(|told| matches!(told, Told::Frame { .. })).count();
    assert!(frames >= 45 + 250, "{frames} frames");
    pair.stays_up(1);
    pair.end();
}

/// The node writes single bytes, and the socket's buffers are as small as the kernel allows.
#[test]
fn short_write() {
    let node = Node::start(node(), 1);
    node.handle().inject(Fault::ShortWrite).expect("the node runs");
    let options = TcpOptions { buffers: Some(1), ..TcpOptions::default() };
    let link = Recorder::start(node.address(), link(), options);
    let mut pair = Pair { link, node };
    pair.link.wait_until_up(0);
    pair.stays_up(2);
    pair.end();
}

#[test]
fn nonce_1() {
    let (mut pair, _) = Pair::up(node());
    pair.fault("nonce-1");
    pair.stays_up(3);
    let (_, log) = pair.end();
    assert_eq!(log.count(|what| matches!(what, Record::Heartbeat { nonce: 1, .. })), 0);
    assert_eq!(log.totals().transmitted, 0);
}

/// The errno of each fault is the kernel's own.
#[test]
fn faults_keep_their_errno() {
    let (mut pair, mark) = Pair::up(node());
    pair.fault("refuse=0.5");
    for errno in [104, 111] {
        let fault = fault::Fault::from_errno(errno);
        pair.link.wait_for_event(
            mark,
            "errno",
            |event| matches!(event, Event::Lost { fault: found, .. } if *found == fault),
        );
    }
    pair.end();
}
