//! One connection as the node sees it: bytes that wait to be polled and its output as one stream of
//! bytes; and what the node remembers of the client.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use meshbeat_core::time::Instant;

use super::config::Timing;
use super::parser::Parser;
use super::{ConnId, How};

/// Ids remembered per connection (`PhoneAPI::recentToRadioPacketIds`).
const RECENT: usize = 20;

/// A connection that the network took. All that is in here is forgotten with it.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: ConnId,
    /// When the node will look at the new connection; `None` once it has.
    pub(super) accept_at: Option<Instant>,
    /// When the node will read `input`; armed by input alone, so that a quiet client costs nothing.
    pub(super) poll_at: Option<Instant>,
    /// When another client takes the node away.
    pub(super) steal_at: Option<Instant>,
    /// Bytes not read yet.
    pub(super) input: VecDeque<u8>,
    pub(super) parser: Parser,
    /// When the node last read a byte, or took the connection up.
    pub(super) last_read: Instant,
    /// When the node took the connection up: its polls lie on a grid from here.
    accepted: Instant,
    pub(super) stage: Stage,
    /// Cached packets that follow the handshake.
    pub(super) replays: VecDeque<meshbeat_proto::MeshPacket>,
    /// Heartbeats were read and not answered.
    pub(super) heartbeat: bool,
    pub(super) output: Output,
    /// The client closed its side: the connection ends when `input` is read.
    pub(super) finished: bool,
    /// Nothing is said any more.
    pub(super) stalled: bool,
    /// The client is gone and the node does not know.
    pub(super) void: bool,
}

/// What the node remembers of what its client sent.
#[derive(Debug, Default)]
pub(super) struct Memory {
    recent: VecDeque<u32>,
    sent_at: BTreeMap<i32, Instant>,
}

/// How far a client is.
#[derive(Debug)]
pub(super) enum Stage {
    /// It has not asked for a handshake.
    Quiet,
    /// It is being told these frames, the last of which completes the handshake.
    Configuring {
        /// What it asked with.
        nonce: u32,
        /// The frames left.
        left: VecDeque<Vec<u8>>,
        /// Frames told.
        told: u32,
    },
    /// It gets packets.
    Live,
}

/// The bytes that the node wrote and the network has not taken.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// Bytes at the front of `bytes` that are taken; always at most its length.
    taken: usize,
    /// Bytes taken since the connection began, those in `bytes[..taken]` included.
    sent: u64,
    /// Whole frames written.
    frames: u64,
    /// Bytes behind this position of the stream do not leave before this time.
    pub(super) gate: Option<(u64, Instant)>,
    /// When the stream has left up to this position the connection is closed.
    pub(super) close_at: Option<(u64, How)>,
}

impl Conn {
    pub(super) fn new(id: ConnId, now: Instant, accept_at: Instant) -> Self {
        Self {
            id,
            accept_at: Some(accept_at),
            poll_at: None,
            steal_at: None,
            input: VecDeque::new(),
            parser: Parser::default(),
            last_read: now,
            accepted: now,
            stage: Stage::Quiet,
            replays: VecDeque::new(),
            heartbeat: false,
            output: Output::default(),
            finished: false,
            stalled: false,
            void: false,
        }
    }

    /// The node takes the connection up.
    pub(super) fn accept(&mut self, now: Instant) {
        self.accept_at = None;
        self.accepted = now;
        self.last_read = now;
    }

    /// The next moment at which the node looks for input.
    pub(super) fn next_poll(&self, now: Instant, timing: &Timing) -> Instant {
        let active = now.since(self.last_read) <= timing.active_for;
        let period = if active { timing.active_poll } else { timing.idle_poll };
        let period = (period.as_millis() as u64).max(1);
        let passed = now.since(self.accepted).as_millis() as u64;
        self.accepted + Duration::from_millis(passed.div_ceil(period).saturating_mul(period))
    }

    pub(super) fn is_configuring(&self) -> bool {
        matches!(self.stage, Stage::Configuring { .. })
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Live)
    }
}

impl Memory {
    /// Whether `id` is among the last 20; remembers it. 0 is nobody's id.
    pub(super) fn is_repeat(&mut self, id: u32) -> bool {
        if id == 0 {
            return false;
        }
        if self.recent.contains(&id) {
            return true;
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
        false
    }

    /// Whether port number `port` was used less than `span` ago; else it is used now.
    pub(super) fn is_limited(&mut self, now: Instant, port: i32, span: Duration) -> bool {
        if self.sent_at.get(&port).is_some_and(|last| now.since(*last) < span) {
            return true;
        }
        self.sent_at.insert(port, now);
        false
    }
}

impl Output {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Counts a whole frame; returns its number and the position of its end.
    pub(super) fn count_frame(&mut self) -> (u64, u64) {
        let seq = self.frames;
        self.frames += 1;
        (seq, self.written())
    }

    pub(super) fn take(&mut self, count: usize) {
        let count = count.min(self.bytes.len() - self.taken);
        self.taken += count;
        self.sent += count as u64;
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.taken = 0;
        }
    }

    /// Bytes that may leave now.
    pub(super) fn pending(&self, now: Instant) -> &[u8] {
        let all = &self.bytes[self.taken..];
        match self.gate {
            Some((at, until)) if now < until => {
                let free = usize::try_from(at.saturating_sub(self.sent)).unwrap_or(usize::MAX);
                &all[..free.min(all.len())]
            }
            _ => all,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// Bytes that left since the connection began.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes written since the connection began.
    pub(super) fn written(&self) -> u64 {
        self.sent + self.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: fn(u64) -> Instant = Instant::from_millis;

    #[test]
    fn polls_lie_on_a_grid_of_5_ms_while_active_else_of_250() {
        let timing = Timing::default();
        let mut conn = Conn::new(ConnId(1), T(0), T(100));
        conn.accept(T(103));
        for (now, poll) in
            [(103, 103), (104, 108), (108, 108), (109, 113), (2_103, 2_103), (2_104, 2_353)]
        {
            assert_eq!(conn.next_poll(T(now), &timing), T(poll), "input at {now}");
        }
    }

    #[test]
    fn twenty_ids_are_remembered_and_zero_never() {
        let mut memory = Memory::default();
        assert!(!memory.is_repeat(0) && !memory.is_repeat(0));
        for id in 1..=20 {
            assert!(!memory.is_repeat(id));
        }
        assert!(memory.is_repeat(1));
        assert!(!memory.is_repeat(21));
        assert!(!memory.is_repeat(1), "21 pushed it out");
    }

    #[test]
    fn a_limited_packet_does_not_restart_the_time() {
        let mut memory = Memory::default();
        let span = Duration::from_secs(2);
        let limited: Vec<_> =
            [0, 1_000, 1_999, 2_000, 3_999].map(|now| memory.is_limited(T(now), 1, span)).into();
        assert_eq!(limited, [false, true, true, false, true]);
        assert!(!memory.is_limited(T(3_999), 3, span), "each port has its own");
    }

    #[test]
    fn output_is_one_stream_with_a_gate() {
        let mut output = Output::default();
        output.push(b"abcdef");
        output.take(2);
        output.gate = Some((3, T(50)));
        output.push(b"gh");
        assert_eq!(output.pending(T(49)), b"c");
        assert_eq!(output.pending(T(50)), b"cdefgh");
        output.take(100);
        assert_eq!((output.sent(), output.len(), output.written()), (8, 0, 8));
    }
}
