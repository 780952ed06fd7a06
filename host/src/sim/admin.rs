//! What the node does with packets to itself, above all admin messages: enough of `AdminModule`
//! that official clients can read and change its settings. A change is pushed to nobody; the next
//! handshake shows it.

use core::time::Duration;

use meshbeat_core::time::Instant;
use meshbeat_proto::{
    AdminMessage, Data, DeviceConnectionStatus, MeshPacket, NetworkConnectionStatus, PortNum,
    WifiConnectionStatus, admin_message, mesh_packet, routing,
};
use prost::Message;

use super::node::{Due, SimNode};

impl SimNode {
    /// Acts on a packet from the client to the node itself.
    pub(super) fn take_local(&mut self, now: Instant, packet: &MeshPacket) {
        let Some(mesh_packet::PayloadVariant::Decoded(data)) = &packet.payload_variant else {
            return;
        };
        if data.portnum != PortNum::AdminApp as i32 {
            if packet.want_ack {
                let ack = self.routing_reply(packet.id, 0);
                self.tell(now, ack);
            }
            return;
        }
        let request = AdminMessage::decode(&data.payload[..]).ok();
        let Some(request) = request.and_then(|message| message.payload_variant) else {
            let nak = self.routing_reply(packet.id, routing::Error::BadRequest as i32);
            self.tell(now, nak);
            return;
        };
        match self.admin_response(now, &request) {
            Some(variant) => {
                let message = AdminMessage {
                    session_passkey: self.mesh.owner.public_key.iter().copied().take(8).collect(),
                    payload_variant: Some(variant),
                };
                let data = Data {
                    portnum: PortNum::AdminApp as i32,
                    payload: message.encode_to_vec(),
                    request_id: packet.id,
                    ..Data::default()
                };
                let response = self.own_packet(data);
                self.tell(now, response);
            }
            None => {
                self.change(now, request);
                if packet.want_ack || data.want_response {
                    let ack = self.routing_reply(packet.id, 0);
                    self.tell(now, ack);
                }
            }
        }
    }

    /// The answer to a question; `None` if it is none.
    fn admin_response(
        &self,
        now: Instant,
        request: &admin_message::PayloadVariant,
    ) -> Option<admin_message::PayloadVariant> {
        use admin_message::PayloadVariant as Admin;
        let mesh = &self.mesh;
        Some(match request {
            Admin::GetOwnerRequest(_) => Admin::GetOwnerResponse(mesh.owner.clone()),
            Admin::GetChannelRequest(number) => {
                // The request counts from 1, because 0 would not be on the wire.
                let index = (*number as usize).wrapping_sub(1);
                Admin::GetChannelResponse(mesh.channels.get(index)?.clone())
            }
            Admin::GetConfigRequest(kind) => {
                let config = mesh.configs.get(usize::try_from(*kind).ok()?)?;
                Admin::GetConfigResponse(config.clone())
            }
            Admin::GetModuleConfigRequest(kind) => {
                let module = mesh.modules.get(usize::try_from(*kind).ok()?)?;
                Admin::GetModuleConfigResponse(module.clone())
            }
            Admin::GetDeviceMetadataRequest(_) => Admin::GetDeviceMetadataResponse(mesh.metadata()),
            Admin::GetCannedMessageModuleMessagesRequest(_) => {
                Admin::GetCannedMessageModuleMessagesResponse(mesh.canned_messages.clone())
            }
            Admin::GetRingtoneRequest(_) => Admin::GetRingtoneResponse(mesh.ringtone.clone()),
            Admin::GetUiConfigRequest(_) => Admin::GetUiConfigResponse(mesh.ui.clone()),
            Admin::GetDeviceConnectionStatusRequest(_) => {
                let status = NetworkConnectionStatus {
                    ip_address: u32::from_le_bytes([127, 0, 0, 1]),
                    is_connected: true,
                    ..NetworkConnectionStatus::default()
                };
                let rssi = -50 - (now.as_millis() / 1000 % 10) as i32;
                let wifi = WifiConnectionStatus {
                    status: Some(status),
                    ssid: b"simulated".to_vec(),
                    rssi,
                };
                Admin::GetDeviceConnectionStatusResponse(DeviceConnectionStatus {
                    wifi: Some(wifi),
                    ..DeviceConnectionStatus::default()
                })
            }
            _ => return None,
        })
    }

