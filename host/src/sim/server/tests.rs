//! The server over real sockets. Reads block, with a limit that only a broken server reaches.

use std::net::TcpStream as Stream;
use std::thread::{self, JoinHandle};

use meshbeat_proto::{FromRadio, ToRadio, from_radio, to_radio};
use prost::Message;

use super::super::{Record, Stream as StreamConfig};
use super::*;

const LIMIT: Duration = Duration::from_secs(20);

/// A server on its thread; stops when dropped.
struct Running {
    addr: SocketAddr,
    handle: Handle,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Running {
    fn new(config: SimConfig) -> Self {
        let mut server = Server::bind(([127, 0, 0, 1], 0).into(), config, 1).expect("loopback");
        let (addr, handle) = (server.local_addr(), server.handle());
        Self { addr, handle, thread: Some(thread::spawn(move || server.run())) }
    }

    fn connect(&self) -> Stream {
        let stream = Stream::connect_timeout(&self.addr, LIMIT).expect("it listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a socket");
        stream
    }

    fn configured(&self) -> Stream {
        let mut stream = self.connect();
        // After an answer the node has no reason for a status that nobody asked for.
        answered(&mut stream);
        send(&mut stream, to_radio::PayloadVariant::WantConfigId(5));
        while next(&mut stream) != from_radio::PayloadVariant::ConfigCompleteId(5) {}
        stream
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            assert!(thread::panicking() || matches!(result, Ok(Ok(()))), "{result:?}");
        }
    }
}

fn quick() -> SimConfig {
    let mut config = SimConfig::default();
    config.timing.input_delay = Duration::ZERO;
    config
}

fn send(stream: &mut Stream, variant: to_radio::PayloadVariant) {
    let payload = ToRadio { payload_variant: Some(variant) }.encode_to_vec();
    let mut frame = vec![0x94, 0xC3, 0, payload.len() as u8];
    frame.extend(payload);
    stream.write_all(&frame).expect("an open connection");
}

fn beat(stream: &mut Stream) {
    send(stream, to_radio::PayloadVariant::Heartbeat(meshbeat_proto::Heartbeat { nonce: 0 }));
}

fn next(stream: &mut Stream) -> from_radio::PayloadVariant {
    let mut header = [0; 4];
    stream.read_exact(&mut header).expect("a header");
    assert_eq!(header[..2], [0x94, 0xC3]);
    let mut payload = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]]))];
    stream.read_exact(&mut payload).expect("a payload");
    FromRadio::decode(&payload[..]).expect("valid").payload_variant.expect("not empty")
}

/// Waits for an answer to a heartbeat.
fn answered(stream: &mut Stream) {
    beat(stream);
    while !matches!(next(stream), from_radio::PayloadVariant::QueueStatus(_)) {}
}

/// Reads to the end; the kind of error if it is one.
fn end(stream: &mut Stream) -> Option<ErrorKind> {
    stream.read_to_end(&mut Vec::new()).err().map(|error| error.kind())
}

#[test]
fn a_client_is_served_and_the_log_can_be_read() {
    let running = Running::new(quick());
    let mut stream = running.configured();
    answered(&mut stream);
    let totals = running.handle.log().expect("it runs").totals();
    assert_eq!((totals.connects, totals.configured, totals.answers), (1, 1, 2));
    send(&mut stream, to_radio::PayloadVariant::Disconnect(true));
    assert_eq!(end(&mut stream), None);
}

#[test]
fn fin_is_an_end_and_rst_an_error() {
    let running = Running::new(quick());
    for (fault, expected) in [(Fault::Fin, None), (Fault::Rst, Some(ErrorKind::ConnectionReset))] {
        let mut stream = running.configured();
        running.handle.inject(fault).expect("it runs");
        assert_eq!(end(&mut stream), expected);
    }
}

#[test]
fn the_newest_client_wins() {
    let running = Running::new(quick());
    let mut first = running.configured();
    let mut second = running.configured();
    assert_eq!(end(&mut first), None);
    answered(&mut second);
}

#[test]
fn refuse_closes_the_port_and_opens_it_again() {
    let running = Running::new(quick());
    let mut stream = running.configured();
    let span = Duration::from_millis(700);
    running.handle.inject(Fault::Refuse { span }).expect("it runs");
    let began = Clock::now();
    assert_eq!(end(&mut stream), Some(ErrorKind::ConnectionReset));
    let error = Stream::connect(running.addr).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let mut tries = 0;
    while Stream::connect(running.addr).is_err() {
        tries += 1;
        assert!(began.elapsed() < LIMIT, "still refused after {tries} tries");
        thread::yield_now();
    }
    assert!(began.elapsed() >= span - Duration::from_millis(50));
    answered(&mut running.configured());
}

#[test]
fn unreachable_leaves_connects_unanswered_for_a_while() {
    let running = Running::new(quick());
    let mut stream = running.configured();
    let span = Duration::from_secs(3600);
    running.handle.inject(Fault::Unreachable { span }).expect("it runs");
    // The queue of the listener takes one; ours fills it, on some kernels one more is let in.
    let wait = Duration::from_millis(300);
    let waiting: Vec<_> = (0..3).map(|_| Stream::connect_timeout(&running.addr, wait)).collect();
    let last = waiting.last().expect("three tries");
    assert!(last.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut), "{last:?}");
    beat(&mut stream);
    running.handle.recover().expect("it runs");
    drop(waiting);
    answered(&mut running.configured());
    let own = running.handle.log().expect("it runs");
    let accepted = own.count(|record| matches!(record, Record::Accepted(_)));
    assert!(accepted <= 4, "its own connection is none of the clients");
}

#[test]
fn blackhole_is_silence_on_an_open_socket() {
    let running = Running::new(quick());
    let mut stream = running.configured();
    let span = Duration::from_secs(3600);
    running.handle.inject(Fault::Blackhole { span }).expect("it runs");
    beat(&mut stream);
    // What was under way may still come; then nothing.
    stream.set_read_timeout(Some(Duration::from_millis(700))).expect("a socket");
    let error = stream.read_to_end(&mut Vec::new()).expect_err("no end");
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    running.handle.recover().expect("it runs");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    assert!(matches!(next(&mut stream), from_radio::PayloadVariant::QueueStatus(_)));
}

#[test]
fn one_byte_at_a_time_is_the_same_in_the_end() {
    let stream = StreamConfig { write_limit: Some(1), ..StreamConfig::default() };
    let running = Running::new(SimConfig { stream, ..quick() });
    answered(&mut running.configured());
}

#[test]
fn a_cut_ends_in_mid_frame_with_a_reset() {
    let running = Running::new(quick());
    let mut stream = running.configured();
    answered(&mut stream);
    running.handle.inject("cut".parse().expect("a fault")).expect("it runs");
    let mut rest = Vec::new();
    let error = stream.read_to_end(&mut rest).expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let log = running.handle.log().expect("it runs");
    assert_eq!(log.count(|record| matches!(record, Record::Torn(_))), 1);
}

#[test]
fn a_thousand_connections_and_garbage_leave_it_alive() {
    let running = Running::new(quick());
    for n in 0..1_000_u32 {
        let mut stream = running.connect();
        // The node may have closed it already: it takes one client only.
        let _ = stream.write_all(&n.to_le_bytes().repeat(100));
    }
    answered(&mut running.configured());
}

#[test]
fn a_second_stop_and_calls_after_it_are_harmless() {
    let running = Running::new(quick());
    let handle = running.handle.clone();
    drop(running);
    handle.stop();
    let error = handle.inject(Fault::Fin).expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::NotConnected);
}
