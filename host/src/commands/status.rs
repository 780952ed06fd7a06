//! `meshbeat status`: how the running daemon is.

use core::time::Duration;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use meshbeat::daemon::{ask, socket_paths};
use meshbeat::status::render;
use serde_json::Value;

use crate::commands::unless_broken_pipe;
use crate::exit::{Exit, Failure};

/// Asks the running daemon how the link is, how it was, and whom it serves.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// The daemon's socket [default: the first that answers of `$XDG_RUNTIME_DIR/meshbeat.sock` and
    /// `/run/meshbeat/meshbeat.sock`]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Time for the answer.
const LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let paths = args.socket.clone().map_or_else(socket_paths, |path| vec![path]);
    let answer = first_answer(&paths)?;
    let text = match args.json {
        true => answer + "\n",
        false => {
            let wrong = |error| Failure::new(Exit::Failed, format!("the daemon's answer: {error}"));
            render(&serde_json::from_str::<Value>(&answer).map_err(wrong)?)
        }
    };
    unless_broken_pipe(io::stdout().lock().write_all(text.as_bytes()))
}

/// The first answer of a daemon. If there is none, the first path on which something is wrong is
/// the one to be told of.
fn first_answer(paths: &[PathBuf]) -> Result<String, Failure> {
    let mut wrong = None;
    for path in paths {
        match ask(path, "status", LIMIT) {
            Ok(answer) => return Ok(answer),
            Err(error) if is_nobody(&error) => {}
            Err(error) => wrong = wrong.or_else(|| Some(failed(path, &error))),
        }
    }
    Err(wrong.unwrap_or_else(|| {
        let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        let paths = paths.join(" or ");
        let line =
            format!("no daemon at {paths}: is `meshbeat run` running? --socket names another path");
        Failure::new(Exit::Failed, line)
    }))
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    Failure::new(
        Exit::Failed,
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("{path}: this is for the daemon's user and root only; try sudo")
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("{path}: no answer within {} s", LIMIT.as_secs())
            }
            io::ErrorKind::UnexpectedEof => format!("{path}: closed without an answer"),
            _ => format!("{path}: {error}"),
        },
    )
}
