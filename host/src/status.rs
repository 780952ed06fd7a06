//! What the operator asks for: how the link is, how it was, and who is served.
//!
//! Counted here, as events and frames pass; the answer is one JSON object, and what a person reads
//! is made from that object alone. Memory is bounded: 64 round trips, 60 seconds of packets, 10
//! losses.

use core::fmt::Write as _;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use meshbeat_core::Instant;
use meshbeat_core::fault::Fault;
use meshbeat_core::heartbeat::Answers;
use meshbeat_core::link::{Event, State};
use serde_json::{Map, Value, json};

use crate::dest::node_id;
use crate::relay::Relay;
use crate::report::span;
use crate::upstream::HostLink;

/// Counts what a [`HostLink`] does, for as long as the program runs.
#[derive(Debug)]
pub struct StatusTracker {
    since: Instant,
    /// Since when the link is up, or is not.
    changed: Instant,
    up: bool,
    /// Why it is not up; the last fault.
    fault: Option<Fault>,
    /// When the next attempt is due.
    retry_at: Option<Instant>,
    round_trips: VecDeque<Duration>,
    /// Heartbeats answered when the last round trip was noted.
    answered: u32,
    packets: Packets,
    losses: VecDeque<Loss>,
    /// Losses of a link that was up, by class of fault.
    reasons: BTreeMap<&'static str, u64>,
    /// Attempts that did not lead to a link that is up, in the same way.
    failures: BTreeMap<&'static str, u64>,
    gaps: u64,
    gap_time: Duration,
}

/// A link that was up was lost.
#[derive(Debug, Clone, Copy)]
struct Loss {
    at: Instant,
    fault: Fault,
    session: Option<Duration>,
}

/// Round trips of which the median is told.
const ROUND_TRIPS: usize = 64;
/// Losses remembered one by one.
const LOSSES: usize = 10;

