//! The simulated node: connections, timers and the pump that turns what waits into frames.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use meshbeat_core::frame::FrameLen;
use meshbeat_core::rng::Rng;
use meshbeat_core::time::Instant;
use meshbeat_proto::{MeshPacket, QueueStatus, from_radio};

use super::config::{SimConfig, draw_span};
use super::conn::{Conn, Memory, Stage};
use super::handshake::{self, payload};
use super::log::{Loss, Record, Why, hash};
use super::mesh::{Mesh, clean_time};
use super::play::Active;
use super::queue::PhoneQueue;
use super::sending::OnAir;
use super::traffic::Air;
use super::{ConnId, Log, Schedule};

/// A node without I/O.
///
/// Four kinds of method: getters; `handle_*` for what the world did; plain verbs ([`inject`],
/// [`recover`], [`hear`], [`play`]) for what the test wants; `poll_*` for what the caller must do
/// next. After each call of the second and third kind drain [`poll_action`], then offer
/// [`poll_transmit`] of the client's connection to the network and [`consume`] what was taken,
/// then sleep until [`poll_timeout`] or input. Early calls of [`handle_timeout`] do nothing. Time
/// must not go back. Unknown connections are ignored.
///
/// [`inject`]: SimNode::inject
/// [`recover`]: SimNode::recover
/// [`hear`]: SimNode::hear
/// [`play`]: SimNode::play
/// [`poll_action`]: SimNode::poll_action
/// [`poll_transmit`]: SimNode::poll_transmit
/// [`consume`]: SimNode::consume
/// [`poll_timeout`]: SimNode::poll_timeout
/// [`handle_timeout`]: SimNode::handle_timeout
#[derive(Debug)]
pub struct SimNode {
    /// What it is without faults.
    pub(super) baseline: SimConfig,
    /// What it is now: `baseline` with the lasting faults.
    pub(super) config: SimConfig,
    pub(super) rng: Rng,
    pub(super) mesh: Mesh,
    pub(super) phone: PhoneQueue,
    pub(super) air: Air,
    /// What waits for the radio.
    pub(super) to_radio: VecDeque<OnAir>,
    /// When the first in `to_radio` is out.
    pub(super) transmit_at: Option<Instant>,
    /// The `free` of the last status that a client was told; 0 after boot.
    pub(super) free_told: u32,
    /// The connection that the node serves.
    pub(super) link: Option<Conn>,
    /// What it remembers of what the client sent.
    pub(super) memory: Memory,
    /// The newest connection, which the node has not looked at yet.
    pub(super) pending: Option<Conn>,
    pub(super) faults: Active,
    pub(super) agenda: BTreeMap<(Instant, u64), Due>,
    /// Keeps what is due at the same time in the order in which it was planned.
    planned: u64,
    /// An admin transaction is open; configuration changed in it.
    pub(super) editing: Option<bool>,
    schedule: Option<Schedule>,
    actions: VecDeque<Action>,
    log: Log,
}

/// What the caller has to do with the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Close this connection. What [`SimNode::poll_transmit`] had for it is lost.
    Close {
        /// Which.
        conn: ConnId,
        /// How.
        how: How,
    },
    /// Treat new connections so from now on.
    Listen(Listening),
}

/// How a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// With a FIN.
    Fin,
    /// With a reset (linger 0).
    Rst,
}

/// What happens to new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Listening {
    /// They are taken.
    #[default]
    Open,
    /// They are refused.
    Refusing,
    /// They are not answered.
    Unanswered,
}

/// What the node has planned.
#[derive(Debug)]
pub(super) enum Due {
    /// This reaches the client's queue.
    Phone(MeshPacket),
    /// This is tried again until it finds room in the queue to the radio.
    Again(MeshPacket),
    /// This is transmitted once more; the answer is planned apart.
    Repeat(MeshPacket),
    /// The node restarts.
    Reboot,
}

impl SimNode {
    /// A node that has just booted.
    pub fn new(config: SimConfig, seed: u64) -> Self {
        let mut node = Self {
            mesh: Mesh::new(&config.identity, seed),
            air: Air::new(seed),
            rng: Rng::new(seed),
            baseline: config.clone(),
            config,
            phone: PhoneQueue::default(),
            to_radio: VecDeque::new(),
            transmit_at: None,
            free_told: 0,
            link: None,
            memory: Memory::default(),
            pending: None,
            faults: Active::default(),
            agenda: BTreeMap::new(),
            planned: 0,
            editing: None,
            schedule: None,
            actions: VecDeque::new(),
            log: Log::default(),
        };
        node.air.arm(Instant::ORIGIN, node.config.traffic.per_minute);
        node.arm_unasked(Instant::ORIGIN);
        node
    }

