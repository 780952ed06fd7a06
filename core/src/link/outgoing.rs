//! What a link says, and when: the one frame that goes next.

use heapless::Vec;

use crate::config::Ask;
use crate::fmt::debug;
use crate::mutant::Mutant;
use crate::peek::wire::push_varint;
use crate::time::{Instant, Span};

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
const WAKE_PAUSE: Span = Span::from_millis(100);

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
            State::Up { .. } if now >= self.heartbeat_for_outbox() => Sending::Heartbeat,
            State::Up { .. } if self.can_send() => Sending::Packet,
            _ => return None,
        };
        let pushed = match next {
            Sending::Wake => self.tx.push_wake(),
            Sending::Heartbeat => self.tx.push_frame(&self.heartbeat.nonce().payload()),
            Sending::WantConfig(nonce) => self.tx.push_frame(&want_config(nonce)),
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
            && now >= self.refresh_due()
        {
            self.refresh = Refresh::UnderWay;
            self.nameless = false;
            self.enter(State::Configuring { opened, asked: Asked::Due(now) });
        }
    }

    /// From when on the configuration may be asked for anew; never if nobody wants it.
    pub(super) fn refresh_due(&self) -> Instant {
        match self.refresh {
            Refresh::Wanted if !self.outbox.is_in_flight() => self.ask_from,
            _ => Instant::NEVER,
        }
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
                (self.ask_from, self.met) = (now + self.handshake.gap, false);
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
    pub(super) fn heartbeat_for_outbox(&self) -> Instant {
        let from = self.outbox.heartbeat_from();
        match self.heartbeat.unanswered() {
            Some(asked) if !self.mutation.is(Mutant::TwoHeartbeats) => {
                from.max(asked + self.outbox.patience())
            }
            _ => from,
        }
    }
}

/// The payload `ToRadio { disconnect: true }`.
pub(super) const DISCONNECT: [u8; 2] = [0x20, 0x01];

/// The payload `ToRadio { want_config_id: nonce }`.
pub(super) fn want_config(nonce: u32) -> Vec<u8, 6> {
    let mut out = Vec::new();
    // Room for all: a tag and the longest varint.
    let _ = out.push(0x18);
    push_varint(&mut out, nonce);
    out
}
