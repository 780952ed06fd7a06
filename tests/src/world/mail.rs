//! What must hold of every packet that the link accepted, checked from both sides' records: what
//! the link says became of it, what it wrote, and what the node's log says it read and did.

use core::fmt;
use core::time::Duration;
use std::collections::{BTreeMap, HashMap};

use meshbeat::sim::{Entry, Record};
use meshbeat_core::Instant;
use meshbeat_core::frame::HEADER_LEN;
use meshbeat_core::outbox::{OutboxConfig, PacketEvent, PacketState, SendError};
use meshbeat_core::peek::QueueStatus;
use meshbeat_proto::MeshPacket;

use super::ROOM;
use super::audit::Violation;
use super::senders::Draft;

/// The checks of packets, and what they have to remember.
#[derive(Debug)]
pub(super) struct Mail {
    config: OutboxConfig,
    /// The node keeps ids and times over connections.
    serial: bool,
    /// Packets without an end, by number.
    open: BTreeMap<u32, Letter>,
    /// Those with one.
    closed: HashMap<u32, Letter>,
    /// The numbers of open packets by the id under which each was accepted.
    ids: HashMap<u32, u32>,
    /// Every id under which a packet was written.
    wires: HashMap<u32, Wire>,
    /// Written whole on this connection, and nothing was said of it since.
    flying: Option<u32>,
    /// The last status that the link read on this connection told of room.
    room: bool,
    /// When the node last handed over a status on this connection that has no id and is no answer.
    unasked: Option<Instant>,
    /// A torn frame took whole ones behind it along on this connection.
    eaten: bool,
    /// When the last heartbeat was written, if no answer to it has come.
    asked: Option<Instant>,
    turns: Turns,
    pub(super) totals: MailTotals,
}

/// Counts of packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MailTotals {
    /// Packets that the link took.
    pub accepted: u64,
    /// Packets for which there was no room.
    pub turned_away: u64,
    /// Written for the first time.
    pub written: u64,
    /// Written again under the same id.
    pub again: u64,
    /// Written under a fresh id after a refusal.
    pub fresh: u64,
    /// Ends, by kind.
    pub confirmed: u64,
    /// Refused by the node.
    pub refused: u64,
    /// Too old before a byte was written.
    pub expired: u64,
    /// Written and never confirmed.
    pub unknown: u64,
    /// Of the unknown ones those that had entered the node's queue.
    pub unknown_taken: u64,
    /// Confirmed without a status of its own: by a barrier or by the answer of its destination.
    pub by_barrier: u64,
    /// Confirmed by a barrier although the node had refused it and the status that said so was
    /// lost: the one thing that no client can know.
    pub refusal_lost: u64,
    /// Confirmed by a status that looked like a barrier's answer and that nobody had asked for, when
    /// no other one had shown yet that there are such.
    pub mistaken: u64,
    /// Checks made.
    pub checks: u64,
}

impl MailTotals {
    /// Adds others.
    pub fn add(&mut self, other: Self) {
        for (own, other) in [
            (&mut self.accepted, other.accepted),
            (&mut self.turned_away, other.turned_away),
            (&mut self.written, other.written),
            (&mut self.again, other.again),
            (&mut self.fresh, other.fresh),
            (&mut self.confirmed, other.confirmed),
            (&mut self.refused, other.refused),
            (&mut self.expired, other.expired),
            (&mut self.unknown, other.unknown),
            (&mut self.unknown_taken, other.unknown_taken),
            (&mut self.by_barrier, other.by_barrier),
            (&mut self.refusal_lost, other.refusal_lost),
            (&mut self.mistaken, other.mistaken),
            (&mut self.checks, other.checks),
        ] {
            *own += other;
        }
    }
}

impl fmt::Display for MailTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, turned_away, written, again, fresh, .. } = self;
        let Self { confirmed, refused, expired, unknown, unknown_taken, .. } = self;
        let Self { by_barrier, refusal_lost, mistaken, checks, .. } = self;
        writeln!(f, "{checks} checks of packets")?;
        writeln!(f, "packets: {accepted} accepted, {turned_away} turned away for want of room")?;
        writeln!(f, "written: {written}, {again} again, {fresh} under a fresh id")?;
        writeln!(
            f,
            "ended: {confirmed} confirmed, {refused} refused, {expired} expired, \
            {unknown} unknown ({unknown_taken} had been taken)"
        )?;
        writeln!(f, "confirmed without a status: {by_barrier}, although refused: {refusal_lost}")?;
        write!(f, "confirmed by a status that nobody had asked for: {mistaken}")
    }
}

