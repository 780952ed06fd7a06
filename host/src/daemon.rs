//! `meshbeat run` as a program on the event loop, and the socket on which it is asked how it is.
//!
//! On its socket a daemon takes one line, answers with one line of JSON and closes the connection:
//!
//! | line | answer |
//! |---|---|
//! | `status` | [`StatusTracker::json`] with `version`, `pid`, `node` and `listen` |
//! | `fate ID` | what became of the packet with this decimal id, as soon as that is certain: `{"id":…,"state":"confirmed"\|"refused"\|"expired"\|"unknown","reason":…}` |
//!
//! Anything that does not begin with a lower-case letter is a session of the relay.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::VecDeque;
use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use log::{debug, warn};
use meshbeat_core::link::{Event, Item};
use meshbeat_core::outbox::PacketState;
use meshbeat_core::{Instant, LinkConfig};
use mio::event::Source;
use mio::{Interest, Registry, Token};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::doors::{ControlId, DoorError, Doors, ListenAddr};
use crate::event_loop::{EventLoop, FIRST_PROGRAM_TOKEN, Program, Report};
use crate::hooks::Hooks;
use crate::lines::Lines;
use crate::node::Target;
use crate::notify::Notify;
use crate::relay::{Relay, RelayConfig};
use crate::report::Reporter;
use crate::status::StatusTracker;
use crate::store::{SaveTimer, Store};
use crate::upstream::HostLink;

/// What a daemon is to do.
#[derive(Debug, Default)]
pub struct DaemonConfig {
    /// The node, as it was written.
    pub node: String,
    /// Where the node is, if that is an address of this machine: its port is left to it.
    pub local_node: Option<SocketAddr>,
    /// Where clients come in.
    pub listen: Vec<ListenAddr>,
    /// The daemon's own socket.
    pub socket: Option<PathBuf>,
    /// Where the node's configuration is kept between runs.
    pub store: Option<Store>,
    /// The bounds of the relay.
    pub relay: RelayConfig,
    /// Run when the link is lost; see [`crate::hooks`].
    pub on_down: Option<String>,
    /// Run when it is back.
    pub on_up: Option<String>,
    /// Where all that is random comes from.
    pub seed: u64,
    /// Kernel buffers of about so many bytes for each client's socket, see [`Doors::set_buffers`].
    pub client_buffers: Option<usize>,
}

/// Holds the link and relays it: the program of `meshbeat run`.
#[derive(Debug)]
pub struct Daemon {
    node: String,
    clock: Clock,
    relay: Relay,
    doors: Doors,
    tracker: StatusTracker,
    notify: Notify,
    hooks: Hooks,
    reporter: Reporter,
    lines: Lines,
    store: Option<Store>,
    save: SaveTimer,
    /// Questions about packets whose fate is not certain yet, the oldest first.
    fates: VecDeque<(ControlId, u32)>,
}

/// Why there is no daemon.
#[derive(Debug)]
pub enum DaemonError {
    /// An address cannot be listened on.
    Door(DoorError),
    /// The system does not play along.
    System(io::Error),
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Door(error) => error.fmt(f),
            Self::System(error) => write!(f, "cannot start the daemon: {error}"),
        }
    }
}

impl core::error::Error for DaemonError {}

impl From<DoorError> for DaemonError {
    fn from(error: DoorError) -> Self {
        Self::Door(error)
    }
}

impl From<io::Error> for DaemonError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Questions about packets at the same time; more cost the oldest its answer.
const FATES: usize = 64;
/// Packets of one client, or user, that may wait in the outbox at the same time.
const QUOTA: u16 = 100;

impl Daemon {
    /// The link's settings for a relay: as usual, with more room for each client.
    pub fn link_config() -> LinkConfig {
        let mut config = LinkConfig::default();
        config.outbox.quota = QUOTA;
        config
    }

