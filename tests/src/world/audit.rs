//! What must hold whatever the wire and the node do, checked while it happens and from both sides'
//! records.
//!
//! The node's log says which frames it wrote and where in the stream of a connection each ended;
//! the world says how many bytes of that stream the link's side has read. So it is known at any
//! time which frames the user must have got.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meshbeat::sim::{ConnId, Entry, Record};
use meshbeat_core::backoff::BackoffConfig;
use meshbeat_core::fault::{Class, Fault};
use meshbeat_core::frame::{FrameLen, HEADER_LEN, MAGIC};
use meshbeat_core::heartbeat::Answers;
use meshbeat_core::link::State;
use meshbeat_core::peek::FromRadio;
use meshbeat_core::{Event, Instant, Link, LinkConfig, Span};
use meshbeat_proto::{ToRadio, to_radio};
use prost::Message;

use super::ROOM;
use super::mail::Mail;

/// What was found wrong, in words.
pub type Violation = String;

/// The checks, and what they have to remember.
#[derive(Debug)]
pub(super) struct Audit {
    config: LinkConfig,
    streams: BTreeMap<ConnId, Stream>,
    phase: Phase,
    suspected: bool,
    /// When the link read a byte, or was configured.
    last_read: Instant,
    /// When a frame arrived, or the transport was opened, or the question was out.
    last_frame: Instant,
    /// When the link last wrote a byte; a frame takes minutes on a miserable wire.
    last_said: Instant,
    last_retry: Duration,
    want_configs: VecDeque<Instant>,
    nonces: BTreeSet<u32>,
    node: Option<u32>,
    pub(super) mail: Mail,
    pub(super) totals: Totals,
}

/// Counts of the link's side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Attempts to connect.
    pub connects: u64,
    /// `want_config_id`s whose last byte was written.
    pub want_configs: u64,
    /// Heartbeats whose last byte was written.
    pub heartbeats: u64,
    /// Handshakes done.
    pub sessions: u64,
    /// Frames delivered to the user.
    pub frames: u64,
    /// Frames torn by the node with others behind them.
    pub tears: u64,
    /// Frames that a torn one before them took along.
    pub taken_along: u64,
    /// Bytes delivered that belong to no frame.
    pub noise: u64,
}

/// What is known of one connection.
#[derive(Debug, Default)]
struct Stream {
    /// Frames that the node wrote and the user has not got: where they end, and their hash.
    expected: VecDeque<(u64, u64)>,
    /// Bytes that the link's side has read, and those that came out again, in frames or as noise.
    read: u64,
    out: u64,
    /// Bytes written that wake a node on a serial line.
    woken: usize,
    /// A frame was torn; `tears` counts it when another follows.
    torn: bool,
    tears: u64,
    /// Frames lost behind a torn one, and frames that the node never wrote.
    eaten: u64,
    alien: u64,
    /// What the link wrote of a frame that is not whole yet.
    half: Vec<u8>,
    /// When the first byte of it was written.
    begun: Instant,
    asked: Option<u32>,
    completed: BTreeSet<u32>,
    /// Bytes that left the node, once it closed.
    sent: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// An attempt is due at this moment, not earlier and not later.
    Waiting(Instant),
    Opening(Instant),
    Configuring,
    Up,
    Closed,
}

/// Handshakes within an hour that raise the cap of the back-off.
const CROWD: usize = 20;
const HOUR: Duration = Duration::from_secs(3600);
/// Bytes `C3` that begin a session on a serial line.
const WAKE: usize = 32;

impl Audit {
    pub(super) fn new(config: LinkConfig) -> Self {
        Self {
            config,
            streams: BTreeMap::new(),
            phase: Phase::Waiting(Instant::ORIGIN),
            suspected: false,
            last_read: Instant::ORIGIN,
            last_frame: Instant::ORIGIN,
            last_said: Instant::ORIGIN,
            last_retry: Duration::ZERO,
            want_configs: VecDeque::new(),
            nonces: BTreeSet::new(),
            node: None,
            mail: Mail::new(config.outbox, config.serial.is_some()),
            totals: Totals::default(),
        }
    }

    /// The node has written this into its log.
    pub(super) fn handle_entry(&mut self, entry: &Entry) -> Result<(), Violation> {
        match entry.what {
            Record::Frame { conn, end, hash, .. } => {
                let stream = self.streams.entry(conn).or_default();
                if core::mem::take(&mut stream.torn) {
                    stream.tears += 1;
                    self.totals.tears += 1;
                }
                stream.expected.push_back((end, hash));
            }
            Record::Torn(conn) => self.streams.entry(conn).or_default().torn = true,
            Record::Closed { conn, sent, .. } => {
                self.streams.entry(conn).or_default().sent = Some(sent);
            }
            Record::Heartbeat { nonce: 1, .. } => return Err("the node read nonce 1".into()),
            _ => {}
        }
        self.mail.handle_entry(entry)
    }

