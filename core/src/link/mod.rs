//! The link: one connection to one node, held for ever.
//!
//! No clock, socket or thread: what the world did comes in by `handle_*`, what the user wants by
//! plain verbs, what the caller must do next goes out by `poll_*`. The loop of every caller:
//!
//! 1. wait for input, or until the deadline;
//! 2. make one `handle_*` call (after [`Link::handle_timeout`] on a serial line, also
//!    [`Link::handle_bytes`] with an empty slice);
//! 3. drain [`Link::poll_event`];
//! 4. drain [`Link::poll_transmit`] until it says blocked or empty, and [`Link::poll_event`] again:
//!    a packet counts as sent, and goodbye as said, when it is written;
//! 5. ask [`Link::poll_timeout`];
//! 6. go to 1.

mod outgoing;
mod state;
#[cfg(test)]
mod tests;

use core::time::Duration;

use embedded_io::Write;
use heapless::Deque;

use crate::backoff::Backoff;
use crate::config::{Checked, HandshakeConfig, SerialConfig};
use crate::decoder::{Decoder, Kind};
use crate::fault::{Class, Fault, Level};
use crate::fmt::{debug, info, warning};
use crate::heartbeat::{Answers, Expired, Heartbeat};
use crate::mutant::{Mutant, Mutation};
use crate::outbox::{Outbox, SendError};
use crate::peek::{self, FromRadio, Packet, QueueStatus, Seen};
use crate::rng::Rng;
use crate::time::{Instant, Span};
use crate::tx::Tx;

use outgoing::{Greeting, Sending};

pub use state::{Asked, Event, ForwardError, Item, Received, State, Stats, Transmit};

/// Whether the node is to be asked for its configuration once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refresh {
    No,
    Wanted,
    UnderWay,
}

/// Young sessions in a row that make a contended link.
const CONTENDED: u32 = 3;

/// The state machine of the link, with room for `OUTBOX` packets. Below 2 KB without them and about
/// 600 bytes for each; no allocation.
///
/// Getters; `handle_*` for what the world did; [`Link::open`], [`Link::send`] and [`Link::close`]
/// for what the user wants; `poll_*` for what to do next. After every `handle_*` and verb the three `poll_*` are to
/// be called again, in the order of the module's loop.
#[derive(Debug, Clone)]
pub struct Link<const OUTBOX: usize = 0> {
    handshake: HandshakeConfig,
    serial: Option<SerialConfig>,
    connect_limit: Span,
    close_limit: Span,
    drain_limit: Span,
    young: Span,
    state: State,
    decoder: Decoder,
    tx: Tx,
    /// What `tx` holds; `None` if and only if it is empty.
    sending: Option<Sending>,
    heartbeat: Heartbeat,
    backoff: Backoff,
    outbox: Outbox<OUTBOX>,
    /// When the link is closed although packets wait; they are drained until then.
    closing: Option<Instant>,
    rng: Rng,
    mutation: Mutation,
    /// Happened and not drained yet; one call adds at most two. When it is full the oldest is dropped; `OpenDue` and `Closed`
    /// are never in it, they follow from the state.
    events: Deque<Event, 3>,
    /// `OpenDue` or `Closed` was drained for the present state.
    told: bool,
    /// What this session has said before its `want_config_id`.
    greeting: Greeting,
    /// `No` but in a session that was up.
    refresh: Refresh,
    /// No more bytes will complete what the decoder holds: it is to be looked at again.
    flush: bool,
    node: Option<u32>,
    /// The node has told its number in this handshake.
    met: bool,
    /// A handshake of this session ended without that.
    nameless: bool,
    /// The next `want_config_id` is not written before.
    ask_from: Instant,
    /// The last byte of the last session that was up.
    last_heard: Option<Instant>,
    /// Young sessions in a row that the node closed.
    young_sessions: u32,
    stats: Stats,
}

