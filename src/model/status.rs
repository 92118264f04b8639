//! How a device is doing.

/// Whether a device can be believed and commanded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeviceStatus {
    /// Works.
    #[default]
    Online,
    /// Does not, and why.
    Offline(String),
}

impl DeviceStatus {
    /// `online` or `offline`, the availability payload.
    pub fn word(&self) -> &'static str {
        match self {
            DeviceStatus::Online => "online",
            DeviceStatus::Offline(_) => "offline",
        }
    }
}

/// What `bridge/health` counts per device, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceCounters {
    /// Good frames.
    pub frames: u64,
    /// Frames refused: cut, checked or decoded wrongly.
    pub bad_frames: u64,
    /// Bytes that belonged to no frame.
    pub dropped_bytes: u64,
    /// Readings handed on.
    pub readings: u64,
    /// Errors of the hardware: failed reads, writes, opens, lost edges.
    pub errors: u64,
}
