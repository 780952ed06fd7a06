//! Against what a simulated and a real node wrote, and against what no node writes.

mod disk;
mod replays;

use core::time::Duration;

use meshbeat_core::decoder::{Decoder, Item};
use meshbeat_core::peek::FromRadio as Peeked;
use meshbeat_core::rng::Rng;
use meshbeat_core::time::Instant;
use meshbeat_proto::from_radio::PayloadVariant as Variant;
use meshbeat_proto::mesh_packet::PayloadVariant as Content;
use meshbeat_proto::{
    Channel, Data, DeviceMetrics, EnvironmentMetrics, FileInfo, FromRadio, LockdownStatus,
    MeshPacket, MyNodeInfo, NodeInfo, Position, Telemetry, ToRadio, User, telemetry, to_radio,
};
use prost::Message as _;

use super::memory::{MAX_KEPT, MAX_SEEN};
use super::*;
use crate::relay::wire;
use crate::sim::{ConnId, SimConfig, SimNode};

const NONCES: [(u32, Ask); 3] =
    [(7, Ask::Full), (69_420, Ask::ConfigOnly), (69_421, Ask::NodesOnly)];

/// A simulated node and how far its time has gone.
struct Bench {
    node: SimNode,
    now: Instant,
    conns: u64,
}

impl Bench {
    fn new(nodes: u32, change: impl FnOnce(&mut SimConfig)) -> Self {
        let mut config = SimConfig::default();
        config.identity.nodes = nodes;
        config.traffic.per_minute = 0;
        change(&mut config);
        Self { node: SimNode::new(config, 1), now: Instant::ORIGIN, conns: 0 }
    }

    /// The payloads of one session that asks for the configuration with `nonce` and stays for a
    /// minute.
    fn session(&mut self, nonce: u32) -> Vec<Vec<u8>> {
        self.conns += 1;
        let conn = ConnId(self.conns);
        self.node.handle_connect(self.now, conn);
        let want = to_radio::PayloadVariant::WantConfigId(nonce);
        let want = ToRadio { payload_variant: Some(want) }.encode_to_vec();
        self.node.handle_bytes(self.now, conn, &wire::framed(&want).unwrap());
        let mut stream = Vec::new();
        let end = self.now + Duration::from_secs(60);
        loop {
            while self.node.poll_action().is_some() {}
            let bytes = self.node.poll_transmit(self.now, conn);
            let len = bytes.len();
            stream.extend_from_slice(bytes);
            if len > 0 {
                self.node.consume(self.now, conn, len);
                continue;
            }
            match self.node.poll_timeout().filter(|at| *at <= end) {
                Some(at) => self.now = at.max(self.now),
                None => break,
            }
            self.node.handle_timeout(self.now);
        }
        self.now = end;
        payloads(&stream)
    }
}

/// A node that tells no more than it must, by hand.
struct Script(Vec<Variant>);

const OWN: u32 = 0x1000_0001;
const OTHER: u32 = 0x1000_0002;

impl Script {
    fn new() -> Self {
        let my_info = MyNodeInfo { my_node_num: OWN, ..MyNodeInfo::default() };
        Self(vec![Variant::MyInfo(my_info), node_info(OWN, |_| ())])
    }

    fn with(mut self, variant: Variant) -> Self {
        self.0.push(variant);
        self
    }

    fn built(self) -> Option<Snapshot> {
        let mut builder = Builder::new();
        for variant in self.0 {
            assert!(take(&mut builder, &payload(variant)));
        }
        builder.finish()
    }
}

/// A snapshot of a node that knows `OTHER` and tells old packets again or not.
fn known(replays: bool) -> Snapshot {
    let script = if replays {
        Script::new().with(Variant::RegionPresets(Default::default()))
    } else {
        Script::new()
    };
    script.with(node_info(OTHER, |_| ())).built().unwrap()
}

fn payloads(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut decoder = Decoder::new();
    let (mut rest, mut payloads) = (stream, Vec::new());
    loop {
        let decoded = decoder.decode(rest);
        match decoded.item {
            Some(Item::Frame(payload)) => payloads.push(payload.to_vec()),
            Some(Item::Noise(_)) => {}
            None if decoded.taken == rest.len() => return payloads,
            None => {}
        }
        rest = &rest[decoded.taken..];
    }
}

fn payload(variant: Variant) -> Vec<u8> {
    FromRadio { id: 0, payload_variant: Some(variant) }.encode_to_vec()
}

