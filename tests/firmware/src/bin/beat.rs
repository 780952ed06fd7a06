//! Holds the link without an allocator: prints texts, answers `ping`, ends on `goodbye`.

#![no_std]
#![no_main]

use heapless::Vec;
use meshbeat_core::Checked;
use meshbeat_core::config::Ask;
use meshbeat_core::peek::{Data, FromRadio, Packet};

use meshbeat_firmware::board::entry;
use meshbeat_firmware::client::{self, Answer, Frame};
use meshbeat_firmware::report::{self, Text};

/// The port number of texts.
const TEXT: i32 = 1;

/// It has no use for the other nodes.
const CONFIG: Checked = client::impatient(Ask::ConfigOnly);

#[entry]
fn main() -> ! {
    client::run(CONFIG, handle_frame)
}

fn handle_frame(frame: Frame<'_>) -> Answer {
    let FromRadio::Packet(Packet { from, data: Some(data), .. }) = frame.message else {
        return Answer::Nothing;
    };
    let Data { port: TEXT, payload: text, .. } = data else { return Answer::Nothing };
    report::line(format_args!("text of !{from:08x}: {}", Text(text)));
    match text {
        b"ping" => Answer::Send(Vec::from_iter(pong(from))),
        b"goodbye" => Answer::Goodbye,
        _ => Answer::Nothing,
    }
}

/// The payload `ToRadio { packet { to, decoded { portnum: 1, payload: "pong" }, hop_limit: 3,
/// want_ack: true } }`. The link gives it an id.
fn pong(to: u32) -> [u8; 21] {
    let [a, b, c, d] = to.to_le_bytes();
    [
        0x0A, 19, // packet
        0x15, a, b, c, d, // to
        0x22, 8, 0x08, 1, 0x12, 4, b'p', b'o', b'n', b'g', // decoded
        0x48, 3, // hop_limit
        0x50, 1, // want_ack
    ]
}
