//! The decoder against a slow one that is obviously right: the same bytes in the same slices, the
//! same payloads rejected, and after every step the same frames, noise and bytes held.

use meshbeat_core::decoder::{Decoder, Item};
use meshbeat_core::frame::{HEADER_LEN, MAX_PAYLOAD};
use meshbeat_core::peek::FromRadio;

use crate::input::Input;

/// The first byte is the rule for payloads, then come steps: a byte under 240 is the length of the
/// slice that follows it, 240 to 247 a slice of 64 to 512 bytes, the rest gives up or clears.
///
/// # Panics
/// If the decoder and the slow one differ.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let rule = Rule(input.byte());
    let mut decoder = Decoder::new();
    let mut slow = Slow::default();
    while !input.is_empty() {
        match input.byte() {
            step @ 0..240 => feed(&mut decoder, &mut slow, rule, input.bytes(step.into())),
            step @ 240..248 => {
                let len = 64 * (usize::from(step) - 239);
                feed(&mut decoder, &mut slow, rule, input.bytes(len));
            }
            248..252 => {
                decoder.give_up();
                slow.give_up();
                feed(&mut decoder, &mut slow, rule, &[]);
            }
            252.. => {
                decoder.clear();
                slow = Slow::default();
            }
        }
        assert_eq!(decoder.held(), slow.pending.len());
    }
}

fn feed(decoder: &mut Decoder, slow: &mut Slow, rule: Rule, slice: &[u8]) {
    let found = decode(decoder, rule, slice);
    assert_eq!(found, slow.decode(rule, slice), "{rule:?}, slice {slice:02x?}");
}

/// What a stream was made of; noise as long as it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// A payload.
    Frame(Vec<u8>),
    /// The bytes between two frames.
    Noise(Vec<u8>),
}

/// Appends, so that noise in pieces compares equal to noise in one.
pub(crate) fn note(found: &mut Vec<Found>, item: Found) {
    match (found.last_mut(), item) {
        (_, Found::Noise(more)) if more.is_empty() => {}
        (Some(Found::Noise(noise)), Found::Noise(more)) => noise.extend(more),
        (_, item) => found.push(item),
    }
}

/// Which payloads are good.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule(u8);

impl Rule {
    /// Those that peek accepts.
    pub(crate) const PEEK: Self = Self(1);

    fn is_good(self, payload: &[u8]) -> bool {
        match self.0 {
            0 => true,
            1 => FromRadio::peek(payload).is_some(),
            salt => payload.iter().fold(salt, |a, b| a.wrapping_mul(31) ^ b) & 3 != 0,
        }
    }
}

fn decode(decoder: &mut Decoder, rule: Rule, slice: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut at = 0;
    // Every byte can be offered again once for each frame that it lay in, and no oftener.
    for _ in 0..=(slice.len() + decoder.held() + 1).pow(2) {
        let decoded = decoder.decode(&slice[at..]);
        at += decoded.taken;
        match decoded.item {
            Some(Item::Frame(payload)) if rule.is_good(payload) => {
                note(&mut found, Found::Frame(payload.to_vec()));
            }
            Some(Item::Frame(_)) => at -= decoder.reject(),
            Some(Item::Noise(noise)) => note(&mut found, Found::Noise(noise.to_vec())),
            None => {
                assert_eq!(at, slice.len(), "stopped before the end");
                return found;
            }
        }
    }
    panic!("no end to {slice:02x?}");
}

/// The slow decoder: keeps what it has not decided on and looks at it from the first byte again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slow {
    pending: Vec<u8>,
    /// The first byte of `pending` is given up.
    given_up: bool,
}

impl Slow {
    pub(crate) fn decode(&mut self, rule: Rule, slice: &[u8]) -> Vec<Found> {
        self.pending.extend_from_slice(slice);
        let mut found = Vec::new();
        while !self.pending.is_empty() {
            let len = match self.pending[..] {
                _ if self.given_up => None,
                [0x94] | [0x94, 0xC3] | [0x94, 0xC3, 0..=2] => return found,
                [0x94, 0xC3, high, low, ..] => Some(usize::from(u16::from_be_bytes([high, low]))),
                _ => None,
            };
            self.given_up = false;
            let len = len.filter(|len| *len <= MAX_PAYLOAD);
            if len.is_some_and(|len| self.pending.len() < HEADER_LEN + len) {
                return found;
            }
            let payload = len.map(|len| self.pending[HEADER_LEN..HEADER_LEN + len].to_vec());
            match payload.filter(|payload| rule.is_good(payload)) {
                Some(payload) => {
                    self.pending.drain(..HEADER_LEN + payload.len());
                    note(&mut found, Found::Frame(payload));
                }
                None => note(&mut found, Found::Noise(vec![self.pending.remove(0)])),
            }
        }
        found
    }

    pub(crate) fn give_up(&mut self) {
        self.given_up = !self.pending.is_empty();
    }

    pub(crate) fn held(&self) -> usize {
        self.pending.len()
    }
}
