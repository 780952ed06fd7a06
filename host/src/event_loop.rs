//! The only place that sleeps: one `mio::Poll` for the node's socket, the signals, the resolver and
//! whatever else the program waits for.
//!
//! mio is edge-triggered: after an event the socket is read until it would block, within a budget,
//! and a write is tried at once after anything that may have queued one. There is no wake-up but
//! for input and due timers. The node comes first in every turn: it closes the connection when its
//! own writes fall short, so what it has to say is read before any client is looked at.

use core::fmt;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use log::{debug, info};
use meshbeat_core::link::{Event, Item, State};
use meshbeat_core::{ConfigError, Instant, LinkConfig};
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook_mio::v1_0::Signals;

use crate::clock::Clock;
use crate::node::Target;
use crate::socket::TcpOptions;
use crate::upstream::{HostLink, Upstream};

const NODE: Token = Token(0);
const SIGNALS: Token = Token(1);
const WAKER: Token = Token(2);

/// Tokens from this one on are the program's own; see [`EventLoop::registry`].
pub const FIRST_PROGRAM_TOKEN: Token = Token(16);

/// Events taken from the system at once.
const EVENTS: usize = 1024;

/// What runs on the loop: told of all that happens, it says when it is done.
pub trait Program {
    /// Something happened to the link.
    fn handle_event(&mut self, now: Instant, event: Event, link: &HostLink) {
        let _ = (now, event, link);
    }

    /// A frame, or bytes that belong to none, arrived.
    fn handle_item(&mut self, now: Instant, item: Item<'_>) {
        let _ = (now, item);
    }

    /// SIGUSR1 arrived, or the loop is about to end.
    fn handle_report(&mut self, link: &HostLink, reason: Report) {
        let _ = (link, reason);
    }

    /// A source registered under one of the program's own tokens changed; that may be spurious. A
    /// source that failed or whose peer has hung up is readable and writable: trying tells why.
    /// To be remembered here; the work is for [`Program::handle_turn`], in bounded pieces.
    fn handle_ready(&mut self, now: Instant, token: Token, readable: bool, writable: bool) {
        let _ = (now, token, readable, writable);
    }

    /// The first SIGTERM or SIGINT arrived: the link says goodbye, nothing new is to be begun.
    fn handle_stopping(&mut self, now: Instant) {
        let _ = now;
    }

    /// Time has passed; called at least at [`Program::poll_timeout`].
    fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When to call [`Program::handle_timeout`] next; `None` is never.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// All that happened was told; the place to send packets with [`HostLink::send`].
    fn handle_turn(&mut self, now: Instant, link: &mut HostLink) {
        let _ = (now, link);
    }

    /// Whether [`Program::handle_turn`] has more to do without waiting for anything.
    fn is_busy(&self) -> bool {
        false
    }

    /// Whether the link is to be closed.
    fn is_done(&self) -> bool {
        false
    }
}

/// Why a program is asked to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// A person asked, by SIGUSR1.
    Asked,
    /// The loop ends.
    Ending,
}

/// Why there is no loop.
#[derive(Debug)]
pub enum StartError {
    /// A setting makes no sense.
    Config(ConfigError),
    /// The system gave no poll, waker or signal handler.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::System(error) => write!(f, "cannot start the event loop: {error}"),
        }
    }
}

