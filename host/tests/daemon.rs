//! `meshbeat run` as its users meet it: the real binary relays a simulated node, and the other
//! commands find it. What must have happened before a step is waited for by the line that says so.

mod common;

use core::net::SocketAddr;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Instant;

use common::{Ended, Sim};
use meshbeat::sim::{Fault, Record};
use serde_json::{Value, json};

impl Sim {
    fn inject(&self, fault: Fault) {
        self.handle.inject(fault).expect("it runs");
    }

    fn connects(&self) -> u64 {
        self.handle.log().expect("it runs").totals().connects
    }

    /// Texts that the node has read.
    fn texts(&self) -> usize {
        let is_text = |record: &Record| matches!(record, Record::Read { port: Some(1), .. });
        self.handle.call(move |node, _| node.log().count(is_text)).expect("it runs")
    }
}

/// A temporary folder for sockets and state, removed at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("meshbeat-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a temporary folder");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        common::binary(&self.0, args)
    }

    /// Runs a command to its end.
    fn run(&self, args: &[&str]) -> Ended {
        self.command(args).output().expect("it starts").into()
    }

    fn status(&self) -> Value {
        let ended = self.run(&["status", "--json"]);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
        serde_json::from_str(&ended.out).expect("one object")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running `meshbeat run`. It does not outlive the test.
struct Daemon {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
    /// Where it listens.
    address: SocketAddr,
}

impl Daemon {
    /// For this node, with a free port; what it leaves is in `folder`.
    fn new(folder: &Folder, node: &str, args: &[&str]) -> Self {
        let run = ["run", "--node", node, "--listen", "127.0.0.1:0"];
        Self::start(folder.command(&[&run, args].concat()))
    }

    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let err = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("UTF-8");
        let address = line.trim_end().strip_prefix("listening on ").expect("where it listens");
        let address = address.parse().expect("an address");
        Self { child, out, err, address }
    }

    /// For this node, which is up.
    fn up(folder: &Folder, sim: &Sim, args: &[&str]) -> Self {
        let mut daemon = Self::new(folder, &sim.address.to_string(), args);
        daemon.wait_for("up: node ");
        daemon
    }

    /// Waits for a line of the log with `part` in it.
    fn wait_for(&mut self, part: &str) {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            assert!(self.err.read_line(&mut line).expect("UTF-8") > 0, "ended before {part:?}");
        }
    }

    /// Ends it by SIGTERM.
    fn end(mut self) -> Ended {
        let kill = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        assert!(kill.expect("kill is there").success());
        let (mut out, mut err) = (String::new(), String::new());
        self.out.read_to_string(&mut out).expect("UTF-8");
        self.err.read_to_string(&mut err).expect("UTF-8");
        Ended { code: self.child.wait().expect("our child").code(), out, err }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended, or the test is over.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

/// Any address where nobody listens.
fn nowhere() -> String {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    closed.expect("loopback").to_string()
}

#[test]
fn a_daemon_says_how_it_is() {
    let (folder, sim) = (Folder::new(), Sim::new(|_| {}));
    let daemon = Daemon::up(&folder, &sim, &[]);
    let mut client = TcpStream::connect(daemon.address).expect("it listens");
    client.write_all(b"\x94\xC3\x00\x02\x18\x07").expect("it reads");
    client.read_exact(&mut [0; 4]).expect("the configuration");

    let status = folder.status();
    assert_eq!(status["node"], sim.address.to_string());
    assert_eq!((&status["link"]["up"], &status["link"]["state"]), (&json!(true), &json!("up")));
    let address = daemon.address.to_string();
    assert_eq!(status["listen"], json!([{ "address": address, "policy": "full" }]));
    let seen = &status["clients"][0];
    assert_eq!(seen["address"], client.local_addr().expect("connected").to_string());
    assert_eq!((&seen["policy"], &seen["received"]), (&json!("full"), &json!(1)));

    let ended = folder.run(&["status"]);
    assert!(ended.out.starts_with(&format!("node       {}, !", sim.address)), "{ended:?}");
    assert!(ended.out.contains("\nlink       up for "), "{ended:?}");
    let socket = folder.path("meshbeat.sock");
    let by_path = folder.run(&["status", "--json", "--socket", &socket]);
    assert_eq!(by_path.code, Some(0), "{by_path:?}");

    daemon.end();
    assert!(!Path::new(&socket).exists(), "it goes with the daemon");
    folder.run(&["status"]).failed(1, "is `meshbeat run` running? --socket names another");
}

#[test]
fn other_commands_go_through_the_daemon() {
    let (folder, sim) = (Folder::new(), Sim::new(|_| {}));
    let mut daemon = Daemon::up(&folder, &sim, &[]);
    folder.run(&["send", "hi"]).is(0, "confirmed\n", "");
    assert_eq!(sim.texts(), 1);
    folder.run(&["send", "--ack", "hi"]).is(0, "relayed\n", "");
    let nodes = folder.run(&["nodes"]);
    assert_eq!((nodes.code, nodes.out.lines().count()), (Some(0), 14), "{nodes:?}");
    assert_eq!(folder.run(&["info"]).code, Some(0));

    let node = sim.address.to_string();
    let named = folder.run(&["-v", "send", "--node", &node, "hi"]);
    assert_eq!((named.code, named.out.as_str()), (Some(0), "confirmed\n"), "{named:?}");
    assert!(named.err.contains(&format!("{node} is held by a daemon")), "{named:?}");
    assert_eq!(sim.connects(), 1, "the daemon's");

    folder.run(&["info", "--direct", "--node", &node]);
    daemon.wait_for("lost after ");
    // Another node than the daemon's is asked itself.
    folder.run(&["info", "--node", &nowhere(), "--timeout", "1"]).failed(3, "not reachable");
}

#[test]
fn what_the_mesh_says_is_heard_through_the_daemon() {
    let (folder, sim) = (Folder::new(), Sim::new(|_| {}));
    let _daemon = Daemon::up(&folder, &sim, &[]);
    let mut listen = folder.command(&["listen", "--count", "1"]);
    listen.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut listen = listen.spawn().expect("it starts");
    let mut line = String::new();
    let mut err = BufReader::new(listen.stderr.take().expect("piped"));
    err.read_line(&mut line).expect("UTF-8");
    assert!(line.contains("through the daemon: up"), "{line}");
    folder.run(&["send", "hear me"]).is(0, "confirmed\n", "");
    let ended = Ended::from(listen.wait_with_output().expect("our child"));
    assert!(ended.code == Some(0) && ended.out.contains("hear me"), "{ended:?}");
}

/// The relay takes every packet; what the node made of it is what counts.
#[test]
fn confirmed_through_the_daemon_means_the_nodes_queue() {
    let (folder, sim) = (Folder::new(), Sim::new(|_| {}));
    let mut daemon = Daemon::up(&folder, &sim, &[]);
    sim.inject(Fault::RefuseN(vec![7]));
    folder.run(&["send", "hi"]).is(1, "", "meshbeat: refused: TOO_LARGE\n");

    let texts = sim.texts();
    sim.inject(Fault::Refuse { span: Duration::from_secs(3600) });
    daemon.wait_for("lost after ");
    let ended = folder.run(&["send", "--timeout", "1", "later"]);
    ended.failed(3, "the daemon keeps the text and sends it when the node is back");
    assert_eq!((sim.texts(), &folder.status()["outbox"]), (texts, &json!(1)));
    sim.handle.recover().expect("it runs");
    daemon.wait_for("up again after ");
    let start = Instant::now();
    while sim.texts() == texts {
        assert!(start.elapsed() < Duration::from_secs(60), "it was not sent");
        thread::yield_now();
    }
}

#[test]
fn an_address_that_is_taken_is_named_with_one_that_is_free() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = taken.local_addr().expect("bound").to_string();
    let ended = folder.run(&["run", "--node", &nowhere(), "--listen", &address]);
    ended.failed(1, &format!("{address} is in use"));
    assert!(ended.err.contains("--listen 127.0.0.1:"), "{ended:?}");
}

