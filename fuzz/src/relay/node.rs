//! The node of the bench: it remembers what the link has written, and can answer it.

use meshbeat_core::frame::HEADER_LEN;
use meshbeat_core::peek;
use meshbeat_proto::admin_message::PayloadVariant as Admin;
use meshbeat_proto::mesh_packet::PayloadVariant as Content;
use meshbeat_proto::to_radio::PayloadVariant;
use meshbeat_proto::{AdminMessage, MeshPacket, PortNum, ToRadio};
use prost::Message as _;

use super::words::{FORBIDDEN, PORTS, Packet, RESULTS, configuration, contains, nested, varint};
use crate::input::Input;

/// What the node knows of its client.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) number: u32,
    /// It takes no bytes.
    pub(super) is_deaf: bool,
    /// It is just telling an error about this packet.
    pub(super) replied: Option<u32>,
    /// Half a frame.
    held: Vec<u8>,
    /// Heartbeats, and packets, that were not answered.
    heartbeats: usize,
    unanswered: Vec<u32>,
    /// The newest `want_config_id`.
    nonce: Option<u32>,
    /// Ids of the packets that were written, the newest last.
    wire_ids: Vec<u32>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            number: 0x70,
            is_deaf: false,
            replied: None,
            held: Vec::new(),
            heartbeats: 0,
            unanswered: Vec::new(),
            nonce: None,
            wire_ids: Vec::new(),
        }
    }
}

impl Node {
    /// A new connection.
    pub(super) fn handle_opened(&mut self) {
        self.held.clear();
        self.unanswered.clear();
        (self.heartbeats, self.nonce) = (0, None);
    }

    /// What the link writes is whole frames, and nothing that its client was forbidden.
    pub(super) fn handle_bytes(&mut self, bytes: &[u8], restricted: bool) {
        self.held.extend_from_slice(bytes);
        let held = core::mem::take(&mut self.held);
        let mut rest = &held[..];
        while let [_, _, high, low, tail @ ..] = rest {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            let Some((payload, next)) = tail.split_at_checked(len) else { break };
            assert!(peek::is_to_radio(payload), "{payload:02x?}");
            assert!(!contains(payload, FORBIDDEN), "the node is told {payload:02x?}");
            self.handle_frame(payload, restricted);
            rest = next;
        }
        assert!(rest.len() < HEADER_LEN + 512);
        self.held = rest.to_vec();
    }

    fn handle_frame(&mut self, payload: &[u8], restricted: bool) {
        let message = ToRadio::decode(payload).ok().and_then(|message| message.payload_variant);
        match message {
            Some(PayloadVariant::WantConfigId(nonce)) => self.nonce = Some(nonce),
            Some(PayloadVariant::Heartbeat(heartbeat)) => {
                assert_ne!(heartbeat.nonce, 1, "a heartbeat for the whole mesh");
                self.heartbeats += 1;
            }
            Some(PayloadVariant::Packet(packet)) => {
                assert!(!restricted || is_harmless(&packet), "{packet:?}");
                self.wire_ids.push(packet.id);
                self.unanswered.push(packet.id);
            }
            Some(PayloadVariant::XmodemPacket(_) | PayloadVariant::MqttClientProxyMessage(_)) => {
                assert!(!restricted, "{payload:02x?}");
            }
            Some(PayloadVariant::Disconnect(_)) => {}
            None => panic!("the node is told nothing: {payload:02x?}"),
        }
    }

    /// Whether it owes an answer.
    pub(super) fn is_asked(&self) -> bool {
        self.heartbeats > 0 || self.nonce.is_some() || !self.unanswered.is_empty()
    }

    /// All answers that it owes.
    pub(super) fn answers(&mut self) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        for _ in 0..core::mem::take(&mut self.heartbeats) {
            answers.push(status(0, 16, 0));
        }
        if let Some(nonce) = self.nonce.take() {
            answers.extend(configuration(self.number));
            answers.push(varint(7, nonce));
        }
        answers.extend(self.unanswered.drain(..).map(|id| status(0, 15, id)));
        answers
    }

    /// A queue status about one of the newest packets, or about none.
    pub(super) fn status(&mut self, res: u8, free: u8, about: u8) -> Vec<u8> {
        let id = self.wire_id(about);
        self.unanswered.retain(|unanswered| *unanswered != id);
        self.heartbeats -= usize::from(id == 0 && self.heartbeats > 0);
        status(RESULTS[usize::from(res) % RESULTS.len()], u32::from(free & 3) * 4, id)
    }

    /// The id of one of the newest packets; 0 for every eighth choice.
    pub(super) fn wire_id(&self, choice: u8) -> u32 {
        match usize::from(choice & 7) {
            7 => 0,
            back => self.wire_ids.iter().rev().nth(back).copied().unwrap_or(0),
        }
    }
}

/// A packet of the mesh. Its sender is never the node itself, whose packets are its clients'.
pub(super) fn packet(input: &mut Input<'_>) -> Vec<u8> {
    let (from, id, port) = (input.byte() & 7, input.byte() & 15, input.byte() & 15);
    let (about, len) = (input.byte(), input.byte() & 0x3F);
    let payload = input.bytes(len.into());
    let packet = Packet {
        from: MESH + u32::from(from),
        to: u32::MAX,
        id: id.into(),
        port: PORTS[usize::from(port)],
        payload,
        encrypted: (about & 0x80 != 0).then_some(payload),
        request_id: u32::from(about & 7),
        reply_id: u32::from(about >> 3 & 7),
        rx_time: 1_763_000_000 + u32::from(len),
        ..<_>::default()
    };
    packet.heard()
}

fn status(res: u32, free: u32, id: u32) -> Vec<u8> {
    let fields = [(1, res), (2, free), (3, 16), (4, id)];
    nested(&[11], &fields.map(|(number, value)| varint(number, value)).concat())
}

/// The first of the other nodes' numbers.
const MESH: u32 = 0x80;

/// Whether this is another node of the mesh.
pub(super) const fn is_mesh(number: u32) -> bool {
    number & !7 == MESH
}

/// Whether this is, or was, the node's own number: what was meant for it may reach its successor.
const fn is_own(number: u32) -> bool {
    number & !7 == 0x70
}

/// Whether a client that is not fully trusted may send this, judged by what it decodes to.
fn is_harmless(packet: &MeshPacket) -> bool {
    let Some(Content::Decoded(data)) = &packet.payload_variant else { return false };
    match PortNum::try_from(data.portnum) {
        Ok(PortNum::AdminApp) => {
            let message = AdminMessage::decode(&data.payload[..]);
            is_own(packet.to)
                && matches!(
                    message.ok().and_then(|message| message.payload_variant),
                    Some(
                        Admin::GetChannelRequest(_)
                            | Admin::GetOwnerRequest(_)
                            | Admin::GetDeviceMetadataRequest(_)
                            | Admin::GetDeviceConnectionStatusRequest(_)
                            | Admin::SetTimeOnly(_)
                    )
                )
        }
        Ok(port) => ![
            PortNum::RemoteHardwareApp,
            PortNum::SimulatorApp,
            PortNum::RemoteShellApp,
            PortNum::PowerstressApp,
        ]
        .contains(&port),
        Err(_) => true,
    }
}

/// A snapshot as it lies on the disk, with the check that its rest has.
pub(super) fn snapshot_file(body: &[u8]) -> Vec<u8> {
    let check = body.iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    });
    [&b"meshbeat snapshot 1\n"[..], &check.to_le_bytes(), body].concat()
}
