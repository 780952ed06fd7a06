//! The link's side of the world: the loop of every caller, and wrong loops that must be found out.

use core::time::Duration;

use embedded_io::{ErrorKind, ErrorType, Write};
use meshbeat::sim::{ConnId, Listening, hash};
use meshbeat_core::fault::{Class, Fault};
use meshbeat_core::frame::HEADER_LEN;
use meshbeat_core::link::{Item, Transmit};
use meshbeat_core::rng::Rng;
use meshbeat_core::{Event, Instant};

use super::audit::Violation;
use super::wire::{End, Pipe, WireConfig};
use super::{Conn, Direction, Frame, NOISE_KEPT, Seen, World};

/// A wrong driver: what it does that no caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Loses a byte that it has read, once in a while.
    LosesBytes,
    /// Hands a piece that it has read to the link twice, once in a while.
    ReadsTwice,
    /// Keeps what it has read last and hands it to the next session.
    KeepsOldBytes,
    /// Confirms a whole frame of which it wrote a half.
    ConfirmsHalf,
    /// Connects again when the first connect is not answered in a second.
    Impatient,
    /// Never says that time has passed.
    ForgetsTime,
    /// Stops reading when a session is a minute old, and so never learns of its end.
    StopsReading,
}

/// A connect under way.
#[derive(Debug)]
pub(super) struct Attempt {
    since: Instant,
    /// When the first packet arrives at the node, again.
    syn: Instant,
    syns: u32,
    /// How it ends, and when the link's side knows.
    outcome: Option<(Instant, Outcome)>,
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Opened(ConnId),
    Failed(Fault),
}

impl Attempt {
    pub(super) fn poll_timeout(&self) -> Instant {
        self.outcome.map_or(self.syn, |(at, _)| at)
    }

    /// The connection, if the node has answered.
    pub(super) fn conn(&self) -> Option<ConnId> {
        match self.outcome {
            Some((_, Outcome::Opened(conn))) => Some(conn),
            _ => None,
        }
    }
}

impl World {
    /// One turn of the loop: what the world did, each followed by draining. Whether a deadline or
    /// the socket comes first is chance, as it is on a machine with something else to do.
    pub(super) fn drive(&mut self) -> Result<(), Violation> {
        self.drive_connect()?;
        if self.rng.below(2) == 0 {
            self.drive_read()?;
            self.drive_time()?;
        } else {
            self.drive_time()?;
            self.drive_read()?;
        }
        Ok(())
    }

    fn drive_time(&mut self) -> Result<(), Violation> {
        // Early calls do nothing, so one may come at any time.
        if self.flaw != Some(Flaw::ForgetsTime) {
            self.link.handle_timeout(self.now);
        }
        if let Some(id) = self.current.filter(|_| self.serial) {
            self.deliver(id, &[])?;
        }
        self.settle_link()
    }

    fn drive_connect(&mut self) -> Result<(), Violation> {
        let now = self.now;
        let down = self.is_path_down();
        let refusing = self.node.listening() == Listening::Refusing;
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        if attempt.outcome.is_none() && now >= attempt.syn {
            let back = now + Duration::from_millis(1 + u64::from(self.rng.below(40)));
            if self.no_route_until.is_some() {
                attempt.outcome = Some((back, Outcome::Failed(Fault::from_errno(113))));
            } else if down {
                // The first packet is sent again after 1 s, 2 s, 4 s…
                attempt.syn = now + Duration::from_secs(1 << attempt.syns.min(6));
                attempt.syns += 1;
            } else if refusing {
                attempt.outcome = Some((back, Outcome::Failed(Fault::from_errno(111))));
            } else {
                let conn = ConnId(self.next_conn);
                self.next_conn += 1;
                attempt.outcome = Some((back, Outcome::Opened(conn)));
                self.conns.insert(conn, Conn::new(now, &self.wire, self.cut_next.take()));
                self.node.handle_connect(now, conn);
                self.settle_node()?;
            }
        }
        let Some(attempt) = &self.attempt else { return Ok(()) };
        if self.flaw == Some(Flaw::Impatient) && now.since(attempt.since).as_secs() >= 1 {
            return self.connect();
        }
        let Some((_, outcome)) = attempt.outcome.filter(|(at, _)| now >= *at) else {
            return Ok(());
        };
        self.attempt = None;
        match outcome {
            Outcome::Opened(conn) => {
                self.current = Some(conn);
                self.link.handle_opened(now);
            }
            Outcome::Failed(fault) => self.link.handle_closed(now, fault),
        }
        self.settle_link()
    }

