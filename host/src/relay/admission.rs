//! What a client may send and see: the policy of the listener that it came in by.
//!
//! A client that is not trusted with the node is judged by the bytes of its payloads, not by what
//! one decoder makes of them: the relay and the firmware (nanopb) need not agree on a message that
//! says a thing twice. So whatever is ambiguous or unknown is refused, and what is shown loses its
//! secrets wherever they stand and keeps every other byte.

use core::fmt;
use core::ops::RangeInclusive;
use core::str::FromStr;
use std::borrow::Cow;

use meshbeat_core::peek::wire::{Field, Fields, Malformed, Value};
use meshbeat_proto::PortNum;

use super::wire;
use Part::{ChannelKey, Message, Secret};

/// What the clients of a listener may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Everything, as on the node's own port.
    Full,
    /// Read and write on the mesh; neither change the node nor see its secrets. Channel keys are
    /// shown, so that channels can be shared.
    NoAdmin,
    /// See what happens, without the keys of the channels, and send nothing to the mesh.
    ReadOnly,
}

/// Whether a payload goes on to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It does.
    Admitted,
    /// It does not, and the client is told `NOT_AUTHORIZED`.
    Refused,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Full, Self::NoAdmin, Self::ReadOnly];

    /// Judges a client's `ToRadio`; `own` is the node's number, if it is known.
    ///
    /// Restricted clients may ask for the configuration, send heartbeats, empty payloads and
    /// `disconnect`, and to the node itself the admin requests that change nothing but its clock
    /// (`get_channel`, `get_owner`, `get_device_metadata`, `get_device_connection_status`,
    /// `set_time_only`). With [`Policy::NoAdmin`] they may also send decoded packets to all ports
    /// but those that control a node. Refused is whatever holds more than one variant, a field
    /// twice, or a field that the schema does not have: it may mean something else to the node.
    pub fn admits(self, to_radio: &[u8], own: Option<u32>) -> Verdict {
        if self == Self::Full || self.is_harmless(to_radio, own) == Ok(true) {
            Verdict::Admitted
        } else {
            Verdict::Refused
        }
    }

    /// Whether restricted clients get this `FromRadio` at all.
    ///
    /// They do not get log records (firmware logs the Bluetooth passkey, and bytes of shared keys),
    /// file transfers and MQTT traffic (one client's business, which they may not answer: never
    /// choose one of them for it), nor the key verification dialogue, whose numbers are for the
    /// node's owner.
    pub fn sees(self, from_radio: &[u8]) -> bool {
        self == Self::Full
            || wire::fields(from_radio).all(|field| match field.number {
                LOG_RECORD | XMODEM_PACKET | MQTT_CLIENT_PROXY_MESSAGE => false,
                CLIENT_NOTIFICATION => {
                    let inner = field.message().unwrap_or(&[]);
                    wire::fields(inner).all(|field| !KEY_VERIFICATION.contains(&field.number))
                }
                _ => true,
            })
    }

    /// A `FromRadio` as these clients may see it: without the secrets, and otherwise byte for byte
    /// as it was. What cannot be read in an admin packet or a mesh beacon is cut off.
    pub fn show(self, from_radio: &[u8]) -> Cow<'_, [u8]> {
        let tables = match self {
            Self::Full => return Cow::Borrowed(from_radio),
            Self::NoAdmin | Self::ReadOnly => [
                Some(FROM_RADIO),
                carries(from_radio, PortNum::AdminApp).then_some(IN_ADMIN_PACKET),
                carries(from_radio, PortNum::MeshBeaconApp).then_some(IN_BEACON_PACKET),
            ],
        };
        tables.into_iter().flatten().fold(Cow::Borrowed(from_radio), |shown, table| {
            let blanked = self.blanked(&shown, table);
            // Nothing is ever added.
            if blanked.len() == shown.len() { shown } else { Cow::Owned(blanked) }
        })
    }

    fn is_harmless(self, to_radio: &[u8], own: Option<u32>) -> Result<bool, Malformed> {
        let mut fields = Fields::new(to_radio);
        let variant = fields.next()?.map(|Field { number, value }| (number, value));
        if !fields.is_empty() {
            return Ok(false);
        }
        match variant {
            // Nothing, want_config_id, disconnect, heartbeat.
            None | Some((3 | 4, Value::Varint(_)) | (7, Value::Bytes(_))) => Ok(true),
            Some((1, Value::Bytes(packet))) => self.is_harmless_packet(packet, own),
            _ => Ok(false),
        }
    }

    fn is_harmless_packet(self, packet: &[u8], own: Option<u32>) -> Result<bool, Malformed> {
        let packet = distinct::<{ MESH_PACKET_FIELDS + 1 }>(packet)?;
        let [_, _, to, _, Some(Value::Bytes(data)), None, ..] = packet else { return Ok(false) };
        let data = distinct::<{ DATA_FIELDS + 1 }>(data)?;
        let (port, payload) = match data {
            [_, None, ..] => (0, None),
            [_, Some(Value::Varint(port)), payload, ..] => (port, payload),
            _ => return Ok(false),
        };
        match i32::try_from(port) {
            Ok(ADMIN) => match payload {
                Some(Value::Bytes(message)) if own.is_some() && to == own.map(Value::Fixed32) => {
                    is_harmless_admin(message)
                }
                _ => Ok(false),
            },
            Ok(port @ 0..=HIGHEST_PORT) => Ok(self == Self::NoAdmin && !CONTROL.contains(&port)),
            // A number that is cut to 32 bits may become any port.
            _ => Ok(false),
        }
    }

    /// The message without what `table` says that these clients may not see.
    fn blanked(self, message: &[u8], table: Table) -> Vec<u8> {
        wire::rewritten(message, |out, field| {
            let part = table.iter().find(|(number, _)| *number == field.number);
            match (part.map(|(_, part)| part), field.message()) {
                (Some(Message(table)), Some(inner)) => {
                    wire::put_bytes(out, field.number, &self.blanked(inner, table));
                }
                // Not of the type that the schema says, so that its inside cannot be judged.
                (Some(Message(_)), None) | (Some(Secret), _) => {}
                (Some(ChannelKey), _) if self == Self::ReadOnly => {}
                (None | Some(ChannelKey), _) => out.extend_from_slice(field.bytes),
            }
        })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Full => "full",
            Self::NoAdmin => "no-admin",
            Self::ReadOnly => "read-only",
        })
    }
}

