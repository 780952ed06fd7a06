//! The node's own record of what it saw and did, for tests that compare it with what the other side
//! believes, and for people who watch.

use core::fmt;
use std::collections::VecDeque;

use meshbeat_core::time::Instant;

use super::Fault;

/// A connection to the node, named by the caller; numbers are not used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {}", self.0)
    }
}

/// The newest entries (100,000 unless told otherwise) and the totals since the start.
#[derive(Debug, Clone)]
pub struct Log {
    entries: VecDeque<Entry>,
    /// Entries kept; older ones go.
    limit: usize,
    first: u64,
    totals: Totals,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// When.
    pub at: Instant,
    /// What.
    pub what: Record,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Record {
    /// The network took a connection; the node has not looked at it yet.
    Connected(ConnId),
    /// The node took the connection up.
    Accepted(ConnId),
    /// The node closed the connection, of whose stream the network had taken `sent` bytes.
    Closed {
        /// Which.
        conn: ConnId,
        /// Why.
        why: Why,
        /// Bytes that left the node.
        sent: u64,
    },
    /// The client closed its side.
    Fin(ConnId),
    /// The connection broke on the client's side.
    Gone {
        /// Which.
        conn: ConnId,
        /// Bytes that left the node.
        sent: u64,
    },
    /// The node restarted; this is its how-manieth boot.
    Rebooted(u32),
    /// A fault began.
    Fault(Fault),
    /// The fault of this name ended by itself.
    Over(&'static str),
    /// All faults were ended.
    Recovered,
    /// A handshake was asked for.
    WantConfig {
        /// By whom.
        conn: ConnId,
        /// With this nonce.
        nonce: u32,
    },
    /// The `config_complete_id` of a handshake was handed to the connection.
    Configured {
        /// Whose.
        conn: ConnId,
        /// With this nonce.
        nonce: u32,
    },
    /// A heartbeat was read.
    Heartbeat {
        /// From whom.
        conn: ConnId,
        /// With this nonce.
        nonce: u32,
    },
    /// The answer to all heartbeats of one poll was handed to the connection.
    Answered(ConnId),
    /// A packet was read; what the node made of it follows.
    Read {
        /// From whom.
        conn: ConnId,
        /// Its id as sent, 0 if the client left that to the node.
        id: u32,
        /// Its destination.
        to: u32,
        /// Its port number; `None` for an encrypted or empty one.
        port: Option<i32>,
    },
    /// A packet was dropped because its id was among the last 20.
    Repeated(u32),
    /// A packet was dropped because of a rate limit.
    RateLimited {
        /// Its id.
        id: u32,
        /// Its port number.
        port: i32,
    },
    /// A packet entered the queue to the radio or was for the node itself.
    Taken(u32),
    /// A packet was refused.
    Refused {
        /// Its id.
        id: u32,
        /// The `res` of its queue status.
        res: i32,
    },
    /// A queue status was handed to the connection.
    Status {
        /// What the status is about; 0 for an answer or an unasked one.
        id: u32,
        /// Its `res`.
        res: i32,
        /// Its `free`.
        free: u32,
    },
    /// A queue status was lost: the queue of two was full, or a fault took it.
    StatusLost(u32),
    /// A packet went out on the air.
    Transmitted {
        /// Its origin.
        from: u32,
        /// Its id.
        id: u32,
    },
    /// A packet was heard on the air or made by the node itself for its client.
    Heard {
        /// Its origin.
        from: u32,
        /// Its id.
        id: u32,
    },
    /// A packet was handed to the connection.
    Delivered {
        /// Its origin.
        from: u32,
        /// Its id.
        id: u32,
    },
    /// A packet for the client was lost in the node.
    PacketLost {
        /// Its origin.
        from: u32,
        /// Its id.
        id: u32,
        /// How.
        how: Loss,
    },
    /// A whole frame was handed to the connection. It has left the node when `sent` of the
    /// connection is at least `end`.
    Frame {
        /// To whom.
        conn: ConnId,
        /// The how-manieth frame of this connection, from 0.
        seq: u64,
        /// Bytes of the connection's stream up to the frame's end.
        end: u64,
        /// FNV-1a of the payload, to find the frame again.
        hash: u64,
    },
    /// A frame was handed to the connection torn or cut; it must never be seen.
    Torn(ConnId),
}

/// Why the node closed a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// A newer connection came.
    Newer,
    /// `ToRadio.disconnect`.
    Disconnect,
    /// The client closed its side.
    Fin,
    /// It sent nothing for too long.
    Idle,
    /// The network took less than offered.
    ShortWrite,
    /// The node restarted.
    Reboot,
    /// A fault of the catalogue.
    Fault,
}

/// How a packet for the client was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// The queue was full.
    Overflow,
    /// Another transport took it.
    Shared,
    /// It was written for a client that had gone without the node's knowledge.
    Void,
    /// The node restarted.
    Reboot,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that the network took.
    pub connects: u64,
    /// Handshakes asked for.
    pub want_configs: u64,
    /// Handshakes completed.
    pub configured: u64,
    /// Heartbeats read.
    pub heartbeats: u64,
    /// Answers to heartbeats.
    pub answers: u64,
    /// Packets read.
    pub read: u64,
    /// Packets dropped as repeated.
    pub repeated: u64,
    /// Packets dropped because of a rate limit.
    pub rate_limited: u64,
    /// Packets taken.
    pub taken: u64,
    /// Packets refused.
    pub refused: u64,
    /// Packets transmitted, retransmissions included.
    pub transmitted: u64,
    /// Packets handed to connections.
    pub delivered: u64,
    /// Packets for clients lost in the node.
    pub lost: u64,
    /// Whole frames handed to connections.
    pub frames: u64,
    /// Faults played.
    pub faults: u64,
    /// Times that the network took some of the bytes it was offered, and not all.
    pub short_writes: u64,
}

