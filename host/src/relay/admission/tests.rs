use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use meshbeat_core::peek::{FromRadio, is_to_radio};
use meshbeat_core::rng::Rng;
use meshbeat_proto::admin_message::PayloadVariant as Admin;
use meshbeat_proto::mesh_packet::PayloadVariant as Content;
use meshbeat_proto::to_radio::PayloadVariant as Variant;
use meshbeat_proto::{AdminMessage, DESCRIPTORS, ToRadio};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};

use super::Policy::{Full, NoAdmin, ReadOnly};
use super::*;

const OWN: u32 = 0x89AB_CDEF;
const OTHER: u32 = 0x1234_5678;
const SECRET: [u8; 32] = *b"the secret of thirty-two octets!";

fn bytes(number: u32, inner: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_bytes(&mut out, number, inner.as_ref());
    out
}

fn varint(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_varint(&mut out, number, value);
    out
}

fn fixed32(number: u32, value: u32) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_fixed32(&mut out, number, value);
    out
}

fn data(port: u64, payload: &[u8]) -> Vec<u8> {
    [varint(1, port), bytes(2, payload), varint(3, 1)].concat()
}

/// `ToRadio { packet { to, decoded: data, id, want_ack } }`
fn packet(to: u32, data: &[u8]) -> Vec<u8> {
    let packet = [fixed32(2, to), bytes(4, data), fixed32(6, 7), varint(10, 1)].concat();
    bytes(1, packet)
}

fn admin(message: &[u8]) -> Vec<u8> {
    packet(OWN, &data(6, message))
}

fn admitted(policy: Policy, to_radio: &[u8]) -> bool {
    policy.admits(to_radio, Some(OWN)) == Verdict::Admitted
}

/// What a restricted client may do: both, none, or what writes to the mesh.
#[derive(Debug, Clone, Copy, PartialEq)]
enum May {
    Both,
    NoAdminOnly,
    Nobody,
}
use May::{Both, NoAdminOnly, Nobody};

