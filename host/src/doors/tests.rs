//! Real sockets: clients in threads of their own, the doors and the relay on this one. Heartbeats
//! are questions that the relay answers by itself.

use core::net::{Ipv4Addr, SocketAddr};
use core::sync::atomic::{AtomicBool, Ordering};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use meshbeat_core::link::{Event, Item};
use meshbeat_core::peek::{self, FromRadio};
use meshbeat_core::{Checked, LinkConfig};
use mio::{Events, Poll, Waker};

use super::*;
use crate::clock::Clock;
use crate::event_loop::{EventLoop, FIRST_PROGRAM_TOKEN, Program};
use crate::node::Target;
use crate::relay::RelayConfig;
use crate::sim::{Server, SimConfig};
use crate::socket::TcpOptions;
use crate::upstream::HostLink;

const WAKER: Token = Token(0);
const FIRST: Token = Token(16);
/// Longer than anything here takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);

const HEARTBEAT: &[u8] = &[0x94, 0xC3, 0, 2, 0x3A, 0];
/// A packet to all with no port; `read-only` clients may not send it.
const PACKET: &[u8] = &[0x94, 0xC3, 0, 9, 0x0A, 7, 0x15, 0xFF, 0xFF, 0xFF, 0xFF, 0x22, 0];

/// The doors, a relay, and a link at rest.
struct World {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    clock: Clock,
    doors: Doors,
    relay: Relay,
    link: Box<HostLink>,
    /// Questions asked; those that begin with `now` are answered at once.
    asked: Vec<(ControlId, String)>,
}

impl World {
    fn new(addresses: &[&str], config: RelayConfig, socket: Option<&Path>) -> Self {
        let addresses: Vec<ListenAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let socket = socket.map(Into::into);
        Self {
            waker: Arc::new(Waker::new(poll.registry(), WAKER).unwrap()),
            doors: Doors::open(&addresses, None, registry, FIRST, socket).unwrap(),
            poll,
            events: Events::with_capacity(64),
            clock: Clock::default(),
            relay: Relay::new(config, 1, 0),
            link: Box::new(HostLink::new(Checked::TCP, 1)),
            asked: Vec::new(),
        }
    }

    /// On a free TCP port.
    fn tcp(config: RelayConfig) -> (Self, SocketAddr) {
        let world = Self::new(&["127.0.0.1:0"], config, None);
        let address = world.address();
        (world, address)
    }

    fn address(&self) -> SocketAddr {
        self.doors.local_addrs().next().unwrap().0.parse().unwrap()
    }

    /// One turn, as the event loop makes it.
    fn turn(&mut self) {
        let now = self.clock.now();
        let due = [self.doors.poll_timeout(), self.relay.poll_timeout()];
        let due = due.into_iter().flatten().min().map(|at| at.since(now));
        let wait = if self.doors.is_busy() { Some(Duration::ZERO) } else { due };
        self.poll.poll(&mut self.events, Some(wait.unwrap_or(LIMIT).min(LIMIT))).unwrap();
        for event in self.events.iter().filter(|event| event.token() >= FIRST) {
            let readable = event.is_readable() || event.is_read_closed() || event.is_error();
            let writable = event.is_writable() || event.is_write_closed() || event.is_error();
            self.doors.handle_ready(event.token(), readable, writable);
        }
        let now = self.clock.now();
        self.relay.handle_timeout(now);
        self.doors.handle_timeout(now, &mut self.relay);
        self.doors.turn(now, &mut self.relay);
        while let Some((id, line)) = self.doors.poll_control() {
            if line.starts_with("now") {
                self.doors.answer(id, format!("{{\"you\":\"{line}\"}}"));
            }
            self.asked.push((id, line));
        }
        self.relay.handle_turn(now, &mut self.link);
        self.doors.flush(now, &mut self.relay);
    }

