//! The fault catalogue: every way in which Meshtastic links are known to break, by name.

use core::fmt;
use core::ops::RangeInclusive;
use core::str::FromStr;
use core::time::Duration;

use super::config::Chance;

/// A fault with its parameters. `"name".parse()` gives the defaults named here, and
/// `"name=SECONDS"` another span where there is one.
///
/// Faults are of two kinds. A *lasting* one ([`Fault::is_lasting`]) changes how the node behaves
/// until [`SimNode::recover`](super::SimNode::recover); some of them are what every healthy node
/// does, and then they only make sure that it is on. All others happen once or end by themselves.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The node closes the connection politely.
    Fin,
    /// The node resets the connection.
    Rst,
    /// The node reboots: resets the connection, forgets what was queued, refuses connections.
    Refuse {
        /// For this long; default 60 s.
        span: Duration,
    },
    /// The node is off the network: connects are not answered, bytes go neither way.
    Unreachable {
        /// For this long; default 60 s.
        span: Duration,
    },
    /// The node neither reads nor writes, the socket stays open.
    Blackhole {
        /// For this long; default 60 s.
        span: Duration,
    },
    /// Another client takes every connection away.
    Stolen {
        /// After a random time in this range; default 31 to 90 s.
        life: RangeInclusive<Duration>,
        /// For this long; default 10 min.
        span: Duration,
    },
    /// The node closes the connection and every new one at once.
    Storm {
        /// For this long; default 1 h.
        span: Duration,
    },
    /// The node goes silent in mid-handshake, for as long as the connection lasts. If no handshake
    /// is under way the connection is reset, so that one follows.
    Stall {
        /// After this many frames of the handshake; default 20.
        frames: u32,
    },
    /// The node resets the connection in mid-frame. If no frame is due it makes one.
    Cut {
        /// In the handshake, which is provoked by a reset if none is under way; default no.
        handshake: bool,
        /// This many whole frames go before; default 0.
        frames: u32,
    },
    /// Lasting: closes the connection when the network takes less than offered.
    SlowDrain,
    /// The end of one frame is lost; a good frame follows.
    Torn,
    /// Log text stands among the frames, not always UTF-8: some lines at once, and lasting, before
    /// every second frame.
    Text {
        /// Lines at once; default 3.
        lines: u32,
    },
    /// Lasting: each handshake is preceded by the completion of an older one.
    StaleNonce,
    /// Lasting: rate limits enforced, input read 0 to 300 ms late.
    Rate,
    /// Lasting: repeated ids are swallowed.
    Repeat,
    /// The queue to the radio is full.
    Full {
        /// For this long; default 20 s.
        span: Duration,
        /// How often the status that says so is lost; default a quarter.
        lost: Chance,
    },
    /// The next packets are refused with these values of `res`, each once; default 6, 7, 9, 33, 34,
    /// 35.
    RefuseN(Vec<i32>),
    /// Lasting: input is read so late that packets are read together, and of their statuses two are
    /// kept.
    Burst,
    /// Lasting: queue statuses that nobody asked for.
    Unasked {
        /// One in this time; default 2 s.
        every: Duration,
    },
    /// Lasting: input is read so late that heartbeats are read together, and answered once.
    Coalesce,
    /// Lasting: another transport takes answers, statuses and packets.
    Shared {
        /// How often; default a third.
        chance: Chance,
    },
    /// Lasting: heartbeats are never answered.
    Mute,
    /// Lasting: who sent nothing for 15 minutes is dropped.
    IdleKick,
    /// Lasting: names in node infos are cut in mid-character.
    BadUtf8,
    /// One frame pauses in the middle.
    Pause {
        /// For this long; default 5 s.
        span: Duration,
    },
    /// Lasting: the node does not notice that its client closed and feeds the dead one.
    NoFin,
    /// The node reboots and comes back at once with another number.
    Renumber,
    /// Lasting: 250 nodes, and the queue to the client full.
    Big,
    /// Lasting: the network takes 1 byte at a time.
    ShortWrite,
    /// Lasting: heartbeat nonce 1 broadcasts the node's information.
    Nonce1,
}

