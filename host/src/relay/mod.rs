//! The relay: one node, any number of unmodified clients.
//!
//! Without socket, clock or file: bytes and `now` in, bytes and deadlines out, so that it is tested
//! and fuzzed as such. Clients are served from memory and never see the node's faults; what they
//! send goes through the link's one outbox, and what becomes of it is told to whoever sent it.
//!
//! The caller's loop: [`Relay::handle_bytes`] and the other `handle_*` for what happened, then
//! [`Relay::handle_turn`] with the link, then [`Relay::poll_action`] until there is none, writing
//! what is [`Relay::pending`]; [`Relay::poll_timeout`] says when [`Relay::handle_timeout`] is due.

pub mod wire;
pub mod admission;
pub mod snapshot;
mod answers;
mod backlog;
mod ledger;
mod session;
mod news;
mod sending;
#[cfg(test)]
mod tests;

use core::fmt;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use log::{debug, info};
use meshbeat_core::decoder::Item;
use meshbeat_core::outbox::PacketState;
use meshbeat_core::peek;
use meshbeat_core::rng::Rng;
use meshbeat_core::time::Instant;
use meshbeat_proto::routing;
use meshbeat_proto::to_radio::PayloadVariant;
use meshbeat_proto::{MeshPacket, ToRadio};
use prost::Message as _;

use admission::{Policy, Verdict};
use backlog::Backlog;
use ledger::Ledger;
use sending::{Dirty, Wish};
use session::{Asked, Phase, Session, Step};
use snapshot::{Ask, Builder, Snapshot};

/// Names a client; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// The bounds of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayConfig {
    /// Packets kept while no client is there. Default 100.
    pub backlog: usize,
    /// Clients at the same time; more are turned away. Default 256.
    pub max_clients: usize,
    /// Bytes that may wait for one client, its handshake not counted; one that does not read is cut
    /// off there. Default 1 MiB.
    pub max_queued: usize,
    /// Handshakes of one client that begin within a minute; more have to wait for the next.
    /// Default 30.
    pub handshakes_per_minute: u32,
    /// Whether clients are told when the link to the node goes and when it is back. Default yes.
    pub notify: bool,
    /// How long a packet of which no byte was written waits. Default the link's: 1 h.
    pub ttl: Option<Duration>,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            backlog: 100,
            max_clients: 256,
            max_queued: 1 << 20,
            handshakes_per_minute: 30,
            notify: true,
            ttl: None,
        }
    }
}

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its address, for people.
    pub label: String,
    /// What it may send and see: the policy of the listener it came through.
    pub policy: Policy,
    /// It looks on only: what is kept while no client is there is not for it. Meshbeat's own
    /// commands are such.
    pub observer: bool,
}

/// What the caller has to do to a client's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Something is [`Relay::pending`] for it.
    Write(ClientId),
    /// Drop the socket; the client is forgotten.
    Close(ClientId),
}

/// A client, for an operator.
#[derive(Debug)]
pub struct ClientStatus<'a> {
    /// Which.
    pub id: ClientId,
    /// Who.
    pub peer: &'a Peer,
    /// When it came.
    pub since: Instant,
    /// It has asked for the configuration and been given it.
    pub configured: bool,
    /// Bytes that wait to be written to it, its handshake not counted.
    pub queued_bytes: usize,
    /// Frames written to it.
    pub frames_sent: u64,
    /// Frames it has sent.
    pub frames_received: u64,
    /// Bytes it has sent that belong to no frame.
    pub noise: u64,
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayCounters {
    /// Clients that came.
    pub clients: u64,
    /// Clients turned away because there were too many.
    pub turned_away: u64,
    /// Clients cut off because they did not read.
    pub cut_off: u64,
    /// Handshakes answered.
    pub handshakes: u64,
    /// Packets of the mesh that were news.
    pub packets: u64,
    /// Packets that the node has told before.
    pub replays: u64,
    /// Packets accepted from clients.
    pub accepted: u64,
    /// Frames of clients that their policy forbids.
    pub refused: u64,
    /// Packets that wait for the next client.
    pub backlog: usize,
    /// Packets that no client came for in time.
    pub backlog_dropped: u64,
}

