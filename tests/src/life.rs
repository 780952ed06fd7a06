//! A link's life: senders that want things sent, and every fault of the catalogue, mixed at random,
//! all from one seed. The world checks everything while it happens; here is what happens, and what
//! must be true when it is over.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;

use meshbeat::sim::{Chance, Fault, SimConfig};
use meshbeat_core::backoff::BackoffConfig;
use meshbeat_core::link::State;
use meshbeat_core::mutant::Mutation;
use meshbeat_core::rng::Rng;
use meshbeat_core::{Event, Instant, LinkConfig};

use crate::world::{MailTotals, Seen, Senders, Violation, WireConfig, World};

/// A world with senders and faults.
#[derive(Debug)]
pub struct Life {
    world: World,
    /// The link is on a serial line.
    serial: bool,
    rng: Rng,
    /// Events that were looked at.
    looked: usize,
    /// The last fault, and when it is over by itself.
    last: (&'static str, Instant),
    /// The link was up and was lost then.
    lost: Option<Instant>,
    summary: Summary,
}

/// What happened in one life, or in many.
#[derive(Debug, Default, Clone)]
pub struct Summary {
    /// Lives.
    pub lives: u64,
    /// Of these on a serial line.
    pub serial: u64,
    /// Simulated time.
    pub time: Duration,
    /// Steps of the worlds.
    pub steps: u64,
    /// Handshakes done.
    pub sessions: u64,
    /// Frames delivered.
    pub frames: u64,
    /// Packets, by what became of them.
    pub mail: MailTotals,
    /// By the name of the fault.
    pub faults: BTreeMap<&'static str, Fate>,
}

/// What one kind of fault did.
#[derive(Debug, Default, Clone)]
pub struct Fate {
    /// How often it was played.
    pub times: u64,
    /// When it cost the session: the time from its end, or from the loss if that was later, to the
    /// end of the next handshake.
    pub recoveries: Vec<Duration>,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Life {
    /// The life of this seed, with a deliberate bug perhaps.
    pub fn new(seed: u64, mutation: Mutation) -> Self {
        let mut rng = Rng::new(seed ^ 0x6C69_6665);
        let serial = rng.below(4) == 0;
        let wire = random_wire(&mut rng, serial);
        let mut link = match serial {
            true => LinkConfig { mutation, ..LinkConfig::SERIAL },
            false => LinkConfig { mutation, ..LinkConfig::default() },
        };
        if rng.below(4) == 0 {
            link.handshake.silence = MINUTE.into();
        }
        let mut node = random_node(&mut rng);
        node.limits.kept = serial;
        let mut world = World::with(seed, link, node, wire);
        world.node_mut().keep_log(2_000);
        world.employ(Some(Senders::new(Instant::ORIGIN, seed)));
        let last = ("(none)", Instant::ORIGIN);
        let summary = Summary { lives: 1, serial: u64::from(serial), ..Summary::default() };
        Self { world, serial, rng, looked: 0, last, lost: None, summary }
    }

    /// Lives for so long under faults.
    pub fn live(&mut self, span: Duration) -> Result<(), Violation> {
        let end = self.world.now() + span;
        while self.world.now() < end {
            self.suffer()?;
            let span = match self.rng.below(4) {
                0 => self.rng.below(30),
                1 => self.rng.below(120),
                _ => self.rng.below(1_200),
            };
            self.run(Duration::from_secs(span.into()))?;
            if self.rng.below(8) == 0 {
                self.calm()?;
            }
        }
        Ok(())
    }

    /// All faults end, nobody sends any more, the link is closed: every packet has met its end.
    pub fn end(mut self) -> Result<Summary, Violation> {
        self.calm()?;
        self.run(10 * MINUTE)?;
        // A phone at the node may have taken answers until the link was lost once more.
        let limit = BackoffConfig::DEFAULT.crowded_cap.as_duration() + 3 * MINUTE;
        self.world.try_run_until(limit, |world| world.link().state().is_up())?;
        if self.world.undelivered() > 0 {
            return Err(format!("{} frames withheld at the end", self.world.undelivered()));
        }
        self.world.employ(None);
        let LinkConfig { drain_limit, close_limit, .. } = LinkConfig::TCP;
        let deadline = drain_limit.as_duration() + close_limit.as_duration();
        self.world.try_close()?;
        self.run(deadline + Duration::from_secs(1))?;
        let (state, queued) = (self.world.link().state(), self.world.link().queued());
        if state != State::Closed || queued > 0 {
            return Err(format!("{queued} packets wait, the link is {}", state.name()));
        }
        let totals = self.world.totals();
        let Summary { time, steps, sessions, frames, mail, .. } = &mut self.summary;
        *time = self.world.now().since(Instant::ORIGIN);
        *steps = self.world.steps();
        (*sessions, *frames, *mail) = (totals.sessions, totals.frames, self.world.mail());
        Ok(self.summary)
    }

    /// Lives and ends, or says what was wrong.
    pub fn whole(seed: u64, mutation: Mutation, span: Duration) -> Result<Summary, Violation> {
        let mut life = Self::new(seed, mutation);
        let lived = life.live(span);
        let trace = match &lived {
            Err(_) => format!("{:?}", life.world),
            Ok(()) => String::new(),
        };
        lived
            .and_then(|()| life.end())
            .map_err(|violation| format!("seed {seed}: {violation}\n{trace}"))
    }

    /// Plays a fault of the node, or one of the wire.
    fn suffer(&mut self) -> Result<(), Violation> {
        let now = self.world.now();
        // Faults may overlap.
        if self.rng.below(3) > 0 {
            self.world.recover();
        }
        let span = Duration::from_secs(u64::from(1 + self.rng.below(120)));
        let (name, over) = match self.rng.below(40) {
            0 if !self.serial => {
                self.world.unplug(span);
                ("(cable out)", now + span)
            }
            1 if !self.serial => {
                self.world.unroute(span);
                ("(no route)", now + span)
            }
            0..4 => {
                self.world.cut();
                ("(connection cut)", now)
            }
            4..6 => {
                let wire = random_wire(&mut self.rng, self.serial);
                self.world.rewire(wire);
                ("(another wire)", now)
            }
            _ => {
                let fault = match random_fault(&mut self.rng) {
                    fault if self.serial => on_serial(fault),
                    fault => fault,
                };
                let over = now + fault.span().unwrap_or_default();
                let name = fault.name();
                self.world.inject(fault);
                (name, over)
            }
        };
        self.summary.faults.entry(name).or_default().times += 1;
        self.last = (name, over);
        self.look();
        Ok(())
    }

    /// Ends all faults; the link has to come back.
    fn calm(&mut self) -> Result<(), Violation> {
        self.world.rewire(WireConfig::default());
        self.world.recover();
        self.last.1 = self.last.1.min(self.world.now());
        let limit = BackoffConfig::DEFAULT.crowded_cap.as_duration() + 3 * MINUTE;
        self.world.try_run(MINUTE)?;
        self.world.try_run_until(limit, |world| world.link().state().is_up())?;
        self.world.check_mail()?;
        self.look();
        Ok(())
    }

    fn run(&mut self, span: Duration) -> Result<(), Violation> {
        self.world.try_run(span)?;
        self.world.check_mail()?;
        self.look();
        Ok(())
    }

    /// Looks at what has happened since the last time.
    fn look(&mut self) {
        for Seen { at, event } in &self.world.seen()[self.looked..] {
            match event {
                Event::Lost { was_up: true, .. } => self.lost = Some(*at),
                Event::Configured { .. } => {
                    if let Some(lost) = self.lost.take() {
                        let (name, over) = self.last;
                        let fate = self.summary.faults.entry(name).or_default();
                        fate.recoveries.push(at.since(lost.max(over)));
                    }
                }
                _ => {}
            }
        }
        self.looked = self.world.seen().len();
    }
}

impl Summary {
    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.lives += other.lives;
        self.serial += other.serial;
        self.time += other.time;
        self.steps += other.steps;
        self.sessions += other.sessions;
        self.frames += other.frames;
        self.mail.add(other.mail);
        for (name, fate) in other.faults {
            let own = self.faults.entry(name).or_default();
            own.times += fate.times;
            own.recoveries.extend(fate.recoveries);
        }
    }

