//! The relay as scripts: a simulated node, the link to it, and clients that speak frames; a clock
//! that jumps from deadline to deadline.

mod faults;
mod news;
mod sending;
mod sessions;

use meshbeat_core::LinkConfig;
use meshbeat_core::decoder::{self, Decoder};
use meshbeat_core::fault::{Class, Fault};
use meshbeat_core::frame::{self, MAX_FRAME};
use meshbeat_core::link::{Event, Item, Link, Transmit};
use meshbeat_proto::admin_message::PayloadVariant as Admin;
use meshbeat_proto::from_radio::PayloadVariant as Variant;
use meshbeat_proto::{
    AdminMessage, Data, FromRadio, Heartbeat, PortNum, Routing, mesh_packet, text,
};

use super::*;
use crate::sim::{self, ConnId, Record, SimConfig, SimNode};
use crate::upstream::HostLink;

const ALL: u32 = u32::MAX;

/// A node, the link to it, a relay and its clients.
struct Bench {
    relay: Relay,
    link: HostLink,
    node: SimNode,
    now: Instant,
    conn: Option<ConnId>,
    conns: u64,
    /// Bytes of the node that are read at once.
    reads: usize,
    clients: BTreeMap<ClientId, Client>,
}

/// The other end of a client's socket.
#[derive(Default)]
struct Client {
    decoder: Box<Decoder>,
    payloads: Vec<Vec<u8>>,
    /// It does not read.
    deaf: bool,
    /// Bytes it takes with one read.
    takes: Option<usize>,
    closed: bool,
}

/// A node that knows three others, reads without delay, replays nothing and limits no rates.
fn plain() -> SimConfig {
    let mut config = SimConfig::default();
    config.identity.nodes = 3;
    config.identity.replays = false;
    config.timing.input_delay = Duration::ZERO;
    config
}

impl Bench {
    fn new(node: SimConfig, config: RelayConfig) -> Self {
        let mut link_config = LinkConfig::default();
        link_config.outbox.quota = 100;
        Self {
            relay: Relay::new(config, 7, 1_763_000_000_000),
            link: Link::new(link_config.check().unwrap(), 1),
            node: SimNode::new(node, 1),
            now: Instant::ORIGIN,
            conn: None,
            conns: 0,
            reads: usize::MAX,
            clients: BTreeMap::new(),
        }
    }

    /// Up at a plain node, in quiet: ten seconds after the start.
    fn up() -> Self {
        Self::up_with(plain(), RelayConfig::default())
    }

    fn up_with(node: SimConfig, config: RelayConfig) -> Self {
        let mut bench = Self::new(node, config);
        bench.link.open(bench.now);
        bench.run(10_000);
        assert!(bench.link.state().is_up());
        bench
    }

    fn connect(&mut self) -> ClientId {
        self.connect_as(Policy::Full)
    }

    fn connect_as(&mut self, policy: Policy) -> ClientId {
        let peer = Peer { label: "test".into(), policy, observer: false };
        let id = self.relay.handle_connect(self.now, peer).unwrap();
        self.clients.insert(id, Client::default());
        id
    }

    /// A client past its handshake, of which it keeps nothing.
    fn configured(&mut self) -> ClientId {
        self.configured_as(Policy::Full)
    }

    fn configured_as(&mut self, policy: Policy) -> ClientId {
        let client = self.connect_as(policy);
        self.want_config(client, 5);
        assert!(self.words(client).contains(&"complete 5".to_owned()));
        client
    }

    fn want_config(&mut self, client: ClientId, nonce: u32) {
        self.say(client, PayloadVariant::WantConfigId(nonce));
    }

    fn beat(&mut self, client: ClientId) {
        self.say(client, PayloadVariant::Heartbeat(Heartbeat { nonce: 0 }));
    }

    fn say(&mut self, client: ClientId, variant: PayloadVariant) {
        let payload = ToRadio { payload_variant: Some(variant) }.encode_to_vec();
        let frame = frame::encode(&payload, &mut [0; MAX_FRAME]).unwrap().to_vec();
        self.write(client, &frame);
    }

    fn write(&mut self, client: ClientId, bytes: &[u8]) {
        self.relay.handle_bytes(self.now, client, bytes);
        self.settle();
    }

