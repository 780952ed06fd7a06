//! The host side of meshbeat: the core's link on a TCP socket, one event loop, a simulated node.
//!
//! ```no_run
//! use meshbeat::event_loop::{EventLoop, Program};
//! use meshbeat::socket::TcpOptions;
//! use meshbeat_core::link::Item;
//! use meshbeat_core::{Instant, LinkConfig};
//!
//! struct Printer;
//!
//! impl Program for Printer {
//!     fn handle_item(&mut self, _now: Instant, item: Item<'_>) {
//!         if let Item::Frame { message, .. } = item {
//!             println!("{}", message.name());
//!         }
//!     }
//! }
//!
//! let node = ("meshtastic.local".to_owned(), 4403);
//! let mut link = EventLoop::new(node, LinkConfig::default(), TcpOptions::default(), 1)?;
//! link.run(&mut Printer)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

// In the order of dependency: a module uses those above it.
pub mod node;
pub mod dest;
pub mod clock;
pub mod lines;
pub mod socket;
pub mod resolve;
pub mod upstream;
pub mod event_loop;
pub mod report;
pub mod notify;
pub mod hooks;
pub mod relay;
pub mod store;
pub mod doors;
pub mod status;
pub mod daemon;
pub mod sim;
