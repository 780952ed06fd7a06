//! `meshbeat demo`: the main job without hardware.
//!
//! A simulated node on a free loopback port, the real link over real sockets, and one fault after
//! the other. The node keeps a record of every frame it hands to the network; what the link
//! receives is held against it.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::thread;

use meshbeat::event_loop::{EventLoop, Program};
use meshbeat::report::span;
use meshbeat::sim::{self, ConnId, Fault, Handle, Record, Server, SimConfig};
use meshbeat::socket::TcpOptions;
use meshbeat::upstream::HostLink;
use meshbeat_core::link::{Event, Item};
use meshbeat_core::{Instant, LinkConfig, Span};

use crate::commands::seed;
use crate::exit::{Exit, Failure};

/// Plays faults against the real link for about 20 seconds: each fault, its class and the time to
/// recovery, then a table. Fails unless the link was up again after every fault, no frame was torn,
/// and every frame that had left the node arrived.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where all that is random comes from [default: the clock]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let seed = args.seed.unwrap_or_else(seed);
    let mut server = Server::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), node(), seed)?;
    let (address, handle) = (server.local_addr(), server.handle());
    let served = thread::Builder::new().name("sim".into()).spawn(move || server.run())?;

    say(&format!("simulated node on {address}, seed {seed}"));
    let mut event_loop = EventLoop::new(
        (address.ip().to_string(), address.port()),
        link(),
        TcpOptions::default(),
        seed,
    )?;
    let mut demo = Demo::new(handle.clone());
    event_loop.run(&mut demo)?;
    let verdict = demo.verdict()?;
    handle.stop();
    match served.join() {
        Ok(result) => result?,
        Err(_) => return Err(Failure::new(Exit::Failed, "the simulated node panicked")),
    }
    verdict
}

/// The faults in their order, with spans that fit into 20 seconds.
fn faults() -> Vec<(Fault, &'static str)> {
    const S: fn(u64) -> Duration = Duration::from_secs;
    vec![
        (Fault::Fin, "the node closes politely"),
        (Fault::Rst, "the node resets the connection"),
        (Fault::Refuse { span: S(2) }, "the node reboots and refuses for 2 s"),
        (Fault::Stall { frames: 20 }, "the node goes silent in mid-handshake"),
        (Fault::Blackhole { span: S(3) }, "the node neither reads nor writes, the socket is open"),
        (Fault::Cut { handshake: false, frames: 1 }, "the connection breaks in mid-frame"),
    ]
}

/// A node with 100 others and a lively mesh.
fn node() -> SimConfig {
    let mut config = SimConfig::default();
    config.traffic.per_minute = 1200;
    config.timing.accept_poll = Duration::from_millis(20);
    config.timing.idle_poll = Duration::from_millis(50);
    config.timing.input_delay = Duration::from_millis(50);
    config
}

/// The link's numbers, shortened so that a black hole is found in 2 s instead of 39.
fn link() -> LinkConfig {
    const MS: fn(u32) -> Span = Span::from_millis;
    let mut config = LinkConfig::default();
    config.heartbeat.quiet = MS(500);
    config.heartbeat.answer = MS(750);
    config.heartbeat.probe = MS(1000);
    config.handshake.silence = MS(1500);
    config.handshake.gap = MS(200);
    config.backoff.first = MS(200);
    config.backoff.cap = MS(1000);
    config.backoff.steady = MS(500);
    config.backoff.settled = MS(5000);
    config
}

/// How long the link is left alone between two faults, so that frames flow and the node is proven
/// to answer heartbeats.
const PAUSE: Duration = Duration::from_millis(1500);
/// How long a recovery may take before the demo has failed.
const PATIENCE: Duration = Duration::from_secs(30);

struct Demo {
    handle: Handle,
    faults: std::vec::IntoIter<(Fault, &'static str)>,
    rows: Vec<Row>,
    step: Step,
    /// How often each payload arrived, by hash.
    arrived: HashMap<u64, u64>,
    frames: u64,
    progress: bool,
}

struct Row {
    fault: &'static str,
    what: &'static str,
    class: Option<String>,
    attempts: u32,
    recovery: Option<Duration>,
}

/// Prints a line; that nobody reads it any more is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The link comes up for the first time; a failure after this moment.
    Starting(Option<Instant>),
    /// The link is up; the next fault is due.
    Quiet(Instant),
    /// A fault was played at this moment.
    Faulty(Instant),
    /// All is over.
    Done,
}

