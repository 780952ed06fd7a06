//! A packet of the mesh as one line: for people, or as a JSON object.

use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use meshbeat::dest::{BROADCAST, node_id};
use meshbeat_proto::{
    Data, HardwareModel, MeshPacket, NeighborInfo, PortNum, Position, RouteDiscovery, Routing,
    User, Waypoint, mesh_packet, routing, text,
};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use serde_json::{Map, json};

use crate::commands::names::{channel_name, enum_name, printable};
use crate::commands::snapshot::Snapshot;

/// What a packet says, as far as its port number is known here.
#[derive(Debug)]
enum Content {
    Text(String),
    Position(Position),
    /// The kind of the measurements, and they themselves, under their official names.
    Telemetry(String, Map<String, serde_json::Value>),
    User(User),
    /// `Routing.Error`; 0 acknowledges.
    Routing(i32),
    Route(RouteDiscovery),
    Neighbors(NeighborInfo),
    Waypoint(Waypoint),
    /// Another port number, or a payload that is none of its own.
    Other,
    /// Encrypted with a key that the node does not have.
    Encrypted,
}

impl Content {
    fn of(packet: &MeshPacket) -> Self {
        let Some(Data { portnum, payload, .. }) = data(packet) else { return Self::Encrypted };
        let bytes = &payload[..];
        let known = match PortNum::try_from(*portnum) {
            Ok(
                PortNum::TextMessageApp
                | PortNum::AlertApp
                | PortNum::DetectionSensorApp
                | PortNum::ReplyApp
                | PortNum::RangeTestApp,
            ) => Some(Self::Text(text(bytes).into_owned())),
            Ok(PortNum::PositionApp) => Position::decode(bytes).ok().map(Self::Position),
            Ok(PortNum::TelemetryApp) => {
                telemetry(bytes).map(|(kind, fields)| Self::Telemetry(kind, fields))
            }
            Ok(PortNum::NodeinfoApp) => User::decode(bytes).ok().map(Self::User),
            Ok(PortNum::RoutingApp) => Routing::decode(bytes).ok().and_then(|routing| {
                Some(match routing.variant? {
                    routing::Variant::ErrorReason(error) => Self::Routing(error),
                    routing::Variant::RouteRequest(route) | routing::Variant::RouteReply(route) => {
                        Self::Route(route)
                    }
                })
            }),
            Ok(PortNum::TracerouteApp) => RouteDiscovery::decode(bytes).ok().map(Self::Route),
            Ok(PortNum::NeighborinfoApp) => NeighborInfo::decode(bytes).ok().map(Self::Neighbors),
            Ok(PortNum::WaypointApp) => Waypoint::decode(bytes).ok().map(Self::Waypoint),
            _ => None,
        };
        known.unwrap_or(Self::Other)
    }
}

/// The line for people: when, from whom, to whom unless to all, on which channel, what.
pub(super) fn plain(packet: &MeshPacket, mesh: &Snapshot) -> String {
    let name = |number: u32| match mesh.long_name(number) {
        Some(name) => format!("{} {}", printable(&name), node_id(number)),
        None => node_id(number),
    };
    let to = match packet.to {
        BROADCAST => String::new(),
        to => format!(" to {}", name(to)),
    };
    let channel = match (data(packet), mesh.channels.get(&packet.channel.cast_signed())) {
        // The number of an encrypted packet's channel is a hash.
        (None, _) => String::new(),
        (Some(_), Some(channel)) => {
            format!(" [{} {}]", packet.channel, printable(&channel_name(channel)))
        }
        (Some(_), None) => format!(" [{}]", packet.channel),
    };
    let (when, from) = (local_time(packet.rx_time, &TimeZone::system()), name(packet.from));
    format!("{when} {from}{to}{channel}: {}", summary(packet))
}

