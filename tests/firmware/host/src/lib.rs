//! What the test of the firmware is written with: the firmware's builds, a board in QEMU, a
//! simulated node, and the line between the two.

// In the order of dependency: a module uses those above it.
pub mod watch;
pub mod build;
pub mod node;
pub mod line;
pub mod board;
