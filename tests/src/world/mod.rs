//! The deterministic world: a link and a simulated node, joined by a wire, under a clock that jumps
//! from deadline to deadline.
//!
//! Everything follows from one seed, and every failure prints it. The world plays the loop that
//! `meshbeat_core::link` documents, on connections that delay, split, stall, block and break, and
//! checks after every step what must hold whatever happens (`audit`): nothing spins, nothing hangs,
//! connects and handshakes keep their distance, and the user gets exactly the frames that arrived.

mod audit;
mod driver;
mod mail;
mod senders;
mod wire;

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;

use meshbeat::sim::{Action, ConnId, Fault, How, Listening, SimConfig, SimNode};
use meshbeat_core::backoff::BackoffConfig;
use meshbeat_core::rng::Rng;
use meshbeat_core::{Event, Instant, Link, LinkConfig, Span};

pub use audit::{Totals, Violation};
pub use driver::Flaw;
pub use mail::MailTotals;
pub use senders::Senders;
pub use wire::WireConfig;

use audit::Audit;
use driver::Attempt;
use wire::{End, Pipe};

/// A link, a node, the wire between them, and the time.
///
/// Verbs say what is to happen, `run*` let time pass, getters tell what was seen. All panic on a
/// violation; [`World::try_run`] returns it.
pub struct World {
    seed: u64,
    now: Instant,
    rng: Rng,
    wire: WireConfig,
    /// The link believes itself on a serial line.
    serial: bool,
    link: Link<ROOM>,
    node: SimNode,
    conns: BTreeMap<ConnId, Conn>,
    next_conn: u64,
    /// The connection that the link's side holds open.
    current: Option<ConnId>,
    attempt: Option<Attempt>,
    /// The cable is out until then: nothing moves and nobody is told.
    unplugged_until: Option<Instant>,
    /// There is no route until then: connects fail at once.
    no_route_until: Option<Instant>,
    /// The next connection is cut when so many bytes have landed in this direction.
    cut_next: Option<(Direction, usize)>,
    flaw: Option<Flaw>,
    /// What a driver with a flaw kept of a connection that is gone.
    leftover: Vec<u8>,
    audit: Audit,
    senders: Option<Senders>,
    /// Entries of the node's log that were looked at.
    read_log: u64,
    seen: Vec<Seen>,
    frames: Vec<Frame>,
    noise: Vec<u8>,
    /// The payloads of the frames, if they are to be kept.
    payloads: Option<Vec<Vec<u8>>>,
    steps: u64,
    /// Steps since the time moved on.
    at_once: u32,
}

/// An event of the link, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// What.
    pub event: Event,
}

/// A frame that the user got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// When.
    pub at: Instant,
    /// From which connection.
    pub conn: ConnId,
    /// [`meshbeat::sim::hash`] of its payload.
    pub hash: u64,
}

/// A direction of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the link to the node.
    Up,
    /// From the node to the link.
    Down,
}

/// A connection as the network sees it.
#[derive(Debug)]
struct Conn {
    up: Pipe,
    down: Pipe,
    /// The node has not closed it.
    node_open: bool,
    /// The node was told that the other side is closed, or that it is gone.
    node_told: bool,
}

/// Packets that the link has room for.
pub const ROOM: usize = 32;
/// Steps at one moment that are too many; a handshake in single bytes takes some hundred.
const LIVELOCK: u32 = 2_000;
/// `TCP_USER_TIMEOUT` of the link's side.
const USER_TIMEOUT: Duration = Duration::from_secs(35);
/// Noise kept for [`World::noise`].
const NOISE_KEPT: usize = 1 << 20;

impl World {
    /// A link with default settings and a healthy node, on a good wire; the link was opened.
    pub fn new(seed: u64) -> Self {
        Self::with(seed, LinkConfig::default(), SimConfig::default(), WireConfig::default())
    }

