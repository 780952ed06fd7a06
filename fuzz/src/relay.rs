//! The relay with a real link beneath it, under whatever clients, the node, the network and the
//! clock may do: no panic, no spin, nothing but whole frames to each client and only what it may
//! see, nothing to the node that a client may not send, and an end of each packet that is told.

mod client;
mod node;
mod words;

use core::convert::Infallible;
use core::time::Duration;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use embedded_io::{ErrorType, Write};
use meshbeat::relay::admission::Policy;
use meshbeat::relay::snapshot::Snapshot;
use meshbeat::relay::{Action, ClientId, Peer, Relay, RelayConfig};
use meshbeat::upstream::HostLink;
use meshbeat_core::fault::{Class, Fault};
use meshbeat_core::frame::{MAX_FRAME, MAX_PAYLOAD};
use meshbeat_core::link::{Event, Item, Link, Transmit};
use meshbeat_core::outbox::{PacketEvent, PacketState};
use meshbeat_core::{Instant, LinkConfig};

use crate::input::Input;
use client::Client;
use node::Node;
use words::{FORBIDDEN, PORTS, Packet, framed, nested, varint};

/// The first byte chooses what the rest is: operations, a byte each with its arguments behind it;
/// bytes of clients, each stretch with a byte in front that says whose and how long; or a snapshot
/// from the disk. The second byte chooses the settings.
///
/// # Panics
/// If the relay breaks a promise.
pub fn run(data: &[u8]) {
    if words::holds_marks(data) {
        return;
    }
    let mut input = Input::new(data);
    let mode = input.byte();
    let mut bench = Bench::new(Settings::new(input.byte()));
    match mode & 3 {
        0 | 1 => bench.play(input.rest()),
        2 => bench.play_bytes(&mut input),
        _ => bench.play_snapshot(input.rest()),
    }
    bench.finish();
}

/// What differs from run to run.
#[derive(Debug, Clone, Copy)]
struct Settings {
    /// The least of everything, so that all bounds are met.
    small: bool,
    /// The node is connected and configured before the first operation.
    warm: bool,
    /// The node answers all that it is asked, at once.
    prompt: bool,
    /// No client is fully trusted.
    restricted: bool,
    notify: bool,
    short_ttl: bool,
}

impl Settings {
    const fn new(bits: u8) -> Self {
        Self {
            small: bits & 1 != 0,
            warm: bits & 2 == 0,
            prompt: bits & 4 == 0,
            restricted: bits & 8 != 0,
            notify: bits & 16 == 0,
            short_ttl: bits & 32 != 0,
        }
    }

    fn relay(self) -> RelayConfig {
        let mut config = RelayConfig { notify: self.notify, ..RelayConfig::default() };
        if self.small {
            (config.backlog, config.max_clients) = (2, 3);
            (config.max_queued, config.handshakes_per_minute) = (2_000, 2);
        }
        if self.short_ttl {
            config.ttl = Some(Duration::from_secs(1));
        }
        config
    }
}

/// A relay with all that is around it.
struct Bench {
    settings: Settings,
    config: RelayConfig,
    relay: Relay,
    link: Box<HostLink>,
    now: Instant,
    node: Node,
    clients: Vec<Client>,
    /// Packets in the outbox: whose each is, and its id there if that is known.
    live: BTreeMap<u32, (ClientId, Option<u32>)>,
    /// The ids under which the node has them.
    wire_ids: BTreeMap<u32, u32>,
    /// Ids under which the node refused what was then tried again under others.
    refused_ids: BTreeSet<u32>,
    /// Packets that were taken in this turn, in order.
    taken: Vec<(u16, u32)>,
    /// The decoder may hold bytes that were not made here, and whole frames behind them.
    holds_back: bool,
    /// Nothing follows but the end.
    is_ending: bool,
}

/// Turns without input in which everything has to come to rest.
const TURNS: usize = 200;

