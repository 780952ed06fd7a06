//! What happens to the link, and the log text that the node writes among its frames, in the log.

use log::{Level, debug};
use meshbeat::lines::Lines;
use meshbeat::report::Reporter;
use meshbeat_core::Instant;
use meshbeat_core::link::{Event, Item};

/// Logs for one link.
pub(super) struct LinkLog {
    reporter: Reporter,
    lines: Lines,
    /// Changes of state are told no louder than so.
    loudest: Level,
}

impl LinkLog {
    /// For a command that lasts: the loss and the return of the link are news.
    pub(super) fn lasting(node: String) -> Self {
        Self { reporter: Reporter::new(node), lines: Lines::default(), loudest: Level::Error }
    }

    /// For a command that ends with a result, which says all that matters; the rest is for `-v`.
    pub(super) fn one_shot(node: String) -> Self {
        Self { loudest: Level::Debug, ..Self::lasting(node) }
    }

    pub(super) fn handle_event(&mut self, now: Instant, event: Event) {
        self.reporter.handle_event(now, event);
        self.print();
    }

    pub(super) fn handle_item(&mut self, item: &Item<'_>) {
        let log_line = &mut |line: &str| debug!(target: "node", "{line}");
        match item {
            Item::Noise(bytes) => self.lines.push(bytes, log_line),
            Item::Frame { .. } => self.lines.end(log_line),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.reporter.handle_timeout(now);
        self.print();
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.reporter.poll_timeout()
    }

    fn print(&mut self) {
        while let Some((level, line)) = self.reporter.poll_line() {
            let level = level.max(self.loudest);
            log::log!(target: "link", level, "{}: {line}", self.reporter.node());
        }
    }
}
