//! Packets kept until the node has confirmed or refused them, or they have become too old.
//!
//! One packet is in flight at a time: of 20 packets in one write the node tells the fate of two.
//! Its own queue status decides. If that stays away, heartbeats are the *barrier*: the answer to the
//! first proves that the node has read the packet, the answer to the second that no status of it is
//! still on its way. That counts as acceptance only if the node had told room for it, for a full
//! queue's refusal may be what was lost; else the packet is unknown.
//! What is written and not confirmed when the connection ends goes again under the same id, for the
//! mesh drops repeats by sender and id, within 5 minutes and to the same node only.
//!
//! The node's rules stand in `MeshService`, `Router` and `PhoneAPI::handleToRadioPacket`.

mod slot;
mod state;

use crate::mutant::{Mutant, Mutation};
use crate::pacing::Pacing;
use crate::peek::{self, Outgoing, QueueStatus};
use crate::rng::Rng;
use crate::time::{Instant, Span};

use slot::{Barrier, Flight, Slot};

pub use state::{OutboxConfig, PacketEvent, PacketState, SendError};

/// Values of `res` in a queue status (`Routing.Error` and `ERRNO_*` of the firmware's `error.h`).
mod res {
    pub(super) const OK: i32 = 0;
    pub(super) const DUTY_CYCLE: i32 = 9;
    pub(super) const FULL: i32 = 32;
    pub(super) const NO_RADIO: i32 = 33;
    pub(super) const FOR_THE_NODE: i32 = 35;
}

/// No barrier within this time of the handshake: an unasked queue status often follows it.
const SETTLE: Span = Span::from_secs(1);

/// The latest that the answer to a heartbeat comes on a link that lives.
const LATE: Span = Span::from_secs(30);

/// Packets of one link, at most `N`. 600 bytes each.
#[derive(Debug, Clone)]
pub struct Outbox<const N: usize> {
    config: OutboxConfig,
    slots: [Slot; N],
    pacing: Pacing,
    next_order: u32,
    /// Counts in twos: between two turns there is room for those that come anew.
    next_turn: u32,
    flight: Option<Flight>,
    /// The port number of what was in flight when the connection was lost.
    lost_port: Option<i32>,
    /// The node that is connected and configured, and since when.
    up: Option<(u32, Instant)>,
    /// The last `free` that the node told on this connection.
    free: Option<u32>,
    /// The node told a full queue: one answer may be the unasked status that follows.
    was_full: bool,
    /// When the node, whose queue was full, is asked how much room it has now; else never.
    ask_room: Instant,
    /// Heartbeats of this connection to which an answer may still come.
    pending: u8,
    /// When the last of them was written.
    last_asked: Instant,
    /// Statuses come on this connection that nobody asked for: none can be told from an answer.
    unasked: bool,
    /// A byte arrived since the last heartbeat was written.
    heard: bool,
    /// Ids are remembered by the node over connections (serial).
    remembers: bool,
    mutation: Mutation,
}

impl<const N: usize> Outbox<N> {
    /// An empty outbox. `remembers` is for a serial line, where the node does not notice a new
    /// connection and so forgets neither ids nor rate limits.
    #[inline(always)]
    pub fn new(config: OutboxConfig, remembers: bool, mutation: Mutation) -> Self {
        Self {
            config,
            slots: core::array::from_fn(|_| Slot::free()),
            pacing: Pacing::new(config.pacing),
            next_order: 0,
            next_turn: 2,
            flight: None,
            lost_port: None,
            up: None,
            free: None,
            was_full: false,
            ask_room: Instant::NEVER,
            pending: 0,
            last_asked: Instant::ORIGIN,
            unasked: false,
            heard: false,
            remembers,
            mutation,
        }
    }

