//! The link on two boards, in QEMU, beside a simulated node: whatever happens to node and wire, it
//! is up again, and says so.

use meshbeat_core::frame::MAX_PAYLOAD;
use meshbeat_core::peek;
use meshbeat_firmware_host::board::{Board, CORTEX_M3, Kind, RISC_V};
use meshbeat_firmware_host::build::{self, Flavour};
use meshbeat_firmware_host::line::{Line, framed};
use meshbeat_firmware_host::node::Node;
use meshbeat_proto::{
    Data, FromRadio, MeshPacket, ModuleConfig, PortNum, RemoteHardwarePin, ToRadio, from_radio,
    mesh_packet, module_config, text, to_radio,
};
use prost::Message as _;

/// A sender of texts that the test makes up.
const FRIEND: u32 = 0xF00D_CAFE;

#[test]
fn cortex_m3_lives_through_everything() {
    live(CORTEX_M3);
}

#[test]
fn risc_v_lives_through_everything() {
    live(RISC_V);
}

#[test]
fn cortex_m3_decodes_and_encodes_whole_messages() {
    talk_typed(CORTEX_M3);
}

#[test]
fn risc_v_decodes_and_encodes_whole_messages() {
    talk_typed(RISC_V);
}

#[test]
fn cortex_m3_tells_the_links_states_by_defmt() {
    tell_states(CORTEX_M3);
}

#[test]
fn risc_v_tells_the_links_states_by_defmt() {
    tell_states(RISC_V);
}

fn live(kind: Kind) {
    let mut world = World::start(kind, Flavour::Plain, &["--traffic", "120"]);
    world.shakes_hands();
    world.prints_texts();
    world.answers_ping();
    world.finds_its_way_through_noise();
    world.notices_a_node_that_hangs();
    world.notices_an_unplugged_line();
    world.follows_a_restart();
    world.sleeps();
    world.ends();
}

/// A board, a node and the line between them.
struct World {
    board: Board,
    line: Line,
    node: Node,
    /// Up to where the board's lines are told of.
    mark: usize,
}

impl World {
    fn start(kind: Kind, flavour: Flavour, sim: &[&str]) -> Self {
        let firmware = build::firmware(kind.target, flavour);
        let (name, flash) = (kind.name, firmware.flash());
        println!("result: {flavour:?} on {name}: {flash} bytes of flash");
        assert_eq!(firmware.allocates(), flavour == Flavour::Typed, "an allocator is linked");
        let node = Node::start(sim);
        let line = Line::new();
        line.connect(node.address);
        let board = Board::start(kind, &firmware, flavour, &line);
        let mut world = Self { board, line, node, mark: 0 };
        world.says(&[name, "link of "]);
        world
    }

    /// Waits for a line behind those already told of.
    #[track_caller]
    fn says(&mut self, parts: &[&str]) -> String {
        let (line, mark) = self.board.says(self.mark, parts);
        self.mark = mark;
        line
    }

    /// In the lines since `mark` the link is never lost.
    #[track_caller]
    fn was_not_lost_since(&self, mark: usize) {
        let lines = self.board.lines.since(mark);
        assert!(!lines.iter().any(|line| line.contains("Lost")), "{lines:#?}");
    }

    /// The board has woken the node, asked, and met the node that told its number.
    fn shakes_hands(&mut self) {
        self.says(&["idle -> opening"]);
        self.says(&["opening -> configuring"]);
        self.says(&["configuring -> up"]);
        let told =
            self.line.to_board().wait(0, "my_info", |message| match &message.payload_variant {
                Some(from_radio::PayloadVariant::MyInfo(info)) => Some(info.my_node_num),
                _ => None,
            });
        self.says(&[&format!("Configured {{ node: {},", told.0)]);
        assert_eq!(self.line.noise_from_board(), [0xC3; 32], "the bytes that wake a node");
        let said: Vec<_> = self.line.from_board().since(0).iter().take(2).map(name).collect();
        assert_eq!(said, ["heartbeat", "want_config_id"]);
        self.beats();
        self.was_not_lost_since(0);
    }

    /// The node answers: its silence would count from now on.
    fn beats(&mut self) {
        for _ in 0..3 {
            self.says(&["alive: "]);
        }
    }

    /// What the mesh says is printed, all of it, in order.
    fn prints_texts(&mut self) {
        let mut told = Vec::new();
        let mut mark = 0;
        while told.len() < 3 {
            let (words, next) = self.line.to_board().wait(mark, "a text", text_of);
            told.push(words);
            mark = next;
        }
        // One that ends the list.
        self.line.inject(&[], &friend_says("that was all"));
        self.says(&["that was all"]);
        let told: Vec<_> = self.line.to_board().since(0).iter().filter_map(text_of).collect();
        let last = told.iter().position(|words| words.ends_with("that was all"));
        let printed = self.board.lines.since(0);
        let printed: Vec<_> = printed.iter().filter(|line| line.starts_with("text of ")).collect();
        let end = last.expect("it was told") + 1;
        assert!(end > 3, "{told:#?}");
        assert_eq!(printed[..end], told.iter().take(end).collect::<Vec<_>>()[..]);
    }