/// A packet, as its sender and the link see it.
#[derive(Debug)]
struct Letter {
    sender: u16,
    port: i32,
    id: u32,
    /// The id under which it was written last.
    wire: Option<u32>,
    expires: Instant,
    state: PacketState,
    /// When it was last written whole; a miserable wire takes minutes for that.
    written: Option<Instant>,
    /// The first byte under the present id, and the number of the node that it was written to.
    begun: Option<(Instant, Option<u32>)>,
    /// Some bytes were written that may have been its own, too few to tell.
    perhaps_begun: Option<Instant>,
    /// How many turns there had been when it was accepted.
    turn: u64,
}

/// Whose turn it was. A turn is the first write of a packet under an id; one that is written again
/// has had its turn.
#[derive(Debug, Default)]
struct Turns {
    /// How many there were.
    count: u64,
    /// The last one of a sender, or that one of its packets met its end in.
    of: HashMap<u16, u64>,
    /// The last one of a sender with a port number.
    of_port: HashMap<(u16, i32), u64>,
}

/// A packet under one id, as the wire and the node saw it.
#[derive(Debug, Default)]
struct Wire {
    letter: u32,
    taken: bool,
    refused: Option<i32>,
    /// Its queue status was handed to the connection since it was written last.
    told: bool,
    /// There was room when it was written last.
    room: bool,
    /// It was written more than once.
    again: bool,
    /// The link has read a status of it.
    heard: bool,
    /// It was confirmed on this connection without one.
    by_barrier: bool,
}

/// How much longer than its time a packet may wait: for what it was in the middle of.
const SLACK: Duration = Duration::from_secs(60);

impl Mail {
    pub(super) fn new(config: OutboxConfig, serial: bool) -> Self {
        Self {
            config,
            serial,
            open: BTreeMap::new(),
            closed: HashMap::new(),
            ids: HashMap::new(),
            wires: HashMap::new(),
            flying: None,
            room: false,
            eaten: false,
            unasked: None,
            asked: None,
            turns: Turns::default(),
            totals: MailTotals::default(),
        }
    }

    /// The link was handed a packet and said this.
    pub(super) fn handle_accepted(
        &mut self,
        now: Instant,
        draft: &Draft,
        said: Result<u32, SendError>,
    ) -> Result<(), Violation> {
        let own = self.open.values().filter(|letter| letter.sender == draft.sender).count();
        let full = self.open.len() == ROOM;
        let over = own >= usize::from(self.config.quota);
        let id = match said {
            Ok(id) if !full && !over => id,
            Err(SendError::Full) if full => return self.turned_away(),
            Err(SendError::Quota) if over && !full => return self.turned_away(),
            Err(SendError::Closing) => return self.turned_away(),
            _ => return Err(format!("{said:?} with {own} of {} packets", self.open.len())),
        };
        if id == 0 || (draft.id != 0 && id != draft.id) {
            return Err(format!("a packet of id {:08x} was taken as {id:08x}", draft.id));
        }
        self.totals.accepted += 1;
        let letter = Letter {
            sender: draft.sender,
            port: draft.port as i32,
            id,
            wire: None,
            expires: now + draft.ttl.unwrap_or(self.config.ttl.as_duration()),
            state: PacketState::Queued,
            written: None,
            begun: None,
            perhaps_begun: None,
            turn: self.turns.count,
        };
        self.open.insert(draft.serial, letter);
        match self.ids.insert(id, draft.serial) {
            None => Ok(()),
            Some(_) => Err(format!("two packets with the id {id:08x}")),
        }
    }

    fn turned_away(&mut self) -> Result<(), Violation> {
        self.totals.turned_away += 1;
        Ok(())
    }

