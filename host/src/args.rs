//! Arguments that several commands share.

use core::net::SocketAddr;
use core::time::Duration;

use clap::Args;
use meshbeat::node::NodeAddr;
use meshbeat::socket::TcpOptions;

/// How to reach the node over TCP.
#[derive(Debug, Clone, Args)]
pub(crate) struct TcpArgs {
    /// Seconds that written bytes may stay unacknowledged before the kernel gives the connection
    /// up (`TCP_USER_TIMEOUT`, Linux); 0 leaves it to the system
    #[arg(long, value_name = "SECONDS", default_value_t = 35,
          value_parser = clap::value_parser!(u64).range(..=3600))]
    user_timeout: u64,
    /// Seconds of silence before the kernel's keep-alive probes; off by default
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=7200))]
    keepalive: Option<u64>,
    /// Send small writes at once (no Nagle)
    #[arg(long)]
    nodelay: bool,
}

impl TcpArgs {
    pub(crate) fn options(&self) -> TcpOptions {
        TcpOptions {
            user_timeout: (self.user_timeout > 0).then(|| Duration::from_secs(self.user_timeout)),
            keepalive: self.keepalive.map(Duration::from_secs),
            nodelay: self.nodelay,
            ..TcpOptions::default()
        }
    }
}

/// Which node, for a command that can also use a running daemon.
#[derive(Debug, Clone, Args)]
pub(crate) struct NodeArgs {
    /// The node: HOST, HOST:PORT, [IPV6]:PORT (default port 4403), unix:PATH, or `sim` for a
    /// built-in one [default: the running daemon, else 127.0.0.1:4403]
    #[arg(long, value_name = "NODE", env = "MESHBEAT_NODE")]
    pub(crate) node: Option<NodeAddr>,
    /// Connect to the node itself although a daemon holds it; that throws the daemon off
    #[arg(long)]
    pub(crate) direct: bool,
}

/// Where to listen: `IP:PORT`, `[IPV6]:PORT`.
pub(crate) fn listen_addr(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "write IP:PORT, such as 127.0.0.1:4403; port 0 picks a free one")
}