    /// The answer goes to who asked, and the node confirms it.
    fn answers_ping(&mut self) {
        self.line.inject(&[], &friend_says("ping"));
        self.says(&["text of !f00dcafe: ping"]);
        let (pong, _) = self.line.from_board().wait(0, "pong", packet_of);
        assert_eq!((pong.to, pong.want_ack, pong.hop_limit), (FRIEND, true, 3));
        assert_eq!(words_of(&pong), Some("pong".into()));
        assert_ne!(pong.id, 0);
        self.says(&[&format!("PacketEvent {{ id: {}", pong.id), "state: Confirmed"]);
    }

    /// Log text, half a magic, a torn frame: each byte of it is noise, the frame behind it whole.
    fn finds_its_way_through_noise(&mut self) {
        const LOG: &[u8] = "INFO  | 12:00:07 7 [Router] Grüße, 94 is no C3\r\n".as_bytes();
        // The first bytes of packet { from }; the frame behind it is in its place, but no field.
        const TORN: &[u8] = b"\x94\x94\xC3\x00\x32\x12\x30\x0D\x11\x22";
        let from = self.mark;
        self.line.inject(&[LOG, TORN].concat(), &friend_says("behind the noise"));
        self.says(&["text of !f00dcafe: behind the noise"]);
        let noise: usize =
            self.board.lines.since(from).iter().filter_map(|line| noise_of(line)).sum();
        assert_eq!(noise, LOG.len() + TORN.len());
        self.was_not_lost_since(from);
    }

    /// The connection stays, no byte comes.
    fn notices_a_node_that_hangs(&mut self) {
        self.beats();
        self.node.suspend();
        self.says(&["Suspected"]);
        self.says(&["Lost", "Silent", "was_up: true"]);
        self.says(&["configuring -> waiting"]);
        self.node.resume();
        self.says(&["configuring -> up"]);
        self.says(&["Configured", "last_heard: Some("]);
    }

    /// QEMU loses its connection, is refused, and dials again.
    fn notices_an_unplugged_line(&mut self) {
        self.beats();
        self.line.unplug();
        self.says(&["Lost", "Silent", "was_up: true"]);
        self.line.plug_in();
        self.says(&["configuring -> up"]);
        self.beats();
    }

    /// On a serial line a node says that it has restarted, behind the text of its boot.
    fn follows_a_restart(&mut self) {
        let from = self.mark;
        self.node = Node::start(&[]);
        let rebooted = from_radio::PayloadVariant::Rebooted(true);
        let rebooted = FromRadio { id: 0, payload_variant: Some(rebooted) };
        self.line.connect(self.node.address);
        self.line.inject(b"ESP-ROM:esp32s3-20210327\r\nBuild:Mar 27 2021\r\n", &rebooted);
        self.says(&["Rebooted"]);
        self.says(&["configuring -> up"]);
        self.was_not_lost_since(from);
        let lines = self.board.lines.since(from);
        assert!(lines.iter().any(|line| line.contains("up -> configuring")), "{lines:#?}");
    }

    /// No traffic now: a heartbeat takes one turn to be due, and a few for the bytes of it and of
    /// its answer. A loop that did not sleep would take thousands.
    fn sleeps(&mut self) {
        self.beats();
        let turns = |line: String| -> u32 {
            let turns = line.strip_suffix(" turns").and_then(|line| line.rsplit(' ').next());
            turns.and_then(|turns| turns.parse().ok()).expect("so many turns")
        };
        let before = turns(self.says(&["alive: "]));
        self.says(&["alive: "]);
        self.says(&["alive: "]);
        let after = turns(self.says(&["alive: "]));
        assert!((3..=90).contains(&(after - before)), "{} turns", after - before);
    }

    /// The last word goes to the node, and the program ends well.
    fn ends(mut self) {
        self.line.inject(&[], &friend_says("goodbye"));
        self.says(&["up -> closing"]);
        self.says(&["SaidGoodbye"]);
        self.says(&["closing -> closed"]);
        self.says(&["Closed"]);
        assert_eq!(self.board.ended().code(), Some(0));
        let is_goodbye = |message: &ToRadio| (name(message) == "disconnect").then_some(());
        let ((), end) = self.line.from_board().wait(0, "disconnect", is_goodbye);
        assert_eq!(end, self.line.from_board().mark(), "nothing follows it");
    }
}

