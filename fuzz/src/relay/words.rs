//! What nodes and clients say, as bytes, with marks in it that show where they must not come.

use meshbeat::relay::wire::{put_bytes, put_fixed32, put_varint};
use meshbeat_core::frame::{self, MAX_FRAME};

/// Stands wherever the schema has a secret of the node: nothing for a restricted client.
pub(super) const SECRET: &[u8] = b"\xF1secret\xF1";
/// Stands wherever the schema has the key of a channel: nothing for a client that may only read.
pub(super) const KEY: &[u8] = b"\xF2chankey\xF2";
/// Stands in what a client may not send: nothing for the node.
pub(super) const FORBIDDEN: &[u8] = b"\xF4never\xF4";
/// Begins what a client sends; its number follows. It is never shown to itself.
pub(super) const TAG: &[u8] = b"\xF3sent\xF3";

/// Whether an input holds one of the marks itself; then they mean nothing.
pub(super) fn holds_marks(data: &[u8]) -> bool {
    [SECRET, KEY, FORBIDDEN, TAG].iter().any(|mark| contains(data, mark))
}

/// Whether `mark` stands in `bytes`.
pub(super) fn contains(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.windows(mark.len()).any(|window| window == mark)
}

/// Ports, most of which mean something to the relay, the outbox or a policy.
pub(super) const PORTS: [u32; 16] = [1, 3, 4, 5, 6, 8, 67, 70, 2, 13, 69, 37, 74, 256, 0, 1];
/// What the node may say to a packet.
pub(super) const RESULTS: [u32; 12] = [0, 0, 0, 32, 33, 9, 6, 7, 34, 35, 36, 39];

/// The payload as a frame; it is short enough.
pub(super) fn framed(payload: &[u8]) -> Vec<u8> {
    let mut buffer = [0; MAX_FRAME];
    frame::encode(payload, &mut buffer).expect("at most 512 bytes").to_vec()
}

/// `inner` in a message in a message, the outermost field first.
pub(super) fn nested(path: &[u32], inner: &[u8]) -> Vec<u8> {
    path.iter().rev().fold(inner.to_vec(), |inner, number| {
        let mut outer = Vec::with_capacity(inner.len() + 6);
        put_bytes(&mut outer, *number, &inner);
        outer
    })
}

/// A message of one number.
pub(super) fn varint(number: u32, value: u32) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, number, value.into());
    out
}

/// A `MeshPacket`; fields that are 0 or `None` are not written.
#[derive(Debug, Default)]
pub(super) struct Packet<'a> {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) id: u32,
    pub(super) port: u32,
    pub(super) payload: &'a [u8],
    pub(super) encrypted: Option<&'a [u8]>,
    pub(super) request_id: u32,
    pub(super) reply_id: u32,
    pub(super) rx_time: u32,
    pub(super) want_ack: bool,
}

impl Packet<'_> {
    /// As a client says it.
    pub(super) fn sent(&self) -> Vec<u8> {
        nested(&[1], &self.encode())
    }

    /// As the node says it.
    pub(super) fn heard(&self) -> Vec<u8> {
        nested(&[2], &self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let mut data = Vec::new();
        put_varint(&mut data, 1, self.port.into());
        put_bytes(&mut data, 2, self.payload);
        for (number, value) in [(6, self.request_id), (7, self.reply_id)] {
            if value != 0 {
                put_fixed32(&mut data, number, value);
            }
        }
        let mut out = Vec::new();
        for (number, value) in [(1, self.from), (2, self.to)] {
            if value != 0 {
                put_fixed32(&mut out, number, value);
            }
        }
        match self.encrypted {
            Some(bytes) => put_bytes(&mut out, 5, bytes),
            None => put_bytes(&mut out, 4, &data),
        }
        for (number, value) in [(6, self.id), (7, self.rx_time)] {
            if value != 0 {
                put_fixed32(&mut out, number, value);
            }
        }
        if self.want_ack {
            put_varint(&mut out, 10, 1);
        }
        out
    }
}

/// The frames of a handshake before its end, with every secret that a node tells.
pub(super) fn configuration(own: u32) -> Vec<Vec<u8>> {
    let node_info = |number: u32| {
        let mut info = varint(1, number);
        put_bytes(&mut info, 2, &nested(&[2], b"a name"));
        nested(&[4], &info)
    };
    let mut channel = varint(1, 0);
    put_bytes(&mut channel, 2, &nested(&[2], KEY));
    put_varint(&mut channel, 3, 1);
    vec![
        nested(&[3], &varint(1, own)),
        node_info(own),
        nested(&[13, 1], b"2.8.0"),
        nested(&[10], &channel),
        nested(&[5, 4, 4], SECRET),
        nested(&[5, 8, 2], SECRET),
        nested(&[9, 1, 3], SECRET),
        nested(&[9, 17, 5, 2], KEY),
        node_info(0x81),
        node_info(0x82),
        nested(&[15, 1], b"/file"),
    ]
}

/// One of the frames with a secret that come outside a handshake, or twice the same in one frame.
pub(super) fn told_secret(choice: u8, own: u32, request_id: u32) -> Vec<u8> {
    let answer = |path: &[u32], mark: &[u8]| {
        let payload = nested(path, mark);
        let mut packet = Packet { from: own, to: own, id: 0x8000_0001, port: 6, ..<_>::default() };
        (packet.payload, packet.request_id) = (&payload, request_id);
        packet.heard()
    };
    match choice % 8 {
        0 => nested(&[5, 8, 2], SECRET),
        1 => [nested(&[5, 4, 4], SECRET), nested(&[5, 8, 2], SECRET)].concat(),
        2 => [nested(&[5, 8, 2], SECRET), Packet::default().heard()].concat(),
        3 => [nested(&[10, 2, 2], KEY), nested(&[0x4E], b"new"), varint(7, 5)].concat(),
        4 => answer(&[6, 8, 2], SECRET),
        5 => answer(&[2, 2, 2], KEY),
        6 => answer(&[101], SECRET),
        _ => nested(&[6, 1], SECRET),
    }
}

#[cfg(test)]
mod tests {
    use meshbeat_core::peek::FromRadio;

    use super::*;

    #[test]
    fn what_the_node_says_is_messages() {
        let told = configuration(0x70).into_iter();
        for payload in told.chain((0..8).map(|choice| told_secret(choice, 0x70, 5))) {
            assert!(FromRadio::peek(&payload).is_some(), "{payload:02x?}");
        }
    }
}
