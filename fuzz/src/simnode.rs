//! The simulated node under whatever clients write, whatever faults it is told to have, and any
//! clock: no panic, no spin, memory within its bounds, and without a fault nothing but frames.

use core::time::Duration;
use std::collections::BTreeMap;

use meshbeat::sim::{Action, ConnId, Fault, Schedule, SimConfig, SimNode};
use meshbeat_core::Instant;
use meshbeat_core::decoder::{Decoder, Item};
use meshbeat_core::frame::{self, MAX_FRAME};
use meshbeat_core::peek::FromRadio;
use meshbeat_proto::{Data, MeshPacket, mesh_packet};

use crate::input::Input;

/// The first byte chooses the settings; then come operations, a byte each with its arguments
/// behind it.
///
/// # Panics
/// If the node breaks a promise.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut bench = Bench::new(input.byte());
    while !input.is_empty() {
        bench.operate(&mut input);
        bench.check();
    }
    bench.finish();
}

/// Bytes that wait for the client, beside one frame with what stands before it.
const OUTPUT: usize = 4_096;
/// Bytes that wait for the node.
const INPUT: usize = 1_000;
/// Entries of the log.
const LOG: usize = 50;

/// A node with the network around it.
struct Bench {
    node: SimNode,
    now: Instant,
    /// Connections that were not closed, with what the client reads of each.
    conns: BTreeMap<ConnId, Box<Decoder>>,
    next_conn: u64,
    /// Whether it has behaved so far.
    is_healthy: bool,
    /// Lines of log text that were put between the frames, whatever waits there.
    lines: usize,
}

impl Bench {
    fn new(bits: u8) -> Self {
        let mut config = SimConfig::default();
        config.identity.nodes = u32::from(bits & 3);
        config.identity.replays = bits & 4 != 0;
        config.traffic.per_minute = if bits & 8 != 0 { 6 } else { 0 };
        config.radio.simulated = bits & 16 != 0;
        (config.queues.output, config.queues.input) = (OUTPUT, INPUT);
        if bits & 32 != 0 {
            (config.queues.packets, config.queues.statuses) = (0, 0);
            (config.queues.notifications, config.queues.transmit) = (0, 0);
        }
        let mut node = SimNode::new(config, 1);
        node.keep_log(LOG);
        Self {
            node,
            now: Instant::ORIGIN,
            conns: BTreeMap::new(),
            next_conn: 0,
            is_healthy: true,
            lines: 0,
        }
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        match input.byte() & 15 {
            0 => {
                self.next_conn += 1;
                let conn = ConnId(self.next_conn);
                self.conns.insert(conn, Box::default());
                self.node.handle_connect(self.now, conn);
            }
            1 => {
                let (conn, len) = (self.conn(input.byte()), input.byte());
                self.write(conn, input.bytes(len.into()));
            }
            // want_config_id, a heartbeat.
            2 => {
                let (conn, choice) = (input.byte(), input.byte());
                let nonces: [&[u8]; 3] = [b"\x18\x05", b"\x18\xAC\x9E\x04", b"\x18\xAD\x9E\x04"];
                self.say(conn, nonces[usize::from(choice % 3)]);
            }
            3 => {
                let (conn, nonce) = (input.byte(), input.byte() & 1);
                self.say(conn, &[0x3A, 2, 8, nonce]);
            }
            4 => {
                let (conn, len) = (input.byte(), input.byte());
                let payload = input.bytes(len.into());
                self.say(conn, payload);
            }
            5 => self.say_packet(input),
            6 => {
                let conn = self.conn(input.byte());
                self.node.handle_fin(self.now, conn);
            }
            7 => {
                let conn = self.conn(input.byte());
                self.conns.remove(&conn);
                self.node.handle_gone(self.now, conn);
            }
            8 => {
                let (conn, most) = (self.conn(input.byte()), usize::from(input.byte()) * 16);
                self.read(conn, most);
            }
            9 => {
                let conn = self.conn(input.byte());
                self.read(conn, usize::MAX);
            }
            10 => self.inject(input.byte()),
            11 if input.byte() & 3 == 0 => self.node.recover(self.now),
            11 => {
                // Faults by themselves, from now on.
                self.is_healthy = false;
                let every = Duration::from_secs(10);
                self.node.play(Schedule::new(self.now, Fault::catalogue(), every, 1));
            }
            12 => self.pass(input.number::<2>()),
            13 => self.pass_deadlines(1 + usize::from(input.byte() & 0x3F)),
            // Months.
            14 => self.pass(input.number::<4>()),
            _ => {
                let (from, port) = (input.byte(), input.byte());
                let data = Data { portnum: port.into(), payload: vec![7], ..Data::default() };
                self.node.hear(
                    self.now,
                    MeshPacket {
                        from: from.into(),
                        to: u32::MAX,
                        id: port.into(),
                        hop_limit: 3,
                        payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
                        ..MeshPacket::default()
                    },
                );
            }
        }
    }

    /// One of the newest connections, perhaps one that is closed.
    fn conn(&self, choice: u8) -> ConnId {
        ConnId(self.next_conn.saturating_sub(u64::from(choice & 3)))
    }

    fn write(&mut self, conn: ConnId, bytes: &[u8]) {
        let room = self.node.input_room(conn);
        let taken = self.node.handle_bytes(self.now, conn, bytes);
        assert!(taken <= room && taken == bytes.len().min(room), "{taken} of {}", bytes.len());
    }

    fn say(&mut self, conn: u8, payload: &[u8]) {
        let conn = self.conn(conn);
        if let Ok(frame) = frame::encode(payload, &mut [0; MAX_FRAME]) {
            self.write(conn, frame);
        }
    }

