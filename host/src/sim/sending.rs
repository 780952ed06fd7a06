//! What becomes of a client's packet: the four steps of `PhoneAPI::handleToRadioPacket`, the queue
//! to the radio, the air, and the answers from there.

use core::time::Duration;

use meshbeat_core::time::Instant;
use meshbeat_proto::{
    ClientNotification, Compressed, Data, MeshPacket, PortNum, QueueStatus, RouteDiscovery,
    Routing, ToRadio, config, log_record, mesh_packet, routing, to_radio,
};
use prost::Message;

use super::config::draw_span;
use super::log::{Record, Why};
use super::mesh::clean_number;
use super::node::{Due, How, SimNode};
use super::queue::port;
use crate::dest::BROADCAST;

/// Queue status: the queue to the radio is full (`ERRNO_UNKNOWN`).
const FULL: i32 = 32;
/// Queue status: the packet needs no radio (`ERRNO_SHOULD_RELEASE`).
const LOCAL: i32 = 35;
/// Queue status: the radio is disabled (`ERRNO_DISABLED`).
const DISABLED: i32 = 34;
/// Queue status: there is no radio yet (`ERRNO_NO_INTERFACES`).
const NO_RADIO: i32 = 33;

/// The most that fits on the air: a data message, its encryption's overhead included.
const MAX_DATA: usize = 239;
/// What encryption for one receiver adds.
const PKC_OVERHEAD: usize = 12;
/// Packets that wait for room in the queue to the radio. The firmware keeps them in its pool.
const MAX_WAITING: usize = 64;

/// A packet in the queue to the radio.
#[derive(Debug)]
pub(super) struct OnAir {
    packet: MeshPacket,
    /// Somebody waits for what becomes of it.
    tracked: bool,
}

impl SimNode {
    /// Acts on one payload from the client. What is not a `ToRadio` is ignored.
    pub(super) fn handle_to_radio(&mut self, now: Instant, payload: &[u8]) {
        use to_radio::PayloadVariant as Variant;
        let Ok(message) = ToRadio::decode(payload) else {
            return;
        };
        match message.payload_variant {
            Some(Variant::Packet(packet)) => self.take_packet(now, packet),
            Some(Variant::WantConfigId(nonce)) => self.start_handshake(now, nonce),
            Some(Variant::Disconnect(_)) => self.close(now, How::Fin, Why::Disconnect),
            Some(Variant::Heartbeat(heartbeat)) => self.take_heartbeat(now, heartbeat.nonce),
            // There is neither a file system nor an MQTT server behind it.
            Some(Variant::XmodemPacket(_) | Variant::MqttClientProxyMessage(_)) | None => {}
        }
    }

    /// Queues a status for the client; of those that wait, the oldest may go.
    pub(super) fn push_status(&mut self, now: Instant, status: QueueStatus) {
        let id = status.mesh_packet_id;
        if let Some((_, lost)) = self.faults.full
            && status.res == FULL
            && lost.draw(&mut self.rng)
        {
            self.record(now, Record::StatusLost(id));
        } else if let Some(lost) = self.phone.push_status(status, self.config.queues.statuses) {
            self.record(now, Record::StatusLost(lost.mesh_packet_id));
        }
    }

    /// Lets the first packet in the queue to the radio go out, unless one is going or the queue
    /// is stuck.
    pub(super) fn start_transmitting(&mut self, now: Instant) {
        if self.transmit_at.is_none() && !self.to_radio.is_empty() && self.faults.full.is_none() {
            self.transmit_at = Some(now + draw_span(&mut self.rng, &self.config.radio.airtime));
        }
    }

    /// Does what is due on the air.
    pub(super) fn check_radio(&mut self, now: Instant) {
        if self.transmit_at.is_some_and(|at| at <= now) {
            self.transmit_at = None;
            if let Some(sent) = self.to_radio.pop_front() {
                self.transmitted(now, &sent.packet);
                if sent.tracked {
                    self.plan_answers(now, sent.packet);
                }
            }
            self.start_transmitting(now);
        }
        while let Some(entry) = self.agenda.first_entry()
            && entry.key().0 <= now
        {
            match entry.remove() {
                Due::Phone(packet) => self.tell(now, packet),
                Due::Repeat(packet) => self.transmitted(now, &packet),
                Due::Again(packet) => self.try_again(now, packet),
                Due::Reboot => self.restart(now, self.config.timing.boot),
            }
        }
        if self.air.next.is_some_and(|at| at <= now) {
            let unix_time = self.unix_time(now);
            if let Some(packet) = self.air.packet(&self.mesh, unix_time) {
                self.rebroadcast(now, &packet);
                self.tell(now, packet);
            }
            self.air.arm(now, self.config.traffic.per_minute);
        }
    }

