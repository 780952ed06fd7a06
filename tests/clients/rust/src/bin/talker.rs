//! The official Rust client library as a talker: it connects once, says what it sees, and sends
//! what it is told to. Standard input and output are those of `py/talker.py`.
//!
//! ```text
//! talker HOST:PORT
//! ```

use std::process::ExitCode;

use log::{Level, LevelFilter, Log, Metadata, Record};
use meshtastic::packet::PacketDestination;
use meshtastic::protobufs::from_radio::PayloadVariant;
use meshtastic::types::MeshChannel;
use peer::{Result, connect, print, routing_reply, text_of};
use serde_json::json;
use tokio::sync::mpsc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    log::set_logger(&Errors).expect("the first logger");
    log::set_max_level(LevelFilter::Error);
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where nobody reads that, the exit code tells.
            let _ = print(&json!({ "error": error.to_string() }));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let address = std::env::args().nth(1).ok_or("usage: talker HOST:PORT")?;
    let (mut peer, mut api) = connect(address).await?;
    print(&json!({ "ready": peer.node_num, "nodes": peer.nodes }))?;
    let mut commands = commands();
    loop {
        tokio::select! {
            message = peer.next() => show(message?)?,
            command = commands.recv() => {
                let command = command.unwrap_or_else(|| "quit".into());
                let Some(text) = command.strip_prefix("send ") else { break };
                let (to, channel) = (PacketDestination::Broadcast, MeshChannel::new(0)?);
                api.send_text(&mut peer, text.into(), to, true, channel).await?;
                print(&json!({ "sent": peer.last_sent, "text": text }))?;
            }
        }
    }
    api.disconnect().await?;
    Ok(())
}

/// The lines of standard input.
fn commands() -> mpsc::UnboundedReceiver<String> {
    let (to, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(std::result::Result::ok) {
            if to.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

fn show(message: PayloadVariant) -> Result<()> {
    match message {
        PayloadVariant::Packet(packet) => {
            if let Some((id, reason)) = routing_reply(&packet)? {
                print(&json!({ "answered": id, "reason": reason.as_str_name() }))?;
            }
            if let Some(text) = text_of(&packet) {
                print(&json!({ "received": text, "from": packet.from, "id": packet.id }))?;
            }
        }
        PayloadVariant::ClientNotification(notification) => {
            print(&json!({ "notice": notification.message }))?;
        }
        _ => {}
    }
    Ok(())
}

/// What the library logs as an error; it has no other way to tell of some.
struct Errors;

impl Log for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Error
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let _ = print(&json!({ "error": record.args().to_string() }));
        }
    }

    fn flush(&self) {}
}
