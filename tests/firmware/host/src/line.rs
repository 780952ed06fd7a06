//! The serial line between board and node, with a tap in the middle: QEMU dials the one end, the
//! other dials the node. It can be unplugged from the board, and its own frames and noise put in
//! between the node's frames.

use core::net::{Ipv4Addr, SocketAddr};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use meshbeat_core::decoder::{Decoder, Item};
use meshbeat_core::frame;
use meshbeat_proto::{FromRadio, ToRadio};
use prost::Message;

use crate::watch::Watch;

/// The line.
#[derive(Debug)]
pub struct Line {
    /// The port for the board's UART.
    pub port: u16,
    tap: Arc<Tap>,
}

#[derive(Debug)]
struct Tap {
    board: Mutex<Option<TcpStream>>,
    node: Mutex<Option<TcpStream>>,
    /// Frames that were written to the board.
    to_board: Watch<FromRadio>,
    /// Frames from the board.
    from_board: Watch<ToRadio>,
    /// What else came from the board.
    noise: Watch<Vec<u8>>,
    /// The board's connections.
    plugged: Watch<()>,
}

impl Line {
    /// A line with nobody at its ends.
    ///
    /// # Panics
    /// When there is no port free.
    pub fn new() -> Self {
        let tap = Arc::new(Tap {
            board: Mutex::new(None),
            node: Mutex::new(None),
            to_board: Watch::new(),
            from_board: Watch::new(),
            noise: Watch::new(),
            plugged: Watch::new(),
        });
        let listener = listen(0);
        let port = listener.local_addr().expect("it listens").port();
        let line = Self { port, tap };
        line.serve(listener);
        line
    }

    /// Connects the node at this address, instead of the one before.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn connect(&self, node: SocketAddr) {
        let mut stream = TcpStream::connect(node).expect("the node listens");
        let tap = Arc::clone(&self.tap);
        *lock(&tap.node) = Some(stream.try_clone().expect("a socket"));
        thread::spawn(move || {
            let mut decoder = Decoder::new();
            let mut buf = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buf) {
                each_item(&mut decoder, &buf[..count], |item| match item {
                    Item::Frame(payload) => tap.tell_board(&framed(payload), payload),
                    Item::Noise(bytes) => panic!("the node wrote {bytes:02x?}"),
                });
            }
        });
    }

    /// Waits for the board's first connection.
    ///
    /// # Panics
    /// When it does not come.
    pub fn wait_for_board(&self) {
        self.tap.plugged.wait(0, "the board's connection", |()| Some(()));
    }

    /// Pulls the board's plug: its connection ends, and is refused until [`Line::plug_in`].
    pub fn unplug(&self) {
        let board = lock(&self.tap.board).take().expect("the board is plugged in");
        // It may have ended by itself.
        let _ = board.shutdown(Shutdown::Both);
    }

    /// Lets the board connect again.
    ///
    /// # Panics
    /// When another program has taken the port.
    pub fn plug_in(&self) {
        self.serve(listen(self.port));
    }

    /// Writes these bytes to the board, then this message, between two frames of the node.
    ///
    /// # Panics
    /// When the board is not plugged in.
    pub fn inject(&self, bytes: &[u8], message: &FromRadio) {
        let payload = message.encode_to_vec();
        let bytes = [bytes, &framed(&payload)].concat();
        assert!(lock(&self.tap.board).is_some(), "the board is plugged in");
        self.tap.tell_board(&bytes, &payload);
    }

    /// What was written to the board.
    pub fn to_board(&self) -> &Watch<FromRadio> {
        &self.tap.to_board
    }

    /// What came from the board.
    pub fn from_board(&self) -> &Watch<ToRadio> {
        &self.tap.from_board
    }

    /// What came from the board and was no frame.
    pub fn noise_from_board(&self) -> Vec<u8> {
        self.tap.noise.since(0).concat()
    }

    /// Takes one connection of the board; nobody listens from then on.
    fn serve(&self, listener: TcpListener) {
        let tap = Arc::clone(&self.tap);
        thread::spawn(move || {
            let Ok((mut stream, _)) = listener.accept() else { return };
            drop(listener);
            stream.set_nodelay(true).expect("a socket");
            *lock(&tap.board) = Some(stream.try_clone().expect("a socket"));
            tap.plugged.push(());
            let mut decoder = Decoder::new();
            let mut buf = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buf) {
                let bytes = &buf[..count];
                each_item(&mut decoder, bytes, |item| match item {
                    Item::Frame(payload) => {
                        let message = ToRadio::decode(payload).expect("the board's own frame");
                        tap.from_board.push(message);
                    }
                    Item::Noise(bytes) => tap.noise.push(bytes.to_vec()),
                });
                if let Some(node) = lock(&tap.node).as_mut() {
                    // A node that is gone takes no more bytes, as a dead one at a wire.
                    let _ = node.write_all(bytes);
                }
            }
        });
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

impl Tap {
    /// Writes these bytes, which end in a frame with this payload, to the board if it is there.
    fn tell_board(&self, bytes: &[u8], payload: &[u8]) {
        let message = FromRadio::decode(payload).expect("the node's own frame");
        let mut board = lock(&self.board);
        if let Some(stream) = board.as_mut()
            && stream.write_all(bytes).is_ok()
        {
            // Before the lock goes, so that the list has the order of the wire.
            self.to_board.push(message);
        }
    }
}

fn listen(port: u16) -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port")
}

/// A payload as a frame.
///
/// # Panics
/// When it has more than 512 bytes.
pub fn framed(payload: &[u8]) -> Vec<u8> {
    let mut out = [0; frame::MAX_FRAME];
    frame::encode(payload, &mut out).expect("it fits a frame").to_vec()
}

fn each_item(decoder: &mut Decoder, mut bytes: &[u8], mut handle: impl FnMut(Item<'_>)) {
    loop {
        let decoded = decoder.decode(bytes);
        bytes = &bytes[decoded.taken..];
        match decoded.item {
            Some(item) => handle(item),
            None if bytes.is_empty() => return,
            None => {}
        }
    }
}

fn lock(stream: &Mutex<Option<TcpStream>>) -> MutexGuard<'_, Option<TcpStream>> {
    stream.lock().expect("no thread panics within")
}
