//! The link in a life with all that may happen, run on an emulated Cortex-M0 that counts
//! instructions: stack used, instructions for each byte received, sizes in memory. Prints lines of a
//! name and a number; `tests/budget/run` makes a table of them.
#![no_std]
#![no_main]

use core::arch::asm;
use core::convert::Infallible;
use core::mem::MaybeUninit;
use core::ptr::{read_volatile, write_volatile};

use cortex_m_rt::entry;
use embedded_io::{ErrorType, Read, ReadReady, Write};
use meshbeat_budget::{OUTBOX, turn};
use meshbeat_core::fault::Class;
use meshbeat_core::link::{Asked, Link, State};
use meshbeat_core::{Checked, Instant};
use semihosting::{println, process};

static HANDSHAKE: &[u8] = include_bytes!("../../../captures/handshake-fresh.bin");
static TRAFFIC: &[u8] = include_bytes!("../../../captures/traffic.bin");
/// A text to everybody.
static TEXT: &[u8] = b"\x0A\x0D\x15\xFF\xFF\xFF\xFF\x22\x06\x08\x01\x12\x02hi";

static mut LINK: MaybeUninit<Link<OUTBOX>> = MaybeUninit::uninit();

#[entry]
fn main() -> ! {
    clock::start();
    println!("link_without_outbox {}", size_of::<Link<0>>());
    println!("slot {}", size_of::<Link<1>>() - size_of::<Link<0>>());

    let place = &raw mut LINK;
    // SAFETY: the one use of it.
    let place = unsafe { &mut *place };
    let (making, link) = stack::used(|| place.write(Link::new(Checked::SERIAL, 0x5EED)));
    println!("stack_making {making}");

    let uart = Script::default();
    let mut life = Life { link, uart, now: Instant::ORIGIN, stack: Some(0) };
    life.play();
    println!("stack {}", life.stack.take().unwrap_or(0));

    let blocks = life.instructions(TRAFFIC, 32);
    let bytes = life.instructions(TRAFFIC, 1);
    println!("per_byte_in_blocks {}", blocks / TRAFFIC.len() as u64);
    println!("per_byte_alone {}", bytes / TRAFFIC.len() as u64);
    println!("idle_turn {}", clock::instructions(|| life.turns(1)));
    process::exit(0)
}

/// A UART whose other side is a script.
#[derive(Default)]
struct Script {
    input: &'static [u8],
    /// The most bytes that one read gives.
    most: usize,
    short: Short,
}

/// A few bytes that are made up while it runs.
#[derive(Default)]
struct Short {
    bytes: [u8; 16],
    start: usize,
    end: usize,
}

impl Short {
    fn push(&mut self, byte: u8) {
        self.bytes[self.end] = byte;
        self.end += 1;
    }

    fn push_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }
}

impl ErrorType for Script {
    type Error = Infallible;
}

impl Read for Script {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Infallible> {
        let most = self.most.min(buf.len());
        let from = match self.input {
            [] => &self.short.bytes[self.short.start..self.short.end],
            input => input,
        };
        let len = most.min(from.len());
        buf[..len].copy_from_slice(&from[..len]);
        match self.input {
            [] => self.short.start += len,
            input => self.input = &input[len..],
        }
        Ok(len)
    }
}

impl ReadReady for Script {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(!self.input.is_empty() || self.short.start < self.short.end)
    }
}

impl Write for Script {
    fn write(&mut self, buf: &[u8]) -> Result<usize, Infallible> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

struct Life {
    link: &'static mut Link<OUTBOX>,
    uart: Script,
    now: Instant,
    /// The most that a call has used so far, while that is measured.
    stack: Option<usize>,
}

impl Life {
    /// Texts that are confirmed, lost and sent again; a node that falls silent, a torn frame, a
    /// reset, an end.
    fn play(&mut self) {
        self.link.open(self.now);
        self.shake_hands();
        for sender in 0..2 {
            self.send(sender);
            self.send(sender);
        }
        // The first is told by its status; the second by barriers; then silence, until the link is
        // lost and up again and the rest is written once more.
        self.turns(1);
        self.status(self.link.stats().frames_out);
        for _ in 0..40 {
            self.pass(1000);
            self.status(0);
        }
        self.pass(60_000);
        self.shake_hands();
        self.hear(TRAFFIC, 7);
        self.hear(&TRAFFIC[9..], 32);
        self.hear(&HANDSHAKE[..500], 32);
        self.pass(600);
        self.link.handle_closed(self.now, Class::ConnectionReset.into());
        self.pass(30_000);
        self.shake_hands();
        self.link.refresh();
        self.pass(3000);
        self.shake_hands();
    }

    fn send(&mut self, sender: u16) {
        let (link, now) = (&mut *self.link, self.now);
        let (used, sent) = stack::used(|| link.send(now, sender, TEXT, None));
        self.stack = self.stack.max(Some(used));
        sent.expect("there is room");
        self.turns(2);
    }

