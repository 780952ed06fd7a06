//! How a node plays the faults of the catalogue.

use core::ops::RangeInclusive;
use core::time::Duration;
use std::collections::VecDeque;

use meshbeat_core::time::Instant;
use meshbeat_proto::{
    Data, DeviceMetrics, MeshPacket, PortNum, QueueStatus, Telemetry, mesh_packet, telemetry,
};
use prost::Message;

use super::config::{Chance, draw_span};
use super::log::{Record, Why};
use super::mesh::clean_number;
use super::node::{Action, How, Listening, SimNode};
use super::{Fault, SimConfig};
use crate::dest::BROADCAST;

/// The faults that are under way and end by themselves.
#[derive(Debug, Default)]
pub(super) struct Active {
    /// Connections are refused until then.
    pub(super) refuse: Option<Instant>,
    /// Off the network until then.
    pub(super) unreachable: Option<Instant>,
    /// Neither reading nor writing until then.
    pub(super) blackhole: Option<Instant>,
    /// Connections are closed at once until then.
    pub(super) storm: Option<Instant>,
    /// Until then each connection lives this long.
    pub(super) stolen: Option<(Instant, RangeInclusive<Duration>)>,
    /// The queue to the radio is full until then, and statuses are lost this often.
    pub(super) full: Option<(Instant, Chance)>,
    /// The next handshake stalls after this many frames.
    pub(super) stall: Option<u32>,
    /// After this many frames one is cut; in a handshake only, or anywhere.
    cut: Option<(u32, bool)>,
    torn: bool,
    pause: Option<Duration>,
    /// What the next packets are refused with.
    pub(super) refusals: VecDeque<i32>,
    /// When the next unasked status comes.
    unasked: Option<Instant>,
}

/// What happens to one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    None,
    Torn,
    Cut,
    Pause(Duration),
}

impl Damage {
    /// How many of the frame's `len` bytes are written, if not all; `inside` is a random number
    /// from 1 to `len - 1`.
    pub(super) fn kept(self, inside: usize, len: usize) -> Option<usize> {
        match self {
            Self::Torn | Self::Cut => Some(inside.min(len - 1)),
            Self::None | Self::Pause(_) => None,
        }
    }

    pub(super) fn is_cut(self) -> bool {
        self == Self::Cut
    }

    pub(super) fn pause(self) -> Option<Duration> {
        if let Self::Pause(span) = self { Some(span) } else { None }
    }
}

impl Active {
    /// Whether the node neither reads nor writes.
    pub(super) fn is_held(&self) -> bool {
        self.blackhole.is_some() || self.unreachable.is_some()
    }

    pub(super) fn listening(&self) -> Listening {
        if self.unreachable.is_some() {
            Listening::Unanswered
        } else if self.refuse.is_some() {
            Listening::Refusing
        } else {
            Listening::Open
        }
    }

