//! What one-shot commands share: the way to the node, the time they give it, and the wait for one
//! handshake.

use core::time::Duration;
use std::path::PathBuf;

use log::debug;
use meshbeat::daemon;
use meshbeat::event_loop::{EventLoop, Program};
use meshbeat::node::{DEFAULT_PORT, NodeAddr};
use meshbeat::report::span;
use meshbeat::upstream::HostLink;
use meshbeat_core::fault::{Class, Fault, Verdict};
use meshbeat_core::link::{Event, Item};
use meshbeat_core::{Instant, LinkConfig, Span};
use meshbeat_proto::FromRadio;
use prost::Message as _;

use crate::args::{NodeArgs, TcpArgs};
use crate::commands::link_log::LinkLog;
use crate::commands::snapshot::Snapshot;
use crate::commands::{host_and_port, seed};
use crate::exit::{Exit, Failure};

/// The way to the node. A node has one slot, so a running daemon is used if there is one.
#[derive(Debug, Clone)]
pub(super) struct Way {
    address: NodeAddr,
    /// What it leads to, for people.
    name: String,
    /// The socket of the daemon it goes through.
    daemon: Option<PathBuf>,
}

impl Way {
    /// The one that was asked for. Without a node, the daemon that answers; with one, the daemon
    /// that holds it; the node itself where there is none, or `--direct`.
    pub(super) fn find(args: &NodeArgs) -> Self {
        // A built-in node is another one in each process.
        let may_ask = !args.direct && args.node != Some(NodeAddr::Sim);
        let found = if may_ask { daemon::find() } else { None };
        let found = found.and_then(|(path, status)| {
            let held = status["node"].as_str()?.to_owned();
            let wanted = args.node.as_ref().is_none_or(|node| is_same(node, &held));
            wanted.then_some((path, held))
        });
        if let Some((path, held)) = found {
            debug!(target: "link", "{held} is held by a daemon: through {}", path.display());
            let name = format!("{held} through the daemon");
            return Self { address: NodeAddr::Unix(path.clone()), name, daemon: Some(path) };
        }
        let local = || NodeAddr::Tcp { host: "127.0.0.1".into(), port: DEFAULT_PORT };
        let address = args.node.clone().unwrap_or_else(local);
        Self { name: address.to_string(), address, daemon: None }
    }

    /// What it leads to, for people.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The socket of the daemon it goes through.
    pub(super) fn daemon(&self) -> Option<&PathBuf> {
        self.daemon.as_ref()
    }

    /// A loop for the link.
    pub(super) fn event_loop(
        &self,
        tcp: &TcpArgs,
        config: LinkConfig,
    ) -> Result<EventLoop, Failure> {
        Ok(EventLoop::new(host_and_port(&self.address)?, config, tcp.options(), seed())?)
    }

    /// The loop of a one-shot command: at its end nothing more is sent.
    pub(super) fn one_shot_loop(&self, tcp: &TcpArgs) -> Result<EventLoop, Failure> {
        let config = LinkConfig { drain_limit: Span::ZERO, ..LinkConfig::default() };
        self.event_loop(tcp, config)
    }
}

/// Whether a daemon's node is this one, however both are written. Names are not resolved.
fn is_same(node: &NodeAddr, held: &str) -> bool {
    let plain = |node: &NodeAddr| match node {
        NodeAddr::Tcp { host, port } => {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            NodeAddr::Tcp { host, port: *port }
        }
        other => other.clone(),
    };
    held.parse().is_ok_and(|held| plain(&held) == plain(node))
}

/// Waits for one whole handshake, and then, from 2.8 on, for the positions and telemetry that
/// follow it: until none came for `linger`, at most ten times as long.
pub(super) fn ask(
    node: &NodeArgs,
    tcp: &TcpArgs,
    limit: Duration,
    linger: Duration,
) -> Result<Snapshot, Failure> {
    let way = Way::find(node);
    let mut event_loop = way.one_shot_loop(tcp)?;
    let mut ask = Ask {
        log: LinkLog::one_shot(way.name().into()),
        reach: Reach::new(way.name(), limit, event_loop.clock().now()),
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
    node: String,
    limit: Duration,
    deadline: Instant,
    last_fault: Option<Fault>,
}

impl Reach {
    pub(super) fn new(node: &str, limit: Duration, now: Instant) -> Self {
        Self { node: node.into(), limit, deadline: now + limit, last_fault: None }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_the_same_however_it_is_written() {
        let same = |node: &str, held: &str| is_same(&node.parse().expect(node), held);
        assert!(same("Node.Local", "node.local:4403"));
        assert!(same("node.local.:4403", "node.local:4403"));
        assert!(same("::1", "[::1]:4403"));
        assert!(same("unix:/run/X", "unix:/run/X"));
        assert!(!same("node.local:4404", "node.local:4403"));
        assert!(!same("unix:/run/x", "unix:/run/X"));
        assert!(!same("10.0.0.5", "not a node"));
    }
}
