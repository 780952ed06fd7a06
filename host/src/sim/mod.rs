//! A simulated Meshtastic node with the firmware's behaviour and every fault of the catalogue.
//!
//! [`SimNode`] is the model: no socket, no clock, no thread. Bytes and the time go in, bytes,
//! actions and deadlines come out, and equal seeds and calls give equal behaviour. [`Server`] puts
//! it on a TCP port. Official clients accept it as a node.
//!
//! ```text
//!            handle_bytes                 take_packet            transmit
//! client ──► Conn.input ──poll──► Parser ──► sending ──► queue to the radio ──► air
//!    ▲                                          │ queue statuses                 │ answers
//!    └── Output ◄── emit ◄── handshake, PhoneQueue ◄────────── traffic, replies ◄┘
//! ```

mod admin;
mod config;
mod conn;
mod fault;
mod handshake;
mod log;
mod mesh;
mod node;
mod parser;
mod play;
mod queue;
mod schedule;
mod sending;
mod server;
mod traffic;

#[cfg(test)]
mod script;

pub use config::{
    Chance, Heartbeat, Identity, Limits, Queues, Radio, SimConfig, Stream, Timing, Traffic,
};
pub use fault::{Fault, UnknownFault};
pub use log::{ConnId, Entry, Log, Loss, Record, Totals, Why, hash};
pub use node::{Action, How, Listening, SimNode};
pub use schedule::Schedule;
pub use server::{Handle, Server};
