//! Packets that came while no client was there: the newest are kept for the next one, as a node
//! keeps some while nobody is connected. Texts are the last to go.

use std::collections::VecDeque;
use std::rc::Rc;

/// At most `limit` packets, oldest first.
#[derive(Debug)]
pub(super) struct Backlog {
    limit: usize,
    packets: VecDeque<Kept>,
    /// Packets that had to go.
    dropped: u64,
}

#[derive(Debug)]
struct Kept {
    frame: Rc<[u8]>,
    is_text: bool,
}

impl Backlog {
    pub(super) const fn new(limit: usize) -> Self {
        Self { limit, packets: VecDeque::new(), dropped: 0 }
    }

    /// Keeps a packet. If there is no room the oldest that is no text goes, or else the oldest.
    pub(super) fn push(&mut self, frame: Rc<[u8]>, is_text: bool) {
        self.packets.push_back(Kept { frame, is_text });
        if self.packets.len() > self.limit {
            let oldest = self.packets.iter().position(|kept| !kept.is_text).unwrap_or(0);
            self.packets.remove(oldest);
            self.dropped += 1;
        }
    }

    /// Hands all of them out, oldest first.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Rc<[u8]>> + use<> {
        core::mem::take(&mut self.packets).into_iter().map(|kept| kept.frame)
    }

    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Packets that had to go, since the start.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog(limit: usize, packets: &[(&str, bool)]) -> Vec<String> {
        let mut backlog = Backlog::new(limit);
        for (name, is_text) in packets {
            backlog.push(name.as_bytes().into(), *is_text);
        }
        assert_eq!(backlog.dropped() as usize, packets.len() - backlog.len());
        let taken = backlog.take().map(|frame| String::from_utf8_lossy(&frame).into_owned());
        let taken = taken.collect();
        assert_eq!(backlog.take().count(), 0, "given once");
        taken
    }

    #[test]
    fn the_newest_are_kept_and_texts_the_longest() {
        let packets = [("t1", true), ("p1", false), ("t2", true), ("p2", false), ("t3", true)];
        assert_eq!(backlog(9, &packets), ["t1", "p1", "t2", "p2", "t3"]);
        assert_eq!(backlog(4, &packets), ["t1", "t2", "p2", "t3"]);
        assert_eq!(backlog(3, &packets), ["t1", "t2", "t3"]);
        assert_eq!(backlog(2, &packets), ["t2", "t3"]);
        assert_eq!(backlog(0, &packets), [""; 0]);
    }
}