/// The catalogue in its order, with the default parameters.
const NAMES: [&str; 30] = [
    "fin",
    "rst",
    "refuse",
    "unreachable",
    "blackhole",
    "stolen",
    "storm",
    "stall",
    "cut",
    "slow-drain",
    "torn",
    "text",
    "stale-nonce",
    "rate",
    "repeat",
    "full",
    "refuse-n",
    "burst",
    "unasked",
    "coalesce",
    "shared",
    "mute",
    "idle-kick",
    "bad-utf8",
    "pause",
    "no-fin",
    "renumber",
    "big",
    "short-write",
    "nonce-1",
];

impl Fault {
    /// The names of all faults, in the order of the catalogue.
    pub const fn names() -> &'static [&'static str] {
        &NAMES
    }

    /// All faults with their default parameters, in the order of the catalogue.
    pub fn catalogue() -> Vec<Self> {
        NAMES.iter().filter_map(|name| Self::named(name)).collect()
    }

    /// The fault's name in the catalogue.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::Rst => "rst",
            Self::Refuse { .. } => "refuse",
            Self::Unreachable { .. } => "unreachable",
            Self::Blackhole { .. } => "blackhole",
            Self::Stolen { .. } => "stolen",
            Self::Storm { .. } => "storm",
            Self::Stall { .. } => "stall",
            Self::Cut { .. } => "cut",
            Self::SlowDrain => "slow-drain",
            Self::Torn => "torn",
            Self::Text { .. } => "text",
            Self::StaleNonce => "stale-nonce",
            Self::Rate => "rate",
            Self::Repeat => "repeat",
            Self::Full { .. } => "full",
            Self::RefuseN(_) => "refuse-n",
            Self::Burst => "burst",
            Self::Unasked { .. } => "unasked",
            Self::Coalesce => "coalesce",
            Self::Shared { .. } => "shared",
            Self::Mute => "mute",
            Self::IdleKick => "idle-kick",
            Self::BadUtf8 => "bad-utf8",
            Self::Pause { .. } => "pause",
            Self::NoFin => "no-fin",
            Self::Renumber => "renumber",
            Self::Big => "big",
            Self::ShortWrite => "short-write",
            Self::Nonce1 => "nonce-1",
        }
    }

    /// Whether the fault stays until [`SimNode::recover`](super::SimNode::recover).
    pub const fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::SlowDrain
                | Self::Text { .. }
                | Self::StaleNonce
                | Self::Rate
                | Self::Repeat
                | Self::Burst
                | Self::Unasked { .. }
                | Self::Coalesce
                | Self::Shared { .. }
                | Self::Mute
                | Self::IdleKick
                | Self::BadUtf8
                | Self::NoFin
                | Self::Big
                | Self::ShortWrite
                | Self::Nonce1
        )
    }

    /// How long the fault lasts, if it ends by itself after a time.
    pub const fn span(&self) -> Option<Duration> {
        match self {
            Self::Refuse { span }
            | Self::Unreachable { span }
            | Self::Blackhole { span }
            | Self::Stolen { span, .. }
            | Self::Storm { span }
            | Self::Full { span, .. }
            | Self::Pause { span } => Some(*span),
            _ => None,
        }
    }

    fn named(name: &str) -> Option<Self> {
        let seconds = Duration::from_secs;
        Some(match name {
            "fin" => Self::Fin,
            "rst" => Self::Rst,
            "refuse" => Self::Refuse { span: seconds(60) },
            "unreachable" => Self::Unreachable { span: seconds(60) },
            "blackhole" => Self::Blackhole { span: seconds(60) },
            "stolen" => Self::Stolen { life: seconds(31)..=seconds(90), span: seconds(600) },
            "storm" => Self::Storm { span: seconds(3600) },
            "stall" => Self::Stall { frames: 20 },
            "cut" => Self::Cut { handshake: false, frames: 0 },
            "slow-drain" => Self::SlowDrain,
            "torn" => Self::Torn,
            "text" => Self::Text { lines: 3 },
            "stale-nonce" => Self::StaleNonce,
            "rate" => Self::Rate,
            "repeat" => Self::Repeat,
            "full" => Self::Full { span: seconds(20), lost: Chance::percent(25) },
            "refuse-n" => Self::RefuseN(vec![6, 7, 9, 33, 34, 35]),
            "burst" => Self::Burst,
            "unasked" => Self::Unasked { every: seconds(2) },
            "coalesce" => Self::Coalesce,
            "shared" => Self::Shared { chance: Chance::percent(33) },
            "mute" => Self::Mute,
            "idle-kick" => Self::IdleKick,
            "bad-utf8" => Self::BadUtf8,
            "pause" => Self::Pause { span: seconds(5) },
            "no-fin" => Self::NoFin,
            "renumber" => Self::Renumber,
            "big" => Self::Big,
            "short-write" => Self::ShortWrite,
            "nonce-1" => Self::Nonce1,
            _ => return None,
        })
    }

    fn set_span(&mut self, new: Duration) -> bool {
        match self {
            Self::Refuse { span }
            | Self::Unreachable { span }
            | Self::Blackhole { span }
            | Self::Stolen { span, .. }
            | Self::Storm { span }
            | Self::Full { span, .. }
            | Self::Pause { span } => *span = new,
            _ => return false,
        }
        true
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a text names no fault. Its own text lists the right names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnknownFault {
    /// There is no fault of this name.
    Name(String),
    /// What stands behind `=` is not a number of seconds above 0.
    Span(String),
    /// The fault of this name has no span.
    NoSpan(String),
}

impl fmt::Display for UnknownFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => {
                write!(f, "no fault is called `{name}`; there are {}", NAMES.join(", "))
            }
            Self::Span(text) => write!(f, "`{text}` is not a time: NAME=SECONDS, as in refuse=10"),
            Self::NoSpan(name) => write!(f, "the fault `{name}` takes no time"),
        }
    }
}