impl Bench {
    fn new(settings: Settings) -> Self {
        let mut link = LinkConfig::default();
        link.outbox.quota = if settings.small { 2 } else { 100 };
        let config = settings.relay();
        let mut bench = Self {
            settings,
            relay: Relay::new(config.clone(), 7, 1_763_000_000_000),
            config,
            link: Box::new(Link::new(link.check().expect("settings within their bounds"), 1)),
            now: Instant::ORIGIN,
            node: Node::default(),
            clients: Vec::new(),
            live: BTreeMap::new(),
            wire_ids: BTreeMap::new(),
            refused_ids: BTreeSet::new(),
            taken: Vec::new(),
            holds_back: false,
            is_ending: false,
        };
        bench.link.open(bench.now);
        bench.settle();
        if settings.warm {
            bench.answer();
            bench.pass(10_000);
            assert!(bench.link.state().is_up());
        }
        bench
    }

    fn play(&mut self, operations: &[u8]) {
        let mut input = Input::new(operations);
        while !input.is_empty() {
            self.operate(&mut input);
            self.settle();
            self.check();
        }
    }

    fn play_bytes(&mut self, input: &mut Input<'_>) {
        let policies = input.byte();
        for index in 0..3 {
            self.connect(policies >> (2 * index), false);
        }
        while !input.is_empty() {
            let head = input.byte();
            let len = match usize::from(head >> 2) {
                63 => 63 + usize::from(input.byte()),
                len => len,
            };
            self.say_bytes(head & 3, input.bytes(len));
            self.settle();
            self.read(head & 3, 64 * len);
            self.check();
        }
    }

    /// What a file says is served, whatever it is, if only its check is right.
    fn play_snapshot(&mut self, body: &[u8]) {
        for policy in 1..4 {
            self.connect(policy, false);
        }
        let Ok(snapshot) = Snapshot::decode(&node::snapshot_file(body)) else { return };
        let again = Snapshot::decode(&snapshot.encode()).expect("what was written is read");
        assert_eq!(again.encode(), snapshot.encode(), "another one is read");
        self.relay.restore(snapshot);
        for client in 0..3 {
            self.say(client, &varint(3, 69_420 + u32::from(client)));
        }
        self.settle();
        self.check();
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        let own = self.node.number;
        match input.byte() & 0x1F {
            0 => {
                let bits = input.byte();
                self.connect(bits, bits & 4 != 0);
            }
            1 => {
                let (client, len) = (input.byte(), input.byte());
                self.say_bytes(client, input.bytes(len.into()));
            }
            2 => {
                let (client, choice) = (input.byte(), input.byte());
                let nonce = match choice & 3 {
                    0 => 69_420,
                    1 => 69_421,
                    2 => u32::from(choice >> 2),
                    _ => input.number::<4>() as u32,
                };
                self.say(client, &varint(3, nonce));
            }
            3 => {
                let (client, nonce) = (input.byte(), input.byte() & 1);
                self.say(client, &nested(&[7], &varint(1, nonce.into())));
            }
            4 => self.say_packet(input),
            5 => self.say_admin(input),
            6 => {
                let (client, rare) = (input.byte(), input.byte());
                if rare & 3 == 0 {
                    self.say(client, &varint(4, 1));
                }
            }
            7 => {
                let client = input.byte();
                let message = if input.byte() & 1 == 0 { 5 } else { 6 };
                let payload = match self.policy_of(client) {
                    Some(Policy::Full) => input.bytes(8),
                    _ => FORBIDDEN,
                };
                self.say(client, &nested(&[message, 4], payload));
            }
            8 => {
                let client = input.byte();
                self.read(client, usize::from(input.number::<2>() as u16));
            }
            9 => self.read(input.byte(), usize::MAX),
            10 => self.leave(input.byte()),
            11 => {
                // Many at once, in one piece.
                let (client, count) = (input.byte(), input.byte());
                let Some(tag) = self.client(client).map(|client| client.tag()) else { return };
                let many = (0..count & 0x3F).flat_map(|id| {
                    let mut packet = Packet { to: u32::MAX, port: 1, ..<_>::default() };
                    (packet.id, packet.payload) = (u32::from(id), &tag);
                    framed(&packet.sent())
                });
                let many: Vec<_> = many.collect();
                self.say_bytes(client, &many);
            }
            12 => self.say_ambiguous(input),
            13 => {
                // A message without content, or the first half of a frame.
                let (client, half) = (input.byte(), input.byte());
                let frame: &[u8] = if half & 1 == 0 { b"\x94\xC3\0\0" } else { b"\x94\xC3\0" };
                self.say_bytes(client, frame);
            }
            16 => self.answer(),
            17 => {
                let status = self.node.status(input.byte(), input.byte(), input.byte());
                self.hear(&status);
            }
            18 => self.reply(input),
            19 => {
                let packet = node::packet(input);
                self.hear(&packet);
            }
            20 => {
                let (choice, about) = (input.byte(), input.byte());
                let secret = words::told_secret(choice, own, self.node.wire_id(about));
                self.hear(&secret);
            }
            21 => {
                let about = self.node.wire_id(input.byte());
                let mut inner = varint(1, about);
                inner.extend(nested(&[4], b"a word"));
                self.hear(&nested(&[16], &inner));
            }
            22 => {
                let len = input.byte();
                let payload = input.bytes(len.into());
                self.give_up_counting();
                self.hear(payload);
            }
            23 => {
                let len = input.byte();
                let bytes = input.bytes(len.into());
                self.give_up_counting();
                self.receive(bytes);
            }
            24 => {
                for payload in words::configuration(own) {
                    self.hear(&payload);
                }
                let nonce = u32::from(input.byte());
                self.hear(&varint(7, nonce));
            }
            25 => {
                self.node.number ^= u32::from(input.byte() & 7);
                self.break_link(Fault::new(Class::ConnectionReset));
            }
            26 => {
                let class = Class::ALL[usize::from(input.byte()) % Class::ALL.len()];
                self.break_link(Fault::new(class));
            }
            27 => self.pass(input.number::<2>()),
            28 => self.pass_deadlines(1 + usize::from(input.byte() & 0x3F)),
            29 => self.node.is_deaf = input.byte() & 1 != 0,
            30 if input.byte() & 7 == 0 => self.link.close(self.now),
            31 => self.settings.prompt = input.byte() & 1 == 0,
            _ => {}
        }
    }

