//! When to ask the node whether it is alive, how long to wait, and when to believe it is not.
//!
//! Liveness is question and answer, never the mesh's traffic: after 15 s without a byte a heartbeat
//! goes out, any byte within 12 s is life, one more try, so that a dead link is known after 39 s.
//! A phone on the same node may take an answer away, so each question is repeated every 4 s.
//! Firmware before 2.7.6 does not answer. Such a *mute* node is recognised by behaviour: only after
//! two heartbeats were answered is silence held against a node; a node that lets three pass is mute
//! and never dropped for silence. Its death is the transport's to find.

use core::num::NonZeroU32;
use core::time::Duration;

use heapless::Vec;

use crate::peek::wire::push_varint;
use crate::time::{Instant, Span};

/// The payload of a plain heartbeat: `ToRadio { heartbeat {} }`.
pub const PLAIN: [u8; 2] = [0x3A, 0x00];

/// The nonce of a heartbeat, which cannot be 1: from firmware 2.7.23 on a heartbeat with nonce 1
/// makes the node broadcast its `NodeInfo` over the whole mesh and is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Nonce(Option<NonZeroU32>);

impl Nonce {
    /// No nonce: the plain heartbeat that every firmware takes.
    pub const NONE: Self = Self(None);

    /// The nonce `value`; `None` for 1.
    pub const fn new(value: u32) -> Option<Self> {
        match value {
            1 => None,
            _ => Some(Self(NonZeroU32::new(value))),
        }
    }

    /// The number on the wire; 0 is none.
    pub const fn value(self) -> u32 {
        match self.0 {
            None => 0,
            Some(value) => value.get(),
        }
    }

    /// The payload of a heartbeat with this nonce.
    pub fn payload(self) -> Vec<u8, 8> {
        let mut varint = Vec::<u8, 5>::new();
        let value = self.value();
        if value != 0 {
            push_varint(&mut varint, value);
        }
        let mut out = Vec::new();
        // Room for all: two bytes, a tag and the longest varint.
        let _ = out.push(PLAIN[0]);
        let _ = match value {
            0 => out.push(0),
            _ => out.push(1 + varint.len() as u8).and_then(|()| out.push(0x08)),
        };
        let _ = out.extend_from_slice(&varint);
        out
    }
}

/// The numbers of the heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct HeartbeatConfig {
    /// Silence after which the node is asked. Default 15 s; 100 ms to 5 min.
    pub quiet: Span,
    /// How long any byte may take after that. Default 12 s, for an ESP32 that writes to a slow
    /// peer can be away for 10 s; 100 ms to 60 s.
    pub answer: Span,
    /// How often an unanswered question is repeated within that time: another transport of the node
    /// may have taken the answer. Default 4 s; 100 ms to 60 s, from `answer` on it means never.
    pub again: Span,
    /// Unanswered questions in a row that end the link. Default 2; 1 to 10.
    pub strikes: u8,
    /// Something is sent at least this often, because the node drops a client that sent nothing
    /// for 15 min (2.7.21 and newer). Default 5 min; at least `quiet`, at most 14 min.
    pub keepalive: Span,
    /// How long after the handshake a node that is not known to answer is asked. Default 2 s, at
    /// least 1 s: an unasked queue status often follows the handshake and proves nothing.
    pub probe: Span,
    /// How often a mute node is asked. Default 60 s; at least `quiet`, at most `keepalive`.
    pub mute: Span,
    /// What the heartbeats carry. Default none.
    pub nonce: Nonce,
}

impl HeartbeatConfig {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        quiet: Span::from_secs(15),
        answer: Span::from_secs(12),
        again: Span::from_secs(4),
        strikes: 2,
        keepalive: Span::from_secs(300),
        probe: Span::from_secs(2),
        mute: Span::from_secs(60),
        nonce: Nonce::NONE,
    };
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What is known of a node's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Answers {
    /// Not enough was seen; this many heartbeats were answered, this many were not.
    Unproven {
        /// Answered so far: 0 or 1.
        answered: u8,
        /// Unanswered in a row: 0 to 2.
        missed: u8,
    },
    /// The node answers; its silence means death.
    Proven,
    /// The node never answers; its silence means nothing.
    Mute,
}

