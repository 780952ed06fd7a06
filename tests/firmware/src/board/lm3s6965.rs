//! Stellaris LM3S6965, a Cortex-M3, as QEMU's `lm3s6965evb` has it: UART0 is a PL011, the clock is
//! `SysTick`.
//!
//! Registers are named as in the data sheet, chapters 5 (system control) and 12 (UART).

use core::cell::{Cell, RefCell};

use cortex_m::peripheral::syst::SystClkSource;
use cortex_m::peripheral::{NVIC, Peripherals};
use cortex_m_rt::exception;
use critical_section::Mutex;
use lm3s6965::{Interrupt, interrupt};
use meshbeat_core::Instant;

use super::Register;
use crate::rings::{InterruptEnds, ProgramEnds, Rings};

pub use cortex_m_rt::entry;

/// The board's name.
pub const NAME: &str = "lm3s6965";

/// The system clock that QEMU has behind a reset: 200 MHz divided by 16.
const CLOCK_HZ: u32 = 12_500_000;
const BAUD: u32 = 115_200;

// Addresses and sizes are those of the data sheet; none is memory.
const RCGC1: Register<u32> = Register::at(0x400F_E104);
const RCGC2: Register<u32> = Register::at(0x400F_E108);
const GPIOA_AFSEL: Register<u32> = Register::at(0x4000_4420);
const GPIOA_DEN: Register<u32> = Register::at(0x4000_451C);
const DR: Register<u32> = Register::at(0x4000_C000);
const FR: Register<u32> = Register::at(0x4000_C018);
const IBRD: Register<u32> = Register::at(0x4000_C024);
const FBRD: Register<u32> = Register::at(0x4000_C028);
const LCRH: Register<u32> = Register::at(0x4000_C02C);
const CTL: Register<u32> = Register::at(0x4000_C030);
const IM: Register<u32> = Register::at(0x4000_C038);
const ICR: Register<u32> = Register::at(0x4000_C044);

/// Bits of `FR`: sending, nothing received, no room to send.
const BUSY: u32 = 1 << 3;
const RXFE: u32 = 1 << 4;
const TXFF: u32 = 1 << 5;
/// Bits of `IM` and `ICR`: received, room to send, received a while ago.
const RX: u32 = 1 << 4;
const TX: u32 = 1 << 5;
const RT: u32 = 1 << 6;

/// Milliseconds since the start.
static TICKS: Mutex<Cell<u64>> = Mutex::new(Cell::new(0));
/// Bytes were moved since the program last looked.
static STIRRED: Mutex<Cell<bool>> = Mutex::new(Cell::new(false));
static ENDS: Mutex<RefCell<Option<InterruptEnds>>> = Mutex::new(RefCell::new(None));

/// Sets up clock and UART.
///
/// # Panics
/// When called twice.
pub fn start() -> ProgramEnds {
    let rings = cortex_m::singleton!(: Rings = Rings::new()).expect("started once");
    let (interrupt_ends, program_ends) = rings.split();
    critical_section::with(|cs| ENDS.borrow(cs).replace(Some(interrupt_ends)));

    // Clocks and pins, 8 data bits and FIFOs; then it is enabled for both directions.
    RCGC1.write(RCGC1.read() | 1);
    RCGC2.write(RCGC2.read() | 1);
    GPIOA_AFSEL.write(GPIOA_AFSEL.read() | 0b11);
    GPIOA_DEN.write(GPIOA_DEN.read() | 0b11);
    IBRD.write(CLOCK_HZ / (16 * BAUD));
    FBRD.write((CLOCK_HZ % (16 * BAUD) * 64 + 8 * BAUD) / (16 * BAUD));
    LCRH.write(0b0111_0000);
    CTL.write(0b11_0000_0001);
    IM.write(RX | RT);

    let mut systick = Peripherals::take().expect("taken once").SYST;
    systick.set_reload(CLOCK_HZ / 1000 - 1);
    systick.set_clock_source(SystClkSource::Core);
    systick.clear_current();
    systick.enable_counter();
    systick.enable_interrupt();
    // SAFETY: what the handler uses is set up above, and no critical section relies on the mask.
    unsafe { NVIC::unmask(Interrupt::UART0) };
    program_ends
}

/// Milliseconds since the start, rounded down.
pub fn now() -> Instant {
    Instant::from_millis(critical_section::with(|cs| TICKS.borrow(cs).get()))
}

/// Sleeps until the UART has moved bytes or `deadline` is reached. The tick wakes the processor
/// each millisecond, not the program.
pub fn sleep_until(deadline: Option<Instant>) {
    let is_due = || deadline.is_some_and(|at| now() >= at);
    // Interrupts are held back between the look and the sleep, and end the sleep all the same;
    // else one that comes in between would be slept over.
    while critical_section::with(|cs| {
        let sleeps = !STIRRED.borrow(cs).replace(false) && !is_due();
        if sleeps {
            cortex_m::asm::wfi();
        }
        sleeps
    }) {}
}

/// The interrupt is to look at the rings again.
pub fn pend_uart() {
    NVIC::pend(Interrupt::UART0);
}

/// Whether the UART still holds bytes to send.
pub fn is_sending() -> bool {
    FR.read() & BUSY != 0
}

#[exception]
fn SysTick() {
    critical_section::with(|cs| {
        let ticks = TICKS.borrow(cs);
        ticks.set(ticks.get() + 1);
    });
}

#[interrupt]
fn UART0() {
    critical_section::with(|cs| {
        if ENDS.borrow_ref_mut(cs).as_mut().is_some_and(serve) {
            STIRRED.borrow(cs).set(true);
        }
    });
}

/// Moves bytes between UART and rings; returns whether there were any.
///
/// What the ring has no room for stays in the UART, which is not asked again before the program
/// has read. With RTS wired nothing is lost so; without, the UART overruns and the decoder finds
/// its way.
fn serve(ends: &mut InterruptEnds) -> bool {
    let mut moved = false;
    // Before the bytes are moved: what happens from now on is told again.
    ICR.write(RX | TX | RT);
    while ends.received.ready() && FR.read() & RXFE == 0 {
        // The upper bits tell of line errors. The byte is passed on: a bad frame is recognised.
        let _ = ends.received.enqueue(DR.read() as u8);
        moved = true;
    }
    while FR.read() & TXFF == 0
        && let Some(byte) = ends.to_send.dequeue()
    {
        DR.write(u32::from(byte));
        moved = true;
    }
    let receives = if ends.received.ready() { RX | RT } else { 0 };
    let sends = if ends.to_send.ready() { TX } else { 0 };
    IM.write(receives | sends);
    moved
}
