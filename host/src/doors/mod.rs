//! The relay's sockets: listeners, clients, and the daemon's own socket for its operator.
//!
//! The relay decides what is said to whom; here is only what sockets need. mio is edge-triggered,
//! so what is still readable or writable is remembered, and the work is done in turns of a bounded
//! size, one piece for each client in rotation: however many clients there are and whatever they
//! send, the node's socket is looked at again soon. A client that does not read is the relay's
//! business, which bounds what waits for it.
//!
//! In each turn of the loop: [`Doors::handle_ready`] for what mio tells, [`Doors::handle_timeout`],
//! [`Doors::turn`], the relay's own turn with the link, [`Doors::flush`]; then
//! [`Doors::poll_timeout`] and [`Doors::is_busy`] say how long to wait.

mod client;
mod listener;

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::path::{Path, PathBuf};

use log::{debug, warn};
use meshbeat_core::Instant;
use meshbeat_core::fault::{Class, Fault, Verdict};
use mio::{Interest, Registry, Token};

pub use client::ControlId;
pub use listener::{DoorError, ListenAddr, ListenAddrError};

use crate::relay::admission::Policy;
use crate::relay::{Action, ClientId, Peer, Relay};
use crate::socket::fault_of;
use client::{Conn, Role, Stream};
use listener::Listener;

/// Connections taken in one turn from each listener.
const ACCEPTS: usize = 32;
/// Reads in one turn, each of another client if there are so many.
const READS: usize = 16;
/// Bytes read at once.
const READ_SIZE: usize = 16 * 1024;
/// Writes in one turn, each to another client if there are so many.
const WRITES: usize = 256;
/// Frames written at once.
const SLICES: usize = 64;
/// Time without new connections after the system had no place for one.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Control connections at the same time, and connections to the daemon's socket that have not
/// said anything.
const CONTROLS: usize = 16;
const UNDECIDED: usize = 64;
/// Longest control line, and the time for it to arrive, and for its answer to be taken.
const CONTROL_LINE: usize = 256;
const CONTROL_TIME: Duration = Duration::from_secs(5);
/// A client that ended its side is served until nothing was written to it for this long.
const GRACE: Duration = Duration::from_millis(500);
/// And no longer than this.
const LONGEST_GRACE: Duration = Duration::from_secs(5);

/// The listeners and the connections that came in by them.
#[derive(Debug)]
pub struct Doors {
    registry: Registry,
    /// Listeners have the tokens from here, in their order.
    first: usize,
    entrances: Vec<Entrance>,
    /// Connections have the tokens from here, by their slot.
    first_conn: usize,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    clients: HashMap<ClientId, usize>,
    controls: BTreeMap<ControlId, usize>,
    next_control: u64,
    undecided: usize,
    /// Control lines that nobody has taken yet.
    asked: VecDeque<(ControlId, String)>,
    /// Who is to be read, to be written, in this order.
    reads: VecDeque<usize>,
    writes: VecDeque<usize>,
    deadlines: BTreeSet<(Instant, usize)>,
    /// The system had no place for a new connection: not again before that.
    accept_at: Option<Instant>,
    /// That was told.
    is_exhausted: bool,
    buffers: Option<usize>,
    buf: Box<[u8]>,
}

/// A listener and what is known of it.
#[derive(Debug)]
struct Entrance {
    listener: Listener,
    policy: Policy,
    /// The daemon's socket.
    is_daemon: bool,
    /// Connections may wait to be taken.
    is_waiting: bool,
}

