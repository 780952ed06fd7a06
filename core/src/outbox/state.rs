//! What a caller sees of the outbox: its settings, the states of a packet, why one is not taken.

use crate::pacing::PacingConfig;
use crate::time::Span;

/// The numbers of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct OutboxConfig {
    /// How long a packet of which no byte was written may wait, unless its sender says otherwise.
    /// Default 1 h; 1 s to 1 week.
    pub ttl: Span,
    /// How long after its first write a packet may be written again: the mesh remembers ids for
    /// some minutes only. Default 5 min; at most 1 h.
    pub resend_within: Span,
    /// Packets of one sender that may wait at the same time. Default 16; at least 1.
    pub quota: u16,
    /// How long a packet's own queue status, or the answer to a barrier, may take before it is
    /// asked for. It comes after 5 to 300 ms; an ESP32 can be away for 10 s. Default 3 s; 100 ms to
    /// 1 min.
    pub patience: Span,
    /// How often a barrier is asked before the packet is unknown. Default 4; 1 to 100.
    pub barriers: u8,
    /// How much longer the span to the next packet of a port number is after a packet that was
    /// written twice: the status may have been the first write's, and the node reads the second up
    /// to this much later. Default 1 s; at most 1 min.
    pub grace: Span,
    /// How long to wait after a refusal for want of room or radio. Default 10 s; 100 ms to 1 h.
    pub retry: Span,
    /// How long to wait after a refusal for the duty cycle. Default 5 min; 100 ms to 1 day.
    pub retry_duty_cycle: Span,
    /// Rate limits.
    pub pacing: PacingConfig,
}

impl OutboxConfig {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        ttl: Span::from_secs(3600),
        resend_within: Span::from_secs(300),
        quota: 16,
        patience: Span::from_secs(3),
        barriers: 4,
        grace: Span::from_secs(1),
        retry: Span::from_secs(10),
        retry_duty_cycle: Span::from_secs(300),
        pacing: PacingConfig::DEFAULT,
    };
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Where a packet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum PacketState {
    /// Kept; not written on this connection.
    Queued,
    /// Written whole.
    Sent,
    /// It entered the node's queue. The end.
    Confirmed,
    /// The node refused it and never sent it: `res` of its queue status, or the error of its
    /// Routing reply. The end.
    Refused(i32),
    /// It became too old before a byte of it was written. The end.
    Expired,
    /// It was written and never confirmed. The end.
    Unknown,
}

impl PacketState {
    /// Whether nothing follows.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Sent)
    }
}

/// A packet has changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PacketEvent {
    /// The id under which it was accepted.
    pub id: u32,
    /// The id under which it was written last; another one after a refusal that was tried again.
    pub wire_id: u32,
    /// Whose it is.
    pub sender: u16,
    /// Where it stands now.
    pub state: PacketState,
}

/// Why a packet was not accepted. Nothing was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SendError {
    /// The outbox is full.
    Full,
    /// This sender has as many packets in it as it may.
    Quota,
    /// The payload is no `ToRadio` with one packet and nothing else, or longer than 512 bytes with
    /// its id.
    NotAPacket,
    /// A packet with this id is in the outbox.
    Duplicate,
    /// The link is closing.
    Closing,
}

impl core::fmt::Display for SendError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Full => "the outbox is full",
            Self::Quota => "the sender's share of the outbox is full",
            Self::NotAPacket => "the payload is not one packet of at most 512 bytes",
            Self::Duplicate => "a packet with this id is in the outbox",
            Self::Closing => "the link is closing",
        })
    }
}

impl core::error::Error for SendError {}
