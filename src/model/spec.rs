//! Devices and points as they will run: nothing missing, nothing in conflict.

use std::fmt;
use std::time::Duration;

use super::{DeviceId, OutputLimits, PointId, Qos};

/// What is kept of a point while the broker is away, whatever its qos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Deliver {
    /// Every reading.
    #[default]
    All,
    /// The latest reading.
    Latest,
    /// Nothing.
    None,
}

/// Who goes first, and who is dropped last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub enum Priority {
    /// Dropped first, sent last.
    Bulk,
    /// Readings.
    #[default]
    Normal,
    /// Dropped last.
    Alarm,
    /// The bridge's own words: birth, availability, outcomes, gaps.
    Control,
}

impl Priority {
    /// What the priority of this rank (its number in the order above) is called.
    pub fn word(rank: u8) -> &'static str {
        ["bulk", "normal", "alarm"].get(usize::from(rank)).unwrap_or(&"control")
    }
}

/// How a reading is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PayloadFormat {
    /// The bare value.
    #[default]
    Plain,
    /// `{"value":…,"time":…,"seq":…,"quality":…}`.
    Json,
    /// The same map in CBOR (RFC 8949); bytes stay bytes.
    Cbor,
}

/// Several readings in one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its topic.
    pub topic: String,
    /// How long the first reading waits for others.
    pub every: Duration,
    /// With how many it goes before that.
    pub max: u16,
}

/// One point, complete.
#[derive(Debug, Clone, PartialEq)]
pub struct PointSpec {
    /// Its handle.
    pub id: PointId,
    /// Its device.
    pub device: DeviceId,
    /// Its name within the device.
    pub name: String,
    /// Full topic of its readings.
    pub topic: String,
    /// Delivery of its readings.
    pub qos: Qos,
    /// Whether the broker keeps the last reading.
    pub retain: bool,
    /// What is kept while offline.
    pub deliver: Deliver,
    /// Importance.
    pub priority: Priority,
    /// Age after which a waiting reading is worth nothing.
    pub expiry: Option<Duration>,
    /// How it is written.
    pub payload: PayloadFormat,
    /// Whether a template of the user's own writes it, so that only the user knows how to read it.
    pub own_payload: bool,
    /// Where its readings go together with others; on its own topic nothing is published then.
    pub batch: Option<Batch>,
    /// Word for true.
    pub payload_on: String,
    /// Word for false.
    pub payload_off: String,
    /// Unit, for people.
    pub unit: Option<String>,
    /// Home Assistant's class, for people.
    pub device_class: Option<String>,
    /// Whether it holds a state that lasts, worth repeating when a broker comes back without its memory.
    pub stateful: bool,
}

/// One device, complete.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceSpec {
    /// Its handle.
    pub id: DeviceId,
    /// Its name.
    pub name: String,
    /// Its kind's name.
    pub kind: &'static str,
    /// Its points.
    pub points: Vec<PointId>,
    /// The verbs it obeys: `set`, `pulse`, `send` …; `get` where it has points.
    pub verbs: Vec<String>,
    /// Those of them that are its kind's own: what they take is judged before the device is asked.
    pub own: Vec<VerbSpec>,
    /// The limits of its output, where it is one.
    pub output: Option<OutputLimits>,
}

/// A verb of a kind's own, or `set` of a point that is no output; it comes to the device as
/// [`super::Action::Verb`].
#[derive(Debug, Clone, PartialEq)]
pub struct VerbSpec {
    /// Its word.
    pub verb: String,
    /// The point it is said to: its place among the device's points; `None`: said to the device.
    pub point: Option<usize>,
    /// What it takes.
    pub takes: Takes,
    /// How long it may take once it was begun; counted on top of the time that any command may wait for its turn.
    pub time: Duration,
}

/// What a verb takes.
#[derive(Debug, Clone, PartialEq)]
pub enum Takes {
    /// Whatever comes.
    Anything,
    /// Nothing: what comes is not looked at.
    Nothing,
    /// A finite number within these bounds, both included.
    Number {
        /// The least.
        min: Option<f64>,
        /// The greatest.
        max: Option<f64>,
    },
    /// Text without control characters, of so many characters.
    Text {
        /// The fewest.
        min: usize,
        /// The most.
        max: usize,
    },
    /// ON or OFF.
    Bool,
    /// One of these words.
    Choice(Vec<String>),
}

impl fmt::Display for Takes {
    /// `a number from 5 to 30`, `one of auto, manual`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Takes::Anything => f.write_str("anything"),
            Takes::Nothing => f.write_str("nothing"),
            Takes::Number { min: Some(min), max: Some(max) } => write!(f, "a number from {min} to {max}"),
            Takes::Number { min: Some(min), max: None } => write!(f, "a number from {min}"),
            Takes::Number { min: None, max: Some(max) } => write!(f, "a number up to {max}"),
            Takes::Number { min: None, max: None } => f.write_str("a number"),
            Takes::Text { min, max } => write!(f, "a text of {min} to {max} characters"),
            Takes::Bool => f.write_str("ON or OFF"),
            Takes::Choice(words) => write!(f, "one of {}", words.join(", ")),
        }
    }
}