    /// Simulated hours.
    pub fn hours(&self) -> f64 {
        self.time.as_secs_f64() / 3600.0
    }
}

/// The table.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<18} {:>8} {:>8}  recovery (s)", "", "", "sessions")?;
        let head = ["fault", "times", "lost", "median", "p99", "max"];
        let [fault, times, lost, median, p99, max] = head;
        writeln!(f, "{fault:<18} {times:>8} {lost:>8} {median:>8} {p99:>8} {max:>8}")?;
        for (name, fate) in &self.faults {
            let mut spans = fate.recoveries.clone();
            spans.sort_unstable();
            let at = |part: f64| {
                let last = spans.len().checked_sub(1)?;
                spans.get((last as f64 * part).round() as usize)
            };
            let text =
                |part| at(part).map_or_else(|| "-".into(), |s| format!("{:.1}", s.as_secs_f64()));
            let [median, p99, max]: [String; 3] = [0.5, 0.99, 1.0].map(text);
            let (times, lost) = (fate.times, spans.len());
            writeln!(f, "{name:<18} {times:>8} {lost:>8} {median:>8} {p99:>8} {max:>8}")?;
        }
        let Self { lives, serial, steps, sessions, frames, mail, .. } = self;
        let hours = self.hours();
        writeln!(
            f,
            "{lives} lives ({serial} on a serial line), {hours:.0} hours, {sessions} sessions, \
            {frames} frames"
        )?;
        write!(f, "{steps} steps, each checked; {mail}")
    }
}

