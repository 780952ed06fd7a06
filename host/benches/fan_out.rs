//! How long a packet of the mesh takes from the node to each client of a relay, over real sockets
//! on the loopback interface, and what a client costs. One table, no verdict.
//!
//! 500 clients only listen; 50 also ask for a heartbeat's answer 20 times a second each. The node is
//! the simulated one, on a thread of its own; all clients are read by one thread, which takes its
//! time too, so beside the relay stand two others that have nothing to do but hand on the same
//! frames: a thread for each client, and the floor, one `write` to each socket in turn.

use core::net::{Ipv4Addr, SocketAddr};
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::time::Instant as Clock;
use std::{fs, thread};

use meshbeat::doors::{Doors, ListenAddr};
use meshbeat::event_loop::{EventLoop, FIRST_PROGRAM_TOKEN, Program};
use meshbeat::relay::{Relay, RelayConfig};
use meshbeat::sim::{Server, SimConfig};
use meshbeat::socket::TcpOptions;
use meshbeat::upstream::HostLink;
use meshbeat_core::frame::{self, FrameLen, HEADER_LEN, MAX_FRAME};
use meshbeat_core::link::{Event, Item};
use meshbeat_core::{Instant, LinkConfig};
use meshbeat_proto::from_radio::PayloadVariant;
use meshbeat_proto::{Data, FromRadio, MeshPacket, PortNum, mesh_packet};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use prost::Message as _;

/// Clients that only listen, and those that ask for answers too.
const IDLE: usize = 500;
const BUSY: usize = 50;
/// Between two heartbeats of a busy client.
const ASKS_EVERY: Duration = Duration::from_millis(50);
/// Packets that are not counted, those that are, and the time between two.
const WARM_UP: usize = 40;
const PACKETS: usize = 200;
const EVERY: Duration = Duration::from_millis(50);
/// Time in which no packet comes, to know what the heartbeats cost.
const QUIET: Duration = Duration::from_secs(3);
/// What begins the text by which a packet is known; the time of its birth follows.
const MARK: &[u8] = b"born ";
/// Longest wait for what should come.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> io::Result<()> {
    let (idle, busy) = affordable();
    let origin = Clock::now();
    println!(
        "{idle} idle and {busy} busy clients, {PACKETS} packets, one every {} ms",
        EVERY.as_millis()
    );
    let rows =
        [relay(origin, idle, busy)?, threads(origin, idle + busy)?, floor(origin, idle + busy)?];
    println!(
        "\n{:<28}{:>10}{:>10}{:>10}{:>12}{:>12}",
        "", "median", "p99", "last", "CPU", "memory"
    );
    println!(
        "{:<28}{:>10}{:>10}{:>10}{:>12}{:>12}",
        "", "ms", "ms", "ms", "us/packet", "KiB/client"
    );
    for row in rows {
        println!("{row}");
    }
    println!(
        "\nmedian, p99: from the node to a client, of all deliveries; last: to the last client, median.\n\
         CPU: of what hands on, for one packet to one client, heartbeats not counted; memory: what the\n\
         process grew by with its clients, both ends, without the kernel's buffers. Goal: p99 5 ms."
    );
    Ok(())
}

/// As many clients as there are file descriptors for: two for each, and a few.
fn affordable() -> (usize, usize) {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let limit = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<usize>().ok());
    let clients = limit.map_or(IDLE + BUSY, |limit| limit.saturating_sub(100) / 3);
    if clients >= IDLE + BUSY {
        return (IDLE, BUSY);
    }
    let busy = clients / 11;
    println!("ONLY {clients} CLIENTS: no more than {limit:?} files may be open (ulimit -n)");
    (clients - busy, busy)
}

