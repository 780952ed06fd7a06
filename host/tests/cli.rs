//! The real binary against a simulated node on a loopback port: what it prints, and how it ends.
//! Where something must happen in the middle of a command, the test waits for the line that says so.

mod common;

use core::time::Duration;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Instant;

use common::{Ended, Sim};
use meshbeat::sim::{Chance, Fault, Log, Record};
use meshbeat_proto::{Data, MeshPacket, PortNum, Routing, mesh_packet, routing};
use prost::Message as _;
use serde_json::{Value, json};

const BROADCAST: u32 = u32::MAX;

impl Sim {
    fn healthy() -> Self {
        Self::new(|_| {})
    }

    fn number(&self) -> u32 {
        self.handle.call(|node, _| node.node_num()).expect("it runs")
    }

    /// The first of the nodes it knows.
    fn neighbour(&self) -> u32 {
        self.handle.call(|node, _| node.neighbours().next()).expect("it runs").expect("twelve")
    }

    fn hear(&self, packet: MeshPacket) {
        self.handle.call(move |node, now| node.hear(now, packet)).expect("it runs");
    }

    /// Waits until so many handshakes were completed, at most a minute.
    fn wait_for_handshakes(&self, least: usize) {
        let start = Instant::now();
        let completed = |record: &Record| matches!(record, Record::Configured { .. });
        while self.handle.call(move |node, _| node.log().count(completed)).expect("it runs") < least
        {
            assert!(start.elapsed() < Duration::from_secs(60), "no handshake");
            thread::yield_now();
        }
    }

    fn log(&self) -> Log {
        self.handle.log().expect("it runs")
    }

    /// Runs a command against this node to its end.
    fn run(&self, command: &str, args: &[&str]) -> Ended {
        let node = self.address.to_string();
        run(&[&[command, "--node", &node], args].concat())
    }

    /// Starts a command against this node.
    fn start(&self, command: &str, args: &[&str]) -> Running {
        let node = self.address.to_string();
        Running::new(&[&[command, "--node", &node], args].concat())
    }
}

/// Without a daemon, and without a place for one.
fn binary(args: &[&str]) -> Command {
    common::binary(Path::new("/nonexistent"), args)
}

fn run(args: &[&str]) -> Ended {
    binary(args).output().expect("it starts").into()
}

/// A command that is under way. It does not outlive the test.
struct Running {
    child: Child,
    out: Option<BufReader<ChildStdout>>,
    err: BufReader<std::process::ChildStderr>,
}

