//! Who is there: the node itself with its settings, and the other nodes it knows. All names, keys
//! and places are made up from a seed.

use meshbeat_core::frame::MAGIC;
use meshbeat_core::rng::Rng;
use meshbeat_proto::{
    Channel, ChannelSettings, Config, DeviceMetadata, DeviceMetrics, DeviceUiConfig, HardwareModel,
    ModuleConfig, ModuleSettings, NodeInfo, Position, User, channel, config, module_config,
};
use prost::Message;

use super::config::Identity;
use crate::dest::{BROADCAST, node_id};

/// Whether `94 C3` stands in a payload. That is legal, but some official clients look for frames
/// inside of frames and lose such a one, so the node makes up nothing that has it.
pub(super) fn holds_magic(bytes: &[u8]) -> bool {
    bytes.windows(MAGIC.len()).any(|pair| pair == MAGIC)
}

/// A time at or shortly after `time` that can be sent without `94 C3`.
pub(super) fn clean_time(mut time: u32) -> u32 {
    while holds_magic(&time.to_le_bytes()) {
        time = time.wrapping_add(1);
    }
    time
}

/// A random packet id or node number that can be sent without `94 C3`, as a fixed number or as a
/// varint.
pub(super) fn clean_number(rng: &mut Rng) -> u32 {
    loop {
        let number = rng.next_u32().max(1);
        if !holds_magic(&number.to_le_bytes()) && !holds_magic(&number.encode_to_vec()) {
            return number;
        }
    }
}

/// The node itself and the others.
#[derive(Debug)]
pub(super) struct Mesh {
    pub(super) num: u32,
    pub(super) owner: User,
    pub(super) nodes: Vec<Node>,
    pub(super) channels: Vec<Channel>,
    pub(super) configs: Vec<Config>,
    pub(super) modules: Vec<ModuleConfig>,
    pub(super) ui: DeviceUiConfig,
    pub(super) boots: u32,
    pub(super) firmware: String,
    pub(super) canned_messages: Vec<u8>,
    pub(super) ringtone: Vec<u8>,
    rng: Rng,
}

/// Another node, as the node knows it.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) user: User,
    pub(super) num: u32,
    /// Seconds from when it was heard last to the node's epoch.
    pub(super) age: u32,
    pub(super) snr: f32,
    pub(super) hops: u32,
    pub(super) place: Position,
    pub(super) metrics: DeviceMetrics,
    pub(super) favorite: bool,
    pub(super) ignored: bool,
}

const FIRST: [&str; 24] = [
    "Alder", "Harbour", "Kestrel", "Quarry", "Birch", "Lantern", "Osprey", "Flint", "Mill",
    "Heron", "Żubr", "Granite", "Thistle", "Ferry", "Marten", "Beacon", "Mühle", "Sorrel", "Crag",
    "Linden", "Otter", "Bruyère", "Summit", "Copper",
];
const SECOND: [&str; 20] = [
    "Roof", "Hill", "Base", "Tower", "Van", "Shed", "Bike", "Lookout", "Gate", "Attic", "Solar",
    "Café", "Dock", "Tracker", "Barn", "Balcony", "Pass", "Garden", "Mast", "☀",
];
const MODELS: [HardwareModel; 5] = [
    HardwareModel::Tbeam,
    HardwareModel::HeltecV3,
    HardwareModel::TDeck,
    HardwareModel::Rak4631,
    HardwareModel::TrackerT1000E,
];

