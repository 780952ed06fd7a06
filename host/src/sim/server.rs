//! A TCP port with a simulated node behind it: the only place in the simulation with sockets and a
//! clock. One thread, one `mio::Poll`; it sleeps until something comes or is due.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Instant as Clock;

use meshbeat_core::time::Instant;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook_mio::v1_0::Signals;
use socket2::{Domain, SockRef, Socket, Type};

use super::{Action, ConnId, Fault, How, Listening, Log, SimConfig, SimNode};

const WAKER: Token = Token(0);
const LISTENER: Token = Token(1);
const SIGNALS: Token = Token(2);
/// The token and the number of the first connection.
const FIRST_CONN: u64 = 3;
/// Connections that may wait to be taken.
const BACKLOG: i32 = 128;
/// Bytes read from a socket at once.
const READ: usize = 16_384;

/// A simulated node on a TCP port. [`Server::run`] serves it on the calling thread; a [`Handle`]
/// reaches it from others.
pub struct Server {
    poll: Poll,
    /// `None` only while it is being changed.
    door: Option<Door>,
    addr: SocketAddr,
    node: SimNode,
    clients: BTreeMap<ConnId, Client>,
    next_conn: u64,
    send_buffer: Option<usize>,
    requests: Receiver<Request>,
    handle: Handle,
    signals: Option<Signals>,
    started: Clock,
    /// How loud connections and faults are logged.
    news: log::Level,
    /// Entries of the node's log that were logged.
    logged: u64,
    stopped: bool,
}

/// What becomes of new connections.
#[derive(Debug)]
enum Door {
    /// They are taken.
    Open(TcpListener),
    /// They are refused. The socket, which does not listen, keeps the port ours.
    Refusing(Socket),
    /// They are not answered: the listener's queue of one is filled by our own connection.
    Unanswered(TcpListener, Option<TcpStream>),
}

/// A connection. Events come on edges only, so what is still possible has to be remembered.
#[derive(Debug)]
struct Client {
    stream: TcpStream,
    readable: bool,
    writable: bool,
    /// Its end was read.
    finished: bool,
}

/// What another thread wants.
enum Request {
    /// Do this, and when the network has followed, call what it returns.
    Call(Call),
    /// Return from [`Server::run`].
    Stop,
}

type Call = Box<dyn FnOnce(&mut SimNode, Instant) -> Reply + Send>;

type Reply = Box<dyn FnOnce() + Send>;

/// Reaches a [`Server`] that runs on another thread. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    requests: SyncSender<Request>,
    waker: Arc<Waker>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// Plays a fault; see [`SimNode::inject`]. Like every call here it returns when that is done.
    ///
    /// # Errors
    /// The server has stopped.
    pub fn inject(&self, fault: Fault) -> io::Result<()> {
        self.call(move |node, now| node.inject(now, fault))
    }

    /// Ends all faults; see [`SimNode::recover`].
    ///
    /// # Errors
    /// The server has stopped.
    pub fn recover(&self) -> io::Result<()> {
        self.call(SimNode::recover)
    }

    /// The node's own record up to now.
    ///
    /// # Errors
    /// The server has stopped.
    pub fn log(&self) -> io::Result<Log> {
        self.call(|node, _| node.log().clone())
    }

    /// Runs `f` with the node on the server's thread, between two things that happen to it, and
    /// returns when connections and port are as the node then wants them.
    ///
    /// # Errors
    /// The server has stopped.
    pub fn call<R, F>(&self, f: F) -> io::Result<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut SimNode, Instant) -> R + Send + 'static,
    {
        let (answer, answered) = mpsc::sync_channel(1);
        self.request(Request::Call(Box::new(move |node, now| {
            let result = f(node, now);
            // If nobody waits for it any more, nothing is lost.
            Box::new(move || drop(answer.send(result)))
        })))?;
        answered.recv().map_err(|_| stopped())
    }

    /// Lets [`Server::run`] return. Harmless when it has.
    pub fn stop(&self) {
        // A server that is gone has stopped already.
        let _ = self.request(Request::Stop);
    }

    fn request(&self, request: Request) -> io::Result<()> {
        self.requests.send(request).map_err(|_| stopped())?;
        self.waker.wake()
    }
}

