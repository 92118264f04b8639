//! The shapes of what passes through the gateway by itself: `relays`. Templates are still texts here.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::scalar::{OnOff, Plain};

/// `relays`, by name.
pub type Relays = IndexMap<String, Relay>;

/// Messages of topics, or readings of a point, passed on.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Relay {
    /// A topic, with wildcards if need be; or `{point: NAME}`.
    pub from: RelayFrom,
    /// A topic, `{{ … }}` is filled in; or `{set: NAME}`.
    pub to: RelayTo,
    /// What goes out; `payload`, `topic`, `value` and points are known. Default: the payload's bytes.
    #[serde(default)]
    pub payload: Option<Plain>,
    /// What must hold: an expression over `payload`, `topic`, `value` and points.
    #[serde(default)]
    pub when: Option<String>,
    /// Delivery, 0 to 2; default 1.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2))]
    pub qos: Option<u8>,
    /// Whether the broker keeps what goes out; default no.
    #[serde(default)]
    pub retain: Option<OnOff>,
}

/// Where a relay takes from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RelayFrom {
    /// A topic, with wildcards if need be.
    Topic(String),
    /// The readings of a point.
    Point(FromPoint),
}

/// The readings of a point.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct FromPoint {
    /// `door`, `weather.temperature`.
    pub point: String,
}

/// Where a relay gives to.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RelayTo {
    /// A topic.
    Topic(String),
    /// An output or a writable point.
    Set(ToPoint),
}

/// An output or a writable point.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct ToPoint {
    /// `pump`, `meter.limit`.
    pub set: String,
}
