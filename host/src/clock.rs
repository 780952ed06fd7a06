//! The one clock of the host: monotonic, floored to milliseconds.

use std::time;

use meshbeat_core::Instant;

/// Milliseconds since this clock was made. `std`'s monotonic clock does not count time in which
/// the machine was suspended on Linux; a link that slept finds its deadlines later, never earlier.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: time::Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { origin: time::Instant::now() }
    }
}

impl Clock {
    /// Now, rounded down: rounded up, a deadline would seem reached before it is, and the loop
    /// would wake early and spin.
    pub fn now(&self) -> Instant {
        let millis = self.origin.elapsed().as_millis();
        Instant::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}