impl Answers {
    const NOTHING_SEEN: Self = Self::Unproven { answered: 0, missed: 0 };
}

/// Answers that prove a node: one may be an unasked queue status.
const PROOF: u8 = 2;
/// Heartbeats unanswered in a row that make an unproven node mute.
const MUTE_AFTER: u8 = 3;

/// What [`Heartbeat::handle_timeout`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Expired {
    /// Nothing that the link must act on.
    Nothing,
    /// A first question went unanswered.
    Suspected,
    /// The node is found to be mute.
    Mute,
    /// The last question went unanswered: the link is dead.
    Dead,
}

/// The question, as far as it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// Not asked; the next one is due at this moment.
    Resting(Instant),
    /// To be written; a transport that takes no byte may keep it here. Any byte counts until then.
    Due { deadline: Instant },
    /// Written. It is repeated at `again`; any byte counts until `deadline`.
    Asked { again: Instant, deadline: Instant },
}

/// The heartbeat of one link, across sessions; what it learnt of the node outlives them.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    config: HeartbeatConfig,
    answers: Answers,
    question: Question,
    /// A node that had answered once was dropped for silence before it was proven; it is mute if
    /// that happens again.
    doubted: bool,
    /// Questions in a row after which no byte came.
    strikes: u8,
    last_received: Instant,
    last_sent: Instant,
    /// When an unproven node is to be asked although it is not quiet; else never.
    probe: Instant,
    /// When the question was asked for which an answer, not just any byte, is still missing.
    unanswered: Option<Instant>,
    /// The last question that was answered, and its answer.
    answered: Option<(Instant, Instant)>,
}

impl Heartbeat {
    /// A heartbeat that knows nothing of its node.
    #[inline(always)]
    pub const fn new(config: HeartbeatConfig) -> Self {
        Self {
            config,
            answers: Answers::NOTHING_SEEN,
            question: Question::Resting(Instant::ORIGIN),
            doubted: false,
            strikes: 0,
            last_received: Instant::ORIGIN,
            last_sent: Instant::ORIGIN,
            probe: Instant::NEVER,
            unanswered: None,
            answered: None,
        }
    }

    /// A session began: nothing is due until the handshake is over.
    pub fn handle_opened(&mut self, now: Instant) {
        (self.strikes, self.unanswered, self.probe) = (0, None, Instant::NEVER);
        (self.last_received, self.last_sent) = (now, now);
        self.rest();
    }

    /// The handshake is over: from now on silence counts. The opening heartbeat was answered before
    /// its end or not at all; a status that follows is one that nobody asked for.
    pub fn handle_configured(&mut self, now: Instant) {
        (self.strikes, self.unanswered) = (0, None);
        self.last_received = now;
        self.probe_if_unproven(now);
        self.rest();
    }

    /// Bytes arrived: the node lives. Returns whether it was suspected not to.
    pub fn handle_received(&mut self, now: Instant) -> bool {
        self.last_received = now;
        self.rest();
        core::mem::take(&mut self.strikes) > 0
    }

    /// A queue status without a packet id arrived: the answer to the heartbeat before it, if one is
    /// unanswered. Returns whether it was.
    pub fn handle_answer(&mut self, now: Instant) -> bool {
        let Some(asked) = self.unanswered.take() else { return false };
        self.answered = Some((asked, now));
        self.answers = match self.answers {
            Answers::Proven => Answers::Proven,
            Answers::Unproven { answered, .. } if answered + 1 >= PROOF => {
                self.doubted = false;
                Answers::Proven
            }
            Answers::Unproven { answered, .. } => {
                Answers::Unproven { answered: answered + 1, missed: 0 }
            }
            Answers::Mute => Answers::Unproven { answered: 1, missed: 0 },
        };
        self.probe_if_unproven(now);
        self.rest();
        true
    }

    /// The last byte of a frame was written.
    pub fn handle_sent(&mut self, now: Instant) {
        self.last_sent = now;
        if let Question::Resting(_) = self.question {
            self.rest();
        }
    }