impl<const OUTBOX: usize> Link<OUTBOX> {
    /// A link at rest. Equal seeds and equal calls give equal behaviour.
    // Inline, as what makes its parts is: else each part is on the stack once more while it is made.
    #[inline(always)]
    pub fn new(config: Checked, seed: u64) -> Self {
        let config = config.config();
        Self {
            handshake: config.handshake,
            serial: config.serial,
            connect_limit: config.connect_limit,
            close_limit: config.close_limit,
            drain_limit: config.drain_limit,
            young: config.young,
            state: State::Idle,
            decoder: Decoder::new(),
            tx: Tx::new(),
            sending: None,
            heartbeat: Heartbeat::new(config.heartbeat),
            backoff: Backoff::new(config.backoff),
            outbox: Outbox::new(config.outbox, config.serial.is_some(), config.mutation),
            closing: None,
            rng: Rng::new(seed),
            mutation: config.mutation,
            events: Deque::new(),
            told: false,
            greeting: Greeting::Done,
            refresh: Refresh::No,
            flush: false,
            node: None,
            met: false,
            nameless: false,
            ask_from: Instant::ORIGIN,
            last_heard: None,
            young_sessions: 0,
            stats: Stats::default(),
        }
    }

    /// Starts: the first attempt is due at once. Does nothing but in `Idle`.
    pub fn open(&mut self, now: Instant) {
        if self.state == State::Idle {
            self.attempt(now);
        }
    }

    /// Accepts a packet for the node: a `ToRadio` payload that holds one packet and nothing else.
    /// Returns its id, a fresh one if it was 0; what becomes of it is told by [`Event::Packet`].
    /// `sender` is whoever sends, for turns and quota. A packet of which no byte was written lives
    /// `ttl`, or as configured.
    pub fn send(
        &mut self,
        now: Instant,
        sender: u16,
        payload: &[u8],
        ttl: Option<Span>,
    ) -> Result<u32, SendError> {
        let closing = matches!(self.state, State::Closing { .. } | State::Closed);
        if closing || self.closing.is_some() {
            return Err(SendError::Closing);
        }
        self.outbox.accept(now, sender, payload, ttl, &mut self.rng)
    }

    /// Hands the node a `ToRadio` payload that is no packet and none of the link's own business:
    /// `xmodemPacket` or `mqttClientProxyMessage`. It is written once, or not at all if the
    /// connection ends before.
    pub fn forward(&mut self, payload: &[u8]) -> Result<(), ForwardError> {
        if !peek::is_forwardable(payload) {
            return Err(ForwardError::NotForwardable);
        }
        if !matches!(self.state, State::Up { .. }) {
            return Err(ForwardError::NotUp);
        }
        self.tx.push_frame(payload).map_err(|_| ForwardError::Busy)?;
        self.sending = Some(Sending::Forwarded);
        Ok(())
    }

    /// Asks the node for its configuration once more, for what admin packets change is told to
    /// nobody. That happens when no packet is in flight and the span to the handshake before is
    /// over; [`Event::Refreshed`] tells the end. Does nothing but in a session that is up: the next
    /// one asks anyway.
    pub fn refresh(&mut self) {
        if self.state.is_up() && self.refresh == Refresh::No {
            self.refresh = Refresh::Wanted;
        }
    }

    /// Ends the link for good: packets that wait are sent, for at most `drain_limit`, the others
    /// are answered; then what is half written is finished, `disconnect` follows, and
    /// [`Event::SaidGoodbye`]; when the transport has ended too, [`Event::Closed`]. That takes at
    /// most `close_limit` more.
    pub fn close(&mut self, now: Instant) {
        let started = !matches!(self.state, State::Idle);
        if self.closing.is_none() {
            self.closing = Some(if started { now + self.drain_limit } else { now });
        }
        self.close_if_drained(now);
    }

    fn close_if_drained(&mut self, now: Instant) {
        let Some(deadline) = self.closing else { return };
        if !self.outbox.is_empty() && now < deadline {
            return;
        }
        self.closing = None;
        self.outbox.handle_closing();
        match self.state {
            State::Configuring { .. } | State::Up { .. } | State::Suspect { .. } => {
                if !self.tx.is_half_sent() {
                    self.clear_tx();
                }
                self.enter(State::Closing { deadline: now + self.close_limit, said: false });
            }
            State::Idle | State::Opening { .. } | State::Waiting { .. } => {
                self.enter(State::Closed);
            }
            State::Closing { .. } | State::Closed => {}
        }
    }