    /// A link, a node and a wire of the given kinds; the link was opened.
    pub fn with(seed: u64, link: LinkConfig, node: SimConfig, wire: WireConfig) -> Self {
        let mut world = Self {
            seed,
            now: Instant::ORIGIN,
            rng: Rng::new(seed ^ 0x776F_726C_6421),
            wire,
            serial: link.serial.is_some(),
            link: Link::new(link.check().expect("settings that make sense"), seed),
            node: SimNode::new(node, seed),
            conns: BTreeMap::new(),
            next_conn: 1,
            current: None,
            attempt: None,
            unplugged_until: None,
            no_route_until: None,
            cut_next: None,
            flaw: None,
            leftover: Vec::new(),
            audit: Audit::new(link),
            senders: None,
            read_log: 0,
            seen: Vec::new(),
            frames: Vec::new(),
            noise: Vec::new(),
            payloads: None,
            steps: 0,
            at_once: 0,
        };
        world.link.open(world.now);
        world
    }

    /// Plays a fault of the catalogue at the node.
    #[track_caller]
    pub fn inject(&mut self, fault: Fault) {
        self.node.inject(self.now, fault);
        let settled = self.settle_node();
        self.expect(settled);
    }

    /// [`World::inject`] by name, as on the command line: `fin`, `blackhole=10`.
    #[track_caller]
    pub fn fault(&mut self, name: &str) {
        self.inject(name.parse().unwrap_or_else(|error| panic!("{error}")));
    }

    /// Ends all faults of node and wire.
    #[track_caller]
    pub fn recover(&mut self) {
        (self.unplugged_until, self.no_route_until, self.cut_next) = (None, None, None);
        self.node.recover(self.now);
        let settled = self.settle_node();
        self.expect(settled);
    }

    /// Pulls the cable for a time: nothing moves and nobody is told.
    pub fn unplug(&mut self, span: Duration) {
        self.unplugged_until = Some(self.now + span);
    }

    /// Takes the route away for a time: connects fail, what stands stands without a byte.
    pub fn unroute(&mut self, span: Duration) {
        self.no_route_until = Some(self.now + span);
        self.unplugged_until = Some(self.now + span);
    }

    /// Cuts the connection that stands: both sides see a reset, what is on its way is lost.
    pub fn cut(&mut self) {
        if let Some(conn) = self.current.and_then(|conn| self.conns.get_mut(&conn)) {
            conn.up.cut(self.now);
            conn.down.cut(self.now);
        }
    }

    /// Cuts the next connection when exactly `bytes` bytes have landed in one direction.
    pub fn cut_next(&mut self, direction: Direction, bytes: usize) {
        self.cut_next = Some((direction, bytes));
    }

    /// Makes the wire another one, from the next write on.
    pub fn rewire(&mut self, wire: WireConfig) {
        self.wire = wire;
    }

    /// Makes the driver a wrong one, which the checks have to find.
    pub fn set_flaw(&mut self, flaw: Flaw) {
        self.flaw = Some(flaw);
    }

    /// Gives the link senders; `None` lets them fall silent.
    pub fn employ(&mut self, senders: Option<Senders>) {
        self.senders = senders;
    }

    /// Says goodbye and closes the link.
    #[track_caller]
    pub fn close(&mut self) {
        let settled = self.try_close();
        self.expect(settled);
    }

    /// [`World::close`], or says what was wrong.
    pub fn try_close(&mut self) -> Result<(), Violation> {
        self.link.close(self.now);
        self.settle_link()
    }

    /// Lets time pass.
    #[track_caller]
    pub fn run(&mut self, span: Duration) {
        let result = self.try_run(span);
        self.expect(result);
    }

    /// Lets time pass until something holds; returns how long it took.
    #[track_caller]
    pub fn run_until(&mut self, limit: Duration, holds: impl Fn(&Self) -> bool) -> Duration {
        let result = self.try_run_until(limit, holds);
        self.expect(result)
    }

    /// Lets time pass until the link is up; returns how long it took.
    #[track_caller]
    pub fn run_until_up(&mut self, limit: Duration) -> Duration {
        self.run_until(limit, |world| world.link.state().is_up())
    }