    /// Opens the doors, and tells systemd. To be run on this loop, after nothing else was
    /// registered on it.
    ///
    /// # Errors
    /// An address cannot be listened on; the line says which and what would work.
    pub fn new(
        config: DaemonConfig,
        event_loop: &EventLoop,
        mut notify: Notify,
    ) -> Result<Self, DaemonError> {
        let clock = event_loop.clock();
        let now = clock.now();
        let mut doors = Doors::open(
            &config.listen,
            config.local_node,
            event_loop.registry()?,
            FIRST_PROGRAM_TOKEN,
            config.socket,
        )?;
        doors.set_buffers(config.client_buffers);
        let mut relay = Relay::new(config.relay, config.seed, unix_ms_at_origin(now));
        if let Some(store) = &config.store {
            load(store, &mut relay);
        }
        notify.ready(now);
        Ok(Self {
            save: SaveTimer::new(relay.snapshot_version()),
            store: config.store,
            relay,
            doors,
            tracker: StatusTracker::new(now),
            notify,
            hooks: Hooks::new(config.node.clone(), config.on_down, config.on_up),
            reporter: Reporter::new(config.node.clone()),
            lines: Lines::default(),
            node: config.node,
            clock,
            fates: VecDeque::new(),
        })
    }

    /// The addresses that clients can use, with the ports that were picked.
    pub fn local_addrs(&self) -> impl Iterator<Item = String> {
        self.doors.local_addrs().map(|(address, _)| address)
    }

    /// The path of the daemon's own socket, if it has one.
    pub fn socket(&self) -> Option<&Path> {
        self.doors.socket()
    }

    /// All that is known, as `meshbeat status --json` prints it.
    pub fn status(&self, link: &HostLink) -> Value {
        let listen: Vec<_> = self
            .doors
            .local_addrs()
            .map(|(address, policy)| json!({ "address": address, "policy": policy.to_string() }))
            .collect();
        let mut status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "node": self.node,
            "listen": listen,
        });
        if let (Value::Object(status), Value::Object(rest)) =
            (&mut status, self.tracker.json(self.clock.now(), link, &self.relay))
        {
            status.extend(rest);
        }
        status
    }

    fn answer_questions(&mut self, link: &HostLink) {
        while let Some((question, line)) = self.doors.poll_control() {
            match (line.as_str(), line.strip_prefix("fate ").map(str::parse)) {
                ("status", _) => self.doors.answer(question, self.status(link).to_string()),
                (_, Some(Ok(id))) => self.fates.push_back((question, id)),
                _ => {
                    let error = json!({ "error": "write `status` or `fate ID`" });
                    self.doors.answer(question, error.to_string());
                }
            }
        }
        while self.fates.len() > FATES
            && let Some((question, _)) = self.fates.pop_front()
        {
            let error = json!({ "error": "too many questions" });
            self.doors.answer(question, error.to_string());
        }
        let (relay, doors) = (&self.relay, &mut self.doors);
        self.fates.retain(|(question, id)| match fate(*id, relay.fate(*id)) {
            Some(answer) => {
                doors.answer(*question, answer.to_string());
                false
            }
            None => true,
        });
    }

    /// Saves what is known of the node; what cannot be saved now is tried again later.
    fn save(&mut self, now: Instant) {
        let (Some(store), Some(snapshot)) = (&self.store, self.relay.snapshot()) else { return };
        let saved = store.save(snapshot);
        if let Err(error) = &saved {
            warn!(target: "state", "{error}");
        }
        self.save.handle_saved(now, self.relay.snapshot_version(), saved.is_ok());
    }

    fn log(&mut self) {
        while let Some((level, line)) = self.reporter.poll_line() {
            log::log!(target: "link", level, "{}: {line}", self.reporter.node());
        }
    }
}

impl Program for Daemon {
    fn handle_event(&mut self, now: Instant, event: Event, link: &HostLink) {
        self.tracker.handle_event(now, event);
        self.relay.handle_event(now, event);
        self.hooks.handle_event(now, event);
        self.reporter.handle_event(now, event);
        self.log();
        if let Event::Configured { .. } | Event::Lost { .. } = event {
            self.notify.status(&self.tracker.line(link.node()));
        }
    }

