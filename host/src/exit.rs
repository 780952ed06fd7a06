//! How a command ends: exit codes and the one line that says why.

use std::process::ExitCode;

/// The exit codes of the command line; scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Failed, with one line saying why.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// The node was not reachable within the time allowed (one-shot commands only).
    Unreachable = 3,
    /// Sent, but not acknowledged (`send --ack` only).
    NotAcknowledged = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command's failure: its exit code and the one line.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) line: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, line: impl Into<String>) -> Self {
        Self { exit, line: line.into() }
    }
}

/// Anything that just failed.
impl<E: core::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}
