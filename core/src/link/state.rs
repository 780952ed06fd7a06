//! What a caller sees of a link: its states, what happened, what came in.

use crate::fault::Fault;
use crate::outbox::PacketEvent;
use crate::peek::FromRadio;
use crate::time::Instant;

/// Where the link stands. The data of a state lives in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum State {
    /// Not started.
    Idle,
    /// The transport is being opened.
    Opening {
        /// When the attempt is given up.
        deadline: Instant,
    },
    /// The transport is open, the handshake is under way.
    Configuring {
        /// When the transport was opened.
        opened: Instant,
        /// How far the question has come.
        asked: Asked,
    },
    /// The handshake is done: packets flow.
    Up {
        /// When the transport was opened.
        opened: Instant,
    },
    /// Up, but a heartbeat went unanswered.
    Suspect {
        /// When the transport was opened.
        opened: Instant,
    },
    /// The transport is gone; the next attempt is due later.
    Waiting {
        /// When.
        until: Instant,
    },
    /// `disconnect` is on its way to the node; what still arrives counts.
    Closing {
        /// When the link is closed whatever the node does.
        deadline: Instant,
        /// Whether `disconnect` is written.
        said: bool,
    },
    /// Closed for good.
    Closed,
}

impl State {
    /// Whether there is a transport to read from and write to.
    pub const fn is_open(self) -> bool {
        matches!(
            self,
            Self::Configuring { .. }
                | Self::Up { .. }
                | Self::Suspect { .. }
                | Self::Closing { .. }
        )
    }

    /// Whether the handshake is done and the node was not yet lost.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up { .. } | Self::Suspect { .. })
    }

    /// When the transport was opened.
    pub const fn opened(self) -> Option<Instant> {
        match self {
            Self::Configuring { opened, .. } | Self::Up { opened } | Self::Suspect { opened } => {
                Some(opened)
            }
            _ => None,
        }
    }

    /// The state's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Opening { .. } => "opening",
            Self::Configuring { .. } => "configuring",
            Self::Up { .. } => "up",
            Self::Suspect { .. } => "suspect",
            Self::Waiting { .. } => "waiting",
            Self::Closing { .. } => "closing",
            Self::Closed => "closed",
        }
    }
}

/// How far a handshake's `want_config_id` has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Asked {
    /// Not to be written before this moment.
    NotBefore(Instant),
    /// To be written since this moment.
    Due(Instant),
    /// Written with this nonce.
    With {
        /// The nonce by which its end is recognised.
        nonce: u32,
        /// When it was written.
        since: Instant,
        /// When the last frame of an answer arrived, or the question was written.
        last_frame: Instant,
    },
}

/// What happened, in the past tense; drained by [`Link::poll_event`](super::Link::poll_event).
/// Tells moments, not spans: [`Instant::since`] makes one of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Event {
    /// An attempt is due: drop the old transport if there still is one, open a new one, and report
    /// [`handle_opened`](super::Link::handle_opened) or
    /// [`handle_closed`](super::Link::handle_closed).
    OpenDue,
    /// The transport was opened; the handshake begins.
    Opened,
    /// The handshake is done: the link is up.
    Configured {
        /// The node's number.
        node: u32,
        /// When the question was written that the handshake answers.
        asked: Instant,
        /// When the last byte of the session before arrived; what the node dropped since then is
        /// lost. `None` for the first session.
        last_heard: Option<Instant>,
    },
    /// The node has told its configuration once more, as [`Link::refresh`](super::Link::refresh)
    /// wanted.
    Refreshed {
        /// When the question was written.
        asked: Instant,
    },
    /// Another node than before answers; what was cached for the old one is void.
    NodeChanged {
        /// The old node's number.
        from: u32,
        /// The new one's.
        to: u32,
    },
    /// A heartbeat went unanswered.
    Suspected,
    /// A byte arrived from a suspected node.
    Recovered,
    /// The node never answers heartbeats; it is not dropped for silence from now on.
    FoundMute,
    /// The node has restarted (serial only); a new handshake follows.
    Rebooted,
    /// The session ended, or could not begin: drop the transport.
    Lost {
        /// Why.
        fault: Fault,
        /// When the transport was opened; `None` if it never was.
        opened: Option<Instant>,
        /// Whether the handshake was done.
        was_up: bool,
        /// When the next attempt is due.
        retry_at: Instant,
    },
    /// The node has closed this many young sessions in a row: another client is likely taking the
    /// link. Told at 3 and each time the number has doubled.
    Contended {
        /// Sessions in a row.
        sessions: u32,
    },
    /// A packet has changed its state. Every packet that was accepted ends in one that is final.
    Packet(PacketEvent),
    /// `disconnect` is written: half-close the transport, go on reading to its end, and report
    /// that by [`handle_closed`](super::Link::handle_closed).
    SaidGoodbye,
    /// The link is closed: drop the transport. Nothing follows.
    Closed,
}

/// The answer to one [`handle_bytes`](super::Link::handle_bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received<'a> {
    /// How many bytes of the slice were taken; offer the rest again.
    pub taken: usize,
    /// What they completed, if anything.
    pub item: Option<Item<'a>>,
}

/// What came from the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// A frame whose payload is a `FromRadio`.
    Frame {
        /// The payload, byte for byte.
        payload: &'a [u8],
        /// What the link read of it.
        message: FromRadio<'a>,
        /// It ended the link's own handshake: what follows is live.
        configured: bool,
    },
    /// Bytes that belong to no frame: log text, noise.
    Noise(&'a [u8]),
}

/// The answer to one [`poll_transmit`](super::Link::poll_transmit).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transmit {
    /// The writer took this many bytes; call again.
    Wrote(usize),
    /// The writer took none; call again when it is ready.
    Blocked,
    /// Nothing is to be written now.
    Empty,
}

/// Why a payload was not forwarded. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ForwardError {
    /// The frame before is not out yet; try again after the next `poll_transmit`.
    Busy,
    /// The link is not up.
    NotUp,
    /// It is not one `xmodemPacket` or `mqttClientProxyMessage` of at most 512 bytes.
    NotForwardable,
}

/// Counters since the link was made. They wrap after 2³² (bytes: 2⁶⁴).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Stats {
    /// Attempts to open the transport.
    pub attempts: u32,
    /// Sessions in which the handshake was done.
    pub sessions: u32,
    /// Bytes that arrived.
    pub bytes_in: u64,
    /// Bytes that the transport took.
    pub bytes_out: u64,
    /// Frames with a valid payload.
    pub frames_in: u32,
    /// Frames written whole.
    pub frames_out: u32,
    /// Frames whose payload was no `FromRadio`.
    pub rejected: u32,
    /// Bytes that belonged to no frame.
    pub noise: u64,
    /// Heartbeats written.
    pub heartbeats: u32,
    /// Heartbeats answered.
    pub answered: u32,
}
