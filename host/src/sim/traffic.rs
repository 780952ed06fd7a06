//! What the other nodes say: random texts, positions, telemetry and node infos from a seed.

use core::time::Duration;

use meshbeat_core::rng::Rng;
use meshbeat_core::time::Instant;
use meshbeat_proto::{
    Data, EnvironmentMetrics, MeshPacket, PortNum, Position, Telemetry, mesh_packet, telemetry,
};
use prost::Message;

use super::mesh::{Mesh, Node, clean_number, holds_magic};
use crate::dest::BROADCAST;

const WORDS: [&str; 28] = [
    "anyone", "on", "the", "summit", "today", "signal", "is", "fine", "down", "here", "battery",
    "low", "see", "you", "at", "harbour", "rain", "coming", "over", "ridge", "café", "open", "✓",
    "testing", "new", "antenna", "copy", "73",
];

/// When the next packet comes from the air.
#[derive(Debug)]
pub(super) struct Air {
    pub(super) next: Option<Instant>,
    rng: Rng,
}

impl Air {
    pub(super) fn new(seed: u64) -> Self {
        Self { next: None, rng: Rng::new(seed ^ 0x0061_6972) }
    }

    /// Arms the next packet: after half to one and a half of the mean time.
    pub(super) fn arm(&mut self, now: Instant, per_minute: u32) {
        self.next = (per_minute > 0).then(|| {
            let mean = (60_000 / per_minute).max(1);
            now + Duration::from_millis(u64::from((mean / 2).max(1) + self.rng.below(mean + 1)))
        });
    }

    /// A packet from one of the nodes; `None` if there are none.
    pub(super) fn packet(&mut self, mesh: &Mesh, unix_time: u32) -> Option<MeshPacket> {
        let node = mesh.nodes.get(self.rng.below(mesh.nodes.len() as u32) as usize)?;
        let (port, payload) = loop {
            let (port, payload) = self.payload(node, unix_time);
            if !holds_magic(&payload) {
                break (port, payload);
            }
        };
        Some(self.heard(node, BROADCAST, port, payload, unix_time))
    }

    /// A text from one of the nodes; `None` if there are none.
    pub(super) fn text(&mut self, mesh: &Mesh, unix_time: u32) -> Option<MeshPacket> {
        let node = mesh.nodes.get(self.rng.below(mesh.nodes.len() as u32) as usize)?;
        let payload = self.words();
        Some(self.heard(node, BROADCAST, PortNum::TextMessageApp, payload, unix_time))
    }

    /// A packet from `node` as it is heard.
    pub(super) fn heard(
        &mut self,
        node: &Node,
        to: u32,
        port: PortNum,
        payload: Vec<u8>,
        unix_time: u32,
    ) -> MeshPacket {
        let data = Data { portnum: port as i32, payload, bitfield: Some(1), ..Data::default() };
        let hop_start = 3 + self.rng.below(3);
        MeshPacket {
            from: node.num,
            to,
            id: clean_number(&mut self.rng),
            rx_time: unix_time,
            rx_snr: node.snr,
            rx_rssi: -40 - self.rng.below(80) as i32,
            hop_start,
            hop_limit: hop_start - node.hops.min(3),
            relay_node: node.num & 0xFF,
            transport_mechanism: mesh_packet::TransportMechanism::TransportLora as i32,
            payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
            ..MeshPacket::default()
        }
    }

    fn payload(&mut self, node: &Node, time: u32) -> (PortNum, Vec<u8>) {
        match self.rng.below(10) {
            0..4 => (PortNum::TextMessageApp, self.words()),
            4..6 => (PortNum::PositionApp, Position { time, ..node.place }.encode_to_vec()),
            6..8 => {
                let metrics = telemetry::Variant::DeviceMetrics(node.metrics);
                let message = Telemetry { time, variant: Some(metrics) };
                (PortNum::TelemetryApp, message.encode_to_vec())
            }
            8 => {
                let metrics = EnvironmentMetrics {
                    temperature: Some(self.rng.below(400) as f32 / 10.0 - 10.0),
                    relative_humidity: Some(self.rng.below(1_000) as f32 / 10.0),
                    barometric_pressure: Some(950.0 + self.rng.below(800) as f32 / 10.0),
                    ..EnvironmentMetrics::default()
                };
                let variant = Some(telemetry::Variant::EnvironmentMetrics(metrics));
                (PortNum::TelemetryApp, Telemetry { time, variant }.encode_to_vec())
            }
            _ => (PortNum::NodeinfoApp, node.user.encode_to_vec()),
        }
    }

    fn words(&mut self) -> Vec<u8> {
        let count = 1 + self.rng.below(12);
        let words: Vec<_> =
            (0..count).map(|_| WORDS[self.rng.below(WORDS.len() as u32) as usize]).collect();
        words.join(" ").into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Identity;
    use super::*;

    #[test]
    fn traffic_keeps_its_rate_and_fits() {
        let mesh = Mesh::new(&Identity::default(), 1);
        let mut air = Air::new(1);
        let mut now = Instant::ORIGIN;
        let mut count = 0;
        while now < Instant::from_millis(3_600_000) {
            air.arm(now, 30);
            now = air.next.expect("there is traffic");
            let packet = air.packet(&mesh, 1).expect("there are nodes");
            assert!(packet.encoded_len() < 300 && packet.id != 0);
            assert!(!holds_magic(&packet.encode_to_vec()));
            count += 1;
        }
        assert!((1_700..1_900).contains(&count), "{count} packets in an hour at 30 a minute");
    }

    #[test]
    fn silence_has_no_deadline() {
        let mut air = Air::new(1);
        air.arm(Instant::ORIGIN, 0);
        assert_eq!(air.next, None);
    }
}
