//! `meshbeat info`: who the node is and how it is set up, without its secrets.

use core::time::Duration;
use std::io::{self, Write as _};

use meshbeat::event_loop::{EventLoop, Program};
use meshbeat::report::span;
use meshbeat_core::fault::{Class, Fault, Verdict};
use meshbeat_core::link::{Event, Item, Link};
use meshbeat_core::{Instant, LinkConfig};
use meshbeat_proto::config::lo_ra_config::{ModemPreset, RegionCode};
use meshbeat_proto::from_radio::PayloadVariant;
use meshbeat_proto::{
    Channel, DeviceMetadata, FromRadio, HardwareModel, MyNodeInfo, NodeInfo, channel, config, text,
};
use prost::Message as _;
use serde_json::json;

use crate::cli::{NodeArgs, TcpArgs};
use crate::commands::{host_and_port, seed, unless_broken_pipe};
use crate::exit::{Exit, Failure};

/// Says who the node is and how it is set up. Keys and passwords are not shown.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    node: NodeArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// Seconds until the node counts as not reachable
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    #[command(flatten)]
    tcp: TcpArgs,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let node = host_and_port(&args.node.node)?;
    let limit = Duration::from_secs(args.timeout);
    let mut event_loop = EventLoop::new(node, LinkConfig::default(), args.tcp.options(), seed())?;
    let mut ask = Ask::new(event_loop.clock().now() + limit);
    event_loop.run(&mut ask)?;
    match ask.end {
        Some(End::Configured) => unless_broken_pipe(print(&ask.found, args.json)),
        Some(End::GaveUp(fault)) => {
            Err(Failure::new(Exit::Failed, format!("{}: {fault}", args.node.node)))
        }
        Some(End::UnknownHost) => Err(Failure::new(
            Exit::Unreachable,
            format!(
                "{}: the name has no address; write a known host or an IP address",
                args.node.node
            ),
        )),
        Some(End::TimedOut) => {
            let why = match ask.last_fault {
                Some(fault) => fault.to_string(),
                None => "no answer".into(),
            };
            let line = format!("{} not reachable within {}: {why}", args.node.node, span(limit));
            Err(Failure::new(Exit::Unreachable, line))
        }
        None => Err(Failure::new(Exit::Failed, "interrupted")),
    }
}

/// Waits for one whole handshake.
struct Ask {
    deadline: Instant,
    end: Option<End>,
    last_fault: Option<Fault>,
    found: Found,
}

enum End {
    Configured,
    TimedOut,
    UnknownHost,
    GaveUp(Fault),
}

/// What a handshake told.
#[derive(Default)]
struct Found {
    my_info: MyNodeInfo,
    metadata: Option<DeviceMetadata>,
    nodes: Vec<NodeInfo>,
    channels: Vec<Channel>,
    lora: Option<config::LoRaConfig>,
}

impl Ask {
    fn new(deadline: Instant) -> Self {
        Self { deadline, end: None, last_fault: None, found: Found::default() }
    }
}

impl Program for Ask {
    fn handle_event(&mut self, _now: Instant, event: Event, _link: &Link) {
        match event {
            // A handshake that broke off starts over.
            Event::Opened => self.found = Found::default(),
            Event::Configured { .. } => self.end = Some(End::Configured),
            Event::Lost { fault, .. } if self.end.is_none() => {
                self.last_fault = Some(fault);
                if fault.class() == Class::NameNotResolved {
                    self.end = Some(End::UnknownHost);
                } else if fault.verdict() == Verdict::GiveUp {
                    self.end = Some(End::GaveUp(fault));
                }
            }
            _ => {}
        }
    }

