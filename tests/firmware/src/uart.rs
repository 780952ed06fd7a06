//! The UART as the link sees it: the traits of `embedded-io` over the rings.

use core::convert::Infallible;

use embedded_io::{ErrorType, Read, ReadReady, Write, WriteReady};

use crate::board;
use crate::rings::ProgramEnds;

/// The UART. Who asks [`ReadReady`] and [`WriteReady`] first never waits; who does not, sleeps.
pub struct Uart {
    ends: ProgramEnds,
}

impl Uart {
    /// The UART with these ends of its rings.
    pub const fn new(ends: ProgramEnds) -> Self {
        Self { ends }
    }
}

impl ErrorType for Uart {
    type Error = Infallible;
}

impl ReadReady for Uart {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(self.ends.received.ready())
    }
}

impl Read for Uart {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Infallible> {
        if buf.is_empty() {
            return Ok(0);
        }
        while !self.ends.received.ready() {
            board::sleep_until(None);
        }
        let bytes = core::iter::from_fn(|| self.ends.received.dequeue());
        let count = buf.iter_mut().zip(bytes).map(|(place, byte)| *place = byte).count();
        board::pend_uart();
        Ok(count)
    }
}

impl WriteReady for Uart {
    fn write_ready(&mut self) -> Result<bool, Infallible> {
        Ok(self.ends.to_send.ready())
    }
}

impl Write for Uart {
    fn write(&mut self, buf: &[u8]) -> Result<usize, Infallible> {
        if buf.is_empty() {
            return Ok(0);
        }
        while !self.ends.to_send.ready() {
            board::sleep_until(None);
        }
        let count = buf.iter().take_while(|byte| self.ends.to_send.enqueue(**byte).is_ok()).count();
        board::pend_uart();
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        while !self.ends.to_send.is_empty() {
            board::sleep_until(None);
        }
        while board::is_sending() {}
        Ok(())
    }
}
