//! What the link reads from a payload without a protobuf library, and whether a payload is one.
//!
//! [`FromRadio::peek`] and [`is_to_radio`] check a payload as deep as the known fields go: a torn
//! packet otherwise swallows its successor into its last nested field. Fields, enum values and
//! variants of newer firmware are accepted, and strings need not be UTF-8 (firmware before 2.7.23
//! cuts names at a byte). Whatever is rejected here, prost rejects too, and where prost accepts,
//! the values are the same; tests hold both on recorded and on mutated messages.

mod outgoing;
mod schema;
pub mod wire;

use schema::{MESSAGES, kind};
use wire::{Field, Fields, Malformed, Value};

use crate::frame::MAX_PAYLOAD;

pub(crate) use outgoing::{Outgoing, prepare, set_id};

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
        valid(schema::FROM_RADIO, payload).then(|| Self::read(payload))
    }

    /// Reads a payload that [`FromRadio::peek`] has accepted before.
    pub(crate) fn read(payload: &'a [u8]) -> Self {
        read(payload).unwrap_or(Self::Unknown)
    }

    /// The same without the bytes of a packet's payload.
    pub(crate) fn detached(self) -> FromRadio<'static> {
        match self {
            Self::Unknown => FromRadio::Unknown,
            Self::Packet(Packet { from, to, id, want_ack, data }) => {
                let data = data.map(|data| Data { payload: &[], ..data });
                FromRadio::Packet(Packet { from, to, id, want_ack, data })
            }
            Self::MyInfo(info) => FromRadio::MyInfo(info),
            Self::ConfigComplete(nonce) => FromRadio::ConfigComplete(nonce),
            Self::Rebooted => FromRadio::Rebooted,
            Self::QueueStatus(status) => FromRadio::QueueStatus(status),
            Self::Other(number) => FromRadio::Other(number),
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
    valid(schema::TO_RADIO, payload)
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

/// Whether `bytes` are a message of the schema's row `message`, and so are all known messages in
/// it. Recursion is as deep as the schema, which contains no cycle.
fn valid(message: u8, bytes: &[u8]) -> bool {
    let known = MESSAGES.get(usize::from(message)).copied().unwrap_or(&[]);
    let mut fields = Fields::new(bytes);
    loop {
        let field = match fields.next() {
            Ok(Some(field)) => field,
            Ok(None) => return true,
            Err(Malformed) => return false,
        };
        let index = usize::try_from(field.number).unwrap_or(usize::MAX).wrapping_sub(1);
        let kind = known.get(index).copied().unwrap_or(kind::UNKNOWN);
        let fits = match (kind, field.value) {
            (kind::UNKNOWN, _) => true,
            (kind::VARINT | kind::VARINTS, Value::Varint(_)) => true,
            (kind::FIXED32 | kind::FIXED32S, Value::Fixed32(_)) => true,
            (kind::FIXED64, Value::Fixed64) | (kind::BYTES, Value::Bytes(_)) => true,
            (kind::VARINTS, Value::Bytes(packed)) => all_varints(packed),
            (kind::FIXED32S, Value::Bytes(packed)) => packed.len() % 4 == 0,
            (kind::MESSAGE.., Value::Bytes(inner)) => valid(kind - kind::MESSAGE, inner),
            _ => false,
        };
        if !fits {
            return false;
        }
    }
}

fn all_varints(packed: &[u8]) -> bool {
    let mut varints = Fields::new(packed);
    while !varints.is_empty() {
        if varints.varint().is_err() {
            return false;
        }
    }
    true
}

/// Reads a payload that `valid` has accepted. A variant that comes again is merged if it is the
/// same as before, else it replaces what was there.
fn read(payload: &[u8]) -> Result<FromRadio<'_>, Malformed> {
    let mut found = FromRadio::Unknown;
    let mut fields = Fields::new(payload);
    while let Some(field) = fields.next()? {
        found = match (field.number, field.value) {
            (2, Value::Bytes(bytes)) => {
                let before = if let FromRadio::Packet(p) = found { p } else { Packet::default() };
                FromRadio::Packet(before.merge(bytes)?)
            }
            (3, Value::Bytes(bytes)) => {
                let before = if let FromRadio::MyInfo(i) = found { i } else { MyInfo::default() };
                FromRadio::MyInfo(before.merge(bytes)?)
            }
            (7, Value::Varint(nonce)) => FromRadio::ConfigComplete(nonce as u32),
            (8, Value::Varint(_)) => FromRadio::Rebooted,
            (11, Value::Bytes(bytes)) => {
                let before =
                    if let FromRadio::QueueStatus(q) = found { q } else { QueueStatus::default() };
                FromRadio::QueueStatus(before.merge(bytes)?)
            }
            (number @ 2..=schema::LAST_VARIANT, _) => FromRadio::Other(number as u8),
            _ => found,
        };
    }
    Ok(found)
}

impl<'a> Packet<'a> {
    fn merge(mut self, message: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, Value::Fixed32(from)) => self.from = from,
                (2, Value::Fixed32(to)) => self.to = to,
                (4, Value::Bytes(data)) => {
                    self.data = Some(self.data.unwrap_or_default().merge(data)?);
                }
                (5, Value::Bytes(_)) => self.data = None,
                (6, Value::Fixed32(id)) => self.id = id,
                (10, Value::Varint(want_ack)) => self.want_ack = want_ack != 0,
                _ => {}
            }
        }
        Ok(self)
    }
}

impl<'a> Data<'a> {
    fn merge(mut self, message: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, Value::Varint(port)) => self.port = port as i32,
                (2, Value::Bytes(payload)) => self.payload = payload,
                (6, Value::Fixed32(id)) => self.request_id = id,
                _ => {}
            }
        }
        self.routing_error = (self.port == ROUTING_PORT).then(|| routing_error(self.payload));
        Ok(self)
    }
}

/// The reason in a `Routing` message; 0, that all is well, if there is none to be read.
fn routing_error(routing: &[u8]) -> i32 {
    let mut reason = 0;
    let mut fields = Fields::new(routing);
    while let Ok(Some(field)) = fields.next() {
        match (field.number, field.value) {
            (3, Value::Varint(error)) => reason = error as i32,
            // A route request or reply replaces the reason: they are one oneof.
            (1 | 2, Value::Bytes(_)) => reason = 0,
            _ => {}
        }
    }
    reason
}

impl MyInfo {
    fn merge(mut self, message: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, Value::Varint(node)) => self.node = node as u32,
                (8, Value::Varint(reboots)) => self.reboots = reboots as u32,
                (15, Value::Varint(nodes)) => self.nodes = nodes as u32,
                _ => {}
            }
        }
        Ok(self)
    }
}

impl QueueStatus {
    fn merge(mut self, message: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (1, Value::Varint(res)) => self.res = res as i32,
                (2, Value::Varint(free)) => self.free = free as u32,
                (3, Value::Varint(maxlen)) => self.maxlen = maxlen as u32,
                (4, Value::Varint(id)) => self.id = id as u32,
                _ => {}
            }
        }
        Ok(self)
    }
}

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