fn node_info(num: u32, change: impl FnOnce(&mut NodeInfo)) -> Variant {
    let mut info = NodeInfo { num, ..NodeInfo::default() };
    change(&mut info);
    Variant::NodeInfo(info)
}

fn take(builder: &mut Builder, payload: &[u8]) -> bool {
    builder.take(payload, &Peeked::peek(payload).expect("a message"))
}

fn hear(snapshot: &mut Snapshot, payload: &[u8]) -> Heard {
    let Some(Peeked::Packet(packet)) = Peeked::peek(payload) else { panic!("no packet") };
    snapshot.hear(payload, &packet)
}

/// What the frames of a session make, and how its packets were heard.
fn snapshot_of(session: &[Vec<u8>]) -> (Snapshot, Vec<Heard>) {
    let mut builder = Builder::new();
    let mut snapshot = None;
    let mut heard = Vec::new();
    for payload in session {
        if take(&mut builder, payload) {
            continue;
        }
        match Peeked::peek(payload) {
            Some(Peeked::ConfigComplete(_)) => snapshot = builder.finish(),
            Some(Peeked::Packet(packet)) => {
                heard.push(snapshot.as_mut().unwrap().hear(payload, &packet));
            }
            _ => {}
        }
    }
    (snapshot.unwrap(), heard)
}

fn told(snapshot: &Snapshot, ask: Ask) -> Vec<Vec<u8>> {
    snapshot.handshake(ask).map(|frame| payload_of(frame).to_vec()).collect()
}

fn replayed(snapshot: &Snapshot) -> Vec<Vec<u8>> {
    snapshot.replays().map(|frame| payload_of(frame).to_vec()).collect()
}

/// The payloads before and after `config_complete_id`, of the latter the packets.
fn halves(session: &[Vec<u8>]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let is_end =
        |payload: &Vec<u8>| matches!(Peeked::peek(payload), Some(Peeked::ConfigComplete(_)));
    let end = session.iter().position(is_end).expect("a handshake");
    let packets = session[end..].iter();
    let packets = packets.filter(|p| matches!(Peeked::peek(p), Some(Peeked::Packet(_))));
    (session[..end].to_vec(), packets.cloned().collect())
}

/// The other node's entry.
fn entry(snapshot: &Snapshot) -> NodeInfo {
    let last = told(snapshot, Ask::NodesOnly).pop().unwrap();
    match FromRadio::decode(&last[..]).unwrap().payload_variant {
        Some(Variant::NodeInfo(info)) => info,
        other => panic!("{other:?}"),
    }
}

fn packet(port: PortNum, content: Vec<u8>, change: impl FnOnce(&mut MeshPacket)) -> Vec<u8> {
    let data = Data { portnum: port as i32, payload: content, ..Data::default() };
    let mut packet = MeshPacket {
        from: OTHER,
        to: u32::MAX,
        id: 1,
        rx_rssi: -80,
        payload_variant: Some(Content::Decoded(data)),
        ..MeshPacket::default()
    };
    change(&mut packet);
    payload(Variant::Packet(packet))
}

fn place(latitude: i32) -> Vec<u8> {
    let place =
        Position { latitude_i: Some(latitude), longitude_i: Some(8), ..Position::default() };
    place.encode_to_vec()
}

fn battery(level: u32) -> Vec<u8> {
    let metrics = DeviceMetrics { battery_level: Some(level), ..DeviceMetrics::default() };
    Telemetry { time: 5, variant: Some(telemetry::Variant::DeviceMetrics(metrics)) }.encode_to_vec()
}

fn user(name: &[u8], key: &[u8]) -> Vec<u8> {
    User { long_name: name.to_vec(), public_key: key.to_vec(), ..User::default() }.encode_to_vec()
}

#[test]
fn a_client_is_told_what_the_node_would_tell_it() {
    for (nodes, bad_utf8) in [(0, false), (100, false), (250, true)] {
        let mut bench = Bench::new(nodes, |config| config.identity.bad_utf8 = bad_utf8);
        let (snapshot, heard) = snapshot_of(&bench.session(1));
        assert_eq!(snapshot.node(), bench.node.node_num());
        assert!(heard.iter().all(|heard| *heard == Heard::Replay), "{nodes} nodes");
        assert_eq!(heard.len() > 100, nodes == 250, "there are replays");
        for (nonce, ask) in NONCES {
            assert_eq!(Ask::from_nonce(nonce), ask);
            let (frames, packets) = halves(&bench.session(nonce));
            assert_eq!(told(&snapshot, ask), frames, "{nodes} nodes, {ask:?}");
            if ask == Ask::ConfigOnly {
                assert_eq!(packets.len(), 0);
            } else {
                let (mut ours, mut theirs) = (replayed(&snapshot), packets);
                ours.sort();
                theirs.sort();
                assert_eq!(ours, theirs, "{nodes} nodes, {ask:?}");
            }
        }
    }
}