    /// Turns until this holds.
    fn turn_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = self.clock.now() + LIMIT;
        while !holds(self) {
            assert!(self.clock.now() < end, "{what}");
            self.turn();
        }
    }

    /// Serves until `script`, on a thread of its own, is done.
    fn serve<R: Send>(&mut self, script: impl FnOnce() -> R + Send) -> R {
        let done = Arc::new(AtomicBool::new(false));
        let bell = Bell { done: Arc::clone(&done), waker: Arc::clone(&self.waker) };
        thread::scope(|scope| {
            let script = scope.spawn(move || {
                let _bell = bell;
                script()
            });
            while !done.load(Ordering::Acquire) {
                self.turn();
            }
            script.join().unwrap()
        })
    }
}

/// Rings when a script ends, however it ends.
struct Bell {
    done: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        self.waker.wake().unwrap();
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn connect_unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// The payload of the next frame; `None` if the connection ends.
fn frame(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).ok()?;
    assert_eq!(header[..2], [0x94, 0xC3]);
    let mut payload = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]]))];
    stream.read_exact(&mut payload).ok()?;
    Some(payload)
}

/// Whether the payload is a queue status (`FromRadio.queueStatus`, field 11).
fn is_status(payload: &[u8]) -> bool {
    payload.first() == Some(&0x5A)
}

/// Asks and waits for the answer.
fn is_served(stream: &mut (impl Read + Write)) -> bool {
    stream.write_all(HEARTBEAT).is_ok() && frame(stream).is_some_and(|p| is_status(&p))
}

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

#[test]
fn as_many_clients_as_the_relay_takes_are_served_and_the_others_turned_away() {
    let (mut world, address) = World::tcp(RelayConfig::default());
    world.serve(move || {
        let mut streams: Vec<_> = (0..300).map(|_| connect(address)).collect();
        for stream in &mut streams {
            // One that is turned away may be so already.
            let _ = stream.write_all(HEARTBEAT);
        }
        let mut served = Vec::new();
        for mut stream in streams {
            if frame(&mut stream).is_some_and(|payload| is_status(&payload)) {
                served.push(stream);
            }
        }
        assert_eq!(served.len(), 256);
        assert!(served.iter_mut().all(is_served), "and they stay");
        // A place is free when the relay has seen the end, which it does not tell us.
        drop(served.pop());
        while !is_served(&mut connect(address)) {}
        assert!(served.iter_mut().all(is_served));
    });
    assert!(world.relay.counters().turned_away >= 44);
    world.turn_until("all have left", |world| world.relay.clients().next().is_none());
    assert!(world.doors.poll_timeout().is_none() && !world.doors.is_busy(), "at rest");
}

#[test]
fn one_byte_per_write_is_enough() {
    let (mut world, address) = World::tcp(RelayConfig::default());
    world.doors.set_buffers(Some(1));
    world.serve(move || {
        let mut stream = connect(address);
        for _ in 0..50 {
            for byte in HEARTBEAT {
                stream.write_all(&[*byte]).unwrap();
            }
        }
        assert!((0..50).all(|_| frame(&mut stream).is_some_and(|p| is_status(&p))));
    });
}

