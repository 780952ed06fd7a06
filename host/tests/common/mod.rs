//! What the tests of the real binary share: a simulated node, and how a command ended.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::path::Path;
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};

use meshbeat::sim::{Handle, Server, SimConfig};

/// A simulated node in this process.
pub(crate) struct Sim {
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Sim {
    /// A healthy node that knows twelve others and answers soon.
    pub(crate) fn new(change: impl FnOnce(&mut SimConfig)) -> Self {
        let mut config = SimConfig::default();
        config.identity.nodes = 12;
        config.timing.input_delay = Duration::ZERO;
        config.timing.accept_poll = Duration::from_millis(5);
        config.timing.idle_poll = Duration::from_millis(5);
        config.radio.airtime = Duration::from_millis(1)..=Duration::from_millis(1);
        config.radio.answer = Duration::from_millis(50)..=Duration::from_millis(50);
        change(&mut config);
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut server = Server::bind(any_port, config, 1).expect("loopback");
        let (address, handle) = (server.local_addr(), server.handle());
        let thread = thread::spawn(move || server.run().expect("the simulated node"));
        Self { address, handle, thread: Some(thread) }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.handle.stop();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

/// How a command ended and what it said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn is(&self, code: i32, out: &str, err: &str) {
        let expected = Self { code: Some(code), out: out.into(), err: err.into() };
        assert_eq!(self, &expected);
    }

    /// Failed with this code, nothing on standard output and one line that has `part` in it.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, part: &str) {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with("meshbeat: ") && self.err.contains(part), "{self:?}");
    }
}

/// The binary with these arguments; sockets and state have their place in `folder`.
pub(crate) fn binary(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshbeat"));
    command.args(args).env("XDG_RUNTIME_DIR", folder).env("XDG_STATE_HOME", folder);
    for name in ["MESHBEAT_NODE", "DEBUG_MODE", "RUNTIME_DIRECTORY", "STATE_DIRECTORY"] {
        command.env_remove(name);
    }
    command
}
