//! Valid `FromRadio` payloads: recorded ones, and made ones of any length.

use meshbeat_core::frame::{HEADER_LEN, MAX_PAYLOAD};
use meshbeat_core::rng::Rng;

use super::claimed;

/// What a real node wrote (`tests/captures`).
const RECORDINGS: [&[u8]; 8] = [
    include_bytes!("../../captures/handshake-fresh.bin"),
    include_bytes!("../../captures/handshake-nodes.bin"),
    include_bytes!("../../captures/config-only.bin"),
    include_bytes!("../../captures/nodes-only.bin"),
    include_bytes!("../../captures/traffic.bin"),
    include_bytes!("../../captures/python-ack-fromradio.bin"),
    include_bytes!("../../captures/python-info-fromradio.bin"),
    include_bytes!("../../captures/python-sendtext-fromradio.bin"),
];

/// All that the node wrote, one recording after the other: frames and nothing else.
pub fn recording() -> Vec<u8> {
    RECORDINGS.concat()
}

/// A source of payloads.
#[derive(Debug, Clone)]
pub struct Payloads {
    recorded: Vec<Vec<u8>>,
}

impl Payloads {
    /// With the recorded ones.
    pub fn recorded() -> Self {
        let stream = recording();
        let mut recorded = Vec::new();
        let mut at = 0;
        while let Some(frame) = claimed(&stream, at) {
            at = frame.end;
            recorded.push(stream[frame.start + HEADER_LEN..frame.end].to_vec());
        }
        assert_eq!(at, stream.len(), "recordings are whole");
        Self { recorded }
    }

    /// All recorded ones.
    pub fn all(&self) -> &[Vec<u8>] {
        &self.recorded
    }

    /// A recorded one, or as often a made one of any length.
    pub fn any(&self, rng: &mut Rng) -> Vec<u8> {
        if rng.below(2) == 0 {
            return self.recorded[rng.below(self.recorded.len() as u32) as usize].clone();
        }
        let len = rng.below(MAX_PAYLOAD as u32 + 1) as usize;
        made(rng, len)
    }
}

/// A payload of so many bytes; of 2 for 1, which no message has.
pub fn made(rng: &mut Rng, len: usize) -> Vec<u8> {
    match len {
        0 => Vec::new(),
        1 | 2 => vec![0x38, rng.below(0x80) as u8],
        3 => vec![0x38, 0x80 | rng.below(0x80) as u8, 1 + rng.below(0x7F) as u8],
        // log_record { message }
        4..=63 => {
            let message: Vec<u8> = (4..len).map(|_| b' ' + rng.below(95) as u8).collect();
            field(0x32, &field(0x0A, &message))
        }
        _ => {
            let seed = rng.next_u64();
            // 32 bytes and the text, and a few when lengths and the id take a byte more.
            let packets = (len - 40..=len - 32).rev().flat_map(|text| [(text, 1), (text, 2)]);
            let mut packets = packets.map(|(text, id)| packet(&mut Rng::new(seed), text, id));
            packets.find(|packet| packet.len() == len).expect("one of them has that length")
        }
    }
}

/// A text from the mesh, fields in the order of the firmware; `id` bytes for the number that
/// `FromRadio` may have.
fn packet(rng: &mut Rng, text: usize, id: usize) -> Vec<u8> {
    let content = content(rng, text);
    let mut word = || rng.next_u32().to_le_bytes();
    let data = [b"\x08\x01".to_vec(), field(0x12, &content)].concat();
    let packet = [
        &b"\x0D"[..],
        &word(),
        b"\x15\xFF\xFF\xFF\xFF",
        &field(0x22, &data),
        b"\x35",
        &word(),
        b"\x3D",
        &word(),
        b"\x48\x03",
    ]
    .concat();
    [&b"\x08\x81\x01"[..1], &b"\x81\x01"[2 - id..], &field(0x12, &packet)].concat()
}

/// Any bytes; one in eight times the magic and a length among them.
fn content(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut content: Vec<u8> = (0..len).map(|_| rng.next_u32() as u8).collect();
    if rng.below(8) == 0 && len >= HEADER_LEN {
        let at = rng.below((len - HEADER_LEN) as u32 + 1) as usize;
        let header = [0x94, 0xC3, rng.below(3) as u8, rng.next_u32() as u8];
        content[at..at + HEADER_LEN].copy_from_slice(&header);
    }
    content
}

/// A field of bytes.
fn field(key: u8, bytes: &[u8]) -> Vec<u8> {
    let len = bytes.len();
    let len = match len {
        0..0x80 => vec![len as u8],
        _ => vec![0x80 | (len & 0x7F) as u8, (len >> 7) as u8],
    };
    [&[key], &len[..], bytes].concat()
}
