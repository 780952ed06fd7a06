//! Every number of a link, and what it may be.

use core::fmt;

use crate::backoff::BackoffConfig;
use crate::heartbeat::HeartbeatConfig;
use crate::mutant::Mutation;
use crate::outbox::OutboxConfig;
use crate::time::Span;

/// The settings of a link. The defaults are right for a node on TCP; a serial line needs
/// [`LinkConfig::SERIAL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct LinkConfig {
    /// What the handshake asks for and how long it may take.
    pub handshake: HandshakeConfig,
    /// When silence is questioned and what it means.
    pub heartbeat: HeartbeatConfig,
    /// How long to wait between connects.
    pub backoff: BackoffConfig,
    /// How packets are kept, confirmed and paced.
    pub outbox: OutboxConfig,
    /// How long one address may take to accept the connection. Default 10 s; 100 ms to 2 min.
    pub connect_limit: Span,
    /// How long `disconnect` may take to be written when the link is closed. Default 2 s; 1 ms to
    /// 1 min.
    pub close_limit: Span,
    /// How long packets in the outbox may still take when the link is closed. Default 10 s; at most
    /// 1 h.
    pub drain_limit: Span,
    /// A session that the node closes before this age is young; several in a row mean that another
    /// client takes the link. Default 2 min; at most 1 h.
    pub young: Span,
    /// What a serial line needs beyond that; `None` on TCP. Default `None`.
    pub serial: Option<SerialConfig>,
    /// A deliberate bug, for tests of the tests.
    #[doc(hidden)]
    pub mutation: Mutation,
}

/// The settings of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct HandshakeConfig {
    /// What it asks for. Default everything.
    pub ask: Ask,
    /// How long it may stand without a frame of the configuration. Default 12 s, for an ESP32 can be
    /// away for 10 s; 100 ms to 2 min.
    pub silence: Span,
    /// How long it may take as a whole. Default 5 min, as the Python client waits; at least
    /// `silence`, at most 1 h.
    pub limit: Span,
    /// Between two `want_config_id` there is at least this long. Default 2 s; at most 1 min.
    pub gap: Span,
}

/// What a handshake asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Ask {
    /// Everything, with a random nonce.
    Full,
    /// Everything but the other nodes: nonce 69420 (2.3.11 and newer; older nodes send all). For a
    /// microcontroller that has no use for 100 node infos.
    ConfigOnly,
}

impl HandshakeConfig {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        ask: Ask::Full,
        silence: Span::from_secs(12),
        limit: Span::from_secs(300),
        gap: Span::from_secs(2),
    };
}

impl Default for HandshakeConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The settings of a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SerialConfig {
    /// Silence after which a frame without its end is given up and searched for others. Default
    /// 500 ms; 10 ms to 1 min. TCP has no such limit: a retransmission may pause in mid-frame.
    pub torn_after: Span,
}

impl SerialConfig {
    /// The defaults.
    pub const DEFAULT: Self = Self { torn_after: Span::from_millis(500) };
}

impl Default for SerialConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self::TCP
    }
}

/// A setting that makes no sense, with what would be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ConfigError {
    /// The setting's name.
    pub setting: &'static str,
    /// Its value, in milliseconds for a span.
    pub value: u32,
    /// The least it may be, in the same unit.
    pub least: u32,
    /// The most it may be.
    pub most: u32,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, value, least, most } = self;
        write!(f, "{setting} is {value}; it must be from {least} to {most}")
    }
}

impl core::error::Error for ConfigError {}

/// Settings that were found to make sense; what a link is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Checked(LinkConfig);

impl Checked {
    /// The defaults for a node on TCP.
    pub const TCP: Self = LinkConfig::TCP.known();
    /// The defaults for a serial line.
    pub const SERIAL: Self = LinkConfig::SERIAL.known();

    /// The settings.
    pub const fn config(&self) -> &LinkConfig {
        &self.0
    }
}

impl LinkConfig {
    /// Defaults for a node on TCP.
    pub const TCP: Self = Self {
        handshake: HandshakeConfig::DEFAULT,
        heartbeat: HeartbeatConfig::DEFAULT,
        backoff: BackoffConfig::DEFAULT,
        outbox: OutboxConfig::DEFAULT,
        connect_limit: Span::from_secs(10),
        close_limit: Span::from_secs(2),
        drain_limit: Span::from_secs(10),
        young: Span::from_secs(120),
        serial: None,
        mutation: Mutation::NONE,
    };

    /// Defaults for a serial line.
    pub const SERIAL: Self = Self { serial: Some(SerialConfig::DEFAULT), ..Self::TCP };