    /// The link has written a whole packet, whose first byte went at `begun`, to `node`.
    pub(super) fn handle_written(
        &mut self,
        now: Instant,
        begun: Instant,
        node: Option<u32>,
        packet: &MeshPacket,
    ) -> Result<(), Violation> {
        self.totals.checks += 1;
        let (serial, id) = (packet.from, packet.id);
        if let Some(other) = self.flying.replace(serial) {
            return Err(format!("packet {serial} was written while {other} was in flight"));
        }
        let Some(letter) = self.open.get(&serial) else {
            return Err(format!("packet {serial} was written after its end"));
        };
        let overtaken = self
            .open
            .range(..serial)
            .find(|(_, other)| (other.sender, other.port) == (letter.sender, letter.port));
        if let Some((other, _)) = overtaken {
            return Err(format!("packet {serial} overtook {other}"));
        }
        let same = letter.wire.is_none_or(|wire| wire == id);
        if let Some((first, to)) = letter.begun.filter(|_| same) {
            if to != node {
                return Err(format!("packet {serial} was written again to {node:x?}, not {to:x?}"));
            }
            let span = begun.since(first);
            if span > self.config.resend_within.as_duration() {
                return Err(format!("packet {serial} was written again after {span:?}"));
            }
        }
        if let Some(wire) = self.wires.get(&id)
            && wire.letter != serial
        {
            if self.open.contains_key(&wire.letter) {
                return Err(format!("packet {serial} has the id {id:08x} of {}", wire.letter));
            }
            // Thousands of random ids a day: once in a while two are the same.
            self.wires.remove(&id);
        }
        if let Some(wire) = self.wires.get_mut(&id) {
            // The status that told of a refusal may have gone with the connection.
            (wire.refused, wire.told) = (None, false);
            (wire.room, wire.again) = (self.room, true);
            self.totals.again += 1;
            if let Some(letter) = self.open.get_mut(&serial) {
                letter.written = Some(now);
            }
            return Ok(());
        }
        self.check_first_write(begun, serial, id)?;
        self.check_turn(serial, same)?;
        let wire = Wire { letter: serial, room: self.room, ..Wire::default() };
        self.wires.insert(id, wire);
        if let Some(letter) = self.open.get_mut(&serial) {
            letter.begun = letter.begun.filter(|_| same).or(Some((begun, node)));
            (letter.wire, letter.written) = (Some(id), Some(now));
        }
        Ok(())
    }

    /// A packet is written under an id for the first time.
    fn check_first_write(&mut self, begun: Instant, serial: u32, id: u32) -> Result<(), Violation> {
        let letter = &self.open[&serial];
        match letter.wire.map(|before| &self.wires[&before]) {
            None if id != letter.id => {
                Err(format!("packet {serial} of id {:08x} was written as {id:08x}", letter.id))
            }
            None => {
                self.totals.written += 1;
                match letter.begun {
                    None if begun > letter.expires && letter.perhaps_begun.is_none() => {
                        Err(format!("packet {serial} was written when it was too old"))
                    }
                    _ => Ok(()),
                }
            }
            Some(Wire { refused: Some(_), taken: false, .. }) => {
                self.totals.fresh += 1;
                Ok(())
            }
            Some(before) => {
                Err(format!("packet {serial} got a second id, {id:08x}, while {before:?}"))
            }
        }
    }

    /// While a sender has a packet that may be written, no other sender has two turns with packets
    /// of its port number. One that was never written may be if it is the first of its sender and
    /// port number, for then nothing but the rate limit holds it, which holds the other as well.
    fn check_turn(&mut self, serial: u32, same: bool) -> Result<(), Violation> {
        let letter = &self.open[&serial];
        let (sender, port) = (letter.sender, letter.port);
        // What was half written has had its turn, and nobody knows whether that was this one.
        if same && (letter.begun.is_some() || letter.perhaps_begun.is_some()) {
            return Ok(());
        }
        let Turns { count, of, of_port } = &mut self.turns;
        *count += 1;
        let before = of_port.insert((sender, port), *count);
        of.insert(sender, *count);
        let Some(before) = before else { return Ok(()) };
        let mut heads: Vec<u16> = vec![sender];
        for (other, waiting) in self.open.iter().filter(|(_, other)| other.port == port) {
            if heads.contains(&waiting.sender) {
                continue;
            }
            heads.push(waiting.sender);
            let since = of.get(&waiting.sender).copied().max(Some(waiting.turn));
            if waiting.wire.is_none()
                && waiting.begun.is_none()
                && waiting.perhaps_begun.is_none()
                && since < Some(before)
            {
                return Err(format!(
                    "packet {serial} is the second of sender {sender} and port {port} while \
                     {other} of sender {} waits",
                    waiting.sender
                ));
            }
        }
        Ok(())
    }

    /// A torn frame took whole ones along; a queue status may have been among them.
    pub(super) fn handle_eaten(&mut self) {
        self.eaten = true;
    }

    /// The connection is gone; so much of a frame was written.
    pub(super) fn handle_ended(&mut self, begun: Instant, node: Option<u32>, half: &[u8]) {
        (self.flying, self.asked) = (None, None);
        (self.room, self.eaten, self.unasked) = (false, false, None);
        let (header, payload) = half.split_at(half.len().min(HEADER_LEN));
        // Shorter ones are no packets.
        let short = matches!(header, [_, _, 0, ..=8]);
        if half.is_empty() || short {
            return;
        }
        let count = self.turns.count;
        self.turns.of.values_mut().for_each(|turn| *turn = count);
        // The tag of the packet and its length, the tag of `from` and that.
        let skip = if payload.get(1).is_some_and(|len| *len >= 0x80) { 3 } else { 2 };
        match payload.get(skip + 1..skip + 5) {
            Some(&[a, b, c, d]) => {
                if let Some(letter) = self.open.get_mut(&u32::from_le_bytes([a, b, c, d])) {
                    letter.begun.get_or_insert((begun, node));
                }
            }
            _ => {
                for letter in self.open.values_mut() {
                    letter.perhaps_begun = Some(begun);
                }
            }
        }
    }