/// One node for many clients.
#[derive(Debug)]
pub struct Relay {
    config: RelayConfig,
    rng: Rng,
    /// Milliseconds since 1970 at the origin of `Instant`.
    unix_ms: u64,
    sessions: BTreeMap<ClientId, Session>,
    next_client: u64,
    actions: VecDeque<Action>,
    wishes: VecDeque<Wish>,
    /// When to try again to forward what the link had no place for.
    forward_at: Option<Instant>,
    snapshot: Option<Snapshot>,
    snapshot_version: u64,
    builder: Builder,
    backlog: Backlog,
    ledger: Ledger,
    /// The node's settings have been changed, and it has not told them since.
    dirty: Option<Dirty>,
    /// The handshake with the node is done and the link not lost.
    is_up: bool,
    /// Since when the link is gone, if clients were told.
    down: Option<Instant>,
    /// Whose file transfer is under way; who speaks to the MQTT server for the node.
    xmodem: Option<ClientId>,
    mqtt: Option<ClientId>,
    counters: RelayCounters,
}

/// A client that is quiet for this long is sent something, for some give a silent node up: after
/// 60 s (JavaScript) or 90 s (Android).
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Keep-alives are due at multiples of this, so that many clients make one wake-up.
const KEEP_ALIVE_STEP: Duration = Duration::from_secs(15);
/// How long who asks for the configuration is kept waiting for a change that is under way.
const CHANGE_WAIT: Duration = Duration::from_secs(15);

impl Relay {
    /// A relay without a client that knows nothing of its node. `unix_ms` is the time of day at the
    /// origin of `Instant`, in milliseconds since 1970.
    pub fn new(config: RelayConfig, seed: u64, unix_ms: u64) -> Self {
        Self {
            backlog: Backlog::new(config.backlog),
            config,
            rng: Rng::new(seed),
            unix_ms,
            sessions: BTreeMap::new(),
            next_client: 0,
            actions: VecDeque::new(),
            wishes: VecDeque::new(),
            forward_at: None,
            snapshot: None,
            snapshot_version: 0,
            builder: Builder::new(),
            ledger: Ledger::default(),
            dirty: None,
            is_up: false,
            down: None,
            xmodem: None,
            mqtt: None,
            counters: RelayCounters::default(),
        }
    }

    /// Serves clients from what was known of the node earlier, until it is reached.
    pub fn restore(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
    }

    /// A client has come. `None`: there are too many, drop its socket.
    pub fn handle_connect(&mut self, now: Instant, peer: Peer) -> Option<ClientId> {
        if self.sessions.len() >= self.config.max_clients {
            self.counters.turned_away += 1;
            return None;
        }
        let id = ClientId(self.next_client);
        self.next_client += 1;
        self.counters.clients += 1;
        debug!(target: "relay", "client {id} {}: here, {}", peer.label, peer.policy);
        self.sessions.insert(id, Session::new(now, peer, id.0 as u16));
        Some(id)
    }