impl Doors {
    /// Listens on these addresses and on the daemon's socket. Tokens from `first` on are taken.
    ///
    /// `node` is the address of the node if it is on this machine; its port is left to it. A
    /// daemon's socket that cannot be had costs a warning: the link is more important.
    ///
    /// # Errors
    /// An address cannot be listened on; the line names it and says what would work.
    pub fn open(
        addresses: &[ListenAddr],
        node: Option<SocketAddr>,
        registry: Registry,
        first: Token,
        socket: Option<PathBuf>,
    ) -> Result<Self, DoorError> {
        let mut entrances = Vec::new();
        for listen in addresses {
            let listener = match listen {
                ListenAddr::Tcp { address, policy } => Listener::tcp(*address, *policy, node)?,
                ListenAddr::Unix { path, .. } => Listener::unix(path, 0o660)
                    .map_err(|error| DoorError::new(error.line(path, "--listen")))?,
            };
            entrances.push(Entrance::new(listener, listen.policy(), false));
        }
        if let Some(path) = socket {
            // Loopback gives every local user as much; who may not is kept out by the folder.
            match Listener::unix(&path, 0o666) {
                Ok(listener) => entrances.push(Entrance::new(listener, Policy::Full, true)),
                Err(error) => warn!(
                    target: "relay",
                    "no socket for `meshbeat status`: {}", error.line(&path, "--socket")
                ),
            }
        }
        for (index, entrance) in entrances.iter_mut().enumerate() {
            let token = Token(first.0 + index);
            registry
                .register(entrance.listener.source(), token, Interest::READABLE)
                .map_err(|error| DoorError::new(format!("cannot wait for clients: {error}")))?;
        }
        Ok(Self {
            registry,
            first: first.0,
            first_conn: first.0 + entrances.len(),
            entrances,
            conns: Vec::new(),
            free: Vec::new(),
            clients: HashMap::new(),
            controls: BTreeMap::new(),
            next_control: 0,
            undecided: 0,
            asked: VecDeque::new(),
            reads: VecDeque::new(),
            writes: VecDeque::new(),
            deadlines: BTreeSet::new(),
            accept_at: None,
            is_exhausted: false,
            buffers: None,
            buf: vec![0; READ_SIZE].into_boxed_slice(),
        })
    }

    /// Gives the sockets of new clients kernel buffers of about so many bytes, for tests of short
    /// writes. Default the system's.
    pub fn set_buffers(&mut self, bytes: Option<usize>) {
        self.buffers = bytes;
    }

    /// mio says that a source changed. Remembers it; [`Doors::turn`] does the work.
    pub fn handle_ready(&mut self, token: Token, readable: bool, writable: bool) {
        if let Some(slot) = token.0.checked_sub(self.first_conn) {
            let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
            conn.readable |= readable;
            conn.writable |= writable;
            self.queue(slot);
            if writable {
                self.queue_write(slot);
            }
        } else if let Some(index) = token.0.checked_sub(self.first)
            && let Some(entrance) = self.entrances.get_mut(index)
        {
            entrance.is_waiting |= readable;
        }
    }