    /// The link's side connects.
    pub(super) fn handle_connect(&mut self, busy: bool) -> Result<(), Violation> {
        self.totals.connects += 1;
        if busy { Err("two connects at once".into()) } else { Ok(()) }
    }

    /// The link's side has read so many bytes of a connection.
    pub(super) fn handle_read(&mut self, now: Instant, conn: ConnId, count: usize) {
        self.streams.entry(conn).or_default().read += count as u64;
        self.last_read = now;
    }

    /// The link has handed bytes to the user, in a frame or as noise. Every byte comes out once, and
    /// none of another connection.
    pub(super) fn handle_out(&mut self, conn: ConnId, count: usize) -> Result<(), Violation> {
        let stream = self.streams.entry(conn).or_default();
        stream.out += count as u64;
        let Stream { out, read, .. } = *stream;
        if out > read {
            return Err(format!("{out} bytes of {conn} came out, {read} were read"));
        }
        Ok(())
    }

    /// What the link read of a frame that it handed to the user.
    pub(super) fn handle_message(
        &mut self,
        conn: ConnId,
        message: FromRadio<'_>,
    ) -> Result<(), Violation> {
        match message {
            FromRadio::ConfigComplete(nonce) => {
                self.streams.entry(conn).or_default().completed.insert(nonce);
                Ok(())
            }
            FromRadio::QueueStatus(status) => self.mail.handle_status(status),
            _ => Ok(()),
        }
    }

    /// The link has handed a frame to the user.
    pub(super) fn handle_frame(
        &mut self,
        now: Instant,
        conn: ConnId,
        hash: u64,
    ) -> Result<(), Violation> {
        self.totals.frames += 1;
        self.last_frame = now;
        let stream = self.streams.entry(conn).or_default();
        let found = stream.expected.iter().position(|(_, expected)| *expected == hash);
        match found {
            Some(0) => {}
            // The end of a torn frame may be the beginning of the next ones, and nothing shows it.
            Some(eaten) if stream.eaten + (eaten as u64) <= 3 * stream.tears => {
                stream.eaten += eaten as u64;
                self.totals.taken_along += eaten as u64;
                self.mail.handle_eaten();
            }
            Some(eaten) => return Err(format!("{eaten} frames of {conn} were lost")),
            None if stream.alien < stream.tears + u64::from(stream.torn) => {
                stream.alien += 1;
                return Ok(());
            }
            None => return Err(format!("{conn} brought a frame twice or one that is none")),
        }
        let last = stream.expected.drain(..=found.unwrap_or(0)).next_back();
        match last {
            Some((end, _)) if end > stream.read => {
                Err(format!("{conn} brought a frame before its last byte"))
            }
            _ => Ok(()),
        }
    }

    /// The link has written bytes to a connection.
    pub(super) fn handle_written(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        self.last_said = now;
        let stream = self.streams.entry(conn).or_default();
        if stream.half.is_empty() {
            stream.begun = now;
        }
        let begun = stream.begun;
        stream.half.extend_from_slice(bytes);
        if self.config.serial.is_some() && stream.woken < WAKE {
            let wake = stream.half.iter().take_while(|byte| **byte == MAGIC[1]).count();
            let wake = wake.min(WAKE - stream.woken);
            stream.half.drain(..wake);
            stream.woken += wake;
            if stream.woken < WAKE && !stream.half.is_empty() {
                return Err(format!("only {} bytes to wake the node", stream.woken));
            }
        }
        let mut said = Vec::new();
        while let Some(header) = stream.half.first_chunk::<HEADER_LEN>() {
            let len = FrameLen::from_header([header[2], header[3]]);
            let Some(len) = len.filter(|_| header[..2] == MAGIC) else {
                return Err(format!("the link wrote {:02x?}, which is no frame", stream.half));
            };
            let Some(payload) = stream.half.get(HEADER_LEN..len.frame()) else { break };
            match ToRadio::decode(payload).map(|message| message.payload_variant) {
                Ok(Some(message)) => said.push(message),
                _ => return Err(format!("the link wrote {payload:02x?}, which is no message")),
            }
            stream.half.drain(..len.frame());
        }
        said.into_iter().try_for_each(|message| self.handle_said(now, begun, conn, message))
    }