impl Mesh {
    pub(super) fn new(identity: &Identity, seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x6D65_7368);
        let num = identity.node_num.unwrap_or_else(|| node_num(&mut rng));
        let mut owner = user(num, &mut rng);
        owner.hw_model = HardwareModel::Portduino as i32;
        owner.role = 0;
        owner.is_unmessagable = Some(false);
        owner.long_name = match &identity.long_name {
            Some(name) => name.clone().into_bytes(),
            None => format!("Simulated {:04x}", num & 0xFFFF).into_bytes(),
        };
        let mut mesh = Self {
            num,
            nodes: Vec::new(),
            channels: channels(&mut rng),
            configs: configs(&owner, &mut rng),
            owner,
            modules: modules(),
            ui: DeviceUiConfig {
                screen_brightness: 153,
                screen_timeout: 30,
                ..DeviceUiConfig::default()
            },
            boots: 1,
            firmware: identity.firmware.clone(),
            canned_messages: b"Yes|No|On my way".to_vec(),
            ringtone: b"beat:d=8,o=5,b=120:c,g".to_vec(),
            rng,
        };
        mesh.grow(identity.nodes as usize);
        mesh
    }

    /// Meets new nodes until `len` are known.
    pub(super) fn grow(&mut self, len: usize) {
        while self.nodes.len() < len {
            let num = node_num(&mut self.rng);
            let node = Node::new(num, &mut self.rng);
            let clean = node.messages().iter().all(|message| !holds_magic(message));
            if clean && num != self.num && self.node(num).is_none() {
                self.nodes.push(node);
            }
        }
    }

    /// Comes back as somebody else.
    pub(super) fn renumber(&mut self) {
        self.num = node_num(&mut self.rng);
        let fresh = user(self.num, &mut self.rng);
        self.owner.id = fresh.id;
        self.owner.public_key = fresh.public_key;
    }

    pub(super) fn node(&self, num: u32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.num == num)
    }

    pub(super) fn node_mut(&mut self, num: u32) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|node| node.num == num)
    }

    /// The node's own entry in its database.
    pub(super) fn own_info(&self) -> NodeInfo {
        NodeInfo {
            num: self.num,
            user: Some(self.owner.clone()),
            position: Some(Position::default()),
            is_favorite: true,
            ..NodeInfo::default()
        }
    }

    pub(super) fn metadata(&self) -> DeviceMetadata {
        DeviceMetadata {
            firmware_version: self.firmware.clone().into_bytes(),
            device_state_version: 25,
            has_wifi: true,
            position_flags: 811,
            hw_model: HardwareModel::Portduino as i32,
            has_pkc: true,
            excluded_modules: 13_648,
            ..DeviceMetadata::default()
        }
    }

    /// Whether channel `index` can be sent on.
    pub(super) fn has_channel(&self, index: u32) -> bool {
        let channel = self.channels.get(index as usize);
        channel.is_some_and(|channel| channel.role != channel::Role::Disabled as i32)
    }

    /// Replaces the setting of the same kind.
    pub(super) fn set_config(&mut self, new: Config) {
        let Some(kind) = new.payload_variant.as_ref().map(core::mem::discriminant) else {
            return;
        };
        let same = |old: &&mut Config| {
            old.payload_variant.as_ref().map(core::mem::discriminant) == Some(kind)
        };
        if let Some(old) = self.configs.iter_mut().find(same) {
            *old = new;
        }
    }

    /// Replaces the setting of the same kind.
    pub(super) fn set_module(&mut self, new: ModuleConfig) {
        let Some(kind) = new.payload_variant.as_ref().map(core::mem::discriminant) else {
            return;
        };
        let same = |old: &&mut ModuleConfig| {
            old.payload_variant.as_ref().map(core::mem::discriminant) == Some(kind)
        };
        if let Some(old) = self.modules.iter_mut().find(same) {
            *old = new;
        }
    }

    /// Replaces the channel with the same index, if there is one.
    pub(super) fn set_channel(&mut self, new: Channel) {
        if let Some(old) = usize::try_from(new.index).ok().and_then(|i| self.channels.get_mut(i)) {
            *old = new;
        }
    }
}

impl Node {
    fn new(num: u32, rng: &mut Rng) -> Self {
        let spread = |rng: &mut Rng, width: u32| rng.below(width) as i32 - (width / 2) as i32;
        Self {
            user: user(num, rng),
            num,
            age: rng.below(86_400),
            snr: spread(rng, 120) as f32 / 4.0,
            hops: rng.below(4),
            place: Position {
                latitude_i: Some(473_000_000 + spread(rng, 4_000_000)),
                longitude_i: Some(85_000_000 + spread(rng, 4_000_000)),
                altitude: Some(300 + rng.below(1_200) as i32),
                precision_bits: 32,
                ..Position::default()
            },
            metrics: DeviceMetrics {
                battery_level: Some(20 + rng.below(82)),
                voltage: Some(3.4 + rng.below(800) as f32 / 1_000.0),
                channel_utilization: Some(rng.below(300) as f32 / 10.0),
                air_util_tx: Some(rng.below(80) as f32 / 10.0),
                uptime_seconds: Some(rng.below(1_000_000)),
            },
            favorite: false,
            ignored: false,
        }
    }

