//! The address of a node as a person writes it, and what to connect to for it.

use core::fmt;
use core::net::Ipv6Addr;
use core::str::FromStr;
use std::path::PathBuf;

/// The port of a node's client API.
pub const DEFAULT_PORT: u16 = 4403;

/// Where a node is: `HOST`, `HOST:PORT`, `[IPV6]:PORT`, `unix:PATH`, or `sim`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeAddr {
    /// A host name or address, and a port.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// TCP port; 4403 unless written.
        port: u16,
    },
    /// A Unix socket that speaks as a node does, such as that of a running daemon.
    Unix(PathBuf),
    /// A simulated node, started for this run.
    Sim,
}

/// What a link connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A host name or address, resolved afresh for every attempt, and a TCP port.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// The path of a Unix stream socket.
    Unix(PathBuf),
}

impl From<(String, u16)> for Target {
    fn from((host, port): (String, u16)) -> Self {
        Self::Tcp { host, port }
    }
}

/// Why a text is no node address: one line that names it and says what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddrError(String);

impl fmt::Display for NodeAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for NodeAddrError {}

impl FromStr for NodeAddr {
    type Err = NodeAddrError;

    fn from_str(text: &str) -> Result<Self, NodeAddrError> {
        if text == "sim" {
            return Ok(Self::Sim);
        }
        if text.starts_with("serial:") {
            return Err(NodeAddrError(
                "serial lines are not supported yet, use HOST[:PORT]".into(),
            ));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(NodeAddrError("the path is missing, write unix:PATH".into())),
                _ => Ok(Self::Unix(path.into())),
            };
        }
        let (host, port) = split(text)?;
        if host.is_empty() {
            return Err(NodeAddrError(
                "the host is missing, write HOST, HOST:PORT or [IPV6]:PORT".into(),
            ));
        }
        if let Some(wrong) = host.chars().find(|c| c.is_whitespace() || "/@[]".contains(*c)) {
            let message = format!("{wrong:?} cannot stand in a host name, write HOST or HOST:PORT");
            return Err(NodeAddrError(message));
        }
        if ["unix", "serial"].contains(&host) {
            let message = format!("{host:?} begins another kind of address, write the host's IP");
            return Err(NodeAddrError(message));
        }
        Ok(Self::Tcp { host: host.into(), port })
    }
}

/// Host and port; an IPv6 address may stand without brackets if no port follows.
fn split(text: &str) -> Result<(&str, u16), NodeAddrError> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((host, rest)) = rest.split_once(']') else {
            return Err(NodeAddrError("the closing bracket is missing, write [IPV6]:PORT".into()));
        };
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(NodeAddrError(format!("{host:?} in brackets is no IPv6 address")));
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, parse_port(port)?)),
            None if rest.is_empty() => Ok((host, DEFAULT_PORT)),
            None => Err(NodeAddrError("after the bracket only :PORT can follow".into())),
        };
    }
    match text.split_once(':') {
        None => Ok((text, DEFAULT_PORT)),
        Some(_) if text.parse::<Ipv6Addr>().is_ok() => Ok((text, DEFAULT_PORT)),
        Some((host, port)) => Ok((host, parse_port(port)?)),
    }
}

fn parse_port(text: &str) -> Result<u16, NodeAddrError> {
    match text.parse() {
        Ok(0) | Err(_) => {
            Err(NodeAddrError(format!("port {text:?} is not a number from 1 to 65535")))
        }
        Ok(port) => Ok(port),
    }
}

impl fmt::Display for NodeAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Sim => f.write_str("sim"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        text.parse::<NodeAddr>().map_or_else(|e| format!("error: {e}"), |n| n.to_string())
    }

    #[test]
    fn every_way_to_write_a_node() {
        for (text, node) in [
            ("meshtastic.local", "meshtastic.local:4403"),
            ("10.0.0.5", "10.0.0.5:4403"),
            ("10.0.0.5:4404", "10.0.0.5:4404"),
            ("[fe80::1]:4404", "[fe80::1]:4404"),
            ("[::1]", "[::1]:4403"),
            ("::1", "[::1]:4403"),
            ("unix:/run/meshbeat/meshbeat.sock", "unix:/run/meshbeat/meshbeat.sock"),
            ("unix:a b,c:1", "unix:a b,c:1"),
            ("sim", "sim"),
        ] {
            assert_eq!(parsed(text), node);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for text in [
            "",
            ":4403",
            "host:0",
            "host:65536",
            "host:abc",
            "host:",
            "[::1",
            "[x]:1",
            "[::1]1",
            "a b",
            "http://host",
            "user@host",
            "serial:/dev/ttyUSB0",
            "unix:",
        ] {
            assert!(parsed(text).starts_with("error: "), "{text:?}: {}", parsed(text));
        }
    }
}
