//! The wire: a connection as two pipes of bytes that take their time.
//!
//! A pipe holds what its writer's kernel took and its reader has not read: bytes on their way and
//! bytes that have landed. It is bounded, so writes become short and then block, as on a socket.

use core::ops::RangeInclusive;
use core::time::Duration;
use std::collections::VecDeque;

use meshbeat_core::Instant;
use meshbeat_core::rng::Rng;

/// What a wire is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireConfig {
    /// How long a piece is on its way, in milliseconds. Default 1 to 20.
    pub delay: RangeInclusive<u32>,
    /// Bytes that the direction from link to node holds; default 16,384.
    pub up: usize,
    /// Bytes that the direction from node to link holds: send and receive buffer together. Default
    /// 262,144.
    pub down: usize,
    /// A write of the link is short this often, in percent; default 0.
    pub short_writes: u32,
    /// Bytes are cut into pieces this often, in percent; default 50.
    pub splits: u32,
    /// Pieces wait for those behind them this often, in percent; default 0.
    pub stalls: u32,
    /// How long such a stall may be, in milliseconds; default 3,000.
    pub longest_stall: u32,
}

impl Default for WireConfig {
    fn default() -> Self {
        Self {
            delay: 1..=20,
            up: 16_384,
            down: 262_144,
            short_writes: 0,
            splits: 50,
            stalls: 0,
            longest_stall: 3_000,
        }
    }
}

impl WireConfig {
    /// Some wire between a good one and a miserable one.
    pub fn random(rng: &mut Rng) -> Self {
        let scale = 1 << rng.below(10);
        let slowest = 1 + rng.below(scale);
        Self {
            delay: rng.below(slowest)..=slowest,
            up: 1 << rng.below(12),
            down: 65_536 << rng.below(3),
            short_writes: rng.below(100),
            splits: rng.below(100),
            stalls: rng.below(10),
            longest_stall: 1 + rng.below(5_000),
        }
    }

    fn flight_time(&self, rng: &mut Rng) -> Duration {
        let (least, most) = (*self.delay.start(), *self.delay.end());
        let mut millis = least + rng.below(most.saturating_sub(least) + 1);
        if rng.below(100) < self.stalls {
            millis += rng.below(self.longest_stall + 1);
        }
        Duration::from_millis(millis.into())
    }
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Fin,
    Rst,
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Pipe {
    /// On their way, in order; what lands first is first.
    flight: VecDeque<(Instant, Vec<u8>)>,
    /// Arrived and not read.
    pub(super) landed: Vec<u8>,
    /// Bytes in both together.
    held: usize,
    capacity: usize,
    /// Nothing lands before what was sent earlier.
    last: Instant,
    /// The end behind the last byte, and when it arrives.
    end: Option<(Instant, End)>,
    /// Since when bytes are on their way without any having landed.
    unacknowledged: Option<Instant>,
    /// Bytes that may still land before the cable is cut.
    pub(super) cut_after: Option<usize>,
}

impl Pipe {
    pub(super) fn new(now: Instant, capacity: usize) -> Self {
        Self {
            flight: VecDeque::new(),
            landed: Vec::new(),
            held: 0,
            capacity,
            last: now,
            end: None,
            unacknowledged: None,
            cut_after: None,
        }
    }

    pub(super) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.held)
    }

    /// Takes bytes, for which there is room, and cuts them into pieces. Behind the end they are
    /// lost.
    pub(super) fn push(&mut self, now: Instant, bytes: &[u8], config: &WireConfig, rng: &mut Rng) {
        if bytes.is_empty() || self.end.is_some() {
            return;
        }
        self.held += bytes.len();
        self.unacknowledged.get_or_insert(now);
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = if rng.below(100) >= config.splits {
                rest.len()
            } else if rest.len() < 60 && rng.below(8) == 0 {
                1
            } else {
                1 + rng.below(rest.len() as u32) as usize
            };
            let (piece, after) = rest.split_at(len);
            self.last = self.last.max(now + config.flight_time(rng));
            match self.flight.back_mut() {
                Some((at, bytes)) if *at == self.last => bytes.extend_from_slice(piece),
                _ => self.flight.push_back((self.last, piece.to_vec())),
            }
            rest = after;
        }
    }

    /// Ends the direction behind what was pushed; a reset may overtake what is on its way, and
    /// nothing follows it.
    pub(super) fn finish(&mut self, now: Instant, end: End, config: &WireConfig, rng: &mut Rng) {
        if self.is_reset() {
            return;
        }
        if end == End::Rst && rng.below(2) == 0 {
            let kept = rng.below(self.flight.len() as u32 + 1) as usize;
            for (_, lost) in self.flight.drain(kept..) {
                self.held -= lost.len();
            }
        }
        self.last = self.last.max(now + config.flight_time(rng));
        self.end = Some((self.last, end));
    }

    /// The connection is cut here and now: what has not landed never does.
    pub(super) fn cut(&mut self, now: Instant) {
        self.held = self.landed.len();
        self.flight.clear();
        self.end = Some((now, End::Rst));
    }

    /// Lets land what is due. Returns whether the cable was cut at the last byte.
    pub(super) fn land(&mut self, now: Instant) -> bool {
        while let Some((at, _)) = self.flight.front()
            && *at <= now
            && let Some((_, mut piece)) = self.flight.pop_front()
        {
            if let Some(left) = &mut self.cut_after {
                self.held -= piece.len().saturating_sub(*left);
                piece.truncate(*left);
                *left -= piece.len();
            }
            self.landed.extend(piece);
            self.unacknowledged = (!self.flight.is_empty()).then_some(now);
        }
        self.cut_after == Some(0)
    }

    /// Takes the first `count` bytes that have landed away.
    pub(super) fn read(&mut self, count: usize) {
        self.landed.drain(..count);
        self.held -= count;
    }

    /// The reader is gone; what comes is thrown away.
    pub(super) fn discard(&mut self) {
        self.flight.clear();
        self.landed.clear();
        self.held = 0;
    }

    /// The end, once it and all before it have arrived. What has landed may still be unread.
    pub(super) fn ended(&self, now: Instant) -> Option<End> {
        let (at, end) = self.end?;
        (self.flight.is_empty() && at <= now).then_some(end)
    }

    pub(super) fn is_finished(&self) -> bool {
        self.end.is_some()
    }

    pub(super) fn is_reset(&self) -> bool {
        matches!(self.end, Some((_, End::Rst)))
    }

    /// Bytes that were pushed and not read.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn unacknowledged(&self) -> Option<Instant> {
        self.unacknowledged
    }

    /// When something lands next, or the end does; `None` if both have.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        match (self.flight.front(), self.end) {
            (Some((at, _)), _) => Some(*at),
            (None, Some((at, _))) if at > now => Some(at),
            _ => None,
        }
    }
}