    /// Lets time pass; does nothing before [`Doors::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant, relay: &mut Relay) {
        if self.accept_at.is_some_and(|at| now >= at) {
            self.accept_at = None;
        }
        while let Some(&(at, slot)) = self.deadlines.first()
            && now >= at
        {
            self.set_deadline(slot, None);
            let Some(Some(conn)) = self.conns.get(slot) else { continue };
            match conn.role {
                // It still has to take what is pending.
                Role::Client { id, until: Some(until), .. }
                    if now < until && relay.pending(id).next().is_some() =>
                {
                    self.set_deadline(slot, Some(until));
                }
                _ => self.lose(now, slot, relay),
            }
        }
    }

    /// Takes connections, reads and writes, a bounded piece of each.
    pub fn turn(&mut self, now: Instant, relay: &mut Relay) {
        self.accept(now, relay);
        let mut buf = core::mem::take(&mut self.buf);
        for _ in 0..READS {
            let Some(slot) = self.reads.pop_front() else { break };
            if let Some(Some(conn)) = self.conns.get_mut(slot) {
                conn.in_reads = false;
                self.read(now, slot, relay, &mut buf);
                self.queue(slot);
            }
        }
        self.buf = buf;
        self.flush(now, relay);
    }

    /// Does what the relay wants done, and writes: after anything that may have queued something.
    pub fn flush(&mut self, now: Instant, relay: &mut Relay) {
        self.act(relay);
        for _ in 0..WRITES {
            let Some(slot) = self.writes.pop_front() else { break };
            if let Some(Some(conn)) = self.conns.get_mut(slot) {
                conn.in_writes = false;
                self.write(now, slot, relay);
                self.act(relay);
            }
        }
    }

    /// The next question on the daemon's socket: one line, without its end. Each is to be given an
    /// answer, some time.
    pub fn poll_control(&mut self) -> Option<(ControlId, String)> {
        self.asked.pop_front()
    }

    /// Answers a question with one line and ends its connection. Who asked may have gone.
    pub fn answer(&mut self, question: ControlId, mut line: String) {
        let Some(slot) = self.controls.remove(&question) else { return };
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        line.push('\n');
        conn.role = Role::Answered { bytes: line.into(), written: 0 };
        self.queue_write(slot);
    }

    /// Takes no new connections from now on, and removes the files of Unix sockets.
    pub fn stop_listening(&mut self) {
        self.entrances.clear();
        self.accept_at = None;
    }

    /// Ends everything.
    pub fn close(&mut self, now: Instant, relay: &mut Relay) {
        self.stop_listening();
        for slot in 0..self.conns.len() {
            self.lose(now, slot, relay);
        }
    }

    /// Whether [`Doors::turn`] has more to do without waiting for anything.
    pub fn is_busy(&self) -> bool {
        let accepts = self.entrances.iter().any(|entrance| entrance.is_waiting);
        !self.reads.is_empty() || !self.writes.is_empty() || (accepts && self.accept_at.is_none())
    }

    /// The next moment at which [`Doors::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        [deadline, self.accept_at].into_iter().flatten().min()
    }

    /// The addresses listened on, as one would write them, with their policies; without the
    /// daemon's socket.
    pub fn local_addrs(&self) -> impl Iterator<Item = (String, Policy)> {
        let entrances = self.entrances.iter().filter(|entrance| !entrance.is_daemon);
        entrances.map(|entrance| (entrance.listener.address(), entrance.policy))
    }

    /// The path of the daemon's socket, if it listens on one.
    pub fn socket(&self) -> Option<&Path> {
        let mut entrances = self.entrances.iter().filter(|entrance| entrance.is_daemon);
        entrances.find_map(|entrance| entrance.listener.path())
    }

    fn accept(&mut self, now: Instant, relay: &mut Relay) {
        for index in 0..self.entrances.len() {
            for _ in 0..ACCEPTS {
                let Some(entrance) = self.entrances.get_mut(index) else { return };
                if !entrance.is_waiting || self.accept_at.is_some() {
                    break;
                }
                let (policy, is_daemon) = (entrance.policy, entrance.is_daemon);
                match entrance.listener.accept() {
                    Ok((stream, label)) => {
                        self.is_exhausted = false;
                        self.greet(now, relay, stream, (label, policy, is_daemon));
                    }
                    Err(error) => self.accept_failed(now, index, &error),
                }
            }
        }
    }

    fn accept_failed(&mut self, now: Instant, index: usize, error: &io::Error) {
        let fault = fault_of(error);
        match fault.class() {
            Class::NotReady => {
                if let Some(entrance) = self.entrances.get_mut(index) {
                    entrance.is_waiting = false;
                }
            }
            // One that left before it was taken; the next may be all right.
            Class::Interrupted | Class::ConnectionAborted => {}
            _ => {
                // The connection stays in the system's queue: trying at once again would spin.
                self.accept_at = Some(now + ACCEPT_PAUSE);
                if !core::mem::replace(&mut self.is_exhausted, true) {
                    warn!(target: "relay", "new clients have to wait: {fault}");
                }
            }
        }
    }

    fn greet(
        &mut self,
        now: Instant,
        relay: &mut Relay,
        mut stream: Stream,
        (label, policy, is_daemon): (String, Policy, bool),
    ) {
        stream.set_options(self.buffers);
        let slot = self.free.pop().unwrap_or(self.conns.len());
        let token = Token(self.first_conn + slot);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let role = match self.registry.register(stream.source(), token, interest) {
            Err(error) => {
                warn!(target: "relay", "{label}: cannot be waited for: {error}");
                None
            }
            Ok(()) if is_daemon => self.undecided(),
            Ok(()) => self.connect(now, relay, slot, Peer { label, policy, observer: false }),
        };
        let Some(role) = role else {
            if slot < self.conns.len() {
                self.free.push(slot);
            }
            return;
        };
        let conn = Some(Conn::new(stream, role));
        match self.conns.get_mut(slot) {
            Some(place) => *place = conn,
            None => self.conns.push(conn),
        }
        if is_daemon {
            self.set_deadline(slot, Some(now + CONTROL_TIME));
        }
    }

    /// A place for a connection to the daemon's socket.
    fn undecided(&mut self) -> Option<Role> {
        if self.undecided >= UNDECIDED {
            warn!(target: "relay", "too many silent connections to the daemon's socket");
            return None;
        }
        self.undecided += 1;
        Some(Role::Undecided)
    }

    /// A session of the relay.
    fn connect(
        &mut self,
        now: Instant,
        relay: &mut Relay,
        slot: usize,
        peer: Peer,
    ) -> Option<Role> {
        let Some(id) = relay.handle_connect(now, peer) else {
            // The same words each time, so that the log folds them.
            warn!(target: "relay", "too many clients, a connection was turned away");
            return None;
        };
        self.clients.insert(id, slot);
        Some(Role::Client { id, heard: false, until: None })
    }

    fn read(&mut self, now: Instant, slot: usize, relay: &mut Relay, buf: &mut [u8]) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        match conn.stream.read(buf) {
            Ok(0) => self.handle_end(now, slot, relay),
            Ok(n) => self.handle_bytes(now, slot, relay, buf.get(..n).unwrap_or(&[])),
            Err(error) => match (fault_of(&error).verdict(), conn.broken) {
                (Verdict::RetryNow, _) => {}
                (Verdict::Ignore, None) => conn.readable = false,
                (Verdict::Ignore, Some(_)) => self.lose(now, slot, relay),
                _ => self.lose(now, slot, relay),
            },
        }
        self.act(relay);
    }

    fn handle_bytes(&mut self, now: Instant, slot: usize, relay: &mut Relay, bytes: &[u8]) {
        if let Some(Some(Conn { role: Role::Undecided, .. })) = self.conns.get(slot)
            && !self.decide(now, slot, relay, bytes)
        {
            self.lose(now, slot, relay);
            return;
        }
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        match &mut conn.role {
            Role::Client { id, heard, .. } => {
                *heard = true;
                relay.handle_bytes(now, *id, bytes);
            }
            Role::Asking { line, .. } => {
                line.extend_from_slice(bytes);
                match line.iter().position(|byte| *byte == b'\n') {
                    Some(end) if end <= CONTROL_LINE => {
                        line.truncate(end);
                        self.handle_line(slot);
                    }
                    None if line.len() <= CONTROL_LINE => {}
                    _ => {
                        debug!(target: "relay", "a control line is too long");
                        self.lose(now, slot, relay);
                    }
                }
            }
            // One line is all that is read.
            Role::Undecided | Role::Waiting { .. } | Role::Answered { .. } => {}
        }
    }

    /// The first byte on the daemon's socket: a lower-case letter begins a control line, all else
    /// is a client. False: there is no place for it.
    fn decide(&mut self, now: Instant, slot: usize, relay: &mut Relay, bytes: &[u8]) -> bool {
        let role = if !bytes.first().is_some_and(u8::is_ascii_lowercase) {
            let peer = Peer { label: "unix".into(), policy: Policy::Full, observer: true };
            let role = self.connect(now, relay, slot, peer);
            self.set_deadline(slot, None);
            role
        } else if self.controls.len() >= CONTROLS {
            warn!(target: "relay", "too many questions on the daemon's socket");
            None
        } else {
            let id = ControlId(self.next_control);
            self.next_control += 1;
            self.controls.insert(id, slot);
            Some(Role::Asking { id, line: Vec::new() })
        };
        match (role, self.conns.get_mut(slot)) {
            (Some(role), Some(Some(conn))) => {
                self.undecided -= 1;
                conn.role = role;
                true
            }
            _ => false,
        }
    }

    /// A control line is complete.
    fn handle_line(&mut self, slot: usize) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        let Role::Asking { id, line } = &mut conn.role else { return };
        let (id, line) = (*id, core::mem::take(line));
        conn.role = Role::Waiting { id };
        self.asked.push_back((id, String::from_utf8_lossy(&line).trim_end().into()));
        self.set_deadline(slot, None);
    }

    /// A connection will send no more.
    fn handle_end(&mut self, now: Instant, slot: usize, relay: &mut Relay) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        conn.readable = false;
        match &mut conn.role {
            // What it has sent may still be answered, and it may still be reading.
            Role::Client { until, heard: true, .. } if conn.broken.is_none() => {
                *until = Some(now + LONGEST_GRACE);
                self.set_deadline(slot, Some(now + GRACE));
            }
            Role::Answered { .. } => {}
            // Nothing is owed to it, or nobody waits for it.
            _ => self.lose(now, slot, relay),
        }
    }

    fn write(&mut self, now: Instant, slot: usize, relay: &mut Relay) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        let wrote = match &conn.role {
            Role::Client { id, .. } => {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let mut count = 0;
                for (slice, frame) in slices.iter_mut().zip(relay.pending(*id)) {
                    *slice = IoSlice::new(frame);
                    count += 1;
                }
                if count == 0 {
                    return;
                }
                conn.stream.write_vectored(slices.get(..count).unwrap_or(&[]))
            }
            Role::Answered { bytes, written } => {
                conn.stream.write(bytes.get(*written..).unwrap_or(&[]))
            }
            Role::Undecided | Role::Asking { .. } | Role::Waiting { .. } => return,
        };
        match wrote.map_err(|error| fault_of(&error)) {
            Ok(0) => self.write_failed(slot, Fault::new(Class::ClosedByPeer)),
            Ok(count) => self.wrote(now, slot, relay, count),
            Err(fault) => match fault.verdict() {
                Verdict::RetryNow => self.queue_write(slot),
                Verdict::Ignore => {
                    conn.writable = false;
                    if let (Role::Answered { .. }, None) = (&conn.role, conn.deadline) {
                        self.set_deadline(slot, Some(now + CONTROL_TIME));
                    }
                }
                Verdict::Reconnect | Verdict::GiveUp => self.write_failed(slot, fault),
            },
        }
    }

    fn wrote(&mut self, now: Instant, slot: usize, relay: &mut Relay, count: usize) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        match &mut conn.role {
            Role::Client { id, until, .. } => {
                relay.consume(now, *id, count);
                let more = relay.pending(*id).next().is_some();
                if let Some(until) = *until {
                    self.set_deadline(slot, Some(until.min(now + GRACE)));
                }
                if more {
                    self.queue_write(slot);
                }
            }
            Role::Answered { bytes, written } => {
                *written += count;
                if *written < bytes.len() {
                    self.queue_write(slot);
                } else {
                    self.lose(now, slot, relay);
                }
            }
            Role::Undecided | Role::Asking { .. } | Role::Waiting { .. } => {}
        }
    }

    /// A client that has left may have sent something before; that is read first.
    fn write_failed(&mut self, slot: usize, fault: Fault) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        (conn.broken, conn.readable, conn.writable) = (Some(fault), true, false);
        self.queue(slot);
    }

    /// Does what the relay wants done to sockets.
    fn act(&mut self, relay: &mut Relay) {
        while let Some(action) = relay.poll_action() {
            match action {
                Action::Write(client) => {
                    if let Some(slot) = self.clients.get(&client) {
                        self.queue_write(*slot);
                    }
                }
                Action::Close(client) => {
                    if let Some(slot) = self.clients.get(&client) {
                        self.remove(*slot);
                    }
                }
            }
        }
    }

    /// Queues a connection for what it is ready for.
    fn queue(&mut self, slot: usize) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        if conn.readable && !core::mem::replace(&mut conn.in_reads, true) {
            self.reads.push_back(slot);
        }
    }

    fn queue_write(&mut self, slot: usize) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        if conn.writable && !core::mem::replace(&mut conn.in_writes, true) {
            self.writes.push_back(slot);
        }
    }

    fn set_deadline(&mut self, slot: usize, deadline: Option<Instant>) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        if let Some(at) = core::mem::replace(&mut conn.deadline, deadline) {
            self.deadlines.remove(&(at, slot));
        }
        self.deadlines.extend(deadline.map(|at| (at, slot)));
    }

    /// A connection has ended.
    fn lose(&mut self, now: Instant, slot: usize, relay: &mut Relay) {
        if let Some(Some(Conn { role: Role::Client { id, .. }, .. })) = self.conns.get(slot) {
            relay.handle_closed(now, *id);
        }
        self.remove(slot);
    }

    /// Drops a connection's socket.
    fn remove(&mut self, slot: usize) {
        self.set_deadline(slot, None);
        let Some(conn) = self.conns.get_mut(slot).and_then(Option::take) else { return };
        match conn.role {
            Role::Client { id, .. } => drop(self.clients.remove(&id)),
            Role::Asking { id, .. } | Role::Waiting { id } => drop(self.controls.remove(&id)),
            Role::Undecided => self.undecided -= 1,
            Role::Answered { .. } => {}
        }
        self.free.push(slot);
        // There is a place again.
        self.accept_at = None;
    }
}

impl Entrance {
    fn new(listener: Listener, policy: Policy, is_daemon: bool) -> Self {
        Self { listener, policy, is_daemon, is_waiting: false }
    }
}

#[cfg(test)]
mod tests;