/// The object for programs; what is not known is null.
pub(super) fn object(packet: &MeshPacket) -> serde_json::Value {
    let data = data(packet);
    let by_radio = packet.rx_snr != 0.0 || packet.rx_rssi != 0;
    let hops = packet.hop_start.checked_sub(packet.hop_limit).filter(|_| packet.hop_start > 0);
    let request_id = data.map(|data| data.request_id).filter(|id| *id != 0);
    let mut object = json!({
        "from": node_id(packet.from), "to": node_id(packet.to), "id": packet.id,
        "channel": data.map(|_| packet.channel),
        "port": data.map(port_name),
        "rx_time": (packet.rx_time != 0).then_some(packet.rx_time),
        "snr": by_radio.then(|| number(packet.rx_snr)),
        "rssi": by_radio.then_some(packet.rx_rssi),
        "hops": hops, "want_ack": packet.want_ack, "request_id": request_id,
    });
    let (key, value) = match Content::of(packet) {
        Content::Text(text) => ("text", json!(text)),
        Content::Position(Position { latitude_i, longitude_i, altitude, .. }) => {
            let (lat, lon) = (latitude_i.map(degrees), longitude_i.map(degrees));
            ("position", json!({ "lat": lat, "lon": lon, "alt": altitude }))
        }
        Content::Telemetry(kind, fields) => ("telemetry", json!({ kind: fields })),
        Content::User(user) => {
            let hardware = enum_name(user.hw_model, HardwareModel::as_str_name);
            let (long, short) = (text(&user.long_name), text(&user.short_name));
            ("user", json!({ "long_name": long, "short_name": short, "hardware": hardware }))
        }
        Content::Routing(error) => ("routing_error", json!(routing_name(error))),
        Content::Route(_) | Content::Neighbors(_) | Content::Waypoint(_) | Content::Other => {
            ("payload", json!(data.map(|data| hex(&data.payload))))
        }
        Content::Encrypted => ("encrypted", json!(hex(encrypted(packet)))),
    };
    if let Some(object) = object.as_object_mut() {
        object.insert(key.into(), value);
    }
    object
}

/// The official name of a Routing error, or its number when it is newer than we are.
pub(super) fn routing_name(error: i32) -> String {
    enum_name(error, routing::Error::as_str_name)
}

fn data(packet: &MeshPacket) -> Option<&Data> {
    match &packet.payload_variant {
        Some(mesh_packet::PayloadVariant::Decoded(data)) => Some(data),
        _ => None,
    }
}

fn encrypted(packet: &MeshPacket) -> &[u8] {
    match &packet.payload_variant {
        Some(mesh_packet::PayloadVariant::Encrypted(bytes)) => bytes,
        _ => &[],
    }
}

fn summary(packet: &MeshPacket) -> String {
    let (port, len, request) = match data(packet) {
        Some(data) => (port_name(data), data.payload.len(), data.request_id),
        None => (String::new(), 0, 0),
    };
    match Content::of(packet) {
        Content::Text(text) if port == PortNum::TextMessageApp.as_str_name() => printable(&text),
        Content::Text(text) => format!("{port} {}", printable(&text)),
        Content::Position(Position { latitude_i, longitude_i, altitude, .. }) => {
            let altitude = altitude.map_or_else(String::new, |metres| format!(", {metres} m"));
            format!("position {}{altitude}", place(latitude_i, longitude_i))
        }
        Content::Telemetry(kind, fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name} {value}"));
            printable(&format!("{kind}: {}", fields.collect::<Vec<_>>().join(", ")))
        }
        Content::User(user) => {
            let (long, short) = (text(&user.long_name), text(&user.short_name));
            let hardware = enum_name(user.hw_model, HardwareModel::as_str_name);
            format!("node info: {} ({}), {hardware}", printable(&long), printable(&short))
        }
        Content::Routing(0) => format!("acknowledges packet {request:08x}"),
        Content::Routing(error) => {
            format!("routing error {}, packet {request:08x}", routing_name(error))
        }
        Content::Route(route) => format!("traceroute via {}", nodes(&route.route)),
        Content::Neighbors(info) => {
            let neighbors: Vec<_> = info.neighbors.iter().map(|one| one.node_id).collect();
            format!("neighbours: {}", nodes(&neighbors))
        }
        Content::Waypoint(Waypoint { name, latitude_i, longitude_i, .. }) => {
            format!("waypoint {} {}", printable(&text(&name)), place(latitude_i, longitude_i))
        }
        Content::Other => format!("{port}, {len} bytes"),
        Content::Encrypted => format!("encrypted, {} bytes", encrypted(packet).len()),
    }
}

fn nodes(numbers: &[u32]) -> String {
    match numbers {
        [] => "none".into(),
        numbers => numbers.iter().copied().map(node_id).collect::<Vec<_>>().join(", "),
    }
}

fn place(latitude_i: Option<i32>, longitude_i: Option<i32>) -> String {
    match (latitude_i, longitude_i) {
        (Some(lat), Some(lon)) => format!("{:.5}, {:.5}", degrees(lat), degrees(lon)),
        _ => "not told".into(),
    }
}

/// From units of 1e-7 degrees.
fn degrees(units: i32) -> f64 {
    f64::from(units) / 1e7
}

