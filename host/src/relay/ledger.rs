//! The packets that clients have sent: whose each is, under which id its client and the node know
//! it, and what became of it.

use core::hash::{Hash as _, Hasher as _};
use std::collections::VecDeque;
use std::hash::DefaultHasher;

use meshbeat_core::outbox::{PacketEvent, PacketState};
use meshbeat_core::time::Instant;

use super::ClientId;

/// Packets remembered after their end.
const REMEMBERED: usize = 1024;

/// A packet that the outbox has taken.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) owner: ClientId,
    /// The id that its client gave it, or was told if it gave none.
    pub(super) id: u32,
    /// The id in the outbox.
    pub(super) accepted_id: u32,
    /// The id under which the node has it.
    pub(super) wire_id: u32,
    /// The one before it, under which the node refused the packet.
    refused_id: Option<u32>,
    pub(super) state: PacketState,
    /// The `ToRadio` payload as it was handed to the outbox, until its end.
    pub(super) payload: Vec<u8>,
    /// Of the payload as the client sent it, to know a repeat by.
    hash: u64,
    /// A Routing error of the node about the packet under this id that came before its end: if the
    /// outbox tries it again, its client need not know.
    pub(super) held: Option<(u32, Vec<u8>)>,
    /// What it does to the node's settings.
    pub(super) change: Option<Change>,
    /// When the client is told of a refusal, unless the node does so before.
    pub(super) answer_at: Option<Instant>,
}

/// What an admin packet does to the node's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Begins a transaction: what follows is kept back until its end.
    Begin,
    /// Changes something.
    Write,
    /// Ends a transaction.
    Commit,
}

/// What is known of a packet that a client wants to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: it can go under its id.
    No,
    /// It is this one once more.
    Repeat,
    /// The id is another packet's.
    Taken,
}

/// The newest packets, oldest first. Those without an end are never dropped; the outbox bounds them.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: VecDeque<Entry>,
}

impl Entry {
    pub(super) fn new(
        owner: ClientId,
        (id, accepted_id): (u32, u32),
        said: &[u8],
        payload: Vec<u8>,
        change: Option<Change>,
    ) -> Self {
        Self {
            owner,
            id,
            accepted_id,
            wire_id: accepted_id,
            refused_id: None,
            state: PacketState::Queued,
            hash: hash(said),
            payload,
            held: None,
            change,
            answer_at: None,
        }
    }
}

