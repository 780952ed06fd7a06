//! The link with whole messages: prints the names of the nodes, says hello with a packet of prost.

#![no_std]
#![no_main]

use heapless::Vec;
use meshbeat_core::Checked;
use meshbeat_core::config::Ask;
use meshbeat_core::peek;
use meshbeat_proto::{Data, FromRadio, MeshPacket, NodeInfo, PortNum, ToRadio};
use meshbeat_proto::{from_radio, mesh_packet, text, to_radio};
use prost::Message;

use meshbeat_firmware::board::{self, entry, heap};
use meshbeat_firmware::client::{self, Answer, Frame};
use meshbeat_firmware::report::{self, Text};

const CONFIG: Checked = client::impatient(Ask::Full);
const BROADCAST: u32 = u32::MAX;

#[entry]
fn main() -> ! {
    heap::start();
    client::run(CONFIG, handle_frame)
}

fn handle_frame(frame: Frame<'_>) -> Answer {
    match frame.message {
        peek::FromRadio::Other(peek::NODE_INFO) => tell_node(frame.payload),
        peek::FromRadio::Packet(packet)
            if packet.data.is_some_and(|data| data.payload == b"goodbye") =>
        {
            return Answer::Goodbye;
        }
        _ => {}
    }
    if frame.configured { hello() } else { Answer::Nothing }
}

fn tell_node(payload: &[u8]) {
    // The link looks at the fields that are known; prost may refuse what is among the others.
    let message = FromRadio::decode(payload).ok().and_then(|message| message.payload_variant);
    if let Some(from_radio::PayloadVariant::NodeInfo(NodeInfo { num, user: Some(user), .. })) =
        message
    {
        let name = text(&user.long_name);
        report::line(format_args!("node !{num:08x}: {}", Text(name.as_bytes())));
    }
}

/// A text to all.
fn hello() -> Answer {
    report::line(format_args!("{} bytes of heap in use", heap::used()));
    let data = Data {
        portnum: PortNum::TextMessageApp as i32,
        payload: [b"hello from ", board::NAME.as_bytes()].concat(),
        ..Data::default()
    };
    let packet = MeshPacket {
        to: BROADCAST,
        hop_limit: 3,
        payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
        ..MeshPacket::default()
    };
    let message = ToRadio { payload_variant: Some(to_radio::PayloadVariant::Packet(packet)) };
    let payload = Vec::from_slice(&message.encode_to_vec()).expect("shorter than 256 bytes");
    Answer::Send(payload)
}