/// A text that is no [`Policy`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownPolicy(String);

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let named = Self::ALL.into_iter().find(|policy| policy.to_string() == text);
        named.ok_or_else(|| UnknownPolicy(text.into()))
    }
}

impl fmt::Display for UnknownPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no policy, write full, no-admin or read-only", self.0)
    }
}

impl core::error::Error for UnknownPolicy {}

const ADMIN: i32 = PortNum::AdminApp as i32;
const HIGHEST_PORT: i32 = PortNum::Max as i32;

/// The ports that control a node, beside the one for administration.
const CONTROL: [i32; 5] = [
    PortNum::RemoteHardwareApp as i32,
    PortNum::RemoteShellApp as i32,
    PortNum::SimulatorApp as i32,
    PortNum::PowerstressApp as i32,
    PortNum::LoraOtaApp as i32,
];

/// The highest field number of `MeshPacket` and of `Data`; all below are taken.
const MESH_PACKET_FIELDS: usize = 22;
const DATA_FIELDS: usize = 10;

/// `AdminMessage.session_passkey`.
const SESSION_PASSKEY: u32 = 101;

/// Variants of `FromRadio`.
const LOG_RECORD: u32 = 6;
const XMODEM_PACKET: u32 = 12;
const MQTT_CLIENT_PROXY_MESSAGE: u32 = 14;
const CLIENT_NOTIFICATION: u32 = 16;
/// The variants of `ClientNotification` that belong to a key verification.
const KEY_VERIFICATION: RangeInclusive<u32> = 11..=13;

/// The fields of a message by their numbers; an error also if it holds one twice, one from number
/// `N` on, or a group, which the schema does not know.
fn distinct<const N: usize>(message: &[u8]) -> Result<[Option<Value<'_>>; N], Malformed> {
    let mut found = [None; N];
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next()? {
        let slot = usize::try_from(field.number).ok().and_then(|number| found.get_mut(number));
        match slot {
            Some(slot @ None) if field.value != Value::Group => *slot = Some(field.value),
            _ => return Err(Malformed),
        }
    }
    Ok(found)
}