    /// A further address of the node is being tried: the attempt's time starts anew.
    pub fn handle_opening(&mut self, now: Instant) {
        if let State::Opening { .. } = self.state {
            self.state = State::Opening { deadline: now + self.connect_limit };
        }
    }

    /// The transport is open.
    pub fn handle_opened(&mut self, now: Instant) {
        let State::Opening { .. } = self.state else { return };
        self.greeting = match self.serial {
            Some(_) => Greeting::Wake,
            None => Greeting::Heartbeat,
        };
        if self.mutation.is(Mutant::BackoffResetOnConnect) {
            self.backoff.reset();
        }
        self.heartbeat.handle_opened(now);
        self.outbox.handle_opened();
        self.nameless = false;
        self.enter(State::Configuring { opened: now, asked: self.ask(now) });
        self.push(Event::Opened);
    }

    /// Bytes arrived. Takes some of them and gives back at most one item; call again with the rest
    /// until all are taken and there is no item. Without an open transport all are dropped.
    pub fn handle_bytes<'a>(&'a mut self, now: Instant, input: &'a [u8]) -> Received<'a> {
        if !self.state.is_open() {
            return Received { taken: input.len(), item: None };
        }
        if !input.is_empty() {
            self.flush = false;
            self.heard(now);
        }
        let mut taken = 0;
        let was_up = self.state.is_up();
        let (offered, seen, place) = loop {
            let offered = input.get(taken..).unwrap_or(&[]);
            let step = self.decoder.step(offered);
            taken += step.taken;
            match step.found {
                None if self.flush && self.decoder.held() > 0 => self.decoder.give_up(),
                None => {
                    self.stats.bytes_in += taken as u64;
                    return Received { taken, item: None };
                }
                Some((Kind::Noise, place)) => break (offered, None, place),
                Some((Kind::Frame, place)) => {
                    let payload = self.decoder.slice(offered, place);
                    if let Some(seen) = Seen::from_radio(payload) {
                        self.heard_frame(now, seen.detached());
                        break (offered, Some(seen), place);
                    }
                    self.stats.rejected = self.stats.rejected.wrapping_add(1);
                    taken -= self.decoder.reject();
                }
            }
        };
        self.stats.bytes_in += taken as u64;
        let bytes = self.decoder.slice(offered, place);
        let item = match seen {
            Some(seen) => {
                let configured = !was_up && self.state.is_up();
                Item::Frame { payload: bytes, message: seen.message(bytes), configured }
            }
            None => {
                self.stats.noise += bytes.len() as u64;
                Item::Noise(bytes)
            }
        };
        Received { taken, item: Some(item) }
    }

    /// The stream has ended. What is held of an unfinished frame may hide whole ones: call
    /// [`Link::handle_bytes`] with an empty slice until it gives no item, then
    /// [`Link::handle_closed`].
    pub fn handle_end(&mut self) {
        self.flush = true;
    }

    /// The transport failed, could not be opened, or was closed by the peer
    /// ([`Class::ClosedByPeer`]). The caller drops it.
    pub fn handle_closed(&mut self, now: Instant, fault: Fault) {
        match self.state {
            State::Opening { .. }
            | State::Configuring { .. }
            | State::Up { .. }
            | State::Suspect { .. } => self.lost(now, fault),
            State::Closing { .. } => self.enter(State::Closed),
            // The late word of a transport that was dropped already.
            State::Idle | State::Waiting { .. } | State::Closed => {}
        }
    }