fn rows() -> Vec<(May, &'static str, Vec<u8>)> {
    let hi = data(1, b"hi");
    let text = packet(OTHER, &hi);
    let (to_own, to_other) = (fixed32(2, OWN), fixed32(2, OTHER));
    let owner = varint(3, 1);
    let (decoded, decoded_admin) = (bytes(4, &hi), bytes(4, data(6, &varint(97, 5))));
    let group = |number: u8| vec![number << 3 | 3, number << 3 | 4];
    vec![
        (Both, "nothing", vec![]),
        (Both, "want_config_id", varint(3, 69420)),
        (Both, "disconnect", varint(4, 1)),
        (Both, "heartbeat", bytes(7, [])),
        (Both, "heartbeat with nonce", bytes(7, varint(1, 1))),
        (Nobody, "xmodem", bytes(5, varint(1, 1))),
        (Nobody, "MQTT", bytes(6, bytes(1, "topic"))),
        (Nobody, "a variant of the future", bytes(8, [])),
        (Nobody, "a variant that was", varint(2, 1)),
        // Packets.
        (NoAdminOnly, "text", text.clone()),
        (NoAdminOnly, "text to the node itself", packet(OWN, &hi)),
        (NoAdminOnly, "text to all", packet(u32::MAX, &hi)),
        (NoAdminOnly, "no port", packet(OTHER, &bytes(2, "hi"))),
        (NoAdminOnly, "no payload", packet(OTHER, &varint(1, 3))),
        (NoAdminOnly, "highest port", packet(OTHER, &data(511, b""))),
        (NoAdminOnly, "all fields", {
            let all =
                [fixed32(1, 0), to_other.clone(), varint(3, 1), decoded.clone(), fixed32(6, 7)];
            bytes(1, [all.concat(), fixed32(7, 1), fixed32(8, 1), varint(22, 1)].concat())
        }),
        (NoAdminOnly, "last field of data", packet(OTHER, &[&hi[..], &bytes(10, "x")].concat())),
        (Nobody, "no port number", packet(OTHER, &data(512, b""))),
        (Nobody, "admin in the low 32 bits", packet(OTHER, &data(1 << 32 | 6, b""))),
        (Nobody, "text in the low 32 bits", packet(OTHER, &data(1 << 32 | 1, b""))),
        (Nobody, "negative port", packet(OTHER, &data(u64::MAX, b""))),
        (Nobody, "remote hardware", packet(OTHER, &data(2, b""))),
        (Nobody, "remote shell", packet(OTHER, &data(13, b""))),
        (Nobody, "simulator", packet(OTHER, &data(69, b""))),
        (Nobody, "power stress", packet(OTHER, &data(74, b""))),
        (Nobody, "LoRa OTA", packet(OTHER, &data(79, b""))),
        (Nobody, "encrypted", bytes(1, [to_other.clone(), bytes(5, "cipher")].concat())),
        (Nobody, "no content", bytes(1, to_other.clone())),
        (Nobody, "empty packet", bytes(1, [])),
        // Admin requests that pass.
        (Both, "get_channel", admin(&varint(1, 1))),
        (Both, "get_owner", admin(&owner)),
        (Both, "get_device_metadata", admin(&varint(12, 1))),
        (Both, "get_device_connection_status", admin(&varint(16, 1))),
        (Both, "set_time_only", admin(&fixed32(43, 1_700_000_000))),
        (Both, "with a session key", admin(&[&owner[..], &bytes(101, "12345678")].concat())),
        (Both, "session key first", admin(&[bytes(101, "12345678"), owner.clone()].concat())),
        // And those that do not.
        (Nobody, "owner of another node", packet(OTHER, &data(6, &owner))),
        (Nobody, "owner of all", packet(u32::MAX, &data(6, &owner))),
        (Nobody, "owner of nobody", bytes(1, bytes(4, data(6, &owner)))),
        (Nobody, "empty admin", admin(&[])),
        (Nobody, "admin without payload", packet(OWN, &varint(1, 6))),
        (Nobody, "session key alone", admin(&bytes(101, "12345678"))),
        (Nobody, "get_config", admin(&varint(5, 7))),
        (Nobody, "get_module_config", admin(&varint(7, 0))),
        (Nobody, "get_ui_config", admin(&varint(44, 1))),
        (Nobody, "set_owner", admin(&bytes(32, bytes(2, "me")))),
        (Nobody, "reboot", admin(&varint(97, 5))),
        (Nobody, "factory reset", admin(&varint(94, 1))),
        (Nobody, "admin of the future", admin(&varint(105, 1))),
        // One thing twice, or two in one.
        (Nobody, "owner and reboot", admin(&[owner.clone(), varint(97, 5)].concat())),
        (Nobody, "reboot and owner", admin(&[varint(97, 5), owner.clone()].concat())),
        (Nobody, "owner twice", admin(&[&owner[..], &owner].concat())),
        (Nobody, "two harmless ones", admin(&[owner.clone(), varint(12, 1)].concat())),
        (Nobody, "two session keys", {
            admin(&[owner.clone(), bytes(101, "1"), bytes(101, "2")].concat())
        }),
        (Nobody, "owner and the future", admin(&[owner.clone(), varint(1000, 1)].concat())),
        (Nobody, "owner and a group", admin(&[&owner[..], &group(12)].concat())),
        (Nobody, "owner of the wrong type", admin(&bytes(3, [1]))),
        (Nobody, "time of the wrong type", admin(&varint(43, 1))),
        (Nobody, "session key of the wrong type", admin(&[&owner[..], &varint(101, 1)].concat())),
        (Nobody, "owner, cut short", admin(&[&owner[..], &[0x08]].concat())),
        (Nobody, "two packets", [&text[..], &text].concat()),
        (Nobody, "text, then admin", [text.clone(), bytes(1, &decoded_admin)].concat()),
        (Nobody, "heartbeat, then admin", [bytes(7, []), admin(&varint(97, 5))].concat()),
        (Nobody, "admin, then heartbeat", [admin(&varint(97, 5)), bytes(7, [])].concat()),
        (Nobody, "two heartbeats", [bytes(7, []), bytes(7, [])].concat()),
        (Nobody, "decoded and encrypted", {
            bytes(1, [to_other.clone(), decoded.clone(), bytes(5, "x")].concat())
        }),
        (Nobody, "encrypted and decoded", {
            bytes(1, [to_other.clone(), bytes(5, "x"), decoded.clone()].concat())
        }),
        (Nobody, "decoded twice: admin last", {
            bytes(1, [to_own.clone(), decoded.clone(), decoded_admin.clone()].concat())
        }),
        (Nobody, "decoded twice: admin first", {
            bytes(1, [to_own.clone(), decoded_admin, decoded.clone()].concat())
        }),
        (Nobody, "decoded twice: port, then payload", {
            let merged = [bytes(4, varint(1, 6)), bytes(4, bytes(2, varint(97, 5)))];
            bytes(1, [to_own.clone(), merged.concat()].concat())
        }),
        (Nobody, "to twice", {
            let owner = bytes(4, data(6, &owner));
            bytes(1, [to_own, to_other.clone(), owner].concat())
        }),
        (Nobody, "port twice", packet(OTHER, &[varint(1, 1), varint(1, 6)].concat())),
        (Nobody, "port twice, text last", packet(OTHER, &[varint(1, 6), varint(1, 1)].concat())),
        (Nobody, "payload twice", {
            packet(OWN, &[data(6, &owner), bytes(2, varint(97, 5))].concat())
        }),
        (Nobody, "packet with the future", {
            bytes(1, [&to_other[..], &decoded, &bytes(23, "x")].concat())
        }),
        (Nobody, "packet with a group", bytes(1, [&to_other[..], &decoded, &group(15)].concat())),
        (Nobody, "data with the future", packet(OTHER, &[&hi[..], &bytes(11, "x")].concat())),
        (Nobody, "packet, cut short", bytes(1, [&to_other[..], &decoded, &[0x35]].concat())),
        (Nobody, "ToRadio, cut short", [&text[..], &[0x08]].concat()),
    ]
}

