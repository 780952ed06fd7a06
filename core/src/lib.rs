#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

// In the order of dependency: a module uses those above it.
mod fmt;
pub mod time;
pub mod rng;
#[doc(hidden)]
pub mod mutant;
pub mod fault;
pub mod frame;
pub mod decoder;
pub mod peek;
pub mod tx;
pub mod backoff;
pub mod heartbeat;
pub mod pacing;
pub mod outbox;
pub mod config;
pub mod link;
#[cfg(feature = "embedded-io-async")]
pub mod asynchronous;

pub use config::{Checked, ConfigError, LinkConfig};
pub use fault::Fault;
pub use link::{Event, Link};
pub use time::{Instant, Span};
