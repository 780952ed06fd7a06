//! Deliberate bugs, each of which the simulation in `tests` must catch: a check that cannot fail
//! proves nothing. Only the feature `mutants` can switch one on; without it this costs nothing.

/// A deliberate bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Mutant {
    /// A barrier's answer confirms, although no room was told and a refusal may have been lost.
    BarrierConfirmsAll,
    /// A barrier's first answer confirms, although it overtakes the packet's own status.
    BarrierWithoutGrace,
    /// The span between two packets is counted from the write.
    SpanFromWrite,
    /// All port numbers are paced as one.
    PacingAsOne,
    /// A heartbeat is written while another one is outstanding.
    TwoHeartbeats,
    /// Two packets are in flight.
    TwoInFlight,
    /// The back-off starts over with every connect.
    BackoffResetOnConnect,
    /// The decoder keeps half a frame of the connection before.
    DecoderNotCleared,
    /// The transmit buffer keeps half a frame of the connection before.
    TransmitNotCleared,
    /// A packet gets a fresh id when it is written again.
    NewIdOnResend,
    /// A packet is written again to whatever node answers.
    ResendToAnotherNode,
    /// A packet that waits behind a refused one of the same sender and port number overtakes it.
    Overtaking,
    /// Senders are not served in turn: what came first goes first.
    FirstComeFirstServed,
    /// A serial line that is opened again is taken for a node that has forgotten everything.
    SerialForgotten,
    /// Silence counts while the handshake is under way.
    StrikeWhileConfiguring,
    /// The end of an older handshake is taken for ours.
    StaleNonceAccepted,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::BarrierConfirmsAll,
        Self::BarrierWithoutGrace,
        Self::SpanFromWrite,
        Self::PacingAsOne,
        Self::TwoHeartbeats,
        Self::TwoInFlight,
        Self::BackoffResetOnConnect,
        Self::DecoderNotCleared,
        Self::TransmitNotCleared,
        Self::NewIdOnResend,
        Self::ResendToAnotherNode,
        Self::Overtaking,
        Self::FirstComeFirstServed,
        Self::SerialForgotten,
        Self::StrikeWhileConfiguring,
        Self::StaleNonceAccepted,
    ];
}

/// At most one deliberate bug; none by default, and none ever without the feature `mutants`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Mutation {
    #[cfg(feature = "mutants")]
    mutant: Option<Mutant>,
}

impl Mutation {
    /// No bug.
    pub const NONE: Self = Self {
        #[cfg(feature = "mutants")]
        mutant: None,
    };

    /// This bug.
    #[cfg(feature = "mutants")]
    pub const fn of(mutant: Mutant) -> Self {
        Self { mutant: Some(mutant) }
    }

    /// Whether this bug is on.
    pub(crate) fn is(self, mutant: Mutant) -> bool {
        #[cfg(feature = "mutants")]
        return self.mutant == Some(mutant);
        #[cfg(not(feature = "mutants"))]
        {
            let _ = mutant;
            false
        }
    }
}