    /// The network took a connection. The node looks at it within 100 ms and then closes an older
    /// one.
    pub fn handle_connect(&mut self, now: Instant, conn: ConnId) {
        self.record(now, Record::Connected(conn));
        if self.faults.storm.is_some() {
            self.refuse(now, conn, How::Fin, Why::Fault);
        } else if self.faults.refuse.is_some() {
            self.refuse(now, conn, How::Rst, Why::Reboot);
        } else {
            if let Some(older) = self.pending.take() {
                self.refuse(now, older.id, How::Fin, Why::Newer);
            }
            let period = (self.config.timing.accept_poll.as_millis() as u64).max(1);
            let at = now.as_millis().div_ceil(period).saturating_mul(period);
            self.pending = Some(Conn::new(conn, now, Instant::from_millis(at)));
        }
    }

    /// Takes bytes from the client, at most [`SimNode::input_room`]; returns how many. The rest is
    /// to be offered again later: a slow node's client has to wait.
    pub fn handle_bytes(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.input_room(conn));
        if let Some(conn) = self.conn_mut(conn) {
            conn.input.extend(&bytes[..taken]);
            self.arm_poll(now);
            taken
        } else {
            bytes.len()
        }
    }

    /// The client closed its side. What it had sent is still read.
    pub fn handle_fin(&mut self, now: Instant, conn: ConnId) {
        let notices = self.config.stream.notices_fin;
        let Some(client) = self.conn_mut(conn) else {
            return;
        };
        client.finished = notices;
        self.record(now, Record::Fin(conn));
        self.arm_poll(now);
    }

    /// The connection is broken: reset by the client, or the network gave it up. What the client
    /// had sent is still read.
    pub fn handle_gone(&mut self, now: Instant, conn: ConnId) {
        if self.pending.as_ref().is_some_and(|pending| pending.id == conn) {
            self.pending = None;
            self.record(now, Record::Gone { conn, sent: 0 });
        }
        let Some(client) = self.link.as_mut().filter(|link| link.id == conn && !link.void) else {
            return;
        };
        let sent = client.output.sent();
        client.void = true;
        self.record(now, Record::Gone { conn, sent });
        if !self.faults.is_held() {
            self.read_input(now);
        }
        if self.config.stream.notices_fin {
            self.link = None;
        }
        self.pump(now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(fault) = self.schedule.as_mut().and_then(|plan| plan.handle_timeout(now)) {
            self.recover(now);
            self.inject(now, fault);
        }
        self.end_faults(now);
        self.check_connections(now);
        self.check_radio(now);
        self.pump(now);
    }

    /// A packet from the air reaches the node.
    pub fn hear(&mut self, now: Instant, packet: MeshPacket) {
        self.rebroadcast(now, &packet);
        self.tell(now, packet);
        self.pump(now);
    }

    /// Lets `schedule` inject its faults; each one ends what is left of the one before.
    pub fn play(&mut self, schedule: Schedule) {
        self.schedule = Some(schedule);
    }

    /// Keeps at most `entries` entries in the log; default 100,000.
    pub fn keep_log(&mut self, entries: usize) {
        self.log.keep(entries);
    }

    /// Bytes that the network may take now; empty while the node is held by a fault. They stay
    /// until [`SimNode::consume`].
    pub fn poll_transmit(&self, now: Instant, conn: ConnId) -> &[u8] {
        match &self.link {
            Some(link) if link.id == conn && !self.faults.is_held() => {
                let bytes = link.output.pending(now);
                let limit = self.config.stream.write_limit.unwrap_or(bytes.len());
                &bytes[..limit.min(bytes.len())]
            }
            _ => &[],
        }
    }

    /// The network was offered all of [`SimNode::poll_transmit`] and took `count` bytes.
    pub fn consume(&mut self, now: Instant, conn: ConnId, count: usize) {
        let offered = self.poll_transmit(now, conn).len();
        let Some(link) = self.link.as_mut().filter(|link| link.id == conn) else {
            return;
        };
        link.output.take(count);
        if (1..offered).contains(&count) {
            self.log.count_short_write();
        }
        match link.output.close_at {
            Some((at, how)) if link.output.sent() >= at => self.close(now, how, Why::Fault),
            _ if count < offered && self.config.stream.close_on_short_write => {
                self.close(now, How::Fin, Why::ShortWrite);
            }
            _ => self.pump(now),
        }
    }

    /// What the caller has to do with the network; call until `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`SimNode::handle_timeout`] is due, or [`SimNode::poll_transmit`] has more.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let held = self.faults.is_held();
        let link = self.link.as_ref();
        let reading = link.filter(|_| !held);
        let idle = self.config.timing.idle_limit;
        [
            self.schedule.as_ref().and_then(Schedule::poll_timeout),
            self.faults.poll_timeout(),
            self.pending.as_ref().filter(|_| !held).and_then(|conn| conn.accept_at),
            reading.and_then(|conn| conn.poll_at),
            reading.and_then(|conn| idle.map(|limit| conn.last_read + limit)),
            link.and_then(|conn| conn.steal_at),
            link.and_then(|conn| conn.output.gate).map(|(_, until)| until),
            self.transmit_at,
            self.agenda.first_key_value().map(|((at, _), _)| *at),
            self.air.next,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Bytes from this client that find room until the node reads again.
    pub fn input_room(&self, conn: ConnId) -> usize {
        let known = [&self.link, &self.pending].into_iter().flatten().find(|c| c.id == conn);
        match known {
            Some(conn) => self.config.queues.input.saturating_sub(conn.input.len()),
            None => usize::MAX,
        }
    }

    /// The connection that the node serves.
    pub fn client(&self) -> Option<ConnId> {
        self.link.as_ref().map(|link| link.id)
    }

    /// Whether the client is past its handshake.
    pub fn is_configured(&self) -> bool {
        self.link.as_ref().is_some_and(Conn::is_live)
    }

    /// What happens to new connections; changes come as [`Action::Listen`].
    pub fn listening(&self) -> Listening {
        self.faults.listening()
    }

    /// The node's number.
    pub fn node_num(&self) -> u32 {
        self.mesh.num
    }

    /// The numbers of the other nodes.
    pub fn neighbours(&self) -> impl Iterator<Item = u32> {
        self.mesh.nodes.iter().map(|node| node.num)
    }

    /// What the node is and does now, lasting faults included.
    pub fn config(&self) -> &SimConfig {
        &self.config
    }

    /// The node's own record.
    pub fn log(&self) -> &Log {
        &self.log
    }

    pub(super) fn record(&mut self, now: Instant, what: Record) {
        self.log.push(now, what);
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(super) fn plan(&mut self, at: Instant, due: Due) {
        self.planned += 1;
        self.agenda.insert((at, self.planned), due);
    }

    pub(super) fn unix_time(&self, now: Instant) -> u32 {
        let seconds = u32::try_from(now.as_millis() / 1000).unwrap_or(u32::MAX);
        clean_time(self.config.identity.epoch.saturating_add(seconds))
    }

    /// Room in the queue to the radio.
    pub(super) fn free(&self) -> u32 {
        let full = self.faults.full.is_some();
        let room = self.config.queues.transmit.saturating_sub(self.to_radio.len());
        if full { 0 } else { room as u32 }
    }

    pub(super) fn status(&self, res: i32, mesh_packet_id: u32) -> QueueStatus {
        let maxlen = self.config.queues.transmit as u32;
        QueueStatus { res, free: self.free(), maxlen, mesh_packet_id }
    }

    /// Puts a packet into the client's queue.
    pub(super) fn tell(&mut self, now: Instant, packet: MeshPacket) {
        self.record(now, Record::Heard { from: packet.from, id: packet.id });
        if let Some(lost) = self.phone.push_packet(packet, self.config.queues.packets) {
            self.lose(now, &lost, Loss::Overflow);
        }
    }

    pub(super) fn lose(&mut self, now: Instant, packet: &MeshPacket, how: Loss) {
        self.record(now, Record::PacketLost { from: packet.from, id: packet.id, how });
    }

    /// Closes the client's connection, if there is one.
    pub(super) fn close(&mut self, now: Instant, how: How, why: Why) {
        if let Some(link) = self.link.take() {
            let sent = link.output.sent();
            self.record(now, Record::Closed { conn: link.id, why, sent });
            self.act(Action::Close { conn: link.id, how });
        }
    }

    /// Restarts the node: what was queued is forgotten.
    pub(super) fn reboot(&mut self, now: Instant) {
        self.close(now, How::Rst, Why::Reboot);
        if let Some(pending) = self.pending.take() {
            self.refuse(now, pending.id, How::Rst, Why::Reboot);
        }
        while let Some(packet) = self.phone.pop_packet() {
            self.lose(now, &packet, Loss::Reboot);
        }
        self.phone = PhoneQueue::default();
        self.memory = Memory::default();
        self.to_radio.clear();
        self.transmit_at = None;
        self.agenda.clear();
        self.editing = None;
        self.free_told = 0;
        self.mesh.boots += 1;
        self.record(now, Record::Rebooted(self.mesh.boots));
    }

    fn refuse(&mut self, now: Instant, conn: ConnId, how: How, why: Why) {
        self.record(now, Record::Closed { conn, why, sent: 0 });
        self.act(Action::Close { conn, how });
    }

    fn conn_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        [&mut self.link, &mut self.pending].into_iter().flatten().find(|conn| conn.id == id)
    }

    /// Plans the next look for input if there is a reason.
    fn arm_poll(&mut self, now: Instant) {
        let timing = &self.config.timing;
        if let Some(link) = &mut self.link
            && link.poll_at.is_none()
            && (link.finished || !link.input.is_empty())
        {
            let delay = draw_span(&mut self.rng, &(Duration::ZERO..=timing.input_delay));
            link.poll_at = Some(link.next_poll(now, timing) + delay);
        }
    }

    fn check_connections(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if !self.faults.is_held() && due(self.pending.as_ref().and_then(|conn| conn.accept_at)) {
            self.accept(now);
        }
        let Some(link) = &mut self.link else {
            return;
        };
        if link.output.gate.is_some_and(|(_, until)| until <= now) {
            link.output.gate = None;
        }
        if due(link.steal_at) {
            self.close(now, How::Fin, Why::Newer);
            return;
        }
        if self.faults.is_held() {
            return;
        }
        if due(link.poll_at) {
            self.read_input(now);
        }
        let idle = self.config.timing.idle_limit;
        if let (Some(link), Some(limit)) = (&self.link, idle)
            && link.last_read + limit <= now
        {
            self.close(now, How::Fin, Why::Idle);
        }
    }

    fn accept(&mut self, now: Instant) {
        let Some(mut conn) = self.pending.take() else {
            return;
        };
        self.close(now, How::Fin, Why::Newer);
        conn.accept(now);
        if !self.config.limits.kept {
            self.memory = Memory::default();
        }
        if let Some((_, life)) = &self.faults.stolen {
            conn.steal_at = Some(now + draw_span(&mut self.rng, life));
        }
        self.record(now, Record::Accepted(conn.id));
        self.link = Some(conn);
        self.arm_poll(now);
    }

    /// Reads all that came from the client.
    fn read_input(&mut self, now: Instant) {
        let Some(link) = &mut self.link else {
            return;
        };
        link.poll_at = None;
        let finished = link.finished;
        if !link.input.is_empty() {
            link.last_read = now;
        }
        while let Some(link) = &mut self.link
            && let Some(byte) = link.input.pop_front()
        {
            if let Some(payload) = link.parser.push(byte) {
                self.handle_to_radio(now, &payload);
            }
        }
        if finished {
            self.close(now, How::Fin, Why::Fin);
        }
    }

    /// Turns what waits into frames, as long as the network has room.
    pub(super) fn pump(&mut self, now: Instant) {
        loop {
            let Some(link) = &self.link else {
                return;
            };
            let full = !link.void && link.output.len() >= self.config.queues.output;
            if full || link.stalled || link.output.close_at.is_some() || self.faults.is_held() {
                return;
            }
            let Some((payload, record)) = self.next_payload(now) else {
                return;
            };
            self.emit(now, &payload, record);
        }
    }

    /// The next payload for the client, and what to record when it is handed over.
    fn next_payload(&mut self, now: Instant) -> Option<(Vec<u8>, Option<Record>)> {
        use from_radio::PayloadVariant as Variant;
        let link = self.link.as_mut()?;
        let conn = link.id;
        if core::mem::take(&mut link.heartbeat) {
            if !self.config.heartbeat.shared.draw(&mut self.rng) {
                let answer = self.status(0, 0);
                self.free_told = answer.free;
                return Some((payload(Variant::QueueStatus(answer)), Some(Record::Answered(conn))));
            }
            self.record(now, Record::StatusLost(0));
        }

        let link = self.link.as_mut()?;
        if let Stage::Configuring { nonce, left, told } = &mut link.stage {
            if self.faults.stall.is_some_and(|frames| *told >= frames) {
                self.faults.stall = None;
                link.stalled = true;
                return None;
            }
            *told += 1;
            let (nonce, frame) = (*nonce, left.pop_front());
            let done = left.is_empty();
            if done {
                link.stage = Stage::Live;
            }
            return frame.map(|frame| (frame, done.then_some(Record::Configured { conn, nonce })));
        }
        if !link.is_live() {
            return None;
        }

        while let Some(status) = self.phone.pop_status() {
            let id = status.mesh_packet_id;
            if self.config.heartbeat.shared.draw(&mut self.rng) {
                self.record(now, Record::StatusLost(id));
                continue;
            }
            self.free_told = status.free;
            let record = Record::Status { id, res: status.res, free: status.free };
            return Some((payload(Variant::QueueStatus(status)), Some(record)));
        }
        if self.free_told == 0 && self.free() > 0 {
            let status = self.status(0, 0);
            self.free_told = status.free;
            let record = Record::Status { id: 0, res: 0, free: status.free };
            return Some((payload(Variant::QueueStatus(status)), Some(record)));
        }
        if let Some(notification) = self.phone.pop_notification() {
            return Some((payload(Variant::ClientNotification(notification)), None));
        }
        while let Some(packet) = self.next_packet() {
            if self.config.heartbeat.shared.draw(&mut self.rng) {
                self.lose(now, &packet, Loss::Shared);
                continue;
            }
            let record = Record::Delivered { from: packet.from, id: packet.id };
            return Some((payload(Variant::Packet(packet)), Some(record)));
        }
        None
    }

    fn next_packet(&mut self) -> Option<MeshPacket> {
        let replay = self.link.as_mut().and_then(|link| link.replays.pop_front());
        replay.or_else(|| self.phone.pop_packet())
    }

    /// Writes a frame, or what a fault makes of it.
    fn emit(&mut self, now: Instant, payload: &[u8], record: Option<Record>) {
        let text = self.config.stream.text.draw(&mut self.rng).then(|| self.log_line(now));
        let damage = self.faults.next_damage(self.link.as_ref().is_some_and(Conn::is_configuring));
        let Some(link) = &mut self.link else {
            return;
        };
        let conn = link.id;
        if link.void {
            if let Some(Record::Delivered { from, id }) = record {
                self.record(now, Record::PacketLost { from, id, how: Loss::Void });
            }
            return;
        }
        let Some(len) = FrameLen::new(payload.len()) else {
            return;
        };
        let mut frame = Vec::with_capacity(len.frame());
        frame.extend(len.header());
        frame.extend(payload);
        if let Some(text) = text {
            link.output.push(&text);
        }
        let start = link.output.written();
        let inside = 1 + self.rng.below(frame.len() as u32 - 1) as usize;
        if let Some(kept) = damage.kept(inside, frame.len()) {
            link.output.push(&frame[..kept]);
            if damage.is_cut() {
                link.output.close_at = Some((link.output.written(), How::Rst));
            }
            self.record(now, Record::Torn(conn));
            return;
        }
        link.output.push(&frame);
        if let Some(span) = damage.pause() {
            link.output.gate = Some((start + inside as u64, now + span));
        }
        let (seq, end) = link.output.count_frame();
        self.record(now, Record::Frame { conn, seq, end, hash: hash(payload) });
        if let Some(record) = record {
            self.record(now, record);
        }
    }

    /// Starts the handshake that `nonce` asks for, from the beginning.
    pub(super) fn start_handshake(&mut self, now: Instant, nonce: u32) {
        let identity = &self.config.identity;
        let mut left = handshake::frames(&self.mesh, identity, nonce);
        if self.config.stream.stale_nonce {
            let stale = from_radio::PayloadVariant::ConfigCompleteId(nonce ^ 0x5A5A);
            left.push_front(payload(stale));
        }
        let replayed = identity.replays && nonce != handshake::CONFIG_ONLY;
        let Some(link) = &mut self.link else {
            return;
        };
        link.replays.clear();
        if replayed {
            link.replays = handshake::replays(&self.mesh, identity.epoch);
        }
        link.stage = Stage::Configuring { nonce, left, told: 0 };
        let conn = link.id;
        self.record(now, Record::WantConfig { conn, nonce });
    }
}

#[cfg(test)]
mod tests;
