//! The tests that need more than one crate.

pub mod hostile;
pub mod life;
pub mod recorder;
pub mod messages;
pub mod schema;
pub mod world;