    fn handle_said(
        &mut self,
        now: Instant,
        begun: Instant,
        conn: ConnId,
        message: to_radio::PayloadVariant,
    ) -> Result<(), Violation> {
        use to_radio::PayloadVariant as Variant;
        match message {
            Variant::Heartbeat(heartbeat) => {
                self.totals.heartbeats += 1;
                if heartbeat.nonce == 1 {
                    return Err("a heartbeat with nonce 1".into());
                }
                self.mail.handle_asked(now)?;
            }
            Variant::WantConfigId(nonce) => {
                self.totals.want_configs += 1;
                self.last_frame = now;
                if let Some(last) = self.want_configs.back()
                    && now < *last + self.config.handshake.gap
                {
                    return Err(format!("two want_config within {:?}", now.since(*last)));
                }
                self.want_configs.push_back(now);
                if !self.nonces.insert(nonce) {
                    return Err(format!("nonce {nonce} was used twice"));
                }
                self.streams.entry(conn).or_default().asked = Some(nonce);
            }
            Variant::Disconnect(_) => {}
            Variant::Packet(packet) => self.mail.handle_written(now, begun, self.node, &packet)?,
            other => return Err(format!("nobody told the link to send {other:?}")),
        }
        Ok(())
    }

    /// The session on a connection has ended for the link; what it had read is all it gets.
    pub(super) fn handle_end(&mut self, conn: ConnId, fault: Fault) -> Result<(), Violation> {
        let Some(stream) = self.streams.remove(&conn) else { return Ok(()) };
        self.mail.handle_ended(stream.begun, self.node, &stream.half);
        let missing = stream.expected.iter().filter(|(end, _)| *end <= stream.read).count() as u64;
        // When the link itself gives up it does not search what a torn frame left behind.
        let excused = if by_peer(fault) {
            (3 * stream.tears).saturating_sub(stream.eaten)
        } else {
            40 * stream.tears
        };
        if missing > excused {
            return Err(format!("{missing} frames of {conn} arrived and were not delivered"));
        }
        self.totals.taken_along += missing;
        match stream.sent {
            Some(sent) if fault.class() == Class::ClosedByPeer && sent != stream.read => {
                let Stream { read, .. } = stream;
                Err(format!("{conn} ended politely after {sent} bytes, {read} were read"))
            }
            _ => Ok(()),
        }
    }

    /// The link says that something happened.
    pub(super) fn handle_event(
        &mut self,
        now: Instant,
        event: Event,
        conn: Option<ConnId>,
    ) -> Result<(), Violation> {
        if let Event::Packet(packet) = event {
            return self.mail.handle_event(now, packet);
        }
        let next = match (self.phase, event) {
            (Phase::Waiting(due), Event::OpenDue) if now == due => Phase::Opening(now),
            (Phase::Waiting(due), Event::OpenDue) => {
                return Err(format!("an attempt at {now:?} that was due at {due:?}"));
            }
            (Phase::Opening(_), Event::Opened) => {
                self.last_frame = now;
                Phase::Configuring
            }
            (Phase::Configuring, Event::Configured { node, .. }) => {
                self.totals.sessions += 1;
                (self.suspected, self.last_read) = (false, now);
                self.check_completed(conn, node)?;
                self.mail.handle_configured();
                Phase::Up
            }
            (
                Phase::Opening(_) | Phase::Configuring | Phase::Up,
                Event::Lost { fault, opened, was_up, retry_at },
            ) => {
                if was_up != (self.phase == Phase::Up) {
                    return Err(format!("{event:?} while {:?}", self.phase));
                }
                if let Some(conn) = conn {
                    self.check_all_out(conn, fault)?;
                    self.handle_end(conn, fault)?;
                }
                let session = opened.map(|opened| now.since(opened));
                self.check_retry(now, session, retry_at.since(now))?;
                Phase::Waiting(retry_at)
            }
            (Phase::Configuring, Event::NodeChanged { from, to }) => {
                if self.node != Some(from) || from == to {
                    return Err(format!("{event:?}, but the node was {:?}", self.node));
                }
                self.node = Some(to);
                Phase::Configuring
            }
            (Phase::Up, Event::Suspected) if !self.suspected => {
                self.suspected = true;
                Phase::Up
            }
            (Phase::Up, Event::Recovered) if self.suspected => {
                self.suspected = false;
                Phase::Up
            }
            // The third miss, of which earlier ones may have been forgiven.
            (Phase::Up, Event::FoundMute) => {
                self.suspected = false;
                Phase::Up
            }
            (Phase::Waiting(_), Event::Contended { .. }) => self.phase,
            (Phase::Configuring | Phase::Up, Event::SaidGoodbye) => self.phase,
            (_, Event::Closed) => {
                if let Some(conn) = conn {
                    self.handle_end(conn, Fault::new(Class::ConnectionReset))?;
                }
                Phase::Closed
            }
            _ => return Err(format!("{event:?} while {:?}", self.phase)),
        };
        self.phase = next;
        Ok(())
    }

