//! Generated from `proto/proto` by `cargo run -p meshbeat-tests --bin generate`; do not edit.
//!
//! A row per message, a byte per field number from 1 on: its kind, or `MESSAGE` plus the row
//! of the message it holds. One list for all rows, which takes less room than a slice each.

pub(super) const FROM_RADIO: u8 = 0;
pub(super) const TO_RADIO: u8 = 1;
pub(super) const MESH_PACKET: u8 = 2;
pub(super) const DATA: u8 = 3;
pub(super) const MY_NODE_INFO: u8 = 4;
pub(super) const QUEUE_STATUS: u8 = 5;
/// The last row of which values are read.
pub(super) const LAST_READ: u8 = 5;
/// The highest field number of a variant of `FromRadio`.
pub(super) const LAST_VARIANT: u32 = 19;
/// How deep messages lie in each other.
pub(super) const DEPTH: usize = 4;

/// What may stand in a field; a kind that is not here is the wire type that it has to have.
pub(super) mod kind {
    pub(in crate::peek) const UNKNOWN: u8 = 7;
    /// Repeated: packed or one by one.
    pub(in crate::peek) const FIXED32S: u8 = 14;
    /// Repeated: packed or one by one.
    pub(in crate::peek) const VARINTS: u8 = 15;
    pub(in crate::peek) const MESSAGE: u8 = 16;
}

#[rustfmt::skip]
pub(super) static KINDS: &[u8] = &[
    0, 18, 20, 22, 26, 42, 0, 0, 43, 66, 21, 67, 68, 69, 70, 71, 37, 77, 78, // FromRadio
    18, 7, 0, 0, 67, 69, 81, // ToRadio
    5, 5, 0, 19, 2, 5, 5, 5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, // MeshPacket
    0, 2, 0, 5, 5, 5, 5, 5, 0, 2, // Data
    0, 7, 7, 7, 7, 7, 7, 0, 7, 7, 0, 2, 2, 0, 0, // MyNodeInfo
    0, 0, 0, 0, // QueueStatus
    0, 23, 24, 5, 5, 25, 0, 0, 0, 0, 0, 0, 0, 0, // NodeInfo
    2, 2, 2, 2, 0, 0, 0, 2, 0, // User
    5, 5, 0, 5, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // Position
    0, 5, 5, 5, 0, // DeviceMetrics
    27, 28, 29, 30, 32, 33, 34, 35, 36, 37, // Config
    0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, // Config.DeviceConfig
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // Config.PositionConfig
    0, 0, 5, 0, 7, 0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, // Config.PowerConfig
    0, 7, 2, 2, 2, 0, 0, 31, 2, 0, 0, // Config.NetworkConfig
    5, 5, 5, 5, // Config.NetworkConfig.IpV4Config
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // Config.DisplayConfig
    0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 5, 0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 15, 0, 0, 0, 0, // Config.LoRaConfig
    0, 0, 0, // Config.BluetoothConfig
    2, 2, 2, 0, 0, 0, 7, 0, // Config.SecurityConfig
    // Config.SessionkeyConfig
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 38, 39, 2, 40, 0, 0, 0, 0, // DeviceUIConfig
    0, 0, 0, 0, 0, 2, 0, // NodeFilter
    0, 0, 0, 0, 2, // NodeHighlight
    41, 2, 0, // Map
    0, 0, 0, // GeoPoint
    2, 5, 2, 0, // LogRecord
    44, 46, 47, 48, 49, 50, 51, 52, 53, 55, 56, 57, 58, 59, 60, 61, 62, // ModuleConfig
    0, 2, 2, 2, 0, 0, 0, 2, 0, 0, 45, // ModuleConfig.MQTTConfig
    0, 0, 0, // ModuleConfig.MapReportSettings
    0, 0, 0, 0, 0, 0, 0, 0, // ModuleConfig.SerialConfig
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // ModuleConfig.ExternalNotificationConfig
    0, 0, 0, 0, 0, 0, // ModuleConfig.StoreForwardConfig
    0, 0, 0, 0, // ModuleConfig.RangeTestConfig
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // ModuleConfig.TelemetryConfig
    0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, // ModuleConfig.CannedMessageConfig
    0, 0, 0, 0, 0, 0, 0, // ModuleConfig.AudioConfig
    0, 0, 54, // ModuleConfig.RemoteHardwareConfig
    0, 2, 0, // RemoteHardwarePin
    0, 0, 0, // ModuleConfig.NeighborInfoConfig
    0, 0, 0, 0, 0, // ModuleConfig.AmbientLightingConfig
    0, 0, 0, 0, 2, 0, 0, 0, // ModuleConfig.DetectionSensorConfig
    0, 0, 0, 0, // ModuleConfig.PaxcounterConfig
    2, // ModuleConfig.StatusMessageConfig
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // ModuleConfig.TrafficManagementConfig
    0, 0, // ModuleConfig.TAKConfig
    0, 7, 7, 2, 63, 0, 0, 7, 7, 7, 0, 7, 65, // ModuleConfig.MeshBeaconConfig
    0, 2, 2, 5, 0, 0, 64, // ChannelSettings
    0, 0, // ModuleSettings
    0, 0, 7, 0, // ModuleConfig.MeshBeaconConfig.BroadcastTarget
    0, 63, 0, // Channel
    0, 0, 0, 2, // XModem
    2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, // DeviceMetadata
    2, 2, 2, 0, // MqttClientProxyMessage
    2, 0, // FileInfo
    0, 5, 0, 2, 7, 7, 7, 7, 7, 7, 72, 73, 74, 75, 76, // ClientNotification
    0, 2, 0, // KeyVerificationNumberInform
    0, 2, // KeyVerificationNumberRequest
    0, 2, 0, 2, // KeyVerificationFinal
    // DuplicatedPublicKey
    // LowEntropyKey
    0, 2, 0, 0, 0, // LockdownStatus
    79, 80, // LoRaRegionPresetMap
    15, 0, 0, // LoRaPresetGroup
    0, 0, // LoRaRegionPresets
    0, // Heartbeat
];

/// Where each row begins in `KINDS`, and where the last one ends.
#[rustfmt::skip]
pub(super) static ROWS: [u16; 67] = [
    0, 19, 26, 48, 58, 73, 77, 91, 100, 123, 128, 138, 151, 164, 196, 207, 211, 225, 332, 335, 343, 343, 362, 369, 374, 377, 380, 384, 401, 412, 415, 423, 438, 444, 448, 463, 474, 481, 484, 487, 490, 495, 503, 507, 508, 522, 524, 537, 544, 546, 550, 553, 557, 571, 575, 577, 592, 595, 597, 601, 601, 601, 606, 608, 611, 613, 614,
];