fn port_name(data: &Data) -> String {
    enum_name(data.portnum, PortNum::as_str_name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The moment at which the node heard it, or now if the node has no clock.
fn local_time(rx_time: u32, zone: &TimeZone) -> String {
    let heard = (rx_time != 0).then(|| Timestamp::from_second(rx_time.into()).ok()).flatten();
    let at = heard.unwrap_or_else(Timestamp::now).to_zoned(zone.clone());
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The schema at run time: measurements have a hundred fields, and new ones with every release.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(meshbeat_proto::DESCRIPTORS).expect("the schema that we compiled")
});

/// The kind of the measurements and each with its official name; `None` if there is none.
fn telemetry(payload: &[u8]) -> Option<(String, Map<String, serde_json::Value>)> {
    let schema = POOL.get_message_by_name("meshtastic.Telemetry")?;
    let message = DynamicMessage::decode(schema, payload).ok()?;
    message.fields().find_map(|(field, value)| match value {
        Value::Message(metrics) => Some((field.name().to_owned(), fields(metrics))),
        _ => None,
    })
}

fn fields(message: &DynamicMessage) -> Map<String, serde_json::Value> {
    message.fields().map(|(field, value)| (field.name().to_owned(), to_json(value))).collect()
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(value) => json!(value),
        Value::I32(value) | Value::EnumNumber(value) => json!(value),
        Value::I64(value) => json!(value),
        Value::U32(value) => json!(value),
        Value::U64(value) => json!(value),
        Value::F32(value) => number(*value),
        Value::F64(value) => json!(value),
        Value::String(value) => json!(value),
        Value::Bytes(value) => json!(hex(value)),
        Value::Message(message) => json!(fields(message)),
        Value::List(values) => values.iter().map(to_json).collect(),
        Value::Map(_) => serde_json::Value::Null,
    }
}

/// As short as it was meant: 3.7, not 3.700000047683716. What is no number is null.
fn number(value: f32) -> serde_json::Value {
    value.to_string().parse::<f64>().map_or(serde_json::Value::Null, |short| json!(short))
}

#[cfg(test)]
mod tests {
    use meshbeat_proto::{
        Channel, ChannelSettings, DeviceMetrics, EnvironmentMetrics, Neighbor, NodeInfo, Telemetry,
        channel, from_radio, telemetry,
    };

    use super::*;

    const FROM: u32 = 0x89ab_cdef;

    fn mesh() -> Snapshot {
        let mut mesh = Snapshot::default();
        let long_name = b"Caf\xC3\x1b[2J".to_vec();
        let user = Some(User { long_name, ..User::default() });
        mesh.take(from_radio::PayloadVariant::NodeInfo(NodeInfo {
            num: FROM,
            user,
            ..NodeInfo::default()
        }));
        mesh.take(from_radio::PayloadVariant::Channel(Channel {
            index: 1,
            role: channel::Role::Secondary as i32,
            settings: Some(ChannelSettings { name: b"harbour".to_vec(), ..Default::default() }),
        }));
        mesh
    }

    fn packet(port: PortNum, payload: Vec<u8>) -> MeshPacket {
        MeshPacket {
            from: FROM,
            to: BROADCAST,
            id: 7,
            rx_time: 1_700_000_000,
            rx_snr: 3.7,
            rx_rssi: -90,
            hop_start: 5,
            hop_limit: 3,
            payload_variant: Some(mesh_packet::PayloadVariant::Decoded(Data {
                portnum: port as i32,
                payload,
                request_id: if port == PortNum::RoutingApp { 0x1234 } else { 0 },
                ..Data::default()
            })),
            ..MeshPacket::default()
        }
    }

    fn said(packet: &MeshPacket) -> String {
        let line = plain(packet, &mesh());
        assert_eq!(line.lines().count(), 1);
        line.split_once(": ").expect("a line has a colon").1.to_owned()
    }

    #[test]
    fn a_text_names_sender_channel_and_destination() {
        let mut packet = packet(PortNum::TextMessageApp, b"hi\nthere \xFF".to_vec());
        packet.channel = 1;
        let line = plain(&packet, &mesh());
        let rest = " Caf\u{FFFD}\u{FFFD}[2J !89abcdef [1 harbour]: hi\u{FFFD}there \u{FFFD}";
        assert!(line.ends_with(rest), "{line}");
        packet.to = 42;
        packet.channel = 2;
        let line = plain(&packet, &mesh());
        assert!(line.contains(" !89abcdef to !0000002a [2]: hi"), "{line}");
        assert_eq!(local_time(1_700_000_000, &TimeZone::UTC), "2023-11-14 22:13:20");
    }

    #[test]
    fn json_of_a_text_has_all_fields() {
        let packet = packet(PortNum::TextMessageApp, b"hi\xFF".to_vec());
        let expected = json!({
            "from": "!89abcdef", "to": "!ffffffff", "id": 7, "channel": 0,
            "port": "TEXT_MESSAGE_APP", "rx_time": 1_700_000_000, "snr": 3.7, "rssi": -90,
            "hops": 2, "want_ack": false, "request_id": null, "text": "hi\u{FFFD}",
        });
        assert_eq!(object(&packet), expected);
    }