/// A relay on its event loop, with a simulated node.
fn relay(origin: Clock, idle: usize, busy: usize) -> io::Result<Row> {
    let mut config = SimConfig::default();
    config.identity.nodes = 20;
    let mut server = Server::bind(any_port(), config, 1)?;
    let (node, node_addr) = (server.handle(), server.local_addr());
    let node_thread = thread::spawn(move || server.run());

    let (tell, told) = mpsc::channel();
    let is_over = Arc::new(AtomicBool::new(false));
    let until = is_over.clone();
    let relay_thread = thread::spawn(move || run_relay(node_addr, until, &tell));
    let (address, thread_id) = told.recv().map_err(io::Error::other)?;

    let before = resident();
    let mut clients = Clients::connect(address, idle + busy)?;
    clients.ask()?;
    clients.read_until(|clients| clients.configured == idle + busy)?;
    let memory = (resident().saturating_sub(before)) as f64 / (idle + busy) as f64;

    let asking = clients.streams(busy)?;
    let until = is_over.clone();
    let asker = thread::spawn(move || ask_again_and_again(asking, &until));
    // What the heartbeats alone cost.
    let start = (Clock::now(), on_cpu(&thread_id));
    clients.read_until(|_| start.0.elapsed() >= QUIET)?;
    let per_second = (on_cpu(&thread_id) - start.1) / start.0.elapsed().as_secs_f64();

    let from = node.call(|node, _| node.neighbours().next().unwrap_or(1))?;
    let cost = |clients: &mut Clients, count| -> io::Result<f64> {
        let node = node.clone();
        let start = (Clock::now(), on_cpu(&thread_id));
        let source = thread::spawn(move || {
            each_in_turn(count, |number| {
                let packet = packet(origin, from, number);
                // Without a node there is nothing to measure; the clients' patience tells.
                drop(node.call(move |node, now| node.hear(now, packet)));
            });
        });
        clients.read_packets(origin, count)?;
        drop(source.join());
        Ok(on_cpu(&thread_id) - start.1 - per_second * start.0.elapsed().as_secs_f64())
    };
    cost(&mut clients, WARM_UP)?;
    clients.born.clear();
    let cpu = cost(&mut clients, PACKETS)?;
    let row = Row::new("relay", &mut clients, cpu, memory);

    is_over.store(true, Ordering::Relaxed);
    drop(clients);
    drop((asker.join(), relay_thread.join()));
    node.stop();
    drop(node_thread.join());
    Ok(row)
}