    fn connect(&mut self, policy: u8, observer: bool) {
        let restricted = self.settings.restricted;
        let policy = match policy & 3 {
            2 => Policy::NoAdmin,
            3 => Policy::ReadOnly,
            0 if restricted => Policy::NoAdmin,
            1 if restricted => Policy::ReadOnly,
            _ => Policy::Full,
        };
        let open = self.open_clients();
        let peer = Peer { label: "fuzz".into(), policy, observer };
        match self.relay.handle_connect(self.now, peer) {
            Some(id) => {
                assert!(open < self.config.max_clients, "one too many");
                self.clients.retain(|client| !client.closed);
                self.clients.push(Client::new(id, policy));
            }
            None => assert_eq!(open, self.config.max_clients, "there was room"),
        }
    }

    fn open_clients(&self) -> usize {
        self.clients.iter().filter(|client| !client.closed).count()
    }

    fn client(&mut self, choice: u8) -> Option<&mut Client> {
        let index = usize::from(choice).checked_rem(self.clients.len())?;
        Some(&mut self.clients[index])
    }

    fn policy_of(&mut self, choice: u8) -> Option<Policy> {
        self.client(choice).map(|client| client.policy)
    }

    fn say(&mut self, client: u8, payload: &[u8]) {
        self.say_bytes(client, &framed(payload));
    }

    fn say_bytes(&mut self, choice: u8, bytes: &[u8]) {
        let own = self.relay.snapshot().map(Snapshot::node);
        let Some(client) = self.client(choice).filter(|client| !client.closed) else { return };
        client.note_sent(own, bytes);
        let id = client.id;
        self.relay.handle_bytes(self.now, id, bytes);
    }