#[test]
fn every_rule() {
    for (may, what, to_radio) in rows() {
        assert!(admitted(Full, &to_radio), "{what}");
        assert_eq!(admitted(NoAdmin, &to_radio), may != Nobody, "no-admin: {what}");
        assert_eq!(admitted(ReadOnly, &to_radio), may == Both, "read-only: {what}");
    }
}

#[test]
fn a_node_without_number_has_no_requests_that_pass() {
    for to_radio in [admin(&varint(3, 1)), bytes(1, bytes(4, data(6, &varint(3, 1))))] {
        for policy in [NoAdmin, ReadOnly] {
            assert_eq!(policy.admits(&to_radio, None), Verdict::Refused);
            assert_eq!(policy.admits(&to_radio, Some(OTHER)), Verdict::Refused);
        }
    }
    assert_eq!(NoAdmin.admits(&packet(OTHER, &data(1, b"hi")), None), Verdict::Admitted);
}

/// What prost makes of it.
fn harmless_for_prost(message: &AdminMessage) -> bool {
    use Admin::*;
    matches!(
        message.payload_variant,
        Some(
            GetOwnerRequest(_)
                | GetDeviceMetadataRequest(_)
                | GetChannelRequest(_)
                | GetDeviceConnectionStatusRequest(_)
                | SetTimeOnly(_)
        )
    )
}

