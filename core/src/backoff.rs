//! How long to wait before the next connect: twice as long each time, with jitter, for ever.

use heapless::Deque;

use crate::time::{Instant, Span};

/// The numbers of the back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct BackoffConfig {
    /// The first step. Default 800 ms, so that with jitter a retry comes within 1 s; 1 ms to `cap`.
    pub first: Span,
    /// No delay is longer. Default 60 s; at most `crowded_cap`.
    pub cap: Span,
    /// The cap after more than 20 handshakes within an hour. Default 5 min, at most 1 h. An ESP32
    /// was exhausted by one handshake per 11 s in 85 minutes.
    pub crowded_cap: Span,
    /// A session longer than this halves the step instead of doubling it. Default 30 s.
    pub steady: Span,
    /// A session longer than this starts over with `first`. Default 10 min; at least `steady`.
    pub settled: Span,
}

impl BackoffConfig {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        first: Span::from_millis(800),
        cap: Span::from_secs(60),
        crowded_cap: Span::from_secs(300),
        steady: Span::from_secs(30),
        settled: Span::from_secs(600),
    };
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Handshakes within [`HOUR`] that a node bears; one more and it is crowded.
const CROWD: usize = 20;
const HOUR: Span = Span::from_secs(3600);

/// Remembers how often connecting has failed, and how often it has succeeded lately.
#[derive(Debug, Clone)]
pub struct Backoff {
    config: BackoffConfig,
    /// The next delay before jitter and cap: `first`, doubled until it is over the cap.
    step: Span,
    /// When the last handshakes began, oldest first.
    handshakes: Deque<Instant, { CROWD + 1 }>,
}

impl Backoff {
    /// A back-off before its first attempt.
    #[inline(always)]
    pub const fn new(config: BackoffConfig) -> Self {
        Self { config, step: config.first, handshakes: Deque::new() }
    }

    /// A handshake began: `want_config_id` was written.
    pub fn handle_handshake(&mut self, now: Instant) {
        if self.handshakes.is_full() {
            self.handshakes.pop_front();
        }
        // Never full here.
        let _ = self.handshakes.push_back(now);
    }

    /// The transport is gone, or could not be opened; `opened` is when it was. Returns how long to
    /// wait before the next attempt. `random` is any number, all 32 bits used.
    pub fn handle_lost(&mut self, now: Instant, opened: Option<Instant>, random: u32) -> Span {
        let crowded = self.is_crowded(now);
        match opened {
            Some(opened) if now > opened + self.config.settled => self.reset(),
            // While the node is crowded, sessions of half a minute are part of the trouble. A
            // quarter, for the step was doubled after the delay before.
            Some(opened) if now > opened + self.config.steady && !crowded => {
                let quarter = Span::from_millis(self.step.as_millis() / 4);
                self.step = quarter.max(self.config.first);
            }
            _ => {}
        }
        let cap = if crowded { self.config.crowded_cap } else { self.config.cap };
        let delay = delay(self.step, cap, random);
        if self.step < cap {
            self.step = Span::from_millis(self.step.as_millis().saturating_mul(2));
        }
        delay
    }

    /// Starts over with the first step.
    pub(crate) fn reset(&mut self) {
        self.step = self.config.first;
    }

    /// Whether there were more than 20 handshakes in the hour before `now`.
    pub fn is_crowded(&self, now: Instant) -> bool {
        self.handshakes.is_full()
            && self.handshakes.front().is_some_and(|first| *first + HOUR > now)
    }
}

/// `step` but at most `cap`, ± 20 % by `random`, still at most `cap`; at least 1 ms.
fn delay(step: Span, cap: Span, random: u32) -> Span {
    /// 0.8 and 0.4 in 31 binary places: no division, which is long on a small microcontroller.
    const LEAST: u64 = (1 << 31) / 10 * 8;
    const RANGE: u64 = (1 << 31) / 10 * 4;
    let factor = LEAST + ((RANGE * u64::from(random)) >> 32);
    let cap = u64::from(cap.as_millis());
    let step = u64::from(step.as_millis()).min(cap);
    let delay = ((step * factor + (1 << 30)) >> 31).min(cap).max(1);
    Span::from_millis(delay as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: u32 = 0;
    const HIGH: u32 = u32::MAX;
    const MIDDLE: u32 = u32::MAX / 2;

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    /// The delay in ms after a session that ends at one day and lasted so many seconds.
    fn after(backoff: &mut Backoff, session: Option<u64>) -> u32 {
        const DAY: u64 = 86_400;
        backoff.handle_lost(at(DAY), session.map(|session| at(DAY - session)), MIDDLE).as_millis()
    }

    #[test]
    fn doubles_up_to_the_cap_and_stays() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        let delays: heapless::Vec<u32, 9> = (0..9).map(|_| after(&mut backoff, None)).collect();
        assert_eq!(delays, [800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
    }

    #[test]
    fn jitter_is_a_fifth_either_way_and_never_over_the_cap() {
        let first = Span::from_millis(800);
        let cap = Span::from_secs(60);
        assert_eq!(delay(first, cap, LOW), Span::from_millis(640));
        assert_eq!(delay(first, cap, HIGH), Span::from_millis(960));
        assert_eq!(delay(Span::MAX, cap, LOW), Span::from_secs(48));
        assert_eq!(delay(Span::MAX, cap, HIGH), cap);
        assert_eq!(delay(Span::MAX, Span::MAX, HIGH), Span::MAX);
        assert_eq!(delay(Span::ZERO, cap, HIGH), Span::from_millis(1));
    }

    #[test]
    fn a_session_over_half_a_minute_halves_over_ten_minutes_resets() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        for _ in 0..5 {
            backoff.handle_lost(at(0), None, MIDDLE);
        }
        let mut next = |session| after(&mut backoff, session);
        assert_eq!(next(Some(30)), 25600, "30 s is not over 30 s: doubled from 12.8 s");
        assert_eq!(next(Some(31)), 12800);
        assert_eq!(next(Some(31)), 6400);
        assert_eq!(next(Some(601)), 800);
        assert_eq!(next(None), 1600);
    }

    #[test]
    fn a_cap_change_does_not_overshoot() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        for _ in 0..50 {
            backoff.handle_lost(at(0), None, MIDDLE);
        }
        // One session halves what was at the cap, however long it was there.
        assert!(after(&mut backoff, Some(60)) <= 30_000);
    }

    #[test]
    fn more_than_twenty_handshakes_an_hour_raise_the_cap() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        for second in 0..20 {
            backoff.handle_handshake(at(second));
        }
        assert!(!backoff.is_crowded(at(20)));
        backoff.handle_handshake(at(20));
        assert!(backoff.is_crowded(at(20)));
        let last = (0..12).map(|_| backoff.handle_lost(at(61), Some(at(0)), MIDDLE)).last();
        let longest = Some(Span::from_secs(300));
        assert_eq!(last, longest, "sessions of a minute do not shorten the delay now");
        assert!(!backoff.is_crowded(at(3600)), "the first handshake is an hour old");
    }

    /// A node that is stolen every minute settles near 20 handshakes an hour.
    #[test]
    fn a_contended_node_is_left_in_peace() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        let mut now = at(0);
        let mut last_hour = 0;
        while now < at(10 * 3600) {
            backoff.handle_handshake(now);
            last_hour += usize::from(now >= at(9 * 3600));
            let opened = Some(now);
            now = now + Span::from_secs(61);
            now = now + backoff.handle_lost(now, opened, MIDDLE);
        }
        assert!((8..=25).contains(&last_hour), "{last_hour} handshakes in the last hour");
    }
}