#[test]
fn a_node_of_an_older_firmware_tells_no_replays() {
    let mut bench = Bench::new(30, |config| config.identity.replays = false);
    let mut session = bench.session(1);
    session.retain(|payload| Peeked::peek(payload) != Some(Peeked::Other(variant::REGION_PRESETS)));
    let (mut snapshot, _) = snapshot_of(&session);
    assert_eq!(told(&snapshot, Ask::Full), halves(&session).0);
    let from = bench.node.neighbours().next().unwrap();
    let position = packet(PortNum::PositionApp, place(47), |packet| packet.from = from);
    assert_eq!(hear(&mut snapshot, &position), Heard::News);
    assert_eq!(snapshot.replays().count(), 0);
}

#[test]
fn a_real_node_s_handshake_comes_back_and_its_replays_are_no_news() {
    let captures = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/captures/");
    let read = |name: &str| payloads(&std::fs::read(format!("{captures}{name}")).unwrap());
    let session = read("handshake-nodes.bin");
    let (mut snapshot, heard) = snapshot_of(&session);
    let (frames, packets) = halves(&session);
    assert_eq!(told(&snapshot, Ask::Full), frames);
    assert_eq!(heard, [Heard::Replay; 60]);
    assert_eq!(replayed(&snapshot).len(), packets.len());
    assert_eq!(told(&snapshot, Ask::NodesOnly), halves(&read("nodes-only.bin")).0);

    let mut seen = HashMap::new();
    for payload in read("traffic.bin") {
        let Some(Peeked::Packet(packet)) = Peeked::peek(&payload) else { continue };
        let again = seen.insert((packet.from, packet.id), ()).is_some();
        let expected = if again { Heard::Replay } else { Heard::News };
        assert_eq!(snapshot.hear(&payload, &packet), expected, "{packet:?}");
    }
    assert!(seen.len() > 300);
}

#[test]
fn files_stay_behind_nodes_that_are_met_later() {
    let file = || Variant::FileInfo(FileInfo { file_name: b"/f".to_vec(), size_bytes: 1 });
    let mut snapshot = Script::new().with(file()).built().unwrap();
    hear(&mut snapshot, &packet(PortNum::TextMessageApp, b"hi".to_vec(), |_| ()));
    let all = told(&snapshot, Ask::Full);
    assert_eq!(all.len(), 4);
    assert_eq!(all[3], payload(file()));
    assert_eq!(all[2], payload(node_info(OTHER, |_| ())));
}

#[test]
fn what_is_new_is_kept_where_it_came_and_what_is_no_configuration_is_not() {
    let mut builder = Builder::new();
    let unknown = b"\xA2\x06\x01x";
    let lockdown =
        payload(Variant::LockdownStatus(LockdownStatus { state: 3, ..Default::default() }));
    assert!(!take(&mut builder, unknown) && !take(&mut builder, &lockdown), "not begun");
    let first = Script::new().0.into_iter().map(payload).collect::<Vec<_>>();
    for payload in [&first[0], &first[1], &unknown.to_vec(), &lockdown] {
        assert!(take(&mut builder, payload));
    }
    for live in [
        packet(PortNum::TextMessageApp, b"hi".to_vec(), |_| ()),
        payload(Variant::QueueStatus(Default::default())),
        payload(Variant::LogRecord(Default::default())),
        payload(Variant::ClientNotification(Default::default())),
        payload(Variant::Rebooted(true)),
        payload(Variant::ConfigCompleteId(1)),
        payload(Variant::XmodemPacket(Default::default())),
        payload(Variant::MqttClientProxyMessage(Default::default())),
        Vec::new(),
    ] {
        assert!(!take(&mut builder, &live), "{live:02x?}");
    }
    let snapshot = builder.finish().unwrap();
    let all = [&first[0], &first[1], &unknown.to_vec(), &lockdown].map(Clone::clone);
    assert_eq!(told(&snapshot, Ask::Full), all);
    assert_eq!(told(&snapshot, Ask::ConfigOnly), all);
    assert_eq!(told(&snapshot, Ask::NodesOnly), all[1..2]);
}

