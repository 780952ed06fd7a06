//! The log: one line per event on standard error, each naming its component, repeats folded.
//!
//! `2026-11-22T12:30:01Z INFO  link: node.local:4403: up again after 12.0 s, 4 attempts`. Under
//! systemd, which stamps lines itself, without the time.

use core::time::Duration;
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use log::{Level, LevelFilter, Log, Metadata, Record};

/// The level for so many `-v` and `-q`: plain is info.
pub(crate) fn level(verbose: u8, quiet: u8) -> LevelFilter {
    match i16::from(verbose) - i16::from(quiet) {
        ..=-2 => LevelFilter::Error,
        -1 => LevelFilter::Warn,
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        2.. => LevelFilter::Trace,
    }
}

/// Installs the log for this process.
pub(crate) fn start(level: LevelFilter) {
    let stamp = std::env::var_os("JOURNAL_STREAM").is_none();
    let logger = Logger { stamp, fold: Mutex::new(Fold::default()) };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
    }
}

struct Logger {
    stamp: bool,
    fold: Mutex<Fold>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string();
        let line = format!("{:<5} {}: {}", record.level(), record.target(), one_line(&text));
        let mut fold = self.fold.lock().unwrap_or_else(PoisonError::into_inner);
        for line in fold.handle_line(Instant::now(), record.level(), line) {
            self.print(&line);
        }
    }

    fn flush(&self) {
        let mut fold = self.fold.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = fold.take_count() {
            self.print(&line);
        }
    }
}

impl Logger {
    /// A log that nobody reads any more is no reason to stop.
    fn print(&self, line: &str) {
        let line = match self.stamp {
            true => format!("{} {line}\n", jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ")),
            false => format!("{line}\n"),
        };
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// What a peer wrote cannot make two lines of one, or move the cursor.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Counts a line that repeats instead of printing it, for a minute at most.
#[derive(Debug, Default)]
struct Fold {
    last: String,
    printed: Option<Instant>,
    count: u32,
}

impl Fold {
    const LONGEST: Duration = Duration::from_secs(60);

    /// The lines to print now.
    fn handle_line(&mut self, now: Instant, level: Level, line: String) -> Vec<String> {
        let recent = self.printed.is_some_and(|at| now.duration_since(at) < Self::LONGEST);
        // Who asks for trace wants every line.
        if line == self.last && recent && level != Level::Trace {
            self.count += 1;
            return Vec::new();
        }
        let mut lines: Vec<_> = self.take_count().into_iter().collect();
        self.printed = Some(now);
        self.last.clone_from(&line);
        lines.push(line);
        lines
    }

    fn take_count(&mut self) -> Option<String> {
        match core::mem::take(&mut self.count) {
            0 => None,
            1 => Some(self.last.clone()),
            count => Some(format!("{} ({count} times)", self.last)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        assert_eq!(level(0, 0), LevelFilter::Info);
        assert_eq!(level(1, 0), LevelFilter::Debug);
        assert_eq!(level(0, 1), LevelFilter::Warn);
        assert_eq!(level(3, 1), LevelFilter::Trace);
        assert_eq!(level(0, 9), LevelFilter::Error);
    }

    #[test]
    fn repeats_are_folded_with_a_count() {
        let mut fold = Fold::default();
        let start = Instant::now();
        let mut say = |seconds, line: &str| {
            fold.handle_line(start + Duration::from_secs(seconds), Level::Info, line.into())
        };
        assert_eq!(say(0, "a"), ["a"]);
        assert!(say(1, "a").is_empty());
        assert!(say(2, "a").is_empty());
        assert_eq!(say(3, "b"), ["a (2 times)", "b"]);
        assert!(say(4, "b").is_empty());
        assert_eq!(say(63, "b"), ["b", "b"], "a minute later it is news again");
    }

    #[test]
    fn a_peer_cannot_forge_a_line() {
        assert_eq!(one_line("name\n2026 ERROR x\x1b[2J"), "name 2026 ERROR x [2J");
    }
}
