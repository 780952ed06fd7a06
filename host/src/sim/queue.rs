//! What waits in the node for its client, whatever transport that uses: packets, two queue
//! statuses, two notifications (`MeshService::toPhoneQueue`, `toPhoneQueueStatusQueue`).

use std::collections::VecDeque;

use meshbeat_proto::{MeshPacket, PortNum, QueueStatus, mesh_packet};

/// A packet that waits for the client.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) packet: MeshPacket,
    is_text: bool,
}

/// The three queues.
#[derive(Debug, Default)]
pub(super) struct PhoneQueue {
    packets: VecDeque<Waiting>,
    statuses: VecDeque<QueueStatus>,
    notifications: VecDeque<meshbeat_proto::ClientNotification>,
}

impl PhoneQueue {
    /// Queues a packet. If there are `limit` already, returns the one that goes: the oldest that
    /// is not text, or the new one if only that is not text, or the oldest.
    pub(super) fn push_packet(&mut self, packet: MeshPacket, limit: usize) -> Option<MeshPacket> {
        let is_text = port(&packet) == Some(PortNum::TextMessageApp as i32);
        self.packets.push_back(Waiting { packet, is_text });
        if self.packets.len() <= limit {
            return None;
        }
        let victim = self.packets.iter().position(|waiting| !waiting.is_text).unwrap_or(0);
        self.packets.remove(victim).map(|waiting| waiting.packet)
    }

    /// Queues a status. If there are `limit` already, returns the oldest, which is lost.
    pub(super) fn push_status(&mut self, new: QueueStatus, limit: usize) -> Option<QueueStatus> {
        self.statuses.push_back(new);
        if self.statuses.len() > limit { self.statuses.pop_front() } else { None }
    }

    /// Queues a notification; the oldest is lost if there are `limit` already.
    pub(super) fn push_notification(
        &mut self,
        new: meshbeat_proto::ClientNotification,
        limit: usize,
    ) {
        self.notifications.push_back(new);
        if self.notifications.len() > limit {
            self.notifications.pop_front();
        }
    }

    pub(super) fn pop_packet(&mut self) -> Option<MeshPacket> {
        self.packets.pop_front().map(|waiting| waiting.packet)
    }

    pub(super) fn pop_status(&mut self) -> Option<QueueStatus> {
        self.statuses.pop_front()
    }

    pub(super) fn pop_notification(&mut self) -> Option<meshbeat_proto::ClientNotification> {
        self.notifications.pop_front()
    }

    pub(super) fn packets(&self) -> usize {
        self.packets.len()
    }
}

/// The port number of a packet that is not encrypted.
pub(super) fn port(packet: &MeshPacket) -> Option<i32> {
    match &packet.payload_variant {
        Some(mesh_packet::PayloadVariant::Decoded(data)) => Some(data.portnum),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use meshbeat_proto::Data;

    use super::*;

    fn packet(id: u32, portnum: PortNum) -> MeshPacket {
        let data = Data { portnum: portnum as i32, ..Data::default() };
        MeshPacket {
            id,
            payload_variant: Some(mesh_packet::PayloadVariant::Decoded(data)),
            ..MeshPacket::default()
        }
    }

    #[test]
    fn other_packets_go_before_text_then_the_oldest() {
        let mut queue = PhoneQueue::default();
        let text = |id| packet(id, PortNum::TextMessageApp);
        let place = |id| packet(id, PortNum::PositionApp);
        let mut push = |packet| queue.push_packet(packet, 3).map(|lost| lost.id);
        assert_eq!(push(text(1)), None);
        assert_eq!(push(place(2)), None);
        assert_eq!(push(place(3)), None);
        assert_eq!(push(text(4)), Some(2));
        assert_eq!(push(text(5)), Some(3));
        assert_eq!(push(place(6)), Some(6));
        assert_eq!(push(text(7)), Some(1));
        let left: Vec<_> = core::iter::from_fn(|| queue.pop_packet()).map(|p| p.id).collect();
        assert_eq!(left, [4, 5, 7]);
    }

    #[test]
    fn of_three_statuses_the_last_two_stay() {
        let mut queue = PhoneQueue::default();
        let status = |id| QueueStatus { mesh_packet_id: id, ..QueueStatus::default() };
        assert_eq!(queue.push_status(status(1), 2), None);
        assert_eq!(queue.push_status(status(2), 2), None);
        assert_eq!(queue.push_status(status(3), 2), Some(status(1)));
        assert_eq!(queue.pop_status(), Some(status(2)));
        assert_eq!(queue.pop_status(), Some(status(3)));
        assert_eq!(queue.pop_status(), None);
    }
}
