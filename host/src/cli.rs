//! What was typed.

use clap::{ArgAction, Parser, Subcommand};

use crate::commands;
use crate::exit::Failure;

/// The Meshtastic client link that never dies.
///
/// Holds the one connection that a Meshtastic node serves, and recovers it from every fault.
#[derive(Debug, Parser)]
#[command(name = "meshbeat", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Say more on standard error; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say less: warnings and errors only; twice for errors only
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) quiet: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Hold the link to a node and relay it to local clients, for ever
    Run(commands::run::Args),
    /// Show the main job without hardware: a simulated node, faults, recovery, summary
    Demo(commands::demo::Args),
    /// Print what the mesh says, one line per packet
    Listen(commands::listen::Args),
    /// Send a text, and say what became of it
    Send(commands::send::Args),
    /// List the nodes that the node knows
    Nodes(commands::nodes::Args),
    /// Say who the node is and how it is set up
    Info(commands::info::Args),
    /// Ask the running daemon how the link is and whom it serves
    Status(commands::status::Args),
    /// Simulate a node that official clients accept
    Sim(commands::sim::Args),
    /// Find the frames in a raw byte capture
    Decode(commands::decode::Args),
}

impl Command {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Run(args) => commands::run::run(args),
            Self::Demo(args) => commands::demo::run(args),
            Self::Listen(args) => commands::listen::run(args),
            Self::Send(args) => commands::send::run(args),
            Self::Nodes(args) => commands::nodes::run(args),
            Self::Info(args) => commands::info::run(args),
            Self::Status(args) => commands::status::run(args),
            Self::Sim(args) => commands::sim::run(args),
            Self::Decode(args) => commands::decode::run(args),
        }
    }
}

/// Whether the environment asks for `-v`, as the program did that this one descends from.
pub(crate) fn debug_mode() -> bool {
    std::env::var("DEBUG_MODE").is_ok_and(|value| value.eq_ignore_ascii_case("true"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
