//! Links that are open at one end only, and connects that nobody answers, on real sockets.
//!
//! What can be shown on a loopback without rights: a proxy that stops forwarding while its kernel
//! goes on acknowledging (the link finds that by heartbeats); a listener whose queue is full, so
//! that the kernel drops the first packet of a connect; and a peer that stops reading, whose window
//! stays shut, for which Linux applies `TCP_USER_TIMEOUT` as it does to bytes that are never
//! acknowledged. A cable that is really cut needs a network namespace; the virtual world plays it.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant as Clock;

use embedded_io::{Read as _, Write as _};
use meshbeat::sim::{Record, SimConfig};
use meshbeat::socket::{Socket, SocketError, TcpOptions};
use meshbeat_core::fault::{Class, Fault, Verdict};
use meshbeat_core::{Event, LinkConfig, Span};
use meshbeat_tests::recorder::{Node, Recorder};
use mio::{Events, Poll, Token};
use socket2::{Domain, Socket as RawSocket, Type};

const MS: fn(u64) -> Duration = Duration::from_millis;
/// How long a thing may take that needs no time.
const PATIENCE: Duration = Duration::from_secs(30);

/// A link that takes about four seconds to find a node dead.
fn link() -> LinkConfig {
    let mut config = LinkConfig::default();
    config.heartbeat.quiet = Span::from_millis(500);
    config.heartbeat.answer = Span::from_millis(1_500);
    config.heartbeat.probe = Span::from_millis(1_000);
    config.handshake.silence = Span::from_millis(3_000);
    config.handshake.gap = Span::from_millis(50);
    config.connect_limit = Span::from_millis(700);
    config.backoff.first = Span::from_millis(50);
    config.backoff.cap = Span::from_millis(300);
    config.backoff.crowded_cap = Span::from_millis(300);
    config
}

fn node() -> SimConfig {
    let mut config = SimConfig::default();
    config.timing.accept_poll = MS(5);
    config.timing.idle_poll = MS(20);
    config.timing.input_delay = MS(10);
    config
}

