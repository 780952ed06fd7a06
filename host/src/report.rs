//! What a person is told of the link: one line per change of state, and no more than 20 in an hour
//! of trouble.
//!
//! Expected faults are debug lines; the loss and the return of the link are one info line each. From
//! the fourth loss within an hour on the link is unsteady: losses are summed up once an hour, until
//! it has held for 10 minutes. A long outage is remembered at 1 min, 10 min, 1 h and every 6 h.
//! Errors of an unusual kind are one warning each, with number and name.

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};

use log::Level;
use meshbeat_core::Instant;
use meshbeat_core::fault::{self, Fault};
use meshbeat_core::link::Event;

/// Turns events of the link into log lines.
#[derive(Debug)]
pub struct Reporter {
    /// How the node is called, as the person wrote it.
    node: String,
    phase: Phase,
    /// When the link was lost, within the last hour.
    losses: VecDeque<Instant>,
    unsteady: Option<Unsteady>,
    /// Said and not taken yet.
    lines: VecDeque<(Level, String)>,
    /// Unusual faults that were told since the link was last steady, by errno and class.
    told: BTreeSet<(Option<i32>, &'static str)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not up yet, or not any more, since this moment.
    Down {
        outage: Option<Outage>,
    },
    Up {
        since: Instant,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outage {
    since: Instant,
    attempts: u32,
    fault: Fault,
    /// When the next reminder is due.
    remind_at: Instant,
    /// The link was up before.
    was_up: bool,
}

/// A link that comes and goes, whose single losses are no news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unsteady {
    since: Instant,
    /// Losses that were not told.
    losses: u32,
    sum_up_at: Instant,
}

/// Losses within an hour that make a link unsteady.
const UNSTEADY: usize = 4;
/// How long an unsteady link must hold to be steady again.
const STEADY: Duration = Duration::from_secs(600);
const HOUR: Duration = Duration::from_secs(3600);

impl Reporter {
    /// A reporter for a link to `node`.
    pub fn new(node: String) -> Self {
        Self {
            node,
            phase: Phase::Down { outage: None },
            losses: VecDeque::new(),
            unsteady: None,
            lines: VecDeque::new(),
            told: BTreeSet::new(),
        }
    }

    /// Something happened to the link.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::OpenDue => self.say(Level::Debug, "connecting"),
            Event::Opened => self.say(Level::Debug, "connected, shaking hands"),
            Event::Configured { node, asked, last_heard } => {
                let gap = last_heard.map(|last| now.since(last));
                self.up(now, node, now.since(asked), gap);
            }
            Event::Lost { fault, opened, was_up, retry_at } => {
                let session = opened.map(|opened| now.since(opened));
                let after = session.map_or_else(String::new, |s| format!(" after {}", span(s)));
                let next = span(retry_at.since(now));
                self.say(Level::Debug, format!("{fault}{after}; next attempt in {next}"));
                self.warn_if_unusual(fault);
                self.down(now, fault, session, was_up);
            }
            Event::NodeChanged { from, to } => self.say(
                Level::Warn,
                format!("another node answers, !{to:08x} instead of !{from:08x}"),
            ),
            Event::Contended { sessions } => self.say(
                Level::Warn,
                format!(
                    "the node closed {sessions} young sessions in a row; another client is likely \
                     taking the link"
                ),
            ),
            Event::Suspected => self.say(Level::Debug, "a heartbeat went unanswered"),
            Event::Recovered => self.say(Level::Debug, "the node answers again"),
            Event::FoundMute => self.say(
                Level::Debug,
                "the node never answers heartbeats (old firmware); its silence is not held against it",
            ),
            Event::Rebooted => self.say(Level::Info, "the node has restarted"),
            Event::Packet(packet) => self.say(
                Level::Debug,
                format!("packet {:08x} of sender {}: {:?}", packet.id, packet.sender, packet.state),
            ),
            Event::SaidGoodbye => self.say(Level::Debug, "disconnect said"),
            Event::Closed => self.say(Level::Debug, "closed"),
            other => self.say(Level::Debug, format!("{other:?}")),
        }
    }

    /// The oldest line that was not taken yet, without its node.
    pub fn poll_line(&mut self) -> Option<(Level, String)> {
        self.lines.pop_front()
    }