impl StatusTracker {
    /// Counts from now on.
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            changed: now,
            up: false,
            fault: None,
            retry_at: None,
            round_trips: VecDeque::new(),
            answered: 0,
            packets: Packets::default(),
            losses: VecDeque::new(),
            reasons: BTreeMap::new(),
            failures: BTreeMap::new(),
            gaps: 0,
            gap_time: Duration::ZERO,
        }
    }

    /// Something happened to the link.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::OpenDue => self.retry_at = None,
            Event::Configured { last_heard, .. } => {
                (self.up, self.changed, self.fault) = (true, now, None);
                if let Some(last) = last_heard {
                    self.gaps += 1;
                    self.gap_time = self.gap_time.saturating_add(now.since(last));
                }
            }
            Event::Lost { fault, opened, was_up, retry_at } => {
                self.fault = Some(fault);
                self.retry_at = Some(retry_at);
                let reasons = if was_up { &mut self.reasons } else { &mut self.failures };
                *reasons.entry(fault.class().text()).or_default() += 1;
                if was_up {
                    (self.up, self.changed) = (false, now);
                    if self.losses.len() == LOSSES {
                        self.losses.pop_front();
                    }
                    let session = opened.map(|opened| now.since(opened));
                    self.losses.push_back(Loss { at: now, fault, session });
                }
            }
            Event::Closed if self.up => (self.up, self.changed) = (false, now),
            _ => {}
        }
    }

    /// A packet of the mesh arrived that was news.
    pub fn handle_packet(&mut self, now: Instant) {
        self.packets.count(now);
    }

    /// Notes the round trip of a heartbeat that was answered; to be called in every turn.
    pub fn handle_turn(&mut self, link: &HostLink) {
        let answered = link.stats().answered;
        if answered != self.answered
            && let Some(round_trip) = link.round_trip()
        {
            self.answered = answered;
            self.note_round_trip(round_trip);
        }
    }

    /// The state in one line, for `systemctl status`.
    pub fn line(&self, node: Option<u32>) -> String {
        match (self.up, node, self.fault) {
            (true, Some(node), _) => format!("up: node !{node:08x}"),
            (true, None, _) => "up".into(),
            (false, _, Some(fault)) => format!("down: {fault}"),
            (false, _, None) => "connecting".into(),
        }
    }

    /// All that is known. Spans are seconds, or milliseconds where the name says so; what is not
    /// known is null.
    pub fn json(&self, now: Instant, link: &HostLink, relay: &Relay) -> Value {
        let mut status = self.link_json(now, link);
        let counters = relay.counters();
        let clients: Vec<_> = relay
            .clients()
            .map(|client| {
                json!({
                    "address": client.peer.label,
                    "policy": client.peer.policy.to_string(),
                    "observer": client.peer.observer,
                    "age_seconds": seconds(now.since(client.since)),
                    "configured": client.configured,
                    "queued_bytes": client.queued_bytes,
                    "sent": client.frames_sent,
                    "received": client.frames_received,
                })
            })
            .collect();
        status.insert("clients".into(), clients.into());
        status.insert(
            "relay".into(),
            json!({
                "clients_served": counters.clients,
                "turned_away": counters.turned_away,
                "cut_off": counters.cut_off,
                "handshakes": counters.handshakes,
                "packets": counters.packets,
                "replays": counters.replays,
                "accepted": counters.accepted,
                "refused": counters.refused,
                "backlog": counters.backlog,
                "backlog_dropped": counters.backlog_dropped,
                "snapshot": relay.snapshot().is_some(),
            }),
        );
        status.into()
    }

    fn link_json(&self, now: Instant, link: &HostLink) -> Map<String, Value> {
        let stats = link.stats();
        let age = |at: Instant| seconds(now.since(at));
        let state = match link.state() {
            // The configuration is asked for once more; packets flow all the same.
            State::Configuring { .. } if self.up => "refreshing",
            state => state.name(),
        };
        let last: Vec<_> = self
            .losses
            .iter()
            .rev()
            .map(|loss| {
                json!({
                    "age_seconds": age(loss.at),
                    "reason": loss.fault.to_string(),
                    "session_seconds": loss.session.map(seconds),
                })
            })
            .collect();
        let object = json!({
            "uptime_seconds": age(self.since),
            "link": {
                "up": self.up,
                "state": state,
                "since_seconds": age(self.changed),
                "node": link.node().map(node_id),
                "session_seconds": link.state().opened().map(age),
                "reason": self.fault.map(|fault| fault.to_string()),
                "next_attempt_seconds": self.retry_at.map(|at| seconds(at.since(now))),
            },
            "heartbeat": {
                "answers": match link.answers() {
                    Answers::Proven => "proven",
                    Answers::Mute => "mute",
                    Answers::Unproven { .. } => "unproven",
                },
                "round_trip_ms": self.round_trips.back().map(millis),
                "median_ms": self.median().as_ref().map(millis),
                "of": self.round_trips.len(),
            },
            "packets": {
                "received": self.packets.total,
                "last_minute": self.packets.last_minute(now),
                "per_minute": self.packets.mean(now, self.since),
                "last_age_seconds": self.packets.last.map(age),
            },
            "reconnects": {
                "count": self.reasons.values().sum::<u64>(),
                "reasons": self.reasons,
                "last": last,
                "failed_attempts": self.failures.values().sum::<u64>(),
                "failure_reasons": self.failures,
            },
            "gaps": { "count": self.gaps, "seconds": seconds(self.gap_time) },
            "outbox": link.queued(),
            "counters": {
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
            },
        });
        match object {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    fn note_round_trip(&mut self, round_trip: Duration) {
        if self.round_trips.len() == ROUND_TRIPS {
            self.round_trips.pop_front();
        }
        self.round_trips.push_back(round_trip);
    }

    /// The lower one of the two in the middle.
    fn median(&self) -> Option<Duration> {
        let mut sorted: Vec<_> = self.round_trips.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len().checked_sub(1)? / 2).copied()
    }
}

/// Packets of the node, second by second of the last minute.
#[derive(Debug)]
struct Packets {
    total: u64,
    last: Option<Instant>,
    /// Of the seconds up to `second`, each at its number modulo 60.
    counts: [u32; 60],
    second: u64,
}

impl Default for Packets {
    fn default() -> Self {
        Self { total: 0, last: None, counts: [0; 60], second: 0 }
    }
}

impl Packets {
    fn count(&mut self, now: Instant) {
        let second = now.as_millis() / 1000;
        // The seconds in which nothing came were someone else's a minute ago.
        for passed in (self.second + 1..=second).rev().take(60) {
            self.counts[passed as usize % 60] = 0;
        }
        self.second = self.second.max(second);
        self.counts[second as usize % 60] += 1;
        self.total += 1;
        self.last = Some(now);
    }