    /// A handshake is done; what was asked before it is no longer awaited.
    pub(super) fn handle_configured(&mut self) {
        self.asked = None;
    }

    /// The link has written a heartbeat.
    pub(super) fn handle_asked(&mut self, now: Instant) -> Result<(), Violation> {
        self.totals.checks += 1;
        match self.asked.replace(now).map(|asked| now.since(asked)) {
            Some(span) if span < self.config.patience.as_duration() => {
                Err(format!("a heartbeat {span:?} after one that is unanswered"))
            }
            _ => Ok(()),
        }
    }

    /// The link has read a queue status.
    pub(super) fn handle_status(&mut self, status: QueueStatus) -> Result<(), Violation> {
        self.room = status.free > 0;
        let flying = self.flying.and_then(|serial| self.open.get(&serial)?.wire);
        if let Some(wire) = flying.and_then(|id| self.wires.get_mut(&id)) {
            wire.room &= self.room;
        }
        if status.id == 0 {
            self.asked = None;
            return Ok(());
        }
        let Some(wire) = self.wires.get_mut(&status.id) else { return Ok(()) };
        if wire.by_barrier && !wire.again {
            let serial = wire.letter;
            return Err(format!("packet {serial} was confirmed, and then its status came"));
        }
        wire.heard = true;
        Ok(())
    }

    /// The link says what became of a packet.
    pub(super) fn handle_event(
        &mut self,
        now: Instant,
        event: PacketEvent,
    ) -> Result<(), Violation> {
        self.totals.checks += 1;
        let serial = self.ids.get(&event.id).copied();
        let letter = serial.and_then(|serial| self.open.get_mut(&serial));
        let (Some(serial), Some(letter)) = (serial, letter) else {
            return Err(format!("{event:?} of a packet that is not waiting"));
        };
        if letter.sender != event.sender {
            return Err(format!("{event:?} of a packet of sender {}", letter.sender));
        }
        letter.state = event.state;
        if event.state != PacketState::Sent && self.flying == Some(serial) {
            self.flying = None;
        }
        let wire = self.wires.get(&event.wire_id);
        let taken = wire.is_some_and(|wire| wire.taken);
        let last_refusal = letter.wire.and_then(|id| self.wires[&id].refused);
        let letter = &self.open[&serial];
        let begun = letter.begun.is_some();
        let mistaken = self.unasked.is_some() && self.unasked >= letter.written;
        match event.state {
            PacketState::Sent if wire.is_some() => {}
            PacketState::Sent => return Err(format!("packet {serial} is not written whole")),
            PacketState::Queued => {
                if last_refusal.is_some() && letter.wire != Some(event.wire_id) {
                    self.open.entry(serial).and_modify(|letter| letter.begun = None);
                }
            }
            PacketState::Confirmed if taken => self.totals.confirmed += 1,
            PacketState::Confirmed => match wire {
                Some(Wire { refused: Some(_), room: true, told, .. }) if !told || self.eaten => {
                    self.totals.refusal_lost += 1;
                }
                _ if mistaken => self.totals.mistaken += 1,
                _ => return Err(format!("packet {serial} is confirmed, and {wire:?}")),
            },
            PacketState::Refused(res) => {
                self.totals.refused += 1;
                if last_refusal != Some(res) {
                    return Err(format!("packet {serial} is refused with {res}, and {wire:?}"));
                }
                self.check_never_taken(serial)?;
            }
            PacketState::Expired if begun => {
                return Err(format!("packet {serial} is expired, and bytes of it were written"));
            }
            PacketState::Expired => self.totals.expired += 1,
            PacketState::Unknown => {
                self.totals.unknown += 1;
                self.totals.unknown_taken += u64::from(taken);
                if !begun && letter.perhaps_begun.is_none() {
                    return Err(format!("packet {serial} is unknown, and no byte was written"));
                }
            }
        }
        if let Some(wire) = self.wires.get_mut(&event.wire_id) {
            wire.by_barrier = event.state == PacketState::Confirmed && !wire.heard;
            self.totals.by_barrier += u64::from(wire.by_barrier);
            // Its status may still be on its way.
            wire.by_barrier &= !mistaken;
        }
        if event.state.is_final() {
            self.check_time(now, serial, &self.open[&serial])?;
            self.ids.remove(&event.id);
            if let Some(letter) = self.open.remove(&serial) {
                // What waits behind it may be written only now.
                self.turns.of.insert(letter.sender, self.turns.count);
                self.closed.insert(serial, letter);
            }
        }
        Ok(())
    }