#[test]
fn of_random_admin_messages_those_pass_that_are_one_harmless_request() {
    let variants: Vec<_> = schema("AdminMessage").oneofs().next().unwrap().fields().collect();
    let harmless = [1, 3, 12, 16, 43];
    let mut rng = Rng::new(4);
    let mut passed = BTreeMap::new();
    for _ in 0..50_000 {
        let mut payload = Vec::new();
        for _ in 0..=rng.below(8) / 6 {
            let mut field = &variants[rng.below(variants.len() as u32) as usize];
            if rng.below(2) == 0 {
                let number = harmless[rng.below(5) as usize];
                field = variants.iter().find(|field| field.number() == number).unwrap();
            }
            let number = u64::from(rng.next_u32() >> rng.below(32));
            payload.extend(match field.kind() {
                Kind::Message(_) | Kind::String | Kind::Bytes => bytes(field.number(), []),
                Kind::Fixed32 => fixed32(field.number(), number as u32),
                Kind::Bool => varint(field.number(), number & 1),
                _ => varint(field.number(), number),
            });
            if rng.below(4) == 0 {
                payload.extend(bytes(101, "passkey!"));
            }
        }
        let decoded = AdminMessage::decode(&payload[..]).unwrap();
        // Whatever stands there twice, or is replaced by a later variant, makes it longer.
        let once = decoded.encode_to_vec().len() == payload.len();
        let expected = once && harmless_for_prost(&decoded);
        for policy in [NoAdmin, ReadOnly] {
            assert_eq!(admitted(policy, &admin(&payload)), expected, "{decoded:?} {payload:02x?}");
        }
        *passed.entry(expected).or_insert(0) += 1;
    }
    assert!(passed[&true] > 5_000 && passed[&false] > 5_000, "{passed:?}");
}

/// Whether prost sees nothing but what the policy allows.
fn allowed_for_prost(policy: Policy, to_radio: &ToRadio) -> bool {
    match &to_radio.payload_variant {
        Some(Variant::Packet(packet)) => match &packet.payload_variant {
            Some(Content::Decoded(data)) if data.portnum == 6 => {
                packet.to == OWN
                    && AdminMessage::decode(&data.payload[..])
                        .is_ok_and(|message| harmless_for_prost(&message))
            }
            Some(Content::Decoded(data)) => {
                policy == NoAdmin && ![2, 13, 69, 74, 79].contains(&data.portnum)
            }
            _ => false,
        },
        Some(Variant::XmodemPacket(_) | Variant::MqttClientProxyMessage(_)) => false,
        _ => true,
    }
}

#[test]
fn mutated_payloads_never_get_more_through() {
    let rows = rows();
    let mut rng = Rng::new(5);
    let mut admissions = 0;
    for _ in 0..300_000 {
        let mut to_radio = rows[rng.below(rows.len() as u32) as usize].2.clone();
        mutate(&mut to_radio, &mut rng);
        for policy in [NoAdmin, ReadOnly] {
            if admitted(policy, &to_radio) && is_to_radio(&to_radio) {
                let decoded = ToRadio::decode(&to_radio[..]).unwrap();
                assert!(allowed_for_prost(policy, &decoded), "{policy}: {to_radio:02x?}");
                admissions += 1;
            }
        }
    }
    assert!(admissions > 10_000, "{admissions} are too few to prove anything");
}

/// One to three small changes: a byte, a bit, some bytes more or less.
fn mutate(message: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..=rng.below(3) {
        let at = rng.below(message.len() as u32 + 1) as usize;
        let end = message.len().min(at + 1 + rng.below(8) as usize);
        match rng.below(5) {
            0 => message.insert(at, rng.next_u32() as u8),
            1 => drop(message.drain(at..end)),
            2 => message.extend_from_within(at..end),
            3 => message.iter_mut().skip(at).take(1).for_each(|b| *b = rng.below(16) as u8),
            _ => message.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << rng.below(8)),
        }
    }
}

fn schema(name: &str) -> MessageDescriptor {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    pool.get_message_by_name(&format!("meshtastic.{name}")).unwrap()
}

/// A field that holds no message, and the numbers on the way to it.
type Leaf = (Vec<u32>, FieldDescriptor);

