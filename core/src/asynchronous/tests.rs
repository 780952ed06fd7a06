//! The adapter on an executor of a few lines, whose clock jumps to whatever is waited for.

extern crate std;

use core::cell::{Cell, RefCell};
use core::convert::Infallible;
use core::task::{Context, Waker};
use std::string::String;
use std::vec::Vec;
use std::{format, vec};

use embedded_io_async::{ErrorKind, ErrorType};

use super::*;
use crate::frame::{MAX_FRAME, encode};
use crate::link::{Event, State};
use crate::peek::FromRadio;
use crate::{LinkConfig, Span};

/// The far end of a line, and the clock of the world.
#[derive(Default)]
struct World {
    millis: Cell<u64>,
    /// The earliest moment that is waited for.
    alarm: Cell<Option<Instant>>,
    to_link: RefCell<Vec<u8>>,
    from_link: RefCell<Vec<u8>>,
    /// How many bytes the line takes before it has to be waited for; `None` is any.
    room: Cell<Option<usize>>,
    fault: Cell<Option<ErrorKind>>,
    is_over: Cell<bool>,
}

impl World {
    fn now(&self) -> Instant {
        Instant::from_millis(self.millis.get())
    }

    async fn sleep_until(&self, at: Instant) {
        poll_fn(|_| {
            if self.now() >= at {
                return Poll::Ready(());
            }
            let earlier = self.alarm.get().map_or(at, |other| other.min(at));
            self.alarm.set(Some(earlier));
            Poll::Pending
        })
        .await;
    }

    /// The node: answers heartbeats and handshakes, takes packets.
    fn answer(&self, node: &mut Node) {
        let written = core::mem::take(&mut *self.from_link.borrow_mut());
        node.input.extend(written);
        while let Some(payload) = node.next_frame() {
            let answers: Vec<Vec<u8>> = match payload[..] {
                _ if node.is_silent => continue,
                [0x3A, ..] => vec![b"\x5A\x04\x10\x10\x18\x10".to_vec()],
                [0x18, ref nonce @ ..] => {
                    let complete = [&[0x38], nonce].concat();
                    vec![b"\x1A\x02\x08\x07".to_vec(), complete]
                }
                [0x0A, ..] => {
                    node.packets += 1;
                    let id = u32::from_le_bytes(*payload.last_chunk().unwrap());
                    let mut status = vec![0x5A, 0, 0x10, 0x10, 0x20];
                    let mut rest = id;
                    while rest >= 0x80 {
                        status.push(rest as u8 | 0x80);
                        rest >>= 7;
                    }
                    status.push(rest as u8);
                    status[1] = status.len() as u8 - 2;
                    vec![status]
                }
                ref other => panic!("{other:02x?}"),
            };
            for answer in answers {
                let frame = encode(&answer, &mut [0; MAX_FRAME]).unwrap().to_vec();
                self.to_link.borrow_mut().extend(frame);
            }
        }
    }
}

#[derive(Default)]
struct Node {
    input: Vec<u8>,
    is_silent: bool,
    packets: u32,
}

impl Node {
    fn next_frame(&mut self) -> Option<Vec<u8>> {
        while self.input.first() == Some(&0xC3) {
            self.input.remove(0);
        }
        let len = 4 + usize::from(*self.input.get(3)?);
        (self.input.len() >= len).then(|| self.input.drain(..len).skip(4).collect())
    }
}

struct Line<'w>(&'w World);

impl ErrorType for Line<'_> {
    type Error = ErrorKind;
}

impl Read for Line<'_> {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, ErrorKind> {
        poll_fn(|_| {
            let mut bytes = self.0.to_link.borrow_mut();
            if let Some(fault) = self.0.fault.take() {
                return Poll::Ready(Err(fault));
            }
            if bytes.is_empty() {
                return if self.0.is_over.take() { Poll::Ready(Ok(0)) } else { Poll::Pending };
            }
            let n = buf.len().min(bytes.len());
            buf[..n].copy_from_slice(&bytes[..n]);
            bytes.drain(..n);
            Poll::Ready(Ok(n))
        })
        .await
    }
}

impl Write for Line<'_> {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, ErrorKind> {
        poll_fn(|_| {
            let n = buf.len().min(self.0.room.get().unwrap_or(usize::MAX));
            if n == 0 {
                return Poll::Pending;
            }
            self.0.room.set(self.0.room.get().map(|room| room - n));
            self.0.from_link.borrow_mut().extend_from_slice(&buf[..n]);
            Poll::Ready(Ok(n))
        })
        .await
    }

    async fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

