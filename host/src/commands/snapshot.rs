//! What a handshake tells of the node, its channels and the nodes it knows.

use std::collections::BTreeMap;

use meshbeat_proto::from_radio::PayloadVariant;
use meshbeat_proto::{
    Channel, Data, DeviceMetadata, MeshPacket, MyNodeInfo, NodeInfo, PortNum, Telemetry, User,
    channel, config, mesh_packet, telemetry, text,
};
use prost::Message as _;

/// What the frames of a handshake have told so far.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) my_info: MyNodeInfo,
    pub(super) metadata: Option<DeviceMetadata>,
    /// By number, the node itself among them.
    pub(super) nodes: BTreeMap<u32, NodeInfo>,
    /// Those in use, by index.
    pub(super) channels: BTreeMap<i32, Channel>,
    pub(super) lora: Option<config::LoRaConfig>,
}

/// Nodes kept at most; no node knows so many.
const MAX_NODES: usize = 10_000;
/// Channels kept at most; a node has 8.
const MAX_CHANNELS: usize = 64;

impl Snapshot {
    /// Takes in one message of the node.
    pub(super) fn take(&mut self, variant: PayloadVariant) {
        match variant {
            PayloadVariant::MyInfo(info) => self.my_info = info,
            PayloadVariant::Metadata(metadata) => self.metadata = Some(metadata),
            PayloadVariant::NodeInfo(node) if self.has_room_for(node.num) => {
                self.nodes.insert(node.num, node);
            }
            PayloadVariant::Channel(channel) if channel.role() == channel::Role::Disabled => {
                self.channels.remove(&channel.index);
            }
            PayloadVariant::Channel(channel) if self.channels.len() < MAX_CHANNELS => {
                self.channels.insert(channel.index, channel);
            }
            PayloadVariant::Config(config) => {
                if let Some(config::PayloadVariant::Lora(lora)) = config.payload_variant {
                    self.lora = Some(lora);
                }
            }
            PayloadVariant::Packet(packet) => self.hear(&packet),
            _ => {}
        }
    }

    /// The node's own number.
    pub(super) fn own(&self) -> u32 {
        self.my_info.my_node_num
    }

    /// The long name of a node, as it gave it, if that is known.
    pub(super) fn long_name(&self, number: u32) -> Option<String> {
        let user = self.nodes.get(&number)?.user.as_ref()?;
        Some(text(&user.long_name).into_owned()).filter(|name| !name.is_empty())
    }

    /// A node tells its name or the state of its battery. From 2.8 on the latter comes in packets
    /// only, repeated after the handshake.
    fn hear(&mut self, packet: &MeshPacket) {
        let Some(mesh_packet::PayloadVariant::Decoded(Data { portnum, payload, .. })) =
            &packet.payload_variant
        else {
            return;
        };
        let (user, metrics) = match PortNum::try_from(*portnum) {
            Ok(PortNum::NodeinfoApp) => (User::decode(&payload[..]).ok(), None),
            Ok(PortNum::TelemetryApp) => match Telemetry::decode(&payload[..]) {
                Ok(Telemetry {
                    variant: Some(telemetry::Variant::DeviceMetrics(metrics)), ..
                }) => (None, Some(metrics)),
                _ => return,
            },
            _ => return,
        };
        if !self.has_room_for(packet.from) {
            return;
        }
        let node = self.nodes.entry(packet.from).or_default();
        node.num = packet.from;
        node.user = user.or_else(|| node.user.take());
        node.device_metrics = metrics.or(node.device_metrics);
    }

    fn has_room_for(&self, number: u32) -> bool {
        self.nodes.len() < MAX_NODES || self.nodes.contains_key(&number)
    }
}