    /// Lets time pass; does nothing before [`Link::poll_timeout`]. On a serial line call
    /// [`Link::handle_bytes`] with an empty slice afterwards: a torn frame may have been given up.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.withdraw_stale(now);
        self.outbox.handle_timeout(now, self.heartbeat.answers() == Answers::Mute);
        if now >= self.torn_deadline() {
            self.flush = true;
        }
        match self.state {
            State::Opening { deadline } if now >= deadline => {
                self.lost(now, Fault::new(Class::TimedOut));
            }
            State::Configuring { opened, asked } => {
                self.handle_handshake_timeout(now, opened, asked);
                if self.mutation.is(Mutant::StrikeWhileConfiguring) && self.state.is_open() {
                    self.handle_heartbeat_timeout(now, opened);
                }
            }
            State::Up { opened } | State::Suspect { opened } => {
                self.handle_heartbeat_timeout(now, opened);
            }
            State::Waiting { until } if now >= until => self.attempt(now),
            State::Closing { deadline, .. } if now >= deadline => self.enter(State::Closed),
            _ => {}
        }
        self.close_if_drained(now);
    }

    /// The oldest event that was not drained yet.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if let Some(event) = self.outbox.poll_event() {
            return Some(Event::Packet(event));
        }
        let duty = match self.state {
            State::Opening { .. } => Event::OpenDue,
            State::Closed => Event::Closed,
            _ => return None,
        };
        (!core::mem::replace(&mut self.told, true)).then_some(duty)
    }

    /// Writes what is due, with one call of the writer's `write`; a short write is normal, the rest
    /// stays pending. Call until it says blocked or empty.
    ///
    /// The writer's own error comes back untouched and nothing is consumed: `embedded-io` has no
    /// `WouldBlock`, so only the caller can tell "not ready" from a fault.
    pub fn poll_transmit<W: Write>(
        &mut self,
        now: Instant,
        writer: &mut W,
    ) -> Result<Transmit, W::Error> {
        let pending = self.poll_pending(now);
        if pending.is_empty() {
            return Ok(Transmit::Empty);
        }
        let n = writer.write(pending)?;
        if n == 0 {
            return Ok(Transmit::Blocked);
        }
        self.handle_written(now, n);
        Ok(Transmit::Wrote(n))
    }

    /// What is to be written next, for a writer that has no [`Write`]; nothing if it is empty. How
    /// much of it was taken is to be told by [`Link::handle_written`] before the next call of
    /// another method.
    pub fn poll_pending(&mut self, now: Instant) -> &[u8] {
        self.withdraw_stale(now);
        if self.tx.is_empty() {
            self.sending = self.next_frame(now);
        }
        self.tx.pending()
    }

    /// The transport took the first `n` of the bytes of [`Link::poll_pending`], at least one.
    pub fn handle_written(&mut self, now: Instant, n: usize) {
        if self.sending == Some(Sending::Packet) && !self.tx.is_half_sent() {
            self.outbox.handle_begun(now);
        }
        self.stats.bytes_out += n as u64;
        if self.tx.consume(n)
            && let Some(sent) = self.sending.take()
        {
            self.sent(now, sent);
        }
    }

    /// The next moment at which [`Link::handle_timeout`] has something to do; `None` means that
    /// only input can wake the link.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadline = match self.state {
            State::Opening { deadline } | State::Closing { deadline, .. } => deadline,
            State::Configuring { asked, .. } => match asked {
                Asked::NotBefore(at) => at,
                Asked::Due(since) => since + self.handshake.silence,
                Asked::With { since, last_frame, .. } => {
                    (last_frame + self.handshake.silence).min(since + self.handshake.limit)
                }
            },
            State::Up { .. } | State::Suspect { .. } => self.heartbeat.poll_timeout(),
            State::Waiting { until } => until,
            State::Idle | State::Closed => Instant::NEVER,
        };
        let can_write = matches!(self.state, State::Up { .. }) && self.tx.is_empty();
        let can_send = can_write && self.can_send();
        let mut due = deadline.min(self.torn_deadline());
        due = due.min(self.closing.unwrap_or(Instant::NEVER));
        due = due.min(self.outbox.poll_timeout(can_send));
        if can_write {
            due = due.min(self.heartbeat_for_outbox()).min(self.refresh_due());
        }
        due.deadline()
    }

    /// How many more packets of this sender are accepted now.
    pub fn room(&self, sender: u16) -> usize {
        self.outbox.room(sender)
    }

    /// How many packets are in the outbox.
    pub fn queued(&self) -> usize {
        self.outbox.len()
    }

    /// Where the link stands.
    pub const fn state(&self) -> State {
        self.state
    }

    /// The number of the node that answered last.
    pub const fn node(&self) -> Option<u32> {
        self.node
    }

    /// What is known of the node's answers to heartbeats.
    pub const fn answers(&self) -> Answers {
        self.heartbeat.answers()
    }

    /// The span between the last answered heartbeat and its answer.
    pub fn round_trip(&self) -> Option<Duration> {
        self.heartbeat.round_trip()
    }

    /// Counters since the link was made.
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    fn attempt(&mut self, now: Instant) {
        self.stats.attempts = self.stats.attempts.wrapping_add(1);
        self.enter(State::Opening { deadline: now + self.connect_limit });
    }

    /// When the next `want_config_id` may be written.
    fn ask(&self, now: Instant) -> Asked {
        match self.ask_from {
            at if at > now => Asked::NotBefore(at),
            _ => Asked::Due(now),
        }
    }

    /// A byte arrived.
    fn heard(&mut self, now: Instant) {
        let suspected = self.heartbeat.handle_received(now);
        self.outbox.handle_heard();
        if let State::Suspect { opened } = self.state {
            self.enter(State::Up { opened });
        }
        if suspected && matches!(self.state, State::Up { .. }) {
            self.push(Event::Recovered);
        }
    }

    fn heard_frame(&mut self, now: Instant, message: FromRadio<'static>) {
        self.stats.frames_in = self.stats.frames_in.wrapping_add(1);
        // What the mesh says is no sign that the question was heard.
        if let State::Configuring { asked: Asked::With { last_frame, .. }, .. } = &mut self.state
            && message.is_configuration()
        {
            *last_frame = now;
        }
        match (self.state, message) {
            (_, FromRadio::MyInfo(info)) => self.met(info.node),
            (
                State::Configuring { opened, asked: Asked::With { nonce, since, .. } },
                FromRadio::ConfigComplete(completed),
            ) if completed == nonce || self.mutation.is(Mutant::StaleNonceAccepted) => {
                // The frame that told who it is was torn, or is not sent: asked again, once.
                if self.met || self.nameless || self.mutation.is(Mutant::StaleNonceAccepted) {
                    self.configured(now, opened, since);
                } else {
                    self.nameless = true;
                    self.enter(State::Configuring { opened, asked: self.ask(now) });
                }
            }
            (_, FromRadio::QueueStatus(status)) => self.heard_status(now, status),
            (_, FromRadio::Packet(Packet { from, data: Some(data), .. })) => {
                if let Some(error) = data.routing_error {
                    self.outbox.handle_reply(now, from, data.request_id, error);
                }
            }
            (State::Configuring { opened, .. }, FromRadio::Rebooted)
            | (State::Up { opened } | State::Suspect { opened }, FromRadio::Rebooted)
                if self.serial.is_some() =>
            {
                self.push(Event::Rebooted);
                self.last_heard = Some(now);
                self.outbox.handle_lost();
                self.enter(State::Configuring { opened, asked: self.ask(now) });
            }
            // A config_complete_id with another nonce is a leftover of an aborted handshake.
            // Packets and configuration are the caller's.
            _ => {}
        }
        self.close_if_drained(now);
    }

    fn heard_status(&mut self, now: Instant, status: QueueStatus) {
        let answers = status.id == 0 && self.heartbeat.handle_answer(now);
        self.stats.answered = self.stats.answered.wrapping_add(u32::from(answers));
        self.outbox.handle_status(now, status, &mut self.rng);
    }

    fn met(&mut self, node: u32) {
        self.met = true;
        if let Some(from) = self.node.replace(node)
            && from != node
        {
            self.heartbeat.forget();
            self.push(Event::NodeChanged { from, to: node });
        }
    }

    fn configured(&mut self, now: Instant, opened: Instant, asked: Instant) {
        let refreshed = self.refresh == Refresh::UnderWay;
        self.refresh = Refresh::No;
        self.heartbeat.handle_configured(now);
        self.outbox.handle_configured(now, self.node.unwrap_or(0));
        self.enter(State::Up { opened });
        if refreshed {
            self.push(Event::Refreshed { asked });
            return;
        }
        self.stats.sessions = self.stats.sessions.wrapping_add(1);
        self.push(Event::Configured {
            node: self.node.unwrap_or(0),
            asked,
            last_heard: self.last_heard,
        });
    }

    fn handle_handshake_timeout(&mut self, now: Instant, opened: Instant, asked: Asked) {
        let silence = self.handshake.silence;
        match asked {
            Asked::NotBefore(at) if now >= at => {
                self.state = State::Configuring { opened, asked: Asked::Due(now) };
            }
            Asked::Due(since) if now >= since + silence => {
                self.lost(now, Fault::new(Class::HandshakeStalled));
            }
            Asked::With { last_frame, .. } if now >= last_frame + silence => {
                self.lost(now, Fault::new(Class::HandshakeStalled));
            }
            Asked::With { since, .. } if now >= since + self.handshake.limit => {
                self.lost(now, Fault::new(Class::HandshakeEndless));
            }
            _ => {}
        }
    }

    fn handle_heartbeat_timeout(&mut self, now: Instant, opened: Instant) {
        match self.heartbeat.handle_timeout(now) {
            Expired::Nothing => {}
            Expired::Suspected => {
                self.enter(State::Suspect { opened });
                self.push(Event::Suspected);
            }
            Expired::Mute => {
                self.enter(State::Up { opened });
                self.push(Event::FoundMute);
            }
            Expired::Dead => {
                self.heartbeat.forget();
                self.lost(now, Fault::new(Class::Silent));
            }
        }
    }

    /// The one way from an attempt or a session to the wait for the next.
    fn lost(&mut self, now: Instant, fault: Fault) {
        let opened = self.state.opened();
        let was_up = self.state.is_up() || self.refresh == Refresh::UnderWay;
        if was_up {
            self.last_heard = Some(self.heartbeat.last_received());
        }
        let retry_at = now + self.backoff.handle_lost(now, opened, self.rng.next_u32());
        self.outbox.handle_lost();
        warn_if_unusual(fault);
        self.enter(State::Waiting { until: retry_at });
        self.push(Event::Lost { fault, opened, was_up, retry_at });
        if let Some(opened) = opened {
            self.count_young(now, fault, opened);
        }
    }

    fn count_young(&mut self, now: Instant, fault: Fault, opened: Instant) {
        let by_node = matches!(
            fault.class(),
            Class::ClosedByPeer | Class::ConnectionReset | Class::BrokenPipe
        );
        if !by_node || now >= opened + self.young {
            self.young_sessions = 0;
            return;
        }
        self.young_sessions = self.young_sessions.saturating_add(1);
        let sessions = self.young_sessions;
        if (0..30).any(|doubled| sessions == CONTENDED << doubled) {
            self.push(Event::Contended { sessions });
        }
    }

    /// When an unfinished frame on a serial line is given up; else never.
    fn torn_deadline(&self) -> Instant {
        let waiting = self.state.is_open() && self.decoder.held() > 0 && !self.flush;
        match self.serial {
            Some(serial) if waiting => self.heartbeat.last_received() + serial.torn_after,
            _ => Instant::NEVER,
        }
    }

    /// The one place where the state changes and both buffers are cleared when the transport does.
    fn enter(&mut self, state: State) {
        info!("link {} -> {}", self.state, state);
        if !state.is_open() {
            if !self.mutation.is(Mutant::DecoderNotCleared) {
                self.decoder.clear();
            }
            if !self.mutation.is(Mutant::TransmitNotCleared) {
                self.clear_tx();
            }
            self.flush = false;
            self.refresh = Refresh::No;
        }
        self.state = state;
        self.told = false;
    }

    fn clear_tx(&mut self) {
        self.tx.clear();
        self.sending = None;
    }

    fn push(&mut self, event: Event) {
        if self.events.is_full() {
            warning!("an event was not drained in time");
            self.events.pop_front();
        }
        // Never full here.
        let _ = self.events.push_back(event);
    }
}

fn warn_if_unusual(fault: Fault) {
    match fault.level() {
        Level::Warn => warning!("unusual fault {}", fault),
        Level::Debug => debug!("fault {}", fault),
    }
}
