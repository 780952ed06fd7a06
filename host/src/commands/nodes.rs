//! `meshbeat nodes`: the nodes that the node knows, as a table people like to read.

use core::cmp::Reverse;
use core::time::Duration;
use std::io::{self, Write as _};

use meshbeat::dest::node_id;
use meshbeat_proto::{HardwareModel, NodeInfo, text};
use serde_json::json;
use unicode_width::UnicodeWidthStr as _;

use crate::args::{NodeArgs, TcpArgs};
use crate::commands::names::{enum_name, printable};
use crate::commands::reach::ask;
use crate::commands::snapshot::Snapshot;
use crate::commands::{unix_time, unless_broken_pipe};
use crate::exit::Failure;

/// Lists the nodes that the node knows: itself first, then those heard last.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    node: NodeArgs,
    /// One JSON object per node and line
    #[arg(long)]
    json: bool,
    /// Seconds until the node counts as not reachable
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    #[command(flatten)]
    tcp: TcpArgs,
}

/// From 2.8 on the state of a battery comes after the handshake, in one burst.
const LINGER: Duration = Duration::from_millis(500);

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let limit = Duration::from_secs(args.timeout);
    let found = ask(&args.node, &args.tcp, limit, LINGER)?;
    let mut nodes: Vec<_> = found.nodes.values().collect();
    nodes.sort_by_key(|node| (node.num != found.own(), Reverse(node.last_heard)));
    unless_broken_pipe(match args.json {
        true => print_json(&nodes, &found),
        false => {
            let rows: Vec<_> =
                nodes.iter().map(|node| row(node, found.own(), unix_time())).collect();
            io::stdout().lock().write_all(table(&rows).as_bytes())
        }
    })
}

fn print_json(nodes: &[&NodeInfo], found: &Snapshot) -> io::Result<()> {
    let mut out = io::stdout().lock();
    nodes.iter().try_for_each(|node| writeln!(out, "{}", object(node, found.own())))?;
    out.flush()
}

/// What is not known is null.
fn object(node: &NodeInfo, own: u32) -> serde_json::Value {
    let user = node.user.as_ref();
    let metrics = node.device_metrics.as_ref();
    json!({
        "node": node_id(node.num), "num": node.num, "own": node.num == own,
        "long_name": user.map(|user| text(&user.long_name)),
        "short_name": user.map(|user| text(&user.short_name)),
        "hardware": user.map(|user| enum_name(user.hw_model, HardwareModel::as_str_name)),
        "last_heard": (node.last_heard != 0).then_some(node.last_heard),
        "hops": node.hops_away,
        "snr": (node.snr != 0.0).then_some(f64::from(node.snr)),
        "battery": metrics.and_then(|metrics| metrics.battery_level),
    })
}

const HEADER: [&str; 7] = ["name", "short", "id", "last heard", "hops", "SNR", "battery"];
/// Numbers stand right.
const RIGHT: [bool; 7] = [false, false, false, true, true, true, true];

/// One node at the time `now` (seconds since 1970).
fn row(node: &NodeInfo, own: u32, now: u32) -> [String; 7] {
    let known = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let user = node.user.as_ref();
    let is_own = node.num == own;
    let battery = node.device_metrics.as_ref().and_then(|metrics| metrics.battery_level);
    [
        known(user.map(|user| printable(&text(&user.long_name)))),
        known(user.map(|user| printable(&text(&user.short_name)))),
        node_id(node.num),
        if is_own { "this node".into() } else { ago(node.last_heard, now) },
        known(node.hops_away.filter(|_| !is_own).map(|hops| hops.to_string())),
        known((node.snr != 0.0).then(|| format!("{:.1} dB", node.snr))),
        known(battery.map(|level| match level {
            101.. => "powered".into(),
            level => format!("{level} %"),
        })),
    ]
}