    /// A text to all under this id.
    fn text(&mut self, client: ClientId, id: u32, line: &str) {
        self.packet(client, text_packet(id, line));
    }

    fn packet(&mut self, client: ClientId, packet: MeshPacket) {
        self.say(client, PayloadVariant::Packet(packet));
    }

    /// An admin message to the own node.
    fn admin(&mut self, client: ClientId, id: u32, message: Admin) {
        let message = AdminMessage { payload_variant: Some(message), ..AdminMessage::default() };
        let to = self.node.node_num();
        self.packet(client, data_packet(to, id, PortNum::AdminApp, message.encode_to_vec()));
    }

    /// The node hears a text of another.
    fn hear(&mut self, from: u32, id: u32, line: &str) {
        let mut packet = text_packet(id, line);
        (packet.from, packet.rx_time) = (from, 1_763_000_000);
        self.node.hear(self.now, packet);
        self.settle();
        self.run(300);
    }

    /// The link breaks; the node is back `ms` later.
    fn break_link(&mut self, ms: u64) {
        self.node.inject(self.now, sim::Fault::Refuse { span: Duration::from_millis(ms) });
        self.settle();
    }

    /// Lets time pass, deadline by deadline.
    fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        for _ in 0..1_000_000 {
            self.settle();
            let next =
                [self.link.poll_timeout(), self.relay.poll_timeout(), self.node.poll_timeout()]
                    .into_iter()
                    .flatten()
                    .min();
            match next {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => {
                    self.now = end;
                    return;
                }
            }
            self.node.handle_timeout(self.now);
            self.link.handle_timeout(self.now);
            self.relay.handle_timeout(self.now);
        }
        panic!("no end at {:?}", self.now);
    }

    /// All that can be done now.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = self.act_node();
            moved |= self.read_node();
            moved |= self.drain_link();
            moved |= self.drain_relay();
            if !moved {
                return;
            }
        }
        panic!("it does not settle at {:?}", self.now);
    }

    fn act_node(&mut self) -> bool {
        let mut moved = false;
        while let Some(action) = self.node.poll_action() {
            moved = true;
            if let sim::Action::Close { conn, how } = action
                && self.conn == Some(conn)
            {
                let class = match how {
                    sim::How::Fin => Class::ClosedByPeer,
                    sim::How::Rst => Class::ConnectionReset,
                };
                self.conn = None;
                self.link.handle_closed(self.now, Fault::new(class));
            }
        }
        moved
    }

    fn read_node(&mut self) -> bool {
        let Some(conn) = self.conn else { return false };
        let mut bytes = self.node.poll_transmit(self.now, conn).to_vec();
        bytes.truncate(self.reads);
        self.node.consume(self.now, conn, bytes.len());
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let received = self.link.handle_bytes(self.now, rest);
            rest = &rest[received.taken..];
            if let Some(Item::Frame { payload, message, configured }) = received.item {
                self.relay.handle_frame(self.now, payload, message, configured);
            }
        }
        !bytes.is_empty()
    }

    fn drain_link(&mut self) -> bool {
        let mut moved = false;
        while let Some(event) = self.link.poll_event() {
            moved = true;
            match event {
                Event::OpenDue => {
                    self.conns += 1;
                    let conn = ConnId(self.conns);
                    self.conn = Some(conn);
                    self.node.handle_connect(self.now, conn);
                    self.link.handle_opened(self.now);
                }
                Event::Lost { .. } | Event::Closed => self.conn = None,
                _ => {}
            }
            self.relay.handle_event(self.now, event);
        }
        self.relay.handle_turn(self.now, &mut self.link);
        let mut wire = Vec::new();
        while let Ok(Transmit::Wrote(_)) = self.link.poll_transmit(self.now, &mut wire) {}
        if let Some(conn) = self.conn.filter(|_| !wire.is_empty()) {
            self.node.handle_bytes(self.now, conn, &wire);
        }
        moved | !wire.is_empty()
    }

    fn drain_relay(&mut self) -> bool {
        let mut moved = false;
        while let Some(action) = self.relay.poll_action() {
            moved = true;
            match action {
                Action::Close(id) => self.clients.get_mut(&id).unwrap().closed = true,
                Action::Write(id) => self.read_client(id),
            }
        }
        moved
    }

    fn read_client(&mut self, id: ClientId) {
        let client = self.clients.get_mut(&id).unwrap();
        while !client.deaf {
            let mut bytes: Vec<u8> = self.relay.pending(id).flatten().copied().collect();
            bytes.truncate(client.takes.unwrap_or(usize::MAX));
            if bytes.is_empty() {
                return;
            }
            self.relay.consume(self.now, id, bytes.len());
            client.read(&bytes);
        }
    }

    /// What a client has been told since it was asked last.
    fn payloads(&mut self, id: ClientId) -> Vec<Vec<u8>> {
        self.settle();
        core::mem::take(&mut self.clients.get_mut(&id).unwrap().payloads)
    }

    /// The same in words.
    fn words(&mut self, id: ClientId) -> Vec<String> {
        self.payloads(id).iter().map(|payload| words(payload)).collect()
    }

    fn is_closed(&self, id: ClientId) -> bool {
        self.clients[&id].closed
    }

    /// Ids of the packets that the node has taken from its client, in order.
    fn taken(&self) -> Vec<u32> {
        let records = self.node.log().entries().map(|entry| &entry.what);
        records
            .filter_map(|record| match record {
                Record::Taken(id) => Some(*id),
                _ => None,
            })
            .collect()
    }
}

