//! `meshbeat send`: one text, and what became of it.
//!
//! Through a daemon, its relay takes the packet at once and keeps it; what the node made of it the
//! daemon tells when asked for the packet's fate.

use core::time::Duration;
use std::io::{self, Write as _};
use std::path::PathBuf;

use log::debug;
use meshbeat::daemon::{self, Question};
use meshbeat::dest::{BROADCAST, Dest};
use meshbeat::event_loop::{FIRST_PROGRAM_TOKEN, Program};
use meshbeat::report::span;
use meshbeat::upstream::HostLink;
use meshbeat_core::Instant;
use meshbeat_core::link::{Event, Item};
use meshbeat_core::outbox::{PacketEvent, PacketState};
use meshbeat_core::peek;
use meshbeat_proto::{
    Data, FromRadio, MeshPacket, PortNum, ToRadio, mesh_packet, routing, to_radio,
};
use mio::Registry;
use prost::Message as _;
use serde_json::Value;

use crate::args::{NodeArgs, TcpArgs};
use crate::commands::link_log::LinkLog;
use crate::commands::names::{channel_name, printable};
use crate::commands::packet::routing_name;
use crate::commands::reach::{Reach, Way};
use crate::commands::snapshot::Snapshot;
use crate::commands::unless_broken_pipe;
use crate::exit::{Exit, Failure};

/// Sends a text and says what became of it: `confirmed` when it entered the node's queue; with
/// --ack `delivered` when the destination has replied, or `relayed` when a neighbour was heard
/// passing a broadcast on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    node: NodeArgs,
    /// Where it goes: !89abcdef, a decimal node number, or ^all
    #[arg(long, value_name = "DEST", default_value = "^all")]
    to: Dest,
    /// Index of the channel
    #[arg(long, value_name = "I", default_value_t = 0)]
    channel: u32,
    /// Wait for the acknowledgement
    #[arg(long)]
    ack: bool,
    /// Seconds that it may take as a whole
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// The text, at most 232 bytes of UTF-8
    #[arg(value_name = "TEXT")]
    text: String,
    #[command(flatten)]
    tcp: TcpArgs,
}

/// Bytes that a node takes (2.8 and older; one more is refused as `TOO_LARGE`).
const LONGEST_TEXT: usize = 232;
/// Hops of a node that does not tell how many it wants.
const DEFAULT_HOPS: u32 = 3;

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    check_text(&args.text)?;
    let way = Way::find(&args.node);
    let mut event_loop = way.one_shot_loop(&args.tcp)?;
    let limit = Duration::from_secs(args.timeout);
    let daemon = match way.daemon() {
        Some(path) => Some(Daemon::new(path.clone(), event_loop.registry()?)),
        None => None,
    };
    let mut send = Send {
        args,
        log: LinkLog::one_shot(way.name().into()),
        reach: Reach::new(way.name(), limit, event_loop.clock().now()),
        daemon,
        mesh: Snapshot::default(),
        is_up: false,
        packet: None,
        end: None,
    };
    event_loop.run(&mut send)?;
    let (reached, result) = send.outcome();
    if let Some(reached) = reached {
        unless_broken_pipe(writeln!(io::stdout(), "{reached}"))?;
    }
    result
}

fn check_text(text: &str) -> Result<(), Failure> {
    let line = match text.len() {
        0 => "the text is empty; write 1 to 232 bytes".into(),
        1..=LONGEST_TEXT => return Ok(()),
        size => format!("the text has {size} bytes, the limit is {LONGEST_TEXT}"),
    };
    Err(Failure::new(Exit::Usage, line))
}

struct Send<'a> {
    args: &'a Args,
    log: LinkLog,
    reach: Reach,
    /// The daemon that the packet goes through.
    daemon: Option<Daemon>,
    mesh: Snapshot,
    is_up: bool,
    packet: Option<Track>,
    end: Option<End>,
}

/// Why the link is closed.
#[derive(Debug)]
enum End {
    /// The packet's fate is known.
    Decided,
    /// The time is over.
    TimedOut,
    /// It cannot be sent.
    Failed(Failure),
}

