//! Packets over real sockets: one program hands 200 texts to its link as there is room, while the
//! simulated node is reset, refused and black-holed in between. What the link says became of each
//! is compared with the node's own record.
//!
//! The faults come from a seed and follow the progress of the texts and of the link, not the clock,
//! so a busy machine makes the test slower and nothing else. The sockets' buffers are small: the
//! node's handshake does not fit in, so its writes are short.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Instant as Clock;

use meshbeat::event_loop::{EventLoop, Program};
use meshbeat::sim::{Chance, Fault, Log, Record, Server, SimConfig};
use meshbeat::socket::TcpOptions;
use meshbeat::upstream::HostLink;
use meshbeat_core::fault::Class;
use meshbeat_core::outbox::{PacketEvent, PacketState, SendError};
use meshbeat_core::rng::Rng;
use meshbeat_core::{Event, Instant, LinkConfig, Span};
use meshbeat_proto::{Data, MeshPacket, PortNum, ToRadio, mesh_packet, to_radio};
use meshbeat_tests::recorder::Node;
use prost::Message;

const MS: fn(u64) -> Duration = Duration::from_millis;
const TEXTS: u32 = 200;
/// The rate limits of the node are these parts of the real ones.
const SCALE: f32 = 0.01;
/// The buffers of all sockets; the kernel doubles it.
const BUFFER: usize = 8 * 1024;
/// The id of the first text; the others count on.
const FIRST_ID: u32 = 0x0100_0000;
/// How long nothing may happen on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// Until something is seen that ends it.
const LONG: Duration = Duration::from_secs(3600);

/// A link that is back soon, and paced as the node wants it.
fn link() -> LinkConfig {
    let mut config = LinkConfig::default();
    config.heartbeat.quiet = Span::from_millis(200);
    config.heartbeat.answer = Span::from_millis(800);
    config.heartbeat.keepalive = Span::from_millis(600);
    config.heartbeat.probe = Span::from_millis(1_000);
    config.heartbeat.mute = Span::from_millis(400);
    config.handshake.gap = Span::from_millis(50);
    config.backoff.first = Span::from_millis(20);
    config.backoff.cap = Span::from_millis(200);
    config.backoff.crowded_cap = Span::from_millis(400);
    config.outbox.patience = Span::from_millis(1_000);
    config.outbox.retry = Span::from_millis(200);
    config.outbox.pacing.text = config.outbox.pacing.text.as_duration().mul_f32(SCALE).into();
    config.outbox.pacing.margin = Span::from_millis(5);
    config
}

/// A node with a large handshake, that transmits about as fast as the texts come.
fn node() -> SimConfig {
    let mut config = SimConfig::default();
    config.identity.nodes = 250;
    config.timing.accept_poll = MS(5);
    config.timing.idle_poll = MS(20);
    config.timing.input_delay = MS(10);
    config.limits.scale = SCALE;
    config.radio.airtime = MS(10)..=MS(40);
    config.traffic.per_minute = 240;
    config
}

/// The program that sends: as many texts at a time as its share of the outbox holds.
struct Author {
    next: u32,
    ended: u32,
    news: Sender<Event>,
}

impl Program for Author {
    fn handle_event(&mut self, _now: Instant, event: Event, _link: &HostLink) {
        if let Event::Packet(packet) = event {
            self.ended += u32::from(packet.state.is_final());
        }
        // The test may have failed; then nobody listens.
        let _ = self.news.send(event);
    }

    fn handle_turn(&mut self, now: Instant, link: &mut HostLink) {
        while self.next < TEXTS {
            match link.send(now, 1, &text(self.next), None) {
                Ok(id) => assert_eq!(id, FIRST_ID + self.next),
                Err(SendError::Quota) => return,
                Err(error) => panic!("text {}: {error}", self.next),
            }
            self.next += 1;
        }
    }

    fn is_done(&self) -> bool {
        self.ended == TEXTS
    }
}

fn text(number: u32) -> Vec<u8> {
    let data = Data {
        portnum: PortNum::TextMessageApp as i32,
        payload: format!("text {number} of {TEXTS}").into_bytes(),
        ..Data::default()
    };
    let packet = MeshPacket {
        to: u32::MAX,
        id: FIRST_ID + number,
        payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
        ..MeshPacket::default()
    };
    let variant = Some(to_radio::PayloadVariant::Packet(packet));
    ToRadio { payload_variant: variant }.encode_to_vec()
}

