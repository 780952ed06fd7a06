//! Any bytes as any message of the schema: no panic, and what was decoded is stable. Bytes are
//! compared, not messages, for a float that is no number differs from itself.

use meshbeat_proto as proto;
use prost::Message;

/// The first byte chooses the message, the rest is its bytes.
///
/// # Panics
/// If what was decoded changes when it is encoded and decoded again.
pub fn run(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let check = MESSAGES[usize::from(*choice) % MESSAGES.len()];
    check(bytes);
}

/// What arrives in a frame, what a port number carries, and what MQTT does. Nested messages come
/// with these. New ones go to the end: the corpus counts from the start.
const MESSAGES: &[fn(&[u8])] = &[
    stable::<proto::FromRadio>,
    stable::<proto::ToRadio>,
    stable::<proto::Data>,
    stable::<proto::Position>,
    stable::<proto::User>,
    stable::<proto::Routing>,
    stable::<proto::RouteDiscovery>,
    stable::<proto::Telemetry>,
    stable::<proto::NeighborInfo>,
    stable::<proto::Waypoint>,
    stable::<proto::AdminMessage>,
    stable::<proto::StoreAndForward>,
    stable::<proto::StoreForwardPlusPlus>,
    stable::<proto::ServiceEnvelope>,
    stable::<proto::MapReport>,
    stable::<proto::Paxcount>,
    stable::<proto::HardwareMessage>,
    stable::<proto::MeshBeacon>,
    stable::<proto::KeyVerification>,
    stable::<proto::RemoteShell>,
    stable::<proto::StatusMessage>,
    stable::<proto::Compressed>,
    stable::<proto::DeviceConnectionStatus>,
];

fn stable<M: Message + Default + core::fmt::Debug>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else { return };
    let encoded = message.encode_to_vec();
    assert_eq!(encoded.len(), message.encoded_len(), "{message:?}");
    let again = match M::decode(&encoded[..]) {
        Ok(again) => again,
        Err(error) => panic!("{error}: {message:?}"),
    };
    assert_eq!(again.encode_to_vec(), encoded, "{message:?}");
}
