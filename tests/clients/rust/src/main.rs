//! The official Rust client library as a test peer: connects, takes the whole configuration, says
//! what it saw, sends, listens, leaves.
//!
//! ```text
//! client HOST:PORT [--send TEXT] [--expect-nodes N] [--listen COUNT] [--timeout S]
//! ```
//!
//! Standard output, one JSON object per line: `{"nodes","myNodeNum","channels"}` once configured
//! (`nodes` without the own one), `{"sent"}` once a sent text was queued and acknowledged,
//! `{"text","from","to","channel","id"}` per received text. Exit 1 with one line on any error, 75
//! if the library drew a packet id whose answers it cannot read: start again.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use meshtastic::Message;
use meshtastic::api::{ConnectedStreamApi, StreamApi};
use meshtastic::packet::{PacketDestination, PacketReceiver, PacketRouter};
use meshtastic::protobufs::{
    FromRadio, MeshPacket, PortNum, QueueStatus, Routing, from_radio, mesh_packet, routing,
};
use meshtastic::types::{MeshChannel, NodeId};
use meshtastic::utils;
use serde_json::{Value, json};

const USAGE: &str =
    "client HOST:PORT [--send TEXT] [--expect-nodes N] [--listen COUNT] [--timeout S]";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match Options::from_args(std::env::args().skip(1)) {
        Ok(options) => {
            let timeout = options.timeout;
            tokio::time::timeout(timeout, run(options))
                .await
                .unwrap_or_else(|_| Err(format!("not done within {timeout:?}").into()))
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client: {error}");
            ExitCode::from(if error.is::<UnreadableId>() { 75 } else { 1 })
        }
    }
}

struct Options {
    address: String,
    send: Option<String>,
    expect_nodes: usize,
    listen: usize,
    timeout: Duration,
}

impl Options {
    fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            address: String::new(),
            send: None,
            expect_nodes: 0,
            listen: 0,
            timeout: Duration::from_secs(60),
        };
        while let Some(arg) = args.next() {
            if !arg.starts_with("--") && options.address.is_empty() {
                options.address = arg;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("usage: {USAGE}"))?;
            let number = || value.parse().map_err(|_| format!("{arg}: {value:?} is not a number"));
            match arg.as_str() {
                "--send" => options.send = Some(value),
                "--expect-nodes" => options.expect_nodes = number()?,
                "--listen" => options.listen = number()?,
                "--timeout" => options.timeout = Duration::from_secs(number()? as u64),
                _ => return Err(format!("usage: {USAGE}").into()),
            }
        }
        if options.address.is_empty() {
            return Err(format!("usage: {USAGE}").into());
        }
        Ok(options)
    }
}

async fn run(options: Options) -> Result<()> {
    let stream = utils::stream::build_tcp_stream(options.address).await?;
    let (packets, api) = StreamApi::new().connect(stream).await;
    let config_id = loop {
        let id = utils::generate_rand_id();
        if !holds_magic(id) {
            break id;
        }
    };
    let mut api = api.configure(config_id).await?;
    let mut peer = Peer { packets, node_num: 0, last_sent: 0, texts: VecDeque::new() };

    let (nodes, channels) = peer.configured(config_id).await?;
    print(&json!({ "nodes": nodes, "myNodeNum": peer.node_num, "channels": channels }))?;
    if nodes < options.expect_nodes {
        let expected = options.expect_nodes;
        return Err(format!("{nodes} other nodes, expected at least {expected}").into());
    }
    if let Some(text) = options.send {
        let id = peer.send(&mut api, text).await?;
        print(&json!({ "sent": id }))?;
    }
    for _ in 0..options.listen {
        print(&peer.next_text().await?)?;
    }
    api.disconnect().await?;
    Ok(())
}

/// What this program keeps beside the library.
struct Peer {
    packets: PacketReceiver,
    /// 0 until `my_info` has come.
    node_num: u32,
    /// Id of the packet sent last: the library makes it up and tells only its `PacketRouter`.
    last_sent: u32,
    /// Texts that came while something else was awaited.
    texts: VecDeque<Value>,
}

impl Peer {
    /// Reads up to `config_complete_id`: the number of other nodes, and of channels.
    async fn configured(&mut self, config_id: u32) -> Result<(usize, usize)> {
        let mut nodes = HashSet::new();
        let mut channels = 0;
        loop {
            match self.next().await? {
                from_radio::PayloadVariant::MyInfo(info) => self.node_num = info.my_node_num,
                from_radio::PayloadVariant::NodeInfo(node) => _ = nodes.insert(node.num),
                from_radio::PayloadVariant::Channel(_) => channels += 1,
                from_radio::PayloadVariant::ConfigCompleteId(id) if id == config_id => break,
                from_radio::PayloadVariant::ConfigCompleteId(id) => {
                    return Err(format!("config_complete_id is {id}, asked for {config_id}").into());
                }
                _ => {}
            }
        }
        if self.node_num == 0 {
            return Err("configured without my_info".into());
        }
        if !nodes.remove(&self.node_num) {
            return Err("configured without the own node_info".into());
        }
        Ok((nodes.len(), channels))
    }