    /// Everything that the node says of itself.
    fn messages(&self) -> [Vec<u8>; 4] {
        [
            self.info(0, false).encode_to_vec(),
            self.user.encode_to_vec(),
            self.place.encode_to_vec(),
            self.metrics.encode_to_vec(),
        ]
    }

    /// Its entry in the database. Thin, as 2.8 sends it: place and telemetry follow as packets.
    pub(super) fn info(&self, epoch: u32, bad_utf8: bool) -> NodeInfo {
        let mut user = self.user.clone();
        if bad_utf8 {
            user.long_name.extend(b" Caf\xC3");
            user.short_name = b"\xF0\x9F\xA6".to_vec();
        }
        NodeInfo {
            num: self.num,
            user: Some(user),
            snr: self.snr,
            last_heard: clean_time(epoch.saturating_sub(self.age)),
            hops_away: Some(self.hops),
            is_favorite: self.favorite,
            is_ignored: self.ignored,
            ..NodeInfo::default()
        }
    }
}

fn node_num(rng: &mut Rng) -> u32 {
    loop {
        let number = clean_number(rng);
        // The firmware reserves the numbers 0 to 3, and the highest is the broadcast address.
        if (0x1000_0000..BROADCAST).contains(&number) {
            return number;
        }
    }
}

fn user(num: u32, rng: &mut Rng) -> User {
    let first = FIRST[rng.below(FIRST.len() as u32) as usize];
    let second = SECOND[rng.below(SECOND.len() as u32) as usize];
    User {
        id: node_id(num).into_bytes(),
        long_name: format!("{first} {second}").into_bytes(),
        short_name: format!("{:04x}", num & 0xFFFF).into_bytes(),
        hw_model: MODELS[rng.below(MODELS.len() as u32) as usize] as i32,
        role: [0, 0, 1, 2][rng.below(4) as usize],
        public_key: key(rng),
        ..User::default()
    }
}

fn key(rng: &mut Rng) -> Vec<u8> {
    loop {
        let key: Vec<u8> = (0..4).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
        if !holds_magic(&key) {
            return key;
        }
    }
}

fn channels(rng: &mut Rng) -> Vec<Channel> {
    (0..8)
        .map(|index| Channel {
            index,
            role: match index {
                0 => channel::Role::Primary as i32,
                1 => channel::Role::Secondary as i32,
                _ => channel::Role::Disabled as i32,
            },
            settings: Some(ChannelSettings {
                psk: match index {
                    0 => vec![1],
                    1 => key(rng),
                    _ => Vec::new(),
                },
                name: if index == 1 { b"harbour".to_vec() } else { Vec::new() },
                module_settings: (index < 2).then(ModuleSettings::default),
                ..ChannelSettings::default()
            }),
        })
        .collect()
}

fn configs(owner: &User, rng: &mut Rng) -> Vec<Config> {
    use config::PayloadVariant as Variant;
    let all = [
        Variant::Device(config::DeviceConfig {
            node_info_broadcast_secs: 10_800,
            ..Default::default()
        }),
        Variant::Position(config::PositionConfig {
            position_broadcast_secs: 3_600,
            position_broadcast_smart_enabled: true,
            gps_update_interval: 120,
            position_flags: 811,
            broadcast_smart_minimum_distance: 100,
            broadcast_smart_minimum_interval_secs: 300,
            gps_mode: 2,
            ..Default::default()
        }),
        Variant::Power(config::PowerConfig {
            wait_bluetooth_secs: 60,
            sds_secs: u32::MAX,
            ls_secs: 300,
            min_wake_secs: 10,
            ..Default::default()
        }),
        Variant::Network(config::NetworkConfig {
            ntp_server: b"time.example.net".to_vec(),
            wifi_ssid: b"simulated".to_vec(),
            wifi_psk: format!("made-up-{:08x}", rng.next_u32()).into_bytes(),
            ..Default::default()
        }),
        Variant::Display(config::DisplayConfig { screen_on_secs: 600, ..Default::default() }),
        Variant::Lora(config::LoRaConfig {
            use_preset: true,
            region: 3,
            hop_limit: 3,
            tx_enabled: true,
            tx_power: 27,
            sx126x_rx_boosted_gain: true,
            ..Default::default()
        }),
        Variant::Bluetooth(config::BluetoothConfig {
            enabled: true,
            mode: 1,
            fixed_pin: 100_000 + rng.below(900_000),
        }),
        Variant::Security(config::SecurityConfig {
            public_key: owner.public_key.clone(),
            private_key: key(rng),
            serial_enabled: true,
            ..Default::default()
        }),
        Variant::Sessionkey(config::SessionkeyConfig {}),
        Variant::DeviceUi(DeviceUiConfig::default()),
    ];
    all.into_iter().map(|variant| Config { payload_variant: Some(variant) }).collect()
}