impl Default for Log {
    fn default() -> Self {
        Self { entries: VecDeque::new(), limit: 100_000, first: 0, totals: Totals::default() }
    }
}

impl Log {
    /// The entries kept, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The entries from number `from` on, counted since the start; see [`Log::end`].
    pub fn entries_from(&self, from: u64) -> impl Iterator<Item = &Entry> {
        self.entries.iter().skip(from.saturating_sub(self.first) as usize)
    }

    /// The number that the next entry will have.
    pub fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Counts since the start.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// How often something that `is` recognises stands in the entries kept.
    pub fn count(&self, is: impl Fn(&Record) -> bool) -> usize {
        self.entries.iter().filter(|entry| is(&entry.what)).count()
    }

    pub(super) fn keep(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub(super) fn count_short_write(&mut self) {
        self.totals.short_writes += 1;
    }

    pub(super) fn push(&mut self, at: Instant, what: Record) {
        let totals = &mut self.totals;
        match &what {
            Record::Connected(_) => totals.connects += 1,
            Record::WantConfig { .. } => totals.want_configs += 1,
            Record::Configured { .. } => totals.configured += 1,
            Record::Heartbeat { .. } => totals.heartbeats += 1,
            Record::Answered(_) => totals.answers += 1,
            Record::Read { .. } => totals.read += 1,
            Record::Repeated(_) => totals.repeated += 1,
            Record::RateLimited { .. } => totals.rate_limited += 1,
            Record::Taken(_) => totals.taken += 1,
            Record::Refused { .. } => totals.refused += 1,
            Record::Transmitted { .. } => totals.transmitted += 1,
            Record::Delivered { .. } => totals.delivered += 1,
            Record::PacketLost { .. } => totals.lost += 1,
            Record::Frame { .. } => totals.frames += 1,
            Record::Fault(_) => totals.faults += 1,
            _ => {}
        }
        if self.entries.len() >= self.limit {
            self.entries.pop_front();
            self.first += 1;
        }
        self.entries.push_back(Entry { at, what });
    }
}

impl Record {
    /// Whether a person who watches the node wants a line about it: connections and faults.
    pub fn is_news(&self) -> bool {
        matches!(
            self,
            Self::Accepted(_)
                | Self::Closed { .. }
                | Self::Fin(_)
                | Self::Gone { .. }
                | Self::Rebooted(_)
                | Self::Fault(_)
                | Self::Over(_)
                | Self::Configured { .. }
        )
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(conn) => write!(f, "{conn} accepted"),
            Self::Closed { conn, why, sent } => {
                write!(f, "{conn} closed after {sent} bytes: {}", why.text())
            }
            Self::Fin(conn) => write!(f, "{conn} closed by the client"),
            Self::Gone { conn, sent } => write!(f, "{conn} broke after {sent} bytes"),
            Self::Rebooted(boot) => write!(f, "boot {boot}"),
            Self::Fault(fault) => write!(f, "fault {fault}"),
            Self::Over(name) => write!(f, "fault {name} over"),
            Self::Configured { conn, nonce } => write!(f, "{conn} configured, nonce {nonce}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl Why {
    fn text(self) -> &'static str {
        match self {
            Self::Newer => "a newer client came",
            Self::Disconnect => "the client said so",
            Self::Fin => "the client closed",
            Self::Idle => "the client was idle",
            Self::ShortWrite => "short write",
            Self::Reboot => "reboot",
            Self::Fault => "fault",
        }
    }
}

/// FNV-1a, 64 bits.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_entries_go_and_keep_their_numbers() {
        let mut log = Log::default();
        log.keep(3);
        for n in 0..5 {
            log.push(Instant::from_millis(n), Record::Heartbeat { conn: ConnId(1), nonce: 0 });
        }
        assert_eq!(log.totals().heartbeats, 5);
        assert_eq!(log.end(), 5);
        let times = |from| log.entries_from(from).map(|e| e.at.as_millis()).collect::<Vec<_>>();
        assert_eq!(times(0), [2, 3, 4]);
        assert_eq!(times(4), [4]);
        assert_eq!(times(9), [0; 0]);
    }

    #[test]
    fn hashes_as_published() {
        assert_eq!(hash(b""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(hash(b"a"), 0xAF63_DC4C_8601_EC8C);
    }
}
