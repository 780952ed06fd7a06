//! The official Rust client library as a test peer: connects, takes the whole configuration, says
//! what it saw, sends, listens, leaves.
//!
//! ```text
//! client HOST:PORT [--send TEXT] [--expect-nodes N] [--listen COUNT] [--timeout S]
//! ```
//!
//! Standard output, one JSON object per line: `{"nodes","myNodeNum","channels"}` once configured
//! (`nodes` without the own one), `{"sent"}` once a sent text was queued and acknowledged,
//! `{"text","from","to","channel","id"}` per received text. Exit 1 with one line on any error, 75
//! if the library drew a packet id whose answers it cannot read: start again.

use std::collections::VecDeque;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use meshtastic::api::ConnectedStreamApi;
use meshtastic::packet::PacketDestination;
use meshtastic::protobufs::{from_radio, routing};
use meshtastic::types::MeshChannel;
use peer::{Peer, Result, connect, holds_magic, print, routing_reply, text_of};
use serde_json::{Value, json};

const USAGE: &str =
    "client HOST:PORT [--send TEXT] [--expect-nodes N] [--listen COUNT] [--timeout S]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match Options::from_args(std::env::args().skip(1)) {
        Ok(options) => {
            let timeout = options.timeout;
            tokio::time::timeout(timeout, run(options))
                .await
                .unwrap_or_else(|_| Err(format!("not done within {timeout:?}").into()))
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client: {error}");
            ExitCode::from(if error.is::<UnreadableId>() { 75 } else { 1 })
        }
    }
}

struct Options {
    address: String,
    send: Option<String>,
    expect_nodes: usize,
    listen: usize,
    timeout: Duration,
}

impl Options {
    fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            address: String::new(),
            send: None,
            expect_nodes: 0,
            listen: 0,
            timeout: Duration::from_secs(60),
        };
        while let Some(arg) = args.next() {
            if !arg.starts_with("--") && options.address.is_empty() {
                options.address = arg;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("usage: {USAGE}"))?;
            let number = || value.parse().map_err(|_| format!("{arg}: {value:?} is not a number"));
            match arg.as_str() {
                "--send" => options.send = Some(value),
                "--expect-nodes" => options.expect_nodes = number()?,
                "--listen" => options.listen = number()?,
                "--timeout" => options.timeout = Duration::from_secs(number()? as u64),
                _ => return Err(format!("usage: {USAGE}").into()),
            }
        }
        if options.address.is_empty() {
            return Err(format!("usage: {USAGE}").into());
        }
        Ok(options)
    }
}

async fn run(options: Options) -> Result<()> {
    let (peer, mut api) = connect(options.address).await?;
    let Peer { nodes, channels, node_num, .. } = peer;
    print(&json!({ "nodes": nodes, "myNodeNum": node_num, "channels": channels }))?;
    if nodes < options.expect_nodes {
        let expected = options.expect_nodes;
        return Err(format!("{nodes} other nodes, expected at least {expected}").into());
    }
    let mut client = Client { peer, texts: VecDeque::new() };
    if let Some(text) = options.send {
        let id = client.send(&mut api, text).await?;
        print(&json!({ "sent": id }))?;
    }
    for _ in 0..options.listen {
        print(&client.next_text().await?)?;
    }
    api.disconnect().await?;
    Ok(())
}

struct Client {
    peer: Peer,
    /// Texts that came while something else was awaited.
    texts: VecDeque<Value>,
}

impl Client {
    /// Sends a broadcast with `want_ack`; done when its queue status and its Routing reply came.
    async fn send(&mut self, api: &mut ConnectedStreamApi, text: String) -> Result<u32> {
        let channel = MeshChannel::new(0)?;
        let to = PacketDestination::Broadcast;
        api.send_text(&mut self.peer, text, to, true, channel).await?;
        let id = self.peer.last_sent;
        if holds_magic(id) {
            return Err(UnreadableId(id).into());
        }
        let (mut queued, mut acknowledged) = (false, false);
        while !(queued && acknowledged) {
            match self.next().await? {
                from_radio::PayloadVariant::QueueStatus(status) if status.mesh_packet_id == id => {
                    if status.res != 0 {
                        return Err(format!("packet {id}: queue status {}", status.res).into());
                    }
                    queued = true;
                }
                from_radio::PayloadVariant::Packet(packet) => match routing_reply(&packet)? {
                    Some((about, routing::Error::None)) if about == id => acknowledged = true,
                    Some((about, error)) if about == id => {
                        return Err(format!("packet {id}: {error:?}").into());
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        Ok(id)
    }

    async fn next_text(&mut self) -> Result<Value> {
        loop {
            if let Some(text) = self.texts.pop_front() {
                return Ok(text);
            }
            self.next().await?;
        }
    }

    /// The next message; texts among them are kept.
    async fn next(&mut self) -> Result<from_radio::PayloadVariant> {
        let variant = self.peer.next().await?;
        if let from_radio::PayloadVariant::Packet(packet) = &variant
            && packet.from != self.peer.node_num
            && let Some(text) = text_of(packet)
        {
            self.texts.push_back(json!({
                "text": text,
                "from": packet.from,
                "to": packet.to,
                "channel": packet.channel,
                "id": packet.id,
            }));
        }
        Ok(variant)
    }
}

/// A packet id whose answers the library cannot read, see [`holds_magic`].
#[derive(Debug)]
struct UnreadableId(u32);

impl Error for UnreadableId {}

impl std::fmt::Display for UnreadableId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "packet id {} holds the frame magic", self.0)
    }
}