    /// Lets time pass until the link is up, quiet and known to answer: a session long enough that
    /// the next back-off starts anew.
    #[track_caller]
    pub fn settle(&mut self) {
        self.run_until_up(self.back_within(Duration::from_secs(3600)));
        self.run(Duration::from_secs(660));
        assert!(self.link.state().is_up(), "{self:?} did not stay up");
    }

    /// Lets time pass, or says what was wrong.
    pub fn try_run(&mut self, span: Duration) -> Result<(), Violation> {
        let end = self.now + span;
        while let Some(due) = self.next_deadline().filter(|due| *due <= end) {
            self.step(due)?;
        }
        self.now = end;
        Ok(())
    }

    /// [`World::run_until`], or says what was wrong.
    pub fn try_run_until(
        &mut self,
        limit: Duration,
        holds: impl Fn(&Self) -> bool,
    ) -> Result<Duration, Violation> {
        let (start, end) = (self.now, self.now + limit);
        while !holds(self) {
            let Some(due) = self.next_deadline().filter(|due| *due <= end) else {
                return Err(format!("what was awaited did not happen within {limit:?}"));
            };
            self.step(due)?;
        }
        Ok(self.now.since(start))
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The link.
    pub fn link(&self) -> &Link<ROOM> {
        &self.link
    }

    /// The node, with its log.
    pub fn node(&self) -> &SimNode {
        &self.node
    }

    /// The node, for what the test wants of it; what it then has to say is said with the next step.
    pub fn node_mut(&mut self) -> &mut SimNode {
        &mut self.node
    }

    /// All events of the link so far.
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// Events since a moment, that moment included.
    pub fn seen_since(&self, since: Instant) -> &[Seen] {
        &self.seen[self.seen.partition_point(|seen| seen.at < since)..]
    }

    /// All frames that the user got so far.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Keeps the payloads of all frames from now on.
    pub fn keep_payloads(&mut self) {
        self.payloads = Some(Vec::new());
    }

    /// The payloads that the user got since [`World::keep_payloads`].
    pub fn payloads(&self) -> &[Vec<u8>] {
        self.payloads.as_deref().unwrap_or(&[])
    }

    /// What came between the frames, up to a mebibyte.
    pub fn noise(&self) -> &[u8] {
        &self.noise
    }

    /// Counts of the link's side.
    pub fn totals(&self) -> Totals {
        self.audit.totals
    }

    /// Counts of what became of packets.
    pub fn mail(&self) -> MailTotals {
        self.audit.mail.totals
    }

    /// Says what is wrong with packets that wait, if something is.
    pub fn check_mail(&self) -> Result<(), Violation> {
        self.audit.mail.check_waiting(self.now)
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// How long after an outage of this length the link may take to be up again: the longest wait
    /// that the back-off can have come to, a connect, the gap between handshakes, a handshake.
    pub fn back_within(&self, outage: Duration) -> Duration {
        longest_wait(&BackoffConfig::default(), outage) + Duration::from_secs(20)
    }

    /// Frames that arrived and that the user did not get: the link may wait for the rest of what
    /// only looks like a frame.
    pub fn undelivered(&self) -> usize {
        self.current.map_or(0, |conn| self.audit.undelivered(conn))
    }

    #[track_caller]
    fn expect<T>(&self, result: Result<T, Violation>) -> T {
        match result {
            Ok(value) => value,
            Err(violation) => panic!("{violation}\n{self:?}"),
        }
    }

    /// When something is due.
    fn next_deadline(&self) -> Option<Instant> {
        let down = self.is_path_down();
        let pipes = self.conns.values().flat_map(|conn| [&conn.up, &conn.down]);
        let next_byte = pipes.filter_map(|pipe| pipe.next(self.now)).min().filter(|_| !down);
        let timed_out = self.user_timeout();
        [
            self.link.poll_timeout(),
            self.node.poll_timeout(),
            self.attempt.as_ref().map(Attempt::poll_timeout),
            self.unplugged_until,
            self.no_route_until,
            self.senders.as_ref().map(Senders::poll_timeout),
            next_byte,
            timed_out,
            // The first attempt.
            (self.steps == 0).then_some(self.now),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due at `due`.
    fn step(&mut self, due: Instant) -> Result<(), Violation> {
        self.steps += 1;
        self.at_once = if due > self.now { 0 } else { self.at_once + 1 };
        if self.at_once > LIVELOCK {
            let (link, node) = (self.link.poll_timeout(), self.node.poll_timeout());
            return Err(format!("livelock: the link is due at {link:?}, the node at {node:?}"));
        }
        self.now = self.now.max(due);
        self.unplugged_until.take_if(|until| *until <= self.now);
        self.no_route_until.take_if(|until| *until <= self.now);
        self.node.handle_timeout(self.now);
        self.settle_node()?;
        self.land();
        self.feed_node()?;
        self.submit()?;
        self.drive()?;
        self.feed_node()?;
        let current = self.current.and_then(|conn| self.conns.get(&conn));
        if current.is_some_and(|conn| !conn.down.landed.is_empty()) {
            return Err("bytes that have arrived are left unread".into());
        }
        self.audit.check_rest(self.now, &self.link)
    }

    /// Hands the link what its senders want to send now.
    fn submit(&mut self) -> Result<(), Violation> {
        let Some(senders) = &mut self.senders else { return Ok(()) };
        let others: Vec<u32> = match senders.is_due(self.now) {
            true => self.node.neighbours().take(8).collect(),
            false => return Ok(()),
        };
        for letter in senders.poll(self.now, self.link.node(), &others) {
            let ttl = letter.ttl.map(Span::from);
            let sent = self.link.send(self.now, letter.sender, &letter.payload(), ttl);
            self.audit.mail.handle_accepted(self.now, &letter, sent)?;
        }
        self.settle_link()
    }

    fn is_path_down(&self) -> bool {
        self.unplugged_until.is_some() || self.node.listening() == Listening::Unanswered
    }

    /// When the kernel of the link's side gives the connection up.
    fn user_timeout(&self) -> Option<Instant> {
        let conn = self.conns.get(&self.current?)?;
        let since = conn.up.unacknowledged().filter(|_| self.is_path_down())?;
        Some(since + USER_TIMEOUT)
    }

    /// Lets the bytes land that are due.
    fn land(&mut self) {
        if self.is_path_down() {
            return;
        }
        for conn in self.conns.values_mut() {
            let cut = [&mut conn.up, &mut conn.down].map(|pipe| pipe.land(self.now));
            if cut.contains(&true) && !conn.down.is_finished() {
                conn.up.cut(self.now);
                conn.down.cut(self.now);
            }
        }
    }

    /// Hands what has landed to the node.
    fn feed_node(&mut self) -> Result<(), Violation> {
        let mut fed = false;
        for (&id, conn) in &mut self.conns {
            if !conn.node_open {
                // The answer of a closed socket is a reset.
                let unwanted = !conn.up.landed.is_empty();
                conn.up.discard();
                if unwanted {
                    fed = true;
                    conn.down.finish(self.now, End::Rst, &self.wire, &mut self.rng);
                }
                continue;
            }
            if !conn.up.landed.is_empty() {
                fed = true;
                let taken = self.node.handle_bytes(self.now, id, &conn.up.landed);
                conn.up.read(taken);
            }
            if !conn.node_told
                && conn.up.landed.is_empty()
                && let Some(end) = conn.up.ended(self.now)
                && self.unplugged_until.is_none()
            {
                match end {
                    End::Fin => self.node.handle_fin(self.now, id),
                    End::Rst => self.node.handle_gone(self.now, id),
                }
                conn.node_told = true;
                fed = true;
            }
        }
        if fed { self.settle_node() } else { Ok(()) }
    }

    /// Does what the node wants of the network.
    fn settle_node(&mut self) -> Result<(), Violation> {
        loop {
            while let Some(action) = self.node.poll_action() {
                self.act(action);
            }
            let Some(id) = self.node.client() else { break };
            let Some(conn) = self.conns.get_mut(&id) else { break };
            let bytes = self.node.poll_transmit(self.now, id);
            let count = bytes.len().min(conn.down.room());
            let offered = bytes.len();
            if offered == 0 {
                break;
            }
            if self.current == Some(id) || self.is_opening(id) {
                let bytes = bytes[..count].to_vec();
                let conn = self.conns.get_mut(&id).expect("it was there");
                conn.down.push(self.now, &bytes, &self.wire, &mut self.rng);
            } else {
                // Nobody reads it any more.
                let conn = self.conns.get_mut(&id).expect("it was there");
                if !conn.up.is_reset() {
                    conn.up.finish(self.now, End::Rst, &self.wire, &mut self.rng);
                    conn.node_told = false;
                }
            }
            self.node.consume(self.now, id, count);
            if count < offered {
                while let Some(action) = self.node.poll_action() {
                    self.act(action);
                }
                break;
            }
        }
        let log = self.node.log();
        log.entries_from(self.read_log).try_for_each(|entry| self.audit.handle_entry(entry))?;
        self.read_log = log.end();
        let current = self.current;
        let attempt = self.attempt.as_ref().and_then(Attempt::conn);
        self.conns.retain(|id, conn| {
            let gone = conn.node_told && conn.up.is_reset();
            conn.node_open && !gone || Some(*id) == current || Some(*id) == attempt
        });
        Ok(())
    }

    fn act(&mut self, action: Action) {
        let Action::Close { conn: id, how } = action else { return };
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.node_open = false;
        let end = match how {
            How::Fin => End::Fin,
            How::Rst => End::Rst,
        };
        conn.down.finish(self.now, end, &self.wire, &mut self.rng);
    }

    fn is_opening(&self, id: ConnId) -> bool {
        self.attempt.as_ref().and_then(Attempt::conn) == Some(id)
    }
}

/// What every failure prints.
impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, now, link, steps, .. } = self;
        writeln!(f, "world of seed {seed} at {} ms, step {steps}", now.as_millis())?;
        writeln!(f, "link {:?}, {:?}", link.state(), link.answers())?;
        writeln!(f, "{:?}", self.totals())?;
        writeln!(f, "{:?}", self.mail())?;
        for seen in self.seen.iter().rev().take(12).rev() {
            writeln!(f, "{:>12} {:?}", seen.at.as_millis(), seen.event)?;
        }
        writeln!(f, "the node:")?;
        let end = self.node.log().end();
        for entry in self.node.log().entries_from(end.saturating_sub(12)) {
            writeln!(f, "{:>12} {}", entry.at.as_millis(), entry.what)?;
        }
        Ok(())
    }
}

/// A test that fails outside of the world's own checks is told the seed as well.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{self:?}");
        }
    }
}

/// The longest wait that the back-off can have come to in an outage of this length.
pub fn longest_wait(config: &BackoffConfig, outage: Duration) -> Duration {
    let (mut step, cap) = (config.first.as_duration(), config.cap.as_duration());
    let (mut wait, mut waited) = (Duration::ZERO, Duration::ZERO);
    while waited <= outage && step < cap {
        wait = step.mul_f64(1.2).min(cap);
        waited += step.mul_f64(0.8);
        step *= 2;
    }
    if waited <= outage { cap } else { wait }
}

/// The most attempts that the back-off allows within a span, the one at its beginning included.
pub fn most_attempts(config: &BackoffConfig, span: Duration) -> u64 {
    let (mut step, cap) = (config.first.as_duration(), config.cap.as_duration());
    let (mut attempts, mut waited) = (0, Duration::ZERO);
    while waited <= span {
        attempts += 1;
        waited += step.min(cap).mul_f64(0.8);
        step = (step * 2).min(cap);
    }
    attempts
}
