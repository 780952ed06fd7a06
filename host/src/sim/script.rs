//! What the tests of the simulated node are written with: a node, clients and a clock that jumps
//! from deadline to deadline, so that a test reads as a script with a time column.

use core::time::Duration;
use std::collections::BTreeMap;

use meshbeat_core::frame::{FrameLen, HEADER_LEN, MAGIC};
use meshbeat_core::time::Instant;
use meshbeat_proto::{
    Data, FromRadio, Heartbeat, MeshPacket, PortNum, Routing, ToRadio, from_radio, mesh_packet,
    routing, to_radio,
};
use prost::Message;

use super::{Action, ConnId, How, Listening, SimConfig, SimNode};
use crate::dest::BROADCAST;

/// A node, its clients and the time.
pub(super) struct Bench {
    pub(super) node: SimNode,
    now: Instant,
    /// Times of the script count from here.
    zero: Instant,
    clients: BTreeMap<ConnId, Peer>,
    pub(super) doors: Vec<(u64, Listening)>,
}

#[derive(Default)]
struct Peer {
    bytes: Vec<u8>,
    /// How many bytes had come by when.
    arrivals: Vec<(usize, Instant)>,
    /// Bytes that [`Bench::told`] has told about.
    told: usize,
    closed: Option<(Instant, How)>,
    deaf: bool,
}

/// A node that knows three others, reads without delay and replays nothing.
pub(super) fn plain() -> SimConfig {
    let mut config = SimConfig::default();
    config.identity.nodes = 3;
    config.identity.replays = false;
    config.timing.input_delay = Duration::ZERO;
    config
}

impl Bench {
    pub(super) fn new(config: SimConfig) -> Self {
        Self {
            node: SimNode::new(config, 1),
            now: Instant::ORIGIN,
            zero: Instant::ORIGIN,
            clients: BTreeMap::new(),
            doors: Vec::new(),
        }
    }

    /// A plain node with a client past its handshake and its first unasked status; time 0.
    pub(super) fn live() -> (Self, ConnId) {
        Self::live_with(plain())
    }

    pub(super) fn live_with(config: SimConfig) -> (Self, ConnId) {
        let mut bench = Self::new(config);
        let conn = bench.configured();
        bench.zero();
        (bench, conn)
    }

    /// A new client past its handshake.
    pub(super) fn configured(&mut self) -> ConnId {
        let conn = self.connect();
        self.send(conn, to_radio::PayloadVariant::WantConfigId(7));
        self.run(400);
        assert!(self.node.is_configured(), "{:?}", self.told(conn));
        self.told(conn);
        conn
    }

    pub(super) fn connect(&mut self) -> ConnId {
        let conn = ConnId(self.clients.len() as u64 + 1);
        self.clients.insert(conn, Peer::default());
        self.node.handle_connect(self.now, conn);
        self.drain();
        conn
    }

