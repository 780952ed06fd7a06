//! The commands, one file each, and what they share.

pub(crate) mod decode;
pub(crate) mod demo;
pub(crate) mod info;
pub(crate) mod run;
pub(crate) mod sim;

use core::net::{Ipv4Addr, SocketAddr};
use std::io;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use meshbeat::node::NodeAddr;
use meshbeat::sim::{Server, SimConfig};

use crate::cli::Command;
use crate::exit::{Exit, Failure};

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Sim(args) => sim::run(args),
        Command::Decode(args) => decode::run(&args),
    }
}

/// Host and port of a node; `sim` starts one in this process.
fn host_and_port(node: &NodeAddr) -> Result<(String, u16), Failure> {
    match node {
        NodeAddr::Tcp { host, port } => Ok((host.clone(), *port)),
        NodeAddr::Sim => {
            let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let mut server = Server::bind(any_port, SimConfig::default(), seed())?;
            let address = server.local_addr();
            thread::Builder::new().name("sim".into()).spawn(move || server.run())?;
            Ok((address.ip().to_string(), address.port()))
        }
    }
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