/// Some wire; now and then a miserable one. On a serial line no byte is late.
fn random_wire(rng: &mut Rng, serial: bool) -> WireConfig {
    if rng.below(3) > 0 {
        return WireConfig::default();
    }
    if serial {
        return WireConfig { delay: 1..=20, stalls: 0, ..WireConfig::random(rng) };
    }
    let stalls = if rng.below(2) == 0 { rng.below(50) } else { 0 };
    WireConfig { stalls, ..WireConfig::random(rng) }
}

/// Some node: most are healthy, some are old, some have a phone at them.
fn random_node(rng: &mut Rng) -> SimConfig {
    let mut node = SimConfig::default();
    node.identity.nodes = rng.below(20);
    node.identity.replays = rng.below(2) == 0;
    node.queues.transmit = 1 + rng.below(16) as usize;
    node.queues.packets = [8, 16, 32][rng.below(3) as usize];
    node.traffic.per_minute = rng.below(2);
    node.heartbeat.answered = rng.below(6) > 0;
    if rng.below(6) == 0 {
        node.heartbeat.shared = Chance::percent(rng.below(40) as u16);
    }
    node.stream.notices_fin = rng.below(4) > 0;
    node
}

/// What there is of a fault on a serial line: a pause in mid-frame that is longer than
/// `torn_after` makes a torn frame of it, and there is no network to lose.
fn on_serial(fault: Fault) -> Fault {
    match fault {
        Fault::Pause { span } => Fault::Pause { span: span / 250 },
        Fault::Unreachable { span } => Fault::Refuse { span },
        other => other,
    }
}

/// Any fault of the catalogue, with random numbers, so short that there is time for the next.
fn random_fault(rng: &mut Rng) -> Fault {
    let second = Duration::from_secs(1);
    let span = second * (1 + rng.below(120));
    let all = Fault::catalogue();
    // What concerns packets comes more often.
    let fault = match rng.below(10) {
        0 => Fault::Full { span, lost: Chance::percent(rng.below(100) as u16) },
        1 => {
            let res = [6, 7, 9, 33, 34, 35, 36, 37, 38, 39];
            let any = |_| res[rng.below(res.len() as u32) as usize];
            Fault::RefuseN((0..4).map(any).collect())
        }
        _ => all[rng.below(all.len() as u32) as usize].clone(),
    };
    match fault {
        Fault::Refuse { .. } => Fault::Refuse { span },
        Fault::Unreachable { .. } => Fault::Unreachable { span },
        Fault::Blackhole { .. } => Fault::Blackhole { span },
        Fault::Storm { .. } => Fault::Storm { span },
        Fault::Stolen { .. } => {
            let life = second * (1 + rng.below(60));
            Fault::Stolen { life: second..=second + life, span: 4 * span }
        }
        Fault::Stall { .. } => Fault::Stall { frames: rng.below(40) },
        Fault::Cut { .. } => Fault::Cut { handshake: rng.below(2) == 0, frames: rng.below(8) },
        Fault::Shared { .. } => Fault::Shared { chance: Chance::percent(rng.below(100) as u16) },
        Fault::Pause { .. } => {
            // Longer ones end the session in mid-frame.
            let longest = if rng.below(2) == 0 { 11 } else { 90 };
            Fault::Pause { span: second * (1 + rng.below(longest)) }
        }
        Fault::Unasked { .. } => Fault::Unasked { every: second / 2 * (1 + rng.below(4)) },
        other => other,
    }
}
