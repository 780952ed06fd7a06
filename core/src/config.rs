//! Every number of a link, and what it may be.

use core::fmt;
use core::time::Duration;

use crate::backoff::BackoffConfig;
use crate::heartbeat::HeartbeatConfig;
use crate::mutant::Mutation;
use crate::outbox::OutboxConfig;

/// The settings of a link. The defaults are right for a node on TCP; a serial line needs
/// [`LinkConfig::serial`].
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
    pub connect_limit: Duration,
    /// How long `disconnect` may take to be written when the link is closed. Default 2 s; 1 ms to
    /// 1 min.
    pub close_limit: Duration,
    /// How long packets in the outbox may still take when the link is closed. Default 10 s; at most
    /// 1 h.
    pub drain_limit: Duration,
    /// A session that the node closes before this age is young; several in a row mean that another
    /// client takes the link. Default 2 min; at most 1 h.
    pub young: Duration,
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
    /// How long it may stand without a frame. Default 12 s, for an ESP32 can be away for 10 s;
    /// 100 ms to 2 min.
    pub silence: Duration,
    /// How long it may take as a whole. Default 5 min, as the Python client waits; at least
    /// `silence`, at most 1 h.
    pub limit: Duration,
    /// Between two `want_config_id` there is at least this long. Default 2 s; at most 1 min.
    pub gap: Duration,
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

impl Default for HandshakeConfig {
    fn default() -> Self {
        Self {
            ask: Ask::Full,
            silence: Duration::from_secs(12),
            limit: Duration::from_secs(300),
            gap: Duration::from_secs(2),
        }
    }
}

/// The settings of a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SerialConfig {
    /// Silence after which a frame without its end is given up and searched for others. Default
    /// 500 ms; 10 ms to 1 min. TCP has no such limit: a retransmission may pause in mid-frame.
    pub torn_after: Duration,
}

impl Default for SerialConfig {
    fn default() -> Self {
        Self { torn_after: Duration::from_millis(500) }
    }
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            handshake: HandshakeConfig::default(),
            heartbeat: HeartbeatConfig::default(),
            backoff: BackoffConfig::default(),
            outbox: OutboxConfig::default(),
            connect_limit: Duration::from_secs(10),
            close_limit: Duration::from_secs(2),
            drain_limit: Duration::from_secs(10),
            young: Duration::from_secs(120),
            serial: None,
            mutation: Mutation::NONE,
        }
    }
}

/// A setting that makes no sense, with what would be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ConfigError {
    /// The setting's name.
    pub setting: &'static str,
    /// Its value, in milliseconds for a span.
    pub value: u128,
    /// The least it may be, in the same unit.
    pub least: u128,
    /// The most it may be.
    pub most: u128,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, value, least, most } = self;
        write!(f, "{setting} is {value}; it must be from {least} to {most}")
    }
}

impl core::error::Error for ConfigError {}

impl LinkConfig {
    /// Defaults for a serial line.
    pub fn serial() -> Self {
        Self { serial: Some(SerialConfig::default()), ..Self::default() }
    }

    /// Refuses nonsense: the first setting that is out of its bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        const MS: fn(u64) -> Duration = Duration::from_millis;
        const S: fn(u64) -> Duration = Duration::from_secs;
        let Self { heartbeat: h, backoff: b, outbox: o, .. } = self;
        let torn_after = self.serial.unwrap_or_default().torn_after;
        for (setting, value, least, most) in [
            ("heartbeat.quiet (ms)", h.quiet, MS(100), S(300)),
            ("heartbeat.answer (ms)", h.answer, MS(100), S(60)),
            ("heartbeat.again (ms)", h.again, MS(100), S(60)),
            ("heartbeat.keepalive (ms)", h.keepalive, h.quiet, S(840)),
            ("heartbeat.probe (ms)", h.probe, S(1), S(300)),
            ("heartbeat.mute (ms)", h.mute, h.quiet, h.keepalive),
            ("backoff.first (ms)", b.first, MS(1), b.cap),
            ("backoff.cap (ms)", b.cap, MS(1), b.crowded_cap),
            ("backoff.crowded_cap (ms)", b.crowded_cap, MS(1), S(3600)),
            ("backoff.steady (ms)", b.steady, MS(0), b.settled),
            ("backoff.settled (ms)", b.settled, MS(0), S(86_400)),
            ("outbox.ttl (ms)", o.ttl, S(1), S(604_800)),
            ("outbox.resend_within (ms)", o.resend_within, MS(0), S(3600)),
            ("outbox.patience (ms)", o.patience, MS(100), S(60)),
            ("outbox.grace (ms)", o.grace, MS(0), S(60)),
            ("outbox.retry (ms)", o.retry, MS(100), S(3600)),
            ("outbox.retry_duty_cycle (ms)", o.retry_duty_cycle, MS(100), S(86_400)),
            ("outbox.pacing.text (ms)", o.pacing.text, MS(0), S(3600)),
            ("outbox.pacing.report (ms)", o.pacing.report, MS(0), S(3600)),
            ("outbox.pacing.traceroute (ms)", o.pacing.traceroute, MS(0), S(3600)),
            ("outbox.pacing.margin (ms)", o.pacing.margin, MS(0), S(60)),
            ("drain_limit (ms)", self.drain_limit, MS(0), S(3600)),
            ("connect_limit (ms)", self.connect_limit, MS(100), S(120)),
            ("handshake.silence (ms)", self.handshake.silence, MS(100), S(120)),
            ("handshake.limit (ms)", self.handshake.limit, self.handshake.silence, S(3600)),
            ("handshake.gap (ms)", self.handshake.gap, MS(0), S(60)),
            ("close_limit (ms)", self.close_limit, MS(1), S(60)),
            ("young (ms)", self.young, MS(0), S(3600)),
            ("serial.torn_after (ms)", torn_after, MS(10), S(60)),
        ] {
            if !(least..=most).contains(&value) {
                let [value, least, most] = [value, least, most].map(|span| span.as_millis());
                return Err(ConfigError { setting, value, least, most });
            }
        }
        for (setting, value, most) in [
            ("heartbeat.strikes", u128::from(h.strikes), 10),
            ("outbox.quota", u128::from(o.quota), u128::from(u16::MAX)),
            ("outbox.barriers", u128::from(o.barriers), 100),
        ] {
            if !(1..=most).contains(&value) {
                return Err(ConfigError { setting, value, least: 1, most });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    #[test]
    fn the_defaults_make_sense() {
        assert_eq!(LinkConfig::default().check(), Ok(()));
        assert_eq!(LinkConfig::serial().check(), Ok(()));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let refused = |change: fn(&mut LinkConfig)| {
            let mut config = LinkConfig::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert_eq!(
            refused(|c| c.heartbeat.quiet = Duration::ZERO),
            "heartbeat.quiet (ms) is 0; it must be from 100 to 300000"
        );
        assert_eq!(
            refused(|c| c.heartbeat.keepalive = Duration::from_secs(900)),
            "heartbeat.keepalive (ms) is 900000; it must be from 15000 to 840000"
        );
        assert_eq!(
            refused(|c| c.backoff.cap = Duration::from_millis(10)),
            "backoff.first (ms) is 800; it must be from 1 to 10"
        );
        assert_eq!(
            refused(|c| c.heartbeat.strikes = 0),
            "heartbeat.strikes is 0; it must be from 1 to 10"
        );
    }
}