    /// When the other side ends a connection nothing of it is held back.
    fn check_all_out(&self, conn: ConnId, fault: Fault) -> Result<(), Violation> {
        match self.streams.get(&conn) {
            Some(&Stream { read, out, .. }) if by_peer(fault) && out != read => {
                Err(format!("{conn} ended, {read} bytes of it were read, {out} came out"))
            }
            _ => Ok(()),
        }
    }

    fn check_completed(&mut self, conn: Option<ConnId>, node: u32) -> Result<(), Violation> {
        let stream = conn.and_then(|conn| self.streams.get(&conn));
        let asked = stream.and_then(|stream| Some((stream, stream.asked?)));
        match asked {
            Some((stream, nonce)) if stream.completed.contains(&nonce) => {}
            _ => return Err("configured before the handshake was complete".into()),
        }
        match self.node.replace(node) {
            Some(before) if before != node => Err(format!("!{before:08x} became !{node:08x}")),
            _ => Ok(()),
        }
    }

    fn check_retry(
        &mut self,
        now: Instant,
        session: Option<Duration>,
        retry: Duration,
    ) -> Result<(), Violation> {
        let BackoffConfig { first, cap, crowded_cap, steady, settled } = self.config.backoff;
        let [first, cap, crowded_cap, steady, settled] =
            [first, cap, crowded_cap, steady, settled].map(Span::as_duration);
        while self.want_configs.front().is_some_and(|at| now.since(*at) >= HOUR) {
            self.want_configs.pop_front();
        }
        let crowded = self.want_configs.len() > CROWD;
        let cap = if crowded { crowded_cap } else { cap };
        let session = session.unwrap_or_default();
        let least = if session > settled || (session > steady && !crowded) {
            first.mul_f64(0.8)
        } else {
            // Twice the last step, of which 120 % may have been waited, and 80 % now.
            self.last_retry.mul_f64(1.6 / 1.2).min(cap.mul_f64(0.8)).max(first.mul_f64(0.8))
        };
        let most = if session > settled { first.mul_f64(1.2) } else { cap };
        self.last_retry = retry;
        let rounding = Duration::from_millis(2);
        if retry + rounding < least || retry > most + rounding {
            return Err(format!("next attempt in {retry:?}, not {least:?} to {most:?}"));
        }
        Ok(())
    }

    /// Nothing happens for now: whether the link would be let hang.
    pub(super) fn check_rest(&self, now: Instant, link: &Link<ROOM>) -> Result<(), Violation> {
        self.mail.check_count(link.queued())?;
        let LinkConfig { heartbeat, handshake, connect_limit, .. } = self.config;
        let questions = heartbeat.answer.as_duration() * u32::from(heartbeat.strikes);
        let (what, since, limit) = match link.state() {
            State::Up { .. } | State::Suspect { .. } if link.answers() == Answers::Proven => {
                let limit = heartbeat.quiet.as_duration() + questions;
                ("silence of a node that answers", self.last_read, limit)
            }
            State::Configuring { .. } => {
                let limit = handshake.gap.as_duration() + handshake.silence.as_duration() * 2;
                ("a handshake without a frame", self.last_frame, limit)
            }
            State::Opening { .. } => match self.phase {
                Phase::Opening(since) => {
                    ("a connect without an answer", since, connect_limit.as_duration())
                }
                _ => return Err(format!("opening while {:?}", self.phase)),
            },
            _ => return Ok(()),
        };
        let span = now.since(since);
        if span > limit {
            return Err(format!("{what} went on for {span:?}"));
        }
        // A transport may take nothing for a while and the link still live; not for longer.
        let most = heartbeat.keepalive.as_duration() + heartbeat.quiet.as_duration() + questions;
        let span = now.since(self.last_said);
        if matches!(link.state(), State::Up { .. }) && span > most {
            return Err(format!("nothing was sent for {span:?}"));
        }
        Ok(())
    }

    /// Frames that arrived on a connection and were not delivered yet.
    pub(super) fn undelivered(&self, conn: ConnId) -> usize {
        let Some(stream) = self.streams.get(&conn) else { return 0 };
        stream.expected.iter().filter(|(end, _)| *end <= stream.read).count()
    }
}

/// Whether the end came from the other side, so that all that had come was searched for frames.
fn by_peer(fault: Fault) -> bool {
    !matches!(fault.class(), Class::Silent | Class::HandshakeStalled | Class::HandshakeEndless)
}
