//! The link on a UART and nothing else: handshake, heartbeat, an outbox of four. It is measured, and
//! linked; it is never run.
//!
//! A panic would have to call a function that does not exist, so this links only if none can be
//! reached.
#![no_std]
#![no_main]

use core::convert::Infallible;
use core::mem::MaybeUninit;
use core::ptr::{read_volatile, write_volatile};

use embedded_io::{ErrorType, Read, ReadReady, Write};
use meshbeat_budget::{OUTBOX, turn};
use meshbeat_core::link::Link;
use meshbeat_core::{Checked, Instant};

/// Registers of a UART and a clock that exist in no machine.
mod register {
    pub(super) const RECEIVED: *const u32 = 0x4000_2518 as *const u32;
    pub(super) const READY: *const u32 = 0x4000_2108 as *const u32;
    pub(super) const TRANSMIT: *mut u32 = 0x4000_251C as *mut u32;
    pub(super) const MILLIS: *const u64 = 0x4000_8540 as *const u64;
    pub(super) const SEED: *const u64 = 0x4000_D508 as *const u64;
    pub(super) const FRAME: *mut usize = 0x4000_E000 as *mut usize;
    pub(super) const ALARM: *mut u64 = 0x4000_8548 as *mut u64;
    /// How long the packet is that somebody wants to send, and the packet.
    pub(super) const LENGTH: *const usize = 0x4000_F000 as *const usize;
    pub(super) const OUTGOING: *const u8 = 0x2000_3000 as *const u8;
}

struct Uart;

impl ErrorType for Uart {
    type Error = Infallible;
}

impl Read for Uart {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Infallible> {
        let Some(first) = buf.first_mut() else { return Ok(0) };
        // SAFETY: a register; this program is not run.
        *first = unsafe { read_volatile(register::RECEIVED) } as u8;
        Ok(1)
    }
}

impl ReadReady for Uart {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        // SAFETY: a register; this program is not run.
        Ok(unsafe { read_volatile(register::READY) } != 0)
    }
}

impl Write for Uart {
    fn write(&mut self, buf: &[u8]) -> Result<usize, Infallible> {
        let Some(first) = buf.first() else { return Ok(0) };
        // SAFETY: a register; this program is not run.
        unsafe { write_volatile(register::TRANSMIT, (*first).into()) };
        Ok(1)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

static mut LINK: MaybeUninit<Link<OUTBOX>> = MaybeUninit::uninit();

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    let place = &raw mut LINK;
    // SAFETY: nothing else is there that could use it.
    let place = unsafe { &mut *place };
    // SAFETY: a register; this program is not run.
    let link = place.write(Link::new(Checked::SERIAL, unsafe { read_volatile(register::SEED) }));
    link.open(Instant::ORIGIN);
    loop {
        // SAFETY: registers; this program is not run.
        let (millis, length) =
            unsafe { (read_volatile(register::MILLIS), read_volatile(register::LENGTH)) };
        let now = Instant::from_millis(millis);
        if length > 0 {
            // SAFETY: this program is not run.
            let payload = unsafe { core::slice::from_raw_parts(register::OUTGOING, length) };
            let _ = link.send(now, 0, payload, None);
        }
        let next = turn(link, &mut Uart, now, |payload| {
            // SAFETY: a register; this program is not run.
            unsafe { write_volatile(register::FRAME, payload.len()) };
        });
        // SAFETY: a register; this program is not run.
        unsafe { write_volatile(register::ALARM, next.map_or(u64::MAX, Instant::as_millis)) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    unsafe extern "C" {
        fn a_panic_can_be_reached() -> !;
    }
    // SAFETY: it is nowhere, so that a program which needs it is not linked.
    unsafe { a_panic_can_be_reached() }
}
