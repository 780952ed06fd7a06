//! What a simulated node is and how it behaves: plain data, grouped by the part of the firmware that
//! it is about. The defaults are a healthy node with firmware 2.8.

use core::ops::RangeInclusive;
use core::time::Duration;

use meshbeat_core::rng::Rng;

/// Everything that can be chosen about a simulated node. Nothing in here is checked: a queue of
/// length 0 is a node that loses everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SimConfig {
    /// Who the node says it is, and whom it knows.
    pub identity: Identity,
    /// The lengths of its queues.
    pub queues: Queues,
    /// How long it takes over things.
    pub timing: Timing,
    /// Its rate limits on packets from a client.
    pub limits: Limits,
    /// What happens to a packet on the air.
    pub radio: Radio,
    /// What it does about heartbeats, and what another transport takes away.
    pub heartbeat: Heartbeat,
    /// What its byte stream and its connections are like.
    pub stream: Stream,
    /// What it hears from the mesh.
    pub traffic: Traffic,
}

/// Who the node says it is, and whom it knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Its node number; `None` (default): made up from the seed.
    pub node_num: Option<u32>,
    /// Its long name; `None` (default): `Simulated` and the end of its number.
    pub long_name: Option<String>,
    /// Other nodes in its database; default 100.
    pub nodes: u32,
    /// The firmware version it tells; default `2.8.0.51a0b1e`.
    pub firmware: String,
    /// Names in the database are cut in the middle of a character, as firmware before 2.7.23
    /// does; default off.
    pub bad_utf8: bool,
    /// After every handshake but 69420, cached positions and telemetry follow as ordinary packets
    /// (2.8); default on.
    pub replays: bool,
    /// Unix time at the origin of `Instant`, in seconds; default 1,763,000,000 (November 2025).
    pub epoch: u32,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            node_num: None,
            long_name: None,
            nodes: 100,
            firmware: "2.8.0.51a0b1e".into(),
            bad_utf8: false,
            replays: true,
            epoch: 1_763_000_000,
        }
    }
}

/// The lengths of the node's queues (`MeshService`, `mesh-pb-constants.h`).
#[derive(Debug, Clone, PartialEq)]
pub struct Queues {
    /// Packets to the client; default 32, on small boards 8 or 16.
    pub packets: usize,
    /// Queue statuses to the client; default 2.
    pub statuses: usize,
    /// Notifications to the client; default 2.
    pub notifications: usize,
    /// Packets to the radio, told as `maxlen`; default 16.
    pub transmit: usize,
    /// Bytes that the node has handed to its network stack and the client has not taken; above it
    /// the node stops producing and its own queues overflow; default 65,536.
    pub output: usize,
    /// Bytes from the client that wait for the next poll; above it the client's writes block;
    /// default 16,384.
    pub input: usize,
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            packets: 32,
            statuses: 2,
            notifications: 2,
            transmit: 16,
            output: 65_536,
            input: 16_384,
        }
    }
}

/// How long the node takes over things (`APIServerPort`, `StreamAPI`, `ServerAPI`).
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// It looks for new connections this often; default 100 ms.
    pub accept_poll: Duration,
    /// It looks for input this often while the client is active; default 5 ms.
    pub active_poll: Duration,
    /// It looks for input this often otherwise; default 250 ms.
    pub idle_poll: Duration,
    /// A client is active for this long after its last byte; default 2 s.
    pub active_for: Duration,
    /// A poll that finds input is late by a random time of at most this; default 300 ms.
    pub input_delay: Duration,
    /// A client that sent nothing for this long is dropped (2.7.21+); default 15 min.
    pub idle_limit: Option<Duration>,
    /// How long a reboot takes: connections are refused meanwhile; default 5 s.
    pub boot: Duration,
    /// It reboots this long after a change of its configuration; default 7 s.
    pub admin_reboot: Option<Duration>,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            accept_poll: Duration::from_millis(100),
            active_poll: Duration::from_millis(5),
            idle_poll: Duration::from_millis(250),
            active_for: Duration::from_secs(2),
            input_delay: Duration::from_millis(300),
            idle_limit: Some(Duration::from_secs(900)),
            boot: Duration::from_secs(5),
            admin_reboot: Some(Duration::from_secs(7)),
        }
    }
}

/// Rate limits on packets from a client, per connection and port number
/// (`PhoneAPI::handleToRadioPacket`).
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Default on.
    pub enforced: bool,
    /// All spans are multiplied by this; default 1.
    pub scale: f32,
    /// An id among the last 20 of a connection is dropped with no answer; default on. A simulated
    /// radio switches it off.
    pub repeats: bool,
    /// Ids and times are kept when the connection ends, as on a serial line, whose end the node
    /// does not notice; default off.
    pub kept: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { enforced: true, scale: 1.0, repeats: true, kept: false }
    }
}

