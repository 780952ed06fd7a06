//! The node's configuration as it told it, byte for byte, kept up to date by what is heard since.
//!
//! Frames are kept and given again whole, so fields that are not known here survive, and so do
//! names that are not UTF-8. A live packet changes one node's entry at wire level, as the node's
//! own database would change. Since 2.8 the entries that a node tells are thin: the last position
//! and telemetry of each node follow `config_complete_id` as packets (`PhoneAPI::popReplayPacket`).
//! Those are recognised, kept apart and given again in the same place.

mod builder;
mod disk;
mod entry;
mod memory;

use std::collections::HashMap;
use std::rc::Rc;

use meshbeat_core::frame::HEADER_LEN;
use meshbeat_core::peek::Packet;
use meshbeat_proto::PortNum;

pub use builder::Builder;
pub use disk::DamagedError;
use entry::{Entry, Reception};
use memory::{Kept, Kind, Memory};

/// Nodes kept at most, the own one not counted; no node knows so many.
pub const MAX_NODES: usize = 10_000;

/// What a client wants of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// All of it.
    Full,
    /// Everything but the other nodes (2.3.11 and newer).
    ConfigOnly,
    /// The node's own entry and the other nodes (2.6.8 and newer).
    NodesOnly,
}

impl Ask {
    /// What `want_config_id` with this nonce asks for (`PhoneAPI.h`).
    pub const fn from_nonce(nonce: u32) -> Self {
        match nonce {
            69_420 => Self::ConfigOnly,
            69_421 => Self::NodesOnly,
            _ => Self::Full,
        }
    }
}

/// Whether a packet has been told before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It is new.
    News,
    /// It is an old one, or the node made it up from its database.
    Replay,
}

/// What one node has told of itself and of the mesh. At most [`MAX_NODES`] other nodes, 64
/// channels, 256 files, 512 other frames and 10,000 packets; what is more is dropped.
#[derive(Debug)]
pub struct Snapshot {
    node: u32,
    /// What comes before the other nodes, `my_info` first, without the own entry.
    before: Vec<Frame>,
    own: Option<Entry>,
    /// Where in `before` the own entry stands.
    own_at: usize,
    others: Vec<Entry>,
    /// Where in `others` a node is.
    index: HashMap<u32, usize>,
    /// What comes after the other nodes.
    after: Vec<Frame>,
    memory: Memory,
    /// The node was found to tell old packets again, though its handshake does not show it.
    repeats: bool,
    /// Packets heard since the handshake.
    heard: usize,
}

/// A frame of the configuration that is no node's entry.
#[derive(Debug)]
struct Frame {
    /// Field number of its variant; 0 for a new one.
    variant: u8,
    bytes: Rc<[u8]>,
}

/// Field numbers of `FromRadio`.
mod variant {
    pub(super) const PACKET: u32 = 2;
    pub(super) const NODE_INFO: u8 = meshbeat_core::peek::NODE_INFO;
    pub(super) const CONFIG: u8 = 5;
    pub(super) const MODULE_CONFIG: u8 = 9;
    pub(super) const MY_INFO: u8 = 3;
    pub(super) const CHANNEL: u8 = 10;
    pub(super) const METADATA: u8 = 13;
    pub(super) const FILE_INFO: u8 = 15;
    pub(super) const DEVICE_UI: u8 = 17;
    pub(super) const LOCKDOWN_STATUS: u8 = 18;
    pub(super) const REGION_PRESETS: u8 = 19;
}

/// A node that tells old packets again does so before it has told many new ones: packets heard
/// after a handshake among which one that comes again shows it, besides as many as are kept.
const REPEAT_WINDOW: usize = 64;

impl Snapshot {
    fn new(node: u32) -> Self {
        Self {
            node,
            before: Vec::new(),
            own: None,
            own_at: 0,
            others: Vec::new(),
            index: HashMap::new(),
            after: Vec::new(),
            memory: Memory::default(),
            repeats: false,
            heard: 0,
        }
    }

    /// Takes a live packet of the node in: `payload` is the whole `FromRadio`, `packet` what was
    /// read from it. To be called once for each, in order.
    pub fn hear(&mut self, payload: &[u8], packet: &Packet<'_>) -> Heard {
        let reception = Reception::read(payload);
        let kind = packet.data.and_then(|data| Kind::of(data.port, data.payload));
        let known = self.memory.knows(packet.from, packet.id, kind);
        let made_up = kind.is_some() && self.tells_presets() && reception.is_made_up();
        let heard = if known || made_up { Heard::Replay } else { Heard::News };

        let window = self.memory.len() + REPEAT_WINDOW;
        self.repeats |= known && kind.is_some() && self.heard < window;
        self.heard = self.heard.saturating_add(1);
        self.memory.note(packet.from, packet.id, kind.is_some());
        if heard == Heard::News {
            self.update(packet, &reception);
        }
        if let Some(kind) = kind
            && (packet.from == self.node || self.index.contains_key(&packet.from))
            && let Some(kept) = Kept::new(payload, packet.id, reception.rx_time)
        {
            self.memory.keep(kind, packet.from, kept, heard);
        }
        heard
    }

