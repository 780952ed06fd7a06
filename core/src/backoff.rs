//! How long to wait before the next connect: twice as long each time, with jitter, for ever.

use core::time::Duration;

use heapless::Deque;

use crate::time::{Instant, millis};

/// The numbers of the back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct BackoffConfig {
    /// The first step. Default 800 ms, so that with jitter a retry comes within 1 s; 1 ms to `cap`.
    pub first: Duration,
    /// No delay is longer. Default 60 s; at most `crowded_cap`.
    pub cap: Duration,
    /// The cap after more than 20 handshakes within an hour. Default 5 min, at most 1 h. An ESP32
    /// was exhausted by one handshake per 11 s in 85 minutes.
    pub crowded_cap: Duration,
    /// A session longer than this halves the step instead of doubling it. Default 30 s.
    pub steady: Duration,
    /// A session longer than this starts over with `first`. Default 10 min; at least `steady`.
    pub settled: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(800),
            cap: Duration::from_secs(60),
            crowded_cap: Duration::from_secs(300),
            steady: Duration::from_secs(30),
            settled: Duration::from_secs(600),
        }
    }
}

/// Handshakes within [`HOUR`] that a node bears; one more and it is crowded.
const CROWD: usize = 20;
const HOUR: Duration = Duration::from_secs(3600);

/// Steps are doubled at most this often: 800 ms × 2¹⁶ is over any cap.
const MAX_STEP: u8 = 16;

/// The jitter: a delay lies between 80 % and 120 % of its step.
const JITTER_PERCENT: u64 = 20;

/// Remembers how often connecting has failed, and how often it has succeeded lately.
#[derive(Debug, Clone)]
pub struct Backoff {
    config: BackoffConfig,
    /// How often the first step has been doubled for the next delay.
    step: u8,
    /// When the last handshakes began, oldest first.
    handshakes: Deque<Instant, { CROWD + 1 }>,
}

impl Backoff {
    /// A back-off before its first attempt.
    pub const fn new(config: BackoffConfig) -> Self {
        Self { config, step: 0, handshakes: Deque::new() }
    }

    /// A handshake began: `want_config_id` was written.
    pub fn handle_handshake(&mut self, now: Instant) {
        if self.handshakes.is_full() {
            self.handshakes.pop_front();
        }
        // Never full here.
        let _ = self.handshakes.push_back(now);
    }

    /// The transport is gone, or could not be opened; `session` is how long it was open. Returns
    /// how long to wait before the next attempt. `random` is any number, all 32 bits used.
    pub fn handle_lost(
        &mut self,
        now: Instant,
        session: Option<Duration>,
        random: u32,
    ) -> Duration {
        let crowded = self.is_crowded(now);
        match session {
            Some(session) if session > self.config.settled => self.step = 0,
            // While the node is crowded, sessions of half a minute are part of the trouble.
            Some(session) if session > self.config.steady && !crowded => {
                self.step = self.step.saturating_sub(2);
            }
            _ => {}
        }
        let cap = if crowded { self.config.crowded_cap } else { self.config.cap };
        let delay = delay(self.config.first, cap, self.step, random);
        if self.config.first.saturating_mul(1 << self.step) < cap {
            self.step = (self.step + 1).min(MAX_STEP);
        }
        delay
    }

    /// Starts over with the first step.
    pub(crate) fn reset(&mut self) {
        self.step = 0;
    }

    /// Whether there were more than 20 handshakes in the hour before `now`.
    pub fn is_crowded(&self, now: Instant) -> bool {
        self.handshakes.is_full()
            && self.handshakes.front().is_some_and(|first| now.since(*first) < HOUR)
    }
}

/// `first` doubled `step` times, ± 20 % by `random`, at most `cap`.
fn delay(first: Duration, cap: Duration, step: u8, random: u32) -> Duration {
    let cap = millis(cap);
    let step = millis(first).saturating_mul(1 << step).min(cap);
    let percent_of_random = (u64::from(random) * (2 * JITTER_PERCENT + 1)) >> 32;
    let percent = 100 - JITTER_PERCENT + percent_of_random;
    Duration::from_millis((step * percent / 100).clamp(1, cap))
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

    fn seconds(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n))
    }

    #[test]
    fn doubles_up_to_the_cap_and_stays() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        let delays: heapless::Vec<u64, 9> =
            (0..9).map(|_| millis(backoff.handle_lost(at(0), None, MIDDLE))).collect();
        assert_eq!(delays, [800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
    }

    #[test]
    fn jitter_is_a_fifth_either_way_and_never_over_the_cap() {
        let first = Duration::from_millis(800);
        let cap = Duration::from_secs(60);
        assert_eq!(delay(first, cap, 0, LOW), Duration::from_millis(640));
        assert_eq!(delay(first, cap, 0, HIGH), Duration::from_millis(960));
        assert_eq!(delay(first, cap, 9, LOW), Duration::from_secs(48));
        assert_eq!(delay(first, cap, 9, HIGH), cap);
    }

    #[test]
    fn a_session_over_half_a_minute_halves_over_ten_minutes_resets() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        for _ in 0..5 {
            backoff.handle_lost(at(0), None, MIDDLE);
        }
        let mut next = |session| millis(backoff.handle_lost(at(0), session, MIDDLE));
        assert_eq!(next(seconds(30)), 25600, "30 s is not over 30 s: doubled from 12.8 s");
        assert_eq!(next(seconds(31)), 12800);
        assert_eq!(next(seconds(31)), 6400);
        assert_eq!(next(seconds(601)), 800);
        assert_eq!(next(None), 1600);
    }

    #[test]
    fn a_cap_change_does_not_overshoot() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        for _ in 0..50 {
            backoff.handle_lost(at(0), None, MIDDLE);
        }
        // One session halves what was at the cap, however long it was there.
        assert!(millis(backoff.handle_lost(at(0), seconds(60), MIDDLE)) <= 30_000);
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
        let last = (0..12).map(|_| backoff.handle_lost(at(21), seconds(60), MIDDLE)).last();
        assert_eq!(last, seconds(300), "sessions of a minute do not shorten the delay now");
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
            now = now + Duration::from_secs(60);
            now = now + backoff.handle_lost(now, seconds(60), MIDDLE);
        }
        assert!((8..=25).contains(&last_hour), "{last_hour} handshakes in the last hour");
    }
}
