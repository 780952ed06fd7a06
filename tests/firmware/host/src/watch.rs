//! A list that grows in one thread and is waited on in another.

use core::fmt::Debug;
use core::time::Duration;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// How long anything may take on a busy machine. Nothing here takes a third of it on a quiet one.
const LIMIT: Duration = Duration::from_secs(30);

/// The list.
#[derive(Debug)]
pub struct Watch<T> {
    list: Mutex<List<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct List<T> {
    items: Vec<T>,
    ended: bool,
}

impl<T: Clone + Debug> Watch<T> {
    /// An empty list.
    pub const fn new() -> Self {
        let list = Mutex::new(List { items: Vec::new(), ended: false });
        Self { list, changed: Condvar::new() }
    }

    /// Adds one.
    pub fn push(&self, item: T) {
        self.lock().items.push(item);
        self.changed.notify_all();
    }

    /// None will follow.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// How long the list is now.
    pub fn mark(&self) -> usize {
        self.lock().items.len()
    }

    /// All from `mark` on.
    pub fn since(&self, mark: usize) -> Vec<T> {
        self.lock().items.get(mark..).unwrap_or(&[]).to_vec()
    }

    /// Waits for the first item from `mark` on of which `find` makes something; returns that and
    /// the mark behind it.
    ///
    /// # Panics
    /// When it does not come in time, or no more.
    #[track_caller]
    pub fn wait<R>(
        &self,
        mark: usize,
        what: &str,
        mut find: impl FnMut(&T) -> Option<R>,
    ) -> (R, usize) {
        let deadline = Instant::now() + LIMIT;
        let mut seen = mark;
        let mut list = self.lock();
        loop {
            while let Some(item) = list.items.get(seen) {
                seen += 1;
                if let Some(found) = find(item) {
                    return (found, seen);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if list.ended || left.is_zero() {
                let why = if list.ended { "it has ended" } else { "not in time" };
                // The threads that add to the list are to go on.
                drop(list);
                panic!("{what}: {why}; what came: {:#?}", self.since(mark));
            }
            list = self.changed.wait_timeout(list, left).expect("no thread panics within").0;
        }
    }

    /// Waits until none will follow.
    ///
    /// # Panics
    /// When that takes too long.
    #[track_caller]
    pub fn wait_for_end(&self) {
        let (list, late) = self
            .changed
            .wait_timeout_while(self.lock(), LIMIT, |list| !list.ended)
            .expect("no thread panics within");
        drop(list);
        assert!(!late.timed_out(), "it does not end");
    }

    fn lock(&self) -> MutexGuard<'_, List<T>> {
        self.list.lock().expect("no thread panics within")
    }
}

impl<T: Clone + Debug> Default for Watch<T> {
    fn default() -> Self {
        Self::new()
    }
}