    /// Bytes of a client have arrived.
    pub fn handle_bytes(&mut self, now: Instant, client: ClientId, bytes: &[u8]) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        let Some(mut decoder) = session.decoder.take() else { return };
        let mut noise = 0;
        let mut rest = bytes;
        loop {
            let decoded = decoder.decode(rest);
            let mut taken = decoded.taken;
            match decoded.item {
                Some(Item::Frame(payload)) if peek::is_to_radio(payload) => {
                    self.handle_to_radio(now, client, payload);
                }
                Some(Item::Frame(_)) => taken -= decoder.reject(),
                Some(Item::Noise(bytes)) => noise += bytes.len() as u64,
                None if taken == rest.len() => break,
                None => {}
            }
            rest = rest.get(taken..).unwrap_or(&[]);
        }
        // It may have said goodbye.
        if let Some(session) = self.sessions.get_mut(&client) {
            session.decoder = Some(decoder);
            session.noise += noise;
        }
    }

    /// A client's socket has ended. What it has sent is still sent.
    pub fn handle_closed(&mut self, _now: Instant, client: ClientId) {
        if let Some(session) = self.sessions.remove(&client) {
            debug!(target: "relay", "client {client} {}: gone", session.peer.label);
        }
    }

    /// What is to be written to a client, in order, one slice for each frame.
    pub fn pending(&self, client: ClientId) -> impl Iterator<Item = &[u8]> {
        self.sessions.get(&client).into_iter().flat_map(Session::pending)
    }

    /// Says that a client's socket took so many of the pending bytes.
    pub fn consume(&mut self, now: Instant, client: ClientId, written: usize) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        let completed = session.consume(now, written);
        if completed && !session.peer.observer {
            self.give_backlog(client);
        }
    }

    /// What is to be done to a client's socket next.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front()?;
        if let Action::Write(client) = action
            && let Some(session) = self.sessions.get_mut(&client)
        {
            session.announced = false;
        }
        Some(action)
    }

    /// Lets time pass; does nothing before [`Relay::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        self.answer_refused(now);
        let mut quiet = Vec::new();
        for (id, session) in &mut self.sessions {
            if session.handle_timeout(now) {
                session.announce(*id, &mut self.actions);
            }
            if keep_alive_due(session).is_some_and(|at| now >= at) {
                quiet.push((*id, session.free.max(1)));
            }
        }
        for (client, free) in quiet {
            self.push(client, &answers::queue_status(0, free, 0));
        }
        self.serve_asked(now);
    }

    /// The next moment at which [`Relay::handle_timeout`] or [`Relay::handle_turn`] has something
    /// to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sessions = self.sessions.values().flat_map(|session| {
            let asked = session.asked.filter(|_| self.snapshot.is_some());
            [session.paused(), keep_alive_due(session), asked.map(|asked| self.served_at(asked))]
        });
        let others = [self.ledger.poll_timeout(), self.sending_due()];
        sessions.chain(others).flatten().min()
    }

    /// What is known of the node.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// Another number whenever the snapshot is another.
    pub fn snapshot_version(&self) -> u64 {
        self.snapshot_version
    }

    /// All clients, in the order in which they came.
    pub fn clients(&self) -> impl Iterator<Item = ClientStatus<'_>> {
        self.sessions.iter().map(|(id, session)| ClientStatus {
            id: *id,
            peer: &session.peer,
            since: session.since,
            configured: session.is_configured(),
            queued_bytes: session.queued_bytes(),
            frames_sent: session.frames_sent,
            frames_received: session.frames_received,
            noise: session.noise,
        })
    }

    /// Counters since the start.
    pub fn counters(&self) -> RelayCounters {
        let (backlog, backlog_dropped) = (self.backlog.len(), self.backlog.dropped());
        RelayCounters { backlog, backlog_dropped, ..self.counters }
    }

    /// Where the newest packet stands to which its client gave this id, or was told it; `None` if
    /// it is not among the last 1,024.
    pub fn fate(&self, id: u32) -> Option<PacketState> {
        self.ledger.fate(id)
    }

    /// A client's frame.
    fn handle_to_radio(&mut self, now: Instant, client: ClientId, payload: &[u8]) {
        let own = self.snapshot.as_ref().map(Snapshot::node);
        let Some(session) = self.sessions.get_mut(&client) else { return };
        session.frames_received += 1;
        let message = ToRadio::decode(payload).ok().and_then(|message| message.payload_variant);
        let Some(variant) = message else { return };
        if session.peer.policy.admits(payload, own) == Verdict::Refused {
            self.refuse(now, client, variant);
            return;
        }
        match variant {
            PayloadVariant::WantConfigId(nonce) => {
                session.ask(now, nonce, self.config.handshakes_per_minute);
                // What a pause of the old handshake had kept back.
                if session.pending().next().is_some() {
                    session.announce(client, &mut self.actions);
                }
                self.serve_asked(now);
            }
            PayloadVariant::Heartbeat(_) => {
                let answer = answers::queue_status(0, session.free.max(1), 0);
                self.push(client, &answer);
            }
            PayloadVariant::Disconnect(_) => {
                debug!(target: "relay", "client {client} {}: says goodbye", session.peer.label);
                self.sessions.remove(&client);
                self.actions.push_back(Action::Close(client));
            }
            PayloadVariant::Packet(_) => {
                let sender = session.sender;
                self.wishes.push_back(Wish::packet(client, sender, payload));
            }
            PayloadVariant::XmodemPacket(_) => {
                self.xmodem = Some(client);
                self.wish_to_forward(client, payload);
            }
            PayloadVariant::MqttClientProxyMessage(_) => {
                self.mqtt = Some(client);
                self.wish_to_forward(client, payload);
            }
        }
    }

    /// Tells a client that it may not send this.
    fn refuse(&mut self, now: Instant, client: ClientId, variant: PayloadVariant) {
        self.counters.refused += 1;
        match variant {
            PayloadVariant::Packet(MeshPacket { id, .. }) => {
                self.push_routing_error(now, client, id, routing::Error::NotAuthorized as i32);
            }
            PayloadVariant::XmodemPacket(_) => self.push(client, &answers::transfer_cancelled()),
            _ => {}
        }
    }

    /// Answers all that have asked for the configuration and need not wait any longer.
    fn serve_asked(&mut self, now: Instant) {
        let Some(snapshot) = &self.snapshot else { return };
        let due: Vec<_> = self
            .sessions
            .iter()
            .filter_map(|(id, session)| Some((*id, session.asked?)))
            .filter(|(_, asked)| now >= self.served_at(*asked))
            .collect();
        for (client, asked) in due {
            let Some(session) = self.sessions.get_mut(&client) else { continue };
            session.answer(handshake(snapshot, session.peer.policy, asked.nonce));
            session.announce(client, &mut self.actions);
            self.counters.handshakes += 1;
        }
    }

    /// When a question for the configuration is answered at the latest.
    fn served_at(&self, asked: Asked) -> Instant {
        match self.dirty {
            Some(_) if self.is_up => asked.not_before.max(asked.at + CHANGE_WAIT),
            _ => asked.not_before,
        }
    }

    /// What came while no client was there goes to the first that is.
    fn give_backlog(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        let policy = session.peer.policy;
        for frame in self.backlog.take() {
            let told = |snapshot: &Snapshot| snapshot.replays().any(|replay| *replay == frame);
            if self.snapshot.as_ref().is_some_and(told) {
                continue;
            }
            if let Some(frame) = shown(policy, &frame) {
                session.push(frame);
            }
        }
        session.announce(client, &mut self.actions);
    }

    /// Queues a payload for one client.
    fn push(&mut self, client: ClientId, payload: &[u8]) {
        if let Some(frame) = wire::framed(payload) {
            self.push_frame(client, frame.into());
        }
    }

    /// Queues a frame for one client; cuts it off if it does not read.
    fn push_frame(&mut self, client: ClientId, frame: Rc<[u8]>) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        session.push(frame);
        session.announce(client, &mut self.actions);
        let waiting = session.queued_bytes();
        if waiting > self.config.max_queued {
            let label = &session.peer.label;
            info!(
                target: "relay",
                "client {client} {label}: cut off, it does not read ({waiting} bytes wait)"
            );
            self.counters.cut_off += 1;
            self.sessions.remove(&client);
            self.actions.push_back(Action::Close(client));
        }
    }

    /// Tells a client by a Routing reply what went wrong with its packet.
    fn push_routing_error(&mut self, now: Instant, client: ClientId, request: u32, error: i32) {
        let own = self.snapshot.as_ref().map_or(0, Snapshot::node);
        let id = self.plain_id();
        let time = self.unix_time(now);
        self.push(client, &answers::routing_error(own, id, request, error, time));
    }

    /// Seconds since 1970.
    fn unix_time(&self, now: Instant) -> u32 {
        u32::try_from((self.unix_ms + now.as_millis()) / 1000).unwrap_or(u32::MAX)
    }

    /// A packet id without a byte of the magic: two of the official clients search payloads for it.
    fn plain_id(&mut self) -> u32 {
        self.rng.next_u32() & 0x7F7F_7F7F | 1
    }
}

