//! `meshbeat listen`: what the mesh says, one line per packet.

use std::collections::VecDeque;
use std::io::{self, Write as _};

use meshbeat::event_loop::Program;
use meshbeat::upstream::HostLink;
use meshbeat_core::link::{Event, Item};
use meshbeat_core::{Instant, LinkConfig};
use meshbeat_proto::from_radio::PayloadVariant;
use meshbeat_proto::mesh_packet::TransportMechanism;
use meshbeat_proto::{FromRadio, MeshPacket, PortNum, mesh_packet};
use prost::Message as _;

use crate::args::{NodeArgs, TcpArgs};
use crate::commands::link_log::LinkLog;
use crate::commands::reach::Way;
use crate::commands::snapshot::Snapshot;
use crate::commands::{packet, unless_broken_pipe};
use crate::exit::Failure;

/// Prints what the mesh says, one line per packet, over any loss of the link. Positions and
/// telemetry that a node repeats after each handshake are left out.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    node: NodeArgs,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
    /// End after so many lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    tcp: TcpArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let way = Way::find(&args.node);
    let mut event_loop = way.event_loop(&args.tcp, LinkConfig::default())?;
    let mut listen = Listen {
        log: LinkLog::lasting(way.name().into()),
        mesh: Snapshot::default(),
        news: News::default(),
        json: args.json,
        left: args.count,
        written: Ok(()),
    };
    event_loop.run(&mut listen)?;
    unless_broken_pipe(listen.written)
}

struct Listen {
    log: LinkLog,
    mesh: Snapshot,
    news: News,
    json: bool,
    /// Lines that are still to be printed.
    left: Option<u64>,
    /// How the last line was written.
    written: io::Result<()>,
}

impl Listen {
    fn print(&mut self, packet: &MeshPacket) {
        let line = match self.json {
            true => packet::object(packet).to_string(),
            false => packet::plain(packet, &self.mesh),
        };
        let mut out = io::stdout().lock();
        self.written = writeln!(out, "{line}").and_then(|()| out.flush());
        self.left = self.left.map(|left| left.saturating_sub(1));
    }
}

impl Program for Listen {
    fn handle_event(&mut self, now: Instant, event: Event, _link: &HostLink) {
        self.log.handle_event(now, event);
        if let Event::Lost { was_up: true, .. } = event {
            self.news.handle_lost();
        }
    }

    fn handle_item(&mut self, _now: Instant, item: Item<'_>) {
        self.log.handle_item(&item);
        let Item::Frame { payload, .. } = item else { return };
        let variant = FromRadio::decode(payload).ok().and_then(|message| message.payload_variant);
        let Some(variant) = variant else { return };
        if let PayloadVariant::Packet(packet) = &variant
            && !self.is_done()
            && self.news.is_news(packet)
        {
            self.print(packet);
        }
        self.mesh.take(variant);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.log.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.log.poll_timeout()
    }

    fn is_done(&self) -> bool {
        self.left == Some(0) || self.written.is_err()
    }
}

/// Tells what is new from what the node repeats.
///
/// Each packet, by sender and id, is news once. From 2.8 on a node also repeats, after each
/// handshake, the last position and telemetry of every node as the packets they once were, mixed
/// with packets that it heard while nobody was connected. Those it repeats come from its database,
/// which does not keep the signal strength: they say that they came by radio, but not how strong,
/// while a packet that was really heard always has both. Such a one is news only if it fills a gap:
/// if the node heard it, by its own clock, after the last packet of the sessions before.
#[derive(Debug, Default)]
struct News {
    /// Sender and id of the last packets that were news.
    seen: VecDeque<(u32, u32)>,
    /// When the node heard the last packet that was no repetition; 0 if it told no time.
    newest: u32,
    /// `newest` when the last session ended; 0 in the first.
    mark: u32,
}

/// Packets remembered.
const SEEN: usize = 1000;

impl News {
    fn handle_lost(&mut self) {
        self.mark = self.newest;
    }

    fn is_news(&mut self, packet: &MeshPacket) -> bool {
        let repeated = is_repeated(packet);
        if repeated && (self.mark == 0 || packet.rx_time <= self.mark) {
            return false;
        }
        let key = (packet.from, packet.id);
        if packet.id != 0 && self.seen.contains(&key) {
            return false;
        }
        if self.seen.len() == SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(key);
        if !repeated && packet.rx_time != 0 {
            self.newest = packet.rx_time;
        }
        true
    }
}

