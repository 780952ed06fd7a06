//! From clients to the node: through the one outbox, and what became of it to whoever sent it.

use core::time::Duration;

use log::debug;
use meshbeat_core::link::ForwardError;
use meshbeat_core::outbox::{PacketEvent, PacketState, SendError};
use meshbeat_core::time::{Instant, Span};
use meshbeat_proto::admin_message::PayloadVariant as Admin;
use meshbeat_proto::to_radio::PayloadVariant;
use meshbeat_proto::{AdminMessage, Data, MeshPacket, PortNum, ToRadio, mesh_packet, routing};
use prost::Message as _;

use super::answers::{self, MAX_LEN, field};
use super::ledger::{Change, Entry, Known};
use super::{ClientId, Relay, wire};
use crate::upstream::HostLink;

/// What a client wants the node to have.
#[derive(Debug)]
pub(super) struct Wish {
    client: ClientId,
    kind: Kind,
    payload: Vec<u8>,
}

#[derive(Debug)]
enum Kind {
    Packet { sender: u16 },
    Forward,
}

impl Wish {
    pub(super) fn packet(client: ClientId, sender: u16, payload: &[u8]) -> Self {
        Self { client, kind: Kind::Packet { sender }, payload: payload.to_vec() }
    }
}

/// Changes of the node's settings that it has not told yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dirty {
    /// The last of them was accepted, or decided on.
    last: Instant,
    /// They are kept back by the node until the transaction ends.
    in_edit: bool,
    /// It has been asked for its configuration since.
    asked: bool,
}

/// How long a node takes to act on a change that it has read.
const SETTLE: Duration = Duration::from_millis(500);
/// The latest that the node is asked for its configuration after a change, if the transaction does
/// not end.
const LATEST: Duration = Duration::from_secs(5);
/// How long the node's own Routing reply about a refused packet is awaited.
const NAK_WAIT: Duration = Duration::from_secs(1);
/// When to try again to forward what the link had no place for.
const AGAIN: Duration = Duration::from_millis(20);
/// Messages that wait to be forwarded.
const MAX_FORWARDED: usize = 64;

/// `res` of a queue status (`ERRNO_*` in the firmware's `error.h`), where Routing errors have the
/// same numbers.
mod res {
    pub(super) const OK: i32 = 0;
    pub(super) const FULL: i32 = 32;
    pub(super) const NO_RADIO: i32 = 33;
    pub(super) const DISABLED: i32 = 34;
}

impl Relay {
    /// Sends what clients want, as far as the link takes it.
    pub fn handle_turn(&mut self, now: Instant, link: &mut HostLink) {
        for _ in 0..self.wishes.len() {
            let Some(wish) = self.wishes.pop_front() else { break };
            match wish.kind {
                Kind::Packet { sender } => self.send(now, wish.client, sender, wish.payload, link),
                Kind::Forward => self.forward(now, wish, link),
            }
        }
        self.tell_room(link);
        if let Some(dirty) = self.dirty
            && self.refresh_due(dirty).is_some_and(|at| now >= at)
        {
            if link.state().is_up() {
                link.refresh();
                self.dirty = Some(Dirty { asked: true, ..dirty });
            } else {
                // It is being asked just now, or is about to close.
                self.dirty = Some(Dirty { last: now, ..dirty });
            }
        }
    }

    /// Queues a message that is no packet.
    pub(super) fn wish_to_forward(&mut self, client: ClientId, payload: &[u8]) {
        let forwarded = |wish: &&Wish| matches!(wish.kind, Kind::Forward);
        if self.wishes.iter().filter(forwarded).count() >= MAX_FORWARDED {
            debug!(target: "relay", "client {client}: too many messages to forward, one is dropped");
            return;
        }
        self.wishes.push_back(Wish { client, kind: Kind::Forward, payload: payload.to_vec() });
    }

    /// A packet in the outbox has changed its state.
    pub(super) fn handle_packet_event(&mut self, now: Instant, event: PacketEvent) {
        let Some(entry) = self.ledger.handle_event(event) else { return };
        let (owner, id) = (entry.owner, entry.id);
        if !event.state.is_final() {
            return;
        }
        debug!(target: "relay", "client {owner}: packet {id:#010x} is {:?}", event.state);
        let payload = core::mem::take(&mut entry.payload);
        if let (Some(_), Some(dirty)) = (entry.change, &mut self.dirty) {
            (dirty.last, dirty.asked) = (now, false);
        }
        let held = entry.held.take().filter(|(about, _)| *about == event.wire_id);
        match (event.state, held) {
            // The node follows most refusals up with a Routing reply of its own.
            (PacketState::Refused(res), None) if has_nak(res) => {
                entry.answer_at = Some(now + NAK_WAIT);
            }
            (PacketState::Confirmed, None) => self.echo(now, owner, event.wire_id, &payload),
            (PacketState::Confirmed, Some((_, reply))) => {
                self.echo(now, owner, event.wire_id, &payload);
                self.push_reply(owner, id, reply);
            }
            (_, Some((_, reply))) => self.push_reply(owner, id, reply),
            (state, None) => self.push_routing_error(now, owner, id, error_of(state)),
        }
    }