    /// This newer handshake in the place of `old`. What the node has told itself holds, so nodes
    /// that it forgot are gone; of what was only heard, the packets of nodes that it still knows
    /// stay. Nothing of another node stays.
    #[must_use]
    pub fn succeeding(mut self, old: Self) -> Self {
        if self.node != old.node {
            return self;
        }
        let same_firmware = self.told(variant::METADATA) == old.told(variant::METADATA);
        self.repeats |= old.repeats && same_firmware;
        self.memory = old.memory;
        self.memory.retain(|node| node == self.node || self.index.contains_key(&node));
        self
    }

    /// The node's number.
    pub const fn node(&self) -> u32 {
        self.node
    }

    /// The frames that answer `ask`, in the order in which the node tells them, without the
    /// `config_complete_id` that ends them.
    pub fn handshake(&self, ask: Ask) -> impl Iterator<Item = &Rc<[u8]>> {
        let config = ask != Ask::NodesOnly;
        let nodes = ask != Ask::ConfigOnly;
        let (first, second) = self.before.split_at(self.own_at.min(self.before.len()));
        let plain = move |frames: &'_ [Frame]| if config { frames.len() } else { 0 };
        let (first, second, after) =
            (&first[..plain(first)], &second[..plain(second)], &self.after[..plain(&self.after)]);
        let others = if nodes { &self.others[..] } else { &[] };
        first
            .iter()
            .map(|frame| &frame.bytes)
            .chain(self.own.iter().map(Entry::frame))
            .chain(second.iter().map(|frame| &frame.bytes))
            .chain(others.iter().map(Entry::frame))
            .chain(after.iter().map(|frame| &frame.bytes))
    }

    /// The packets that follow `config_complete_id`, but not after [`Ask::ConfigOnly`]: the last
    /// position, telemetry and status of each node. None if this node tells none itself.
    pub fn replays(&self) -> impl Iterator<Item = &Rc<[u8]>> {
        let told = self.tells_replays();
        self.memory.frames().filter(move |_| told)
    }

    /// Whether the node tells old packets again after a handshake: those that tell
    /// `region_presets` do (2.8), others are believed once they did.
    fn tells_replays(&self) -> bool {
        self.repeats || self.tells_presets()
    }

    fn tells_presets(&self) -> bool {
        self.told(variant::REGION_PRESETS).is_some()
    }

    /// The first frame with this variant.
    fn told(&self, variant: u8) -> Option<&Rc<[u8]>> {
        let mut frames = self.before.iter().chain(&self.after);
        frames.find(|frame| frame.variant == variant).map(|frame| &frame.bytes)
    }

    /// Changes the sender's entry as the node changes its own (`NodeDB::updateFrom`,
    /// `updateUser`, `updatePosition`, `updateTelemetry`).
    fn update(&mut self, packet: &Packet<'_>, reception: &Reception) {
        let (Some(data), from) = (packet.data, packet.from) else { return };
        let is_own = from == self.node;
        // Where they follow as packets, the entries of others have no place for them.
        let thick = is_own || !self.tells_replays();
        let entry = match self.index.get(&from) {
            _ if is_own => self.own.as_mut(),
            Some(at) => self.others.get_mut(*at),
            None if from == 0 || from == u32::MAX || self.others.len() >= MAX_NODES => None,
            None => {
                let Some(entry) = Entry::nameless(from) else { return };
                self.index.insert(from, self.others.len());
                self.others.push(entry);
                self.others.last_mut()
            }
        };
        let Some(entry) = entry else { return };
        if !is_own {
            entry.hear(reception);
        }
        match PortNum::try_from(data.port) {
            Ok(PortNum::NodeinfoApp) => {
                entry.rename(data.payload, (!is_own).then_some(reception.channel));
            }
            Ok(PortNum::PositionApp) if thick => entry.locate(data.payload),
            Ok(PortNum::TelemetryApp) if thick => entry.measure(data.payload),
            _ => {}
        }
    }
}

/// The payload of one of our frames.
fn payload_of(frame: &[u8]) -> &[u8] {
    frame.get(HEADER_LEN..).unwrap_or(&[])
}

#[cfg(test)]
mod tests;