/// All names that the node told are printed, also those cut within a character; a text to all goes
/// out; nothing of the heap is left over.
fn talk_typed(kind: Kind) {
    let mut world = World::start(kind, Flavour::Typed, &["--fault", "bad-utf8"]);
    world.says(&["0 bytes of heap in use"]);
    let (hello, _) = world.line.from_board().wait(0, "hello", packet_of);
    assert_eq!(hello.to, u32::MAX);
    assert_eq!(words_of(&hello), Some(format!("hello from {}", kind.name)));
    world.says(&[&format!("PacketEvent {{ id: {}", hello.id), "state: Confirmed"]);

    let told: Vec<_> = world.line.to_board().since(0).iter().filter_map(node_of).collect();
    let printed = world.board.lines.since(0);
    let printed: Vec<_> = printed.into_iter().filter(|line| line.starts_with("node !")).collect();
    assert_eq!(told.len(), 13, "itself and twelve others");
    assert_eq!(printed, told);
    assert!(told.iter().any(|line| line.ends_with('\u{fffd}')), "{told:#?}");
    world.line.inject(&[refused_by_prost(), longest_list()].concat(), &friend_says("still there?"));
    world.ends();
}

/// A node info with a group that begins as number 20 and ends as number 21: the link skips it.
fn refused_by_prost() -> Vec<u8> {
    let payload = b"\x22\x00\xA3\x01\xAC\x01";
    assert!(peek::FromRadio::peek(payload).is_some() && FromRadio::decode(&payload[..]).is_err());
    framed(payload)
}

/// As many pins as 512 bytes can name, which decode to as much as any message of that size, and a
/// node info that takes their place.
fn longest_list() -> Vec<u8> {
    let hardware = module_config::RemoteHardwareConfig {
        available_pins: vec![RemoteHardwarePin::default(); 252],
        ..Default::default()
    };
    let hardware = module_config::PayloadVariant::RemoteHardware(hardware);
    let config = ModuleConfig { payload_variant: Some(hardware) };
    let config = from_radio::PayloadVariant::ModuleConfig(config);
    let pins = FromRadio { id: 0, payload_variant: Some(config) }.encode_to_vec();
    let payload = [&pins, &b"\x22\x00"[..]].concat();
    assert_eq!(payload.len(), MAX_PAYLOAD);
    framed(&payload)
}

/// What the core logs comes out of the target, decoded: each state, old and new.
fn tell_states(kind: Kind) {
    let mut world = World::start(kind, Flavour::Defmt, &[]);
    world.says(&["info link Idle -> Opening { deadline: Instant("]);
    world.says(&["info link Opening { deadline: Instant(", "} -> Configuring { opened: Instant("]);
    world.says(&["debug at ", " ms sending WantConfig(69420)"]);
    world.says(&["info link Configuring { ", "} -> Up { opened: Instant("]);
    world.beats();
    world.node.suspend();
    world.says(&["info link Up { ", "} -> Suspect { "]);
    world.says(&["info link Suspect { ", "} -> Waiting { "]);
    world.node.resume();
    world.says(&["info link Configuring { ", "} -> Up { "]);
    world.says(&["Configured"]);
    let said = world.board.lines.since(0);
    assert!(!said.iter().any(|line| line.contains("no defmt frame")), "{said:#?}");
    world.ends();
}

/// A text from the friend to all.
fn friend_says(words: &str) -> FromRadio {
    let data = Data {
        portnum: PortNum::TextMessageApp as i32,
        payload: words.as_bytes().to_vec(),
        ..Data::default()
    };
    let packet = MeshPacket {
        from: FRIEND,
        to: u32::MAX,
        id: 4_711,
        payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
        ..MeshPacket::default()
    };
    FromRadio { id: 0, payload_variant: Some(from_radio::PayloadVariant::Packet(packet)) }
}

/// The line that the board makes of a text.
fn text_of(message: &FromRadio) -> Option<String> {
    let Some(from_radio::PayloadVariant::Packet(packet)) = &message.payload_variant else {
        return None;
    };
    words_of(packet).map(|words| format!("text of !{:08x}: {words}", packet.from))
}

/// The line that the board makes of a node info.
fn node_of(message: &FromRadio) -> Option<String> {
    let Some(from_radio::PayloadVariant::NodeInfo(info)) = &message.payload_variant else {
        return None;
    };
    let user = info.user.as_ref()?;
    Some(format!("node !{:08x}: {}", info.num, text(&user.long_name)))
}

fn noise_of(line: &str) -> Option<usize> {
    line.strip_prefix("noise of ")?.strip_suffix(" bytes")?.parse().ok()
}

fn words_of(packet: &MeshPacket) -> Option<String> {
    let Some(mesh_packet::PayloadVariant::Decoded(data)) = &packet.payload_variant else {
        return None;
    };
    (data.portnum() == PortNum::TextMessageApp).then(|| text(&data.payload).into_owned())
}

fn packet_of(message: &ToRadio) -> Option<MeshPacket> {
    match &message.payload_variant {
        Some(to_radio::PayloadVariant::Packet(packet)) => Some(packet.clone()),
        _ => None,
    }
}

fn name(message: &ToRadio) -> &'static str {
    match message.payload_variant {
        Some(to_radio::PayloadVariant::Heartbeat(_)) => "heartbeat",
        Some(to_radio::PayloadVariant::WantConfigId(_)) => "want_config_id",
        Some(to_radio::PayloadVariant::Disconnect(_)) => "disconnect",
        Some(to_radio::PayloadVariant::Packet(_)) => "packet",
        _ => "something else",
    }
}