/// What happens to a packet on the air (`Router`, `ReliableRouter`).
#[derive(Debug, Clone, PartialEq)]
pub struct Radio {
    /// Behaves like a native build without a radio: each transmission adds a queue status and a
    /// copy of the packet with port number 69; default off.
    pub simulated: bool,
    /// Time in the transmit queue's first place; default 150 to 450 ms.
    pub airtime: RangeInclusive<Duration>,
    /// Time from the transmission to the answer of a neighbour or of the destination; default 0.8
    /// to 4 s.
    pub answer: RangeInclusive<Duration>,
    /// Time until the node gives a `want_ack` packet up as `MAX_RETRANSMIT`; default 20 to 30 s.
    pub give_up: RangeInclusive<Duration>,
    /// How often a `want_ack` packet is answered at all (a direct one only if the destination is
    /// known); default always.
    pub answered: Chance,
    /// How often a direct packet is heard being relayed before its destination answers: a Routing
    /// reply from the node itself, which is no delivery. Default never, because the Python client
    /// takes the first reply for the answer; broadcasts have no other.
    pub relayed: Chance,
}

impl Default for Radio {
    fn default() -> Self {
        Self {
            simulated: false,
            airtime: Duration::from_millis(150)..=Duration::from_millis(450),
            answer: Duration::from_millis(800)..=Duration::from_secs(4),
            give_up: Duration::from_secs(20)..=Duration::from_secs(30),
            answered: Chance::ALWAYS,
            relayed: Chance::NEVER,
        }
    }
}

/// What the node does about heartbeats, and what another transport takes away.
#[derive(Debug, Clone, PartialEq)]
pub struct Heartbeat {
    /// Heartbeats are answered by a queue status at once (2.7.6+); default on. All that are read
    /// in one poll get one answer.
    pub answered: bool,
    /// Nonce 1 broadcasts the node's own information and gets no answer (2.7.23+); default on.
    pub nonce_one: bool,
    /// How often a client of another transport (a phone on Bluetooth) takes an answer, a queue
    /// status or a packet away; default never.
    pub shared: Chance,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { answered: true, nonce_one: true, shared: Chance::NEVER }
    }
}

/// What the node's byte stream and its connections are like.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// How often log text stands before a frame; default never.
    pub text: Chance,
    /// Each handshake is preceded by the `config_complete_id` of an older one; default off.
    pub stale_nonce: bool,
    /// At most this many bytes are offered to the network at once; default no limit.
    pub write_limit: Option<usize>,
    /// Closes the connection when the network takes less than offered (2.8.0, 2.8.1); default off.
    pub close_on_short_write: bool,
    /// Notices that the client closed; default on. `meshtasticd` does not.
    pub notices_fin: bool,
    /// A queue status with id 0 or a foreign id comes this often, unasked; default never.
    pub unasked: Option<Duration>,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            text: Chance::NEVER,
            stale_nonce: false,
            write_limit: None,
            close_on_short_write: false,
            notices_fin: true,
            unasked: None,
        }
    }
}

/// What the node hears from the mesh.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Traffic {
    /// Packets a minute (texts, positions, telemetry, node infos), at random times; default 0.
    pub per_minute: u32,
}

/// How often something happens, in steps of a thousandth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chance(u16);

impl Chance {
    /// It does not happen.
    pub const NEVER: Self = Self(0);
    /// It happens every time.
    pub const ALWAYS: Self = Self(1000);

    /// It happens `percent` times in a hundred; above 100 means always.
    pub const fn percent(percent: u16) -> Self {
        if percent >= 100 { Self::ALWAYS } else { Self(percent * 10) }
    }

    /// Whether it happens this time. Takes a random number only if that is not certain, so that a
    /// switch that is off does not change a seeded run.
    pub fn draw(self, rng: &mut Rng) -> bool {
        match self {
            Self::NEVER => false,
            Self(chance) if chance >= 1000 => true,
            Self(chance) => rng.below(1000) < u32::from(chance),
        }
    }
}

/// A random span in `range`, in whole milliseconds.
pub(super) fn draw_span(rng: &mut Rng, range: &RangeInclusive<Duration>) -> Duration {
    let start = range.start().as_millis() as u64;
    let width = (range.end().as_millis() as u64).saturating_sub(start);
    let width = u32::try_from(width).unwrap_or(u32::MAX - 1);
    Duration::from_millis(start + u64::from(rng.below(width + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_are_what_they_say() {
        let mut rng = Rng::new(1);
        assert!((0..1000).all(|_| Chance::ALWAYS.draw(&mut rng)));
        assert!((0..1000).all(|_| !Chance::NEVER.draw(&mut rng)));
        let hits = (0..10_000).filter(|_| Chance::percent(30).draw(&mut rng)).count();
        assert!((2_700..3_300).contains(&hits), "{hits} of 10,000");
    }

    #[test]
    fn spans_stay_in_their_range() {
        let mut rng = Rng::new(1);
        let range = Duration::from_millis(20)..=Duration::from_millis(23);
        let spans: Vec<_> = (0..200).map(|_| draw_span(&mut rng, &range)).collect();
        assert!(spans.iter().all(|span| range.contains(span)));
        assert!(spans.contains(range.start()) && spans.contains(range.end()));
        assert_eq!(draw_span(&mut rng, &(Duration::ZERO..=Duration::ZERO)), Duration::ZERO);
    }
}
