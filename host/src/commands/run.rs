//! `meshbeat run`: holds the link.

use std::io::{self, Write as _};

use meshbeat::event_loop::{EventLoop, Program, Report};
use meshbeat::node::NodeAddr;
use meshbeat::upstream::HostLink;
use meshbeat_core::link::{Event, Item};
use meshbeat_core::{Instant, LinkConfig};
use serde_json::json;

use crate::args::TcpArgs;
use crate::commands::link_log::LinkLog;
use crate::commands::{host_and_port, seed};
use crate::exit::Failure;

/// Holds the link to a node until SIGTERM or SIGINT. SIGUSR1 prints one JSON line of counters.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The node: HOST, HOST:PORT, [IPV6]:PORT (default port 4403), or `sim` for a built-in one
    #[arg(long, value_name = "NODE", env = "MESHBEAT_NODE")]
    node: NodeAddr,
    #[command(flatten)]
    tcp: TcpArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let node = host_and_port(&args.node)?;
    let mut event_loop = EventLoop::new(node, LinkConfig::default(), args.tcp.options(), seed())?;
    let mut hold = Hold { log: LinkLog::lasting(args.node.to_string()) };
    event_loop.run(&mut hold)?;
    Ok(())
}

struct Hold {
    log: LinkLog,
}

impl Program for Hold {
    fn handle_event(&mut self, now: Instant, event: Event, _link: &HostLink) {
        self.log.handle_event(now, event);
    }

    fn handle_item(&mut self, _now: Instant, item: Item<'_>) {
        self.log.handle_item(&item);
    }

    fn handle_report(&mut self, link: &HostLink, reason: Report) {
        if reason == Report::Asked || log::log_enabled!(log::Level::Debug) {
            // Nobody may be reading; the link goes on.
            let _ = writeln!(io::stdout(), "{}", counters(link));
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.log.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.log.poll_timeout()
    }
}

/// The state and the counters of a link, as one JSON object.
fn counters(link: &HostLink) -> serde_json::Value {
    let stats = link.stats();
    json!({
        "state": link.state().name(),
        "node": link.node().map(|node| format!("!{node:08x}")),
        "attempts": stats.attempts,
        "sessions": stats.sessions,
        "frames_in": stats.frames_in,
        "frames_out": stats.frames_out,
        "bytes_in": stats.bytes_in,
        "bytes_out": stats.bytes_out,
        "rejected_frames": stats.rejected,
        "noise_bytes": stats.noise,
        "heartbeats": stats.heartbeats,
        "heartbeats_answered": stats.answered,
        "round_trip_ms": link.round_trip().map(|span| span.as_millis() as u64),
    })
}