    fn say_packet(&mut self, input: &mut Input<'_>) {
        use meshbeat::relay::wire::{put_bytes, put_fixed32, put_varint};
        let (conn, port, bits) = (input.byte(), input.byte(), input.byte());
        let len = input.byte() & 0x3F;
        let mut data = Vec::new();
        put_varint(&mut data, 1, port.into());
        put_bytes(&mut data, 2, input.bytes(len.into()));
        let mut packet = Vec::new();
        let own = self.node.node_num();
        put_fixed32(&mut packet, 2, if bits & 1 == 0 { u32::MAX } else { own });
        put_bytes(&mut packet, if bits & 2 == 0 { 4 } else { 5 }, &data);
        put_fixed32(&mut packet, 6, u32::from(bits >> 3));
        put_varint(&mut packet, 10, u64::from(bits >> 2 & 1));
        let mut payload = Vec::new();
        put_bytes(&mut payload, 1, &packet);
        self.say(conn, &payload);
    }

    /// The network takes up to `most` bytes at once, and all that follows if that is not limited.
    fn read(&mut self, conn: ConnId, most: usize) {
        // More than any node has to say, and the network may take it byte by byte.
        for _ in 0..100_000 {
            let offered = self.node.poll_transmit(self.now, conn);
            let bytes = offered[..most.min(offered.len())].to_vec();
            if bytes.is_empty() {
                return;
            }
            self.node.consume(self.now, conn, bytes.len());
            self.check_stream(conn, &bytes);
            if most < usize::MAX {
                return;
            }
        }
        panic!("bytes without end");
    }

    /// A healthy node writes frames and nothing else.
    fn check_stream(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(decoder) = self.conns.get_mut(&conn) else { return };
        if !self.is_healthy {
            return;
        }
        let mut rest = bytes;
        loop {
            let decoded = decoder.decode(rest);
            rest = &rest[decoded.taken..];
            match decoded.item {
                Some(Item::Frame(payload)) => {
                    assert!(FromRadio::peek(payload).is_some(), "{payload:02x?}");
                }
                Some(Item::Noise(noise)) => panic!("between frames: {noise:02x?}"),
                None => return,
            }
        }
    }

    fn inject(&mut self, choice: u8) {
        self.is_healthy = false;
        let catalogue = Fault::catalogue();
        let fault = catalogue[usize::from(choice) % catalogue.len()].clone();
        self.lines += usize::from(matches!(fault, Fault::Text { .. })) * 3;
        self.node.inject(self.now, fault);
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
        self.time_out();
    }

    fn pass_deadlines(&mut self, count: usize) {
        for _ in 0..count {
            let Some(at) = self.node.poll_timeout() else { return };
            self.now = self.now.max(at);
            self.time_out();
        }
    }

    /// After the network has taken what there is, the deadline has to lie ahead.
    fn time_out(&mut self) {
        for _ in 0..3 {
            self.node.handle_timeout(self.now);
            self.check();
        }
        if let Some(at) = self.node.poll_timeout() {
            assert!(at > self.now, "it spins at {:?}", self.now);
        }
    }

    /// What holds after every call.
    fn check(&mut self) {
        while let Some(action) = self.node.poll_action() {
            if let Action::Close { conn, .. } = action {
                self.conns.remove(&conn);
                assert!(self.node.poll_transmit(self.now, conn).is_empty(), "closed and written");
            }
        }
        for conn in self.conns.keys() {
            let waiting = self.node.poll_transmit(self.now, *conn).len();
            // A frame, and the line of text before it, go in front of the bound's check.
            let most = OUTPUT + 2 * MAX_FRAME + self.lines * 256;
            assert!(waiting <= most, "{waiting} bytes wait");
        }
        assert!(self.node.log().entries().count() <= LOG);
    }

    /// A client that comes and behaves is served, once the faults are over.
    fn finish(&mut self) {
        self.node.play(Schedule::new(self.now, Vec::new(), Duration::from_secs(1), 1));
        self.node.recover(self.now);
        self.check();
        // It may be about to restart, and then throws off who came before.
        for _ in 0..3 {
            self.pass(20_000);
            if self.serves() {
                return;
            }
        }
        panic!("a node without a fault serves nobody");
    }

    /// Whether a client that comes now has its handshake done before it is thrown off.
    fn serves(&mut self) -> bool {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.conns.insert(conn, Box::default());
        self.node.handle_connect(self.now, conn);
        self.pass(1_000);
        self.say(0, &[0x18, 5]);
        for _ in 0..200 {
            self.pass_deadlines(1);
            self.read(conn, usize::MAX);
            if self.node.is_configured() {
                return true;
            }
            if !self.conns.contains_key(&conn) {
                return false;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The harness reaches where the promises matter, else its silence would mean nothing.
    #[test]
    fn a_client_is_served_and_its_packets_are_taken() {
        let mut bench = Bench::new(0);
        let mut input =
            Input::new(&[0, 12, 3, 0, 2, 0, 0, 12, 4, 0, 9, 0, 5, 0, 1, 40, 0, 12, 4, 0]);
        while !input.is_empty() {
            bench.operate(&mut input);
            bench.check();
        }
        assert!(bench.node.is_configured());
        assert!(bench.is_healthy);
        assert_eq!(bench.node.log().totals().want_configs, 1);
        bench.finish();
    }

    #[test]
    fn after_each_fault_it_serves_again() {
        for fault in 0..Fault::names().len() {
            let mut bench = Bench::new(0);
            let fault = fault as u8;
            let mut input = Input::new(&[0, 12, 3, 0, 2, 0, 0, 13, 9, 13, 20, 9, 0]);
            while !input.is_empty() {
                bench.operate(&mut input);
            }
            bench.inject(fault);
            bench.pass_deadlines(20);
            bench.finish();
        }
    }
}