    fn say_packet(&mut self, input: &mut Input<'_>) {
        let (choice, id, bits) = (input.byte(), input.byte() & 7, input.byte());
        let Some(client) = self.client(choice) else { return };
        let port = PORTS[usize::from(bits & 15)];
        let controls = [2, 6, 13, 69, 74, 79].contains(&port);
        let may = match client.policy {
            Policy::Full => true,
            Policy::NoAdmin => !controls,
            Policy::ReadOnly => false,
        };
        let payload = if may { client.tag() } else { FORBIDDEN.to_vec() };
        let reply_id = if bits & 64 != 0 { 1 + u32::from(input.byte() & 7) } else { 0 };
        let packet = Packet {
            to: if bits & 16 != 0 { self.node.number } else { u32::MAX },
            id: id.into(),
            port,
            payload: &payload,
            reply_id,
            want_ack: bits & 32 != 0,
            ..<_>::default()
        };
        self.say(choice, &packet.sent());
    }

    fn say_admin(&mut self, input: &mut Input<'_>) {
        let (choice, id, what) = (input.byte(), input.byte() & 7, input.byte());
        let to = if what & 0x80 != 0 { 0x81 } else { self.node.number };
        let Some(client) = self.client(choice) else { return };
        let is_full = client.policy == Policy::Full;
        // Beginning, end, a change, a reboot; then what everybody may ask the own node.
        let mut payload = match what & 7 {
            0 => varint(64, 1),
            1 => varint(65, 1),
            2 => nested(&[32, 2], b"a name"),
            3 => varint(97, 1),
            4 => varint(3, 1),
            5 => varint(1, 1),
            6 => varint(12, 1),
            _ => [&[0xDD, 0x02][..], b"\x01\x02\x03\x04"].concat(),
        };
        if !is_full && what & 7 < 4 {
            payload.extend(nested(&[101], FORBIDDEN));
        }
        let mut packet = Packet { to, port: 6, payload: &payload, ..<_>::default() };
        packet.id = id.into();
        self.say(choice, &packet.sent());
    }

    /// What may mean one thing to the relay and another to the node.
    fn say_ambiguous(&mut self, input: &mut Input<'_>) {
        let (choice, what) = (input.byte(), input.byte());
        let Some(client) = self.client(choice) else { return };
        let mark = if client.policy == Policy::Full { b"mark" } else { FORBIDDEN };
        let to = self.node.number;
        let text = Packet { to, id: 5, port: 1, payload: b"hi", ..<_>::default() };
        let admin = Packet { port: 6, payload: mark, ..text };
        let payload = match what % 6 {
            0 => [text.sent(), admin.sent()].concat(),
            1 => [varint(3, 7), admin.sent()].concat(),
            2 => Packet { encrypted: Some(mark), ..text }.sent(),
            3 => {
                let mut packet = text.sent().split_off(2);
                packet.extend(nested(&[4], &[varint(1, 6), nested(&[2], mark)].concat()));
                nested(&[1], &packet)
            }
            4 => [admin.sent(), nested(&[7], b"")].concat(),
            // A port number that is another one when it is cut to 32 bits, or to 8.
            _ => {
                let port = [&b"\x08\x86\x80\x80\x80\x10"[..], &nested(&[2], mark)].concat();
                nested(&[1, 4], &port)
            }
        };
        self.say(choice, &payload);
    }

    fn read(&mut self, choice: u8, most: usize) {
        let index = usize::from(choice).checked_rem(self.clients.len());
        if let Some(client) = index.and_then(|index| self.clients.get_mut(index)) {
            client.read(self.now, &mut self.relay, most);
        }
    }

    fn leave(&mut self, choice: u8) {
        let Some(client) = self.client(choice).filter(|client| !client.closed) else { return };
        client.closed = true;
        let id = client.id;
        self.relay.handle_closed(self.now, id);
    }

    fn reply(&mut self, input: &mut Input<'_>) {
        let (about, error, bits) = (input.byte(), input.byte(), input.byte());
        let from = if bits & 1 == 0 { self.node.number } else { 0x81 };
        let request_id = self.node.wire_id(about);
        let payload = varint(3, u32::from(error % 40));
        let reply = Packet {
            from,
            to: self.node.number,
            id: 0x8000_0000 | u32::from(bits),
            port: 5,
            payload: &payload,
            request_id,
            ..<_>::default()
        };
        let is_error = error % 40 != 0;
        self.node.replied = is_error.then_some(request_id);
        let before = self.queued();
        self.hear(&reply.heard());
        let own = self.relay.snapshot().map(Snapshot::node);
        if is_error && request_id != 0 && own == Some(from) && !self.holds_back {
            let after = self.queued();
            let told =
                after.iter().filter(|(id, bytes)| before.get(id).is_some_and(|it| it < bytes));
            let most = usize::from(!self.refused_ids.contains(&request_id));
            assert!(told.count() <= most, "told of {request_id:#x}: {before:?}, {after:?}");
        }
        self.drain_link();
        self.node.replied = None;
    }

