//! A client of the relay, and all that it may expect.

use std::collections::BTreeMap;

use meshbeat::relay::admission::{Policy, Verdict};
use meshbeat::relay::{ClientId, Relay};
use meshbeat_core::Instant;
use meshbeat_core::decoder::{Decoder, Item};
use meshbeat_core::frame::{HEADER_LEN, MAGIC, MAX_PAYLOAD};
use meshbeat_core::peek::{self, FromRadio, Packet, ROUTING_PORT};
use meshbeat_proto::ToRadio;
use meshbeat_proto::to_radio::PayloadVariant;
use prost::Message as _;

use super::node::is_mesh;
use super::words::{KEY, SECRET, TAG, contains};

/// The port of admin messages.
const ADMIN_PORT: i32 = 6;

/// The other end of a client's socket.
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) policy: Policy,
    /// Its own number, in what it sends.
    number: u8,
    /// The relay has said that something is pending, and not all of it was taken.
    pub(super) told: bool,
    /// It was dropped, by whichever side.
    pub(super) closed: bool,
    /// What it sends, as the relay has to read it.
    sent: Box<Decoder>,
    /// Ids of the packets that it may send and has, since the last turn.
    pub(super) wishes: Vec<u32>,
    /// The start of a frame that was not taken whole.
    partial: Vec<u8>,
    /// That frame may belong to a handshake that was given up.
    given_up: bool,
    /// The nonce of a question that was not answered.
    asked: Option<u32>,
    /// The nonce of the handshake that is under way.
    shaking: Option<u32>,
    has_asked: bool,
    /// Frames that it was told.
    pub(super) frames: u64,
    /// What it is owed and told of each of its packets, by id.
    pub(super) accounts: BTreeMap<u32, Account>,
    /// Its packets cannot be told apart.
    pub(super) is_lost_count: bool,
}

/// Errors about the packets under one id.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Packets that it may not send.
    forbidden: u32,
    /// Packets that ended badly, and those of them of which the node itself has told.
    pub(super) ended: u32,
    pub(super) ended_by_node: u32,
    /// Queue statuses that refused one.
    rejected: u32,
    /// Routing errors of the relay, and of the node.
    relay: u32,
    node: u32,
}

impl Account {
    /// How often the relay, and the node, told of an error.
    #[cfg(test)]
    pub(super) const fn told(&self) -> (u32, u32) {
        (self.relay, self.node)
    }
}

impl Client {
    pub(super) fn new(id: ClientId, policy: Policy) -> Self {
        Self {
            id,
            policy,
            number: id.0 as u8,
            told: false,
            closed: false,
            sent: Box::default(),
            wishes: Vec::new(),
            partial: Vec::new(),
            given_up: false,
            asked: None,
            shaking: None,
            has_asked: false,
            frames: 0,
            accounts: BTreeMap::new(),
            is_lost_count: false,
        }
    }

    /// What a packet of this client carries.
    pub(super) fn tag(&self) -> Vec<u8> {
        [TAG, &[self.number]].concat()
    }

    /// Notes what the client says, as the relay has to understand it.
    pub(super) fn note_sent(&mut self, own: Option<u32>, bytes: &[u8]) {
        let mut decoder = core::mem::take(&mut self.sent);
        let mut rest = bytes;
        while !self.closed {
            let decoded = decoder.decode(rest);
            let mut taken = decoded.taken;
            match decoded.item {
                Some(Item::Frame(payload)) if peek::is_to_radio(payload) => {
                    self.note_frame(own, payload);
                }
                Some(Item::Frame(_)) => taken -= decoder.reject(),
                Some(Item::Noise(_)) => {}
                None if taken == rest.len() => break,
                None => {}
            }
            rest = &rest[taken..];
        }
        self.sent = decoder;
    }

    fn note_frame(&mut self, own: Option<u32>, payload: &[u8]) {
        let Some(variant) = ToRadio::decode(payload).ok().and_then(|it| it.payload_variant) else {
            return;
        };
        let admitted = self.policy.admits(payload, own) == Verdict::Admitted;
        match variant {
            PayloadVariant::WantConfigId(nonce) if admitted => {
                (self.asked, self.has_asked) = (Some(nonce), true);
                // What is left of the old handshake never comes, but for the frame under way.
                (self.shaking, self.given_up) = (None, !self.partial.is_empty());
            }
            PayloadVariant::Disconnect(_) if admitted => self.closed = true,
            PayloadVariant::Packet(packet) if admitted => self.wishes.push(packet.id),
            PayloadVariant::Packet(packet) => {
                self.accounts.entry(packet.id).or_default().forbidden += 1;
            }
            _ => {}
        }
    }

    /// What is pending is whole frames, but for the first of which some bytes were taken.
    pub(super) fn check_pending(&self, relay: &Relay) {
        for (index, slice) in relay.pending(self.id).enumerate() {
            let known = if index == 0 { &self.partial[..] } else { &[] };
            let frame = [known, slice].concat();
            assert!(is_frame(&frame), "pending to {}: {frame:02x?}", self.id);
            assert!(!slice.is_empty(), "nothing is pending to {}", self.id);
        }
        assert!(
            self.told || relay.pending(self.id).next().is_none(),
            "{} was never told that something is pending",
            self.id
        );
    }

