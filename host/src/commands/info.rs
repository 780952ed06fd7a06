//! `meshbeat info`: who the node is and how it is set up, without its secrets.

use core::time::Duration;
use std::io::{self, Write as _};

use meshbeat::dest::node_id;
use meshbeat_proto::config::lo_ra_config::{ModemPreset, RegionCode};
use meshbeat_proto::{HardwareModel, text};
use serde_json::json;

use crate::args::{NodeArgs, TcpArgs};
use crate::commands::names::{channel_name, enum_name, printable};
use crate::commands::reach::ask;
use crate::commands::snapshot::Snapshot;
use crate::commands::unless_broken_pipe;
use crate::exit::Failure;

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
    let limit = Duration::from_secs(args.timeout);
    let found = ask(&args.node, &args.tcp, limit, Duration::ZERO)?;
    unless_broken_pipe(print(&found, args.json))
}

fn print(found: &Snapshot, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let number = found.own();
    let user = found.nodes.get(&number).and_then(|node| node.user.as_ref());
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
    let others = found.nodes.keys().filter(|node| **node != number).count();
    if as_json {
        let channels: Vec<_> = found
            .channels
            .values()
            .map(|channel| {
                let role = channel.role().as_str_name();
                json!({ "index": channel.index, "name": channel_name(channel), "role": role })
            })
            .collect();
        let object = json!({
            "node": node_id(number), "num": number, "long_name": long_name,
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
    writeln!(out, "node      {}", node_id(number))?;
    writeln!(out, "name      {}", printable(&name))?;
    writeln!(out, "hardware  {}", or_unknown(hardware))?;
    writeln!(out, "firmware  {}", printable(&or_unknown(firmware.map(Into::into))))?;
    writeln!(out, "region    {}, modem preset {}", or_unknown(region), or_unknown(preset))?;
    for channel in found.channels.values() {
        let (name, role) = (channel_name(channel), channel.role().as_str_name().to_lowercase());
        writeln!(out, "channel   {} {} ({role})", channel.index, printable(&name))?;
    }
    writeln!(out, "knows     {others} other nodes")
}
