//! The relay: one node, any number of unmodified clients. Without socket, clock or file: bytes and
//! `now` in, bytes and deadlines out.

pub mod wire;
pub mod admission;
pub mod snapshot;
