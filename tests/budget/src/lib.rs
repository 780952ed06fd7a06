//! The loop of a firmware around the link, as `core/README.md` shows it.
#![no_std]
#![forbid(unsafe_code)]

use embedded_io::{Read, ReadReady, Write};
use meshbeat_core::link::{Event, Item, Link, Transmit};
use meshbeat_core::{Fault, Instant};

/// Places in the outbox.
pub const OUTBOX: usize = 4;

/// One turn of the loop; returns the moment of the next one, if no byte comes before it.
pub fn turn<U: Read + Write + ReadReady>(
    link: &mut Link<OUTBOX>,
    uart: &mut U,
    now: Instant,
    mut on_frame: impl FnMut(&[u8]),
) -> Option<Instant> {
    let mut buf = [0; 32];
    let n = match uart.read_ready() {
        Ok(true) => uart.read(&mut buf).unwrap_or(0),
        _ => 0,
    };
    link.handle_timeout(now);
    let mut rest = buf.get(..n).unwrap_or(&[]);
    loop {
        let received = link.handle_bytes(now, rest);
        rest = rest.get(received.taken..).unwrap_or(&[]);
        match received.item {
            Some(Item::Frame { payload, .. }) => on_frame(payload),
            Some(Item::Noise(_)) => {}
            None if rest.is_empty() => break,
            None => {}
        }
    }
    while let Some(event) = link.poll_event() {
        if let Event::OpenDue = event {
            link.handle_opened(now);
        }
    }
    loop {
        match link.poll_transmit(now, uart) {
            Ok(Transmit::Wrote(_)) => {}
            Ok(Transmit::Blocked | Transmit::Empty) => break,
            Err(error) => {
                use embedded_io::Error as _;
                link.handle_closed(now, Fault::from_kind(error.kind()));
                break;
            }
        }
    }
    link.poll_timeout()
}
