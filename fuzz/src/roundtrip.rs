//! What is encoded is decoded: any payloads, through the transmit buffer in writes of any size,
//! among any noise that holds no magic, in slices of any size.

use meshbeat_core::decoder::{Decoder, Item};
use meshbeat_core::frame::{self, HEADER_LEN, MAGIC, MAX_PAYLOAD};
use meshbeat_core::tx::{PushError, Tx};

use crate::input::Input;

/// Per frame: the sizes of a write and a slice, how much noise stands before it, the length of the
/// payload as two bytes, of which 11 bits count, and the payload.
///
/// # Panics
/// If a payload does not come out as it went in.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut stream = Vec::new();
    let mut expected = Vec::new();
    let mut sizes = Vec::new();
    while !input.is_empty() {
        let write = usize::from(input.byte());
        sizes.push(1 + usize::from(input.byte()));
        let noise = usize::from(input.byte() & 0x1F);
        stream.extend(input.bytes(noise).iter().filter(|byte| **byte != MAGIC[0]));
        let len = usize::from(input.number::<2>() as u16 & 0x7FF);
        let payload = input.bytes(len);
        if send(payload, write + 1, &mut stream) {
            expected.push(payload);
        }
    }
    assert_eq!(receive(&stream, &sizes), expected);
}

/// Appends the frame to `stream`; false and nothing if the payload is too long.
fn send(payload: &[u8], write: usize, stream: &mut Vec<u8>) -> bool {
    let mut buffer = [0xAA; HEADER_LEN + MAX_PAYLOAD];
    let encoded = frame::encode(payload, &mut buffer).map(<[u8]>::to_vec);
    assert_eq!(encoded.is_ok(), payload.len() <= MAX_PAYLOAD);

    let mut tx = Tx::new();
    if let Err(error) = tx.push_frame(payload) {
        assert_eq!(error, PushError::TooLong(payload.len()));
        assert!(encoded.is_err() && tx.is_empty());
        return false;
    }
    let start = stream.len();
    loop {
        let taken = tx.pending().len().min(write);
        stream.extend_from_slice(&tx.pending()[..taken]);
        if tx.consume(taken) {
            break;
        }
        assert!(tx.is_half_sent());
    }
    assert_eq!(encoded.as_deref(), Ok(&stream[start..]));
    true
}

fn receive(mut stream: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for size in sizes.iter().cycle() {
        if stream.is_empty() {
            break;
        }
        let (mut slice, rest) = stream.split_at(stream.len().min(*size));
        stream = rest;
        loop {
            let decoded = decoder.decode(slice);
            slice = &slice[decoded.taken..];
            match decoded.item {
                Some(Item::Frame(payload)) => frames.push(payload.to_vec()),
                Some(Item::Noise(_)) => {}
                None => break,
            }
        }
    }
    assert_eq!(decoder.held(), 0, "a frame was whole and is held");
    frames
}