/// The task of a firmware, for ever; what happened goes to `told`.
async fn task(world: &World, config: LinkConfig, told: &RefCell<Vec<String>>) -> Infallible {
    let mut link = Link::<2>::new(config.check().unwrap(), 1);
    let (mut rx, mut tx, mut buf) = (Line(world), Line(world), [0; 8]);
    link.open(world.now());
    let tell = |what: String| told.borrow_mut().push(format!("{}: {what}", world.millis.get()));
    loop {
        while let Some(event) = link.poll_event() {
            match event {
                Event::OpenDue => link.handle_opened(world.now()),
                Event::Configured { .. } => {
                    tell("up".into());
                    let text = b"\x0A\x0A\x22\x06\x08\x01\x12\x02hi\x50\x01";
                    link.send(world.now(), 0, text, None).unwrap();
                }
                Event::Lost { fault, .. } => tell(format!("{fault}")),
                Event::Packet(packet) if packet.state.is_final() => {
                    tell(format!("{:?}", packet.state));
                }
                _ => {}
            }
        }
        let done = turn(
            &mut link,
            &mut rx,
            &mut tx,
            &mut buf,
            || world.now(),
            async |at| world.sleep_until(at).await,
            |item| match item {
                Item::Frame { message: FromRadio::Packet(packet), .. } => {
                    tell(format!("packet of {:x}", packet.from));
                }
                Item::Noise(noise) => tell(String::from_utf8_lossy(noise).into()),
                Item::Frame { .. } => {}
            },
        );
        if let Err(fault) = done.await {
            link.handle_closed(world.now(), fault);
        }
        assert!(link.state() != State::Closed);
    }
}

/// Polls until nothing moves, jumps to what is waited for, and so on to `end`.
fn run(world: &World, node: &mut Node, task: core::pin::Pin<&mut impl Future>, end: u64) {
    let mut task = task;
    loop {
        let mut polls = 0;
        loop {
            world.alarm.set(None);
            let context = &mut Context::from_waker(Waker::noop());
            assert!(task.as_mut().poll(context).is_pending());
            world.answer(node);
            polls += 1;
            assert!(polls < 1000, "it spins at {} ms", world.millis.get());
            if world.to_link.borrow().is_empty() {
                break;
            }
        }
        match world.alarm.get() {
            Some(at) if at.as_millis() <= end => world.millis.set(at.as_millis()),
            _ => break,
        }
    }
    world.millis.set(end);
}

#[test]
fn a_link_lives_in_a_task() {
    let (world, told) = (World::default(), RefCell::default());
    let mut node = Node::default();
    let mut task = pin!(task(&world, LinkConfig::SERIAL, &told));
    let mut expect = |node: &mut Node, until: u64, expected: &[&str]| {
        run(&world, node, task.as_mut(), until);
        assert_eq!(told.take(), expected, "until {until} ms");
    };
    expect(&mut node, 1000, &["100: up", "100: Confirmed"]);
    // Hours of a quiet mesh, and it is awake for nothing but heartbeats.
    expect(&mut node, 7_200_000, &[]);
    // A text line, a packet in two halves, and a torn frame that hides another packet.
    let packet = b"\x94\xC3\x00\x09\x12\x07\x0D\xAA\x00\x00\x00\x22\x00";
    world.to_link.borrow_mut().extend_from_slice(b"INFO");
    world.to_link.borrow_mut().extend_from_slice(&packet[..7]);
    expect(&mut node, 7_200_100, &["7200000: INFO"]);
    world.to_link.borrow_mut().extend_from_slice(&packet[7..]);
    expect(&mut node, 7_200_200, &["7200100: packet of aa"]);
    world.to_link.borrow_mut().extend_from_slice(&[b"\x94\xC3\x00\xFF", &packet[..]].concat());
    let found = ["7200700: \u{fffd}\u{fffd}\0\u{fffd}", "7200700: packet of aa"];
    expect(&mut node, 7_201_000, &found);
    // Death is found although nothing ever arrives again.
    node.is_silent = true;
    expect(&mut node, 7_239_199, &[]);
    node.is_silent = false;
    run(&world, &mut node, task.as_mut(), 7_250_000);
    let told = told.take();
    assert!(told[0].ends_with("no answer to heartbeats"), "{told:?}");
    assert!(told[1].ends_with("up") && told[2].ends_with("Confirmed"), "{told:?}");
    assert_eq!((told.len(), node.packets), (3, 2));
}

#[test]
fn a_transport_that_fails_or_ends_is_opened_again() {
    let (world, told) = (World::default(), RefCell::default());
    let mut node = Node::default();
    let mut task = pin!(task(&world, LinkConfig::TCP, &told));
    run(&world, &mut node, task.as_mut(), 1000);
    world.fault.set(Some(ErrorKind::ConnectionReset));
    run(&world, &mut node, task.as_mut(), 10_000);
    world.is_over.set(true);
    run(&world, &mut node, task.as_mut(), 20_000);
    let told: Vec<String> =
        told.take().iter().map(|line| line.split_once(": ").unwrap().1.into()).collect();
    let session = ["up", "Confirmed"];
    let lost = [&session[..], &["connection reset"], &session, &["closed by peer"], &session];
    assert_eq!(told, lost.concat());
}

#[test]
fn a_transport_that_takes_nothing_does_not_keep_the_clock_waiting() {
    let (world, told) = (World::default(), RefCell::default());
    let mut node = Node::default();
    let mut config = LinkConfig::TCP;
    config.handshake.silence = Span::from_secs(5);
    let mut task = pin!(task(&world, config, &told));
    world.room.set(Some(3));
    run(&world, &mut node, task.as_mut(), 5_500);
    assert_eq!(told.take(), ["5000: handshake stalled"]);
    // Half a heartbeat was taken by a connection that is gone; the next one begins with a whole one.
    assert_eq!(core::mem::take(&mut node.input), b"\x94\xC3\x00");
    world.room.set(None);
    run(&world, &mut node, task.as_mut(), 20_000);
    assert!(told.take()[0].ends_with("up"));
}