    /// Takes a `ToRadio` payload that holds one packet; returns its id, which is a fresh one if it
    /// was 0. `ttl` is the configured one if `None`.
    pub fn accept(
        &mut self,
        now: Instant,
        sender: u16,
        payload: &[u8],
        ttl: Option<Span>,
        rng: &mut Rng,
    ) -> Result<u32, SendError> {
        let Some(free) = self.slots.iter().position(Slot::is_free) else {
            return Err(SendError::Full);
        };
        if self.room(sender) == 0 {
            return Err(SendError::Quota);
        }
        let Outgoing { id, to, port, want_ack } =
            peek::outgoing(payload).ok_or(SendError::NotAPacket)?;
        let id = match id {
            0 => self.fresh_id(rng),
            id if self.knows(id) => return Err(SendError::Duplicate),
            id => id,
        };
        // A sender that comes anew is behind those that wait, but before the one served last.
        let turn = self.waiting().find(|slot| slot.sender == sender).map(|slot| slot.turn);
        let turn = turn.unwrap_or_else(|| self.next_turn.wrapping_sub(3));
        let Some(slot) = self.slots.get_mut(free) else { return Err(SendError::Full) };
        // Written where it stays, for half a kilobyte on the stack is much for a microcontroller.
        peek::prepare(payload, id, &mut slot.payload).ok_or(SendError::NotAPacket)?;
        (slot.id, slot.wire_id) = (id, id);
        (slot.port, slot.to, slot.want_ack, slot.sender) = (port, to, want_ack, sender);
        (slot.order, slot.turn) = (self.next_order, turn);
        (slot.state, slot.told) = (PacketState::Queued, None);
        slot.expires = now + ttl.unwrap_or(self.config.ttl);
        slot.not_before = now;
        (slot.first_written, slot.writes, slot.refused) = (None, 0, None);
        self.next_order = self.next_order.wrapping_add(1);
        Ok(id)
    }

    /// A new connection, not configured yet.
    pub fn handle_opened(&mut self) {
        (self.up, self.free, self.was_full) = (None, None, false);
        self.ask_room = Instant::NEVER;
        (self.unasked, self.pending) = (false, 0);
        if !self.remembers || self.mutation.is(Mutant::SerialForgotten) {
            self.pacing.clear();
        }
    }

    /// The handshake is done. What was written to another node is unknown from now on.
    pub fn handle_configured(&mut self, now: Instant, node: u32) {
        // The opening heartbeat was answered before its end or not at all.
        (self.up, self.pending) = (Some((node, now)), 0);
        // On a serial line the node has by now read what was in flight when the line was lost, and
        // perhaps no earlier: input waits while it is away.
        if let Some(port) = self.lost_port.take().filter(|_| self.remembers) {
            self.pacing.handle_read(now, port);
        }
        for slot in &mut self.slots {
            if slot.state == PacketState::Queued
                && slot.first_written.is_some_and(|(_, written_to)| written_to != node)
                && !self.mutation.is(Mutant::ResendToAnotherNode)
            {
                slot.state = PacketState::Unknown;
            }
        }
    }

    /// The connection is gone. What was in flight waits to be written again.
    pub fn handle_lost(&mut self) {
        self.up = None;
        if let Some(slot) = self.in_flight() {
            slot.state = PacketState::Queued;
            self.lost_port = Some(slot.port);
            self.flight = None;
        }
    }

    /// The first bytes of a packet were written: its sender has had its turn, unless it was written
    /// before.
    pub fn handle_begun(&mut self, now: Instant) {
        let Some((node, _)) = self.up else { return };
        if let Some(flight) = &mut self.flight {
            flight.begun = true;
        }
        let turn = self.next_turn;
        if let Some(slot) = self.in_flight()
            && slot.first_written.is_none()
        {
            slot.first_written = Some((now, node));
            let sender = slot.sender;
            self.next_turn = turn.wrapping_add(2);
            self.slots.iter_mut().filter(|slot| slot.sender == sender).for_each(|s| s.turn = turn);
        }
    }