    /// Takes up to `most` of the pending bytes. Returns how many that were.
    pub(super) fn read(&mut self, now: Instant, relay: &mut Relay, most: usize) -> usize {
        if self.closed || !self.told {
            return 0;
        }
        let mut bytes: Vec<u8> = relay.pending(self.id).flatten().copied().take(most).collect();
        let count = bytes.len();
        relay.consume(now, self.id, count);
        self.told = relay.pending(self.id).next().is_some();
        let mut stream = core::mem::take(&mut self.partial);
        stream.append(&mut bytes);
        let mut rest = &stream[..];
        while let Some(len) = frame_len(rest).filter(|len| *len <= rest.len()) {
            let (frame, next) = rest.split_at(len);
            self.check_frame(&frame[HEADER_LEN..]);
            rest = next;
        }
        self.partial = rest.to_vec();
        count
    }

    /// A whole frame has come.
    fn check_frame(&mut self, payload: &[u8]) {
        self.frames += 1;
        let Some(message) = FromRadio::peek(payload) else {
            panic!("{} is told {payload:02x?}", self.id);
        };
        let who = (self.id, self.policy);
        if self.policy != Policy::Full {
            assert!(!contains(payload, SECRET), "{who:?} is told a secret: {payload:02x?}");
        }
        if self.policy == Policy::ReadOnly {
            assert!(!contains(payload, KEY), "{who:?} is told a key: {payload:02x?}");
        }
        let tag = self.tag();
        assert!(!contains(payload, &tag), "{who:?} is told what it sent: {payload:02x?}");
        let given_up = core::mem::take(&mut self.given_up);
        match message {
            FromRadio::MyInfo(_) | FromRadio::ConfigComplete(_) | FromRadio::Other(_)
                if given_up => {}
            FromRadio::MyInfo(_) | FromRadio::Other(4 | 5 | 9 | 10 | 13 | 15 | 17..=19) => {
                let starts = matches!(message, FromRadio::MyInfo(_));
                assert!(!starts || self.shaking.is_none(), "{who:?} is told my_info again");
                self.shaking = self.shaking.or_else(|| self.asked.take());
                let name = message.name();
                assert!(self.shaking.is_some(), "{who:?} is told {name} and did not ask");
            }
            FromRadio::ConfigComplete(nonce) => {
                // Of what was asked there may be nothing.
                let asked = self.shaking.take().or_else(|| self.asked.take());
                assert_eq!(asked, Some(nonce), "{who:?} gets another one's nonce");
            }
            FromRadio::Rebooted => panic!("{who:?} is told of a reboot"),
            // Of newer firmware, which may have it in a handshake.
            FromRadio::Unknown => {}
            FromRadio::QueueStatus(status) => {
                self.check_alone(message);
                if status.res != 0 {
                    self.accounts.entry(status.id).or_default().rejected += 1;
                }
            }
            FromRadio::Packet(packet) => {
                self.check_alone(message);
                self.check_packet(packet);
            }
            _ => self.check_alone(message),
        }
    }

    fn check_alone(&self, message: FromRadio<'_>) {
        assert!(self.shaking.is_none(), "{} is told {message:?} in a handshake", self.id);
    }

    fn check_packet(&mut self, packet: Packet<'_>) {
        let data = packet.data.unwrap_or_default();
        let is_reply = data.port == ROUTING_PORT || data.port == ADMIN_PORT;
        assert!(is_reply || self.has_asked, "{} is told {packet:?} and did not ask", self.id);
        // What other nodes say of a packet is no word of its end.
        if data.routing_error.is_some_and(|error| error != 0) && !is_mesh(packet.from) {
            let account = self.accounts.entry(data.request_id).or_default();
            // The node of this bench has ids with the highest bit, the relay's have not.
            match packet.id >> 31 {
                0 => account.relay += 1,
                _ => account.node += 1,
            }
        }
    }

    /// All was read and nothing is awaited: each packet that came to a bad end was told of once.
    pub(super) fn check_accounts(&self) {
        if self.is_lost_count {
            return;
        }
        for (id, account) in &self.accounts {
            let Account { forbidden, ended, ended_by_node, rejected, relay, node } = account;
            let owed = forbidden + rejected + ended;
            assert!(relay + node >= owed, "{}: no word of {id:#x}: {account:?}", self.id);
            let most = owed - ended_by_node;
            assert!(*relay <= most, "{}: too often told of {id:#x}: {account:?}", self.id);
        }
    }
}

/// The length of the frame that begins here, if its header is there.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    let header: &[u8; HEADER_LEN] = bytes.first_chunk()?;
    assert_eq!(header[..2], MAGIC, "no frame in {bytes:02x?}");
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    assert!(len <= MAX_PAYLOAD, "too long: {bytes:02x?}");
    Some(HEADER_LEN + len)
}

fn is_frame(bytes: &[u8]) -> bool {
    frame_len(bytes) == Some(bytes.len())
}