    fn handle_item(&mut self, now: Instant, item: Item<'_>) {
        let log_line = &mut |line: &str| debug!(target: "node", "{line}");
        match item {
            Item::Noise(bytes) => self.lines.push(bytes, log_line),
            Item::Frame { payload, message, configured } => {
                self.lines.end(log_line);
                let before = self.relay.counters().packets;
                self.relay.handle_frame(now, payload, message, configured);
                if self.relay.counters().packets != before {
                    self.tracker.handle_packet(now);
                }
            }
        }
    }

    fn handle_report(&mut self, link: &HostLink, reason: Report) {
        if reason == Report::Asked || log::log_enabled!(log::Level::Debug) {
            // Nobody may be reading; the link goes on.
            let _ = writeln!(io::stdout(), "{}", self.status(link));
        }
        if reason == Report::Ending {
            let now = self.clock.now();
            self.answer_questions(link);
            self.doors.flush(now, &mut self.relay);
            self.doors.close(now, &mut self.relay);
            if self.save.is_behind(self.relay.snapshot_version()) {
                self.save(now);
            }
        }
    }

    fn handle_ready(&mut self, _now: Instant, token: Token, readable: bool, writable: bool) {
        self.doors.handle_ready(token, readable, writable);
    }

    fn handle_stopping(&mut self, _now: Instant) {
        self.notify.stopping();
        self.doors.stop_listening();
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.doors.handle_timeout(now, &mut self.relay);
        self.relay.handle_timeout(now);
        self.notify.handle_timeout(now);
        self.hooks.handle_timeout(now);
        self.reporter.handle_timeout(now);
        self.log();
        if self.save.is_due(now) {
            self.save(now);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [
            self.doors.poll_timeout(),
            self.relay.poll_timeout(),
            self.notify.poll_timeout(),
            self.hooks.poll_timeout(),
            self.reporter.poll_timeout(),
            self.save.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn handle_turn(&mut self, now: Instant, link: &mut HostLink) {
        self.doors.turn(now, &mut self.relay);
        self.relay.handle_turn(now, link);
        self.tracker.handle_turn(link);
        self.answer_questions(link);
        self.doors.flush(now, &mut self.relay);
        if self.store.is_some() && self.relay.snapshot().is_some() {
            self.save.handle_version(now, self.relay.snapshot_version());
        }
    }

    fn is_busy(&self) -> bool {
        self.doors.is_busy()
    }
}

/// Gives the relay what was saved; a file that cannot be read is no reason not to start.
fn load(store: &Store, relay: &mut Relay) {
    match store.load() {
        Ok(Some(snapshot)) => relay.restore(snapshot),
        Ok(None) => {}
        Err(error) => warn!(target: "state", "{error}"),
    }
}

/// The answer to `fate ID`, once there is one.
fn fate(id: u32, state: Option<PacketState>) -> Option<Value> {
    let (state, reason) = match state {
        Some(PacketState::Queued | PacketState::Sent) => return None,
        Some(PacketState::Confirmed) => ("confirmed", None),
        Some(PacketState::Refused(res)) => ("refused", Some(res)),
        Some(PacketState::Expired) => ("expired", None),
        // None of the last packets.
        Some(PacketState::Unknown) | None => ("unknown", None),
    };
    Some(json!({ "id": id, "state": state, "reason": reason }))
}

/// What an answer to `fate ID` says; `None` if it is none.
pub fn parse_fate(answer: &str) -> Option<PacketState> {
    let answer: Value = serde_json::from_str(answer).ok()?;
    Some(match answer["state"].as_str()? {
        "confirmed" => PacketState::Confirmed,
        "refused" => PacketState::Refused(i32::try_from(answer["reason"].as_i64()?).ok()?),
        "expired" => PacketState::Expired,
        "unknown" => PacketState::Unknown,
        _ => return None,
    })
}

/// Where daemons have their sockets, the likeliest first: in `$RUNTIME_DIRECTORY` (of a systemd
/// service), in `$XDG_RUNTIME_DIR` (of a user), in `/run/meshbeat`.
pub fn socket_paths() -> Vec<PathBuf> {
    let service = env::var("RUNTIME_DIRECTORY").ok();
    // systemd separates several with colons.
    let service = service.and_then(|folders| folders.split(':').next().map(PathBuf::from));
    let user = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let folders = [service, user, Some("/run/meshbeat".into())];
    folders
        .into_iter()
        .flatten()
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("meshbeat.sock"))
        .collect()
}

/// Where a daemon makes its socket unless it is told: the first of [`socket_paths`] whose folder
/// can be written to.
pub fn default_socket() -> Option<PathBuf> {
    socket_paths().into_iter().find(|path| path.parent().is_some_and(is_writable))
}

/// Whether a file can be made there; the permissions alone do not tell.
fn is_writable(folder: &Path) -> bool {
    let file = folder.join(format!(".meshbeat-{}", std::process::id()));
    let made = fs::File::options().write(true).create_new(true).open(&file);
    made.is_ok() && fs::remove_file(&file).is_ok()
}

/// The daemon that answers on the first of [`socket_paths`] that has one: its socket and status.
pub fn find() -> Option<(PathBuf, Value)> {
    socket_paths().into_iter().find_map(|path| {
        let answer = ask(&path, "status", Duration::from_secs(2)).ok()?;
        Some((path, serde_json::from_str(&answer).ok()?))
    })
}

/// Asks the daemon whose socket is at `path` one line and waits for its answer, a line too, which
/// may take `limit` to come.
///
/// # Errors
/// Nobody listens there (`NotFound`, `ConnectionRefused`), or the answer does not come.
pub fn ask(path: &Path, line: &str, limit: Duration) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream.take(LONGEST_ANSWER)).read_line(&mut answer)?;
    whole(answer)
}

