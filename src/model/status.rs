//! How a device is doing.

/// Whether a device can be believed and commanded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeviceStatus {
    /// Works.
    #[default]
    Online,
    /// Does not, and why.
    Offline(String),
    /// Says nothing, though the line to it is there, and why that is worth saying. What it said holds no more, but it
    /// may still be asked: it may answer again.
    Silent(String),
}

impl DeviceStatus {
    /// `online` or `offline`, the availability payload.
    pub fn word(&self) -> &'static str {
        match self {
            DeviceStatus::Online => "online",
            DeviceStatus::Offline(_) | DeviceStatus::Silent(_) => "offline",
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
    /// Requests that got no answer in time.
    pub missed: u64,
    /// Answers that came when nobody waited for them any more.
    pub late: u64,
    /// Edges of input pins.
    pub edges: u64,
    /// Edges that the kernel or the daemon could not keep; also counted as errors.
    pub lost_edges: u64,
    /// Moves of an encoder that cannot be: an edge between was missed or bounced.
    pub illegal_moves: u64,
    /// How often a pin had more edges than it may.
    pub storms: u64,
    /// Whether it has them now.
    pub flooding: bool,
}