    /// Reads what has landed, then the end if it has come.
    fn drive_read(&mut self) -> Result<(), Violation> {
        let Some(id) = self.current else { return Ok(()) };
        let old = self.link.state().opened().is_some_and(|at| self.now.since(at).as_secs() > 60);
        if self.flaw == Some(Flaw::StopsReading) && old {
            return Ok(());
        }
        while let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.down.landed.is_empty()) {
            let landed = conn.down.landed.len();
            let all = landed < 2 || self.rng.below(3) > 0;
            let count = if all { landed } else { 1 + self.rng.below(landed as u32) as usize };
            let bytes = conn.down.landed[..count].to_vec();
            conn.down.read(count);
            self.audit.handle_read(self.now, id, count);
            self.deliver_flawed(id, bytes)?;
            self.settle_link()?;
            if self.current != Some(id) {
                return Ok(());
            }
        }
        let timed_out = self.user_timeout().is_some_and(|at| at <= self.now);
        let end = self.conns.get(&id).and_then(|conn| conn.down.ended(self.now));
        let fault = match end {
            _ if timed_out => Fault::from_errno(110),
            Some(_) if self.is_path_down() => return Ok(()),
            Some(End::Fin) => Fault::new(Class::ClosedByPeer),
            Some(End::Rst) => Fault::from_errno(104),
            None => return Ok(()),
        };
        self.ended(id, fault)
    }

    /// The transport has ended: what arrived before still counts.
    fn ended(&mut self, id: ConnId, fault: Fault) -> Result<(), Violation> {
        self.link.handle_end();
        self.deliver(id, &[])?;
        self.link.handle_closed(self.now, fault);
        self.settle_link()
    }

    fn deliver_flawed(&mut self, id: ConnId, mut bytes: Vec<u8>) -> Result<(), Violation> {
        match self.flaw {
            Some(Flaw::LosesBytes) if self.rng.below(50) == 0 => {
                bytes.remove(self.rng.below(bytes.len() as u32) as usize);
            }
            Some(Flaw::ReadsTwice) if self.rng.below(50) == 0 => {
                self.deliver(id, &bytes)?;
            }
            Some(Flaw::KeepsOldBytes) => {
                let old = core::mem::replace(&mut self.leftover, bytes.clone());
                if self.frames.last().is_some_and(|frame| frame.conn != id) {
                    bytes = [old, bytes].concat();
                }
            }
            _ => {}
        }
        self.deliver(id, &bytes)
    }

    /// Offers bytes to the link until all are taken and there is no item.
    fn deliver(&mut self, id: ConnId, bytes: &[u8]) -> Result<(), Violation> {
        let mut rest = bytes;
        loop {
            let received = self.link.handle_bytes(self.now, rest);
            rest = &rest[received.taken..];
            match received.item {
                Some(Item::Frame { payload, message, .. }) => {
                    self.audit.handle_out(id, HEADER_LEN + payload.len())?;
                    self.audit.handle_message(id, message)?;
                    let hash = hash(payload);
                    if let Some(payloads) = &mut self.payloads {
                        payloads.push(payload.to_vec());
                    }
                    self.frames.push(Frame { at: self.now, conn: id, hash });
                    self.audit.handle_frame(self.now, id, hash)?;
                }
                Some(Item::Noise(noise)) => {
                    self.audit.handle_out(id, noise.len())?;
                    self.audit.totals.noise += noise.len() as u64;
                    let room = NOISE_KEPT.saturating_sub(self.noise.len()).min(noise.len());
                    self.noise.extend_from_slice(&noise[..room]);
                }
                None if rest.is_empty() => return Ok(()),
                None => {}
            }
        }
    }

    /// Steps 3 and 4 of the loop: drain events and writes until there is neither.
    pub(super) fn settle_link(&mut self) -> Result<(), Violation> {
        loop {
            self.poll_events()?;
            self.transmit()?;
            if self.poll_events()? == 0 {
                return Ok(());
            }
        }
    }

    fn poll_events(&mut self) -> Result<u32, Violation> {
        let mut count = 0;
        while let Some(event) = self.link.poll_event() {
            count += 1;
            self.seen.push(Seen { at: self.now, event });
            self.audit.handle_event(self.now, event, self.current)?;
            match event {
                Event::OpenDue => self.connect()?,
                Event::SaidGoodbye => self.half_close(),
                Event::Lost { .. } | Event::Closed => self.drop_transport(),
                _ => {}
            }
        }
        Ok(count)
    }

    fn transmit(&mut self) -> Result<(), Violation> {
        while let Some(id) = self.current
            && let Some(conn) = self.conns.get_mut(&id)
        {
            let mut socket = Socket {
                reset: conn.down.ended(self.now) == Some(End::Rst),
                pipe: &mut conn.up,
                now: self.now,
                wire: &self.wire,
                rng: &mut self.rng,
                half: self.flaw == Some(Flaw::ConfirmsHalf),
                written: Vec::new(),
            };
            let result = self.link.poll_transmit(self.now, &mut socket);
            let written = socket.written;
            if !written.is_empty() {
                self.audit.handle_written(self.now, id, &written)?;
            }
            match result {
                Ok(Transmit::Wrote(_)) => {}
                Ok(Transmit::Blocked | Transmit::Empty) => return Ok(()),
                // Not ready; or broken, and then what has arrived is read before the end is told.
                Err(Broken(_)) => return Ok(()),
            }
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<(), Violation> {
        self.audit.handle_connect(self.attempt.is_some() || self.current.is_some())?;
        let way = Duration::from_millis(1 + u64::from(self.rng.below(40)));
        let attempt = Attempt { since: self.now, syn: self.now + way, syns: 0, outcome: None };
        self.attempt = Some(attempt);
        Ok(())
    }

    /// Says that nothing more will be written; the node's end is still awaited.
    fn half_close(&mut self) {
        if let Some(conn) = self.current.and_then(|id| self.conns.get_mut(&id)) {
            conn.up.finish(self.now, End::Fin, &self.wire, &mut self.rng);
        }
    }

    /// Closes the socket; one with bytes unread says so with a reset.
    fn drop_transport(&mut self) {
        let attempted = self.attempt.take().and_then(|attempt| attempt.conn());
        let Some(id) = self.current.take().or(attempted) else { return };
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let end = if conn.down.held() > 0 { End::Rst } else { End::Fin };
        conn.down.discard();
        if !conn.up.is_finished() {
            conn.up.finish(self.now, end, &self.wire, &mut self.rng);
        }
    }
}

impl Conn {
    fn new(now: Instant, wire: &WireConfig, cut: Option<(Direction, usize)>) -> Self {
        let mut conn = Self {
            up: Pipe::new(now, wire.up),
            down: Pipe::new(now, wire.down),
            node_open: true,
            node_told: false,
        };
        match cut {
            Some((Direction::Up, bytes)) => conn.up.cut_after = Some(bytes),
            Some((Direction::Down, bytes)) => conn.down.cut_after = Some(bytes),
            None => {}
        }
        conn
    }
}

/// The link's end of a connection, for one write.
struct Socket<'a> {
    pipe: &'a mut Pipe,
    reset: bool,
    now: Instant,
    wire: &'a WireConfig,
    rng: &'a mut Rng,
    /// Writes half of what it says it did.
    half: bool,
    written: Vec<u8>,
}

/// A write that failed.
#[derive(Debug)]
struct Broken(Fault);

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

impl core::error::Error for Broken {}

impl embedded_io::Error for Broken {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

impl ErrorType for Socket<'_> {
    type Error = Broken;
}

impl Write for Socket<'_> {
    fn write(&mut self, buf: &[u8]) -> Result<usize, Broken> {
        if self.reset {
            return Err(Broken(Fault::from_errno(32)));
        }
        let mut count = buf.len().min(self.pipe.room());
        if count == 0 {
            return Err(Broken(Fault::from_errno(11)));
        }
        if self.rng.below(100) < self.wire.short_writes {
            count = 1 + self.rng.below(count as u32) as usize;
        }
        let truly = if self.half { count.div_ceil(2) } else { count };
        self.written = buf[..truly].to_vec();
        self.pipe.push(self.now, &self.written, self.wire, self.rng);
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), Broken> {
        Ok(())
    }
}