#[test]
fn a_handshake_that_begins_again_is_taken_from_there() {
    let mut builder = Builder::new();
    for variant in Script::new().with(node_info(OTHER, |_| ())).0 {
        take(&mut builder, &payload(variant));
    }
    for variant in Script::new().0 {
        take(&mut builder, &payload(variant));
    }
    assert_eq!(builder.finish().unwrap().handshake(Ask::Full).count(), 2);
    assert!(builder.finish().is_none());
}

#[test]
fn a_locked_or_nameless_node_is_none() {
    let channel = |index, role| Variant::Channel(Channel { index, role, ..Channel::default() });
    let locked = Script::new().with(channel(0, 0)).with(channel(0, 0));
    assert!(locked.built().is_none());
    let unlocked = Script::new().with(channel(0, 0)).with(channel(1, 0));
    assert!(unlocked.built().is_some());
    assert!(Script::new().built().is_some(), "no channels are not empty ones");
    assert!(Script(vec![Variant::MyInfo(MyNodeInfo::default())]).built().is_none());
    assert!(Builder::new().finish().is_none());
}

#[test]
fn the_node_is_heard() {
    let mut snapshot = known(false);
    let text =
        |change: &dyn Fn(&mut MeshPacket)| packet(PortNum::TextMessageApp, b"hi".to_vec(), change);
    hear(
        &mut snapshot,
        &text(&|packet| {
            (packet.id, packet.rx_time, packet.rx_snr) = (1, 1_000, 4.5);
            (packet.hop_start, packet.hop_limit, packet.via_mqtt) = (3, 3, true);
            packet.channel = 2;
        }),
    );
    let info = entry(&snapshot);
    assert_eq!((info.last_heard, info.snr, info.hops_away), (1_000, 4.5, Some(0)));
    assert!(info.via_mqtt && info.channel == 0, "the channel comes with the name");
    // Nothing known of time, signal and hops; then something that is older.
    hear(&mut snapshot, &text(&|packet| packet.id = 2));
    hear(
        &mut snapshot,
        &text(&|packet| {
            (packet.id, packet.rx_time, packet.rx_snr, packet.hop_start) = (3, 999, 1.0, 7);
        }),
    );
    // More hops left than there were.
    hear(
        &mut snapshot,
        &text(&|packet| {
            (packet.id, packet.hop_start, packet.hop_limit) = (4, 1, 3);
        }),
    );
    let expected = NodeInfo { via_mqtt: false, ..info };
    assert_eq!(entry(&snapshot), expected);
    // Encrypted: whoever sent it is not known to be the sender.
    hear(
        &mut snapshot,
        &text(&|packet| {
            (packet.id, packet.rx_time) = (5, 2_000);
            packet.payload_variant = Some(Content::Encrypted(vec![1]));
        }),
    );
    assert_eq!(entry(&snapshot), expected);
}

#[test]
fn names_places_and_batteries_are_taken_over_byte_for_byte() {
    let mut snapshot = known(false);
    let mut name = user(b"Caf\xC3", b"");
    name.extend(b"\xA2\x06\x03new");
    let nameinfo = packet(PortNum::NodeinfoApp, name.clone(), |packet| packet.channel = 2);
    hear(&mut snapshot, &nameinfo);
    hear(&mut snapshot, &packet(PortNum::PositionApp, place(47), |packet| packet.id = 2));
    hear(&mut snapshot, &packet(PortNum::TelemetryApp, battery(90), |packet| packet.id = 3));
    let last = told(&snapshot, Ask::NodesOnly).pop().unwrap();
    let info = wire::message(&last, 4).unwrap();
    assert_eq!(wire::message(info, 2), Some(&name[..]));
    assert_eq!(wire::message(info, 3), Some(&place(47)[..]));
    assert_eq!(entry(&snapshot).device_metrics.unwrap().battery_level, Some(90));
    assert_eq!(entry(&snapshot).channel, 2);

    // What says nothing changes nothing, and neither does what is no message.
    let before = entry(&snapshot);
    let air = telemetry::Variant::EnvironmentMetrics(EnvironmentMetrics::default());
    let air = Telemetry { time: 1, variant: Some(air) }.encode_to_vec();
    for (id, (port, content)) in [
        (PortNum::NodeinfoApp, Vec::new()),
        (PortNum::PositionApp, Vec::new()),
        (PortNum::PositionApp, Position { time: 9, ..Position::default() }.encode_to_vec()),
        (PortNum::PositionApp, [&place(48)[..], &[0x0A, 9]].concat()),
        (PortNum::TelemetryApp, air),
        (PortNum::TelemetryApp, [&battery(1)[..], &[0x0A, 9]].concat()),
        (PortNum::NodeinfoApp, b"\x0D\x01\x02\x03\x04".to_vec()),
        (PortNum::NodeinfoApp, vec![0xFF; 3]),
    ]
    .into_iter()
    .enumerate()
    {
        hear(&mut snapshot, &packet(port, content, |packet| packet.id = 10 + id as u32));
        assert_eq!(entry(&snapshot), before, "{id}");
    }
}

