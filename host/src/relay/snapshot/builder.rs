//! A snapshot from the frames of one handshake.

use std::rc::Rc;

use meshbeat_core::peek::FromRadio;

use super::entry::Entry;
use super::{Frame, MAX_NODES, Snapshot, payload_of, variant};
use crate::relay::wire;

/// Channels kept at most; a node has 8.
const MAX_CHANNELS: usize = 64;
/// Files kept at most.
const MAX_FILES: usize = 256;
/// Frames of any other kind kept at most, new kinds among them.
const MAX_OTHERS: usize = 512;

/// Gathers the frames of a handshake. It begins with `my_info`, and so does each that follows.
#[derive(Debug, Default)]
pub struct Builder {
    begun: Option<Snapshot>,
}

impl Builder {
    /// Nothing has been told yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a frame's payload in; `message` is what was read from it. Returns whether it belongs
    /// to a handshake: a frame before the first `my_info` does not, nor does a packet, a status, a
    /// log record or a `config_complete_id`.
    pub fn take(&mut self, payload: &[u8], message: &FromRadio<'_>) -> bool {
        let variant = match message {
            FromRadio::MyInfo(info) => {
                self.begun = Some(Snapshot::new(info.node));
                variant::MY_INFO
            }
            FromRadio::Unknown if !payload.is_empty() => 0,
            FromRadio::Other(
                number @ (variant::NODE_INFO
                | variant::CONFIG
                | variant::MODULE_CONFIG
                | variant::CHANNEL
                | variant::METADATA
                | variant::FILE_INFO
                | variant::DEVICE_UI
                | variant::LOCKDOWN_STATUS
                | variant::REGION_PRESETS),
            ) => *number,
            _ => return false,
        };
        let Some(snapshot) = &mut self.begun else { return false };
        if let Some(frame) = wire::framed(payload) {
            snapshot.put(variant, frame.into());
        }
        true
    }

    /// What was told, as the handshake has ended. `None` if it did not begin, if the node has no
    /// number, or if it is locked and tells nothing of itself (2.8).
    pub fn finish(&mut self) -> Option<Snapshot> {
        self.begun.take().filter(|snapshot| snapshot.node != 0 && !snapshot.is_locked())
    }
}

impl Snapshot {
    fn put(&mut self, variant: u8, frame: Rc<[u8]>) {
        if variant == variant::NODE_INFO {
            self.put_node(Entry::new(frame));
            return;
        }
        let most = match variant {
            variant::CHANNEL => MAX_CHANNELS,
            variant::FILE_INFO => MAX_FILES,
            _ => MAX_OTHERS,
        };
        let class = |variant| match variant {
            variant::CHANNEL | variant::FILE_INFO => variant,
            _ => 0,
        };
        let frames = self.before.iter().chain(&self.after);
        if frames.filter(|frame| class(frame.variant) == class(variant)).count() >= most {
            return;
        }
        let first_after = variant == variant::FILE_INFO || !self.others.is_empty();
        let place =
            if first_after || !self.after.is_empty() { &mut self.after } else { &mut self.before };
        place.push(Frame { variant, bytes: frame });
    }

    /// A node that is told twice is as it was told last.
    fn put_node(&mut self, entry: Entry) {
        let number = entry.number();
        if number == self.node {
            if self.own.replace(entry).is_none() {
                self.own_at = self.before.len();
            }
        } else if let Some(old) = self.index.get(&number).and_then(|at| self.others.get_mut(*at)) {
            *old = entry;
        } else if self.others.len() < MAX_NODES {
            self.index.insert(number, self.others.len());
            self.others.push(entry);
        }
    }

    /// A locked node tells an unauthorised client of its channels not even the index
    /// (`PhoneAPI.cpp`, `STATE_SEND_CHANNELS`).
    fn is_locked(&self) -> bool {
        let frames = self.before.iter().chain(&self.after);
        let mut channels = frames.filter(|frame| frame.variant == variant::CHANNEL).peekable();
        channels.peek().is_some()
            && channels.all(|frame| {
                wire::message(payload_of(&frame.bytes), u32::from(variant::CHANNEL))
                    .is_none_or(<[u8]>::is_empty)
            })
    }
}
