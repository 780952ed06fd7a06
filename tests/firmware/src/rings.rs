//! The two rings between the UART's interrupt and the program.
//!
//! Each ring has one writer and one reader, so neither side locks the other out.

use heapless::spsc::{Consumer, Producer, Queue};

/// Room for two whole frames that arrive while the program is busy, and for half a frame to send:
/// what does not fit waits in the link.
const RECEIVED: usize = 1024;
const TO_SEND: usize = 256;

/// The memory of both rings.
pub struct Rings {
    received: Queue<u8, RECEIVED>,
    to_send: Queue<u8, TO_SEND>,
}

impl Rings {
    /// Empty rings.
    pub const fn new() -> Self {
        Self { received: Queue::new(), to_send: Queue::new() }
    }

    /// The ends of the interrupt and those of the program.
    pub fn split(&'static mut self) -> (InterruptEnds, ProgramEnds) {
        let (fill, received) = self.received.split();
        let (to_send, drain) = self.to_send.split();
        (InterruptEnds { received: fill, to_send: drain }, ProgramEnds { received, to_send })
    }
}

impl Default for Rings {
    fn default() -> Self {
        Self::new()
    }
}

/// What the interrupt writes and reads.
pub struct InterruptEnds {
    /// Bytes from the wire.
    pub received: Producer<'static, u8>,
    /// Bytes for the wire.
    pub to_send: Consumer<'static, u8>,
}

/// What the program reads and writes.
pub struct ProgramEnds {
    /// Bytes from the wire.
    pub received: Consumer<'static, u8>,
    /// Bytes for the wire.
    pub to_send: Producer<'static, u8>,
}
