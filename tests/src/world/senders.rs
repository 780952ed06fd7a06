//! Who sends: one to four programs that hand the link packets at random times, as bots, bridges and
//! people do.

use core::time::Duration;

use meshbeat_core::Instant;
use meshbeat_core::rng::Rng;
use meshbeat_proto::{Data, MeshPacket, PortNum, ToRadio, mesh_packet, to_radio};
use prost::Message;

/// The senders of one world, from a seed.
#[derive(Debug)]
pub struct Senders {
    rng: Rng,
    /// When each one speaks next.
    next: Vec<Instant>,
    /// How often, in milliseconds, and how many packets at once.
    habits: Vec<(u32, u32)>,
    /// The number of the next packet.
    serial: u32,
}

/// A packet that somebody wants to send.
#[derive(Debug)]
pub(super) struct Draft {
    /// Its number, which stands in `from`: the node overwrites that, and it is the first field, so
    /// that even half a packet can be recognised.
    pub(super) serial: u32,
    pub(super) sender: u16,
    pub(super) id: u32,
    pub(super) to: u32,
    pub(super) channel: u32,
    pub(super) port: PortNum,
    pub(super) want_ack: bool,
    pub(super) ttl: Option<Duration>,
    pub(super) content: Vec<u8>,
}

/// The destination that means all nodes.
const ALL: u32 = u32::MAX;

impl Senders {
    /// Some senders between chatty and silent.
    pub fn new(now: Instant, seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x6D61_696C);
        let count = 1 + rng.below(4);
        let habits: Vec<_> =
            (0..count).map(|_| (40_000 << rng.below(7), 1 + rng.below(6))).collect();
        let next = habits.iter().map(|_| now + Duration::from_millis(1)).collect();
        Self { rng, next, habits, serial: 1 }
    }

    /// When somebody speaks next.
    pub(super) fn poll_timeout(&self) -> Instant {
        self.next.iter().min().copied().unwrap_or_default()
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.poll_timeout() <= now
    }

    /// What is to be sent now, through `own` to one of `others` or to all.
    pub(super) fn poll(&mut self, now: Instant, own: Option<u32>, others: &[u32]) -> Vec<Draft> {
        let mut drafts = Vec::new();
        for sender in 0..self.next.len() {
            if self.next[sender] > now {
                continue;
            }
            let (gap, most) = self.habits[sender];
            self.next[sender] = now + Duration::from_millis(1 + u64::from(self.rng.below(2 * gap)));
            for _ in 0..=self.rng.below(most) {
                drafts.push(self.draft(sender as u16, own.unwrap_or(ALL), others));
            }
        }
        drafts
    }

    fn draft(&mut self, sender: u16, own: u32, others: &[u32]) -> Draft {
        let rng = &mut self.rng;
        let serial = self.serial;
        self.serial += 1;
        let other = match others {
            [] => own ^ 1,
            others => others[rng.below(others.len() as u32) as usize],
        };
        let stranger = rng.next_u32() | 1;
        let anybody = [ALL, ALL, other, other, stranger][rng.below(5) as usize];
        let (port, to, len) = match rng.below(20) {
            // Above some 230 bytes it is refused as too large.
            0..12 => (PortNum::TextMessageApp, anybody, 1 + rng.below(236)),
            12..14 => (PortNum::PositionApp, anybody, 20),
            14 => (PortNum::TelemetryApp, anybody, 30),
            15 => (PortNum::WaypointApp, anybody, 25),
            16 => (PortNum::AlertApp, anybody, 12),
            // Never to all: that is forbidden, and looks like a rate limit.
            17 => (PortNum::TracerouteApp, other, 0),
            18 => (PortNum::RemoteHardwareApp, anybody, 9),
            _ => (PortNum::AdminApp, own, 2),
        };
        let content = match port {
            // `get_owner_request`
            PortNum::AdminApp => vec![0x18, 1],
            _ => (0..len).map(|_| b'a' + rng.below(26) as u8).collect(),
        };
        let ttl = match rng.below(6) {
            0 => Some(Duration::from_millis(u64::from(rng.below(120_000)))),
            1 => Some(Duration::from_secs(u64::from(rng.below(7200)))),
            _ => None,
        };
        Draft {
            serial,
            sender,
            id: if rng.below(2) == 0 { 0 } else { rng.next_u32() },
            to,
            // The last one does not exist.
            channel: if rng.below(40) == 0 { 7 } else { 0 },
            port,
            want_ack: rng.below(3) == 0,
            ttl,
            content,
        }
    }
}

impl Draft {
    /// The `ToRadio` payload.
    pub(super) fn payload(&self) -> Vec<u8> {
        let data = Data {
            portnum: self.port as i32,
            payload: self.content.clone(),
            want_response: matches!(self.port, PortNum::AdminApp | PortNum::TracerouteApp),
            ..Data::default()
        };
        let packet = MeshPacket {
            from: self.serial,
            to: self.to,
            channel: self.channel,
            id: self.id,
            want_ack: self.want_ack,
            hop_limit: if self.to == ALL { 0 } else { 3 },
            payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
            ..MeshPacket::default()
        };
        let variant = Some(to_radio::PayloadVariant::Packet(packet));
        ToRadio { payload_variant: variant }.encode_to_vec()
    }
}