/// The daemon that takes the packet, and the question what became of it.
#[derive(Debug)]
struct Daemon {
    socket: PathBuf,
    registry: Registry,
    question: Option<Question>,
}

impl Daemon {
    fn new(socket: PathBuf, registry: Registry) -> Self {
        Self { socket, registry, question: None }
    }

    /// Asks for the fate of the packet that was given to it under this id. `Some` is the answer
    /// if there can be none: a daemon that has ended knows of nothing.
    fn ask(&mut self, id: u32) -> Option<PacketState> {
        let line = format!("fate {id}");
        match Question::new(&self.socket, &line, &self.registry, FIRST_PROGRAM_TOKEN) {
            Ok(question) => self.question = Some(question),
            Err(error) => return Some(self.lost(&error)),
        }
        None
    }

    /// The answer, once it is there.
    fn poll(&mut self) -> Option<PacketState> {
        let answer = match self.question.as_mut()?.poll() {
            Ok(answer) => answer?,
            Err(error) => return Some(self.lost(&error)),
        };
        self.question = None;
        Some(daemon::parse_fate(&answer).unwrap_or_else(|| {
            debug!(target: "link", "the daemon answers {answer}");
            PacketState::Unknown
        }))
    }

    fn lost(&mut self, error: &io::Error) -> PacketState {
        debug!(target: "link", "{}: {error}", self.socket.display());
        self.question = None;
        PacketState::Unknown
    }

    /// How the command ends when the fate was not certain in time.
    fn undecided(&self, limit: &str) -> Failure {
        let status = daemon::ask(&self.socket, "status", Duration::from_secs(2)).ok();
        let status: Value = status.and_then(|s| serde_json::from_str(&s).ok()).unwrap_or_default();
        if status["link"]["up"] != false {
            let line = format!("not confirmed within {limit}; the daemon keeps it and tries on");
            return Failure::new(Exit::Failed, line);
        }
        let node = status["node"].as_str().unwrap_or("the node");
        let why = status["link"]["reason"].as_str().unwrap_or("no answer");
        let line = format!(
            "{node} not reachable within {limit}: {why}; the daemon keeps the text and sends it \
             when the node is back"
        );
        Failure::new(Exit::Unreachable, line)
    }
}

/// What is known of the packet.
#[derive(Debug)]
struct Track {
    to: u32,
    own: u32,
    ack: bool,
    state: PacketState,
    /// The ids it was written under, the present one last.
    wire_ids: Vec<u32>,
    /// When it was written first.
    written: Option<Instant>,
    /// When the destination replied.
    delivered: Option<Instant>,
    /// The own node heard it being relayed.
    relayed: bool,
    /// A Routing reply told this error.
    error: Option<i32>,
    /// When the node refused it.
    refused: Option<Instant>,
}

/// Firmware's `ERRNO_*` in a queue status, where `Routing.Error` has the same numbers.
mod res {
    pub(super) const FULL: i32 = 32;
    pub(super) const NO_RADIO: i32 = 33;
    pub(super) const DISABLED: i32 = 34;
}

/// After a refusal with 34, which is a Routing error only if a Routing reply says so, that is
/// awaited for this long.
const NAK_WAIT: Duration = Duration::from_secs(1);

