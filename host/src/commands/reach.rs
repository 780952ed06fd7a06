//! What one-shot commands share: the time they give the node, and the wait for one handshake.

use core::time::Duration;

use meshbeat::event_loop::{EventLoop, Program};
use meshbeat::node::NodeAddr;
use meshbeat::report::span;
use meshbeat::upstream::HostLink;
use meshbeat_core::fault::{Class, Fault, Verdict};
use meshbeat_core::link::{Event, Item};
use meshbeat_core::{Instant, LinkConfig};
use meshbeat_proto::FromRadio;
use prost::Message as _;

use crate::args::TcpArgs;
use crate::commands::link_log::LinkLog;
use crate::commands::snapshot::Snapshot;
use crate::commands::{host_and_port, seed};
use crate::exit::{Exit, Failure};

/// The loop of a one-shot command: at its end nothing more is sent.
pub(super) fn one_shot_loop(node: &NodeAddr, tcp: &TcpArgs) -> Result<EventLoop, Failure> {
    let config = LinkConfig { drain_limit: Duration::ZERO, ..LinkConfig::default() };
    Ok(EventLoop::new(host_and_port(node)?, config, tcp.options(), seed())?)
}

/// Waits for one whole handshake, and then, from 2.8 on, for the positions and telemetry that
/// follow it: until none came for `linger`, at most ten times as long.
pub(super) fn ask(
    node: &NodeAddr,
    tcp: &TcpArgs,
    limit: Duration,
    linger: Duration,
) -> Result<Snapshot, Failure> {
    let mut event_loop = one_shot_loop(node, tcp)?;
    let mut ask = Ask {
        log: LinkLog::one_shot(node.to_string()),
        reach: Reach::new(node, limit, event_loop.clock().now()),
        linger,
        told: None,
        done: false,
        snapshot: Snapshot::default(),
    };
    event_loop.run(&mut ask)?;
    match ask.told {
        _ if !ask.done => Err(Failure::new(Exit::Failed, "interrupted")),
        Some(_) => Ok(ask.snapshot),
        None => Err(ask.reach.failure()),
    }
}

/// The time that a node is given, and why it was not reached in it.
#[derive(Debug)]
pub(super) struct Reach {
    node: NodeAddr,
    limit: Duration,
    deadline: Instant,
    last_fault: Option<Fault>,
}

impl Reach {
    pub(super) fn new(node: &NodeAddr, limit: Duration, now: Instant) -> Self {
        Self { node: node.clone(), limit, deadline: now + limit, last_fault: None }
    }

    /// An attempt has failed.
    pub(super) fn handle_lost(&mut self, fault: Fault) {
        self.last_fault = Some(fault);
    }

    /// Whether the time is over.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.deadline
    }

    /// Whether trying on makes no sense.
    pub(super) fn is_hopeless(&self) -> bool {
        self.last_fault.is_some_and(|fault| {
            fault.class() == Class::NameNotResolved || fault.verdict() == Verdict::GiveUp
        })
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Says that the node was not reached, and why.
    pub(super) fn failure(&self) -> Failure {
        let node = &self.node;
        match self.last_fault {
            Some(fault) if fault.class() == Class::NameNotResolved => Failure::new(
                Exit::Unreachable,
                format!("{node}: the name has no address; write a known host or an IP address"),
            ),
            Some(fault) if fault.verdict() == Verdict::GiveUp => {
                Failure::new(Exit::Failed, format!("{node}: {fault}"))
            }
            fault => {
                let why = fault.map_or_else(|| "no answer".into(), |fault| fault.to_string());
                let line = format!("{node} not reachable within {}: {why}", span(self.limit));
                Failure::new(Exit::Unreachable, line)
            }
        }
    }
}

struct Ask {
    log: LinkLog,
    reach: Reach,
    linger: Duration,
    /// When the handshake was completed, and when the last frame came.
    told: Option<(Instant, Instant)>,
    done: bool,
    snapshot: Snapshot,
}

impl Ask {
    /// When it is over, whatever comes.
    fn deadline(&self) -> Instant {
        match self.told {
            Some((since, last)) => (last + self.linger).min(since + self.linger * 10),
            None => self.reach.deadline(),
        }
    }
}

impl Program for Ask {
    fn handle_event(&mut self, now: Instant, event: Event, _link: &HostLink) {
        self.log.handle_event(now, event);
        match event {
            // A handshake that broke off starts over.
            Event::Opened if self.told.is_none() => self.snapshot = Snapshot::default(),
            Event::Configured { .. } => self.told = self.told.or(Some((now, now))),
            Event::Lost { .. } if self.told.is_some() => self.done = true,
            Event::Lost { fault, .. } => {
                self.reach.handle_lost(fault);
                self.done |= self.reach.is_hopeless();
            }
            _ => {}
        }
    }

    fn handle_item(&mut self, now: Instant, item: Item<'_>) {
        self.log.handle_item(&item);
        let Item::Frame { payload, .. } = item else { return };
        if let Some((_, last)) = &mut self.told {
            *last = now;
        }
        if let Ok(message) = FromRadio::decode(payload)
            && let Some(variant) = message.payload_variant
        {
            self.snapshot.take(variant);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.log.handle_timeout(now);
    }

    fn handle_turn(&mut self, now: Instant, _link: &mut HostLink) {
        self.done |= now >= self.deadline();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        (!self.done).then(|| self.deadline())
    }

    fn is_done(&self) -> bool {
        self.done
    }
}