    fn check_never_taken(&self, serial: u32) -> Result<(), Violation> {
        let taken = self.wires.iter().find(|(_, wire)| wire.letter == serial && wire.taken);
        match taken {
            Some((id, wire)) => {
                Err(format!("packet {serial} is refused, and {id:08x} is {wire:?}"))
            }
            None => Ok(()),
        }
    }

    /// The node has written this into its log.
    pub(super) fn handle_entry(&mut self, entry: &Entry) -> Result<(), Violation> {
        match entry.what {
            Record::RateLimited { id, port } => {
                Err(format!("the node limited {id:08x} of port {port}"))
            }
            Record::Read { id, .. } => {
                self.totals.checks += 1;
                let state = self.wires.get(&id).map(|wire| self.letter(wire.letter).state);
                match state {
                    None => Err(format!("the node read {id:08x}, which nobody wrote")),
                    Some(PacketState::Expired) => Err(format!("the node read an expired {id:08x}")),
                    _ => Ok(()),
                }
            }
            // On a serial line the node knows what was written before the line was opened again.
            Record::Repeated(id) if self.serial && self.wires[&id].again => Ok(()),
            Record::Repeated(id) => Err(format!("{id:08x} was written twice on a connection")),
            Record::Taken(id) => self.handle_taken(id),
            Record::Refused { id, res } => {
                if let Some(wire) = self.wires.get_mut(&id) {
                    wire.refused = Some(res);
                }
                Ok(())
            }
            Record::Status { id: 0, .. } => {
                self.unasked = Some(entry.at);
                Ok(())
            }
            Record::Status { id, .. } => {
                if let Some(wire) = self.wires.get_mut(&id) {
                    wire.told = true;
                }
                Ok(())
            }
            Record::Transmitted { id, .. } => self.handle_transmitted(id),
            _ => Ok(()),
        }
    }

    fn handle_taken(&mut self, id: u32) -> Result<(), Violation> {
        let Some(wire) = self.wires.get_mut(&id) else { return Ok(()) };
        wire.taken = true;
        let serial = wire.letter;
        let twice =
            |(other, wire): (&u32, &Wire)| *other != id && wire.letter == serial && wire.taken;
        if self.letter(serial).id != id && self.wires.iter().any(twice) {
            return Err(format!("the node took packet {serial} under two ids"));
        }
        match self.letter(serial).state {
            state @ (PacketState::Refused(_) | PacketState::Expired) => {
                Err(format!("the node took packet {serial}, which is {state:?}"))
            }
            _ => Ok(()),
        }
    }

    fn handle_transmitted(&self, id: u32) -> Result<(), Violation> {
        let Some(wire) = self.wires.get(&id) else { return Ok(()) };
        let serial = wire.letter;
        match self.letter(serial).state {
            state @ (PacketState::Refused(_) | PacketState::Expired) => {
                Err(format!("the node transmitted packet {serial}, which is {state:?}"))
            }
            _ => Ok(()),
        }
    }

    /// The link says that so many packets wait.
    pub(super) fn check_count(&self, queued: usize) -> Result<(), Violation> {
        if queued == self.open.len() {
            return Ok(());
        }
        Err(format!("{queued} packets wait, {} have no end", self.open.len()))
    }

    /// Whether a packet waits longer than any may.
    pub(super) fn check_waiting(&self, now: Instant) -> Result<(), Violation> {
        self.open.iter().try_for_each(|(serial, letter)| self.check_time(now, *serial, letter))
    }

    fn check_time(&self, now: Instant, serial: u32, letter: &Letter) -> Result<(), Violation> {
        let begun = letter.begun.map(|(begun, _)| begun).max(letter.perhaps_begun);
        // Written at the last moment, it may be asked after for as long once more.
        let asked = begun.max(letter.written).map(|at| at + self.config.resend_within);
        let limit = asked.max(Some(letter.expires)).unwrap_or_default() + SLACK;
        if now > limit {
            return Err(format!("packet {serial} waited until {now:?}, not {limit:?}: {letter:?}"));
        }
        Ok(())
    }

    fn letter(&self, serial: u32) -> &Letter {
        self.open.get(&serial).unwrap_or_else(|| &self.closed[&serial])
    }
}