    /// How the node is called.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Reminds of a long outage, sums up an unsteady hour, tells of a link that is steady again.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Down { outage: Some(outage) } if now >= outage.remind_at => {
                let age = now.since(outage.since);
                outage.remind_at = outage.since + reminder_after(age);
                let (attempts, fault) = (outage.attempts, outage.fault);
                let age = span(age);
                let line = format!("still down after {age}, {attempts} attempts, last: {fault}");
                self.say(Level::Info, line);
            }
            Phase::Up { since } if now >= *since + STEADY => {
                let age = span(now.since(*since));
                self.told.clear();
                if let Some(Unsteady { losses, .. }) = self.unsteady.take() {
                    self.say(Level::Info, format!("steady for {age}, after {losses} more losses"));
                }
            }
            _ => {}
        }
        if let Some(unsteady) = &mut self.unsteady
            && now >= unsteady.sum_up_at
        {
            unsteady.sum_up_at = now + HOUR;
            let (age, losses) = (span(now.since(unsteady.since)), unsteady.losses);
            self.say(Level::Info, format!("unsteady for {age}, {losses} more losses"));
        }
    }

    /// When [`Reporter::handle_timeout`] has something to say next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Down { outage } => outage.map(|outage| outage.remind_at),
            Phase::Up { since } => {
                (self.unsteady.is_some() || !self.told.is_empty()).then(|| since + STEADY)
            }
        };
        let sum_up = self.unsteady.map(|unsteady| unsteady.sum_up_at);
        phase.into_iter().chain(sum_up).min()
    }

    fn up(&mut self, now: Instant, node: u32, took: Duration, gap: Option<Duration>) {
        let before = core::mem::replace(&mut self.phase, Phase::Up { since: now });
        let gap = gap.map_or_else(String::new, |gap| format!(", possible gap of {}", span(gap)));
        let line = match before {
            Phase::Down { outage: Some(Outage { since, attempts, was_up: true, .. }) } => {
                format!(
                    "up again after {}, {attempts} {}{gap}",
                    span(now.since(since)),
                    if attempts == 1 { "attempt" } else { "attempts" }
                )
            }
            _ => format!("up: node !{node:08x}, handshake in {}", span(took)),
        };
        let news = if self.unsteady.is_some() { Level::Debug } else { Level::Info };
        self.say(news, line);
    }

    fn down(&mut self, now: Instant, fault: Fault, session: Option<Duration>, was_up: bool) {
        if was_up {
            let news = self.count_loss(now);
            self.phase = self.outage(now, fault, was_up);
            let session = span(session.unwrap_or_default());
            self.say(news, format!("lost after {session}: {fault}; reconnecting"));
            if news == Level::Info && self.unsteady.is_some() {
                self.say(Level::Info, "unsteady: further losses are summed up");
            }
            return;
        }
        match &mut self.phase {
            Phase::Down { outage: Some(outage) } => {
                outage.attempts = outage.attempts.saturating_add(1);
                outage.fault = fault;
            }
            _ => {
                self.phase = self.outage(now, fault, was_up);
                self.say(Level::Info, format!("not reached yet: {fault}; trying on"));
            }
        }
    }

    fn outage(&self, now: Instant, fault: Fault, was_up: bool) -> Phase {
        // While the link comes and goes, a minute without it is no news.
        let age = if self.unsteady.is_none() { 0 } else { 60 };
        let remind_at = now + reminder_after(Duration::from_secs(age));
        Phase::Down { outage: Some(Outage { since: now, attempts: 1, fault, remind_at, was_up }) }
    }

    /// Counts a loss and says how loud it is: unsteady links are told of once.
    fn count_loss(&mut self, now: Instant) -> Level {
        self.losses.retain(|at| now.since(*at) < HOUR);
        self.losses.push_back(now);
        if let Some(unsteady) = &mut self.unsteady {
            unsteady.losses = unsteady.losses.saturating_add(1);
            return Level::Debug;
        }
        if self.losses.len() >= UNSTEADY {
            self.unsteady = Some(Unsteady { since: now, losses: 0, sum_up_at: now + HOUR });
        }
        Level::Info
    }

    fn warn_if_unusual(&mut self, fault: Fault) {
        let unusual = fault.level() == fault::Level::Warn;
        if unusual && self.told.insert((fault.errno(), fault.class().text())) {
            self.say(Level::Warn, fault.to_string());
        }
    }

    fn say(&mut self, level: Level, line: impl Into<String>) {
        self.lines.push_back((level, line.into()));
    }
}

/// The age at which an outage of this age is told of next: 1 min, 10 min, 1 h, and every 6 h.
fn reminder_after(age: Duration) -> Duration {
    const HOUR: u64 = 3600;
    Duration::from_secs(match age.as_secs() {
        ..60 => 60,
        60..600 => 600,
        600..HOUR => HOUR,
        seconds => (seconds / (6 * HOUR) + 1) * 6 * HOUR,
    })
}