/// Whether an `AdminMessage` holds exactly one of the requests that everybody may make, and at
/// most a session key beside it.
fn is_harmless_admin(message: &[u8]) -> Result<bool, Malformed> {
    let (mut request, mut passkey) = (false, false);
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            // get_channel_request, get_owner_request, get_device_metadata_request,
            // get_device_connection_status_request; set_time_only.
            (1 | 3 | 12 | 16, Value::Varint(_)) | (43, Value::Fixed32(_)) if !request => {
                request = true;
            }
            (SESSION_PASSKEY, Value::Bytes(_)) if !passkey => passkey = true,
            _ => return Ok(false),
        }
    }
    Ok(request)
}

/// Whether there is a packet in it that names this port, be it the last to be named or not.
fn carries(from_radio: &[u8], port: PortNum) -> bool {
    let inside = |outer, number| {
        let fields = wire::fields(outer).filter(move |field| field.number == number);
        fields.filter_map(|field| field.message())
    };
    inside(from_radio, 2)
        .flat_map(|packet| inside(packet, 4))
        .flat_map(wire::fields)
        .any(|f| f.number == 1 && matches!(f.value, Value::Varint(n) if n as i32 == port as i32))
}

/// What is secret in a message: its fields, by number, and what is on the way there.
type Table = &'static [(u32, Part)];

/// What a field is.
enum Part {
    /// Not for restricted clients.
    Secret,
    /// Not for clients that may only read.
    ChannelKey,
    /// A message with such fields in it.
    Message(Table),
}

// All secrets of the schema; a test looks for more of them by their names. No secrets are
// `public_key` and `admin_key` of `SecurityConfig`, both public halves of keys, and `wifi_ssid`,
// which the access point tells everybody. A secret that newer firmware puts in a field of its own
// is not known here.

const FROM_RADIO: Table = &[
    (5, Message(CONFIG)),            // config
    (9, Message(MODULE_CONFIG)),     // moduleConfig
    (10, Message(CHANNEL)),          // channel
    (17, Message(DEVICE_UI_CONFIG)), // deviceuiConfig
];

const CONFIG: Table = &[
    (4, Message(&[(4, Secret)])),    // network.wifi_psk
    (7, Message(&[(3, Secret)])),    // bluetooth.fixed_pin
    (8, Message(&[(2, Secret)])),    // security.private_key
    (10, Message(DEVICE_UI_CONFIG)), // device_ui
];

const MODULE_CONFIG: Table = &[
    (1, Message(&[(3, Secret), (4, Secret)])), // mqtt.username, mqtt.password
    (17, Message(&[(5, Message(CHANNEL_SETTINGS))])), // mesh_beacon.broadcast_offer_channel
];

const CHANNEL: Table = &[(2, Message(CHANNEL_SETTINGS))]; // settings
const CHANNEL_SETTINGS: Table = &[(2, ChannelKey)]; // psk
const DEVICE_UI_CONFIG: Table = &[(6, Secret)]; // pin_code

/// Responses, and what is written to a node, should one be seen.
const ADMIN_MESSAGE: Table = &[
    (2, Message(CHANNEL)),       // get_channel_response
    (6, Message(CONFIG)),        // get_config_response
    (8, Message(MODULE_CONFIG)), // get_module_config_response
    // get_device_connection_status_response.bluetooth.pin
    (17, Message(&[(3, Message(&[(1, Secret)]))])),
    (33, Message(CHANNEL)),          // set_channel
    (34, Message(CONFIG)),           // set_config
    (35, Message(MODULE_CONFIG)),    // set_module_config
    (45, Message(DEVICE_UI_CONFIG)), // get_ui_config_response
    (46, Message(DEVICE_UI_CONFIG)), // store_ui_config
    (67, Message(&[(4, Secret)])),   // key_verification.security_number
    (SESSION_PASSKEY, Secret),       // with it the node can be changed for minutes
    (104, Message(&[(1, Secret)])),  // lockdown_auth.passphrase
];

const MESH_BEACON: Table = &[(2, Message(CHANNEL_SETTINGS))]; // offer_channel

/// `packet.decoded.payload`, if it is a message of that kind.
const IN_ADMIN_PACKET: Table = &[(2, Message(&[(4, Message(&[(2, Message(ADMIN_MESSAGE))]))]))];
const IN_BEACON_PACKET: Table = &[(2, Message(&[(4, Message(&[(2, Message(MESH_BEACON))]))]))];

#[cfg(test)]
mod tests;