    /// A simulated radio passes on what it hears, and tells its client.
    pub(super) fn rebroadcast(&mut self, now: Instant, packet: &MeshPacket) {
        if self.config.radio.simulated && packet.hop_limit > 0 && self.free() > 0 {
            let packet = MeshPacket { hop_limit: packet.hop_limit - 1, ..packet.clone() };
            self.enqueue(now, OnAir { packet, tracked: false });
        }
    }

    /// A packet from the node itself to its client, with `data` in it.
    pub(super) fn own_packet(&mut self, data: Data) -> MeshPacket {
        MeshPacket {
            from: self.mesh.num,
            to: self.mesh.num,
            id: clean_number(&mut self.rng),
            priority: mesh_packet::Priority::Ack as i32,
            payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
            ..MeshPacket::default()
        }
    }

    /// The Routing reply from the node itself about the client's packet `request_id`.
    pub(super) fn routing_reply(&mut self, request_id: u32, error: i32) -> MeshPacket {
        self.own_packet(routing_data(request_id, error))
    }

    fn take_heartbeat(&mut self, now: Instant, nonce: u32) {
        let Some(link) = &mut self.link else {
            return;
        };
        let broadcasts = nonce == 1 && self.config.heartbeat.nonce_one;
        if self.config.heartbeat.answered && !broadcasts {
            link.heartbeat = true;
        }
        let conn = link.id;
        self.record(now, Record::Heartbeat { conn, nonce });
        if broadcasts && self.free() > 0 {
            let data = Data {
                portnum: PortNum::NodeinfoApp as i32,
                payload: self.mesh.owner.encode_to_vec(),
                ..Data::default()
            };
            let packet = MeshPacket { to: BROADCAST, hop_limit: 3, ..self.own_packet(data) };
            self.enqueue(now, OnAir { packet, tracked: false });
        }
    }

    /// The four steps.
    fn take_packet(&mut self, now: Instant, mut packet: MeshPacket) {
        let Some(link) = &self.link else {
            return;
        };
        let port = port(&packet);
        let (conn, id, to) = (link.id, packet.id, packet.to);

        // 1: ids that were here before, remembered before anything below can refuse.
        let checked = self.config.limits.repeats && !self.config.radio.simulated;
        let repeated = checked && self.memory.is_repeat(id);
        self.record(now, Record::Read { conn, id, to, port });
        if repeated {
            self.record(now, Record::Repeated(id));
            return;
        }

        // 2: rate limits. Refusing looks like accepting.
        if let Some(port) = port
            && self.is_limited(now, &packet, port)
        {
            self.record(now, Record::RateLimited { id, port });
            let status = self.status(0, id);
            self.push_status(now, status);
            return;
        }

        // 3: what a client has no say in.
        packet.from = 0;
        packet.next_hop = 0;
        packet.relay_node = 0;
        if packet.id == 0 {
            packet.id = clean_number(&mut self.rng);
        }

        // 4: the queue, and one status.
        let id = packet.id;
        let res = self.send(now, packet);
        let status = self.status(res, id);
        self.push_status(now, status);
    }

    fn is_limited(&mut self, now: Instant, packet: &MeshPacket, port: i32) -> bool {
        let Some(span) = limit(port).filter(|_| self.config.limits.enforced) else {
            return false;
        };
        let is_traceroute = port == PortNum::TracerouteApp as i32;
        let forbidden = is_traceroute && packet.to == BROADCAST && packet.hop_limit > 0;
        let span = span.mul_f32(self.config.limits.scale.clamp(0.0, 1_000.0));
        let limited = forbidden || self.memory.is_limited(now, port, span);
        if limited && is_traceroute {
            let why = if forbidden { "never to all over hops" } else { "once in 30 s" };
            self.notify(now, packet.id, &format!("Traceroute {why}"));
        }
        limited
    }

