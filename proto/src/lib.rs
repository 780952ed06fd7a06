#![doc = include_str!("../README.md")]
#![no_std]

extern crate alloc;

use alloc::borrow::Cow;
use alloc::string::String;

pub use generated::*;

mod generated {
    #![allow(missing_docs, reason = "the schema comments only what a name does not say")]
    #![allow(clippy::doc_markdown, reason = "the schema is written for readers of .proto files")]
    #![allow(
        clippy::large_enum_variant,
        reason = "prost's layout: a oneof is as large as its largest"
    )]

    include!("generated/meshtastic.rs");
}

/// The schema as a serialised `google.protobuf.FileDescriptorSet`, for programs that read it. Its
/// `string` fields are strings; only the Rust types have bytes instead.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/meshtastic.binpb");

/// A string field as text: each sequence that is not UTF-8 becomes one `U+FFFD`. Allocates only if
/// there is one.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use prost::Message;

    use super::*;

    /// One unknown field of each wire type: varint, 64 bits, length, group, 32 bits. Their number,
    /// 1000, is in no message.
    const UNKNOWN: [&[u8]; 5] = [
        &[0xc0, 0x3e, 0x96, 0x01],
        &[0xc1, 0x3e, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0xc2, 0x3e, 3, 0xff, 0xfe, 0xfd],
        &[0xc3, 0x3e, 0x08, 0x01, 0xc4, 0x3e],
        &[0xc5, 0x3e, 1, 2, 3, 4],
    ];

    /// Field `number` of length-delimited content, which is under 128 bytes here.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = alloc::vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        bytes.extend_from_slice(content);
        bytes
    }

    fn packet() -> MeshPacket {
        MeshPacket {
            from: 0x89ab_cdef,
            id: 7,
            payload_variant: Some(mesh_packet::PayloadVariant::Decoded(Data {
                portnum: PortNum::TextMessageApp as i32,
                payload: b"hi".to_vec(),
                ..Default::default()
            })),
            ..Default::default()
        }
    }

    #[test]
    fn unknown_fields_change_nothing_at_any_depth() {
        let expected = FromRadio {
            id: 0,
            payload_variant: Some(from_radio::PayloadVariant::Packet(packet())),
        };
        for unknown in UNKNOWN {
            let data = [unknown, &[0x08, 1, 0x12, 2], b"hi", unknown].concat();
            let envelope =
                [&[0x0d, 0xef, 0xcd, 0xab, 0x89, 0x35, 7, 0, 0, 0][..], unknown].concat();
            let packet = [envelope, field(4, &data)].concat();
            let bytes = [unknown, &field(2, &packet), unknown].concat();
            assert_eq!(FromRadio::decode(&bytes[..]), Ok(expected.clone()), "{unknown:x?}");
        }
    }

    #[test]
    fn a_variant_of_the_future_is_no_variant() {
        let field_100 = [0xa2, 0x06, 2, b'x', b'y'];
        assert_eq!(FromRadio::decode(&field_100[..]), Ok(FromRadio::default()));
    }

    #[test]
    fn an_unknown_enumeration_value_is_kept() {
        let data = Data::decode(&[0x08, 0xfe, 0x03][..]).unwrap();
        assert_eq!(data.portnum, 510);
        assert_eq!(data.portnum(), PortNum::UnknownApp);
        assert!(PortNum::try_from(data.portnum).is_err());
    }

    #[test]
    fn a_name_cut_inside_a_character_decodes() {
        let name = &"Zoë".as_bytes()[..3];
        let node_info = NodeInfo {
            num: 1,
            user: Some(User { long_name: name.to_vec(), ..Default::default() }),
            ..Default::default()
        };
        let sent = FromRadio {
            id: 0,
            payload_variant: Some(from_radio::PayloadVariant::NodeInfo(node_info)),
        };
        let bytes = sent.encode_to_vec();
        assert!(bytes.windows(3).any(|window| window == name), "the cut name is on the wire");
        assert_eq!(FromRadio::decode(&bytes[..]), Ok(sent));
        assert_eq!(text(name), "Zo\u{fffd}");
    }

    #[test]
    fn text_borrows_what_is_utf8() {
        assert!(matches!(text("Zoë".as_bytes()), Cow::Borrowed("Zoë")));
        assert_eq!(text(&[0xff, b'a', 0xf0, 0x9f]), "\u{fffd}a\u{fffd}");
    }

    #[test]
    fn no_field_checks_for_utf8() {
        let generated = include_str!("generated/meshtastic.rs");
        assert!(generated.contains("#[prost(bytes = \"vec\""), "this is the generated file");
        assert!(!generated.contains("#[prost(string"));
        assert!(!generated.contains("string::String"));
    }

    #[test]
    fn the_heartbeat_is_the_known_constant() {
        let heartbeat = to_radio::PayloadVariant::Heartbeat(Heartbeat { nonce: 0 });
        let sent = ToRadio { payload_variant: Some(heartbeat) };
        assert_eq!(sent.encode_to_vec(), [0x3a, 0x00]);
    }

    #[test]
    fn enumerations_have_their_official_names() {
        assert_eq!(routing::Error::NotAuthorized.as_str_name(), "NOT_AUTHORIZED");
        assert_eq!(PortNum::from_str_name("MESH_BEACON_APP"), Some(PortNum::MeshBeaconApp));
    }
}
