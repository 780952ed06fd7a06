//! Random faults at random times, from a seed.

use core::time::Duration;

use meshbeat_core::rng::Rng;
use meshbeat_core::time::Instant;

use super::Fault;

/// Picks one of a set of faults again and again. Without I/O: ask [`Schedule::poll_timeout`] when
/// the next one is due and call [`Schedule::handle_timeout`] then; a
/// [`SimNode`](super::SimNode) that was given one does so itself.
#[derive(Debug, Clone)]
pub struct Schedule {
    faults: Vec<Fault>,
    every: Duration,
    next: Instant,
    rng: Rng,
}

impl Schedule {
    /// One of `faults` every `every` on average: the time between two is from half to one and a
    /// half of that. With no faults nothing ever happens.
    pub fn new(now: Instant, faults: Vec<Fault>, every: Duration, seed: u64) -> Self {
        let mut schedule = Self { faults, every, next: now, rng: Rng::new(seed) };
        schedule.next = now + schedule.gap();
        schedule
    }

    /// The fault that is due at `now`, if one is; arms the next.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Fault> {
        if now < self.next || self.faults.is_empty() {
            return None;
        }
        self.next = now + self.gap();
        let pick = self.rng.below(self.faults.len() as u32);
        self.faults.get(pick as usize).cloned()
    }

    /// When the next fault is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.faults.is_empty()).then_some(self.next)
    }

    fn gap(&mut self) -> Duration {
        let half = u32::try_from(self.every.as_millis() / 2).unwrap_or(u32::MAX / 2);
        let extra = self.rng.below(half.saturating_mul(2).saturating_add(1));
        Duration::from_millis(u64::from(half.max(1)) + u64::from(extra))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_come_at_their_mean_spacing_and_repeat_with_the_seed() {
        let play = |seed| {
            let every = Duration::from_secs(10);
            let start = Instant::from_millis(500);
            let mut schedule = Schedule::new(start, Fault::catalogue(), every, seed);
            let mut played = Vec::new();
            for _ in 0..1000 {
                let at = schedule.poll_timeout().expect("there are faults");
                assert_eq!(schedule.handle_timeout(at - Duration::from_millis(1)), None);
                played.push((at, schedule.handle_timeout(at).expect("due")));
            }
            played
        };
        let played = play(3);
        assert_eq!(played, play(3));
        assert_ne!(played, play(4));
        let span = played[999].0.since(played[0].0).as_secs();
        assert!((9_000..11_000).contains(&span), "1000 faults in {span} s");
        for name in Fault::names() {
            assert!(played.iter().any(|(_, fault)| fault.name() == *name), "{name} never came");
        }
    }

    #[test]
    fn no_faults_no_deadline() {
        let schedule = Schedule::new(Instant::ORIGIN, Vec::new(), Duration::from_secs(1), 0);
        assert_eq!(schedule.poll_timeout(), None);
    }
}