    /// Gives the packet to the queue to the radio; returns the `res` of its status.
    fn send(&mut self, now: Instant, mut packet: MeshPacket) -> i32 {
        let id = packet.id;
        let to_self = packet.to == self.mesh.num;
        packet.from = self.mesh.num;
        if !to_self && let Some(res) = self.refusal(&packet) {
            self.record(now, Record::Refused { id, res });
            if self.has_nak(res) {
                let nak = self.routing_reply(id, res);
                self.tell(now, nak);
            }
            if res == routing::Error::DutyCycleLimit as i32 {
                self.notify(now, id, "Duty cycle limit reached");
            }
            return res;
        }
        if to_self {
            self.record(now, Record::Taken(id));
            self.take_local(now, &packet);
            LOCAL
        } else if self.free() > 0 {
            self.record(now, Record::Taken(id));
            self.enqueue(now, OnAir { packet, tracked: true });
            0
        } else if packet.want_ack {
            self.record(now, Record::Taken(id));
            self.wait_for_room(now, packet);
            FULL
        } else {
            self.record(now, Record::Refused { id, res: FULL });
            FULL
        }
    }

    /// Why the packet is refused whatever room there is.
    fn refusal(&mut self, packet: &MeshPacket) -> Option<i32> {
        if let Some(res) = self.faults.refusals.pop_front() {
            return Some(res);
        }
        let lora = self.mesh.configs.iter().find_map(|config| match &config.payload_variant {
            Some(config::PayloadVariant::Lora(lora)) => Some(lora.tx_enabled),
            _ => None,
        });
        if lora == Some(false) {
            return Some(DISABLED);
        }
        if let Some(mesh_packet::PayloadVariant::Decoded(data)) = &packet.payload_variant {
            if !self.mesh.has_channel(packet.channel) {
                return Some(routing::Error::NoChannel as i32);
            }
            let known = packet.to != BROADCAST && self.mesh.node(packet.to).is_some();
            let overhead = if known { PKC_OVERHEAD } else { 0 };
            let with_bitfield = Data { bitfield: Some(1), ..data.clone() };
            if with_bitfield.encoded_len() + overhead > MAX_DATA {
                return Some(routing::Error::TooLarge as i32);
            }
        }
        None
    }

    /// Whether a Routing reply follows a refusal with `res`. 34 is "radio disabled" here.
    fn has_nak(&self, res: i32) -> bool {
        !matches!(res, FULL | NO_RADIO | DISABLED)
    }

    fn enqueue(&mut self, now: Instant, on_air: OnAir) {
        self.to_radio.push_back(on_air);
        self.start_transmitting(now);
    }

    /// The packet found the queue full but wants an answer: it is tried again.
    fn wait_for_room(&mut self, now: Instant, packet: MeshPacket) {
        if self.agenda.len() < MAX_WAITING {
            self.plan(now + Duration::from_secs(5), Due::Again(packet));
        } else {
            let nak = self.routing_reply(packet.id, routing::Error::MaxRetransmit as i32);
            self.tell(now, nak);
        }
    }

    fn try_again(&mut self, now: Instant, packet: MeshPacket) {
        if self.free() > 0 {
            self.enqueue(now, OnAir { packet, tracked: true });
        } else {
            self.wait_for_room(now, packet);
        }
    }

    /// The packet went out.
    fn transmitted(&mut self, now: Instant, packet: &MeshPacket) {
        self.record(now, Record::Transmitted { from: packet.from, id: packet.id });
        if !self.config.radio.simulated {
            return;
        }
        let status = self.status(0, packet.id);
        self.push_status(now, status);
        if let Some(mesh_packet::PayloadVariant::Decoded(data)) = &packet.payload_variant {
            let inner = Compressed { portnum: data.portnum, data: data.payload.clone() };
            let data = Data {
                portnum: PortNum::SimulatorApp as i32,
                payload: inner.encode_to_vec(),
                ..data.clone()
            };
            let variant = Some(mesh_packet::PayloadVariant::Decoded(data));
            self.tell(now, MeshPacket { payload_variant: variant, ..packet.clone() });
        }
    }

