//! The earliest time at which a port number may be sent again.
//!
//! The node has rate limits per port number and connection and enforces them in silence: a limited
//! text looks exactly like an accepted one (`PhoneAPI::handleToRadioPacket`). Its timer runs from
//! the moment it *reads* a packet, up to 300 ms after the write, so ours starts when the packet's
//! own queue status arrives, which is later.

use crate::time::{Instant, Span};

/// The spans between two packets of one port number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PacingConfig {
    /// Text (port 1). Default 2 s.
    pub text: Span,
    /// Position, waypoint, alert and telemetry (ports 3, 8, 11, 67), each. Default 10 s.
    pub report: Span,
    /// Traceroute (port 70). Default 30 s.
    pub traceroute: Span,
    /// Added to each span. Default 50 ms.
    pub margin: Span,
}

impl PacingConfig {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        text: Span::from_secs(2),
        report: Span::from_secs(10),
        traceroute: Span::from_secs(30),
        margin: Span::from_millis(50),
    };
}

impl Default for PacingConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The port numbers that a node limits (`portnums.proto`).
const LIMITED: [i32; 6] = [1, 3, 8, 11, 67, 70];

/// When each limited port number may be sent again on this connection.
#[derive(Debug, Clone)]
pub struct Pacing {
    config: PacingConfig,
    /// In the order of `LIMITED`; the origin is at once.
    earliest: [Instant; LIMITED.len()],
}

impl Pacing {
    /// Everything may be sent at once.
    #[inline(always)]
    pub const fn new(config: PacingConfig) -> Self {
        Self { config, earliest: [Instant::ORIGIN; LIMITED.len()] }
    }

    /// The node has read a packet of this port number by now at the latest, whatever became of it.
    pub fn handle_read(&mut self, now: Instant, port: i32) {
        let next = self.next(now, port);
        for (limited, earliest) in LIMITED.iter().zip(&mut self.earliest) {
            if *limited == port {
                *earliest = next;
            }
        }
    }

    /// The same for every port number at once.
    pub(crate) fn handle_read_all(&mut self, now: Instant, port: i32) {
        self.earliest = [self.next(now, port); LIMITED.len()];
    }

    /// A new TCP connection: the node starts with empty timers. Not for a serial line.
    pub fn clear(&mut self) {
        self.earliest = [Instant::ORIGIN; LIMITED.len()];
    }

    /// When a packet of this port number may be written; the origin is at once.
    pub fn earliest(&self, port: i32) -> Instant {
        let known = LIMITED.iter().zip(&self.earliest).find(|(limited, _)| **limited == port);
        known.map_or(Instant::ORIGIN, |(_, earliest)| *earliest)
    }

    /// When the next packet may be written if one is read `now`.
    fn next(&self, now: Instant, port: i32) -> Instant {
        let span = match port {
            1 => self.config.text,
            70 => self.config.traceroute,
            _ => self.config.report,
        };
        now + span + self.config.margin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn each_port_number_has_its_own_span() {
        let mut pacing = Pacing::new(PacingConfig::default());
        for port in [1, 3, 8, 11, 67, 70, 6, 5] {
            assert_eq!(pacing.earliest(port), at(0));
            pacing.handle_read(at(1000), port);
        }
        assert_eq!(pacing.earliest(1), at(3050));
        for port in [3, 8, 11, 67] {
            assert_eq!(pacing.earliest(port), at(11_050));
        }
        assert_eq!(pacing.earliest(70), at(31_050));
        assert_eq!(pacing.earliest(6), at(0), "admin is not limited");
        assert_eq!(pacing.earliest(5), at(0), "routing is not limited");
    }

    #[test]
    fn a_new_connection_starts_empty() {
        let mut pacing = Pacing::new(PacingConfig::default());
        pacing.handle_read(at(0), 1);
        pacing.clear();
        assert_eq!(pacing.earliest(1), at(0));
    }
}