    /// How many bytes wait for each client.
    fn queued(&self) -> BTreeMap<ClientId, usize> {
        self.relay.clients().map(|status| (status.id, status.queued_bytes)).collect()
    }

    /// Frames that were not made here may be taken for whatever they resemble.
    fn give_up_counting(&mut self) {
        self.holds_back = true;
        for client in &mut self.clients {
            client.is_lost_count = true;
        }
    }

    /// The node tells this.
    fn hear(&mut self, payload: &[u8]) {
        if payload.len() <= MAX_PAYLOAD {
            self.receive(&framed(payload));
        }
    }

    /// The node writes this.
    fn receive(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        loop {
            let received = self.link.handle_bytes(self.now, rest);
            rest = &rest[received.taken..];
            match received.item {
                Some(Item::Frame { payload, message, configured }) => {
                    self.relay.handle_frame(self.now, payload, message, configured);
                }
                Some(Item::Noise(_)) => {}
                None if rest.is_empty() => return,
                None => {}
            }
        }
    }

    /// The node does all that it was asked.
    fn answer(&mut self) {
        for payload in self.node.answers() {
            self.hear(&payload);
        }
    }

    fn break_link(&mut self, fault: Fault) {
        self.link.handle_closed(self.now, fault);
    }

    fn pass(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        self.pass_until(end, usize::MAX);
        self.now = end;
        self.time_out();
    }

    fn pass_deadlines(&mut self, count: usize) {
        self.pass_until(self.now + Duration::from_secs(3600), count);
    }

    fn pass_until(&mut self, end: Instant, most: usize) {
        for _ in 0..most.min(100_000) {
            let next = [self.link.poll_timeout(), self.relay.poll_timeout()];
            match next.into_iter().flatten().min() {
                Some(at) if at < end => self.now = self.now.max(at),
                _ => return,
            }
            self.time_out();
        }
        assert!(most < 100_000, "deadlines without end");
    }

    /// After two calls the deadline has to lie ahead, for the loop sleeps until then.
    fn time_out(&mut self) {
        for _ in 0..2 {
            self.link.handle_timeout(self.now);
            self.relay.handle_timeout(self.now);
            self.settle();
        }
        if let Some(deadline) = self.relay.poll_timeout() {
            assert!(deadline > self.now, "the relay spins at {:?}: {deadline:?}", self.now);
        }
    }

    /// All that can be done now, as the loop does it.
    fn settle(&mut self) {
        for _ in 0..TURNS {
            let mut moved = self.drain_link();
            moved |= self.transmit();
            if self.settings.prompt && self.node.is_asked() {
                self.answer();
                moved = true;
            }
            self.drain_actions();
            if !moved {
                return;
            }
        }
        panic!("it does not come to rest at {:?}", self.now);
    }

