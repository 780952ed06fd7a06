//! The link on a socket: resolves, connects, reads and writes as the link asks.
//!
//! This is all that the host adds to the core's `Link`; it decides nothing about the link's life.

use core::net::SocketAddr;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use embedded_io::Read as _;
use log::debug;
use meshbeat_core::fault::{Class, Fault, Verdict};
use meshbeat_core::link::{Event, Item, Link, Transmit};
use meshbeat_core::{ConfigError, Instant, LinkConfig};
use mio::{Registry, Token, Waker};

use crate::node::Target;
use crate::resolve::{Resolved, Resolver};
use crate::socket::{Socket, TcpOptions, fault_of};

/// Packets that wait for the node at most.
pub const OUTBOX: usize = 256;

/// The link as the host has it.
pub type HostLink = Link<OUTBOX>;

/// The connection to one node.
#[derive(Debug)]
pub struct Upstream {
    link: Box<HostLink>,
    options: TcpOptions,
    registry: Registry,
    token: Token,
    route: Route,
    transport: Transport,
    /// The address tried last, and how many were tried in vain because nobody answered: the next
    /// attempt begins with another one.
    address: Option<SocketAddr>,
    unanswered: usize,
    buf: Box<[u8]>,
    /// More may be readable although no event will tell (mio is edge-triggered).
    readable: bool,
    /// A write failed; what has arrived before is read first.
    write_fault: Option<Fault>,
}

/// How the node is found.
#[derive(Debug)]
enum Route {
    Tcp(Resolver),
    Unix(PathBuf),
}

/// The transport as far as it has come.
#[derive(Debug)]
enum Transport {
    None,
    /// The name is being resolved.
    Resolving,
    /// An address is being tried; these are left.
    Connecting(Socket, std::vec::IntoIter<SocketAddr>),
    Connected(Socket),
}

/// Read buffer: a node writes its whole configuration in one go and closes on a short write.
const READ_SIZE: usize = 64 * 1024;
/// Most bytes read in one turn of the loop, so that a fast peer does not hold others up.
const READ_BUDGET: usize = 4 * READ_SIZE;