    fn handle_item(&mut self, _now: Instant, item: Item<'_>) {
        if let Item::Frame { payload, .. } = item
            && let Ok(message) = FromRadio::decode(payload)
            && let Some(variant) = message.payload_variant
        {
            self.found.take(variant);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if now >= self.deadline && self.end.is_none() {
            self.end = Some(End::TimedOut);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.end.is_none().then_some(self.deadline)
    }

    fn is_done(&self) -> bool {
        self.end.is_some()
    }
}

impl Found {
    fn take(&mut self, variant: PayloadVariant) {
        match variant {
            PayloadVariant::MyInfo(info) => self.my_info = info,
            PayloadVariant::Metadata(metadata) => self.metadata = Some(metadata),
            PayloadVariant::NodeInfo(node) => self.nodes.push(node),
            PayloadVariant::Channel(channel) if channel.role() != channel::Role::Disabled => {
                self.channels.push(channel);
            }
            PayloadVariant::Config(config) => {
                if let Some(config::PayloadVariant::Lora(lora)) = config.payload_variant {
                    self.lora = Some(lora);
                }
            }
            _ => {}
        }
    }
}

fn print(found: &Found, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let number = found.my_info.my_node_num;
    let own = found.nodes.iter().find(|node| node.num == number);
    let user = own.and_then(|node| node.user.as_ref());
    let long_name = user.map(|user| text(&user.long_name));
    let short_name = user.map(|user| text(&user.short_name));
    let metadata = found.metadata.as_ref();
    let firmware = metadata.map(|metadata| text(&metadata.firmware_version));
    let hardware = metadata.map(|m| enum_name(m.hw_model, HardwareModel::as_str_name));
    let lora = found.lora.as_ref();
    let region = lora.map(|lora| enum_name(lora.region, RegionCode::as_str_name));
    let preset = lora.map(|lora| match lora.use_preset {
        true => enum_name(lora.modem_preset, ModemPreset::as_str_name),
        false => "custom".into(),
    });
    let others = found.nodes.iter().filter(|node| node.num != number).count();
    if as_json {
        let channels: Vec<_> = found
            .channels
            .iter()
            .map(|channel| {
                let role = channel.role().as_str_name();
                json!({ "index": channel.index, "name": channel_name(channel), "role": role })
            })
            .collect();
        let object = json!({
            "node": format!("!{number:08x}"), "num": number, "long_name": long_name,
            "short_name": short_name, "firmware": firmware, "hardware": hardware, "region": region,
            "modem_preset": preset, "channels": channels, "other_nodes": others,
            "reboots": found.my_info.reboot_count,
        });
        return writeln!(out, "{object}");
    }
    let unknown = || "not told".to_owned();
    let or_unknown = |value: Option<String>| value.unwrap_or_else(unknown);
    let name = match (long_name, short_name) {
        (Some(long), Some(short)) => format!("{long} ({short})"),
        _ => unknown(),
    };
    writeln!(out, "node      !{number:08x}")?;
    writeln!(out, "name      {}", printable(&name))?;
    writeln!(out, "hardware  {}", or_unknown(hardware))?;
    writeln!(out, "firmware  {}", printable(&or_unknown(firmware.map(Into::into))))?;
    writeln!(out, "region    {}, modem preset {}", or_unknown(region), or_unknown(preset))?;
    for channel in &found.channels {
        let (name, role) = (channel_name(channel), channel.role().as_str_name().to_lowercase());
        writeln!(out, "channel   {} {} ({role})", channel.index, printable(&name))?;
    }
    writeln!(out, "knows     {others} other nodes")
}

/// The channel's name; the primary one may go by the preset's.
fn channel_name(channel: &Channel) -> String {
    let name = channel.settings.as_ref().map(|settings| text(&settings.name).into_owned());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into())
}

/// The official name of an enum value, or its number when it is newer than we are.
fn enum_name<E: TryFrom<i32>>(value: i32, name: impl Fn(&E) -> &'static str) -> String {
    E::try_from(value).map_or_else(|_| value.to_string(), |known| name(&known).into())
}

/// What a stranger on the mesh chose as a name cannot steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}