fn modules() -> Vec<ModuleConfig> {
    use module_config::PayloadVariant as Variant;
    let all = [
        Variant::Mqtt(module_config::MqttConfig {
            address: b"mqtt.example.net".to_vec(),
            username: b"simulated".to_vec(),
            password: b"made-up".to_vec(),
            encryption_enabled: true,
            root: b"msh".to_vec(),
            ..Default::default()
        }),
        Variant::Serial(Default::default()),
        Variant::ExternalNotification(Default::default()),
        Variant::StoreForward(Default::default()),
        Variant::RangeTest(Default::default()),
        Variant::Telemetry(module_config::TelemetryConfig {
            device_update_interval: i32::MAX as u32,
            ..Default::default()
        }),
        Variant::CannedMessage(Default::default()),
        Variant::Audio(Default::default()),
        Variant::RemoteHardware(Default::default()),
        Variant::NeighborInfo(Default::default()),
        Variant::AmbientLighting(module_config::AmbientLightingConfig {
            current: 10,
            green: 17,
            blue: 149,
            ..Default::default()
        }),
        Variant::DetectionSensor(module_config::DetectionSensorConfig {
            minimum_broadcast_secs: 45,
            detection_trigger_type: 1,
            ..Default::default()
        }),
        Variant::Paxcounter(Default::default()),
        Variant::Statusmessage(Default::default()),
        Variant::TrafficManagement(Default::default()),
        Variant::Tak(Default::default()),
        Variant::MeshBeacon(Default::default()),
    ];
    all.into_iter().map(|variant| ModuleConfig { payload_variant: Some(variant) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_meshes() {
        let mesh = |seed| format!("{:?}", Mesh::new(&Identity::default(), seed));
        assert_eq!(mesh(1), mesh(1));
        assert_ne!(mesh(1), mesh(2));
    }

    #[test]
    fn nodes_are_distinct_and_named_within_the_firmware_limits() {
        let identity = Identity { nodes: 250, ..Identity::default() };
        let mesh = Mesh::new(&identity, 7);
        let mut nums: Vec<_> = mesh.nodes.iter().map(|node| node.num).collect();
        nums.push(mesh.num);
        nums.sort_unstable();
        nums.dedup();
        assert_eq!(nums.len(), 251);
        assert!(mesh.nodes.iter().all(|node| node.user.long_name.len() < 40));
        assert!(mesh.nodes.iter().all(|node| node.user.short_name.len() == 4));
    }

    #[test]
    fn numbers_and_times_are_clean() {
        assert!(holds_magic(&[1, 0x94, 0xC3]) && !holds_magic(&[0x94, 1, 0xC3, 0x94]));
        assert_eq!(clean_time(0x6900_C394), 0x6900_C395);
        assert_eq!(clean_time(0x69C3_9412), 0x69C3_9500);
        assert_eq!(clean_time(1_763_000_000), 1_763_000_000);
        let mut rng = Rng::new(1);
        let mut met = 0;
        for _ in 0..200_000 {
            let drawn = Rng::clone(&rng).next_u32();
            met += u32::from(clean_number(&mut rng) != drawn);
        }
        assert!(met > 0, "some numbers have to be drawn again");
    }

    #[test]
    fn a_setting_replaces_its_own_kind_only() {
        let mut mesh = Mesh::new(&Identity::default(), 1);
        let before = mesh.configs.clone();
        let display = config::DisplayConfig { screen_on_secs: 7, ..Default::default() };
        let new = Config { payload_variant: Some(config::PayloadVariant::Display(display)) };
        mesh.set_config(new.clone());
        assert_eq!(mesh.configs[4], new);
        assert_eq!(mesh.configs[..4], before[..4]);
        assert_eq!(mesh.configs[5..], before[5..]);
        mesh.set_config(Config::default());
        mesh.set_channel(Channel { index: -1, ..Channel::default() });
        mesh.set_channel(Channel { index: 8, ..Channel::default() });
        assert_eq!(mesh.channels.len(), 8);
    }
}