/// What is done to the node, and what of it the link is to see before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// The connection is reset when a text was written, which the node may have read or not.
    Reset,
    /// The connection is reset when a text was written that the node has not read.
    ResetUnread,
    /// The connection is reset when the node has taken a text, before it could say so.
    ResetTaken,
    /// Nothing listens until so many connects were refused.
    Refused(u32),
    /// The node stands still until the link suspects it.
    Suspected,
    /// The node stands still until the link gives it up.
    Silent,
}

impl Blow {
    /// One of each kind, in random order.
    fn round(rng: &mut Rng) -> Vec<Self> {
        let refused = Self::Refused(1 + rng.below(3));
        let mut left = vec![Self::Reset, Self::ResetUnread, Self::ResetTaken, refused];
        left.extend([Self::Suspected, Self::Silent]);
        let mut round = Vec::new();
        while !left.is_empty() {
            round.push(left.swap_remove(rng.below(left.len() as u32) as usize));
        }
        round
    }
}

/// The texts as the link tells of them, while blows fall.
struct Story {
    news: Receiver<Event>,
    packets: Vec<PacketEvent>,
    confirmed: u32,
    lost: u32,
}

impl Story {
    /// Waits for an event, keeping all that comes before; `false` when the link has ended.
    #[track_caller]
    fn wait_for(&mut self, mut is: impl FnMut(&Event, u32) -> bool) -> bool {
        loop {
            let event = match self.news.recv_timeout(PATIENCE) {
                Ok(event) => event,
                Err(mpsc::RecvTimeoutError::Disconnected) => return false,
                Err(timeout) => panic!("{timeout} after {:?}", self.packets.last()),
            };
            match event {
                Event::Packet(packet) => {
                    self.packets.push(packet);
                    self.confirmed += u32::from(packet.state == PacketState::Confirmed);
                }
                Event::Lost { .. } => self.lost += 1,
                _ => {}
            }
            if is(&event, self.confirmed) {
                return true;
            }
        }
    }

    fn suffer(&mut self, blow: Blow, node: &Node) {
        let handle = node.handle();
        let inject = |fault| handle.inject(fault).expect("the node runs");
        match blow {
            Blow::Reset => {
                self.wait_for(|event, _| is_sent(event));
                inject(Fault::Rst);
            }
            Blow::ResetUnread => {
                inject(Fault::Blackhole { span: LONG });
                // The text may have been written just before.
                self.wait_for(|event, _| is_sent(event) || *event == Event::Suspected);
                inject(Fault::Rst);
            }
            Blow::ResetTaken => {
                inject(Fault::Shared { chance: Chance::ALWAYS });
                let taken = || handle.call(|node, _| node.log().totals().taken).expect("it runs");
                let (before, start) = (taken(), Clock::now());
                while taken() == before {
                    assert!(start.elapsed() < PATIENCE, "no text was taken");
                    thread::sleep(MS(2));
                }
                inject(Fault::Rst);
            }
            Blow::Refused(times) => {
                inject(Fault::Refuse { span: LONG });
                let mut refused = 0;
                self.wait_for(|event, _| {
                    refused += u32::from(is_lost_for(event, Class::ConnectionRefused));
                    refused == times
                });
            }
            // A node that has not shown twice that it answers is not given up.
            Blow::Suspected | Blow::Silent => {
                inject(Fault::Blackhole { span: LONG });
                self.wait_for(|event, _| match event {
                    Event::Suspected => blow == Blow::Suspected,
                    Event::FoundMute | Event::Lost { .. } => true,
                    _ => false,
                });
            }
        }
        handle.recover().expect("the node runs");
    }
}

fn is_sent(event: &Event) -> bool {
    matches!(event, Event::Packet(PacketEvent { state: PacketState::Sent, .. }))
}

fn is_lost_for(event: &Event, class: Class) -> bool {
    matches!(event, Event::Lost { fault, .. } if fault.class() == class)
}

