//! `meshbeat sim`: a simulated node that official clients accept, and that fails when told to.

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{ErrorKind, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use signal_hook::consts::{SIGINT, SIGTERM};

use meshbeat::sim::{Fault, Schedule, Server, SimConfig, UnknownFault};

use crate::args::listen_addr;
use crate::exit::{Exit, Failure};

/// A simulated Meshtastic node that official clients accept, with faults on request.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Where to listen; port 0 picks a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4403", value_parser = listen_addr)]
    pub(crate) listen: SocketAddr,
    /// Other nodes in its database
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub(crate) nodes: u32,
    /// Where names, keys, places and all that is random come from; the same number, the same node
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Packets it hears from the mesh
    #[arg(long, value_name = "PER_MINUTE", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(..=60_000))]
    pub(crate) traffic: u32,
    /// Faults to play, see --help
    #[arg(long, value_name = "NAME[,NAME…]", value_delimiter = ',', long_help = fault_help())]
    pub(crate) fault: Vec<String>,
    /// Mean time between two faults of those that do not last
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    pub(crate) fault_every: f64,
    /// Play all faults at random times, the lasting ones until the next
    #[arg(long, conflicts_with = "fault")]
    pub(crate) all_faults: bool,
    /// Behave like a native build without a radio: transmit statuses and copies as port 69
    #[arg(long)]
    pub(crate) simulated_radio: bool,
    /// Multiply the spans of the rate limits by this; 0 switches them off
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(crate) rate_scale: f32,
    /// Read input up to this late
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 300)]
    pub(crate) input_delay: u64,
    /// Packets that wait for a client that is away
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) queue: usize,
}

/// Serves until SIGTERM or SIGINT. The one line on standard output, `listening on IP:PORT`, is
/// flushed when clients can connect.
///
/// # Errors
/// A line that names the wrong value and what would be right.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let plan = Plan::new(args).map_err(|line| Failure::new(Exit::Usage, line))?;
    let mut server = Server::bind(args.listen, config(args), args.seed)
        .map_err(|error| failed(bind_error(args.listen, &error)))?;
    server.set_news_level(log::Level::Info);
    server
        .stop_on_signals(&[SIGTERM, SIGINT])
        .map_err(|error| failed(format!("signals: {error}")))?;

    let now = server.now();
    for fault in plan.lasting {
        server.node_mut().inject(now, fault);
    }
    server.node_mut().adopt();
    if !plan.scheduled.is_empty() {
        let schedule = Schedule::new(now, plan.scheduled, plan.every, args.seed);
        server.node_mut().play(schedule);
    }

    let mut out = std::io::stdout().lock();
    match writeln!(out, "listening on {}", server.local_addr()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            return Err(failed(format!("standard output: {error}")));
        }
        _ => {}
    }
    drop(out);
    server.run().map_err(|error| failed(format!("{}: {error}", server.local_addr())))
}

fn failed(line: String) -> Failure {
    Failure::new(Exit::Failed, line)
}

/// Which faults hold from the start and which come by and by.
#[derive(Debug)]
struct Plan {
    lasting: Vec<Fault>,
    scheduled: Vec<Fault>,
    every: Duration,
}

impl Plan {
    fn new(args: &Args) -> Result<Self, String> {
        let every = Duration::try_from_secs_f64(args.fault_every)
            .ok()
            .filter(|every| (0.1..=86_400.0).contains(&every.as_secs_f64()))
            .ok_or_else(|| {
                format!("--fault-every {}: seconds from 0.1 to 86400", args.fault_every)
            })?;
        if args.all_faults {
            return Ok(Self { lasting: Vec::new(), scheduled: Fault::catalogue(), every });
        }
        let parsed: Result<Vec<Fault>, UnknownFault> =
            args.fault.iter().map(|text| text.trim().parse()).collect();
        let faults = parsed.map_err(|error| format!("--fault: {error}"))?;
        let (lasting, scheduled) = faults.into_iter().partition(Fault::is_lasting);
        Ok(Self { lasting, scheduled, every })
    }
}

fn fault_help() -> String {
    let lasting = |lasting| {
        let faults = Fault::catalogue().into_iter().filter(move |f| f.is_lasting() == lasting);
        faults.map(|fault| fault.name()).collect::<Vec<_>>().join(", ")
    };
    format!(
        "Faults to play, NAME or NAME=SECONDS where there is a span (refuse=10).\n\
         These come at random times: {}.\n\
         These hold from the start: {}",
        lasting(false),
        lasting(true)
    )
}

fn config(args: &Args) -> SimConfig {
    let mut config = SimConfig::default();
    config.identity.nodes = args.nodes;
    let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    config.identity.epoch = u32::try_from(unix_time.as_secs()).unwrap_or(u32::MAX);
    config.traffic.per_minute = args.traffic;
    config.radio.simulated = args.simulated_radio;
    config.limits.scale = args.rate_scale;
    config.limits.enforced = args.rate_scale > 0.0;
    config.timing.input_delay = Duration::from_millis(args.input_delay);
    config.queues.packets = args.queue;
    config
}

fn bind_error(addr: SocketAddr, error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            format!("{addr} is in use; stop who listens there, or choose another with --listen")
        }
        ErrorKind::PermissionDenied => {
            format!("{addr}: not permitted; ports below 1024 need leave, 4403 does not")
        }
        ErrorKind::AddrNotAvailable => {
            format!("{addr} is no address of this machine; try 127.0.0.1:{}", addr.port())
        }
        _ => format!("cannot listen on {addr}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        Line::try_parse_from(core::iter::once("sim").chain(line.split_whitespace()))
            .expect("a right line")
            .args
    }

    #[test]
    fn faults_are_split_into_lasting_and_scheduled() {
        let plan = Plan::new(&args("--fault mute,refuse=3 --fault rst")).expect("known faults");
        assert_eq!(plan.lasting, [Fault::Mute]);
        assert_eq!(plan.scheduled, [Fault::Refuse { span: Duration::from_secs(3) }, Fault::Rst]);
        let plan = Plan::new(&args("--all-faults")).expect("known faults");
        assert_eq!(plan.scheduled, Fault::catalogue());
    }

    #[test]
    fn wrong_values_are_named_with_the_right_ones() {
        let error = Plan::new(&args("--fault fin,finn")).expect_err("no such fault");
        assert!(error.contains("`finn`") && error.contains("short-write"), "{error}");
        let error = Plan::new(&args("--fault-every 0")).expect_err("too often");
        assert!(error.contains("0.1 to 86400"), "{error}");
    }

    #[test]
    fn a_port_in_use_is_one_clear_line() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let addr = taken.local_addr().expect("bound");
        let error = run(&args(&format!("--listen {addr}"))).expect_err("in use").line;
        assert_eq!(error.lines().count(), 1);
        assert!(error.contains(&addr.to_string()) && error.contains("in use"), "{error}");
    }
}
