//! Every frame that a real node and a real client wrote (`tests/captures` at the top of the
//! repository) decodes, counts as its index says, and holds nothing that the schema lacks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use meshbeat_proto::config::lo_ra_config::{ModemPreset, RegionCode};
use meshbeat_proto::{
    Data, FromRadio, MeshPacket, PortNum, Position, Routing, Telemetry, ToRadio, User, from_radio,
    mesh_packet, module_config, to_radio,
};
use prost::Message;
use serde_json::Value;

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures")
}

/// The payloads of a recording. Recordings are whole, so that all but wake-up bytes is frames.
fn payloads(name: &str) -> Vec<Vec<u8>> {
    let bytes = fs::read(captures().join(name)).unwrap();
    let start = bytes.iter().position(|&byte| byte == 0x94).expect("a frame");
    let (wake, mut rest) = bytes.split_at(start);
    assert!(wake.iter().all(|&byte| byte == 0xc3), "{name}: wake-up bytes only");
    let mut payloads = Vec::new();
    while let [0x94, 0xc3, high, low, tail @ ..] = rest {
        let (payload, next) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        payloads.push(payload.to_vec());
        rest = next;
    }
    assert!(rest.is_empty(), "{name}: {} bytes are no frame", rest.len());
    payloads
}

fn from_radio_frames() -> Vec<FromRadio> {
    let index = index();
    let names = index.keys().filter(|name| !name.contains("toradio"));
    names
        .flat_map(|name| payloads(name))
        .map(|payload| FromRadio::decode(&payload[..]).unwrap())
        .collect()
}

fn index() -> serde_json::Map<String, Value> {
    let text = fs::read_to_string(captures().join("index.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The official name of the variant, as the index has it.
fn from_radio_variant(message: &FromRadio) -> &'static str {
    use from_radio::PayloadVariant as Variant;
    match message.payload_variant.as_ref().expect("a variant that the schema has") {
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
        // The index was made with descriptors that do not have it.
        Variant::RegionPresets(_) => "unknown_to_reference",
    }
}

fn to_radio_variant(message: &ToRadio) -> &'static str {
    use to_radio::PayloadVariant as Variant;
    match message.payload_variant.as_ref().expect("a variant that the schema has") {
        Variant::Packet(_) => "packet",
        Variant::WantConfigId(_) => "want_config_id",
        Variant::Disconnect(_) => "disconnect",
        Variant::XmodemPacket(_) => "xmodemPacket",
        Variant::MqttClientProxyMessage(_) => "mqttClientProxyMessage",
        Variant::Heartbeat(_) => "heartbeat",
    }
}

/// Decodes, and encodes again to the same bytes: so no field of it is unknown.
fn decode_whole<M: Message + Default>(bytes: &[u8]) -> M {
    let message = M::decode(bytes).unwrap();
    assert_eq!(message.encode_to_vec(), bytes);
    message
}

fn decoded(packet: &MeshPacket) -> Option<&Data> {
    match packet.payload_variant.as_ref()? {
        mesh_packet::PayloadVariant::Decoded(data) => Some(data),
        mesh_packet::PayloadVariant::Encrypted(_) => None,
    }
}

#[test]
fn every_frame_decodes_whole_and_counts_as_the_index_says() {
    let index = index();
    assert_eq!(index.len(), 11);
    for (name, expected) in index {
        let mut variants = BTreeMap::new();
        let payloads = payloads(&name);
        for payload in &payloads {
            let variant = if name.contains("toradio") {
                to_radio_variant(&decode_whole::<ToRadio>(payload))
            } else {
                from_radio_variant(&decode_whole::<FromRadio>(payload))
            };
            *variants.entry(variant).or_insert(0_u64) += 1;
        }
        assert_eq!(expected["frames"], payloads.len(), "{name}");
        assert_eq!(expected["variants"], serde_json::to_value(variants).unwrap(), "{name}");
    }
}

#[test]
fn payloads_of_the_ports_decode_whole() {
    let mut seen = BTreeMap::new();
    for frame in from_radio_frames() {
        let Some(from_radio::PayloadVariant::Packet(packet)) = frame.payload_variant else {
            continue;
        };
        let data = decoded(&packet).expect("the recordings have no foreign channel");
        match data.portnum() {
            PortNum::PositionApp => drop(decode_whole::<Position>(&data.payload)),
            PortNum::NodeinfoApp => drop(decode_whole::<User>(&data.payload)),
            PortNum::TelemetryApp => drop(decode_whole::<Telemetry>(&data.payload)),
            PortNum::RoutingApp => drop(decode_whole::<Routing>(&data.payload)),
            PortNum::TextMessageApp => assert!(!data.payload.is_empty()),
            PortNum::SimulatorApp => {}
            other => panic!("a port that the recordings did not have: {other:?}"),
        }
        *seen.entry(data.portnum().as_str_name()).or_insert(0) += 1;
    }
    let ports: Vec<_> = seen.keys().copied().collect();
    assert_eq!(
        ports,
        [
            "NODEINFO_APP",
            "POSITION_APP",
            "ROUTING_APP",
            "SIMULATOR_APP",
            "TELEMETRY_APP",
            "TEXT_MESSAGE_APP"
        ]
    );
}

#[test]
fn region_presets_say_what_is_allowed_where() {
    let frames = from_radio_frames();
    let mut maps = frames.iter().filter_map(|frame| match &frame.payload_variant {
        Some(from_radio::PayloadVariant::RegionPresets(map)) => Some(map),
        _ => None,
    });
    let map = maps.next().expect("a handshake of firmware 2.8");
    assert!(maps.all(|other| other == map));
    let group_of = |region: RegionCode| {
        let entry = map.region_groups.iter().find(|entry| entry.region() == region).unwrap();
        &map.groups[entry.group_index as usize]
    };
    assert_eq!(map.groups.len(), 6);
    let everywhere = group_of(RegionCode::Us);
    assert_eq!(everywhere.default_preset(), ModemPreset::LongFast);
    assert!(everywhere.presets().any(|preset| preset == ModemPreset::MediumTurbo));
    assert!(!everywhere.licensed_only);
    let amateur = group_of(RegionCode::Itu12m);
    assert_eq!(
        amateur.presets().collect::<Vec<_>>(),
        [ModemPreset::TinyFast, ModemPreset::TinySlow]
    );
    assert!(amateur.licensed_only);
}

#[test]
fn the_beacon_module_listens_by_default() {
    let flags: Vec<u32> = from_radio_frames()
        .iter()
        .filter_map(|frame| match frame.payload_variant.as_ref()? {
            from_radio::PayloadVariant::ModuleConfig(config) => config.payload_variant.as_ref(),
            _ => None,
        })
        .filter_map(|section| match section {
            module_config::PayloadVariant::MeshBeacon(beacon) => Some(beacon.flags),
            _ => None,
        })
        .collect();
    use module_config::mesh_beacon_config::Flags;
    let expected = Flags::FlagListenEnabled as u32 | Flags::FlagLegacySplit as u32;
    assert_eq!(flags, [expected; 6]);
}