    /// Tells clients of refusals to which the node did not follow up.
    pub(super) fn answer_refused(&mut self, now: Instant) {
        while let Some(entry) = self.ledger.poll_unanswered(now) {
            let (owner, id, state) = (entry.owner, entry.id, entry.state);
            self.push_routing_error(now, owner, id, error_of(state));
        }
    }

    /// The node has told its configuration.
    pub(super) fn handle_told(&mut self) {
        if self.dirty.is_some_and(|dirty| dirty.asked) {
            self.dirty = None;
        }
    }

    /// The link was lost: what was asked was perhaps not answered.
    pub(super) fn handle_untold(&mut self) {
        if let Some(dirty) = &mut self.dirty {
            dirty.asked = false;
        }
    }

    /// When [`Relay::handle_turn`] has something to do.
    pub(super) fn sending_due(&self) -> Option<Instant> {
        let again = self.wishes.iter().find_map(|wish| match wish.kind {
            Kind::Forward => self.forward_at,
            Kind::Packet { .. } => None,
        });
        let refresh = self.dirty.filter(|_| self.is_up).and_then(|dirty| self.refresh_due(dirty));
        [again, refresh].into_iter().flatten().min()
    }

    fn send(
        &mut self,
        now: Instant,
        client: ClientId,
        sender: u16,
        payload: Vec<u8>,
        link: &mut HostLink,
    ) {
        let Some(packet) = packet_of(&payload) else { return };
        let id = packet.id;
        let known = match id {
            0 => Known::No,
            id => {
                let is_gone = |owner| !self.sessions.contains_key(&owner);
                self.ledger.knows(client, id, &payload, is_gone)
            }
        };
        if known == Known::Repeat {
            self.push_status(client, res::OK, id);
            return;
        }
        let mut written = payload.clone();
        self.map_reply_id(client, &packet, &mut written);
        if known == Known::Taken {
            wire::set_fixed32(&mut written, &[field::TO_RADIO_PACKET, field::ID], 0);
        }
        let ttl = self.config.ttl.map(Span::from);
        let mut sent = link.send(now, sender, &written, ttl);
        if sent == Err(SendError::Duplicate) {
            wire::set_fixed32(&mut written, &[field::TO_RADIO_PACKET, field::ID], 0);
            sent = link.send(now, sender, &written, ttl);
        }
        if let Some(session) = self.sessions.get_mut(&client) {
            session.free = u32::try_from(link.room(sender)).unwrap_or(MAX_LEN).min(MAX_LEN);
            session.starved |= session.free == 0;
        }
        match sent {
            Ok(accepted) => {
                let id = if id == 0 { accepted } else { id };
                let change = change(&packet);
                if let Some(change) = change {
                    self.note_change(now, change);
                }
                self.ledger.push(Entry::new(client, (id, accepted), &payload, written, change));
                self.counters.accepted += 1;
                self.push_status(client, res::OK, id);
            }
            Err(error) => {
                debug!(target: "relay", "client {client}: packet {id:#010x}: {error}");
                let (res, routing) = match error {
                    SendError::Full | SendError::Quota | SendError::Duplicate => {
                        (res::FULL, routing::Error::RateLimitExceeded)
                    }
                    SendError::Closing => (res::NO_RADIO, routing::Error::NoInterface),
                    SendError::NotAPacket => {
                        (routing::Error::TooLarge as i32, routing::Error::TooLarge)
                    }
                };
                self.push_status(client, res, id);
                self.push_routing_error(now, client, id, routing as i32);
            }
        }
    }

    /// What a client answers goes to the packet that the node knows under another id.
    fn map_reply_id(&self, client: ClientId, packet: &MeshPacket, written: &mut [u8]) {
        let Some(Data { reply_id, .. }) = data_of(packet) else { return };
        if let Some(wire_id) = self.ledger.wire_id(client, *reply_id).filter(|_| *reply_id != 0) {
            let path = [field::TO_RADIO_PACKET, field::DECODED, field::REPLY_ID];
            wire::set_fixed32(written, &path, wire_id);
        }
    }

