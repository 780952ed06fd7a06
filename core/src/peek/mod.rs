//! What the link reads from a payload without a protobuf library, and whether a payload is one.
//!
//! [`FromRadio::peek`] and [`is_to_radio`] check a payload as deep as the known fields go: a torn
//! packet otherwise swallows its successor into its last nested field. Fields, enum values and
//! variants of newer firmware are accepted, and strings need not be UTF-8 (firmware before 2.7.23
//! cuts names at a byte). Whatever is rejected here, prost rejects too, and where prost accepts,
//! the values are the same; tests hold both on recorded and on mutated messages.

mod outgoing;
mod schema;
mod seen;
mod walk;
pub mod wire;

use wire::{Field, Fields};

use crate::frame::MAX_PAYLOAD;

pub(crate) use outgoing::{Outgoing, outgoing, prepare, set_id};
pub(crate) use seen::Seen;

/// A validated `FromRadio`: its variant, and of the variants that a link acts on, the values.
///
/// As in protobuf, the last variant wins, a missing field is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum FromRadio<'a> {
    /// No variant, or one that is not known yet: the zero-length payload, newer firmware.
    Unknown,
    /// A packet from the mesh, or the node's own reply.
    Packet(Packet<'a>),
    /// The start of a handshake.
    MyInfo(MyInfo),
    /// The end of the handshake that asked with this nonce.
    ConfigComplete(u32),
    /// The node has just started (serial only; never sent over TCP).
    Rebooted,
    /// The fate of a packet, or the answer to a heartbeat.
    QueueStatus(QueueStatus),
    /// Any other variant that is known, by its field number.
    Other(u8),
}

/// The values of a `MeshPacket` that a link or a relay acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Packet<'a> {
    /// Node number of the sender; 0 from a client.
    pub from: u32,
    /// Node number of the receiver; `0xFFFF_FFFF` is everyone.
    pub to: u32,
    /// Packet id; 0 asks the node for one.
    pub id: u32,
    /// Whether the sender wants a Routing reply.
    pub want_ack: bool,
    /// The packet's content, unless it is encrypted.
    pub data: Option<Data<'a>>,
}

/// The values of a packet's decoded content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Data<'a> {
    /// Port number (`portnums.proto`).
    pub port: i32,
    /// What the port number says how to read.
    pub payload: &'a [u8],
    /// Id of the packet that this one answers; 0 for none.
    pub request_id: u32,
    /// What a Routing reply (port 5) says: 0 or why not (`Routing.Error`); `None` for anything
    /// else.
    pub routing_error: Option<i32>,
}

/// Port number of Routing replies (`ROUTING_APP`).
pub const ROUTING_PORT: i32 = 5;

/// The values of `MyNodeInfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct MyInfo {
    /// The node's own number.
    pub node: u32,
    /// How often the node has started.
    pub reboots: u32,
    /// How many nodes it knows (2.7.4 and newer, else 0): the length of the handshake.
    pub nodes: u32,
}

/// The values of `QueueStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct QueueStatus {
    /// 0, or why the packet was refused, in two number spaces.
    pub res: i32,
    /// Packets the node has room for.
    pub free: u32,
    /// Packets it has room for when empty.
    pub maxlen: u32,
    /// The packet it speaks of; 0 answers a heartbeat, or nobody.
    pub id: u32,
}

impl<'a> FromRadio<'a> {
    /// Reads `payload`; `None` if it is no `FromRadio`.
    pub fn peek(payload: &'a [u8]) -> Option<Self> {
        Seen::from_radio(payload).map(|seen| seen.message(payload))
    }

    /// Whether it is one of the variants by which a node answers `want_config_id`.
    pub const fn is_configuration(&self) -> bool {
        match self {
            Self::MyInfo(_) | Self::ConfigComplete(_) => true,
            // Not log records, files, MQTT messages and notifications.
            Self::Other(number) => !matches!(*number, 6 | 12 | 14 | 16),
            _ => false,
        }
    }

    /// The variant's name as in the schema, `unknown` for none or a new one.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Packet(_) => "packet",
            Self::MyInfo(_) => "my_info",
            Self::ConfigComplete(_) => "config_complete_id",
            Self::Rebooted => "rebooted",
            Self::QueueStatus(_) => "queueStatus",
            Self::Other(number) => match *number {
                NODE_INFO => "node_info",
                5 => "config",
                6 => "log_record",
                9 => "moduleConfig",
                10 => "channel",
                12 => "xmodemPacket",
                13 => "metadata",
                14 => "mqttClientProxyMessage",
                15 => "fileInfo",
                16 => "clientNotification",
                17 => "deviceuiConfig",
                18 => "lockdown_status",
                19 => "region_presets",
                _ => "unknown",
            },
        }
    }
}

/// Whether `payload` is a `ToRadio`.
pub fn is_to_radio(payload: &[u8]) -> bool {
    walk::is_message(schema::TO_RADIO, payload, |_| {})
}

/// Whether `payload` is a `ToRadio` with nothing but an `xmodemPacket` or a
/// `mqttClientProxyMessage`, and fits a frame.
pub fn is_forwardable(payload: &[u8]) -> bool {
    let mut fields = Fields::new(payload);
    payload.len() <= MAX_PAYLOAD
        && is_to_radio(payload)
        && matches!(fields.next(), Ok(Some(Field { number: 5 | 6, .. })))
        && fields.is_empty()
}

/// Field number of `FromRadio.node_info`.
pub const NODE_INFO: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_packet() {
        let payload = b"\x12\x1E\x0D\x78\x56\x34\x12\x15\xFF\xFF\xFF\xFF\
            \x22\x0B\x08\x01\x12\x02hi\x35\x07\x00\x00\x00\x35\x09\x00\x00\x00\x50\x01";
        let Some(FromRadio::Packet(packet)) = FromRadio::peek(payload) else {
            panic!("no packet in {payload:02x?}");
        };
        assert_eq!((packet.from, packet.to, packet.id), (0x1234_5678, u32::MAX, 9));
        assert!(packet.want_ack);
        let data = packet.data.expect("decoded");
        assert_eq!((data.port, data.payload, data.request_id), (1, &b"hi"[..], 7));
    }

    #[test]
    fn the_answer_to_a_heartbeat() {
        let status = QueueStatus { res: 0, free: 16, maxlen: 16, id: 0 };
        let payload = b"\x5A\x04\x10\x10\x18\x10";
        assert_eq!(FromRadio::peek(payload), Some(FromRadio::QueueStatus(status)));
    }

    #[test]
    fn nothing_and_the_unknown_are_messages() {
        assert_eq!(FromRadio::peek(b""), Some(FromRadio::Unknown));
        assert_eq!(FromRadio::peek(b"\xA2\x06\x01x"), Some(FromRadio::Unknown));
    }

    #[test]
    fn the_last_variant_wins() {
        assert_eq!(FromRadio::peek(b"\x38\x05\x40\x01"), Some(FromRadio::Rebooted));
        assert_eq!(FromRadio::peek(b"\x40\x01\x38\x05"), Some(FromRadio::ConfigComplete(5)));
    }

    #[test]
    fn a_bad_field_deep_inside_is_found() {
        // packet { decoded { payload: 5 bytes, of which 2 are there } }
        assert_eq!(FromRadio::peek(b"\x12\x06\x22\x04\x12\x05hi"), None);
        // packet { from: varint instead of fixed32 }
        assert_eq!(FromRadio::peek(b"\x12\x02\x08\x01"), None);
        assert!(!is_to_radio(b"\x3A\x01\x08"));
        assert!(is_to_radio(b"\x3A\x00"));
    }
}
