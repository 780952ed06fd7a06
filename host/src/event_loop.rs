//! The only place that sleeps: one `mio::Poll` for the socket, the signals and the resolver.
//!
//! mio is edge-triggered: after an event the socket is read until it would block, within a budget,
//! and a write is tried at once after anything that may have queued one. There is no wake-up but
//! for input and due timers.

use core::fmt;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use log::{debug, info};
use meshbeat_core::link::{Event, Item, State};
use meshbeat_core::{ConfigError, Instant, LinkConfig};
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook_mio::v1_0::Signals;

use crate::clock::Clock;
use crate::socket::TcpOptions;
use crate::upstream::{HostLink, Upstream};

const NODE: Token = Token(0);
const SIGNALS: Token = Token(1);
const WAKER: Token = Token(2);

/// What runs on the loop: told of all that happens, it says when it is done.
pub trait Program {
    /// Something happened to the link.
    fn handle_event(&mut self, now: Instant, event: Event, link: &HostLink) {
        let _ = (now, event, link);
    }

    /// A frame, or bytes that belong to none, arrived.
    fn handle_item(&mut self, now: Instant, item: Item<'_>) {
        let _ = (now, item);
    }

    /// SIGUSR1 arrived, or the loop is about to end.
    fn handle_report(&mut self, link: &HostLink, reason: Report) {
        let _ = (link, reason);
    }

    /// Time has passed; called at least at [`Program::poll_timeout`].
    fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When to call [`Program::handle_timeout`] next; `None` is never.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// All that happened was told; the place to send packets with [`HostLink::send`].
    fn handle_turn(&mut self, now: Instant, link: &mut HostLink) {
        let _ = (now, link);
    }

    /// Whether the link is to be closed.
    fn is_done(&self) -> bool {
        false
    }
}

/// Why a program is asked to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// A person asked, by SIGUSR1.
    Asked,
    /// The loop ends.
    Ending,
}

/// Why there is no loop.
#[derive(Debug)]
pub enum StartError {
    /// A setting makes no sense.
    Config(ConfigError),
    /// The system gave no poll, waker or signal handler.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::System(error) => write!(f, "cannot start the event loop: {error}"),
        }
    }
}

impl core::error::Error for StartError {}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Holds the link to one node for one program.
pub struct EventLoop {
    poll: Poll,
    events: Events,
    clock: Clock,
    signals: Signals,
    upstream: Upstream,
    /// How often the loop woke up.
    turns: u64,
    /// SIGTERM or SIGINT arrived; a second one ends without goodbye.
    stopping: bool,
    stopped: bool,
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

impl EventLoop {
    /// A loop for the node at `node` (host and port). From now on SIGTERM, SIGINT and SIGUSR1 are
    /// its own.
    pub fn new(
        node: (String, u16),
        config: LinkConfig,
        options: TcpOptions,
        seed: u64,
    ) -> Result<Self, StartError> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        let socket = (poll.registry().try_clone()?, NODE);
        let upstream = Upstream::new(node, config, options, seed, socket, waker)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(64),
            clock: Clock::default(),
            signals,
            upstream,
            turns: 0,
            stopping: false,
            stopped: false,
        })
    }

    /// Opens the link and serves it until `program` is done or a signal says so, then closes it:
    /// `disconnect`, half-close, end.
    pub fn run(&mut self, program: &mut dyn Program) -> io::Result<()> {
        self.upstream.open(self.clock.now());
        self.settle(program);
        while !self.stopped && self.upstream.link().state() != State::Closed {
            // 1. Wait for input or the deadline.
            let timeout = self.timeout(program);
            match self.poll.poll(&mut self.events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => self.turns += 1,
            }
            // 2. Tell the link what the world did.
            let now = self.clock.now();
            let mut signalled = false;
            for event in &self.events {
                match event.token() {
                    SIGNALS => signalled = true,
                    WAKER => self.upstream.handle_woken(now),
                    _ => self.upstream.handle_ready(now),
                }
            }
            if signalled {
                self.handle_signals(program);
            }
            self.upstream.read(now, &mut |item| program.handle_item(now, item));
            self.upstream.handle_timeout(now);
            program.handle_timeout(now);
            self.settle(program);
        }
        program.handle_report(self.upstream.link(), Report::Ending);
        Ok(())
    }

    /// The time since the loop was made.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// How often the loop has woken up: for input, for a due timer, for nothing else.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Steps 3 and 4: drain events and writes until there is neither.
    fn settle(&mut self, program: &mut dyn Program) {
        let now = self.clock.now();
        loop {
            while let Some(event) = self.upstream.poll_event(now) {
                program.handle_event(now, event, self.upstream.link());
            }
            program.handle_turn(now, self.upstream.link_mut());
            if program.is_done() {
                self.upstream.close(now);
            }
            self.upstream.write(now);
            match self.upstream.poll_event(now) {
                Some(event) => program.handle_event(now, event, self.upstream.link()),
                None => return,
            }
        }
    }

    /// Step 5: how long nothing is due.
    fn timeout(&self, program: &dyn Program) -> Option<Duration> {
        if self.upstream.is_readable() {
            return Some(Duration::ZERO);
        }
        let deadlines = [self.upstream.poll_timeout(), program.poll_timeout()];
        let next = deadlines.into_iter().flatten().min()?;
        Some(next.since(self.clock.now()))
    }

    fn handle_signals(&mut self, program: &mut dyn Program) {
        let now = self.clock.now();
        for signal in self.signals.pending() {
            match signal {
                SIGUSR1 => program.handle_report(self.upstream.link(), Report::Asked),
                _ if self.stopping => self.stopped = true,
                _ => {
                    let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
                    match self.upstream.link().state().is_open() {
                        true => info!(target: "run", "{name}: saying goodbye to the node"),
                        false => debug!(target: "run", "{name}"),
                    }
                    self.stopping = true;
                    self.upstream.close(now);
                }
            }
        }
    }
}
