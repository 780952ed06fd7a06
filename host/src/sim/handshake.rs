//! What a node tells a client that asks for its configuration, in the firmware's order
//! (`PhoneAPI::getFromRadio`), and the cached packets that follow since 2.8.

use std::collections::VecDeque;

use meshbeat_core::rng::Rng;
use meshbeat_proto::{
    Data, FileInfo, FromRadio, LoRaPresetGroup, LoRaRegionPresetMap, LoRaRegionPresets, MeshPacket,
    MyNodeInfo, NodeInfo, PortNum, Telemetry, from_radio, mesh_packet, telemetry,
};
use prost::Message;

use super::config::Identity;
use super::mesh::{Mesh, clean_number, clean_time};
use crate::dest::BROADCAST;

/// Everything but the other nodes (2.3.11+).
pub(super) const CONFIG_ONLY: u32 = 69_420;
/// The nodes alone (2.6.8+).
pub(super) const NODES_ONLY: u32 = 69_421;

/// One payload of a `FromRadio`; `id` is always 0 on a stream.
pub(super) fn payload(variant: from_radio::PayloadVariant) -> Vec<u8> {
    FromRadio { id: 0, payload_variant: Some(variant) }.encode_to_vec()
}

/// The payloads that answer `want_config_id = nonce`; the last one is its `config_complete_id`.
pub(super) fn frames(mesh: &Mesh, identity: &Identity, nonce: u32) -> VecDeque<Vec<u8>> {
    use from_radio::PayloadVariant as Variant;
    let info = |node: NodeInfo| Variant::NodeInfo(node);
    let own = info(mesh.own_info());
    let others = mesh.nodes.iter().map(|node| info(node.info(identity.epoch, identity.bad_utf8)));

    let mut variants = Vec::new();
    if nonce == NODES_ONLY {
        variants.push(own);
        variants.extend(others);
    } else {
        variants.push(Variant::MyInfo(my_info(mesh)));
        variants.push(Variant::DeviceuiConfig(mesh.ui.clone()));
        variants.push(own);
        variants.push(Variant::Metadata(mesh.metadata()));
        variants.push(Variant::RegionPresets(region_presets()));
        variants.extend(mesh.channels.iter().cloned().map(Variant::Channel));
        variants.extend(mesh.configs.iter().cloned().map(Variant::Config));
        variants.extend(mesh.modules.iter().cloned().map(Variant::ModuleConfig));
        if nonce != CONFIG_ONLY {
            variants.extend(others);
        }
        variants.extend(files().map(Variant::FileInfo));
    }
    variants.push(Variant::ConfigCompleteId(nonce));
    variants.into_iter().map(payload).collect()
}

/// The last position and telemetry of each node that had any, as the ordinary packets they once
/// were, their old ids and times included.
pub(super) fn replays(mesh: &Mesh, epoch: u32) -> VecDeque<MeshPacket> {
    let mut packets = VecDeque::new();
    for node in mesh.nodes.iter().filter(|node| node.num % 2 == 0) {
        let time = clean_time(epoch.saturating_sub(node.age));
        let place = meshbeat_proto::Position { time, ..node.place };
        packets.push_back(replay(node, time, PortNum::PositionApp, place.encode_to_vec()));
    }
    for node in mesh.nodes.iter().filter(|node| node.num % 3 == 0) {
        let time = clean_time(epoch.saturating_sub(node.age));
        let metrics = telemetry::Variant::DeviceMetrics(node.metrics);
        let telemetry = Telemetry { time, variant: Some(metrics) };
        packets.push_back(replay(node, time, PortNum::TelemetryApp, telemetry.encode_to_vec()));
    }
    packets
}

fn replay(node: &super::mesh::Node, time: u32, port: PortNum, payload: Vec<u8>) -> MeshPacket {
    let data = Data { portnum: port as i32, payload, ..Data::default() };
    MeshPacket {
        from: node.num,
        to: BROADCAST,
        // The same packet each time, so the same id.
        id: clean_number(&mut Rng::new(u64::from(node.num) << 8 | port as u64)),
        rx_time: time,
        rx_snr: node.snr,
        hop_start: 3,
        hop_limit: 3 - node.hops.min(3),
        priority: mesh_packet::Priority::Background as i32,
        transport_mechanism: mesh_packet::TransportMechanism::TransportLora as i32,
        payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
        ..MeshPacket::default()
    }
}

fn my_info(mesh: &Mesh) -> MyNodeInfo {
    MyNodeInfo {
        my_node_num: mesh.num,
        reboot_count: mesh.boots,
        min_app_version: 30_200,
        device_id: mesh.owner.public_key.iter().copied().take(16).collect(),
        pio_env: b"native".to_vec(),
        nodedb_count: mesh.nodes.len() as u32 + 1,
        ..MyNodeInfo::default()
    }
}