    fn drain_link(&mut self) -> bool {
        let mut moved = false;
        for _ in 0..TURNS {
            while let Some(event) = self.link.poll_event() {
                moved = true;
                self.handle_event(event);
            }
            self.relay.handle_turn(self.now, &mut self.link);
            let Some(event) = self.link.poll_event() else { break };
            self.handle_event(event);
        }
        self.settle_accounts();
        moved
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::OpenDue => {
                self.node.handle_opened();
                self.holds_back = false;
                self.link.handle_opened(self.now);
            }
            Event::Packet(event) => self.note_packet(event),
            _ => {}
        }
        self.relay.handle_event(self.now, event);
    }

    fn note_packet(&mut self, event: PacketEvent) {
        let PacketEvent { id, sender, state, wire_id } = event;
        let known = self.wire_ids.insert(id, wire_id);
        self.refused_ids.remove(&wire_id);
        self.refused_ids.extend(known.filter(|known| *known != wire_id));
        if let Entry::Vacant(place) = self.live.entry(id) {
            assert_eq!(state, PacketState::Queued, "{event:?}");
            place.insert((ClientId(sender.into()), None));
            self.taken.push((sender, id));
            return;
        }
        if !state.is_final() {
            return;
        }
        self.wire_ids.remove(&id);
        let (owner, known) = self.live.remove(&id).expect("it is there");
        let owner = self.clients.iter_mut().find(|client| client.id == owner);
        if let (Some(client), Some(id)) = (owner, known)
            && state != PacketState::Confirmed
        {
            let account = client.accounts.entry(id).or_default();
            account.ended += 1;
            client.is_lost_count |= self.is_ending;
            account.ended_by_node += u32::from(self.node.replied == Some(wire_id));
        }
    }

    /// Finds out under which id each client knows the packets that were taken from it just now.
    fn settle_accounts(&mut self) {
        let taken = core::mem::take(&mut self.taken);
        for client in &mut self.clients {
            let wishes = core::mem::take(&mut client.wishes);
            let own = taken.iter().filter(|(sender, _)| u64::from(*sender) == client.id.0);
            let own: Vec<_> = own.map(|(_, id)| *id).collect();
            if own.len() == wishes.len() {
                for (id, wished) in own.into_iter().zip(wishes) {
                    let known = if wished == 0 { id } else { wished };
                    self.live.insert(id, (client.id, Some(known)));
                }
            } else {
                // Who comes back with what it had sent takes it over, unless there was no room.
                let others = self.live.values().filter(|(owner, _)| *owner != client.id);
                let mut others = others.filter_map(|(_, known)| *known);
                let adopts = others.any(|known| wishes.contains(&known));
                client.is_lost_count |= adopts || !own.is_empty();
            }
        }
    }

    /// Writes what the link has to say; the node takes it in.
    fn transmit(&mut self) -> bool {
        if self.node.is_deaf {
            let blocked = self.link.poll_transmit(self.now, &mut Blocked);
            assert!(matches!(blocked, Ok(Transmit::Blocked | Transmit::Empty)));
            return false;
        }
        let mut wire = Vec::new();
        for _ in 0..TURNS {
            match self.link.poll_transmit(self.now, &mut wire) {
                Ok(Transmit::Wrote(_)) => {}
                _ => break,
            }
        }
        self.node.handle_bytes(&wire, self.settings.restricted);
        !wire.is_empty()
    }

    fn drain_actions(&mut self) {
        while let Some(action) = self.relay.poll_action() {
            let (Action::Write(id) | Action::Close(id)) = action;
            let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else {
                continue;
            };
            match action {
                Action::Write(_) => client.told = true,
                Action::Close(_) => client.closed = true,
            }
        }
    }

    /// What holds after every operation.
    fn check(&self) {
        let open = self.open_clients();
        assert_eq!(self.relay.clients().count(), open, "clients that nobody knows");
        for status in self.relay.clients() {
            // The backlog is given as a whole.
            let most = self.config.max_queued + self.config.backlog * MAX_FRAME;
            assert!(status.queued_bytes <= most, "{} bytes queued", status.queued_bytes);
        }
        for client in self.clients.iter().filter(|client| !client.closed) {
            client.check_pending(&self.relay);
        }
        assert!(self.relay.counters().backlog <= self.config.backlog);
    }

    /// Everybody reads all, and what is still to be told is told.
    fn finish(&mut self) {
        self.drain_actions();
        for round in 0..8 {
            // What ends later may not be told yet.
            self.is_ending = round > 4;
            self.read_all();
            self.pass(500);
            self.check();
        }
        self.read_all();
        for client in self.clients.iter().filter(|client| !client.closed) {
            client.check_accounts();
        }
    }

    fn read_all(&mut self) {
        for client in &mut self.clients {
            client.read(self.now, &mut self.relay, usize::MAX);
        }
    }
}

/// A socket that takes nothing.
struct Blocked;

impl ErrorType for Blocked {
    type Error = Infallible;
}

impl Write for Blocked {
    fn write(&mut self, _: &[u8]) -> Result<usize, Infallible> {
        Ok(0)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