impl Send<'_> {
    /// Sends the packet, now that the node has told who it is and whom it knows.
    fn send(&self, now: Instant, link: &mut HostLink) -> Result<Track, Failure> {
        let (to, own) = (self.args.to, self.mesh.own());
        if to.0 != BROADCAST && !self.mesh.nodes.contains_key(&to.0) {
            let line =
                format!("{to} is not known to the node; `meshbeat nodes` lists those it knows");
            return Err(Failure::new(Exit::Failed, line));
        }
        check_channel(self.args.channel, &self.mesh)?;
        let packet = MeshPacket {
            to: to.0,
            channel: self.args.channel,
            want_ack: self.args.ack,
            // As the official clients do.
            hop_limit: self.mesh.lora.as_ref().map_or(DEFAULT_HOPS, |lora| lora.hop_limit),
            payload_variant: Some(mesh_packet::PayloadVariant::Decoded(Data {
                portnum: PortNum::TextMessageApp as i32,
                payload: self.args.text.clone().into_bytes(),
                ..Data::default()
            })),
            ..MeshPacket::default()
        };
        let variant = Some(to_radio::PayloadVariant::Packet(packet));
        let id = link.send(now, 0, &ToRadio { payload_variant: variant }.encode_to_vec(), None)?;
        Ok(Track::new(id, to.0, own, self.args.ack))
    }

    /// What the link says of the packet. A daemon that has taken it is not yet the node.
    fn handle_packet(&mut self, now: Instant, mut event: PacketEvent) {
        let Some(track) = &mut self.packet else { return };
        if let Some(daemon) = &mut self.daemon
            && event.state == PacketState::Confirmed
        {
            let answer = daemon.ask(event.wire_id);
            event.state = answer.unwrap_or(PacketState::Sent);
        }
        track.handle_packet(now, event);
    }

    /// Looks for the daemon's answer.
    fn handle_answer(&mut self, now: Instant) {
        let answer = self.daemon.as_mut().and_then(Daemon::poll);
        if let (Some(state), Some(track)) = (answer, &mut self.packet) {
            let wire_id = track.wire_ids.last().copied().unwrap_or_default();
            track.handle_packet(now, PacketEvent { id: wire_id, wire_id, sender: 0, state });
        }
    }

    /// The daemon has the packet and was asked what became of it.
    fn is_asking(&self) -> bool {
        self.daemon.as_ref().is_some_and(|daemon| daemon.question.is_some())
    }

    /// What was reached, and how the command ends.
    fn outcome(self) -> (Option<String>, Result<(), Failure>) {
        let limit = span(self.reach.limit());
        let is_asking = self.is_asking();
        let fail = |exit, line: String| Err(Failure::new(exit, line));
        let timed_out = match self.end {
            Some(End::Failed(failure)) => return (None, Err(failure)),
            end => matches!(end, Some(End::TimedOut)),
        };
        let Some(track) = self.packet else {
            let interrupted = || Failure::new(Exit::Failed, "interrupted");
            let failure = if timed_out { self.reach.failure() } else { interrupted() };
            return (None, Err(failure));
        };
        if let (Some(at), Some(written)) = (track.delivered, track.written) {
            return (Some(format!("delivered after {}", span(at.since(written)))), Ok(()));
        }
        match track.state {
            PacketState::Confirmed => {}
            PacketState::Refused(res) => {
                let reason = refusal_name(res, track.error);
                return (None, fail(Exit::Failed, format!("refused: {reason}")));
            }
            PacketState::Sent if timed_out && is_asking => {
                let failure = self.daemon.map(|daemon| daemon.undecided(&limit));
                return (None, failure.map_or(Ok(()), Err));
            }
            PacketState::Unknown | PacketState::Sent => {
                return (None, fail(Exit::Failed, "written, never confirmed".into()));
            }
            PacketState::Expired | PacketState::Queued if !timed_out => {
                return (None, fail(Exit::Failed, "interrupted, nothing was sent".into()));
            }
            PacketState::Expired | PacketState::Queued if !self.is_up => {
                return (None, Err(self.reach.failure()));
            }
            PacketState::Expired | PacketState::Queued => {
                let line = format!("not sent within {limit}: the node has no room for it");
                return (None, fail(Exit::Failed, line));
            }
        }
        let reached = Some(if track.relayed { "relayed" } else { "confirmed" }.to_owned());
        let result = match track.error {
            _ if !track.ack => Ok(()),
            _ if track.relayed && track.to == BROADCAST => Ok(()),
            Some(error) => {
                let line = format!("not acknowledged: {}", routing_name(error));
                fail(Exit::NotAcknowledged, line)
            }
            None if timed_out => {
                fail(Exit::NotAcknowledged, format!("not acknowledged: timed out after {limit}"))
            }
            None => fail(Exit::Failed, "interrupted before the acknowledgement".into()),
        };
        (reached, result)
    }
}

