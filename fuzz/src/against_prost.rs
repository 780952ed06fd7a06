//! `core::peek` held against prost, which knows the whole schema: where prost accepts a payload,
//! peek accepts it and reads the same; where prost rejects one, peek does too, but for groups,
//! which no Meshtastic message has and which peek skips with less care.

use meshbeat_core::peek::{self, Data, MyInfo, Packet, QueueStatus};
use meshbeat_proto::{
    FromRadio, MeshPacket, PortNum, Routing, ToRadio, from_radio, mesh_packet, routing,
};
use prost::{DecodeError, Message};

/// Whether prost accepts `payload` as a `FromRadio`.
///
/// # Panics
/// If peek does not see the same.
pub fn from_radio(payload: &[u8]) -> bool {
    let peeked = peek::FromRadio::peek(payload);
    match FromRadio::decode(payload) {
        Ok(message) => {
            let peeked = peeked.unwrap_or_else(|| panic!("prost alone accepts {payload:02x?}"));
            same(payload, &peeked, message.payload_variant.as_ref());
            true
        }
        Err(error) => {
            assert!(peeked.is_none() || is_group(&error), "{error}, accepted: {payload:02x?}");
            false
        }
    }
}

/// Whether prost accepts `payload` as a `ToRadio`.
///
/// # Panics
/// If peek does not see the same.
pub fn to_radio(payload: &[u8]) -> bool {
    let peeked = peek::is_to_radio(payload);
    match ToRadio::decode(payload) {
        Ok(_) => assert!(peeked, "prost alone accepts {payload:02x?}"),
        Err(ref error) => assert!(!peeked || is_group(error), "{error}, accepted: {payload:02x?}"),
    }
    peeked && ToRadio::decode(payload).is_ok()
}

/// What peek lets pass: a group whose end has another number than its start, and groups nested
/// to prost's limit counted from within a nested message.
fn is_group(error: &DecodeError) -> bool {
    let text = error.to_string();
    text.ends_with("unexpected end group tag") || text.ends_with("recursion limit reached")
}

fn same(
    payload: &[u8],
    peeked: &peek::FromRadio<'_>,
    decoded: Option<&from_radio::PayloadVariant>,
) {
    use from_radio::PayloadVariant as Variant;
    use peek::FromRadio as Peeked;
    assert_eq!(peeked.name(), decoded.map_or("unknown", name), "{payload:02x?}");
    match (peeked, decoded) {
        (Peeked::Packet(packet), Some(Variant::Packet(decoded))) => {
            same_packet(payload, packet, decoded);
        }
        (Peeked::MyInfo(info), Some(Variant::MyInfo(decoded))) => {
            let expected = MyInfo {
                node: decoded.my_node_num,
                reboots: decoded.reboot_count,
                nodes: decoded.nodedb_count,
            };
            assert_eq!(*info, expected, "{payload:02x?}");
        }
        (Peeked::ConfigComplete(nonce), Some(Variant::ConfigCompleteId(decoded))) => {
            assert_eq!(nonce, decoded, "{payload:02x?}");
        }
        (Peeked::QueueStatus(status), Some(Variant::QueueStatus(decoded))) => {
            let expected = QueueStatus {
                res: decoded.res,
                free: decoded.free,
                maxlen: decoded.maxlen,
                id: decoded.mesh_packet_id,
            };
            assert_eq!(*status, expected, "{payload:02x?}");
        }
        // Of the others peek knows the name alone.
        (Peeked::Rebooted | Peeked::Other(_) | Peeked::Unknown, _) => {}
        (peeked, decoded) => panic!("{peeked:?} is {decoded:?} in {payload:02x?}"),
    }
}

/// The reason that prost reads; of what is no `Routing` nothing is expected but what was peeked.
fn same_routing_error(data: &meshbeat_proto::Data, peeked: Option<i32>) -> Option<i32> {
    if data.portnum != PortNum::RoutingApp as i32 {
        return None;
    }
    match Routing::decode(&data.payload[..]).map(|routing| routing.variant) {
        Ok(Some(routing::Variant::ErrorReason(error))) => Some(error),
        Ok(_) => Some(0),
        Err(_) => peeked,
    }
}

fn same_packet(payload: &[u8], packet: &Packet<'_>, decoded: &MeshPacket) {
    let data = match &decoded.payload_variant {
        Some(mesh_packet::PayloadVariant::Decoded(data)) => {
            let peeked = packet.data.and_then(|data| data.routing_error);
            Some(Data {
                port: data.portnum,
                payload: &data.payload,
                request_id: data.request_id,
                routing_error: same_routing_error(data, peeked),
            })
        }
        Some(mesh_packet::PayloadVariant::Encrypted(_)) | None => None,
    };
    let expected = Packet {
        from: decoded.from,
        to: decoded.to,
        id: decoded.id,
        want_ack: decoded.want_ack,
        data,
    };
    assert_eq!(*packet, expected, "{payload:02x?}");
}

/// The variant's name in the schema.
fn name(variant: &from_radio::PayloadVariant) -> &'static str {
    use from_radio::PayloadVariant as Variant;
    match variant {
        Variant::Packet(_) => "packet",
        Variant::MyInfo(_) => "my_info",
        Variant::NodeInfo(_) => "node_info",
        Variant::Config(_) => "config",
        Variant::LogRecord(_) => "log_record",
        Variant::ConfigCompleteId(_) => "config_complete_id",
        Variant::Rebooted(_) => "rebooted",
        Variant::ModuleConfig(_) => "moduleConfig",
        Variant::Channel(_) => "channel",
        Variant::QueueStatus(_) => "queueStatus",
        Variant::XmodemPacket(_) => "xmodemPacket",
        Variant::Metadata(_) => "metadata",
        Variant::MqttClientProxyMessage(_) => "mqttClientProxyMessage",
        Variant::FileInfo(_) => "fileInfo",
        Variant::ClientNotification(_) => "clientNotification",
        Variant::DeviceuiConfig(_) => "deviceuiConfig",
        Variant::LockdownStatus(_) => "lockdown_status",
        Variant::RegionPresets(_) => "region_presets",
    }
}