#[test]
fn fields_that_are_not_known_stay_through_updates() {
    let mut info = NodeInfo { num: OTHER, is_favorite: true, ..NodeInfo::default() };
    info.user = Some(User { long_name: b"old".to_vec(), ..User::default() });
    let mut info = info.encode_to_vec();
    info.extend(b"\xA2\x06\x03new");
    let mut outer = b"\xAA\x06\x05outer".to_vec();
    wire::put_bytes(&mut outer, 4, &info);
    let mut builder = Builder::new();
    for payload in Script::new().0.into_iter().map(payload).chain([outer]) {
        assert!(take(&mut builder, &payload));
    }
    let mut snapshot = builder.finish().unwrap();
    let rename = packet(PortNum::NodeinfoApp, user(b"young", b""), |packet| packet.rx_time = 9);
    hear(&mut snapshot, &rename);
    let last = told(&snapshot, Ask::NodesOnly).pop().unwrap();
    assert_eq!(wire::message(&last, 101), Some(&b"outer"[..]));
    assert_eq!(wire::message(wire::message(&last, 4).unwrap(), 100), Some(&b"new"[..]));
    let info = entry(&snapshot);
    assert_eq!(info.user.unwrap().long_name, b"young");
    assert!(info.is_favorite && info.last_heard == 9);
}

#[test]
fn a_public_key_stays_what_it_was_first() {
    let mut snapshot = known(false);
    let keys = [&b""[..], b"k1", b"", b"k2", b"k1"];
    let names = [&b"a"[..], b"b", b"c", b"evil", b"d"];
    let expected = [&b"a"[..], b"b", b"c", b"c", b"d"];
    for id in 0..keys.len() {
        let user = user(names[id], keys[id]);
        hear(&mut snapshot, &packet(PortNum::NodeinfoApp, user, |p| p.id = id as u32 + 1));
        let user = entry(&snapshot).user.unwrap();
        assert_eq!(user.long_name, expected[id]);
        assert_eq!(user.public_key, if id == 0 { &b""[..] } else { b"k1" });
    }
}

#[test]
fn an_entry_that_would_fit_no_frame_stays_as_it_was() {
    let mut snapshot = known(false);
    let long =
        |len| packet(PortNum::NodeinfoApp, user(&vec![b'x'; len], b""), |p| p.id = len as u32);
    hear(&mut snapshot, &long(100));
    // It fits a packet's frame, and with what else is known of the node it does not.
    let position = place(1).into_iter().chain([0xA2, 0x06, 100]).chain([0; 100]).collect();
    hear(&mut snapshot, &packet(PortNum::PositionApp, position, |packet| packet.id = 1_000));
    let payload = long(400);
    assert!(payload.len() < 512);
    hear(&mut snapshot, &payload);
    assert_eq!(entry(&snapshot).user.unwrap().long_name.len(), 100);
}

#[test]
fn the_own_entry_takes_place_and_battery_but_no_signal() {
    for replays in [false, true] {
        let mut snapshot = known(replays);
        let own = |packet: &mut MeshPacket| {
            (packet.from, packet.rx_snr, packet.rx_time) = (OWN, 3.0, 77);
            packet.hop_start = 3;
        };
        hear(&mut snapshot, &packet(PortNum::TelemetryApp, battery(50), own));
        let first = told(&snapshot, Ask::NodesOnly).swap_remove(0);
        let metrics = DeviceMetrics { battery_level: Some(50), ..DeviceMetrics::default() };
        let expected = node_info(OWN, |info| info.device_metrics = Some(metrics));
        assert_eq!(first, payload(expected), "replays {replays}");
    }
}