impl Upstream {
    /// A link to `node`, at rest. `waker` is rung when a name is resolved.
    pub fn new(
        node: Target,
        config: LinkConfig,
        options: TcpOptions,
        seed: u64,
        (registry, token): (Registry, Token),
        waker: Arc<Waker>,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            link: Box::new(Link::new(config.check()?, seed)),
            options,
            registry,
            token,
            route: match node {
                Target::Tcp { host, port } => Route::Tcp(Resolver::new((host, port), waker)),
                Target::Unix(path) => Route::Unix(path),
            },
            transport: Transport::None,
            address: None,
            unanswered: 0,
            buf: vec![0; READ_SIZE].into_boxed_slice(),
            readable: false,
            write_fault: None,
        })
    }

    /// Starts.
    pub fn open(&mut self, now: Instant) {
        self.link.open(now);
    }

    /// Says `disconnect` and ends.
    pub fn close(&mut self, now: Instant) {
        self.link.close(now);
    }

    /// The resolver's waker has rung, perhaps.
    pub fn handle_woken(&mut self, now: Instant) {
        if let Route::Tcp(resolver) = &mut self.route
            && let Some(resolved) = resolver.poll()
            && let Transport::Resolving = self.transport
        {
            self.try_resolved(now, resolved);
        }
    }

    /// mio says that the socket has changed; that may be spurious.
    pub fn handle_ready(&mut self, now: Instant) {
        self.readable = true;
        let Transport::Connecting(socket, _) = &self.transport else { return };
        let connected = socket.poll_connected();
        if let Ok(false) = connected {
            return;
        }
        let transport = core::mem::replace(&mut self.transport, Transport::None);
        let Transport::Connecting(socket, rest) = transport else { return };
        match connected {
            Err(error) => {
                let fault = self.address_failed(&error);
                drop(socket);
                self.try_addresses(now, rest, fault);
            }
            Ok(_) => {
                self.unanswered = 0;
                self.transport = Transport::Connected(socket);
                self.link.handle_opened(now);
            }
        }
    }

    /// Reads what is there, up to 256 KiB, and hands each frame and each run of noise to `on`.
    pub fn read(&mut self, now: Instant, on: &mut dyn FnMut(Item<'_>)) {
        let mut budget = READ_BUDGET;
        while self.readable && budget > 0 {
            let Transport::Connected(socket) = &mut self.transport else {
                self.readable = false;
                return;
            };
            match socket.read(&mut self.buf) {
                Ok(0) => self.ended(now, Fault::new(Class::ClosedByPeer), on),
                Ok(n) => {
                    budget = budget.saturating_sub(n);
                    deliver(&mut self.link, now, self.buf.get(..n).unwrap_or(&[]), on);
                }
                Err(error) => match error.fault().verdict() {
                    Verdict::RetryNow => {}
                    Verdict::Ignore => {
                        self.readable = false;
                        if let Some(fault) = self.write_fault {
                            self.ended(now, fault, on);
                        }
                    }
                    Verdict::Reconnect | Verdict::GiveUp => self.ended(now, error.fault(), on),
                },
            }
        }
    }

    /// Writes what the link has to say, as far as the socket takes it.
    pub fn write(&mut self, now: Instant) {
        while let Transport::Connected(socket) = &mut self.transport
            && self.write_fault.is_none()
        {
            match self.link.poll_transmit(now, socket) {
                Ok(Transmit::Wrote(_)) => {}
                Ok(Transmit::Blocked | Transmit::Empty) => return,
                Err(error) => match error.fault().verdict() {
                    Verdict::RetryNow => {}
                    Verdict::Ignore => return,
                    Verdict::Reconnect | Verdict::GiveUp => {
                        self.write_fault = Some(error.fault());
                        self.readable = true;
                    }
                },
            }
        }
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.link.handle_timeout(now);
    }

    /// The next event of the link, after what it obliges the socket to do was done.
    pub fn poll_event(&mut self, now: Instant) -> Option<Event> {
        let event = self.link.poll_event()?;
        match event {
            Event::OpenDue => self.attempt(now),
            Event::Lost { .. } | Event::Closed => self.dropped(),
            Event::SaidGoodbye => self.half_close(),
            _ => {}
        }
        Some(event)
    }

    /// The next moment at which [`Upstream::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.link.poll_timeout()
    }

    /// Whether more can be read without waiting for an event.
    pub fn is_readable(&self) -> bool {
        self.readable && matches!(self.transport, Transport::Connected(_))
    }

    /// The link, for a look at it.
    pub fn link(&self) -> &HostLink {
        &self.link
    }

    /// The link, for a program to send with.
    pub fn link_mut(&mut self) -> &mut HostLink {
        &mut self.link
    }

    /// The TCP address that was tried last, or is connected to.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    fn attempt(&mut self, now: Instant) {
        self.dropped();
        match &mut self.route {
            Route::Tcp(resolver) => {
                self.transport = Transport::Resolving;
                if let Some(resolved) = resolver.ask() {
                    self.try_resolved(now, resolved);
                }
            }
            Route::Unix(_) => self.try_path(now),
        }
    }

    fn try_resolved(&mut self, now: Instant, resolved: Resolved) {
        match resolved {
            Ok(mut addresses) => {
                let first = self.unanswered.checked_rem(addresses.len()).unwrap_or(0);
                addresses.rotate_left(first);
                let none = Fault::new(Class::NameNotResolved);
                self.try_addresses(now, addresses.into_iter(), none);
            }
            Err(error) => {
                if let Route::Tcp(resolver) = &self.route {
                    debug!(target: "link", "{resolver}: {error}");
                }
                self.transport = Transport::None;
                self.link.handle_closed(now, Fault::new(Class::NameNotResolved));
            }
        }
    }

    /// Tries the next address; when none is left the attempt has failed with `fault`.
    fn try_addresses(
        &mut self,
        now: Instant,
        mut addresses: std::vec::IntoIter<SocketAddr>,
        mut fault: Fault,
    ) {
        while let Some(address) = addresses.next() {
            self.address = Some(address);
            self.link.handle_opening(now);
            match Socket::connect(address, &self.options, &self.registry, self.token) {
                Ok(socket) => {
                    self.transport = Transport::Connecting(socket, addresses);
                    return;
                }
                Err(error) => fault = self.address_failed(&error),
            }
        }
        self.transport = Transport::None;
        self.link.handle_closed(now, fault);
    }

    /// Tries the Unix socket. It connects at once or not at all.
    fn try_path(&mut self, now: Instant) {
        let Route::Unix(path) = &self.route else { return };
        self.link.handle_opening(now);
        match Socket::connect_unix(path, &self.registry, self.token) {
            Ok(socket) => {
                self.transport = Transport::Connecting(socket, Vec::new().into_iter());
            }
            Err(error) => {
                let fault = match self.address_failed(&error) {
                    // Its queue of connections is full, and no event will tell of room.
                    fault if fault.class() == Class::NotReady => {
                        Fault::new(Class::ConnectionRefused)
                    }
                    fault => fault,
                };
                self.link.handle_closed(now, fault);
            }
        }
    }

    fn address_failed(&self, error: &io::Error) -> Fault {
        let fault = fault_of(error);
        match (&self.route, self.address) {
            (Route::Unix(path), _) => debug!(target: "link", "{}: {fault}", path.display()),
            (_, Some(address)) => debug!(target: "link", "{address}: {fault}"),
            _ => {}
        }
        fault
    }

    /// The connection has ended: what arrived before still counts.
    fn ended(&mut self, now: Instant, fault: Fault, on: &mut dyn FnMut(Item<'_>)) {
        self.link.handle_end();
        deliver(&mut self.link, now, &[], on);
        self.dropped();
        self.link.handle_closed(now, fault);
    }

    /// Forgets the socket, whatever it was doing.
    fn dropped(&mut self) {
        if let Transport::Connecting(..) = self.transport {
            self.unanswered = self.unanswered.wrapping_add(1);
        }
        self.transport = Transport::None;
        (self.readable, self.write_fault) = (false, None);
    }

    /// Our end first: a socket closed with bytes unread would turn the FIN into a reset.
    fn half_close(&self) {
        if let Transport::Connected(socket) = &self.transport
            && let Err(error) = socket.half_close()
        {
            debug!(target: "link", "half-close: {}", fault_of(&error));
        }
    }
}

/// Offers bytes to the link until all are taken, and what they complete to `on`.
fn deliver(link: &mut HostLink, now: Instant, bytes: &[u8], on: &mut dyn FnMut(Item<'_>)) {
    let mut rest = bytes;
    loop {
        let received = link.handle_bytes(now, rest);
        rest = rest.get(received.taken..).unwrap_or(&[]);
        match received.item {
            Some(item) => on(item),
            None if rest.is_empty() => return,
            None => {}
        }
    }
}
