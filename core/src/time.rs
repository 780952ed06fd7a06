//! Time as an argument: moments since an origin of the caller's choice, and spans between them.

use core::ops::{Add, Sub};
use core::time::Duration;

/// A moment: whole milliseconds since an arbitrary origin that the caller keeps for the whole life
/// of a link.
///
/// A `u64` of milliseconds does not wrap (a `u32` does after 49 days). Arithmetic saturates. A
/// caller whose clock is finer than a millisecond rounds **down**: rounded up, a deadline seems
/// reached before it is, and the loop wakes early and spins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Instant(u64);

impl Instant {
    /// The origin itself.
    pub const ORIGIN: Self = Self(0);

    /// Later than any other moment: the deadline of what waits for nothing.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the origin.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The deadline as a caller sees it: `None` for [`Instant::NEVER`].
    pub(crate) fn deadline(self) -> Option<Self> {
        (self < Self::NEVER).then_some(self)
    }

    /// The span from `earlier` to this moment; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(millis(span)))
    }
}

impl Add<Span> for Instant {
    type Output = Self;

    /// Not inline: 64-bit arithmetic that saturates is long on a 32-bit machine, and stands at
    /// some fifty places.
    #[inline(never)]
    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(u64::from(span.0)))
    }
}

/// A span of a setting: whole milliseconds, at most 49 days.
///
/// Not a [`Duration`], which takes 16 bytes and a division for each use on a microcontroller. One
/// that is made of a `Duration` is rounded up, for a timer may be late, never early; longer ones
/// become 49 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Span(u32);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// The longest: 49 days, 17 hours and some minutes.
    pub const MAX: Self = Self(u32::MAX);

    /// So many milliseconds.
    pub const fn from_millis(millis: u32) -> Self {
        Self(millis)
    }

    /// So many seconds, saturating.
    pub const fn from_secs(seconds: u32) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Its milliseconds.
    pub const fn as_millis(self) -> u32 {
        self.0
    }

    /// The same as a `Duration`.
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }
}

impl From<Duration> for Span {
    fn from(span: Duration) -> Self {
        Self(u32::try_from(millis(span)).unwrap_or(u32::MAX))
    }
}

/// Whole milliseconds of a span, rounded up: a timer may be late, never early.
const fn millis(span: Duration) -> u64 {
    span.as_secs()
        .saturating_mul(1000)
        .saturating_add((span.subsec_nanos() as u64).div_ceil(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let end = Instant::from_millis(u64::MAX);
        assert_eq!(end + Duration::from_secs(1), end);
        assert_eq!(Instant::ORIGIN - Duration::from_secs(1), Instant::ORIGIN);
        assert_eq!(Instant::ORIGIN.since(end), Duration::ZERO);
        assert_eq!(Instant::ORIGIN + Duration::MAX, end);
        assert_eq!(end + Span::MAX, end);
        assert_eq!(Span::from_secs(u32::MAX), Span::MAX);
    }

    #[test]
    fn spans_round_up_to_whole_milliseconds() {
        assert_eq!(Instant::ORIGIN + Duration::from_nanos(1), Instant::from_millis(1));
        assert_eq!(Span::from(Duration::from_nanos(1)), Span::from_millis(1));
        assert_eq!(Span::from(Duration::from_millis(12)), Span::from_millis(12));
        assert_eq!(Span::from(Duration::MAX), Span::MAX);
    }
}