impl Ledger {
    pub(super) fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
        if self.entries.len() > REMEMBERED
            && let Some(oldest) = self.entries.iter().position(|entry| entry.state.is_final())
        {
            self.entries.remove(oldest);
        }
    }

    /// What is known of a packet with this id (not 0). One that was refused or has expired may be
    /// tried again, but its id is used up: the node would swallow it. A client that has come back
    /// repeats what it sent before it left; from now on the packet is its own.
    pub(super) fn knows(
        &mut self,
        client: ClientId,
        id: u32,
        payload: &[u8],
        is_gone: impl Fn(ClientId) -> bool,
    ) -> Known {
        let hash = hash(payload);
        let mut known = Known::No;
        for entry in self.entries.iter_mut().rev() {
            let ended = matches!(entry.state, PacketState::Refused(_) | PacketState::Expired);
            let same = entry.id == id && entry.hash == hash && !ended;
            if same && (entry.owner == client || is_gone(entry.owner)) {
                entry.owner = client;
                return Known::Repeat;
            }
            if [entry.id, entry.accepted_id, entry.wire_id].contains(&id) {
                known = Known::Taken;
            }
        }
        known
    }

    /// The packet whose state has changed.
    pub(super) fn handle_event(&mut self, event: PacketEvent) -> Option<&mut Entry> {
        let mut live = self.entries.iter_mut().rev().filter(|entry| !entry.state.is_final());
        let entry = live.find(|entry| entry.accepted_id == event.id)?;
        if entry.wire_id != event.wire_id {
            entry.refused_id = Some(entry.wire_id);
        }
        (entry.wire_id, entry.state) = (event.wire_id, event.state);
        Some(entry)
    }

    /// The packet that the node knows under this id.
    pub(super) fn by_wire_id(&mut self, id: u32) -> Option<&mut Entry> {
        self.entries.iter_mut().rev().find(|entry| id != 0 && entry.wire_id == id)
    }

    /// Whether the node refused a packet under this id that was tried again under another.
    pub(super) fn was_refused(&self, id: u32) -> bool {
        self.entries.iter().any(|entry| entry.refused_id == Some(id))
    }

    /// The id under which the node knows a packet of this client.
    pub(super) fn wire_id(&self, owner: ClientId, id: u32) -> Option<u32> {
        let mut entries = self.entries.iter().rev();
        entries.find(|entry| entry.owner == owner && entry.id == id).map(|entry| entry.wire_id)
    }

    /// The state of the newest packet to which its client gave this id.
    pub(super) fn fate(&self, id: u32) -> Option<PacketState> {
        self.entries.iter().rev().find(|entry| entry.id == id).map(|entry| entry.state)
    }

    /// Changes of the node's settings on which it has not decided.
    pub(super) fn changes(&self) -> usize {
        let open = self.entries.iter().filter(|entry| !entry.state.is_final());
        open.filter(|entry| entry.change.is_some()).count()
    }

    /// A refusal of which its client is to be told now.
    pub(super) fn poll_unanswered(&mut self, now: Instant) -> Option<&mut Entry> {
        let mut entries = self.entries.iter_mut();
        let entry = entries.find(|entry| entry.answer_at.is_some_and(|at| now >= at))?;
        entry.answer_at = None;
        Some(entry)
    }

    /// When the next client is to be told of a refusal.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.entries.iter().filter_map(|entry| entry.answer_at).min()
    }
}

fn hash(payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    payload.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(ledger: &mut Ledger, id: u32) {
        ledger.push(Entry::new(ClientId(1), (id, id), b"said", Vec::new(), None));
    }

    fn decide(ledger: &mut Ledger, id: u32, state: PacketState) {
        ledger
            .handle_event(PacketEvent { id, wire_id: id, sender: 0, state })
            .expect("it is known");
    }

    #[test]
    fn the_newest_are_remembered_and_what_is_open_is_never_forgotten() {
        let mut ledger = Ledger::default();
        push(&mut ledger, 1);
        for id in 2..3_000 {
            push(&mut ledger, id);
            decide(&mut ledger, id, PacketState::Confirmed);
        }
        assert_eq!(ledger.entries.len(), REMEMBERED);
        assert_eq!(ledger.fate(1), Some(PacketState::Queued));
        assert_eq!((ledger.fate(100), ledger.fate(2_999)), (None, Some(PacketState::Confirmed)));
    }

    #[test]
    fn only_what_may_be_tried_again_is_not_a_repeat() {
        let known = |state, payload: &[u8], is_gone: bool| {
            let mut ledger = Ledger::default();
            push(&mut ledger, 7);
            decide(&mut ledger, 7, state);
            [ClientId(1), ClientId(2)].map(|who| ledger.knows(who, 7, payload, |_| is_gone))
        };
        let (open, refused) = (PacketState::Sent, PacketState::Refused(6));
        assert_eq!(known(open, b"said", false), [Known::Repeat, Known::Taken]);
        assert_eq!(known(open, b"said", true), [Known::Repeat, Known::Repeat]);
        assert_eq!(known(open, b"other", true), [Known::Taken, Known::Taken]);
        assert_eq!(known(PacketState::Unknown, b"said", false)[0], Known::Repeat);
        assert_eq!(known(refused, b"said", true), [Known::Taken, Known::Taken]);
        assert_eq!(known(PacketState::Expired, b"said", true), [Known::Taken, Known::Taken]);
        assert_eq!(Ledger::default().knows(ClientId(1), 7, b"said", |_| true), Known::No);
    }
}