#[test]
fn a_client_that_ends_its_side_gets_all_its_answers_and_then_the_end() {
    let (mut world, address) = World::tcp(RelayConfig::default());
    world.doors.set_buffers(Some(4096));
    world.serve(move || {
        let mut stream = connect(address);
        stream.write_all(&HEARTBEAT.repeat(5000)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answers = 0;
        while let Some(payload) = frame(&mut stream) {
            assert!(is_status(&payload));
            answers += 1;
        }
        assert_eq!(answers, 5000);
    });
    world.turn_until("the client is forgotten", |world| world.relay.clients().next().is_none());
}

#[test]
fn one_that_ends_its_side_and_does_not_read_is_dropped() {
    let config = RelayConfig { max_queued: 64 << 20, ..RelayConfig::default() };
    let (mut world, address) = World::tcp(config);
    world.doors.set_buffers(Some(16 << 10));
    let mut stream = connect(address);
    let writer = thread::spawn(move || {
        stream.write_all(&HEARTBEAT.repeat(40_000)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream
    });
    world.turn_until("it has a deadline", |world| world.doors.poll_timeout().is_some());
    let _stream = writer.join().unwrap();
    let since = world.clock.now();
    world.doors.handle_timeout(since + GRACE, &mut world.relay);
    assert_eq!(world.relay.clients().count(), 1, "it may still read");
    world.doors.handle_timeout(since + LONGEST_GRACE, &mut world.relay);
    assert_eq!(world.relay.clients().count(), 0);
    assert!(world.doors.poll_timeout().is_none());
}

#[test]
fn what_a_client_sent_before_it_left_counts() {
    let mut world = World::new(&["127.0.0.1:0,read-only"], RelayConfig::default(), None);
    let mut stream = connect(world.address());
    stream.write_all(HEARTBEAT).unwrap();
    world.turn_until("it is answered", |world| {
        world.relay.clients().any(|client| client.frames_sent == 1)
    });
    // The answer that it has not read turns its end into a reset.
    stream.write_all(&PACKET.repeat(2000)).unwrap();
    drop(stream);
    // There is something to write to it before its packets are read.
    let client = world.relay.clients().next().unwrap().id;
    world.relay.handle_bytes(world.clock.now(), client, HEARTBEAT);
    world.doors.flush(world.clock.now(), &mut world.relay);
    world.turn_until("all are refused", |world| world.relay.counters().refused == 2000);
    world.turn_until("it is forgotten", |world| world.relay.clients().next().is_none());
}

#[test]
fn one_that_does_not_read_is_cut_off_and_the_others_are_served() {
    let config = RelayConfig { max_queued: 32 << 10, ..RelayConfig::default() };
    let (mut world, address) = World::tcp(config);
    world.doors.set_buffers(Some(32 << 10));
    world.serve(move || {
        let mut other = connect(address);
        assert!(is_served(&mut other));
        let is_cut_off = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_cut_off);
        let mut deaf = connect(address);
        let deaf = thread::spawn(move || {
            while deaf.write_all(&HEARTBEAT.repeat(64)).is_ok() {}
            told.store(true, Ordering::Release);
        });
        while !is_cut_off.load(Ordering::Acquire) {
            assert!(is_served(&mut other));
        }
        deaf.join().unwrap();
        assert!(is_served(&mut other));
    });
    assert_eq!(world.relay.counters().cut_off, 1);
}

#[test]
fn garbage_and_a_slow_client_disturb_nobody() {
    let (mut world, address) = World::tcp(RelayConfig::default());
    world.serve(move || {
        let mut slow = connect(address);
        slow.write_all(&HEARTBEAT[..3]).unwrap();
        let mut noisy = connect(address);
        noisy.write_all(&[0x94; 100_000]).unwrap();
        let mut other = connect(address);
        assert!((0..10).all(|_| is_served(&mut other)));
        slow.write_all(&HEARTBEAT[3..]).unwrap();
        assert!(frame(&mut slow).is_some_and(|payload| is_status(&payload)));
        assert!(is_served(&mut noisy));
    });
}

#[test]
fn the_daemons_socket_takes_questions_and_clients() {
    let path = TempPath::new("daemon");
    let mut world = World::new(&[], RelayConfig::default(), Some(&path.0));
    assert_eq!(world.doors.socket(), Some(path.0.as_path()));
    assert_eq!(world.doors.local_addrs().count(), 0, "it is no door for others");
    let at = path.0.clone();
    world.serve(move || {
        let mut asking = connect_unix(&at);
        asking.write_all(b"now st").unwrap();
        assert!(is_served(&mut connect_unix(&at)), "a client meanwhile");
        asking.write_all(b"atus\n").unwrap();
        let mut answer = String::new();
        asking.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "{\"you\":\"now status\"}\n");
    });
    assert_eq!(world.asked.len(), 1);

    // An answer may come later, and several may wait.
    let mut waiting: Vec<_> = (0..CONTROLS)
        .map(|n| {
            let mut stream = connect_unix(&path.0);
            writeln!(stream, "fate {n}").unwrap();
            stream
        })
        .collect();
    world.turn_until("all have asked", |world| world.asked.len() == 1 + CONTROLS);
    let waits = |conn: &&Conn| matches!(conn.role, Role::Waiting { .. });
    let conns: Vec<_> = world.doors.conns.iter().flatten().filter(waits).collect();
    assert_eq!(conns.len(), CONTROLS);
    assert!(conns.iter().all(|conn| conn.deadline.is_none()), "an answer may take its time");
    let at = path.0.clone();
    world.serve(move || {
        let mut one_more = connect_unix(&at);
        one_more.write_all(b"now this\n").unwrap();
        assert_eq!(one_more.read_to_end(&mut Vec::new()).unwrap_or(0), 0, "too many");
    });
    for (id, line) in world.asked.split_off(1) {
        world.doors.answer(id, line);
    }
    world.doors.flush(world.clock.now(), &mut world.relay);
    for (n, stream) in waiting.iter_mut().enumerate() {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, format!("fate {n}\n"));
    }
    drop(world);
    assert!(!path.0.exists(), "the file goes with the daemon");
}