    #[test]
    fn what_the_node_did_not_tell_is_null() {
        let packet = MeshPacket { from: 1, to: 2, want_ack: true, ..MeshPacket::default() };
        let expected = json!({
            "from": "!00000001", "to": "!00000002", "id": 0, "channel": null, "port": null,
            "rx_time": null, "snr": null, "rssi": null, "hops": null, "want_ack": true,
            "request_id": null, "encrypted": "",
        });
        assert_eq!(object(&packet), expected);
        assert_eq!(said(&packet), "encrypted, 0 bytes");
    }

    #[test]
    fn a_position_is_in_degrees_and_metres() {
        let place = Position {
            latitude_i: Some(473_012_345),
            longitude_i: Some(-85_000_001),
            altitude: Some(412),
            ..Position::default()
        };
        let packet = packet(PortNum::PositionApp, place.encode_to_vec());
        assert_eq!(said(&packet), "position 47.30123, -8.50000, 412 m");
        let expected = json!({ "lat": 47.301_234_5, "lon": -8.500_000_1, "alt": 412 });
        assert_eq!(object(&packet)["position"], expected);
    }

    #[test]
    fn measurements_have_their_official_names() {
        let of = |variant| {
            let message = Telemetry { time: 5, variant: Some(variant) };
            packet(PortNum::TelemetryApp, message.encode_to_vec())
        };
        let device = of(telemetry::Variant::DeviceMetrics(DeviceMetrics {
            battery_level: Some(84),
            voltage: Some(3.7),
            ..DeviceMetrics::default()
        }));
        let expected = json!({ "device_metrics": { "battery_level": 84, "voltage": 3.7 } });
        assert_eq!(object(&device)["telemetry"], expected);
        assert_eq!(said(&device), "device_metrics: battery_level 84, voltage 3.7");
        let weather = of(telemetry::Variant::EnvironmentMetrics(EnvironmentMetrics {
            temperature: Some(f32::NAN),
            one_wire_temperature: vec![0.1, 21.5],
            ..EnvironmentMetrics::default()
        }));
        let expected = json!({ "temperature": null, "one_wire_temperature": [0.1, 21.5] });
        assert_eq!(object(&weather)["telemetry"]["environment_metrics"], expected);
    }

    #[test]
    fn routing_errors_have_their_official_names() {
        let of = |error| {
            let variant = Some(routing::Variant::ErrorReason(error));
            packet(PortNum::RoutingApp, Routing { variant }.encode_to_vec())
        };
        assert_eq!(said(&of(5)), "routing error MAX_RETRANSMIT, packet 00001234");
        assert_eq!(said(&of(0)), "acknowledges packet 00001234");
        assert_eq!(said(&of(99)), "routing error 99, packet 00001234");
        assert_eq!(object(&of(5))["routing_error"], "MAX_RETRANSMIT");
        assert_eq!(object(&of(5))["request_id"], 0x1234);
    }

    #[test]
    fn other_ports_are_a_short_summary_and_hexadecimal() {
        let user =
            User { long_name: b"Ann".to_vec(), short_name: b"A".to_vec(), ..User::default() };
        let route = RouteDiscovery { route: vec![1, 2], ..RouteDiscovery::default() };
        let neighbors = vec![Neighbor { node_id: 3, ..Neighbor::default() }];
        let neighbors = NeighborInfo { neighbors, ..NeighborInfo::default() };
        let waypoint = Waypoint {
            name: b"Hut".to_vec(),
            latitude_i: Some(10_000_000),
            longitude_i: Some(20_000_000),
            ..Waypoint::default()
        };
        for (port, payload, line) in [
            (PortNum::NodeinfoApp, user.encode_to_vec(), "node info: Ann (A), UNSET"),
            (PortNum::TracerouteApp, route.encode_to_vec(), "traceroute via !00000001, !00000002"),
            (PortNum::TracerouteApp, Vec::new(), "traceroute via none"),
            (PortNum::NeighborinfoApp, neighbors.encode_to_vec(), "neighbours: !00000003"),
            (PortNum::WaypointApp, waypoint.encode_to_vec(), "waypoint Hut 1.00000, 2.00000"),
            (PortNum::AlertApp, b"fire".to_vec(), "ALERT_APP fire"),
            (PortNum::PrivateApp, vec![1, 0xAB], "PRIVATE_APP, 2 bytes"),
            (PortNum::PositionApp, vec![0xFF], "POSITION_APP, 1 bytes"),
            (PortNum::TelemetryApp, vec![0xFF], "TELEMETRY_APP, 1 bytes"),
        ] {
            assert_eq!(said(&packet(port, payload)), line);
        }
        assert_eq!(object(&packet(PortNum::PrivateApp, vec![1, 0xAB]))["payload"], "01ab");
        let mut unknown = packet(PortNum::PrivateApp, Vec::new());
        if let Some(mesh_packet::PayloadVariant::Decoded(data)) = &mut unknown.payload_variant {
            data.portnum = 300;
        }
        assert_eq!(object(&unknown)["port"], "300");
    }
}