fn region_presets() -> LoRaRegionPresetMap {
    let group = |presets: core::ops::RangeInclusive<i32>| LoRaPresetGroup {
        default_preset: *presets.start(),
        presets: presets.collect(),
        ..LoRaPresetGroup::default()
    };
    let member = |region| LoRaRegionPresets { region, group_index: u32::from(region == 13) };
    LoRaRegionPresetMap {
        groups: vec![group(0..=9), group(0..=8)],
        region_groups: (1..=26).map(member).collect(),
    }
}

fn files() -> impl Iterator<Item = FileInfo> {
    [("device", 114), ("nodes", 472), ("channels", 55), ("config", 168), ("module", 106)]
        .into_iter()
        .map(|(name, size_bytes)| FileInfo {
            file_name: format!("/prefs/{name}.proto").into_bytes(),
            size_bytes,
        })
}

#[cfg(test)]
mod tests {
    use meshbeat_core::frame::MAX_PAYLOAD;

    use super::*;

    fn variants(nonce: u32, identity: &Identity) -> Vec<from_radio::PayloadVariant> {
        let mesh = Mesh::new(identity, 1);
        let frames = frames(&mesh, identity, nonce);
        assert!(frames.iter().all(|frame| frame.len() <= MAX_PAYLOAD));
        let decode = |frame: Vec<u8>| FromRadio::decode(&frame[..]).expect("our own frame");
        frames.into_iter().filter_map(|frame| decode(frame).payload_variant).collect()
    }

    /// One letter per frame.
    fn shape(variants: &[from_radio::PayloadVariant]) -> String {
        use from_radio::PayloadVariant as Variant;
        let letter = |variant: &_| match variant {
            Variant::MyInfo(_) => 'M',
            Variant::DeviceuiConfig(_) => 'u',
            Variant::NodeInfo(_) => 'n',
            Variant::Metadata(_) => 'd',
            Variant::RegionPresets(_) => 'r',
            Variant::Channel(_) => 'c',
            Variant::Config(_) => 'C',
            Variant::ModuleConfig(_) => 'm',
            Variant::FileInfo(_) => 'f',
            Variant::ConfigCompleteId(_) => '.',
            _ => '?',
        };
        variants.iter().map(letter).collect()
    }

    #[test]
    fn a_fresh_node_tells_46_frames_in_the_order_of_a_real_one() {
        let identity = Identity { nodes: 0, ..Identity::default() };
        let all = variants(4660, &identity);
        assert_eq!(shape(&all), "MundrccccccccCCCCCCCCCCmmmmmmmmmmmmmmmmmfffff.");
        assert_eq!(all.len(), 46);
        assert_eq!(all.last(), Some(&from_radio::PayloadVariant::ConfigCompleteId(4660)));
    }

    #[test]
    fn special_nonces_split_the_handshake() {
        let identity = Identity { nodes: 3, ..Identity::default() };
        assert_eq!(shape(&variants(NODES_ONLY, &identity)), "nnnn.");
        let config_only = shape(&variants(CONFIG_ONLY, &identity));
        assert_eq!(config_only, "MundrccccccccCCCCCCCCCCmmmmmmmmmmmmmmmmmfffff.");
        let full = shape(&variants(1, &identity));
        assert_eq!(full, "MundrccccccccCCCCCCCCCCmmmmmmmmmmmmmmmmmnnnfffff.");
    }

    #[test]
    fn no_payload_holds_the_magic() {
        let identity = Identity { nodes: 250, ..Identity::default() };
        for seed in 0..20 {
            let mesh = Mesh::new(&identity, seed);
            let packets = replays(&mesh, identity.epoch).into_iter();
            let packets = packets.map(|packet| payload(from_radio::PayloadVariant::Packet(packet)));
            let all = frames(&mesh, &identity, 1).into_iter().chain(packets);
            let dirty = all.filter(|payload| super::super::mesh::holds_magic(payload));
            assert_eq!(dirty.count(), 0, "seed {seed}");
        }
    }

    #[test]
    fn replays_keep_their_ids_and_times() {
        let identity = Identity::default();
        let mesh = Mesh::new(&identity, 1);
        let first = replays(&mesh, identity.epoch);
        assert!(first.len() > 50 && first.iter().all(|packet| packet.rx_time < identity.epoch));
        let mut ids: Vec<_> = first.iter().map(|packet| packet.id).collect();
        assert_eq!(first, replays(&mesh, identity.epoch));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), first.len());
    }
}
