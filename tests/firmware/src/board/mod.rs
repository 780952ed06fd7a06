//! The board: a clock, sleep, and one UART. Each board's file has the same functions:
//!
//! * `start()`, once: sets up clock and UART and returns the program's ends of the rings;
//! * `now()`: milliseconds since then, rounded down;
//! * `sleep_until(deadline)`: sleeps until the UART has moved bytes or the deadline is reached;
//! * `pend_uart()`: the program has taken or given bytes, the interrupt is to look again;
//! * `is_sending()`: bytes are on their way behind the rings;
//! * `entry`, the attribute of the main function, and `NAME`.

#![allow(unsafe_code, reason = "registers and interrupt handlers")]

#[cfg(feature = "typed")]
pub mod heap;
#[cfg(target_arch = "arm")]
mod lm3s6965;
#[cfg(target_arch = "riscv32")]
mod virt;

#[cfg(target_arch = "arm")]
pub use self::lm3s6965::{NAME, entry, is_sending, now, pend_uart, sleep_until, start};
#[cfg(target_arch = "riscv32")]
pub use virt::{NAME, entry, is_sending, now, pend_uart, sleep_until, start};

/// A memory-mapped register of `T`.
struct Register<T>(*mut T);

impl<T: Copy> Register<T> {
    /// The register at `address`. Only the board files make one, and only of addresses at which the
    /// board has a register of that size and no memory.
    const fn at(address: usize) -> Self {
        Self(address as *mut T)
    }

    fn read(&self) -> T {
        // SAFETY: there is a register, as `at` says; no Rust object is there to be read.
        unsafe { self.0.read_volatile() }
    }

    fn write(&self, value: T) {
        // SAFETY: there is a register, as `at` says; no Rust object is there to be overwritten.
        unsafe { self.0.write_volatile(value) }
    }
}