#[test]
fn questions_that_are_no_line_in_time_are_dropped() {
    let path = TempPath::new("late");
    let mut world = World::new(&[], RelayConfig::default(), Some(&path.0));
    let at = path.0.clone();
    world.serve(move || {
        let mut long = connect_unix(&at);
        long.write_all(&[b'x'; 300]).unwrap();
        assert_eq!(long.read(&mut [0; 8]).unwrap_or(0), 0, "too long");
        let mut gone = connect_unix(&at);
        gone.write_all(b"stat").unwrap();
        gone.shutdown(Shutdown::Write).unwrap();
        assert_eq!(gone.read(&mut [0; 8]).unwrap_or(0), 0, "it ended");
    });
    let mut silent = connect_unix(&path.0);
    let mut half = connect_unix(&path.0);
    half.write_all(b"statu").unwrap();
    world.turn_until("both are here", |world| {
        world.doors.controls.len() == 1 && world.doors.undecided == 1
    });
    let due = world.doors.poll_timeout().expect("they are given up some time");
    assert!(due.since(world.clock.now()) <= CONTROL_TIME);
    world.doors.handle_timeout(world.clock.now() + CONTROL_TIME, &mut world.relay);
    assert_eq!(silent.read(&mut [0; 8]).unwrap_or(0), 0);
    assert_eq!(half.read(&mut [0; 8]).unwrap_or(0), 0);
    assert!(world.doors.poll_timeout().is_none());
}

#[test]
fn a_second_daemon_leaves_the_socket_to_the_first() {
    let path = TempPath::new("second");
    let first = World::new(&[], RelayConfig::default(), Some(&path.0));
    let second = World::new(&[], RelayConfig::default(), Some(&path.0));
    assert_eq!((first.doors.socket().is_some(), second.doors.socket()), (true, None));
    drop(second);
    assert!(path.0.exists());
}

#[test]
fn a_unix_listener_serves_clients_with_its_policy() {
    let path = TempPath::new("listen");
    let listen = format!("unix:{},no-admin", path.0.display());
    let mut world = World::new(&[&listen], RelayConfig::default(), None);
    let (address, policy) = world.doors.local_addrs().next().unwrap();
    assert_eq!(format!("{address},{policy}"), listen);
    let at = path.0.clone();
    let stream = world.serve(move || {
        let mut stream = connect_unix(&at);
        assert!(is_served(&mut stream));
        stream
    });
    let client = world.relay.clients().next().expect("it is here");
    assert_eq!((client.peer.policy, client.peer.observer), (Policy::NoAdmin, false));
    drop(stream);
    world.doors.close(world.clock.now(), &mut world.relay);
    assert!(world.relay.clients().next().is_none() && !path.0.exists());
}

#[test]
fn without_descriptors_accepting_waits_instead_of_spinning() {
    let (mut world, address) = World::tcp(RelayConfig::default());
    let mut stream = connect(address);
    let now = world.clock.now();
    world.doors.handle_ready(FIRST, true, false);
    assert!(world.doors.is_busy());
    // EMFILE
    world.doors.accept_failed(now, 0, &io::Error::from_raw_os_error(24));
    assert!(!world.doors.is_busy());
    world.doors.turn(now, &mut world.relay);
    assert_eq!(world.relay.clients().count(), 0);
    assert_eq!(world.doors.poll_timeout(), Some(now + ACCEPT_PAUSE));
    world.doors.handle_timeout(now + ACCEPT_PAUSE, &mut world.relay);
    world.doors.turn(now, &mut world.relay);
    assert_eq!(world.relay.clients().count(), 1);
    world.serve(move || assert!(is_served(&mut stream)));
}