impl Program for Send<'_> {
    fn handle_event(&mut self, now: Instant, event: Event, _link: &HostLink) {
        self.log.handle_event(now, event);
        match event {
            // A handshake that broke off starts over.
            Event::Opened if self.packet.is_none() => self.mesh = Snapshot::default(),
            Event::Configured { .. } => self.is_up = true,
            Event::Lost { fault, .. } => {
                self.is_up = false;
                self.reach.handle_lost(fault);
                if self.packet.is_none() && self.end.is_none() && self.reach.is_hopeless() {
                    self.end = Some(End::Failed(self.reach.failure()));
                }
            }
            Event::Packet(event) => self.handle_packet(now, event),
            _ => {}
        }
    }

    fn handle_item(&mut self, now: Instant, item: Item<'_>) {
        self.log.handle_item(&item);
        let Item::Frame { payload, message, .. } = item else { return };
        match &mut self.packet {
            None => {
                let message = FromRadio::decode(payload).ok();
                if let Some(variant) = message.and_then(|message| message.payload_variant) {
                    self.mesh.take(variant);
                }
            }
            Some(track) => {
                if let peek::FromRadio::Packet(peek::Packet { from, data: Some(data), .. }) =
                    message
                    && let Some(error) = data.routing_error
                {
                    track.handle_reply(now, from, data.request_id, error);
                }
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.log.handle_timeout(now);
    }

    fn handle_turn(&mut self, now: Instant, link: &mut HostLink) {
        if self.end.is_some() {
            return;
        }
        if self.is_up && self.packet.is_none() {
            match self.send(now, link) {
                Ok(track) => self.packet = Some(track),
                Err(failure) => self.end = Some(End::Failed(failure)),
            }
        }
        self.handle_answer(now);
        if self.packet.as_ref().is_some_and(|track| track.is_decided(now)) {
            self.end = Some(End::Decided);
        } else if self.reach.is_over(now) && self.end.is_none() {
            self.end = Some(End::TimedOut);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.end.is_some() {
            return None;
        }
        let nak = self.packet.as_ref().and_then(Track::nak_deadline);
        nak.into_iter().chain([self.reach.deadline()]).min()
    }

    fn is_done(&self) -> bool {
        self.end.is_some()
    }
}

impl Track {
    fn new(id: u32, to: u32, own: u32, ack: bool) -> Self {
        Self {
            to,
            own,
            ack,
            state: PacketState::Queued,
            wire_ids: vec![id],
            written: None,
            delivered: None,
            relayed: false,
            error: None,
            refused: None,
        }
    }

    fn handle_packet(&mut self, now: Instant, event: PacketEvent) {
        self.state = event.state;
        match event.state {
            PacketState::Sent | PacketState::Confirmed => self.written = self.written.or(Some(now)),
            PacketState::Refused(_) => self.refused = Some(now),
            _ => {}
        }
        if self.wire_ids.last() != Some(&event.wire_id) {
            self.wire_ids.push(event.wire_id);
            // An error about an id that was given up says nothing about the packet.
            self.error = None;
        }
    }

    /// A Routing reply arrived, perhaps for this packet. One that does not come from the
    /// destination is no delivery.
    fn handle_reply(&mut self, now: Instant, from: u32, request_id: u32, error: i32) {
        if !self.wire_ids.contains(&request_id) {
            return;
        }
        if error != routing::Error::None as i32 {
            if self.wire_ids.last() == Some(&request_id) {
                self.error = Some(error);
            }
        } else if from == self.to {
            self.written = self.written.or(Some(now));
            self.delivered = self.delivered.or(Some(now));
        } else if from == self.own {
            self.relayed = true;
        }
    }

    /// Whether nothing more is to be waited for.
    fn is_decided(&self, now: Instant) -> bool {
        let acknowledged = self.delivered.is_some()
            || self.error.is_some()
            || (self.relayed && self.to == BROADCAST);
        match self.state {
            PacketState::Queued | PacketState::Sent => self.delivered.is_some(),
            PacketState::Confirmed | PacketState::Unknown => !self.ack || acknowledged,
            PacketState::Refused(_) => self.nak_deadline().is_none_or(|at| now >= at),
            PacketState::Expired => true,
        }
    }

    /// Until when a Routing reply may tell what a refusal means.
    fn nak_deadline(&self) -> Option<Instant> {
        let waits = self.state == PacketState::Refused(res::DISABLED) && self.error.is_none();
        self.refused.filter(|_| waits).map(|at| at + NAK_WAIT)
    }
}

/// Refuses a channel that the node does not have, naming those it has.
fn check_channel(index: u32, mesh: &Snapshot) -> Result<(), Failure> {
    if mesh.channels.contains_key(&index.cast_signed()) {
        return Ok(());
    }
    let channels = mesh.channels.values();
    let channels: Vec<_> = channels
        .map(|channel| format!("{} ({})", channel.index, printable(&channel_name(channel))))
        .collect();
    let line = match channels.is_empty() {
        true => format!("channel {index}: the node tells no channels; it may be locked"),
        false => format!("channel {index} is not in use; there are {}", channels.join(", ")),
    };
    Err(Failure::new(Exit::Failed, line))
}

/// Why the node refused the packet: `res` of its queue status, or the error of its Routing reply.
fn refusal_name(res: i32, reply: Option<i32>) -> String {
    match res {
        _ if reply == Some(res) => routing_name(res),
        res::FULL => "queue full".into(),
        res::NO_RADIO => "no radio".into(),
        res::DISABLED => "radio disabled".into(),
        res => routing_name(res),
    }
}

#[cfg(test)]
mod tests {
    use meshbeat_proto::{Channel, ChannelSettings, channel, from_radio};

    use super::*;

    const OWN: u32 = 1;
    const DEST: u32 = 2;
    const MAX_RETRANSMIT: i32 = 5;

    /// One thing that happens to the packet, a second after the one before.
    #[derive(Clone, Copy)]
    enum Step {
        Is(PacketState),
        /// From then on under this id.
        Again(u32),
        Reply {
            from: u32,
            id: u32,
            error: i32,
        },
    }

    use PacketState::{Confirmed, Expired, Queued, Refused, Sent, Unknown};
    use Step::{Again, Is, Reply};

    /// After how many steps the packet's fate was decided, and its track then.
    fn play(to: u32, ack: bool, steps: &[Step]) -> (Option<usize>, Track) {
        let mut track = Track::new(10, to, OWN, ack);
        let mut now = Instant::ORIGIN;
        for (index, step) in steps.iter().enumerate() {
            now = now + Duration::from_secs(1);
            let wire_id = *track.wire_ids.last().expect("one at least");
            let mut is = |state, wire_id| {
                track.handle_packet(now, PacketEvent { id: 10, wire_id, sender: 0, state });
            };
            match *step {
                Is(state) => is(state, wire_id),
                Again(id) => is(Queued, id),
                Reply { from, id, error } => track.handle_reply(now, from, id, error),
            }
            if track.is_decided(now) {
                return (Some(index + 1), track);
            }
        }
        (None, track)
    }

    #[test]
    fn without_ack_the_nodes_word_decides() {
        for end in [Confirmed, Unknown, Expired, Refused(6)] {
            assert_eq!(play(BROADCAST, false, &[Is(Queued), Is(Sent), Is(end)]).0, Some(3));
        }
    }

    #[test]
    fn only_the_destinations_reply_is_delivery() {
        let relayed = Reply { from: OWN, id: 10, error: 0 };
        let stranger = Reply { from: 3, id: 10, error: 0 };
        let other = Reply { from: DEST, id: 11, error: 0 };
        let delivered = Reply { from: DEST, id: 10, error: 0 };
        let steps = [Is(Sent), Is(Confirmed), relayed, stranger, other, delivered];
        let (decided, track) = play(DEST, true, &steps);
        assert_eq!(decided, Some(6));
        assert!(track.relayed);
        let took = track.delivered.expect("delivered").since(track.written.expect("written"));
        assert_eq!(took, Duration::from_secs(5));
        assert_eq!(play(BROADCAST, true, &steps).0, Some(3), "the best a broadcast can get");
    }

    #[test]
    fn an_error_ends_the_wait_for_the_acknowledgement() {
        let error = Reply { from: OWN, id: 10, error: MAX_RETRANSMIT };
        let (decided, track) = play(DEST, true, &[Is(Sent), Is(Confirmed), error]);
        assert_eq!((decided, track.error), (Some(3), Some(MAX_RETRANSMIT)));
    }

    #[test]
    fn a_reply_to_an_earlier_id_counts_but_its_error_does_not() {
        let error = Reply { from: OWN, id: 10, error: 9 };
        let steps = [Is(Sent), Again(20), error, Is(Sent), Is(Confirmed)];
        let (decided, track) = play(DEST, true, &steps);
        assert_eq!((decided, track.error), (None, None));
        let steps = [Is(Sent), error, Again(20), Is(Sent), Is(Confirmed)];
        assert_eq!(play(DEST, true, &steps).0, None);
        let late = Reply { from: DEST, id: 10, error: 0 };
        assert_eq!(play(DEST, true, &[Is(Sent), Again(20), Is(Sent), late]).0, Some(4));
    }

    #[test]
    fn a_refusal_with_34_waits_for_the_reply_that_tells_what_it_means() {
        let refused = Refused(res::DISABLED);
        let nak = Reply { from: OWN, id: 10, error: 34 };
        let (decided, track) = play(DEST, false, &[Is(Sent), Is(refused), nak]);
        assert_eq!(decided, Some(3));
        assert_eq!(refusal_name(34, track.error), "PKI_FAILED");
        let (decided, track) = play(DEST, false, &[Is(Sent), Is(refused)]);
        assert_eq!(decided, None);
        let deadline = track.nak_deadline().expect("it waits");
        assert!(track.is_decided(deadline));
        assert_eq!(refusal_name(34, track.error), "radio disabled");
    }

    #[test]
    fn refusals_have_their_official_names() {
        for (res, name) in [
            (6, "NO_CHANNEL"),
            (7, "TOO_LARGE"),
            (9, "DUTY_CYCLE_LIMIT"),
            (32, "queue full"),
            (33, "no radio"),
            (35, "PKI_UNKNOWN_PUBKEY"),
            (39, "PKI_SEND_FAIL_PUBLIC_KEY"),
            (99, "99"),
        ] {
            assert_eq!(refusal_name(res, None), name);
        }
        assert_eq!(refusal_name(33, Some(33)), "NOT_AUTHORIZED");
    }

    #[test]
    fn texts_of_1_to_232_bytes_pass() {
        assert!(check_text("é").is_ok() && check_text(&"é".repeat(116)).is_ok());
        let failure = check_text(&"é".repeat(117)).expect_err("too long");
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(failure.line, "the text has 234 bytes, the limit is 232");
        assert_eq!(check_text("").expect_err("empty").exit, Exit::Usage);
    }

    #[test]
    fn a_channel_that_is_not_in_use_is_refused_with_those_that_are() {
        let mut mesh = Snapshot::default();
        let line = |mesh: &Snapshot, index| check_channel(index, mesh).map_err(|f| f.line);
        assert!(line(&mesh, 0).expect_err("none").contains("may be locked"));
        for (index, role, name) in [
            (0, channel::Role::Primary, ""),
            (1, channel::Role::Secondary, "harbour"),
            (2, channel::Role::Disabled, ""),
        ] {
            let name = name.as_bytes().to_vec();
            let settings = Some(ChannelSettings { name, ..ChannelSettings::default() });
            let channel = Channel { index, role: role as i32, settings };
            mesh.take(from_radio::PayloadVariant::Channel(channel));
        }
        assert_eq!(line(&mesh, 0), Ok(()));
        assert_eq!(line(&mesh, 1), Ok(()));
        let expected = "is not in use; there are 0 (default), 1 (harbour)";
        for index in [2, 7, 8, u32::MAX] {
            assert_eq!(line(&mesh, index), Err(format!("channel {index} {expected}")));
        }
    }
}
