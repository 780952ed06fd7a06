//! The simulated node, a process of its own: it can be stopped dead and killed.

use core::net::SocketAddr;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::build;

/// A node that runs; killed when dropped.
#[derive(Debug)]
pub struct Node {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

impl Node {
    /// `meshbeat sim` with these arguments, and twelve other nodes.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(args: &[&str]) -> Self {
        let mut command = Command::new(build::meshbeat());
        command.args(["sim", "--listen", "127.0.0.1:0", "--nodes", "12", "--input-delay", "20"]);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it was built");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("text");
        let address = line.trim().strip_prefix("listening on ").and_then(|at| at.parse().ok());
        let Some(address) = address else { panic!("{command:?} says {line:?}") };
        Self { address, child }
    }

    /// It neither reads nor writes until [`Node::resume`]; its connection stays.
    pub fn suspend(&self) {
        self.signal("-STOP");
    }

    /// It goes on where it stood.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {name}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