impl Running {
    fn new(args: &[&str]) -> Self {
        Self::start(binary(args))
    }

    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let out = child.stdout.take().map(BufReader::new);
        let err = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, out, err }
    }

    /// Waits for the next line on standard output.
    fn line(&mut self) -> String {
        let mut line = String::new();
        let out = self.out.as_mut().expect("not closed");
        assert!(out.read_line(&mut line).expect("UTF-8") > 0, "it ended too soon");
        line
    }

    /// Waits for a line of the log with `part` in it.
    fn wait_for(&mut self, part: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.err.read_line(&mut line).expect("UTF-8") > 0, "ended before {part:?}");
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Waits for the end; what was read before is not in it.
    fn end(mut self) -> Ended {
        let (mut out, mut err) = (String::new(), String::new());
        if let Some(rest) = &mut self.out {
            rest.read_to_string(&mut out).expect("UTF-8");
        }
        self.err.read_to_string(&mut err).expect("UTF-8");
        Ended { code: self.child.wait().expect("our child").code(), out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, or the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn packet(from: u32, to: u32, data: Data) -> MeshPacket {
    MeshPacket {
        from,
        to,
        id: data.request_id.wrapping_add(1000),
        rx_time: 1_763_000_100,
        payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
        ..MeshPacket::default()
    }
}

fn text(from: u32, id: u32, text: &str) -> MeshPacket {
    let portnum = PortNum::TextMessageApp as i32;
    let data = Data { portnum, payload: text.into(), ..Data::default() };
    MeshPacket { id, ..packet(from, BROADCAST, data) }
}

fn routing_reply(from: u32, to: u32, request_id: u32, error: routing::Error) -> MeshPacket {
    let routing = Routing { variant: Some(routing::Variant::ErrorReason(error as i32)) };
    let (portnum, payload) = (PortNum::RoutingApp as i32, routing.encode_to_vec());
    packet(from, to, Data { portnum, payload, request_id, ..Data::default() })
}

fn node_id(number: u32) -> String {
    format!("!{number:08x}")
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("one object per line")).collect()
}

/// Ids of the packets that the node read, and their destinations.
fn read_packets(log: &Log) -> Vec<(u32, u32)> {
    let read = |record: &Record| match record {
        Record::Read { id, to, port: Some(1), .. } => Some((*id, *to)),
        _ => None,
    };
    log.entries().filter_map(|entry| read(&entry.what)).collect()
}

#[test]
fn a_text_to_all_is_confirmed() {
    let sim = Sim::healthy();
    sim.run("send", &["Grüße ✓"]).is(0, "confirmed\n", "");
    let packets = read_packets(&sim.log());
    assert!(matches!(packets[..], [(id, BROADCAST)] if id != 0), "{packets:?}");
    assert_eq!(sim.log().count(|record| matches!(record, Record::Taken(_))), 1);
}

#[test]
fn a_text_to_one_is_delivered() {
    let sim = Sim::healthy();
    let to = sim.neighbour();
    for dest in [node_id(to), to.to_string()] {
        let ended = sim.run("send", &["--ack", "--to", &dest, "--channel", "1", "hi"]);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
        assert!(ended.out.starts_with("delivered after ") && ended.out.ends_with("s\n"));
    }
    assert!(read_packets(&sim.log()).iter().all(|(_, dest)| *dest == to));
}

#[test]
fn a_broadcast_can_be_relayed_at_best() {
    Sim::healthy().run("send", &["--ack", "hi"]).is(0, "relayed\n", "");
}

#[test]
fn relayed_is_no_delivery() {
    let long = Duration::from_secs(600);
    let sim = Sim::new(|config| {
        config.radio.answered = Chance::NEVER;
        config.radio.give_up = long..=long;
    });
    let (own, to) = (sim.number(), sim.neighbour());
    let mut send = sim.start("send", &["-v", "--ack", "--to", &node_id(to), "hi"]);
    send.wait_for(": Confirmed");
    let [(id, _)] = read_packets(&sim.log())[..] else { panic!("one packet") };
    sim.hear(routing_reply(own, own, id, routing::Error::None));
    sim.hear(routing_reply(to, own, id.wrapping_add(1), routing::Error::None));
    sim.hear(routing_reply(own, own, id, routing::Error::MaxRetransmit));
    let ended = send.end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(4), "relayed\n"), "{ended:?}");
    assert!(ended.err.ends_with("meshbeat: not acknowledged: MAX_RETRANSMIT\n"), "{ended:?}");
}

#[test]
fn without_any_answer_the_wait_ends() {
    let long = Duration::from_secs(600);
    let sim = Sim::new(|config| {
        config.radio.answered = Chance::NEVER;
        config.radio.give_up = long..=long;
    });
    let to = node_id(sim.neighbour());
    let ended = sim.run("send", &["--ack", "--timeout", "4", "--to", &to, "hi"]);
    ended.is(4, "confirmed\n", "meshbeat: not acknowledged: timed out after 4.0 s\n");
}

#[test]
fn a_refusal_has_its_official_name() {
    let sim = Sim::healthy();
    for (res, name) in [
        (6, "NO_CHANNEL"),
        (7, "TOO_LARGE"),
        (34, "radio disabled"),
        (35, "PKI_UNKNOWN_PUBKEY"),
        (36, "ADMIN_BAD_SESSION_KEY"),
    ] {
        sim.handle.inject(Fault::RefuseN(vec![res])).expect("it runs");
        sim.run("send", &["hi"]).is(1, "", &format!("meshbeat: refused: {name}\n"));
    }
    // With a known key there is less room.
    let longest = "x".repeat(232);
    sim.run("send", &[&longest]).is(0, "confirmed\n", "");
    let to = node_id(sim.neighbour());
    sim.run("send", &["--to", &to, &longest]).is(1, "", "meshbeat: refused: TOO_LARGE\n");
}