impl core::error::Error for UnknownFault {}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let (name, span) = match text.split_once('=') {
            Some((name, span)) => (name, Some(span)),
            None => (text, None),
        };
        let mut fault = Self::named(name).ok_or_else(|| UnknownFault::Name(name.into()))?;
        if let Some(span) = span {
            let seconds = span.parse().ok().filter(|seconds| *seconds > 0.0);
            let span = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            let span = span.ok_or_else(|| UnknownFault::Span(text.into()))?;
            if !fault.set_span(span) {
                return Err(UnknownFault::NoSpan(name.into()));
            }
        }
        Ok(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_print() {
        let catalogue = Fault::catalogue();
        assert_eq!(catalogue.len(), NAMES.len());
        for (fault, name) in catalogue.iter().zip(NAMES) {
            assert_eq!(fault.to_string(), name);
            assert_eq!(&name.parse::<Fault>().expect(name), fault);
        }
    }

    #[test]
    fn spans_parse_where_there_is_one() {
        let refuse = Fault::Refuse { span: Duration::from_millis(1500) };
        assert_eq!("refuse=1.5".parse(), Ok(refuse));
        assert_eq!("fin=3".parse::<Fault>(), Err(UnknownFault::NoSpan("fin".into())));
        for bad in ["refuse=", "refuse=x", "refuse=-1", "refuse=0", "refuse=nan", "refuse=1e99"] {
            assert_eq!(bad.parse::<Fault>(), Err(UnknownFault::Span(bad.into())), "{bad}");
        }
    }

    #[test]
    fn an_unknown_name_is_told_the_right_ones() {
        let error = "finn".parse::<Fault>().expect_err("no such fault").to_string();
        assert!(error.contains("`finn`") && error.contains("fin, rst, refuse"), "{error}");
    }
}