    /// Times of the script count from now.
    pub(super) fn zero(&mut self) {
        self.zero = self.now;
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn send(&mut self, conn: ConnId, variant: to_radio::PayloadVariant) {
        let payload = ToRadio { payload_variant: Some(variant) }.encode_to_vec();
        let mut frame = FrameLen::new(payload.len()).expect("short").header().to_vec();
        frame.extend(payload);
        self.write(conn, &frame);
    }

    pub(super) fn write(&mut self, conn: ConnId, bytes: &[u8]) {
        let taken = self.node.handle_bytes(self.now, conn, bytes);
        assert_eq!(taken, bytes.len(), "the node has no room");
        self.drain();
    }

    pub(super) fn beat(&mut self, conn: ConnId, nonce: u32) {
        self.send(conn, to_radio::PayloadVariant::Heartbeat(Heartbeat { nonce }));
    }

    /// Sends a text to all; `id` is its packet id.
    pub(super) fn text(&mut self, conn: ConnId, id: u32) {
        self.packet(conn, text(id));
    }

    pub(super) fn packet(&mut self, conn: ConnId, packet: MeshPacket) {
        self.send(conn, to_radio::PayloadVariant::Packet(packet));
    }

    pub(super) fn inject(&mut self, fault: &str) {
        self.node.inject(self.now, fault.parse().expect("a fault of the catalogue"));
        self.drain();
    }

    /// The client stops reading.
    pub(super) fn deafen(&mut self, conn: ConnId) {
        self.clients.entry(conn).or_default().deaf = true;
    }

    /// The client closes its side.
    pub(super) fn fin(&mut self, conn: ConnId) {
        self.node.handle_fin(self.now, conn);
        self.drain();
    }

    /// Lets `millis` pass.
    pub(super) fn run(&mut self, millis: u64) {
        self.run_until_instant(self.now + Duration::from_millis(millis));
    }

    /// Lets the time pass up to `millis` of the script.
    pub(super) fn run_to(&mut self, millis: u64) {
        self.run_until_instant(self.zero + Duration::from_millis(millis));
    }

    fn run_until_instant(&mut self, end: Instant) {
        self.drain();
        let mut at_once = 0;
        while let Some(due) = self.node.poll_timeout().filter(|due| *due <= end) {
            at_once = if due <= self.now { at_once + 1 } else { 0 };
            assert!(at_once < 100, "the node spins at {:?}: {:#?}", self.now, self.node);
            self.now = self.now.max(due);
            self.node.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn drain(&mut self) {
        loop {
            while let Some(action) = self.node.poll_action() {
                match action {
                    Action::Close { conn, how } => {
                        let peer = self.clients.get_mut(&conn).expect("a known connection");
                        assert_eq!(peer.closed.replace((self.now, how)), None, "closed once");
                    }
                    Action::Listen(listening) => {
                        self.doors.push((self.now.since(self.zero).as_millis() as u64, listening));
                    }
                }
            }
            let Some(conn) = self.node.client() else {
                return;
            };
            let peer = self.clients.get_mut(&conn).expect("a known connection");
            let bytes = self.node.poll_transmit(self.now, conn);
            if bytes.is_empty() || peer.deaf {
                return;
            }
            peer.bytes.extend(bytes);
            peer.arrivals.push((peer.bytes.len(), self.now));
            let count = bytes.len();
            self.node.consume(self.now, conn, count);
        }
    }

    /// When, on the script's clock, and how the node closed the connection.
    pub(super) fn closed(&self, conn: ConnId) -> Option<(u64, How)> {
        let (at, how) = self.clients.get(&conn)?.closed?;
        Some((at.since(self.zero).as_millis() as u64, how))
    }

    /// All bytes that came.
    pub(super) fn bytes(&self, conn: ConnId) -> &[u8] {
        self.clients.get(&conn).map_or(&[], |peer| &peer.bytes)
    }

    /// Everything whole that came since the last call: when, and what in a few words.
    pub(super) fn told(&mut self, conn: ConnId) -> Vec<(u64, String)> {
        let own = self.node.node_num();
        let Some(peer) = self.clients.get_mut(&conn) else {
            return Vec::new();
        };
        let mut told = Vec::new();
        while let Some((end, variant)) = next_frame(&peer.bytes, peer.told) {
            peer.told = end;
            let at = peer.arrivals.iter().find(|(len, _)| *len >= end).expect("it arrived").1;
            told.push((at.since(self.zero).as_millis() as u64, describe(&variant, own)));
        }
        told
    }

    /// [`Bench::told`] without the times.
    pub(super) fn words(&mut self, conn: ConnId) -> Vec<String> {
        self.told(conn).into_iter().map(|(_, words)| words).collect()
    }
}

/// A text to all.
pub(super) fn text(id: u32) -> MeshPacket {
    packet(id, BROADCAST, PortNum::TextMessageApp, b"hello".to_vec())
}

pub(super) fn packet(id: u32, to: u32, port: PortNum, payload: Vec<u8>) -> MeshPacket {
    let data = Data { portnum: port as i32, payload, ..Data::default() };
    MeshPacket {
        id,
        to,
        hop_limit: 3,
        payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
        ..MeshPacket::default()
    }
}

/// The first whole and valid frame at or after `from`, and where it ends.
fn next_frame(bytes: &[u8], from: usize) -> Option<(usize, from_radio::PayloadVariant)> {
    (from..bytes.len()).find_map(|at| {
        let header = bytes.get(at..at + HEADER_LEN).filter(|header| header[..2] == MAGIC)?;
        let len = FrameLen::from_header([header[2], header[3]])?;
        let payload = bytes.get(at + HEADER_LEN..at + len.frame())?;
        let variant = FromRadio::decode(payload).ok()?.payload_variant?;
        Some((at + len.frame(), variant))
    })
}

fn describe(variant: &from_radio::PayloadVariant, own: u32) -> String {
    use from_radio::PayloadVariant as Variant;
    match variant {
        Variant::QueueStatus(s) => {
            format!("status {} res {} free {}", s.mesh_packet_id, s.res, s.free)
        }
        Variant::ConfigCompleteId(nonce) => format!("complete {nonce}"),
        Variant::ClientNotification(n) => format!("notification {}", n.reply_id.unwrap_or(0)),
        Variant::Packet(packet) => {
            let Some(mesh_packet::PayloadVariant::Decoded(data)) = &packet.payload_variant else {
                return "encrypted".into();
            };
            let who = if packet.from == own { "own" } else { "other" };
            match PortNum::try_from(data.portnum) {
                Ok(PortNum::RoutingApp) => {
                    let routing = Routing::decode(&data.payload[..]).expect("our own");
                    let Some(routing::Variant::ErrorReason(error)) = routing.variant else {
                        return "route".into();
                    };
                    format!("routing {} error {error} from {who}", data.request_id)
                }
                Ok(PortNum::TextMessageApp) => format!("text {}", packet.id),
                _ => format!("port {} from {who}", data.portnum),
            }
        }
        Variant::MyInfo(info) => format!("my_info {}", info.my_node_num),
        Variant::NodeInfo(info) => format!("node_info {}", info.num),
        other => {
            let words = format!("{other:?}");
            words.split('(').next().unwrap_or_default().to_owned()
        }
    }
}