    fn last_minute(&self, now: Instant) -> u64 {
        let second = now.as_millis() / 1000;
        (second.saturating_sub(59)..=second)
            .filter(|second| *second <= self.second && self.second - second < 60)
            .map(|second| u64::from(self.counts[second as usize % 60]))
            .sum()
    }

    /// Per minute since the start, to a tenth; `None` in the first minute.
    fn mean(&self, now: Instant, since: Instant) -> Option<f64> {
        let minutes = now.since(since).as_secs_f64() / 60.0;
        (minutes >= 1.0).then(|| (self.total as f64 / minutes * 10.0).round() / 10.0)
    }
}

/// A span as a number in JSON: seconds with three digits after the point.
fn seconds(span: Duration) -> f64 {
    span.as_millis() as f64 / 1000.0
}

fn millis(span: &Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A status as a person reads it, from the object of [`StatusTracker::json`] with `node`, `listen`,
/// `version` and `pid` added by the daemon.
pub fn render(status: &Value) -> String {
    let mut out = String::new();
    for (name, line) in lines(status) {
        // A String takes all that is written.
        let _ = writeln!(out, "{name:<11}{line}");
    }
    out + &clients(status)
}

fn lines(status: &Value) -> Vec<(&'static str, String)> {
    let link = &status["link"];
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut lines = vec![("node", text(&status["node"]))];
    if let Some(id) = link["node"].as_str()
        && let Some((_, node)) = lines.first_mut()
    {
        *node += &format!(", {id}");
    }
    lines.push(("link", link_line(link)));
    for (at, loss) in status["reconnects"]["last"].as_array().into_iter().flatten().enumerate() {
        let name = if at == 0 { "losses" } else { "" };
        let reason = text(&loss["reason"]);
        let line = match told_span(&loss["session_seconds"]) {
            Some(session) => format!("{reason}, after {session}"),
            None => reason,
        };
        lines.push((name, format!("{} ago: {line}", or_dash(&loss["age_seconds"]))));
    }
    let reconnects = &status["reconnects"];
    let counted = |reasons: &Value| {
        let reasons = reasons.as_object().into_iter().flatten();
        let reasons: Vec<_> = reasons.map(|(class, n)| format!("{} {class}", count(n))).collect();
        if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) }
    };
    lines.push((
        "reconnects",
        format!(
            "{}{}; failed attempts {}{}",
            count(&reconnects["count"]),
            counted(&reconnects["reasons"]),
            count(&reconnects["failed_attempts"]),
            counted(&reconnects["failure_reasons"]),
        ),
    ));
    let gaps = &status["gaps"];
    lines.push((
        "gaps",
        match count(&gaps["count"]) {
            0 => "none".into(),
            count => format!("{count}, {} in all", or_dash(&gaps["seconds"])),
        },
    ));
    let heartbeat = &status["heartbeat"];
    lines.push((
        "heartbeat",
        match (heartbeat["round_trip_ms"].as_u64(), heartbeat["median_ms"].as_u64()) {
            (Some(last), Some(median)) => {
                format!("{last} ms, median {median} ms of {}", count(&heartbeat["of"]))
            }
            _ if heartbeat["answers"] == "mute" => "never answered (old firmware)".into(),
            _ => "not answered yet".into(),
        },
    ));
    let packets = &status["packets"];
    let mut line = format!(
        "{} received, {} in the last minute",
        count(&packets["received"]),
        count(&packets["last_minute"])
    );
    if let Some(mean) = packets["per_minute"].as_f64() {
        line += &format!(", {mean} per minute on average");
    }
    if let Some(age) = told_span(&packets["last_age_seconds"]) {
        line += &format!("; the last {age} ago");
    }
    lines.push(("packets", line));
    lines.push(("outbox", format!("{} packets", count(&status["outbox"]))));
    let listen = status["listen"].as_array().into_iter().flatten();
    let listen: Vec<_> = listen
        .map(|door| format!("{} ({})", text(&door["address"]), text(&door["policy"])))
        .collect();
    lines.push(("listening", if listen.is_empty() { "-".into() } else { listen.join(", ") }));
    lines.push((
        "daemon",
        format!(
            "meshbeat {}, process {}, running for {}",
            text(&status["version"]),
            count(&status["pid"]),
            or_dash(&status["uptime_seconds"])
        ),
    ));
    lines
}