impl Client {
    fn read(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        loop {
            let decoded = self.decoder.decode(rest);
            rest = &rest[decoded.taken..];
            match decoded.item {
                Some(decoder::Item::Frame(payload)) => self.payloads.push(payload.to_vec()),
                Some(decoder::Item::Noise(noise)) => panic!("the relay wrote noise: {noise:02x?}"),
                None if rest.is_empty() => return,
                None => {}
            }
        }
    }
}

fn text_packet(id: u32, line: &str) -> MeshPacket {
    data_packet(ALL, id, PortNum::TextMessageApp, line.as_bytes().to_vec())
}

fn data_packet(to: u32, id: u32, port: PortNum, payload: Vec<u8>) -> MeshPacket {
    let data = Data { portnum: port as i32, payload, ..Data::default() };
    let variant = Some(mesh_packet::PayloadVariant::Decoded(data));
    MeshPacket { to, id, hop_limit: 3, payload_variant: variant, ..MeshPacket::default() }
}

/// A frame of the relay in a few words.
fn words(payload: &[u8]) -> String {
    let message = FromRadio::decode(payload).expect("the relay writes messages");
    match message.payload_variant {
        None => "nothing".into(),
        Some(Variant::MyInfo(_)) => "my_info".into(),
        Some(Variant::NodeInfo(_)) => "node_info".into(),
        Some(Variant::ConfigCompleteId(nonce)) => format!("complete {nonce}"),
        Some(Variant::QueueStatus(s)) => {
            format!("status {} res {} free {}", s.mesh_packet_id, s.res, s.free)
        }
        Some(Variant::ClientNotification(n)) => match n.reply_id {
            Some(id) => format!("notice about {id}"),
            None => format!("notice: {}", text(&n.message)),
        },
        Some(Variant::Packet(packet)) => packet_words(&packet),
        Some(_) => peek::FromRadio::peek(payload).map_or("", |m| m.name()).into(),
    }
}

fn packet_words(packet: &MeshPacket) -> String {
    let Some(mesh_packet::PayloadVariant::Decoded(data)) = &packet.payload_variant else {
        return "encrypted".into();
    };
    match PortNum::try_from(data.portnum) {
        Ok(PortNum::TextMessageApp) => format!("text {} {}", packet.id, text(&data.payload)),
        Ok(PortNum::RoutingApp) => {
            let reply = Routing::decode(&data.payload[..]).unwrap();
            match reply.variant {
                Some(routing::Variant::ErrorReason(error)) => {
                    let name = routing::Error::try_from(error).unwrap().as_str_name();
                    format!("routing {} {name}", data.request_id)
                }
                other => format!("routing {} {other:?}", data.request_id),
            }
        }
        Ok(port) => format!("{} {}", port.as_str_name(), data.request_id),
        Err(_) => format!("port {}", data.portnum),
    }
}