fn leaves(message: &MessageDescriptor, path: &[u32], found: &mut Vec<Leaf>) {
    for field in message.fields() {
        let path = [path, &[field.number()]].concat();
        match field.kind() {
            Kind::Message(inner) => leaves(&inner, &path, found),
            _ => found.push((path, field)),
        }
    }
}

/// What stands around the field at each level, and must stay: a field of newer firmware, and bytes
/// that are not UTF-8.
fn around() -> [Vec<u8>; 2] {
    [varint(1000, 77), bytes(1001, [0xC3, 0x28])]
}

fn planted(path: &[u32], leaf: &[u8]) -> Vec<u8> {
    let [before, after] = around();
    let inner = match path {
        [] | [_] => leaf.to_vec(),
        [number, rest @ ..] => bytes(*number, planted(rest, leaf)),
    };
    [before, inner, after].concat()
}

/// `FromRadio { packet { decoded { port, payload: { … leaf … } } } }`
fn planted_in_packet(port: u64, path: &[u32], leaf: &[u8]) -> Vec<u8> {
    let payload = planted(path, leaf);
    let data = [varint(1, port), bytes(2, payload), fixed32(6, 9)].concat();
    planted(&[2, 4, 0], &data)
}

/// Every field of every message in every variant, admin messages and beacons in packets: what is
/// named like a secret is gone, everything else stays as it was.
#[test]
fn of_all_fields_of_the_schema_only_secrets_are_taken() {
    let suspicious = [
        "psk",
        "passw",
        "passphrase",
        "passkey",
        "private",
        "secret",
        "username",
        "pin",
        "key",
        "security_number",
        "token",
    ];
    let harmless = [
        "public_key",
        "admin_key",
        "is_key_manually_verified",
        "public_key_switch",
        // Digital inputs and outputs.
        "gpio_pin",
        "ptt_pin",
        "monitor_pin",
        "inputbroker_pin_a",
        "inputbroker_pin_b",
        "inputbroker_pin_press",
        "allow_undefined_pin_access",
        "get_node_remote_hardware_pins_request",
    ];
    let mut hidden = [(NoAdmin, BTreeSet::new()), (ReadOnly, BTreeSet::new())];
    for (name, port) in [("FromRadio", None), ("AdminMessage", Some(6)), ("MeshBeacon", Some(37))] {
        let mut all = Vec::new();
        leaves(&schema(name), &[], &mut all);
        assert!(all.len() > 5);
        for (path, field) in all {
            let number = field.number();
            let leaf = match field.kind() {
                Kind::String | Kind::Bytes => bytes(number, SECRET),
                Kind::Fixed32 | Kind::Sfixed32 | Kind::Float => fixed32(number, 0x5EC2_E700),
                _ => varint(number, 0x5E_C2E7),
            };
            let frame = |leaf: &[u8]| match port {
                None => planted(&path, leaf),
                Some(port) => planted_in_packet(port, &path, leaf),
            };
            let whole = frame(&leaf);
            assert!(FromRadio::peek(&whole).is_some(), "{}", field.full_name());
            assert_eq!(Full.show(&whole), whole);
            assert!(Full.sees(&whole));
            for (policy, hidden) in &mut hidden {
                let channel_key = field.full_name() == "meshtastic.ChannelSettings.psk";
                let secret = suspicious.iter().any(|part| field.name().contains(part))
                    && !harmless.contains(&field.name())
                    && (*policy == ReadOnly || !channel_key);
                if !policy.sees(&whole) {
                    continue;
                }
                let shown = policy.show(&whole);
                let expected = if secret { frame(&[]) } else { whole.clone() };
                assert_eq!(shown, expected, "{policy}: {}", field.full_name());
                let twice = [&whole[..], &whole].concat();
                assert_eq!(policy.show(&twice), [&expected[..], &expected].concat());
                let twice = frame(&[&leaf[..], &leaf].concat());
                assert_eq!(policy.show(&twice), if secret { expected } else { twice.clone() });
                if secret {
                    hidden.insert(field.full_name().trim_start_matches("meshtastic.").to_owned());
                }
            }
        }
    }
    let [(_, no_admin), (_, mut read_only)] = hidden;
    assert!(read_only.remove("ChannelSettings.psk"));
    assert_eq!(no_admin, read_only);
    assert_eq!(
        Vec::from_iter(no_admin),
        [
            "AdminMessage.session_passkey",
            "BluetoothConnectionStatus.pin",
            "Config.BluetoothConfig.fixed_pin",
            "Config.NetworkConfig.wifi_psk",
            "Config.SecurityConfig.private_key",
            "DeviceUIConfig.pin_code",
            "KeyVerificationAdmin.security_number",
            "LockdownAuth.passphrase",
            "ModuleConfig.MQTTConfig.password",
            "ModuleConfig.MQTTConfig.username",
        ]
    );
}

