//! Generated from `proto/proto` by `cargo run -p meshbeat-tests --bin generate`; do not edit.
//!
//! A row per message, a byte per field number from 1 on: its kind, or `MESSAGE` plus the row
//! of the message it holds.

pub(super) const FROM_RADIO: u8 = 0;
pub(super) const TO_RADIO: u8 = 64;
/// The highest field number of a variant of `FromRadio`.
pub(super) const LAST_VARIANT: u32 = 19;

/// What may stand in a field.
pub(super) mod kind {
    pub(in crate::peek) const UNKNOWN: u8 = 0;
    pub(in crate::peek) const VARINT: u8 = 1;
    pub(in crate::peek) const FIXED64: u8 = 2;
    pub(in crate::peek) const BYTES: u8 = 3;
    pub(in crate::peek) const FIXED32: u8 = 4;
    /// Repeated: packed or one by one.
    pub(in crate::peek) const VARINTS: u8 = 5;
    /// Repeated: packed or one by one.
    pub(in crate::peek) const FIXED32S: u8 = 6;
    pub(in crate::peek) const MESSAGE: u8 = 16;
}

#[rustfmt::skip]
pub(super) static MESSAGES: [&[u8]; 66] = [
    &[1, 17, 19, 20, 24, 40, 1, 1, 41, 64, 65, 66, 67, 68, 69, 70, 35, 76, 77], // FromRadio
    &[4, 4, 1, 18, 3, 4, 4, 4, 1, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1, 1, 1, 1], // MeshPacket
    &[1, 3, 1, 4, 4, 4, 4, 4, 1, 3], // Data
    &[1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 3, 3, 1, 1], // MyNodeInfo
    &[1, 21, 22, 4, 4, 23, 1, 1, 1, 1, 1, 1, 1, 1], // NodeInfo
    &[3, 3, 3, 3, 1, 1, 1, 3, 1], // User
    &[4, 4, 1, 4, 1, 1, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], // Position
    &[1, 4, 4, 4, 1], // DeviceMetrics
    &[25, 26, 27, 28, 30, 31, 32, 33, 34, 35], // Config
    &[1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 3, 1, 1], // Config.DeviceConfig
    &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], // Config.PositionConfig
    &[1, 1, 4, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], // Config.PowerConfig
    &[1, 0, 3, 3, 3, 1, 1, 29, 3, 1, 1], // Config.NetworkConfig
    &[4, 4, 4, 4], // Config.NetworkConfig.IpV4Config
    &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], // Config.DisplayConfig
    &[1, 1, 1, 1, 1, 4, 1, 1, 1, 1, 1, 1, 1, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 1, 1, 1, 1], // Config.LoRaConfig
    &[1, 1, 1], // Config.BluetoothConfig
    &[3, 3, 3, 1, 1, 1, 0, 1], // Config.SecurityConfig
    &[], // Config.SessionkeyConfig
    &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 36, 37, 3, 38, 1, 1, 1, 1], // DeviceUIConfig
    &[1, 1, 1, 1, 1, 3, 1], // NodeFilter
    &[1, 1, 1, 1, 3], // NodeHighlight
    &[39, 3, 1], // Map
    &[1, 1, 1], // GeoPoint
    &[3, 4, 3, 1], // LogRecord
    &[42, 44, 45, 46, 47, 48, 49, 50, 51, 53, 54, 55, 56, 57, 58, 59, 60], // ModuleConfig
    &[1, 3, 3, 3, 1, 1, 1, 3, 1, 1, 43], // ModuleConfig.MQTTConfig
    &[1, 1, 1], // ModuleConfig.MapReportSettings
    &[1, 1, 1, 1, 1, 1, 1, 1], // ModuleConfig.SerialConfig
    &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], // ModuleConfig.ExternalNotificationConfig
    &[1, 1, 1, 1, 1, 1], // ModuleConfig.StoreForwardConfig
    &[1, 1, 1, 1], // ModuleConfig.RangeTestConfig
    &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], // ModuleConfig.TelemetryConfig
    &[1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 1], // ModuleConfig.CannedMessageConfig
    &[1, 1, 1, 1, 1, 1, 1], // ModuleConfig.AudioConfig
    &[1, 1, 52], // ModuleConfig.RemoteHardwareConfig
    &[1, 3, 1], // RemoteHardwarePin
    &[1, 1, 1], // ModuleConfig.NeighborInfoConfig
    &[1, 1, 1, 1, 1], // ModuleConfig.AmbientLightingConfig
    &[1, 1, 1, 1, 3, 1, 1, 1], // ModuleConfig.DetectionSensorConfig
    &[1, 1, 1, 1], // ModuleConfig.PaxcounterConfig
    &[3], // ModuleConfig.StatusMessageConfig
    &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], // ModuleConfig.TrafficManagementConfig
    &[1, 1], // ModuleConfig.TAKConfig
    &[1, 0, 0, 3, 61, 1, 1, 0, 0, 0, 1, 0, 63], // ModuleConfig.MeshBeaconConfig
    &[1, 3, 3, 4, 1, 1, 62], // ChannelSettings
    &[1, 1], // ModuleSettings
    &[1, 1, 0, 1], // ModuleConfig.MeshBeaconConfig.BroadcastTarget
    &[1, 61, 1], // Channel
    &[1, 1, 1, 1], // QueueStatus
    &[1, 1, 1, 3], // XModem
    &[3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1], // DeviceMetadata
    &[3, 3, 3, 1], // MqttClientProxyMessage
    &[3, 1], // FileInfo
    &[1, 4, 1, 3, 0, 0, 0, 0, 0, 0, 71, 72, 73, 74, 75], // ClientNotification
    &[1, 3, 1], // KeyVerificationNumberInform
    &[1, 3], // KeyVerificationNumberRequest
    &[1, 3, 1, 3], // KeyVerificationFinal
    &[], // DuplicatedPublicKey
    &[], // LowEntropyKey
    &[1, 3, 1, 1, 1], // LockdownStatus
    &[78, 79], // LoRaRegionPresetMap
    &[5, 1, 1], // LoRaPresetGroup
    &[1, 1], // LoRaRegionPresets
    &[17, 0, 1, 1, 66, 68, 81], // ToRadio
    &[1], // Heartbeat
];