/// Whether the packet comes from the node's database and not from the air just now.
fn is_repeated(packet: &MeshPacket) -> bool {
    const PORTS: [i32; 2] = [PortNum::PositionApp as i32, PortNum::TelemetryApp as i32];
    let by_radio = packet.transport_mechanism() == TransportMechanism::TransportLora;
    match &packet.payload_variant {
        Some(mesh_packet::PayloadVariant::Decoded(data)) => {
            by_radio && packet.rx_rssi == 0 && PORTS.contains(&data.portnum)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use meshbeat_core::decoder::{Decoder, Item};
    use meshbeat_proto::Data;

    use super::*;

    const PLACE: PortNum = PortNum::PositionApp;
    const TEXT: PortNum = PortNum::TextMessageApp;

    fn live(port: PortNum, id: u32, rx_time: u32) -> MeshPacket {
        let data = Data { portnum: port as i32, ..Data::default() };
        MeshPacket {
            from: 1,
            id,
            rx_time,
            rx_rssi: -90,
            transport_mechanism: TransportMechanism::TransportLora as i32,
            payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
            ..MeshPacket::default()
        }
    }

    fn repeated(port: PortNum, id: u32, rx_time: u32) -> MeshPacket {
        MeshPacket { rx_rssi: 0, ..live(port, id, rx_time) }
    }

    #[test]
    fn what_the_first_handshake_repeats_is_no_news() {
        let mut news = News::default();
        assert!(news.is_news(&live(TEXT, 3, 150)), "had waited in the node");
        assert!(!news.is_news(&repeated(PLACE, 1, 100)));
        assert!(!news.is_news(&repeated(PortNum::TelemetryApp, 2, 200)));
        assert!(news.is_news(&live(PLACE, 4, 201)), "live, right after the handshake");
        assert!(news.is_news(&live(PLACE, 5, 0)), "from a node without a clock");
    }

    #[test]
    fn after_an_outage_only_what_was_heard_in_it_is_news() {
        let mut news = News::default();
        assert!(news.is_news(&live(PLACE, 1, 1000)));
        assert!(news.is_news(&live(TEXT, 2, 1010)));
        news.handle_lost();
        assert!(news.is_news(&live(TEXT, 5, 1600)), "queued in the outage");
        assert!(!news.is_news(&repeated(PLACE, 1, 1000)), "printed before");
        assert!(!news.is_news(&repeated(PLACE, 3, 90)), "older than the first session");
        assert!(
            news.is_news(&repeated(PLACE, 4, 1500)),
            "heard in the outage, lost from the queue"
        );
        assert!(!news.is_news(&live(PLACE, 4, 1500)), "the same from the queue");
        assert!(!news.is_news(&live(TEXT, 2, 1010)), "printed before");
    }

    #[test]
    fn a_clock_put_back_silences_nothing() {
        let mut news = News::default();
        assert!(news.is_news(&live(TEXT, 1, 2_000_000_000)));
        assert!(news.is_news(&live(PLACE, 2, 1000)));
        news.handle_lost();
        assert!(news.is_news(&live(PLACE, 3, 900)));
        assert!(news.is_news(&repeated(PLACE, 4, 1001)));
    }

    #[test]
    fn packets_without_an_id_are_always_news_and_memory_is_bounded() {
        let mut news = News::default();
        assert!(news.is_news(&live(TEXT, 0, 1)) && news.is_news(&live(TEXT, 0, 1)));
        for id in 1..=5000 {
            assert!(news.is_news(&live(TEXT, id, 1)));
        }
        assert!(!news.is_news(&live(TEXT, 4100, 1)));
        assert_eq!(news.seen.len(), SEEN);
    }

    /// The streams of a real node: after a handshake 60 old positions, else live packets.
    #[test]
    fn a_real_nodes_repetitions_are_told_from_its_news() {
        let count = |name: &str| {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/captures");
            let bytes = std::fs::read(format!("{folder}/{name}")).expect("in the repository");
            let (mut decoder, mut news, mut at) = (Decoder::new(), News::default(), 0);
            let (mut packets, mut told) = (0, 0);
            while at < bytes.len() {
                let decoded = decoder.decode(&bytes[at..]);
                at += decoded.taken;
                if let Some(Item::Frame(payload)) = decoded.item
                    && let Ok(message) = FromRadio::decode(payload)
                    && let Some(PayloadVariant::Packet(packet)) = message.payload_variant
                {
                    packets += 1;
                    told += i32::from(news.is_news(&packet));
                }
            }
            (packets, told)
        };
        assert_eq!(count("handshake-nodes.bin"), (60, 0));
        // One is the copy of a text that a simulated radio makes.
        assert_eq!(count("traffic.bin"), (401, 400));
    }
}