fn stopped() -> io::Error {
    io::Error::new(ErrorKind::NotConnected, "the simulated node has stopped")
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens on `addr` (port 0 picks a free one) with a node that has just booted.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn bind(addr: SocketAddr, config: SimConfig, seed: u64) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut listener = listen(bound(addr)?)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let (sender, requests) = mpsc::sync_channel(16);
        Ok(Self {
            poll,
            addr: listener.local_addr()?,
            door: Some(Door::Open(listener)),
            node: SimNode::new(config, seed),
            clients: BTreeMap::new(),
            next_conn: FIRST_CONN,
            send_buffer: None,
            requests,
            handle: Handle { requests: sender, waker },
            signals: None,
            started: Clock::now(),
            news: log::Level::Debug,
            logged: 0,
            stopped: false,
        })
    }

    /// Logs connections and faults at this level. Default debug: beside a link that is the matter,
    /// the node is not.
    pub fn set_news_level(&mut self, level: log::Level) {
        self.news = level;
    }

    /// Gives the sockets of new connections a send buffer of about `bytes`, so that a client that
    /// does not read is noticed early. The kernel rounds it.
    pub fn set_send_buffer(&mut self, bytes: usize) {
        self.send_buffer = Some(bytes);
    }

    /// Lets [`Server::run`] return on these signals.
    ///
    /// # Errors
    /// A signal that cannot be caught.
    pub fn stop_on_signals(&mut self, signals: &[i32]) -> io::Result<()> {
        let mut signals = Signals::new(signals)?;
        self.poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        self.signals = Some(signals);
        Ok(())
    }

    /// Serves until [`Handle::stop`] or a signal. The port is open until the server is dropped.
    ///
    /// # Errors
    /// The poll itself failed, or the port could not be opened again after a fault.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(64);
        while !self.stopped {
            self.turn()?;
            if self.stopped {
                break;
            }
            let due = self.node.poll_timeout();
            let sleep = due.map(|at| {
                Duration::from_millis(at.as_millis()).saturating_sub(self.started.elapsed())
            });
            match self.poll.poll(&mut events, sleep) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                if event.token() == SIGNALS
                    && self.signals.as_mut().is_some_and(|signals| signals.pending().count() > 0)
                {
                    self.stopped = true;
                }
                if let Some(client) = self.clients.get_mut(&ConnId(event.token().0 as u64)) {
                    client.readable |= event.is_readable() || event.is_error();
                    client.writable |= event.is_writable() || event.is_error();
                }
            }
        }
        self.log_news();
        Ok(())
    }

    /// Where the node listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Reaches this server from other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The node, for what is to be set before [`Server::run`].
    pub fn node_mut(&mut self) -> &mut SimNode {
        &mut self.node
    }

    /// The node.
    pub fn node(&self) -> &SimNode {
        &self.node
    }

    /// The time on the node's clock: milliseconds since [`Server::bind`], rounded down.
    pub fn now(&self) -> Instant {
        Instant::from_millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Does all that can be done now.
    fn turn(&mut self) -> io::Result<()> {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Call(call) => {
                    let now = self.now();
                    let reply = call(&mut self.node, now);
                    self.act()?;
                    reply();
                }
                Request::Stop => self.stopped = true,
            }
        }
        self.node.handle_timeout(self.now());
        self.act()?;
        self.accept();
        self.act()?;
        let conns: Vec<_> = self.clients.keys().copied().collect();
        for conn in conns {
            self.read(conn);
            self.act()?;
            // First the word, then the bytes: who stops us by force knows what the client may know.
            self.log_news();
            self.write(conn);
            self.act()?;
        }
        self.log_news();
        Ok(())
    }

    fn act(&mut self) -> io::Result<()> {
        while let Some(action) = self.node.poll_action() {
            match action {
                Action::Close { conn, how } => {
                    if let Some(client) = self.clients.remove(&conn) {
                        close(&client.stream, how);
                    }
                }
                Action::Listen(listening) => self.set_door(listening)?,
            }
        }
        Ok(())
    }

    fn set_door(&mut self, listening: Listening) -> io::Result<()> {
        self.door = match (self.door.take(), listening) {
            (Some(door @ (Door::Open(_) | Door::Unanswered(..))), Listening::Refusing) => {
                // The port can be bound again only when the listener is gone.
                drop(door);
                Some(Door::Refusing(bound_again(self.addr)?))
            }
            (Some(Door::Refusing(socket)), Listening::Open) => Some(self.open(socket)?),
            (Some(Door::Refusing(socket)), Listening::Unanswered) => {
                self.door = Some(self.open(socket)?);
                return self.set_door(listening);
            }
            (Some(Door::Open(listener)), Listening::Unanswered) => {
                SockRef::from(&listener).listen(0)?;
                let filler = TcpStream::connect(reachable(self.addr)).ok();
                Some(Door::Unanswered(listener, filler))
            }
            (Some(Door::Unanswered(listener, filler)), Listening::Open) => {
                SockRef::from(&listener).listen(BACKLOG)?;
                let ours = filler.and_then(|filler| filler.local_addr().ok());
                self.door = Some(Door::Open(listener));
                self.accept_except(ours);
                return Ok(());
            }
            (door, _) => door,
        };
        Ok(())
    }

    fn open(&self, socket: Socket) -> io::Result<Door> {
        let mut listener = listen(socket)?;
        self.poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Door::Open(listener))
    }

    fn accept(&mut self) {
        self.accept_except(None);
    }

    /// Takes all new connections, but not the one from `ours`.
    fn accept_except(&mut self, ours: Option<SocketAddr>) {
        while let Some(Door::Open(listener)) = &self.door {
            match listener.accept() {
                Ok((_, peer)) if Some(peer) == ours => {}
                Ok((stream, _)) => self.greet(stream),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    log::warn!(target: "sim", "cannot accept: {error}");
                    return;
                }
            }
        }
    }

    fn greet(&mut self, mut stream: TcpStream) {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        // Frames leave at once and, with the fault `short-write`, byte by byte. A socket that
        // cannot be set so is broken, and reading will tell.
        let _ = stream.set_nodelay(true);
        if let Some(bytes) = self.send_buffer {
            let _ = SockRef::from(&stream).set_send_buffer_size(bytes);
        }
        let interest = Interest::READABLE | Interest::WRITABLE;
        let token = Token(conn.0 as usize);
        if let Err(error) = self.poll.registry().register(&mut stream, token, interest) {
            log::warn!(target: "sim", "cannot watch {conn}: {error}");
            return;
        }
        let client = Client { stream, readable: true, writable: true, finished: false };
        self.clients.insert(conn, client);
        self.node.handle_connect(self.now(), conn);
    }

    fn read(&mut self, conn: ConnId) {
        let now = self.now();
        let mut buffer = [0; READ];
        while let Some(client) = self.clients.get_mut(&conn)
            && client.readable
            && !client.finished
        {
            let room = self.node.input_room(conn).min(READ);
            if room == 0 {
                return;
            }
            match client.stream.read(&mut buffer[..room]) {
                Ok(0) => {
                    client.finished = true;
                    self.node.handle_fin(now, conn);
                }
                Ok(count) => {
                    let taken = self.node.handle_bytes(now, conn, &buffer[..count]);
                    debug_assert_eq!(taken, count, "there was room");
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => client.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.lose(now, conn),
            }
        }
    }

    fn write(&mut self, conn: ConnId) {
        let now = self.now();
        while let Some(client) = self.clients.get_mut(&conn)
            && client.writable
        {
            let bytes = self.node.poll_transmit(now, conn);
            if bytes.is_empty() {
                return;
            }
            match client.stream.write(bytes) {
                Ok(count) => self.node.consume(now, conn, count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    client.writable = false;
                    self.node.consume(now, conn, 0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.lose(now, conn),
            }
            if self.act().is_err() {
                return;
            }
        }
    }

    fn lose(&mut self, now: Instant, conn: ConnId) {
        self.clients.remove(&conn);
        self.node.handle_gone(now, conn);
    }

    fn log_news(&mut self) {
        let log = self.node.log();
        for entry in log.entries_from(self.logged) {
            let level = if entry.what.is_news() { self.news } else { log::Level::Trace };
            log::log!(target: "sim", level, "{}", entry.what);
        }
        self.logged = log.end();
    }
}

/// The same address once more, just after its listener was dropped. A process that is being started
/// meanwhile has a copy of the listener until it runs a program of its own, which is soon.
fn bound_again(addr: SocketAddr) -> io::Result<Socket> {
    let start = Clock::now();
    loop {
        match bound(addr) {
            Err(error)
                if error.kind() == ErrorKind::AddrInUse
                    && start.elapsed() < Duration::from_secs(1) =>
            {
                std::thread::yield_now();
            }
            result => return result,
        }
    }
}

/// A socket that has the address and does not listen.
fn bound(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// An address at which this machine reaches a listener on `addr`.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

fn close(stream: &TcpStream, how: How) {
    if how == How::Rst {
        // Closing with linger 0 makes the kernel send a reset. If that cannot be set the peer
        // sees a FIN, which is an end as well.
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
}

#[cfg(test)]
mod tests;
