//! The heap of the programs that decode whole messages.

use embedded_alloc::LlffHeap;

/// A payload decodes to 5 KB at most, a list of pins without names, and half as much again while
/// that list grows.
const SIZE: usize = 16 * 1024;

#[global_allocator]
static HEAP: LlffHeap = LlffHeap::empty();

/// Gives the heap its memory; to be called once, before anything is allocated.
pub fn start() {
    // SAFETY: called once, as said above; the macro's memory has no other user.
    unsafe {
        embedded_alloc::init!(HEAP, SIZE);
    }
}

/// Bytes that are allocated now.
pub fn used() -> usize {
    HEAP.used()
}
