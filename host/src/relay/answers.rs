//! Frames that the relay makes itself: `FromRadio` payloads that clients take for the node's.

use meshbeat_proto::from_radio::PayloadVariant;
use meshbeat_proto::{
    ClientNotification, Data, FromRadio, MeshPacket, PortNum, QueueStatus, Routing, XModem,
    log_record, mesh_packet, routing, x_modem,
};
use prost::Message as _;

use super::wire;

/// `maxlen` of a queue status: what the firmware tells.
pub(super) const MAX_LEN: u32 = 16;

/// The fate of a packet, or the answer to a heartbeat (id 0).
pub(super) fn queue_status(res: i32, free: u32, id: u32) -> Vec<u8> {
    let status = QueueStatus { res, free, maxlen: MAX_LEN, mesh_packet_id: id };
    from_radio(PayloadVariant::QueueStatus(status))
}

/// The end of a handshake.
pub(super) fn config_complete(nonce: u32) -> Vec<u8> {
    from_radio(PayloadVariant::ConfigCompleteId(nonce))
}

/// A Routing reply of the node to itself, as the firmware makes one for a packet of its client.
pub(super) fn routing_error(own: u32, id: u32, request_id: u32, error: i32, time: u32) -> Vec<u8> {
    let reply = Routing { variant: Some(routing::Variant::ErrorReason(error)) };
    let data = Data {
        portnum: PortNum::RoutingApp as i32,
        payload: reply.encode_to_vec(),
        request_id,
        ..Data::default()
    };
    from_radio(PayloadVariant::Packet(MeshPacket {
        from: own,
        to: own,
        id,
        rx_time: time,
        priority: mesh_packet::Priority::Ack as i32,
        payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
        ..MeshPacket::default()
    }))
}

/// A line for the person at the client.
pub(super) fn notification(level: log_record::Level, text: &str, time: u32) -> Vec<u8> {
    from_radio(PayloadVariant::ClientNotification(ClientNotification {
        time,
        level: level as i32,
        message: text.as_bytes().to_vec(),
        ..ClientNotification::default()
    }))
}

/// A file transfer that cannot go on.
pub(super) fn transfer_cancelled() -> Vec<u8> {
    let control = x_modem::Control::Can as i32;
    from_radio(PayloadVariant::XmodemPacket(XModem { control, ..XModem::default() }))
}

/// A client's packet as another client would see it: with its sender, its id and the time. What is
/// not known here survives. `None` if `to_radio` holds no packet.
pub(super) fn echo(to_radio: &[u8], own: u32, id: u32, time: u32) -> Option<Vec<u8>> {
    let packet = wire::message(to_radio, field::TO_RADIO_PACKET)?;
    let mut copy = Vec::with_capacity(packet.len() + 15);
    wire::put_fixed32(&mut copy, field::FROM, own);
    for field in wire::fields(packet) {
        if ![field::FROM, field::ID, field::RX_TIME].contains(&field.number) {
            copy.extend_from_slice(field.bytes);
        }
    }
    wire::put_fixed32(&mut copy, field::ID, id);
    wire::put_fixed32(&mut copy, field::RX_TIME, time);
    let mut out = Vec::with_capacity(copy.len() + 3);
    wire::put_bytes(&mut out, field::PACKET, &copy);
    Some(out)
}

/// Field numbers of the schema.
pub(super) mod field {
    /// `ToRadio.packet`.
    pub(crate) const TO_RADIO_PACKET: u32 = 1;
    /// `ToRadio.xmodemPacket`.
    pub(crate) const TO_RADIO_XMODEM: u32 = 5;
    /// `FromRadio.packet`.
    pub(crate) const PACKET: u32 = 2;
    /// `FromRadio.clientNotification`.
    pub(crate) const NOTIFICATION: u32 = 16;
    /// `ClientNotification.reply_id`.
    pub(crate) const NOTIFICATION_REPLY_ID: u32 = 1;
    /// `MeshPacket.from`.
    pub(crate) const FROM: u32 = 1;
    /// `MeshPacket.decoded`.
    pub(crate) const DECODED: u32 = 4;
    /// `MeshPacket.id`.
    pub(crate) const ID: u32 = 6;
    /// `MeshPacket.rx_time`.
    pub(crate) const RX_TIME: u32 = 7;
    /// `Data.request_id`.
    pub(crate) const REQUEST_ID: u32 = 6;
    /// `Data.reply_id`.
    pub(crate) const REPLY_ID: u32 = 7;
}

fn from_radio(variant: PayloadVariant) -> Vec<u8> {
    FromRadio { payload_variant: Some(variant), ..FromRadio::default() }.encode_to_vec()
}
