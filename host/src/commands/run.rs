//! `meshbeat run`: holds the link and relays it.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::ValueEnum;
use meshbeat::daemon::{Daemon, DaemonConfig, default_socket, local_node};
use meshbeat::doors::ListenAddr;
use meshbeat::event_loop::EventLoop;
use meshbeat::node::{DEFAULT_PORT, NodeAddr};
use meshbeat::notify::Notify;
use meshbeat::relay::RelayConfig;
use meshbeat::store::{Store, default_dir};

use crate::args::TcpArgs;
use crate::commands::{host_and_port, seed};
use crate::exit::Failure;

/// Holds the link to a node and relays it to any number of clients, until SIGTERM or SIGINT.
/// SIGUSR1 prints the status as one line of JSON.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The node: HOST, HOST:PORT, [IPV6]:PORT (default port 4403), unix:PATH, or `sim` for a
    /// built-in one
    #[arg(long, value_name = "NODE", env = "MESHBEAT_NODE")]
    node: NodeAddr,
    /// Where clients connect: IP:PORT, [IPV6]:PORT or unix:PATH, perhaps with `,full`,
    /// `,no-admin` or `,read-only` behind it; may be given several times [default: 127.0.0.1:4403]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<ListenAddr>,
    /// The folder where the node's configuration is kept between runs, so that clients get it
    /// although the node is away, or `none` [default: `$STATE_DIRECTORY`, or meshbeat in the XDG
    /// state folder; none for `sim`]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Packets kept for the next client while there is none
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u16).range(0..=1000))]
    backlog: u16,
    /// Whether clients are told when the link to the node goes and when it is back
    #[arg(long, value_name = "WHEN", default_value = "on")]
    notify: Switch,
    /// Seconds that a packet of which no byte was written waits for the node
    #[arg(long, value_name = "SECONDS", default_value_t = 3600,
          value_parser = clap::value_parser!(u64).range(1..=604_800))]
    ttl: u64,
    /// Clients at the same time; more are turned away
    #[arg(long, value_name = "N", default_value_t = 256,
          value_parser = clap::value_parser!(u16).range(1..=10_000))]
    max_clients: u16,
    /// The socket for `meshbeat status` and the other commands, or `none` [default:
    /// meshbeat.sock in `$RUNTIME_DIRECTORY`, `$XDG_RUNTIME_DIR` or /run/meshbeat]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Run by `sh -c` when the link is lost, with `MESHBEAT_EVENT`, `MESHBEAT_NODE`,
    /// `MESHBEAT_REASON` and `MESHBEAT_DOWN_SECONDS` set; killed after 60 s
    #[arg(long, value_name = "CMD")]
    on_down: Option<String>,
    /// Run in the same way when the link is back
    #[arg(long, value_name = "CMD")]
    on_up: Option<String>,
    /// The longest wait between two connects, in seconds; for tests
    #[arg(long, value_name = "SECONDS", hide = true,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    backoff_cap: Option<u64>,
    /// Kernel buffers of about so many bytes for each client's socket; for tests
    #[arg(long, value_name = "BYTES", hide = true)]
    client_buffers: Option<usize>,
    #[command(flatten)]
    tcp: TcpArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let target = host_and_port(&args.node)?;
    let config = DaemonConfig {
        node: args.node.to_string(),
        local_node: local_node(&target),
        listen: args.doors(),
        socket: args.socket(),
        store: args.store()?,
        relay: args.relay(),
        on_down: args.on_down.clone(),
        on_up: args.on_up.clone(),
        seed: seed(),
        client_buffers: args.client_buffers,
    };
    let mut link = Daemon::link_config();
    if let Some(cap) = args.backoff_cap {
        link.backoff.cap = Duration::from_secs(cap).into();
        link.backoff.crowded_cap = link.backoff.cap;
    }
    let mut event_loop = EventLoop::new(target, link, args.tcp.options(), seed())?;
    let mut daemon = Daemon::new(config, &event_loop, Notify::from_env())?;
    let mut out = io::stdout();
    for address in daemon.local_addrs() {
        // Nobody may be reading; the clients are served all the same.
        let _ = writeln!(out, "listening on {address}").and_then(|()| out.flush());
    }
    event_loop.run(&mut daemon)?;
    Ok(())
}

impl Args {
    fn doors(&self) -> Vec<ListenAddr> {
        if !self.listen.is_empty() {
            return self.listen.clone();
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT));
        vec![ListenAddr::Tcp { address, policy: None }]
    }

    fn socket(&self) -> Option<PathBuf> {
        match &self.socket {
            Some(path) if path.as_os_str() == "none" => None,
            Some(path) => Some(path.clone()),
            None => {
                let path = default_socket();
                if path.is_none() {
                    log::debug!(target: "relay", "no folder for the daemon's socket");
                }
                path
            }
        }
    }

    /// A folder that was asked for must do; without the usual one the link is held all the same.
    fn store(&self) -> Result<Option<Store>, Failure> {
        let node = self.node.to_string();
        match &self.state {
            Some(folder) if folder.as_os_str() == "none" => Ok(None),
            Some(folder) => Ok(Some(Store::open(folder, &node)?)),
            // It is another node in each run.
            None if self.node == NodeAddr::Sim => Ok(None),
            None => {
                let opened = default_dir().map(|folder| Store::open(&folder, &node)).transpose();
                Ok(opened.unwrap_or_else(|error| {
                    log::warn!(target: "state", "{error}; nothing is kept between runs");
                    None
                }))
            }
        }
    }

    fn relay(&self) -> RelayConfig {
        RelayConfig {
            backlog: self.backlog.into(),
            max_clients: self.max_clients.into(),
            notify: self.notify == Switch::On,
            ttl: Some(Duration::from_secs(self.ttl)),
            ..RelayConfig::default()
        }
    }
}
