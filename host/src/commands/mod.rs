//! The commands, one file each, and what they share.

mod link_log;
mod names;
mod packet;
mod reach;
mod snapshot;

pub(crate) mod decode;
pub(crate) mod demo;
pub(crate) mod info;
pub(crate) mod listen;
pub(crate) mod nodes;
pub(crate) mod run;
pub(crate) mod send;
pub(crate) mod sim;
pub(crate) mod status;

use core::net::{Ipv4Addr, SocketAddr};
use std::io;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use meshbeat::node::{NodeAddr, Target};
use meshbeat::sim::{Server, SimConfig};

use crate::exit::{Exit, Failure};

/// What to connect to for a node; `sim` starts one in this process.
fn host_and_port(node: &NodeAddr) -> Result<Target, Failure> {
    match node {
        NodeAddr::Tcp { host, port } => Ok(Target::Tcp { host: host.clone(), port: *port }),
        NodeAddr::Unix(path) => Ok(Target::Unix(path.clone())),
        NodeAddr::Sim => {
            let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let mut config = SimConfig::default();
            config.identity.epoch = unix_time();
            config.traffic.per_minute = 30;
            let mut server = Server::bind(any_port, config, seed())?;
            let address = server.local_addr();
            thread::Builder::new().name("sim".into()).spawn(move || server.run())?;
            Ok(Target::Tcp { host: address.ip().to_string(), port: address.port() })
        }
    }
}

/// Seconds since 1970, by the clock of this machine.
fn unix_time() -> u32 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since_epoch.as_secs()).unwrap_or(u32::MAX)
}

/// A seed for jitter and nonces: the time and the process, so that no two links go in step.
fn seed() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_epoch.as_nanos() as u64 ^ u64::from(std::process::id()) << 32
}

/// Standard output that somebody has stopped reading is a success: they have seen enough.
fn unless_broken_pipe(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(Exit::Failed, format!("standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}