impl core::error::Error for StartError {}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Holds the link to one node for one program.
pub struct EventLoop {
    poll: Poll,
    events: Events,
    clock: Clock,
    signals: Signals,
    upstream: Upstream,
    /// How often the loop woke up.
    turns: u64,
    /// SIGTERM or SIGINT arrived; a second one ends without goodbye.
    stopping: bool,
    stopped: bool,
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

impl EventLoop {
    /// A loop for the node at `node`, such as a host and a port. From now on SIGTERM, SIGINT and
    /// SIGUSR1 are its own.
    pub fn new(
        node: impl Into<Target>,
        config: LinkConfig,
        options: TcpOptions,
        seed: u64,
    ) -> Result<Self, StartError> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        let socket = (poll.registry().try_clone()?, NODE);
        let upstream = Upstream::new(node.into(), config, options, seed, socket, waker)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            clock: Clock::default(),
            signals,
            upstream,
            turns: 0,
            stopping: false,
            stopped: false,
        })
    }

    /// Opens the link and serves it until `program` is done or a signal says so, then closes it:
    /// `disconnect`, half-close, end.
    pub fn run(&mut self, program: &mut dyn Program) -> io::Result<()> {
        self.upstream.open(self.clock.now());
        self.settle(program);
        while !self.stopped && self.upstream.link().state() != State::Closed {
            // 1. Wait for input or the deadline.
            let timeout = self.timeout(program);
            match self.poll.poll(&mut self.events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => self.turns += 1,
            }
            // 2. Tell the link what the world did, and then the program.
            let now = self.clock.now();
            let mut signalled = false;
            for event in &self.events {
                match event.token() {
                    SIGNALS => signalled = true,
                    WAKER => self.upstream.handle_woken(now),
                    NODE => self.upstream.handle_ready(now),
                    _ => {}
                }
            }
            if signalled {
                self.handle_signals(program);
            }
            self.upstream.read(now, &mut |item| program.handle_item(now, item));
            self.upstream.handle_timeout(now);
            for event in self.events.iter().filter(|event| event.token() >= FIRST_PROGRAM_TOKEN) {
                let readable = event.is_readable() || event.is_read_closed() || event.is_error();
                let writable = event.is_writable() || event.is_write_closed() || event.is_error();
                program.handle_ready(now, event.token(), readable, writable);
            }
            program.handle_timeout(now);
            self.settle(program);
        }
        program.handle_report(self.upstream.link(), Report::Ending);
        Ok(())
    }

    /// Where a program registers sources of its own, under tokens from [`FIRST_PROGRAM_TOKEN`] on.
    ///
    /// # Errors
    /// The system gave no second handle.
    pub fn registry(&self) -> io::Result<Registry> {
        self.poll.registry().try_clone()
    }

    /// The time since the loop was made.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// How often the loop has woken up: for input, for a due timer, for nothing else.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Steps 3 and 4: drain events and writes until there is neither.
    fn settle(&mut self, program: &mut dyn Program) {
        let now = self.clock.now();
        loop {
            while let Some(event) = self.upstream.poll_event(now) {
                program.handle_event(now, event, self.upstream.link());
            }
            program.handle_turn(now, self.upstream.link_mut());
            if program.is_done() {
                self.upstream.close(now);
            }
            self.upstream.write(now);
            match self.upstream.poll_event(now) {
                Some(event) => program.handle_event(now, event, self.upstream.link()),
                None => return,
            }
        }
    }

    /// Step 5: how long nothing is due.
    fn timeout(&self, program: &dyn Program) -> Option<Duration> {
        if self.upstream.is_readable() || program.is_busy() {
            return Some(Duration::ZERO);
        }
        let deadlines = [self.upstream.poll_timeout(), program.poll_timeout()];
        let next = deadlines.into_iter().flatten().min()?;
        Some(next.since(self.clock.now()))
    }

    fn handle_signals(&mut self, program: &mut dyn Program) {
        let now = self.clock.now();
        for signal in self.signals.pending() {
            match signal {
                SIGUSR1 => program.handle_report(self.upstream.link(), Report::Asked),
                _ if self.stopping => self.stopped = true,
                _ => {
                    let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
                    match self.upstream.link().state().is_open() {
                        true => info!(target: "run", "{name}: saying goodbye to the node"),
                        false => debug!(target: "run", "{name}"),
                    }
                    self.stopping = true;
                    program.handle_stopping(now);
                    self.upstream.close(now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::{Path, PathBuf};
    use std::thread;

    use meshbeat_core::fault::Class;

    use super::*;
    use crate::sim::{Server, SimConfig};

    /// A path for a socket of this test alone.
    struct TempPath(PathBuf);

    impl TempPath {
        fn new(test: &str) -> Self {
            Self(std::env::temp_dir().join(format!("meshbeat-{test}-{}.sock", std::process::id())))
        }
    }

    impl Drop for TempPath {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// Ends with the first handshake or the first loss.
    #[derive(Default)]
    struct Once {
        frames: u32,
        configured: bool,
        lost: Option<Class>,
    }

    impl Program for Once {
        fn handle_event(&mut self, _now: Instant, event: Event, _link: &HostLink) {
            match event {
                Event::Configured { .. } => self.configured = true,
                Event::Lost { fault, .. } => self.lost = Some(fault.class()),
                _ => {}
            }
        }

        fn handle_item(&mut self, _now: Instant, item: Item<'_>) {
            self.frames += u32::from(matches!(item, Item::Frame { .. }));
        }

        fn is_done(&self) -> bool {
            self.configured || self.lost.is_some()
        }
    }

    fn event_loop(node: impl Into<Target>) -> EventLoop {
        EventLoop::new(node, LinkConfig::default(), TcpOptions::default(), 1).unwrap()
    }

    /// Carries one connection from a Unix socket to a simulated node, there and back.
    fn bridge(path: &Path) -> thread::JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        let mut server =
            Server::bind((Ipv4Addr::LOCALHOST, 0).into(), SimConfig::default(), 1).unwrap();
        let (address, handle) = (server.local_addr(), server.handle());
        thread::spawn(move || {
            let served = thread::spawn(move || server.run());
            let (unix, _) = listener.accept().unwrap();
            let tcp = TcpStream::connect(address).unwrap();
            let (mut up_from, mut up_to) = (unix.try_clone().unwrap(), tcp.try_clone().unwrap());
            let up = thread::spawn(move || {
                let copied = io::copy(&mut up_from, &mut up_to);
                up_to.shutdown(Shutdown::Write).and(copied)
            });
            // The link may be gone before all is copied.
            let _ = io::copy(&mut &tcp, &mut &unix);
            let _ = unix.shutdown(Shutdown::Both);
            let _ = up.join().unwrap();
            handle.stop();
            served.join().unwrap().unwrap();
        })
    }

    #[test]
    fn a_node_on_a_unix_socket() {
        let path = TempPath::new("node");
        let bridge = bridge(&path.0);
        let mut once = Once::default();
        event_loop(Target::Unix(path.0.clone())).run(&mut once).unwrap();
        assert!(once.configured && once.frames > 20, "{} frames", once.frames);
        bridge.join().unwrap();
    }

    #[test]
    fn a_unix_socket_that_is_not_there_or_stale_is_a_loss_like_others() {
        let path = TempPath::new("no-node");
        for class in [Class::NotFound, Class::ConnectionRefused] {
            let mut once = Once::default();
            event_loop(Target::Unix(path.0.clone())).run(&mut once).unwrap();
            assert_eq!(once.lost, Some(class));
            drop(UnixListener::bind(&path.0));
        }
    }

    /// Has a source of its own, and then something to do ten times without waiting.
    struct Sourced {
        token: Token,
        stream: mio::net::UnixStream,
        heard: Vec<u8>,
        left: u32,
        asked_again: u32,
    }

    impl Program for Sourced {
        fn handle_ready(&mut self, _now: Instant, token: Token, readable: bool, _writable: bool) {
            assert_eq!(token, self.token);
            if readable {
                // Until it would block.
                let _ = self.stream.read_to_end(&mut self.heard);
            }
        }

        fn handle_turn(&mut self, _now: Instant, _link: &mut HostLink) {
            if self.heard == b"go" && self.left > 0 {
                self.left -= 1;
                self.asked_again += 1;
            }
        }

        fn is_busy(&self) -> bool {
            self.heard == b"go" && self.left > 0
        }

        fn is_done(&self) -> bool {
            self.heard == b"go" && self.left == 0
        }
    }

    #[test]
    fn a_program_has_sources_of_its_own_and_is_not_made_to_wait_while_busy() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        // Nothing but the source can wake this loop before the next attempt to connect.
        let mut event_loop = event_loop(("127.0.0.1".to_owned(), port));
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut stream = mio::net::UnixStream::from_std(ours);
        let token = Token(FIRST_PROGRAM_TOKEN.0 + 3);
        event_loop.registry().unwrap().register(&mut stream, token, Interest::READABLE).unwrap();
        theirs.write_all(b"go").unwrap();
        let mut sourced = Sourced { token, stream, heard: Vec::new(), left: 10, asked_again: 0 };
        event_loop.run(&mut sourced).unwrap();
        assert_eq!(sourced.asked_again, 10);
        assert!(event_loop.clock().now() < Instant::from_millis(10_000));
    }
}