/// A span as a person says it: `250 ms`, `12.3 s`, `4 min 5 s`, `3 h 20 min`, `2 d 4 h`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..60 => format!("{:.1} s", span.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use meshbeat_core::Checked;
    use meshbeat_core::fault::Class;
    use meshbeat_core::link::{Link, State, Transmit};

    use super::*;

    /// A link whose node does as told: connects succeed or not, and sessions, which come up at
    /// once, last so long.
    struct Bench {
        link: Link<0>,
        reporter: Reporter,
        now: Instant,
        lines: Vec<(Level, String)>,
    }

    impl Bench {
        fn new() -> Self {
            let mut link = Link::new(Checked::TCP, 7);
            link.open(Instant::ORIGIN);
            let reporter = Reporter::new("node".into());
            Self { link, reporter, now: Instant::ORIGIN, lines: Vec::new() }
        }

        /// Plays to the end of the hour; returns the lines at the default level.
        fn hour(
            mut self,
            refused: impl Fn(Instant) -> bool,
            session: Option<Duration>,
        ) -> Vec<String> {
            let end = Instant::from_millis(3_600_000);
            let mut ends_at = None;
            while self.now < end {
                if let Some(Event::OpenDue) = self.drain() {
                    match refused(self.now) {
                        true => self.link.handle_closed(self.now, Fault::from_errno(111)),
                        false => {
                            self.link.handle_opened(self.now);
                            ends_at = session.map(|life| self.now + life);
                        }
                    }
                    continue;
                }
                if ends_at.is_some_and(|at| at <= self.now) {
                    ends_at = None;
                    self.link.handle_closed(self.now, Class::ClosedByPeer.into());
                    continue;
                }
                self.answer();
                self.drain();
                let due = [self.link.poll_timeout(), self.reporter.poll_timeout(), ends_at];
                self.now = due.into_iter().flatten().min().expect("a link never rests");
                self.link.handle_timeout(self.now);
                self.reporter.handle_timeout(self.now);
            }
            self.drain();
            let told = self.lines.into_iter().filter(|(level, _)| *level <= Level::Info);
            told.map(|(_, line)| line).collect()
        }

        fn drain(&mut self) -> Option<Event> {
            let mut last = None;
            while let Some(event) = self.link.poll_event() {
                self.reporter.handle_event(self.now, event);
                last = Some(event);
            }
            self.lines.extend(core::iter::from_fn(|| self.reporter.poll_line()));
            last
        }

        /// The node's side: the handshake is completed, heartbeats are answered.
        fn answer(&mut self) {
            let mut written = Vec::new();
            while let Ok(Transmit::Wrote(_)) = self.link.poll_transmit(self.now, &mut written) {}
            if written.is_empty() {
                return;
            }
            let mut answer = vec![0x94, 0xC3, 0, 2, 0x5A, 0];
            if let Some(at) =
                written.windows(5).position(|w| w[..3] == [0x94, 0xC3, 0] && w[4] == 0x18)
            {
                let nonce = &written[at + 5..];
                answer.extend([0x94, 0xC3, 0, nonce.len() as u8 + 1, 0x38]);
                answer.extend(nonce);
            }
            let mut rest = &answer[..];
            while !rest.is_empty() {
                let taken = self.link.handle_bytes(self.now, rest).taken;
                rest = &rest[taken..];
            }
        }
    }

    #[test]
    fn a_steady_hour_is_one_line() {
        let lines = Bench::new().hour(|_| false, None);
        assert_eq!(lines, ["up: node !00000000, handshake in 0 ms"]);
    }

    #[test]
    fn an_outage_is_two_lines_and_reminders() {
        let away = |now: Instant| (60_000..1_800_000).contains(&now.as_millis());
        let lines = Bench::new().hour(away, Some(Duration::from_secs(900)));
        let starts: Vec<_> = lines.iter().map(|l| l.split(' ').next().unwrap_or("")).collect();
        assert_eq!(starts[..5], ["up:", "lost", "still", "still", "up"], "{lines:#?}");
        assert!(lines[2].starts_with("still down after 1 min 0 s"), "{lines:#?}");
        assert!(lines[3].starts_with("still down after 10 min 0 s"), "{lines:#?}");
    }

    /// P7: whatever the trouble, an hour of it is at most 20 lines.
    #[test]
    fn an_hour_of_any_trouble_is_at_most_twenty_lines() {
        let refused = |_: Instant| true;
        let lines = Bench::new().hour(refused, None);
        assert!((2..=4).contains(&lines.len()), "refused all the time: {lines:#?}");
        for seconds in (0..130).step_by(3).chain((130..1000).step_by(10)) {
            let lines = Bench::new().hour(|_| false, Some(Duration::from_secs(seconds)));
            assert!((3..=20).contains(&lines.len()), "sessions of {seconds} s: {lines:#?}");
        }
    }

    #[test]
    fn an_unusual_errno_is_one_warning_with_number_and_name() {
        let mut bench = Bench::new();
        for _ in 0..5 {
            bench.now = bench.link.poll_timeout().expect("opening or waiting");
            bench.link.handle_timeout(bench.now);
            if let State::Opening { .. } = bench.link.state() {
                bench.link.handle_closed(bench.now, Fault::from_errno(24));
            }
            bench.drain();
        }
        let warnings: Vec<_> = bench.lines.iter().filter(|(l, _)| *l == Level::Warn).collect();
        assert_eq!(warnings, [&(Level::Warn, "resources exhausted (24 EMFILE)".to_owned())]);
    }

    #[test]
    fn reminders_grow_rare() {
        let mut age = Duration::ZERO;
        let ages: Vec<_> = (0..6)
            .map(|_| {
                age = reminder_after(age);
                span(age)
            })
            .collect();
        let expected =
            ["1 min 0 s", "10 min 0 s", "1 h 0 min", "6 h 0 min", "12 h 0 min", "18 h 0 min"];
        assert_eq!(ages, expected);
    }

    #[test]
    fn spans_read_well() {
        for (millis, text) in [
            (250, "250 ms"),
            (12_340, "12.3 s"),
            (245_000, "4 min 5 s"),
            (12_000_000, "3 h 20 min"),
            (187_200_000, "2 d 4 h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }
}
