//! Which packets were heard, and the last ones of those that a node tells again.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::rc::Rc;

use meshbeat_proto::PortNum;

use super::Heard;
use super::entry::{is_message, is_place, telemetry_variant};
use crate::relay::wire;

/// Packets remembered by sender and id.
pub(super) const MAX_SEEN: usize = 4_096;
/// Packets kept whole.
pub(super) const MAX_KEPT: usize = 10_000;
/// Highest field number of a telemetry variant that is kept; the schema ends at 9.
const LAST_TELEMETRY: u32 = 15;

/// What a node tells again of another, in the order in which it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Where it is.
    Position,
    /// What it measures: the variant's field number.
    Telemetry(u32),
    /// What its owner says of it.
    Status,
}

/// A packet kept whole.
#[derive(Debug)]
pub(super) struct Kept {
    id: u32,
    rx_time: u32,
    frame: Rc<[u8]>,
}

/// Bounded memory of packets.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The oldest first: sender, id, and whether it was of a kind that is kept.
    order: VecDeque<(u32, u32, bool)>,
    seen: HashSet<(u32, u32)>,
    /// The last of each kind and sender.
    kept: BTreeMap<(Kind, u32), Kept>,
}

impl Kind {
    /// What a packet's content is, if a node tells it again and it says something.
    pub(super) fn of(port: i32, payload: &[u8]) -> Option<Self> {
        match PortNum::try_from(port).ok()? {
            PortNum::PositionApp => is_place(payload).then_some(Self::Position),
            PortNum::TelemetryApp => {
                let (variant, _) = telemetry_variant(payload)?;
                (variant <= LAST_TELEMETRY).then_some(Self::Telemetry(variant))
            }
            PortNum::NodeStatusApp => {
                (!payload.is_empty() && is_message(payload)).then_some(Self::Status)
            }
            _ => None,
        }
    }
}

impl Kept {
    /// A whole `FromRadio`; `None` if it fits no frame.
    pub(super) fn new(payload: &[u8], id: u32, rx_time: u32) -> Option<Self> {
        Some(Self { id, rx_time, frame: wire::framed(payload)?.into() })
    }
}

impl Memory {
    /// Remembers a packet by sender and id.
    pub(super) fn note(&mut self, from: u32, id: u32, is_kept: bool) {
        if id == 0 || !self.seen.insert((from, id)) {
            return;
        }
        self.order.push_back((from, id, is_kept));
        if self.order.len() > MAX_SEEN
            && let Some((from, id, _)) = self.order.pop_front()
        {
            self.seen.remove(&(from, id));
        }
    }

    /// Keeps the latest packet of a kind. One told again is so only if the node tells it with a
    /// later time, or if there is none.
    pub(super) fn keep(&mut self, kind: Kind, from: u32, new: Kept, heard: Heard) {
        let has_room = self.kept.len() < MAX_KEPT;
        match self.kept.get_mut(&(kind, from)) {
            Some(old) if heard == Heard::News || new.rx_time > old.rx_time => *old = new,
            None if has_room => {
                self.kept.insert((kind, from), new);
            }
            _ => {}
        }
    }

    /// Forgets the packets of nodes for which `stays` does not hold. That they were heard stays
    /// known.
    pub(super) fn retain(&mut self, stays: impl Fn(u32) -> bool) {
        self.kept.retain(|(_, from), _| stays(*from));
    }

    /// Whether this packet was heard before; never for id 0.
    pub(super) fn knows(&self, from: u32, id: u32, kind: Option<Kind>) -> bool {
        let kept = kind.and_then(|kind| self.kept.get(&(kind, from)));
        id != 0 && (self.seen.contains(&(from, id)) || kept.is_some_and(|kept| kept.id == id))
    }

    /// Packets kept whole.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// The packets kept whole: all positions, then all of each telemetry, then all statuses.
    pub(super) fn frames(&self) -> impl Iterator<Item = &Rc<[u8]>> {
        self.kept.values().map(|kept| &kept.frame)
    }

    /// Sender and id of the packets that a node might tell again, the oldest first.
    pub(super) fn seen(&self) -> impl Iterator<Item = (u32, u32)> {
        self.order.iter().filter(|seen| seen.2).map(|(from, id, _)| (*from, *id))
    }
}