/// `3 min ago`; clocks that differ by less than a minute agree.
fn ago(then: u32, now: u32) -> String {
    match now.checked_sub(then) {
        _ if then == 0 => "never".into(),
        None if then - now < 60 => "now".into(),
        None => "clock ahead".into(),
        Some(seconds @ 0..60) => format!("{seconds} s ago"),
        Some(seconds @ 60..3600) => format!("{} min ago", seconds / 60),
        Some(seconds @ 3600..172_800) => format!("{} h ago", seconds / 3600),
        Some(seconds) => format!("{} d ago", seconds / 86_400),
    }
}

/// Columns as wide as what stands in them, on a terminal: `☀` is not as wide as `漢`.
fn table(rows: &[[String; 7]]) -> String {
    let header = HEADER.map(str::to_owned);
    let lines: Vec<_> = core::iter::once(&header).chain(rows).collect();
    let widths: [usize; 7] = core::array::from_fn(|column| {
        lines.iter().map(|line| line[column].width()).max().unwrap_or(0)
    });
    let mut out = String::new();
    for line in lines {
        let cells = line.iter().zip(widths).zip(RIGHT).map(|((cell, width), right)| {
            let space = " ".repeat(width - cell.width());
            if right { format!("{space}{cell}") } else { format!("{cell}{space}") }
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use meshbeat_proto::{DeviceMetrics, User};

    use super::*;

    fn node(num: u32, name: &str, last_heard: u32) -> NodeInfo {
        NodeInfo {
            num,
            user: Some(User {
                long_name: name.as_bytes().to_vec(),
                short_name: b"ab".to_vec(),
                ..User::default()
            }),
            last_heard,
            snr: -5.25,
            hops_away: Some(2),
            device_metrics: Some(DeviceMetrics { battery_level: Some(84), ..Default::default() }),
            ..NodeInfo::default()
        }
    }

    #[test]
    fn the_table_fits_what_stands_in_it() {
        let own = NodeInfo { num: 0x89ab_cdef, ..NodeInfo::default() };
        let rows = [own, node(1, "漢字 ☀", 999_940), node(2, "Zo\u{1b}ë Base", 999_000)]
            .map(|node| row(&node, 0x89ab_cdef, 1_000_000));
        let expected = "\
name       short  id         last heard  hops      SNR  battery
-          -      !89abcdef   this node     -        -        -
漢字 ☀     ab     !00000001   1 min ago     2  -5.2 dB     84 %
Zo\u{FFFD}ë Base  ab     !00000002  16 min ago     2  -5.2 dB     84 %
";
        assert_eq!(table(&rows), expected);
    }

    #[test]
    fn times_read_well() {
        let now = 10_000_000;
        for (age, text) in [
            (0, "0 s ago"),
            (59, "59 s ago"),
            (60, "1 min ago"),
            (3_599, "59 min ago"),
            (3_600, "1 h ago"),
            (172_799, "47 h ago"),
            (172_800, "2 d ago"),
        ] {
            assert_eq!(ago(now - age, now), text);
        }
        assert_eq!(ago(0, now), "never");
        assert_eq!(ago(now + 59, now), "now");
        assert_eq!(ago(now + 60, now), "clock ahead");
    }

    #[test]
    fn json_has_null_for_what_is_not_known() {
        let object_of = |node| object(&node, 1);
        let expected = json!({
            "node": "!00000001", "num": 1, "own": true, "long_name": "Ann", "short_name": "ab",
            "hardware": "UNSET", "last_heard": 5, "hops": 2, "snr": -5.25, "battery": 84,
        });
        assert_eq!(object_of(node(1, "Ann", 5)), expected);
        let expected = json!({
            "node": "!00000002", "num": 2, "own": false, "long_name": null, "short_name": null,
            "hardware": null, "last_heard": null, "hops": null, "snr": null, "battery": null,
        });
        assert_eq!(object_of(NodeInfo { num: 2, ..NodeInfo::default() }), expected);
    }
}
