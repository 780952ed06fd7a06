//! A packet on its way to the node: what must be known of it, and where its id stands.

use heapless::Vec;

use super::wire::{Fields, push_varint, wire_type};
use super::{FromRadio, Seen};
use crate::frame::MAX_PAYLOAD;

/// What the outbox must know of a `ToRadio` payload that holds a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) id: u32,
    pub(crate) to: u32,
    /// Port number; 0 for an encrypted packet.
    pub(crate) port: i32,
    pub(crate) want_ack: bool,
}

/// `35` and four bytes: `MeshPacket.id`.
const ID_TAG: u8 = 0x35;
const ID_LEN: usize = 5;

/// Reads a `ToRadio` payload that holds one packet and nothing else; `None` if it is no such.
pub(crate) fn outgoing(payload: &[u8]) -> Option<Outgoing> {
    let FromRadio::Packet(read) = Seen::to_radio(payload)?.detached() else { return None };
    only_packet(payload)?;
    Some(Outgoing {
        id: read.id,
        to: read.to,
        port: read.data.map_or(0, |data| data.port),
        want_ack: read.want_ack,
    })
}

/// Copies such a payload to `out`, with `id` as the packet's last field, so that [`set_id`] finds
/// it. `None` if it is too long with an id.
pub(crate) fn prepare(payload: &[u8], id: u32, out: &mut Vec<u8, MAX_PAYLOAD>) -> Option<()> {
    let packet = only_packet(payload)?;
    let len = without_id(packet, |_| Some(()))?.checked_add(ID_LEN)?;

    out.clear();
    out.push(0x0A).ok()?;
    push_varint(out, u32::try_from(len).ok()?)?;
    without_id(packet, |field| out.extend_from_slice(field).ok())?;
    out.push(ID_TAG).ok()?;
    out.extend_from_slice(&id.to_le_bytes()).ok()
}

/// Gives a prepared packet another id.
pub(crate) fn set_id(prepared: &mut [u8], id: u32) {
    if let Some(last) = prepared.last_chunk_mut() {
        *last = id.to_le_bytes();
    }
}

/// The packet of a payload that holds nothing else.
fn only_packet(payload: &[u8]) -> Option<&[u8]> {
    let mut fields = Fields::new(payload);
    let packet = fields.raw().ok()?;
    let alone = (packet.number, packet.wire) == (1, wire_type::BYTES) && fields.is_empty();
    alone.then_some(packet.bytes)
}

/// Hands each field of a packet but its id to `on`, and returns their length together.
fn without_id(packet: &[u8], mut on: impl FnMut(&[u8]) -> Option<()>) -> Option<usize> {
    let mut fields = Fields::new(packet);
    let mut len = 0;
    loop {
        let before = fields.rest();
        if before.is_empty() {
            return Some(len);
        }
        if fields.raw().ok()?.number != 6 {
            let raw = before.get(..before.len() - fields.rest().len())?;
            len += raw.len();
            on(raw)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `packet { to: all, decoded { port 1, "hi" }, want_ack }`, and what comes before the last
    /// field.
    const TEXT: &[u8] = b"\x0A\x11\x15\xFF\xFF\xFF\xFF\x22\x08\x08\x01\x12\x02hi\x48\x00\x50\x01";

    fn prepared(payload: &[u8]) -> Option<(Outgoing, Vec<u8, MAX_PAYLOAD>)> {
        let mut out = Vec::new();
        let read = outgoing(payload)?;
        prepare(payload, read.id, &mut out).map(|()| (read, out))
    }

    #[test]
    fn an_id_is_added_where_there_is_none() {
        let (outgoing, mut out) = prepared(TEXT).unwrap();
        let expected = Outgoing { id: 0, to: u32::MAX, port: 1, want_ack: true };
        assert_eq!(outgoing, expected);
        assert_eq!(out[..2], [0x0A, 0x11 + 5]);
        assert_eq!(out[2..19], TEXT[2..]);
        set_id(&mut out, 0x0403_0201);
        assert_eq!(out[19..], [0x35, 1, 2, 3, 4]);
        assert_eq!(prepared(&out).unwrap().0, Outgoing { id: 0x0403_0201, ..expected });
    }

    #[test]
    fn an_id_in_the_middle_moves_to_the_end() {
        let payload = b"\x0A\x0B\x35\x09\x00\x00\x00\x22\x02\x08\x01\x50\x01";
        let (outgoing, out) = prepared(payload).unwrap();
        assert_eq!((outgoing.id, outgoing.port), (9, 1));
        assert_eq!(out[..], b"\x0A\x0B\x22\x02\x08\x01\x50\x01\x35\x09\x00\x00\x00"[..]);
    }

    #[test]
    fn what_is_no_single_packet_is_refused() {
        for payload in [
            &b""[..],
            b"\x18\x05",         // want_config_id
            b"\x3A\x00",         // heartbeat
            b"\x0A\x00\x18\x05", // a packet and more
            b"\x0A\x05\x15",     // cut short
        ] {
            assert_eq!(prepared(payload), None, "{payload:02x?}");
        }
    }

    #[test]
    fn a_packet_that_leaves_no_room_for_an_id_is_refused() {
        let with_payload = |len: usize| {
            let mut payload = std::vec![0x0A];
            let mut inner = std::vec![0x2A, len as u8 | 0x80, (len >> 7) as u8];
            inner.resize(inner.len() + len, 7);
            payload.extend([inner.len() as u8 | 0x80, (inner.len() >> 7) as u8]);
            payload.extend(inner);
            payload
        };
        assert_eq!(prepared(&with_payload(501)).unwrap().1.len(), 512);
        assert_eq!(prepared(&with_payload(502)), None);
    }

    extern crate std;
}
