//! From the node to clients: who gets what.

use std::rc::Rc;

use log::debug;
use meshbeat_core::link::Event;
use meshbeat_core::peek::wire::Value;
use meshbeat_core::peek::{self, FromRadio, Packet};
use meshbeat_core::time::Instant;
use meshbeat_proto::{PortNum, log_record};

use super::admission::Policy;
use super::answers::{self, field};
use super::session::{Phase, Session};
use super::snapshot::{Builder, Heard, Snapshot};
use super::{ClientId, Relay, shown, wire};
use crate::report::span;

/// Variants of `FromRadio` that a relay has to tell apart, by field number.
mod variant {
    pub(super) const XMODEM: u8 = 12;
    pub(super) const MQTT_PROXY: u8 = 14;
    pub(super) const NOTIFICATION: u8 = 16;
}

impl Relay {
    /// Something happened to the link.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Opened => self.builder = Builder::new(),
            Event::Configured { .. } => {
                self.is_up = true;
                if self.ledger.changes() == 0 {
                    self.dirty = None;
                }
                if let Some(since) = self.down.take() {
                    let line = format!("The node is back after {}", span(now.since(since)));
                    self.notify(now, log_record::Level::Info, &line);
                }
                self.serve_asked(now);
            }
            Event::Refreshed { .. } => {
                self.handle_told();
                self.serve_asked(now);
            }
            Event::Lost { fault, was_up: true, .. } => {
                self.is_up = false;
                self.handle_untold();
                if self.down.is_none() {
                    self.down = Some(now);
                    let line = format!(
                        "The node is away ({fault}). What you send is kept and sent when it is back"
                    );
                    self.notify(now, log_record::Level::Warning, &line);
                }
                self.serve_asked(now);
            }
            Event::Packet(event) => self.handle_packet_event(now, event),
            _ => {}
        }
    }

    /// A frame of the node, as the link has validated it; `configured` if it ended the link's own
    /// handshake.
    pub fn handle_frame(
        &mut self,
        now: Instant,
        payload: &[u8],
        message: FromRadio<'_>,
        configured: bool,
    ) {
        if let FromRadio::MyInfo(info) = message
            && self.snapshot.as_ref().is_some_and(|snapshot| snapshot.node() != info.node)
        {
            debug!(target: "relay", "another node: what was known of the old one is dropped");
            self.snapshot = None;
            self.snapshot_version += 1;
        }
        if self.builder.take(payload, &message) {
            return;
        }
        match message {
            FromRadio::ConfigComplete(_) if configured => self.install(now),
            FromRadio::Packet(packet) => self.handle_packet(payload, packet),
            FromRadio::Other(variant::XMODEM) => self.push_to(self.xmodem, payload),
            FromRadio::Other(variant::MQTT_PROXY) => self.push_to(self.mqtt_proxy(), payload),
            FromRadio::Other(variant::NOTIFICATION) => self.handle_notification(payload),
            // Log records, and what newer firmware has.
            FromRadio::Other(number) if !is_configuration(number) => self.tell(payload, |_| true),
            FromRadio::Unknown if !payload.is_empty() => self.tell(payload, |_| true),
            // Configuration is for who asks; statuses are the outbox's.
            _ => {}
        }
    }

    /// Queues a payload for all clients that have been told the configuration and for which `to`
    /// holds.
    pub(super) fn tell(&mut self, payload: &[u8], to: impl Fn(ClientId) -> bool) {
        self.fan_out(payload, None, |id, session| session.phase != Phase::New && to(id));
    }

    /// The node has told all of its configuration.
    fn install(&mut self, now: Instant) {
        let Some(snapshot) = core::mem::replace(&mut self.builder, Builder::new()).finish() else {
            debug!(target: "relay", "the node told no whole configuration; what is known is kept");
            return;
        };
        self.snapshot = Some(match self.snapshot.take() {
            Some(old) => snapshot.succeeding(old),
            None => snapshot,
        });
        self.snapshot_version += 1;
        self.serve_asked(now);
    }

    fn handle_packet(&mut self, payload: &[u8], packet: Packet<'_>) {
        let request_id = packet.data.map_or(0, |data| data.request_id);
        let port = packet.data.map_or(0, |data| data.port);
        let error = packet.data.and_then(|data| data.routing_error).unwrap_or(0);
        // Whether a packet went out is the node's to say; another's error is only passed on.
        let own = self.snapshot.as_ref().map(Snapshot::node);
        let is_refusal = error != 0 && own == Some(packet.from);
        let asker = self.ledger.by_wire_id(request_id).map(|entry| {
            let is_held = is_refusal && !entry.state.is_final();
            if is_held {
                entry.held = Some((request_id, payload.to_vec()));
            } else if is_refusal {
                // The client need not be told again by us.
                entry.answer_at = None;
            }
            (entry.owner, entry.id, is_held)
        });
        match asker {
            Some((_, _, true)) => {}
            Some((owner, id, _))
                if port == peek::ROUTING_PORT || port == PortNum::AdminApp as i32 =>
            {
                self.push_reply(owner, id, payload.to_vec());
            }
            // It follows a status by which the packet is tried again.
            None if is_refusal && self.ledger.was_refused(request_id) => {}
            // An answer to nobody here.
            None if port == PortNum::AdminApp as i32 => {}
            _ => self.handle_news(payload, packet),
        }
    }

    /// Hands a reply to the client that sent the packet, under the id that this one knows.
    pub(super) fn push_reply(&mut self, owner: ClientId, id: u32, mut reply: Vec<u8>) {
        let path = [field::PACKET, field::DECODED, field::REQUEST_ID];
        wire::set_fixed32(&mut reply, &path, id);
        self.push_to(Some(owner), &reply);
    }

    /// A packet of the mesh.
    fn handle_news(&mut self, payload: &[u8], packet: Packet<'_>) {
        if let Some(snapshot) = &mut self.snapshot {
            self.snapshot_version += 1;
            if snapshot.hear(payload, &packet) == Heard::Replay {
                self.counters.replays += 1;
                return;
            }
        }
        self.counters.packets += 1;
        let attached = self
            .sessions
            .values()
            .any(|session| session.phase == Phase::Live && !session.peer.observer);
        if !attached && let Some(frame) = wire::framed(payload) {
            let port = packet.data.map_or(0, |data| data.port);
            self.backlog.push(frame.into(), port == PortNum::TextMessageApp as i32);
        }
        let renamed = self.renamed(payload);
        self.fan_out(payload, renamed, |_, session| match session.phase {
            Phase::New => false,
            // It gets the packet from the backlog.
            Phase::Shaking => attached || session.peer.observer,
            Phase::Live => true,
        });
    }

    /// A notification about a packet is for its sender, under the id that this one knows.
    fn handle_notification(&mut self, payload: &[u8]) {
        let inner = wire::message(payload, field::NOTIFICATION).unwrap_or(&[]);
        let about = wire::fields(inner).filter_map(|field| match field.value {
            Value::Varint(id) if field.number == field::NOTIFICATION_REPLY_ID => Some(id as u32),
            _ => None,
        });
        let Some(wire_id) = about.last().filter(|id| *id != 0) else {
            return self.tell(payload, |_| true);
        };
        let Some(entry) = self.ledger.by_wire_id(wire_id) else { return };
        let (owner, id) = (entry.owner, entry.id);
        let renamed = wire::rewritten(payload, |out, outer| match outer.message() {
            Some(inner) if outer.number == field::NOTIFICATION => {
                let inner = wire::rewritten(inner, |out, field| match field.number {
                    field::NOTIFICATION_REPLY_ID => {
                        wire::put_varint(out, field.number, id.into());
                    }
                    _ => out.extend_from_slice(field.bytes),
                });
                wire::put_bytes(out, outer.number, &inner);
            }
            _ => out.extend_from_slice(outer.bytes),
        });
        self.push_to(Some(owner), &renamed);
    }

    /// If a packet answers one that the node knows under another id than its sender: the sender,
    /// and the packet with the id that this one knows.
    fn renamed(&mut self, payload: &[u8]) -> Option<(ClientId, Rc<[u8]>)> {
        let data = wire::message(wire::message(payload, field::PACKET)?, field::DECODED)?;
        let mut renamed: Option<(ClientId, Vec<u8>)> = None;
        for found in wire::fields(data) {
            let Value::Fixed32(wire_id) = found.value else { continue };
            if ![field::REQUEST_ID, field::REPLY_ID].contains(&found.number) {
                continue;
            }
            let Some(entry) = self.ledger.by_wire_id(wire_id) else { continue };
            if entry.id == entry.wire_id {
                continue;
            }
            let (owner, copy) = renamed.get_or_insert_with(|| (entry.owner, payload.to_vec()));
            if *owner == entry.owner {
                let path = [field::PACKET, field::DECODED, found.number];
                wire::set_fixed32(copy, &path, entry.id);
            }
        }
        let (owner, copy) = renamed?;
        Some((owner, wire::framed(&copy)?.into()))
    }

    /// Tells all clients what a person there should know.
    fn notify(&mut self, now: Instant, level: log_record::Level, line: &str) {
        if self.config.notify {
            let payload = answers::notification(level, line, self.unix_time(now));
            self.tell(&payload, |_| true);
        }
    }

    /// Who speaks to the MQTT server for the node: who did so last, or else who came first.
    fn mqtt_proxy(&self) -> Option<ClientId> {
        let may = |session: &&Session| {
            session.phase == Phase::Live
                && session.peer.policy == Policy::Full
                && !session.peer.observer
        };
        let last = self.mqtt.filter(|id| self.sessions.get(id).as_ref().is_some_and(may));
        let first = || self.sessions.iter().find(|(_, session)| may(session)).map(|(id, _)| *id);
        last.or_else(first)
    }

    /// Queues a payload for one client, as its policy allows.
    fn push_to(&mut self, client: Option<ClientId>, payload: &[u8]) {
        if client.is_some() {
            self.fan_out(payload, None, |id, _| Some(id) == client);
        }
    }

    /// Queues a payload for the clients for which `to` holds, as their policies allow; for one of
    /// them there may be another frame.
    fn fan_out(
        &mut self,
        payload: &[u8],
        renamed: Option<(ClientId, Rc<[u8]>)>,
        to: impl Fn(ClientId, &Session) -> bool,
    ) {
        let Some(frame) = wire::framed(payload).map(Rc::from) else { return };
        let entitled = self.sessions.iter().filter(|(id, session)| to(**id, session));
        let entitled: Vec<_> = entitled.map(|(id, session)| (*id, session.peer.policy)).collect();
        let mut cache: [Option<Option<Rc<[u8]>>>; Policy::ALL.len()] = Default::default();
        for (client, policy) in entitled {
            let own = renamed.as_ref().filter(|(owner, _)| *owner == client);
            let frame = match own {
                Some((_, renamed)) => shown(policy, renamed),
                None => cache
                    .get_mut(policy as usize)
                    .and_then(|seen| seen.get_or_insert_with(|| shown(policy, &frame)).clone()),
            };
            if let Some(frame) = frame {
                self.push_frame(client, frame);
            }
        }
    }
}

/// Whether a variant belongs to a handshake.
const fn is_configuration(number: u8) -> bool {
    matches!(number, 4 | 5 | 9 | 10 | 13 | 15 | 17..=19)
}