    fn forward(&mut self, now: Instant, wish: Wish, link: &mut HostLink) {
        match link.forward(&wish.payload) {
            Ok(()) => {}
            Err(ForwardError::Busy) => {
                self.forward_at = Some(now + AGAIN);
                self.wishes.push_back(wish);
            }
            Err(ForwardError::NotUp | ForwardError::NotForwardable) => {
                if wire::message(&wish.payload, field::TO_RADIO_XMODEM).is_some() {
                    self.push(wish.client, &answers::transfer_cancelled());
                }
            }
        }
    }

    /// A packet that entered the node's queue is news for the other clients, which the node would
    /// not show to any.
    fn echo(&mut self, now: Instant, owner: ClientId, id: u32, payload: &[u8]) {
        let Some(packet) = packet_of(payload) else { return };
        let private = [PortNum::AdminApp as i32, PortNum::RoutingApp as i32];
        if data_of(&packet).is_none_or(|data| private.contains(&data.portnum)) {
            return;
        }
        let own = self.snapshot.as_ref().map_or(0, super::Snapshot::node);
        let time = self.unix_time(now);
        if let Some(echo) = answers::echo(payload, own, id, time) {
            self.tell(&echo, |session_id| session_id != owner);
        }
    }

    /// Tells clients that were told of no room that there is some again, as the firmware does.
    fn tell_room(&mut self, link: &HostLink) {
        let starved = self.sessions.iter_mut().filter(|(_, session)| session.starved);
        let mut told = Vec::new();
        for (id, session) in starved {
            session.free = u32::try_from(link.room(session.sender)).unwrap_or(MAX_LEN).min(MAX_LEN);
            if session.free > 0 {
                session.starved = false;
                told.push((*id, session.free));
            }
        }
        for (client, free) in told {
            self.push(client, &answers::queue_status(res::OK, free, 0));
        }
    }

    fn push_status(&mut self, client: ClientId, res: i32, id: u32) {
        let free = self.sessions.get(&client).map_or(0, |session| session.free);
        self.push(client, &answers::queue_status(res, free, id));
    }

    fn note_change(&mut self, now: Instant, change: Change) {
        let was_in_edit = self.dirty.is_some_and(|dirty| dirty.in_edit);
        let in_edit = match change {
            Change::Begin => true,
            Change::Write => was_in_edit,
            Change::Commit => false,
        };
        self.dirty = Some(Dirty { last: now, in_edit, asked: false });
    }

    /// When the node is to be asked for its configuration: when it has decided on all changes.
    fn refresh_due(&self, dirty: Dirty) -> Option<Instant> {
        let settled = !dirty.in_edit && self.ledger.changes() == 0;
        (!dirty.asked).then(|| dirty.last + if settled { SETTLE } else { LATEST })
    }
}

fn packet_of(to_radio: &[u8]) -> Option<MeshPacket> {
    match ToRadio::decode(to_radio).ok()?.payload_variant? {
        PayloadVariant::Packet(packet) => Some(packet),
        _ => None,
    }
}

fn data_of(packet: &MeshPacket) -> Option<&Data> {
    match &packet.payload_variant {
        Some(mesh_packet::PayloadVariant::Decoded(data)) => Some(data),
        _ => None,
    }
}

/// What a packet does to the settings of the node. Questions and the clock, which iOS sets with
/// each connection, change none.
fn change(packet: &MeshPacket) -> Option<Change> {
    let data = data_of(packet).filter(|data| data.portnum == PortNum::AdminApp as i32)?;
    match AdminMessage::decode(&data.payload[..]).ok()?.payload_variant? {
        Admin::BeginEditSettings(_) => Some(Change::Begin),
        Admin::CommitEditSettings(_) => Some(Change::Commit),
        Admin::GetChannelRequest(_)
        | Admin::GetOwnerRequest(_)
        | Admin::GetConfigRequest(_)
        | Admin::GetModuleConfigRequest(_)
        | Admin::GetCannedMessageModuleMessagesRequest(_)
        | Admin::GetDeviceMetadataRequest(_)
        | Admin::GetRingtoneRequest(_)
        | Admin::GetDeviceConnectionStatusRequest(_)
        | Admin::GetNodeRemoteHardwarePinsRequest(_)
        | Admin::GetUiConfigRequest(_)
        | Admin::SetTimeOnly(_) => None,
        _ => Some(Change::Write),
    }
}

/// Whether the node follows a refusal up with a Routing reply.
const fn has_nak(res: i32) -> bool {
    !matches!(res, res::FULL | res::NO_RADIO)
}

/// What a client is told of a packet that was not confirmed.
const fn error_of(state: PacketState) -> i32 {
    let error = match state {
        PacketState::Refused(res::FULL) => routing::Error::RateLimitExceeded,
        PacketState::Refused(res::NO_RADIO | res::DISABLED) | PacketState::Expired => {
            routing::Error::NoInterface
        }
        PacketState::Refused(res) => return res,
        _ => routing::Error::Timeout,
    };
    error as i32
}
