//! A snapshot as bytes for the disk.
//!
//! A line that names the format and its version, then a check (FNV-1a, 64 bits, little endian) over
//! all that follows: a byte of flags, the number of packets seen (16 bits) with sender and id of
//! each (32 bits), then frames as on the wire: the handshake in its order, then the packets kept.

use core::fmt;

use meshbeat_core::frame::{FrameLen, HEADER_LEN, MAGIC};
use meshbeat_core::peek::FromRadio;

use super::entry::Reception;
use super::memory::{Kept, Kind};
use super::{Ask, Builder, Heard, Memory, Snapshot, payload_of};

const HEADER: &[u8] = b"meshbeat snapshot 1\n";
/// The flag of a node that was found to tell old packets again.
const REPEATS: u8 = 1;

/// Why bytes are no snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DamagedError(&'static str);

impl fmt::Display for DamagedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for DamagedError {}

impl Snapshot {
    /// The snapshot as bytes. They hold the node's secrets.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![if self.repeats { REPEATS } else { 0 }];
        let seen: Vec<_> = self.memory.seen().collect();
        body.extend((seen.len() as u16).to_le_bytes());
        for (from, id) in seen {
            body.extend(from.to_le_bytes());
            body.extend(id.to_le_bytes());
        }
        for frame in self.handshake(Ask::Full).chain(self.memory.frames()) {
            body.extend_from_slice(frame);
        }
        sealed(&body)
    }

    /// The snapshot that [`Snapshot::encode`] made these bytes of. Any bytes may be given; no more
    /// memory is taken than they account for.
    pub fn decode(bytes: &[u8]) -> Result<Self, DamagedError> {
        let rest = bytes.strip_prefix(HEADER).ok_or(DamagedError("not a snapshot of version 1"))?;
        let (check, body) = rest.split_first_chunk().ok_or(CUT)?;
        if u64::from_le_bytes(*check) != fnv(body) {
            return Err(DamagedError("the check does not match"));
        }
        let ([flags], rest) = body.split_first_chunk().ok_or(CUT)?;
        let (count, rest) = rest.split_first_chunk().ok_or(CUT)?;
        let len = 8 * usize::from(u16::from_le_bytes(*count));
        let (seen, mut frames) = rest.split_at_checked(len).ok_or(CUT)?;

        let mut builder = Builder::new();
        let mut packets = Vec::new();
        while !frames.is_empty() {
            let (frame, rest) = split_frame(frames).ok_or(DamagedError("a frame is broken"))?;
            let payload = payload_of(frame);
            match FromRadio::peek(payload).ok_or(DamagedError("a frame holds no message"))? {
                FromRadio::Packet(packet) => packets.push((payload, packet)),
                message if packets.is_empty() && builder.take(payload, &message) => {}
                _ => return Err(DamagedError("a frame does not belong there")),
            }
            frames = rest;
        }
        let mut snapshot = builder.finish().ok_or(DamagedError("there is no handshake"))?;
        snapshot.repeats = flags & REPEATS != 0;
        snapshot.memory = memory(seen, &packets)?;
        snapshot.memory.retain(|node| node == snapshot.node || snapshot.index.contains_key(&node));
        Ok(snapshot)
    }
}

const CUT: DamagedError = DamagedError("it is cut short");

fn memory(
    seen: &[u8],
    packets: &[(&[u8], meshbeat_core::peek::Packet<'_>)],
) -> Result<Memory, DamagedError> {
    let mut memory = Memory::default();
    for pair in seen.chunks_exact(8) {
        if let ([a, b, c, d], Some(id)) = (pair.first_chunk().ok_or(CUT)?, pair.last_chunk()) {
            memory.note(u32::from_le_bytes([*a, *b, *c, *d]), u32::from_le_bytes(*id), true);
        }
    }
    for (payload, packet) in packets {
        let kind = packet.data.and_then(|data| Kind::of(data.port, data.payload));
        let kept = Kept::new(payload, packet.id, Reception::read(payload).rx_time);
        let (Some(kind), Some(kept)) = (kind, kept) else {
            return Err(DamagedError("a packet does not belong there"));
        };
        memory.keep(kind, packet.from, kept, Heard::News);
    }
    Ok(memory)
}

/// Header and check before the rest.
pub(super) fn sealed(body: &[u8]) -> Vec<u8> {
    [HEADER, &fnv(body).to_le_bytes(), body].concat()
}

fn split_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let header: &[u8; HEADER_LEN] = bytes.first_chunk()?;
    let len = FrameLen::from_header([header[2], header[3]])?;
    bytes.split_at_checked(len.frame()).filter(|_| header[..2] == MAGIC)
}

/// FNV-1a: finds each single changed byte for certain, and more with overwhelming likelihood.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    })
}
