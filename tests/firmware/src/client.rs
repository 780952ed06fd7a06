//! The loop of a link over a UART, and what it says about itself.

use embedded_io::{Read, ReadReady, Write, WriteReady};
use heapless::Vec;
use meshbeat_core::config::Ask;
use meshbeat_core::fault::Class;
use meshbeat_core::link::{Item, Transmit};
use meshbeat_core::peek::FromRadio;
use meshbeat_core::time::Span;
use meshbeat_core::{Checked, Event, Fault, Instant, Link, LinkConfig};
use semihosting::process;

use crate::uart::Uart;
use crate::{board, report};

/// Packets that wait for the node.
const OUTBOX: usize = 4;
/// Whose packets they are: there is but one sender here.
const OURSELVES: u16 = 0;

/// A frame from the node.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Its payload.
    pub payload: &'a [u8],
    /// What the link read of it.
    pub message: FromRadio<'a>,
    /// The handshake ends with it.
    pub configured: bool,
}

/// What the program wants done about a frame.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is no heap to put it on")]
pub enum Answer {
    /// Nothing.
    Nothing,
    /// A `ToRadio` payload with one packet is to be sent.
    Send(Vec<u8, 256>),
    /// The link is to be closed, and the program to end.
    Goodbye,
}

/// A serial link that notices silence within 5 s, so that a test has not long to wait. Who builds a
/// device takes the defaults. To be called in a constant: then nonsense is a compile error.
pub const fn impatient(ask: Ask) -> Checked {
    let mut config = LinkConfig::SERIAL;
    config.handshake.ask = ask;
    config.heartbeat.quiet = Span::from_millis(500);
    config.heartbeat.answer = Span::from_millis(2_000);
    config.heartbeat.again = Span::from_millis(700);
    config.heartbeat.probe = Span::from_millis(1_000);
    config.heartbeat.mute = Span::from_millis(1_000);
    config.heartbeat.keepalive = Span::from_millis(5_000);
    config.handshake.silence = Span::from_millis(2_000);
    config.handshake.gap = Span::from_millis(100);
    config.backoff.first = Span::from_millis(100);
    config.backoff.cap = Span::from_millis(500);
    config.backoff.crowded_cap = Span::from_millis(500);
    match config.check() {
        Ok(checked) => checked,
        Err(_) => panic!("a setting is out of its bounds"),
    }
}

/// Holds the link until `handle_frame` says goodbye, then ends the program.
pub fn run(config: Checked, mut handle_frame: impl FnMut(Frame<'_>) -> Answer) -> ! {
    let mut uart = Uart::new(board::start());
    let mut link = Link::<OUTBOX>::new(config, 0x5EED);
    let mut teller = Teller { state: link.state().name(), answered: 0, turns: 0 };
    report::line(format_args!("{}: link of {} bytes", board::NAME, size_of_val(&link)));
    let now = board::now();
    link.open(now);
    teller.tell_state(now, &link);
    loop {
        let now = board::now();
        receive(&mut link, &mut uart, now, &mut handle_frame);
        teller.tell_state(now, &link);
        while let Some(event) = link.poll_event() {
            report::line(format_args!("{} ms: {event:?}", now.as_millis()));
            match event {
                // A UART is open as soon as it is wanted.
                Event::OpenDue => link.handle_opened(now),
                Event::SaidGoodbye => {
                    let Ok(()) = uart.flush();
                    link.handle_closed(now, Fault::new(Class::ClosedByPeer));
                }
                Event::Closed => process::exit(0),
                _ => {}
            }
            teller.tell_state(now, &link);
        }
        transmit(&mut link, &mut uart, now);
        teller.tell_state(now, &link);
        teller.tell_life(now, &link);
        board::sleep_until(link.poll_timeout());
    }
}

fn receive(
    link: &mut Link<OUTBOX>,
    uart: &mut Uart,
    now: Instant,
    handle_frame: &mut impl FnMut(Frame<'_>) -> Answer,
) {
    link.handle_timeout(now);
    let mut buf = [0; 128];
    loop {
        let Ok(ready) = uart.read_ready();
        let Ok(count) = if ready { uart.read(&mut buf) } else { Ok(0) };
        // Without a byte, once: a torn frame may have been given up.
        let mut rest = buf.get(..count).unwrap_or(&[]);
        loop {
            let received = link.handle_bytes(now, rest);
            rest = rest.get(received.taken..).unwrap_or(&[]);
            let answer = match received.item {
                Some(Item::Frame { payload, message, configured }) => {
                    handle_frame(Frame { payload, message, configured })
                }
                Some(Item::Noise(bytes)) => {
                    report::line(format_args!("noise of {} bytes", bytes.len()));
                    Answer::Nothing
                }
                None if rest.is_empty() => break,
                None => Answer::Nothing,
            };
            act(link, now, answer);
        }
        if count == 0 {
            return;
        }
    }
}

fn act(link: &mut Link<OUTBOX>, now: Instant, answer: Answer) {
    match answer {
        Answer::Nothing => {}
        Answer::Send(payload) => match link.send(now, OURSELVES, &payload, None) {
            Ok(id) => report::line(format_args!("accepted packet {id}")),
            Err(error) => report::line(format_args!("not accepted: {error}")),
        },
        Answer::Goodbye => link.close(now),
    }
}

fn transmit(link: &mut Link<OUTBOX>, uart: &mut Uart, now: Instant) {
    loop {
        let Ok(ready) = uart.write_ready();
        // The interrupt ends the sleep when there is room.
        if !ready {
            return;
        }
        let Ok(transmit) = link.poll_transmit(now, uart);
        if !matches!(transmit, Transmit::Wrote(_)) {
            return;
        }
    }
}

/// Says what has changed.
#[derive(Debug)]
struct Teller {
    state: &'static str,
    answered: u32,
    turns: u32,
}

impl Teller {
    fn tell_state(&mut self, now: Instant, link: &Link<OUTBOX>) {
        let state = link.state().name();
        let before = core::mem::replace(&mut self.state, state);
        if before != state {
            report::line(format_args!("{} ms: {before} -> {state}", now.as_millis()));
        }
    }

    /// Called once a turn: how often the program woke is part of it.
    fn tell_life(&mut self, now: Instant, link: &Link<OUTBOX>) {
        self.turns += 1;
        let stats = link.stats();
        if stats.answered != self.answered {
            self.answered = stats.answered;
            report::line(format_args!(
                "{} ms: alive: {} of {} heartbeats answered, {} frames, {} turns",
                now.as_millis(),
                stats.answered,
                stats.heartbeats,
                stats.frames_in,
                self.turns
            ));
        }
    }
}