/// Forwards between a port and a node; can stop doing so for the connections that stand.
struct Proxy {
    address: SocketAddr,
    pairs: Arc<Mutex<Vec<Forwarding>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// One connection through the proxy.
struct Forwarding {
    client: TcpStream,
    node: TcpStream,
    /// Bytes are read and thrown away from now on.
    broken: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Proxy {
    fn start(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let pairs = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let (shared, stop) = (Arc::clone(&pairs), Arc::clone(&stopped));
        let thread = thread::spawn(move || {
            while let Ok((client, _)) = listener.accept()
                && !stop.load(Ordering::Relaxed)
            {
                let pair = Forwarding::start(client, node).expect("the node listens");
                shared.lock().expect("nobody panicked").push(pair);
            }
        });
        Self { address, pairs, stopped, thread: Some(thread) }
    }

    /// What stands stays open and passes nothing on, and neither end is told.
    fn break_standing(&self) {
        for pair in &*self.pairs.lock().expect("nobody panicked") {
            pair.broken.store(true, Ordering::Relaxed);
        }
    }
}

impl Forwarding {
    fn start(client: TcpStream, node: SocketAddr) -> io::Result<Self> {
        let node = TcpStream::connect(node)?;
        let broken = Arc::new(AtomicBool::new(false));
        let ways = [(&client, &node), (&node, &client)].map(|(from, to)| {
            let (from, to) = (from.try_clone(), to.try_clone());
            let broken = Arc::clone(&broken);
            thread::spawn(move || forward(from.expect("a socket"), to.expect("a socket"), &broken))
        });
        Ok(Self { client, node, broken, threads: ways.into() })
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, broken: &AtomicBool) {
    let mut buffer = [0; 4096];
    while let Ok(count) = from.read(&mut buffer)
        && count > 0
    {
        if !broken.load(Ordering::Relaxed) && to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    if !broken.load(Ordering::Relaxed) {
        // The other end may be gone already.
        let _ = to.shutdown(Shutdown::Both);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread up.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for pair in self.pairs.lock().expect("nobody panicked").drain(..) {
            let _ = pair.client.shutdown(Shutdown::Both);
            let _ = pair.node.shutdown(Shutdown::Both);
            for thread in pair.threads {
                let _ = thread.join();
            }
        }
    }
}

#[test]
fn a_half_open_link_is_found_by_heartbeats() {
    let node = Node::start(node(), 1);
    let proxy = Proxy::start(node.address());
    let mut link = Recorder::start(proxy.address, link(), TcpOptions::default());
    let mut mark = link.wait_until_up(0);
    for connects in 2..4 {
        let answers = node.log().totals().answers;
        link.wait_until("proven", |_| node.log().totals().answers >= answers + 2);
        proxy.break_standing();
        mark = link.wait_for_event(mark, "suspicion", |event| *event == Event::Suspected);
        mark = link.wait_for_event(
            mark,
            "silence",
            |event| matches!(event, Event::Lost { fault, .. } if fault.class() == Class::Silent),
        );
        mark = link.wait_until_up(mark);
        assert_eq!(node.log().totals().connects, connects);
    }
    link.stop();
    let goodbye = |what: &Record| matches!(what, Record::Fin(_) | Record::Closed { .. });
    assert!(node.log().count(goodbye) > 0);
}

/// A listener with room for one connection, which is taken: the kernel drops whatever else comes.
struct Deaf {
    address: SocketAddr,
    listener: TcpListener,
    fillers: Vec<TcpStream>,
}

impl Deaf {
    fn start() -> Self {
        let socket = RawSocket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        socket.listen(0).expect("a bound socket");
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().expect("it is bound");
        let mut fillers = Vec::new();
        while let Ok(filler) = TcpStream::connect_timeout(&address, MS(300)) {
            fillers.push(filler);
            assert!(fillers.len() < 10, "the queue of one does not fill up");
        }
        Self { address, listener, fillers }
    }
}

#[test]
fn a_connect_that_is_never_answered_is_timed_out_and_made_again() {
    let deaf = Deaf::start();
    assert!(!deaf.fillers.is_empty());
    let mut link = Recorder::start(deaf.address, link(), TcpOptions::default());
    let mut mark = 0;
    for _ in 0..3 {
        mark = link.wait_for_event(mark, "attempt", |event| *event == Event::OpenDue);
        mark = link.wait_for_event(mark, "time-out", |event| {
            matches!(event, Event::Lost { fault, opened: None, .. }
                if fault.class() == Class::TimedOut)
        });
    }
    // Room in the queue: the connect under way, or the next, is answered.
    for _ in &deaf.fillers {
        deaf.listener.accept().expect("a filler waits");
    }
    link.wait_for_event(mark, "connection", |event| *event == Event::Opened);
}

/// Bytes that the peer's kernel does not take: the window stays shut, and Linux gives the
/// connection up after the user time-out, without which it would hold it for ever.
#[test]
fn bytes_that_are_never_taken_are_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let mut poll = Poll::new().expect("a poll");
    let options =
        TcpOptions { user_timeout: Some(MS(1_000)), buffers: Some(4_096), ..TcpOptions::default() };
    let mut socket =
        Socket::connect(address, &options, poll.registry(), Token(0)).expect("a socket");
    let (peer, _) = listener.accept().expect("a connect is under way");
    let mut events = Events::with_capacity(8);
    let fault = loop {
        poll.poll(&mut events, Some(PATIENCE)).expect("a poll");
        assert!(!events.is_empty(), "the kernel still holds the connection");
        if let Some(fault) = write_all(&mut socket).or_else(|| read_all(&mut socket)) {
            break fault;
        }
    };
    assert_eq!(fault, Fault::from_errno(110));
    drop(peer);
}

/// Writes until the socket takes no more; a fault if there is one.
fn write_all(socket: &mut Socket) -> Option<Fault> {
    loop {
        if let Err(error) = socket.write(&[0; 512]) {
            return fault_in(&error);
        }
    }
}

fn read_all(socket: &mut Socket) -> Option<Fault> {
    socket.read(&mut [0; 512]).err().and_then(|error| fault_in(&error))
}

fn fault_in(error: &SocketError) -> Option<Fault> {
    Some(error.fault()).filter(|fault| fault.verdict() != Verdict::Ignore)
}

/// The option reaches the kernel, and the link's own default is what the promise says.
#[test]
fn the_user_timeout_is_on_by_default() {
    assert_eq!(TcpOptions::default().user_timeout, Some(Duration::from_secs(35)));
    let start = Clock::now();
    let deaf = Deaf::start();
    let mut config = link();
    config.connect_limit = Span::from_secs(60);
    // A connect is bytes without an answer as well.
    let options = TcpOptions { user_timeout: Some(MS(500)), ..TcpOptions::default() };
    let mut link = Recorder::start(deaf.address, config, options);
    link.wait_for_event(
        0,
        "errno 110",
        |event| matches!(event, Event::Lost { fault, .. } if *fault == Fault::from_errno(110)),
    );
    assert!(start.elapsed() < PATIENCE);
}