    /// Plans what the mesh answers to a client's packet that just went out.
    fn plan_answers(&mut self, now: Instant, packet: MeshPacket) {
        let heard = self.mesh.node(packet.to).is_some() || packet.to == BROADCAST;
        let silent = self.config.radio.simulated || !heard;
        let answered = !silent && self.config.radio.answered.draw(&mut self.rng);
        let answer_at = now + draw_span(&mut self.rng, &self.config.radio.answer);
        if packet.want_ack && !answered {
            let span = draw_span(&mut self.rng, &self.config.radio.give_up);
            let nak = self.routing_reply(packet.id, routing::Error::MaxRetransmit as i32);
            self.plan(now + span / 3, Due::Repeat(packet.clone()));
            self.plan(now + span * 2 / 3, Due::Repeat(packet));
            self.plan(now + span, Due::Phone(nak));
            return;
        }
        if !answered {
            return;
        }
        if packet.want_ack {
            if packet.to == BROADCAST || self.config.radio.relayed.draw(&mut self.rng) {
                // Heard from a neighbour before the destination can have answered.
                let own = self.routing_reply(packet.id, 0);
                self.plan(now + answer_at.since(now) / 2, Due::Phone(own));
            }
            if let Some(node) = self.mesh.node(packet.to).cloned() {
                let data = routing_data(packet.id, 0);
                let answer = self.answer_from(&node, now, data);
                self.plan(answer_at, Due::Phone(answer));
            }
        }
        self.plan_response(now, answer_at + Duration::from_millis(500), &packet);
    }

    /// What the destination responds to a request.
    fn plan_response(&mut self, now: Instant, at: Instant, packet: &MeshPacket) {
        let Some(mesh_packet::PayloadVariant::Decoded(data)) = &packet.payload_variant else {
            return;
        };
        let Some(node) = self.mesh.node(packet.to).filter(|_| data.want_response).cloned() else {
            return;
        };
        let payload = match PortNum::try_from(data.portnum) {
            Ok(PortNum::PositionApp) => node.place.encode_to_vec(),
            Ok(PortNum::NodeinfoApp) => node.user.encode_to_vec(),
            Ok(PortNum::TelemetryApp) => {
                let metrics = meshbeat_proto::telemetry::Variant::DeviceMetrics(node.metrics);
                let variant = Some(metrics);
                meshbeat_proto::Telemetry { time: self.unix_time(now), variant }.encode_to_vec()
            }
            Ok(PortNum::TracerouteApp) => {
                let snr = vec![(node.snr * 4.0) as i32];
                RouteDiscovery { snr_towards: snr.clone(), snr_back: snr, ..Default::default() }
                    .encode_to_vec()
            }
            _ => return,
        };
        let data =
            Data { portnum: data.portnum, payload, request_id: packet.id, ..Data::default() };
        let answer = self.answer_from(&node, now, data);
        self.plan(at, Due::Phone(answer));
    }

    fn answer_from(&mut self, node: &super::mesh::Node, now: Instant, data: Data) -> MeshPacket {
        let unix_time = self.unix_time(now);
        let port = PortNum::try_from(data.portnum).unwrap_or(PortNum::UnknownApp);
        let packet = self.air.heard(node, self.mesh.num, port, Vec::new(), unix_time);
        let variant = Some(mesh_packet::PayloadVariant::Decoded(data));
        MeshPacket { payload_variant: variant, ..packet }
    }

    fn notify(&mut self, now: Instant, reply_id: u32, message: &str) {
        let notification = ClientNotification {
            reply_id: Some(reply_id),
            time: self.unix_time(now),
            level: log_record::Level::Warning as i32,
            message: message.as_bytes().to_vec(),
            ..ClientNotification::default()
        };
        self.phone.push_notification(notification, self.config.queues.notifications);
    }
}

/// The least time between two packets of a port number on one connection.
fn limit(port: i32) -> Option<Duration> {
    let seconds = match PortNum::try_from(port).ok()? {
        PortNum::TextMessageApp => 2,
        PortNum::PositionApp | PortNum::WaypointApp | PortNum::AlertApp | PortNum::TelemetryApp => {
            10
        }
        PortNum::TracerouteApp => 30,
        _ => return None,
    };
    Some(Duration::from_secs(seconds))
}

fn routing_data(request_id: u32, error: i32) -> Data {
    let variant = Some(routing::Variant::ErrorReason(error));
    Data {
        portnum: PortNum::RoutingApp as i32,
        payload: Routing { variant }.encode_to_vec(),
        request_id,
        ..Data::default()
    }
}

#[cfg(test)]
mod tests;
