//! What the programs around the official Rust client library have in common.

use std::collections::HashSet;
use std::convert::Infallible;
use std::error::Error;
use std::io::Write;

use meshtastic::Message;
use meshtastic::api::{ConnectedStreamApi, StreamApi};
use meshtastic::packet::{PacketReceiver, PacketRouter};
use meshtastic::protobufs::{
    FromRadio, MeshPacket, PortNum, QueueStatus, Routing, from_radio, mesh_packet, routing,
};
use meshtastic::types::NodeId;
use meshtastic::utils;
use serde_json::Value;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Connects and takes the whole configuration.
pub async fn connect(address: String) -> Result<(Peer, ConnectedStreamApi)> {
    let stream = utils::stream::build_tcp_stream(address).await?;
    let (packets, api) = StreamApi::new().connect(stream).await;
    let config_id = loop {
        let id = utils::generate_rand_id();
        if !holds_magic(id) {
            break id;
        }
    };
    let api = api.configure(config_id).await?;
    let mut peer = Peer { packets, node_num: 0, nodes: 0, channels: 0, last_sent: 0 };
    peer.configured(config_id).await?;
    Ok((peer, api))
}

/// What a program keeps beside the library.
pub struct Peer {
    packets: PacketReceiver,
    /// 0 until `my_info` has come.
    pub node_num: u32,
    /// Other nodes, and channels, of the configuration.
    pub nodes: usize,
    pub channels: usize,
    /// Id of the packet sent last: the library makes it up and tells only its `PacketRouter`.
    pub last_sent: u32,
}

impl Peer {
    /// The next message; fails once the connection is gone.
    pub async fn next(&mut self) -> Result<from_radio::PayloadVariant> {
        loop {
            let message = self.packets.recv().await.ok_or("the node closed the connection")?;
            if let Some(variant) = message.payload_variant {
                return Ok(variant);
            }
        }
    }

    /// Reads up to `config_complete_id`.
    async fn configured(&mut self, config_id: u32) -> Result<()> {
        let mut nodes = HashSet::new();
        loop {
            match self.next().await? {
                from_radio::PayloadVariant::MyInfo(info) => self.node_num = info.my_node_num,
                from_radio::PayloadVariant::NodeInfo(node) => _ = nodes.insert(node.num),
                from_radio::PayloadVariant::Channel(_) => self.channels += 1,
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
        self.nodes = nodes.len();
        Ok(())
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

/// The library takes `94 C3` inside a payload for the start of another frame and drops the payload.
/// An id stands in payloads as a varint and as four bytes, little endian.
pub fn holds_magic(id: u32) -> bool {
    let varint = QueueStatus { mesh_packet_id: id, ..QueueStatus::default() }.encode_to_vec();
    [varint.as_slice(), &id.to_le_bytes()]
        .iter()
        .any(|bytes| bytes.windows(2).any(|pair| pair == [0x94, 0xC3]))
}

/// If `packet` is a Routing reply: the id of the packet that it is about, and what it says.
pub fn routing_reply(packet: &MeshPacket) -> Result<Option<(u32, routing::Error)>> {
    let Some(mesh_packet::PayloadVariant::Decoded(data)) = &packet.payload_variant else {
        return Ok(None);
    };
    if data.portnum() != PortNum::RoutingApp || data.request_id == 0 {
        return Ok(None);
    }
    match Routing::decode(data.payload.as_slice())?.variant {
        Some(routing::Variant::ErrorReason(reason)) => {
            Ok(Some((data.request_id, reason.try_into()?)))
        }
        other => Err(format!("Routing reply without an error reason: {other:?}").into()),
    }
}

/// The text that `packet` carries.
pub fn text_of(packet: &MeshPacket) -> Option<String> {
    match &packet.payload_variant {
        Some(mesh_packet::PayloadVariant::Decoded(data))
            if data.portnum() == PortNum::TextMessageApp =>
        {
            Some(String::from_utf8_lossy(&data.payload).into_owned())
        }
        _ => None,
    }
}

/// One line, flushed, so that a test can wait for it.
pub fn print(object: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{object}")?;
    Ok(out.flush()?)
}