#[test]
fn no_new_clients_once_it_stops() {
    let (mut world, address) = World::tcp(RelayConfig::default());
    let mut stream = connect(address);
    world.turn_until("it is here", |world| world.relay.clients().count() == 1);
    world.doors.stop_listening();
    assert!(TcpStream::connect(address).is_err());
    world.serve(move || assert!(is_served(&mut stream), "who is here stays"));
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
    std::net::TcpListener::bind(any).expect("the port is free");
}

/// Relay and doors on the event loop, until the first client has come and gone.
struct Daemon {
    doors: Doors,
    relay: Relay,
}

impl Program for Daemon {
    fn handle_event(&mut self, now: Instant, event: Event, _link: &HostLink) {
        self.relay.handle_event(now, event);
    }

    fn handle_item(&mut self, now: Instant, item: Item<'_>) {
        if let Item::Frame { payload, message, configured } = item {
            self.relay.handle_frame(now, payload, message, configured);
        }
    }

    fn handle_ready(&mut self, _now: Instant, token: Token, readable: bool, writable: bool) {
        self.doors.handle_ready(token, readable, writable);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.relay.handle_timeout(now);
        self.doors.handle_timeout(now, &mut self.relay);
    }

    fn handle_turn(&mut self, now: Instant, link: &mut HostLink) {
        self.doors.turn(now, &mut self.relay);
        self.relay.handle_turn(now, link);
        self.doors.flush(now, &mut self.relay);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.doors.poll_timeout(), self.relay.poll_timeout()].into_iter().flatten().min()
    }

    fn is_busy(&self) -> bool {
        self.doors.is_busy()
    }

    fn is_done(&self) -> bool {
        self.relay.counters().clients > 0 && self.relay.clients().next().is_none()
    }
}

/// Waits for the configuration, and then for a few packets.
#[derive(Default)]
struct Watcher {
    is_configured: bool,
    nodes: u32,
    packets: u32,
    losses: u32,
}

impl Program for Watcher {
    fn handle_event(&mut self, _now: Instant, event: Event, _link: &HostLink) {
        self.is_configured |= matches!(event, Event::Configured { .. });
        self.losses += u32::from(matches!(event, Event::Lost { .. }));
    }

    fn handle_item(&mut self, _now: Instant, item: Item<'_>) {
        match item {
            Item::Frame { message: FromRadio::Other(peek::NODE_INFO), .. } => self.nodes += 1,
            Item::Frame { message: FromRadio::Packet(_), .. } => self.packets += 1,
            _ => {}
        }
    }

    fn is_done(&self) -> bool {
        (self.is_configured && self.packets >= 3) || self.losses > 0
    }
}

#[test]
fn a_link_through_the_daemons_socket_sees_what_the_node_says() {
    let mut config = SimConfig::default();
    config.identity.nodes = 40;
    config.traffic.per_minute = 300;
    let mut server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), config, 1).unwrap();
    let (node, handle) = (server.local_addr(), server.handle());
    let served = thread::spawn(move || server.run());

    let path = TempPath::new("through");
    let start = |target: Target| {
        EventLoop::new(target, LinkConfig::default(), TcpOptions::default(), 1).unwrap()
    };
    let mut event_loop = start((node.ip().to_string(), node.port()).into());
    let registry = event_loop.registry().unwrap();
    let socket = Some(path.0.clone());
    let doors = Doors::open(&[], Some(node), registry, FIRST_PROGRAM_TOKEN, socket).unwrap();
    let daemon = thread::spawn(move || {
        let relay = Relay::new(RelayConfig::default(), 1, 0);
        event_loop.run(&mut Daemon { doors, relay })
    });

    let mut watcher = Watcher::default();
    start(Target::Unix(path.0.clone())).run(&mut watcher).unwrap();
    assert!(watcher.is_configured && watcher.losses == 0);
    assert_eq!(watcher.nodes, 1 + 40, "the own one and the others");
    daemon.join().unwrap().unwrap();
    handle.stop();
    served.join().unwrap().unwrap();
}