#[test]
fn what_restricted_clients_do_not_get() {
    let key_verification = |number| bytes(16, [varint(1, 7), bytes(number, varint(1, 9))].concat());
    let rows = [
        (true, vec![]),
        (true, bytes(2, [])),
        (false, bytes(6, bytes(1, "log"))),
        (true, varint(7, 5)),
        (true, bytes(11, varint(2, 16))),
        (false, bytes(12, bytes(4, SECRET))),
        (true, bytes(13, [])),
        (false, bytes(14, bytes(2, SECRET))),
        (true, bytes(15, bytes(1, "/prefs"))),
        (true, bytes(16, bytes(4, "low battery"))),
        (true, key_verification(14)),
        (true, key_verification(15)),
        (false, key_verification(11)),
        (false, key_verification(12)),
        (false, key_verification(13)),
        (false, [bytes(12, bytes(4, SECRET)), varint(7, 5)].concat()),
        (true, bytes(99, "new")),
    ];
    for (seen, from_radio) in rows {
        assert!(Full.sees(&from_radio));
        assert_eq!(NoAdmin.sees(&from_radio), seen, "{from_radio:02x?}");
        assert_eq!(ReadOnly.sees(&from_radio), seen, "{from_radio:02x?}");
    }
}

#[test]
fn an_admin_message_is_found_however_its_packet_is_written() {
    let key = bytes(6, bytes(8, bytes(2, SECRET)));
    let (port, payload) = (varint(1, 6), bytes(2, &key));
    for data in [
        bytes(4, [&port[..], &payload].concat()),
        bytes(4, [&payload[..], &port].concat()),
        bytes(4, [&port[..], &payload, &payload].concat()),
        bytes(4, [&port[..], &payload, &varint(1, 1)].concat()),
        [bytes(4, &port), bytes(4, &payload)].concat(),
        [bytes(4, &payload), bytes(4, &port)].concat(),
        [bytes(4, [&port[..], &payload].concat()), bytes(5, "cipher")].concat(),
    ] {
        for from_radio in [bytes(2, &data), [bytes(2, &data), varint(7, 5)].concat()] {
            let shown = NoAdmin.show(&from_radio);
            assert!(!shown.windows(32).any(|window| window == SECRET), "{from_radio:02x?}");
        }
    }
    let text = bytes(2, bytes(4, data(1, &key)));
    assert!(matches!(ReadOnly.show(&text), Cow::Borrowed(_)), "a text may look like anything");
}