    /// Plays the node's part of a handshake, whatever state the link is in.
    fn shake_hands(&mut self) {
        let nonce = loop {
            self.pass(100);
            match self.link.state() {
                State::Configuring { asked: Asked::With { nonce, .. }, .. } => break nonce,
                State::Idle | State::Closed => panic!("not on its way"),
                _ => {}
            }
        };
        // Without its last frame, which has another nonce.
        self.hear(&HANDSHAKE[..HANDSHAKE.len() - 10], 32);
        self.short(0x38, nonce, &[]);
        assert!(self.link.state().is_up(), "{:?}", self.link.state());
    }

    /// A queue status with room for all, about the packet with this id.
    fn status(&mut self, id: u32) {
        self.short(0x5A, 0, &[0x10, 0x10, 0x20, id as u8 & 0x7F]);
    }

    /// A frame with one field: a varint, or a message.
    fn short(&mut self, tag: u8, value: u32, message: &[u8]) {
        let mut payload = Short::default();
        payload.push(tag);
        match message {
            [] => payload.push_varint(value),
            message => {
                payload.push_varint(message.len() as u32);
                message.iter().for_each(|byte| payload.push(*byte));
            }
        }
        let mut frame = Short::default();
        [0x94, 0xC3, 0].iter().for_each(|byte| frame.push(*byte));
        frame.push_varint(payload.end as u32);
        payload.bytes[..payload.end].iter().for_each(|byte| frame.push(*byte));
        self.uart.short = frame;
        self.uart.most = 32;
        self.drain();
    }

    fn hear(&mut self, bytes: &'static [u8], most: usize) {
        (self.uart.input, self.uart.most) = (bytes, most);
        self.drain();
    }

    fn drain(&mut self) {
        while let Ok(true) = self.uart.read_ready() {
            self.turns(1);
        }
        self.turns(2);
    }

    /// Lets time pass, tenth by tenth of a second.
    fn pass(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(100) {
            self.now = Instant::from_millis(self.now.as_millis() + 100);
            self.turns(2);
        }
    }

    fn turns(&mut self, count: usize) {
        for _ in 0..count {
            let (link, uart, now) = (&mut *self.link, &mut self.uart, self.now);
            let mut one = || turn(link, uart, now, |_| {});
            match &mut self.stack {
                Some(most) => *most = stack::used(one).0.max(*most),
                None => _ = one(),
            }
        }
    }

    /// Instructions to receive all of it.
    fn instructions(&mut self, bytes: &'static [u8], most: usize) -> u64 {
        clock::instructions(|| self.hear(bytes, most))
    }
}

/// The emulator's clock runs with the instructions; a loop of known length says how many a tick is.
mod clock {
    use super::*;

    const CONTROL: *mut u32 = 0xE000_E010 as *mut u32;
    const RELOAD: *mut u32 = 0xE000_E014 as *mut u32;
    const CURRENT: *mut u32 = 0xE000_E018 as *mut u32;
    const LAST: u32 = 0x00FF_FFFF;

    pub(super) fn start() {
        // SAFETY: SysTick, which nothing else uses.
        unsafe {
            write_volatile(RELOAD, LAST);
            write_volatile(CURRENT, 0);
            write_volatile(CONTROL, 0b101);
        }
    }

    pub(super) fn instructions(work: impl FnOnce()) -> u64 {
        const ROUNDS: u32 = 100_000;
        let known = ticks(|| {
            // SAFETY: counts down in a register.
            unsafe { asm!("2: subs {0}, #1", "bne 2b", inout(reg) ROUNDS => _) }
        });
        u64::from(ticks(work)) * u64::from(2 * ROUNDS) / u64::from(known)
    }

    fn ticks(work: impl FnOnce()) -> u32 {
        // SAFETY: SysTick, which nothing else uses.
        let now = || unsafe { read_volatile(CURRENT) };
        let before = now();
        work();
        before.wrapping_sub(now()) & LAST
    }
}

/// The stack, painted and looked at afterwards.
mod stack {
    use super::*;

    const PAINT: u32 = 0xA5A5_5A5A;

    unsafe extern "C" {
        /// Behind the last variable: the stack may grow down to here.
        static mut __sheap: u32;
    }

    /// Bytes of stack that `work` used, and its result.
    #[inline(never)]
    pub(super) fn used<R>(work: impl FnOnce() -> R) -> (usize, R) {
        let top: usize;
        // SAFETY: reads the stack pointer.
        unsafe { asm!("mov {0}, sp", out(reg) top, options(nomem, nostack)) };
        let bottom = &raw mut __sheap;
        // What lies below now is this function's own and a little more.
        let words = (top - 64 - bottom as usize) / 4;
        for word in 0..words {
            // SAFETY: between the variables and the stack's end, which nobody uses.
            unsafe { write_volatile(bottom.add(word), PAINT) };
        }
        let result = apart(work);
        // SAFETY: as above.
        let untouched =
            (0..words).take_while(|word| unsafe { read_volatile(bottom.add(*word)) } == PAINT);
        (top - bottom as usize - 4 * untouched.count(), result)
    }

    /// Not inline, so that what `work` needs lies below the stack pointer of the caller.
    #[inline(never)]
    fn apart<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
}