#[test]
fn what_is_known_of_the_node_outlives_the_daemon() {
    let (folder, sim) = (Folder::new(), Sim::new(|_| {}));
    let (state, node) = (folder.path("state"), sim.address.to_string());
    let ended = Daemon::up(&folder, &sim, &["--state", &state]).end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(mode(Path::new(&state)), 0o700);
    let files: Vec<_> = fs::read_dir(&state).expect("it is ours").flatten().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(mode(&files[0].path()), 0o600);

    drop(sim);
    let daemon = Daemon::new(&folder, &node, &["--state", &state]);
    let info = folder.run(&["info"]);
    assert_eq!(info.code, Some(0), "although the node is gone: {info:?}");
    assert!(info.out.contains("knows     12 other nodes"), "{info:?}");
    drop(daemon);

    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).expect("it is ours");
    folder.run(&["run", "--node", &node, "--state", &state]).failed(1, "chmod 700");
}

#[test]
fn the_operators_commands_run_when_the_link_goes_and_comes_back() {
    let (folder, sim) = (Folder::new(), Sim::new(|_| {}));
    let say = "echo hook: $MESHBEAT_EVENT $MESHBEAT_NODE, $MESHBEAT_REASON. >&2";
    let mut daemon = Daemon::up(&folder, &sim, &["--on-down", say, "--on-up", say]);
    sim.inject(Fault::Rst);
    let node = sim.address;
    daemon.wait_for(&format!("hook: down {node}, connection reset (104 ECONNRESET)."));
    daemon.wait_for(&format!("hook: up {node}, connection reset (104 ECONNRESET)."));
}

#[test]
fn systemd_is_told() {
    let (folder, sim) = (Folder::new(), Sim::new(|_| {}));
    let path = folder.path("notify");
    let service = UnixDatagram::bind(&path).expect("a temporary file");
    service.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    let node = sim.address.to_string();
    let mut command =
        folder.command(&["run", "--node", &node, "--listen", "127.0.0.1:0", "--state", "none"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let daemon = Daemon::start(command);
    let told = || {
        let mut buf = [0; 256];
        let len = service.recv(&mut buf).expect("a minute is enough");
        String::from_utf8_lossy(&buf[..len]).into_owned()
    };
    assert_eq!(told(), "READY=1");
    let mut seen = [false; 2];
    while seen != [true; 2] {
        let line = told();
        seen[0] |= line == "WATCHDOG=1";
        seen[1] |= line.starts_with("STATUS=up: node !");
    }
    assert_eq!(daemon.end().code, Some(0));
    while told() != "STOPPING=1" {}
}
