//! A link on the real event loop, in a thread of its own, that tells all it sees; and the same for
//! the simulated node behind a real port.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Instant as Clock;

use meshbeat::event_loop::{EventLoop, Program};
use meshbeat::sim::{Handle, Log, Server, SimConfig, hash};
use meshbeat::socket::TcpOptions;
use meshbeat::upstream::HostLink;
use meshbeat_core::link::Item;
use meshbeat_core::peek::FromRadio;
use meshbeat_core::{Event, Instant, LinkConfig};

/// How long anything may take on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at that nobody tells of.
const TICK: Duration = Duration::from_millis(10);

/// What the link told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Something happened.
    Event(Event),
    /// A frame: the hash of its payload, and the nonce if it completes a handshake.
    Frame {
        /// [`meshbeat::sim::hash`] of the payload.
        hash: u64,
        /// The nonce of a `config_complete_id`.
        completes: Option<u32>,
    },
    /// Bytes that belong to no frame.
    Noise(Vec<u8>),
}

/// A link that runs. Dropped, it says goodbye and is waited for.
#[derive(Debug)]
pub struct Recorder {
    told: Vec<Told>,
    news: Receiver<Told>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

struct Teller {
    news: Sender<Told>,
    done: Arc<AtomicBool>,
    next: Instant,
}

impl Program for Teller {
    fn handle_event(&mut self, _now: Instant, event: Event, _link: &HostLink) {
        self.tell(Told::Event(event));
    }

    fn handle_item(&mut self, _now: Instant, item: Item<'_>) {
        self.tell(match item {
            Item::Frame { payload, message, .. } => {
                let completes = match message {
                    FromRadio::ConfigComplete(nonce) => Some(nonce),
                    _ => None,
                };
                Told::Frame { hash: hash(payload), completes }
            }
            Item::Noise(bytes) => Told::Noise(bytes.to_vec()),
        });
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.next = now + TICK;
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(self.next)
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}

impl Teller {
    fn tell(&self, told: Told) {
        // The test may have ended; then nobody listens.
        let _ = self.news.send(told);
    }
}

impl Recorder {
    /// A link to a node at this address, at work.
    pub fn start(node: SocketAddr, config: LinkConfig, options: TcpOptions) -> Self {
        let (sender, news) = mpsc::channel();
        let done = Arc::new(AtomicBool::new(false));
        let mut teller =
            Teller { news: sender, done: Arc::clone(&done), next: Instant::from_millis(0) };
        let thread = thread::spawn(move || {
            let node = (node.ip().to_string(), node.port());
            let seed = u64::from(node.1);
            EventLoop::new(node, config, options, seed).map_err(io::Error::other)?.run(&mut teller)
        });
        Self { told: Vec::new(), news, done, thread: Some(thread) }
    }

    /// All that was told so far.
    pub fn told(&mut self) -> &[Told] {
        self.told.extend(self.news.try_iter());
        &self.told
    }

    /// How much was told so far: a mark for [`Recorder::wait_for`].
    pub fn mark(&mut self) -> usize {
        self.told().len()
    }

    /// Waits for something to be told since `mark`; returns the mark behind it.
    #[track_caller]
    pub fn wait_for(&mut self, mark: usize, what: &str, is: impl Fn(&Told) -> bool) -> usize {
        let deadline = Clock::now() + PATIENCE;
        let mut at = mark;
        loop {
            if let Some(told) = self.told.get(at) {
                at += 1;
                if is(told) {
                    return at;
                }
            } else {
                let left = deadline.saturating_duration_since(Clock::now());
                match self.news.recv_timeout(left) {
                    Ok(told) => self.told.push(told),
                    Err(error) => panic!("no {what}, {error}: {:#?}", self.events(mark)),
                }
            }
        }
    }

    /// Waits for an event since `mark`; returns the mark behind it.
    #[track_caller]
    pub fn wait_for_event(
        &mut self,
        mark: usize,
        what: &str,
        is: impl Fn(&Event) -> bool,
    ) -> usize {
        self.wait_for(mark, what, |told| matches!(told, Told::Event(event) if is(event)))
    }

    /// Waits until the link is configured, again; returns the mark behind it.
    #[track_caller]
    pub fn wait_until_up(&mut self, mark: usize) -> usize {
        self.wait_for_event(mark, "handshake", |event| matches!(event, Event::Configured { .. }))
    }

    /// Looks at a condition again and again until it holds.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&[Told]) -> bool) {
        let deadline = Clock::now() + PATIENCE;
        while !holds(self.told()) {
            assert!(Clock::now() < deadline, "not {what}: {:#?}", self.events(0));
            if let Ok(told) = self.news.recv_timeout(TICK) {
                self.told.push(told);
            }
        }
    }

    /// The events told since `mark`.
    pub fn events(&mut self, mark: usize) -> Vec<Event> {
        let events = self.told()[mark..].iter().filter_map(|told| match told {
            Told::Event(event) => Some(*event),
            _ => None,
        });
        events.collect()
    }

    /// Says goodbye and waits for the end; returns all that was told.
    pub fn stop(mut self) -> Vec<Told> {
        self.end();
        self.told().to_vec()
    }

    fn end(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            match ended {
                None | Some(Ok(Ok(()))) => {}
                Some(other) => panic!("the event loop ended badly: {other:?}"),
            }
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end();
    }
}

/// A simulated node on a free loopback port, in a thread of its own.
#[derive(Debug)]
pub struct Node {
    handle: Handle,
    address: SocketAddr,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Node {
    /// A node that runs.
    pub fn start(config: SimConfig, seed: u64) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::serve(Server::bind(address, config, seed).expect("a free port"))
    }

    /// A server, running.
    pub fn serve(mut server: Server) -> Self {
        let (handle, address) = (server.handle(), server.local_addr());
        Self { handle, address, thread: Some(thread::spawn(move || server.run())) }
    }

    /// Reaches it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its own record up to now.
    pub fn log(&self) -> Log {
        self.handle.log().expect("the node runs")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handle.stop();
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(ended, None | Some(Ok(Ok(())))), "the node ended badly: {ended:?}");
        }
    }
}