impl Demo {
    fn new(handle: Handle) -> Self {
        Self {
            handle,
            faults: faults().into_iter(),
            rows: Vec::new(),
            step: Step::Starting(None),
            arrived: HashMap::new(),
            frames: 0,
            progress: io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    fn next_fault(&mut self, now: Instant) {
        self.step = match self.faults.next() {
            None => Step::Done,
            Some((fault, what)) => {
                self.progress(&format!("{}: {what} …", fault.name()));
                let name = fault.name();
                self.rows.push(Row { fault: name, what, class: None, attempts: 0, recovery: None });
                match self.handle.inject(fault) {
                    Ok(()) => Step::Faulty(now),
                    Err(_) => Step::Done,
                }
            }
        };
    }

    fn recovered(&mut self, now: Instant, since: Instant) {
        let Some(row) = self.rows.last_mut() else { return };
        row.recovery = Some(now.since(since));
        let class = row.class.as_deref().unwrap_or("no fault seen");
        let attempts = if row.attempts == 1 { "attempt" } else { "attempts" };
        let line = format!(
            "{:<10} {}: {class}; up again after {}, {} {attempts}",
            row.fault,
            row.what,
            span(now.since(since)),
            row.attempts
        );
        self.progress("");
        say(&line);
        self.step = Step::Quiet(now + PAUSE);
    }

    /// A line that the next one replaces, on a terminal only.
    fn progress(&self, text: &str) {
        if self.progress {
            // Nobody may be reading.
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }

    /// Holds what arrived against the node's record and prints the table.
    fn verdict(&self) -> io::Result<Result<(), Failure>> {
        let log = self.handle.log()?;
        let mut sent_by: HashMap<ConnId, u64> = HashMap::new();
        for entry in log.entries() {
            if let Record::Closed { conn, sent, .. } | Record::Gone { conn, sent } = entry.what {
                sent_by.insert(conn, sent);
            }
        }
        let mut left: HashMap<u64, u64> = HashMap::new();
        for entry in log.entries() {
            if let Record::Frame { conn, end, hash, .. } = entry.what
                && sent_by.get(&conn).is_none_or(|sent| *sent >= end)
            {
                *left.entry(hash).or_default() += 1;
            }
        }
        let arrived = |hash: &u64| self.arrived.get(hash).copied().unwrap_or(0);
        let lost: u64 = left.iter().map(|(hash, n)| n.saturating_sub(arrived(hash))).sum();
        let known = |hash: &u64| left.get(hash).copied().unwrap_or(0);
        let torn: u64 = self.arrived.iter().map(|(hash, n)| n.saturating_sub(known(hash))).sum();

        say("");
        say(&format!("{:<10} {:<24} {:>8} {:>10}", "fault", "class", "attempts", "recovery"));
        for row in &self.rows {
            let recovery = row.recovery.map_or_else(|| "none".into(), span);
            let class = row.class.as_deref().unwrap_or("-");
            say(&format!("{:<10} {class:<24} {:>8} {recovery:>10}", row.fault, row.attempts));
        }
        let sent: u64 = left.values().sum();
        say(&format!(
            "frames: {sent} left the node, {} arrived, {lost} lost, {torn} torn",
            self.frames
        ));

        let planned = faults().len();
        let recovered = self.rows.iter().filter(|row| row.recovery.is_some()).count();
        let failed = |line: String| Ok(Err(Failure::new(Exit::Failed, line)));
        if recovered < planned {
            return failed(format!("the link was up again after {recovered} of {planned} faults"));
        }
        if lost + torn > 0 {
            return failed(format!("{lost} frames lost, {torn} torn"));
        }
        say("the link was up again after every fault");
        Ok(Ok(()))
    }
}

impl Program for Demo {
    fn handle_event(&mut self, now: Instant, event: Event, link: &HostLink) {
        match (event, self.step) {
            (Event::OpenDue, Step::Starting(None)) => {
                self.step = Step::Starting(Some(now + PATIENCE));
            }
            (Event::Configured { asked, .. }, Step::Starting(_)) => {
                let node = link.node().unwrap_or(0);
                say(&format!("up: node !{node:08x}, handshake in {}", span(now.since(asked))));
                self.step = Step::Quiet(now + PAUSE);
            }
            (Event::OpenDue, Step::Faulty(_)) => {
                if let Some(row) = self.rows.last_mut() {
                    row.attempts += 1;
                }
            }
            // The class of a fault is that of the session it ended; `stall` needs one session more.
            (Event::Lost { fault, opened: Some(_), .. }, Step::Faulty(_)) => {
                if let Some(row) = self.rows.last_mut() {
                    row.class = Some(fault.class().to_string());
                }
            }
            (Event::Configured { .. }, Step::Faulty(since)) => self.recovered(now, since),
            _ => {}
        }
    }

    fn handle_item(&mut self, _now: Instant, item: Item<'_>) {
        if let Item::Frame { payload, .. } = item {
            self.frames += 1;
            *self.arrived.entry(sim::hash(payload)).or_default() += 1;
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match self.step {
            Step::Quiet(until) if now >= until => self.next_fault(now),
            Step::Faulty(since) if now >= since + PATIENCE => self.step = Step::Done,
            Step::Starting(Some(until)) if now >= until => self.step = Step::Done,
            _ => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self.step {
            Step::Starting(until) => until,
            Step::Quiet(until) => Some(until),
            Step::Faulty(since) => Some(since + PATIENCE),
            Step::Done => None,
        }
    }

    fn is_done(&self) -> bool {
        self.step == Step::Done
    }
}
