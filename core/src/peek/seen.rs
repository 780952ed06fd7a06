//! The values that a link acts on, gathered while a payload is validated.

use super::schema::{self, DATA, FROM_RADIO, MESH_PACKET, MY_NODE_INFO, QUEUE_STATUS, TO_RADIO};
use super::walk::{Place, is_message};
use super::wire::{Fields, fixed32, low32, wire_type};
use super::{Data, FromRadio, MyInfo, Packet, QueueStatus, ROUTING_PORT};

/// What was read of a valid payload, without its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    message: FromRadio<'static>,
    /// Where the packet's content lies in the payload.
    content: (usize, usize),
}

impl Seen {
    /// Reads `payload`; `None` if it is no `FromRadio`.
    pub(crate) fn from_radio(payload: &[u8]) -> Option<Self> {
        Self::look(FROM_RADIO, payload)
    }

    /// Reads `payload`, of which nothing but a packet is of interest; `None` if it is no `ToRadio`.
    pub(super) fn to_radio(payload: &[u8]) -> Option<Self> {
        Self::look(TO_RADIO, payload)
    }

    /// The message without the bytes of a packet's content.
    pub(crate) fn detached(self) -> FromRadio<'static> {
        self.message
    }

    /// The message in `payload`, which is the one that was read.
    pub(crate) fn message(self, payload: &[u8]) -> FromRadio<'_> {
        match self.message {
            FromRadio::Packet(Packet { from, to, id, want_ack, data }) => {
                let content = payload.get(self.content.0..self.content.1).unwrap_or(&[]);
                let data = data.map(|data| Data { payload: content, ..data });
                FromRadio::Packet(Packet { from, to, id, want_ack, data })
            }
            other => other,
        }
    }

    fn look(root: u8, payload: &[u8]) -> Option<Self> {
        let mut seen = Self { message: FromRadio::Unknown, content: (0, 0) };
        if !is_message(root, payload, |place| seen.read(payload, place)) {
            return None;
        }
        if let FromRadio::Packet(Packet { data: Some(data), .. }) = &mut seen.message {
            let content = payload.get(seen.content.0..seen.content.1).unwrap_or(&[]);
            data.routing_error = (data.port == ROUTING_PORT).then(|| routing_error(content));
        }
        Some(seen)
    }

    /// A variant that comes again is merged if it is the same as before, else it replaces what was
    /// there.
    #[inline]
    fn read(&mut self, payload: &[u8], place: Place) {
        let numbers = READ.get(usize::from(place.row)).copied().unwrap_or(0);
        if numbers.checked_shr(place.number).unwrap_or(0) & 1 == 0 {
            return;
        }
        match (place.row, place.number, &mut self.message) {
            (FROM_RADIO, 2, FromRadio::Packet(_)) | (TO_RADIO, 1, FromRadio::Packet(_)) => {}
            (FROM_RADIO, 3, FromRadio::MyInfo(_)) | (FROM_RADIO, 11, FromRadio::QueueStatus(_)) => {
            }
            (FROM_RADIO, 2, message) | (TO_RADIO, 1, message) => {
                *message = FromRadio::Packet(Packet::default());
            }
            (FROM_RADIO, 3, message) => *message = FromRadio::MyInfo(MyInfo::default()),
            (FROM_RADIO, 7, message) => {
                *message = FromRadio::ConfigComplete(u32_at(payload, place));
            }
            (FROM_RADIO, 8, message) => *message = FromRadio::Rebooted,
            (FROM_RADIO, 11, message) => *message = FromRadio::QueueStatus(QueueStatus::default()),
            (FROM_RADIO, number @ 2..=schema::LAST_VARIANT, message) => {
                *message = FromRadio::Other(number as u8);
            }
            (MESH_PACKET, number, FromRadio::Packet(packet)) => match number {
                1 => packet.from = fixed32_at(payload, place),
                2 => packet.to = fixed32_at(payload, place),
                4 if packet.data.is_none() => {
                    (packet.data, self.content) = (Some(Data::default()), (0, 0));
                }
                5 => packet.data = None,
                6 => packet.id = fixed32_at(payload, place),
                10 => packet.want_ack = is_true(payload, place),
                _ => {}
            },
            (DATA, number, FromRadio::Packet(Packet { data: Some(data), .. })) => match number {
                1 => data.port = u32_at(payload, place) as i32,
                2 => self.content = (place.start, place.end),
                6 => data.request_id = fixed32_at(payload, place),
                _ => {}
            },
            (MY_NODE_INFO, number, FromRadio::MyInfo(info)) => match number {
                1 => info.node = u32_at(payload, place),
                8 => info.reboots = u32_at(payload, place),
                15 => info.nodes = u32_at(payload, place),
                _ => {}
            },
            (QUEUE_STATUS, number, FromRadio::QueueStatus(status)) => match number {
                1 => status.res = u32_at(payload, place) as i32,
                2 => status.free = u32_at(payload, place),
                3 => status.maxlen = u32_at(payload, place),
                4 => status.id = u32_at(payload, place),
                _ => {}
            },
            _ => {}
        }
    }
}

/// The fields that are read: by row, a bit for each number.
const READ: [u32; schema::LAST_READ as usize + 1] = {
    let mut read = [0; schema::LAST_READ as usize + 1];
    read[FROM_RADIO as usize] = bits(2, schema::LAST_VARIANT);
    read[TO_RADIO as usize] = bits(1, 1);
    read[MESH_PACKET as usize] = bits(1, 2) | bits(4, 6) | bits(10, 10);
    read[DATA as usize] = bits(1, 2) | bits(6, 6);
    read[MY_NODE_INFO as usize] = bits(1, 1) | bits(8, 8) | bits(15, 15);
    read[QUEUE_STATUS as usize] = bits(1, 4);
    read
};

const fn bits(first: u32, last: u32) -> u32 {
    assert!(last < 31);
    (1 << (last + 1)) - (1 << first)
}

/// As protobuf does, the high half of a longer varint is cut off.
fn u32_at(payload: &[u8], place: Place) -> u32 {
    low32(payload.get(place.start..place.end).unwrap_or(&[]))
}

/// A boolean is true if any of its bits is set, also beyond the 32nd.
fn is_true(payload: &[u8], place: Place) -> bool {
    payload.get(place.start..place.end).unwrap_or(&[]).iter().any(|byte| byte & 0x7F != 0)
}

fn fixed32_at(payload: &[u8], place: Place) -> u32 {
    fixed32(payload.get(place.start..).unwrap_or(&[]))
}

/// The reason in a `Routing` message; 0, that all is well, if there is none to be read.
fn routing_error(routing: &[u8]) -> i32 {
    let mut reason = 0;
    let mut fields = Fields::new(routing);
    while let Ok(field) = fields.raw() {
        match (field.number, field.wire) {
            (3, wire_type::VARINT) => reason = low32(field.bytes) as i32,
            // A route request or reply replaces the reason: they are one oneof.
            (1 | 2, wire_type::BYTES) => reason = 0,
            _ => {}
        }
    }
    reason
}
