//! QEMU's RISC-V board `virt`: the UART is a 16550, interrupts come by a PLIC, the clock is the
//! CLINT's `mtime` at 10 MHz.

use core::cell::{Cell, RefCell};
use core::ptr::addr_of_mut;

use critical_section::Mutex;
use meshbeat_core::Instant;
use riscv::interrupt::Interrupt;
use riscv::register::mie;
use riscv_rt::core_interrupt;

use super::Register;
use crate::rings::{InterruptEnds, ProgramEnds, Rings};

pub use riscv_rt::entry;

/// The board's name.
pub const NAME: &str = "virt";

/// Steps of `mtime` in a millisecond.
const STEPS: u64 = 10_000;
/// The UART's number at the PLIC.
const UART0: u32 = 10;

// Addresses and sizes are those of QEMU's `hw/riscv/virt.c`; none is memory.
const MTIMECMP_LOW: Register<u32> = Register::at(0x0200_4000);
const MTIMECMP_HIGH: Register<u32> = Register::at(0x0200_4004);
const MTIME_LOW: Register<u32> = Register::at(0x0200_BFF8);
const MTIME_HIGH: Register<u32> = Register::at(0x0200_BFFC);
const PRIORITY: Register<u32> = Register::at(0x0C00_0000 + 4 * UART0 as usize);
const ENABLE: Register<u32> = Register::at(0x0C00_2000);
const THRESHOLD: Register<u32> = Register::at(0x0C20_0000);
const CLAIM: Register<u32> = Register::at(0x0C20_0004);
/// Read: received; written: to send.
const DATA: Register<u8> = Register::at(0x1000_0000);
const IER: Register<u8> = Register::at(0x1000_0001);
const FCR: Register<u8> = Register::at(0x1000_0002);
const LCR: Register<u8> = Register::at(0x1000_0003);
const LSR: Register<u8> = Register::at(0x1000_0005);

/// Bits of `IER`: received, room to send.
const RX: u8 = 1;
const TX: u8 = 1 << 1;
/// Bits of `LSR`: received, the FIFO to send is empty, and so is what is behind it.
const DR: u8 = 1;
const THRE: u8 = 1 << 5;
const TEMT: u8 = 1 << 6;
/// Bytes in the FIFO to send.
const FIFO: usize = 16;

/// Bytes were moved since the program last looked.
static STIRRED: Mutex<Cell<bool>> = Mutex::new(Cell::new(false));
static ENDS: Mutex<RefCell<Option<InterruptEnds>>> = Mutex::new(RefCell::new(None));

/// Sets up clock and UART.
///
/// # Panics
/// When called twice.
pub fn start() -> ProgramEnds {
    static mut RINGS: Rings = Rings::new();
    static STARTED: Mutex<Cell<bool>> = Mutex::new(Cell::new(false));
    let again = critical_section::with(|cs| STARTED.borrow(cs).replace(true));
    assert!(!again, "started once");
    // SAFETY: nothing else names it, and this line is passed once.
    let rings = unsafe { &mut *addr_of_mut!(RINGS) };
    let (interrupt_ends, program_ends) = rings.split();
    critical_section::with(|cs| ENDS.borrow(cs).replace(Some(interrupt_ends)));

    // 8 data bits and FIFOs. QEMU asks for no baud rate.
    LCR.write(0b11);
    FCR.write(0b111);
    IER.write(RX);
    PRIORITY.write(1);
    THRESHOLD.write(0);
    ENABLE.write(1 << UART0);
    set_alarm(None);
    // SAFETY: what the handlers use is set up above, and no critical section is entered.
    unsafe {
        mie::set_mtimer();
        mie::set_mext();
        riscv::interrupt::enable();
    }
    program_ends
}

/// Milliseconds since the start, rounded down.
pub fn now() -> Instant {
    loop {
        let high = MTIME_HIGH.read();
        let low = MTIME_LOW.read();
        // Else the low half has run over between the two.
        if MTIME_HIGH.read() == high {
            return Instant::from_millis((u64::from(high) << 32 | u64::from(low)) / STEPS);
        }
    }
}

/// Sleeps until the UART has moved bytes or `deadline` is reached.
pub fn sleep_until(deadline: Option<Instant>) {
    let is_due = || deadline.is_some_and(|at| now() >= at);
    set_alarm(deadline);
    // Interrupts are held back between the look and the sleep, and end the sleep all the same;
    // else one that comes in between would be slept over.
    while critical_section::with(|cs| {
        let sleeps = !STIRRED.borrow(cs).replace(false) && !is_due();
        if sleeps {
            riscv::asm::wfi();
        }
        sleeps
    }) {}
}

/// The interrupt is to look at the rings again: the UART tells at once that there is room.
pub fn pend_uart() {
    critical_section::with(|_| IER.write(RX | TX));
}

/// Whether the UART still holds bytes to send.
pub fn is_sending() -> bool {
    LSR.read() & TEMT == 0
}

/// The timer's interrupt is to come at this moment.
fn set_alarm(at: Option<Instant>) {
    let at = at.map_or(u64::MAX, |at| at.as_millis().saturating_mul(STEPS));
    // Never an earlier moment in between, though the halves are written one after the other.
    MTIMECMP_LOW.write(u32::MAX);
    MTIMECMP_HIGH.write((at >> 32) as u32);
    MTIMECMP_LOW.write(at as u32);
}

#[core_interrupt(Interrupt::MachineTimer)]
fn handle_timer() {
    // Its only purpose was to end the sleep.
    set_alarm(None);
}

#[core_interrupt(Interrupt::MachineExternal)]
fn handle_external() {
    let source = CLAIM.read();
    if source == UART0 {
        critical_section::with(|cs| {
            if ENDS.borrow_ref_mut(cs).as_mut().is_some_and(serve) {
                STIRRED.borrow(cs).set(true);
            }
        });
    }
    CLAIM.write(source);
}

/// Moves bytes between UART and rings; returns whether there were any.
///
/// What the ring has no room for stays in the UART, which is not asked again before the program
/// has read. With RTS wired nothing is lost so; without, the UART overruns and the decoder finds
/// its way.
fn serve(ends: &mut InterruptEnds) -> bool {
    let mut moved = false;
    while ends.received.ready() && LSR.read() & DR != 0 {
        let _ = ends.received.enqueue(DATA.read());
        moved = true;
    }
    if LSR.read() & THRE != 0 {
        for byte in core::iter::from_fn(|| ends.to_send.dequeue()).take(FIFO) {
            DATA.write(byte);
            moved = true;
        }
    }
    let receives = if ends.received.ready() { RX } else { 0 };
    let sends = if ends.to_send.ready() { TX } else { 0 };
    IER.write(receives | sends);
    moved
}