#[test]
fn an_admin_message_that_cannot_be_read_is_cut_off() {
    let whole = varint(5, 7);
    for wrong in [
        [&[6 << 3 | 3][..], &bytes(8, bytes(2, SECRET)), &[6 << 3 | 4]].concat(), // a group
        [&[0x0E][..], &bytes(6, bytes(8, bytes(2, SECRET)))].concat(),            // wire type 6
        bytes(6, [&[0x0E][..], &bytes(8, bytes(2, SECRET))].concat()),
    ] {
        let from_radio = bytes(2, bytes(4, data(6, &[&whole[..], &wrong].concat())));
        assert!(FromRadio::peek(&from_radio).is_some());
        let shown = NoAdmin.show(&from_radio);
        assert!(!shown.windows(32).any(|window| window == SECRET), "{wrong:02x?}");
        assert!(shown.windows(2).any(|window| window == whole), "what can be read stays");
    }
}

/// What a real node wrote.
fn recorded(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures");
    let bytes = fs::read(folder.join(name)).unwrap();
    let mut rest = &bytes[..];
    core::iter::from_fn(|| {
        let [0x94, 0xC3, high, low, tail @ ..] = rest else { return None };
        let (payload, next) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        rest = next;
        Some(payload.to_vec())
    })
    .collect()
}

/// Removes the field at the end of `path`. Returns whether it was there.
fn clear(message: &mut DynamicMessage, path: &str) -> bool {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    if !message.has_field_by_name(name) {
        return false;
    }
    match rest {
        None => message.clear_field_by_name(name),
        Some(rest) => {
            let inner = message.get_field_by_name_mut(name).unwrap().as_message_mut().unwrap();
            return clear(inner, rest);
        }
    }
    true
}

#[test]
fn a_recorded_handshake_is_shown_without_its_secrets_and_else_byte_for_byte() {
    let schema = schema("FromRadio");
    let secrets = [
        "config.security.private_key",
        "config.network.wifi_psk",
        "config.bluetooth.fixed_pin",
        "moduleConfig.mqtt.username",
        "moduleConfig.mqtt.password",
        "channel.settings.psk",
    ];
    // This node has no WiFi.
    let recorded_secrets = [secrets[0], secrets[2], secrets[3], secrets[4], secrets[5]];
    for (policy, count) in [(NoAdmin, 5), (ReadOnly, 6)] {
        let mut gone = BTreeSet::new();
        for payload in recorded("handshake-nodes.bin") {
            let mut expected = DynamicMessage::decode(schema.clone(), &payload[..]).unwrap();
            gone.extend(secrets[..count].iter().filter(|path| clear(&mut expected, path)));
            assert_eq!(policy.show(&payload), expected.encode_to_vec(), "{policy}");
            assert!(policy.sees(&payload));
            assert_eq!(Full.show(&payload), payload);
        }
        let known = recorded_secrets.iter().filter(|path| secrets[..count].contains(path));
        assert_eq!(gone, known.copied().collect(), "{policy}");
    }
}

#[test]
fn mutated_frames_stay_valid() {
    let frames = ["handshake-fresh.bin", "traffic.bin"].into_iter().flat_map(recorded);
    let frames: Vec<_> = frames.collect();
    let mut rng = Rng::new(6);
    for _ in 0..100_000 {
        let mut payload = frames[rng.below(frames.len() as u32) as usize].clone();
        mutate(&mut payload, &mut rng);
        for policy in [NoAdmin, ReadOnly] {
            let shown = policy.show(&payload);
            assert!(shown.len() <= payload.len());
            let valid = FromRadio::peek(&payload).is_some();
            assert!(!valid || FromRadio::peek(&shown).is_some(), "{payload:02x?}");
            assert_eq!(policy.show(&shown), shown, "once is enough");
            policy.sees(&payload);
        }
    }
}

#[test]
fn policies_as_written() {
    for (policy, text) in [(Full, "full"), (NoAdmin, "no-admin"), (ReadOnly, "read-only")] {
        assert_eq!(policy.to_string(), text);
        assert_eq!(text.parse(), Ok(policy));
    }
    for wrong in ["", "Full", "admin", "readonly", "no-admin "] {
        let error = wrong.parse::<Policy>().unwrap_err().to_string();
        assert_eq!(error, format!("{wrong:?} is no policy, write full, no-admin or read-only"));
    }
}