/// Longer than a status with all the clients there can be.
const LONGEST_ANSWER: u64 = 4 << 20;

/// An answer without its end of line; without that it is none.
fn whole(mut answer: String) -> io::Result<String> {
    match answer.pop() {
        Some('\n') => Ok(answer),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The same on an event loop: a line asked of a daemon, and as much of the answer as has come.
#[derive(Debug)]
pub struct Question {
    stream: mio::net::UnixStream,
    /// What is still to be written.
    line: Vec<u8>,
    answer: Vec<u8>,
}

impl Question {
    /// Asks; [`Question::poll`] is to be called whenever the token is ready.
    ///
    /// # Errors
    /// Nobody listens there, or the system does not play along.
    pub fn new(path: &Path, line: &str, registry: &Registry, token: Token) -> io::Result<Self> {
        let mut stream = mio::net::UnixStream::connect(path)?;
        stream.register(registry, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream, line: format!("{line}\n").into(), answer: Vec::new() })
    }

    /// The answer, once it is there.
    ///
    /// # Errors
    /// The daemon has ended without one.
    pub fn poll(&mut self) -> io::Result<Option<String>> {
        while !self.line.is_empty() {
            match self.stream.write(&self.line) {
                Ok(count) => drop(self.line.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut buf = [0; 1024];
        loop {
            match self.stream.read(&mut buf) {
                Ok(0) => {
                    let answer = core::mem::take(&mut self.answer);
                    return whole(String::from_utf8_lossy(&answer).into()).map(Some);
                }
                Ok(_) if self.answer.len() as u64 > LONGEST_ANSWER => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Ok(count) => self.answer.extend_from_slice(buf.get(..count).unwrap_or(&[])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The address of a node that is on this machine, as far as its name tells.
pub fn local_node(target: &Target) -> Option<SocketAddr> {
    let Target::Tcp { host, port } = target else { return None };
    let ip = match host.parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) if host.eq_ignore_ascii_case("localhost") => Ipv4Addr::LOCALHOST.into(),
        Err(_) => return None,
    };
    ip.to_canonical().is_loopback().then(|| SocketAddr::new(ip, *port))
}

/// Milliseconds since 1970 when the loop's clock was at its origin.
fn unix_ms_at_origin(now: Instant) -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    unix_ms.saturating_sub(now.as_millis())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn the_fate_of_a_packet_goes_over_the_socket_and_back() {
        use PacketState::{Confirmed, Expired, Queued, Refused, Sent, Unknown};
        for state in [Confirmed, Refused(32), Refused(-1), Expired, Unknown] {
            let answer = fate(7, Some(state)).expect("it is final");
            assert_eq!((&answer["id"], parse_fate(&answer.to_string())), (&json!(7), Some(state)));
        }
        assert_eq!((fate(7, Some(Queued)), fate(7, Some(Sent))), (None, None));
        assert_eq!(fate(7, None).map(|answer| answer["state"] == "unknown"), Some(true));
        for answer in ["", "{}", r#"{"state":"lost"}"#, r#"{"state":"refused"}"#] {
            assert_eq!(parse_fate(answer), None, "{answer}");
        }
    }

    /// A daemon that takes one line and answers so.
    fn answering(name: &str, answer: &'static str) -> (PathBuf, thread::JoinHandle<String>) {
        let path = env::temp_dir().join(format!("meshbeat-{name}-{}", std::process::id()));
        let listener = UnixListener::bind(&path).expect("a temporary file");
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("somebody comes");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).expect("UTF-8");
            (&stream).write_all(answer.as_bytes()).expect("it waits for that");
            line
        });
        (path, thread)
    }

    #[test]
    fn a_question_and_its_answer() {
        let minute = Duration::from_secs(60);
        let (path, daemon) = answering("whole", "{\"up\":true}\n");
        assert_eq!(ask(&path, "status", minute).expect("an answer"), "{\"up\":true}");
        assert_eq!(daemon.join().expect("no panic"), "status\n");
        let refused = ask(&path, "status", minute).expect_err("it has ended");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        fs::remove_file(&path).expect("it is ours");
        let none = ask(&path, "status", minute).expect_err("it is gone");
        assert_eq!(none.kind(), io::ErrorKind::NotFound);

        let (path, daemon) = answering("cut", "{\"up\":tr");
        let cut = ask(&path, "status", minute).expect_err("half an answer is none");
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
        daemon.join().expect("no panic");
        fs::remove_file(&path).expect("it is ours");
    }

    #[test]
    fn a_question_on_an_event_loop() {
        let (path, daemon) = answering("loop", "{\"id\":7}\n");
        let mut poll = mio::Poll::new().expect("the system has one");
        let mut question =
            Question::new(&path, "fate 7", poll.registry(), Token(3)).expect("there");
        let mut events = mio::Events::with_capacity(8);
        let answer = loop {
            if let Some(answer) = question.poll().expect("it answers") {
                break answer;
            }
            poll.poll(&mut events, Some(Duration::from_secs(60))).expect("it works");
            assert!(!events.is_empty(), "no answer");
        };
        assert_eq!(
            (answer.as_str(), daemon.join().expect("no panic").as_str()),
            ("{\"id\":7}", "fate 7\n")
        );
        fs::remove_file(&path).expect("it is ours");
    }

    #[test]
    fn a_node_on_this_machine_is_known_by_its_name() {
        let local = |host: &str| local_node(&(host.to_owned(), 4403).into()).map(|a| a.to_string());
        assert_eq!(local("localhost").as_deref(), Some("127.0.0.1:4403"));
        assert_eq!(local("127.0.0.1").as_deref(), Some("127.0.0.1:4403"));
        assert_eq!(local("::1").as_deref(), Some("[::1]:4403"));
        assert_eq!((local("10.0.0.5"), local("node.local")), (None, None));
        assert_eq!(local_node(&Target::Unix("/x".into())), None);
    }
}