/// These are tried again under a fresh id, later than the command may wait here.
#[test]
fn a_refusal_for_now_is_told_when_the_time_is_over() {
    let check = |res, name| {
        let sim = Sim::healthy();
        sim.handle.inject(Fault::RefuseN(vec![res])).expect("it runs");
        let ended = sim.run("send", &["--ack", "--timeout", "4", "hi"]);
        ended.is(1, "", &format!("meshbeat: refused: {name}\n"));
    };
    thread::scope(|scope| {
        scope.spawn(|| check(33, "no radio"));
        scope.spawn(|| check(9, "DUTY_CYCLE_LIMIT"));
    });
}

#[test]
fn what_was_written_and_never_confirmed_is_said_plainly() {
    let sim = Sim::healthy();
    // Another transport takes every status, and the answers to heartbeats too.
    sim.handle.inject(Fault::Shared { chance: Chance::ALWAYS }).expect("it runs");
    let ended = sim.run("send", &["--timeout", "4", "hi"]);
    ended.is(1, "", "meshbeat: written, never confirmed\n");
}

#[test]
fn a_send_outlives_a_reset_under_the_same_id() {
    let sim = Sim::healthy();
    // Another transport takes every status, so the packet is not confirmed.
    sim.handle.inject(Fault::Shared { chance: Chance::ALWAYS }).expect("it runs");
    let mut send = sim.start("send", &["-v", "hi"]);
    send.wait_for(": Sent");
    sim.handle.inject(Fault::Rst).expect("it runs");
    sim.handle.recover().expect("it runs");
    let ended = send.end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "confirmed\n"), "{ended:?}");
    let log = sim.log();
    assert_eq!(log.totals().connects, 2);
    let packets = read_packets(&log);
    assert!(!packets.is_empty() && packets.iter().all(|packet| *packet == packets[0]));
}

#[test]
fn a_node_that_is_not_there_is_unreachable() {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let address = closed.expect("loopback").to_string();
    for command in ["send", "nodes", "info"] {
        let text = if command == "send" { &["hi"][..] } else { &[] };
        let ended = run(&[&[command, "--node", &address, "--timeout", "1"], text].concat());
        ended.failed(3, &format!("{address} not reachable within 1.0 s"));
    }
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = silent.local_addr().expect("bound").to_string();
    let ended = run(&["send", "--node", &address, "--timeout", "1", "hi"]);
    ended.failed(3, &format!("{address} not reachable within 1.0 s: no answer"));
    run(&["send", "--node", "no.such.host.invalid", "hi"]).failed(3, "no.such.host.invalid");
}

#[test]
fn wrong_values_are_named() {
    let long = "é".repeat(120);
    for (args, part) in [
        (&["send", &long][..], "the text has 240 bytes, the limit is 232"),
        (&["send", ""], "the text is empty"),
        (&["send", "--to", "bob", "hi"], "'bob'"),
        (&["send", "--to", "!123", "hi"], "write !89abcdef"),
        (&["send", "--timeout", "0", "hi"], "'0'"),
        (&["send", "--channel", "x", "hi"], "'x'"),
        (&["send", "--node", "a b", "hi"], "'a b'"),
        (&["listen", "--count", "0"], "'0'"),
        (&["nodes", "--timeout", "x"], "'x'"),
        (&["info", "--node", "host:0"], "'host:0'"),
    ] {
        run(args).failed(2, part);
    }
    for args in [&["send"][..], &["send", "hi", "there"], &["listen", "--frobnicate"], &["bogus"]] {
        let ended = run(args);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{ended:?}");
    }
    run(&["decode", "/no/such/file"]).failed(1, "/no/such/file");
}

#[test]
fn what_the_node_does_not_know_is_named() {
    let sim = Sim::healthy();
    let ended = sim.run("send", &["--to", "!0badcafe", "hi"]);
    ended.failed(1, "!0badcafe is not known to the node; `meshbeat nodes` lists");
    let ended = sim.run("send", &["--channel", "5", "hi"]);
    ended.failed(1, "channel 5 is not in use; there are 0 (default), 1 (harbour)");
    assert!(read_packets(&sim.log()).is_empty());
}

