//! `meshbeat`: the Meshtastic client link that never dies.

#![forbid(unsafe_code)]

mod exit;
mod log;
mod args;
mod commands;
mod cli;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::cli::Cli;
use crate::exit::Exit;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    log::start(log::level(cli.verbose + u8::from(cli::debug_mode()), cli.quiet));
    let result = cli.command.run();
    ::log::logger().flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.line);
            failure.exit.into()
        }
    }
}

/// A wrong value is one line that names it; what is wrong with the line as a whole is clap's to
/// explain, as is help.
fn usage(error: &clap::Error) -> ExitCode {
    if error.kind() == ErrorKind::ValueValidation {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        complain(line.strip_prefix("error: ").unwrap_or(line));
        return Exit::Usage.into();
    }
    // Help that nobody reads any more is no failure.
    let _ = error.print();
    u8::try_from(error.exit_code()).map_or_else(|_| Exit::Usage.into(), ExitCode::from)
}

/// The one line that says why; if nobody can read it, the exit code has to do.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "meshbeat: {line}");
}