#[test]
fn entries_stay_thin_where_places_follow_as_packets() {
    let mut snapshot = known(true);
    let position = packet(PortNum::PositionApp, place(47), |packet| packet.rx_time = 50);
    assert_eq!(hear(&mut snapshot, &position), Heard::News);
    let telemetry = packet(PortNum::TelemetryApp, battery(9), |packet| packet.id = 2);
    hear(&mut snapshot, &telemetry);
    let info = entry(&snapshot);
    assert_eq!((info.position, info.device_metrics, info.last_heard), (None, None, 50));
    assert_eq!(replayed(&snapshot), [position, telemetry]);
}

#[test]
fn a_newer_handshake_holds_and_packets_stay() {
    let position = |from, id| {
        packet(PortNum::PositionApp, place(1), |packet| {
            (packet.from, packet.id, packet.rx_time) = (from, id, 60);
        })
    };
    let mut old = known(true);
    hear(&mut old, &position(OTHER, 1));
    hear(&mut old, &position(OTHER + 1, 2));
    assert_eq!((old.handshake(Ask::Full).count(), old.replays().count()), (5, 2));

    let fresh = told(&known(true), Ask::Full);
    let mut new = known(true).succeeding(old);
    assert_eq!(told(&new, Ask::Full), fresh, "what the node told, and nobody it forgot");
    assert_eq!(replayed(&new), [position(OTHER, 1)]);
    assert_eq!(hear(&mut new, &position(OTHER, 1)), Heard::Replay);
    assert_eq!(hear(&mut new, &position(OTHER + 1, 2)), Heard::Replay, "heard all the same");

    let mut renumbered = Script::new();
    renumbered.0[0] = Variant::MyInfo(MyNodeInfo { my_node_num: 5, ..MyNodeInfo::default() });
    renumbered.0[1] = node_info(5, |_| ());
    let renumbered = renumbered.with(Variant::RegionPresets(Default::default()));
    let mut renumbered = renumbered.with(node_info(OTHER, |_| ())).built().unwrap().succeeding(new);
    assert_eq!((renumbered.node(), renumbered.replays().count()), (5, 0));
    assert_eq!(hear(&mut renumbered, &position(OTHER, 1)), Heard::News);
}

#[test]
fn nothing_grows_without_bound() {
    let mut builder = Builder::new();
    for variant in Script::new().0 {
        take(&mut builder, &payload(variant));
    }
    for index in 0..2_000 {
        let channel = Channel { index, role: 1, ..Channel::default() };
        let file = FileInfo { file_name: b"f".to_vec(), size_bytes: index as u32 };
        for variant in [
            Variant::Channel(channel),
            Variant::FileInfo(file),
            Variant::Config(Default::default()),
        ] {
            assert!(take(&mut builder, &payload(variant)));
        }
    }
    for index in 0..10_010 {
        take(&mut builder, &payload(node_info(0x2000_0000 + index, |_| ())));
    }
    take(&mut builder, &payload(Variant::RegionPresets(Default::default())));
    let mut snapshot = builder.finish().unwrap();
    // my_info is one of the 512.
    assert_eq!(snapshot.handshake(Ask::ConfigOnly).count(), 1 + 64 + 256 + 512);
    assert_eq!(snapshot.handshake(Ask::NodesOnly).count(), 1 + MAX_NODES);
    let channels = told(&snapshot, Ask::ConfigOnly);
    let last = Channel { index: 63, role: 1, ..Channel::default() };
    assert!(channels.contains(&payload(Variant::Channel(last))), "the first are kept");

    snapshot.repeats = true;
    for index in 0..11_000 {
        for (port, content) in
            [(PortNum::PositionApp, place(1)), (PortNum::TelemetryApp, battery(1))]
        {
            let payload = packet(port, content, |packet| {
                (packet.from, packet.id) = (0x2000_0000 + index, 1 + port as u32);
            });
            hear(&mut snapshot, &payload);
        }
    }
    assert_eq!(snapshot.handshake(Ask::NodesOnly).count(), 1 + MAX_NODES);
    assert_eq!(snapshot.replays().count(), MAX_KEPT);
    assert_eq!(snapshot.memory.seen().count(), MAX_SEEN);
}

#[test]
fn nobody_is_met_under_a_number_that_no_node_has() {
    let mut snapshot = known(false);
    for from in [0, u32::MAX] {
        hear(&mut snapshot, &packet(PortNum::TextMessageApp, vec![1], |p| p.from = from));
    }
    assert_eq!(snapshot.handshake(Ask::NodesOnly).count(), 2);
}
