//! A node's entry in the node's database, changed at wire level.

use std::rc::Rc;

use meshbeat_core::peek::FromRadio;
use meshbeat_core::peek::wire::Value;

use super::{payload_of, variant};
use crate::relay::wire;

/// A `node_info`, framed.
#[derive(Debug)]
pub(super) struct Entry {
    frame: Rc<[u8]>,
}

/// What a packet tells of how it was received.
#[derive(Debug, Default)]
pub(super) struct Reception {
    /// Index of its channel.
    pub(super) channel: u32,
    /// Seconds since 1970; 0 if the node knew no time.
    pub(super) rx_time: u32,
    /// The bits of a float, dB.
    rx_snr: u32,
    rx_rssi: u32,
    hop_limit: u32,
    hop_start: u32,
    via_mqtt: bool,
    priority: u32,
    transport: u32,
}

/// `MeshPacket.Priority.BACKGROUND`.
const BACKGROUND: u32 = 10;
/// `MeshPacket.TransportMechanism.TRANSPORT_LORA`.
const LORA: u32 = 1;

/// Field numbers of `NodeInfo`.
mod field {
    pub(super) const NUM: u32 = 1;
    pub(super) const USER: u32 = 2;
    pub(super) const POSITION: u32 = 3;
    pub(super) const SNR: u32 = 4;
    pub(super) const LAST_HEARD: u32 = 5;
    pub(super) const DEVICE_METRICS: u32 = 6;
    pub(super) const CHANNEL: u32 = 7;
    pub(super) const VIA_MQTT: u32 = 8;
    pub(super) const HOPS_AWAY: u32 = 9;
}

/// `User.public_key`.
const PUBLIC_KEY: u32 = 8;
/// `Telemetry.device_metrics`.
const DEVICE_METRICS: u32 = 2;

/// A field's number, and what shall stand in its place: nothing if it is to be absent.
type Change = (u32, Vec<u8>);

impl Reception {
    /// Reads the packet in a `FromRadio`.
    pub(super) fn read(from_radio: &[u8]) -> Self {
        let mut reception = Self::default();
        let packet = wire::message(from_radio, variant::PACKET).unwrap_or(&[]);
        for field in wire::fields(packet) {
            let value = match field.value {
                Value::Varint(value) => value as u32,
                Value::Fixed32(value) => value,
                _ => continue,
            };
            match field.number {
                3 => reception.channel = value,
                7 => reception.rx_time = value,
                8 => reception.rx_snr = value,
                9 => reception.hop_limit = value,
                11 => reception.priority = value,
                12 => reception.rx_rssi = value,
                14 => reception.via_mqtt = value != 0,
                15 => reception.hop_start = value,
                21 => reception.transport = value,
                _ => {}
            }
        }
        reception
    }

    /// Whether the node made the packet up from its database: it claims to come by radio, yet
    /// without the signal strength that each packet from the air has.
    pub(super) const fn is_made_up(&self) -> bool {
        self.transport == LORA && self.rx_rssi == 0 && self.priority == BACKGROUND && !self.via_mqtt
    }
}

impl Entry {
    /// From a framed `node_info`.
    pub(super) const fn new(frame: Rc<[u8]>) -> Self {
        Self { frame }
    }

    /// Of a node of which only the number is known.
    pub(super) fn nameless(number: u32) -> Option<Self> {
        let mut info = Vec::new();
        wire::put_varint(&mut info, field::NUM, u64::from(number));
        let mut payload = Vec::new();
        wire::put_bytes(&mut payload, u32::from(variant::NODE_INFO), &info);
        wire::framed(&payload).map(|frame| Self { frame: frame.into() })
    }

    /// The sender of any packet was heard. One that was heard later already stays as it is.
    pub(super) fn hear(&mut self, reception: &Reception) {
        let before = match self.last(field::LAST_HEARD) {
            Some(Value::Fixed32(time)) => time,
            _ => 0,
        };
        if reception.rx_time != 0 && reception.rx_time < before {
            return;
        }
        let mut changes = vec![varint(field::VIA_MQTT, reception.via_mqtt.into())];
        if reception.rx_time != 0 {
            changes.push(fixed32(field::LAST_HEARD, reception.rx_time));
        }
        if reception.rx_snr != 0 {
            changes.push(fixed32(field::SNR, reception.rx_snr));
        }
        if reception.hop_start != 0
            && let Some(hops) = reception.hop_start.checked_sub(reception.hop_limit)
        {
            // 0 hops away is not the same as not known.
            let mut change = Vec::new();
            wire::put_varint(&mut change, field::HOPS_AWAY, hops.into());
            changes.push((field::HOPS_AWAY, change));
        }
        self.change(changes);
    }