    /// Takes back a packet that has become too old while the transport took no byte of it. Returns
    /// whether there was one: it is not to be written then.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        let stale = self.unbegun().is_some_and(|slot| now >= self.end(slot));
        if stale {
            self.flight = None;
        }
        stale
    }

    /// The last byte of a packet was written.
    pub fn handle_sent(&mut self, now: Instant) {
        let settled = self.up.map_or(now, |(_, since)| since + SETTLE);
        let until = (now + self.config.patience).max(settled);
        if let Some(flight) = &mut self.flight {
            flight.barrier = Barrier::Waiting(until);
            flight.since = now;
        }
        if let Some(slot) = self.in_flight() {
            slot.state = PacketState::Sent;
            slot.writes = slot.writes.saturating_add(1);
            let port = slot.port;
            if self.mutation.is(Mutant::SpanFromWrite) {
                self.pacing.handle_read(now, port);
            }
        }
        if self.mutation.is(Mutant::TwoInFlight) {
            self.flight = None;
        }
    }

    /// A heartbeat's last byte was written. If a packet was written before, its answer proves that
    /// the node has read it.
    pub fn handle_asked(&mut self, now: Instant) {
        let until = now + self.config.patience;
        self.heard = false;
        if self.ask_room < Instant::NEVER {
            self.ask_room = until;
        }
        self.forget_late(now);
        self.pending = self.pending.saturating_add(1);
        self.last_asked = now;
        if let Some(Flight { barrier, behind, .. }) = &mut self.flight {
            *behind = behind.saturating_add(1);
            *barrier = match *barrier {
                Barrier::Wanted { asked, answered } => {
                    Barrier::Asked { until, asked: asked.saturating_add(1), answered }
                }
                other => other,
            };
        }
    }

    /// A byte arrived: the node lives, whatever it leaves unanswered.
    pub fn handle_heard(&mut self) {
        self.heard = true;
    }

    /// A queue status arrived. One without an id answers a heartbeat, if one is unanswered.
    pub fn handle_status(&mut self, now: Instant, status: QueueStatus, rng: &mut Rng) {
        self.forget_late(now);
        let answers = status.id == 0 && self.pending > 0;
        let settled = self.up.is_some_and(|(_, since)| now >= since + SETTLE);
        if status.id == 0 && !answers && settled && self.free != Some(0) {
            self.unasked = true;
        }
        let answers = answers && !self.unasked;
        self.free = Some(status.free);
        if let Some(flight) = self.flight.as_mut().filter(|_| status.free == 0) {
            flight.had_room = false;
        }
        self.was_full |= status.free == 0;
        self.ask_room = match status.free {
            0 => now + self.config.patience,
            _ => Instant::NEVER,
        };
        if status.id != 0 {
            self.handle_own_status(now, status, rng);
        } else if answers {
            self.pending = self.pending.saturating_sub(1);
            self.handle_answer(now);
        }
    }

    /// A Routing reply arrived: it decides on a packet whose queue status was lost. An error of
    /// another node than ours shows that the packet was sent.
    pub fn handle_reply(&mut self, now: Instant, from: u32, request_id: u32, error: i32) {
        /// The node has sent it and heard nobody (`Routing.Error`).
        const MAX_RETRANSMIT: i32 = 5;
        let repeat = self.flight.is_some_and(|flight| flight.repeat);
        let own = self.up.is_some_and(|(node, _)| node == from);
        let Some(slot) = self.in_flight() else { return };
        if slot.wire_id != request_id || slot.state != PacketState::Sent {
            return;
        }
        slot.state = match error {
            0 | MAX_RETRANSMIT => PacketState::Confirmed,
            _ if !own => PacketState::Confirmed,
            _ if repeat => PacketState::Unknown,
            error => PacketState::Refused(error),
        };
        self.land(if repeat { now + self.config.grace } else { now });
    }

    /// Lets time pass; does nothing before [`Outbox::poll_timeout`]. A mute node answers no barrier.
    pub fn handle_timeout(&mut self, now: Instant, mute: bool) {
        self.handle_flight_timeout(now, mute);
        let resend_within = self.config.resend_within;
        let flying = self.flying();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let waits = slot.state == PacketState::Queued && flying != Some(index);
            if waits && now >= slot.end(resend_within) {
                slot.state = slot.unfinished();
            }
        }
    }

    /// Ends all waiting: what was never written is expired, what was is unknown.
    pub fn handle_closing(&mut self) {
        self.flight = None;
        for slot in &mut self.slots {
            if !slot.state.is_final() {
                slot.state = slot.unfinished();
            }
        }
    }

    /// The oldest change of a state that was not drained yet; a packet whose end was drained is
    /// forgotten. Nothing is lost by draining late but the states between.
    pub fn poll_event(&mut self) -> Option<PacketEvent> {
        let slot = self.slots.iter_mut().find(|slot| slot.told != Some(slot.state))?;
        slot.told = Some(slot.state);
        Some(PacketEvent {
            id: slot.id,
            wire_id: slot.wire_id,
            sender: slot.sender,
            state: slot.state,
        })
    }

    /// The payload to be written next, which is in flight from now on; `None` if none may be.
    pub fn poll_packet(&mut self, now: Instant) -> Option<&[u8]> {
        if self.up.is_none() || self.flight.is_some() || self.free == Some(0) {
            return None;
        }
        let next = self.next(now)?;
        let had_room = self.free.is_some_and(|free| free > 0);
        let new_id = self.mutation.is(Mutant::NewIdOnResend);
        let slot = self.slots.get_mut(next)?;
        let repeat = slot.first_written.is_some();
        if new_id && repeat {
            slot.wire_id = slot.wire_id.wrapping_add(1);
            peek::set_id(&mut slot.payload, slot.wire_id);
        }
        self.forget_late(now);
        let flight = Flight {
            slot: next,
            had_room,
            repeat,
            begun: false,
            since: now,
            ahead: self.pending,
            behind: 0,
            barrier: Barrier::Writing,
        };
        self.flight = Some(flight);
        self.in_flight().map(|slot| slot.payload.as_slice())
    }

    /// From when on a heartbeat is to be written: as a barrier, or to learn how much room there is.
    /// Never if none is needed.
    pub fn heartbeat_from(&self) -> Instant {
        match self.flight {
            _ if self.up.is_none() => Instant::NEVER,
            Some(Flight { barrier: Barrier::Wanted { .. }, .. }) => Instant::ORIGIN,
            None if self.waits() => self.ask_room,
            _ => Instant::NEVER,
        }
    }

    /// The next moment at which [`Outbox::handle_timeout`] has something to do or, if the link
    /// `can_send`, [`Outbox::poll_packet`] has something new; never if there is nothing to do.
    pub fn poll_timeout(&self, can_send: bool) -> Instant {
        let mut due = match self.flight {
            None => Instant::NEVER,
            Some(flight) => match flight.barrier {
                Barrier::Writing => self.unbegun().map_or(Instant::NEVER, |slot| self.end(slot)),
                Barrier::Wanted { .. } => Instant::NEVER,
                Barrier::Waiting(at) | Barrier::Read(at) => at,
                Barrier::Asked { until, .. } => until,
            },
        };
        let can_send =
            can_send && self.up.is_some() && self.flight.is_none() && self.free != Some(0);
        let flying = self.flying();
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.state != PacketState::Queued || flying == Some(index) {
                continue;
            }
            due = due.min(self.end(slot));
            if can_send && self.is_head(slot) {
                due = due.min(self.ready_at(slot));
            }
        }
        due
    }

    /// Whether the node has still to decide on a packet.
    pub const fn is_in_flight(&self) -> bool {
        self.flight.is_some()
    }

    /// How many more packets of this sender are accepted now.
    pub fn room(&self, sender: u16) -> usize {
        let own = self.waiting().filter(|slot| slot.sender == sender).count();
        usize::from(self.config.quota).saturating_sub(own).min(N - self.waiting().count())
    }

    /// How many packets wait or are in flight.
    pub fn len(&self) -> usize {
        self.slots.iter().filter(|slot| !slot.state.is_final()).count()
    }

    /// How long an answer may take before it is asked for again.
    pub const fn patience(&self) -> Span {
        self.config.patience
    }

    /// Whether every packet has met its end.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When a packet that waits is too old.
    fn end(&self, slot: &Slot) -> Instant {
        slot.end(self.config.resend_within)
    }

    /// The packets of whose end was not told.
    fn waiting(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| !slot.is_free())
    }

    fn waits(&self) -> bool {
        self.slots.iter().any(|slot| slot.state == PacketState::Queued)
    }

    fn handle_own_status(&mut self, now: Instant, status: QueueStatus, rng: &mut Rng) {
        let node = self.up.map(|(node, _)| node);
        let fresh = self.fresh_id(rng);
        let (retry, retry_duty_cycle) = (self.config.retry, self.config.retry_duty_cycle);
        let flying = self.flying();
        let own = |(_, slot): &(usize, &mut Slot)| slot.wire_id == status.id && !slot.is_free();
        let Some((index, slot)) = self.slots.iter_mut().enumerate().find(own) else { return };
        // Statuses outlive the connection in the node: one may come for a packet that waits to be
        // written again.
        let in_flight = flying == Some(index);
        let repeat = slot.writes > 1;
        let decides = match slot.state {
            PacketState::Sent => in_flight,
            PacketState::Queued => !in_flight && slot.writes > 0,
            _ => false,
        };
        if !decides {
            return;
        }
        let again = match status.res {
            res::OK => None,
            res::FULL if slot.want_ack => None,
            res::FOR_THE_NODE if Some(slot.to) == node => None,
            res::FULL | res::NO_RADIO => Some(retry),
            res::DUTY_CYCLE => Some(retry_duty_cycle),
            // The first write may have been taken, or this status may be about that one.
            _ if repeat => {
                slot.state = PacketState::Unknown;
                None
            }
            res => {
                slot.state = PacketState::Refused(res);
                None
            }
        };
        match again {
            None if slot.state.is_final() => {}
            None => slot.state = PacketState::Confirmed,
            Some(_) if repeat => slot.state = PacketState::Unknown,
            Some(wait) => {
                // The node remembers the id and would swallow it; it was not sent, so a fresh one
                // makes no second packet of it.
                slot.wire_id = fresh;
                peek::set_id(&mut slot.payload, fresh);
                slot.refused = Some(status.res);
                slot.first_written = None;
                slot.writes = 0;
                slot.not_before = now + wait;
                slot.state = PacketState::Queued;
            }
        }
        if in_flight {
            // What was asked before the packet was answered before its status, or never is.
            if let Some(flight) = self.flight.filter(|_| !repeat) {
                self.pending = self.pending.min(flight.behind);
            }
            // After a repeat this may have been the status of the write before.
            self.land(if repeat { now + self.config.grace } else { now });
        }
    }

    /// An answer that has not come for so long was taken by another transport.
    fn forget_late(&mut self, now: Instant) {
        if now > self.last_asked + LATE {
            self.pending = 0;
        }
    }

    /// The first answer overtakes the packet's own status, the second cannot.
    fn handle_answer(&mut self, now: Instant) {
        let hasty = self.mutation.is(Mutant::BarrierWithoutGrace);
        let needed = 2 + u8::from(self.was_full) - u8::from(hasty);
        let Some(Flight { barrier, ahead, .. }) = &mut self.flight else { return };
        if *ahead > 0 {
            *ahead -= 1;
        } else if let Barrier::Asked { asked, answered, .. } = *barrier {
            *barrier = match answered + 1 {
                enough if enough >= needed => Barrier::Read(now),
                answered => Barrier::Wanted { asked, answered },
            };
        }
    }

    fn handle_flight_timeout(&mut self, now: Instant, mute: bool) {
        let too_old = self.in_flight().and_then(|slot| slot.first_written);
        let too_old = too_old.is_some_and(|(first, _)| now >= first + self.config.resend_within);
        let heard = self.heard;
        let Some(flight) = &mut self.flight else { return };
        match flight.barrier {
            Barrier::Waiting(until) if now >= until => {
                flight.barrier = Barrier::Wanted { asked: 0, answered: 0 };
            }
            // Another transport may have taken the answer: ask again, never wait for ever. A node
            // that is silent altogether may be dead; then the packet is for the next connection.
            Barrier::Asked { until, asked, answered } if now >= until => {
                // Only a byte shows that it still reads: what follows unread is limited in silence.
                let asked = if heard { asked } else { asked.saturating_sub(1) };
                let most = if mute { self.config.barriers.min(2) } else { self.config.barriers };
                let hopeless = now >= flight.since + self.config.resend_within;
                if (heard && (asked >= most || too_old)) || hopeless {
                    self.conclude(now, PacketState::Unknown);
                } else {
                    flight.barrier = Barrier::Wanted { asked, answered };
                }
            }
            Barrier::Read(until) if now >= until => {
                // A repeat may have been swallowed by a node that remembers its id.
                let proved = flight.had_room && !(flight.repeat && self.remembers)
                    || self.mutation.is(Mutant::BarrierConfirmsAll);
                let state = if proved { PacketState::Confirmed } else { PacketState::Unknown };
                self.was_full = false;
                self.conclude(now, state);
            }
            _ => {}
        }
    }

    fn conclude(&mut self, now: Instant, state: PacketState) {
        if let Some(slot) = self.in_flight() {
            slot.state = state;
        }
        self.land(now);
    }

    /// The node has decided on the packet in flight, or never will: the next one may follow.
    fn land(&mut self, now: Instant) {
        let port = self.in_flight().map(|slot| slot.port);
        match port {
            Some(_) if self.mutation.is(Mutant::SpanFromWrite) => {}
            Some(port) if self.mutation.is(Mutant::PacingAsOne) => {
                self.pacing.handle_read_all(now, port);
            }
            Some(port) => self.pacing.handle_read(now, port),
            None => {}
        }
        self.flight = None;
    }

    fn in_flight(&mut self) -> Option<&mut Slot> {
        self.slots.get_mut(self.flight?.slot)
    }

    /// The packet that is offered to a transport which has taken no byte of it.
    fn unbegun(&self) -> Option<&Slot> {
        let flight = self.flight.filter(|flight| !flight.begun)?;
        self.slots.get(flight.slot)
    }

    /// The place of the packet in flight.
    fn flying(&self) -> Option<usize> {
        self.flight.map(|flight| flight.slot)
    }

    /// What goes next: first what was written before, then the sender whose last turn is longest
    /// ago, each in the order in which its packets came.
    fn next(&self, now: Instant) -> Option<usize> {
        let turn = |slot: &Slot| match self.mutation.is(Mutant::FirstComeFirstServed) {
            true => 0,
            false => slot.turn.wrapping_sub(self.next_turn),
        };
        let mut next = None;
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.state == PacketState::Queued && self.is_head(slot) && self.ready_at(slot) <= now
            {
                let rank = (slot.first_written.is_none(), turn(slot), self.age(slot));
                if next.is_none_or(|(least, _)| rank < least) {
                    next = Some((rank, index));
                }
            }
        }
        next.map(|(_, index)| index)
    }

    /// Whether no earlier packet of the same sender and port number is waiting.
    fn is_head(&self, slot: &Slot) -> bool {
        self.mutation.is(Mutant::Overtaking)
            || !self.slots.iter().any(|other| {
                other.sender == slot.sender
                    && other.port == slot.port
                    && !other.state.is_final()
                    && self.age(other) < self.age(slot)
            })
    }

    fn ready_at(&self, slot: &Slot) -> Instant {
        let paced = self.pacing.earliest(slot.port).max(slot.not_before);
        match self.up {
            Some((_, since)) if slot.writes > 0 => paced.max(since + SETTLE),
            _ => paced,
        }
    }

    /// Orders packets from old to new, also when the counter has wrapped.
    fn age(&self, slot: &Slot) -> u32 {
        slot.order.wrapping_sub(self.next_order)
    }

    fn knows(&self, id: u32) -> bool {
        self.waiting().any(|slot| slot.id == id || slot.wire_id == id)
    }

    fn fresh_id(&self, rng: &mut Rng) -> u32 {
        loop {
            match rng.next_u32() {
                0 => {}
                id if self.knows(id) => {}
                id => return id,
            }
        }
    }
}