/// What a relay needs of the event loop.
struct Daemon {
    relay: Relay,
    doors: Doors,
    is_over: Arc<AtomicBool>,
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
        self.doors.handle_timeout(now, &mut self.relay);
        self.relay.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.doors.poll_timeout(), self.relay.poll_timeout()].into_iter().flatten().min()
    }

    fn handle_turn(&mut self, now: Instant, link: &mut HostLink) {
        self.doors.turn(now, &mut self.relay);
        self.relay.handle_turn(now, link);
        self.doors.flush(now, &mut self.relay);
    }

    fn is_busy(&self) -> bool {
        self.doors.is_busy()
    }

    fn is_done(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

fn run_relay(
    node: SocketAddr,
    is_over: Arc<AtomicBool>,
    tell: &mpsc::Sender<(SocketAddr, String)>,
) -> io::Result<()> {
    let target = (node.ip().to_string(), node.port());
    let mut event_loop = EventLoop::new(target, LinkConfig::default(), TcpOptions::default(), 1)
        .map_err(io::Error::other)?;
    let listen = ListenAddr::Tcp { address: any_port(), policy: None };
    let registry = event_loop.registry()?;
    let doors = Doors::open(&[listen], None, registry, FIRST_PROGRAM_TOKEN, None)
        .map_err(io::Error::other)?;
    let address = doors.local_addrs().next().map(|(address, _)| address);
    let address = address.and_then(|address| address.parse().ok());
    let address = address.ok_or_else(|| io::Error::other("it does not listen"))?;
    let config = RelayConfig { max_clients: 10_000, ..RelayConfig::default() };
    let relay = Relay::new(config, 1, 1_763_000_000_000);
    // Who asked has gone if nobody takes it; then this ends too.
    drop(tell.send((address, this_thread())));
    event_loop.run(&mut Daemon { relay, doors, is_over })
}

/// The same frames by a thread for each client, as one would write it first.
fn threads(origin: Clock, count: usize) -> io::Result<Row> {
    let before = resident();
    let (mut clients, servers) = pairs(count)?;
    let mut queues = Vec::new();
    let writers: Vec<_> = servers
        .into_iter()
        .map(|mut socket| {
            let (queue, queued) = mpsc::channel::<Arc<[u8]>>();
            queues.push(queue);
            thread::spawn(move || {
                for frame in queued {
                    if socket.write_all(&frame).is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    let memory = (resident().saturating_sub(before)) as f64 / count as f64;
    let cpu = hand_on(origin, &mut clients, move |frame| {
        let frame: Arc<[u8]> = frame.into();
        for queue in &queues {
            drop(queue.send(frame.clone()));
        }
    })?;
    for writer in writers {
        drop(writer.join());
    }
    Ok(Row::new("a thread for each client", &mut clients, cpu, memory))
}

/// The same frames, written to each socket in turn: nothing can be less.
fn floor(origin: Clock, count: usize) -> io::Result<Row> {
    let before = resident();
    let (mut clients, mut servers) = pairs(count)?;
    let memory = (resident().saturating_sub(before)) as f64 / count as f64;
    let cpu = hand_on(origin, &mut clients, move |frame| {
        for socket in &mut servers {
            drop(socket.write_all(frame));
        }
    })?;
    Ok(Row::new("one write to each socket", &mut clients, cpu, memory))
}

/// Has all packets handed on by `hand_on`; returns what that cost all threads but the reader.
fn hand_on(
    origin: Clock,
    clients: &mut Clients,
    mut hand_on: impl FnMut(&[u8]) + Send + 'static,
) -> io::Result<f64> {
    let (tell, told) = mpsc::channel();
    let source = thread::spawn(move || {
        for count in [WARM_UP, PACKETS] {
            each_in_turn(count, |number| {
                let variant = Some(PayloadVariant::Packet(packet(origin, 1, number)));
                let payload = FromRadio { id: 0, payload_variant: variant }.encode_to_vec();
                if let Ok(frame) = frame::encode(&payload, &mut [0; MAX_FRAME]) {
                    hand_on(frame);
                }
            });
            // The reader says when it has all of the warm-up.
            if told.recv().is_err() {
                return;
            }
        }
    });
    let others = || on_cpu("") - on_cpu(&this_thread());
    clients.read_packets(origin, WARM_UP)?;
    clients.born.clear();
    let start = others();
    // If it has ended already the packets do not come, which is told.
    let _ = tell.send(());
    clients.read_packets(origin, PACKETS)?;
    let cpu = others() - start;
    let _ = tell.send(());
    drop(source.join());
    Ok(cpu)
}

/// Both ends of so many connections.
fn pairs(count: usize) -> io::Result<(Clients, Vec<std::net::TcpStream>)> {
    let listener = TcpListener::bind(any_port())?;
    let address = listener.local_addr()?;
    let accepting = thread::spawn(move || {
        (0..count).map(|_| Ok(listener.accept()?.0)).collect::<io::Result<Vec<_>>>()
    });
    let clients = Clients::connect(address, count)?;
    let servers = accepting.join().map_err(|_| io::Error::other("not accepted"))??;
    Ok((clients, servers))
}

/// The clients' ends, all read by one thread.
struct Clients {
    poll: Poll,
    streams: Vec<TcpStream>,
    /// Half a frame of each.
    held: Vec<Vec<u8>>,
    /// How many were told the whole configuration.
    configured: usize,
    /// For each packet that has come: when it was born, and when it came, in microseconds.
    born: Vec<(u64, u64)>,
    origin: Clock,
}

impl Clients {
    fn connect(address: SocketAddr, count: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut streams = Vec::with_capacity(count);
        for index in 0..count {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
            streams.push(stream);
        }
        let held = vec![Vec::new(); count];
        let born = Vec::with_capacity(count * PACKETS);
        Ok(Self { poll, streams, held, configured: 0, born, origin: Clock::now() })
    }

    fn ask(&mut self) -> io::Result<()> {
        for stream in &mut self.streams {
            stream.write_all(b"\x94\xC3\x00\x02\x18\x05")?;
        }
        Ok(())
    }

    /// More handles of the first clients.
    fn streams(&self, count: usize) -> io::Result<Vec<std::net::TcpStream>> {
        use std::os::fd::AsFd as _;
        let first = self.streams.iter().take(count);
        first.map(|stream| Ok(stream.as_fd().try_clone_to_owned()?.into())).collect()
    }

    /// Reads until each client has so many packets.
    fn read_packets(&mut self, origin: Clock, count: usize) -> io::Result<()> {
        self.origin = origin;
        let all = count * self.streams.len();
        self.read_until(|clients| clients.born.len() >= all)
    }

    fn read_until(&mut self, is_enough: impl Fn(&Self) -> bool) -> io::Result<()> {
        let start = Clock::now();
        let mut events = Events::with_capacity(1024);
        let mut buf = vec![0; 64 * 1024];
        while !is_enough(self) {
            if start.elapsed() > PATIENCE {
                return Err(io::Error::new(ErrorKind::TimedOut, "the clients wait in vain"));
            }
            self.poll.poll(&mut events, Some(Duration::from_millis(100)))?;
            for event in &events {
                self.read(event.token().0, &mut buf)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, index: usize, buf: &mut [u8]) -> io::Result<()> {
        loop {
            match self.streams[index].read(buf) {
                Ok(0) => {
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "a client was cut off"));
                }
                Ok(n) => self.take(index, &buf[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, index: usize, bytes: &[u8]) {
        let now = self.origin.elapsed().as_micros() as u64;
        let mut held = core::mem::take(&mut self.held[index]);
        held.extend_from_slice(bytes);
        let mut rest = &held[..];
        while let Some(header) = rest.first_chunk::<HEADER_LEN>()
            && let Some(len) = FrameLen::from_header([header[2], header[3]])
            && let Some((frame, next)) = rest.split_at_checked(len.frame())
        {
            let payload = &frame[HEADER_LEN..];
            self.configured += usize::from(payload == b"\x38\x05");
            let mark = payload.windows(MARK.len()).position(|window| window == MARK);
            if let Some(at) = mark
                && let Some(digits) = payload.get(at + MARK.len()..at + MARK.len() + 20)
                && let Ok(born) = String::from_utf8_lossy(digits).parse()
            {
                self.born.push((born, now));
            }
            rest = next;
        }
        self.held[index] = rest.to_vec();
    }
}

/// A line of the table.
struct Row {
    name: &'static str,
    /// In milliseconds.
    median: f64,
    p99: f64,
    last: f64,
    /// In microseconds.
    cpu: f64,
    /// In KiB.
    memory: f64,
}

impl Row {
    /// `cpu` in seconds for all deliveries, `memory` in KiB for each client.
    fn new(name: &'static str, clients: &mut Clients, cpu: f64, memory: f64) -> Self {
        let born = &mut clients.born;
        born.sort_unstable();
        // Of one packet all deliveries stand together, the last of them at the end.
        let by_packet = born.chunk_by(|one, other| one.0 == other.0);
        let last = by_packet.filter_map(|all| all.last()).map(|(born, came)| came - born);
        let last = at_quantile(last.collect(), 0.5);
        let all: Vec<_> = born.iter().map(|(born, came)| came - born).collect();
        Self {
            name,
            median: at_quantile(all.clone(), 0.5),
            p99: at_quantile(all, 0.99),
            last,
            cpu: cpu * 1e6 / born.len() as f64,
            memory,
        }
    }
}

impl core::fmt::Display for Row {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { name, median, p99, last, cpu, memory } = self;
        write!(f, "{name:<28}{median:>10.2}{p99:>10.2}{last:>10.2}{cpu:>12.2}{memory:>12.1}")
    }
}

/// In milliseconds; the values are microseconds.
fn at_quantile(mut values: Vec<u64>, quantile: f64) -> f64 {
    values.sort_unstable();
    let at = ((values.len() as f64 - 1.0) * quantile) as usize;
    values.get(at).map_or(f64::NAN, |value| *value as f64 / 1000.0)
}

/// Calls `act` at even distances; what is late is not made up for.
fn each_in_turn(count: usize, mut act: impl FnMut(usize)) {
    for number in 0..count {
        act(number);
        thread::sleep(EVERY);
    }
}

fn ask_again_and_again(mut streams: Vec<std::net::TcpStream>, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        for stream in &mut streams {
            // A client that cannot write is not busy for once.
            drop(stream.write(b"\x94\xC3\x00\x02\x3A\x00"));
        }
        thread::sleep(ASKS_EVERY);
    }
}

/// A text that is born now.
fn packet(origin: Clock, from: u32, number: usize) -> MeshPacket {
    let mut payload = MARK.to_vec();
    payload.extend(format!("{:020}", origin.elapsed().as_micros()).into_bytes());
    let portnum = PortNum::TextMessageApp as i32;
    let data = Data { portnum, payload, ..Data::default() };
    MeshPacket {
        from,
        to: u32::MAX,
        // Another one for each packet of the run: what comes again is no news.
        id: (origin.elapsed().as_micros() as u32) << 8 | number as u32,
        hop_limit: 3,
        rx_time: 1_763_000_000,
        payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
        ..MeshPacket::default()
    }
}

const fn any_port() -> SocketAddr {
    SocketAddr::new(core::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
}

/// Memory of this process in KiB.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The number of this thread.
fn this_thread() -> String {
    let link = fs::read_link("/proc/thread-self").unwrap_or_default();
    link.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Seconds that a thread has run, or all threads together that there are now.
fn on_cpu(thread: &str) -> f64 {
    let seconds = |path: &str| -> Option<f64> {
        let stat = fs::read_to_string(path).ok()?;
        Some(stat.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
    };
    if !thread.is_empty() {
        return seconds(&format!("/proc/self/task/{thread}/schedstat")).unwrap_or(0.0);
    }
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let threads = threads.map(|entry| entry.path().join("schedstat"));
    threads.filter_map(|path| seconds(&path.to_string_lossy())).sum()
}