#[test]
#[ignore = "slow"]
fn two_hundred_texts_while_the_node_is_reset_refused_and_black_holed() {
    const SEED: u64 = 3;
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut server = Server::bind(address, node(), SEED).expect("a free port");
    server.set_send_buffer(BUFFER);
    let node = Node::serve(server);
    let (sender, news) = mpsc::channel();
    let mut author = Author { next: 0, ended: 0, news: sender };
    let address = (node.address().ip().to_string(), node.address().port());
    let thread = thread::spawn(move || {
        let options = TcpOptions { buffers: Some(BUFFER), ..TcpOptions::default() };
        EventLoop::new(address, link(), options, SEED).expect("a loop").run(&mut author)
    });

    let mut story = Story { news, packets: Vec::new(), confirmed: 0, lost: 0 };
    let mut rng = Rng::new(SEED);
    let (mut blows, mut round) = (Vec::new(), Vec::new());
    loop {
        let next = story.confirmed + 8 + rng.below(20);
        let came = next < TEXTS && story.wait_for(|_, confirmed| confirmed >= next);
        if !came {
            break;
        }
        if round.is_empty() {
            round = Blow::round(&mut rng);
        }
        let blow = round.pop().expect("it was filled");
        story.suffer(blow, &node);
        blows.push(blow);
    }
    while story.wait_for(|_, _| false) {}
    thread.join().expect("the program did not panic").expect("the loop ended well");

    println!("{blows:?}, {} connections lost", story.lost);
    assert!(blows.len() >= 6, "not a whole round");
    compare(&story.packets, &node.log());
}

/// What the link says of each text, against what the node did.
fn compare(packets: &[PacketEvent], log: &Log) {
    let totals = log.totals();
    println!("{totals:?}");
    assert!(totals.short_writes >= totals.configured, "{} short writes", totals.short_writes);
    assert_eq!((totals.rate_limited, totals.repeated), (0, 0));

    // Which text each id belongs to, and how each text ended.
    let mut texts = BTreeMap::new();
    let mut ends = BTreeMap::new();
    for packet in packets {
        let number = packet.id - FIRST_ID;
        texts.insert(packet.wire_id, number);
        if packet.state.is_final() {
            assert_eq!(ends.insert(number, *packet), None, "text {number} ended twice");
        }
    }
    let sent = packets.iter().filter(|packet| packet.state == PacketState::Sent).count();
    assert!(sent > ends.len(), "no text was written again");
    assert!(ends.keys().copied().eq(0..TEXTS), "each text has its end: {:?}", ends.keys());

    // What the node read and took, and on which of its connections.
    let mut connection = 0;
    let (mut read, mut taken) = (BTreeSet::new(), Vec::new());
    for entry in log.entries() {
        match entry.what {
            Record::Accepted(conn) => connection = conn.0,
            Record::Read { id, .. } => {
                read.insert(id);
            }
            Record::Taken(id) => taken.push((id, connection)),
            _ => {}
        }
    }
    assert!(taken.len() > ends.len(), "no text came twice");
    assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len(), "twice on a connection");
    // The mesh drops repeats: what counts is when an id came first.
    let mut seen = BTreeSet::new();
    let firsts: Vec<u32> = taken
        .iter()
        .map(|(id, _)| *id)
        .filter(|id| seen.insert(*id))
        .map(|id| texts[&id])
        .collect();
    assert!(firsts.is_sorted(), "out of order: {firsts:?}");
    assert_eq!(firsts.iter().collect::<BTreeSet<_>>().len(), firsts.len(), "a text under two ids");

    let mut confirmed = 0;
    for (number, PacketEvent { wire_id, state, .. }) in ends {
        let (read, taken) = (read.contains(&wire_id), seen.contains(&wire_id));
        match state {
            PacketState::Confirmed => {
                confirmed += 1;
                assert!(taken, "text {number} is confirmed and never came");
            }
            PacketState::Expired => assert!(!read, "text {number} is expired and came"),
            PacketState::Refused(_) => assert!(!taken, "text {number} is refused and was taken"),
            PacketState::Unknown => println!("text {number} is unknown, taken: {taken}"),
            PacketState::Queued | PacketState::Sent => unreachable!("an end"),
        }
    }
    println!("{confirmed} of {TEXTS} confirmed, {} taken, {} writes", firsts.len(), taken.len());
    assert!(confirmed * 10 >= TEXTS * 9, "{confirmed} of {TEXTS} confirmed");
}
