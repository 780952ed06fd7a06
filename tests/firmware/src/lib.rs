//! The link on a microcontroller: an interrupt-driven UART, a clock, sleep between two turns.
//!
//! All of it is shared by the boards but `board/lm3s6965.rs` and `board/virt.rs`. Nothing allocates
//! unless the feature `typed` is on.

#![no_std]

// In the order of dependency: a module uses those above it.
pub mod rings;
pub mod board;
pub mod uart;
pub mod report;
pub mod client;