    /// Does what an admin message orders. What a node without hardware cannot do is ignored.
    fn change(&mut self, now: Instant, request: admin_message::PayloadVariant) {
        use admin_message::PayloadVariant as Admin;
        let mesh = &mut self.mesh;
        match request {
            Admin::SetOwner(user) => {
                if !user.long_name.is_empty() {
                    mesh.owner.long_name = cut(user.long_name, 39);
                }
                if !user.short_name.is_empty() {
                    mesh.owner.short_name = cut(user.short_name, 4);
                }
                mesh.owner.is_licensed = user.is_licensed;
            }
            Admin::SetChannel(channel) => mesh.set_channel(channel),
            Admin::SetConfig(config) => {
                mesh.set_config(config);
                self.configuration_changed(now);
            }
            Admin::SetModuleConfig(module) => {
                mesh.set_module(module);
                self.configuration_changed(now);
            }
            Admin::StoreUiConfig(ui) => mesh.ui = ui,
            Admin::SetCannedMessageModuleMessages(text) => mesh.canned_messages = text,
            Admin::SetRingtoneMessage(text) => mesh.ringtone = text,
            Admin::RemoveByNodenum(num) => mesh.nodes.retain(|node| node.num != num),
            Admin::SetFavoriteNode(num) => {
                mesh.node_mut(num).into_iter().for_each(|node| node.favorite = true);
            }
            Admin::RemoveFavoriteNode(num) => {
                mesh.node_mut(num).into_iter().for_each(|node| node.favorite = false);
            }
            Admin::SetIgnoredNode(num) => {
                mesh.node_mut(num).into_iter().for_each(|node| node.ignored = true);
            }
            Admin::RemoveIgnoredNode(num) => {
                mesh.node_mut(num).into_iter().for_each(|node| node.ignored = false);
            }
            Admin::NodedbReset(_) => mesh.nodes.clear(),
            Admin::BeginEditSettings(_) => self.editing = Some(false),
            Admin::CommitEditSettings(_) => {
                let changed = self.editing.take() == Some(true);
                if changed {
                    self.configuration_changed(now);
                }
            }
            Admin::RebootSeconds(seconds) => {
                // One at a time; a negative number only takes back what was planned.
                self.agenda.retain(|_, due| !matches!(due, Due::Reboot));
                if let Ok(seconds) = u64::try_from(seconds) {
                    self.plan(now + Duration::from_secs(seconds), Due::Reboot);
                }
            }
            // set_time_only among them: the simulated clock does not care.
            _ => {}
        }
    }

    /// The node restarts after a change, or after the transaction around it.
    fn configuration_changed(&mut self, now: Instant) {
        if self.editing.is_some() {
            self.editing = Some(true);
        } else if let Some(span) = self.config.timing.admin_reboot {
            let planned = self.agenda.values().any(|due| matches!(due, Due::Reboot));
            if !planned {
                self.plan(now + span, Due::Reboot);
            }
        }
    }
}

/// The firmware's fixed buffers: what is too long loses its end.
fn cut(mut text: Vec<u8>, len: usize) -> Vec<u8> {
    text.truncate(len);
    text
}

#[cfg(test)]
mod tests {
    use admin_message::PayloadVariant as Admin;
    use meshbeat_proto::{Channel, ChannelSettings, Config, ToRadio, User, config, to_radio};

    use super::super::script::{Bench, packet};
    use super::super::{ConnId, Record};
    use super::*;

    fn ask(bench: &mut Bench, conn: ConnId, id: u32, request: Admin) -> Vec<String> {
        let message = AdminMessage { payload_variant: Some(request), ..AdminMessage::default() };
        let own = bench.node.node_num();
        let mut packet = packet(id, own, PortNum::AdminApp, message.encode_to_vec());
        packet.want_ack = true;
        bench.packet(conn, packet);
        bench.run(300);
        bench.words(conn)
    }

    fn display(seconds: u32) -> Config {
        let display = config::DisplayConfig { screen_on_secs: seconds, ..Default::default() };
        Config { payload_variant: Some(config::PayloadVariant::Display(display)) }
    }