    /// Refuses nonsense: the first setting that is out of its bounds.
    ///
    /// In a `const` this is done by the compiler: nonsense does not build, and the program carries
    /// no check.
    pub const fn check(self) -> Result<Checked, ConfigError> {
        let (h, b, o) = (&self.heartbeat, &self.backoff, &self.outbox);
        let torn_after = match self.serial {
            Some(serial) => serial.torn_after,
            None => SerialConfig::DEFAULT.torn_after,
        };
        let spans = [
            ("heartbeat.quiet (ms)", h.quiet, MS_100, secs(300)),
            ("heartbeat.answer (ms)", h.answer, MS_100, secs(60)),
            ("heartbeat.again (ms)", h.again, MS_100, secs(60)),
            ("heartbeat.keepalive (ms)", h.keepalive, h.quiet, secs(840)),
            ("heartbeat.probe (ms)", h.probe, secs(1), secs(300)),
            ("heartbeat.mute (ms)", h.mute, h.quiet, h.keepalive),
            ("backoff.first (ms)", b.first, MS_1, b.cap),
            ("backoff.cap (ms)", b.cap, MS_1, b.crowded_cap),
            ("backoff.crowded_cap (ms)", b.crowded_cap, MS_1, secs(3600)),
            ("backoff.steady (ms)", b.steady, Span::ZERO, b.settled),
            ("backoff.settled (ms)", b.settled, Span::ZERO, secs(86_400)),
            ("outbox.ttl (ms)", o.ttl, secs(1), secs(604_800)),
            ("outbox.resend_within (ms)", o.resend_within, Span::ZERO, secs(3600)),
            ("outbox.patience (ms)", o.patience, MS_100, secs(60)),
            ("outbox.grace (ms)", o.grace, Span::ZERO, secs(60)),
            ("outbox.retry (ms)", o.retry, MS_100, secs(3600)),
            ("outbox.retry_duty_cycle (ms)", o.retry_duty_cycle, MS_100, secs(86_400)),
            ("outbox.pacing.text (ms)", o.pacing.text, Span::ZERO, secs(3600)),
            ("outbox.pacing.report (ms)", o.pacing.report, Span::ZERO, secs(3600)),
            ("outbox.pacing.traceroute (ms)", o.pacing.traceroute, Span::ZERO, secs(3600)),
            ("outbox.pacing.margin (ms)", o.pacing.margin, Span::ZERO, secs(60)),
            ("drain_limit (ms)", self.drain_limit, Span::ZERO, secs(3600)),
            ("connect_limit (ms)", self.connect_limit, MS_100, secs(120)),
            ("handshake.silence (ms)", self.handshake.silence, MS_100, secs(120)),
            ("handshake.limit (ms)", self.handshake.limit, self.handshake.silence, secs(3600)),
            ("handshake.gap (ms)", self.handshake.gap, Span::ZERO, secs(60)),
            ("close_limit (ms)", self.close_limit, MS_1, secs(60)),
            ("young (ms)", self.young, Span::ZERO, secs(3600)),
            ("serial.torn_after (ms)", torn_after, Span::from_millis(10), secs(60)),
        ];
        let mut rest = spans.as_slice();
        while let [(setting, value, least, most), tail @ ..] = rest {
            let (value, least, most) = (value.as_millis(), least.as_millis(), most.as_millis());
            if value < least || value > most {
                return Err(ConfigError { setting, value, least, most });
            }
            rest = tail;
        }
        let counts = [
            ("heartbeat.strikes", h.strikes as u32, 10),
            ("outbox.quota", o.quota as u32, u16::MAX as u32),
            ("outbox.barriers", o.barriers as u32, 100),
        ];
        let mut rest = counts.as_slice();
        while let [(setting, value, most), tail @ ..] = rest {
            let (value, most) = (*value, *most);
            if value < 1 || value > most {
                return Err(ConfigError { setting, value, least: 1, most });
            }
            rest = tail;
        }
        Ok(Checked(self))
    }

    /// The same for settings that are constants of this file.
    const fn known(self) -> Checked {
        match self.check() {
            Ok(checked) => checked,
            Err(_) => panic!("a default is out of its bounds"),
        }
    }
}

const MS_1: Span = Span::from_millis(1);
const MS_100: Span = Span::from_millis(100);

const fn secs(seconds: u32) -> Span {
    Span::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    #[test]
    fn the_defaults_make_sense() {
        assert_eq!(LinkConfig::default().check(), Ok(Checked::TCP));
        assert_eq!(LinkConfig::SERIAL.check(), Ok(Checked::SERIAL));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let refused = |change: fn(&mut LinkConfig)| {
            let mut config = LinkConfig::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert_eq!(
            refused(|c| c.heartbeat.quiet = Span::ZERO),
            "heartbeat.quiet (ms) is 0; it must be from 100 to 300000"
        );
        assert_eq!(
            refused(|c| c.heartbeat.keepalive = Span::from_secs(900)),
            "heartbeat.keepalive (ms) is 900000; it must be from 15000 to 840000"
        );
        assert_eq!(
            refused(|c| c.backoff.cap = Span::from_millis(10)),
            "backoff.first (ms) is 800; it must be from 1 to 10"
        );
        assert_eq!(
            refused(|c| c.heartbeat.strikes = 0),
            "heartbeat.strikes is 0; it must be from 1 to 10"
        );
    }
}