#[test]
fn listening_goes_on_over_a_reset_and_leaves_replays_out() {
    let sim = Sim::healthy();
    let from = sim.neighbour();
    sim.hear(MeshPacket { rx_snr: 3.7, rx_rssi: -90, ..text(from, 7, "one\n") });
    let mut listen = sim.start("listen", &["--json", "--count", "3"]);
    let expected = json!({
        "from": node_id(from), "to": "!ffffffff", "id": 7, "channel": 0,
        "port": "TEXT_MESSAGE_APP", "rx_time": 1_763_000_100, "snr": 3.7, "rssi": -90,
        "hops": null, "want_ack": false, "request_id": null, "text": "one\n",
    });
    assert_eq!(json_lines(&listen.line()), [expected]);
    sim.handle.inject(Fault::Rst).expect("it runs");
    // Heard while nobody listens; one of them not for the first time.
    sim.hear(text(from, 7, "one\n"));
    sim.hear(text(from, 8, "two"));
    let own = sim.number();
    sim.hear(routing_reply(own, own, 5, routing::Error::MaxRetransmit));
    let second = json_lines(&listen.line());
    assert_eq!((&second[0]["id"], &second[0]["text"]), (&json!(8), &json!("two")));
    let third = json_lines(&listen.line());
    assert_eq!(third[0]["routing_error"], "MAX_RETRANSMIT");
    assert_eq!(third[0]["request_id"], 5);
    let ended = listen.end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{ended:?}");
    let news: Vec<_> = ended.err.lines().filter(|line| line.contains(" link: ")).collect();
    assert_eq!(news.len(), 3, "up, lost, up again: {news:#?}");
    assert!(sim.log().totals().delivered > 4, "the node did repeat old packets");
}

#[test]
fn listening_in_plain_words() {
    let sim = Sim::healthy();
    let from = sim.neighbour();
    sim.hear(text(from, 7, "a\x1b[2Jb"));
    let ended = sim.run("listen", &["--count", "1"]);
    assert_eq!(ended.code, Some(0));
    let nodes = json_lines(&sim.run("nodes", &["--json"]).out);
    let id = node_id(from);
    let name = nodes.iter().find(|node| node["node"] == id.as_str()).expect("listed");
    let name = name["long_name"].as_str().expect("named");
    let expected = format!(" {name} {id} [0 default]: a\u{FFFD}[2Jb\n");
    assert!(ended.out.ends_with(&expected), "{:?} ends with {expected:?}", ended.out);
}

#[test]
fn a_reader_that_has_seen_enough_ends_listening() {
    let sim = Sim::healthy();
    let from = sim.neighbour();
    sim.hear(text(from, 1, "one"));
    let mut listen = sim.start("listen", &[]);
    assert!(listen.line().ends_with(": one\n"));
    listen.out = None;
    sim.hear(text(from, 2, "two"));
    let ended = listen.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.err.contains("meshbeat: "), "{ended:?}");
}

#[test]
fn the_nodes_are_listed_itself_first_then_by_time() {
    let sim = Sim::healthy();
    let nodes = json_lines(&sim.run("nodes", &["--json"]).out);
    assert_eq!(nodes.len(), 13);
    assert_eq!((&nodes[0]["num"], &nodes[0]["own"]), (&json!(sim.number()), &json!(true)));
    let heard: Vec<_> = nodes[1..].iter().map(|node| node["last_heard"].as_u64()).collect();
    assert!(heard.is_sorted_by(|a, b| a >= b) && heard.iter().all(Option::is_some), "{heard:?}");
    assert!(nodes.iter().any(|node| node["battery"].is_u64()), "told after the handshake");
    let table = sim.run("nodes", &[]);
    assert_eq!((table.code, table.err.as_str()), (Some(0), ""));
    let lines: Vec<_> = table.out.lines().collect();
    assert_eq!(lines.len(), 14);
    assert!(lines[0].starts_with("name ") && lines[1].contains("this node"), "{lines:#?}");
    assert!(lines[1].contains(&node_id(sim.number())));
}