    #[test]
    fn questions_are_answered_and_orders_acknowledged() {
        let (mut bench, conn) = Bench::live();
        let questions = [
            Admin::GetOwnerRequest(true),
            Admin::GetChannelRequest(1),
            Admin::GetConfigRequest(5),
            Admin::GetModuleConfigRequest(0),
            Admin::GetDeviceMetadataRequest(true),
            Admin::GetCannedMessageModuleMessagesRequest(true),
            Admin::GetRingtoneRequest(true),
            Admin::GetUiConfigRequest(true),
            Admin::GetDeviceConnectionStatusRequest(true),
        ];
        for (id, question) in (1..).zip(questions) {
            let status = format!("status {id} res 35 free 16");
            let words = ask(&mut bench, conn, id, question);
            assert_eq!(words, [status, "port 6 from own".into()]);
        }
        let words = ask(&mut bench, conn, 20, Admin::SetTimeOnly(1));
        assert_eq!(words, ["status 20 res 35 free 16", "routing 20 error 0 from own"]);
        let bad = packet(21, bench.node.node_num(), PortNum::AdminApp, vec![0xFF]);
        bench.packet(conn, bad);
        bench.run(300);
        assert_eq!(bench.words(conn)[1], "routing 21 error 32 from own");
        for (id, wrong) in (22..).zip([Admin::GetChannelRequest(0), Admin::GetConfigRequest(-1)]) {
            ask(&mut bench, conn, id, wrong);
        }
    }

    #[test]
    fn changes_show_in_the_next_handshake_and_fit_a_frame() {
        let (mut bench, conn) = Bench::live();
        let owner =
            User { long_name: vec![b'n'; 400], short_name: b"nnnnnn".to_vec(), ..User::default() };
        ask(&mut bench, conn, 1, Admin::SetOwner(owner));
        let channel = Channel {
            index: 2,
            role: 2,
            settings: Some(ChannelSettings { name: b"new".to_vec(), ..Default::default() }),
        };
        ask(&mut bench, conn, 2, Admin::SetChannel(channel));
        let before = bench.bytes(conn).len();
        let want_config = to_radio::PayloadVariant::WantConfigId(8);
        bench.send(conn, want_config);
        bench.run(500);
        assert!(bench.words(conn).contains(&"complete 8".into()));
        let bytes = &bench.bytes(conn)[before..];
        let find = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(find(&[b'n'; 39]) && !find(&[b'n'; 40]) && find(b"new"));
    }

    #[test]
    fn a_change_of_configuration_reboots_in_7_s_a_transaction_once() {
        let (mut bench, conn) = Bench::live();
        ask(&mut bench, conn, 1, Admin::BeginEditSettings(true));
        ask(&mut bench, conn, 2, Admin::SetConfig(display(7)));
        ask(&mut bench, conn, 3, Admin::SetConfig(display(8)));
        bench.run(60_000);
        assert_eq!(bench.closed(conn), None, "the transaction is open");
        bench.zero();
        ask(&mut bench, conn, 4, Admin::CommitEditSettings(true));
        bench.run(20_000);
        let (at, _) = bench.closed(conn).expect("rebooted");
        assert!((7_000..7_300).contains(&at), "at {at}");
        assert_eq!(bench.node.log().count(|r| matches!(r, Record::Rebooted(_))), 1);
        let conn = bench.configured();
        bench.zero();
        ask(&mut bench, conn, 5, Admin::RebootSeconds(1));
        ask(&mut bench, conn, 6, Admin::RebootSeconds(-1));
        ask(&mut bench, conn, 7, Admin::RebootSeconds(30_000));
        ask(&mut bench, conn, 8, Admin::RebootSeconds(2));
        assert_eq!(bench.node.agenda.len(), 1);
        bench.run(20_000);
        assert!(bench.closed(conn).is_some_and(|(at, _)| (2_900..3_300).contains(&at)));
        assert_eq!(bench.doors.len(), 4, "closed and open, twice");
    }

    #[test]
    fn no_admin_message_panics() {
        let (mut bench, conn) = Bench::live();
        let mut rng = meshbeat_core::rng::Rng::new(3);
        let own = bench.node.node_num();
        for id in 1..3_000 {
            // A tag that exists more often than not, and random bytes for it.
            let mut payload = vec![(rng.below(256)) as u8, rng.below(3) as u8];
            payload.extend((0..rng.below(20)).map(|_| rng.next_u32() as u8));
            let variant =
                to_radio::PayloadVariant::Packet(packet(id, own, PortNum::AdminApp, payload));
            let message = ToRadio { payload_variant: Some(variant) }.encode_to_vec();
            bench.node.handle_to_radio(bench.now(), &message);
            if id % 50 == 0 {
                bench.run(100);
            }
        }
        bench.run(60_000);
        bench.configured();
        assert_ne!(conn, bench.node.client().expect("configured"));
    }
}