    /// It told its name, on this channel. A public key stays what it was first, as in the node.
    pub(super) fn rename(&mut self, user: &[u8], channel: Option<u32>) {
        fn key(user: &[u8]) -> Option<&[u8]> {
            wire::message(user, PUBLIC_KEY).filter(|key| !key.is_empty())
        }
        let mut user = user.to_vec();
        match (wire::message(self.info(), field::USER).and_then(key), key(&user)) {
            _ if user.is_empty() => return,
            (Some(old), Some(new)) if old != new => return,
            (Some(old), None) => wire::put_bytes(&mut user, PUBLIC_KEY, old),
            _ => {}
        }
        let mut changes = vec![bytes(field::USER, &user)];
        changes.extend(channel.map(|channel| varint(field::CHANNEL, channel)));
        self.change(changes);
    }

    /// It told its position.
    pub(super) fn locate(&mut self, position: &[u8]) {
        if is_place(position) {
            self.change(vec![bytes(field::POSITION, position)]);
        }
    }

    /// It told telemetry, of which the entry has a place for the state of the device.
    pub(super) fn measure(&mut self, telemetry: &[u8]) {
        if let Some((DEVICE_METRICS, metrics)) = telemetry_variant(telemetry) {
            self.change(vec![bytes(field::DEVICE_METRICS, metrics)]);
        }
    }

    /// The node's number; 0 if it has none.
    pub(super) fn number(&self) -> u32 {
        match self.last(field::NUM) {
            Some(Value::Varint(number)) => number as u32,
            _ => 0,
        }
    }

    /// The `node_info`, framed.
    pub(super) const fn frame(&self) -> &Rc<[u8]> {
        &self.frame
    }

    /// The last value of a field.
    fn last(&self, number: u32) -> Option<Value<'_>> {
        wire::fields(self.info()).filter(|field| field.number == number).last().map(|f| f.value)
    }

    fn info(&self) -> &[u8] {
        wire::message(payload_of(&self.frame), variant::NODE_INFO.into()).unwrap_or(&[])
    }

    /// Puts fields in the place of others, unless that makes no `node_info` that fits a frame.
    fn change(&mut self, mut changes: Vec<Change>) {
        let mut info = wire::rewritten(self.info(), |out, field| {
            match changes.iter_mut().find(|change| change.0 == field.number) {
                Some((_, bytes)) => out.append(bytes),
                None => out.extend_from_slice(field.bytes),
            }
        });
        changes.iter_mut().for_each(|(_, bytes)| info.append(bytes));
        let payload = wire::rewritten(payload_of(&self.frame), |out, field| {
            if field.number == u32::from(variant::NODE_INFO) {
                wire::put_bytes(out, field.number, &info);
            } else {
                out.extend_from_slice(field.bytes);
            }
        });
        let is_valid = FromRadio::peek(&payload) == Some(FromRadio::Other(variant::NODE_INFO));
        if is_valid && let Some(frame) = wire::framed(&payload) {
            self.frame = frame.into();
        }
    }
}

/// Whether a `Position` says where.
pub(super) fn is_place(position: &[u8]) -> bool {
    let has = |number| {
        wire::fields(position)
            .any(|field| field.number == number && matches!(field.value, Value::Fixed32(_)))
    };
    is_message(position) && has(1) && has(2)
}

/// The variant of a `Telemetry`, by its field number.
pub(super) fn telemetry_variant(telemetry: &[u8]) -> Option<(u32, &[u8])> {
    let fields = wire::fields(telemetry).filter(|field| field.number > 1);
    let variants = fields.filter_map(|field| Some((field.number, field.message()?)));
    variants.last().filter(|_| is_message(telemetry))
}

/// Whether all of it is fields.
pub(super) fn is_message(bytes: &[u8]) -> bool {
    wire::fields(bytes).map(|field| field.bytes.len()).sum::<usize>() == bytes.len()
}

/// Absent if 0.
fn varint(number: u32, value: u32) -> Change {
    let mut bytes = Vec::new();
    if value != 0 {
        wire::put_varint(&mut bytes, number, value.into());
    }
    (number, bytes)
}

fn fixed32(number: u32, value: u32) -> Change {
    let mut bytes = Vec::new();
    wire::put_fixed32(&mut bytes, number, value);
    (number, bytes)
}

fn bytes(number: u32, value: &[u8]) -> Change {
    let mut bytes = Vec::new();
    wire::put_bytes(&mut bytes, number, value);
    (number, bytes)
}