fn link_line(link: &Value) -> String {
    let since = or_dash(&link["since_seconds"]);
    if link["up"] == true {
        let session = or_dash(&link["session_seconds"]);
        let doubt = if link["state"] == "suspect" { ", a heartbeat went unanswered" } else { "" };
        return format!("up for {since}, connected for {session}{doubt}");
    }
    let mut line = format!("down for {since}");
    if let Some(reason) = link["reason"].as_str() {
        line += &format!(": {reason}");
    }
    match told_span(&link["next_attempt_seconds"]) {
        Some(next) => line += &format!("; next attempt in {next}"),
        None => line += &format!("; {}", link["state"].as_str().unwrap_or("-")),
    }
    line
}

const HEADER: [&str; 6] = ["client", "policy", "for", "queued", "sent", "received"];

/// The clients as a table.
fn clients(status: &Value) -> String {
    let clients: Vec<_> = status["clients"].as_array().into_iter().flatten().collect();
    if clients.is_empty() {
        return "clients    none\n".into();
    }
    let number = |value: &Value| value.as_u64().unwrap_or(0).to_string();
    let rows: Vec<[String; 6]> = core::iter::once(HEADER.map(str::to_owned))
        .chain(clients.into_iter().map(|client| {
            let mut policy = client["policy"].as_str().unwrap_or("-").to_owned();
            if client["configured"] == false {
                policy += ", new";
            }
            [
                client["address"].as_str().unwrap_or("-").into(),
                policy,
                or_dash(&client["age_seconds"]),
                format!("{} B", number(&client["queued_bytes"])),
                number(&client["sent"]),
                number(&client["received"]),
            ]
        }))
        .collect();
    let widths: [usize; 6] = core::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    let mut out = String::from("\n");
    for row in &rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = match column {
                0 => write!(out, "{cell:<width$}"),
                1 => write!(out, "  {cell:<width$}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        out.push('\n');
    }
    out
}

/// A number of seconds as a person says it.
fn told_span(value: &Value) -> Option<String> {
    let seconds = value.as_f64().filter(|seconds| (0.0..1e12).contains(seconds))?;
    Some(span(Duration::from_millis((seconds * 1000.0).round() as u64)))
}

fn or_dash(value: &Value) -> String {
    told_span(value).unwrap_or_else(|| "-".into())
}

#[cfg(test)]
mod tests {
    use meshbeat_core::fault::Class;
    use meshbeat_core::{Checked, link::Link};

    use super::*;
    use crate::relay::RelayConfig;

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    /// A session between two seconds.
    fn lost(class: Class, opened: u64, ended: u64, was_up: bool) -> Event {
        let (opened, retry_at) = (Some(at(opened)), at(ended + 4));
        Event::Lost { fault: class.into(), opened, was_up, retry_at }
    }

    fn configured(last_heard: Option<u64>) -> Event {
        Event::Configured { node: 1, asked: at(0), last_heard: last_heard.map(at) }
    }

    fn link() -> HostLink {
        Link::new(Checked::TCP, 1)
    }

    /// An outage with an attempt in vain; then the link is up again.
    fn eventful() -> StatusTracker {
        let mut tracker = StatusTracker::new(at(0));
        for (seconds, event) in [
            (0, Event::OpenDue),
            (1, configured(None)),
            (601, lost(Class::ConnectionReset, 1, 601, true)),
            (605, Event::OpenDue),
            (605, lost(Class::ConnectionRefused, 605, 605, false)),
            (609, Event::OpenDue),
            (610, configured(Some(598))),
        ] {
            tracker.handle_event(at(seconds), event);
        }
        tracker
    }

    #[test]
    fn the_history_of_the_link() {
        let mut tracker = eventful();
        let told = Value::Object(tracker.link_json(at(670), &link()));
        assert_eq!(told["link"]["up"], true);
        assert_eq!(told["link"]["since_seconds"], 60.0);
        assert_eq!(told["link"]["reason"], Value::Null);
        assert_eq!(told["reconnects"]["count"], 1);
        assert_eq!(told["reconnects"]["reasons"], json!({ "connection reset": 1 }));
        assert_eq!(told["reconnects"]["failure_reasons"], json!({ "connection refused": 1 }));
        assert_eq!(
            told["reconnects"]["last"],
            json!([{ "age_seconds": 69.0, "reason": "connection reset", "session_seconds": 600.0 }])
        );
        assert_eq!(told["gaps"], json!({ "count": 1, "seconds": 12.0 }));

        tracker.handle_event(at(700), lost(Class::Silent, 610, 700, true));
        let told = Value::Object(tracker.link_json(at(701), &link()));
        assert_eq!(told["link"]["up"], false);
        assert_eq!(told["link"]["next_attempt_seconds"], 3.0);
        assert_eq!(tracker.line(Some(1)), "down: no answer to heartbeats");
    }

    #[test]
    fn memory_is_bounded_and_the_newest_is_kept() {
        let mut tracker = StatusTracker::new(at(0));
        for n in 1..=1000 {
            tracker.handle_event(at(n), lost(Class::ClosedByPeer, 0, n, true));
            tracker.note_round_trip(Duration::from_millis(n));
        }
        let told = Value::Object(tracker.link_json(at(1000), &link()));
        assert_eq!(told["reconnects"]["count"], 1000);
        assert_eq!(told["reconnects"]["last"].as_array().map(Vec::len), Some(LOSSES));
        assert_eq!(told["reconnects"]["last"][0]["session_seconds"], 1000.0);
        assert_eq!(
            told["heartbeat"],
            json!({ "answers": "unproven", "round_trip_ms": 1000, "median_ms": 968, "of": 64 })
        );
    }

    #[test]
    fn packets_of_the_last_minute() {
        let mut packets = Packets::default();
        assert_eq!(packets.last_minute(at(100)), 0);
        for second in 0..200 {
            packets.count(at(second));
        }
        assert_eq!(packets.last_minute(at(199)), 60);
        assert_eq!(packets.last_minute(at(229)), 30);
        assert_eq!(packets.last_minute(at(258)), 1);
        assert_eq!(packets.last_minute(at(259)), 0);
        packets.count(at(1000));
        packets.count(at(1000));
        assert_eq!(packets.last_minute(at(1000)), 2, "what is older is forgotten");
        assert_eq!(packets.last_minute(at(1059)), 2);
        assert_eq!((packets.total, packets.mean(at(1212), at(0))), (202, Some(10.0)));
        assert_eq!(packets.mean(at(59), at(0)), None);
    }

    #[test]
    fn a_person_reads_it() {
        let mut tracker = eventful();
        tracker.handle_packet(at(660));
        tracker.note_round_trip(Duration::from_millis(12));
        let relay = Relay::new(RelayConfig::default(), 1, 0);
        let mut status = tracker.json(at(670), &link(), &relay);
        status["node"] = "10.0.0.5:4403".into();
        status["listen"] = json!([{ "address": "127.0.0.1:4403", "policy": "full" }]);
        status["version"] = "1.0".into();
        status["pid"] = 7.into();
        let expected = "\
node       10.0.0.5:4403
link       up for 1 min 0 s, connected for -
losses     1 min 9 s ago: connection reset, after 10 min 0 s
reconnects 1 (1 connection reset); failed attempts 1 (1 connection refused)
gaps       1, 12.0 s in all
heartbeat  12 ms, median 12 ms of 1
packets    1 received, 1 in the last minute, 0.1 per minute on average; the last 10.0 s ago
outbox     0 packets
listening  127.0.0.1:4403 (full)
daemon     meshbeat 1.0, process 7, running for 11 min 10 s
clients    none
";
        assert_eq!(render(&status), expected);
        let client = |address, configured, sent| {
            json!({
                "address": address, "policy": "full", "age_seconds": 65.0, "queued_bytes": 0,
                "configured": configured, "sent": sent, "received": 9,
            })
        };
        status["clients"] =
            json!([client("127.0.0.1:51234", true, 1234), client("unix", false, 5)]);
        let expected = "
client           policy           for  queued  sent  received
127.0.0.1:51234  full       1 min 5 s     0 B  1234         9
unix             full, new  1 min 5 s     0 B     5         9
";
        let told = render(&status);
        assert_eq!(told.split_once("10 s\n").map(|(_, clients)| clients), Some(expected), "{told}");
        status["link"] = json!({
            "up": false, "since_seconds": 3.0, "reason": "closed by peer", "state": "waiting",
            "next_attempt_seconds": 0.5,
        });
        let told = render(&status);
        assert!(
            told.contains("\nlink       down for 3.0 s: closed by peer; next attempt in 500 ms\n")
        );
        // Whatever a daemon of another version leaves out, nothing panics.
        assert!(render(&json!({})).starts_with("node       -\n"));
    }
}