/// The frames that answer a question for the configuration.
fn handshake(snapshot: &Snapshot, policy: Policy, nonce: u32) -> VecDeque<Step> {
    let ask = Ask::from_nonce(nonce);
    let mut steps = VecDeque::new();
    for frame in snapshot.handshake(ask) {
        let Some(frame) = shown(policy, frame) else { continue };
        let is_node = payload_of(&frame).first() == Some(&NODE_INFO_KEY);
        steps.push_back(Step::Frame(frame));
        if is_node && ask == Ask::ConfigOnly {
            steps.push_back(Step::Pause);
        }
    }
    steps.extend(wire::framed(&answers::config_complete(nonce)).map(|f| Step::Frame(f.into())));
    if ask != Ask::ConfigOnly {
        let replays = snapshot.replays().filter_map(|frame| shown(policy, frame));
        steps.extend(replays.map(Step::Frame));
    }
    steps
}

/// The key of `FromRadio.node_info`.
const NODE_INFO_KEY: u8 = peek::NODE_INFO << 3 | 2;

/// A frame as a client with this policy may see it; `None` if it may not.
fn shown(policy: Policy, frame: &Rc<[u8]>) -> Option<Rc<[u8]>> {
    if policy == Policy::Full {
        return Some(frame.clone());
    }
    let payload = payload_of(frame);
    policy
        .sees(payload)
        .then(|| policy.show(payload))
        .and_then(|payload| wire::framed(&payload))
        .map(Rc::from)
}

fn payload_of(frame: &[u8]) -> &[u8] {
    frame.get(meshbeat_core::frame::HEADER_LEN..).unwrap_or(&[])
}

/// When a client that is configured has been quiet for too long; one that has something to read is
/// not.
fn keep_alive_due(session: &Session) -> Option<Instant> {
    let idle = session.phase == Phase::Live && session.pending().next().is_none();
    let due = (session.last_written + KEEP_ALIVE).as_millis();
    let step = KEEP_ALIVE_STEP.as_millis() as u64;
    idle.then(|| Instant::from_millis(due.next_multiple_of(step)))
}