    /// The last byte of a heartbeat was written.
    pub fn handle_asked(&mut self, now: Instant) {
        self.last_sent = now;
        self.probe = Instant::NEVER;
        self.unanswered = Some(now);
        let deadline = match self.question {
            Question::Resting(_) => now + self.config.answer,
            Question::Due { deadline } | Question::Asked { deadline, .. } => deadline,
        };
        let again = match self.answers {
            Answers::Mute => deadline,
            _ => now + self.config.again,
        };
        self.question = Question::Asked { again, deadline };
    }

    /// What was learnt of the node is in doubt: it was lost for want of an answer, or another node
    /// answers at its address.
    pub fn forget(&mut self) {
        self.answers = Answers::NOTHING_SEEN;
    }

    /// Lets time pass; does nothing before [`Heartbeat::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) -> Expired {
        match self.question {
            Question::Due { deadline } | Question::Asked { deadline, .. } if now >= deadline => {
                self.expire(now)
            }
            Question::Asked { again, deadline } if now >= again => {
                self.question = Question::Due { deadline };
                Expired::Nothing
            }
            Question::Resting(at) if now >= at => {
                self.question = Question::Due { deadline: now + self.config.answer };
                Expired::Nothing
            }
            _ => Expired::Nothing,
        }
    }

    /// The next moment at which [`Heartbeat::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Instant {
        match self.question {
            Question::Resting(at) => at,
            Question::Due { deadline } => deadline,
            Question::Asked { again, deadline } => again.min(deadline),
        }
    }

    /// Whether a heartbeat is to be written now.
    pub const fn is_due(&self) -> bool {
        matches!(self.question, Question::Due { .. })
    }

    /// When the last heartbeat was written, if it is unanswered.
    pub const fn unanswered(&self) -> Option<Instant> {
        self.unanswered
    }

    /// What a heartbeat carries.
    pub const fn nonce(&self) -> Nonce {
        self.config.nonce
    }

    /// What is known of the node's answers.
    pub const fn answers(&self) -> Answers {
        self.answers
    }

    /// The span between the last answered question and its answer.
    pub fn round_trip(&self) -> Option<Duration> {
        self.answered.map(|(asked, answered)| answered.since(asked))
    }

    /// When the last byte arrived.
    pub const fn last_received(&self) -> Instant {
        self.last_received
    }

    /// A question got no byte in time, or could not even be written in that time.
    fn expire(&mut self, now: Instant) -> Expired {
        let deadline = now + self.config.answer;
        // A barrier may have asked a moment ago: then that is the next question.
        self.question = match self.unanswered.map(|asked| asked + self.config.again) {
            Some(again) if again > now => Question::Asked { again, deadline },
            _ => {
                self.unanswered = None;
                Question::Due { deadline }
            }
        };
        let last_strike = self.strikes.saturating_add(1) >= self.config.strikes;
        match self.answers {
            // It may have died before it was proven; if it is there again, and again silent, it
            // was not death.
            Answers::Unproven { answered: 1.., .. } if last_strike && !self.doubted => {
                self.doubted = true;
                return Expired::Dead;
            }
            Answers::Mute => {
                self.rest();
                return Expired::Nothing;
            }
            Answers::Unproven { missed, .. } if missed + 1 >= MUTE_AFTER => {
                self.answers = Answers::Mute;
                self.strikes = 0;
                self.rest();
                return Expired::Mute;
            }
            Answers::Unproven { answered, missed } => {
                self.answers = Answers::Unproven { answered, missed: missed + 1 };
            }
            Answers::Proven => {}
        }
        self.strikes = self.strikes.saturating_add(1);
        match self.answers {
            Answers::Proven if last_strike => Expired::Dead,
            _ if self.strikes == 1 => Expired::Suspected,
            _ => Expired::Nothing,
        }
    }

    fn probe_if_unproven(&mut self, now: Instant) {
        if let Answers::Unproven { .. } = self.answers {
            self.probe = now + self.config.probe;
        }
    }

    /// The one place that decides when to ask next.
    fn rest(&mut self) {
        let quiet = match self.answers {
            Answers::Mute => self.last_sent.max(self.last_received) + self.config.mute,
            _ => self.last_received + self.config.quiet,
        };
        let at = quiet.min(self.last_sent + self.config.keepalive);
        self.question = Question::Resting(at.min(self.probe));
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    /// Lets time pass second by second; heartbeats are written at once and answered as `answer`
    /// says. Returns what happened, with its second.
    fn play(
        heartbeat: &mut Heartbeat,
        seconds: core::ops::Range<u64>,
        answer: impl Fn(u64) -> bool,
    ) -> Vec<(u64, &'static str)> {
        let mut seen = Vec::new();
        for second in seconds {
            let now = at(second);
            match heartbeat.handle_timeout(now) {
                Expired::Nothing => {}
                Expired::Suspected => seen.push((second, "suspected")),
                Expired::Mute => seen.push((second, "mute")),
                Expired::Dead => {
                    seen.push((second, "dead"));
                    return seen;
                }
            }
            if heartbeat.is_due() {
                heartbeat.handle_asked(now);
                seen.push((second, "asked"));
                if answer(second) {
                    heartbeat.handle_received(now);
                    heartbeat.handle_answer(now);
                }
            }
        }
        seen
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    fn proven() -> Heartbeat {
        let mut heartbeat = Heartbeat::new(HeartbeatConfig::default());
        heartbeat.answers = Answers::Proven;
        heartbeat.handle_opened(at(0));
        heartbeat.handle_configured(at(0));
        heartbeat
    }

    #[test]
    fn a_dead_link_is_known_after_39_seconds() {
        let seen = play(&mut proven(), 0..100, |_| false);
        assert_eq!(
            seen,
            [
                (15, "asked"),
                (19, "asked"),
                (23, "asked"),
                (27, "suspected"),
                (27, "asked"),
                (31, "asked"),
                (35, "asked"),
                (39, "dead")
            ],
            "15 s of silence, 12 s for an answer, one more try"
        );
    }

    #[test]
    fn a_quiet_mesh_is_asked_and_kept() {
        let seen = play(&mut proven(), 0..61, |_| true);
        assert_eq!(seen, [(15, "asked"), (30, "asked"), (45, "asked"), (60, "asked")]);
    }

    #[test]
    fn any_byte_is_life() {
        let mut heartbeat = proven();
        play(&mut heartbeat, 0..30, |_| false);
        assert!(heartbeat.handle_received(at(30)), "it was suspected");
        assert_eq!(play(&mut heartbeat, 30..46, |_| false), [(45, "asked")]);
        assert_eq!(heartbeat.poll_timeout(), at(49), "asked again 4 s later");
    }

    #[test]
    fn a_busy_mesh_is_still_asked_every_five_minutes() {
        let mut heartbeat = proven();
        let mut asked = Vec::new();
        for second in 0..=900 {
            heartbeat.handle_received(at(second));
            heartbeat.handle_timeout(at(second));
            if heartbeat.is_due() {
                heartbeat.handle_asked(at(second));
                asked.push(second);
            }
        }
        assert_eq!(asked, [300, 600, 900]);
    }

    #[test]
    fn two_answers_prove_a_node() {
        let mut heartbeat = Heartbeat::new(HeartbeatConfig::default());
        heartbeat.handle_opened(at(0));
        heartbeat.handle_asked(at(0));
        heartbeat.handle_answer(at(0));
        heartbeat.handle_configured(at(1));
        assert_eq!(heartbeat.answers(), Answers::Unproven { answered: 1, missed: 0 });
        assert_eq!(play(&mut heartbeat, 1..4, |_| true), [(3, "asked")]);
        assert_eq!(heartbeat.answers(), Answers::Proven);
    }

    #[test]
    fn a_status_that_nobody_asked_for_proves_nothing() {
        let mut heartbeat = Heartbeat::new(HeartbeatConfig::default());
        heartbeat.handle_opened(at(0));
        heartbeat.handle_configured(at(0));
        for _ in 0..5 {
            heartbeat.handle_answer(at(0));
        }
        assert_eq!(heartbeat.answers(), Answers::Unproven { answered: 0, missed: 0 });
    }

    #[test]
    fn a_mute_node_is_never_dropped() {
        let mut heartbeat = Heartbeat::new(HeartbeatConfig::default());
        heartbeat.handle_opened(at(0));
        heartbeat.handle_configured(at(0));
        let seen = play(&mut heartbeat, 0..1000, |_| false);
        let (learning, mute): (Vec<_>, Vec<_>) = seen.iter().partition(|(at, _)| *at <= 38);
        let told: Vec<_> = learning.into_iter().filter(|(_, what)| *what != "asked").collect();
        assert_eq!(told, [(14, "suspected"), (38, "mute")]);
        assert!(mute.iter().all(|(_, what)| *what == "asked"), "{mute:?}");
        assert_eq!(mute[..2], [(94, "asked"), (154, "asked")], "once a minute from the last");
    }

    /// One that answered the opening heartbeat and nothing since.
    fn half_proven(heartbeat: &mut Heartbeat) {
        heartbeat.handle_opened(at(0));
        heartbeat.handle_asked(at(0));
        heartbeat.handle_answer(at(0));
        heartbeat.handle_configured(at(0));
    }

    #[test]
    fn a_node_that_dies_before_it_is_proven_is_dropped_once() {
        let mut heartbeat = Heartbeat::new(HeartbeatConfig::default());
        half_proven(&mut heartbeat);
        assert_eq!(play(&mut heartbeat, 0..100, |_| false).last(), Some(&(26, "dead")));
        heartbeat.forget();
        half_proven(&mut heartbeat);
        let seen = play(&mut heartbeat, 0..1000, |_| false);
        assert!(seen.iter().all(|(_, what)| *what != "dead"), "{seen:?}");
        assert_eq!(heartbeat.answers(), Answers::Mute);
    }

    #[test]
    fn a_status_that_follows_the_handshake_is_no_answer() {
        let mut heartbeat = Heartbeat::new(HeartbeatConfig::default());
        heartbeat.handle_opened(at(0));
        heartbeat.handle_asked(at(0));
        heartbeat.handle_configured(at(1));
        assert!(!heartbeat.handle_answer(at(1)));
    }

    #[test]
    fn a_node_that_begins_to_answer_is_no_longer_mute() {
        let mut heartbeat = Heartbeat::new(HeartbeatConfig::default());
        heartbeat.handle_opened(at(0));
        heartbeat.handle_configured(at(0));
        play(&mut heartbeat, 0..40, |_| false);
        assert_eq!(heartbeat.answers(), Answers::Mute);
        play(&mut heartbeat, 40..120, |_| true);
        assert_eq!(heartbeat.answers(), Answers::Proven);
    }

    #[test]
    fn a_transport_that_takes_no_byte_is_a_strike_too() {
        let mut heartbeat = proven();
        let mut dead = None;
        for second in 0..100 {
            if heartbeat.handle_timeout(at(second)) == Expired::Dead {
                dead = Some(second);
                break;
            }
        }
        assert_eq!(dead, Some(39));
    }

    #[test]
    fn an_answer_that_another_transport_took_is_asked_for_again() {
        let mut heartbeat = proven();
        let seen = play(&mut heartbeat, 0..40, |second| second == 23);
        assert_eq!(seen, [(15, "asked"), (19, "asked"), (23, "asked"), (38, "asked")]);
    }

    #[test]
    fn a_question_that_is_written_late_has_no_more_time_for_it() {
        let mut heartbeat = proven();
        heartbeat.handle_timeout(at(15));
        heartbeat.handle_asked(at(26));
        assert_eq!(heartbeat.handle_timeout(at(27)), Expired::Suspected);
    }

    #[test]
    fn calls_before_the_deadline_do_nothing() {
        let mut heartbeat = proven();
        assert_eq!(heartbeat.handle_timeout(at(14)), Expired::Nothing);
        assert!(!heartbeat.is_due());
        assert_eq!(heartbeat.poll_timeout(), at(15));
    }

    #[test]
    fn the_nonce_cannot_be_1() {
        assert_eq!(Nonce::new(1), None);
        assert_eq!(Nonce::new(0), Some(Nonce::NONE));
        let payload = |value| Nonce::new(value).unwrap().payload();
        assert_eq!(payload(0), PLAIN);
        assert_eq!(payload(2), [0x3A, 2, 0x08, 2]);
        assert_eq!(payload(u32::MAX), [0x3A, 6, 0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]);
    }
}
