//! What a link says, and when: the one frame that goes next.

use core::time::Duration;

use crate::config::Ask;
use crate::fmt::debug;
use crate::heartbeat;
use crate::mutant::Mutant;
use crate::time::Instant;

use super::{Asked, Event, Link, Refresh, State};

/// What is in the transmit buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub(super) enum Sending {
    Wake,
    Heartbeat,
    WantConfig(u32),
    Disconnect,
    Packet,
    /// What the user handed over whole.
    Forwarded,
}

/// What a session says before its `want_config_id`, step by step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    /// Serial: the bytes that wake the node, then a pause.
    Wake,
    /// A heartbeat: firmware from 2.7.6 on answers it at once, and so shows that it answers.
    Heartbeat,
    Done,
}

/// How long a node takes to wake up.
const WAKE_PAUSE: Duration = Duration::from_millis(100);

/// The nonce that asks for everything but the other nodes, and the one that asks for nodes only.
const CONFIG_ONLY: u32 = 69420;
const NODES_ONLY: u32 = 69421;

impl<const OUTBOX: usize> Link<OUTBOX> {
    /// Puts the next frame into the empty transmit buffer.
    pub(super) fn next_frame(&mut self, now: Instant) -> Option<Sending> {
        self.begin_refresh(now);
        let next = match self.state {
            State::Closing { said: false, .. } => Sending::Disconnect,
            State::Configuring { .. } if self.greeting == Greeting::Wake => Sending::Wake,
            State::Configuring { asked: Asked::Due(_), .. } => match self.greeting {
                Greeting::Heartbeat => Sending::Heartbeat,
                Greeting::Wake | Greeting::Done => Sending::WantConfig(self.fresh_nonce()),
            },
            State::Up { .. } | State::Suspect { .. } if self.heartbeat.is_due() => {
                Sending::Heartbeat
            }
            State::Up { .. } if self.heartbeat_for_outbox().is_some_and(|at| now >= at) => {
                Sending::Heartbeat
            }
            State::Up { .. } if self.can_send() => Sending::Packet,
            _ => return None,
        };
        let pushed = match next {
            Sending::Wake => self.tx.push_wake(),
            Sending::Heartbeat => {
                let (payload, len) = self.heartbeat.nonce().payload();
                self.tx.push_frame(payload.get(..len).unwrap_or(&heartbeat::PLAIN))
            }
            Sending::WantConfig(nonce) => {
                let (payload, len) = want_config(nonce);
                self.tx.push_frame(payload.get(..len).unwrap_or(&payload))
            }
            Sending::Disconnect => self.tx.push_frame(&DISCONNECT),
            Sending::Packet => self.tx.push_frame(self.outbox.poll_packet(now)?),
            // Never chosen here: it is in the buffer from the call on that brought it.
            Sending::Forwarded => return None,
        };
        debug!("at {=u64} ms sending {}", now.as_millis(), next);
        pushed.ok().map(|()| next)
    }

    /// A packet of which the transport takes no byte waits like any other, and becomes too old.
    pub(super) fn withdraw_stale(&mut self, now: Instant) {
        if self.sending == Some(Sending::Packet)
            && !self.tx.is_half_sent()
            && self.outbox.withdraw(now)
        {
            self.clear_tx();
        }
    }

    /// Asks for the configuration anew once no packet is in flight: the node answers in order, and
    /// a packet's own status would wait behind it.
    fn begin_refresh(&mut self, now: Instant) {
        if let State::Up { opened } = self.state
            && self.refresh_due().is_some_and(|at| now >= at)
        {
            self.refresh = Refresh::UnderWay;
            self.nameless = false;
            self.enter(State::Configuring { opened, asked: Asked::Due(now) });
        }
    }

    /// From when on the configuration may be asked for anew.
    pub(super) fn refresh_due(&self) -> Option<Instant> {
        let wanted = self.refresh == Refresh::Wanted && !self.outbox.is_in_flight();
        let last = self.last_handshake.unwrap_or(Instant::ORIGIN);
        wanted.then(|| last + self.handshake.gap)
    }

    /// The last byte of a frame was taken: only now does it count.
    pub(super) fn sent(&mut self, now: Instant, sent: Sending) {
        self.heartbeat.handle_sent(now);
        if sent != Sending::Wake {
            self.stats.frames_out = self.stats.frames_out.wrapping_add(1);
        }
        match (sent, self.state) {
            (Sending::Wake, State::Configuring { opened, asked }) => {
                self.greeting = Greeting::Heartbeat;
                let at = match asked {
                    Asked::NotBefore(at) => at.max(now + WAKE_PAUSE),
                    _ => now + WAKE_PAUSE,
                };
                self.state = State::Configuring { opened, asked: Asked::NotBefore(at) };
            }
            (Sending::WantConfig(nonce), State::Configuring { opened, .. }) => {
                (self.last_handshake, self.met) = (Some(now), false);
                self.backoff.handle_handshake(now);
                let asked = Asked::With { nonce, since: now, last_frame: now };
                self.state = State::Configuring { opened, asked };
            }
            (Sending::Heartbeat, _) => {
                self.greeting = Greeting::Done;
                self.stats.heartbeats = self.stats.heartbeats.wrapping_add(1);
                self.heartbeat.handle_asked(now);
                self.outbox.handle_asked(now);
            }
            (Sending::Packet, _) => self.outbox.handle_sent(now),
            (Sending::Disconnect, State::Closing { deadline, .. }) => {
                self.enter(State::Closing { deadline, said: true });
                self.push(Event::SaidGoodbye);
            }
            // What was half written when the state changed.
            _ => {}
        }
    }

    /// A nonce that no earlier handshake had and that asks for nothing special.
    fn fresh_nonce(&mut self) -> u32 {
        if self.handshake.ask == Ask::ConfigOnly {
            return CONFIG_ONLY;
        }
        loop {
            match self.rng.next_u32() {
                0 | CONFIG_ONLY | NODES_ONLY => {}
                nonce => return nonce,
            }
        }
    }

    /// Whether packets may be written: not to a node that is suspected to be dead, and not while
    /// the one in flight is awaited so that the configuration can be asked for.
    pub(super) fn can_send(&self) -> bool {
        matches!(self.state, State::Up { .. }) && self.refresh == Refresh::No
    }

    /// From when on the outbox needs a heartbeat; one at a time, until it counts as unanswered.
    pub(super) fn heartbeat_for_outbox(&self) -> Option<Instant> {
        let from = self.outbox.heartbeat_from()?;
        if self.mutation.is(Mutant::TwoHeartbeats) {
            return Some(from);
        }
        let free = self.heartbeat.unanswered().map_or(from, |asked| asked + self.outbox.patience());
        Some(from.max(free))
    }
}

/// The payload `ToRadio { disconnect: true }`.
pub(super) const DISCONNECT: [u8; 2] = [0x20, 0x01];

/// The payload `ToRadio { want_config_id: nonce }`: so many of the bytes.
pub(super) fn want_config(nonce: u32) -> ([u8; 6], usize) {
    let mut out = [0x18, 0, 0, 0, 0, 0];
    let mut rest = nonce;
    let mut len = 1;
    for byte in out.iter_mut().skip(1) {
        len += 1;
        *byte = rest as u8 & 0x7F;
        rest >>= 7;
        if rest == 0 {
            break;
        }
        *byte |= 0x80;
    }
    (out, len)
}
