//! One packet of the outbox, and what is known of the one in flight.

use heapless::Vec;

use crate::frame::MAX_PAYLOAD;
use crate::time::{Instant, Span};

use super::PacketState;

/// A packet with its story.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// The `ToRadio` payload, its id last.
    pub(super) payload: Vec<u8, MAX_PAYLOAD>,
    pub(super) id: u32,
    pub(super) wire_id: u32,
    pub(super) port: i32,
    pub(super) to: u32,
    pub(super) want_ack: bool,
    pub(super) sender: u16,
    /// Later packets have higher numbers.
    pub(super) order: u32,
    /// The number of its sender's last turn; the next one will be `next_turn`.
    pub(super) turn: u32,
    pub(super) state: PacketState,
    /// The state that was last drained as an event; `None` before the first.
    pub(super) told: Option<PacketState>,
    pub(super) expires: Instant,
    /// Not to be written before; after a refusal.
    pub(super) not_before: Instant,
    /// When the first byte under this wire id was written, and to which node.
    pub(super) first_written: Option<(Instant, u32)>,
    /// How often it was written whole under this wire id.
    pub(super) writes: u16,
    /// Why it was refused the last time.
    pub(super) refused: Option<i32>,
}

impl Slot {
    /// A free place.
    #[inline(always)]
    pub(super) fn free() -> Self {
        Self {
            payload: Vec::new(),
            id: 0,
            wire_id: 0,
            port: 0,
            to: 0,
            want_ack: false,
            sender: 0,
            order: 0,
            turn: 0,
            state: PacketState::Expired,
            told: Some(PacketState::Expired),
            expires: Instant::ORIGIN,
            not_before: Instant::ORIGIN,
            first_written: None,
            writes: 0,
            refused: None,
        }
    }

    /// Nobody awaits anything of it: its end was told.
    pub(super) fn is_free(&self) -> bool {
        self.state.is_final() && self.told == Some(self.state)
    }

    /// When it is too old, if it waits.
    pub(super) fn end(&self, resend_within: Span) -> Instant {
        match self.first_written {
            Some((first, _)) => first + resend_within,
            None => self.expires,
        }
    }

    /// The end of a packet on which the node has not decided.
    pub(super) fn unfinished(&self) -> PacketState {
        match (self.first_written, self.refused) {
            (Some(_), _) => PacketState::Unknown,
            (None, Some(res)) => PacketState::Refused(res),
            (None, None) => PacketState::Expired,
        }
    }
}

/// The packet that the node is to decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flight {
    /// Its place in the list.
    pub(super) slot: usize,
    /// The node had told room for at least one packet before this was written.
    pub(super) had_room: bool,
    /// It was written under the same id on an earlier connection.
    pub(super) repeat: bool,
    /// A byte of it was written.
    pub(super) begun: bool,
    /// When it was written whole; before that, when it was taken up.
    pub(super) since: Instant,
    /// Answers that may still come to heartbeats written before it.
    pub(super) ahead: u8,
    /// Heartbeats written after it.
    pub(super) behind: u8,
    pub(super) barrier: Barrier,
}

/// The question whether the node has read the packet in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Barrier {
    /// Some bytes are not written yet.
    Writing,
    /// Its own status is awaited until then.
    Waiting(Instant),
    /// A heartbeat is to be written; so many were, so many were answered.
    Wanted { asked: u8, answered: u8 },
    /// A heartbeat was written; its answer is awaited until then.
    Asked { until: Instant, asked: u8, answered: u8 },
    /// The node has read it; a status that was overtaken is awaited until then.
    Read(Instant),
}
