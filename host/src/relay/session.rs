//! One client: what it has asked for, and what waits to be written to it.
//!
//! The frames of a handshake stand together and in front of everything else; a new question drops
//! what is left of the old one, as the firmware does.

use core::time::Duration;
use std::collections::VecDeque;
use std::rc::Rc;

use meshbeat_core::decoder::Decoder;
use meshbeat_core::time::Instant;

use super::{Action, ClientId, Peer};

/// iOS drops what comes too soon behind the own node info of its first handshake.
const PAUSE: Duration = Duration::from_millis(50);

/// A client and its queue.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) peer: Peer,
    pub(super) since: Instant,
    /// Whose packets they are in the outbox.
    pub(super) sender: u16,
    /// `None` while its bytes are being read.
    pub(super) decoder: Option<Box<Decoder>>,
    pub(super) phase: Phase,
    /// A handshake that was asked for and has not begun.
    pub(super) asked: Option<Asked>,
    /// How much room it was told.
    pub(super) free: u32,
    /// It was told that there is no room, and is to be told when there is some again.
    pub(super) starved: bool,
    /// Handshakes of the minute that began then.
    handshakes: (Instant, u32),
    /// Begun to be written; so many bytes are.
    front: Option<Rc<[u8]>>,
    written: usize,
    handshake: VecDeque<Step>,
    /// The next frame of the handshake waits until then.
    paused: Option<Instant>,
    queue: VecDeque<Rc<[u8]>>,
    queued_bytes: usize,
    /// When a byte was written to it last.
    pub(super) last_written: Instant,
    /// An `Action::Write` for it waits to be polled.
    pub(super) announced: bool,
    pub(super) frames_received: u64,
    pub(super) frames_sent: u64,
    /// Bytes that belonged to no frame.
    pub(super) noise: u64,
}

/// How far a client has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has not completed a handshake; packets are not for it.
    New,
    /// Its first handshake is being written; what comes is queued behind.
    Shaking,
    /// It has completed one.
    Live,
}

/// A question for the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) nonce: u32,
    pub(super) at: Instant,
    /// Not to be answered before: it asks too often.
    pub(super) not_before: Instant,
}

/// What a handshake is made of.
#[derive(Debug)]
pub(super) enum Step {
    Frame(Rc<[u8]>),
    Pause,
}

impl Session {
    pub(super) fn new(now: Instant, peer: Peer, sender: u16) -> Self {
        Self {
            peer,
            since: now,
            sender,
            decoder: Some(Box::default()),
            phase: Phase::New,
            asked: None,
            free: super::answers::MAX_LEN,
            starved: false,
            handshakes: (now, 0),
            front: None,
            written: 0,
            handshake: VecDeque::new(),
            paused: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            last_written: now,
            announced: false,
            frames_received: 0,
            frames_sent: 0,
            noise: 0,
        }
    }

    /// The client wants the configuration. What is left of an earlier answer is dropped.
    pub(super) fn ask(&mut self, now: Instant, nonce: u32, per_minute: u32) {
        const MINUTE: Duration = Duration::from_secs(60);
        self.handshake.clear();
        self.paused = None;
        let (since, count) = &mut self.handshakes;
        if now >= *since + MINUTE {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        let not_before = if *count > per_minute { *since + MINUTE } else { now };
        self.asked = Some(Asked { nonce, at: now, not_before });
    }

    /// The answer to what it asked. That it was all written is told by [`Session::consume`].
    pub(super) fn answer(&mut self, steps: VecDeque<Step>) {
        self.asked = None;
        self.handshake = steps;
        if self.phase == Phase::New {
            self.phase = Phase::Shaking;
        }
    }

    /// Has the caller told, once, that something is pending.
    pub(super) fn announce(&mut self, id: ClientId, actions: &mut VecDeque<Action>) {
        if !core::mem::replace(&mut self.announced, true) {
            actions.push_back(Action::Write(id));
        }
    }

    /// Queues a frame behind what waits.
    pub(super) fn push(&mut self, frame: Rc<[u8]>) {
        self.queued_bytes += frame.len();
        self.queue.push_back(frame);
    }

    /// Says that the peer took so many of the pending bytes. Returns whether its first handshake
    /// has thereby been completed.
    pub(super) fn consume(&mut self, now: Instant, mut taken: usize) -> bool {
        self.last_written = now;
        let mut completed = false;
        while taken > 0 {
            if self.front.is_none() {
                self.front = self.next_frame();
            }
            let Some(frame) = &self.front else { break };
            let left = frame.len() - self.written;
            if taken < left {
                self.written += taken;
                break;
            }
            taken -= left;
            completed |= self.finish_front(now);
        }
        completed
    }

    fn next_frame(&mut self) -> Option<Rc<[u8]>> {
        match self.handshake.front() {
            Some(Step::Pause) => None,
            Some(Step::Frame(_)) => match self.handshake.pop_front()? {
                Step::Frame(frame) => Some(frame),
                Step::Pause => None,
            },
            None => {
                let frame = self.queue.pop_front()?;
                self.queued_bytes -= frame.len();
                Some(frame)
            }
        }
    }

    /// Returns whether that was the last frame of its first handshake.
    fn finish_front(&mut self, now: Instant) -> bool {
        (self.front, self.written) = (None, 0);
        self.frames_sent += 1;
        if let Some(Step::Pause) = self.handshake.front() {
            self.paused = Some(now + PAUSE);
        }
        let completed =
            self.phase == Phase::Shaking && self.handshake.is_empty() && self.asked.is_none();
        if completed {
            self.phase = Phase::Live;
        }
        completed
    }

    /// Lets time pass. Returns whether more can be written now.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let over = self.paused.is_some_and(|until| now >= until);
        if over {
            self.paused = None;
            self.handshake.pop_front();
        }
        over
    }

    /// When the handshake goes on.
    pub(super) const fn paused(&self) -> Option<Instant> {
        self.paused
    }

    /// What is to be written now, in order.
    pub(super) fn pending(&self) -> impl Iterator<Item = &[u8]> {
        let front = self.front.as_deref().map(|frame| frame.get(self.written..).unwrap_or(&[]));
        let handshake = self.handshake.iter().map_while(|step| match step {
            Step::Frame(frame) => Some(&**frame),
            Step::Pause => None,
        });
        let paused = self.handshake.iter().any(|step| matches!(step, Step::Pause));
        let queue = self.queue.iter().map(|frame| &**frame).filter(move |_| !paused);
        front.into_iter().chain(handshake).chain(queue)
    }

    /// Bytes that wait behind the handshake.
    pub(super) const fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether it gets what comes from the mesh.
    pub(super) fn is_configured(&self) -> bool {
        self.phase != Phase::New
    }
}