#[test]
fn the_node_is_described_without_its_secrets() {
    let sim = Sim::healthy();
    let ended = sim.run("info", &["--json"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    let info = &json_lines(&ended.out)[0];
    assert_eq!(info["num"], sim.number());
    assert_eq!(
        (&info["other_nodes"], &info["channels"][1]["name"]),
        (&json!(12), &json!("harbour"))
    );
    assert!(!ended.out.contains("made-up"), "the WiFi password");
}

#[test]
fn the_node_comes_from_the_environment_too() {
    let sim = Sim::healthy();
    let mut send = binary(&["send", "hi"]);
    send.env("MESHBEAT_NODE", sim.address.to_string());
    Ended::from(send.output().expect("it starts")).is(0, "confirmed\n", "");
    run(&["send", "--node", "sim", "hi"]).is(0, "confirmed\n", "");
}

#[test]
fn frames_are_found_in_a_capture() {
    let mut decode = binary(&["decode", "--hex"]);
    decode.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = decode.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"boot\n\x94\x94\xC3\x00\x02\x38\x05x").expect("it reads");
    drop(stdin);
    let ended = Ended::from(child.wait_with_output().expect("our child"));
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "3805\n"), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "the summary");
}

impl Running {
    fn signal(&self, name: &str) {
        let kill = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(kill.expect("kill is there").success());
    }
}

/// For a `run` that shares nothing with the machine's other daemons.
const ALONE: &[&str] = &["--listen", "127.0.0.1:0", "--socket", "none", "--state", "none"];

#[test]
fn holding_the_link_is_one_line_when_the_node_goes_and_one_when_it_is_back() {
    let sim = Sim::healthy();
    let mut run = sim.start("run", ALONE);
    assert!(run.line().starts_with("listening on 127.0.0.1:"));
    assert!(run.wait_for("").contains("link: "), "the component");
    sim.handle.inject(Fault::Refuse { span: Duration::from_millis(1500) }).expect("it runs");
    let lost = run.wait_for("");
    assert!(
        lost.contains("lost after") && lost.contains("connection reset (104 ECONNRESET)"),
        "{lost}"
    );
    let back = run.wait_for("");
    assert!(back.contains("up again after") && back.contains("possible gap"), "{back}");

    run.signal("USR1");
    let status: Value = serde_json::from_str(&run.line()).expect("one JSON line");
    let sessions = &status["counters"]["sessions"];
    assert_eq!((&status["link"]["state"], sessions), (&json!("up"), &json!(2)));
    assert_eq!(status["reconnects"]["reasons"], json!({ "connection reset": 1 }));

    run.signal("TERM");
    let ended = run.end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    let said =
        sim.log().entries().filter(|e| e.what.to_string().contains("the client said so")).count();
    assert_eq!(said, 1, "disconnect before the end");
}

#[test]
fn a_quiet_run_says_nothing_of_an_outage() {
    let sim = Sim::healthy();
    let run = sim.start("run", &[ALONE, &["-q"]].concat());
    sim.wait_for_handshakes(1);
    sim.handle.inject(Fault::Refuse { span: Duration::from_millis(500) }).expect("it runs");
    sim.wait_for_handshakes(2);
    run.signal("INT");
    let ended = run.end();
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.out.starts_with("listening on ") && ended.out.lines().count() == 1);
}

#[test]
fn the_demo_recovers_from_every_fault() {
    let ended = run(&["demo", "--seed", "1"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    for fault in ["fin", "rst", "refuse", "stall", "blackhole", "cut"] {
        let lines = ended.out.lines().filter(|line| line.starts_with(fault)).count();
        assert_eq!(lines, 2, "a line and a row for {fault}: {}", ended.out);
    }
    assert!(ended.out.contains("0 lost, 0 torn"), "{}", ended.out);
}

#[test]
fn the_demo_goes_on_when_nobody_reads() {
    let mut demo = Running::new(&["demo", "--seed", "2"]);
    demo.line();
    demo.out = None;
    assert_eq!(demo.end().code, Some(0));
}