    /// What happens to the frame that is written now.
    pub(super) fn next_damage(&mut self, in_handshake: bool) -> Damage {
        if core::mem::take(&mut self.torn) {
            return Damage::Torn;
        }
        if let Some(span) = self.pause.take() {
            return Damage::Pause(span);
        }
        match &mut self.cut {
            Some((_, true)) if !in_handshake => Damage::None,
            Some((0, _)) => {
                self.cut = None;
                Damage::Cut
            }
            Some((frames, _)) => {
                *frames -= 1;
                Damage::None
            }
            None => Damage::None,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [
            self.refuse,
            self.unreachable,
            self.blackhole,
            self.storm,
            self.stolen.as_ref().map(|(until, _)| *until),
            self.full.map(|(until, _)| until),
            self.unasked,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

impl SimNode {
    /// Plays a fault, beside those that are under way; [`Fault`] says what each does. One of the
    /// same kind that is under way is replaced.
    pub fn inject(&mut self, now: Instant, fault: Fault) {
        self.record(now, Record::Fault(fault.clone()));
        match fault {
            Fault::Fin => self.close(now, How::Fin, Why::Fault),
            Fault::Rst => self.close(now, How::Rst, Why::Fault),
            Fault::Refuse { span } => self.restart(now, span),
            Fault::Unreachable { span } => {
                self.faults.unreachable = Some(now + span);
                self.act(Action::Listen(self.faults.listening()));
            }
            Fault::Blackhole { span } => self.faults.blackhole = Some(now + span),
            Fault::Stolen { life, span } => {
                if let Some(link) = &mut self.link {
                    link.steal_at = Some(now + draw_span(&mut self.rng, &life));
                }
                self.faults.stolen = Some((now + span, life));
            }
            Fault::Storm { span } => {
                self.faults.storm = Some(now + span);
                self.close(now, How::Fin, Why::Fault);
            }
            Fault::Stall { frames } => {
                self.faults.stall = Some(frames);
                self.provoke_handshake(now);
            }
            Fault::Cut { handshake, frames } => {
                self.faults.cut = Some((frames, handshake));
                if handshake {
                    self.provoke_handshake(now);
                } else {
                    (0..=frames).for_each(|_| self.say_something(now));
                }
            }
            Fault::Torn => {
                self.faults.torn = true;
                self.say_something(now);
                self.say_something(now);
            }
            Fault::Pause { span } => {
                self.faults.pause = Some(span);
                self.say_something(now);
            }
            Fault::Text { lines } => {
                for _ in 0..lines {
                    let line = self.log_line(now);
                    if let Some(link) = self.link.as_mut().filter(|link| !link.void) {
                        link.output.push(&line);
                    }
                }
                self.config.stream.text = Chance::percent(50);
            }
            Fault::Full { span, lost } => self.faults.full = Some((now + span, lost)),
            Fault::RefuseN(res) => self.faults.refusals = res.into(),
            Fault::Unasked { every } => {
                self.config.stream.unasked = Some(every);
                self.say_unasked(now);
            }
            Fault::Renumber => {
                self.mesh.renumber();
                self.reboot(now);
            }
            Fault::Big => {
                self.mesh.grow(250);
                let unix_time = self.unix_time(now);
                for _ in self.phone.packets()..self.config.queues.packets {
                    if let Some(packet) = self.air.text(&self.mesh, unix_time) {
                        self.tell(now, packet);
                    }
                }
            }
            lasting => change(&mut self.config, &lasting),
        }
        self.pump(now);
    }

    /// Ends all faults. Connections stay as they are, what was lost stays lost.
    pub fn recover(&mut self, now: Instant) {
        let listening = self.faults.listening();
        self.faults = Active::default();
        self.config.clone_from(&self.baseline);
        if let Some(link) = &mut self.link {
            link.steal_at = None;
            link.stalled = false;
        }
        if listening != Listening::Open {
            self.act(Action::Listen(Listening::Open));
        }
        self.record(now, Record::Recovered);
        self.arm_unasked(now);
        self.start_transmitting(now);
        self.pump(now);
    }

    /// Makes the lasting faults part of the node: [`SimNode::recover`] leaves them as they are.
    pub fn adopt(&mut self) {
        self.baseline.clone_from(&self.config);
    }

    /// Ends the faults whose time is over.
    pub(super) fn end_faults(&mut self, now: Instant) {
        let due = |until: &mut Option<Instant>| until.take_if(|until| *until <= now).is_some();
        let faults = &mut self.faults;
        let before = faults.listening();
        let over = [
            ("refuse", due(&mut faults.refuse)),
            ("unreachable", due(&mut faults.unreachable)),
            ("blackhole", due(&mut faults.blackhole)),
            ("storm", due(&mut faults.storm)),
            ("stolen", faults.stolen.take_if(|(until, _)| *until <= now).is_some()),
            ("full", faults.full.take_if(|(until, _)| *until <= now).is_some()),
        ];
        let unasked = due(&mut faults.unasked);
        let after = faults.listening();
        if after != before {
            self.act(Action::Listen(after));
        }
        for (name, _) in over.into_iter().filter(|(_, over)| *over) {
            self.record(now, Record::Over(name));
        }
        self.start_transmitting(now);
        if unasked {
            self.say_unasked(now);
        }
    }

    /// Restarts the node; connections are refused until it has booted.
    pub(super) fn restart(&mut self, now: Instant, span: Duration) {
        self.reboot(now);
        self.faults.refuse = Some(now + span);
        self.act(Action::Listen(self.faults.listening()));
    }

    /// A line as the firmware's log prints it; one in four is not UTF-8.
    pub(super) fn log_line(&mut self, now: Instant) -> Vec<u8> {
        let seconds = now.as_millis() / 1000;
        let id = self.rng.next_u32();
        let mut line = format!("INFO  | ??:??:?? {seconds} [Router] heard id=0x{id:08x} ");
        line.push_str("\x1b[32mok\x1b[0m");
        let mut line = line.into_bytes();
        if id.is_multiple_of(4) {
            line.extend([0xFF, 0xFE, 0xC3, 0x28]);
        }
        line.extend(b"\r\n");
        line
    }

    /// Resets the connection unless a handshake is under way, so that one follows.
    fn provoke_handshake(&mut self, now: Instant) {
        if self.link.as_ref().is_some_and(super::conn::Conn::is_live) {
            self.close(now, How::Rst, Why::Fault);
        }
    }

    /// A packet of the node's own, its telemetry.
    fn say_something(&mut self, now: Instant) {
        let metrics = DeviceMetrics {
            battery_level: Some(101),
            uptime_seconds: Some((now.as_millis() / 1000) as u32),
            ..DeviceMetrics::default()
        };
        let variant = Some(telemetry::Variant::DeviceMetrics(metrics));
        let message = Telemetry { time: self.unix_time(now), variant };
        let data = Data {
            portnum: PortNum::TelemetryApp as i32,
            payload: message.encode_to_vec(),
            ..Data::default()
        };
        let packet = MeshPacket {
            from: self.mesh.num,
            to: BROADCAST,
            id: clean_number(&mut self.rng),
            rx_time: self.unix_time(now),
            payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
            ..MeshPacket::default()
        };
        self.tell(now, packet);
    }

    /// A queue status that nobody asked for, every other one with an id that nobody sent; plans
    /// the next.
    fn say_unasked(&mut self, now: Instant) {
        let id = if self.rng.below(2) == 0 { 0 } else { clean_number(&mut self.rng) };
        let status: QueueStatus = self.status(0, id);
        self.push_status(now, status);
        self.arm_unasked(now);
    }

    pub(super) fn arm_unasked(&mut self, now: Instant) {
        let least = Duration::from_millis(1);
        self.faults.unasked = self.config.stream.unasked.map(|every| now + every.max(least));
    }
}

/// Makes a lasting fault part of how the node behaves.
fn change(config: &mut SimConfig, fault: &Fault) {
    match fault {
        Fault::SlowDrain => config.stream.close_on_short_write = true,
        Fault::StaleNonce => config.stream.stale_nonce = true,
        Fault::Rate => {
            config.limits.enforced = true;
            config.timing.input_delay = Duration::from_millis(300);
        }
        Fault::Repeat => config.limits.repeats = true,
        Fault::Burst => {
            config.queues.statuses = 2;
            config.timing.active_poll = Duration::from_millis(500);
            config.timing.idle_poll = Duration::from_millis(500);
        }
        Fault::Coalesce => {
            config.timing.active_poll = Duration::from_millis(250);
            config.timing.idle_poll = Duration::from_millis(250);
        }
        Fault::Shared { chance } => config.heartbeat.shared = *chance,
        Fault::Mute => config.heartbeat.answered = false,
        Fault::IdleKick => config.timing.idle_limit = Some(Duration::from_secs(900)),
        Fault::BadUtf8 => config.identity.bad_utf8 = true,
        Fault::NoFin => config.stream.notices_fin = false,
        Fault::ShortWrite => config.stream.write_limit = Some(1),
        Fault::Nonce1 => config.heartbeat.nonce_one = true,
        // The others are played by `inject` itself.
        _ => {}
    }
}

#[cfg(test)]
mod tests;