    /// Sends a broadcast with `want_ack`; done when its queue status and its Routing reply came.
    async fn send(&mut self, api: &mut ConnectedStreamApi, text: String) -> Result<u32> {
        let channel = MeshChannel::new(0)?;
        api.send_text(self, text, PacketDestination::Broadcast, true, channel).await?;
        let id = self.last_sent;
        if holds_magic(id) {
            return Err(UnreadableId(id).into());
        }
        let (mut queued, mut acknowledged) = (false, false);
        while !(queued && acknowledged) {
            match self.next().await? {
                from_radio::PayloadVariant::QueueStatus(status) if status.mesh_packet_id == id => {
                    if status.res != 0 {
                        return Err(format!("packet {id}: queue status {}", status.res).into());
                    }
                    queued = true;
                }
                from_radio::PayloadVariant::Packet(packet) => match routing_reply(&packet, id)? {
                    Some(routing::Error::None) => acknowledged = true,
                    Some(error) => return Err(format!("packet {id}: {error:?}").into()),
                    None => {}
                },
                _ => {}
            }
        }
        Ok(id)
    }

    async fn next_text(&mut self) -> Result<Value> {
        loop {
            if let Some(text) = self.texts.pop_front() {
                return Ok(text);
            }
            self.next().await?;
        }
    }

    /// The next message; texts among them are kept.
    async fn next(&mut self) -> Result<from_radio::PayloadVariant> {
        loop {
            let message = self.packets.recv().await.ok_or("the node closed the connection")?;
            let Some(variant) = message.payload_variant else { continue };
            if let from_radio::PayloadVariant::Packet(packet) = &variant {
                self.texts.extend(text_of(packet).filter(|_| packet.from != self.node_num));
            }
            return Ok(variant);
        }
    }
}

impl PacketRouter<(), Infallible> for Peer {
    fn handle_packet_from_radio(
        &mut self,
        _packet: FromRadio,
    ) -> std::result::Result<(), Infallible> {
        Ok(())
    }

    fn handle_mesh_packet(&mut self, packet: MeshPacket) -> std::result::Result<(), Infallible> {
        self.last_sent = packet.id;
        Ok(())
    }

    fn source_node_id(&self) -> NodeId {
        self.node_num.into()
    }
}

/// A packet id whose answers the library cannot read, see [`holds_magic`].
#[derive(Debug)]
struct UnreadableId(u32);

impl Error for UnreadableId {}

impl std::fmt::Display for UnreadableId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "packet id {} holds the frame magic", self.0)
    }
}

/// The library takes `94 C3` inside a payload for the start of another frame and drops the payload.
/// An id stands in payloads as a varint and as four bytes, little endian.
fn holds_magic(id: u32) -> bool {
    let varint = QueueStatus { mesh_packet_id: id, ..QueueStatus::default() }.encode_to_vec();
    [varint.as_slice(), &id.to_le_bytes()]
        .iter()
        .any(|bytes| bytes.windows(2).any(|pair| pair == [0x94, 0xC3]))
}

/// What `packet` says about the fate of the packet `id`, if it is the Routing reply to it.
fn routing_reply(packet: &MeshPacket, id: u32) -> Result<Option<routing::Error>> {
    let Some(mesh_packet::PayloadVariant::Decoded(data)) = &packet.payload_variant else {
        return Ok(None);
    };
    if data.portnum() != PortNum::RoutingApp || data.request_id != id {
        return Ok(None);
    }
    match Routing::decode(data.payload.as_slice())?.variant {
        Some(routing::Variant::ErrorReason(reason)) => Ok(Some(reason.try_into()?)),
        other => Err(format!("Routing reply without an error reason: {other:?}").into()),
    }
}

fn text_of(packet: &MeshPacket) -> Option<Value> {
    let Some(mesh_packet::PayloadVariant::Decoded(data)) = &packet.payload_variant else {
        return None;
    };
    (data.portnum() == PortNum::TextMessageApp).then(|| {
        json!({
            "text": String::from_utf8_lossy(&data.payload),
            "from": packet.from,
            "to": packet.to,
            "channel": packet.channel,
            "id": packet.id,
        })
    })
}

/// One line, flushed, so that a test can wait for it.
fn print(object: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{object}")?;
    Ok(out.flush()?)
}
